//! The durable mark of a partition whose copy on this disk is not whole.
//!
//! A key of [`Space::Meta`], `lost/` and the partition, big-endian; any value. While it is there the
//! node takes writes of the partition, but no answer of it counts toward R. It is written for all
//! partitions, in one batch, before the id of an emptied or forgetful disk is used, and removed
//! once everything that the partition's other homes hold has been merged.

use bytes::Bytes;

use super::meta::{partition_key, partition_of};
use super::step::{Change, Space};
use crate::types::Partition;

/// What the keys begin with.
pub const LOST_PREFIX: &[u8] = b"lost/";

/// The key that marks a partition.
#[must_use]
pub fn lost_marker(partition: Partition) -> Bytes {
    partition_key(LOST_PREFIX, partition)
}

/// The partition that a key marks; none if it is no marker.
#[must_use]
pub fn from_lost_marker(key: &[u8]) -> Option<Partition> {
    partition_of(LOST_PREFIX, key)
}

/// Marks every partition of the ring.
pub(super) fn mark_all(partitions: u16) -> impl Iterator<Item = Change> {
    let value = Some(Bytes::from_static(&[1]));
    (0..partitions).map(move |partition| Change {
        space: Space::Meta,
        key: lost_marker(Partition(partition)),
        value: value.clone(),
    })
}

/// Removes the mark of a partition.
pub(super) fn unmark(partition: Partition) -> Change {
    Change { space: Space::Meta, key: lost_marker(partition), value: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_names_its_partition_and_other_keys_are_none() {
        for partition in [0, 1, 255, 256, u16::MAX].map(Partition) {
            assert_eq!(from_lost_marker(&lost_marker(partition)), Some(partition));
        }
        for other in [&b"lost/"[..], b"lost/1", b"lost/123", b"rebuilding/\0\x01"] {
            assert_eq!(from_lost_marker(other), None);
        }
        assert_eq!(mark_all(4096).count(), 4096);
    }
}
