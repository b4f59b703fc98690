//! Disks that are slow, full, or fail, and clocks that jump: the cluster goes on, and nothing
//! acknowledged is lost.

use std::time::{Duration, Instant};

use super::power::{Cut, disks_of};
use crate::cluster::{Cluster, http_get};
use crate::folders::assert_says;
use crate::load::{Load, once_more_elsewhere};
use crate::turn;

/// A node whose disk has failed has stopped by itself within this.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
/// What a slow disk takes for a sync.
const SLOW_SYNC: Duration = Duration::from_millis(20);
/// How far a clock jumps: five minutes, many times `clock.max_skew`.
const JUMP_MS: i64 = 300_000;

/// Three nodes on disks of ours.
async fn cluster() -> (Cluster, Vec<super::power::Disk>) {
    let mut cluster = Cluster::plan(Some(turn::shared().await), 3);
    let disks = disks_of(&mut cluster);
    (0..3).for_each(|node| cluster.spawn(node));
    cluster.wait_ready().await;
    (cluster, disks)
}

/// Node 1 ends by itself, for a reason that it says.
async fn stops(cluster: &mut Cluster, parts: &[&str]) {
    let mut process = cluster.take(1);
    let ended = process.end_within(STOPS_WITHIN).await;
    let said = cluster.place(1).said();
    let status = ended.unwrap_or_else(|| panic!("node-1 goes on, and said:\n{said}"));
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_says(&said, parts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_to_sync_stops_and_comes_back_with_what_it_had() {
    let (mut cluster, disks) = cluster().await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "sync");
    load.progress(80).await;
    let began = Instant::now();
    disks[1].fail_syncs(true);
    stops(&mut cluster, &["the store failed"]).await;
    load.progress(80).await;
    // What was written and not synced may be there or not.
    disks[1].fail_syncs(false);
    disks[1].cut(Cut::BySeed(1));
    cluster.spawn(1);
    cluster.wait_ready().await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    cluster.wait_without_hints().await;
    history.assert_nothing_lost(&cluster).await;
    history.assert_each_holds_all(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fills_up_in_mid_write_stops_and_goes_on_once_there_is_room() {
    let (mut cluster, disks) = cluster().await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "full");
    load.progress(80).await;
    let began = Instant::now();
    // Room for some batches, and for a part of the last one.
    disks[1].room(Some(20_001));
    stops(&mut cluster, &["the store failed"]).await;
    load.progress(80).await;
    // Still full: it does not start, says so, and spoils nothing.
    disks[1].room(Some(0));
    let (code, said) = cluster.place(1).refuses().await;
    assert_eq!(code, 1, "{said}");
    assert_says(&said, &["No space left on device"]);
    disks[1].room(None);
    cluster.spawn(1);
    cluster.wait_ready().await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    cluster.wait_without_hints().await;
    history.assert_nothing_lost(&cluster).await;
    history.assert_each_holds_all(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_least_free_space_a_node_refuses_writes_and_serves_reads() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client_of(0);
    client.set("before", "there").await.unwrap();
    cluster.kill(0);
    cluster.place_mut(0).more = "[storage]\nmin_free = \"1000TiB\"\n".to_owned();
    cluster.spawn(0);
    cluster.wait_ready().await;
    let refused = client.set("after", "not there").await.unwrap_err().to_string();
    assert_says(&refused, &["too few replicas"]);
    let read = client.get("before").await.unwrap().map(|reading| reading.value);
    assert_eq!(read.as_deref(), Some(&b"there"[..]));
    assert_eq!(client.get("after").await.unwrap().map(|reading| reading.value), None);
    let (code, why) = http_get(cluster.place(0).admin, "/readyz").await.unwrap();
    assert_eq!(code, 503, "{why}");
    assert_says(&why, &["the store refuses writes: the disk is too full"]);
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_syncs_slow_writes_down_and_fail_none() {
    let (mut cluster, disks) = cluster().await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "slow");
    load.progress(80).await;
    disks.iter().for_each(|disk| disk.slow_syncs(SLOW_SYNC));
    let began = Instant::now();
    load.progress(200).await;
    let slowed = Instant::now();
    let history = load.stop().await;
    let writes = history.requests.iter().filter(|r| r.writes && (began..slowed).contains(&r.began));
    let quickest = writes.map(|request| request.took).min().unwrap();
    assert!(quickest >= SLOW_SYNC, "acknowledged after {quickest:?}, before it was synced");
    history.assert_no_failure(began);
    cluster.wait_without_hints().await;
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_five_minutes_either_way_fails_no_request_and_loses_nothing() {
    let (mut cluster, disks) = cluster().await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "clock");
    load.progress(80).await;
    let began = Instant::now();
    let client = cluster.client_of(1);
    for (round, jump) in [JUMP_MS, 0, -JUMP_MS, 0].into_iter().enumerate() {
        disks[1].wall_clock(jump);
        load.progress(60).await;
        // What comes later wins, whatever the clocks say.
        let last = format!("round {round}");
        client.set("overwritten", last.clone()).await.unwrap();
        let read = cluster.client_of(0).get("overwritten").await.unwrap();
        assert_eq!(read.unwrap().value, last.as_bytes());
    }
    // A restart at the wrong time: the clock goes on above its last value.
    disks[1].wall_clock(-JUMP_MS);
    cluster.kill(1);
    cluster.spawn(1);
    cluster.wait_ready().await;
    client.set("overwritten", "after the restart").await.unwrap();
    let read = cluster.client_of(2).get("overwritten").await.unwrap();
    assert_eq!(read.unwrap().value, "after the restart");
    load.progress(60).await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    cluster.wait_without_hints().await;
    history.assert_nothing_lost(&cluster).await;
    history.assert_each_holds_all(&cluster).await;
    cluster.assert_running();
}
