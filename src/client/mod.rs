//! A client of a cluster: any node serves any request, so it asks one after the other.
//!
//! ```text
//!  get · set · delete ──▶ pick a node ──▶ call, bounded by tokio::time::timeout ──▶ answer
//!  get_many · set_many       ▲                        │
//!                            └── elsewhere, the same request id ◀── node silent, gone, overloaded
//! ```
//!
//! - Every write carries a request id: random, unless the caller gives one. A second attempt
//!   therefore never becomes a second write that a reader could tell apart.
//! - Every call ends within its timeout, whatever the transport does.
//! - An [`Error`] says whether the outcome is known: it is unknown as soon as *any* attempt may
//!   have reached a coordinator and none has brought an answer that settles it.
//! - A node that failed is asked last until it answers again; one request at a time probes it.
//! - The addresses given are a beginning: the client learns those of the other members, and
//!   uses one once that node has said that it belongs to the same cluster.
//!
//! ```no_run
//! use coterie::client::{Client, Options, ReadOptions, SetEntry, WriteOptions};
//!
//! # async fn example() -> Result<(), coterie::client::Error> {
//! let client = Client::connect(["127.0.0.1:7400"], Options::default())?;
//! client.set("greeting", "hello").await?;
//! let got = client.get("greeting").await?.expect("it was written");
//! assert_eq!(got.value, "hello");
//!
//! // Read, modify, write: a value that somebody writes meanwhile survives beside ours.
//! let all = ReadOptions { all_siblings: true, ..ReadOptions::default() };
//! let read = client.get_with("cart", &all).await?;
//! let with = WriteOptions { context: read.context, ..WriteOptions::default() };
//! client.set_with("cart", "apples, pears", &with).await?;
//!
//! // Many keys at once, each with a result of its own.
//! let entries = (0..500).map(|i| SetEntry::set(format!("user/{i}"), "new"));
//! for written in client.set_many(entries).await {
//!     written?;
//! }
//! # Ok(())
//! # }
//! ```

mod admin;
mod batch;
mod call;
mod error;
mod follow;
mod nodes;
mod options;
mod scan;
mod trace;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

pub use self::batch::SetEntry;
use self::call::Effect;
pub use self::error::{Error, ErrorKind};
use self::follow::Follow;
use self::nodes::Nodes;
pub use self::options::{BatchOptions, Options, ReadOptions, WriteOptions};
pub use self::scan::{Entry, Scan, ScanOptions, ScanPage};
use crate::proto;
use crate::proto::kv_client::KvClient;
pub use crate::protocol::quorum::Consistency;

/// The largest answer that is taken: a record of the default `limits.record_bytes` and more.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

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
    /// When the value expires, in milliseconds since 1970; none: never.
    pub expires_ms: Option<u64>,
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
///
/// Unless [`Options::pinned`] says not to, it follows the cluster: now and then, and soon after a
/// node has failed, it asks one for the members. An address that it learns is used only once the
/// node there has answered and named the same cluster, so one that cannot be reached from here
/// costs no request anything; one that is a member no longer is forgotten. It does so beside its
/// calls, and only while there are any: a client that is idle does nothing.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nodes: Nodes,
    options: Options,
    follow: Follow,
}

impl Reading {
    /// What was found, if the key is there.
    #[must_use]
    pub fn into_got(self) -> Option<Got> {
        let Self { value, context, siblings, .. } = self;
        Some(Got { value: value?, context, siblings })
    }
}

impl From<proto::GetResponse> for Reading {
    fn from(answer: proto::GetResponse) -> Self {
        Self {
            value: answer.found.then_some(answer.value),
            context: answer.context,
            siblings: answer.siblings,
            expires_ms: (answer.expires_ms != 0).then_some(answer.expires_ms),
            all: answer.all,
        }
    }
}

impl From<proto::SetResponse> for Written {
    fn from(answer: proto::SetResponse) -> Self {
        Self { context: answer.context, receipt: answer.receipt.unwrap_or_default() }
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
        Ok(Self { shared: Arc::new(Shared { nodes, options, follow: Follow::default() }) })
    }

    /// The addresses that the client knows: those that it was given, then those that it learned.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.shared.nodes.all().iter().map(|node| node.address.clone()).collect()
    }

    /// Reads a key. None if it is absent.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Got>, Error> {
        let reading = self.get_with(key, &ReadOptions::default()).await?;
        Ok(reading.into_got())
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
        Ok(Reading::from(answer))
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
            request_id: request_id(options.request_id),
        };
        let answer = self
            .call(message, Effect::Writes, options.timeout, |mut kv, request| async move {
                kv.set(request).await
            })
            .await?;
        Ok(Written::from(answer))
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
            request_id: request_id(options.request_id),
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
        M: Clone + trace::Method,
        F: Fn(KvClient<Channel>, Request<M>) -> Called,
        Called: Future<Output = Result<Response<R>, Status>>,
    {
        let until = Instant::now() + limit.unwrap_or(self.shared.options.timeout);
        call::run(&self.shared, &[], message, effect, until, &send).await.answer
    }
}

fn request_id(given: Option<[u8; 16]>) -> Bytes {
    let id = given.unwrap_or_else(rand::random);
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
