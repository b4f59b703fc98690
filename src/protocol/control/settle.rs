//! What follows from the state of a control core after an input: what is made durable, what
//! workers and drivers are told. Each is told on change only.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::claim::{Anew, begin_anew};
use super::clocks;
use super::founding::{Cluster, FOUNDED_KEY, NotAdopted, PROMISE_KEY, Standing, Step};
use super::rejection::RejectionCode;
use super::ring::Ring;
use super::state::{Control, PEER_PREFIX, Pending, Timer};
use super::wire::{Founded, Push, encode_record};
use super::{ControlEffect, Level};
use crate::protocol::codec::Write;
use crate::protocol::lost;
use crate::protocol::placement::{MEMBERS_MAX, View};
use crate::protocol::step::{Change, Conditions, Space};
use crate::types::{NodeId, NodeName, Partition};

/// Notes are kept at most this often.
const NOTES_EVERY_MS: u64 = 500;
/// A peer's clock counts for this long after it was last read.
const CLOCK_FRESH_MICROS: u64 = 60_000_000;

impl Control {
    /// What follows from the present state, whatever the input was.
    pub(super) fn settle(&mut self) {
        self.carry_out_gossip();
        if self.stopped {
            return;
        }
        while let Some(step) = self.founding.advance() {
            self.persist(step);
        }
        self.tell_differing();
        self.turn_ring();
        self.mind_plan();
        self.mind_order();
        self.mind_departure();
        if std::mem::take(&mut self.sights_changed) {
            self.look_around();
        }
        self.tell_reachability();
        self.tell_conditions();
        self.tell_connect();
        self.arm_notes();
    }

    pub(super) fn arm_notes(&mut self) {
        if !self.notes_armed && (self.marks.waiting() > 0 || !self.noteworthy.is_empty()) {
            self.notes_armed = true;
            let due = self.notes_at.map_or(self.now.mono, |at| at.after_millis(NOTES_EVERY_MS));
            self.arm(due.micros_since(self.now.mono), Timer::Notes);
        }
    }

    fn persist(&mut self, step: Step) {
        match step {
            Step::Promise(promise) => {
                let mut value = Vec::new();
                promise.encode(&mut value);
                self.write(vec![put(PROMISE_KEY, value)], Pending::Promise(promise));
            }
            Step::Found(cluster) => {
                let mut value = Vec::new();
                value.bytes(self.config.cluster_name.as_bytes());
                cluster.record.encode(&mut value);
                let mut changes = vec![put(FOUNDED_KEY, value)];
                let standing = cluster.standing(&self.identity.name, self.identity.id);
                let partitions = cluster.first.partitions;
                if let Standing::Claimant(before) = standing {
                    let (id, since) = (self.identity.id, self.now.wall);
                    let has_past = self.has_past();
                    self.claims.anew = Some(Anew { id, before, since, has_past });
                }
                // A disk that began anew before it knew the ring has marked as many partitions as its own
                // configuration says; the ring may have fewer.
                if let Some(anew) = &self.claims.anew {
                    changes.extend(begin_anew(anew, partitions));
                    changes.extend(
                        (partitions..self.config.partitions).map(|p| lost::unmark(Partition(p))),
                    );
                }
                self.write(changes, Pending::Found(cluster));
            }
        }
    }

    /// Makes changes durable; what follows from that comes after it.
    pub(super) fn write(&mut self, changes: Vec<Change>, then: Pending) {
        self.persist_count += 1;
        self.pending.push_back((self.persist_count, then));
        self.effects.push(ControlEffect::Persist(self.persist_count, changes));
    }

    pub(super) fn persisted(&mut self, number: u64) {
        while self.pending.front().is_some_and(|(pending, _)| *pending <= number) {
            let Some((_, pending)) = self.pending.pop_front() else { break };
            match pending {
                Pending::Promise(promise) => {
                    self.founding.promise_durable(promise.clone());
                    self.tell_all(|| Push {
                        promises: Some(vec![promise.clone()]),
                        ..Push::default()
                    });
                }
                Pending::Found(cluster) => self.founded(*cluster),
                Pending::Verdict(to, verdict) => self.rule(to, verdict),
                Pending::Admitted(admissions) => self.admitted(admissions),
                Pending::Versions(versions) => self.versions_durable(versions),
                Pending::Trackers(own) => self.trackers_durable(own),
                Pending::Retired(oldest, own) => self.retired(oldest, own),
                Pending::Planned(version, order) => self.planned(version, order),
                Pending::PlanDone => {}
                Pending::Forgotten(sentence) => {
                    self.stopped = true;
                    self.effects.push(ControlEffect::ComeBack(sentence));
                }
            }
        }
    }

