//! The engine on disk: fjall, a log-structured merge tree with one journal.
//!
//! ```text
//!  commit ─▶ journal: write ─▶ fdatasync ─▶ memtables ─▶ visible     (one mutex over all of it)
//!                                              └─▶ tables, by two background threads
//! ```
//!
//! Nobody reads what is not in the journal yet; with [`Durability::Fsync`] that means: on disk.
//!
//! Caveats. A commit may sleep in the calling thread while the background catches up: unless
//! [`Store::is_busy`] denies that, it belongs on a thread of its own (the committer's). It also waits for the
//! journal's mutex, which is held over a sync when a memtable is full. The journal has one mutex, so only batching makes
//! many writers fast. What is read is copied, so that it keeps no block of the engine alive (4 KiB);
//! large values are not. Closing syncs, so a test that closes proves nothing about durability.
//!
//! The engine's own slices are used rather than [`Bytes`]: they hold up to 20 bytes in place, and the first
//! four of any. A memtable is a list whose every step compares keys, and a key in place is one miss of
//! the processor's cache fewer a step.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::fjall::compaction::Leveled;
use ::fjall::{
    AbstractTree as _, CompressionType, Database, Error as EngineError, Keyspace,
    KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Slice,
};
use bytes::Bytes;

use super::{
    Change, DiskSpace, Durability, Page, Space, Store, StoreError, assert_keys, behind_prefix,
};

/// Each space's keyspace and the size at which its memtable goes to disk. Records get most:
/// larger memtables are rewritten less often, and at least two exist under load. Hints and names
/// are few; but each batch writes its point into `meta`, so that one must not be tiny.
const KEYSPACES: [(&str, u64); 3] = [("records", 16 << 20), ("hints", 4 << 20), ("meta", 4 << 20)];
/// Where the engine keeps them.
const KEYSPACES_FOLDER: &str = "keyspaces";
/// Bytes of journals before the slowest keyspace is made to let go of the oldest one. This is
/// what a start has to replay: well under a second.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// One thread flushes, the others compact.
const BACKGROUND_THREADS: usize = 2;
/// The size of a table file. It goes to disk in one fsync, behind which the journal's wait: 30 ms for the engine's
/// 64 MiB on a disk of 2 GB/s, 11 ms for this. The youngest sorted level is four of these, and a compaction into it
/// rewrites no more.
const TABLE_BYTES: u64 = 16 << 20;
/// Table files kept open: 4 GiB without reopening, and most of the usual 1,024 descriptors are left to
/// connections.
const OPEN_FILES_MAX: usize = 256;
/// How often the file system is asked for its free space.
const FREE_SPACE_EVERY: Duration = Duration::from_millis(100);
/// Memtables that wait to be written to disk, and tables of the youngest level, with which a commit may have to
/// wait for the background: half of what makes the engine hold writers up.
const SEALED_MEMTABLES_MAX: usize = 2;
const YOUNGEST_RUNS_MAX: usize = 10;
/// A longer value is shared with the engine: copying it would cost more than the block that it may keep
/// alive, most of which it fills.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bytes of blocks kept in memory (`storage.cache`).
    pub cache_bytes: u64,
    /// Below this many free bytes on the file system, writes are refused (`storage.min_free`). A
    /// disk that fills up in the middle of a batch would stop the node.
    pub min_free: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20, min_free: 256 << 20 }
    }
}

/// A [`Store`] on disk.
pub struct FjallStore {
    database: Database,
    /// By the order of [`KEYSPACES`].
    keyspaces: [Keyspace; 3],
    free_space: FreeSpace,
}

impl std::fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallStore")
            .field("folder", &self.free_space.folder)
            .finish_non_exhaustive()
    }
}

impl FjallStore {
    /// Opens the engine's folder, making it if there is none, and recovers what it holds.
    ///
    /// # Errors
    /// [`StoreError::Read`] if the folder cannot be read, is in use, or is damaged where the
    /// engine notices it.
    pub fn open(folder: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        // The engine asserts what it expects of its files; to us a bad file is an error.
        match catch_unwind(AssertUnwindSafe(|| open_engine(folder, options))) {
            Ok(opened) => opened.map_err(read_failed),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("an assertion failed");
                Err(StoreError::Read(format!("the engine gave up on its files: {text}").into()))
            }
        }
    }

    fn keyspace(&self, space: Space) -> &Keyspace {
        &self.keyspaces[index(space)]
    }
}

