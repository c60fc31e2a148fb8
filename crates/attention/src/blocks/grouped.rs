use std::sync::Arc;

use burn::{backend::DispatchTensor, tensor::Tensor};

use super::{GradientRule, matmul::matmul, with_gradient};

/// Rows sorted by group times the matrix of their group: those of group e give `x W_eᵀ`.
///
/// The gradient of the matrices is made in one piece, so that its cost does not grow with the square of their number, as that of as
/// many slices would.
///
/// # Shapes
/// - `x`: `[N, D]`, the first `counts[0]` rows of group 0, the next `counts[1]` of group 1, …, N in all
/// - `weights`: `[E, O, D]`
/// - output: `[N, O]`
pub(super) fn grouped_product(x: Tensor<2>, weights: Tensor<3>, counts: Vec<usize>) -> Tensor<2> {
    let tracked = x.is_autodiff() || weights.is_autodiff();
    let erased = tracked.then(|| [x.clone().into_dispatch(), weights.clone().into_dispatch()]);
    let (x, weights) = if tracked { (x.inner(), weights.inner()) } else { (x, weights) };
    let y = products(&x, &counts, weights.dims()[1], |e| matrix(&weights, e).transpose());
    match erased {
        Some(inputs) => with_gradient(inputs, y, Arc::new(Grouped { x, weights, counts })),
        None => y,
    }
}

/// The rows of each group times the matrix that `of` gives for the group. `[N, width]`
fn products(x: &Tensor<2>, counts: &[usize], width: usize, of: impl Fn(usize) -> Tensor<2>) -> Tensor<2> {
    let parts: Vec<_> = ranges(counts).map(|(e, start, count)| matmul(x.clone().narrow(0, start, count), of(e))).collect();
    if parts.is_empty() { Tensor::zeros([0, width], (&x.device(), x.dtype())) } else { Tensor::cat(parts, 0) }
}

/// Number, first row and number of rows of each group that has any.
fn ranges(counts: &[usize]) -> impl Iterator<Item = (usize, usize, usize)> {
    let starts = counts.iter().scan(0, |end, count| {
        *end += count;
        Some(*end - count)
    });
    starts.zip(counts).enumerate().filter(|(_, (_, count))| **count > 0).map(|(e, (start, count))| (e, start, *count))
}

/// `[O, D]`
fn matrix(weights: &Tensor<3>, e: usize) -> Tensor<2> {
    weights.clone().narrow(0, e, 1).squeeze_dim(0)
}

#[derive(Debug)]
struct Grouped {
    x: Tensor<2>,
    weights: Tensor<3>,
    counts: Vec<usize>,
}

impl GradientRule<2> for Grouped {
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        let upstream = Tensor::<2>::from_dispatch(upstream);
        let [_, o, d] = self.weights.dims();
        let x = wanted[0].then(|| products(&upstream, &self.counts, d, |e| matrix(&self.weights, e)).into_dispatch());
        let weights = wanted[1].then(|| {
            ranges(&self.counts)
                .fold(self.weights.zeros_like(), |sum, (e, start, count)| {
                    let [upstream, x] = [&upstream, &self.x].map(|t| t.clone().narrow(0, start, count));
                    sum.slice_assign([e..e + 1, 0..o, 0..d], matmul(upstream.transpose(), x).unsqueeze_dim(0))
                })
                .into_dispatch()
        });
        [x, weights]
    }
}

#[cfg(test)]
mod tests {
    use regard_testkit::{Sampler, assert_close, cpu, sweep};

    use super::*;

    #[test]
    fn it_is_the_product_of_each_group_with_its_matrix_and_so_are_its_gradients() {
        sweep("grouped_product", 40, |s| {
            let (e, d, o) = (s.size(1, 5), s.size(1, 7), s.size(1, 6));
            let counts: Vec<usize> = (0..e).map(|_| s.size(0, 4)).collect();
            let n = counts.iter().sum();
            let device = cpu().autodiff();
            let place = |s: &mut Sampler| {
                let (x, w) = (s.tensor([n, d], -1.0, 1.0).f64(&device), s.tensor([e, o, d], -1.0, 1.0).f64(&device));
                (x, w, s.tensor([n, o], -1.0, 1.0).f64(&device))
            };
            let (x, w, cotangent) = place(s);
            let run = |f: &dyn Fn(Tensor<2>, Tensor<3>) -> Tensor<2>| {
                let (x, w) = (x.clone().require_grad(), w.clone().require_grad());
                let y = f(x.clone(), w.clone());
                let grads = (y.clone() * cotangent.clone()).sum().backward();
                (y.inner(), x.grad(&grads).unwrap(), w.grad(&grads).unwrap_or_else(|| w.zeros_like().inner()))
            };
            let got = run(&|x, w| grouped_product(x, w, counts.clone()));
            if n == 0 {
                assert_eq!(got.0.dims(), [0, o]);
                return;
            }
            let want = run(&|x, w| {
                let row = |(e, start, count): (usize, usize, usize)| x.clone().narrow(0, start, count).matmul(matrix(&w, e).transpose());
                Tensor::cat(ranges(&counts).map(row).collect(), 0)
            });
            assert_close("y", &got.0, &want.0, 1e-12);
            assert_close("dx", &got.1, &want.1, 1e-12);
            assert_close("dw", &got.2, &want.2, 1e-12);
        });
    }
}
