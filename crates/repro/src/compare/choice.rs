use std::{fmt, str::FromStr};

use regard::MixerConfig;
use regard_models::MapMixerConfig;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The size of the models that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Width D.
    pub d_model: usize,
    /// Number of layers L.
    pub layers: usize,
    /// Heads H of each mixer.
    pub heads: usize,
}

impl Size {
    /// Two layers of width 64: a few minutes on a laptop.
    pub const TINY: Self = Self { d_model: 64, layers: 2, heads: 2 };
    /// Four layers of width 128: nanoGPT's setting for a CPU.
    pub const SMALL: Self = Self { d_model: 128, layers: 4, heads: 4 };
}

impl FromStr for Size {
    type Err = Error;

    /// Reads `tiny`, `small`, or `D=128,L=4` with or without `,H=4`; without, heads are 32 wide.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::value("size", "`tiny`, `small`, or like `D=128,L=4` or `D=128,L=4,H=8`", text);
        match text {
            "tiny" => return Ok(Self::TINY),
            "small" => return Ok(Self::SMALL),
            _ => {}
        }
        let (mut width, mut layers, mut heads) = (None, None, None);
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let place = match name.trim() {
                "D" => &mut width,
                "L" => &mut layers,
                "H" => &mut heads,
                _ => return Err(wrong()),
            };
            let value: usize = value.trim().parse().map_err(|_| wrong())?;
            if value == 0 || place.replace(value).is_some() {
                return Err(wrong());
            }
        }
        let (Some(d_model), Some(layers)) = (width, layers) else { return Err(wrong()) };
        let heads = heads.unwrap_or_else(|| (1..=(d_model / 32).max(1)).rev().find(|h| d_model.is_multiple_of(*h)).unwrap_or(1));
        Ok(Self { d_model, layers, heads })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "D={},L={},H={}", self.d_model, self.layers, self.heads)
    }
}

/// How much every candidate may train.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Seconds for the whole comparison: all candidates, all seeds, evaluations and measurements. Everyone gets the number of steps
    /// that fits.
    Seconds(f64),
    /// Steps of each run.
    Steps(usize),
    /// Training tokens of each run, rounded up to whole steps.
    Tokens(usize),
}

impl FromStr for Budget {
    type Err = Error;

    /// Reads a time such as `2m`, `90s` or `1h30m`, or `steps=500`, or `tokens=2M`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::value("budget", "a time like `2m` or `1h30m`, or `steps=500`, or `tokens=2M`", text);
        let budget = match text.split_once('=') {
            Some(("steps", count)) => Self::Steps(parse_count(count).ok_or_else(wrong)?),
            Some(("tokens", count)) => Self::Tokens(parse_count(count).ok_or_else(wrong)?),
            Some(_) => return Err(wrong()),
            None => Self::Seconds(parse_seconds(text).ok_or_else(wrong)?),
        };
        budget.check().map_err(|_| wrong())?;
        Ok(budget)
    }
}

impl Budget {
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Steps(0) | Self::Tokens(0) => Err(Error::value("budget", "at least 1", 0)),
            Self::Seconds(s) if !(s > 0.0 && s.is_finite()) => Err(Error::value("budget", "a positive time", s)),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => write!(f, "{seconds}s"),
            Self::Steps(steps) => write!(f, "steps={steps}"),
            Self::Tokens(tokens) => write!(f, "tokens={tokens}"),
        }
    }
}

/// A count such as `500`, `20k`, `1.5M`.
fn parse_count(text: &str) -> Option<usize> {
    let text = text.trim().replace('_', "");
    let (number, unit) = match text.char_indices().last()? {
        (end, 'k' | 'K') => (&text[..end], 1e3),
        (end, 'M') => (&text[..end], 1e6),
        (end, 'G') => (&text[..end], 1e9),
        _ => (text.as_str(), 1.0),
    };
    let value: f64 = number.parse().ok()?;
    (value.is_finite() && value >= 0.0).then(|| (value * unit).round() as usize)
}

