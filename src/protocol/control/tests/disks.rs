//! Claims about disks that were emptied, put back or replaced.

use super::net::{World, address, name};
use super::ring::{add, settles};
use super::{FOUNDING_MS, founded};
use crate::protocol::control::admission::{ADMISSION_PREFIX, VOTE_KEY};
use crate::protocol::control::forget;
use crate::protocol::lost::LOST_PREFIX;
use crate::types::{NodeId, Wall};

/// A replaced disk is in its place within this: the old one was not heard for a while, and a few
/// attempts may cross.
const ADMITTED_MS: u64 = 20_000;

fn is_in_place(world: &World, index: usize) -> bool {
    let node = &world.nodes[index];
    let sees = |other: &super::net::Node| {
        other.view.as_ref().is_some_and(|view| view.ids[&node.name] == node.id)
    };
    node.view.is_some() && world.nodes.iter().filter(|n| n.control.is_some()).all(sees)
}

fn comes_back(world: &mut World, index: usize) {
    let took = world.run_until(ADMITTED_MS, |world| is_in_place(world, index));
    assert!(took.is_some(), "{:?}\n{:#?}", world.report(index).founding, world.nodes[index].log);
}

fn markers(world: &World, index: usize) -> usize {
    world.nodes[index].disk.keys().filter(|key| key.starts_with(LOST_PREFIX)).count()
}

fn wiped(world: &mut World, index: usize) -> NodeId {
    let old = world.nodes[index].id;
    world.kill(index);
    world.wipe(index);
    world.start(index);
    old
}

#[test]
fn a_wiped_member_comes_back_in_its_place_with_another_id_and_every_partition_marked() {
    for (seed, count) in [(1, 3), (2, 5)] {
        let mut world = founded(seed, count);
        world.run_ms(3_000);
        let placement = world.nodes[0].view.as_ref().unwrap().newest().tag();
        let old = wiped(&mut world, 1);
        comes_back(&mut world, 1);
        assert_eq!(markers(&world, 1), 64);
        for node in &world.nodes {
            let view = node.view.as_ref().unwrap();
            assert_eq!(view.newest().tag(), placement, "a replaced disk changes no placement");
            assert!(view.fenced.contains(&old));
            assert_eq!(node.stopped, None);
        }
    }
}

#[test]
fn workers_hear_of_the_cluster_only_when_the_markers_are_durable_and_the_disk_is_admitted() {
    let mut world = founded(3, 3);
    world.run_ms(3_000);
    world.nodes[1].persist_delay = 2_000_000;
    wiped(&mut world, 1);
    let asked = |world: &World| world.nodes[0].disk.contains_key(VOTE_KEY);
    let first = world.run_until(ADMITTED_MS, |w| asked(w) || markers(w, 1) > 0);
    assert!(first.is_some() && markers(&world, 1) == 64, "asked before its markers were durable");
    assert!(world.nodes[1].view.is_none());
    comes_back(&mut world, 1);
}

#[test]
fn a_founder_wiped_between_the_first_founding_and_the_last_comes_back() {
    let mut world = World::cluster(2, 3);
    world.start_all();
    // Node 2 founds late: node 0 has founded by then, and node 1 has lost its disk.
    world.nodes[2].persist_delay = 1_000_000;
    assert!(world.run_until(3_000, |w| w.nodes[0].view.is_some()).is_some());
    assert!(world.nodes[2].view.is_none());
    wiped(&mut world, 1);
    world.run_ms(FOUNDING_MS);
    comes_back(&mut world, 1);
    let (a, b) = (&world.nodes[0], &world.nodes[2]);
    assert_eq!(a.view.as_ref().unwrap().ids, b.view.as_ref().unwrap().ids);
}

