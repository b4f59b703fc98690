//! Disks that are new in their places: a fourth node joins three, or a node comes back with an empty disk.

use super::ring::{joining, moved, next};
use super::*;
use crate::protocol::lost::mark_all;
use crate::protocol::message::{RoundMessage, SyncAnswer, SyncAsk, SyncRange, WriteRequest};
use crate::protocol::meta::partition_key;
use crate::protocol::record::{Content, Sibling};
use crate::protocol::rounds::{CutId, Rounds};
use crate::protocol::tree::LeafSet;
use crate::types::Stamp;

/// The round that has been opened, or closed, without whoever is new.
const ROUND: RoundNumber = RoundNumber(4);

impl Cluster {
    /// Node 0 sends node 3 a record of a round of a partition.
    fn bring(&mut self, key: &Key, round: u64) {
        let dot = Dot::new(Actor(77), Stamp(5));
        let content = Content::Value("value".into());
        let sibling = Sibling { dot, content, expiry: None, request: None };
        let record = Record::default().write(&VersionVector::default(), sibling);
        let (record, round) = (record.seal(key.partition(64), key), RoundNumber(round));
        let (key, hint_for) = (key.clone(), None);
        let write = WriteRequest { call: CallId(7), key, record, hint_for, round };
        let partition = write.key.partition(64);
        self.hears(3, partition, DataMessage::Write(write));
    }

    /// A node is told which rounds of a partition others have opened and closed.
    fn tell(&mut self, node: usize, partition: Partition, opened: u64, closed: u64) {
        let (number, closed) = (RoundNumber(opened), RoundNumber(closed));
        let behind = RoundMessage::Behind { number, closed, id: CutId(9) };
        self.hears(node, partition, DataMessage::Round(behind));
    }

    fn hears(&mut self, node: usize, partition: Partition, message: DataMessage) {
        let known = self.workers[node].view.as_ref().expect("it has a view");
        let (from, placement) = (id((node + 1) % 4), known.newest().tag());
        self.input(node, Input::Message { from, placement, trace: None, partition, message });
        self.pass(SECOND);
    }

    /// These nodes took part in [`ROUND`], and were restarted since.
    fn took_part(&mut self, nodes: &[usize], partition: Partition, is_closed: bool) {
        let state = Rounds::default().after_opening(ROUND, CutId(9), None).after_draining();
        let state = if is_closed { state.after_closing() } else { state };
        self.has_rounds(nodes, partition, &state);
    }

    /// These nodes have come so far with the rounds of a partition, and were restarted since.
    pub(super) fn has_rounds(&mut self, nodes: &[usize], partition: Partition, state: &Rounds) {
        for &node in nodes {
            self.kill(node);
            let place = (Space::Meta, partition_key(b"rounds/", partition));
            self.nodes[node].disk.insert(place, state.encode());
            self.restart(node);
        }
    }

    /// A node dies, and comes back with an empty disk.
    fn wipe(&mut self, node: usize) {
        self.kill(node);
        let marks = mark_all(64).map(|mark| ((mark.space, mark.key), mark.value.unwrap()));
        self.nodes[node].disk = marks.collect();
        self.replaced.insert(node);
        self.restart(node);
    }

    fn was_set_aside(&self, node: usize, partition: Partition) -> bool {
        self.events.contains(&(node, Event::SetAside(partition)))
    }

    fn was_written(&mut self, node: usize, key: &Key) -> Result<(), Reason> {
        match self.run(node, put(key, "v", None, None)) {
            Outcome::Written(_) => Ok(()),
            Outcome::Failed(failure) => Err(failure.reason),
            Outcome::Read(_) => panic!("a write is answered as a read"),
        }
    }
}

/// Node 3 joins three, and the oldest version retires. The key is one that it gains from node 2.
fn joined(defect: Option<Defect>) -> (Cluster, Key, Arc<Placement>) {
    let (mut cluster, old, new) = joining(defect);
    cluster.live(&[&old, &new], 0, 0);
    cluster.live(&[&new], 0, 0);
    (cluster, moved(&new, 1).remove(0), new)
}

