//! The demo's load: writers that remember every answer.
//!
//! ```text
//!   writer w: load its share of the records, then, paced: get | set new key | overwrite own key
//!                                                                          │
//!                            every attempt ─▶ History: acknowledged · unknown · refused
//! ```
//!
//! Each key has one writer, which waits for one answer before it makes the next attempt: that is
//! what [`super::verdict`] builds on. All choices come from the seed and the writer's number, none
//! from the answers, so that a seed repeats them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use tokio::task::JoinSet;

use super::measure::{Measure, PHASES, Phase};
use super::text;
use super::verdict::{Attempt, Fate, Histories};
use crate::client::{Client, ErrorKind, ReadOptions, WriteOptions};

/// Writers, and so requests under way at a time: enough for overlap, few enough for two cores.
pub const WRITERS: usize = 32;
/// Keys that each writer overwrites again and again.
const OWN_KEYS: usize = 40;

/// What writers share with whoever directs them.
#[derive(Default)]
pub struct Direction {
    phase: AtomicU8,
    stop: AtomicBool,
    /// Requests answered so far, failures among them.
    pub requests: AtomicU64,
    /// Records acknowledged by the loading so far.
    pub loaded: AtomicU64,
    /// The first failure that a client saw.
    pub first_failure: std::sync::OnceLock<String>,
}

/// What a writer hands back.
#[derive(Default)]
pub struct Log {
    /// Of every key.
    pub histories: Histories,
    /// Of every phase.
    pub measures: [Measure; PHASES],
}

struct Writer {
    number: usize,
    seed: u64,
    random: ChaCha8Rng,
    client: Client,
    direction: Arc<Direction>,
    began: Instant,
    keys: Vec<Vec<u8>>,
    own: Vec<OwnKey>,
    new_keys: usize,
    log: Log,
}

/// A key that is overwritten with the context of the write before.
#[derive(Default)]
struct OwnKey {
    key: Vec<u8>,
    context: Bytes,
    sequence: usize,
}

impl Direction {
    /// What is done from now on belongs to this phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Writers end with the request that they are at.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}

/// The writers, under way.
pub struct Load {
    tasks: JoinSet<Writer>,
    writers: Vec<Writer>,
    /// What is shared with them.
    pub direction: Arc<Direction>,
}

impl Load {
    /// Writers that have done nothing yet. `client` knows all nodes.
    #[must_use]
    pub fn new(seed: u64, client: &Client) -> Self {
        let direction = Arc::new(Direction::default());
        let writer = |number| Writer::new(number, seed, client.clone(), direction.clone());
        Self { tasks: JoinSet::new(), writers: (0..WRITERS).map(writer).collect(), direction }
    }

    /// Starts loading `records` records.
    pub fn start_loading(&mut self, records: usize) {
        for mut writer in self.writers.drain(..) {
            self.tasks.spawn(async move {
                writer.load(records).await;
                writer
            });
        }
    }

    /// Starts the mixed load, `rate` requests a second in all; 0: as fast as it goes.
    pub fn start_mixed(&mut self, rate: u32) {
        let pace = Duration::from_secs(1).mul_f64(WRITERS as f64);
        let pace = (rate > 0).then(|| pace / rate);
        for mut writer in self.writers.drain(..) {
            self.tasks.spawn(async move {
                writer.mix(pace).await;
                writer
            });
        }
    }

    /// Waits until all writers are done with what was started.
    ///
    /// # Errors
    /// If one of them failed in a way that is a defect of the demo.
    pub async fn join(&mut self) -> anyhow::Result<()> {
        while let Some(writer) = self.tasks.join_next().await {
            self.writers.push(writer?);
        }
        self.writers.sort_by_key(|writer| writer.number);
        Ok(())
    }

    /// What all writers together have seen.
    #[must_use]
    pub fn log(self) -> Log {
        let mut all = Log::default();
        for writer in self.writers {
            // Keys carry the writer's number: no two writers have one in common.
            all.histories.extend(writer.log.histories);
            for (sum, own) in all.measures.iter_mut().zip(&writer.log.measures) {
                sum.add(own);
            }
        }
        all
    }
}

impl Writer {
    fn new(number: usize, seed: u64, client: Client, direction: Arc<Direction>) -> Self {
        let random = text::generator(seed, &format!("writer/{number}"));
        let own = |at| OwnKey {
            key: text::key(seed, &format!("overwritten/w{number:02}"), at),
            ..OwnKey::default()
        };
        Self {
            number,
            seed,
            random,
            client,
            direction,
            began: Instant::now(),
            keys: Vec::new(),
            own: (0..OWN_KEYS).map(own).collect(),
            new_keys: 0,
            log: Log::default(),
        }
    }

    async fn load(&mut self, records: usize) {
        for number in (self.number..records).step_by(WRITERS) {
            let key = text::key(self.seed, "loaded", number);
            if self.write(&key, 0, Bytes::new()).await.is_some() {
                self.direction.loaded.fetch_add(1, Relaxed);
            }
            self.keys.push(key);
        }
        // The loading is not part of what is compared.
        self.log.measures = Default::default();
    }

