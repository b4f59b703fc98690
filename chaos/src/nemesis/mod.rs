//! The nemesis: brings faults about, one after the other, sees that each takes effect, and heals it.
//!
//! ```text
//!   pause ─▶ well? ─▶ begin ─▶ held for a while ─▶ heal ─▶ every node well again ─▶ end
//!                       └── seen? if not, the run is invalid
//! ```

mod clock;
mod hold;
mod shape;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rand::rngs::ChaCha8Rng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;
use tokio::time::Instant;

pub use self::shape::Shape;
pub use self::watch::{Health, Watch};
use crate::caller::Nodes;
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
    /// The clock goes ahead or back, and is set right again.
    ClockJump,
    /// SIGKILL, and a new start on an empty disk.
    Wipe,
    /// Every node is asked to stop and started again, one after the other.
    RollingRestart,
    /// A node that is no member is started, on an empty disk.
    Join,
    /// A member is told to leave, and ends by itself once it has handed over what it holds.
    Leave,
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
            Self::Join => "join",
            Self::Leave => "leave",
        })
    }
}

impl Fault {
    /// How well the cluster must be before it: one disk after the other may be taken, and no sooner.
    fn wants(self) -> Option<Health> {
        matches!(self, Self::Wipe | Self::Leave).then_some(Health::Quiet)
    }

    /// How well the cluster must be again after it.
    fn leads_to(self) -> Health {
        match self {
            Self::Wipe | Self::Join | Self::Leave => Health::Whole,
            Self::Kill
            | Self::Pause
            | Self::Partition
            | Self::Network
            | Self::FullDisk
            | Self::SlowDisk
            | Self::ClockJump
            | Self::RollingRestart => Health::Ready,
        }
    }
}

/// Brings faults about until its time is up.
pub struct Director<'a, T> {
    target: &'a mut T,
    nodes: Arc<Nodes>,
    watch: Watch,
    recorder: Arc<Recorder>,
    random: ChaCha8Rng,
    /// How many copies of each key there are: no fewer nodes may be members.
    replicas: usize,
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
    /// How far a clock goes ahead, in seconds.
    jump_s: i64,
}

impl<'a, T: Target> Director<'a, T> {
    /// Nothing is wrong yet. The seed decides whom faults strike.
    pub fn new(
        target: &'a mut T,
        nodes: &Arc<Nodes>,
        watch: &Watch,
        recorder: &Arc<Recorder>,
        (replicas, seed): (usize, u64),
    ) -> Self {
        let (nodes, watch, recorder) = (nodes.clone(), watch.clone(), recorder.clone());
        let random = ChaCha8Rng::seed_from_u64(seed);
        let crashes = Vec::new();
        Self { target, nodes, watch, recorder, random, replicas, next_fault: 0, crashes }
    }

    /// Brings faults about until `until`; one that has begun is healed first.
    pub async fn run(&mut self, scenario: &Scenario, until: Instant) {
        let mut round: Vec<&Nemesis> = Vec::new();
        loop {
            if !round.iter().any(|nemesis| self.is_possible(nemesis.fault)) {
                round = scenario.nemesis.iter().collect();
                if scenario.order == Order::Random {
                    round.shuffle(&mut self.random);
                }
            }
            let Some(next) = round.iter().position(|nemesis| self.is_possible(nemesis.fault))
            else {
                return self.wait(until).await;
            };
            let nemesis = round.remove(next);
            let begin = Instant::now() + nemesis.pause;
            // A fault that would only just begin tells nothing.
            if begin + nemesis.lasts > until {
                return self.wait(until).await;
            }
            self.wait(begin).await;
            self.strike(nemesis).await;
        }
    }

    /// Whether there is anybody whom a fault can strike now.
    fn is_possible(&self, fault: Fault) -> bool {
        let members = self.nodes.members().len();
        match fault {
            Fault::Join => members < self.nodes.len(),
            Fault::Leave => members > self.replicas,
            _ => true,
        }
    }

    async fn wait(&mut self, until: Instant) {
        while Instant::now() < until {
            self.crashes.extend(self.target.unasked_ends());
            let next = Instant::now() + Duration::from_millis(100);
            tokio::time::sleep_until(next.min(until)).await;
        }
        self.crashes.extend(self.target.unasked_ends());
    }

