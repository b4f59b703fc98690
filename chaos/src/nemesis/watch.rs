//! What is seen of the nodes from outside, as any client can see it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use coterie::client::{Client, Options};
use tokio::time::{Instant, timeout_at};

use crate::caller::Nodes;

/// A node answers within this, or is taken for silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long nodes may take until they are ready again.
pub const READY_WITHIN: Duration = Duration::from_secs(90);
/// How often something is looked at that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Writes made to find out a node's clock: some of them are coordinated by others.
const CLOCK_PROBES: u32 = 40;
/// Which part of a jump must show. Stamps never go back: after an earlier jump they stay ahead, but by
/// less with every second.
const CLOCK_SEEN: f64 = 0.9;
/// Round trips, of which the median counts.
const ROUND_TRIPS: usize = 5;

/// Looks at nodes, with short timeouts and connections of its own.
#[derive(Clone, Debug)]
pub struct Watch {
    nodes: Arc<Nodes>,
    clients: Vec<(Client, String)>,
}

impl Watch {
    /// For these nodes.
    ///
    /// # Errors
    /// If an address is none.
    pub fn new(nodes: &Arc<Nodes>) -> anyhow::Result<Self> {
        let options =
            Options { timeout: ANSWER_WITHIN, pinned: true, attempts: 1, ..Options::default() };
        let client = |at| -> anyhow::Result<(Client, String)> {
            let (_, address) = nodes.client(at);
            Ok((Client::connect([address.to_owned()], options.clone())?, address.to_owned()))
        };
        let clients = (0..nodes.len()).map(client).collect::<Result<_, _>>()?;
        Ok(Self { nodes: nodes.clone(), clients })
    }

    /// How a node sees itself and the cluster.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(
        &self,
        node: usize,
    ) -> Result<coterie::proto::StatusResponse, coterie::client::Error> {
        let (client, address) = &self.clients[node];
        client.status(address).await
    }

    /// Waits until these nodes say that they are ready and see every member alive.
    ///
    /// # Errors
    /// If they do not within [`READY_WITHIN`]: with what each says.
    pub async fn ready(&self, nodes: &[usize]) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let mut waiting = Vec::new();
            for &node in nodes {
                let name = self.nodes.name(node);
                match self.status(node).await {
                    Ok(status) if !status.ready => {
                        waiting.push(format!("{name} says: {}", status.not_ready_because));
                    }
                    Ok(status) => {
                        let alive = status.members.iter().filter(|m| m.state == "alive").count();
                        if alive < self.clients.len() {
                            waiting.push(format!("{name} sees {alive} members alive"));
                        }
                    }
                    Err(error) => waiting.push(format!("{name} does not answer ({error})")),
                }
            }
            if waiting.is_empty() {
                return Ok(began.elapsed());
            }
            if began.elapsed() > READY_WITHIN {
                bail!("not ready within {READY_WITHIN:?}: {}", waiting.join("; "));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks a node until `until`, and answers with how long it was silent.
    ///
    /// # Errors
    /// If it has answered.
    pub async fn is_silent_until(&self, node: usize, until: Instant) -> anyhow::Result<Duration> {
        let began = Instant::now();
        while Instant::now() < until {
            if let Ok(Ok(_)) = timeout_at(until, self.status(node)).await {
                bail!("{} has answered", self.nodes.name(node));
            }
            tokio::time::sleep_until(until.min(Instant::now() + LOOK_EVERY)).await;
        }
        Ok(began.elapsed())
    }

    /// How long a node takes to answer.
    ///
    /// # Errors
    /// If it does not.
    pub async fn round_trip(&self, node: usize) -> anyhow::Result<Duration> {
        let mut times = Vec::new();
        let mut failed = None;
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            match self.status(node).await {
                Ok(_) => times.push(began.elapsed()),
                Err(error) => failed = Some(error),
            }
        }
        times.sort_unstable();
        match (times.get(times.len() / 2), failed) {
            (Some(median), _) => Ok(*median),
            (None, error) => Err(error.context("no round trip was made")?.into()),
        }
    }

    /// Writes through a node until a receipt bears a time that is ahead of ours.
    ///
    /// # Errors
    /// If none does.
    pub async fn clock_is_ahead(&self, node: usize, ahead: Duration) -> anyhow::Result<String> {
        let name = self.nodes.name(node);
        for probe in 0..CLOCK_PROBES {
            let Ok(written) = self.clients[node].0.set(format!("probe/{probe}"), "clock").await
            else {
                continue;
            };
            let stamp = written.receipt.dot.split('@').nth(1).and_then(|at| at.split('.').next());
            let stamp = stamp.and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let seen = stamp.unwrap_or_default().saturating_sub(now);
            if seen > ahead.mul_f64(CLOCK_SEEN) {
                return Ok(format!("{name} stamps its writes {seen:.1?} ahead"));
            }
        }
        bail!("no write through {name} bears a time ahead of ours")
    }
}