#[test]
fn an_old_fenced_folder_is_refused_by_name_and_says_what_to_do() {
    for count in [3, 5] {
        let mut world = founded(4, count);
        world.run_ms(3_000);
        let snapshot = world.snapshot(1);
        let old = wiped(&mut world, 1);
        comes_back(&mut world, 1);
        let new = world.nodes[1].id;
        let founders: Vec<_> = (0..count).map(|i| name(&format!("node-{i}"))).collect();
        let seeds: Vec<_> = (0..count).map(address).collect();
        let back = world.add("node-1", "demo", &founders, &seeds);
        world.put_back(back, snapshot);
        world.nodes[back].id = old;
        world.start(back);
        assert!(world.run_until(10_000, |w| w.nodes[back].stopped.is_some()).is_some());
        let said = world.nodes[back].stopped.clone().unwrap();
        for part in ["node-1", &old.to_string(), &new.to_string(), "set its data folder aside"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        assert_eq!(world.nodes[1].stopped, None);
        let refused = world.report(0).strangers;
        assert!(refused.iter().any(|who| who.source.contains("node-1")), "{refused:?}");
    }
}

#[test]
fn an_id_that_lives_is_never_replaced_and_its_rival_stops() {
    let mut world = founded(5, 3);
    world.run_ms(3_000);
    let founders: Vec<_> = (0..3).map(|i| name(&format!("node-{i}"))).collect();
    let rival = world.add("node-1", "demo", &founders, &[address(0), address(2)]);
    world.start(rival);
    assert!(world.run_until(10_000, |w| w.nodes[rival].stopped.is_some()).is_some());
    let said = world.nodes[rival].stopped.clone().unwrap();
    assert!(said.contains("node-1 is the disk") && said.contains("two nodes claim one name"));
    world.run_ms(10_000);
    let id = world.nodes[1].id;
    for node in world.nodes.iter().take(3) {
        assert_eq!(node.stopped, None);
        assert_eq!(node.view.as_ref().unwrap().ids[&name("node-1")], id);
    }
}

#[test]
fn a_disk_that_one_member_hears_is_not_replaced_while_that_member_can_be_asked() {
    let mut world = founded(6, 5);
    world.run_ms(3_000);
    // Node 1 lives, and only node 0 hears it: a majority would agree.
    (2..5).for_each(|other| world.cut(1, other));
    world.run_ms(8_000);
    let founders: Vec<_> = (0..5).map(|i| name(&format!("node-{i}"))).collect();
    let rival = world.add("node-1", "demo", &founders, &[address(0), address(2), address(3)]);
    world.cut(1, rival);
    world.start(rival);
    world.run_ms(30_000);
    assert!(world.nodes[rival].view.is_none(), "two disks serve under one name");
    let id = world.nodes[1].id;
    for node in world.nodes.iter().take(5) {
        assert_eq!(node.stopped, None);
        assert_eq!(node.view.as_ref().unwrap().ids[&name("node-1")], id);
    }
}

#[test]
fn a_disk_replaced_by_a_majority_that_could_not_hear_it_ends_as_soon_as_it_is_told() {
    let mut world = founded(7, 5);
    world.run_ms(3_000);
    (0..5).filter(|other| *other != 1).for_each(|other| world.cut(1, other));
    world.run_ms(8_000);
    let founders: Vec<_> = (0..5).map(|i| name(&format!("node-{i}"))).collect();
    let rival = world.add("node-1", "demo", &founders, &[address(0), address(2), address(3)]);
    world.cut(1, rival);
    world.start(rival);
    let new = world.nodes[rival].id;
    let admitted = |w: &World| w.nodes[rival].view.is_some();
    assert!(world.run_until(ADMITTED_MS, admitted).is_some());
    assert_eq!(world.nodes[1].stopped, None);
    world.heal();
    assert!(world.run_until(10_000, |w| w.nodes[1].stopped.is_some()).is_some());
    assert!(world.nodes[1].stopped.as_ref().unwrap().contains("is fenced for good"));
    for index in [0, 2, 3, 4, rival] {
        assert_eq!(world.nodes[index].view.as_ref().unwrap().ids[&name("node-1")], new);
    }
}

#[test]
fn of_two_empty_disks_that_claim_one_name_one_is_admitted() {
    for seed in 10..20 {
        let mut world = founded(seed, 5);
        world.run_ms(3_000);
        wiped(&mut world, 1);
        let founders: Vec<_> = (0..5).map(|i| name(&format!("node-{i}"))).collect();
        let seeds: Vec<_> = (0..5).filter(|i| *i != 1).map(address).collect();
        let rival = world.add("node-1", "demo", &founders, &seeds);
        // Each reaches some of the members first.
        world.cut(0, rival);
        world.cut(1, 4);
        world.cut(1, rival);
        world.start(rival);
        world.run_ms(12_000);
        world.heal();
        world.run_ms(20_000);
        let ids = |index: usize| world.nodes[index].view.as_ref().map(|view| view.ids.clone());
        let agreed = ids(0).unwrap()[&name("node-1")];
        let rivals = [world.nodes[1].id, world.nodes[rival].id];
        assert!(rivals.contains(&agreed), "nobody was admitted");
        for index in [2, 3, 4] {
            assert_eq!(ids(index).unwrap()[&name("node-1")], agreed);
        }
        let serve = [1, rival].iter().filter(|i| world.nodes[**i].view.is_some()).count();
        assert_eq!(serve, 1, "seed {seed}: both serve, or none");
    }
}

#[test]
fn two_disks_lost_one_after_the_other_and_both_at_once_come_back() {
    let mut world = founded(30, 3);
    world.run_ms(3_000);
    wiped(&mut world, 1);
    comes_back(&mut world, 1);
    world.run_ms(5_000);
    wiped(&mut world, 2);
    comes_back(&mut world, 2);
    wiped(&mut world, 1);
    comes_back(&mut world, 1);

    let mut world = founded(31, 5);
    world.run_ms(3_000);
    wiped(&mut world, 1);
    wiped(&mut world, 3);
    comes_back(&mut world, 1);
    comes_back(&mut world, 3);
}

#[test]
fn a_majority_of_lost_disks_is_refused_with_what_an_operator_can_do() {
    let mut world = founded(32, 3);
    world.run_ms(3_000);
    wiped(&mut world, 1);
    wiped(&mut world, 2);
    world.run_ms(30_000);
    for index in [1, 2] {
        assert!(world.nodes[index].view.is_none() && world.nodes[index].stopped.is_none());
        let said = world.report(index).founding;
        for part in ["1 of 2 members", "too few members", "export", "node-"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
    assert!(world.nodes[0].view.is_some());
}

/// The process of one participant is killed at each step in turn, and started again.
#[test]
fn an_admission_survives_the_crash_of_each_participant_at_each_step() {
    for victim in 0..3 {
        for step in 0..40 {
            let mut world = founded(100 + step, 3);
            world.run_ms(3_000);
            let old = wiped(&mut world, 1);
            let asked = |world: &World| markers(world, 1) > 0;
            assert!(world.run_until(ADMITTED_MS, asked).is_some());
            // Votes are on their way once the old disk has been unheard for long enough.
            let voting = |world: &World| world.nodes[0].disk.contains_key(VOTE_KEY);
            assert!(world.run_until(ADMITTED_MS, voting).is_some());
            world.run_ms(step / 2);
            world.kill(victim);
            world.run_ms(step % 3 * 400);
            world.start(victim);
            comes_back(&mut world, 1);
            world.run_ms(5_000);
            let admissions = |index: usize| {
                let disk = &world.nodes[index].disk;
                let stored = disk.iter().filter(|(key, _)| key.starts_with(ADMISSION_PREFIX));
                stored.map(|(_, value)| value.clone()).collect::<Vec<_>>()
            };
            assert_eq!(admissions(0).len(), 1, "victim {victim}, step {step}");
            assert_eq!((admissions(0), admissions(0)), (admissions(1), admissions(2)));
            assert!(world.nodes.iter().all(|n| n.view.as_ref().unwrap().fenced.contains(&old)));
        }
    }
}

/// Its engine could not be trusted: what it begins with is written before it hears of the cluster.
#[test]
fn a_disk_that_began_anew_with_another_number_of_partitions_marks_all_that_the_ring_has() {
    for (seed, configured) in [(33, 16), (34, 128)] {
        let mut world = founded(seed, 3);
        let d = add(&mut world, "node-3");
        settles(&mut world, &[0, 1, 2, d]);
        let old = world.nodes[d].id;
        world.kill(d);
        world.wipe(d);
        let node = &mut world.nodes[d];
        node.config.partitions = configured;
        let begun = forget(&[], false, old, node.id, configured, Wall(1));
        node.disk = begun.into_iter().map(|it| (it.key, it.value.unwrap())).collect();
        world.start(d);
        comes_back(&mut world, d);
        assert_eq!(markers(&world, d), 64);
    }
}

#[test]
fn a_restored_snapshot_goes_on_as_another_disk_and_not_as_the_one_that_it_was() {
    let mut world = founded(20, 3);
    world.run_ms(3_000);
    let (old, snapshot) = (world.nodes[1].id, world.snapshot(1));
    (0..50).for_each(|_| world.write(1));
    world.run_ms(10_000);
    for turn in 1..=2 {
        world.kill(1);
        world.put_back(1, snapshot.clone());
        world.nodes[1].id = old;
        if turn == 2 {
            // The old folder is fenced by now: it can only be set aside.
            world.start(1);
            assert!(world.run_until(10_000, |w| w.nodes[1].stopped.is_some()).is_some());
            let said = world.nodes[1].stopped.clone().unwrap();
            return assert!(said.contains("is fenced for good"), "{said}");
        }
        world.start(1);
        let forgot = |world: &World| world.nodes[1].came_back.len() == 1;
        assert!(world.run_until(2_000, forgot).is_some(), "it was not told");
        comes_back(&mut world, 1);
        let node = &world.nodes[1];
        assert!(node.came_back[0].contains("has forgotten acknowledged writes"));
        assert_ne!(node.id, old);
        assert_eq!(markers(&world, 1), 64);
    }
}
