//! The consistent-hash ring: points on a circle of 2^64, each belonging to an item.
//!
//! ```text
//!      0 ──●a──●b────●a─●c───────●b──▶ 2^64     an item has points in proportion to its weight;
//!                ▲ start: then a, c, b          a walk meets each item once, clockwise
//! ```

use std::iter::Chain;

use xxhash_rust::xxh3::xxh3_64;

use super::Member;
use super::zoning::Zoning;

/// Points of a member of mean weight. More points make shares on the bare ring more even; the
/// bounded load makes them exact, so that the ring need only be well mixed.
const POINTS_MEAN: u64 = 128;
/// A member of small weight has at least these, so that a walk soon meets it.
const POINTS_MIN: u64 = 8;
/// A member of great weight has at most these, so that building a ring stays cheap.
const POINTS_MAX: u64 = 2048;

/// Points of items, sorted by position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    points: Vec<(u64, u16)>,
    /// One above the greatest item.
    items: usize,
}

impl Ring {
    /// The ring of all members: the points of a member are hashes of its name and an index.
    #[must_use]
    pub(crate) fn new(members: &[Member]) -> Self {
        let sum: u128 = members.iter().map(|m| u128::from(m.weight)).sum();
        let mut points = Vec::new();
        for (item, member) in (0u16..).zip(members) {
            let share = u128::from(POINTS_MEAN) * members.len() as u128 * u128::from(member.weight);
            let count = u64::try_from(share / sum.max(1)).unwrap_or(u64::MAX);
            for index in 0..count.clamp(POINTS_MIN, POINTS_MAX) {
                points.push((position(member.name.as_str(), index), item));
            }
        }
        points.sort_unstable();
        Self { points, items: members.len() }
    }

    /// The ring of zones: each member's points are its zone's.
    #[must_use]
    pub(super) fn by_zone(&self, zone_of: &[usize], zones: usize) -> Self {
        let zone = |item: u16| u16::try_from(zone_of[usize::from(item)]).unwrap_or(u16::MAX);
        let points = self.points.iter().map(|&(position, item)| (position, zone(item)));
        Self { points: points.collect(), items: zones }
    }

    /// The ring of each zone's members alone: an item is an index among the zone's.
    #[must_use]
    pub(super) fn of_each_zone(&self, zoning: &Zoning) -> Vec<Self> {
        let mut place = vec![0; self.items];
        let mut rings = Vec::with_capacity(zoning.members.len());
        for of_zone in &zoning.members {
            (0u16..).zip(of_zone).for_each(|(index, &item)| place[usize::from(item)] = index);
            rings.push(Self { points: Vec::new(), items: of_zone.len() });
        }
        for &(position, item) in &self.points {
            let item = usize::from(item);
            rings[zoning.zone_of[item]].points.push((position, place[item]));
        }
        rings
    }

    /// The distinct items in clockwise order from the start of a partition's arc.
    pub(crate) fn walk(&self, partition: u16, partitions: u16) -> Walk<'_> {
        let arc = (u128::from(partition) << 64) / u128::from(partitions.max(1));
        let start = u64::try_from(arc).unwrap_or(u64::MAX);
        let first = self.points.partition_point(|&(position, _)| position < start);
        let (before, after) = self.points.split_at(first);
        Walk { ahead: after.iter().chain(before), seen: vec![false; self.items], left: self.items }
    }
}

fn position(name: &str, index: u64) -> u64 {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(&index.to_le_bytes());
    xxh3_64(&bytes)
}

type Points<'a> = std::slice::Iter<'a, (u64, u16)>;

/// See [`Ring::walk`].
pub(crate) struct Walk<'a> {
    ahead: Chain<Points<'a>, Points<'a>>,
    seen: Vec<bool>,
    /// Items not met yet (at most): nothing is left to be found at 0.
    left: usize,
}

impl Iterator for Walk<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.left == 0 {
            return None;
        }
        for &(_, item) in self.ahead.by_ref() {
            let seen = &mut self.seen[usize::from(item)];
            if !*seen {
                *seen = true;
                self.left -= 1;
                return Some(item);
            }
        }
        None
    }
}
