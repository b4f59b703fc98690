//! One node from its start to its end.

use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use super::ending::{ComesBack, Failed};
use super::handle::{NodeHandle, Reports};
use super::hint_age;
use super::host::DataCore;
use super::ports::Ports;
use super::start::{Cores, Node, Prepared, threads};
use crate::api::backend::Backend;
use crate::config::Settings;
use crate::gossip::ControlCore;
use crate::telemetry::{self, TelemetryError};

/// Scans of the store at a time. Each reads from disk: a few keep any disk busy, and more would
/// only hold more pages in memory.
const BLOCKING_THREADS: usize = 8;
/// Requests under way may end for so long after the node was told to stop.
const DRAIN_FOR: Duration = Duration::from_secs(5);
/// Calls that have been answered may close for so long.
const CLOSE_FOR: Duration = Duration::from_millis(500);
/// What is queued may take so long to reach the disk.
const STOP_FOR: Duration = Duration::from_secs(10);
/// Between two looks at requests under way, or at readiness: at the start and the end only.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Serves one port for a node until the token is cancelled, and then ends soon.
pub type Serve<B> = fn(TcpListener, B, &Settings, CancellationToken) -> Served;

/// A service that runs.
pub type Served = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// The services that a node offers.
pub struct Services<B> {
    /// gRPC on the client port: runs on the data path's threads.
    pub grpc: Serve<B>,
    /// HTTP on the admin port: runs on threads of its own.
    pub admin: Serve<B>,
}

/// Runs a node until `shutdown`, or until it fails. Binds every port before anything is written
/// to disk.
///
/// # Errors
/// Why it could not start, or had to stop; each says what to do.
pub fn run<C: Cores>(
    settings: &Settings,
    cores: &C,
    services: &Services<NodeHandle<C::Worker, C::Control>>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let ports = Ports::bind(&settings.listen)?;
    let prepared = Prepared::open(settings)?;
    let data = data_runtime(threads(settings)).context("starting the data path's threads")?;
    // Health must answer even if the data path does not.
    let admin = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("admin")
        .enable_all()
        .build()
        .context("starting the admin threads")?;
    let result = data.block_on(live(settings, cores, services, ports, prepared, &admin, shutdown));
    admin.shutdown_background();
    // Scans that still run hold the store; the process ends anyway.
    data.shutdown_timeout(CLOSE_FOR);
    result
}

/// One thread: the caller's. A runtime of many threads costs a fifth of the throughput on a
/// machine of two cores, so it must be asked for.
fn data_runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads).thread_name("data");
    }
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build()
}

async fn live<C: Cores>(
    settings: &Settings,
    cores: &C,
    services: &Services<NodeHandle<C::Worker, C::Control>>,
    ports: Ports,
    prepared: Prepared,
    admin: &Runtime,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let id = prepared.node_id().to_string();
    let logs = match telemetry::init(&settings.log, &settings.telemetry, &id) {
        // A program that runs a node within it may have set up logs of its own.
        Err(TelemetryError::Twice(_)) => None,
        logs => Some(logs?),
    };
    let traces = logs.as_ref().map(telemetry::Guard::traces).unwrap_or_default();
    let node = Node::start(settings, prepared, ports.internal, ports.gossip, cores, traces)?;
    let listen = &settings.listen;
    tracing::info!(
        name = %settings.node.name, client = %listen.client, internal = %listen.internal,
        admin = %listen.admin, data = %settings.node.data.display(), "listening"
    );

    let close = CancellationToken::new();
    let spawn =
        |runtime: &Handle, what: &'static str, serve: Serve<_>, port: std::net::TcpListener| {
            let (handle, settings) = (node.handle.clone(), settings.clone());
            let (close, ending) = (close.clone(), node.ending().clone());
            runtime.spawn(async move {
                let served = async {
                    let listener = TcpListener::from_std(port)?;
                    serve(listener, handle, &settings, close.clone()).await
                };
                let ended = served.await;
                if !close.is_cancelled() {
                    let why =
                        ended.err().map_or_else(|| "it ended".into(), |error| format!("{error:#}"));
                    ending.fail(format!("the {what} port cannot be served: {why}"));
                }
            })
        };
    admin.spawn(hint_age::watch(node.handle.clone(), close.clone()));
    let metrics = logs.as_ref().and_then(telemetry::Guard::metrics).map(|metrics| {
        let handle = node.handle.clone();
        admin.spawn(metrics.send(move || handle.metrics(), close.clone()))
    });
    let admin = spawn(admin.handle(), "admin", services.admin, ports.admin);
    let grpc = spawn(&Handle::current(), "client", services.grpc, ports.client);
    let ready = tokio::spawn(tell_ready(node.handle.clone()));

    tokio::select! {
        () = shutdown => tracing::info!("stopping: taking no new requests"),
        () = node.ending().left() => {}
        () = node.ending().failed() => {}
    }
    ready.abort();
    if !node.ending().has_failed() {
        node.drain();
        tokio::select! {
            () = drained(&node.handle) => {}
            () = node.ending().failed() => {}
        }
    }
    let ending = node.ending().clone();
    // On another thread: a disk that hangs must not keep the process from ending.
    let stopping = tokio::task::spawn_blocking(move || node.stop());
    match tokio::time::timeout(STOP_FOR, stopping).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "stopping has failed"),
        Err(_) => ending.fail("the store did not come to its end in time"),
    }
    // Whoever still waited has been let go, and is told now.
    close.cancel();
    let closed = async {
        let _ = (grpc.await, admin.await);
        if let Some(metrics) = metrics {
            let _ = metrics.await;
        }
    };
    let _ = tokio::time::timeout(CLOSE_FOR, closed).await;
    let reason = ending.reason();
    if reason.is_none() {
        tracing::info!("stopped");
    }
    if let Some(logs) = logs {
        logs.flush().await;
    }
    match reason {
        Some(reason) if ending.comes_back() => Err(ComesBack(reason).into()),
        Some(reason) => Err(Failed(reason).into()),
        None => Ok(()),
    }
}

/// Says so once the node can serve.
async fn tell_ready<W: DataCore, K: ControlCore + Reports>(handle: NodeHandle<W, K>) {
    let start = Instant::now();
    while handle.not_ready().is_some() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let after_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(after_ms, "ready");
}

/// Waits until no request is under way, but not for long.
async fn drained<W: DataCore, K: ControlCore + Reports>(handle: &NodeHandle<W, K>) {
    let start = Instant::now();
    loop {
        // The workers have yet to hear of it when this begins.
        tokio::time::sleep(LOOK_EVERY).await;
        let left = handle.in_flight();
        if left == 0 {
            return;
        }
        if start.elapsed() > DRAIN_FOR {
            return tracing::warn!(left, "requests were still under way; they are cut off");
        }
    }
}
