//! Page tokens: where a walk over all keys stands. They hold for as long as the cluster does,
//! through restarts and on any node.

use bytes::{BufMut, Bytes, BytesMut};

use crate::protocol::codec::{self, Checked, DecodeError, Reader, Write};
use crate::types::{ClusterId, KEY_BYTES_MAX, Partition};

/// Format 1 did not name the prefix.
const FORMAT: u8 = 2;

/// Where a walk goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageToken {
    pub(super) cluster: ClusterId,
    /// The hash of the walk's prefix.
    pub(super) prefix: u64,
    pub(super) partition: Partition,
    /// Go on behind this key; empty: from the partition's start.
    pub(super) after: Bytes,
}

/// Why a token is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("it is damaged or was not made by this system; give back a page_token unchanged")]
    Malformed(#[from] DecodeError),
    #[error("it comes from another cluster ({0}); start from the beginning")]
    ForeignCluster(ClusterId),
    #[error("it comes from a scan with another prefix; give the same prefix, or start anew")]
    ForeignPrefix,
}

/// What a token says of its walk's prefix.
pub(super) fn prefix_hash(prefix: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(prefix)
}

impl PageToken {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32 + self.after.len());
        out.put_u8(FORMAT);
        out.put_u128_le(self.cluster.0);
        out.put_u64_le(self.prefix);
        out.put_u16_le(self.partition.0);
        out.bytes(&self.after);
        out.put_crc();
        out.freeze()
    }

    pub(super) fn decode(
        bytes: Bytes,
        cluster: ClusterId,
        prefix: u64,
        partitions: u16,
    ) -> Result<Self, TokenError> {
        let token = Self::decode_body(codec::checked(bytes)?)?;
        if token.cluster != cluster {
            return Err(TokenError::ForeignCluster(token.cluster));
        }
        if token.prefix != prefix {
            return Err(TokenError::ForeignPrefix);
        }
        if token.partition.0 >= partitions || token.after.len() > KEY_BYTES_MAX {
            return Err(DecodeError::Malformed("page token").into());
        }
        Ok(token)
    }

    fn decode_body(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Version(other)),
        }
        let cluster = ClusterId(reader.u128()?);
        let prefix = reader.u64()?;
        let partition = Partition(reader.u16()?);
        let after = reader.bytes()?;
        reader.end()?;
        Ok(Self { cluster, prefix, partition, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> PageToken {
        let after = Bytes::from_static(b"key");
        PageToken {
            cluster: ClusterId(7),
            prefix: prefix_hash(b"k"),
            partition: Partition(9),
            after,
        }
    }

    #[test]
    fn a_token_comes_back_and_only_in_its_cluster_and_for_its_prefix() {
        let (bytes, prefix) = (token().encode(), prefix_hash(b"k"));
        assert_eq!(PageToken::decode(bytes.clone(), ClusterId(7), prefix, 10), Ok(token()));
        let foreign = PageToken::decode(bytes.clone(), ClusterId(8), prefix, 10);
        assert_eq!(foreign, Err(TokenError::ForeignCluster(ClusterId(7))));
        for other in ["", "ke", "other"] {
            let other = prefix_hash(other.as_bytes());
            let foreign = PageToken::decode(bytes.clone(), ClusterId(7), other, 10);
            assert_eq!(foreign, Err(TokenError::ForeignPrefix));
        }
        assert!(PageToken::decode(bytes, ClusterId(7), prefix, 9).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_and_damaged_tokens_are_refused(
            input: Vec<u8>, at: prop::sample::Index, bit in 0..8u8,
        ) {
            let prefix = prefix_hash(b"k");
            prop_assert!(PageToken::decode(input.into(), ClusterId(7), prefix, 10).is_err());
            let mut bytes = token().encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(PageToken::decode(bytes.into(), ClusterId(7), prefix, 10).is_err());
        }
    }
}
