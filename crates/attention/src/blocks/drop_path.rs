use burn::{
    module::Module,
    nn::{Dropout, DropoutConfig},
    tensor::Tensor,
};

use crate::{Error, Result};

/// Stochastic depth: in training a branch of each map is left out with a probability, and multiplied by `1/(1 − rate)` otherwise (Huang et al.
/// 2016, arXiv 1603.09382).
#[derive(Module, Debug)]
pub struct DropPath {
    dropout: Dropout,
}

impl DropPath {
    /// Leaves nothing out.
    pub fn none() -> Self {
        Self { dropout: DropoutConfig::new(0.0).init() }
    }

    /// Leaves a branch out with the probability `rate`.
    ///
    /// # Errors
    /// If the rate is not in [0, 1).
    pub fn new(rate: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::argument("drop_path", "rate", "in [0, 1)", rate));
        }
        Ok(Self { dropout: DropoutConfig::new(rate).init() })
    }

    /// A branch, or zeros in its place for some of the maps in training.
    ///
    /// # Shapes
    /// - `branch`: `[B, Y, X, D]`; output: the same
    pub fn forward(&self, branch: Tensor<4>) -> Tensor<4> {
        if self.dropout.prob == 0.0 || !branch.device().is_autodiff() {
            return branch;
        }
        let ones = Tensor::ones([branch.dims()[0], 1, 1, 1], (&branch.device(), branch.dtype()));
        branch * self.dropout.forward(ones)
    }
}

#[cfg(test)]
mod tests {
    use regard_testkit::cpu;

    use super::*;

    #[test]
    fn in_training_whole_maps_are_left_out_and_the_rest_makes_up_for_them() {
        let device = cpu().autodiff();
        device.seed(5);
        let ones = |device| Tensor::<4>::ones([400, 1, 2, 3], device);
        let kept: Vec<f32> = DropPath::new(0.75).unwrap().forward(ones(&device)).into_data().iter::<f32>().collect();
        let maps: Vec<f32> = kept.chunks(6).map(|map| map[0]).collect();
        assert!(kept.chunks(6).all(|map| map.iter().all(|x| *x == map[0] && (*x == 0.0 || *x == 4.0))));
        // A quarter of 400, with a standard deviation of 8.7.
        let left = maps.iter().filter(|x| **x > 0.0).count();
        assert!((60..=140).contains(&left), "{left} of 400");
        for (rate, device) in [(0.0, &device), (0.75, &cpu())] {
            let same = DropPath::new(rate).unwrap().forward(ones(device));
            assert!(same.into_data().iter::<f32>().all(|x| x == 1.0));
        }
        assert_eq!(DropPath::new(1.0).unwrap_err().to_string(), "drop_path: `rate` must be in [0, 1), got 1");
    }
}
