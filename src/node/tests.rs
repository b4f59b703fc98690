//! Whole nodes with toys for cores, on real folders, ports and threads.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::host_tests::{Toy, seen, set};
use super::*;
use crate::api::backend::{Backend, MemberStatus};
use crate::config::Settings;
use crate::gossip::ControlCore;
use crate::peers::free_ports::free_address;
use crate::protocol::control::{ControlEffect, ControlInput};
use crate::protocol::step::{Change, Conditions, Space};
use crate::telemetry::Traces;
use crate::types::{Mono, Now};

/// Stores one entry at the start, is ready once that is durable, and drains when told to.
struct ToyControl {
    durable: bool,
    begun: bool,
    found: usize,
}

impl ControlCore for ToyControl {
    fn step(&mut self, _: Now, input: ControlInput, out: &mut Vec<ControlEffect>) {
        match input {
            ControlInput::Seeds(_) if !self.begun => {
                self.begun = true;
                let (space, key) =
                    (Space::Meta, Bytes::from(format!("control/start {}", self.found)));
                let value = Some(Bytes::from_static(b"remembered"));
                out.push(ControlEffect::Persist(1, vec![Change { space, key, value }]));
            }
            ControlInput::Persisted(1) => self.durable = true,
            ControlInput::Draining => {
                let conditions = Conditions { draining: true, ..Conditions::default() };
                out.push(ControlEffect::Conditions(conditions));
            }
            ControlInput::Datagram(_, bytes) if bytes == "stop" => {
                out.push(ControlEffect::Stop("told by a test".into()));
            }
            _ => {}
        }
    }
    fn next_timer(&self) -> Option<Mono> {
        None
    }
    fn hello(&self, _: Now) -> Bytes {
        Bytes::new()
    }
    fn settled(&self) -> bool {
        self.durable
    }
}

impl Reports for ToyControl {
    fn members(&self, _: Now) -> Vec<MemberStatus> {
        vec![MemberStatus { name: "toy".into(), ..MemberStatus::default() }]
    }
    fn not_ready(&self, _: Now) -> Option<String> {
        (!self.durable).then(|| "waiting for the disk".into())
    }
    fn has_placement(&self) -> bool {
        false
    }
    fn gossip_report(&self, _: Now) -> serde_json::Value {
        serde_json::json!({ "found": self.found })
    }
}

struct Toys;

impl Cores for Toys {
    type Worker = Toy;
    type Control = ToyControl;
    fn worker(&self, _: &Start<'_>, _: usize) -> Toy {
        Toy::default()
    }
    fn control(&self, start: Start<'_>) -> anyhow::Result<ToyControl> {
        assert!(start.meta.iter().all(|(_, value)| value == "remembered"));
        Ok(ToyControl { durable: false, begun: false, found: start.meta.len() })
    }
}

type Handle = NodeHandle<Toy, ToyControl>;

fn settings(data: &Path, more: &str) -> Settings {
    let ports = [free_address(), free_address(), free_address()];
    let text = format!(
        "[node]\nname = \"node-0\"\ndata = {data:?}\n\
         [listen]\nclient = \"{}\"\ninternal = \"{}\"\nadmin = \"{}\"\n\
         [runtime]\nthreads = 1\n[storage]\nmin_free = \"1MiB\"\n{more}",
        ports[0], ports[1], ports[2]
    );
    Settings::from_text(&text, "test").unwrap()
}

/// Services that let the test see the handle, by way of the admin port.
fn services() -> Services<Handle> {
    Services {
        grpc: |_, _, _, close| {
            Box::pin(async move {
                close.cancelled_owned().await;
                Ok(())
            })
        },
        admin: |listener, handle, _, close| {
            Box::pin(async move {
                let app = admin(&handle);
                let served = axum::serve(listener, app);
                Ok(served.with_graceful_shutdown(close.cancelled_owned()).await?)
            })
        },
    }
}

