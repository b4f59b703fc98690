//! Clients, and what they do: a few kinds of keys, each with a claim of its own.
//!
//! | keys | what is done | claim |
//! |---|---|---|
//! | `u…` | each written once | C1: nothing acknowledged is lost, nothing else appears |
//! | `c…` | read all siblings, add an element to their union, write with that context | C2, C3 |
//! | `d…` | the same, and deletes with a context | C3 |
//! | `w…` | read, overwritten blindly, now and then deleted blindly | C5, R |
//! | `t…` | written once, to expire | C1, and what reads show |
//! | `s…` | strict reads and writes | C8 |
//!
//! In some worlds one more client scans the partitions of these keys: see [`super::scans`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

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

/// The number of those who flood a node with requests.
const FLOOD: usize = 1 << 17;
/// They give up after so much of the nodes' time.
const FLOOD_TIMEOUT: Time = 1_000_000;
/// The most that clients ask for in a run, but for writes over what was read at the end of it.
const OPS_MAX: usize = 300;
/// Deadlines that clients give, in microseconds of the nodes' time.
const TIMEOUTS: [Time; 3] = [500_000, 1_000_000, 3_000_000];

/// Bursts begin so many times the usual rest apart.
const BURST_EVERY: Time = 10;
/// Within a burst a client rests no longer than this, in microseconds: less than many an fsync takes.
const BURST_THINK_MAX: Time = 300;
/// And between a read and the write over it, no longer than this.
const BURST_THOUGHT_MAX: Time = 3_000;

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
    /// Whether clients ask many times in a row, all at a time, and then rest: writes of one key
    /// queue up.
    bursts: bool,
    keys_each: u32,
    /// How often clients have wanted something so far; and which of that they ask for.
    wanted: usize,
    window: Range<usize>,
    /// Ops that were asked for, and the most that may be.
    asked: usize,
    asked_max: usize,
    /// The client that scans begins a walk about so often, if it does at all.
    scans_every: Option<Time>,
    /// Writes are numbered: each value is unique.
    written: u32,
    /// What a client wants to write once its read is answered: by op.
    after_read: BTreeMap<usize, Intent>,
    /// What a client has read and means to write over, once it has thought about it.
    thinking: BTreeMap<usize, Thought>,
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

/// What a client has read.
#[derive(Clone, Debug)]
struct Thought {
    key: Key,
    context: VersionVector,
    union: BTreeSet<u32>,
    intent: Intent,
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
    /// Draws a workload for a time of this length.
    pub(super) fn draw(length: Time, rng: &mut ChaCha8Rng) -> Self {
        let mut weights = [0; 6];
        while weights.iter().sum::<u32>() == 0 {
            for weight in &mut weights {
                *weight = if rng.random_ratio(1, 3) { 0 } else { rng.random_range(1..=10) };
            }
        }
        let bursts = rng.random_ratio(1, 2);
        if bursts {
            // One or two hot keys, rather than some writes to each of six.
            let hot = [rng.random_range(0..weights.len()), rng.random_range(0..weights.len())];
            weights = std::array::from_fn(|class| u32::from(hot.contains(&class)));
        }
        let one = if rng.random_ratio(1, 2) { rng.random_range(1..=10) } else { 0 };
        let clients = if bursts { rng.random_range(4..=8) } else { rng.random_range(2..=6) };
        let wanted = rng.random_range(60..=OPS_MAX);
        Self {
            weights,
            consistencies: [one, 10, rng.random_range(0..=10)],
            bursts,
            keys_each: if bursts { 1 } else { rng.random_range(1..=4) },
            scans_every: rng
                .random_ratio(1, 2)
                .then(|| rng.random_range(length / 100..=length / 5)),
            ..Self::wanting(wanted, clients, length)
        }
    }

    /// Clients that read one of a few keys, add to what they have read, and write it back.
    pub(super) fn add_to_sets(clients: usize, keys: u32, wanted: usize, length: Time) -> Self {
        Self {
            weights: CLASSES.map(|class| u32::from(class == Class::Causal)),
            consistencies: [0, 1, 0],
            keys_each: keys,
            asked_max: 2 * wanted,
            ..Self::wanting(wanted, clients, length)
        }
    }

