use burn::tensor::{Distribution, Tensor};
use regard::lightning_attention::{DecayRule, LightningOpts, lightning_attention};
use regard_train::report::Quantity;

use super::super::{Figure, FigureKind, Finding, Lab, Verdict};
use crate::{Result, machine::sync};

const HEADS: usize = 4;
const WIDTH: usize = 64;
/// The output and the gradients of output, q, k and v, each of the size of q.
const OWN: usize = 5;
/// What a first run sets up, threads and their buffers, stays and is no part of the peak.
const WARM_UP: usize = 512;

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let device = lab.device().autodiff();
    let block = LightningOpts::default().block;
    let slopes = DecayRule::Code.slopes(HEADS, 4, 1);
    let mut points = Vec::new();
    let lengths = lab.quick_or(vec![WARM_UP, 2048, 8192, 16_384], vec![WARM_UP, 2048, 4096, 8192, 16_384, 32_768]);
    for length in lengths {
        lab.note(&format!("{length} tokens"))?;
        let draw = || Tensor::<4>::random([1, HEADS, length, WIDTH], Distribution::Normal(0.0, 0.1), &device);
        let inputs = [draw(), draw(), draw()];
        let mut failed = None;
        let cost = lab.measure(1, || {
            let [q, k, v] = inputs.clone().map(Tensor::require_grad);
            match lightning_attention(q.clone(), k.clone(), v.clone(), &slopes, LightningOpts::default()) {
                // The sum alone: it makes no tensor but the gradient of the output.
                Ok((o, _)) => {
                    let gradients = o.sum().backward();
                    drop([q, k, v].map(|x| x.grad(&gradients)));
                }
                Err(error) => failed = Some(error),
            }
            sync(&device);
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        let own = (OWN * HEADS * length * WIDTH * 4) as f64;
        points.push((length, cost.peak_bytes.map(|peak| peak as f64), own));
    }
    points.remove(0);
    let Some(peaks) = points.iter().map(|(n, peak, own)| Some((*n, (*peak)?, *own))).collect::<Option<Vec<_>>>() else {
        let why = lab.memory().err().unwrap_or_default();
        return Ok(Finding::none(Verdict::NotTestable(why)));
    };
    // Below 0 where not all of them are there at once.
    let extra: Vec<_> = peaks.iter().map(|(n, peak, own)| (*n as f64, peak - own)).collect();
    let bound = (4 * HEADS * (block * block + WIDTH * WIDTH) * 4) as f64;
    let growth = extra[extra.len() - 1].1 - extra[0].1;
    let bytes = |x: f64| if x < 0.0 { format!("−{}", Quantity::Bytes.text(-x, 3)) } else { Quantity::Bytes.text(x, 3) };
    let rows = peaks.iter().zip(&extra).map(|((n, peak, own), (_, extra))| vec![n.to_string(), bytes(*peak), bytes(*own), bytes(*extra)]);
    let rows = rows.collect();
    let line = |of: fn(&(usize, f64, f64)) -> f64| peaks.iter().map(|point| (point.0 as f64, of(point))).collect::<Vec<_>>();
    let lines = [("peak".to_owned(), line(|p| p.1)), ("output and gradients".to_owned(), line(|p| p.2))];
    let measured = format!(
        "beyond inputs, outputs and gradients {} at N = {}, {} at N = {}: grown by {}, {} allowed",
        bytes(extra[0].1),
        extra[0].0,
        bytes(extra[extra.len() - 1].1),
        extra[extra.len() - 1].0,
        bytes(growth),
        bytes(bound)
    );
    Ok(Finding::new(growth <= bound, measured)
        .note(format!("B = 1, H = {HEADS}, K = V = {WIDTH}, C = {block}, f32; peak of the allocator's counter less the inputs, and less {OWN} tensors of the size of q: the output and the gradients of output, q, k and v"))
        .table("Peak memory of forward and backward", &["N", "peak", "output and gradients", "beyond"], rows)
        .figure(Figure::new("Peak memory of forward and backward", FigureKind::Memory, lines)))
}
