/// Rates of stochastic depth that rise linearly over `count` blocks, from 0 to `rate`.
pub fn drop_rates(rate: f64, count: usize) -> Vec<f64> {
    (0..count).map(|i| rate * i as f64 / (count - 1).max(1) as f64).collect()
}
