//! Writes that another node coordinates.

use super::*;

#[test]
fn a_passed_write_that_the_network_duplicates_runs_once() {
    let mut cluster = Cluster::new(5, 3);
    let key = key("k");
    let homes = cluster.homes(&key);
    let other = cluster.stranger(&key);
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
    let other = cluster.stranger(&key);
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

/// A write that a node which is no home has passed to one. No disk carries out what it is told.
struct Passed {
    cluster: Cluster,
    ticket: Ticket,
    gateway: usize,
    home: usize,
}

impl Passed {
    fn within(micros: u64) -> Self {
        let mut cluster = Cluster::new(5, 3);
        let key = key("k");
        let gateway = cluster.stranger(&key);
        cluster.nodes.iter_mut().for_each(|node| node.held = true);
        let ticket = cluster.start_within(gateway, put(&key, "v", None, None), micros);
        let passed = cluster.sent.iter().find(|sent| matches!(sent.2, DataMessage::Pass(_)));
        let home = usize::try_from(passed.unwrap().1.0).unwrap() - 1;
        Self { cluster, ticket, gateway, home }
    }

    /// The home stands still after a while, and the gateway finds it silent: three reads that it asks it for are not
    /// answered in time.
    fn silent_within(micros: u64) -> Self {
        let mut passed = Self::within(micros);
        passed.cluster.pass(600_000);
        passed.cluster.nodes[passed.home].down = true;
        for _ in 0..3 {
            let read = ClientOp::get(key("k"), Consistency::All);
            passed.cluster.start(passed.gateway, read);
        }
        passed.cluster.pass(250_000);
        let gateway = &passed.cluster.workers[passed.gateway];
        assert!(!gateway.peers.reachable(id(passed.home)), "three answers are late");
        passed
    }

    fn is_waited_for(&self) -> bool {
        !self.cluster.replies.contains_key(&self.ticket)
    }

    fn is_unknown(&self) -> bool {
        let Some(Outcome::Failed(failure)) = self.cluster.replies.get(&self.ticket) else {
            return false;
        };
        failure.reason == Reason::CoordinatorSilent && failure.maybe_applied
    }

    /// The disks carry out everything.
    fn ends_written(mut self) -> bool {
        (0..5).for_each(|node| self.cluster.release(node));
        matches!(self.cluster.replies.get(&self.ticket), Some(Outcome::Written(_)))
    }
}

#[test]
fn what_was_passed_to_a_home_that_stands_still_for_less_than_a_second_is_answered() {
    let mut passed = Passed::silent_within(5 * SECOND);
    passed.cluster.pass(700_000);
    assert!(passed.is_waited_for());
    passed.cluster.nodes[passed.home].down = false;
    assert!(passed.ends_written());
}

#[test]
fn what_was_passed_to_a_home_that_is_back_before_its_disk_is_waited_for_until_the_deadline() {
    let mut passed = Passed::silent_within(5 * SECOND);
    passed.cluster.nodes[passed.home].down = false;
    passed.cluster.pass(600_000);
    assert_eq!(passed.cluster.found.last(), Some(&(passed.gateway, id(passed.home), true)));
    passed.cluster.pass(2 * SECOND);
    assert!(passed.is_waited_for());
    assert!(passed.ends_written());
}

#[test]
fn what_was_passed_to_a_home_that_stays_silent_ends_and_if_it_is_gone_at_once() {
    let mut passed = Passed::silent_within(5 * SECOND);
    passed.cluster.pass(740_000);
    assert!(passed.is_waited_for());
    passed.cluster.pass(20_000);
    assert!(passed.is_unknown());
    passed.cluster.pass(20 * SECOND);
    passed.cluster.assert_nothing_passed();

    let mut passed = Passed::silent_within(5 * SECOND);
    passed.cluster.kill(passed.home);
    assert!(passed.is_unknown());
}

#[test]
fn a_silent_home_has_half_of_what_is_left_so_that_another_can_be_asked() {
    let mut passed = Passed::silent_within(SECOND);
    passed.cluster.pass(60_000);
    assert!(passed.is_waited_for());
    passed.cluster.pass(20_000);
    assert!(passed.is_unknown());
}

#[test]
fn a_passed_write_is_waited_for_until_its_deadline_and_leaves_nothing_behind() {
    let mut passed = Passed::within(30 * SECOND);
    passed.cluster.nodes[passed.home].down = true;
    passed.cluster.pass(29 * SECOND);
    assert!(passed.is_waited_for(), "nothing else was asked of its home");
    passed.cluster.pass(2 * SECOND);
    assert!(passed.is_unknown());
    passed.cluster.assert_nothing_passed();
}

#[test]
fn nothing_is_passed_to_a_home_that_went_away_while_another_was_asked_for_a_session() {
    let mut cluster = Cluster::new(5, 3);
    let key = key("k");
    let [first, known, last] = cluster.homes(&key)[..] else { panic!("three homes") };
    let gateway = cluster.stranger(&key);
    [first, last].into_iter().for_each(|home| cluster.kill(home));
    cluster.set(gateway, &key, "opens a session");
    [first, last].into_iter().for_each(|home| cluster.restart(home));

    cluster.sent.clear();
    cluster.nodes[first].down = true;
    let ticket = cluster.start(gateway, put(&key, "v", None, None));
    let asked =
        |sent: &&(usize, NodeId, DataMessage)| matches!(sent.2, DataMessage::OpenSession(_));
    assert_eq!(cluster.sent.iter().find(asked).map(|sent| sent.1), Some(id(first)));
    cluster.kill(known);
    cluster.pass(300_000);
    let passed = cluster.sent.iter().filter(|sent| matches!(sent.2, DataMessage::Pass(_)));
    assert_eq!(passed.map(|sent| sent.1).collect::<Vec<_>>(), [id(last)]);
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
