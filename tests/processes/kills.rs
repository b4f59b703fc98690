//! Nodes that are killed under load, and come back with what their disks hold.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::load::{Load, once_more_elsewhere, patient};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_under_load_fails_no_request_and_what_it_missed_is_handed_to_it() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "one");
    load.progress(200).await;
    let killed = Instant::now();
    cluster.kill(1);
    load.progress(300).await;
    let held = cluster.answer(0).await.counters.unwrap().hints_held
        + cluster.answer(2).await.counters.unwrap().hints_held;
    assert!(held > 0, "nobody holds a hint for the node that is down");
    cluster.spawn(1);
    let ready = cluster.wait_ready().await;
    load.progress(200).await;
    let history = load.stop().await;
    history.assert_no_failure(killed);
    let handed_off = cluster.wait_without_hints().await;
    println!("back after {ready:.1?}; {held} hints, none left {handed_off:.1?} after the load");
    history.assert_nothing_lost(&cluster).await;
    history.assert_each_holds_all(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_killed_at_once_take_no_acknowledged_write_with_them() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.client(patient()), "two");
    load.progress(200).await;
    cluster.kill_at_once(&[0, 2]);
    // Without a quorum nothing is acknowledged; the last one stays up and says so.
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.assert_running();
    cluster.spawn(0);
    cluster.spawn(2);
    cluster.wait_ready().await;
    load.progress(200).await;
    let history = load.stop().await;
    cluster.wait_without_hints().await;
    history.assert_nothing_lost(&cluster).await;
    history.assert_each_holds_all(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_killed_at_once_take_no_acknowledged_write_with_them() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.client(patient()), "all");
    for _ in 0..2 {
        load.progress(150).await;
        cluster.kill_at_once(&[0, 1, 2]);
        (0..3).for_each(|node| cluster.spawn(node));
        cluster.wait_ready().await;
    }
    load.progress(150).await;
    let history = load.stop().await;
    cluster.wait_without_hints().await;
    history.assert_nothing_lost(&cluster).await;
    history.assert_each_holds_all(&cluster).await;
    cluster.assert_running();
}
