//! Learning of the other nodes of the cluster.
//!
//! ```text
//!  after a call, if it is time ──▶ one node: its status names the members
//!                                        │ addresses that are new
//!                                        ▼
//!                          each is asked itself: same cluster? ──▶ used from now on
//! ```
//!
//! What a node says of others is never trusted without asking them: their addresses may be of
//! another network, or of another cluster by now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::nodes::{All, Node};
use super::{Shared, call};
use crate::proto::StatusResponse;

/// How often the members are asked for: they change when an operator wants it.
const EVERY_MS: u64 = 30_000;
/// How soon they are asked for again if a node has failed.
const HURRY_MS: u64 = 1_000;
/// A node says how it is within this, or is not used.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Nodes that are asked for the members at most; if none answers, it will be tried again.
const ASKED_MAX: usize = 3;
/// Nodes that are known at most: no more than that share the work of one client.
const NODES_MAX: usize = 128;

/// When to look around.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// In milliseconds of the client's clock; at first: at once.
    due: AtomicU64,
    last: AtomicU64,
}

impl Follow {
    /// A node has failed: the members are asked for soon.
    pub(super) fn hurry(&self, now: u64) {
        let soonest = self.last.load(Ordering::Relaxed) + HURRY_MS;
        self.due.fetch_min(soonest.max(now), Ordering::Relaxed);
    }

    /// Whether it is time; told to one caller only.
    fn is_due(&self, now: u64) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        let (order, next) = (Ordering::Relaxed, now + EVERY_MS);
        let mine = due <= now && self.due.compare_exchange(due, next, order, order).is_ok();
        if mine {
            self.last.store(now, Ordering::Relaxed);
        }
        mine
    }
}

/// Looks for members beside the caller, if it is time.
pub(super) fn look_around(shared: &Arc<Shared>) {
    if !shared.options.pinned && shared.follow.is_due(shared.nodes.now()) {
        let shared = shared.clone();
        tokio::spawn(async move { refresh(&shared).await });
    }
}

async fn refresh(shared: &Arc<Shared>) {
    let all = shared.nodes.all();
    let Some(seen) = ask_any(&all).await else { return };
    if seen.cluster_id.is_empty() || seen.members.is_empty() {
        return;
    }
    let is_member = |node: &Node| seen.members.iter().any(|m| m.client_address == node.address);
    let mut kept: Vec<Arc<Node>> =
        all.iter().filter(|node| node.given || is_member(node)).cloned().collect();
    // A node may be known by a name of the caller's: its id tells.
    let ids = |kept: &[Arc<Node>]| -> Vec<String> {
        kept.iter().filter_map(|node| node.id.get().cloned()).collect()
    };
    let known = ids(&kept);
    let mut asking = JoinSet::new();
    for node in kept.iter().filter(|node| node.id.get().is_none()) {
        asking.spawn(ask(node.clone()));
    }
    for member in &seen.members {
        let address = &member.client_address;
        let is_known =
            known.contains(&member.node_id) || kept.iter().any(|node| node.address == *address);
        if !is_known
            && can_be_asked(address)
            && let Ok(node) = Node::new(address.clone(), false, &shared.options)
        {
            asking.spawn(ask(Arc::new(node)));
        }
    }
    let mut learned = Vec::new();
    while let Some(asked) = asking.join_next().await {
        if let Ok((node, Some(status))) = asked
            && !node.given
            && status.cluster_id == seen.cluster_id
        {
            learned.push(node);
        }
    }
    learned.sort_by(|a, b| a.address.cmp(&b.address));
    for node in learned {
        let is_new = !node.id.get().is_some_and(|id| ids(&kept).contains(id));
        if is_new && kept.len() < NODES_MAX {
            kept.push(node);
        }
    }
    shared.nodes.replace(kept);
}

/// The status of a node that answers. It takes no turn of [`super::nodes::Nodes::pick`]: whom calls
/// ask next does not depend on it.
async fn ask_any(all: &All) -> Option<StatusResponse> {
    let first = rand::random_range(0..all.len());
    for at in 0..all.len().min(ASKED_MAX) {
        let node = all[(first + at) % all.len()].clone();
        if let (_, Some(status)) = ask(node).await {
            return Some(status);
        }
    }
    None
}

async fn ask(node: Arc<Node>) -> (Arc<Node>, Option<StatusResponse>) {
    let status = call::status(node.channel(), &node.address, ANSWER_WITHIN).await.ok();
    if let Some(status) = status.as_ref().filter(|status| !status.node_id.is_empty()) {
        // Another may have asked at the same time; both were told the same.
        let _ = node.id.set(status.node_id.clone());
    }
    (node, status)
}

/// Whether an address can be meant for others: a node that listens everywhere and does not know
/// what to advertise names no place.
fn can_be_asked(address: &str) -> bool {
    let is_everywhere = |at: std::net::SocketAddr| at.ip().is_unspecified() || at.port() == 0;
    !address.is_empty() && !address.parse().is_ok_and(is_everywhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_time_once_in_a_while_and_sooner_after_a_failure() {
        let follow = Follow::default();
        assert!(follow.is_due(1) && !follow.is_due(1) && !follow.is_due(EVERY_MS));
        follow.hurry(500);
        assert!(!follow.is_due(500), "just a moment ago");
        assert!(follow.is_due(1 + HURRY_MS) && !follow.is_due(2 + HURRY_MS));
        assert!(follow.is_due(1 + HURRY_MS + EVERY_MS));
    }

    #[test]
    fn addresses_that_name_no_place_are_not_asked() {
        for address in ["", "0.0.0.0:7400", "[::]:7400", "127.0.0.1:0"] {
            assert!(!can_be_asked(address), "{address}");
        }
        assert!(can_be_asked("node-1.example:80") && can_be_asked("[::1]:7400"));
    }
}
