use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use regard::nprf::{NprfOptions, ProjectionKind, draw_projection, nprf, reference};

use super::super::{
    Figure, FigureKind, Finding, Lab,
    values::{generator, mean, numbers},
};
use crate::{Result, fit::exponent};

const TOKENS: usize = 64;
const WIDTH: usize = 16;
const NORMS: [f64; 4] = [0.5, 1.0, 2.0, 4.0];

/// Independent numbers of the standard normal distribution.
fn normal(generator: &mut ChaCha8Rng, count: usize) -> Vec<f64> {
    (0..count).map(|_| generator.sample(StandardNormal)).collect()
}

fn place(values: Vec<f64>, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values, [1, 1, TOKENS, WIDTH]), (device, DType::F64))
}

/// Vectors in random directions, such that the operation, which multiplies by `K^(-1/4)`, has them with the norm `norm`.
fn directions(generator: &mut ChaCha8Rng, norm: f64) -> Vec<f64> {
    let mut values = normal(generator, TOKENS * WIDTH);
    for row in values.chunks_mut(WIDTH) {
        let scale = norm * (WIDTH as f64).powf(0.25) / row.iter().map(|x| x * x).sum::<f64>().sqrt();
        for x in row {
            *x *= scale;
        }
    }
    values
}

/// Relative Frobenius error of the estimate with `features` features.
///
/// All that is random is drawn afresh: numbers of features that shared their vectors would share an outlier among them, and a
/// projection from the seed of the vectors would have rows parallel to them.
fn error(generator: &mut ChaCha8Rng, norm: f64, features: usize, device: &Device) -> Result<f64> {
    let [q, k] = [(); 2].map(|()| place(directions(generator, norm), device));
    let v = place(normal(generator, TOKENS * WIDTH), device);
    let projection = draw_projection(ProjectionKind::Gaussian, [1, features, WIDTH], generator.random(), device).cast(DType::F64);
    let want = numbers(reference::exact(q.clone(), k.clone(), v.clone(), None, None, false));
    let options = NprfOptions { normalised: false, ..NprfOptions::default() };
    let got = numbers(nprf(q, k, v, projection, None, &options)?.0);
    let square = |x: f64| x * x;
    let off: f64 = got.iter().zip(&want).map(|(a, b)| square(a - b)).sum();
    Ok((off / want.iter().copied().map(square).sum::<f64>()).sqrt())
}

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let draws = lab.asked_seeds.unwrap_or(10) as u64;
    let device = lab.device();
    let counts: Vec<usize> = (4..=10).map(|power| 1 << power).collect();
    let mut generator = generator(1);
    let mut lines = Vec::new();
    for norm in NORMS {
        lab.note(&format!("norm {norm}"))?;
        let mut points = Vec::new();
        for &m in &counts {
            let errors = (0..draws).map(|_| error(&mut generator, norm, m, &device)).collect::<Result<Vec<_>>>()?;
            points.push((m as f64, mean(&errors)));
        }
        lines.push((format!("norm {norm}"), points));
    }
    let most = |line: usize| lines[line].1.last().map_or(f64::NAN, |(_, error)| *error);
    let ratio = most(3) / most(1);
    let slope = exponent(lines[0].1.iter().copied()).unwrap_or(f64::NAN);
    let measured = format!(
        "at M = 1024 the error of norm 4 is {ratio:.1} times that of norm 1 ({:.3} and {:.3}); at norm 0.5 it falls as M^{slope:.2}",
        most(3),
        most(1)
    );
    let rows = lines
        .iter()
        .map(|(name, points)| std::iter::once(name.clone()).chain(points.iter().map(|(_, error)| format!("{error:.3}"))).collect());
    let rows = rows.collect();
    let names: Vec<String> = counts.iter().map(|m| format!("M = {m}")).collect();
    let columns: Vec<&str> = std::iter::once("|q| = |k|").chain(names.iter().map(String::as_str)).collect();
    Ok(Finding::new(ratio > 10.0 && (-0.6..=-0.4).contains(&slope), measured)
        .note(format!(
            "N = {TOKENS}, K = V = {WIDTH}, f64, directions and values of normal numbers, Gaussian projection, no biases, {draws} draws"
        ))
        .table("Relative Frobenius errors", &columns, rows)
        .figure(Figure::new("Error against features", FigureKind::FeatureError, lines)))
}