/// A time such as `90`, `90s`, `2m`, `1h30m`.
fn parse_seconds(text: &str) -> Option<f64> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse() {
        return Some(seconds);
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..end].parse().ok()?;
        let mut letters = rest[end..].chars();
        total += number
            * match letters.next()? {
                's' => 1.0,
                'm' => 60.0,
                'h' => 3600.0,
                _ => return None,
            };
        rest = letters.as_str();
    }
    (!text.trim().is_empty()).then_some(total)
}

/// One way to build the model: a mixer, or several repeated over the layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Its name in tables, and of its run folders.
    pub name: String,
    /// The mixers, as in [`DecoderConfig::mixers`](regard_models::DecoderConfig::mixers); for images, as in
    /// [`ImageConfig::mixers`](regard_models::ImageConfig::mixers).
    pub mixers: Vec<MapMixerConfig>,
}

impl Candidate {
    /// Softmax attention and the linear-time mechanisms that take its place.
    pub const USUAL: &[&str] = &["softmax", "lightning", "kimi_delta", "flow"];

    /// For images: a vision transformer, a ResNet, and layers over maps.
    pub const USUAL_IMAGES: &[&str] = &["vit", "resnet", "neighborhood", "window", "channel"];
    /// Whole networks for images by name, and the mixer that makes them.
    const NETWORKS: &[(&str, &str)] = &[("vit", "softmax"), ("resnet", "conv")];

    /// The candidate of a name: a kind of [`MixerConfig`], or several joined by `+`, each with a count or without, such as
    /// `3*kimi_delta+softmax`. The mixers have the defaults of their papers, and no positions but their own.
    ///
    /// # Errors
    /// If a kind is unknown or one of layers over maps, or a count is not a positive number.
    pub fn parse(name: &str, heads: usize) -> Result<Self> {
        Self::read(name, MixerConfig::KINDS, |kind| match MapMixerConfig::named(kind, heads) {
            Some(MapMixerConfig::Sequence(_)) => Ok(MixerConfig::named(kind, heads).map(Into::into)),
            Some(_) => Err(of_images(kind)),
            None => Ok(None),
        })
    }

    /// As [`parse`](Self::parse) for images: the kinds are those of [`MapMixerConfig`], or `vit` and `resnet`.
    ///
    /// # Errors
    /// If a kind is unknown or a count is not a positive number.
    pub fn parse_image(name: &str, heads: usize) -> Result<Self> {
        let networks: Vec<_> = Self::NETWORKS.iter().map(|(network, _)| *network).collect();
        Self::read(name, &[MapMixerConfig::KINDS, &networks].concat(), |kind| {
            let kind = Self::NETWORKS.iter().find(|(network, _)| *network == kind).map_or(kind, |(_, mixer)| mixer);
            Ok(MapMixerConfig::named(kind, heads))
        })
    }

