//! The verdict over a run, from its history alone.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::checkers::{Availability, Judgement, availability, judge};
use crate::history::{History, Phase};

/// Why nothing can be told.
const BROKEN_OFF: &str = "the run was broken off";

/// How a run ended; the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every promise was kept.
    Pass = 0,
    /// One was broken.
    Fail = 1,
    /// The run tells nothing: a fault had no effect, or the run was broken off.
    Invalid = 3,
}

/// Everything that is told of a run.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// What each checker has found.
    pub judgements: Vec<Judgement>,
    /// Why the run tells nothing.
    pub invalid: Vec<String>,
    /// How requests fared while a quorum lived.
    pub availability: Availability,
    /// Writes by what became of them.
    pub writes: Writes,
}

/// Writes by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Writes {
    /// Acknowledged.
    pub acknowledged: usize,
    /// Keys of which an acknowledged write is gone.
    pub lost: usize,
    /// Nobody knows whether they took place.
    pub unknown: usize,
    /// Certainly without effect.
    pub failed: usize,
    /// Acknowledged, and superseded by a later one.
    pub superseded: usize,
}

impl Judged {
    /// Judges a history.
    pub fn of(history: &History) -> Self {
        let mut judgements = judge(history);
        let mut invalid = invalid(history);
        if history.settled.is_some() {
            invalid.extend(untested(history, &judgements));
        } else {
            // Nothing was read back: that nothing is there means nothing.
            for judgement in &mut judgements {
                judgement.violations.clear();
                (judgement.judged, judgement.note) = (0, BROKEN_OFF.to_owned());
            }
        }
        let broken = judgements.iter().any(|judgement| !judgement.violations.is_empty());
        // A loss is a loss, whatever else went wrong with the run.
        let verdict = match (broken, invalid.is_empty()) {
            (true, _) => Verdict::Fail,
            (false, false) => Verdict::Invalid,
            (false, true) => Verdict::Pass,
        };
        let writes = writes(history, &judgements);
        Self { verdict, judgements, invalid, availability: availability(history), writes }
    }

    /// The verdict in a sentence.
    pub fn sentence(&self) -> &'static str {
        let lost = self.writes.lost > 0;
        match self.verdict {
            Verdict::Pass => "no acknowledged write was lost, and every promise was kept",
            Verdict::Fail if lost => "acknowledged writes were lost",
            Verdict::Fail => "a promise was broken",
            Verdict::Invalid => "the run tells nothing: see why",
        }
    }
}

impl Verdict {
    /// In capitals.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Invalid => "INVALID",
        }
    }
}

fn invalid(history: &History) -> Vec<String> {
    let mut why = Vec::new();
    for event in &history.faults {
        if let Some(unseen) = event.unseen.as_ref().filter(|_| event.phase == Phase::Held) {
            why.push(format!("{} was not seen to take effect: {unseen}", event.kind));
        }
        if let Some(unseen) = event.unseen.as_ref().filter(|_| event.phase == Phase::End) {
            why.push(format!("{} was not healed: {unseen}", event.kind));
        }
    }
    if history.settled.is_none() {
        why.push(BROKEN_OFF.to_owned());
    }
    if !history.ops.iter().any(|op| op.writes() && op.answer().is_some()) {
        why.push("no write was acknowledged".to_owned());
    }
    why
}

/// The promises that clients were to put to the test, and have not.
fn untested(history: &History, judgements: &[Judgement]) -> Vec<String> {
    let mut why = Vec::new();
    for judgement in judgements.iter().filter(|judgement| judgement.judged == 0) {
        if let Some(kind) =
            judgement.workload.filter(|kind| history.header.workloads.contains(kind))
        {
            let (id, name) = (judgement.id, kind.name());
            why.push(format!("{id} was not put to the test, though clients did `{name}`"));
        }
    }
    why
}

