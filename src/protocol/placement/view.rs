//! What a worker needs to know of the cluster.
//!
//! ```text
//!   live:  oldest ───── … ───── newest     a write needs W in each of them
//!             ▲ reads()           ▲ all_acked: nobody ignores it, so it is being synced to
//! ```
//!
//! Most of the time one version is live, and all of these are the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Placement;
use super::ring::Ring;
use crate::protocol::message::PlacementTag;
use crate::types::{Boot, ClusterId, NodeId, NodeName, Partition};

/// Placement versions that may be live at a time: one change under way, and removals of members
/// that died in the midst of it. Each costs a quorum of every write.
pub const LIVE_MAX: usize = 4;

/// A set of live versions, by their places among them, oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions(u8);

/// A live placement version, and what follows from it and from the members' present disks.
#[derive(Clone, Debug)]
pub struct Version {
    /// Who owns what.
    pub placement: Arc<Placement>,
    ring: Arc<Ring>,
    /// The present disk of each member.
    member_ids: Vec<Option<NodeId>>,
    my_member: Option<u16>,
}

/// What a worker needs to know of the cluster: immutable, shared by all workers of a node.
///
/// Invariants: `1 ≤ live.len() ≤ LIVE_MAX`, oldest first; all live versions have one Q.
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
    /// The present disk of each name that is known, whether it is a member or not.
    pub ids: BTreeMap<NodeName, NodeId>,
    /// This disk took the place of another, or is to.
    pub is_replacement: bool,
    /// Something may be left on this disk of what it held under another id.
    pub has_past: bool,
    /// Disks that were replaced or removed: nothing that they say counts any more.
    pub fenced: Arc<BTreeSet<NodeId>>,
    /// The newest version that every member has acknowledged: no write ignores it, so what is held
    /// under older ones may be brought to its homes. None: only the oldest.
    pub all_acked: Option<PlacementTag>,
    live: Vec<Version>,
    /// The place of the version that reads ask.
    reads: usize,
    /// Members that were removed by force: no disk of theirs is waited for.
    removed: Arc<BTreeSet<NodeName>>,
    names: BTreeMap<NodeId, NodeName>,
}

impl Versions {
    /// No version.
    pub const NONE: Self = Self(0);

    /// With the version at this place, below [`LIVE_MAX`].
    #[must_use]
    pub fn with(self, place: usize) -> Self {
        Self(self.0 | 1 << place)
    }

    /// Those that are in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The places, in order.
    pub fn places(self) -> impl Iterator<Item = usize> {
        (0..LIVE_MAX).filter(move |place| self.0 >> place & 1 == 1)
    }
}

impl Version {
    fn new(placement: Arc<Placement>, view: &View) -> Self {
        let known = view.live.iter().find(|known| known.placement.tag == placement.tag);
        let ring =
            known.map_or_else(|| Arc::new(Ring::new(&placement.members)), |it| it.ring.clone());
        let id = |member: &super::Member| view.ids.get(&member.name).copied();
        let member_ids = placement.members.iter().map(id).collect();
        let my_member = placement.member(&view.name).filter(|_| view.has_my_name());
        Self { placement, ring, member_ids, my_member }
    }

    /// Number and hash.
    #[must_use]
    pub fn tag(&self) -> PlacementTag {
        self.placement.tag
    }

    /// The homes of a partition: indexes of members, in order of preference.
    ///
    /// # Panics
    /// If the ring has no such partition.
    #[must_use]
    pub fn homes(&self, partition: Partition) -> &[u16] {
        self.placement.homes(partition)
    }

    /// The names of the homes of a partition, in order of preference.
    pub fn home_names(&self, partition: Partition) -> impl Iterator<Item = &NodeName> {
        self.homes(partition).iter().map(|&home| self.member_name(home))
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

    /// Whether this node is home to a partition in this version.
    #[must_use]
    pub fn is_home(&self, partition: Partition) -> bool {
        self.my_member.is_some_and(|me| self.homes(partition).contains(&me))
    }
}

impl View {
    /// A view with one live version, which everyone has acknowledged and which reads ask.
    #[must_use]
    pub fn new(
        me: NodeId,
        name: NodeName,
        boot: Boot,
        cluster: ClusterId,
        placement: Arc<Placement>,
        ids: BTreeMap<NodeName, NodeId>,
    ) -> Self {
        let mut view = Self {
            me,
            name,
            boot,
            cluster,
            ids: BTreeMap::new(),
            is_replacement: false,
            has_past: false,
            fenced: Arc::default(),
            all_acked: Some(placement.tag),
            live: Vec::new(),
            reads: 0,
            removed: Arc::default(),
            names: BTreeMap::new(),
        };
        view.live.push(Version::new(placement, &view));
        view.with_ids(ids)
    }

