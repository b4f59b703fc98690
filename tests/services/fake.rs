//! A node that lives in memory and does what a test tells it to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coterie::api::backend::{Backend, HintsHeld, MemberStatus, NodeStatus, TargetHints};
use coterie::api::calls::Calls;
use coterie::api::{self, Settings};
use coterie::metrics::Page;
use coterie::proto::kv_client::KvClient;
use coterie::protocol::control::{Agreed, Order, Refusal};
use coterie::protocol::op::{Action, Failure, Op, Outcome, ReadOutcome, Receipt, VisibleSibling};
use coterie::protocol::placement::{Member, Placement, View};
use coterie::protocol::quorum::Consistency;
use coterie::protocol::record::{Content, Record, Sibling, VersionVector};
use coterie::protocol::step::{MergedPage, ReadFailed};
use coterie::protocol::worker::inspect::{Inspection, StoredCopy};
use coterie::telemetry::Traces;
use coterie::types::{
    Actor, Boot, ClusterId, Dot, Key, NodeId, NodeName, Partition, RequestId, Stamp, TraceContext,
    Wall,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::Channel;

pub const CLUSTER: ClusterId = ClusterId(7);
pub const PARTITIONS: u16 = 16;

/// A shared node: clones see the same.
#[derive(Clone, Default)]
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    /// Where the spans of requests go.
    pub traces: Traces,
    calls: Arc<Calls>,
}

#[derive(Default)]
pub struct State {
    pub records: BTreeMap<Bytes, Record>,
    /// What each op ends with, if not by being done.
    pub fails_with: Option<Failure>,
    /// What the next op of a key ends with.
    pub fail_once: BTreeMap<Bytes, Failure>,
    /// How many ops each batch had.
    pub batches: Vec<usize>,
    /// Ops wait for this long.
    pub delay: Duration,
    /// How many ops have begun.
    pub begun: usize,
    /// What was asked, in order.
    pub asked: Vec<(Op, Duration, Option<TraceContext>)>,
    /// Whether the cluster is not founded.
    pub unfounded: bool,
    pub not_ready: Option<String>,
    pub stuck: Option<String>,
    /// What it says of itself and the cluster, if not what every fake says.
    pub status: Option<NodeStatus>,
    pub scans: usize,
    /// Whether the store cannot be read.
    pub unreadable: bool,
    /// What was ordered, in order.
    pub ordered: Vec<Order>,
    /// What the next order ends with; none: it is never answered.
    pub order_ends: Option<Result<Agreed, Refusal>>,
    /// Scans of partitions from this one on fail.
    pub scans_fail_from: Option<u16>,
    stamp: u64,
}

/// A running server; it stops when dropped.
pub struct Server {
    pub address: String,
    pub ended: tokio::task::JoinHandle<()>,
    pub stop: oneshot::Sender<()>,
}

pub fn settings() -> Settings {
    Settings {
        value_bytes_max: 1000,
        request_timeout: Duration::from_secs(5),
        in_flight_max: 100,
        connections_max: 100,
        sample_ratio: 0.0,
        slow_request: Duration::from_secs(1),
        grace: Duration::from_millis(200),
    }
}

impl Fake {
    pub async fn serve(&self) -> Server {
        self.serve_with(settings()).await
    }

    pub async fn serve_with(&self, settings: Settings) -> Server {
        self.serve_at("127.0.0.1:0".parse().unwrap(), settings).await
    }

