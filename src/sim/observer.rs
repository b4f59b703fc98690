//! What must hold at every moment, checked while the world runs.
//!
//! The observer sees what no node can: every commit as it is formed, every disk as it is synced,
//! every acknowledgement as it leaves. It checks
//!
//! - **Z**: an acknowledged write is durable on W distinct nodes in W distinct home slots when
//!   the acknowledgement leaves;
//! - **C3**, first half: one dot never has two contents, anywhere, ever;
//! - **D1**: what is durable of a record only grows: a new state contains the old one, or the record was
//!   dead and is collected (C7: see [`super::collection`]);
//! - **D2**: a hint is removed only when its target durably holds everything in it;
//! - **D3**: a commit's clock is never below what the process recovered at its start;
//! - **D4**: what a worker remembers of its disk is what the disk holds (see `remembered`);
//! - **P**: one attempt of a request makes one write at most (judged at the end);
//! - **M**: what a node sends can be decoded; nobody is answered who did not ask; a retry is
//!   never taken for another request.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::clock::Time;
use super::collection::Collected;
use super::describe;
use super::disk::Applied;
use super::node::SimNode;
use super::trace::clock_face;
use crate::protocol::op::{Action, Op, Receipt};
use crate::protocol::placement::Placement;
use crate::protocol::quorum::{Consistency, Tally};
use crate::protocol::record::{Record, Sealed, VersionVector};
use crate::protocol::step::{Change, Space, Ticket};
use crate::types::{Dot, Key, NodeName, Partition, RequestId, Stamp};

/// Violations kept at most, of each check: the first ones say what happened.
const KEPT_EACH: usize = 3;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// Acknowledged means durable on W distinct nodes in W distinct slots.
    Z,
    /// Set of unique keys: nothing acknowledged is lost, nothing appears that was not attempted.
    C1,
    /// Causal read-modify-write: the union of the siblings has every acknowledged addition.
    C2,
    /// Dots: one content each; acknowledged and not superseded means present.
    C3,
    /// Strict register: strict requests on a key are linearizable.
    C4,
    /// Last writer wins: all replicas equal, the highest dot is shown.
    C5,
    /// Convergence in bounded time.
    C6,
    /// What was collected stays gone.
    C7,
    /// Sessions: a client's strict requests see what its earlier ones have shown or acknowledged.
    C8,
    /// Bounds: hints and ops under way stay within their limits, and come to nothing.
    C9,
    /// Reads: none shows what it knows to be superseded, or misses what R + W > N promises.
    R,
    /// Scans: in order, nothing that nobody wrote, and what R + W > N promises.
    S,
    /// What is durable of a record only grows.
    D1,
    /// A hint is removed only when its target holds it.
    D2,
    /// Clocks in commits never go back.
    D3,
    /// What a worker remembers of its disk is what the disk holds.
    D4,
    /// One attempt of a request makes one write at most.
    P,
    /// Messages and answers make sense.
    M,
    /// The core panicked, or does not come to rest.
    Panic,
}

/// Something that must not happen has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What was checked.
    pub check: Check,
    /// When, in microseconds since the world began.
    pub time: u64,
    /// What happened, in words.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}: {}", self.check, clock_face(self.time).trim_start(), self.what)
    }
}

/// Where a record is stored, from its key in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) hint_for: Option<NodeName>,
    pub(super) partition: Partition,
    pub(super) key: Key,
}

