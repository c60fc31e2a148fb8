use burn::tensor::{Device, Distribution, Tensor};
use regard::{
    flow_attention::{FlowOptions, flow_attention_causal},
    softmax_attention::{SoftmaxOptions, softmax_attention},
};

use super::BenchConfig;

/// A causal operation with inputs to run it on.
pub(super) struct Operation {
    pub(super) inputs: Vec<Tensor<4>>,
    pub(super) run: fn(&[Tensor<4>]) -> regard::Result<Tensor<4>>,
    /// Floating-point operations that its definition needs for the forward pass, a multiply-add counted as two.
    pub(super) flops: f64,
    /// The same for the backward pass.
    pub(super) backward_flops: f64,
}

/// The operation of a kind at a length, with random inputs.
pub(super) fn operation(kind: &str, config: &BenchConfig, tokens: usize, device: &Device) -> Option<Operation> {
    let (b, h, t, k) = (config.batch, config.heads, tokens, config.width);
    let dtype = config.dtype.dtype();
    let draw = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device).cast(dtype);
    let head_major = || draw([b, h, t, k]);
    let (tokens, width) = ((b * h * t) as f64, k as f64);
    Some(match kind {
        "softmax" => {
            // Half of the pairs; forward two products over them, backward five.
            let product = tokens * (t + 1) as f64 * width;
            Operation {
                inputs: vec![head_major(), head_major(), head_major()],
                run: |x| {
                    let options = SoftmaxOptions { causal: true, ..SoftmaxOptions::default() };
                    softmax_attention(x[0].clone(), x[1].clone(), x[2].clone(), options).map(|(o, _)| o)
                },
                flops: 2.0 * product,
                backward_flops: 5.0 * product,
            }
        }
        "flow" => {
            // Into the state and out of it, K·V multiply-adds each per token; backward twice that.
            let flops = 4.0 * tokens * width * width;
            Operation {
                inputs: vec![head_major(), head_major(), head_major()],
                run: |x| flow_attention_causal(x[0].clone(), x[1].clone(), x[2].clone(), &FlowOptions::default()),
                flops,
                backward_flops: 2.0 * flops,
            }
        }
        _ => return None,
    })
}
