//! What became of every write: the demo's checker, a pure function of two histories.
//!
//! ```text
//!   writers:  key ─▶ attempts in order, each acknowledged | unknown | refused
//!   readers:  key, node ─▶ the values that the node showed, siblings included
//!                              │
//!                              ▼
//!              held · absent · lost · phantom
//! ```
//!
//! A key has one writer, which makes one attempt after the other and gives back, with each, the
//! context of the one before. Hence the rule: *a node must show the last acknowledged value, or
//! one that was attempted later*. A later attempt can only be one whose outcome is unknown: it may
//! have taken place. Earlier values may stand beside as siblings (an attempt that was given up may
//! have taken place after all); a value that nobody wrote must not be there.

use std::collections::BTreeMap;

/// What a writer was told of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// OK.
    Acknowledged,
    /// It may have taken place, or may yet.
    Unknown,
    /// It did not take place.
    Refused,
}

/// One write of a key, as its writer saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// xxh3-64 of the value.
    pub value: u64,
    /// What came back.
    pub fate: Fate,
    /// The receipt's dot; empty without one.
    pub dot: String,
    /// When it was made, in milliseconds since the load began.
    pub at_ms: u32,
}

/// All attempts on one key, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    attempts: Vec<Attempt>,
}

/// What a node's answer for a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The last acknowledged value is there, or a later one.
    Held,
    /// Nothing was acknowledged, and nothing need be there.
    Free,
    /// The last acknowledged attempt is not there and nothing later is.
    Lost,
    /// A value that nobody attempted, or whose attempt was refused, is there.
    Phantom,
}

/// A count of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Attempts that were answered with OK.
    pub acknowledged: u64,
    /// Of these, those that a later acknowledged write of the same writer superseded.
    pub superseded: u64,
    /// Attempts whose outcome is unknown.
    pub unknown: u64,
    /// Of these, those whose value some node showed.
    pub unknown_seen: u64,
    /// Attempts that were refused.
    pub refused: u64,
    /// Keys with at least one acknowledged write.
    pub keys: u64,
    /// Answers judged.
    pub reads: u64,
    /// Keys that a node lost, each with the nodes that do not show them.
    pub lost: BTreeMap<Vec<u8>, Vec<usize>>,
    /// Keys with a value that nobody wrote, each with the nodes that show it.
    pub phantom: BTreeMap<Vec<u8>, Vec<usize>>,
    /// Reads that failed, so that nothing can be said: each key with the nodes.
    pub unread: BTreeMap<Vec<u8>, Vec<usize>>,
}

impl History {
    /// Adds the next attempt.
    pub fn push(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
    }

    /// All attempts, in order.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Where the last acknowledged attempt is.
    #[must_use]
    pub fn last_acknowledged(&self) -> Option<usize> {
        self.attempts.iter().rposition(|attempt| attempt.fate == Fate::Acknowledged)
    }

    /// What it means that a node shows `values`, siblings included.
    #[must_use]
    pub fn judge(&self, values: &[u64]) -> Finding {
        let mut newest = None;
        for &value in values {
            let of_value = |attempt: &Attempt| attempt.value == value;
            match self.attempts.iter().rposition(of_value) {
                Some(at) if self.attempts[at].fate != Fate::Refused => {
                    newest = newest.max(Some(at));
                }
                Some(_) | None => return Finding::Phantom,
            }
        }
        match self.last_acknowledged() {
            None => Finding::Free,
            acknowledged if newest >= acknowledged => Finding::Held,
            Some(_) => Finding::Lost,
        }
    }

    /// The unknown attempts whose value is among `values`.
    fn unknown_among<'a>(&'a self, values: &'a [u64]) -> impl Iterator<Item = usize> + 'a {
        let unknown = |attempt: &Attempt| attempt.fate == Fate::Unknown;
        let seen = move |at: &usize| {
            let attempt = &self.attempts[*at];
            unknown(attempt) && values.contains(&attempt.value)
        };
        (0..self.attempts.len()).filter(seen)
    }
}

/// The history of every key.
pub type Histories = BTreeMap<Vec<u8>, History>;

/// Judges answers one by one.
pub struct Checker<'a> {
    histories: &'a Histories,
    verdict: Verdict,
    unknown_seen: std::collections::BTreeSet<(&'a [u8], usize)>,
}

impl<'a> Checker<'a> {
    /// A checker that has seen no answer.
    #[must_use]
    pub fn new(histories: &'a Histories) -> Self {
        let mut verdict = Verdict::default();
        for history in histories.values() {
            let last = history.last_acknowledged();
            verdict.keys += u64::from(last.is_some());
            for (at, attempt) in history.attempts.iter().enumerate() {
                match attempt.fate {
                    Fate::Acknowledged => {
                        verdict.acknowledged += 1;
                        verdict.superseded += u64::from(Some(at) < last);
                    }
                    Fate::Unknown => verdict.unknown += 1,
                    Fate::Refused => verdict.refused += 1,
                }
            }
        }
        Self { histories, verdict, unknown_seen: std::collections::BTreeSet::new() }
    }

    /// Takes in what `node` showed for `key`: the values' hashes, or none if the read failed.
    pub fn answer(&mut self, node: usize, key: &[u8], values: Option<&[u64]>) -> Finding {
        let Some((key, history)) = self.histories.get_key_value(key) else {
            self.verdict.phantom.entry(key.to_vec()).or_default().push(node);
            return Finding::Phantom;
        };
        let Some(values) = values else {
            self.verdict.unread.entry(key.clone()).or_default().push(node);
            return Finding::Free;
        };
        self.verdict.reads += 1;
        self.unknown_seen.extend(history.unknown_among(values).map(|at| (key.as_slice(), at)));
        let finding = history.judge(values);
        match finding {
            Finding::Held | Finding::Free => {}
            Finding::Lost => self.verdict.lost.entry(key.clone()).or_default().push(node),
            Finding::Phantom => self.verdict.phantom.entry(key.clone()).or_default().push(node),
        }
        finding
    }

