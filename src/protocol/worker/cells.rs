//! The worker's view of what is stored: cells.
//!
//! A *cell* is a place in the store for one record: this node's own copy of a key, or the hint
//! that it keeps of the key for another home. The view of a cell is what is stored ∪ every merge
//! that has been queued and not yet committed. Writes are formed over the view, so that two
//! writes of one key never build on the same past; answers wait for the commit.
//!
//! ```text
//!              read             merge that changes          commits reported
//!   (absent) ────────▶ Reading ───────────────────▶ Held ─────────────────────▶ (absent)
//!              tasks queue up        tasks run at once      nothing outstanding
//! ```
//!
//! Invariants:
//!
//! - While a cell is `Reading`, nothing of it is queued for commit: what the read returns is
//!   the whole past.
//! - While a cell is `Held`, at least one commit of it is outstanding and `record` ⊇ stored.
//! - A task's waiter is told once: when what the task left in the view is durable, or when that
//!   was refused.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::Worker;
use super::collect::{Durable, LookId};
use super::hints::{DeliveryId, HintChange};
use super::recent::Since;
use super::replica::answer_write;
use super::sync::BatchId;
use super::trees::TreeChange;
use crate::protocol::defect::Defect;
use crate::protocol::message::{CallId, Refusal, WriteAnswer};
use crate::protocol::record::{Record, Sealed};
use crate::protocol::rounds::may_die;
use crate::protocol::step::{Change, CommitId, Effect, Event, ReadFailed, Space, Token};
use crate::types::{Key, NodeId, NodeName, Now, Partition, RecordHash, RoundNumber, TraceContext};

use super::OpKey;

/// A place for one record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct CellId {
    /// None: this node's own copy. Else the hint for this home.
    pub hint_for: Option<NodeName>,
    pub partition: Partition,
    pub key: Key,
}

/// What is known of a cell that is in use.
#[derive(Debug)]
pub(super) enum Cell {
    Reading {
        waiting: Vec<Task>,
    },
    Held {
        record: Arc<Record>,
        /// The hash of `record`, for the hash tree; none: of nothing, or of a hint.
        hash: Option<RecordHash>,
        outstanding: u32,
        /// The newest commit of it.
        last: CommitId,
    },
}

/// What is to be done with a cell once its view is known.
#[derive(Debug)]
pub(super) enum Task {
    /// Form the write of an op over it.
    Form(OpKey),
    /// Add what it holds to what a coordinator that is no home writes over.
    Consult(OpKey),
    /// Merge a record in.
    Merge(Incoming, Waiter),
    /// Forget the hint, if it is still the one with this hash.
    DropHint(RecordHash),
    /// Tell a look at some records of a partition whether this is durably the one with this hash.
    Look { look: LookId, at: usize, hash: RecordHash },
    /// Drop the own copy, if it is still the one with this hash: a round has closed over it.
    Cut(RecordHash),
}

/// A record to be merged, with its sealed form if that is at hand.
#[derive(Debug)]
pub(super) struct Incoming {
    pub record: Arc<Record>,
    pub sealed: Option<Sealed>,
    /// The lowest round that it was formed from; the last of all for what was formed here, over views
    /// that no round can close under it.
    pub round: RoundNumber,
}

/// Who is to be told that a task's result is durable.
#[derive(Debug)]
pub(super) enum Waiter {
    /// Nobody.
    None,
    /// A coordinating op, of its own copy or hint.
    Spread { op: OpKey, ask: usize },
    /// A peer that sent a record.
    Peer { to: NodeId, call: CallId, trace: Option<TraceContext>, hash: RecordHash },
    /// The rebuilding of this key.
    Rebuilt,
    /// Whoever merges many records together.
    Batch(BatchId),
    /// The end of this partition's rebuilding.
    Whole(Partition),
    /// A step of this partition's rounds.
    Round(Partition, Box<Durable>),
    /// A page of this partition, which was given up, is dropped.
    Left(Partition),
    /// A hint on its way to all homes, of which this node is one.
    Delivered(DeliveryId),
}

