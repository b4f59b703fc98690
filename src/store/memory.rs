//! The engine in memory, for everything above it that is tested against a disk's bad days.
//!
//! ```text
//!  commit (fsync, buffered) ─▶ maps                    what a reader sees
//!            └ buffered ─▶ unsynced: one undo a batch ── sync, or a commit with fsync ─▶ cleared
//!
//!  power loss:  a random prefix of the unsynced batches stays, the rest is undone, newest first
//!  kill:        everything that was committed stays, and is no more durable than before
//! ```
//!
//! A batch that was being written when a write failed may turn up after a crash or not, as on a
//! real disk. Deterministic: chance comes from the generator that is passed in. A clone is another
//! disk with the same content and costs a few reference counts; the first write to either copies
//! the map that it changes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rand::{Rng, RngExt};

use super::{Change, Durability, Page, Space, Store, StoreError, assert_keys};

/// One ordered map; shared between clones until one of them writes.
type Map = Arc<BTreeMap<Bytes, Bytes>>;

/// What a batch replaced, in the order of its changes.
type Undo = Vec<(Space, Bytes, Option<Bytes>)>;

/// A [`Store`] in memory whose disk can be made to fail.
#[derive(Debug, Default)]
pub struct MemoryStore {
    disk: Mutex<Disk>,
}

#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent faults, any of which may be on")]
struct Disk {
    records: Map,
    hints: Map,
    meta: Map,
    /// The batches that a power cut may take, oldest first.
    unsynced: Vec<Undo>,
    full: bool,
    refuse_next: bool,
    fail_next: bool,
    fail_reads: bool,
    /// A write has failed: nothing is written any more until the next start.
    poisoned: bool,
    /// What was being written when that happened.
    in_doubt: Vec<Change>,
}

#[derive(Debug, thiserror::Error)]
#[error("injected fault: {0}")]
struct Injected(&'static str);

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        Self { disk: Mutex::new(self.disk().clone()) }
    }
}

impl MemoryStore {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The power fails and comes back: a random prefix of the unsynced batches has reached the
    /// disk, the next is torn and dropped. Ends a poisoned state, as a restart does.
    pub fn crash_power(&self, rng: &mut impl Rng) {
        let mut disk = self.disk();
        let kept = rng.random_range(0..=disk.unsynced.len());
        // A batch in doubt comes behind all the others.
        let doubtful = kept == disk.unsynced.len() && rng.random_bool(0.5);
        for undo in disk.unsynced.split_off(kept).into_iter().rev() {
            for (space, key, before) in undo.into_iter().rev() {
                disk.put(space, key, before);
            }
        }
        let in_doubt = std::mem::take(&mut disk.in_doubt);
        if doubtful {
            disk.apply(&in_doubt);
        }
        disk.unsynced.clear();
        disk.poisoned = false;
    }

    /// The process is killed and starts again: everything that was committed survives, synced or
    /// not; so does a batch whose write failed. Ends a poisoned state.
    pub fn crash_kill(&self) {
        let mut disk = self.disk();
        let in_doubt = std::mem::take(&mut disk.in_doubt);
        if !in_doubt.is_empty() {
            let undo = disk.apply(&in_doubt);
            disk.unsynced.push(undo);
        }
        disk.poisoned = false;
    }

