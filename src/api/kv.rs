//! The service of keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::Settings;
use super::backend::Backend;
use super::batch::{self, Batch};
use super::error;
use super::request::{self, Fields};
use super::scan;
use super::trace::{Sampling, Traced};
use crate::proto;
use crate::proto::kv_server::Kv;
use crate::protocol::context::Context;
use crate::protocol::op::{Action, Failure, Op, Outcome, Put, Reason, Receipt, VisibleSibling};
use crate::types::{ClusterId, Key};

/// Walks over all keys that a node carries out at a time: each reads several partitions ahead.
const SCANS_MAX: usize = 32;

pub(super) struct KvService<B> {
    backend: B,
    settings: Settings,
    requests: Gate,
    scans: Arc<Gate>,
    sampling: Arc<Sampling>,
}

/// A call that has begun. Every answer ends it, a refusal like any other.
struct Call {
    metadata: MetadataMap,
    /// How long it may take.
    timeout: Duration,
    traced: Traced,
}

/// Bounds how much is under way.
pub(super) struct Gate {
    what: &'static str,
    under_way: AtomicUsize,
    most: usize,
}

/// Places in a gate; given back when dropped.
pub(super) struct Place<G: std::ops::Deref<Target = Gate>>(G, usize);

impl Gate {
    fn new(what: &'static str, most: usize) -> Self {
        Self { what, under_way: AtomicUsize::new(0), most }
    }

    /// Takes so many places; what needs more than there are takes all.
    fn enter<G: std::ops::Deref<Target = Self>>(gate: G, count: usize) -> Result<Place<G>, Status> {
        let count = count.min(gate.most).max(1);
        if gate.under_way.fetch_add(count, Ordering::Relaxed) + count > gate.most {
            gate.under_way.fetch_sub(count, Ordering::Relaxed);
            return Err(error::too_much(gate.what, gate.most));
        }
        Ok(Place(gate, count))
    }
}

impl<G: std::ops::Deref<Target = Gate>> Drop for Place<G> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// What is needed to answer for an op that has been handed over.
pub(super) struct Answering {
    key: Key,
    /// Without its value: what tells whether a retry is safe.
    action: Action,
}

/// A write as a client sent it; no value: a delete.
pub(super) struct PutParts {
    pub(super) key: Bytes,
    pub(super) value: Option<Bytes>,
    pub(super) ttl_ms: u64,
    pub(super) request_id: Bytes,
    pub(super) context: Bytes,
}

impl Answering {
    pub(super) fn of(op: &Op) -> Self {
        let action = match &op.action {
            Action::Get => Action::Get,
            Action::Put(put) => {
                Action::Put(Put { value: None, ttl_ms: None, context: None, request: put.request })
            }
        };
        Self { key: op.key.clone(), action }
    }
}

impl<B: Backend> KvService<B> {
    pub(super) fn new(backend: B, settings: Settings) -> Self {
        let requests = Gate::new("requests", settings.in_flight_max);
        let scans = Arc::new(Gate::new("scans", SCANS_MAX));
        let (ratio, slow) = (settings.sample_ratio, settings.slow_request);
        let sampling = Arc::new(Sampling::new(backend.traces(), ratio, slow));
        Self { backend, settings, requests, scans, sampling }
    }

    fn cluster(&self) -> Result<(ClusterId, u16), Status> {
        let not_founded = || error::failed(&Failure::before(Reason::NotFounded), &Action::Get);
        self.backend.cluster().ok_or_else(not_founded)
    }

    /// Begins a call: before anything can refuse it.
    fn begin<M>(&self, method: &'static str, request: Request<M>) -> (Call, M) {
        let (metadata, _, message) = request.into_parts();
        let timeout = request::timeout(&metadata, self.settings.request_timeout);
        let traced = self.sampling.begin(method, request::caller(&metadata));
        (Call { metadata, timeout, traced }, message)
    }

    async fn run(&self, call: &Call, op: Op) -> Outcome {
        self.backend.run(op, call.timeout, call.traced.context()).await
    }

    async fn read(
        &self,
        call: &Call,
        message: proto::GetRequest,
    ) -> Result<proto::GetResponse, Status> {
        let _place = Gate::enter(&self.requests, 1)?;
        let mut fields = Fields::default();
        let parsed = (fields.key(message.key), fields.consistency(message.consistency));
        let (Some(key), Some(consistency)) = parsed else { return Err(fields.into_status()) };
        let (cluster, _) = self.cluster()?;
        let op = Op { key, consistency, strict: message.strict, action: Action::Get };
        let asked = Answering::of(&op);
        shown(self.run(call, op).await, cluster, &asked, message.all_siblings)
    }

