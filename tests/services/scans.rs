//! Walks over all keys.

use std::collections::BTreeSet;
use std::time::Duration;

use coterie::client::{Client, Options, ReadOptions, ScanOptions, WriteOptions};
use coterie::proto::ScanRequest;
use coterie::protocol::op::{Failure, Reason};
use coterie::types::Key;
use tonic::Code;

use crate::fake::{Fake, PARTITIONS, kv};

fn filled() -> Fake {
    let node = Fake::default();
    for i in 0..200 {
        node.put(&format!("{}-{i:03}", if i % 4 == 0 { "a" } else { "b" }), &format!("value {i}"));
    }
    node
}

async fn keys(client: &Client, options: ScanOptions) -> Vec<String> {
    let (mut scan, mut keys) = (client.scan(options), vec![]);
    while let Some(page) = scan.next().await.unwrap() {
        let each = page.entries.iter().map(|entry| String::from_utf8_lossy(&entry.key).into());
        keys.extend(each);
    }
    keys
}

fn in_order(keys: &[String]) -> bool {
    let place = |key: &String| (Key::new(key.clone()).unwrap().partition(PARTITIONS), key.clone());
    keys.is_sorted_by_key(place)
}

#[tokio::test]
async fn a_walk_shows_every_live_key_once_by_partition_then_key() {
    let node = filled();
    let server = node.serve().await;
    let client = Client::connect([&server.address], Options::default()).unwrap();
    client.delete("a-000").await.unwrap();
    client.set_with("b-001", "gone", &expired()).await.unwrap();
    node.put_sibling("b-002", "the later value");
    tokio::time::sleep(Duration::from_millis(5)).await;

    let all = keys(&client, ScanOptions::default()).await;
    assert!(in_order(&all));
    assert_eq!(all.len(), 198);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 198);
    let prefix = ScanOptions { prefix: "a-".into(), ..ScanOptions::default() };
    let some = keys(&client, prefix).await;
    assert!(in_order(&some) && some.len() == 49 && some.iter().all(|key| key.starts_with("a-")));

    let prefix = ScanOptions { prefix: "b-002".into(), ..ScanOptions::default() };
    let page = client.scan(prefix).next().await.unwrap().unwrap();
    assert_eq!(page.entries[0].value, "the later value");
    assert_eq!(page.entries[0].siblings, 1);
    assert_eq!((page.partitions_done, page.partitions_total), (16, 16));
    assert!(page.page_token.is_empty());
}

fn expired() -> coterie::client::WriteOptions {
    let ttl = Some(Duration::from_millis(1));
    coterie::client::WriteOptions { ttl, ..coterie::client::WriteOptions::default() }
}

