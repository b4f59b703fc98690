//! The nemesis: brings faults about, one after the other, sees that each takes effect, and heals it.
//!
//! ```text
//!   pause ─▶ begin ─▶ held for a while ─▶ heal ─▶ every node ready again ─▶ end
//!                       └── seen? if not, the run is invalid
//! ```

mod shape;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use rand::rngs::ChaCha8Rng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;
use tokio::time::Instant;

pub use self::shape::Shape;
pub use self::watch::Watch;
use crate::history::{Event, FaultEvent, Phase, Recorder};
use crate::scenario::{Nemesis, Order, Scenario};
use crate::target::{Target, Wire};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL, and a new start on the same data.
    Kill,
    /// The process stands still; its connections stand.
    Pause,
    /// Packets between some nodes are dropped.
    Partition,
    /// Packets between all nodes are delayed and lost.
    Network,
    /// No room is left on the disk.
    FullDisk,
    /// The disk stalls.
    SlowDisk,
    /// The clock goes ahead, and back again.
    ClockJump,
    /// SIGKILL, and a new start on an empty disk.
    Wipe,
    /// Every node is asked to stop and started again, one after the other.
    RollingRestart,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::Network => "network",
            Self::FullDisk => "full-disk",
            Self::SlowDisk => "slow-disk",
            Self::ClockJump => "clock-jump",
            Self::Wipe => "wipe",
            Self::RollingRestart => "rolling-restart",
        })
    }
}

/// Brings faults about until its time is up.
pub struct Director<'a, T> {
    target: &'a mut T,
    watch: Watch,
    recorder: Arc<Recorder>,
    random: ChaCha8Rng,
    names: Vec<String>,
    next_fault: u32,
    /// Nodes that ended without having been asked to.
    pub crashes: Vec<String>,
}

/// A fault that was chosen: where it strikes.
struct Strike<'a> {
    nemesis: &'a Nemesis,
    nodes: Vec<usize>,
    wires: Vec<Wire>,
    impaired: Vec<usize>,
}

impl<'a, T: Target> Director<'a, T> {
    /// Nothing is wrong yet. The seed decides whom faults strike.
    pub fn new(target: &'a mut T, watch: Watch, recorder: Arc<Recorder>, seed: u64) -> Self {
        let names = target.nodes().into_iter().map(|(name, _)| name).collect();
        let random = ChaCha8Rng::seed_from_u64(seed);
        Self { target, watch, recorder, random, names, next_fault: 0, crashes: Vec::new() }
    }

    /// Brings faults about until `until`; one that has begun is healed first.
    pub async fn run(&mut self, scenario: &Scenario, until: Instant) {
        let mut round: Vec<&Nemesis> = Vec::new();
        loop {
            if round.is_empty() {
                round = scenario.nemesis.iter().collect();
                if scenario.order == Order::Random {
                    round.shuffle(&mut self.random);
                }
                round.reverse();
            }
            let Some(nemesis) = round.pop() else {
                return self.wait(until).await;
            };
            let begin = Instant::now() + nemesis.pause;
            // A fault that would only just begin tells nothing.
            if begin + nemesis.lasts > until {
                return self.wait(until).await;
            }
            self.wait(begin).await;
            self.strike(nemesis).await;
        }
    }

    async fn wait(&mut self, until: Instant) {
        while Instant::now() < until {
            self.crashes.extend(self.target.unasked_end());
            let next = Instant::now() + Duration::from_millis(100);
            tokio::time::sleep_until(next.min(until)).await;
        }
    }

    async fn strike(&mut self, nemesis: &Nemesis) {
        let strike = self.choose(nemesis);
        let number = self.next_fault;
        self.next_fault += 1;
        self.tell(number, &strike, Phase::Begin, Ok(None));
        let held = self.hold(&strike).await;
        let took_effect = held.is_ok();
        self.tell(number, &strike, Phase::Held, held.map(Some));
        let healed = self.heal(&strike, took_effect).await;
        self.tell(number, &strike, Phase::End, healed);
    }

