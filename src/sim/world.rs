//! The world: one clock, one queue of events, one seed.
//!
//! ```text
//!              ┌────────────────────── queue: (time, sequence) ─────────────────────┐
//!              ▼                                                                    │
//!   messages · timers · disk steps · answers of reads · clients' requests and answers
//!              │                                                                    │
//!              ▼                                                                    │
//!   node i: inputs ──▶ core.step ──▶ effects ── network, disk, clients ────────────▶┘
//! ```
//!
//! Nothing here is random but by the world's one generator, and nothing is iterated whose order
//! is not fixed: the same seed gives the same events, which [`super::trace`] hashes. The world is
//! mechanism only; what is asked of it and what is done to it comes from above ([`super::run()`]
//! for seeds, [`super::scenario`] for scripts), which [`World::next`] tells what happened.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::agenda::Agenda;
use super::clock::Time;
use super::history::History;
use super::network::{Fate, Network, Weather};
use super::node::{Member, News, SimNode};
use super::observer::Observer;
use super::orders::Orders;
use super::ring::Ring;
use super::streams::{Frame, Streams};
use super::tally::{FaultCounts, FaultKind};
use super::trace::{Trace, TraceMode};
use crate::protocol::control::ConnId;
use crate::protocol::message::{DataMessage, Envelope, Message};
use crate::protocol::op::Outcome;
use crate::protocol::step::{Page, ReadFailed, Space, Token, Tuning};
use crate::types::{NodeId, NodeName};

/// Something that is going to happen.
#[derive(Debug)]
pub(super) enum Event {
    /// A timer of a process may be due.
    Wake { node: usize, boot: u64 },
    /// A message arrives that a process of a node has sent.
    Envelope { to: usize, from: usize, process: u64, bytes: Bytes },
    /// The committer goes on.
    Disk { node: usize, life: u64 },
    /// A read is answered; none: with what is stored when it is.
    ReadDone { at: Asked, space: Space, key: Bytes, answer: Option<ReadAnswer> },
    /// A scan is answered.
    Scanned { at: Asked, page: Result<Page, ReadFailed> },
    /// A client's request arrives at its node.
    Request { attempt: usize },
    /// An answer arrives at the client; none: the connection broke.
    Answer { attempt: usize, outcome: Option<Outcome> },
    /// A client's patience ends.
    Patience { attempt: usize },
    /// A client tries again at another node.
    Retry { op: usize },
    /// A page that a client wants is asked for at its node.
    Page { scan: usize },
    /// A process hears of the cluster.
    News { node: usize, boot: u64, news: News },
    /// A datagram arrives.
    Datagram { to: usize, source: SocketAddr, bytes: Bytes },
    /// A frame of a stream arrives.
    Frame { to: ConnId, frame: Frame },
    /// A process dials.
    Dial { node: usize, boot: u64 },
    /// A process learns that a stream has ended.
    Broken { node: usize, boot: u64, conn: ConnId },
    /// Streams are looked after.
    Streams,
    /// An operator looks after the ring.
    Operator,
    /// A process starts again by itself.
    Start { node: usize },
    /// For those above: something that they planned.
    Planned(usize),
}

type ReadAnswer = Result<Option<Bytes>, ReadFailed>;

/// Which worker of which process asked, and its name for the question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) node: usize,
    pub(super) boot: u64,
    pub(super) worker: usize,
    pub(super) token: Token,
}

/// What those above are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Nothing that concerns them.
    None,
    /// An op has ended.
    Ended(usize),
    /// What they planned is due.
    Planned(usize),
}

/// What a script wants done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tap {
    /// Deliver it.
    Pass,
    /// Lose it.
    Drop,
    /// Keep it until it is released.
    Park,
    /// Deliver it, and a copy after so many microseconds.
    Again(u64),
}

/// Decides about messages: from, to, what.
pub(super) type Tapper = Box<dyn FnMut(usize, usize, &DataMessage) -> Tap>;

/// What a world is made of.
#[derive(Clone, Debug)]
pub(super) struct WorldConfig {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    /// The first so many of them are the founders; the others may join.
    pub(super) founders: usize,
    /// Whether nodes that appear become members by themselves.
    pub(super) auto_join: bool,
    pub(super) replicas: u8,
    pub(super) partitions: u16,
    pub(super) workers: usize,
    /// How much faster than the world the nodes live: their time constants are divided by it.
    pub(super) pace: u64,
    /// Whether nodes run the real control core, or an oracle tells them of the cluster.
    pub(super) control: bool,
    pub(super) tuning: Tuning,
    pub(super) trace: TraceMode,
    /// The mistake that the cores are to make.
    #[cfg(any(test, feature = "seeded-defects"))]
    pub(super) defect: Option<crate::protocol::defect::Defect>,
}

