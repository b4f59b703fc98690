//! Which spans requests leave: those that are turned away, cancelled, or walks, too.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coterie::api::Settings;
use coterie::client::{Client, Options};
use coterie::proto::kv_client::KvClient;
use coterie::proto::{BatchGetRequest, DeleteRequest, GetRequest, ScanRequest, SetRequest};
use coterie::telemetry::Traces;
use opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, TracerProvider,
};
use opentelemetry::{Context, global};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::fake::{Fake, Server, kv, settings};

const SEEN_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Keeps the spans that have ended.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Kept {
    fn provider(&self) -> SdkTracerProvider {
        SdkTracerProvider::builder().with_simple_exporter(self.clone()).build()
    }

    /// All of them, once there are so many.
    async fn when(&self, count: usize) -> Vec<SpanData> {
        let began = Instant::now();
        loop {
            let spans = self.0.lock().unwrap().clone();
            if spans.len() >= count {
                assert_eq!(spans.len(), count, "{spans:#?}");
                return spans;
            }
            assert!(began.elapsed() < SEEN_WITHIN, "fewer than {count}: {spans:#?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// A node whose spans are kept, of which this part is chosen.
async fn traced(mut node: Fake, settings: Settings, ratio: f64) -> (Kept, Fake, Server) {
    let kept = Kept::default();
    node.traces = Traces::new(kept.provider().tracer("test"));
    let server = node.serve_with(Settings { sample_ratio: ratio, ..settings }).await;
    (kept, node, server)
}

fn said<'a>(span: &'a SpanData, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    found.map(|attribute| attribute.value.as_str())
}

fn failed(span: &SpanData) -> bool {
    matches!(span.status, Status::Error { .. })
}

async fn one_of_each(kv: &mut KvClient<Channel>) -> Vec<Code> {
    let key = bytes::Bytes::from_static(b"k");
    let keys = vec![key.clone()];
    let set = SetRequest { key: key.clone(), ..SetRequest::default() };
    let delete = DeleteRequest { key: key.clone(), ..DeleteRequest::default() };
    let answers = [
        kv.get(GetRequest { key, ..GetRequest::default() }).await.err(),
        kv.set(set).await.err(),
        kv.delete(delete).await.err(),
        kv.batch_get(BatchGetRequest { keys, ..BatchGetRequest::default() }).await.err(),
        kv.scan(ScanRequest::default()).await.err(),
    ];
    answers.into_iter().map(|status| status.map_or(Code::Ok, |status| status.code())).collect()
}

#[tokio::test]
async fn what_is_turned_away_leaves_a_span_though_nobody_chose_it() {
    let full = Settings { in_flight_max: 0, ..settings() };
    let (kept, _, server) = traced(Fake::default(), full, 0.0).await;
    let codes = one_of_each(&mut kv(&server).await).await;
    assert_eq!(codes[..4], [Code::ResourceExhausted; 4]);
    for span in kept.when(4).await {
        assert!(failed(&span), "{span:?}");
        assert_eq!(said(&span, "error.type").as_deref(), Some("OVERLOADED"));
        let code = said(&span, "rpc.response.status_code");
        assert_eq!(code.as_deref(), Some("RESOURCE_EXHAUSTED"));
    }

    let node = Fake::default();
    node.state.lock().unwrap().unfounded = true;
    let (kept, _, server) = traced(node, settings(), 0.0).await;
    let codes = one_of_each(&mut kv(&server).await).await;
    assert_eq!(codes, [Code::Unavailable; 5]);
    let spans = kept.when(5).await;
    let named = |span: &SpanData| said(span, "error.type").as_deref() == Some("NOT_FOUNDED");
    assert!(spans.iter().all(|span| failed(span) && named(span)), "{spans:#?}");
    let methods: Vec<_> = spans.iter().map(|span| span.name.rsplit('/').next().unwrap()).collect();
    assert_eq!(methods, ["Get", "Set", "Delete", "BatchGet", "Scan"]);
}

#[tokio::test]
async fn what_a_client_does_wrong_is_told_of_and_no_failure() {
    let (kept, _, server) = traced(Fake::default(), settings(), 1.0).await;
    let mut kv = kv(&server).await;
    kv.get(GetRequest::default()).await.unwrap_err();
    let spans = kept.when(1).await;
    let code = said(&spans[0], "rpc.response.status_code");
    assert_eq!(code.as_deref(), Some("INVALID_ARGUMENT"));
    assert!(!failed(&spans[0]) && said(&spans[0], "error.type").is_none(), "{spans:?}");
}

#[tokio::test]
async fn a_walk_is_traced_to_its_end() {
    let node = Fake::default();
    for key in 0..50 {
        node.put(&format!("key-{key}"), "value");
    }
    let (kept, node, server) = traced(node, settings(), 1.0).await;
    let mut kv = kv(&server).await;
    let mut walk = kv.scan(ScanRequest::default()).await.unwrap().into_inner();
    while walk.message().await.unwrap().is_some() {}
    let spans = kept.when(1).await;
    assert_eq!((spans[0].name.as_ref(), failed(&spans[0])), ("coterie.v1.Kv/Scan", false));

    {
        let mut state = node.state.lock().unwrap();
        state.scans_fail_from = Some(1);
        state.fails_with = Some(crate::client::not_reached(false));
    }
    let mut walk = kv.scan(ScanRequest::default()).await.unwrap().into_inner();
    while walk.message().await.is_ok() {}
    let spans = kept.when(2).await;
    assert_eq!(said(&spans[1], "error.type").as_deref(), Some("QUORUM_NOT_REACHED"));
    assert!(failed(&spans[1]));
}

#[tokio::test]
async fn what_a_client_does_not_wait_for_ends_as_cancelled() {
    let node = Fake::default();
    // More than is on the way at a time, so that the walk waits for its client.
    for key in 0..64 {
        node.put(&format!("key-{key}"), &"v".repeat(200 << 10));
    }
    let (kept, node, server) = traced(node, settings(), 0.0).await;
    let mut walk = kv(&server).await.scan(ScanRequest::default()).await.unwrap().into_inner();
    walk.message().await.unwrap().unwrap();
    drop(walk);
    kept.when(1).await;

    node.state.lock().unwrap().delay = Duration::from_secs(600);
    let key = bytes::Bytes::from_static(b"k");
    let mut kv = kv(&server).await;
    let get = GetRequest { key, ..GetRequest::default() };
    let call = tokio::spawn(async move { kv.get(get).await });
    let began = Instant::now();
    while node.state.lock().unwrap().begun == 0 {
        assert!(began.elapsed() < SEEN_WITHIN, "the call does not arrive");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    call.abort();
    let spans = kept.when(2).await;
    for (span, method) in spans.iter().zip(["coterie.v1.Kv/Scan", "coterie.v1.Kv/Get"]) {
        assert_eq!((span.name.as_ref(), failed(span)), (method, true));
        assert_eq!(said(span, "error.type").as_deref(), Some("cancelled"));
        assert_eq!(said(span, "rpc.response.status_code").as_deref(), Some("CANCELLED"));
    }
}

#[tokio::test]
async fn a_call_is_a_span_of_the_client_within_its_callers_and_the_state_of_the_trace_goes_along() {
    let (kept, node, server) = traced(Fake::default(), settings(), 0.0).await;
    // Of this process: nothing else here calls within a span.
    let of_client = Kept::default();
    global::set_tracer_provider(of_client.provider());
    let client = Client::connect([&server.address], Options::default()).unwrap();
    let (trace, span) = (TraceId::from(7_u128), SpanId::from(9_u64));
    let state: TraceState = "other=1,another=2".parse().unwrap();
    let caller = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, state.clone());
    let within = Context::new().with_remote_span_context(caller);
    client.set("k", "v").with_context(within).await.unwrap();

    let called = of_client.when(1).await.remove(0);
    assert_eq!(
        (called.span_kind.clone(), called.name.as_ref()),
        (SpanKind::Client, "coterie.v1.Kv/Set")
    );
    assert_eq!((called.span_context.trace_id(), called.parent_span_id), (trace, span));
    assert_eq!(said(&called, "server.address").as_deref(), Some(server.address.as_str()));
    let served = kept.when(1).await.remove(0);
    assert_eq!(served.parent_span_id, called.span_context.span_id());
    assert_eq!(*served.span_context.trace_state(), state);
    let told = node.state.lock().unwrap().asked.pop().unwrap().2.unwrap();
    assert_eq!(SpanId::from(told.span), served.span_context.span_id());

    let mut request = Request::new(GetRequest { key: "k".into(), ..GetRequest::default() });
    let parent = "00-00000000000000000000000000000007-0000000000000009-01";
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request.metadata_mut().insert("tracestate", "no state".parse().unwrap());
    kv(&server).await.get(request).await.unwrap();
    let served = kept.when(2).await.remove(1);
    assert_eq!(served.parent_span_id, span);
    assert_eq!(*served.span_context.trace_state(), TraceState::default());
}
