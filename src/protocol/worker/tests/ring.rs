//! Changes of the ring: a fourth node joins three, or one of four leaves.

use std::ops::Range;

use super::*;
use crate::protocol::message::{Refusal, WriteAnswer, WriteRequest};

fn members(of: impl IntoIterator<Item = usize>) -> Vec<Member> {
    let member = |node| Member { name: name(node), zone: String::new(), weight: 1 };
    of.into_iter().map(member).collect()
}

/// The next version, of these members.
pub(super) fn next(of: &Placement, nodes: impl IntoIterator<Item = usize>) -> Arc<Placement> {
    let mut placement = Placement::found(members(nodes), 3, 64);
    placement.tag.number = of.tag.number + 1;
    placement.parent = of.tag.hash;
    // Decoding works the hash out anew.
    Arc::new(Placement::decode(&placement.encode().into()).unwrap())
}

/// Nodes 0 to 2 are members, and node 3 joins; nobody has been told yet.
pub(super) fn joining(defect: Option<Defect>) -> (Cluster, Arc<Placement>, Arc<Placement>) {
    let cluster = Cluster::of(4, Placement::found(members(0..3), 3, 64), defect);
    let (old, new) = (cluster.placement.clone(), next(&cluster.placement, 0..4));
    (cluster, old, new)
}

fn homes_in(placement: &Placement, key: &Key) -> Vec<usize> {
    let homes = placement.homes(key.partition(64)).iter();
    let named = homes.map(|&home| placement.members[usize::from(home)].name.clone());
    named.map(|home| (0..9).find(|&node| name(node) == home).unwrap()).collect()
}

/// Keys that node 3 gains from node 2.
pub(super) fn moved(new: &Placement, count: usize) -> Vec<Key> {
    let all = (0..).map(|number| Key::new(format!("moved-{number}")).unwrap());
    let gains = |key: &Key| {
        let homes = homes_in(new, key);
        homes.contains(&3) && !homes.contains(&2)
    };
    all.filter(gains).take(count).collect()
}

/// A key whose homes stay 0, 1 and 2.
fn unmoved(new: &Placement) -> Key {
    let mut all = (0..).map(|number| Key::new(format!("unmoved-{number}")).unwrap());
    all.find(|key| !homes_in(new, key).contains(&3)).unwrap()
}

impl Cluster {
    /// Tells all who run of these versions.
    pub(super) fn live(&mut self, live: &[&Arc<Placement>], reads: usize, acked: usize) {
        self.live = (live.iter().map(|&placement| placement.clone()).collect(), reads, acked);
        for node in 0..self.nodes.len() {
            if !self.nodes[node].down {
                self.show(node);
            }
        }
        self.deliver();
    }

    /// The lowest numbers that the nodes tell: acked, synced, reads ended.
    fn come(&self, nodes: impl IntoIterator<Item = usize>) -> (u32, u32, u32) {
        let told = nodes.into_iter().map(|node| self.progress[node]);
        told.fold((9, 9, 9), |least, told| {
            let (acked, synced) = (told.acked.number, told.synced.number);
            (least.0.min(acked), least.1.min(synced), least.2.min(told.reads_ended.number))
        })
    }

    fn strict_set(&mut self, node: usize, key: &Key, value: &'static str) -> Outcome {
        self.run(node, ClientOp { strict: true, ..put(key, value, None, None) })
    }

    fn hint_names(&self, node: usize) -> Vec<String> {
        let hints = self.nodes[node].disk.keys().filter(|key| key.0 == Space::Hints);
        hints
            .map(|(_, key)| CellId::from_hint_key(key).unwrap().hint_for.unwrap().to_string())
            .collect()
    }

    fn actor(&self, node: usize, key: &Key) -> Option<Actor> {
        self.workers[node].tenures.get(&key.partition(64)).copied()
    }
}

fn written(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Written(_))
}

#[test]
fn a_write_needs_its_quorum_in_every_live_version() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.live(&[&old, &new], 0, 0);
    assert!(written(&cluster.strict_set(0, &key, "all")));
    // Node 0 and node 3 are two of the three new homes, and one of the old ones.
    cluster.kill(1);
    cluster.kill(2);
    let refused = cluster.strict_set(0, &key, "new only");
    assert!(matches!(refused, Outcome::Failed(_)), "{refused:?}");
}

