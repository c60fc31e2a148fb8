use burn::tensor::{Device, Distribution, Tensor};
use regard::{
    lightning_attention::{DecayRule, LightningOpts, Variant, lightning_attention},
    softmax_attention::{SoftmaxOptions, softmax_attention},
};
use regard_train::report::Quantity;

use super::super::{Figure, FigureKind, Finding, Lab};
use crate::{Result, machine::sync};

const HEADS: usize = 4;
const WIDTH: usize = 64;
/// Bytes that the naive form may take.
const LIMIT: f64 = 4e9;

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Tiled,
    LeftProduct,
    Softmax,
    CumulativeSum,
}

impl Form {
    const ALL: [(&str, Self); 4] =
        [("tiled", Self::Tiled), ("left product", Self::LeftProduct), ("softmax", Self::Softmax), ("cumulative sum", Self::CumulativeSum)];

    /// Forms that store T×T or T×K×V numbers are measured on one head of one sequence, and their time is multiplied.
    fn one_head(self) -> bool {
        matches!(self, Self::LeftProduct | Self::CumulativeSum)
    }

    fn longest(self, longest: usize) -> usize {
        match self {
            Self::Tiled => longest,
            // The rule looks no further.
            Self::LeftProduct | Self::Softmax => longest / 2,
            Self::CumulativeSum => 4096,
        }
    }

    fn forward(self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Result<Tensor<4>> {
        let heads = q.dims()[1];
        let slopes = &DecayRule::Code.slopes(HEADS, 4, 1)[..heads];
        let lightning = |variant| LightningOpts { variant, ..LightningOpts::default() };
        Ok(match self {
            Self::Tiled => lightning_attention(q, k, v, slopes, lightning(Variant::Tiled))?.0,
            Self::LeftProduct => lightning_attention(q, k, v, slopes, lightning(Variant::LeftProduct))?.0,
            Self::Softmax => softmax_attention(q, k, v, SoftmaxOptions { causal: true, ..SoftmaxOptions::default() })?.0,
            Self::CumulativeSum => {
                let products = k.unsqueeze_dim::<5>(4) * v.unsqueeze_dim::<5>(3); // [B, H, T, K, V]
                q.unsqueeze_dim::<5>(3).matmul(products.cumsum(2)).squeeze_dim(3)
            }
        })
    }

    /// Tokens per second of forward and backward over `tokens` tokens in sequences of `length`.
    fn speed(self, lab: &Lab<'_, '_>, device: &Device, tokens: usize, length: usize) -> Result<f64> {
        let (batch, heads) = if self.one_head() { (1, 1) } else { (tokens / length, HEADS) };
        let draw = || Tensor::<4>::random([batch, heads, length, WIDTH], Distribution::Normal(0.0, 0.1), device);
        let (q, k, v, cotangent) = (draw(), draw(), draw(), draw());
        let mut failed = None;
        let cost = lab.measure(5, || {
            let [q, k, v] = [&q, &k, &v].map(|x| x.clone().require_grad());
            match self.forward(q.clone(), k.clone(), v.clone()) {
                Ok(o) => {
                    let gradients = (o * cotangent.clone()).sum().backward();
                    drop([q, k, v].map(|x| x.grad(&gradients)));
                }
                Err(error) => failed = Some(error),
            }
            sync(device);
        });
        let all = (tokens / length * HEADS) as f64 / (batch * heads) as f64;
        failed.map_or(Ok(tokens as f64 / (cost.seconds * all)), Err)
    }
}

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let tokens = lab.quick_or(8192, 32_768);
    let device = lab.device().autodiff();
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for (name, form) in Form::ALL {
        let lengths = (9..=15).map(|power| 1 << power).filter(|n| *n <= form.longest(tokens).min(tokens));
        let lengths: Vec<usize> = if form == Form::CumulativeSum { vec![4096] } else { lengths.collect() };
        let mut points = Vec::new();
        for length in lengths {
            lab.note(&format!("{name}, {length} tokens"))?;
            points.push((length as f64, form.speed(lab, &device, tokens, length)?));
        }
        lines.push((name.into(), points));
    }
    let at = |line: usize, length: usize| lines[line].1.iter().find(|(n, _)| *n as usize == length).map_or(f64::NAN, |(_, speed)| *speed);
    let kept = at(0, tokens) / at(0, 1024);
    let (left, softmax) = (at(1, 1024) / at(1, tokens / 2), at(2, 1024) / at(2, tokens / 2));
    let slower = at(0, 4096) / at(3, 4096);
    // States of all tokens, their products and the gradients of both.
    let naive_bytes = (4 * tokens * HEADS * WIDTH * WIDTH * 4) as f64;
    // A quadratic cost falls by the ratio of the lengths; the rule asks for half of it.
    let fall = tokens as f64 / 2.0 / 1024.0 / 2.0;
    let holds = kept >= 0.85 && left >= fall && softmax >= fall && (slower >= 3.0 || naive_bytes > LIMIT);
    let rows = lines.iter().flat_map(|(name, points)| {
        points.iter().map(move |(n, speed)| vec![name.clone(), Quantity::Length.text(*n, 3), Quantity::Count.text(*speed, 3)])
    });
    let measured = format!(
        "tiled keeps {kept:.2} of its speed from 1k to {} tokens; left product falls {left:.1} times, softmax {softmax:.1} times (rule: {fall:.0}); \
         the cumulative sum is {slower:.1} times slower",
        Quantity::Length.text(tokens as f64, 3)
    );
    let rows = rows.collect();
    Ok(Finding::new(holds, measured)
        .note(format!("{tokens} tokens in all, H = {HEADS}, K = V = {WIDTH}, f32, median of up to 5 runs; left product and cumulative sum measured on one head of one sequence and multiplied; {} would be the memory of the latter", Quantity::Bytes.text(naive_bytes, 2)))
        .table("Tokens per second", &["form", "N", "tokens/s"], rows)
        .figure(Figure::new("Training speed at a fixed number of tokens", FigureKind::Speed, lines)))
}