#[test]
fn a_newcomer_takes_over_a_round_that_closed_without_it_unless_it_was_brought_what_is_older() {
    // Whoever has not joined, and took no other's place, may have been set back.
    for (joins, brought, keeps) in [(true, 4, true), (true, 3, false), (false, 4, false)] {
        let (mut cluster, old, new) = joining(None);
        let key = moved(&new, 1).remove(0);
        let partition = key.partition(64);
        let live = if joins { vec![&old, &new] } else { vec![&new] };
        cluster.live(&live, 0, 0);
        cluster.tell(3, partition, 4, 0);
        cluster.bring(&key, brought);
        cluster.tell(3, partition, 4, 4);
        assert_eq!(cluster.was_set_aside(3, partition), !keeps);
        assert_eq!(cluster.workers[3].round(partition), ROUND);
        assert_eq!(cluster.stored(3, &key).is_some(), keeps);
    }
}

#[test]
fn a_newcomer_knows_after_a_restart_what_it_was_told_and_brought() {
    for (told, brought, keeps) in [(4, 4, true), (4, 3, false), (3, 4, false)] {
        let (mut cluster, key, _) = joined(None);
        let partition = key.partition(64);
        cluster.tell(3, partition, told, 0);
        cluster.bring(&key, brought);
        cluster.kill(3);
        cluster.restart(3);
        cluster.tell(3, partition, 4, 4);
        // No round above what it was told closes without it: it was set back, then.
        assert_eq!(cluster.was_set_aside(3, partition), !keeps, "{told} {brought}");
        assert_eq!(cluster.stored(3, &key).is_some(), keeps);
    }
}

/// The commit that a number was to be kept with was refused; the next one keeps it.
#[test]
fn what_a_joiner_was_brought_is_kept_though_a_commit_is_refused() {
    let (mut cluster, key, new) = joined(None);
    let partition = key.partition(64);
    let same = |other: &Key| *other != key && other.partition(64) == partition;
    let other = moved(&new, 500).into_iter().find(same).expect("500 keys in 64 partitions");
    cluster.tell(3, partition, 4, 0);
    cluster.nodes[3].refuses = true;
    cluster.bring(&key, 3);
    cluster.nodes[3].refuses = false;
    cluster.bring(&other, 3);
    cluster.kill(3);
    cluster.restart(3);
    cluster.tell(3, partition, 4, 4);
    assert!(cluster.was_set_aside(3, partition));
}

/// What it was brought by a version that lost to another, or held before it left, is of before.
#[test]
fn who_joins_a_second_time_takes_no_round_over() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    let partition = key.partition(64);
    cluster.live(&[&old, &new], 0, 0);
    cluster.tell(3, partition, 4, 0);
    cluster.bring(&key, 4);
    let without = next(&old, 0..3);
    cluster.live(&[&old, &without], 0, 0);
    let again = next(&without, 0..4);
    cluster.live(&[&without, &again], 0, 0);
    cluster.tell(3, partition, 4, 4);
    assert!(cluster.was_set_aside(3, partition));
}

/// Two that hold a write, have not heard of a closed round, and were brought each other's old numbers would both
/// set it aside.
#[test]
fn who_is_new_takes_no_write_before_it_is_told_where_the_rounds_are() {
    for defect in [None, Some(Defect::TakeUntold)] {
        let (mut cluster, key, _) = joined(defect);
        let partition = key.partition(64);
        cluster.took_part(&[0, 1, 2], partition, true);
        // Cut off from all who know.
        [1, 2].into_iter().for_each(|node| cluster.kill(node));
        cluster.kill(3);
        cluster.nodes[3].disk.retain(|place, _| !place.1.starts_with(b"rounds/\0"));
        cluster.wipe(0);
        cluster.restart(3);
        for node in [0, 3] {
            let expected = if defect.is_some() { Ok(()) } else { Err(Reason::RoundsUnknown) };
            assert_eq!(cluster.was_written(node, &key), expected);
        }
        cluster.restart(1);
        cluster.pass(5 * SECOND);
        if defect.is_none() {
            assert_eq!(cluster.was_written(0, &key), Ok(()));
            cluster.pass(5 * SECOND);
        }
        let lost = [0, 1, 3].into_iter().all(|node| cluster.stored(node, &key).is_none());
        assert_eq!(lost, defect.is_some());
        let aside = [0, 3].map(|node| cluster.was_set_aside(node, partition));
        assert_eq!(aside, [lost; 2]);
    }
}

