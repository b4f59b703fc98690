//! Who gets how much, and how it is dealt out: exact shares, and bounded load on a ring.
//!
//! *Shares.* A partition's replicas are spread over zones as evenly as their sizes allow: of
//! each zone `f` nodes (or all, if it has fewer), and of some zones one more, where `f` is the
//! greatest number for which that is at most N. Within those bounds, and those of a node (which
//! holds a partition once at most), shares are in proportion to weights: water is poured in
//! until all Q·N slots are full.
//!
//! *Dealing.* Each partition takes, clockwise, the first items that have room left. Where none
//! is left that the partition does not hold already, one exchange with another partition always
//! makes room. Let b have room, p lack an item and hold b, q be full and not hold b: q has at
//! least as many items as p and lacks b, so it holds some a that p does not. q gives a to p and
//! takes b.

use std::cmp::Reverse;

use super::ring::Ring;

/// Fractional bits of a water level: weights have 32 bits.
const LEVEL_BITS: u32 = 40;
/// Water is measured in slots with this many fractional bits.
const SLOT_BITS: u32 = 20;

/// Pours `total` slots into vessels: `held(level)` is what each holds at a level, in fractions
/// of a slot, monotone, no more than a whole slot apart from one level to the next; at
/// `level_max` they hold at least `total`. What is left by rounding down goes first to those who
/// hold more than that `now` (so that they need not give it up), then by the largest remainder,
/// ties by index.
fn pour(total: u64, level_max: u128, now: &[u64], held: impl Fn(u128) -> Vec<u64>) -> Vec<u64> {
    let (mut low, mut high) = (0, level_max + 1);
    while high - low > 1 {
        let middle = u128::midpoint(low, high);
        let sum: u64 = held(middle).iter().sum();
        if sum <= total << SLOT_BITS { low = middle } else { high = middle }
    }
    let water = held(low);
    let mut result: Vec<u64> = water.iter().map(|fractions| fractions >> SLOT_BITS).collect();
    let rest = total.saturating_sub(result.iter().sum());
    let rank = |index: usize| {
        let remainder = water[index] - (result[index] << SLOT_BITS);
        Reverse((remainder > 0 && now[index] > result[index], remainder))
    };
    let mut order: Vec<usize> = (0..water.len()).collect();
    order.sort_by_key(|&index| rank(index));
    order.into_iter().zip(0..rest).for_each(|(index, _)| result[index] += 1);
    result
}

/// A zone: of each of its nodes, the weight and the slots that it holds already.
pub(super) struct Zone {
    pub(super) weights: Vec<u32>,
    pub(super) held: Vec<u64>,
}

/// Exact shares of the Q·N slots.
pub(super) struct Shares {
    /// Of each zone, how many nodes every partition has at least.
    pub(super) base: Vec<u8>,
    /// For how many partitions each zone has one node more.
    pub(super) extra: Vec<u64>,
    /// Zones with one node more, in each partition.
    pub(super) extras: u8,
    /// Slots of each node of each zone.
    pub(super) nodes: Vec<Vec<u64>>,
}

impl Shares {
    /// Shares of `partitions` times `replicas` slots; there are at least `replicas` nodes.
    pub(super) fn new(zones: &[Zone], replicas: u8, partitions: u16) -> Self {
        let q = u64::from(partitions);
        let of_each = |f: u8| {
            let base = |zone: &Zone| u8::try_from(zone.weights.len()).unwrap_or(u8::MAX).min(f);
            zones.iter().map(base).collect::<Vec<u8>>()
        };
        let count = |f: u8| of_each(f).iter().map(|&n| u64::from(n)).sum::<u64>();
        let full = (0..=replicas).rev().find(|&f| count(f) <= u64::from(replicas)).unwrap_or(0);
        let base = of_each(full);
        let tops = of_each(full.saturating_add(1));
        let whole = q << SLOT_BITS;
        let level_max = u128::from(whole) << LEVEL_BITS;
        let node = |level: u128, weight: u32| {
            let water = (level * u128::from(weight)) >> LEVEL_BITS;
            u64::try_from(water).unwrap_or(u64::MAX).min(whole)
        };
        let now: Vec<u64> = zones.iter().map(|zone| zone.held.iter().sum()).collect();
        let zone_totals = pour(q * u64::from(replicas), level_max, &now, |level| {
            let zone = |((zone, &low), &top): ((&Zone, &u8), &u8)| {
                let water: u64 = zone.weights.iter().map(|&weight| node(level, weight)).sum();
                water.clamp(whole * u64::from(low), whole * u64::from(top))
            };
            zones.iter().zip(&base).zip(&tops).map(zone).collect()
        });
        let inside = |(zone, &total): (&Zone, &u64)| {
            let held = |level| zone.weights.iter().map(|&weight| node(level, weight)).collect();
            pour(total, level_max, &zone.held, held)
        };
        let nodes = zones.iter().zip(&zone_totals).map(inside).collect();
        let more = |(&total, &low): (&u64, &u8)| total.saturating_sub(q * u64::from(low));
        let extra = zone_totals.iter().zip(&base).map(more).collect();
        let taken = base.iter().map(|&n| u64::from(n)).sum::<u64>();
        let extras = replicas - u8::try_from(taken).unwrap_or(replicas).min(replicas);
        Self { base, extra, extras, nodes }
    }
}

/// Deals items out: partition p gets `needs[p]` distinct ones, item i goes out `room[i]` times.
/// The sums of both are equal, no two needs differ by more than one, and no room exceeds the
/// number of partitions.
pub(super) fn deal(ring: &Ring, needs: &[u8], mut room: Vec<u64>) -> Vec<Vec<u16>> {
    let partitions = u16::try_from(needs.len()).unwrap_or(u16::MAX);
    let mut held: Vec<Vec<u16>> = Vec::with_capacity(needs.len());
    let mut lacking = Vec::new();
    for (partition, &need) in (0..partitions).zip(needs) {
        if need == 0 {
            held.push(Vec::new());
            continue;
        }
        let mut items = Vec::with_capacity(usize::from(need));
        let mut walk = ring.walk(partition, partitions);
        while items.len() < usize::from(need) {
            let Some(item) = walk.next() else { break };
            if room[usize::from(item)] > 0 {
                room[usize::from(item)] -= 1;
                items.push(item);
            }
        }
        if items.len() < usize::from(need) {
            lacking.push(usize::from(partition));
        }
        held.push(items);
    }
    for (item, left) in (0u16..).zip(room) {
        for _ in 0..left {
            make_room(needs, &mut held, &mut lacking, item);
        }
    }
    held
}

/// Gives `item`, which has room left, to a partition that lacks one, by an exchange if need be.
fn make_room(needs: &[u8], held: &mut [Vec<u16>], lacking: &mut Vec<usize>, item: u16) {
    let direct = lacking.iter().position(|&p| !held[p].contains(&item));
    let Some(at) = direct.or(lacking.len().checked_sub(1)) else { return };
    let p = lacking[at];
    if direct.is_some() {
        held[p].push(item);
    } else {
        let exchange = (1..held.len()).map(|step| (p + step) % held.len()).find_map(|q| {
            let given = held[q].iter().position(|a| !held[p].contains(a))?;
            (!held[q].contains(&item)).then_some((q, given))
        });
        let (q, given) = exchange.expect("an exchange exists: see the module's proof");
        let other = std::mem::replace(&mut held[q][given], item);
        held[p].push(other);
    }
    if held[p].len() == usize::from(needs[p]) {
        lacking.swap_remove(at);
    }
}
