//! Newcomers: disks that began with nothing, and rounds that closed without them.
//!
//! Whoever hears of a closed round that it has not drained is not the copy that the members spoke for, and
//! sets it aside (see [`super::aside`]); it may count for acknowledged writes, and where two such disks were
//! all that held one, it would be lost. A *newcomer* takes the round's number over instead, and keeps its copy: a
//! disk that began with nothing (it has joined, or is being rebuilt), until it opens a round of the partition. What it holds is new, or was
//! brought by others; and all others had opened the round before they knew of it:
//!
//! - if it joined, because nobody opens or drains a round for a driver that lacks a version;
//! - if it took the place of a disk that was lost, because that one had drained the round, which is asked for
//!   once all have opened it, and was dead when the newcomer was admitted.
//!
//! So nothing from before the round was brought to it, with two exceptions. A disk that was set back to what it
//! held long ago sends that, under an old number; so may a holder that had not drained yet send a hint. A newcomer
//! therefore remembers the lowest number that it was brought of each partition, durably, in the commit of the record
//! that came with it, and takes over no number above that. And not every disk that is new to a partition began
//! with nothing: it may have held something under another id ([`View::has_past`]), or have joined with a version
//! that lost to a rival, and join again. Of these the mark [`JOINED`] tells, which names the version.
//!
//! What a newcomer writes before it has heard of a round carries an old number, too, and another newcomer that
//! takes it sets it aside: that it is kept rests on its writer alone. So it is to hear soon: homes tell whom they
//! reach where the rounds are, and joiners again; and who is being rebuilt asks until it is answered.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use rustc_hash::FxHashMap;

use super::super::Worker;
use super::{PREFIX, Then};
use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::protocol::message::{DataMessage, RoundMessage};
use crate::protocol::meta::partition_key;
use crate::protocol::placement::View;
use crate::protocol::rounds::{Cut, CutId, Rounds};
use crate::protocol::step::{Change, Effect, Page, Space};
use crate::types::{NodeId, Partition, RoundNumber};

/// What follows [`PREFIX`] in the key under which it is marked how this disk has joined: no
/// partition's, which has two bytes.
const JOINED: &[u8] = b"joined";
/// Keys of [`Space::Meta`] under which the lowest number is kept that others brought of a partition: `prefix ‖
/// partition`. They begin with [`PREFIX`] and are read with what else does.
const BROUGHT: &[u8] = b"rounds/brought/";

/// What a worker knows of newcomers: of this disk, and of those that it tells.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    /// How this disk has joined; none: it is a founder, or took the place of another.
    joined: Option<Joined>,
    brought: FxHashMap<Partition, Brought>,
    /// Disks that were told where the rounds are.
    told: BTreeSet<NodeId>,
    /// Partitions of which some home has said where the rounds are.
    heard: BTreeSet<Partition>,
}

/// How a disk has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Joined {
    id: NodeId,
    /// The number of the version that it joined with; none: it joined again with a later one, so that
    /// something may be left of before.
    version: Option<u32>,
}

/// What others have sent of a partition.
#[derive(Clone, Copy, Debug)]
struct Brought {
    /// The lowest round that any of it is of.
    lowest: RoundNumber,
    /// Whether that is on disk, or in a commit under way.
    is_kept: bool,
}

impl Worker {
    /// The versions are others: joiners among them are told anew where the rounds are.
    pub(super) fn tell_joiners(&mut self, view: &View, out: &mut Vec<Effect>) {
        for (name, id) in &view.ids {
            let versions = view.versions_of(name);
            if !versions.is_empty() && !versions.has_oldest() {
                self.collect.newcomers.told.remove(id);
            }
            if *id != view.me && self.peers.reachable(*id) {
                self.tell_newcomer(*id, out);
            }
        }
    }

    /// A member of a live version, and not of the oldest, has just joined.
    pub(super) fn mark_joined(&mut self, view: &View, out: &mut Vec<Effect>) {
        if view.has_past || view.oldest().my_member().is_some() {
            return;
        }
        let Some(first) = view.live().iter().find(|version| version.my_member().is_some()) else {
            return;
        };
        let (id, first) = (view.me, first.tag().number);
        let version = match self.collect.newcomers.joined {
            Some(joined) if joined.id == id => joined.version.filter(|&number| number == first),
            _ => Some(first),
        };
        let joined = Joined { id, version };
        if self.collect.newcomers.joined != Some(joined) {
            self.collect.newcomers.joined = Some(joined);
            self.commit_meta([PREFIX, JOINED].concat().into(), Some(joined.encode()), out);
        }
    }

    /// At the start: whether this disk has joined, and what it was brought.
    pub(super) fn find_joined(&mut self, page: &Page) {
        let mark = page.entries.iter().find(|(key, _)| key.strip_prefix(PREFIX) == Some(JOINED));
        if let Some(joined) = mark.and_then(|(_, value)| Joined::decode(value.clone()).ok()) {
            self.collect.newcomers.joined = Some(joined);
        }
        for (partition, value) in self.marks_in(BROUGHT, page) {
            // What cannot be read may have been any number.
            let lowest = value[..].try_into().map_or(0, u64::from_be_bytes);
            let brought = Brought { lowest: RoundNumber(lowest), is_kept: true };
            self.collect.newcomers.brought.insert(partition, brought);
        }
    }

