//! Labelled images: IDX files as of MNIST, the binary files of CIFAR, and folders or tar archives of JPEG and PNG files, one folder per class.

mod cifar;
mod decode;
mod idx;
mod tree;

use std::path::{Path, PathBuf};

use super::lookup::{self, Source};
use crate::{Error, Result, tasks::shuffled};

/// Images of one size with their classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Channels C: 1 or 3.
    pub channels: usize,
    /// Rows Y.
    pub height: usize,
    /// Columns X.
    pub width: usize,
    /// Number of classes.
    pub classes: usize,
    /// Images to train on.
    pub train: ImageSet,
    /// Images to choose by: a share of those to train on, picked at random, always the same.
    pub valid: ImageSet,
    /// Images to report on, if the data set has some.
    pub test: Option<ImageSet>,
}

/// The images of a split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageSet {
    /// Bytes of the images, `[C, Y, X]` each.
    pub pixels: Vec<u8>,
    /// Their classes.
    pub labels: Vec<u8>,
}

impl ImageSet {
    /// The image of that number.
    pub fn image(&self, number: usize) -> &[u8] {
        let size = self.pixels.len() / self.labels.len().max(1);
        &self.pixels[number * size..(number + 1) * size]
    }
}

/// Images as they were read.
#[derive(Debug)]
struct Loaded {
    shape: [usize; 3],
    /// Number of classes that there may be.
    classes: usize,
    set: ImageSet,
}

/// Reads the images of a data set that is known by name, or of a folder:
///
/// - IDX files named as those of MNIST, gzipped or not;
/// - the binary files of CIFAR-10 (`data_batch_N.bin`, `test_batch.bin`) and CIFAR-100 (`train.bin`, `test.bin`, fine classes);
/// - JPEG and PNG files in folders named for their classes, in `train` and, if there is one, `test`, each a folder or a tar archive, gzipped
///   or not; or in one such folder or archive. Gray images become coloured ones, transparency is left out.
///
/// JPEG and PNG images must be of one size, unless there is a `size`: the shorter side is scaled to it, the middle cut out.
///
/// # Errors
/// If the source is unknown, missing, unreadable or holds something else than images, a file is damaged or of 16 bits, a class has no images,
/// sizes, labels or counts do not agree, or `size` is given for images that have one size by their format.
pub fn load_images(source: &str, valid_fraction: f64, size: Option<usize>) -> Result<Images> {
    super::check_fraction(valid_fraction)?;
    let path = match lookup::find(source)? {
        Source::Named { path, .. } | Source::Path(path) => path,
        Source::Embedded | Source::Drawn(_) => return Err(Error::value("data.source", "a data set of images in files", source)),
    };
    let (train, test) = read(&path, size)?;
    let [channels, height, width] = train.shape;
    if let Some(test) = test.as_ref().filter(|test| test.shape != train.shape) {
        let message = format!("the test images have the shape {:?}, the training images {:?}", test.shape, train.shape);
        return Err(Error::data(&path, message));
    }
    let classes = train.classes;
    if let Some(foreign) = test.as_ref().and_then(|test| test.set.labels.iter().find(|label| usize::from(**label) >= classes)) {
        return Err(Error::data(&path, format!("a test image has the class {foreign}, those to train on have 0 to {}", classes - 1)));
    }
    let (train, valid) = split(train.set, valid_fraction);
    if train.labels.is_empty() || valid.labels.is_empty() {
        return Err(Error::data(&path, format!("{} images are too few to train and to validate", train.labels.len() + valid.labels.len())));
    }
    Ok(Images { channels, height, width, classes, train, valid, test: test.map(|test| test.set) })
}

/// Training images and those to validate on.
fn split(all: ImageSet, fraction: f64) -> (ImageSet, ImageSet) {
    const SEED: u64 = 0x7370_6c69_7420_6974;
    let count = all.labels.len();
    let kept = ((1.0 - fraction) * count as f64) as usize;
    let (mut train, mut valid) = (ImageSet::default(), ImageSet::default());
    for number in 0..count {
        let from = shuffled(SEED, number as u64, count as u64) as usize;
        let to = if number < kept { &mut train } else { &mut valid };
        to.pixels.extend(all.image(from));
        to.labels.push(all.labels[from]);
    }
    (train, valid)
}

/// Training images, and those to report on, if there are some.
fn read(path: &Path, size: Option<usize>) -> Result<(Loaded, Option<Loaded>)> {
    let Some(sets) = idx::read_sets(path).or_else(|| cifar::read_sets(path)) else { return tree::read_sets(path, size) };
    match size {
        Some(size) => Err(Error::value("task.size", "left out: these images have one size by their format", size)),
        None => sets,
    }
}

/// The file of that name in a folder, gzipped or not, if there is one.
fn plain_or_gzipped(folder: &Path, name: &str) -> Option<PathBuf> {
    ["", ".gz"].map(|end| folder.join(format!("{name}{end}"))).into_iter().find(|p| p.is_file())
}

#[cfg(test)]
pub(super) mod tests;
