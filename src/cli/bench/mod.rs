//! `bench`: how fast it is, beside the ceiling that gRPC sets.
//!
//! ```text
//!   servers (echo · a cluster of ours · given nodes) ◀── load ── closed loop, or `open`
//!                                                          └── request: draw a key, get or set
//!   run: one row a workload     suite, compare: `pairs` of runs, with ratios
//!                                                          └── book: was it written? is it there?
//! ```

mod book;
mod compare;
mod cpu;
mod draw;
mod echo;
mod load;
mod open;
mod pairs;
mod plot;
mod request;
mod row;
mod servers;
mod suite;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::args::{self, Consistency, Target as Addresses};
use super::cluster::Durability;
use super::exit::{Coded, Exit};
use super::term::{self, Output};
use book::{SEQUENCE_BYTES, Verified};
use compare::{Comparison, Difference, Side};
use draw::Distribution;
pub use echo::{EchoServeArgs, echo_serve};
use load::Shape;
use pairs::PAIRS_FOR_A_CLAIM;
use request::Workload;
use row::Row;
use servers::{Own, Servers, Who};

/// Nodes of the suite's clusters.
const SUITE_NODES: u16 = 3;
/// More requests a second than this are a mistake.
const RATE_MAX: f64 = 10_000_000.0;

/// Measure throughput and latency
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A closed loop, for throughput: each client sends its next request when the one before is answered.
With --rate an open loop, for latency: requests begin when they are due (a Poisson process), and a
latency counts from then. On one machine nodes and load share the processors: only ratios within
one run mean anything, which is what --suite and --compare print. A cluster that --addr names keeps the
keys of the load, all of which begin with `bench-`. Rows whose N, R, W or durability
differ promise different things.

Examples:
  coterie bench --addr 127.0.0.1:7400,127.0.0.1:7410,127.0.0.1:7420
  coterie bench --local 3 --workload get,set --durability buffered --clients 1,50,256
  coterie bench --local 3 --workload mixed --rate 5000 --plot latency.svg
  coterie bench --local 3 --workload mixed --verify
  coterie bench --local 3 --workload get,set --batch 100
  coterie bench --echo                bare gRPC servers, the ceiling
  coterie bench --suite -o json       all that is compared, interleaved, with ratios
  coterie bench --local 3 --workload set --compare durability=buffered
  coterie bench --local 3 --workload get --compare-with ./coterie-before")]
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
    /// Threads of each echo server; by default one for each processor
    #[arg(
        long,
        value_name = "THREADS",
        requires = "echo",
        value_parser = clap::value_parser!(u16).range(1..=256),
    )]
    echo_threads: Option<u16>,
    /// Measure echo servers and clusters of three nodes in turns, and compare them
    #[arg(long)]
    suite: bool,
    /// Measure in turns with a second configuration that is the same but for this, and compare:
    /// workload, consistency, durability, distribution, clients, connections, value-bytes, batch,
    /// rate, addr, program (each =VALUE), or echo (or echo=THREADS); may be repeated
    #[arg(long, value_name = "KEY=VALUE", conflicts_with_all = ["suite", "verify"])]
    compare: Vec<Difference>,
    /// Compare with another binary: short for --compare program=PATH
    #[arg(long, value_name = "PATH", requires = "local", conflicts_with_all = ["suite", "verify"])]
    compare_with: Option<PathBuf>,
    /// How often --suite and --compare go forth and back
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// What an OK of --local waits for
    #[arg(long, value_enum, default_value_t)]
    durability: Durability,
    /// How many of the N replicas must take part
    #[arg(long, value_enum, default_value = "quorum")]
    consistency: Consistency,
    /// Requests under way at a time; several numbers give a row each
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "50",
        value_parser = clap::value_parser!(u32).range(1..=100_000),
    )]
    clients: Vec<u32>,
    /// An open loop: begin this many requests a second, whatever becomes of them
    #[arg(long, value_name = "PER_SECOND", value_parser = rate, conflicts_with_all = ["clients", "suite"])]
    rate: Option<f64>,
    /// Connections, spread over the nodes
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Distinct keys
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// How keys are chosen
    #[arg(long, value_enum, default_value_t)]
    distribution: Distribution,
    /// Bytes of every key
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(16..=4096))]
    key_bytes: u32,
    /// Bytes of every value
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_bytes: u32,
    /// Keys of one request (`BatchGet`, `BatchSet`); rates and processor times are then those of keys
    #[arg(
        long,
        value_name = "KEYS",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000),
        conflicts_with_all = ["suite", "verify"],
    )]
    batch: u32,
    /// Check that every value read was written, and at the end that no acknowledged write is lost
    #[arg(long, conflicts_with_all = ["echo", "suite"])]
    verify: bool,
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
    /// Write the rows as a picture to this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// How to print the results
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    target: Addresses,
}

