//! A load of unique keys, and the proof afterwards that nothing acknowledged was lost.
//!
//! ```text
//!   writer ─▶ set own/key/n, request id ─▶ acknowledged? ─▶ history ─▶ read from each node
//!      └────▶ get of one of its own acknowledged keys: must be what was written
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coterie::client::{Client, Consistency, Error, Options, ReadOptions, WriteOptions};
use coterie::proto::Receipt;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, LOOK_EVERY};

/// Writers at a time.
const WRITERS: usize = 12;
/// What each pauses after a write and a read: the processors are not to be the limit.
const PAUSE: Duration = Duration::from_millis(15);
/// Reads under way at a time when the history is verified.
const READERS: usize = 24;
/// Tries of one read: a node that has just started may still be finding its peers.
const READ_TRIES: u32 = 5;
/// After a read of all replicas, every replica holds everything within this.
const REPAIR_WITHIN: Duration = Duration::from_secs(20);

/// What a request was, and how it ended.
#[derive(Clone, Debug)]
pub struct Request {
    pub key: String,
    pub writes: bool,
    pub began: Instant,
    pub took: Duration,
    pub fate: Fate,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Acknowledged,
    /// An error; whether it took place may be unknown.
    Failed(String),
    /// A read that did not show what had been acknowledged before, and was promised to.
    Wrong(String),
    /// A read that did not show a write that counted a hint: its homes may be behind the hint for a time.
    Hidden(String),
}

/// Writers under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    writers: JoinSet<Vec<Request>>,
}

/// Every request of a load.
pub struct History {
    pub requests: Vec<Request>,
}

/// How clients of the load behave: they try each request once more, elsewhere.
pub fn once_more_elsewhere() -> Options {
    Options { attempts: 2, ..Options::default() }
}

/// How clients behave where a node is killed that others pass to: for some milliseconds it may be the one that is asked,
/// and the home that the next one passes the same write to.
pub fn twice_more_elsewhere() -> Options {
    Options { attempts: 3, ..Options::default() }
}

/// How clients behave that outlast a time without a quorum.
pub fn patient() -> Options {
    Options { attempts: 8, ..Options::default() }
}

/// What is written under a key: of various lengths, and never the same for two keys.
pub fn value_of(key: &str) -> Vec<u8> {
    let length = key.bytes().map(usize::from).sum::<usize>() % 700;
    format!("{key}={}", "v".repeat(length)).into_bytes()
}

/// The same for every attempt of a key's write.
fn request_id(key: &str) -> [u8; 16] {
    xxhash_rust::xxh3::xxh3_128(key.as_bytes()).to_be_bytes()
}

impl Load {
    /// Starts writers whose keys begin with `tag`.
    pub fn start(client: &Client, tag: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let prefix = format!("{tag}/{writer}");
            writers.spawn(write(client.clone(), prefix, stop.clone(), acknowledged.clone()));
        }
        Self { stop, acknowledged, writers }
    }

    /// Waits until so many more writes have been acknowledged.
    pub async fn progress(&self, more: usize) {
        progress(&self.acknowledged, more).await;
    }

    /// Lets the requests under way end.
    pub async fn stop(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let mut requests = Vec::new();
        while let Some(writer) = self.writers.join_next().await {
            requests.extend(writer.unwrap());
        }
        requests.sort_by_key(|request| request.began);
        History { requests }
    }
}

