//! Claims about control cores, in a small deterministic network.

mod crowd;
mod disks;
mod net;
mod orders;
mod ring;
mod robust;
mod trouble;

use self::net::{World, address, name};
use super::MemberState;
use crate::protocol::step::Conditions;
use crate::types::{NodeId, Partition};

const FOUNDING_MS: u64 = 5_000;

fn founded(seed: u64, count: usize) -> World {
    let mut world = World::cluster(seed, count);
    world.start_all();
    let took = world.run_until(FOUNDING_MS, |w| w.all_founded() && w.all_alive());
    assert!(took.is_some(), "{:?}", world.report(0));
    world
}

#[test]
fn three_and_five_founders_found_one_cluster_unanimously() {
    for count in [1, 2, 3, 5] {
        for seed in 0..10 {
            let world = founded(seed, count);
            let first = world.nodes[0].view.clone().unwrap();
            for node in &world.nodes {
                let view = node.view.as_ref().unwrap();
                assert_eq!(
                    (view.cluster, view.newest().tag()),
                    (first.cluster, first.newest().tag())
                );
                assert_eq!(view.ids, first.ids);
                assert_eq!(view.ids[&node.name], node.id);
                assert_eq!(view.newest().my_member(), view.newest().placement.member(&node.name));
                assert_eq!(view.newest().homes(Partition(0)).len(), count.min(3));
                assert_eq!(node.control.as_ref().unwrap().not_ready(), None);
                assert_eq!(node.persists, 2, "one promise, one founding");
            }
        }
    }
}

#[test]
fn founding_survives_loss_and_duplication_of_datagrams() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        (world.loss, world.duplication) = (0.3, 0.5);
        world.start_all();
        assert!(world.run_until(10_000, |w| w.all_founded() && w.all_alive()).is_some());
    }
}

#[test]
fn nothing_is_founded_while_a_founder_is_missing() {
    let mut world = World::cluster(1, 3);
    world.start(0);
    world.start(1);
    world.run_ms(60_000);
    assert!(world.nodes.iter().all(|node| node.view.is_none() && node.disk.len() < 3));
    let waits = world.nodes[0].control.as_ref().unwrap().not_ready();
    assert_eq!(waits.as_deref(), Some("waits for founders node-2"));
    assert_eq!(world.report(0).cluster_id, "");
    world.start(2);
    assert!(world.run_until(FOUNDING_MS, World::all_founded).is_some());
}

#[test]
fn a_founder_with_an_emptied_disk_promises_the_same_again() {
    let mut world = World::cluster(2, 3);
    world.nodes[1].persist_delay = 3_000_000;
    world.start_all();
    let promised = |w: &World| w.nodes[0].disk.contains_key(&b"control/promise"[..]);
    assert!(world.run_until(2_000, promised).is_some());
    let old = world.nodes[0].id;
    world.kill(0);
    world.wipe(0);
    world.nodes[1].persist_delay = 2_000;
    world.start(0);
    assert!(world.nodes.iter().all(|node| node.view.is_none()));
    assert!(world.run_until(10_000, World::all_founded).is_some(), "{:?}", world.report(0));
    let view = world.nodes[2].view.clone().unwrap();
    assert_ne!(view.ids[&name("node-0")], old);
    assert_eq!(view.ids[&name("node-0")], world.nodes[0].id);
    let expected = founded(9, 3).nodes[0].view.clone().unwrap();
    assert_eq!(view.cluster, expected.cluster, "the disks are no part of the cluster's id");
}

#[test]
fn founders_whose_configurations_differ_wait_and_say_who() {
    let mut world = World::cluster(3, 3);
    world.nodes[2].config.replicas = 2;
    world.start_all();
    world.run_ms(20_000);
    assert!(world.nodes.iter().all(|node| node.view.is_none()));
    let named = |line: &String| line.contains("node-2 promises another placement");
    assert_eq!(world.nodes[0].log.iter().filter(|line| named(line)).count(), 1);
    let waits = world.nodes[0].control.as_ref().unwrap().not_ready().unwrap();
    assert!(waits.contains("node-2") && !waits.contains("node-1"), "{waits}");
    // Set right, all is well.
    world.kill(2);
    world.nodes[2].config.replicas = 3;
    world.start(2);
    assert!(world.run_until(FOUNDING_MS, World::all_founded).is_some());
}

