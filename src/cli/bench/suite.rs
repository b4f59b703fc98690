//! `bench --suite`: everything that is compared, in one run.
//!
//! ```text
//!   a pair:  echo · get R=1 · get R=2 · set … · set … · set … ── and back ──▶ echo
//! ```
//!
//! Each ratio compares a case with the echo servers in the same pair: see [`pairs`].

use std::time::Duration;

use anyhow::Context as _;

use super::echo::EchoServers;
use super::load::{Measured, Shape, Target};
use super::pairs::{self, Ratio};
use super::request::Workload;
use super::row::{Conditions, Row};
use super::servers::{Own, OwnCluster};
use crate::cli::cluster::Durability;
use crate::cli::term::Progress;
use crate::proto::{Consistency, StatusResponse};

/// Requests under way in the case that shows group commit at work.
const MANY_CLIENTS: usize = 256;

/// Who serves a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Echo,
    Fsync,
    Buffered,
}

struct Case {
    by: By,
    workload: Workload,
    consistency: Consistency,
    shape: Shape,
    runs: Vec<Measured>,
}

/// Runs the suite and returns its rows, echo servers first.
///
/// # Errors
/// If servers do not start or a case fails altogether.
pub async fn suite(shape: &Shape, nodes: u16, port: u16, pairs: u32) -> anyhow::Result<Vec<Row>> {
    let echo = EchoServers::start(usize::from(nodes), None, shape.value_bytes).await?;
    let own = Own { nodes, port, durability: Durability::Fsync, program: None };
    let mut fsync = OwnCluster::start(&own).await?;
    let port = fsync.cluster.plan().port + 300;
    let own = Own { port, durability: Durability::Buffered, ..own };
    let buffered = OwnCluster::start(&own).await;
    let mut buffered = match buffered {
        Ok(buffered) => buffered,
        Err(error) => {
            fsync.stop().await;
            return Err(error);
        }
    };
    let rows = on(shape, pairs, &echo, &fsync, &buffered).await;
    fsync.stop().await;
    buffered.stop().await;
    rows
}

async fn on(
    shape: &Shape,
    pairs: u32,
    echo: &EchoServers,
    fsync: &OwnCluster,
    buffered: &OwnCluster,
) -> anyhow::Result<Vec<Row>> {
    let mut targets = Vec::new();
    for (addresses, processes) in [
        (echo.addresses.clone(), echo.processes()),
        (fsync.cluster.addresses(), fsync.processes()),
        (buffered.cluster.addresses(), buffered.processes()),
    ] {
        let target = Target::connect(&addresses, processes, shape).await?;
        target.preload(shape).await?;
        targets.push(target);
    }
    let statuses = [fsync.status().await?, buffered.status().await?];
    let mut cases = cases(shape);
    let slots = u64::from(pairs) * 2 * cases.len() as u64;
    let progress = Progress::start("suite", Some(slots), "runs");
    for (done, at) in (1..).zip(pairs::order(cases.len(), pairs)) {
        let case = &mut cases[at];
        let target = &targets[case.by as usize];
        let run = target.drive(&case.shape, case.workload, case.consistency).await;
        case.runs.push(run.with_context(|| format!("case {}", case.workload.name()))?);
        progress.set(done);
    }
    progress.finish();
    Ok(rows(&cases, echo.addresses.len(), &statuses))
}

fn cases(shape: &Shape) -> Vec<Case> {
    let many = Shape { clients: MANY_CLIENTS.max(shape.clients), ..*shape };
    let case = |by, workload, consistency, shape: &Shape| Case {
        by,
        workload,
        consistency,
        shape: *shape,
        runs: Vec::new(),
    };
    vec![
        case(By::Echo, Workload::Set, Consistency::Quorum, shape),
        case(By::Echo, Workload::Get, Consistency::Quorum, shape),
        case(By::Buffered, Workload::Get, Consistency::One, shape),
        case(By::Buffered, Workload::Get, Consistency::Quorum, shape),
        case(By::Buffered, Workload::Set, Consistency::Quorum, shape),
        case(By::Fsync, Workload::Set, Consistency::Quorum, shape),
        case(By::Fsync, Workload::Set, Consistency::Quorum, &many),
        case(By::Echo, Workload::Set, Consistency::Quorum, &many),
    ]
}

fn rows(cases: &[Case], servers: usize, statuses: &[StatusResponse; 2]) -> Vec<Row> {
    let row = |case: &Case| {
        let conditions = match case.by {
            By::Echo => Conditions::of_echo(servers, None, case.workload, &case.shape),
            By::Fsync => case.conditions(&statuses[0]),
            By::Buffered => case.conditions(&statuses[1]),
        };
        let mut row = Row::of(conditions, &case.runs);
        row.to_echo = echo_of(cases, case)
            .and_then(|echo| Ratio::of_runs(&case.runs, &echo.runs, pairs::rate));
        row
    };
    cases.iter().map(row).collect()
}

impl Case {
    fn conditions(&self, status: &StatusResponse) -> Conditions {
        Conditions::of_cluster(status, self.workload, self.consistency, &self.shape)
    }
}

/// The case of the echo servers with the same requests and as many of them under way.
fn echo_of<'a>(cases: &'a [Case], case: &Case) -> Option<&'a Case> {
    let alike = |echo: &&Case| {
        echo.by == By::Echo
            && echo.workload == case.workload
            && echo.shape.clients == case.shape.clients
    };
    cases.iter().find(alike).filter(|_| case.by != By::Echo)
}

/// How long the suite takes.
#[must_use]
pub fn takes(shape: &Shape, pairs: u32) -> Duration {
    let slots = u32::try_from(cases(shape).len()).unwrap_or(u32::MAX) * 2 * pairs;
    (shape.warm_up + shape.measure) * slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::tests::shape;

    fn measured(count: u64) -> Measured {
        let mut measured = Measured { span: Duration::from_secs(1), ..Measured::default() };
        for _ in 0..count {
            measured.note(Duration::from_millis(1), Ok(1));
        }
        measured
    }

    #[test]
    fn each_case_is_compared_with_the_echo_that_is_like_it() {
        let shape = shape();
        let mut cases = cases(&shape);
        for case in &mut cases {
            let rate = if case.by == By::Echo { 100 } else { 50 };
            case.runs = vec![measured(rate), measured(rate)];
        }
        for case in &cases {
            let echo = echo_of(&cases, case);
            assert_eq!(echo.is_none(), case.by == By::Echo);
            if let Some(echo) = echo {
                let ratio = Ratio::of_runs(&case.runs, &echo.runs, pairs::rate).unwrap();
                assert!((ratio.median - 0.5).abs() < 1e-9);
            }
        }
        assert_eq!(takes(&shape, 5), Duration::from_secs(8 * 2 * 5 * 4));
    }
}
