//! Spreading: making one record durable on enough homes.
//!
//! Each home is a *slot* to be filled. The home itself is asked first; where it is down, refuses
//! or is silent past its time, the next live fallback keeps the record as a hint; where no
//! fallback is left, the coordinator keeps the hint beside its own copy. A slot that was filled
//! once is settled; the spread goes on after its answer was given, until all slots are settled,
//! so that an acknowledged write either is on each home or waits for it as a hint.
//!
//! Two counts are kept: who *holds* the record at all, and who *counts* toward W (a strict
//! request counts no hint). Both count distinct nodes in distinct slots.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::cells::{CellId, Incoming, Task, Waiter};
use super::gather::Route;
use super::{Op, OpKey, Purpose, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::message::{DataMessage, Refusal, WriteAnswer, WriteRequest};
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
    slot: usize,
    node: NodeId,
    hint: bool,
    state: State,
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
    pub needed: usize,
    /// Whether hints do not count.
    pub strict: bool,
    trace: Option<TraceContext>,
    asked: Vec<Asked>,
    /// Who is still to be asked to keep a hint, once one is needed.
    fallbacks: Option<VecDeque<NodeId>>,
    holds: Tally,
    counts: Tally,
    acks: usize,
    /// Whether a hint was refused for want of room.
    pub hints_full: bool,
}

/// What a spread has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
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
        needed: usize,
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
            holds: Tally::default(),
            counts: Tally::default(),
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
        (0..self.route.slots.len()).all(|slot| self.holds.holds(slot))
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
        let held = |slot: usize| {
            self.asked.iter().any(|a| a.slot == slot && !a.hint && a.state == State::Held)
        };
        let slots = self.route.slots.iter().enumerate().filter(|&(slot, _)| !held(slot));
        slots.map(|(_, &(member, _))| self.route.view.reads().member_name(member).clone()).collect()
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
        let Asked { slot, node, hint, .. } = self.asked[ask];
        self.asked[ask].state = State::Held;
        self.holds.ack(slot, node);
        self.acks += 1;
        if !(hint && self.strict) {
            self.counts.ack(slot, node);
        }
    }
}

impl Worker {
    /// Sends the record to every home. `skip` lists slots that are known to hold it already;
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
        for (slot, &(_, node)) in spread.route.clone().slots.iter().enumerate() {
            let Some(node) = node.filter(|_| !skip.contains(&slot)) else {
                if skip.contains(&slot) {
                    let node = node.unwrap_or(me);
                    spread.asked.push(Asked { slot, node, hint: false, state: State::Outstanding });
                    spread.hold(spread.asked.len() - 1);
                } else {
                    self.spread_hint(now, op, spread, slot, out);
                }
                continue;
            };
            if node == me {
                spread.asked.push(Asked { slot, node, hint: false, state: State::Outstanding });
            } else if self.peers.reachable(node) {
                self.spread_send(now, op, spread, slot, node, None, out);
            } else {
                self.spread_hint(now, op, spread, slot, out);
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
        slot: usize,
        node: NodeId,
        hint_for: Option<NodeName>,
        out: &mut Vec<Effect>,
    ) {
        let ask = spread.asked.len();
        let hint = hint_for.is_some();
        spread.asked.push(Asked { slot, node, hint, state: State::Outstanding });
        let (key, record) = (spread.key.clone(), self.to_send(spread));
        let round = spread.round;
        let message =
            |call| DataMessage::Write(WriteRequest { call, key, record, hint_for, round });
        let partition = spread.route.partition;
        let purpose = Purpose::Spread { op, ask };
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

    /// Has the record kept for a slot whose home does not take it: by the next live fallback, or
    /// by this node if none is left.
    fn spread_hint(
        &mut self,
        now: Now,
        op: OpKey,
        spread: &mut Spread,
        slot: usize,
        out: &mut Vec<Effect>,
    ) {
        let target = spread.route.view.reads().member_name(spread.route.slots[slot].0).clone();
        let me = spread.route.view.me;
        let live = || self.live_fallbacks(&spread.route).into();
        let node = spread.fallbacks.get_or_insert_with(live).pop_front().unwrap_or(me);
        if node != me {
            self.spread_send(now, op, spread, slot, node, Some(target), out);
            return;
        }
        let own = |asked: &Asked| asked.slot == slot && asked.node == me && asked.hint;
        if spread.asked.iter().any(own) {
            return;
        }
        let ask = spread.asked.len();
        // A hint of this node for itself would be kept by the very store that refused the record.
        if spread.route.own == Some(slot) {
            spread.asked.push(Asked { slot, node: me, hint: true, state: State::Failed });
            return;
        }
        spread.asked.push(Asked { slot, node: me, hint: true, state: State::Outstanding });
        let cell = CellId::hint(&target, spread.route.partition, &spread.key);
        let task = Task::Merge(spread.incoming(), Waiter::Spread { op, ask });
        self.later.push((cell, task));
    }

    /// Nobody keeps a hint for a slot's home: comparing with it has to do what a hint would have.
    fn spread_owes(&mut self, now: Now, spread: &Spread, slot: usize) {
        if let Some(node) = spread.route.slots[slot].1.filter(|_| spread.route.own.is_some()) {
            self.compare_soon(now, node);
        }
    }

    /// A slot's home or fallback has failed: the next in line is asked.
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
        if before == State::Late {
            return;
        }
        let slot = spread.asked[ask].slot;
        let waiting = |asked: &Asked| asked.slot == slot && asked.state == State::Outstanding;
        if !spread.holds.holds(slot) && !spread.asked.iter().any(waiting) {
            self.spread_hint(now, op, spread, slot, out);
        }
    }

    /// Where a spread stands.
    pub(super) fn reach(&self, spread: &Spread) -> Reach {
        let count = if self.has(Defect::CountNodeTwice) {
            spread.acks
        } else if self.has(Defect::CountHomeAndHint) {
            spread.nodes()
        } else {
            spread.counts.count()
        };
        if count >= spread.needed {
            Reach::Enough
        } else if spread.idle() {
            Reach::Lost
        } else {
            Reach::Waiting
        }
    }

    pub(super) fn spread_answered(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
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
            WriteAnswer::Refused(refusal) => {
                self.with_spread(op, out, |worker, spread, out| {
                    spread.hints_full |= refusal == Refusal::HintsFull;
                    if refusal == Refusal::HintsFull {
                        worker.spread_owes(now, spread, spread.asked[ask].slot);
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
        let names = route.slots.iter().map(|&(member, _)| route.view.reads().member_name(member));
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

    /// A peer has not answered in time: someone else is asked as well.
    pub(super) fn spread_late(&mut self, now: Now, op: OpKey, ask: usize, out: &mut Vec<Effect>) {
        self.with_spread(op, out, |worker, spread, out| {
            worker.spread_next(now, op, spread, ask, State::Late, out);
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
                spread.holds.forget(node);
                spread.counts.forget(node);
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
            worker.spread_owes(now, spread, spread.asked[ask].slot);
        });
        self.spread_own_done(now, op, ask, false, out);
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
