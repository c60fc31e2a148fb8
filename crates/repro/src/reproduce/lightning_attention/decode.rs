use std::time::Instant;

use burn::tensor::{Distribution, Tensor};
use regard::{LayerPlace, SequenceMixer, lightning_attention::LightningConfig};
use regard_train::report::Quantity;

use super::super::{Finding, Lab, values::median};
use crate::Result;

const WIDTH: usize = 256;
const EARLY: usize = 100;
const LATE: usize = 100_000;
/// Tokens taken in at once on the way to the late position.
const PIECE: usize = 10_000;

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let device = lab.device();
    let layer = LightningConfig::new(4).init(WIDTH, LayerPlace { index: 1, count: 4 }, &device)?;
    let draw = |t: usize| Tensor::<3>::random([1, t, WIDTH], Distribution::Normal(0.0, 1.0), &device);
    let (mut early, mut late) = (layer.state(1), layer.state(1));
    layer.prefill(draw(EARLY), &mut early);
    for piece in 0..LATE / PIECE {
        lab.note(&format!("{} tokens taken in", piece * PIECE))?;
        layer.prefill(draw(PIECE), &mut late);
    }
    let x = draw(1).squeeze_dim::<2>(1);
    let repetitions = lab.quick_or(2000, 10_000);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..repetitions {
        for (times, state) in times.iter_mut().zip([&mut early, &mut late]) {
            let begun = Instant::now();
            layer.step(x.clone(), state).into_data();
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    let [early, late] = times.map(median);
    let ratio = late / early;
    let time = |seconds| Quantity::Seconds.text(seconds, 3);
    let measured = format!("{} at position {EARLY}, {} at position {LATE}: {ratio:.3} times", time(early), time(late));
    Ok(Finding::new((0.9..=1.1).contains(&ratio), measured)
        .note(format!("one layer of width {WIDTH} with 4 heads, one sequence, f32, medians of {repetitions} steps each, in turns")))
}
