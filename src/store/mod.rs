//! What a node keeps: the [`Store`] trait, its engines, the committer and the mark.
//!
//! An engine is a set of ordered maps, one a [`Space`]. A batch goes in whole or not at all;
//! what a reader sees is durable (where durability was asked for).

use bytes::Bytes;

pub use crate::protocol::step::{Change, Page, Space};

/// What an acknowledgement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The journal has been fsynced: survives power loss.
    Fsync,
    /// The journal has been handed to the kernel: survives `kill -9`, not power loss.
    Buffered,
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is too full; nothing changed; retry after space has been made.
    #[error("{free} bytes are free, less than storage.min_free = {needed}: writes are refused")]
    Full {
        /// Free bytes on the file system.
        free: u64,
        /// The configured minimum.
        needed: u64,
    },
    /// Reading failed; nothing changed.
    #[error("reading failed")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Writing or syncing failed: what is on disk is unknown, and the node must stop.
    #[error("writing failed; what is on disk is unknown")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// An ordered, atomic, durable set of maps.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The entries whose key starts with `prefix` and lies behind `after` (empty: from the
    /// start), on a snapshot, until `bytes_max` bytes of keys and values are exceeded (at least
    /// one entry, if there is one).
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        after: &[u8],
        bytes_max: usize,
    ) -> Result<Page, StoreError>;

    /// Puts all changes in, in order, whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::Full`] if nothing was changed, [`StoreError::Write`] if that is unknown.
    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError>;

    /// Makes everything that was committed durable.
    ///
    /// # Errors
    /// [`StoreError::Write`].
    fn sync(&self) -> Result<(), StoreError>;
}