#[tokio::test]
async fn a_walk_that_fails_goes_on_at_another_node_where_it_was() {
    let node = filled();
    let failure = Failure::before(Reason::QuorumNotReached);
    {
        let mut state = node.state.lock().unwrap();
        state.scans_fail_from = Some(9);
        state.fails_with = Some(failure);
    }
    let server = node.serve().await;
    let options = Options { attempts: 1, ..Options::default() };
    let client = Client::connect([&server.address], options).unwrap();
    let (mut scan, mut before) = (client.scan(ScanOptions::default()), vec![]);
    let error = loop {
        match scan.next().await {
            Ok(page) => before.extend(page.expect("the walk is not over").entries),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::Unavailable);
    assert!(!scan.page_token().is_empty());

    // The token holds on another server of the cluster, as after a restart.
    node.state.lock().unwrap().scans_fail_from = None;
    let other = node.serve().await;
    let client = Client::connect([&other.address], Options::default()).unwrap();
    let page_token = scan.page_token().clone();
    let rest = keys(&client, ScanOptions { page_token, ..ScanOptions::default() }).await;
    let mut all: Vec<String> =
        before.iter().map(|entry| String::from_utf8_lossy(&entry.key).into()).collect();
    assert!(!all.is_empty() && !rest.is_empty());
    all.extend(rest);
    assert!(in_order(&all));
    assert_eq!(all.len(), 200);

    // And the walk itself goes on.
    let mut rest = 0;
    while let Some(page) = scan.next().await.unwrap() {
        rest += page.entries.len();
    }
    assert_eq!(before.len() + rest, 200);
}

#[tokio::test]
async fn a_token_that_is_damaged_or_foreign_is_refused() {
    let node = filled();
    node.state.lock().unwrap().scans_fail_from = Some(9);
    node.state.lock().unwrap().fails_with = Some(Failure::before(Reason::Overloaded));
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    let mut pages = kv.scan(ScanRequest::default()).await.unwrap().into_inner();
    let token = pages.message().await.unwrap().unwrap().page_token;
    for at in 0..token.len() {
        let mut damaged = token.to_vec();
        damaged[at] ^= 4;
        let request = ScanRequest { page_token: damaged.into(), ..ScanRequest::default() };
        let status = kv.scan(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("page_token: it "), "{}", status.message());
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_walk() {
    let node = Fake::default();
    for i in 0..4000 {
        node.put(&format!("key {i}"), &"x".repeat(1000));
    }
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    let mut pages = kv.scan(ScanRequest::default()).await.unwrap().into_inner();
    pages.message().await.unwrap().unwrap();
    drop((pages, kv));
    let scans = || node.state.lock().unwrap().scans;
    for _ in 0..100 {
        let before = scans();
        tokio::time::sleep(Duration::from_millis(50)).await;
        if scans() == before {
            assert!(before < 2000, "the walk was carried to its end for nobody");
            return;
        }
    }
    panic!("the walk goes on");
}

#[tokio::test]
async fn a_walk_shows_siblings_contexts_and_expiry_like_a_get_if_asked_to() {
    let node = Fake::default();
    let server = node.serve().await;
    let client = Client::connect([&server.address], Options::default()).unwrap();
    node.put_sibling("k", "one");
    node.put_sibling("k", "two");
    let ttl = Some(Duration::from_secs(60));
    client.set_with("t", "lives", &WriteOptions { ttl, ..WriteOptions::default() }).await.unwrap();
    let entry = async |options: ScanOptions| {
        let page = client.scan(options).next().await.unwrap().unwrap();
        assert_eq!(page.entries.len(), 1);
        page.entries.into_iter().next().unwrap()
    };
    let under = |prefix: &'static str| ScanOptions { prefix: prefix.into(), ..Default::default() };

    let plain = entry(under("k")).await;
    assert_eq!((&plain.value[..], plain.siblings, plain.all.len()), (&b"two"[..], 1, 0));
    assert_eq!((plain.context.len(), plain.expires_ms), (0, 0));
    let lives = entry(under("t")).await;
    let read = client.get_with("t", &ReadOptions::default()).await.unwrap();
    assert_eq!(Some(lives.expires_ms), read.expires_ms);

    // A context that hides siblings is refused; with all of them, it is the context of a read.
    let write = async |context| {
        let with = WriteOptions { context, ..WriteOptions::default() };
        client.set_with("k", "three", &with).await
    };
    let some = entry(ScanOptions { contexts: true, ..under("k") }).await;
    assert_eq!(write(some.context).await.unwrap_err().reason(), "CONTEXT_PARTIAL");
    let all = ScanOptions { contexts: true, all_siblings: true, ..under("k") };
    let all = entry(all).await;
    let values: Vec<_> = all.all.iter().map(|sibling| &sibling.value[..]).collect();
    assert_eq!(values, [b"two", b"one"]);
    write(all.context).await.unwrap();

    let key = entry(ScanOptions { keys_only: true, all_siblings: true, ..under("k") }).await;
    assert_eq!((&key.key[..], key.value.len(), key.siblings), (&b"k"[..], 0, 0));
    assert!(key.all.iter().all(|sibling| sibling.value.is_empty()));
}

#[tokio::test]
async fn a_token_goes_on_only_with_its_own_prefix() {
    let node = filled();
    node.state.lock().unwrap().scans_fail_from = Some(9);
    node.state.lock().unwrap().fails_with = Some(Failure::before(Reason::Overloaded));
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    let request =
        |prefix: &'static str| ScanRequest { prefix: prefix.into(), ..Default::default() };
    let mut pages = kv.scan(request("a-")).await.unwrap().into_inner();
    let page_token = pages.message().await.unwrap().unwrap().page_token;
    node.state.lock().unwrap().scans_fail_from = None;
    for prefix in ["", "a", "a-0", "b-"] {
        let again = ScanRequest { page_token: page_token.clone(), ..request(prefix) };
        let status = kv.scan(again).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("a scan with another prefix"), "{}", status.message());
    }
    kv.scan(ScanRequest { page_token, ..request("a-") }).await.unwrap();
}
