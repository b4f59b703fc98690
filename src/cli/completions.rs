//! `completions`: what a shell needs to complete our commands and flags.

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::exit::Exit;
use super::{Cli, term};

/// Print a script that completes commands and flags in a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  source <(coterie completions bash)
  coterie completions zsh > ~/.zfunc/_coterie
  coterie completions fish > ~/.config/fish/completions/coterie.fish")]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// If standard output is closed.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "coterie", &mut script);
    term::raw(&script)?;
    Ok(Exit::Ok)
}
