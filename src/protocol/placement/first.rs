//! The table of the first version, taken from the ring.

use super::Member;
use super::ring::Ring;
use super::share::deal;
use super::zoning::{Zoning, distinct_zones_first};

/// For each partition, `replicas` indexes into `members`, in order of preference: clockwise,
/// distinct zones first.
pub(super) fn first_table(members: &[Member], replicas: u8, partitions: u16) -> Vec<u16> {
    let ring = Ring::new(members);
    let zoning = Zoning::new(members);
    let zone_of = &zoning.zone_of;
    let shares = zoning.shares(members, &vec![0; members.len()], replicas, partitions);

    let zone_ring = ring.by_zone(zone_of, zoning.members.len());
    let extras = vec![shares.extras; usize::from(partitions)];
    let extras = deal(&zone_ring, &extras, shares.extra.clone());
    let mut homes: Vec<Vec<u16>> = vec![Vec::new(); usize::from(partitions)];
    let inside = ring.of_each_zone(&zoning);
    for (zone, (room, inside)) in shares.nodes.into_iter().zip(inside).enumerate() {
        let need = |extras: &Vec<u16>| {
            shares.base[zone] + u8::from(extras.iter().any(|&z| usize::from(z) == zone))
        };
        let needs: Vec<u8> = extras.iter().map(need).collect();
        let of_zone = &zoning.members[zone];
        for (homes, items) in homes.iter_mut().zip(deal(&inside, &needs, room)) {
            homes.extend(items.into_iter().map(|item| of_zone[usize::from(item)]));
        }
    }
    let mut table = Vec::with_capacity(homes.len() * usize::from(replicas));
    for (partition, homes) in (0..partitions).zip(&homes) {
        let clockwise = ring.walk(partition, partitions);
        let clockwise: Vec<u16> =
            clockwise.filter(|member| homes.contains(member)).take(homes.len()).collect();
        table.extend(distinct_zones_first(&clockwise, zone_of));
    }
    table
}
