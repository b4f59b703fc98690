//! Changes of the ring under load, by the commands that operators type: nodes join by starting, leave by
//! one command, are given up when they are dead, and are restarted one after the other.

use std::time::{Duration, Instant};

use coterie::client::{Client, Options};
use coterie::proto::StatusResponse;

use crate::additions::Additions;
use crate::cluster::{Cluster, LOOK_EVERY};
use crate::load::{Load, once_more_elsewhere, twice_more_elsewhere};
use crate::process::{Said, Signal, coterie};
use crate::turn;

/// A change of a small ring is over within this.
const CHANGED_WITHIN: Duration = Duration::from_secs(60);
/// Nodes join once nobody has come or gone for this long: the least that can be configured.
const SETTLE: &str = "[membership]\nsettle = \"2s\"\n";

/// A cluster with a place for `nodes`, of which the first `founders` are there.
async fn founded(founders: u16, nodes: u16) -> Cluster {
    let mut cluster = Cluster::plan(Some(turn::shared().await), nodes);
    cluster.tell_all(SETTLE);
    for node in 0..cluster.len() {
        cluster.place_mut(node).expect = founders.into();
    }
    (0..founders).for_each(|node| cluster.spawn(node.into()));
    cluster.wait_ready().await;
    cluster
}

/// A client that is told of the first three nodes, and learns of the others.
fn client(cluster: &Cluster, options: Options) -> Client {
    let addresses = (0..3).map(|node| cluster.address(node));
    Client::connect(addresses, options).unwrap()
}

/// Types a command, led to these nodes.
async fn type_at(cluster: &Cluster, nodes: &[usize], line: &str) -> Said {
    let addresses: Vec<String> = nodes.iter().map(|node| cluster.address(*node)).collect();
    let addresses = addresses.join(",");
    let words: Vec<&str> = line.split(' ').chain(["--addr", &addresses]).collect();
    let said = coterie(&words).await;
    println!("$ coterie {line}\n{}{}exit {:?}", said.out, said.err, said.code);
    said
}

fn members(status: &StatusResponse) -> Vec<&str> {
    let homes = status.members.iter().filter(|member| member.home);
    homes.map(|member| member.name.as_str()).collect()
}

/// Waits until a node says something of itself and the ring.
async fn until(
    cluster: &mut Cluster,
    node: usize,
    what: &str,
    holds: impl Fn(&StatusResponse) -> bool,
) {
    let began = Instant::now();
    loop {
        let status = cluster.status(node).await;
        if status.as_ref().is_some_and(&holds) {
            println!("{what} after {:.1?}", began.elapsed());
            return;
        }
        cluster.assert_running();
        assert!(began.elapsed() < CHANGED_WITHIN, "not {what}: {status:#?}");
        tokio::time::sleep(LOOK_EVERY / 5).await;
    }
}

