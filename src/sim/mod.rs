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
//! clients were told with what each replica's disk holds. Faults are counted where they take
//! effect, and a seed that fails is shrunk to a smaller run that fails in the same way.
//!
//! Most worlds are small and fast: their nodes live at twenty times the world's pace, so that
//! every time constant of the cores is a twentieth of what it is in production; one seed in a
//! hundred has them as they are.
//!
//! A rule of the protocol that can be told as a story is a [`Scenario`]; see its tests.
//!
//! What this cannot see: the storage engine, the transports and the kernel. Real processes under
//! test cover those.

mod agenda;
mod bounds;
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
#[cfg(test)]
mod losses;
mod network;
mod node;
mod observer;
mod orders;
mod reads;
mod register;
mod remembered;
mod report;
mod ring;
mod run;
mod scans;
mod scenario;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod scenarios_disks;
#[cfg(test)]
mod scenarios_sync;
mod shrink;
mod story;
mod streams;
mod tally;
mod trace;
mod twin;
mod workload;
mod world;

pub use self::observer::{Check, Violation};
pub use self::report::{FAILURES_MAX, Report, RunStats, Summary};
pub use self::run::{RunOptions, examine, run, run_many};
pub use self::scenario::{Begun, KeptDisk, Scenario};
pub use self::shrink::{Limits, Shrunk, Size};
pub use self::story::Story;
pub use self::tally::{FaultCounts, FaultKind};
pub use self::trace::TraceMode;
pub use self::world::{Counts, Tap};
