use clap::CommandFactory;
use clap_complete::Shell;

use crate::{cli::Cli, failure::Failure, output::Output};

/// Print completions for a shell
///
/// bash: `regard completions bash > ~/.local/share/bash-completion/completions/regard`;
/// zsh: `regard completions zsh > "${fpath[1]}/_regard"`;
/// fish: `regard completions fish > ~/.config/fish/completions/regard.fish`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "regard", &mut script);
    output.data(&String::from_utf8_lossy(&script))
}
