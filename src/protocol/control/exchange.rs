//! Comparing notes: what is too large or too lasting for gossip travels between random pairs of
//! nodes, by digest, and at once when it is a node's own news.

use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64;

use super::state::{Control, Timer};
use super::wire::{
    ControlMessage, Digests, PeerRecord, Promise, Push, encode_record, encode_trackers,
    section_hash,
};
use crate::protocol::placement::LIVE_MAX;
use crate::types::NodeId;

/// A node compares notes about this often, in milliseconds, with one other.
const EXCHANGE_EVERY_MS: u64 = 1200;
/// And up to this much later, so that nodes do not do it all at once.
const EXCHANGE_SPREAD_MS: u64 = 600;

impl Control {
    /// Opens an exchange with a random peer.
    pub(super) fn exchange(&mut self) {
        let next = self.jitter(EXCHANGE_EVERY_MS, EXCHANGE_SPREAD_MS);
        self.arm(next, Timer::Exchange);
        self.sights_changed = true;
        self.part_with_fenced();
        self.remind();
        self.steward();
        self.settle_vote();
        let live = self.peers.live();
        if !live.is_empty() {
            let chosen = live[self.rng.random_range(0..live.len())];
            let digests = self.digests();
            self.say(chosen, ControlMessage::Digest(digests));
        }
    }

    /// A peer opens an exchange. It is answered even if nothing differs: an answer says that we
    /// live, and what our clock reads.
    pub(super) fn digest(&mut self, from: NodeId, theirs: Digests) {
        let mine = self.digests();
        let mut push = self.differing(mine, theirs);
        push.digests = Some(mine);
        if mine.views == theirs.views {
            self.views.confirm(from, self.now.mono);
        } else {
            push.versions = Some(self.views.versions());
        }
        self.say(from, ControlMessage::Push(Box::new(push)));
    }

    pub(super) fn push(&mut self, from: NodeId, push: Push) {
        let Some(name) = self.peers.get(from).map(|peer| peer.record.descriptor.name.clone())
        else {
            return;
        };
        for record in push.records.into_iter().flatten() {
            self.hearsay(record);
        }
        for promise in push.promises.into_iter().flatten() {
            self.founding.promised(promise);
        }
        for view in push.views {
            let observer = view.version.observer;
            let known = self.peers.get(observer).is_some();
            self.views.hear(view, known, self.now.mono);
        }
        if let Some(founded) = push.founded {
            self.told_founded(founded, from, &name);
        }
        if let Some(admissions) = push.admissions {
            self.told_admissions(admissions, &name);
        }
        // What the peer names as its oldest version comes before that version itself.
        self.hear_oldest(&push.placements);
        let orphans = self.hear_tables(&push.tables, &name);
        let Push { wanted, tables, placements, .. } = self.told_placements(&push.placements);
        for trackers in push.trackers.into_iter().flatten() {
            self.hear_trackers(&trackers);
        }
        let mut answer = Push::default();
        if let Some(theirs) = push.digests {
            let mine = self.digests();
            if mine.views == theirs.views {
                self.views.confirm(from, self.now.mono);
            }
            answer = self.differing(mine, theirs);
        }
        if let Some(versions) = &push.versions {
            answer.views = self.views.newer_than(versions);
            if push.digests.is_some() && self.views.lacks(versions) {
                answer.versions = Some(self.views.versions());
            }
        }
        answer.tables = self.tables(&push.wanted);
        answer.tables.extend(tables);
        answer.tables.truncate(LIVE_MAX);
        answer.wanted = orphans.into_iter().chain(wanted).take(LIVE_MAX).collect();
        if answer.placements.is_empty() {
            answer.placements = placements;
        }
        if answer != Push::default() {
            self.say(from, ControlMessage::Push(Box::new(answer)));
        }
    }

    fn hearsay(&mut self, record: PeerRecord) {
        let (name, id) = (record.descriptor.name.clone(), record.descriptor.id);
        let ours = id == self.identity.id || name == self.identity.name;
        let fits = self.founding.cluster().is_none_or(|cluster| {
            cluster.ids.get(&name).is_none_or(|known| *known == id)
                && !cluster.ids.iter().any(|(n, i)| *i == id && *n != name)
        });
        if !ours && fits && self.peers.hearsay(record) {
            self.note_record(name);
            self.refresh_view();
        }
    }

    pub(super) fn digests(&self) -> Digests {
        let founded = self.founding.cluster().map_or(0, |cluster| {
            let mut bytes = cluster.id.0.to_le_bytes().to_vec();
            for (name, id) in &cluster.ids {
                bytes.extend_from_slice(name.as_str().as_bytes());
                bytes.extend_from_slice(&id.0.to_le_bytes());
            }
            // Who is there does not tell who came and went.
            cluster.admissions.iter().for_each(|admission| admission.encode(&mut bytes));
            xxh3_64(&bytes)
        });
        Digests {
            records: section_hash(&self.records(), encode_record),
            founded,
            promises: section_hash(&self.promises(), Promise::encode),
            trackers: section_hash(&self.trackers(), encode_trackers),
            views: self.views.digest(),
            placements: self.placements_digest(),
        }
    }

    /// The sections of ours whose hash differs from a peer's.
    fn differing(&self, mine: Digests, theirs: Digests) -> Push {
        let cluster = self.founding.cluster().filter(|_| mine.founded != theirs.founded);
        Push {
            records: (mine.records != theirs.records).then(|| self.records()),
            founded: cluster.map(|cluster| cluster.record.clone()),
            admissions: cluster.map(|cluster| cluster.admissions.clone()),
            promises: (mine.promises != theirs.promises).then(|| self.promises()),
            trackers: (mine.trackers != theirs.trackers).then(|| self.trackers()),
            placements: if mine.placements == theirs.placements {
                Vec::new()
            } else {
                self.placements()
            },
            ..Push::default()
        }
    }

    /// All nodes' records, in order of id.
    fn records(&self) -> Vec<PeerRecord> {
        let mut records: Vec<PeerRecord> =
            self.peers.iter().map(|(_, peer)| peer.record.clone()).collect();
        records.push(self.my_record());
        records.sort_by_key(|record| record.descriptor.id);
        records
    }

    /// Promises are of use until the founding.
    fn promises(&self) -> Vec<Promise> {
        match self.founding.cluster() {
            Some(_) => Vec::new(),
            None => self.founding.promises(),
        }
    }
}
