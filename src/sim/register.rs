//! C4 and C8: strict requests, judged as operations on a register.
//!
//! Each write has its own dot, and dots are ordered: that order is the register's. A history of
//! reads and writes is linearizable in it exactly if (Lynch, *Distributed Algorithms*, lemma 13.16)
//!
//! 1. an op that began after another had ended shows (a read) or is given (a write) no lower dot;
//! 2. a write that began after another op had ended is given a *higher* dot;
//! 3. a read shows what some write has written, no later than the read ends (C1 sees to that).
//!
//! Writes of unknown outcome need no time of their own: whoever shows their dot binds those behind
//! it. Within one client's session the same rules are its guarantees, read-your-writes and
//! monotonic reads (Terry et al., *Session Guarantees*, 1994): then they count as C8, else as C4.

use super::clock::Time;
use super::describe;
use super::history::{End, OpRecord};
use super::observer::Check;
use super::trace::clock_face;
use crate::types::Dot;

/// A strict op that ended well: what it showed, or was given.
struct Event<'a> {
    op: &'a OpRecord,
    ended: u64,
    /// None: a read that found nothing.
    dot: Option<Dot>,
    is_write: bool,
}

/// Judges the strict ops of one key: what was violated, in words. `is_excused` says of when one ran whether
/// it is held to nothing: a disk that is set back is found out once somebody answers who remembers more
/// of it, and a majority may have answered before.
pub(super) fn judge(
    ops: &[&OpRecord],
    is_excused: impl Fn(Time, Time) -> bool,
) -> Vec<(Check, String)> {
    let events: Vec<Event<'_>> = ops.iter().filter_map(|op| Event::of(op)).collect();
    let mut found = Vec::new();
    for later in events.iter().filter(|op| !is_excused(op.op.invoked, op.ended)) {
        let before = events.iter().filter(|earlier| earlier.ended < later.op.invoked);
        let broken: Vec<&Event<'_>> = before.filter(|earlier| !later.follows(earlier)).collect();
        let own = broken.iter().find(|earlier| earlier.op.client == later.op.client);
        if let Some(earlier) = own.or(broken.first()) {
            let check = if own.is_some() { Check::C8 } else { Check::C4 };
            found.push((check, later.describe(earlier)));
        }
    }
    found
}

impl<'a> Event<'a> {
    fn of(op: &'a OpRecord) -> Option<Self> {
        let ended = op.ended.filter(|_| op.op.strict)?;
        let (dot, is_write) = match &op.end {
            Some(End::Written(receipt)) => (Some(receipt.dot), true),
            Some(End::Read(read)) => (read.visible.last().map(|sibling| sibling.dot), false),
            Some(End::Failed(_)) | None => return None,
        };
        Some(Self { op, ended, dot, is_write })
    }

    /// Whether this op may come after `earlier` in the order of the register.
    fn follows(&self, earlier: &Self) -> bool {
        let known = match (&self.op.end, earlier.dot) {
            (Some(End::Read(read)), Some(dot)) => read.seen.covers(dot),
            _ => true,
        };
        known && if self.is_write { self.dot > earlier.dot } else { self.dot >= earlier.dot }
    }

    fn describe(&self, earlier: &Self) -> String {
        let dot = |dot: Option<Dot>| dot.map_or("nothing".into(), describe::dot);
        format!(
            "a strict {} of {} begun at {} {} {}, after {} had been {}",
            if self.is_write { "write" } else { "read" },
            describe::key(self.op.key()),
            clock_face(self.op.invoked).trim_start(),
            if self.is_write { "was given" } else { "showed" },
            dot(self.dot),
            dot(earlier.dot),
            if earlier.is_write { "acknowledged" } else { "shown" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::op::{Op, ReadOutcome, Receipt, VisibleSibling};
    use crate::protocol::quorum::Consistency;
    use crate::protocol::record::VersionVector;
    use crate::types::{Actor, Key, Stamp};

    fn dot(number: u64) -> Dot {
        Dot::new(Actor(number), Stamp(number))
    }

    fn knowing(numbers: &[u64]) -> VersionVector {
        let mut seen = VersionVector::default();
        numbers.iter().for_each(|number| seen.add(dot(*number)));
        seen
    }

    fn strict(mut op: Op) -> Op {
        op.strict = true;
        op
    }

    fn write(client: usize, number: u64, when: (u64, u64)) -> OpRecord {
        let key = Key::new("s0".to_owned()).unwrap();
        let receipt = Receipt {
            dot: dot(number),
            seen: knowing(&[number]),
            partial: false,
            homes: vec![],
            hints: vec![],
            placement: 1,
        };
        let op = strict(Op::set(key, "v".into(), Consistency::Quorum));
        OpRecord::of_the_past(client, op, when, End::Written(receipt))
    }

    fn read(client: usize, shown: u64, seen: &[u64], when: (u64, u64)) -> OpRecord {
        let key = Key::new("s0".to_owned()).unwrap();
        let sibling = VisibleSibling { value: "v".into(), dot: dot(shown), expiry: None };
        let outcome = ReadOutcome { visible: vec![sibling], seen: knowing(seen), degraded: false };
        let op = strict(Op::get(key, Consistency::Quorum));
        OpRecord::of_the_past(client, op, when, End::Read(outcome))
    }

    fn checks(ops: &[OpRecord]) -> Vec<Check> {
        let ops: Vec<_> = ops.iter().collect();
        judge(&ops, |_, _| false).into_iter().map(|(check, _)| check).collect()
    }

    #[test]
    fn what_overlaps_may_come_in_either_order() {
        let history = [
            write(1, 5, (0, 10)),
            read(2, 3, &[3], (5, 15)),
            write(3, 3, (4, 20)),
            read(2, 5, &[3, 5], (21, 30)),
        ];
        assert_eq!(checks(&history), []);
    }

    #[test]
    fn a_read_behind_an_acknowledged_write_shows_no_older_value() {
        let stale = |client| [write(1, 5, (0, 10)), read(client, 3, &[3], (11, 20))];
        assert_eq!(checks(&stale(2)), [Check::C4]);
        assert_eq!(checks(&stale(1)), [Check::C8], "it is the client's own write");
    }

    #[test]
    fn what_one_read_has_shown_the_next_one_shows_too() {
        let history = [read(1, 5, &[5], (0, 10)), read(1, 3, &[3], (11, 20))];
        assert_eq!(checks(&history), [Check::C8]);
        let history = [read(1, 5, &[5], (0, 10)), read(2, 7, &[7], (11, 20))];
        assert_eq!(checks(&history), [Check::C4], "a higher dot hides one that it does not know");
    }

    #[test]
    fn a_write_behind_another_op_is_given_a_higher_dot() {
        let history = [read(1, 5, &[5], (0, 10)), write(2, 4, (11, 20))];
        assert_eq!(checks(&history), [Check::C4]);
        let history = [write(1, 5, (0, 10)), write(1, 5, (11, 20))];
        assert_eq!(checks(&history), [Check::C8]);
    }
}
