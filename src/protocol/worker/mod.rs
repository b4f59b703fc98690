//! The data-path core of some lanes of one node: it coordinates reads and writes, keeps records
//! and hints, and repairs what it finds divergent.
//!
//! ```text
//!            ┌ put ── gather ┐                     ┌ replica  answers peers' reads and writes
//!   client ──┤ get ── gather ├── spread ── peers ──┤ hints    replays what it keeps for others
//!            │ pass          │                     │ repair   sends what a reader found missing
//!            └ scan          ┘                     ├ rebuild  fetches records that this disk lost
//!                                                  ├ lost     fetches partitions that it lost
//!                                                  └ sync     compares with other homes
//!              route: whom to ask · change: this worker's part in a change of the ring · leaving: what it
//!              gives up · cells: the view of the store · trees: hashes of it · rescan: reads all of it
//! ```
//!
//! One file, one state machine; this one routes inputs to them. Nothing in here does I/O, reads
//! a clock or draws from ambient randomness; no order escapes from a hash map.
//!
//! Invariants of a tenure (what makes version vectors truthful): *within a tenure the node holds,
//! for each key, everything that its actor ever wrote, or what superseded it.* A tenure is over
//! one partition. It ends at each start of the process; when a commit is refused; when a record is found
//! damaged, the partition is lost or its copy set aside; when a record that the actor wrote is collected;
//! when someone is seen to know more of the actor than this node holds; and when the node gains the
//! partition or gives it up.

mod cells;
mod change;
mod collect;
mod completeness;
mod gather;
mod get;
mod hashing;
mod hints;
pub mod inspect;
mod leaving;
mod lost;
mod meta;
mod pass;
mod peers;
mod put;
mod rebuild;
mod recent;
mod repair;
mod replica;
mod rescan;
mod route;
mod scan;
mod spread;
mod sync;
#[cfg(test)]
mod tests;
mod timers;
mod trees;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use rustc_hash::FxHashMap;

use self::cells::{Cell, CellId, Pending};
use self::hashing::Seeded;
use self::recent::Recent;
use self::timers::{Timer, TimerKey, Timers};
use super::clock::Clock;
use super::defect::Defect;
use super::message::{CallId, DataMessage};
use super::op::{Failure, Outcome, Reason};
use super::placement::{Version, View};
use super::step::{
    CommitId, Conditions, Effect, Input, Page, Reach, ReadFailed, Stats, Ticket, Token, Tuning,
};
use crate::types::{Actor, Boot, Key, Mono, NodeId, NodeName, Now, Partition, Stamp, TraceContext};

/// How long a late answer may still come, in milliseconds: beyond any client's patience.
const LATE_MS: u64 = 10_000;
/// Writes wait for a node that does not answer for so many replica's times. One that stands still for one of them would
/// end all that was passed to it otherwise, and make every hint count that is kept for it.
const SILENCE_MAX: u64 = 3;

/// How a worker is made.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Which of the node's workers it is.
    pub index: usize,
    /// How many there are: a power of two, at most [`crate::types::LANES`].
    pub workers: usize,
    /// Bounds and durations.
    pub tuning: Tuning,
    /// This process.
    pub boot: Boot,
    /// The clock's last value in the newest commit that was recovered.
    pub clock: Stamp,
    /// For everything that is drawn at random.
    pub seed: u64,
    /// The mistake to make.
    #[cfg(any(test, feature = "seeded-defects"))]
    pub defect: Option<Defect>,
}

