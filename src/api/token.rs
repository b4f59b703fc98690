//! Page tokens: where a walk over all keys stands. They hold for as long as the cluster does,
//! through restarts and on any node.

use bytes::{BufMut, Bytes, BytesMut};

use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::types::{ClusterId, KEY_BYTES_MAX, Partition};

const FORMAT: u8 = 1;

/// Where a walk goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageToken {
    pub(super) cluster: ClusterId,
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
}

impl PageToken {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32 + self.after.len());
        out.put_u8(FORMAT);
        out.put_u128_le(self.cluster.0);
        out.put_u16_le(self.partition.0);
        out.bytes(&self.after);
        let crc = crc32fast::hash(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    pub(super) fn decode(
        mut bytes: Bytes,
        cluster: ClusterId,
        partitions: u16,
    ) -> Result<Self, TokenError> {
        if bytes.len() < 4 {
            return Err(DecodeError::Truncated.into());
        }
        let crc = bytes.split_off(bytes.len() - 4);
        if crc32fast::hash(&bytes).to_le_bytes() != crc[..] {
            return Err(DecodeError::Checksum.into());
        }
        let token = Self::decode_body(bytes)?;
        if token.cluster != cluster {
            return Err(TokenError::ForeignCluster(token.cluster));
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
        let partition = Partition(reader.u16()?);
        let after = reader.bytes()?;
        reader.end()?;
        Ok(Self { cluster, partition, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> PageToken {
        let after = Bytes::from_static(b"key");
        PageToken { cluster: ClusterId(7), partition: Partition(9), after }
    }

    #[test]
    fn a_token_comes_back_and_only_in_its_cluster() {
        let bytes = token().encode();
        assert_eq!(PageToken::decode(bytes.clone(), ClusterId(7), 10), Ok(token()));
        let foreign = PageToken::decode(bytes.clone(), ClusterId(8), 10);
        assert_eq!(foreign, Err(TokenError::ForeignCluster(ClusterId(7))));
        assert!(PageToken::decode(bytes, ClusterId(7), 9).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_and_damaged_tokens_are_refused(
            input: Vec<u8>, at: prop::sample::Index, bit in 0..8u8,
        ) {
            prop_assert!(PageToken::decode(input.into(), ClusterId(7), 10).is_err());
            let mut bytes = token().encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(PageToken::decode(bytes.into(), ClusterId(7), 10).is_err());
        }
    }
}
