//! Newcomers: disks that began with nothing, and rounds that closed without them.
//!
//! Whoever hears of a closed round that it has not drained is not the copy that the members spoke for, and sets it
//! aside (see [`super::aside`]). What it holds may count for acknowledged writes: where all who hold one set it aside,
//! it is lost. A disk that has joined, or took the place of another, has not heard of the rounds before. So:
//!
//! - **It takes nothing before it is told.** Until a member that knows has said where the rounds of a partition are, it
//!   coordinates no write of it, and keeps no record and no hint ([`Worker::is_untold`]). It asks all homes as soon as
//!   it reaches them, and whoever wants it to keep something. Who has not been told, or has forgotten what it was, cannot
//!   tell others; if all members say so, nobody knows better, and it begins.
//! - **It keeps what it holds when a round closes that it was told of.** It was told which number *n* others had
//!   opened. A round up to *n* may close without it; none above *n* does, because nobody opens or drains a round for
//!   a driver that lacks a version, and who told it knew of it:
//!
//! ```text
//!      closed ≤ drained        …        n │ a round above needs this disk, too
//!             who told it has opened these │
//! ```
//!
//!   What it took meanwhile was new, or came from members that had opened the round; what it sends carries
//!   *n* itself. So its copy holds nothing from before the round: it takes the number over, and keeps its copy. A
//!   disk that was told once and does not know a later round was set back, and sets its copy aside like any other.
//!
//! Two kinds of senders may bring a newcomer what is older than a round that closes without it: a disk that was set
//! back, and one that holds a hint and had not drained yet. So it remembers the lowest number that it was
//! brought of each partition, durably, in the commit of the record that came with it; what it sends carries no
//! higher number, and it takes over none. And not every new disk began with nothing: it may have held something under
//! another id ([`crate::protocol::placement::View::has_past`]), or have joined with a version that lost to a rival, and join again. Of these the
//! mark of [`super::origin`] tells, which names the version.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Worker;
use super::super::timers::Timer;
use super::members::taking_part;
use super::origin::Origin;
use super::{RETRY_MS, Then};
use crate::protocol::defect::Defect;
use crate::protocol::message::{DataMessage, RoundMessage};
use crate::protocol::rounds::{Cut, Rounds};
use crate::protocol::step::Effect;
use crate::types::{Mono, NodeId, Now, Partition, RoundNumber};

/// A survey of this round and of nothing asks where the rounds are; an answer to it of nothing: who was asked
/// does not know.
pub(super) const ASKS_WHERE: RoundNumber = RoundNumber(0);
/// How long to wait before homes are asked again whether a round has closed that was open when this node was told, in
/// milliseconds. Whoever drives it says so once, and that may be lost.
const UNDECIDED_MS: u64 = 30_000;

/// What a worker of a disk that is new in its place was told since the start.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    /// Partitions of which someone has said where the rounds are, since the start.
    begun: BTreeSet<Partition>,
    /// Those of them of which something was written here since.
    written: BTreeSet<Partition>,
    /// Who has said of a partition that it cannot tell.
    ignorant: BTreeMap<Partition, BTreeSet<NodeId>>,
    /// When it asks again.
    asks_again: Option<Mono>,
}

impl Newcomers {
    /// This disk has joined just now: what it was told of partitions before is not of its place.
    pub(super) fn begin_again(&mut self) {
        self.begun.clear();
    }
}

impl Worker {
    /// Whether this disk is new in its place, and nobody has told it yet where the rounds of a partition are:
    /// it takes nothing of it.
    pub(in crate::protocol::worker) fn is_untold(&self, partition: Partition) -> bool {
        let lacks = match self.origin() {
            Origin::Old => false,
            Origin::New => !self.collect.rounds.contains_key(&partition),
            Origin::Again => !self.collect.has_opened(partition),
        };
        lacks && !self.collect.newcomers.begun.contains(&partition) && !self.has(Defect::TakeUntold)
    }

