//! The versions that a node holds, and the one chain of them that is live.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::protocol::message::PlacementTag;
use crate::protocol::placement::{LIVE_MAX, Placement};

/// Versions of one parent that are kept: as many nodes would have to make a change at the same time, each
/// without having heard of the others.
const RIVALS_MAX: usize = 32;

/// What was heard that makes one rival stay, whatever its hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Evidence {
    /// Versions that somebody reads from.
    pub(in super::super) sync_acked: BTreeSet<PlacementTag>,
    /// Versions whose homes have merged what somebody held.
    pub(in super::super) synced: BTreeSet<PlacementTag>,
}

/// Why a version was not taken. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum NotTaken {
    /// It is held, or older than what is live.
    Known,
    /// Its parent is not held; this is its tag.
    Orphan(PlacementTag),
    /// More versions would be live, or more rivals held, than there may be.
    TooMany,
    /// It is no successor of its parent: the ring has another number of partitions.
    Misshapen,
}

/// What a version would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Taken {
    /// A successor of a version that is held.
    Successor,
    /// The oldest live one: all before it have retired.
    Oldest,
}

/// See the module.
#[derive(Clone, Debug)]
pub(in super::super) struct Chain {
    /// Held versions by tag: the oldest live one, and its descendants.
    held: BTreeMap<PlacementTag, Arc<Placement>>,
    /// Oldest first, never empty.
    live: Vec<Arc<Placement>>,
    /// What a member said is the oldest live version, where it is none that is held.
    told_oldest: Option<PlacementTag>,
}

impl Chain {
    /// The chain of one version.
    pub(in super::super) fn new(oldest: Arc<Placement>) -> Self {
        let held = BTreeMap::from([(oldest.tag, Arc::clone(&oldest))]);
        Self { held, live: vec![oldest], told_oldest: None }
    }

    /// Oldest first, never empty.
    pub(in super::super) fn live(&self) -> &[Arc<Placement>] {
        &self.live
    }

    pub(in super::super) fn oldest(&self) -> &Arc<Placement> {
        &self.live[0]
    }

    pub(in super::super) fn newest(&self) -> &Arc<Placement> {
        &self.live[self.live.len() - 1]
    }

    pub(in super::super) fn tags(&self) -> Vec<PlacementTag> {
        self.live.iter().map(|version| version.tag).collect()
    }

    pub(in super::super) fn get(&self, tag: PlacementTag) -> Option<&Arc<Placement>> {
        self.held.get(&tag)
    }

    /// Whether there is anything to choose from.
    pub(in super::super) fn has_successors(&self) -> bool {
        self.held.len() > 1
    }

    /// Everything held that is not live: rivals that lost, and their successors.
    pub(in super::super) fn lost(&self) -> impl Iterator<Item = &Arc<Placement>> {
        self.held.values().filter(|version| self.place(version.tag).is_none())
    }

    /// Where a version stands in the chain.
    pub(in super::super) fn place(&self, tag: PlacementTag) -> Option<usize> {
        self.live.iter().position(|version| version.tag == tag)
    }

    /// How far a tracker has come on the chain: the place of the version that it names, or, if that is a
    /// rival that lost, of its nearest ancestor. None for a version that is not held.
    pub(in super::super) fn reached(&self, tag: PlacementTag) -> Option<usize> {
        let mut tag = tag;
        loop {
            if let Some(place) = self.place(tag) {
                return Some(place);
            }
            tag = self.parent(tag)?;
        }
    }

    fn parent(&self, tag: PlacementTag) -> Option<PlacementTag> {
        let held = self.held.get(&tag)?;
        Some(PlacementTag { number: tag.number.checked_sub(1)?, hash: held.parent })
    }

    /// Whether a version can be taken, and as what.
    pub(in super::super) fn judge(&self, version: &Placement) -> Result<Taken, NotTaken> {
        let tag = version.tag;
        if self.held.contains_key(&tag) || tag.number <= self.oldest().tag.number {
            return Err(NotTaken::Known);
        }
        if version.partitions != self.oldest().partitions {
            return Err(NotTaken::Misshapen);
        }
        if self.told_oldest == Some(tag) {
            return Ok(Taken::Oldest);
        }
        let parent = PlacementTag { number: tag.number - 1, hash: version.parent };
        if !self.held.contains_key(&parent) {
            return Err(NotTaken::Orphan(parent));
        }
        let deep = (tag.number - self.oldest().tag.number) as usize >= LIVE_MAX;
        let siblings = self.held.values().filter(|held| held.parent == version.parent).count();
        if deep || siblings >= RIVALS_MAX { Err(NotTaken::TooMany) } else { Ok(Taken::Successor) }
    }

