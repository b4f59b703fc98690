//! The messages by which two homes compare what they hold, and exchange what differs.
//!
//! ```text
//!  who asks                               who answers
//!     │ Fold{of a lane} ──────────────────────▶│
//!     │◀──────────── Equal, or Roots of the lane│
//!     │ Leaves ────────────────────────────────▶│   of a partition whose roots differ
//!     │◀──────────────────────────────── Leaves│
//!     │ Page{leaves, range, (key, hash) …} ────▶│   a range of keys in the leaves that differ
//!     │◀── Page{range, records, keys wanted}   │
//!     │ Push{records} ─────────────────────────▶│
//!     │◀─────────────────────── Stored         │   once all of them are durable
//! ```
//!
//! Who answers keeps nothing between two questions: whoever asks carries the state, and may stop
//! at any point. Everything that can be long comes in pages.

use bytes::Bytes;

use super::CallId;
use super::wire::{decode_key, decode_sealed, encode_sealed, list, option};
use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::protocol::record::Sealed;
use crate::protocol::tree::{LeafSet, Tree};
use crate::types::{Key, Partition, RecordHash, RoundNumber};

/// A question of one home to another, about the envelope's partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncAsk {
    /// Is this your fold, too, over all partitions of this one's lane that we share?
    Fold(u128),
    /// What are your leaves?
    Leaves,
    /// Here is what I hold of a range: what do you hold that differs, and what do you lack?
    Page(SyncRange),
    /// Merge these records, of this round or a later one, as yours.
    Push(RoundNumber, Vec<(Key, Sealed)>),
    /// What do you hold of this key, whole or not? Asked by a home that has lost its copy.
    Key(Key),
}

/// What a home holds of a range of keys, in some leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncRange {
    /// The round that the asker's copy is of.
    pub round: RoundNumber,
    /// Only keys in these leaves are meant.
    pub leaves: LeafSet,
    /// The range begins behind this key; empty: at the start.
    pub after: Bytes,
    /// It ends with this key; none: with the partition.
    pub end: Option<Key>,
    /// In order of key.
    pub held: Vec<(Key, RecordHash)>,
}

/// An answer to a [`SyncAsk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncAnswer {
    /// The folds are equal.
    Equal,
    /// They are not; these are my roots, in order.
    Roots(Vec<(Partition, u128)>),
    /// My leaves.
    Leaves(Tree),
    /// How I differ in the range.
    Page(SyncDifference),
    /// All that was pushed is durable.
    Stored,
    /// What I hold of the key, and the round that my copy is of; none: nothing.
    Key(RoundNumber, Option<Sealed>),
    /// Not now: my tree is not known yet, I am busy, or my store did not take or tell it.
    NotNow,
    /// I am no home of this partition in the placement that you name.
    NotMine,
}

/// How the answerer differs in a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDifference {
    /// The round that the answerer's copy is of.
    pub round: RoundNumber,
    /// How far the answer goes: this key, or all of what was asked.
    pub end: Option<Key>,
    /// What it holds and the asker does not, whole, in order of key.
    pub records: Vec<(Key, Sealed)>,
    /// What the asker holds and it does not, in order.
    pub wanted: Vec<Key>,
}

pub(super) fn encode_ask(call: CallId, ask: &SyncAsk, out: &mut impl Write) {
    out.put_u64_le(call.0);
    match ask {
        SyncAsk::Fold(fold) => {
            out.put_u8(1);
            out.put_u128_le(*fold);
        }
        SyncAsk::Leaves => out.put_u8(2),
        SyncAsk::Page(range) => {
            out.put_u8(3);
            out.varint(range.round.0);
            out.put_u64_le(range.leaves.0);
            out.bytes(&range.after);
            encode_end(range.end.as_ref(), out);
            out.varint(range.held.len() as u64);
            for (key, hash) in &range.held {
                out.bytes(key.bytes());
                out.put_u128_le(hash.0);
            }
        }
        SyncAsk::Push(round, records) => {
            out.put_u8(4);
            out.varint(round.0);
            encode_records(records, out);
        }
        SyncAsk::Key(key) => {
            out.put_u8(5);
            out.bytes(key.bytes());
        }
    }
}

pub(super) fn decode_ask(r: &mut Reader) -> Result<(CallId, SyncAsk), DecodeError> {
    let call = CallId(r.u64()?);
    let ask = match r.u8()? {
        1 => SyncAsk::Fold(r.u128()?),
        2 => SyncAsk::Leaves,
        3 => SyncAsk::Page(SyncRange {
            round: RoundNumber(r.varint()?),
            leaves: LeafSet(r.u64()?),
            after: r.bytes()?,
            end: option(r, decode_key)?,
            held: list(r, 18, |r| Ok((decode_key(r)?, RecordHash(r.u128()?))))?,
        }),
        4 => SyncAsk::Push(RoundNumber(r.varint()?), decode_records(r)?),
        5 => SyncAsk::Key(decode_key(r)?),
        _ => return Err(DecodeError::Malformed("question of a home")),
    };
    Ok((call, ask))
}

