//! Batches: each key succeeds or fails by itself, with what the call for it alone would have said.

use std::time::Duration;

use bytes::Bytes;
use coterie::client::{BatchOptions, Client, ErrorKind, Options, SetEntry};
use coterie::proto::batch_get_result::Result as Got;
use coterie::proto::batch_set_result::Result as Wrote;
use coterie::proto::kv_client::KvClient;
use coterie::proto::{
    BatchGetRequest, BatchSetEntry, BatchSetRequest, GetRequest, GetResponse, KeyError, SetRequest,
};
use coterie::protocol::op::{Failure, Reason};
use coterie::types::{NodeName, TraceContext};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::fake::{Fake, Server, kv, settings};

fn entry(key: impl Into<Bytes>, value: impl Into<Bytes>) -> BatchSetEntry {
    BatchSetEntry { key: key.into(), value: value.into(), ..BatchSetEntry::default() }
}

fn batch(entries: impl Into<Vec<BatchSetEntry>>) -> BatchSetRequest {
    BatchSetRequest { entries: entries.into(), ..BatchSetRequest::default() }
}

fn keys<K: Into<Bytes>>(keys: impl IntoIterator<Item = K>) -> BatchGetRequest {
    let keys = keys.into_iter().map(Into::into).collect();
    BatchGetRequest { keys, ..BatchGetRequest::default() }
}

async fn set(kv: &mut KvClient<Channel>, request: BatchSetRequest) -> Vec<Wrote> {
    let answer = kv.batch_set(request).await.unwrap().into_inner();
    answer.results.into_iter().map(|result| result.result.unwrap()).collect()
}

async fn get(kv: &mut KvClient<Channel>, request: BatchGetRequest) -> Vec<Got> {
    let answer = kv.batch_get(request).await.unwrap().into_inner();
    answer.results.into_iter().map(|result| result.result.unwrap()).collect()
}

fn found(result: &Got) -> &GetResponse {
    let Got::Ok(found) = result else { panic!("{result:?}") };
    found
}

fn error(result: &Wrote) -> &KeyError {
    let Wrote::Error(error) = result else { panic!("{result:?}") };
    error
}

fn not_reached(maybe_applied: bool) -> Failure {
    let names = |names: &[&str]| names.iter().map(|name| NodeName::new(name).unwrap()).collect();
    Failure {
        reason: Reason::QuorumNotReached,
        needed: 2,
        reached: names(&["node-0"]),
        missing: names(&["node-1", "node-2"]),
        maybe_applied,
    }
}

/// A key's error says all that the status of the call for that key alone says.
fn assert_same(error: &KeyError, status: &Status) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    let told = |key: &str| info.metadata.get(key).map_or("", String::as_str);
    assert_eq!((error.code, &error.message[..]), (status.code() as i32, status.message()));
    assert_eq!(error.reason, info.reason);
    assert_eq!(error.outcome_known, told("outcome") == "known", "{error:?}");
    assert_eq!(error.retry_safe, told("retry") == "safe", "{error:?}");
    assert_eq!(
        (error.reached.join(","), error.missing.join(",")),
        (told("reached").into(), told("missing").into())
    );
    assert_eq!(
        error.needed.to_string(),
        if told("needed").is_empty() { "0" } else { told("needed") }
    );
    let delay = details.retry_info().and_then(|retry| retry.retry_delay).unwrap_or_default();
    assert_eq!(Duration::from_millis(error.retry_after_ms), delay);
}

