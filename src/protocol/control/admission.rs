//! Admissions: how a name gets its first disk, another one, or none any more.
//!
//! A *name* is a place on the ring, and an *id* is a disk. Admission number k says that from then on
//! a name is another id, and that the id which it was, its *predecessor*, is fenced for good. A name
//! that was nobody before *enters*: the steward, or an operator, is about to make it a member. One that is
//! nobody from then on is *removed*: it died and an operator gave it up, or it has left the ring. The
//! admissions of a cluster are one sequence, which every node keeps: with the disks of the founding
//! it says what disk each name is now. The placement version does not change.
//!
//! *One winner for each number.* Number k is decided by one instance of Paxos's synod (Lamport, *The
//! Part-Time Parliament*, 1998). Its acceptors are the ids that the names have after k − 1, one for each
//! name; so the acceptors of an instance are fixed, a majority is one of all members, never of the
//! living, and an id that lost its votes with its disk is no acceptor of any later instance. The
//! proposer is the disk that claims a place. Its ballots carry its boot: a restarted proposer never uses
//! one twice, and keeps nothing.
//!
//! ```text
//!   claimant                                members
//!   writes lost/ markers + founding, fsync
//!   Claim{prepare, ballot, its admission} ─▶ testify that they do not hear the predecessor
//!                                            write the promise, fsync
//!           ◀─ Verdict{promised, vote given before} ─
//!   on a majority: the vote of the highest
//!   ballot if there is one, else its own
//!   Claim{accept, ballot, admission} ──────▶ testify again, write the vote, fsync
//!           ◀─ Verdict{accepted} ───────────
//!   on a majority: write the admission, fsync; tell all; they write it, fsync, and from then on
//!   refuse the predecessor, route to the new id, and tell others
//! ```
//!
//! *A crash between any two steps.* Before the markers are durable nobody was asked, and they are
//! written again. A promise or a vote binds only once it is durable, and is told only then. A claimant
//! that dies after a majority voted is admitted without knowing it: the next proposer, itself after its
//! restart or another claimant, finds the vote and must bring it to its end. A member that misses the
//! end learns the admission from anybody. The new id serves only when its own admission is durable on
//! its disk, and by then its markers have been for long.
//!
//! *Testimony.* A member votes only if it has not heard the predecessor for a while, or the predecessor
//! itself asks to be removed; and for the removal of a name that it knows as a member of a live version only
//! on an operator's order: a steward clears away whom it takes for idle, and may be the last to hear that he
//! is not. At no moment a live disk is replaced or removed against its will, not even to finish what a dead
//! claimant has begun. A proposer that is refused so hears more members than a majority the next time: once
//! those that voted for that admission, and those that have not answered, are too few to have chosen it, it
//! was not, and cannot be any more, for all who answered hear nothing older. Then the proposer's own is free;
//! what may have been chosen of the removal of a dead member waits for an operator to order it. If a majority
//! says that it had voted for it in one ballot, it was chosen, though nobody has learnt so: it is admitted,
//! and a disk that has come back since is told. Until either is known the number waits, and says for whom.
//!
//! *No acknowledgement before a vote is decided.* What a majority has voted for stays chosen, though the name
//! that was idle then has become a member meanwhile. So a member that has voted for the removal of a name does
//! not acknowledge a version that makes it a member before the number is decided; nobody reads from a version
//! that not all of its members have acknowledged, and the older one has all its copies until then. To have the
//! number decided, the member proposes to *reaffirm* the name: to say again which disk it is. Voters
//! without a part in the ring acknowledge nothing: the rule holds as long as they alone are no majority.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::wire::{decode_name, decode_tag, encode_tag, put_u64};
use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::protocol::message::PlacementTag;
use crate::protocol::quorum::majority;
use crate::types::{NodeId, NodeName};

