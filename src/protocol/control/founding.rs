//! Founding: how a cluster comes to be, unanimously, by names from the configuration.
//!
//! ```text
//!  hearing     each founder hears every founder's descriptor {name, id, zone, weight}
//!     │        version 1 follows: a pure function of the descriptors, N and Q
//!  promising   it makes its promise durable, then tells it
//!     │        until it holds the same promise, over the same disks, from all
//!  founded     it makes the founding durable, then serves, and tells everybody
//! ```
//!
//! *Why it is safe.* A promise names the version's hash and the disks. A node that has founded
//! never promises again, and founding needs everybody's promise over the same disks: so no two
//! nodes found over different disks, and a founder whose disk was emptied after anybody founded
//! learns so instead of founding anew. Before that, it promises the same version again, and the
//! others promise again over its new disk. (Not covered: two live disks that take turns under
//! one name *while* founding; whoever then differs is refused and named.)
//!
//! "Founded" is adopted from any member: the placement's hash and its members' disks come along.
//! A founder that the placement does not name never adopts it: its configuration differs. One whose
//! name is another disk there adopts it as a claimant of its place: see [`super::admission`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::admission::{ADMISSIONS_MAX, Admission, NOBODY};
use super::wire::{Descriptor, Founded, Promise};
use crate::protocol::codec::{DecodeError, Reader};
#[cfg(any(test, feature = "seeded-defects"))]
use crate::protocol::defect::Defect;
use crate::protocol::placement::{Member, Placement};
use crate::protocol::quorum::majority;
use crate::types::{ClusterId, NodeId, NodeName};

/// A cluster that this node knows to be founded.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) id: ClusterId,
    /// The first version.
    pub(super) first: Arc<Placement>,
    /// The present disk of each name: that of the founding, or the one admitted last.
    pub(super) ids: BTreeMap<NodeName, NodeId>,
    /// Names that were removed, and have not entered again.
    pub(super) removed: BTreeSet<NodeName>,
    /// What is told and stored of the founding.
    pub(super) record: Founded,
    /// In order of number, from 1.
    pub(super) admissions: Vec<Admission>,
    /// Disks that were replaced or removed, and by which admission.
    pub(super) fenced: BTreeMap<NodeId, Admission>,
}

/// What a disk is to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The present disk of its name: it has a voice in admissions. Whether it is home to anything, a
    /// placement version says.
    Member,
    /// Its name is nobody.
    Guest,
    /// Its name is this disk at present: it asks for the place.
    Claimant(NodeId),
    /// It was replaced or removed, for good.
    Fenced(Admission),
}

impl Cluster {
    /// Reads what was told or stored: a whole placement, and a disk for each member.
    pub(super) fn read(record: Founded, cluster_name: &str) -> Option<Self> {
        let placement = Placement::decode(&record.placement).ok()?;
        let sorted = record.ids.is_sorted_by(|a, b| a.0 < b.0);
        let names = record.ids.iter().map(|(name, _)| name);
        let distinct = record.ids.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len();
        let whole = names.eq(placement.members.iter().map(|member| &member.name));
        if !sorted || !whole || distinct != record.ids.len() || placement.tag.number != 1 {
            return None;
        }
        let id = placement.cluster_id(cluster_name);
        let ids = record.ids.iter().cloned().collect();
        let (admissions, fenced, removed) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        Some(Self { id, first: Arc::new(placement), ids, removed, record, admissions, fenced })
    }

    /// The number of the next admission.
    pub(super) fn next_number(&self) -> u64 {
        self.admissions.len() as u64 + 1
    }

    /// Whether an admission can be the next one: of a disk that nobody has been yet, or of none, or of the
    /// present one, in the place of the present one, or of none. Somebody stays.
    pub(super) fn follows(&self, admission: &Admission) -> bool {
        let fresh = !self.fenced.contains_key(&admission.id)
            && !self.ids.values().any(|id| *id == admission.id);
        let present = self.ids.get(&admission.name).copied().unwrap_or(NOBODY);
        let somebody = !admission.removes() || self.ids.len() > 1;
        let nothing = admission.removes() && admission.enters();
        (fresh || admission.reaffirms())
            && somebody
            && !nothing
            && admission.number == self.next_number()
            && self.admissions.len() < ADMISSIONS_MAX
            && present == admission.predecessor
    }

