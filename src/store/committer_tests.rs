//! What the committer promises, against engines that are watched, slowed and broken.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::thread::ThreadId;

use bytes::Bytes;

use super::super::desk::{BATCH_BYTES_MAX, BATCH_SUBMISSIONS_MAX, HERE_BYTES_MAX, SYNC_EVERY};
use super::super::point::{BatchPoint, COMMIT_KEY};
use super::super::{MemoryStore, Page, Space, StoreError};
use super::*;

const WAIT: Duration = Duration::from_secs(10);

/// A memory store that can be held up, and that counts.
#[derive(Default)]
struct Watched {
    memory: MemoryStore,
    gate: Mutex<bool>,
    opened: Condvar,
    commits: AtomicUsize,
    syncs: AtomicUsize,
    busy: AtomicBool,
    /// Who has committed last.
    by: Mutex<Option<ThreadId>>,
}

impl Watched {
    /// Holds every commit up, or no longer.
    fn hold(&self, hold: bool) {
        *lock(&self.gate) = hold;
        self.opened.notify_all();
    }

    fn point(&self) -> CommitPoint {
        let bytes = self.memory.get(Space::Meta, COMMIT_KEY).unwrap();
        bytes.map(|bytes| BatchPoint::decode(&bytes).unwrap().point).unwrap_or_default()
    }

    fn records(&self) -> Vec<Bytes> {
        let page = self.memory.scan(Space::Records, b"", b"", usize::MAX).unwrap();
        page.entries.into_iter().map(|(key, _)| key).collect()
    }
}

impl Store for Watched {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.memory.get(space, key)
    }
    fn scan(&self, s: Space, prefix: &[u8], after: &[u8], max: usize) -> Result<Page, StoreError> {
        self.memory.scan(s, prefix, after, max)
    }
    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError> {
        let held = self.opened.wait_while(lock(&self.gate), |held| *held);
        drop(held.unwrap_or_else(PoisonError::into_inner));
        self.commits.fetch_add(1, Ordering::SeqCst);
        *lock(&self.by) = Some(std::thread::current().id());
        self.memory.commit(changes, durability)
    }
    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst)
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.memory.sync()
    }
}

struct Rig {
    committer: Committer,
    store: Arc<Watched>,
    reports: Receiver<Vec<Completion>>,
    folder: tempfile::TempDir,
}

impl Rig {
    fn new(durability: Durability) -> Self {
        Self::starting(durability, CommitPoint::default())
    }

    fn starting(durability: Durability, start: CommitPoint) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mark = Mark::create(&folder.path().join("MARK"), CommitPoint::default()).unwrap();
        let store = Arc::new(Watched::default());
        let (report, reports) = channel();
        let complete = move |done: &[Completion]| drop(report.send(done.to_vec()));
        let shared: Arc<dyn Store> = Arc::<Watched>::clone(&store);
        let committer = Committer::start(shared, durability, mark, start, complete).unwrap();
        Self { committer, store, reports, folder }
    }

    fn submit(&self, source: u32, id: u64) {
        self.committer.submit(submission(source, id, id));
    }

    fn report(&self) -> Vec<Completion> {
        self.reports.recv_timeout(WAIT).expect("a report")
    }

    fn mark(&self) -> CommitPoint {
        Mark::open(&self.folder.path().join("MARK")).unwrap().unwrap().at()
    }
}

fn submission(source: u32, id: u64, clock: u64) -> Submission {
    let key = format!("{source}/{id:05}").into();
    let changes = vec![Change { space: Space::Records, key, value: Some(Bytes::new()) }];
    Submission { source, id, changes, clock: Stamp(clock) }
}

fn until(claim: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < WAIT, "never: {claim}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_queues_up_behind_a_commit_becomes_one_batch_and_one_report() {
    let rig = Rig::new(Durability::Fsync);
    rig.store.hold(true);
    rig.submit(0, 1);
    until("the first is taken", || lock(&rig.committer.shared.queue).submissions.is_empty());
    for id in 2..=50 {
        rig.submit(0, id);
        rig.submit(7, id);
    }
    assert_eq!(rig.committer.queued(), 99);
    rig.store.hold(false);
    assert_eq!(rig.report(), [Completion::Done { source: 0, through: 1 }]);
    let done = |source| Completion::Done { source, through: 50 };
    assert_eq!(rig.report(), [done(0), done(7)]);
    until("all is reported", || rig.committer.queued() == 0);
    assert_eq!(rig.store.commits.load(Ordering::SeqCst), 2);
    assert_eq!(rig.committer.synced(), CommitNumber(2));
    assert_eq!(rig.store.point(), CommitPoint { number: CommitNumber(2), clock: Stamp(50) });
}

