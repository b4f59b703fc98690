//! A client that knows all nodes of a cluster.
//!
//! ```text
//!  get · set · delete ──▶ pick a node ──▶ call, bounded by tokio::time::timeout ──▶ answer
//!                            ▲                        │
//!                            └── elsewhere, the same request id ◀── node silent, gone, overloaded
//! ```
//!
//! - Every write carries a request id: random, unless the caller gives one. A second attempt
//!   therefore never becomes a second write that a reader could tell apart.
//! - Every call ends within its timeout, whatever the transport does.
//! - An [`Error`] says whether the outcome is known: it is unknown as soon as *any* attempt may
//!   have reached a coordinator and none has brought an answer that settles it.
//! - A node that failed is asked last until it answers again; one request at a time probes it.

mod admin;
mod error;
mod nodes;
mod scan;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

pub use self::error::{Error, ErrorKind};
use self::nodes::{Node, Nodes};
pub use self::scan::{Entry, Scan, ScanOptions, ScanPage};
use crate::proto;
use crate::proto::kv_client::KvClient;
pub use crate::protocol::quorum::Consistency;

/// The largest answer that is taken: a record of the default `limits.record_bytes` and more.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How a client behaves; the defaults suit a cluster on one network.
#[derive(Clone, Debug)]
pub struct Options {
    /// A call ends after this, attempts and pauses included.
    pub timeout: Duration,
    /// One attempt ends after this, if there is another node to ask.
    pub attempt_timeout: Duration,
    /// A connection must be made within this.
    pub connect_timeout: Duration,
    /// How often a call is tried in all; at least 1.
    pub attempts: u32,
    /// Connections to each node; at least 1.
    pub channels_per_node: usize,
    /// For calls that do not say otherwise.
    pub consistency: Consistency,
    /// For calls that do not say otherwise.
    pub strict: bool,
}

/// What a read asks for beyond the key; what is unset comes from [`Options`].
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// R.
    pub consistency: Option<Consistency>,
    /// Read-your-writes and monotonic reads.
    pub strict: Option<bool>,
    /// Fill [`Reading::all`].
    pub all_siblings: bool,
    /// The call ends after this.
    pub timeout: Option<Duration>,
}

/// What a write asks for beyond key and value; what is unset comes from [`Options`].
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// W.
    pub consistency: Option<Consistency>,
    /// Read-your-writes and monotonic reads.
    pub strict: Option<bool>,
    /// The context of the read that this write is based on; empty: overwrite.
    pub context: Bytes,
    /// How long the value lives; none: for ever. Ignored by deletes.
    pub ttl: Option<Duration>,
    /// Names the request; none: a random one.
    pub request_id: Option<[u8; 16]>,
    /// The call ends after this.
    pub timeout: Option<Duration>,
}

/// A value that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The last writer's value.
    pub value: Bytes,
    /// To be given back with the next write of the key.
    pub context: Bytes,
    /// How many other concurrent values exist.
    pub siblings: u32,
}

/// Everything that a read tells, also of an absent key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The last writer's value; none if the key is absent.
    pub value: Option<Bytes>,
    /// To be given back with the next write of the key.
    pub context: Bytes,
    /// How many other concurrent values exist.
    pub siblings: u32,
    /// All of them, the last writer's first, if they were asked for.
    pub all: Vec<proto::Sibling>,
}

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// To be given back with the next write of the key.
    pub context: Bytes,
    /// What the write has reached.
    pub receipt: proto::Receipt,
}

/// A client of one cluster. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nodes: Nodes,
    options: Options,
}

/// Whether a call can change anything: the outcome of one that cannot is always known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Reads,
    Writes,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_millis(1500),
            connect_timeout: Duration::from_secs(1),
            attempts: 4,
            channels_per_node: 1,
            consistency: Consistency::Quorum,
            strict: false,
        }
    }
}

