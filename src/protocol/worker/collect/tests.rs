//! A lone member, and peers that say anything at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::protocol::lost::{lost_marker, mark_all};
use crate::protocol::placement::{Change as RingChange, Member, Placement, View};
use crate::protocol::record::Record;
use crate::protocol::step::Space;
use crate::protocol::step::{Input, Tuning};
use crate::protocol::worker::WorkerConfig;
use crate::types::{Boot, ClusterId, NodeName, RecordHash, Stamp, Wall};

const NOW: Now = Now { mono: Mono(1_000_000), wall: Wall(1_000_000) };

/// A worker and its disk; every commit is durable at once.
struct Lone {
    worker: Worker,
    disk: BTreeMap<(Space, Bytes), Bytes>,
    sent: Vec<RoundMessage>,
}

fn name(node: u128) -> NodeName {
    NodeName::new(&format!("node-{node}")).unwrap()
}

/// What node 0 sees of a ring of three.
fn view(members: [u128; 3]) -> View {
    let member = |node| Member { name: name(node), zone: String::new(), weight: 1 };
    let placement = Placement::found(members.map(member).into(), 3, 4);
    let ids = members.into_iter().chain([0]).map(|node| (name(node), NodeId(node))).collect();
    View::new(NodeId(0), name(0), Boot(1), ClusterId(1), Arc::new(placement), ids)
}

/// The same while node 0 joins three others.
fn view_of_a_joiner() -> View {
    let view = view([1, 2, 3]);
    let oldest = view.oldest().placement.clone();
    let joins = Member { name: name(0), zone: String::new(), weight: 1 };
    let change = RingChange { joins: vec![joins], ..RingChange::default() };
    let newest = Arc::new(oldest.next(&change).unwrap());
    view.with_live(&[oldest.clone(), newest], oldest.tag, Some(oldest.tag))
}

impl Lone {
    fn start(disk: BTreeMap<(Space, Bytes), Bytes>) -> Self {
        Self::start_with(disk, view([0, 1, 2]))
    }

    fn start_with(disk: BTreeMap<(Space, Bytes), Bytes>, view: View) -> Self {
        let tuning = Tuning { collect_interval: 0, ..Tuning::default() };
        let worker = Worker::new(WorkerConfig {
            index: 0,
            workers: 1,
            tuning,
            boot: Boot(1),
            clock: Stamp::default(),
            seed: 1,
            defect: None,
        });
        let mut lone = Self { worker, disk, sent: vec![] };
        lone.input(Input::View(Arc::new(view)));
        assert!(lone.worker.serves());
        lone
    }

    fn hears(&mut self, from: u128, message: RoundMessage) {
        let placement = self.worker.view.as_ref().unwrap().newest().tag();
        let (from, partition) = (NodeId(from), Partition(1));
        let message = DataMessage::Round(message);
        self.input(Input::Message { from, placement, trace: None, partition, message });
    }

    fn input(&mut self, input: Input) {
        self.does(|worker, out| worker.step(NOW, input, out));
    }

    /// Has the worker do something, and carries out what follows.
    fn does(&mut self, act: impl FnOnce(&mut Worker, &mut Vec<Effect>)) {
        let mut effects = vec![];
        act(&mut self.worker, &mut effects);
        let mut inputs: Vec<Input> =
            effects.into_iter().filter_map(|it| self.carry_out(it)).collect();
        while let Some(input) = inputs.pop() {
            let mut out = vec![];
            self.worker.step(NOW, input, &mut out);
            inputs.extend(out.into_iter().filter_map(|it| self.carry_out(it)));
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Read { token, space, key } => {
                Some(Input::ReadDone(token, Ok(self.disk.get(&(space, key)).cloned())))
            }
            Effect::Scan { token, space, prefix, after, .. } => {
                let all = self.disk.iter().filter(|((of, key), _)| {
                    *of == space && key.starts_with(&prefix) && (after.is_empty() || *key > after)
                });
                let entries = all.map(|((_, key), value)| (key.clone(), value.clone()));
                Some(Input::Scanned(token, Ok(Page { entries: entries.collect(), done: true })))
            }
            Effect::Commit { id, changes, .. } => {
                for change in changes {
                    let place = (change.space, change.key);
                    match change.value {
                        Some(value) => self.disk.insert(place, value),
                        None => self.disk.remove(&place),
                    };
                }
                Some(Input::Committed(id))
            }
            Effect::Send { message: DataMessage::Round(round), .. } => {
                self.sent.push(round);
                None
            }
            _ => None,
        }
    }

    fn state(&self) -> Rounds {
        self.worker.collect.state(Partition(1))
    }
}

fn cut(byte: u8) -> Cut {
    let key = Key::new(vec![byte]).unwrap();
    Cut::new(vec![(key, RecordHash(u128::from(byte)))]).unwrap()
}