fn open_engine(folder: &Path, options: &StoreOptions) -> Result<FjallStore, EngineError> {
    let database = Database::builder(folder)
        .cache_size(options.cache_bytes)
        .max_cached_files(Some(OPEN_FILES_MAX))
        .max_journaling_size(JOURNAL_BYTES_MAX)
        // Recovery compresses again to verify a batch: another version of the compressor would
        // make a good journal look damaged.
        .journal_compression(CompressionType::None)
        .manual_journal_persist(true)
        .worker_threads(BACKGROUND_THREADS)
        .open()?;
    let keyspace = |(name, memtable): (&str, u64)| {
        let create = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(memtable)
                .compaction_strategy(Arc::new(
                    Leveled::default().with_table_target_size(TABLE_BYTES),
                ))
                .manual_journal_persist(true)
        };
        database.keyspace(name, create)
    };
    let [records, hints, meta] = KEYSPACES;
    let keyspaces = [keyspace(records)?, keyspace(hints)?, keyspace(meta)?];
    // The engine syncs what is in a keyspace's folder, but not that the folder is there: a power
    // cut could take the name of it, and all that was ever stored in it.
    for names in [folder.join(KEYSPACES_FOLDER), folder.to_path_buf()] {
        std::fs::File::open(names)?.sync_all()?;
    }
    let free_space = FreeSpace::new(folder, options.min_free);
    Ok(FjallStore { database, keyspaces, free_space })
}

impl Store for FjallStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.keyspace(space).get(key).map_err(read_failed)?;
        Ok(value.map(to_bytes))
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        after: &[u8],
        bytes_max: usize,
    ) -> Result<Page, StoreError> {
        let end = behind_prefix(prefix);
        if end.as_deref().is_some_and(|end| after >= end) {
            return Ok(Page { entries: Vec::new(), done: true });
        }
        let start = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        // No key is empty: "behind the empty key" is "from the start", and needs no bound.
        let start = if matches!(start, Bound::Excluded([])) { Bound::Unbounded } else { start };
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let snapshot = self.database.snapshot();
        let mut page = Page::default();
        let mut bytes = 0;
        for entry in snapshot.range::<&[u8], _>(self.keyspace(space), (start, end)) {
            let (key, value) = entry.into_inner().map_err(read_failed)?;
            bytes += key.len() + value.len();
            if bytes > bytes_max && !page.entries.is_empty() {
                return Ok(page);
            }
            page.entries.push((to_bytes(key), to_bytes(value)));
        }
        page.done = true;
        Ok(page)
    }

    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError> {
        assert_keys(changes);
        self.free_space.check()?;
        let mode = match durability {
            Durability::Fsync => PersistMode::SyncData,
            Durability::Buffered => PersistMode::Buffer,
        };
        let mut batch = OwnedWriteBatch::with_capacity(self.database.clone(), changes.len())
            .durability(Some(mode));
        for change in changes {
            let keyspace = self.keyspace(change.space);
            // Copied: what came over the network is a slice of a larger buffer, which a memtable
            // would keep alive without counting it.
            let key = Slice::new(&change.key);
            match &change.value {
                Some(value) => batch.insert(keyspace, key, Slice::new(value)),
                None => batch.remove(keyspace, key),
            }
        }
        batch.commit().map_err(write_failed)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.database.persist(PersistMode::SyncAll).map_err(write_failed)
    }

    fn is_busy(&self) -> bool {
        self.keyspaces.iter().any(|keyspace| {
            keyspace.tree.sealed_memtable_count() >= SEALED_MEMTABLES_MAX
                || keyspace.tree.l0_run_count() >= YOUNGEST_RUNS_MAX
        })
    }

    fn space(&self) -> Option<DiskSpace> {
        // The journal's size is not asked for: that waits for a commit under way.
        let tables = self.keyspaces.iter().map(Keyspace::disk_space).sum();
        Some(DiskSpace { free: self.free_space.ask(), tables })
    }
}

fn index(space: Space) -> usize {
    match space {
        Space::Records => 0,
        Space::Hints => 1,
        Space::Meta => 2,
    }
}

fn to_bytes(slice: Slice) -> Bytes {
    if slice.len() <= COPIED_BYTES_MAX {
        Bytes::copy_from_slice(&slice)
    } else {
        Bytes::from_owner(slice)
    }
}

fn read_failed(error: EngineError) -> StoreError {
    StoreError::Read(Box::new(error))
}

fn write_failed(error: EngineError) -> StoreError {
    StoreError::Write(Box::new(error))
}

/// The file system's free space, asked for now and then.
struct FreeSpace {
    folder: PathBuf,
    min: u64,
    /// What the instants below are counted from.
    start: Instant,
    /// When to ask again, in microseconds.
    due: AtomicU64,
    /// The last answer, in bytes.
    free: AtomicU64,
}

impl FreeSpace {
    fn new(folder: &Path, min: u64) -> Self {
        Self {
            folder: folder.into(),
            min,
            start: Instant::now(),
            due: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
        }
    }

    /// Free bytes, if the file system says.
    fn ask(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.folder).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Refuses if less than the minimum is free.
    fn check(&self) -> Result<(), StoreError> {
        if self.min == 0 {
            return Ok(());
        }
        let now = self.start.elapsed();
        if micros(now) >= self.due.load(Ordering::Relaxed) {
            self.due.store(micros(now + FREE_SPACE_EVERY), Ordering::Relaxed);
            // A file system that does not say is taken to have room: the write itself will tell.
            self.free.store(self.ask().unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        let free = self.free.load(Ordering::Relaxed);
        if free < self.min { Err(StoreError::Full { free, needed: self.min }) } else { Ok(()) }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
