//! `serve`: one node.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::exit::{Coded, Exit};
use super::{shutdown, term};
use crate::config::Settings;

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

/// Runs the command: reads the settings, then builds the runtime that they ask for.
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
    let runtime = runtime(settings.runtime.threads)?;
    let ran = runtime.block_on(run_until_stopped(settings, args.exit_with_parent));
    runtime.shutdown_background();
    ran.map(|()| Exit::Ok)
}

/// A runtime of `threads` threads; 0: as many as there are processors. One thread is a runtime
/// without threads of its own, which serves small nodes faster.
fn runtime(threads: usize) -> anyhow::Result<Runtime> {
    let mut builder =
        if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name("coterie").build().context("cannot start the runtime")
}

async fn run_until_stopped(settings: Settings, exit_with_parent: bool) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut signals = shutdown::Signals::install()?;
    let asked = stop.clone();
    tokio::spawn(async move {
        let why = tokio::select! {
            signal = signals.next() => signal,
            () = shutdown::parent_gone(), if exit_with_parent => "the parent has ended",
        };
        term::note(format_args!("{why}: stopping"));
        asked.cancel();
    });
    run_node(settings, stop).await
}

/// The node itself, until `stop` is cancelled and it has stopped gracefully.
async fn run_node(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    drop((settings, stop));
    anyhow::bail!("no node is built in")
}
