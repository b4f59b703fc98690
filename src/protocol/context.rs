//! Contexts: what a client has read, given back with its next write.
//!
//! To a client a context is an opaque string. Inside are the cluster's id, the key's hash, the
//! version vector that was read, and a checksum: a context that was forged, damaged or taken
//! from another key or cluster is refused before it can make a write supersede what its writer
//! never saw.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{self, Checked, DecodeError, Reader, Write};
use super::record::VersionVector;
use crate::types::{ClusterId, Key};

const FORMAT: u8 = 1;

/// What a client has read of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The cluster that it was read from.
    pub cluster: ClusterId,
    /// The hash of the key that was read.
    pub key_hash: u64,
    /// Whether siblings existed that the read did not show. A write with such a context is
    /// refused: it would supersede what its writer never saw.
    pub partial: bool,
    /// Every dot that the write made with this context supersedes.
    pub seen: VersionVector,
}

/// Why a context is refused. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Not bytes that this system gave out.
    #[error(
        "the context is damaged or was not made by this system; give back unchanged the `context` of a read"
    )]
    Malformed(#[from] DecodeError),
    /// Given out by another cluster.
    #[error("the context comes from another cluster ({0}); read the key here first")]
    ForeignCluster(ClusterId),
    /// Given out for another key.
    #[error(
        "the context belongs to another key; give back the context that was read with this key"
    )]
    ForeignKey,
    /// Given out by a read that hid siblings.
    #[error(
        "the context comes from a read that did not show all siblings; read with all_siblings first"
    )]
    Partial,
    /// Further in the future than clocks may differ, and no replica knows of it.
    #[error(
        "the context names writes from the future that no replica knows of; read the key again"
    )]
    Ahead,
}

impl Context {
    /// The opaque string for a client.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(40 + self.seen.entries().len() * 16);
        out.put_u8(FORMAT);
        out.put_u128_le(self.cluster.0);
        out.put_u64_le(self.key_hash);
        out.bool(self.partial);
        self.seen.encode(&mut out);
        out.put_crc();
        out.freeze()
    }

    /// Reads what a client gave back for `key`.
    ///
    /// # Errors
    /// Any [`ContextError`] but [`ContextError::Ahead`], which only replicas can judge.
    pub fn decode(bytes: Bytes, cluster: ClusterId, key: &Key) -> Result<Self, ContextError> {
        let context = Self::decode_body(codec::checked(bytes)?)?;
        if context.cluster != cluster {
            return Err(ContextError::ForeignCluster(context.cluster));
        }
        if context.key_hash != key.hash() {
            return Err(ContextError::ForeignKey);
        }
        if context.partial { Err(ContextError::Partial) } else { Ok(context) }
    }

    fn decode_body(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Version(other)),
        }
        let cluster = ClusterId(reader.u128()?);
        let key_hash = reader.u64()?;
        let partial = reader.bool()?;
        let seen = VersionVector::decode(&mut reader)?;
        reader.end()?;
        Ok(Self { cluster, key_hash, partial, seen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Actor, Dot, Stamp};
    use proptest::prelude::*;

    fn context(key: &Key, partial: bool) -> Context {
        let mut seen = VersionVector::default();
        seen.add(Dot::new(Actor(1), Stamp(2)));
        Context { cluster: ClusterId(7), key_hash: key.hash(), partial, seen }
    }

    #[test]
    fn a_context_comes_back_and_only_for_its_key_and_cluster() {
        let key = Key::new("k").unwrap();
        let good = context(&key, false);
        let bytes = good.encode();
        assert_eq!(Context::decode(bytes.clone(), ClusterId(7), &key), Ok(good));
        let foreign = Context::decode(bytes.clone(), ClusterId(8), &key);
        assert_eq!(foreign, Err(ContextError::ForeignCluster(ClusterId(7))));
        let other = Key::new("other").unwrap();
        assert_eq!(Context::decode(bytes, ClusterId(7), &other), Err(ContextError::ForeignKey));
    }

    #[test]
    fn the_context_of_a_read_that_hid_siblings_is_refused() {
        let key = Key::new("k").unwrap();
        let bytes = context(&key, true).encode();
        assert_eq!(Context::decode(bytes, ClusterId(7), &key), Err(ContextError::Partial));
    }

    proptest! {
        #[test]
        fn arbitrary_and_damaged_bytes_are_refused(
            input: Vec<u8>, at: prop::sample::Index, bit in 0..8u8,
        ) {
            let key = Key::new("k").unwrap();
            prop_assert!(Context::decode(input.into(), ClusterId(7), &key).is_err());
            let mut bytes = context(&key, false).encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Context::decode(bytes.into(), ClusterId(7), &key).is_err());
        }
    }
}