#[tokio::test]
async fn each_key_fails_by_itself_with_what_the_single_call_would_have_said() {
    let node = Fake::default();
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    let fail = |failure: &Failure| {
        node.state.lock().unwrap().fail_once.insert("fails".into(), failure.clone());
    };
    let id = Bytes::from_static(b"0123456789abcdef");
    let with_id = BatchSetEntry { request_id: id, ..entry("fails", "v") };
    let bad = [
        (entry("", "v"), None),
        (entry(vec![b'k'; 4097], "v"), None),
        (entry("large", vec![0; 1001]), None),
        (BatchSetEntry { ttl_ms: u64::MAX, request_id: "x".into(), ..entry("k", "v") }, None),
        (BatchSetEntry { context: "forged".into(), ..entry("k", "v") }, None),
        (entry("fails", "v"), Some(not_reached(true))),
        (entry("fails", "v"), Some(not_reached(false))),
        (entry("fails", "v"), Some(Failure::before(Reason::TooManySiblings))),
        (with_id, Some(not_reached(true))),
    ];
    for (bad, failure) in bad {
        failure.iter().for_each(fail);
        let results = set(&mut kv, batch([entry("a", "1"), bad.clone(), entry("b", "2")])).await;
        assert!(matches!(results[0], Wrote::Ok(_)) && matches!(results[2], Wrote::Ok(_)));
        failure.iter().for_each(fail);
        let BatchSetEntry { key, value, context, ttl_ms, request_id, .. } = bad;
        let alone = SetRequest { key, value, context, ttl_ms, request_id, ..SetRequest::default() };
        assert_same(error(&results[1]), &kv.set(alone).await.unwrap_err());
    }
    let delete = BatchSetEntry { delete: true, ttl_ms: 5, ..entry("a", "v") };
    let results = set(&mut kv, batch([delete])).await;
    let told = &error(&results[0]).message;
    assert!(told.contains("value: a delete has none; ttl_ms: a delete has none"), "{told}");

    fail(&not_reached(false));
    let results = get(&mut kv, keys(["a", "fails", "", "absent"])).await;
    assert_eq!(found(&results[0]).value, "1");
    fail(&not_reached(false));
    for (at, key) in [(1, "fails"), (2, "")] {
        let Got::Error(error) = &results[at] else { panic!("{results:?}") };
        let alone = GetRequest { key: key.into(), ..GetRequest::default() };
        assert_same(error, &kv.get(alone).await.unwrap_err());
    }
    assert!(!found(&results[3]).found && !found(&results[3]).context.is_empty());
}

