use std::{
    io,
    path::{Path, PathBuf},
};

use clap::builder::PossibleValuesParser;
use regard_repro::reproduce::{
    Claim, Context, ReproduceConfig, ReproduceLog, ReproduceObserver, SYSTEMS, Scale, claims_of, record, reproduce,
};

use crate::{
    cli::command_line,
    device::DeviceArg,
    failure::Failure,
    interrupt,
    output::{Output, render, table},
    progress::EVERY,
};

/// Test the claims of papers, each by an experiment with a stated rule
///
/// A verdict follows from the measured numbers by the claim's rule: reproduced, not reproduced, or not testable here. The folder gets
/// reproduce.html with the plots and reproduce.json. Ctrl-C keeps what is finished, and the same command goes on from there.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  regard reproduce lightning-attention --quick
  regard reproduce flowformer --claim 2 --claim 3 --seeds 3
  regard reproduce --quick --json | jq '.results[] | [.system, .claim, .verdict]'")]
pub(crate) struct Args {
    /// The systems; without any, all
    #[arg(value_name = "SYSTEM", value_parser = systems())]
    systems: Vec<String>,
    /// Only the claim of this number of each system; may be given several times
    #[arg(long = "claim", value_name = "N")]
    claims: Vec<usize>,
    /// Smaller sizes and shorter trainings: about two minutes a claim on two cores
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// With what takes a night
    #[arg(long)]
    full: bool,
    /// Seeds of each training, instead of the claim's own number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Trainings at once, each on its share of the threads [default: one per thread]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    jobs: Option<u64>,
    #[command(flatten)]
    device: DeviceArg,
    /// The folder of the results
    #[arg(long, value_name = "DIR", default_value = "runs/reproduce")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write the verdicts into this file too, in the place of what it says of the same claims
    #[arg(long, value_name = "FILE", hide = true)]
    record: Option<PathBuf>,
}

fn systems() -> PossibleValuesParser {
    PossibleValuesParser::new(SYSTEMS.iter().map(|(system, _)| *system))
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    let scale = match (args.quick, args.full) {
        (true, _) => Scale::Quick,
        (_, true) => Scale::Full,
        _ => Scale::Standard,
    };
    let device = args.device.device.open()?;
    let [seeds, jobs] = [args.seeds, args.jobs].map(|number| number.map(|number| number as usize));
    let config = ReproduceConfig { claims: claims(args)?, scale, seeds, jobs };
    let stop = interrupt::catch()?;
    let mut log = (!output.is_quiet()).then(|| ReproduceLog::new(io::stderr(), EVERY));
    let context = Context {
        memory: args.device.device.memory(),
        stop: Some(&stop),
        observer: log.as_mut().map(|log| log as &mut dyn ReproduceObserver),
        command: Some(command_line()),
        ..Context::new(device)
    };
    let all = reproduce(&config, &args.out, context)?;
    if let Some(path) = &args.record {
        record(&all, path)?;
    }
    if args.json {
        output.json(&all)?;
    } else {
        let results = all.table();
        let mut table = table(results.columns.iter().map(String::as_str));
        table.add_rows(&results.rows);
        output.data(&render(table))?;
    }
    output.note(&format!("report: {}", Path::new(&args.out).join("reproduce.html").display()));
    Ok(())
}

/// The claims that are asked for.
fn claims(args: &Args) -> Result<Vec<&'static Claim>, Failure> {
    let asked = |system: &str| args.systems.is_empty() || args.systems.iter().any(|name| name == system);
    let mut claims: Vec<&'static Claim> = Vec::new();
    for (system, _) in SYSTEMS.iter().filter(|(system, _)| asked(system)) {
        let of_system = claims_of(system).filter(|claim| args.claims.is_empty() || args.claims.contains(&claim.number));
        claims.extend(of_system);
    }
    match args.claims.iter().find(|number| claims.iter().all(|claim| claim.number != **number)) {
        Some(number) => Err(Failure::new(format!("there is no claim {number}")).with_hint("`regard list --claims` shows all")),
        None => Ok(claims),
    }
}