/// Sees everything.
pub(super) struct Observer {
    founded: Arc<Placement>,
    /// The live versions, oldest first.
    live: Vec<Arc<Placement>>,
    /// All versions that there ever were.
    ever: Vec<Arc<Placement>>,
    /// How many nodes there are, beside a process on a copied folder.
    nodes: usize,
    /// Nodes that are no members any more: what is on their disks is of another time.
    gone: BTreeSet<usize>,
    contents: BTreeMap<(Key, Dot), u128>,
    /// The writes that were made for a request.
    written: BTreeMap<RequestId, BTreeSet<Dot>>,
    /// All that a node has ever durably held of a key for a home, or what superseded it.
    held: BTreeMap<Key, BTreeMap<(NodeName, usize), VersionVector>>,
    /// Writes that were acknowledged.
    acked: BTreeSet<(Key, Dot)>,
    /// When a hint of a key was first durable.
    hinted: BTreeMap<Key, Time>,
    /// Copies that the world has damaged: their past is no measure.
    damaged: BTreeSet<(usize, Bytes)>,
    /// The same, for ever and by key.
    ever_damaged: BTreeSet<(usize, Key)>,
    /// Nodes whose disk was set back, since when, and until when nobody knew.
    set_back: Vec<(usize, Time, Option<Time>)>,
    /// Where a record is gone without a trace.
    vanished: BTreeSet<(usize, Partition)>,
    /// Nodes whose whole disk was lost: what they had acknowledged may be gone with it.
    lost: BTreeSet<usize>,
    violations: Vec<Violation>,
    pub(super) collected: Collected,
}

impl Place {
    /// Reads a key of the store; none if it is not one of a record.
    pub(super) fn of(space: Space, stored: &Bytes) -> Option<Self> {
        let (hint_for, rest) = match space {
            Space::Meta => return None,
            Space::Records => (None, stored.clone()),
            Space::Hints => {
                let end = 1 + usize::from(*stored.first()?);
                let name = std::str::from_utf8(stored.get(1..end)?).ok()?;
                (Some(NodeName::new(name).ok()?), stored.slice(end..))
            }
        };
        let partition = Partition(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
        Some(Self { hint_for, partition, key: Key::new(rest.slice(2..)).ok()? })
    }

    /// The same key, as a home's own record.
    fn own(&self) -> Self {
        Self { hint_for: None, ..self.clone() }
    }

    /// The record in a stored value, if it is sound.
    pub(super) fn open(&self, stored: &Bytes) -> Option<Record> {
        Sealed::from_stored(stored.clone()).ok()?.open(self.partition, &self.key).ok()
    }
}

impl Observer {
    pub(super) fn new(placement: Arc<Placement>, nodes: usize) -> Self {
        Self {
            founded: placement.clone(),
            live: vec![placement.clone()],
            ever: vec![placement],
            nodes,
            gone: BTreeSet::new(),
            contents: BTreeMap::new(),
            written: BTreeMap::new(),
            held: BTreeMap::new(),
            acked: BTreeSet::new(),
            hinted: BTreeMap::new(),
            damaged: BTreeSet::new(),
            ever_damaged: BTreeSet::new(),
            set_back: Vec::new(),
            vanished: BTreeSet::new(),
            lost: BTreeSet::new(),
            violations: Vec::new(),
            collected: Collected::default(),
        }
    }

    /// The newest version.
    pub(super) fn placement(&self) -> &Arc<Placement> {
        &self.live[self.live.len() - 1]
    }

    /// The only version that ever had this number; none if there were rivals.
    pub(super) fn version(&self, number: u32) -> Option<Arc<Placement>> {
        let mut named = self.ever.iter().filter(|version| version.tag.number == number);
        let only = named.next()?;
        named.next().is_none().then(|| only.clone())
    }

    /// The first version.
    pub(super) fn founded(&self) -> &Arc<Placement> {
        &self.founded
    }

    pub(super) fn set_live(&mut self, live: &[Arc<Placement>]) {
        live.iter().for_each(|version| self.note_version(version));
        self.live = live.to_vec();
    }

    /// Somebody holds a version, which may be a rival of others.
    pub(super) fn note_version(&mut self, version: &Arc<Placement>) {
        if !self.ever.iter().any(|known| known.tag == version.tag) {
            self.ever.push(version.clone());
        }
    }

    /// A node is no member any more.
    pub(super) fn node_gone(&mut self, node: usize) {
        self.set_gone(node, true);
    }

