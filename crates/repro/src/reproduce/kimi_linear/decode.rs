use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Int, Tensor};
use regard::MixerState;
use regard_models::{Decoder, DecoderState, KimiLinearConfig};
use regard_train::report::Quantity;

use super::super::{Figure, FigureKind, Finding, Lab, values::median};
use crate::Result;

const VOCAB: usize = 256;
const WIDTH: usize = 256;
const LAYERS: usize = 8;
const HEADS: usize = 4;
/// Where the rule looks.
const LONGEST: usize = 1 << 16;
/// Tokens that are really taken in before the caches are filled up with random numbers.
const PROMPT: usize = 32;

/// A state behind so many tokens. The memories of linear layers hold what the first ones wrote: their size and their time do not
/// depend on the content.
fn filled(model: &Decoder, config: &KimiLinearConfig, tokens: usize, device: &Device) -> Result<DecoderState> {
    let mut state = model.state(1);
    model.prefill(Tensor::<2, Int>::ones([1, PROMPT], device), &mut state)?;
    let bytes_per_token = config.clone().all_latent().cache_bytes(1, DType::F32)?.latent / LAYERS;
    let width = bytes_per_token / DType::F32.size();
    let kept = Tensor::<4>::random([1, 1, tokens - PROMPT, width], Distribution::Normal(0.0, 1.0), device);
    for layer in &mut state.layers {
        if let MixerState::Latent(layer) = layer {
            layer.extend(kept.clone())?;
        }
    }
    state.position = tokens;
    Ok(state)
}

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let device = lab.device();
    device.seed(1);
    let hybrid = KimiLinearConfig::new(VOCAB, WIDTH, LAYERS, HEADS);
    let configs = [hybrid.clone(), hybrid.all_latent()];
    let models = [configs[0].init(&device)?, configs[1].init(&device)?];
    // The last step fills the buffers: then they hold what the formula says.
    let steps = lab.quick_or(21, 101);
    let token = Tensor::<1, Int>::ones([1], &device);
    let (mut rows, mut lines, mut as_formula) = (Vec::new(), [Vec::new(), Vec::new()], true);
    let (mut saved, mut ratio) = (0.0, f64::NAN);
    for tokens in (10..=16).map(|power| 1 << power) {
        lab.note(&format!("{tokens} tokens"))?;
        let mut states = Vec::new();
        for (model, config) in models.iter().zip(&configs) {
            states.push(filled(model, config, tokens - steps, &device)?);
        }
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..steps {
            for ((times, model), state) in times.iter_mut().zip(&models).zip(&mut states) {
                let begun = Instant::now();
                model.step(token.clone(), state)?.into_data();
                times.push(begun.elapsed().as_secs_f64());
            }
        }
        let [linear, full] = times.map(median);
        let bytes = [states[0].bytes(), states[1].bytes()];
        for (bytes, config) in bytes.iter().zip(&configs) {
            as_formula &= *bytes == config.cache_bytes(tokens, DType::F32)?.total();
        }
        saved = 1.0 - bytes[0] as f64 / bytes[1] as f64;
        ratio = linear / full;
        for (line, time) in lines.iter_mut().zip([linear, full]) {
            line.push((tokens as f64, time));
        }
        let (time, size) = (|seconds| Quantity::Seconds.text(seconds, 3), |bytes| Quantity::Bytes.text(bytes as f64, 3));
        rows.push(vec![
            Quantity::Length.text(tokens as f64, 3),
            size(bytes[0]),
            size(bytes[1]),
            format!("{:.1} %", 100.0 * saved),
            time(linear),
            time(full),
            format!("{ratio:.3}"),
        ]);
    }
    let measured = format!(
        "bytes of the caches {} the formula; at {LONGEST} tokens {:.1} % less cache and {ratio:.3} of the time a token",
        if as_formula { "equal to" } else { "other than" },
        100.0 * saved
    );
    let [linear, full] = lines;
    Ok(Finding::new(as_formula && saved >= 0.74 && ratio <= 0.5, measured)
        .note(format!(
            "{LAYERS} layers of width {WIDTH}, {HEADS} heads, latent vectors of {WIDTH} and shared keys of 32 numbers, SwiGLU without experts, f32; \
             every fourth layer of the hybrid with latent attention; one sequence, caches filled with random numbers, medians of {steps} steps in turns"
        ))
        .table("Decoding", &["tokens", "cache", "all-MLA", "saved", "time a token", "all-MLA", "ratio"], rows)
        .figure(Figure::new("Time of a token", FigureKind::Time, [("hybrid".into(), linear), ("all-MLA".into(), full)])))
}