/// Where admissions are stored: this and the number, big-endian.
pub(super) const ADMISSION_PREFIX: &[u8] = b"control/admission/";
/// Where this member's vote is stored.
pub(super) const VOTE_KEY: &[u8] = b"control/vote";
/// Admissions of one cluster, joins, replacements and removals together: one a day for eleven years. Past it
/// no name gets another disk. Bounds what is told.
pub(super) const ADMISSIONS_MAX: usize = 4096;

/// The disk of a name that has none.
pub(super) const NOBODY: NodeId = NodeId(0);

/// From this number on, a name is another disk; or, where that is said again, the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    /// From 1.
    pub(super) number: u64,
    pub(super) name: NodeName,
    /// The disk that the name is from now on, or [`NOBODY`].
    pub(super) id: NodeId,
    /// The disk that it was, or [`NOBODY`]; it is fenced, unless it is the same.
    pub(super) predecessor: NodeId,
}

impl Admission {
    /// Whether the name is nobody from now on.
    pub(super) fn removes(&self) -> bool {
        self.id == NOBODY
    }

    /// Whether the name was nobody before.
    pub(super) fn enters(&self) -> bool {
        self.predecessor == NOBODY
    }

    /// Whether it says again what disk the name is: it decides its number, and changes nothing.
    pub(super) fn reaffirms(&self) -> bool {
        self.id == self.predecessor
    }
}

/// Orders proposals; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Ballot {
    pub(super) round: u64,
    /// Of the process that proposes.
    pub(super) boot: u64,
}

/// What a member has promised and voted for in the instance of one number.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Vote {
    pub(super) number: u64,
    pub(super) promised: Ballot,
    pub(super) accepted: Option<(Ballot, Admission)>,
}

/// What a proposer asks of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) ballot: Ballot,
    pub(super) admission: Admission,
    /// Whether a vote is asked for, after a majority has promised to hear nothing older.
    pub(super) accept: bool,
    /// The newest placement version that the proposer knows.
    pub(super) newest: PlacementTag,
    /// Whether an operator has ordered the proposer, lately, to give the name up; whoever proposed that first.
    pub(super) ordered: bool,
}

/// A member's answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) number: u64,
    pub(super) ballot: Ballot,
    pub(super) ruling: Ruling,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It hears nothing older from now on; and what it voted for before.
    Promised(Option<(Ballot, Admission)>),
    /// It has voted for the admission.
    Accepted,
    /// It has promised to hear nothing older than this.
    Outbid(Ballot),
    /// It has heard this disk, whose place is claimed, only lately.
    Lives(NodeId),
    /// The name that is to be removed is a member, and no operator has ordered it.
    IsMember,
    /// It cannot vote yet: nobody has confirmed that it forgot nothing, or it lacks the admission before.
    NotYet,
}

impl Ruling {
    /// Whether it binds whoever has given it, and must be durable before it is told.
    pub(super) fn is_vote(&self) -> bool {
        match self {
            Self::Promised(_) | Self::Accepted => true,
            Self::Outbid(_) | Self::Lives(_) | Self::IsMember | Self::NotYet => false,
        }
    }
}

impl Vote {
    /// Judges a claim of the instance `number`; what changes must be durable before the answer is
    /// told.
    pub(super) fn judge(&mut self, number: u64, claim: &Claim) -> Ruling {
        if self.number != number {
            *self = Self { number, ..Self::default() };
        }
        if claim.ballot < self.promised {
            return Ruling::Outbid(self.promised);
        }
        self.promised = claim.ballot;
        if !claim.accept {
            return Ruling::Promised(self.accepted.clone());
        }
        self.accepted = Some((claim.ballot, claim.admission.clone()));
        Ruling::Accepted
    }
}

/// A proposer's bid in the instance of one number.
#[derive(Debug)]
pub(super) struct Bid {
    pub(super) ballot: Ballot,
    /// What it wants for itself.
    own: Admission,
    /// What members would not vote for a moment ago: not put to the vote while it may still be ruled out.
    vetoed: Option<Admission>,
    /// What members answered: the votes that they gave before.
    promised: BTreeMap<NodeId, Option<(Ballot, Admission)>>,
    /// What is put to the vote, and who has voted for it.
    vote: Option<(Admission, Vec<NodeId>)>,
}

