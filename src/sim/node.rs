//! A node of the world: a disk, clocks, and, while it runs, a process with the real cores.
//!
//! What the drivers do in production is done here: effects are carried out in their order,
//! inputs are handed in one at a time, the next timer is armed, messages are put into envelopes.
//! It decides nothing.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::brain::Brain;
use super::clock::{NodeClock, Time};
use super::describe;
use super::disk::{Applied, Disk, Progress, Source};
use super::disks::Snapshot;
use super::tally::FaultKind;
use super::trace::Lane;
use super::world::{Asked, Event, World};
use crate::protocol;
use crate::protocol::control::ControlInput;
use crate::protocol::message::{Envelope, Message};
use crate::protocol::placement::View;
use crate::protocol::progress::Progresses;
use crate::protocol::step::{
    Change, CommitId, Conditions, Effect, Input, Page, Reach, ReadFailed, Space, Stats, Token,
};
use crate::protocol::worker::{Worker, WorkerConfig};
use crate::types::{Boot, NodeId, NodeName, Stamp, TraceContext};

/// A core that asks for a timer that is due at once is stepped again this much later.
const TIMER_STEP: Time = 1;

/// A node's place in the world.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: NodeName,
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
}

/// A node, running or not.
pub(super) struct SimNode {
    pub(super) name: NodeName,
    pub(super) id: NodeId,
    /// Where gossip and streams reach it.
    pub(super) address: SocketAddr,
    pub(super) clock: NodeClock,
    pub(super) disk: Disk,
    /// Counts the committers that this disk has had: steps of an earlier one are void.
    pub(super) disk_life: u64,
    pub(super) process: Option<Process>,
    pub(super) paused: bool,
    /// What arrived while it was paused.
    pub(super) held: VecDeque<Event>,
    /// How often it was started.
    pub(super) starts: u64,
    /// How often its present disk was.
    pub(super) generation: u64,
    pub(super) snapshot: Option<Snapshot>,
    /// An old snapshot was put back, and its process has not found out yet.
    pub(super) is_set_back: bool,
}

/// A running process.
pub(super) struct Process {
    /// Which start of the node this is.
    pub(super) number: u64,
    pub(super) boot: Boot,
    pub(super) workers: Vec<Worker>,
    pub(super) brain: Brain,
    pub(super) view: Option<Arc<View>>,
    /// The clock that was found on disk.
    recovered: Stamp,
    armed: Option<Time>,
    todo: VecDeque<Todo>,
    /// How far its workers have come in a change of the ring.
    pub(super) progress: Progresses,
}

enum Todo {
    Worker(usize, Input),
    Control(ControlInput),
    Reachable(NodeId, bool),
}

/// What a process hears of the cluster.
#[derive(Clone, Debug)]
pub(super) enum News {
    View,
    Conditions(Conditions),
    Reachability(NodeId, Reach),
    /// Time to look around.
    Look,
}

impl Member {
    /// Members with random ids.
    pub(super) fn make(count: usize, rng: &mut ChaCha8Rng) -> Vec<Self> {
        let names = (0..count).filter_map(|at| NodeName::new(&format!("node-{at}")).ok());
        let member = |(name, last): (NodeName, u8)| {
            let address = SocketAddr::from(([10, 0, 0, last], 7401));
            Self { name, id: NodeId(rng.random()), address }
        };
        names.zip(1..).map(member).collect()
    }
}

impl SimNode {
    pub(super) fn new(member: Member, pace: u64) -> Self {
        Self {
            name: member.name,
            id: member.id,
            address: member.address,
            clock: NodeClock::new(0, pace),
            disk: Disk::new(),
            disk_life: 0,
            process: None,
            paused: false,
            held: VecDeque::new(),
            starts: 0,
            generation: 0,
            snapshot: None,
            is_set_back: false,
        }
    }

    /// Whether it runs and is not stopped.
    pub(super) fn is_live(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    /// What its workers have done since they started.
    pub(super) fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for worker in self.process.iter().flat_map(|process| &process.workers) {
            sum.add(&worker.stats());
        }
        sum
    }
}

