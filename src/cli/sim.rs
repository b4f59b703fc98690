//! `sim`: the core in a world of faults, seed by seed.

use clap::Args;

use super::exit::Exit;
use super::term::{self, Progress};
use crate::sim::{self, RunOptions, TraceMode};

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
    #[arg(long, default_value_t = 100, conflicts_with = "seed")]
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
}

/// Runs the command.
///
/// # Errors
/// If standard output is closed.
pub fn sim(args: &SimArgs) -> anyhow::Result<Exit> {
    match args.seed {
        Some(seed) => one(seed, args.trace),
        None => many(args),
    }
}

fn one(seed: u64, trace: bool) -> anyhow::Result<Exit> {
    let trace = if trace { TraceMode::Lines } else { TraceMode::Hash };
    let report = sim::run(seed, &RunOptions::traced(trace));
    for line in &report.lines {
        term::line(line)?;
    }
    term::line(&report)?;
    Ok(verdict(report.violations.is_empty()))
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
    term::line(&summary)?;
    Ok(verdict(summary.failures.is_empty()))
}

fn verdict(good: bool) -> Exit {
    if good { Exit::Ok } else { Exit::Error }
}
