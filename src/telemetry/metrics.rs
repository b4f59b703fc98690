//! Sends what a node counts to a collector, again and again.
//!
//! ```text
//!   every telemetry.metrics_interval:   Page ──▶ points ──▶ one call ──▶ collector
//! ```
//!
//! - One call at a time, and none is repeated: the next one says all that a lost one has said, for
//!   what is sent are totals. So a collector that is down costs nothing that has to be kept.
//! - Whether they arrive is logged when it changes, and not each time.
//! - It runs beside the data path, on the threads of the admin port.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::{EXPORT_WITHIN, points};
use crate::metrics::Page;

/// Where and how often a node's metrics are sent.
#[derive(Clone, Debug)]
pub struct Metrics {
    endpoint: Endpoint,
    every: Duration,
    /// When everything was 0.
    since: SystemTime,
}

impl Metrics {
    /// Metrics of a process that begins now.
    ///
    /// # Errors
    /// If the endpoint is no URI.
    pub(super) fn new(endpoint: &str, every: Duration) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(EXPORT_WITHIN);
        Ok(Self { endpoint, every, since: SystemTime::now() })
    }

    /// Sends what `page` says until `end`, and then once more. To be run by the runtime that is to
    /// do the work.
    pub async fn send(self, page: impl Fn() -> Page + Send, end: CancellationToken) {
        let mut client = MetricsServiceClient::new(self.endpoint.connect_lazy());
        let mut ticks = interval_at(Instant::now() + self.every, self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut arrive = true;
        loop {
            let ended = tokio::select! {
                _ = ticks.tick() => false,
                () = end.cancelled() => true,
            };
            let request = points::request(&page(), self.since, SystemTime::now());
            let sent = export(&mut client, request).await;
            match &sent {
                Ok(()) if !arrive => tracing::info!("metrics arrive at the collector again"),
                Err(why) if arrive => {
                    tracing::warn!(why, "metrics do not arrive at the collector; said once");
                }
                Ok(()) | Err(_) => {}
            }
            arrive = sent.is_ok();
            if ended {
                return;
            }
        }
    }
}

/// One call. The error is for people.
async fn export(
    client: &mut MetricsServiceClient<Channel>,
    request: ExportMetricsServiceRequest,
) -> Result<(), String> {
    let answer = timeout(EXPORT_WITHIN, client.export(request)).await;
    let answer = answer.map_err(|_| format!("no answer within {EXPORT_WITHIN:?}"))?;
    let answer = answer.map_err(|status| status.to_string())?.into_inner();
    match answer.partial_success {
        Some(part) if part.rejected_data_points > 0 => {
            Err(format!("{} were refused: {}", part.rejected_data_points, part.error_message))
        }
        Some(_) | None => Ok(()),
    }
}
