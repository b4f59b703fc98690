//! Anti-entropy: two homes compare what they hold, and exchange what differs.
//!
//! ```text
//!   round, peer is back ─┐                          ┌ session  leads a comparison, page by page
//!   lost partition ──────┴─▶ queue ─▶ ≤ 16 at once ─┤ serve    answers another's questions
//!                                                   └ batch    waits until a page is durable
//! ```
//!
//! Of two homes the one whose name comes first leads. A *comparison* is about the partitions of a
//! lane that both are home to, for a lane is what one worker owns on either side, however many
//! workers there are. It costs two small messages if nothing differs. The same exchange, with
//! nothing compared first, rebuilds a lost partition; there, whoever has lost it leads.
//!
//! Whoever leads keeps the state of it and the [`pace`].

mod batch;
mod foreground;
mod pace;
mod serve;
mod session;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(super) use self::batch::BatchId;
pub(super) use self::foreground::Kind;
pub(super) use self::pace::weight;
pub(super) use self::serve::{PAGE_BYTES, ServedKey, ServedPage};
use self::session::Session;
use super::Worker;
use super::timers::Timer;
use crate::protocol::placement::{Version, View};
use crate::protocol::step::Effect;
use crate::types::{LANES, Mono, NodeId, Now, Partition};

/// Sessions that one worker leads at a time: each may hold a page of each side in memory.
const SESSIONS_MAX: usize = 16;
/// A peer that has come back is left alone for this part of the time between two rounds, in which
/// hints are replayed to it: for half a minute of ten. What failed is tried again after it, too.
const SOON_PART: u64 = 20;

/// What a session is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Goal {
    /// That two homes hold the same of a lane.
    Compare(u16),
    /// That a lost partition has all that the other home holds.
    Rebuild(Partition),
    /// That a home of a new placement version has all that this node holds of a partition.
    Transfer(Partition),
}

/// Names a session within the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId(u64);

/// All exchanges of a worker.
#[derive(Debug, Default)]
pub(super) struct Sync {
    /// What is to be compared with whom. Bounded: each pair comes once, under way or queued.
    queue: VecDeque<(Goal, NodeId)>,
    wanted: BTreeSet<(Goal, NodeId)>,
    /// What has failed, and is tried again in a while.
    again: BTreeSet<(Goal, NodeId)>,
    /// Peers that are compared with in a while.
    soon: BTreeSet<NodeId>,
    /// Those among them that lack what no hint is kept of: this node leads, whoever has the lower name.
    owed: BTreeSet<NodeId>,
    sessions: BTreeMap<SessionId, Session>,
    last_session: u64,
    is_starting: bool,
    pace: pace::Pace,
    batches: batch::Batches,
    /// Pages that are being read for others.
    serving: usize,
}

impl Worker {
    /// The worker serves: rounds begin, at different times on different nodes.
    pub(super) fn begin_comparing(&mut self, now: Now) {
        let first = self.random() % self.config.tuning.sync_interval.max(1);
        self.arm(now.mono.after_micros(first), Timer::Compare);
    }

