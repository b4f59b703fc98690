//! Recently used records: what the store would answer, without asking it.
//!
//! A worker is the only writer of its partitions' records, so it knows what a read of one that
//! it has just committed will return. Most reads and writes of a busy store are of few keys; for
//! those a look-up here stands for a search of the engine's tables.
//!
//! Invariants:
//!
//! - an entry is what the newest commit of its key that was *reported* has stored: it changes with
//!   each report, before anyone is told of it, and goes when the copy is found damaged. So a read
//!   never shows less than what was acknowledged, nor anything that is not durable;
//! - what a read returned is kept only if nothing was committed or forgotten since the read was
//!   asked for: its answer may come late, and then tells of the past;
//! - entries are copies: none keeps a buffer of the network or a block of the engine alive.
//!
//! Caveat: damage on disk is not noticed while a good copy is held here. Whoever verifies what is
//! on disk must read the disk.

use bytes::Bytes;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::hashing::Seeded;
use crate::types::Key;

/// A larger record is not kept: beside its copying, finding it costs little.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 128;
/// What an entry weighs, about: how many are expected follows from it.
const EXPECTED_BYTES: u64 = 512;

/// When a read was asked for: see [`Recent::keep_read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since(u64);

/// Copies of recently used records, by key.
#[derive(Debug)]
pub(super) struct Recent {
    /// None if nothing may be kept.
    copies: Option<Cache<Bytes, Bytes, Weight, Seeded>>,
    /// Counts what was committed and what was forgotten.
    changes: u64,
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Bytes, Bytes> for Weight {
    fn weight(&self, key: &Bytes, stored: &Bytes) -> u64 {
        ENTRY_BYTES + key.len() as u64 + stored.len() as u64
    }
}

impl Recent {
    /// Room for so many bytes; none turns it off.
    pub fn new(bytes_max: usize, hashing: Seeded) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(bytes_max / usize::try_from(EXPECTED_BYTES).unwrap_or(1))
            .weight_capacity(bytes_max as u64)
            .build();
        let options = options.ok().filter(|_| bytes_max > 0);
        let copies = options.map(|options| {
            Cache::with_options(options, Weight, hashing, DefaultLifecycle::default())
        });
        Self { copies, changes: 0 }
    }

    /// What is stored under a key, if that is known.
    pub fn get(&self, key: &Key) -> Option<Bytes> {
        self.copies.as_ref()?.get(key.bytes().as_ref()).cloned()
    }

    /// Now, for a read that is asked for now.
    pub fn since(&self) -> Since {
        Since(self.changes)
    }

    /// A read that was asked for at `since` has returned this.
    pub fn keep_read(&mut self, key: &Key, stored: &Bytes, since: Since) {
        if since == self.since() {
            self.insert(key, stored);
        }
    }

    /// This is durable under the key now, in place of what was.
    pub fn keep_committed(&mut self, key: &Key, stored: &Bytes) {
        self.changes += 1;
        self.insert(key, stored);
    }

    /// What is stored under a key is not known any more.
    pub fn forget(&mut self, key: &Key) {
        self.changes += 1;
        if let Some(copies) = &mut self.copies {
            copies.remove(key.bytes().as_ref());
        }
    }

    /// Nothing of what is stored is known any more.
    pub fn forget_all(&mut self) {
        self.changes += 1;
        if let Some(copies) = &mut self.copies {
            copies.clear();
        }
    }

    fn insert(&mut self, key: &Key, stored: &Bytes) {
        let Some(copies) = &mut self.copies else { return };
        if stored.len() > RECORD_BYTES_MAX {
            copies.remove(key.bytes().as_ref());
            return;
        }
        let copy = Bytes::copy_from_slice(stored);
        // A heavier one goes the long way, for others may have to make room.
        if let Some(mut held) = copies.get_mut(key.bytes().as_ref())
            && copy.len() <= held.len()
        {
            *held = copy;
            return;
        }
        copies.insert(Bytes::copy_from_slice(key.bytes()), copy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str) -> Key {
        Key::new(Bytes::from_static(name.as_bytes())).unwrap()
    }

    fn recent(bytes_max: usize) -> Recent {
        Recent::new(bytes_max, Seeded::new(7))
    }

    #[test]
    fn a_late_answer_to_a_read_does_not_hide_a_newer_commit() {
        let mut recent = recent(1 << 20);
        let since = recent.since();
        recent.keep_committed(&key("k"), &Bytes::from_static(b"new"));
        recent.keep_read(&key("k"), &Bytes::from_static(b"old"), since);
        assert_eq!(recent.get(&key("k")).as_deref(), Some(&b"new"[..]));
        let since = recent.since();
        recent.forget(&key("k"));
        recent.keep_read(&key("k"), &Bytes::from_static(b"old"), since);
        assert_eq!(recent.get(&key("k")), None);
    }

    #[test]
    fn a_record_that_outgrows_the_limit_is_not_held_in_its_old_form() {
        let mut recent = recent(1 << 20);
        recent.keep_committed(&key("k"), &Bytes::from_static(b"small"));
        recent.keep_committed(&key("k"), &Bytes::from(vec![0; RECORD_BYTES_MAX + 1]));
        assert_eq!(recent.get(&key("k")), None);
    }

    #[test]
    fn a_record_that_does_not_fit_at_all_is_not_held_in_its_old_form() {
        let mut recent = recent(600);
        recent.keep_committed(&key("k"), &Bytes::from_static(b"small"));
        recent.keep_committed(&key("k"), &Bytes::from(vec![0; 10_000]));
        assert_eq!(recent.get(&key("k")), None);
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let mut recent = recent(64 << 10);
        for n in 0..10_000_u32 {
            let key = Key::new(Bytes::copy_from_slice(&n.to_be_bytes())).unwrap();
            recent.keep_committed(&key, &Bytes::from(vec![0; 200]));
        }
        let weight = recent.copies.as_ref().unwrap().weight();
        assert!(weight > 32 << 10 && weight <= 64 << 10, "{weight}");
    }

    #[test]
    fn without_room_it_keeps_nothing() {
        let mut recent = recent(0);
        recent.keep_committed(&key("k"), &Bytes::from_static(b"v"));
        assert_eq!(recent.get(&key("k")), None);
    }

    #[test]
    fn an_entry_keeps_no_larger_buffer_alive() {
        let mut recent = recent(1 << 20);
        let buffer = Bytes::from(vec![7; 4096]);
        recent.keep_committed(&key("k"), &buffer.slice(..10));
        drop(recent.get(&key("k")));
        assert!(buffer.is_unique(), "a slice of the buffer is kept");
    }
}
