use burn::tensor::{Device, Distribution, Tensor, activation};
use regard::{
    flow_attention::{FlowOptions, flow_attention_causal},
    kimi_delta::{KimiDeltaOptions, kimi_delta},
    lightning_attention::{LightningOpts, lightning_attention},
    nprf::{NprfOptions, nprf},
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
        "lightning" => {
            let flops = 4.0 * tokens * width * width;
            Operation {
                inputs: vec![head_major(), head_major(), head_major()],
                run: |x| {
                    // The usual decays: a geometric row of slopes over the heads.
                    let heads = x[0].dims()[1];
                    let slopes: Vec<f64> = (1..=heads).map(|h| 2f64.powf(-8.0 * h as f64 / heads as f64)).collect();
                    lightning_attention(x[0].clone(), x[1].clone(), x[2].clone(), &slopes, LightningOpts::default()).map(|(o, _)| o)
                },
                flops,
                backward_flops: 2.0 * flops,
            }
        }
        "nprf" => {
            // By pairs, as of softmax; transforms need other operations.
            let product = tokens * (t + 1) as f64 * width;
            let projection = draw([1, h, k, k]);
            let bias = draw([1, 1, h, 2 * t - 1]);
            Operation {
                inputs: vec![head_major(), head_major(), head_major(), projection, bias],
                run: |x| {
                    let [_, h, t, _] = x[0].dims();
                    let bias = x[4].clone().reshape([h, 2 * t - 1]);
                    let options = NprfOptions { causal: true, ..NprfOptions::default() };
                    nprf(x[0].clone(), x[1].clone(), x[2].clone(), x[3].clone().squeeze_dim(0), Some(bias), &options).map(|(o, _)| o)
                },
                flops: 2.0 * product,
                backward_flops: 5.0 * product,
            }
        }
        "kimi_delta" => {
            // What the state holds for a key is read as well.
            let flops = 6.0 * tokens * width * width;
            let unit = |x: Tensor<4>| x.clone() / x.powf_scalar(2.0).sum_dim(3).sqrt().add_scalar(1e-6);
            let [q, k] = [(); 2].map(|()| unit(draw([b, t, h, k])));
            Operation {
                inputs: vec![
                    q,
                    k.clone(),
                    draw(k.dims()),
                    // Log decays and strengths as gates give them.
                    activation::log_sigmoid(draw(k.dims()) + 3.0),
                    activation::sigmoid(draw([b, t, h, 1])),
                ],
                run: |x| {
                    let beta = x[4].clone().squeeze_dim(3);
                    let options = KimiDeltaOptions { check_decay: false, ..KimiDeltaOptions::default() };
                    kimi_delta(x[0].clone(), x[1].clone(), x[2].clone(), x[3].clone(), beta, options).map(|(o, _)| o)
                },
                flops,
                backward_flops: 2.0 * flops,
            }
        }
        _ => return None,
    })
}