fn anything() -> impl Strategy<Value = RoundMessage> {
    let held = proptest::collection::vec(any::<bool>(), 0..3);
    (0..11_u8, prop_oneof![0..4_u64, Just(u64::MAX)], 0..4_u64, 0..3_u8, held).prop_map(
        |(kind, number, closed, byte, held)| {
            let (number, closed) = (RoundNumber(number), RoundNumber(closed));
            let (cut, id) = (cut(byte), cut(byte).id());
            match kind {
                0 => RoundMessage::Survey(number, cut),
                1 => RoundMessage::Surveyed(number, held),
                2 => RoundMessage::Open { number, closed, cut },
                3 => RoundMessage::Opened(number, id),
                4 => RoundMessage::Drain(number, id),
                5 => RoundMessage::Drained(number, id),
                6 => RoundMessage::Close(number, id),
                7 => RoundMessage::Closed(number),
                8 => RoundMessage::Over(number),
                9 => RoundMessage::Wanted(number),
                _ => RoundMessage::Behind { number, closed, id },
            }
        },
    )
}

proptest! {
    #[test]
    fn whatever_peers_say_the_numbers_only_grow_and_are_on_disk(
        said in proptest::collection::vec((0..4_u128, anything()), 0..24),
    ) {
        let mut lone = Lone::start(BTreeMap::new());
        for (from, message) in said {
            let before = lone.state();
            lone.hears(from, message);
            let after = lone.state();
            prop_assert!(before.number <= after.number && before.drained <= after.drained);
            prop_assert!(before.closed <= after.closed);
            prop_assert!(after.closed <= after.drained && after.drained <= after.number);
        }
        let again = Lone::start(lone.disk.clone());
        prop_assert_eq!(again.state(), lone.state());
        let whole = lone.worker.lost.partitions() == again.worker.lost.partitions();
        prop_assert!(whole, "what is not whole is forgotten by a restart");
    }
}

#[test]
fn a_state_that_cannot_be_read_vouches_for_nothing() {
    let place = (Space::Meta, partition_key(PREFIX, Partition(1)));
    let lone = Lone::start(BTreeMap::from([(place, Bytes::from_static(b"damaged"))]));
    assert!(lone.worker.is_lost(Partition(1)));
    assert!(!lone.worker.is_lost(Partition(2)));
}

#[test]
fn a_copy_that_no_round_knows_is_moved_and_marked_and_not_deleted() {
    let record = |key: &[u8]| (Space::Records, Bytes::from([&[0, 1], key].concat()));
    let hint = (Space::Hints, Bytes::from([&[6][..], b"node-2", &[0, 1], b"h"].concat()));
    let value = Bytes::from_static(b"ghost");
    let elsewhere = (Space::Records, Bytes::from_static(&[0, 2, b'x']));
    let disk = [record(b"a"), record(b"b"), hint, elsewhere.clone()];
    let disk = disk.into_iter().map(|place| (place, value.clone())).collect();
    let mut lone = Lone::start(disk);
    lone.hears(1, RoundMessage::Close(RoundNumber(7), cut(1).id()));
    let left = lone.disk.keys().filter(|place| place.0 != Space::Meta);
    assert_eq!(left.collect::<Vec<_>>(), [&elsewhere]);
    let moved = lone.disk.keys().filter(|place| place.1.starts_with(b"aside/")).count();
    assert_eq!(moved, 3);
    assert_eq!(lone.state().closed, RoundNumber(7));
    let again = Lone::start(lone.disk);
    assert!(again.worker.is_lost(Partition(1)), "it counts as whole after a restart");
}

/// It had opened the round, and not drained it.
#[test]
fn a_copy_that_was_half_moved_is_moved_on_after_a_restart() {
    let place = (Space::Records, Bytes::from_static(&[0, 1, b'a']));
    let number = RoundNumber(7);
    let state = Rounds::default().after_opening(number, cut(1).id(), None);
    let mark = Bytes::copy_from_slice(&number.0.to_be_bytes());
    let lone = Lone::start(BTreeMap::from([
        (place.clone(), Bytes::from_static(b"ghost")),
        ((Space::Meta, partition_key(PREFIX, Partition(1))), state.encode()),
        ((Space::Meta, lost_marker(Partition(1))), mark),
    ]));
    assert!(!lone.disk.contains_key(&place));
    assert_eq!(lone.state().closed, number);
}

/// A round closed before it joined. What a disk held under another id is not what it joined with: seed
/// 4001868 had a deleted value come back so.
#[test]
fn who_has_joined_takes_a_rounds_number_over_and_who_has_a_past_sets_its_copy_aside() {
    for has_past in [false, true] {
        let place = (Space::Records, Bytes::from_static(&[0, 1, b'a']));
        let disk = BTreeMap::from([(place.clone(), Bytes::from_static(b"ghost"))]);
        let mut lone = Lone::start_with(disk, view_of_a_joiner().with_past(has_past));
        let news = RoundMessage::Behind {
            number: RoundNumber(1),
            closed: RoundNumber(1),
            id: cut(1).id(),
        };
        lone.hears(1, news);
        assert_eq!(lone.state().closed, RoundNumber(1));
        assert_eq!(lone.disk.contains_key(&place), !has_past);
    }
}

