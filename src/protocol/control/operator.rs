//! What an operator can order of the ring, and why it is refused.
//!
//! Any member takes an order. It is answered once the version that it asks for is durable, or the member
//! removed; from there on it goes its way without the node that took it (see [`super::waiting`]).

use super::admission::NOBODY;
use super::founding::Standing;
use super::peers::Peer;
use super::state::Control;
use super::{ControlEffect, OrderId};
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::{Change, Placement, PlanRefused};
use crate::protocol::progress::Waiting;
use crate::types::{Mono, NodeName};

/// Members are asked for so long before an order is given up: an admission takes a few round trips, and a
/// disk is heard for a while after it died.
const ORDER_MICROS: u64 = 20_000_000;

/// What an operator wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Carry out a plan that was made on this version.
    Apply {
        /// The newest version when the plan was made.
        expected: PlacementTag,
        /// The plan.
        change: Change,
    },
    /// A live member hands over what it holds, leaves the ring, and ends.
    Decommission(NodeName),
    /// A dead member is given up, with its disk.
    Remove {
        /// Whom.
        name: NodeName,
        /// That it is dead for good.
        force: bool,
        /// That it may have held the only copy of something, because an earlier removal is not over.
        accept_loss: bool,
    },
}

/// An order was carried out as far as the node that took it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The version that was made; none for a removal, whose version follows.
    pub placement: Option<PlacementTag>,
}

/// Why an order was refused. Nothing was changed, save for [`Refusal::NoAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node has no say in the ring now.
    #[error("this node cannot take the order ({0}): give it to a member that is ready")]
    NotReady(String),
    /// Another operator's order is being carried out here.
    #[error("another operator's order is being carried out: wait for its answer, then look again")]
    Busy,
    /// A change is under way.
    #[error(
        "a change to placement version {newest} is under way, and there is one at a time: wait until \
         `coterie status` shows it done{waits}"
    )]
    UnderWay {
        /// The newest version.
        newest: u32,
        /// Who holds it up, and how to end that.
        waits: String,
    },
    /// The plan was made on another version.
    #[error(
        "the plan was made on placement version {expected}, and {newest} is the newest now: somebody \
         else has changed the ring; make the plan anew"
    )]
    Stale {
        /// On which.
        expected: PlacementTag,
        /// The newest.
        newest: PlacementTag,
    },
    /// A node of this name is not there.
    #[error("{0} is not there: start it, with seeds of this cluster, then make the plan anew")]
    Absent(NodeName),
    /// Who is to join has left the ring with this disk, or another disk has its name.
    #[error("{0} cannot join with the disk that it has: start it with an empty data folder")]
    OldDisk(NodeName),
    /// The plan has no version.
    #[error(transparent)]
    Plan(#[from] PlanRefused),
    /// Who is to leave cannot be reached, and could hand nothing over.
    #[error(
        "{0} cannot be reached, and has to hand over what it holds: start it; if its disk is lost, start \
         it with an empty data folder; if it is not to come back, `coterie remove {0} --force`"
    )]
    Unreachable(NodeName),
    /// A member is removed only by force.
    #[error(
        "what only {0} holds would be lost: to take out a node that lives, `coterie decommission {0}`; if it \
         is dead for good, say --force"
    )]
    NeedsForce(NodeName),
    /// Who is to be removed lives.
    #[error(
        "{0} lives: `coterie decommission {0}` takes it out with all that it holds; or stop it"
    )]
    Lives(NodeName),
    /// An earlier removal is not over.
    #[error(
        "the removal of {} is not over, and {name} may hold the only copy of what it held: wait until \
         `coterie status` shows no change, or say --accept-loss",
        list(earlier)
    )]
    NotRepaired {
        /// Who is to be removed.
        name: NodeName,
        /// Who was removed before.
        earlier: Vec<NodeName>,
    },
    /// A majority must agree.
    #[error(
        "{there} of {members} members are there, and a majority must agree that {name} is gone: start \
         others; a disk that is lost can be replaced by starting its node with an empty data folder"
    )]
    NoMajority {
        /// Who is to be removed.
        name: NodeName,
        /// Members that can be reached, this one included.
        there: usize,
        /// All.
        members: usize,
    },
    /// No majority of members has agreed in time; it may yet.
    #[error(
        "a majority of members has not agreed in time{0}: look at `coterie status`, and try again"
    )]
    NoAnswer(String),
}

