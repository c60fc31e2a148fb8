//! The random projection.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

/// How the rows of the random projection are drawn. All are unbiased or, with equal norms, nearly so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionKind {
    /// Independent normal numbers.
    #[default]
    Gaussian,
    /// Orthogonal in blocks of K rows, with the norms of normal vectors (FAVOR+).
    Orthogonal,
    /// Orthogonal in blocks of K rows, all of norm √K.
    OrthogonalEqual,
}

/// A projection `[heads, features, width]` from a seed: the same numbers on every device.
pub fn draw_projection(kind: ProjectionKind, [heads, features, width]: [usize; 3], seed: u64, device: &Device) -> Tensor<3> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = || -> f64 { rng.sample(StandardNormal) };
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(heads * features);
    for _ in 0..heads {
        let first = rows.len();
        for r in 0..features {
            let mut row: Vec<f64> = (0..width).map(|_| normal()).collect();
            if kind != ProjectionKind::Gaussian {
                let norm = match kind {
                    ProjectionKind::OrthogonalEqual => (width as f64).sqrt(),
                    _ => (0..width).map(|_| normal().powi(2)).sum::<f64>().sqrt(),
                };
                orthogonalise(&mut row, &rows[first + r - r % width..]);
                for x in &mut row {
                    *x *= norm;
                }
            }
            rows.push(row);
        }
    }
    let data = TensorData::new(rows.concat(), [heads, features, width]).convert_dtype(DType::F32);
    Tensor::from_data(data, (device, DType::F32))
}

/// Makes `row` a unit vector orthogonal to `others`; twice, because the first pass leaves rounding behind (Gram-Schmidt).
fn orthogonalise(row: &mut [f64], others: &[Vec<f64>]) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for _ in 0..2 {
        for other in others {
            let share = dot(row, other) / dot(other, other);
            row.iter_mut().zip(other).for_each(|(x, o)| *x -= share * o);
        }
    }
    let norm = dot(row, row).sqrt();
    for x in row {
        *x /= norm;
    }
}
