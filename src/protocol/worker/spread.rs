//! Spreading: making one record durable on enough homes.
//!
//! Each home is a *target*, and a slot to be filled in every live version of which it is a home (see
//! [`super::route`]). The home itself is asked first; where it is down, refuses or is silent past its
//! time, the next live fallback of that version keeps the record as a hint; where no fallback is left,
//! the coordinator keeps the hint beside its own copy. A slot that was filled once is settled; the
//! spread goes on after its answer was given, until all slots are settled, so that an acknowledged
//! write either is on each home or waits for it as a hint.
//!
//! Two counts are kept of each live version: who *holds* the record at all, and who *counts* toward W
//! (a strict request counts no hint, and no request one whose home may still answer: see [`late`]). Both
//! count distinct nodes in distinct slots.

mod late;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::cells::{CellId, Incoming, Task, Waiter};
use super::route::{Needed, Route, Target};
use super::{Op, OpKey, Purpose, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::message::{DataMessage, PlacementTag, Refusal, WriteAnswer, WriteRequest};
use crate::protocol::placement::{LIVE_MAX, Versions};
use crate::protocol::quorum::Tally;
use crate::protocol::record::{Record, Sealed, VersionVector};
use crate::protocol::step::Effect;
use crate::types::{Key, NodeId, NodeName, Now, RecordHash, RoundNumber, TraceContext};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Outstanding,
    /// Past its time, and someone else has been asked; its answer still counts.
    Late,
    Held,
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    target: usize,
    node: NodeId,
    hint: bool,
    /// In which versions it fills the target's slot.
    versions: Versions,
    state: State,
    /// It, or this node, has not heard of a version yet, and it is sent the record again.
    stale: bool,
    /// Late for so long that what others keep for it counts, whether it answers or not.
    overdue: bool,
}

/// A record on its way to the homes of its key.
#[derive(Debug)]
pub(super) struct Spread {
    pub route: Arc<Route>,
    pub key: Key,
    pub record: Arc<Record>,
    sealed: Sealed,
    /// The lowest round that the record was formed from.
    pub round: RoundNumber,
    pub needed: Needed,
    /// Whether hints do not count.
    pub strict: bool,
    trace: Option<TraceContext>,
    asked: Vec<Asked>,
    /// Who is still to be asked to keep a hint, by live version, once one is needed.
    fallbacks: Option<Vec<VecDeque<NodeId>>>,
    holds: [Tally; LIVE_MAX],
    counts: [Tally; LIVE_MAX],
    acks: usize,
    /// Whether a hint was refused for want of room.
    pub hints_full: bool,
}

/// What a spread has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Waiting,
    /// W is reached.
    Enough,
    /// Nobody is left to be waited for, and W is not reached.
    Lost,
}

impl State {
    /// Whether an answer may still come.
    fn is_open(self) -> bool {
        matches!(self, Self::Outstanding | Self::Late)
    }
}

impl Spread {
    pub fn new(
        route: Arc<Route>,
        key: Key,
        record: Arc<Record>,
        round: RoundNumber,
        needed: Needed,
        strict: bool,
        trace: Option<TraceContext>,
    ) -> Self {
        let sealed = record.seal(route.partition, &key);
        Self {
            route,
            key,
            record,
            sealed,
            round,
            needed,
            strict,
            trace,
            asked: Vec::new(),
            fallbacks: None,
            holds: Default::default(),
            counts: Default::default(),
            acks: 0,
            hints_full: false,
        }
    }

    /// What is to be left in a cell of this node.
    pub fn incoming(&self) -> Incoming {
        let (record, sealed) = (self.record.clone(), Some(self.sealed.clone()));
        Incoming { record, sealed, round: self.round }
    }

    /// Whether each slot's home holds the record, or someone keeps it as a hint.
    pub fn settled(&self) -> bool {
        let held = |(at, target): (usize, &Target)| {
            target.versions.places().all(|place| self.holds[place].holds(at))
        };
        self.route.targets.iter().enumerate().all(held)
    }

