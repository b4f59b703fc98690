//! Asking for the place of a name, and judging who asks: see [`super::admission`] for why it is safe.
//!
//! A disk whose name is another disk in its cluster is a *claimant*: an emptied disk, or one that found
//! that it had forgotten something and goes on as another (*anew*). Either way its partitions were
//! marked as lost before, in the same batch that names its id.
//!
//! A forgetful disk changes its id in this order, each step durable before the next: markers and the
//! new id in one batch; then, at the next start and before anything else, the folder's identity; then
//! it claims. A crash in between leaves the old id unused, or is made good at the next start.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::RngExt;

use super::Level;
use super::admission::{ADMISSION_PREFIX, admission_key};
use super::admission::{Admission, Ballot, Bid, Claim, Progress, Ruling, VOTE_KEY, Verdict, Vote};
use super::founding::{Cluster, FOUNDED_KEY, Standing, whole};
use super::peers::{Life, Peer};
use super::rejection::{Rejection, RejectionCode};
use super::settle::put;
use super::state::{Control, Pending, Timer};
use super::wire::{ControlMessage, Founded, PeerRecord, Push, put_u64};
use crate::protocol::codec::{DecodeError, Reader};
use crate::protocol::lost;
use crate::protocol::message::PlacementTag;
use crate::protocol::step::{Change, Space};
use crate::types::{Mono, NodeId, NodeName, Wall};

/// Where it is stored which disk a folder goes on as, and since when.
pub(super) const ANEW_KEY: &[u8] = b"control/anew";
/// A disk that was not heard for this long may be replaced. Longer than a restart's stream is away for
/// a process that was only started again, and than the challenge of a silent one.
const HUSH_MICROS: u64 = 3_000_000;
/// A claimant asks about this often, in milliseconds: an attempt takes a few round trips.
const CLAIM_EVERY_MS: u64 = 700;
/// And up to this much later, so that rivals do not outbid each other for ever.
const CLAIM_SPREAD_MS: u64 = 800;
/// A claimant ends if it is told for longer than this that the disk in its place lives: what that one
/// said before it died may be under way for a while.
const TAKEN_MICROS: u64 = 6_000_000;
/// A bid may take this long: disks that are slow to sync answer it twice. After that, messages of it
/// were lost.
const BID_MICROS: u64 = 8_000_000;
/// A claimant begins this long after it has learnt that it is one, and stands back for as long after a
/// member has put it off: by then, every member that can be asked has said whether it hears the other.
const PUT_OFF_MICROS: u64 = 1_500_000;
/// What a member said of a claim is shown for so long.
const SAID_MICROS: u64 = 10_000_000;

/// A disk that goes on, or begins, with nothing that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Anew {
    pub(super) id: NodeId,
    /// The disk that the name was, as far as was known then.
    pub(super) before: NodeId,
    pub(super) since: Wall,
    /// Something is left on it of what it held before.
    pub(super) has_past: bool,
}

/// This member's vote, and this disk's own claim.
#[derive(Default)]
pub(super) struct Claims {
    /// What is told of it is durable by then.
    pub(super) vote: Vote,
    /// An admission is on its way to the disk.
    admitting: bool,
    pub(super) anew: Option<Anew>,
    /// By name, what this node has proposed: the disk that it is to be, and that it is.
    pub(super) proposals: BTreeMap<NodeName, (NodeId, NodeId)>,
    /// The number that was last said to hold up a version, since this disk had voted in it.
    pub(super) settles: Option<u64>,
    /// This node has left the ring, and gives up its place.
    pub(super) departs: bool,
    /// Markers and the next id are on their way to the disk.
    pub(super) forgetting: bool,
    pub(super) bid: Option<Bid>,
    /// When the bid began.
    begun: Option<Mono>,
    /// Another's admission that members would not vote for, and when they said so.
    vetoed: Option<(Admission, Mono)>,
    /// The highest round that was heard of.
    round: u64,
    /// When to bid next.
    pub(super) next: Option<Mono>,
    /// When it was told first, and last, that the disk in the place lives.
    taken: Option<(Mono, Mono)>,
    /// When a member last put it off.
    put_off: Option<Mono>,
    /// Why a member does not agree, and when it said so.
    said: Option<(String, Mono)>,
}

