//! Instruments, a page of what they have counted, and the text in which Prometheus reads it.
//!
//! ```text
//!   hot path ── two relaxed additions ──▶ Histogram ──┐           ┌─▶ text ──▶ GET /metrics
//!   counters that exist anyway ── when asked ─────────┼──▶ Page ──┤
//!   /proc/self ── when asked ─────────────────────────┘           └─▶ telemetry ──▶ OTLP
//! ```
//!
//! A metric has one name, wherever it is read. Names of calls follow OpenTelemetry's conventions as its Prometheus exporter writes them
//! (`rpc.server.call.duration` becomes `rpc_server_call_duration_seconds`, and the resource
//! becomes `target_info`); what is our own begins with `coterie_`. OpenTelemetry's SDK itself is
//! not used for metrics: its histograms take a lock for each value, ours do not.
//!
//! Every instrument is bound to its labels at the start; no label ever holds what a client sent.

mod histogram;
mod page;
mod process;
mod text;

pub use histogram::{COUNTS, Histogram, LATENCIES};
pub use page::{Distribution, Family, Kind, Number, Page, Sample, Value};
pub use process::process;
pub use text::{TEXT_TYPE, text};
