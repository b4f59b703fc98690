//! What is known of every other node, and which streams are whose.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::ConnId;
use super::clocks::PeerClock;
use super::wire::{MemberState, PeerRecord};
use crate::protocol::step::Reach;
use crate::types::{Boot, CommitNumber, Mono, NodeId, NodeName};

/// Nodes kept: bounds what peers can make us keep. Ten times what the ring is made for.
pub(super) const PEERS_MAX: usize = 1024;
/// Streams of one peer: one each way, and as many that are just being replaced.
const CONNS_MAX: usize = 4;

/// What is known of one node.
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one node")]
pub(super) struct Peer {
    pub(super) record: PeerRecord,
    /// Accepted streams that have not ended; the newest is the greatest.
    pub(super) conns: BTreeSet<ConnId>,
    /// Workers have found it silent.
    pub(super) silent: bool,
    /// Gossip has declared it dead while nothing was heard of it over a stream.
    pub(super) gone: bool,
    /// What workers were last told.
    pub(super) told_reach: Reach,
    /// When its present process last said anything over a stream.
    pub(super) heard: Option<Mono>,
    /// When a datagram of it last came.
    pub(super) datagram: Option<Mono>,
    pub(super) clock: Option<PeerClock>,
    /// It has judged our memory of it: see [`super::marks`].
    pub(super) recalled: bool,
    /// The highest commit that it announced.
    pub(super) announced: CommitNumber,
    pub(super) challenge: Option<Challenge>,
    /// Its last stream ended then.
    pub(super) streamless: Option<Mono>,
    /// Gossip was told of our suspicion since then: once, as the others judge, too.
    pub(super) accused: bool,
    pub(super) sight: Option<Seen>,
}

/// A peer is asked whether it lives, since another process says that it is the same, or wants its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) since: Mono,
    /// The other process. What the peer answered because of an earlier one says nothing of now: it may have died, and
    /// this one may be its next start.
    pub(super) by: Boot,
    /// Nothing else that is heard proves that it lives: what a dead process said may be under way for long.
    pub(super) answered: bool,
}

/// What is known of a peer that is asked whether it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It has answered.
    Proven,
    /// It has not, and was asked then.
    AskedSince(Mono),
}

/// What gossip says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) state: MemberState,
    pub(super) incarnation: u16,
    pub(super) epoch: u64,
    /// Since when it is in this state.
    pub(super) since: Mono,
}

impl Peer {
    fn new(record: PeerRecord) -> Self {
        Self {
            record,
            conns: BTreeSet::new(),
            silent: false,
            gone: false,
            told_reach: Reach::Away,
            heard: None,
            datagram: None,
            clock: None,
            recalled: false,
            announced: CommitNumber(0),
            challenge: None,
            streamless: None,
            accused: false,
            sight: None,
        }
    }

    /// Whether it has an accepted stream.
    pub(super) fn is_live(&self) -> bool {
        !self.conns.is_empty()
    }

    /// Whether this node can reach it now.
    pub(super) fn reach(&self) -> Reach {
        if !self.is_live() || self.gone {
            Reach::Away
        } else if self.silent {
            Reach::Silent
        } else {
            Reach::Answers
        }
    }

    pub(super) fn is_reachable(&self) -> bool {
        self.reach().answers()
    }

    /// Whether its present process has said anything since an instant, over a stream.
    pub(super) fn heard_since(&self, instant: Mono) -> bool {
        self.heard.is_some_and(|heard| heard > instant)
    }
}

/// All nodes but this one.
#[derive(Default)]
pub(super) struct Peers {
    map: BTreeMap<NodeId, Peer>,
    owners: BTreeMap<ConnId, NodeId>,
}

impl Peers {
    pub(super) fn get(&self, id: NodeId) -> Option<&Peer> {
        self.map.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut Peer> {
        self.map.get_mut(&id)
    }

    /// In order of id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.map.iter().map(|(&id, peer)| (id, peer))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Peer)> {
        self.map.iter_mut().map(|(&id, peer)| (id, peer))
    }