/// The data-path core of some lanes of one node.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    rng: ChaCha8Rng,
    clock: Clock,
    view: Option<Arc<View>>,
    /// The first view, until what the store held at the start is known.
    arriving: Option<Arc<View>>,
    /// Routes that were worked out under this view.
    routes: FxHashMap<Partition, Arc<route::Route>>,
    conditions: Conditions,
    stats: Stats,

    cells: HashMap<CellId, Cell, Seeded>,
    recent: Recent,
    /// Commits on their way; a waiter is told when its commit is reported.
    commits: BTreeMap<CommitId, Pending>,
    last_commit: CommitId,
    tenures: FxHashMap<Partition, Actor>,
    tenures_begun: u64,

    reads: FxHashMap<Token, Reading>,
    last_token: Token,
    calls: FxHashMap<CallId, Call>,
    last_call: u64,
    ops: FxHashMap<OpKey, Op>,
    last_op: u64,
    /// Keys with a write under way here, and how many: repair leaves them alone.
    putting: HashMap<Key, u32, Seeded>,
    /// What an op that is being stepped wants left in cells of this node afterwards.
    later: Vec<(CellId, cells::Task)>,
    /// Of ops under way: who refused a record because this node was behind.
    behind: BTreeSet<(OpKey, usize)>,
    timers: Timers,

    peers: peers::Peers,
    sessions: pass::Sessions,
    hints: hints::Hints,
    repairs: repair::Repairs,
    rebuilding: BTreeSet<(Partition, Key)>,
    lost: lost::Lost,
    trees: trees::Trees,
    rescans: rescan::Rescans,
    sync: sync::Sync,
    collect: collect::Collect,
    change: change::Change,
    leaving: leaving::Leaving,
}

/// Names an op under way within the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct OpKey(u64);

/// An op under way.
#[derive(Debug)]
enum Op {
    Get(Box<get::GetOp>),
    Put(Box<put::PutOp>),
    Pass(Box<pass::PassOp>),
    Scan(Box<scan::ScanOp>),
    Rebuild(Box<rebuild::RebuildOp>),
}

/// Why the store is being read.
#[derive(Debug)]
enum Reading {
    /// To know the view of a cell.
    Cell(CellId),
    /// As this node's own answer to a read that it coordinates.
    Gather { op: OpKey, ask: usize, since: recent::Since },
    /// As an answer to a peer.
    Replica(replica::ReplicaRead),
    /// As this node's own part of a scan that it coordinates.
    ScanOwn { op: OpKey },
    /// As an answer to a peer's scan.
    ScanPeer(replica::ReplicaScan),
    /// To count the hints at the start.
    CountHints,
    /// To replay hints.
    Replay(NodeName),
    /// To learn at the start which records are being rebuilt.
    Markers,
    /// To learn at the start which partitions are being rebuilt.
    LostMarkers,
    /// To learn at the start which trees were not saved after their last change.
    UnsavedTrees,
    /// To learn the trees that were saved.
    SavedTrees,
    /// To work out a tree from the store.
    Rescan(Partition),
    /// As this node's own part of a comparison that it leads.
    SyncOwn(sync::SessionId),
    /// As an answer to a peer that compares a range.
    SyncPage(Box<sync::ServedPage>),
    /// As an answer to a peer that has lost its copy.
    SyncKey(sync::ServedKey),
    /// To learn at the start where the rounds of each partition are.
    Rounds,
    /// To find dead records.
    Sweep,
    /// To see whether a hint of a partition is held.
    Drain(Partition),
    /// To set the copy of a partition aside.
    Aside(Partition),
    /// To drop what is left of a partition that was given up.
    Leaving(Partition),
}

/// A question that a peer has not answered yet.
#[derive(Debug)]
struct Call {
    to: NodeId,
    sent: Mono,
    /// Whether its time is over; the answer counts all the same.
    late: bool,
    timer: TimerKey,
    purpose: Purpose,
    /// See [`change`].
    epoch: u64,
}

/// What the answer to a call is for.
#[derive(Debug)]
enum Purpose {
    Gather { op: OpKey, ask: usize },
    Spread { op: OpKey, ask: usize },
    Pass { op: OpKey },
    Scan { op: OpKey },
    Rebuild { op: OpKey },
    Repair { key: Key },
    Replay { delivery: hints::DeliveryId },
    Sync { session: sync::SessionId },
}

/// Who is told how an op ended.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Client(Ticket),
    Passed { from: NodeId, call: CallId },
}

