//! The service of keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::Settings;
use super::backend::Backend;
use super::error;
use super::request::{self, Fields};
use super::scan;
use super::trace::Sampling;
use crate::proto;
use crate::proto::kv_server::Kv;
use crate::protocol::context::Context;
use crate::protocol::op::{Action, Failure, Op, Outcome, Put, ReadOutcome, Reason, Receipt};
use crate::types::{ClusterId, Key, TraceContext};

/// Walks over all keys that a node carries out at a time: each reads several partitions ahead.
const SCANS_MAX: usize = 32;

pub(super) struct KvService<B> {
    backend: B,
    settings: Settings,
    requests: Gate,
    scans: Arc<Gate>,
    sampling: Sampling,
}

/// Bounds how much is under way.
pub(super) struct Gate {
    what: &'static str,
    under_way: AtomicUsize,
    most: usize,
}

/// A place in a gate; given back when dropped.
pub(super) struct Place<G: std::ops::Deref<Target = Gate>>(G);

impl Gate {
    fn new(what: &'static str, most: usize) -> Self {
        Self { what, under_way: AtomicUsize::new(0), most }
    }

    fn enter<G: std::ops::Deref<Target = Self>>(gate: G) -> Result<Place<G>, Status> {
        if gate.under_way.fetch_add(1, Ordering::Relaxed) >= gate.most {
            gate.under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(error::too_much(gate.what, gate.most));
        }
        Ok(Place(gate))
    }
}

impl<G: std::ops::Deref<Target = Gate>> Drop for Place<G> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Backend> KvService<B> {
    pub(super) fn new(backend: B, settings: Settings) -> Self {
        let requests = Gate::new("requests", settings.in_flight_max);
        let scans = Arc::new(Gate::new("scans", SCANS_MAX));
        let sampling = Sampling::new(settings.sample_ratio);
        Self { backend, settings, requests, scans, sampling }
    }

    fn cluster(&self) -> Result<(ClusterId, u16), Status> {
        let not_founded = || error::failed(&Failure::before(Reason::NotFounded), &Action::Get);
        self.backend.cluster().ok_or_else(not_founded)
    }

    async fn run(&self, name: &'static str, metadata: &MetadataMap, op: Op) -> Outcome {
        let timeout = request::timeout(metadata, self.settings.request_timeout);
        let caller = request::trace(metadata);
        let run = |trace: Option<TraceContext>| self.backend.run(op, timeout, trace);
        match self.sampling.span(name, caller) {
            None => run(caller).await,
            Some((span, own)) => tracing::Instrument::instrument(run(Some(own)), span).await,
        }
    }

    async fn write(
        &self,
        name: &'static str,
        metadata: &MetadataMap,
        op: Op,
        cluster: ClusterId,
    ) -> Result<(Bytes, proto::Receipt), Status> {
        let (key, action) = (op.key.clone(), without_value(&op.action));
        match self.run(name, metadata, op).await {
            Outcome::Written(written) => {
                let context = written.context(cluster, &key).encode();
                Ok((context, receipt(written)))
            }
            Outcome::Failed(failure) => Err(error::failed(&failure, &action)),
            Outcome::Read(_) => Err(error::defect("a write was answered like a read")),
        }
    }
}

/// What tells whether a retry is safe, without holding on to the value.
fn without_value(action: &Action) -> Action {
    match action {
        Action::Get => Action::Get,
        Action::Put(put) => {
            Action::Put(Put { value: None, ttl_ms: None, context: None, request: put.request })
        }
    }
}

#[tonic::async_trait]
impl<B: Backend> Kv for KvService<B> {
    async fn get(
        &self,
        request: Request<proto::GetRequest>,
    ) -> Result<Response<proto::GetResponse>, Status> {
        let _place = Gate::enter(&self.requests)?;
        let (metadata, _, message) = request.into_parts();
        let mut fields = Fields::default();
        let parsed = (fields.key(message.key), fields.consistency(message.consistency));
        let (Some(key), Some(consistency)) = parsed else { return Err(fields.into_status()) };
        let (cluster, _) = self.cluster()?;
        let op = Op { key: key.clone(), consistency, strict: message.strict, action: Action::Get };
        match self.run("Get", &metadata, op).await {
            Outcome::Read(read) => {
                Ok(Response::new(shown(&read, cluster, &key, message.all_siblings)))
            }
            Outcome::Failed(failure) => Err(error::failed(&failure, &Action::Get)),
            Outcome::Written(_) => Err(error::defect("a read was answered like a write")),
        }
    }

