use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use super::Alteration;
use crate::{Error, Result};

/// How training images are changed: in a file a table, or `"usual"`.
#[derive(Clone, Debug, PartialEq)]
pub enum Augment {
    /// What is usual for the data set: [`AugmentConfig::usual`].
    Usual,
    /// As the table says.
    Custom(AugmentConfig),
}

impl Serialize for Augment {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Usual => serializer.serialize_str("usual"),
            Self::Custom(config) => config.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Augment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) if text == "usual" => Ok(Self::Usual),
            table @ Value::Object(_) => serde_path_to_error::deserialize(table)
                .map(Self::Custom)
                .map_err(|e| D::Error::custom(regard::in_place(&e.path().to_string(), &e.inner().to_string()))),
            other => Err(D::Error::custom(format!("must be a table or \"usual\", got {other}"))),
        }
    }
}

impl Augment {
    /// The numbers, for a data set and the shorter side of its images.
    pub(in crate::tasks) fn resolve(&self, data: &str, side: usize) -> AugmentConfig {
        match self {
            Self::Usual => AugmentConfig::usual(data, side),
            Self::Custom(config) => config.clone(),
        }
    }
}

/// How training images are changed; all of it is off by default. In this order: mirrors, cut, RandAugment, erasing; then two such images are
/// mixed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// Pixels of black around an image, from which one of its size is cut out at random; less than its sides.
    pub crop: usize,
    /// Probability that left and right change places.
    pub flip: f64,
    /// Probability that top and bottom change places.
    pub flip_vertical: f64,
    /// Alterations drawn from a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rand_augment: Option<RandAugment>,
    /// Probability that a rectangle of 2 to 33 % of the image becomes noise (Zhong et al. 2020, arXiv 1708.04896).
    pub erase: f64,
    /// α of the share Beta(α, α) of an image in its mean with another; 0 = no Mixup (Zhang et al. 2018, arXiv 1710.09412).
    pub mixup: f64,
    /// α of the share Beta(α, α) that stays of an image when a rectangle of another is put into it; 0 = no CutMix (Yun et al. 2019,
    /// arXiv 1905.04899). With Mixup, one of the two is drawn.
    pub cutmix: f64,
    /// Share ε of each target that is spread over all classes.
    pub smoothing: f64,
}

/// RandAugment (Cubuk et al. 2020, arXiv 1909.13719).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// Alterations one after another.
    pub count: usize,
    /// How strong they are, from 0 to 1; the paper's 9 of 30 is 0.3.
    pub magnitude: f64,
    /// What they are drawn from.
    pub operations: Vec<Alteration>,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { count: 2, magnitude: 0.3, operations: Alteration::ALL.to_vec() }
    }
}

impl AugmentConfig {
    /// What is usual for a data set, with `side` pixels as the shorter side of its images: digits keep their orientation, satellites look
    /// from above, photographs of few examples get RandAugment and label smoothing; anything else is mirrored and cut like CIFAR-10.
    pub fn usual(data: &str, side: usize) -> Self {
        let cut = Self { crop: (side / 8).min(side.saturating_sub(1)), ..Self::default() };
        match data {
            "mnist" => Self { crop: 2.min(cut.crop), ..cut },
            "fashion-mnist" => Self { crop: 2.min(cut.crop), flip: 0.5, ..cut },
            "eurosat-rgb" => Self { flip: 0.5, flip_vertical: 0.5, ..cut },
            "clothing-small" => Self { flip: 0.5, rand_augment: Some(RandAugment::default()), smoothing: 0.1, ..cut },
            _ => Self { flip: 0.5, ..cut },
        }
    }

    /// Whether images stay as they are, and each has one class.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// Whether targets are shares of several classes.
    pub(in crate::tasks) fn shares(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0 || self.smoothing > 0.0
    }

    /// # Errors
    /// If a number is outside its range, for images of these rows and columns.
    pub(in crate::tasks) fn check(&self, [rows, columns]: [usize; 2]) -> Result<()> {
        let probability = |value: f64| (0.0..=1.0).contains(&value);
        let strength = |value: f64| value >= 0.0 && value.is_finite();
        let rules = [
            ("task.augment.flip", self.flip, "from 0 to 1", probability(self.flip)),
            ("task.augment.flip_vertical", self.flip_vertical, "from 0 to 1", probability(self.flip_vertical)),
            ("task.augment.erase", self.erase, "from 0 to 1", probability(self.erase)),
            ("task.augment.mixup", self.mixup, "at least 0", strength(self.mixup)),
            ("task.augment.cutmix", self.cutmix, "at least 0", strength(self.cutmix)),
            ("task.augment.smoothing", self.smoothing, "from 0 to less than 1", (0.0..1.0).contains(&self.smoothing)),
        ];
        if let Some((key, value, rule, _)) = rules.into_iter().find(|rule| !rule.3) {
            return Err(Error::value(key, rule, value));
        }
        if self.crop >= rows.min(columns) {
            let rule = format!("less than the sides of the images, {rows} × {columns} pixels");
            return Err(Error::value("task.augment.crop", rule, self.crop));
        }
        let Some(RandAugment { magnitude, operations, .. }) = &self.rand_augment else { return Ok(()) };
        if !probability(*magnitude) {
            return Err(Error::value("task.augment.rand_augment.magnitude", "from 0 to 1", magnitude));
        }
        if operations.is_empty() {
            return Err(Error::value("task.augment.rand_augment.operations", "a list of at least one", "[]"));
        }
        Ok(())
    }
}
