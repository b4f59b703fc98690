//! The load generator: raw calls over few connections, closed loop.
//!
//! ```text
//!   client 0 ─┐
//!   client 1 ─┼─▶ connection 0 ─▶ node 0      each client: call, wait, record, call …
//!   client 2 ─┼─▶ connection 1 ─▶ node 1
//!      …      ┘        …
//! ```
//!
//! The generated client is used as it is, without retries, so that the same stack drives our nodes
//! and the bare echo servers that they are compared with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use clap::ValueEnum;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::cpu;
use crate::cli::latency::Latencies;
use crate::proto;
use crate::proto::kv_client::KvClient;

/// Bytes of every key.
const KEY_BYTES: usize = 16;
/// Flow-control windows that never stall a closed loop of small values.
const WINDOW_BYTES: u32 = 2 << 20;

/// Which requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Reads.
    Get,
    /// Writes over existing keys.
    Set,
    /// Half reads, half writes.
    Mixed,
    /// 95 % reads, 5 % writes.
    ReadMostly,
}

/// How much load, over what.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Requests under way at a time.
    pub clients: usize,
    /// Connections, spread over the nodes.
    pub connections: usize,
    /// Distinct keys, chosen uniformly.
    pub keys: usize,
    /// Bytes of every value.
    pub value_bytes: usize,
    /// Before anything is measured.
    pub warm_up: Duration,
    /// What is measured.
    pub measure: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Of all requests that succeeded.
    pub latencies: Latencies,
    /// How long it was measured.
    pub span: Duration,
    /// Requests that failed.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<String>,
    /// Processor time of the nodes, if they are processes of ours.
    pub cpu: Option<Duration>,
}

/// Connections to the nodes, and the keys.
pub struct Target {
    channels: Vec<Channel>,
    keys: Arc<Vec<Bytes>>,
    processes: Vec<u32>,
}

/// What the clients are to do; the numbers of an atomic.
const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

impl Workload {
    /// As a table shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Mixed => "50/50",
            Self::ReadMostly => "95/5",
        }
    }

    fn reads_percent(self) -> u64 {
        match self {
            Self::Get => 100,
            Self::Set => 0,
            Self::Mixed => 50,
            Self::ReadMostly => 95,
        }
    }
}

impl Target {
    /// Connects to the nodes at `addresses`, whose processes are `processes` if they are ours.
    ///
    /// # Errors
    /// If one cannot be connected to.
    pub async fn connect(
        addresses: &[String],
        processes: Vec<u32>,
        shape: &Shape,
    ) -> anyhow::Result<Self> {
        let mut channels = Vec::new();
        for connection in 0..shape.connections.max(1) {
            let address = &addresses[connection % addresses.len()];
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?
                .connect_timeout(Duration::from_secs(3))
                .tcp_nodelay(true)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES);
            let channel = endpoint.connect().await;
            channels.push(channel.with_context(|| {
                format!("cannot connect to {address}: is a node listening for clients there?")
            })?);
        }
        Ok(Self { channels, keys: keys(shape.keys), processes })
    }

    /// Writes every key once.
    ///
    /// # Errors
    /// If a write fails.
    pub async fn preload(&self, shape: &Shape) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        let clients = shape.clients.max(64);
        for client in 0..clients {
            let mut kv = self.kv(client);
            let (keys, value) = (self.keys.clone(), value(shape.value_bytes));
            tasks.spawn(async move {
                for key in keys.iter().skip(client).step_by(clients) {
                    set(&mut kv, key, &value, proto::Consistency::Quorum).await?;
                }
                Ok::<(), Status>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done?.context("cannot write the keys that are to be read")?;
        }
        Ok(())
    }

    /// Runs a closed loop of `shape.clients` clients.
    ///
    /// # Errors
    /// If not a single request succeeds.
    pub async fn drive(
        &self,
        shape: &Shape,
        workload: Workload,
        consistency: proto::Consistency,
    ) -> anyhow::Result<Measured> {
        let order = Arc::new(AtomicU8::new(WARM_UP));
        let mut tasks = JoinSet::new();
        for client in 0..shape.clients {
            let looped = ClientLoop {
                kv: self.kv(client),
                keys: self.keys.clone(),
                value: value(shape.value_bytes),
                reads_percent: workload.reads_percent(),
                consistency,
                random: client as u64,
                order: order.clone(),
            };
            tasks.spawn(looped.run());
        }
        tokio::time::sleep(shape.warm_up).await;
        let (cpu, started) = (cpu::of_all(&self.processes), Instant::now());
        order.store(MEASURE, Relaxed);
        tokio::time::sleep(shape.measure).await;
        order.store(STOP, Relaxed);
        let span = started.elapsed();
        let cpu = cpu.zip(cpu::of_all(&self.processes)).map(|(from, to)| to.saturating_sub(from));
        let mut all = Measured { span, cpu, ..Measured::default() };
        while let Some(one) = tasks.join_next().await {
            let one = one?;
            all.latencies.add(&one.latencies);
            all.errors += one.errors;
            all.first_error = all.first_error.or(one.first_error);
        }
        if all.latencies.count() == 0 {
            let why = all.first_error.unwrap_or_else(|| "none was answered in time".to_owned());
            anyhow::bail!("no request of the benchmark succeeded: {why}");
        }
        Ok(all)
    }

    fn kv(&self, client: usize) -> KvClient<Channel> {
        KvClient::new(self.channels[client % self.channels.len()].clone())
    }
}

