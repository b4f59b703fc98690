//! What other members have published of how far they have come.

use std::collections::BTreeMap;

use super::super::wire::Trackers;
use crate::protocol::placement::MEMBERS_MAX;
use crate::types::{NodeId, NodeName};

/// By name: the newest trackers of the disk that it was when they were heard.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Heard(BTreeMap<NodeName, Trackers>);

impl Heard {
    /// Takes trackers of the present disk of their name; says whether they are news. Those of a disk
    /// replace any of another; of one disk, the later count.
    pub(in super::super) fn hear(&mut self, theirs: &Trackers) -> bool {
        let known = self.0.get(&theirs.name);
        let news = known.is_none_or(|known| known.id != theirs.id || known.count < theirs.count);
        let room = known.is_some() || self.0.len() < MEMBERS_MAX;
        if news && room {
            self.0.insert(theirs.name.clone(), theirs.clone());
        }
        news && room
    }

    /// The name is another disk from now on, or none: it starts anew.
    pub(in super::super) fn forget(&mut self, name: &NodeName) {
        self.0.remove(name);
    }

    /// What this disk of a name has published.
    pub(in super::super) fn of(&self, name: &NodeName, id: NodeId) -> Option<&Trackers> {
        self.0.get(name).filter(|trackers| trackers.id == id)
    }

    /// In order of name.
    pub(in super::super) fn all(&self) -> impl Iterator<Item = &Trackers> {
        self.0.values()
    }
}
