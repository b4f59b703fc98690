//! The host with a toy for a core.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ending::Ending;
use super::host::{Commits, DataCore, Host, Surroundings};
use crate::gossip::{Mailbox, SystemClock};
use crate::peers::{Limits, Peers};
use crate::protocol::message::{
    CallId, DataMessage, Envelope, Message, OpenSession, PlacementTag, ScanAnswer,
};
use crate::protocol::op::{Action, Failure, Op, Outcome, ReadOutcome, Reason};
use crate::protocol::placement::{Member, Placement, View};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::VersionVector;
use crate::protocol::step::{
    Change, CommitId, Effect, Input, MergedPage, Page, RepairReport, Space, Stats, Ticket, Token,
};
use crate::store::{Durability, Store, StoreError};
use crate::telemetry::Traces;
use crate::types::{
    Boot, ClusterId, CommitNumber, Key, Mono, NodeId, NodeName, Now, Partition, Stamp,
};

/// Gets read the store and answer how often they did; puts commit; everything has a deadline.
#[derive(Default)]
pub(super) struct Toy {
    reads: BTreeMap<Token, Ticket>,
    commits: BTreeMap<CommitId, Ticket>,
    deadlines: BTreeMap<Ticket, Mono>,
    last: u64,
    stats: Stats,
}

pub(super) fn seen(count: u64) -> Outcome {
    let visible = vec![];
    Outcome::Read(ReadOutcome { visible, seen: VersionVector::default(), degraded: count > 1 })
}

fn failed(reason: Reason) -> Outcome {
    Outcome::Failed(Failure::before(reason))
}

impl Toy {
    fn read(&mut self, ticket: Ticket, out: &mut Vec<Effect>) {
        self.last += 1;
        self.reads.insert(Token(self.last), ticket);
        let key = Bytes::from_static(b"k");
        out.push(Effect::Read { token: Token(self.last), space: Space::Records, key });
    }
}

impl DataCore for Toy {
    fn step(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Client { op, .. } if &op.key.bytes()[..] == b"panic" => panic!("as told"),
            Input::Client { ticket, op, deadline, .. } => {
                self.deadlines.insert(ticket, deadline);
                match op.action {
                    Action::Get => self.read(ticket, out),
                    Action::Put(_) => {
                        self.last += 1;
                        self.commits.insert(CommitId(self.last), ticket);
                        let (id, clock) = (CommitId(self.last), Stamp(now.mono.0));
                        out.push(Effect::Commit { id, changes: vec![], clock });
                    }
                }
            }
            Input::ReadDone(token, found) => {
                let ticket = self.reads.remove(&token).unwrap();
                // The first read asks once more: a step may follow from a step.
                if found.is_ok_and(|found| found.is_none()) && self.last == 1 {
                    return self.read(ticket, out);
                }
                self.deadlines.remove(&ticket);
                out.push(Effect::Reply(ticket, seen(self.last)));
            }
            Input::Committed(through) => {
                let left = self.commits.split_off(&CommitId(through.0 + 1));
                for ticket in std::mem::replace(&mut self.commits, left).into_values() {
                    self.deadlines.remove(&ticket);
                    out.push(Effect::Reply(ticket, seen(0)));
                }
            }
            Input::Refused(id) => {
                let ticket = self.commits.remove(&id).unwrap();
                out.push(Effect::Reply(ticket, failed(Reason::StoreRefused)));
            }
            Input::Tick => {
                self.stats.hedges += 1;
                while let Some((ticket, _)) =
                    self.deadlines.iter().find(|(_, due)| **due <= now.mono)
                {
                    let ticket = *ticket;
                    self.deadlines.remove(&ticket);
                    out.push(Effect::Reply(ticket, failed(Reason::QuorumNotReached)));
                }
            }
            Input::ScanPage { ticket, after, .. } => {
                let (space, prefix) = (Space::Records, Bytes::new());
                let token = Token(ticket.0);
                out.push(Effect::Scan { token, space, prefix, after, bytes_max: 100 });
            }
            Input::Scanned(token, page) => {
                assert!(page.is_ok_and(|page| page.done));
                out.push(Effect::ScanReply(Ticket(token.0), Ok(MergedPage::default())));
            }
            Input::Message { .. } => self.stats.passed += 1,
            _ => {}
        }
    }
    fn next_timer(&self) -> Option<Mono> {
        self.deadlines.values().min().copied()
    }
    fn serves(&self) -> bool {
        true
    }
    fn stats(&self) -> Stats {
        self.stats
    }

    fn repair_report(&mut self) -> RepairReport {
        RepairReport::default()
    }
}

struct Empty;

impl Store for Empty {
    fn get(&self, _: Space, _: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }
    fn scan(&self, _: Space, _: &[u8], _: &[u8], _: usize) -> Result<Page, StoreError> {
        Ok(Page { entries: vec![], done: true })
    }
    fn commit(&self, _: &[Change], _: Durability) -> Result<(), StoreError> {
        Ok(())
    }
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Remembers what was submitted.
#[derive(Default)]
struct Queue(Mutex<Vec<(usize, u64, Stamp)>>, AtomicU64, AtomicU64);

impl Commits for Queue {
    fn begin(&self) {}

