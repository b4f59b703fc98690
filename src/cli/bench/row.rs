//! Rows of results: what was measured, under which conditions.

use std::time::Duration;

use serde::Serialize;

use super::load::{Measured, Shape};
use super::pairs::{Ratio, median};
use super::request::Workload;
use crate::cli::status::table;
use crate::cli::term;
use crate::proto::{Consistency, StatusResponse};

/// The conditions that rows must share to be compared.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Conditions {
    /// What was asked.
    pub workload: &'static str,
    /// `cluster` or `echo`.
    pub served_by: &'static str,
    /// How many nodes or echo servers.
    pub nodes: usize,
    /// Threads of each echo server, where that was said; else one for each processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo_threads: Option<u16>,
    /// N; 0 for echo servers.
    pub n: u32,
    /// Replicas that a read asks; 0 if there are no reads.
    pub r: u32,
    /// Replicas that a write waits for; 0 if there are no writes.
    pub w: u32,
    /// What an OK waits for.
    pub durability: String,
    /// Requests under way at a time, in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<usize>,
    /// Requests begun a second, in an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered_per_second: Option<f64>,
    /// Connections.
    pub connections: usize,
    /// Keys of one request; rates and processor times are those of keys.
    pub batch: usize,
    /// Distinct keys.
    pub keys: usize,
    /// How they are chosen.
    pub distribution: &'static str,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    #[serde(flatten)]
    pub conditions: Conditions,
    /// Requests (of batches: keys) a second: the median, if it was measured several times.
    pub per_second: f64,
    /// The best of them.
    pub per_second_peak: f64,
    /// Microseconds.
    pub p50_us: f64,
    /// Microseconds.
    pub p99_us: f64,
    /// Microseconds.
    pub p999_us: f64,
    /// Processor time of the nodes for each request (of batches: key), in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
    /// Requests that failed.
    pub errors: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// The rate divided by that of the echo servers with as many requests under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_echo: Option<Ratio>,
}

impl Conditions {
    /// Of a cluster that described itself by `status`.
    #[must_use]
    pub fn of_cluster(
        status: &StatusResponse,
        workload: Workload,
        consistency: Consistency,
        shape: &Shape,
    ) -> Self {
        let n = status.replicas;
        let asked = match consistency {
            Consistency::One => 1.min(n),
            Consistency::All => n,
            Consistency::Quorum | Consistency::Unspecified => n / 2 + 1,
        };
        Self {
            served_by: "cluster",
            echo_threads: None,
            nodes: status.members.len(),
            n,
            r: if workload == Workload::Set { 0 } else { asked },
            w: if workload == Workload::Get { 0 } else { asked },
            durability: status.durability.clone(),
            ..Self::of_echo(0, None, workload, shape)
        }
    }

    /// Of echo servers, of so many threads each, or one for each processor.
    #[must_use]
    pub fn of_echo(
        servers: usize,
        threads: Option<u16>,
        workload: Workload,
        shape: &Shape,
    ) -> Self {
        Self {
            workload: workload.name(),
            served_by: "echo",
            nodes: servers,
            echo_threads: threads,
            n: 0,
            r: 0,
            w: 0,
            durability: "none".to_owned(),
            in_flight: shape.rate.is_none().then_some(shape.clients),
            offered_per_second: shape.rate,
            connections: shape.connections,
            batch: shape.batch,
            keys: shape.keys,
            distribution: shape.distribution.name(),
            key_bytes: shape.key_bytes,
            value_bytes: shape.value_bytes,
        }
    }

    /// What an OK means: how many replicas, and what each has waited for.
    #[must_use]
    pub fn promise(&self) -> String {
        if self.n == 0 {
            return "nothing".to_owned();
        }
        let durability = if self.w == 0 { "" } else { self.durability.as_str() };
        format!("{} {durability}", self.quorum()).trim_end().to_owned()
    }

    /// Who served, for a table.
    #[must_use]
    pub fn servers(&self) -> String {
        let Self { nodes, served_by, .. } = self;
        match self.echo_threads {
            None => format!("{nodes} × {served_by}"),
            Some(1) => format!("{nodes} × {served_by}, 1 thread"),
            Some(threads) => format!("{nodes} × {served_by}, {threads} threads"),
        }
    }

    /// The load, for a table.
    #[must_use]
    pub fn load(&self) -> String {
        match (self.in_flight, self.offered_per_second) {
            (_, Some(rate)) => format!("{rate:.0}/s"),
            (Some(clients), None) => clients.to_string(),
            (None, None) => String::new(),
        }
    }

    fn quorum(&self) -> String {
        let part =
            |name: &str, of: u32| if of == 0 { String::new() } else { format!(" {name}={of}") };
        if self.n == 0 {
            return "-".to_owned();
        }
        format!("N={}{}{}", self.n, part("R", self.r), part("W", self.w))
    }
}

impl Row {
    /// The medians of runs under the same conditions, at least one.
    #[must_use]
    pub fn of(conditions: Conditions, runs: &[Measured]) -> Self {
        let median_of = |of: &dyn Fn(&Measured) -> f64| median(runs.iter().map(of).collect());
        let quantile = |part: f64| median_of(&|run: &Measured| run.micros(part));
        let cpu: Vec<f64> = runs.iter().filter_map(Measured::cpu_micros).collect();
        Self {
            conditions,
            per_second: median_of(&Measured::rate),
            per_second_peak: runs.iter().map(Measured::rate).fold(0.0, f64::max),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            cpu_us: (!cpu.is_empty()).then(|| median(cpu)),
            errors: runs.iter().map(|run| run.errors).sum(),
            first_error: runs.iter().find_map(|run| run.first_error.clone()),
            to_echo: None,
        }
    }
}

/// The table of all rows.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut table = table(&[
        "",
        "SERVED BY",
        "REPLICAS",
        "OK MEANS",
        "LOAD",
        "REQ/S",
        "PEAK",
        "P50",
        "P99",
        "P99.9",
        "CPU/REQ",
        "ERRORS",
        "OF ECHO",
    ]);
    for row in rows {
        let conditions = &row.conditions;
        let time = |micros: f64| term::span(Duration::from_secs_f64(micros / 1e6));
        let ratio = row.to_echo.map(|ratio| ratio.cell());
        table.add_row([
            conditions.workload.to_owned(),
            conditions.servers(),
            conditions.quorum(),
            conditions.durability.clone(),
            conditions.load(),
            format!("{:.0}", row.per_second),
            format!("{:.0}", row.per_second_peak),
            time(row.p50_us),
            time(row.p99_us),
            time(row.p999_us),
            row.cpu_us.map_or_else(|| "-".to_owned(), time),
            term::grouped(row.errors),
            ratio.unwrap_or_default(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::tests::shape;

    #[test]
    fn a_row_prints_what_an_ok_means() {
        let shape = shape();
        let status = StatusResponse {
            replicas: 3,
            durability: "fsync".to_owned(),
            ..StatusResponse::default()
        };
        let of = |workload, consistency| {
            Conditions::of_cluster(&status, workload, consistency, &shape).quorum()
        };
        assert_eq!(of(Workload::Get, Consistency::One), "N=3 R=1");
        assert_eq!(of(Workload::Set, Consistency::Quorum), "N=3 W=2");
        assert_eq!(of(Workload::Mixed, Consistency::All), "N=3 R=3 W=3");
        let conditions =
            Conditions::of_cluster(&status, Workload::Set, Consistency::Quorum, &shape);
        let text = render(&[Row::of(conditions, &[Measured::default()])]);
        assert!(text.contains("fsync") && text.contains("N=3 W=2"), "{text}");
    }
}
