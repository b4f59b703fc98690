//! Workers of a few nodes on a perfect network: what each rule looks like from outside. Faults
//! of every kind are the simulator's part.

mod hints;
mod lost;
mod newcomers;
mod passing;
mod ring;
mod sync;
mod trees;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::protocol::message::{DataMessage, Pass, PlacementTag, Session};
use crate::protocol::op::{Action, Op as ClientOp, Put, Receipt};
use crate::protocol::placement::{Member, Placement};
use crate::protocol::progress::Progress;
use crate::protocol::quorum::Consistency;
use crate::protocol::record::{Record, Sealed, VersionVector};
use crate::protocol::step::{Change, Event, MergedPage, Reach, Space};
use crate::types::{ClusterId, Dot, RequestId, RoundNumber, Wall};

const SECOND: u64 = 1_000_000;

#[derive(Default)]
struct Node {
    disk: BTreeMap<(Space, Bytes), Bytes>,
    /// Commits that have not been reported yet.
    queue: VecDeque<(CommitId, Vec<Change>)>,
    /// Whether commits stay queued until they are released.
    held: bool,
    /// Answers of scans, while they are late.
    late_scans: Option<Vec<Input>>,
    refuses: bool,
    down: bool,
    boots: u64,
}

/// A cluster of one worker a node.
struct Cluster {
    workers: Vec<Worker>,
    nodes: Vec<Node>,
    placement: Arc<Placement>,
    /// The live placement versions that views are made of, the place of the one to be read, and of the
    /// newest that all have acknowledged.
    live: (Vec<Arc<Placement>>, usize, usize),
    defect: Option<Defect>,
    /// Nodes whose disk took the place of another.
    replaced: BTreeSet<usize>,
    now: Now,
    messages: VecDeque<(usize, NodeId, Partition, DataMessage)>,
    /// Everything that was sent, for whoever wants to look.
    sent: Vec<(usize, NodeId, DataMessage)>,
    replies: BTreeMap<Ticket, Outcome>,
    pages: Vec<Result<MergedPage, Failure>>,
    events: Vec<(usize, Event)>,
    tickets: u64,
    progress: Vec<Progress>,
    /// Who has found whom silent, or answering again.
    found: Vec<(usize, NodeId, bool)>,
}

fn id(node: usize) -> NodeId {
    NodeId(node as u128 + 1)
}

fn name(node: usize) -> NodeName {
    NodeName::new(&format!("node-{node}")).unwrap()
}

impl Cluster {
    fn new(count: usize, replicas: u8) -> Self {
        let member = |node| Member { name: name(node), zone: String::new(), weight: 1 };
        let placement = Placement::found((0..count).map(member).collect(), replicas, 64);
        Self::of(count, placement, None)
    }

    fn of(count: usize, placement: Placement, defect: Option<Defect>) -> Self {
        let placement = Arc::new(placement);
        let mut cluster = Self {
            workers: vec![],
            nodes: (0..count).map(|_| Node::default()).collect(),
            live: (vec![placement.clone()], 0, 0),
            placement,
            defect,
            now: Now { mono: Mono(SECOND), wall: Wall(1_000_000) },
            messages: VecDeque::new(),
            sent: vec![],
            replaced: BTreeSet::new(),
            replies: BTreeMap::new(),
            pages: vec![],
            events: vec![],
            tickets: 0,
            progress: vec![Progress::default(); count],
            found: vec![],
        };
        for node in 0..count {
            let worker = cluster.worker(node);
            cluster.workers.push(worker);
        }
        (0..count).for_each(|node| cluster.introduce(node));
        cluster
    }

    fn worker(&self, node: usize) -> Worker {
        // These tests reach into the disk: no copy in memory may hide that.
        self.worker_with(node, Tuning { recent_bytes_max: 0, ..Tuning::default() })
    }

    fn worker_with(&self, node: usize, tuning: Tuning) -> Worker {
        let boot = Boot((node as u64 + 1) * 1000 + self.nodes[node].boots);
        Worker::new(WorkerConfig {
            index: 0,
            workers: 1,
            tuning,
            boot,
            clock: Stamp::default(),
            seed: boot.0,
            #[cfg(any(test, feature = "seeded-defects"))]
            defect: self.defect,
        })
    }

