//! The one committer of a node: group commit.
//!
//! The engine has one journal and one lock round it, so many small commits are slow and one large
//! commit costs hardly more than a small one. Whoever has something to store submits it and goes
//! on; one thread takes all that has queued up, makes it one batch, syncs once, and reports.
//!
//! ```text
//!  submit ─▶ queue ─▶ batch n = changes ‖ (n, clock) ─▶ store.commit ─▶ synced = n ─▶ complete
//!                                                                          └─(50 ms)─▶ mark = n
//! ```
//!
//! Invariants:
//!
//! - per source, batches take submissions in the order of the calls of `submit`, and completions
//!   come in that order;
//! - `Done` means as durable as was asked for; mark ≤ `synced()` ≤ newest commit;
//! - a refused batch has no number and leaves nothing behind;
//! - after `Failed` nothing is acknowledged any more, ever.
//!
//! With [`Durability::Buffered`] batches reach the kernel only; the committer then syncs every
//! second while there is something to sync, so that a power cut takes about a second at most.
//! A batch that holds a hint is synced all the same: a hint is the only copy that its target will
//! ever be given, and it counts toward W. So is what a node writes of itself in `Space::Meta`, but for notes, and
//! for marks that go with a record: others build on what a node has once said, whatever clients have chosen for
//! their values.
//! A second thread writes the mark: an fsync of its own that no acknowledgement waits for.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::point::{BatchPoint, COMMIT_KEY, CommitPoint};
use super::{Change, Durability, Mark, Space, Store, StoreError, assert_keys};
use crate::metrics::{COUNTS, Histogram, LATENCIES};
use crate::types::{CommitNumber, Stamp};

/// Bytes of keys and values after which a batch takes no more submissions: about as much as a
/// disk writes in the time of two or three syncs. One larger submission still goes in whole.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Submissions after which a batch takes no more: the wake-ups at its end are one loop.
const BATCH_SUBMISSIONS_MAX: usize = 8192;
/// What a change costs beside its key and value.
const CHANGE_BYTES: usize = 32;
/// The mark follows this long after a commit, and is written at most this often. With the time
/// of the write itself it stays within 100 ms.
const MARK_AFTER: Duration = Duration::from_millis(50);
/// What a power cut may take of acknowledged writes where durability is buffered.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The source of notes: changes that nobody waits for. A commit of nothing else does not move
/// [`Committer::announced`].
pub const NOTES: u32 = u32::MAX - 1;

/// Changes that go in together.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Who submits; completions name it.
    pub source: u32,
    /// Rises within a source.
    pub id: u64,
    /// The changes, in order. The committer's own key in `Space::Meta` is not among them.
    pub changes: Vec<Change>,
    /// The source's clock: the highest stamp that it has given out.
    pub clock: Stamp,
}

/// What has become of submissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Every submission of `source` up to this id is durable, save those that were refused.
    Done {
        /// Whose.
        source: u32,
        /// The highest id.
        through: u64,
    },
    /// The disk is too full: nothing of this submission is stored. Later ones may go in.
    Refused {
        /// Whose.
        source: u32,
        /// Which.
        id: u64,
    },
    /// Writing failed, for the reason given; what is on disk is unknown and the node must stop.
    /// Nothing is reported after this.
    Failed(String),
}

/// Whether the committer gets on, for health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It has nothing to do.
    Idle,
    /// It has work (batches, or the mark, which comes up to 100 ms later), and last finished a
    /// step of it this long ago.
    Working(Duration),
    /// It has ended: stopped, or after a failure.
    Ended,
}

/// What the committer has done since its start.
#[derive(Debug)]
pub struct Meters {
    /// How long commits took, in microseconds.
    pub durations: Histogram,
    /// How many submissions went into one commit.
    pub sizes: Histogram,
    /// Commits that were refused.
    pub refused: AtomicU64,
}

