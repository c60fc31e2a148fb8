//! Decoding at long contexts: tokens per second of TransNormerLLM, of the Kimi Linear hybrid and of latent attention alone, and the
//! bytes that each keeps beside those of the formula.
//!
//! `cargo bench -p regard-models --bench decode -- [D_MODEL] [LAYERS]` prints one JSON object per model and context. States are filled
//! with random numbers: what a step costs depends on their size alone.
#![allow(clippy::print_stdout, missing_docs)]

use std::time::{Duration, Instant};

use burn::tensor::{DType, Device, Distribution, Int, Tensor};
use regard::MixerState;
use regard_models::{Decoder, DecoderState, KimiLinearConfig, TnlConfig};

/// As in the command `regard`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCAB: usize = 256;
const CONTEXTS: [usize; 3] = [1 << 10, 1 << 14, 1 << 16];
const PROMPT: usize = 32;
const STEPS: usize = 101;
const ENOUGH: Duration = Duration::from_secs(20);

/// A model in decoding.
struct Candidate {
    name: &'static str,
    model: Decoder,
    /// Numbers per token that a latent layer keeps.
    width: usize,
    /// Bytes of the state behind so many tokens, by the formula.
    bytes: Box<dyn Fn(usize) -> usize>,
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let d_model = args.first().copied().unwrap_or(256);
    let layers = args.get(1).copied().unwrap_or(8);
    let heads = (d_model / 64).max(1);
    let device = Device::flex();
    let hybrid = KimiLinearConfig::new(VOCAB, d_model, layers, heads);
    let tnl = TnlConfig::new(VOCAB, d_model, layers, heads, (d_model * 8 / 3).next_multiple_of(8));
    let width = hybrid.clone().all_latent().cache_bytes(1, DType::F32).expect("a valid configuration").latent / layers / DType::F32.size();
    let kimi = |name, config: KimiLinearConfig| Candidate {
        name,
        model: config.init(&device).expect("a valid configuration"),
        width,
        bytes: Box::new(move |tokens| config.cache_bytes(tokens, DType::F32).expect("as above").total()),
    };
    // One K×V memory per head; the layer with rotated queries, the first, has twice the width of keys.
    let head = d_model / heads;
    let memory = (layers + 1) * heads * head * head * DType::F32.size();
    let candidates = [
        Candidate { name: "tnl", model: tnl.init(&device).expect("a valid configuration"), width: 0, bytes: Box::new(move |_| memory) },
        kimi("kimi_linear", hybrid.clone()),
        kimi("latent", hybrid.all_latent()),
    ];
    // In turns over the contexts, so that a busy machine disturbs all alike; the shortest context is the yardstick of the growth.
    for candidate in &candidates {
        let mut states = CONTEXTS.map(|tokens| filled(candidate, tokens - STEPS, &device));
        let mut times = [const { Vec::new() }; CONTEXTS.len()];
        let token = Tensor::<1, Int>::ones([1], &device);
        let begun = Instant::now();
        for step in 0..STEPS {
            // A model whose steps take long is measured by fewer; its buffers are of the same size from the first on.
            if step > 10 && begun.elapsed() > ENOUGH {
                break;
            }
            for (times, state) in times.iter_mut().zip(&mut states) {
                let start = Instant::now();
                candidate.model.step(token.clone(), state).expect("a token of the vocabulary").into_data();
                times.push(start.elapsed().as_secs_f64());
            }
        }
        let times = times.map(median);
        for ((tokens, state), seconds) in CONTEXTS.iter().zip(&states).zip(times) {
            println!(
                r#"{{"model":"{}","d_model":{d_model},"layers":{layers},"context":{tokens},"step_ms":{:.4},"tokens_per_s":{:.1},"of_shortest":{:.3},"state_bytes":{},"formula_bytes":{}}}"#,
                candidate.name,
                1e3 * seconds,
                1.0 / seconds,
                seconds / times[0],
                state.bytes(),
                (candidate.bytes)(*tokens)
            );
        }
    }
}

/// A state behind so many tokens.
fn filled(candidate: &Candidate, tokens: usize, device: &Device) -> DecoderState {
    let mut state = candidate.model.state(1);
    candidate.model.prefill(Tensor::<2, Int>::ones([1, PROMPT], device), &mut state).expect("tokens of the vocabulary");
    let kept = Tensor::<4>::random([1, 1, tokens - PROMPT, candidate.width], Distribution::Normal(0.0, 1.0), device);
    for layer in &mut state.layers {
        if let MixerState::Latent(layer) = layer {
            layer.extend(kept.clone()).expect("of the layer's width");
        }
    }
    state.position = tokens;
    state
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