/// Everything that came of it, for programs.
#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<Verified>,
}

/// Runs the command, on a runtime of as many threads as were asked for.
///
/// # Errors
/// If servers cannot be reached or started, or standard output is closed.
pub fn bench(args: BenchArgs) -> anyhow::Result<Exit> {
    super::on_threads(args.threads, run(args))
}

async fn run(args: BenchArgs) -> anyhow::Result<Exit> {
    let differences = args.differences();
    args.check(&differences)?;
    let report = if args.suite {
        suite_of(&args).await?
    } else if differences.is_empty() {
        rows(&args).await?
    } else {
        compared(&args, &differences).await?
    };
    if let Some(path) = &args.plot {
        let written = std::fs::write(path, plot::svg(&report.rows));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    match args.output {
        Output::Json => term::json(&report)?,
        Output::Text => report.print()?,
    }
    Ok(if report.is_sound() { Exit::Ok } else { Exit::Error })
}

async fn suite_of(args: &BenchArgs) -> anyhow::Result<Report> {
    let shape = args.shape(args.clients[0]);
    let takes = suite::takes(&shape, args.pairs);
    term::note(format_args!("about {}", term::span(takes)));
    let rows = suite::suite(&shape, SUITE_NODES, args.port, args.pairs).await?;
    if (args.pairs as usize) < PAIRS_FOR_A_CLAIM {
        term::note(format_args!(
            "these ratios are an indication: a claim needs at least {PAIRS_FOR_A_CLAIM} pairs"
        ));
    }
    Ok(Report { rows, comparison: None, verified: None })
}

async fn compared(args: &BenchArgs, differences: &[Difference]) -> anyhow::Result<Report> {
    let a = Side {
        who: args.who()?,
        shape: args.shape(args.clients[0]),
        workload: args.workload[0],
        consistency: args.consistency.into(),
    };
    let takes = compare::takes(&a.shape, args.pairs);
    term::note(format_args!("about {}", term::span(takes)));
    let comparison = compare::compare(a, differences, args.pairs).await?;
    let rows = comparison.rows.to_vec();
    Ok(Report { rows, comparison: Some(comparison), verified: None })
}

async fn rows(args: &BenchArgs) -> anyhow::Result<Report> {
    let shape = args.shape(args.clients[0]);
    let servers = Servers::start(&args.who()?, &shape).await?;
    let measured = measure(args, &servers, &shape).await;
    servers.stop().await;
    measured
}

async fn measure(args: &BenchArgs, servers: &Servers, shape: &Shape) -> anyhow::Result<Report> {
    let target = servers.target(shape).await?;
    let mut rows = Vec::new();
    for &workload in &args.workload {
        for &clients in &args.clients {
            let shape = Shape { clients: clients as usize, ..*shape };
            term::note(format_args!("measuring {} …", workload.name()));
            let consistency = args.consistency.into();
            let measured = target.drive(&shape, workload, consistency).await?;
            let conditions = servers.conditions(workload, consistency, &shape);
            rows.push(Row::of(conditions, &[measured]));
        }
    }
    Ok(Report { rows, comparison: None, verified: target.read_back().await })
}

impl BenchArgs {
    fn shape(&self, clients: u32) -> Shape {
        Shape {
            clients: clients as usize,
            rate: self.rate,
            connections: self.connections as usize,
            keys: self.keys as usize,
            distribution: self.distribution,
            key_bytes: self.key_bytes as usize,
            value_bytes: self.value_bytes as usize,
            verify: self.verify,
            batch: self.batch as usize,
            warm_up: self.warm_up,
            measure: self.duration,
        }
    }

    fn who(&self) -> anyhow::Result<Who> {
        let Self { port, durability, .. } = *self;
        Ok(match (self.echo, self.local) {
            (true, _) => Who::Echo { threads: self.echo_threads },
            (false, Some(nodes)) => Who::Own(Own { nodes, port, durability, program: None }),
            (false, None) => Who::Given(self.target.addresses()?),
        })
    }

    fn differences(&self) -> Vec<Difference> {
        let program = self.compare_with.iter().cloned().map(Difference::Program);
        self.compare.iter().cloned().chain(program).collect()
    }

    /// What the flags say one by one, but not together.
    fn check(&self, differences: &[Difference]) -> anyhow::Result<()> {
        let usage = |why: String| Err(Coded::error(Exit::Usage, why));
        let (workloads, clients) = (self.workload.len(), self.clients.len());
        if !differences.is_empty() && (workloads != 1 || clients != 1) {
            return usage("a comparison is of one --workload and one number of --clients".into());
        }
        let least = self.key_bytes as usize + SEQUENCE_BYTES;
        if self.verify && (self.value_bytes as usize) < least {
            let why = format!(
                "--verify needs --value-bytes of at least {least}: a value says \
                               which key it is of"
            );
            return usage(why);
        }
        if self.duration.is_zero() {
            return usage("--duration is no time at all".into());
        }
        Ok(())
    }
}

/// A number of requests a second.
///
/// # Errors
/// A sentence, if it is none.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if rate > 0.0 && rate <= RATE_MAX { Ok(rate) } else { Err("more than 0 is needed".to_owned()) }
}