    async fn set(
        &self,
        request: Request<proto::SetRequest>,
    ) -> Result<Response<proto::SetResponse>, Status> {
        let _place = Gate::enter(&self.requests)?;
        let (metadata, _, message) = request.into_parts();
        let mut fields = Fields::default();
        let key = fields.key(message.key);
        let value = fields.value(message.value, self.settings.value_bytes_max);
        let consistency = fields.consistency(message.consistency);
        let (ttl_ms, request) =
            (fields.ttl(message.ttl_ms), fields.request_id(&message.request_id));
        let (Some(key), Some(value), Some(consistency), Some(ttl_ms), Some(request)) =
            (key, value, consistency, ttl_ms, request)
        else {
            return Err(fields.into_status());
        };
        let (cluster, _) = self.cluster()?;
        let context = context(message.context, cluster, &key)?;
        let context = context.map(|context| context.seen);
        let action = Action::Put(Put { value: Some(value), ttl_ms, context, request });
        let op = Op { key, consistency, strict: message.strict, action };
        let (context, receipt) = self.write("Set", &metadata, op, cluster).await?;
        Ok(Response::new(proto::SetResponse { context, receipt: Some(receipt) }))
    }

    async fn delete(
        &self,
        request: Request<proto::DeleteRequest>,
    ) -> Result<Response<proto::DeleteResponse>, Status> {
        let _place = Gate::enter(&self.requests)?;
        let (metadata, _, message) = request.into_parts();
        let mut fields = Fields::default();
        let (key, consistency) = (fields.key(message.key), fields.consistency(message.consistency));
        let request = fields.request_id(&message.request_id);
        let (Some(key), Some(consistency), Some(request)) = (key, consistency, request) else {
            return Err(fields.into_status());
        };
        let (cluster, _) = self.cluster()?;
        let context = context(message.context, cluster, &key)?;
        let context = context.map(|context| context.seen);
        let action = Action::Put(Put { value: None, ttl_ms: None, context, request });
        let op = Op { key, consistency, strict: message.strict, action };
        let (context, receipt) = self.write("Delete", &metadata, op, cluster).await?;
        Ok(Response::new(proto::DeleteResponse { context, receipt: Some(receipt) }))
    }

    type ScanStream = ReceiverStream<Result<proto::ScanResponse, Status>>;

    async fn scan(
        &self,
        request: Request<proto::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let place = Gate::enter(self.scans.clone())?;
        let (metadata, _, message) = request.into_parts();
        let (cluster, partitions) = self.cluster()?;
        let limit = self.settings.request_timeout;
        let walk = scan::Walk::new(message, &metadata, cluster, partitions, limit)?;
        Ok(Response::new(walk.start(self.backend.clone(), place)))
    }
}

fn context(bytes: Bytes, cluster: ClusterId, key: &Key) -> Result<Option<Context>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let refused = |error| error::failed(&Failure::before(Reason::Context(error)), &Action::Get);
    Context::decode(bytes, cluster, key).map(Some).map_err(refused)
}

/// What a client is shown of a read: the last writer's value, and the others if it wants them.
fn shown(read: &ReadOutcome, cluster: ClusterId, key: &Key, all: bool) -> proto::GetResponse {
    let sibling = |sibling: &crate::protocol::op::VisibleSibling| proto::Sibling {
        value: sibling.value.clone(),
        written_ms: sibling.dot.stamp.wall().0,
        expires_ms: sibling.expiry.map_or(0, |expiry| expiry.0),
    };
    let others = read.visible.len().saturating_sub(1);
    proto::GetResponse {
        found: !read.visible.is_empty(),
        value: read.visible.last().map(|last| last.value.clone()).unwrap_or_default(),
        context: read.context(cluster, key, all).encode(),
        siblings: u32::try_from(others).unwrap_or(u32::MAX),
        all: if all { read.visible.iter().rev().map(sibling).collect() } else { vec![] },
    }
}

fn receipt(receipt: Receipt) -> proto::Receipt {
    proto::Receipt {
        dot: format!("{:?}", receipt.dot),
        homes: receipt.homes.into_iter().map(String::from).collect(),
        hints: receipt.hints.into_iter().map(String::from).collect(),
        placement: receipt.placement,
    }
}