    /// The founding is durable: serve, and tell everybody.
    fn founded(&mut self, cluster: Cluster) {
        let record = cluster.record.clone();
        self.log(
            Level::Info,
            format!(
                "the cluster {:?} is founded: id {}, {} members, {} replicas, {} partitions",
                self.config.cluster_name,
                cluster.id,
                cluster.first.members.len(),
                cluster.first.replicas,
                cluster.first.partitions
            ),
        );
        let (name, id) = (self.identity.name.clone(), self.identity.id);
        let ring = Ring::new(Arc::clone(&cluster.first), name, id);
        self.adopt_ring(ring);
        self.founding.founding_durable(cluster);
        self.begin_claiming();
        self.refresh_view();
        self.tell_all(|| Push { founded: Some(record.clone()), ..Push::default() });
        self.part_with_strangers();
    }

    /// Somebody says that the cluster is founded.
    pub(super) fn told_founded(&mut self, record: Founded, from: NodeId, by: &NodeName) {
        let me = &self.identity.name;
        let theirs = record.ids.iter().find(|(name, _)| name == me).map(|(_, id)| *id);
        match self.founding.told(record) {
            Ok(step) => self.persist(step),
            Err(NotAdopted::Known) => {}
            Err(NotAdopted::Unreadable) => {
                self.refuse(by.as_str(), "what it says of the founding cannot be read");
            }
            Err(NotAdopted::Another) => self.other_founding(from, by, theirs),
            Err(NotAdopted::WithoutMe) => {
                if !self.without_me_told {
                    self.without_me_told = true;
                    let sentence = self.founded_without_me();
                    self.log(Level::Warn, sentence);
                }
            }
        }
    }

    /// A node of the same names, and perhaps places, knows this cluster founded over other disks: one
    /// of the two is from elsewhere. Which, a majority of the members decides.
    fn other_founding(&mut self, from: NodeId, by: &NodeName, theirs: Option<NodeId>) {
        self.refuse(by.as_str(), "it knows this cluster founded over other disks");
        let address = self.peers.get(from).map(|peer| peer.record.internal);
        let differs = |name: &NodeName, id: Option<NodeId>| {
            let disk = id.map_or("no member".to_owned(), |id| format!("the disk {id}"));
            format!(
                "{name} is {disk} in this cluster, which was founded over other disks than {name} \
                 knows: check cluster.name and the data folder"
            )
        };
        let known = self.founding.cluster().and_then(|cluster| cluster.ids.get(by).copied());
        self.part(from, &RejectionCode::OtherDisk.with(differs(by, known)));
        if let Some(address) = address {
            let sentence = differs(&self.identity.name, theirs);
            self.disowned(address, RejectionCode::OtherDisk.with(sentence));
        }
    }

    /// Promises that differ from ours are named once each.
    fn tell_differing(&mut self) {
        if self.founding.cluster().is_some() {
            return;
        }
        for promise in self.founding.promises() {
            if self.differing.get(&promise.name) == Some(&promise.round) {
                continue;
            }
            if let Some(sentence) = self.founding.difference(&promise.name) {
                self.differing.insert(promise.name.clone(), promise.round);
                self.log(Level::Warn, sentence);
            }
        }
    }

    /// Makes the workers' view anew, if anything in it has changed.
    pub(super) fn refresh_view(&mut self) {
        let Some(cluster) = self.founding.cluster() else { return };
        let standing = cluster.standing(&self.identity.name, self.identity.id);
        if !matches!(standing, Standing::Member | Standing::Guest) {
            // Workers hear of the cluster when this disk has a place in it.
            return;
        }
        let Some((ring, disks)) = self.ring_and_disks() else { return };
        let mut ids = cluster.ids.clone();
        for (id, peer) in self.peers.iter() {
            // A member's place is that of the disk that was admitted, or nobody's.
            let name = &peer.record.descriptor.name;
            if !self.is_named(name) && !cluster.fenced.contains_key(&id) {
                ids.entry(name.clone()).or_insert(id);
            }
        }
        if !self.is_named(&self.identity.name) {
            ids.entry(self.identity.name.clone()).or_insert(self.identity.id);
        }
        let chain = ring.chain.live();
        let (reads, acked) = (ring.reads(disks), ring.all_acked(disks));
        let (reads, acked) = (chain[reads].tag, Some(chain[acked].tag));
        let fenced = cluster.fenced.len();
        let view = match &self.view {
            Some(view)
                if view.ids == ids && view.fenced.len() == fenced && !self.view_is_behind() =>
            {
                return;
            }
            Some(view) if view.ids == ids => view.with_live(chain, reads, acked),
            Some(view) => view.with_ids(ids).with_live(chain, reads, acked),
            None => View::new(
                self.identity.id,
                self.identity.name.clone(),
                self.identity.boot,
                cluster.id,
                Arc::clone(ring.chain.oldest()),
                ids,
            )
            .with_live(chain, reads, acked),
        };
        let view = view
            .fencing(cluster.fenced.keys().copied())
            .removing(cluster.removed.iter().cloned())
            .replacing(self.claims.anew.is_some())
            .with_past(self.has_past());
        let view = Arc::new(view);
        self.swim.tune(u32::try_from(view.ids.len()).unwrap_or(u32::MAX));
        self.view = Some(Arc::clone(&view));
        self.effects.push(ControlEffect::View(view));
    }