/// A commit on its way.
#[derive(Debug)]
pub(super) struct Pending {
    /// Where it writes; none for what is not a record.
    cell: Option<CellId>,
    /// What it leaves there.
    stored: Option<Bytes>,
    waiters: Vec<Waiter>,
    /// How the hint in it changes; to be taken back if the commit is refused.
    hint: HintChange,
    /// How it changes the partition's hash tree, once it is durable; none: not at all.
    tree: Option<TreeChange>,
}

impl From<Record> for Incoming {
    fn from(record: Record) -> Self {
        Self { record: Arc::new(record), sealed: None, round: RoundNumber::MAX }
    }
}

impl CellId {
    pub fn own(partition: Partition, key: &Key) -> Self {
        Self { hint_for: None, partition, key: key.clone() }
    }

    pub fn hint(target: &NodeName, partition: Partition, key: &Key) -> Self {
        Self { hint_for: Some(target.clone()), partition, key: key.clone() }
    }

    pub fn space(&self) -> Space {
        if self.hint_for.is_some() { Space::Hints } else { Space::Records }
    }

    pub fn store_key(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(72 + self.key.bytes().len());
        if let Some(target) = &self.hint_for {
            put_hint_prefix(&mut out, target);
        }
        out.put_u16(self.partition.0);
        out.put_slice(self.key.bytes());
        out.freeze()
    }

    /// Reads a key of [`Space::Hints`].
    pub fn from_hint_key(bytes: &Bytes) -> Option<Self> {
        let name_end = 1 + usize::from(*bytes.first()?);
        let name = std::str::from_utf8(bytes.get(1..name_end)?).ok()?;
        let partition = bytes.get(name_end..name_end + 2)?;
        Some(Self {
            hint_for: Some(NodeName::new(name).ok()?),
            partition: Partition(u16::from_be_bytes([partition[0], partition[1]])),
            key: Key::new(bytes.slice(name_end + 2..)).ok()?,
        })
    }
}

/// The prefix of all hints for a target.
pub(super) fn put_hint_prefix(out: &mut BytesMut, target: &NodeName) {
    #[expect(clippy::cast_possible_truncation, reason = "a name has at most 63 bytes")]
    out.put_u8(target.as_str().len() as u8);
    out.put_slice(target.as_str().as_bytes());
}

impl Worker {
    /// Runs `task` on the view of a cell, now or once the cell has been read.
    pub(super) fn with_view(&mut self, now: Now, id: CellId, task: Task, out: &mut Vec<Effect>) {
        match self.cells.get_mut(&id) {
            Some(Cell::Reading { waiting }) => waiting.push(task),
            Some(Cell::Held { .. }) => self.run_task(now, &id, task, out),
            None => {
                if id.hint_for.is_none()
                    && let Some(stored) = self.recent.get(&id.key)
                {
                    return self.show_view(now, &id, Some(stored), vec![task], out);
                }
                let (space, key) = (id.space(), id.store_key());
                self.cells.insert(id.clone(), Cell::Reading { waiting: vec![task] });
                let token = self.next_token();
                self.reads.insert(token, super::Reading::Cell(id));
                out.push(Effect::Read { token, space, key });
            }
        }
    }

    /// What is stored in a cell has been read: runs what has waited for it.
    pub(super) fn cell_read(
        &mut self,
        now: Now,
        id: &CellId,
        result: Result<Option<Bytes>, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Some(Cell::Reading { waiting }) = self.cells.get_mut(id) else { return };
        let waiting = std::mem::take(waiting);
        self.cells.remove(id);
        let Ok(stored) = result else {
            for task in waiting {
                self.task_failed(now, id, task, out);
            }
            return;
        };
        self.show_view(now, id, stored, waiting, out);
    }

