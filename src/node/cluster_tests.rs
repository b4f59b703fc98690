//! Real nodes with real cores, several in one process.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::api::backend::Backend;
use crate::config::Settings;
use crate::peers::free_ports::free_address;
use crate::protocol::control::Control;
use crate::protocol::op::{Op, Outcome};
use crate::protocol::quorum::Consistency;
use crate::protocol::worker::Worker;
use crate::telemetry::Traces;
use crate::types::Key;

type Handle = NodeHandle<Worker, Control>;

fn all_settings(folder: &Path) -> Vec<Settings> {
    let internal: [SocketAddr; 3] = std::array::from_fn(|_| free_address());
    let seeds = internal.map(|address| format!("\"{address}\""));
    let one = |(i, internal): (usize, &SocketAddr)| {
        let data = folder.join(format!("node-{i}"));
        let (client, admin, seeds) = (free_address(), free_address(), seeds.join(", "));
        let text = format!(
            "[node]\nname = \"node-{i}\"\ndata = {data:?}\n\
             [listen]\nclient = \"{client}\"\ninternal = \"{internal}\"\n\
             admin = \"{admin}\"\n[bootstrap]\nseeds = [{seeds}]\n\
             [runtime]\nthreads = 1\n[replication]\npartitions = 64\n[storage]\nmin_free = \"1MiB\"\n"
        );
        Settings::from_text(&text, "test").unwrap()
    };
    internal.iter().enumerate().map(one).collect()
}

fn start(settings: &Settings) -> Node<Worker, Control> {
    let ports = Ports::bind(&settings.listen).unwrap();
    let prepared = Prepared::open(settings).unwrap();
    Node::start(settings, prepared, ports.internal, ports.gossip, &RealCores, Traces::default())
        .unwrap()
}

async fn until(what: &str, handles: &[&Handle], is: impl Fn(&Handle) -> bool) {
    let start = Instant::now();
    while !handles.iter().all(|handle| is(handle)) {
        let states: Vec<_> = handles.iter().map(|handle| handle.gossip().to_string()).collect();
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: {}", states.join("\n"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn set(handle: &Handle, key: &str, value: &'static str) -> Outcome {
    let op = Op::set(Key::new(key.to_owned()).unwrap(), value.into(), Consistency::Quorum);
    handle.run(op, Duration::from_secs(5), None).await
}

async fn get(handle: &Handle, key: &str) -> Option<Bytes> {
    let op = Op::get(Key::new(key.to_owned()).unwrap(), Consistency::Quorum);
    match handle.run(op, Duration::from_secs(5), None).await {
        Outcome::Read(read) => read.visible.last().map(|sibling| sibling.value.clone()),
        other => panic!("{key}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn three_nodes_find_each_other_serve_lose_one_and_take_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let settings = all_settings(folder.path());
    let [a, b, c] = [0, 1, 2].map(|i| start(&settings[i]));
    let ready = |handle: &Handle| handle.not_ready().is_none();
    until("ready", &[&a.handle, &b.handle, &c.handle], ready).await;
    for i in 0..50 {
        let written = set(&a.handle, &format!("key {i}"), "before").await;
        assert!(matches!(written, Outcome::Written(_)), "{written:?}");
    }
    for i in 0..50 {
        assert_eq!(get(&c.handle, &format!("key {i}")).await, Some("before".into()));
    }

    let lost = c.handle.status().name;
    tokio::task::spawn_blocking(move || c.stop()).await.unwrap();
    let unreachable = |handle: &Handle| {
        let members = handle.status().members;
        members.iter().any(|member| member.name == lost && !member.reachable)
    };
    let stopped = Instant::now();
    until("noticed", &[&a.handle, &b.handle], unreachable).await;
    assert!(stopped.elapsed() < Duration::from_secs(2), "noticed after {:?}", stopped.elapsed());
    for i in 0..50 {
        let written = set(&b.handle, &format!("key {i}"), "after").await;
        assert!(matches!(written, Outcome::Written(_)), "{written:?}");
    }
    until("hints", &[&b.handle], |handle| handle.status().stats.hints_held > 0).await;

    let c = start(&settings[2]);
    until("ready again", &[&c.handle], ready).await;
    let no_hints = |handle: &Handle| handle.status().stats.hints_held == 0;
    until("hints replayed", &[&a.handle, &b.handle, &c.handle], no_hints).await;
    for i in 0..50 {
        assert_eq!(get(&c.handle, &format!("key {i}")).await, Some("after".into()));
    }
    for node in [a, b, c] {
        tokio::task::spawn_blocking(move || node.stop()).await.unwrap();
    }
}