    async fn write(
        &self,
        call: &Call,
        parts: PutParts,
        how: (i32, bool),
    ) -> Result<(Bytes, Option<proto::Receipt>), Status> {
        let _place = Gate::enter(&self.requests, 1)?;
        let mut cluster = ClusterId(0);
        let op = put(Fields::default(), parts, how, self.settings.value_bytes_max, || {
            cluster = self.cluster()?.0;
            Ok(cluster)
        })?;
        let asked = Answering::of(&op);
        let (context, receipt) = written(self.run(call, op).await, cluster, &asked)?;
        Ok((context, Some(receipt)))
    }

    async fn read_many(
        &self,
        call: &mut Call,
        message: proto::BatchGetRequest,
    ) -> Result<proto::BatchGetResponse, Status> {
        let mut fields = Fields::default();
        let fits = batch::check_gets(&mut fields, &message.keys);
        let consistency = fields.consistency(message.consistency);
        let (Some(()), Some(_)) = (fits, consistency) else {
            return Err(fields.into_status());
        };
        let _place = Gate::enter(&self.requests, message.keys.len())?;
        let common = self.common(message.consistency, message.strict)?;
        let mut batch = Batch::of_gets(message.keys, common);
        let outcomes = self.run_batch(call, &mut batch).await;
        let results = batch.got(outcomes, common.cluster, message.all_siblings);
        Ok(proto::BatchGetResponse { results })
    }

    async fn write_many(
        &self,
        call: &mut Call,
        message: proto::BatchSetRequest,
    ) -> Result<proto::BatchSetResponse, Status> {
        let mut fields = Fields::default();
        let value_bytes_max = self.settings.value_bytes_max;
        let fits = batch::check_sets(&mut fields, &message.entries, value_bytes_max);
        let consistency = fields.consistency(message.consistency);
        let (Some(()), Some(_)) = (fits, consistency) else {
            return Err(fields.into_status());
        };
        let _place = Gate::enter(&self.requests, message.entries.len())?;
        let common = self.common(message.consistency, message.strict)?;
        let mut batch = Batch::of_sets(message.entries, common);
        let outcomes = self.run_batch(call, &mut batch).await;
        let results = batch.written(outcomes, common.cluster);
        Ok(proto::BatchSetResponse { results })
    }

    /// Runs a batch; its answer begins where its outcomes are.
    async fn run_batch(&self, call: &mut Call, batch: &mut Batch) -> Vec<Outcome> {
        let ops = std::mem::take(&mut batch.ops);
        let outcomes = self.backend.run_many(ops, call.timeout, call.traced.context()).await;
        let mut failures = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Failed(failure) => Some(error::failed(failure, &Action::Get)),
            Outcome::Read(_) | Outcome::Written(_) => None,
        });
        if let Some(status) = failures.find(|status| error::is_of_server(status.code())) {
            call.traced.note_failed(status);
        }
        outcomes
    }

    fn walk(
        &self,
        call: &Call,
        message: proto::ScanRequest,
    ) -> Result<(scan::Walk, Place<Arc<Gate>>), Status> {
        let place = Gate::enter(self.scans.clone(), 1)?;
        let (cluster, partitions) = self.cluster()?;
        let limit = self.settings.request_timeout;
        let walk = scan::Walk::new(message, &call.metadata, cluster, partitions, limit)?;
        Ok((walk, place))
    }

    /// What the keys of a batch have in common, once the batch as a whole is known to be valid.
    fn common(&self, consistency: i32, strict: bool) -> Result<batch::Common, Status> {
        let (cluster, _) = self.cluster()?;
        let value_bytes_max = self.settings.value_bytes_max;
        Ok(batch::Common { consistency, strict, cluster, value_bytes_max })
    }
}

#[tonic::async_trait]
impl<B: Backend> Kv for KvService<B> {
    async fn get(
        &self,
        request: Request<proto::GetRequest>,
    ) -> Result<Response<proto::GetResponse>, Status> {
        let (call, message) = self.begin("coterie.v1.Kv/Get", request);
        let answer = self.read(&call, message).await;
        call.end(answer)
    }

    async fn set(
        &self,
        request: Request<proto::SetRequest>,
    ) -> Result<Response<proto::SetResponse>, Status> {
        let (call, message) = self.begin("coterie.v1.Kv/Set", request);
        let how = (message.consistency, message.strict);
        let proto::SetRequest { key, value, context, ttl_ms, request_id, .. } = message;
        let parts = PutParts { key, value: Some(value), ttl_ms, request_id, context };
        let written = self.write(&call, parts, how).await;
        call.end(written.map(|(context, receipt)| proto::SetResponse { context, receipt }))
    }

    async fn delete(
        &self,
        request: Request<proto::DeleteRequest>,
    ) -> Result<Response<proto::DeleteResponse>, Status> {
        let (call, message) = self.begin("coterie.v1.Kv/Delete", request);
        let how = (message.consistency, message.strict);
        let proto::DeleteRequest { key, context, request_id, .. } = message;
        let parts = PutParts { key, value: None, ttl_ms: 0, request_id, context };
        let written = self.write(&call, parts, how).await;
        call.end(written.map(|(context, receipt)| proto::DeleteResponse { context, receipt }))
    }

