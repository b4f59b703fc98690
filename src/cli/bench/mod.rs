//! `bench`: how fast it is, beside the ceiling that gRPC sets.

mod cpu;
mod echo;
mod load;
mod row;
mod suite;

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::args::{self, Consistency, Target as Addresses};
use super::cluster::{Cluster, Durability, Plan, TemporaryDir};
use super::exit::Exit;
use super::term::{self, Output};
use crate::client::{Client, Options};
use crate::proto::StatusResponse;
use echo::EchoServers;
pub use echo::{EchoServeArgs, echo_serve};
use load::{Shape, Target, Workload};
use row::{Conditions, Row};

/// A cluster of our own is ready within this.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Measure throughput and latency
#[derive(Args, Debug)]
#[command(after_help = "\
A closed loop: each client sends its next request when the one before is answered. 16-byte keys,
chosen uniformly. On one machine nodes and load share the processors: only ratios within one run
mean anything, which is what --suite prints.

Examples:
  coterie bench --addr 127.0.0.1:7400,127.0.0.1:7410,127.0.0.1:7420
  coterie bench --local 3 --workload get,set --durability buffered
  coterie bench --echo                bare gRPC servers, the ceiling
  coterie bench --suite -o json       all that is compared, interleaved, with ratios")]
pub struct BenchArgs {
    /// Which requests are made
    #[arg(long, value_enum, value_delimiter = ',', default_value = "get,set,mixed,read-mostly")]
    workload: Vec<Workload>,
    /// Start a cluster of this many nodes for it, in a temporary folder
    #[arg(long, value_name = "NODES", conflicts_with_all = ["echo", "suite"])]
    local: Option<u16>,
    /// Measure echo servers instead of a cluster
    #[arg(long, conflicts_with = "suite")]
    echo: bool,
    /// Measure echo servers and clusters of three nodes in turns, and compare them
    #[arg(long)]
    suite: bool,
    /// How often the suite goes forth and back
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// What an OK of --local waits for
    #[arg(long, value_enum, default_value_t)]
    durability: Durability,
    /// How many of the N replicas must take part
    #[arg(long, value_enum, default_value = "quorum")]
    consistency: Consistency,
    /// Requests under way at a time
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Connections, spread over the nodes
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Distinct keys
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Bytes of every value
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_bytes: u32,
    /// How long each workload is measured
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = args::duration)]
    duration: Duration,
    /// How long each workload runs before it is measured
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = args::duration)]
    warm_up: Duration,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// The client port of node 0 of a cluster that is started for it
    #[arg(long, default_value_t = 7400)]
    port: u16,
    /// How to print the results
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    target: Addresses,
}

/// A cluster in a temporary folder.
pub struct OwnCluster {
    /// The processes.
    pub cluster: Cluster,
    _dir: TemporaryDir,
}

/// Runs the command, on a runtime of as many threads as were asked for.
///
/// # Errors
/// If servers cannot be reached or started, or standard output is closed.
pub fn bench(args: BenchArgs) -> anyhow::Result<Exit> {
    if args.threads == 1 {
        return super::on_one_thread(run(args));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.threads.into())
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(args))
}

async fn run(args: BenchArgs) -> anyhow::Result<Exit> {
    let shape = Shape {
        clients: args.clients as usize,
        connections: args.connections as usize,
        keys: args.keys as usize,
        value_bytes: args.value_bytes as usize,
        warm_up: args.warm_up,
        measure: args.duration,
    };
    let rows = if args.suite {
        let takes = suite::takes(&shape, args.pairs);
        term::note(format_args!("about {}", term::span(takes)));
        suite::suite(&shape, 3, args.port, args.pairs).await?
    } else if args.echo {
        let servers = EchoServers::start(3, shape.value_bytes).await?;
        let target = Target::connect(&servers.addresses, servers.processes(), &shape).await?;
        let conditions = |workload| Conditions::of_echo(servers.addresses.len(), workload, &shape);
        measure(&args, &target, &shape, conditions).await?
    } else if let Some(nodes) = args.local {
        let mut own = OwnCluster::start(nodes, args.port, args.durability).await?;
        let measured = on_own(&args, &own, &shape).await;
        own.stop().await;
        measured?
    } else {
        let addresses = &args.target.addresses()?;
        let client = Client::connect(addresses.iter().cloned(), Options::default())?;
        let status = client.status(&addresses[0]).await;
        let status = status.with_context(|| format!("cannot reach {}", addresses[0]))?;
        let target = Target::connect(addresses, Vec::new(), &shape).await?;
        on_cluster(&args, &target, &status, &shape).await?
    };
    match args.output {
        Output::Json => term::json(&rows)?,
        Output::Text => print(&rows)?,
    }
    Ok(if rows.iter().all(|row| row.errors == 0) { Exit::Ok } else { Exit::Error })
}

async fn on_own(args: &BenchArgs, own: &OwnCluster, shape: &Shape) -> anyhow::Result<Vec<Row>> {
    let status = ready_status(own).await?;
    let target = Target::connect(&own.cluster.addresses(), own.processes(), shape).await?;
    on_cluster(args, &target, &status, shape).await
}

async fn on_cluster(
    args: &BenchArgs,
    target: &Target,
    status: &StatusResponse,
    shape: &Shape,
) -> anyhow::Result<Vec<Row>> {
    target.preload(shape).await?;
    let consistency = args.consistency.into();
    let conditions = |workload| Conditions::of_cluster(status, workload, consistency, shape);
    measure(args, target, shape, conditions).await
}

async fn measure(
    args: &BenchArgs,
    target: &Target,
    shape: &Shape,
    conditions: impl Fn(Workload) -> Conditions,
) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &workload in &args.workload {
        term::note(format_args!("measuring {} …", workload.name()));
        let measured = target.drive(shape, workload, args.consistency.into()).await?;
        rows.push(Row::of(conditions(workload), &[measured]));
    }
    Ok(rows)
}

fn print(rows: &[Row]) -> anyhow::Result<()> {
    if let Some(Row { conditions, .. }) = rows.first() {
        term::line(format_args!(
            "{} keys of 16 bytes, values of {} bytes, {} connections, closed loop",
            term::grouped(conditions.keys as u64),
            term::grouped(conditions.value_bytes as u64),
            conditions.connections,
        ))?;
    }
    term::line(row::render(rows))?;
    for row in rows {
        if let Some(error) = &row.first_error {
            term::note(format_args!("{}: {error}", row.conditions.workload));
        }
    }
    Ok(())
}

/// How a cluster that is ready describes itself.
async fn ready_status(own: &OwnCluster) -> anyhow::Result<StatusResponse> {
    own.cluster.status(0).await.context("cannot ask node-0 for its status")
}

impl OwnCluster {
    /// Starts a cluster on free ports from `port` on and waits until it is ready.
    async fn start(nodes: u16, port: u16, durability: Durability) -> anyhow::Result<Self> {
        let dir = TemporaryDir::new("bench")?;
        let plan = Plan::new(nodes, dir.path().to_owned(), port, durability)?.on_free_ports()?;
        let mut own = Self { cluster: Cluster::start(plan).await?, _dir: dir };
        if let Err(error) = own.cluster.wait_ready(READY_WITHIN).await {
            own.stop().await;
            return Err(error);
        }
        Ok(own)
    }

    fn processes(&self) -> Vec<u32> {
        self.cluster.places().filter_map(|(_, process)| process).collect()
    }

    async fn stop(&mut self) {
        self.cluster.stop().await;
    }
}
