use burn::tensor::{Device, Int, Tensor};

use super::{
    features::{Features, TERMS, with_weights},
    layer::{Nprf, beside, ratio},
    op::coefficients,
    options::NprfOptions,
    product::Plan,
};
use crate::{
    MixerMemory, StateLayout,
    blocks::{decayed_product, matmul},
};

/// What [`Nprf`] keeps of the tokens so far: features of keys and values of those that are nearer than the largest distance with a bias
/// of its own, and one sum over all that are farther. Without biases the sum is all there is.
///
/// `farthest − 1` tokens of `M + V` numbers at most, and `M (V + 1)` numbers, per head.
#[derive(Clone, Debug)]
pub struct NprfState {
    /// Features of the keys of near tokens. `[B, H, P, M]`
    keys: Tensor<4>,
    /// Their values. `[B, H, P, V]`
    values: Tensor<4>,
    /// Sum of the products of keys and of values with a 1 behind them over far tokens. `[B, H, M, V + 1]`
    far: Tensor<4>,
    /// Logarithm of the factor by which features are too small: it follows the largest exponent so far. `[B, H, 1, 1]`
    shift: Tensor<4>,
}

impl NprfState {
    /// No tokens yet, for `[batch, heads, features, width]`.
    pub(super) fn new([b, h, m, width]: [usize; 4], device: &Device) -> Self {
        let zeros = |shape: [usize; 4]| Tensor::zeros(shape, device);
        Self {
            keys: zeros([b, h, 0, m]),
            values: zeros([b, h, 0, width]),
            far: zeros([b, h, m, width + 1]),
            shift: Tensor::full([b, h, 1, 1], -1e4, device),
        }
    }

    pub(crate) fn layout(&self) -> StateLayout {
        let near = [&self.keys, &self.values].iter().fold(StateLayout::new(), |layout, x| layout.growing(x.dims(), x.dtype()));
        near.any(&self.far).any(&self.shift)
    }

    /// Makes the features of the state and of the next tokens comparable.
    fn align(&mut self, next: Features) -> Features {
        let shift = self.shift.clone().max_pair(next.k_shift.clone());
        let factor = (self.shift.clone() - shift.clone()).exp();
        self.far = self.far.clone() * factor.clone();
        self.keys = self.keys.clone() * factor;
        let k = next.k * (next.k_shift - shift.clone()).exp();
        self.shift = shift.clone();
        Features { k, k_shift: shift, ..next }
    }

    /// Adds tokens, and moves those into the sum that the next token sees at `farthest` or more.
    fn append(&mut self, keys: Tensor<4>, values: Tensor<4>, farthest: usize) {
        let tokens = keys.dims()[2];
        let old = (tokens + 1).saturating_sub(farthest.max(1));
        if old > 0 {
            let pass = |x: &Tensor<4>| x.clone().narrow(2, 0, old);
            self.far = self.far.clone() + matmul(pass(&keys).swap_dims(2, 3), with_weights(pass(&values), None));
        }
        [self.keys, self.values] = [keys, values].map(|x| {
            let [b, h, _, width] = x.dims();
            if old < tokens { x.narrow(2, old, tokens - old) } else { Tensor::zeros([b, h, 0, width], (&x.device(), x.dtype())) }
        });
    }
}

impl Nprf {
    /// The outputs of the next tokens `[B, T, D]`, which become part of the state.
    pub(super) fn continue_from(&self, x: Tensor<3>, state: &mut NprfState) -> Tensor<3> {
        let [b, t, d] = x.dims();
        if b * t == 0 {
            return Tensor::zeros([b, t, d], (&x.device(), x.dtype()));
        }
        if !self.has_numbers() {
            return x * f64::NAN;
        }
        let next = state.align(self.features(x, None, true));
        let (q, constant) = (next.q.clone(), self.constant(&next.q, true));
        if self.rpe.is_none() {
            let (y, far) = decayed_product([q, next.k, with_weights(next.v, None)], Some(state.far.clone()), TERMS);
            state.far = far;
            return self.merge(ratio(y, constant));
        }
        let keys = Tensor::cat(vec![state.keys.clone(), next.k.clone()], 2);
        let values = Tensor::cat(vec![state.values.clone(), next.v.clone()], 2);
        let [_, h, total, m] = keys.dims();
        let bias = self.biases(total.max(self.farthest() + 1)).expect("the biases are finite").expect("there are biases");
        let (c, shift) = coefficients(bias, &NprfOptions { causal: true, ..self.options() });
        let constant = beside(constant, shift);
        let middle = c.dims()[1] / 2;
        let near = if t == 1 {
            // All distances at once: a row of the matrix.
            let row = c.clone().narrow(1, middle + 1 - total, total).reshape([1, h, 1, total]);
            let weights = matmul(q.clone(), keys.clone().swap_dims(2, 3)) * row;
            Tensor::cat(vec![matmul(weights.clone(), values.clone()), weights.sum_dim(3)], 3)
        } else {
            // The tokens of the state take part as keys, with queries of zeros.
            let nobody = Tensor::zeros([b, h, total - t, m], (&q.device(), q.dtype()));
            let all = Features { q: Tensor::cat(vec![nobody, q.clone()], 2), k: keys.clone(), v: values.clone(), ..next };
            let c = c.clone().narrow(1, middle + 1 - total, 2 * total - 1);
            all.biased(c, Plan { ratio: false, ..self.plan(total, true) }).narrow(2, total - t, t)
        };
        let farthest = c.narrow(1, middle - self.farthest(), 1).reshape([1, h, 1, 1]);
        let y = near + matmul(q, state.far.clone()) * farthest;
        state.append(keys, values, self.farthest());
        self.merge(ratio(y, constant))
    }
}

impl MixerMemory for NprfState {
    fn bytes(&self) -> usize {
        [&self.keys, &self.values, &self.far, &self.shift].iter().map(|t| t.dims().iter().product::<usize>() * t.dtype().size()).sum()
    }

    fn select(&self, indices: &Tensor<1, Int>) -> Self {
        let select = |t: &Tensor<4>| t.clone().select(0, indices.clone());
        Self { keys: select(&self.keys), values: select(&self.values), far: select(&self.far), shift: select(&self.shift) }
    }
}
