use std::cell::RefCell;

use burn::tensor::TensorData;

/// The errors of many cases of one sweep: the sweep goes on after a case that fails, so that one run shows them all.
#[derive(Debug)]
pub struct Errors {
    what: String,
    names: Vec<&'static str>,
    tolerance: f64,
    found: RefCell<Found>,
}

#[derive(Debug)]
struct Found {
    cases: usize,
    worst: Vec<f64>,
    failures: Vec<String>,
}

impl Errors {
    /// For results with these names.
    pub fn new(what: &str, names: &[&'static str], tolerance: f64) -> Self {
        let found = Found { cases: 0, worst: vec![0.0; names.len()], failures: Vec::new() };
        Self { what: what.into(), names: names.into(), tolerance, found: RefCell::new(found) }
    }

    /// One case: what came out, what came out of a second run (the same bits, or the case fails), what should have.
    ///
    /// Errors are relative to the largest number of a result, but at least to a twentieth of the largest of all results: gradients that
    /// cancel to little are compared on a scale near that of the others.
    pub fn add<I: IntoIterator<Item = TensorData>>(
        &self,
        case: &str,
        got: impl IntoIterator<Item = TensorData>,
        again: impl IntoIterator<Item = TensorData>,
        want: I,
    ) {
        let mut found = self.found.borrow_mut();
        found.cases += 1;
        let want: Vec<Vec<f64>> = want.into_iter().map(|x| x.iter::<f64>().collect()).collect();
        let largest = |x: &[f64]| x.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        let all = want.iter().map(|x| largest(x)).fold(1e-3, f64::max);
        let mut bad = Vec::new();
        for (i, ((got, again), want)) in got.into_iter().zip(again).zip(&want).enumerate() {
            let scale = largest(want).max(0.05 * all);
            let error =
                got.iter::<f64>().zip(want).fold(0.0_f64, |m, (a, b)| if a.is_finite() { m.max((a - b).abs()) } else { f64::INFINITY });
            let error = error / scale;
            found.worst[i] = found.worst[i].max(error);
            if !(error <= self.tolerance) {
                bad.push(format!("{} {error:.1e}", self.names[i]));
            }
            if got != again {
                bad.push(format!("{} differs between runs", self.names[i]));
            }
        }
        if !bad.is_empty() {
            found.failures.push(format!("{case}: {}", bad.join(", ")));
        }
    }

    /// Prints the largest errors.
    ///
    /// # Panics
    /// If a case failed.
    #[allow(clippy::print_stdout)]
    pub fn finish(&self) {
        let found = self.found.borrow();
        let worst: Vec<String> = self.names.iter().zip(&found.worst).map(|(name, worst)| format!("{name} {worst:.1e}")).collect();
        println!("{}: {} cases, largest errors {}, allowed {:.1e}", self.what, found.cases, worst.join(", "), self.tolerance);
        for failure in found.failures.iter().take(20) {
            println!("  {failure}");
        }
        assert!(found.failures.is_empty(), "{}: {} of {} cases failed", self.what, found.failures.len(), found.cases);
    }
}