/// The round had been drained by all when it was told of it, and closes without it.
#[test]
fn what_newcomers_write_after_they_were_told_of_a_round_is_not_older_than_it() {
    let (mut cluster, key, _) = joined(None);
    let partition = key.partition(64);
    cluster.kill(3);
    cluster.nodes[3].disk.retain(|place, _| !place.1.starts_with(b"rounds/\0"));
    cluster.took_part(&[0, 1, 2], partition, false);
    cluster.wipe(0);
    cluster.restart(3);
    cluster.pass(3 * SECOND);
    [1, 2].into_iter().for_each(|node| cluster.kill(node));
    for node in [0, 3] {
        assert_eq!(cluster.workers[node].round(partition), ROUND);
        assert_eq!(cluster.was_written(node, &key), Ok(()));
    }
    for node in [0, 3] {
        cluster.tell(node, partition, 4, 4);
        assert!(!cluster.was_set_aside(node, partition));
        assert!(cluster.stored(node, &key).is_some());
    }
}

/// It is said once, to all; the next round may be long in coming.
#[test]
fn who_was_told_of_an_open_round_hears_that_it_is_over() {
    let (mut cluster, key, _) = joined(None);
    let partition = key.partition(64);
    cluster.tell(3, partition, 4, 0);
    cluster.bring(&key, 4);
    assert_eq!(cluster.workers[3].collect.closed(partition), RoundNumber(0));
    cluster.hears(3, partition, DataMessage::Round(RoundMessage::Over(ROUND)));
    assert_eq!(cluster.workers[3].collect.closed(partition), ROUND);
    assert!(!cluster.was_set_aside(3, partition));
}

/// Between question and answer it was brought what is older than what it was told of: the answer may hold that.
#[test]
fn what_a_newcomer_answers_is_of_the_lowest_round_that_it_was_brought_by_then() {
    let (mut cluster, key, _) = joined(None);
    let partition = key.partition(64);
    cluster.tell(3, partition, 4, 0);
    cluster.nodes[3].late_scans = Some(vec![]);
    let range = SyncRange {
        round: ROUND,
        leaves: LeafSet::ALL,
        after: Bytes::new(),
        end: None,
        held: vec![],
    };
    cluster.hears(3, partition, DataMessage::Sync(CallId(9), SyncAsk::Page(range)));
    cluster.bring(&key, 3);
    let late = cluster.nodes[3].late_scans.take().expect("scans are late");
    late.into_iter().for_each(|answer| cluster.input(3, answer));
    let page = cluster.sent.iter().find_map(|(_, _, message)| match message {
        DataMessage::SyncReply(CallId(9), SyncAnswer::Page(page)) => Some(page),
        _ => None,
    });
    assert_eq!(page.map(|page| page.round), Some(RoundNumber(3)));
}

#[test]
fn if_no_home_can_say_where_the_rounds_are_they_begin_anew() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    (0..3).for_each(|node| cluster.kill(node));
    cluster.wipe(0);
    cluster.wipe(1);
    assert_eq!(cluster.was_written(0, &key), Err(Reason::RoundsUnknown));
    cluster.wipe(2);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.was_written(0, &key), Ok(()));
    // And know it for good: it does not take all of them again.
    (0..3).for_each(|node| cluster.kill(node));
    (0..2).for_each(|node| cluster.restart(node));
    assert_eq!(cluster.was_written(0, &key), Ok(()));
}

/// What it hears before it joins is of before: it would be taken for told. Seed 3276.
#[test]
fn who_is_no_member_heeds_no_round() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    let partition = key.partition(64);
    cluster.live(&[&old], 0, 0);
    cluster.hears(3, partition, DataMessage::Round(RoundMessage::Over(RoundNumber(2))));
    cluster.tell(3, partition, 2, 2);
    assert_eq!(cluster.workers[3].collect.closed(partition), RoundNumber(0));
    cluster.took_part(&[0, 1, 2], partition, true);
    cluster.live(&[&old, &new], 0, 0);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.workers[3].round(partition), ROUND);
    assert!(!cluster.was_set_aside(3, partition));
}
