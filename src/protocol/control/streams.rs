//! Streams: whose they are, who is turned away, and what is said first.
//!
//! Two live processes with one id (a copied data folder) are told apart by their boot. A process
//! that claims an id whose other process has a live stream is asked to come back, while the other
//! is challenged over its stream: if it answers, the newcomer is told to stop; if it says nothing
//! (its machine lost power, and its stream has not broken yet), the newcomer takes its place.
//!
//! A rejection can make a node stop, so not everybody's counts: only that of a node which this one
//! has called, and a member of a founded cluster parts with its place only when a majority of the
//! members says that its disk is not the one they know. Otherwise one node brought from another
//! cluster, or anybody who can reach the port, could stop all.

use std::net::SocketAddr;

use bytes::Bytes;

use super::claim::turn_away;
use super::clocks::PeerClock;
use super::founding::Standing;
use super::marks::is_amnesia;
use super::peers::{Challenge, Life};
use super::rejection::{Rejection, RejectionCode};
use super::state::Control;
use super::swim::GossipId;
use super::wire::{ControlMessage, Hello, Mark, MemberState, PeerRecord, Push, Said};
use super::{ConnId, ControlEffect, Level};
use crate::types::{Boot, ClusterId, CommitNumber, NodeId, NodeName};

/// A challenged process that says nothing for this long is dead.
const CHALLENGE_MICROS: u64 = 2_000_000;

impl Control {
    pub(super) fn judge_hello(&mut self, conn: ConnId, bytes: Bytes) {
        let dialled = self.dialled.get(&conn).copied();
        let hello = match Hello::decode(bytes) {
            Ok(hello) => hello,
            Err(error) => {
                let why = format!("its hello cannot be read: {error}");
                let source =
                    dialled.map_or("somebody unknown".to_owned(), |address| address.to_string());
                self.refuse(&source, &why);
                self.dialled.remove(&conn);
                let rejection = RejectionCode::Stranger.with(why);
                return self.effects.push(ControlEffect::Reject(conn, rejection.to_string()));
            }
        };
        if let Some(address) = dialled
            && self.seeds.contains(&address)
            && address != hello.record.internal
        {
            self.aliases.insert(address, hello.record.descriptor.id);
        }
        let verdict = self.judge_sender(&hello).and_then(|()| {
            let record = hello.record.clone();
            let room = self.peers.accept(conn, record, self.now.mono);
            if room { Ok(()) } else { Err(RejectionCode::Later.with("too many nodes are known")) }
        });
        match verdict {
            Ok(()) => self.welcome(conn, hello),
            Err(rejection) => {
                self.dialled.remove(&conn);
                let descriptor = &hello.record.descriptor;
                let source = format!("{} at {}", descriptor.name, hello.record.internal);
                match rejection.code {
                    RejectionCode::Itself | RejectionCode::Later => {}
                    RejectionCode::Stranger
                    | RejectionCode::DuplicateId
                    | RejectionCode::OtherDisk
                    | RejectionCode::NameLives
                    | RejectionCode::Fenced
                    | RejectionCode::Removed => self.refuse(&source, &rejection.sentence),
                }
                self.effects.push(ControlEffect::Reject(conn, rejection.to_string()));
            }
        }
    }

    /// Whether a node that says this of itself belongs here.
    fn judge_sender(&mut self, hello: &Hello) -> Result<(), Rejection> {
        let record = &hello.record;
        let descriptor = &record.descriptor;
        if hello.cluster_name != self.config.cluster_name {
            let (theirs, ours) = (&hello.cluster_name, &self.config.cluster_name);
            let sentence = format!("its cluster is {theirs:?}, this one is {ours:?}");
            return Err(RejectionCode::Stranger.with(sentence));
        }
        if let (Some(theirs), Some(ours)) = (hello.cluster, self.cluster())
            && theirs != ours
        {
            let sentence = format!("its cluster's id is {theirs}, this one's is {ours}");
            return Err(RejectionCode::Stranger.with(sentence));
        }
        if descriptor.id == self.identity.id {
            return Err(self.judge_namesake(record));
        }
        self.judge_disk(record)?;
        self.judge_process(record)
    }