    /// Whether a round may close, or have closed, without this node's hearing of it: it was told that the round was
    /// open.
    pub(super) fn is_undecided(&self, partition: Partition) -> bool {
        let known = self.collect.rounds.get(&partition);
        known.is_some_and(|rounds| rounds.never_opened() && rounds.closed < rounds.number)
    }

    /// Whether this node can tell others where the rounds of a partition are: not if it was not told itself, nor if it
    /// may have forgotten what it knew.
    pub(super) fn knows_rounds(&self, partition: Partition) -> bool {
        let has_forgotten = self.view.as_ref().is_none_or(|view| view.has_past)
            || self.collect.brought.is_unreadable(partition);
        let is_behind =
            self.collect.is_moving(partition) || has_forgotten && self.is_lost(partition);
        !self.is_untold(partition) && !is_behind
    }

    /// Asks where the rounds are of those partitions of which this node is a home and does not know: all homes, or only
    /// a node that has just been reached. Asks again in a while, until it has been told.
    pub(in crate::protocol::worker) fn ask_homes(
        &mut self,
        now: Now,
        node: Option<NodeId>,
        out: &mut Vec<Effect>,
    ) {
        let Some(view) = self.view.clone() else { return };
        let (index, workers) = (self.config.index, self.config.workers);
        let mine = (0..view.partitions()).map(Partition).filter(|p| p.worker(workers) == index);
        let asks = |&p: &Partition| self.is_untold(p) || self.is_undecided(p);
        let unknown: Vec<Partition> = mine.filter(|p| asks(p) && view.is_home(*p)).collect();
        for &partition in &unknown {
            let Some(route) = self.route(partition) else { continue };
            let homes = route.others().flatten().filter(|&home| self.peers.reachable(home));
            let homes: Vec<NodeId> = homes.collect();
            // Whether a round has closed, homes may not know which were told of it like this one.
            if homes.is_empty() || !self.is_untold(partition) {
                self.ask_members(partition, out);
                continue;
            }
            for home in homes.into_iter().filter(|&home| node.is_none_or(|node| node == home)) {
                self.ask_where(home, partition, out);
            }
        }
        if unknown.is_empty() {
            return;
        }
        let is_untold = unknown.iter().any(|&partition| self.is_untold(partition));
        let due = now.mono.after_millis(if is_untold { RETRY_MS } else { UNDECIDED_MS });
        if self.collect.newcomers.asks_again.is_none_or(|again| due < again) {
            self.collect.newcomers.asks_again = Some(due);
            self.arm(due, Timer::Untold);
        }
    }