/// Counts of what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events handled.
    pub events: u64,
    /// Messages sent between nodes.
    pub messages: u64,
    /// Copies of messages that arrived.
    pub deliveries: u64,
    /// Commits made durable.
    pub commits: u64,
    /// Processes started.
    pub starts: u64,
    /// Rounds of collection that are over.
    pub rounds: u64,
    /// Dead records that have left a disk.
    pub collected: u64,
}

/// Everything that there is.
pub(super) struct World {
    pub(super) time: Time,
    agenda: Agenda<Event>,
    pub(super) rng: ChaCha8Rng,
    pub(super) config: WorldConfig,
    pub(super) nodes: Vec<SimNode>,
    pub(super) ids: BTreeMap<NodeId, usize>,
    pub(super) names: BTreeMap<NodeName, usize>,
    pub(super) network: Network,
    pub(super) trace: Trace,
    pub(super) observer: Observer,
    pub(super) history: History,
    pub(super) counts: Counts,
    took_effect: FaultCounts,
    pub(super) tap: Option<Tapper>,
    /// From a process of a node, to a node.
    pub(super) parked: Vec<(usize, u64, usize, Bytes)>,
    pub(super) streams: Streams,
    pub(super) ring: Ring,
    pub(super) orders: Orders,
}

impl World {
    /// A world of nodes that have never been started.
    pub(super) fn new(config: WorldConfig) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let members = Member::make(config.nodes, &mut rng);
        let placement = super::brain::placement(&config, &members[..config.founders], &mut rng);
        let nodes: Vec<SimNode> =
            members.iter().map(|m| SimNode::new(m.clone(), config.pace)).collect();
        Self {
            time: 0,
            agenda: Agenda::default(),
            ids: members.iter().enumerate().map(|(at, m)| (m.id, at)).collect(),
            names: members.iter().enumerate().map(|(at, m)| (m.name.clone(), at)).collect(),
            // One more place, for a process on a copied folder.
            network: Network::new(config.nodes + 1, Weather::calm()),
            trace: Trace::new(config.trace, config.nodes),
            ring: Ring::new(placement.clone(), config.nodes),
            orders: Orders::default(),
            observer: Observer::new(placement, config.nodes),
            history: History::default(),
            counts: Counts::default(),
            took_effect: FaultCounts::default(),
            tap: None,
            parked: Vec::new(),
            streams: Streams::default(),
            rng,
            nodes,
            config,
        }
    }

    /// So much time of the nodes, in time of the world.
    pub(super) fn paced(&self, time: Time) -> Time {
        time / self.config.pace
    }

    /// A fault took effect.
    pub(super) fn count(&mut self, kind: FaultKind) {
        self.took_effect.count(kind);
    }

    /// The faults that took effect.
    pub(super) fn took_effect(&self) -> FaultCounts {
        let mut sum = self.took_effect;
        sum.add(&self.network.took_effect);
        self.nodes.iter().for_each(|node| sum.add(&node.disk.took_effect));
        sum
    }

    /// Something happens after so long.
    pub(super) fn schedule(&mut self, after: Time, event: Event) {
        self.agenda.add(self.time + after, event);
    }

    /// The next event happens; none if nothing ever will, or not before `until`.
    pub(super) fn next(&mut self, until: Time) -> Option<Notice> {
        let Some((at, event)) = self.agenda.next(until) else {
            self.time = self.time.max(until);
            return None;
        };
        self.time = at;
        self.counts.events += 1;
        Some(self.dispatch(event))
    }

    /// Handles an event, or holds it while its node is stopped.
    pub(super) fn dispatch(&mut self, event: Event) -> Notice {
        if let Some(node) = self.node_of(&event) {
            let holder = &mut self.nodes[node];
            if holder.paused && holder.process.is_some() {
                holder.held.push_back(event);
                return Notice::None;
            }
        }
        match event {
            Event::Wake { node, boot } => self.wake(node, boot),
            Event::Envelope { to, from, process, bytes } => {
                self.receive(to, (from, process), bytes);
            }
            Event::Disk { node, life } => self.disk_step(node, life),
            Event::ReadDone { at, space, key, answer } => self.read_done(at, space, &key, answer),
            Event::Scanned { at, page } => self.scanned(at, page),
            Event::News { node, boot, news } => self.news(node, boot, news),
            Event::Request { attempt } => self.request_arrives(attempt),
            Event::Answer { attempt, outcome } => return self.answer_arrives(attempt, outcome),
            Event::Patience { attempt } => return self.patience_ends(attempt),
            Event::Retry { op } => self.try_again(op),
            Event::Page { scan } => self.page_is_asked_for(scan),
            Event::Datagram { to, source, bytes } => self.datagram(to, source, bytes),
            Event::Frame { to, frame } => self.frame(to, frame),
            Event::Dial { node, boot } => self.dial(node, boot),
            Event::Broken { node, boot, conn } => self.broken(node, boot, conn),
            Event::Streams => self.look_after_streams(),
            Event::Operator => self.operate(),
            Event::Start { node } => self.start(node),
            Event::Planned(what) => return Notice::Planned(what),
        }
        Notice::None
    }

    /// Sends what a node says to another through the network.
    pub(super) fn send(&mut self, from: usize, to: NodeId, envelope: &Envelope) {
        let Some(&to) = self.ids.get(&to) else { return };
        let process = self.nodes[from].starts;
        self.counts.messages += 1;
        let mut bytes = Vec::with_capacity(128);
        envelope.encode(&mut bytes);
        let bytes = Bytes::from(bytes);
        let tap = match (&mut self.tap, &envelope.message) {
            (Some(tap), Message::Data(_, message)) => tap(from, to, message),
            _ => Tap::Pass,
        };
        match tap {
            Tap::Drop => return,
            Tap::Park => return self.parked.push((from, process, to, bytes)),
            Tap::Again(after) => {
                self.schedule(after, Event::Envelope { to, from, process, bytes: bytes.clone() });
            }
            Tap::Pass => {}
        }
        self.transmit(from, process, to, &bytes);
    }

    /// Hands bytes to the network.
    fn transmit(&mut self, from: usize, process: u64, to: usize, bytes: &Bytes) {
        let fates = self.network.fates(self.time, from, to, &mut self.rng);
        if fates.is_empty() {
            self.trace.say(self.time, Some(from), || format!("✗ node-{to} (lost)"));
        }
        for fate in fates {
            match fate {
                Fate::Arrives(after) => {
                    let bytes = bytes.clone();
                    self.schedule(after, Event::Envelope { to, from, process, bytes });
                }
                Fate::Damaged(_) => self.decode_damaged(bytes),
            }
        }
    }

    /// The frame's checksum keeps damage from the decoder; the decoder must survive it anyway.
    fn decode_damaged(&mut self, bytes: &Bytes) {
        let _ = Envelope::decode(self.damage_bytes(bytes));
    }

    /// Some bytes with some bits flipped, perhaps cut short.
    pub(super) fn damage_bytes(&mut self, bytes: &Bytes) -> Bytes {
        let mut damaged = bytes.to_vec();
        for _ in 0..self.rng.random_range(1..4) {
            let at = self.rng.random_range(0..damaged.len());
            damaged[at] ^= 1 << self.rng.random_range(0..8);
        }
        damaged.truncate(self.rng.random_range(1..=damaged.len()));
        damaged.into()
    }

    /// Forgets what was held for a node.
    pub(super) fn take_held(&mut self, node: usize) -> VecDeque<Event> {
        std::mem::take(&mut self.nodes[node].held)
    }

    /// The node whose process has to handle an event.
    fn node_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Wake { node, .. }
            | Event::Disk { node, .. }
            | Event::News { node, .. }
            | Event::Dial { node, .. }
            | Event::Broken { node, .. } => Some(*node),
            Event::Envelope { to, .. } | Event::Datagram { to, .. } => Some(*to),
            Event::Frame { to, .. } => self.end_node(*to),
            Event::ReadDone { at, .. } | Event::Scanned { at, .. } => Some(at.node),
            Event::Request { attempt } => Some(self.history.attempts[*attempt].node),
            Event::Page { scan } => Some(self.history.scans[*scan].node),
            Event::Answer { .. }
            | Event::Patience { .. }
            | Event::Retry { .. }
            | Event::Streams
            | Event::Operator
            | Event::Start { .. }
            | Event::Planned(_) => None,
        }
    }
}
