//! What operators ask of one node: the ring, a key's place, and what is stored.

use coterie::client::{Client, Options};
use coterie::proto::stored_copy::State;
use coterie::proto::stored_sibling::Kind;
use coterie::types::Key;
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
