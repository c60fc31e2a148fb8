use regard_models::DecoderConfig;
use regard_train::{EvalConfig, Task, measure_step, report::Quantity};

use super::{
    super::{Figure, FigureKind, Finding, Lab, lab::Recipe},
    Sizes,
};
use crate::{Error, Result};

const TOKENS: usize = 16_384;
/// The shortest length of the rule.
const SHORT: usize = 512;

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let sizes = Sizes::of(lab, 1);
    let transformer = sizes.transformer().ok_or_else(|| Error::value("mixers", "known", "softmax"))?;
    let models = [("TNL", sizes.tnl().decoder()?), ("Transformer", transformer)];
    let lengths = lab.quick_or(vec![SHORT, 4096, TOKENS], vec![256, SHORT, 1024, 2048, 4096, 8192, TOKENS]);
    let mut lines = models.each_ref().map(|(name, _)| ((*name).to_owned(), Vec::new()));
    for &length in &lengths {
        for ((name, model), line) in models.iter().zip(&mut lines) {
            lab.note(&format!("{name}, {length} tokens"))?;
            line.1.push((length as f64, TOKENS as f64 / seconds(lab, model, length)?));
        }
    }
    let kept = lines.each_ref().map(|(_, points)| {
        let at = |length: usize| points.iter().find(|(n, _)| *n as usize == length).map_or(f64::NAN, |(_, speed)| *speed);
        at(TOKENS) / at(SHORT)
    });
    let rows = lines.iter().flat_map(|(name, points)| {
        points.iter().map(move |(n, speed)| vec![name.clone(), Quantity::Length.text(*n, 3), Quantity::Count.text(*speed, 3)])
    });
    let rows = rows.collect();
    let measured = format!("TNL keeps {:.2} of its speed from {SHORT} to {TOKENS} tokens, the Transformer {:.2}", kept[0], kept[1]);
    Ok(Finding::new(kept[0] >= 0.85 && kept[1] < 0.3, measured)
        .note(format!(
            "{} layers of width {}, {} heads, {TOKENS} tokens per step, forward, backward and update; median of {} steps",
            sizes.layers,
            sizes.d_model,
            sizes.heads,
            steps(lab)
        ))
        .table("Tokens per second", &["model", "N", "tokens/s"], rows)
        .figure(Figure::new("Training speed at a fixed number of tokens", FigureKind::Speed, lines)))
}

fn steps(lab: &Lab<'_, '_>) -> usize {
    lab.quick_or(1, 5)
}

fn seconds(lab: &Lab<'_, '_>, model: &DecoderConfig, length: usize) -> Result<f64> {
    let recipe = Recipe { context: length, batch: TOKENS / length, steps: 1, rate: 1e-3, warmup: 0, beta2: 0.95 };
    let mut config = lab.language(model.clone(), recipe, 1);
    config.eval = EvalConfig { tokens: 1, batch: Some(1), ..config.eval };
    let task = Task::load(&config)?;
    Ok(measure_step(&config, &task, &lab.context.device, steps(lab))?.step_seconds)
}
