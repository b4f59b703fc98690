//! Placement: which nodes are home to a partition.
//!
//! ```text
//!  key ──xxh3──▶ partition ──table──▶ homes: N members, in order of preference
//!                            ──ring──▶ fallbacks: all other members, clockwise
//! ```
//!
//! The first version is a pure function of the founders: a consistent-hash ring, walked from the
//! start of each partition's arc; distinct zones first; every member gets its exact share of
//! what zones, weights and N allow (see `share`). The table is part of a version, so that
//! later versions change as little of it as they must (see `succession` and `steal`).
//!
//! Invariants of a [`Placement`], kept by [`Placement::found`] and [`Placement::next`] and checked
//! by [`Placement::decode`]: members are sorted by name and distinct;
//! `replicas = min(wanted, members) ≥ 1`; `table.len() = partitions · replicas`; the homes of a partition are distinct members;
//! `tag.hash` is the hash of the encoding.

mod fair;
mod first;
mod plan;
#[cfg(test)]
mod plan_tests;
mod ring;
mod share;
mod steal;
mod succession;
#[cfg(test)]
mod succession_tests;
#[cfg(test)]
mod tests;
mod view;
mod zoning;

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use self::first::first_table;
pub use self::plan::{Move, Plan, Stage};
pub use self::succession::{Change, PlanRefused};
pub use self::view::{LIVE_MAX, Version, Versions, View};
use super::codec::{DecodeError, Reader, Write};
use super::message::PlacementTag;
use crate::types::{ClusterId, NodeName, Partition};

/// The version of the encoding.
const FORMAT: u8 = 2;
/// Members of one placement: ten times what the ring is made for; bounds what a peer can send.
pub const MEMBERS_MAX: usize = 1024;
/// Longest zone name, in bytes: as long as a node's.
pub const ZONE_BYTES_MAX: usize = 63;
/// The greatest N that can be asked for: a write waits for a majority of them.
pub const REPLICAS_MAX: u8 = 15;

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

/// How much of the ring a member has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Partitions that it is home to.
    pub partitions: u32,
    /// Partitions that it is the first home of.
    pub primaries: u32,
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
    /// Home replicas a partition: the least of `wanted` and the number of members.
    pub replicas: u8,
    /// N as the operator wants it: met as soon as there are as many members.
    pub wanted: u8,
    /// Q: how many partitions the ring has.
    pub partitions: u16,
    /// For each partition, `replicas` indexes into `members`, in order of preference.
    pub table: Vec<u16>,
}

impl Placement {
    /// Version 1: a pure function of the founders (1 to [`MEMBERS_MAX`], of distinct names),
    /// of N (at least 1; at most as many as founders are used) and of Q (at least 1).
    ///
    /// # Panics
    /// If there is no founder, or N or Q is 0.
    #[must_use]
    pub fn found(mut members: Vec<Member>, replicas: u8, partitions: u16) -> Self {
        assert!(!members.is_empty() && members.len() <= MEMBERS_MAX, "1 to {MEMBERS_MAX} founders");
        assert!(replicas > 0 && partitions > 0, "N = {replicas}, Q = {partitions}");
        members.sort_by(|a, b| a.name.cmp(&b.name));
        for member in &mut members {
            member.weight = member.weight.max(1);
        }
        let wanted = replicas;
        let replicas = met(wanted, members.len());
        let table = first_table(&members, replicas, partitions);
        let tag = PlacementTag { number: 1, hash: 0 };
        Self { tag, parent: 0, members, replicas, wanted, partitions, table }.hashed()
    }

    /// The same, with the hash that its encoding has.
    fn hashed(mut self) -> Self {
        self.tag.hash = xxh3_64(&self.encode());
        self
    }

    /// The homes of a partition: indexes of members, in order of preference.
    ///
    /// # Panics
    /// If the ring has no such partition.
    #[must_use]
    pub fn homes(&self, partition: Partition) -> &[u16] {
        let replicas = usize::from(self.replicas);
        let start = usize::from(partition.0) * replicas;
        &self.table[start..start + replicas]
    }

    /// How much of the ring each member has, in the order of the members.
    #[must_use]
    pub fn loads(&self) -> Vec<Load> {
        let mut loads = vec![Load::default(); self.members.len()];
        for homes in self.table.chunks(usize::from(self.replicas)) {
            homes.iter().for_each(|&home| loads[usize::from(home)].partitions += 1);
            homes.iter().take(1).for_each(|&home| loads[usize::from(home)].primaries += 1);
        }
        loads
    }

    /// The index of the member of this name.
    #[must_use]
    pub fn member(&self, name: &NodeName) -> Option<u16> {
        let index = self.members.binary_search_by(|member| member.name.cmp(name)).ok()?;
        u16::try_from(index).ok()
    }

    /// The canonical encoding; the hash is not part of it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.tag.number.to_le_bytes());
        out.extend_from_slice(&self.parent.to_le_bytes());
        out.push(self.wanted);
        out.extend_from_slice(&self.partitions.to_le_bytes());
        out.varint(self.members.len() as u64);
        for member in &self.members {
            out.bytes(member.name.as_str().as_bytes());
            out.bytes(member.zone.as_bytes());
            out.extend_from_slice(&member.weight.to_le_bytes());
        }
        for &home in &self.table {
            out.extend_from_slice(&home.to_le_bytes());
        }
        out
    }

    /// Reads an encoding, with the hash made anew from it.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not one, is of a newer format, or breaks an invariant.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes.clone());
        match r.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Version(other)),
        }
        let (number, parent) = (r.u32()?, r.u64()?);
        let (wanted, partitions) = (r.u8()?, r.u16()?);
        let count = r.count(6)?;
        let mut members: Vec<Member> = Vec::with_capacity(count.min(MEMBERS_MAX));
        for _ in 0..count {
            let name = NodeName::new(&r.text()?).map_err(|_| DecodeError::Malformed("name"))?;
            let member = Member { name, zone: r.text()?, weight: r.u32()? };
            let sorted = members.last().is_none_or(|last| last.name < member.name);
            if !sorted || member.weight == 0 || member.zone.len() > ZONE_BYTES_MAX {
                return Err(DecodeError::Malformed("member"));
            }
            members.push(member);
        }
        let replicas = met(wanted, count);
        if number == 0 || replicas == 0 || partitions == 0 || count > MEMBERS_MAX {
            return Err(DecodeError::Malformed("placement"));
        }
        let mut table = Vec::with_capacity(usize::from(partitions) * usize::from(replicas));
        for _ in 0..partitions {
            let start = table.len();
            for _ in 0..replicas {
                let home = r.u16()?;
                if usize::from(home) >= count || table[start..].contains(&home) {
                    return Err(DecodeError::Malformed("home"));
                }
                table.push(home);
            }
        }
        r.end()?;
        let tag = PlacementTag { number, hash: xxh3_64(bytes) };
        Ok(Self { tag, parent, members, replicas, wanted, partitions, table })
    }

    /// The id of the cluster of this name whose first version this is.
    #[must_use]
    pub fn cluster_id(&self, cluster_name: &str) -> ClusterId {
        let mut bytes = self.encode();
        bytes.bytes(cluster_name.as_bytes());
        ClusterId(xxh3_128(&bytes))
    }
}

/// How many replicas a partition has where so many are wanted: no member holds two.
fn met(wanted: u8, members: usize) -> u8 {
    wanted.min(u8::try_from(members).unwrap_or(u8::MAX))
}
