//! Opening what a node keeps, in the order that safety asks for.
//!
//! ```text
//!  lock ─▶ format, identity, generation ─▶ mark ─▶ manifests and journals, raw ─▶ engine recovers
//!       ─▶ sync ─▶ commit point ≥ mark? ─▶ Opened
//! ```
//!
//! What recovery read is made durable before anyone can see it: a reader could otherwise be shown
//! a write that the next power cut takes back. A recovery that ends below the mark has lost
//! writes that were acknowledged; such a folder is not served as the disk that it was ([`open`]), and
//! goes on as another one ([`open_anew`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::folder::{DataFolder, FolderError, sync_folder_of};
use super::journal::{self, JournalError};
use super::manifest;
use super::mark::{Mark, MarkError};
use super::point::{BatchPoint, COMMIT_KEY, CommitPoint};
use super::{Change, Durability, FjallStore, Space, Store, StoreError, StoreOptions};
use crate::protocol::codec::DecodeError;
use crate::protocol::control::META_PREFIX;
use crate::types::{CommitNumber, NodeId, NodeName};

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
        "the storage engine in {folder} does not open. Nothing was served. The other replicas hold \
         the data: set the data folder aside, and start the node with an empty one; it comes back in \
         its place and is rebuilt"
    )]
    Engine {
        /// The engine's folder.
        folder: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// A damaged engine cannot be set aside.
    #[error("cannot set the damaged engine {folder} aside: check the disk and its permissions")]
    Aside {
        /// The engine's folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The disk has lost writes that this node had acknowledged.
#[derive(Debug, thiserror::Error)]
#[error(
    "{folder}: {loss}. Writes that this node had acknowledged are missing from its disk; the other \
     replicas hold the data"
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
    open_folder(DataFolder::open(path, name)?, options)
}

/// What a disk is to become that has lost acknowledged writes: its next id, and what is to be durable
/// before that is used. Given what the control core has left under [`Space::Meta`], whether anything at all is
/// left, and the id that it has.
pub type Begin<'a> = &'a dyn Fn(&[(Bytes, Bytes)], bool, NodeId) -> (NodeId, Vec<Change>);

/// As [`open`], but a folder that has lost acknowledged writes goes on as another disk, and what is
/// left in it is input to its rebuilding. Says what was lost.
///
/// The order, each step durable before the next: an engine that cannot be trusted is set aside; what
/// `begin` says; the identity; the mark. Until the last step the loss is found again at the next start,
/// or what `begin` has left says that the folder is to go on as another disk.
///
/// # Errors
/// [`OpenError`], save amnesia; each says what to do.
pub fn open_anew(
    path: &Path,
    name: &NodeName,
    options: &StoreOptions,
    begin: Begin<'_>,
) -> Result<(Opened, Option<Loss>), OpenError> {
    let loss = match open_folder(DataFolder::open(path, name)?, options) {
        Ok(opened) => return Ok((opened, None)),
        Err(OpenError::Amnesia(Amnesia { loss, .. })) => loss,
        Err(error) => return Err(error),
    };
    let mut folder = DataFolder::open(path, name)?;
    let marked = match Mark::open(&folder.mark()) {
        Ok(mark) => mark.map(|mark| mark.at()).unwrap_or_default(),
        Err(MarkError::Damaged { .. }) => CommitPoint::default(),
        Err(error @ MarkError::Io { .. }) => return Err(OpenError::Mark(error)),
    };
    let engine = folder.engine();
    if matches!(
        loss,
        Loss::DamagedJournal { .. } | Loss::DisorderedJournal { .. } | Loss::DamagedManifest { .. }
    ) {
        let aside = folder.aside();
        let moved = std::fs::rename(&engine, &aside).and_then(|()| sync_folder_of(&aside));
        moved.map_err(|source| OpenError::Aside { folder: engine.clone(), source })?;
    }
    let failed = |source| OpenError::Engine { folder: engine.clone(), source };
    let store = FjallStore::open(&engine, options).map_err(failed)?;
    let left = recovered(&store).map_err(failed)?.unwrap_or_default();
    let recovered = CommitPoint {
        number: CommitNumber(left.number.max(marked.number).0 + 1),
        clock: left.clock.max(marked.clock),
    };
    let durable = scan_meta(&store, META_PREFIX).map_err(failed)?;
    // What cannot be read is there.
    let is_empty = |space| store.scan(space, b"", b"", 1).is_ok_and(|page| page.entries.is_empty());
    let has_past = ![Space::Records, Space::Hints, Space::Meta].into_iter().all(is_empty);
    let (id, mut changes) = begin(&durable, has_past, folder.id());
    // Between what is left and this batch nothing is in the journal.
    let point = BatchPoint { point: recovered, synced: left.number };
    let (key, value) = (Bytes::from_static(COMMIT_KEY), Some(point.encode()));
    changes.push(Change { space: Space::Meta, key, value });
    store.commit(&changes, Durability::Fsync).map_err(failed)?;
    store.sync().map_err(failed)?;
    folder.become_disk(id)?;
    let mark = Mark::create(&folder.mark(), recovered).map_err(OpenError::Mark)?;
    Ok((Opened { folder, store: Arc::new(store), recovered, mark }, Some(loss)))
}

/// Sets everything that a folder holds aside, for good; says where it is now. The folder then opens
/// as one that has lost everything: see [`open_anew`].
///
/// # Errors
/// [`OpenError::Aside`]; nothing was changed, or it is not known to be durable.
pub fn set_aside(opened: Opened) -> Result<PathBuf, OpenError> {
    let Opened { folder, store, .. } = opened;
    drop(store);
    let (engine, aside) = (folder.engine(), folder.aside());
    let moved = std::fs::rename(&engine, &aside).and_then(|()| sync_folder_of(&aside));
    moved.map_err(|source| OpenError::Aside { folder: engine, source })?;
    Ok(aside)
}

fn open_folder(folder: DataFolder, options: &StoreOptions) -> Result<Opened, OpenError> {
    let amnesia = |loss| OpenError::Amnesia(Amnesia { folder: folder.path().into(), loss });
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
