//! Kimi Delta Attention beside the same chunked algorithm in eager PyTorch, and beside PyTorch's softmax attention, in turns within one
//! run. See README.md in this folder.

mod common;

use std::{error::Error, time::Instant};

use burn::tensor::{Device, Distribution, Tensor};
use common::{peak_memory, table::Table};
use regard::kimi_delta::{KimiDeltaOptions, kimi_delta};

/// `[B, H, T, K = V]`
const SHAPES: [[usize; 4]; 9] = [
    [4, 8, 512, 64],
    [1, 8, 1024, 64],
    [1, 8, 2048, 64],
    [2, 8, 2048, 128],
    [1, 1, 4096, 64],
    [1, 8, 4096, 64],
    [1, 8, 4096, 96],
    [1, 8, 8192, 128],
    [1, 8, 16384, 64],
];

/// q, k, v, g, β and the cotangent of the output.
struct Inputs {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    g: Tensor<4>,
    beta: Tensor<3>,
    cotangent: Tensor<4>,
}

impl Inputs {
    fn new([b, h, t, d]: [usize; 4], device: &Device) -> Self {
        let normal = || Tensor::<4>::random([b, t, h, d], Distribution::Normal(0.0, 1.0), device);
        let k = normal();
        let k = k.clone() / (k.square().sum_dim(3) + 1e-6).sqrt();
        Self {
            q: normal(),
            k,
            v: normal(),
            g: Tensor::random([b, t, h, d], Distribution::Uniform(-1.0, 0.0), device),
            beta: Tensor::random([b, t, h], Distribution::Uniform(0.0, 1.0), device),
            cotangent: normal(),
        }
    }

    /// One timed run, in ms, of the forward pass or of both passes.
    fn run(&self, backward: bool) -> Result<f64, Box<dyn Error>> {
        let start = Instant::now();
        let tracked = |x: &Tensor<4>| if backward { x.clone().require_grad() } else { x.clone() };
        let beta = if backward { self.beta.clone().require_grad() } else { self.beta.clone() };
        let options = KimiDeltaOptions { check_decay: false, ..Default::default() };
        let (o, _) = kimi_delta(tracked(&self.q), tracked(&self.k), tracked(&self.v), tracked(&self.g), beta, options)?;
        if backward {
            std::hint::black_box(common::backward(o, &self.cotangent));
        } else {
            std::hint::black_box(o);
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

/// Multiply-adds, counted as two, of the chunked algorithm: the products of C = 64 tokens, triangles as halves.
fn flops([b, h, t, d]: [usize; 4], backward: bool) -> f64 {
    let (t, d, c) = (t as f64, d as f64, 64.0);
    let (square, triangle) = (2.0 * d * d, c * d);
    // Forward: A_kk, A_qk, the system and A_qk V' over a triangle; P S, Q S and Kᵀ V' over the state.
    let forward = 3.0 * square + 4.0 * triangle;
    // Backward: all but the two products that give outputs and state, then 6 over the state and 3 + 4 + 1 over a triangle.
    let both = forward + (square + 3.0 * triangle) + 6.0 * square + 8.0 * triangle;
    (b * h) as f64 * t * if backward { both } else { forward }
}

fn main() -> Result<(), Box<dyn Error>> {
    common::run(compare)
}

#[allow(clippy::print_stdout)]
fn compare() -> Result<(), Box<dyn Error>> {
    let seconds = common::seconds(6.0)?;
    let autodiff = Device::flex().autodiff();
    println!("training at T, one head of K = V = 64: resident memory it adds, beside the tensors that it must hold");
    for t in [2048, 8192, 32768] {
        let inputs = Inputs::new([1, 1, t, 64], &autodiff);
        let before = peak_memory();
        inputs.run(true)?;
        // States of 64×64 per 64 tokens; output, its gradient and those of five inputs.
        let numbers = t * (64 + 2 * 64 + 4 * 64 + 1);
        println!("{t:>8} {:>8.1} MiB of {:.1} MiB", peak_memory() - before, (numbers * 4) as f64 / f64::from(1 << 20));
    }
    let table = Table { script: "kda_vs_torch.py", case: "kda", axes: "[B, H, T, K=V]", shapes: &SHAPES, samples: 3, seconds };
    table.print(Inputs::new, Inputs::run, flops)
}
