//! `explain` in trouble, held against what the disks hold: it must never call well what is not.

use std::path::Path;

use coterie::protocol::record::Sealed;
use coterie::store::{self, Space, Store as _, StoreOptions};
use coterie::types::{Key, NodeName};
use serde_json::Value;

use crate::cluster::{Cluster, LOOK_EVERY};
use crate::process::{Said, Signal, coterie};

const KEY: &str = "cart/7";

struct Explained {
    code: Option<i32>,
    document: Value,
}

/// Asks the nodes that these are, in this order.
async fn explain(cluster: &Cluster, nodes: &[usize]) -> Explained {
    let addresses: Vec<String> = nodes.iter().map(|node| cluster.address(*node)).collect();
    let Said { code, out, err } =
        coterie(&["explain", KEY, "-o", "json", "--addr", &addresses.join(",")]).await;
    let document =
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
    Explained { code, document }
}

impl Explained {
    fn verdict(&self) -> &str {
        self.document["verdict"].as_str().unwrap()
    }

    fn home(&self, name: &str) -> &Value {
        let homes = self.document["homes"].as_array().unwrap();
        homes.iter().find(|home| home["name"] == name).unwrap()
    }

    fn state(&self, name: &str) -> &str {
        self.home(name)["state"].as_str().unwrap()
    }

    /// Who keeps a hint for a node, and the hash of it.
    fn hints_for(&self, name: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let elsewhere = self.document["elsewhere"].as_array().unwrap().iter();
        let hints = elsewhere.filter(|copy| copy["hint_for"] == name);
        hints.map(|copy| (text(&copy["holder"]), text(&copy["hash"]))).collect()
    }
}

/// The hash of what a stopped node's disk holds of the key, read without any of its code that
/// serves: as its own copy, or as a hint for another. None if there is nothing; damage is an error.
fn on_disk(data: &Path, node: &str, hint_for: Option<&str>) -> Option<String> {
    let options = StoreOptions { cache_bytes: 1 << 20, min_free: 0 };
    let opened = store::open(data, &NodeName::new(node).unwrap(), &options).unwrap();
    let key = Key::new(KEY).unwrap();
    let partition = key.partition(4096);
    let mut place = Vec::new();
    if let Some(target) = hint_for {
        place.push(u8::try_from(target.len()).unwrap());
        place.extend(target.as_bytes());
    }
    place.extend(partition.0.to_be_bytes());
    place.extend(KEY.as_bytes());
    let space = if hint_for.is_some() { Space::Hints } else { Space::Records };
    let stored = opened.store.get(space, &place).unwrap()?;
    let sealed = Sealed::from_stored(stored).unwrap();
    sealed.open(partition, &key).expect("the checksum fits");
    Some(sealed.hash().to_string())
}

/// What is explained once all homes agree: a third replica may be later than the OK.
async fn agreed(cluster: &Cluster) -> Explained {
    for _ in 0..100 {
        let explained = explain(cluster, &[0, 1, 2]).await;
        if explained.code == Some(0) {
            return explained;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    panic!("the homes do not come to agree");
}

async fn set(cluster: &Cluster, node: usize, value: &str) {
    let said = coterie(&["set", KEY, value, "--addr", &cluster.address(node)]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_explain_says_of_each_replica_is_what_its_disk_holds() {
    // The first comparison after a start comes at any time of its interval, and would mend what is to be seen.
    let mut cluster = Cluster::start_with(3, "[anti_entropy]\ninterval = \"24h\"\n").await;
    let explained = explain(&cluster, &[0]).await;
    assert_eq!(explained.code, Some(3), "{}", explained.verdict());

    set(&cluster, 0, "first").await;
    let first = agreed(&cluster).await;
    assert_eq!(first.verdict(), "all 3 home replicas agree");

    // Killed: nobody knows what it holds, and another keeps the write for it.
    cluster.kill(2);
    set(&cluster, 0, "second").await;
    let killed = explain(&cluster, &[0, 1]).await;
    assert_eq!(killed.code, Some(4));
    assert_eq!((killed.state("node-0"), killed.state("node-1")), ("current", "current"));
    assert_eq!(killed.state("node-2"), "unknown");
    let kept = killed.hints_for("node-2");
    assert_eq!(kept.len(), 1, "{}", killed.document);
    let holder = kept[0].0.clone();
    assert!(killed.verdict().contains(&format!("{holder} holds a hint for it")));

    // What it said of the three disks, against the disks.
    cluster.kill_at_once(&[0, 1]);
    for node in 0..3 {
        let place = cluster.place(node);
        let hash = on_disk(&place.data, &place.name, None).unwrap();
        let told = if node == 2 { first.home("node-2") } else { killed.home(&place.name) };
        assert_eq!(told["hash"], hash.as_str(), "{}", place.name);
        let hint = on_disk(&place.data, &place.name, Some("node-2"));
        assert_eq!(hint, (place.name == holder).then(|| kept[0].1.clone()), "{}", place.name);
    }

    // Back, while the one that keeps its hint is away: stale, and the hint's holder is unknown.
    let keeper = usize::from(holder == "node-1");
    let other = 1 - keeper;
    cluster.spawn(other);
    cluster.spawn(2);
    cluster.wait_ready().await;
    let stale = explain(&cluster, &[2, other]).await;
    assert_eq!(stale.code, Some(4));
    assert_eq!((stale.state("node-2"), stale.state(&holder)), ("stale", "unknown"));
    assert!(stale.verdict().contains("node-2 is stale: it lacks 1 write"), "{}", stale.verdict());
    assert!(stale.hints_for("node-2").is_empty());
    assert_eq!(stale.home("node-2")["hash"], first.home("node-2")["hash"]);

    // All are back: the hint is handed over.
    cluster.spawn(keeper);
    cluster.wait_ready().await;
    cluster.wait_without_hints().await;
    let whole = agreed(&cluster).await;
    assert_eq!(whole.verdict(), "all 3 home replicas agree");
    cluster.kill_at_once(&[0, 1, 2]);
    for node in 0..3 {
        let place = cluster.place(node);
        let hash = on_disk(&place.data, &place.name, None).unwrap();
        assert_eq!(whole.home(&place.name)["hash"], hash.as_str());
        assert_eq!(hash, kept[0].1, "{} holds what was kept for node-2", place.name);
        assert_eq!(on_disk(&place.data, &place.name, Some("node-2")), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_replica_is_unknown_and_never_well() {
    let mut cluster = Cluster::start(3).await;
    set(&cluster, 0, "first").await;
    agreed(&cluster).await;
    cluster.process(1).signal(Signal::Stop);
    // Nothing was written since: it would agree if it could be asked, and that is not known.
    let frozen = explain(&cluster, &[0]).await;
    assert_eq!((frozen.code, frozen.state("node-1")), (Some(4), "unknown"));
    assert!(frozen.verdict().contains("node-1 is unknown"), "{}", frozen.verdict());
    set(&cluster, 2, "second").await;
    let written = explain(&cluster, &[2]).await;
    assert_eq!((written.code, written.state("node-1")), (Some(4), "unknown"));
    cluster.process(1).signal(Signal::Continue);
    cluster.wait_ready().await;
    cluster.wait_without_hints().await;
    agreed(&cluster).await;
    cluster.assert_running();
}
