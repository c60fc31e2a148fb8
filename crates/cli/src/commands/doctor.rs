use std::fmt::Write as _;

use regard::registry::MECHANISMS;
use regard_repro::machine::{Machine, Rates};
use serde_json::json;

use crate::{
    device::{BACKENDS, DeviceArg, cards},
    failure::Failure,
    output::{Output, facts, render, table},
};

/// Show the machine, its devices, measured speeds and what this build can do
///
/// The rates are what other results are to be held against: how fast this device copies memory and multiplies matrices.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  regard doctor\n  regard doctor --device cuda:0 --json\n  regard doctor --goldens")]
pub(crate) struct Args {
    #[command(flatten)]
    device: DeviceArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print instead which kinds of golden files (reference vectors) the code passes
    ///
    /// The files are looked for in $REGARD_GOLDENS, then in the source tree that this program was built from.
    #[arg(long, conflicts_with = "json")]
    goldens: bool,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    if args.goldens {
        let rows = regard_testkit::coverage().map_err(|e| {
            Failure::new(format!("golden files: {e}")).with_hint("set REGARD_GOLDENS to the `goldens` folder of a checkout of regard")
        })?;
        return output.data(&regard_testkit::coverage_table(&rows));
    }
    let device = args.device.device.open()?;
    let backend = args.device.device.backend();
    let machine = Machine::describe(&device);
    output.note(&format!("measuring {} for a moment", args.device.device));
    let rates = Rates::measure(&device);
    let devices: Vec<_> = BACKENDS.iter().map(|&(name, built)| (name, built, if built { found(name) } else { 0 })).collect();
    if args.json {
        return output.json(&json!({
            "machine": machine,
            "rates": rates,
            "devices": devices.iter().map(|(name, built, found)| json!({ "backend": name, "built": built, "found": found })).collect::<Vec<_>>(),
            "mechanisms": MECHANISMS
                .iter()
                .map(|m| json!({ "id": m.id, "kernels": m.kernels, "here": m.kernels.contains(&backend) }))
                .collect::<Vec<_>>(),
        }));
    }

    let mut text = facts(&[machine.facts(), rates.facts()].concat());

    let mut table_of_devices = table(["DEVICE", "IN THIS BUILD", "FOUND"]);
    for (name, built, found) in devices {
        let [built, found] = if built { ["yes".to_owned(), found.to_string()] } else { [format!("no: --features {name}"), "-".to_owned()] };
        table_of_devices.add_row([name.to_owned(), built, found]);
    }
    let mut kernels = table(["MECHANISM", "FUSED KERNELS", "ON THIS DEVICE"]);
    for m in MECHANISMS {
        let fused = if m.kernels.is_empty() { "none".into() } else { m.kernels.join(", ") };
        kernels.add_row([m.id, &fused, if m.kernels.contains(&backend) { "fused kernels" } else { "tensor operations" }]);
    }
    for table in [table_of_devices, kernels] {
        let _ = write!(text, "\n{}\n", render(table));
    }
    output.data(&text)
}

/// Number of devices of a backend; a driver that cannot be asked has none.
fn found(backend: &str) -> usize {
    cards(backend).map_or(0, |cards| cards.len())
}
