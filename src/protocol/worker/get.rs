//! Reading: gather R answers, answer the client, repair what diverged.
//!
//! A strict read does more: what it is about to show it first makes durable on a majority of
//! homes in every live version, so that no later strict read can miss it.

use super::gather::{Gather, Progress};
use super::spread::{Reached, Spread};
use super::sync::Kind;
use super::timers::{Timer, TimerKey};
use super::{Op, OpKey, Origin, Worker};
use crate::protocol::op::{Failure, Op as ClientOp, Outcome, ReadOutcome, Reason, VisibleSibling};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::{Record, Sibling};
use crate::protocol::step::Effect;
use crate::types::{Mono, Now, TraceContext, Wall};

use super::cells::{CellId, Task, Waiter};

/// A read under way.
#[derive(Debug)]
pub(super) struct GetOp {
    origin: Origin,
    deadline: Mono,
    timer: TimerKey,
    pub strict: bool,
    pub gather: Gather,
    /// Of a strict read whose answers differed.
    pub spread: Option<Spread>,
    pub replied: bool,
    came: Mono,
}

impl GetOp {
    pub fn deadline(&self) -> Mono {
        self.deadline
    }

    /// Whether what was read has to be made durable before it is shown. What a majority of the homes that
    /// were asked holds stays shown, unless another version is live: others may read that.
    fn must_put_back(&self) -> bool {
        !self.gather.unanimous() || self.gather.route.view.is_changing()
    }
}

impl Worker {
    pub(super) fn start_get(
        &mut self,
        now: Now,
        origin: Origin,
        op: &ClientOp,
        deadline: Mono,
        trace: Option<TraceContext>,
        out: &mut Vec<Effect>,
    ) {
        let partitions = self.view.as_ref().map_or(1, |view| view.partitions());
        let partition = op.key.partition(partitions);
        let Some(route) = self.route(partition) else {
            return self.fail_before(origin, partition, Reason::NotFounded, out);
        };
        let n = route.slots.len();
        let majority = if op.strict { Consistency::Quorum.of(n) } else { 0 };
        let needed = op.consistency.of(n).max(majority);
        self.peers.read_begun();
        let mut gather = self.gather(route, op.key.clone(), needed, op.strict);
        gather.trace = trace;
        let key = self.next_op();
        self.gather_more(now, key, &mut gather, out);
        let patience = self.gather_patience(&gather);
        let due = now.mono.after_micros(patience).min(deadline);
        let timer = self.timers.set(due, Timer::Op(key));
        let strict = op.strict;
        let (came, spread, replied) = (now.mono, None, false);
        let get = GetOp { origin, deadline, timer, strict, gather, spread, replied, came };
        self.ops.insert(key, Op::Get(Box::new(get)));
        self.get_gathered(now, key, out);
    }