impl Report {
    fn is_sound(&self) -> bool {
        let verified = self.verified.is_none_or(|verified| verified.holds());
        verified && self.rows.iter().all(|row| row.errors == 0)
    }

    fn print(&self) -> anyhow::Result<()> {
        if let Some(Row { conditions, .. }) = self.rows.first() {
            let open = conditions.offered_per_second.is_some();
            let batches = match conditions.batch {
                1 => String::new(),
                batch => format!(", batches of {batch} keys, rates of keys"),
            };
            term::line(format_args!(
                "{} keys of {} bytes ({}), values of {} bytes, {} connections, {}{batches}",
                term::grouped(conditions.keys as u64),
                conditions.key_bytes,
                conditions.distribution,
                term::grouped(conditions.value_bytes as u64),
                conditions.connections,
                if open { "open loop" } else { "closed loop" },
            ))?;
        }
        term::line(row::render(&self.rows))?;
        for row in &self.rows {
            if let Some(error) = &row.first_error {
                term::note(format_args!("{}: {error}", row.conditions.workload));
            }
        }
        if let Some(comparison) = &self.comparison {
            term::line(comparison.sentence())?;
            comparison.doubts.iter().for_each(|doubt| term::note(format_args!("note: {doubt}")));
        }
        if let Some(verified) = &self.verified {
            term::line(sentence(verified))?;
        }
        Ok(())
    }
}

fn sentence(verified: &Verified) -> String {
    let Verified { keys, acknowledged, lost, wrong, unread, unknown } = *verified;
    let verdict = if verified.holds() { "nothing is lost" } else { "NOT AS IT SHOULD BE" };
    format!(
        "{verdict}: {} of {} read back; {lost} lost, {wrong} wrong, {unread} not readable; \
         {} of unknown outcome",
        term::count(acknowledged, "acknowledged write"),
        term::count(keys, "key"),
        term::count(unknown, "write"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// For tests of this module's parts.
    pub fn shape() -> Shape {
        Shape {
            clients: 50,
            rate: None,
            connections: 6,
            keys: 1,
            distribution: Distribution::Uniform,
            key_bytes: 16,
            value_bytes: 128,
            verify: false,
            batch: 1,
            warm_up: Duration::from_secs(1),
            measure: Duration::from_secs(3),
        }
    }

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parse(flags: &[&str]) -> Result<BenchArgs, String> {
        let line = Line::try_parse_from([&["bench"], flags].concat());
        let args = line.map_err(|error| error.to_string())?.args;
        args.check(&args.differences()).map_err(|error| error.to_string())?;
        Ok(args)
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        for flags in [
            &["--compare", "clients=9"][..],
            &["--compare", "clients=9", "--workload", "get,set"],
            &["--compare", "clients=9", "--workload", "get", "--clients", "1,2"],
            &["--compare-with", "/bin/true", "--workload", "get"],
            &["--verify", "--value-bytes", "20"],
            &["--verify", "--echo"],
            &["--rate", "0"],
            &["--rate", "100", "--clients", "5"],
            &["--suite", "--local", "3"],
            &["--duration", "0s"],
        ] {
            assert!(parse(flags).is_err(), "accepted {flags:?}");
        }
        let args = parse(&["--local", "3", "--workload", "get", "--compare-with", "x"]).unwrap();
        assert_eq!(args.differences(), [Difference::Program("x".into())]);
        assert_eq!(parse(&["--clients", "1,50"]).unwrap().clients, [1, 50]);
        assert_eq!(parse(&["--rate", "1500"]).unwrap().shape(50).rate, Some(1500.0));
    }

    #[test]
    fn a_report_with_a_loss_is_not_sound() {
        let verified = Verified { lost: 1, ..Verified::default() };
        let report = Report { rows: vec![], comparison: None, verified: Some(verified) };
        assert!(!report.is_sound());
        assert!(sentence(&verified).contains("1 lost"));
        assert!(sentence(&Verified::default()).starts_with("nothing is lost"));
    }
}
