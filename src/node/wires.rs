//! What joins the drivers to the cores: who hears of what, and on whose thread.
//!
//! ```text
//!   streams ──messages──▶ workers, on the stream's task          ──control──▶ gossip thread
//!   committer ──reports──▶ queue ──one wake-up a batch──▶ workers
//!             └─the control core's──▶ gossip thread
//!   gossip thread ──news──▶ queue ──▶ workers                    (never waits for a worker)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::ending::Ending;
use super::host::{Commits, DataCore, Host};
use super::orders::Orders;
use crate::gossip::{ControlCore, Mail, Mailbox, Outlet, SystemClock};
use crate::peers::{Inbox, Peers};
use crate::protocol::control::{Agreed, ConnId, ControlInput, OrderId, Refusal};
use crate::protocol::message::{Envelope, Message};
use crate::protocol::placement::View;
use crate::protocol::step::{Change, CommitId, Conditions, Input, Reach};
use crate::store::{Committer, Completion, NOTES, Submission};
use crate::types::{CommitNumber, Mono, NodeId, Stamp};

/// The control core's name among the committer's sources, beside [`NOTES`]; workers are numbered
/// from 0.
const CONTROL: u32 = u32::MAX;
/// What peers have synced is told to the control core this often at most.
const SYNCED_EVERY: Duration = Duration::from_millis(200);

impl Commits for Committer {
    fn submit(&self, worker: usize, id: u64, changes: Vec<Change>, clock: Stamp) {
        // There are at most 64 workers.
        let source = u32::try_from(worker).unwrap_or(NOTES - 1);
        self.queue(Submission { source, id, changes, clock });
    }

    fn begin(&self) {
        self.commit_here();
    }

    fn announced(&self) -> CommitNumber {
        Committer::announced(self)
    }
}

/// Reports of the committer on their way to the workers.
pub(super) struct Completions {
    queue: Mutex<Vec<Completion>>,
    ready: Notify,
    mailbox: Mailbox,
    ending: Ending,
    clock: SystemClock,
    /// When a submission was last refused, in microseconds; zero if none was.
    refused: AtomicU64,
}

impl Completions {
    pub(super) fn new(mailbox: &Mailbox, ending: &Ending, clock: SystemClock) -> Arc<Self> {
        let (mailbox, ending) = (mailbox.clone(), ending.clone());
        let (queue, ready, refused) = (Mutex::default(), Notify::new(), AtomicU64::new(0));
        Arc::new(Self { queue, ready, mailbox, ending, clock, refused })
    }

    /// Takes in a batch of reports, on the committer's thread.
    pub(super) fn push(&self, reports: &[Completion]) {
        let mut queue = lock(&self.queue);
        for report in reports {
            match report {
                Completion::Done { source: CONTROL, through } => {
                    self.mailbox.send(Mail::Stored(*through));
                }
                Completion::Refused { source: CONTROL, id } => {
                    self.mailbox.send(Mail::Refused(*id));
                }
                Completion::Done { source: NOTES, .. }
                | Completion::Refused { source: NOTES, .. } => {}
                Completion::Failed(reason) => {
                    self.ending.fail(format!("the store failed: {reason}"));
                }
                Completion::Done { .. } => queue.push(report.clone()),
                Completion::Refused { .. } => {
                    self.refused.store(self.clock.mono().0, Ordering::Relaxed);
                    queue.push(report.clone());
                }
            }
        }
        drop(queue);
        self.ready.notify_one();
    }

    /// Hands the reports to the workers, for ever.
    pub(super) async fn deliver<W: DataCore>(self: Arc<Self>, host: Host<W>) {
        let mut reports = Vec::new();
        let mut of_workers: BTreeMap<usize, Vec<Input>> = BTreeMap::new();
        loop {
            self.ready.notified().await;
            std::mem::swap(&mut *lock(&self.queue), &mut reports);
            for report in reports.drain(..) {
                let (source, input) = match report {
                    Completion::Done { source, through } => {
                        (source, Input::Committed(CommitId(through)))
                    }
                    Completion::Refused { source, id } => (source, Input::Refused(CommitId(id))),
                    Completion::Failed(_) => continue,
                };
                of_workers.entry(source as usize).or_default().push(input);
            }
            for (worker, inputs) in &mut of_workers {
                if !inputs.is_empty() {
                    host.committed(*worker, inputs.drain(..));
                }
            }
        }
    }

    /// When a submission of a worker was last refused.
    pub(super) fn refused(&self) -> Option<Mono> {
        Some(self.refused.load(Ordering::Relaxed)).filter(|at| *at > 0).map(Mono)
    }
}

/// News of the control core for the workers.
pub(super) enum News {
    View(Arc<View>),
    Reachability(NodeId, Reach),
    Conditions(Conditions),
}

