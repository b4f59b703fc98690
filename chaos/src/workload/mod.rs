//! What clients do. Each does one thing after the other; all choices come from the seed and the
//! client's number, so that a seed repeats them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::caller::{Called, Caller, Change, Nodes, Subject, values};
use crate::history::Recorder;
use crate::scenario::WorkloadKind;

/// Keys that all clients add to at a time: few, so that they meet.
const CARTS: u64 = 8;
/// Additions that are tried before clients go on to other carts, which bounds their values.
const ADDITIONS: u64 = 60 * CARTS;
/// Keys of the shared register.
const REGISTERS: u64 = 4;
/// Keys that all clients overwrite.
const OVERWRITTEN: u64 = 16;
/// Of a hundred operations on registers and sessions, how many write.
const WRITES_PERCENT: u64 = 40;
/// Of a hundred operations on unique keys, how many write.
const NEW_PERCENT: u64 = 70;

/// What clients share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    additions: AtomicU64,
}

/// The clients, under way.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

/// How much is done, and of what.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Clients.
    pub clients: u32,
    /// Operations a second that all together try at most.
    pub rate: u32,
    /// Which workloads, and how often each.
    pub weights: BTreeMap<WorkloadKind, u32>,
    /// For all choices.
    pub seed: u64,
}

struct Worker {
    number: u32,
    caller: Caller,
    shared: Arc<Shared>,
    random: ChaCha8Rng,
    weights: Vec<(WorkloadKind, u32)>,
    counts: BTreeMap<WorkloadKind, u64>,
    written: Vec<String>,
    /// A key that was written and is to be deleted, with its context.
    doomed: Option<(String, Bytes)>,
}

impl Load {
    /// Starts the clients.
    pub fn start(mix: &Mix, nodes: &Arc<Nodes>, recorder: &Arc<Recorder>) -> Self {
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        let pace = Duration::from_secs(1).mul_f64(f64::from(mix.clients) / f64::from(mix.rate));
        for number in 0..mix.clients {
            let worker = Worker {
                number,
                caller: Caller::new(nodes.clone(), recorder.clone(), number),
                shared: shared.clone(),
                random: ChaCha8Rng::seed_from_u64(mix.seed ^ (u64::from(number) << 32)),
                weights: mix.weights.iter().map(|(kind, weight)| (*kind, *weight)).collect(),
                counts: BTreeMap::new(),
                written: Vec::new(),
                doomed: None,
            };
            let first = pace.mul_f64(f64::from(number) / f64::from(mix.clients));
            clients.spawn(worker.run(first, pace));
        }
        Self { shared, clients }
    }

    /// Lets every client end what it is at.
    ///
    /// # Errors
    /// If one of them panicked, which is a defect of the harness.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shared.stop.store(true, Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended?;
        }
        Ok(())
    }
}

impl Worker {
    async fn run(mut self, first: Duration, pace: Duration) {
        let mut next = tokio::time::Instant::now() + first;
        while !self.shared.stop.load(Relaxed) {
            tokio::time::sleep_until(next).await;
            // Whoever is late does not catch up: the rate is a ceiling.
            next = (next + pace).max(tokio::time::Instant::now());
            match self.choose() {
                WorkloadKind::Set => self.set().await,
                WorkloadKind::Cart => self.cart().await,
                WorkloadKind::Register => self.register().await,
                WorkloadKind::Session => self.session().await,
                WorkloadKind::Overwrite => self.overwrite().await,
                WorkloadKind::Delete => self.delete().await,
            }
        }
    }

