//! Making a placement version: the plan is durable with it, and made anew if a rival stays instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::ring::Mistakes;
use super::settle::put;
use super::state::{Control, Pending};
use super::steward::Stillness;
use super::versions::keep_version;
use super::waiting::Behind;
use super::wire::{
    Push, decode_list, decode_name, decode_option, decode_tag, encode_list, encode_option,
    encode_tag, short_text,
};
use super::{Agreed, ControlEffect, Level, OrderId, operator::Ordered};
use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::{Change, Member, Placement, PlanRefused, ZONE_BYTES_MAX};
use crate::protocol::step::{self, Space};
use crate::types::{Mono, NodeId, NodeName};

/// Where the plan of the last version that this node has made is stored.
pub(super) const PLAN_KEY: &[u8] = b"control/plan";

/// What a version was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The version.
    pub(super) tag: PlacementTag,
    pub(super) change: Change,
}

/// What this node does about the ring as steward or for an operator.
#[derive(Default)]
pub(super) struct Works {
    pub(super) plan: Option<Plan>,
    /// A version of this node's making is on its way to the disk.
    pub(super) planning: bool,
    pub(super) order: Option<Ordered>,
    pub(super) stillness: Stillness,
    /// Disks that were members of a version that has retired, and are of none that is live: they leave, though
    /// nobody may have heard them say so yet.
    pub(super) leavers: BTreeSet<NodeId>,
    /// Nodes whose names were removed, and that are there again: since when, without a break.
    pub(super) returned: BTreeMap<NodeId, Mono>,
    /// The version that members who were removed are still part of, for N could not be met without them.
    pub(super) too_few_without: Option<PlacementTag>,
    pub(super) behind: Behind,
    pub(super) mistakes: Mistakes,
}

impl Plan {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        encode_tag(self.tag, out);
        let Change { joins, leaves, reweighed, rezoned, replicas } = &self.change;
        encode_list(joins, out, |member, out| {
            out.bytes(member.name.as_str().as_bytes());
            out.bytes(member.zone.as_bytes());
            out.extend_from_slice(&member.weight.to_le_bytes());
        });
        encode_list(leaves, out, |name, out| out.bytes(name.as_str().as_bytes()));
        encode_list(reweighed, out, |(name, weight), out| {
            out.bytes(name.as_str().as_bytes());
            out.extend_from_slice(&weight.to_le_bytes());
        });
        encode_list(rezoned, out, |(name, zone), out| {
            out.bytes(name.as_str().as_bytes());
            out.bytes(zone.as_bytes());
        });
        encode_option(replicas.as_ref(), out, |replicas, out| out.push(*replicas));
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let zone = |r: &mut Reader| short_text(r, ZONE_BYTES_MAX);
        let tag = decode_tag(r)?;
        let change = Change {
            joins: decode_list(r, 6, |r| {
                Ok(Member { name: decode_name(r)?, zone: zone(r)?, weight: r.u32()? })
            })?,
            leaves: decode_list(r, 1, decode_name)?,
            reweighed: decode_list(r, 5, |r| Ok((decode_name(r)?, r.u32()?)))?,
            rezoned: decode_list(r, 2, |r| Ok((decode_name(r)?, zone(r)?)))?,
            replicas: decode_option(r, Reader::u8)?,
        };
        Ok(Self { tag, change })
    }

    /// What is left to be done on a version that was made without this plan.
    fn left(&self, newest: &Placement) -> Change {
        let is = |name: &NodeName| newest.member(name).is_some();
        let mut change = self.change.clone();
        change.joins.retain(|member| !is(&member.name));
        change.leaves.retain(|name| is(name));
        change.reweighed.retain(|(name, _)| is(name));
        change.rezoned.retain(|(name, _)| is(name));
        change
    }
}

impl Control {
    /// Makes the successor of the newest version by a change, and remembers what for.
    pub(super) fn make_version(
        &mut self,
        change: Change,
        order: Option<OrderId>,
    ) -> Result<(), PlanRefused> {
        let Some(newest) = self.placement() else { return Err(PlanRefused::NothingChanges) };
        let version = Arc::new(newest.next(&change)?);
        let plan = Plan { tag: version.tag, change };
        let mut value = Vec::new();
        plan.encode(&mut value);
        self.works.plan = Some(plan);
        self.write_version(version, vec![put(PLAN_KEY, value)], order);
        Ok(())
    }

    /// Makes the successor of the newest version without members who were removed. What for is in the
    /// log of admissions.
    pub(super) fn make_removal(&mut self, change: &Change) -> Result<(), PlanRefused> {
        let Some(newest) = self.placement() else { return Err(PlanRefused::NothingChanges) };
        let version = Arc::new(newest.next(change)?);
        self.write_version(version, Vec::new(), None);
        Ok(())
    }

    fn write_version(
        &mut self,
        version: Arc<Placement>,
        mut changes: Vec<step::Change>,
        order: Option<OrderId>,
    ) {
        self.works.planning = true;
        changes.push(keep_version(&version));
        self.write(changes, Pending::Planned(version, order));
    }

    /// A version of this node's making is durable: all hear of it.
    pub(super) fn planned(&mut self, version: Arc<Placement>, order: Option<OrderId>) {
        self.works.planning = false;
        let tag = version.tag;
        let Some(ring) = &mut self.ring else { return };
        ring.chain.take(Arc::clone(&version));
        let evidence = ring.evidence();
        ring.chain.choose(&evidence);
        let sentence = format!(
            "made placement version {} ({:016x}): {} members",
            tag.number,
            tag.hash,
            version.members.len()
        );
        self.log(Level::Info, sentence);
        let (placements, table) = (self.placements(), Bytes::from(version.encode()));
        self.tell_all(|| Push {
            placements: placements.clone(),
            tables: vec![table.clone()],
            ..Push::default()
        });
        if let Some(order) = order {
            let agreed = Agreed { placement: Some(tag) };
            self.effects.push(ControlEffect::Answer(order, Ok(agreed)));
        }
    }

    /// Looks after the plan of the last version that this node made: it is done once the version is the
    /// oldest live one, and made anew once a rival is that.
    pub(super) fn mind_plan(&mut self) {
        let (Some(plan), Some(ring)) = (&self.works.plan, &self.ring) else { return };
        let chain = &ring.chain;
        let place = chain.place(plan.tag);
        if self.works.planning || place.is_some_and(|place| place > 0) {
            return;
        }
        if place == Some(0) {
            return self.end_plan();
        }
        if chain.live().len() > 1 {
            return;
        }
        let (number, change) = (plan.tag.number, plan.left(chain.newest()));
        match self.make_version(change, None) {
            Ok(()) => {
                let sentence = format!(
                    "another change was made at the same time as placement version {number}, and stays: \
                     what that one was made for is planned anew"
                );
                self.log(Level::Info, sentence);
            }
            Err(PlanRefused::NothingChanges) => self.end_plan(),
            Err(refused) => {
                let sentence = format!(
                    "what placement version {number} was made for cannot be done any more: {refused}"
                );
                self.log(Level::Warn, sentence);
                self.end_plan();
            }
        }
    }

    fn end_plan(&mut self) {
        self.works.plan = None;
        let gone =
            step::Change { space: Space::Meta, key: Bytes::from_static(PLAN_KEY), value: None };
        self.write(vec![gone], Pending::PlanDone);
    }
}