    /// The count.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        self.verdict.unknown_seen = self.unknown_seen.len() as u64;
        self.verdict
    }
}

impl Verdict {
    /// Whether every answer was read and none was wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.phantom.is_empty() && self.unread.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Fate::{Acknowledged, Refused, Unknown};
    use proptest::prelude::*;

    /// A history whose attempt `i` has the value `i`.
    fn history(fates: &[Fate]) -> History {
        let mut history = History::default();
        for (value, &fate) in (0..).zip(fates) {
            history.push(Attempt { value, fate, dot: String::new(), at_ms: 0 });
        }
        history
    }

    #[test]
    fn an_acknowledged_value_that_is_absent_is_lost() {
        assert_eq!(history(&[Acknowledged]).judge(&[]), Finding::Lost);
        assert_eq!(history(&[Acknowledged]).judge(&[0]), Finding::Held);
    }

    #[test]
    fn an_older_acknowledged_value_does_not_make_up_for_the_last() {
        assert_eq!(history(&[Acknowledged, Acknowledged]).judge(&[0]), Finding::Lost);
        assert_eq!(history(&[Acknowledged, Acknowledged]).judge(&[1]), Finding::Held);
        assert_eq!(history(&[Acknowledged, Acknowledged]).judge(&[0, 1]), Finding::Held);
    }

    #[test]
    fn a_later_unknown_attempt_may_have_taken_the_place() {
        assert_eq!(history(&[Acknowledged, Unknown]).judge(&[1]), Finding::Held);
        assert_eq!(history(&[Acknowledged, Unknown]).judge(&[0]), Finding::Held);
        assert_eq!(history(&[Unknown, Acknowledged]).judge(&[0]), Finding::Lost);
    }

    #[test]
    fn an_unknown_attempt_may_appear_or_not() {
        assert_eq!(history(&[Unknown]).judge(&[]), Finding::Free);
        assert_eq!(history(&[Unknown]).judge(&[0]), Finding::Free);
    }

    #[test]
    fn what_nobody_wrote_or_was_refused_must_not_be_there() {
        assert_eq!(history(&[Acknowledged]).judge(&[0, 9]), Finding::Phantom);
        assert_eq!(history(&[Acknowledged, Refused]).judge(&[1]), Finding::Phantom);
        assert_eq!(history(&[Acknowledged, Refused]).judge(&[0]), Finding::Held);
    }

    #[test]
    fn the_verdict_counts_and_names_the_nodes() {
        let histories = Histories::from([
            (b"a".to_vec(), history(&[Acknowledged, Acknowledged, Unknown])),
            (b"b".to_vec(), history(&[Unknown, Refused])),
        ]);
        let mut checker = Checker::new(&histories);
        assert_eq!(checker.answer(0, b"a", Some(&[2])), Finding::Held);
        assert_eq!(checker.answer(1, b"a", Some(&[0])), Finding::Lost);
        assert_eq!(checker.answer(0, b"b", Some(&[])), Finding::Free);
        assert_eq!(checker.answer(1, b"b", None), Finding::Free);
        let verdict = checker.finish();
        assert_eq!((verdict.acknowledged, verdict.superseded, verdict.keys), (2, 1, 1));
        assert_eq!((verdict.unknown, verdict.unknown_seen, verdict.refused), (2, 1, 1));
        assert_eq!(verdict.reads, 3);
        assert_eq!(verdict.lost, BTreeMap::from([(b"a".to_vec(), vec![1])]));
        assert_eq!(verdict.unread, BTreeMap::from([(b"b".to_vec(), vec![1])]));
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_verdict_without_findings_is_clean() {
        let histories = Histories::from([(b"a".to_vec(), history(&[Acknowledged]))]);
        let mut checker = Checker::new(&histories);
        checker.answer(0, b"a", Some(&[0]));
        assert!(checker.finish().is_clean());
    }

    fn fates() -> impl Strategy<Value = Vec<Fate>> {
        let fate = prop_oneof![Just(Acknowledged), Just(Unknown), Just(Refused)];
        proptest::collection::vec(fate, 0..6)
    }

    proptest! {
        /// A correct register: it holds the last attempt that took place; unknown ones may have.
        #[test]
        fn a_register_that_loses_nothing_is_never_accused(fates in fates(), took: [bool; 6]) {
            let place = |at: &usize| match fates[*at] {
                Acknowledged => true,
                Unknown => took[*at],
                Refused => false,
            };
            let shown: Vec<u64> =
                (0..fates.len()).rev().find(place).map(|at| at as u64).into_iter().collect();
            let finding = history(&fates).judge(&shown);
            prop_assert!(matches!(finding, Finding::Held | Finding::Free), "{finding:?}");
        }

        /// One that forgets the last acknowledged write, whatever else it shows that is older.
        #[test]
        fn a_register_that_forgets_is_always_caught(fates in fates(), kept: [bool; 6]) {
            let Some(last) = fates.iter().rposition(|fate| *fate == Acknowledged) else {
                return Ok(());
            };
            let shown: Vec<u64> = (0..last)
                .filter(|&at| kept[at] && fates[at] != Refused)
                .map(|at| at as u64)
                .collect();
            prop_assert_eq!(history(&fates).judge(&shown), Finding::Lost);
        }
    }
}
