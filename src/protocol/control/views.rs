//! How the nodes see each other, and where their views differ: for the debug page.
//!
//! A node's view is numbered: the number rises when what it sees changes. Nodes compare a hash
//! of all numbers, then the numbers, then send what is newer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::wire::{MemberState, NodeView, Sight, ViewVersion, encode_version, section_hash};
use crate::types::{Generation, Mono, NodeId};

/// Views of others kept, and members of one view: bounds what peers can make us keep.
const VIEWS_MAX: usize = 1024;

/// This node's view and the last heard view of every other.
pub(super) struct Views {
    mine: NodeView,
    others: BTreeMap<NodeId, HeardView>,
}

pub(super) struct HeardView {
    pub(super) view: NodeView,
    /// When it was last known to be its observer's present view.
    pub(super) heard: Mono,
}

/// Members on which two nodes' views differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The member's name, or its id if the name is unknown.
    pub member: String,
    /// Its id.
    pub id: String,
    /// What each node says of it.
    pub says: Vec<Says>,
}

/// What one node says of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Says {
    /// The node that says it, by name, or by id if the name is unknown.
    pub node: String,
    /// Alive, suspect, down, or unknown.
    pub state: MemberState,
    /// Of the member's refuted suspicions.
    pub incarnation: u16,
    /// Whether that node can reach the member.
    pub reachable: bool,
    /// How long ago this was last known to be what that node says.
    pub age_ms: u64,
}

impl Views {
    pub(super) fn new(observer: NodeId, generation: Generation) -> Self {
        let version = ViewVersion { observer, generation, count: 0 };
        Self { mine: NodeView { version, entries: Vec::new() }, others: BTreeMap::new() }
    }

    /// What this node sees now.
    pub(super) fn see(&mut self, entries: Vec<Sight>) {
        if self.mine.entries != entries {
            self.mine.entries = entries;
            self.mine.version.count += 1;
        }
    }

    /// Another node's view came; `known` says whether we know of that node.
    pub(super) fn hear(&mut self, view: NodeView, known: bool, now: Mono) {
        let observer = view.version.observer;
        let held = self.others.get(&observer);
        let newer = held.is_none_or(|held| is_newer(view.version, held.view.version));
        let room = self.others.len() < VIEWS_MAX || held.is_some();
        if known && newer && room && observer != self.mine.version.observer {
            self.others.insert(observer, HeardView { view, heard: now });
        }
    }

    /// The view of this node that we hold is its present one.
    pub(super) fn confirm(&mut self, observer: NodeId, now: Mono) {
        if let Some(held) = self.others.get_mut(&observer) {
            held.heard = now;
        }
    }

    pub(super) fn digest(&self) -> u64 {
        section_hash(&self.versions(), encode_version)
    }

    /// In order of observer.
    pub(super) fn versions(&self) -> Vec<ViewVersion> {
        let mut versions: Vec<_> = self.others.values().map(|held| held.view.version).collect();
        versions.push(self.mine.version);
        versions.sort_by_key(|version| version.observer);
        versions
    }

    /// Views that are newer here than by `versions`.
    pub(super) fn newer_than(&self, versions: &[ViewVersion]) -> Vec<NodeView> {
        let all = self.others.values().map(|held| &held.view).chain([&self.mine]);
        let newer = |view: &&NodeView| {
            let theirs = versions.iter().find(|v| v.observer == view.version.observer);
            theirs.is_none_or(|&theirs| is_newer(view.version, theirs))
        };
        all.filter(newer).cloned().collect()
    }

    /// Whether `versions` names a view that is newer than ours, or that we lack.
    pub(super) fn lacks(&self, versions: &[ViewVersion]) -> bool {
        let mine = self.versions();
        versions.iter().any(|&theirs| {
            let held = mine.iter().find(|v| v.observer == theirs.observer);
            held.is_none_or(|&held| is_newer(theirs, held))
        })
    }

    /// The highest epoch that anybody saw of `id`.
    pub(super) fn epoch_of(&self, id: NodeId) -> u64 {
        let entries = self.others.values().flat_map(|held| &held.view.entries);
        entries.filter(|sight| sight.id == id).map(|sight| sight.epoch).max().unwrap_or(0)
    }

