use clap::builder::PossibleValuesParser;
use regard::registry::{Direction, Entry, MECHANISMS};
use serde_json::json;

use crate::{
    failure::Failure,
    output::{Output, render, table},
};

/// List the mechanisms, or show the page of one
///
/// Time counts the operations of a forward pass over T tokens per head, state the numbers kept per head while decoding; K and V are
/// the widths of keys and values, C a block of tokens.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  regard list\n  regard list --json | jq -r '.mechanisms[].id'\n  regard list --page softmax")]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print the page of a mechanism: idea, equations, shapes, example, limits, paper
    #[arg(long, value_name = "ID", conflicts_with = "json", value_parser = ids())]
    page: Option<String>,
}

fn ids() -> PossibleValuesParser {
    PossibleValuesParser::new(MECHANISMS.iter().map(|m| m.id))
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    if let Some(entry) = args.page.as_deref().and_then(regard::registry::find) {
        return output.data(entry.page);
    }
    if args.json {
        return output.json(&json!({ "mechanisms": MECHANISMS.iter().map(describe).collect::<Vec<_>>() }));
    }
    let mut table = table(["ID", "NAME", "DIRECTION", "TIME", "STATE", "FUSED KERNELS", "PAPER"]);
    for m in MECHANISMS {
        let kernels = if m.kernels.is_empty() { "-".to_owned() } else { m.kernels.join(", ") };
        table.add_row([m.id, m.name, direction(m), m.time, m.state, &kernels, m.paper]);
    }
    output.data(&render(table))
}

fn direction(entry: &Entry) -> &'static str {
    match entry.direction {
        Direction::Causal => "causal",
        Direction::Both => "both",
    }
}

fn describe(m: &Entry) -> serde_json::Value {
    json!({
        "id": m.id,
        "name": m.name,
        "paper": m.paper,
        "direction": direction(m),
        "time": m.time,
        "state": m.state,
        "kernels": m.kernels,
    })
}
