//! The health service of gRPC: a node serves if it is ready.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::backend::Backend;

/// The services that can be asked about; the empty name is the node as a whole.
const SERVICES: [&str; 3] = ["", "coterie.v1.Kv", "coterie.v1.Admin"];
/// How often a watch looks.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Watches at a time; each costs a look at the node every [`WATCH_EVERY`].
const WATCHES_MAX: usize = 256;

pub(super) struct HealthService<B> {
    backend: B,
    watches: Arc<Semaphore>,
}

impl<B: Backend> HealthService<B> {
    pub(super) fn server(backend: B) -> HealthServer<Self> {
        HealthServer::new(Self { backend, watches: Arc::new(Semaphore::new(WATCHES_MAX)) })
    }
}

fn health<B: Backend>(backend: &B) -> ServingStatus {
    match backend.status().not_ready {
        None => ServingStatus::Serving,
        Some(_) => ServingStatus::NotServing,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl<B: Backend> Health for HealthService<B> {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            let told = format!("known services are {}", SERVICES[1..].join(", "));
            return Err(Status::not_found(told));
        }
        Ok(Response::new(response(health(&self.backend))))
    }

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let Ok(place) = self.watches.clone().try_acquire_owned() else {
            return Err(super::error::too_much("health watches", WATCHES_MAX));
        };
        let known = SERVICES.contains(&request.get_ref().service.as_str());
        let (sender, receiver) = mpsc::channel(1);
        let backend = self.backend.clone();
        tokio::spawn(async move {
            let _place = place;
            let mut told = None;
            loop {
                let status = if known { health(&backend) } else { ServingStatus::ServiceUnknown };
                if told != Some(status) {
                    told = Some(status);
                    if sender.send(Ok(response(status))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(WATCH_EVERY) => {}
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