    async fn mix(&mut self, pace: Option<Duration>) {
        let first = pace.unwrap_or_default().mul_f64(self.number as f64 / WRITERS as f64);
        let mut next = tokio::time::Instant::now() + first;
        while !self.direction.stop.load(Relaxed) {
            if let Some(pace) = pace {
                tokio::time::sleep_until(next).await;
                // Whoever is late does not catch up: the rate is a ceiling.
                next = (next + pace).max(tokio::time::Instant::now());
            }
            match text::below(&mut self.random, 4) {
                0 | 1 => self.read().await,
                2 => self.write_new().await,
                _ => self.overwrite().await,
            }
            self.direction.requests.fetch_add(1, Relaxed);
        }
    }

    async fn read(&mut self) {
        let at = text::below(&mut self.random, self.keys.len() + self.own.len());
        let key = self.keys.get(at).unwrap_or_else(|| &self.own[at - self.keys.len()].key);
        let started = Instant::now();
        let answer = self.client.get(key.clone()).await;
        match answer {
            Ok(_) => self.measure().gets.record(started.elapsed()),
            Err(error) => self.failed(&error),
        }
    }

    async fn write_new(&mut self) {
        let key = text::key(self.seed, &format!("new/w{:02}", self.number), self.new_keys);
        self.new_keys += 1;
        self.write(&key, 0, Bytes::new()).await;
        self.keys.push(key);
    }

    async fn overwrite(&mut self) {
        let at = text::below(&mut self.random, self.own.len());
        let OwnKey { key, context, sequence } = std::mem::take(&mut self.own[at]);
        let context = self.write(&key, sequence, context.clone()).await.unwrap_or(context);
        self.own[at] = OwnKey { key, context, sequence: sequence + 1 };
    }

    /// One write. Returns the context for the next one of the key, if there is a new one.
    async fn write(&mut self, key: &[u8], sequence: usize, context: Bytes) -> Option<Bytes> {
        let value = text::value(self.seed, key, sequence);
        let mut attempt = Attempt {
            value: xxhash_rust::xxh3::xxh3_64(&value),
            fate: Fate::Acknowledged,
            dot: String::new(),
            at_ms: u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX),
        };
        let request_id = Some(text::request_id(&mut self.random));
        let options = WriteOptions { context, request_id, ..WriteOptions::default() };
        let started = Instant::now();
        let answer = self.client.set_with(key.to_vec(), value, &options).await;
        let context = match answer {
            Ok(written) => {
                self.measure().sets.record(started.elapsed());
                attempt.dot = written.receipt.dot;
                Some(written.context)
            }
            Err(error) => {
                let known = error.outcome_is_known();
                attempt.fate = if known { Fate::Refused } else { Fate::Unknown };
                if error.kind() == ErrorKind::Refused && known {
                    // Siblings that the context has not seen: an attempt that was given up has
                    // taken place after all. Read them all and go on from there.
                    self.context_of_all(key).await
                } else {
                    self.failed(&error);
                    None
                }
            }
        };
        self.log.histories.entry(key.to_vec()).or_default().push(attempt);
        context
    }

    async fn context_of_all(&mut self, key: &[u8]) -> Option<Bytes> {
        let all = ReadOptions { all_siblings: true, ..ReadOptions::default() };
        let read = self.client.get_with(key.to_vec(), &all).await;
        read.ok().map(|reading| reading.context)
    }

    fn measure(&mut self) -> &mut Measure {
        &mut self.log.measures[usize::from(self.direction.phase.load(Relaxed))]
    }

    fn failed(&mut self, error: &crate::client::Error) {
        self.measure().failed += 1;
        let _ = self.direction.first_failure.set(error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::FakeCluster;
    use crate::client::Options;

    async fn run(seed: u64) -> Log {
        let fake = FakeCluster::start(2).await;
        let client = Client::connect(fake.addresses(), Options::default()).unwrap();
        let mut load = Load::new(seed, &client);
        load.start_loading(100);
        load.join().await.unwrap();
        assert_eq!(load.direction.loaded.load(Relaxed), 100);
        load.start_mixed(2_000);
        tokio::time::sleep(Duration::from_millis(300)).await;
        load.direction.stop();
        load.join().await.unwrap();
        load.log()
    }

    #[tokio::test]
    async fn every_write_is_remembered_and_a_seed_repeats_the_choices() {
        let (one, two) = (run(7).await, run(7).await);
        assert!(one.measures[0].done() > 50, "{}", one.measures[0].done());
        let loaded = |log: &Log| {
            let of_load = |key: &&Vec<u8>| key.starts_with(b"demo/loaded/");
            log.histories.keys().filter(of_load).cloned().collect::<Vec<_>>()
        };
        assert_eq!(loaded(&one).len(), 100);
        assert_eq!(loaded(&one), loaded(&two));
        // The runs differ in length only: what both attempted is the same.
        for (key, history) in &one.histories {
            let Some(other) = two.histories.get(key) else { continue };
            for (a, b) in history.attempts().iter().zip(other.attempts()) {
                assert_eq!(a.value, b.value);
            }
        }
    }
}