impl Anew {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.id.0.to_le_bytes().to_vec();
        out.extend_from_slice(&self.before.0.to_le_bytes());
        put_u64(&mut out, self.since.0);
        out.push(self.has_past.into());
        out
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (id, before) = (NodeId(r.u128()?), NodeId(r.u128()?));
        Ok(Self { id, before, since: Wall(r.u64()?), has_past: r.bool()? })
    }
}

/// What must be durable, in one batch, before the id of an empty or forgetful disk is used.
pub(super) fn begin_anew(anew: &Anew, partitions: u16) -> impl Iterator<Item = Change> {
    lost::mark_all(partitions).chain([put(ANEW_KEY, anew.encode())])
}

/// The changes, to be made durable in one batch, by which the disk `before` becomes the disk `id` that
/// has forgotten everything; `durable` is what it holds of the cluster, and `has_past` whether it holds
/// anything at all. `partitions` is for a disk that knows no cluster.
#[must_use]
pub fn forget(
    durable: &[(Bytes, Bytes)],
    has_past: bool,
    before: NodeId,
    id: NodeId,
    partitions: u16,
    since: Wall,
) -> Vec<Change> {
    let founded = durable.iter().find(|(key, _)| key == FOUNDED_KEY);
    let founded =
        founded.and_then(|(_, value)| whole(value, |r| Ok((r.text()?, Founded::decode(r)?))));
    let cluster = founded.and_then(|(name, record)| Cluster::read(record, &name));
    let partitions = cluster.map_or(partitions, |cluster| cluster.first.partitions);
    let anew = Anew { id, before, since, has_past };
    begin_anew(&anew, partitions).collect()
}

/// The disk that a folder goes on as, by what is durable in it; none if it is what it always was.
#[must_use]
pub fn goes_on_as(durable: &[(Bytes, Bytes)]) -> Option<NodeId> {
    let (_, value) = durable.iter().find(|(key, _)| key == ANEW_KEY)?;
    whole(value, Anew::decode).map(|anew| anew.id)
}

/// What is told to a disk that was replaced or removed.
pub(super) fn fenced(admission: &Admission) -> String {
    let Admission { number, name, id, predecessor } = admission;
    if admission.removes() {
        return format!(
            "the disk {predecessor} of {name} was removed from the cluster (admission {number}) and is \
             fenced for good: its node sets the data folder's contents aside and joins anew"
        );
    }
    format!(
        "the disk {predecessor} of {name} was replaced by {id} (admission {number}) and is fenced for \
         good: set its data folder aside, and start {name} with the folder of {id} or an empty one"
    )
}

/// How a disk that was replaced or removed is turned away.
pub(super) fn turn_away(admission: &Admission) -> Rejection {
    let code = if admission.removes() { RejectionCode::Removed } else { RejectionCode::Fenced };
    code.with(fenced(admission))
}

impl Control {
    /// If this disk is not that of its name, it asks to be; if it was replaced, it ends.
    pub(super) fn begin_claiming(&mut self) {
        match self.founding.standing() {
            // Only a disk that began anew, its markers durable, may ask for a place: a guest, whose name
            // another disk was given meanwhile, has none.
            Some(Standing::Claimant(present)) if self.claims.anew.is_none() => {
                let name = &self.identity.name;
                let why = format!("{name} became the disk {present} before this one entered");
                self.forget(why);
            }
            Some(Standing::Claimant(present)) => {
                let (name, me) = (&self.identity.name, self.identity.id);
                let sentence = format!(
                    "{name} is the disk {present} in its cluster, and this one ({me}) is empty or has \
                     forgotten something: it asks for the place, and is rebuilt from the others"
                );
                self.log(Level::Warn, sentence);
                self.claims.put_off = Some(self.now.mono);
                self.claim_at_once();
            }
            Some(Standing::Fenced(admission)) => self.cast_out(&admission),
            Some(Standing::Guest) if self.is_outlived() => {
                let name = &self.identity.name;
                let sentence = format!(
                    "{name} was removed from the cluster before this disk, which had forgotten something, \
                     took its place: its node sets the data folder's contents aside and joins anew"
                );
                self.set_aside(sentence);
            }
            Some(Standing::Member | Standing::Guest) | None => {}
        }
    }