    /// The same placement with other ids; cheaper than a new view.
    #[must_use]
    pub fn with_ids(&self, ids: BTreeMap<NodeName, NodeId>) -> Self {
        let names = ids.iter().map(|(name, &id)| (id, name.clone())).collect();
        let mut view = Self { ids, names, ..self.clone() };
        let same = |version: &Version| Version::new(version.placement.clone(), &view);
        view.live = view.live.iter().map(same).collect();
        view
    }

    /// The same, with these live versions, oldest first, of which reads ask `reads` and everyone has
    /// acknowledged `all_acked`.
    ///
    /// # Panics
    /// If there are none or more than [`LIVE_MAX`], or `reads` is none of them.
    #[must_use]
    pub fn with_live(
        &self,
        live: &[Arc<Placement>],
        reads: PlacementTag,
        all_acked: Option<PlacementTag>,
    ) -> Self {
        assert!(!live.is_empty() && live.len() <= LIVE_MAX, "{} live versions", live.len());
        let place = live.iter().position(|placement| placement.tag == reads);
        let Some(reads) = place else { panic!("{reads:?} is not live") };
        let live = live.iter().map(|placement| Version::new(placement.clone(), self)).collect();
        Self { all_acked, live, reads, ..self.clone() }
    }

    /// The same, with these disks fenced.
    #[must_use]
    pub fn fencing(self, fenced: impl IntoIterator<Item = NodeId>) -> Self {
        Self { fenced: Arc::new(fenced.into_iter().collect()), ..self }
    }

    /// The same, with these members removed by force: their disks are fenced for good.
    #[must_use]
    pub fn removing(self, removed: impl IntoIterator<Item = NodeName>) -> Self {
        Self { removed: Arc::new(removed.into_iter().collect()), ..self }
    }

    /// The same, of a disk that takes the place of another.
    #[must_use]
    pub fn replacing(self, is_replacement: bool) -> Self {
        Self { is_replacement, ..self }
    }

    /// The same, of a disk on which something may be left of what it held under another id.
    #[must_use]
    pub fn with_past(self, has_past: bool) -> Self {
        Self { has_past, ..self }
    }

    /// The live versions, oldest first.
    #[must_use]
    pub fn live(&self) -> &[Version] {
        &self.live
    }

    /// The newest live version.
    #[must_use]
    pub fn newest(&self) -> &Version {
        &self.live[self.live.len() - 1]
    }

    /// The oldest live version.
    #[must_use]
    pub fn oldest(&self) -> &Version {
        &self.live[0]
    }

    /// The version that reads ask: the newest that is fully synced, as seen from this node.
    #[must_use]
    pub fn reads(&self) -> &Version {
        &self.live[self.reads]
    }

    /// The place among the live versions of the one that reads ask.
    #[must_use]
    pub fn reads_place(&self) -> usize {
        self.reads
    }

    /// Whether more than one version is live.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.live.len() > 1
    }

    /// Whether this disk is known to be that of its name.
    #[must_use]
    pub fn has_my_name(&self) -> bool {
        self.ids.get(&self.name) == Some(&self.me)
    }

    /// Whether this node is home to a partition in any live version.
    #[must_use]
    pub fn is_home(&self, partition: Partition) -> bool {
        self.live.iter().any(|version| version.is_home(partition))
    }

    /// The live versions of which a name is a member.
    #[must_use]
    pub fn versions_of(&self, name: &NodeName) -> Versions {
        let member = |place: &usize| self.live[*place].placement.member(name).is_some();
        (0..self.live.len()).filter(member).fold(Versions::NONE, Versions::with)
    }

    /// Whether this disk is that of a member of any live version.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.live.iter().any(|version| version.my_member().is_some())
    }

    /// The members of all live versions, each once, sorted.
    #[must_use]
    pub fn members(&self) -> BTreeSet<&NodeName> {
        let members = self.live.iter().flat_map(|version| &version.placement.members);
        members.map(|member| &member.name).collect()
    }

    /// Whether a member was removed by force, and no new disk has taken its place.
    #[must_use]
    pub fn is_removed(&self, name: &NodeName) -> bool {
        self.removed.contains(name) && !self.ids.contains_key(name)
    }

    /// The name whose present disk this is.
    #[must_use]
    pub fn name_of(&self, id: NodeId) -> Option<&NodeName> {
        self.names.get(&id)
    }

    /// Q.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        self.newest().placement.partitions
    }
}