#[test]
fn a_report_comes_only_after_the_commit() {
    let rig = Rig::new(Durability::Fsync);
    rig.store.hold(true);
    rig.submit(0, 1);
    assert!(rig.reports.recv_timeout(Duration::from_millis(50)).is_err());
    assert_eq!(rig.committer.synced(), CommitNumber(0));
    rig.store.hold(false);
    rig.report();
    assert_eq!(rig.committer.synced(), CommitNumber(1));
    assert_eq!(rig.store.memory.unsynced(), 0);
}

#[test]
fn a_batch_is_bounded_by_bytes_and_by_count_and_one_large_submission_goes_in_whole() {
    let rig = Rig::new(Durability::Fsync);
    rig.store.hold(true);
    rig.submit(0, 1);
    until("the first is taken", || lock(&rig.committer.shared.queue).submissions.is_empty());
    let large = |id| {
        let mut large = submission(1, id, id);
        large.changes[0].value = Some(vec![0; BATCH_BYTES_MAX / 2].into());
        large.changes.extend(submission(2, id, id).changes);
        large
    };
    for id in 1..=3 {
        rig.committer.submit(large(id));
    }
    let mut huge = large(4);
    huge.changes[0].value = Some(vec![0; 2 * BATCH_BYTES_MAX].into());
    rig.committer.submit(huge);
    for id in 1..=BATCH_SUBMISSIONS_MAX as u64 + 1 {
        rig.submit(3, id);
    }
    rig.store.hold(false);
    rig.report();
    assert_eq!(rig.report(), [Completion::Done { source: 1, through: 2 }]);
    assert_eq!(rig.report(), [Completion::Done { source: 1, through: 4 }]);
    let through = BATCH_SUBMISSIONS_MAX as u64;
    assert_eq!(rig.report(), [Completion::Done { source: 3, through }]);
    assert_eq!(rig.report(), [Completion::Done { source: 3, through: through + 1 }]);
}

#[test]
fn submissions_of_many_threads_go_in_each_in_its_order() {
    let rig = Rig::new(Durability::Fsync);
    std::thread::scope(|scope| {
        for source in 0..4 {
            let rig = &rig.committer;
            scope.spawn(move || (1..=500).for_each(|id| rig.submit(submission(source, id, id))));
        }
    });
    let mut through = [0; 4];
    while through != [500; 4] {
        for completion in rig.report() {
            let Completion::Done { source, through: id } = completion else {
                panic!("{completion:?}")
            };
            let last = &mut through[source as usize];
            assert!(id > *last, "source {source}: {id} after {last}");
            *last = id;
        }
    }
    assert_eq!(rig.store.records().len(), 2000);
}