fn writes(history: &History, judgements: &[Judgement]) -> Writes {
    let lost: BTreeSet<&str> = judgements
        .iter()
        .flat_map(|judgement| &judgement.violations)
        .filter(|violation| violation.lost)
        .map(|violation| violation.key.as_str())
        .collect();
    let mut writes = Writes { lost: lost.len(), ..Writes::default() };
    for op in history.ops.iter().filter(|op| op.writes()) {
        if op.answer().is_none() {
            writes.unknown += usize::from(op.is_unknown());
            writes.failed += usize::from(!op.is_unknown());
            continue;
        }
        writes.acknowledged += 1;
        let key = op.invoke.key.as_str();
        let shown = history.final_values(key).unwrap_or_default();
        let is_there = op.invoke.value.as_ref().is_none_or(|value| shown.contains(value));
        writes.superseded += usize::from(!is_there && !lost.contains(key));
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;
    use crate::history::{Event, Settled};
    use crate::scenario::WorkloadKind;

    fn at_rest() -> Vec<Event> {
        vec![Event::Settled(Settled::default())]
    }

    #[test]
    fn a_run_without_a_flaw_passes() {
        let ops = [write(0, "set/a", "1@set/a", 0, 9), last("set/a", &["1@set/a"])].concat();
        let killed = fault(&["n1"], 2, 5, Some("n1 ended by SIGKILL"));
        let judged = Judged::of(&history([ops, killed, at_rest()]));
        assert_eq!(judged.verdict, Verdict::Pass, "{judged:?}");
        assert_eq!(judged.writes.acknowledged, 1);
    }

    #[test]
    fn a_fault_without_effect_makes_the_run_invalid() {
        let ops = [write(0, "set/a", "1@set/a", 0, 9), last("set/a", &["1@set/a"])].concat();
        let judged = Judged::of(&history([ops, fault(&["n1"], 2, 5, None), at_rest()]));
        assert_eq!(judged.verdict, Verdict::Invalid);
        assert!(judged.invalid[0].contains("kill was not seen to take effect"), "{judged:?}");
    }

    #[test]
    fn a_promise_that_was_to_be_tested_and_was_not_makes_the_run_invalid() {
        let ops = [write(0, "set/a", "1@set/a", 0, 9), last("set/a", &["1@set/a"])].concat();
        let mut history = history([ops, at_rest()]);
        history.header.workloads = [WorkloadKind::Set].into();
        assert_eq!(Judged::of(&history).verdict, Verdict::Pass);
        history.header.workloads.insert(WorkloadKind::Cart);
        let judged = Judged::of(&history);
        assert_eq!(judged.verdict, Verdict::Invalid);
        assert_eq!(judged.invalid, ["C2 was not put to the test, though clients did `cart`"]);
    }

    #[test]
    fn a_loss_fails_an_invalid_run_all_the_same() {
        let ops = [write(0, "set/a", "1@set/a", 0, 9), last("set/a", &[])].concat();
        let judged = Judged::of(&history([ops, fault(&["n1"], 2, 5, None), at_rest()]));
        assert_eq!((judged.verdict, judged.writes.lost), (Verdict::Fail, 1));
    }

    #[test]
    fn a_run_that_was_broken_off_or_wrote_nothing_is_invalid() {
        let ops = write(0, "set/a", "1@set/a", 0, 9);
        let judged = Judged::of(&history([ops]));
        assert_eq!((judged.verdict, judged.writes.lost), (Verdict::Invalid, 0));
        assert_eq!(Judged::of(&history([at_rest()])).verdict, Verdict::Invalid);
    }

    #[test]
    fn an_overwritten_value_is_superseded_and_not_lost() {
        let ops = [
            write(0, "register/a", "v", 0, 9),
            write(1, "register/a", "w", 10, 19),
            unknown(2, "register/a", "x", 20, 29),
            last("register/a", &["w"]),
            at_rest(),
        ];
        let writes = Judged::of(&history(ops)).writes;
        let counts = (writes.acknowledged, writes.superseded, writes.lost, writes.unknown);
        assert_eq!(counts, (2, 1, 0, 1));
    }
}
