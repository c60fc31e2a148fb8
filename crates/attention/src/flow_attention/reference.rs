//! The definition, with the whole L×S matrix.

use burn::tensor::{Bool, Tensor, activation};

use super::options::{FlowOptions, check_shapes, column, wide};
use crate::{
    Error, Result,
    blocks::{LOG_ZERO, matmul},
};

/// The weights W that bidirectional Flow attention implies, `o = W v`: `W_ij = r_i c_j (q_i · k_j) / I_i`.
///
/// Quadratic: for inspection and tests.
///
/// # Shapes
/// - `q`: `[B, H, L, D]`; `k`: `[B, H, S, D]`, S ≥ 1; output: `[B, H, L, S]`
///
/// # Errors
/// As [`flow_attention`](super::flow_attention).
pub fn flow_weights(q: Tensor<4>, k: Tensor<4>, options: &FlowOptions) -> Result<Tensor<4>> {
    weights(q, k, options, Form::Bidirectional)
}

/// The weights that causal Flow attention implies, as [`flow_weights`]; zero above the diagonal.
///
/// # Shapes
/// - `q`, `k`: `[B, H, T, D]`, T ≥ 1; output: `[B, H, T, T]`
///
/// # Errors
/// As [`flow_attention_causal`](super::flow_attention_causal), and if there is no token.
pub fn flow_weights_causal(q: Tensor<4>, k: Tensor<4>, options: &FlowOptions) -> Result<Tensor<4>> {
    weights(q, k, options, Form::Causal)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Bidirectional,
    Causal,
}

fn weights(q: Tensor<4>, k: Tensor<4>, options: &FlowOptions, form: Form) -> Result<Tensor<4>> {
    const OP: &str = "flow_weights";
    options.check(OP)?;
    check_shapes(OP, &q, &k, &k)?;
    let ([b, _, l, _], s) = (q.dims(), k.dims()[2]);
    let causal = form == Form::Causal;
    if s == 0 {
        return Err(Error::argument(OP, "k", "of at least one token", s));
    }
    if causal && l != s {
        return Err(Error::shape(OP, ("q", &q.dims()), ("k", &k.dims()), "tokens, as each is query and key in one"));
    }
    let hidden_keys = column(OP, "key_mask", options.key_mask.as_ref(), [b, s])?;
    let hidden_queries = if causal { hidden_keys.clone() } else { column(OP, "query_mask", options.query_mask.as_ref(), [b, l])? };

    let dtype = q.dtype();
    let [q, k] = [q, k].map(|x| x.cast(wide(dtype)));
    let present = |hidden: &Option<Tensor<4, Bool>>, tokens: usize| match hidden {
        Some(hidden) => hidden.clone().bool_not().float().cast(q.dtype()), // [B, 1, T, 1]
        None => Tensor::ones([1, 1, tokens, 1], (&q.device(), q.dtype())),
    };
    let (sinks, sources) = (present(&hidden_queries, l), present(&hidden_keys, s));
    let q = options.capacity(q, hidden_queries.as_ref());
    let k = options.capacity(k, hidden_keys.as_ref());

    // What a sink receives from the sources before it, and what a source gives to the sinks before it: rows i, columns j.
    let received = |x: Tensor<4>| if causal { x.tril(0) } else { x };
    let given = |x: Tensor<4>| if causal { x.triu(0) } else { x };
    let row = |x: Tensor<4>| x.swap_dims(2, 3); // [B, H, S, 1] to [B, H, 1, S]
    // n_i; the bidirectional form has the factors L/S and S instead.
    let (n_sink, n_source) = if causal {
        let n = sinks.clone().cumsum(2).clamp_min(1.0);
        (n.clone(), row(n))
    } else {
        let one = Tensor::ones([1, 1, 1, 1], (&q.device(), q.dtype()));
        (one.clone(), one)
    };

    let (q_eps, k_eps) = (q.clone() + options.eps, k.clone() + options.eps);
    let into_sinks = received(matmul(q_eps.clone(), row(k.clone())));
    let out_of_sources = given(matmul(q.clone(), row(k_eps.clone())));
    let rest_q = q_eps.sum_dim(3) * options.eps + options.extra_eps; // [B, H, L, 1]
    let rest_k = row(k_eps.sum_dim(3) * options.eps + options.extra_eps); // [B, H, 1, S]
    let incoming = into_sinks.clone().sum_dim(3) + rest_q.clone();
    let outgoing = out_of_sources.clone().sum_dim(2) + rest_k.clone();
    let conserved_in = ((into_sinks * (n_source.clone() / outgoing)).sum_dim(3) + rest_q) / n_sink.clone();
    let conserved_out = ((out_of_sources * (n_sink / incoming.clone())).sum_dim(2) + rest_k) / n_source.clone();
    let conserved_out = options.bounded(conserved_out);
    let conserved_out = match hidden_keys {
        Some(hidden) => {
            let shape = conserved_out.dims();
            conserved_out.mask_fill(hidden.swap_dims(2, 3).expand(shape), LOG_ZERO)
        }
        None => conserved_out,
    };

    let mut weights = received(matmul(q.clone(), row(k))) / incoming;
    if options.competition {
        let share = if causal {
            // Row j of the matrix is the competition that source j meets when it arrives: c_j stands on the diagonal.
            let shape = [conserved_out.dims()[0], conserved_out.dims()[1], s, s];
            let later = Tensor::<2, Bool>::tril_mask([s, s], 0, &q.device()).unsqueeze::<4>().expand(shape);
            let met = activation::softmax(conserved_out.expand(shape).mask_fill(later, LOG_ZERO), 3);
            row(met.tril(0).triu(0).sum_dim(3)) * n_source
        } else {
            activation::softmax(conserved_out, 3) * sources.clone().sum_dim(2).clamp_min(1.0)
        };
        weights = weights * share;
    }
    if options.allocation {
        let ratio = if causal { conserved_in } else { conserved_in * (sinks.sum_dim(2) / sources.sum_dim(2).clamp_min(1.0)) };
        weights = weights * activation::sigmoid(ratio);
    }
    Ok(weights.cast(dtype))
}