    /// Takes the next admission; false if it is not that.
    pub(super) fn admit(&mut self, admission: Admission) -> bool {
        let follows = self.follows(&admission);
        if follows {
            if admission.removes() {
                self.ids.remove(&admission.name);
                self.removed.insert(admission.name.clone());
            } else {
                self.ids.insert(admission.name.clone(), admission.id);
                self.removed.remove(&admission.name);
            }
            if !admission.enters() && !admission.reaffirms() {
                self.fenced.insert(admission.predecessor, admission.clone());
            }
            self.admissions.push(admission);
        }
        follows
    }

    /// What a disk of this name is to the cluster.
    pub(super) fn standing(&self, name: &NodeName, id: NodeId) -> Standing {
        if let Some(admission) = self.fenced.get(&id) {
            return Standing::Fenced(admission.clone());
        }
        match self.ids.get(name) {
            Some(present) if *present == id => Standing::Member,
            Some(present) => Standing::Claimant(*present),
            None => Standing::Guest,
        }
    }

    /// How many members are a majority.
    pub(super) fn majority(&self) -> usize {
        majority(self.ids.len())
    }
}

/// What is to be made durable next.
pub(super) enum Step {
    Promise(Promise),
    Found(Box<Cluster>),
}

/// Why "founded", as told, was not adopted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotAdopted {
    /// It breaks a rule of the format.
    Unreadable,
    /// It is what this node knows.
    Known,
    /// This node knows another cluster, or other disks.
    Another,
    /// It does not name this founder.
    WithoutMe,
}

/// How far this node has come.
enum Stage {
    Hearing,
    /// Until its promise, or the founding, is durable.
    Writing,
    Founded(Box<Cluster>),
}

/// See the module.
pub(super) struct Founding {
    me: Descriptor,
    cluster_name: String,
    /// Sorted.
    founders: Vec<NodeName>,
    replicas: u8,
    partitions: u16,
    heard: BTreeMap<NodeName, Descriptor>,
    /// By name; this node's own is the durable one.
    promises: BTreeMap<NodeName, Promise>,
    stage: Stage,
    /// Whether to make the mistake `FoundWithoutAll`.
    without_all: bool,
}

impl Founding {
    pub(super) fn new(
        me: Descriptor,
        cluster_name: String,
        founders: Vec<NodeName>,
        replicas: u8,
        partitions: u16,
    ) -> Self {
        let heard = BTreeMap::from([(me.name.clone(), me.clone())]);
        let stage = Stage::Hearing;
        let promises = BTreeMap::new();
        let without_all = false;
        Self {
            me,
            cluster_name,
            founders,
            replicas,
            partitions,
            heard,
            promises,
            stage,
            without_all,
        }
    }

    /// Makes a mistake from now on, if it is one of founding.
    #[cfg(any(test, feature = "seeded-defects"))]
    pub(super) fn make(&mut self, defect: Defect) {
        self.without_all = defect == Defect::FoundWithoutAll;
    }

    /// Takes back what this node had made durable. A promise that does not follow from the present
    /// configuration counts its rounds, and is otherwise void.
    pub(super) fn restore(&mut self, promise: Option<Promise>, cluster: Option<Cluster>) {
        if let Some(cluster) = cluster {
            self.stage = Stage::Founded(Box::new(cluster));
        } else if let Some(mut promise) = promise {
            let founders = &promise.founders;
            if founders.is_empty() || self.version_one(founders).tag.hash != promise.hash {
                promise.founders.clear();
            }
            self.promises.insert(promise.name.clone(), promise);
        }
    }

    pub(super) fn cluster(&self) -> Option<&Cluster> {
        match &self.stage {
            Stage::Founded(cluster) => Some(cluster),
            Stage::Hearing | Stage::Writing => None,
        }
    }

