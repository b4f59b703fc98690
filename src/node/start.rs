//! Wiring: from a data folder and bound ports to a node that runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ending::Ending;
use super::handle::{About, Beats, NodeHandle, Reports};
use super::hint_age::OldestHint;
use super::host::{DataCore, Host, Surroundings};
use super::metrics::Meters;
use super::orders::Orders;
use super::wires::{Completions, News, Switchboard, tell_news};
use crate::config::{Seed as ConfiguredSeed, Settings};
use crate::gossip::{ControlCore, Gossip, Mailbox, Options, Outlet, Seed, SystemClock};
use crate::peers::{Inbox, Limits, Peers};
use crate::protocol::control::{self, ControlInput, Identity};
use crate::store::{self, Begin, Committer, DataFolder, Loss, Opened, Store, StoreOptions};
use crate::telemetry::Traces;
use crate::types::{Boot, LANES, NodeId, Now, Stamp};

/// The data path's loop turns at least this often, so that one can see that it does.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Everything that cores start from.
#[derive(Debug)]
pub struct Start<'a> {
    /// The configuration.
    pub settings: &'a Settings,
    /// Who this node is.
    pub identity: Identity,
    /// How many workers there are.
    pub workers: usize,
    /// The clock's last value in the newest commit.
    pub clock: Stamp,
    /// What the control core has made durable: names and values, by name.
    pub meta: Vec<(bytes::Bytes, bytes::Bytes)>,
    /// Now.
    pub now: Now,
}

/// Makes the cores of a node.
pub trait Cores {
    /// A worker.
    type Worker: DataCore;
    /// The control core.
    type Control: ControlCore + Reports;

    /// The worker of this index.
    fn worker(&self, start: &Start<'_>, index: usize) -> Self::Worker;

    /// The control core. To be made last: it takes what was made durable.
    ///
    /// # Errors
    /// A configuration or a data folder that cannot be used.
    fn control(&self, start: Start<'_>) -> anyhow::Result<Self::Control>;
}

/// What was opened before anything runs: may take a while, and blocks.
pub struct Prepared {
    opened: Opened,
    meta: Vec<(bytes::Bytes, bytes::Bytes)>,
    /// Acknowledged writes that the disk has lost.
    loss: Option<Loss>,
}

/// A node that runs.
pub struct Node<W, K> {
    /// For the services.
    pub handle: NodeHandle<W, K>,
    switchboard: Arc<Switchboard<W, K>>,
    gossip: Gossip,
    tasks: CancellationToken,
    /// Holds the folder's lock until everything else is gone.
    _folder: DataFolder,
}

impl Prepared {
    /// Opens the data folder and reads what the control core needs.
    ///
    /// # Errors
    /// Each says what to do.
    pub fn open(settings: &Settings) -> anyhow::Result<Self> {
        let options = StoreOptions {
            cache_bytes: settings.storage.cache,
            min_free: settings.storage.min_free,
        };
        let since = SystemClock::start().now().wall;
        let partitions = settings.control().partitions;
        let begin = |durable: &[(bytes::Bytes, bytes::Bytes)], has_past, before| {
            let id = NodeId(rand::random());
            (id, control::forget(durable, has_past, before, id, partitions, since))
        };
        let (node, name) = (&settings.node, &settings.node.name);
        let (mut opened, loss) = store::open_anew(&node.data, name, &options, &begin)?;
        let prefix = control::META_PREFIX;
        let meta = store::scan_meta(&*opened.store, prefix).context("reading the data folder")?;
        if control::was_removed(&meta, opened.folder.id()) {
            return Self::begin_empty(settings, opened, &options, &begin);
        }
        // A disk that has forgotten something says so before it is known under another id.
        if let Some(id) = control::goes_on_as(&meta).filter(|id| *id != opened.folder.id()) {
            opened.folder.become_disk(id)?;
        }
        Ok(Self { opened, meta, loss })
    }

    /// The disk was removed from its cluster: what it holds counts no more, and is set aside.
    fn begin_empty(
        settings: &Settings,
        opened: Opened,
        options: &StoreOptions,
        begin: Begin<'_>,
    ) -> anyhow::Result<Self> {
        let before = opened.folder.id();
        let aside = store::set_aside(opened)?;
        let (node, name) = (&settings.node, &settings.node.name);
        // That nothing is there is no loss: it was meant.
        let (mut opened, _) = store::open_anew(&node.data, name, options, begin)?;
        if opened.folder.id() == before {
            opened.folder.become_disk(NodeId(rand::random()))?;
        }
        let prefix = control::META_PREFIX;
        let meta = store::scan_meta(&*opened.store, prefix).context("reading the data folder")?;
        tracing::warn!(
            "the disk {before} of this node was removed from its cluster: what it held is kept in {} and \
             is used no more; the node begins anew as the disk {}",
            aside.display(),
            opened.folder.id()
        );
        Ok(Self { opened, meta, loss: None })
    }
}

impl Prepared {
    /// The id of the data folder's disk.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.opened.folder.id()
    }
}

/// On so many processors one thread serves requests: the committer, the gossip and the engine's
/// own threads keep the others busy, and a runtime of several threads costs more than it brings.
const PROCESSORS_FOR_ONE: usize = 2;

/// How many threads serve requests.
#[must_use]
pub fn threads(settings: &Settings) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match settings.runtime.threads {
        0 if processors() <= PROCESSORS_FOR_ONE => 1,
        0 => processors(),
        threads => threads,
    }
}

