//! Who takes part in rounds while the ring changes.
//!
//! The members of a round are those of all live versions. No round is begun while more than one is
//! live, save an empty one that brings all members to one number; and a round that was open when a
//! version came is opened anew, by all: whoever joins meanwhile was told of that number and refuses it, so that the next
//! one is opened instead. Nobody opens or drains a round for a driver that lacks a
//! version. So a round that closes without a member that has joined was drained by all the others
//! before any of them had heard of it: see [`super::newcomer`].
//!
//! A node with something left of a partition that it gave up confirms no round of it: see
//! [`super::super::leaving`].

use std::collections::BTreeSet;

use super::super::Worker;
use super::drive::{Drive, Stage};
use super::newcomer::ASKS_WHERE;
use crate::protocol::message::{PlacementTag, RoundMessage};
use crate::protocol::placement::View;
use crate::protocol::step::Effect;
use crate::types::{NodeName, Now, Partition};

/// Those who have a part in every round: the members of all live versions. One that was removed by force
/// has none; its disk is fenced.
pub(super) fn taking_part(view: &View) -> impl Iterator<Item = &NodeName> {
    view.members().into_iter().filter(|name| !view.is_removed(name))
}

impl Worker {
    /// Whether a driver asks for a step of a round, or a newcomer where the rounds are, and the two nodes may not
    /// know the same versions: a rival has the same number.
    pub(in crate::protocol::worker) fn is_asked_across_versions(
        &self,
        theirs: PlacementTag,
        message: &RoundMessage,
    ) -> bool {
        let asks = matches!(
            message,
            RoundMessage::Open { .. }
                | RoundMessage::Drain(..)
                | RoundMessage::Survey(ASKS_WHERE, _)
        );
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
        self.ask_homes(now, None, out);
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

    /// A member's disk was replaced: what the old one has confirmed, the new one has not.
    pub(in crate::protocol::worker) fn open_rounds_anew(
        &mut self,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let is_early = |drive: &&Drive| matches!(drive.stage, Stage::Opening | Stage::Draining);
        let open = self.collect.drives.iter().filter(|(_, drive)| is_early(drive));
        let open: Vec<Partition> = open.map(|(partition, _)| *partition).collect();
        for partition in open {
            self.enter(now, partition, Stage::Opening, out);
        }
    }
}