    /// Whether something is left here of a member that was removed.
    fn is_outlived(&self) -> bool {
        let removed = |cluster: &Cluster| cluster.removed.contains(&self.identity.name);
        self.has_past() && self.founding.cluster().is_some_and(removed)
    }

    /// Whether something may be left on this disk of what it held under another id.
    pub(super) fn has_past(&self) -> bool {
        self.claims.anew.as_ref().is_some_and(|anew| anew.has_past)
    }

    pub(super) fn claim_at_once(&mut self) {
        self.claims.bid = None;
        self.claims.next = Some(self.now.mono);
        self.arm(0, Timer::Claim);
    }

    /// Makes a bid for the place of this node's name, or for what it has proposed.
    pub(super) fn claim(&mut self) {
        if self.claims.next.is_none_or(|next| self.now.mono < next) {
            return;
        }
        self.claims.next = None;
        let Some(own) = self.wanted() else {
            self.claims.bid = None;
            return;
        };
        let claims_own = own.id == self.identity.id;
        let next = self.jitter(CLAIM_EVERY_MS, CLAIM_SPREAD_MS);
        self.claims.next = Some(self.now.mono.after_micros(next));
        self.arm(next, Timer::Claim);
        let begun = self.claims.begun.filter(|_| self.claims.bid.is_some());
        let under_way = begun.is_some_and(|at| self.now.mono.micros_since(at) < BID_MICROS);
        if (claims_own && self.stands_back()) || under_way {
            return;
        }
        self.claims.begun = Some(self.now.mono);
        self.claims.round += 1;
        let ballot = Ballot { round: self.claims.round, boot: self.identity.boot.0 };
        let vetoed = self.claims.vetoed.as_ref();
        let vetoed = vetoed.filter(|(_, at)| self.now.mono.micros_since(*at) < SAID_MICROS);
        let vetoed = vetoed.map(|(admission, _)| admission.clone());
        self.claims.bid = Some(Bid::new(ballot, own.clone(), vetoed));
        self.ask_members(ballot, own, false);
    }

    /// Whether a member that could be asked may still hear the disk in the place: nobody else's word
    /// makes up for that.
    fn stands_back(&self) -> bool {
        let within = |at: Option<Mono>, micros: u64| {
            at.is_some_and(|at| self.now.mono.micros_since(at) < micros)
        };
        let taken = self.claims.taken.map(|(_, last)| last);
        within(taken, SAID_MICROS) || within(self.claims.put_off, PUT_OFF_MICROS)
    }

    /// The newest live version; before the founding, none.
    fn newest(&self) -> PlacementTag {
        self.placement().map(|version| version.tag).unwrap_or_default()
    }

    fn ask_members(&mut self, ballot: Ballot, admission: Admission, accept: bool) {
        let ordered = admission.removes() && self.to_remove() == Some(&admission.name);
        let claim = Claim { ballot, admission, accept, newest: self.newest(), ordered };
        let (me, members) = (self.identity.id, self.member_ids());
        if members.contains(&me) {
            self.claimed(me, &claim);
            // What this member itself will not vote for is put to no vote.
            if self.claims.bid.is_none() {
                return;
            }
        }
        for id in members.into_iter().filter(|id| *id != me) {
            self.say(id, ControlMessage::Claim(Box::new(claim.clone())));
        }
    }

