//! Everything that a user touches.
//!
//! ```text
//!   main ─▶ Cli (flags) ─▶ one module a command ─▶ Exit or an error ─▶ message and exit code
//!
//!   serve                     a node in this process; config: what it would run with
//!   local · demo · bench      nodes as child processes: cluster
//!   get · set · delete · scan · import · export                  client
//!   status · members · ring · locate · explain · hints · repair  every node, each for itself: nodes
//!   plan · can-restart                                           what a change would come to
//!   apply · decommission · remove                                an order, to one node: orders
//! ```
//!
//! Data goes to standard output, everything else to standard error. A reader that goes away
//! (`| head`) ends a command quietly.

mod address_book;
mod args;
mod balance;
mod bench;
mod can_restart;
mod cluster;
mod completions;
mod demo;
pub mod exit;
mod explain;
mod failure;
#[cfg(test)]
mod fake;
mod hints;
mod kv;
mod latency;
mod local;
mod nodes;
mod orders;
mod plan;
mod repair;
mod ring;
mod scan;
mod serve;
mod settings;
mod shutdown;
mod sim;
mod status;
mod term;
mod transfer;
mod under_way;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use exit::Exit;

/// A leaderless, replicated key-value store
#[derive(Parser, Debug)]
#[command(
    name = "coterie",
    version,
    about,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 unavailable or degraded, 5 timeout with unknown
outcome. A command that fails with -o json says why in one JSON object on standard error.

Examples:
  coterie demo                        see a cluster lose a node and no data, in a minute
  coterie local                       a cluster on this machine, until Ctrl-C
  coterie set greeting hello && coterie get greeting
  coterie status                      is all as it should be, and can another node be lost?
  coterie explain greeting            who holds what of a key, and who is stale"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::ServeArgs),
    Local(local::LocalArgs),
    Demo(demo::DemoArgs),
    Get(kv::GetArgs),
    Set(kv::SetArgs),
    Delete(kv::DeleteArgs),
    Scan(scan::ScanArgs),
    Import(transfer::ImportArgs),
    Export(transfer::ExportArgs),
    Status(status::StatusArgs),
    Members(status::MembersArgs),
    Ring(ring::RingArgs),
    Balance(balance::BalanceArgs),
    Plan(plan::PlanArgs),
    Apply(orders::ApplyArgs),
    Decommission(orders::DecommissionArgs),
    Remove(orders::RemoveArgs),
    CanRestart(can_restart::CanRestartArgs),
    Locate(ring::LocateArgs),
    Explain(explain::ExplainArgs),
    Hints(hints::HintsArgs),
    Repair(repair::RepairArgs),
    Config(settings::ConfigArgs),
    Sim(sim::SimArgs),
    Bench(bench::BenchArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    BenchEchoServe(bench::EchoServeArgs),
}

/// Parses the flags of this process, runs the command and reports how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let json = failure::asks_for_json(&words);
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) if json && error.use_stderr() => {
            term::note(failure::usage_json(&error));
            return Exit::Usage.into();
        }
        Err(error) => error.exit(),
    };
    let exit = match run(cli) {
        Ok(exit) => exit,
        Err(error) if exit::is_broken_pipe(&error) => Exit::Ok,
        Err(error) => {
            term::note(if json { failure::json(&error) } else { failure::text(&error) });
            exit::of_error(&error)
        }
    };
    exit.into()
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    match cli.command {
        Command::Serve(args) => serve::serve(&args),
        Command::Local(args) => on_one_thread(local::local(args)),
        Command::Demo(args) => on_one_thread(demo::demo(args)),
        Command::Get(args) => on_one_thread(kv::get(args)),
        Command::Set(args) => on_one_thread(kv::set(args)),
        Command::Delete(args) => on_one_thread(kv::delete(args)),
        Command::Scan(args) => on_one_thread(scan::scan(args)),
        Command::Import(args) => on_one_thread(transfer::import(args)),
        Command::Export(args) => on_one_thread(transfer::export(args)),
        Command::Status(args) => on_one_thread(status::status(args)),
        Command::Members(args) => on_one_thread(status::members(args)),
        Command::Ring(args) => on_one_thread(ring::ring(args)),
        Command::Balance(args) => balance::balance(&args),
        Command::Plan(args) => on_one_thread(plan::plan(args)),
        Command::Apply(args) => on_one_thread(orders::apply(args)),
        Command::Decommission(args) => on_one_thread(orders::decommission(args)),
        Command::Remove(args) => on_one_thread(orders::remove(args)),
        Command::CanRestart(args) => on_one_thread(can_restart::can_restart(args)),
        Command::Locate(args) => on_one_thread(ring::locate(args)),
        Command::Explain(args) => on_one_thread(explain::explain(args)),
        Command::Hints(args) => on_one_thread(hints::hints(args)),
        Command::Repair(args) => on_one_thread(repair::repair(args)),
        Command::Config(args) => settings::config(&args),
        Command::Sim(args) => sim::sim(&args),
        Command::Bench(args) => bench::bench(args),
        Command::Completions(args) => completions::completions(&args),
        Command::BenchEchoServe(args) => bench::echo_serve(&args),
    }
}

/// Clients are bound by the network, not by the processor: one thread leaves the others to the
/// nodes, and spares every request two wake-ups.
fn on_one_thread(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    on(&mut Builder::new_current_thread(), command)
}

/// For a command that is told how many threads it may take: with one, only the caller's.
fn on_threads(
    threads: u16,
    command: impl Future<Output = anyhow::Result<Exit>>,
) -> anyhow::Result<Exit> {
    match threads {
        1 => on_one_thread(command),
        _ => on(Builder::new_multi_thread().worker_threads(threads.into()), command),
    }
}

fn on(
    runtime: &mut Builder,
    command: impl Future<Output = anyhow::Result<Exit>>,
) -> anyhow::Result<Exit> {
    let runtime = runtime.enable_all().build().context("cannot start the runtime")?;
    let ran = runtime.block_on(command);
    runtime.shutdown_background();
    ran
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_for_users_explains_itself_with_examples() {
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }

    #[test]
    fn addresses_may_be_repeated_or_comma_separated() {
        for flags in [vec!["--addr", "a:1,b:2"], vec!["--addr", "a:1", "--addr", "b:2"]] {
            let words = ["coterie", "status"].into_iter().chain(flags);
            assert!(Cli::try_parse_from(words).is_ok());
        }
        assert!(Cli::try_parse_from(["coterie", "status", "--addr", "nowhere"]).is_err());
    }
}
