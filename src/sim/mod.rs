//! The simulator: the real core in one deterministic world.
//!
//! ```text
//!   run ── faults (a plan from the seed) ──┐
//!    │  └─ workload (clients) ─────────────┤
//!    ▼                                     ▼
//!   checkers ◀── history ◀──────────── world ── network, disks, clocks
//!      ▲                                   │
//!      └──────────── observer ◀────────────┘ every commit, disk and acknowledgement
//! ```
//!
//! One virtual clock, one queue of events, one seed: the same seed gives the same run, event by
//! event, and the hash of its trace says so. Every run has a safety phase, in which a random
//! subset of faults happens at random rates while clients work, and a liveness phase, in which
//! everything is healed and the cluster must converge in bounded time. The verdict compares what
//! clients were told with what each replica's disk holds.
//!
//! A rule of the protocol that can be told as a story is a [`Scenario`]; see its tests.
//!
//! What this cannot see: the storage engine, the transports and the kernel. Real processes under
//! test cover those.

mod brain;
mod checkers;
mod clock;
mod collection;
#[cfg(test)]
mod collection_scenarios;
#[cfg(test)]
mod defects;
mod describe;
mod disk;
mod disks;
mod faults;
#[cfg(test)]
mod hint_scenarios;
mod history;
mod network;
mod node;
mod observer;
mod run;
mod scans;
mod scenario;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod scenarios_disks;
#[cfg(test)]
mod scenarios_sync;
mod streams;
mod trace;
mod workload;
mod world;

pub use self::observer::{Check, Violation};
pub use self::run::{FAILURES_MAX, Report, RunOptions, RunStats, Summary, run, run_many};
pub use self::scenario::{Begun, KeptDisk, Scenario};
pub use self::trace::TraceMode;
pub use self::world::{Counts, Tap};
