//! The verdict: history and final disks, compared.
//!
//! Every checker works on what clients were told and on each replica's disk, read directly; none
//! asks the system under test for its opinion.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::Time;
use super::describe;
use super::history::{End, OpRecord};
use super::observer::{Check, Place, held_at};
use super::workload::{Class, added, value_to_elements};
use super::world::World;
use crate::protocol::op::{Action, Put};
use crate::protocol::record::{Record, Sibling};
use crate::protocol::step::Space;
use crate::types::{Dot, Key, NodeName};

/// A key and what each of its homes holds.
pub(super) struct Copies {
    pub(super) key: Key,
    pub(super) homes: Vec<(NodeName, Record)>,
}

impl World {
    /// What each home of a key holds durably.
    pub(super) fn copies(&self, key: &Key) -> Copies {
        let partition = key.partition(self.config.partitions);
        let homes = self.observer.homes(partition).into_iter().map(|home| {
            let place = Place { hint_for: None, partition, key: key.clone() };
            let at = self.names.get(&home).copied().unwrap_or_default();
            (home, held_at(&self.nodes[at], &place).unwrap_or_default())
        });
        Copies { key: key.clone(), homes: homes.collect() }
    }

    /// How many hints are on all disks.
    pub(super) fn hints_left(&self) -> usize {
        let nodes = self.nodes.iter().enumerate().filter(|(at, _)| !self.observer.is_gone(*at));
        nodes.map(|(_, node)| node.disk.len(Space::Hints)).sum()
    }

    /// How many records homes have exchanged because they differed, since they started.
    pub(super) fn exchanged(&self) -> u64 {
        self.nodes.iter().map(|node| node.stats().sync_records).sum()
    }

    /// The first key whose homes differ.
    pub(super) fn divergent(&self, keys: &BTreeSet<Key>) -> Option<Copies> {
        let copies = keys.iter().map(|key| self.copies(key));
        copies.into_iter().find(|copies| !copies.agree())
    }

    /// Judges everything. Returns how many acknowledged blind writes the policy overwrote.
    pub(super) fn judge(
        &mut self,
        keys: &BTreeSet<Key>,
        final_reads: &BTreeMap<Key, usize>,
    ) -> u64 {
        let mut found = Findings { time: self.time, list: Vec::new(), overwritten: 0 };
        let by_key = self.ops_by_key();
        for key in keys {
            let copies = self.copies(key);
            let ops: Vec<&OpRecord> = match by_key.get(key) {
                Some(ops) => ops.iter().map(|op| &self.history.ops[*op]).collect(),
                None => Vec::new(),
            };
            let merged = copies.merged();
            found.phantoms(key, &ops, &merged);
            for (home, held) in &copies.homes {
                let record = &self.observer.collected.known_everywhere(key, held);
                found.acknowledged_dots(key, home, &ops, record);
                found.additions(key, home, &ops, record);
                found.superseded(key, home, &ops, record);
            }
            found.list.extend(super::register::judge(&ops, |begun, ended| {
                self.observer.was_set_back(begun, ended)
            }));
            let reads = super::reads::judge(&self.observer, &ops);
            found.list.extend(reads.into_iter().map(|what| (Check::R, what)));
            if let Some(&read) = final_reads.get(key) {
                self.final_read(&mut found, key, &merged, read);
            }
        }
        self.count_writes(&mut found);
        self.judge_collected();
        for (check, what) in found.list {
            self.observer.violate(check, found.time, what);
        }
        found.overwritten
    }

    /// P: a request is written once for each attempt at most, however often the network
    /// duplicates what one node passes to another.
    fn count_writes(&self, found: &mut Findings) {
        let mut attempts = vec![0; self.history.ops.len()];
        for attempt in &self.history.attempts {
            attempts[attempt.op] += 1;
        }
        for (op, attempts) in self.history.ops.iter().zip(attempts) {
            let Action::Put(Put { request: Some(request), .. }) = &op.op.action else { continue };
            let writes = self.observer.writes_of(*request);
            if writes > attempts {
                let what = format!(
                    "{attempts} attempts made {writes} writes of {}: {}",
                    describe::key(op.key()),
                    describe::op(&op.op)
                );
                found.add(Check::P, what);
            }
        }
    }

    fn ops_by_key(&self) -> BTreeMap<Key, Vec<usize>> {
        let mut by_key: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for (at, op) in self.history.ops.iter().enumerate() {
            by_key.entry(op.key().clone()).or_default().push(at);
        }
        by_key
    }

    /// An ALL read at the end shows just what the replicas hold, the highest dot last.
    fn final_read(&self, found: &mut Findings, key: &Key, merged: &Record, read: usize) {
        let op = &self.history.ops[read];
        let Some(End::Read(outcome)) = &op.end else { return };
        let shown: Vec<Dot> = outcome.visible.iter().map(|sibling| sibling.dot).collect();
        let at = |time: Time| -> Vec<Dot> {
            let wall = self.nodes[0].clock.wall(time);
            merged.visible(wall).iter().map(|sibling| sibling.dot).collect()
        };
        let (then, later) = (at(op.invoked), at(op.ended.unwrap_or(self.time)));
        if shown != then && shown != later {
            let what = format!(
                "an ALL read of {} showed {:?}, the replicas hold {}",
                describe::key(key),
                shown.iter().map(|dot| describe::dot(*dot)).collect::<Vec<_>>(),
                describe::record(merged)
            );
            found.add(Check::C5, what);
        }
    }
}

impl Copies {
    /// Whether all homes hold the same.
    pub(super) fn agree(&self) -> bool {
        self.homes.windows(2).all(|pair| pair[0].1 == pair[1].1)
    }