#[tokio::test]
async fn a_batch_that_is_too_large_or_names_a_key_twice_is_refused_whole() {
    let node = Fake::default();
    let settings = coterie::api::Settings { value_bytes_max: 3 << 20, ..settings() };
    let server = node.serve_with(settings).await;
    let mut kv = kv(&server).await;
    let many = |count: usize| (0..count).map(|i| entry(format!("k{i}"), "v")).collect::<Vec<_>>();
    let large: Vec<_> = (0..6).map(|i| entry(format!("k{i}"), vec![0; 1 << 20])).collect();
    let mut twice = many(10);
    twice[7].key = "k3".into();
    let strange = BatchSetRequest { consistency: 7, ..batch(many(1)) };
    let cases = [
        (batch(many(1001)), vec!["entries:", "at most 1000 keys, this one 1001", "split it"]),
        (batch(large), vec!["entries:", "at most 6291456", "split it"]),
        (batch(twice), vec!["entries[7].key:", "entries[3] again"]),
        (strange, vec!["consistency:"]),
    ];
    for (request, parts) in cases {
        let status = kv.batch_set(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        for part in parts {
            assert!(status.message().contains(part), "`{part}` is not in: {}", status.message());
        }
    }
    let many_keys = |count: usize| keys((0..count).map(|i| format!("k{i}")));
    let status = kv.batch_get(many_keys(1001)).await.unwrap_err();
    assert!(status.message().contains("keys: a batch has at most 1000 keys"), "{status:?}");
    assert!(node.state.lock().unwrap().asked.is_empty(), "something was let through");

    assert_eq!(set(&mut kv, batch(many(1000))).await.len(), 1000);
    let all = get(&mut kv, many_keys(1000)).await;
    assert!(all.iter().all(|result| found(result).value == "v"));
    assert_eq!(set(&mut kv, batch([])).await, []);
    assert_eq!(get(&mut kv, keys([""; 0])).await, []);
    let same = get(&mut kv, keys(["k1", "k1"])).await;
    assert_eq!((&found(&same[0]).value[..], &found(&same[1]).value[..]), (&b"v"[..], &b"v"[..]));
}

#[tokio::test]
async fn the_keys_of_a_batch_are_handed_over_together_with_its_deadline_and_trace() {
    let node = Fake::default();
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    let mut request = Request::new(batch([entry("a", "1"), entry("", "2"), entry("c", "3")]));
    request.metadata_mut().insert("grpc-timeout", "1S".parse().unwrap());
    let traceparent = "00-0000000000000000000000000000002a-0000000000000007-01";
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    kv.batch_set(request).await.unwrap();
    let state = node.state.lock().unwrap();
    assert_eq!(state.batches, [2]);
    let trace = Some(TraceContext { trace: 42, span: 7, flags: 1 });
    assert!(
        state.asked.iter().all(|asked| (asked.1, asked.2) == (Duration::from_millis(900), trace))
    );
}

#[tokio::test]
async fn a_batch_takes_as_many_places_as_it_has_keys() {
    let node = Fake::default();
    node.state.lock().unwrap().delay = Duration::from_millis(100);
    let server = node.serve_with(coterie::api::Settings { in_flight_max: 10, ..settings() }).await;
    let mut kv = kv(&server).await;
    let mut other = kv.clone();
    let first = tokio::spawn(async move { kv.batch_get(keys(["k"; 8])).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let status = other.batch_get(keys(["k"; 3])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    other.batch_get(keys(["k"; 2])).await.unwrap();
    first.await.unwrap().unwrap();
    // One that would take more than there are is served alone.
    other.batch_get(keys(["k"; 12])).await.unwrap();
}

#[tokio::test]
async fn siblings_contexts_and_expiry_come_through_as_in_the_single_calls() {
    let node = Fake::default();
    let server = node.serve().await;
    let mut kv = kv(&server).await;
    node.put_sibling("k", "one");
    node.put_sibling("k", "two");
    let some = get(&mut kv, keys(["k"])).await;
    assert_eq!((&found(&some[0]).value[..], found(&some[0]).siblings), (&b"two"[..], 1));
    let with = |context: &Bytes, key: &'static str| BatchSetEntry {
        context: context.clone(),
        ..entry(key, "three")
    };
    let partial = with(&found(&some[0]).context, "k");
    assert_eq!(error(&set(&mut kv, batch([partial])).await[0]).reason, "CONTEXT_PARTIAL");

    let all = get(&mut kv, BatchGetRequest { all_siblings: true, ..keys(["k"]) }).await;
    let values: Vec<_> = found(&all[0]).all.iter().map(|sibling| &sibling.value[..]).collect();
    assert_eq!(values, [b"two", b"one"]);
    let context = &found(&all[0]).context;
    let foreign = set(&mut kv, batch([with(context, "other"), with(context, "k")])).await;
    assert_eq!(error(&foreign[0]).reason, "CONTEXT_OF_ANOTHER_KEY");
    let Wrote::Ok(written) = &foreign[1] else { panic!("{foreign:?}") };
    assert_eq!(written.receipt.as_ref().unwrap().homes, ["node-0", "node-1"]);
    assert!(!written.context.is_empty());

    let lives = BatchSetEntry { ttl_ms: 60_000, ..entry("k", "four") };
    set(&mut kv, batch([lives])).await;
    let expires = found(&get(&mut kv, keys(["k"])).await[0]).expires_ms;
    let alone = GetRequest { key: "k".into(), ..GetRequest::default() };
    assert_eq!(kv.get(alone).await.unwrap().into_inner().expires_ms, expires);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let left = Duration::from_millis(expires).checked_sub(since).expect("it lives");
    assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");

    let delete = BatchSetEntry { delete: true, ..entry("k", "") };
    assert!(matches!(set(&mut kv, batch([delete])).await[0], Wrote::Ok(_)));
    assert!(!found(&get(&mut kv, keys(["k"])).await[0]).found);
}

fn client(servers: &[&Server], options: Options) -> Client {
    Client::connect(servers.iter().map(|server| server.address.clone()), options).unwrap()
}

#[tokio::test]
async fn what_an_answer_has_no_room_for_is_asked_for_again() {
    let node = Fake::default();
    let value = "x".repeat(100_000);
    let names: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
    names.iter().for_each(|name| node.put(name, &value));
    let server = node.serve().await;
    let results = get(&mut kv(&server).await, keys(names.clone())).await;
    let full = |result: &&Got| matches!(result, Got::Error(e) if e.reason == "ANSWER_FULL");
    let Some(Got::Error(error)) = results.iter().find(full) else { panic!("all 10 MB came") };
    assert!(error.outcome_known && error.retry_safe, "{error:?}");
    assert!((20..40).contains(&results.iter().filter(|result| !full(result)).count()));

    let client = client(&[&server], Options { attempts: 1, ..Options::default() });
    let got = client.get_many(names).await;
    assert_eq!(got.len(), 100);
    assert!(got.into_iter().all(|got| got.unwrap().unwrap().value == value));
}

#[tokio::test]
async fn many_keys_are_split_written_and_read_back_in_order() {
    let node = Fake::default();
    let room = || coterie::api::Settings { in_flight_max: 1000, ..settings() };
    let servers = [node.serve_with(room()).await, node.serve_with(room()).await];
    let client = client(&[&servers[0], &servers[1]], Options::default());
    let entries = (0..600).map(|i| SetEntry::set(format!("k{i}"), format!("v{i}")));
    let written = client.set_many(entries.chain([SetEntry::set("", "v")])).await;
    assert_eq!(written.len(), 601);
    assert!(written[..600].iter().all(Result::is_ok));
    let error = written[600].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Invalid, 1), "{error}");
    let mut batches = std::mem::take(&mut node.state.lock().unwrap().batches);
    batches.sort_unstable();
    assert_eq!(batches, [88, 256, 256]);

    let deleted = client.set_many([SetEntry::delete("k5")]).await;
    assert!(deleted[0].is_ok());
    let got = client.get_many((0..600).map(|i| format!("k{i}"))).await;
    for (i, got) in got.into_iter().enumerate() {
        let value = got.unwrap().map(|got| got.value);
        assert_eq!(value, (i != 5).then(|| format!("v{i}").into()), "k{i}");
    }
    assert!(client.set_many([]).await.is_empty());
    let twice = [SetEntry::set("a", "1"), SetEntry::set("b", "2"), SetEntry::delete("a")];
    let refused = client.set_many(twice).await;
    assert!(refused.iter().all(|one| one.as_ref().unwrap_err().kind() == ErrorKind::Invalid));
    assert_eq!(client.get("b").await.unwrap(), None);
}

#[tokio::test]
async fn only_what_failed_and_is_safe_is_tried_again_under_its_request_id() {
    let node = Fake::default();
    let servers = [node.serve().await, node.serve().await];
    let client = client(&[&servers[0], &servers[1]], Options::default());
    {
        let mut state = node.state.lock().unwrap();
        state.fail_once.insert("may be".into(), not_reached(true));
        state.fail_once.insert("refused".into(), Failure::before(Reason::TooManySiblings));
    }
    let given = SetEntry { request_id: Some([9; 16]), ..SetEntry::set("may be", "v") };
    let written =
        client.set_many([SetEntry::set("well", "v"), given, SetEntry::set("refused", "v")]);
    let written = written.await;
    assert!(written[0].is_ok() && written[1].is_ok(), "{written:?}");
    let error = written[2].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Refused, "TOO_MANY_SIBLINGS"));
    assert_eq!(node.state.lock().unwrap().batches, [3, 1]);
    let mut ids = node.request_ids();
    assert_eq!((ids[1].0, ids[3].0), ([9; 16], [9; 16]));
    ids.truncate(3);
    ids.dedup();
    assert_eq!(ids.len(), 3, "each entry has an id of its own");
}

