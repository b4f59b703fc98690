//! Reading every acknowledged write back, from each node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::load::WRITERS;
use super::story::Story;
use super::verdict::{Checker, Histories, Verdict};
use crate::client::{Client, Consistency, Options, ReadOptions};

/// A read of one key from one node may take this long, retries included.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// How often a key is read from a single replica before it counts as not there: the background
/// repair that a read has started may still be on its way.
const LOCAL_TRIES: u32 = 5;
/// The pause between these.
const LOCAL_PAUSE: Duration = Duration::from_millis(200);

/// What one node showed for one key: hashes of the values, or none if the read failed.
struct Answer {
    node: usize,
    key: usize,
    values: Option<Vec<u64>>,
}

/// Reads all keys from each of `addresses` and judges the answers.
///
/// # Errors
/// If a client cannot be made.
pub async fn verify(
    histories: &Histories,
    addresses: &[String],
    story: &Story,
) -> anyhow::Result<Verdict> {
    let keys: Arc<Vec<Vec<u8>>> = Arc::new(histories.keys().cloned().collect());
    let (answers, mut told) = mpsc::channel(1024);
    let mut readers = JoinSet::new();
    for (node, address) in addresses.iter().enumerate() {
        let client = bound_to(address, Consistency::Quorum)?;
        let next = Arc::new(AtomicUsize::new(0));
        for _ in 0..(WRITERS / addresses.len()).max(1) {
            let (client, keys) = (client.clone(), keys.clone());
            readers.spawn(read_all(node, client, keys, next.clone(), answers.clone()));
        }
    }
    drop(answers);
    let total = (keys.len() * addresses.len()) as u64;
    let bar = story.bar("read back from each node", Some(total), "reads");
    let mut checker = Checker::new(histories);
    let mut done = 0;
    while let Some(Answer { node, key, values }) = told.recv().await {
        checker.answer(node, &keys[key], values.as_deref());
        done += 1;
        if done % 64 == 0 {
            bar.set(done);
        }
    }
    story.bar_done();
    while let Some(reader) = readers.join_next().await {
        reader?;
    }
    Ok(checker.finish())
}

async fn read_all(
    node: usize,
    client: Client,
    keys: Arc<Vec<Vec<u8>>>,
    next: Arc<AtomicUsize>,
    answers: mpsc::Sender<Answer>,
) {
    loop {
        let key = next.fetch_add(1, Relaxed);
        let Some(bytes) = keys.get(key) else { return };
        let values = read(&client, bytes).await.ok();
        if answers.send(Answer { node, key, values }).await.is_err() {
            return;
        }
    }
}

/// The hashes of all values that a node shows.
async fn read(client: &Client, key: &[u8]) -> Result<Vec<u64>, crate::client::Error> {
    let all = ReadOptions { all_siblings: true, ..ReadOptions::default() };
    let reading = client.get_with(key.to_vec(), &all).await?;
    let hash = |value: &[u8]| xxhash_rust::xxh3::xxh3_64(value);
    let mut values: Vec<u64> = reading.all.iter().map(|sibling| hash(&sibling.value)).collect();
    if values.is_empty() {
        values.extend(reading.value.iter().map(|value| hash(value)));
    }
    Ok(values)
}

/// How many of `keys` a node answers correctly when it asks no more than one replica, itself if it
/// is a home: what handoff has brought to it.
///
/// # Errors
/// If a client cannot be made.
pub async fn held_alone(
    histories: &Histories,
    keys: Vec<Vec<u8>>,
    address: &str,
    story: &Story,
) -> anyhow::Result<u64> {
    let client = bound_to(address, Consistency::One)?;
    let bar = story.bar("read from one replica", Some(keys.len() as u64), "reads");
    let (keys, next) = (Arc::new(keys), Arc::new(AtomicUsize::new(0)));
    let histories: Arc<Histories> = {
        let of_key = |key: &Vec<u8>| Some((key.clone(), histories.get(key)?.clone()));
        Arc::new(keys.iter().filter_map(of_key).collect())
    };
    let held = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..WRITERS {
        let (client, keys, next) = (client.clone(), keys.clone(), next.clone());
        let (histories, held, bar) = (histories.clone(), held.clone(), bar.clone());
        readers.spawn(async move {
            loop {
                let at = next.fetch_add(1, Relaxed);
                let Some(key) = keys.get(at) else { return };
                if is_held(&client, key, &histories).await {
                    held.fetch_add(1, Relaxed);
                }
                bar.set(at as u64);
            }
        });
    }
    while let Some(reader) = readers.join_next().await {
        reader?;
    }
    story.bar_done();
    Ok(held.load(Relaxed))
}

