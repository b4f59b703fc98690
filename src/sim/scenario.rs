//! Scripts: a world without chance, in which a rule of the protocol becomes a story.
//!
//! ```text
//!   let mut s = Scenario::new(4);
//!   s.kill(2);
//!   s.put(0, "k", "v");          // waits for the answer
//!   s.start(2);
//!   s.settle();                  // hints are gone, homes agree, nothing was violated
//! ```
//!
//! The network is calm and the disks are good unless the script says otherwise; everything that
//! the observer checks in seeds is checked here, too. A script that fails prints its trace.

use rand::seq::SliceRandom;

use super::clock::Time;
use super::faults::Fault;
use super::history::End;
use super::observer::{Place, Violation, held_at};
use super::tally::FaultKind;
use super::trace::TraceMode;
use super::world::{Event, Notice, Tap, World, WorldConfig};
use crate::protocol::message::DataMessage;
use crate::protocol::op::{Action, Op, Outcome, Put};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::Record;
use crate::protocol::rounds::Rounds;
use crate::protocol::step::{Space, Tuning};
use crate::types::{Dot, Key, NodeId};

/// A cluster has come up after this long.
const COMES_UP: Time = 3_000_000;
/// A cluster of real control cores has been founded, and all have met, after this long.
const IS_FOUNDED: Time = 8_000_000;
/// A scripted op is given this long by its node, in microseconds.
const PATIENCE: Time = 1_000_000;
/// Settling takes at most so long.
const SETTLES: Time = 60_000_000;

/// A script's world.
pub struct Scenario {
    world: World,
    keys: std::collections::BTreeSet<Key>,
}

/// What a disk held at some time.
#[derive(Clone, Debug)]
pub struct KeptDisk(super::disk::Spaces);

/// An op that a script has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(usize);

