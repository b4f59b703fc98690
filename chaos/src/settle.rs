//! When the load has ended: waits until the cluster is at rest, then reads every key back and looks
//! at what every disk holds of it. All of it goes into the history.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coterie::client::ReadOptions;
use coterie::proto::stored_copy::State;
use tokio::task::JoinSet;

use crate::caller::{Nodes, values};
use crate::history::{Copies, Copy, Event, Final, History, NodeState, Recorder, Settled};
use crate::nemesis::Watch;
use crate::scenario::WorkloadKind;

/// How long hints may take to be delivered, and copies to become equal.
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
}

impl Settle {
    /// Does all of it. `unsettled`: what is known already not to be as it should.
    pub async fn run(&self, history: &History, mut unsettled: Vec<String>) {
        let began = Instant::now();
        let everybody: Vec<usize> = (0..self.nodes.len()).collect();
        if let Err(error) = self.watch.ready(&everybody).await {
            unsettled.push(error.to_string());
        }
        self.without_hints(began, &mut unsettled).await;
        let ops = history.ops.iter().filter(|op| op.writes());
        let keys: BTreeSet<String> = ops.map(|op| op.invoke.key.clone()).collect();
        self.each(&keys, |this, key| async move { this.read(key).await }).await;
        // A write that failed may have reached one home only. Nobody reads it from here on: what
        // makes its copies equal is the store's own anti-entropy.
        let mut differing = self.copies(&keys).await;
        while !differing.is_empty() && began.elapsed() <= REST_WITHIN {
            tokio::time::sleep(LOOK_EVERY).await;
            differing = self.copies(&differing).await;
        }
        let after_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for node in everybody {
            self.recorder.record(&Event::Node(self.state(node).await));
        }
        self.recorder.record(&Event::Settled(Settled { after_ms, unsettled }));
    }

    async fn without_hints(&self, began: Instant, unsettled: &mut Vec<String>) {
        loop {
            let mut held = Vec::new();
            for node in 0..self.nodes.len() {
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
        let first = key.bytes().map(usize::from).sum::<usize>();
        let mut read = Final { t_us: self.recorder.now_us(), key, values: None };
        for attempt in 0..READS {
            let (client, _) = self.nodes.client((first + attempt) % self.nodes.len());
            read.t_us = self.recorder.now_us();
            if let Ok(reading) = client.get_with(read.key.clone(), &options).await {
                read.values = Some(values(&reading));
                break;
            }
        }
        self.recorder.record(&Event::Final(read));
    }

    /// Looks at every disk. Answers with the keys whose copies differ.
    async fn copies(&self, keys: &BTreeSet<String>) -> BTreeSet<String> {
        let found = self.each(keys, |this, key| async move { this.inspect(key).await }).await;
        let mut differing = BTreeSet::new();
        for copies in found {
            let hashes: BTreeSet<&str> = copies.copies.iter().map(|copy| &*copy.hash).collect();
            if hashes.len() > 1 {
                differing.insert(copies.key.clone());
            }
            self.recorder.record(&Event::Copies(copies));
        }
        differing
    }

    async fn inspect(self, key: String) -> Copies {
        let mut copies = Vec::new();
        for node in 0..self.nodes.len() {
            let (client, address) = self.nodes.client(node);
            let Ok(seen) = client.inspect(address, key.clone()).await else { continue };
            if !seen.home {
                continue;
            }
            let own = seen.own.unwrap_or_default();
            let hash = match own.state() {
                State::Record => own.hash,
                State::Damaged => "damaged".to_owned(),
                State::Absent | State::Unspecified => String::new(),
            };
            let dot =
                |actor: u64, stamp: u64| format!("{actor:016x}@{}.{}", stamp >> 16, stamp & 0xffff);
            let dots = own.siblings.iter().map(|one| dot(one.actor, one.stamp)).collect();
            copies.push(Copy { node: self.nodes.name(node).to_owned(), hash, dots });
        }
        Copies { key, copies }
    }
}
