//! Gossip: datagrams in and out, announcing, rejoining, and what a broken stream tells foca.
//!
//! A stream that broke and cannot be opened again is as good as a lost ping: such a node is made
//! a suspect at once, and condemned if it has not spoken up within the suspicion time. So a
//! killed process is known to be dead in a bounded time, however long the random order of probes
//! takes to come to it. A node whose streams alone are cut off refutes the suspicion over gossip.

use std::net::SocketAddr;

use bytes::Bytes;
use rand::RngExt;

use super::ControlEffect;
use super::peers::Seen;
use super::state::{Control, Timer};
use super::swim::{DatagramHeader, GossipId, Sighting, Swim, Wish};
use super::wire::{ControlMessage, MemberState, Sight};
use crate::types::NodeId;

/// A node announces itself about this often, in milliseconds, for ever.
pub(super) const ANNOUNCE_EVERY_MS: u64 = 4500;
/// And up to this much later.
pub(super) const ANNOUNCE_SPREAD_MS: u64 = 1000;
/// To so many nodes that gossip holds for dead or does not know, and to so many others.
pub(super) const ANNOUNCE_TO: usize = 3;
/// A node that was declared dead comes back after this, doubling up to [`REJOIN_MAX_MS`].
const REJOIN_MS: u64 = 200;
const REJOIN_MAX_MS: u64 = 6400;
/// Rejoins further apart than this have nothing to do with each other.
const REJOIN_CALM_MICROS: u64 = 30_000_000;
/// A rejoining node announces itself to so many.
const REJOIN_ANNOUNCE_TO: usize = 8;
/// A node of which a datagram came this lately lives, whatever its streams do.
const DATAGRAM_FRESH_MICROS: u64 = 1_500_000;
/// A node that gossip holds for dead, but that has a stream, is asked over it. It is taken for
/// gone if it says nothing for this long.
const ASK_MICROS: u64 = 3_000_000;

impl Control {
    pub(super) fn datagram(&mut self, from: SocketAddr, bytes: Bytes) {
        self.traffic.datagrams_in += 1;
        self.traffic.datagram_bytes_in += bytes.len() as u64;
        let (header, payload) = match DatagramHeader::unwrap(bytes) {
            Ok(parts) => parts,
            Err(error) => {
                self.traffic.datagrams_refused += 1;
                return self.refuse(&from.to_string(), &format!("its datagram: {error}"));
            }
        };
        let mine = self.datagram_header();
        let other_cluster =
            header.cluster != 0 && mine.cluster != 0 && header.cluster != mine.cluster;
        if header.cluster_name != mine.cluster_name || other_cluster {
            self.traffic.datagrams_refused += 1;
            let why = "its datagrams are those of another cluster (cluster.name or its id)";
            return self.refuse(&from.to_string(), why);
        }
        // Only of processes whose hello was judged, by us or by those who told us of it: a
        // process on a copied data folder must not get a word in.
        if self.peers.process(header.from) != Some(header.boot) {
            self.traffic.datagrams_unmet += 1;
            return;
        }
        let now = self.now.mono;
        if let Some(peer) = self.peers.get_mut(header.from) {
            peer.datagram = Some(now);
        }
        self.swim.datagram(&payload);
    }

    fn datagram_header(&self) -> DatagramHeader {
        let (id, boot) = (self.identity.id, self.identity.boot);
        DatagramHeader::new(&self.config.cluster_name, self.cluster(), id, boot)
    }

    /// Carries out what foca wants.
    pub(super) fn carry_out_gossip(&mut self) {
        let wishes = self.swim.wishes();
        if wishes.is_empty() {
            return;
        }
        let header = self.datagram_header();
        for wish in wishes {
            match wish {
                Wish::Send(to, payload) => {
                    let datagram = header.wrap(&payload);
                    self.traffic.datagrams_out += 1;
                    self.traffic.datagram_bytes_out += datagram.len() as u64;
                    self.effects.push(ControlEffect::SendDatagram(to.addr, datagram));
                }
                Wish::Schedule(after, timer) => {
                    let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
                    self.arm(micros, Timer::Swim(timer));
                }
                Wish::Changed => self.sights_changed = true,
                Wish::Dead => self.declared_dead(),
            }
        }
    }

    /// Looks for members, the dead and the unknown first.
    pub(super) fn announce(&mut self) {
        let next = self.jitter(ANNOUNCE_EVERY_MS, ANNOUNCE_SPREAD_MS);
        self.arm(next, Timer::Announce);
        let active = |seen: &Seen| matches!(seen.state, MemberState::Alive | MemberState::Suspect);
        let (living, missing): (Vec<_>, Vec<_>) = self.known().into_iter().partition(|who| {
            self.peers.get(who.id).and_then(|p| p.sight).is_some_and(|s| active(&s))
        });
        for group in [missing, living] {
            self.announce_to(group, ANNOUNCE_TO);
        }
    }

