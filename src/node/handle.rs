//! A running node, as its services see it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::hint_age::OldestHint;
use super::host::DataCore;
use super::inspect;
use super::metrics::{self, Meters};
use super::wires::{Completions, Switchboard};
use crate::api::backend::{Backend, HintsHeld, MemberStatus, NodeStatus};
use crate::api::calls::Calls;
use crate::config::Settings;
use crate::gossip::ControlCore;
use crate::metrics::{Page, process};
use crate::protocol::control::{Agreed, ChangeReport, Identity, Order, Refusal};
use crate::protocol::op::{Failure, Op, Outcome};
use crate::protocol::placement::View;
use crate::protocol::quorum::Consistency;
use crate::protocol::step::{MergedPage, ReadFailed};
use crate::protocol::worker::inspect::Inspection;
use crate::store::{Beat, Durability, Store};
use crate::telemetry::Traces;
use crate::types::{ClusterId, Key, Mono, NodeId, NodeName, Now, Partition, TraceContext, Wall};

/// A loop that has not turned for so long is stuck: whoever watches the process should end it.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// So long after the store has refused something the node calls itself ready again.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// What the control core tells people.
pub trait Reports {
    /// Every member, sorted by name.
    fn members(&self, now: Now) -> Vec<MemberStatus>;

    /// Why the node cannot serve yet, or any more.
    fn not_ready(&self, now: Now) -> Option<String>;

    /// Whether workers are to be told of a placement before they can serve.
    fn has_placement(&self) -> bool;

    /// Since when this disk has been rebuilt, and the id of the one that it replaces.
    fn began_anew(&self) -> Option<(Wall, NodeId)> {
        None
    }

    /// How far a change of the ring is.
    fn change(&self, _: Now) -> ChangeReport {
        ChangeReport::default()
    }

    /// Everything that the gossip shows.
    fn gossip_report(&self, now: Now) -> serde_json::Value;
}

/// What never changes.
pub(super) struct About {
    id: NodeId,
    name: NodeName,
    cluster_name: String,
    durability: Durability,
}

impl About {
    pub(super) fn new(identity: &Identity, settings: &Settings) -> Self {
        Self {
            id: identity.id,
            name: identity.name.clone(),
            cluster_name: settings.cluster.name.clone(),
            durability: settings.storage.durability,
        }
    }
}

/// When each loop turned last, in microseconds of the node's clock.
pub(super) struct Beats {
    pub(super) data: Arc<AtomicU64>,
    pub(super) gossip: Arc<AtomicU64>,
}

struct Shared<W, K> {
    about: About,
    node: Arc<Switchboard<W, K>>,
    completions: Arc<Completions>,
    beats: Beats,
    meters: Meters,
    /// For whoever looks at what is stored: only ever read.
    store: Arc<dyn Store>,
    /// Hints are counted by one at a time: it reads all of them.
    counting: tokio::sync::Mutex<()>,
}

/// A running node. Cheap to clone; outlives the node, and then says that it has stopped.
pub struct NodeHandle<W, K>(Arc<Shared<W, K>>);

impl<W, K> Clone for NodeHandle<W, K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: DataCore, K: ControlCore + Reports> NodeHandle<W, K> {
    pub(super) fn new(
        about: About,
        node: Arc<Switchboard<W, K>>,
        completions: Arc<Completions>,
        beats: Beats,
        meters: Meters,
        store: Arc<dyn Store>,
    ) -> Self {
        let counting = tokio::sync::Mutex::default();
        Self(Arc::new(Shared { about, node, completions, beats, meters, store, counting }))
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.0.node.host.stats().in_flight
    }

    /// Whether it keeps anything for others.
    pub(super) fn holds_hints(&self) -> bool {
        self.0.node.host.stats().hints_held > 0
    }

    /// Where the age of the oldest hint is noted.
    pub(super) fn oldest_hint(&self) -> &OldestHint {
        &self.0.meters.oldest_hint
    }

