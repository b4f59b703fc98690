//! What the services need of a node. The node implements it; tests can, too.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::calls::Calls;
use crate::metrics::Page;
use crate::protocol::control::{Agreed, ChangeReport, Order, Refusal};
use crate::protocol::op::{Failure, Op, Outcome};
use crate::protocol::placement::View;
use crate::protocol::quorum::Consistency;
use crate::protocol::step::{MergedPage, ReadFailed, RepairReport, Stats};
use crate::protocol::worker::inspect::Inspection;
use crate::telemetry::Traces;
use crate::types::{ClusterId, Key, NodeName, Partition, TraceContext, Wall};

/// A node, as its services see it. Cheap to clone.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Runs one request to its end; always ends soon after `timeout`.
    fn run(
        &self,
        op: Op,
        timeout: Duration,
        trace: Option<TraceContext>,
    ) -> impl Future<Output = Outcome> + Send;

    /// Runs requests together, each to its own end; the outcomes are in their order.
    fn run_many(
        &self,
        ops: Vec<Op>,
        timeout: Duration,
        trace: Option<TraceContext>,
    ) -> impl Future<Output = Vec<Outcome>> + Send;

    /// One page of a partition, merged from R homes.
    fn scan(
        &self,
        partition: Partition,
        after: Bytes,
        bytes_max: u32,
        consistency: Consistency,
        timeout: Duration,
    ) -> impl Future<Output = Result<MergedPage, Failure>> + Send;

    /// The cluster and its number of partitions, once this node knows that it is founded.
    fn cluster(&self) -> Option<(ClusterId, u16)>;

    /// Who owns what, once this node knows that the cluster is founded.
    fn view(&self) -> Option<Arc<View>>;

    /// What this node's own disk holds of a key, as `view` places it. Nobody else is asked.
    fn inspect(
        &self,
        view: Arc<View>,
        key: Key,
    ) -> impl Future<Output = Result<Inspection, ReadFailed>> + Send;

    /// What this node's own disk keeps for others; counting ends soon after `limit`.
    fn hints(&self, limit: Duration) -> impl Future<Output = Result<HintsHeld, ReadFailed>> + Send;

    /// Gives an operator's order to this node; ends once it is agreed on, or refused.
    fn order(&self, order: Order) -> impl Future<Output = Result<Agreed, Refusal>> + Send;

    /// How this node sees itself and the cluster.
    fn status(&self) -> NodeStatus;

    /// Everything that the gossip shows: the body of `/debug/gossip`.
    fn gossip(&self) -> serde_json::Value;

    /// Whether the node's loops turn: none, or what stands still.
    fn stuck(&self) -> Option<String>;

    /// Where the calls of clients are counted.
    fn calls(&self) -> Arc<Calls>;

    /// Where the spans of requests go; by default nowhere.
    fn traces(&self) -> Traces {
        Traces::default()
    }

    /// Everything that the node counts: the body of `/metrics`.
    fn metrics(&self) -> Page;
}

/// What a node keeps for others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HintsHeld {
    /// Sorted by target; those without hints are left out.
    pub targets: Vec<TargetHints>,
    /// Whether everything was counted before the time was up.
    pub complete: bool,
}

/// What a node keeps for one home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetHints {
    /// The home.
    pub target: NodeName,
    /// How many keys have a hint.
    pub hints: u64,
    /// As they are stored.
    pub bytes: u64,
    /// How many of them do not pass their checksum.
    pub damaged: u64,
    /// The oldest write in any of them, by its stamp: hints themselves bear no time.
    pub oldest_write: Option<Wall>,
}

/// How a node sees itself and the cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// This node's id.
    pub node_id: String,
    /// This node's name.
    pub name: String,
    /// The cluster's id; empty before the founding.
    pub cluster_id: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// The placement's number; 0 before the founding.
    pub placement_number: u32,
    /// The placement's hash.
    pub placement_hash: String,
    /// N.
    pub replicas: u32,
    /// Q.
    pub partitions: u32,
    /// Why the node is not ready; none if it is.
    pub not_ready: Option<String>,
    /// What its disk lacks, since when, and what that waits for; none if it is whole.
    pub rebuilding: Option<String>,
    /// What an acknowledgement waits for.
    pub durability: String,
    /// Sorted by name.
    pub members: Vec<MemberStatus>,
    /// Sum over the workers.
    pub stats: Stats,
    /// How whole this node's copies are.
    pub repair: RepairReport,
    /// How far a change of the ring is.
    pub change: ChangeReport,
    /// The highest synced commit.
    pub synced: u64,
    /// Since the process started.
    pub uptime_ms: u64,
}

/// How this node sees one member.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Its id; empty if never heard of.
    pub node_id: String,
    /// `alive`, `suspect`, `down` or `unknown`.
    pub state: String,
    /// Whether this node can reach it now.
    pub reachable: bool,
    /// Gossip and streams.
    pub internal_address: String,
    /// gRPC.
    pub client_address: String,
    /// HTTP.
    pub admin_address: String,
    /// Counts its starts.
    pub generation: u64,
    /// Of its suspicions refuted.
    pub incarnation: u64,
    /// How long it has been in this state, as seen here.
    pub since_ms: u64,
    /// Whether a live version of the placement names it, and this is its disk.
    pub home: bool,
    /// Its failure domain, as it says; empty if it has none, or was never heard of.
    pub zone: String,
    /// Its share of the data relative to others', as it says; 0 if it was never heard of.
    pub weight: u32,
}
