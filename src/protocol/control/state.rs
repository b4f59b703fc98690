//! The control core's state, its timers, and what follows after every input.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::admission::{ADMISSION_PREFIX, Admission, VOTE_KEY, Verdict, Vote};
use super::claim::{ANEW_KEY, Anew, Claims, fenced};
use super::founding::{Cluster, FOUNDED_KEY, Founding, PROMISE_KEY, Standing, whole};
use super::marks::{MARK_PREFIX, Marks};
use super::peers::Peers;
use super::plan::{PLAN_KEY, Plan, Works};
use super::rejection::Strangers;
use super::report::Traffic;
use super::ring::Ring;
use super::swim::{GossipId, Swim, SwimTimer};
use super::versions::StoredRing;
use super::views::Views;
use super::wire::{
    ADDRESS_BYTES_MAX, CLUSTER_NAME_BYTES_MAX, Descriptor, Founded, Hello, PeerRecord, Promise,
    Trackers, decode_record,
};
use super::{ConnId, ControlConfig, ControlEffect, ControlInput, Identity, Level, OrderId};
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::{MEMBERS_MAX, Placement, View, ZONE_BYTES_MAX};
use crate::protocol::step::Conditions;
use crate::types::{ClusterId, Mono, NodeId, NodeName, Now};

/// What the names of everything that the control core stores begin with.
pub const META_PREFIX: &[u8] = b"control/";
/// Where nodes' records are stored, so that a restarted node knows whom to dial: this and a name.
pub(super) const PEER_PREFIX: &[u8] = b"control/peer/";
/// Timers that are late by more than this were not due: this process, or its machine, stood still.
const LAG_MAX_MICROS: u64 = 1_000_000;

/// Why a control core cannot start. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// What is stored cannot be read.
    #[error(
        "the stored entry `{0}` is damaged: restore the data folder, or start with an empty one"
    )]
    Damaged(String),
    /// The data folder is another cluster's.
    #[error(
        "this data folder belongs to another cluster than {0:?}: check cluster.name and the folder"
    )]
    OtherCluster(String),
    /// The data folder is another node's.
    #[error(
        "this data folder is not that of {name} in its cluster ({why}): check node.name and the \
         folder; a node that is to have an empty disk starts with an empty folder"
    )]
    OtherNode {
        /// The configured name.
        name: NodeName,
        /// What the folder says.
        why: String,
    },
    /// The data folder's disk was replaced.
    #[error("{0}")]
    Fenced(String),
}

/// Something to be done later.
pub(super) enum Timer {
    Swim(SwimTimer),
    /// Ask members for members: never stops.
    Announce,
    /// Compare notes with a random peer: never stops.
    Exchange,
    /// Keep what peers have announced.
    Notes,
    /// Come back after having been declared dead.
    Rejoin,
    /// A node that we suspected has not spoken up.
    Condemn(GossipId, u16),
    /// Ask for the place of this node's name.
    Claim,
}

/// What becomes durable with a numbered commit.
pub(super) enum Pending {
    Promise(Promise),
    Found(Box<Cluster>),
    /// What is then told to a claimant.
    Verdict(NodeId, Box<Verdict>),
    Admitted(Vec<Admission>),
    /// Placement versions that were heard.
    Versions(Vec<Arc<Placement>>),
    /// This disk's.
    Trackers(Trackers),
    /// Everything before this version has retired; this disk's trackers, if it has left the ring.
    Retired(PlacementTag, Option<Trackers>),
    /// A version that this node has made, and for which order.
    Planned(Arc<Placement>, Option<OrderId>),
    /// There is nothing more to do of the last plan.
    PlanDone,
    /// This disk has forgotten something: its successor's id, and markers; and why.
    Forgotten(String),
}

