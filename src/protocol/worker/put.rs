//! Writing: form one new record over what is known, spread it, answer once W hold it.
//!
//! ```text
//!   home:        ─────────────────────────▶ Forming ──▶ Spreading ──▶ answered ──▶ settled
//!   strict, or a context from the future:      ▲
//!                Gathering R homes ────────────┤
//!   no home, or one that reads do not ask:     │
//!                Consulting own hints ──▶ Gathering what answers at once
//! ```
//!
//! One write, one dot. A home writes under its tenure's actor; a coordinator that is no home takes
//! a fresh actor for each write, for it does not hold what that actor wrote before.

use std::borrow::Cow;
use std::sync::Arc;

use super::cells::{CellId, Task, Waiter};
use super::gather::{Gather, Progress};
use super::route::Route;
use super::spread::{Reached, Spread};
use super::sync::Kind;
use super::timers::{Timer, TimerKey};
use super::{Op, OpKey, Origin, Worker};
use crate::protocol::context::ContextError;
use crate::protocol::defect::Defect;
use crate::protocol::op::{Failure, Outcome, Put, Reason, Receipt};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::{Content, Record, Sibling, VersionVector};
use crate::protocol::step::Effect;
use crate::types::{Actor, Dot, Key, Mono, Now, Partition, RoundNumber, Stamp, TraceContext, Wall};

/// A write under way.
#[derive(Debug)]
pub(super) struct PutOp {
    origin: Origin,
    key: Key,
    put: Put,
    consistency: Consistency,
    strict: bool,
    deadline: Mono,
    timer: TimerKey,
    trace: Option<TraceContext>,
    pub route: Arc<Route>,
    /// The lowest round that anything in it is of.
    pub round: RoundNumber,
    /// Whether nothing may be formed before R homes have answered.
    must_gather: bool,
    /// Own hint cells that have not been consulted yet.
    consulting: usize,
    /// What the write is formed over, beside the own copy.
    base: Record,
    pub gather: Option<Gather>,
    pub spread: Option<Spread>,
    written: Option<Dot>,
    replied: bool,
    came: Mono,
}

/// A write as it was asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub key: Key,
    pub put: Put,
    pub consistency: Consistency,
    pub strict: bool,
    pub deadline: Mono,
    pub trace: Option<TraceContext>,
}

impl PutOp {
    pub fn deadline(&self) -> Mono {
        self.deadline
    }

    /// What has been gathered is written over.
    fn take_in(&mut self, gather: &Gather) {
        self.base = self.base.merge(&gather.merged());
        self.round = self.round.min(gather.round);
    }
}

impl Worker {
    /// Coordinates a write here.
    pub(super) fn start_put(
        &mut self,
        now: Now,
        origin: Origin,
        asked: Asked,
        out: &mut Vec<Effect>,
    ) {
        let partitions = self.view.as_ref().map_or(1, |view| view.partitions());
        let partition = asked.key.partition(partitions);
        let Some(route) = self.route(partition) else {
            return self.fail_before(origin, partition, Reason::NotFounded, out);
        };
        if self.is_untold(partition) {
            self.ask_members(partition, out);
            return self.fail_before(origin, partition, Reason::RoundsUnknown, out);
        }
        let Asked { key, put, consistency, strict, deadline, trace } = asked;
        let far = put.context.as_ref().is_some_and(|c| self.clock.is_far(now.wall, c.highest()));
        let is_home = route.own.is_some() && !self.is_rebuilding(partition, &key);
        let op = self.next_op();
        *self.putting.entry(key.clone()).or_default() += 1;
        let patience =
            if strict || far || !is_home { self.config.tuning.hedge_min } else { u64::MAX };
        let due = now.mono.after_micros(patience).min(deadline);
        let timer = self.timers.set(due, Timer::Op(op));
        let round = self.round(partition);
        let state = PutOp {
            origin,
            key: key.clone(),
            put,
            consistency,
            strict,
            deadline,
            timer,
            trace,
            route,
            round,
            must_gather: strict || far,
            consulting: 0,
            base: Record::default(),
            gather: None,
            spread: None,
            written: None,
            replied: false,
            came: now.mono,
        };
        let own = state.route.own_target.is_some();
        let must_gather = state.must_gather;
        self.ops.insert(op, Op::Put(Box::new(state)));
        if !own {
            self.consult_own_hints(now, op, out);
        } else if must_gather || !is_home {
            self.put_gather(now, op, out);
        } else {
            self.with_view(now, CellId::own(partition, &key), Task::Form(op), out);
        }
    }

