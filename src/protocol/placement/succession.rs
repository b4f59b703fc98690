//! The successor of a placement version: what an operator, or the steward, wants changed.
//!
//! A pure function of the parent and the change: whoever makes it makes the same version.

use std::collections::BTreeSet;

use super::steal::steal;
use super::{MEMBERS_MAX, Member, Placement, REPLICAS_MAX, ZONE_BYTES_MAX, met};
use crate::protocol::message::PlacementTag;
use crate::types::NodeName;

/// What the successor of a version has different. Lists may be in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Who becomes a member.
    pub joins: Vec<Member>,
    /// Who is no member any more.
    pub leaves: Vec<NodeName>,
    /// Members with a new weight.
    pub reweighed: Vec<(NodeName, u32)>,
    /// Members with a new zone.
    pub rezoned: Vec<(NodeName, String)>,
    /// A new N.
    pub replicas: Option<u8>,
}

/// Why a version has no such successor. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefused {
    /// The successor would be its parent.
    #[error(
        "this changes nothing: the members, zones, weights and N are so already; `coterie ring` \
         shows them"
    )]
    NothingChanges,
    /// One name is given two parts in a change, or the same one twice.
    #[error(
        "{0} is named twice: a member joins or leaves, and has one weight and one zone; for one \
         change after another, wait until the first is done"
    )]
    NameTwice(NodeName),
    /// Who joins is a member.
    #[error(
        "{0} is a member already: a second node of this name is refused; give the new node \
         another name, or change the member's weight or zone instead of joining it"
    )]
    MemberAlready(NodeName),
    /// Who leaves, or is to have another weight or zone, is no member.
    #[error("{0} is no member: `coterie ring` lists the members")]
    MemberUnknown(NodeName),
    /// Everybody leaves.
    #[error(
        "no member would be left, and nobody to hold the data: stop the nodes to stop the \
         cluster, or name fewer who leave"
    )]
    NobodyLeft,
    /// N cannot be met any more.
    #[error(
        "N = {wanted} needs as many members, and {left} would be left: join others first or in \
         the same change, or ask for N = {left} in it"
    )]
    TooFew {
        /// The N that is wanted.
        wanted: u8,
        /// The members that would be left.
        left: usize,
    },
    /// More members than a version can have.
    #[error(
        "a cluster has at most {MEMBERS_MAX} members, and this would make {0}: name fewer who join"
    )]
    TooMany(usize),
    /// The zone's name is too long.
    #[error(
        "the zone of {name} has {bytes} bytes, and {ZONE_BYTES_MAX} is the most: give it a \
         shorter name"
    )]
    ZoneTooLong {
        /// Whose zone.
        name: NodeName,
        /// Its length.
        bytes: usize,
    },
    /// A weight of 0.
    #[error("{0} has weight 0, and 1 is the least: for a member to hold nothing, let it leave")]
    NoWeight(NodeName),
    /// No version has so many replicas.
    #[error("N = {0} is outside 1 to {REPLICAS_MAX}: 3 or 5 are usual")]
    ReplicasOutside(u8),
    /// The greatest version number is used up.
    #[error("version numbers are used up: move the data to a new cluster with export and import")]
    NumbersUsedUp,
}

impl Placement {
    /// The version that follows on this one by a change: of its table, no more is moved than must
    /// be so that every member gets what zones, weights and N allow (see [`Placement::found`]).
    ///
    /// # Errors
    /// [`PlanRefused`] if there is no such version.
    pub fn next(&self, change: &Change) -> Result<Self, PlanRefused> {
        let members = self.next_members(change)?;
        let wanted = change.replicas.unwrap_or(self.wanted);
        if !(1..=REPLICAS_MAX.max(self.wanted)).contains(&wanted) {
            return Err(PlanRefused::ReplicasOutside(wanted));
        }
        let replicas = met(wanted, members.len());
        // A cluster that has fewer members than the N it wants may grow, and change weights.
        if replicas < wanted && (change.replicas.is_some() || replicas < self.replicas) {
            return Err(PlanRefused::TooFew { wanted, left: members.len() });
        }
        if members == self.members && wanted == self.wanted {
            return Err(PlanRefused::NothingChanges);
        }
        let number = self.tag.number.checked_add(1).ok_or(PlanRefused::NumbersUsedUp)?;
        let stays: Vec<Option<u16>> = self.members.iter().map(|old| index(&members, old)).collect();
        let kept = |homes: &[u16]| homes.iter().map(|&home| stays[usize::from(home)]).collect();
        let old: Vec<_> = self.table.chunks(usize::from(self.replicas)).map(kept).collect();
        Ok(Self {
            tag: PlacementTag { number, hash: 0 },
            parent: self.tag.hash,
            table: steal(&members, replicas, &old),
            members,
            replicas,
            wanted,
            partitions: self.partitions,
        }
        .hashed())
    }

    /// The members after a change, sorted by name.
    fn next_members(&self, change: &Change) -> Result<Vec<Member>, PlanRefused> {
        let joins = change.joins.iter().map(|member| &member.name);
        once(joins.chain(&change.leaves).chain(change.reweighed.iter().map(|(name, _)| name)))?;
        let rezoned = change.rezoned.iter().map(|(name, _)| name);
        let joins = change.joins.iter().map(|member| &member.name);
        once(joins.chain(&change.leaves).chain(rezoned))?;
        let mut members = self.members.clone();
        for (name, weight) in &change.reweighed {
            members[self.known(name)?].weight = *weight;
        }
        for (name, zone) in &change.rezoned {
            members[self.known(name)?].zone.clone_from(zone);
        }
        for name in &change.leaves {
            self.known(name)?;
        }
        members.retain(|member| !change.leaves.contains(&member.name));
        for member in &change.joins {
            if self.member(&member.name).is_some() {
                return Err(PlanRefused::MemberAlready(member.name.clone()));
            }
            members.push(member.clone());
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        if members.is_empty() {
            return Err(PlanRefused::NobodyLeft);
        }
        if members.len() > MEMBERS_MAX {
            return Err(PlanRefused::TooMany(members.len()));
        }
        for member in &members {
            if member.weight == 0 {
                return Err(PlanRefused::NoWeight(member.name.clone()));
            }
            if member.zone.len() > ZONE_BYTES_MAX {
                let (name, bytes) = (member.name.clone(), member.zone.len());
                return Err(PlanRefused::ZoneTooLong { name, bytes });
            }
        }
        Ok(members)
    }

    fn known(&self, name: &NodeName) -> Result<usize, PlanRefused> {
        let index = self.member(name).map(usize::from);
        index.ok_or_else(|| PlanRefused::MemberUnknown(name.clone()))
    }
}

/// The index of the member that has another's name.
fn index(members: &[Member], other: &Member) -> Option<u16> {
    let index = members.binary_search_by(|member| member.name.cmp(&other.name)).ok()?;
    u16::try_from(index).ok()
}

fn once<'a>(names: impl Iterator<Item = &'a NodeName>) -> Result<(), PlanRefused> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(PlanRefused::NameTwice(name.clone()));
        }
    }
    Ok(())
}
