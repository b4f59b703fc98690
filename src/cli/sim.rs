//! `sim`: the core in a world of faults, seed by seed.

use clap::Args;
use serde::Serialize;

use super::exit::Exit;
use super::term::{self, Output, Progress};
use crate::sim::{self, Report, RunOptions, RunStats, TraceMode};

/// Run the core in a simulated world of faults, and check that nothing is lost
#[derive(Args, Debug)]
#[command(after_help = "\
Each seed is a world of its own: 3 to 7 nodes, clients, and a random choice of faults (kills, pauses,
power loss, partitions, lost, duplicated and delayed messages, wrong clocks, ...) at random rates. Then
everything is healed, and what clients were told is held against every replica's disk. One seed always
gives the same run.

Examples:
  coterie sim --seeds 1000                 a thousand worlds
  coterie sim --seeds 1000 --first 5000    another thousand
  coterie sim --seed 42 --trace            one world, told event by event")]
pub struct SimArgs {
    /// How many seeds to run
    #[arg(
        long,
        default_value_t = 100,
        conflicts_with = "seed",
        value_parser = clap::value_parser!(u64).range(1..),
    )]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    first: u64,
    /// Threads; 0: as many as there are processors
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    threads: usize,
    /// Run one seed
    #[arg(long)]
    seed: Option<u64>,
    /// Tell everything that happens in it
    #[arg(long, requires = "seed")]
    trace: bool,
    /// How to print the verdict
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct SummaryDocument {
    seeds: u64,
    seconds: f64,
    #[serde(flatten)]
    counts: CountsDocument,
    /// Seeds with violations.
    failures: Vec<SeedDocument>,
}

#[derive(Serialize)]
struct SeedDocument {
    seed: u64,
    topology: String,
    faults: String,
    trace_hash: String,
    violations: Vec<String>,
    #[serde(flatten)]
    counts: CountsDocument,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trace: Vec<String>,
}

#[derive(Serialize)]
struct CountsDocument {
    virtual_seconds: f64,
    ops: u64,
    acknowledged: u64,
    reads: u64,
    failed: u64,
    unknown: u64,
}

/// Runs the command.
///
/// # Errors
/// If standard output is closed.
pub fn sim(args: &SimArgs) -> anyhow::Result<Exit> {
    match args.seed {
        Some(seed) => one(seed, args.trace, args.output),
        None => many(args),
    }
}

fn one(seed: u64, trace: bool, output: Output) -> anyhow::Result<Exit> {
    let trace = if trace { TraceMode::Lines } else { TraceMode::Hash };
    let report = sim::run(seed, &RunOptions::traced(trace));
    let good = report.violations.is_empty();
    if output == Output::Json {
        term::json(&SeedDocument::of(report))?;
        return Ok(verdict(good));
    }
    for line in &report.lines {
        term::line(line)?;
    }
    term::line(&report)?;
    Ok(verdict(good))
}

fn many(args: &SimArgs) -> anyhow::Result<Exit> {
    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let progress = Progress::start("simulating", Some(args.seeds), "seeds");
    let show = |done, failed| {
        progress.show(done, &format!("{} with violations", term::count(failed, "seed")));
    };
    let summary = sim::run_many(args.first, args.seeds, threads, &RunOptions::default(), &show);
    progress.finish();
    let good = summary.failures.is_empty();
    match args.output {
        Output::Text => term::line(&summary)?,
        Output::Json => term::json(&SummaryDocument {
            seeds: summary.seeds,
            seconds: summary.elapsed.as_secs_f64(),
            counts: CountsDocument::of(&summary.stats),
            failures: summary.failures.into_iter().map(SeedDocument::of).collect(),
        })?,
    }
    Ok(verdict(good))
}

impl SeedDocument {
    fn of(report: Report) -> Self {
        Self {
            seed: report.seed,
            topology: report.topology,
            faults: report.faults,
            trace_hash: format!("{:016x}", report.trace_hash),
            violations: report.violations.iter().map(ToString::to_string).collect(),
            counts: CountsDocument::of(&report.stats),
            trace: report.lines,
        }
    }
}

impl CountsDocument {
    fn of(stats: &RunStats) -> Self {
        Self {
            virtual_seconds: stats.virtual_micros as f64 / 1e6,
            ops: stats.ops,
            acknowledged: stats.acknowledged,
            reads: stats.reads,
            failed: stats.failed,
            unknown: stats.unknown,
        }
    }
}

fn verdict(good: bool) -> Exit {
    if good { Exit::Ok } else { Exit::Error }
}
