//! Times one training step (forward, backward, clip, AdamW) of a character model: with any mixer, in nanoGPT's CPU setting (`nanogpt`:
//! batch 12, context 64, width 128) or a wider one (`wide`: batch 8, context 256, width 256).
//!
//! `cargo bench --workspace --bench training_step -- [MIXER] [SETTING] [STEPS]` prints one JSON object. `benches/training_step.py` runs it
//! side by side with PyTorch.
#![allow(clippy::print_stdout, clippy::unchecked_time_subtraction, missing_docs)]

use std::time::Instant;

use burn::{
    grad_clipping::GradientClippingConfig,
    optim::{AdamWConfig, GradientsParams},
    tensor::{Device, Int, Tensor, TensorData},
};
use regard::{
    MixerConfig,
    blocks::{MlpKind, NormKind},
    softmax_attention::SoftmaxAttentionConfig,
};
use regard_models::{DecoderConfig, Positions};

/// As in the command `regard`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCAB: usize = 65;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let kind = args.first().map_or("softmax", String::as_str);
    let setting = args.get(1).map_or("nanogpt", String::as_str);
    let [batch, context, width] = match setting {
        "nanogpt" => [12, 64, 128],
        "wide" => [8, 256, 256],
        other => panic!("SETTING is nanogpt or wide, not {other}"),
    };
    let steps: usize = args.get(2).map_or(60, |n| n.parse().expect("STEPS is a whole number"));
    let mixer = match kind {
        "softmax" => MixerConfig::Softmax(SoftmaxAttentionConfig { rotary_base: None, ..SoftmaxAttentionConfig::new(4) }),
        other => MixerConfig::named(other, 4).expect("MIXER is one of the list that `regard list` prints"),
    };
    let config = DecoderConfig {
        d_ff: 4 * width,
        mlp: MlpKind::Gelu,
        norm: NormKind::LayerNoBias,
        positions: Positions::Learned,
        ..DecoderConfig::new(VOCAB, width, 4, vec![mixer], context)
    };
    let device = Device::flex().autodiff();
    let mut model = config.init(&device).expect("a valid configuration");
    let params = model.params();
    let clip = GradientClippingConfig::Norm(1.0);
    let mut optimizer =
        AdamWConfig::new().with_beta_2(0.99).with_epsilon(1e-8).with_weight_decay(0.1).with_grad_clipping(Some(clip)).init();

    let ids: Vec<i64> = (0..batch * (context + 1)).map(|i| ((i * i + 7 * i) % VOCAB) as i64).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, context + 1]), &device);
    let (input, target) = (ids.clone().narrow(1, 0, context), ids.narrow(1, 1, context));

    let (mut forward, mut backward, mut update) = (Vec::new(), Vec::new(), Vec::new());
    let mut loss = 0.0;
    for step in 0..steps + 5 {
        let start = Instant::now();
        let value = model.loss(input.clone(), target.clone(), None);
        let after_forward = start.elapsed();
        let grads = GradientsParams::from_grads(value.backward(), &model);
        let after_backward = start.elapsed();
        model = optimizer.step(1e-3, model, grads);
        let after_update = start.elapsed();
        loss = value.into_scalar::<f32>();
        if step >= 5 {
            forward.push(after_forward.as_secs_f64() * 1e3);
            backward.push((after_backward - after_forward).as_secs_f64() * 1e3);
            update.push((after_update - after_backward).as_secs_f64() * 1e3);
        }
    }
    let total: Vec<f64> = forward.iter().zip(&backward).zip(&update).map(|((a, b), c)| a + b + c).collect();
    println!(
        r#"{{"mixer":"{kind}","setting":"{setting}","params":{params},"steps":{steps},"step_ms":{:.3},"forward_ms":{:.3},"backward_ms":{:.3},"update_ms":{:.3},"loss":{loss:.4}}}"#,
        median(total),
        median(forward),
        median(backward),
        median(update)
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