/// The handle of the committer; shared by all who submit.
#[derive(Debug)]
pub struct Committer {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the committer behind `start`, the point that the store was recovered to (and that
    /// is durable). `complete` is called on the committer's thread, once a batch; it must not
    /// block for long, nor stop the committer.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        store: Arc<dyn Store>,
        durability: Durability,
        mark: Mark,
        start: CommitPoint,
        complete: impl FnMut(&[Completion]) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            outstanding: AtomicUsize::new(0),
            synced: AtomicU64::new(start.number.0),
            announced: AtomicU64::new(start.number.0),
            started: Instant::now(),
            progress: AtomicU64::new(0),
            mark: Mutex::new(MarkTask { due: start, behind_since: None, stop: false }),
            mark_work: Condvar::new(),
            meters: Meters {
                durations: Histogram::new(LATENCIES),
                sizes: Histogram::new(COUNTS),
                refused: AtomicU64::new(0),
            },
        });
        let committer = Self { shared: Arc::clone(&shared), threads: Mutex::default() };
        let marker = Arc::clone(&shared);
        let spawn = std::thread::Builder::new().name("mark".into());
        lock(&committer.threads).push(spawn.spawn(move || marker.keep_mark(mark))?);
        let thread = CommitThread {
            shared,
            store,
            durability,
            complete,
            backlog: VecDeque::new(),
            last: start,
            last_but_notes: start.number,
            unsynced_since: None,
            changes: Vec::new(),
            members: Vec::new(),
            must_sync: false,
        };
        let spawn = std::thread::Builder::new().name("commit".into());
        lock(&committer.threads).push(spawn.spawn(move || thread.run())?);
        Ok(committer)
    }

    /// Queues changes and sees to it that they are committed; never waits for the disk. After a
    /// failure or a stop they are dropped and never reported.
    ///
    /// # Panics
    /// If a key is empty or longer than 65,535 bytes.
    pub fn submit(&self, submission: Submission) {
        self.queue(submission);
        self.wake();
    }

    /// Queues changes like [`Committer::submit`], but does not wake the committer: whoever has
    /// more to queue wakes it once, for all, with [`Committer::wake`].
    ///
    /// # Panics
    /// If a key is empty or longer than 65,535 bytes.
    pub fn queue(&self, submission: Submission) {
        assert_keys(&submission.changes);
        let mut queue = lock(&self.shared.queue);
        if queue.phase != Phase::Open {
            return;
        }
        if self.shared.outstanding.fetch_add(1, Ordering::Relaxed) == 0 {
            self.shared.progressed();
        }
        queue.submissions.push(submission);
    }

    /// Wakes the committer if it sleeps while something is queued.
    pub fn wake(&self) {
        let mut queue = lock(&self.shared.queue);
        let wake = !queue.submissions.is_empty() && std::mem::take(&mut queue.asleep);
        drop(queue);
        if wake {
            self.shared.work.notify_one();
        }
    }

    /// The highest commit that a power cut leaves.
    #[must_use]
    pub fn synced(&self) -> CommitNumber {
        CommitNumber(self.shared.synced.load(Ordering::Acquire))
    }

    /// The highest commit that a power cut leaves and that holds anything but [`NOTES`]: what
    /// peers are told. Whoever is told a number notes it: if notes moved it, idle nodes would keep
    /// each other awake for ever.
    #[must_use]
    pub fn announced(&self) -> CommitNumber {
        CommitNumber(self.shared.announced.load(Ordering::Acquire))
    }

    /// Submissions that have not been reported yet.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.outstanding.load(Ordering::Relaxed)
    }

    /// What it has done.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.shared.meters
    }

    /// Whether the committer gets on.
    #[must_use]
    pub fn beat(&self) -> Beat {
        if lock(&self.shared.queue).phase == Phase::Ended {
            return Beat::Ended;
        }
        let behind = lock(&self.shared.mark).behind_since.map(|since| since.elapsed());
        let working = (self.queued() > 0).then(|| {
            let last = Duration::from_micros(self.shared.progress.load(Ordering::Relaxed));
            self.shared.started.elapsed().saturating_sub(last)
        });
        behind.max(working).map_or(Beat::Idle, Beat::Working)
    }

    /// Commits what is queued, syncs, writes the mark, and ends both threads. Safe to call again.
    pub fn stop(&self) {
        self.shared.begin_stop();
        for thread in lock(&self.threads).drain(..) {
            // A thread that has panicked has already ended the committer: see `EndGuard`.
            let _ = thread.join();
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // Not waited for: the last handle may be dropped inside `complete`.
        self.shared.begin_stop();
    }
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// Submissions queued or being committed.
    outstanding: AtomicUsize,
    synced: AtomicU64,
    /// At most `synced`.
    announced: AtomicU64,
    started: Instant,
    /// When a step was last finished, or work came to an idle committer: microseconds from
    /// `started`.
    progress: AtomicU64,
    mark: Mutex<MarkTask>,
    mark_work: Condvar,
    meters: Meters,
}

#[derive(Debug, Default)]
struct Queue {
    submissions: Vec<Submission>,
    /// The committer waits for `work`.
    asleep: bool,
    phase: Phase,
    /// Why the mark could not be written.
    mark_failed: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// No more submissions; what is queued is committed.
    Stopping,
    Ended,
}

#[derive(Debug)]
struct MarkTask {
    /// Synced: the mark may stand here, and soon must.
    due: CommitPoint,
    /// Since when it stands below.
    behind_since: Option<Instant>,
    stop: bool,
}