/// The control core of one node. See the module.
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one node")]
pub struct Control {
    pub(super) config: ControlConfig,
    pub(super) identity: Identity,
    pub(super) now: Now,
    pub(super) began: Mono,
    pub(super) rng: ChaCha8Rng,
    pub(super) effects: Vec<ControlEffect>,
    pub(super) peers: Peers,
    pub(super) founding: Founding,
    pub(super) swim: Swim,
    pub(super) marks: Marks,
    pub(super) views: Views,
    /// Once the cluster is known to be founded.
    pub(super) ring: Option<Ring>,
    pub(super) works: Works,
    pub(super) strangers: Strangers,
    pub(super) traffic: Traffic,
    pub(super) seeds: Vec<SocketAddr>,
    /// Streams that we opened, until they end, and where to.
    pub(super) dialled: BTreeMap<ConnId, SocketAddr>,
    /// Addresses at which we were told that our disk is not ours.
    pub(super) disowned_by: BTreeSet<SocketAddr>,
    /// Addresses behind which a node was found, where they are not its own.
    pub(super) aliases: BTreeMap<SocketAddr, NodeId>,
    timers: BTreeMap<(Mono, u64), Timer>,
    timer_count: u64,
    pub(super) persist_count: u64,
    pub(super) pending: VecDeque<(u64, Pending)>,
    /// Names of nodes whose records are to be noted.
    pub(super) noteworthy: BTreeSet<NodeName>,
    pub(super) notes_at: Option<Mono>,
    pub(super) notes_armed: bool,
    pub(super) connect: BTreeSet<SocketAddr>,
    pub(super) view: Option<Arc<View>>,
    pub(super) conditions: Conditions,
    pub(super) sights_changed: bool,
    pub(super) rejoin_armed: bool,
    pub(super) rejoins: u32,
    pub(super) rejoined: Option<Mono>,
    /// Founders whose different promise has been told of, and by which round.
    pub(super) differing: BTreeMap<NodeName, u64>,
    pub(super) without_me_told: bool,
    pub(super) claims: Claims,
    pub(super) started: bool,
    pub(super) stopped: bool,
}

impl Control {
    /// A core that knows what it had made durable: the entries of [`Meta`](crate::protocol::step::Space::Meta) whose keys
    /// begin with `control/`.
    ///
    /// # Errors
    /// [`ControlError`]: a configuration or a data folder that cannot be used.
    pub fn new(
        config: ControlConfig,
        identity: Identity,
        durable: Vec<(Bytes, Bytes)>,
        seed: u64,
        now: Now,
    ) -> Result<Self, ControlError> {
        let mut config = config;
        config.founders.sort();
        config.founders.dedup();
        check(&config)?;
        let me = Descriptor {
            name: identity.name.clone(),
            id: identity.id,
            zone: config.zone.clone(),
            weight: config.weight,
        };
        let founding = Founding::new(
            me,
            config.cluster_name.clone(),
            config.founders.clone(),
            config.replicas,
            config.partitions,
        );
        let gossip = GossipId::of_start(&identity, config.internal);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let swim_seed = rng.random();
        let mut control = Self {
            views: Views::new(identity.id, identity.generation),
            swim: Swim::new(gossip, swim_seed),
            config,
            identity,
            now,
            began: now.mono,
            rng,
            effects: Vec::new(),
            peers: Peers::default(),
            founding,
            marks: Marks::default(),
            ring: None,
            works: Works::default(),
            strangers: Strangers::default(),
            traffic: Traffic::default(),
            seeds: Vec::new(),
            dialled: BTreeMap::new(),
            disowned_by: BTreeSet::new(),
            aliases: BTreeMap::new(),
            timers: BTreeMap::new(),
            timer_count: 0,
            persist_count: 0,
            pending: VecDeque::new(),
            noteworthy: BTreeSet::new(),
            notes_at: None,
            notes_armed: false,
            connect: BTreeSet::new(),
            view: None,
            conditions: Conditions::default(),
            sights_changed: false,
            rejoin_armed: false,
            rejoins: 0,
            rejoined: None,
            differing: BTreeMap::new(),
            without_me_told: false,
            claims: Claims::default(),
            started: false,
            stopped: false,
        };
        control.restore(durable)?;
        Ok(control)
    }

