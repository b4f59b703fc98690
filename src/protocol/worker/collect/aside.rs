//! Setting a copy aside: what a closed round never confirmed is neither merged nor deleted.
//!
//! A round closes only when every member has drained it. A copy that has not is of another time: a disk
//! that was replaced, or set back to what it held before. It may hold what a record now collected had
//! superseded, and that would come back. So its records and its hints of the partition are moved out of
//! the way, under names that nothing reads; then the partition is marked as not whole, and rebuilt.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::super::cells::{Waiter, put_hint_prefix};
use super::super::timers::Timer;
use super::super::{Reading, Worker};
use super::{Collect, Durable, PREFIX};
use crate::protocol::lost::lost_marker;
use crate::protocol::meta::partition_key;
use crate::protocol::step::{Change, Effect, Event, Page, ReadFailed, Space};
use crate::types::{Key, NodeName, Now, Partition, RoundNumber};

/// Keys of [`Space::Meta`] under which lies what was set aside: `prefix ‖ round (8, big-endian) ‖ r or h ‖
/// its key`.
const ASIDE_PREFIX: &[u8] = b"aside/";
/// Bytes that are moved in one commit.
const PAGE_BYTES: usize = 1 << 20;
/// How long to wait before what could not be read or moved is tried again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// A copy on its way out.
#[derive(Debug)]
pub(super) struct Moving {
    number: RoundNumber,
    /// What is still to be looked at: the records (none), then the hints for each target.
    places: VecDeque<Option<NodeName>>,
    /// Whether a page is being read or committed.
    busy: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The mark that says so comes first: a copy of which a part is gone must never count as whole.
    Marking,
    Moving,
    Ending,
}

impl Collect {
    /// What was marked at an earlier start may still have to be moved.
    pub(in crate::protocol::worker) fn move_on(&mut self, partition: Partition, mark: &[u8]) {
        let Ok(number) = mark.try_into().map(u64::from_be_bytes) else { return };
        if RoundNumber(number) > self.closed(partition) {
            self.unmoved.insert(partition, RoundNumber(number));
        }
    }
}

impl Worker {
    /// A round was closed that this copy of the partition never confirmed.
    pub(super) fn set_aside(
        &mut self,
        now: Now,
        partition: Partition,
        number: RoundNumber,
        out: &mut Vec<Effect>,
    ) {
        if self.collect.is_moving(partition) || self.adopt_round(partition, number, out) {
            return;
        }
        self.end_tenure(partition, "its copy is set aside", out);
        out.push(Effect::Event(Event::SetAside(partition)));
        let members = self.view.iter().flat_map(|view| view.members());
        let mut targets = self.hint_targets();
        targets.extend(members.cloned());
        let places = std::iter::once(None).chain(targets.into_iter().map(Some)).collect();
        let moving = Moving { number, places, busy: false, stage: Stage::Marking };
        self.collect.moving.insert(partition, moving);
        self.forget_tree(partition);
        self.collect.drives.remove(&partition);
        self.aside_due(now, partition, out);
    }

    /// At the start: goes on with what was being moved.
    pub(super) fn resume_moving(&mut self, now: Now, out: &mut Vec<Effect>) {
        for (partition, number) in std::mem::take(&mut self.collect.unmoved) {
            self.set_aside(now, partition, number, out);
        }
    }

    /// Reads the next page of what is to be moved, once nothing of the partition is queued.
    pub(in crate::protocol::worker) fn aside_due(
        &mut self,
        now: Now,
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        let in_use =
            self.cells.keys().any(|id| id.partition == partition) || self.is_replaying(partition);
        let Some(moving) = self.collect.moving.get_mut(&partition) else { return };
        if moving.busy {
            return;
        }
        if in_use {
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::Round(partition));
        }
        let Some(place) = moving.places.front().filter(|_| moving.stage == Stage::Moving) else {
            return self.mark_lost(partition, out);
        };
        moving.busy = true;
        let mut prefix = BytesMut::new();
        if let Some(target) = place {
            put_hint_prefix(&mut prefix, target);
        }
        prefix.put_u16(partition.0);
        let space = if place.is_some() { Space::Hints } else { Space::Records };
        let (prefix, after) = (prefix.freeze(), Bytes::new());
        let token = self.next_token();
        self.reads.insert(token, Reading::Aside(partition));
        out.push(Effect::Scan { token, space, prefix, after, bytes_max: PAGE_BYTES });
    }

    pub(in crate::protocol::worker) fn aside_scanned(
        &mut self,
        now: Now,
        partition: Partition,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Some(moving) = self.collect.moving.get_mut(&partition) else { return };
        let Ok(page) = result else {
            moving.busy = false;
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::Round(partition));
        };
        if page.entries.is_empty() {
            moving.busy = false;
            moving.places.pop_front();
            return self.aside_due(now, partition, out);
        }
        let (number, hint) = (moving.number, moving.places.front().is_some_and(Option::is_some));
        let mut changes = Vec::with_capacity(2 * page.entries.len());
        for (key, value) in page.entries {
            if let (false, Ok(name)) = (hint, Key::new(key.slice(2.min(key.len())..))) {
                self.recent.forget(&name);
            }
            let space = if hint { Space::Hints } else { Space::Records };
            let aside = aside_key(number, hint, &key);
            changes.push(Change { space, key, value: None });
            changes.push(Change { space: Space::Meta, key: aside, value: Some(value) });
        }
        let waiter = Waiter::Round(partition, Box::new(Durable::Aside));
        self.commit_changes_for(changes, waiter, out);
    }

    /// Marks the copy as not whole: before anything is moved, with the round that it is moved for; and
    /// when all of it is out of the way, as begun anew as of that round.
    fn mark_lost(&mut self, partition: Partition, out: &mut Vec<Effect>) {
        let before = self.collect.state(partition);
        let Some(moving) = self.collect.moving.get_mut(&partition) else { return };
        moving.busy = true;
        let number = Bytes::copy_from_slice(&moving.number.0.to_be_bytes());
        let state = before.begun_anew(moving.number).encode();
        let meta = |key, value| Change { space: Space::Meta, key, value: Some(value) };
        let mut changes = vec![meta(lost_marker(partition), number)];
        if moving.stage != Stage::Marking {
            moving.stage = Stage::Ending;
            changes.push(meta(partition_key(PREFIX, partition), state));
            changes.push(self.brought_anew(partition));
        }
        let waiter = Waiter::Round(partition, Box::new(Durable::Aside));
        self.commit_changes_for(changes, waiter, out);
    }

    /// A page has been moved, or the mark is made.
    pub(super) fn aside_moved(
        &mut self,
        now: Now,
        partition: Partition,
        durable: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(moving) = self.collect.moving.get_mut(&partition) else { return };
        moving.busy = false;
        if !durable {
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::Round(partition));
        }
        if moving.stage != Stage::Ending {
            moving.stage = Stage::Moving;
            return self.aside_due(now, partition, out);
        }
        let number = moving.number;
        self.collect.moving.remove(&partition);
        let state = self.collect.state(partition).begun_anew(number);
        self.collect.rounds.insert(partition, state);
        // It is empty and durably marked: it takes writes, and no answer of it counts, until it has been
        // rebuilt from all other homes.
        self.partitions_lost(now, vec![partition], out);
    }
}

fn aside_key(number: RoundNumber, hint: bool, key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(ASIDE_PREFIX.len() + 9 + key.len());
    out.put_slice(ASIDE_PREFIX);
    out.put_u64(number.0);
    out.put_u8(if hint { b'h' } else { b'r' });
    out.put_slice(key);
    out.freeze()
}
