use burn::tensor::{Device, Distribution, Tensor};
use regard::{
    flow_attention::{FlowOptions, flow_attention, flow_attention_causal},
    softmax_attention::{SoftmaxOptions, softmax_attention},
};
use regard_train::report::Quantity;

use super::super::{Figure, FigureKind, Finding, Lab, Verdict};
use crate::{Result, fit::exponent, machine::sync};

const HEADS: usize = 4;
const WIDTH: usize = 32;
/// Lengths from here on are fitted: below, fixed costs dominate.
const FIT_FROM: usize = 2048;

#[derive(Clone, Copy)]
enum Form {
    Normal,
    Causal,
    Softmax,
}

impl Form {
    fn forward(self, [q, k, v]: [Tensor<4>; 3]) -> regard::Result<Tensor<4>> {
        match self {
            Self::Normal => flow_attention(q, k, v, &FlowOptions::default()),
            Self::Causal => flow_attention_causal(q, k, v, &FlowOptions::default()),
            Self::Softmax => Ok(softmax_attention(q, k, v, SoftmaxOptions { causal: true, ..SoftmaxOptions::default() })?.0),
        }
    }
}

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let device = lab.device();
    let longest = lab.quick_or(16_384, 32_768);
    let lengths: Vec<usize> = (9..=15).map(|power| 1 << power).filter(|n| *n <= longest).collect();
    let forms =
        [("normal", Form::Normal, longest), ("causal", Form::Causal, longest), ("softmax", Form::Softmax, lab.quick_or(8192, longest))];
    let (mut lines, mut rows, mut share) = (Vec::new(), Vec::new(), 0.0_f64);
    let mut measured_memory = true;
    for (name, form, longest) in forms {
        let mut points = Vec::new();
        for &length in lengths.iter().filter(|n| **n <= longest) {
            lab.note(&format!("{name}, {length} tokens"))?;
            let training = cost(lab, form, length, &device, true)?;
            let forward = cost(lab, form, length, &device, false)?;
            points.push((length as f64, training.seconds));
            let io = (4 * HEADS * length * WIDTH * 4) as f64;
            // What is there before, the inputs, is not in the peak.
            let ratio = forward.peak_bytes.map(|peak| (peak as f64 + 0.75 * io) / io);
            if matches!(form, Form::Causal) {
                measured_memory &= ratio.is_some();
                share = share.max(ratio.unwrap_or(0.0));
            }
            let bytes = |peak: Option<usize>| peak.map_or("–".into(), |b| Quantity::Bytes.text(b as f64, 3));
            rows.push(vec![
                name.to_owned(),
                Quantity::Length.text(length as f64, 3),
                Quantity::Seconds.text(training.seconds, 3),
                bytes(training.peak_bytes),
                Quantity::Seconds.text(forward.seconds, 3),
                bytes(forward.peak_bytes),
                ratio.map_or("–".into(), |r| format!("{r:.2}")),
            ]);
        }
        lines.push((name.to_owned(), points));
    }
    let fitted = |line: usize| exponent(lines[line].1.iter().copied().filter(|(n, _)| *n as usize >= FIT_FROM)).unwrap_or(f64::NAN);
    let [normal, causal, softmax] = [fitted(0), fitted(1), fitted(2)];
    let measured = format!(
        "time ∝ N^{normal:.2} (normal), N^{causal:.2} (causal), N^{softmax:.2} (softmax); causal memory at most {share:.2} times inputs and outputs"
    );
    let finding = Finding::new(normal <= 1.1 && causal <= 1.1 && softmax >= 1.8 && share <= 3.0, measured)
        .note(format!("B = 1, H = {HEADS}, D = E = {WIDTH}, f32, up to {longest} tokens; exponents by least squares of the logarithms from {FIT_FROM} up"))
        .table(
            "Time and peak memory",
            &["form", "N", "training", "its memory", "forward", "its memory", "over inputs and outputs"],
            rows,
        )
        .figure(Figure::new("Forward and backward", FigureKind::Time, lines));
    Ok(if measured_memory { finding } else { Finding { verdict: Verdict::NotTestable(lab.memory().err().unwrap_or_default()), ..finding } })
}

fn cost(lab: &Lab<'_, '_>, form: Form, length: usize, device: &Device, training: bool) -> Result<crate::measure::Cost> {
    let device = if training { device.clone().autodiff() } else { device.clone() };
    let draw = || Tensor::<4>::random([1, HEADS, length, WIDTH], Distribution::Normal(0.0, 1.0), &device);
    let (inputs, cotangent) = ([draw(), draw(), draw()], draw());
    let mut failed = None;
    let cost = lab.measure(5, || {
        let tracked = inputs.clone().map(|x| if training { x.require_grad() } else { x });
        match form.forward(tracked.clone()) {
            Ok(o) if training => {
                let gradients = (o * cotangent.clone()).sum().backward();
                drop(tracked.map(|x| x.grad(&gradients)));
            }
            Ok(o) => drop(o),
            Err(error) => failed = Some(error),
        }
        sync(&device);
    });
    failed.map_or(Ok(cost), |error| Err(error.into()))
}
