//! What operators ask: how the cluster is, who is in it, who owns what, who holds what.

use crate::cluster::Cluster;
use crate::session::Session;

/// A third replica may have a write a little later than the OK.
const SETTLED: &str = "until coterie explain greeting > /dev/null; do sleep 0.1; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_is_fine() {
    let mut cluster = Cluster::start(3).await;
    let mut session = Session::of(&cluster);
    for line in [
        "coterie status",
        "coterie status -o json",
        "coterie status --exit-when-healthy --timeout 5s | head -1",
        "coterie status --timeout 5s",
        "coterie members",
        "coterie members -o json",
        "coterie members --output yaml",
    ] {
        session.run(line).await;
    }
    session.is("nodes");
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_owns_what_and_who_holds_what() {
    let mut cluster = Cluster::start(3).await;
    let mut session = Session::of(&cluster);
    session.run("coterie set greeting hello").await;
    session.unrecorded(SETTLED).await;
    for line in [
        "coterie ring",
        "coterie ring -o json",
        "coterie ring --partitions | tail -2",
        "coterie locate greeting",
        "coterie locate greeting -o json",
        "coterie locate ''",
        "coterie explain greeting",
        "coterie explain greeting -o json",
        "coterie explain never-written",
        "coterie explain",
        "coterie hints",
        "coterie hints -o json",
        "coterie repair",
        "coterie repair -o json",
        "coterie repair --in-flight 0",
        "coterie serve --config node-2.toml --check",
    ] {
        session.run(line).await;
    }
    session.is("ring");
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_is_told_by_every_command() {
    let mut cluster = Cluster::start(3).await;
    let mut session = Session::of(&cluster);
    // One coordinator: a hint's size tells how many there were.
    session.only(&cluster, 0);
    session.run("coterie set greeting hello").await;
    session.unrecorded(SETTLED).await;
    cluster.kill(2);
    session.note("node-2 is killed");
    // Gossip takes longer to call it down than others take to find it unreachable.
    session.unrecorded("until coterie members | grep -q 'node-2 *down'; do sleep 0.1; done").await;
    for line in [
        "coterie set greeting 'hello again'",
        "coterie status",
        "coterie status --exit-when-healthy --timeout 1s",
        "coterie explain greeting",
        "coterie explain greeting -o json",
        "coterie locate greeting",
        "coterie hints",
        "coterie hints -o json",
        "coterie repair --timeout 1s",
        "coterie serve --config node-2.toml --check",
        "coterie serve --config node-2.toml --check -o json",
    ] {
        session.run(line).await;
    }
    cluster.spawn(2);
    cluster.wait_ready().await;
    cluster.wait_without_hints().await;
    session.note("node-2 is back, and has been handed its hint");
    session.run("coterie explain greeting").await;
    session.run("coterie hints").await;
    session.is("away");
    cluster.assert_running();
}
