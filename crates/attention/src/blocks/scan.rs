//! Running sums over the tokens so far, in blocks: every level is one batched matrix product or one batched reduction, so that the
//! error grows with the logarithm of the length and automatic differentiation sees no loop over tokens or blocks.

use burn::tensor::{Bool, Tensor};

use super::matmul::matmul;

/// Tokens per block. By triangular products of this size, forward and backward take three quarters of the time of one `cumsum` over
/// the whole axis, whose backward flips the sequence twice (Flex, T = 32768, 64 channels).
const BLOCK: usize = 32;

/// Stands for ln 0 where infinities would turn into NaN: `exp(LOG_ZERO − x) = 0` for every x that occurs.
pub(crate) const LOG_ZERO: f64 = -1e30;

/// `y_t = start + Σ_{s≤t} x_s`, and the total `Σ_s x_s` without `start`.
///
/// # Shapes
/// - `x`: `[B, H, T, D]`, T ≥ 1; `start`: broadcasts to `[B, H, 1, D]`
/// - output: `[B, H, T, D]` and `[B, H, 1, D]`
pub(crate) fn prefix_sum(x: Tensor<4>, start: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [b, h, t, d] = x.dims();
    if t == 1 {
        return (x.clone() + start, x);
    }
    if t <= BLOCK {
        let total = x.clone().sum_dim(2);
        return (matmul(triangle(t, &x), x) + start, total);
    }
    let n = t.div_ceil(BLOCK);
    let x = fill_up(x, n * BLOCK - t, 0.0).reshape([b, h, n, BLOCK, d]);
    let totals = x.clone().sum_dim(3).reshape([b, h, n, d]);
    let start = start.expand([b, h, 1, d]);
    let (after, total) = prefix_sum(totals, start.clone());
    let before = Tensor::cat(vec![start, after.narrow(2, 0, n - 1)], 2).reshape([b, h, n, 1, d]);
    let inside = matmul(triangle(BLOCK, &x).unsqueeze_dim::<5>(0), x);
    ((inside + before).reshape([b, h, n * BLOCK, d]).narrow(2, 0, t), total)
}

/// `y_t = ln(exp(start) + Σ_{s≤t} exp(x_s))`, each with the maximum of its own terms taken out: no sum overflows or vanishes, however
/// far apart the `x` are.
///
/// # Shapes
/// - `x`: `[B, H, T]`, T ≥ 1; `start`: `[B, H, 1]`, [`LOG_ZERO`] = nothing so far
/// - output: `[B, H, T]`
pub(crate) fn running_log_sum_exp(x: Tensor<3>, start: Tensor<3>) -> Tensor<3> {
    let [b, h, t] = x.dims();
    let c = t.min(BLOCK);
    let n = t.div_ceil(c);
    let x = fill_up(x, n * c - t, LOG_ZERO).reshape([b, h, n, 1, c]);
    let later = Tensor::<2, Bool>::tril_mask([c, c], 0, &x.device()).reshape([1, 1, 1, c, c]);
    let shape = [b, h, n, c, c];
    let terms = x.expand(shape).mask_fill(later.expand(shape), LOG_ZERO);
    let highest = terms.clone().max_dim(4).detach();
    let inside = ((terms - highest.clone()).exp().sum_dim(4).log() + highest).squeeze_dim::<4>(4); // [B, H, N, C]
    let before = if n == 1 {
        start
    } else {
        let totals = inside.clone().narrow(3, c - 1, 1).reshape([b, h, n]);
        let after = running_log_sum_exp(totals, start.clone());
        Tensor::cat(vec![start, after.narrow(2, 0, n - 1)], 2)
    };
    let before = before.reshape([b, h, n, 1]).expand([b, h, n, c]);
    log_add_exp(inside, before).reshape([b, h, n * c]).narrow(2, 0, t)
}

