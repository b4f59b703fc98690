//! What a node keeps: the [`Store`] trait, its engines, the committer and the mark.
//!
//! An engine is a set of ordered maps, one a [`Space`]. A batch goes in whole or not at all;
//! what a reader sees is durable (where durability was asked for).
//!
//! ```text
//!  workers, control core ── submit ──▶ Committer ── one batch ──▶ Store (fjall, memory)
//!            ▲                            │  │                       │ journal synced
//!            └────────── complete ────────┘  └── ≤ 100 ms behind ──▶ Mark
//!
//!  open():  DataFolder (lock, format, identity, generation) → journals looked through
//!           → engine recovers, synced → what it recovered is held against the mark
//! ```
//!
//! Invariants, each of which an acknowledged write hangs on:
//!
//! - mark ≤ synced commit ≤ newest commit; a write is acknowledged between its own sync and the
//!   mark that covers it;
//! - a folder that recovers to less than its mark is never served;
//! - after a failed write nothing is acknowledged any more.

mod committer;
mod desk;
mod fjall;
mod folder;
mod journal;
mod manifest;
mod mark;
mod memory;
mod open;
mod point;
#[cfg(test)]
mod suite;

use bytes::Bytes;

pub use self::committer::{Beat, Committer, Completion, Meters, NOTES, Submission};
pub use self::fjall::{FjallStore, StoreOptions};
pub use self::folder::{DataFolder, FolderError};
pub use self::journal::JournalError;
pub use self::mark::{Mark, MarkError};
pub use self::memory::MemoryStore;
pub use self::open::{
    Amnesia, Begin, Loss, OpenError, Opened, open, open_anew, scan_meta, set_aside,
};
pub use self::point::{COMMIT_KEY, CommitPoint};
pub use crate::protocol::step::{Change, Page, Space};

/// Longest key that an engine takes, in bytes; the shortest has one.
pub const STORE_KEY_BYTES_MAX: usize = 65_535;

/// What an acknowledgement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The journal has been fsynced: survives power loss.
    Fsync,
    /// The journal has been handed to the kernel: survives `kill -9`, not power loss. Hints are
    /// fsynced all the same.
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

/// What a store takes of its disk, and what is left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes free on the file system; none if it does not say.
    pub free: Option<u64>,
    /// Bytes of tables; the journal's come on top.
    pub tables: u64,
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

    /// Whether a commit may have to wait for something other than its own write. Never waits itself.
    fn is_busy(&self) -> bool {
        false
    }

    /// What it takes of its disk; none if it has none. Never waits for a write.
    fn space(&self) -> Option<DiskSpace> {
        None
    }
}

/// Engines take keys of 1 to 65,535 bytes; the core makes none that is not.
///
/// # Panics
/// If a key is empty or too long: a programmer's mistake.
fn assert_keys(changes: &[Change]) {
    for change in changes {
        let len = change.key.len();
        assert!(
            (1..=STORE_KEY_BYTES_MAX).contains(&len),
            "a key of the store has 1 to {STORE_KEY_BYTES_MAX} bytes, this one of {:?} has {len}",
            change.space,
        );
    }
}

/// The first key behind all that start with `prefix`; none if there is no such key.
fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
