//! The host of the data path's cores: whoever holds an input steps the worker it is for.
//!
//! ```text
//!  request ─────┐
//!  messages ────┤   lock the worker          ┌─▶ committer (queued)
//!  completions ─┼─▶ step, carry out what ────┼─▶ queues of the streams
//!  timers ──────┤   it says, in order,       ├─▶ store: reads at once, scans on other threads
//!  scans ───────┘   until nothing is left    └─▶ whoever waits for an answer
//! ```
//!
//! No task stands between a request and its worker: a hop costs as much as the rest of our work
//! on it. Reads of the store come from memory or the page cache and are answered on the spot.
//!
//! Invariants:
//! - the effects of a step are carried out in order, before the next step of that worker, under
//!   its lock: so commits reach the committer in the order in which they were decided;
//! - nothing that is done under the lock waits for anything but a read of the store;
//! - streams' writers are woken once for a batch of inputs, after the lock is free;
//! - once the node has failed no worker is stepped any more: nothing is acknowledged.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::ending::Ending;
use super::spans::Spans;
use crate::gossip::{Mailbox, SystemClock};
use crate::peers::quiet::Quiet;
use crate::peers::{Peers, Wake};
use crate::protocol::control::ControlInput;
use crate::protocol::message::{Envelope, Message, PlacementTag};
use crate::protocol::op::{Action, Failure, Op, Outcome, Reason};
use crate::protocol::placement::View;
use crate::protocol::progress::Progresses;
use crate::protocol::quorum::Consistency;
use crate::protocol::step::{
    Change, Conditions, Effect, Event, Input, MergedPage, Page, Reach, ReadFailed, RepairReport,
    Space, Stats, Ticket, Token,
};
use crate::store::{Store, StoreError};
use crate::telemetry::Traces;
use crate::types::{CommitNumber, Mono, NodeId, Now, Partition, Stamp, TraceContext};

/// What the host needs of a worker.
pub trait DataCore: Send + 'static {
    /// Takes one input.
    fn step(&mut self, now: Now, input: Input, out: &mut Vec<Effect>);

    /// When to step with [`Input::Tick`] at the latest.
    fn next_timer(&self) -> Option<Mono>;

    /// Whether it has read what it must know, and serves.
    fn serves(&self) -> bool;

    /// What it has done.
    fn stats(&self) -> Stats;

    /// How whole its copies are.
    fn repair_report(&mut self) -> RepairReport;
}

/// What the host needs of the committer.
pub trait Commits: Send + Sync + 'static {
    /// Queues changes; never waits. `worker` and `id` name them in the report. They may lie until
    /// [`Commits::begin`].
    fn submit(&self, worker: usize, id: u64, changes: Vec<Change>, clock: Stamp);

    /// Sees to it that what is queued is committed: at once where that is quick, or else elsewhere.
    fn begin(&self);

    /// The commit number that peers are told: at most the highest that a power cut leaves.
    fn announced(&self) -> CommitNumber;
}

/// What the host works with.
pub struct Surroundings {
    /// This node.
    pub me: NodeId,
    /// The node's clock.
    pub clock: SystemClock,
    /// Where reads go.
    pub store: Arc<dyn Store>,
    /// Where commits go.
    pub commits: Arc<dyn Commits>,
    /// Where messages go.
    pub peers: Peers,
    /// Where news for the control core goes.
    pub control: Mailbox,
    /// Where scans are carried out.
    pub runtime: tokio::runtime::Handle,
    /// How a defect stops the node.
    pub ending: Ending,
    /// Where spans go.
    pub traces: Traces,
}

/// All workers of a node. Cheap to clone.
pub struct Host<C>(Arc<Inner<C>>);

impl<C> Clone for Host<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<C> {
    around: Surroundings,
    workers: Box<[Slot<C>]>,
    /// Known before any worker is told.
    view: RwLock<Option<Arc<View>>>,
    /// How far the workers have come in a change of the ring.
    progress: Mutex<Progresses>,
    /// When the timers' task will wake, in microseconds; zero while it does.
    armed: AtomicU64,
    rearm: Notify,
    /// Something was queued for commit.
    queued: Notify,
    quiet: Quiet,
}