/// What an answer brings a bid to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting,
    /// Ask for votes for this.
    Ask(Admission),
    /// This is admitted.
    Chosen(Admission),
}

impl Bid {
    pub(super) fn new(ballot: Ballot, own: Admission, vetoed: Option<Admission>) -> Self {
        Self { ballot, own, vetoed, promised: BTreeMap::new(), vote: None }
    }

    pub(super) fn number(&self) -> u64 {
        self.own.number
    }

    pub(super) fn own(&self) -> &Admission {
        &self.own
    }

    /// What is put to the vote, if it is another's.
    pub(super) fn anothers(&self) -> Option<&Admission> {
        self.vote
            .as_ref()
            .map(|(admission, _)| admission)
            .filter(|admission| **admission != self.own)
    }

    /// How many members agree so far.
    pub(super) fn agreed(&self) -> usize {
        self.vote.as_ref().map_or(self.promised.len(), |(_, voters)| voters.len())
    }

    /// One of so many members has promised.
    pub(super) fn promised(
        &mut self,
        by: NodeId,
        before: Option<(Ballot, Admission)>,
        members: usize,
    ) -> Progress {
        if self.vote.is_some() {
            return Progress::Waiting;
        }
        self.promised.insert(by, before);
        if self.promised.len() < majority(members) {
            return Progress::Waiting;
        }
        if let Some(chosen) = self.chosen(members) {
            return Progress::Chosen(chosen.clone());
        }
        let bound = self.maybe_chosen(members);
        if bound.is_some() && bound == self.vetoed.as_ref() && self.promised.len() < members {
            return Progress::Waiting;
        }
        let admission = bound.unwrap_or(&self.own).clone();
        self.vote = Some((admission.clone(), Vec::new()));
        Progress::Ask(admission)
    }

    /// What a majority says that it had voted for in one ballot.
    fn chosen(&self, members: usize) -> Option<&Admission> {
        let given = || self.promised.values().flatten();
        let voters = |ballot| given().filter(|(other, _)| *other == ballot).count();
        let vote = given().find(|(ballot, _)| voters(*ballot) >= majority(members));
        vote.map(|(_, admission)| admission)
    }

    /// The vote of the highest ballot in which a majority may have voted: those who say so, or have voted in
    /// a higher one since, and those who have not answered.
    fn maybe_chosen(&self, members: usize) -> Option<&Admission> {
        let silent = members.saturating_sub(self.promised.len());
        let given = || self.promised.values().flatten();
        let enough = |ballot: Ballot| {
            given().filter(|(other, _)| *other >= ballot).count() + silent >= majority(members)
        };
        let highest =
            given().filter(|(ballot, _)| enough(*ballot)).max_by_key(|(ballot, _)| *ballot);
        highest.map(|(_, voted)| voted)
    }

    /// A member has voted.
    pub(super) fn accepted(&mut self, by: NodeId, members: usize) -> Progress {
        let Some((admission, voters)) = &mut self.vote else { return Progress::Waiting };
        if !voters.contains(&by) {
            voters.push(by);
        }
        if voters.len() < majority(members) {
            return Progress::Waiting;
        }
        Progress::Chosen(admission.clone())
    }
}

/// Where an admission is stored.
pub(super) fn admission_key(number: u64) -> Bytes {
    [ADMISSION_PREFIX, &number.to_be_bytes()].concat().into()
}

impl Admission {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.number);
        out.bytes(self.name.as_str().as_bytes());
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.predecessor.0.to_le_bytes());
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            number: r.u64()?,
            name: decode_name(r)?,
            id: NodeId(r.u128()?),
            predecessor: NodeId(r.u128()?),
        })
    }
}