/// Three nodes become six; a key of which the first stays home, beside two that join. Those of `told` have heard of it.
fn heard_by(told: Range<usize>) -> (Cluster, Arc<Placement>, Arc<Placement>, Key) {
    let mut cluster = Cluster::of(6, Placement::found(members(0..3), 3, 64), None);
    let (old, new) = (cluster.placement.clone(), next(&cluster.placement, 0..6));
    let mut keys = (0..).map(|number| Key::new(format!("key-{number}")).unwrap());
    let joined = |key: &Key| homes_in(&new, key).into_iter().filter(|home| *home > 2).count();
    let key = keys.find(|key| joined(key) == 2 && homes_in(&new, key).contains(&0)).unwrap();
    cluster.live = (vec![old.clone(), new.clone()], 0, 0);
    told.for_each(|node| cluster.show(node));
    cluster.deliver();
    (cluster, old, new, key)
}

fn first_to_hear() -> (Cluster, Arc<Placement>, Arc<Placement>, Key) {
    heard_by(0..1)
}

/// The others have acknowledged it.
fn last_to_hear() -> (Cluster, Arc<Placement>, Arc<Placement>, Key) {
    heard_by(1..6)
}

#[test]
fn a_write_by_the_first_who_hears_of_a_version_waits_for_its_homes_to_hear_of_it() {
    let (mut cluster, old, new, key) = first_to_hear();
    let ticket = cluster.start(0, put(&key, "v", None, None));
    cluster.pass(100_000);
    assert!(cluster.replies.is_empty(), "neither home nor fallback knows that it is one");
    cluster.live(&[&old, &new], 0, 0);
    cluster.pass(60_000);
    match cluster.replies.remove(&ticket) {
        Some(Outcome::Written(receipt)) => {
            // Of the two that join, the one that answered first.
            assert_eq!((receipt.homes.len(), receipt.hints.len()), (4, 0), "{receipt:?}");
        }
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn a_write_by_the_only_one_who_hears_of_a_version_fails_before_its_deadline() {
    let (mut cluster, _, _, key) = first_to_hear();
    let ticket = cluster.start(0, put(&key, "v", None, None));
    cluster.pass(700_000);
    assert!(cluster.replies.is_empty(), "its homes may hear of it still");
    cluster.pass(200_000);
    let outcome = cluster.replies.remove(&ticket);
    assert!(matches!(outcome, Some(Outcome::Failed(_))), "{outcome:?}");
    cluster.assert_over();
}

#[test]
fn a_write_by_the_last_who_hears_of_a_version_is_taken_when_he_has_heard_of_it() {
    let (mut cluster, old, new, key) = last_to_hear();
    let ticket = cluster.start(0, put(&key, "v", None, None));
    cluster.pass(400_000);
    assert!(cluster.replies.is_empty(), "its homes know better");
    cluster.live(&[&old, &new], 0, 0);
    let outcome = cluster.replies.remove(&ticket);
    assert!(matches!(outcome, Some(Outcome::Written(_))), "{outcome:?}");
    cluster.assert_over();
}

#[test]
fn a_write_by_one_who_does_not_hear_of_a_version_fails_before_its_deadline() {
    let (mut cluster, _, _, key) = last_to_hear();
    let ticket = cluster.start(0, put(&key, "v", None, None));
    cluster.pass(2 * SECOND);
    let outcome = cluster.replies.remove(&ticket);
    assert!(matches!(outcome, Some(Outcome::Failed(_))), "{outcome:?}");
    cluster.assert_over();
}

#[test]
fn homes_that_wait_for_the_coordinator_and_go_away_are_not_waited_for() {
    let (mut cluster, _, _, key) = last_to_hear();
    let ticket = cluster.start(0, put(&key, "v", None, None));
    cluster.pass(50_000);
    assert!(cluster.replies.is_empty());
    (1..6).for_each(|node| cluster.kill(node));
    let outcome = cluster.replies.remove(&ticket);
    assert!(matches!(outcome, Some(Outcome::Failed(_))), "{outcome:?}");
}

#[test]
fn a_write_that_two_new_homes_hold_and_one_old_one_is_acknowledged_only_by_mistake() {
    for (defect, passes) in [(None, false), (Some(Defect::SkipOlderVersion), true)] {
        let (mut cluster, old, new) = joining(defect);
        let key = moved(&new, 1).remove(0);
        cluster.live(&[&old, &new], 0, 0);
        cluster.kill(1);
        cluster.kill(2);
        assert_eq!(written(&cluster.run(0, put(&key, "v", None, None))), passes);
    }
}

#[test]
fn a_node_that_leaves_keeps_no_more_hints() {
    // Node 3 leaves: what it kept would say nothing about the version without it.
    let mut cluster = Cluster::of(4, Placement::found(members(0..4), 3, 64), None);
    let (old, new) = (cluster.placement.clone(), next(&cluster.placement, 0..3));
    let mut keys = (0..).map(|number| Key::new(format!("key-{number}")).unwrap());
    let key = keys.find(|key| !homes_in(&old, key).contains(&3)).unwrap();
    cluster.live(&[&old, &new], 0, 0);
    cluster.kill(1);
    cluster.kill(2);
    let outcome = cluster.run(0, put(&key, "v", None, None));
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert!(cluster.hint_names(3).is_empty(), "{:?}", cluster.hint_names(3));
}

#[test]
fn reads_ask_the_version_that_is_synced_and_never_an_empty_new_home() {
    let (mut cluster, old, new) = joining(None);
    let keys = moved(&new, 5);
    keys.iter().for_each(|key| drop(cluster.set(0, key, "value")));
    cluster.live(&[&old, &new], 0, 0);
    for key in &keys {
        for reader in 0..4 {
            for consistency in [Consistency::One, Consistency::Quorum, Consistency::All] {
                assert_eq!(cluster.get(reader, key, consistency), ["value"], "{reader}");
            }
        }
    }
}

#[test]
fn a_node_that_says_so_too_early_has_brought_nothing() {
    let (mut cluster, old, new) = joining(Some(Defect::SyncEarly));
    let key = moved(&new, 1).remove(0);
    cluster.set(0, &key, "value");
    cluster.live(&[&old, &new], 0, 1);
    cluster.pass(SECOND);
    assert_eq!(cluster.come(0..4).1, 2);
    cluster.live(&[&old, &new], 1, 1);
    cluster.kill(0);
    cluster.kill(1);
    assert!(cluster.get(3, &key, Consistency::One).is_empty(), "the read that the rule is for");
}

#[test]
fn what_is_held_is_at_all_new_homes_before_a_node_has_synced_and_goes_when_the_old_version_has() {
    let (mut cluster, old, new) = joining(None);
    let keys = moved(&new, 20);
    keys.iter().for_each(|key| drop(cluster.set(0, key, "value")));
    cluster.live(&[&old, &new], 0, 0);
    cluster.pass(SECOND);
    assert_eq!(cluster.come(0..4), (2, 1, 1), "all have acknowledged, and nobody knows it");
    assert!(keys.iter().all(|key| cluster.stored(3, key).is_none()));
    cluster.live(&[&old, &new], 0, 1);
    cluster.pass(10 * SECOND);
    assert_eq!(cluster.come(0..4), (2, 2, 1));
    assert!(keys.iter().all(|key| cluster.stored(3, key).is_some()));
    cluster.live(&[&old, &new], 1, 1);
    assert_eq!(cluster.come(0..4), (2, 2, 2));
    cluster.pass(10 * SECOND);
    assert!(keys.iter().all(|key| cluster.stored(2, key).is_some()), "the old version is live");
    cluster.live(&[&new], 0, 0);
    cluster.pass(60 * SECOND);
    assert!(keys.iter().all(|key| cluster.stored(2, key).is_none()), "it was given up");
    assert_eq!(cluster.workers[2].stats().partitions_leaving, 0);
    for key in &keys {
        assert_eq!(cluster.get(2, key, Consistency::Quorum), ["value"]);
    }
}

#[test]
fn a_new_home_that_cannot_be_reached_is_waited_for() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.set(0, &key, "value");
    cluster.live(&[&old, &new], 0, 0);
    cluster.pass(SECOND);
    cluster.kill(3);
    cluster.live(&[&old, &new], 0, 1);
    cluster.pass(20 * SECOND);
    assert_eq!(cluster.come(0..3).1, 1);
    assert!(cluster.progress[0].waiting.exchanges > 0);
    cluster.restart(3);
    cluster.pass(20 * SECOND);
    assert_eq!(cluster.come(0..4).1, 2);
    assert!(cluster.stored(3, &key).is_some());
}

#[test]
fn a_disk_that_is_replaced_in_mid_change_is_brought_everything_anew() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.set(0, &key, "value");
    cluster.live(&[&old, &new], 0, 0);
    cluster.pass(SECOND);
    // Node 0 can reach only node 3: it has brought it everything, and waits for node 1.
    cluster.kill(1);
    cluster.live(&[&old, &new], 0, 1);
    cluster.pass(5 * SECOND);
    assert!(cluster.stored(3, &key).is_some());
    let before = cluster.progress[0].waiting.exchanges;
    let view = cluster.workers[0].view.clone().unwrap();
    let mut ids = view.ids.clone();
    ids.insert(name(3), NodeId(99));
    cluster.input(0, Input::View(Arc::new(view.with_ids(ids).fencing([id(3)]))));
    cluster.input(0, Input::Tick);
    cluster.restart(1);
    cluster.pass(10 * SECOND);
    assert!(before > 0 && cluster.progress[0].synced.number == 1, "the new disk has nothing");
}

