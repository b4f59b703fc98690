//! Hints: their bound, and what they answer while their target is away.

use super::*;
use crate::protocol::message::{Refusal, RoundMessage, WriteAnswer, WriteRequest};
use crate::protocol::rounds::CutId;

impl Cluster {
    /// Gives a node that starts anew so much room for hints.
    fn bound(&mut self, node: usize, hint_bytes_max: u64) {
        let tuning = Tuning { recent_bytes_max: 0, hint_bytes_max, ..Tuning::default() };
        self.workers[node] = self.worker_with(node, tuning);
        self.introduce(node);
    }

    fn stats(&self, node: usize) -> Stats {
        self.workers[node].stats()
    }
}

/// Keys that are all at home on node 0, and not on node 3.
fn keys(cluster: &Cluster, count: usize) -> Vec<Key> {
    let all = (0..).map(|number| Key::new(format!("key-{number}")).unwrap());
    all.filter(|key| cluster.homes(key).iter().all(|home| *home < 3)).take(count).collect()
}

fn reason(outcome: Outcome) -> Reason {
    match outcome {
        Outcome::Failed(failure) => {
            assert!(failure.maybe_applied, "what was written stays written");
            failure.reason
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hint_beyond_the_bound_does_not_count_and_the_write_fails_for_that_reason() {
    let mut cluster = Cluster::new(4, 3);
    let key = key("k");
    let (homes, fallback) = (cluster.homes(&key), cluster.stranger(&key));
    cluster.bound(fallback, 10);
    cluster.kill(homes[1]);
    cluster.kill(homes[2]);
    let outcome = cluster.run(homes[0], put(&key, "v", None, None));
    assert_eq!(reason(outcome), Reason::HintsFull);
    assert_eq!(cluster.hints(fallback), 0);
    assert_eq!(cluster.stats(fallback).hints_refused, 1);
    let told = |event: &(usize, Event)| *event == (fallback, Event::HintsFull);
    assert_eq!(cluster.events.iter().filter(|event| told(event)).count(), 1);
}

#[test]
fn a_bound_that_is_reached_fails_no_write_that_has_its_homes() {
    let mut cluster = Cluster::new(3, 3);
    (0..3).for_each(|node| cluster.bound(node, 0));
    cluster.kill(2);
    let receipt = cluster.set(0, &key("k"), "v");
    assert_eq!((receipt.homes.len(), receipt.hints.len()), (2, 0));
}

#[test]
fn the_bound_counts_hints_that_are_queued_and_those_found_at_the_start() {
    let mut cluster = Cluster::new(4, 3);
    let keys = keys(&cluster, 4);
    let size = {
        let mut measured = Cluster::new(4, 3);
        measured.kill(1);
        measured.set(0, &keys[0], "value");
        assert_eq!(measured.stats(3).hints_held, 1);
        measured.stats(3).hint_bytes
    };
    // Room for two and a half.
    let room = size * 5 / 2;
    cluster.bound(3, room);
    cluster.kill(1);
    cluster.kill(2);
    cluster.nodes[3].held = true;
    let all: Vec<Ticket> =
        keys[..3].iter().map(|key| cluster.start(0, put(key, "value", None, None))).collect();
    // Each write wants a hint kept here, for one of the homes: the third finds no room.
    assert!(cluster.stats(3).hint_bytes <= room, "{:?}", cluster.stats(3));
    assert_eq!(cluster.stats(3).hints_held, 2);
    cluster.release(3);
    cluster.pass(6 * SECOND);
    let written = |ticket| matches!(cluster.replies[&ticket], Outcome::Written(_));
    assert_eq!(all.iter().filter(|ticket| written(**ticket)).count(), 2);

    cluster.nodes[3].boots += 1;
    cluster.bound(3, room);
    assert_eq!((cluster.stats(3).hints_held, cluster.stats(3).hint_bytes <= room), (2, true));
    let outcome = cluster.run(0, put(&keys[3], "value", None, None));
    assert_eq!(reason(outcome), Reason::HintsFull);
    assert_eq!(cluster.hints(3), 2);
}

#[test]
fn room_that_a_replay_has_made_is_used_again() {
    let mut cluster = Cluster::new(4, 3);
    let keys = keys(&cluster, 2);
    cluster.bound(3, 150);
    cluster.kill(1);
    cluster.kill(2);
    while cluster.stats(3).hints_refused == 0 {
        let key = Key::new(format!("more-{}", cluster.tickets)).unwrap();
        cluster.run(0, put(&key, "value", None, None));
    }
    cluster.restart(1);
    cluster.restart(2);
    cluster.pass(5 * SECOND);
    assert_eq!((cluster.hints(3), cluster.stats(3).hint_bytes), (0, 0));
    cluster.kill(1);
    cluster.kill(2);
    assert!(matches!(cluster.run(0, put(&keys[0], "v", None, None)), Outcome::Written(_)));
}

#[test]
fn hints_of_one_key_are_one_hint_however_often_it_is_written() {
    let mut cluster = Cluster::new(3, 3);
    let keys = keys(&cluster, 5);
    cluster.kill(2);
    let mut most = 0;
    for round in 0..40 {
        for (node, key) in keys.iter().enumerate() {
            cluster.set((node + round) % 2, key, "value");
        }
        // By now both nodes have written each key, and the other's writes have come to its hint.
        if round == 3 {
            most = cluster.stats(0).hint_bytes + cluster.stats(1).hint_bytes;
        }
    }
    let held: u64 = (0..2).map(|node| cluster.stats(node).hints_held).sum();
    assert!(held <= 2 * keys.len() as u64, "{held} hints of {} keys on two nodes", keys.len());
    let bytes = cluster.stats(0).hint_bytes + cluster.stats(1).hint_bytes;
    assert!(bytes <= most, "{most} bytes after four rounds, {bytes} after forty");
}

#[test]
fn a_hint_answers_for_its_home_and_the_absence_of_one_is_no_answer() {
    let mut cluster = Cluster::new(5, 3);
    let (old, new) = (key("old"), key("k"));
    cluster.set(0, &old, "old");
    for key in [&old, &new] {
        let homes = cluster.homes(key);
        homes[1..].iter().for_each(|&home| cluster.kill(home));
        let reader = cluster.stranger(key);
        if *key == new {
            cluster.set(homes[0], key, "new");
            // The value is on one home, and as a hint on the fallbacks: two nodes in two slots.
            assert_eq!(cluster.get(reader, key, Consistency::Quorum), ["new"]);
        } else {
            // Nobody keeps a hint of what was written before: "not found" would be a lie.
            let read = ClientOp::get(key.clone(), Consistency::Quorum);
            match cluster.run(reader, read) {
                Outcome::Failed(failure) => assert_eq!(failure.reason, Reason::QuorumNotReached),
                other => panic!("one home of three is no quorum: {other:?}"),
            }
        }
        homes[1..].iter().for_each(|&home| cluster.restart(home));
        cluster.pass(5 * SECOND);
    }
}

#[test]
fn a_node_that_keeps_two_hints_counts_once_toward_r() {
    let mut cluster = Cluster::new(4, 3);
    let key = key("k");
    let (homes, fallback) = (cluster.homes(&key), cluster.stranger(&key));
    cluster.kill(homes[1]);
    cluster.kill(homes[2]);
    cluster.set(homes[0], &key, "v");
    assert_eq!(cluster.hints(fallback), 1, "the coordinator keeps the second");
    // The other slot's hint lies beside the home's own copy, which counts already.
    cluster.kill(homes[0]);
    let read = ClientOp::get(key, Consistency::Quorum);
    assert!(matches!(cluster.run(fallback, read), Outcome::Failed(_)), "one node is no quorum");
}

#[test]
fn a_hint_for_a_node_that_is_no_member_is_refused_and_counted_and_told_once_a_peer() {
    let mut cluster = Cluster::new(3, 3);
    let key = key("k");
    let partition = key.partition(64);
    let target = NodeName::new("nobody").unwrap();
    for from in [id(1), id(1), id(2), id(1)] {
        let record = Record::default().seal(partition, &key);
        let (call, hint_for) = (CallId(1), Some(target.clone()));
        let (key, round) = (key.clone(), RoundNumber::default());
        let write = WriteRequest { call, key, record, hint_for, round };
        let (placement, message) = (cluster.placement.tag, DataMessage::Write(write));
        cluster.input(0, Input::Message { from, placement, trace: None, partition, message });
    }
    let refused = DataMessage::WriteReply(CallId(1), WriteAnswer::Refused(Refusal::NotMine));
    assert_eq!(cluster.messages.iter().filter(|sent| sent.3 == refused).count(), 4);
    assert_eq!((cluster.stats(0).hints_unknown, cluster.nodes[0].disk.len()), (4, 0));
    let told = |node| {
        let (from, name) = (id(node), Some(name(node)));
        (0, Event::HintUnknown { from, name, target: target.clone() })
    };
    assert_eq!(cluster.events, [told(1), told(2)]);
    // The rest goes on.
    cluster.set(0, &key, "v");
}

/// Whoever keeps a hint and hears only then of a round that closed without it sets the hint aside; with the
/// home whose place it took, that was an acknowledged write.
#[test]
fn who_is_asked_for_a_hint_has_heard_before_where_the_rounds_are() {
    let mut cluster = Cluster::new(4, 3);
    let key = keys(&cluster, 1).remove(0);
    let partition = key.partition(64);
    let closed = RoundNumber(4);
    let news = RoundMessage::Behind { number: closed, closed, id: CutId(9) };
    for node in 0..3 {
        let (from, message) = (id((node + 1) % 3), DataMessage::Round(news.clone()));
        let placement = cluster.placement.tag;
        cluster.input(node, Input::Message { from, placement, trace: None, partition, message });
    }
    cluster.pass(60 * SECOND);
    cluster.events.clear();
    cluster.kill(1);
    cluster.set(0, &key, "v");
    assert_eq!(cluster.hints(3), 1, "no hint was kept");
    // What the next message about the partition would tell it.
    let (from, placement) = (id(0), cluster.placement.tag);
    let message = DataMessage::Round(news);
    cluster.input(3, Input::Message { from, placement, trace: None, partition, message });
    cluster.pass(5 * SECOND);
    assert_eq!((cluster.hints(3), cluster.workers[3].round(partition)), (1, closed));
}

#[test]
fn what_no_hint_is_kept_of_is_brought_by_comparing_soon_whoever_has_the_lower_name() {
    for coordinator in [0, 2] {
        let mut cluster = Cluster::new(3, 3);
        (0..3).for_each(|node| cluster.bound(node, 0));
        cluster.pass(60 * SECOND);
        let (key, refusing) = (key("k"), 2 - coordinator);
        cluster.nodes[refusing].refuses = true;
        cluster.set(coordinator, &key, "v");
        cluster.nodes[refusing].refuses = false;
        assert_eq!(cluster.stored(refusing, &key), None);
        cluster.pass(60 * SECOND);
        assert!(cluster.stored(refusing, &key).is_some());
    }
}

/// A key of which two homes have slow disks.
fn slow_homes() -> (Cluster, Key, Vec<usize>) {
    let mut cluster = Cluster::new(5, 3);
    let key = key("k");
    let homes = cluster.homes(&key);
    homes[1..].iter().for_each(|&home| cluster.nodes[home].held = true);
    (cluster, key, homes)
}

/// A write whose coordinator alone has committed it in time.
fn write_past_slow_homes(micros: u64) -> (Cluster, Ticket, Vec<usize>) {
    let (mut cluster, key, homes) = slow_homes();
    let ticket = cluster.start_within(homes[0], put(&key, "v", None, None), micros);
    (cluster, ticket, homes)
}

#[test]
fn hints_do_not_count_when_many_late_answers_at_once_make_a_home_silent() {
    let (mut cluster, key, homes) = slow_homes();
    for value in ["1", "2", "3", "4"] {
        cluster.start(homes[0], put(&key, value, None, None));
    }
    cluster.pass(600_000);
    assert!(!cluster.workers[homes[0]].peers.reachable(id(homes[1])), "four answers are late");
    assert!(cluster.replies.is_empty(), "{:?}", cluster.replies);
    homes[1..].iter().for_each(|&home| cluster.release(home));
    assert_eq!(cluster.replies.len(), 4, "late answers count");
    cluster.assert_over();
}

#[test]
fn a_hint_for_a_home_that_is_only_late_is_kept_and_does_not_count() {
    let (mut cluster, ticket, homes) = write_past_slow_homes(5 * SECOND);
    cluster.pass(600_000);
    let kept: u64 = (0..5).map(|node| cluster.stats(node).hints_held).sum();
    assert_eq!((kept, cluster.replies.len()), (2, 0));
    cluster.release(homes[2]);
    let Some(Outcome::Written(receipt)) = cluster.replies.get(&ticket) else {
        panic!("two homes have it: {:?}", cluster.replies);
    };
    assert_eq!(receipt.homes, [name(homes[0].min(homes[2])), name(homes[0].max(homes[2]))]);
    cluster.release(homes[1]);
    cluster.assert_over();
}

#[test]
fn a_hint_counts_once_its_home_has_been_late_for_long_or_half_of_what_is_left() {
    for (deadline, from, to) in [(5 * SECOND, 740_000, 760_000), (SECOND, 615_000, 635_000)] {
        let (mut cluster, ticket, _) = write_past_slow_homes(deadline);
        cluster.pass(from);
        assert!(cluster.replies.is_empty(), "within {from} µs of {deadline}");
        cluster.pass(to - from);
        let outcome = cluster.replies.get(&ticket);
        assert!(matches!(outcome, Some(Outcome::Written(_))), "{outcome:?}");
    }
}

#[test]
fn a_hint_counts_at_once_when_its_late_home_goes_away() {
    let (mut cluster, ticket, homes) = write_past_slow_homes(5 * SECOND);
    cluster.pass(300_000);
    assert!(cluster.replies.is_empty());
    cluster.kill(homes[1]);
    let outcome = cluster.replies.get(&ticket);
    assert!(matches!(outcome, Some(Outcome::Written(_))), "{outcome:?}");
}
