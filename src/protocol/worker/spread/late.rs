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
//! A home that goes away or falls silent is not waited for, nor one that refuses for another reason: what is
//! kept for it counts at once. So does what is kept for one that nobody asked, because it was away.

use super::{Spread, State};
use crate::protocol::message::PlacementTag;
use crate::protocol::step::Effect;
use crate::protocol::worker::timers::Timer;
use crate::protocol::worker::{Op, OpKey, SILENCE_MAX, Worker};
use crate::types::Now;

/// How often a home that has not heard of a version is asked again, in the time that a replica has.
const UNAWARE_TRIES: u64 = 10;

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
        if self.forget_behind(op, ask) {
            return self.spread_failed(now, op, ask, out);
        }
        self.with_spread(op, out, |_, spread, _| {
            spread.asked[ask].overdue = true;
            spread.count_hints(spread.asked[ask].target);
        });
        self.spread_moved(now, op, out);
    }

    /// A home knows a version that this node lacks: it waits for this node to hear of it, and takes the record then.
    pub(super) fn spread_behind(&mut self, now: Now, op: OpKey, ask: usize) {
        self.behind.push((op, ask));
        let due = now.mono.after_micros(self.config.tuning.replica_timeout);
        self.arm(due, Timer::Behind(op, ask));
    }

    /// A view was taken: whoever refused a record because this node was behind is asked again.
    pub(in super::super) fn spread_caught_up(&mut self, now: Now, out: &mut Vec<Effect>) {
        for (op, ask) in std::mem::take(&mut self.behind) {
            self.spread_again(now, op, ask, out);
        }
    }

    /// This node has not caught up in a replica's time.
    pub(in super::super) fn spread_still_behind(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        out: &mut Vec<Effect>,
    ) {
        if self.behind.contains(&(op, ask)) {
            self.spread_late(now, op, ask, out);
        }
    }

    fn forget_behind(&mut self, op: OpKey, ask: usize) -> bool {
        let waiting = self.behind.len();
        self.behind.retain(|behind| *behind != (op, ask));
        self.behind.len() < waiting
    }

    /// A node says that the slot is not its own. If it has not heard of a version yet by which it is, it is
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
        let unaware = theirs.lacks(spread.route.view.newest().tag());
        if !unaware || spread.asked[ask].unaware == SILENCE_MAX * UNAWARE_TRIES {
            return self.spread_next(now, op, spread, ask, State::Failed, out);
        }
        spread.asked[ask].unaware += 1;
        if spread.asked[ask].unaware == UNAWARE_TRIES {
            self.spread_past(now, op, spread, ask, out);
        }
        let pause = self.config.tuning.replica_timeout / UNAWARE_TRIES;
        self.arm(now.mono.after_micros(pause), Timer::Unaware(op, ask));
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
            if spread.asked[ask].state.is_open() {
                worker.spread_post(now, op, spread, ask, out);
            }
        });
    }
}