fn admin(handle: &Handle) -> axum::Router {
    let (status, stuck, to_set) = (handle.clone(), handle.clone(), handle.clone());
    let status = move || async move { axum::Json(status.status()) };
    let stuck = move || async move { format!("{:?}", stuck.stuck()) };
    let set = move || async move {
        format!("{:?}", to_set.run(set(), Duration::from_secs(5), None).await)
    };
    axum::Router::new()
        .route("/status", axum::routing::get(status))
        .route("/stuck", axum::routing::get(stuck))
        .route("/set", axum::routing::get(set))
}

/// A node that runs on a thread of its own until told to stop.
struct Running {
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
    stop: Option<oneshot::Sender<()>>,
    admin: SocketAddr,
}

fn start(settings: &Settings) -> Running {
    let (stop, stopped) = oneshot::channel();
    let admin = settings.listen.admin;
    let settings = settings.clone();
    let thread = std::thread::spawn(move || {
        run(&settings, &Toys, &services(), async {
            let _ = stopped.await;
        })
    });
    Running { thread: Some(thread), stop: Some(stop), admin }
}

impl Running {
    fn get(&self, path: &str) -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut stream = tokio::net::TcpStream::connect(self.admin).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        })
    }

    fn until(&self, path: &str, text: &str) -> String {
        let start = Instant::now();
        loop {
            match self.get(path) {
                Some(answer) if answer.contains(text) => return answer,
                answer => assert!(start.elapsed() < Duration::from_secs(20), "{answer:?}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }

    fn stop(mut self) -> anyhow::Result<()> {
        let _ = self.stop.take().unwrap().send(());
        self.end()
    }
}

#[test]
fn a_node_serves_stops_and_finds_what_it_stored_when_it_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    for (round, durability) in ["fsync", "buffered", "fsync"].into_iter().enumerate() {
        let more = format!("durability = \"{durability}\"");
        let settings = settings(&folder.path().join("data"), &more);
        let node = start(&settings);
        let status = node.until("/status", "\"not_ready\":null");
        assert!(status.contains("\"name\":\"toy\"") && status.contains(durability), "{status}");
        assert!(node.until("/set", "200 OK").contains(&format!("{:?}", seen(0))));
        assert!(node.until("/stuck", "200 OK").contains("None"));
        // One entry more each time: what the control core stored is handed to the next one.
        let started = Instant::now();
        node.stop().unwrap();
        assert!(started.elapsed() < Duration::from_secs(4), "round {round}: stopped slowly");
    }
    let settings = settings(&folder.path().join("data"), "");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(async {
        let ports = Ports::bind(&settings.listen).unwrap();
        let prepared = Prepared::open(&settings).unwrap();
        let node = Node::start(
            &settings,
            prepared,
            ports.internal,
            ports.gossip,
            &Toys,
            Traces::default(),
        )
        .unwrap();
        let found = node.handle.gossip()["found"].as_u64();
        node.stop();
        found
    });
    assert_eq!(found, Some(3));
}

#[test]
fn a_port_in_use_is_an_error_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let settings = settings(&data, "");
    let _taken = TcpListener::bind(settings.listen.client).unwrap();
    let error = start(&settings).end().unwrap_err().to_string();
    assert!(error.contains("clients (gRPC)") && error.contains("listen.client"), "{error}");
    assert!(!data.exists(), "something was written");
}

#[test]
fn a_second_node_on_one_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(&settings(&folder.path().join("data"), ""));
    first.until("/status", "\"not_ready\":null");
    let error = start(&settings(&folder.path().join("data"), "")).end().unwrap_err().to_string();
    assert!(error.contains("in use by process"), "{error}");
    first.stop().unwrap();
}

#[test]
fn a_control_core_that_says_stop_stops_the_node_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder.path().join("data"), "");
    let mut node = start(&settings);
    node.until("/status", "\"not_ready\":null");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"stop", settings.listen.internal).unwrap();
    assert_eq!(node.end().unwrap_err().to_string(), "told by a test");
}
