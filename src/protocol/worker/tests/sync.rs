//! Homes compare what they hold: what it costs, what it mends, what it refuses.

use super::*;
use crate::protocol::message::{
    Envelope, Message, SyncAnswer, SyncAsk, SyncDifference, WriteRequest,
};
use crate::protocol::record::{Content, Sibling};
use crate::types::{Actor, CommitNumber};

/// From one round to the next.
pub(super) const ROUND: u64 = 4 * SECOND;

/// A record that one write has made; equal for equal values.
pub(super) fn record(value: &str) -> Record {
    let stamp = Stamp(value.len() as u64 + 1);
    let dot = Dot::new(Actor(xxhash_rust::xxh3::xxh3_64(value.as_bytes())), stamp);
    let content = Content::Value(value.to_owned().into());
    let sibling = Sibling { dot, content, expiry: None, request: None };
    Record::default().write(&VersionVector::default(), sibling)
}

pub(super) fn name_of(number: usize) -> Key {
    Key::new(format!("key-{number:06}")).unwrap()
}

impl Node {
    /// A page of a disk, as a store gives it.
    pub(super) fn page(
        &self,
        space: Space,
        prefix: &Bytes,
        after: Bytes,
        bytes_max: usize,
    ) -> Page {
        let mut page = Page { entries: vec![], done: true };
        let first = (space, after.clone().max(prefix.clone()));
        let mut bytes = 0;
        for ((found, key), value) in self.disk.range(first..) {
            if *found != space || !key.starts_with(prefix) {
                break;
            }
            if *key > after {
                page.done = bytes <= bytes_max;
                if !page.done {
                    break;
                }
                bytes += key.len() + value.len();
                page.entries.push((key.clone(), value.clone()));
            }
        }
        page
    }
}

impl Cluster {
    /// All disks are as they are, and the nodes start; a round comes every [`ROUND`].
    pub(super) fn comparing(self) -> Self {
        self.comparing_at(16 << 20)
    }

    /// The same with so many bytes a second.
    fn comparing_at(mut self, rate: u64) -> Self {
        for node in 0..self.nodes.len() {
            self.nodes[node].boots += 1;
            let tuning = Tuning {
                recent_bytes_max: 0,
                sync_interval: ROUND,
                sync_bytes_per_second: rate,
                scrub_interval: 1_000 * ROUND,
                ..Tuning::default()
            };
            self.workers[node] = self.worker_with(node, tuning);
        }
        (0..self.nodes.len()).for_each(|node| self.introduce(node));
        self
    }

    /// Puts a record onto a disk, as if it had been written in an earlier life.
    pub(super) fn plant(&mut self, node: usize, key: &Key, value: &str) {
        let partition = key.partition(64);
        let place = (Space::Records, CellId::own(partition, key).store_key());
        let stored = record(value).seal(partition, key).stored().clone();
        self.nodes[node].disk.insert(place, stored);
    }

    /// Messages of comparisons, and their bytes with envelopes.
    fn exchanged(&self) -> (usize, usize) {
        let mut out = Vec::new();
        let mut count = 0;
        for (from, _, message) in &self.sent {
            if matches!(message, DataMessage::Sync(..) | DataMessage::SyncReply(..)) {
                count += 1;
                let envelope = Envelope {
                    from: id(*from),
                    placement: self.placement.tag,
                    synced: CommitNumber(u64::MAX),
                    trace: None,
                    message: Message::Data(Partition(9), message.clone()),
                };
                envelope.encode(&mut out);
            }
        }
        (count, out.len())
    }

    /// A coordinator's write comes to one home only.
    fn write_at(&mut self, node: usize, key: &Key, value: &str) {
        let partition = key.partition(64);
        let (call, record) = (CallId(0), record(value).seal(partition, key));
        let (key, round) = (key.clone(), RoundNumber::default());
        let write = WriteRequest { call, key, record, hint_for: None, round };
        let (placement, message) = (self.placement.tag, DataMessage::Write(write));
        self.input(
            node,
            Input::Message { from: id(0), placement, trace: None, partition, message },
        );
        self.deliver();
    }

    pub(super) fn records_exchanged(&self) -> u64 {
        self.workers.iter().map(|worker| worker.stats().sync_records).sum()
    }
}

