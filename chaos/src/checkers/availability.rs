//! A1: availability. While a quorum lives, requests are answered to a client that tries a second node
//! when the first one fails: only a small part fails, and never for long, neither everywhere nor for
//! one key. What the harness's own clients reach by further attempts is not counted as an answer.
//!
//! A quorum lives while fewer nodes are impaired than a key can lose of its homes. Impaired is a node
//! from the beginning of a fault that takes it away until it is ready again.

use std::collections::HashMap;

use super::Judgement;
use crate::history::{FaultEvent, History, Op, Outcome, Phase};

/// How requests fared while a quorum lived.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Availability {
    /// Requests that ended.
    pub requests: usize,
    /// Of those that failed: at the first node, and at the second one.
    pub failed: usize,
    /// The longest time in which requests failed and none succeeded, in microseconds.
    pub silence_us: u64,
    /// The longest such time of the requests for one key.
    pub key_silence_us: u64,
}

/// What is told of one moment.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Moment<'a> {
    t_us: u64,
    /// When the request began.
    began_us: u64,
    failed: bool,
    key: &'a str,
}

/// Since when requests have failed, if none has succeeded since. Times are in microseconds.
#[derive(Default)]
struct Silence {
    failing_since: Option<u64>,
    last_success: u64,
    longest: u64,
}

impl Silence {
    fn take(&mut self, moment: &Moment<'_>) {
        if moment.failed {
            // A slow request that fails says nothing of the time when others succeeded.
            let since = *self.failing_since.get_or_insert(moment.began_us.max(self.last_success));
            self.longest = self.longest.max(moment.t_us.saturating_sub(since));
        } else {
            (self.failing_since, self.last_success) = (None, moment.t_us);
        }
    }
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
    } else if found.key_silence_us > limit * 1000 {
        let seconds = found.key_silence_us as f64 / 1e6;
        judgement
            .wrong("", format!("for {seconds:.1} s none for one key succeeded, not {limit} ms"));
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
    let mut moments = Vec::new();
    for op in history.ops.iter().filter(|op| !overlaps(op)) {
        let failed = match &op.outcome {
            Outcome::Ok(_) => false,
            Outcome::Fail(failure) if failure.refused => continue,
            Outcome::Fail(_) | Outcome::Unknown(_) => true,
            // The run ended before the request did.
            Outcome::Open => continue,
        };
        let (key, began_us) = (op.invoke.key.as_str(), op.invoke.t_us);
        let moment = |t_us, failed| Moment { t_us, began_us, failed, key };
        if op.second_failed_us().is_some() {
            // It failed until the attempt that was answered, if one was.
            moments.extend(op.ended_us().map(|t_us| moment(t_us.saturating_sub(1), true)));
        }
        moments.extend(op.ended_us().map(|t_us| moment(t_us, failed)));
        found.requests += 1;
        found.failed += usize::from(failed || op.second_failed_us().is_some());
    }
    moments.sort_unstable();
    let (mut all, mut keys) = (Silence::default(), HashMap::<&str, Silence>::new());
    let mut window = 0;
    for moment in &moments {
        // What fails on both sides of a time that does not count has not failed throughout it.
        let passed = without.iter().filter(|(_, end)| *end <= moment.began_us).count();
        if passed > window {
            window = passed;
            all.failing_since = None;
            keys.values_mut().for_each(|silence| silence.failing_since = None);
        }
        all.take(moment);
        keys.entry(moment.key).or_default().take(moment);
    }
    found.silence_us = all.longest;
    found.key_silence_us = keys.values().map(|silence| silence.longest).max().unwrap_or(0);
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
        let (silence_us, key_silence_us) = (10, 10);
        assert_eq!(found, Availability { requests: 2, failed: 1, silence_us, key_silence_us });
        let two = fault(&["n1", "n2"], 25, 50, Some("dead"));
        let found = availability(&history([ops, two]));
        assert_eq!(found, Availability { requests: 1, ..Availability::default() });
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
        assert_eq!(judge(&history(many.clone().chain([answered.clone(), later]))).violations, []);
        // But not for the key that nobody could write.
        let found = judge(&history(many.chain([slow, answered]))).violations;
        assert!(found.len() == 1 && found[0].what.contains("one key"), "{found:?}");
    }

    #[test]
    fn a_third_attempt_is_no_answer() {
        let ops =
            [write(0, "set/a", "v", 10, 20), after_attempts(2, write(1, "set/b", "v", 10, 30))];
        assert_eq!(availability(&history(ops)).failed, 0);
        let third = second_failed(25, after_attempts(3, write(2, "set/c", "v", 10, 30)));
        let found = availability(&history([third]));
        assert_eq!((found.requests, found.failed, found.silence_us), (1, 1, 19));
    }

    #[test]
    fn a_time_without_a_quorum_ends_a_silence() {
        let (before, after) = (failed(0, "set/a", "v", 0, 10), failed(1, "set/a", "v", 500, 510));
        let dead = fault(&["n1", "n2"], 100, 400, Some("dead"));
        let found = availability(&history([before, after, dead]));
        assert_eq!((found.failed, found.silence_us, found.key_silence_us), (2, 10, 10));
    }
}
