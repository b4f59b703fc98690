//! Opening what a node keeps, in the order that safety asks for.
//!
//! ```text
//!  lock ─▶ format, identity, generation ─▶ mark ─▶ manifests and journals, raw ─▶ engine recovers
//!       ─▶ sync ─▶ commit point ≥ mark? ─▶ Opened
//! ```
//!
//! What recovery read is made durable before anyone can see it: a reader could otherwise be shown
//! a write that the next power cut takes back. A recovery that ends below the mark has lost
//! writes that were acknowledged; such a folder is not served, and is left as it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::folder::{DataFolder, FolderError};
use super::journal::{self, JournalError};
use super::manifest;
use super::mark::{Mark, MarkError};
use super::point::{BatchPoint, COMMIT_KEY, CommitPoint};
use super::{FjallStore, Space, Store, StoreError, StoreOptions};
use crate::protocol::codec::DecodeError;
use crate::types::{CommitNumber, NodeName};

/// Bytes of one page of [`scan_meta`].
const META_PAGE_BYTES: usize = 1 << 20;

/// Everything that a node starts from.
#[derive(Debug)]
pub struct Opened {
    /// Whose the folder is; holds its lock.
    pub folder: DataFolder,
    /// The engine, recovered and synced.
    pub store: Arc<FjallStore>,
    /// The newest commit, and the clock at it: the node's clock starts above it.
    pub recovered: CommitPoint,
    /// For the committer.
    pub mark: Mark,
}

/// Why a node cannot start from its folder. Nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Acknowledged writes are missing.
    #[error(transparent)]
    Amnesia(#[from] Amnesia),
    /// The mark cannot be read or written.
    #[error(transparent)]
    Mark(MarkError),
    /// The engine's journals or manifests cannot be read.
    #[error(transparent)]
    Journal(JournalError),
    /// The engine does not open.
    #[error(
        "the storage engine in {folder} does not open. Nothing was served. If the disk can be \
         read, keep the folder as it is and report the fault; the other replicas hold the data"
    )]
    Engine {
        /// The engine's folder.
        folder: PathBuf,
        /// Why.
        source: StoreError,
    },
}

/// The disk has lost writes that this node had acknowledged.
#[derive(Debug, thiserror::Error)]
#[error(
    "{folder}: {loss}. Writes that this node had acknowledged are missing from its disk, so \
     nothing was served. The other replicas hold the data. Keep this folder as it is and report \
     the fault; this version cannot yet bring a node back with an empty disk in its place"
)]
pub struct Amnesia {
    /// The data folder.
    pub folder: PathBuf,
    /// What shows it.
    pub loss: Loss,
}

/// What shows that writes are missing.
#[derive(Debug, thiserror::Error)]
pub enum Loss {
    /// Recovery ended below the mark.
    #[error("the store was recovered up to commit {}, but had reached {}", recovered.0, marked.0)]
    Short {
        /// Where recovery ended.
        recovered: CommitNumber,
        /// Where the mark stands.
        marked: CommitNumber,
    },
    /// There are commits, but no mark.
    #[error("the store was recovered up to commit {}, but its mark is gone", recovered.0)]
    NoMark {
        /// Where recovery ended.
        recovered: CommitNumber,
    },
    /// The mark is there, but neither of its slots is valid.
    #[error("the mark, which says how far the store had come, is damaged ({0})")]
    DamagedMark(MarkError),
    /// There is data, but the commit number is gone.
    #[error("the store holds data, but not the number of its newest commit")]
    NoNumber,
    /// The commit number is damaged.
    #[error("the number of the newest commit is damaged ({0})")]
    DamagedNumber(DecodeError),
    /// The journal goes on behind the point at which recovery would cut it off.
    #[error(
        "the journal {path} is damaged at byte {cut}, and whole batches lie behind it, at byte \
         {whole}"
    )]
    DamagedJournal {
        /// The file.
        path: PathBuf,
        /// Where the sound part ends.
        cut: u64,
        /// Where a whole batch begins behind it.
        whole: u64,
    },
    /// A list of the engine's tables is not the newest one, or not whole.
    #[error("the list of tables {path} {how}")]
    DamagedManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        how: &'static str,
    },
    /// A batch of the journal would be replayed out of order: old writes would win over new ones.
    #[error(
        "the journal {path} is damaged: the batch at byte {at}, or the one before it, is out of \
         order"
    )]
    DisorderedJournal {
        /// The file.
        path: PathBuf,
        /// Where the second of the two batches begins.
        at: u64,
    },
}

