//! The sub-commands, one file each: their arguments, and the call into the libraries.

mod bench;
mod compare;
mod completions;
mod data;
mod doctor;
mod eval;
mod generate;
mod list;
mod train;

use clap::Subcommand;

use crate::{failure::Failure, output::Output};

#[derive(Subcommand)]
pub(crate) enum Command {
    List(list::Args),
    Compare(compare::Args),
    Train(train::Args),
    Eval(eval::Args),
    Generate(generate::Args),
    Bench(bench::Args),
    Data(data::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

pub(crate) fn run(command: Command, output: &Output) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(&args, output),
        Command::Compare(args) => compare::run(&args, output),
        Command::Train(args) => train::run(&args, output),
        Command::Eval(args) => eval::run(&args, output),
        Command::Generate(args) => generate::run(&args, output),
        Command::Bench(args) => bench::run(&args, output),
        Command::Data(args) => data::run(&args, output),
        Command::Doctor(args) => doctor::run(&args, output),
        Command::Completions(args) => completions::run(&args, output),
    }
}