    /// The versions in which nobody holds a target's slot, and nobody who was asked to may still.
    fn open(&self, target: usize) -> Versions {
        let held = |place: &usize| self.holds[*place].holds(target);
        let versions = self.route.targets[target].versions;
        let filled = versions.places().filter(held).fold(Versions::NONE, Versions::with);
        let waiting = |asked: &&Asked| asked.target == target && asked.state == State::Outstanding;
        let waiting = self.asked.iter().filter(waiting);
        waiting.fold(versions.without(filled), |open, asked| open.without(asked.versions))
    }

    /// Whether nobody is left to be waited for.
    pub fn idle(&self) -> bool {
        !self.asked.iter().any(|asked| asked.state.is_open())
    }

    /// Homes that hold the record, and nodes that hold it as a hint, by name.
    pub fn holders(&self) -> (Vec<NodeName>, Vec<NodeName>) {
        let held = self.asked.iter().filter(|asked| asked.state == State::Held);
        let (hints, homes): (Vec<&Asked>, Vec<&Asked>) = held.partition(|asked| asked.hint);
        (self.names(&homes), self.names(&hints))
    }

    /// Homes that are not known to hold the record, by name.
    pub fn missing(&self) -> Vec<NodeName> {
        let held = |target: usize| {
            self.asked.iter().any(|a| a.target == target && !a.hint && a.state == State::Held)
        };
        let targets = self.route.targets.iter().enumerate().filter(|&(at, _)| !held(at));
        targets.map(|(_, target)| target.name.clone()).collect()
    }

    /// Distinct nodes that hold the record, whatever slot they fill: the seeded defect's count.
    fn nodes(&self) -> usize {
        let held = self.asked.iter().filter(|asked| asked.state == State::Held);
        let counted = held.filter(|asked| !(asked.hint && self.strict));
        counted.map(|asked| asked.node).collect::<BTreeSet<_>>().len()
    }

