//! `sim`: the core in a world of faults, seed by seed.

use std::collections::BTreeMap;
use std::ops::Range;

use clap::Args;
use serde::Serialize;

use super::exit::{Coded, Exit};
use super::term::{self, Output, Progress};
use crate::sim::{self, Limits, Report, RunOptions, RunStats, Story, TraceMode};

/// Run the core in a simulated world of faults, and check that nothing is lost
#[derive(Args, Debug)]
#[command(after_help = "\
Each seed is a world of its own: 3 to 7 nodes, clients, and a random choice of faults (kills, pauses,
power loss, partitions, lost, duplicated and delayed messages, wrong clocks, damaged disks, ...) at random
rates. Then everything is healed, and what clients were told is held against every replica's disk. One seed
always gives the same run. A seed that fails is shrunk to a smaller run that fails in the same way.

Examples:
  coterie sim --seeds 1000                 a thousand worlds
  coterie sim --seeds 1000 --first 5000    another thousand
  coterie sim --seed 42 --trace            one world, told event by event
  coterie sim --story riak-1754            a case in which others lost data, in a hundred worlds")]
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
    /// Tell everything that happens in it: time, a column a node, what happens
    #[arg(long)]
    trace: bool,
    /// Leave out all but so many nodes, as a shrunk run does
    #[arg(long, requires = "seed")]
    nodes: Option<usize>,
    /// Leave out all but these of what clients want, by their number: 40..52
    #[arg(long, requires = "seed", value_parser = ops)]
    ops: Option<Range<usize>>,
    /// Leave out all but these faults of its plan, by their number: 0,3,17; or none
    #[arg(long, requires = "seed", value_parser = faults)]
    faults: Option<Faults>,
    /// Tell a case in which others lost data: riak-1754 (two nodes join five, and leave again, under
    /// forty clients that read, add to and write back ten keys)
    #[arg(long)]
    story: Option<Story>,
    /// How to print the verdict
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Faults of a plan, by their place in it.
#[derive(Clone, Debug)]
struct Faults(Vec<usize>);

fn ops(window: &str) -> Result<Range<usize>, String> {
    let ends = window.split_once("..").and_then(|(start, end)| {
        Some(Range { start: start.parse().ok()?, end: end.parse().ok()? })
    });
    ends.ok_or_else(|| "it is given as two numbers: 40..52".to_owned())
}

fn faults(list: &str) -> Result<Faults, String> {
    if list == "none" {
        return Ok(Faults(Vec::new()));
    }
    let number = |word: &str| word.parse().map_err(|_| format!("`{word}` is no number of a fault"));
    list.split(',').map(number).collect::<Result<_, _>>().map(Faults)
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
    plan: String,
    trace_hash: String,
    violations: Vec<String>,
    /// A smaller run that fails in the same way.
    #[serde(skip_serializing_if = "Option::is_none")]
    shrunk: Option<String>,
    #[serde(flatten)]
    counts: CountsDocument,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trace: Vec<String>,
}

#[derive(Serialize)]
struct CountsDocument {
    virtual_seconds: f64,
    /// As the nodes' timers counted it.
    node_seconds: f64,
    ops: u64,
    acknowledged: u64,
    reads: u64,
    failed: u64,
    unknown: u64,
    /// How often each kind of fault took effect.
    faults: BTreeMap<&'static str, u64>,
}

/// Runs the command.
///
/// # Errors
/// If standard output is closed.
pub fn sim(args: &SimArgs) -> anyhow::Result<Exit> {
    match args.seed {
        Some(seed) => one(seed, args),
        None if args.trace => {
            let first = args.first;
            let sentence = format!(
                "--trace tells one world, event by event, and needs to know which: for example coterie sim --seed {first} --trace"
            );
            Err(Coded::error(Exit::Usage, sentence))
        }
        None => many(args),
    }
}

fn options(story: Option<Story>, trace: TraceMode, limits: Limits) -> RunOptions {
    RunOptions {
        trace,
        limits,
        story,
        #[cfg(any(test, feature = "seeded-defects"))]
        defect: crate::node::seeded_defect(),
    }
}

fn one(seed: u64, args: &SimArgs) -> anyhow::Result<Exit> {
    let trace = if args.trace { TraceMode::Lines } else { TraceMode::Hash };
    let faults = args.faults.as_ref().map(|list| list.0.clone());
    let limits = Limits { nodes: args.nodes, ops: args.ops.clone(), faults };
    let report = sim::examine(seed, &options(args.story, trace, limits));
    let (good, output) = (report.violations.is_empty(), args.output);
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
    let show = |done, failed: &[u64]| {
        let which: Vec<String> = failed.iter().map(u64::to_string).collect();
        let colon = if failed.is_empty() { "" } else { ": " };
        let count = term::count(failed.len() as u64, "seed");
        progress.show(done, &format!("{count} with violations{colon}{}", which.join(", ")));
    };
    let summary = sim::run_many(
        args.first,
        args.seeds,
        threads,
        &options(args.story, TraceMode::Hash, Limits::default()),
        &show,
    );
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
            plan: report.plan,
            trace_hash: format!("{:016x}", report.trace_hash),
            violations: report.violations.iter().map(ToString::to_string).collect(),
            shrunk: report.shrunk.map(|shrunk| shrunk.to_string()),
            counts: CountsDocument::of(&report.stats),
            trace: report.lines,
        }
    }
}

impl CountsDocument {
    fn of(stats: &RunStats) -> Self {
        Self {
            virtual_seconds: stats.virtual_micros as f64 / 1e6,
            node_seconds: stats.node_micros as f64 / 1e6,
            ops: stats.ops,
            acknowledged: stats.acknowledged,
            reads: stats.reads,
            failed: stats.failed,
            unknown: stats.unknown,
            faults: stats.faults.nonzero().map(|(kind, count)| (kind.name(), count)).collect(),
        }
    }
}

fn verdict(good: bool) -> Exit {
    if good { Exit::Ok } else { Exit::Error }
}
