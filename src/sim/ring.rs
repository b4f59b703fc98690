//! Changes of the ring, as an oracle conducts them.
//!
//! Where no control core runs, the world itself is the steward: it makes the next version, hears what
//! the workers tell of their progress, and tells each process, sooner or later, which versions are live,
//! which to read, and which everyone has acknowledged. What a node has told is durable at once: what a
//! kill between the two would do is the control core's to survive. There are no rivals.
//!
//! It keeps the rules that the control core keeps: at most one change at a time, save the removal of a
//! member that died in the midst of one; the oldest version retires when every member of every live
//! version reads a newer one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::RngExt;

use super::node::News;
use super::tally::FaultKind;
use super::world::{Event, World};
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::{Change, LIVE_MAX, Member as Named, Placement, View};
use crate::protocol::progress::Progress;
use crate::types::{Boot, NodeId, NodeName};

/// The longest that news of a change takes to a process, in microseconds of the nodes' time.
const NEWS: u64 = 400_000;

/// A change that someone asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Join(usize),
    Leave(usize),
    /// The node is dead for good, and its disk with it.
    Remove(usize),
    /// A member is to have another share.
    Reweigh(usize, u32),
}

/// Where the changes of the ring are.
pub(super) struct Ring {
    /// Versions that have not retired, oldest first.
    live: Vec<Arc<Placement>>,
    /// What each node has told, by number.
    told: Vec<Told>,
    removed: BTreeSet<NodeName>,
    /// The same, by place.
    dead: BTreeSet<usize>,
    /// Who has left: it would have to come back as another.
    left: BTreeSet<NodeName>,
    fenced: BTreeSet<NodeId>,
    /// What processes were last told of: (oldest, read, acknowledged by all, newest).
    news: (u32, u32, u32, u32),
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    acked: u32,
    synced: u32,
    reads_ended: u32,
}

impl Ring {
    pub(super) fn new(placement: Arc<Placement>, nodes: usize) -> Self {
        Self {
            live: vec![placement],
            told: vec![Told::default(); nodes],
            removed: BTreeSet::new(),
            dead: BTreeSet::new(),
            left: BTreeSet::new(),
            fenced: BTreeSet::new(),
            news: (1, 1, 1, 1),
        }
    }

    pub(super) fn live(&self) -> &[Arc<Placement>] {
        &self.live
    }

    /// Whether a node was removed by force.
    pub(super) fn is_removed(&self, at: usize) -> bool {
        self.dead.contains(&at)
    }

    /// Whether no change is under way.
    pub(super) fn is_still(&self) -> bool {
        self.live.len() == 1
    }

    /// Of the members of all live versions, the lowest number of what they have told.
    fn least(&self, names: &BTreeMap<NodeName, usize>, what: impl Fn(&Told) -> u32) -> u32 {
        let members = self.live.iter().flat_map(|version| &version.members);
        let members = members.filter(|member| !self.removed.contains(&member.name));
        let told = members.filter_map(|member| names.get(&member.name)).map(|&at| &self.told[at]);
        told.map(what).min().unwrap_or(0)
    }

    /// The newest live version of at most this number.
    fn newest_to(&self, number: u32) -> PlacementTag {
        let reached = self.live.iter().take_while(|version| version.tag.number <= number);
        reached.last().unwrap_or(&self.live[0]).tag
    }
}

impl World {
    /// Someone asks for a change. Refused while another is under way, and where N cannot be met.
    pub(super) fn move_ring(&mut self, what: Move) {
        if self.config.control {
            return self.order(what);
        }
        let (Move::Join(at) | Move::Leave(at) | Move::Remove(at) | Move::Reweigh(at, _)) = what;
        let name = self.nodes[at].name.clone();
        let newest = self.ring.live[self.ring.live.len() - 1].clone();
        let is_member = newest.member(&name).is_some();
        let room = match what {
            Move::Remove(_) => self.ring.live.len() < LIVE_MAX && self.ring.removed.is_empty(),
            Move::Join(_) | Move::Leave(_) | Move::Reweigh(..) => self.ring.is_still(),
        };
        if !room || self.ring.left.contains(&name) {
            return;
        }
        let change = match what {
            Move::Join(_) => {
                let joins = vec![Named { name: name.clone(), zone: String::new(), weight: 1 }];
                Change { joins, ..Change::default() }
            }
            Move::Leave(_) | Move::Remove(_) => {
                Change { leaves: vec![name.clone()], ..Change::default() }
            }
            Move::Reweigh(_, weight) => {
                Change { reweighed: vec![(name.clone(), weight)], ..Change::default() }
            }
        };
        if is_member == matches!(what, Move::Join(_)) {
            return;
        }
        let Ok(next) = newest.next(&change) else { return };
        self.trace.say(self.time, Some(at), || format!("{what:?}: {:?}", next.tag));
        if let Move::Remove(_) = what {
            self.ring.removed.insert(name.clone());
            self.ring.dead.insert(at);
            self.observer.node_gone(at);
            self.ring.fenced.insert(self.nodes[at].id);
            self.observer.disk_lost(at);
            self.kill(at);
        }
        if matches!(what, Move::Leave(_) | Move::Remove(_)) {
            self.ring.left.insert(name);
        }
        self.ring.live.push(Arc::new(next));
        self.observer.set_live(self.ring.live());
        self.count(match what {
            Move::Join(_) => FaultKind::Join,
            Move::Leave(_) => FaultKind::Leave,
            Move::Remove(_) => FaultKind::Remove,
            Move::Reweigh(..) => FaultKind::Reweigh,
        });
        self.ring_moved();
    }