    fn names(&self, asked: &[&Asked]) -> Vec<NodeName> {
        let view = &self.route.view;
        let mut names: Vec<NodeName> =
            asked.iter().filter_map(|asked| view.name_of(asked.node).cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn hold(&mut self, ask: usize) {
        let Asked { target, node, hint, versions, .. } = self.asked[ask];
        self.asked[ask].state = State::Held;
        self.acks += 1;
        versions.places().for_each(|place| self.holds[place].ack(target, node));
        if !hint {
            versions.places().for_each(|place| self.counts[place].ack(target, node));
        }
        self.count_hints(target);
    }

    /// What is kept for a home counts once the home is not waited for. A quorum read shows a write that its homes
    /// have, and not one that waits beside homes that can be asked.
    fn count_hints(&mut self, target: usize) {
        let awaited = |a: &Asked| a.target == target && !a.hint && a.state.is_open() && !a.overdue;
        if self.strict || self.asked.iter().any(awaited) {
            return;
        }
        let kept = |a: &&Asked| a.target == target && a.hint && a.state == State::Held;
        for Asked { node, versions, .. } in self.asked.iter().filter(kept) {
            versions.places().for_each(|place| self.counts[place].ack(target, *node));
        }
    }

    /// Takes back whatever `node` has acknowledged.
    fn forget(&mut self, node: NodeId) {
        self.holds.iter_mut().chain(&mut self.counts).for_each(|tally| tally.forget(node));
    }

    fn ask(&mut self, target: usize, node: NodeId, hint: bool, versions: Versions) -> usize {
        let (state, stale, overdue) = (State::Outstanding, false, false);
        self.asked.push(Asked { target, node, hint, versions, state, stale, overdue });
        self.asked.len() - 1
    }
}

impl Worker {
    /// Sends the record to every home. `skip` lists targets that are known to hold it already;
    /// the own copy, if this node is a home, is the caller's to leave in its cell.
    pub(super) fn spread_start(
        &mut self,
        now: Now,
        op: OpKey,
        spread: &mut Spread,
        skip: &[usize],
        out: &mut Vec<Effect>,
    ) {
        let me = spread.route.view.me;
        for (at, target) in spread.route.clone().targets.iter().enumerate() {
            let versions = target.versions;
            match target.node {
                node if skip.contains(&at) => {
                    let ask = spread.ask(at, node.unwrap_or(me), false, versions);
                    spread.hold(ask);
                }
                Some(node) if node == me => {
                    spread.ask(at, node, false, versions);
                }
                Some(node) if self.peers.reachable(node) => {
                    self.spread_send(now, op, spread, at, node, false, versions, out);
                }
                _ => self.spread_hint(now, op, spread, at, out),
            }
        }
    }

    /// The index of the own copy among those asked, for [`Waiter::Spread`].
    pub(super) fn spread_own(spread: &Spread) -> Option<usize> {
        spread.asked.iter().position(|asked| asked.node == spread.route.view.me && !asked.hint)
    }

    fn spread_send(
        &mut self,
        now: Now,
        op: OpKey,
        spread: &mut Spread,
        target: usize,
        node: NodeId,
        hint: bool,
        versions: Versions,
        out: &mut Vec<Effect>,
    ) {
        let ask = spread.ask(target, node, hint, versions);
        self.spread_post(now, op, spread, ask, out);
    }

    fn spread_post(
        &mut self,
        now: Now,
        op: OpKey,
        spread: &Spread,
        ask: usize,
        out: &mut Vec<Effect>,
    ) {
        let Asked { target, node, hint, .. } = spread.asked[ask];
        let hint_for = hint.then(|| spread.route.targets[target].name.clone());
        let (key, record) = (spread.key.clone(), self.to_send(spread));
        let round = spread.round;
        let message =
            |call| DataMessage::Write(WriteRequest { call, key, record, hint_for, round });
        let partition = spread.route.partition;
        let purpose = Purpose::Spread { op, ask };
        if hint {
            // A disk that was set back sets aside what it keeps once it hears where the rounds are: it is to hear
            // of them before it keeps this.
            self.tell_if_behind(node, partition, RoundNumber::default(), out);
        }
        self.call(now, node, purpose, partition, spread.trace, message, out);
    }

    /// What travels is always the whole record, never a lone sibling.
    fn to_send(&self, spread: &Spread) -> Sealed {
        if self.has(Defect::LoneSibling)
            && let Some(last) = spread.record.siblings().last()
        {
            let lone = Record::default().write(&VersionVector::default(), last.clone());
            let mut seen = spread.record.seen().clone();
            seen.add(last.dot);
            let lone = Record::from_parts(seen, lone.siblings().to_vec()).unwrap_or(lone);
            return lone.seal(spread.route.partition, &spread.key);
        }
        spread.sealed.clone()
    }

    /// Has the record kept for a target that does not take it, in each version in which nobody else
    /// does: by the version's next live fallback, or by this node if none is left.
    fn spread_hint(
        &mut self,
        now: Now,
        op: OpKey,
        spread: &mut Spread,
        target: usize,
        out: &mut Vec<Effect>,
    ) {
        let route = spread.route.clone();
        let me = route.view.me;
        let mut done = Versions::NONE;
        // Each turn asks a fallback, of which there are finitely many, or is done with a version.
        while let Some(place) = spread.open(target).without(done).places().next() {
            let node = self.next_fallback(spread, place).unwrap_or(me);
            if node == me {
                self.spread_hint_here(op, spread, target);
                done = done.with(place);
                continue;
            }
            let name = route.view.name_of(node);
            let versions = name.map_or(Versions::NONE, |name| route.view.versions_of(name));
            let versions = versions.and(route.targets[target].versions);
            self.spread_send(now, op, spread, target, node, true, versions, out);
        }
    }

    /// The next live fallback of a version; it is asked once, whatever versions it is a member of.
    fn next_fallback(&self, spread: &mut Spread, place: usize) -> Option<NodeId> {
        let route = spread.route.clone();
        let newest = &route.view.newest().placement;
        let stays = |node: &NodeId| {
            route.view.name_of(*node).is_some_and(|name| newest.member(name).is_some())
        };
        let of = |place| self.live_fallbacks(&route, place).into_iter().filter(stays).collect();
        let all = || (0..route.view.live().len()).map(of).collect();
        let fallbacks: &mut Vec<VecDeque<NodeId>> = spread.fallbacks.get_or_insert_with(all);
        let node = fallbacks[place].pop_front()?;
        fallbacks.iter_mut().for_each(|others| others.retain(|&other| other != node));
        Some(node)
    }

    /// This node keeps the hint itself, in all versions of which it is a member.
    fn spread_hint_here(&mut self, op: OpKey, spread: &mut Spread, target: usize) {
        let route = spread.route.clone();
        let me = route.view.me;
        let own = |asked: &Asked| asked.target == target && asked.node == me && asked.hint;
        if spread.asked.iter().any(own) {
            return;
        }
        let versions = route.view.versions_of(&route.view.name);
        let ask = spread.ask(target, me, true, versions.and(route.targets[target].versions));
        // A hint of this node for itself would be kept by the very store that refused the record.
        let leaves = route.view.newest().my_member().is_none();
        if route.own_target == Some(target) || leaves {
            spread.asked[ask].state = State::Failed;
            return;
        }
        let cell = CellId::hint(&route.targets[target].name, route.partition, &spread.key);
        let task = Task::Merge(spread.incoming(), Waiter::Spread { op, ask });
        self.later.push((cell, task));
    }

    /// Nobody keeps a hint for a target: comparing with it has to do what a hint would have.
    fn spread_owes(&mut self, now: Now, spread: &Spread, target: usize) {
        let node = spread.route.targets[target].node;
        if let Some(node) = node.filter(|_| spread.route.own_target.is_some()) {
            self.compare_for_a_hint(now, node);
        }
    }

    /// A home or a fallback has failed: the next in line is asked.
    fn spread_next(
        &mut self,
        now: Now,
        op: OpKey,
        spread: &mut Spread,
        ask: usize,
        then: State,
        out: &mut Vec<Effect>,
    ) {
        let before = spread.asked[ask].state;
        if !before.is_open() {
            return;
        }
        spread.asked[ask].state = then;
        let target = spread.asked[ask].target;
        spread.count_hints(target);
        if before == State::Late {
            return;
        }
        self.spread_hint(now, op, spread, target, out);
    }

    /// Where a spread stands.
    pub(super) fn reach(&self, spread: &Spread) -> Reached {
        let count = |place: usize| {
            if self.has(Defect::CountNodeTwice) {
                spread.acks
            } else if self.has(Defect::CountHomeAndHint) {
                spread.nodes()
            } else {
                spread.counts[place].count()
            }
        };
        if spread.needed.met(count) {
            Reached::Enough
        } else if spread.idle() {
            Reached::Lost
        } else {
            Reached::Waiting
        }
    }

    pub(super) fn spread_answered(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        theirs: PlacementTag,
        answer: WriteAnswer,
        out: &mut Vec<Effect>,
    ) {
        match answer {
            WriteAnswer::Stored(hash) => {
                self.with_spread(op, out, |_, spread, _| spread.hold(ask));
                if self.has(Defect::DeleteHintOnAnyAck) {
                    self.drop_own_hints(now, op, ask, hash, out);
                }
            }
            // It waits for this node to hear of what it has heard of, and takes the record then.
            WriteAnswer::Refused(Refusal::PlacementOld) => {
                self.with_spread(op, out, |worker, spread, out| {
                    worker.spread_behind(now, op, spread, ask, out);
                });
            }
            WriteAnswer::Refused(Refusal::NotMine) => {
                self.with_spread(op, out, |worker, spread, out| {
                    worker.spread_not_theirs(now, op, spread, ask, theirs, out);
                });
            }
            WriteAnswer::Refused(refusal) => {
                self.with_spread(op, out, |worker, spread, out| {
                    spread.hints_full |= refusal == Refusal::HintsFull;
                    if refusal == Refusal::HintsFull {
                        worker.spread_owes(now, spread, spread.asked[ask].target);
                    }
                    worker.spread_next(now, op, spread, ask, State::Failed, out);
                });
            }
        }
        self.spread_moved(now, op, out);
    }

    /// The seeded defect: what one home holds is taken to be held by those that hints wait for.
    fn drop_own_hints(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        hash: RecordHash,
        out: &mut Vec<Effect>,
    ) {
        let Some(Op::Put(put)) = self.ops.get(&op) else { return };
        let Some(spread) = put.spread.as_ref().filter(|spread| !spread.asked[ask].hint) else {
            return;
        };
        let route = &spread.route;
        let names = route.targets.iter().map(|target| &target.name);
        let cells: Vec<CellId> =
            names.map(|name| CellId::hint(name, route.partition, &spread.key)).collect();
        for cell in cells {
            self.with_view(now, cell, Task::DropHint(hash), out);
        }
    }

    pub(super) fn spread_failed(&mut self, now: Now, op: OpKey, ask: usize, out: &mut Vec<Effect>) {
        self.with_spread(op, out, |worker, spread, out| {
            worker.spread_next(now, op, spread, ask, State::Failed, out);
        });
        self.spread_moved(now, op, out);
    }

    /// A disk was replaced: nothing that it acknowledged counts any more, and somebody else is asked.
    pub(super) fn spread_fenced(&mut self, now: Now, node: NodeId, out: &mut Vec<Effect>) {
        let mut ops: Vec<OpKey> = self.ops.keys().copied().collect();
        ops.sort_unstable();
        for op in ops {
            let mut rested = false;
            self.with_spread(op, out, |worker, spread, out| {
                spread.forget(node);
                for ask in 0..spread.asked.len() {
                    let asked = &mut spread.asked[ask];
                    if asked.node == node && asked.state == State::Held {
                        rested = true;
                        asked.state = State::Outstanding;
                        worker.spread_next(now, op, spread, ask, State::Failed, out);
                    }
                }
            });
            if rested {
                self.spread_moved(now, op, out);
            }
        }
    }

    /// This node's own copy, or the hint that it keeps itself, is durable, or was refused.
    pub(super) fn spread_own_done(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        durable: bool,
        out: &mut Vec<Effect>,
    ) {
        if !durable {
            return self.spread_failed(now, op, ask, out);
        }
        self.with_spread(op, out, |_, spread, _| spread.hold(ask));
        self.spread_moved(now, op, out);
    }

    /// There is no room for the hint that this node was to keep itself.
    pub(super) fn spread_own_full(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        out: &mut Vec<Effect>,
    ) {
        self.with_spread(op, out, |worker, spread, _| {
            spread.hints_full = true;
            worker.spread_owes(now, spread, spread.asked[ask].target);
        });
        self.spread_own_done(now, op, ask, false, out);
    }

    fn spread_of(&self, op: OpKey) -> Option<&Spread> {
        match self.ops.get(&op)? {
            Op::Put(put) => put.spread.as_ref(),
            Op::Get(get) => get.spread.as_ref(),
            Op::Pass(_) | Op::Scan(_) | Op::Rebuild(_) => None,
        }
    }

    fn with_spread(
        &mut self,
        op: OpKey,
        out: &mut Vec<Effect>,
        act: impl FnOnce(&mut Self, &mut Spread, &mut Vec<Effect>),
    ) {
        let slot = match self.ops.get_mut(&op) {
            Some(Op::Put(put)) => &mut put.spread,
            Some(Op::Get(get)) => &mut get.spread,
            _ => return,
        };
        let Some(mut spread) = slot.take() else { return };
        act(self, &mut spread, out);
        match self.ops.get_mut(&op) {
            Some(Op::Put(put)) => put.spread = Some(spread),
            Some(Op::Get(get)) => get.spread = Some(spread),
            _ => {}
        }
    }

    fn spread_moved(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        self.run_later(now, out);
        match self.ops.get(&op) {
            Some(Op::Put(_)) => self.put_moved(now, op, out),
            Some(Op::Get(_)) => self.get_moved(now, op, out),
            _ => {}
        }
    }

    /// Leaves in their cells what spreads have decided to keep here. It comes after the spread
    /// is back in its op, because a cell may answer at once.
    pub(super) fn run_later(&mut self, now: Now, out: &mut Vec<Effect>) {
        while let Some((cell, task)) = self.later.pop() {
            self.with_view(now, cell, task, out);
        }
    }
}
