//! Networks over images beside PyTorch's, in turns within one run. See README.md in this folder.

#[path = "../../attention/benches/common/mod.rs"]
mod common;

use std::{error::Error, time::Instant};

use burn::tensor::{Device, Distribution, Int, Tensor};
use common::{Torch, median, pause, peak_memory};
use regard::{Result as RegardResult, blocks::cross_entropy};
use regard_models::{
    davit::{Davit, DavitConfig},
    nat::{Nat, NatConfig},
    resnet::{ResNet, ResNetConfig},
    vit::{Vit, VitConfig},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// One timed run, in ms; with the loss of a batch of classes and the gradients of all weights if asked for.
type Run = Box<dyn Fn(bool) -> Outcome<f64>>;

const BATCH: usize = 8;
const SIDE: usize = 224;

/// Times a network, given what makes it on a device and what it computes.
fn timed<M: 'static>(
    make: impl Fn(&Device) -> RegardResult<M>,
    logits: impl Fn(&M, Tensor<4>) -> RegardResult<Tensor<2>> + 'static,
) -> Outcome<Run> {
    let devices = [Device::flex(), Device::flex().autodiff()];
    let models = [make(&devices[0])?, make(&devices[1])?];
    Ok(Box::new(move |training| {
        let (model, device) = (&models[usize::from(training)], &devices[usize::from(training)]);
        let images = Tensor::random([BATCH, 3, SIDE, SIDE], Distribution::Normal(0.0, 1.0), device);
        let classes = Tensor::<1, Int>::arange(0..BATCH as i64, device);
        let start = Instant::now();
        let logits = logits(model, images)?;
        if training {
            std::hint::black_box(cross_entropy(logits, classes, None).backward());
        } else {
            std::hint::black_box(logits.into_data());
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }))
}

/// The networks by name, each with its multiply-adds in units of 10⁹.
fn case(name: &str) -> Outcome<(Run, f64)> {
    let shapes = Device::flex();
    // The rates of stochastic depth are those of timm's defaults.
    if let Some(config) = DavitConfig::named(name) {
        let config = DavitConfig { drop_path: 0.0, ..config };
        let cost = config.skeleton(&shapes)?.multiply_adds([SIDE; 2])?;
        return Ok((timed(move |device| config.init(device), Davit::forward)?, cost / 1e9));
    }
    if let Some(config) = NatConfig::named(name) {
        let config = NatConfig { drop_path: 0.0, ..config };
        let cost = config.skeleton(&shapes)?.multiply_adds([SIDE; 2])?;
        return Ok((timed(move |device| config.init(device), Nat::forward)?, cost / 1e9));
    }
    if let Some(config) = VitConfig::named(name) {
        let config = VitConfig { drop_path: 0.0, ..config };
        let cost = config.skeleton(&shapes)?.multiply_adds();
        return Ok((timed(move |device| config.init(device), Vit::forward)?, cost / 1e9));
    }
    let config = ResNetConfig::named(name).ok_or_else(|| format!("no network is called {name}"))?;
    let cost = config.init(&shapes)?.multiply_adds([SIDE; 2]);
    Ok((timed(move |device| config.init(device), ResNet::forward)?, cost / 1e9))
}

fn main() -> Result<(), Box<dyn Error>> {
    common::run(compare)
}

#[allow(clippy::print_stdout)]
fn compare() -> Outcome<()> {
    let seconds = common::seconds(20.0)?;
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let names = if args.is_empty() { vec!["davit_tiny".to_owned(), "nat_mini".to_owned()] } else { args };
    let mut torch = if std::env::var_os("REGARD_BENCH_ALONE").is_some() { None } else { Some(Torch::start("images_vs_torch.py")?) };
    println!("{:<12} {:<10} {:>10} {:>9} {:>10} {:>7} {:>7}", "network", "pass", "regard ms", "GFLOP/s", "torch ms", "median", "best");
    for name in names {
        let (run, cost) = case(&name)?;
        for training in [false, true] {
            let line = format!("{name} {}", u8::from(training));
            run(training)?;
            if let Some(torch) = &mut torch {
                torch.run(&line)?;
            }
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            let start = Instant::now();
            while ours.len() < 3 || start.elapsed().as_secs_f64() < seconds {
                pause();
                ours.push(run(training)?);
                if let Some(torch) = &mut torch {
                    theirs.push(torch.run(&line)?);
                }
            }
            let a = median(&mut ours);
            let pass = if training { "gradients" } else { "forward" };
            // A backward pass multiplies twice as much as the forward pass.
            let operations = 2.0 * cost * BATCH as f64 * if training { 3.0 } else { 1.0 };
            print!("{name:<12} {pass:<10} {a:>10.1} {:>9.1}", operations / a * 1e3);
            if !theirs.is_empty() {
                let b = median(&mut theirs);
                print!(" {b:>10.1} {:>7.2} {:>7.2}", a / b, ours[0] / theirs[0]);
            }
            println!();
        }
    }
    println!("highest resident memory of this side: {:.0} MiB", peak_memory());
    if let Some(torch) = torch {
        torch.stop()?;
    }
    Ok(())
}
