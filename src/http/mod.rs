//! The admin port: is it alive, is it ready, what does it see. HTTP/1.1, for people and probes.
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | 200 if the node's loops turn, 503 with what stands still; peers do not matter |
//! | `/readyz` | 200 if the node serves, 503 with why not; quorums do not matter |
//! | `/metrics` | everything that the node counts, for Prometheus |
//! | `/debug/gossip` | the cluster as this node sees it: JSON, or a table for people |
//! | `/debug/ring` | who owns what, and how far a change of that is: JSON, or a table |
//! | `/debug/hints` | what this node keeps for others, counted on its disk: JSON, or a table |
//!
//! Requests are small, or refused before they are read.

mod debug;
mod table;

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::api::backend::Backend;
use crate::api::connection::{Incoming, Patience};
use crate::metrics;
use crate::protocol::step::ReadFailed;

/// Connections at a time: probes, a few people, a collector.
const CONNECTIONS_MAX: usize = 256;
/// A connection that says nothing for this long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Hints are counted for so long at most: a count that takes longer is told as incomplete.
const COUNT_FOR: Duration = Duration::from_secs(2);
/// How long answers under way may take to end when the node stops.
const GRACE: Duration = Duration::from_secs(1);

const INDEX: &str = "\
coterie: the admin port of a node

/healthz        200 if the node's loops turn, else 503 and what stands still
/readyz         200 if the node serves requests, else 503 and why not
/metrics        everything that the node counts, for Prometheus
/debug/gossip   the cluster as this node sees it, and where the views of nodes differ
/debug/ring     the placement: who owns how much, the homes of every partition, and who holds a change up
/debug/hints    what this node keeps for others, counted on its disk
                JSON; a table with ?format=text or Accept: text/plain
";

/// Serves until `shutdown` completes.
///
/// # Errors
/// If the listener cannot be used.
pub async fn serve<B: Backend>(
    listener: TcpListener,
    backend: B,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let incoming = Incoming::new(listener, CONNECTIONS_MAX, Patience::EveryWord(SILENCE_MAX));
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let signal = async move {
        shutdown.await;
        drop(stopping);
    };
    let server = axum::serve(incoming, router(backend)).with_graceful_shutdown(signal);
    let give_up = async {
        // It ends when `stopping` is dropped: nothing is ever sent.
        let _ = stopped.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = server => ended,
        () = give_up => Ok(()),
    }
}

/// All endpoints.
pub fn router<B: Backend>(backend: B) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/healthz", get(healthz::<B>))
        .route("/readyz", get(readyz::<B>))
        .route("/metrics", get(scrape::<B>))
        .route("/debug/gossip", get(gossip::<B>))
        .route("/debug/ring", get(ring::<B>))
        .route("/debug/hints", get(hints::<B>))
        .fallback(not_found)
        .with_state(backend)
}

async fn healthz<B: Backend>(State(backend): State<B>) -> (StatusCode, String) {
    match backend.stuck() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("stuck: {what}\n")),
    }
}

async fn readyz<B: Backend>(State(backend): State<B>) -> (StatusCode, String) {
    match backend.status().not_ready {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

async fn scrape<B: Backend>(State(backend): State<B>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::TEXT_TYPE)], metrics::text(&backend.metrics()))
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Json,
    Text,
}

#[derive(Debug, serde::Deserialize)]
struct ViewQuery {
    format: Option<Format>,
}

type AskedFormat = Result<Query<ViewQuery>, axum::extract::rejection::QueryRejection>;

async fn gossip<B: Backend>(
    State(backend): State<B>,
    asked: AskedFormat,
    headers: HeaderMap,
) -> Response {
    written(&backend.gossip(), asked, &headers)
}

async fn ring<B: Backend>(
    State(backend): State<B>,
    asked: AskedFormat,
    headers: HeaderMap,
) -> Response {
    match backend.view() {
        Some(view) => written(&debug::ring(&view, &backend.status().change), asked, &headers),
        None => unavailable("the cluster is not founded yet: nobody owns anything\n"),
    }
}

async fn hints<B: Backend>(
    State(backend): State<B>,
    asked: AskedFormat,
    headers: HeaderMap,
) -> Response {
    match backend.hints(COUNT_FOR).await {
        Ok(held) => written(&debug::hints(&backend.status().name, &held), asked, &headers),
        Err(ReadFailed) => unavailable("the store could not be read: the node's log says why\n"),
    }
}

fn unavailable(why: &'static str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// A view in the format that was asked for.
fn written(view: &serde_json::Value, asked: AskedFormat, headers: &HeaderMap) -> Response {
    let Ok(Query(query)) = asked else {
        return (StatusCode::BAD_REQUEST, "format is json or text\n").into_response();
    };
    if query.format.unwrap_or_else(|| preferred(headers)) == Format::Text {
        return table::render(view).into_response();
    }
    // A value of JSON has no keys that are not text: writing it does not fail.
    let mut body = serde_json::to_string_pretty(view).unwrap_or_default();
    body.push('\n');
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Text, if it is asked for and JSON is not.
fn preferred(headers: &HeaderMap) -> Format {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let accept = accept.unwrap_or_default();
    let text = accept.contains("text/plain") && !accept.contains("json");
    if text { Format::Text } else { Format::Json }
}

async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).map(axum::http::HeaderValue::as_bytes);
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return no_grpc().into_response();
    }
    let path: String = uri.path().chars().take(80).collect();
    let told = format!("there is no {path} here; this is what there is:\n\n{INDEX}");
    (StatusCode::NOT_FOUND, told).into_response()
}

/// A client on the wrong port is told so in its own terms: an answer of gRPC without a message.
fn no_grpc() -> impl IntoResponse {
    [
        ("content-type", "application/grpc"),
        ("grpc-status", "12"),
        ("grpc-message", crate::proto::ADMIN_PORT_SPEAKS_HTTP),
    ]
}