    /// What is stored in a cell is known: runs `tasks` on it. The view stays if they change it.
    fn show_view(
        &mut self,
        now: Now,
        id: &CellId,
        stored: Option<Bytes>,
        tasks: Vec<Task>,
        out: &mut Vec<Effect>,
    ) {
        let own = stored.as_ref().filter(|_| id.hint_for.is_none());
        let hash = own.and_then(stored_hash);
        let opened = stored.map_or(Ok(Record::default()), |bytes| open_stored(id, bytes));
        let is_damaged = opened.is_err();
        let hash = hash.filter(|_| !is_damaged);
        let record = Arc::new(opened.unwrap_or_default());
        // No commit is outstanding yet: the zero marks a view that must not outlive the tasks.
        let view = Cell::Held { record, hash, outstanding: 0, last: CommitId(0) };
        self.cells.insert(id.clone(), view);
        // The view is there first: what follows from the damage may come back to this cell.
        if is_damaged && id.hint_for.is_some() {
            self.drop_damaged_hint(now, id, out);
        } else if is_damaged {
            self.drop_damaged_record(now, id, out);
            self.record_lost(now, id, out);
        }
        for task in tasks {
            self.run_task(now, id, task, out);
        }
        if let Some(Cell::Held { outstanding: 0, .. }) = self.cells.get(id) {
            self.cells.remove(id);
        }
    }

    fn run_task(&mut self, now: Now, id: &CellId, task: Task, out: &mut Vec<Effect>) {
        let Some(Cell::Held { record, .. }) = self.cells.get(id) else { return };
        let record = record.clone();
        match task {
            Task::Form(op) if self.is_put_stale(op, id.partition) => self.put_unreadable(op, out),
            Task::Form(op) if !self.is_home(id.partition) => self.put_homeless(op, out),
            Task::Form(op) => {
                self.form_put(now, op, &record, out);
            }
            Task::Consult(op) => {
                self.put_consulted(now, op, &record, out);
            }
            Task::Merge(incoming, waiter) => {
                let hint = id.hint_for.is_some();
                let homeless = !hint && !self.is_home(id.partition);
                if homeless || !self.takes(id.partition, &id.key, hint, incoming.round) {
                    return self.tell(now, waiter, Some(id), false, out);
                }
                let round = incoming.round;
                if !hint && record.is_empty() && self.is_gone(id, &incoming) {
                    return self.leave(now, id, Record::default().into(), waiter, out);
                }
                let merged = if incoming.record.contains(&record) {
                    incoming
                } else {
                    record.merge(&incoming.record).into()
                };
                if self.heeds_brought(id.partition) && *merged.record != *record {
                    self.brought_of(id.partition, round);
                }
                if id.hint_for.is_some() && !self.hint_fits(id, &record, &merged) {
                    return self.refuse_hint(now, id, waiter, out);
                }
                if id.hint_for.is_none() {
                    let (ours, theirs) = (record.seen(), merged.record.seen());
                    self.heed_own_actor(id.partition, ours, theirs, out);
                }
                self.leave(now, id, merged, waiter, out);
            }
            Task::DropHint(hash) => {
                let current = record.seal(id.partition, &id.key).hash();
                let unchanged = current == hash || self.has(Defect::DeleteChangedHint);
                if unchanged && !record.is_empty() {
                    self.stats.hints_replayed += 1;
                    self.leave(now, id, Record::default().into(), Waiter::None, out);
                }
            }
            Task::Look { look, at, hash } => {
                let durable = self.is_durable(id);
                let dead = self.holds_dead(now, id, &record, hash);
                self.looked(now, look, at, durable && dead, out);
            }
            Task::Cut(hash) => self.cut(now, id, &record, hash, out),
        }
    }

    fn task_failed(&mut self, now: Now, id: &CellId, task: Task, out: &mut Vec<Effect>) {
        match task {
            Task::Form(op) => self.put_unreadable(op, out),
            Task::Consult(op) => self.put_consulted(now, op, &Record::default(), out),
            Task::Merge(_, waiter) => self.tell(now, waiter, Some(id), false, out),
            Task::DropHint(_) => {}
            Task::Look { look, at, .. } => self.looked(now, look, at, false, out),
            Task::Cut(_) => self.cut_failed(id.partition, out),
        }
    }

