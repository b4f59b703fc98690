//! C4: strict reads and writes of a shared register. A read returns a value that was written, not
//! yet overwritten, or being written at the same time; and what a strict read has shown stays seen.
//!
//! ```text
//!   write v  ├────┤            v is complete when its write, or a read that returned it, has ended
//!   write w         ├────┤
//!   read v                ├──┤    stale: w began when v was complete, and is complete itself
//! ```
//!
//! The rule asks for less than a linearization of the whole, and so never blames wrongly; most
//! inversions that a register can show break it.

use std::collections::{BTreeMap, HashMap};

use super::Judgement;
use crate::history::{Action, History, Op};
use crate::scenario::WorkloadKind;

/// One value's life, in microseconds.
struct Life {
    began: u64,
    /// When it was complete: acknowledged, or shown by a strict read.
    complete: Option<u64>,
    /// Whether an attempt of it may still become a write of its own.
    may_return: bool,
}

/// Which values must not be shown any more at some time.
struct Overwrites {
    /// (when a value was complete, the latest beginning of all values complete by then), sorted.
    latest: Vec<(u64, u64)>,
}

/// Each write has a value of its own.
pub fn judge(history: &History) -> Judgement {
    let promise = "a strict read returns a value that no completed strict write has overwritten";
    let mut judgement = Judgement::of(WorkloadKind::Register, "C4", promise);
    let mut registers: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in history.of(WorkloadKind::Register) {
        registers.entry(&op.invoke.key).or_default().push(op);
    }
    for (key, ops) in registers {
        let reads = reads_of(history, key, &ops);
        let lives = lives(&ops, &reads);
        let overwrites = Overwrites::new(lives.values());
        for (value, began, _) in reads {
            judge_read(key, value, began, &lives, &overwrites, &mut judgement);
        }
    }
    judgement
}

/// Value, beginning and end of each read; the last one, when all is over, among them.
fn reads_of<'a>(
    history: &'a History,
    key: &str,
    ops: &[&'a Op],
) -> Vec<(Option<&'a str>, u64, u64)> {
    let mut reads = Vec::new();
    for op in ops.iter().filter(|op| op.invoke.action == Action::Read) {
        let Some(answer) = op.answer() else { continue };
        let value = answer.values.as_ref().and_then(|values| values.first());
        reads.push((value.map(String::as_str), op.invoke.t_us, answer.t_us));
    }
    if let Some(values) = history.final_values(key) {
        let at = history.finals[key].t_us;
        reads.push((values.first().map(String::as_str), at, at));
    }
    reads
}

fn lives<'a>(ops: &[&'a Op], reads: &[(Option<&'a str>, u64, u64)]) -> HashMap<&'a str, Life> {
    let mut lives = HashMap::new();
    for op in ops.iter().filter(|op| op.invoke.action == Action::Write) {
        let life = Life {
            began: op.invoke.t_us,
            complete: op.answer().map(|answer| answer.t_us),
            may_return: op.answer().is_none_or(|answer| answer.attempts > 1),
        };
        lives.insert(op.invoke.value.as_deref().unwrap_or_default(), life);
    }
    for (value, _, ended) in reads {
        if let Some(life) = value.and_then(|value| lives.get_mut(value)) {
            life.complete = Some(life.complete.map_or(*ended, |complete| complete.min(*ended)));
        }
    }
    lives
}

impl Overwrites {
    fn new<'a>(lives: impl Iterator<Item = &'a Life>) -> Self {
        let complete = lives.filter_map(|life| Some((life.complete?, life.began)));
        let mut latest: Vec<(u64, u64)> = complete.collect();
        latest.sort_unstable();
        let mut highest = 0;
        for (_, began) in &mut latest {
            highest = highest.max(*began);
            *began = highest;
        }
        Self { latest }
    }

    /// The latest beginning of all values that were complete before `now`.
    fn before(&self, now: u64) -> Option<u64> {
        let count = self.latest.partition_point(|(complete, _)| *complete < now);
        Some(self.latest[count.checked_sub(1)?].1)
    }
}

fn judge_read(
    key: &str,
    value: Option<&str>,
    began: u64,
    lives: &HashMap<&str, Life>,
    overwrites: &Overwrites,
    judgement: &mut Judgement,
) {
    let Some(value) = value else {
        judgement.judged += 1;
        if overwrites.before(began).is_some() {
            judgement.lost(key, format!("absent at {began} us, when a write was complete"));
        }
        return;
    };
    let Some(life) = lives.get(value) else {
        judgement.judged += 1;
        judgement.wrong(key, format!("`{value}` was read, and nobody wrote it"));
        return;
    };
    if life.may_return {
        judgement.open += 1;
        return;
    }
    judgement.judged += 1;
    let complete = life.complete.unwrap_or(u64::MAX);
    if overwrites.before(began).is_some_and(|later| later > complete) {
        let what = format!("`{value}` was read at {began} us, overwritten by a completed write");
        judgement.lost(key, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;

    #[test]
    fn overlapping_values_may_be_read_in_either_order() {
        let history = history([
            read(9, "register/a", &[], 0, 1),
            write(0, "register/a", "v", 0, 20),
            write(1, "register/a", "w", 10, 30),
            read(2, "register/a", &["w"], 31, 32),
            unknown(3, "register/a", "x", 40, 50),
            read(4, "register/a", &["w"], 60, 61),
            read(5, "register/a", &["x"], 70, 71),
            last("register/a", &["x"]),
        ]);
        let judgement = judge(&history);
        assert_eq!((judgement.violations, judgement.open), (vec![], 2));
    }

    #[test]
    fn an_overwritten_value_and_an_absence_are_found() {
        let (v, w) = (write(0, "register/a", "v", 0, 9), write(1, "register/a", "w", 10, 19));
        for shown in [&["v"][..], &[]] {
            let stale = read(2, "register/a", shown, 20, 29);
            let violations = judge(&history([v.clone(), w.clone(), stale])).violations;
            assert!(violations.len() == 1 && violations[0].lost, "{violations:?}");
            let end = last("register/a", shown);
            assert_eq!(judge(&history([v.clone(), w.clone(), end])).violations.len(), 1);
        }
    }

    #[test]
    fn what_a_strict_read_showed_stays_seen() {
        let history = history([
            write(0, "register/a", "v", 0, 9),
            unknown(1, "register/a", "w", 10, 19),
            read(2, "register/a", &["w"], 20, 29),
            read(3, "register/a", &["v"], 30, 39),
        ]);
        assert_eq!(judge(&history).violations.len(), 1);
    }

    #[test]
    fn a_value_of_nobody_is_found() {
        let history = history([read(2, "register/a", &["?"], 20, 29)]);
        assert_eq!(judge(&history).violations.len(), 1);
    }

    #[test]
    fn an_attempt_that_may_still_be_under_way_is_not_judged() {
        let history = history([
            after_attempts(2, write(0, "register/a", "v", 0, 9)),
            write(1, "register/a", "w", 10, 19),
            read(2, "register/a", &["v"], 20, 29),
        ]);
        let judgement = judge(&history);
        assert_eq!((judgement.violations, judgement.open), (vec![], 1));
    }
}
