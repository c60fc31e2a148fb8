use burn::tensor::{DType, Tensor};
use regard::{Error, Result};
use serde::{Deserialize, Serialize};

const OP: &str = "decode_heatmaps";

/// A keypoint in pixels of a heatmap, of which the first one's centre is (0, 0).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keypoint {
    /// Column.
    pub x: f64,
    /// Row.
    pub y: f64,
    /// Height of the heatmap at its largest pixel.
    pub score: f64,
}

/// How a keypoint is read from a heatmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// The largest pixel, the first of equals.
    Argmax,
    /// The same, moved by a quarter of a pixel to the larger neighbour on each axis; not within two pixels of the first row and column, nor in
    /// the last, as usual.
    #[default]
    Quarter,
    /// The peak of the parabola through the logarithms around the largest pixel (DARK, as in UDP), behind a Gaussian blur of that many rows
    /// and columns, odd, which keeps the height; not within two pixels of the border.
    Dark {
        /// Rows and columns; σ = 0.3 ((kernel − 1)/2 − 1) + 0.8.
        kernel: usize,
    },
}

impl Decoding {
    /// The usual blur of DARK for targets of σ = 2.
    pub const DARK: Self = Self::Dark { kernel: 11 };
}

/// The keypoints of heatmaps.
///
/// # Shapes
/// - `heatmaps`: `[B, K, Y, X]`; output: K keypoints for each of B
///
/// # Errors
/// If there are no pixels, a number is not finite, or a blur has an even number of rows.
pub fn decode_heatmaps(heatmaps: &Tensor<4>, decoding: Decoding) -> Result<Vec<Vec<Keypoint>>> {
    let [b, k, y, x] = heatmaps.dims();
    if y * x == 0 {
        return Err(Error::argument(OP, "heatmaps", "of shape [B, K, Y, X] with pixels", format!("{:?}", [b, k, y, x])));
    }
    if let Decoding::Dark { kernel } = decoding
        && kernel.is_multiple_of(2)
    {
        return Err(Error::argument(OP, "kernel", "odd", kernel));
    }
    let values: Vec<f64> = heatmaps.clone().inner().cast(DType::F32).into_data().iter::<f64>().collect();
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(Error::argument(OP, "heatmaps", "finite", value));
    }
    let mut keypoints = values.chunks_exact(y * x).map(|values| Map { values, y, x }.keypoint(decoding));
    Ok((0..b).map(|_| keypoints.by_ref().take(k).collect()).collect())
}

/// Keypoints of heatmaps of `from` rows and columns in pixels of images of `to`.
///
/// `unbiased`: the centres of the pixels of the corners lie on one another (UDP); else pixels are so many times as large.
pub fn to_image(keypoint: Keypoint, from: [usize; 2], to: [usize; 2], unbiased: bool) -> Keypoint {
    let scale = |axis: usize| {
        let less = usize::from(unbiased);
        (to[axis].saturating_sub(less)) as f64 / from[axis].saturating_sub(less).max(1) as f64
    };
    Keypoint { x: keypoint.x * scale(1), y: keypoint.y * scale(0), ..keypoint }
}

/// One heatmap.
struct Map<'a> {
    values: &'a [f64],
    y: usize,
    x: usize,
}

impl Map<'_> {
    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.x + column]
    }

    fn keypoint(&self, decoding: Decoding) -> Keypoint {
        let largest = (0..self.values.len()).fold(0, |best, i| if self.values[i] > self.values[best] { i } else { best });
        let (row, column) = (largest / self.x, largest % self.x);
        let [dx, dy] = match decoding {
            Decoding::Argmax => [0.0; 2],
            Decoding::Quarter => self.quarter(row, column),
            Decoding::Dark { kernel } => self.blurred(kernel).peak(row, column),
        };
        Keypoint { x: column as f64 + dx, y: row as f64 + dy, score: self.values[largest] }
    }

    fn quarter(&self, row: usize, column: usize) -> [f64; 2] {
        if row < 2 || column < 2 || row + 1 >= self.y || column + 1 >= self.x {
            return [0.0; 2];
        }
        let dx = self.at(row, column + 1) - self.at(row, column - 1);
        let dy = self.at(row + 1, column) - self.at(row - 1, column);
        [dx, dy].map(|difference| if difference == 0.0 { 0.0 } else { 0.25 * difference.signum() })
    }

    /// Behind a Gaussian with zeros outside, as high as before.
    fn blurred(&self, kernel: usize) -> Blurred {
        let half = kernel / 2;
        let sigma = 0.3 * (half as f64 - 1.0) + 0.8;
        let weight = |i: usize| (-(i as f64 - half as f64).powi(2) / (2.0 * sigma * sigma)).exp();
        let sum: f64 = (0..kernel).map(weight).sum();
        let weights: Vec<f64> = (0..kernel).map(|i| weight(i) / sum).collect();
        let along = |values: &[f64], step: usize, length: usize, place: &dyn Fn(usize) -> usize| -> Vec<f64> {
            (0..values.len())
                .map(|i| {
                    let at = place(i);
                    let taps = weights.iter().enumerate().filter(|(tap, _)| (half..half + length).contains(&(at + tap)));
                    taps.map(|(tap, weight)| weight * values[i + step * tap - step * half]).sum()
                })
                .collect()
        };
        let rows = along(self.values, 1, self.x, &|i| i % self.x);
        let mut values = along(&rows, self.x, self.y, &|i| i / self.x);
        let largest = |values: &[f64]| values.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        let (before, after) = (largest(self.values), largest(&values));
        for value in &mut values {
            *value = (*value * before / after).max(1e-10).ln();
        }
        Blurred { logarithms: values, y: self.y, x: self.x }
    }
}

/// The logarithms of a blurred heatmap.
struct Blurred {
    logarithms: Vec<f64>,
    y: usize,
    x: usize,
}

impl Blurred {
    /// From a pixel to the peak: −H⁻¹ g with differences of neighbours and of those two pixels away.
    fn peak(&self, row: usize, column: usize) -> [f64; 2] {
        if row < 2 || column < 2 || row + 2 >= self.y || column + 2 >= self.x {
            return [0.0; 2];
        }
        let map = Map { values: &self.logarithms, y: self.y, x: self.x };
        let at = |dy: isize, dx: isize| map.at(row.wrapping_add_signed(dy), column.wrapping_add_signed(dx));
        let (gx, gy) = (0.5 * (at(0, 1) - at(0, -1)), 0.5 * (at(1, 0) - at(-1, 0)));
        let (xx, yy) = (0.25 * (at(0, 2) - 2.0 * at(0, 0) + at(0, -2)), 0.25 * (at(2, 0) - 2.0 * at(0, 0) + at(-2, 0)));
        let xy = 0.25 * (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1));
        let det = xx * yy - xy * xy;
        if det == 0.0 { [0.0; 2] } else { [(xy * gy - yy * gx) / det, (xy * gx - xx * gy) / det] }
    }
}