    /// Nobody may have answered; and who could not tell may have been told.
    pub(in crate::protocol::worker) fn untold_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        // One that was armed before it was for later.
        if self.collect.newcomers.asks_again.is_none_or(|again| now.mono < again) {
            return;
        }
        self.collect.newcomers.asks_again = None;
        self.collect.newcomers.ignorant.clear();
        self.ask_homes(now, None, out);
    }

    /// Asks every member where the rounds of a partition are.
    pub(in crate::protocol::worker) fn ask_members(
        &self,
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        let Some(view) = &self.view else { return };
        for to in view.members().into_iter().filter_map(|name| view.ids.get(name)) {
            self.ask_where(*to, partition, out);
        }
    }

    /// Asks who wants something kept of which this node is to be told first.
    pub(in crate::protocol::worker) fn ask_sender(
        &self,
        from: NodeId,
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        if self.is_untold(partition) {
            self.ask_where(from, partition, out);
        }
    }

    fn ask_where(&self, to: NodeId, partition: Partition, out: &mut Vec<Effect>) {
        if self.peers.reachable(to) && self.view.as_ref().is_some_and(|view| view.me != to) {
            let ask = RoundMessage::Survey(ASKS_WHERE, Cut::default());
            out.push(Effect::Send { to, trace: None, partition, message: DataMessage::Round(ask) });
        }
    }

    /// A newcomer asks where the rounds are.
    pub(super) fn asked_where(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        if self.knows_rounds(partition) {
            return self.answer_behind(now, from, partition, out);
        }
        let answer = RoundMessage::Surveyed(ASKS_WHERE, vec![]);
        self.say_of_round(now, from, partition, answer, out);
    }

    /// Someone who knows has said where the rounds of a partition are: which may have been opened, and which was
    /// closed last.
    pub(super) fn told_where(
        &mut self,
        now: Now,
        partition: Partition,
        number: RoundNumber,
        closed: RoundNumber,
        out: &mut Vec<Effect>,
    ) {
        let is_first = self.is_untold(partition);
        let state = self.collect.state(partition);
        // Of two that have told it, one may have been set back. What it hears after another start is no
        // telling: it may have been set back itself. Nor is what it hears after it has written: a round of which it
        // was not told before may have cut what superseded that.
        let is_more = self.collect.newcomers.begun.contains(&partition)
            && !self.collect.newcomers.written.contains(&partition)
            && state.never_opened()
            && number > state.number;
        if self.collect.is_busy(partition) || !(is_first || is_more) {
            return;
        }
        self.take_over(partition, number, closed.max(state.closed), out);
        if is_first {
            self.begin(now, partition, out);
        }
    }

    /// Someone who was asked cannot tell. If no home can, any member may; if none can, there is nothing to be told.
    pub(super) fn asked_in_vain(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        if !self.is_untold(partition) || self.collect.is_busy(partition) {
            return;
        }
        let Some(route) = self.route(partition) else { return };
        let ignorant = self.collect.newcomers.ignorant.entry(partition).or_default();
        ignorant.insert(from);
        let homes = route.others().all(|home| home.is_some_and(|home| ignorant.contains(&home)));
        let others = taking_part(&route.view).filter(|name| **name != route.view.name);
        let mut others = others.map(|name| route.view.ids.get(name));
        if others.all(|id| id.is_some_and(|id| ignorant.contains(id))) {
            self.told_where(now, partition, RoundNumber::default(), RoundNumber::default(), out);
        } else if homes {
            self.ask_members(partition, out);
        }
    }

    /// All is known that there is to know: from now on records of the partition are taken.
    fn begin(&mut self, now: Now, partition: Partition, out: &mut Vec<Effect>) {
        self.collect.newcomers.begun.insert(partition);
        self.collect.newcomers.ignorant.remove(&partition);
        if self.is_lost(partition) {
            self.rebuild_partition(now, partition, out);
        }
    }

    /// Something is written of a partition here.
    pub(in crate::protocol::worker) fn note_written(&mut self, partition: Partition) {
        if self.collect.newcomers.begun.contains(&partition) {
            self.collect.newcomers.written.insert(partition);
        }
    }

    /// A round was closed that this node never confirmed. If it is a newcomer to the partition, was told that the round
    /// was open, and was brought nothing from before the round, it takes the number over.
    pub(super) fn adopt_round(
        &mut self,
        partition: Partition,
        closed: RoundNumber,
        out: &mut Vec<Effect>,
    ) -> bool {
        let number = self.collect.state(partition).number;
        closed <= number && self.take_over(partition, number, closed, out)
    }

    /// Takes over what it was told, if it is a newcomer to the partition and was brought nothing older.
    fn take_over(
        &mut self,
        partition: Partition,
        number: RoundNumber,
        closed: RoundNumber,
        out: &mut Vec<Effect>,
    ) -> bool {
        let lowest = self.collect.brought.lowest(partition);
        if !self.is_newcomer_to(partition) || lowest < closed {
            return false;
        }
        // At once, and not when it is durable: what is older must not come in meanwhile.
        let state = Rounds::told(number, closed);
        self.collect.rounds.insert(partition, state.clone());
        self.commit_rounds(partition, state, Then::Nothing, out);
        true
    }
}
