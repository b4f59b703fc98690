//! A1: availability. While a quorum lives, requests are answered: the client's retries included, only
//! a small part fails, and never for long.
//!
//! A quorum lives while fewer nodes are impaired than a key can lose of its homes. Impaired is a node
//! from the beginning of a fault that takes it away until it is ready again.

use super::Judgement;
use crate::history::{FaultEvent, History, Op, Outcome, Phase};

/// How requests fared while a quorum lived.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Availability {
    /// Requests that ended.
    pub requests: usize,
    /// Of those that failed.
    pub failed: usize,
    /// The longest time in which requests failed and none succeeded, in microseconds.
    pub silence_us: u64,
}

impl Availability {
    /// How many of a hundred failed.
    pub fn failed_percent(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.failed as f64 * 100.0 / self.requests as f64 }
    }
}

/// Judges the limits that the history's head names.
pub fn judge(history: &History) -> Judgement {
    let promise = "while a quorum lives, nearly all requests are answered, and never none for long";
    let mut judgement = Judgement::new("A1", promise);
    let found = availability(history);
    judgement.judged = found.requests;
    let limit = history.header.failed_percent_max;
    if found.failed_percent() > limit {
        let (failed, requests) = (found.failed, found.requests);
        let percent = found.failed_percent();
        judgement
            .wrong("", format!("{failed} of {requests} failed: {percent:.3} %, not {limit} %"));
    }
    let limit = history.header.silence_ms_max;
    if found.silence_us > limit * 1000 {
        let seconds = found.silence_us as f64 / 1e6;
        judgement.wrong("", format!("for {seconds:.1} s no request succeeded, not {limit} ms"));
    }
    judgement
}

/// Counts the requests that began and ended while a quorum lived.
pub fn availability(history: &History) -> Availability {
    let without = without_quorum(history);
    let overlaps = |op: &Op| {
        let (from, to) = (op.invoke.t_us, op.ended_us().unwrap_or(u64::MAX));
        without.iter().any(|(begin, end)| from < *end && to > *begin)
    };
    let mut found = Availability::default();
    let mut ends: Vec<(u64, u64, bool)> = Vec::new();
    for op in history.ops.iter().filter(|op| !overlaps(op)) {
        let failed = match &op.outcome {
            Outcome::Ok(_) => false,
            Outcome::Fail(failure) if failure.refused => continue,
            Outcome::Fail(_) | Outcome::Unknown(_) => true,
            // The run ended before the request did.
            Outcome::Open => continue,
        };
        found.requests += 1;
        found.failed += usize::from(failed);
        ends.push((op.ended_us().unwrap_or(u64::MAX), op.invoke.t_us, failed));
    }
    ends.sort_unstable();
    let mut failing_since: Option<u64> = None;
    for (ended, began, failed) in ends {
        if failed {
            let since = *failing_since.get_or_insert(began);
            found.silence_us = found.silence_us.max(ended.saturating_sub(since));
        } else {
            failing_since = None;
        }
    }
    found
}

/// When no quorum of some key may have lived.
fn without_quorum(history: &History) -> Vec<(u64, u64)> {
    let replicas = history.header.replicas;
    let spare = replicas - replicas.min(replicas / 2 + 1);
    let of = |fault: u32, phase: Phase| {
        history.faults.iter().find(move |event| event.fault == fault && event.phase == phase)
    };
    let too_many =
        |event: &&FaultEvent| event.phase == Phase::Begin && event.impaired.len() > spare;
    let span = |begin: &FaultEvent| {
        (begin.t_us, of(begin.fault, Phase::End).map_or(u64::MAX, |end| end.t_us))
    };
    history.faults.iter().filter(too_many).map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;

    #[test]
    fn failures_count_only_while_a_quorum_lives() {
        let ops = [write(0, "set/a", "v", 10, 20), failed(1, "set/b", "v", 30, 40)].concat();
        let one = fault(&["n1"], 25, 50, Some("dead"));
        let found = availability(&history([ops.clone(), one]));
        assert_eq!(found, Availability { requests: 2, failed: 1, silence_us: 10 });
        let two = fault(&["n1", "n2"], 25, 50, Some("dead"));
        let found = availability(&history([ops, two]));
        assert_eq!(found, Availability { requests: 1, failed: 0, silence_us: 0 });
    }

    #[test]
    fn too_many_failures_are_a_violation() {
        let many = (0..900).map(|op| write(op, "set/a", "v", op, op + 1));
        let history = history(many.chain([unknown(1000, "set/b", "v", 10, 11)]));
        assert_eq!(judge(&history).violations.len(), 1);
    }

    #[test]
    fn a_long_silence_is_a_violation_though_few_requests_fail() {
        let many = (0..5000).map(|op| write(op, "set/a", "v", op, op + 1));
        let slow = failed(9000, "set/b", "v", 6000, 10_006_001);
        let found = judge(&history(many.clone().chain([slow.clone()]))).violations;
        assert_eq!(found.len(), 1, "{found:?}");
        // An answer to somebody else in between ends the silence.
        let answered = write(9001, "set/c", "v", 6000, 5_000_000);
        let later = failed(9000, "set/b", "v", 5_000_001, 10_006_001);
        assert_eq!(judge(&history(many.chain([answered, later]))).violations, []);
    }
}