#[test]
fn a_full_disk_refuses_a_batch_whole_and_the_next_goes_in_under_its_number() {
    let rig = Rig::new(Durability::Fsync);
    rig.submit(0, 1);
    rig.report();
    rig.store.memory.set_full(true);
    rig.store.hold(true);
    rig.submit(0, 2);
    until("the second is taken", || lock(&rig.committer.shared.queue).submissions.is_empty());
    rig.submit(0, 3);
    rig.submit(1, 3);
    rig.store.hold(false);
    let refused = |source, id| Completion::Refused { source, id };
    assert_eq!(rig.report(), [refused(0, 2)]);
    assert_eq!(rig.report(), [refused(0, 3), refused(1, 3)]);
    assert_eq!(rig.committer.synced(), CommitNumber(1));
    rig.store.memory.set_full(false);
    rig.submit(0, 4);
    assert_eq!(rig.report(), [Completion::Done { source: 0, through: 4 }]);
    assert_eq!(rig.store.records(), ["0/00001", "0/00004"]);
    assert_eq!(rig.store.point().number, CommitNumber(2));
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged_ever() {
    let rig = Rig::new(Durability::Fsync);
    rig.submit(0, 1);
    rig.report();
    rig.store.memory.fail_next();
    rig.submit(0, 2);
    let report = rig.report();
    assert!(
        matches!(&report[..], [Completion::Failed(text)] if text.contains("injected fault")),
        "{report:?}"
    );
    rig.store.memory.crash_kill();
    rig.submit(0, 3);
    assert!(rig.reports.recv_timeout(Duration::from_millis(100)).is_err());
    assert_eq!(rig.committer.beat(), Beat::Ended);
    assert_eq!(rig.committer.synced(), CommitNumber(1));
    rig.committer.stop();
    assert!(rig.reports.try_recv().is_err());
    assert_eq!(rig.mark().number, CommitNumber(1));
}

#[test]
fn a_mark_that_cannot_be_written_stops_the_committer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("MARK");
    drop(Mark::create(&path, CommitPoint::default()).unwrap());
    let mark = Mark::open(&path).unwrap().unwrap().read_only();
    let (report, reports) = channel();
    let complete = move |done: &[Completion]| drop(report.send(done.to_vec()));
    let store = Arc::new(MemoryStore::new());
    let committer =
        Committer::start(store, Durability::Fsync, mark, CommitPoint::default(), complete).unwrap();
    committer.submit(submission(0, 1, 1));
    assert_eq!(reports.recv_timeout(WAIT).unwrap(), [Completion::Done { source: 0, through: 1 }]);
    let failed = reports.recv_timeout(WAIT).unwrap();
    assert!(matches!(&failed[..], [Completion::Failed(text)] if text.contains("MARK")));
    committer.submit(submission(0, 2, 2));
    committer.stop();
    assert!(reports.try_recv().is_err());
}

#[test]
fn the_mark_is_never_ahead_and_not_written_at_every_commit() {
    let rig = Rig::new(Durability::Fsync);
    let start = Instant::now();
    let mut id = 0;
    let mut marks = std::collections::BTreeSet::new();
    while start.elapsed() < Duration::from_millis(400) {
        id += 1;
        rig.submit(0, id);
        rig.report();
        let mark = rig.mark().number;
        assert!(mark <= rig.committer.synced());
        marks.insert(mark);
    }
    assert!(marks.len() as u128 <= 2 + start.elapsed().as_millis() / 50, "{}", marks.len());
    until("marked", || rig.mark() == CommitPoint { number: CommitNumber(id), clock: Stamp(id) });
}

#[test]
fn the_mark_follows_within_100_ms_and_rests_when_nothing_changes() {
    let rig = Rig::new(Durability::Fsync);
    // A loaded machine may be late now and then, but not each time.
    let followed = (1..=10).any(|id| {
        let begun = Instant::now();
        rig.submit(0, id);
        rig.report();
        let synced = Instant::now();
        // The mark is synced, too, and that may take as long.
        let sync = synced - begun;
        until("the mark has followed", || rig.mark().number == CommitNumber(id));
        synced.elapsed() <= Duration::from_millis(100) + 2 * sync
    });
    assert!(followed);
    until("at rest", || rig.committer.beat() == Beat::Idle);
    let path = rig.folder.path().join("MARK");
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written);
}

#[test]
fn buffered_commits_are_synced_within_a_second_and_not_counted_before() {
    let rig = Rig::new(Durability::Buffered);
    let start = Instant::now();
    for id in 1..=3 {
        rig.submit(0, id);
        rig.report();
    }
    let (synced, mark) = (rig.committer.synced(), rig.mark().number);
    if start.elapsed() < SYNC_EVERY {
        assert_eq!((synced, mark), (CommitNumber(0), CommitNumber(0)));
    }
    until("synced", || rig.committer.synced() == CommitNumber(3));
    assert_eq!(rig.store.memory.unsynced(), 0);
    until("marked", || rig.mark().number == CommitNumber(3));
    let syncs = rig.store.syncs.load(Ordering::SeqCst);
    std::thread::sleep(SYNC_EVERY + Duration::from_millis(100));
    assert_eq!(rig.store.syncs.load(Ordering::SeqCst), syncs, "nothing was left to sync");
}

