//! Who takes part in rounds while the ring changes.
//!
//! The members of a round are those of all live versions. No round is begun while more than one is
//! live, save an empty one that brings all members to one number; and a round that was open when a
//! version came is opened anew, by all. Nobody opens or drains a round for a driver that lacks a
//! version. So a round that closes without a member that has joined was drained by all the others
//! before any of them had heard of it: nothing from before that round was ever sent to it. It may
//! therefore take the round's number over when it hears of it, instead of setting its copy aside; and
//! that holds for a partition until it has taken part in a round of it. That this disk has joined so is
//! marked durably, with its id: a disk that forgets goes on under another. What is left on that one is of
//! before, so it has not joined so, even if it takes the place of one that has.
//!
//! A node with something left of a partition that it gave up confirms no round of it: see
//! [`super::super::leaving`].

use std::collections::BTreeSet;

use bytes::Bytes;

use super::super::Worker;
use super::drive::Stage;
use super::{PREFIX, Then};
use crate::protocol::message::{PlacementTag, RoundMessage};
use crate::protocol::placement::View;
use crate::protocol::rounds::{CutId, Rounds};
use crate::protocol::step::{Effect, Page};
use crate::types::{NodeId, NodeName, Now, Partition, RoundNumber};

/// What follows [`PREFIX`] in the key under which it is marked that this disk has joined: no
/// partition's, which has two bytes.
const JOINED: &[u8] = b"joined";

/// Those who have a part in every round: the members of all live versions. One that was removed by force
/// has none; its disk is fenced.
pub(super) fn taking_part(view: &View) -> impl Iterator<Item = &NodeName> {
    view.members().into_iter().filter(|name| !view.is_removed(name))
}

impl Worker {
    /// Whether a driver asks for a step of a round, and a version that is known here may be unknown to it: a
    /// rival has the same number.
    pub(in crate::protocol::worker) fn is_driven_without_all(
        &self,
        theirs: PlacementTag,
        message: &RoundMessage,
    ) -> bool {
        let asks = matches!(message, RoundMessage::Open { .. } | RoundMessage::Drain(..));
        let newest = self.view.as_ref().map(|view| view.newest().tag());
        asks && newest.is_some_and(|newest| theirs != newest)
    }

    /// Whether something is left, or may be, of a partition that this node is no home of.
    pub(super) fn has_leftovers(&self, partition: Partition) -> bool {
        !self.is_home(partition) && (self.leaving.is_left(partition) || !self.trees.is_loaded)
    }

    /// The members are others than before, or the worker begins to serve.
    pub(in crate::protocol::worker) fn heed_members(
        &mut self,
        now: Now,
        view: &View,
        out: &mut Vec<Effect>,
    ) {
        self.mark_joined(view, out);
        let members: BTreeSet<NodeName> = taking_part(view).cloned().collect();
        let driven: Vec<Partition> = self.collect.drives.keys().copied().collect();
        for partition in driven {
            let Some(drive) = self.collect.drives.get_mut(&partition) else { continue };
            match drive.stage {
                Stage::Surveying => self.give_up(partition),
                Stage::Opening | Stage::Draining => {
                    self.enter(now, partition, Stage::Opening, out);
                }
                Stage::Closing => {
                    drive.waiting.retain(|name| members.contains(name));
                    if drive.waiting.is_empty() {
                        self.round_done(now, partition, out);
                    }
                }
            }
        }
        self.resume_rounds(now, out);
    }

    /// A member of the newest version, and not of the oldest, has just joined.
    fn mark_joined(&mut self, view: &View, out: &mut Vec<Effect>) {
        let joins = view.newest().my_member().is_some() && view.oldest().my_member().is_none();
        if joins && !view.has_past && self.collect.joined != Some(view.me) {
            self.collect.joined = Some(view.me);
            let value = Some(Bytes::copy_from_slice(&view.me.0.to_le_bytes()));
            self.commit_meta([PREFIX, JOINED].concat().into(), value, out);
        }
    }

    /// At the start: whether this disk has joined.
    pub(super) fn find_joined(&mut self, page: &Page) {
        let mark = page.entries.iter().find(|(key, _)| key.strip_prefix(PREFIX) == Some(JOINED));
        if let Some(id) = mark.and_then(|(_, id)| <[u8; 16]>::try_from(&id[..]).ok()) {
            self.collect.joined = Some(NodeId(u128::from_le_bytes(id)));
        }
    }

    /// A round was closed that this node never confirmed. If it has joined since, and has taken part
    /// in no round of the partition, it takes the number over.
    pub(super) fn adopt_round(
        &mut self,
        partition: Partition,
        number: RoundNumber,
        out: &mut Vec<Effect>,
    ) -> bool {
        let me = self.view.as_ref().map(|view| view.me);
        let joined = self.collect.joined.is_some() && self.collect.joined == me;
        // A number that was taken over is no part: more than one round may have closed without this node.
        let known = self.collect.rounds.get(&partition);
        let took_part = known.is_some_and(|rounds| rounds.id != CutId::default());
        if !joined || took_part {
            return false;
        }
        self.commit_rounds(partition, Rounds::begun_anew(number), Then::Nothing, out);
        true
    }
}