impl Shared {
    fn progressed(&self) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.progress.store(micros, Ordering::Relaxed);
    }

    fn begin_stop(&self) {
        let mut queue = lock(&self.queue);
        if queue.phase == Phase::Open {
            queue.phase = Phase::Stopping;
        }
        drop(queue);
        self.work.notify_one();
    }

    /// Everything up to `point` is on disk.
    fn set_synced(&self, point: CommitPoint, but_notes: CommitNumber) {
        self.synced.store(point.number.0, Ordering::Release);
        self.announced.store(but_notes.0, Ordering::Release);
        let mut task = lock(&self.mark);
        task.due = point;
        // While the mark is behind already, its thread knows, and looks again by itself.
        let first = task.behind_since.is_none();
        task.behind_since.get_or_insert_with(Instant::now);
        drop(task);
        if first {
            self.mark_work.notify_one();
        }
    }

    /// The body of the mark's thread.
    fn keep_mark(&self, mut mark: Mark) {
        let mut task = lock(&self.mark);
        loop {
            while task.due.number <= mark.at().number && !task.stop {
                task = self.mark_work.wait(task).unwrap_or_else(PoisonError::into_inner);
            }
            let before = Instant::now();
            while !task.stop && before.elapsed() < MARK_AFTER {
                let left = MARK_AFTER.saturating_sub(before.elapsed());
                let woken = self.mark_work.wait_timeout(task, left);
                task = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            let (point, stop) = (task.due, task.stop);
            drop(task);
            if point.number > mark.at().number
                && let Err(error) = mark.raise(point)
            {
                let text = format!("the mark {} cannot be written", mark.path().display());
                let mut queue = lock(&self.queue);
                queue.mark_failed = Some(format!("{text}: {}", chain(&error)));
                drop(queue);
                self.work.notify_one();
                return;
            }
            if stop {
                return;
            }
            task = lock(&self.mark);
            let behind = task.due.number > mark.at().number;
            task.behind_since = behind.then(Instant::now);
        }
    }
}

/// Ends the committer whatever way its thread ends, a panic included.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        queue.phase = Phase::Ended;
        queue.submissions = Vec::new();
        drop(queue);
        lock(&self.0.mark).stop = true;
        self.0.mark_work.notify_one();
    }
}

/// What the committer's thread does next.
enum Next {
    Batch,
    Sync,
    Stop,
    Fail(String),
}

struct CommitThread<C> {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    durability: Durability,
    complete: C,
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

impl<C: FnMut(&[Completion])> CommitThread<C> {
    fn run(mut self) {
        let _guard = EndGuard(Arc::clone(&self.shared));
        loop {
            let done = match self.next() {
                Next::Batch => self.commit_batch(),
                Next::Sync => self.sync(),
                Next::Stop => {
                    if let Err(reason) = self.sync() {
                        self.fail(reason);
                    }
                    return;
                }
                Next::Fail(reason) => Err(reason),
            };
            if let Err(reason) = done {
                self.fail(reason);
                return;
            }
        }
    }

    /// Waits until there is something to do; asleep, unless something is unsynced.
    fn next(&mut self) -> Next {
        let mut queue = lock(&self.shared.queue);
        loop {
            if let Some(reason) = queue.mark_failed.take() {
                return Next::Fail(reason);
            }
            let sync_in = self.unsynced_since.map(|t| SYNC_EVERY.saturating_sub(t.elapsed()));
            if sync_in == Some(Duration::ZERO) {
                return Next::Sync;
            }
            self.backlog.extend(std::mem::take(&mut queue.submissions));
            if !self.backlog.is_empty() {
                return Next::Batch;
            }
            if queue.phase == Phase::Stopping {
                return Next::Stop;
            }
            queue.asleep = true;
            queue = match sync_in {
                None => self.shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = self.shared.work.wait_timeout(queue, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            queue.asleep = false;
        }
    }

    /// Commits as much of the backlog as one batch takes, and reports it.
    fn commit_batch(&mut self) -> Result<(), String> {
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
            bytes += submission.changes.iter().map(size).sum::<usize>();
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
    fn sync(&mut self) -> Result<(), String> {
        if self.unsynced_since.is_some() {
            self.store.sync().map_err(|error| chain(&error))?;
            self.unsynced_since = None;
            self.shared.set_synced(self.last, self.last_but_notes);
            self.shared.progressed();
        }
        Ok(())
    }

    fn fail(&mut self, reason: String) {
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

fn size(change: &Change) -> usize {
    CHANGE_BYTES + change.key.len() + change.value.as_ref().map_or(0, Bytes::len)
}

/// An error and what lies behind it, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Nothing is done under these locks that could leave them half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "committer_tests.rs"]
mod tests;
