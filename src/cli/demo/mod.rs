//! `demo`: a cluster loses a node under load, and no acknowledged write.
//!
//! ```text
//!   start ─▶ load ─▶ mixed load ─────────────────────────────────▶ read back ─▶ verdict
//!                      before │ during: kill -9  │ after: back,      every acknowledged write
//!                             │ noticed, hints   │ handoff           from each node
//! ```

mod document;
mod load;
mod measure;
mod report;
mod run;
mod story;
mod text;
mod verdict;
mod verify;
mod watch;

use std::time::Duration;

use clap::Args;

use super::cluster::{Cluster, Durability, Plan, TemporaryDir};
use super::exit::{Coded, Exit};
use super::term::Output;
use super::{local, shutdown, term};

/// Start a cluster, load it, kill a node, bring it back, and prove that nothing was lost
#[derive(Args, Debug)]
#[command(after_help = "\
The nodes are child processes with their data in a temporary folder, which is removed in the end.
About a minute. Exit code 0 only if every acknowledged write was read back from each node.

Examples:
  coterie demo
  coterie demo --nodes 3 --seed 7
  coterie demo --keep                 leaves the cluster up to be played with")]
pub struct DemoArgs {
    /// How many nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=15))]
    nodes: u16,
    /// Leave the cluster up, and its folder in place, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Repeats the choices of an earlier run: victim, keys, values, order of requests
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How long the mixed load lasts, in seconds
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(5..=3600))]
    seconds: u32,
    /// Records that are loaded first
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    records: u32,
    /// Requests a second of the mixed load; 0: as many as possible
    #[arg(long, default_value_t = 3_000)]
    rate: u32,
    /// The client port of node 0; others near it are taken if it is in use
    #[arg(long, default_value_t = 7400)]
    port: u16,
    /// What an OK waits for
    #[arg(long, value_enum, default_value_t)]
    durability: Durability,
    /// How to print the report; as JSON, the story goes to standard error
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// If the cluster cannot be started, or something takes longer than it may.
pub async fn demo(args: DemoArgs) -> anyhow::Result<Exit> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u16>()));
    let mut dir = TemporaryDir::new("demo")?;
    let plan = Plan::new(args.nodes, dir.path().to_owned(), args.port, args.durability)?;
    let mut signals = shutdown::Signals::install()?;
    let mut cluster = Cluster::start(plan.on_free_ports()?).await?;
    let ran = tokio::select! {
        ran = run::run(&mut cluster, &args, seed) => ran,
        signal = signals.next() => {
            Err(Coded::error(Exit::Error, format!("{signal} before the end: nothing was proven")))
        }
    };
    if !matches!(ran, Ok(Exit::Ok)) {
        dir.keep();
        term::note(format_args!("data and logs are kept in {}", dir.path().display()));
        term::note(format_args!("the same choices again: coterie demo --seed {seed}"));
    }
    if args.keep && ran.is_ok() {
        dir.keep();
        local::print_nodes(&cluster, args.output)?;
        term::note("The cluster is up. Ctrl-C stops it; the folder stays.");
        signals.next().await;
    }
    cluster.stop().await;
    ran
}

impl DemoArgs {
    /// How long each phase of the mixed load lasts, in the order of the phases.
    fn spans(&self) -> [Duration; measure::PHASES] {
        let all = Duration::from_secs(self.seconds.into());
        [all.mul_f64(0.25), all.mul_f64(0.45), all.mul_f64(0.30)]
    }
}