impl Measured {
    /// Requests a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latencies.count() as f64 / self.span.as_secs_f64()
    }

    /// Processor time of the nodes for each request, in microseconds.
    #[must_use]
    pub fn cpu_micros(&self) -> Option<f64> {
        Some(self.cpu?.as_secs_f64() * 1e6 / self.latencies.count().max(1) as f64)
    }
}

struct ClientLoop {
    kv: KvClient<Channel>,
    keys: Arc<Vec<Bytes>>,
    value: Bytes,
    reads_percent: u64,
    consistency: proto::Consistency,
    random: u64,
    order: Arc<AtomicU8>,
}

impl ClientLoop {
    async fn run(mut self) -> Measured {
        let mut measured = Measured::default();
        loop {
            let order = self.order.load(Relaxed);
            if order == STOP {
                return measured;
            }
            let started = Instant::now();
            let answer = self.request().await;
            // Only what began and ended within the span counts.
            if order != MEASURE || self.order.load(Relaxed) != MEASURE {
                continue;
            }
            match answer {
                Ok(()) => measured.latencies.record(started.elapsed()),
                Err(status) => {
                    measured.errors += 1;
                    let text = || format!("{:?}: {}", status.code(), status.message());
                    measured.first_error.get_or_insert_with(text);
                }
            }
        }
    }

    async fn request(&mut self) -> Result<(), Status> {
        let random = self.next_random();
        let at = ((random >> 32) % self.keys.len() as u64) as usize;
        let key = &self.keys[at];
        if random % 100 < self.reads_percent {
            get(&mut self.kv, key, self.consistency).await
        } else {
            set(&mut self.kv, key, &self.value, self.consistency).await
        }
    }

    /// `SplitMix64`: a few instructions, and good enough to choose keys.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

async fn get(
    kv: &mut KvClient<Channel>,
    key: &Bytes,
    consistency: proto::Consistency,
) -> Result<(), Status> {
    let consistency = consistency.into();
    let request =
        proto::GetRequest { key: key.clone(), consistency, strict: false, all_siblings: false };
    let answer = kv.get(request).await?.into_inner();
    if answer.found { Ok(()) } else { Err(Status::not_found("a key that was written is absent")) }
}

async fn set(
    kv: &mut KvClient<Channel>,
    key: &Bytes,
    value: &Bytes,
    consistency: proto::Consistency,
) -> Result<(), Status> {
    let request = proto::SetRequest {
        key: key.clone(),
        value: value.clone(),
        consistency: consistency.into(),
        ..proto::SetRequest::default()
    };
    kv.set(request).await.map(drop)
}

fn keys(count: usize) -> Arc<Vec<Bytes>> {
    let key = |number: usize| Bytes::from(format!("bench-{number:0width$}", width = KEY_BYTES - 6));
    Arc::new((0..count.max(1)).map(key).collect())
}

fn value(bytes: usize) -> Bytes {
    Bytes::from(vec![b'v'; bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::FakeCluster;

    #[test]
    fn keys_have_sixteen_bytes() {
        assert!(keys(20_000).iter().all(|key| key.len() == KEY_BYTES));
    }

    #[tokio::test]
    async fn a_closed_loop_measures_what_succeeds() {
        let fake = FakeCluster::start(3).await;
        let shape = Shape {
            clients: 8,
            connections: 4,
            keys: 100,
            value_bytes: 10,
            warm_up: Duration::from_millis(20),
            measure: Duration::from_millis(100),
        };
        let own = vec![std::process::id()];
        let target = Target::connect(&fake.addresses(), own, &shape).await.unwrap();
        let get = target.drive(&shape, Workload::Get, proto::Consistency::Quorum).await;
        assert!(get.unwrap_err().to_string().contains("absent"));
        target.preload(&shape).await.unwrap();
        for workload in [Workload::Get, Workload::Set, Workload::Mixed, Workload::ReadMostly] {
            let measured = target.drive(&shape, workload, proto::Consistency::One).await.unwrap();
            assert_eq!(measured.errors, 0, "{:?}", measured.first_error);
            assert!(measured.rate() > 100.0);
        }
    }
}
