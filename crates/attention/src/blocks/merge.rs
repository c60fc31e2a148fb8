use burn::tensor::Tensor;

use crate::{Error, Result};

/// The attention over the keys of several attentions together, from their outputs and the log-sum-exps of their scores:
/// `lse = ln Σ_n exp(lse_n)`, `o = Σ_n exp(lse_n − lse) o_n`. Differentiable in all of them. A query that sees no key in any of them, with
/// log-sum-exps of −∞, gives zeros.
///
/// # Shapes
/// - each output `[…, V]` with its log-sum-exp `[…, 1]`
/// - output: the same
///
/// # Errors
/// If there is none, or the shapes disagree.
pub fn merge_attentions<const D: usize>(parts: Vec<(Tensor<D>, Tensor<D>)>) -> Result<(Tensor<D>, Tensor<D>)> {
    const OP: &str = "merge_attentions";
    let Some((first, _)) = parts.first() else { return Err(Error::argument(OP, "parts", "at least one", 0)) };
    let (dims, zeros) = (first.dims(), first.zeros_like());
    let mut of_lse = dims;
    of_lse[D - 1] = 1;
    for (o, lse) in &parts {
        if o.dims() != dims {
            return Err(Error::shape(OP, ("the first output", &dims), ("another", &o.dims()), "shape"));
        }
        if lse.dims() != of_lse {
            return Err(Error::argument(OP, "a log-sum-exp", format!("of shape {of_lse:?}"), format!("{:?}", lse.dims())));
        }
    }
    let (outputs, sums): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let sums = Tensor::cat(sums, D - 1); // […, parts]
    // Finite, so that −∞ minus it is −∞.
    let highest = sums.clone().detach().max_dim(D - 1).clamp_min(-1e30);
    let weights = (sums - highest.clone()).exp();
    let total = weights.clone().sum_dim(D - 1);
    let lse = total.clone().log() + highest;
    let weights = weights / total.clamp_min(f64::from(f32::MIN_POSITIVE));
    let terms = outputs.into_iter().enumerate().map(|(n, o)| weights.clone().narrow(D - 1, n, 1) * o);
    Ok((terms.fold(zeros, |sum, term| sum + term), lse))
}