    fn announce_to(&mut self, mut group: Vec<GossipId>, count: usize) {
        for _ in 0..count.min(group.len()) {
            let chosen = self.rng.random_range(0..group.len());
            self.swim.announce(group.swap_remove(chosen));
        }
    }

    /// How to address every known node. An announcement reaches a node whatever its epoch.
    fn known(&self) -> Vec<GossipId> {
        let each = |(id, peer): (NodeId, &super::peers::Peer)| GossipId {
            id,
            epoch: peer.sight.map_or(0, |seen| seen.epoch),
            boot: peer.record.boot,
            addr: peer.record.internal,
        };
        self.peers.iter().map(each).collect()
    }

    fn declared_dead(&mut self) {
        if self.rejoin_armed || self.conditions.draining {
            return;
        }
        let now = self.now.mono;
        if self.rejoined.is_some_and(|at| now.micros_since(at) > REJOIN_CALM_MICROS) {
            self.rejoins = 0;
        }
        self.rejoin_armed = true;
        let wait = REJOIN_MAX_MS.min(REJOIN_MS << self.rejoins.min(16));
        self.rejoins += 1;
        let wait = self.jitter(wait, wait / 2);
        self.arm(wait, Timer::Rejoin);
    }

    pub(super) fn rejoin(&mut self) {
        self.rejoin_armed = false;
        self.rejoined = Some(self.now.mono);
        self.traffic.rejoins += 1;
        self.swim.rejoin(self.views.epoch_of(self.identity.id));
        let known = self.known();
        self.announce_to(known, REJOIN_ANNOUNCE_TO);
    }

    /// An address refused, or did not answer.
    pub(super) fn dial_failed(&mut self, address: SocketAddr) {
        let now = self.now.mono;
        for id in self.peers.at(address) {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            let spoke =
                peer.datagram.is_some_and(|at| now.micros_since(at) < DATAGRAM_FRESH_MICROS);
            let alive = peer.sight.is_some_and(|seen| seen.state == MemberState::Alive);
            if peer.is_live() || peer.streamless.is_none() || peer.accused || spoke || !alive {
                continue;
            }
            peer.accused = true;
            let Some(sighting) = find(&self.swim, id) else { continue };
            self.swim.tell(sighting.who, sighting.incarnation, MemberState::Suspect);
            let suspicion = u64::try_from(self.swim.suspicion().as_micros()).unwrap_or(u64::MAX);
            self.arm(suspicion, Timer::Condemn(sighting.who, sighting.incarnation));
            self.sights_changed = true;
        }
    }

    /// A suspect that has not spoken up, nor opened a stream, is dead.
    pub(super) fn condemn(&mut self, who: GossipId, incarnation: u16) {
        let Some(sighting) = find(&self.swim, who.id) else { return };
        let silent = self.peers.get(who.id).is_some_and(|peer| !peer.is_live() && peer.accused);
        let same = sighting.who == who && sighting.incarnation == incarnation;
        if silent && same && sighting.state == MemberState::Suspect {
            self.swim.tell(who, incarnation, MemberState::Down);
            self.sights_changed = true;
        }
    }

    /// Takes over what gossip says of everybody now. Its notifications leave things out (a
    /// suspicion, a new identity), so that the whole list is compared, and now and then anyway.
    pub(super) fn look_around(&mut self) {
        let now = self.now.mono;
        let sightings = self.swim.members();
        let mut ask = Vec::new();
        for Sighting { who, state, incarnation } in &sightings {
            let Some(peer) = self.peers.get_mut(who.id) else { continue };
            let before = peer.sight;
            let since = before.filter(|seen| seen.state == *state).map_or(now, |seen| seen.since);
            peer.sight =
                Some(Seen { state: *state, incarnation: *incarnation, epoch: who.epoch, since });
            match state {
                MemberState::Down if peer.is_live() && !peer.heard_since(since) => {
                    peer.gone = now.micros_since(since) >= ASK_MICROS;
                    ask.push(who.id);
                }
                MemberState::Alive => peer.gone = false,
                MemberState::Down | MemberState::Suspect | MemberState::Unknown => {}
            }
        }
        for id in ask {
            self.say(id, ControlMessage::Challenge(self.identity.boot));
        }
        let entry = |Sighting { who, state, incarnation }: Sighting| Sight {
            id: who.id,
            state,
            incarnation,
            epoch: who.epoch,
            reachable: self.peers.get(who.id).is_some_and(super::peers::Peer::is_reachable),
        };
        self.views.see(sightings.into_iter().map(entry).collect());
    }
}

fn find(swim: &Swim, id: NodeId) -> Option<Sighting> {
    swim.members().into_iter().find(|sighting| sighting.who.id == id)
}