    pub async fn serve_at(&self, address: SocketAddr, settings: Settings) -> Server {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let node = self.clone();
        let ended = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            api::serve(listener, node, settings, shutdown).await.unwrap();
        });
        Server { address, ended, stop }
    }

    pub fn failing(failure: Failure) -> Self {
        let fake = Self::default();
        fake.state.lock().unwrap().fails_with = Some(failure);
        fake
    }

    pub fn put(&self, key: &str, value: &str) {
        let op = Op::set(Key::new(key.to_owned()).unwrap(), value.to_owned().into(), QUORUM);
        self.state.lock().unwrap().apply(&op);
    }

    /// Adds a value that its writer had not seen the others for.
    pub fn put_sibling(&self, key: &str, value: &str) {
        let mut state = self.state.lock().unwrap();
        state.stamp += 1;
        let sibling = Sibling {
            dot: Dot::new(Actor(100 + state.stamp), Stamp(state.stamp << 16)),
            content: Content::Value(value.to_owned().into()),
            expiry: None,
            request: None,
        };
        let record = state.records.entry(key.to_owned().into()).or_default();
        *record = record.write(&VersionVector::default(), sibling);
    }

    pub fn request_ids(&self) -> Vec<RequestId> {
        let state = self.state.lock().unwrap();
        let id = |op: &Op| match &op.action {
            Action::Put(put) => put.request,
            Action::Get => None,
        };
        state.asked.iter().filter_map(|asked| id(&asked.0)).collect()
    }
}

pub const QUORUM: Consistency = Consistency::Quorum;

impl State {
    fn apply(&mut self, op: &Op) -> Outcome {
        let record = self.records.get(op.key.bytes()).cloned().unwrap_or_default();
        let Action::Put(put) = &op.action else { return read(&record) };
        self.stamp += 1;
        let dot = Dot::new(Actor(1), Stamp(self.stamp << 16));
        let content = put.value.clone().map_or(Content::Tombstone, Content::Value);
        let expiry = put.ttl_ms.map(|ttl| Wall(wall() + ttl));
        let base = put.context.clone().unwrap_or_else(|| record.seen().clone());
        let record = record.write(&base, Sibling { dot, content, expiry, request: put.request });
        let seen = record.seen().clone();
        self.records.insert(op.key.bytes().clone(), record);
        let homes = vec![NodeName::new("node-0").unwrap(), NodeName::new("node-1").unwrap()];
        let hints = vec![];
        Outcome::Written(Receipt { dot, seen, partial: false, homes, hints, placement: 1 })
    }
}

fn read(record: &Record) -> Outcome {
    let visible = record.visible(Wall(wall())).into_iter().map(|sibling| VisibleSibling {
        value: sibling.value().unwrap().clone(),
        dot: sibling.dot,
        expiry: sibling.expiry,
    });
    let (visible, seen) = (visible.collect(), record.seen().clone());
    Outcome::Read(ReadOutcome { visible, seen, degraded: false })
}

fn wall() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

impl Backend for Fake {
    async fn run(&self, op: Op, timeout: Duration, trace: Option<TraceContext>) -> Outcome {
        let delay = {
            let mut state = self.state.lock().unwrap();
            state.begun += 1;
            state.delay
        };
        tokio::time::sleep(delay).await;
        let mut state = self.state.lock().unwrap();
        state.asked.push((op.clone(), timeout, trace));
        let once = state.fail_once.remove(op.key.bytes());
        match once.or_else(|| state.fails_with.clone()) {
            Some(failure) => Outcome::Failed(failure),
            None => state.apply(&op),
        }
    }

    async fn run_many(
        &self,
        ops: Vec<Op>,
        timeout: Duration,
        trace: Option<TraceContext>,
    ) -> Vec<Outcome> {
        self.state.lock().unwrap().batches.push(ops.len());
        let mut outcomes = Vec::new();
        for op in ops {
            outcomes.push(self.run(op, timeout, trace).await);
        }
        outcomes
    }

    /// Pages of two entries, so that most partitions have several.
    async fn scan(
        &self,
        partition: Partition,
        after: Bytes,
        _: u32,
        _: Consistency,
        _: Duration,
    ) -> Result<MergedPage, Failure> {
        let mut state = self.state.lock().unwrap();
        state.scans += 1;
        if state.scans_fail_from.is_some_and(|from| partition.0 >= from) {
            return Err(state.fails_with.clone().unwrap());
        }
        let records = state.records.iter().map(|(k, r)| (Key::new(k.clone()).unwrap(), r.clone()));
        let inside = records.filter(|(key, _)| key.partition(PARTITIONS) == partition);
        let mut behind = inside.filter(|(key, _)| *key.bytes() > after).peekable();
        let entries: Vec<_> = behind.by_ref().take(2).collect();
        let more = behind.peek().is_some();
        let next = entries.last().filter(|_| more).map(|(key, _)| key.clone());
        Ok(MergedPage { entries, next })
    }

