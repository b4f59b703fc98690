//! Instruments, and the text in which Prometheus reads them.
//!
//! ```text
//!   hot path ── two relaxed additions ──▶ Histogram ──┐
//!   counters that exist anyway ── at a scrape ────────┼──▶ Page ──▶ GET /metrics
//!   /proc/self ── at a scrape ────────────────────────┘
//! ```
//!
//! Names of calls follow OpenTelemetry's conventions as its Prometheus exporter writes them
//! (`rpc.server.call.duration` becomes `rpc_server_call_duration_seconds`, and the resource
//! becomes `target_info`); what is our own begins with `coterie_`. OpenTelemetry's SDK itself is
//! not used for metrics: its histograms take a lock for each value, ours do not.
//!
//! Every instrument is bound to its labels at the start; no label ever holds what a client sent.

mod histogram;
mod page;
mod process;

pub use histogram::{COUNTS, Histogram, LATENCIES};
pub use page::{Family, Kind, Page};
pub use process::process;
