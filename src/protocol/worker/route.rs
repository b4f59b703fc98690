//! The homes of a partition as an op found them when it began.
//!
//! While the ring changes, several placement versions are live. A read asks the homes of one of
//! them; a write goes to the homes of all, and has to reach W in each:
//!
//! ```text
//!   live versions      slots (read)      targets (write)
//!   1: a b c  reads ─▶  a b c            a {1,2}  b {1,2}  c {1}  d {2}
//!   2: a b d                             W in 1 of a b c,  and  W in 2 of a b d
//! ```
//!
//! A *target* is a home in some live version; it is written to once and counts in each version of
//! which it is a home. A fallback that keeps a hint counts in the versions of which it is a member:
//! and only members of the newest keep any: one that leaves would have to
//! be rid of it first.

use std::sync::Arc;

use super::Worker;
use crate::protocol::defect::Defect;
use crate::protocol::placement::{LIVE_MAX, Versions, View};
use crate::protocol::quorum::Consistency;
use crate::types::{NodeId, NodeName, Partition};

/// The homes of a partition as an op found them when it began.
#[derive(Debug)]
pub(super) struct Route {
    pub view: Arc<View>,
    pub partition: Partition,
    /// Which of the views that this worker was given it is: see [`super::change`].
    pub epoch: u64,
    /// Each home that reads ask: its place among the members, and its disk if that is known.
    pub slots: Vec<(u16, Option<NodeId>)>,
    /// Which slot is this node's.
    pub own: Option<usize>,
    /// The homes in all live versions; those of `slots` first, in the same order.
    pub targets: Vec<Target>,
    /// Which target is this node.
    pub own_target: Option<usize>,
    /// How many homes each live version has.
    sizes: [usize; LIVE_MAX],
    live: usize,
}

/// A home in some live version.
#[derive(Debug)]
pub(super) struct Target {
    pub name: NodeName,
    pub node: Option<NodeId>,
    /// The versions in which it is a home.
    pub versions: Versions,
    /// It was removed by force: nobody waits for it.
    pub removed: bool,
}

impl Route {
    fn new(view: Arc<View>, partition: Partition, epoch: u64, only_newest: bool) -> Self {
        let reads = view.reads();
        let homes = reads.homes(partition);
        let slots = homes.iter().map(|&member| (member, reads.id(member))).collect();
        let own = homes.iter().position(|&member| Some(member) == reads.my_member());
        let mut route = Self {
            partition,
            epoch,
            slots,
            own,
            targets: Vec::with_capacity(homes.len() + 1),
            own_target: None,
            sizes: [0; LIVE_MAX],
            live: view.live().len(),
            view: view.clone(),
        };
        for name in reads.home_names(partition) {
            route.add_target(name, Versions::NONE);
        }
        for (place, version) in view.live().iter().enumerate() {
            if only_newest && place + 1 < route.live {
                continue;
            }
            route.sizes[place] = usize::from(version.placement.replicas);
            for name in version.home_names(partition) {
                route.add_target(name, Versions::NONE.with(place));
            }
        }
        let me = |target: &Target| target.node == Some(view.me);
        route.own_target = route.targets.iter().position(me);
        route
    }

    fn add_target(&mut self, name: &NodeName, versions: Versions) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.name == *name) {
            target.versions = target.versions.or(versions);
            return;
        }
        let (node, removed) = (self.view.ids.get(name).copied(), self.view.is_removed(name));
        self.targets.push(Target { name: name.clone(), node, versions, removed });
    }

    /// How many acknowledgements each live version needs.
    pub fn needed(&self, consistency: Consistency, strict: bool) -> Needed {
        let of = |n: usize| match n {
            // A version that is not written to.
            0 => 0,
            n => {
                let majority = if strict { Consistency::Quorum.of(n) } else { 0 };
                consistency.of(n).max(majority)
            }
        };
        Needed { each: self.sizes.map(of), live: self.live }
    }

    /// The disks of all targets but this node's, where they are known: none for one that is not.
    /// Members that were removed are not among them.
    pub fn others(&self) -> impl Iterator<Item = Option<NodeId>> {
        let others = self.targets.iter().enumerate();
        let others = others.filter(|(at, target)| Some(*at) != self.own_target && !target.removed);
        others.map(|(_, target)| target.node)
    }
}

/// How many must acknowledge in each live version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed {
    each: [usize; LIVE_MAX],
    live: usize,
}

impl Needed {
    /// Whether `count` acknowledgements of each version are enough.
    pub fn met(&self, count: impl Fn(usize) -> usize) -> bool {
        (0..self.live).all(|place| count(place) >= self.each[place])
    }

    /// The most that any version needs: what people are told.
    pub fn most(&self) -> usize {
        self.each[..self.live].iter().copied().max().unwrap_or(0)
    }
}

impl Worker {
    /// The homes of a partition now; none before the founding.
    pub(super) fn route(&mut self, partition: Partition) -> Option<Arc<Route>> {
        if let Some(route) = self.routes.get(&partition) {
            return Some(route.clone());
        }
        let view = self.view.clone().filter(|view| partition.0 < view.partitions())?;
        let skip = self.has(Defect::SkipOlderVersion);
        let route = Arc::new(Route::new(view, partition, self.change.epoch(), skip));
        self.routes.insert(partition, route.clone());
        Some(route)
    }

    /// The nodes behind the homes of a live version, in order of preference, that can be reached;
    /// this node too.
    pub(super) fn live_fallbacks(&self, route: &Route, place: usize) -> Vec<NodeId> {
        let version = &route.view.live()[place];
        let members = version.fallbacks(route.partition);
        let nodes = members.into_iter().filter_map(|member| version.id(member));
        nodes.filter(|&node| node == route.view.me || self.peers.reachable(node)).collect()
    }
}
