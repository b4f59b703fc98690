//! Clients, and what they do: a few kinds of keys, each with a claim of its own.
//!
//! | keys | what is done | claim |
//! |---|---|---|
//! | `u…` | each written once | C1: nothing acknowledged is lost, nothing else appears |
//! | `c…` | read all siblings, add an element to their union, write with that context | C2, C3 |
//! | `d…` | the same, and deletes with a context | C3 |
//! | `w…` | overwritten blindly, now and then deleted blindly | C5 |
//! | `t…` | written once, to expire | C1, and what reads show |
//! | `s…` | strict reads and writes | C8 |
//!
//! In some worlds one more client scans the partitions of these keys: see [`super::scans`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::clock::Time;
use super::history::End;
use super::world::{Event, World};
use crate::protocol::op::{Action, Op, Put, ReadOutcome};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::VersionVector;
use crate::types::{Key, RequestId};

/// A plan of a client's turn is told from a plan of a fault by this.
pub(super) const TURNS: usize = 1 << 32;
/// The number of the client that scans.
const SCANNER: usize = 1 << 16;

/// Within a burst a client rests no longer than this, in microseconds: less than many an fsync takes.
const BURST_THINK_MAX: Time = 1_000;

/// A kind of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Unique,
    Causal,
    Deleted,
    Blind,
    Expiring,
    Strict,
}

const CLASSES: [Class; 6] =
    [Class::Unique, Class::Causal, Class::Deleted, Class::Blind, Class::Expiring, Class::Strict];

/// The clients of a run.
pub(super) struct Workload {
    /// How often each class is chosen.
    weights: [u32; 6],
    consistencies: [u32; 3],
    clients: usize,
    think: Time,
    /// Whether clients ask many times in a row and then rest: writes of one key queue up.
    bursts: bool,
    keys_each: u32,
    /// The client that scans begins a walk about so often, if it does at all.
    scans_every: Option<Time>,
    /// Writes are numbered: each value is unique.
    written: u32,
    /// What a client wants to write once its read is answered: by op.
    after_read: BTreeMap<usize, Intent>,
    /// Every key that was ever named.
    pub(super) keys: BTreeSet<Key>,
    pub(super) stopped: bool,
}

/// What a client means to do with what it reads.
#[derive(Clone, Copy, Debug)]
enum Intent {
    Add,
    Delete,
}

impl Class {
    /// The class of a key, by its first letter.
    pub(super) fn of(key: &Key) -> Option<Self> {
        Some(match key.bytes().first()? {
            b'u' => Self::Unique,
            b'c' => Self::Causal,
            b'd' => Self::Deleted,
            b'w' => Self::Blind,
            b't' => Self::Expiring,
            b's' => Self::Strict,
            _ => return None,
        })
    }

    fn letter(self) -> char {
        match self {
            Self::Unique => 'u',
            Self::Causal => 'c',
            Self::Deleted => 'd',
            Self::Blind => 'w',
            Self::Expiring => 't',
            Self::Strict => 's',
        }
    }
}

impl Workload {
    /// Draws a workload. Where a disk is going to be damaged, one copy is not enough.
    pub(super) fn draw(one_is_enough: bool, rng: &mut ChaCha8Rng) -> Self {
        let mut weights = [0; 6];
        while weights.iter().sum::<u32>() == 0 {
            for weight in &mut weights {
                *weight = if rng.random_ratio(1, 3) { 0 } else { rng.random_range(1..=10) };
            }
        }
        let bursts = rng.random_ratio(1, 4);
        let one =
            if one_is_enough && rng.random_ratio(1, 2) { rng.random_range(1..=10) } else { 0 };
        Self {
            weights,
            consistencies: [one, 10, rng.random_range(0..=3)],
            clients: rng.random_range(2..=6),
            think: rng.random_range(20_000..=400_000),
            bursts,
            keys_each: if bursts { 1 } else { rng.random_range(1..=4) },
            scans_every: rng.random_ratio(1, 2).then(|| rng.random_range(50_000..=1_000_000)),
            written: 0,
            after_read: BTreeMap::new(),
            keys: BTreeSet::new(),
            stopped: false,
        }
    }

    /// All clients begin.
    pub(super) fn begin(&self, world: &mut World) {
        for client in 0..self.clients {
            let after = world.rng.random_range(0..=self.think);
            world.schedule(after, Event::Planned(TURNS + client));
        }
        if let Some(every) = self.scans_every {
            world.schedule(every, Event::Planned(TURNS + SCANNER));
        }
    }

    /// The partition of some key is scanned.
    fn scan(&self, world: &mut World) {
        let Some(every) = self.scans_every else { return };
        let at = world.rng.random_range(0..self.keys.len().max(1));
        if let Some(key) = self.keys.iter().nth(at) {
            world.scan_some(key.partition(world.config.partitions));
        }
        let after = world.rng.random_range(0..=2 * every);
        world.schedule(after, Event::Planned(TURNS + SCANNER));
    }

