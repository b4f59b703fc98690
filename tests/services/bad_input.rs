//! Every bad input has its clear error, and hurts nobody.

use std::time::Duration;

use bytes::Bytes;
use coterie::proto::{self, DeleteRequest, GetRequest, ScanRequest, SetRequest};
use coterie::protocol::context::{Context, ContextError};
use coterie::protocol::op::{Failure, Reason};
use coterie::protocol::record::VersionVector;
use coterie::types::{ClusterId, Key, NodeName, TraceContext};
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::fake::{CLUSTER, Fake, kv, settings};

fn get(key: impl Into<Bytes>) -> GetRequest {
    GetRequest { key: key.into(), ..GetRequest::default() }
}

fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> SetRequest {
    SetRequest { key: key.into(), value: value.into(), ..SetRequest::default() }
}

/// The fields that a status complains of, and what it says of its outcome.
fn complaint(status: &Status) -> (Vec<String>, String) {
    let details = status.get_error_details();
    let fields = details.bad_request().map_or_else(Vec::new, |bad| {
        bad.field_violations.iter().map(|violation| violation.field.clone()).collect()
    });
    let info = details.error_info().expect("every error of ours has an ErrorInfo");
    assert_eq!(info.domain, "coterie.v1");
    (fields, info.metadata["outcome"].clone())
}

