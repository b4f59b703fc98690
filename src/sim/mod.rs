//! sim
mod brain;
mod checkers;
mod clock;
mod describe;
mod disk;
mod faults;
mod history;
mod network;
mod node;
mod observer;
mod run;
mod trace;
mod workload;
mod world;

pub use self::observer::{Check, Violation};
pub use self::run::{FAILURES_MAX, Report, RunOptions, RunStats, Summary, run, run_many};
pub use self::trace::TraceMode;