    fn introduce(&mut self, node: usize) {
        self.show(node);
        let conditions = Conditions { confirmed: true, ..Conditions::default() };
        self.input(node, Input::Conditions(conditions));
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            let reach = if self.nodes[other].down { Reach::Away } else { Reach::Answers };
            self.input(node, Input::Reachability(id(other), reach));
        }
    }

    /// Tells a node of the live placement versions.
    fn show(&mut self, node: usize) {
        let ids = (0..self.nodes.len()).map(|n| (name(n), id(n))).collect();
        let boot = self.workers[node].config.boot;
        let (live, reads, acked) = &self.live;
        let view = View::new(id(node), name(node), boot, ClusterId(1), live[0].clone(), ids);
        let view = view.with_live(live, live[*reads].tag, Some(live[*acked].tag));
        let view = view.replacing(self.replaced.contains(&node));
        self.input(node, Input::View(Arc::new(view)));
    }

    fn input(&mut self, node: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut out = vec![];
            self.workers[node].step(self.now, input, &mut out);
            for effect in out {
                inputs.extend(self.carry_out(node, effect));
            }
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) -> Vec<Input> {
        match effect {
            Effect::Read { token, space, key } => {
                let value = self.nodes[node].disk.get(&(space, key)).cloned();
                return vec![Input::ReadDone(token, Ok(value))];
            }
            Effect::Scan { token, space, prefix, after, bytes_max } => {
                let page = self.nodes[node].page(space, &prefix, after, bytes_max);
                let answer = Input::Scanned(token, Ok(page));
                match &mut self.nodes[node].late_scans {
                    Some(late) => late.push(answer),
                    None => return vec![answer],
                }
            }
            Effect::Commit { id, changes, .. } => {
                self.nodes[node].queue.push_back((id, changes));
                if !self.nodes[node].held {
                    return self.flush(node);
                }
            }
            Effect::Send { to, partition, message, .. } => {
                self.sent.push((node, to, message.clone()));
                self.messages.push_back((node, to, partition, message));
            }
            Effect::Reply(ticket, outcome) => {
                assert!(
                    self.replies.insert(ticket, outcome).is_none(),
                    "{ticket:?} answered twice"
                );
            }
            Effect::Event(event) => self.events.push((node, event)),
            Effect::ScanReply(_, page) => self.pages.push(page),
            Effect::Progress(progress) => self.progress[node] = progress,
            Effect::Reachable(peer, answers) => self.found.push((node, peer, answers)),
        }
        vec![]
    }

    fn flush(&mut self, node: usize) -> Vec<Input> {
        let mut inputs = vec![];
        while let Some((id, changes)) = self.nodes[node].queue.pop_front() {
            if self.nodes[node].refuses {
                inputs.push(Input::Refused(id));
                continue;
            }
            for Change { space, key, value } in changes {
                match value {
                    Some(value) => self.nodes[node].disk.insert((space, key), value),
                    None => self.nodes[node].disk.remove(&(space, key)),
                };
            }
            inputs.push(Input::Committed(id));
        }
        inputs
    }

    /// Carries out the first commit that is queued, and reports it.
    fn flush_one(&mut self, node: usize) {
        let rest = self.nodes[node].queue.split_off(1);
        let reports = self.flush(node);
        self.nodes[node].queue = rest;
        reports.into_iter().for_each(|report| self.input(node, report));
    }

    fn release(&mut self, node: usize) {
        self.nodes[node].held = false;
        for input in self.flush(node) {
            self.input(node, input);
        }
        self.deliver();
    }

    /// Delivers messages until none is left.
    fn deliver(&mut self) {
        while let Some((from, to, partition, message)) = self.messages.pop_front() {
            let node = usize::try_from(to.0).unwrap() - 1;
            if !self.nodes[node].down && !self.nodes[from].down {
                let known = self.workers[from].view.as_ref();
                let placement = known.map(|view| view.newest().tag()).unwrap_or_default();
                let from = id(from);
                self.input(
                    node,
                    Input::Message { from, placement, trace: None, partition, message },
                );
            }
        }
    }

    /// Lets time pass, with all that is due in it.
    fn pass(&mut self, micros: u64) {
        let end = self.now.mono.after_micros(micros);
        while self.now.mono < end {
            self.now.mono = self.now.mono.after_millis(5).min(end);
            self.now.wall.0 += 5;
            for node in 0..self.nodes.len() {
                if !self.nodes[node].down {
                    self.input(node, Input::Tick);
                }
            }
            self.deliver();
        }
    }

    fn start(&mut self, node: usize, op: ClientOp) -> Ticket {
        self.start_within(node, op, 5 * SECOND)
    }

    fn start_within(&mut self, node: usize, op: ClientOp, micros: u64) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let deadline = self.now.mono.after_micros(micros);
        self.input(node, Input::Client { ticket, op, deadline, trace: None });
        self.deliver();
        ticket
    }

    fn run(&mut self, node: usize, op: ClientOp) -> Outcome {
        let ticket = self.start(node, op);
        if !self.replies.contains_key(&ticket) {
            self.pass(6 * SECOND);
        }
        self.replies.remove(&ticket).expect("every op ends")
    }

    fn set(&mut self, node: usize, key: &Key, value: &'static str) -> Receipt {
        let op =
            ClientOp::set(key.clone(), Bytes::from_static(value.as_bytes()), Consistency::Quorum);
        match self.run(node, op) {
            Outcome::Written(receipt) => receipt,
            other => panic!("{other:?}"),
        }
    }

    fn get(&mut self, node: usize, key: &Key, consistency: Consistency) -> Vec<String> {
        match self.run(node, ClientOp::get(key.clone(), consistency)) {
            Outcome::Read(read) => {
                let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
                read.visible.iter().map(|sibling| text(&sibling.value)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn scan(&mut self, node: usize, partition: Partition, r: Consistency) -> Option<Vec<Key>> {
        let (ticket, after, bytes_max) = (Ticket(0), Bytes::new(), 1 << 20);
        let deadline = self.now.mono.after_micros(SECOND);
        let consistency = r;
        self.input(
            node,
            Input::ScanPage { ticket, partition, after, bytes_max, consistency, deadline },
        );
        self.deliver();
        self.pass(2 * SECOND);
        let page = self.pages.pop().expect("every scan ends").ok()?;
        Some(page.entries.into_iter().map(|(key, _)| key).collect())
    }

    fn damage(&mut self, node: usize, key: &Key) {
        let place = (Space::Records, CellId::own(key.partition(64), key).store_key());
        let mut bytes = self.nodes[node].disk[&place].to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        self.nodes[node].disk.insert(place, bytes.into());
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].down = true;
        self.nodes[node].queue.clear();
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            if !self.nodes[other].down {
                self.input(other, Input::Reachability(id(node), Reach::Away));
            }
        }
        self.deliver();
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node].down = false;
        self.nodes[node].boots += 1;
        self.workers[node] = self.worker(node);
        self.introduce(node);
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            if !self.nodes[other].down {
                self.input(other, Input::Reachability(id(node), Reach::Answers));
            }
        }
        self.deliver();
    }

    /// Nobody who runs waits for the end of a write that it has passed.
    fn assert_nothing_passed(&self) {
        let running = self.workers.iter().zip(&self.nodes).filter(|(_, node)| !node.down);
        let calls = running.flat_map(|(worker, _)| worker.calls.values());
        let mut passed = calls.filter(|call| matches!(call.purpose, Purpose::Pass { .. }));
        assert!(passed.next().is_none(), "never answered, never forgotten");
    }

    /// Nothing is left of any request once late answers do not count any more.
    fn assert_over(&mut self) {
        self.pass(11 * SECOND);
        for worker in &self.workers {
            assert!(worker.ops.is_empty() && worker.behind.is_empty(), "{:?}", worker.ops);
            let writes = |call: &&Call| matches!(call.purpose, Purpose::Spread { .. });
            assert_eq!(worker.calls.values().filter(writes).count(), 0);
        }
    }

    fn homes(&self, key: &Key) -> Vec<usize> {
        let homes = self.placement.homes(key.partition(64));
        homes.iter().map(|&member| usize::from(member)).collect()
    }

    /// The first node that is no home of the key.
    fn stranger(&self, key: &Key) -> usize {
        let homes = self.homes(key);
        (0..self.nodes.len()).find(|node| !homes.contains(node)).unwrap()
    }

    fn stored(&self, node: usize, key: &Key) -> Option<Record> {
        let partition = key.partition(64);
        let cell = CellId::own(partition, key);
        let stored = self.nodes[node].disk.get(&(Space::Records, cell.store_key()))?;
        Some(Sealed::from_stored(stored.clone()).unwrap().open(partition, key).unwrap())
    }

    fn hints(&self, node: usize) -> usize {
        self.nodes[node].disk.keys().filter(|key| key.0 == Space::Hints).count()
    }
}

