//! Placement versions and trackers on their way: told, asked for, made durable, acted on. See
//! [`super::ring`] for what they mean.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::founding::Cluster;
use super::ring::{Chain, Disks, NotTaken, Ring, Taken};
use super::settle::put;
use super::state::{Control, Pending};
use super::wire::{Push, Trackers, decode_tag, decode_trackers, encode_tag, encode_trackers};
use super::{Level, founding::whole};
use crate::protocol::message::PlacementTag;
use crate::protocol::placement::{LIVE_MAX, Placement, Version};
use crate::protocol::step::{Change, Space};
use crate::types::{NodeId, NodeName};

/// Where versions but the first are stored: this, the number and the hash, big-endian.
pub(super) const VERSION_PREFIX: &[u8] = b"control/placement/";
/// Where the tag of the oldest live version is stored, once the first has retired.
pub(super) const OLDEST_KEY: &[u8] = b"control/oldest";
/// Where this disk's trackers are stored.
pub(super) const TRACKERS_KEY: &[u8] = b"control/trackers";

/// What is stored of the ring.
#[derive(Default)]
pub(super) struct StoredRing {
    versions: Vec<Placement>,
    oldest: Option<PlacementTag>,
    trackers: Option<Trackers>,
}

impl StoredRing {
    /// Takes back an entry; false if it is none of these, none if it is damaged.
    pub(super) fn read(&mut self, key: &[u8], value: &Bytes) -> Option<bool> {
        if key.starts_with(VERSION_PREFIX) {
            self.versions.push(Placement::decode(value).ok()?);
        } else if key == OLDEST_KEY {
            self.oldest = Some(whole(value, decode_tag)?);
        } else if key == TRACKERS_KEY {
            self.trackers = Some(whole(value, decode_trackers)?);
        } else {
            return Some(false);
        }
        Some(true)
    }

    /// The ring of a cluster as this disk knows it; none if its oldest version is missing. Versions that
    /// do not descend from that one were let go.
    pub(super) fn ring(self, cluster: &Cluster, name: &NodeName, id: NodeId) -> Option<Ring> {
        let Self { mut versions, oldest, trackers } = self;
        versions.sort_by_key(|version| version.tag);
        let first = cluster.first.tag;
        let oldest = match oldest.filter(|oldest| *oldest != first) {
            None => Arc::clone(&cluster.first),
            Some(tag) => {
                let at = versions.iter().position(|version| version.tag == tag)?;
                Arc::new(versions.swap_remove(at))
            }
        };
        versions.sort_by_key(|version| version.tag);
        let mut ring = Ring::new(oldest, name.clone(), id);
        versions.into_iter().for_each(|version| ring.chain.take(Arc::new(version)));
        // Those of a disk that was replaced are not this one's.
        if let Some(own) = trackers.filter(|own| own.id == id && own.name == *name) {
            ring.own = own;
        }
        let evidence = ring.evidence();
        ring.chain.choose(&evidence);
        Some(ring)
    }
}

fn version_key(tag: PlacementTag) -> Bytes {
    [VERSION_PREFIX, &tag.number.to_be_bytes(), &tag.hash.to_be_bytes()].concat().into()
}

fn put_oldest(tag: PlacementTag) -> Change {
    let mut value = Vec::new();
    encode_tag(tag, &mut value);
    put(OLDEST_KEY, value)
}

fn put_trackers(own: &Trackers) -> Change {
    let mut value = Vec::new();
    encode_trackers(own, &mut value);
    put(TRACKERS_KEY, value)
}

fn forget_version(tag: PlacementTag) -> Change {
    Change { space: Space::Meta, key: version_key(tag), value: None }
}

/// What is made durable of a version.
pub(super) fn keep_version(version: &Placement) -> Change {
    let (key, value) = (version_key(version.tag), Some(version.encode().into()));
    Change { space: Space::Meta, key, value }
}

impl Control {
    /// The newest live version.
    pub(super) fn placement(&self) -> Option<&Arc<Placement>> {
        self.ring.as_ref().map(|ring| ring.chain.newest())
    }

    /// Versions and trackers, and which disk each name is.
    pub(super) fn ring_and_disks(&self) -> Option<(&Ring, Disks<'_>)> {
        let cluster = self.founding.cluster()?;
        let disks = Disks { ids: &cluster.ids, removed: &cluster.removed };
        self.ring.as_ref().map(|ring| (ring, disks))
    }

