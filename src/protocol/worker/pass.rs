//! Passing a write to a home, and taking one that was passed.
//!
//! A passed write runs *at most once*: it names a session that its receiver issued to the
//! sender's process, a number that is new within that session, and a deadline on the receiver's
//! clock. The network may duplicate it, delay it for long or deliver it to a process that was
//! restarted; none of these makes it run again, which could overwrite a later write. It is passed
//! on to another only on proof that nothing was begun.

use std::collections::{BTreeMap, BTreeSet};

use super::put::Asked;
use super::replica::Sender;
use super::timers::{Timer, TimerKey};
use super::{Op, OpKey, Origin, Purpose, SILENCE_MAX, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::message::{CallId, DataMessage, OpenSession, Pass, PassAnswer, Session};
use crate::protocol::op::{Action, Failure, Op as ClientOp, Outcome, Reason};
use crate::protocol::step::{Effect, Ticket};
use crate::types::{Boot, Key, Mono, NodeId, Now, Partition, TraceContext};

/// Numbers of a session that are remembered one by one; older ones are refused as a whole.
const SEEN_MAX: usize = 8192;

/// Both sides of all sessions. A session belongs to a lane: that is what meets one worker at
/// both ends.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    issued: BTreeMap<(NodeId, u16), Issued>,
    opened: BTreeMap<(NodeId, u16), Opened>,
}

/// A session that this node issued to a peer.
#[derive(Debug)]
struct Issued {
    boot: Boot,
    nonce: u64,
    /// Every number up to this one counts as seen.
    floor: u64,
    seen: BTreeSet<u64>,
}

/// A session that a peer issued to this node.
#[derive(Debug)]
enum Opened {
    Asked { waiting: Vec<OpKey> },
    Open { nonce: u64, issued: Mono, received: Mono, next: u64 },
}

/// A write that was or will be passed to another node.
#[derive(Debug)]
pub(super) struct PassOp {
    origin: Origin,
    asked: Asked,
    partition: Partition,
    candidates: Vec<NodeId>,
    /// Whom it was sent to, if it was: from then on it may have been begun.
    sent: Option<(NodeId, CallId)>,
    timer: TimerKey,
}

impl Issued {
    /// Whether the number comes for the first time.
    fn take(&mut self, sequence: u64) -> bool {
        if sequence <= self.floor || !self.seen.insert(sequence) {
            return false;
        }
        if self.seen.len() > SEEN_MAX
            && let Some(oldest) = self.seen.pop_first()
        {
            self.floor = oldest;
        }
        true
    }
}

impl Worker {
    /// A client asks for something: a read is coordinated here, a write by a home.
    pub(super) fn client(
        &mut self,
        now: Now,
        ticket: Ticket,
        op: ClientOp,
        deadline: Mono,
        trace: Option<TraceContext>,
        out: &mut Vec<Effect>,
    ) {
        let origin = Origin::Client(ticket);
        let Some(view) = self.view.clone() else {
            return self.fail_before(origin, Partition(0), Reason::NotFounded, out);
        };
        let partition = op.key.partition(view.partitions());
        let refusal = if self.conditions.draining {
            Some(Reason::ShuttingDown)
        } else if self.is_full() {
            Some(Reason::Overloaded)
        } else if op.strict && !self.conditions.confirmed {
            Some(Reason::NotConfirmed)
        } else if op.strict && view.newest().my_member().is_none() {
            Some(Reason::NotMember)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return self.fail_before(origin, partition, reason, out);
        }
        match op.action {
            Action::Get => self.start_get(now, origin, &op, deadline, trace, out),
            Action::Put(put) => {
                let (key, consistency, strict) = (op.key, op.consistency, op.strict);
                let asked = Asked { key, put, consistency, strict, deadline, trace };
                let candidates = self.better_coordinators(partition, &asked.key);
                if candidates.is_empty() {
                    return self.start_put(now, origin, asked, out);
                }
                self.start_pass(now, origin, asked, partition, candidates, out);
            }
        }
    }