    /// The highest incarnation that anybody saw of `id`.
    pub(super) fn incarnation_of(&self, id: NodeId) -> u16 {
        let entries = self.others.values().flat_map(|held| &held.view.entries);
        entries.filter(|sight| sight.id == id).map(|sight| sight.incarnation).max().unwrap_or(0)
    }

    /// Every member on which two nodes differ. A node that is itself `gone` has no say.
    pub(super) fn differences(
        &self,
        now: Mono,
        name: impl Fn(NodeId) -> String,
        gone: impl Fn(NodeId) -> bool,
    ) -> Vec<Difference> {
        let mut by_member: BTreeMap<NodeId, Vec<(Sight, NodeId, u64)>> = BTreeMap::new();
        let others = self.others.values().map(|held| (&held.view, now.micros_since(held.heard)));
        for (view, age) in others.chain([(&self.mine, 0)]) {
            let observer = view.version.observer;
            for &sight in view.entries.iter().filter(|sight| sight.id != observer) {
                if !gone(observer) {
                    by_member.entry(sight.id).or_default().push((sight, observer, age / 1000));
                }
            }
        }
        let differ = |says: &Vec<(Sight, NodeId, u64)>| {
            let first = says[0].0;
            let same = |s: &Sight| (s.state, s.reachable) == (first.state, first.reachable);
            !says.iter().all(|(sight, ..)| same(sight))
        };
        by_member.retain(|_, says| differ(says));
        let say = |(sight, observer, age_ms): (Sight, NodeId, u64)| Says {
            node: name(observer),
            state: sight.state,
            incarnation: sight.incarnation,
            reachable: sight.reachable,
            age_ms,
        };
        by_member
            .into_iter()
            .map(|(id, says)| Difference {
                member: name(id),
                id: id.to_string(),
                says: says.into_iter().map(say).collect(),
            })
            .collect()
    }
}

fn is_newer(a: ViewVersion, b: ViewVersion) -> bool {
    (a.generation, a.count) > (b.generation, b.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(id: u128, state: MemberState) -> Sight {
        Sight { id: NodeId(id), state, incarnation: 1, epoch: 9, reachable: true }
    }

    fn view(observer: u128, count: u64, entries: Vec<Sight>) -> NodeView {
        let version = ViewVersion { observer: NodeId(observer), generation: Generation(1), count };
        NodeView { version, entries }
    }

    #[test]
    fn two_nodes_that_differ_on_a_member_are_named_with_what_they_say() {
        let mut views = Views::new(NodeId(1), Generation(1));
        views.see(vec![sight(2, MemberState::Alive), sight(3, MemberState::Alive)]);
        views.hear(view(2, 1, vec![sight(3, MemberState::Down)]), true, Mono(0));
        let now = Mono(0).after_millis(40);
        let found = views.differences(now, |id| format!("n{}", id.0), |_| false);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].member, "n3");
        let says: Vec<_> =
            found[0].says.iter().map(|s| (s.node.as_str(), s.state, s.age_ms)).collect();
        assert_eq!(says, [("n2", MemberState::Down, 40), ("n1", MemberState::Alive, 0)]);
        let gone = views.differences(now, |id| format!("n{}", id.0), |id| id == NodeId(2));
        assert_eq!(gone, [], "a dead node has no say");
    }

    #[test]
    fn only_newer_views_of_known_nodes_are_taken() {
        let mut views = Views::new(NodeId(1), Generation(1));
        let digest = views.digest();
        views.hear(view(2, 2, vec![sight(1, MemberState::Down)]), false, Mono(0));
        assert_eq!(views.digest(), digest, "a view of a stranger");
        views.hear(view(2, 2, vec![sight(1, MemberState::Down)]), true, Mono(0));
        views.hear(view(2, 1, vec![]), true, Mono(0));
        assert_eq!(views.epoch_of(NodeId(1)), 9);
        assert_ne!(views.digest(), digest);
        assert!(!views.lacks(&views.versions()));
        assert_eq!(views.newer_than(&views.versions()), []);
        assert_eq!(views.newer_than(&[]).len(), 2);
    }
}