impl<W: DataCore, K: ControlCore + Reports> Node<W, K> {
    /// Starts a node on the present runtime; the services are not started.
    ///
    /// # Errors
    /// If the system refuses a thread or a socket.
    pub fn start<C: Cores<Worker = W, Control = K>>(
        settings: &Settings,
        prepared: Prepared,
        internal: std::net::TcpListener,
        gossip: std::net::UdpSocket,
        cores: &C,
        traces: Traces,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let Prepared { opened: Opened { folder, store, recovered, mark }, meta, loss } = prepared;
        if let Some(loss) = loss {
            tracing::warn!(
                "{loss}: writes that this node had acknowledged are missing from its disk; it goes on \
                 as another disk ({}), and is rebuilt from the other replicas",
                folder.id()
            );
        }
        let store: Arc<dyn Store> = store;
        let (clock, ending) = (SystemClock::start(), Ending::default());
        let (mailbox, letters) = Mailbox::new();

        let identity = Identity {
            id: folder.id(),
            name: folder.name().clone(),
            generation: folder.generation(),
            boot: Boot(rand::random()),
            recovered: recovered.number,
        };
        let me = identity.id;
        let about = About::new(&identity, settings);
        let workers = threads(settings).next_power_of_two().min(usize::from(LANES));
        let now = clock.now();
        let start = Start { settings, identity, workers, clock: recovered.clock, meta, now };
        let made: Vec<W> = (0..workers).map(|index| cores.worker(&start, index)).collect();
        let core = Arc::new(Mutex::new(cores.control(start)?));

        let durability = settings.storage.durability;
        let completions = Completions::new(&mailbox, &ending, clock);
        let reports = completions.clone();
        let committer =
            Committer::start(store.clone(), durability, mark, recovered, move |batch| {
                reports.push(batch);
            });
        let committer = Arc::new(committer.context("starting the committer")?);
        let peers = Peers::new(Limits::default(), runtime.clone());
        let meters = Meters {
            calls: Arc::default(),
            store: store.clone(),
            oldest_hint: OldestHint::default(),
        };
        let around = Surroundings {
            me,
            clock,
            store: store.clone(),
            commits: committer.clone(),
            peers: peers.clone(),
            control: mailbox.clone(),
            runtime,
            ending: ending.clone(),
            traces,
        };
        let (news, news_of_control) = mpsc::unbounded_channel();
        let switchboard = Arc::new(Switchboard {
            me,
            host: Host::new(around, made),
            core: core.clone(),
            peers,
            committer,
            mailbox: mailbox.clone(),
            orders: Orders::default(),
            notes: AtomicU64::new(1),
            news,
            synced: Arc::default(),
            clock,
            ending,
        });
        let tasks = CancellationToken::new();
        let data_beat = spawn_tasks(&tasks, &switchboard, &completions, news_of_control);
        let note = note_cluster(switchboard.host.clone(), settings.clone());
        Spawn { tasks: &tasks, ending: &switchboard.ending }.task("the cluster's name", note);

        let inbox: Arc<dyn Inbox> = switchboard.clone();
        let listener = tokio::net::TcpListener::from_std(internal)?;
        switchboard.peers.start(listener, Arc::downgrade(&inbox));
        let outlet: Arc<dyn Outlet> = switchboard.clone();
        let options = Options { socket: gossip, seeds: seeds(settings), clock };
        let gossip = Gossip::start(core, (mailbox, letters), outlet, options)
            .context("starting the gossip thread")?;
        let beats = Beats { data: data_beat, gossip: gossip.beat_cell() };
        let handle = NodeHandle::new(about, switchboard.clone(), completions, beats, meters, store);
        Ok(Self { handle, switchboard, gossip, tasks, _folder: folder })
    }

