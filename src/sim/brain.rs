//! What tells a node's workers of the cluster.
//!
//! The simulator's own stand-in for the control core: it knows the placement from the beginning
//! and sees the truth about who can be reached, late. A kill is noticed at once by a broken
//! connection; a cut link, a stopped process or a power loss only after some seconds.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::clock::Time;
use super::node::{Member, News};
use super::world::{Event, World, WorldConfig};
use crate::protocol::placement::{Member as Named, Placement, View};
use crate::protocol::step::{Conditions, Input};
use crate::types::{Boot, NodeId};

/// How often a process looks around.
const LOOK: Time = 500_000;
/// A peer that has been out of reach for so many looks counts as unreachable.
const LOOKS_MAX: u32 = 6;

/// What a process believes of its peers.
#[derive(Debug)]
pub(super) struct Brain {
    /// Told to the workers, by node.
    up: Vec<bool>,
    /// Looks in a row that contradicted it.
    missed: Vec<u32>,
    conditions: Conditions,
}

impl Brain {
    pub(super) fn new(nodes: usize) -> Self {
        Self { up: vec![false; nodes], missed: vec![0; nodes], conditions: Conditions::default() }
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
    /// A process has started: it learns the cluster soon, and then looks around for ever.
    pub(super) fn brain_started(&mut self, at: usize) {
        let Some(boot) = self.nodes[at].process.as_ref().map(|process| process.number) else {
            return;
        };
        let ready = self.rng.random_range(1_000..300_000);
        self.schedule(ready, Event::News { node: at, boot, news: News::View });
        self.schedule(ready + 1, Event::News { node: at, boot, news: News::Look });
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
                process.brain.conditions = conditions;
                self.trace.say(self.time, Some(at), || format!("{conditions:?}"));
                self.feed_all(at, &Input::Conditions(conditions));
            }
            News::Reachability(peer, up) => self.tell_reachability(at, peer, up),
            News::Look => self.look(at, boot),
        }
        self.settle(at);
    }

    fn view_of(&self, at: usize) -> Arc<View> {
        let node = &self.nodes[at];
        let ids: BTreeMap<_, _> = self.nodes.iter().map(|n| (n.name.clone(), n.id)).collect();
        let boot = node.process.as_ref().map_or(Boot(0), |process| process.boot);
        let placement = self.observer.placement().clone();
        let cluster = placement.cluster_id("sim");
        Arc::new(View::new(node.id, node.name.clone(), boot, cluster, placement, ids))
    }

    fn tell_reachability(&mut self, at: usize, peer: NodeId, up: bool) {
        let Some(&other) = self.ids.get(&peer) else { return };
        let Some(process) = &mut self.nodes[at].process else { return };
        process.brain.up[other] = up;
        process.brain.missed[other] = 0;
        let word = if up { "can be reached" } else { "cannot be reached" };
        self.trace.say(self.time, Some(at), || format!("hears that node-{other} {word}"));
        self.feed_all(at, &Input::Reachability(peer, up));
    }

    /// A worker has found a peer silent, or answering again.
    pub(super) fn found_reachable(&mut self, at: usize, peer: NodeId, up: bool) {
        self.tell_reachability(at, peer, up);
    }

    /// Compares what is believed with what is so.
    fn look(&mut self, at: usize, boot: u64) {
        for other in 0..self.nodes.len() {
            if other == at {
                continue;
            }
            let so = self.nodes[other].is_live() && self.network.is_open(at, other);
            let Some(process) = &mut self.nodes[at].process else { return };
            let brain = &mut process.brain;
            if brain.up[other] == so {
                brain.missed[other] = 0;
                continue;
            }
            brain.missed[other] += 1;
            if so || brain.missed[other] >= LOOKS_MAX {
                let peer = self.nodes[other].id;
                self.tell_reachability(at, peer, so);
            }
        }
        let conditions = self.conditions_of(at);
        let Some(process) = &self.nodes[at].process else { return };
        if process.brain.conditions != conditions {
            self.schedule(0, Event::News { node: at, boot, news: News::Conditions(conditions) });
        }
        self.schedule(LOOK, Event::News { node: at, boot, news: News::Look });
    }

    /// What the control core would conclude from what a majority says.
    fn conditions_of(&self, at: usize) -> Conditions {
        let Some(process) = &self.nodes[at].process else { return Conditions::default() };
        let majority = self.nodes.len() / 2 + 1;
        let met = 1 + process.brain.up.iter().filter(|up| **up).count();
        let own = self.nodes[at].clock.wall_offset_ms();
        let limit = self.config.tuning.skew_ms_max;
        let far = |other: &&super::node::SimNode| {
            other.clock.wall_offset_ms().abs_diff(own) > limit
        };
        Conditions {
            confirmed: process.brain.conditions.confirmed || met >= majority,
            clock_suspect: self.nodes.iter().filter(far).count() >= majority,
            draining: false,
        }
    }

    /// A process is gone and its kernel has closed its connections: whoever can be told, hears it.
    pub(super) fn peer_broke(&mut self, at: usize) {
        let peer = self.nodes[at].id;
        for other in 0..self.nodes.len() {
            let Some(boot) = self.nodes[other].process.as_ref().map(|process| process.number)
            else {
                continue;
            };
            if !self.network.is_cut(at, other) {
                let after = self.network.latency(at, other, &mut self.rng);
                let news = News::Reachability(peer, false);
                self.schedule(after, Event::News { node: other, boot, news });
            }
        }
    }
}
