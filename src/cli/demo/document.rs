//! The report of a demo for programs.

use std::time::Duration;

use serde::Serialize;

use super::measure::{Measure, NAMES};
use super::report::Report;
use crate::cli::latency::Latencies;

/// Times are in milliseconds, latencies in microseconds.
#[derive(Debug, Serialize)]
pub struct Document {
    verdict: &'static str,
    seed: u64,
    nodes: u16,
    replicas: u16,
    durability: &'static str,
    acknowledged: u64,
    superseded: u64,
    unknown: u64,
    unknown_seen: u64,
    refused: u64,
    failed: u64,
    keys: u64,
    reads: u64,
    lost: Vec<String>,
    phantom: Vec<String>,
    unread: Vec<String>,
    outage: OutageDocument,
    phases: Vec<PhaseDocument>,
}

#[derive(Debug, Serialize)]
struct OutageDocument {
    victim: String,
    unreachable_after_ms: Option<f64>,
    dead_in_gossip_after_ms: Option<f64>,
    hints_held: u64,
    hints_written: u64,
    hints_replayed: u64,
    ready_after_ms: f64,
    handoff_ms: f64,
    repaired: u64,
    written_meanwhile: u64,
    right_by_itself: u64,
}

#[derive(Debug, Serialize)]
struct PhaseDocument {
    name: &'static str,
    seconds: f64,
    requests_per_second: f64,
    failed: u64,
    get: Option<LatencyDocument>,
    set: Option<LatencyDocument>,
}

#[derive(Debug, Serialize)]
struct LatencyDocument {
    count: u64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
}

impl Document {
    /// Everything that the text says.
    #[must_use]
    pub fn of(report: &Report<'_>) -> Self {
        let (verdict, outage) = (report.verdict, report.outage);
        let millis = |span: Duration| span.as_secs_f64() * 1e3;
        let names = |keys: &std::collections::BTreeMap<Vec<u8>, Vec<usize>>| {
            keys.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
        };
        let phases = NAMES.iter().zip(&report.log.measures).zip(report.spans);
        Self {
            verdict: report.outcome().name(),
            seed: report.seed,
            nodes: report.plan.nodes,
            replicas: report.plan.replicas(),
            durability: report.plan.durability.as_str(),
            acknowledged: verdict.acknowledged,
            superseded: verdict.superseded,
            unknown: verdict.unknown,
            unknown_seen: verdict.unknown_seen,
            refused: verdict.refused,
            failed: report.failed(),
            keys: verdict.keys,
            reads: verdict.reads,
            lost: names(&verdict.lost),
            phantom: names(&verdict.phantom),
            unread: names(&verdict.unread),
            outage: OutageDocument {
                victim: format!("node-{}", outage.victim),
                unreachable_after_ms: outage.noticed.map(millis),
                dead_in_gossip_after_ms: outage.dead.map(millis),
                hints_held: outage.hints_held,
                hints_written: outage.hints_written,
                hints_replayed: outage.hints_replayed,
                ready_after_ms: millis(outage.back_after),
                handoff_ms: millis(outage.handoff),
                repaired: outage.repaired,
                written_meanwhile: report.alone.1,
                right_by_itself: report.alone.0,
            },
            phases: phases.map(|((name, measure), span)| phase(name, measure, *span)).collect(),
        }
    }
}

fn phase(name: &'static str, measure: &Measure, span: Duration) -> PhaseDocument {
    PhaseDocument {
        name,
        seconds: span.as_secs_f64(),
        requests_per_second: measure.done() as f64 / span.as_secs_f64().max(1e-3),
        failed: measure.failed,
        get: latency(&measure.gets),
        set: latency(&measure.sets),
    }
}

fn latency(latencies: &Latencies) -> Option<LatencyDocument> {
    let micros = |part| u64::try_from(latencies.quantile(part).as_micros()).unwrap_or(u64::MAX);
    (latencies.count() > 0).then(|| LatencyDocument {
        count: latencies.count(),
        p50_us: micros(0.5),
        p99_us: micros(0.99),
        p999_us: micros(0.999),
    })
}