    /// What all homes hold together.
    pub(super) fn merged(&self) -> Record {
        self.homes.iter().fold(Record::default(), |sum, (_, record)| sum.merge(record))
    }

    /// In words.
    pub(super) fn describe(&self) -> String {
        let each = self.homes.iter().map(|(home, r)| format!("{home} {}", describe::record(r)));
        format!("{}: {}", describe::key(&self.key), each.collect::<Vec<_>>().join(", "))
    }
}

struct Findings {
    time: Time,
    list: Vec<(Check, String)>,
    overwritten: u64,
}

impl Findings {
    fn add(&mut self, check: Check, what: String) {
        self.list.push((check, what));
    }

    /// C1: no value is there, or was ever read, that nobody tried to write, or whose every
    /// attempt certainly failed.
    fn phantoms(&mut self, key: &Key, ops: &[&OpRecord], merged: &Record) {
        let attempted: BTreeSet<&[u8]> = ops.iter().filter_map(|op| value_of(op)).collect();
        let void: BTreeSet<&[u8]> =
            ops.iter().filter(|op| is_void(op)).filter_map(|op| value_of(op)).collect();
        let mut look = |value: &[u8], where_: &str| {
            let text = String::from_utf8_lossy(value);
            if !attempted.contains(value) {
                let what = format!("{} {where_} {text}, which nobody wrote", describe::key(key));
                self.add(Check::C1, what);
            } else if void.contains(value) {
                let what = format!(
                    "{} {where_} {text}, of whose write all attempts were said not to be applied",
                    describe::key(key)
                );
                self.add(Check::C1, what);
            }
        };
        for value in merged.siblings().iter().filter_map(Sibling::value) {
            look(value, "holds");
        }
        for op in ops {
            if let Some(End::Read(read)) = &op.end {
                read.visible.iter().for_each(|sibling| look(&sibling.value, "was read as"));
            }
        }
    }

    /// C3, C5: an acknowledged dot is known to every home, and held by it unless something
    /// superseded it that was allowed to.
    fn acknowledged_dots(
        &mut self,
        key: &Key,
        home: &NodeName,
        ops: &[&OpRecord],
        record: &Record,
    ) {
        let contexts: Vec<_> = ops.iter().filter_map(|op| context_of(op)).collect();
        let policy = matches!(Class::of(key), Some(Class::Blind | Class::Strict));
        for (op, receipt) in ops.iter().filter_map(|op| Some((op, op.receipt()?))) {
            let dot = receipt.dot;
            let name = || format!("{} of {}", describe::dot(dot), describe::key(key));
            if !record.seen().covers(dot) {
                let what = format!(
                    "acknowledged {} is unknown to {home}, which holds {}: {}",
                    name(),
                    describe::record(record),
                    describe::op(&op.op)
                );
                self.add(Check::C3, what);
                continue;
            }
            if record.siblings().iter().any(|sibling| sibling.dot == dot) {
                continue;
            }
            let by_context = contexts.iter().any(|context| context.covers(dot));
            let newer = record.siblings().last().is_some_and(|last| last.dot.stamp > dot.stamp);
            if policy && newer {
                self.overwritten += 1;
            } else if !(by_context && newer) {
                let check = if policy { Check::C5 } else { Check::C3 };
                let what = format!(
                    "acknowledged {} is gone from {home}, which holds {}, and nothing superseded it",
                    name(),
                    describe::record(record)
                );
                self.add(check, what);
            }
        }
    }

    /// C3, the other way round: what the context of an acknowledged write covered is gone.
    fn superseded(&mut self, key: &Key, home: &NodeName, ops: &[&OpRecord], record: &Record) {
        for op in ops.iter().filter(|op| op.receipt().is_some()) {
            let Some(context) = context_of(op) else { continue };
            for sibling in record.siblings().iter().filter(|s| context.covers(s.dot)) {
                let what = format!(
                    "{home} still holds {} of {}, which an acknowledged write superseded: {}",
                    describe::dot(sibling.dot),
                    describe::key(key),
                    describe::op(&op.op)
                );
                self.add(Check::C3, what);
            }
        }
    }

    /// C1, C2: every acknowledged addition is in the union of the siblings.
    fn additions(&mut self, key: &Key, home: &NodeName, ops: &[&OpRecord], record: &Record) {
        let check = match Class::of(key) {
            Some(Class::Unique | Class::Expiring) => Check::C1,
            Some(Class::Causal) => Check::C2,
            _ => return,
        };
        let values = record.siblings().iter().filter_map(Sibling::value);
        let held: BTreeSet<u32> = values.flat_map(|value| value_to_elements(value)).collect();
        for op in ops.iter().filter(|op| op.receipt().is_some()) {
            let Some(element) = added(&op.op.action) else { continue };
            if !held.contains(&element) {
                let what = format!(
                    "acknowledged {element} is lost from {} on {home}, which holds {}",
                    describe::key(key),
                    describe::record(record)
                );
                self.add(check, what);
            }
        }
    }
}

fn value_of<'a>(op: &'a &OpRecord) -> Option<&'a [u8]> {
    match &op.op.action {
        Action::Put(Put { value: Some(value), .. }) => Some(value),
        Action::Put(Put { value: None, .. }) | Action::Get => None,
    }
}

fn context_of<'a>(op: &'a &OpRecord) -> Option<&'a crate::protocol::record::VersionVector> {
    match &op.op.action {
        Action::Put(put) => put.context.as_ref(),
        Action::Get => None,
    }
}

/// Whether every attempt of an op was answered with "certainly not applied".
fn is_void(op: &OpRecord) -> bool {
    matches!(op.end, Some(End::Failed(_))) && !op.maybe
}