#[test]
fn hints_and_what_a_node_says_of_itself_are_synced_even_where_records_are_not() {
    let rig = Rig::new(Durability::Buffered);
    let submit = |source, id, space| {
        let (key, value) = (Bytes::from_static(b"k"), Some(Bytes::from_static(b"v")));
        let changes = vec![Change { space, key, value }];
        rig.committer.submit(Submission { source, id, changes, clock: Stamp::default() });
        rig.report();
    };
    let start = Instant::now();
    for (id, space) in [(2, Space::Hints), (4, Space::Meta)] {
        submit(0, id - 1, Space::Records);
        let unsynced = rig.store.memory.unsynced();
        submit(0, id, space);
        assert_eq!(rig.store.memory.unsynced(), 0);
        assert!(unsynced > 0 || start.elapsed() >= SYNC_EVERY, "the record was synced by itself");
    }
    submit(NOTES, 1, Space::Meta);
    let unsynced = rig.store.memory.unsynced();
    assert!(unsynced > 0 || start.elapsed() >= SYNC_EVERY, "nobody waits for a note");
}

#[test]
fn notes_alone_do_not_move_the_number_that_peers_are_told() {
    for durability in [Durability::Fsync, Durability::Buffered] {
        let rig = Rig::new(durability);
        rig.submit(0, 1);
        rig.report();
        rig.submit(NOTES, 1);
        rig.report();
        until("both are synced", || rig.committer.synced() == CommitNumber(2));
        assert_eq!(rig.committer.announced(), CommitNumber(1));
        rig.submit(0, 2);
        rig.report();
        until("the third is told", || rig.committer.announced() == CommitNumber(3));
    }
}

#[test]
fn stopping_commits_what_is_queued_syncs_it_and_writes_the_mark() {
    for durability in [Durability::Fsync, Durability::Buffered] {
        let rig = Rig::new(durability);
        rig.store.hold(true);
        for id in 1..=10 {
            rig.submit(0, id);
        }
        rig.store.hold(false);
        rig.committer.stop();
        assert_eq!(rig.store.records().len(), 10);
        assert_eq!(rig.store.memory.unsynced(), 0);
        assert_eq!(rig.mark(), rig.store.point());
        assert_eq!(rig.committer.beat(), Beat::Ended);
        rig.submit(0, 11);
        rig.committer.stop();
        assert_eq!(rig.store.records().len(), 10);
    }
}

#[test]
fn numbers_and_the_clock_go_on_from_where_the_store_was() {
    let start = CommitPoint { number: CommitNumber(41), clock: Stamp(900) };
    let rig = Rig::starting(Durability::Fsync, start);
    assert_eq!(rig.committer.synced(), CommitNumber(41));
    rig.submit(0, 1);
    rig.report();
    assert_eq!(rig.store.point(), CommitPoint { number: CommitNumber(42), clock: Stamp(900) });
    rig.submit(0, 1000);
    rig.report();
    assert_eq!(rig.store.point().clock, Stamp(1000));
}

#[test]
fn a_beat_tells_idle_from_busy_from_stuck() {
    let rig = Rig::new(Durability::Fsync);
    assert_eq!(rig.committer.beat(), Beat::Idle);
    rig.store.hold(true);
    std::thread::sleep(Duration::from_millis(60));
    let submitted = Instant::now();
    rig.submit(0, 1);
    let beat = rig.committer.beat();
    // Counted from the work's arrival, not from the last work before the rest.
    let bound = submitted.elapsed() + Duration::from_millis(1);
    assert!(matches!(beat, Beat::Working(since) if since <= bound), "{beat:?}");
    std::thread::sleep(Duration::from_millis(60));
    assert!(matches!(rig.committer.beat(), Beat::Working(since) if since.as_millis() >= 60));
    rig.store.hold(false);
    rig.report();
    until("idle again", || rig.committer.beat() == Beat::Idle);
}

#[test]
fn a_panic_in_the_callback_ends_the_committer_visibly() {
    let folder = tempfile::tempdir().unwrap();
    let mark = Mark::create(&folder.path().join("MARK"), CommitPoint::default()).unwrap();
    let store = Arc::new(MemoryStore::new());
    let complete = |_: &[Completion]| panic!("a callback's own mistake");
    let committer =
        Committer::start(store, Durability::Fsync, mark, CommitPoint::default(), complete).unwrap();
    committer.submit(submission(0, 1, 1));
    until("ended", || committer.beat() == Beat::Ended);
    committer.stop();
}

/// Waits until the committer's thread has found nothing to do: what is queued before that it takes itself.
fn until_asleep(committer: &Committer) {
    until("the thread sleeps", || lock(&committer.shared.queue).asleep);
}