    async fn strike(&mut self, nemesis: &Nemesis) {
        let strike = self.choose(nemesis);
        let well = self.well_before(nemesis.fault).await;
        let number = self.next_fault;
        self.next_fault += 1;
        self.tell(number, &strike, Phase::Begin, Ok(None));
        let held = match well {
            Ok(()) => self.hold(number, &strike).await,
            Err(error) => Err(error),
        };
        let took_effect = held.is_ok();
        self.tell(number, &strike, Phase::Held, held.map(Some));
        let healed = self.heal(&strike, took_effect).await;
        self.tell(number, &strike, Phase::End, healed);
        self.crashes.extend(self.target.unasked_ends());
    }

    async fn well_before(&mut self, fault: Fault) -> anyhow::Result<()> {
        let Some(health) = fault.wants() else { return Ok(()) };
        let well = self.watch.well(&self.nodes.members(), health).await;
        well.map(drop).context("it was not brought about")
    }

    /// Whom it strikes.
    fn choose<'n>(&mut self, nemesis: &'n Nemesis) -> Strike<'n> {
        let members = self.nodes.members();
        let absent: Vec<usize> = (0..self.nodes.len()).filter(|at| !members.contains(at)).collect();
        let mut nodes: Vec<usize> =
            members.sample(&mut self.random, nemesis.nodes).copied().collect();
        nodes.sort_unstable();
        let (mut wires, mut jump_s) = (Vec::new(), 0);
        let impaired = match nemesis.fault {
            Fault::Kill | Fault::Pause | Fault::FullDisk | Fault::SlowDisk | Fault::Wipe => {
                nodes.clone()
            }
            Fault::Partition => {
                let shape = nemesis
                    .shape
                    .unwrap_or_else(|| Shape::ALL[self.random.random_range(0..Shape::ALL.len())]);
                let cut = shape.cut(&members, &mut self.random);
                wires = cut.wires;
                nodes.clone_from(&cut.apart);
                cut.apart
            }
            Fault::Network => {
                nodes = members;
                Vec::new()
            }
            Fault::ClockJump => {
                let ahead = i64::try_from(nemesis.jump.as_secs()).unwrap_or(i64::MAX);
                jump_s = if self.random.random_bool(0.5) { ahead } else { -ahead };
                Vec::new()
            }
            Fault::RollingRestart => {
                nodes = members;
                // One at a time.
                vec![nodes[0]]
            }
            Fault::Join => {
                nodes = absent.sample(&mut self.random, 1).copied().collect();
                Vec::new()
            }
            // It serves until it has left, and sends its clients elsewhere.
            Fault::Leave => Vec::new(),
        };
        Strike { nemesis, nodes, wires, impaired, jump_s }
    }

    /// Takes it back, and waits until every node is well again.
    async fn heal(&mut self, strike: &Strike<'_>, began: bool) -> anyhow::Result<Option<String>> {
        let Strike { nemesis, nodes, .. } = strike;
        let healed = self.take_back(nemesis.fault, nodes).await;
        if began {
            healed?;
        }
        let (members, health) = (self.nodes.members(), nemesis.fault.leads_to());
        // Also one that crashed, or could not be stopped.
        self.target.start_missing(&members).await?;
        let took = self.watch.well(&members, health).await?;
        let (how, took) =
            (if health == Health::Whole { "whole" } else { "ready" }, took.as_secs_f64());
        Ok(Some(format!("all nodes were {how} {took:.1} s after it was healed")))
    }

    async fn take_back(&mut self, fault: Fault, nodes: &[usize]) -> anyhow::Result<()> {
        match fault {
            Fault::Pause => {
                for &node in nodes {
                    self.target.resume(node).await?;
                }
                Ok(())
            }
            Fault::Partition => self.target.mend().await,
            Fault::Network => self.target.shape(None).await,
            Fault::FullDisk => self.target.unfill(nodes[0]).await,
            Fault::ClockJump => self.target.set_clock(nodes[0], 0).await,
            Fault::Kill
            | Fault::Wipe
            | Fault::SlowDisk
            | Fault::RollingRestart
            | Fault::Join
            | Fault::Leave => Ok(()),
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
        let named =
            |nodes: &[usize]| nodes.iter().map(|&at| self.nodes.name(at).to_owned()).collect();
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
