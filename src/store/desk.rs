//! The committer's desk: where batches are made, one at a time, by whoever holds it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::committer::{Completion, NOTES, Phase, Shared, Submission, chain, lock};
use super::point::{BatchPoint, COMMIT_KEY, CommitPoint};
use super::{Change, Durability, Space, Store, StoreError};
use crate::types::CommitNumber;

/// Bytes of keys and values after which a batch takes no more submissions: about as much as a
/// disk writes in the time of two or three syncs. One larger submission still goes in whole.
pub(super) const BATCH_BYTES_MAX: usize = 8 << 20;
/// Submissions after which a batch takes no more: the wake-ups at its end are one loop.
pub(super) const BATCH_SUBMISSIONS_MAX: usize = 8192;
/// Bytes of a batch that is committed where it was queued: a fraction of a millisecond. For a larger
/// one a wake-up costs little.
pub(super) const HERE_BYTES_MAX: usize = 64 << 10;
/// What a change costs beside its key and value.
const CHANGE_BYTES: usize = 32;
/// What a power cut may take of acknowledged writes where durability is buffered.
pub(super) const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What the committer's thread does next.
pub(super) enum Next {
    Batch,
    Sync,
    Stop,
    /// It has been stopped already, by a failure.
    End,
    Fail(String),
    /// Nothing, for so long at most.
    Wait(Option<Duration>),
}

/// Tells of the batches that are done.
type Report = Box<dyn FnMut(&[Completion]) + Send>;