    /// Tells a proposer, which may be this node, how its claim was judged.
    pub(super) fn rule(&mut self, to: NodeId, verdict: Box<Verdict>) {
        if to == self.identity.id {
            return self.judged(to, *verdict);
        }
        self.say(to, ControlMessage::Verdict(verdict));
    }

    fn member_ids(&self) -> Vec<NodeId> {
        self.founding.cluster().map(|c| c.ids.values().copied().collect()).unwrap_or_default()
    }

    /// What a member last said against a claim, if that was lately.
    pub(super) fn said_against(&self) -> Option<String> {
        let (said, at) = self.claims.said.as_ref()?;
        (self.now.mono.micros_since(*at) < SAID_MICROS).then(|| said.clone())
    }

    /// A disk asks for a place, or a member asks on behalf of a name.
    pub(super) fn claimed(&mut self, from: NodeId, claim: &Claim) {
        let Some(cluster) = self.founding.cluster() else { return };
        let number = cluster.next_number();
        if claim.admission.number < number {
            let (founded, admissions) = (cluster.record.clone(), cluster.admissions.clone());
            let push =
                Push { founded: Some(founded), admissions: Some(admissions), ..Push::default() };
            return self.say(from, ControlMessage::Push(Box::new(push)));
        }
        if claim.admission.number > number {
            let digests = self.digests();
            self.say(from, ControlMessage::Digest(digests));
            // It asks again at its next turn, rather than when it takes its messages for lost.
            let (number, ballot) = (claim.admission.number, claim.ballot);
            return self.rule(from, Box::new(Verdict { number, ballot, ruling: Ruling::NotYet }));
        }
        if !cluster.follows(&claim.admission) {
            let name = claim.admission.name.to_string();
            return self.refuse(&name, "it claims a place that is not as it says");
        }
        let ruling = self.ruling(from, claim);
        let verdict = Box::new(Verdict { number, ballot: claim.ballot, ruling });
        if !verdict.ruling.is_vote() {
            return self.rule(from, verdict);
        }
        let mut value = Vec::new();
        self.claims.vote.encode(&mut value);
        self.write(vec![put(VOTE_KEY, value)], Pending::Verdict(from, verdict));
    }

    /// What this node says to a claim to the next admission, which follows from the ones before.
    fn ruling(&mut self, from: NodeId, claim: &Claim) -> Ruling {
        let Claim { admission, newest, ordered, .. } = claim;
        // A disk that takes its name's place must know of which partitions it is home: nothing of them is here.
        if admission.id == from && newest.lacks(self.newest()) {
            let placements = self.placements();
            self.say(from, ControlMessage::Push(Box::new(Push { placements, ..Push::default() })));
            return Ruling::NotYet;
        }
        if self.founding.standing() != Some(Standing::Member) || !self.conditions.confirmed {
            return Ruling::NotYet;
        }
        let is_member = self.is_named(&admission.name);
        // A name enters only once no live version means another disk by it.
        if admission.enters() && is_member {
            return Ruling::NotYet;
        }
        let departs = admission.removes() && from == admission.predecessor;
        let displaces = !admission.enters() && !admission.reaffirms() && !departs;
        if displaces && self.hears(admission.predecessor) {
            return Ruling::Lives(admission.predecessor);
        }
        // A member is removed by itself, or by order.
        if admission.removes() && is_member && !departs && !ordered {
            return Ruling::IsMember;
        }
        self.claims.vote.judge(admission.number, claim)
    }