    fn read(name: &str, kinds: &[&'static str], named: impl Fn(&str) -> Result<Option<MapMixerConfig>>) -> Result<Self> {
        let mut mixers = Vec::new();
        for part in name.split('+') {
            let (count, kind) = match part.split_once('*') {
                Some((count, kind)) => (count.trim().parse().ok().filter(|c| *c > 0), kind.trim()),
                None => (Some(1), part.trim()),
            };
            let count = count.ok_or_else(|| Error::value("mixers", "kinds with positive counts, as in `3*kimi_delta+softmax`", part))?;
            let mixer = named(kind)?.ok_or_else(|| Error::UnknownMixer {
                name: kind.into(),
                suggestion: regard_train::suggest::closest(kind, kinds.iter().copied()),
            })?;
            mixers.extend(std::iter::repeat_n(mixer, count));
        }
        Ok(Self { name: name.replace(' ', ""), mixers })
    }

    /// One candidate for each of [`Self::USUAL`].
    pub fn usual(heads: usize) -> Vec<Self> {
        Self::USUAL.iter().filter_map(|kind| Self::parse(kind, heads).ok()).collect()
    }

    /// One candidate for each of [`Self::USUAL_IMAGES`].
    pub fn usual_images(heads: usize) -> Vec<Self> {
        Self::USUAL_IMAGES.iter().filter_map(|kind| Self::parse_image(kind, heads).ok()).collect()
    }

    /// The mixers, all of them layers over sequences.
    ///
    /// # Errors
    /// If one is a layer over maps.
    pub(super) fn sequence_mixers(&self) -> Result<Vec<MixerConfig>> {
        self.mixers.iter().map(|mixer| mixer.sequence().cloned().ok_or_else(|| of_images(mixer.kind()))).collect()
    }

    /// The name as part of a path.
    pub(super) fn folder(&self) -> String {
        self.name.chars().map(|c| if c.is_ascii_alphanumeric() || "_-.+".contains(c) { c } else { '-' }).collect()
    }
}

fn of_images(kind: &str) -> Error {
    Error::value("mixers", "layers over sequences for this task", format!("`{kind}`, which is for images: the task `classify`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!("tiny".parse::<Size>().unwrap(), Size::TINY);
        assert_eq!("D=96,L=3".parse::<Size>().unwrap(), Size { d_model: 96, layers: 3, heads: 3 });
        assert_eq!("L=3, D=96, H=6".parse::<Size>().unwrap(), Size { d_model: 96, layers: 3, heads: 6 });
        assert_eq!(Size::SMALL.to_string().parse::<Size>().unwrap(), Size::SMALL);
        for wrong in ["large", "D=96", "D=0,L=2", "D=96,L=2,X=1", "D=96,D=96,L=2", "D=-1,L=2", ""] {
            assert!(wrong.parse::<Size>().unwrap_err().to_string().contains("must be `tiny`, `small`"), "{wrong}");
        }
    }

    #[test]
    fn budgets_are_read_and_written() {
        let cases = [
            ("2m", Budget::Seconds(120.0)),
            ("90", Budget::Seconds(90.0)),
            ("1h30m", Budget::Seconds(5400.0)),
            ("1.5m", Budget::Seconds(90.0)),
            ("steps=500", Budget::Steps(500)),
            ("tokens=2M", Budget::Tokens(2_000_000)),
            ("tokens=1.5k", Budget::Tokens(1500)),
        ];
        for (text, want) in cases {
            let budget: Budget = text.parse().unwrap();
            assert_eq!(budget, want);
            assert_eq!(budget.to_string().parse::<Budget>().unwrap(), want);
        }
        for wrong in ["", "0s", "2x", "steps=", "steps=0", "epochs=3", "m", "-5", "inf", "steps=-1"] {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_candidate_may_mix_kinds() {
        let candidate = Candidate::parse("3*softmax+softmax", 2).unwrap();
        assert_eq!((candidate.name.as_str(), candidate.mixers.len()), ("3*softmax+softmax", 4));
        assert_eq!(candidate.folder(), "3-softmax+softmax");
    }

    #[test]
    fn an_unknown_mixer_suggests_the_one_it_resembles() {
        let error = Candidate::parse("sofmax", 2).unwrap_err();
        assert_eq!(error.to_string(), "there is no mixer `sofmax`");
        assert_eq!(error.hint().unwrap(), "did you mean `softmax`?");
        assert!(Candidate::parse("0*softmax", 2).unwrap_err().to_string().contains("positive counts"));
        assert_eq!(Candidate::parse_image("reznet", 2).unwrap_err().hint().unwrap(), "did you mean `resnet`?");
    }

    #[test]
    fn images_have_layers_over_maps_and_over_sequences_and_networks_by_name() {
        let kinds = |name| Candidate::parse_image(name, 2).unwrap().mixers.iter().map(MapMixerConfig::kind).collect::<Vec<_>>();
        assert_eq!(kinds("vit"), ["softmax"]);
        assert_eq!(kinds("resnet+2*neighborhood"), ["conv", "neighborhood", "neighborhood"]);
        for kind in MapMixerConfig::KINDS {
            assert_eq!(kinds(kind), [*kind]);
        }
        let softmax = Candidate::parse_image("softmax", 2).unwrap().mixers;
        assert!(matches!(&softmax[0], MapMixerConfig::Sequence(MixerConfig::Softmax(config)) if config.rotary_base.is_none()));
        let error = Candidate::parse("softmax+halo", 2).unwrap_err().to_string();
        assert_eq!(error, "`mixers` must be layers over sequences for this task, got `halo`, which is for images: the task `classify`");
    }
}
