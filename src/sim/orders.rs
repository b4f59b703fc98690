//! Changes of the ring, as operators order them and nodes bring them about.
//!
//! Where control cores run, the world only does what people do: it starts nodes that are no members,
//! gives orders to whichever member it meets, now and then two to two members at once, and starts again
//! who has left. What is live follows from the views that the cores give their workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::node::SimNode;
use super::observer::{Check, Place, held_at};
use super::ring::Move;
use super::tally::FaultKind;
use super::world::World;
use crate::protocol::control::{ControlInput, Order, OrderId, Refusal};
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::{Change, Member as Named, Placement, View};
use crate::protocol::progress::{Progress, Waiting};
use crate::protocol::step::Space;
use rand::RngExt;

/// What has been ordered, and what of it the nodes have shown.
#[derive(Debug, Default)]
pub(super) struct Orders {
    given: Vec<Move>,
    furthest: Option<Furthest>,
    /// By number, the version that somebody reads, or has read.
    read: BTreeMap<u32, PlacementTag>,
}

/// What who has come furthest has ever seen.
#[derive(Debug)]
struct Furthest {
    far: Far,
    live: Vec<Arc<Placement>>,
    /// Whose disks know it.
    nodes: BTreeSet<usize>,
}

/// How far a view is: what is the oldest live version, what is read, and the newest.
type Far = (PlacementTag, PlacementTag, PlacementTag);

fn far(view: &View) -> Far {
    (view.oldest().tag(), view.reads().tag(), view.newest().tag())
}

impl World {
    /// Somebody orders a change from some node that runs.
    pub(super) fn order(&mut self, what: Move) {
        let (Move::Join(at) | Move::Leave(at) | Move::Remove(at) | Move::Reweigh(at, _)) = what;
        if let Move::Join(_) = what {
            // A node that is no member comes by itself; where that is not enough, it is ordered, too.
            self.start(at);
            if self.config.auto_join {
                return;
            }
        }
        let takes = |node: &usize| *node != at && self.nodes[*node].is_live();
        let takers: Vec<usize> = (0..self.config.nodes).filter(takes).collect();
        if takers.is_empty() {
            return;
        }
        let taker = takers[self.rng.random_range(0..takers.len())];
        let Some(order) = self.to_order(taker, &what) else { return };
        if let Move::Remove(_) = what {
            // From here on its disk may count no more.
            self.observer.disk_lost(at);
        }
        self.orders.given.push(what);
        let id = OrderId(self.orders.given.len() as u64 - 1);
        self.trace.say(self.time, Some(taker), || format!("is ordered {order:?}"));
        self.control(taker, ControlInput::Order(id, order));
        self.settle(taker);
    }

    fn to_order(&self, taker: usize, what: &Move) -> Option<Order> {
        let view = self.nodes[taker].process.as_ref()?.view.as_ref()?;
        let name = |at: usize| self.nodes[at].name.clone();
        let apply = |change| Order::Apply { expected: view.newest().tag(), change };
        Some(match *what {
            Move::Join(at) => {
                let joins = vec![Named { name: name(at), zone: String::new(), weight: 1 }];
                apply(Change { joins, ..Change::default() })
            }
            Move::Leave(at) => Order::Decommission(name(at)),
            Move::Remove(at) => Order::Remove { name: name(at), force: true, accept_loss: false },
            Move::Reweigh(at, weight) => {
                apply(Change { reweighed: vec![(name(at), weight)], ..Change::default() })
            }
        })
    }

    /// An operator who sees that a removed member is still part of the ring, since too few would be left
    /// without it, has another node join.
    pub(super) fn operate(&mut self) {
        let newest = self.observer.placement();
        let views = self.nodes.iter().filter_map(|node| node.process.as_ref()?.view.as_ref());
        let is_removed =
            |view: &Arc<View>| newest.members.iter().any(|member| view.is_removed(&member.name));
        let stuck = views.filter(|view| !view.is_changing()).any(is_removed);
        let is_guest = |at: &usize| {
            self.nodes[*at].is_live() && newest.member(&self.nodes[*at].name).is_none()
        };
        let guest = (0..self.config.nodes).find(is_guest);
        if let Some(guest) = guest.filter(|_| stuck) {
            self.order(Move::Join(guest));
        }
    }

    /// A member has answered an order.
    pub(super) fn order_answered(&mut self, order: OrderId, refused: Option<&Refusal>) {
        let given = usize::try_from(order.0).ok().and_then(|at| self.orders.given.get(at));
        let Some(what) = given.filter(|_| refused.is_none()) else { return };
        self.count(match what {
            Move::Join(_) => FaultKind::Join,
            Move::Leave(_) => FaultKind::Leave,
            Move::Remove(_) => FaultKind::Remove,
            Move::Reweigh(..) => FaultKind::Reweigh,
        });
    }

    /// A node has handed over all that it held, and ends.
    pub(super) fn decommissioned(&mut self, at: usize, why: String) {
        let hints = self.nodes[at].disk.entries(Space::Hints);
        let hints = hints.filter_map(|(key, _)| Place::of(Space::Hints, key));
        let hints = hints.filter(|hint| self.is_undelivered(at, hint)).count();
        // A snapshot from before it had left brings back what was delivered since.
        if hints > 0 && !self.observer.is_lost(at) {
            let what = format!("node-{at} has left with {hints} hints that some home has not");
            self.observer.violate(Check::M, self.time, what);
        }
        self.trace.say(self.time, Some(at), || why);
        self.remove_process(at);
    }