impl World {
    /// Starts a process on a node.
    pub(super) fn start(&mut self, at: usize) {
        if self.nodes[at].process.is_some() || self.ring.is_removed(at) {
            return;
        }
        let (boot, seed): (u64, u64) = (self.rng.random(), self.rng.random());
        let mono = self.rng.random_range(0..3_600_000_000);
        self.counts.starts += 1;
        self.take_up_disk(at);
        let (clock, number) = {
            let node = &mut self.nodes[at];
            node.starts += 1;
            node.generation += 1;
            node.paused = false;
            node.held.clear();
            node.clock.start(self.time, mono);
            node.disk.recover();
            (node.disk.clock(), node.starts)
        };
        self.trace.event(self.time, at, b'+', &boot.to_le_bytes());
        self.trace.set_lane(at, Lane::Runs);
        let workers = (0..self.config.workers).map(|index| {
            let seed = seed.wrapping_add(index as u64);
            Worker::new(self.worker_config(index, Boot(boot), clock, seed))
        });
        let workers = workers.collect();
        let process = Process {
            number,
            boot: Boot(boot),
            workers,
            brain: Brain::oracle(self.nodes.len()),
            view: None,
            recovered: clock,
            armed: None,
            todo: VecDeque::new(),
            progress: Progresses::new(self.config.workers),
        };
        self.nodes[at].process = Some(process);
        let found = self.nodes[at].disk.number().0;
        self.trace.say(self.time, Some(at), || {
            format!("starts (boot {boot:016x}), {found} commits on disk")
        });
        self.brain_started(at, seed);
    }

    fn worker_config(&self, index: usize, boot: Boot, clock: Stamp, seed: u64) -> WorkerConfig {
        WorkerConfig {
            index,
            workers: self.config.workers,
            tuning: self.config.tuning.clone(),
            boot,
            clock,
            seed,
            #[cfg(any(test, feature = "seeded-defects"))]
            defect: self.config.defect,
        }
    }

    /// SIGKILL: what was written survives, what was queued does not.
    pub(super) fn kill(&mut self, at: usize) {
        self.end_process(at, "is killed", false, Some(FaultKind::Kill));
    }

    /// The power fails: only what was synced survives, and perhaps some of the rest.
    pub(super) fn lose_power(&mut self, at: usize) {
        self.end_process(at, "loses power", true, Some(FaultKind::PowerLoss));
    }

    /// A process ends that nobody killed.
    pub(super) fn remove_process(&mut self, at: usize) {
        self.end_process(at, "ends", false, None);
    }

    fn end_process(&mut self, at: usize, how: &str, power: bool, kind: Option<FaultKind>) {
        let Some(process) = self.nodes[at].process.take() else { return };
        if let Some(kind) = kind {
            self.count(kind);
        }
        self.trace.event(self.time, at, b'-', &[power.into()]);
        let node = &mut self.nodes[at];
        node.held.clear();
        node.paused = false;
        node.disk_life += 1;
        let unreported = node.disk.backlog();
        let found = if power { node.disk.lose_power(&mut self.rng) } else { node.disk.kill() };
        let kept = found.len();
        if power && kept < unreported {
            self.count(FaultKind::LostTail);
        }
        self.trace.say(self.time, Some(at), || {
            format!("{how}: {kept} of {unreported} unreported commits survive")
        });
        self.trace.set_lane(at, Lane::Down);
        _ = self.disk_changed(at);
        self.break_clients(at, process.number);
        if !power {
            self.peer_broke(at, process.number);
        }
    }

    /// SIGSTOP: nothing is handled; what arrives waits.
    pub(super) fn pause(&mut self, at: usize) {
        if self.nodes[at].process.is_some() && !self.nodes[at].paused {
            self.nodes[at].paused = true;
            self.trace.set_lane(at, Lane::Stopped);
            self.trace.say(self.time, Some(at), || "is stopped".into());
        }
    }

    /// SIGCONT.
    pub(super) fn resume(&mut self, at: usize) {
        if !self.nodes[at].paused {
            return;
        }
        self.nodes[at].paused = false;
        self.trace.set_lane(at, Lane::Runs);
        let held = self.take_held(at);
        let count = held.len();
        if count > 0 {
            self.count(FaultKind::Pause);
        }
        self.trace.say(self.time, Some(at), || format!("goes on; {count} inputs had waited"));
        for event in held {
            self.schedule(0, event);
        }
        if let Some(process) = &mut self.nodes[at].process {
            process.armed = None;
        }
        self.settle(at);
    }