fn key(text: &'static str) -> Key {
    Key::new(text).unwrap()
}

fn put(
    key: &Key,
    value: &'static str,
    context: Option<VersionVector>,
    request: Option<u8>,
) -> ClientOp {
    let put = Put {
        value: Some(Bytes::from_static(value.as_bytes())),
        ttl_ms: None,
        context,
        request: request.map(|byte| RequestId([byte; 16])),
    };
    ClientOp {
        key: key.clone(),
        consistency: Consistency::Quorum,
        strict: false,
        action: Action::Put(put),
    }
}

#[test]
fn what_any_node_wrote_any_node_reads() {
    let mut cluster = Cluster::new(5, 3);
    for node in 0..5 {
        let key = Key::new(format!("key-{node}")).unwrap();
        let receipt = cluster.set(node, &key, "value");
        assert!(receipt.homes.len() >= 2, "{receipt:?}");
        for reader in 0..5 {
            assert_eq!(cluster.get(reader, &key, Consistency::Quorum), ["value"]);
        }
    }
}

#[test]
fn a_delete_hides_the_value_and_an_absent_key_is_no_error() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    assert!(cluster.get(0, &key, Consistency::All).is_empty());
    cluster.set(0, &key, "value");
    let mut delete = put(&key, "", None, None);
    if let Action::Put(put) = &mut delete.action {
        put.value = None;
    }
    assert!(matches!(cluster.run(1, delete), Outcome::Written(_)));
    assert!(cluster.get(2, &key, Consistency::Quorum).is_empty());
}