#[test]
fn a_hint_is_replayed_to_the_homes_of_all_live_versions_before_it_goes() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.kill(2);
    cluster.set(0, &key, "value");
    assert_eq!(cluster.hint_names(0), ["node-2"]);
    // Node 0 has lost its own copy since: the hint is all that it holds.
    let own = (Space::Records, CellId::own(key.partition(64), &key).store_key());
    cluster.nodes[0].disk.remove(&own);
    cluster.live(&[&old, &new], 0, 0);
    cluster.kill(3);
    cluster.restart(2);
    cluster.pass(5 * SECOND);
    assert!(cluster.stored(2, &key).is_some(), "its target has it");
    assert_eq!(cluster.hint_names(0), ["node-2"], "a home of the new version has not");
    cluster.restart(3);
    cluster.pass(5 * SECOND);
    assert!(cluster.stored(3, &key).is_some() && cluster.hint_names(0).is_empty());
}

#[test]
fn a_hint_for_a_node_that_is_no_home_any_more_goes_to_the_homes_of_now() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.kill(2);
    cluster.set(0, &key, "value");
    (0..2).chain([3]).for_each(|node| {
        let own = (Space::Records, CellId::own(key.partition(64), &key).store_key());
        cluster.nodes[node].disk.remove(&own);
    });
    assert_eq!(old.tag.number, 1);
    cluster.live(&[&new], 0, 0);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.hint_names(0), ["node-2"], "its target is a member, and may come back");
    cluster.restart(2);
    cluster.pass(5 * SECOND);
    assert!(cluster.hint_names(0).is_empty());
    for home in homes_in(&new, &key) {
        assert!(cluster.stored(home, &key).is_some(), "node-{home}");
    }
}

