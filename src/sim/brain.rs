//! What tells a node's workers of the cluster: the real control core, or an oracle.
//!
//! The oracle is for scripts and for part of the seeds: it knows the placement from the beginning
//! and sees the truth about who can be reached, late. A kill is noticed at once by a broken
//! connection; a cut link, a stopped process or a power loss only after some seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::clock::Time;
use super::disk::Source;
use super::network::Fate;
use super::node::{Member, News};
use super::observer::Check;
use super::world::{Event, World, WorldConfig};
use crate::protocol::control::{
    ConnId, Control, ControlConfig, ControlEffect, ControlInput, Identity,
};
use crate::protocol::placement::{Member as Named, Placement, View};
use crate::protocol::step::{Conditions, Input, Reach, Space};
use crate::types::{Boot, Generation, Mono, NodeId, Stamp};

/// The name of every simulated cluster.
const CLUSTER: &str = "sim";
/// How often a process looks around.
const LOOK: Time = 500_000;
/// A peer that has been out of reach for so many looks counts as unreachable.
const LOOKS_MAX: u32 = 6;

/// What tells the workers of one process.
pub(super) enum Brain {
    Oracle(Oracle),
    Mind(Box<Mind>),
}

/// The real control core, and what its driver keeps for it.
pub(super) struct Mind {
    pub(super) control: Control,
    pub(super) connect: BTreeSet<SocketAddr>,
    /// The newest accepted stream of each peer.
    pub(super) streams: BTreeMap<NodeId, ConnId>,
}

/// What a process believes of its peers.
#[derive(Debug)]
pub(super) struct Oracle {
    /// Told to the workers, by node.
    reach: Vec<Reach>,
    /// Looks in a row that contradicted it.
    missed: Vec<u32>,
    conditions: Conditions,
}

impl Brain {
    pub(super) fn oracle(nodes: usize) -> Self {
        let conditions = Conditions::default();
        Self::Oracle(Oracle { reach: vec![Reach::Away; nodes], missed: vec![0; nodes], conditions })
    }

    pub(super) fn mind(&self) -> Option<&Mind> {
        match self {
            Self::Mind(mind) => Some(mind),
            Self::Oracle(_) => None,
        }
    }

    pub(super) fn mind_mut(&mut self) -> Option<&mut Mind> {
        match self {
            Self::Mind(mind) => Some(mind),
            Self::Oracle(_) => None,
        }
    }

    fn oracle_mut(&mut self) -> Option<&mut Oracle> {
        match self {
            Self::Oracle(oracle) => Some(oracle),
            Self::Mind(_) => None,
        }
    }

    /// When the control core wants to be stepped.
    pub(super) fn next_timer(&self) -> Option<Mono> {
        self.mind().and_then(|mind| mind.control.next_timer())
    }
}

/// A placement for the world, as its founders would make it; some worlds have zones or weights.
pub(super) fn placement(
    config: &WorldConfig,
    members: &[Member],
    rng: &mut ChaCha8Rng,
) -> Arc<Placement> {
    let (zones, weights) = (rng.random_ratio(1, 3), rng.random_ratio(1, 4));
    let named = members.iter().enumerate().map(|(at, member)| Named {
        name: member.name.clone(),
        zone: if zones { format!("zone-{}", at % 3) } else { String::new() },
        weight: if weights { rng.random_range(1..=3) } else { 1 },
    });
    Arc::new(Placement::found(named.collect(), config.replicas, config.partitions))
}

impl World {
    /// A process has started: it learns of the cluster.
    pub(super) fn brain_started(&mut self, at: usize, seed: u64) {
        let Some(boot) = self.nodes[at].process.as_ref().map(|process| process.number) else {
            return;
        };
        if self.config.control {
            return self.start_control(at, boot, seed);
        }
        let ready = self.rng.random_range(1_000..300_000) / self.config.pace;
        self.schedule(ready, Event::News { node: at, boot, news: News::View });
        self.schedule(ready + 1, Event::News { node: at, boot, news: News::Look });
    }

