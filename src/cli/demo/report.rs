//! The end of the demo: what happened, the figures, the verdict.

use std::collections::BTreeMap;
use std::time::Duration;

use super::load::Log;
use super::measure::{self, PHASES};
use super::verdict::Verdict;
use super::verify::testimony;
use crate::cli::cluster::Plan;
use crate::cli::term;

/// Lost keys that are shown one by one; all are counted.
const SHOWN_MAX: usize = 5;

/// What the death of the node did.
#[derive(Debug, Default)]
pub struct Outage {
    /// Which node was killed.
    pub victim: usize,
    /// When, in milliseconds since the mixed load began.
    pub from_ms: u32,
    /// When it was ready again.
    pub to_ms: u32,
    /// When the last of the others could not reach it any more.
    pub noticed: Option<Duration>,
    /// When the last of the others held it for dead in gossip.
    pub dead: Option<Duration>,
    /// Hints written or grown while it was down.
    pub hints_written: u64,
    /// Distinct hints held when it came back.
    pub hints_held: u64,
    /// Hints delivered to it.
    pub hints_replayed: u64,
    /// From its start to its readiness.
    pub back_after: Duration,
    /// From its readiness to the last hint.
    pub handoff: Duration,
    /// Records sent by read repair in the whole run.
    pub repaired: u64,
}

/// All that is reported.
pub struct Report<'a> {
    /// Of the load.
    pub log: &'a Log,
    /// Of the reads.
    pub verdict: &'a Verdict,
    /// Of the kill.
    pub outage: &'a Outage,
    /// How long the phases lasted.
    pub spans: &'a [Duration; PHASES],
    /// Of the keys written during the outage, those that the victim shows by itself, and all.
    pub alone: (u64, u64),
    /// What was started.
    pub plan: &'a Plan,
    /// Requests a second that were offered; 0: no limit.
    pub rate: u32,
    /// The choices.
    pub seed: u64,
}

/// Prints it. Asks the nodes once more about keys that were lost.
///
/// # Errors
/// If standard output is closed.
pub async fn print(report: &Report<'_>, addresses: &[String]) -> std::io::Result<()> {
    let verdict = report.verdict;
    term::line("")?;
    term::line(figures(report))?;
    term::line("")?;
    term::line(happened(report.outage, report.alone))?;
    term::line("")?;
    term::line(conclusion(report))?;
    let groups = [("lost", &verdict.lost), ("written by nobody", &verdict.phantom)];
    for (what, keys) in groups {
        for (key, nodes) in keys.iter().take(SHOWN_MAX) {
            term::line(format_args!("  {what}: {}", describe(report, key, nodes)))?;
            for said in testimony(key, &report.log.histories, addresses).await {
                term::line(format_args!("      now {said}"))?;
            }
        }
        if keys.len() > SHOWN_MAX {
            term::line(format_args!("  … and {} more keys", keys.len() - SHOWN_MAX))?;
        }
    }
    Ok(())
}

/// What the reads have proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every acknowledged write is there.
    NothingLost,
    /// Some keys could not be read.
    NotProven,
    /// Something is lost, or was never written.
    Failed,
}

impl Outcome {
    /// For programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NothingLost => "nothing lost",
            Self::NotProven => "not proven",
            Self::Failed => "failed",
        }
    }
}

impl Report<'_> {
    /// What the reads have proven.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        if self.verdict.is_clean() {
            Outcome::NothingLost
        } else if self.verdict.lost.is_empty() && self.verdict.phantom.is_empty() {
            Outcome::NotProven
        } else {
            Outcome::Failed
        }
    }

    /// Requests that failed after all of the client's attempts.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.log.measures.iter().map(|measure| measure.failed).sum()
    }
}

fn figures(report: &Report<'_>) -> String {
    let offered = match report.rate {
        0 => "as fast as it goes".to_owned(),
        rate => format!("{} requests/s offered", term::grouped(rate.into())),
    };
    format!(
        "{} nodes, N = {}, R = W = {}, durability {}, {offered}, one machine\n{}",
        report.plan.nodes,
        report.plan.replicas(),
        report.plan.replicas() / 2 + 1,
        report.plan.durability.as_str(),
        measure::render(&report.log.measures, report.spans),
    )
}

fn happened(outage: &Outage, alone: (u64, u64)) -> String {
    let told = |span: Option<Duration>| span.map_or_else(|| "not by all".to_owned(), term::span);
    let (held, all) = (term::grouped(alone.0), term::grouped(alone.1));
    format!(
        "node-{} killed  ·  unreachable to all others after {}  ·  dead in gossip after {}\n\
         {} kept for it ({} times written)  ·  back after {}, all replayed in {}  ·  {} repaired by reads\n\
         of the {all} keys written meanwhile, {held} are right with only one replica asked through it",
        outage.victim,
        told(outage.noticed),
        told(outage.dead),
        term::count(outage.hints_held, "hint"),
        term::grouped(outage.hints_written),
        term::span(outage.back_after),
        term::span(outage.handoff),
        term::count(outage.repaired, "record"),
    )
}

