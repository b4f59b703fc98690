//! Hints: records kept for a home that could not take them, and their replay.
//!
//! A hint is merged with the hint of the same key for the same home, so they are bounded by
//! distinct keys. They are counted at the start from the store itself, replayed whenever their
//! target can be reached, and retried for ever.
//!
//! A hint goes to its target; while the ring changes, or when its target is no home of the partition
//! any more, to every home in every live version that was not removed. It is deleted only after all to
//! whom it goes have acknowledged it, and only if the hint in the worker's view is still the one that
//! was acknowledged: it may have grown meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};

use super::cells::{CellId, Incoming, Task, Waiter, open_stored, put_hint_prefix};
use super::change::{TransferId, is_unmoved};
use super::replica::answer_write;
use super::timers::Timer;
use super::{Purpose, Reading, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::message::{DataMessage, Refusal, WriteAnswer, WriteRequest};
use crate::protocol::record::{Record, Sealed};
use crate::protocol::step::{Effect, Event, Page, ReadFailed, Space};
use crate::types::{Key, NodeId, NodeName, Now, Partition, RecordHash, RoundNumber};

/// Bytes of hints that are read at a time.
const PAGE_BYTES: usize = 256 << 10;
/// How long to wait before what was refused or not answered is tried again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Peers that are told of, once each, for wanting what no member wants: more than a cluster has.
const MISLED_BY_MAX: usize = 256;

/// How many hints there are, and how large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub count: u64,
    pub bytes: u64,
}

/// How large a hint was, and how large it is now; none: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HintChange {
    pub before: Option<u64>,
    pub after: Option<u64>,
}

/// What a worker keeps for others.
#[derive(Debug, Default)]
pub(super) struct Hints {
    held: BTreeMap<NodeName, Held>,
    /// Targets whose count may be off, because a commit of a hint was refused.
    doubted: BTreeSet<NodeName>,
    /// Hints written or grown since the start.
    written: u64,
    /// Whether a hint was refused for want of room, and half of it has not become free since.
    full: bool,
    /// Peers that wanted hints kept for nodes that are no members.
    misled_by: BTreeSet<NodeId>,
    replays: BTreeMap<NodeName, Replay>,
    deliveries: BTreeMap<DeliveryId, Delivery>,
    last_delivery: u64,
}

/// Names a hint on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeliveryId(u64);

/// A hint on its way to all who are to have it; at most a window of a replay each.
#[derive(Debug)]
struct Delivery {
    cell: CellId,
    target: NodeName,
    hash: RecordHash,
    /// Those who have not answered.
    left: usize,
    /// Whether someone has not taken it, or could not be asked.
    failed: bool,
}

/// The replay to one target: under way, or waiting for its next turn.
#[derive(Debug)]
struct Replay {
    /// The target's disk, if it has one.
    node: Option<NodeId>,
    /// Hints behind this key of the store come next.
    cursor: Bytes,
    page: VecDeque<(CellId, Sealed)>,
    /// Whether the page reaches the end.
    last_page: bool,
    /// Hints that this pass over the store has come across.
    seen: u64,
    /// [`Hints::written`] when this pass began: what was written since may have been missed.
    begun_at: u64,
    /// Whether a hint's commit was under way when this pass began: it may have been missed, too.
    begun_amid: bool,
    /// The transfer in which this pass began.
    transfer: Option<TransferId>,
    /// Hints of this pass that a transfer has to bring to all homes, and that did not reach all.
    missed: u64,
    in_flight: usize,
    delivered: u64,
    /// Whether hints of the page are just being sent.
    is_sending: bool,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Scanning,
    Sending,
}

impl Hints {
    pub fn total(&self) -> Held {
        self.held.values().fold(Held::default(), |sum, held| Held {
            count: sum.count + held.count,
            bytes: sum.bytes + held.bytes,
        })
    }

    /// Counts that a hint has changed from `before` bytes to `after` (none: there is none).
    fn count(&mut self, target: &NodeName, before: Option<u64>, after: Option<u64>) {
        let held = self.held.entry(target.clone()).or_default();
        held.count =
            (held.count + u64::from(after.is_some())).saturating_sub(u64::from(before.is_some()));
        held.bytes = (held.bytes + after.unwrap_or(0)).saturating_sub(before.unwrap_or(0));
    }

    fn any_for(&self, target: &NodeName) -> bool {
        self.doubted.contains(target) || self.held.get(target).is_some_and(|held| held.count > 0)
    }
}