    async fn batch_get(
        &self,
        request: Request<proto::BatchGetRequest>,
    ) -> Result<Response<proto::BatchGetResponse>, Status> {
        let (mut call, message) = self.begin("coterie.v1.Kv/BatchGet", request);
        let answer = self.read_many(&mut call, message).await;
        call.end(answer)
    }

    async fn batch_set(
        &self,
        request: Request<proto::BatchSetRequest>,
    ) -> Result<Response<proto::BatchSetResponse>, Status> {
        let (mut call, message) = self.begin("coterie.v1.Kv/BatchSet", request);
        let answer = self.write_many(&mut call, message).await;
        call.end(answer)
    }

    type ScanStream = ReceiverStream<Result<proto::ScanResponse, Status>>;

    async fn scan(
        &self,
        request: Request<proto::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let (call, message) = self.begin("coterie.v1.Kv/Scan", request);
        match self.walk(&call, message) {
            // It ends with its last answer.
            Ok((walk, place)) => {
                Ok(Response::new(walk.start(self.backend.clone(), place, call.traced)))
            }
            Err(status) => call.end(Err(status)),
        }
    }
}

impl Call {
    fn end<T>(self, answer: Result<T, Status>) -> Result<Response<T>, Status> {
        self.traced.end(&answer);
        answer.map(Response::new)
    }
}

/// The op of a write, with its consistency and whether it is strict. Its context is looked at only once everything else is valid, for that needs
/// the cluster.
pub(super) fn put(
    mut fields: Fields,
    parts: PutParts,
    (consistency, strict): (i32, bool),
    value_bytes_max: usize,
    cluster: impl FnOnce() -> Result<ClusterId, Status>,
) -> Result<Op, Status> {
    let key = fields.key(parts.key);
    let value = match parts.value {
        Some(value) => fields.value(value, value_bytes_max).map(Some),
        None => Some(None),
    };
    let consistency = fields.consistency(consistency);
    let (ttl_ms, request) = (fields.ttl(parts.ttl_ms), fields.request_id(&parts.request_id));
    let (Some(key), Some(value), Some(consistency), Some(ttl_ms), Some(request), false) =
        (key, value, consistency, ttl_ms, request, fields.any_refused())
    else {
        return Err(fields.into_status());
    };
    let context = context(parts.context, cluster()?, &key)?.map(|context| context.seen);
    Ok(Op {
        key,
        consistency,
        strict,
        action: Action::Put(Put { value, ttl_ms, context, request }),
    })
}

fn context(bytes: Bytes, cluster: ClusterId, key: &Key) -> Result<Option<Context>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let refused = |error| error::failed(&Failure::before(Reason::Context(error)), &Action::Get);
    Context::decode(bytes, cluster, key).map(Some).map_err(refused)
}

/// What a client is shown of a read: the last writer's value, and the others if it wants them.
pub(super) fn shown(
    outcome: Outcome,
    cluster: ClusterId,
    asked: &Answering,
    all: bool,
) -> Result<proto::GetResponse, Status> {
    let read = match outcome {
        Outcome::Read(read) => read,
        Outcome::Failed(failure) => return Err(error::failed(&failure, &asked.action)),
        Outcome::Written(_) => return Err(error::defect("a read was answered like a write")),
    };
    let sibling = |sibling: &VisibleSibling| proto::Sibling {
        value: sibling.value.clone(),
        written_ms: sibling.dot.stamp.wall().0,
        expires_ms: sibling.expiry.map_or(0, |expiry| expiry.0),
    };
    let last = read.visible.last();
    let others = read.visible.len().saturating_sub(1);
    Ok(proto::GetResponse {
        found: last.is_some(),
        value: last.map(|last| last.value.clone()).unwrap_or_default(),
        context: read.context(cluster, &asked.key, all).encode(),
        siblings: u32::try_from(others).unwrap_or(u32::MAX),
        expires_ms: last.and_then(|last| last.expiry).map_or(0, |expiry| expiry.0),
        all: if all { read.visible.iter().rev().map(sibling).collect() } else { vec![] },
    })
}

/// The context and the receipt of a write.
pub(super) fn written(
    outcome: Outcome,
    cluster: ClusterId,
    asked: &Answering,
) -> Result<(Bytes, proto::Receipt), Status> {
    match outcome {
        Outcome::Written(written) => {
            Ok((written.context(cluster, &asked.key).encode(), receipt(written)))
        }
        Outcome::Failed(failure) => Err(error::failed(&failure, &asked.action)),
        Outcome::Read(_) => Err(error::defect("a write was answered like a read")),
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