    /// Hands an input to a worker; it is handled by [`World::settle`].
    pub(super) fn feed(&mut self, at: usize, worker: usize, input: Input) {
        if let Some(process) = &mut self.nodes[at].process {
            process.todo.push_back(Todo::Worker(worker, input));
        }
    }

    /// Hands an input to the control core of a node; it is handled by [`World::settle`].
    pub(super) fn control(&mut self, at: usize, input: ControlInput) {
        if let Some(process) = &mut self.nodes[at].process {
            process.todo.push_back(Todo::Control(input));
        }
    }

    /// Hands an input to all workers of a node.
    pub(super) fn feed_all(&mut self, at: usize, input: &Input) {
        for worker in 0..self.config.workers {
            self.feed(at, worker, input.clone());
        }
    }

    /// Steps the cores of a node until no input is left, then arms the next timer.
    pub(super) fn settle(&mut self, at: usize) {
        let (mut effects, mut news) = (Vec::new(), Vec::new());
        loop {
            let node = &mut self.nodes[at];
            let now = node.clock.now(self.time);
            let Some(process) = &mut node.process else { return };
            if let Some(kind) = node.clock.take_turned() {
                node.disk.took_effect.count(kind);
            }
            match process.todo.pop_front() {
                None => break,
                Some(Todo::Worker(index, input)) => {
                    process.workers[index].step(now, input, &mut effects);
                    for effect in effects.drain(..) {
                        self.carry(at, index, effect);
                    }
                }
                Some(Todo::Control(input)) => {
                    let Some(mind) = process.brain.mind_mut() else { continue };
                    mind.control.step(now, input, &mut news);
                    for effect in news.drain(..) {
                        self.carry_control(at, effect);
                    }
                }
                Some(Todo::Reachable(peer, up)) => self.found_reachable(at, peer, up),
            }
        }
        self.arm(at);
    }

    fn arm(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(process) = &mut node.process else { return };
        let timers = process.workers.iter().filter_map(Worker::next_timer);
        let timers = timers.chain(process.brain.next_timer());
        let Some(next) = timers.min() else { return };
        let due = node.clock.time_of(next).max(self.time + TIMER_STEP);
        if process.armed.is_none_or(|armed| due < armed || armed <= self.time) {
            process.armed = Some(due);
            let boot = process.number;
            self.schedule(due - self.time, Event::Wake { node: at, boot });
        }
    }

    pub(super) fn wake(&mut self, at: usize, boot: u64) {
        let Some(process) = &mut self.nodes[at].process else { return };
        if process.number != boot || process.armed.is_some_and(|armed| armed > self.time) {
            return;
        }
        process.armed = None;
        let now = self.nodes[at].clock.now(self.time);
        for worker in 0..self.config.workers {
            let Some(process) = &self.nodes[at].process else { return };
            if process.workers[worker].next_timer().is_some_and(|due| due <= now.mono) {
                self.feed(at, worker, Input::Tick);
            }
        }
        let Some(process) = &self.nodes[at].process else { return };
        if process.brain.next_timer().is_some_and(|due| due <= now.mono) {
            self.control(at, ControlInput::Tick);
        }
        self.trace.event(self.time, at, b't', &[]);
        self.settle(at);
    }

