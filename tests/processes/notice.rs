//! How soon a death is noticed, and what clients feel of it. Measured alone on the machine.

use std::time::{Duration, Instant};

use coterie::client::Client;
use coterie::proto::MemberStatus;

use crate::cluster::Cluster;
use crate::load::{Load, once_more_elsewhere};
use crate::turn;

/// A claim in release builds; in debug builds, on a machine that does other things too, only a
/// sign that it works at all.
const fn claimed(millis: u64, lenient_millis: u64) -> Duration {
    Duration::from_millis(if cfg!(debug_assertions) { lenient_millis } else { millis })
}

/// The others do not ask it any more.
const UNREACHABLE_WITHIN: Duration = claimed(200, 2_000);
/// Gossip holds it for dead.
const DEAD_WITHIN: Duration = claimed(8_000, 20_000);
/// 999 of 1000 requests are faster.
const SLOWEST: Duration = claimed(500, 5_000);
/// After the kill, requests are measured for this long.
const MEASURED: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How a member is looked for.
type Sight = fn(&MemberStatus) -> bool;

/// When `node` sees the member of this name as asked for, after `since`.
async fn noticed(
    asking: Client,
    node: String,
    name: String,
    since: Instant,
    limit: Duration,
    how: Sight,
) -> Option<Duration> {
    while since.elapsed() < limit {
        if let Ok(status) = asking.status(&node).await
            && status.members.iter().any(|member| member.name == name && how(member))
        {
            return Some(since.elapsed());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_is_noticed_at_once_told_in_seconds_and_hardly_felt_by_clients() {
    let mut cluster = Cluster::start_in(turn::alone().await, 3).await;
    let load = Load::start(&cluster.client(once_more_elsewhere()), "notice");
    let began = Instant::now();
    load.progress(300).await;
    let name = cluster.place(1).name.clone();
    let killed = Instant::now();
    cluster.kill(1);
    let ways: [(Sight, Duration); 2] =
        [(|m| !m.reachable, UNREACHABLE_WITHIN), (|m| m.state == "down", DEAD_WITHIN)];
    let mut watches = Vec::new();
    for (how, limit) in ways {
        for node in [0, 2] {
            let asking = Client::connect([cluster.address(node)], once_more_elsewhere()).unwrap();
            let (node, name) = (cluster.address(node), name.clone());
            watches.push(tokio::spawn(noticed(asking, node, name, killed, limit * 2, how)));
        }
    }
    tokio::time::sleep(MEASURED).await;
    let history = load.stop().await;
    let mut seen = Vec::new();
    for watch in watches {
        seen.push(watch.await.unwrap());
    }
    let (p999, count) = history.quantile(killed, killed + MEASURED, 0.999);
    let (median, _) = history.quantile(killed, killed + MEASURED, 0.5);
    let (before, _) = history.quantile(began, killed, 0.999);
    println!(
        "unreachable after {:.1?} and {:.1?}, dead after {:.1?} and {:.1?}; of {count} requests \
         in {MEASURED:?} after the kill: median {median:.1?}, p99.9 {p999:.1?} (before: \
         {before:.1?})",
        seen[0], seen[1], seen[2], seen[3]
    );
    history.assert_no_failure(killed);
    assert!(p999 < SLOWEST, "p99.9 after the kill: {p999:?}");
    for (after, limit) in
        seen.into_iter().zip([UNREACHABLE_WITHIN, UNREACHABLE_WITHIN, DEAD_WITHIN, DEAD_WITHIN])
    {
        let after = after.expect("it is noticed");
        assert!(after < limit, "noticed after {after:?}, not within {limit:?}");
    }
    cluster.spawn(1);
    cluster.wait_ready().await;
    history.assert_nothing_lost(&cluster).await;
    cluster.assert_running();
}