    fn choose(&mut self) -> WorkloadKind {
        let sum: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.random_range(0..sum);
        for (kind, weight) in &self.weights {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        unreachable!("{at} lies beyond all weights")
    }

    /// How often this workload was chosen before.
    fn count(&mut self, kind: WorkloadKind) -> u64 {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        *count
    }

    fn percent(&mut self) -> u64 {
        self.random.random_range(0..100)
    }

    fn change(&mut self, value: Option<String>, context: Bytes) -> Change {
        let mut request_id = [0; 16];
        self.random.fill_bytes(&mut request_id);
        Change { value, context, request_id }
    }

    async fn set(&mut self) {
        let (percent, number) = (self.percent(), self.count(WorkloadKind::Set));
        if percent >= NEW_PERCENT && !self.written.is_empty() {
            let at = self.random.random_range(0..self.written.len());
            let key = self.written[at].clone();
            let subject = Subject { workload: WorkloadKind::Set, key: &key, strict: false };
            self.caller.read(&subject).await;
            return;
        }
        let key = format!("set/{}/{number}", self.number);
        let subject = Subject { workload: WorkloadKind::Set, key: &key, strict: false };
        let change = self.change(Some(format!("{number}@{key}")), Bytes::new());
        self.caller.write(&subject, &change).await;
        self.written.push(key);
    }

    async fn cart(&mut self) {
        let generation = self.shared.additions.fetch_add(1, Relaxed) / ADDITIONS;
        let key = format!("cart/{generation}/{}", self.random.random_range(0..CARTS));
        let subject = Subject { workload: WorkloadKind::Cart, key: &key, strict: false };
        let count = self.count(WorkloadKind::Cart);
        let token = format!("{}-{count}", self.number);
        let Called::Ok(reading) = self.caller.read(&subject).await else { return };
        let siblings = values(&reading);
        let mut union: BTreeSet<&str> = siblings.iter().flat_map(|value| tokens(value)).collect();
        union.insert(&token);
        let value = union.into_iter().collect::<Vec<_>>().join(" ");
        let change = self.change(Some(value), reading.context);
        self.caller.write(&subject, &change).await;
    }

    async fn register(&mut self) {
        let (percent, number) = (self.percent(), self.count(WorkloadKind::Register));
        let key = format!("register/{}", self.random.random_range(0..REGISTERS));
        let subject = Subject { workload: WorkloadKind::Register, key: &key, strict: true };
        if percent < WRITES_PERCENT {
            let change = self.change(Some(format!("{}-{number}", self.number)), Bytes::new());
            self.caller.write(&subject, &change).await;
        } else {
            self.caller.read(&subject).await;
        }
    }

    async fn session(&mut self) {
        let percent = self.percent();
        let key = format!("session/{}", self.number);
        let subject = Subject { workload: WorkloadKind::Session, key: &key, strict: true };
        if percent < WRITES_PERCENT {
            let number = self.count(WorkloadKind::Session);
            let change = self.change(Some(format!("{number}@{key}")), Bytes::new());
            self.caller.write(&subject, &change).await;
        } else {
            self.caller.read(&subject).await;
        }
    }

    async fn overwrite(&mut self) {
        let number = self.count(WorkloadKind::Overwrite);
        let key = format!("overwrite/{}", self.random.random_range(0..OVERWRITTEN));
        let subject = Subject { workload: WorkloadKind::Overwrite, key: &key, strict: false };
        let change = self.change(Some(format!("{}-{number}", self.number)), Bytes::new());
        self.caller.write(&subject, &change).await;
    }

    /// Writes a key, and the next time deletes it: so a fault may come between the two.
    async fn delete(&mut self) {
        if let Some((key, context)) = self.doomed.take() {
            let subject = Subject { workload: WorkloadKind::Delete, key: &key, strict: false };
            let change = self.change(None, context);
            self.caller.write(&subject, &change).await;
            return;
        }
        let count = self.count(WorkloadKind::Delete);
        let key = format!("delete/{}/{count}", self.number);
        let subject = Subject { workload: WorkloadKind::Delete, key: &key, strict: false };
        let change = self.change(Some(format!("doomed@{key}")), Bytes::new());
        if let Called::Ok(context) = self.caller.write(&subject, &change).await {
            self.doomed = Some((key, context));
        }
    }
}

/// The tokens of a cart.
pub fn tokens(value: &str) -> impl Iterator<Item = &str> {
    value.split(' ').filter(|token| !token.is_empty())
}