    /// An answer came, or failed to come.
    pub(super) fn get_gathered(&mut self, now: Now, key: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Get(mut get)) = self.ops.remove(&key) else { return };
        if get.replied {
            return self.get_drain(now, key, get, out);
        }
        match get.gather.progress() {
            Progress::Enough if get.strict && get.spread.is_none() && get.must_put_back() => {
                self.get_put_back(now, key, get, out);
            }
            Progress::Enough if get.spread.is_none() => {
                self.get_reply(now, &mut get, out);
                self.get_drain(now, key, get, out);
            }
            Progress::Enough => {
                self.ops.insert(key, Op::Get(get));
            }
            Progress::Waiting => {
                self.gather_more(now, key, &mut get.gather, out);
                self.ops.insert(key, Op::Get(get));
            }
            Progress::Exhausted => self.get_fail(now, key, get, out),
        }
    }

    /// The time to hedge has come, or the deadline.
    pub(super) fn get_timer(&mut self, now: Now, key: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Get(mut get)) = self.ops.remove(&key) else { return };
        if now.mono >= get.deadline {
            if get.replied {
                return;
            }
            return self.get_fail(now, key, get, out);
        }
        if !get.replied && get.gather.progress() == Progress::Waiting && self.peers.may_hedge() {
            self.stats.hedges += u64::from(self.gather_next(now, key, &mut get.gather, out));
        }
        let patience = self.gather_patience(&get.gather);
        let at = if get.replied { get.deadline } else { now.mono.after_micros(patience) };
        get.timer = self.timers.set(at.min(get.deadline), Timer::Op(key));
        self.ops.insert(key, Op::Get(get));
    }

    /// Makes what a strict read has found durable on a majority before it is shown.
    fn get_put_back(&mut self, now: Now, key: OpKey, mut get: Box<GetOp>, out: &mut Vec<Effect>) {
        let gather = &get.gather;
        let merged = gather.merged();
        let (equal, _) = gather.compare(&merged);
        let needed = gather.route.needed(Consistency::Quorum, true);
        let (route, name) = (gather.route.clone(), gather.key.clone());
        let own = CellId::own(route.partition, &name);
        let mut spread = Spread::new(
            route,
            name,
            merged.clone().into(),
            gather.round,
            needed,
            true,
            gather.trace,
        );
        self.spread_start(now, key, &mut spread, &equal, out);
        let own_differs = spread.route.own_target.is_some_and(|target| !equal.contains(&target));
        if own_differs && let Some(ask) = Self::spread_own(&spread) {
            self.later.push((own, Task::Merge(spread.incoming(), Waiter::Spread { op: key, ask })));
        }
        get.spread = Some(spread);
        self.ops.insert(key, Op::Get(get));
        self.run_later(now, out);
        self.get_moved(now, key, out);
    }

    /// A strict read's put-back has moved.
    pub(super) fn get_moved(&mut self, now: Now, key: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Get(mut get)) = self.ops.remove(&key) else { return };
        let reach = get.spread.as_ref().map_or(Reached::Waiting, |spread| self.reach(spread));
        match reach {
            Reached::Enough if !get.replied => {
                self.get_reply(now, &mut get, out);
                self.get_drain(now, key, get, out);
            }
            Reached::Lost if !get.replied => self.get_fail(now, key, get, out),
            _ if get.replied => self.get_drain(now, key, get, out),
            _ => {
                self.ops.insert(key, Op::Get(get));
            }
        }
    }

    fn get_reply(&mut self, now: Now, get: &mut GetOp, out: &mut Vec<Effect>) {
        get.replied = true;
        let merged = match &get.spread {
            Some(spread) => Record::clone(&spread.record),
            None => get.gather.merged(),
        };
        let outcome = Outcome::Read(shown(&merged, now.wall));
        self.request_answered(now, Kind::Read, get.came);
        self.reply(get.origin, get.gather.route.partition, outcome, out);
    }

    fn get_fail(&mut self, now: Now, key: OpKey, mut get: Box<GetOp>, out: &mut Vec<Effect>) {
        get.replied = true;
        self.request_answered(now, Kind::Read, get.came);
        let gather = &get.gather;
        let (reached, missing) = gather.reached();
        let names = |nodes: Vec<_>| {
            let mut names: Vec<_> = nodes
                .into_iter()
                .filter_map(|node| gather.route.view.name_of(node).cloned())
                .collect();
            names.sort();
            names.dedup();
            names
        };
        let failure = Failure {
            reason: Reason::QuorumNotReached,
            needed: u32::try_from(gather.needed).unwrap_or(u32::MAX),
            reached: names(reached),
            missing: names(missing),
            maybe_applied: false,
        };
        self.reply(get.origin, gather.route.partition, Outcome::Failed(failure), out);
        self.get_drain(now, key, get, out);
    }

    /// After the answer: waits for those that were asked, then repairs what diverged.
    fn get_drain(&mut self, now: Now, key: OpKey, get: Box<GetOp>, out: &mut Vec<Effect>) {
        let spreading = get.spread.as_ref().is_some_and(|spread| !spread.idle());
        if !get.gather.idle() || spreading {
            self.ops.insert(key, Op::Get(get));
            return;
        }
        self.timers.cancel(get.timer);
        self.repair(now, &get.gather, out);
    }
}

/// What a reader sees of a record.
pub(super) fn shown(record: &Record, wall: Wall) -> ReadOutcome {
    let show = |sibling: &Sibling| {
        let value = sibling.value()?.clone();
        Some(VisibleSibling { value, dot: sibling.dot, expiry: sibling.expiry })
    };
    let visible = record.visible(wall).into_iter().filter_map(show).collect();
    ReadOutcome { visible, seen: record.seen().clone(), degraded: false }
}