/// One worker.
struct Slot<C> {
    state: Mutex<State<C>>,
    /// Its next timer, in microseconds; the maximum if it has none.
    next: AtomicU64,
}

/// One worker and whatever its steps touch.
struct State<C> {
    core: C,
    effects: Vec<Effect>,
    /// Answers of the store that the worker has not been given yet.
    answers: VecDeque<Input>,
    waiting: HashMap<Ticket, Waiter>,
    next_ticket: u64,
    /// The placement that the worker knows.
    placement: PlacementTag,
    spans: Spans,
}

/// Who waits for an answer.
enum Waiter {
    Op(oneshot::Sender<Outcome>),
    Scan(oneshot::Sender<Result<MergedPage, Failure>>),
}

const NEVER: u64 = u64::MAX;
/// Ops of a batch that a worker begins in one turn: few milliseconds, in which others wait.
const OPS_A_TURN: usize = 128;

impl<C: DataCore> Host<C> {
    /// A host of these workers; worker i owns the partitions whose `worker(len)` is i.
    ///
    /// # Panics
    /// Unless their number is a power of two.
    #[must_use]
    pub fn new(around: Surroundings, cores: Vec<C>) -> Self {
        assert!(cores.len().is_power_of_two(), "{} workers: not a power of two", cores.len());
        let (traces, workers) = (around.traces.clone(), cores.len());
        let slot = |core: C| Slot {
            next: AtomicU64::new(core.next_timer().map_or(NEVER, |next| next.0)),
            state: Mutex::new(State {
                core,
                effects: Vec::new(),
                answers: VecDeque::new(),
                waiting: HashMap::new(),
                next_ticket: 0,
                placement: PlacementTag::default(),
                spans: Spans::new(traces.clone()),
            }),
        };
        Self(Arc::new(Inner {
            around,
            workers: cores.into_iter().map(slot).collect(),
            view: RwLock::default(),
            progress: Mutex::new(Progresses::new(workers)),
            armed: AtomicU64::new(NEVER),
            rearm: Notify::new(),
            queued: Notify::new(),
            quiet: Quiet::default(),
        }))
    }

    /// Runs one request to its end.
    pub async fn run(&self, op: Op, timeout_micros: u64, trace: Option<TraceContext>) -> Outcome {
        let is_put = matches!(op.action, Action::Put(_));
        let (answer, answered) = oneshot::channel();
        let mut request = Some((op, answer));
        while let Some((op, _)) = &request {
            // Without a placement every worker gives the same answer.
            let partitions = self.partitions();
            let index = partitions.map_or(0, |q| self.index(op.partition(q)));
            let mut again = false;
            self.turn(index, |turn| {
                // If there is one now, the key is perhaps another worker's. That happens once.
                again = partitions.is_none() && self.partitions().is_some();
                let Some((op, answer)) = request.take_if(|_| !again) else { return };
                let deadline = turn.now.mono.after_micros(timeout_micros);
                let ticket = turn.state.expect(Waiter::Op(answer));
                turn.input(Input::Client { ticket, op, deadline, trace });
            });
            if !again {
                break;
            }
        }
        // If the worker has failed, nobody will answer.
        drop(request);
        answered.await.unwrap_or_else(|_| Outcome::Failed(cut_off(is_put)))
    }

