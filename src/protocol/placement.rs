//! Placement: which nodes are home to a partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::PlacementTag;
use crate::types::{Boot, ClusterId, NodeId, NodeName};

/// A member of a placement version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member's name.
    pub name: NodeName,
    /// Its failure domain; empty if none was configured.
    pub zone: String,
    /// Its share of the data, relative to the others'; at least 1.
    pub weight: u32,
}

/// A placement version: who owns what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Number and hash.
    pub tag: PlacementTag,
    /// The hash of the version that this one was made from; 0 for the first.
    pub parent: u64,
    /// Sorted by name.
    pub members: Vec<Member>,
    /// Home replicas a partition; at most as many as members.
    pub replicas: u8,
    /// Q: how many partitions the ring has.
    pub partitions: u16,
    /// For each partition, `replicas` indexes into `members`, in order of preference.
    pub table: Vec<u16>,
}

/// What a worker needs to know of the cluster: immutable, shared by all workers of a node.
#[derive(Clone, Debug)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// This node's name.
    pub name: NodeName,
    /// This process.
    pub boot: Boot,
    /// The cluster.
    pub cluster: ClusterId,
    /// The live placement version.
    pub placement: Arc<Placement>,
    /// The present disk of each name that is known.
    pub ids: BTreeMap<NodeName, NodeId>,
}
