//! `serve`: one node.

use std::path::PathBuf;

use clap::Args;

use super::exit::{self, Coded, Exit};
use super::{shutdown, term};
use crate::config::{LogFormat, Settings};
use crate::{node, telemetry};

/// Run one node
#[derive(Args, Debug)]
#[command(after_help = "\
Settings come in layers, later ones winning: the built-in defaults, each --config FILE, the
environment (COTERIE__SECTION__KEY), each --set. SIGTERM and Ctrl-C stop the node gracefully.

Examples:
  coterie serve --config coterie-data/node-0.toml
  coterie serve --config base.toml --config node-1.toml --set log.level=debug")]
pub struct ServeArgs {
    /// A file of settings; may be repeated
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// One setting; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Stop when standard input ends: a pipe from the process that started this one
    #[arg(long)]
    exit_with_parent: bool,
}

/// Runs the command: reads the settings, then runs the node until it is asked to stop.
///
/// # Errors
/// If the settings are wrong or the node cannot run on.
pub fn serve(args: &ServeArgs) -> anyhow::Result<Exit> {
    let settings = Settings::load_here(&args.config, &args.set);
    let settings = settings.map_err(|error| Coded {
        exit: Exit::Usage,
        message: "the configuration is wrong".to_owned(),
        source: Some(error.into()),
    })?;
    match node::serve(&settings, asked_to_stop(args.exit_with_parent)) {
        Ok(()) => Ok(Exit::Ok),
        // Its log has said so.
        Err(error) if error.is::<node::Failed>() => Ok(Exit::Error),
        Err(error) if settings.log.format == LogFormat::Json => {
            telemetry::apart(&settings.log, || tell(&error));
            Ok(exit::of_error(&error))
        }
        Err(error) => Err(error),
    }
}

/// The error and its causes, for programs.
fn tell(error: &anyhow::Error) {
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    tracing::error!(cause = causes.join(": "), "the node cannot run: {error}");
}

/// Ends at SIGINT, SIGTERM or, if that was asked for, the end of the parent.
async fn asked_to_stop(exit_with_parent: bool) {
    let mut signals = match shutdown::Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            // Without handlers the signals end the process by themselves, and nothing
            // acknowledged is lost by that.
            term::note(exit::describe(&error));
            return std::future::pending().await;
        }
    };
    let why = tokio::select! {
        signal = signals.next() => signal,
        () = shutdown::parent_gone(), if exit_with_parent => "asked by the parent, or it has ended",
    };
    tracing::info!(why, "asked to stop");
}
