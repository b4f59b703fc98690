//! The load generator: raw calls over few connections.
//!
//! ```text
//!   client 0 ─┐
//!   client 1 ─┼─▶ connection 0 ─▶ node 0      closed loop: call, wait, record, call …
//!   client 2 ─┼─▶ connection 1 ─▶ node 1      open loop:   see `open`
//!      …      ┘        …
//! ```
//!
//! The generated client is used as it is, without retries. Each client of a closed loop keeps its
//! own; nothing is cloned for a request but the key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::book::{Book, Verified};
use super::draw::{Choice, Distribution, Random};
use super::request::{Data, Kv, Requests, Workload, described};
use super::{cpu, open};
use crate::cli::latency::Latencies;
use crate::proto;

/// Flow-control windows that never stall small values.
const WINDOW_BYTES: u32 = 2 << 20;
/// Clients that write the keys before anything is measured, at least.
const PRELOAD_CLIENTS: usize = 64;
/// Tries to read a key back before it counts as unread.
const READ_BACK_TRIES: u32 = 5;
/// Between two of them.
const READ_BACK_PAUSE: Duration = Duration::from_millis(300);

/// How much load, over what.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Requests under way at a time, in a closed loop.
    pub clients: usize,
    /// Requests a second that are begun whatever becomes of them: an open loop.
    pub rate: Option<f64>,
    /// Connections, spread over the nodes.
    pub connections: usize,
    /// Distinct keys.
    pub keys: usize,
    /// How they are chosen.
    pub distribution: Distribution,
    /// Bytes of every key.
    pub key_bytes: usize,
    /// Bytes of every value.
    pub value_bytes: usize,
    /// Whether what is read is held against what was written.
    pub verify: bool,
    /// Keys of one request.
    pub batch: usize,
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
    /// Keys that those have read or written.
    pub keys: u64,
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
    data: Arc<Data>,
    processes: Vec<u32>,
}

/// What the clients are to do; the numbers of an atomic.
const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

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
        let choice = Choice::new(shape.distribution, shape.keys);
        let book = shape.verify.then(|| Book::new(shape.keys));
        let data = Data::new(shape.keys, shape.key_bytes, shape.value_bytes, choice, book);
        Ok(Self { channels, data: Arc::new(data), processes })
    }

    /// Writes every key once.
    ///
    /// # Errors
    /// If a write fails.
    pub async fn preload(&self, shape: &Shape) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        let clients = shape.clients.max(PRELOAD_CLIENTS);
        for client in 0..clients {
            let (mut kv, data) = (self.kv(client), self.data.clone());
            tasks.spawn(async move {
                for at in (client..data.len()).step_by(clients) {
                    data.set(&mut kv, at, proto::Consistency::Quorum).await?;
                }
                Ok::<(), Status>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done?.context("cannot write the keys that are to be read")?;
        }
        Ok(())
    }

    /// Makes requests as the shape says, and measures them.
    ///
    /// # Errors
    /// If not a single request succeeds.
    pub async fn drive(
        &self,
        shape: &Shape,
        workload: Workload,
        consistency: proto::Consistency,
    ) -> anyhow::Result<Measured> {
        let (data, batch) = (self.data.clone(), shape.batch);
        let requests = Requests { data, workload, consistency, batch };
        let measured = match shape.rate {
            None => self.closed(shape, &requests).await?,
            Some(rate) => {
                let clients: Vec<Kv> = (0..self.channels.len()).map(|i| self.kv(i)).collect();
                let cpu = || cpu::of_all(&self.processes);
                open::drive(&clients, &requests, shape, rate, cpu).await?
            }
        };
        if measured.latencies.count() == 0 {
            let why =
                measured.first_error.unwrap_or_else(|| "none was answered in time".to_owned());
            anyhow::bail!("no request of the benchmark succeeded: {why}");
        }
        Ok(measured)
    }

    async fn closed(&self, shape: &Shape, requests: &Requests) -> anyhow::Result<Measured> {
        let order = Arc::new(AtomicU8::new(WARM_UP));
        let mut tasks = JoinSet::new();
        for client in 0..shape.clients {
            let (kv, order) = (self.kv(client), order.clone());
            let random = Random::new(client as u64);
            tasks.spawn(ClientLoop { kv, requests: requests.clone(), random, order }.run());
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
            all.add(one?);
        }
        Ok(all)
    }

    /// Reads back everything that was acknowledged; none if nothing is verified.
    pub async fn read_back(&self) -> Option<Verified> {
        let book = self.data.book.as_ref()?;
        let mut verified = book.totals();
        let (mut tasks, mut left) = (JoinSet::new(), book.written());
        loop {
            while tasks.len() < PRELOAD_CLIENTS
                && let Some(at) = left.next()
            {
                tasks.spawn(read_back(self.kv(at), self.data.clone(), at));
            }
            match tasks.join_next().await {
                None => return Some(verified),
                Some(Ok(Some((at, key, shown)))) => book.judge(at, &key, &shown, &mut verified),
                // No answer, or none that a task lived to bring.
                Some(Ok(None) | Err(_)) => {
                    verified.keys += 1;
                    verified.unread += 1;
                }
            }
        }
    }

    fn kv(&self, client: usize) -> Kv {
        Kv::new(self.channels[client % self.channels.len()].clone())
    }
}