    /// Runs requests together, each to its own end; the outcomes are in their order. Those of one
    /// worker share turns: its lock, and the wake-ups of committer and streams at a turn's end.
    pub async fn run_many(
        &self,
        ops: Vec<Op>,
        timeout_micros: u64,
        trace: Option<TraceContext>,
    ) -> Vec<Outcome> {
        let Some(partitions) = self.partitions() else {
            // Every worker gives the same answer; or the placement comes in the middle of it.
            let mut outcomes = Vec::with_capacity(ops.len());
            for op in ops {
                outcomes.push(self.run(op, timeout_micros, trace).await);
            }
            return outcomes;
        };
        let mut answers = Vec::with_capacity(ops.len());
        let mut groups: Vec<Vec<_>> = self.0.workers.iter().map(|_| Vec::new()).collect();
        for op in ops {
            let (answer, answered) = oneshot::channel();
            answers.push((matches!(op.action, Action::Put(_)), answered));
            groups[self.index(op.partition(partitions))].push((op, answer));
        }
        for (index, group) in groups.into_iter().enumerate() {
            self.begin_many(index, group, timeout_micros, trace);
        }
        let mut outcomes = Vec::with_capacity(answers.len());
        for (is_put, answered) in answers {
            let outcome = answered.await;
            outcomes.push(outcome.unwrap_or_else(|_| Outcome::Failed(cut_off(is_put))));
        }
        outcomes
    }

    /// Hands requests to their worker, in turns that leave room for others between them.
    fn begin_many(
        &self,
        index: usize,
        group: Vec<(Op, oneshot::Sender<Outcome>)>,
        timeout_micros: u64,
        trace: Option<TraceContext>,
    ) {
        let mut rest = group.into_iter().peekable();
        while rest.peek().is_some() {
            let some: Vec<_> = rest.by_ref().take(OPS_A_TURN).collect();
            self.turn(index, |turn| {
                let deadline = turn.now.mono.after_micros(timeout_micros);
                for (op, answer) in some {
                    let ticket = turn.state.expect(Waiter::Op(answer));
                    turn.input(Input::Client { ticket, op, deadline, trace });
                }
            });
        }
    }

    /// One page of a partition, merged from R homes.
    ///
    /// # Errors
    /// The worker's answer if it has no page, or the node's end.
    pub async fn scan(
        &self,
        partition: Partition,
        after: Bytes,
        bytes_max: u32,
        consistency: Consistency,
        timeout_micros: u64,
    ) -> Result<MergedPage, Failure> {
        let (answer, answered) = oneshot::channel();
        self.turn(self.index(partition), |turn| {
            let deadline = turn.now.mono.after_micros(timeout_micros);
            let ticket = turn.state.expect(Waiter::Scan(answer));
            let page =
                Input::ScanPage { ticket, partition, after, bytes_max, consistency, deadline };
            turn.input(page);
        });
        answered.await.unwrap_or_else(|_| Err(cut_off(false)))
    }

    /// Hands over the data messages of one peer; others are left in `batch`.
    pub fn messages(&self, batch: &mut Vec<Envelope>) {
        let mut rest = std::mem::take(batch).into_iter().peekable();
        while let Some(first) = rest.next_if(|_| true) {
            let Some(index) = self.worker_of(&first) else {
                batch.push(first);
                continue;
            };
            // Neighbours for the same worker share its lock and the wake-ups at the end.
            self.turn(index, |turn| {
                turn.message(first);
                while let Some(next) = rest.next_if(|next| self.worker_of(next) == Some(index)) {
                    turn.message(next);
                }
            });
        }
    }

    /// Reports about one worker's commits, in their order.
    pub fn committed(&self, worker: usize, reports: impl IntoIterator<Item = Input>) {
        self.turn(worker, |turn| reports.into_iter().for_each(|report| turn.input(report)));
    }

    /// Tells every worker what the cluster is now.
    pub fn set_view(&self, view: &Arc<View>) {
        match self.0.view.write() {
            Ok(mut known) => *known = Some(view.clone()),
            Err(_) => return self.0.around.ending.defect("the view's lock is poisoned"),
        }
        let tag = view.newest().tag();
        for index in 0..self.0.workers.len() {
            self.turn(index, |turn| {
                turn.state.placement = tag;
                turn.input(Input::View(view.clone()));
            });
        }
    }

