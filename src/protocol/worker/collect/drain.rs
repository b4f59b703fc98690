//! Draining: a member says that it holds nothing older than a round, but in its own copy, and takes in
//! nothing older from then on.
//!
//! It is a barrier, not a snapshot: from the moment that it begins to look, what is older is refused, and
//! that lasts if it finds nothing. Whether hints are held is read from the store, not from a counter.

use std::collections::{BTreeSet, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};

use super::super::cells::put_hint_prefix;
use super::super::{Op, Reading, Worker};
use super::Then;
use crate::protocol::message::RoundMessage;
use crate::protocol::rounds::{CutId, Verdict};
use crate::protocol::step::{Effect, Page, ReadFailed, Space};
use crate::types::{NodeId, NodeName, Now, Partition, RoundNumber};

/// A look for hints under way.
#[derive(Debug)]
pub(super) struct Draining {
    /// Nothing older is taken in.
    pub number: RoundNumber,
    from: NodeId,
    /// Homes for which hints may be held.
    targets: VecDeque<NodeName>,
}

impl Worker {
    pub(super) fn asked_to_drain(
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
        match self.collect.state(partition).judge_drain(number, id) {
            Verdict::Done => {
                self.say_of_round(now, from, partition, RoundMessage::Drained(number, id), out);
            }
            Verdict::Go if self.holds_nothing_older(partition, number) => {
                let members = self.view.iter().flat_map(|view| view.members());
                let mut targets: BTreeSet<NodeName> = self.hint_targets();
                targets.extend(members.cloned());
                let draining = Draining { number, from, targets: targets.into_iter().collect() };
                self.collect.draining.insert(partition, draining);
                self.drain_more(partition, out);
            }
            Verdict::Go | Verdict::CloseFirst | Verdict::Behind | Verdict::SetAside => {}
        }
    }

    /// Whether nothing in memory is, or may become, a copy from before a round.
    fn holds_nothing_older(&self, partition: Partition, number: RoundNumber) -> bool {
        let hints = self.cells.keys().any(|id| id.hint_for.is_some() && id.partition == partition);
        let older = |op: &Op| match op {
            Op::Get(get) => get.gather.route.partition == partition && get.gather.round < number,
            Op::Put(put) => {
                let gathered = put.gather.as_ref().map_or(number, |gather| gather.round);
                put.route.partition == partition && put.round.min(gathered) < number
            }
            Op::Scan(scan) => scan.wanted.partition == partition && scan.round < number,
            Op::Rebuild(rebuild) => rebuild.partition == partition,
            // Who passes a write holds no record.
            Op::Pass(_) => false,
        };
        !hints && !self.is_replaying(partition) && !self.ops.values().any(older)
    }

    /// Looks for hints for the next target; when none is left, nothing was found.
    fn drain_more(&mut self, partition: Partition, out: &mut Vec<Effect>) {
        let Some(draining) = self.collect.draining.get_mut(&partition) else { return };
        let Some(target) = draining.targets.pop_front() else {
            return self.drain_over(partition, out);
        };
        let mut prefix = BytesMut::new();
        put_hint_prefix(&mut prefix, &target);
        prefix.put_u16(partition.0);
        let (prefix, after) = (prefix.freeze(), Bytes::new());
        let token = self.next_token();
        self.reads.insert(token, Reading::Drain(partition));
        out.push(Effect::Scan { token, space: Space::Hints, prefix, after, bytes_max: 1 });
    }

    pub(in crate::protocol::worker) fn drain_scanned(
        &mut self,
        partition: Partition,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        if result.is_ok_and(|page| page.entries.is_empty()) {
            self.drain_more(partition, out);
        } else {
            self.collect.draining.remove(&partition);
        }
    }

    /// No hint was found. A younger one that is on disk by now is no hindrance; one in use is, and the driver
    /// asks again.
    fn drain_over(&mut self, partition: Partition, out: &mut Vec<Effect>) {
        let Some(Draining { number, from, .. }) = self.collect.draining.get(&partition) else {
            return;
        };
        let (number, from) = (*number, *from);
        if !self.holds_nothing_older(partition, number) {
            self.collect.draining.remove(&partition);
            return;
        }
        // What is older is refused until this is durable, and from then on for that reason.
        let state = self.collect.state(partition).after_draining();
        let answer = Then::Answer(from, RoundMessage::Drained(number, state.id));
        self.commit_rounds(partition, state, answer, out);
    }
}
