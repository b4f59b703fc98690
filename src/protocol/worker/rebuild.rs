//! Rebuilding what this disk lost: one key at a time.
//!
//! A record that does not pass its checksum is *lost here*. It is never served, the tenure over
//! its partition ends, and its key is durably marked until the copies of all other homes have
//! been merged: until then this node takes writes of the key, but no answer of it counts toward R.
//!
//! Another home may have lost its own copy of the key. It tells all the same what it holds, and
//! each of the two is done when it has merged all others: neither waits for the other to be whole.

use bytes::{BufMut, Bytes, BytesMut};

use super::cells::{CellId, Incoming, Task, Waiter};
use super::timers::Timer;
use super::{Op, OpKey, Purpose, Reading, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::message::{DataMessage, SyncAnswer, SyncAsk};
use crate::protocol::record::Record;
use crate::protocol::step::{Effect, Event, Page, ReadFailed};
use crate::types::{Key, NodeId, Now, Partition, RoundNumber};

/// Keys of `Space::Meta` under which lost records are marked: `prefix ‖ partition ‖ key`.
const MARKER_PREFIX: &[u8] = b"rebuilding/";
/// How long to wait before homes that did not answer are asked again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The rebuilding of one key: every other home is asked for all that it holds.
#[derive(Debug)]
pub(super) struct RebuildOp {
    pub partition: Partition,
    key: Key,
    /// Homes that have not answered yet.
    missing: usize,
    failed: bool,
    merged: Record,
    /// The lowest round that any of it is of.
    round: RoundNumber,
}

pub(super) fn marker(partition: Partition, key: &Key) -> Bytes {
    let mut out = BytesMut::with_capacity(MARKER_PREFIX.len() + 2 + key.bytes().len());
    out.put_slice(MARKER_PREFIX);
    out.put_u16(partition.0);
    out.put_slice(key.bytes());
    out.freeze()
}

fn from_marker(marker: &Bytes) -> Option<(Partition, Key)> {
    let rest = marker.strip_prefix(MARKER_PREFIX)?;
    let partition = Partition(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
    let key = Key::new(marker.slice(MARKER_PREFIX.len() + 2..)).ok()?;
    Some((partition, key))
}

impl Worker {
    /// Whether this node's copy of a key is not whole.
    pub(super) fn is_rebuilding(&self, partition: Partition, key: &Key) -> bool {
        let whole = !self.is_lost(partition)
            && !self.is_record_lost(partition, key)
            && !self.collect.is_moving(partition);
        !whole && !self.has(Defect::CountRebuilding)
    }

    /// Whether any copy of a partition is not whole.
    pub(super) fn is_any_rebuilding(&self, partition: Partition) -> bool {
        self.is_lost(partition)
            || self.collect.is_moving(partition)
            || self.rebuilding.iter().any(|(lost, _)| *lost == partition)
    }

    fn is_record_lost(&self, partition: Partition, key: &Key) -> bool {
        !self.rebuilding.is_empty() && self.rebuilding.contains(&(partition, key.clone()))
    }

    /// What is stored in a cell is damaged.
    pub(super) fn record_lost(&mut self, now: Now, id: &CellId, out: &mut Vec<Effect>) {
        let (partition, key) = (id.partition, id.key.clone());
        if id.hint_for.is_some() {
            // Looked at again as a cell, where it can be told apart from what is queued over it.
            let nothing = Task::Merge(Record::default().into(), Waiter::None);
            return self.with_view(now, id.clone(), nothing, out);
        }
        self.recent.forget(&key);
        if !self.rebuilding.insert((partition, key.clone())) {
            return;
        }
        self.stats.records_lost += 1;
        out.push(Effect::Event(Event::RecordLost(partition, key.clone())));
        if !self.has(Defect::KeepActorAfterLoss) {
            self.end_tenure(partition, "a record is damaged", out);
        }
        self.commit_meta(marker(partition, &key), Some(Bytes::from_static(&[1])), out);
        self.start_rebuild(now, partition, &key, out);
    }

    /// Asks every other home for all that it holds of a key.
    pub(super) fn start_rebuild(
        &mut self,
        now: Now,
        partition: Partition,
        key: &Key,
        out: &mut Vec<Effect>,
    ) {
        if !self.is_record_lost(partition, key) {
            return;
        }
        let Some(route) = self.route(partition) else {
            let timer = Timer::Rebuild(partition, key.clone());
            return self.arm(now.mono.after_millis(RETRY_MS), timer);
        };
        if route.own_target.is_none() {
            return self.rebuild_elsewhere(partition, key, out);
        }
        let others: Vec<Option<NodeId>> = route.others().collect();
        let op = self.next_op();
        let state = RebuildOp {
            partition,
            key: key.clone(),
            missing: others.len(),
            failed: false,
            merged: Record::default(),
            round: RoundNumber::MAX,
        };
        self.ops.insert(op, Op::Rebuild(Box::new(state)));
        for node in others.iter().copied() {
            let Some(node) = node else {
                self.rebuild_failed(now, op, out);
                continue;
            };
            let key = key.clone();
            let purpose = Purpose::Rebuild { op };
            let message = |call| DataMessage::Sync(call, SyncAsk::Key(key));
            self.call(now, node, purpose, partition, None, message, out);
        }
        if others.is_empty() {
            // The only home: what is lost is lost.
            self.rebuild_over(now, op, out);
        }
    }

    /// Of a partition that has no home here any more, nothing can be missing.
    fn rebuild_elsewhere(&mut self, partition: Partition, key: &Key, out: &mut Vec<Effect>) {
        if self.rebuilding.remove(&(partition, key.clone())) {
            self.commit_meta(marker(partition, key), None, out);
        }
    }

    pub(super) fn rebuild_answered(
        &mut self,
        now: Now,
        op: OpKey,
        answer: SyncAnswer,
        out: &mut Vec<Effect>,
    ) {
        let Some(Op::Rebuild(rebuild)) = self.ops.get(&op) else { return };
        let (partition, key) = (rebuild.partition, rebuild.key.clone());
        let answer = match answer {
            // What was lost here is no longer there to outlive what an older answer brings back.
            SyncAnswer::Key(round, _) if round < self.collect.floor_of_rebuilding(partition) => {
                self.want_round(now, partition, out);
                None
            }
            SyncAnswer::Key(round, Some(sealed)) => {
                sealed.open(partition, &key).ok().map(|record| (round, record))
            }
            SyncAnswer::Key(round, None) => Some((round, Record::default())),
            SyncAnswer::Equal
            | SyncAnswer::Roots(_)
            | SyncAnswer::Leaves(_)
            | SyncAnswer::Page(_)
            | SyncAnswer::Stored
            | SyncAnswer::NotNow
            | SyncAnswer::NotMine => None,
        };
        let Some((round, record)) = answer else { return self.rebuild_failed(now, op, out) };
        let Some(Op::Rebuild(rebuild)) = self.ops.get_mut(&op) else { return };
        rebuild.merged = rebuild.merged.merge(&record);
        rebuild.round = round.min(rebuild.round);
        rebuild.missing -= 1;
        self.rebuild_moved(now, op, out);
    }

    pub(super) fn rebuild_failed(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Rebuild(rebuild)) = self.ops.get_mut(&op) else { return };
        rebuild.failed = true;
        rebuild.missing -= 1;
        self.rebuild_moved(now, op, out);
    }

    fn rebuild_moved(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        if let Some(Op::Rebuild(rebuild)) = self.ops.get(&op)
            && rebuild.missing == 0
        {
            self.rebuild_over(now, op, out);
        }
    }

    /// All have answered, or will not: keeps what was learnt; asks again if some were silent.
    fn rebuild_over(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Rebuild(rebuild)) = self.ops.remove(&op) else { return };
        let RebuildOp { partition, key, failed, merged, round, .. } = *rebuild;
        let waiter = if failed { Waiter::None } else { Waiter::Rebuilt };
        if failed {
            let timer = Timer::Rebuild(partition, key.clone());
            self.arm(now.mono.after_millis(RETRY_MS), timer);
        }
        let incoming = Incoming { round, ..Incoming::from(merged) };
        self.with_view(now, CellId::own(partition, &key), Task::Merge(incoming, waiter), out);
    }

    /// What the other homes hold could not be kept: they are asked again.
    pub(super) fn rebuild_later(&mut self, now: Now, id: &CellId) {
        let timer = Timer::Rebuild(id.partition, id.key.clone());
        self.arm(now.mono.after_millis(RETRY_MS), timer);
    }

    /// What all other homes hold is merged and durable: the copy is whole again.
    pub(super) fn record_rebuilt(&mut self, id: &CellId, out: &mut Vec<Effect>) {
        if self.rebuilding.remove(&(id.partition, id.key.clone())) {
            self.commit_meta(marker(id.partition, &id.key), None, out);
            let event = Event::RecordRebuilt(id.partition, id.key.clone());
            out.push(Effect::Event(event));
        }
    }

    /// At the start, before anything is served: learns which copies are not whole.
    pub(super) fn start_reading_markers(&mut self, out: &mut Vec<Effect>) {
        self.scan_meta(MARKER_PREFIX, Bytes::new(), Reading::Markers, out);
    }

    pub(super) fn markers_read(
        &mut self,
        now: Now,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Ok(page) = result else {
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::Arrive);
        };
        let lost = page.entries.iter().filter_map(|(key, _)| from_marker(key));
        let mine = lost.filter(|(p, _)| p.worker(self.config.workers) == self.config.index);
        self.rebuilding.extend(mine);
        if self.is_last_page(MARKER_PREFIX, &page, Reading::Markers, out) {
            self.start_reading_rounds(out);
        }
    }
}
