//! Disks that are not what they should be, beside a cluster that must not be disturbed: emptied,
//! copied, or brought from another cluster.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Place, address};
use crate::folders::assert_says;
use crate::load::{Load, once_more_elsewhere};
use crate::process::{Process, copy_folder};
use crate::turn;

/// Whoever does not belong has stopped by itself within this.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// It has stopped by itself, with a sentence that says why.
async fn stops(place: &Place, process: &mut Process, parts: &[&str]) {
    let ended = process.end_within(STOPS_WITHIN).await;
    let said = place.said();
    let status = ended.unwrap_or_else(|| panic!("{} goes on, and said:\n{said}", place.name));
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let last = said.lines().rev().take(8).collect::<Vec<_>>().join("\n");
    assert_says(&last, parts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_was_emptied_stops_and_says_why_and_the_others_go_on() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "wiped");
    load.progress(100).await;
    cluster.kill(1);
    let began = Instant::now();
    let place = cluster.place(1).clone();
    let kept = cluster.dir().join("kept");
    std::fs::rename(&place.data, &kept).unwrap();
    std::fs::write(&place.log, "").unwrap();
    let mut process = place.serve();
    stops(&place, &mut process, &["node-1", "disk", "bring the old data folder back"]).await;
    load.progress(100).await;

    std::fs::remove_dir_all(&place.data).unwrap();
    std::fs::rename(&kept, &place.data).unwrap();
    cluster.spawn(1);
    cluster.wait_ready().await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_was_put_back_to_an_older_state_stops_and_says_why() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "older");
    load.progress(100).await;
    let place = cluster.place(1).clone();
    let [older, newest] = ["older", "newest"].map(|name| cluster.dir().join(name));
    cluster.kill(1);
    copy_folder(&place.data, &older);
    cluster.spawn(1);
    cluster.wait_ready().await;
    load.progress(100).await;
    cluster.kill(1);
    let began = Instant::now();
    std::fs::rename(&place.data, &newest).unwrap();
    std::fs::rename(&older, &place.data).unwrap();
    std::fs::write(&place.log, "").unwrap();
    let mut process = place.serve();
    stops(&place, &mut process, &["it has forgotten acknowledged writes"]).await;
    load.progress(100).await;

    std::fs::remove_dir_all(&place.data).unwrap();
    std::fs::rename(&newest, &place.data).unwrap();
    cluster.spawn(1);
    cluster.wait_ready().await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_folder_beside_its_original_stops_and_the_original_goes_on() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "copied");
    load.progress(100).await;
    let original = cluster.place(1).clone();
    let mut copy = Place::new(cluster.dir(), address(2), 1);
    copy.config = cluster.dir().join("copy.toml");
    copy.log = cluster.dir().join("copy.log");
    copy.expect = 3;
    // An old copy: since then, the original has been started again twice.
    for (name, restarts) in [("copy-0", 0), ("copy-2", 2)] {
        copy.data = cluster.dir().join(name);
        cluster.kill(1);
        copy_folder(&original.data, &copy.data);
        cluster.spawn(1);
        cluster.wait_ready().await;
        for _ in 0..restarts {
            cluster.kill(1);
            cluster.spawn(1);
            cluster.wait_ready().await;
        }
        let began = Instant::now();
        for seeds in [vec![0, 2], vec![0, 1, 2]] {
            copy.seeds = seeds.iter().map(|seed| cluster.place(*seed).internal).collect();
            std::fs::write(&copy.log, "").unwrap();
            let mut process = copy.serve();
            let ended = process.end_within(STOPS_WITHIN).await;
            let said = copy.said();
            assert!(ended.is_some(), "the copy goes on beside the original:\n{said}");
            let why = ["a data folder was copied", "it has forgotten acknowledged writes"];
            assert!(why.iter().any(|why| said.contains(why)), "no clear sentence:\n{said}");
            cluster.assert_running();
        }
        load.progress(50).await;
        cluster.wait_ready().await;
        println!("{name}: the original went on for {:.1?}", began.elapsed());
    }
    let history = load.stop().await;
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_brought_from_another_cluster_of_one_name_stops_and_no_other_node_does() {
    let turn = turn::shared().await;
    let mut elsewhere = Cluster::plan(None, 3);
    (0..3).for_each(|node| elsewhere.spawn(node));
    elsewhere.wait_ready().await;
    (0..3).for_each(|node| elsewhere.kill(node));

    let mut cluster = Cluster::start_in(turn, 3).await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "brought");
    load.progress(100).await;
    let began = Instant::now();
    cluster.kill(1);
    let mut place = cluster.place(1).clone();
    place.data.clone_from(&elsewhere.place(1).data);
    std::fs::write(&place.log, "").unwrap();
    let mut process = place.serve();
    stops(&place, &mut process, &["node-1", "disk"]).await;
    cluster.assert_running();
    load.progress(100).await;
    cluster.spawn(1);
    cluster.wait_ready().await;
    let history = load.stop().await;
    history.assert_no_failure(began);
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}
