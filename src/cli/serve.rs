//! `serve`: one node.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use clap::Args;
use serde::Serialize;

use super::exit::{self, Coded, Exit};
use super::settings::Layers;
use super::term::Output;
use super::{failure, shutdown, term};
use crate::config::{LogFormat, Settings};
use crate::node::{self, Ports};
use crate::store::DataFolder;
use crate::telemetry;
use crate::types::{NodeId, NodeName};

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

/// What would run.
#[derive(Serialize)]
struct CheckDocument<'a> {
    node: &'a str,
    cluster: &'a str,
    data: &'a Path,
    /// The disk's id; none if the folder is to be made.
    disk: Option<String>,
    client: SocketAddr,
    internal: SocketAddr,
    admin: SocketAddr,
    founders: Vec<&'a str>,
    seeds: Vec<String>,
    /// N, if this node founds.
    replicas: u8,
}

/// Looks at everything that would keep the node from running, and says what would run.
fn check(settings: &Settings, output: Output) -> anyhow::Result<Exit> {
    let cannot = |error: Box<dyn std::error::Error + Send + Sync>| Coded {
        exit: Exit::Usage,
        message: format!("{} could not run", settings.node.name),
        source: Some(error),
    };
    let disk = look(settings).map_err(cannot)?;
    drop(Ports::bind(&settings.listen).map_err(|error| cannot(error.into()))?);
    let (node, listen) = (&settings.node, &settings.listen);
    let found = CheckDocument {
        node: node.name.as_str(),
        cluster: &settings.cluster.name,
        data: &node.data,
        disk: disk.map(|id| id.to_string()),
        client: listen.client,
        internal: listen.internal,
        admin: listen.admin,
        founders: settings.bootstrap.founders.iter().map(NodeName::as_str).collect(),
        seeds: settings.bootstrap.seeds.iter().map(ToString::to_string).collect(),
        replicas: settings.replication.replicas,
    };
    match output {
        Output::Json => term::json(&found)?,
        Output::Text => print(&found)?,
    }
    Ok(Exit::Ok)
}

/// The id of the disk in the data folder, if there is one and the node could run on it.
fn look(settings: &Settings) -> Result<Option<NodeId>, Box<dyn std::error::Error + Send + Sync>> {
    let (node, cluster) = (&settings.node, &settings.cluster.name);
    let id = DataFolder::look(&node.data, &node.name)?;
    match DataFolder::noted_cluster(&node.data)? {
        Some(found) if found != *cluster => Err(format!(
            "the data folder {} is of the cluster `{found}`, and cluster.name is `{cluster}`: \
             correct the folder or the name",
            node.data.display()
        )
        .into()),
        _ => Ok(id),
    }
}

fn print(found: &CheckDocument) -> anyhow::Result<()> {
    let place = found.data.display();
    let data = match &found.disk {
        Some(id) => format!("{place}, disk {id}"),
        None => format!("{place}, which is to be made"),
    };
    let seeds = if found.seeds.is_empty() { "none".to_owned() } else { found.seeds.join(", ") };
    term::line("it would run:")?;
    for (what, told) in [
        ("node", format!("{} of cluster {}", found.node, found.cluster)),
        ("data", data),
        ("clients", found.client.to_string()),
        ("internal", found.internal.to_string()),
        ("admin", format!("http://{}", found.admin)),
        ("founders", found.founders.join(", ")),
        ("seeds", seeds),
        ("replicas", format!("N = {}, if this node founds", found.replicas)),
    ] {
        term::line(format_args!("  {what:<10}{told}"))?;
    }
    Ok(())
}

/// Ends at SIGINT, SIGTERM or, if that was asked for, the end of the parent.
async fn asked_to_stop(exit_with_parent: bool) {
    let mut signals = match shutdown::Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            // Without handlers the signals end the process by themselves, and nothing
            // acknowledged is lost by that.
            term::note(failure::text(&error));
            return std::future::pending().await;
        }
    };
    let why = tokio::select! {
        signal = signals.next() => signal,
        () = shutdown::parent_gone(), if exit_with_parent => "asked by the parent, or it has ended",
    };
    tracing::info!(why, "asked to stop");
}