    /// Somebody with our own id: ourselves, or a process on a copy of our data folder. A process
    /// that a majority of members has confirmed goes on; counts of starts do not tell a copy from
    /// its original, which may have been started again since. Before the founding there is no
    /// such majority: the one that started later, by its own count, stops.
    fn judge_namesake(&mut self, record: &PeerRecord) -> Rejection {
        if record.boot == self.identity.boot {
            return RejectionCode::Itself.with("a node need not speak to itself");
        }
        let id = record.descriptor.id;
        let sentence = duplicate(&record.descriptor.name, id);
        if self.conditions.confirmed {
            return RejectionCode::DuplicateId.with(sentence);
        }
        if self.founding.cluster().is_some() {
            return RejectionCode::Later.with(sentence);
        }
        let mine = (self.identity.generation, self.identity.boot);
        if mine > (record.generation, record.boot) {
            self.stop(sentence.clone());
            return RejectionCode::Later.with(sentence);
        }
        RejectionCode::DuplicateId.with(sentence)
    }

    /// Whether the name and the disk belong together.
    fn judge_disk(&mut self, record: &PeerRecord) -> Result<(), Rejection> {
        let (name, id) = (&record.descriptor.name, record.descriptor.id);
        if let Some(cluster) = self.founding.cluster() {
            if let Some(admission) = cluster.fenced.get(&id) {
                return Err(turn_away(admission));
            }
            if let Some((other, _)) = cluster.ids.iter().find(|(n, i)| **i == id && *n != name) {
                return Err(RejectionCode::OtherDisk.with(format!(
                    "the disk {id} is that of {other} in this cluster, not of {name}: check \
                     node.name and the data folder"
                )));
            }
            match cluster.ids.get(name).copied() {
                Some(present) if present == id => return Ok(()),
                // Several may ask for one place: the admission decides.
                Some(present) if *name != self.identity.name || present == self.identity.id => {
                    return self.judge_claimant(record, present);
                }
                Some(_) | None => {}
            }
        }
        let mut rivals = self.peers.named(name);
        if *name == self.identity.name || rivals.any(|(other, peer)| other != id && peer.is_live())
        {
            return Err(RejectionCode::Stranger.with(format!(
                "another live node is named {name}: names are unique, check node.name"
            )));
        }
        Ok(())
    }

    /// Whether another process with this id lives.
    fn judge_process(&mut self, record: &PeerRecord) -> Result<(), Rejection> {
        let id = record.descriptor.id;
        let now = self.now.mono;
        let Some(peer) = self.peers.get(id) else { return Ok(()) };
        if !peer.is_live() || peer.record.boot == record.boot {
            return Ok(());
        }
        match self.challenge(id, record.boot) {
            Life::Proven => {
                Err(RejectionCode::DuplicateId.with(duplicate(&record.descriptor.name, id)))
            }
            Life::AskedSince(since) if now.micros_since(since) >= CHALLENGE_MICROS => Ok(()),
            Life::AskedSince(_) => {
                let sentence = "another process with this id has a stream: asking it";
                Err(RejectionCode::Later.with(sentence))
            }
        }
    }

    /// Whether a peer lives, which is asked because of another process, unless it was before.
    pub(super) fn challenge(&mut self, id: NodeId, by: Boot) -> Life {
        let now = self.now.mono;
        let Some(peer) = self.peers.get_mut(id) else { return Life::AskedSince(now) };
        match peer.challenge {
            Some(challenge) if !challenge.answered => Life::AskedSince(challenge.since),
            Some(challenge) if challenge.by == by => Life::Proven,
            Some(_) | None => {
                peer.challenge = Some(Challenge { since: now, by, answered: false });
                self.say(id, ControlMessage::Challenge(by));
                Life::AskedSince(now)
            }
        }
    }

    fn welcome(&mut self, conn: ConnId, hello: Hello) {
        let record = hello.record;
        self.disowned_by.remove(&record.internal);
        let id = record.descriptor.id;
        self.effects.push(ControlEffect::Accept(conn, id));
        if let Some(peer) = self.peers.get_mut(id) {
            peer.clock = Some(PeerClock { wall: hello.wall, at: self.now.mono });
        }
        self.founding.hear(record.descriptor.clone());
        self.note_record(record.descriptor.name.clone());
        self.say(id, ControlMessage::Remember(self.marks.of(id)));
        self.greet(id, hello.cluster);
        let gossip = GossipId { id, epoch: hello.epoch, boot: record.boot, addr: record.internal };
        self.swim.tell(gossip, 0, MemberState::Alive);
        self.swim.announce(gossip);
        self.sights_changed = true;
        self.refresh_view();
    }

