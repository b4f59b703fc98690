//! The messages of a round of collection: see [`crate::protocol::rounds`].
//!
//! ```text
//!  driver (a home)              every home      every member
//!      │ Survey{records} ───────────▶│                │   which of these do you hold, dead, on disk?
//!      │◀──────────────────  Surveyed│                │
//!      │ Open{number, cut} ──────────┼───────────────▶│   homes only if they still hold all of it
//!      │◀────────────────────────────┴──────── Opened │   durable
//!      │ Drain{number} ──────────────┬───────────────▶│   once all have opened
//!      │◀────────────────────────────┴─────── Drained │   durable, once nothing older is held
//!      │ Close{number} ──────────────┬───────────────▶│   once all have drained
//!      │◀────────────────────────────┴──────── Closed │   once the cut is applied
//!      │ Over{number} ───────────────┴───────────────▶│   the cut may be forgotten
//! ```
//!
//! Each may be lost, repeated or late: a question is asked again until it is answered, and what is
//! over is answered as it was.

use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::protocol::rounds::{CUT_ENTRIES_MAX, Cut, CutId};
use crate::types::RoundNumber;

/// What members say to each other of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundMessage {
    /// Which of these do you hold durably, and hold for dead? Of round 0 and nothing: which rounds do you know
    /// of? The answer is [`Self::Behind`].
    Survey(RoundNumber, Cut),
    /// The answer, record by record. To an Open, too, if a home does not hold all of the cut any more: the
    /// number is spent. Of round 0 and nothing: I cannot vouch for what I know of them.
    Surveyed(RoundNumber, Vec<bool>),
    /// Confirm this cut; `closed` is the last round that was closed.
    Open {
        /// The round to open.
        number: RoundNumber,
        /// The last one that was closed.
        closed: RoundNumber,
        /// Its cut.
        cut: Cut,
    },
    /// The cut is confirmed, durably.
    Opened(RoundNumber, CutId),
    /// All have opened: do you hold anything older?
    Drain(RoundNumber, CutId),
    /// No, and nothing older will be held.
    Drained(RoundNumber, CutId),
    /// All have drained: the round is closed.
    Close(RoundNumber, CutId),
    /// The cut has been applied.
    Closed(RoundNumber),
    /// It has been applied everywhere.
    Over(RoundNumber),
    /// What you sent is of the past, or you have asked: where I am, and the last round that I know to be closed.
    Behind {
        /// The round that was opened last.
        number: RoundNumber,
        /// The last one that was closed.
        closed: RoundNumber,
        /// The cut of the one that was opened last.
        id: CutId,
    },
    /// To whoever drives, from a home that has opened this round and waits for copies of others to be as new: the
    /// next round brings them there, if nobody ends this one.
    Wanted(RoundNumber),
}

impl RoundMessage {
    pub(super) fn encode(&self, out: &mut impl Write) {
        let head = |out: &mut _, kind: u8, number: RoundNumber| {
            Write::varint(out, u64::from(kind));
            Write::varint(out, number.0);
        };
        match self {
            Self::Survey(number, cut) => {
                head(out, 0, *number);
                cut.encode(out);
            }
            Self::Surveyed(number, held) => {
                head(out, 1, *number);
                out.varint(held.len() as u64);
                held.iter().for_each(|held| out.bool(*held));
            }
            Self::Open { number, closed, cut } => {
                head(out, 2, *number);
                out.varint(closed.0);
                cut.encode(out);
            }
            Self::Opened(number, id) => {
                head(out, 3, *number);
                out.put_u128_le(id.0);
            }
            Self::Drain(number, id) => {
                head(out, 4, *number);
                out.put_u128_le(id.0);
            }
            Self::Drained(number, id) => {
                head(out, 5, *number);
                out.put_u128_le(id.0);
            }
            Self::Close(number, id) => {
                head(out, 6, *number);
                out.put_u128_le(id.0);
            }
            Self::Closed(number) => head(out, 7, *number),
            Self::Over(number) => head(out, 8, *number),
            Self::Behind { number, closed, id } => {
                head(out, 9, *number);
                out.varint(closed.0);
                out.put_u128_le(id.0);
            }
            Self::Wanted(number) => head(out, 10, *number),
        }
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (kind, number) = (r.varint()?, RoundNumber(r.varint()?));
        let id = |r: &mut Reader| Ok::<_, DecodeError>(CutId(r.u128()?));
        Ok(match kind {
            0 => Self::Survey(number, Cut::decode(r)?),
            1 => {
                let count = r.count(1)?;
                if count > CUT_ENTRIES_MAX {
                    return Err(DecodeError::Malformed("answer to a survey"));
                }
                Self::Surveyed(number, (0..count).map(|_| r.bool()).collect::<Result<_, _>>()?)
            }
            2 => Self::Open { number, closed: RoundNumber(r.varint()?), cut: Cut::decode(r)? },
            3 => Self::Opened(number, id(r)?),
            4 => Self::Drain(number, id(r)?),
            5 => Self::Drained(number, id(r)?),
            6 => Self::Close(number, id(r)?),
            7 => Self::Closed(number),
            8 => Self::Over(number),
            9 => Self::Behind { number, closed: RoundNumber(r.varint()?), id: id(r)? },
            10 => Self::Wanted(number),
            _ => return Err(DecodeError::Malformed("message of a round")),
        })
    }
}