    /// Whether a node is no member from now on.
    pub(super) fn set_gone(&mut self, node: usize, gone: bool) {
        if gone {
            self.gone.insert(node);
        } else {
            self.gone.remove(&node);
        }
    }

    /// The live versions, oldest first.
    pub(super) fn live(&self) -> &[Arc<Placement>] {
        &self.live
    }

    /// Whether a name is a member of any live version.
    pub(super) fn is_member(&self, name: &NodeName) -> bool {
        self.live.iter().any(|version| version.member(name).is_some())
    }

    /// Whether a node is no member any more.
    pub(super) fn is_gone(&self, node: usize) -> bool {
        self.gone.contains(&node)
    }

    /// How many of these are homes of a key, in the version in which the fewest are.
    pub(super) fn homes_among(&self, names: &[NodeName], key: &Key) -> usize {
        let among = |version: &Arc<Placement>| {
            let homes = home_names(version, key.partition(version.partitions));
            homes.filter(|home| names.contains(home)).count()
        };
        self.ever.iter().map(among).min().unwrap_or(0)
    }

    /// The names of a partition's homes, in order.
    pub(super) fn homes(&self, partition: Partition) -> Vec<NodeName> {
        let placement = self.placement();
        let homes = placement.homes(partition).iter();
        homes.map(|at| placement.members[usize::from(*at)].name.clone()).collect()
    }

    /// How many writes were made for a request.
    pub(super) fn writes_of(&self, request: RequestId) -> usize {
        self.written.get(&request).map_or(0, BTreeSet::len)
    }

    /// The writes that were made for a request.
    pub(super) fn dots_of(&self, request: RequestId) -> impl Iterator<Item = Dot> {
        self.written.get(&request).into_iter().flatten().copied()
    }

    /// Whether a hint of a key was durable by then.
    pub(super) fn was_hinted(&self, key: &Key, by: Time) -> bool {
        self.hinted.get(key).is_some_and(|first| *first <= by)
    }

    pub(super) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(super) fn violate(&mut self, check: Check, time: Time, what: String) {
        let kept = self.violations.iter().filter(|violation| violation.check == check).count();
        if kept < KEPT_EACH {
            self.violations.push(Violation { check, time, what });
        }
    }

    /// A worker has formed a commit.
    pub(super) fn formed(
        &mut self,
        time: Time,
        node: usize,
        changes: &[Change],
        clock: Stamp,
        recovered: Stamp,
    ) {
        if clock < recovered {
            let what = format!(
                "node-{node} commits with its clock at {clock:?}, below {recovered:?}, which it recovered at its start"
            );
            self.violate(Check::D3, time, what);
        }
        for change in changes {
            let (Some(place), Some(value)) = (Place::of(change.space, &change.key), &change.value)
            else {
                continue;
            };
            match place.open(value) {
                Some(record) => self.look_at_dots(time, node, &place.key, &record),
                None => {
                    let what = format!("node-{node} commits bytes that are no record of {place:?}");
                    self.violate(Check::D1, time, what);
                }
            }
        }
    }

    fn look_at_dots(&mut self, time: Time, node: usize, key: &Key, record: &Record) {
        for sibling in record.siblings() {
            if let Some(request) = sibling.request {
                self.written.entry(request).or_default().insert(sibling.dot);
            }
            let mut bytes = Vec::with_capacity(64);
            sibling.encode(&mut bytes);
            let content = xxhash_rust::xxh3::xxh3_128(&bytes);
            let first = *self.contents.entry((key.clone(), sibling.dot)).or_insert(content);
            if first != content {
                let (name, dot) = (describe::key(key), describe::dot(sibling.dot));
                let what = format!("the dot {dot} of {name} has a second content, on node-{node}");
                self.violate(Check::C3, time, what);
            }
        }
    }

    /// A bit of a stored record has been flipped.
    pub(super) fn damage(&mut self, node: usize, stored_key: Bytes) {
        if let Ok(key) = Key::new(stored_key.slice(2.min(stored_key.len())..)) {
            self.ever_damaged.insert((node, key));
        }
        self.damaged.insert((node, stored_key));
    }