    /// Leaves `record` in a cell and tells `waiter` when it is durable there.
    ///
    /// What changes nothing is acknowledged only once what it equals is durable.
    pub(super) fn leave(
        &mut self,
        now: Now,
        id: &CellId,
        new: Incoming,
        waiter: Waiter,
        out: &mut Vec<Effect>,
    ) {
        let Incoming { record, sealed, .. } = new;
        let early = self.has(Defect::AckEqualMergeEarly);
        let Some(Cell::Held { record: held, hash, outstanding, last }) = self.cells.get_mut(id)
        else {
            unreachable!("a cell is read before it is changed: {id:?}");
        };
        if *held == record {
            if *outstanding == 0 || early {
                self.tell(now, waiter, Some(id), true, out);
            } else if let Some(pending) = self.commits.get_mut(last) {
                pending.waiters.push(waiter);
            }
            return;
        }
        let is_hint = id.hint_for.is_some();
        let size = |sealed: &Sealed| Some(sealed.stored().len() as u64);
        let before = (is_hint && !held.is_empty()).then(|| held.seal(id.partition, &id.key));
        if !is_hint && may_die(&record) {
            self.collect.suspect(id.partition);
        }
        *held = record;
        *outstanding += 1;
        self.last_commit.0 += 1;
        *last = self.last_commit;
        let sealed = sealed.unwrap_or_else(|| held.seal(id.partition, &id.key));
        let value = (!held.is_empty()).then(|| sealed.stored().clone());
        let stored = value.clone();
        let after = value.is_some().then_some(&sealed);
        let hint =
            HintChange { before: before.as_ref().and_then(size), after: after.and_then(size) };
        let hash_after = after.filter(|_| !is_hint).map(Sealed::hash);
        let hash_before = std::mem::replace(hash, hash_after);
        self.count_hint(now, id, hint);
        let mut changes = vec![Change { space: id.space(), key: id.store_key(), value }];
        let tree =
            (!is_hint).then(|| self.tree_write(now, id, hash_before, hash_after, &mut changes));
        self.note_written(id.partition);
        changes.extend(self.brought_to_keep(id.partition));
        let waiters = self.acknowledge_early(now, id, waiter, out);
        let pending = Pending { cell: Some(id.clone()), stored, waiters, hint, tree };
        self.commits.insert(self.last_commit, pending);
        self.push_commit(changes, out);
    }

    /// The waiters of a new commit: `waiter`, unless a seeded defect answers it too early.
    fn acknowledge_early(
        &mut self,
        now: Now,
        id: &CellId,
        waiter: Waiter,
        out: &mut Vec<Effect>,
    ) -> Vec<Waiter> {
        if self.has(Defect::AckBeforeFsync) {
            self.tell(now, waiter, Some(id), true, out);
            return vec![];
        }
        vec![waiter]
    }

    /// Commits a change that is not of a record; nobody waits for it.
    pub(super) fn commit_meta(&mut self, key: Bytes, value: Option<Bytes>, out: &mut Vec<Effect>) {
        self.commit_all_meta(vec![Change { space: Space::Meta, key, value }], out);
    }

    /// Commits changes of [`Space::Meta`], whole or not at all; nobody waits for them.
    pub(super) fn commit_all_meta(&mut self, changes: Vec<Change>, out: &mut Vec<Effect>) {
        self.commit_unawaited(None, changes, None, out);
    }

    /// A hint does not pass its checksum: it is of no use to its target. The homes that did take
    /// the write are what is left of it. Nothing of the cell is queued, so nothing newer goes.
    fn drop_damaged_hint(&mut self, now: Now, id: &CellId, out: &mut Vec<Effect>) {
        self.stats.records_lost += 1;
        out.push(Effect::Event(Event::RecordLost(id.partition, id.key.clone())));
        // How large it was is not known any more: that is counted anew before its target's next replay.
        self.uncount_hint(now, id, HintChange { before: None, after: Some(0) });
        let change = Change { space: Space::Hints, key: id.store_key(), value: None };
        self.commit_unawaited(None, vec![change], None, out);
    }

    /// The own copy does not pass its checksum: what is left of it must not be met again if the
    /// other homes have nothing to put in its place. Nothing of the cell is queued before this.
    fn drop_damaged_record(&mut self, now: Now, id: &CellId, out: &mut Vec<Effect>) {
        let mut changes = vec![Change { space: Space::Records, key: id.store_key(), value: None }];
        // What the record was when it was counted is not known any more.
        self.doubt_tree(now, id.partition);
        let tree = self.tree_write(now, id, None, None, &mut changes);
        self.commit_unawaited(Some(id.clone()), changes, Some(tree), out);
        if let Some(Cell::Held { outstanding, last, .. }) = self.cells.get_mut(id) {
            *outstanding += 1;
            *last = self.last_commit;
        }
    }