    /// Whether every worker has been told of a placement, and has read since what its disk says of its
    /// copies: before that it serves nothing, and counts none of them as lost.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        let serves = |slot: &Slot<C>| slot.state.lock().is_ok_and(|state| state.core.serves());
        self.0.workers.iter().all(serves)
    }

    /// Tells every worker whether a peer can be reached.
    pub fn set_reachability(&self, peer: NodeId, reach: Reach) {
        self.tell_all(|| Input::Reachability(peer, reach));
    }

    /// Tells every worker the node's conditions.
    pub fn set_conditions(&self, conditions: Conditions) {
        self.tell_all(|| Input::Conditions(conditions));
    }

    /// The cluster as it was last told.
    #[must_use]
    pub fn view(&self) -> Option<Arc<View>> {
        self.0.view.read().ok()?.clone()
    }

    /// Where spans go.
    #[must_use]
    pub fn traces(&self) -> Traces {
        self.0.around.traces.clone()
    }

    /// Sum over the workers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for slot in &self.0.workers {
            if let Ok(state) = slot.state.lock() {
                sum.add(&state.core.stats());
            }
        }
        sum
    }

    /// How whole the copies of all workers are.
    #[must_use]
    pub fn repair_report(&self) -> RepairReport {
        let mut all = RepairReport::default();
        for slot in &self.0.workers {
            if let Ok(mut state) = slot.state.lock() {
                all.add(&state.core.repair_report());
            }
        }
        all
    }

    /// Steps workers whose timers are due, for ever. Sleeps while there is nothing to do.
    pub async fn keep_time(self) {
        let clock = self.0.around.clock;
        loop {
            // From here on until `armed` is set, whoever finds an earlier timer says so.
            self.0.armed.store(NEVER, Ordering::SeqCst);
            let nexts = self.0.workers.iter().map(|slot| slot.next.load(Ordering::SeqCst));
            let next = nexts.min().unwrap_or(NEVER);
            self.0.armed.store(next, Ordering::SeqCst);
            // At least a millisecond: a timer that stays due must not eat a whole core.
            let wake = clock.instant(Mono(next).max(clock.mono().after_millis(1)));
            tokio::select! {
                () = self.0.rearm.notified() => continue,
                () = tokio::time::sleep_until(wake) => {}
            }
            let now = clock.mono();
            for index in 0..self.0.workers.len() {
                if self.0.workers[index].next.load(Ordering::SeqCst) <= now.0 {
                    self.turn(index, |turn| turn.input(Input::Tick));
                }
            }
        }
    }

    /// Begins commits, for ever. It comes behind whatever else is ready to run when a first
    /// change is queued, and so begins one for all that queues up in that turn: a wake-up for
    /// each costs more than the commit itself, and leaves one change a batch.
    pub async fn keep_committing(self) {
        loop {
            self.0.queued.notified().await;
            self.0.around.commits.begin();
        }
    }

    /// Lets go of everyone who waits for an answer: the node stops.
    pub fn give_up(&self) {
        for slot in &self.0.workers {
            // A poisoned worker's clients wait in vain, too.
            let mut state = slot.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            state.waiting.clear();
        }
    }

    fn tell_all(&self, input: impl Fn() -> Input) {
        for index in 0..self.0.workers.len() {
            self.turn(index, |turn| turn.input(input()));
        }
    }

    fn partitions(&self) -> Option<u16> {
        self.0.view.read().ok()?.as_ref().map(|view| view.partitions())
    }

    fn index(&self, partition: Partition) -> usize {
        partition.worker(self.0.workers.len())
    }

    fn worker_of(&self, envelope: &Envelope) -> Option<usize> {
        match &envelope.message {
            Message::Data(partition, _) => Some(self.index(*partition)),
            Message::Control(_) => None,
        }
    }

    /// Locks a worker for some inputs, and looks after its timer and the streams afterwards. Does
    /// nothing if the node has failed: whatever `inputs` holds is dropped.
    fn turn(&self, index: usize, inputs: impl FnOnce(&mut Turn<'_, C>)) {
        let inner = &*self.0;
        if inner.around.ending.has_failed() {
            return;
        }
        let slot = &inner.workers[index];
        let Ok(mut state) = slot.state.lock() else {
            return inner.around.ending.defect("a worker has panicked");
        };
        let mut wakes = Vec::new();
        let mut turn = Turn {
            host: self,
            index,
            now: inner.around.clock.now(),
            synced: inner.around.commits.announced(),
            state: &mut state,
            wakes: &mut wakes,
            queued: false,
        };
        inputs(&mut turn);
        let queued = turn.queued;
        let next = state.core.next_timer().map_or(NEVER, |next| next.0);
        slot.next.store(next, Ordering::SeqCst);
        drop(state);
        if next < inner.armed.load(Ordering::SeqCst) {
            inner.rearm.notify_one();
        }
        wakes.into_iter().for_each(Wake::wake);
        if queued {
            inner.queued.notify_one();
        }
    }
}