/// Opens the data folder of the node `name` at `path`, making it if there is none.
///
/// # Errors
/// [`OpenError`]; each says what to do.
pub fn open(path: &Path, name: &NodeName, options: &StoreOptions) -> Result<Opened, OpenError> {
    let folder = DataFolder::open(path, name)?;
    let amnesia = |loss| OpenError::Amnesia(Amnesia { folder: path.into(), loss });
    let mark = match Mark::open(&folder.mark()) {
        Ok(mark) => mark,
        Err(damaged @ MarkError::Damaged { .. }) => {
            return Err(amnesia(Loss::DamagedMark(damaged)));
        }
        Err(error @ MarkError::Io { .. }) => return Err(OpenError::Mark(error)),
    };
    let marked = mark.as_ref().map(|mark| mark.at().number).unwrap_or_default();
    let engine = folder.engine();
    if marked > CommitNumber(0) && !engine.exists() {
        return Err(amnesia(Loss::Short { recovered: CommitNumber(0), marked }));
    }
    if let Some(loss) = manifest::check(&engine, mark.is_some()).map_err(OpenError::Journal)? {
        return Err(amnesia(loss));
    }
    if let Some(loss) = journal::check(&engine).map_err(OpenError::Journal)? {
        return Err(amnesia(loss));
    }
    let failed = |source| OpenError::Engine { folder: engine.clone(), source };
    let store = FjallStore::open(&engine, options).map_err(failed)?;
    store.sync().map_err(failed)?;
    let recovered = recovered(&store).map_err(failed)?.map_err(amnesia)?;
    let mark = match mark {
        Some(_) if marked > recovered.number => {
            return Err(amnesia(Loss::Short { recovered: recovered.number, marked }));
        }
        Some(mark) => mark,
        None if recovered.number > CommitNumber(0) => {
            return Err(amnesia(Loss::NoMark { recovered: recovered.number }));
        }
        None => Mark::create(&folder.mark(), recovered).map_err(OpenError::Mark)?,
    };
    Ok(Opened { folder, store: Arc::new(store), recovered, mark })
}

/// All entries of `Space::Meta` whose name starts with `prefix`, in order.
///
/// # Errors
/// [`StoreError::Read`].
pub fn scan_meta(store: &dyn Store, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let mut entries = Vec::new();
    loop {
        let after = entries.last().map(|(key, _): &(Bytes, Bytes)| key.clone()).unwrap_or_default();
        let page = store.scan(Space::Meta, prefix, &after, META_PAGE_BYTES)?;
        entries.extend(page.entries);
        if page.done {
            return Ok(entries);
        }
    }
}

/// The point of the newest commit; the default one in an empty store.
fn recovered(store: &dyn Store) -> Result<Result<CommitPoint, Loss>, StoreError> {
    if let Some(bytes) = store.get(Space::Meta, COMMIT_KEY)? {
        let decoded = BatchPoint::decode(&bytes);
        return Ok(decoded.map(|batch| batch.point).map_err(Loss::DamagedNumber));
    }
    for space in [Space::Records, Space::Hints, Space::Meta] {
        if !store.scan(space, b"", b"", 1)?.entries.is_empty() {
            return Ok(Err(Loss::NoNumber));
        }
    }
    Ok(Ok(CommitPoint::default()))
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