    /// Commits changes, which leave nothing in this cell if in any; nobody waits for it yet.
    fn commit_unawaited(
        &mut self,
        cell: Option<CellId>,
        changes: Vec<Change>,
        tree: Option<TreeChange>,
        out: &mut Vec<Effect>,
    ) {
        let hint = HintChange::default();
        self.queue_commit(
            Pending { cell, stored: None, waiters: vec![], hint, tree },
            changes,
            out,
        );
    }

    fn queue_commit(&mut self, pending: Pending, changes: Vec<Change>, out: &mut Vec<Effect>) {
        self.last_commit.0 += 1;
        self.commits.insert(self.last_commit, pending);
        self.push_commit(changes, out);
    }

    /// What the commits that are under way of a partition's records are based on: the first of
    /// each key, in order.
    pub(super) fn based_on(&self, partition: Partition) -> Vec<(Key, Option<RecordHash>)> {
        let of = |pending: &Pending| {
            let cell = pending.cell.as_ref().filter(|cell| cell.partition == partition)?;
            Some((cell.key.clone(), pending.tree?.before))
        };
        self.commits.values().filter_map(of).collect()
    }

    fn push_commit(&mut self, changes: Vec<Change>, out: &mut Vec<Effect>) {
        let clock = self.clock.last();
        out.push(Effect::Commit { id: self.last_commit, changes, clock });
    }

    /// Every commit up to `through` is durable: tells those who waited, in order.
    pub(super) fn committed(&mut self, now: Now, through: CommitId, out: &mut Vec<Effect>) {
        while let Some(entry) = self.commits.first_entry() {
            if *entry.key() > through {
                break;
            }
            let pending = entry.remove();
            self.release(pending.cell.as_ref());
            self.keep_committed(&pending);
            if let (Some(cell), Some(change)) = (&pending.cell, pending.tree) {
                self.tree_changed(cell, change);
            }
            for waiter in pending.waiters {
                self.tell(now, waiter, pending.cell.as_ref(), true, out);
            }
        }
    }

    /// A commit was refused: nothing of it is stored. The tenure ends, for what this node's actor
    /// wrote may not be held any more.
    pub(super) fn refused(&mut self, now: Now, id: CommitId, out: &mut Vec<Effect>) {
        let Some(pending) = self.commits.remove(&id) else { return };
        if let Some(cell) = &pending.cell {
            if !self.has(Defect::KeepActorAfterRefusal) {
                self.end_tenure(cell.partition, "a commit was refused", out);
            }
            self.uncount_hint(now, cell, pending.hint);
            self.brought_not_kept(cell.partition, out);
            if let Some(change) = pending.tree {
                self.tree_refused(cell.partition);
                self.rebase(cell, change);
            }
        }
        self.release(pending.cell.as_ref());
        for waiter in pending.waiters {
            self.tell(now, waiter, pending.cell.as_ref(), false, out);
        }
    }

    /// A commit of a cell was refused: the next one of it changes what was there before both.
    fn rebase(&mut self, id: &CellId, refused: TreeChange) {
        if !matches!(self.cells.get(id), Some(Cell::Held { outstanding: 2.., .. })) {
            return;
        }
        let next = self.commits.values_mut().find(|pending| pending.cell.as_ref() == Some(id));
        if let Some(change) = next.and_then(|pending| pending.tree.as_mut()) {
            change.before = refused.before;
        }
    }

    /// One commit of a cell is no longer outstanding. After the last, the cell is not in use.
    fn release(&mut self, id: Option<&CellId>) {
        let Some(id) = id else { return };
        if let Some(Cell::Held { outstanding, .. }) = self.cells.get_mut(id) {
            *outstanding -= 1;
            if *outstanding == 0 {
                self.cells.remove(id);
            }
        }
    }