impl Worker {
    /// Whether there is room for a hint to become `merged`. What is queued to be committed counts
    /// like what is stored; what does not grow always fits.
    pub(super) fn hint_fits(&self, id: &CellId, held: &Record, merged: &Incoming) -> bool {
        let size = |sealed: &Sealed| sealed.stored().len() as u64;
        let seal = |record: &Record| record.seal(id.partition, &id.key);
        let before = if held.is_empty() { 0 } else { size(&seal(held)) };
        let after = merged.sealed.as_ref().map_or_else(|| size(&seal(&merged.record)), size);
        let more = after.saturating_sub(before);
        more == 0 || self.hints.total().bytes + more <= self.config.tuning.hint_bytes_max
    }

    /// There is no room for a hint: whoever wanted it kept must not count it.
    pub(super) fn refuse_hint(
        &mut self,
        now: Now,
        id: &CellId,
        waiter: Waiter,
        out: &mut Vec<Effect>,
    ) {
        self.stats.hints_refused += 1;
        if !std::mem::replace(&mut self.hints.full, true) {
            out.push(Effect::Event(Event::HintsFull));
        }
        match waiter {
            Waiter::Spread { op, ask } => self.spread_own_full(now, op, ask, out),
            Waiter::Peer { to, call, trace, .. } => {
                let answer = WriteAnswer::Refused(Refusal::HintsFull);
                answer_write(to, call, trace, id.partition, answer, out);
            }
            // Nobody else waits for a hint.
            Waiter::None
            | Waiter::Rebuilt
            | Waiter::Batch(_)
            | Waiter::Whole(_)
            | Waiter::Left(_)
            | Waiter::Delivered(_)
            | Waiter::Round(..) => {}
        }
    }

    /// A peer wants a hint kept for a node that is no member.
    pub(super) fn hint_unknown(&mut self, from: NodeId, target: &NodeName, out: &mut Vec<Effect>) {
        self.stats.hints_unknown += 1;
        if self.hints.misled_by.len() < MISLED_BY_MAX && self.hints.misled_by.insert(from) {
            let name = self.view.as_ref().and_then(|view| view.name_of(from).cloned());
            out.push(Effect::Event(Event::HintUnknown { from, name, target: target.clone() }));
        }
    }

    /// Whether hints wait here for a node.
    pub(super) fn keeps_hints_for(&self, node: NodeId) -> bool {
        let target = self.view.as_ref().and_then(|view| view.name_of(node));
        target.is_some_and(|target| self.hints.any_for(target))
    }

    /// Counts a change of a hint from `before` bytes to `after`.
    pub(super) fn count_hint(&mut self, now: Now, cell: &CellId, change: HintChange) {
        let Some(target) = &cell.hint_for else { return };
        self.hints.count(target, change.before, change.after);
        if self.hints.total().bytes < self.config.tuning.hint_bytes_max / 2 {
            self.hints.full = false;
        }
        if change.after.is_some() {
            self.stats.hints_written += 1;
            self.hints.written += 1;
            self.replay_soon(now, target);
        }
    }

    /// The commit of a change was refused.
    pub(super) fn uncount_hint(&mut self, now: Now, cell: &CellId, change: HintChange) {
        let Some(target) = &cell.hint_for else { return };
        self.hints.count(target, change.after, change.before);
        self.hints.doubted.insert(target.clone());
        self.replay_soon(now, target);
    }

    /// Whether it makes sense to replay what is kept for a target: it can be reached, or others are
    /// to have it.
    fn may_replay(&self, target: &NodeName) -> bool {
        let Some(view) = &self.view else { return false };
        let node = view.ids.get(target);
        let goes_elsewhere = view.versions_of(target).is_empty() || view.is_removed(target);
        node.is_some_and(|&node| self.peers.reachable(node))
            || self.change.wants_hints(target)
            || goes_elsewhere
    }

    /// Sees to it that a replay to a target comes, if that makes sense.
    pub(super) fn replay_soon(&mut self, now: Now, target: &NodeName) {
        if !self.may_replay(target) {
            return;
        }
        if !self.hints.replays.contains_key(target) {
            let node = self.view.as_ref().and_then(|view| view.ids.get(target).copied());
            self.hints.replays.insert(target.clone(), Replay::waiting(node));
            self.arm(now.mono.after_millis(RETRY_MS), Timer::Replay(target.clone()));
        }
    }