    /// Others have sent something of a partition, which was formed from no round below this one.
    pub(in crate::protocol::worker) fn brought_of(
        &mut self,
        partition: Partition,
        round: RoundNumber,
    ) {
        // What is older than what was closed here is refused.
        let takes = self.is_newcomer_to(partition) && round >= self.collect.closed(partition);
        if takes && round < self.lowest_brought(partition) {
            let brought = Brought { lowest: round, is_kept: false };
            self.collect.newcomers.brought.insert(partition, brought);
        }
    }

    /// The lowest number that was brought of a partition, if it is not on disk: it is committed with the
    /// next record that is.
    pub(in crate::protocol::worker) fn brought_to_keep(
        &mut self,
        partition: Partition,
    ) -> Option<Change> {
        let brought = self.collect.newcomers.brought.get_mut(&partition)?;
        (!std::mem::replace(&mut brought.is_kept, true))
            .then(|| brought_mark(partition, Some(brought.lowest)))
    }

    /// A commit of something of a partition was refused, and what went with it.
    pub(in crate::protocol::worker) fn brought_not_kept(&mut self, partition: Partition) {
        if let Some(brought) = self.collect.newcomers.brought.get_mut(&partition) {
            brought.is_kept = false;
        }
    }

    /// Where the rounds of a partition are cannot be read: anything may have been brought.
    pub(super) fn brought_unknown(&mut self, partition: Partition) {
        let brought = Brought { lowest: RoundNumber(0), is_kept: true };
        self.collect.newcomers.brought.insert(partition, brought);
    }

    /// Tells a disk that is new here where the rounds are of which this node knows as a home, before it
    /// takes in anything that it might have to set aside for them.
    pub(in crate::protocol::worker) fn tell_newcomer(&mut self, to: NodeId, out: &mut Vec<Effect>) {
        if !self.collect.newcomers.told.insert(to) {
            return;
        }
        let known = self.collect.rounds.keys().copied();
        let known: BTreeSet<Partition> = known.filter(|&known| self.is_home(known)).collect();
        for partition in known {
            self.tell_if_behind(to, partition, RoundNumber::default(), out);
        }
    }

    /// Someone has said where the rounds of a partition are.
    pub(super) fn heard_where(&mut self, partition: Partition) {
        self.collect.newcomers.heard.insert(partition);
    }

    /// Asks homes where the rounds of a partition are, unless one has said so: by a survey of nothing, under a
    /// number that is taken everywhere.
    pub(in crate::protocol::worker) fn ask_where_rounds_are(
        &self,
        homes: &[Option<NodeId>],
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        if self.collect.newcomers.heard.contains(&partition) {
            return;
        }
        for to in homes.iter().copied().flatten().filter(|&home| self.peers.reachable(home)) {
            let ask = RoundMessage::Survey(RoundNumber::default(), Cut::default());
            out.push(Effect::Send { to, trace: None, partition, message: DataMessage::Round(ask) });
        }
    }

    /// What was held of a partition is set aside: nothing is left of what others sent. The change goes
    /// with that.
    pub(super) fn brought_anew(&mut self, partition: Partition) -> Change {
        self.collect.newcomers.brought.remove(&partition);
        brought_mark(partition, None)
    }

    /// Whether all that is held of a partition came to this disk since it has its id, and no round of the
    /// partition was opened here since: then what is held is of what others brought, or new. Only what shows
    /// that counts: that it has joined, or is being rebuilt. Any other disk that does not know a closed round
    /// may have been set back.
    fn is_newcomer_to(&self, partition: Partition) -> bool {
        let began_with_nothing = self.view.as_ref().is_some_and(|view| {
            let joined = self.collect.newcomers.joined.filter(|joined| joined.id == view.me);
            let came = joined.map_or(self.is_lost(partition), |joined| joined.version.is_some());
            !view.has_past && came
        });
        // A number that was taken over is no part: more than one round may have closed without this node.
        let known = self.collect.rounds.get(&partition);
        began_with_nothing && known.is_none_or(|rounds| rounds.id == CutId::default())
    }

    /// The lowest round that anything is of that others sent of a partition since this disk joined.
    fn lowest_brought(&self, partition: Partition) -> RoundNumber {
        let brought = self.collect.newcomers.brought.get(&partition);
        brought.map_or(RoundNumber::MAX, |brought| brought.lowest)
    }

    /// A round was closed that this node never confirmed. If it is a newcomer to the partition, and was
    /// brought nothing from before the round, it takes the number over.
    pub(super) fn adopt_round(
        &mut self,
        partition: Partition,
        number: RoundNumber,
        out: &mut Vec<Effect>,
    ) -> bool {
        if !self.is_newcomer_to(partition) || self.lowest_brought(partition) < number {
            return false;
        }
        // At once, and not when it is durable: what is older must not come in meanwhile.
        let state = Rounds::begun_anew(number);
        self.collect.rounds.insert(partition, state.clone());
        self.commit_rounds(partition, state, Then::Nothing, out);
        true
    }
}

impl Joined {
    fn encode(self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u128_le(self.id.0);
        out.bool(self.version.is_some());
        out.varint(self.version.unwrap_or_default().into());
        out.freeze()
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let (id, is_first) = (NodeId(r.u128()?), r.bool()?);
        let number = u32::try_from(r.varint()?).map_err(|_| DecodeError::Malformed("joined"))?;
        r.end()?;
        Ok(Self { id, version: is_first.then_some(number) })
    }
}

fn brought_mark(partition: Partition, lowest: Option<RoundNumber>) -> Change {
    let value = lowest.map(|lowest| Bytes::copy_from_slice(&lowest.0.to_be_bytes()));
    Change { space: Space::Meta, key: partition_key(BROUGHT, partition), value }
}
