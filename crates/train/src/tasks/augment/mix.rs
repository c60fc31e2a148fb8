//! What puts something else into an image.

use std::ops::Range;

use rand::{Rng, RngExt};
use rand_distr::{Beta, Distribution};

use super::{AugmentConfig, Picture};

/// An image with the share of each of two classes in it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::tasks) struct Mixed {
    pub(in crate::tasks) picture: Picture,
    /// Classes with their shares, which sum to 1.
    pub(in crate::tasks) classes: [(u8, f32); 2],
}

/// Image number `number` as it is trained on this time: altered, and mixed with another of `count` images if so wanted.
pub(in crate::tasks) fn mixed(
    config: &AugmentConfig,
    number: u64,
    count: u64,
    image: impl Fn(u64) -> (Picture, u8),
    rng: &mut impl Rng,
) -> Mixed {
    let (picture, class) = image(number);
    let picture = config.altered(picture, rng);
    let whole = [(class, 1.0), (class, 0.0)];
    let cut = match (config.mixup > 0.0, config.cutmix > 0.0) {
        (true, true) => rng.random_bool(0.5),
        (_, cut) => cut,
    };
    let alpha = if cut { config.cutmix } else { config.mixup };
    let Some(beta) = (alpha > 0.0).then(|| Beta::new(alpha, alpha).ok()).flatten() else { return Mixed { picture, classes: whole } };
    let (other, other_class) = image(rng.random_range(0..count));
    let other = config.altered(other, rng);
    let share: f64 = beta.sample(rng);
    let (picture, share) = if cut {
        let [_, rows, columns] = picture.shape;
        let rectangle = [rows, columns].map(|whole| span(whole, (1.0 - share).sqrt(), rng));
        let area = rectangle[0].len() * rectangle[1].len();
        (replaced(picture, &rectangle, |at| other.pixels[at]), 1.0 - area as f64 / (rows * columns) as f64)
    } else {
        let mean = |(a, b): (&u8, &u8)| (share * f64::from(*a) + (1.0 - share) * f64::from(*b)).round() as u8;
        let pixels = picture.pixels.iter().zip(&other.pixels).map(mean).collect();
        (picture.with(pixels), share)
    };
    Mixed { picture, classes: [(class, share as f32), (other_class, 1.0 - share as f32)] }
}

/// A share of a length about a place drawn at random; what of it is outside is cut off.
fn span(whole: usize, share: f64, rng: &mut impl Rng) -> Range<usize> {
    let half = (whole as f64 * share / 2.0).round() as usize;
    let middle = rng.random_range(0..whole);
    middle.saturating_sub(half)..whole.min(middle + half)
}

/// The image with noise in a rectangle of 2 to 33 % of it, whose sides differ by a factor of up to 3.3.
pub(super) fn erased(picture: Picture, rng: &mut impl Rng) -> Picture {
    let [_, rows, columns] = picture.shape;
    let area = (rows * columns) as f64 * rng.random_range(0.02..0.33);
    let slope = (rng.random_range(-1.0..1.0) * 3.3_f64.ln()).exp();
    let [height, width] =
        [((area * slope).sqrt(), rows), ((area / slope).sqrt(), columns)].map(|(l, whole)| (l.round() as usize).min(whole));
    let [top, left] = [rows - height, columns - width].map(|most| rng.random_range(0..=most));
    replaced(picture, &[top..top + height, left..left + width], |_| rng.random())
}

/// The image with other bytes in a rectangle, of every channel.
fn replaced(mut picture: Picture, [rows, columns]: &[Range<usize>; 2], mut byte: impl FnMut(usize) -> u8) -> Picture {
    let [channels, height, width] = picture.shape;
    for channel in 0..channels {
        for y in rows.clone() {
            for x in columns.clone() {
                let at = (channel * height + y) * width + x;
                picture.pixels[at] = byte(at);
            }
        }
    }
    picture
}
