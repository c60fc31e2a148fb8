use regard::{Error, Result};

/// Rates of stochastic depth that rise linearly over `count` blocks, from 0 to the `drop_path` of a network.
///
/// # Errors
/// If that is not in [0, 1).
pub fn drop_rates(op: &'static str, drop_path: f64, count: usize) -> Result<Vec<f64>> {
    if !(0.0..1.0).contains(&drop_path) {
        return Err(Error::argument(op, "drop_path", "in [0, 1)", drop_path));
    }
    Ok((0..count).map(|i| drop_path * i as f64 / (count - 1).max(1) as f64).collect())
}