/// Waits until so many more requests of a load have been acknowledged.
pub async fn progress(acknowledged: &AtomicUsize, more: usize) {
    let (began, before) = (Instant::now(), acknowledged.load(Ordering::Relaxed));
    while acknowledged.load(Ordering::Relaxed) < before + more {
        assert!(began.elapsed() < Duration::from_secs(60), "the load does not go on");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn write(
    client: Client,
    prefix: String,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    let mut held: Vec<Held> = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{prefix}/{number}");
        let id = Some(request_id(&key));
        let options = WriteOptions { request_id: id, ..WriteOptions::default() };
        let began = Instant::now();
        let written = client.set_with(key.clone(), value_of(&key), &options).await;
        let fate = match written {
            Ok(written) => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                let (key, receipt, at) = (key.clone(), written.receipt, Instant::now());
                held.push(Held { key, receipt, took: began.elapsed(), at });
                Fate::Acknowledged
            }
            Err(error) => Fate::Failed(error.to_string()),
        };
        requests.push(Request { key, writes: true, began, took: began.elapsed(), fate });
        // An old one or the newest, by turns.
        let old = held.get(number * 7919 % held.len().max(1));
        if let Some(held) = if number % 2 == 0 { old } else { held.last() } {
            let (key, began) = (held.key.clone(), Instant::now());
            let got = client.get(key.clone()).await.map(|got| got.map(|got| got.value));
            let fate = match got {
                Ok(None) => held.missed(began),
                got => judge(&key, got),
            };
            requests.push(Request { key, writes: false, began, took: began.elapsed(), fate });
        }
        tokio::time::sleep(PAUSE).await;
    }
    requests
}

/// An acknowledged write.
struct Held {
    key: String,
    receipt: Receipt,
    took: Duration,
    at: Instant,
}

impl Held {
    /// What it means that a read found nothing, by what the write had reached.
    fn missed(&self, read: Instant) -> Fate {
        let Self { key, receipt, took, .. } = self;
        let ago = read.duration_since(self.at);
        let what = format!(
            "{key} is not found, acknowledged {ago:.1?} before, after {took:.1?}: {receipt:?}"
        );
        if receipt.hints.is_empty() { Fate::Wrong(what) } else { Fate::Hidden(what) }
    }
}

/// What a read of an acknowledged key means.
fn judge(key: &str, read: Result<Option<bytes::Bytes>, Error>) -> Fate {
    match read {
        Ok(Some(value)) if value == value_of(key) => Fate::Acknowledged,
        Ok(Some(_)) => Fate::Wrong(format!("{key} has another value")),
        Ok(None) => Fate::Wrong(format!("{key} is not found")),
        Err(error) => Fate::Failed(format!("{key}: {error}")),
    }
}

impl History {
    /// Keys whose writes were acknowledged.
    pub fn acknowledged(&self) -> Vec<String> {
        let written = self.requests.iter().filter(|r| r.writes && r.fate == Fate::Acknowledged);
        written.map(|request| request.key.clone()).collect()
    }

    /// Requests that ended in an error, with when they had begun after `since`.
    pub fn failures(&self, since: Instant) -> Vec<String> {
        let failed = self.requests.iter().filter_map(|request| match &request.fate {
            Fate::Failed(why) => {
                let what = if request.writes { "set" } else { "get" };
                let at = request.began.saturating_duration_since(since);
                Some(format!(
                    "{what} {} at {at:.1?}, took {:.1?}: {why}",
                    request.key, request.took
                ))
            }
            Fate::Acknowledged | Fate::Wrong(_) | Fate::Hidden(_) => None,
        });
        failed.collect()
    }

    /// No request has failed.
    pub fn assert_no_failure(&self, since: Instant) {
        let failures = self.failures(since);
        assert!(failures.is_empty(), "{} requests failed: {:#?}", failures.len(), {
            failures.iter().take(5).collect::<Vec<_>>()
        });
    }

    /// The time that a part of the requests stayed below, of those begun within a span, and how
    /// many those are.
    pub fn quantile(&self, from: Instant, to: Instant, part: f64) -> (Duration, usize) {
        let begun = self.requests.iter().filter(|r| (from..to).contains(&r.began));
        let mut took: Vec<Duration> = begun.map(|request| request.took).collect();
        took.sort();
        let last = took.len().saturating_sub(1) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let at = (last * part).ceil() as usize;
        (took.get(at).copied().unwrap_or_default(), took.len())
    }