#[test]
fn nothing_is_acknowledged_before_w_nodes_have_it_on_disk() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    (0..3).for_each(|node| cluster.nodes[node].held = true);
    let ticket = cluster.start(0, put(&key, "v", None, None));
    assert!(!cluster.replies.contains_key(&ticket));
    cluster.release(0);
    assert!(!cluster.replies.contains_key(&ticket), "one disk is not a quorum");
    cluster.release(2);
    assert!(matches!(cluster.replies[&ticket], Outcome::Written(_)));
}

#[test]
fn a_merge_that_changes_nothing_waits_for_what_it_equals() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    (0..3).for_each(|node| cluster.nodes[node].held = true);
    let first = cluster.start(0, put(&key, "v", None, Some(1)));
    let again = cluster.start(0, put(&key, "v", None, Some(1)));
    assert!(cluster.replies.is_empty());
    cluster.release(1);
    cluster.release(2);
    let dots: Vec<_> = [first, again]
        .map(|ticket| match &cluster.replies[&ticket] {
            Outcome::Written(receipt) => receipt.dot,
            other => panic!("{other:?}"),
        })
        .into();
    assert_eq!(dots[0], dots[1], "the retry is the same write");
}

#[test]
fn a_request_id_with_another_value_is_refused() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    assert!(matches!(cluster.run(0, put(&key, "v", None, Some(1))), Outcome::Written(_)));
    match cluster.run(1, put(&key, "w", None, Some(1))) {
        Outcome::Failed(failure) => {
            assert_eq!(failure.reason, Reason::RequestIdReused);
            assert!(!failure.maybe_applied);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dead_home_gets_its_writes_as_hints_when_it_is_back() {
    for count in [3, 5] {
        let mut cluster = Cluster::new(count, 3);
        let key = key("k");
        let homes = cluster.homes(&key);
        cluster.kill(homes[1]);
        let receipt = cluster.set(homes[0], &key, "v");
        assert!(receipt.homes.len() >= 2 || !receipt.hints.is_empty());
        let held: usize = (0..count).map(|node| cluster.hints(node)).sum();
        assert_eq!(held, 1, "{count} nodes");
        cluster.restart(homes[1]);
        cluster.pass(3 * SECOND);
        let held: usize = (0..count).map(|node| cluster.hints(node)).sum();
        assert_eq!(held, 0, "{count} nodes");
        assert_eq!(cluster.stored(homes[1], &key), cluster.stored(homes[0], &key));
        assert!(cluster.stored(homes[1], &key).is_some());
    }
}

#[test]
fn hints_are_replayed_by_a_holder_that_was_restarted() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    cluster.kill(2);
    cluster.set(0, &key, "v");
    cluster.kill(0);
    cluster.kill(1);
    cluster.restart(0);
    cluster.restart(1);
    cluster.restart(2);
    cluster.pass(5 * SECOND);
    assert_eq!((0..3).map(|node| cluster.hints(node)).sum::<usize>(), 0);
    assert!(cluster.stored(2, &key).is_some());
}

#[test]
fn a_write_succeeds_on_fallbacks_when_all_homes_are_dead() {
    let mut cluster = Cluster::new(5, 3);
    let key = key("k");
    let homes = cluster.homes(&key);
    homes.iter().for_each(|&home| cluster.kill(home));
    let other = cluster.stranger(&key);
    let receipt = cluster.set(other, &key, "v");
    assert_eq!((receipt.homes.len(), receipt.hints.len()), (0, 2));
    assert_eq!(
        cluster.get(other, &key, Consistency::Quorum),
        ["v"],
        "hints answer for their homes"
    );
    homes.iter().for_each(|&home| cluster.restart(home));
    cluster.pass(5 * SECOND);
    for home in homes {
        assert!(cluster.stored(home, &key).is_some());
    }
}

#[test]
fn a_node_that_keeps_two_hints_counts_once_toward_w() {
    let mut cluster = Cluster::new(4, 3);
    let key = key("k");
    let homes = cluster.homes(&key);
    homes.iter().for_each(|&home| cluster.kill(home));
    let other = cluster.stranger(&key);
    match cluster.run(other, put(&key, "v", None, None)) {
        Outcome::Failed(failure) => assert!(failure.maybe_applied),
        outcome => panic!("one disk is not a quorum: {outcome:?}"),
    }
}

#[test]
fn concurrent_writes_with_old_contexts_stay_as_siblings() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    let before = cluster.set(0, &key, "a").seen;
    cluster.run(1, put(&key, "b", Some(before.clone()), None));
    cluster.run(2, put(&key, "c", Some(before), None));
    let mut values = cluster.get(0, &key, Consistency::All);
    values.sort();
    assert_eq!(values, ["b", "c"]);
    let Outcome::Read(read) = cluster.run(0, ClientOp::get(key.clone(), Consistency::All)) else {
        panic!("a read");
    };
    cluster.run(0, put(&key, "d", Some(read.seen), None));
    assert_eq!(cluster.get(1, &key, Consistency::All), ["d"]);
}

