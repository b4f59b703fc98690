//! Writes that another node coordinates.

use super::*;

#[test]
fn a_passed_write_that_the_network_duplicates_runs_once() {
    let mut cluster = Cluster::new(5, 3);
    let key = key("k");
    let homes = cluster.homes(&key);
    let other = (0..5).find(|node| !homes.contains(node)).unwrap();
    cluster.set(other, &key, "first");
    let passed = cluster.sent.iter().find(|sent| matches!(sent.2, DataMessage::Pass(_))).unwrap();
    let (from, to, message) = passed.clone();
    cluster.set(homes[0], &key, "second");
    cluster.messages.push_back((from, to, key.partition(64), message));
    cluster.deliver();
    assert_eq!(cluster.get(homes[0], &key, Consistency::All), ["second"]);
}

#[test]
fn a_passed_write_of_a_dead_session_or_past_its_deadline_does_not_run() {
    let mut cluster = Cluster::new(5, 3);
    let key = key("k");
    let homes = cluster.homes(&key);
    let other = (0..5).find(|node| !homes.contains(node)).unwrap();
    cluster.set(other, &key, "first");
    let passed = cluster.sent.iter().find_map(|(from, to, message)| match message {
        DataMessage::Pass(pass) => Some((*from, *to, pass.clone())),
        _ => None,
    });
    let (from, to, pass) = passed.unwrap();
    let stale = Pass { session: pass.session ^ 1, sequence: pass.sequence + 1, ..pass.clone() };
    let late = Pass { sequence: pass.sequence + 2, deadline: Mono(0), ..pass };
    for pass in [stale, late] {
        cluster.messages.push_back((from, to, key.partition(64), DataMessage::Pass(pass)));
    }
    cluster.set(homes[0], &key, "second");
    assert_eq!(cluster.get(homes[0], &key, Consistency::All), ["second"]);
}

#[test]
fn a_session_for_an_earlier_process_is_ignored() {
    let mut cluster = Cluster::new(5, 3);
    let session = Session { boot: Boot(77), nonce: 1, now: Mono(0) };
    cluster.messages.push_back((0, id(1), Partition(0), DataMessage::Session(session)));
    cluster.deliver();
    assert!(cluster.sent.iter().all(|sent| !matches!(sent.2, DataMessage::Pass(_))));
}

/// A node that is no home of a key has passed a write of it to a home, whose answer waits for the disks. Then that home
/// is silent: three reads that it is asked by the same node find no answer in time.
fn passed_to_a_silent_home() -> (Cluster, Ticket, usize) {
    let mut cluster = Cluster::new(5, 3);
    let key = key("k");
    let homes = cluster.homes(&key);
    let other = (0..5).find(|node| !homes.contains(node)).unwrap();
    homes.iter().for_each(|&home| cluster.nodes[home].held = true);
    let ticket = cluster.start(other, put(&key, "v", None, None));
    let passed = cluster.sent.iter().find(|sent| matches!(sent.2, DataMessage::Pass(_))).unwrap();
    let home = usize::try_from(passed.1.0).unwrap() - 1;
    cluster.nodes[home].down = true;
    for _ in 0..3 {
        cluster.start(other, ClientOp::get(key.clone(), Consistency::All));
    }
    cluster.pass(400_000);
    assert!(!cluster.workers[other].peers.reachable(id(home)), "three answers are late");
    (cluster, ticket, home)
}

#[test]
fn what_was_passed_to_a_home_that_stands_still_for_half_a_second_is_answered() {
    let (mut cluster, ticket, home) = passed_to_a_silent_home();
    assert!(!cluster.replies.contains_key(&ticket), "{:?}", cluster.replies[&ticket]);
    cluster.nodes[home].down = false;
    cluster.homes(&key("k")).into_iter().for_each(|home| cluster.release(home));
    assert!(matches!(cluster.replies[&ticket], Outcome::Written(_)));
}

#[test]
fn what_was_passed_to_a_home_that_stays_silent_ends_after_a_second_and_if_it_is_gone_at_once() {
    let silent = |cluster: &Cluster, ticket| match &cluster.replies[&ticket] {
        Outcome::Failed(failure) => failure.reason == Reason::CoordinatorSilent,
        other => panic!("{other:?}"),
    };
    let (mut cluster, ticket, _) = passed_to_a_silent_home();
    cluster.pass(700_000);
    assert!(silent(&cluster, ticket));
    cluster.pass(20 * SECOND);
    cluster.assert_nothing_asked();

    let (mut cluster, ticket, home) = passed_to_a_silent_home();
    cluster.kill(home);
    assert!(silent(&cluster, ticket));
}

#[test]
fn a_passed_write_whose_answer_is_lost_ends_at_its_deadline_and_leaves_nothing_behind() {
    let mut cluster = Cluster::new(5, 3);
    let key = key("k");
    let homes = cluster.homes(&key);
    let other = (0..5).find(|node| !homes.contains(node)).unwrap();
    homes.iter().for_each(|&home| cluster.nodes[home].held = true);
    let ticket = cluster.start(other, put(&key, "v", None, None));
    homes.iter().for_each(|&home| cluster.nodes[home].down = true);
    cluster.pass(4 * SECOND);
    assert!(!cluster.replies.contains_key(&ticket), "nothing else was asked of it");
    cluster.pass(2 * SECOND);
    assert!(matches!(cluster.replies[&ticket], Outcome::Failed(_)));
    assert!(cluster.workers[other].calls.is_empty());
}

#[test]
fn nothing_is_passed_to_a_home_that_went_away_while_another_was_asked_for_a_session() {
    let mut cluster = Cluster::new(5, 3);
    let key = key("k");
    let homes = cluster.homes(&key);
    let other = (0..5).find(|node| !homes.contains(node)).unwrap();
    homes.iter().for_each(|&home| cluster.nodes[home].down = true);
    let ticket = cluster.start(other, put(&key, "v", None, None));
    let asked = cluster.sent.iter().find(|sent| matches!(sent.2, DataMessage::OpenSession(_)));
    let asked = usize::try_from(asked.unwrap().1.0).unwrap() - 1;
    let rest: Vec<usize> = homes.iter().copied().filter(|&home| home != asked).collect();
    cluster.kill(rest[0]);
    cluster.nodes[rest[1]].down = false;
    cluster.pass(600_000);
    let passed = cluster.sent.iter().filter(|sent| matches!(sent.2, DataMessage::Pass(_)));
    assert_eq!(passed.map(|sent| sent.1).collect::<Vec<_>>(), [id(rest[1])]);
    assert!(matches!(cluster.replies[&ticket], Outcome::Written(_)));
}

#[test]
fn a_peer_that_only_the_control_core_takes_for_silent_is_found_to_answer() {
    let mut cluster = Cluster::new(3, 3);
    cluster.input(0, Input::Reachability(id(1), Reach::Silent));
    assert!(!cluster.workers[0].peers.reachable(id(1)));
    cluster.found.clear();
    cluster.pass(600_000);
    assert_eq!(cluster.found, [(0, id(1), true)]);
}