    /// A target is another disk now: what is kept for it goes there.
    pub(super) fn replay_anew(&mut self, now: Now, target: &NodeName) {
        self.hints.deliveries.retain(|_, delivery| delivery.target != *target);
        self.hints.replays.remove(target);
        if self.hints.any_for(target) {
            self.replay_soon(now, target);
        }
    }

    /// A peer can be reached: what is kept for it is replayed now.
    pub(super) fn replay_to(&mut self, node: NodeId, out: &mut Vec<Effect>) {
        let target = self.view.as_ref().and_then(|view| view.name_of(node).cloned());
        let Some(target) = target.filter(|target| self.hints.any_for(target)) else { return };
        let waiting = |replay: &Replay| replay.state == State::Waiting;
        if self.hints.replays.get(&target).is_none_or(waiting) {
            self.hints.replays.insert(target.clone(), Replay::waiting(Some(node)));
            out.push(Effect::Event(Event::ReplayStarted(node)));
            self.replay_due(&target, out);
        }
    }

    /// The time for a replay has come: reads its first page.
    pub(super) fn replay_due(&mut self, target: &NodeName, out: &mut Vec<Effect>) {
        let any = self.hints.any_for(target) || self.change.wants_hints(target);
        let amid = self.any_hint_in_use(target);
        let may = self.may_replay(target);
        let transfer = self.change.transfer();
        let Some(replay) = self.hints.replays.get_mut(target) else { return };
        if replay.state != State::Waiting {
            return;
        }
        if !any || !may {
            self.hints.replays.remove(target);
            return;
        }
        replay.transfer = transfer;
        replay.missed = 0;
        replay.cursor = Bytes::new();
        replay.seen = 0;
        replay.begun_at = self.hints.written;
        replay.begun_amid = amid;
        self.replay_scan(target, out);
    }

    fn replay_scan(&mut self, target: &NodeName, out: &mut Vec<Effect>) {
        let token = self.next_token();
        let Some(replay) = self.hints.replays.get_mut(target) else { return };
        replay.state = State::Scanning;
        let mut prefix = BytesMut::new();
        put_hint_prefix(&mut prefix, target);
        let (prefix, after) = (prefix.freeze(), replay.cursor.clone());
        self.reads.insert(token, Reading::Replay(target.clone()));
        out.push(Effect::Scan { token, space: Space::Hints, prefix, after, bytes_max: PAGE_BYTES });
    }

    pub(super) fn replay_scanned(
        &mut self,
        now: Now,
        target: &NodeName,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let may = self.may_replay(target);
        let Some(replay) = self.hints.replays.get_mut(target) else { return };
        let page = result.ok().filter(|_| may);
        let Some(page) = page else {
            return self.replay_later(now, target);
        };
        replay.state = State::Sending;
        replay.last_page = page.done;
        if let Some((key, _)) = page.entries.last() {
            replay.cursor = key.clone();
        }
        for (key, stored) in page.entries {
            let Some(id) = CellId::from_hint_key(&key) else { continue };
            if id.partition.worker(self.config.workers) != self.config.index {
                continue;
            }
            if let Some(replay) = self.hints.replays.get_mut(target) {
                replay.seen += 1;
            }
            if open_stored(&id, stored.clone()).is_err() {
                self.record_lost(now, &id, out);
            } else if let (Ok(sealed), Some(replay)) =
                (Sealed::from_stored(stored), self.hints.replays.get_mut(target))
            {
                replay.page.push_back((id, sealed));
            }
        }
        self.replay_more(now, target, out);
    }

    /// Those who are to have a hint: its target, or all homes in all live versions. None where a
    /// disk is not known.
    fn destinations(&mut self, cell: &CellId) -> Vec<Option<NodeId>> {
        let Some(route) = self.route(cell.partition) else { return vec![None] };
        let target = route.targets.iter().find(|home| Some(&home.name) == cell.hint_for.as_ref());
        match target {
            Some(target) if is_unmoved(&route) && !target.removed => vec![target.node],
            _ => {
                let homes = route.targets.iter().filter(|home| !home.removed);
                homes.map(|home| home.node).collect()
            }
        }
    }

    /// Sends as many hints as the window allows; goes on to the next page, or ends.
    fn replay_more(&mut self, now: Now, target: &NodeName, out: &mut Vec<Effect>) {
        let window = self.config.tuning.replay_window;
        loop {
            let Some(replay) = self.hints.replays.get_mut(target) else { return };
            if replay.state != State::Sending || replay.is_sending || replay.in_flight >= window {
                return;
            }
            let Some((cell, record)) = replay.page.pop_front() else { break };
            replay.is_sending = true;
            self.deliver(now, target, cell, record, out);
            if let Some(replay) = self.hints.replays.get_mut(target) {
                replay.is_sending = false;
            }
        }
        let Some(replay) = self.hints.replays.get(target) else { return };
        if replay.in_flight > 0 {
            return;
        }
        if !replay.last_page {
            return self.replay_scan(target, out);
        }
        self.replay_passed(now, target, out);
    }

