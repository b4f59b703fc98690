//! How each fault is brought about and held, and what must be seen of it.

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep_until};

use super::clock::Probes;
use super::{Director, Fault, Health, Strike};
use crate::target::{Target, Wire};

impl<T: Target> Director<'_, T> {
    /// Brings it about, and answers with what was seen of it after its time.
    pub(super) async fn hold(
        &mut self,
        number: u32,
        strike: &Strike<'_>,
    ) -> anyhow::Result<String> {
        let Strike { nemesis, nodes, .. } = strike;
        let until = Instant::now() + nemesis.lasts;
        let name = self.nodes.name(nodes[0]).to_owned();
        match nemesis.fault {
            Fault::Kill => {
                let seen = self.target.kill(nodes).await?;
                sleep_until(until).await;
                Ok(seen)
            }
            Fault::Wipe => {
                let seen = self.target.wipe(nodes[0]).await?;
                sleep_until(until).await;
                Ok(seen)
            }
            Fault::Pause => self.hold_pause(nodes, until).await,
            Fault::Partition => self.hold_partition(&strike.wires, until).await,
            Fault::Network => self.hold_network(strike, until).await,
            Fault::FullDisk => {
                let seen = self.target.fill(nodes[0]).await?;
                sleep_until(until).await;
                Ok(format!("{name}: {seen}"))
            }
            Fault::SlowDisk => {
                let seen = self.target.stall(nodes[0], nemesis.lasts).await?;
                Ok(format!("{name}: {seen}"))
            }
            Fault::ClockJump => self.hold_clock(number, strike).await,
            Fault::RollingRestart => self.hold_restart(strike).await,
            Fault::Join => self.hold_join(nodes[0], until).await,
            Fault::Leave => self.hold_leave(nodes[0], until).await,
        }
    }

    async fn hold_partition(&mut self, wires: &[Wire], until: Instant) -> anyhow::Result<String> {
        self.target.cut(wires).await?;
        sleep_until(until).await;
        let counts = self.target.dropped(wires).await?;
        if let Some(at) = counts.iter().position(|count| *count == 0) {
            let (from, to) = (self.nodes.name(wires[at].from), self.nodes.name(wires[at].to));
            bail!("nothing was dropped from {from} to {to}");
        }
        let sum: u64 = counts.iter().sum();
        Ok(format!("{sum} packets were dropped on {} wires", wires.len()))
    }

    async fn hold_network(
        &mut self,
        strike: &Strike<'_>,
        until: Instant,
    ) -> anyhow::Result<String> {
        let (network, node) = (strike.nemesis.network, strike.nodes[0]);
        let before = self.watch.round_trip(node).await?;
        self.target.shape(Some(network)).await?;
        sleep_until(until).await;
        let during = self.watch.round_trip(node).await?;
        if during < before.max(network.delay / 2) && during < network.delay {
            bail!("a round trip takes {during:.1?}, and took {before:.1?} before");
        }
        let seen = self.target.shaped(network).await?;
        Ok(format!("{seen}; a round trip takes {during:.1?}, before {before:.1?}"))
    }

    async fn hold_pause(&mut self, nodes: &[usize], until: Instant) -> anyhow::Result<String> {
        let mut seen = Vec::new();
        for &node in nodes {
            seen.push(self.target.pause(node).await?);
        }
        // All at the same time: each must be silent until the end.
        let mut watched = tokio::task::JoinSet::new();
        for &node in nodes {
            let watch = self.watch.clone();
            watched.spawn(async move { (node, watch.is_silent_until(node, until).await) });
        }
        while let Some(ended) = watched.join_next().await {
            let (node, silent) = ended?;
            seen.push(format!("{} gave no answer in {:.1?}", self.nodes.name(node), silent?));
        }
        Ok(seen.join("; "))
    }

    async fn hold_clock(&mut self, number: u32, strike: &Strike<'_>) -> anyhow::Result<String> {
        let (node, jump_s, lasts) = (strike.nodes[0], strike.jump_s, strike.nemesis.lasts);
        let mut others = self.nodes.members();
        others.retain(|member| *member != node);
        let probes = Probes::write(&self.watch, number, &others, jump_s, lasts).await;
        let until = Instant::now() + lasts;
        self.target.set_clock(node, jump_s).await?;
        sleep_until(until).await;
        let seen = probes.seen(&self.watch, node).await?;
        Ok(format!("{}, set to {jump_s:+} s: {seen}", self.nodes.name(node)))
    }

    /// Each is down for the fault's time, and the next one goes when all are ready.
    async fn hold_restart(&mut self, strike: &Strike<'_>) -> anyhow::Result<String> {
        let mut seen = Vec::new();
        for &node in &strike.nodes {
            seen.push(self.target.stop(node).await?);
            tokio::time::sleep(strike.nemesis.lasts).await;
            self.target.start(node).await?;
            self.watch.well(&strike.nodes, Health::Ready).await?;
        }
        Ok(seen.join(", "))
    }

    async fn hold_join(&mut self, node: usize, until: Instant) -> anyhow::Result<String> {
        let members = self.nodes.members();
        let before = self.watch.version(&members).await;
        self.target.join(node).await?;
        let all: Vec<usize> = members.iter().copied().chain([node]).collect();
        let well = self.watch.well(&all, Health::Whole).await;
        // Whether or not it came to an end: who is in the ring is a member.
        let joined = well.is_ok() || self.watch.in_ring(&members, node).await;
        self.nodes.set_member(node, joined);
        let (took, name) = (well?, self.nodes.name(node));
        let after = self.watch.version(&all).await;
        if after <= before {
            bail!("{name} is a member, and the ring is still of version {before}");
        }
        sleep_until(until).await;
        let took = took.as_secs_f64();
        Ok(format!("{name} was a member and whole after {took:.1} s, by version {after}"))
    }

    async fn hold_leave(&mut self, node: usize, until: Instant) -> anyhow::Result<String> {
        let mut others = self.nodes.members();
        others.retain(|member| *member != node);
        let before = self.watch.version(&others).await;
        let name = self.nodes.name(node).to_owned();
        let (client, address) = self.nodes.client(others[0]);
        let order = client.decommission(address, name.clone()).await;
        order.with_context(|| format!("{name} cannot be told to leave"))?;
        let ended = self.target.left(node).await;
        let stays = ended.is_err() && self.watch.in_ring(&others, node).await;
        self.nodes.set_member(node, stays);
        let ended = ended?;
        let took = self.watch.well(&others, Health::Whole).await?.as_secs_f64();
        let after = self.watch.version(&others).await;
        if after <= before {
            bail!("{name} has left, and the ring is still of version {before}");
        }
        sleep_until(until).await;
        Ok(format!("{ended}; all others knew version {after} alone {took:.1} s later"))
    }
}