impl Scenario {
    /// So many nodes that have come up, N = 3, one worker each.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self::with_tuning(nodes, Tuning::default())
    }

    /// The same with other bounds.
    #[must_use]
    pub fn with_tuning(nodes: usize, tuning: Tuning) -> Self {
        Self::made(Self::plan(nodes, tuning))
    }

    /// The same with real control cores: the cluster has been founded.
    #[must_use]
    pub fn governed(nodes: usize) -> Self {
        Self::made(WorldConfig { control: true, ..Self::plan(nodes, Tuning::default()) })
    }

    /// The same, in which the cores make a mistake.
    #[cfg(test)]
    pub(super) fn with_defect(
        nodes: usize,
        tuning: Tuning,
        defect: Option<crate::protocol::defect::Defect>,
    ) -> Self {
        Self::made(WorldConfig { defect, ..Self::plan(nodes, tuning) })
    }

    fn plan(nodes: usize, tuning: Tuning) -> WorldConfig {
        WorldConfig {
            seed: 1,
            nodes,
            founders: nodes,
            auto_join: false,
            replicas: 3,
            partitions: 16,
            workers: 1,
            pace: 1,
            control: false,
            tuning,
            trace: TraceMode::Lines,
            #[cfg(any(test, feature = "seeded-defects"))]
            defect: None,
        }
    }

    fn made(config: WorldConfig) -> Self {
        let (nodes, control) = (config.nodes, config.control);
        let mut world = World::new(config);
        (0..nodes).for_each(|node| world.start(node));
        if control {
            world.begin_streams();
        }
        let mut scenario = Self { world, keys: std::collections::BTreeSet::new() };
        scenario.run_until(if control { IS_FOUNDED } else { COMES_UP });
        scenario
    }

    /// Lets so many milliseconds pass.
    pub fn run(&mut self, millis: u64) {
        self.run_until(self.world.time + millis * 1_000);
    }

    fn run_until(&mut self, time: Time) {
        while self.world.next(time).is_some() {}
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.world.inflict(&Fault::Kill(node));
    }

    /// The power fails at a node.
    pub fn lose_power(&mut self, node: usize) {
        self.world.inflict(&Fault::PowerLoss(node));
    }

    /// The power fails everywhere.
    pub fn lose_power_everywhere(&mut self) {
        self.world.inflict(&Fault::PowerLossOfAll);
    }

    /// Starts a node.
    pub fn start(&mut self, node: usize) {
        self.world.inflict(&Fault::Start(node));
    }

    /// SIGSTOP.
    pub fn pause(&mut self, node: usize) {
        self.world.inflict(&Fault::Pause(node));
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) {
        self.world.inflict(&Fault::Resume(node));
    }

    /// Cuts all links between the groups; nodes that are in none hear everyone.
    pub fn partition(&mut self, groups: &[&[usize]]) {
        let group = |node: usize| groups.iter().position(|group| group.contains(&node));
        self.world.network.mend();
        for from in 0..self.world.nodes.len() {
            for to in 0..self.world.nodes.len() {
                let (a, b) = (group(from), group(to));
                let apart = a.is_some() && b.is_some() && a != b;
                self.world.network.set_cut(from, to, apart);
            }
        }
    }

    /// Cuts one direction of one link.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.world.network.set_cut(from, to, true);
    }

    /// Mends all links.
    pub fn mend(&mut self) {
        self.world.network.mend();
    }

    /// Sets a node's wall clock off by so many milliseconds.
    pub fn wall_clock(&mut self, node: usize, offset_ms: i64) {
        self.world.inflict(&Fault::WallClock(node, offset_ms, FaultKind::ClockJump));
    }

    /// Fsyncs of a node do not come back, until [`Scenario::resume_disk`].
    pub fn stall_disk(&mut self, node: usize) {
        self.world.nodes[node].disk.stalled = true;
    }

    /// Fsyncs come back again.
    pub fn resume_disk(&mut self, node: usize) {
        if self.world.nodes[node].disk.unstall() {
            let life = self.world.nodes[node].disk_life;
            self.world.schedule(0, Event::Disk { node, life });
        }
    }

    /// Commits of a node are refused, or no longer.
    pub fn fill_disk(&mut self, node: usize, full: bool) {
        self.world.inflict(&Fault::Full(node, full));
    }

    /// Flips a bit of what a node has stored of a key. False if it has nothing.
    pub fn damage(&mut self, node: usize, key: &str) -> bool {
        let place = self.place(key);
        let mut stored = place.partition.0.to_be_bytes().to_vec();
        stored.extend_from_slice(place.key.bytes());
        let stored = bytes::Bytes::from(stored);
        let disk = &mut self.world.nodes[node].disk;
        let found = disk.read(Space::Records, &stored).is_some();
        if found {
            disk.flip_bit(Space::Records, &stored, &mut self.world.rng);
            self.world.observer.damage(node, stored);
        }
        found
    }

    /// Empties the disk of a node, which is killed.
    pub fn wipe(&mut self, node: usize) {
        self.world.inflict(&Fault::Wipe(node));
    }

    /// Takes a snapshot of what a node's disk holds.
    pub fn snapshot(&mut self, node: usize) {
        self.world.inflict(&Fault::Snapshot(node));
    }

    /// Puts the snapshot of a node's disk back; the node is killed.
    pub fn restore(&mut self, node: usize) {
        self.world.inflict(&Fault::Restore(node));
    }

    /// The id of a node's present disk.
    #[must_use]
    pub fn id(&self, node: usize) -> NodeId {
        self.world.nodes[node].id
    }

    /// The disk that one node takes for another's; none before it serves.
    #[must_use]
    pub fn sees(&self, node: usize, other: usize) -> Option<NodeId> {
        let view = self.world.nodes[node].process.as_ref()?.view.as_ref()?;
        view.ids.get(&self.world.nodes[other].name).copied()
    }

    /// Partitions that wait for their rebuilding, on all nodes.
    #[must_use]
    pub fn partitions_lost(&self) -> usize {
        self.world.partitions_lost()
    }

    /// Messages that a node has refused since its start, because their sender has no place.
    #[must_use]
    pub fn refused(&self, node: usize) -> u64 {
        self.world.nodes[node].stats().messages_refused
    }

    /// What a node has stored of a key is gone, behind its back. False if it had nothing.
    pub fn forget(&mut self, node: usize, key: &str) -> bool {
        let place = self.place(key);
        let mut stored = place.partition.0.to_be_bytes().to_vec();
        stored.extend_from_slice(place.key.bytes());
        let stored = bytes::Bytes::from(stored);
        let found = self.world.nodes[node].disk.forget(&stored);
        self.world.observer.vanished(node, place.partition, stored);
        found
    }

    /// A record of a node is written to the place of another, too. False if there are not two.
    pub fn misdirect(&mut self, node: usize) -> bool {
        let key = self.world.nodes[node].disk.misdirect(&mut self.world.rng);
        let found = key.is_some();
        if let Some(key) = key {
            self.world.observer.damage(node, key);
        }
        found
    }

    /// Decides about every message between nodes from now on: from, to, what.
    pub fn tap(&mut self, tap: impl FnMut(usize, usize, &DataMessage) -> Tap + 'static) {
        self.world.tap = Some(Box::new(tap));
    }

    /// Messages pass again; those that were parked are delivered.
    pub fn release(&mut self) {
        self.world.tap = None;
        for (from, process, to, bytes) in std::mem::take(&mut self.world.parked) {
            self.world.schedule(0, Event::Envelope { to, from, process, bytes });
        }
    }

    /// How many messages are parked.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.world.parked.len()
    }

    /// A key whose homes are these nodes, in any order.
    ///
    /// # Panics
    /// If there is none among the first thousands.
    #[must_use]
    pub fn key_of(&self, homes: &[usize]) -> String {
        let mut wanted = homes.to_vec();
        wanted.sort_unstable();
        let fits = |name: &String| {
            let mut homes = self.homes(name);
            homes.sort_unstable();
            homes == wanted
        };
        let mut names = (0..10_000).map(|number| format!("k{number}"));
        names.find(fits).unwrap_or_else(|| panic!("no key has the homes {homes:?}"))
    }

    /// The homes of a key, in order of preference.
    #[must_use]
    pub fn homes(&self, key: &str) -> Vec<usize> {
        let homes = self.world.observer.homes(self.place(key).partition);
        homes.iter().filter_map(|home| self.world.names.get(home).copied()).collect()
    }

    /// The nodes that are no homes of a key.
    #[must_use]
    pub fn strangers(&self, key: &str) -> Vec<usize> {
        let homes = self.homes(key);
        (0..self.world.nodes.len()).filter(|node| !homes.contains(node)).collect()
    }

    fn place(&self, key: &str) -> Place {
        let key = Key::new(key.to_owned()).unwrap_or_else(|why| panic!("{why}"));
        Place { hint_for: None, partition: key.partition(self.world.config.partitions), key }
    }

    /// Sends an op to a node and does not wait.
    pub fn begin(&mut self, via: usize, op: Op) -> Begun {
        self.keys.insert(op.key.clone());
        Begun(self.world.submit(0, op, vec![via], PATIENCE))
    }

    /// How an op has ended, if it has.
    #[must_use]
    pub fn outcome(&self, begun: Begun) -> Option<Outcome> {
        let record = &self.world.history.ops[begun.0];
        Some(match record.end.as_ref()? {
            End::Written(receipt) => Outcome::Written(receipt.clone()),
            End::Read(read) => Outcome::Read(read.clone()),
            End::Failed(Some(failure)) => Outcome::Failed(failure.clone()),
            End::Failed(None) => {
                let reason = crate::protocol::op::Reason::CoordinatorSilent;
                let mut failure = crate::protocol::op::Failure::before(reason);
                failure.maybe_applied = true;
                Outcome::Failed(failure)
            }
        })
    }

    /// Sends an op to a node and waits for its end.
    pub fn ask(&mut self, via: usize, op: Op) -> Outcome {
        let begun = self.begin(via, op);
        loop {
            if let Some(outcome) = self.outcome(begun) {
                return outcome;
            }
            let _ = self.world.next(Time::MAX);
        }
    }

    /// Puts a value at QUORUM, without a context; its dot if it was acknowledged.
    pub fn put(&mut self, via: usize, key: &str, value: &str) -> Option<Dot> {
        let key = self.place(key).key;
        match self.ask(via, Op::set(key, value.to_owned().into(), Consistency::Quorum)) {
            Outcome::Written(receipt) => Some(receipt.dot),
            Outcome::Read(_) | Outcome::Failed(_) => None,
        }
    }

    /// Deletes a key at QUORUM, without a context; the tombstone's dot if it was acknowledged.
    pub fn delete(&mut self, via: usize, key: &str) -> Option<Dot> {
        let put = Put { value: None, ttl_ms: None, context: None, request: None };
        let (key, action) = (self.place(key).key, Action::Put(put));
        let op = Op { key, consistency: Consistency::Quorum, strict: false, action };
        match self.ask(via, op) {
            Outcome::Written(receipt) => Some(receipt.dot),
            Outcome::Read(_) | Outcome::Failed(_) => None,
        }
    }

    /// Reads a key: its visible values, the last writer's last; none if it could not be read.
    pub fn get(&mut self, via: usize, key: &str, consistency: Consistency) -> Option<Vec<String>> {
        let key = self.place(key).key;
        match self.ask(via, Op::get(key, consistency)) {
            Outcome::Read(read) => {
                let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                Some(read.visible.iter().map(|sibling| text(&sibling.value)).collect())
            }
            Outcome::Written(_) | Outcome::Failed(_) => None,
        }
    }

    /// What a node durably holds of a key as its home.
    #[must_use]
    pub fn stored(&self, node: usize, key: &str) -> Option<Record> {
        held_at(&self.world.nodes[node], &self.place(key))
    }

    /// The number of the last round of collection that a node has closed for a key's partition.
    #[must_use]
    pub fn closed_round(&self, node: usize, key: &str) -> u64 {
        let mut stored = b"rounds/".to_vec();
        stored.extend_from_slice(&self.place(key).partition.0.to_be_bytes());
        let stored = self.world.nodes[node].disk.read(Space::Meta, &stored);
        let rounds = stored.and_then(|stored| Rounds::decode(stored).ok());
        rounds.map_or(0, |rounds| rounds.closed.0)
    }

    /// What a node's disk holds now, to be put back later.
    #[must_use]
    pub fn keep_disk(&self, node: usize) -> KeptDisk {
        KeptDisk(self.world.nodes[node].disk.keep())
    }

    /// Sets a node's disk back to what it held; its commits go on counting, so that nobody notices.
    pub fn set_disk_back(&mut self, node: usize, kept: KeptDisk) {
        self.world.nodes[node].disk.set_back(kept.0);
    }

    /// Whether two keys lie in one partition.
    #[must_use]
    pub fn same_partition(&self, one: &str, other: &str) -> bool {
        self.place(one).partition == self.place(other).partition
    }

    /// How many entries a node has set aside.
    #[must_use]
    pub fn set_aside(&self, node: usize) -> usize {
        let meta = self.world.nodes[node].disk.entries(Space::Meta);
        meta.filter(|(key, _)| key.starts_with(b"aside/")).count()
    }

    /// The hint that a node durably holds of a key for a home.
    #[must_use]
    pub fn hint(&self, node: usize, home: usize, key: &str) -> Option<Record> {
        let hint_for = Some(self.world.nodes[home].name.clone());
        held_at(&self.world.nodes[node], &Place { hint_for, ..self.place(key) })
    }

    /// Which nodes hold a hint of a key for a home.
    #[must_use]
    pub fn hint_holders(&self, home: usize, key: &str) -> Vec<usize> {
        let holds = |node: &usize| self.hint(*node, home, key).is_some();
        (0..self.world.nodes.len()).filter(holds).collect()
    }

    /// What the observer has found so far.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        self.world.observer.violations()
    }

    /// The trace so far.
    #[must_use]
    pub fn trace(&self) -> &[String] {
        self.world.trace.lines()
    }

    /// Heals everything, waits until no hint is left, reads every key at ALL, and waits until
    /// the homes agree.
    ///
    /// # Panics
    /// If that takes more than a minute of the world's time, or the observer has found a
    /// violation.
    pub fn settle(&mut self) {
        self.release();
        self.world.heal();
        let until = self.world.time + SETTLES;
        self.run(12_000);
        let busy = |s: &Self| s.world.hints_left() > 0 || s.world.partitions_lost() > 0;
        while busy(self) && self.world.time < until {
            self.run(100);
        }
        for key in self.keys.clone() {
            let mut nodes: Vec<usize> = (0..self.world.nodes.len()).collect();
            nodes.shuffle(&mut self.world.rng);
            let read = nodes.iter().any(|via| {
                matches!(self.ask(*via, Op::get(key.clone(), Consistency::All)), Outcome::Read(_))
            });
            assert!(read, "{key:?} cannot be read at ALL after the healing");
        }
        while self.world.divergent(&self.keys).is_some() && self.world.time < until {
            self.run(100);
        }
        assert_eq!(self.world.hints_left(), 0, "hints are left");
        if let Some(copies) = self.world.divergent(&self.keys) {
            panic!("homes differ: {}", copies.describe());
        }
        assert!(self.violations().is_empty(), "{:?}", self.violations());
    }

    /// Lets the world go on until `done`, for at most so many milliseconds. Whether it came.
    pub fn wait(&mut self, millis: u64, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.world.time + millis * 1_000;
        while !done(self) {
            match self.world.next(until) {
                Some(Notice::None | Notice::Ended(_) | Notice::Planned(_)) => {}
                None => return done(self),
            }
        }
        true
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.world.trace.lines() {
                eprintln!("{line}");
            }
        }
    }
}
