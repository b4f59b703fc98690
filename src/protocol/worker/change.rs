//! Ring changes: this worker's part of them, and how far it has come.
//!
//! ```text
//!   control ── view: live versions, which to read, all_acked ──▶ worker
//!     ▲                                                            │ writes, repairs, replays: all live
//!     │                                                            │ reads: one of them
//!     └── Progress: acked, synced, reads_ended ◀───────────────────┘ then: transfer, give up
//! ```
//!
//! A change adds a version to the live ones and, at its end, retires the oldest. In between:
//!
//! 1. What begins from the new view on is for all live versions: a write needs W in each, a strict
//!    read puts back to a majority of each, repairs and hints go to the homes of all. What began
//!    before is waited for; then this worker has *acked* the version.
//! 2. Once every member has (`all_acked`), whatever an older version's quorum may rest on was durable
//!    somewhere before, and whatever comes later has W in the new version by itself. So each node
//!    brings what it holds of a partition to every home of the new version: an exchange a partition
//!    and home, begun after that moment, which *pushes* what the other lacks; and a pass over all
//!    hints. When all of it has come to its end, this worker has *synced*. What a home of an older
//!    version holds is not thinned out by this, and what another home holds is not fetched: each
//!    speaks for what it holds itself.
//! 3. Control moves the version to be read when all have synced, and when reads of older ones have
//!    ended here, this worker says so.
//! 4. When the older version has retired, partitions that this node is no home of any more are given
//!    up (see [`super::leaving`]).
//!
//! A tenure ends where this node gains a partition or gives it up; elsewhere it goes on.
//!
//! Partitions whose homes are the same in all live versions have nothing to be brought: the new
//! version's quorums meet the old one's as before. A hint of such a partition stays where it is, if
//! its keeper stays.
//!
//! A hint is deleted, while more than one version is live, only when every home in every live version
//! has it. Its target alone would not do: that may have been past the key with its own exchange.
//!
//! *What runs* is known by epochs: each view that is taken raises the epoch, ops carry that of their
//! route, calls that of their beginning. Nothing is counted while nothing changes.

use std::collections::BTreeSet;

use super::route::Route;
use super::sync::Goal;
use super::timers::Timer;
use super::{Op, Purpose, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::View;
use crate::protocol::progress::{Progress, Waiting};
use crate::protocol::step::Effect;
use crate::types::{NodeId, NodeName, Now, Partition};

/// How often this worker looks how far it has come, while something is under way, in milliseconds.
const LOOK_MS: u64 = 50;
/// Partitions whose exchanges are begun, or begun again, in one look: more than can be under way
/// until the next, and few enough that a look is short.
const TURN: usize = 256;

/// Where this worker is in a change of the ring.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Views taken so far.
    epoch: u64,
    /// The live versions, oldest first, each with the first epoch that heeds it.
    since: Vec<(PlacementTag, u64)>,
    told: Option<Progress>,
    synced: PlacementTag,
    transfer: Option<Transfer>,
    transfers: u64,
    is_armed: bool,
}

/// Names a transfer within the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TransferId(u64);

/// Bringing what is held here to the homes of a version.
#[derive(Debug)]
struct Transfer {
    id: TransferId,
    to: PlacementTag,
    /// Partitions that are not known to be at all their homes.
    left: BTreeSet<Partition>,
    /// Exchanges that came to their end, each with the disk that the home had then.
    done: BTreeSet<(Partition, NodeId)>,
    /// Targets of whose hints a whole pass, begun after the transfer, reached all homes.
    hints_done: BTreeSet<NodeName>,
    /// Partitions up to this one have had their turn.
    cursor: Option<Partition>,
}

impl Change {
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The newest version that this worker has told to have acked; none before the first view.
    pub fn acked(&self) -> Option<PlacementTag> {
        self.told.map(|told| told.acked)
    }

    /// The transfer under way.
    pub fn transfer(&self) -> Option<TransferId> {
        self.transfer.as_ref().map(|transfer| transfer.id)
    }

    /// Whether the transfer waits for a pass over a target's hints.
    pub fn wants_hints(&self, target: &NodeName) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| !transfer.hints_done.contains(target))
    }

    /// A pass over a target's hints, begun in a transfer, has reached all homes.
    pub fn hints_brought(&mut self, id: TransferId, target: &NodeName) {
        if let Some(transfer) = self.transfer.as_mut().filter(|transfer| transfer.id == id) {
            transfer.hints_done.insert(target.clone());
        }
    }

    /// A disk took the place of another: it has none of the hints that the other was brought.
    pub fn disk_replaced(&mut self) {
        if let Some(transfer) = &mut self.transfer {
            transfer.hints_done.clear();
        }
    }

    /// A view is taken: before anything is routed by it, for routes carry the epoch.
    pub fn take(&mut self, view: &View) {
        self.epoch += 1;
        let known = |tag: PlacementTag| {
            let known = self.since.iter().find(|(known, _)| *known == tag);
            (tag, known.map_or(self.epoch, |known| known.1))
        };
        self.since = view.live().iter().map(|version| known(version.tag())).collect();
    }

    /// The newest live version that everything begun in this epoch or later heeds.
    fn heeded_since(&self, epoch: u64) -> PlacementTag {
        let heeded = self.since.iter().take_while(|(_, since)| *since <= epoch).last();
        heeded.or(self.since.first()).map(|(tag, _)| *tag).unwrap_or_default()
    }
}

