//! Real processes: the binary itself, sockets on loopback, data on disk, and signals. What the
//! simulator cannot cover (the engine, the transports, the kernel) is covered here.
//!
//! ```text
//!   test ── spawn, SIGKILL, SIGSTOP, SIGTERM ──▶ coterie serve × n     a folder and an address
//!     ├──── load: unique keys, request ids ────▶ client ports          of its own for each test
//!     ├──── garbage ───────────────────────────▶ every port
//!     └──── verify: every acknowledged write, from each node
//! ```
//!
//! - Every wait has a limit. Where a limit is a claim about speed, it is the claim itself in
//!   release builds and lenient in debug builds, which run on machines that do other things too;
//!   what was measured is printed.
//! - Nothing but children of these tests is ever signalled, by process id. A child ends with its
//!   test, however that ends: its standard input is a pipe from here.
//! - At most two clusters run at a time, and alone where time is measured.

mod additions;
mod bad_calls;
mod batches;
mod cli;
mod cluster;
mod disks;
mod explain;
mod exports;
mod folders;
mod garbage;
mod handoff;
mod impostors;
mod kills;
mod load;
mod logs;
mod lost_disks;
mod metrics;
mod notice;
mod otlp;
mod pause;
mod process;
mod ring;
mod shutdown;
mod startup;
/// The example is a test, too.
#[path = "../../examples/tour.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod tour;
mod traces;
mod transfer;
mod turn;
