//! Claims about disks, processes and clocks that are not what they should be.

use super::net::{World, address, name};
use super::{FOUNDING_MS, founded};
use crate::protocol::control::peers::Challenge;
use crate::protocol::control::{ConnId, ControlError, ControlInput, MemberState};
use crate::types::{Boot, NodeId};

#[test]
fn a_process_on_a_copied_folder_is_refused_and_stops_and_the_first_lives_on() {
    for seed in 10..15 {
        let mut world = founded(seed, 3);
        world.run_ms(3_000);
        let founders: Vec<_> = (0..3).map(|i| name(&format!("node-{i}"))).collect();
        let copy = world.add("node-1", "demo", &founders, &[address(0), address(2)]);
        let original = &world.nodes[1];
        let (id, generation) = (original.id, original.generation);
        let (disk, commits) = (original.disk.clone(), original.commits);
        let node = &mut world.nodes[copy];
        (node.id, node.generation, node.disk, node.commits) = (id, generation, disk, commits);
        world.start(copy);
        world.run_ms(6_000);
        let stopped = world.nodes[copy].stopped.clone().expect("the copy stops");
        assert!(stopped.contains("another live process has the id"), "{stopped}");
        assert_eq!(world.nodes[1].stopped, None);
        world.nodes.pop();
        world.run_ms(15_000);
        assert!(world.all_alive(), "{:?}", world.states());
    }
}

/// Seed 25353: node 1 had answered that it lived, when another had asked for its place. Its machine died, its streams
/// stood still, and it was told to stop when it was started again.
#[test]
fn what_a_process_answered_before_it_died_does_not_make_its_next_start_a_copy() {
    for seed in 60..65 {
        let mut world = founded(seed, 3);
        world.run_ms(5_000);
        let id = world.nodes[1].id;
        world.power_off(1);
        for other in [0, 2] {
            let control = world.nodes[other].control.as_mut().unwrap();
            let peer = control.peers.get_mut(id).filter(|peer| peer.is_live()).unwrap();
            let since = peer.heard.unwrap();
            peer.challenge = Some(Challenge { since, by: Boot(7), answered: true });
        }
        world.start(1);
        world.run_ms(8_000);
        assert_eq!(world.nodes[1].stopped, None);
        for other in [0, 2] {
            let control = world.nodes[other].control.as_ref().unwrap();
            let boot = world.nodes[1].control.as_ref().unwrap().identity.boot;
            let peer = control.peers.get(id).filter(|peer| peer.is_live()).unwrap();
            assert_eq!(peer.record.boot, boot, "it has its place in the others' eyes again");
        }
    }
}

#[test]
fn an_old_copy_that_calls_its_original_stops_and_the_original_lives_on() {
    for seed in 40..45 {
        let mut world = founded(seed, 3);
        world.run_ms(3_000);
        let original = &world.nodes[1];
        let (id, generation) = (original.id, original.generation);
        let (disk, commits) = (original.disk.clone(), original.commits);
        for _ in 0..3 {
            world.kill(1);
            world.start(1);
            world.run_ms(2_000);
        }
        let founders: Vec<_> = (0..3).map(|i| name(&format!("node-{i}"))).collect();
        let copy = world.add("node-1", "demo", &founders, &[address(0), address(1), address(2)]);
        let node = &mut world.nodes[copy];
        (node.id, node.generation, node.disk, node.commits) = (id, generation, disk, commits);
        // The original calls the copy, too, as nodes do that find each other by one DNS name.
        let seeds = vec![address(0), address(2), address(copy)];
        world.step(1, ControlInput::Seeds(seeds));
        world.start(copy);
        world.run_ms(6_000);
        assert!(world.nodes[copy].stopped.is_some(), "the copy stops");
        assert_eq!(world.nodes[1].stopped, None);
    }
}

#[test]
fn a_node_from_another_cluster_of_the_same_names_stops_and_no_other_node_does() {
    for seed in 50..55 {
        let mut elsewhere = founded(seed + 100, 3);
        elsewhere.run_ms(3_000);
        let mut world = founded(seed, 3);
        world.run_ms(3_000);
        world.kill(1);
        let (node, brought) = (&mut world.nodes[1], &elsewhere.nodes[1]);
        let own = (node.id, node.generation, node.disk.clone(), node.commits);
        (node.id, node.generation) = (brought.id, brought.generation);
        (node.disk, node.commits) = (brought.disk.clone(), brought.commits);
        world.start(1);
        world.run_ms(5_000);
        let stopped = world.nodes[1].stopped.clone().expect("it does not belong here");
        assert!(stopped.contains("node-1 is the disk"), "{stopped}");
        assert_eq!((&world.nodes[0].stopped, &world.nodes[2].stopped), (&None, &None));
        let node = &mut world.nodes[1];
        (node.id, node.generation, node.disk, node.commits) = own;
        world.start(1);
        assert!(world.run_until(10_000, World::all_alive).is_some(), "{:?}", world.states());
    }
}

