//! A node whose process is frozen for a while: its connections stand, and nobody answers.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::load::{Load, once_more_elsewhere};
use crate::process::Signal;

/// How long the node stands still.
const FROZEN: Duration = Duration::from_secs(3);
/// A request that meets the frozen node first gives it up after the client's attempt timeout.
const SLOWEST: Duration =
    if cfg!(debug_assertions) { Duration::from_millis(4500) } else { Duration::from_millis(2500) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_node_is_frozen_the_others_go_on_and_it_catches_up_afterwards() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "pause");
    load.progress(150).await;
    cluster.process(1).signal(Signal::Stop);
    let frozen = Instant::now();
    tokio::time::sleep(FROZEN).await;
    cluster.process(1).signal(Signal::Continue);
    let thawed = Instant::now();
    cluster.wait_ready().await;
    load.progress(150).await;
    let history = load.stop().await;
    history.assert_no_failure(frozen);

    let (slowest, count) = history.quantile(frozen, thawed, 1.0);
    let (median, _) = history.quantile(frozen, thawed, 0.5);
    println!("frozen for {FROZEN:?}: {count} requests, median {median:.1?}, slowest {slowest:.1?}");
    assert!(slowest < SLOWEST, "a request took {slowest:?}");
    assert!(count >= 100, "only {count} requests were begun meanwhile");

    cluster.wait_without_hints().await;
    history.assert_nothing_lost(&cluster).await;
    history.assert_each_holds_all(&cluster).await;
    cluster.assert_running();
}
