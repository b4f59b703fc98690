//! Bytes in, bytes out: the few shapes that every format of ours is made of.
//!
//! Integers are little-endian and of fixed width, lengths are LEB128 varints, byte strings are a
//! length and their bytes. A [`Reader`] never panics and never allocates more than it was given:
//! what it reads comes from peers and disks.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A crc32 in bytes.
const CRC_BYTES: usize = 4;

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ended too early.
    #[error("the input ends in the middle of a value")]
    Truncated,
    /// Bytes were left over.
    #[error("bytes are left over after the last value")]
    Trailing,
    /// A value that this format does not have, with what was being read.
    #[error("not a valid {0}")]
    Malformed(&'static str),
    /// The format is newer than this build, or not ours.
    #[error("format version {0} is not known to this build")]
    Version(u8),
    /// The checksum does not fit.
    #[error("the checksum does not fit: the bytes are damaged")]
    Checksum,
}

/// Reads values from the front of a byte string, without copying byte strings out of it.
#[derive(Debug)]
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    /// Reads from the front of `bytes`.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], as of every method here.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.bytes.try_get_u8().map_err(|_| DecodeError::Truncated)
    }

    /// Two bytes, little-endian.
    ///
    /// # Errors
    /// If the input ends.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.bytes.try_get_u16_le().map_err(|_| DecodeError::Truncated)
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// If the input ends.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.bytes.try_get_u32_le().map_err(|_| DecodeError::Truncated)
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// If the input ends.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.bytes.try_get_u64_le().map_err(|_| DecodeError::Truncated)
    }

    /// Sixteen bytes, little-endian.
    ///
    /// # Errors
    /// If the input ends.
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        self.bytes.try_get_u128_le().map_err(|_| DecodeError::Truncated)
    }

    /// A length or a small number; only the shortest encoding is accepted.
    ///
    /// # Errors
    /// If the input ends or the number is not canonical.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 || (byte == 0 && shift > 0) {
                return Err(DecodeError::Malformed("varint"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("varint"))
    }

    /// A count of things that take at least `each` bytes: no more than the input can hold.
    ///
    /// # Errors
    /// If the input is too short for them.
    pub fn count(&mut self, each: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
        if count.saturating_mul(each.max(1)) > self.bytes.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(count)
    }

    /// A length and that many bytes, sharing the input's memory.
    ///
    /// # Errors
    /// If the input ends.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.count(1)?;
        Ok(self.bytes.split_to(len))
    }

    /// A length and that many bytes of UTF-8.
    ///
    /// # Errors
    /// If the input ends or is not UTF-8.
    pub fn text(&mut self) -> Result<String, DecodeError> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Malformed("text"))
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// If the input ends or the byte is another.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Malformed("flag")),
        }
    }

    /// Everything that is left.
    #[must_use]
    pub fn rest(self) -> Bytes {
        self.bytes
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] if anything is left.
    pub fn end(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

/// The writing counterpart of [`Reader`], for anything that bytes can be put into.
pub trait Write: BufMut {
    /// A length or a small number, in the shortest encoding.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            #[expect(clippy::cast_possible_truncation, reason = "the low seven bits are meant")]
            self.put_u8((value as u8) | 0x80);
            value >>= 7;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
        self.put_u8(value as u8);
    }

    /// A length and the bytes.
    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.put_slice(bytes);
    }

    /// A byte that is 0 or 1.
    fn bool(&mut self, flag: bool) {
        self.put_u8(u8::from(flag));
    }
}

/// A string that carries a checksum of itself at its end: for what is given out and comes back.
pub trait Checked: BufMut + AsRef<[u8]> {
    /// Appends the crc32 of everything before it.
    fn put_crc(&mut self) {
        let crc = crc32fast::hash(self.as_ref());
        self.put_u32_le(crc);
    }
}

/// What stands before the checksum that [`Checked::put_crc`] appended.
///
/// # Errors
/// [`DecodeError::Truncated`] if there is no room for one, [`DecodeError::Checksum`] if it does not
/// fit.
pub fn checked(mut bytes: Bytes) -> Result<Bytes, DecodeError> {
    let end = bytes.len().checked_sub(CRC_BYTES).ok_or(DecodeError::Truncated)?;
    let crc = bytes.split_off(end);
    if crc32fast::hash(&bytes).to_le_bytes() == crc[..] {
        Ok(bytes)
    } else {
        Err(DecodeError::Checksum)
    }
}

impl Checked for BytesMut {}
impl Write for BytesMut {}
impl Write for Vec<u8> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_varint_comes_back(value: u64) {
            let mut out = Vec::new();
            out.varint(value);
            let mut reader = Reader::new(out.into());
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn a_byte_string_comes_back(value: Vec<u8>) {
            let mut out = Vec::new();
            out.bytes(&value);
            prop_assert_eq!(Reader::new(out.into()).bytes(), Ok(value.into()));
        }

        #[test]
        fn a_checked_string_comes_back_and_a_damaged_one_does_not(
            value: Vec<u8>, at: prop::sample::Index, bit in 0..8u8,
        ) {
            let mut out = BytesMut::from(&value[..]);
            out.put_crc();
            let mut damaged = out.to_vec();
            prop_assert_eq!(checked(out.freeze()), Ok(value.into()));
            let at = at.index(damaged.len());
            damaged[at] ^= 1 << bit;
            prop_assert_eq!(checked(damaged.into()), Err(DecodeError::Checksum));
        }

        #[test]
        fn arbitrary_bytes_never_panic(input: Vec<u8>) {
            let mut reader = Reader::new(input.into());
            while reader.varint().is_ok() && reader.bytes().is_ok() && reader.text().is_ok() {}
        }
    }

    #[test]
    fn a_varint_has_one_encoding() {
        let padded = Bytes::from_static(&[0x81, 0x00]);
        assert_eq!(Reader::new(padded).varint(), Err(DecodeError::Malformed("varint")));
    }

    #[test]
    fn a_length_beyond_the_input_is_refused_before_anything_is_allocated() {
        let mut out = Vec::new();
        out.varint(u64::MAX);
        assert_eq!(Reader::new(out.into()).bytes(), Err(DecodeError::Truncated));
    }
}
