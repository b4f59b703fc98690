//! Wiring: from a data folder and bound ports to a node that runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ending::Ending;
use super::handle::{About, NodeHandle};
use super::host::{DataCore, Host, Surroundings};
use super::wires::{Completions, Switchboard, SyncedBoard, tell_news};
use crate::config::{Seed as ConfiguredSeed, Settings};
use crate::gossip::{ControlCore, Gossip, Mailbox, Options, Outlet, Seed, SystemClock};
use crate::peers::{Inbox, Limits, Peers};
use crate::protocol::control::{ControlInput, Identity};
use crate::store::{self, COMMIT_KEY, Committer, DataFolder, Opened, Store, StoreOptions};
use crate::types::{Boot, LANES, Now, Stamp};

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
    type Control: ControlCore + super::handle::Reports;

    /// The worker of this index.
    fn worker(&self, start: &Start<'_>, index: usize) -> Self::Worker;

    /// The control core. To be made last: it takes what was made durable.
    fn control(&self, start: Start<'_>) -> Self::Control;
}

/// What was opened before anything runs: may take a while, and blocks.
pub struct Prepared {
    opened: Opened,
    meta: Vec<(bytes::Bytes, bytes::Bytes)>,
}

/// A node that runs.
pub struct Node<W, K> {
    /// For the services.
    pub handle: NodeHandle<W, K>,
    /// How it ends.
    pub ending: Ending,
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
        let opened = store::open(&settings.node.data, &settings.node.name, &options)?;
        let mut meta = store::scan_meta(&*opened.store, b"").context("reading the data folder")?;
        meta.retain(|(key, _)| key != COMMIT_KEY);
        Ok(Self { opened, meta })
    }
}

/// How many threads serve requests.
#[must_use]
pub fn threads(settings: &Settings) -> usize {
    match settings.runtime.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    }
}

impl<W: DataCore, K: ControlCore + super::handle::Reports> Node<W, K> {
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
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let Prepared { opened: Opened { folder, store, recovered, mark }, meta } = prepared;
        let store: Arc<dyn Store> = store;
        let (clock, ending) = (SystemClock::start(), Ending::default());
        let (mailbox, letters) = Mailbox::new();

        let durability = settings.storage.durability;
        let completions =
            Completions::new(mailbox.clone(), ending.clone(), clock, store.clone(), durability);
        let reports = completions.clone();
        let committer =
            Committer::start(store.clone(), durability, mark, recovered, move |batch| {
                reports.push(batch);
            });
        let committer = Arc::new(committer.context("starting the committer")?);

        let identity = Identity {
            id: folder.id(),
            name: folder.name().clone(),
            generation: folder.generation(),
            boot: Boot(rand::random()),
            recovered: recovered.number,
        };
        let workers = threads(settings).next_power_of_two().min(usize::from(LANES));
        let (me, name, now) = (identity.id, identity.name.clone(), clock.now());
        let start = Start { settings, identity, workers, clock: recovered.clock, meta, now };
        let made: Vec<W> = (0..workers).map(|index| cores.worker(&start, index)).collect();
        let core = Arc::new(Mutex::new(cores.control(start)));

        let peers = Peers::new(Limits::default(), runtime.clone());
        let around = Surroundings {
            me,
            clock,
            store,
            commits: committer.clone(),
            peers: peers.clone(),
            control: mailbox.clone(),
            runtime: runtime.clone(),
            ending: ending.clone(),
        };
        let host = Host::new(around, made);
        let (news, news_of_control) = mpsc::unbounded_channel();
        let synced = Arc::<SyncedBoard>::default();
        let switchboard = Arc::new(Switchboard {
            me,
            host: host.clone(),
            core: core.clone(),
            peers: peers.clone(),
            committer: committer.clone(),
            mailbox: mailbox.clone(),
            news,
            synced: synced.clone(),
            clock,
            ending: ending.clone(),
        });

        let tasks = CancellationToken::new();
        let beat = Arc::new(AtomicU64::new(clock.mono().0));
        let turn = beat.clone();
        let spawn = Spawn { tasks: &tasks, ending: &ending };
        spawn.task("timers", host.clone().keep_time());
        spawn.task("commit reports", completions.clone().deliver(host.clone()));
        spawn.task("news", tell_news(host.clone(), news_of_control));
        spawn.task("synced numbers", synced.tell(mailbox.clone()));
        spawn.task("beat", async move {
            loop {
                turn.store(clock.mono().0, Ordering::Relaxed);
                tokio::time::sleep(BEAT_EVERY).await;
            }
        });

        let inbox: Arc<dyn Inbox> = switchboard.clone();
        let listener = tokio::net::TcpListener::from_std(internal)?;
        peers.start(listener, Arc::downgrade(&inbox));
        let outlet: Arc<dyn Outlet> = switchboard.clone();
        let options = Options { socket: gossip, seeds: seeds(settings), clock };
        let gossip = Gossip::start(core.clone(), (mailbox.clone(), letters), outlet, options)
            .context("starting the gossip thread")?;

        let about = About { id: me, name, cluster_name: settings.cluster.name.clone(), durability };
        let gossip_beat = gossip.beat_cell();
        let handle = NodeHandle::new(super::handle::Shared {
            about,
            host,
            core,
            committer,
            completions,
            peers,
            mailbox,
            clock,
            data_beat: beat,
            gossip_beat,
            ending: ending.clone(),
        });
        Ok(Self { handle, ending, switchboard, gossip, tasks, _folder: folder })
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
