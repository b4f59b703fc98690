//! What a client asks for and what it is told.

use bytes::Bytes;

use super::context::{Context, ContextError};
use super::quorum::Consistency;
use super::record::VersionVector;
use crate::types::{ClusterId, Dot, Key, NodeName, Partition, RequestId, Wall};

/// One request for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The key.
    pub key: Key,
    /// How many replicas must take part.
    pub consistency: Consistency,
    /// Whether the request asks for read-your-writes and monotonic reads; R and W are then a
    /// majority at least.
    pub strict: bool,
    /// What to do.
    pub action: Action,
}

/// What to do with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read it.
    Get,
    /// Put a value, or a tombstone to delete it.
    Put(Put),
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The value; none deletes.
    pub value: Option<Bytes>,
    /// How long the value lives, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// What the client has read. None overwrites what the coordinator holds.
    pub context: Option<VersionVector>,
    /// The client's name for the request.
    pub request: Option<RequestId>,
}

/// How an op ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A get was answered.
    Read(ReadOutcome),
    /// A write is durable on W distinct nodes in W distinct home slots.
    Written(Receipt),
    /// It failed; the failure says what is known.
    Failed(Failure),
}

/// What a get saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// What is visible, the last writer's last; empty if the key is absent.
    pub visible: Vec<VisibleSibling>,
    /// Every dot that the replicas have seen of the key.
    pub seen: VersionVector,
    /// Whether an answer counted that was given by a replica still being rebuilt.
    pub degraded: bool,
}

/// A sibling as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisibleSibling {
    /// The value.
    pub value: Bytes,
    /// The write's name.
    pub dot: Dot,
    /// When it expires.
    pub expiry: Option<Wall>,
}

/// What an acknowledged write has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The write's name.
    pub dot: Dot,
    /// Every dot that the new record has seen: the context for the writer's next write.
    pub seen: VersionVector,
    /// Whether the new record holds siblings that the writer has not seen.
    pub partial: bool,
    /// Homes that hold it durably.
    pub homes: Vec<NodeName>,
    /// Nodes that hold it durably as a hint for a home.
    pub hints: Vec<NodeName>,
    /// The placement version that it was written under.
    pub placement: u32,
}

/// Why an op failed, and what that means to whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// How many distinct nodes were needed.
    pub needed: u32,
    /// Who has taken part.
    pub reached: Vec<NodeName>,
    /// Who was asked, or should have been, and has not taken part.
    pub missing: Vec<NodeName>,
    /// Whether something may have been written: false means that certainly nothing was.
    pub maybe_applied: bool,
}

/// Why an op failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The cluster has not been founded as far as this node knows.
    #[error("the cluster is not founded yet: this node waits for its founders")]
    NotFounded,
    /// Too few nodes took part in time.
    #[error("too few replicas answered in time")]
    QuorumNotReached,
    /// Too few homes took part, and who would have kept the record for them has no room for hints.
    #[error(
        "too few replicas answered in time, and the hints kept for the others are at hints.max_bytes"
    )]
    HintsFull,
    /// The request was passed to a home, which has not answered.
    #[error("the node that the request was passed to has not answered in time")]
    CoordinatorSilent,
    /// The context is refused.
    #[error(transparent)]
    Context(ContextError),
    /// The same request id came with another value.
    #[error("this request id was used before with another value; choose a new one")]
    RequestIdReused,
    /// The write would leave more siblings than `limits.siblings`.
    #[error(
        "the key has as many siblings as limits.siblings allows; read with all_siblings and write with that context"
    )]
    TooManySiblings,
    /// The record would outgrow `limits.record_bytes`.
    #[error(
        "the record would outgrow limits.record_bytes; read with all_siblings and write with that context"
    )]
    RecordTooLarge,
    /// The store refuses writes, or failed.
    #[error("the store of the coordinator refused the write")]
    StoreRefused,
    /// The node's disk is new in the ring, and no member has told it yet which dead records of the partition are
    /// gone for good; nothing was begun.
    #[error(
        "this node's disk is new, and waits for a member to tell it what was collected; nothing was begun"
    )]
    RoundsUnknown,
    /// Too much is under way; nothing was begun.
    #[error("the node is overloaded; nothing was begun")]
    Overloaded,
    /// The node is stopping; nothing was begun.
    #[error("the node is shutting down; nothing was begun")]
    ShuttingDown,
    /// Strict requests wait until a majority has confirmed that this node forgot nothing.
    #[error(
        "strict requests wait until a majority of members has answered this node since its start"
    )]
    NotConfirmed,
    /// Strict requests are served by members of the newest placement version: nobody waits for the reads
    /// of others before an older one retires.
    #[error(
        "this node is no member of the ring, or about to leave it, and serves no strict requests: ask \
         a member"
    )]
    NotMember,
}

impl Op {
    /// A get.
    #[must_use]
    pub fn get(key: Key, consistency: Consistency) -> Self {
        Self { key, consistency, strict: false, action: Action::Get }
    }

    /// A write of `value`, without a context.
    #[must_use]
    pub fn set(key: Key, value: Bytes, consistency: Consistency) -> Self {
        let put = Put { value: Some(value), ttl_ms: None, context: None, request: None };
        Self { key, consistency, strict: false, action: Action::Put(put) }
    }

    /// The op's partition on a ring of `partitions` arcs.
    #[must_use]
    pub fn partition(&self, partitions: u16) -> Partition {
        self.key.partition(partitions)
    }
}

impl ReadOutcome {
    /// The context to give to the client: partial if `shown_all` is false and siblings are hidden.
    #[must_use]
    pub fn context(&self, cluster: ClusterId, key: &Key, shown_all: bool) -> Context {
        let partial = !shown_all && self.visible.len() > 1;
        Context { cluster, key_hash: key.hash(), partial, seen: self.seen.clone() }
    }
}

impl Receipt {
    /// The context to give to the client.
    #[must_use]
    pub fn context(&self, cluster: ClusterId, key: &Key) -> Context {
        let seen = self.seen.clone();
        Context { cluster, key_hash: key.hash(), partial: self.partial, seen }
    }
}

impl Failure {
    /// A failure before anything was begun.
    #[must_use]
    pub fn before(reason: Reason) -> Self {
        Self { reason, needed: 0, reached: vec![], missing: vec![], maybe_applied: false }
    }

    /// Whether the same request may be sent again without changing what is stored twice. A read
    /// always may; a write may if it certainly was not applied, or if it bears a request id.
    #[must_use]
    pub fn retry_is_safe(&self, action: &Action) -> bool {
        match action {
            Action::Get => true,
            Action::Put(put) => !self.maybe_applied || put.request.is_some(),
        }
    }
}