#[test]
fn equal_homes_pay_two_small_messages_a_lane_however_much_they_hold() {
    let mut cluster = Cluster::new(2, 2);
    for number in 0..4_000 {
        (0..2).for_each(|node| cluster.plant(node, &name_of(number), "value"));
    }
    let mut cluster = cluster.comparing();
    cluster.pass(2 * ROUND);
    cluster.sent.clear();
    cluster.pass(ROUND);
    // Every lane is compared: this is what a pair pays for any number of records and partitions.
    let (messages, bytes) = cluster.exchanged();
    assert_eq!(messages, 2 * 64, "{:?}", cluster.sent);
    assert!(bytes <= 8 << 10, "{bytes} bytes");
    assert_eq!(cluster.records_exchanged(), 0);
}

/// As many keys a leaf as a million records have in 4096 partitions: just that many leaves are
/// here. What is not here are the other partitions of a lane, of which the roots are sent.
#[test]
fn one_record_of_a_million_that_differs_is_mended_within_a_round_by_16_kb_more() {
    let others_of_a_lane = (4096 / 64 - 1) * 18;
    let keys = 1_000_000 / 64;
    let mut cluster = Cluster::new(2, 2);
    for number in 0..keys {
        (0..2).for_each(|node| cluster.plant(node, &name_of(number), "value"));
    }
    let odd = name_of(4_711);
    let mut cluster = cluster.comparing();
    cluster.pass(2 * ROUND);
    cluster.write_at(1, &odd, &"x".repeat(128));
    cluster.sent.clear();
    cluster.pass(ROUND);
    let (_, bytes) = cluster.exchanged();
    let more = bytes + others_of_a_lane;
    assert!(more <= (8 << 10) + (16 << 10), "{more} bytes");
    assert_eq!(cluster.stored(0, &odd), Some(record("value").merge(&record(&"x".repeat(128)))));
    let exchanged = cluster.records_exchanged();
    cluster.pass(2 * ROUND);
    assert_eq!(cluster.records_exchanged(), exchanged, "the next round found something to do");
}

#[test]
fn what_either_home_lacks_it_gets_in_pages() {
    let mut cluster = Cluster::new(2, 2);
    let value = |at: usize| format!("{at:0>900}");
    // One partition, of which each home has another half: a megabyte.
    let keys: Vec<Key> =
        (0..80_000).map(name_of).filter(|k| k.partition(64) == Partition(5)).collect();
    for (at, key) in keys.iter().enumerate() {
        cluster.plant(at % 2, key, &value(at));
    }
    let mut cluster = cluster.comparing();
    cluster.pass(4 * ROUND);
    for key in &keys {
        assert!(cluster.stored(0, key).is_some());
        assert_eq!(cluster.stored(0, key), cluster.stored(1, key));
    }
    assert_eq!(cluster.records_exchanged(), keys.len() as u64);
    let pages = cluster.sent.iter().filter_map(|(_, _, message)| match message {
        DataMessage::SyncReply(_, SyncAnswer::Page(page)) => Some(page.records.len()),
        DataMessage::Sync(_, SyncAsk::Push(_, records)) => Some(records.len()),
        _ => None,
    });
    let pages: Vec<usize> = pages.collect();
    assert!(pages.len() >= 4 && pages.iter().all(|page| *page < 400), "{pages:?}");
}

#[test]
fn an_exchange_keeps_to_its_rate() {
    let mut cluster = Cluster::new(2, 2);
    let names = (0..).map(name_of).filter(|key| key.partition(64) == Partition(5));
    let keys: Vec<Key> = names.take(400).collect();
    let value = "x".repeat(900);
    keys.iter().for_each(|key| cluster.plant(1, key, &value));
    // A page is a quarter of a megabyte: four seconds.
    let mut cluster = cluster.comparing_at(64 << 10);
    let there =
        |cluster: &Cluster| keys.iter().filter(|key| cluster.stored(0, key).is_some()).count();
    // Node 1 has to read its own part first, at the same rate.
    while there(&cluster) == 0 {
        assert!(cluster.now.mono.0 < 60 * SECOND, "nothing came");
        cluster.pass(100_000);
    }
    cluster.pass(3 * SECOND);
    let first = there(&cluster);
    assert!((200..300).contains(&first), "{first} records are more than a page, or none");
    cluster.pass(3 * SECOND);
    assert_eq!(there(&cluster), keys.len());
}

