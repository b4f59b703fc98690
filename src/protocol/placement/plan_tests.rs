//! Claims about plans.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{member, plain};
use super::*;
use crate::types::NodeName;

fn name(index: usize) -> NodeName {
    NodeName::new(&format!("node-{index}")).unwrap()
}

fn joins(indexes: impl IntoIterator<Item = usize>) -> Change {
    let joins = indexes.into_iter().map(|index| member(index, "", 1)).collect();
    Change { joins, ..Change::default() }
}

fn leaves(indexes: impl IntoIterator<Item = usize>) -> Change {
    Change { leaves: indexes.into_iter().map(name).collect(), ..Change::default() }
}

fn plan(parent: &Placement, change: &Change, dead: &[usize]) -> Plan {
    let dead: Vec<NodeName> = dead.iter().map(|&index| name(index)).collect();
    Plan::new(parent, change, |name| !dead.contains(name), |_| 10).unwrap()
}

#[test]
fn a_fourth_node_takes_a_quarter_from_each_of_the_three() {
    let three = Placement::found(plain(3), 3, 4096);
    let plan = plan(&three, &joins([3]), &[]);
    assert_eq!(plan.partitions(), 3072);
    assert_eq!(plan.bytes(), 30_720);
    assert_eq!(plan.moves.len(), 3);
    for moved in &plan.moves {
        assert_eq!((&moved.to, moved.partitions, moved.bytes), (&name(3), 1024, 10_240));
    }
    let whole = Stage { copies_min: 3, unwritable: 0 };
    assert_eq!((plan.before, plan.during, plan.after), (whole, whole, whole));
    assert!(!plan.leaves_fewer_than(3));
    assert!(plan.leaves_fewer_than(4));
}

#[test]
fn the_time_is_that_of_the_node_with_most_to_send_or_receive() {
    let three = Placement::found(plain(3), 3, 4096);
    let joining = plan(&three, &joins([3]), &[]);
    assert_eq!(joining.takes(30_720), Some(Duration::from_secs(1)), "the joiner receives it all");
    let four = joining.placement;
    let leaving = plan(&four, &leaves([3]), &[]);
    assert_eq!(leaving.takes(3_072), Some(Duration::from_secs(10)), "the leaver sends it all");
    assert_eq!(leaving.takes(0), None);
    assert_eq!(leaving.takes(7), Some(Duration::from_millis(4_388_572)), "rounded up");
    let shrinking = Change { replicas: Some(2), ..Change::default() };
    assert_eq!(plan(&three, &shrinking, &[]).takes(0), Some(Duration::ZERO), "nothing moves");
}

#[test]
fn what_a_dead_member_held_comes_from_those_that_live() {
    let four = Placement::found(plain(4), 3, 512);
    let plan = plan(&four, &leaves([1]), &[1]);
    assert_eq!(plan.partitions(), 384);
    assert!(plan.moves.iter().all(|moved| moved.from != name(1)), "{:?}", plan.moves);
    let wounded = Stage { copies_min: 2, unwritable: 0 };
    assert_eq!((plan.before, plan.during), (wounded, wounded));
    assert_eq!(plan.after, Stage { copies_min: 3, unwritable: 0 });
    assert!(plan.leaves_fewer_than(3));
}

#[test]
fn a_range_without_a_majority_in_either_version_is_told_as_not_writable() {
    let five = Placement::found(plain(5), 3, 512);
    let plan = plan(&five, &leaves([0]), &[1, 2]);
    let dead = |placement: &Placement, p| {
        let homes = placement.homes(Partition(p)).iter();
        homes
            .filter(|&&h| [1, 2].map(name).contains(&placement.members[usize::from(h)].name))
            .count()
    };
    let short = |placement: &Placement| -> BTreeSet<u16> {
        (0..512).filter(|&p| dead(placement, p) == 2).collect()
    };
    let (old, new) = (short(&five), short(&plan.placement));
    assert!(!old.is_empty() && old != new);
    let count = |of: &BTreeSet<u16>| u32::try_from(of.len()).unwrap();
    assert_eq!(plan.before, Stage { copies_min: 1, unwritable: count(&old) });
    assert_eq!(plan.during, Stage { copies_min: 1, unwritable: count(&(&old | &new)) });
    assert_eq!(plan.after, Stage { copies_min: 1, unwritable: count(&new) });
}

#[test]
fn a_change_that_is_refused_has_no_plan() {
    let three = Placement::found(plain(3), 3, 64);
    let refused = Plan::new(&three, &Change::default(), |_| true, |_| 0);
    assert_eq!(refused, Err(PlanRefused::NothingChanges));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn moves_account_for_every_copy_that_a_member_lacks(
        count in 3usize..12, joining in 0usize..4, leaving in 0usize..3,
        n in 1u8..5, more in 0u8..3, dead in proptest::collection::btree_set(0usize..12, 0..4),
    ) {
        let parent = Placement::found(plain(count), n, 256);
        let change = Change {
            leaves: leaves(0..leaving).leaves,
            replicas: Some(n + more),
            ..joins(count..count + joining)
        };
        let lives = |name: &NodeName| !dead.iter().any(|&index| name.as_str() == format!("node-{index}"));
        let size = |partition: Partition| u64::from(partition.0) + 1;
        let Ok(plan) = Plan::new(&parent, &change, lives, size) else { return Ok(()) };
        let names = |placement: &Placement, p| -> BTreeSet<NodeName> {
            let homes = placement.homes(Partition(p)).iter();
            homes.map(|&home| placement.members[usize::from(home)].name.clone()).collect()
        };
        let mut lacking: BTreeMap<NodeName, (u32, u64)> = BTreeMap::new();
        for p in 0..256 {
            for taker in names(&plan.placement, p).difference(&names(&parent, p)) {
                let sum = lacking.entry(taker.clone()).or_default();
                *sum = (sum.0 + 1, sum.1 + size(Partition(p)));
            }
        }
        let mut fetched: BTreeMap<NodeName, (u32, u64)> = BTreeMap::new();
        for moved in &plan.moves {
            let sum = fetched.entry(moved.to.clone()).or_default();
            *sum = (sum.0 + moved.partitions, sum.1 + moved.bytes);
            prop_assert!(parent.member(&moved.from).is_some());
            prop_assert!(lives(&moved.from) || plan.before.copies_min == 0, "{:?}", moved);
        }
        prop_assert_eq!(fetched, lacking);
    }
}
