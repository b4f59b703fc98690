//! How far a store has come: the number of a commit and the clock at it.
//!
//! Every batch carries a [`BatchPoint`] under [`COMMIT_KEY`]; the mark's slots hold a
//! [`CommitPoint`] each. Layouts, little-endian: `format (1) ‖ number (8) ‖ clock (8)`, in a batch
//! `‖ synced (8)`, then `crc32 (4)`. The checksum begins with the place that the point was
//! written for, so that one cannot be taken for the other.

use bytes::{BufMut, Bytes};

use crate::protocol::codec::{DecodeError, Reader};
use crate::types::{CommitNumber, Stamp};

/// The key in `Space::Meta` under which every batch carries its point.
pub const COMMIT_KEY: &[u8] = b"commit";

/// The layouts above.
const FORMAT: u8 = 1;
/// What the checksum of a point in a batch begins with.
const IN_BATCH: &[u8] = b"coterie commit";
/// What the checksum of a point in the mark begins with.
const IN_MARK: &[u8] = b"coterie mark";

/// Bytes of an encoded [`CommitPoint`].
pub(super) const POINT_BYTES: usize = 21;

/// How far a store has come. Default: nothing was ever committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CommitPoint {
    /// The newest commit.
    pub number: CommitNumber,
    /// No stamp that was given out up to it is higher.
    pub clock: Stamp,
}

/// What a batch says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchPoint {
    /// The batch.
    pub point: CommitPoint,
    /// What was on disk when the batch was written: if the batch is there, so must this be.
    pub synced: CommitNumber,
}

impl CommitPoint {
    /// The encoding for a slot of the mark.
    pub(super) fn encode(self) -> Bytes {
        seal(self.body(), IN_MARK)
    }

    /// Reads a slot of the mark.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = unseal(bytes, IN_MARK)?;
        let point = Self::read(&mut reader)?;
        reader.end()?;
        Ok(point)
    }

    fn body(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(POINT_BYTES + 8);
        out.put_u8(FORMAT);
        out.put_u64_le(self.number.0);
        out.put_u64_le(self.clock.0);
        out
    }

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { number: CommitNumber(reader.u64()?), clock: Stamp(reader.u64()?) })
    }
}

impl BatchPoint {
    /// The value under [`COMMIT_KEY`].
    pub(super) fn encode(self) -> Bytes {
        let mut body = self.point.body();
        body.put_u64_le(self.synced.0);
        seal(body, IN_BATCH)
    }

    /// Reads the value under [`COMMIT_KEY`].
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = unseal(bytes, IN_BATCH)?;
        let point = CommitPoint::read(&mut reader)?;
        let synced = CommitNumber(reader.u64()?);
        reader.end()?;
        Ok(Self { point, synced })
    }
}

fn seal(mut body: Vec<u8>, place: &[u8]) -> Bytes {
    let checksum = checksum(place, &body);
    body.put_u32_le(checksum);
    body.into()
}

/// Checks the checksum and the format; what is left are the fields.
fn unseal(bytes: &Bytes, place: &[u8]) -> Result<Reader, DecodeError> {
    let end = bytes.len().checked_sub(4).ok_or(DecodeError::Truncated)?;
    let expected = Reader::new(bytes.slice(end..)).u32()?;
    let body = bytes.slice(..end);
    if checksum(place, &body) != expected {
        return Err(DecodeError::Checksum);
    }
    let mut reader = Reader::new(body);
    match reader.u8()? {
        FORMAT => Ok(reader),
        other => Err(DecodeError::Version(other)),
    }
}

fn checksum(place: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(place);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(number: u64, clock: u64) -> CommitPoint {
        CommitPoint { number: CommitNumber(number), clock: Stamp(clock) }
    }

    proptest! {
        #[test]
        fn a_point_comes_back_from_its_own_place_only(number: u64, clock: u64, synced: u64) {
            let point = point(number, clock);
            prop_assert_eq!(point.encode().len(), POINT_BYTES);
            prop_assert_eq!(CommitPoint::decode(&point.encode()), Ok(point));
            let batch = BatchPoint { point, synced: CommitNumber(synced) };
            prop_assert_eq!(BatchPoint::decode(&batch.encode()), Ok(batch));
            prop_assert_eq!(CommitPoint::decode(&batch.encode()), Err(DecodeError::Checksum));
            prop_assert_eq!(BatchPoint::decode(&point.encode()), Err(DecodeError::Checksum));
        }

        #[test]
        fn a_flipped_bit_is_noticed(number: u64, clock: u64, bit in 0..POINT_BYTES * 8) {
            let mut bytes = point(number, clock).encode().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(CommitPoint::decode(&bytes.into()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = Bytes::from(bytes);
            let _ = CommitPoint::decode(&bytes);
            let _ = BatchPoint::decode(&bytes);
        }
    }
}