/// Waits until one version is live, of so many members.
async fn changed(cluster: &mut Cluster, members_wanted: usize) {
    until(cluster, 0, "changed", |status| {
        let live = status.change.as_ref().map_or(0, |change| change.live.len());
        live == 1 && members(status).len() == members_wanted
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_become_six_and_three_again_under_load_and_a_kill_and_nothing_is_lost() {
    let mut cluster = founded(3, 6).await;
    let load = Load::start(&client(&cluster, twice_more_elsewhere()), "ring");
    load.progress(200).await;
    let began = Instant::now();
    (3..6).for_each(|node| cluster.spawn(node));
    until(&mut cluster, 1, "handing over", |status| {
        let left = status.change.as_ref().and_then(|change| change.left);
        left.is_some_and(|left| left.partitions > 0)
    })
    .await;
    cluster.kill(1);
    let waits = |status: &StatusResponse| {
        let waits = status.change.as_ref().map(|change| change.waits.as_slice());
        waits.unwrap_or_default().iter().any(|wait| wait.name == "node-1" && !wait.reachable)
    };
    until(&mut cluster, 0, "known to wait for node-1", waits).await;
    let said = type_at(&cluster, &[0, 2], "status").await;
    assert_eq!(said.code, Some(4), "the ring is changing, and a node is down");
    for part in ["the ring changes from version 1 to 2", "start node-1;", "cannot be reached"] {
        assert!(said.out.contains(part), "`{part}` is not in:\n{}", said.out);
    }
    cluster.spawn(1);
    changed(&mut cluster, 6).await;
    cluster.wait_ready().await;
    load.progress(200).await;
    // Any member takes the order, the one that leaves, too.
    for (node, at) in [(5, 0), (4, 1), (3, 3)] {
        leaves(&mut cluster, node, at).await;
    }
    changed(&mut cluster, 3).await;
    load.progress(200).await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}

/// Has a node leave, and waits until its process has ended by itself.
async fn leaves(cluster: &mut Cluster, node: usize, at: usize) {
    let line = format!("decommission node-{node} --wait --timeout 60s");
    let said = type_at(cluster, &[at], &line).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let ended = cluster.process(node).end_within(CHANGED_WITHIN).await;
    let ended = ended.unwrap_or_else(|| panic!("node-{node} has not ended"));
    assert_eq!(ended.code(), Some(0), "node-{node} has left, and that is no failure");
    drop(cluster.take(node));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_join_five_and_leave_again_under_forty_clients_and_no_addition_is_lost() {
    let mut cluster = founded(5, 7).await;
    let clients = Additions::start(&client(&cluster, once_more_elsewhere()));
    clients.progress(100).await;
    (5..7).for_each(|node| cluster.spawn(node));
    changed(&mut cluster, 7).await;
    clients.progress(200).await;
    leaves(&mut cluster, 6, 0).await;
    leaves(&mut cluster, 5, 5).await;
    changed(&mut cluster, 5).await;
    clients.progress(200).await;
    let told = clients.stop().await;
    told.assert_no_failure();
    told.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_copies_become_five_and_three_again_under_load_and_nothing_is_lost() {
    let mut cluster = founded(5, 5).await;
    let load = Load::start(&client(&cluster, once_more_elsewhere()), "copies");
    load.progress(200).await;
    let began = Instant::now();
    for copies in [5, 3] {
        let line = format!("apply --replicas {copies} --wait --timeout 60s");
        let said = type_at(&cluster, &[0, 1], &line).await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        changed(&mut cluster, 5).await;
        let said = type_at(&cluster, &[2], "locate copies/0/0 -o json").await;
        let located: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(located["homes"].as_array().map(Vec::len), Some(copies), "{located:#}");
        load.progress(200).await;
    }
    let history = load.stop().await;
    history.assert_no_failure(began);
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_given_up_and_when_it_returns_it_joins_anew_without_its_old_disk() {
    let mut cluster = founded(4, 4).await;
    let load = Load::start(&client(&cluster, once_more_elsewhere()), "removed");
    load.progress(150).await;
    let history = load.stop().await;
    let line = "remove node-3 --force";
    let said = type_at(&cluster, &[0, 1, 2], line).await;
    assert_eq!(said.code, Some(1), "it lives: {}", said.err);
    assert!(said.err.contains("coterie decommission node-3"), "{}", said.err);
    let old = cluster.answer(3).await.node_id;
    cluster.kill(3);
    until(&mut cluster, 0, "known to be away", |status| {
        let away = |name: &str| status.members.iter().any(|m| m.name == name && !m.reachable);
        away("node-3")
    })
    .await;
    let said = type_at(&cluster, &[0, 1, 2], "decommission node-3").await;
    assert_eq!(said.code, Some(1), "it cannot hand over: {}", said.err);
    let line = "remove node-3 --force --wait --timeout 60s";
    let said = type_at(&cluster, &[0, 1, 2], line).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let said = type_at(&cluster, &[0, 1, 2], line).await;
    assert_eq!(said.code, Some(3), "it is no member any more: {}", said.err);
    history.assert_nothing_lost(&cluster).await;

    cluster.spawn(3);
    until(&mut cluster, 3, "back with another disk", |status| {
        status.ready && status.node_id != old && members(status).contains(&"node-3")
    })
    .await;
    changed(&mut cluster, 4).await;
    let told = cluster.place(3).said();
    for part in [&old, "of node-3 was removed from the cluster", "joins anew"] {
        assert!(told.contains(part), "`{part}` is not in:\n{told}");
    }
    cluster.wait_ready().await;
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_restarted_one_after_the_other_when_they_may_be_and_nobody_is_refused() {
    let mut cluster = founded(3, 3).await;
    let load = Load::start(&client(&cluster, once_more_elsewhere()), "rolling");
    let began = Instant::now();
    for node in 0..3 {
        let asked = Instant::now();
        let line = format!("can-restart node-{node}");
        let mut may = type_at(&cluster, &[0, 1, 2], &line).await;
        while may.code != Some(0) {
            assert!(asked.elapsed() < CHANGED_WITHIN, "it may never be restarted: {}", may.out);
            cluster.assert_running();
            tokio::time::sleep(LOOK_EVERY).await;
            may = type_at(&cluster, &[0, 1, 2], &line).await;
        }
        let mut process = cluster.take(node);
        process.signal(Signal::Terminate);
        let ended = process.end_within(CHANGED_WITHIN).await.expect("it ends when it is told to");
        assert_eq!(ended.code(), Some(0));
        let (other, line) = ((node + 1) % 3, format!("can-restart node-{}", (node + 2) % 3));
        let said = type_at(&cluster, &[other], &line).await;
        assert_eq!(said.code, Some(4), "without node-{node}: {}", said.out);
        cluster.spawn(node);
    }
    cluster.wait_ready().await;
    load.progress(100).await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}