    /// What a newly met peer should not have to wait for.
    fn greet(&mut self, id: NodeId, theirs: Option<ClusterId>) {
        let mut push = Push::default();
        match self.founding.cluster() {
            // A claimant may know of less, or of another founding: that is to be found out at once.
            Some(cluster) if theirs.is_some() && cluster.ids.values().any(|m| *m == id) => {
                push.placements = self.placements();
            }
            Some(cluster) => {
                push.placements = self.placements();
                push.founded = Some(cluster.record.clone());
                push.admissions = Some(cluster.admissions.clone());
            }
            None => push.promises = Some(self.founding.promises()),
        }
        self.say(id, ControlMessage::Push(Box::new(push)));
    }

    /// A peer rejected our hello.
    pub(super) fn rejected(&mut self, conn: ConnId, reason: &str) {
        let address = self.dialled.remove(&conn);
        let by = address.map_or("a peer".to_owned(), |address| address.to_string());
        let Some(rejection) = Rejection::parse(reason) else {
            return self.refuse(&by, "it rejected us for a reason that is none of ours");
        };
        match rejection.code {
            RejectionCode::Itself => {
                if let Some(address) = address {
                    self.aliases.insert(address, self.identity.id);
                }
            }
            RejectionCode::Later => self.put_off(),
            RejectionCode::Stranger => {
                let why = format!("it takes us for a stranger: {}", rejection.sentence);
                self.refuse(&by, &why);
            }
            RejectionCode::DuplicateId
            | RejectionCode::OtherDisk
            | RejectionCode::NameLives
            | RejectionCode::Fenced
            | RejectionCode::Removed => match address {
                None => self.refuse(&by, "it called to say that it rejects us"),
                Some(address) => self.turned_away(address, rejection),
            },
        }
    }

    /// A node that we called wants us to stop.
    fn turned_away(&mut self, by: SocketAddr, rejection: Rejection) {
        let has_place = self.founding.standing() == Some(Standing::Member);
        match rejection.code {
            RejectionCode::DuplicateId => self.stop(rejection.sentence),
            // A member parts with its place only when a majority says so.
            RejectionCode::NameLives if !has_place => self.place_is_taken(rejection.sentence),
            _ => self.disowned(by, rejection),
        }
    }

    /// Whether a majority has said so.
    pub(super) fn is_disowned(&self) -> bool {
        let Some(cluster) = self.founding.cluster() else { return !self.disowned_by.is_empty() };
        let fenced = matches!(self.founding.standing(), Some(Standing::Fenced(_)));
        // Two, at least, where this node knows nothing of it itself.
        let enough = if fenced { cluster.majority() } else { cluster.majority().max(2) };
        self.disowned_by.len() >= enough
    }

    /// The node at an address says that the cluster knows another disk under our name, or none.
    pub(super) fn disowned(&mut self, by: SocketAddr, rejection: Rejection) {
        let Rejection { code, sentence } = rejection;
        self.disowned_by.insert(by);
        if self.is_disowned() {
            return match code {
                RejectionCode::Removed => self.set_aside(sentence),
                _ => self.stop(sentence),
            };
        }
        let why =
            format!("it takes us for a stranger, but no majority of members does: {sentence}");
        self.refuse(&by.to_string(), &why);
    }

    pub(super) fn message(&mut self, from: NodeId, bytes: Bytes) {
        let Some(peer) = self.peers.get(from) else { return };
        let name = peer.record.descriptor.name.clone();
        let said = match Said::decode(bytes) {
            Ok(said) => said,
            Err(error) => {
                self.traffic.messages_refused += 1;
                return self.refuse(name.as_str(), &format!("it says nonsense: {error}"));
            }
        };
        if self.peers.process(from) != Some(said.boot) {
            self.traffic.messages_refused += 1;
            return;
        }
        if let (Some(theirs), Some(ours)) = (said.cluster, self.cluster())
            && theirs != ours
        {
            let why = format!("its cluster's id is {theirs}, this one's is {ours}");
            self.refuse(name.as_str(), &why);
            return self.part(from, &RejectionCode::Stranger.with(why));
        }
        self.traffic.messages_in += 1;
        let at = self.now.mono;
        if let Some(peer) = self.peers.get_mut(from) {
            peer.heard = Some(at);
            peer.clock = Some(PeerClock { wall: said.wall, at });
            peer.gone = false;
        }
        match said.message {
            ControlMessage::Remember(mark) => self.remembered(from, mark),
            ControlMessage::Recalled => self.recalled(from),
            ControlMessage::Challenge(by) => self.say(from, ControlMessage::Alive(by)),
            ControlMessage::Alive(by) => {
                let asked = self.peers.get_mut(from).and_then(|peer| peer.challenge.as_mut());
                if let Some(challenge) = asked.filter(|challenge| challenge.by == by) {
                    challenge.answered = true;
                }
            }
            ControlMessage::Digest(digests) => self.digest(from, digests),
            ControlMessage::Push(push) => self.push(from, *push),
            ControlMessage::Claim(claim) => self.claimed(from, &claim),
            ControlMessage::Verdict(verdict) => self.judged(from, *verdict),
        }
    }