    /// Whether some home lacks what a node holds as a hint. What all have, a node may leave behind: a disk that
    /// could not be read just then may have kept it from being deleted.
    fn is_undelivered(&self, at: usize, hint: &Place) -> bool {
        let Some(held) = held_at(&self.nodes[at], hint) else { return false };
        let own = Place { hint_for: None, ..hint.clone() };
        let homes = self.observer.homes(hint.partition);
        let homes = homes.iter().filter_map(|name| self.names.get(name));
        let mut homes = homes.filter(|&&home| !self.observer.is_lost(home));
        homes.any(|&home| {
            let record = held_at(&self.nodes[home], &own).unwrap_or_default();
            record.merge(&held) != record
        })
    }

    /// A node's workers are told of the cluster: what is read by one is never overruled by another.
    pub(super) fn view_seen(&mut self, at: usize, view: &View) {
        let tag = view.reads().tag();
        let first = *self.orders.read.entry(tag.number).or_insert(tag);
        if first != tag {
            let what = format!("node-{at} reads {tag:?}, and somebody has read {first:?}");
            self.observer.violate(Check::M, self.time, what);
        }
        for version in view.live() {
            self.observer.note_version(&version.placement);
            let name = &self.nodes[at].name;
            if version.placement.parent == 0 && version.tag() != self.observer.founded().tag {
                let what = format!("{name} holds another first version than its founders'");
                self.observer.violate(Check::M, self.time, what);
            }
        }
        let before = self.observer.live().to_vec();
        let live = self.furthest_view(at, view);
        if before.iter().map(|v| v.tag).ne(live.iter().map(|v| v.tag)) {
            self.count_members(&before[before.len() - 1], &live[live.len() - 1]);
            self.observer.set_live(&live);
            for node in 0..self.config.nodes {
                let is_member = self.observer.is_member(&self.nodes[node].name);
                self.observer.set_gone(node, !is_member);
            }
        }
    }

    /// The live versions, as who has come furthest has seen them.
    fn furthest_view(&mut self, at: usize, new: &View) -> Vec<Arc<Placement>> {
        let live = || new.live().iter().map(|version| version.placement.clone()).collect();
        let seen = || Furthest { far: far(new), live: live(), nodes: BTreeSet::new() };
        let furthest = self.orders.furthest.get_or_insert_with(seen);
        if far(new) > furthest.far {
            *furthest = seen();
        }
        if far(new) == furthest.far {
            furthest.nodes.insert(at);
        }
        furthest.live.clone()
    }

    /// A disk is lost or set back: what it alone knew of the ring was never heard of.
    pub(super) fn view_lost(&mut self, at: usize) {
        let Some(furthest) = &mut self.orders.furthest else { return };
        if furthest.nodes.remove(&at) && furthest.nodes.is_empty() {
            self.orders.furthest = None;
            let views = self.nodes.iter().enumerate().filter(|(other, _)| *other != at);
            let views = views
                .filter_map(|(other, node)| Some((other, node.process.as_ref()?.view.clone()?)));
            let views: Vec<(usize, Arc<View>)> = views.collect();
            views.iter().for_each(|(other, view)| self.view_seen(*other, view));
        }
    }

    /// Members that come by themselves are counted when a version first names them.
    fn count_members(&mut self, before: &Placement, after: &Placement) {
        if !self.config.auto_join || after.tag.number <= before.tag.number {
            return;
        }
        let joined = after.members.iter().filter(|member| before.member(&member.name).is_none());
        (0..joined.count()).for_each(|_| self.count(FaultKind::Join));
    }

    /// Whether no change is under way, as all members see it, and none will come by itself.
    pub(super) fn is_ring_still(&self) -> bool {
        if !self.config.control {
            return self.ring.is_still();
        }
        let newest = self.observer.placement();
        let is_still = |node: &SimNode| {
            let view = node.process.as_ref().and_then(|process| process.view.as_ref());
            view.is_some_and(|view| !view.is_changing() && view.newest().tag() == newest.tag)
        };
        let mut nodes = self.nodes[..self.config.nodes].iter();
        self.observer.live().len() == 1
            && nodes.all(|node| {
                let is_member = newest.member(&node.name).is_some();
                let will_join = self.config.auto_join && node.process.is_some();
                if is_member { is_still(node) } else { !will_join }
            })
    }

    /// What a change of the ring that does not end waits for, as those who hold it up see it.
    pub(super) fn ring_waits(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (at, node) in self.nodes[..self.config.nodes].iter().enumerate() {
            let Some(process) = node.process.as_ref().filter(|_| !self.is_ring_still()) else {
                continue;
            };
            let own = process.progress.last();
            let newest = self.observer.placement().tag;
            let done = |worker: &Progress| {
                worker.waiting == Waiting::default()
                    && [worker.acked, worker.synced].iter().all(|tag| *tag == newest)
            };
            let why = process.brain.mind().and_then(|mind| mind.control.not_ready());
            if own.iter().flatten().all(done) && why.is_none() {
                continue;
            }
            let waits = process.brain.mind().map(|mind| {
                let report = mind.control.change_report(node.clock.now(self.time));
                let acked = process.view.as_ref().and_then(|view| view.all_acked);
                format!("{:?} {} {acked:?} {:?}", report.live, report.all_acked, report.waits)
            });
            found.push(format!("node-{at} waits: {waits:?}, {why:?}; its own: {own:?}"));
        }
        found
    }
}
