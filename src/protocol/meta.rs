//! Names in `Space::Meta` of what is kept of a partition: a prefix, and the partition, big-endian.

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::Partition;

/// The key for a partition under a prefix.
pub(super) fn partition_key(prefix: &[u8], partition: Partition) -> Bytes {
    let mut out = BytesMut::with_capacity(prefix.len() + 2);
    out.put_slice(prefix);
    out.put_u16(partition.0);
    out.freeze()
}

/// The partition that a key under a prefix is for; none if it is not such a key.
pub(super) fn partition_of(prefix: &[u8], key: &[u8]) -> Option<Partition> {
    let partition = key.strip_prefix(prefix)?;
    Some(Partition(u16::from_be_bytes(partition.try_into().ok()?)))
}
