//! `serve`: one node.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use clap::Args;

use super::exit::{self, Coded, Exit};
use super::settings::Layers;
use super::term::Output;
use super::{shutdown, term};
use crate::config::{LogFormat, Settings};
use crate::node::{self, Ports};
use crate::store::DataFolder;
use crate::telemetry;
use crate::types::NodeName;

/// Run one node
#[derive(Args, Debug)]
#[command(after_help = "\
Settings come in layers, later ones winning: the built-in defaults, each --config FILE, the
environment (COTERIE__SECTION__KEY), each --set. SIGTERM and Ctrl-C stop the node gracefully.

Examples:
  coterie serve --config coterie-data/node-0.toml
  coterie serve --config base.toml --config node-1.toml --set log.level=debug
  coterie serve --config node-1.toml --check         would it run? (`coterie config show` tells more)")]
pub struct ServeArgs {
    #[command(flatten)]
    layers: Layers,
    /// Say what would run, and run nothing: settings, ports and data folder are looked at
    ///
    /// Nothing is written, and so the data itself is not opened. Exit code 2 if the node could not
    /// run.
    #[arg(long)]
    check: bool,
    /// How to print what --check finds
    #[arg(short, long, value_enum, default_value_t, requires = "check")]
    output: Output,
    /// Stop when standard input ends: a pipe from the process that started this one
    #[arg(long)]
    exit_with_parent: bool,
}

/// Runs the command: reads the settings, then runs the node until it is asked to stop.
///
/// # Errors
/// If the settings are wrong or the node cannot run on.
pub fn serve(args: &ServeArgs) -> anyhow::Result<Exit> {
    let settings = args.layers.settings()?;
    if args.check {
        return check(&settings, args.output);
    }
    match node::serve(&settings, asked_to_stop(args.exit_with_parent)) {
        Ok(()) => Ok(Exit::Ok),
        Err(error) if error.is::<node::ComesBack>() => Err(start_again()),
        // Its log has said so.
        Err(error) if error.is::<node::Failed>() => Ok(Exit::Error),
        Err(error) if settings.log.format == LogFormat::Json => {
            telemetry::apart(&settings.log, || tell(&error));
            Ok(exit::of_error(&error))
        }
        Err(error) => Err(error),
    }
}

/// Starts this very command again, in this very process: the folder goes on as another disk. Returns
/// only if that is not possible.
fn start_again() -> anyhow::Error {
    let mut words = std::env::args_os();
    let Ok(program) = std::env::current_exe() else {
        return anyhow::anyhow!("start this node again: it goes on as another disk");
    };
    let name = words.next().unwrap_or_else(|| program.clone().into());
    let error = Command::new(&program).arg0(name).args(words).exec();
    anyhow::Error::new(error).context("start this node again: it goes on as another disk")
}

/// The error and its causes, for programs.
fn tell(error: &anyhow::Error) {
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    tracing::error!(cause = causes.join(": "), "the node cannot run: {error}");
}

/// Looks at everything that would keep the node from running, and says what would run.
fn check(settings: &Settings, output: Output) -> anyhow::Result<Exit> {
    let cannot = |error: Box<dyn std::error::Error + Send + Sync>| Coded {
        exit: Exit::Usage,
        message: format!("{} could not run", settings.node.name),
        source: Some(error),
    };
    drop(Ports::bind(&settings.listen).map_err(|error| cannot(error.into()))?);
    let (node, listen) = (&settings.node, &settings.listen);
    let id = DataFolder::look(&node.data, &node.name).map_err(|error| cannot(error.into()))?;
    let founders: Vec<&str> = settings.bootstrap.founders.iter().map(NodeName::as_str).collect();
    let seeds: Vec<String> = settings.bootstrap.seeds.iter().map(ToString::to_string).collect();
    let data = match id {
        Some(id) => format!("{}, disk {id}", node.data.display()),
        None => format!("{}, which is to be made", node.data.display()),
    };
    let told = [
        ("node", format!("{} of cluster {}", node.name, settings.cluster.name)),
        ("data", data),
        ("clients", listen.client.to_string()),
        ("internal", listen.internal.to_string()),
        ("admin", format!("http://{}", listen.admin)),
        ("founders", founders.join(", ")),
        ("seeds", if seeds.is_empty() { "none".to_owned() } else { seeds.join(", ") }),
        ("replicas", format!("N = {}, if this node founds", settings.replication.replicas)),
    ];
    if output == Output::Json {
        term::json(&BTreeMap::from(told))?;
        return Ok(Exit::Ok);
    }
    term::line("it would run:")?;
    for (what, told) in told {
        term::line(format_args!("  {what:<10}{told}"))?;
    }
    Ok(Exit::Ok)
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
