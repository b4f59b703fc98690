//! Disks that are lost: emptied, or put back as they were long ago. The node comes back in its place,
//! as another disk, and is rebuilt from the others while the load goes on.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, LOOK_EVERY};
use crate::impostors::stops;
use crate::load::{History, Load, once_more_elsewhere, twice_more_elsewhere};
use crate::process::copy_folder;

/// A disk is whole again within this.
const REBUILT_WITHIN: Duration = Duration::from_secs(60);

/// Waits until no partition of a node is rebuilt any more.
async fn rebuilt(cluster: &mut Cluster, node: usize) {
    let began = Instant::now();
    loop {
        let status = cluster.answer(node).await;
        let left = status.counters.map(|counters| counters.partitions_lost);
        if status.ready && left == Some(0) && status.rebuilding.is_empty() {
            println!("node-{node} is whole after {:.1?}", began.elapsed());
            return;
        }
        cluster.assert_running();
        let said = (&status.not_ready_because, &status.rebuilding);
        assert!(began.elapsed() < REBUILT_WITHIN, "it is not rebuilt: {left:?} {said:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Everything that was acknowledged is there, and on the new disk too.
async fn is_whole(cluster: &mut Cluster, history: &History) {
    cluster.wait_without_hints().await;
    history.assert_nothing_lost(cluster).await;
    history.assert_each_holds_all(cluster).await;
    cluster.assert_running();
}

/// Kills a node under load, and starts it with an empty folder. Its old folder is at `kept`.
async fn wiped_under_load(cluster: &mut Cluster, node: usize, kept: &Path) -> History {
    let load = Load::start(&cluster.client(twice_more_elsewhere()), "wiped");
    load.progress(200).await;
    let old = cluster.answer(node).await.node_id;
    let began = Instant::now();
    cluster.kill(node);
    std::fs::rename(&cluster.place(node).data, kept).unwrap();
    cluster.spawn(node);
    let ready = cluster.wait_ready().await;
    println!("in its place after {ready:.1?}");
    load.progress(200).await;
    let new = cluster.answer(node).await.node_id;
    assert_ne!(old, new, "the id of the lost disk was used again");
    rebuilt(cluster, node).await;
    load.progress(100).await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    let said = cluster.place(node).said();
    for part in ["it asks for the place", &old, "is fenced"] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    history
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_of_three_comes_back_in_its_place_and_its_old_folder_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let kept = cluster.dir().join("kept");
    let history = wiped_under_load(&mut cluster, 1, &kept).await;
    is_whole(&mut cluster, &history).await;

    cluster.kill(1);
    let place = cluster.place(1).clone();
    let mut old = place.clone();
    old.data = kept;
    std::fs::write(&old.log, "").unwrap();
    let mut process = old.serve();
    stops(&old, &mut process, &["node-1", "is fenced for good", "set its data folder aside"]).await;
    cluster.assert_running();
    cluster.spawn(1);
    cluster.wait_ready().await;
    is_whole(&mut cluster, &history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_of_five_comes_back_in_its_place_under_load() {
    let mut cluster = Cluster::start(5).await;
    let kept = cluster.dir().join("kept");
    let history = wiped_under_load(&mut cluster, 3, &kept).await;
    is_whole(&mut cluster, &history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_snapshot_is_not_served_as_the_disk_that_it_was_and_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "restored");
    load.progress(100).await;
    let old = cluster.answer(1).await.node_id;
    cluster.kill(1);
    let snapshot = cluster.dir().join("snapshot");
    copy_folder(&cluster.place(1).data, &snapshot);
    cluster.spawn(1);
    cluster.wait_ready().await;
    load.progress(200).await;
    // What it has synced by now, others have made a note of.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    cluster.kill(1);
    std::fs::remove_dir_all(&cluster.place(1).data).unwrap();
    copy_folder(&snapshot, &cluster.place(1).data);
    cluster.spawn(1);
    let deadline = Instant::now();
    while cluster.status(1).await.is_none_or(|status| status.node_id == old || !status.ready) {
        assert!(deadline.elapsed() < REBUILT_WITHIN, "it does not go on as another disk");
        cluster.assert_running();
        tokio::time::sleep(LOOK_EVERY).await;
    }
    cluster.wait_ready().await;
    load.progress(100).await;
    rebuilt(&mut cluster, 1).await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    let said = cluster.place(1).said();
    assert!(said.contains("has forgotten acknowledged writes"), "{said}");
    is_whole(&mut cluster, &history).await;
}
