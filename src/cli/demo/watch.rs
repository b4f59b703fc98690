//! What the nodes themselves say while it happens.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::client::Client;
use crate::proto::{Counters, MemberStatus};

/// How often nodes are asked whether they have noticed: finer than what is to be seen, and little
/// work for them.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often they are asked for what takes seconds.
const GLANCE_EVERY: Duration = Duration::from_millis(100);

/// What is waited for in a node's view of another.
#[derive(Clone, Copy)]
pub enum Sight {
    /// It cannot be reached.
    Unreachable,
    /// Gossip has declared it dead.
    Dead,
}

impl Sight {
    fn is_seen(self, member: &MemberStatus) -> bool {
        match self {
            Self::Unreachable => !member.reachable,
            Self::Dead => member.state == "down",
        }
    }

    fn every(self) -> Duration {
        match self {
            Self::Unreachable => LOOK_EVERY,
            Self::Dead => GLANCE_EVERY,
        }
    }
}

/// How long after `since` each of the `watchers` saw `name` so; none for those that did not within
/// `limit`.
pub async fn seen(
    client: &Client,
    watchers: &[String],
    name: &str,
    sight: Sight,
    since: Instant,
    limit: Duration,
) -> Vec<Option<Duration>> {
    let mut looking = JoinSet::new();
    for watcher in watchers {
        let (client, watcher, name) = (client.clone(), watcher.clone(), name.to_owned());
        looking.spawn(async move {
            while since.elapsed() < limit {
                let status = client.status(&watcher).await;
                let members = status.map(|status| status.members).unwrap_or_default();
                let member = members.iter().find(|member| member.name == name);
                if member.is_some_and(|member| sight.is_seen(member)) {
                    return Some(since.elapsed());
                }
                tokio::time::sleep(sight.every()).await;
            }
            None
        });
    }
    let mut seen = Vec::new();
    while let Some(found) = looking.join_next().await {
        seen.push(found.ok().flatten());
    }
    seen
}

/// The counters of every node that answers, by address in the order given.
pub async fn counters(client: &Client, nodes: &[String]) -> Vec<Option<Counters>> {
    let mut all = Vec::new();
    for node in nodes {
        let status = client.status(node).await;
        all.push(status.ok().map(|status| status.counters.unwrap_or_default()));
    }
    all
}

/// A sum over the nodes that answered.
#[must_use]
pub fn sum(counters: &[Option<Counters>], of: impl Fn(&Counters) -> u64) -> u64 {
    counters.iter().flatten().map(of).sum()
}