impl Worker {
    /// A view was taken: what is held here may have to be brought somewhere.
    pub(super) fn change_taken(&mut self, now: Now, view: &View, out: &mut Vec<Effect>) {
        if !view.live().iter().any(|version| version.tag() == self.change.synced) {
            self.change.synced = view.oldest().tag();
        }
        self.begin_transfer(now, view);
        self.change_look(now, out);
    }

    /// Whether a sender ignores a version that this worker has acked: what it sends was not begun
    /// for all the homes that it needs.
    pub(super) fn ignores_acked(&self, theirs: PlacementTag) -> bool {
        let Some(acked) = self.change.acked() else { return true };
        theirs.lacks(acked)
    }

    /// Whether a sender reads a version that has retired here.
    pub(super) fn reads_retired(&self, theirs: PlacementTag) -> bool {
        self.view.as_ref().is_none_or(|view| theirs.number < view.oldest().tag().number)
    }

    /// Brings what is held here to the version that everyone has acknowledged, unless that is done.
    fn begin_transfer(&mut self, now: Now, view: &View) {
        let place = |tag| view.live().iter().position(|version| version.tag() == tag);
        let to = view.all_acked.and_then(|tag| Some((tag, place(tag)?)));
        let synced = place(self.change.synced).unwrap_or(0);
        let Some((to, place)) = to.filter(|(_, place)| *place > synced) else {
            self.change.transfer = None;
            return;
        };
        if self.change.transfer.as_ref().is_some_and(|transfer| transfer.to == to) {
            return;
        }
        self.abandon_transfers();
        let mut left = BTreeSet::new();
        for partition in self.trees.own().to_vec() {
            let older = view.live()[..place].iter().any(|version| version.is_home(partition));
            let skipped = self.has(Defect::SyncEarly);
            if older && !skipped && self.route(partition).is_some_and(|route| !is_unmoved(&route)) {
                left.insert(partition);
            }
        }
        self.change.transfers += 1;
        let id = TransferId(self.change.transfers);
        let (done, hints_done) = (BTreeSet::new(), BTreeSet::new());
        let cursor = None;
        self.change.transfer = Some(Transfer { id, to, left, done, hints_done, cursor });
        self.replay_to_all(now);
    }

    /// An exchange of a transfer has come to its end.
    pub(super) fn brought(
        &mut self,
        now: Now,
        partition: Partition,
        node: NodeId,
        out: &mut Vec<Effect>,
    ) {
        if let Some(transfer) = &mut self.change.transfer {
            transfer.done.insert((partition, node));
        }
        self.bring(now, partition, out);
    }

    /// Begins the exchanges of a partition that are still to be made.
    fn bring(&mut self, now: Now, partition: Partition, out: &mut Vec<Effect>) {
        let Some(route) = self.route(partition) else { return };
        let Some(transfer) = &self.change.transfer else { return };
        let place = |tag| route.view.live().iter().position(|version| version.tag() == tag);
        let Some(last) = place(transfer.to) else { return };
        // Who has synced has done so for every version up to this one.
        let first = place(self.change.synced).map_or(0, |synced| synced + 1);
        let homes = route.targets.iter().enumerate().filter(|(at, target)| {
            let is_home = target.versions.places().any(|of| (first..=last).contains(&of));
            is_home && !target.removed && Some(*at) != route.own_target
        });
        let homes = homes.map(|(_, target)| target.node);
        let open = |node: &Option<NodeId>| {
            node.is_none_or(|node| !transfer.done.contains(&(partition, node)))
        };
        let open: Vec<Option<NodeId>> = homes.filter(open).collect();
        for &node in open.iter().flatten() {
            self.sync_with(now, Goal::Transfer(partition), node, out);
        }
        if open.is_empty()
            && let Some(transfer) = &mut self.change.transfer
        {
            transfer.left.remove(&partition);
        }
    }

    /// Whether a hint has to reach the homes of the version that is being synced to before this
    /// worker has synced. It may stay if its keeper and its target do.
    pub(super) fn is_hint_moving(&mut self, partition: Partition, target: &NodeName) -> bool {
        let Some(route) = self.route(partition) else { return true };
        let stays = is_unmoved(&route)
            && route.targets.iter().any(|home| home.name == *target)
            && route.view.newest().my_member().is_some();
        !stays
    }