    pub(super) fn is_founder(&self, name: &NodeName) -> bool {
        self.founders.binary_search(name).is_ok()
    }

    /// A founder has said who it is, over a stream of its own.
    pub(super) fn hear(&mut self, descriptor: Descriptor) {
        if self.is_founder(&descriptor.name) && descriptor.name != self.me.name {
            self.heard.insert(descriptor.name.clone(), descriptor);
        }
    }

    /// A promise was told, by its founder or by somebody who heard it. Says whether it is news.
    pub(super) fn promised(&mut self, promise: Promise) -> bool {
        let named = promise.founders.iter().any(|d| d.name == promise.name && d.id == promise.id);
        if promise.name == self.me.name || !self.is_founder(&promise.name) || !named {
            return false;
        }
        let heard = self.heard.get(&promise.name);
        let newer = match self.promises.get(&promise.name) {
            Some(known) if known.id == promise.id => promise.round > known.round,
            Some(_) => heard.is_some_and(|descriptor| descriptor.id == promise.id),
            None => true,
        };
        if newer {
            self.promises.insert(promise.name.clone(), promise);
        }
        newer
    }

    /// All promises known, in order of name.
    pub(super) fn promises(&self) -> Vec<Promise> {
        self.promises.values().cloned().collect()
    }

    /// What is to be made durable next, if anything is due.
    pub(super) fn advance(&mut self) -> Option<Step> {
        let ready = matches!(self.stage, Stage::Hearing) && self.is_founder(&self.me.name);
        let founders = self.founders.len();
        let needed = if self.without_all { majority(founders) } else { founders };
        if !ready || self.founders.len() - self.unheard().len() < needed {
            return None;
        }
        let founders: Vec<Descriptor> = self.heard.values().cloned().collect();
        let mine = self.promises.get(&self.me.name).filter(|mine| mine.founders == founders);
        let Some(mine) = mine else {
            self.stage = Stage::Writing;
            return Some(Step::Promise(self.promise(founders)));
        };
        let same = |name: &NodeName| {
            let theirs = self.promises.get(name);
            theirs.is_some_and(|p| p.hash == mine.hash && p.founders == mine.founders)
        };
        if self.founders.iter().filter(|name| same(name)).count() < needed {
            return None;
        }
        let record = Founded {
            placement: self.version_one(&founders).encode().into(),
            ids: founders.iter().map(|d| (d.name.clone(), d.id)).collect(),
        };
        let cluster = Cluster::read(record, &self.cluster_name)?;
        self.stage = Stage::Writing;
        Some(Step::Found(Box::new(cluster)))
    }

    /// The promise is durable: it may be told.
    pub(super) fn promise_durable(&mut self, promise: Promise) {
        if matches!(self.stage, Stage::Writing) {
            self.stage = Stage::Hearing;
        }
        self.promises.insert(promise.name.clone(), promise);
    }

    /// The founding is durable: it may be told, and the node serves.
    pub(super) fn founding_durable(&mut self, cluster: Cluster) {
        self.stage = Stage::Founded(Box::new(cluster));
    }

    /// The next admission is durable.
    pub(super) fn admit(&mut self, admission: Admission) -> bool {
        match &mut self.stage {
            Stage::Founded(cluster) => cluster.admit(admission),
            Stage::Hearing | Stage::Writing => false,
        }
    }

