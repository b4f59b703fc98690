//! What is seen of the nodes from outside, as any client can see it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use coterie::client::{Client, Options};
use coterie::proto::StatusResponse;
use tokio::time::{Instant, timeout_at};

use crate::caller::Nodes;

/// A node answers within this, or is taken for silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long nodes may take until they are ready again.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a disk may take to be rebuilt, or the ring to change: all that it holds is moved.
const WHOLE_WITHIN: Duration = Duration::from_secs(240);
/// How often something is looked at that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Round trips, of which the median counts.
const ROUND_TRIPS: usize = 5;

/// How well a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Every node is ready, and sees all others alive in a ring that does not change.
    Ready,
    /// And no disk lacks anything.
    Whole,
    /// And nobody keeps anything for others: another disk may be taken.
    Quiet,
}

/// Looks at nodes, with short timeouts and connections of its own.
#[derive(Clone, Debug)]
pub struct Watch {
    nodes: Arc<Nodes>,
    clients: Vec<(Client, String)>,
}

impl Health {
    fn within(self) -> Duration {
        match self {
            Self::Ready => READY_WITHIN,
            Self::Whole | Self::Quiet => WHOLE_WITHIN,
        }
    }

    /// What a node's status lacks, in a cluster of so many.
    fn lacks(self, status: &StatusResponse, members: usize) -> Option<String> {
        if !status.ready {
            return Some(format!("says: {}", status.not_ready_because));
        }
        let homes = status.members.iter().filter(|member| member.home);
        let (count, alive) = (homes.clone().count(), homes.filter(|m| m.state == "alive").count());
        if (count, alive) != (members, members) {
            return Some(format!("sees {count} members, {alive} of them alive, and not {members}"));
        }
        let live = status.change.as_ref().map_or(0, |change| change.live.len());
        if live != 1 {
            return Some(format!("knows {live} live versions of the ring"));
        }
        let counters = status.counters.unwrap_or_default();
        if self >= Self::Whole && (counters.partitions_lost > 0 || !status.rebuilding.is_empty()) {
            let lost = counters.partitions_lost;
            return Some(format!("rebuilds {lost} partitions: {}", status.rebuilding));
        }
        let hints = counters.hints_held;
        (self >= Self::Quiet && hints > 0).then(|| format!("keeps {hints} hints"))
    }
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

    /// A client of one node alone, and the address to ask it at.
    pub fn client(&self, node: usize) -> (&Client, &str) {
        let (client, address) = &self.clients[node];
        (client, address)
    }

    /// How a node sees itself and the cluster.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self, node: usize) -> Result<StatusResponse, coterie::client::Error> {
        let (client, address) = self.client(node);
        client.status(address).await
    }

    /// Waits until these nodes, which are all members, are well. Answers with how long it took.
    ///
    /// # Errors
    /// If they are not in bounded time: with what each lacks.
    pub async fn well(&self, members: &[usize], health: Health) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let mut waiting = Vec::new();
            for &node in members {
                let lacks = match self.status(node).await {
                    Ok(status) => health.lacks(&status, members.len()),
                    Err(error) => Some(format!("does not answer ({error})")),
                };
                waiting.extend(lacks.map(|lacks| format!("{} {lacks}", self.nodes.name(node))));
            }
            if waiting.is_empty() {
                return Ok(began.elapsed());
            }
            let limit = health.within();
            if began.elapsed() > limit {
                bail!("not {health:?} within {limit:?}: {}", waiting.join("; "));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The highest version of the ring that any of these nodes knows.
    pub async fn version(&self, members: &[usize]) -> u32 {
        let mut highest = 0;
        for &node in members {
            let status = self.status(node).await;
            highest = highest.max(status.map_or(0, |status| status.placement_number));
        }
        highest
    }

    /// Whether any of these nodes sees another one in the ring.
    pub async fn in_ring(&self, members: &[usize], node: usize) -> bool {
        let name = self.nodes.name(node);
        for &member in members {
            let Ok(status) = self.status(member).await else { continue };
            if status.members.iter().any(|one| one.home && one.name == name) {
                return true;
            }
        }
        false
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
}

#[cfg(test)]
mod tests {
    use coterie::proto::{Change, Counters, MemberStatus};

    use super::*;

    fn well() -> StatusResponse {
        let member =
            || MemberStatus { state: "alive".to_owned(), home: true, ..MemberStatus::default() };
        StatusResponse {
            ready: true,
            members: vec![member(), member(), member()],
            change: Some(Change { live: vec!["1:a".to_owned()], ..Change::default() }),
            counters: Some(Counters::default()),
            ..StatusResponse::default()
        }
    }

    /// What a status that was made worse lacks to be ready, whole and quiet.
    fn lacks(worse: impl Fn(&mut StatusResponse)) -> [bool; 3] {
        let mut status = well();
        worse(&mut status);
        [Health::Ready, Health::Whole, Health::Quiet]
            .map(|health| health.lacks(&status, 3).is_some())
    }

    #[test]
    fn a_cluster_is_whole_when_no_disk_lacks_anything_and_quiet_without_hints() {
        assert_eq!(lacks(|_| {}), [false; 3]);
        assert_eq!(lacks(|status| status.ready = false), [true; 3]);
        assert_eq!(lacks(|status| status.members[1].state = "down".to_owned()), [true; 3]);
        assert_eq!(lacks(|status| drop(status.members.pop())), [true; 3]);
        let joining = |status: &mut StatusResponse| {
            status.change.as_mut().unwrap().live.push("2:b".to_owned());
        };
        assert_eq!(lacks(joining), [true; 3]);
        let counted =
            |counters| move |status: &mut StatusResponse| status.counters = Some(counters);
        let lost = Counters { partitions_lost: 1, ..Counters::default() };
        assert_eq!(lacks(counted(lost)), [false, true, true]);
        assert_eq!(lacks(|status| status.rebuilding = "disk".to_owned()), [false, true, true]);
        let hints = Counters { hints_held: 1, ..Counters::default() };
        assert_eq!(lacks(counted(hints)), [false, false, true]);
    }
}
