//! A collector: a server of OTLP that keeps the spans that it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::cluster::LOOK_EVERY;

/// Nodes export every five seconds.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

/// A span as it has arrived.
#[derive(Clone, Debug)]
pub struct Told {
    /// `service.instance.id`.
    pub node: String,
    pub service: String,
    pub name: String,
    pub kind: SpanKind,
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    pub parent: Vec<u8>,
    /// Trace and span of each.
    pub links: Vec<(Vec<u8>, Vec<u8>)>,
    pub attributes: Vec<(String, String)>,
    pub failed: bool,
    pub nanos: u64,
}

type Spans = Arc<Mutex<Vec<Told>>>;

/// A collector that runs.
pub struct Collector {
    pub at: SocketAddr,
    spans: Spans,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

struct Service(Spans);

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (spans, (stop, stopped)) = (Spans::default(), oneshot::channel::<()>());
        let service = TraceServiceServer::new(Service(spans.clone()));
        let ended = tokio::spawn(async move {
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            // Not gracefully: its callers would keep it up.
            tokio::select! {
                served = server.serve_with_incoming(incoming) => served.unwrap(),
                _ = stopped => {}
            }
        });
        Self { at, spans, stop, ended }
    }

    /// Ends it, as if its machine had gone.
    pub async fn stop(self) {
        drop(self.stop);
        self.ended.await.unwrap();
    }

    pub fn spans(&self) -> Vec<Told> {
        self.spans.lock().unwrap().clone()
    }

    /// Every span, once they are what is waited for.
    pub async fn when(&self, what: &str, holds: impl Fn(&[Told]) -> bool) -> Vec<Told> {
        let began = Instant::now();
        loop {
            let spans = self.spans();
            if holds(&spans) {
                return spans;
            }
            assert!(began.elapsed() < SEEN_WITHIN, "no {what} among {spans:#?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let resource = texts(&of_resource.resource.unwrap().attributes);
            let named = |name: &str| {
                let found = resource.iter().find(|attribute| attribute.0 == name);
                found.map(|attribute| attribute.1.clone()).unwrap_or_default()
            };
            let (service, node) = (named("service.name"), named("service.instance.id"));
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let told = spans.map(|span| Told::of(span, &service, &node));
            self.0.lock().unwrap().extend(told);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Told {
    fn of(span: Span, service: &str, node: &str) -> Self {
        Self {
            node: node.to_owned(),
            service: service.to_owned(),
            kind: span.kind(),
            nanos: span.end_time_unix_nano - span.start_time_unix_nano,
            failed: span.status.is_some_and(|status| status.code() == StatusCode::Error),
            attributes: texts(&span.attributes),
            links: span.links.into_iter().map(|link| (link.trace_id, link.span_id)).collect(),
            name: span.name,
            trace: span.trace_id,
            id: span.span_id,
            parent: span.parent_span_id,
        }
    }

    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|attribute| attribute.0 == name);
        found.map(|attribute| attribute.1.as_str())
    }
}

fn texts(attributes: &[KeyValue]) -> Vec<(String, String)> {
    let text = |attribute: &KeyValue| {
        let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => text.clone(),
            other => format!("{other:?}"),
        };
        (attribute.key.clone(), value)
    };
    attributes.iter().map(text).collect()
}