    /// How it ends.
    #[must_use]
    pub fn ending(&self) -> &Ending {
        &self.switchboard.ending
    }

    /// No new requests from now on.
    pub fn drain(&self) {
        self.switchboard.mailbox.input(ControlInput::Draining);
    }

    /// Ends everything: what was acknowledged is on disk, and so is the mark.
    pub fn stop(mut self) {
        self.switchboard.host.give_up();
        self.switchboard.committer.stop();
        self.switchboard.peers.stop();
        self.gossip.stop();
        self.tasks.cancel();
    }
}

/// Starts everything that must go on until the node ends; the last one notes that its loop turns.
fn spawn_tasks<W: DataCore, K: ControlCore>(
    tasks: &CancellationToken,
    switchboard: &Switchboard<W, K>,
    completions: &Arc<Completions>,
    news: mpsc::UnboundedReceiver<News>,
) -> Arc<AtomicU64> {
    let Switchboard { host, synced, mailbox, clock, ending, .. } = switchboard;
    let beat = Arc::new(AtomicU64::new(clock.mono().0));
    let spawn = Spawn { tasks, ending };
    spawn.task("timers", host.clone().keep_time());
    spawn.task("commits", host.clone().keep_committing());
    spawn.task("commit reports", completions.clone().deliver(host.clone()));
    spawn.task("news", tell_news(host.clone(), news));
    spawn.task("synced numbers", synced.clone().tell(mailbox.clone()));
    spawn.task("the beat", keep_beat(*clock, beat.clone()));
    beat
}

/// Shows that the data path's loop turns.
async fn keep_beat(clock: SystemClock, beat: Arc<AtomicU64>) {
    loop {
        beat.store(clock.mono().0, Ordering::Relaxed);
        tokio::time::sleep(BEAT_EVERY).await;
    }
}

/// Once the cluster is founded, leaves its name beside the data, for `serve --check`. Nothing
/// depends on it but what an operator is told.
async fn note_cluster<W: DataCore>(host: Host<W>, settings: Settings) {
    while host.view().is_none() {
        tokio::time::sleep(BEAT_EVERY).await;
    }
    let note = move || DataFolder::note_cluster(&settings.node.data, &settings.cluster.name);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(note).await {
        tracing::warn!(%error, "the cluster's name could not be noted in the data folder");
    }
}

/// Starts tasks that must not end before the node does.
struct Spawn<'a> {
    tasks: &'a CancellationToken,
    ending: &'a Ending,
}

impl Spawn<'_> {
    fn task(&self, what: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (tasks, ending) = (self.tasks.clone(), self.ending.clone());
        let work = tokio::spawn(async move {
            tokio::select! {
                () = tasks.cancelled() => {}
                () = work => {}
            }
        });
        tokio::spawn(async move {
            if work.await.is_err_and(|error| error.is_panic()) {
                ending.defect(&format!("the task for {what} has panicked"));
            }
        });
    }
}

fn seeds(settings: &Settings) -> Vec<Seed> {
    let seed = |seed: &ConfiguredSeed| match seed {
        ConfiguredSeed::Host(at) => Seed::one(at.host(), at.port()),
        ConfiguredSeed::Dns(at) => Seed::all(at.host(), at.port()),
    };
    settings.bootstrap.seeds.iter().map(seed).collect()
}