#[test]
fn a_restart_with_durable_state_serves_at_once_with_all_others_down() {
    let mut world = founded(4, 3);
    let cluster = world.nodes[0].view.as_ref().unwrap().cluster;
    world.run_ms(3_000);
    (0..3).for_each(|index| world.kill(index));
    world.start(1);
    let view = world.nodes[1].view.as_ref().expect("a view with the first step");
    assert_eq!(view.cluster, cluster);
    assert_eq!(view.ids.len(), 3);
    assert_eq!(world.nodes[1].connect.len(), 2, "it knows whom to dial");
    world.run_ms(5_000);
    assert_eq!(world.nodes[1].conditions, Conditions::default(), "not confirmed by a majority");
    world.start(0);
    let confirmed = |w: &World| w.nodes[1].conditions.confirmed;
    assert!(world.run_until(2_000, confirmed).is_some());
}

#[test]
fn a_joiner_adopts_the_cluster_of_its_name_and_is_no_home() {
    let mut world = founded(5, 3);
    let founders: Vec<_> = (0..3).map(|i| name(&format!("node-{i}"))).collect();
    let joiner = world.add("extra", "demo", &founders, &[address(1)]);
    world.start(joiner);
    assert!(world.run_until(FOUNDING_MS, |w| w.all_founded() && w.all_alive()).is_some());
    let view = world.nodes[joiner].view.as_ref().unwrap();
    assert_eq!(view.newest().my_member(), None);
    assert_eq!(view.newest().placement.members.len(), 3);
    world.run_ms(5_000);
    let id = world.nodes[joiner].id;
    assert_eq!(world.nodes[0].view.as_ref().unwrap().name_of(id), Some(&name("extra")));
}

#[test]
fn clusters_of_different_names_never_merge() {
    let mut world = World::new(6);
    let seeds: Vec<_> = (0..6).map(address).collect();
    for cluster in ["red", "blue"] {
        let founders: Vec<_> = (0..3).map(|i| name(&format!("{cluster}-{i}"))).collect();
        for i in 0..3 {
            world.add(&format!("{cluster}-{i}"), cluster, &founders, &seeds);
        }
    }
    world.start_all();
    world.run_ms(30_000);
    assert!(world.all_founded());
    for (index, node) in world.nodes.iter().enumerate() {
        assert_eq!(node.view.as_ref().unwrap().ids.len(), 3);
        let report = world.report(index);
        assert!(report.members.iter().all(|m| m.name[..3] == node.name.as_str()[..3]));
        assert!(report.strangers_refused > 0 && report.strangers.len() <= 9, "{report:?}");
        let lines = node.log.iter().filter(|line| line.starts_with("refused")).count();
        assert!((1..=9).contains(&lines), "each stranger is named once: {:?}", node.log);
    }
}

#[test]
fn two_clusters_of_one_name_and_different_ids_never_merge() {
    let mut world = World::new(7);
    let seeds: Vec<_> = (0..6).map(address).collect();
    for group in ["a", "b"] {
        let founders: Vec<_> = (0..3).map(|i| name(&format!("{group}-{i}"))).collect();
        for i in 0..3 {
            world.add(&format!("{group}-{i}"), "demo", &founders, &seeds);
        }
    }
    (0..3).for_each(|a| (3..6).for_each(|b| world.cut(a, b)));
    world.start_all();
    assert!(world.run_until(FOUNDING_MS, World::all_founded).is_some());
    world.heal();
    world.run_ms(30_000);
    let clusters: Vec<_> = world.nodes.iter().map(|n| n.view.as_ref().unwrap().cluster).collect();
    assert!(clusters[..3].iter().all(|c| *c == clusters[0]));
    assert!(clusters[3..].iter().all(|c| *c == clusters[3] && *c != clusters[0]));
    for (index, node) in world.nodes.iter().enumerate() {
        assert_eq!(node.view.as_ref().unwrap().ids.len(), 3);
        assert_eq!(world.report(index).members.len(), 3);
    }
}

