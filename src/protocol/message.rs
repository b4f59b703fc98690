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
//! A message is lost, duplicated, delayed or reordered at will: nothing here relies on the
//! stream it travels on. Records travel sealed, whole. The envelope carries a format version,
//! the sender's placement, its highest synced commit number and a trace context; a node that
//! cannot read an envelope drops it and counts it.

use bytes::Bytes;

use super::codec::{DecodeError, Reader, Write};
use super::context::ContextError;
use super::op::{Failure, Outcome, Put, Reason, Receipt};
use super::quorum::Consistency;
use super::record::{Content, Record, Sealed, Sibling, VersionVector};
use crate::types::{
    Actor, Boot, CommitNumber, Dot, Key, Mono, NodeId, NodeName, Partition, RecordHash, RequestId,
    Stamp, TraceContext,
};

/// The version of the envelope and of every message in it.
pub const FORMAT: u8 = 1;

/// A placement version as requests and trackers name it: never a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PlacementTag {
    /// Counts up from 1; 0 before the founding.
    pub number: u32,
    /// The hash of the whole version.
    pub hash: u64,
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
    /// The answer.
    ReadReply(CallId, ReadAnswer),
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
    },
    /// No answer: not a home of this partition, or not able to read it all.
    NotMine,
}

impl Envelope {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut impl Write) {
        out.put_u8(FORMAT);
        out.put_u128_le(self.from.0);
        out.put_u32_le(self.placement.number);
        out.put_u64_le(self.placement.hash);
        out.put_u64_le(self.synced.0);
        out.bool(self.trace.is_some());
        if let Some(trace) = self.trace {
            out.put_u128_le(trace.trace);
            out.put_u64_le(trace.span);
            out.put_u8(trace.flags);
        }
        match &self.message {
            Message::Control(bytes) => {
                out.put_u8(0);
                out.put_slice(bytes);
            }
            Message::Data(partition, message) => {
                out.put_u8(1);
                out.put_u16_le(partition.0);
                encode_data(message, out);
            }
        }
    }

    /// Reads an envelope; byte strings in it share the input's memory.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not one, or is of a newer format.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Version(other)),
        }
        let from = NodeId(r.u128()?);
        let placement = PlacementTag { number: r.u32()?, hash: r.u64()? };
        let synced = CommitNumber(r.u64()?);
        let trace = option(&mut r, |r| {
            Ok(TraceContext { trace: r.u128()?, span: r.u64()?, flags: r.u8()? })
        })?;
        let message = match r.u8()? {
            0 => Message::Control(r.rest()),
            1 => {
                let partition = Partition(r.u16()?);
                let message = decode_data(&mut r)?;
                r.end()?;
                Message::Data(partition, message)
            }
            _ => return Err(DecodeError::Malformed("message")),
        };
        Ok(Self { from, placement, synced, trace, message })
    }
}