impl Worker {
    /// A worker that knows nothing yet: it serves once it has been given a view.
    #[must_use]
    pub fn new(config: WorkerConfig) -> Self {
        let last =
            if has(&config, Defect::ClockBelowLast) { Stamp::default() } else { config.clock };
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let hashing = Seeded::new(rng.next_u64());
        Self {
            rng,
            clock: Clock::starting_above(last, config.tuning.skew_ms_max),
            view: None,
            arriving: None,
            routes: FxHashMap::default(),
            conditions: Conditions::default(),
            stats: Stats::default(),
            cells: HashMap::with_hasher(hashing),
            recent: Recent::new(config.tuning.recent_bytes_max, hashing),
            commits: BTreeMap::new(),
            last_commit: CommitId::default(),
            tenures: FxHashMap::default(),
            tenures_begun: 0,
            reads: FxHashMap::default(),
            last_token: Token(0),
            calls: FxHashMap::default(),
            last_call: 0,
            ops: FxHashMap::default(),
            last_op: 0,
            putting: HashMap::with_hasher(hashing),
            later: Vec::new(),
            behind: BTreeSet::new(),
            timers: Timers::default(),
            peers: peers::Peers::default(),
            sessions: pass::Sessions::default(),
            hints: hints::Hints::default(),
            repairs: repair::Repairs::default(),
            rebuilding: BTreeSet::new(),
            lost: lost::Lost::default(),
            trees: trees::Trees::default(),
            rescans: rescan::Rescans::default(),
            sync: sync::Sync::default(),
            collect: collect::Collect::default(),
            change: change::Change::default(),
            leaving: leaving::Leaving::default(),
            config,
        }
    }