    fn submit(&self, worker: usize, id: u64, _: Vec<Change>, clock: Stamp) {
        self.0.lock().unwrap().push((worker, id, clock));
        self.1.fetch_add(1, Ordering::SeqCst);
    }
    /// Asked for once a turn.
    fn announced(&self) -> CommitNumber {
        self.2.fetch_add(1, Ordering::SeqCst);
        CommitNumber(0)
    }
}

impl Queue {
    async fn until(&self, count: u64) {
        let start = Instant::now();
        while self.1.load(Ordering::SeqCst) < count {
            assert!(start.elapsed() < Duration::from_secs(10), "no {count} commits");
            tokio::task::yield_now().await;
        }
    }
}

fn rig(workers: usize) -> (Host<Toy>, Arc<Queue>, Ending) {
    let runtime = tokio::runtime::Handle::current();
    let (commits, ending) = (Arc::<Queue>::default(), Ending::default());
    let around = Surroundings {
        me: NodeId(1),
        clock: SystemClock::start(),
        store: Arc::new(Empty),
        commits: commits.clone(),
        peers: Peers::new(Limits::default(), runtime.clone()),
        control: Mailbox::new().0,
        runtime,
        ending: ending.clone(),
        traces: Traces::default(),
    };
    (Host::new(around, (0..workers).map(|_| Toy::default()).collect()), commits, ending)
}

fn get() -> Op {
    Op::get(Key::new("k").unwrap(), Consistency::One)
}

pub(super) fn set() -> Op {
    Op::set(Key::new("k").unwrap(), Bytes::new(), Consistency::One)
}

const SECOND: u64 = 1_000_000;
const PARTITIONS: u16 = 64;

#[tokio::test]
async fn a_read_of_the_store_is_answered_in_the_same_turn_and_may_lead_to_another() {
    let (host, ..) = rig(1);
    assert_eq!(host.run(get(), SECOND, None).await, seen(2));
}

#[tokio::test]
async fn a_write_is_answered_when_its_commit_is_reported_and_not_before() {
    let (host, commits, _) = rig(1);
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let host = host.clone();
            tokio::spawn(async move { host.run(set(), SECOND, None).await })
        })
        .collect();
    commits.until(3).await;
    assert!(writers.iter().all(|writer| !writer.is_finished()));
    host.committed(0, [Input::Refused(CommitId(2)), Input::Committed(CommitId(3))]);
    let mut outcomes = vec![];
    for writer in writers {
        outcomes.push(writer.await.unwrap());
    }
    assert_eq!(outcomes, [seen(0), failed(Reason::StoreRefused), seen(0)]);
}

/// A host whose workers know that there are partitions.
fn founded(workers: usize) -> (Host<Toy>, Arc<Queue>, Ending) {
    let (host, commits, ending) = rig(workers);
    let name = NodeName::new("node-0").unwrap();
    let member = Member { name: name.clone(), zone: String::new(), weight: 1 };
    let placement = Arc::new(Placement::found(vec![member], 1, PARTITIONS));
    let ids = BTreeMap::from([(name.clone(), NodeId(1))]);
    host.set_view(&Arc::new(View::new(NodeId(1), name, Boot(1), ClusterId(1), placement, ids)));
    commits.2.store(0, Ordering::SeqCst);
    (host, commits, ending)
}

#[tokio::test]
async fn the_ops_of_a_batch_share_turns_and_their_outcomes_come_in_their_order() {
    let (host, commits, _) = founded(4);
    let key = |i: usize| Key::new(format!("k{i}")).unwrap();
    let op = |i: usize| Op::set(key(i), Bytes::new(), Consistency::One);
    let ops: Vec<Op> = (0..100).map(op).collect();
    let worker = |op: &Op| op.partition(PARTITIONS).worker(4);
    let workers: Vec<usize> = ops.iter().map(worker).collect();
    let batch = tokio::spawn({
        let host = host.clone();
        async move { host.run_many(ops, SECOND, None).await }
    });
    commits.until(100).await;
    assert_eq!(commits.2.load(Ordering::SeqCst), 4, "one turn for each worker");
    // The last op of worker 2 is refused, and it alone.
    let of_two = workers.iter().filter(|worker| **worker == 2).count() as u64;
    for worker in 0..4 {
        let refused = (worker == 2).then_some(Input::Refused(CommitId(of_two)));
        host.committed(worker, refused.into_iter().chain([Input::Committed(CommitId(200))]));
    }
    let outcomes = batch.await.unwrap();
    let last = workers.iter().rposition(|worker| *worker == 2).unwrap();
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let expected = if at == last { failed(Reason::StoreRefused) } else { seen(0) };
        assert_eq!(outcome, expected, "op {at}");
    }
}

