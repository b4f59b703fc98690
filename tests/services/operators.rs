//! What operators ask of one node: the ring, a key's place, and what is stored.

use coterie::api::backend::{MemberStatus, NodeStatus};
use coterie::client::{Client, Options};
use coterie::proto::stored_copy::State;
use coterie::proto::stored_sibling::Kind;
use coterie::protocol::step::RepairReport;
use coterie::types::{Key, NodeName};
use tonic::Code;

use crate::fake::{Fake, PARTITIONS};

fn client(address: &str) -> Client {
    Client::connect([address], Options::default()).unwrap()
}

#[tokio::test]
async fn the_ring_is_told_whole_and_its_counts_fit_its_table() {
    let server = Fake::default().serve().await;
    let ring = client(&server.address).ring(&server.address).await.unwrap();
    assert_eq!((ring.name.as_str(), ring.replicas), ("node-0", 3));
    assert_eq!(ring.partitions, u32::from(PARTITIONS));
    assert_eq!(ring.homes.len(), 3 * usize::from(PARTITIONS));
    assert_eq!(ring.members[1].zone, "zone-node-1");
    for (index, member) in (0..).zip(&ring.members) {
        let homes = ring.homes.iter().filter(|home| **home == index).count();
        let firsts = ring.homes.chunks(3).filter(|homes| homes[0] == index).count();
        assert_eq!((member.partitions as usize, member.primaries as usize), (homes, firsts));
    }
}

#[tokio::test]
async fn a_key_has_n_homes_and_all_others_as_fallbacks() {
    let server = Fake::default().serve().await;
    let client = client(&server.address);
    let found = client.locate(&server.address, "key").await.unwrap();
    let partition = Key::new("key").unwrap().partition(PARTITIONS);
    assert_eq!(found.partition, u32::from(partition.0));
    assert_eq!((found.homes.len(), found.fallbacks.len()), (3, 1));
    let ring = client.ring(&server.address).await.unwrap();
    let start = usize::from(partition.0) * 3;
    for (place, home) in found.homes.iter().zip(&ring.homes[start..start + 3]) {
        assert_eq!(place.name, ring.members[*home as usize].name);
    }
    // A node reaches itself; of the others it has not heard.
    for place in found.homes.iter().chain(&found.fallbacks) {
        assert_eq!(place.reachable, place.name == "node-0", "{place:?}");
    }
    let refused = client.locate(&server.address, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_inspection_tells_values_tombstones_damage_and_hints_apart() {
    let node = Fake::default();
    node.put("key", "value");
    node.put_sibling("key", "another");
    node.put("damaged", "whole elsewhere");
    let server = node.serve().await;
    let client = client(&server.address);
    let found = client.inspect(&server.address, "key").await.unwrap();
    let own = found.own.unwrap();
    assert_eq!((own.state(), own.siblings.len(), own.seen.len()), (State::Record, 2, 2));
    assert!(own.siblings.iter().all(|sibling| sibling.kind() == Kind::Value));
    assert_eq!(own.siblings[1].value_bytes, 7);
    assert_eq!(own.hash.len(), 32);
    assert!(found.hints.is_empty() && !found.rebuilding);

    let found = client.inspect(&server.address, "damaged").await.unwrap();
    assert_eq!(found.own.unwrap().state(), State::Damaged);
    assert!(found.rebuilding);
    assert_eq!(found.hints[0].target, "node-1");
    assert_eq!(found.hints[0].copy.as_ref().unwrap().state(), State::Record);
    let found = client.inspect(&server.address, "never written").await.unwrap();
    assert_eq!(found.own.unwrap().state(), State::Absent);
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_an_error_and_never_nothing() {
    let node = Fake::default();
    let server = node.serve().await;
    let client = client(&server.address);
    let held = client.hints(&server.address).await.unwrap();
    assert_eq!((held.targets[0].hints, held.targets[0].damaged, held.complete), (3, 1, false));
    node.state.lock().unwrap().unreadable = true;
    let errors = [
        client.hints(&server.address).await.unwrap_err(),
        client.inspect(&server.address, "key").await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.code(), error.reason()), (Code::Internal, "STORE_UNREADABLE"));
    }
}

#[tokio::test]
async fn members_and_repair_are_told_by_themselves_as_the_status_tells_them() {
    let node = Fake::default();
    node.state.lock().unwrap().status = Some(NodeStatus {
        name: "node-0".to_owned(),
        members: vec![MemberStatus {
            name: "node-1".to_owned(),
            zone: "east".to_owned(),
            weight: 3,
            ..MemberStatus::default()
        }],
        repair: RepairReport {
            partitions: 7,
            rebuilding: 2,
            waits_for: [(NodeName::new("node-1").unwrap(), 2)].into(),
            ..RepairReport::default()
        },
        rebuilding: Some("a disk was lost".to_owned()),
        ..NodeStatus::default()
    });
    let server = node.serve().await;
    let client = client(&server.address);
    let status = client.status(&server.address).await.unwrap();
    let members = client.members(&server.address).await.unwrap();
    assert_eq!((members.name.as_str(), &members.members), ("node-0", &status.members));
    let member = &members.members[0];
    assert_eq!((member.name.as_str(), member.zone.as_str(), member.weight), ("node-1", "east", 3));
    let told = client.repair(&server.address).await.unwrap();
    assert_eq!((told.name.as_str(), told.rebuilding.as_str()), ("node-0", "a disk was lost"));
    assert_eq!(told.repair, status.repair);
    let repair = told.repair.unwrap();
    assert_eq!((repair.partitions, repair.rebuilding), (7, 2));
    assert_eq!(repair.waits_for, ["node-1"]);
}

#[tokio::test]
async fn before_the_founding_there_is_no_ring_to_be_told() {
    let node = Fake::default();
    node.state.lock().unwrap().unfounded = true;
    let server = node.serve().await;
    let client = client(&server.address);
    let errors = [
        client.ring(&server.address).await.unwrap_err(),
        client.locate(&server.address, "key").await.unwrap_err(),
        client.inspect(&server.address, "key").await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.message().contains("not founded"), "{error}");
    }
}