    fn tell_reachability(&mut self) {
        for (id, peer) in self.peers.iter_mut() {
            let (reach, told) = (peer.reach(), peer.told_reach);
            if reach != told {
                peer.told_reach = reach;
                self.effects.push(ControlEffect::Reachability(id, reach));
                self.sights_changed |= reach.answers() != told.answers();
            }
        }
        if std::mem::take(&mut self.sights_changed) {
            self.look_around();
        }
    }

    fn tell_conditions(&mut self) {
        let Some(cluster) = self.founding.cluster() else { return };
        let members: Vec<NodeId> = cluster.ids.values().copied().collect();
        let me = self.identity.id;
        let answered =
            members.iter().filter(|&&id| id == me || self.marks.has_answered(id)).count();
        let fresh = |id: &NodeId| {
            let clock = self.peers.get(*id)?.clock?;
            let fresh = self.now.mono.micros_since(clock.at) <= CLOCK_FRESH_MICROS;
            fresh.then(|| clock.ahead_ms(self.now.mono, self.now.wall))
        };
        let ahead: Vec<i64> = members.iter().filter_map(fresh).collect();
        let conditions = Conditions {
            confirmed: self.conditions.confirmed || answered > members.len() / 2,
            clock_suspect: clocks::is_suspect(ahead, members.len(), self.config.skew_ms_max),
            draining: self.conditions.draining,
        };
        if conditions.clock_suspect != self.conditions.clock_suspect {
            let sentence = if conditions.clock_suspect {
                "this node's wall clock is further than clock.max_skew from a majority of members: \
                 it leaves coordination to others; check its time synchronisation"
            } else {
                "this node's wall clock agrees with the others' again"
            };
            self.log(Level::Warn, sentence.to_owned());
        }
        if conditions != self.conditions {
            self.conditions = conditions;
            self.effects.push(ControlEffect::Conditions(conditions));
        }
    }

    /// Dial everybody whom we know, dead or alive, and seeds behind whom nobody was found yet.
    fn tell_connect(&mut self) {
        let mut wanted: Vec<SocketAddr> =
            self.peers.iter().map(|(_, peer)| peer.record.internal).collect();
        for sighting in self.swim.members() {
            if self.peers.get(sighting.who.id).is_none() {
                wanted.push(sighting.who.addr);
            }
        }
        let found = |address: &SocketAddr| {
            let behind = self.aliases.get(address);
            behind.is_some_and(|&id| id == self.identity.id || self.peers.get(id).is_some())
        };
        wanted.extend(self.seeds.iter().filter(|address| !found(address)));
        wanted.retain(|address| *address != self.config.internal);
        wanted.sort_unstable();
        wanted.dedup();
        // Asked after every input, and nearly always the same.
        if !wanted.iter().eq(&self.connect) {
            self.connect = wanted.into_iter().collect();
            self.effects.push(ControlEffect::Connect(self.connect.clone()));
        }
    }

    /// A node's record is worth knowing after a restart.
    pub(super) fn note_record(&mut self, name: NodeName) {
        if self.noteworthy.len() < MEMBERS_MAX {
            self.noteworthy.insert(name);
        }
    }

    pub(super) fn write_notes(&mut self) {
        self.notes_armed = false;
        self.notes_at = Some(self.now.mono);
        let mut changes = self.marks.flush();
        for name in std::mem::take(&mut self.noteworthy) {
            let present = self.founding.cluster().and_then(|cluster| cluster.ids.get(&name));
            let known = |id: &NodeId| present.is_none_or(|present| present == id);
            let Some((_, peer)) = self.peers.named(&name).find(|(id, _)| known(id)) else {
                continue;
            };
            let mut value = Vec::new();
            encode_record(&peer.record, &mut value);
            let key = [PEER_PREFIX, name.as_str().as_bytes()].concat();
            changes.push(Change { space: Space::Meta, key: key.into(), value: Some(value.into()) });
        }
        if !changes.is_empty() {
            self.effects.push(ControlEffect::Note(changes));
        }
    }
}

/// An entry of the store.
pub(super) fn put(key: &'static [u8], value: Vec<u8>) -> Change {
    Change { space: Space::Meta, key: Bytes::from_static(key), value: Some(value.into()) }
}
