use super::{
    super::{Finding, Lab},
    language::{Setting, flow},
};
use crate::Result;

pub(super) fn test(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let setting = Setting::of(lab);
    // The first is the model of claim 2, and its training is shared.
    let variants = [
        ("flow", flow(true, true)),
        ("flow-no-competition", flow(false, true)),
        ("flow-no-allocation", flow(true, false)),
        ("flow-neither", flow(false, false)),
    ];
    let texts = ["both", "without competition", "without allocation", "without both"];
    let (mut rows, mut each, mut holds) = (Vec::new(), Vec::new(), true);
    let seeds = lab.seeds(2, 2);
    for (seed, trained) in seeds.iter().zip(setting.train(lab, &variants, &seeds)?) {
        let losses: Vec<f64> = trained.iter().map(|trained| trained.evaluation.loss).collect();
        rows.extend(texts.iter().zip(&losses).map(|(text, loss)| vec![(*text).to_owned(), seed.to_string(), format!("{loss:.4}")]));
        holds &= losses[0] <= losses[1].min(losses[2]) && losses[1].max(losses[2]) < losses[3];
        each.push(losses.iter().map(|loss| format!("{loss:.4}")).collect::<Vec<_>>().join(" / "));
    }
    Ok(Finding::new(holds, format!("loss with both / without competition / without allocation / without both: {}", each.join("; ")))
        .note(setting.describe())
        .table("Losses", &["variant", "seed", "validation loss"], rows))
}
