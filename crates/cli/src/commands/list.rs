use burn::tensor::{DType, Device};
use clap::builder::PossibleValuesParser;
use regard::registry::{Direction, Entry, MECHANISMS};
use regard_models::registry::{Network, networks};
use serde_json::json;

use crate::{
    failure::Failure,
    output::{Output, render, table},
};

/// List the mechanisms or the named networks, or show the page of a mechanism
///
/// Time counts the operations of a forward pass over T tokens per head, state the numbers kept per head while decoding; K and V are
/// the widths of keys and values, C a block of tokens, R and r the widths of a latent vector and of a key part shared by H heads.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  regard list\n  regard list --json | jq -r '.mechanisms[].id'\n  regard list --page softmax\n  regard list --models"
)]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print the page of a mechanism: idea, equations, shapes, example, limits, paper
    #[arg(long, value_name = "ID", conflicts_with = "json", value_parser = ids())]
    page: Option<String>,
    /// List the named networks: their weights, those that one token meets, and the bytes kept of a sequence while decoding in bf16
    #[arg(long, conflicts_with = "page")]
    models: bool,
}

/// Lengths at which the state of a network is shown.
const LENGTHS: [usize; 2] = [1 << 12, 1 << 20];

fn ids() -> PossibleValuesParser {
    PossibleValuesParser::new(MECHANISMS.iter().map(|m| m.id))
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    if let Some(entry) = args.page.as_deref().and_then(regard::registry::find) {
        return output.data(entry.page);
    }
    if args.models {
        return models(args.json, output);
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

fn models(json: bool, output: &Output) -> Result<(), Failure> {
    let rows = networks().into_iter().map(measured).collect::<regard::Result<Vec<_>>>().map_err(regard_repro::Error::from)?;
    if json {
        let models: Vec<_> = rows
            .iter()
            .map(|row| {
                let states: serde_json::Map<_, _> =
                    LENGTHS.iter().zip(row.states).map(|(t, bytes)| (t.to_string(), bytes.into())).collect();
                json!({
                    "name": row.network.name,
                    "paper": row.network.paper,
                    "params": row.params,
                    "active_params": row.active,
                    "state_bytes": states,
                })
            })
            .collect();
        return output.json(&json!({ "models": models }));
    }
    let mut table = table(["NAME", "WEIGHTS", "PER TOKEN", "STATE AT 4K", "STATE AT 1M", "PAPER"]);
    for row in rows {
        let [short, long] = row.states.map(|bytes| bytes.map_or_else(|| "-".to_owned(), mebibytes));
        table.add_row([row.network.name, &grouped(row.params), &grouped(row.active), &short, &long, row.network.paper]);
    }
    output.data(&render(table))
}

/// A network and what was computed of it.
struct Row {
    network: Network,
    params: usize,
    active: usize,
    states: [Option<usize>; 2],
}

fn measured(network: Network) -> regard::Result<Row> {
    let weights = network.weights(&Device::flex())?;
    let [short, long] = LENGTHS.map(|tokens| network.state_bytes(tokens, DType::BF16));
    Ok(Row { params: weights.all, active: weights.active, states: [short?, long?], network })
}

/// Digits in groups of three.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let groups = digits.as_bytes()[first..].chunks(3).map(String::from_utf8_lossy);
    let head = (first > 0).then(|| digits[..first].into());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
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