    /// Takes an input; appends what is to be done, in order.
    pub fn step(&mut self, now: Now, input: ControlInput, out: &mut Vec<ControlEffect>) {
        let forgets = self.claims.forgetting && !matches!(input, ControlInput::Persisted(_));
        if self.stopped || forgets {
            return;
        }
        // A monotonic clock that went back would be a driver's mistake; nothing here relies on it.
        self.now = now;
        self.start();
        self.run_timers();
        // Commit numbers come with every message of every peer: nothing else follows from them.
        if let ControlInput::Synced(from, number) = input {
            self.synced(from, number);
            self.carry_out_gossip();
            self.arm_notes();
        } else {
            self.input(input);
            self.settle();
        }
        out.append(&mut self.effects);
    }

    /// When to step with [`ControlInput::Tick`] at the latest.
    #[must_use]
    pub fn next_timer(&self) -> Option<Mono> {
        self.timers.keys().next().map(|&(at, _)| at)
    }

    /// The first frame of a stream, in either direction; to be made anew for each.
    #[must_use]
    pub fn hello(&self, now: Now) -> Bytes {
        let hello = Hello {
            cluster_name: self.config.cluster_name.clone(),
            cluster: self.cluster(),
            record: self.my_record(),
            epoch: self.swim.me().epoch,
            wall: now.wall,
        };
        hello.encode()
    }