impl Ballot {
    fn encode(self, out: &mut Vec<u8>) {
        put_u64(out, self.round);
        put_u64(out, self.boot);
    }

    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { round: r.u64()?, boot: r.u64()? })
    }
}

fn encode_voted(voted: Option<&(Ballot, Admission)>, out: &mut Vec<u8>) {
    out.bool(voted.is_some());
    if let Some((ballot, admission)) = voted {
        ballot.encode(out);
        admission.encode(out);
    }
}

fn decode_voted(r: &mut Reader) -> Result<Option<(Ballot, Admission)>, DecodeError> {
    if r.bool()? { Ok(Some((Ballot::decode(r)?, Admission::decode(r)?))) } else { Ok(None) }
}

impl Vote {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.number);
        self.promised.encode(out);
        encode_voted(self.accepted.as_ref(), out);
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let number = r.u64()?;
        Ok(Self { number, promised: Ballot::decode(r)?, accepted: decode_voted(r)? })
    }
}

impl Claim {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.ballot.encode(out);
        self.admission.encode(out);
        out.bool(self.accept);
        encode_tag(self.newest, out);
        out.bool(self.ordered);
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (ballot, admission) = (Ballot::decode(r)?, Admission::decode(r)?);
        let (accept, newest) = (r.bool()?, decode_tag(r)?);
        Ok(Self { ballot, admission, accept, newest, ordered: r.bool()? })
    }
}

