//! A small deterministic network of control cores: datagrams are lost, duplicated and reordered,
//! streams are whole until they break, disks keep what was reported durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::protocol::control::founding::whole;
use crate::protocol::control::wire::decode_trackers;
use crate::protocol::control::*;
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::View;
use crate::protocol::progress::{Progress, Waiting};
use crate::protocol::step::Conditions;
use crate::types::*;

/// 2026, in milliseconds.
const EPOCH_MS: u64 = 1_800_000_000_000;
const DIAL_EVERY: u64 = 250_000;

pub type Index = usize;

pub struct Node {
    pub name: NodeName,
    pub config: ControlConfig,
    pub id: NodeId,
    pub generation: u64,
    pub boot: Boot,
    pub disk: BTreeMap<Bytes, Bytes>,
    pub commits: u64,
    pub announced: u64,
    pub control: Option<Control>,
    pub error: Option<ControlError>,
    pub stopped: Option<String>,
    /// Why it started again as another disk, each time.
    pub came_back: Vec<String>,
    pub view: Option<Arc<View>>,
    pub reachable: BTreeMap<NodeId, bool>,
    pub conditions: Conditions,
    pub log: Vec<String>,
    pub connect: BTreeSet<SocketAddr>,
    /// The newest accepted stream of each peer.
    pub streams: BTreeMap<NodeId, ConnId>,
    pub notes: u64,
    pub persists: u64,
    pub persist_delay: u64,
    pub wall_offset_ms: i64,
    pub paused: bool,
    pub seeds: Vec<SocketAddr>,
    /// What its workers do not come to.
    pub holds: Hold,
    /// It was decommissioned.
    pub left: Option<String>,
    pub answers: BTreeMap<OrderId, Result<Agreed, Refusal>>,
}

/// What the workers of a node never come to the end of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    Acks,
    Syncs,
    Reads,
    Nothing,
}

/// A version that a view takes for passed by all, and which tracker says so.
type Stage = (PlacementTag, fn(&Trackers) -> PlacementTag);

/// One end of a stream.
#[derive(Clone, Copy)]
struct End {
    node: Index,
    boot: Boot,
    conn: ConnId,
    peer: ConnId,
    accepted: Option<NodeId>,
    dialled: Option<SocketAddr>,
}

enum Event {
    Input(Index, Boot, ControlInput),
    /// To an end of a stream, if it is still open, with the sender's announced commit.
    Frame(ConnId, ControlInput, u64),
    Durable(Index, Boot, u64, Vec<crate::protocol::step::Change>),
    Dial(Index, Boot),
}

pub struct World {
    pub now: u64,
    pub nodes: Vec<Node>,
    pub loss: f64,
    pub duplication: f64,
    /// Pairs that cannot reach each other.
    pub cuts: BTreeSet<(Index, Index)>,
    pub trace: u64,
    rng: ChaCha8Rng,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
    ends: BTreeMap<ConnId, End>,
    conns: u64,
    seed: u64,
}

pub fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn stored_trackers(node: &Node) -> Option<Trackers> {
    let stored = node.disk.get(&b"control/trackers"[..])?;
    whole(stored, decode_trackers)
}

pub fn address(index: Index) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7401 + 10 * u16::try_from(index).unwrap()))
}

