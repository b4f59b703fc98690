//! What is to be done at some time.
//!
//! A timer whose cause is gone finds nothing to do; those of requests and calls are taken back before
//! that, so that there are as many as are under way, and not as many as were begun in the last ten seconds.

use std::collections::BTreeMap;

use super::OpKey;
use super::sync::{Goal, SessionId};
use crate::protocol::message::CallId;
use crate::types::{Key, Mono, NodeId, NodeName, Partition};

/// What a timer is for.
#[derive(Debug)]
pub(super) enum Timer {
    Op(OpKey),
    Call(CallId),
    Replay(NodeName),
    Probe(NodeId),
    Session(NodeId, u16),
    Rebuild(Partition, Key),
    Arrive,
    /// Trees that are not saved yet.
    SaveTrees,
    LoadTrees,
    Rescan,
    Scrub,
    /// A round of comparisons with all peers, or one with a peer that has come back.
    Compare,
    CompareWith(NodeId),
    SyncAgain(Goal, NodeId),
    Sync(SessionId),
    Lost,
    /// A record was refused a replica's time ago, because this node or the other had not heard of a version.
    Stale(OpKey, usize),
    /// The other had not, and is asked again.
    Unaware(OpKey, usize),
    /// Who was asked to keep a record has been late for long.
    Overdue(OpKey, usize),
    /// How far a change of the ring has come.
    Change,
    /// Partitions that were given up.
    Leave,
    Collect,
    Round(Partition),
    /// Partitions of which this node has not been told where their rounds are.
    Untold,
}

/// Names a timer, to take it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerKey(Mono, u64);

/// All timers of a worker, in the order in which they are due; those of one moment in the order
/// in which they were set.
#[derive(Debug, Default)]
pub(super) struct Timers {
    set: BTreeMap<TimerKey, Timer>,
    last: u64,
}

impl Timers {
    pub fn set(&mut self, at: Mono, timer: Timer) -> TimerKey {
        self.last += 1;
        let key = TimerKey(at, self.last);
        self.set.insert(key, timer);
        key
    }

    /// Takes one back; nothing happens if it has gone off.
    pub fn cancel(&mut self, key: TimerKey) {
        self.set.remove(&key);
    }

    pub fn next(&self) -> Option<Mono> {
        self.set.first_key_value().map(|(key, _)| key.0)
    }

    /// The first that is due by `now`.
    pub fn pop(&mut self, now: Mono) -> Option<Timer> {
        let first = self.set.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_go_off_in_order_and_not_once_they_are_taken_back() {
        let mut timers = Timers::default();
        let late = timers.set(Mono(20), Timer::Op(OpKey(2)));
        timers.set(Mono(10), Timer::Op(OpKey(1)));
        timers.set(Mono(20), Timer::Op(OpKey(3)));
        assert_eq!(timers.next(), Some(Mono(10)));
        assert!(timers.pop(Mono(9)).is_none());
        assert!(matches!(timers.pop(Mono(10)), Some(Timer::Op(OpKey(1)))));
        timers.cancel(late);
        assert!(matches!(timers.pop(Mono(30)), Some(Timer::Op(OpKey(3)))));
        assert!(timers.pop(Mono(30)).is_none());
    }
}