#[test]
fn nobody_who_merely_calls_can_make_a_node_stop() {
    let mut world = founded(60, 3);
    for reason in ["other-disk: go away", "duplicate-id: go away"] {
        for conn in 1_000_000..1_000_010 {
            world.step(0, ControlInput::Rejected(ConnId(conn), reason.to_owned()));
        }
    }
    assert_eq!(world.nodes[0].stopped, None);
    assert!(world.report(0).strangers_refused >= 20);
}

#[test]
fn a_node_back_after_a_power_loss_that_nobody_noticed_is_let_in_again() {
    let mut world = founded(16, 3);
    world.run_ms(3_000);
    world.power_off(1);
    world.start(1);
    // The others still have its old streams: the old process is asked, and says nothing.
    let back = world.run_until(6_000, |w| w.report(0).members[1].generation == 2);
    assert!(back.is_some());
    assert_eq!(world.nodes[1].stopped, None);
    assert!(world.run_until(10_000, World::all_alive).is_some(), "{:?}", world.states());
}

#[test]
fn an_honest_restart_is_no_amnesia_however_often() {
    let mut world = founded(21, 3);
    for _ in 0..5 {
        (0..50).for_each(|_| world.write(1));
        world.run_ms(3_000);
        world.kill(1);
        world.start(1);
        world.run_ms(3_000);
        assert_eq!(world.nodes[1].stopped, None);
        assert!(world.nodes[1].conditions.confirmed);
    }
}

#[test]
fn a_folder_of_another_name_or_cluster_is_refused_at_the_start() {
    let mut world = founded(22, 3);
    world.run_ms(1_000);
    world.kill(1);
    let config = world.nodes[1].config.clone();
    world.nodes[1].config.cluster_name = "other".to_owned();
    world.start(1);
    assert!(matches!(world.nodes[1].error, Some(ControlError::OtherCluster(_))));
    world.nodes[1].config = config;
    world.nodes[1].name = name("node-9");
    world.start(1);
    assert!(matches!(world.nodes[1].error, Some(ControlError::OtherNode { .. })));
    world.nodes[1].name = name("node-1");
    let key = bytes::Bytes::from_static(b"control/founded");
    world.nodes[1].disk.insert(key, bytes::Bytes::from_static(b"rubbish"));
    world.start(1);
    assert!(matches!(world.nodes[1].error, Some(ControlError::Damaged(_))));
}

#[test]
fn a_node_that_stood_still_accuses_nobody_and_comes_back() {
    let mut world = founded(23, 5);
    world.run_ms(3_000);
    world.nodes[2].paused = true;
    let down = world.run_until(12_000, |w| {
        w.states().iter().all(|&(o, m, s)| o == 2 || m != 2 || s == MemberState::Down)
    });
    assert!(down.is_some(), "{:?}", world.states());
    world.nodes[2].paused = false;
    for _ in 0..40 {
        world.run_ms(200);
        let states = world.states();
        let accused = states.iter().find(|(_, m, s)| *m != 2 && *s != MemberState::Alive);
        assert_eq!(accused, None);
    }
    assert!(world.run_until(6_000, World::all_alive).is_some(), "{:?}", world.states());
    assert!(world.report(2).traffic.stood_still_ms > 5_000);
}

#[test]
fn a_frozen_machine_becomes_unreachable_though_its_streams_stand() {
    let mut world = founded(24, 3);
    world.run_ms(3_000);
    let id = world.nodes[1].id;
    world.nodes[1].paused = true;
    let gone = |w: &World| !w.nodes[0].reachable[&id] && !w.nodes[2].reachable[&id];
    assert!(world.run_until(15_000, gone).is_some(), "{:?}", world.states());
    world.nodes[1].paused = false;
    let back = |w: &World| w.nodes[0].reachable[&id] && w.nodes[2].reachable[&id];
    assert!(world.run_until(5_000, back).is_some());
}

#[test]
fn a_node_that_workers_find_silent_is_unreachable_until_it_answers() {
    let mut world = founded(25, 3);
    let id = world.nodes[1].id;
    world.step(0, ControlInput::Answering(id, false));
    assert!(!world.nodes[0].reachable[&id]);
    world.step(0, ControlInput::Answering(id, true));
    assert!(world.nodes[0].reachable[&id]);
    world.step(0, ControlInput::Answering(NodeId(77), false));
}

#[test]
fn a_clock_far_from_a_majority_is_suspect_and_the_majority_is_not() {
    let mut world = World::cluster(26, 3);
    world.nodes[1].wall_offset_ms = -100_000;
    world.start_all();
    world.run_ms(10_000);
    let suspect: Vec<bool> = world.nodes.iter().map(|node| node.conditions.clock_suspect).collect();
    assert_eq!(suspect, [false, true, false]);
    world.nodes[1].wall_offset_ms = 0;
    world.run_ms(10_000);
    assert!(!world.nodes[1].conditions.clock_suspect);
}