#[test]
fn a_hint_whose_commit_is_reported_while_a_replay_reads_is_not_forgotten() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    cluster.kill(2);
    cluster.nodes[0].held = true;
    cluster.start(0, put(&key, "v", None, None));
    cluster.nodes[0].late_scans = Some(vec![]);
    cluster.restart(2);
    cluster.input(0, Input::Reachability(id(2), Reach::Answers));
    cluster.release(0);
    let late = cluster.nodes[0].late_scans.take().unwrap();
    assert!(!late.is_empty(), "no replay has begun");
    for answer in late {
        cluster.input(0, answer);
    }
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.stored(2, &key), cluster.stored(0, &key));
    assert!(!cluster.nodes[0].disk.keys().any(|(space, _)| *space == Space::Hints));
}

#[test]
fn a_read_shows_what_was_acknowledged_while_other_writes_of_the_key_are_queued() {
    let mut cluster = Cluster::new(1, 1);
    cluster.workers[0] = cluster.worker_with(0, Tuning::default());
    cluster.introduce(0);
    let key = key("k");
    cluster.set(0, &key, "a");
    cluster.nodes[0].held = true;
    let second = cluster.start(0, put(&key, "b", None, None));
    let third = cluster.start(0, put(&key, "c", None, None));
    cluster.flush_one(0);
    assert!(cluster.replies.contains_key(&second) && !cluster.replies.contains_key(&third));
    assert_eq!(cluster.get(0, &key, Consistency::One), ["b"]);
}