    fn start_control(&mut self, at: usize, number: u64, seed: u64) {
        let now = self.nodes[at].clock.now(self.time);
        let members = &self.nodes[..self.config.nodes];
        let founders = members[..self.config.founders].iter();
        let founders: Vec<_> = founders.map(|node| node.name.clone()).collect();
        let seeds: Vec<SocketAddr> = members.iter().map(|node| node.address).collect();
        let placement = self.observer.founded();
        let member = placement.members.iter().find(|m| m.name == self.nodes[at].name);
        let (zone, weight) = member.map_or((String::new(), 1), |m| (m.zone.clone(), m.weight));
        let node = &self.nodes[at];
        let config = ControlConfig {
            cluster_name: CLUSTER.into(),
            zone,
            weight,
            internal: node.address,
            client: format!("{}:0", node.address.ip()),
            admin: format!("{}:0", node.address.ip()),
            founders,
            replicas: placement.replicas,
            partitions: placement.partitions,
            skew_ms_max: self.config.tuning.skew_ms_max,
            auto_join: self.config.auto_join,
            settle_ms: 2_000,
        };
        let boot = node.process.as_ref().map_or(Boot(0), |process| process.boot);
        let identity = Identity {
            id: node.id,
            name: node.name.clone(),
            generation: Generation(node.generation),
            boot,
            recovered: node.disk.number(),
        };
        let durable =
            node.disk.entries(Space::Meta).filter(|(key, _)| key.starts_with(b"control/"));
        let durable = durable.map(|(key, value)| (key.clone(), value.clone())).collect();
        let made = Control::new(config, identity, durable, seed, now);
        #[cfg(any(test, feature = "seeded-defects"))]
        let made = made.map(|mut control| {
            self.config.defect.into_iter().for_each(|defect| control.make(defect));
            control
        });
        let control = match made {
            Ok(control) => control,
            Err(error) => {
                let what = format!("node-{at} cannot start: {error}");
                return self.observer.violate(Check::M, self.time, what);
            }
        };
        let mind = Mind { control, connect: BTreeSet::new(), streams: BTreeMap::new() };
        if let Some(process) = &mut self.nodes[at].process {
            process.brain = Brain::Mind(Box::new(mind));
        }
        self.control(at, ControlInput::Seeds(seeds));
        let soon = self.rng.random_range(1_000..20_000) / self.config.pace;
        self.schedule(soon, Event::Dial { node: at, boot: number });
        self.settle(at);
    }

    /// Carries out one effect of a control core.
    pub(super) fn carry_control(&mut self, at: usize, effect: ControlEffect) {
        match effect {
            ControlEffect::SendDatagram(to, bytes) => self.send_datagram(at, to, &bytes),
            ControlEffect::Send(to, bytes) => self.say_control(at, to, bytes),
            ControlEffect::Connect(addresses) => {
                let process = self.nodes[at].process.as_mut();
                if let Some(mind) = process.and_then(|process| process.brain.mind_mut()) {
                    mind.connect = addresses;
                }
            }
            ControlEffect::Accept(conn, peer) => self.accept_stream(at, conn, peer),
            ControlEffect::Reject(conn, reason) => self.reject_stream(conn, reason),
            ControlEffect::Persist(number, changes) => {
                self.commit(at, Source::Control(number), changes, Stamp::default());
            }
            ControlEffect::Note(changes) => {
                self.commit(at, Source::Note, changes, Stamp::default());
            }
            ControlEffect::View(view) => {
                let number = view.newest().tag().number;
                self.trace.say(self.time, Some(at), || format!("holds placement {number}"));
                if !self.is_twin(at) {
                    self.view_seen(at, &view);
                }
                if let Some(process) = &mut self.nodes[at].process {
                    process.view = Some(view.clone());
                }
                self.feed_all(at, &Input::View(view));
            }
            ControlEffect::Reachability(peer, reach) => {
                let other = self.ids.get(&peer).copied();
                self.trace.say(self.time, Some(at), || format!("finds that {other:?} {reach}"));
                self.feed_all(at, &Input::Reachability(peer, reach));
            }
            ControlEffect::Conditions(conditions) => {
                self.trace.say(self.time, Some(at), || format!("{conditions:?}"));
                self.feed_all(at, &Input::Conditions(conditions));
            }
            ControlEffect::Log(_, line) => self.trace.say(self.time, Some(at), || line),
            ControlEffect::ComeBack(_) | ControlEffect::Stop(_) if self.is_twin(at) => {
                self.twin_stops();
            }
            ControlEffect::ComeBack(why) => self.come_back(at, &why),
            ControlEffect::Decommissioned(why) => self.decommissioned(at, why),
            ControlEffect::Answer(order, answer) => {
                self.trace.say(self.time, Some(at), || format!("answers {order:?}: {answer:?}"));
                self.order_answered(order, answer.as_ref().err());
            }
            ControlEffect::Stop(why) => {
                // A lost disk goes on as another, and a copied folder is gone: nothing justifies it.
                let what = format!("node-{at} stops itself: {why}");
                self.observer.violate(Check::M, self.time, what);
                self.kill(at);
            }
        }
    }

    fn send_datagram(&mut self, from: usize, to: SocketAddr, bytes: &Bytes) {
        let Some(to) = self.nodes.iter().position(|node| node.address == to) else { return };
        let source = self.nodes[from].address;
        for fate in self.network.fates(self.time, from, to, &mut self.rng) {
            let (after, bytes) = match fate {
                Fate::Arrives(after) => (after, bytes.clone()),
                // Nothing but the core's own checks stands between the network and gossip.
                Fate::Damaged(after) => (after, self.damage_bytes(bytes)),
            };
            self.schedule(after, Event::Datagram { to, source, bytes });
        }
    }