    /// Takes a version, which is durable.
    pub(in super::super) fn take(&mut self, version: Arc<Placement>) {
        match self.judge(&version) {
            Ok(Taken::Successor) => drop(self.held.insert(version.tag, version)),
            Ok(Taken::Oldest) => *self = Self::new(version),
            Err(_) => {}
        }
    }

    /// A member says that this is its oldest live version: so all before it have retired, and it has no
    /// rivals.
    pub(in super::super) fn hear_oldest(&mut self, tag: PlacementTag) {
        if tag.number > self.oldest().tag.number {
            self.told_oldest = Some(tag);
        }
    }

    /// The held version that a member said is its oldest, if that is ahead of this node's.
    pub(in super::super) fn told_oldest(&self) -> Option<PlacementTag> {
        let ahead = |tag: &PlacementTag| tag.number > self.oldest().tag.number;
        self.told_oldest.filter(ahead).filter(|tag| self.held.contains_key(tag))
    }

    /// Everything before a held version has retired, which is durable. What does not descend from it is
    /// let go.
    pub(in super::super) fn retire_before(&mut self, oldest: PlacementTag) {
        let Some(version) = self.held.get(&oldest).cloned() else { return };
        let gone: Vec<_> =
            self.held.keys().copied().filter(|tag| !self.descends(*tag, oldest)).collect();
        gone.iter().for_each(|tag| drop(self.held.remove(tag)));
        let rest = self.live.iter().skip_while(|live| live.tag != oldest);
        let rest: Vec<_> = rest.cloned().collect();
        self.live = if rest.is_empty() { vec![version] } else { rest };
    }

    /// What [`Self::retire_before`] lets go.
    pub(in super::super) fn gone_before(&self, oldest: PlacementTag) -> Vec<PlacementTag> {
        self.held.keys().copied().filter(|tag| !self.descends(*tag, oldest)).collect()
    }

    /// Everything that is held.
    pub(in super::super) fn all_held(&self) -> Vec<PlacementTag> {
        self.held.keys().copied().collect()
    }

    fn descends(&self, tag: PlacementTag, from: PlacementTag) -> bool {
        let mut tag = Some(tag);
        while let Some(at) = tag {
            if at == from {
                return true;
            }
            tag = self.parent(at);
        }
        false
    }

    /// Chooses among rivals anew; says whether the chain has changed.
    pub(in super::super) fn choose(&mut self, evidence: &Evidence) -> bool {
        let mut live = vec![Arc::clone(self.oldest())];
        while let Some(next) = self.winner(live[live.len() - 1].tag, evidence) {
            live.push(next);
        }
        let tags = |chain: &[Arc<Placement>]| chain.iter().map(|v| v.tag).collect::<Vec<_>>();
        let changed = tags(&live) != tags(&self.live);
        self.live = live;
        changed
    }