/// One key and all the values that it shows.
type Shown = (usize, bytes::Bytes, Vec<bytes::Bytes>);

async fn read_back(mut kv: Kv, data: Arc<Data>, at: usize) -> Option<Shown> {
    for attempt in 1..=READ_BACK_TRIES {
        if let Ok((key, shown)) = data.all_of(&mut kv, at).await {
            return Some((at, key.clone(), shown));
        }
        if attempt < READ_BACK_TRIES {
            tokio::time::sleep(READ_BACK_PAUSE).await;
        }
    }
    None
}

impl Measured {
    /// Keys a second; without batches, that is requests.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.keys as f64 / self.span.as_secs_f64()
    }

    /// Processor time of the nodes for each key, in microseconds.
    #[must_use]
    pub fn cpu_micros(&self) -> Option<f64> {
        Some(self.cpu?.as_secs_f64() * 1e6 / self.keys.max(1) as f64)
    }

    /// A latency in microseconds that this part of the requests did not exceed.
    #[must_use]
    pub fn micros(&self, part: f64) -> f64 {
        self.latencies.quantile(part).as_secs_f64() * 1e6
    }

    /// Adds one request.
    pub fn note(&mut self, took: Duration, answer: Result<u64, Status>) {
        match answer {
            Ok(keys) => {
                self.latencies.record(took);
                self.keys += keys;
            }
            Err(status) => self.fail(|| described(&status)),
        }
    }

    /// Adds one request that failed.
    pub fn fail(&mut self, why: impl FnOnce() -> String) {
        self.errors += 1;
        self.first_error.get_or_insert_with(why);
    }

    fn add(&mut self, other: Self) {
        self.latencies.add(&other.latencies);
        self.keys += other.keys;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

struct ClientLoop {
    kv: Kv,
    requests: Requests,
    random: Random,
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
            let answer = self.requests.one(&mut self.kv, &mut self.random).await;
            // Only what began and ended within the span counts.
            if order == MEASURE && self.order.load(Relaxed) == MEASURE {
                measured.note(started.elapsed(), answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::FakeCluster;

    const QUORUM: proto::Consistency = proto::Consistency::Quorum;
    const WORKLOADS: [Workload; 4] =
        [Workload::Get, Workload::Set, Workload::Mixed, Workload::ReadMostly];

    fn shape() -> Shape {
        Shape {
            clients: 8,
            rate: None,
            connections: 4,
            keys: 100,
            distribution: Distribution::Zipfian,
            key_bytes: 16,
            value_bytes: 40,
            verify: false,
            batch: 1,
            warm_up: Duration::from_millis(20),
            measure: Duration::from_millis(100),
        }
    }

    async fn target(fake: &FakeCluster, shape: &Shape) -> Target {
        let own = vec![std::process::id()];
        Target::connect(&fake.addresses(), own, shape).await.unwrap()
    }

    #[tokio::test]
    async fn a_closed_loop_measures_what_succeeds() {
        let (fake, shape) = (FakeCluster::start(3).await, shape());
        let target = target(&fake, &shape).await;
        let get = target.drive(&shape, Workload::Get, QUORUM).await;
        assert!(get.unwrap_err().to_string().contains("absent"));
        target.preload(&shape).await.unwrap();
        for workload in WORKLOADS {
            let measured = target.drive(&shape, workload, proto::Consistency::One).await.unwrap();
            assert_eq!(measured.errors, 0, "{:?}", measured.first_error);
            assert!(measured.rate() > 100.0);
        }
        assert_eq!(target.read_back().await, None);
    }

    #[tokio::test]
    async fn batches_are_counted_by_their_keys() {
        let (fake, shape) = (FakeCluster::start(3).await, Shape { batch: 10, ..shape() });
        let target = target(&fake, &shape).await;
        target.preload(&shape).await.unwrap();
        let measured = target.drive(&shape, Workload::Get, QUORUM).await.unwrap();
        assert_eq!(measured.errors, 0, "{:?}", measured.first_error);
        assert_eq!(measured.keys, 10 * measured.latencies.count());
        let measured = target.drive(&shape, Workload::Set, QUORUM).await.unwrap();
        assert_eq!(measured.errors, 0, "{:?}", measured.first_error);
        // A key that was drawn twice is written once.
        assert!(measured.keys < 10 * measured.latencies.count(), "{measured:?}");
        fake.lose(b"bench-0000000000").unwrap();
        let measured = target.drive(&shape, Workload::Get, QUORUM).await.unwrap();
        assert!(measured.first_error.unwrap().contains("of a batch was not read"));
    }

    #[tokio::test]
    async fn an_open_loop_begins_as_many_requests_as_it_was_told_to() {
        let fake = FakeCluster::start(3).await;
        let measure = Duration::from_millis(500);
        let shape = Shape { rate: Some(400.0), measure, ..shape() };
        let target = target(&fake, &shape).await;
        target.preload(&shape).await.unwrap();
        let measured = target.drive(&shape, Workload::Mixed, QUORUM).await.unwrap();
        assert_eq!(measured.errors, 0, "{:?}", measured.first_error);
        // 200 are expected, with a deviation of 14.
        let count = measured.latencies.count();
        assert!((130..=270).contains(&count), "{count}");
    }

    #[tokio::test]
    async fn a_store_that_loses_or_changes_a_write_is_found_out() {
        let (fake, shape) = (FakeCluster::start(3).await, Shape { verify: true, ..shape() });
        let target = target(&fake, &shape).await;
        target.preload(&shape).await.unwrap();
        let measured = target.drive(&shape, Workload::Mixed, QUORUM).await.unwrap();
        assert_eq!(measured.errors, 0, "{:?}", measured.first_error);
        let sound = target.read_back().await.unwrap();
        assert!(sound.holds() && sound.keys == 100 && sound.acknowledged > 100, "{sound:?}");

        fake.lose(b"bench-0000000007").unwrap();
        let after = target.read_back().await.unwrap();
        assert_eq!((after.lost, after.wrong), (1, 0), "{after:?}");
        let other = fake.value(b"bench-0000000001").unwrap();
        fake.put(b"bench-0000000007", other);
        let after = target.read_back().await.unwrap();
        assert_eq!((after.lost, after.wrong), (0, 1), "{after:?}");
        let measured = target.drive(&shape, Workload::Get, QUORUM).await.unwrap();
        assert!(measured.errors > 0);
        assert!(measured.first_error.unwrap().contains("another key"));
    }
}