/// See [`World::snapshot`].
#[derive(Clone)]
pub struct Snapshot {
    disk: BTreeMap<Bytes, Bytes>,
    commits: u64,
    generation: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            now: 1_000_000,
            nodes: Vec::new(),
            loss: 0.0,
            duplication: 0.0,
            cuts: BTreeSet::new(),
            trace: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            events: BTreeMap::new(),
            count: 0,
            ends: BTreeMap::new(),
            conns: 0,
            seed,
        }
    }

    /// A world of `count` nodes `node-0`..., all founders, each with all as seeds.
    pub fn cluster(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed);
        let founders: Vec<NodeName> = (0..count).map(|i| name(&format!("node-{i}"))).collect();
        let seeds: Vec<SocketAddr> = (0..count).map(address).collect();
        for i in 0..count {
            world.add(&format!("node-{i}"), "demo", &founders, &seeds);
        }
        world
    }

    pub fn add(
        &mut self,
        node: &str,
        cluster: &str,
        founders: &[NodeName],
        seeds: &[SocketAddr],
    ) -> Index {
        let index = self.nodes.len();
        let config = ControlConfig {
            cluster_name: cluster.to_owned(),
            zone: String::new(),
            weight: 1,
            internal: address(index),
            client: format!("127.0.0.1:{}", 7400 + 10 * index),
            admin: format!("127.0.0.1:{}", 7402 + 10 * index),
            founders: founders.to_vec(),
            replicas: 3,
            partitions: 64,
            skew_ms_max: 60_000,
            auto_join: true,
            settle_ms: 3_000,
        };
        self.nodes.push(Node {
            name: name(node),
            config,
            id: NodeId(self.rng.random()),
            generation: 0,
            boot: Boot(0),
            disk: BTreeMap::new(),
            commits: 0,
            announced: 0,
            control: None,
            error: None,
            stopped: None,
            came_back: Vec::new(),
            view: None,
            reachable: BTreeMap::new(),
            conditions: Conditions::default(),
            log: Vec::new(),
            connect: BTreeSet::new(),
            streams: BTreeMap::new(),
            notes: 0,
            persists: 0,
            persist_delay: 2_000,
            wall_offset_ms: 0,
            paused: false,
            seeds: seeds.to_vec(),
            holds: Hold::Nothing,
            left: None,
            answers: BTreeMap::new(),
        });
        index
    }

    pub fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|index| self.start(index));
    }

    fn clock(&self, index: Index) -> Now {
        let wall = EPOCH_MS + self.now / 1000;
        let wall = wall.saturating_add_signed(self.nodes[index].wall_offset_ms);
        Now { mono: Mono(self.now), wall: Wall(wall) }
    }

    /// A copy of a node's disk, which can be put back.
    pub fn snapshot(&self, index: Index) -> Snapshot {
        let node = &self.nodes[index];
        Snapshot { disk: node.disk.clone(), commits: node.commits, generation: node.generation }
    }

    pub fn put_back(&mut self, index: Index, snapshot: Snapshot) {
        let node = &mut self.nodes[index];
        let Snapshot { disk, commits, generation } = snapshot;
        (node.disk, node.commits, node.generation) = (disk, commits, generation);
    }

    /// What is on a node's disk.
    pub fn durable(&self, index: Index) -> Vec<(Bytes, Bytes)> {
        let disk = &self.nodes[index].disk;
        disk.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub fn start(&mut self, index: Index) {
        let now = self.clock(index);
        let boot = Boot(self.rng.random());
        let durable = self.durable(index);
        let node = &mut self.nodes[index];
        if let Some(id) = goes_on_as(&durable) {
            node.id = id;
        }
        let durable = if was_removed(&durable, node.id) {
            node.id = NodeId(self.rng.random());
            node.disk.clear();
            Vec::new()
        } else {
            durable
        };
        node.generation += 1;
        node.boot = boot;
        node.view = None;
        node.stopped = None;
        node.reachable.clear();
        node.conditions = Conditions::default();
        node.connect.clear();
        node.streams.clear();
        node.paused = false;
        let identity = Identity {
            id: node.id,
            name: node.name.clone(),
            generation: Generation(node.generation),
            boot,
            recovered: CommitNumber(node.commits),
        };
        node.announced = node.commits;
        let seed = self.seed ^ boot.0;
        match Control::new(node.config.clone(), identity, durable, seed, now) {
            Ok(control) => node.control = Some(control),
            Err(error) => {
                node.error = Some(error);
                return;
            }
        }
        let seeds = ControlInput::Seeds(node.seeds.clone());
        self.step(index, seeds);
        self.at(1_000, Event::Dial(index, boot));
    }

    /// As by SIGKILL: streams break at once.
    pub fn kill(&mut self, index: Index) {
        self.nodes[index].control = None;
        self.break_streams(|end, _| end.node == index);
    }

    /// As by loss of power: nobody is told.
    pub fn power_off(&mut self, index: Index) {
        self.nodes[index].control = None;
    }

    pub fn wipe(&mut self, index: Index) {
        let id = NodeId(self.rng.random());
        let node = &mut self.nodes[index];
        (node.id, node.generation, node.commits) = (id, 0, 0);
        node.disk.clear();
    }

    pub fn cut(&mut self, a: Index, b: Index) {
        self.cuts.insert((a.min(b), a.max(b)));
        self.break_streams(|x, y| (x.node, y.node) == (a, b) || (x.node, y.node) == (b, a));
    }

    pub fn isolate_all(&mut self) {
        for a in 0..self.nodes.len() {
            (a + 1..self.nodes.len()).for_each(|b| self.cut(a, b));
        }
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    fn is_cut(&self, a: Index, b: Index) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    pub fn run_ms(&mut self, ms: u64) {
        self.run_until(ms, |_| false);
    }

    /// Runs until the condition holds, or the time is over; says how many milliseconds it took.
    pub fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> Option<u64> {
        let (start, end) = (self.now, self.now + ms * 1000);
        loop {
            if done(self) {
                return Some((self.now - start) / 1000);
            }
            let event = self.events.keys().next().map(|&(at, _)| at);
            let timer = |(index, node): (Index, &Node)| {
                let control = node.control.as_ref().filter(|_| !node.paused)?;
                control.next_timer().map(|at| (at.0.max(self.now), index))
            };
            let timer = self.nodes.iter().enumerate().filter_map(timer).min();
            let next = event.into_iter().chain(timer.map(|(at, _)| at)).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return done(self).then_some(ms);
            }
            self.now = next.max(self.now);
            match timer {
                Some((at, index)) if event.is_none_or(|event| at <= event) => {
                    self.step(index, ControlInput::Tick);
                }
                _ => {
                    if let Some((_, event)) = self.events.pop_first() {
                        self.happen(event);
                    }
                }
            }
        }
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.count += 1;
        self.events.insert((self.now + delay, self.count), event);
    }

    fn alive(&self, index: Index, boot: Boot) -> bool {
        self.nodes[index].control.is_some() && self.nodes[index].boot == boot
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Input(index, boot, input) => {
                if self.alive(index, boot) {
                    if self.nodes[index].paused {
                        self.at(100_000, Event::Input(index, boot, input));
                    } else {
                        self.step(index, input);
                    }
                }
            }
            Event::Frame(conn, input, announced) => {
                let Some(end) = self.ends.get(&conn).copied() else { return };
                if !self.alive(end.node, end.boot) {
                    return;
                }
                if self.nodes[end.node].paused {
                    return self.at(100_000, Event::Frame(conn, input, announced));
                }
                match (input, end.accepted) {
                    (ControlInput::Message(_, bytes), Some(from)) => {
                        self.step(end.node, ControlInput::Synced(from, CommitNumber(announced)));
                        self.step(end.node, ControlInput::Message(from, bytes));
                    }
                    (ControlInput::Message(..), None) => {}
                    (input, _) => self.step(end.node, input),
                }
            }
            Event::Durable(index, boot, number, changes) => {
                if self.alive(index, boot) {
                    self.keep(index, changes);
                    let node = &mut self.nodes[index];
                    node.announced = node.commits;
                    self.step(index, ControlInput::Persisted(number));
                }
            }
            Event::Dial(index, boot) => self.dial(index, boot),
        }
    }

    fn keep(&mut self, index: Index, changes: Vec<crate::protocol::step::Change>) {
        let node = &mut self.nodes[index];
        node.commits += 1;
        for change in changes {
            match change.value {
                Some(value) => drop(node.disk.insert(change.key, value)),
                None => drop(node.disk.remove(&change.key)),
            }
        }
    }

    /// A client's write: moves the announced number.
    pub fn write(&mut self, index: Index) {
        let node = &mut self.nodes[index];
        node.commits += 1;
        node.announced = node.commits;
    }

    fn dial(&mut self, index: Index, boot: Boot) {
        if !self.alive(index, boot) {
            return;
        }
        self.at(DIAL_EVERY, Event::Dial(index, boot));
        if self.nodes[index].paused {
            return;
        }
        for address in self.nodes[index].connect.clone() {
            let open = self
                .ends
                .values()
                .any(|end| end.node == index && end.boot == boot && end.dialled == Some(address));
            if open {
                continue;
            }
            let target = self
                .nodes
                .iter()
                .position(|node| node.config.internal == address && node.control.is_some());
            match target.filter(|&target| !self.is_cut(index, target)) {
                Some(target) => self.open(index, target, address),
                None => self.at(500, Event::Input(index, boot, ControlInput::DialFailed(address))),
            }
        }
    }

    fn open(&mut self, from: Index, to: Index, address: SocketAddr) {
        self.conns += 2;
        let (a, b) = (ConnId(self.conns), ConnId(self.conns + 1));
        for (node, conn, peer, dialled) in [(from, a, b, Some(address)), (to, b, a, None)] {
            let boot = self.nodes[node].boot;
            self.ends.insert(conn, End { node, boot, conn, peer, accepted: None, dialled });
        }
        self.step(from, ControlInput::Dialled(a, address));
        for (sender, receiver) in [(from, b), (to, a)] {
            let now = self.clock(sender);
            let Some(control) = &self.nodes[sender].control else { continue };
            let hello = control.hello(now);
            self.at(1_000, Event::Frame(receiver, ControlInput::Hello(receiver, hello), 0));
        }
    }

    fn break_streams(&mut self, which: impl Fn(&End, &End) -> bool) {
        let broken: Vec<End> = self
            .ends
            .values()
            .filter(|end| self.ends.get(&end.peer).is_some_and(|peer| which(end, peer)))
            .flat_map(|end| [Some(*end), self.ends.get(&end.peer).copied()])
            .flatten()
            .collect();
        broken.iter().for_each(|end| self.close(end.conn));
    }

    /// Closes a stream; an end that was accepted learns of it.
    fn close(&mut self, conn: ConnId) {
        let Some(end) = self.ends.remove(&conn) else { return };
        for end in [Some(end), self.ends.remove(&end.peer)].into_iter().flatten() {
            let node = &mut self.nodes[end.node];
            if end.boot == node.boot {
                node.streams.retain(|_, conn| *conn != end.conn);
                if end.accepted.is_some() {
                    let broken = ControlInput::Broken(end.conn);
                    self.at(200, Event::Input(end.node, end.boot, broken));
                }
            }
        }
    }

    pub fn step(&mut self, index: Index, input: ControlInput) {
        let now = self.clock(index);
        let mut out = Vec::new();
        let Some(mut control) = self.nodes[index].control.take() else { return };
        control.step(now, input, &mut out);
        self.nodes[index].control = Some(control);
        for effect in out {
            let mut line = String::new();
            let _ = write!(line, "{} {index} {effect:?}", self.now);
            self.trace = xxh3_64_with_seed(line.as_bytes(), self.trace);
            self.carry_out(index, effect);
        }
    }

    fn carry_out(&mut self, index: Index, effect: ControlEffect) {
        let boot = self.nodes[index].boot;
        match effect {
            ControlEffect::SendDatagram(to, bytes) => self.send_datagram(index, to, &bytes),
            ControlEffect::Send(to, bytes) => {
                let Some(&conn) = self.nodes[index].streams.get(&to) else { return };
                let Some(end) = self.ends.get(&conn) else { return };
                let (peer, announced) = (end.peer, self.nodes[index].announced);
                let from = self.nodes[index].id;
                self.at(1_000, Event::Frame(peer, ControlInput::Message(from, bytes), announced));
            }
            ControlEffect::Connect(addresses) => self.nodes[index].connect = addresses,
            ControlEffect::Accept(conn, id) => {
                if let Some(end) = self.ends.get_mut(&conn) {
                    end.accepted = Some(id);
                    self.nodes[index].streams.insert(id, conn);
                }
            }
            ControlEffect::Reject(conn, reason) => {
                let Some(end) = self.ends.get(&conn) else { return };
                let other = *self.ends.get(&end.peer).unwrap_or(end);
                let rejected = ControlInput::Rejected(other.conn, reason);
                self.at(1_000, Event::Input(other.node, other.boot, rejected));
                self.close(conn);
            }
            ControlEffect::Persist(number, changes) => {
                self.nodes[index].persists += 1;
                let delay = self.nodes[index].persist_delay;
                self.at(delay, Event::Durable(index, boot, number, changes));
            }
            ControlEffect::Note(changes) => {
                self.nodes[index].notes += 1;
                self.keep(index, changes);
            }
            ControlEffect::View(view) => {
                self.check_view(index, &view);
                self.nodes[index].view = Some(view);
                self.work(index);
            }
            ControlEffect::Decommissioned(sentence) => {
                self.nodes[index].left = Some(sentence);
                self.kill(index);
            }
            ControlEffect::Answer(order, answer) => {
                self.nodes[index].answers.insert(order, answer);
            }
            ControlEffect::Reachability(id, reach) => {
                self.nodes[index].reachable.insert(id, reach.answers());
            }
            ControlEffect::Conditions(conditions) => self.nodes[index].conditions = conditions,
            ControlEffect::Log(_, line) => self.nodes[index].log.push(line),
            ControlEffect::ComeBack(sentence) => {
                self.kill(index);
                self.nodes[index].came_back.push(sentence);
                self.start(index);
            }
            ControlEffect::Stop(sentence) => {
                self.nodes[index].stopped = Some(sentence);
                self.kill(index);
            }
        }
    }

    /// The workers of a node come as far as they can, after a while.
    pub fn work(&mut self, index: Index) {
        let node = &self.nodes[index];
        let Some(view) = &node.view else { return };
        let oldest = view.oldest().tag();
        let upto = |hold, tag: PlacementTag| if node.holds > hold { tag } else { oldest };
        let progress = Progress {
            acked: upto(Hold::Acks, view.newest().tag()),
            synced: upto(Hold::Syncs, view.all_acked.unwrap_or(oldest)),
            reads_ended: upto(Hold::Reads, view.reads().tag()),
            waiting: Waiting::default(),
        };
        let boot = node.boot;
        self.at(20_000, Event::Input(index, boot, ControlInput::Progress(progress)));
    }

    /// What a node is told of the ring follows from what the members have made durable.
    fn check_view(&self, index: Index, view: &View) {
        let oldest = view.oldest().tag();
        let stages: [Stage; 3] = [
            (oldest, |own| own.sync_ack),
            (view.reads().tag(), |own| own.sync),
            (view.all_acked.unwrap_or(oldest), |own| own.ack),
        ];
        let mine = stored_trackers(&self.nodes[index]);
        for (at, (tag, stage)) in stages.into_iter().enumerate() {
            let passed = |t: PlacementTag| t == tag || t.number > tag.number;
            // The oldest is acked and synced, and what was read is read on, whatever disks are replaced.
            let granted = at > 0 && (tag == oldest || mine.iter().any(|own| passed(own.sync_ack)));
            let version = view.live().iter().find(|version| version.tag() == tag);
            for member in &version.unwrap().placement.members {
                let member = self.nodes.iter().find(|node| node.name == member.name);
                let known = |node: &&Node| view.ids.get(&node.name) == Some(&node.id);
                let Some(own) = member.filter(known).and_then(stored_trackers) else { continue };
                assert!(
                    granted || tag.number == 1 || passed(stage(&own)),
                    "node {index} takes {tag:?} for passed by all, and {own:?} says otherwise"
                );
            }
        }
    }

    fn send_datagram(&mut self, from: Index, to: SocketAddr, bytes: &Bytes) {
        assert!(bytes.len() <= 1400, "{} bytes in a datagram", bytes.len());
        let target = self.nodes.iter().position(|node| node.config.internal == to);
        let Some(target) = target.filter(|&target| !self.is_cut(from, target)) else { return };
        let copies = 1 + usize::from(self.rng.random_bool(self.duplication));
        for _ in 0..copies {
            if !self.rng.random_bool(self.loss) {
                let delay = self.rng.random_range(200..5_000);
                let input = ControlInput::Datagram(address(from), bytes.clone());
                self.at(delay, Event::Input(target, self.nodes[target].boot, input));
            }
        }
    }

    pub fn report(&self, index: Index) -> GossipReport {
        self.nodes[index].control.as_ref().unwrap().gossip_report(self.clock(index))
    }

    pub fn all_founded(&self) -> bool {
        self.nodes.iter().filter(|node| node.control.is_some()).all(|node| node.view.is_some())
    }

    /// What every living node says of every other node, as (observer, member, state).
    pub fn states(&self) -> Vec<(Index, Index, MemberState)> {
        let mut states = Vec::new();
        for observer in 0..self.nodes.len() {
            if self.nodes[observer].control.is_none() {
                continue;
            }
            let members = self.report(observer).members;
            for (member, node) in self.nodes.iter().enumerate().filter(|&(m, _)| m != observer) {
                let found = members.iter().find(|m| m.id == node.id.to_string());
                states.push((observer, member, found.map_or(MemberState::Unknown, |m| m.state)));
            }
        }
        states
    }

    pub fn all_say(&self, member: Index, state: MemberState) -> bool {
        self.states().iter().all(|&(_, m, s)| m != member || s == state)
    }

    pub fn all_alive(&self) -> bool {
        self.states().iter().all(|&(_, _, state)| state == MemberState::Alive)
    }
}