    /// Whom it strikes.
    fn choose<'n>(&mut self, nemesis: &'n Nemesis) -> Strike<'n> {
        let count = self.names.len();
        let everybody: Vec<usize> = (0..count).collect();
        let mut nodes: Vec<usize> =
            everybody.sample(&mut self.random, nemesis.nodes).copied().collect();
        nodes.sort_unstable();
        let mut wires = Vec::new();
        let impaired = match nemesis.fault {
            Fault::Kill | Fault::Pause | Fault::FullDisk | Fault::SlowDisk | Fault::Wipe => {
                nodes.clone()
            }
            Fault::Partition => {
                let shape = nemesis
                    .shape
                    .unwrap_or_else(|| Shape::ALL[self.random.random_range(0..Shape::ALL.len())]);
                let cut = shape.cut(count, &mut self.random);
                wires = cut.wires;
                nodes.clone_from(&cut.apart);
                cut.apart
            }
            Fault::Network => {
                nodes = everybody;
                Vec::new()
            }
            Fault::ClockJump => Vec::new(),
            Fault::RollingRestart => {
                nodes = everybody;
                // One at a time.
                vec![0]
            }
        };
        Strike { nemesis, nodes, wires, impaired }
    }

    /// Brings it about, and answers with what was seen of it after its time.
    async fn hold(&mut self, strike: &Strike<'_>) -> anyhow::Result<String> {
        let Strike { nemesis, nodes, wires, .. } = strike;
        let until = Instant::now() + nemesis.lasts;
        match nemesis.fault {
            Fault::Kill => {
                let seen = self.target.kill(nodes).await?;
                tokio::time::sleep_until(until).await;
                Ok(seen)
            }
            Fault::Pause => self.hold_pause(nodes, until).await,
            Fault::Partition => {
                self.target.cut(wires).await?;
                tokio::time::sleep_until(until).await;
                let counts = self.target.dropped(wires).await?;
                if let Some(at) = counts.iter().position(|count| *count == 0) {
                    let Wire { from, to } = wires[at];
                    bail!("nothing was dropped from {} to {}", self.names[from], self.names[to]);
                }
                let sum: u64 = counts.iter().sum();
                Ok(format!("{sum} packets were dropped on {} wires", wires.len()))
            }
            Fault::Network => {
                let before = self.watch.round_trip(0).await?;
                self.target.shape(Some(nemesis.network)).await?;
                tokio::time::sleep_until(until).await;
                let during = self.watch.round_trip(0).await?;
                if during < before.max(nemesis.network.delay / 2) && during < nemesis.network.delay
                {
                    bail!("a round trip takes {during:.1?}, and took {before:.1?} before");
                }
                let seen = self.target.shaped(nemesis.network).await?;
                Ok(format!("{seen}; a round trip takes {during:.1?}, before {before:.1?}"))
            }
            Fault::FullDisk => {
                let seen = self.target.fill(nodes[0]).await?;
                tokio::time::sleep_until(until).await;
                Ok(format!("{}: {seen}", self.names[nodes[0]]))
            }
            Fault::SlowDisk => {
                let seen = self.target.stall(nodes[0], nemesis.lasts).await?;
                Ok(format!("{}: {seen}", self.names[nodes[0]]))
            }
            Fault::ClockJump => {
                self.target.set_clock(nodes[0], nemesis.jump).await?;
                tokio::time::sleep_until(until).await;
                self.watch.clock_is_ahead(nodes[0], nemesis.jump).await
            }
            Fault::Wipe => self.target.wipe(nodes[0]).await,
            Fault::RollingRestart => {
                let mut seen = Vec::new();
                for &node in nodes {
                    seen.push(self.target.stop(node).await?);
                    self.target.start(node).await?;
                    self.watch.ready(&[node]).await?;
                }
                Ok(seen.join(", "))
            }
        }
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
            seen.push(format!("{} gave no answer in {:.1?}", self.names[node], silent?));
        }
        Ok(seen.join("; "))
    }

    /// Takes it back, and waits until every node is ready again.
    async fn heal(&mut self, strike: &Strike<'_>, began: bool) -> anyhow::Result<Option<String>> {
        let Strike { nemesis, nodes, .. } = strike;
        let healed = self.take_back(nemesis.fault, nodes).await;
        if began {
            healed?;
        }
        let took = self.watch.ready(&(0..self.names.len()).collect::<Vec<_>>()).await?;
        Ok(Some(format!("all nodes were ready {:.1} s after it was healed", took.as_secs_f64())))
    }

    async fn take_back(&mut self, fault: Fault, nodes: &[usize]) -> anyhow::Result<()> {
        match fault {
            Fault::Kill | Fault::Wipe => {
                for &node in nodes {
                    self.target.start(node).await?;
                }
                Ok(())
            }
            Fault::Pause => {
                for &node in nodes {
                    self.target.resume(node).await?;
                }
                Ok(())
            }
            Fault::Partition => self.target.mend().await,
            Fault::Network => self.target.shape(None).await,
            Fault::FullDisk => self.target.unfill(nodes[0]).await,
            Fault::ClockJump => self.target.set_clock(nodes[0], Duration::ZERO).await,
            Fault::SlowDisk | Fault::RollingRestart => Ok(()),
        }
    }

    /// Writes it down and says it.
    fn tell(
        &self,
        fault: u32,
        strike: &Strike<'_>,
        phase: Phase,
        seen: anyhow::Result<Option<String>>,
    ) {
        let named = |nodes: &[usize]| nodes.iter().map(|&at| self.names[at].clone()).collect();
        let (seen, unseen) = match seen {
            Ok(seen) => (seen, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let t_us = self.recorder.now_us();
        let kind = strike.nemesis.fault.to_string();
        let (nodes, impaired): (Vec<String>, Vec<String>) =
            (named(&strike.nodes), named(&strike.impaired));
        let words = match phase {
            Phase::Begin => format!("{kind}: {}", nodes.join(", ")),
            Phase::Held | Phase::End => seen
                .clone()
                .or(unseen.clone().map(|why| format!("NOT SEEN: {why}")))
                .unwrap_or_default(),
        };
        crate::run::say(t_us, &words);
        let event = FaultEvent { t_us, fault, kind, phase, nodes, impaired, seen, unseen };
        self.recorder.record(&Event::Fault(event));
    }
}