    /// A record is gone from a disk without a trace that any checksum would meet.
    pub(super) fn vanished(&mut self, node: usize, partition: Partition, stored_key: Bytes) {
        self.vanished.insert((node, partition));
        self.damage(node, stored_key);
    }

    /// Whether a tree of this partition may tell of what is not there: a copy is damaged and nobody has
    /// met it, or has gone without a trace.
    pub(super) fn is_damaged(&self, node: usize, partition: Partition) -> bool {
        if self.vanished.contains(&(node, partition)) {
            return true;
        }
        let mut of_node = self.damaged.range((node, Bytes::new())..(node + 1, Bytes::new()));
        of_node.any(|(_, stored)| stored.starts_with(&partition.0.to_be_bytes()))
    }

    /// A node's disk holds less than it has told of, and nobody knows yet; or by now somebody does.
    pub(super) fn set_back(&mut self, time: Time, node: usize, unknown: bool) {
        if unknown {
            self.set_back.push((node, time, None));
        }
        let open = self.set_back.iter_mut().filter(|spell| spell.0 == node && spell.2.is_none());
        open.filter(|_| !unknown).for_each(|spell| spell.2 = Some(time));
    }

    /// Whether a disk was set back, and nobody knew, at some time from `begun` to `ended`.
    pub(super) fn was_set_back(&self, begun: Time, ended: Time) -> bool {
        let mut spells = self.set_back.iter();
        spells.any(|&(_, from, to)| from <= ended && to.is_none_or(|to| begun <= to))
    }

    /// A disk was emptied, or an old snapshot of it was put back.
    pub(super) fn disk_lost(&mut self, node: usize) {
        self.lost.insert(node);
    }

    /// Whether a node's whole disk was ever lost.
    pub(super) fn is_lost(&self, node: usize) -> bool {
        self.lost.contains(&node)
    }

    /// Something has become durable on a node.
    pub(super) fn durable(
        &mut self,
        time: Time,
        nodes: &[SimNode],
        names: &BTreeMap<NodeName, usize>,
        node: usize,
        applied: &Applied,
    ) {
        let Applied { change, before } = applied;
        let Some(place) = Place::of(change.space, &change.key) else { return };
        if place.hint_for.is_some() {
            self.hinted.entry(place.key.clone()).or_insert(time);
        }
        let before = before.as_ref().and_then(|bytes| place.open(bytes));
        let after = change.value.as_ref().and_then(|bytes| place.open(bytes));
        if let Some(record) = &after {
            self.note_held(nodes, node, &place, record);
        }
        let was_damaged =
            place.hint_for.is_none() && self.damaged.remove(&(node, change.key.clone()));
        let Some(before) = before else { return };
        let grows = after.as_ref().is_some_and(|after| after.contains(&before));
        // What an older state of a disk holds may be set aside, to be rebuilt from the other homes.
        let set_aside = after.is_none() && self.lost.contains(&node);
        if grows || was_damaged || set_aside {
            return;
        }
        if after.is_none() && self.is_given_up(time, nodes, names, node, &place, &before) {
            return;
        }
        if after.is_none() && self.is_collected(time, nodes, node, &place, &before) {
            return;
        }
        let known_at =
            |at: usize| self.collected.known(at, &place.key, held_at(&nodes[at], &place.own()));
        let name = describe::key(&place.key);
        match (&place.hint_for, &after) {
            (Some(target), None) => {
                let stored = names.get(target).and_then(|&at| known_at(at));
                // What the target had acknowledged may have been damaged on its disk since.
                let damaged = names.get(target).is_some_and(|&at| {
                    self.lost.contains(&at) || self.ever_damaged.contains(&(at, place.key.clone()))
                });
                if !damaged && !stored.as_ref().is_some_and(|stored| stored.contains(&before)) {
                    let (hint, own) =
                        (describe::record(&before), stored.as_ref().map(describe::record));
                    let what = format!(
                        "node-{node} removed its hint of {name} for {target} {hint}; {target} holds {}",
                        own.unwrap_or_else(|| "nothing".into())
                    );
                    self.violate(Check::D2, time, what);
                }
            }
            (hint_for, _) => {
                let then = after.as_ref().map_or("nothing".into(), describe::record);
                let kind = if hint_for.is_some() { "hint" } else { "record" };
                // A hint may begin anew: its earlier state was removed in between, or its target
                // holds that.
                let at_target = hint_for.as_ref().and_then(|target| names.get(target));
                if at_target.is_some_and(|at| self.lost.contains(at)) {
                    return;
                }
                let at_target = at_target.and_then(|&at| known_at(at));
                if !at_target.is_some_and(|record| record.contains(&before)) {
                    let before = describe::record(&before);
                    let what = format!(
                        "the {kind} of {name} on node-{node} was {before} and became {then}"
                    );
                    self.violate(Check::D1, time, what);
                }
            }
        }
    }