    /// The cluster, once it is known to be founded.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.founding.cluster().map(|cluster| cluster.id)
    }

    /// Makes a mistake from now on: the checkers' own test.
    #[cfg(any(test, feature = "seeded-defects"))]
    pub fn make(&mut self, defect: crate::protocol::defect::Defect) {
        self.founding.make(defect);
        self.works.mistakes.make(defect);
        self.ring.iter_mut().for_each(|ring| ring.mistakes.make(defect));
    }

    /// What workers were last told of the cluster; none before the founding.
    #[must_use]
    pub fn view(&self) -> Option<&Arc<View>> {
        self.view.as_ref()
    }

    /// The conditions that workers were last told.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        self.conditions
    }

    /// Why this node cannot serve yet, or any more; none if it holds a placement and goes on.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        if self.conditions.draining {
            return Some("it is stopping".to_owned());
        }
        if self.without_me_told && self.founding.cluster().is_none() {
            return Some(self.founded_without_me());
        }
        self.claim_waits_for()
            .or_else(|| self.founding.waits_for())
            .or_else(|| self.membership_waits_for())
    }

    pub(super) fn founded_without_me(&self) -> String {
        format!(
            "the cluster {:?} was founded without {}: compare bootstrap.founders in the \
             configurations",
            self.config.cluster_name, self.identity.name
        )
    }

    fn restore(&mut self, durable: Vec<(Bytes, Bytes)>) -> Result<(), ControlError> {
        let mut promise = None;
        let mut cluster = None;
        let mut admissions = Vec::new();
        let mut own = None;
        let mut stored = StoredRing::default();
        for (key, value) in durable {
            let damaged = || ControlError::Damaged(String::from_utf8_lossy(&key).into_owned());
            if key == PROMISE_KEY {
                promise = Some(whole(&value, Promise::decode).ok_or_else(damaged)?);
            } else if key == FOUNDED_KEY {
                let stored = whole(&value, |r| Ok((r.text()?, Founded::decode(r)?)));
                let (name, founded) = stored.ok_or_else(damaged)?;
                if name != self.config.cluster_name {
                    return Err(ControlError::OtherCluster(self.config.cluster_name.clone()));
                }
                cluster = Some(Cluster::read(founded, &name).ok_or_else(damaged)?);
            } else if key.starts_with(ADMISSION_PREFIX) {
                admissions.push(whole(&value, Admission::decode).ok_or_else(damaged)?);
            } else if key == VOTE_KEY {
                self.claims.vote = whole(&value, Vote::decode).ok_or_else(damaged)?;
            } else if key == ANEW_KEY {
                own = Some(whole(&value, Anew::decode).ok_or_else(damaged)?);
            } else if key == PLAN_KEY {
                self.works.plan = Some(whole(&value, Plan::decode).ok_or_else(damaged)?);
            } else if stored.read(&key, &value).ok_or_else(damaged)? {
            } else if key.starts_with(MARK_PREFIX) {
                self.marks.restore(&key, &value).ok_or_else(damaged)?;
            } else if key.starts_with(PEER_PREFIX) {
                let record = whole(&value, decode_record).ok_or_else(damaged)?;
                if record.descriptor.id != self.identity.id {
                    self.peers.hearsay(record);
                }
            }
        }
        self.claims.anew = own.filter(|anew| anew.id == self.identity.id);
        if let Some(cluster) = &mut cluster {
            for admission in admissions {
                let number = admission.number;
                if !cluster.admit(admission) {
                    return Err(ControlError::Damaged(format!("control/admission/{number}")));
                }
            }
            self.check_owner(cluster)?;
            let (name, id) = (&self.identity.name, self.identity.id);
            let ring = stored.ring(cluster, name, id);
            let missing = || ControlError::Damaged("control/oldest".to_owned());
            self.ring = Some(ring.ok_or_else(missing)?);
        }
        let promise = promise.filter(|promise: &Promise| {
            promise.id == self.identity.id && promise.name == self.identity.name
        });
        self.founding.restore(promise, cluster);
        Ok(())
    }

    /// Whether a founded cluster knows this disk, if at all, under this name.
    fn check_owner(&self, cluster: &Cluster) -> Result<(), ControlError> {
        let name = &self.identity.name;
        let error = |why: String| Err(ControlError::OtherNode { name: name.clone(), why });
        let standing = cluster.standing(name, self.identity.id);
        if let Standing::Fenced(admission) = &standing
            && !admission.removes()
        {
            return Err(ControlError::Fenced(fenced(admission)));
        }
        let other =
            cluster.ids.iter().find(|(other, id)| **id == self.identity.id && *other != name);
        other.map_or(Ok(()), |(other, _)| error(format!("it is that of {other}")))
    }

    fn start(&mut self) {
        if self.started {
            return;
        }
        self.started = true;
        self.begin_claiming();
        self.refresh_view();
        let soon = self.jitter(500, 1000);
        self.arm(soon, Timer::Announce);
        let soon = self.jitter(500, 1000);
        self.arm(soon, Timer::Exchange);
    }

    fn run_timers(&mut self) {
        let Some(&(first, _)) = self.timers.keys().next() else { return };
        let late = self.now.mono.micros_since(first);
        if late > LAG_MAX_MICROS {
            // We stood still, and the others' answers are still to be read: nobody is late.
            let shifted = std::mem::take(&mut self.timers);
            let shift = |((at, count), timer): ((Mono, u64), Timer)| {
                ((at.after_micros(late), count), timer)
            };
            self.timers = shifted.into_iter().map(shift).collect();
            self.traffic.stood_still_ms += late / 1000;
        }
        // No more than were there at the start: a timer that arms itself for now waits its turn.
        for _ in 0..self.timers.len() {
            match self.timers.first_entry() {
                Some(entry) if entry.key().0 <= self.now.mono => {
                    let timer = entry.remove();
                    self.fire(timer);
                    self.carry_out_gossip();
                }
                _ => break,
            }
        }
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Swim(timer) => self.swim.timer(timer),
            Timer::Announce => self.announce(),
            Timer::Exchange => self.exchange(),
            Timer::Notes => self.write_notes(),
            Timer::Rejoin => self.rejoin(),
            Timer::Condemn(who, incarnation) => self.condemn(who, incarnation),
            Timer::Claim => self.claim(),
        }
    }

    pub(super) fn arm(&mut self, micros: u64, timer: Timer) {
        self.timer_count += 1;
        self.timers.insert((self.now.mono.after_micros(micros), self.timer_count), timer);
    }

    pub(super) fn timers_armed(&self) -> usize {
        self.timers.len()
    }

    /// Microseconds: `millis` and up to `spread` milliseconds more, at random.
    pub(super) fn jitter(&mut self, millis: u64, spread: u64) -> u64 {
        millis * 1000 + self.rng.random_range(0..=spread * 1000)
    }

    fn input(&mut self, input: ControlInput) {
        match input {
            ControlInput::Seeds(seeds) => {
                self.aliases.retain(|address, _| seeds.contains(address));
                self.seeds = seeds.into_iter().take(MEMBERS_MAX).collect();
            }
            ControlInput::Datagram(from, bytes) => self.datagram(from, bytes),
            ControlInput::Dialled(conn, address) => {
                if self.dialled.len() >= MEMBERS_MAX {
                    self.dialled.pop_first();
                }
                self.dialled.insert(conn, address);
            }
            ControlInput::Hello(conn, bytes) => self.judge_hello(conn, bytes),
            ControlInput::Rejected(conn, reason) => self.rejected(conn, &reason),
            ControlInput::Message(from, bytes) => self.message(from, bytes),
            ControlInput::Synced(from, number) => self.synced(from, number),
            ControlInput::Broken(conn) => self.broken(conn),
            ControlInput::DialFailed(address) => self.dial_failed(address),
            ControlInput::Answering(id, answering) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.silent = !answering;
                }
            }
            ControlInput::Persisted(number) => self.persisted(number),
            ControlInput::Progress(progress) => {
                if let Some(ring) = &mut self.ring {
                    ring.progress = progress;
                }
            }
            ControlInput::Order(id, order) => self.order(id, order),
            ControlInput::Draining => {
                self.conditions.draining = true;
                self.effects.push(ControlEffect::Conditions(self.conditions));
                self.swim.leave();
            }
            ControlInput::Tick => {}
        }
    }

    pub(super) fn my_record(&self) -> PeerRecord {
        PeerRecord {
            descriptor: Descriptor {
                name: self.identity.name.clone(),
                id: self.identity.id,
                zone: self.config.zone.clone(),
                weight: self.config.weight,
            },
            generation: self.identity.generation,
            boot: self.identity.boot,
            internal: self.config.internal,
            client: self.config.client.clone(),
            admin: self.config.admin.clone(),
        }
    }

    /// The ring of the cluster from now on.
    pub(super) fn adopt_ring(&mut self, mut ring: Ring) {
        ring.mistakes = self.works.mistakes;
        self.ring = Some(ring);
    }

    pub(super) fn log(&mut self, level: Level, sentence: String) {
        self.effects.push(ControlEffect::Log(level, sentence));
    }

    /// Counts a stranger, and names it in the log now and then.
    pub(super) fn refuse(&mut self, source: &str, why: &str) {
        let log = self.strangers.refused(source, why, self.now.mono);
        if log {
            self.log(Level::Warn, format!("refused {source}: {why}"));
        }
    }

    pub(super) fn stop(&mut self, sentence: String) {
        self.stopped = true;
        self.effects.push(ControlEffect::Stop(sentence));
    }
}

fn check(config: &ControlConfig) -> Result<(), ControlError> {
    let error = |sentence: String| Err(ControlError::Config(sentence));
    let plain = |text: &str| !text.chars().any(char::is_control);
    let name = &config.cluster_name;
    if name.is_empty() || name.len() > CLUSTER_NAME_BYTES_MAX || !plain(name) {
        return error(format!("cluster.name has 1 to {CLUSTER_NAME_BYTES_MAX} printable bytes"));
    }
    if config.zone.len() > ZONE_BYTES_MAX || !plain(&config.zone) {
        return error(format!("node.zone has at most {ZONE_BYTES_MAX} printable bytes"));
    }
    for (key, address) in [("client", &config.client), ("admin", &config.admin)] {
        if address.len() > ADDRESS_BYTES_MAX || !plain(address) {
            return error(format!("the {key} address has at most {ADDRESS_BYTES_MAX} bytes"));
        }
    }
    if config.weight == 0 || config.replicas == 0 || config.partitions == 0 {
        return error("node.weight, ring.replicas and ring.partitions are at least 1".to_owned());
    }
    if config.founders.len() > MEMBERS_MAX {
        return error(format!("bootstrap.founders names at most {MEMBERS_MAX} nodes"));
    }
    Ok(())
}