    /// A member has judged this disk's claim.
    pub(super) fn judged(&mut self, from: NodeId, verdict: Verdict) {
        let Some(cluster) = self.founding.cluster() else { return };
        let Some(by) = cluster.ids.iter().find(|(_, id)| **id == from).map(|(name, _)| name) else {
            return;
        };
        let Some(bid) = &mut self.claims.bid else { return };
        let Verdict { number, ballot, ruling } = verdict;
        if (number, ballot) != (bid.number(), bid.ballot) {
            return;
        }
        let members = cluster.ids.len();
        let progress = match ruling {
            Ruling::Promised(Some((_, voted))) if !cluster.follows(&voted) => return,
            Ruling::Promised(before) => bid.promised(from, before, members),
            Ruling::Accepted => bid.accepted(from, members),
            Ruling::Outbid(higher) => {
                self.claims.round = self.claims.round.max(higher.round);
                self.claims.bid = None;
                Progress::Waiting
            }
            Ruling::Lives(id) => {
                let claims_own = bid.own().id == self.identity.id;
                let heard = format!("{by} has heard the disk {id} only lately");
                self.vetoed(if claims_own { format!("{heard}: {STOP_ONE}") } else { heard })
            }
            Ruling::IsMember => {
                let name = &bid.anothers().unwrap_or(bid.own()).name;
                let said = format!(
                    "{by} does not vote for the removal of {name}, which is a member: if it is not to come \
                     back, `coterie remove {name} --force`"
                );
                self.vetoed(said)
            }
            Ruling::NotYet => {
                let sentence = format!(
                    "{by} cannot vote yet: a majority has to confirm its disk, and this node to know the ring"
                );
                self.claims.said = Some((sentence, self.now.mono));
                // The others may suffice; if not, it is asked again at the next turn.
                self.claims.begun = None;
                Progress::Waiting
            }
        };
        match progress {
            Progress::Waiting => {}
            Progress::Ask(admission) => {
                self.ask_members(ballot, admission, true);
            }
            Progress::Chosen(admission) => {
                self.claims.bid = None;
                self.admit_durably(vec![admission]);
            }
        }
    }

    /// A member will not vote for what is asked for, and nobody else's word makes up for it: this node stands back
    /// until its next turn.
    fn vetoed(&mut self, said: String) -> Progress {
        if let Some(bid) = self.claims.bid.take()
            && let Some(anothers) = bid.anothers()
        {
            self.claims.vetoed = Some((anothers.clone(), self.now.mono));
        }
        if self.claims.said.as_ref().is_none_or(|(last, _)| *last != said) {
            self.log(Level::Warn, said.clone());
        }
        self.claims.said = Some((said, self.now.mono));
        Progress::Waiting
    }

    /// An operator orders what members would not vote for before: they are asked again, at once.
    pub(super) fn ask_anew(&mut self) {
        self.claims.vetoed = None;
        self.claim_at_once();
    }

    /// Somebody tells which admissions there were.
    pub(super) fn told_admissions(&mut self, told: Vec<Admission>, by: &NodeName) {
        let Some(mut cluster) = self.founding.cluster().cloned() else { return };
        let mut fresh = Vec::new();
        for admission in told {
            let at = usize::try_from(admission.number.saturating_sub(1)).unwrap_or(usize::MAX);
            if cluster.admissions.get(at) == Some(&admission) {
                continue;
            }
            if !cluster.admit(admission.clone()) {
                return self
                    .refuse(by.as_str(), "it knows another history of this cluster's disks");
            }
            fresh.push(admission);
        }
        if !fresh.is_empty() {
            self.admit_durably(fresh);
        }
    }

    /// What is told while another is on its way to the disk will be told again.
    fn admit_durably(&mut self, admissions: Vec<Admission>) {
        if std::mem::replace(&mut self.claims.admitting, true) {
            return;
        }
        let change = |admission: &Admission| {
            let mut value = Vec::new();
            admission.encode(&mut value);
            let key = admission_key(admission.number);
            debug_assert!(key.starts_with(ADMISSION_PREFIX));
            Change { space: Space::Meta, key, value: Some(value.into()) }
        };
        let changes = admissions.iter().map(change).collect();
        self.write(changes, Pending::Admitted(admissions));
    }

