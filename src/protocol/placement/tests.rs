//! Claims about placement, over many clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::types::{Boot, NodeId};

pub(super) fn member(index: usize, zone: &str, weight: u32) -> Member {
    let name = NodeName::new(&format!("node-{index}")).unwrap();
    Member { name, zone: zone.to_owned(), weight }
}

pub(super) fn plain(count: usize) -> Vec<Member> {
    (0..count).map(|index| member(index, "", 1)).collect()
}

fn loads(placement: &Placement) -> Vec<f64> {
    let mut loads = vec![0.0; placement.members.len()];
    placement.table.iter().for_each(|&home| loads[usize::from(home)] += 1.0);
    loads
}

pub(super) fn assert_sound(placement: &Placement) {
    let mut of_zone: BTreeMap<&str, usize> = BTreeMap::new();
    placement.members.iter().for_each(|m| *of_zone.entry(&m.zone).or_default() += 1);
    let n = usize::from(placement.replicas);
    for p in 0..placement.partitions {
        let homes = placement.homes(Partition(p));
        assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), n, "distinct homes");
        let zone = |&home: &u16| placement.members[usize::from(home)].zone.as_str();
        let first: BTreeSet<&str> = homes.iter().take(of_zone.len()).map(zone).collect();
        assert_eq!(first.len(), n.min(of_zone.len()), "distinct zones first, in partition {p}");
    }
    for ((load, ideal), member) in
        loads(placement).iter().zip(placement.fair_shares()).zip(&placement.members)
    {
        assert!(*load <= ideal.ceil().max(ideal * 1.05) + 1.0, "{member:?}: {load} of {ideal}");
        assert!(*load >= ideal.floor() - 1.0, "{member:?}: {load} of {ideal}");
    }
}

#[test]
fn from_3_to_100_equal_nodes_the_greatest_load_is_within_a_twentieth_of_the_mean() {
    for count in [3, 4, 5, 6, 7, 9, 10, 13, 17, 31, 50, 64, 99, 100] {
        let placement = Placement::found(plain(count), 3, 4096);
        let loads = loads(&placement);
        let mean = loads.iter().sum::<f64>() / count as f64;
        let max = loads.iter().copied().fold(0.0, f64::max);
        assert!(max / mean <= 1.05, "{count} nodes: {}", max / mean);
        assert_sound(&placement);
    }
}

#[test]
fn more_replicas_than_founders_means_every_founder() {
    let placement = Placement::found(plain(2), 3, 64);
    assert_eq!(placement.replicas, 2);
    assert_eq!(placement.homes(Partition(63)).len(), 2);
}

#[test]
fn three_equal_zones_hold_one_replica_each() {
    let members = (0..9).map(|i| member(i, ["a", "b", "c"][i % 3], 1)).collect();
    let placement = Placement::found(members, 3, 4096);
    for p in 0..4096 {
        let homes = placement.homes(Partition(p)).iter();
        let zones: BTreeSet<_> = homes.map(|&h| &placement.members[usize::from(h)].zone).collect();
        assert_eq!(zones.len(), 3);
    }
}

#[test]
fn a_first_home_is_spread_over_all_members() {
    let placement = Placement::found(plain(5), 3, 4096);
    let mut first = vec![0; 5];
    (0..4096).for_each(|p| first[usize::from(placement.homes(Partition(p))[0])] += 1);
    assert!(first.iter().all(|&count| (570..=1070).contains(&count)), "{first:?}");
}

#[test]
fn the_placement_of_five_founders_never_changes() {
    // The hash is part of the wire and of every disk: a change of it is a change of format.
    let placement = Placement::found(plain(5), 3, 4096);
    assert_eq!(placement.tag.number, 1);
    assert_eq!(format!("{:016x}", placement.tag.hash), "80b90bf48637b02c");
    assert_eq!(placement.cluster_id("demo").to_string(), "dddc07ada5812b669037caa51369682f");
    assert_ne!(placement.cluster_id("demo"), placement.cluster_id("other"));
}

#[test]
fn a_view_answers_by_member_and_by_id() {
    let placement = Arc::new(Placement::found(plain(5), 3, 64));
    let name = NodeName::new("node-1").unwrap();
    let ids = [(name.clone(), NodeId(7))].into();
    let cluster = placement.cluster_id("demo");
    let view = View::new(NodeId(7), name.clone(), Boot(1), cluster, placement, ids);
    assert_eq!(
        (view.newest().my_member(), view.newest().id(1), view.newest().id(0)),
        (Some(1), Some(NodeId(7)), None)
    );
    assert_eq!(view.name_of(NodeId(7)), Some(&name));
    assert_eq!(view.newest().id(99), None);
    for p in (0..64).map(Partition) {
        let mut all = view.newest().fallbacks(p);
        all.extend_from_slice(view.newest().homes(p));
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4], "homes and fallbacks are all members, once");
    }
    let other = view.with_ids([(name, NodeId(8))].into());
    assert_eq!(other.newest().my_member(), None, "another disk bears the name");
}

pub(super) fn members() -> impl Strategy<Value = Vec<Member>> {
    let each = (0usize..5, prop_oneof![3 => Just(1u32), 2 => 1u32..8, 1 => 1u32..2000]);
    let zones = prop_oneof![Just(1usize), 2usize..6];
    (proptest::collection::vec(each, 1..40), zones).prop_map(|(each, zones)| {
        let member = |(index, (zone, weight))| member(index, &format!("z{}", zone % zones), weight);
        each.into_iter().enumerate().map(member).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_member_gets_its_share_whatever_the_zones_and_weights(
        members in members(), n in 1u8..8, q in prop_oneof![Just(4096u16), 1u16..600],
    ) {
        assert_sound(&Placement::found(members, n, q));
    }

    #[test]
    fn a_placement_is_a_function_of_the_set_of_founders(mut members in members(), n in 1u8..5) {
        let placement = Placement::found(members.clone(), n, 128);
        members.reverse();
        prop_assert_eq!(&placement, &Placement::found(members, n, 128));
        prop_assert_eq!(Placement::decode(&placement.encode().into()), Ok(placement));
    }

    #[test]
    fn damaged_placements_never_panic(
        members in members(), cut in 0usize..4000, at in 0usize..4000, byte: u8,
    ) {
        let placement = Placement::found(members, 3, 64);
        let mut bytes = placement.encode();
        let at = at % bytes.len();
        bytes[at] ^= byte;
        if let Ok(other) = Placement::decode(&bytes.clone().into()) {
            prop_assert_eq!(other.encode(), bytes.clone(), "one encoding a placement");
        }
        bytes.truncate(cut);
        let _ = Placement::decode(&bytes.into());
    }

    #[test]
    fn arbitrary_bytes_are_no_panic(bytes: Vec<u8>) {
        let _ = Placement::decode(&bytes.into());
    }
}

#[test]
fn founding_by_100_nodes_takes_less_than_100_ms_unoptimised() {
    let founding = || {
        let start = std::time::Instant::now();
        assert_eq!(Placement::found(plain(100), 3, 4096).members.len(), 100);
        start.elapsed()
    };
    let best = (0..3).map(|_| founding()).min().unwrap();
    assert!(best.as_millis() < 100, "{best:?}");
}