    /// Whether a node drops its copy of a partition of which it is no home, as far as it has acknowledged,
    /// or a hint for one that is none, as far as it or anybody has heard: its target may have dropped what it had
    /// taken before the removal of the hint is durable here. What it held was acknowledged elsewhere, or not at all: some home
    /// has to know each acknowledged write by then.
    fn is_given_up(
        &mut self,
        time: Time,
        nodes: &[SimNode],
        names: &BTreeMap<NodeName, usize>,
        node: usize,
        place: &Place,
        before: &Record,
    ) -> bool {
        let homes: BTreeSet<&NodeName> =
            self.live.iter().flat_map(|version| home_names(version, place.partition)).collect();
        let target_is_home = place.hint_for.as_ref().is_none_or(|target| homes.contains(target));
        if is_home(&nodes[node], place) && target_is_home {
            return false;
        }
        let knows = |&at: &usize| {
            let own = held_at(&nodes[at], &place.own());
            self.collected.known(at, &place.key, own)
        };
        let known = homes.iter().filter_map(|home| names.get(*home)).filter_map(knows);
        let known = known.fold(Record::default(), |sum, record| sum.merge(&record));
        let acked = |dot: Dot| self.acked.contains(&(place.key.clone(), dot));
        let mut dots = before.siblings().iter().map(|sibling| sibling.dot);
        if let Some(dot) = dots.find(|&dot| acked(dot) && !known.seen().covers(dot)) {
            let what = format!(
                "node-{node} gives up {} of {}, which was acknowledged and which no home holds",
                describe::dot(dot),
                describe::key(&place.key),
            );
            self.violate(Check::D1, time, what);
        }
        true
    }

    fn note_held(&mut self, nodes: &[SimNode], node: usize, place: &Place, record: &Record) {
        let owner = place.hint_for.as_ref().unwrap_or(&nodes[node].name);
        let of_key = self.held.entry(place.key.clone()).or_default();
        of_key.entry((owner.clone(), node)).or_default().join(record.seen());
    }

    /// An acknowledgement leaves a node.
    pub(super) fn acknowledged(
        &mut self,
        time: Time,
        nodes: &[SimNode],
        node: usize,
        op: &Op,
        receipt: &Receipt,
        versions: &[Arc<Placement>],
    ) {
        self.acked.insert((op.key.clone(), receipt.dot));
        for version in versions {
            self.acknowledged_in(time, nodes, node, op, receipt, version);
        }
    }