    /// How many batches a power cut may take.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.disk().unsynced.len()
    }

    /// How many keys a space has.
    #[must_use]
    pub fn len(&self, space: Space) -> usize {
        self.disk().map(space).len()
    }

    /// Whether a space has no key.
    #[must_use]
    pub fn is_empty(&self, space: Space) -> bool {
        self.len(space) == 0
    }

    /// From now on every commit is refused as by a full disk, or no longer.
    pub fn set_full(&self, full: bool) {
        self.disk().full = full;
    }

    /// The next commit is refused as by a full disk: nothing of it is stored.
    pub fn refuse_next(&self) {
        self.disk().refuse_next = true;
    }

    /// The next commit or sync fails; after it every other does, until a crash.
    pub fn fail_next(&self) {
        self.disk().fail_next = true;
    }

    /// From now on every read fails, or no longer.
    pub fn set_fail_reads(&self, fail: bool) {
        self.disk().fail_reads = fail;
    }

    /// Flips one random bit of a stored value, behind everyone's back. False if there is none.
    pub fn flip_bit(&self, space: Space, key: &[u8], rng: &mut impl Rng) -> bool {
        let mut disk = self.disk();
        let Some(value) = Arc::make_mut(disk.map_mut(space)).get_mut(key) else { return false };
        if value.is_empty() {
            return false;
        }
        let mut bytes = value.to_vec();
        let byte = rng.random_range(0..bytes.len());
        bytes[byte] ^= 1 << rng.random_range(0..8);
        *value = bytes.into();
        true
    }

    /// Puts a value under a key, or takes it away, behind everyone's back: a misdirected write,
    /// a lost one.
    pub fn tamper(&self, space: Space, key: Bytes, value: Option<Bytes>) {
        self.disk().put(space, key, value);
    }

    /// The disk. A panic elsewhere leaves it as it was between two changes: good enough.
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn map(&self, space: Space) -> &Map {
        match space {
            Space::Records => &self.records,
            Space::Hints => &self.hints,
            Space::Meta => &self.meta,
        }
    }

    fn map_mut(&mut self, space: Space) -> &mut Map {
        match space {
            Space::Records => &mut self.records,
            Space::Hints => &mut self.hints,
            Space::Meta => &mut self.meta,
        }
    }

    /// Sets a key and returns what it held.
    fn put(&mut self, space: Space, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
        let map = Arc::make_mut(self.map_mut(space));
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        }
    }

    fn apply(&mut self, changes: &[Change]) -> Undo {
        let change = |change: &Change| {
            let before = self.put(change.space, change.key.clone(), change.value.clone());
            (change.space, change.key.clone(), before)
        };
        changes.iter().map(change).collect()
    }

    fn readable(&self) -> Result<(), StoreError> {
        if self.fail_reads {
            return Err(StoreError::Read(Box::new(Injected("a failed read"))));
        }
        Ok(())
    }

    /// Fails if the disk takes no write; what is in doubt from now on is `changes`.
    fn writable(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Write(Box::new(Injected("poisoned by an earlier failure"))));
        }
        if std::mem::take(&mut self.fail_next) {
            self.poisoned = true;
            self.in_doubt = changes.to_vec();
            return Err(StoreError::Write(Box::new(Injected("a failed write"))));
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let disk = self.disk();
        disk.readable()?;
        Ok(disk.map(space).get(key).cloned())
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        after: &[u8],
        bytes_max: usize,
    ) -> Result<Page, StoreError> {
        let disk = self.disk();
        disk.readable()?;
        let start = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let entries = disk.map(space).range::<[u8], _>((start, Bound::Unbounded));
        let mut page = Page::default();
        let mut bytes = 0;
        for (key, value) in entries.take_while(|(key, _)| key.starts_with(prefix)) {
            bytes += key.len() + value.len();
            if bytes > bytes_max && !page.entries.is_empty() {
                return Ok(page);
            }
            page.entries.push((key.clone(), value.clone()));
        }
        page.done = true;
        Ok(page)
    }

    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError> {
        assert_keys(changes);
        let mut disk = self.disk();
        if std::mem::take(&mut disk.refuse_next) || disk.full {
            return Err(StoreError::Full { free: 0, needed: 1 });
        }
        disk.writable(changes)?;
        let undo = disk.apply(changes);
        match durability {
            // One journal: what is synced behind a batch syncs the batch.
            Durability::Fsync => disk.unsynced.clear(),
            Durability::Buffered => disk.unsynced.push(undo),
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut disk = self.disk();
        disk.writable(&[])?;
        disk.unsynced.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::ChaCha8Rng;

    fn set(key: &'static str, value: u8) -> Change {
        let value = Some(Bytes::copy_from_slice(&[value]));
        Change { space: Space::Records, key: Bytes::from_static(key.as_bytes()), value }
    }

    fn value(store: &MemoryStore, key: &str) -> Option<u8> {
        store.get(Space::Records, key.as_bytes()).unwrap().map(|value| value[0])
    }

    #[test]
    fn a_power_cut_keeps_a_prefix_of_the_unsynced_batches_and_all_that_was_synced() {
        let mut kept = [false; 4];
        for seed in 0..64 {
            let store = MemoryStore::new();
            store.commit(&[set("synced", 1), set("a", 9)], Durability::Fsync).unwrap();
            for n in 1..=3 {
                store.commit(&[set("a", n), set("b", n)], Durability::Buffered).unwrap();
            }
            store.crash_power(&mut ChaCha8Rng::seed_from_u64(seed));
            assert_eq!(value(&store, "synced"), Some(1));
            match (value(&store, "a"), value(&store, "b")) {
                (Some(9), None) => kept[0] = true,
                (Some(n), also) => {
                    assert_eq!(also, Some(n), "half a batch");
                    kept[usize::from(n)] = true;
                }
                other => panic!("neither prefix: {other:?}"),
            }
            assert_eq!(store.unsynced(), 0);
        }
        assert_eq!(kept, [true; 4], "every prefix is possible");
    }

    #[test]
    fn one_seed_crashes_one_way() {
        let crashed = |seed| {
            let store = MemoryStore::new();
            for n in 0..50 {
                store.commit(&[set("a", n)], Durability::Buffered).unwrap();
            }
            store.crash_power(&mut ChaCha8Rng::seed_from_u64(seed));
            value(&store, "a")
        };
        assert_eq!(crashed(7), crashed(7));
        assert!((0..20).any(|seed| crashed(seed) != crashed(7)));
    }

    #[test]
    fn a_kill_keeps_everything_and_makes_none_of_it_durable() {
        let store = MemoryStore::new();
        store.commit(&[set("a", 1)], Durability::Buffered).unwrap();
        store.crash_kill();
        assert_eq!((value(&store, "a"), store.unsynced()), (Some(1), 1));
        store.sync().unwrap();
        assert_eq!(store.unsynced(), 0);
        store.crash_power(&mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(value(&store, "a"), Some(1));
    }

    #[test]
    fn a_failed_write_poisons_until_the_next_start_and_may_turn_up_after_it() {
        let mut after = [0; 2];
        for seed in 0..32 {
            let store = MemoryStore::new();
            store.fail_next();
            let failed = store.commit(&[set("a", 1)], Durability::Fsync);
            assert!(matches!(failed, Err(StoreError::Write(_))));
            assert_eq!(value(&store, "a"), None, "seen although it was not committed");
            assert!(store.commit(&[set("b", 1)], Durability::Fsync).is_err());
            assert!(store.sync().is_err());
            store.crash_power(&mut ChaCha8Rng::seed_from_u64(seed));
            after[usize::from(value(&store, "a").is_some())] += 1;
            assert_eq!(value(&store, "b"), None);
            store.commit(&[set("b", 2)], Durability::Fsync).unwrap();
        }
        assert!(after[0] > 0 && after[1] > 0, "{after:?}");
    }

    #[test]
    fn a_full_disk_refuses_and_changes_nothing() {
        let store = MemoryStore::new();
        store.refuse_next();
        let refused = store.commit(&[set("a", 1)], Durability::Fsync);
        assert!(matches!(refused, Err(StoreError::Full { .. })));
        assert_eq!(value(&store, "a"), None);
        store.commit(&[set("a", 2)], Durability::Fsync).unwrap();
        store.set_full(true);
        assert!(store.commit(&[set("a", 3)], Durability::Fsync).is_err());
        store.set_full(false);
        assert_eq!(value(&store, "a"), Some(2));
    }

    #[test]
    fn damage_and_failed_reads_are_as_ordered() {
        let store = MemoryStore::new();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        store.commit(&[set("a", 0)], Durability::Fsync).unwrap();
        assert!(store.flip_bit(Space::Records, b"a", &mut rng));
        assert_eq!(value(&store, "a").unwrap().count_ones(), 1);
        assert!(!store.flip_bit(Space::Records, b"b", &mut rng));
        store.tamper(Space::Records, Bytes::from_static(b"a"), None);
        assert_eq!(value(&store, "a"), None);
        store.set_fail_reads(true);
        assert!(matches!(store.get(Space::Records, b"a"), Err(StoreError::Read(_))));
        assert!(matches!(store.scan(Space::Records, b"", b"", 9), Err(StoreError::Read(_))));
        store.set_fail_reads(false);
        assert_eq!(value(&store, "a"), None);
    }

    #[test]
    fn a_clone_is_another_disk() {
        let store = MemoryStore::new();
        store.commit(&[set("a", 1)], Durability::Buffered).unwrap();
        let snapshot = store.clone();
        store.commit(&[set("a", 2)], Durability::Fsync).unwrap();
        assert_eq!((value(&snapshot, "a"), snapshot.unsynced()), (Some(1), 1));
        assert_eq!((value(&store, "a"), store.unsynced()), (Some(2), 0));
    }
}