    /// Who should coordinate a write in this node's stead, best first; none if this node should.
    fn better_coordinators(&mut self, partition: Partition, key: &Key) -> Vec<NodeId> {
        let Some(route) = self.route(partition) else { return vec![] };
        let me = route.view.me;
        let is_whole = route.own.is_some()
            && !self.is_rebuilding(partition, key)
            && !self.is_untold(partition);
        if is_whole && !self.conditions.clock_suspect {
            return vec![];
        }
        let homes = route.slots.iter().filter_map(|slot| slot.1).filter(|&node| node != me);
        let mut live: Vec<NodeId> = homes.filter(|&node| self.peers.reachable(node)).collect();
        live.sort_by_key(|&node| self.peers.latency(node) / 1024);
        if live.is_empty() && route.own.is_none() {
            let fallbacks = self.live_fallbacks(&route, route.view.reads_place());
            live.extend(fallbacks.into_iter().take_while(|&node| node != me).take(1));
        }
        live
    }

    fn start_pass(
        &mut self,
        now: Now,
        origin: Origin,
        asked: Asked,
        partition: Partition,
        candidates: Vec<NodeId>,
        out: &mut Vec<Effect>,
    ) {
        self.stats.passed += 1;
        let op = self.next_op();
        let timer = self.timers.set(asked.deadline, Timer::Op(op));
        let pass = PassOp { origin, asked, partition, candidates, sent: None, timer };
        self.ops.insert(op, Op::Pass(Box::new(pass)));
        self.pass_on(now, op, out);
    }