/// Else the round would stay open for ever: what the old disk has opened, the new one does not drain.
#[test]
fn a_round_is_opened_anew_when_a_members_disk_is_replaced() {
    let mut lone = Lone::start(BTreeMap::new());
    lone.does(|worker, out| worker.start_round(NOW, Partition(1), Cut::default(), out));
    let (number, id) = (RoundNumber(1), Cut::default().id());
    [1, 2].into_iter().for_each(|node| lone.hears(node, RoundMessage::Opened(number, id)));
    assert!(lone.sent.contains(&RoundMessage::Drain(number, id)));
    lone.sent.clear();
    let before = view([0, 1, 2]);
    let mut ids = before.ids.clone();
    ids.insert(name(2), NodeId(9));
    lone.input(Input::View(Arc::new(before.with_ids(ids).fencing([NodeId(2)]))));
    let open = |message: &RoundMessage| matches!(message, RoundMessage::Open { .. });
    assert!(!lone.sent.is_empty() && lone.sent.iter().all(open), "{:?}", lone.sent);
}

/// It may yet take the place of one that is a member, and does not know what that is home of.
#[test]
fn a_disk_that_is_no_members_keeps_its_marks() {
    let disk: BTreeMap<_, _> =
        mark_all(4).map(|mark| ((mark.space, mark.key), mark.value.unwrap())).collect();
    let guest = Lone::start_with(disk.clone(), view([1, 2, 3]));
    assert!(guest.worker.is_lost(Partition(1)));
    assert_eq!(guest.disk, disk);
}

#[test]
fn who_is_surveyed_for_what_its_last_cut_lists_knows_that_the_round_is_over() {
    let first = RoundNumber(1);
    let state = Rounds::default().after_opening(first, cut(7).id(), Some(cut(7)));
    let place = (Space::Meta, partition_key(PREFIX, Partition(1)));
    let state = state.after_draining().after_closing().after_applying().encode();
    let mut lone = Lone::start(BTreeMap::from([(place, state)]));
    assert!(lone.state().applied && lone.state().cut.is_some());
    // Word of the end was lost. What another record is surveyed for tells nothing.
    lone.hears(1, RoundMessage::Survey(RoundNumber(2), cut(8)));
    assert!(lone.state().cut.is_some());
    lone.hears(1, RoundMessage::Survey(RoundNumber(2), cut(7)));
    assert_eq!((lone.state().closed, lone.state().cut), (first, None));
}

/// A driver that was set back would drive under a number that is taken, open that round itself first, and
/// what it holds of before would carry the number.
#[test]
fn who_surveys_under_a_number_that_is_taken_is_told_so() {
    let first = RoundNumber(1);
    let place = (Space::Meta, partition_key(PREFIX, Partition(1)));
    let state = Rounds::default().after_opening(first, cut(7).id(), Some(cut(7)));
    let mut lone = Lone::start(BTreeMap::from([(place, state.encode())]));
    lone.sent.clear();
    lone.hears(1, RoundMessage::Survey(first, cut(8)));
    let behind = RoundMessage::Behind { number: first, closed: RoundNumber(0), id: cut(7).id() };
    assert_eq!(std::mem::take(&mut lone.sent), [behind]);
    lone.hears(1, RoundMessage::Survey(RoundNumber(2), cut(8)));
    assert_eq!(lone.sent, [RoundMessage::Surveyed(RoundNumber(2), vec![false])]);
}

/// It never looked whether it holds what is to be cut; and while it does not, a ghost can come to it.
#[test]
fn who_opened_a_round_as_no_home_does_not_confirm_it_as_one() {
    let (first, closed) = (RoundNumber(1), RoundNumber(0));
    let opened = |kept| Rounds::default().after_opening(first, cut(7).id(), kept).encode();
    let behind = RoundMessage::Behind { number: first, closed, id: cut(7).id() };
    let confirmed = RoundMessage::Opened(first, cut(7).id());
    for (kept, answer) in [(None, behind), (Some(cut(7)), confirmed)] {
        let place = (Space::Meta, partition_key(PREFIX, Partition(1)));
        let mut lone = Lone::start(BTreeMap::from([(place, opened(kept))]));
        lone.sent.clear();
        lone.hears(1, RoundMessage::Open { number: first, closed, cut: cut(7) });
        assert_eq!(lone.sent, [answer]);
    }
}

#[test]
fn hints_are_counted_once_however_often_the_start_begins_anew() {
    let mut disk = BTreeMap::new();
    let (key, record) = (Key::new(vec![7]).unwrap(), Record::default());
    let id = crate::protocol::worker::cells::CellId::hint(&name(1), Partition(1), &key);
    let sealed = record.seal(Partition(1), &key);
    disk.insert((Space::Hints, id.store_key()), sealed.stored().clone());
    let mut lone = Lone::start(disk);
    assert_eq!(lone.worker.stats().hints_held, 1);
    let mut out = vec![];
    lone.worker.start_counting_hints(&mut out);
    for input in out.into_iter().filter_map(|effect| lone.carry_out(effect)).collect::<Vec<_>>() {
        lone.input(input);
    }
    assert_eq!(lone.worker.stats().hints_held, 1);
}