async fn is_held(client: &Client, key: &[u8], histories: &Histories) -> bool {
    for tried in 0..LOCAL_TRIES {
        if tried > 0 {
            tokio::time::sleep(LOCAL_PAUSE).await;
        }
        if let (Ok(values), Some(history)) = (read(client, key).await, histories.get(key))
            && history.judge(&values) == super::verdict::Finding::Held
        {
            return true;
        }
    }
    false
}

/// What each node says of a key, for the report of a loss.
pub async fn testimony(key: &[u8], histories: &Histories, addresses: &[String]) -> Vec<String> {
    let mut said = Vec::new();
    for (node, address) in addresses.iter().enumerate() {
        let Ok(client) = bound_to(address, Consistency::Quorum) else { continue };
        let shown = match read(&client, key).await {
            Err(error) => format!("does not answer: {error}"),
            Ok(values) if values.is_empty() => "shows nothing".to_owned(),
            Ok(values) => {
                let name = |value: &u64| name_of(histories, key, *value);
                let names: Vec<String> = values.iter().map(name).collect();
                format!("shows {}", names.join(" and "))
            }
        };
        said.push(format!("node-{node} {shown}"));
    }
    said
}

fn name_of(histories: &Histories, key: &[u8], value: u64) -> String {
    let attempts = histories.get(key).map(super::verdict::History::attempts).unwrap_or_default();
    match attempts.iter().position(|attempt| attempt.value == value) {
        Some(at) => format!("write #{at} ({:?})", attempts[at].fate).to_lowercase(),
        None => "a value that nobody wrote".to_owned(),
    }
}

/// A client that asks one node only, again and again if need be.
fn bound_to(address: &str, consistency: Consistency) -> anyhow::Result<Client> {
    let options = Options {
        timeout: READ_WITHIN,
        attempts: 6,
        consistency,
        channels_per_node: 1,
        pinned: true,
        ..Options::default()
    };
    Ok(Client::connect([address], options)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::verdict::{Attempt, Fate, History};
    use crate::cli::fake::FakeCluster;

    #[tokio::test]
    async fn a_store_that_loses_a_key_is_caught_and_each_node_is_heard() {
        let fake = FakeCluster::start(2).await;
        let client = Client::connect(fake.addresses(), Options::default()).unwrap();
        let mut histories = Histories::new();
        for number in 0..50u8 {
            let (key, value) = (vec![b'k', number], vec![b'v', number]);
            client.set(key.clone(), value.clone()).await.unwrap();
            let mut history = History::default();
            let value = xxhash_rust::xxh3::xxh3_64(&value);
            let dot = String::new();
            history.push(Attempt { value, fate: Fate::Acknowledged, dot, at_ms: 0 });
            histories.insert(key, history);
        }
        let story = Story::begin(crate::cli::term::Output::Text);
        let verdict = verify(&histories, &fake.addresses(), &story).await.unwrap();
        assert!(verdict.is_clean());
        assert_eq!(verdict.reads, 100);
        let keys: Vec<_> = histories.keys().cloned().collect();
        let address = &fake.addresses()[0];
        assert_eq!(held_alone(&histories, keys, address, &story).await.unwrap(), 50);

        fake.lose(&[b'k', 7]).unwrap();
        let verdict = verify(&histories, &fake.addresses(), &story).await.unwrap();
        assert_eq!(verdict.lost.keys().collect::<Vec<_>>(), [&vec![b'k', 7]]);
        assert_eq!(verdict.lost[&vec![b'k', 7]].len(), 2);
        let said = testimony(&[b'k', 7], &histories, &fake.addresses()).await;
        assert_eq!(said, ["node-0 shows nothing", "node-1 shows nothing"]);
    }
}