#[tokio::test]
async fn every_field_that_is_not_valid_is_named_at_once() {
    let node = Fake::default();
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    let bad = SetRequest {
        key: Bytes::new(),
        value: vec![0; 1001].into(),
        consistency: 9,
        ttl_ms: u64::MAX,
        request_id: Bytes::from_static(b"short"),
        ..SetRequest::default()
    };
    let status = kv.set(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let (fields, outcome) = complaint(&status);
    assert_eq!(fields, ["key", "value", "consistency", "ttl_ms", "request_id"]);
    assert_eq!(outcome, "known");
    for part in
        ["1 to 4096 bytes", "at most 1000 bytes (limits.value_bytes)", "1 (ONE)", "16 bytes"]
    {
        assert!(status.message().contains(part), "`{part}` is not in: {}", status.message());
    }

    let status = kv.get(get(vec![b'k'; 4097])).await.unwrap_err();
    assert_eq!(complaint(&status).0, ["key"]);
    let negative = GetRequest { consistency: -1, ..get("k") };
    assert_eq!(complaint(&kv.get(negative).await.unwrap_err()).0, ["consistency"]);
    let delete = DeleteRequest { request_id: vec![1; 17].into(), ..DeleteRequest::default() };
    assert_eq!(complaint(&kv.delete(delete).await.unwrap_err()).0, ["key", "request_id"]);
    let scan = ScanRequest { prefix: vec![0; 5000].into(), ..ScanRequest::default() };
    assert_eq!(complaint(&kv.scan(scan).await.unwrap_err()).0, ["prefix"]);
    assert!(node.state.lock().unwrap().asked.is_empty(), "something bad was let through");
}

#[tokio::test]
async fn what_is_just_within_the_limits_is_taken() {
    let node = Fake::default();
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    let most = SetRequest {
        consistency: proto::Consistency::All.into(),
        ttl_ms: 1,
        request_id: vec![1; 16].into(),
        ..set(vec![b'k'; 4096], vec![0; 1000])
    };
    let answer = kv.set(most).await.unwrap().into_inner();
    let receipt = answer.receipt.unwrap();
    assert_eq!(receipt.homes, ["node-0", "node-1"]);
    assert_eq!(receipt.dot, "0000000000000001@1.0");
    kv.set(set("k", "")).await.unwrap();
    let found = kv.get(get("k")).await.unwrap().into_inner();
    assert!(found.found && found.value.is_empty(), "an empty value is a value");
}

#[tokio::test]
async fn a_value_far_beyond_the_limit_is_cut_off_and_the_connection_lives_on() {
    let server = Fake::default().serve().await;
    let mut kv = kv(&server).await;
    let status = kv.set(set("k", vec![0; 8 << 20])).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert_eq!(complaint(&status).1, "known");
    assert!(status.message().starts_with("a request has at most 5242880 bytes"), "{status:?}");
    kv.set(set("k", "v")).await.unwrap();
}

#[tokio::test]
async fn contexts_are_taken_only_for_their_key_and_cluster() {
    let server = Fake::default().serve().await;
    let mut kv = kv(&server).await;
    let of = |cluster: u128, key: &str, partial: bool| {
        let key_hash = Key::new(key.to_owned()).unwrap().hash();
        let seen = VersionVector::default();
        Context { cluster: ClusterId(cluster), key_hash, partial, seen }.encode()
    };
    let mut damaged = of(CLUSTER.0, "k", false).to_vec();
    damaged[20] ^= 1;
    let cases = [
        (Bytes::from_static(b"forged"), Code::InvalidArgument, "CONTEXT_MALFORMED"),
        (damaged.into(), Code::InvalidArgument, "CONTEXT_MALFORMED"),
        (of(CLUSTER.0, "other", false), Code::InvalidArgument, "CONTEXT_OF_ANOTHER_KEY"),
        (of(8, "k", false), Code::FailedPrecondition, "CONTEXT_OF_ANOTHER_CLUSTER"),
        (of(CLUSTER.0, "k", true), Code::FailedPrecondition, "CONTEXT_PARTIAL"),
    ];
    for (context, code, reason) in cases {
        let with = SetRequest { context: context.clone(), ..set("k", "v") };
        let status = kv.set(with).await.unwrap_err();
        assert_eq!(status.code(), code, "{reason}");
        assert_eq!(status.get_error_details().error_info().unwrap().reason, reason);
        assert_eq!(complaint(&status).1, "known");
        let with = DeleteRequest { key: "k".into(), context, ..DeleteRequest::default() };
        assert_eq!(kv.delete(with).await.unwrap_err().code(), code, "{reason}");
    }
    let with = SetRequest { context: of(CLUSTER.0, "k", false), ..set("k", "v") };
    kv.set(with).await.unwrap();
}

#[tokio::test]
async fn a_context_that_comes_back_supersedes_what_was_read_and_a_partial_one_is_refused() {
    let node = Fake::default();
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    node.put_sibling("k", "one");
    node.put_sibling("k", "two");
    let some = kv.get(get("k")).await.unwrap().into_inner();
    assert_eq!((&some.value[..], some.siblings, some.all.len()), (&b"two"[..], 1, 0));
    let partial = SetRequest { context: some.context, ..set("k", "three") };
    let status = kv.set(partial).await.unwrap_err();
    assert!(status.message().contains("read with all_siblings first"), "{status:?}");

    let all = kv.get(GetRequest { all_siblings: true, ..get("k") }).await.unwrap().into_inner();
    let values: Vec<_> = all.all.iter().map(|sibling| sibling.value.clone()).collect();
    assert_eq!(values, ["two", "one"]);
    kv.set(SetRequest { context: all.context, ..set("k", "three") }).await.unwrap();
    let last = kv.get(get("k")).await.unwrap().into_inner();
    assert_eq!((&last.value[..], last.siblings), (&b"three"[..], 0));
}

#[tokio::test]
async fn failures_say_what_is_known() {
    let name = |name| NodeName::new(name).unwrap();
    let failure = |reason, maybe_applied| Failure {
        reason,
        needed: 2,
        reached: vec![name("node-0")],
        missing: vec![name("node-1"), name("node-2")],
        maybe_applied,
    };
    let before = |reason| Failure { maybe_applied: false, ..failure(reason, false) };
    let cases = [
        (failure(Reason::QuorumNotReached, true), Code::DeadlineExceeded, "unknown", "unsafe"),
        (before(Reason::QuorumNotReached), Code::Unavailable, "known", "safe"),
        (failure(Reason::CoordinatorSilent, true), Code::DeadlineExceeded, "unknown", "unsafe"),
        (before(Reason::Overloaded), Code::ResourceExhausted, "known", "safe"),
        (before(Reason::ShuttingDown), Code::Unavailable, "known", "safe"),
        (before(Reason::StoreRefused), Code::Unavailable, "known", "safe"),
        (before(Reason::NotConfirmed), Code::Unavailable, "known", "safe"),
        (before(Reason::RequestIdReused), Code::FailedPrecondition, "known", "safe"),
        (before(Reason::TooManySiblings), Code::FailedPrecondition, "known", "safe"),
        (before(Reason::RecordTooLarge), Code::FailedPrecondition, "known", "safe"),
        (before(Reason::Context(ContextError::Ahead)), Code::FailedPrecondition, "known", "safe"),
    ];
    for (failure, code, outcome, retry) in cases {
        let told = format!("{failure:?}");
        let server = Fake::failing(failure).serve().await;
        let mut kv = kv(&server).await;
        let status = kv.set(set("k", "v")).await.unwrap_err();
        assert_eq!(status.code(), code, "{told}");
        let details = status.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!(metadata["outcome"], outcome, "{told}");
        assert_eq!(metadata["retry"], retry, "{told}");
        assert_eq!(metadata["reached"], "node-0");
        assert_eq!(metadata["missing"], "node-1,node-2");
        assert_eq!(metadata["needed"], "2");
        let useful = matches!(code, Code::Unavailable | Code::ResourceExhausted);
        assert_eq!(details.retry_info().is_some(), useful, "{told}");
        for part in ["2 needed", "reached node-0", "missing node-1, node-2"] {
            assert!(status.message().contains(part), "{}", status.message());
        }
        let with_id = SetRequest { request_id: vec![1; 16].into(), ..set("k", "v") };
        let status = kv.set(with_id).await.unwrap_err();
        assert_eq!(status.get_error_details().error_info().unwrap().metadata["retry"], "safe");
    }
}

#[tokio::test]
async fn before_the_founding_requests_are_asked_to_wait() {
    let node = Fake::default();
    node.state.lock().unwrap().unfounded = true;
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    for status in [
        kv.get(get("k")).await.unwrap_err(),
        kv.set(set("k", "v")).await.unwrap_err(),
        kv.scan(ScanRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.get_error_details().retry_info().is_some());
        assert!(status.message().contains("not founded yet"), "{}", status.message());
    }
}

#[tokio::test]
async fn too_many_requests_are_turned_away_and_the_rest_is_served() {
    let node = Fake::default();
    node.state.lock().unwrap().delay = Duration::from_millis(300);
    let server = node.serve_with(coterie::api::Settings { in_flight_max: 3, ..settings() }).await;
    let kv = kv(&server).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let mut kv = kv.clone();
            tokio::spawn(async move { kv.get(get("k")).await.map(|_| ()) })
        })
        .collect();
    let mut turned_away = 0;
    for call in calls {
        if let Err(status) = call.await.unwrap() {
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(complaint(&status).1, "known");
            turned_away += 1;
        }
    }
    assert_eq!(turned_away, 7);
    kv.clone().get(get("k")).await.unwrap();
}