    /// Carries out one effect of a worker.
    fn carry(&mut self, at: usize, worker: usize, effect: Effect) {
        match effect {
            Effect::Read { token, space, key } => self.begin_read(at, worker, token, space, key),
            Effect::Scan { token, space, prefix, after, bytes_max } => {
                let page = self.nodes[at].disk.serve_page(space, &prefix, &after, bytes_max);
                let failed = self.read_fails(at);
                let page = if failed { Err(ReadFailed) } else { Ok(page) };
                let asked = self.asked(at, worker, token);
                let after = self.read_time(at);
                self.schedule(after, Event::Scanned { at: asked, page });
            }
            Effect::Commit { id, changes, clock } => {
                let recovered = self.nodes[at].process.as_ref().map_or(clock, |p| p.recovered);
                self.observer.formed(self.time, at, &changes, clock, recovered);
                self.trace.say(self.time, Some(at), || describe::commit(id, &changes));
                self.commit(at, Source::Worker(worker, id), changes, clock);
            }
            Effect::Send { to, trace, partition, message } => {
                self.send_data(at, to, trace, Message::Data(partition, message));
            }
            Effect::Reply(ticket, outcome) => self.reply(at, ticket, outcome),
            Effect::ScanReply(ticket, page) => self.page_leaves(at, ticket, page),
            Effect::Reachable(peer, up) => {
                if let Some(process) = &mut self.nodes[at].process {
                    process.todo.push_back(Todo::Reachable(peer, up));
                }
            }
            Effect::Progress(progress) => {
                if let Some(process) = &mut self.nodes[at].process
                    && let Some(progress) = process.progress.told(worker, progress)
                {
                    self.ring_progress(at, progress);
                    self.control(at, ControlInput::Progress(progress));
                }
            }
            Effect::Event(event) => {
                self.counts.rounds +=
                    u64::from(matches!(event, protocol::step::Event::RoundOver(..)));
                self.trace.say(self.time, Some(at), || describe::event(&event, &self.nodes));
            }
        }
    }

    /// Queues a commit.
    pub(super) fn commit(&mut self, at: usize, source: Source, changes: Vec<Change>, clock: Stamp) {
        if self.nodes[at].disk.push(source, changes, clock) {
            let life = self.nodes[at].disk_life;
            self.schedule(0, Event::Disk { node: at, life });
        }
    }

    fn send_data(&mut self, at: usize, to: NodeId, trace: Option<TraceContext>, message: Message) {
        let node = &self.nodes[at];
        let Some(process) = &node.process else { return };
        let Some(view) = &process.view else { return };
        if process.brain.mind().is_some_and(|mind| !mind.streams.contains_key(&to)) {
            return self.trace.say(self.time, Some(at), || "✗ (no stream)".into());
        }
        let envelope = Envelope {
            from: node.id,
            placement: view.newest().tag(),
            synced: node.disk.announced(),
            trace,
            message,
        };
        self.send(at, to, &envelope);
    }

    /// A message arrives: it is decoded, and goes to the worker of its partition.
    pub(super) fn receive(&mut self, to: usize, sender: (usize, u64), bytes: Bytes) {
        let from = sender.0;
        self.counts.deliveries += 1;
        self.trace.event(self.time, to, b'm', &bytes);
        if self.nodes[to].process.is_none() {
            return;
        }
        let Ok(envelope) = Envelope::decode(bytes) else {
            return self.observer.undecodable(self.time, from);
        };
        self.trace.say(self.time, Some(to), || {
            format!("← node-{from} {}", describe::message(&envelope.message))
        });
        if self.is_twin(sender.0) && !self.is_accepted(to, envelope.from, sender) {
            // It may think that it has a stream, until it reads that it was turned away.
            return;
        }
        if let Message::Data(partition, message) = envelope.message {
            let worker = partition.worker(self.config.workers);
            let Envelope { from, placement, trace, synced, .. } = envelope;
            if self.is_accepted(to, from, sender) {
                self.control(to, ControlInput::Synced(from, synced));
            }
            let input = Input::Message { from, placement, trace, partition, message };
            self.feed(to, worker, input);
            self.settle(to);
        }
    }

    /// The committer of a node goes one step on.
    pub(super) fn disk_step(&mut self, at: usize, life: u64) {
        if self.nodes[at].disk_life != life {
            return;
        }
        match self.nodes[at].disk.step(&mut self.rng) {
            Progress::Idle => {}
            Progress::Wait(after) => self.schedule(after, Event::Disk { node: at, life }),
            Progress::Failed => {
                let how = "stops: an fsync has failed; it";
                self.end_process(at, how, true, Some(FaultKind::FailedFsync));
            }
            Progress::Synced(group) => {
                self.trace.event(self.time, at, b's', &(group.len() as u64).to_le_bytes());
                self.counts.commits += group.len() as u64;
                let applied = self.disk_changed(at);
                self.report(at, group.iter().map(|commit| (commit.source, commit.refused)));
                self.schedule(0, Event::Disk { node: at, life });
                self.settle(at);
                self.check_remembered(at, &applied);
            }
        }
    }

