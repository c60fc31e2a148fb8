use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};
use rand::RngExt;
use regard_train::report::Quantity;

use super::{
    super::{
        Finding, Lab,
        values::{generator, median, numbers, relative_error},
    },
    Sizes,
};
use crate::Result;

/// Tokens whose logits are compared with those of the parallel form, and after which the early steps are timed.
const COMPARED: usize = 2000;
/// Steps that are timed at each end.
const TIMED: usize = 1000;

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let length = lab.quick_or(20_000, 200_000);
    let (sizes, device) = (Sizes::of(lab, 1), lab.device());
    device.seed(1);
    let model = sizes.tnl().init(&device)?;
    let mut generator = generator(1);
    let ids: Vec<i32> = (0..length).map(|_| generator.random_range(0..256)).collect();
    let token = |id: i32| Tensor::<1, Int>::from_data(TensorData::new(vec![id], [1]), &device);

    let mut state = model.state(1);
    let begin = state.bytes();
    let (mut by_step, mut early, mut constant) = (Vec::new(), None, true);
    for (position, id) in ids.iter().enumerate() {
        if position % 5000 == 0 {
            lab.note(&format!("{position} of {length} tokens"))?;
        }
        if position == COMPARED {
            early = Some(state.clone());
        }
        let logits = model.step(token(*id), &mut state)?;
        constant &= state.bytes() == begin;
        if position < COMPARED {
            by_step.extend(numbers(logits));
        }
    }
    let whole = Tensor::<2, Int>::from_data(TensorData::new(ids[..COMPARED].to_vec(), [1, COMPARED]), &device);
    let error = relative_error(&by_step, &numbers(model.forward(whole, None)));

    let mut times = [Vec::new(), Vec::new()];
    let mut states = [early.unwrap_or_else(|| model.state(1)), state];
    for id in ids.iter().take(TIMED) {
        for (times, state) in times.iter_mut().zip(&mut states) {
            let begun = Instant::now();
            model.step(token(*id), state)?.into_data();
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    let [early, late] = times.map(median);
    let ratio = late / early;
    let time = |seconds| Quantity::Seconds.text(seconds, 3);
    let measured = format!(
        "state of {} {}; a step takes {} after {COMPARED} tokens and {} after {length}: {ratio:.3} times; logits differ by {error:.1e}",
        Quantity::Bytes.text(begin as f64, 3),
        if constant { "at every token" } else { "at first, then another size" },
        time(early),
        time(late)
    );
    Ok(Finding::new(constant && (0.9..=1.1).contains(&ratio) && error <= 1e-3, measured).note(format!(
        "{} layers of width {}, {} heads, initial weights, random bytes, f32; medians of {TIMED} steps at each end, in turns",
        sizes.layers, sizes.d_model, sizes.heads
    )))
}
