//! Every message between nodes.
//!
//! ```text
//!  coordinator                    home replica                fallback
//!      │ Read{known hash, dots} ──────▶│                          │
//!      │◀────── ReadReply{Equal|Record}│                          │
//!      │ Write{record} ───────────────▶│                          │
//!      │◀──────────── WriteReply{Stored}  (after its commit)      │
//!      │ Write{record, hint for home} ───────────────────────────▶│
//!      │◀───────────────────────────────────── WriteReply{Stored} │
//!
//!  any node                       a home
//!      │ OpenSession ─────────────────▶│   once; the answer's nonce makes a passed
//!      │◀───────────────────── Session │   request run at most once
//!      │ Pass{nonce, sequence, put} ──▶│
//!      │◀──────────── PassReply{outcome}
//! ```
//!
//! How two homes compare what they hold is drawn in `sync`.
//!
//! A message is lost, duplicated, delayed or reordered at will: nothing here relies on the
//! stream it travels on. Records travel sealed, whole, each with the lowest round of collection that it
//! was formed from (see [`super::rounds`]). The envelope carries a format version,
//! the sender's placement, its highest synced commit number and a trace context; a node that
//! cannot read an envelope drops it and counts it.

mod round;
mod sync;
mod wire;

use std::fmt;

use bytes::Bytes;

pub use self::round::RoundMessage;
pub use self::sync::{SyncAnswer, SyncAsk, SyncDifference, SyncRange};
use super::codec::DecodeError;
use super::op::{Outcome, Put};
use super::quorum::Consistency;
use super::record::{Content, Record, Sealed, Sibling, VersionVector};
use crate::types::{
    Boot, CommitNumber, Dot, Key, Mono, NodeId, NodeName, Partition, RecordHash, RoundNumber,
    TraceContext,
};

/// The version of the envelope and of every message in it.
pub const FORMAT: u8 = 3;

/// A placement version as requests and trackers name it: never a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PlacementTag {
    /// Counts up from 1; 0 before the founding.
    pub number: u32,
    /// The hash of the whole version.
    pub hash: u64,
}

impl PlacementTag {
    /// Whether who knows nothing newer than this lacks another version: a later one, or a rival.
    #[must_use]
    pub fn lacks(self, other: Self) -> bool {
        self.number < other.number || (self.number == other.number && self != other)
    }
}

/// As people are told of it: `number:hash`.
impl fmt::Display for PlacementTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}", self.number, self.hash)
    }
}

/// Joins an answer to its question; chosen by the asker, unique within its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A message and what every message says of its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The sender.
    pub from: NodeId,
    /// The sender's newest placement version.
    pub placement: PlacementTag,
    /// The sender's highest synced commit.
    pub synced: CommitNumber,
    /// The trace that the message belongs to.
    pub trace: Option<TraceContext>,
    /// What is said.
    pub message: Message,
}

/// What one node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To or from a worker, about a partition.
    Data(Partition, DataMessage),
    /// To or from the control core, in its own encoding.
    Control(Bytes),
}

/// What one worker says to another about a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataMessage {
    /// What do you hold of this key?
    Read(ReadRequest),
    /// The answer, and the round that it was read in.
    ReadReply(CallId, RoundNumber, ReadAnswer),
    /// Merge this record, as yours or as a hint.
    Write(WriteRequest),
    /// The answer, after the commit.
    WriteReply(CallId, WriteAnswer),
    /// Give me a session in which to pass requests to you.
    OpenSession(OpenSession),
    /// The answer to that.
    Session(Session),
    /// Coordinate this write.
    Pass(Pass),
    /// The answer to that.
    PassReply(CallId, PassAnswer),
    /// What do you hold of this partition?
    Scan(ScanRequest),
    /// The answer.
    ScanReply(CallId, ScanAnswer),
    /// Do we hold the same?
    Sync(CallId, SyncAsk),
    /// The answer.
    SyncReply(CallId, SyncAnswer),
    /// Of a round of collection.
    Round(RoundMessage),
}

/// A question for what a replica holds durably of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// For the answer.
    pub call: CallId,
    /// The key.
    pub key: Key,
    /// If set, the receiver is asked for the hint that it holds for this home, not for its own.
    pub hint_for: Option<NodeName>,
    /// What the asker holds itself.
    pub known: Option<Known>,
}

/// What an asker holds itself, so that nothing of it need travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The hash of its record.
    pub hash: RecordHash,
    /// The dots of its siblings: the values of these may be left out of the answer.
    pub dots: Vec<Dot>,
}

/// What a replica holds of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadAnswer {
    /// The same as the asker.
    Equal,
    /// Nothing, and a home may say so.
    Absent,
    /// This, whole.
    Record(Sealed),
    /// This, with the values left out that the asker has.
    Partial(PartialRecord),
    /// No answer: I keep no hint for that home and key. It does not count toward R.
    NoHint,
    /// No answer: I am no home of the key in the placement that I hold.
    NotMine,
    /// No answer: my copy was lost or could not be read, and is being rebuilt.
    Rebuilding,
}