    /// No read was wrong meanwhile, and each node that runs shows every acknowledged write.
    pub async fn assert_nothing_lost(&self, cluster: &Cluster) {
        let wrong = self.wrong();
        assert!(wrong.is_empty(), "wrong answers under load: {wrong:#?}");
        let hidden = self.requests.iter().filter(|r| matches!(r.fate, Fate::Hidden(_)));
        hidden.for_each(|request| println!("hidden for a time: {:?}", request.fate));
        self.assert_all_there(cluster).await;
    }

    /// Reads that did not show what had been acknowledged before them.
    pub fn wrong(&self) -> Vec<&Request> {
        self.requests.iter().filter(|r| matches!(r.fate, Fate::Wrong(_))).collect()
    }

    /// Each node that runs shows every acknowledged write.
    pub async fn assert_all_there(&self, cluster: &Cluster) {
        let keys = self.acknowledged();
        assert!(keys.len() >= 50, "the load was hardly there: {} writes", keys.len());
        for node in cluster.running() {
            let client = cluster.client_of(node);
            let lost = missing(&client, &keys, Consistency::Quorum).await;
            assert!(lost.is_empty(), "node-{node} does not show {}: {lost:#?}", lost.len());
        }
    }

    /// How many acknowledged writes a node does not show.
    pub async fn lost(&self, cluster: &Cluster, node: usize) -> usize {
        missing(&cluster.client_of(node), &self.acknowledged(), Consistency::Quorum).await.len()
    }

    /// After a read of all replicas, which repairs, each node holds every acknowledged write by
    /// itself.
    pub async fn assert_each_holds_all(&self, cluster: &Cluster) {
        let keys = self.acknowledged();
        let lost = missing(&cluster.client_of(0), &keys, Consistency::All).await;
        assert!(lost.is_empty(), "of all replicas, none has {}: {lost:#?}", lost.len());
        for node in 0..cluster.len() {
            let client = cluster.client_of(node);
            let began = Instant::now();
            let mut absent = keys.clone();
            while !absent.is_empty() {
                let lost = missing(&client, &absent, Consistency::One).await;
                absent = lost.into_keys().collect();
                let late = began.elapsed() > REPAIR_WITHIN;
                assert!(!late || absent.is_empty(), "node-{node} itself lacks {absent:?}");
            }
        }
    }
}

/// Keys that a client does not read as they were written, and why not.
async fn missing(
    client: &Client,
    keys: &[String],
    consistency: Consistency,
) -> BTreeMap<String, Fate> {
    let mut readers = JoinSet::new();
    for part in keys.chunks(keys.len().div_ceil(READERS).max(1)) {
        let (client, part) = (client.clone(), part.to_vec());
        readers.spawn(async move {
            let mut missing = BTreeMap::new();
            for key in part {
                let fate = read(&client, &key, consistency).await;
                if fate != Fate::Acknowledged {
                    missing.insert(key, fate);
                }
            }
            missing
        });
    }
    let mut missing = BTreeMap::new();
    while let Some(part) = readers.join_next().await {
        missing.extend(part.unwrap());
    }
    missing
}

async fn read(client: &Client, key: &str, consistency: Consistency) -> Fate {
    let options = ReadOptions { consistency: Some(consistency), ..ReadOptions::default() };
    for attempt in 1.. {
        let got = client.get_with(key.to_owned(), &options).await;
        let fate = judge(key, got.map(|reading| reading.value));
        if !matches!(fate, Fate::Failed(_)) || attempt == READ_TRIES {
            return fate;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    unreachable!("the last attempt returns")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_gone_and_one_that_changed_are_found_missing() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client_of(0);
    client.set("there", value_of("there")).await.unwrap();
    client.set("changed", "something else").await.unwrap();
    let keys = ["there", "changed", "gone"].map(str::to_owned);
    let found = missing(&client, &keys, Consistency::Quorum).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["changed", "gone"], "{found:?}");
    assert!(found.values().all(|fate| matches!(fate, Fate::Wrong(_))), "{found:?}");
}
