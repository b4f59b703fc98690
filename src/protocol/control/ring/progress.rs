//! What follows from the trackers of all members: what is acked, read, and retires.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::wire::Trackers;
use super::{Chain, Evidence, Heard};
#[cfg(any(test, feature = "seeded-defects"))]
use crate::protocol::defect::Defect;
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::Placement;
use crate::protocol::progress::Progress;
use crate::types::{NodeId, NodeName};

/// Which of a member's trackers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Stage {
    Ack,
    Sync,
    SyncAck,
}

impl Stage {
    pub(in super::super) fn of(self, trackers: &Trackers) -> PlacementTag {
        match self {
            Self::Ack => trackers.ack,
            Self::Sync => trackers.sync,
            Self::SyncAck => trackers.sync_ack,
        }
    }
}

/// Which disk each name is, by the log of admissions.
#[derive(Clone, Copy)]
pub(in super::super) struct Disks<'a> {
    pub(in super::super) ids: &'a BTreeMap<NodeName, NodeId>,
    pub(in super::super) removed: &'a BTreeSet<NodeName>,
}

/// Versions and trackers, as one node knows them. See the module above.
#[derive(Clone, Debug)]
pub(in super::super) struct Ring {
    pub(in super::super) chain: Chain,
    pub(in super::super) heard: Heard,
    /// This disk's trackers, durable; default before the first.
    pub(in super::super) own: Trackers,
    /// What this node's workers last said.
    pub(in super::super) progress: Progress,
    /// Trackers, a version or a retirement are on their way to the disk.
    pub(in super::super) writing: bool,
    /// The version that it was last decided to read from for good: it is durable soon, if not yet.
    pub(in super::super) pledged: PlacementTag,
    /// Versions that were heard and are on their way to the disk.
    pub(in super::super) incoming: BTreeSet<PlacementTag>,
    pub(in super::super) mistakes: Mistakes,
}

/// Mistakes that are made on purpose: see [`crate::protocol::defect`].
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Mistakes {
    /// A version retires once the next one is synced.
    retire_early: bool,
    /// Trackers count by number, whatever the hash.
    bare_numbers: bool,
}

#[cfg(any(test, feature = "seeded-defects"))]
impl Mistakes {
    pub(in super::super) fn make(&mut self, defect: Defect) {
        self.retire_early |= defect == Defect::RetireEarly;
        self.bare_numbers |= defect == Defect::BareTrackers;
    }
}

impl Ring {
    /// The ring of a founded cluster, as a disk knows it that has published nothing.
    pub(in super::super) fn new(oldest: Arc<Placement>, name: NodeName, id: NodeId) -> Self {
        let none = PlacementTag::default();
        let own =
            Trackers { name, id, count: 0, ack: none, sync: none, sync_ack: none, left: false };
        Self {
            chain: Chain::new(oldest),
            heard: Heard::default(),
            own,
            progress: Progress::default(),
            writing: false,
            pledged: none,
            incoming: BTreeSet::new(),
            mistakes: Mistakes::default(),
        }
    }

    /// What speaks for one rival or another.
    pub(in super::super) fn evidence(&self) -> Evidence {
        let mut evidence = Evidence::default();
        for trackers in self.heard.all().chain([&self.own]) {
            evidence.sync_acked.insert(trackers.sync_ack);
            evidence.synced.insert(trackers.sync);
        }
        evidence
    }

    /// What a name's disk has published; none if that was not heard.
    pub(in super::super) fn trackers_of(&self, name: &NodeName, id: NodeId) -> Option<&Trackers> {
        if (name, id) == (&self.own.name, self.own.id) {
            return Some(&self.own);
        }
        self.heard.of(name, id)
    }

    /// How far a member has come: a place in the chain, and beyond its end if the name was removed.
    pub(in super::super) fn reached(
        &self,
        name: &NodeName,
        stage: Stage,
        disks: Disks<'_>,
    ) -> usize {
        match disks.ids.get(name) {
            None if disks.removed.contains(name) => usize::MAX,
            None => 0,
            Some(&id) => self.trackers_of(name, id).map_or(0, |t| self.place_of(stage.of(t))),
        }
    }

    fn place_of(&self, tag: PlacementTag) -> usize {
        if self.mistakes.bare_numbers {
            let oldest = self.chain.oldest().tag.number;
            return (tag.number.saturating_sub(oldest) as usize).min(self.chain.live().len() - 1);
        }
        self.chain.reached(tag).unwrap_or(0)
    }