fn encode_data(message: &DataMessage, out: &mut impl Write) {
    match message {
        DataMessage::Read(read) => {
            out.put_u8(1);
            out.put_u64_le(read.call.0);
            out.bytes(read.key.bytes());
            encode_name(read.hint_for.as_ref(), out);
            out.bool(read.known.is_some());
            if let Some(known) = &read.known {
                out.put_u128_le(known.hash.0);
                out.varint(known.dots.len() as u64);
                known.dots.iter().for_each(|dot| encode_dot(*dot, out));
            }
        }
        DataMessage::ReadReply(call, answer) => {
            out.put_u8(2);
            out.put_u64_le(call.0);
            encode_read_answer(answer, out);
        }
        DataMessage::Write(write) => {
            out.put_u8(3);
            out.put_u64_le(write.call.0);
            out.bytes(write.key.bytes());
            encode_name(write.hint_for.as_ref(), out);
            encode_sealed(&write.record, out);
        }
        DataMessage::WriteReply(call, answer) => {
            out.put_u8(4);
            out.put_u64_le(call.0);
            match answer {
                WriteAnswer::Stored(hash) => {
                    out.put_u8(0);
                    out.put_u128_le(hash.0);
                }
                WriteAnswer::Refused(refusal) => out.put_u8(refusal.code()),
            }
        }
        DataMessage::OpenSession(open) => {
            out.put_u8(5);
            out.put_u64_le(open.boot.0);
        }
        DataMessage::Session(session) => {
            out.put_u8(6);
            out.put_u64_le(session.boot.0);
            out.put_u64_le(session.nonce);
            out.put_u64_le(session.now.0);
        }
        DataMessage::Pass(pass) => {
            out.put_u8(7);
            encode_pass(pass, out);
        }
        DataMessage::PassReply(call, answer) => {
            out.put_u8(8);
            out.put_u64_le(call.0);
            match answer {
                PassAnswer::NotBegun => out.put_u8(0),
                PassAnswer::NoSession => out.put_u8(1),
                PassAnswer::Ended(Outcome::Written(receipt)) => {
                    out.put_u8(2);
                    encode_receipt(receipt, out);
                }
                PassAnswer::Ended(Outcome::Failed(failure)) => {
                    out.put_u8(3);
                    encode_failure(failure, out);
                }
                PassAnswer::Ended(Outcome::Read(_)) => unreachable!("only writes are passed"),
            }
        }
        DataMessage::Scan(scan) => {
            out.put_u8(9);
            out.put_u64_le(scan.call.0);
            out.bytes(&scan.after);
            out.put_u32_le(scan.bytes_max);
        }
        DataMessage::ScanReply(call, answer) => {
            out.put_u8(10);
            out.put_u64_le(call.0);
            match answer {
                ScanAnswer::NotMine => out.put_u8(0),
                ScanAnswer::Page { entries, done } => {
                    out.put_u8(1);
                    out.varint(entries.len() as u64);
                    for (key, record) in entries {
                        out.bytes(key.bytes());
                        encode_sealed(record, out);
                    }
                    out.bool(*done);
                }
            }
        }
    }
}

fn decode_data(r: &mut Reader) -> Result<DataMessage, DecodeError> {
    Ok(match r.u8()? {
        1 => DataMessage::Read(ReadRequest {
            call: CallId(r.u64()?),
            key: decode_key(r)?,
            hint_for: option(r, decode_name)?,
            known: option(r, |r| {
                let hash = RecordHash(r.u128()?);
                Ok(Known { hash, dots: list(r, 16, decode_dot)? })
            })?,
        }),
        2 => DataMessage::ReadReply(CallId(r.u64()?), decode_read_answer(r)?),
        3 => DataMessage::Write(WriteRequest {
            call: CallId(r.u64()?),
            key: decode_key(r)?,
            hint_for: option(r, decode_name)?,
            record: decode_sealed(r)?,
        }),
        4 => DataMessage::WriteReply(
            CallId(r.u64()?),
            match r.u8()? {
                0 => WriteAnswer::Stored(RecordHash(r.u128()?)),
                code => WriteAnswer::Refused(Refusal::from_code(code)?),
            },
        ),
        5 => DataMessage::OpenSession(OpenSession { boot: Boot(r.u64()?) }),
        6 => DataMessage::Session(Session {
            boot: Boot(r.u64()?),
            nonce: r.u64()?,
            now: Mono(r.u64()?),
        }),
        7 => DataMessage::Pass(decode_pass(r)?),
        8 => DataMessage::PassReply(
            CallId(r.u64()?),
            match r.u8()? {
                0 => PassAnswer::NotBegun,
                1 => PassAnswer::NoSession,
                2 => PassAnswer::Ended(Outcome::Written(decode_receipt(r)?)),
                3 => PassAnswer::Ended(Outcome::Failed(decode_failure(r)?)),
                _ => return Err(DecodeError::Malformed("answer to a passed request")),
            },
        ),
        9 => DataMessage::Scan(ScanRequest {
            call: CallId(r.u64()?),
            after: r.bytes()?,
            bytes_max: r.u32()?,
        }),
        10 => DataMessage::ScanReply(
            CallId(r.u64()?),
            match r.u8()? {
                0 => ScanAnswer::NotMine,
                1 => ScanAnswer::Page {
                    entries: list(r, 6, |r| Ok((decode_key(r)?, decode_sealed(r)?)))?,
                    done: r.bool()?,
                },
                _ => return Err(DecodeError::Malformed("page")),
            },
        ),
        _ => return Err(DecodeError::Malformed("message")),
    })
}