    /// The time for a round has come.
    pub(super) fn compare_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.arm(now.mono.after_micros(self.config.tuning.sync_interval), Timer::Compare);
        let Some(view) = self.view.clone() else { return };
        let others: Vec<NodeId> = view.ids.values().copied().collect();
        others.into_iter().for_each(|node| self.compare_with(now, node, false, out));
    }

    /// A peer has come back, or what it lacks was not kept for it: it is compared with soon.
    pub(super) fn compare_soon(&mut self, now: Now, node: NodeId) {
        if !self.sync.soon.insert(node) {
            return;
        }
        self.arm(now.mono.after_micros(self.soon()), Timer::CompareWith(node));
    }

    /// A peer lacks what no hint could be kept of.
    pub(super) fn compare_for_a_hint(&mut self, now: Now, node: NodeId) {
        self.sync.owed.insert(node);
        self.compare_soon(now, node);
    }

    fn soon(&self) -> u64 {
        self.config.tuning.sync_interval / SOON_PART
    }

    /// Compares with a peer that has come back, once the hints that wait for it here are gone.
    pub(super) fn compare_back(&mut self, now: Now, node: NodeId, out: &mut Vec<Effect>) {
        self.sync.soon.remove(&node);
        if self.peers.reachable(node) && self.keeps_hints_for(node) {
            return self.compare_soon(now, node);
        }
        let is_owed = self.peers.reachable(node) && self.sync.owed.remove(&node);
        self.compare_with(now, node, is_owed, out);
    }

    /// Compares every lane that is shared with a node, if it is for this one to lead.
    fn compare_with(&mut self, now: Now, node: NodeId, is_owed: bool, out: &mut Vec<Effect>) {
        let Some(view) = self.view.clone() else { return };
        let leads = is_owed || view.name_of(node).is_some_and(|name| view.name < *name);
        if !leads || !self.peers.reachable(node) {
            return;
        }
        for lane in 0..LANES {
            if Partition(lane).worker(self.config.workers) == self.config.index
                && !shared(&view, lane, node).is_empty()
            {
                self.sync_with(now, Goal::Compare(lane), node, out);
            }
        }
    }

    /// Tries again in a while.
    fn sync_later(&mut self, now: Now, goal: Goal, node: NodeId) {
        if self.sync.again.insert((goal, node)) {
            self.arm(now.mono.after_micros(self.soon()), Timer::SyncAgain(goal, node));
        }
    }

    /// What has failed is tried again, if it is still to be done.
    pub(super) fn sync_again(&mut self, now: Now, goal: Goal, node: NodeId, out: &mut Vec<Effect>) {
        if self.sync.again.remove(&(goal, node)) {
            self.sync_with(now, goal, node, out);
        }
    }

    /// Begins a session, now or once there is room.
    pub(super) fn sync_with(&mut self, now: Now, goal: Goal, node: NodeId, out: &mut Vec<Effect>) {
        if self.peers.reachable(node) && self.sync.wanted.insert((goal, node)) {
            // Until a lost partition is rebuilt there is a copy less.
            match goal {
                Goal::Rebuild(_) => self.sync.queue.push_front((goal, node)),
                Goal::Compare(_) | Goal::Transfer(_) => self.sync.queue.push_back((goal, node)),
            }
            self.sync_more(now, out);
        }
    }

    /// What fetches a lost partition stops: it is rebuilt, or lost again, or no longer this node's.
    pub(super) fn abandon_rebuilds(&mut self, partition: Partition) {
        self.abandon(|goal| goal == Goal::Rebuild(partition));
    }

    /// A request has been answered here, so long after it came.
    pub(super) fn request_answered(&mut self, now: Now, kind: Kind, came: Mono) {
        self.sync.pace.foreground.answered(now, kind, now.mono.micros_since(came));
    }

    /// Something of this [`weight`] has been dropped: how long to wait before the next, in microseconds.
    pub(super) fn pause_after_dropping(&mut self, now: Now, weight: u64) -> u64 {
        self.sync.pace.pause_after(now, &self.config.tuning, weight)
    }

    /// How much slower than set exchanges go, in percent: from 100.
    pub(super) fn sync_slowing_percent(&self) -> u64 {
        self.sync.pace.foreground.slowing_percent()
    }

    /// What is held here goes to another version, or to none any more.
    pub(super) fn abandon_transfers(&mut self) {
        self.abandon(|goal| matches!(goal, Goal::Transfer(_)));
    }

    fn abandon(&mut self, which: impl Fn(Goal) -> bool) {
        let (sessions, pace) = (&mut self.sync.sessions, &mut self.sync.pace);
        sessions.retain(|_, session| {
            let goes = which(session.goal());
            if goes {
                session.give_back(pace);
            }
            !goes
        });
        self.sync.queue.retain(|(goal, _)| !which(*goal));
        self.sync.wanted.retain(|(goal, _)| !which(*goal));
        self.sync.again.retain(|(goal, _)| !which(*goal));
    }

    fn sync_more(&mut self, now: Now, out: &mut Vec<Effect>) {
        // A session that ends as soon as it begins makes room for the next one in this loop.
        if std::mem::replace(&mut self.sync.is_starting, true) {
            return;
        }
        while self.sync.sessions.len() < SESSIONS_MAX
            && let Some((goal, node)) = self.sync.queue.pop_front()
        {
            self.session_start(now, goal, node, out);
        }
        self.sync.is_starting = false;
    }
}

/// The partitions of a lane that this node and another are both home to, in order.
fn shared(view: &View, lane: u16, node: NodeId) -> Vec<Partition> {
    let Some(name) = view.name_of(node) else { return vec![] };
    let member = |version: &Version| version.placement.member(name);
    let members: Vec<Option<u16>> = view.live().iter().map(member).collect();
    let lane = (lane..view.partitions()).step_by(LANES.into()).map(Partition);
    let both = |partition: &Partition| {
        let mut live = view.live().iter().zip(&members);
        let other = |(version, member): (&Version, &Option<u16>)| {
            member.is_some_and(|member| version.homes(*partition).contains(&member))
        };
        view.is_home(*partition) && live.any(other)
    };
    lane.filter(both).collect()
}