/// Whether this thread has made the newest commit.
fn was_here(rig: &Rig) -> bool {
    *lock(&rig.store.by) == Some(std::thread::current().id())
}

#[test]
fn a_buffered_commit_is_carried_out_by_whoever_asks_and_synced_by_the_thread() {
    let rig = Rig::new(Durability::Buffered);
    until_asleep(&rig.committer);
    for id in 1..=3 {
        rig.committer.queue(submission(0, id, id));
    }
    rig.committer.commit_here();
    // Reported before the call returns.
    assert_eq!(rig.reports.try_recv(), Ok(vec![Completion::Done { source: 0, through: 3 }]));
    assert!(was_here(&rig));
    assert_eq!((rig.store.records().len(), rig.store.commits.load(Ordering::SeqCst)), (3, 1));
    assert_eq!(rig.committer.synced(), CommitNumber(0));
    until("it is synced", || rig.committer.synced() == CommitNumber(1));
    assert_eq!(rig.store.syncs.load(Ordering::SeqCst), 1);
}

#[test]
fn what_must_be_synced_or_is_large_or_would_wait_is_left_to_the_thread() {
    let rig = Rig::new(Durability::Buffered);
    let mut hint = submission(0, 1, 1);
    hint.changes[0].space = Space::Hints;
    let mut large = submission(0, 2, 2);
    large.changes[0].value = Some(vec![0; HERE_BYTES_MAX].into());
    for left in [hint, large] {
        rig.committer.queue(left);
        rig.committer.commit_here();
        rig.report();
        assert!(!was_here(&rig));
    }
    rig.store.busy.store(true, Ordering::SeqCst);
    rig.committer.queue(submission(0, 3, 3));
    rig.committer.commit_here();
    rig.report();
    assert!(!was_here(&rig));

    let rig = Rig::new(Durability::Fsync);
    rig.committer.queue(submission(0, 1, 1));
    rig.committer.commit_here();
    rig.report();
    assert!(!was_here(&rig));
}

#[test]
fn commits_here_and_on_the_thread_keep_the_order_of_each_source() {
    let rig = Rig::new(Durability::Buffered);
    std::thread::scope(|scope| {
        for source in 0..4 {
            let committer = &rig.committer;
            scope.spawn(move || {
                for id in 1..=500 {
                    committer.queue(submission(source, id, id));
                    if id % 3 == 0 { committer.wake() } else { committer.commit_here() }
                }
                committer.commit_here();
            });
        }
    });
    let mut through = [0; 4];
    while through != [500; 4] {
        for done in rig.report() {
            let Completion::Done { source, through: now } = done else { panic!("{done:?}") };
            let before = std::mem::replace(&mut through[source as usize], now);
            assert!(before < now, "{source}: {before}, then {now}");
        }
    }
    assert_eq!(rig.store.records().len(), 2000);
}

#[test]
fn a_write_that_fails_here_ends_the_committer() {
    let rig = Rig::new(Durability::Buffered);
    until_asleep(&rig.committer);
    rig.store.memory.fail_next();
    rig.committer.queue(submission(0, 1, 1));
    rig.committer.commit_here();
    let reports = rig.reports.try_recv().unwrap();
    assert!(matches!(&reports[..], [Completion::Failed(_)]), "{reports:?}");
    until("the committer has ended", || rig.committer.beat() == Beat::Ended);
    rig.committer.queue(submission(0, 2, 2));
    rig.committer.commit_here();
    assert!(rig.reports.recv_timeout(Duration::from_millis(50)).is_err());
}

#[test]
fn a_panic_here_ends_the_committer_visibly() {
    let folder = tempfile::tempdir().unwrap();
    let mark = Mark::create(&folder.path().join("MARK"), CommitPoint::default()).unwrap();
    let store = Arc::new(MemoryStore::default());
    let complete = |_: &[Completion]| panic!("on purpose");
    let start = CommitPoint::default();
    let committer = Committer::start(store, Durability::Buffered, mark, start, complete).unwrap();
    until_asleep(&committer);
    committer.queue(submission(0, 1, 1));
    let here = std::panic::AssertUnwindSafe(|| committer.commit_here());
    assert!(std::panic::catch_unwind(here).is_err());
    until("the committer has ended", || committer.beat() == Beat::Ended);
}
