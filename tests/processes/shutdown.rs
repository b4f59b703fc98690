//! A node that is asked to stop: it says goodbye, ends what is under way, and keeps everything.

use std::time::{Duration, Instant};

use coterie::client::{Client, Options};

use crate::cluster::{Cluster, LOOK_EVERY, http_get};
use crate::load::{Load, once_more_elsewhere};
use crate::process::Signal;

/// It has ended within this: requests under way may take their time-out.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// It says so within this.
const UNREADY_WITHIN: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_asked_to_stop_under_load_ends_soon_and_clients_do_not_notice() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "stop");
    load.progress(150).await;
    let asked = Instant::now();
    for node in [1, 0] {
        let mut process = cluster.take(node);
        let began = Instant::now();
        process.signal(Signal::Terminate);
        let ended = process.end_within(ENDS_WITHIN).await;
        let said = cluster.place(node).said();
        println!("node-{node} ended {:.1?} after it was asked to", began.elapsed());
        let status = ended.unwrap_or_else(|| panic!("it does not end, and said:\n{said}"));
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(said.contains("stopped"), "{said}");
        load.progress(100).await;
        cluster.spawn(node);
        cluster.wait_ready().await;
        cluster.wait_without_hints().await;
    }
    load.progress(100).await;
    let history = load.stop().await;
    history.assert_no_failure(asked);
    cluster.wait_without_hints().await;
    history.assert_nothing_lost(&cluster).await;
    history.assert_each_holds_all(&cluster).await;
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_is_unready_at_once_and_ends_what_is_under_way() {
    let mut cluster = Cluster::start(3).await;
    let admin = cluster.place(0).admin;
    assert_eq!(http_get(admin, "/readyz").await.unwrap().0, 200);
    assert_eq!(http_get(admin, "/healthz").await.unwrap().0, 200);
    // A write that cannot end: nobody else answers, for now.
    cluster.process(1).signal(Signal::Stop);
    cluster.process(2).signal(Signal::Stop);
    let client = Client::connect([cluster.address(0)], Options::default()).unwrap();
    let write = tokio::spawn(async move { client.set("under way", "value").await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut process = cluster.take(0);
    process.signal(Signal::Terminate);
    let asked = Instant::now();
    let body = loop {
        let (code, body) = http_get(admin, "/readyz").await.expect("the admin port still answers");
        if code == 503 {
            break body;
        }
        assert!(asked.elapsed() < UNREADY_WITHIN, "still ready: {body}");
        tokio::time::sleep(LOOK_EVERY).await;
    };
    assert!(body.contains("it is stopping"), "it says why: {body}");
    assert_eq!(http_get(admin, "/healthz").await.unwrap().0, 200, "it is not stuck");

    // The others wake up in time, and what was under way is acknowledged by the stopping node.
    cluster.process(1).signal(Signal::Continue);
    cluster.process(2).signal(Signal::Continue);
    let written = write.await.unwrap();
    let ended = process.end_within(ENDS_WITHIN).await;
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    assert!(written.is_ok(), "what was under way has failed: {}", written.unwrap_err());
    let got = cluster.client_of(2).get("under way").await.unwrap().unwrap();
    assert_eq!(got.value, "value");
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_stops_when_the_process_that_started_it_is_gone() {
    let mut cluster = Cluster::start(1).await;
    cluster.client_of(0).set("key", "value").await.unwrap();
    let mut process = cluster.take(0);
    process.leave_alone();
    let ended = process.end_within(ENDS_WITHIN).await;
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "{}", cluster.place(0).said());
    cluster.spawn(0);
    cluster.wait_ready().await;
    assert_eq!(cluster.client_of(0).get("key").await.unwrap().unwrap().value, "value");
}
