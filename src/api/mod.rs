//! The gRPC services: requests parsed into what cannot be wrong, outcomes told without loss.
//!
//! ```text
//!  connection ──▶ Dispatch ──▶ Kv     parse ─▶ Backend::run / scan ─▶ answer or error
//!  (bounded)      (timed)
//!                    │
//!                    └───────▶ Admin · health · reflection
//! ```
//!
//! - Whatever a client sends is answered by a status that names what is wrong; nothing panics.
//! - The services decide nothing: what an outcome means is told by the core's
//!   [`crate::protocol::op::Failure`], and only translated here.
//! - Connections, requests and walks under way are bounded, and so is the time that stopping takes.
//! - A request builds no tracing span unless it is sampled.

mod admin;
pub mod backend;
mod batch;
pub mod calls;
mod changes;
pub mod codec;
pub(crate) mod connection;
mod error;
mod health;
mod inspection;
mod kv;
mod orders;
mod request;
mod scan;
mod token;
mod trace;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http;
use tokio::net::TcpListener;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic::transport::Server;

use self::admin::AdminService;
use self::backend::Backend;
use self::calls::{Calls, Timed};
use self::connection::{Incoming, Patience};
use self::health::HealthService;
use self::kv::KvService;
use crate::config;
use crate::proto;
use crate::proto::admin_server::AdminServer;
use crate::proto::kv_server::KvServer;

/// Connections at a time: each costs some tens of kilobytes.
const CONNECTIONS_MAX: usize = 8192;
/// Calls that one connection may have under way: more clients than that share a node through
/// more connections.
const STREAMS_PER_CONNECTION: u32 = 1024;
/// What a call may send ahead of being read: a value of the default limit fits.
const STREAM_WINDOW_BYTES: u32 = (1 << 20) + (64 << 10);
/// What a connection may send ahead of being read.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Headers of a call: names, a deadline, a trace.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// A connection whose other end has vanished is noticed within the sum of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that has sent nothing within this is closed; later, keepalive looks after it.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(10);
/// What a request holds beside a value: a key, a context, and room.
const REQUEST_BYTES_BESIDE: usize = 1 << 20;

/// What the services need of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The largest value that may be written, in bytes.
    pub value_bytes_max: usize,
    /// The longest that a request may take, and how long it takes if the client does not say.
    pub request_timeout: Duration,
    /// Requests under way at a time, over all connections.
    pub in_flight_max: usize,
    /// Connections at a time.
    pub connections_max: usize,
    /// Which part of the requests is traced if the caller has not decided, 0 to 1.
    pub sample_ratio: f64,
    /// A request that takes longer is traced all the same.
    pub slow_request: Duration,
    /// How long calls under way may take to end when the node stops.
    pub grace: Duration,
}

impl Settings {
    /// What the configuration says; limits that it does not have are fixed here.
    #[must_use]
    pub fn of(settings: &config::Settings) -> Self {
        let telemetry = &settings.telemetry;
        Self {
            value_bytes_max: settings.limits.value_bytes,
            request_timeout: settings.timeouts.request,
            in_flight_max: settings.limits.in_flight,
            connections_max: CONNECTIONS_MAX,
            sample_ratio: telemetry.sample_ratio,
            slow_request: telemetry.slow_request,
            grace: settings.timeouts.request + Duration::from_secs(1),
        }
    }

    /// The largest request that is read whole, so that a value or a batch that is somewhat too
    /// large is told what is wrong with it; what is larger still is refused unread.
    fn request_bytes_max(&self) -> usize {
        batch::bytes_max(self.value_bytes_max) + REQUEST_BYTES_BESIDE
    }
}

/// Serves until `shutdown` completes; then no new calls are taken, and those under way may end
/// within [`Settings::grace`].
///
/// # Errors
/// If the server could not be built, or a connection could not be set up.
pub async fn serve<B: Backend>(
    listener: TcpListener,
    backend: B,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let patience = Patience::FirstWord(FIRST_WORD_WITHIN);
    let incoming = Incoming::new(listener, settings.connections_max, patience);
    let grace = settings.grace;
    let service = Dispatch::new(backend, settings);
    let stopping = tokio::sync::Notify::new();
    let signal = async {
        shutdown.await;
        stopping.notify_one();
    };
    let server = server().serve_with_incoming_shutdown(service, incoming, signal);
    let give_up = async {
        stopping.notified().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        ended = server => ended,
        () = give_up => {
            tracing::warn!(?grace, "calls were still under way when the time to stop was up");
            Ok(())
        }
    }
}

fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Sends calls of keys straight to their service, and the rest through a router.
struct Dispatch<B: Backend> {
    kv: KvServer<KvService<B>>,
    kv_bytes_max: usize,
    rest: Routes,
    calls: Arc<Calls>,
}

impl<B: Backend> Clone for Dispatch<B> {
    fn clone(&self) -> Self {
        Self {
            kv: self.kv.clone(),
            kv_bytes_max: self.kv_bytes_max,
            rest: self.rest.clone(),
            calls: self.calls.clone(),
        }
    }
}

impl<B: Backend> Dispatch<B> {
    fn new(backend: B, settings: Settings) -> Self {
        let (kv_bytes_max, calls) = (settings.request_bytes_max(), backend.calls());
        let rest = Routes::new(AdminServer::new(AdminService::new(backend.clone())))
            .add_service(HealthService::server(backend.clone()));
        let rest = with_reflection(rest);
        let kv = KvServer::new(KvService::new(backend, settings));
        let kv = kv.max_decoding_message_size(kv_bytes_max);
        Self { kv, kv_bytes_max, rest: rest.prepare(), calls }
    }
}

/// Both versions of the reflection service: tools still ask for the older one first.
fn with_reflection(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            // The descriptors are compiled in: only a defect of the build leads here.
            tracing::error!(%error, "reflection is not available");
            routes
        }
    }
}

type Pending = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// A call under way.
struct Answer {
    pending: Pending,
    /// The largest request that the service reads.
    bytes_max: Option<usize>,
}

impl Future for Answer {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = self.pending.as_mut().poll(cx);
        match (self.bytes_max, answer) {
            (Some(bytes_max), Poll::Ready(Ok(answer))) if was_cut_off(&answer) => {
                Poll::Ready(Ok(error::too_large(bytes_max).into_http()))
            }
            (_, answer) => answer,
        }
    }
}

/// Whether the transport has refused to read a request, in words of its own: no status of ours
/// has this code.
fn was_cut_off(answer: &http::Response<Body>) -> bool {
    let code = answer.headers().get("grpc-status");
    code.is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::OutOfRange)
}

impl<B: Backend> Service<http::Request<Body>> for Dispatch<B> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Timed<Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Neither service ever is unready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Timed<Answer> {
        let path = request.uri().path();
        let (method, is_kv) = (self.calls.method(path), path.starts_with("/coterie.v1.Kv/"));
        let answer = if is_kv {
            Answer { pending: self.kv.call(request), bytes_max: Some(self.kv_bytes_max) }
        } else {
            Answer { pending: Box::pin(self.rest.call(request)), bytes_max: None }
        };
        self.calls.time(method, answer)
    }
}
