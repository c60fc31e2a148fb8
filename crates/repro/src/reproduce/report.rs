use maud::{Markup, html};
use regard_train::report::{Quantity, code, facts, folded, page as whole, plots};

use super::{ClaimResult, Reproduction, Verdict};
use crate::Table;

/// The page `reproduce.html`.
pub(super) fn page(all: &Reproduction) -> String {
    let count = |of: fn(&Verdict) -> bool| all.results.iter().filter(|r| of(&r.finding.verdict)).count();
    let lead = format!(
        "{} claims: {} reproduced, {} not reproduced, {} not testable here, {} not tested yet. A verdict follows from the measured numbers by the rule beside it.",
        all.results.len(),
        count(|v| *v == Verdict::Reproduced),
        count(|v| *v == Verdict::NotReproduced),
        count(|v| matches!(v, Verdict::NotTestable(_))),
        count(|v| matches!(v, Verdict::NotTested(_))),
    );
    let body = html! {
        div.wide { table.headline {
            thead { tr { th scope="col" { "System" } @for name in ["Claim", "Verdict", "Measured"] { th.words scope="col" { (name) } } } }
            tbody { @for r in &all.results { tr {
                td { (r.system) " " (r.claim) }
                td.words data-label="Claim" { a href=(format!("#{}", anchor(r))) { (r.title) } }
                td.words data-label="Verdict" { (badge(r)) }
                td.words data-label="Measured" { (r.finding.measured) }
            } } }
        } }
        @for result in &all.results { (claim(result)) }
        @if let Some(result) = all.results.last() {
            h2 { "Machine" }
            (facts(&result.machine.facts()))
        }
    };
    whole("Claims of the papers, tested", &lead, &body)
}

fn anchor(r: &ClaimResult) -> String {
    format!("{}-{}", r.system, r.claim)
}

fn badge(r: &ClaimResult) -> Markup {
    let class = match r.finding.verdict {
        Verdict::Reproduced => "verdict good",
        Verdict::NotReproduced => "verdict failed",
        Verdict::NotTestable(_) | Verdict::NotTested(_) => "verdict note",
    };
    html! { span class=(class) { (r.finding.verdict) } }
}

fn claim(r: &ClaimResult) -> Markup {
    let mut rows = vec![
        ("Verdict", r.finding.verdict.to_string()),
        ("Measured", r.finding.measured.clone()),
        ("Rule", r.rule.clone()),
        ("Published", r.published.clone()),
    ];
    rows.extend(r.finding.notes.iter().map(|note| ("Setting", note.clone())));
    let seeds = r.seeds.map_or(String::new(), |n| format!(", {n} seeds"));
    rows.push(("Run", format!("{} scale{seeds}, {}, on {}", r.scale, Quantity::Seconds.text(r.seconds, 3), r.date)));
    html! {
        h2 id=(anchor(r)) { (r.system) ", claim " (r.claim) ": " (r.title) }
        (facts(&rows))
        @let figures: Vec<_> = r.finding.figures.iter().map(super::Figure::plot).collect();
        @if !figures.is_empty() { (plots(&figures)) }
        @for table in &r.finding.tables { (folded(&table.name, &numbers(&table.table))) }
        @if let Some(command) = &r.command { (folded("Command", &code(command))) }
    }
}

fn numbers(table: &Table) -> Markup {
    html! {
        div.wide { table {
            thead { tr { @for column in &table.columns { th scope="col" { (column) } } } }
            tbody { @for row in &table.rows { tr { @for cell in row { td { (cell) } } } } }
        } }
    }
}