    /// Admissions are durable: the replaced disks are fenced from now on.
    pub(super) fn admitted(&mut self, admissions: Vec<Admission>) {
        self.claims.admitting = false;
        for admission in admissions {
            if !self.founding.admit(admission.clone()) {
                continue;
            }
            let name = &admission.name;
            // A copy of what it held is gone with a member.
            let is_loss = admission.removes() && self.is_named(name);
            let level = if is_loss { Level::Warn } else { Level::Info };
            self.log(level, self.told_of(&admission));
            if admission.reaffirms() {
                continue;
            }
            if let Some(ring) = &mut self.ring {
                ring.heard.forget(name);
            }
            self.note_record(name.clone());
        }
        // A replaced disk that still lives hears of it, too, before the others part with it.
        let known = self.founding.cluster().map(|cluster| cluster.admissions.clone());
        self.tell_all(|| Push { admissions: known.clone(), ..Push::default() });
        let ends = match self.founding.standing() {
            Some(Standing::Fenced(_)) => true,
            Some(Standing::Claimant(_)) => self.claims.anew.is_none(),
            Some(Standing::Guest) => self.is_outlived(),
            Some(Standing::Member) | None => false,
        };
        if ends {
            return self.begin_claiming();
        }
        if self.wanted().is_some() {
            self.claim_at_once();
        }
        self.refresh_view();
    }

    /// What is logged of an admission that has become durable.
    fn told_of(&self, admission: &Admission) -> String {
        let Admission { number, name, id, predecessor } = admission;
        if admission.removes() {
            format!("{name} was removed (admission {number}); its disk {predecessor} is fenced")
        } else if admission.enters() {
            format!("{name} has entered with the disk {id} (admission {number})")
        } else if admission.reaffirms() {
            format!("{name} is the disk {id} as before (admission {number})")
        } else if *id == self.identity.id {
            format!(
                "this disk is {name} from now on (admission {number}); the old id {predecessor} is \
                 fenced; it takes writes, and its reads count again as its partitions are rebuilt"
            )
        } else {
            format!("{name} is the disk {id} from now on; the old id {predecessor} is fenced")
        }
    }

    /// Parts with replaced disks, which were told.
    pub(super) fn part_with_fenced(&mut self) {
        let Some(cluster) = self.founding.cluster() else { return };
        let known = |(id, admission): (&NodeId, &Admission)| {
            self.peers.get(*id).map(|_| (*id, turn_away(admission)))
        };
        let gone: Vec<_> = cluster.fenced.iter().filter_map(known).collect();
        for (id, rejection) in gone {
            self.part(id, &rejection);
            self.peers.remove(id);
        }
    }

    /// Whether a disk was heard lately. One that has a stream and does not answer when it is asked
    /// whether it lives is not: its machine is gone.
    pub(super) fn hears(&self, id: NodeId) -> bool {
        let lately =
            |at: Option<Mono>| at.is_some_and(|at| self.now.mono.micros_since(at) < HUSH_MICROS);
        if lately(Some(self.began)) || id == self.identity.id {
            return true;
        }
        let Some(peer) = self.peers.get(id) else { return false };
        let asked = peer.challenge.filter(|challenge| !challenge.answered);
        let silent = asked.is_some_and(|challenge| !lately(Some(challenge.since)));
        (peer.is_live() && !silent) || lately(peer.streamless) || lately(peer.datagram)
    }

    /// Whether a disk may speak here as a claimant of a name that is the disk `present`.
    pub(super) fn judge_claimant(
        &mut self,
        record: &PeerRecord,
        present: NodeId,
    ) -> Result<(), Rejection> {
        let (name, id) = (&record.descriptor.name, record.descriptor.id);
        let taken = format!(
            "{name} is the disk {present} in this cluster, which lives, and this is {id}: {STOP_ONE}"
        );
        if present == self.identity.id {
            return Err(RejectionCode::NameLives.with(taken));
        }
        if !self.hears(present) {
            return Ok(());
        }
        let live = self.peers.get(present).is_some_and(Peer::is_live);
        if live && self.challenge(present, record.boot) == Life::Proven {
            // The next time it is asked anew.
            if let Some(peer) = self.peers.get_mut(present) {
                peer.challenge = None;
            }
            return Err(RejectionCode::NameLives.with(taken));
        }
        let sentence = format!("the disk {present} of {name} was heard only lately: asking it");
        Err(RejectionCode::Later.with(sentence))
    }