#[tokio::test]
async fn deadlines_and_traces_are_passed_on_and_garbage_is_not() {
    let node = Fake::default();
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let trace = TraceContext {
        trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
        span: 0xb7ad_6b71_6920_3331,
        flags: 1,
    };
    for (timeout, header, expected) in [
        ("1S", traceparent, (Duration::from_millis(900), Some(trace))),
        ("3H", "00-zz", (Duration::from_secs(5), None)),
        ("soon", "", (Duration::from_secs(5), None)),
    ] {
        let mut request = Request::new(get("k"));
        request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
        request.metadata_mut().insert("traceparent", header.parse().unwrap());
        kv.get(request).await.unwrap();
        let asked = node.state.lock().unwrap().asked.pop().unwrap();
        assert_eq!((asked.1, asked.2), expected);
    }
}

#[tokio::test]
async fn arbitrary_bytes_do_not_hurt_the_port() {
    let server = Fake::default().serve().await;
    let mut random = random_from(1);
    for round in 0..60 {
        let mut bytes = vec![0; random.random_range(0..4096)];
        random.fill_bytes(&mut bytes);
        if round % 2 == 0 {
            // As far as a peer of HTTP/2 would come, then garbage.
            let start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            bytes.splice(..0, start.iter().copied());
        }
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        // The server may hang up while it is still being written to.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(5), read).await.expect("it hangs up");
    }
    kv(&server).await.set(set("k", "v")).await.unwrap();
}

#[tokio::test]
async fn arbitrary_messages_do_not_hurt_the_services() {
    let server = Fake::default().serve().await;
    let mut random = random_from(2);
    let mut garbage = || {
        let mut bytes = vec![0; random.random_range(0..200)];
        random.fill_bytes(&mut bytes);
        Bytes::from(bytes)
    };
    let mut kv = kv(&server).await;
    for _ in 0..200 {
        let request = SetRequest {
            context: garbage(),
            request_id: garbage(),
            consistency: i32::from(garbage().first().copied().unwrap_or(0)),
            ..set(garbage(), garbage())
        };
        let answered = kv.set(request).await;
        assert!(answered.is_err(), "garbage was taken for a context");
        let request = ScanRequest { page_token: garbage(), ..ScanRequest::default() };
        if let Err(status) = kv.scan(request).await {
            assert_eq!(status.code(), Code::InvalidArgument);
        }
    }
    kv.set(set("k", "v")).await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once_and_room_comes_back() {
    let limit = coterie::api::Settings { connections_max: 2, ..settings() };
    let server = Fake::default().serve_with(limit).await;
    let held = [
        TcpStream::connect(&server.address).await.unwrap(),
        TcpStream::connect(&server.address).await.unwrap(),
    ];
    // Accepted, since the kernel does that, and closed.
    let mut third = TcpStream::connect(&server.address).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(2), third.read(&mut [0; 8])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    drop(held);
    for attempt in 0.. {
        let connected = kv(&server).await.set(set("k", "v")).await;
        if connected.is_ok() {
            break;
        }
        assert!(attempt < 50, "there is no room again: {connected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn stopping_lets_calls_end_but_not_for_ever() {
    let node = Fake::default();
    let server = node.serve().await;
    for (delay, is_answered) in [(50, true), (5_000, false)] {
        node.state.lock().unwrap().delay = Duration::from_millis(delay);
        let server = node.serve().await;
        let mut kv = kv(&server).await;
        let begun = node.state.lock().unwrap().begun;
        let call = tokio::spawn(async move { kv.get(get("k")).await });
        while node.state.lock().unwrap().begun == begun {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _idle = TcpStream::connect(&server.address).await.unwrap();
        let stopped = std::time::Instant::now();
        drop(server.stop);
        server.ended.await.unwrap();
        assert!(stopped.elapsed() < Duration::from_secs(4), "{:?}", stopped.elapsed());
        assert!(TcpStream::connect(&server.address).await.is_err(), "it still listens");
        if is_answered {
            call.await.unwrap().unwrap();
        } else {
            call.abort();
        }
    }
    assert!(!server.ended.is_finished());
}

fn random_from(seed: u64) -> impl Rng {
    rand::rngs::ChaCha8Rng::seed_from_u64(seed)
}
