//! Many records merged together: someone waits until all of them are durable.

use std::collections::BTreeMap;

use super::SessionId;
use crate::protocol::message::{CallId, DataMessage, SyncAnswer};
use crate::protocol::record::Record;
use crate::protocol::step::Effect;
use crate::protocol::worker::Worker;
use crate::protocol::worker::cells::{CellId, Incoming, Task, Waiter};
use crate::types::{Key, NodeId, Now, Partition, RoundNumber};

/// Names a batch within the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::protocol::worker) struct BatchId(u64);

/// The batches under way: at most one a session, and one for each push that is being served.
#[derive(Debug, Default)]
pub(super) struct Batches {
    open: BTreeMap<BatchId, Batch>,
    last: u64,
}

#[derive(Debug)]
struct Batch {
    /// Records that are not durable yet.
    left: usize,
    failed: bool,
    then: Then,
}

/// Who waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Session(SessionId),
    Peer { to: NodeId, call: CallId, partition: Partition },
}

impl Batches {
    pub fn len(&self) -> usize {
        self.open.len()
    }
}

impl Worker {
    /// Merges records of a round into this node's own copies, then tells `then`.
    pub(super) fn merge_all(
        &mut self,
        now: Now,
        partition: Partition,
        round: RoundNumber,
        records: Vec<(Key, Record)>,
        then: Then,
        out: &mut Vec<Effect>,
    ) {
        self.sync.batches.last += 1;
        let id = BatchId(self.sync.batches.last);
        // One more than there are: it must not end before all have begun.
        let batch = Batch { left: records.len() + 1, failed: false, then };
        self.sync.batches.open.insert(id, batch);
        for (key, record) in records {
            let incoming = Incoming { round, ..Incoming::from(record) };
            let task = Task::Merge(incoming, Waiter::Batch(id));
            self.with_view(now, CellId::own(partition, &key), task, out);
        }
        self.batch_told(now, id, true, out);
    }

    /// One record of a batch is durable, or could not be kept.
    pub(in crate::protocol::worker) fn batch_told(
        &mut self,
        now: Now,
        id: BatchId,
        durable: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(batch) = self.sync.batches.open.get_mut(&id) else { return };
        batch.left -= 1;
        batch.failed |= !durable;
        if batch.left > 0 {
            return;
        }
        let (failed, then) = (batch.failed, batch.then);
        self.sync.batches.open.remove(&id);
        match then {
            Then::Session(session) => self.session_merged(now, session, !failed, out),
            Then::Peer { to, call, partition } => {
                let answer = if failed { SyncAnswer::NotNow } else { SyncAnswer::Stored };
                let message = DataMessage::SyncReply(call, answer);
                out.push(Effect::Send { to, trace: None, partition, message });
            }
        }
    }
}