fn encode_read_answer(answer: &ReadAnswer, out: &mut impl Write) {
    match answer {
        ReadAnswer::Equal => out.put_u8(0),
        ReadAnswer::Absent => out.put_u8(1),
        ReadAnswer::NoHint => out.put_u8(2),
        ReadAnswer::NotMine => out.put_u8(3),
        ReadAnswer::Rebuilding => out.put_u8(4),
        ReadAnswer::Record(record) => {
            out.put_u8(5);
            encode_sealed(record, out);
        }
        ReadAnswer::Partial(partial) => {
            out.put_u8(6);
            out.put_u32_le(partial.crc);
            partial.seen.encode(out);
            out.varint(partial.siblings.len() as u64);
            for sibling in &partial.siblings {
                match sibling {
                    PartialSibling::Known(dot) => {
                        out.put_u8(0);
                        encode_dot(*dot, out);
                    }
                    PartialSibling::Whole(sibling) => {
                        out.put_u8(1);
                        sibling.encode(out);
                    }
                }
            }
        }
    }
}

fn decode_read_answer(r: &mut Reader) -> Result<ReadAnswer, DecodeError> {
    Ok(match r.u8()? {
        0 => ReadAnswer::Equal,
        1 => ReadAnswer::Absent,
        2 => ReadAnswer::NoHint,
        3 => ReadAnswer::NotMine,
        4 => ReadAnswer::Rebuilding,
        5 => ReadAnswer::Record(decode_sealed(r)?),
        6 => ReadAnswer::Partial(PartialRecord {
            crc: r.u32()?,
            seen: VersionVector::decode(r)?,
            siblings: list(r, 17, |r| match r.u8()? {
                0 => Ok(PartialSibling::Known(decode_dot(r)?)),
                1 => Ok(PartialSibling::Whole(Sibling::decode(r)?)),
                _ => Err(DecodeError::Malformed("sibling")),
            })?,
        }),
        _ => return Err(DecodeError::Malformed("answer to a read")),
    })
}

fn encode_pass(pass: &Pass, out: &mut impl Write) {
    out.put_u64_le(pass.call.0);
    out.put_u64_le(pass.session);
    out.put_u64_le(pass.sequence);
    out.put_u64_le(pass.deadline.0);
    out.bytes(pass.key.bytes());
    out.put_u8(match pass.consistency {
        Consistency::One => 1,
        Consistency::Quorum => 2,
        Consistency::All => 3,
    });
    out.bool(pass.strict);
    let put = &pass.put;
    out.bool(put.value.is_some());
    if let Some(value) = &put.value {
        out.bytes(value);
    }
    out.bool(put.ttl_ms.is_some());
    if let Some(ttl) = put.ttl_ms {
        out.put_u64_le(ttl);
    }
    out.bool(put.context.is_some());
    if let Some(context) = &put.context {
        context.encode(out);
    }
    out.bool(put.request.is_some());
    if let Some(request) = &put.request {
        out.put_slice(&request.0);
    }
}

fn decode_pass(r: &mut Reader) -> Result<Pass, DecodeError> {
    Ok(Pass {
        call: CallId(r.u64()?),
        session: r.u64()?,
        sequence: r.u64()?,
        deadline: Mono(r.u64()?),
        key: decode_key(r)?,
        consistency: match r.u8()? {
            1 => Consistency::One,
            2 => Consistency::Quorum,
            3 => Consistency::All,
            _ => return Err(DecodeError::Malformed("consistency")),
        },
        strict: r.bool()?,
        put: Put {
            value: option(r, Reader::bytes)?,
            ttl_ms: option(r, Reader::u64)?,
            context: option(r, VersionVector::decode)?,
            request: option(r, |r| Ok(RequestId(r.u128()?.to_le_bytes())))?,
        },
    })
}

fn encode_receipt(receipt: &Receipt, out: &mut impl Write) {
    encode_dot(receipt.dot, out);
    receipt.seen.encode(out);
    out.bool(receipt.partial);
    encode_names(&receipt.homes, out);
    encode_names(&receipt.hints, out);
    out.put_u32_le(receipt.placement);
}

