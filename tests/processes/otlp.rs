//! A collector: a server of OTLP that keeps the spans that it is sent, and the newest metrics.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Counted;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, HistogramDataPoint, Metric, NumberDataPoint,
};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use tokio::runtime::{Builder, Runtime};
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

/// Metrics as they have arrived.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Attributes of the resource, in their order.
    pub resource: Vec<(String, String)>,
    /// By name: kind and unit.
    pub families: BTreeMap<String, (&'static str, String)>,
    /// By name with labels, as Prometheus would write them.
    pub samples: BTreeMap<String, f64>,
}

type Spans = Arc<Mutex<Vec<Told>>>;
/// By `service.instance.id`: how often they came, and the newest.
type Metrics = Arc<Mutex<BTreeMap<String, (usize, Sent)>>>;

/// A collector that runs until it is dropped: its connections end with it, as if its machine had
/// gone.
pub struct Collector {
    pub at: SocketAddr,
    spans: Spans,
    metrics: Metrics,
    /// A server's connections are tasks of their own, which end with this.
    runtime: Option<Runtime>,
}

struct Service(Spans);

struct Counts(Metrics);

impl Collector {
    /// Where no call has its own end: the port can be listened at again.
    pub fn start() -> Self {
        Self::listen(TcpListener::bind("127.0.0.2:0").unwrap())
    }

    /// Starts one where another has been.
    pub async fn start_at(at: SocketAddr) -> Self {
        let began = Instant::now();
        loop {
            match TcpListener::bind(at) {
                Ok(listener) => return Self::listen(listener),
                Err(error) => assert!(began.elapsed() < SEEN_WITHIN, "{error}"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn listen(listener: TcpListener) -> Self {
        let at = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (spans, metrics) = (Spans::default(), Metrics::default());
        let traces = TraceServiceServer::new(Service(spans.clone()));
        let counts = MetricsServiceServer::new(Counts(metrics.clone()));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let mut server = tonic::transport::Server::builder();
            let server = server.add_service(traces).add_service(counts);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { at, spans, metrics, runtime: Some(runtime) }
    }

    pub fn spans(&self) -> Vec<Told> {
        self.spans.lock().unwrap().clone()
    }

    /// How often a node's metrics came, and the newest; none before the first.
    pub fn metrics(&self, node: &str) -> Option<(usize, Sent)> {
        self.metrics.lock().unwrap().get(node).cloned()
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

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
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

#[tonic::async_trait]
impl MetricsService for Counts {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_metrics {
            let mut sent = Sent {
                resource: texts(&of_resource.resource.unwrap().attributes),
                ..Sent::default()
            };
            let metrics = of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            metrics.for_each(|metric| sent.add(metric));
            let named = sent.resource.iter().find(|(name, _)| name == "service.instance.id");
            let node = named.unwrap().1.clone();
            let mut all = self.0.lock().unwrap();
            let (times, newest) = all.entry(node).or_default();
            (*times, *newest) = (*times + 1, sent);
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Sent {
    fn add(&mut self, metric: Metric) {
        let (name, total) = (metric.name, i32::from(AggregationTemporality::Cumulative));
        let kind = match metric.data.unwrap() {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == total, "{name}");
                sum.data_points.into_iter().for_each(|point| self.number(&name, point));
                "counter"
            }
            Data::Gauge(gauge) => {
                gauge.data_points.into_iter().for_each(|point| self.number(&name, point));
                "gauge"
            }
            Data::Histogram(of) => {
                assert_eq!(of.aggregation_temporality, total, "{name}");
                of.data_points.into_iter().for_each(|point| self.histogram(&name, point));
                "histogram"
            }
            other => panic!("{name} is a {other:?}"),
        };
        assert!(metric.description.ends_with('.'), "{name}: {}", metric.description);
        let twice = self.families.insert(name, (kind, metric.unit));
        assert!(twice.is_none(), "{twice:?} comes twice");
    }

    fn number(&mut self, name: &str, point: NumberDataPoint) {
        assert!(point.start_time_unix_nano <= point.time_unix_nano, "{point:?}");
        let value = match point.value.unwrap() {
            Counted::AsInt(count) => count as f64,
            Counted::AsDouble(measure) => measure,
        };
        self.sample(name, &texts(&point.attributes), value);
    }

    /// With buckets that hold all up to their bounds, as Prometheus has them.
    fn histogram(&mut self, name: &str, point: HistogramDataPoint) {
        let labels = texts(&point.attributes);
        let bounds = point.explicit_bounds.iter().map(ToString::to_string);
        let mut up_to = 0;
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1, "{name}");
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&point.bucket_counts) {
            up_to += count;
            let bucket = [&labels[..], &[("le".to_owned(), bound)]].concat();
            self.sample(&format!("{name}_bucket"), &bucket, up_to as f64);
        }
        self.sample(&format!("{name}_count"), &labels, point.count as f64);
        self.sample(&format!("{name}_sum"), &labels, point.sum.unwrap());
    }

    fn sample(&mut self, name: &str, labels: &[(String, String)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let series = match labels.join(",") {
            none if none.is_empty() => name.to_owned(),
            some => format!("{name}{{{some}}}"),
        };
        let twice = self.samples.insert(series, value);
        assert!(twice.is_none(), "a series of {name} comes twice");
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
