//! What operators order: who joins, who leaves, who is given up, and what a change that is held up looks like.

use crate::cluster::Cluster;
use crate::session::Session;
use crate::turn;

/// Nobody joins by itself, so that each does when the session says it.
const BY_HAND: &str = "[membership]\nauto_join = false\n";
/// Of those who found the cluster, so many, and of those who are started with them.
const FOUNDERS: usize = 3;
const NODES: u16 = 7;
/// No change is under way.
const SETTLED: &str = "until coterie status > /dev/null; do sleep 0.1; done";

/// Founders that are ready, and others that are no members.
async fn with_guests() -> Cluster {
    let mut cluster = Cluster::plan(Some(turn::shared().await), NODES);
    cluster.tell_all(BY_HAND);
    (0..cluster.len()).for_each(|node| cluster.place_mut(node).expect = FOUNDERS);
    (0..FOUNDERS).for_each(|node| cluster.spawn(node));
    cluster.wait_ready().await;
    (FOUNDERS..cluster.len()).for_each(|node| cluster.spawn(node));
    cluster
}

/// Waits until the first nodes cannot reach one that was killed.
async fn away(session: &Session, name: &str) {
    let line = format!("until coterie members | grep -q '{name} .* NO '; do sleep 0.1; done");
    session.unrecorded(&line).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_leave_and_are_given_up() {
    let mut cluster = with_guests().await;
    let mut session = Session::of(&cluster);
    session.only(&cluster, 0);
    let heard = "until test $(coterie members | grep -c ' alive *yes ') = 7; do sleep 0.1; done";
    session.unrecorded(heard).await;
    // Each has to have heard of each, and of the ring, before nothing else is said of any.
    let calm = "until test $(coterie status | grep -c ' by a plan *$') = 4 && \
                test $(coterie status | grep -c ' ok  ') = 3; do sleep 0.1; done";
    session.unrecorded(calm).await;
    for line in [
        "coterie status",
        "coterie apply",
        "coterie apply --join node-9",
        "coterie apply --join node-3,node-3",
        "coterie apply --join node-1",
        "coterie apply --zone node-1=est",
        "coterie apply --weight node-1=200 --on 1:0000000000000000",
        "coterie apply absent.json",
        "coterie plan --join node-3,node-4,node-5,node-6 -o json > plan.json",
        "coterie apply plan.json --replicas 5",
        "coterie apply plan.json --wait 2> /dev/null",
        "coterie apply plan.json",
        "coterie apply plan.json -o json",
        "coterie apply --weight node-1=200 --wait -o json",
        "coterie decommission node-9",
        "coterie decommission node-9 -o json",
        "coterie decommission node-6 --wait 2> /dev/null",
        "coterie decommission node-5 --wait -o json",
        "coterie decommission node-4 --timeout 5s",
        "coterie remove node-4",
        "coterie remove node-4 --force",
        "coterie remove node-4 --accept-loss",
    ] {
        session.run(line).await;
    }
    for left in [5, 6] {
        let ended = cluster.take(left).end_within(std::time::Duration::from_secs(60)).await;
        assert!(ended.is_some_and(|ended| ended.success()), "node-{left} has not left: {ended:?}");
    }
    cluster.kill(4);
    session.note("node-4 is killed");
    away(&session, "node-4").await;
    for line in ["coterie decommission node-4", "coterie remove node-4 --force --wait 2> /dev/null"]
    {
        session.run(line).await;
    }
    cluster.kill(3);
    session.note("node-3 is killed");
    away(&session, "node-3").await;
    session.run("coterie remove node-3 --force -o json").await;
    session.unrecorded(SETTLED).await;
    for line in ["coterie remove node-3 --force", "coterie decommission node-2", "coterie ring"] {
        session.run(line).await;
    }
    session.is("changes");
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_held_up_says_by_whom_and_what_to_do() {
    let mut cluster = Cluster::start(4).await;
    let mut session = Session::of(&cluster);
    session.only(&cluster, 0);
    cluster.kill(3);
    session.note("node-3 is killed");
    session.unrecorded("until coterie members | grep -q 'node-3 *down'; do sleep 0.1; done").await;
    session.run("coterie apply --weight node-1=200").await;
    let acked = "until coterie status | grep -q '3 have acknowledged'; do sleep 0.1; done";
    session.unrecorded(acked).await;
    for line in [
        "coterie status",
        "coterie status -o json | sed -n '/\"change\"/,/^  }/p'",
        "coterie can-restart node-1",
        "coterie can-restart node-1 -o json",
        "coterie apply --weight node-2=200",
        "coterie decommission node-2",
        "coterie plan --weight node-2=200 -o json | grep under_way",
    ] {
        session.run(line).await;
    }
    cluster.spawn(3);
    session.note("node-3 is started");
    cluster.wait_ready().await;
    session.unrecorded(SETTLED).await;
    session.run("coterie status").await;
    session.is("held_up");
    cluster.assert_running();
}
