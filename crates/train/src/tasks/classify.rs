use std::sync::Arc;

use regard_models::{EncoderInput, Head};
use serde::{Deserialize, Serialize};

use super::{
    augment::{Augment, AugmentConfig, Picture, mixed},
    batch::{Order, generator},
    examples::{Examples, Form, FormInput, Source, Targets, shuffled},
};
use crate::{
    Error, Result, Split,
    data::{DataConfig, ImageSet, Images, Scene, load_images},
};

/// How an image is shown to a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// As a sequence of its gray pixels, row by row, each one of 256 tokens: the image task of the Long Range Arena.
    #[default]
    Pixels,
    /// As an image, its bytes mapped to [−1, 1].
    Image,
}

/// Telling images apart. The images are the section `data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifyConfig {
    /// How a model sees an image.
    #[serde(default)]
    pub view: View,
    /// Height and width that images in files are brought to: the shorter side is scaled to it, the middle cut out. By default they stay as
    /// they are, and must be of one size; those of `clothing-small` become 64 × 64 pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Height and width of the squares of pixels that are made one by their mean; 1 leaves the images as they are.
    #[serde(default = "one")]
    pub shrink: usize,
    /// How training images are changed, a table or `"usual"`; by default they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
}

fn one() -> usize {
    1
}

impl Default for ClassifyConfig {
    fn default() -> Self {
        Self { view: View::default(), size: None, shrink: one(), augment: None }
    }
}

/// The size of images of a data set that has many.
fn usual_size(data: &str) -> Option<usize> {
    (data == "clothing-small").then_some(64)
}

/// Images with their classes.
#[derive(Clone, Debug)]
pub struct Classify {
    view: View,
    /// Channels, rows and columns as a model sees them.
    shape: [usize; 3],
    classes: usize,
    pictures: Pictures,
    augment: AugmentConfig,
}

/// Where the images come from.
#[derive(Clone, Debug)]
enum Pictures {
    Files(Arc<Images>),
    /// Drawn as they are asked for, and shrunk.
    Drawn(Scene, usize),
}

impl Classify {
    /// # Errors
    /// If the images cannot be read, `shrink` does not divide their size, or a number of `augment` is outside its range.
    pub(super) fn new(config: &ClassifyConfig, data: &DataConfig) -> Result<Self> {
        for (key, size) in [("task.shrink", config.shrink), ("task.size", config.size.unwrap_or(1))] {
            if size == 0 {
                return Err(Error::value(key, "at least 1", 0));
            }
        }
        if data.tokenizer.is_some() {
            return Err(Error::value("data.tokenizer", "left out: images have none", "given"));
        }
        if let Some(scene) = Scene::named(&data.source) {
            return Self::drawn(config, scene, &data.source);
        }
        let mut images = load_images(&data.source, data.valid_fraction, config.size.or_else(|| usual_size(&data.source)))?;
        let shape = [images.channels, images.height, images.width];
        let seen = seen(config, shape)?;
        for set in [Some(&mut images.train), Some(&mut images.valid), images.test.as_mut()].into_iter().flatten() {
            *set = prepare(set, shape, seen[0] < shape[0], config.shrink);
        }
        let size = [seen[1], seen[2]];
        let augment = config.augment.as_ref().map(|augment| augment.resolve(&data.source, size[0].min(size[1]))).unwrap_or_default();
        augment.check(size)?;
        let classes = images.classes;
        Ok(Self { view: config.view, shape: seen, classes, pictures: Pictures::Files(Arc::new(images)), augment })
    }

    fn drawn(config: &ClassifyConfig, scene: Scene, name: &str) -> Result<Self> {
        for (key, given) in [("task.size", config.size.is_some()), ("task.augment", config.augment.is_some())] {
            if given {
                return Err(Error::value(key, format!("left out: the images of `{name}` are drawn"), "given"));
            }
        }
        let shape = seen(config, scene.shape())?;
        let pictures = Pictures::Drawn(scene, config.shrink);
        Ok(Self { view: config.view, shape, classes: scene.classes(), pictures, augment: AugmentConfig::default() })
    }

    /// Whether there are as many images as one likes.
    pub(super) fn is_endless(&self) -> bool {
        matches!(self.pictures, Pictures::Drawn(..))
    }

    /// Adds an image as the model sees it.
    fn show(&self, image: &[u8], class: u8, examples: &mut Examples) {
        match self.view {
            View::Pixels => examples.push_tokens(&image.iter().map(|p| u32::from(*p)).collect::<Vec<_>>(), u32::from(class)),
            View::Image => examples.push_numbers(image.iter().map(|p| f32::from(*p) / 127.5 - 1.0), u32::from(class)),
        }
    }
}

/// The shape in which a model sees images of a shape.
fn seen(config: &ClassifyConfig, [channels, height, width]: [usize; 3]) -> Result<[usize; 3]> {
    let by = config.shrink;
    if !height.is_multiple_of(by) || !width.is_multiple_of(by) {
        return Err(Error::value("task.shrink", format!("a divisor of the size {height} × {width} of the images"), by));
    }
    Ok([if config.view == View::Pixels { 1 } else { channels }, height / by, width / by])
}

