//! Logs for people or programs, and spans and metrics for a collector.
//!
//! Spans are queued, and dropped when the queue is full: a collector that is slow or down costs
//! spans, never time. Nothing but our own code begins one, so the exporter never traces itself.

mod metrics;
mod points;
mod traces;

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, filter, fmt};

pub use self::metrics::Metrics;
pub use self::traces::{Caller, OpenSpan, Origin, Traces};
use crate::config::{Log, LogFormat, Telemetry};

/// How long the exit waits for spans that were not exported yet.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// How long one export may take.
const EXPORT_WITHIN: Duration = Duration::from_secs(5);

/// Why logging or tracing could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("log.level is not a filter")]
    Filter(#[from] filter::ParseError),
    /// The exporter could not be built.
    #[error("telemetry.otlp_endpoint cannot be used")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// It is no URI.
    #[error("telemetry.otlp_endpoint cannot be used")]
    Endpoint(#[from] tonic::transport::Error),
    /// Something else in this process has set up logging.
    #[error("logging is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Logging and tracing that have been set up. To be flushed at the end.
#[must_use = "spans that were not exported yet are lost unless they are flushed"]
#[derive(Debug)]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
    metrics: Option<Metrics>,
}

/// What a node's spans and metrics are about: attributes by their names in OpenTelemetry.
#[must_use]
pub fn resource(node_id: &str) -> Vec<(&'static str, String)> {
    vec![
        ("service.name", "coterie".to_owned()),
        ("service.instance.id", node_id.to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
    ]
}

/// Sets up logging to standard error and, if there is an endpoint, the export of spans and of
/// metrics, for the whole process. Must be called within a tokio runtime.
///
/// # Errors
/// See [`TelemetryError`].
pub fn init(log: &Log, telemetry: &Telemetry, node_id: &str) -> Result<Guard, TelemetryError> {
    let provider = match &telemetry.otlp_endpoint {
        Some(endpoint) => Some(provider(endpoint, node_id)?),
        None => None,
    };
    let metrics = match (&telemetry.otlp_endpoint, telemetry.metrics_interval) {
        (Some(endpoint), Some(every)) => Some(Metrics::new(endpoint, every)?),
        (None, _) | (_, None) => None,
    };
    let filter = EnvFilter::try_new(&log.level)?;
    let lines = lines(log.format).with_filter(filter);
    tracing_subscriber::registry().with(lines).try_init()?;
    Ok(Guard { provider, metrics })
}

/// Logs what `work` does as the node's log would, before that is set up or after its end.
pub fn apart<T>(log: &Log, work: impl FnOnce() -> T) -> T {
    let subscriber = tracing_subscriber::registry().with(lines(log.format));
    tracing::subscriber::with_default(subscriber, work)
}

impl Guard {
    /// Where spans go.
    #[must_use]
    pub fn traces(&self) -> Traces {
        let tracer = self.provider.as_ref().map(|provider| provider.tracer("coterie"));
        tracer.map(Traces::new).unwrap_or_default()
    }

    /// Where metrics go, if they go anywhere.
    #[must_use]
    pub fn metrics(&self) -> Option<Metrics> {
        self.metrics.clone()
    }

    /// Exports what spans have been queued, for at most two seconds.
    pub async fn flush(self) {
        let Some(provider) = self.provider else { return };
        let flush =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_WITHIN));
        match tokio::time::timeout(FLUSH_WITHIN, flush).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "spans were not exported"),
            Ok(Err(_)) | Err(_) => tracing::warn!("spans were not exported in time"),
        }
    }
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let base = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            base.with_ansi(terminal).boxed()
        }
        LogFormat::Json => base.json().flatten_event(true).boxed(),
    }
}

/// A provider whose spans go to `endpoint`. All are taken: whoever begins one has decided that it
/// is wanted, before it was built.
fn provider(endpoint: &str, node_id: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_WITHIN)
        .build()?;
    let attributes = resource(node_id).into_iter().map(|(name, value)| KeyValue::new(name, value));
    let resource = Resource::builder().with_attributes(attributes).build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .build();
    Ok(provider)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::SpanKind;

    use super::*;

    #[tokio::test]
    async fn a_collector_that_is_down_delays_nothing() {
        // Nobody listens on the discard port of this machine.
        let provider = provider("http://127.0.0.1:9", "id").unwrap();
        let traces = Traces::new(provider.tracer("test"));
        let started = std::time::Instant::now();
        for _ in 0..10_000 {
            assert!(traces.begin("span", SpanKind::Internal, Origin::Root).is_some());
        }
        let spans = started.elapsed();
        assert!(spans < Duration::from_secs(2), "10,000 spans took {spans:?}");
        Guard { provider: Some(provider), metrics: None }.flush().await;
        let all = started.elapsed();
        assert!(all < spans + FLUSH_WITHIN + Duration::from_secs(1), "the flush took {all:?}");
    }
}