/// Hands news to the workers, for ever.
pub(super) async fn tell_news<W: DataCore>(host: Host<W>, mut news: mpsc::UnboundedReceiver<News>) {
    while let Some(news) = news.recv().await {
        match news {
            News::View(view) => host.set_view(&view),
            News::Reachability(peer, reach) => host.set_reachability(peer, reach),
            News::Conditions(conditions) => host.set_conditions(conditions),
        }
    }
}

/// What peers have said that they have synced, on its way to the control core.
#[derive(Default)]
pub(super) struct SyncedBoard {
    /// The highest number of each peer, and whether the core has been told.
    numbers: Mutex<BTreeMap<NodeId, (CommitNumber, bool)>>,
    changed: Notify,
}

impl SyncedBoard {
    fn note(&self, peer: NodeId, batch: &[Envelope]) {
        let Some(synced) = batch.iter().map(|envelope| envelope.synced).max() else { return };
        let mut numbers = lock(&self.numbers);
        let known = numbers.entry(peer).or_default();
        if synced > known.0 {
            *known = (synced, true);
            drop(numbers);
            self.changed.notify_one();
        }
    }

    /// Tells the control core, for ever: often enough, and not with every message.
    pub(super) async fn tell(self: Arc<Self>, mailbox: Mailbox) {
        loop {
            self.changed.notified().await;
            for (peer, (number, fresh)) in lock(&self.numbers).iter_mut() {
                if std::mem::take(fresh) {
                    mailbox.input(ControlInput::Synced(*peer, *number));
                }
            }
            tokio::time::sleep(SYNCED_EVERY).await;
        }
    }
}

/// Joins streams, workers, committer and control core.
pub(super) struct Switchboard<W, K> {
    pub(super) me: NodeId,
    pub(super) host: Host<W>,
    pub(super) core: Arc<Mutex<K>>,
    pub(super) peers: Peers,
    pub(super) committer: Arc<Committer>,
    pub(super) mailbox: Mailbox,
    pub(super) orders: Orders,
    /// How many notes were kept.
    pub(super) notes: AtomicU64,
    pub(super) news: mpsc::UnboundedSender<News>,
    pub(super) synced: Arc<SyncedBoard>,
    pub(super) clock: SystemClock,
    pub(super) ending: Ending,
}

impl<W: DataCore, K: ControlCore> Inbox for Switchboard<W, K> {
    fn messages(&self, from: NodeId, batch: &mut Vec<Envelope>) {
        self.synced.note(from, batch);
        self.host.messages(batch);
        for envelope in batch.drain(..) {
            if let Message::Control(bytes) = envelope.message {
                self.mailbox.input(ControlInput::Message(from, bytes));
            }
        }
    }

    fn control(&self, input: ControlInput) {
        self.mailbox.input(input);
    }

    fn hello(&self) -> Bytes {
        lock(&self.core).hello(self.clock.now())
    }
}

impl<W: DataCore, K: ControlCore> Outlet for Switchboard<W, K> {
    fn send(&self, to: NodeId, message: Bytes) {
        let placement = self.host.view().map(|view| view.newest().tag()).unwrap_or_default();
        let (synced, message) = (self.committer.announced(), Message::Control(message));
        let envelope = Envelope { from: self.me, placement, synced, trace: None, message };
        if let Some(wake) = self.peers.send(to, &envelope) {
            wake.wake();
        }
    }

    fn connect(&self, addresses: &BTreeSet<SocketAddr>) {
        self.peers.connect(addresses);
    }

    fn accept(&self, conn: ConnId, peer: NodeId) {
        self.peers.accept(conn, peer);
    }

    fn reject(&self, conn: ConnId, reason: String) {
        self.peers.reject(conn, reason);
    }

    fn persist(&self, id: u64, changes: Vec<Change>) {
        // The control core gives out no stamps: the batch's clock is that of the workers.
        let clock = Stamp::default();
        self.committer.submit(Submission { source: CONTROL, id, changes, clock });
    }

    fn note(&self, changes: Vec<Change>) {
        let (id, clock) = (self.notes.fetch_add(1, Ordering::Relaxed), Stamp::default());
        self.committer.submit(Submission { source: NOTES, id, changes, clock });
    }

    fn view(&self, view: Arc<View>) {
        let _ = self.news.send(News::View(view));
    }

    fn reachability(&self, peer: NodeId, reach: Reach) {
        let _ = self.news.send(News::Reachability(peer, reach));
    }

    fn conditions(&self, conditions: Conditions) {
        let _ = self.news.send(News::Conditions(conditions));
    }

    fn stop(&self, reason: String) {
        self.ending.fail(reason);
    }

    fn come_back(&self, reason: String) {
        self.ending.come_back(reason);
    }

    fn decommissioned(&self, reason: String) {
        self.ending.leave(&reason);
    }

    fn answer(&self, id: OrderId, answer: Result<Agreed, Refusal>) {
        self.orders.answer(id, answer);
    }
}

/// Nothing under these locks can be left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