    /// A commit is durable: reads from now on show what it left, though others may be queued
    /// behind it, for whoever waits for it is about to be told.
    fn keep_committed(&mut self, pending: &Pending) {
        let Some(id) = pending.cell.as_ref().filter(|id| id.hint_for.is_none()) else { return };
        if self.has(Defect::LagRecent) && self.cells.contains_key(id) {
            return;
        }
        match &pending.stored {
            Some(stored) => self.recent.keep_committed(&id.key, stored),
            None => self.recent.forget(&id.key),
        }
    }

    /// A read of an own copy that was asked for at `since` has returned this.
    pub(super) fn keep_read(&mut self, key: &Key, stored: &Bytes, since: Since) {
        let since = if self.has(Defect::KeepLateRead) { self.recent.since() } else { since };
        self.recent.keep_read(key, stored, since);
    }

    fn tell(
        &mut self,
        now: Now,
        waiter: Waiter,
        cell: Option<&CellId>,
        durable: bool,
        out: &mut Vec<Effect>,
    ) {
        match waiter {
            Waiter::None => {}
            Waiter::Spread { op, ask } => self.spread_own_done(now, op, ask, durable, out),
            Waiter::Peer { to, call, trace, hash } => {
                let Some(cell) = cell else { return };
                let refused = WriteAnswer::Refused(Refusal::Store);
                let answer = if durable { WriteAnswer::Stored(hash) } else { refused };
                answer_write(to, call, trace, cell.partition, answer, out);
            }
            Waiter::Rebuilt => {
                let Some(cell) = cell else { return };
                if durable {
                    self.record_rebuilt(cell, out);
                } else {
                    self.rebuild_later(now, cell);
                }
            }
            Waiter::Batch(batch) => self.batch_told(now, batch, durable, out),
            Waiter::Whole(partition) if durable => self.partition_whole(partition, out),
            Waiter::Whole(partition) => self.partition_not_whole(now, partition),
            Waiter::Left(partition) => self.page_left(now, partition, durable),
            Waiter::Delivered(delivery) => self.delivery_told(now, delivery, durable, out),
            Waiter::Round(partition, step) => {
                self.round_durable(now, partition, *step, durable, out);
            }
        }
    }

    /// Whether all of a cell's view is durable.
    fn is_durable(&self, id: &CellId) -> bool {
        matches!(self.cells.get(id), Some(Cell::Held { outstanding: 0, .. }))
    }

    /// Commits changes that no cell has a view of, and tells `waiter`.
    pub(super) fn commit_changes_for(
        &mut self,
        changes: Vec<Change>,
        waiter: Waiter,
        out: &mut Vec<Effect>,
    ) {
        let (hint, waiters) = (HintChange::default(), vec![waiter]);
        let pending = Pending { cell: None, stored: None, waiters, hint, tree: None };
        self.queue_commit(pending, changes, out);
    }

    /// Commits a change that is not of a record, and tells `waiter`.
    pub(super) fn commit_meta_for(
        &mut self,
        key: Bytes,
        value: Option<Bytes>,
        waiter: Waiter,
        out: &mut Vec<Effect>,
    ) {
        self.commit_changes_for(vec![Change { space: Space::Meta, key, value }], waiter, out);
    }

    pub(super) fn next_token(&mut self) -> Token {
        self.last_token.0 += 1;
        self.last_token
    }

    /// Ends this node's tenure over a partition: the next write is made under a new actor.
    pub(super) fn end_tenure(
        &mut self,
        partition: Partition,
        why: &'static str,
        out: &mut Vec<Effect>,
    ) {
        if self.tenures.remove(&partition).is_some() {
            out.push(Effect::Event(Event::TenureEnded(partition, why)));
        }
    }
}

/// Opens what is stored in a cell; an error means that it is damaged.
pub(super) fn open_stored(id: &CellId, stored: Bytes) -> Result<Record, ()> {
    let sealed = Sealed::from_stored(stored).map_err(|_| ())?;
    sealed.open(id.partition, &id.key).map_err(|_| ())
}

/// The hash of what is stored in a cell.
pub(super) fn stored_hash(stored: &Bytes) -> Option<RecordHash> {
    Some(Sealed::from_stored(stored.clone()).ok()?.hash())
}
