//! Closing: the own copy takes nothing older any more, and what the cut lists goes.
//!
//! The floor of the own copy is durable before the first record goes. So it does not matter whether all of
//! a cut goes at once, or some of it only after a refused commit or a restart; and what has changed since it
//! was cut is not the cut's, and stays.

use super::super::Worker;
use super::super::cells::{CellId, Task, Waiter};
use super::{Durable, Then};
use crate::protocol::defect::Defect;
use crate::protocol::message::RoundMessage;
use crate::protocol::record::Record;
use crate::protocol::rounds::{Cut, CutId, Verdict};
use crate::protocol::step::Effect;
use crate::types::{NodeId, Now, Partition, RecordHash, RoundNumber};

/// A cut on its way out of the own copy.
#[derive(Debug)]
pub(super) struct Applying {
    left: usize,
    /// A record of it could not be looked at, or its removal was refused.
    failed: bool,
    /// Who wants to hear of its end.
    asker: Option<NodeId>,
}

impl Worker {
    pub(super) fn asked_to_close(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        number: RoundNumber,
        id: CutId,
        out: &mut Vec<Effect>,
    ) {
        if self.collect.is_busy(partition) {
            return;
        }
        self.told_where(now, partition, number, number, out);
        if self.collect.is_busy(partition) {
            return;
        }
        let state = self.collect.state(partition);
        match state.judge_close(number, id) {
            Verdict::Go => {
                self.commit_rounds(partition, state.after_closing(), Then::Apply(Some(from)), out);
            }
            Verdict::Done if number == state.number && state.is_applying() => {
                self.apply_cut(now, partition, Some(from), out);
            }
            Verdict::Done => {
                self.say_of_round(now, from, partition, RoundMessage::Closed(number), out);
            }
            Verdict::SetAside => self.set_aside(now, partition, number, out),
            Verdict::CloseFirst | Verdict::Behind => {}
        }
    }

    /// Someone says that a round was closed: it is adopted from anyone.
    pub(super) fn heard_of_closed(
        &mut self,
        now: Now,
        partition: Partition,
        number: RoundNumber,
        closed: RoundNumber,
        id: CutId,
        out: &mut Vec<Effect>,
    ) {
        let state = self.collect.state(partition);
        if self.collect.is_busy(partition) {
            return;
        }
        match state.judge_news(closed) {
            Some(Verdict::SetAside) => self.set_aside(now, partition, closed, out),
            Some(Verdict::CloseFirst) if number == closed && id == state.id => {
                self.commit_rounds(partition, state.after_closing(), Then::Apply(None), out);
            }
            _ => {}
        }
    }

    /// The round has been applied everywhere: its cut can be forgotten.
    pub(super) fn round_is_over(
        &mut self,
        partition: Partition,
        number: RoundNumber,
        out: &mut Vec<Effect>,
    ) {
        let state = self.collect.state(partition);
        let over = state.number == number && state.closed == number && state.applied;
        if over && state.cut.is_some() && !self.collect.is_busy(partition) {
            self.commit_rounds(partition, state.without_cut(), Then::Nothing, out);
        }
    }

    /// A record is surveyed that went in the last round: a home has it back, from a request that was
    /// under way meanwhile, and no longer takes it for absent. It knows that the round is over.
    pub(super) fn heed_survey(
        &mut self,
        partition: Partition,
        number: RoundNumber,
        surveyed: &Cut,
        out: &mut Vec<Effect>,
    ) {
        let state = self.collect.state(partition);
        let is_back = surveyed.entries().iter().any(|(key, hash)| state.is_gone(key, *hash));
        if number > state.number && is_back {
            self.round_is_over(partition, state.number, out);
        }
    }

    /// Drops what the cut lists, as far as it is still what it lists.
    pub(super) fn apply_cut(
        &mut self,
        now: Now,
        partition: Partition,
        asker: Option<NodeId>,
        out: &mut Vec<Effect>,
    ) {
        let state = self.collect.state(partition);
        let Some(cut) = state.cut.as_ref().filter(|_| state.is_applying()) else {
            if let Some(asker) = asker {
                let closed = RoundMessage::Closed(state.number);
                self.say_of_round(now, asker, partition, closed, out);
            }
            return;
        };
        let left = cut.entries().len();
        self.collect.applying.insert(partition, Applying { left, failed: false, asker });
        if cut.is_empty() {
            return self.cut_done(partition, out);
        }
        for (key, hash) in cut.entries() {
            let id = CellId::own(partition, key);
            self.with_view(now, id, Task::Cut(*hash), out);
        }
    }

    /// Drops a record of the cut, if the view of it, queued merges included, is still what was cut.
    pub(in crate::protocol::worker) fn cut(
        &mut self,
        now: Now,
        id: &CellId,
        record: &Record,
        hash: RecordHash,
        out: &mut Vec<Effect>,
    ) {
        let same = record.seal(id.partition, &id.key).hash() == hash;
        if record.is_empty() || !(same || self.has(Defect::DiscardLateCopy)) {
            return self.cut_done(id.partition, out);
        }
        // The stamps of an actor's dots are kept above each other by the records that have seen them. With
        // this one gone, its next dot might not be new: it may lie below those that were made over a clock
        // that was far ahead.
        let actor = self.tenures.get(&id.partition);
        if actor.is_some_and(|&actor| record.seen().of(actor).is_some()) {
            self.end_tenure(id.partition, "a record that it wrote was collected", out);
        }
        self.stats.records_collected += 1;
        let waiter = Waiter::Round(id.partition, Box::new(Durable::Cut));
        self.leave(now, id, Record::default().into(), waiter, out);
    }

    pub(super) fn cut_done(&mut self, partition: Partition, out: &mut Vec<Effect>) {
        let Some(applying) = self.collect.applying.get_mut(&partition) else { return };
        applying.left = applying.left.saturating_sub(1);
        if applying.left > 0 {
            return;
        }
        let Some(Applying { failed, asker, .. }) = self.collect.applying.remove(&partition) else {
            return;
        };
        // The whole cut is applied again when its driver asks again.
        if failed {
            return;
        }
        let state = self.collect.state(partition).after_applying();
        let closed = RoundMessage::Closed(state.number);
        let then = asker.map_or(Then::Nothing, |asker| Then::Answer(asker, closed));
        self.commit_rounds(partition, state, then, out);
    }

    /// A record of the cut could not be looked at, or its removal was refused.
    pub(in crate::protocol::worker) fn cut_failed(
        &mut self,
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        if let Some(applying) = self.collect.applying.get_mut(&partition) {
            applying.failed = true;
            self.cut_done(partition, out);
        }
    }
}
