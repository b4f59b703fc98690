//! What a collector is told of requests: the whole life of those that are traced, over all nodes
//! that took part, and nothing that a key could be read from.

use std::collections::BTreeSet;

use coterie::client::{Consistency, WriteOptions};
use opentelemetry::Context;
use opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::cluster::Cluster;
use crate::otlp::{Collector, Told};

const KEY: &str = "a-key-that-nobody-is-to-see";
const SET: &str = "coterie.v1.Kv/Set";
const GET: &str = "coterie.v1.Kv/Get";

/// A trace that a caller has begun.
struct Caller {
    trace: u128,
    flags: TraceFlags,
}

impl Caller {
    const SPAN: u64 = 0x00c0_7e41_e000_0001;

    fn sampled(trace: u128) -> Self {
        Self { trace, flags: TraceFlags::SAMPLED }
    }

    fn context(&self) -> Context {
        let (trace, span) = (TraceId::from(self.trace), SpanId::from(Self::SPAN));
        let state = TraceState::default();
        let span = SpanContext::new(trace, span, self.flags, true, state);
        Context::new().with_remote_span_context(span)
    }

    fn of<'a>(&self, spans: &'a [Told]) -> Vec<&'a Told> {
        let trace = self.trace.to_be_bytes();
        spans.iter().filter(|span| span.trace == trace).collect()
    }
}

/// Three nodes that tell a collector what callers want traced. A machine that is slow for a
/// moment leaves no hints.
async fn traced_cluster(collector: &Collector, slow_request: &str) -> Cluster {
    let more = format!(
        "[telemetry]\notlp_endpoint = \"http://{}\"\nsample_ratio = 0\n\
         slow_request = \"{slow_request}\"\n[timeouts]\nreplica = \"5s\"\n",
        collector.at
    );
    Cluster::start_with(3, &more).await
}

fn children<'a>(spans: &[&'a Told], parent: &Told, name: &str) -> Vec<&'a Told> {
    let is_it = |span: &&&Told| span.parent == parent.id && span.name == name;
    spans.iter().filter(is_it).copied().collect()
}

/// A replay, what it has led to at its target, and the commit there.
fn replayed(spans: &[Told]) -> Option<[&Told; 3]> {
    let child =
        |of: &Told, name: &str| spans.iter().find(|span| span.parent == of.id && span.name == name);
    spans.iter().filter(|span| span.name == "hint replay").find_map(|replay| {
        let done = child(replay, "peer write")?;
        Some([replay, done, child(done, "commit")?])
    })
}

