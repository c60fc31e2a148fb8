//! The command `regard`: attention mechanisms compared, trained and measured.
//!
//! One file per sub-command in [`commands`]; what they do lives in the libraries.

mod cli;
mod commands;
mod device;
mod failure;
mod interrupt;
mod memory;
mod output;
mod overrides;
mod progress;

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};

use crate::{cli::Cli, failure::Failure, output::Output};

fn main() -> ExitCode {
    device::load_on_the_cpu();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // --help and --version, and the help that answers a bare `regard`.
        Err(error) if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        Err(error) => return Output::new(false).fail(&Failure::usage(&error)),
    };
    let output = Output::new(cli.quiet);
    start_log(&cli);
    memory::keep_freed_memory();
    // As large a stack as a main thread has. If the pool is there already, it stays as it is.
    let _ = rayon::ThreadPoolBuilder::new().stack_size(8 << 20).build_global();
    // On a thread of the pool: from outside, every parallel operation is handed over to one and waited for.
    match rayon::scope(|_| commands::run(cli.command, &output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

/// Messages of the libraries go to stderr: warnings by default, errors alone with `--quiet`, more with `-v` and `-vv`;
/// `RUST_LOG` overrides all of them.
fn start_log(cli: &Cli) {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let env = env_logger::Env::default().default_filter_or(level);
    env_logger::Builder::from_env(env).format_target(cli.verbose > 1).init();
}