/// `ln(exp(a) + exp(b))`
fn log_add_exp(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    let highest = a.clone().max_pair(b.clone()).detach();
    ((a - highest.clone()).exp() + (b - highest.clone()).exp()).log() + highest
}

/// Ones on and below the diagonal, in the float type of `like`. `[1, 1, n, n]`
fn triangle<const D: usize>(n: usize, like: &Tensor<D>) -> Tensor<4> {
    Tensor::ones([1, 1, n, n], (&like.device(), like.dtype())).tril(0)
}

/// Appends `count` tokens of the given value along axis 2.
fn fill_up<const D: usize>(x: Tensor<D>, count: usize, value: f64) -> Tensor<D> {
    if count == 0 {
        return x;
    }
    let mut shape = x.dims();
    shape[2] = count;
    let tail = Tensor::full(shape, value, (&x.device(), x.dtype()));
    Tensor::cat(vec![x, tail], 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use regard_testkit::{Sampler, assert_close, cpu, gradcheck, sweep};

    const LENGTHS: [usize; 9] = [1, 2, 31, 32, 33, 64, 65, 1024, 1100];

    #[test]
    fn prefix_sums_of_any_length_are_those_of_a_loop() {
        let mut sampler = Sampler::new(1);
        for t in LENGTHS {
            let x = sampler.tensor([2, 1, t, 3], -1.0, 1.0).f64(&cpu());
            let start = sampler.tensor([2, 1, 1, 3], -1.0, 1.0).f64(&cpu());
            let (sums, total) = prefix_sum(x.clone(), start.clone());
            assert_close(&format!("sums of {t}"), &sums, &(x.clone().cumsum(2) + start), 1e-13);
            assert_close(&format!("total of {t}"), &total, &x.sum_dim(2), 1e-13);
        }
    }

    #[test]
    fn running_log_sums_of_any_length_are_those_of_a_loop() {
        sweep("running_log_sum_exp", 20, |s| {
            let t = s.pick(&LENGTHS);
            let x = s.tensor([2, 3, t], -3.0, 3.0).f64(&cpu());
            let start = s.tensor([2, 3, 1], -3.0, 3.0).f64(&cpu());
            let want = (x.clone().exp().cumsum(2) + start.clone().exp()).log();
            assert_close(&format!("T = {t}"), &running_log_sum_exp(x, start), &want, 1e-12);
        });
    }

    #[test]
    fn running_log_sums_survive_terms_that_are_far_apart() {
        let x = Tensor::<3>::from_data([[[-2e4_f32, -1e4, 3e4, 0.0, 3e4]]], &cpu());
        let got = running_log_sum_exp(x, Tensor::full([1, 1, 1], LOG_ZERO, &cpu()));
        let want = Tensor::<3>::from_data([[[-2e4_f32, -1e4, 3e4, 3e4, 3e4 + 2_f32.ln()]]], &cpu());
        assert_close("far apart", &got, &want, 1e-7);
    }

    #[test]
    fn gradients_of_the_scans_are_those_of_central_differences() {
        let mut sampler = Sampler::new(2);
        let x = sampler.tensor([1, 1, 70, 2], -1.0, 1.0);
        let start = sampler.tensor([1, 1, 1, 2], -1.0, 1.0);
        let weights = sampler.tensor([1, 1, 70, 2], -1.0, 1.0);
        gradcheck("prefix_sum", &[x, start], 1e-8, |args| {
            let (sums, total) = prefix_sum(args[0].clone(), args[1].clone());
            (sums * weights.f64(&args[0].device())).sum() + total.square().sum()
        });
        let x = sampler.tensor([1, 2, 70], -2.0, 2.0);
        let start = sampler.tensor([1, 2, 1], -2.0, 2.0);
        let weights = sampler.tensor([1, 2, 70], -1.0, 1.0);
        gradcheck("running_log_sum_exp", &[x, start], 1e-8, |args| {
            (running_log_sum_exp(args[0].clone(), args[1].clone()) * weights.f64(&args[0].device())).sum()
        });
    }
}