/// The verdict in words.
fn conclusion(report: &Report<'_>) -> String {
    let verdict = report.verdict;
    let failed = report.failed();
    let head = match report.outcome() {
        Outcome::NothingLost => "VERDICT: no acknowledged write was lost",
        Outcome::NotProven => "VERDICT: not proven, some keys could not be read",
        Outcome::Failed => "VERDICT: FAILED",
    };
    let seen = format!("{} of them took place", term::grouped(verdict.unknown_seen));
    let mut lines = vec![
        head.to_owned(),
        format!(
            "  acknowledged  {} writes to {} keys ({} superseded by later ones)",
            term::grouped(verdict.acknowledged),
            term::grouped(verdict.keys),
            term::grouped(verdict.superseded),
        ),
        format!(
            "  lost          {} keys (every key read from each of {} nodes: {} reads)",
            term::grouped(verdict.lost.len() as u64),
            report.plan.nodes,
            term::grouped(verdict.reads),
        ),
        format!(
            "  unknown       {} writes whose outcome no client knows ({seen})",
            term::grouped(verdict.unknown),
        ),
        format!("  failed        {} requests, after the client's retries", term::grouped(failed)),
    ];
    for (count, what) in [
        (verdict.refused, "refused       {} writes, which changed nothing"),
        (verdict.phantom.len() as u64, "phantom       {} keys with a value that nobody wrote"),
        (verdict.unread.len() as u64, "unread        {} keys could not be read from some node"),
    ] {
        if count > 0 {
            lines.push(format!("  {}", what.replace("{}", &term::grouped(count))));
        }
    }
    lines.push(format!(
        "  again         coterie demo --nodes {} --seed {}",
        report.plan.nodes, report.seed
    ));
    lines.join("\n")
}

fn describe(report: &Report<'_>, key: &[u8], nodes: &[usize]) -> String {
    let empty = BTreeMap::new();
    let histories = if report.log.histories.is_empty() { &empty } else { &report.log.histories };
    let name = String::from_utf8_lossy(key);
    let nodes: Vec<String> = nodes.iter().map(|node| format!("node-{node}")).collect();
    let last = histories.get(key).and_then(|history| {
        let at = history.last_acknowledged()?;
        let attempt = &history.attempts()[at];
        Some(format!("write #{at}, {} ms into the load, dot {}", attempt.at_ms, attempt.dot))
    });
    let last = last.unwrap_or_else(|| "never acknowledged".to_owned());
    format!("{name} ({last}), as read from {}", nodes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::cluster::Durability;
    use std::path::PathBuf;

    fn text(verdict: &Verdict) -> String {
        let plan = Plan::new(5, PathBuf::new(), 7400, Durability::Fsync).unwrap();
        let report = Report {
            log: &Log::default(),
            verdict,
            outage: &Outage::default(),
            spans: &[Duration::from_secs(1); PHASES],
            alone: (0, 0),
            plan: &plan,
            rate: 0,
            seed: 7,
        };
        conclusion(&report)
    }

    #[test]
    fn the_first_line_says_whether_anything_was_lost() {
        assert!(text(&Verdict::default()).starts_with("VERDICT: no acknowledged write was lost"));
        let key = || BTreeMap::from([(b"k".to_vec(), vec![1])]);
        let lost = Verdict { lost: key(), ..Verdict::default() };
        assert!(text(&lost).starts_with("VERDICT: FAILED"));
        let unread = Verdict { unread: key(), ..Verdict::default() };
        assert!(text(&unread).starts_with("VERDICT: not proven"));
        assert!(text(&unread).contains("1 keys could not be read"));
    }

    #[test]
    fn programs_are_told_the_same_verdict() {
        let (log, outage, verdict) = Default::default();
        let plan = Plan::new(5, PathBuf::new(), 7400, Durability::Fsync).unwrap();
        let spans = [Duration::from_secs(1); PHASES];
        let report = Report {
            log: &log,
            verdict: &verdict,
            outage: &outage,
            spans: &spans,
            alone: (0, 0),
            plan: &plan,
            rate: 0,
            seed: 7,
        };
        let document = serde_json::to_value(super::super::document::Document::of(&report)).unwrap();
        assert_eq!(document["verdict"], "nothing lost");
        assert_eq!(document["phases"][1]["name"], "during");
        assert_eq!(document["phases"][1]["get"], serde_json::Value::Null);
    }

    #[test]
    fn the_seed_is_given_to_repeat_the_run() {
        assert!(text(&Verdict::default()).contains("--seed 7"));
    }
}