#[test]
fn a_write_through_a_new_home_is_one_write_over_what_is_known() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.set(0, &key, "first");
    cluster.live(&[&old, &new], 0, 0);
    cluster.set(3, &key, "second");
    for reader in 0..4 {
        assert_eq!(cluster.get(reader, &key, Consistency::All), ["second"]);
    }
    let dots: BTreeSet<Dot> = (0..4)
        .flat_map(|node| cluster.stored(node, &key).unwrap().siblings().to_vec())
        .map(|sibling| sibling.dot)
        .collect();
    assert_eq!(dots.len(), 1);
}

#[test]
fn a_sender_that_ignores_an_acknowledged_version_is_refused() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.live(&[&old, &new], 0, 0);
    cluster.pass(SECOND);
    assert_eq!(cluster.come([1]).0, 2);
    let record = Record::default().seal(key.partition(64), &key);
    let rival = PlacementTag { hash: new.tag.hash + 1, ..new.tag };
    for (tag, refused) in [(old.tag, true), (rival, true), (new.tag, false)] {
        let write = WriteRequest {
            call: CallId(7),
            key: key.clone(),
            record: record.clone(),
            hint_for: None,
            round: RoundNumber::default(),
        };
        let partition = key.partition(64);
        let message = DataMessage::Write(write);
        let (from, placement) = (id(0), tag);
        cluster.sent.clear();
        cluster.input(1, Input::Message { from, placement, trace: None, partition, message });
        let old = DataMessage::WriteReply(CallId(7), WriteAnswer::Refused(Refusal::PlacementOld));
        assert_eq!(cluster.sent.iter().any(|sent| sent.2 == old), refused, "{tag:?}");
    }
}