#[test]
fn damage_that_a_write_meets_where_nobody_can_be_asked_is_over_with_it() {
    let mut cluster = Cluster::new(1, 1);
    let key = key("k");
    cluster.set(0, &key, "a");
    let place = (Space::Records, CellId::own(key.partition(64), &key).store_key());
    cluster.nodes[0].disk.insert(place, Bytes::from_static(b"damaged"));
    cluster.set(0, &key, "b");
    assert_eq!(cluster.get(0, &key, Consistency::One), ["b"]);
    assert!(!cluster.is_rebuilding(0));
}

#[test]
fn a_read_repairs_what_it_finds_divergent() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    cluster.set(0, &key, "v");
    let cell = CellId::own(key.partition(64), &key);
    cluster.nodes[1].disk.remove(&(Space::Records, cell.store_key()));
    assert_eq!(cluster.get(0, &key, Consistency::All), ["v"]);
    cluster.pass(SECOND);
    assert!(cluster.stored(1, &key).is_some());
}

#[test]
fn a_damaged_record_is_never_served_and_is_rebuilt_from_the_others() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    cluster.set(0, &key, "value");
    cluster.damage(0, &key);
    assert_eq!(cluster.get(0, &key, Consistency::One), ["value"]);
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.stored(0, &key), cluster.stored(1, &key));
    let rebuilt = |(_, event): &(usize, Event)| matches!(event, Event::RecordRebuilt(..));
    assert!(cluster.events.iter().any(rebuilt), "{:?}", cluster.events);
    assert!(!cluster.is_rebuilding(0));
}

#[test]
fn a_damaged_copy_does_not_count_in_a_scan_and_is_rebuilt() {
    for damaged in 0..3 {
        let mut cluster = Cluster::new(3, 3);
        let (key, other) = (key("k"), (damaged + 1) % 3);
        let (partition, shown) = (key.partition(64), Some(vec![key.clone()]));
        cluster.set(0, &key, "value");
        cluster.damage(damaged, &key);
        assert_eq!(cluster.scan(damaged, partition, Consistency::Quorum), shown);
        let lost = |event: &&(usize, Event)| matches!(event.1, Event::RecordLost(..));
        let found: Vec<_> = cluster.events.iter().filter(lost).map(|event| event.0).collect();
        assert_eq!(found, [damaged]);
        assert_eq!(cluster.scan(other, partition, Consistency::All), shown, "it is rebuilt");

        cluster.damage(damaged, &key);
        assert_eq!(cluster.scan(other, partition, Consistency::All), None);
        assert_eq!(cluster.scan(other, partition, Consistency::All), shown, "it is rebuilt again");
    }
}