    fn consult_own_hints(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Put(put)) = self.ops.get_mut(&op) else { return };
        let names = put.route.targets.iter().map(|target| &target.name);
        let cells: Vec<CellId> =
            names.map(|name| CellId::hint(name, put.route.partition, &put.key)).collect();
        put.consulting = cells.len();
        for cell in cells {
            self.with_view(now, cell, Task::Consult(op), out);
        }
    }

    /// One of the own hints of the key is known.
    pub(super) fn put_consulted(
        &mut self,
        now: Now,
        op: OpKey,
        hint: &Record,
        out: &mut Vec<Effect>,
    ) {
        let Some(Op::Put(put)) = self.ops.get_mut(&op) else { return };
        if !hint.is_empty() {
            put.round = put.round.min(self.collect.of_hints(put.route.partition));
        }
        put.base = put.base.merge(hint);
        put.consulting = put.consulting.saturating_sub(1);
        if put.consulting == 0 {
            self.put_gather(now, op, out);
        }
    }

    fn put_gather(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Put(mut put)) = self.ops.remove(&op) else { return };
        let n = put.route.slots.len();
        // Who must gather needs R; who need not takes whatever answers at once.
        let needed = if put.must_gather { Consistency::Quorum.of(n) } else { n };
        let mut gather = self.gather(put.route.clone(), put.key.clone(), needed, put.strict);
        gather.trace = put.trace;
        // Consulting may have taken longer than the patience that it began with.
        self.timers.cancel(put.timer);
        let due = now.mono.after_micros(self.config.tuning.hedge_min).min(put.deadline);
        put.timer = self.timers.set(due, Timer::Op(op));
        self.gather_more(now, op, &mut gather, out);
        put.gather = Some(gather);
        self.ops.insert(op, Op::Put(put));
        self.put_gathered(now, op, out);
    }

    /// An answer came, or failed to come.
    pub(super) fn put_gathered(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Put(mut put)) = self.ops.remove(&op) else { return };
        let Some(mut gather) = put.gather.take() else {
            self.ops.insert(op, Op::Put(put));
            return;
        };
        match gather.progress() {
            Progress::Waiting => {
                self.gather_more(now, op, &mut gather, out);
                put.gather = Some(gather);
                self.ops.insert(op, Op::Put(put));
            }
            Progress::Exhausted if put.must_gather => {
                self.put_failed_before(put, Reason::QuorumNotReached, out);
            }
            Progress::Enough | Progress::Exhausted => {
                put.take_in(&gather);
                self.put_form(now, op, put, out);
            }
        }
    }

    /// Everything is known that is to be known: forms the write, over the own copy if this node
    /// is a home.
    fn put_form(&mut self, now: Now, op: OpKey, put: Box<PutOp>, out: &mut Vec<Effect>) {
        let own = put.route.own_target.map(|_| CellId::own(put.route.partition, &put.key));
        self.ops.insert(op, Op::Put(put));
        match own {
            Some(cell) => self.with_view(now, cell, Task::Form(op), out),
            None => self.form_put(now, op, &Record::default(), out),
        }
    }

    /// The own copy could not be read: nothing was begun.
    pub(super) fn put_unreadable(&mut self, op: OpKey, out: &mut Vec<Effect>) {
        if let Some(Op::Put(put)) = self.ops.remove(&op) {
            self.put_failed_before(put, Reason::StoreRefused, out);
        }
    }

    /// Whether what a write is formed over may have been set aside since, and so must not come back.
    pub(super) fn is_put_stale(&self, op: OpKey, partition: Partition) -> bool {
        let closed = self.collect.closed(partition);
        let is_older = matches!(self.ops.get(&op), Some(Op::Put(put)) if put.round < closed);
        is_older || self.collect.is_moving(partition)
    }

    /// This node has given the partition up while the write was gathering: nothing was begun.
    pub(super) fn put_homeless(&mut self, op: OpKey, out: &mut Vec<Effect>) {
        if let Some(Op::Put(put)) = self.ops.remove(&op) {
            self.put_failed_before(put, Reason::QuorumNotReached, out);
        }
    }

    /// Forms the new record over `held`, this node's view of its own copy (empty if it is no
    /// home), and sends it on its way.
    pub(super) fn form_put(&mut self, now: Now, op: OpKey, held: &Record, out: &mut Vec<Effect>) {
        let Some(Op::Put(mut put)) = self.ops.remove(&op) else { return };
        let base = if put.base.is_empty() {
            Cow::Borrowed(held)
        } else {
            Cow::Owned(held.merge(&put.base))
        };
        let (record, dot) = match self.new_record(now, &put, held, &base, out) {
            Ok(formed) => formed,
            Err(reason) => return self.put_failed_before(put, reason, out),
        };
        put.written = Some(dot);
        // A copy that has opened no round is of the lowest that it was brought, which may have come since.
        put.round = put.round.min(self.round(put.route.partition));
        if !put.base.is_empty() {
            self.brought_of(put.route.partition, put.round);
        }
        let needed = put.route.needed(put.consistency, put.strict);
        let (route, key) = (put.route.clone(), put.key.clone());
        let own = route.own_target.map(|_| CellId::own(route.partition, &key));
        let (record, round) = (record.into(), put.round);
        let mut spread = Spread::new(route, key, record, round, needed, put.strict, put.trace);
        self.spread_start(now, op, &mut spread, &[], out);
        let (own_ask, incoming) = (Self::spread_own(&spread), spread.incoming());
        put.spread = Some(spread);
        self.ops.insert(op, Op::Put(put));
        if let (Some(cell), Some(ask)) = (own, own_ask) {
            self.leave(now, &cell, incoming, Waiter::Spread { op, ask }, out);
        }
        self.run_later(now, out);
        self.put_moved(now, op, out);
    }

    /// The record that a write makes of `base`, and the write's dot. A request that `base` has
    /// seen already makes `base` itself anew.
    fn new_record(
        &mut self,
        now: Now,
        op: &PutOp,
        held: &Record,
        base: &Record,
        out: &mut Vec<Effect>,
    ) -> Result<(Record, Dot), Reason> {
        if let Some(before) = op.put.request.and_then(|request| base.written_by(request)) {
            let same = before.value() == op.put.value.as_ref();
            return if same {
                Ok((base.clone(), before.dot))
            } else {
                Err(Reason::RequestIdReused)
            };
        }
        let context = match &op.put.context {
            None => base.seen().clone(),
            Some(context) if self.is_borne_out(now.wall, context, base) => context.clone(),
            Some(_) => return Err(Reason::Context(ContextError::Ahead)),
        };
        let partition = op.route.partition;
        if op.route.own_target.is_some() {
            self.heed_own_actor(partition, held.seen(), &context, out);
            self.heed_own_actor(partition, held.seen(), base.seen(), out);
        }
        let over = base.seen().highest().max(context.highest());
        let actor = self.actor(op.route.own_target.map(|_| partition));
        let dot = match self.clock.stamp(now, over) {
            Some(stamp) => Dot::new(actor, stamp),
            // No stamp is left above the record's: only the actor can make the dot new.
            None => Dot::new(Actor(self.random()), Stamp(u64::MAX)),
        };
        let content = op.put.value.clone().map_or(Content::Tombstone, Content::Value);
        let expiry = op.put.ttl_ms.map(|ttl| Wall(now.wall.0.saturating_add(ttl)));
        let sibling = Sibling { dot, content, expiry, request: op.put.request };
        let context =
            if self.has(Defect::LoseContext) { VersionVector::default() } else { context };
        let record = base.write(&context, sibling);
        let tuning = &self.config.tuning;
        let (before, after) = (base.siblings().len(), record.siblings().len());
        if after > tuning.siblings_max && after > before {
            return Err(Reason::TooManySiblings);
        }
        let (before, after) = (base.encoded_len_max(), record.encoded_len_max());
        if after > tuning.record_bytes_max && after > before {
            return Err(Reason::RecordTooLarge);
        }
        Ok((record, dot))
    }

    /// Whether each stamp of a context that lies too far ahead is known to some replica.
    fn is_borne_out(&self, wall: Wall, context: &VersionVector, base: &Record) -> bool {
        let far = context.entries().iter().filter(|entry| self.clock.is_far(wall, entry.1));
        far.into_iter().all(|&(actor, stamp)| base.seen().covers(Dot::new(actor, stamp)))
    }

    /// The actor to write under: of the tenure over `home`, or a fresh one for no home.
    fn actor(&mut self, home: Option<Partition>) -> Actor {
        let Some(partition) = home else { return Actor(self.random()) };
        if let Some(actor) = self.tenures.get(&partition) {
            return *actor;
        }
        self.tenures_begun += 1;
        let boot = if self.has(Defect::KeepActorAfterRestart) {
            self.view.as_ref().map_or(0, |view| view.me.0)
        } else {
            u128::from(self.config.boot.0)
        };
        let mut name = boot.to_le_bytes().to_vec();
        name.extend(partition.0.to_le_bytes());
        if !self.has(Defect::KeepActorAfterRestart) {
            name.extend(self.tenures_begun.to_le_bytes());
        }
        let actor = Actor(xxhash_rust::xxh3::xxh3_64(&name));
        self.tenures.insert(partition, actor);
        actor
    }

    /// Ends the tenure if `theirs` shows more of this node's own actor than `ours`: this node
    /// does not hold what it wrote.
    pub(super) fn heed_own_actor(
        &mut self,
        partition: Partition,
        ours: &VersionVector,
        theirs: &VersionVector,
        out: &mut Vec<Effect>,
    ) {
        if self.is_behind(partition, ours, theirs) {
            self.end_tenure(partition, "a peer knows more of this actor than is held here", out);
        }
    }

    /// Whether `theirs` shows more of this node's own actor than `ours`.
    pub(super) fn is_behind(
        &self,
        partition: Partition,
        ours: &VersionVector,
        theirs: &VersionVector,
    ) -> bool {
        // Who keeps an actor that it should not keep does not notice its amnesia, either.
        let blind = self.has(Defect::KeepActorAfterRestart)
            || self.has(Defect::KeepActorAfterRefusal)
            || self.has(Defect::KeepActorAfterLoss);
        let known = self.tenures.get(&partition);
        known.is_some_and(|&actor| theirs.of(actor) > ours.of(actor) && !blind)
    }

    /// A home or a fallback has answered, or failed to.
    pub(super) fn put_moved(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Put(mut put)) = self.ops.remove(&op) else { return };
        let Some(spread) = &put.spread else {
            self.ops.insert(op, Op::Put(put));
            return;
        };
        let (reach, over) = (self.reach(spread), spread.settled() || spread.idle());
        if !put.replied {
            match reach {
                Reached::Enough => self.put_reply(now, &mut put, out),
                Reached::Lost => self.put_fail(now, &mut put, out),
                Reached::Waiting => {}
            }
        }
        if over && put.replied {
            self.put_over(&put);
        } else {
            self.ops.insert(op, Op::Put(put));
        }
    }

    /// The time to go on without further answers has come, or the deadline.
    pub(super) fn put_timer(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Put(mut put)) = self.ops.remove(&op) else { return };
        if now.mono >= put.deadline {
            if put.written.is_none() {
                return self.put_failed_before(put, Reason::QuorumNotReached, out);
            }
            if !put.replied {
                self.put_fail(now, &mut put, out);
            }
            self.ops.insert(op, Op::Put(put));
            return self.put_moved(now, op, out);
        }
        let Some(mut gather) = put.gather.take() else {
            put.timer = self.timers.set(put.deadline, Timer::Op(op));
            self.ops.insert(op, Op::Put(put));
            return;
        };
        if put.must_gather {
            self.gather_next(now, op, &mut gather, out);
            let patience = self.gather_patience(&gather);
            let due = now.mono.after_micros(patience).min(put.deadline);
            put.timer = self.timers.set(due, Timer::Op(op));
            put.gather = Some(gather);
            self.ops.insert(op, Op::Put(put));
        } else {
            put.take_in(&gather);
            put.timer = self.timers.set(put.deadline, Timer::Op(op));
            self.put_form(now, op, put, out);
        }
    }

    fn put_reply(&mut self, now: Now, put: &mut PutOp, out: &mut Vec<Effect>) {
        put.replied = true;
        let (Some(spread), Some(dot)) = (&put.spread, put.written) else { return };
        let (homes, hints) = spread.holders();
        let visible = spread.record.visible(now.wall);
        let receipt = Receipt {
            dot,
            seen: spread.record.seen().clone(),
            partial: visible.iter().any(|sibling| sibling.dot != dot),
            homes,
            hints,
            placement: put.route.view.newest().tag().number,
        };
        self.request_answered(now, Kind::Write, put.came);
        self.reply(put.origin, put.route.partition, Outcome::Written(receipt), out);
    }

    /// W was not reached. What was written stays written.
    fn put_fail(&mut self, now: Now, put: &mut PutOp, out: &mut Vec<Effect>) {
        put.replied = true;
        self.request_answered(now, Kind::Write, put.came);
        let Some(spread) = &put.spread else { return };
        let (mut reached, hints) = spread.holders();
        reached.extend(hints);
        // A home that keeps a hint for another is one node.
        reached.sort();
        reached.dedup();
        let full = spread.hints_full;
        let failure = Failure {
            reason: if full { Reason::HintsFull } else { Reason::QuorumNotReached },
            needed: u32::try_from(spread.needed.most()).unwrap_or(u32::MAX),
            reached,
            missing: spread.missing(),
            maybe_applied: true,
        };
        self.reply(put.origin, put.route.partition, Outcome::Failed(failure), out);
    }

    /// Fails a write of which nothing was formed.
    fn put_failed_before(&mut self, put: Box<PutOp>, reason: Reason, out: &mut Vec<Effect>) {
        let mut failure = Failure::before(reason);
        if let Some(gather) = &put.gather {
            let (reached, missing) = gather.reached();
            let view = &put.route.view;
            failure.needed = u32::try_from(gather.needed).unwrap_or(u32::MAX);
            failure.reached = reached.iter().filter_map(|id| view.name_of(*id).cloned()).collect();
            failure.missing = missing.iter().filter_map(|id| view.name_of(*id).cloned()).collect();
        }
        self.put_over(&put);
        self.reply(put.origin, put.route.partition, Outcome::Failed(failure), out);
    }

    fn put_over(&mut self, put: &PutOp) {
        self.timers.cancel(put.timer);
        if let Some(count) = self.putting.get_mut(&put.key) {
            *count -= 1;
            if *count == 0 {
                self.putting.remove(&put.key);
            }
        }
    }
}