#[test]
fn a_partition_shows_as_a_difference_of_views() {
    let mut world = founded(27, 4);
    world.run_ms(3_000);
    world.cut(0, 1);
    // Gossip goes round the cut: nobody is dead, but two nodes cannot reach each other.
    world.run_ms(20_000);
    assert!(world.all_alive(), "{:?}", world.states());
    let differences = world.report(2).differences;
    let named: Vec<&str> = differences.iter().map(|d| d.member.as_str()).collect();
    assert_eq!(named, {
        let mut both = vec![(world.nodes[0].id, "node-0"), (world.nodes[1].id, "node-1")];
        both.sort();
        both.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    });
    let says = &differences[0].says;
    assert_eq!(says.len(), 3, "everybody but itself: {says:?}");
    assert_eq!(says.iter().filter(|s| !s.reachable).count(), 1);
    assert!(says.iter().all(|s| s.age_ms < 20_000));
    world.heal();
    world.run_ms(10_000);
    assert_eq!(world.report(2).differences, []);
}

#[test]
fn draining_says_goodbye() {
    let mut world = founded(28, 3);
    world.run_ms(2_000);
    world.step(1, ControlInput::Draining);
    assert!(world.nodes[1].conditions.draining);
    let not_ready = world.nodes[1].control.as_ref().unwrap().not_ready();
    assert_eq!(not_ready.as_deref(), Some("it is stopping"));
    let gone =
        |w: &World| w.states().iter().all(|&(o, m, s)| o == 1 || m != 1 || s == MemberState::Down);
    assert!(world.run_until(2_000, gone).is_some(), "{:?}", world.states());
    world.run_ms(5_000);
    world.kill(1);
    world.start(1);
    assert!(world.run_until(FOUNDING_MS, World::all_alive).is_some(), "{:?}", world.states());
}

#[test]
fn what_a_forgetful_process_announces_before_it_is_judged_washes_no_evidence_away() {
    let mut world = founded(29, 3);
    world.run_ms(3_000);
    let snapshot = world.snapshot(1);
    (0..50).for_each(|_| world.write(1));
    world.run_ms(10_000);
    let (id, number) = (world.nodes[1].id, world.nodes[1].announced);
    world.kill(1);
    world.cut(1, 2);
    world.run_ms(1_000);
    world.put_back(1, snapshot);
    world.start(1);
    assert!(world.run_until(1_000, |w| w.nodes[0].streams.contains_key(&id)).is_some());
    // The stream breaks before the judgement arrives, and after an announcement did.
    world.cut(0, 1);
    world.step(0, ControlInput::Synced(id, crate::types::CommitNumber(number + 1)));
    world.run_ms(2_000);
    assert_eq!(world.nodes[1].stopped, None, "nobody has told it yet");
    world.cuts.remove(&(0, 1));
    world.run_ms(2_000);
    assert_eq!(world.nodes[1].came_back.len(), 1);
}

#[test]
fn a_copy_that_got_a_word_in_behind_a_partition_ends_the_original_s_disk_too() {
    let mut world = founded(31, 3);
    world.run_ms(3_000);
    world.cut(1, 2);
    let founders: Vec<_> = (0..3).map(|i| name(&format!("node-{i}"))).collect();
    let copy = world.add("node-1", "demo", &founders, &[address(2)]);
    let original = &world.nodes[1];
    let (id, generation) = (original.id, original.generation);
    let (disk, commits) = (original.disk.clone(), original.commits);
    let node = &mut world.nodes[copy];
    (node.id, node.generation, node.disk, node.commits) = (id, generation, disk, commits);
    world.cut(0, copy);
    world.cut(1, copy);
    world.start(copy);
    world.run_ms(5_000);
    assert_eq!(world.nodes[copy].stopped, None, "node 2 has not seen the original");
    world.heal();
    world.run_ms(40_000);
    // What the copy acknowledged under this id, the original does not hold, nor the other way round:
    // whoever learns so goes on as another disk, and one of the two has the place in the end.
    let forgot = |i: &usize| world.nodes[*i].came_back.iter().any(|why| why.contains("forgotten"));
    assert!([1, copy].iter().any(forgot), "nobody found out");
    let serves = |index: usize| {
        let node = &world.nodes[index];
        node.control.is_some() && node.view.as_ref().is_some_and(|v| v.ids[&node.name] == node.id)
    };
    assert_eq!([1, copy].iter().filter(|i| serves(**i)).count(), 1);
    assert!([1, copy].iter().any(|i| world.nodes[*i].stopped.is_some()), "both go on");
}