impl<C> State<C> {
    fn expect(&mut self, waiter: Waiter) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.waiting.insert(ticket, waiter);
        ticket
    }
}

/// A worker while it is locked.
struct Turn<'a, C> {
    host: &'a Host<C>,
    index: usize,
    now: Now,
    synced: CommitNumber,
    state: &'a mut State<C>,
    wakes: &'a mut Vec<Wake>,
    /// Whether anything was queued for commit.
    queued: bool,
}

impl<C: DataCore> Turn<'_, C> {
    fn message(&mut self, envelope: Envelope) {
        let Envelope { from, placement, trace, message, synced: _ } = envelope;
        if let Message::Data(partition, message) = message {
            let trace = self.state.spans.received(self.now.mono, from, trace, partition, &message);
            self.input(Input::Message { from, placement, trace, partition, message });
        }
    }

    /// Steps the worker, and carries out what it says until nothing is left.
    fn input(&mut self, input: Input) {
        let mut effects = std::mem::take(&mut self.state.effects);
        self.state.spans.before(&input);
        let mut next = Some(input);
        while let Some(input) = next {
            self.state.core.step(self.now, input, &mut effects);
            effects.drain(..).for_each(|effect| self.carry_out(effect));
            next = self.state.answers.pop_front();
        }
        self.state.spans.after();
        self.state.effects = effects;
    }

    fn carry_out(&mut self, effect: Effect) {
        let around = &self.host.0.around;
        match effect {
            Effect::Read { token, space, key } => self.read(token, space, &key),
            Effect::Scan { token, space, prefix, after, bytes_max } => {
                self.scan(token, space, prefix, after, bytes_max);
            }
            Effect::Commit { id, changes, clock } => {
                self.state.spans.committing(id, &changes);
                around.commits.submit(self.index, id.0, changes, clock);
                self.queued = true;
            }
            Effect::Send { to, trace, partition, message } => {
                let spans = &mut self.state.spans;
                let trace = spans.sent(self.now.mono, to, trace, partition, &message);
                let message = Message::Data(partition, message);
                let (placement, synced) = (self.state.placement, self.synced);
                let envelope = Envelope { from: around.me, placement, synced, trace, message };
                self.wakes.extend(around.peers.send(to, &envelope));
            }
            Effect::Reply(ticket, outcome) => {
                if let Some(Waiter::Op(answer)) = self.state.waiting.remove(&ticket) {
                    // A client that has gone away is not told.
                    let _ = answer.send(outcome);
                }
            }
            Effect::ScanReply(ticket, page) => {
                if let Some(Waiter::Scan(answer)) = self.state.waiting.remove(&ticket) {
                    let _ = answer.send(page);
                }
            }
            Effect::Reachable(peer, reachable) => {
                around.control.input(ControlInput::Answering(peer, reachable));
            }
            Effect::Progress(progress) => {
                if let Ok(mut told) = self.host.0.progress.lock()
                    && let Some(progress) = told.told(self.index, progress)
                {
                    around.control.input(ControlInput::Progress(progress));
                }
            }
            Effect::Event(event) => self.host.log(&event),
        }
    }

    fn read(&mut self, token: Token, space: Space, key: &[u8]) {
        let found = self.host.0.around.store.get(space, key);
        let found = found.map_err(|error| self.host.read_failed(&error));
        self.state.answers.push_back(Input::ReadDone(token, found));
    }

    /// A scan may take long: it is carried out elsewhere, and its answer comes as an input.
    fn scan(&self, token: Token, space: Space, prefix: Bytes, after: Bytes, bytes_max: usize) {
        let (host, index) = (self.host.clone(), self.index);
        self.host.0.around.runtime.spawn_blocking(move || {
            let page = host.0.around.store.scan(space, &prefix, &after, bytes_max);
            let page: Result<Page, ReadFailed> = page.map_err(|error| host.read_failed(&error));
            host.turn(index, |turn| turn.input(Input::Scanned(token, page)));
        });
    }
}