    /// How far all members of these versions have come.
    fn all_reached(&self, of: &[Arc<Placement>], stage: Stage, disks: Disks<'_>) -> usize {
        // Asked after every input; most of the time nothing changes.
        if self.chain.live().len() == 1 {
            return 0;
        }
        let members = of.iter().flat_map(|version| &version.members);
        let reached = members.map(|member| self.reached(&member.name, stage, disks));
        reached.min().unwrap_or(0).min(self.chain.live().len() - 1)
    }

    /// The place of the newest version that every member has acked.
    pub(in super::super) fn all_acked(&self, disks: Disks<'_>) -> usize {
        self.all_reached(self.chain.live(), Stage::Ack, disks)
    }

    /// The place of the version that reads ask.
    pub(in super::super) fn reads(&self, disks: Disks<'_>) -> usize {
        let synced = self.all_reached(self.chain.live(), Stage::Sync, disks);
        let own = self.place_of(self.own.sync_ack).max(self.place_of(self.pledged));
        synced.max(own)
    }

    /// The version that is the oldest from now on, if the oldest has retired.
    pub(in super::super) fn retires(&self, disks: Disks<'_>) -> Option<PlacementTag> {
        if let Some(told) = self.chain.told_oldest() {
            return Some(told);
        }
        let [oldest, next, ..] = self.chain.live() else { return None };
        let both = [Arc::clone(oldest), Arc::clone(next)];
        let stage = if self.mistakes.retire_early { Stage::Sync } else { Stage::SyncAck };
        (self.all_reached(&both, stage, disks) >= 1).then_some(next.tag)
    }

    /// This node's trackers once everything before `oldest` has retired, if it has left the ring with that: whoever
    /// leaves has said before that it reads from the next version. One whose name was removed, and that is about
    /// to join anew, has not left.
    pub(in super::super) fn leaves(
        &self,
        oldest: PlacementTag,
        disks: Disks<'_>,
    ) -> Option<Trackers> {
        let live = self.chain.live();
        let names_me = |v: &Arc<Placement>| v.member(&self.own.name).is_some();
        let left = self.chain.place(oldest).is_some_and(|at| !live[at..].iter().any(names_me));
        let was_home = names_me(self.chain.oldest())
            && disks.ids.contains_key(&self.own.name)
            && self.place_of(self.own.sync_ack) > 0;
        let (count, left) = (self.own.count + 1, left && was_home);
        left.then(|| Trackers { count, left, ..self.own.clone() })
    }

    /// The place of the newest version that this node has said to have acknowledged.
    pub(in super::super) fn acked(&self) -> usize {
        self.place_of(self.own.ack)
    }

