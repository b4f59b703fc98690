//! Sessions at a terminal, kept word for word: what a command prints, on which stream, and what
//! it exits with. A change to the interface is a change to a file in `snapshots`, which is read in
//! review like any other text.
//!
//! ```text
//!   test ─ "coterie get k" ─▶ sh, in a folder of its own ─▶ the binary ─▶ a cluster on loopback
//!     └── text of the session ─ what varies made stable ─▶ snapshots/NAME.snap, or a failure
//! ```
//!
//! After an intended change: `INSTA_UPDATE=always cargo test --test sessions`, then read the diff.
//! A session that is not deterministic is mended in [`session`], where each filter says what it
//! takes away; nothing else is ever left out.

mod changes;
#[path = "../processes/cluster.rs"]
#[expect(dead_code, reason = "shared with the tests of processes, which use the rest")]
mod cluster;
mod coverage;
mod help;
mod keys;
mod nodes;
mod offline;
#[path = "../processes/process.rs"]
#[expect(dead_code, reason = "shared with the tests of processes, which use the rest")]
mod process;
mod session;
mod transfer;
#[path = "../processes/turn.rs"]
#[expect(dead_code, reason = "shared with the tests of processes, which use the rest")]
mod turn;
