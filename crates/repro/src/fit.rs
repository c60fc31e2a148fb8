//! How a cost grows: the exponent of a power law.

/// The exponent p of `y ≈ c x^p` by least squares of `log y` on `log x`; nothing for fewer than two different x.
///
/// Pairs that are not both positive and finite are left out.
///
/// ```
/// let points = [(1024.0, 1.0), (2048.0, 4.0), (4096.0, 16.0)];
/// let p = regard_repro::fit::exponent(points).unwrap();
/// assert!((p - 2.0).abs() < 1e-12);
/// ```
pub fn exponent(points: impl IntoIterator<Item = (f64, f64)>) -> Option<f64> {
    let positive = |v: f64| v.is_finite() && v > 0.0;
    let logs: Vec<_> = points.into_iter().filter(|(x, y)| positive(*x) && positive(*y)).map(|(x, y)| (x.ln(), y.ln())).collect();
    let n = logs.len() as f64;
    let (mean_x, mean_y) = logs.iter().fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x / n, sy + y / n));
    let (xx, xy) = logs.iter().fold((0.0, 0.0), |(xx, xy), (x, y)| (xx + (x - mean_x).powi(2), xy + (x - mean_x) * (y - mean_y)));
    (logs.len() > 1 && xx > 1e-12).then(|| xy / xx)
}

#[cfg(test)]
mod tests {
    use super::exponent;

    fn lengths() -> impl Iterator<Item = f64> {
        (10..16).map(|e| f64::from(1 << e))
    }

    #[test]
    fn the_exponent_of_a_power_law_is_found() {
        for p in [-1.0, 0.0, 0.5, 1.0, 1.5, 2.0] {
            let got = exponent(lengths().map(|t| (t, 3e-7 * t.powf(p)))).unwrap();
            assert!((got - p).abs() < 1e-9, "{got} instead of {p}");
        }
    }

    #[test]
    fn noise_that_averages_out_leaves_it_in_place() {
        let noisy = lengths().enumerate().map(|(i, t)| (t, t * if i % 3 == 1 { 0.95 } else { 1.025 }));
        let got = exponent(noisy).unwrap();
        assert!((got - 1.0).abs() < 0.02, "{got}");
    }

    #[test]
    fn a_sum_of_linear_and_quadratic_lies_between() {
        let got = exponent(lengths().map(|t| (t, 1e-3 * t + 1e-7 * t * t))).unwrap();
        assert!(got > 1.0 && got < 2.0, "{got}");
    }

    #[test]
    fn too_few_points_have_none() {
        assert_eq!(exponent([]), None);
        assert_eq!(exponent([(1.0, 2.0)]), None);
        assert_eq!(exponent([(2.0, 1.0), (2.0, 3.0)]), None);
        assert_eq!(exponent([(1.0, 0.0), (2.0, f64::NAN), (4.0, 1.0)]), None);
    }
}
