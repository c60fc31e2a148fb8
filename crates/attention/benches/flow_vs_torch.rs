//! Causal Flow attention beside the same chunked algorithm in eager PyTorch, and beside PyTorch's softmax attention, in turns within one
//! run. See README.md in this folder.

mod common;

use std::{error::Error, hint::black_box, time::Instant};

use burn::tensor::{Device, Distribution, Tensor};
use common::{peak_memory, table::Table};
use regard::flow_attention::{FlowOptions, flow_attention_causal};

/// `[B, H, T, D = E]`
const SHAPES: [[usize; 4]; 7] =
    [[1, 8, 512, 64], [4, 8, 512, 128], [1, 8, 2048, 64], [4, 8, 2048, 64], [2, 8, 2048, 128], [1, 8, 8192, 128], [1, 8, 16384, 64]];

fn random(shape: [usize; 4], device: &Device) -> [Tensor<4>; 4] {
    std::array::from_fn(|_| Tensor::random(shape, Distribution::Normal(0.0, 1.0), device))
}

/// One timed run, in ms, of the forward pass or of both passes.
fn regard([q, k, v, cotangent]: &[Tensor<4>; 4], backward: bool) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let tracked = |x: &Tensor<4>| if backward { x.clone().require_grad() } else { x.clone() };
    let o = flow_attention_causal(tracked(q), tracked(k), tracked(v), &FlowOptions::default())?;
    if backward {
        black_box(common::backward(o, cotangent));
    } else {
        black_box(o);
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Multiply-adds, counted as two, of the products of blocks of C = 64 tokens, triangles as halves; those of the flows are not counted.
fn flops([b, h, t, d]: [usize; 4], backward: bool) -> f64 {
    let (t, d, c) = (t as f64, d as f64, 64.0);
    let (square, triangle) = (2.0 * d * d, c * d);
    // Over the past: the state updated and read, scores and their product. From the future: read twice, scores and products twice.
    let forward = 2.0 * square + 2.0 * triangle;
    let both = 2.0 * forward + 3.0 * square + 4.0 * triangle;
    (b * h) as f64 * t * if backward { both } else { forward }
}

fn main() -> Result<(), Box<dyn Error>> {
    common::run(compare)
}

#[allow(clippy::print_stdout)]
fn compare() -> Result<(), Box<dyn Error>> {
    let seconds = common::seconds(4.0)?;
    let autodiff = Device::flex().autodiff();
    println!("training at T, one head of D = E = 64: resident memory it adds, beside the tensors that it must hold");
    for t in [4096, 16384, 65536] {
        let inputs = random([1, 1, t, 64], &autodiff);
        let before = peak_memory();
        regard(&inputs, true)?;
        // Output, its gradient and three more; a dozen numbers per token.
        let numbers = t * (5 * 64 + 10 + 4);
        println!("{t:>8} {:>8.1} MiB of {:.1} MiB", peak_memory() - before, (numbers * 4) as f64 / f64::from(1 << 20));
    }
    let table = Table { script: "flow_vs_torch.py", case: "flow", axes: "[B, H, T, D=E]", shapes: &SHAPES, samples: 5, seconds };
    table.print(random, regard, flops)
}