fn only(spans: Vec<&Told>) -> &Told {
    assert_eq!(spans.len(), 1, "{spans:#?}");
    spans[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_one_tree_of_spans_over_all_nodes() {
    let collector = Collector::start();
    let cluster = traced_cluster(&collector, "10min").await;
    let client = cluster.client_of(0);
    client.set("untraced", "value").await.unwrap();
    let caller = Caller::sampled(7 << 64 | 1);
    client.set(KEY, "value").with_context(caller.context()).await.unwrap();

    // The request; two writes, asked and done; a commit on each of three nodes.
    let spans = collector.when("whole write", |spans| caller.of(spans).len() >= 8).await;
    let all = caller.of(&spans);
    assert_eq!((all.len(), spans.len()), (8, 8), "more than was asked for: {spans:#?}");

    let request = only(all.iter().filter(|span| span.name == SET).copied().collect());
    assert_eq!(request.parent, Caller::SPAN.to_be_bytes());
    assert_eq!((request.kind, request.failed), (SpanKind::Server, false));
    assert_eq!(request.attribute("rpc.method"), Some(SET));
    let own = only(children(&all, request, "commit"));
    assert_eq!(own.node, request.node);
    let asked = children(&all, request, "peer write");
    assert_eq!(asked.len(), 2);
    let mut nodes = BTreeSet::from([request.node.clone()]);
    for asked in asked {
        assert_eq!((asked.kind, &asked.node), (SpanKind::Client, &request.node));
        let done = only(children(&all, asked, "peer write"));
        assert_eq!(done.kind, SpanKind::Server);
        assert_eq!(asked.attribute("coterie.peer.id"), Some(done.node.as_str()));
        let commit = only(children(&all, done, "commit"));
        assert_eq!(commit.node, done.node);
        assert!(commit.nanos <= done.nanos, "the answer came before its commit: {all:#?}");
        nodes.insert(done.node.clone());
    }

    let mut ids = BTreeSet::new();
    for node in 0..3 {
        ids.insert(cluster.answer(node).await.node_id);
    }
    assert_eq!(nodes, ids);
    for span in &spans {
        assert_eq!(span.service, "coterie");
        assert!(!format!("{span:?}").contains(KEY), "{span:?}");
    }
}

/// A read, those whom it asks, and what they do for it.
fn read(spans: &[&Told]) -> Option<(Told, Vec<(Told, Told)>)> {
    let request = spans.iter().find(|span| span.name == GET)?;
    let asked = children(spans, request, "peer read");
    let done = |asked: &&Told| {
        let done = children(spans, asked, "peer read").first().copied()?.clone();
        Some(((*asked).clone(), done))
    };
    let pairs: Option<Vec<_>> = asked.iter().map(done).collect();
    pairs.filter(|pairs| !pairs.is_empty()).map(|pairs| ((*request).clone(), pairs))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_one_tree_of_spans_over_those_who_were_asked() {
    let collector = Collector::start();
    let cluster = traced_cluster(&collector, "10min").await;
    let client = cluster.client_of(0);
    // Nothing is left to be repaired by the read.
    let all = WriteOptions { consistency: Some(Consistency::All), ..WriteOptions::default() };
    client.set_with(KEY, "value", &all).await.unwrap();
    let caller = Caller::sampled(7 << 64 | 4);
    client.get(KEY).with_context(caller.context()).await.unwrap().unwrap();

    let spans = collector.when("whole read", |spans| read(&caller.of(spans)).is_some()).await;
    let (request, pairs) = read(&caller.of(&spans)).unwrap();
    assert_eq!(request.parent, Caller::SPAN.to_be_bytes());
    assert_eq!((request.kind, request.failed), (SpanKind::Server, false));
    assert_eq!(request.attribute("rpc.response.status_code"), Some("OK"));
    // This node and one more are a quorum; a third is asked if that one is slow.
    assert!(pairs.len() <= 2, "{pairs:#?}");
    for (asked, done) in &pairs {
        assert_eq!((asked.kind, done.kind), (SpanKind::Client, SpanKind::Server));
        assert_eq!(asked.node, request.node);
        assert_eq!(asked.attribute("coterie.peer.id"), Some(done.node.as_str()));
        assert_ne!(done.node, request.node);
    }
    for span in caller.of(&spans) {
        assert!([GET, "peer read"].contains(&span.name.as_str()), "a read wrote: {span:?}");
        assert!(!format!("{span:?}").contains(KEY), "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_and_slow_requests_are_told_though_nobody_chose_them() {
    let collector = Collector::start();
    // Nothing brings a value of this size to two disks any faster.
    let mut cluster = traced_cluster(&collector, "1ms").await;
    let client = cluster.client_of(0);
    let slow = |spans: &[Told]| {
        spans.iter().any(|span| span.name == SET && !span.failed && span.nanos > 1_000_000)
    };
    client.set("slow", vec![0; 1 << 20]).await.unwrap();
    collector.when("slow write", slow).await;

    cluster.kill(2);
    let unsampled = Caller { trace: 7 << 64 | 2, flags: TraceFlags::default() };
    let all = WriteOptions { consistency: Some(Consistency::All), ..WriteOptions::default() };
    let write = client.set_with(KEY, "value", &all).with_context(unsampled.context());
    write.await.unwrap_err();
    let failed = |spans: &[Told]| unsampled.of(spans).iter().any(|span| span.failed);
    let spans = collector.when("failed write", failed).await;
    for span in unsampled.of(&spans) {
        assert_eq!((span.name.as_str(), span.failed), (SET, true), "{span:?}");
        assert_eq!(span.attribute("error.type"), Some("QUORUM_NOT_REACHED"));
        assert_eq!(span.parent, Caller::SPAN.to_be_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_hint_is_linked_to_its_write() {
    let collector = Collector::start();
    let mut cluster = traced_cluster(&collector, "10min").await;
    let client = cluster.client_of(0);
    cluster.kill(2);
    let caller = Caller::sampled(7 << 64 | 3);
    client.set(KEY, "value").with_context(caller.context()).await.unwrap();
    cluster.spawn(2);
    cluster.wait_without_hints().await;

    // It may have to be tried again.
    let spans = collector.when("whole replay", |spans| replayed(spans).is_some()).await;
    let [replay, done, commit] = replayed(&spans).unwrap();
    let of_write = caller.of(&spans);
    let request = only(of_write.iter().filter(|span| span.name == SET).copied().collect());
    assert_eq!(replay.links, [(request.trace.clone(), request.id.clone())]);
    assert!(replay.parent.is_empty() && replay.trace != request.trace, "{replay:?}");
    assert_eq!(replay.node, request.node);
    let target = cluster.answer(2).await.node_id;
    assert_eq!((done.node.as_str(), commit.node.as_str()), (target.as_str(), target.as_str()));
}