    /// A datagram arrives.
    pub(super) fn datagram(&mut self, to: usize, source: SocketAddr, bytes: Bytes) {
        self.trace.event(self.time, to, b'd', &bytes);
        let line = || format!("← {source} datagram of {} bytes", bytes.len());
        self.trace.say(self.time, Some(to), line);
        self.control(to, ControlInput::Datagram(source, bytes));
        self.settle(to);
    }

    /// A process hears of the cluster.
    pub(super) fn news(&mut self, at: usize, boot: u64, news: News) {
        let Some(process) = &mut self.nodes[at].process else { return };
        if process.number != boot {
            return;
        }
        match news {
            News::View => {
                let view = self.view_of(at);
                if let Some(process) = &mut self.nodes[at].process {
                    process.view = Some(view.clone());
                }
                self.feed_all(at, &Input::View(view));
            }
            News::Conditions(conditions) => {
                if let Some(oracle) = process.brain.oracle_mut() {
                    oracle.conditions = conditions;
                }
                self.trace.say(self.time, Some(at), || format!("{conditions:?}"));
                self.feed_all(at, &Input::Conditions(conditions));
            }
            News::Reachability(peer, reach) => self.tell_reachability(at, peer, reach),
            News::Look => self.look(at, boot),
        }
        self.settle(at);
    }

    fn view_of(&self, at: usize) -> Arc<View> {
        self.oracle_view(at, self.observer.founded().cluster_id(CLUSTER))
    }

    fn tell_reachability(&mut self, at: usize, peer: NodeId, reach: Reach) {
        let Some(&other) = self.ids.get(&peer) else { return };
        let Some(process) = &mut self.nodes[at].process else { return };
        let Some(oracle) = process.brain.oracle_mut() else { return };
        oracle.reach[other] = reach;
        oracle.missed[other] = 0;
        self.trace.say(self.time, Some(at), || format!("hears that node-{other} {reach}"));
        self.feed_all(at, &Input::Reachability(peer, reach));
    }

    /// A worker has found a peer silent, or answering again.
    pub(super) fn found_reachable(&mut self, at: usize, peer: NodeId, up: bool) {
        if self.config.control {
            self.control(at, ControlInput::Answering(peer, up));
        } else {
            let reach = if up { Reach::Answers } else { Reach::Silent };
            self.tell_reachability(at, peer, reach);
        }
    }

    /// Compares what is believed with what is so.
    fn look(&mut self, at: usize, boot: u64) {
        for other in 0..self.nodes.len() {
            if other == at {
                continue;
            }
            let so = self.nodes[other].is_live() && self.network.is_open(at, other);
            let Some(process) = &mut self.nodes[at].process else { return };
            let Some(oracle) = process.brain.oracle_mut() else { return };
            let reach = if so { Reach::Answers } else { Reach::Away };
            if oracle.reach[other] == reach {
                oracle.missed[other] = 0;
                continue;
            }
            oracle.missed[other] += 1;
            if so || oracle.missed[other] >= LOOKS_MAX {
                let peer = self.nodes[other].id;
                self.tell_reachability(at, peer, reach);
            }
        }
        let Some(Brain::Oracle(oracle)) = self.nodes[at].process.as_ref().map(|p| &p.brain) else {
            return;
        };
        let conditions = self.conditions_of(at, oracle);
        if oracle.conditions != conditions {
            self.schedule(0, Event::News { node: at, boot, news: News::Conditions(conditions) });
        }
        self.schedule(self.paced(LOOK), Event::News { node: at, boot, news: News::Look });
    }

    /// What the control core would conclude from what a majority says.
    fn conditions_of(&self, at: usize, oracle: &Oracle) -> Conditions {
        let majority = self.nodes.len() / 2 + 1;
        let met = 1 + oracle.reach.iter().filter(|reach| reach.answers()).count();
        let own = self.nodes[at].clock.wall_offset_ms();
        let limit = self.config.tuning.skew_ms_max;
        let far =
            |other: &&super::node::SimNode| other.clock.wall_offset_ms().abs_diff(own) > limit;
        Conditions {
            confirmed: oracle.conditions.confirmed || met >= majority,
            clock_suspect: self.nodes.iter().filter(far).count() >= majority,
            draining: false,
        }
    }

    /// A process is gone and its kernel has closed its connections: whoever can be told, hears it.
    pub(super) fn peer_broke(&mut self, at: usize, process: u64) {
        if self.config.control {
            return self.break_streams(at, process);
        }
        let peer = self.nodes[at].id;
        for other in 0..self.nodes.len() {
            let Some(boot) = self.nodes[other].process.as_ref().map(|process| process.number)
            else {
                continue;
            };
            if !self.network.is_cut(at, other) {
                let after = self.network.latency(at, other, &mut self.rng);
                let news = News::Reachability(peer, Reach::Away);
                self.schedule(after, Event::News { node: other, boot, news });
            }
        }
    }
}
