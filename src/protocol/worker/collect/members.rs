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
//! before, so it has not joined so, even if it takes the place of one that has. Nor has a disk that was a
//! member, or nearly one, left, and came again: the mark names the version that it joined with.
//!
//! *All the others* does not speak of a disk that was set back to what it held long ago. What that sends
//! carries an old number, as would any copy from before the round. So a joiner remembers the lowest number
//! that it was brought of a partition, and takes over none above it.
//!
//! A node with something left of a partition that it gave up confirms no round of it: see
//! [`super::super::leaving`].

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use rustc_hash::FxHashMap;

use super::super::Worker;
use super::drive::Stage;
use super::{PREFIX, Then};
use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::protocol::message::{PlacementTag, RoundMessage};
use crate::protocol::meta::partition_key;
use crate::protocol::placement::View;
use crate::protocol::rounds::{CutId, Rounds};
use crate::protocol::step::{Change, Effect, Page, Space};
use crate::types::{NodeId, NodeName, Now, Partition, RoundNumber};

/// What follows [`PREFIX`] in the key under which it is marked that this disk has joined: no
/// partition's, which has two bytes.
const JOINED: &[u8] = b"joined";

/// Keys of [`Space::Meta`] under which the lowest number is kept that others brought of a partition: `prefix ‖
/// partition`. They begin with [`PREFIX`] and are read with what else does.
const BROUGHT: &[u8] = b"rounds/brought/";
/// The lowest round of nothing: above all.
const NOTHING_BROUGHT: RoundNumber = RoundNumber(u64::MAX);

/// What a disk that has joined remembers of it.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// This disk, and the number of the version that it joined with; none: a later one, too, so that
    /// something may be left of before.
    mark: Option<(NodeId, Option<u32>)>,
    brought: FxHashMap<Partition, Brought>,
}

/// What others have sent of a partition.
#[derive(Clone, Copy, Debug)]
struct Brought {
    /// The lowest round that any of it is of.
    lowest: RoundNumber,
    /// Whether that is on disk, or in a commit under way.
    is_kept: bool,
}

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

    /// A member of a live version, and not of the oldest, has just joined.
    fn mark_joined(&mut self, view: &View, out: &mut Vec<Effect>) {
        if view.has_past || view.oldest().my_member().is_some() {
            return;
        }
        let Some(first) = view.live().iter().find(|version| version.my_member().is_some()) else {
            return;
        };
        let first = first.tag().number;
        let mark = match self.collect.joined.mark {
            Some((id, number)) if id == view.me => (id, number.filter(|&number| number == first)),
            _ => (view.me, Some(first)),
        };
        if self.collect.joined.mark != Some(mark) {
            self.collect.joined.mark = Some(mark);
            self.commit_meta([PREFIX, JOINED].concat().into(), Some(encode(mark)), out);
        }
    }

    /// At the start: whether this disk has joined, and what it was brought.
    pub(super) fn find_joined(&mut self, page: &Page) {
        let mark = page.entries.iter().find(|(key, _)| key.strip_prefix(PREFIX) == Some(JOINED));
        if let Some(mark) = mark.and_then(|(_, value)| decode(value.clone()).ok()) {
            self.collect.joined.mark = Some(mark);
        }
        for (partition, value) in self.marks_in(BROUGHT, page) {
            // What cannot be read may have been any number.
            let lowest = value[..].try_into().map_or(0, u64::from_be_bytes);
            let brought = Brought { lowest: RoundNumber(lowest), is_kept: true };
            self.collect.joined.brought.insert(partition, brought);
        }
    }

    /// Others have sent something of a partition, which was formed from no round below this one.
    pub(in crate::protocol::worker) fn brought_of(
        &mut self,
        partition: Partition,
        round: RoundNumber,
    ) {
        // What is older than what was closed here is refused.
        let takes = self.has_joined(partition) && round >= self.collect.closed(partition);
        if takes && round < self.lowest_brought(partition) {
            let brought = Brought { lowest: round, is_kept: false };
            self.collect.joined.brought.insert(partition, brought);
        }
    }

    /// The lowest number that was brought of a partition, if it is not on disk: it is committed with the
    /// next record that is.
    pub(in crate::protocol::worker) fn brought_to_keep(
        &mut self,
        partition: Partition,
    ) -> Option<Change> {
        let brought = self.collect.joined.brought.get_mut(&partition)?;
        (!std::mem::replace(&mut brought.is_kept, true))
            .then(|| brought_mark(partition, Some(brought.lowest)))
    }

    /// A commit of something of a partition was refused, and what went with it.
    pub(in crate::protocol::worker) fn brought_not_kept(&mut self, partition: Partition) {
        if let Some(brought) = self.collect.joined.brought.get_mut(&partition) {
            brought.is_kept = false;
        }
    }

    /// What was held of a partition is set aside: nothing is left of what others sent. The change goes
    /// with that.
    pub(super) fn brought_anew(&mut self, partition: Partition) -> Change {
        self.collect.joined.brought.remove(&partition);
        brought_mark(partition, None)
    }

    /// Whether this disk has joined and taken part in no round of a partition since.
    fn has_joined(&self, partition: Partition) -> bool {
        let me = self.view.as_ref().map(|view| view.me);
        let joined = matches!(self.collect.joined.mark, Some((id, Some(_))) if Some(id) == me);
        // A number that was taken over is no part: more than one round may have closed without this node.
        let known = self.collect.rounds.get(&partition);
        joined && known.is_none_or(|rounds| rounds.id == CutId::default())
    }

    /// The lowest round that anything is of that others sent of a partition since this disk joined.
    fn lowest_brought(&self, partition: Partition) -> RoundNumber {
        let brought = self.collect.joined.brought.get(&partition);
        brought.map_or(NOTHING_BROUGHT, |brought| brought.lowest)
    }

    /// A round was closed that this node never confirmed. If it has joined since, has taken part in no
    /// round of the partition, and was brought nothing from before this one, it takes the number over.
    pub(super) fn adopt_round(
        &mut self,
        partition: Partition,
        number: RoundNumber,
        out: &mut Vec<Effect>,
    ) -> bool {
        if !self.has_joined(partition) || self.lowest_brought(partition) < number {
            return false;
        }
        // At once, and not when it is durable: what is older must not come in meanwhile.
        let state = Rounds::begun_anew(number);
        self.collect.rounds.insert(partition, state.clone());
        self.commit_rounds(partition, state, Then::Nothing, out);
        true
    }
}

fn brought_mark(partition: Partition, lowest: Option<RoundNumber>) -> Change {
    let value = lowest.map(|lowest| Bytes::copy_from_slice(&lowest.0.to_be_bytes()));
    Change { space: Space::Meta, key: partition_key(BROUGHT, partition), value }
}

fn encode((id, number): (NodeId, Option<u32>)) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u128_le(id.0);
    out.bool(number.is_some());
    out.varint(number.unwrap_or_default().into());
    out.freeze()
}

fn decode(bytes: Bytes) -> Result<(NodeId, Option<u32>), DecodeError> {
    let mut r = Reader::new(bytes);
    let (id, is_first) = (NodeId(r.u128()?), r.bool()?);
    let number = u32::try_from(r.varint()?).map_err(|_| DecodeError::Malformed("joined"))?;
    r.end()?;
    Ok((id, is_first.then_some(number)))
}