    /// Why the node cannot serve now.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        let shared = &*self.0;
        if let Some(reason) = shared.node.ending.reason() {
            return Some(format!("the node has failed: {reason}"));
        }
        let refused = shared.completions.refused();
        if refused.is_some_and(|at| age(shared.node.clock.mono(), at) < REFUSED_FOR) {
            return Some("the store refuses writes: the disk is too full".into());
        }
        // Before the core is locked: workers are locked for it.
        let serves = shared.node.host.is_serving();
        let core = self.core();
        let not_ready = core.not_ready(shared.node.clock.now());
        let waits = core.has_placement() && !serves;
        not_ready.or_else(|| {
            waits.then(|| "its workers are reading what the disk says of its copies".into())
        })
    }

    fn core(&self) -> MutexGuard<'_, K> {
        // A core that panicked stops the node; reports may still look at it.
        self.0.node.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: DataCore, K: ControlCore + Reports> Backend for NodeHandle<W, K> {
    async fn run(&self, op: Op, timeout: Duration, trace: Option<TraceContext>) -> Outcome {
        self.0.node.host.run(op, micros(timeout), trace).await
    }

    async fn run_many(
        &self,
        ops: Vec<Op>,
        timeout: Duration,
        trace: Option<TraceContext>,
    ) -> Vec<Outcome> {
        self.0.node.host.run_many(ops, micros(timeout), trace).await
    }

    async fn scan(
        &self,
        partition: Partition,
        after: Bytes,
        bytes_max: u32,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<MergedPage, Failure> {
        self.0.node.host.scan(partition, after, bytes_max, consistency, micros(timeout)).await
    }

    fn view(&self) -> Option<Arc<View>> {
        self.0.node.host.view()
    }

    async fn inspect(&self, view: Arc<View>, key: Key) -> Result<Inspection, ReadFailed> {
        inspect::key(self.0.store.clone(), view, key).await
    }

    async fn hints(&self, limit: Duration) -> Result<HintsHeld, ReadFailed> {
        let _one = self.0.counting.lock().await;
        inspect::hints(self.0.store.clone(), limit).await
    }

    async fn order(&self, order: Order) -> Result<Agreed, Refusal> {
        self.0.node.orders.give(order, &self.0.node.mailbox).await
    }

    fn cluster(&self) -> Option<(ClusterId, u16)> {
        self.0.node.host.view().map(|view| (view.cluster, view.partitions()))
    }

    fn status(&self) -> NodeStatus {
        let shared = &*self.0;
        let (not_ready, view, stats) =
            (self.not_ready(), shared.node.host.view(), shared.node.host.stats());
        let now = shared.node.clock.now();
        let (members, anew, change) = {
            let core = self.core();
            (core.members(now), core.began_anew(), core.change(now))
        };
        let rebuilding = rebuilding(stats.partitions_rebuilding, anew, &members, now);
        let placement = view.as_ref().map(|view| &view.newest().placement);
        NodeStatus {
            node_id: shared.about.id.to_string(),
            name: shared.about.name.to_string(),
            cluster_id: view.as_ref().map(|view| view.cluster.to_string()).unwrap_or_default(),
            cluster_name: shared.about.cluster_name.clone(),
            placement_number: placement.map_or(0, |placement| placement.tag.number),
            placement_hash: placement.map_or_else(String::new, |p| format!("{:016x}", p.tag.hash)),
            replicas: placement.map_or(0, |placement| placement.replicas.into()),
            partitions: placement.map_or(0, |placement| placement.partitions.into()),
            not_ready,
            rebuilding,
            durability: match shared.about.durability {
                Durability::Fsync => "fsync".into(),
                Durability::Buffered => "buffered".into(),
            },
            members,
            stats,
            repair: shared.node.host.repair_report(),
            change,
            synced: shared.node.committer.synced().0,
            uptime_ms: shared.node.clock.uptime_ms(),
        }
    }

    fn gossip(&self) -> serde_json::Value {
        let report = self.core().gossip_report(self.0.node.clock.now());
        let mut report = match report {
            serde_json::Value::Object(report) => report,
            other => serde_json::Map::from_iter([("gossip".to_owned(), other)]),
        };
        report.insert("datagrams".into(), json!(self.0.node.mailbox.report()));
        report.insert("streams".into(), json!(self.0.node.peers.report()));
        report.into()
    }

    fn stuck(&self) -> Option<String> {
        let shared = &*self.0;
        let now = shared.node.clock.mono();
        let loops = [("data path", &shared.beats.data), ("gossip thread", &shared.beats.gossip)];
        for (name, beat) in loops {
            let still = age(now, Mono(beat.load(Ordering::Relaxed)));
            if still > STUCK_AFTER {
                return Some(format!("the {name} has not moved for {} s", still.as_secs()));
            }
        }
        match shared.node.committer.beat() {
            Beat::Working(still) if still > STUCK_AFTER => {
                Some(format!("the committer has not moved for {} s", still.as_secs()))
            }
            Beat::Ended => Some("the committer has ended".into()),
            Beat::Idle | Beat::Working(_) => None,
        }
    }

    fn calls(&self) -> Arc<Calls> {
        self.0.meters.calls.clone()
    }

    fn traces(&self) -> Traces {
        self.0.node.host.traces()
    }

    fn metrics(&self) -> Page {
        let (node, meters) = (&self.0.node, &self.0.meters);
        let (status, mut page) = (self.status(), Page::default());
        metrics::node(&status, self.stuck().is_some(), &mut page);
        meters.calls.write(&mut page);
        metrics::workers(&status.stats, &mut page);
        metrics::repair(&status.repair, &mut page);
        metrics::hint_age(meters.oldest_hint.age(node.clock.now().wall), &mut page);
        metrics::change(&status.change, &mut page);
        metrics::committer(&node.committer, &mut page);
        metrics::store(&*meters.store, &mut page);
        metrics::streams(&node.peers.report(), &mut page);
        metrics::datagrams(&node.mailbox.report(), &mut page);
        metrics::members(&status.members, &status.node_id, &mut page);
        process(&mut page);
        page
    }
}

/// What a disk lacks, and what that waits for.
fn rebuilding(
    lost: u64,
    anew: Option<(Wall, NodeId)>,
    members: &[MemberStatus],
    now: Now,
) -> Option<String> {
    if lost == 0 {
        return None;
    }
    let mut sentence = format!("{lost} partitions are being rebuilt and do not count in reads");
    if let Some((since, old)) = anew {
        let seconds = now.wall.0.saturating_sub(since.0) / 1000;
        sentence = format!("{sentence}, for {seconds} s; the old disk {old} is fenced");
    }
    let absent = members.iter().filter(|member| member.home && !member.reachable);
    let absent: Vec<&str> = absent.map(|member| member.name.as_str()).collect();
    if !absent.is_empty() {
        sentence = format!("{sentence}; waits for {} to be started", absent.join(", "));
    }
    Some(sentence)
}

fn micros(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)
}

fn age(now: Mono, then: Mono) -> Duration {
    Duration::from_micros(now.micros_since(then))
}