    /// Tells each source, in order: refusals singly, successes by the last of a run.
    fn report(&mut self, at: usize, commits: impl Iterator<Item = (Source, bool)>) {
        let mut through: Vec<Option<CommitId>> = vec![None; self.config.workers];
        for (source, refused) in commits {
            let (worker, id) = match source {
                Source::Worker(worker, id) => (worker, id),
                Source::Control(number) => {
                    self.control(at, ControlInput::Persisted(number));
                    continue;
                }
                Source::Note => continue,
            };
            if !refused {
                through[worker] = Some(id);
                continue;
            }
            if let Some(id) = through[worker].take() {
                self.feed(at, worker, Input::Committed(id));
            }
            self.trace.say(self.time, Some(at), || format!("commit {} is refused", id.0));
            self.feed(at, worker, Input::Refused(id));
        }
        for (worker, id) in through.into_iter().enumerate() {
            if let Some(id) = id {
                self.trace
                    .say(self.time, Some(at), || format!("commits up to {} are synced", id.0));
                self.feed(at, worker, Input::Committed(id));
            }
        }
    }

    /// The observer looks at what has become durable.
    fn disk_changed(&mut self, at: usize) -> Vec<Applied> {
        let applied = self.nodes[at].disk.take_applied();
        if self.is_twin(at) {
            return vec![];
        }
        for change in &applied {
            let members = &self.nodes[..self.config.nodes];
            self.observer.durable(self.time, members, &self.names, at, change);
        }
        self.counts.collected = self.observer.collected.count();
        applied
    }

    fn asked(&self, node: usize, worker: usize, token: Token) -> Asked {
        let boot = self.nodes[node].process.as_ref().map_or(0, |process| process.number);
        Asked { node, boot, worker, token }
    }

    fn read_fails(&mut self, at: usize) -> bool {
        let rate = self.nodes[at].disk.weather.fail_read;
        let fails = rate > 0 && self.rng.random_range(0..10_000) < rate;
        if fails {
            self.count(FaultKind::FailedRead);
        }
        fails
    }

    fn read_time(&mut self, at: usize) -> Time {
        let weather = &self.nodes[at].disk.weather;
        if weather.read_late > 0 && self.rng.random_range(0..1000) < weather.read_late {
            let late = self.rng.random_range(0..=weather.read_late_max);
            self.count(FaultKind::SlowRead);
            return late;
        }
        0
    }

    /// A read sees what is stored now, or what is stored when it is answered: both are allowed.
    fn begin_read(&mut self, at: usize, worker: usize, token: Token, space: Space, key: Bytes) {
        let after = self.read_time(at);
        let answer = if self.read_fails(at) {
            Some(Err(ReadFailed))
        } else if after == 0 || self.rng.random_ratio(1, 2) {
            Some(Ok(self.nodes[at].disk.serve(space, &key)))
        } else {
            None
        };
        let asked = self.asked(at, worker, token);
        self.schedule(after, Event::ReadDone { at: asked, space, key, answer });
    }

    pub(super) fn read_done(
        &mut self,
        at: Asked,
        space: Space,
        key: &Bytes,
        answer: Option<Result<Option<Bytes>, ReadFailed>>,
    ) {
        let node = &mut self.nodes[at.node];
        if node.process.as_ref().is_none_or(|process| process.number != at.boot) {
            return;
        }
        let answer = answer.unwrap_or_else(|| Ok(node.disk.serve(space, key)));
        self.feed(at.node, at.worker, Input::ReadDone(at.token, answer));
        self.settle(at.node);
        if space == Space::Records {
            self.check_copy(at.node, key);
        }
    }

    pub(super) fn scanned(&mut self, at: Asked, page: Result<Page, ReadFailed>) {
        let node = &self.nodes[at.node];
        if node.process.as_ref().is_some_and(|process| process.number == at.boot) {
            self.feed(at.node, at.worker, Input::Scanned(at.token, page));
            self.settle(at.node);
        }
    }
}