    /// It is a client's turn.
    pub(super) fn turn(&mut self, world: &mut World, client: usize) {
        if self.stopped {
            return;
        }
        if client == SCANNER {
            return self.scan(world);
        }
        let class = CLASSES[pick(&self.weights, &mut world.rng)];
        match class {
            Class::Unique | Class::Expiring => {
                let key = self.key(format!("{}{}", class.letter(), self.written));
                let ttl = (class == Class::Expiring).then(|| world.rng.random_range(1..60_000));
                let put = self.put(world, None, ttl);
                self.submit(world, client, key, Action::Put(put), false);
            }
            Class::Blind => {
                let key = self.shared_key(class, world);
                let mut put = self.put(world, None, None);
                if world.rng.random_ratio(1, 10) {
                    put.value = None;
                }
                self.submit(world, client, key, Action::Put(put), false);
            }
            Class::Strict => {
                let key = self.shared_key(class, world);
                let action = if world.rng.random_ratio(1, 2) {
                    Action::Get
                } else {
                    Action::Put(self.put(world, None, None))
                };
                self.submit(world, client, key, action, true);
            }
            Class::Causal | Class::Deleted => {
                let key = self.shared_key(class, world);
                let delete = class == Class::Deleted && world.rng.random_ratio(1, 3);
                let op = self.submit(world, client, key, Action::Get, false);
                self.after_read.insert(op, if delete { Intent::Delete } else { Intent::Add });
            }
        }
    }

    /// An op of a client has ended: the client goes on.
    pub(super) fn ended(&mut self, world: &mut World, op: usize) {
        let client = world.history.ops[op].client;
        if client >= self.clients {
            return;
        }
        if let Some(intent) = self.after_read.remove(&op) {
            let record = &world.history.ops[op];
            if let Some(End::Read(read)) = &record.end {
                let (key, union) = (record.key().clone(), union(read));
                let context = read.seen.clone();
                return self.write_over(world, client, key, context, union, intent);
            }
        }
        let think = match self.bursts {
            true if world.rng.random_ratio(9, 10) => world.rng.random_range(0..=BURST_THINK_MAX),
            true => world.rng.random_range(0..=20 * self.think),
            false => world.rng.random_range(0..=2 * self.think),
        };
        world.schedule(think, Event::Planned(TURNS + client));
    }

    fn write_over(
        &mut self,
        world: &mut World,
        client: usize,
        key: Key,
        context: VersionVector,
        mut union: BTreeSet<u32>,
        intent: Intent,
    ) {
        let mut put = self.put(world, Some(context), None);
        union.insert(self.written);
        put.value = match intent {
            Intent::Add => Some(elements_to_value(&union)),
            Intent::Delete => None,
        };
        self.submit(world, client, key, Action::Put(put), false);
    }

    fn submit(
        &mut self,
        world: &mut World,
        client: usize,
        key: Key,
        action: Action,
        strict: bool,
    ) -> usize {
        let consistency = self.consistency(&mut world.rng);
        let mut nodes: Vec<usize> = (0..world.nodes.len()).collect();
        nodes.shuffle(&mut world.rng);
        nodes.truncate(world.rng.random_range(1..=4));
        let timeout = *[500_000, 1_000_000, 3_000_000]
            .get(pick(&[1; 3], &mut world.rng))
            .unwrap_or(&1_000_000);
        world.submit(client, Op { key, consistency, strict, action }, nodes, timeout)
    }

    fn consistency(&self, rng: &mut impl Rng) -> Consistency {
        match pick(&self.consistencies, rng) {
            0 => Consistency::One,
            1 => Consistency::Quorum,
            _ => Consistency::All,
        }
    }

    fn put(
        &mut self,
        world: &mut World,
        context: Option<VersionVector>,
        ttl_ms: Option<u64>,
    ) -> Put {
        self.written += 1;
        let one = BTreeSet::from([self.written]);
        let request = Some(RequestId(world.rng.random()));
        Put { value: Some(elements_to_value(&one)), ttl_ms, context, request }
    }

    fn shared_key(&mut self, class: Class, world: &mut World) -> Key {
        let number = world.rng.random_range(0..self.keys_each);
        self.key(format!("{}{number}", class.letter()))
    }

    fn key(&mut self, name: String) -> Key {
        let key = Key::new(name).unwrap_or_else(|_| unreachable!("a key is one letter and digits"));
        self.keys.insert(key.clone());
        key
    }
}

/// An index, by weight.
fn pick(weights: &[u32], rng: &mut impl Rng) -> usize {
    let mut left = rng.random_range(0..weights.iter().sum::<u32>().max(1));
    for (at, weight) in weights.iter().enumerate() {
        if left < *weight {
            return at;
        }
        left -= weight;
    }
    0
}

/// The elements of all siblings.
fn union(read: &ReadOutcome) -> BTreeSet<u32> {
    read.visible.iter().flat_map(|sibling| value_to_elements(&sibling.value)).collect()
}

/// A set of numbers as a value: decimal, with dots between.
pub(super) fn elements_to_value(elements: &BTreeSet<u32>) -> Bytes {
    let words: Vec<String> = elements.iter().map(u32::to_string).collect();
    words.join(".").into()
}

/// The numbers in a value.
pub(super) fn value_to_elements(value: &[u8]) -> BTreeSet<u32> {
    let text = String::from_utf8_lossy(value);
    text.split('.').filter_map(|word| word.parse().ok()).collect()
}

/// The number that a write added: the greatest in its value.
pub(super) fn added(action: &Action) -> Option<u32> {
    match action {
        Action::Put(Put { value: Some(value), .. }) => value_to_elements(value).last().copied(),
        Action::Put(Put { value: None, .. }) | Action::Get => None,
    }
}
