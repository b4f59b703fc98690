//! The client against nodes that fail.

use std::time::{Duration, Instant};

use coterie::client::{Client, ErrorKind, Options, ReadOptions, WriteOptions};
use coterie::protocol::op::{Failure, Reason};
use coterie::types::{NodeName, RequestId};
use tokio::net::TcpListener;

use crate::fake::{Fake, settings};

/// Where a port that was given up is taken by nobody meanwhile.
const ASIDE: &str = "127.0.0.2:0";

fn client(addresses: &[&str], options: Options) -> Client {
    Client::connect(addresses.iter().copied(), options).unwrap()
}

/// An address that nobody listens at, nor takes for the near end of a call: those are at the first address of
/// the machine.
async fn nowhere() -> String {
    let listener = TcpListener::bind(ASIDE).await.unwrap();
    listener.local_addr().unwrap().to_string()
}

pub fn not_reached(maybe_applied: bool) -> Failure {
    let names = |names: &[&str]| names.iter().map(|name| NodeName::new(name).unwrap()).collect();
    Failure {
        reason: Reason::QuorumNotReached,
        needed: 2,
        reached: names(&["node-0"]),
        missing: names(&["node-1", "node-2"]),
        maybe_applied,
    }
}

#[tokio::test]
async fn what_is_written_is_read_with_its_context_until_it_is_deleted() {
    let server = Fake::default().serve().await;
    let client = client(&[&server.address], Options::default());
    assert_eq!(client.get("k").await.unwrap(), None);
    let written = client.set("k", "v").await.unwrap();
    assert_eq!(written.receipt.homes, ["node-0", "node-1"]);
    let got = client.get("k").await.unwrap().unwrap();
    assert_eq!((&got.value[..], got.siblings), (&b"v"[..], 0));
    assert_eq!(got.context, written.context);
    let options = WriteOptions { context: got.context, ..WriteOptions::default() };
    client.delete_with("k", &options).await.unwrap();
    let reading = client.get_with("k", &ReadOptions::default()).await.unwrap();
    assert_eq!(reading.value, None);
    assert!(!reading.context.is_empty(), "an absent key has a context");
    let status = client.status(&server.address).await.unwrap();
    assert_eq!((&status.name[..], status.ready), ("node-0", true));
}

#[tokio::test]
async fn a_write_that_may_have_been_applied_is_retried_elsewhere_with_the_same_request_id() {
    let (first, second) = (Fake::failing(not_reached(true)), Fake::failing(not_reached(true)));
    let servers = [first.serve().await, second.serve().await];
    let options = Options { attempts: 2, ..Options::default() };
    let client = client(&[&servers[0].address, &servers[1].address], options);
    let error = client.set("k", "v").await.unwrap_err();
    let ids = [first.request_ids(), second.request_ids()].concat();
    assert_eq!(ids.len(), 2, "each node is asked once");
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], RequestId([0; 16]));

    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.reason(), "QUORUM_NOT_REACHED");
    assert!(!error.outcome_is_known() && error.retry_is_safe());
    assert_eq!((error.reached(), error.needed(), error.attempts()), (&["node-0".into()][..], 2, 2));
    assert_eq!(error.missing(), ["node-1", "node-2"]);
    let text = error.to_string();
    assert!(text.contains("missing node-1, node-2") && text.contains("outcome unknown"), "{text}");

    // Another write has another id; one that the caller gives is kept.
    let given = WriteOptions { request_id: Some([9; 16]), ..WriteOptions::default() };
    client.set("k", "v").await.unwrap_err();
    client.delete_with("k", &given).await.unwrap_err();
    let ids = [first.request_ids(), second.request_ids()].concat();
    assert_eq!(ids.iter().filter(|id| **id == RequestId([9; 16])).count(), 2);
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
}