    fn cluster(&self) -> Option<(ClusterId, u16)> {
        let unfounded = self.state.lock().unwrap().unfounded;
        (!unfounded).then_some((CLUSTER, PARTITIONS))
    }

    fn view(&self) -> Option<Arc<View>> {
        let (cluster, partitions) = self.cluster()?;
        let name = |name: &str| NodeName::new(name).unwrap();
        let zone = |name: &str| format!("zone-{name}");
        let member = |text| Member { name: name(text), zone: zone(text), weight: 1 };
        let members = ["node-0", "node-1", "node-2", "node-3"].map(member);
        let placement = Placement::found(members.into(), 3, partitions);
        let ids = BTreeMap::from([(name("node-0"), NodeId(1))]);
        let view = View::new(NodeId(1), name("node-0"), Boot(1), cluster, Arc::new(placement), ids);
        Some(Arc::new(view))
    }

    /// The record is its own copy; what is under `damaged` is damaged, and kept for node-1 whole.
    async fn inspect(&self, view: Arc<View>, key: Key) -> Result<Inspection, ReadFailed> {
        let state = self.state.lock().unwrap();
        if state.unreadable {
            return Err(ReadFailed);
        }
        let partition = key.partition(view.partitions());
        let whole =
            |record: &Record| StoredCopy::Whole(record.seal(partition, &key), record.clone());
        let stored = state.records.get(key.bytes()).map_or(StoredCopy::Absent, whole);
        let damaged = key.bytes() == "damaged";
        let hints =
            if damaged { vec![(NodeName::new("node-1").unwrap(), stored.clone())] } else { vec![] };
        let own = if damaged { StoredCopy::Damaged } else { stored };
        let home = view.newest().homes(partition).contains(&0);
        Ok(Inspection { partition, home, rebuilding: damaged, own, hints })
    }

    async fn hints(&self, _: Duration) -> Result<HintsHeld, ReadFailed> {
        if self.state.lock().unwrap().unreadable {
            return Err(ReadFailed);
        }
        let target = NodeName::new("node-1").unwrap();
        let oldest_write = Some(Wall(1_700_000_000_000));
        let held = TargetHints { target, hints: 3, bytes: 210, damaged: 1, oldest_write };
        Ok(HintsHeld { targets: vec![held], complete: false })
    }

    async fn order(&self, order: Order) -> Result<Agreed, Refusal> {
        let ends = {
            let mut state = self.state.lock().unwrap();
            state.ordered.push(order);
            state.order_ends.clone()
        };
        match ends {
            Some(ends) => ends,
            None => std::future::pending().await,
        }
    }

    fn status(&self) -> NodeStatus {
        if let Some(status) = self.state.lock().unwrap().status.clone() {
            return status;
        }
        let member = MemberStatus { name: "node-1".to_owned(), ..MemberStatus::default() };
        NodeStatus {
            name: "node-0".to_owned(),
            replicas: 3,
            not_ready: self.state.lock().unwrap().not_ready.clone(),
            members: vec![member],
            ..NodeStatus::default()
        }
    }

    fn gossip(&self) -> serde_json::Value {
        serde_json::json!({
            "node": "node-0",
            "differences": [],
            "members": [{"name": "node-1", "state": "alive"}],
        })
    }

    fn stuck(&self) -> Option<String> {
        self.state.lock().unwrap().stuck.clone()
    }

    fn calls(&self) -> Arc<Calls> {
        self.calls.clone()
    }

    fn traces(&self) -> Traces {
        self.traces.clone()
    }

    fn metrics(&self) -> Page {
        let mut page = Page::default();
        self.calls.write(&mut page);
        page
    }
}

pub async fn kv(server: &Server) -> KvClient<Channel> {
    KvClient::connect(format!("http://{}", server.address)).await.unwrap()
}