/// Where batches are made, one at a time.
pub(super) struct Desk {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    durability: Durability,
    /// Who is told of each batch.
    complete: Report,
    backlog: VecDeque<Submission>,
    /// The newest commit; its clock includes those of refused batches.
    last: CommitPoint,
    /// The newest commit that holds anything but notes.
    last_but_notes: CommitNumber,
    /// Since when there is something that a sync would make durable.
    unsynced_since: Option<Instant>,
    /// The batch under way, and whose submissions it is made of.
    changes: Vec<Change>,
    members: Vec<(u32, u64)>,
    /// Whether it holds what survives power loss whatever the durability is.
    must_sync: bool,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Desk {
    /// A desk behind `start`, the point that the store was recovered to.
    pub fn new(
        shared: Arc<Shared>,
        store: Arc<dyn Store>,
        durability: Durability,
        start: CommitPoint,
        complete: impl FnMut(&[Completion]) + Send + 'static,
    ) -> Self {
        Self {
            shared,
            store,
            durability,
            complete: Box::new(complete),
            backlog: VecDeque::new(),
            last: start,
            last_but_notes: start.number,
            unsynced_since: None,
            changes: Vec::new(),
            members: Vec::new(),
            must_sync: false,
        }
    }

    /// What the committer's thread is to do next.
    pub fn next(&mut self) -> Next {
        let mut queue = lock(&self.shared.queue);
        if let Some(reason) = queue.mark_failed.take() {
            return Next::Fail(reason);
        }
        if queue.phase == Phase::Ended {
            return Next::End;
        }
        let sync_in = self.unsynced_since.map(|t| SYNC_EVERY.saturating_sub(t.elapsed()));
        if sync_in == Some(Duration::ZERO) {
            return Next::Sync;
        }
        self.backlog.extend(std::mem::take(&mut queue.submissions));
        if !self.backlog.is_empty() {
            return Next::Batch;
        }
        if queue.phase == Phase::Stopping { Next::Stop } else { Next::Wait(sync_in) }
    }

    /// Commits all that is queued for whoever asks, if that needs no sync, is not much, and has nothing to
    /// wait for. Whether it has, and whether the thread has to know of it.
    pub fn commit_here(&mut self) -> (bool, bool) {
        if !self.take_what_fits_here() {
            return (false, false);
        }
        // It is to sync this in a second, unless it was to sync something already.
        let first = self.unsynced_since.is_none();
        while !self.backlog.is_empty() {
            if let Err(reason) = self.commit_batch() {
                self.fail(reason);
                return (true, true);
            }
        }
        (true, first && self.unsynced_since.is_some())
    }

    /// Takes in what is queued, and tells whether all of it may be committed by whoever asks.
    fn take_what_fits_here(&mut self) -> bool {
        let mut queue = lock(&self.shared.queue);
        let fits = queue.phase == Phase::Open
            && self.durability == Durability::Buffered
            && self.backlog.is_empty()
            && !queue.submissions.iter().any(must_sync)
            && queue.submissions.iter().map(weight).sum::<usize>() <= HERE_BYTES_MAX
            && !self.store.is_busy();
        if fits {
            self.backlog.extend(queue.submissions.drain(..));
        }
        fits
    }

    /// Commits as much of the backlog as one batch takes, and reports it.
    pub fn commit_batch(&mut self) -> Result<(), String> {
        self.fill_batch();
        let number = CommitNumber(self.last.number.0 + 1);
        let point = CommitPoint { number, clock: self.last.clock };
        let synced = CommitNumber(self.shared.synced.load(Ordering::Relaxed));
        self.changes.push(Change {
            space: Space::Meta,
            key: Bytes::from_static(COMMIT_KEY),
            value: Some(BatchPoint { point, synced }.encode()),
        });
        let began = Instant::now();
        let committed = self.store.commit(&self.changes, self.batch_durability());
        self.shared.meters.durations.record_time(began.elapsed());
        self.shared.meters.sizes.record(self.members.len() as u64);
        let completions = match committed {
            Ok(()) => {
                self.last = point;
                if self.members.iter().any(|(source, _)| *source != NOTES) {
                    self.last_but_notes = number;
                }
                match self.durability {
                    Durability::Fsync => self.shared.set_synced(point, self.last_but_notes),
                    Durability::Buffered => {
                        self.unsynced_since.get_or_insert_with(Instant::now);
                    }
                }
                self.done()
            }
            Err(StoreError::Full { .. }) => {
                self.shared.meters.refused.fetch_add(1, Ordering::Relaxed);
                let refused =
                    |(source, id): &(u32, u64)| Completion::Refused { source: *source, id: *id };
                self.members.iter().map(refused).collect()
            }
            Err(error @ (StoreError::Read(_) | StoreError::Write(_))) => return Err(chain(&error)),
        };
        (self.complete)(&completions);
        self.shared.outstanding.fetch_sub(self.members.len(), Ordering::Relaxed);
        self.shared.progressed();
        Ok(())
    }

    /// What the batch must survive before it is reported.
    fn batch_durability(&self) -> Durability {
        if self.must_sync { Durability::Fsync } else { self.durability }
    }

    /// Moves submissions from the backlog into the batch, up to its bounds.
    fn fill_batch(&mut self) {
        self.changes.clear();
        self.members.clear();
        self.must_sync = false;
        let mut bytes = 0;
        while bytes < BATCH_BYTES_MAX && self.members.len() < BATCH_SUBMISSIONS_MAX {
            let Some(submission) = self.backlog.pop_front() else { break };
            bytes += weight(&submission);
            self.must_sync |= must_sync(&submission);
            self.changes.extend(submission.changes);
            self.members.push((submission.source, submission.id));
            self.last.clock = self.last.clock.max(submission.clock);
        }
    }

    /// The batch's highest id of each source.
    fn done(&self) -> Vec<Completion> {
        let mut through = BTreeMap::new();
        for (source, id) in &self.members {
            let highest = through.entry(*source).or_insert(*id);
            *highest = (*highest).max(*id);
        }
        let done = |(source, through)| Completion::Done { source, through };
        through.into_iter().map(done).collect()
    }

    /// Makes durable what is only in the kernel.
    pub fn sync(&mut self) -> Result<(), String> {
        if self.unsynced_since.is_some() {
            self.store.sync().map_err(|error| chain(&error))?;
            self.unsynced_since = None;
            self.shared.set_synced(self.last, self.last_but_notes);
            self.shared.progressed();
        }
        Ok(())
    }

    pub fn fail(&mut self, reason: String) {
        // Nobody who hears of it can submit any more.
        lock(&self.shared.queue).phase = Phase::Ended;
        (self.complete)(&[Completion::Failed(reason)]);
    }
}

/// Whether something must survive power loss whatever the durability of records is.
fn must_sync(submission: &Submission) -> bool {
    let has = |space| submission.changes.iter().any(|change| change.space == space);
    let hints = submission.changes.iter().filter(|change| change.space == Space::Hints);
    let of_itself = submission.source != NOTES && !has(Space::Records) && has(Space::Meta);
    of_itself || hints.into_iter().any(|change| change.value.is_some())
}

/// About as many bytes as it takes in a batch.
fn weight(submission: &Submission) -> usize {
    submission.changes.iter().map(size).sum()
}

fn size(change: &Change) -> usize {
    CHANGE_BYTES + change.key.len() + change.value.as_ref().map_or(0, Bytes::len)
}