#[tokio::test]
async fn one_node_of_two_that_fails_is_not_seen_by_the_caller() {
    let (bad, good) = (Fake::failing(not_reached(false)), Fake::default());
    let (one, two) = (bad.serve().await, good.serve().await);
    let client = client(&[&one.address, &two.address], Options::default());
    for i in 0..20 {
        client.set(format!("k{i}"), "v").await.unwrap();
        client.get(format!("k{i}")).await.unwrap().unwrap();
    }
    assert!(!bad.state.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn nodes_that_shut_down_cost_no_attempt() {
    let leaving = Fake::failing(Failure::before(Reason::ShuttingDown));
    let (one, two) = (leaving.serve().await, leaving.serve().await);
    let stays = Fake::default().serve().await;
    let addresses = [&one.address[..], &two.address, &stays.address];
    for _ in 0..6 {
        let client = client(&addresses, Options { attempts: 1, ..Options::default() });
        client.set("k", "v").await.unwrap();
    }
    assert!(!leaving.state.lock().unwrap().asked.is_empty());
    let client = client(&addresses[..2], Options { attempts: 1, ..Options::default() });
    let error = client.set("k", "v").await.unwrap_err();
    assert_eq!((error.reason(), error.outcome_is_known()), ("SHUTTING_DOWN", true));
}

#[tokio::test]
async fn a_node_that_nobody_listens_at_is_passed_over_at_once() {
    let (gone, server) = (nowhere().await, Fake::default().serve().await);
    let client = client(&[&gone, &server.address], Options::default());
    let started = Instant::now();
    for i in 0..200 {
        client.set(format!("k{i}"), "v").await.unwrap();
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(4), "200 writes took {took:?}");
}

#[tokio::test]
async fn a_node_that_stopped_is_passed_over_and_used_again_when_it_is_back() {
    let (first, second) = (Fake::default(), Fake::default());
    let stays = first.serve().await;
    let goes = second.serve_at(ASIDE.parse().unwrap(), settings()).await;
    let address = goes.address.parse().unwrap();
    let client = client(&[&stays.address, &goes.address], Options::default());
    for i in 0..10 {
        client.set(format!("k{i}"), "v").await.unwrap();
    }
    drop(goes);
    tokio::time::sleep(Duration::from_millis(300)).await;
    for i in 0..50 {
        client.set(format!("k{i}"), "v").await.unwrap();
    }
    let asked = || second.state.lock().unwrap().asked.len();
    let before = asked();
    let _back = second.serve_at(address, settings()).await;
    let back = Instant::now();
    while asked() == before {
        client.get("k").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(back.elapsed() < Duration::from_secs(3), "the node is not used again");
    }
}

#[tokio::test]
async fn a_silent_node_costs_one_attempt_and_then_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let server = Fake::default().serve().await;
    let options = Options { attempt_timeout: Duration::from_secs(1), ..Options::default() };
    let client = client(&[&address, &server.address], options);
    let started = Instant::now();
    for i in 0..50 {
        client.set(format!("k{i}"), "v").await.unwrap();
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(3), "50 writes took {took:?}");
}

#[tokio::test]
async fn every_call_ends_in_time_and_says_that_the_outcome_is_unknown() {
    let node = Fake::default();
    node.state.lock().unwrap().delay = Duration::from_secs(60);
    let server = node.serve().await;
    let options = Options { timeout: Duration::from_millis(300), ..Options::default() };
    let client = client(&[&server.address], options);
    let started = Instant::now();
    let error = client.set("k", "v").await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(!error.outcome_is_known(), "{error}");
    let error = client.get("k").await.unwrap_err();
    assert!(error.outcome_is_known(), "a read changes nothing: {error}");
}

#[tokio::test]
async fn nodes_that_cannot_be_reached_are_known_to_have_done_nothing() {
    let (one, two) = (nowhere().await, nowhere().await);
    let client = client(&[&one, &two], Options { attempts: 3, ..Options::default() });
    let error = client.set("k", "v").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(error.outcome_is_known(), "{error:?}");
    assert_eq!(error.attempts(), 3);
    let text = error.to_string();
    assert!(text.contains("refused") && text.contains("one of 3 attempts"), "{text}");
    let error = client.status(&one).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
}

#[tokio::test]
async fn what_a_node_has_said_is_told_rather_than_that_another_was_not_there() {
    let node = Fake::failing(not_reached(false));
    let (server, gone) = (node.serve().await, nowhere().await);
    // Whichever is asked first, and last.
    for attempts in 2..6 {
        let options = Options { attempts, ..Options::default() };
        let client = client(&[&server.address, &gone], options);
        for error in [
            client.set("k", "v").await.unwrap_err(),
            client.get("k").await.unwrap_err(),
            client.get_many(["k"]).await.remove(0).unwrap_err(),
        ] {
            assert_eq!(error.reason(), "QUORUM_NOT_REACHED", "{error}");
            assert_eq!(error.missing(), ["node-1", "node-2"], "{error}");
            assert_eq!((error.node(), error.is_an_answer()), (&server.address[..], true));
        }
    }
}

#[tokio::test]
async fn a_mistake_of_the_caller_is_not_retried() {
    let node = Fake::default();
    let servers = [node.serve().await, node.serve().await];
    let client = client(&[&servers[0].address, &servers[1].address], Options::default());
    let error = client.set("", "v").await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Invalid, 1));
    assert_eq!(error.violations()[0].0, "key");
    let error = client.set("k", vec![0; 8 << 20]).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Invalid, 1), "{error}");
    let error = client.set("k", vec![0; 1500]).await.unwrap_err();
    assert_eq!(error.violations()[0].0, "value");
}

#[tokio::test]
async fn addresses_that_are_none_are_refused() {
    for bad in ["", "localhost", "http://", "a b:1", "127.0.0.1:99999", "[::1"] {
        let error = Client::connect([bad], Options::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
        assert!(error.to_string().contains("is not an address"), "{bad}: {error}");
    }
    let none: [&str; 0] = [];
    assert_eq!(Client::connect(none, Options::default()).unwrap_err().kind(), ErrorKind::Invalid);
}
