//! Homes that do not take a record yet, and how long each is waited for.
//!
//! ```text
//!   asked ───────────────▶ late ──────────────────────▶ overdue        a replica's time, three of them
//!         nobody else asked      a hint is kept as well,        the hint counts
//!                                and does not count
//! ```
//!
//! A home is late if it has not answered; if it refused because this node has not heard of a version that
//! the home has acknowledged; or if the home has not heard of a version by which it is one. The last two end
//! by themselves, so the record is sent again: when this node has heard of the version, or a few times in the
//! time that a replica has.
//!
//! A home that falls silent is late. One that goes away is not waited for, nor one that refuses for another reason:
//! what is kept for it counts at once. So does what is kept for one that was not asked, since it had been silent, or
//! away, before the write began.

use super::{Spread, State};
use crate::protocol::message::{CallId, PlacementTag};
use crate::protocol::step::Effect;
use crate::protocol::worker::timers::Timer;
use crate::protocol::worker::{LATE_MS, Op, OpKey, SILENCE_MAX, Worker};
use crate::types::{NodeId, Now};

/// How often a home that has not heard of a version is asked again, in the time that a replica has: it hears of it
/// from others, within a sync of its disk or two.
const UNAWARE_TRIES: u64 = 5;

impl Worker {
    /// A home has not answered in time: someone else is asked as well.
    pub(in super::super) fn spread_late(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        out: &mut Vec<Effect>,
    ) {
        self.with_spread(op, out, |worker, spread, out| {
            worker.spread_past(now, op, spread, ask, out);
        });
        self.spread_moved(now, op, out);
    }

    /// Whoever was sent a record fell silent: it is late now, if it was not before.
    pub(in super::super) fn spread_silent(
        &mut self,
        now: Now,
        call: CallId,
        op: OpKey,
        ask: usize,
        out: &mut Vec<Effect>,
    ) {
        if self.calls.get(&call).is_some_and(|asked| !asked.late) {
            self.wait_on(call, now.mono.after_millis(LATE_MS));
            self.spread_late(now, op, ask, out);
        }
    }

    fn spread_past(
        &mut self,
        now: Now,
        op: OpKey,
        spread: &mut Spread,
        ask: usize,
        out: &mut Vec<Effect>,
    ) {
        let deadline = match self.ops.get(&op) {
            Some(Op::Put(put)) => put.deadline(),
            Some(Op::Get(get)) => get.deadline(),
            _ => now.mono,
        };
        if spread.asked[ask].state == State::Outstanding {
            let overdue = self.silence_ends(now, SILENCE_MAX - 1, deadline);
            self.arm(overdue, Timer::Overdue(op, ask));
        }
        self.spread_next(now, op, spread, ask, State::Late, out);
    }

    /// A home has been late for long: what is kept for it counts, and it is waited for no more if it was to be
    /// asked again.
    pub(in super::super) fn spread_overdue(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        out: &mut Vec<Effect>,
    ) {
        if self.behind.remove(&(op, ask)) {
            return self.spread_failed(now, op, ask, out);
        }
        self.with_spread(op, out, |_, spread, _| {
            spread.asked[ask].overdue = true;
            spread.count_hints(spread.asked[ask].target);
        });
        self.spread_moved(now, op, out);
    }

    /// Somebody knows a version that this node lacks: he waits for this node to hear of it, and takes the record then.
    pub(super) fn spread_behind(
        &mut self,
        now: Now,
        op: OpKey,
        spread: &mut Spread,
        ask: usize,
        out: &mut Vec<Effect>,
    ) {
        if spread.asked[ask].overdue {
            return self.spread_next(now, op, spread, ask, State::Failed, out);
        }
        self.behind.insert((op, ask));
        self.spread_stale(now, op, spread, ask);
    }

    /// A node says that the slot is not its own. A home that has not heard of the version by which it is one is
    /// asked again: the first nodes to hear of a version would find no home otherwise.
    pub(super) fn spread_not_theirs(
        &mut self,
        now: Now,
        op: OpKey,
        spread: &mut Spread,
        ask: usize,
        theirs: PlacementTag,
        out: &mut Vec<Effect>,
    ) {
        let asked = &spread.asked[ask];
        let unaware = !asked.hint && theirs.lacks(spread.route.view.newest().tag());
        if !unaware || asked.overdue {
            return self.spread_next(now, op, spread, ask, State::Failed, out);
        }
        let pause = self.config.tuning.replica_timeout / UNAWARE_TRIES;
        self.arm(now.mono.after_micros(pause), Timer::Unaware(op, ask));
        self.spread_stale(now, op, spread, ask);
    }

    /// Whoever is sent the record again has a replica's time for all of it.
    fn spread_stale(&mut self, now: Now, op: OpKey, spread: &mut Spread, ask: usize) {
        if !std::mem::replace(&mut spread.asked[ask].stale, true) {
            let due = now.mono.after_micros(self.config.tuning.replica_timeout);
            self.arm(due, Timer::Stale(op, ask));
        }
    }

    /// A view was taken: whoever refused a record because this node was behind is asked again.
    pub(in super::super) fn spread_caught_up(&mut self, now: Now, out: &mut Vec<Effect>) {
        for (op, ask) in std::mem::take(&mut self.behind) {
            self.spread_again(now, op, ask, out);
        }
    }

    /// The record is sent once more to a node that has refused it for a while.
    pub(in super::super) fn spread_again(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        out: &mut Vec<Effect>,
    ) {
        self.with_spread(op, out, |worker, spread, out| {
            if worker.peers.is_away(spread.asked[ask].node) {
                worker.spread_next(now, op, spread, ask, State::Failed, out);
            } else if spread.asked[ask].state.is_open() {
                worker.spread_post(now, op, spread, ask, out);
            }
        });
        self.spread_moved(now, op, out);
    }

    /// A node went away: nothing that waits for this node to catch up will be sent to it.
    pub(in super::super) fn spread_lost(&mut self, now: Now, node: NodeId, out: &mut Vec<Effect>) {
        let of_it = |&&(op, ask): &&(OpKey, usize)| {
            self.spread_of(op).is_none_or(|spread| spread.asked[ask].node == node)
        };
        let lost: Vec<(OpKey, usize)> = self.behind.iter().filter(of_it).copied().collect();
        for (op, ask) in lost {
            self.behind.remove(&(op, ask));
            self.spread_failed(now, op, ask, out);
        }
    }
}