    fn winner(&self, parent: PlacementTag, evidence: &Evidence) -> Option<Arc<Placement>> {
        let follows = |version: &&Arc<Placement>| {
            version.tag.number.checked_sub(1) == Some(parent.number)
                && version.parent == parent.hash
        };
        let found = |tags: &BTreeSet<PlacementTag>, version: PlacementTag| {
            let told = self.told_oldest.is_some_and(|tag| self.descends(tag, version));
            told || tags.iter().any(|tag| self.descends(*tag, version))
        };
        let rank = |version: &&Arc<Placement>| {
            let tag = version.tag;
            (found(&evidence.sync_acked, tag), found(&evidence.synced, tag), tag.hash)
        };
        self.held.values().filter(follows).max_by_key(rank).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::placement::{Change, Member};
    use crate::types::NodeName;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn first() -> Arc<Placement> {
        let member = |i| Member { name: name(&format!("n{i}")), zone: String::new(), weight: 1 };
        Arc::new(Placement::found((0..4).map(member).collect(), 3, 16))
    }

    fn next(parent: &Placement, node: usize, weight: u32) -> Arc<Placement> {
        let reweighed = vec![(name(&format!("n{node}")), weight)];
        Arc::new(parent.next(&Change { reweighed, ..Change::default() }).unwrap())
    }

    fn evidence(sync_acked: &[PlacementTag], synced: &[PlacementTag]) -> Evidence {
        let set = |tags: &[PlacementTag]| tags.iter().copied().collect();
        Evidence { sync_acked: set(sync_acked), synced: set(synced) }
    }

    #[test]
    fn of_rivals_one_stays_in_whatever_order_they_come() {
        let first = first();
        let rivals: Vec<_> = (2..6).map(|weight| next(&first, 1, weight)).collect();
        let greatest = rivals.iter().max_by_key(|rival| rival.tag.hash).unwrap().tag;
        for turn in 0..rivals.len() {
            let mut chain = Chain::new(first.clone());
            for at in 0..rivals.len() {
                chain.take(rivals[(turn + at) % rivals.len()].clone());
                chain.choose(&Evidence::default());
            }
            assert_eq!(chain.tags(), [first.tag, greatest]);
            assert_eq!(chain.lost().count(), rivals.len() - 1);
        }
    }

    #[test]
    fn what_is_read_beats_what_is_synced_and_both_beat_a_hash() {
        let first = first();
        let mut rivals: Vec<_> = (2..5).map(|weight| next(&first, 1, weight)).collect();
        rivals.sort_by_key(|rival| rival.tag.hash);
        let [low, mid, high] = [0, 1, 2].map(|at: usize| rivals[at].tag);
        let child = next(&rivals[0], 2, 7);
        let mut chain = Chain::new(first.clone());
        rivals.iter().chain([&child]).for_each(|version| chain.take(version.clone()));
        let mut winner = |evidence: Evidence| {
            chain.choose(&evidence);
            chain.tags()[1]
        };
        assert_eq!(winner(evidence(&[], &[])), high);
        assert_eq!(winner(evidence(&[], &[mid])), mid);
        assert_eq!(winner(evidence(&[low], &[mid])), low);
        assert_eq!(winner(evidence(&[child.tag], &[high])), low, "its successor speaks for it");
        assert_eq!(winner(evidence(&[first.tag], &[first.tag])), high, "the parent for neither");
    }

    #[test]
    fn a_tracker_of_a_rival_that_lost_counts_as_its_parents() {
        let first = first();
        let (mut a, mut b) = (next(&first, 1, 2), next(&first, 1, 3));
        if a.tag.hash < b.tag.hash {
            (a, b) = (b, a);
        }
        let (after, lost) = (next(&a, 2, 5), next(&b, 2, 5));
        let mut chain = Chain::new(first.clone());
        [&a, &b, &after, &lost].into_iter().for_each(|version| chain.take(version.clone()));
        chain.choose(&Evidence::default());
        assert_eq!(chain.tags(), [first.tag, a.tag, after.tag]);
        let reached = [first.tag, a.tag, after.tag, b.tag, lost.tag].map(|tag| chain.reached(tag));
        assert_eq!(reached, [Some(0), Some(1), Some(2), Some(0), Some(0)]);
        assert_eq!(chain.reached(PlacementTag { number: 2, hash: 1 }), None);
        chain.retire_before(a.tag);
        assert_eq!((chain.tags(), chain.lost().count()), (vec![a.tag, after.tag], 0));
        assert_eq!(chain.reached(first.tag), None, "it has retired");
    }

    #[test]
    fn no_more_versions_are_live_or_held_than_may_be_and_parents_come_first() {
        let first = first();
        let mut line = vec![first.clone()];
        for weight in 2..7 {
            line.push(next(&line[line.len() - 1], 1, weight));
        }
        let mut chain = Chain::new(first.clone());
        assert_eq!(chain.judge(&line[2]), Err(NotTaken::Orphan(line[1].tag)));
        line.iter().for_each(|version| chain.take(version.clone()));
        chain.choose(&Evidence::default());
        assert_eq!(chain.live().len(), LIVE_MAX);
        assert_eq!(chain.judge(&line[LIVE_MAX]), Err(NotTaken::TooMany));
        chain.retire_before(line[1].tag);
        assert_eq!(chain.judge(&line[LIVE_MAX]), Ok(Taken::Successor));
        let mut chain = Chain::new(first.clone());
        (10..80).for_each(|weight| chain.take(next(&first, 2, weight)));
        assert_eq!(chain.all_held().len(), 1 + RIVALS_MAX);
        let other = Placement::found(first.members.clone(), 3, 32);
        let other = next(&other, 1, 2);
        assert_eq!(chain.judge(&other), Err(NotTaken::Misshapen));
    }

    #[test]
    fn a_node_that_slept_through_changes_takes_the_oldest_version_that_it_is_told() {
        let first = first();
        let second = next(&first, 1, 2);
        let third = next(&second, 1, 3);
        let mut chain = Chain::new(first);
        assert_eq!(chain.judge(&third), Err(NotTaken::Orphan(second.tag)));
        chain.hear_oldest(third.tag);
        assert_eq!(chain.judge(&third), Ok(Taken::Oldest));
        chain.take(third.clone());
        assert_eq!(chain.tags(), [third.tag]);
        chain.hear_oldest(second.tag);
        assert_eq!(chain.judge(&second), Err(NotTaken::Known), "nothing goes back");
    }
}