impl Verdict {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.number);
        self.ballot.encode(out);
        match &self.ruling {
            Ruling::Promised(voted) => {
                out.push(1);
                encode_voted(voted.as_ref(), out);
            }
            Ruling::Accepted => out.push(2),
            Ruling::Outbid(ballot) => {
                out.push(3);
                ballot.encode(out);
            }
            Ruling::Lives(id) => {
                out.push(4);
                out.extend_from_slice(&id.0.to_le_bytes());
            }
            Ruling::NotYet => out.push(5),
            Ruling::IsMember => out.push(6),
        }
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (number, ballot) = (r.u64()?, Ballot::decode(r)?);
        let ruling = match r.u8()? {
            1 => Ruling::Promised(decode_voted(r)?),
            2 => Ruling::Accepted,
            3 => Ruling::Outbid(Ballot::decode(r)?),
            4 => Ruling::Lives(NodeId(r.u128()?)),
            5 => Ruling::NotYet,
            6 => Ruling::IsMember,
            _ => return Err(DecodeError::Malformed("ruling")),
        };
        Ok(Self { number, ballot, ruling })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMBERS: usize = 5;

    fn admission(claimant: u128) -> Admission {
        let name = NodeName::new(&format!("node-{claimant}")).unwrap();
        let (id, predecessor) = (NodeId(100 + claimant), NodeId(claimant));
        Admission { number: 1, name, id, predecessor }
    }

    /// One thing that happens: a claimant begins anew, or it is heard by a member, or not.
    fn events() -> impl Strategy<Value = Vec<(bool, usize, usize)>> {
        proptest::collection::vec((proptest::bool::weighted(0.1), 0..3usize, 0..MEMBERS), 0..120)
    }

    proptest! {
        /// Three claimants whose processes and messages come and go as they like, and who hear more than a
        /// majority to be free of another's vote.
        #[test]
        fn a_number_has_one_winner_however_claims_cross(events in events()) {
            let mut votes: Vec<Vote> = (0..MEMBERS).map(|_| Vote::default()).collect();
            let mut bids: Vec<Option<Bid>> = vec![None, None, None];
            let mut asked: [Option<Admission>; 3] = [None, None, None];
            let (mut boots, mut chosen) = (0, Vec::new());
            for (anew, claimant, member) in events {
                let bid = &mut bids[claimant];
                if anew || bid.is_none() {
                    boots += 1;
                    let ballot = Ballot { round: boots / 2, boot: boots };
                    let vetoed = (boots % 3 > 0).then(|| admission((claimant as u128 + 1) % 3));
                    *bid = Some(Bid::new(ballot, admission(claimant as u128), vetoed));
                    asked[claimant] = None;
                }
                let Some(bid) = bid else { continue };
                let (ballot, by) = (bid.ballot, NodeId(member as u128));
                let accept = asked[claimant].is_some();
                let own = admission(claimant as u128);
                let admission = asked[claimant].clone().unwrap_or(own);
                let newest = PlacementTag::default();
                let claim = Claim { ballot, admission, accept, newest, ordered: false };
                let progress = match votes[member].judge(1, &claim) {
                    Ruling::Promised(before) => bid.promised(by, before, MEMBERS),
                    Ruling::Accepted => bid.accepted(by, MEMBERS),
                    Ruling::Outbid(_) | Ruling::Lives(_) | Ruling::IsMember | Ruling::NotYet => {
                        Progress::Waiting
                    }
                };
                match progress {
                    Progress::Waiting => {}
                    Progress::Ask(admission) => asked[claimant] = Some(admission),
                    Progress::Chosen(admission) => chosen.push(admission),
                }
            }
            chosen.dedup();
            prop_assert!(chosen.len() <= 1, "{chosen:?}");
        }
    }

    /// Member 0 has voted for another's admission, which the others refuse.
    #[test]
    fn a_vote_that_cannot_have_been_chosen_binds_nobody_once_enough_have_answered() {
        let ballot = |round| Ballot { round, boot: 1 };
        let given = Some((ballot(1), admission(1)));
        let answers = |vetoed| {
            let mut bid = Bid::new(ballot(2), admission(0), vetoed);
            let mut progress = vec![bid.promised(NodeId(0), given.clone(), MEMBERS)];
            progress.extend((1..5).map(|by| bid.promised(NodeId(by), None, MEMBERS)));
            progress
        };
        let (waiting, ask) = (|| Progress::Waiting, |of| Progress::Ask(admission(of)));
        // The two who are silent may have voted for it, too.
        let bound = [waiting(), waiting(), ask(1), waiting(), waiting()];
        assert_eq!(answers(None), bound);
        assert_eq!(answers(Some(admission(2))), bound);
        // Four have answered: it has two votes at the most.
        assert_eq!(
            answers(Some(admission(1))),
            [waiting(), waiting(), waiting(), ask(0), waiting()]
        );
    }

    #[test]
    fn what_a_majority_had_voted_for_in_one_ballot_was_chosen_though_nobody_has_learnt_so() {
        let voted = |round| Some((Ballot { round, boot: 1 }, admission(1)));
        let mut bid = Bid::new(Ballot { round: 9, boot: 1 }, admission(0), Some(admission(1)));
        let answers = [voted(1), voted(1), voted(2), None, voted(1)];
        let progress = answers.into_iter().zip(0..);
        let progress = progress.map(|(before, by)| bid.promised(NodeId(by), before, MEMBERS));
        let [_, _, _, fourth, fifth] = progress.collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((fourth, fifth), (Progress::Waiting, Progress::Chosen(admission(1))));
    }

    #[test]
    fn a_vote_of_an_earlier_number_is_none_of_a_later_one() {
        let ballot = |round| Ballot { round, boot: 1 };
        let claim = |round, accept| {
            let (ballot, newest) = (ballot(round), PlacementTag::default());
            Claim { ballot, admission: admission(0), accept, newest, ordered: false }
        };
        let mut vote = Vote::default();
        assert_eq!(vote.judge(1, &claim(5, true)), Ruling::Accepted);
        assert_eq!(vote.judge(1, &claim(4, false)), Ruling::Outbid(ballot(5)));
        let given = Some((ballot(5), admission(0)));
        assert_eq!(vote.judge(1, &claim(6, false)), Ruling::Promised(given));
        assert_eq!(vote.judge(2, &claim(1, false)), Ruling::Promised(None));
    }
}