    /// What this disk is to the cluster; none before the founding.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.cluster().map(|cluster| cluster.standing(&self.me.name, self.me.id))
    }

    /// Somebody says that the cluster is founded.
    ///
    /// # Errors
    /// [`NotAdopted`]; nothing changed.
    pub(super) fn told(&mut self, record: Founded) -> Result<Step, NotAdopted> {
        if let Some(known) = self.cluster() {
            let same = known.record == record;
            return Err(if same { NotAdopted::Known } else { NotAdopted::Another });
        }
        let Some(cluster) = Cluster::read(record, &self.cluster_name) else {
            return Err(NotAdopted::Unreadable);
        };
        if !cluster.ids.contains_key(&self.me.name) && self.is_founder(&self.me.name) {
            return Err(NotAdopted::WithoutMe);
        }
        if matches!(self.stage, Stage::Writing) {
            // Something is on its way to the disk: this will be told again.
            return Err(NotAdopted::Known);
        }
        self.stage = Stage::Writing;
        Ok(Step::Found(Box::new(cluster)))
    }

    /// Founders that have not been heard since this start.
    pub(super) fn unheard(&self) -> Vec<&NodeName> {
        self.founders.iter().filter(|name| !self.heard.contains_key(*name)).collect()
    }

    /// For what this node waits; none once it knows that the cluster is founded.
    pub(super) fn waits_for(&self) -> Option<String> {
        let list = |names: Vec<&NodeName>| {
            let names: Vec<&str> = names.into_iter().map(NodeName::as_str).collect();
            names.join(", ")
        };
        match &self.stage {
            Stage::Founded(_) => return None,
            Stage::Writing => return Some("makes the founding durable".to_owned()),
            Stage::Hearing => {}
        }
        if !self.is_founder(&self.me.name) {
            let name = &self.cluster_name;
            return Some(format!("waits to hear from a member of the cluster {name:?}"));
        }
        let unheard = self.unheard();
        if !unheard.is_empty() {
            return Some(format!("waits for founders {}", list(unheard)));
        }
        let mine = self.promises.get(&self.me.name);
        let differs = |name: &&NodeName| {
            let theirs = self.promises.get(*name);
            !theirs.zip(mine).is_some_and(|(a, b)| a.hash == b.hash && a.founders == b.founders)
        };
        let waiting: Vec<&NodeName> = self.founders.iter().filter(differs).collect();
        Some(format!("waits for the same promise from founders {}", list(waiting)))
    }

    /// How a founder's promise differs from this node's, in words; none if it does not.
    pub(super) fn difference(&self, name: &NodeName) -> Option<String> {
        let mine = self.promises.get(&self.me.name)?;
        let theirs = self.promises.get(name)?;
        if theirs.hash == mine.hash && theirs.founders == mine.founders {
            return None;
        }
        let a: BTreeSet<&Descriptor> = mine.founders.iter().collect();
        let b: BTreeSet<&Descriptor> = theirs.founders.iter().collect();
        let say = |d: &&Descriptor| {
            format!("{} (id {}, zone {:?}, weight {})", d.name, d.id, d.zone, d.weight)
        };
        let only = |a: &BTreeSet<&Descriptor>, b: &BTreeSet<&Descriptor>| {
            let lines: Vec<String> = a.difference(b).map(say).collect();
            if lines.is_empty() { "the same founders".to_owned() } else { lines.join(", ") }
        };
        Some(format!(
            "founding waits: {name} promises another placement ({:016x}) than this node \
             ({:016x}): there {}; here {}; if this persists, compare bootstrap.founders, zones, \
             weights, replicas and partitions in the configurations",
            theirs.hash,
            mine.hash,
            only(&b, &a),
            only(&a, &b),
        ))
    }

    fn promise(&self, founders: Vec<Descriptor>) -> Promise {
        let round = self.promises.get(&self.me.name).map_or(0, |promise| promise.round) + 1;
        let hash = self.version_one(&founders).tag.hash;
        Promise { name: self.me.name.clone(), id: self.me.id, round, hash, founders }
    }

    fn version_one(&self, founders: &[Descriptor]) -> Placement {
        let member = |d: &Descriptor| Member {
            name: d.name.clone(),
            zone: d.zone.clone(),
            weight: d.weight.max(1),
        };
        let members = founders.iter().map(member).collect();
        Placement::found(members, self.replicas, self.partitions)
    }
}

/// Keys of the store.
pub(super) const PROMISE_KEY: &[u8] = b"control/promise";
pub(super) const FOUNDED_KEY: &[u8] = b"control/founded";

/// A stored or told value, whole.
pub(super) fn whole<T>(
    bytes: &Bytes,
    decode: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
) -> Option<T> {
    let mut r = Reader::new(bytes.clone());
    let value = decode(&mut r).ok()?;
    r.end().ok()?;
    Some(value)
}
