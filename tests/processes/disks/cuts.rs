//! The power of all nodes fails at once: what was acknowledged is there afterwards.
//!
//! That this could fail is shown beside it: a disk that lies about its syncs, and a cluster that
//! does not wait for them, both lose acknowledged writes to the same power cut.

use super::power::{Cut, Disk, disks_of};
use crate::cluster::Cluster;
use crate::load::{History, Load, patient};
use crate::turn;

/// Power cuts that one cluster lives through.
const CUTS: u64 = 4;
/// Writes acknowledged before each.
const WRITES: usize = 120;
/// Cuts after which a cluster that can lose must have lost: one may come right behind a sync.
const TRIES: usize = 5;

/// A cluster on disks that forget.
async fn on_disks(durability: &str) -> (Cluster, Vec<Disk>) {
    let mut cluster = Cluster::plan(Some(turn::shared().await), 3);
    let disks = disks_of(&mut cluster);
    for node in 0..cluster.len() {
        cluster.place_mut(node).more = format!("[storage]\ndurability = \"{durability}\"\n");
        cluster.spawn(node);
    }
    cluster.wait_ready().await;
    (cluster, disks)
}

/// The power of all nodes fails, and comes back.
fn cut_all(cluster: &mut Cluster, disks: &[Disk], cut: impl Fn(u64) -> Cut) {
    cluster.kill_at_once(&[0, 1, 2]);
    for (node, disk) in (0..).zip(disks) {
        disk.cut(cut(node));
    }
    (0..3).for_each(|node| cluster.spawn(node));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_all_nodes_takes_no_acknowledged_write() {
    let (mut cluster, disks) = on_disks("fsync").await;
    let load = Load::start(&cluster.client(patient()), "cut");
    for round in 0..CUTS {
        load.progress(WRITES).await;
        // The first takes all that it may; the others as their seeds say.
        cut_all(&mut cluster, &disks, |node| match round {
            0 => Cut::All,
            _ => Cut::BySeed(round * 10 + node),
        });
        cluster.wait_ready().await;
    }
    load.progress(WRITES).await;
    let history = load.stop().await;
    assert!(disks.iter().all(|disk| disk.syncs() > 100), "the layer was not there");
    cluster.wait_without_hints().await;
    history.assert_nothing_lost(&cluster).await;
    history.assert_each_holds_all(&cluster).await;
    cluster.assert_running();
}

/// Cuts the power of all nodes until acknowledged writes are gone: how many of how many.
async fn loses(cluster: &mut Cluster, disks: &[Disk], lie: bool) -> (usize, usize) {
    let mut lost = (0, 0);
    for attempt in 0..TRIES {
        disks.iter().for_each(|disk| disk.lie(lie));
        lost = loses_once(cluster, disks, &format!("cut-{attempt}")).await;
        if lost.0 > 0 {
            break;
        }
    }
    lost
}

async fn loses_once(cluster: &mut Cluster, disks: &[Disk], tag: &str) -> (usize, usize) {
    let load = Load::start(&cluster.client(patient()), tag);
    load.progress(WRITES).await;
    cluster.kill_at_once(&[0, 1, 2]);
    let history: History = load.stop().await;
    for disk in disks {
        disk.lie(false);
        disk.cut(Cut::All);
    }
    (0..3).for_each(|node| cluster.spawn(node));
    cluster.wait_ready().await;
    (history.lost(cluster, 0).await, history.acknowledged().len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_cut_takes_writes_that_were_acknowledged_before_they_were_synced() {
    let (mut cluster, disks) = on_disks("buffered").await;
    let (lost, written) = loses(&mut cluster, &disks, false).await;
    println!("buffered: {lost} of {written} acknowledged writes are gone");
    assert!(lost > 0, "a power cut that takes nothing proves nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_cut_takes_writes_that_a_lying_disk_called_synced() {
    let (mut cluster, disks) = on_disks("fsync").await;
    let (lost, written) = loses(&mut cluster, &disks, true).await;
    println!("lying disks: {lost} of {written} acknowledged writes are gone");
    assert!(lost > 0, "a layer that cannot lose proves nothing");
}
