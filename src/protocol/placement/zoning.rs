//! Members by zone.

use super::Member;
use super::share::{Shares, Zone};

/// Members by zone: zones are numbered in the order of their names.
pub(super) struct Zoning {
    /// The zone of each member.
    pub(super) zone_of: Vec<usize>,
    /// The members of each zone, ascending.
    pub(super) members: Vec<Vec<u16>>,
}

impl Zoning {
    pub(super) fn new(members: &[Member]) -> Self {
        let mut names: Vec<&str> = members.iter().map(|member| member.zone.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let zone_of = |member: &Member| names.binary_search(&member.zone.as_str()).unwrap_or(0);
        let zone_of: Vec<usize> = members.iter().map(zone_of).collect();
        let mut of_zone = vec![Vec::new(); names.len()];
        for (index, &zone) in (0u16..).zip(&zone_of) {
            of_zone[zone].push(index);
        }
        Self { zone_of, members: of_zone }
    }

    /// Each member's share. `held` is how many partitions each holds already: where a share
    /// could be rounded either way, it is rounded to what is held.
    pub(super) fn shares(
        &self,
        members: &[Member],
        held: &[u64],
        replicas: u8,
        partitions: u16,
    ) -> Shares {
        let zone = |of: &Vec<u16>| {
            let of = of.iter().map(|&member| usize::from(member));
            let (weights, held) = of.map(|member| (members[member].weight, held[member])).unzip();
            Zone { weights, held }
        };
        let zones: Vec<Zone> = self.members.iter().map(zone).collect();
        Shares::new(&zones, replicas, partitions)
    }
}

/// Puts homes in order of preference without moving more than it must: distinct zones first.
pub(super) fn distinct_zones_first(homes: &[u16], zone_of: &[usize]) -> Vec<u16> {
    let round = |at: usize| {
        let zone = zone_of[usize::from(homes[at])];
        homes[..at].iter().filter(|&&before| zone_of[usize::from(before)] == zone).count()
    };
    let mut order: Vec<usize> = (0..homes.len()).collect();
    order.sort_by_key(|&at| round(at));
    order.into_iter().map(|at| homes[at]).collect()
}
