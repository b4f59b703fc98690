//! C5: last writer wins. What is shown of a key has the highest dot of all that was acknowledged, and
//! of the siblings that are left. What the policy hides is counted apart, and is no loss: it is still
//! among the siblings, or was overwritten by a write of a higher dot.
//!
//! Nothing but a delete makes a key empty, and whatever supersedes a write has a higher dot than it.
//! So a write whose outcome nobody knows may be shown in the place of a known one, but no lower dot.

use std::collections::{BTreeMap, HashMap};

use super::Judgement;
use crate::history::{Action, History, Op};
use crate::scenario::WorkloadKind;

/// The time, the counter and the actor of a dot.
type Parts<'a> = (u64, u64, &'a str);

/// What was written to a key that is never deleted.
#[derive(Default)]
struct Writes<'a> {
    /// The dots of those whose only attempt was acknowledged, by their values.
    dots: HashMap<&'a str, Parts<'a>>,
    /// The values of all others that may be there: their dots are not known.
    uncertain: Vec<&'a str>,
}

/// `actor@milliseconds.counter`.
fn parts(dot: &str) -> Option<Parts<'_>> {
    let (actor, stamp) = dot.split_once('@')?;
    let (millis, counter) = stamp.split_once('.')?;
    Some((millis.parse().ok()?, counter.parse().ok()?, actor))
}

/// Judges every key that is written over and over.
pub fn judge(history: &History) -> Judgement {
    let promise = "what is shown of a key has the highest dot of all that was acknowledged";
    let mut judgement = Judgement::of(WorkloadKind::Overwrite, "C5", promise);
    let mut keys: BTreeMap<&str, Writes> = BTreeMap::new();
    // C1 and C7 judge keys that are written once.
    let once = [WorkloadKind::Set, WorkloadKind::Delete];
    let writes = history.ops.iter().filter(|op| op.invoke.action == Action::Write);
    for op in writes.filter(|op| !once.contains(&op.invoke.workload)) {
        keys.entry(&op.invoke.key).or_default().add(op);
    }
    for (key, writes) in &keys {
        writes.judge(key, history.final_values(key), &mut judgement);
    }
    judgement
}

impl<'a> Writes<'a> {
    fn add(&mut self, op: &'a Op) {
        let value = op.invoke.value.as_deref().unwrap_or_default();
        let single = op.answer().filter(|answer| answer.attempts == 1);
        match single.and_then(|answer| parts(answer.dot.as_deref()?)) {
            Some(dot) => drop(self.dots.insert(value, dot)),
            None if op.answer().is_some() || op.is_unknown() => self.uncertain.push(value),
            None => {}
        }
    }

    fn judge(&self, key: &str, values: Option<&[String]>, judgement: &mut Judgement) {
        let Some((newest, highest)) = self.dots.iter().max_by_key(|(_, dot)| **dot) else {
            judgement.open += 1;
            return;
        };
        let Some([first, others @ ..]) = values else {
            judgement.judged += 1;
            let how = if values.is_some() { "nothing is there" } else { "nobody could read it" };
            judgement.lost(key, format!("`{newest}` was acknowledged, and {how} at the end"));
            return;
        };
        if self.uncertain.contains(&first.as_str()) {
            judgement.open += 1;
            return;
        }
        judgement.judged += 1;
        let Some(shown) = self.dots.get(first.as_str()) else {
            judgement.wrong(key, format!("`{first}` is shown, and no write of it took place"));
            return;
        };
        if shown >= highest {
            return;
        }
        let what = format!("`{first}` is shown, and `{newest}` is younger");
        if others.iter().any(|other| other == newest) {
            judgement.wrong(key, what);
        } else {
            judgement.lost(key, format!("{what}, acknowledged and gone"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;

    fn two() -> [Vec<crate::history::Event>; 2] {
        let v = named("b@10.0", write(0, "overwrite/a", "v", 0, 9));
        [v, named("a@9.5", write(1, "overwrite/a", "w", 0, 9))]
    }

    fn judged(shown: &[&str]) -> Judgement {
        judge(&history(two().into_iter().chain([last("overwrite/a", shown)])))
    }

    #[test]
    fn the_younger_sibling_must_be_shown() {
        let judgement = judged(&["v", "w"]);
        assert_eq!((judgement.judged, judgement.violations.len()), (1, 0));
        let violations = judged(&["w", "v"]).violations;
        assert!(violations.len() == 1 && !violations[0].lost, "{violations:?}");
    }

    #[test]
    fn the_younger_write_must_be_there_though_no_sibling_is_left() {
        assert_eq!(judged(&["v"]).violations, []);
        for shown in [&["w"][..], &[]] {
            let violations = judged(shown).violations;
            assert!(violations.len() == 1 && violations[0].lost, "{violations:?}");
        }
        let unread = judge(&history(two().into_iter().chain([unreadable("overwrite/a")])));
        assert!(unread.violations[0].lost);
        let nobodys = judged(&["x"]).violations;
        assert!(nobodys.len() == 1 && !nobodys[0].lost);
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_shown_and_hides_no_loss() {
        let x = unknown(2, "overwrite/a", "x", 10, 19);
        let with = |shown: &[&str]| {
            let events = two().into_iter().chain([x.clone(), last("overwrite/a", shown)]);
            judge(&history(events))
        };
        assert_eq!((with(&["x"]).open, with(&["x"]).violations), (1, vec![]));
        assert!(with(&["w"]).violations[0].lost && with(&[]).violations[0].lost);
    }

    #[test]
    fn time_comes_before_the_counter_and_the_counter_before_the_actor() {
        assert!(parts("a@10.0") > parts("b@9.7") && parts("a@9.10") > parts("b@9.9"));
        assert_eq!(parts("nonsense"), None);
    }
}
