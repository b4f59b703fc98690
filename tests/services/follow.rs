//! A client that learns of the other nodes.

use std::time::{Duration, Instant};

use coterie::api::backend::{MemberStatus, NodeStatus};
use coterie::client::{Client, Options};

use crate::fake::{Fake, Server};

/// Nodes of one cluster that know of each other.
async fn cluster(name: &str, count: usize) -> Vec<(Fake, Server)> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        let fake = Fake::default();
        let server = fake.serve().await;
        nodes.push((fake, server));
    }
    let addresses: Vec<String> = nodes.iter().map(|node| node.1.address.clone()).collect();
    tell(&nodes, name, &addresses);
    nodes
}

/// Makes each node say that the members are at these addresses.
fn tell(nodes: &[(Fake, Server)], cluster: &str, addresses: &[String]) {
    let member = |address: &String| MemberStatus {
        node_id: format!("id of {address}"),
        client_address: address.clone(),
        ..MemberStatus::default()
    };
    for (fake, server) in nodes {
        fake.state.lock().unwrap().status = Some(NodeStatus {
            node_id: format!("id of {}", server.address),
            cluster_id: cluster.to_owned(),
            members: addresses.iter().map(member).collect(),
            ..NodeStatus::default()
        });
    }
}

fn client(address: &str, options: Options) -> Client {
    Client::connect([address], options).unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(5), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn asked(node: &(Fake, Server)) -> bool {
    !node.0.state.lock().unwrap().asked.is_empty()
}

#[tokio::test]
async fn a_client_that_was_given_one_address_uses_all_nodes_and_survives_the_first() {
    let mut nodes = cluster("one", 3).await;
    let client = client(&nodes[0].1.address, Options::default());
    until("the others are not used", async || {
        client.get("k").await.unwrap();
        nodes.iter().all(asked)
    })
    .await;
    assert_eq!(client.addresses().len(), 3);
    drop(nodes.remove(0));
    for _ in 0..50 {
        client.set("k", "v").await.unwrap();
    }
}

#[tokio::test]
async fn a_pinned_client_stays_with_what_it_was_given() {
    let nodes = cluster("one", 2).await;
    let client = client(&nodes[0].1.address, Options { pinned: true, ..Options::default() });
    for _ in 0..50 {
        client.get("k").await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.get("k").await.unwrap();
    assert!(!asked(&nodes[1]));
    assert_eq!(client.addresses(), [nodes[0].1.address.clone()]);
}

#[tokio::test]
async fn a_member_that_cannot_be_reached_or_is_of_another_cluster_is_not_used() {
    let nodes = cluster("one", 2).await;
    let foreign = cluster("another", 1).await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = gone.local_addr().unwrap().to_string();
    let mut addresses: Vec<String> = nodes.iter().map(|node| node.1.address.clone()).collect();
    addresses.extend([gone, foreign[0].1.address.clone(), "0.0.0.0:7400".to_owned()]);
    tell(&nodes, "one", &addresses);
    let client = client(&nodes[0].1.address, Options::default());
    until("the other is not used", async || {
        client.get("k").await.unwrap();
        asked(&nodes[1])
    })
    .await;
    assert_eq!(client.addresses(), addresses[..2]);
    assert!(!asked(&foreign[0]));
}

#[tokio::test]
async fn a_node_that_the_caller_knows_by_another_name_is_not_counted_twice() {
    let nodes = cluster("one", 2).await;
    let port = nodes[0].1.address.rsplit_once(':').unwrap().1;
    let client = client(&format!("localhost:{port}"), Options::default());
    until("the other is not used", async || {
        client.get("k").await.unwrap();
        asked(&nodes[1])
    })
    .await;
    assert_eq!(client.addresses(), [format!("localhost:{port}"), nodes[1].1.address.clone()]);
}

#[tokio::test]
async fn who_is_a_member_no_longer_is_forgotten_soon_after_a_failure() {
    let mut nodes = cluster("one", 3).await;
    let client = client(&nodes[0].1.address, Options::default());
    until("the others are not known", async || {
        client.get("k").await.unwrap();
        client.addresses().len() == 3
    })
    .await;
    let left: Vec<String> = nodes[..2].iter().map(|node| node.1.address.clone()).collect();
    tell(&nodes, "one", &left);
    drop(nodes.pop());
    until("it is not forgotten", async || {
        client.get("k").await.unwrap();
        client.addresses() == left
    })
    .await;
}