#[tokio::test]
async fn a_large_batch_leaves_room_for_others_and_a_failed_node_answers_all_of_it() {
    let (host, commits, ending) = founded(1);
    let ops = vec![set(); 300];
    let batch = tokio::spawn({
        let (host, ops) = (host.clone(), ops.clone());
        async move { host.run_many(ops, SECOND, None).await }
    });
    commits.until(300).await;
    assert_eq!(commits.2.load(Ordering::SeqCst), 3, "turns of 128 ops");
    host.committed(0, [Input::Committed(CommitId(300))]);
    assert_eq!(batch.await.unwrap(), vec![seen(0); 300]);

    ending.fail("the disk is gone");
    let outcomes = host.run_many(ops, SECOND, None).await;
    let may_be = |outcome: &Outcome| matches!(outcome, Outcome::Failed(f) if f.maybe_applied);
    assert_eq!(outcomes.iter().filter(|outcome| may_be(outcome)).count(), 300);
}

#[tokio::test]
async fn before_the_placement_is_known_a_batch_is_answered_one_by_one() {
    let (host, ..) = rig(2);
    assert_eq!(host.run_many(vec![get(), get()], SECOND, None).await, [seen(2), seen(3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_reach_the_committer_in_the_order_in_which_they_were_decided() {
    let (host, commits, _) = rig(1);
    for _ in 0..8 {
        let host = host.clone();
        tokio::spawn(async move {
            for _ in 0..200 {
                let _ = tokio::time::timeout(Duration::ZERO, host.run(set(), SECOND, None)).await;
            }
        });
    }
    commits.until(1600).await;
    let submitted = commits.0.lock().unwrap();
    let ids: Vec<_> = submitted.iter().map(|(_, id, _)| *id).collect();
    assert_eq!(ids, (1..=1600).collect::<Vec<_>>());
    assert!(submitted.is_sorted_by_key(|(.., clock)| *clock));
}

#[tokio::test]
async fn a_deadline_is_kept_and_an_idle_worker_is_left_alone() {
    let (host, commits, _) = rig(2);
    let time = tokio::spawn(host.clone().keep_time());
    let start = Instant::now();
    // A later timer first: the earlier one must still be noticed.
    let late = tokio::spawn({
        let host = host.clone();
        async move { host.run(set(), 60 * SECOND, None).await }
    });
    commits.until(1).await;
    assert_eq!(host.run(set(), 30_000, None).await, failed(Reason::QuorumNotReached));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(30) && took < Duration::from_secs(5), "{took:?}");
    host.committed(0, [Input::Committed(CommitId(9))]);
    assert_eq!(late.await.unwrap(), seen(0));
    let ticks = host.stats().hedges;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(host.stats().hedges <= ticks + 1, "an idle worker is ticked");
    time.abort();
}

#[tokio::test]
async fn a_scan_is_carried_out_elsewhere_and_answered() {
    let (host, ..) = rig(1);
    let page = host.scan(Partition(3), Bytes::new(), 100, Consistency::One, SECOND).await;
    assert_eq!(page, Ok(MergedPage::default()));
}

#[tokio::test]
async fn messages_go_to_the_worker_of_their_partition_and_others_are_left() {
    let (host, ..) = rig(4);
    let envelope = |message| Envelope {
        from: NodeId(2),
        placement: PlacementTag::default(),
        synced: CommitNumber(0),
        trace: None,
        message,
    };
    let data = |partition: u16| {
        let open = DataMessage::OpenSession(OpenSession { boot: Boot(1) });
        envelope(Message::Data(Partition(partition), open))
    };
    let control = envelope(Message::Control("c".into()));
    let far = DataMessage::ScanReply(CallId(1), ScanAnswer::NotMine);
    let far = envelope(Message::Data(Partition(u16::MAX), far));
    let mut batch = vec![data(0), data(4), control.clone(), data(1), far, data(64)];
    host.messages(&mut batch);
    assert_eq!(batch, [control]);
    assert_eq!(host.stats().passed, 5);
}

#[tokio::test]
async fn a_worker_that_panics_ends_the_node_and_releases_everyone() {
    let (host, commits, ending) = rig(1);
    let waiting = tokio::spawn({
        let host = host.clone();
        async move { host.run(set(), SECOND, None).await }
    });
    commits.until(1).await;
    let op = Op::get(Key::new("panic").unwrap(), Consistency::One);
    let panics = host.clone();
    assert!(tokio::spawn(async move { panics.run(op, SECOND, None).await }).await.is_err());
    let Outcome::Failed(failure) = host.run(set(), SECOND, None).await else { panic!("served") };
    assert!(failure.maybe_applied);
    ending.failed().await;
    assert!(ending.reason().is_some_and(|reason| reason.contains("panicked")));
    host.give_up();
    let Outcome::Failed(failure) = waiting.await.unwrap() else { panic!("acknowledged") };
    assert!(failure.maybe_applied, "the outcome of a write that was begun is unknown");
}

#[tokio::test]
async fn a_failed_node_acknowledges_nothing_any_more() {
    let (host, commits, ending) = rig(1);
    let waiting = tokio::spawn({
        let host = host.clone();
        async move { host.run(set(), SECOND, None).await }
    });
    commits.until(1).await;
    ending.fail("the disk is gone");
    host.committed(0, [Input::Committed(CommitId(1))]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished());
    host.give_up();
    assert!(matches!(waiting.await.unwrap(), Outcome::Failed(_)));
}
