//! `local`: a cluster in the foreground.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::cluster::{Cluster, Durability, Place, Plan};
use super::exit::Exit;
use super::term::Output;
use super::{shutdown, term};

/// Nodes on one machine find each other in a second or two; recovery of much data takes longer.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Run a cluster on this machine, in the foreground, until Ctrl-C
#[derive(Args, Debug)]
#[command(after_help = "\
Node i listens for clients on port+10·i, for other nodes on +1, for admin HTTP on +2. DIR/node-i.toml
is its configuration (`coterie serve --config DIR/node-i.toml` runs it alone), DIR/node-i its data,
DIR/node-i.log what it says. A cluster started again on the same folder has its data.

Examples:
  coterie local                                  three nodes on ports 7400 to 7422
  coterie local --nodes 5 --data /tmp/five
  coterie set greeting hello                     in another terminal")]
pub struct LocalArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=25))]
    nodes: u16,
    /// Where configuration, data and logs go
    #[arg(long, value_name = "DIR", default_value = "./coterie-data")]
    data: PathBuf,
    /// The client port of node 0
    #[arg(long, default_value_t = 7400)]
    port: u16,
    /// What an OK waits for
    #[arg(long, value_enum, default_value_t)]
    durability: Durability,
    /// How to print the nodes
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A node for programs.
#[derive(Debug, Serialize)]
struct NodeDocument {
    name: String,
    process: Option<u32>,
    client: String,
    internal: String,
    admin: String,
}

/// Runs the command.
///
/// # Errors
/// If a port is in use, a folder cannot be written or a node does not start.
pub async fn local(args: LocalArgs) -> anyhow::Result<Exit> {
    let dir = std::path::absolute(&args.data)?;
    let plan = Plan::new(args.nodes, dir, args.port, args.durability)?;
    let mut stop = shutdown::Signals::install()?;
    let mut cluster = Cluster::start(plan).await?;
    let ran = run(&mut cluster, args.output, &mut stop).await;
    let killed = cluster.stop().await;
    for name in &killed {
        term::note(format_args!("{name} did not stop in time and was killed"));
    }
    ran.map(|()| if killed.is_empty() { Exit::Ok } else { Exit::Error })
}

async fn run(
    cluster: &mut Cluster,
    output: Output,
    stop: &mut shutdown::Signals,
) -> anyhow::Result<()> {
    print_nodes(cluster, output)?;
    let replicas = u64::from(cluster.plan().replicas());
    if replicas < 3 {
        term::note(format_args!(
            "Each key has {} here (replication.replicas = {replicas}): with fewer than 3 nodes none \
             can be lost.",
            term::count(replicas, "replica")
        ));
    }
    tokio::select! {
        signal = stop.next() => {
            stopping(signal);
            return Ok(());
        }
        ready = cluster.wait_ready(READY_WITHIN) => {
            let took = ready?;
            let told = format!("ready after {}. Ctrl-C stops it.", term::span(took));
            match output {
                Output::Text => term::line(told)?,
                Output::Json => term::note(told),
            }
        }
    }
    loop {
        tokio::select! {
            signal = stop.next() => {
            stopping(signal);
            return Ok(());
        }
            death = cluster.next_death() => {
                term::note(death.sentence());
                if cluster.places().all(|(_, process)| process.is_none()) {
                    anyhow::bail!("no node is left");
                }
                term::note("The others go on.");
            }
        }
    }
}

fn stopping(signal: &str) {
    term::note(format_args!("{signal}: stopping"));
}

/// A line for each node: its process and its addresses.
///
/// # Errors
/// If standard output is closed.
pub fn print_nodes(cluster: &Cluster, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        let document = |(place, process): (&Place, Option<u32>)| NodeDocument {
            name: place.name.clone(),
            process,
            client: place.client.to_string(),
            internal: place.internal.to_string(),
            admin: place.admin.to_string(),
        };
        return term::json(&cluster.places().map(document).collect::<Vec<_>>());
    }
    for (place, process) in cluster.places() {
        let process = process.map_or_else(|| "-".to_owned(), |id| id.to_string());
        term::line(format_args!(
            "{}  process {process}  clients {}  internal {}  admin http://{}",
            place.name, place.client, place.internal, place.admin
        ))?;
    }
    term::line(format_args!("data, configuration and logs: {}", cluster.plan().dir.display()))?;
    Ok(())
}