    /// Takes one input; appends what is to be done, in order, to `out`.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        self.collect.latest = now.mono;
        match input {
            Input::Client { ticket, op, deadline, trace } => {
                self.client(now, ticket, op, deadline, trace, out);
            }
            Input::ScanPage { ticket, partition, after, bytes_max, consistency, deadline } => {
                let page = scan::Wanted { partition, after, bytes_max, consistency };
                self.start_scan(now, ticket, page, deadline, out);
            }
            Input::Message { from, placement, trace, partition, message } => {
                if self.is_no_peer(from) {
                    self.stats.messages_refused += 1;
                    return self.run_timers(now, out);
                }
                self.heard_from(from, out);
                let sender = replica::Sender { from, placement, trace };
                self.message(now, sender, partition, message, out);
            }
            Input::ReadDone(token, result) => self.read_done(now, token, result, out),
            Input::Scanned(token, result) => self.scanned(now, token, result, out),
            Input::Committed(through) => self.committed(now, through, out),
            Input::Refused(id) => self.refused(now, id, out),
            Input::Reachability(node, reach) => self.reachability(now, node, reach, out),
            Input::View(view) => self.viewed(now, view, out),
            Input::Lost(partitions) => self.partitions_lost(now, partitions, out),
            Input::Conditions(conditions) => self.conditions = conditions,
            Input::Tick => {}
        }
        self.run_timers(now, out);
    }

    /// When the next timer is due. A tick that comes late does no harm; one that is lost does.
    #[must_use]
    pub fn next_timer(&self) -> Option<Mono> {
        self.timers.next()
    }

    /// Whether it has been given a view, and has read since what the disk says of its copies.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.view.is_some()
    }

    /// Whether as many ops are under way as it takes on at a time.
    fn is_full(&self) -> bool {
        self.ops.len() >= self.config.tuning.in_flight_max
    }

    /// What the worker has done since its start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let held = self.hints.total();
        Stats {
            in_flight: self.ops.len() as u64,
            hints_held: held.count,
            hint_bytes: held.bytes,
            partitions_rebuilding: self.partitions_rebuilding(),
            trees_unknown: self.trees.unknown() as u64,
            rounds_open: self.collect.driven(),
            round_age_micros_max: self.collect.age_micros_max(),
            partitions_leaving: self.leaving.count() as u64,
            sync_slowing_percent: self.sync_slowing_percent(),
            hint_bytes_max: self.config.tuning.hint_bytes_max,
            ..self.stats
        }
    }

    fn message(
        &mut self,
        now: Now,
        sender: replica::Sender,
        partition: Partition,
        message: DataMessage,
        out: &mut Vec<Effect>,
    ) {
        match message {
            DataMessage::Read(read) => self.serve_read(now, sender, partition, read, out),
            DataMessage::Write(write) => self.serve_write(now, sender, partition, write, out),
            DataMessage::Scan(scan) => self.serve_scan(sender, partition, scan, out),
            DataMessage::OpenSession(open) => self.serve_session(now, sender, partition, open, out),
            DataMessage::Pass(pass) => self.serve_pass(now, sender, partition, pass, out),
            DataMessage::Session(session) => {
                self.session_opened(now, sender.from, partition, session, out);
            }
            DataMessage::ReadReply(call, round, answer) => {
                if let Some(Purpose::Gather { op, ask }) = self.answered(now, sender.from, call) {
                    self.gather_answered(now, op, ask, sender.from, round, answer, out);
                }
            }
            DataMessage::WriteReply(call, answer) => match self.answered(now, sender.from, call) {
                Some(Purpose::Spread { op, ask }) => {
                    self.spread_answered(now, op, ask, sender.placement, answer, out);
                }
                Some(Purpose::Repair { key }) => self.repairs.done(sender.from, &key),
                Some(Purpose::Replay { delivery }) => {
                    self.replay_answered(now, delivery, answer, out);
                }
                _ => {}
            },
            DataMessage::PassReply(call, answer) => {
                if let Some(Purpose::Pass { op }) = self.answered(now, sender.from, call) {
                    self.pass_answered(now, op, answer, out);
                }
            }
            DataMessage::ScanReply(call, answer) => {
                if let Some(Purpose::Scan { op }) = self.answered(now, sender.from, call) {
                    self.scan_answered(now, op, answer, out);
                }
            }
            DataMessage::Sync(call, ask) => {
                self.serve_sync(now, sender, partition, call, ask, out);
            }
            DataMessage::SyncReply(call, answer) => match self.answered(now, sender.from, call) {
                Some(Purpose::Sync { session }) => self.sync_answered(now, session, answer, out),
                Some(Purpose::Rebuild { op }) => self.rebuild_answered(now, op, answer, out),
                _ => {}
            },
            DataMessage::Round(round) => {
                if !self.is_asked_across_versions(sender.placement, &round) {
                    self.round_heard(now, sender.from, partition, round, out);
                }
            }
        }
    }

    fn read_done(
        &mut self,
        now: Now,
        token: Token,
        result: Result<Option<bytes::Bytes>, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        self.stats.store_reads_failed += u64::from(result.is_err());
        match self.reads.remove(&token) {
            Some(Reading::Cell(id)) => self.cell_read(now, &id, result, out),
            Some(Reading::Gather { op, ask, since }) => {
                self.gather_read(now, op, ask, since, result, out);
            }
            Some(Reading::Replica(read)) => self.replica_read(now, read, result, out),
            Some(Reading::SyncKey(asked)) => self.answer_sync_key(now, asked, result, out),
            _ => {}
        }
    }

    fn scanned(
        &mut self,
        now: Now,
        token: Token,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        self.stats.store_reads_failed += u64::from(result.is_err());
        match self.reads.remove(&token) {
            Some(Reading::ScanOwn { op }) => self.scan_own(now, op, result, out),
            Some(Reading::ScanPeer(scan)) => self.answer_scan(now, &scan, result, out),
            Some(Reading::CountHints) => self.hints_counted(now, result, out),
            Some(Reading::Replay(target)) => self.replay_scanned(now, &target, result, out),
            Some(Reading::Markers) => self.markers_read(now, result, out),
            Some(Reading::LostMarkers) => self.lost_markers_read(now, result, out),
            Some(Reading::UnsavedTrees) => self.unsaved_trees_read(now, result, out),
            Some(Reading::SavedTrees) => self.saved_trees_read(now, result, out),
            Some(Reading::Rescan(partition)) => self.rescanned(now, partition, result, out),
            Some(Reading::SyncOwn(session)) => self.sync_own_read(now, session, result, out),
            Some(Reading::SyncPage(asked)) => self.answer_sync_page(now, &asked, result, out),
            Some(Reading::Rounds) => self.rounds_read(now, result, out),
            Some(Reading::Sweep) => self.swept(now, result, out),
            Some(Reading::Drain(partition)) => self.drain_scanned(partition, result, out),
            Some(Reading::Aside(partition)) => self.aside_scanned(now, partition, result, out),
            Some(Reading::Leaving(partition)) => self.leaving_read(now, partition, result, out),
            _ => {}
        }
    }

    /// The cluster has changed, or is known for the first time. Before the first view is taken,
    /// the worker counts the hints that it keeps and learns which of its records are not whole.
    fn viewed(&mut self, now: Now, view: Arc<View>, out: &mut Vec<Effect>) {
        let Some(before) = self.view.clone() else {
            if self.arriving.replace(view).is_none() {
                self.start_counting_hints(out);
            }
            return;
        };
        let tags = |view: &View| view.live().iter().map(Version::tag).collect::<Vec<_>>();
        // A version that names this node may be known before it is known that this disk has the name.
        let moved = tags(&before) != tags(&view) || before.has_my_name() != view.has_my_name();
        self.view = Some(view.clone());
        self.routes.clear();
        self.change.take(&view);
        if moved {
            self.heed_moves(&before, &view, out);
            self.learn_trees(now);
        }
        for (name, id) in &before.ids {
            if view.ids.get(name) != Some(id) {
                self.disk_gone(now, name, *id, &view, out);
            }
        }
        self.change_taken(now, &view, out);
        self.spread_caught_up(now, out);
        if moved {
            self.heed_members(now, &view, out);
            self.replay_to_all(now);
            self.rebuild_lost(now, out);
        }
    }

    /// A name is another disk now, or none. What a disk that was replaced or removed has acknowledged
    /// does not count any more: the new one is rebuilt from the others, and what they take in after
    /// that must not rest on the old one. A member that has left has kept its word.
    fn disk_gone(
        &mut self,
        now: Now,
        name: &NodeName,
        old: NodeId,
        view: &View,
        out: &mut Vec<Effect>,
    ) {
        // Whether it can be reached is another matter: its name may have been a guest's, and is a member's
        // before it is heard that this disk has it.
        self.reachability_lost(now, old, Reach::Away, out);
        if view.ids.contains_key(name) || view.fenced.contains(&old) {
            self.spread_fenced(now, old, out);
            self.change.disk_replaced();
            self.open_rounds_anew(now, out);
        }
        self.replay_anew(now, name);
    }

    /// Whether a node's messages are refused: it was replaced, or is no present disk of any name.
    fn is_no_peer(&self, node: NodeId) -> bool {
        self.view.as_ref().is_some_and(|view| view.name_of(node).is_none())
    }

    /// What the store held at the start is known: the worker begins to serve.
    fn arrive(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.view = self.arriving.take();
        if let Some(view) = &self.view {
            self.change.take(view);
        }
        self.replay_to_all(now);
        for (partition, key) in self.rebuilding.clone() {
            self.start_rebuild(now, partition, &key, out);
        }
        self.learn_trees(now);
        self.begin_comparing(now);
        self.begin_scrubs(now);
        self.rebuild_lost(now, out);
        self.start_collecting(now, out);
        if let Some(view) = self.view.clone() {
            self.change_taken(now, &view, out);
            self.heed_members(now, &view, out);
        }
    }

    fn reachability(&mut self, now: Now, node: NodeId, reach: Reach, out: &mut Vec<Effect>) {
        let before = self.peers.set_reach(node, reach);
        match reach {
            Reach::Answers => {
                self.ask_homes(now, Some(node), out);
                self.replay_to(node, out);
                self.compare_soon(now, node);
                self.rebuild_lost(now, out);
            }
            Reach::Silent => {
                self.probe_soon(now, node);
                // One that was away is on its way back.
                if before != Reach::Away {
                    self.reachability_lost(now, node, reach, out);
                }
            }
            Reach::Away => self.reachability_lost(now, node, reach, out),
        }
    }

    /// Nothing that was asked of a peer will be answered soon. What was passed to one that is only silent is waited
    /// for, since it cannot be asked of another; and a record that was sent to it, so that no hint counts too soon.
    fn reachability_lost(&mut self, now: Now, node: NodeId, reach: Reach, out: &mut Vec<Effect>) {
        let asked = self.calls.iter().filter(|(_, call)| call.to == node);
        let mut lost: Vec<CallId> = asked.map(|(id, _)| *id).collect();
        lost.sort_unstable();
        for call in lost {
            match self.calls.get(&call).map(|call| &call.purpose) {
                Some(Purpose::Pass { op }) if reach == Reach::Silent => {
                    self.wait_for_pass(now, *op, call);
                }
                Some(&Purpose::Spread { op, ask }) if reach == Reach::Silent => {
                    self.spread_silent(now, call, op, ask, out);
                }
                _ => self.call_failed(now, call, out),
            }
        }
        if reach == Reach::Away {
            self.spread_lost(now, node, out);
        }
        self.session_lost(now, node, out);
    }

    /// A call will not be answered, or not in time.
    fn call_failed(&mut self, now: Now, call: CallId, out: &mut Vec<Effect>) {
        let Some(Call { to, purpose, timer, .. }) = self.calls.remove(&call) else { return };
        self.timers.cancel(timer);
        match purpose {
            Purpose::Gather { op, ask } => self.gather_failed(now, op, ask, out),
            Purpose::Spread { op, ask } => self.spread_failed(now, op, ask, out),
            Purpose::Pass { op } => self.pass_silent(op, out),
            Purpose::Scan { op } => self.scan_failed(now, op, out),
            Purpose::Rebuild { op } => self.rebuild_failed(now, op, out),
            Purpose::Repair { key } => self.repairs.done(to, &key),
            Purpose::Replay { delivery } => self.replay_failed(now, delivery, out),
            Purpose::Sync { session } => self.sync_silent(now, session, out),
        }
    }

    fn run_timers(&mut self, now: Now, out: &mut Vec<Effect>) {
        while let Some(timer) = self.timers.pop(now.mono) {
            match timer {
                Timer::Op(op) => self.op_timer(now, op, out),
                Timer::Call(call) => self.call_timer(now, call, out),
                Timer::Replay(target) => self.replay_due(&target, out),
                Timer::Probe(node) => self.probe_due(now, node, out),
                Timer::Session(node, lane) => self.session_timer(now, node, lane, out),
                Timer::Arrive => self.start_counting_hints(out),
                Timer::Rebuild(partition, key) => self.start_rebuild(now, partition, &key, out),
                Timer::SaveTrees => self.save_trees(now, out),
                Timer::LoadTrees => self.load_trees(out),
                Timer::Rescan => self.rescan_page(out),
                Timer::Scrub => self.scrub_due(now),
                Timer::Compare => self.compare_due(now, out),
                Timer::CompareWith(node) => self.compare_back(now, node, out),
                Timer::SyncAgain(goal, node) => self.sync_again(now, goal, node, out),
                Timer::Sync(session) => self.sync_resume(now, session, out),
                Timer::Lost => self.lost_due(now, out),
                Timer::Untold => self.untold_due(now, out),
                Timer::Stale(op, ask) => self.spread_late(now, op, ask, out),
                Timer::Unaware(op, ask) => self.spread_again(now, op, ask, out),
                Timer::Overdue(op, ask) => self.spread_overdue(now, op, ask, out),
                Timer::Change => self.change_due(now, out),
                Timer::Leave => self.leave_due(now, out),
                Timer::Collect => self.sweep_due(now, out),
                Timer::Round(partition) => self.round_due(now, partition, out),
            }
        }
    }

    fn op_timer(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        match self.ops.get(&op) {
            Some(Op::Get(_)) => self.get_timer(now, op, out),
            Some(Op::Put(_)) => self.put_timer(now, op, out),
            Some(Op::Pass(_)) => self.pass_silent(op, out),
            Some(Op::Scan(_)) => self.scan_over(op, out),
            Some(Op::Rebuild(_)) | None => {}
        }
    }

    /// A call has had its time. Whoever was asked to read or to write something counts as having timed out once.
    fn call_timer(&mut self, now: Now, call: CallId, out: &mut Vec<Effect>) {
        let Some(asked) = self.calls.get(&call) else { return };
        let (to, late) = (asked.to, asked.late);
        match asked.purpose {
            Purpose::Pass { op } => return self.pass_late(now, op, call, to, out),
            Purpose::Gather { op, ask } if !late => self.gather_late(now, op, ask, out),
            Purpose::Spread { op, ask } if !late => self.spread_late(now, op, ask, out),
            _ => return self.call_failed(now, call, out),
        }
        self.wait_on(call, now.mono.after_millis(LATE_MS));
        self.peer_timed_out(now, to, out);
    }

    /// A late answer is taken until then.
    fn wait_on(&mut self, call: CallId, until: Mono) {
        if let Some(asked) = self.calls.get_mut(&call) {
            self.timers.cancel(asked.timer);
            asked.late = true;
            asked.timer = self.timers.set(until, Timer::Call(call));
        }
    }

    /// So many replica's times from now, or half of the time to the deadline: what is left is for who asks again.
    fn silence_ends(&self, now: Now, times: u64, deadline: Mono) -> Mono {
        let left = deadline.micros_since(now.mono);
        now.mono.after_micros((times * self.config.tuning.replica_timeout).min(left / 2))
    }

    fn arm(&mut self, at: Mono, timer: Timer) {
        self.timers.set(at, timer);
    }

    fn next_op(&mut self) -> OpKey {
        self.last_op += 1;
        OpKey(self.last_op)
    }

    /// Asks a peer; its answer, or its silence for a replica's time, comes back to `purpose`.
    fn call(
        &mut self,
        now: Now,
        to: NodeId,
        purpose: Purpose,
        partition: Partition,
        trace: Option<TraceContext>,
        message: impl FnOnce(CallId) -> DataMessage,
        out: &mut Vec<Effect>,
    ) -> CallId {
        let patience = self.config.tuning.replica_timeout;
        self.call_within(now, to, patience, purpose, partition, trace, message, out)
    }

    /// Asks a peer, and gives it so many microseconds.
    fn call_within(
        &mut self,
        now: Now,
        to: NodeId,
        patience: u64,
        purpose: Purpose,
        partition: Partition,
        trace: Option<TraceContext>,
        message: impl FnOnce(CallId) -> DataMessage,
        out: &mut Vec<Effect>,
    ) -> CallId {
        // The boot keeps an answer to an earlier process from passing for one to this one.
        self.last_call += 1;
        let call = CallId(self.config.boot.0 ^ (self.last_call << 6) ^ self.config.index as u64);
        let due = now.mono.after_micros(patience);
        let timer = self.timers.set(due, Timer::Call(call));
        let epoch = self.change.epoch();
        self.calls.insert(call, Call { to, sent: now.mono, late: false, timer, purpose, epoch });
        out.push(Effect::Send { to, trace, partition, message: message(call) });
        call
    }

    /// Takes the call that an answer belongs to, if it is still open.
    fn answered(&mut self, now: Now, from: NodeId, call: CallId) -> Option<Purpose> {
        if self.calls.get(&call)?.to != from {
            return None;
        }
        let Call { sent, purpose, timer, .. } = self.calls.remove(&call)?;
        self.timers.cancel(timer);
        self.peers.observe(from, now.mono.micros_since(sent));
        Some(purpose)
    }

    /// Ends an op with an answer.
    fn reply(
        &mut self,
        origin: Origin,
        partition: Partition,
        outcome: Outcome,
        out: &mut Vec<Effect>,
    ) {
        match &outcome {
            Outcome::Read(_) => self.stats.gets += 1,
            Outcome::Written(_) => self.stats.puts += 1,
            Outcome::Failed(_) => self.stats.failures += 1,
        }
        match origin {
            Origin::Client(ticket) => out.push(Effect::Reply(ticket, outcome)),
            Origin::Passed { from, call } => pass::answer_pass(from, call, partition, outcome, out),
        }
    }

    fn fail_before(
        &mut self,
        origin: Origin,
        partition: Partition,
        reason: Reason,
        out: &mut Vec<Effect>,
    ) {
        self.reply(origin, partition, Outcome::Failed(Failure::before(reason)), out);
    }

    fn random(&mut self) -> u64 {
        self.rng.next_u64()
    }

    fn has(&self, defect: Defect) -> bool {
        has(&self.config, defect)
    }
}

#[cfg(any(test, feature = "seeded-defects"))]
fn has(config: &WorkerConfig, defect: Defect) -> bool {
    config.defect == Some(defect)
}

#[cfg(not(any(test, feature = "seeded-defects")))]
fn has(_: &WorkerConfig, _: Defect) -> bool {
    false
}