    /// A peer tells what it knows of our commits.
    fn remembered(&mut self, from: NodeId, mark: Mark) {
        let me = &self.identity;
        if is_amnesia(mark, me.generation, me.boot, me.recovered) {
            let name = self.peers.get(from).map(|peer| peer.record.descriptor.name.to_string());
            let sentence = format!(
                "{} remembers commit {} of this node's generation {}, but this data folder ends at \
                 commit {}, before generation {}: it has forgotten acknowledged writes (an old \
                 copy of the folder, or a disk that lied)",
                name.unwrap_or_default(),
                mark.number.0,
                mark.generation.0,
                me.recovered.0,
                me.generation.0,
            );
            return self.forget(sentence);
        }
        self.marks.answered(from);
        self.say(from, ControlMessage::Recalled);
    }

    /// A peer has judged what we know of it: from now on its announcements count.
    fn recalled(&mut self, from: NodeId) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        peer.recalled = true;
        let announced = peer.announced;
        self.synced(from, announced);
    }

    pub(super) fn synced(&mut self, from: NodeId, number: CommitNumber) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        peer.announced = peer.announced.max(number);
        if peer.recalled {
            self.marks.synced(from, peer.record.generation, peer.record.boot, peer.announced);
        }
    }

    /// Tells peers again what we know of them, until they have judged it.
    pub(super) fn remind(&mut self) {
        for id in self.peers.live() {
            if self.peers.get(id).is_some_and(|peer| !peer.recalled) {
                self.say(id, ControlMessage::Remember(self.marks.of(id)));
            }
        }
    }

    pub(super) fn broken(&mut self, conn: ConnId) {
        self.dialled.remove(&conn);
        if self.peers.broken(conn, self.now.mono).is_some() {
            self.sights_changed = true;
        }
    }

    /// Sends a control message to a peer, if it has a stream.
    pub(super) fn say(&mut self, to: NodeId, message: ControlMessage) {
        if self.peers.get(to).is_none_or(|peer| !peer.is_live()) {
            return;
        }
        self.traffic.messages_out += 1;
        let said = Said {
            boot: self.identity.boot,
            cluster: self.cluster(),
            wall: self.now.wall,
            message,
        };
        self.effects.push(ControlEffect::Send(to, said.encode()));
    }

    /// Sends news of ours to everybody.
    pub(super) fn tell_all(&mut self, push: impl Fn() -> Push) {
        for id in self.peers.live() {
            self.say(id, ControlMessage::Push(Box::new(push())));
        }
    }

    /// Closes all streams of a peer.
    pub(super) fn part(&mut self, id: NodeId, rejection: &Rejection) {
        let conns = self.peers.get(id).map(|peer| peer.conns.clone()).unwrap_or_default();
        for conn in conns {
            self.broken(conn);
            self.effects.push(ControlEffect::Reject(conn, rejection.to_string()));
        }
    }

    /// The cluster has just been founded: part with those who are not as it says.
    pub(super) fn part_with_strangers(&mut self) {
        for id in self.peers.live() {
            let Some(peer) = self.peers.get(id) else { continue };
            let record = peer.record.clone();
            let Some(cluster) = self.founding.cluster() else { return };
            let name = &record.descriptor.name;
            if cluster.ids.iter().any(|(n, i)| *i == id && n != name) {
                let sentence =
                    format!("the disk of {name} is another's in the cluster that was founded");
                self.log(Level::Warn, format!("parting with {name}: {sentence}"));
                self.part(id, &RejectionCode::OtherDisk.with(sentence));
            }
        }
    }
}

fn duplicate(name: &NodeName, id: NodeId) -> String {
    format!(
        "another live process has the id {id} of {name}: a data folder was copied; stop one of \
         them, and start the other with a folder of its own"
    )
}