    /// Nodes of this name: one, save while a disk is being changed before the founding.
    pub(super) fn named(&self, name: &NodeName) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.iter().filter(move |(_, peer)| peer.record.descriptor.name == *name)
    }

    /// Nodes with an accepted stream, in order of id.
    pub(super) fn live(&self) -> Vec<NodeId> {
        self.iter().filter(|(_, peer)| peer.is_live()).map(|(id, _)| id).collect()
    }

    pub(super) fn process(&self, id: NodeId) -> Option<Boot> {
        self.get(id).map(|peer| peer.record.boot)
    }

    /// Forgets a disk that was replaced.
    pub(super) fn remove(&mut self, id: NodeId) {
        if let Some(peer) = self.map.remove(&id) {
            for conn in peer.conns {
                self.owners.remove(&conn);
            }
        }
    }

    /// Takes a node's own word, over a stream: false if there is no room for one more.
    pub(super) fn accept(&mut self, conn: ConnId, record: PeerRecord, now: Mono) -> bool {
        let id = record.descriptor.id;
        if !self.make_room(id) {
            return false;
        }
        let stale: Vec<NodeId> = self
            .named(&record.descriptor.name)
            .filter(|(other, peer)| *other != id && !peer.is_live())
            .map(|(other, _)| other)
            .collect();
        for stale in stale {
            self.map.remove(&stale);
        }
        let peer = self.map.entry(id).or_insert_with(|| Peer::new(record.clone()));
        if peer.record.boot != record.boot {
            for conn in std::mem::take(&mut peer.conns) {
                self.owners.remove(&conn);
            }
            peer.recalled = false;
            peer.announced = CommitNumber(0);
        }
        peer.record = record;
        if peer.conns.len() >= CONNS_MAX
            && let Some(oldest) = peer.conns.pop_first()
        {
            self.owners.remove(&oldest);
        }
        peer.conns.insert(conn);
        peer.heard = Some(now);
        (peer.silent, peer.gone, peer.accused) = (false, false, false);
        (peer.challenge, peer.streamless) = (None, None);
        self.owners.insert(conn, id);
        true
    }

    /// Takes somebody's word of a node. Says whether it is news.
    pub(super) fn hearsay(&mut self, record: PeerRecord) -> bool {
        let id = record.descriptor.id;
        if let Some(peer) = self.map.get_mut(&id) {
            let newer = record.generation > peer.record.generation && !peer.is_live();
            if newer && record.descriptor.name == peer.record.descriptor.name {
                peer.record = record;
                peer.recalled = false;
                peer.announced = CommitNumber(0);
                return true;
            }
            return false;
        }
        // A name that we know with another disk is left to that node's own word.
        if self.named(&record.descriptor.name).next().is_some() || self.map.len() >= PEERS_MAX {
            return false;
        }
        self.map.insert(id, Peer::new(record));
        true
    }

    /// A stream has ended. Says whose it was, if it was accepted.
    pub(super) fn broken(&mut self, conn: ConnId, now: Mono) -> Option<NodeId> {
        let id = self.owners.remove(&conn)?;
        let peer = self.map.get_mut(&id)?;
        peer.conns.remove(&conn);
        if !peer.is_live() {
            peer.streamless = Some(now);
            peer.challenge = None;
        }
        Some(id)
    }

    /// Nodes that are reached at this address.
    pub(super) fn at(&self, address: SocketAddr) -> Vec<NodeId> {
        self.iter().filter(|(_, peer)| peer.record.internal == address).map(|(id, _)| id).collect()
    }

    /// Makes room for a node by forgetting one that is dead and has never been a member's disk
    /// as far as gossip goes.
    fn make_room(&mut self, id: NodeId) -> bool {
        if self.map.contains_key(&id) || self.map.len() < PEERS_MAX {
            return true;
        }
        let dead = |peer: &Peer| {
            let down = peer.sight.is_none_or(|seen| seen.state == MemberState::Down);
            !peer.is_live() && down
        };
        let victim = self.iter().find(|(_, peer)| dead(peer)).map(|(id, _)| id);
        victim.is_some_and(|victim| self.map.remove(&victim).is_some())
    }
}