impl<C> Host<C> {
    fn read_failed(&self, error: &StoreError) -> ReadFailed {
        if let Some(others) = self.0.quiet.allow() {
            let source = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, source, others, "the store could not be read");
        }
        ReadFailed
    }

    /// A node as people know it.
    fn name(&self, id: NodeId) -> String {
        let view = self.0.view.read().ok();
        let name = view.as_ref().and_then(|view| view.as_ref()?.name_of(id));
        name.map_or_else(|| id.to_string(), ToString::to_string)
    }

    fn log(&self, event: &Event) {
        match event {
            Event::RecordLost(partition, key) => {
                tracing::error!(%partition, ?key, "a stored record is damaged; it is being rebuilt");
            }
            Event::RecordRebuilt(partition, key) => {
                tracing::warn!(%partition, ?key, "a damaged record was rebuilt from the other homes");
            }
            Event::TenureEnded(partition, why) => {
                tracing::info!(%partition, why, "writes go on under a new actor");
            }
            Event::HintUnknown { from, name, target } => {
                let peer = name.as_ref().map_or_else(|| from.to_string(), ToString::to_string);
                tracing::warn!(peer, %target, "a peer wants a hint kept for a node that is no member");
            }
            Event::HintsFull => tracing::warn!(
                "there is no room for further hints (hints.max_bytes): writes find fewer places until \
                 those for whom hints are kept are back"
            ),
            Event::ReplayStarted(target) => tracing::info!(peer = %target, "replaying hints"),
            Event::ReplayDone(target, delivered) => {
                tracing::info!(peer = %target, delivered, "no hint is left for this node");
            }
            Event::Mended(peer, records) => {
                let peer = self.name(*peer);
                tracing::debug!(peer, records, "records that differed were exchanged");
            }
            Event::PartitionRebuilt(partition, left) => {
                tracing::debug!(%partition, left, "a lost partition was rebuilt from the other homes");
                if *left == 0 {
                    tracing::info!("every lost partition was rebuilt from the other homes");
                }
            }
            Event::SyncRefused(peer, why) => {
                if let Some(others) = self.0.quiet.allow() {
                    let peer = self.name(*peer);
                    tracing::warn!(
                        peer,
                        why,
                        others,
                        "a comparison was ended: the peer's part made no sense"
                    );
                }
            }
            Event::TreeRebuilt(partition) => {
                tracing::warn!(%partition, "a hash tree disagreed with the store, and was made anew");
            }
            Event::RoundOver(partition, records) => {
                tracing::debug!(%partition, records, "dead records were collected everywhere");
            }
            Event::RoundWaits(partition, members) => {
                tracing::warn!(%partition, ?members, "a round of collection waits for these members");
            }
            Event::SetAside(partition) => {
                tracing::error!(
                    %partition,
                    "a round of collection was closed without this copy: it is set aside"
                );
            }
        }
    }
}

/// The answer to a request that the node's end has cut off.
fn cut_off(is_put: bool) -> Failure {
    if is_put {
        Failure { maybe_applied: true, ..Failure::before(Reason::QuorumNotReached) }
    } else {
        Failure::before(Reason::ShuttingDown)
    }
}
