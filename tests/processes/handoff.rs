//! Hints for a node that is dead through many writes to fewer keys: as many as there are keys,
//! handed over soon after it is back. And their bound, on real disks.

use std::time::{Duration, Instant};

use coterie::client::{Client, SetEntry};

use crate::cluster::{Cluster, http_get};
use crate::folders::assert_says;
use crate::process::coterie;
use crate::turn;

/// Keys, and how often each is written while a home of all of them is dead.
const KEYS: usize = if cfg!(debug_assertions) { 2_000 } else { 100_000 };
const ROUNDS: usize = 10;
/// All are handed over within this: the claim is for 100,000 keys.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(30);
/// Entries of a batch.
const BATCH: usize = 500;
/// Writes that certainly do not all fit into the room for hints.
const TOO_MANY: usize = 120;

fn key(number: usize) -> String {
    format!("key/{number}")
}

async fn write(client: &Client, round: usize) {
    for first in (0..KEYS).step_by(BATCH) {
        let numbers = first..(first + BATCH).min(KEYS);
        let entry = |number| SetEntry::set(key(number), format!("value {number} of {round}"));
        for written in client.set_many(numbers.map(entry)).await {
            written.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_are_bounded_by_keys_and_handed_over_soon_however_many_writes_were_missed() {
    let mut cluster = Cluster::start_in(turn::alone().await, 3).await;
    cluster.kill(2);
    let client = cluster.client_of(0);
    let began = Instant::now();
    for round in 0..ROUNDS {
        write(&client, round).await;
    }
    let wrote = began.elapsed();
    let held = cluster.answer(0).await.counters.unwrap();
    let of_both = held.hints_held + cluster.answer(1).await.counters.unwrap().hints_held;
    println!(
        "{} writes to {KEYS} keys in {wrote:.1?}: {of_both} hints, {} bytes on node-0",
        KEYS * ROUNDS,
        held.hint_bytes
    );
    // Whoever coordinates keeps the hint: a key has one on each of the two at most.
    assert!((KEYS as u64..=2 * KEYS as u64).contains(&of_both), "{of_both} hints of {KEYS} keys");

    cluster.spawn(2);
    cluster.wait_ready().await;
    let took = cluster.wait_without_hints().await;
    println!("{of_both} hints handed over {took:.1?} after the node was ready");
    assert!(took < HANDED_OVER_WITHIN, "handed over after {took:.1?}");
    let returned = cluster.client_of(2);
    for number in (0..KEYS).step_by(KEYS / 100) {
        let read = returned.get(key(number)).await.unwrap().expect("it was acknowledged");
        assert_eq!(read.value, format!("value {number} of {}", ROUNDS - 1));
    }
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_beyond_their_bound_are_refused_and_the_bound_outlives_a_restart() {
    let mut cluster = Cluster::start_with(4, "[hints]\nmax_bytes = \"2KiB\"\n").await;
    cluster.kill(2);
    cluster.kill(3);
    let (mut written, mut refused) = (Vec::new(), Vec::new());
    let client = cluster.client_of(0);
    for number in 0..TOO_MANY {
        match client.set(key(number), "v").await {
            Ok(_) => written.push(number),
            Err(error) => refused.push(error.to_string()),
        }
    }
    // Keys with one home that is gone need no hint to be written; those with two do.
    assert!(!refused.is_empty() && !written.is_empty(), "{} refused", refused.len());
    for why in &refused {
        assert_says(why, &["hints.max_bytes", "outcome unknown"]);
    }
    assert_full(&cluster, 0).await;
    cluster.kill(0);
    cluster.spawn(0);
    cluster.wait_ready().await;
    assert_full(&cluster, 0).await;
    let told = coterie(&["hints", "--addr", &cluster.address(0)]).await;
    assert_says(&told.out, &["hardly any room is left for more on", "node-0"]);

    cluster.spawn(2);
    cluster.spawn(3);
    cluster.wait_ready().await;
    cluster.wait_without_hints().await;
    for number in written {
        for node in 0..4 {
            let read = cluster.client_of(node).get(key(number)).await.unwrap();
            assert_eq!(read.expect("it was acknowledged").value, "v", "through node-{node}");
        }
    }
    cluster.assert_running();
}

/// A node's hints are within their bound, and close to it, by all that it says.
async fn assert_full(cluster: &Cluster, node: usize) {
    let counters = cluster.answer(node).await.counters.unwrap();
    let (bytes, most) = (counters.hint_bytes, counters.hint_bytes_max);
    assert_eq!(most, 2 << 10);
    assert!(bytes <= most && bytes > most / 10 * 9, "{bytes} bytes of hints");
    let (_, page) = http_get(cluster.place(node).admin, "/metrics").await.unwrap();
    assert_says(&page, &["coterie_hints_max_bytes 2048", &format!("_held_bytes {bytes}")]);
}