impl Client {
    /// A client of the cluster whose nodes listen for clients at `addresses` (`host:port`).
    /// Connections are made when they are needed. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is no address, or one that is none.
    pub fn connect<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        options: Options,
    ) -> Result<Self, Error> {
        let nodes = Nodes::new(addresses.into_iter().map(Into::into), &options)?;
        Ok(Self { shared: Arc::new(Shared { nodes, options }) })
    }

    /// The addresses that the client knows.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.shared.nodes.all().iter().map(|node| node.address.as_str())
    }

    /// Reads a key. None if it is absent.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Got>, Error> {
        let reading = self.get_with(key, &ReadOptions::default()).await?;
        let Reading { value, context, siblings, .. } = reading;
        Ok(value.map(|value| Got { value, context, siblings }))
    }

    /// Reads a key in the way that `options` says.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        options: &ReadOptions,
    ) -> Result<Reading, Error> {
        let message = proto::GetRequest {
            key: key.into(),
            consistency: self.consistency(options.consistency),
            strict: options.strict.unwrap_or(self.shared.options.strict),
            all_siblings: options.all_siblings,
        };
        let answer = self
            .call(message, Effect::Reads, options.timeout, |mut kv, request| async move {
                kv.get(request).await
            })
            .await?;
        Ok(Reading {
            value: answer.found.then_some(answer.value),
            context: answer.context,
            siblings: answer.siblings,
            all: answer.all,
        })
    }

    /// Writes a value, over whatever is there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Written, Error> {
        self.set_with(key, value, &WriteOptions::default()).await
    }

    /// Writes a value in the way that `options` says.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_with(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        let message = proto::SetRequest {
            key: key.into(),
            value: value.into(),
            context: options.context.clone(),
            consistency: self.consistency(options.consistency),
            strict: options.strict.unwrap_or(self.shared.options.strict),
            ttl_ms: options.ttl.map_or(0, millis),
            request_id: request_id(options),
        };
        let answer = self
            .call(message, Effect::Writes, options.timeout, |mut kv, request| async move {
                kv.set(request).await
            })
            .await?;
        Ok(Written { context: answer.context, receipt: answer.receipt.unwrap_or_default() })
    }

    /// Deletes a key, whatever is there; deleting an absent key succeeds.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Written, Error> {
        self.delete_with(key, &WriteOptions::default()).await
    }

    /// Deletes a key in the way that `options` says.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_with(
        &self,
        key: impl Into<Bytes>,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        let message = proto::DeleteRequest {
            key: key.into(),
            context: options.context.clone(),
            consistency: self.consistency(options.consistency),
            strict: options.strict.unwrap_or(self.shared.options.strict),
            request_id: request_id(options),
        };
        let answer = self
            .call(message, Effect::Writes, options.timeout, |mut kv, request| async move {
                kv.delete(request).await
            })
            .await?;
        Ok(Written { context: answer.context, receipt: answer.receipt.unwrap_or_default() })
    }

    /// Walks all keys, ordered by partition, then key. A walk that loses its node goes on with
    /// another where it was.
    #[must_use]
    pub fn scan(&self, options: ScanOptions) -> Scan {
        Scan::new(self.clone(), options)
    }

    fn consistency(&self, asked: Option<Consistency>) -> i32 {
        number_of(asked.unwrap_or(self.shared.options.consistency)) as i32
    }

    /// Runs a call against one node after the other until one answers it.
    async fn call<M, R, F, Called>(
        &self,
        message: M,
        effect: Effect,
        limit: Option<Duration>,
        send: F,
    ) -> Result<R, Error>
    where
        M: Clone,
        F: Fn(KvClient<Channel>, Request<M>) -> Called,
        Called: Future<Output = Result<Response<R>, Status>>,
    {
        let Shared { nodes, options } = &*self.shared;
        let limit = limit.unwrap_or(options.timeout);
        let until = Instant::now() + limit;
        let mut tried = Vec::new();
        let mut outcome_unknown = false;
        loop {
            let at = nodes.pick(&tried);
            let node = &nodes.all()[at];
            tried.push(at);
            let attempts = u32::try_from(tried.len()).unwrap_or(u32::MAX);
            let last = attempts >= options.attempts;
            let end = attempt_end(until, nodes.all().len(), options, last);
            let mut error = match attempt(node, message.clone(), end, &send).await {
                Ok(answer) => return Ok(answer),
                Err(status) => Error::from_status(status, &node.address, effect == Effect::Writes),
            };
            if error.blames_the_node() {
                nodes.failed(at);
            }
            outcome_unknown |= !error.outcome_is_known();
            error.note_attempts(attempts, outcome_unknown);
            let pause = nodes.pause_before_attempt(&tried);
            if last || !error.worth_another_node() || Instant::now() + pause >= until {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

async fn attempt<M, R, F, Called>(
    node: &Node,
    message: M,
    end: Instant,
    send: &F,
) -> Result<R, Status>
where
    F: Fn(KvClient<Channel>, Request<M>) -> Called,
    Called: Future<Output = Result<Response<R>, Status>>,
{
    let limit = end.saturating_duration_since(Instant::now());
    let mut request = Request::new(message);
    request.set_timeout(limit);
    match timeout_at(end, send(node.kv(), request)).await {
        Ok(Ok(answer)) => {
            node.answered();
            Ok(answer.into_inner())
        }
        Ok(Err(status)) => Err(status),
        Err(_) => Err(silent(limit)),
    }
}

/// When an attempt gives up: early if there is another node to ask.
fn attempt_end(until: Instant, nodes: usize, options: &Options, last: bool) -> Instant {
    if nodes == 1 || last { until } else { until.min(Instant::now() + options.attempt_timeout) }
}

/// The status of an attempt that brought nothing in time. Its source tells it from a status that
/// a node has sent.
fn silent(limit: Duration) -> Status {
    let mut status = Status::new(Code::DeadlineExceeded, format!("no answer within {limit:?}"));
    status.set_source(Arc::new(error::Silent));
    status
}

fn request_id(options: &WriteOptions) -> Bytes {
    let id = options.request_id.unwrap_or_else(rand::random);
    Bytes::copy_from_slice(&id)
}

/// A duration in milliseconds, rounded up: a lifetime of less than one is not "for ever".
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

fn number_of(consistency: Consistency) -> proto::Consistency {
    match consistency {
        Consistency::One => proto::Consistency::One,
        Consistency::Quorum => proto::Consistency::Quorum,
        Consistency::All => proto::Consistency::All,
    }
}
