use crate::{
    device::{BACKENDS, DeviceArg},
    failure::Failure,
    output::{Output, table},
};

/// Show the machine, its devices, measured speeds and what this build can do
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print which kinds of golden files (reference vectors) the code passes instead
    ///
    /// The files are looked for in $REGARD_GOLDENS, then in the source tree that this program was built from.
    #[arg(long)]
    goldens: bool,
    #[command(flatten)]
    device: DeviceArg,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    if args.goldens {
        let rows = regard_testkit::coverage().map_err(|e| {
            Failure::new(format!("golden files: {e}")).with_hint("set REGARD_GOLDENS to the `goldens` folder of a checkout of regard")
        })?;
        return output.data(&regard_testkit::coverage_table(&rows));
    }
    args.device.device.open()?;
    let mut table = table(["DEVICE", "IN THIS BUILD"]);
    for (name, built) in BACKENDS {
        table.add_row([*name, if *built { "yes" } else { "no" }]);
    }
    output.data(&table.trim_fmt())
}