#[test]
fn a_broken_stream_makes_a_node_unreachable_at_once_and_gossip_follows_within_8_s() {
    for (seed, count) in [(8, 3), (9, 5), (10, 5), (11, 10)] {
        let mut world = founded(seed, count);
        world.run_ms(5_000);
        let id = world.nodes[1].id;
        world.kill(1);
        let unreachable = |w: &World| {
            let living = w.nodes.iter().filter(|node| node.control.is_some());
            living.map(|node| node.reachable[&id]).all(|up| !up)
        };
        assert!(world.run_until(200, unreachable).is_some(), "within 200 ms");
        let took = world.run_until(8_000, |w| w.all_say(1, MemberState::Down));
        assert!(took.is_some(), "{:?}", world.states());
        world.start(1);
        let back = world.run_until(3_000, |w| w.all_say(1, MemberState::Alive) && w.all_alive());
        assert!(back.is_some(), "{:?}", world.states());
        assert!(world.nodes[0].reachable[&id]);
        let report = world.report(0);
        let member = report.members.iter().find(|m| m.name == "node-1").unwrap();
        assert_eq!(member.generation, 2);
        world.run_ms(4_000);
        assert_eq!(world.report(0).differences, [], "all views agree again");
    }
}

#[test]
fn a_cluster_cut_to_single_nodes_heals_by_itself() {
    for seed in 20..25 {
        let mut world = founded(seed, 5);
        world.run_ms(3_000);
        world.isolate_all();
        let down = |w: &World| w.states().iter().all(|&(.., state)| state == MemberState::Down);
        assert!(world.run_until(60_000, down).is_some(), "{:?}", world.states());
        world.run_ms(60_000);
        world.heal();
        let took = world.run_until(20_000, World::all_alive);
        assert!(took.is_some(), "{:?}", world.states());
        world.run_ms(10_000);
        assert!(world.all_alive(), "and stays so: {:?}", world.states());
        let up = |node: &net::Node| node.reachable.values().all(|&up| up);
        assert!(world.nodes.iter().all(up));
    }
}

#[test]
fn the_same_seed_gives_the_same_effects() {
    let run = |seed| {
        let mut world = World::cluster(seed, 5);
        (world.loss, world.duplication) = (0.1, 0.1);
        world.start_all();
        world.run_ms(10_000);
        world.kill(2);
        world.run_ms(10_000);
        world.start(2);
        world.run_ms(10_000);
        world.trace
    };
    assert_eq!(run(30), run(30));
    assert_ne!(run(30), run(31));
}

#[test]
fn an_idle_cluster_writes_nothing_and_says_little() {
    let mut world = founded(40, 3);
    world.write(0);
    world.run_ms(20_000);
    let marks = world.nodes[1].disk.keys().filter(|k| k.starts_with(b"control/mark/")).count();
    assert_eq!(marks, 2, "what peers have announced is kept");
    let before: Vec<u64> = world.nodes.iter().map(|n| n.notes + n.persists).collect();
    let said = world.report(0).traffic;
    world.run_ms(60_000);
    let after: Vec<u64> = world.nodes.iter().map(|n| n.notes + n.persists).collect();
    assert_eq!(before, after, "nobody is kept awake by notes of notes");
    let now = world.report(0).traffic;
    assert!(now.datagrams_out - said.datagrams_out < 60 * 6, "{now:?}");
    assert!(now.messages_out - said.messages_out < 60 * 4, "{now:?}");
}

#[test]
fn what_a_peer_announced_is_durable_within_a_second() {
    let mut world = founded(41, 3);
    world.run_ms(5_000);
    world.write(0);
    let number = world.nodes[0].announced;
    let id = world.nodes[0].id;
    // Every message carries the number; here, one is given directly.
    world.step(1, super::ControlInput::Synced(id, crate::types::CommitNumber(number)));
    let kept = |w: &World| {
        let key = [b"control/mark/".as_slice(), &id.0.to_be_bytes()].concat();
        let mark = w.nodes[1].disk.get(key.as_slice()).map(|mark| mark[16..24].to_vec());
        mark == Some(number.to_le_bytes().to_vec())
    };
    assert!(world.run_until(1_000, kept).is_some());
    let notes = world.nodes[1].notes;
    for _ in 0..100 {
        world.write(0);
        let number = crate::types::CommitNumber(world.nodes[0].announced);
        world.step(1, super::ControlInput::Synced(NodeId(id.0), number));
        world.run_ms(20);
    }
    assert!(world.nodes[1].notes - notes <= 5, "2 s of writes are at most 5 notes");
}

#[test]
fn a_killed_process_among_ten_is_known_dead_in_5_s_however_probes_fall() {
    for seed in 50..54 {
        let mut world = founded(seed, 10);
        world.run_ms(5_000);
        world.kill(7);
        let took = world.run_until(5_000, |w| w.all_say(7, MemberState::Down));
        assert!(took.is_some(), "{:?}", world.states());
    }
}
