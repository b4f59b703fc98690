//! Sets that many clients add to at a time, each with the context of what it has read, while the ring
//! changes: the scenario in which Riak lost additions (`riak_kv#1754`). A set that lacks an
//! acknowledged addition has lost it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coterie::client::{Client, Consistency, ReadOptions, WriteOptions};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, LOOK_EVERY};
use crate::load;

const CLIENTS: usize = 40;
const KEYS: usize = 10;
/// What a client rests after an addition.
const REST: Duration = Duration::from_millis(40);
/// Every node shows every addition within this.
const SHOWN_WITHIN: Duration = Duration::from_secs(20);

/// An addition is what adds its name: client, and number.
type Addition = String;

/// Clients at work.
pub struct Additions {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    clients: JoinSet<Told>,
}

/// What clients were told.
#[derive(Default)]
pub struct Told {
    /// Key and addition.
    acknowledged: Vec<(String, Addition)>,
    failed: Vec<String>,
}

impl Additions {
    pub fn start(client: &Client) -> Self {
        let (stop, acknowledged) = (Arc::default(), Arc::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            clients.spawn(add(client.clone(), number, stop, acknowledged));
        }
        Self { stop, acknowledged, clients }
    }

    /// Waits until so many more additions have been acknowledged.
    pub async fn progress(&self, more: usize) {
        load::progress(&self.acknowledged, more).await;
    }

    pub async fn stop(mut self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Told::default();
        while let Some(told) = self.clients.join_next().await {
            let told = told.unwrap();
            all.acknowledged.extend(told.acknowledged);
            all.failed.extend(told.failed);
        }
        all
    }
}

impl Told {
    pub fn assert_no_failure(&self) {
        assert!(self.failed.is_empty(), "{} failed: {:#?}", self.failed.len(), self.failed.first());
    }

    /// Each node that runs shows every acknowledged addition.
    pub async fn assert_nothing_lost(&self, cluster: &Cluster) {
        let count = self.acknowledged.len();
        assert!(count >= 500, "the clients were hardly there: {count} additions");
        for node in cluster.running() {
            let (client, began) = (cluster.client_of(node), Instant::now());
            loop {
                let lost = self.missing(&client).await;
                if lost.is_empty() {
                    break;
                }
                let late = began.elapsed() > SHOWN_WITHIN;
                assert!(!late, "node-{node} lacks {} of {count} additions: {lost:?}", lost.len());
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    async fn missing(&self, client: &Client) -> Vec<&(String, Addition)> {
        let mut sets = Vec::new();
        for number in 0..KEYS {
            let set = read(client, &key(number)).await.map(|(set, _)| set);
            sets.push((key(number), set.unwrap_or_default()));
        }
        let is_missing = |(at, addition): &&(String, Addition)| {
            sets.iter().any(|(key, set)| key == at && !set.contains(addition))
        };
        self.acknowledged.iter().filter(is_missing).collect()
    }
}

fn key(number: usize) -> String {
    format!("set/{number}")
}

/// All siblings' additions, and the context of the read.
async fn read(client: &Client, key: &str) -> Result<(BTreeSet<Addition>, bytes::Bytes), String> {
    let consistency = Some(Consistency::Quorum);
    let all = ReadOptions { consistency, all_siblings: true, ..ReadOptions::default() };
    let read = client.get_with(key.to_owned(), &all).await.map_err(|error| error.to_string())?;
    let siblings = read.all.iter().map(|sibling| String::from_utf8_lossy(&sibling.value));
    let set = siblings.flat_map(|text| text.split(' ').map(str::to_owned).collect::<Vec<_>>());
    Ok((set.filter(|addition| !addition.is_empty()).collect(), read.context))
}

async fn add(
    client: Client,
    number: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> Told {
    let mut told = Told::default();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, addition) = (key((number * 7 + turn) % KEYS), format!("{number}.{turn}"));
        let added = async {
            let (mut set, context) = read(&client, &key).await?;
            set.insert(addition.clone());
            let value = set.into_iter().collect::<Vec<_>>().join(" ");
            let with = WriteOptions { context, ..WriteOptions::default() };
            let written = client.set_with(key.clone(), value, &with).await;
            written.map_err(|error| error.to_string())
        };
        match added.await {
            Ok(_) => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                told.acknowledged.push((key, addition));
            }
            Err(why) => told.failed.push(format!("{key} {addition}: {why}")),
        }
        tokio::time::sleep(REST).await;
    }
    told
}