fn list(names: &[NodeName]) -> String {
    names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

/// An order that is being carried out.
pub(super) struct Ordered {
    id: OrderId,
    work: Work,
    since: Mono,
}

enum Work {
    /// Make this version, once all who join have entered.
    Change(Change),
    Remove(NodeName),
}

impl Control {
    /// Takes an order.
    pub(super) fn order(&mut self, id: OrderId, order: Order) {
        match self.judge_order(order) {
            Ok(work) => {
                let removes = matches!(work, Work::Remove(_));
                self.works.order = Some(Ordered { id, work, since: self.now.mono });
                self.mind_order();
                if removes && self.proposes() {
                    self.ask_anew();
                }
            }
            Err(refusal) => self.answer(id, Err(refusal)),
        }
    }

    fn answer(&mut self, id: OrderId, answer: Result<Agreed, Refusal>) {
        self.effects.push(ControlEffect::Answer(id, answer));
    }

    fn judge_order(&mut self, order: Order) -> Result<Work, Refusal> {
        if let Some(why) = self.not_ready() {
            return Err(Refusal::NotReady(why));
        }
        let member = self.founding.standing() == Some(Standing::Member);
        if !member || !self.conditions.confirmed {
            let why = "a majority of members has not confirmed its disk yet";
            return Err(Refusal::NotReady(why.to_owned()));
        }
        let Some(newest) = self.placement().cloned() else {
            return Err(Refusal::NotReady("no placement is known".to_owned()));
        };
        if self.works.order.is_some() || self.works.planning {
            return Err(Refusal::Busy);
        }
        match order {
            Order::Apply { expected, change } => {
                if expected != newest.tag {
                    return Err(Refusal::Stale { expected, newest: newest.tag });
                }
                self.judge_change(&newest, change)
            }
            Order::Decommission(name) => {
                let change = Change { leaves: vec![name.clone()], ..Change::default() };
                if newest.member(&name).is_some() && !self.is_there(&name) {
                    return Err(Refusal::Unreachable(name));
                }
                self.judge_change(&newest, change)
            }
            Order::Remove { name, force, accept_loss } => {
                self.judge_removal(&newest, name, force, accept_loss)
            }
        }
    }

    fn judge_change(&self, newest: &Placement, change: Change) -> Result<Work, Refusal> {
        if self.is_changing() || self.works.plan.is_some() {
            let (newest, waits) = (newest.tag.number, self.waits_in_words());
            return Err(Refusal::UnderWay { newest, waits });
        }
        newest.next(&change)?;
        for name in change.joins.iter().map(|member| &member.name) {
            let Some(cluster) = self.founding.cluster() else { break };
            let found = self.peers.named(name).find(|(_, peer)| peer.is_reachable());
            let Some((id, _)) = found else { return Err(Refusal::Absent(name.clone())) };
            if self.has_left(name, id)
                || cluster.ids.get(name).is_some_and(|present| *present != id)
            {
                return Err(Refusal::OldDisk(name.clone()));
            }
        }
        Ok(Work::Change(change))
    }

    fn judge_removal(
        &self,
        newest: &Placement,
        name: NodeName,
        force: bool,
        accept_loss: bool,
    ) -> Result<Work, Refusal> {
        let Some(cluster) = self.founding.cluster() else {
            return Err(PlanRefused::MemberUnknown(name).into());
        };
        // One that leaves may be dead before it has handed over what it holds.
        let leaves = cluster.ids.contains_key(&name) && self.is_named(&name);
        if newest.member(&name).is_none() && !leaves {
            return Err(PlanRefused::MemberUnknown(name).into());
        }
        if !force {
            return Err(Refusal::NeedsForce(name));
        }
        if self.is_there(&name) {
            return Err(Refusal::Lives(name));
        }
        let earlier: Vec<NodeName> =
            cluster.removed.iter().filter(|gone| self.is_named(gone)).cloned().collect();
        if !earlier.is_empty() && !accept_loss && !earlier.contains(&name) {
            return Err(Refusal::NotRepaired { name, earlier });
        }
        let gone = earlier.into_iter().chain([name.clone()]);
        let mut leaves: Vec<NodeName> = gone.filter(|gone| newest.member(gone).is_some()).collect();
        leaves.sort();
        leaves.dedup();
        if !leaves.is_empty() {
            newest.next(&Change { leaves, ..Change::default() })?;
        }
        let members = cluster.ids.len();
        let there = cluster.ids.keys().filter(|name| self.is_there(name)).count();
        if there < cluster.majority() {
            return Err(Refusal::NoMajority { name, there, members });
        }
        Ok(Work::Remove(name))
    }

    /// Whether the present disk of a name can be reached, or is this one.
    pub(super) fn is_there(&self, name: &NodeName) -> bool {
        let id = self.founding.cluster().and_then(|cluster| cluster.ids.get(name));
        id.is_some_and(|&id| {
            id == self.identity.id || self.peers.get(id).is_some_and(Peer::is_reachable)
        })
    }

    /// Carries the order on, if there is one.
    pub(super) fn mind_order(&mut self) {
        let Some(Ordered { id, work, since }) = self.works.order.take() else { return };
        let done = match &work {
            Work::Change(change) => self.change_ring(id, change),
            Work::Remove(name) => self.remove_member(id, name),
        };
        if done {
            return;
        }
        if self.now.mono.micros_since(since) < ORDER_MICROS {
            self.works.order = Some(Ordered { id, work, since });
            return;
        }
        match &work {
            Work::Change(change) => change.joins.iter().for_each(|m| self.take_back(&m.name)),
            Work::Remove(name) => self.take_back(name),
        }
        let said = self.said_against().map(|said| format!(" ({said})")).unwrap_or_default();
        self.answer(id, Err(Refusal::NoAnswer(said)));
    }

    /// Who joins enters first; then the version is made. Says whether the order is done.
    fn change_ring(&mut self, id: OrderId, change: &Change) -> bool {
        let Some(cluster) = self.founding.cluster() else { return false };
        let entering = change.joins.iter().filter(|m| !cluster.ids.contains_key(&m.name));
        let find = |name: &NodeName| self.peers.named(name).find(|(_, peer)| peer.is_reachable());
        let entering: Vec<_> = entering
            .filter_map(|m| find(&m.name).map(|(disk, _)| (m.name.clone(), disk)))
            .collect();
        let entered = change.joins.iter().all(|m| cluster.ids.contains_key(&m.name));
        if !entered {
            entering.into_iter().for_each(|(name, disk)| self.propose(name, disk, NOBODY));
            return false;
        }
        if let Err(refused) = self.make_version(change.clone(), Some(id)) {
            self.answer(id, Err(refused.into()));
        }
        true
    }

    /// The name that an operator has ordered here to be given up, if one has.
    pub(super) fn to_remove(&self) -> Option<&NodeName> {
        match &self.works.order.as_ref()?.work {
            Work::Remove(name) => Some(name),
            Work::Change(_) => None,
        }
    }

    /// Members agree that a name is nobody from now on. Says whether the order is done.
    fn remove_member(&mut self, id: OrderId, name: &NodeName) -> bool {
        let Some(cluster) = self.founding.cluster() else { return false };
        if let Some(&disk) = cluster.ids.get(name) {
            self.propose(name.clone(), NOBODY, disk);
            return false;
        }
        self.answer(id, Ok(Agreed { placement: None }));
        if let Some(newest) = self.placement().cloned() {
            self.leave_out_removed(&newest);
        }
        true
    }

    /// A node that has left the ring gives up its name, once it has nothing more to deliver.
    pub(super) fn mind_departure(&mut self) {
        let Some(ring) = &self.ring else { return };
        let (own, progress) = (&ring.own, &ring.progress);
        let left = own.left && !self.is_named(&own.name) && progress.waiting == Waiting::default();
        if left && self.founding.standing() == Some(Standing::Member) {
            self.depart();
        }
    }
}
