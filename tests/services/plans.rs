//! What a change of the ring would come to, as one node tells it.

use coterie::api::backend::{MemberStatus, NodeStatus};
use coterie::client::{Client, Error, Options};
use coterie::proto::{NewWeight, NewZone, PlanRequest, PlanResponse, RingChange};
use tonic::Code;

use crate::fake::{Fake, PARTITIONS};

/// node-0 of four members, which reaches all of them, and has heard of node-4.
fn node() -> Fake {
    let member = |name: &str, zone: &str, home| MemberStatus {
        name: name.to_owned(),
        zone: zone.to_owned(),
        weight: 2,
        reachable: name != "node-3",
        home,
        ..MemberStatus::default()
    };
    let node = Fake::default();
    node.state.lock().unwrap().status = Some(NodeStatus {
        name: "node-0".to_owned(),
        members: vec![
            member("node-0", "zone-node-0", true),
            member("node-1", "zone-node-1", true),
            member("node-2", "zone-node-2", true),
            member("node-3", "zone-node-3", true),
            member("node-4", "zone-node-0", false),
        ],
        ..NodeStatus::default()
    });
    node
}

async fn plan_of(node: &Fake, change: RingChange) -> Result<PlanResponse, Error> {
    let server = node.serve().await;
    let client = Client::connect([&server.address], Options::default()).unwrap();
    let change = Some(change);
    let asked = PlanRequest { change, partition_bytes: 1_000, bytes_per_second: 1_000 };
    client.plan(&server.address, asked).await
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_plan_tells_what_moves_how_safe_it_is_and_how_long_it_takes() {
    let change = RingChange { leaves: names(&["node-3"]), ..RingChange::default() };
    let plan = plan_of(&node(), change).await.unwrap();
    assert_eq!((plan.name.as_str(), plan.replicas, plan.members), ("node-0", 3, 3));
    assert!(plan.parent.starts_with("1:") && plan.tag.starts_with("2:"), "{plan:?}");
    let held = u32::from(PARTITIONS) * 3 / 4;
    let moved: u32 = plan.moves.iter().map(|moved| moved.partitions).sum();
    assert_eq!(moved, held, "what node-3 held moves");
    for moved in &plan.moves {
        assert_ne!(moved.from, "node-3", "it cannot be reached");
        assert_eq!(moved.bytes, u64::from(moved.partitions) * 1_000);
    }
    let stages = [plan.before, plan.during, plan.after].map(Option::unwrap);
    assert_eq!(stages.map(|stage| stage.copies_min), [2, 2, 3]);
    assert_eq!(stages.map(|stage| stage.unwritable), [0, 0, 0]);
    assert!(plan.takes_ms >= u64::from(held / 3) * 1_000, "{plan:?}");
    assert!(plan.unheard.is_empty() && !plan.under_way);
}

#[tokio::test]
async fn who_joins_has_the_zone_and_weight_that_it_says_or_that_the_plan_says() {
    let node = node();
    let share = |plan: &PlanResponse, name: &str| {
        let taken = plan.moves.iter().filter(|moved| moved.to == name);
        taken.map(|moved| moved.partitions).sum::<u32>()
    };
    let join = |name: &str| RingChange { joins: names(&[name]), ..RingChange::default() };
    let as_it_says = plan_of(&node, join("node-4")).await.unwrap();
    assert!(as_it_says.unheard.is_empty());
    let light = vec![NewWeight { name: "node-4".to_owned(), weight: 1 }];
    let lighter = plan_of(&node, RingChange { weights: light, ..join("node-4") }).await.unwrap();
    assert!(share(&lighter, "node-4") < share(&as_it_says, "node-4"));
    let elsewhere = vec![NewZone { name: "node-4".to_owned(), zone: "zone-node-1".to_owned() }];
    let moved = plan_of(&node, RingChange { zones: elsewhere, ..join("node-4") }).await.unwrap();
    assert_ne!(moved.tag, as_it_says.tag);
    let stranger = plan_of(&node, join("node-9")).await.unwrap();
    assert_eq!(stranger.unheard, ["node-9"]);
}

#[tokio::test]
async fn a_zone_that_no_member_is_in_is_refused_unless_it_is_meant() {
    let node = node();
    let zones = vec![NewZone { name: "node-1".to_owned(), zone: "zone-nod-2".to_owned() }];
    let change = RingChange { zones, ..RingChange::default() };
    let refused = plan_of(&node, change.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("zone-node-2"), "the zones are named: {refused}");
    assert!(refused.message().contains("--new-zone zone-nod-2"), "{refused}");
    let meant = RingChange { new_zones: names(&["zone-nod-2"]), ..change };
    assert!(plan_of(&node, meant).await.is_ok());
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_and_nothing_is_begun() {
    let node = node();
    let of = |joins: &[&str], leaves: &[&str]| RingChange {
        joins: names(joins),
        leaves: names(leaves),
        ..RingChange::default()
    };
    for (change, why) in [
        (of(&[], &[]), "changes nothing"),
        (of(&["node-1"], &[]), "is a member already"),
        (of(&[], &["node-9"]), "is no member"),
        (of(&["node-4"], &["node-4"]), "is named twice"),
        (of(&[], &["node-1", "node-2"]), "N = 3 needs as many members"),
    ] {
        let refused = plan_of(&node, change).await.unwrap_err();
        let told = (refused.code(), refused.reason(), refused.outcome_is_known());
        assert_eq!(told, (Code::FailedPrecondition, "PLAN_REFUSED", true), "{refused}");
        assert!(refused.message().contains(why), "{refused}");
    }
    let twice = ["node-4", "node-4"].map(|name| NewWeight { name: name.to_owned(), weight: 3 });
    let refused =
        plan_of(&node, RingChange { weights: twice.into(), ..of(&["node-4"], &[]) }).await;
    assert!(refused.unwrap_err().message().contains("is named twice"));
    let refused = plan_of(&node, of(&["Not A Name"], &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let crowd: Vec<String> = (0..5_000).map(|index| format!("node-{index}")).collect();
    let refused = plan_of(&node, RingChange { joins: crowd, ..RingChange::default() }).await;
    assert!(refused.unwrap_err().message().contains("more than 4096 nodes"));
}
