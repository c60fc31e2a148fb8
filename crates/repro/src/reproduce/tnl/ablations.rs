use regard::{
    blocks::NormKind,
    lightning_attention::{Activation, GateKind, PositionPolicy},
};
use regard_models::TnlConfig;

use super::{
    super::{Finding, Lab, lab::text},
    Sizes,
};
use crate::Result;

/// A variant and how it is made from the model as published.
type Variant = (&'static str, fn(&mut TnlConfig));

const VARIANTS: [Variant; 8] = [
    ("published", |_| ()),
    ("no positions", |c| c.mixer.positions = PositionPolicy::None),
    ("decay alone", |c| c.mixer.positions = PositionPolicy::Decay),
    ("no temperature", |c| c.mixer.decay_by_layer = false),
    ("no gate", |c| c.mixer.gate = GateKind::None),
    ("no activation", |c| c.mixer.activation = Activation::None),
    ("RMSNorm", |c| (c.norm, c.mixer.norm) = (NormKind::Rms, NormKind::Rms)),
    ("LayerNorm", |c| (c.norm, c.mixer.norm) = (NormKind::Layer, NormKind::Layer)),
];
const PUBLISHED: usize = 0;
const NO_POSITIONS: usize = 1;
const NO_ACTIVATION: usize = 5;
const NORMS: [usize; 2] = [6, 7];

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let sizes = Sizes::of(lab, 120);
    let seeds = lab.seeds(1, 3);
    let mut runs = Vec::new();
    for &seed in &seeds {
        for (name, change) in VARIANTS {
            let mut model = sizes.tnl();
            change(&mut model);
            let name = format!("tnl-ablation-{}", name.replace(' ', "-").to_lowercase());
            runs.push((name, lab.language(model.decoder()?, sizes.recipe, seed)));
        }
    }
    let mut losses = vec![Vec::new(); VARIANTS.len()];
    for (number, trained) in lab.train_all(&runs)?.into_iter().enumerate() {
        losses[number % VARIANTS.len()].push(trained.evaluation.loss);
    }
    let in_every_seed = |holds: &dyn Fn(usize) -> bool| (0..seeds.len()).all(holds);
    let worst = in_every_seed(&|s| (0..VARIANTS.len()).all(|v| v == NO_POSITIONS || losses[v][s] < losses[NO_POSITIONS][s]));
    let activation = in_every_seed(&|s| losses[NO_ACTIVATION][s] > losses[PUBLISHED][s]);
    let norms = in_every_seed(&|s| NORMS.iter().all(|v| (losses[PUBLISHED][s] / losses[*v][s] - 1.0).abs() <= 0.01));
    let rows = VARIANTS.iter().zip(&losses).map(|((name, _), losses)| {
        let mut row = vec![(*name).to_owned()];
        row.extend(losses.iter().map(|loss| format!("{loss:.4}")));
        row
    });
    let rows = rows.collect();
    let says = |holds: bool| if holds { "holds" } else { "does not hold" };
    let measured = format!(
        "no positions is worst: {}; no activation is worse than SiLU: {}; the norms are within 1 %: {}",
        says(worst),
        says(activation),
        says(norms)
    );
    let names: Vec<_> = seeds.iter().map(|seed| format!("seed {seed}")).collect();
    let columns: Vec<_> = std::iter::once("variant").chain(names.iter().map(String::as_str)).collect();
    Ok(Finding::new(worst && activation && norms, measured)
        .note(format!("{}; text: {}; without a gate the model has fewer weights", sizes.text(), text().source))
        .table("Validation losses, nats per byte", &columns, rows))
}