fn split(images: &Images, split: Split) -> Result<&ImageSet> {
    match split {
        Split::Train => Ok(&images.train),
        Split::Valid => Ok(&images.valid),
        Split::Test => images.test.as_ref().ok_or_else(|| Error::value("split", "one that the data has", "test")),
    }
}

/// Gray, smaller images, if so wanted.
fn prepare(set: &ImageSet, [channels, height, width]: [usize; 3], gray: bool, by: usize) -> ImageSet {
    if !gray && by == 1 {
        return set.clone();
    }
    let (area, mut pixels) = (height * width, Vec::new());
    for number in 0..set.labels.len() {
        let image = set.image(number);
        let value = |channel: usize, at: usize| f32::from(image[channel * area + at]);
        // ITU-R BT.601, as rgb_to_grayscale of TensorFlow, which the Long Range Arena uses.
        let read = |channel: usize, at: usize| {
            if gray { 0.2989 * value(0, at) + 0.587 * value(1, at) + 0.114 * value(2, at) } else { value(channel, at) }
        };
        for channel in 0..if gray { 1 } else { channels } {
            for y in (0..height).step_by(by) {
                for x in (0..width).step_by(by) {
                    let sum: f32 = (0..by * by).map(|i| read(channel, (y + i / by) * width + x + i % by)).sum();
                    pixels.push((sum / (by * by) as f32).round() as u8);
                }
            }
        }
    }
    ImageSet { pixels, labels: set.labels.clone() }
}

impl Source for Classify {
    fn form(&self) -> Form {
        let ([channels, height, width], classes) = (self.shape, self.classes);
        let input = match self.view {
            View::Pixels => FormInput::Steps { input: EncoderInput::Tokens { vocab: 256 }, length: height * width },
            View::Image => FormInput::Image { channels, height, width },
        };
        Form { input, head: Head::Classes { classes } }
    }

    fn count(&self, of: Split) -> Result<Option<usize>> {
        match &self.pictures {
            Pictures::Files(images) => split(images, of).map(|set| Some(set.labels.len())),
            Pictures::Drawn(..) => Ok(None),
        }
    }

    fn push(&self, of: Split, seed: u64, number: u64, examples: &mut Examples) {
        match &self.pictures {
            Pictures::Files(images) => {
                let set = split(images, of).expect("its examples were counted");
                self.show(set.image(number as usize), set.labels[number as usize], examples);
            }
            Pictures::Drawn(scene, shrink) => {
                let (pixels, class) = scene.draw(&mut generator(seed, number));
                let (shape, one) = (scene.shape(), ImageSet { pixels, labels: vec![class] });
                self.show(&prepare(&one, shape, self.shape[0] < shape[0], *shrink).pixels, class, examples);
            }
        }
    }

    fn batch(&self, order: &Order, numbers: impl Iterator<Item = u64>) -> Examples {
        let mut examples = self.none();
        let train = match &self.pictures {
            Pictures::Files(images) => &images.train,
            Pictures::Drawn(..) => {
                numbers.for_each(|number| self.push(Split::Train, order.seed, number, &mut examples));
                return examples;
            }
        };
        if self.augment.shares() {
            examples.targets = Targets::Shares { values: Vec::new(), classes: self.classes };
        }
        let count = train.labels.len() as u64;
        let picture = |number: u64| {
            let pixels = train.image(number as usize).to_vec();
            (Picture { pixels, shape: self.shape }, train.labels[number as usize])
        };
        for number in numbers {
            let index = shuffled(order.seed, number, count);
            if self.augment.is_off() {
                self.push(Split::Train, order.seed, index, &mut examples);
                continue;
            }
            // The draws are those of the sequence's number, not of the image's: it is another one in the next epoch.
            let mixed = mixed(&self.augment, index, count, picture, &mut generator(order.seed, number));
            self.show(&mixed.picture.pixels, mixed.classes[0].0, &mut examples);
            examples.push_shares(&mixed.classes, self.augment.smoothing as f32);
        }
        examples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gray_is_the_weighted_mean_of_the_colours_and_shrinking_the_mean_of_squares() {
        // A 2 × 2 image: red, green, blue and white.
        let pixels = vec![255, 0, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255];
        let set = ImageSet { pixels, labels: vec![7] };
        let gray = prepare(&set, [3, 2, 2], true, 1);
        assert_eq!((gray.pixels, gray.labels), (vec![76, 150, 29, 255], vec![7]));
        assert_eq!(prepare(&set, [3, 2, 2], true, 2).pixels, [127]);
        assert_eq!(prepare(&set, [3, 2, 2], false, 2).pixels, [128, 128, 128]);
        assert_eq!(prepare(&set, [3, 2, 2], false, 1), set);
    }
}
