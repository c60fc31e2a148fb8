use burn::tensor::{Distribution, Tensor};
use regard::{
    nprf::{NprfAlgorithm, NprfOptions, ProjectionKind, draw_projection, nprf},
    softmax_attention::{SoftmaxOptions, softmax_attention},
};
use regard_train::report::Quantity;

use super::super::{Figure, FigureKind, Finding, Lab};
use crate::{Result, fit::exponent, machine::sync};

const WIDTH: usize = 16;

const FORMS: [(&str, Option<NprfAlgorithm>); 3] =
    [("NPRF, Fourier transforms", Some(NprfAlgorithm::Fft)), ("NPRF, matrix products", Some(NprfAlgorithm::Dense)), ("softmax", None)];

/// Seconds of a forward pass.
fn seconds(lab: &Lab<'_, '_>, form: Option<NprfAlgorithm>, n: usize) -> Result<f64> {
    let device = lab.device();
    let draw = || Tensor::<4>::random([1, 1, n, WIDTH], Distribution::Normal(0.0, 1.0), &device);
    let (q, k, v) = (draw(), draw(), draw());
    let projection = draw_projection(ProjectionKind::Gaussian, [1, WIDTH, WIDTH], 1, &device);
    let bias = Tensor::<2>::random([1, 2 * n - 1], Distribution::Normal(0.0, 1.0), &device);
    let mut failed = None;
    let cost = lab.measure(5, || {
        let [q, k, v] = [&q, &k, &v].map(Clone::clone);
        let result = match form {
            Some(algorithm) => {
                let options = NprfOptions { algorithm, ..NprfOptions::default() };
                nprf(q, k, v, projection.clone(), Some(bias.clone()), &options).map(|_| ())
            }
            None => softmax_attention(q, k, v, SoftmaxOptions::default()).map(|_| ()),
        };
        failed = result.err().or(failed.take());
        sync(&device);
    });
    failed.map_or(Ok(cost.seconds), |error| Err(error.into()))
}

/// Where the line `a` falls below `b`, both taken at the same lengths: between the last length at which it lies above and the next, by
/// straight lines on log axes.
fn crossover(a: &[(f64, f64)], b: &[(f64, f64)]) -> Option<f64> {
    let gaps: Vec<(f64, f64)> = a.iter().zip(b).map(|((n, a), (_, b))| (n.ln(), (a / b).ln())).collect();
    let last = gaps.iter().rposition(|(_, gap)| *gap > 0.0)?;
    let ((n, gap), (next, below)) = (gaps[last], *gaps.get(last + 1)?);
    Some((n + (next - n) * gap / (gap - below)).exp())
}

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let lengths: Vec<usize> = (9..=lab.quick_or(13, 15)).map(|power| 1 << power).collect();
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = FORMS.iter().map(|(name, _)| ((*name).to_owned(), Vec::new())).collect();
    for &n in &lengths {
        lab.note(&format!("{n} tokens"))?;
        // In turns, so that a disturbance meets all.
        for ((_, form), (_, points)) in FORMS.iter().zip(&mut lines) {
            points.push((n as f64, seconds(lab, *form, n)?));
        }
    }
    let exponents: Vec<f64> = lines.iter().map(|(_, points)| exponent(points.iter().copied()).unwrap_or(f64::NAN)).collect();
    let longest = lengths.last().copied().unwrap_or_default();
    let against = |line: usize, name: &str| match crossover(&lines[0].1, &lines[line].1) {
        Some(n) => format!("faster than {name} from {n:.0} tokens on"),
        None if lines[0].1.iter().zip(&lines[line].1).all(|(a, b)| a.1 <= b.1) => format!("faster than {name} at all lengths"),
        None => format!("not faster than {name} up to {longest} tokens"),
    };
    let measured = format!(
        "time grows as N^{:.2} by Fourier transforms, N^{:.2} with softmax attention; {}, {}",
        exponents[0],
        exponents[2],
        against(2, "softmax attention"),
        against(1, "matrix products")
    );
    let rows = lines.iter().flat_map(|(name, points)| {
        points.iter().map(move |(n, s)| vec![name.clone(), Quantity::Length.text(*n, 3), Quantity::Seconds.text(*s, 3)])
    });
    let rows = rows.collect();
    Ok(Finding::new(exponents[0] <= 1.3 && exponents[2] >= 1.8, measured)
        .note(format!("N = {} to {longest}, bidirectional, f32, median of up to 5 runs; softmax attention is the fused kernel, without biases", lengths[0]))
        .note("the part on a GPU (to N = 131072 with H = 8, K = M = 64 against a fused exact attention) is not run and does not enter the verdict")
        .table("Time of a forward pass", &["form", "N", "time"], rows)
        .figure(Figure::new("Time of a forward pass", FigureKind::Time, lines)))
}

#[cfg(test)]
mod tests {
    use super::crossover;

    #[test]
    fn lines_cross_where_their_powers_are_equal() {
        // 100 N and N² at N = 100.
        let [a, b] = [1.0, 2.0].map(|p| [16.0_f64, 64.0, 256.0, 1024.0].map(|n| (n, if p > 1.5 { n * n } else { 100.0 * n })));
        assert!((crossover(&a, &b).unwrap() - 100.0).abs() < 1e-6);
        assert_eq!(crossover(&a[..2], &b[..2]), None, "later than all lengths");
        assert_eq!(crossover(&a[2..], &b[2..]), None, "before all lengths");
    }
}
