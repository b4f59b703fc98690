//! Breaks a Coterie cluster in mid-load, and proves what became of every acknowledged write.
//!
//! ```text
//!   scenario ──▶ run ──┬─▶ target      the cluster: processes, namespaces, containers, pods
//!                      ├─▶ nemesis     faults, each of which must be seen to take effect
//!                      ├─▶ workload    clients, by way of the store's own API
//!                      ├─▶ settle      heal, wait, read every key back and look at every copy
//!                      │        │
//!                      │     history   what was asked, answered and done, as it happens (NDJSON)
//!                      ▼        ▼
//!                   verdict ◀─ checkers   which know the history, and nothing of the server
//!                      ▼
//!                   report     one HTML file
//! ```
//!
//! The harness knows the store only as a client does. A run is judged from its history alone, so
//! `coterie-chaos check` comes to the same verdict again.

mod caller;
mod checkers;
mod cli;
mod history;
mod nemesis;
mod report;
mod run;
mod scenario;
mod settle;
mod target;
mod verdict;
mod workload;

pub use cli::main;