    /// A node that we called will say more later.
    pub(super) fn put_off(&mut self) {
        self.claims.put_off = Some(self.now.mono);
    }

    /// A node that we called says that the disk in the place that we ask for lives.
    pub(super) fn place_is_taken(&mut self, sentence: String) {
        let now = self.now.mono;
        let fresh = self.claims.taken.filter(|(_, last)| now.micros_since(*last) < SAID_MICROS);
        let since = fresh.map_or(now, |(first, _)| first);
        self.claims.taken = Some((since, now));
        if self.now.mono.micros_since(since) >= TAKEN_MICROS {
            return self.stop(sentence);
        }
        self.claims.said = Some((sentence, self.now.mono));
    }

    /// This disk has forgotten something: it goes on as another one.
    pub(super) fn forget(&mut self, sentence: String) {
        let id = NodeId(self.rng.random());
        self.claims.forgetting = true;
        let partitions = self.placement().map_or(self.config.partitions, |p| p.partitions);
        let (before, since) = (self.identity.id, self.now.wall);
        let anew = Anew { id, before, since, has_past: true };
        let changes = begin_anew(&anew, partitions).collect();
        let why = format!("{sentence}; it goes on as the disk {id}, rebuilt from the others");
        self.log(Level::Warn, why.clone());
        self.write(changes, Pending::Forgotten(why));
    }

    /// For what a claimant waits, and what would end it; none if this disk is that of its name.
    pub(super) fn claim_waits_for(&self) -> Option<String> {
        if self.claims.forgetting {
            return Some("it has forgotten something, and goes on as another disk".to_owned());
        }
        let fresh = |at: Mono| self.now.mono.micros_since(at) < SAID_MICROS;
        let said = self.claims.said.as_ref().filter(|(_, at)| fresh(*at)).map(|(said, _)| said);
        let Some(cluster) = self.founding.cluster() else { return said.cloned() };
        let Standing::Claimant(present) = self.founding.standing()? else { return None };
        let agreed = self.claims.bid.as_ref().map_or(0, Bid::agreed);
        let majority = cluster.majority();
        let mut sentence = format!(
            "asks for the place of {}, which is the disk {present}: {agreed} of {majority} members \
             agree so far",
            self.identity.name
        );
        if let Some(said) = said {
            sentence = format!("{sentence}; {said}");
        }
        let absent = |id: NodeId| self.peers.get(id).is_none_or(|peer| !peer.is_live());
        let others = cluster.ids.iter().filter(|(name, _)| **name != self.identity.name);
        let absent: Vec<&str> =
            others.filter(|(_, id)| absent(**id)).map(|(name, _)| name.as_str()).collect();
        if cluster.ids.len() - 1 - absent.len() < majority {
            let names = absent.join(", ");
            sentence = format!(
                "{sentence}; too few members are there to agree: start {names} with the folders that \
                 they had. If the disks of a majority are lost for good, save what is left (`coterie \
                 export --consistency one FILE` from a node that still serves) and import it into a new cluster"
            );
        }
        Some(sentence)
    }

    /// Since when this disk has been rebuilt, and the one that it replaces.
    #[must_use]
    pub fn began_anew(&self) -> Option<(Wall, NodeId)> {
        self.claims.anew.as_ref().map(|anew| (anew.since, anew.before))
    }
}

const STOP_ONE: &str = "two nodes claim one name; stop the one that should not run, or give it \
                        another node.name";
