//! Looking at some records of the own copy: which of them are still what someone saw, dead and on disk.

use std::collections::BTreeMap;

use super::super::Worker;
use super::super::cells::{CellId, Task};
use crate::protocol::message::RoundMessage;
use crate::protocol::record::Record;
use crate::protocol::rounds::{Cut, is_dead};
use crate::protocol::step::Effect;
use crate::types::{NodeId, Now, Partition, RecordHash, RoundNumber};

/// Looks under way at a time: one a round, of the rounds that other homes drive here. Further ones are
/// not begun, and are asked for again.
const LOOKS_MAX: usize = 256;

/// Names a look under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::protocol::worker) struct LookId(u64);

/// The looks under way.
#[derive(Debug, Default)]
pub(super) struct Looks {
    under_way: BTreeMap<LookId, Look>,
    last: LookId,
}

#[derive(Debug)]
struct Look {
    from: NodeId,
    partition: Partition,
    number: RoundNumber,
    /// The cut that is confirmed if all of it is held; none if only an answer is wanted.
    open: Option<Cut>,
    missing: usize,
    held: Vec<bool>,
}

impl Worker {
    pub(super) fn look_for_survey(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        number: RoundNumber,
        cut: &Cut,
        out: &mut Vec<Effect>,
    ) {
        self.look(now, from, partition, number, cut, false, out);
    }

    pub(super) fn look_before_opening(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        number: RoundNumber,
        cut: &Cut,
        out: &mut Vec<Effect>,
    ) {
        self.look(now, from, partition, number, cut, true, out);
    }

    fn look(
        &mut self,
        now: Now,
        from: NodeId,
        partition: Partition,
        number: RoundNumber,
        cut: &Cut,
        open: bool,
        out: &mut Vec<Effect>,
    ) {
        let looks = &mut self.collect.looks;
        let again = looks.under_way.values().any(|look| {
            look.partition == partition && look.number == number && look.open.is_some() == open
        });
        if again || looks.under_way.len() >= LOOKS_MAX {
            return;
        }
        looks.last.0 += 1;
        let (look, missing) = (looks.last, cut.entries().len());
        let (open, held) = (open.then(|| cut.clone()), vec![false; missing]);
        looks.under_way.insert(look, Look { from, partition, number, open, missing, held });
        for (at, (key, hash)) in cut.entries().iter().enumerate() {
            let task = Task::Look { look, at, hash: *hash };
            self.with_view(now, CellId::own(partition, key), task, out);
        }
        if missing == 0 {
            self.look_over(now, look, out);
        }
    }

    /// Whether a record is the one with this hash, and dead by this node's clock.
    pub(in crate::protocol::worker) fn holds_dead(
        &self,
        now: Now,
        id: &CellId,
        record: &Record,
        hash: RecordHash,
    ) -> bool {
        record.seal(id.partition, &id.key).hash() == hash
            && is_dead(record, now.wall, self.config.tuning.skew_ms_max)
            && !self.is_rebuilding(id.partition, &id.key)
    }

    /// One of the records of a look is known.
    pub(in crate::protocol::worker) fn looked(
        &mut self,
        now: Now,
        look: LookId,
        at: usize,
        held: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(found) = self.collect.looks.under_way.get_mut(&look) else { return };
        found.held[at] = held;
        found.missing -= 1;
        if found.missing == 0 {
            self.look_over(now, look, out);
        }
    }

    /// All records of a look are known.
    fn look_over(&mut self, now: Now, look: LookId, out: &mut Vec<Effect>) {
        let look = self.collect.looks.under_way.remove(&look);
        let Some(Look { from, partition, number, open, held, .. }) = look else { return };
        match open {
            Some(cut) if held.iter().all(|held| *held) => {
                // The state may have moved while the records were read.
                if !self.collect.is_busy(partition) && number > self.collect.state(partition).number
                {
                    let id = cut.id();
                    self.open_round(from, partition, number, id, Some(cut), out);
                }
            }
            _ => {
                let answer = RoundMessage::Surveyed(number, held);
                self.say_of_round(now, from, partition, answer, out);
            }
        }
    }
}