pub(super) fn encode_answer(call: CallId, answer: &SyncAnswer, out: &mut impl Write) {
    out.put_u64_le(call.0);
    match answer {
        SyncAnswer::Equal => out.put_u8(1),
        SyncAnswer::Roots(roots) => {
            out.put_u8(2);
            out.varint(roots.len() as u64);
            for (partition, root) in roots {
                out.put_u16_le(partition.0);
                out.put_u128_le(*root);
            }
        }
        SyncAnswer::Leaves(tree) => {
            out.put_u8(3);
            tree.encode(out);
        }
        SyncAnswer::Page(page) => {
            out.put_u8(4);
            out.varint(page.round.0);
            encode_end(page.end.as_ref(), out);
            encode_records(&page.records, out);
            out.varint(page.wanted.len() as u64);
            page.wanted.iter().for_each(|key| out.bytes(key.bytes()));
        }
        SyncAnswer::Stored => out.put_u8(5),
        SyncAnswer::Key(round, held) => {
            out.put_u8(6);
            out.varint(round.0);
            out.bool(held.is_some());
            if let Some(held) = held {
                encode_sealed(held, out);
            }
        }
        SyncAnswer::NotNow => out.put_u8(7),
        SyncAnswer::NotMine => out.put_u8(8),
    }
}

pub(super) fn decode_answer(r: &mut Reader) -> Result<(CallId, SyncAnswer), DecodeError> {
    let call = CallId(r.u64()?);
    let answer = match r.u8()? {
        1 => SyncAnswer::Equal,
        2 => SyncAnswer::Roots(list(r, 18, |r| Ok((Partition(r.u16()?), r.u128()?)))?),
        3 => SyncAnswer::Leaves(Tree::decode(r)?),
        4 => SyncAnswer::Page(SyncDifference {
            round: RoundNumber(r.varint()?),
            end: option(r, decode_key)?,
            records: decode_records(r)?,
            wanted: list(r, 2, decode_key)?,
        }),
        5 => SyncAnswer::Stored,
        6 => SyncAnswer::Key(RoundNumber(r.varint()?), option(r, decode_sealed)?),
        7 => SyncAnswer::NotNow,
        8 => SyncAnswer::NotMine,
        _ => return Err(DecodeError::Malformed("answer of a home")),
    };
    Ok((call, answer))
}

fn encode_end(end: Option<&Key>, out: &mut impl Write) {
    out.bool(end.is_some());
    if let Some(end) = end {
        out.bytes(end.bytes());
    }
}

fn encode_records(records: &[(Key, Sealed)], out: &mut impl Write) {
    out.varint(records.len() as u64);
    for (key, record) in records {
        out.bytes(key.bytes());
        encode_sealed(record, out);
    }
}

fn decode_records(r: &mut Reader) -> Result<Vec<(Key, Sealed)>, DecodeError> {
    list(r, 6, |r| Ok((decode_key(r)?, decode_sealed(r)?)))
}

/// One of each message, around a record.
#[cfg(test)]
pub(super) fn samples(key: &Key, sealed: &Sealed) -> Vec<super::DataMessage> {
    use super::DataMessage;
    let call = CallId(6);
    let records = vec![(key.clone(), sealed.clone())];
    let mut tree = Tree::default();
    tree.change(key, None, Some(sealed.hash()));
    let range = SyncRange {
        round: RoundNumber(4),
        leaves: LeafSet(5),
        after: Bytes::from_static(b"a"),
        end: Some(key.clone()),
        held: vec![(key.clone(), sealed.hash())],
    };
    let (round, wanted) = (RoundNumber(300), vec![key.clone()]);
    let difference = SyncDifference { round, end: None, records: records.clone(), wanted };
    let asks = [
        SyncAsk::Fold(1),
        SyncAsk::Leaves,
        SyncAsk::Page(range),
        SyncAsk::Push(round, records),
        SyncAsk::Key(key.clone()),
    ];
    let answers = [
        SyncAnswer::Equal,
        SyncAnswer::Roots(vec![(Partition(3), 7)]),
        SyncAnswer::Leaves(tree),
        SyncAnswer::Page(difference),
        SyncAnswer::Stored,
        SyncAnswer::Key(round, Some(sealed.clone())),
        SyncAnswer::Key(round, None),
        SyncAnswer::NotNow,
        SyncAnswer::NotMine,
    ];
    let asks = asks.map(|ask| DataMessage::Sync(call, ask));
    asks.into_iter().chain(answers.map(|answer| DataMessage::SyncReply(call, answer))).collect()
}