fn decode_receipt(r: &mut Reader) -> Result<Receipt, DecodeError> {
    Ok(Receipt {
        dot: decode_dot(r)?,
        seen: VersionVector::decode(r)?,
        partial: r.bool()?,
        homes: list(r, 2, decode_name)?,
        hints: list(r, 2, decode_name)?,
        placement: r.u32()?,
    })
}

/// The reasons that a coordinator can give for a write, in the order of their codes.
const REASONS: [Reason; 11] = [
    Reason::NotFounded,
    Reason::QuorumNotReached,
    Reason::CoordinatorSilent,
    Reason::Context(ContextError::Ahead),
    Reason::RequestIdReused,
    Reason::TooManySiblings,
    Reason::RecordTooLarge,
    Reason::StoreRefused,
    Reason::Overloaded,
    Reason::ShuttingDown,
    Reason::NotConfirmed,
];

fn encode_failure(failure: &Failure, out: &mut impl Write) {
    let code = REASONS.iter().position(|reason| *reason == failure.reason);
    // Any other context error is found before a request is passed on.
    out.varint(code.unwrap_or(3) as u64);
    out.put_u32_le(failure.needed);
    encode_names(&failure.reached, out);
    encode_names(&failure.missing, out);
    out.bool(failure.maybe_applied);
}

fn decode_failure(r: &mut Reader) -> Result<Failure, DecodeError> {
    let code = usize::try_from(r.varint()?).unwrap_or(usize::MAX);
    Ok(Failure {
        reason: *REASONS.get(code).ok_or(DecodeError::Malformed("reason"))?,
        needed: r.u32()?,
        reached: list(r, 2, decode_name)?,
        missing: list(r, 2, decode_name)?,
        maybe_applied: r.bool()?,
    })
}

fn encode_sealed(record: &Sealed, out: &mut impl Write) {
    out.bytes(record.stored());
}

fn decode_sealed(r: &mut Reader) -> Result<Sealed, DecodeError> {
    Sealed::from_stored(r.bytes()?)
}

fn encode_dot(dot: Dot, out: &mut impl Write) {
    out.put_u64_le(dot.actor.0);
    out.put_u64_le(dot.stamp.0);
}

fn decode_dot(r: &mut Reader) -> Result<Dot, DecodeError> {
    Ok(Dot::new(Actor(r.u64()?), Stamp(r.u64()?)))
}

fn decode_key(r: &mut Reader) -> Result<Key, DecodeError> {
    Key::new(r.bytes()?).map_err(|_| DecodeError::Malformed("key"))
}

fn encode_name(name: Option<&NodeName>, out: &mut impl Write) {
    out.bool(name.is_some());
    if let Some(name) = name {
        out.bytes(name.as_str().as_bytes());
    }
}

fn encode_names(names: &[NodeName], out: &mut impl Write) {
    out.varint(names.len() as u64);
    names.iter().for_each(|name| out.bytes(name.as_str().as_bytes()));
}

fn decode_name(r: &mut Reader) -> Result<NodeName, DecodeError> {
    NodeName::new(&r.text()?).map_err(|_| DecodeError::Malformed("name"))
}

fn option<T>(
    r: &mut Reader,
    read: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if r.bool()? { read(r).map(Some) } else { Ok(None) }
}

fn list<T>(
    r: &mut Reader,
    each: usize,
    mut read: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = r.count(each)?;
    (0..count).map(|_| read(r)).collect()
}

impl Refusal {
    const ALL: [Self; 5] =
        [Self::NotMine, Self::HintsFull, Self::PlacementOld, Self::Store, Self::Overloaded];

    fn code(self) -> u8 {
        match self {
            Self::NotMine => 1,
            Self::HintsFull => 2,
            Self::PlacementOld => 3,
            Self::Store => 4,
            Self::Overloaded => 5,
        }
    }

    fn from_code(code: u8) -> Result<Self, DecodeError> {
        let found = Self::ALL.into_iter().find(|refusal| refusal.code() == code);
        found.ok_or(DecodeError::Malformed("refusal"))
    }
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
