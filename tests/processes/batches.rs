//! Batches and scans of real nodes.

use std::time::Duration;

use coterie::client::{
    BatchOptions, Client, ErrorKind, Options, ReadOptions, ScanOptions, SetEntry, WriteOptions,
};
use coterie::types::Key;

use crate::cluster::Cluster;
use crate::folders::assert_says;
use crate::process::coterie;

/// Entries of the larger batches: each partition of a real ring has few of them.
const ENTRIES: usize = 3_000;

fn entries(tag: &str, more: &str) -> Vec<SetEntry> {
    let entry = |i| SetEntry::set(format!("{tag}/{i}"), format!("value {i}{more}"));
    (0..ENTRIES).map(entry).collect()
}

async fn walked(client: &Client, options: ScanOptions) -> Vec<String> {
    let (mut scan, mut keys) = (client.scan(options), Vec::new());
    while let Some(page) = scan.next().await.unwrap() {
        keys.extend(page.entries.iter().map(|e| String::from_utf8_lossy(&e.key).into_owned()));
    }
    keys
}

fn under(prefix: &str) -> ScanOptions {
    ScanOptions { prefix: prefix.to_owned().into(), ..ScanOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_written_through_one_node_is_read_through_another_with_siblings_and_contexts() {
    let mut cluster = Cluster::start(3).await;
    let (one, other) = (cluster.client_of(0), cluster.client_of(1));
    for written in one.set_many(entries("many", "")).await {
        let homes = written.unwrap().receipt.homes.len();
        assert!(homes >= 2, "{homes} homes");
    }
    let names: Vec<String> = (0..ENTRIES).map(|i| format!("many/{i}")).collect();
    for (i, got) in other.get_many(names).await.into_iter().enumerate() {
        assert_eq!(got.unwrap().unwrap().value, format!("value {i}"));
    }

    // Over one context, two concurrent values; a batch settles them with what it has read.
    let context = one.get("many/1").await.unwrap().unwrap().context;
    for value in ["left", "right"] {
        let with = WriteOptions { context: context.clone(), ..WriteOptions::default() };
        one.set_with("many/1", value, &with).await.unwrap();
    }
    let all = BatchOptions { all_siblings: true, ..BatchOptions::default() };
    let mut read = other.get_many_with(["many/1", "many/2", "absent"], &all).await.into_iter();
    let mut next = || read.next().unwrap().unwrap();
    let (both, single, absent) = (next(), next(), next());
    let mut values: Vec<_> = both.all.iter().map(|sibling| sibling.value.clone()).collect();
    values.sort_unstable();
    assert_eq!(values, ["left", "right"]);
    assert_eq!((single.siblings, absent.value), (0, None));
    let with = |key: &'static str, context: &bytes::Bytes| SetEntry {
        context: context.clone(),
        request_id: Some([7; 16]),
        ..SetEntry::set(key, "settled")
    };
    let batch = [with("many/1", &both.context), with("many/2", &both.context)];
    let written = other.set_many(batch.clone()).await;
    let again = one.set_many(batch).await;
    for results in [written, again] {
        assert!(results[0].is_ok(), "the same request again is recognised: {results:?}");
        let error = results[1].as_ref().unwrap_err();
        assert_eq!((error.kind(), error.reason()), (ErrorKind::Invalid, "CONTEXT_OF_ANOTHER_KEY"));
    }
    let settled = one.get_with("many/1", &ReadOptions::default()).await.unwrap();
    assert_eq!((settled.value.unwrap(), settled.siblings), ("settled".into(), 0));

    // Expiry and deletes; a strict batch.
    let short =
        SetEntry { ttl: Some(Duration::from_millis(1)), ..SetEntry::set("many/3", "short") };
    let long = SetEntry { ttl: Some(Duration::from_secs(600)), ..SetEntry::set("many/5", "long") };
    let strict = BatchOptions { strict: Some(true), ..BatchOptions::default() };
    let batch = [short, SetEntry::delete("many/4"), long];
    assert!(one.set_many_with(batch, &strict).await.iter().all(Result::is_ok));
    tokio::time::sleep(Duration::from_millis(5)).await;
    let got = other.get_many_with(["many/3", "many/4", "many/5"], &strict).await;
    let expiry: Vec<_> = got.iter().map(|got| got.as_ref().unwrap().expires_ms.is_some()).collect();
    assert_eq!(expiry, [false, false, true]);
    assert_eq!(got[0].as_ref().unwrap().value, None);

    let said = coterie(&["scan", "many/", "--keys", "--addr", &cluster.address(2)]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(said.out.lines().count(), ENTRIES - 2);
    let words = ["scan", "many/5", "-o", "json", "--contexts", "--addr", &cluster.address(2)];
    let said = coterie(&[&words[..], &["--limit", "20"]].concat()).await;
    assert_says(&said.out, &["\"key\":\"many/5\"", "\"expires_ms\":", "\"context\":\""]);
    assert_eq!(said.out.lines().count(), 20);
    let said = coterie(&["scan", "nobody/", "--addr", &cluster.address(2)]).await;
    assert_eq!((said.code, said.out.as_str()), (Some(3), ""), "{}", said.err);
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_goes_on_from_its_token_after_the_node_that_served_it_has_started_anew() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client_of(0);
    // More than a message of a scan holds.
    let more = "x".repeat(500);
    assert!(client.set_many(entries("a", &more)).await.iter().all(Result::is_ok));
    assert!(client.set_many([SetEntry::set("b/1", "else")]).await[0].is_ok());
    let partitions = u16::try_from(cluster.answer(0).await.partitions).unwrap();
    let in_order = |keys: &[String]| {
        let place =
            |key: &String| (Key::new(key.clone()).unwrap().partition(partitions), key.clone());
        keys.is_sorted_by_key(place)
    };

    let mut scan = client.scan(under("a/"));
    let mut keys = Vec::new();
    while keys.len() < ENTRIES / 10 {
        let page = scan.next().await.unwrap().expect("the walk is not over");
        keys.extend(page.entries.iter().map(|e| String::from_utf8_lossy(&e.key).into_owned()));
    }
    let token = scan.page_token().clone();
    assert!(!token.is_empty(), "all of it came at once");
    drop(scan);
    cluster.kill(0);
    cluster.spawn(0);
    cluster.wait_ready().await;

    // At the node that served it and at another, of a client that never saw the first.
    for node in [0, 2] {
        let client = cluster.client_of(node);
        let rest = walked(&client, ScanOptions { page_token: token.clone(), ..under("a/") }).await;
        let all = [&keys[..], &rest[..]].concat();
        assert!(in_order(&all) && !rest.is_empty(), "through node {node}");
        assert_eq!(all.len(), ENTRIES, "through node {node}");
    }
    for (prefix, node) in [("b/", 0), ("", 1)] {
        let options = ScanOptions { page_token: token.clone(), ..under(prefix) };
        let error = cluster.client_of(node).scan(options).next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().contains("another prefix"), "{error}");
    }
    let mut stranger = Cluster::start(1).await;
    let client = stranger.client(Options::default());
    let options = ScanOptions { page_token: token, ..under("a/") };
    let error = client.scan(options).next().await.unwrap_err();
    assert!(error.message().contains("another cluster"), "{error}");
    stranger.assert_running();
    cluster.assert_running();
}
