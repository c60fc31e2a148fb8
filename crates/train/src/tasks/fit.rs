use regard_models::{DecoderConfig, EncoderConfig, EncoderInput, Head, ImageConfig, ModelConfig};

use super::{Form, FormInput, Task};
use crate::{Error, Result};

impl Task {
    /// Puts into a model's configuration what the task decides and the file has left out: tokens, length, classes and the like.
    ///
    /// # Errors
    /// If the model is of a kind that cannot learn the task, or its configuration says something else.
    pub fn fit(&self, model: &mut ModelConfig) -> Result<()> {
        match (self.form(), model) {
            (None, ModelConfig::Decoder(DecoderConfig { vocab, .. })) => fill("model.vocab", vocab, self.vocab())?,
            (Some(Form { input: FormInput::Steps { input, length }, head }), ModelConfig::Encoder(config)) => {
                let EncoderConfig { input: own_input, length: own_length, head: own_head, .. } = config;
                agree("model.input", own_input.get_or_insert(input), &input)?;
                agree("model.head", own_head.get_or_insert(head), &head)?;
                fill("model.length", own_length, length)?;
            }
            (
                Some(Form { input: FormInput::Steps { input: EncoderInput::Numbers { width }, length }, head: Head::Classes { classes } }),
                ModelConfig::FlowformerSeries(config),
            ) => {
                fill("model.features", &mut config.features, width)?;
                fill("model.length", &mut config.length, length)?;
                fill("model.classes", &mut config.classes, classes)?;
            }
            (Some(Form { input: FormInput::Image { channels, height, width }, head }), ModelConfig::FlowformerVision(config)) => {
                let Head::Classes { classes } = head else { unreachable!("images have classes") };
                if height != width {
                    return Err(Error::value("data.source", "a set of square images for this model", format!("{height} × {width} pixels")));
                }
                fill("model.image", &mut config.image, height)?;
                fill("model.channels", &mut config.channels, channels)?;
                fill("model.classes", &mut config.classes, classes)?;
            }
            (Some(Form { input: FormInput::Image { channels, height, width }, head }), ModelConfig::Image(config)) => {
                let Head::Classes { classes } = head else { unreachable!("images have classes") };
                let image = [height, width];
                if config.image == [0, 0] {
                    config.image = image;
                }
                agree("model.image", &config.image, &image)?;
                fill("model.channels", &mut config.channels, channels)?;
                fill("model.classes", &mut config.classes, classes)?;
                if config.patch == 0 {
                    config.patch = ImageConfig::usual_patch(image);
                }
            }
            (None, model) => return Err(Error::value("model.kind", "`decoder` for this task", model.kind())),
            (Some(Form { input: FormInput::Steps { .. }, .. }), model) => {
                return Err(Error::value("model.kind", "`encoder` for this task", model.kind()));
            }
            (Some(_), model) => {
                return Err(Error::value("model.kind", "`image` or `flowformer_vision` for images, or `task.view` `pixels`", model.kind()));
            }
        }
        Ok(())
    }
}

/// Sets a size that the file has left out; one that it gives must be that of the task.
fn fill(key: &'static str, own: &mut usize, wanted: usize) -> Result<()> {
    if *own == 0 {
        *own = wanted;
    }
    if *own == wanted { Ok(()) } else { Err(Error::value(key, format!("{wanted}, as in the task, or left out"), *own)) }
}

fn agree<T: PartialEq + std::fmt::Debug>(key: &'static str, own: &T, wanted: &T) -> Result<()> {
    if own == wanted { Ok(()) } else { Err(Error::value(key, format!("{wanted:?}, as in the task, or left out"), format!("{own:?}"))) }
}