#[test]
fn so_many_sessions_are_led_at_a_time_and_no_more() {
    let mut cluster = Cluster::new(2, 2).comparing();
    cluster.now.mono = cluster.now.mono.after_micros(ROUND / 10);
    cluster.input(0, Input::Tick);
    assert_eq!(cluster.exchanged().0, 16, "of 64 lanes");
    cluster.deliver();
    assert!(cluster.exchanged().0 >= 128, "the others did not follow");
}

#[test]
fn a_session_that_stops_half_way_ends_and_a_later_one_mends() {
    let mut cluster = Cluster::new(2, 2);
    cluster.plant(1, &key("k"), "value");
    let mut cluster = cluster.comparing();
    // It cannot be heard, and nobody says so.
    cluster.nodes[1].down = true;
    cluster.pass(3 * ROUND);
    assert!(cluster.workers[0].stats().syncs_failed > 0);
    cluster.nodes[1].down = false;
    cluster.pass(3 * ROUND);
    assert!(cluster.stored(0, &key("k")).is_some());
}

/// Node 0 asks, and a stranger to the protocol answers in node 1's name.
fn answered_with(answer: impl Fn(&SyncAsk) -> Option<SyncAnswer>) -> Cluster {
    let mut cluster = Cluster::new(2, 2);
    cluster.plant(0, &key("k"), "value");
    let mut cluster = cluster.comparing();
    let until = cluster.now.mono.after_micros(3 * ROUND);
    while cluster.now.mono < until && cluster.workers[0].stats().syncs_refused == 0 {
        cluster.now.mono = cluster.now.mono.after_millis(5);
        (0..2).for_each(|node| cluster.input(node, Input::Tick));
        while let Some((from, to, partition, mut message)) = cluster.messages.pop_front() {
            let (mut from, mut to) = (id(from), usize::try_from(to.0).unwrap() - 1);
            if let DataMessage::Sync(call, ask) = &message
                && let Some(answer) = answer(ask)
            {
                message = DataMessage::SyncReply(*call, answer);
                (from, to) = (id(to), usize::try_from(from.0).unwrap() - 1);
            }
            let placement = cluster.placement.tag;
            let input = Input::Message { from, placement, trace: None, partition, message };
            cluster.input(to, input);
        }
    }
    cluster
}

#[test]
fn an_answer_that_makes_no_sense_ends_the_session_and_is_counted() {
    let k = key("k");
    let other = record("other").seal(Partition(0), &key("another place"));
    let round = RoundNumber::default();
    let page =
        |end, records| SyncAnswer::Page(SyncDifference { round, end, records, wanted: vec![] });
    let bad: [(&str, SyncAnswer); 3] = [
        ("a page that does not get ahead", page(Some(key("a")), vec![])),
        ("a record is damaged, or of another partition", page(None, vec![(k.clone(), other)])),
        ("an answer to another question", SyncAnswer::Equal),
    ];
    for (why, answer) in bad {
        let cluster = answered_with(|ask| match ask {
            SyncAsk::Page(_) => Some(answer.clone()),
            _ => None,
        });
        let told = Event::SyncRefused(id(1), why);
        assert!(cluster.events.contains(&(0, told)), "{why}: {:?}", cluster.events);
        assert_eq!(cluster.workers[0].stats().syncs_refused, 1);
    }
}

#[test]
fn a_push_of_damaged_records_is_refused_and_names_its_sender() {
    let mut cluster = Cluster::new(2, 2).comparing();
    let k = key("k");
    let partition = k.partition(64);
    let sealed = record("value").seal(partition, &key("other"));
    let (call, placement) = (CallId(1), cluster.placement.tag);
    let message =
        DataMessage::Sync(call, SyncAsk::Push(RoundNumber::default(), vec![(k.clone(), sealed)]));
    let input = Input::Message { from: id(1), placement, trace: None, partition, message };
    cluster.input(0, input);
    assert!(cluster.events.iter().any(|(_, event)| matches!(event, Event::SyncRefused(..))));
    assert_eq!(cluster.stored(0, &k), None);
}