#[test]
fn a_running_write_holds_the_acknowledgement_up() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.nodes[0].held = true;
    let ticket = cluster.start(0, put(&key, "v", None, None));
    cluster.live(&[&old, &new], 0, 0);
    cluster.pass(SECOND);
    assert_eq!((cluster.come([0]).0, cluster.come([1]).0), (1, 2));
    assert_eq!(cluster.progress[0].waiting.ops, 1);
    cluster.release(0);
    cluster.pass(SECOND);
    assert!(written(&cluster.replies[&ticket]));
    assert_eq!(cluster.come([0]).0, 2);
}

#[test]
fn a_read_of_the_older_version_is_waited_for() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.set(0, &key, "value");
    cluster.live(&[&old, &new], 0, 0);
    cluster.pass(SECOND);
    cluster.live(&[&old, &new], 0, 1);
    cluster.pass(10 * SECOND);
    cluster.nodes[1].down = true;
    cluster.nodes[2].down = true;
    let ticket = cluster.start(0, ClientOp::get(key.clone(), Consistency::All));
    cluster.live(&[&old, &new], 1, 1);
    assert_eq!((cluster.come([0]).2, cluster.come([3]).2), (1, 2));
    assert_eq!(cluster.progress[0].waiting.reads, 1);
    cluster.pass(7 * SECOND);
    assert!(cluster.replies.contains_key(&ticket));
    assert_eq!(cluster.come([0]).2, 2);
}

#[test]
fn a_tenure_ends_where_a_partition_is_gained_or_given_up_and_goes_on_elsewhere() {
    let (mut cluster, old, new) = joining(None);
    let (gone, stays) = (moved(&new, 1).remove(0), unmoved(&new));
    cluster.set(2, &gone, "a");
    cluster.set(2, &stays, "a");
    let before = (cluster.actor(2, &gone), cluster.actor(2, &stays));
    assert!(before.0.is_some() && before.1.is_some());
    cluster.live(&[&old, &new], 0, 0);
    assert_eq!((cluster.actor(2, &gone), cluster.actor(2, &stays)), before, "it is a home still");
    cluster.live(&[&new], 0, 0);
    assert_eq!((cluster.actor(2, &gone), cluster.actor(2, &stays)), (None, before.1));
    // What comes back is another tenure.
    let third = next(&new, 0..3);
    cluster.live(&[&new, &third], 1, 1);
    cluster.set(2, &gone, "b");
    assert_ne!(cluster.actor(2, &gone), before.0);

    let (mut mistaken, _, new) = joining(Some(Defect::KeepActorAfterMove));
    mistaken.set(2, &gone, "a");
    mistaken.live(&[&new], 0, 0);
    assert!(mistaken.actor(2, &gone).is_some(), "what the rule is for");
}