    /// Whether more than one version is live.
    pub(super) fn is_changing(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.chain.live().len() > 1)
    }

    /// Whether a live version names a member so.
    pub(super) fn is_named(&self, name: &NodeName) -> bool {
        let live = self.ring.as_ref().map(|ring| ring.chain.live());
        live.is_some_and(|live| live.iter().any(|version| version.member(name).is_some()))
    }

    /// The present disks of the members of all live versions.
    fn named_disks(&self) -> BTreeSet<NodeId> {
        let Some((ring, disks)) = self.ring_and_disks() else { return BTreeSet::new() };
        let members = ring.chain.live().iter().flat_map(|version| &version.members);
        members.filter_map(|member| disks.ids.get(&member.name).copied()).collect()
    }

    /// Whether a disk has left the ring: it said so, or a version that named it has retired.
    pub(super) fn has_left(&self, name: &NodeName, id: NodeId) -> bool {
        let heard = self.ring.as_ref().and_then(|ring| ring.heard.of(name, id));
        heard.is_some_and(|trackers| trackers.left) || self.works.leavers.contains(&id)
    }

    pub(super) fn placements(&self) -> Vec<PlacementTag> {
        self.ring.as_ref().map(|ring| ring.chain.tags()).unwrap_or_default()
    }

    pub(super) fn placements_digest(&self) -> u64 {
        let mut out = Vec::new();
        self.placements().into_iter().for_each(|tag| encode_tag(tag, &mut out));
        xxh3_64(&out)
    }

    /// What this node and others have published, in order of name.
    pub(super) fn trackers(&self) -> Vec<Trackers> {
        let Some(ring) = &self.ring else { return Vec::new() };
        let own = Some(&ring.own).filter(|own| own.count > 0);
        let mut all: Vec<Trackers> = ring.heard.all().chain(own).cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Takes trackers of the present disk of another name. Those that name a version that is not held
    /// here say that one is missing.
    pub(super) fn hear_trackers(&mut self, theirs: &Trackers) {
        let Some(cluster) = self.founding.cluster() else { return };
        let present = cluster.ids.get(&theirs.name) == Some(&theirs.id);
        if present
            && theirs.name != self.identity.name
            && let Some(ring) = &mut self.ring
        {
            ring.heard.hear(theirs);
        }
    }

    /// A peer names its live versions: all before the first have retired.
    pub(super) fn hear_oldest(&mut self, theirs: &[PlacementTag]) {
        if let (Some(ring), Some(&first)) = (&mut self.ring, theirs.first()) {
            ring.chain.hear_oldest(first);
        }
    }

    /// What is to be said to a peer of the versions that it has named.
    pub(super) fn told_placements(&self, theirs: &[PlacementTag]) -> Push {
        let (Some(ring), Some(&first)) = (&self.ring, theirs.first()) else {
            return Push::default();
        };
        let chain = &ring.chain;
        let oldest = chain.oldest().tag.number;
        let lacking = |tag: &&PlacementTag| {
            let here = chain.get(**tag).is_some() || ring.incoming.contains(*tag);
            tag.number > oldest && !here
        };
        let wanted = theirs.iter().filter(lacking).take(LIVE_MAX).copied().collect();
        let lacked = |version: &&Arc<Placement>| {
            version.tag.number > first.number && !theirs.contains(&version.tag)
        };
        let tables: Vec<Bytes> =
            chain.live().iter().filter(lacked).map(|version| version.encode().into()).collect();
        // Whoever is to take a version as its oldest must hear that it is ours.
        let placements = if tables.is_empty() { Vec::new() } else { chain.tags() };
        Push { placements, wanted, tables, ..Push::default() }
    }

    /// The versions that a peer wants, as far as they are held.
    pub(super) fn tables(&self, wanted: &[PlacementTag]) -> Vec<Bytes> {
        let Some(ring) = &self.ring else { return Vec::new() };
        let held = wanted.iter().filter_map(|tag| ring.chain.get(*tag));
        held.map(|version| version.encode().into()).collect()
    }

    /// Somebody sends versions whole, each after its parent. Says which are wanted first.
    pub(super) fn hear_tables(&mut self, tables: &[Bytes], by: &NodeName) -> Vec<PlacementTag> {
        let Some(mut chain) = self.ring.as_ref().map(|ring| ring.chain.clone()) else {
            return Vec::new();
        };
        let (mut changes, mut taken, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for table in tables {
            let Ok(version) = Placement::decode(table).map(Arc::new) else {
                self.refuse(by.as_str(), "it tells of a placement version that cannot be read");
                continue;
            };
            let incoming = |ring: &Ring| ring.incoming.contains(&version.tag);
            match chain.judge(&version) {
                Ok(_) if self.ring.as_ref().is_some_and(incoming) => chain.take(version),
                Ok(as_what) => {
                    changes.push(keep_version(&version));
                    if as_what == Taken::Oldest {
                        changes.push(put_oldest(version.tag));
                        changes.extend(forgotten(&chain, None));
                    }
                    chain.take(Arc::clone(&version));
                    taken.push(version);
                }
                Err(NotTaken::Orphan(parent)) => wanted.push(parent),
                Err(NotTaken::Misshapen) => {
                    self.refuse(by.as_str(), "it tells of a placement version of another ring");
                }
                // More can be taken once the oldest has retired: it is told again.
                Err(NotTaken::Known | NotTaken::TooMany) => {}
            }
        }
        if !taken.is_empty() {
            let tags = taken.iter().map(|version| version.tag);
            self.ring.iter_mut().for_each(|ring| ring.incoming.extend(tags.clone()));
            self.write(changes, Pending::Versions(taken));
        }
        wanted
    }

    /// Versions are durable: workers hear of them.
    pub(super) fn versions_durable(&mut self, versions: Vec<Arc<Placement>>) {
        let Some(ring) = &mut self.ring else { return };
        for version in versions {
            ring.incoming.remove(&version.tag);
            ring.chain.take(version);
        }
    }

    /// What follows from versions and trackers as they are now.
    pub(super) fn turn_ring(&mut self) {
        self.choose_versions();
        self.write_ring();
        self.note_behind();
        if self.view_is_behind() {
            self.refresh_view();
        }
    }

    /// The chain of live versions, by what has been published of them.
    fn choose_versions(&mut self) {
        let Some(ring) = self.ring.as_mut().filter(|ring| ring.chain.has_successors()) else {
            return;
        };
        let (before, evidence) = (ring.chain.newest().tag, ring.evidence());
        if ring.chain.choose(&evidence) {
            let (after, lost) = (ring.chain.newest().tag, ring.chain.lost().count());
            let sentence =
                format!("placement version {after} follows {before}; {lost} rivals have lost");
            self.log(Level::Info, sentence);
        }
    }

    /// One thing at a time: that the oldest version has retired, or how far this node has come.
    fn write_ring(&mut self) {
        let Some((ring, disks)) = self.ring_and_disks() else { return };
        if ring.writing {
            return;
        }
        let mut pledged = None;
        let (changes, then) = if let Some(oldest) = ring.retires(disks) {
            let mut changes = vec![put_oldest(oldest)];
            changes.extend(forgotten(&ring.chain, Some(oldest)));
            let own = ring.leaves(oldest, disks);
            if let Some(own) = &own {
                changes.push(put_trackers(own));
            }
            (changes, Pending::Retired(oldest, own))
        } else if let Some(next) = ring.advance(disks, self.acks_at_most()) {
            pledged = Some(next.sync_ack);
            (vec![put_trackers(&next)], Pending::Trackers(next))
        } else {
            return;
        };
        if let Some(ring) = &mut self.ring {
            ring.writing = true;
            ring.pledged = pledged.unwrap_or(ring.pledged);
        }
        self.write(changes, then);
    }

    /// This node's trackers are durable: they may be told.
    pub(super) fn trackers_durable(&mut self, own: Trackers) {
        let Some(ring) = &mut self.ring else { return };
        ring.writing = false;
        ring.own = own.clone();
        self.tell_all(|| Push { trackers: Some(vec![own.clone()]), ..Push::default() });
    }

    /// It is durable that everything before this version has retired.
    pub(super) fn retired(&mut self, oldest: PlacementTag, own: Option<Trackers>) {
        if let Some(own) = own {
            self.trackers_durable(own);
        }
        let before = self.named_disks();
        let Some(ring) = &mut self.ring else { return };
        ring.writing = false;
        ring.chain.retire_before(oldest);
        let after = self.named_disks();
        let Some((ring, disks)) = self.ring_and_disks() else { return };
        // Those who have parted with their names by now need not be remembered.
        let known = self.works.leavers.iter().copied();
        let known = known.filter(|id| disks.ids.values().any(|present| present == id));
        let leavers = before.difference(&after).copied().chain(known).collect();
        let members = ring.chain.oldest().members.len();
        let sentence = format!(
            "placement version {} ({:016x}) is the oldest live one: {members} members",
            oldest.number, oldest.hash
        );
        self.works.leavers = leavers;
        self.log(Level::Info, sentence);
    }

    /// Whether workers were told other live versions than there are.
    pub(super) fn view_is_behind(&self) -> bool {
        let (Some(view), Some((ring, disks))) = (&self.view, self.ring_and_disks()) else {
            return false;
        };
        let live = ring.chain.live();
        let tag = |place: usize| live[place].tag;
        !view.live().iter().map(Version::tag).eq(ring.chain.tags())
            || view.reads().tag() != tag(ring.reads(disks))
            || view.all_acked != Some(tag(ring.all_acked(disks)))
    }
}

/// The stored versions that are let go with everything before `oldest`, or all of them.
fn forgotten(chain: &Chain, oldest: Option<PlacementTag>) -> impl Iterator<Item = Change> {
    let gone = match oldest {
        Some(oldest) => chain.gone_before(oldest),
        None => chain.all_held(),
    };
    gone.into_iter().map(forget_version)
}