    /// Clients that want something so often within a time, and have not begun; what, is still to be said.
    fn wanting(wanted: usize, clients: usize, length: Time) -> Self {
        Self {
            weights: [0; 6],
            consistencies: [0; 3],
            clients,
            // So that what the clients may ask for lasts for about the whole time.
            think: length * clients as u64 / wanted as u64,
            bursts: false,
            keys_each: 1,
            wanted: 0,
            window: 0..wanted,
            asked: 0,
            asked_max: OPS_MAX,
            scans_every: None,
            written: 0,
            after_read: BTreeMap::new(),
            thinking: BTreeMap::new(),
            keys: BTreeSet::new(),
            stopped: false,
        }
    }

    /// How far apart bursts begin, if clients come in bursts.
    pub(super) fn beat(&self) -> Option<Time> {
        self.bursts.then_some(BURST_EVERY * self.think.max(1))
    }

    /// There is to be what is collected, and what must not be lost for it.
    pub(super) fn delete_often(&mut self) {
        self.weights = CLASSES.map(|class| match class {
            Class::Deleted => 4,
            Class::Unique | Class::Causal => 2,
            Class::Blind | Class::Expiring | Class::Strict => 0,
        });
    }

    /// A disk is going to be damaged: one copy is not enough.
    pub(super) fn ask_for_two(&mut self) {
        self.consistencies[0] = 0;
    }

    /// Of what clients want, only this is asked for.
    pub(super) fn limit(&mut self, window: &Range<usize>) {
        self.window = window.start..window.end.min(self.window.end);
    }

    /// How often clients have wanted something.
    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// A client wants something: whether it is asked for.
    fn wants(&mut self) -> bool {
        self.wanted += 1;
        self.asked < self.asked_max && self.window.contains(&(self.wanted - 1))
    }

    /// So many requests at once, all to one node.
    pub(super) fn flood(&mut self, world: &mut World, node: usize, count: usize) {
        for _ in 0..count {
            if !self.wants() {
                continue;
            }
            let key = self.shared_key(Class::Blind, world);
            let read = world.rng.random_ratio(1, 2);
            let action = if read { Action::Get } else { Action::Put(self.put(world, None, None)) };
            let op = Op { key, consistency: Consistency::Quorum, strict: false, action };
            self.asked += 1;
            let timeout = world.paced(FLOOD_TIMEOUT);
            world.submit(FLOOD, op, vec![node], timeout);
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
        let tired = self.wanted >= self.window.end && !self.thinking.contains_key(&client);
        if self.stopped || tired {
            return;
        }
        if client == SCANNER {
            return self.scan(world);
        }
        if let Some(thought) = self.thinking.remove(&client) {
            return self.write_over(world, client, thought);
        }
        if !self.wants() {
            return self.rest(world, client);
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
                let action = if world.rng.random_ratio(1, 3) {
                    Action::Get
                } else {
                    let mut put = self.put(world, None, None);
                    if world.rng.random_ratio(1, 10) {
                        put.value = None;
                    }
                    Action::Put(put)
                };
                self.submit(world, client, key, action, false);
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
                self.thinking.insert(client, Thought { key, context, union, intent });
                // Whoever takes time writes over what others have written over meanwhile.
                let slow = world.rng.random_ratio(1, 2);
                let longest = if self.bursts { BURST_THOUGHT_MAX } else { 2 * self.think };
                let pause = if slow { world.rng.random_range(0..=longest) } else { 0 };
                return world.schedule(pause, Event::Planned(TURNS + client));
            }
        }
        self.rest(world, client);
    }

    /// A client rests, until its next turn. Bursts begin for all clients at a time.
    fn rest(&self, world: &mut World, client: usize) {
        let rest = if !self.bursts {
            world.rng.random_range(0..=2 * self.think)
        } else if world.rng.random_ratio(9, 10) {
            world.rng.random_range(0..=BURST_THINK_MAX)
        } else {
            let every = self.beat().unwrap_or(1);
            every - world.time % every + world.rng.random_range(0..=BURST_THINK_MAX)
        };
        world.schedule(rest, Event::Planned(TURNS + client));
    }

    fn write_over(&mut self, world: &mut World, client: usize, thought: Thought) {
        let Thought { key, context, mut union, intent } = thought;
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
        let mut nodes: Vec<usize> = (0..world.config.nodes).collect();
        nodes.shuffle(&mut world.rng);
        nodes.truncate(world.rng.random_range(1..=4));
        let timeout = TIMEOUTS[world.rng.random_range(0..TIMEOUTS.len())];
        let timeout = world.paced(timeout);
        self.asked += 1;
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
