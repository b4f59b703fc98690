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
//! second while there is something to sync, so that a power cut takes about a second at most. Such a
//! commit takes less time than waking a thread for it, so whoever has queued changes may carry it out
//! itself ([`Committer::commit_here`]): at the *desk*, where one batch at a time is made, by whoever holds it.
//! A batch that holds a hint is synced all the same: a hint is the only copy that its target will
//! ever be given, and it counts toward W. So is what a node writes of itself in `Space::Meta`, but for notes, and
//! for marks that go with a record: others build on what a node has once said, whatever clients have chosen for
//! their values.
//! A second thread writes the mark: an fsync of its own that no acknowledgement waits for.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::desk::{Desk, Next};
use super::point::CommitPoint;
use super::{Change, Durability, Mark, Store, assert_keys};
use crate::metrics::{COUNTS, Histogram, LATENCIES};
use crate::types::{CommitNumber, Stamp};

/// The mark follows this long after a commit, and is written at most this often. With the time
/// of the write itself it stays within 100 ms.
const MARK_AFTER: Duration = Duration::from_millis(50);
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
    desk: Arc<Mutex<Desk>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the committer behind `start`, the point that the store was recovered to (and that
    /// is durable). `complete` is called once a batch, on the committer's thread or within
    /// [`Committer::commit_here`]; it must not block for long, nor call the committer.
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
        let desk = Desk::new(Arc::clone(&shared), store, durability, start, complete);
        let desk = Arc::new(Mutex::new(desk));
        let (at, threads) = (Arc::clone(&desk), Mutex::default());
        let committer = Self { shared: Arc::clone(&shared), desk, threads };
        let marker = Arc::clone(&shared);
        let spawn = std::thread::Builder::new().name("mark".into());
        lock(&committer.threads).push(spawn.spawn(move || marker.keep_mark(mark))?);
        let spawn = std::thread::Builder::new().name("commit".into());
        lock(&committer.threads).push(spawn.spawn(move || shared.commit_all(&at))?);
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

    /// Commits what is queued on the calling thread, if it needs no sync, is not large, and the
    /// store says that it need not wait; otherwise wakes the committer like [`Committer::wake`].
    pub fn commit_here(&self) {
        let _alarm = Alarm(&self.shared);
        // The thread looks at the queue once more before it sleeps.
        let Ok(mut desk) = self.desk.try_lock() else { return self.wake() };
        let (is_done, is_news) = desk.commit_here();
        drop(desk);
        if is_news {
            self.shared.tell_thread();
        } else if !is_done {
            self.wake();
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
pub(super) struct Shared {
    pub queue: Mutex<Queue>,
    work: Condvar,
    /// Submissions queued or being committed.
    pub outstanding: AtomicUsize,
    pub synced: AtomicU64,
    /// At most `synced`.
    announced: AtomicU64,
    started: Instant,
    /// When a step was last finished, or work came to an idle committer: microseconds from
    /// `started`.
    progress: AtomicU64,
    mark: Mutex<MarkTask>,
    mark_work: Condvar,
    pub meters: Meters,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub submissions: Vec<Submission>,
    /// The committer waits for `work`.
    asleep: bool,
    /// Something at the desk has changed what it waits for.
    news: bool,
    pub phase: Phase,
    /// Why the mark could not be written.
    pub mark_failed: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
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
    pub fn progressed(&self) {
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

    /// Has the committer's thread look at the desk again.
    fn tell_thread(&self) {
        lock(&self.queue).news = true;
        self.work.notify_one();
    }

    /// The body of the committer's thread.
    fn commit_all(self: Arc<Self>, at: &Mutex<Desk>) {
        let _guard = EndGuard(Arc::clone(&self));
        loop {
            // Whoever has panicked there has left a batch half made.
            let Ok(mut desk) = at.lock() else { return };
            let done = match desk.next() {
                Next::Batch => desk.commit_batch(),
                Next::Sync => desk.sync(),
                Next::Stop => {
                    if let Err(reason) = desk.sync() {
                        desk.fail(reason);
                    }
                    return;
                }
                Next::End => return,
                Next::Fail(reason) => Err(reason),
                Next::Wait(limit) => {
                    drop(desk);
                    self.wait(limit);
                    continue;
                }
            };
            if let Err(reason) = done {
                desk.fail(reason);
                return;
            }
        }
    }

    /// Sleeps until there is something to do at the desk.
    fn wait(&self, limit: Option<Duration>) {
        let mut queue = lock(&self.queue);
        let nothing = queue.submissions.is_empty() && queue.mark_failed.is_none();
        if nothing && !queue.news && queue.phase == Phase::Open {
            queue.asleep = true;
            queue = match limit {
                None => self.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(limit) => {
                    let woken = self.work.wait_timeout(queue, limit);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            queue.asleep = false;
        }
        queue.news = false;
    }

    /// Everything up to `point` is on disk.
    pub fn set_synced(&self, point: CommitPoint, but_notes: CommitNumber) {
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

/// Has the committer's thread find out that a batch was left half made.
struct Alarm<'a>(&'a Shared);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.tell_thread();
        }
    }
}

/// An error and what lies behind it, on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Nothing is done under these locks that could leave them half-changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "committer_tests.rs"]
mod tests;