    /// Passes to the first candidate that can be reached; coordinates here if none is left.
    fn pass_on(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Pass(mut pass)) = self.ops.remove(&op) else { return };
        let reachable = |&&candidate: &&NodeId| self.peers.reachable(candidate);
        let Some(&to) = pass.candidates.iter().find(reachable) else {
            self.timers.cancel(pass.timer);
            return self.start_put(now, pass.origin, pass.asked, out);
        };
        let lane = (to, pass.partition.lane());
        match self.sessions.opened.get_mut(&lane) {
            Some(Opened::Open { nonce, issued, received, next }) => {
                // What is left of the deadline, on the receiver's clock: that clock read `issued`
                // no later than ours read `received`, so it gets there no later than ours.
                let left = pass.asked.deadline.micros_since(*received);
                let (session, deadline) = (*nonce, issued.after_micros(left));
                *next += 1;
                let sequence = *next;
                let asked = pass.asked.clone();
                let trace = asked.trace;
                let partition = pass.partition;
                let message = |call| {
                    let Asked { key, put, consistency, strict, .. } = asked;
                    DataMessage::Pass(Pass {
                        call,
                        session,
                        sequence,
                        deadline,
                        key,
                        put,
                        consistency,
                        strict,
                    })
                };
                let patience = pass.asked.deadline.micros_since(now.mono);
                let purpose = Purpose::Pass { op };
                let call =
                    self.call_within(now, to, patience, purpose, partition, trace, message, out);
                pass.sent = Some((to, call));
                self.ops.insert(op, Op::Pass(pass));
            }
            Some(Opened::Asked { waiting }) => {
                waiting.push(op);
                self.ops.insert(op, Op::Pass(pass));
            }
            None => {
                self.sessions.opened.insert(lane, Opened::Asked { waiting: vec![op] });
                let partition = pass.partition;
                self.ops.insert(op, Op::Pass(pass));
                self.ask_session(now, to, partition, out);
            }
        }
    }

    fn ask_session(&mut self, now: Now, to: NodeId, partition: Partition, out: &mut Vec<Effect>) {
        let message = DataMessage::OpenSession(OpenSession { boot: self.config.boot });
        out.push(Effect::Send { to, trace: None, partition, message });
        let patience = self.config.tuning.replica_timeout;
        self.arm(now.mono.after_micros(patience), Timer::Session(to, partition.lane()));
    }

    /// A session was asked for some time ago: those who still wait try someone else.
    pub(super) fn session_timer(
        &mut self,
        now: Now,
        node: NodeId,
        lane: u16,
        out: &mut Vec<Effect>,
    ) {
        if let Some(Opened::Asked { .. }) = self.sessions.opened.get(&(node, lane)) {
            self.peer_timed_out(now, node, out);
            self.session_failed(now, node, lane, out);
        }
    }

    fn session_failed(&mut self, now: Now, node: NodeId, lane: u16, out: &mut Vec<Effect>) {
        let Some(Opened::Asked { waiting }) = self.sessions.opened.remove(&(node, lane)) else {
            return;
        };
        for op in waiting {
            self.pass_elsewhere(now, op, node, out);
        }
    }

    /// A peer cannot be reached: nothing was begun by those who wait for a session with it.
    pub(super) fn session_lost(&mut self, now: Now, node: NodeId, out: &mut Vec<Effect>) {
        let asked = |opened: &Opened| matches!(opened, Opened::Asked { .. });
        let range = (node, 0)..=(node, u16::MAX);
        let lanes: Vec<u16> = self
            .sessions
            .opened
            .range(range)
            .filter(|(_, opened)| asked(opened))
            .map(|(lane, _)| lane.1)
            .collect();
        for lane in lanes {
            self.session_failed(now, node, lane, out);
        }
    }

    /// A peer has issued a session.
    pub(super) fn session_opened(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        session: Session,
        out: &mut Vec<Effect>,
    ) {
        let lane = (from, partition.lane());
        if session.boot != self.config.boot {
            return;
        }
        let Some(Opened::Asked { waiting }) = self.sessions.opened.remove(&lane) else { return };
        let (nonce, issued) = (session.nonce, session.now);
        self.sessions
            .opened
            .insert(lane, Opened::Open { nonce, issued, received: now.mono, next: self.last_call });
        for op in waiting {
            self.pass_on(now, op, out);
        }
    }

    /// Nothing was begun by `node`: the next candidate is tried.
    fn pass_elsewhere(&mut self, now: Now, op: OpKey, node: NodeId, out: &mut Vec<Effect>) {
        let Some(Op::Pass(pass)) = self.ops.get_mut(&op) else { return };
        pass.candidates.retain(|&candidate| candidate != node);
        pass.sent = None;
        self.pass_on(now, op, out);
    }

    /// The receiver of a passed write has answered.
    pub(super) fn pass_answered(
        &mut self,
        now: Now,
        op: OpKey,
        answer: PassAnswer,
        out: &mut Vec<Effect>,
    ) {
        let Some(Op::Pass(pass)) = self.ops.get_mut(&op) else { return };
        let Some((node, _)) = pass.sent else { return };
        match answer {
            PassAnswer::Ended(outcome) => {
                let (origin, partition) = (pass.origin, pass.partition);
                self.timers.cancel(pass.timer);
                self.ops.remove(&op);
                self.reply(origin, partition, outcome, out);
            }
            PassAnswer::NotBegun => self.pass_elsewhere(now, op, node, out),
            PassAnswer::NoSession => {
                let lane = pass.partition.lane();
                pass.sent = None;
                if let Some(Opened::Open { .. }) = self.sessions.opened.get(&(node, lane)) {
                    self.sessions.opened.remove(&(node, lane));
                }
                self.pass_on(now, op, out);
            }
        }
    }

    /// Whoever took a passed write is silent: it has a while to answer still, and leaves as much to whoever asks again.
    pub(super) fn wait_for_pass(&mut self, now: Now, op: OpKey, call: CallId) {
        let Some(Op::Pass(pass)) = self.ops.get(&op) else { return };
        let until = self.silence_ends(now, SILENCE_MAX, pass.asked.deadline);
        self.wait_on(call, until);
    }

    /// Whoever took a passed write has been silent for that while. If it is no more, it has until the deadline.
    pub(super) fn pass_late(
        &mut self,
        now: Now,
        op: OpKey,
        call: CallId,
        to: NodeId,
        out: &mut Vec<Effect>,
    ) {
        match self.ops.get(&op) {
            Some(Op::Pass(pass)) if self.peers.reachable(to) && now.mono < pass.asked.deadline => {
                self.wait_on(call, pass.asked.deadline);
            }
            _ => self.call_failed(now, call, out),
        }
    }

    /// The receiver of a passed write has not answered in time, or cannot be reached any more: it may have run.
    pub(super) fn pass_silent(&mut self, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Pass(pass)) = self.ops.remove(&op) else { return };
        self.timers.cancel(pass.timer);
        if let Some(call) = pass.sent.and_then(|(_, call)| self.calls.remove(&call)) {
            self.timers.cancel(call.timer);
        }
        let view = self.view.clone();
        let name = |node: NodeId| view.as_ref().and_then(|view| view.name_of(node).cloned());
        let failure = Failure {
            reason: Reason::CoordinatorSilent,
            needed: 1,
            reached: vec![],
            missing: pass.sent.and_then(|(node, _)| name(node)).into_iter().collect(),
            maybe_applied: pass.sent.is_some(),
        };
        self.reply(pass.origin, pass.partition, Outcome::Failed(failure), out);
    }

    /// A peer wants a session. Asking twice gives the same one, so that a duplicated wish does
    /// not end a session that is in use.
    pub(super) fn serve_session(
        &mut self,
        now: Now,
        sender: Sender,
        partition: Partition,
        open: OpenSession,
        out: &mut Vec<Effect>,
    ) {
        let key = (sender.from, partition.lane());
        let known = self.sessions.issued.get(&key).filter(|issued| issued.boot == open.boot);
        let nonce = match known {
            Some(issued) => issued.nonce,
            None => {
                let nonce = self.random();
                let (boot, seen) = (open.boot, BTreeSet::new());
                self.sessions.issued.insert(key, Issued { boot, nonce, floor: 0, seen });
                nonce
            }
        };
        let message = DataMessage::Session(Session { boot: open.boot, nonce, now: now.mono });
        out.push(Effect::Send { to: sender.from, trace: None, partition, message });
    }

    /// A peer passes a write to this node.
    pub(super) fn serve_pass(
        &mut self,
        now: Now,
        sender: Sender,
        partition: Partition,
        pass: Pass,
        out: &mut Vec<Effect>,
    ) {
        let answer = |answer, out: &mut Vec<Effect>| {
            let message = DataMessage::PassReply(pass.call, answer);
            out.push(Effect::Send { to: sender.from, trace: sender.trace, partition, message });
        };
        let twice = self.has(Defect::RunPassedTwice);
        let issued = self.sessions.issued.get_mut(&(sender.from, partition.lane()));
        let Some(issued) = issued.filter(|issued| issued.nonce == pass.session) else {
            return answer(PassAnswer::NoSession, out);
        };
        if !issued.take(pass.sequence) && !twice {
            // Begun before, or refused before: whoever passed it was or will be answered then.
            return;
        }
        let refused = !self.lies_in(partition, &pass.key)
            || now.mono >= pass.deadline
            || self.conditions.draining
            || self.view.is_none()
            || self.is_full()
            || self.is_untold(partition)
            || (self.is_rebuilding(partition, &pass.key)
                && !self.better_coordinators(partition, &pass.key).is_empty())
            || (pass.strict && !self.conditions.confirmed);
        if refused {
            return answer(PassAnswer::NotBegun, out);
        }
        let Pass { call, deadline, key, put, consistency, strict, .. } = pass;
        let origin = Origin::Passed { from: sender.from, call };
        let trace = sender.trace;
        let asked = Asked { key, put, consistency, strict, deadline, trace };
        self.start_put(now, origin, asked, out);
    }
}

/// Tells a peer how the write that it passed ended.
pub(super) fn answer_pass(
    to: NodeId,
    call: CallId,
    partition: Partition,
    outcome: Outcome,
    out: &mut Vec<Effect>,
) {
    let message = DataMessage::PassReply(call, PassAnswer::Ended(outcome));
    out.push(Effect::Send { to, trace: None, partition, message });
}