    fn acknowledged_in(
        &mut self,
        time: Time,
        nodes: &[SimNode],
        node: usize,
        op: &Op,
        receipt: &Receipt,
        version: &Placement,
    ) {
        let partition = op.partition(version.partitions);
        let replicas = usize::from(version.replicas);
        let homes: Vec<&NodeName> = home_names(version, partition).collect();
        let mut needed = op.consistency.of(replicas);
        if op.strict {
            needed = needed.max(Consistency::Quorum.of(replicas));
        }
        let mut tally = Tally::default();
        let past = self.held.get(&op.key);
        let is_member = |at: &usize| version.member(&nodes[*at].name).is_some();
        let past = past.into_iter().flatten().filter(|((_, at), _)| is_member(at));
        for ((owner, holder), _) in past.filter(|(_, seen)| seen.covers(receipt.dot)) {
            if let Some(slot) = homes.iter().position(|home| *home == owner) {
                tally.ack(slot, nodes[*holder].id);
            }
        }
        for (slot, &home) in homes.iter().enumerate() {
            for at in (0..self.nodes).filter(is_member) {
                let holder = &nodes[at];
                let hint_for = (holder.name != *home).then(|| home.clone());
                let place = Place { hint_for, partition, key: op.key.clone() };
                let covers = |record: &Record| record.seen().covers(receipt.dot);
                let counts = !op.strict || place.hint_for.is_none();
                let mut held = held_at(holder, &place);
                if place.hint_for.is_none() {
                    held = self.collected.known(at, &op.key, held);
                }
                if counts && held.as_ref().is_some_and(covers) {
                    tally.ack(slot, holder.id);
                }
            }
        }
        if tally.count() < needed {
            let (name, dot) = (describe::key(&op.key), describe::dot(receipt.dot));
            let what = format!(
                "node-{node} acknowledged {dot} of {name} ({:?}{}), which needs {needed} distinct nodes in distinct slots; {} hold it durably",
                op.consistency,
                if op.strict { " strict" } else { "" },
                tally.count()
            );
            self.violate(Check::Z, time, what);
        }
    }

    pub(super) fn undecodable(&mut self, time: Time, from: usize) {
        self.violate(Check::M, time, format!("a message of node-{from} cannot be decoded"));
    }

    pub(super) fn foreign_answer(&mut self, time: Time, node: usize, ticket: Ticket) {
        self.violate(Check::M, time, format!("node-{node} answers {ticket:?}, which nobody holds"));
    }

    pub(super) fn retry_not_recognised(&mut self, time: Time, op: &Op) {
        if let Action::Put(_) = op.action {
            let what = format!("a retry was taken for another request: {}", describe::op(op));
            self.violate(Check::M, time, what);
        }
    }
}

/// The homes of a partition in a version, in order.
/// Whether a node takes the owner of what it holds at a place for a home: itself by the versions that it has
/// acknowledged, for until then a page may be on its way out; a hint's target by all.
fn is_home(node: &SimNode, place: &Place) -> bool {
    let Some(process) = &node.process else { return false };
    let owner = place.hint_for.as_ref().unwrap_or(&node.name);
    let told = process.progress.last();
    let worker = told.get(place.partition.worker(told.len().max(1)));
    let acked = worker.copied().flatten().map_or(0, |worker| worker.acked.number);
    let most = if place.hint_for.is_some() { u32::MAX } else { acked };
    let live = process.view.iter().flat_map(|view| view.live());
    let mut homes = live
        .filter(|version| version.tag().number <= most)
        .flat_map(|version| version.home_names(place.partition));
    homes.any(|home| home == owner)
}

fn home_names(version: &Placement, partition: Partition) -> impl Iterator<Item = &NodeName> {
    version.homes(partition).iter().map(|&home| &version.members[usize::from(home)].name)
}

/// What a node durably holds at a place: its own record, or a hint.
pub(super) fn held_at(node: &SimNode, place: &Place) -> Option<Record> {
    let mut stored = Vec::with_capacity(80);
    let space = match &place.hint_for {
        None => Space::Records,
        Some(target) => {
            stored.push(u8::try_from(target.as_str().len()).ok()?);
            stored.extend_from_slice(target.as_str().as_bytes());
            Space::Hints
        }
    };
    stored.extend_from_slice(&place.partition.0.to_be_bytes());
    stored.extend_from_slice(place.key.bytes());
    place.open(&node.disk.read(space, &stored)?)
}