    /// This node's trackers as they are to be published next, if they have changed; at most the version in
    /// the place `acks` is acknowledged.
    pub(in super::super) fn advance(&self, disks: Disks<'_>, acks: usize) -> Option<Trackers> {
        let live = self.chain.live();
        let names_me = |v: &Arc<Placement>| v.member(&self.own.name).is_some();
        // Where there was one version only, nobody asks how far anybody is.
        if self.own.count == 0 && (live.len() == 1 || !live.iter().any(names_me)) {
            return None;
        }
        // A version that is on the chain no more counts as its parent.
        let oldest = live[0].tag.number;
        let rise = |own: PlacementTag, to: PlacementTag, most: usize| {
            let to = self.chain.place(to).map(|place| place.min(most));
            let place = self.chain.reached(own).max(to);
            let retired = if own.number < oldest { own } else { PlacementTag::default() };
            place.map_or(retired, |place| live[place].tag)
        };
        let (own, now) = (&self.own, &self.progress);
        let next = Trackers {
            name: own.name.clone(),
            id: own.id,
            count: own.count + 1,
            ack: rise(own.ack, now.acked, acks),
            sync: rise(own.sync, now.synced, self.all_acked(disks)),
            sync_ack: rise(own.sync_ack, now.reads_ended, self.reads(disks)),
            left: own.left,
        };
        let same = (own.ack, own.sync, own.sync_ack) == (next.ack, next.sync, next.sync_ack);
        (!same).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::placement::{Change, Member};

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    /// Three members, this node the first of them; two rivals follow on the first version, the winner
    /// first.
    fn ring() -> (Ring, Arc<Placement>, Arc<Placement>, BTreeMap<NodeName, NodeId>) {
        let member = |text| Member { name: name(text), zone: String::new(), weight: 1 };
        let first = Arc::new(Placement::found(["a", "b", "c"].map(member).to_vec(), 3, 16));
        let next = |weight| {
            let reweighed = vec![(name("a"), weight)];
            Arc::new(first.next(&Change { reweighed, ..Change::default() }).unwrap())
        };
        let mut rivals = [next(2), next(3)];
        rivals.sort_by_key(|rival| std::cmp::Reverse(rival.tag.hash));
        let [winner, loser] = rivals;
        let mut ring = Ring::new(first, name("a"), NodeId(1));
        [&winner, &loser].into_iter().for_each(|version| ring.chain.take(version.clone()));
        ring.chain.choose(&Evidence::default());
        let ids = [("a", 1), ("b", 2), ("c", 3)].map(|(text, id)| (name(text), NodeId(id)));
        (ring, winner, loser, BTreeMap::from(ids))
    }

    fn trackers(text: &str, id: u128, tag: PlacementTag) -> Trackers {
        let (name, id) = (name(text), NodeId(id));
        Trackers { name, id, count: 1, ack: tag, sync: tag, sync_ack: tag, left: false }
    }

    #[test]
    fn trackers_of_a_rival_acknowledge_nothing_and_as_bare_numbers_they_would() {
        let (mut ring, winner, loser, ids) = ring();
        let removed = BTreeSet::new();
        let disks = Disks { ids: &ids, removed: &removed };
        ring.own = trackers("a", 1, winner.tag);
        ring.heard.hear(&trackers("b", 2, winner.tag));
        ring.heard.hear(&trackers("c", 3, loser.tag));
        assert_eq!((ring.all_acked(disks), ring.retires(disks)), (0, None));
        ring.mistakes.make(Defect::BareTrackers);
        assert_eq!((ring.all_acked(disks), ring.retires(disks)), (1, Some(winner.tag)), "a loss");
    }

    #[test]
    fn only_a_removal_that_was_heard_of_counts_as_passed_and_only_a_present_disk_speaks() {
        let (mut ring, winner, _, mut ids) = ring();
        ring.own = trackers("a", 1, winner.tag);
        ring.heard.hear(&trackers("b", 2, winner.tag));
        let (none, gone) = (BTreeSet::new(), BTreeSet::from([name("c")]));
        ids.remove(&name("c"));
        let disks = |removed| Disks { ids: &ids, removed };
        assert_eq!(ring.all_acked(disks(&none)), 0, "nobody has said what disk c is");
        assert_eq!(ring.retires(disks(&gone)), Some(winner.tag));
        let replaced = BTreeMap::from([(name("a"), NodeId(1)), (name("b"), NodeId(9))]);
        let disks = Disks { ids: &replaced, removed: &gone };
        assert_eq!(ring.retires(disks), None, "b is another disk");
        assert_eq!(ring.reads(disks), 1, "what this node has read from it reads from");
    }

    #[test]
    fn a_member_leaves_with_the_last_version_that_names_it_and_a_removed_node_that_joins_anew_does_not()
     {
        let member = |text| Member { name: name(text), zone: String::new(), weight: 1 };
        let first = Placement::found(["a", "b", "c", "d"].map(member).to_vec(), 3, 16);
        let leaves = vec![name("a")];
        let next = Arc::new(first.next(&Change { leaves, ..Change::default() }).unwrap());
        let mut ring = Ring::new(Arc::new(first), name("a"), NodeId(1));
        ring.chain.take(Arc::clone(&next));
        ring.chain.choose(&Evidence::default());
        let (here, gone) = (BTreeMap::from([(name("a"), NodeId(1))]), BTreeMap::new());
        let removed = BTreeSet::new();
        let disks = |ids| Disks { ids, removed: &removed };
        assert_eq!(ring.leaves(next.tag, disks(&here)), None, "it has not come so far");
        ring.own = trackers("a", 1, next.tag);
        assert!(ring.leaves(next.tag, disks(&here)).is_some_and(|own| own.left));
        assert_eq!(ring.leaves(next.tag, disks(&gone)), None, "its name is nobody");
    }

    #[test]
    fn a_node_that_turns_to_a_rival_takes_back_what_it_had_acknowledged() {
        let (mut ring, winner, loser, ids) = ring();
        let removed = BTreeSet::new();
        let disks = Disks { ids: &ids, removed: &removed };
        ring.own = trackers("a", 1, loser.tag);
        let next = ring.advance(disks, usize::MAX).unwrap();
        let parent = ring.chain.oldest().tag;
        assert_eq!((next.count, next.ack, next.sync, next.sync_ack), (2, parent, parent, parent));
        ring.own = next;
        let (acked, synced) = (winner.tag, winner.tag);
        ring.progress = Progress { acked, synced, ..Progress::default() };
        let next = ring.advance(disks, usize::MAX).unwrap();
        assert_eq!((next.ack, next.sync), (winner.tag, parent), "no sync before all have acked");
    }
}
