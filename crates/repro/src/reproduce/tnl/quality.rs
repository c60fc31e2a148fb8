use regard_models::DecoderConfig;

use super::{
    super::{Figure, FigureKind, Finding, Lab, lab::text, values::mean},
    Sizes,
};
use crate::{Error, Result};

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let sizes = Sizes::of(lab, 250);
    let transformer = sizes.transformer().ok_or_else(|| Error::value("mixers", "known", "softmax"))?;
    let models = [("tnl", sizes.tnl().decoder()?), ("transformer", transformer)];
    let (mut losses, mut rows, mut lines) = ([Vec::new(), Vec::new()], Vec::new(), Vec::new());
    let mut params = [0, 0];
    let seeds = lab.seeds(1, 2);
    let run = |(seed, (name, model)): (u64, &(&str, DecoderConfig))| {
        (format!("tnl-quality-{name}"), lab.language(model.clone(), sizes.recipe, seed))
    };
    let all: Vec<_> = seeds.iter().flat_map(|&seed| models.iter().map(move |model| (seed, model))).collect();
    let runs: Vec<_> = all.iter().copied().map(run).collect();
    for (number, ((seed, (name, _)), trained)) in all.iter().zip(lab.train_all(&runs)?).enumerate() {
        losses[number % models.len()].push(trained.evaluation.loss);
        params[number % models.len()] = trained.params;
        rows.push(vec![(*name).to_owned(), seed.to_string(), trained.params.to_string(), format!("{:.4}", trained.evaluation.loss)]);
        lines.push((format!("{name}, seed {seed}"), trained.curve));
    }
    let [tnl, transformer] = losses.map(|l| mean(&l));
    let ratio = tnl / transformer;
    let weights = params[0] as f64 / params[1] as f64;
    let measured =
        format!("{tnl:.4} against {transformer:.4} nats per byte: {ratio:.4} times ({:.1} % more weights)", 100.0 * (weights - 1.0));
    Ok(Finding::new(ratio <= 1.02 && (weights - 1.0).abs() <= 0.02, measured)
        .note(format!("{}; text: {}", sizes.text(), text().source))
        .table("Losses", &["model", "seed", "weights", "validation loss"], rows)
        .figure(Figure::new("Validation loss", FigureKind::Loss, lines)))
}