#[test]
fn what_was_given_up_is_found_again_after_a_restart() {
    let (mut cluster, _, new) = joining(None);
    let keys = moved(&new, 8);
    keys.iter().for_each(|key| drop(cluster.set(0, key, "value")));
    assert!(keys.iter().all(|key| cluster.stored(2, key).is_some()));
    cluster.live(&[&new], 0, 0);
    // Killed before anything was dropped; some trees were saved by then.
    cluster.kill(2);
    cluster.restart(2);
    cluster.pass(90 * SECOND);
    assert!(keys.iter().all(|key| cluster.stored(2, key).is_none()));
    let left = |key: &&(Space, Bytes)| key.0 == Space::Meta && key.1.starts_with(b"dirty/");
    let marks: Vec<_> = cluster.nodes[2].disk.keys().filter(left).collect();
    let moved: Vec<Partition> = keys.iter().map(|key| key.partition(64)).collect();
    assert!(marks.iter().all(|(_, key)| {
        let partition = u16::from_be_bytes([key[6], key[7]]);
        !moved.contains(&Partition(partition))
    }));
}

#[test]
fn a_node_that_is_no_member_drops_nothing() {
    let mut cluster = Cluster::of(4, Placement::found(members(0..4), 3, 64), None);
    let (old, new) = (cluster.placement.clone(), next(&cluster.placement, 0..3));
    let mut keys = (0..).map(|number| Key::new(format!("key-{number}")).unwrap());
    let key = keys.find(|key| homes_in(&old, key).contains(&3)).unwrap();
    cluster.set(0, &key, "value");
    cluster.live(&[&new], 0, 0);
    cluster.pass(60 * SECOND);
    assert!(cluster.stored(3, &key).is_some());
}

#[test]
fn a_lost_partition_is_rebuilt_from_the_homes_of_all_live_versions() {
    let (mut cluster, old, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.live(&[&old, &new], 0, 0);
    cluster.pass(SECOND);
    cluster.kill(3);
    cluster.input(0, Input::Lost(vec![key.partition(64)]));
    cluster.pass(10 * SECOND);
    assert_eq!(cluster.workers[0].stats().partitions_rebuilding, 1, "a new home is not merged");
    cluster.restart(3);
    cluster.pass(10 * SECOND);
    assert_eq!(cluster.workers[0].stats().partitions_rebuilding, 0);
}

/// Seed 1001173: what is dropped must not be taken for what is held.
#[test]
fn a_partition_that_comes_back_while_it_is_dropped_is_acknowledged_once_that_is_over() {
    let (mut cluster, _, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    cluster.set(0, &key, "value");
    cluster.live(&[&new], 0, 0);
    cluster.nodes[2].held = true;
    cluster.pass(60 * SECOND);
    let again = next(&new, 0..3);
    cluster.live(&[&new, &again], 0, 0);
    cluster.pass(SECOND);
    assert!(cluster.stored(2, &key).is_some(), "nothing is being dropped");
    assert_eq!(cluster.come(0..2).0, again.tag.number);
    assert_eq!(cluster.come([2]).0, new.tag.number, "its disk still shrinks");
    cluster.release(2);
    cluster.pass(SECOND);
    assert_eq!(cluster.come([2]).0, again.tag.number);
    cluster.live(&[&new, &again], 0, 1);
    cluster.pass(30 * SECOND);
    assert_eq!(cluster.come(0..4).1, again.tag.number);
    assert!(cluster.stored(2, &key).is_some(), "it was not brought back");
}

/// Seed 201199: the rebuilding went on for ever, fetching what a home that is none does not keep.
#[test]
fn what_is_lost_is_not_fetched_for_a_partition_that_was_given_up() {
    let (mut cluster, _, new) = joining(None);
    let key = moved(&new, 1).remove(0);
    (0..2).for_each(|node| cluster.plant(node, &key, "value"));
    cluster.nodes[2].refuses = true;
    cluster.input(2, Input::Lost(vec![key.partition(64)]));
    cluster.pass(10 * SECOND);
    assert!(cluster.workers[2].stats().sync_records > 0, "nothing was fetched");
    cluster.live(&[&new], 0, 0);
    cluster.nodes[2].refuses = false;
    cluster.pass(120 * SECOND);
    assert_eq!(cluster.workers[2].stats().partitions_rebuilding, 0);
    let before = cluster.workers[2].stats().sync_records;
    cluster.pass(1_200 * SECOND);
    assert_eq!(cluster.workers[2].stats().sync_records, before);
}
