//! Logs for people or programs, and spans for a collector.
//!
//! Spans of our own modules only are exported: the exporter's transport (h2, hyper, tonic, tower)
//! would otherwise trace its own exports. They are queued, and dropped when the queue is full: a
//! collector that is slow or down costs spans, never time.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Metadata;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, filter, fmt};

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
    /// Something else in this process has set up logging.
    #[error("logging is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Logging and tracing that have been set up. To be flushed at the end.
#[must_use = "spans that were not exported yet are lost unless they are flushed"]
#[derive(Debug)]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

/// Sets up logging to standard error and, if there is an endpoint, the export of spans, for the
/// whole process. Must be called within a tokio runtime.
///
/// # Errors
/// See [`TelemetryError`].
pub fn init(
    log: &Log,
    telemetry: &Telemetry,
    node_id: impl Into<String>,
) -> Result<Guard, TelemetryError> {
    let provider = match &telemetry.otlp_endpoint {
        Some(endpoint) => Some(provider(endpoint, node_id.into())?),
        None => None,
    };
    let spans = provider.as_ref().map(|provider| {
        let tracer = provider.tracer("coterie");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false);
        layer.with_filter(filter::filter_fn(is_exported))
    });
    let filter = EnvFilter::try_new(&log.level)?;
    let lines = lines(log.format).with_filter(filter);
    tracing_subscriber::registry().with(lines).with(spans).try_init()?;
    Ok(Guard { provider })
}

/// Logs what `work` does as the node's log would, before that is set up or after its end.
pub fn apart<T>(log: &Log, work: impl FnOnce() -> T) -> T {
    let subscriber = tracing_subscriber::registry().with(lines(log.format));
    tracing::subscriber::with_default(subscriber, work)
}

impl Guard {
    /// Exports what has been queued, for at most two seconds.
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

/// Our own spans and what is logged within them.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    is_ours(metadata.target())
}

fn is_ours(target: &str) -> bool {
    target == "coterie" || target.starts_with("coterie::")
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

/// A provider whose spans go to `endpoint`. Spans without a parent are always taken: whoever builds
/// one has decided by `telemetry.sample_ratio` that it is wanted, before it was built.
fn provider(endpoint: &str, node_id: String) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_WITHIN)
        .build()?;
    let resource = Resource::builder()
        .with_service_name("coterie")
        .with_attribute(KeyValue::new("service.instance.id", node_id))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .with_resource(resource)
        .build();
    Ok(provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_collector_that_is_down_delays_nothing() {
        // Nobody listens on the discard port of this machine.
        let provider = provider("http://127.0.0.1:9", "id".to_owned()).unwrap();
        let tracer = provider.tracer("test");
        let started = std::time::Instant::now();
        for _ in 0..10_000 {
            drop(opentelemetry::trace::Tracer::start(&tracer, "span"));
        }
        let spans = started.elapsed();
        assert!(spans < Duration::from_secs(2), "10,000 spans took {spans:?}");
        Guard { provider: Some(provider) }.flush().await;
        let all = started.elapsed();
        assert!(all < spans + FLUSH_WITHIN + Duration::from_secs(1), "the flush took {all:?}");
    }

    #[test]
    fn only_our_own_modules_are_exported() {
        let targets = ["coterie", "coterie::types", "h2::client", "hyper", "tonic", "coterie_x"];
        assert_eq!(targets.map(is_ours), [true, true, false, false, false, false]);
    }
}