    /// Sends a hint to all who are to have it and can be asked.
    fn deliver(
        &mut self,
        now: Now,
        target: &NodeName,
        cell: CellId,
        record: Sealed,
        out: &mut Vec<Effect>,
    ) {
        let destinations = self.destinations(&cell);
        let me = self.view.as_ref().map(|view| view.me);
        let asked = destinations.iter().copied().flatten();
        let asked = asked.filter(|&node| Some(node) == me || self.peers.reachable(node));
        let asked: Vec<NodeId> = asked.collect();
        let (hash, failed) = (record.hash(), asked.len() < destinations.len());
        if asked.is_empty() {
            return self.hint_missed(&cell, target);
        }
        self.hints.last_delivery += 1;
        let id = DeliveryId(self.hints.last_delivery);
        if let Some(replay) = self.hints.replays.get_mut(target) {
            replay.in_flight += 1;
        }
        let (partition, round) = (cell.partition, self.round_read(cell.partition, true));
        if self.has(Defect::DropHintBeforeAck) {
            self.with_view(now, cell.clone(), Task::DropHint(hash), out);
        }
        let key = cell.key.clone();
        let target = target.clone();
        let delivery = Delivery { cell, target, hash, left: asked.len(), failed };
        self.hints.deliveries.insert(id, delivery);
        for node in asked {
            let (key, record) = (key.clone(), record.clone());
            if Some(node) == me {
                self.deliver_here(now, id, partition, &key, &record, round, out);
                continue;
            }
            let hint_for = None;
            let message =
                |call| DataMessage::Write(WriteRequest { call, key, record, hint_for, round });
            let purpose = Purpose::Replay { delivery: id };
            self.call(now, node, purpose, partition, None, message, out);
        }
    }

    /// This node has become a home of what it keeps a hint of.
    fn deliver_here(
        &mut self,
        now: Now,
        id: DeliveryId,
        partition: Partition,
        key: &Key,
        record: &Sealed,
        round: RoundNumber,
        out: &mut Vec<Effect>,
    ) {
        let Ok(record) = record.open(partition, key) else {
            return self.delivery_told(now, id, false, out);
        };
        let incoming = Incoming { round, ..Incoming::from(record) };
        let task = Task::Merge(incoming, Waiter::Delivered(id));
        self.with_view(now, CellId::own(partition, key), task, out);
    }

    /// A hint has not reached all who are to have it.
    fn hint_missed(&mut self, cell: &CellId, target: &NodeName) {
        let moving = self.is_hint_moving(cell.partition, target);
        if let Some(replay) = self.hints.replays.get_mut(target) {
            replay.missed += u64::from(moving);
        }
    }

    /// A pass over all that is kept for a target is over.
    fn replay_passed(&mut self, now: Now, target: &NodeName, out: &mut Vec<Effect>) {
        let Some(replay) = self.hints.replays.get(target) else { return };
        if let Some(transfer) = replay.transfer.filter(|_| replay.missed == 0) {
            self.change.hints_brought(transfer, target);
        }
        // Whether hints are left is read from the store and the view of it, not from a counter.
        let (node, delivered) = (replay.node, replay.delivered);
        let missed = replay.begun_amid || self.hints.written != replay.begun_at;
        if replay.seen == 0 && !missed && !self.any_hint_in_use(target) {
            self.hints.held.remove(target);
            self.hints.doubted.remove(target);
        }
        if self.hints.any_for(target) {
            return self.replay_later(now, target);
        }
        self.hints.replays.remove(target);
        if let Some(node) = node {
            out.push(Effect::Event(Event::ReplayDone(node, delivered)));
        }
    }

    /// Everyone for whom hints are or may be held.
    pub(super) fn hint_targets(&self) -> BTreeSet<NodeName> {
        self.hints.held.keys().chain(&self.hints.doubted).cloned().collect()
    }

    /// Whether hints of a partition are in memory, on their way from the store to their target.
    pub(super) fn is_replaying(&self, partition: Partition) -> bool {
        self.hints.replays.values().any(|replay| {
            replay.state == State::Scanning
                || replay.page.iter().any(|(cell, _)| cell.partition == partition)
        })
    }

