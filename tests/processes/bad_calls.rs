//! Calls that no node should carry out: each gets a clear error with details, and changes nothing.

use bytes::Bytes;
use coterie::client::ANSWER_BYTES_MAX;
use coterie::proto::kv_client::KvClient;
use coterie::proto::{DeleteRequest, GetRequest, ScanRequest, SetRequest};
use coterie::protocol::context::Context;
use coterie::protocol::record::VersionVector;
use coterie::types::{ClusterId, Dot, Key, Stamp};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::cluster::Cluster;

async fn kv(cluster: &Cluster, node: usize) -> KvClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address(node))).unwrap();
    let channel = endpoint.connect().await.unwrap();
    KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

fn get(key: impl Into<Bytes>) -> GetRequest {
    GetRequest { key: key.into(), ..GetRequest::default() }
}

fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> SetRequest {
    SetRequest { key: key.into(), value: value.into(), ..SetRequest::default() }
}

/// The error has this code and reason, says that nothing was done, and its message all these parts.
fn assert_clear(status: &Status, code: Code, reason: &str, parts: &[&str]) {
    let told = format!("{:?}: {}", status.code(), status.message());
    assert_eq!(status.code(), code, "{told}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no details: {told}"));
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("coterie.v1", reason), "{told}");
    assert_eq!(info.metadata["outcome"], "known", "{told}");
    for part in parts {
        assert!(status.message().contains(part), "`{part}` is not in: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_with_invalid_fields_name_each_of_them_and_write_nothing() {
    let mut cluster = Cluster::start(3).await;
    let mut node = kv(&cluster, 0).await;
    let long = vec![b'k'; 4097];
    let invalid = |status: &Status, parts: &[&str]| {
        assert_clear(status, Code::InvalidArgument, "INVALID_REQUEST", parts);
        let details = status.get_error_details();
        assert!(!details.bad_request().unwrap().field_violations.is_empty());
    };
    let sets = [
        (set("", "v"), vec!["key", "1 to 4096 bytes"]),
        (set(long.clone(), "v"), vec!["key", "4096", "4097"]),
        (set("k", vec![1; (1 << 20) + 1]), vec!["value", "1048576", "limits.value_bytes"]),
        (SetRequest { consistency: 9, ..set("k", "v") }, vec!["consistency", "9", "QUORUM"]),
        (SetRequest { consistency: -1, ..set("k", "v") }, vec!["consistency", "-1"]),
        (SetRequest { ttl_ms: u64::MAX, ..set("k", "v") }, vec!["ttl_ms"]),
        (
            SetRequest { request_id: "short".into(), ..set("k", "v") },
            vec!["request_id", "16 bytes"],
        ),
        (SetRequest { consistency: 9, ..set("", "v") }, vec!["key", "consistency"]),
    ];
    for (request, parts) in sets {
        invalid(&node.set(request).await.unwrap_err(), &parts);
    }
    invalid(&node.get(get("")).await.unwrap_err(), &["key"]);
    invalid(&node.get(get(long.clone())).await.unwrap_err(), &["key", "4097"]);
    let delete = DeleteRequest { key: long.into(), ..DeleteRequest::default() };
    invalid(&node.delete(delete).await.unwrap_err(), &["key", "4097"]);
    let scan = ScanRequest { page_token: "forged".into(), ..ScanRequest::default() };
    invalid(&node.scan(scan).await.unwrap_err(), &["page_token"]);

    // Beyond what is read at all, the transport cuts it off, and the connection lives on.
    let status = node.set(set("k", vec![1; 8 << 20])).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(!node.get(get("k")).await.unwrap().into_inner().found, "something was written");

    let most = set(vec![b'k'; 4096], vec![1; 1 << 20]);
    node.set(most).await.expect("what is just within the limits is taken");
    let mut other = kv(&cluster, 2).await;
    let value = other.get(get(vec![b'k'; 4096])).await.unwrap().into_inner().value;
    assert!(value.len() == 1 << 20 && value.iter().all(|byte| *byte == 1));
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_that_are_forged_foreign_or_partial_are_refused_and_nothing_is_overwritten() {
    let mut cluster = Cluster::start(3).await;
    let mut node = kv(&cluster, 0).await;
    node.set(set("k", "first")).await.unwrap();
    node.set(set("other", "other")).await.unwrap();
    let of_key = node.get(get("k")).await.unwrap().into_inner().context;
    let of_other = node.get(get("other")).await.unwrap().into_inner().context;
    let id = cluster.answer(0).await.cluster_id;
    let id: ClusterId = id.parse().unwrap();
    let key_hash = Key::new("k").unwrap().hash();
    let with = |cluster: ClusterId, seen: VersionVector| {
        Context { cluster, key_hash, partial: false, seen }.encode()
    };
    let mut damaged = of_key.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let read = Context::decode(of_key.clone(), id, &Key::new("k").unwrap()).unwrap();
    let mut ahead = read.seen.clone();
    let actor = ahead.entries()[0].0;
    ahead.add(Dot::new(actor, Stamp(u64::MAX >> 2)));

    // Two writes over one context: the second does not know of the first.
    for value in ["second", "third"] {
        let request = SetRequest { context: of_key.clone(), ..set("k", value) };
        node.set(request).await.unwrap();
    }
    let both = node.get(get("k")).await.unwrap().into_inner();
    assert_eq!(both.siblings, 1, "two concurrent values");

    let cases = [
        (Bytes::from_static(b"forged"), Code::InvalidArgument, "CONTEXT_MALFORMED"),
        (damaged.into(), Code::InvalidArgument, "CONTEXT_MALFORMED"),
        (of_other, Code::InvalidArgument, "CONTEXT_OF_ANOTHER_KEY"),
        (with(ClusterId(7), read.seen), Code::FailedPrecondition, "CONTEXT_OF_ANOTHER_CLUSTER"),
        (with(id, ahead), Code::FailedPrecondition, "CONTEXT_AHEAD"),
        (both.context, Code::FailedPrecondition, "CONTEXT_PARTIAL"),
    ];
    for (context, code, reason) in cases {
        let request = SetRequest { context: context.clone(), ..set("k", "wrong") };
        assert_clear(&node.set(request).await.unwrap_err(), code, reason, &["context"]);
        let request = DeleteRequest { key: "k".into(), context, ..DeleteRequest::default() };
        assert_clear(&node.delete(request).await.unwrap_err(), code, reason, &["context"]);
    }
    let all = GetRequest { all_siblings: true, ..get("k") };
    let all = kv(&cluster, 1).await.get(all).await.unwrap().into_inner();
    let mut values: Vec<&[u8]> = all.all.iter().map(|sibling| &sibling.value[..]).collect();
    values.sort_unstable();
    assert_eq!(values, [&b"second"[..], b"third"]);

    // With all siblings seen, one write settles it; its request id may not be used for another.
    let id = Bytes::from_static(b"0123456789abcdef");
    let settle = SetRequest { context: all.context, request_id: id, ..set("k", "settled") };
    node.set(settle.clone()).await.unwrap();
    node.set(settle.clone()).await.expect("the same request again is recognised");
    let reused = SetRequest { value: "else".into(), ..settle };
    let status = node.set(reused).await.unwrap_err();
    assert_clear(&status, Code::FailedPrecondition, "REQUEST_ID_REUSED", &["request id"]);
    let got = node.get(get("k")).await.unwrap().into_inner();
    assert_eq!((&got.value[..], got.siblings), (&b"settled"[..], 0));
    cluster.assert_running();
}