/// A whole record, all its dots and all it has seen, of which only values are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialRecord {
    /// The checksum of the whole: it must hold once the values are filled in.
    pub crc: u32,
    /// The record's version vector.
    pub seen: VersionVector,
    /// The siblings, each with its value or without.
    pub siblings: Vec<PartialSibling>,
}

/// A sibling whose value may have been left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartialSibling {
    /// Complete.
    Whole(Sibling),
    /// The asker holds this one.
    Known(Dot),
}

/// A record to be merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRequest {
    /// For the answer.
    pub call: CallId,
    /// The key.
    pub key: Key,
    /// The whole record.
    pub record: Sealed,
    /// If set, the receiver keeps it as a hint for this home.
    pub hint_for: Option<NodeName>,
    /// The lowest round that the record was formed from.
    pub round: RoundNumber,
}

/// What became of a record that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAnswer {
    /// Merged and durable; the hash of what was sent.
    Stored(RecordHash),
    /// Not kept, and why.
    Refused(Refusal),
}

/// Why a replica did not keep a record. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no home of the key in the placement that it holds.
    NotMine,
    /// It keeps as many bytes of hints as it may.
    HintsFull,
    /// The sender lacks a placement version that the receiver has acknowledged.
    PlacementOld,
    /// Its store refuses writes, or the record did not pass its checksum.
    Store,
    /// Too much is queued.
    Overloaded,
    /// The record was formed from a round that is over for the receiver; or it has not been told yet which
    /// rounds are.
    RoundOver,
}

/// A wish to pass requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// The asker's process.
    pub boot: Boot,
}

/// A session for passed requests, issued by their receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The asker's process, from its [`OpenSession`].
    pub boot: Boot,
    /// Names the session.
    pub nonce: u64,
    /// The issuer's monotonic clock: deadlines of passed requests are stated in it.
    pub now: Mono,
}

/// A write to be coordinated by its receiver, at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// For the answer.
    pub call: CallId,
    /// The session.
    pub session: u64,
    /// Distinct within the session.
    pub sequence: u64,
    /// On the receiver's monotonic clock: not begun after this.
    pub deadline: Mono,
    /// The key.
    pub key: Key,
    /// The write.
    pub put: Put,
    /// W.
    pub consistency: Consistency,
    /// Whether it is strict.
    pub strict: bool,
}

/// What became of a passed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassAnswer {
    /// It ran, and this is how it ended.
    Ended(Outcome),
    /// It certainly was not begun, and never will be.
    NotBegun,
    /// The session is dead; open another. It certainly was not begun.
    NoSession,
}

/// A question for a page of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// For the answer.
    pub call: CallId,
    /// Entries behind this key; empty: from the start.
    pub after: Bytes,
    /// About how many bytes the page may have.
    pub bytes_max: u32,
}

/// A page of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanAnswer {
    /// Keys in order, with what the replica holds of each.
    Page {
        /// Keys and records.
        entries: Vec<(Key, Sealed)>,
        /// Whether nothing is left behind the last.
        done: bool,
        /// The round that it was read in.
        round: RoundNumber,
    },
    /// No answer: not a home of this partition, or not able to read it all.
    NotMine,
}

impl PartialRecord {
    /// `record` without the values of the siblings whose dots are in `known`.
    #[must_use]
    pub fn of(record: &Record, crc: u32, known: &[Dot]) -> Self {
        let leave_out = |sibling: &Sibling| match sibling.content {
            Content::Value(_) if known.contains(&sibling.dot) => PartialSibling::Known(sibling.dot),
            _ => PartialSibling::Whole(sibling.clone()),
        };
        let siblings = record.siblings().iter().map(leave_out).collect();
        Self { crc, seen: record.seen().clone(), siblings }
    }

    /// The whole record, with the values that were left out taken from `own`.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`] if that does not give the record that was meant.
    pub fn fill(
        self,
        partition: Partition,
        key: &Key,
        own: &Record,
    ) -> Result<Record, DecodeError> {
        let whole = |sibling| match sibling {
            PartialSibling::Whole(sibling) => Ok(sibling),
            PartialSibling::Known(dot) => {
                let held = own.siblings().iter().find(|sibling| sibling.dot == dot);
                held.cloned().ok_or(DecodeError::Checksum)
            }
        };
        let siblings = self.siblings.into_iter().map(whole).collect::<Result<_, _>>()?;
        let record = Record::from_parts(self.seen, siblings)?;
        if record.seal(partition, key).crc() == self.crc {
            Ok(record)
        } else {
            Err(DecodeError::Checksum)
        }
    }
}