    /// The workers of a node have told how far they have come.
    pub(super) fn ring_progress(&mut self, at: usize, progress: Progress) {
        let Some(told) = self.ring.told.get_mut(at).filter(|_| !self.config.control) else {
            return;
        };
        told.acked = told.acked.max(progress.acked.number);
        told.synced = told.synced.max(progress.synced.number);
        told.reads_ended = told.reads_ended.max(progress.reads_ended.number);
        self.ring_moved();
    }

    /// Retires what can be, and sees to it that processes hear of what is new.
    fn ring_moved(&mut self) {
        let names = &self.names;
        while self.ring.live.len() > 1
            && self.ring.least(names, |told| told.reads_ended) >= self.ring.live[1].tag.number
        {
            let retired = self.ring.live.remove(0);
            let newest = &self.ring.live[self.ring.live.len() - 1];
            let left = retired.members.iter().filter(|it| newest.member(&it.name).is_none());
            for at in left.filter_map(|member| names.get(&member.name)) {
                self.observer.node_gone(*at);
            }
        }
        self.observer.set_live(self.ring.live());
        let newest = self.ring.live[self.ring.live.len() - 1].tag.number;
        let (reads, acked) = self.reached();
        let news = (self.ring.live[0].tag.number, reads.number, acked.number, newest);
        if std::mem::replace(&mut self.ring.news, news) == news {
            return;
        }
        self.trace.say(self.time, None, || {
            format!(
                "the ring: oldest {}, read {}, acked {}, newest {newest}",
                news.0, news.1, news.2
            )
        });
        for at in 0..self.config.nodes {
            let Some(process) = &self.nodes[at].process else { continue };
            let boot = process.number;
            let after = self.rng.random_range(0..NEWS) / self.config.pace;
            self.schedule(after, Event::News { node: at, boot, news: News::View });
        }
    }

    /// The versions of which W homes each have to hold a write whose coordinator's newest was this one:
    /// that one, and those before it that someone may still read. (A coordinator that had not heard of a
    /// later one had not acknowledged it either, when it answered.)
    pub(super) fn versions_to_hold(&self, newest: u32) -> Vec<Arc<Placement>> {
        let live = self.observer.live().iter().map(|version| version.tag.number);
        let older = live.filter(|number| *number < newest);
        older
            .filter_map(|number| self.observer.version(number))
            .chain(self.observer.version(newest))
            .collect()
    }

    /// The version to read, and the one that all have acknowledged.
    fn reached(&self) -> (PlacementTag, PlacementTag) {
        let synced = self.ring.least(&self.names, |told| told.synced);
        let acked = self.ring.least(&self.names, |told| told.acked);
        (self.ring.newest_to(synced), self.ring.newest_to(acked))
    }

    /// What a process is told of the cluster now.
    pub(super) fn oracle_view(&self, at: usize, cluster: crate::types::ClusterId) -> Arc<View> {
        let node = &self.nodes[at];
        let present = self.nodes[..self.config.nodes].iter();
        let present = present.filter(|node| !self.ring.removed.contains(&node.name));
        let ids = present.map(|node| (node.name.clone(), node.id)).collect();
        let boot = node.process.as_ref().map_or(Boot(0), |process| process.boot);
        let (reads, acked) = self.reached();
        let first = self.ring.live[0].clone();
        let view = View::new(node.id, node.name.clone(), boot, cluster, first, ids);
        let view = view.with_live(&self.ring.live, reads, Some(acked));
        let (fenced, removed) = (self.ring.fenced.clone(), self.ring.removed.clone());
        Arc::new(view.fencing(fenced).removing(removed))
    }
}
