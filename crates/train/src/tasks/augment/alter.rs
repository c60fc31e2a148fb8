use serde::{Deserialize, Serialize};

use super::{Picture, geometry::warped};

/// An operation of RandAugment. Strengths are those of the paper: at magnitude 1 the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alteration {
    /// Nothing.
    Identity,
    /// The darkest value of each channel becomes black, the brightest white.
    AutoContrast,
    /// Values of each channel are spread so that all are about as frequent.
    Equalize,
    /// Turned about the middle by up to 30°.
    Rotate,
    /// Values above a threshold, down to 0, become their negatives.
    Solarize,
    /// More or less colour, up to 0.9 of it.
    Color,
    /// Fewer bits of each value: down to 4.
    Posterize,
    /// Farther from the mean brightness or nearer to it.
    Contrast,
    /// Brighter or darker.
    Brightness,
    /// Farther from the mean of 3 × 3 pixels or nearer to it.
    Sharpness,
    /// Rows moved against each other: by up to 0.3 pixels each.
    ShearX,
    /// Columns moved against each other.
    ShearY,
    /// Moved to the side by up to 0.45 of the width.
    TranslateX,
    /// Moved up or down by up to 0.45 of the height.
    TranslateY,
}

impl Alteration {
    /// All of them: the list of the paper.
    pub const ALL: [Self; 14] = [
        Self::Identity,
        Self::AutoContrast,
        Self::Equalize,
        Self::Rotate,
        Self::Solarize,
        Self::Color,
        Self::Posterize,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
    ];

    /// The altered image; `sign` is the direction of those that have one.
    pub(super) fn apply(self, picture: &Picture, magnitude: f64, sign: f64) -> Picture {
        let [_, rows, columns] = picture.shape;
        let signed = (magnitude * sign) as f32;
        let factor = 1.0 + 0.9 * signed;
        match self {
            Self::Identity => picture.clone(),
            Self::AutoContrast => by_plane(picture, stretched),
            Self::Equalize => by_plane(picture, equalized),
            Self::Rotate => {
                let (sin, cos) = (30.0 * signed).to_radians().sin_cos();
                warped(picture, [[cos, sin, 0.0], [-sin, cos, 0.0]])
            }
            Self::Solarize => {
                let threshold = 255.0 * (1.0 - magnitude);
                by_value(picture, |v| if f64::from(v) > threshold { 255 - v } else { v })
            }
            Self::Color => blended(picture, &gray(picture), factor),
            Self::Posterize => {
                let bits = 8 - (4.0 * magnitude).round() as u32;
                by_value(picture, |v| v & !((1_u16 << (8 - bits)) - 1) as u8)
            }
            Self::Contrast => {
                let gray = gray(picture);
                let mean = gray.iter().sum::<f32>() / gray.len() as f32;
                blended(picture, &vec![mean; picture.pixels.len()], factor)
            }
            Self::Brightness => blended(picture, &vec![0.0; picture.pixels.len()], factor),
            Self::Sharpness => blended(picture, &smooth(picture), factor),
            Self::ShearX => warped(picture, [[1.0, 0.0, 0.0], [0.3 * signed, 1.0, 0.0]]),
            Self::ShearY => warped(picture, [[1.0, 0.3 * signed, 0.0], [0.0, 1.0, 0.0]]),
            Self::TranslateX => warped(picture, [[1.0, 0.0, 0.0], [0.0, 1.0, (0.45 * signed * columns as f32).round()]]),
            Self::TranslateY => warped(picture, [[1.0, 0.0, (0.45 * signed * rows as f32).round()], [0.0, 1.0, 0.0]]),
        }
    }
}

fn by_value(picture: &Picture, f: impl Fn(u8) -> u8) -> Picture {
    picture.with(picture.pixels.iter().map(|v| f(*v)).collect())
}

/// Each channel by its own table of values.
fn by_plane(picture: &Picture, table: fn(&[u8]) -> [u8; 256]) -> Picture {
    let planes = picture.planes().flat_map(|plane| {
        let table = table(plane);
        plane.iter().map(move |v| table[usize::from(*v)])
    });
    picture.with(planes.collect())
}

fn stretched(plane: &[u8]) -> [u8; 256] {
    let (low, high) = plane.iter().fold((255, 0), |(low, high), v| (low.min(*v), high.max(*v)));
    let span = f32::from(high) - f32::from(low);
    std::array::from_fn(|v| if span > 0.0 { ((v as f32 - f32::from(low)) * 255.0 / span).round().clamp(0.0, 255.0) as u8 } else { v as u8 })
}

/// As the `equalize` of Pillow: the table of the running sums of the histogram.
fn equalized(plane: &[u8]) -> [u8; 256] {
    let mut counts = [0_usize; 256];
    for v in plane {
        counts[usize::from(*v)] += 1;
    }
    let last = counts.iter().rev().find(|count| **count > 0).copied().unwrap_or_default();
    let step = (plane.len() - last) / 255;
    if step == 0 {
        return std::array::from_fn(|v| v as u8);
    }
    let mut sum = step / 2;
    counts.map(|count| {
        let value = (sum / step).min(255) as u8;
        sum += count;
        value
    })
}

/// `other + factor (picture − other)`
fn blended(picture: &Picture, other: &[f32], factor: f32) -> Picture {
    let blend = |(v, other): (&u8, &f32)| (other + factor * (f32::from(*v) - other)).round().clamp(0.0, 255.0) as u8;
    picture.with(picture.pixels.iter().zip(other).map(blend).collect())
}

/// The brightness of each pixel in every channel (ITU-R BT.601); one channel is its own.
fn gray(picture: &Picture) -> Vec<f32> {
    let area = picture.shape[1] * picture.shape[2];
    let [red, green, blue] = match picture.planes().collect::<Vec<_>>().as_slice() {
        [red, green, blue] => [*red, *green, *blue],
        _ => return picture.pixels.iter().map(|v| f32::from(*v)).collect(),
    };
    let brightness = |i: usize| 0.299 * f32::from(red[i]) + 0.587 * f32::from(green[i]) + 0.114 * f32::from(blue[i]);
    (0..3).flat_map(|_| (0..area).map(brightness)).collect()
}

/// The mean of 3 × 3 pixels, the middle one five times, as the `SMOOTH` of Pillow; the border stays.
fn smooth(picture: &Picture) -> Vec<f32> {
    let [_, rows, columns] = picture.shape;
    let mut all = Vec::with_capacity(picture.pixels.len());
    for plane in picture.planes() {
        for y in 0..rows {
            for x in 0..columns {
                let own = f32::from(plane[y * columns + x]);
                let border = y == 0 || x == 0 || y + 1 == rows || x + 1 == columns;
                all.push(if border {
                    own
                } else {
                    let around = |i: usize| f32::from(plane[(y + i / 3 - 1) * columns + x + i % 3 - 1]);
                    ((0..9).map(around).sum::<f32>() + 4.0 * own) / 13.0
                });
            }
        }
    }
    all
}
