//! Hints: records kept for a home that could not take them, and their replay.
//!
//! A hint is merged with the hint of the same key for the same home, so they are bounded by
//! distinct keys. They are counted at the start from the store itself, replayed whenever their
//! target can be reached, and retried for ever.
//!
//! A hint is deleted only after its *target* has acknowledged it, and only if the hint in the
//! worker's view is still the one that was acknowledged: it may have grown meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};

use super::cells::{CellId, Incoming, Task, Waiter, open_stored, put_hint_prefix};
use super::replica::answer_write;
use super::timers::Timer;
use super::{Purpose, Reading, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::message::{DataMessage, Refusal, WriteAnswer, WriteRequest};
use crate::protocol::record::{Record, Sealed};
use crate::protocol::step::{Effect, Event, Page, ReadFailed, Space};
use crate::types::{NodeId, NodeName, Now, Partition};

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
}

/// The replay to one target: under way, or waiting for its next turn.
#[derive(Debug)]
struct Replay {
    node: NodeId,
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
    in_flight: usize,
    delivered: u64,
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

    /// Sees to it that a replay to a target comes, if it can be reached.
    fn replay_soon(&mut self, now: Now, target: &NodeName) {
        let node = self.view.as_ref().and_then(|view| view.ids.get(target).copied());
        let Some(node) = node.filter(|&node| self.peers.reachable(node)) else { return };
        if !self.hints.replays.contains_key(target) {
            self.hints.replays.insert(target.clone(), Replay::waiting(node));
            self.arm(now.mono.after_millis(RETRY_MS), Timer::Replay(target.clone()));
        }
    }

    /// A target is another disk now: what is kept for it goes there.
    pub(super) fn replay_anew(&mut self, now: Now, target: &NodeName) {
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
            self.hints.replays.insert(target.clone(), Replay::waiting(node));
            out.push(Effect::Event(Event::ReplayStarted(node)));
            self.replay_due(&target, out);
        }
    }

    /// The time for a replay has come: reads its first page.
    pub(super) fn replay_due(&mut self, target: &NodeName, out: &mut Vec<Effect>) {
        let any = self.hints.any_for(target);
        let amid = self.any_hint_in_use(target);
        let Some(replay) = self.hints.replays.get_mut(target) else { return };
        if replay.state != State::Waiting {
            return;
        }
        if !any || !self.peers.reachable(replay.node) {
            self.hints.replays.remove(target);
            return;
        }
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
        let Some(replay) = self.hints.replays.get_mut(target) else { return };
        let Ok(page) = result else {
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

    /// Sends as many hints as the window allows; goes on to the next page, or ends.
    fn replay_more(&mut self, now: Now, target: &NodeName, out: &mut Vec<Effect>) {
        loop {
            let window = self.config.tuning.replay_window;
            let Some(replay) = self.hints.replays.get_mut(target) else { return };
            if replay.state != State::Sending || replay.in_flight >= window {
                return;
            }
            let Some((cell, record)) = replay.page.pop_front() else { break };
            replay.in_flight += 1;
            let (node, partition, key) = (replay.node, cell.partition, cell.key.clone());
            let round = self.round_read(partition, true);
            if self.has(Defect::DropHintBeforeAck) {
                let hash = record.hash();
                self.with_view(now, cell.clone(), Task::DropHint(hash), out);
            }
            let hint_for = None;
            let message =
                |call| DataMessage::Write(WriteRequest { call, key, record, hint_for, round });
            self.call(now, node, Purpose::Replay { cell }, partition, None, message, out);
        }
        let Some(replay) = self.hints.replays.get(target) else { return };
        if replay.in_flight > 0 {
            return;
        }
        if !replay.last_page {
            return self.replay_scan(target, out);
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
        out.push(Effect::Event(Event::ReplayDone(node, delivered)));
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

    /// The target has answered.
    pub(super) fn replay_answered(
        &mut self,
        now: Now,
        cell: CellId,
        answer: WriteAnswer,
        out: &mut Vec<Effect>,
    ) {
        let Some(target) = cell.hint_for.clone() else { return };
        if let Some(replay) = self.hints.replays.get_mut(&target) {
            replay.in_flight = replay.in_flight.saturating_sub(1);
            replay.delivered += u64::from(matches!(answer, WriteAnswer::Stored(_)));
        }
        if let WriteAnswer::Stored(hash) = answer {
            self.with_view(now, cell, Task::DropHint(hash), out);
        }
        self.replay_more(now, &target, out);
    }

    /// The target cannot be reached, or was silent: the hint stays and is tried again.
    pub(super) fn replay_failed(&mut self, now: Now, cell: &CellId, out: &mut Vec<Effect>) {
        let Some(target) = cell.hint_for.clone() else { return };
        let Some(replay) = self.hints.replays.get_mut(&target) else { return };
        replay.in_flight = replay.in_flight.saturating_sub(1);
        if !self.peers.reachable(replay.node) {
            replay.page.clear();
            replay.last_page = true;
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
        let targets: Vec<NodeName> = self.hints.held.keys().cloned().collect();
        for target in targets {
            self.replay_soon(now, &target);
        }
    }
}

impl Replay {
    fn waiting(node: NodeId) -> Self {
        Self {
            node,
            cursor: Bytes::new(),
            page: VecDeque::new(),
            last_page: false,
            seen: 0,
            begun_at: 0,
            begun_amid: false,
            in_flight: 0,
            delivered: 0,
            state: State::Waiting,
        }
    }
}
