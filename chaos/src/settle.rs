//! When the load has ended: waits until the cluster is at rest, looks at what every disk holds of
//! every key, and then reads it back. All of it goes into the history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coterie::client::ReadOptions;
use coterie::proto::stored_copy::State;
use tokio::task::JoinSet;

use crate::caller::{Nodes, values};
use crate::history::{Copies, Copy, DAMAGED, Event, Final, History, NodeState, Recorder, Settled};
use crate::nemesis::{Health, Watch};
use crate::scenario::WorkloadKind;

/// How long hints may take to be delivered, and then copies to become equal.
const REST_WITHIN: Duration = Duration::from_secs(120);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A read ends after this.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How often a key is tried to be read.
const READS: usize = 4;
/// Reads under way at a time.
const READERS: usize = 32;

/// What is needed to look at everything.
#[derive(Clone)]
pub struct Settle {
    /// The nodes.
    pub nodes: Arc<Nodes>,
    /// For what nodes say of themselves.
    pub watch: Watch,
    /// Where it is written down.
    pub recorder: Arc<Recorder>,
    /// How many homes each key has.
    pub replicas: usize,
}

impl Settle {
    /// Does all of it. Answers with what is not as it should be.
    pub async fn run(&self, history: &History) -> Settled {
        let mut unsettled = Vec::new();
        let began = Instant::now();
        if let Err(error) = self.watch.well(&self.nodes.members(), Health::Whole).await {
            unsettled.push(error.to_string());
        }
        self.without_hints(&mut unsettled).await;
        let ops = history.ops.iter().filter(|op| op.writes());
        let keys: BTreeSet<String> = ops.map(|op| op.invoke.key.clone()).collect();
        // A write that failed may have reached one home only. Nobody has read it since: what makes
        // its copies equal is the store's own anti-entropy, and no repair of a read of ours.
        for copies in self.equal_copies(&keys).await.into_values() {
            self.recorder.record(&Event::Copies(copies));
        }
        self.each(&keys, |this, key| async move { this.read(key).await }).await;
        let after_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for node in self.nodes.members() {
            self.recorder.record(&Event::Node(self.state(node).await));
        }
        Settled { after_ms, unsettled }
    }

    async fn without_hints(&self, unsettled: &mut Vec<String>) {
        let began = Instant::now();
        loop {
            let mut held = Vec::new();
            for node in self.nodes.members() {
                let state = self.state(node).await;
                if state.hints > 0 {
                    held.push(format!("{} keeps {} hints", state.node, state.hints));
                }
            }
            if held.is_empty() {
                return;
            }
            if began.elapsed() > REST_WITHIN {
                return unsettled.extend(held);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn state(&self, node: usize) -> NodeState {
        let name = self.nodes.name(node).to_owned();
        match self.watch.status(node).await {
            Ok(status) => {
                let counters = status.counters.unwrap_or_default();
                NodeState {
                    node: name,
                    ready: status.ready,
                    state: if status.ready { "ready".into() } else { status.not_ready_because },
                    hints: counters.hints_held,
                    records_lost: counters.records_lost,
                    uptime_ms: status.uptime_ms,
                }
            }
            Err(error) => {
                NodeState { node: name, state: error.to_string(), ..NodeState::default() }
            }
        }
    }

    /// Runs something for every key, a few at a time; node by node in turn.
    async fn each<F, Done>(&self, keys: &BTreeSet<String>, work: F) -> Vec<Done::Output>
    where
        F: Fn(Self, String) -> Done,
        Done: Future + Send + 'static,
        Done::Output: Send + 'static,
    {
        let mut done = Vec::new();
        let mut running = JoinSet::new();
        for key in keys {
            if running.len() >= READERS {
                done.extend(running.join_next().await.and_then(Result::ok));
            }
            running.spawn(work(self.clone(), key.clone()));
        }
        done.extend(running.join_all().await);
        done
    }

    async fn read(&self, key: String) {
        let options = |strict| ReadOptions {
            all_siblings: true,
            strict: Some(strict),
            timeout: Some(READ_WITHIN),
            ..ReadOptions::default()
        };
        // Registers and sessions promise something to strict readers only.
        let strict = [WorkloadKind::Register, WorkloadKind::Session];
        let options = options(strict.iter().any(|kind| key.split('/').next() == Some(kind.name())));
        let (members, first) = (self.nodes.members(), key.bytes().map(usize::from).sum::<usize>());
        let mut read = Final { t_us: self.recorder.now_us(), key, values: None };
        for attempt in 0..READS {
            let (client, _) = self.nodes.client(members[(first + attempt) % members.len()]);
            read.t_us = self.recorder.now_us();
            if let Ok(reading) = client.get_with(read.key.clone(), &options).await {
                read.values = Some(values(&reading));
                break;
            }
        }
        self.recorder.record(&Event::Final(read));
    }

    /// Looks at every disk, until all copies are equal or time is up.
    async fn equal_copies(&self, keys: &BTreeSet<String>) -> BTreeMap<String, Copies> {
        let (began, mut found) = (Instant::now(), BTreeMap::new());
        let mut open = keys.clone();
        loop {
            let seen = self.each(&open, |this, key| async move { this.inspect(key).await }).await;
            open.clear();
            for copies in seen {
                if !copies.are_equal(self.replicas) {
                    open.insert(copies.key.clone());
                }
                found.insert(copies.key.clone(), copies);
            }
            if open.is_empty() || began.elapsed() > REST_WITHIN {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn inspect(self, key: String) -> Copies {
        let mut told = Copies { key, homes: Vec::new(), unanswered: Vec::new() };
        for node in self.nodes.members() {
            let (client, address) = self.nodes.client(node);
            let name = self.nodes.name(node).to_owned();
            let Ok(seen) = client.inspect(address, told.key.clone()).await else {
                told.unanswered.push(name);
                continue;
            };
            if !seen.home {
                continue;
            }
            let own = seen.own.unwrap_or_default();
            let hash = match own.state() {
                State::Record => own.hash,
                State::Damaged => DAMAGED.to_owned(),
                State::Absent | State::Unspecified => String::new(),
            };
            let dot =
                |actor: u64, stamp: u64| format!("{actor:016x}@{}.{}", stamp >> 16, stamp & 0xffff);
            let dots = own.siblings.iter().map(|one| dot(one.actor, one.stamp)).collect();
            told.homes.push(Copy { node: name, hash, dots });
        }
        told
    }
}
