//! What operators ask: how the cluster is, who is in it, who owns what, who holds what.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, folder};
use crate::process::Signal;
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
async fn what_a_change_would_come_to() {
    let mut cluster = Cluster::start(3).await;
    let mut session = Session::of(&cluster);
    for line in [
        "coterie plan --join node-3",
        "coterie plan --join node-3 -o json",
        "coterie plan --join node-3 --partition-bytes 1000000 --rate 2000000 | sed -n 1,2p",
        "coterie plan --join node-3 --leave node-2 --at-least 4",
        "coterie plan",
        "coterie plan --leave node-2",
        "coterie plan --zone node-1=est",
        "coterie plan --zone node-1=est -o json",
        "coterie plan --weight node-1",
        "coterie can-restart node-1",
        "coterie can-restart node-1 -o json",
        "coterie can-restart node-9",
        "coterie balance | grep -A 4 Weights.1.to.4,",
        "coterie balance --nodes 3",
    ] {
        session.run(line).await;
    }
    cluster.kill(2);
    session.note("node-2 is killed");
    session.unrecorded("until coterie members | grep -q 'node-2 *down'; do sleep 0.1; done").await;
    for line in [
        "coterie can-restart node-1",
        "coterie can-restart node-1 -o json",
        "coterie can-restart node-2",
        "coterie plan --join node-3 --leave node-2",
    ] {
        session.run(line).await;
    }
    session.is("plan");
    cluster.spawn(2);
    cluster.wait_ready().await;
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
    session.unrecorded("until test -e node-2/CLUSTER; do sleep 0.1; done").await;
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
        "coterie serve --config node-2.toml --check --set cluster.name=other",
        "coterie serve --config node-2.toml --check --set cluster.name=other -o json",
        "coterie serve --config node-2.toml --check --set node.data=node-2.toml/data",
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_costs_a_moment_and_is_named() {
    let mut cluster = Cluster::start(3).await;
    let mut session = Session::of(&cluster);
    session.run("coterie set greeting hello").await;
    session.unrecorded(SETTLED).await;
    cluster.process(0).signal(Signal::Stop);
    session.note("node-0, which is asked first, is frozen");
    // Until then the others may still wait for it.
    session.unrecorded("until coterie members | grep -q 'node-0 *down'; do sleep 0.1; done").await;
    let began = Instant::now();
    for line in [
        "coterie hints",
        "coterie hints -o json",
        "coterie explain greeting",
        "coterie locate greeting",
    ] {
        session.run(line).await;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(40), "four looks at it took {took:?}");
    cluster.process(0).signal(Signal::Continue);
    session.filtered_is(
        "frozen",
        &[(r"located by node-\d", "located by [node]"), (r"as node-\d knows", "as [node] knows")],
    );
}

/// What the transport says of a peer that hangs up depends on who was quicker.
const HUNG_UP: &[(&str, &str)] = &[(r"because: .*; asked ", "because: [hung up]; asked ")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_port_is_told_for_what_it_probably_is() {
    let mut cluster = Cluster::start(1).await;
    let mut session = Session::of(&cluster);
    let place = cluster.place(0).clone();
    for port in [place.internal, place.admin] {
        for line in [
            "coterie get key",
            "coterie scan --timeout 2s",
            "coterie status",
            "coterie explain key",
        ] {
            session.run(&format!("{line} --addr {port}")).await;
        }
    }
    session.filtered_is("ports", HUNG_UP);
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_beside_a_running_one_changes_nothing() {
    let mut cluster = Cluster::start(1).await;
    let mut session = Session::of(&cluster);
    for line in [
        "cp node-0.toml before.toml",
        "coterie local --nodes 1 --data . --port 17400",
        "cmp node-0.toml before.toml",
    ] {
        session.run(line).await;
    }
    session.is("beside");
    cluster.assert_running();
}

/// What was measured.
const FIGURES: &[(&str, &str)] = &[
    (r"(?m)^( get .* fsync) .*$", "$1  [figures]"),
    (r#""(per_second|per_second_peak|p\d+_us)": [\d.e-]+"#, r#""$1": [n]"#),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_measured() {
    let mut cluster = Cluster::start(1).await;
    let mut session = Session::of(&cluster);
    let measured = "coterie bench --workload get --keys 10 --clients 1 --duration 100ms";
    for line in [measured, &format!("{measured} -o json")] {
        session.run(line).await;
    }
    session.filtered_is("bench", FIGURES);
    cluster.assert_running();
}

/// Ports that were free.
const PORTS: &[(&str, &str)] = &[
    (r"127\.0\.0\.1:\d+", "[host]:[port]"),
    (r"--port \d+", "--port [port]"),
    (r#""process": \d+"#, r#""process": [pid]"#),
];

#[tokio::test]
async fn a_cluster_of_ones_own_runs_until_it_is_stopped() {
    let folder = folder();
    let mut session = Session::new(folder.path(), String::new());
    let port = free_port();
    for more in ["", " -o json"] {
        let line = format!(
            "coterie local --nodes 1 --port {port}{more} > said 2>&1 & \
             until grep -qs Ctrl-C said; do sleep 0.1; done; kill -TERM $!; wait $! && cat said"
        );
        session.run(&line).await;
        session.unrecorded("rm said").await;
    }
    session.filtered_is("local", PORTS);
}

/// A port that is free with the two after it, below those that the system gives away.
fn free_port() -> u16 {
    let is_free =
        |port: u16| (port..port + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    (first..).step_by(10).find(|port| is_free(*port)).expect("three free ports in a row")
}
