//! What a worker needs to know of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Placement;
use super::ring::Ring;
use crate::types::{Boot, ClusterId, NodeId, NodeName, Partition};

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
    /// Disks that were replaced: nothing that they say counts any more.
    pub fenced: Arc<BTreeSet<NodeId>>,
    /// The present disk of each member.
    member_ids: Vec<Option<NodeId>>,
    names: BTreeMap<NodeId, NodeName>,
    my_member: Option<u16>,
    ring: Arc<Ring>,
}

impl View {
    /// A view, with what follows from its parts worked out once.
    #[must_use]
    pub fn new(
        me: NodeId,
        name: NodeName,
        boot: Boot,
        cluster: ClusterId,
        placement: Arc<Placement>,
        ids: BTreeMap<NodeName, NodeId>,
    ) -> Self {
        let ring = Arc::new(Ring::new(&placement.members));
        let parts = Self {
            me,
            name,
            boot,
            cluster,
            placement,
            ids: BTreeMap::new(),
            fenced: Arc::default(),
            member_ids: Vec::new(),
            names: BTreeMap::new(),
            my_member: None,
            ring,
        };
        parts.with_ids(ids)
    }

    /// The same placement with other ids; cheaper than a new view.
    #[must_use]
    pub fn with_ids(&self, ids: BTreeMap<NodeName, NodeId>) -> Self {
        let members = self.placement.members.iter();
        let member_ids = members.map(|member| ids.get(&member.name).copied()).collect();
        let names = ids.iter().map(|(name, &id)| (id, name.clone())).collect();
        let mine = ids.get(&self.name) == Some(&self.me);
        let my_member = self.placement.member(&self.name).filter(|_| mine);
        Self { ids, member_ids, names, my_member, ..self.clone() }
    }

    /// The same, with these disks fenced.
    #[must_use]
    pub fn fencing(self, fenced: impl IntoIterator<Item = NodeId>) -> Self {
        Self { fenced: Arc::new(fenced.into_iter().collect()), ..self }
    }

    /// The homes of a partition: indexes of members, in order of preference.
    ///
    /// # Panics
    /// If the ring has no such partition.
    #[must_use]
    pub fn homes(&self, partition: Partition) -> &[u16] {
        self.placement.homes(partition)
    }

    /// The fallbacks of a partition: all members that are no homes, clockwise. Costs a walk
    /// round the ring, a microsecond or a few.
    #[must_use]
    pub fn fallbacks(&self, partition: Partition) -> Vec<u16> {
        let homes = self.homes(partition);
        let walk = self.ring.walk(partition.0, self.placement.partitions);
        walk.filter(|member| !homes.contains(member)).collect()
    }

    /// The present disk of a member, if known; none if there is no such member.
    #[must_use]
    pub fn id(&self, member: u16) -> Option<NodeId> {
        self.member_ids.get(usize::from(member)).copied().flatten()
    }

    /// The name of a member.
    ///
    /// # Panics
    /// If there is no such member.
    #[must_use]
    pub fn member_name(&self, member: u16) -> &NodeName {
        &self.placement.members[usize::from(member)].name
    }

    /// This node's index among the members, if it is one.
    #[must_use]
    pub fn my_member(&self) -> Option<u16> {
        self.my_member
    }

    /// The name whose present disk this is.
    #[must_use]
    pub fn name_of(&self, id: NodeId) -> Option<&NodeName> {
        self.names.get(&id)
    }

    /// Q.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        self.placement.partitions
    }
}