#[tokio::test]
async fn a_key_that_keeps_failing_says_so_and_that_its_outcome_is_unknown() {
    let (bad, worse) = (Fake::failing(not_reached(true)), Fake::failing(not_reached(false)));
    let servers = [bad.serve().await, worse.serve().await];
    let client = client(&[&servers[0], &servers[1]], Options { attempts: 2, ..Options::default() });
    let written = client.set_many([SetEntry::set("k", "v")]).await;
    let error = written[0].as_ref().unwrap_err();
    assert_eq!((error.attempts(), error.needed(), error.reached()), (2, 2, &["node-0".into()][..]));
    assert!(!error.outcome_is_known(), "one attempt may have done it: {error}");
    let got = client.get_many(["k"]).await;
    assert!(got[0].as_ref().unwrap_err().outcome_is_known(), "a read changes nothing");

    let slow = Fake::default();
    slow.state.lock().unwrap().delay = Duration::from_secs(60);
    let room = coterie::api::Settings { in_flight_max: 1000, ..settings() };
    let server = slow.serve_with(room).await;
    let client = self::client(&[&server], Options::default());
    let limit = Duration::from_millis(300);
    let options = BatchOptions { timeout: Some(limit), ..BatchOptions::default() };
    let began = std::time::Instant::now();
    let entries = (0..300).map(|i| SetEntry::set(format!("k{i}"), "v"));
    let written = client.set_many_with(entries, &options).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(written.len(), 300);
    for written in written {
        let error = written.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(!error.outcome_is_known(), "{error}");
    }
}
