use burn::tensor::{DType, Device};
use clap::builder::PossibleValuesParser;
use regard::registry::{Entry, MECHANISMS};
use regard_models::registry::{Network, networks};
use regard_repro::reproduce::{CLAIMS, Shipped, Test, Verdict, shipped, shipped_for};
use regard_train::TaskConfig;
use serde_json::json;

use crate::{
    failure::Failure,
    output::{Output, render, table},
};

/// List the mechanisms and the tasks, the named networks or the claims of the papers, or show the page of a mechanism
///
/// Time counts the operations of a forward pass per head, over T tokens or a map of N tokens of an image, state the numbers kept per head
/// while decoding; K and V are the widths of keys and values, C a block of tokens, W the keys in a window, R and r the widths of a latent
/// vector and of a key part shared by H heads. The direction of a layer over maps is `image`.
/// Of a task the table shows the options of its section in the file of a run, with their defaults, and what it reads besides.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  regard list\n  regard list --json | jq -r '.mechanisms[].id, .tasks[].name'\n  regard list --page softmax\n  regard list --models\n  regard list --claims"
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
    /// List the claims of the papers with the verdicts that come with this release
    #[arg(long, conflicts_with_all = ["page", "models"])]
    claims: bool,
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
        return networks_listed(args.json, output);
    }
    if args.claims {
        return claims(args, output);
    }
    if args.json {
        let mechanisms: Vec<_> = MECHANISMS.iter().map(describe).collect();
        let tasks = TaskConfig::defaults().map(|task| describe_task(&task));
        return output.json(&json!({ "mechanisms": mechanisms, "tasks": tasks }));
    }
    let mut table = table(["ID", "NAME", "DIRECTION", "TIME", "STATE", "FUSED KERNELS", "CLAIMS", "PAPER"]);
    for m in MECHANISMS {
        let kernels = if m.kernels.is_empty() { "-".to_owned() } else { m.kernels.join(", ") };
        table.add_row([m.id, m.name, m.interface.name(), m.time, m.state().unwrap_or("-"), &kernels, &verdicts(m), m.paper]);
    }
    output.data(&format!("{}\n\n{}", render(table), tasks()))
}

/// The tasks, a line each.
fn tasks() -> String {
    let mut table = table(["TASK", "WHAT IS LEARNED", "MODEL", "DATA", "OPTIONS"]);
    for task in TaskConfig::defaults() {
        let data = task.usual_data().map_or_else(|| "generated".to_owned(), |(what, source)| format!("{what} [{source}]"));
        let options: Vec<_> = task.options().iter().map(|(key, value)| format!("{key} = {value}")).collect();
        let options = if options.is_empty() { "-".to_owned() } else { options.join(", ") };
        table.add_row([task.kind(), task.about(), &models(&task).join(", "), &data, &options]);
    }
    render(table)
}

/// The kinds of models that learn a task.
fn models(task: &TaskConfig) -> Vec<&'static str> {
    match task {
        task if task.predicts_tokens() => vec!["decoder"],
        TaskConfig::Classify(_) => vec!["encoder", "flowformer_vision"],
        TaskConfig::Series(_) => vec!["encoder", "flowformer_series"],
        _ => vec!["encoder"],
    }
}

fn describe_task(task: &TaskConfig) -> serde_json::Value {
    let data = task.usual_data().map(|(what, source)| json!({ "what": what, "usual": source }));
    json!({
        "name": task.kind(),
        "title": task.title(),
        "about": task.about(),
        "models": models(task),
        "data": data,
        "options": task.options(),
    })
}

/// How many of the claims about a mechanism were reproduced, of those that were tested.
fn verdicts(m: &Entry) -> String {
    let tested: Vec<_> = shipped_for(m.id).into_iter().filter(|r| r.verdict.is_decided()).collect();
    let reproduced = tested.iter().filter(|r| r.verdict == Verdict::Reproduced).count();
    if tested.is_empty() { "-".into() } else { format!("{reproduced} of {}", tested.len()) }
}

/// All claims, each with its shipped verdict, if there is one.
fn claims(args: &Args, output: &Output) -> Result<(), Failure> {
    let shipped = shipped();
    let all = CLAIMS.iter().flat_map(|claims| claims.iter());
    let all = all.map(|claim| (claim, shipped.iter().find(|r| (r.system.as_str(), r.claim) == (claim.system, claim.number))));
    if args.json {
        let claims = all.map(|(claim, result)| {
            json!({
                "system": claim.system,
                "claim": claim.number,
                "title": claim.title,
                "published": claim.published,
                "rule": claim.rule,
                "shipped": result,
            })
        });
        return output.json(&json!({ "claims": claims.collect::<Vec<_>>() }));
    }
    let mut table = table(["SYSTEM", "CLAIM", "TITLE", "VERDICT", "MEASURED"]);
    for (claim, result) in all {
        let verdict = match (result, claim.test) {
            (Some(Shipped { verdict, scale, .. }), _) => format!("{verdict} [{scale}]"),
            (None, Test::None(why)) => Verdict::NotTestable(why.into()).to_string(),
            (None, Test::Missing(what)) => Verdict::NotTested(what.into()).to_string(),
            (None, Test::Experiment(_)) => "not tested yet".into(),
        };
        let measured = result.map_or("-", |r| r.measured.as_str());
        table.add_row([claim.system, &claim.number.to_string(), claim.title, &verdict, measured]);
    }
    output.data(&render(table))
}

fn networks_listed(json: bool, output: &Output) -> Result<(), Failure> {
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

fn describe(m: &Entry) -> serde_json::Value {
    json!({
        "id": m.id,
        "name": m.name,
        "paper": m.paper,
        "direction": m.interface.name(),
        "time": m.time,
        "state": m.state(),
        "kernels": m.kernels,
        "claims": shipped_for(m.id),
    })
}