#[test]
fn a_refused_commit_is_no_acknowledgement_and_ends_the_tenure() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    cluster.set(0, &key, "a");
    cluster.nodes[0].refuses = true;
    let receipt = cluster.set(0, &key, "b");
    assert_eq!(receipt.homes, [name(1), name(2)]);
    let ended =
        |(node, event): &(usize, Event)| *node == 0 && matches!(event, Event::TenureEnded(..));
    assert!(cluster.events.iter().any(ended));
    cluster.nodes[0].refuses = false;
    let next = cluster.set(0, &key, "c");
    assert_ne!(next.dot.actor, receipt.dot.actor);
    // What this node does not hold, its next write does not supersede.
    assert_eq!(cluster.get(2, &key, Consistency::All), ["b", "c"]);
}

#[test]
fn a_restarted_node_writes_under_a_new_actor() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    let before = cluster.set(0, &key, "a").dot.actor;
    cluster.kill(0);
    cluster.restart(0);
    assert_ne!(cluster.set(0, &key, "b").dot.actor, before);
}

#[test]
fn a_key_with_the_last_stamp_of_all_stays_writable() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    let mut context = VersionVector::default();
    context.add(Dot::new(Actor(7), Stamp(u64::MAX)));
    let sibling = crate::protocol::record::Sibling {
        dot: Dot::new(Actor(7), Stamp(u64::MAX)),
        content: crate::protocol::record::Content::Value(Bytes::from_static(b"far")),
        expiry: None,
        request: None,
    };
    let record = Record::default().write(&VersionVector::default(), sibling);
    let place = (Space::Records, CellId::own(key.partition(64), &key).store_key());
    let sealed = record.seal(key.partition(64), &key);
    (0..3).for_each(|node| {
        cluster.nodes[node].disk.insert(place.clone(), sealed.stored().clone());
    });
    cluster.set(0, &key, "near");
    assert_eq!(cluster.get(1, &key, Consistency::All), ["near"]);
}

#[test]
fn a_context_from_the_future_that_no_replica_bears_out_is_refused() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    let mut context = VersionVector::default();
    context.add(Dot::new(Actor(7), Stamp::at(Wall(u64::MAX >> 17))));
    match cluster.run(0, put(&key, "v", Some(context), None)) {
        Outcome::Failed(failure) => assert!(matches!(failure.reason, Reason::Context(_))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_strict_write_counts_no_hint() {
    let mut cluster = Cluster::new(5, 3);
    let key = key("k");
    let homes = cluster.homes(&key);
    cluster.kill(homes[1]);
    cluster.kill(homes[2]);
    let mut op = put(&key, "v", None, None);
    op.strict = true;
    match cluster.run(homes[0], op) {
        Outcome::Failed(failure) => assert_eq!(failure.reason, Reason::QuorumNotReached),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_strict_read_makes_durable_what_it_shows() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    cluster.set(0, &key, "v");
    let place = (Space::Records, CellId::own(key.partition(64), &key).store_key());
    for node in [1, 2] {
        cluster.nodes[node].disk.remove(&place);
    }
    let mut op = ClientOp::get(key.clone(), Consistency::Quorum);
    op.strict = true;
    assert!(matches!(cluster.run(0, op), Outcome::Read(_)));
    let holders = (0..3).filter(|&node| cluster.stored(node, &key).is_some()).count();
    assert!(holders >= 2, "shown while {holders} of 3 held it");
}

#[test]
fn messages_about_another_placement_or_a_foreign_partition_are_refused() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    let record = Record::default().seal(Partition(0), &key);
    let write = crate::protocol::message::WriteRequest {
        call: CallId(1),
        key: key.clone(),
        record,
        hint_for: None,
        round: RoundNumber::default(),
    };
    for (number, partition) in [
        (0, key.partition(64)),
        (1, Partition((key.partition(64).0 + 1) % 64)),
        (1, Partition(9999)),
    ] {
        let placement = PlacementTag { number, hash: 0 };
        let message = DataMessage::Write(write.clone());
        cluster
            .input(0, Input::Message { from: id(1), placement, trace: None, partition, message });
    }
    let known: BTreeSet<_> = cluster.nodes[0].disk.keys().collect();
    assert!(known.is_empty());
    assert_eq!(cluster.messages.len(), 3);
}