    /// Whether a hint for a target is being read or committed.
    fn any_hint_in_use(&self, target: &NodeName) -> bool {
        self.cells.keys().any(|id| id.hint_for.as_ref() == Some(target))
    }

    fn replay_later(&mut self, now: Now, target: &NodeName) {
        let Some(replay) = self.hints.replays.get_mut(target) else { return };
        replay.state = State::Waiting;
        replay.page.clear();
        self.arm(now.mono.after_millis(RETRY_MS), Timer::Replay(target.clone()));
    }

    /// One of those who are to have a hint has answered.
    pub(super) fn replay_answered(
        &mut self,
        now: Now,
        id: DeliveryId,
        answer: WriteAnswer,
        out: &mut Vec<Effect>,
    ) {
        let sent = self.hints.deliveries.get(&id).map(|delivery| delivery.hash);
        let stored = matches!(answer, WriteAnswer::Stored(hash) if Some(hash) == sent);
        self.delivery_told(now, id, stored, out);
    }

    /// One of those who are to have a hint cannot be reached, or was silent: the hint stays and is
    /// tried again.
    pub(super) fn replay_failed(&mut self, now: Now, id: DeliveryId, out: &mut Vec<Effect>) {
        let target = self.hints.deliveries.get(&id).map(|delivery| delivery.target.clone());
        if let Some(target) = target.filter(|target| !self.may_replay(target))
            && let Some(replay) = self.hints.replays.get_mut(&target)
        {
            replay.page.clear();
            replay.last_page = true;
            replay.missed += 1;
        }
        self.delivery_told(now, id, false, out);
    }

    /// One of those who are to have a hint has it, or has not taken it.
    pub(super) fn delivery_told(
        &mut self,
        now: Now,
        id: DeliveryId,
        stored: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(delivery) = self.hints.deliveries.get_mut(&id) else { return };
        delivery.left -= 1;
        delivery.failed |= !stored;
        if delivery.left > 0 {
            return;
        }
        let Some(delivery) = self.hints.deliveries.remove(&id) else { return };
        let Delivery { cell, target, hash, failed, .. } = delivery;
        if failed {
            self.hint_missed(&cell, &target);
        }
        if let Some(replay) = self.hints.replays.get_mut(&target) {
            replay.in_flight = replay.in_flight.saturating_sub(1);
            replay.delivered += u64::from(!failed);
        }
        if !failed {
            self.with_view(now, cell, Task::DropHint(hash), out);
        }
        self.replay_more(now, &target, out);
    }

    /// At the start, before anything is served: counts what the store holds for others. Begins anew when
    /// a later step of the start could not read.
    pub(super) fn start_counting_hints(&mut self, out: &mut Vec<Effect>) {
        self.hints.held.clear();
        self.count_hints_behind(Bytes::new(), out);
    }

    fn count_hints_behind(&mut self, after: Bytes, out: &mut Vec<Effect>) {
        let token = self.next_token();
        self.reads.insert(token, Reading::CountHints);
        let (space, prefix) = (Space::Hints, Bytes::new());
        out.push(Effect::Scan { token, space, prefix, after, bytes_max: PAGE_BYTES });
    }

    pub(super) fn hints_counted(
        &mut self,
        now: Now,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Ok(page) = result else {
            // A store that cannot be read cannot be served from: count again, from the start.
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::Arrive);
        };
        for (key, stored) in &page.entries {
            let Some(id) = CellId::from_hint_key(key) else { continue };
            if let Some(target) = &id.hint_for
                && id.partition.worker(self.config.workers) == self.config.index
            {
                self.hints.count(target, None, Some(stored.len() as u64));
            }
        }
        match page.entries.last() {
            Some((key, _)) if !page.done => self.count_hints_behind(key.clone(), out),
            _ => self.start_reading_markers(out),
        }
    }

    /// The worker begins to serve: replays to whoever can be reached.
    pub(super) fn replay_to_all(&mut self, now: Now) {
        for target in self.hint_targets() {
            self.replay_soon(now, &target);
        }
    }
}

impl Replay {
    fn waiting(node: Option<NodeId>) -> Self {
        Self {
            node,
            cursor: Bytes::new(),
            page: VecDeque::new(),
            last_page: false,
            seen: 0,
            begun_at: 0,
            begun_amid: false,
            transfer: None,
            missed: 0,
            in_flight: 0,
            delivered: 0,
            is_sending: false,
            state: State::Waiting,
        }
    }
}
