//! C7: what was collected stays gone, and nothing was collected too early.
//!
//! The observer sees each dead record leave a disk. At that moment no disk, wherever it is and whether its
//! node runs or not, may hold anything that the record had superseded: as a home's own copy or as a hint
//! (but one that was set back to an old snapshot, until its process has found out).
//! At the end no home may, and no read that began later may have shown it. What a disk has collected is
//! remembered here: other checkers ask what a home *knows*, which is what it holds and what it collected.

use std::collections::BTreeMap;

use super::clock::Time;
use super::describe;
use super::history::End;
use super::node::SimNode;
use super::observer::{Check, Observer, Place, held_at};
use super::world::World;
use crate::protocol::record::{Content, Record, Sibling};
use crate::types::{Dot, Key};

/// What has been collected.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// From each disk.
    by_node: BTreeMap<(usize, Key), Record>,
    /// Of each key, everything that was collected anywhere. Every home held it when the round was opened.
    by_key: BTreeMap<Key, Record>,
    /// Each one, and since when.
    records: Vec<(Time, Key, Record)>,
}

impl Collected {
    /// How many records have left a disk.
    pub(super) fn count(&self) -> u64 {
        self.records.len() as u64
    }

    /// What a home knows of a key: what it holds, and what it has collected.
    pub(super) fn known(&self, node: usize, key: &Key, held: Option<Record>) -> Option<Record> {
        let gone = self.by_node.get(&(node, key.clone()));
        match (held, gone) {
            (Some(held), Some(gone)) => Some(held.merge(gone)),
            (held, gone) => held.or_else(|| gone.cloned()),
        }
    }

    /// What every home knows of a key that holds this.
    pub(super) fn known_everywhere(&self, key: &Key, held: &Record) -> Record {
        self.by_key.get(key).map_or_else(|| held.clone(), |gone| held.merge(gone))
    }

    /// Whether a write was seen by a record that was collected.
    pub(super) fn covers(&self, key: &Key, dot: Dot) -> bool {
        self.by_key.get(key).is_some_and(|gone| gone.seen().covers(dot))
    }

    /// Whether a write was seen by a record that some home had collected by then.
    pub(super) fn covers_by(&self, key: &Key, dot: Dot, by: Time) -> bool {
        let mut gone = self.records.iter().filter(|(since, of, _)| *since <= by && of == key);
        gone.any(|(_, _, record)| record.seen().covers(dot))
    }

    fn note(&mut self, time: Time, node: usize, key: &Key, record: &Record) {
        let gone = self.by_node.entry((node, key.clone())).or_default();
        *gone = gone.merge(record);
        let gone = self.by_key.entry(key.clone()).or_default();
        *gone = gone.merge(record);
        self.records.push((time, key.clone(), record.clone()));
    }
}

/// The first value in `held` that `gone` had superseded.
fn revived<'a>(held: &'a Record, gone: &Record) -> Option<&'a Sibling> {
    let superseded = |dot: Dot| {
        gone.seen().covers(dot) && !gone.siblings().iter().any(|sibling| sibling.dot == dot)
    };
    held.siblings().iter().find(|s| matches!(s.content, Content::Value(_)) && superseded(s.dot))
}

impl Observer {
    /// A home's own record has left its disk: if it was dead, it has been collected. Whether it was.
    pub(super) fn is_collected(
        &mut self,
        time: Time,
        nodes: &[SimNode],
        node: usize,
        place: &Place,
        record: &Record,
    ) -> bool {
        let mortal = |s: &Sibling| matches!(s.content, Content::Tombstone) || s.expiry.is_some();
        if place.hint_for.is_some() || !record.siblings().iter().all(mortal) {
            return false;
        }
        // What an old snapshot brings back nobody else can know of: its process finds out, and nothing
        // that it holds counts until it has been merged from the other homes.
        let trusted = nodes.iter().enumerate().filter(|(_, other)| !other.is_set_back);
        for (at, other) in trusted {
            if self.is_gone(at) {
                continue;
            }
            for owner in nodes {
                let hint_for = (owner.name != other.name).then(|| owner.name.clone());
                let there = Place { hint_for, ..place.clone() };
                let Some(held) = held_at(other, &there) else { continue };
                if let Some(sibling) = revived(&held, record) {
                    let what = format!(
                        "node-{node} collects {} of {} while node-{at} still holds {}{}",
                        describe::record(record),
                        describe::key(&place.key),
                        describe::dot(sibling.dot),
                        if there.hint_for.is_some() { " as a hint" } else { "" }
                    );
                    self.violate(Check::C7, time, what);
                }
            }
        }
        self.collected.note(time, node, &place.key, record);
        true
    }
}

impl World {
    /// C7, at the end.
    pub(super) fn judge_collected(&mut self) {
        let mut found = Vec::new();
        for (since, key, gone) in &self.observer.collected.records {
            for (home, held) in self.copies(key).homes {
                if let Some(sibling) = revived(&held, gone) {
                    let dot = describe::dot(sibling.dot);
                    found.push(format!("{home} holds {dot} of {} again", describe::key(key)));
                }
            }
            for op in self.history.ops.iter().filter(|op| op.key() == key && op.invoked > *since) {
                let Some(End::Read(read)) = &op.end else { continue };
                let superseded = |dot: Dot| {
                    let held = gone.siblings().iter().any(|sibling| sibling.dot == dot);
                    gone.seen().covers(dot) && !held
                };
                if let Some(shown) = read.visible.iter().find(|shown| superseded(shown.dot)) {
                    let dot = describe::dot(shown.dot);
                    found.push(format!("a read of {} showed {dot} again", describe::key(key)));
                }
            }
        }
        for what in found {
            let what = format!("{what}, which a collected record had superseded");
            self.observer.violate(Check::C7, self.time, what);
        }
    }
}