    /// Looks how far this worker has come, and tells it if that is news.
    pub(super) fn change_look(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(view) = self.view.clone() else { return };
        let mut waiting = Waiting::default();
        let acked = self.find_acked(&view, &mut waiting);
        let reads_ended = self.find_reads_ended(&view, &mut waiting);
        let synced = self.find_synced(now, &mut waiting, out);
        let progress = Progress { acked, synced, reads_ended, waiting };
        if self.change.told != Some(progress) {
            self.change.told = Some(progress);
            out.push(Effect::Progress(progress));
        }
        let behind = waiting != Waiting::default()
            || acked != view.newest().tag()
            || self.change.transfer.is_some();
        if behind && !self.change.is_armed {
            self.change.is_armed = true;
            self.arm(now.mono.after_millis(LOOK_MS), Timer::Change);
        }
    }

    pub(super) fn change_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.change.is_armed = false;
        self.change_look(now, out);
    }

    fn find_acked(&self, view: &View, waiting: &mut Waiting) -> PlacementTag {
        let newest = view.newest().tag();
        let told = self.change.acked();
        if told == Some(newest) {
            return newest;
        }
        let newest_since = self.change.since.last().map_or(0, |(_, since)| *since);
        let ops = self.ops.values().filter_map(|op| match op {
            Op::Put(put) => Some(put.route.epoch),
            Op::Get(get) if get.strict => Some(get.gather.route.epoch),
            Op::Get(_) | Op::Pass(_) | Op::Scan(_) | Op::Rebuild(_) => None,
        });
        let calls = self.calls.values().filter_map(|call| {
            let moves = matches!(call.purpose, Purpose::Repair { .. } | Purpose::Replay { .. });
            moves.then_some(call.epoch)
        });
        let dropping = self.leaving.epoch();
        let older = ops.chain(calls).chain(dropping).filter(|epoch| *epoch < newest_since);
        let (mut oldest, mut count) = (u64::MAX, 0);
        older.for_each(|epoch| (oldest, count) = (oldest.min(epoch), count + 1));
        waiting.ops = count;
        self.change.heeded_since(oldest)
    }

    fn find_reads_ended(&self, view: &View, waiting: &mut Waiting) -> PlacementTag {
        let reads = view.reads().tag();
        if self.change.told.is_some_and(|told| told.reads_ended == reads) {
            return reads;
        }
        let asked = self.ops.values().filter_map(|op| match op {
            Op::Get(get) => (!get.replied).then_some(&get.gather.route),
            // Until its record is formed it may still ask.
            Op::Put(put) => put.spread.is_none().then_some(&put.route),
            Op::Scan(scan) => Some(&scan.route),
            Op::Pass(_) | Op::Rebuild(_) => None,
        });
        let older = asked.map(|route| route.view.reads().tag()).filter(|tag| *tag != reads);
        let (mut oldest, mut count) = (reads, 0);
        older.for_each(|tag| {
            oldest = if tag.number <= oldest.number { tag } else { oldest };
            count += 1;
        });
        waiting.reads = count;
        oldest
    }

    fn find_synced(
        &mut self,
        now: Now,
        waiting: &mut Waiting,
        out: &mut Vec<Effect>,
    ) -> PlacementTag {
        let Some(transfer) = &mut self.change.transfer else { return self.change.synced };
        let behind = |p: &&Partition| transfer.cursor.is_none_or(|cursor| **p > cursor);
        let turn: Vec<Partition> =
            transfer.left.iter().filter(behind).take(TURN).copied().collect();
        transfer.cursor = turn.last().copied().filter(|_| turn.len() == TURN);
        for partition in turn {
            self.bring(now, partition, out);
        }
        let mut targets = self.hint_targets();
        targets.retain(|target| self.change.wants_hints(target));
        targets.iter().for_each(|target| self.replay_soon(now, target));
        let Some(transfer) = &self.change.transfer else { return self.change.synced };
        waiting.exchanges = transfer.left.len() as u64;
        waiting.hints = targets.len() as u64;
        let to = transfer.to;
        if *waiting == (Waiting { exchanges: 0, hints: 0, ..*waiting }) {
            self.change.synced = to;
            self.change.transfer = None;
        }
        self.change.synced
    }

    /// The view has moved: a tenure ends where this node has gained or given up the partition.
    pub(super) fn heed_moves(&mut self, before: &View, view: &View, out: &mut Vec<Effect>) {
        if self.has(Defect::KeepActorAfterMove) {
            return;
        }
        let moved = |partition: &Partition| before.is_home(*partition) != view.is_home(*partition);
        let mut moved: Vec<Partition> = self.tenures.keys().copied().filter(moved).collect();
        moved.sort_unstable();
        for partition in moved {
            self.end_tenure(partition, "the partition was gained or given up", out);
        }
    }
}

/// Whether the homes of a partition are the same in all live versions.
pub(super) fn is_unmoved(route: &Route) -> bool {
    let all = (0..route.view.live().len()).fold(
        crate::protocol::placement::Versions::NONE,
        crate::protocol::placement::Versions::with,
    );
    route.targets.iter().all(|target| target.versions == all)
}
