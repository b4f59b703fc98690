//! `--verify`: values that say where they belong, and the proof that none was lost.
//!
//! ```text
//!   value = key ‖ sequence (8 bytes) ‖ a filling that follows from both
//!
//!   write: claim a key ─▶ next sequence ─▶ acknowledged? note it, release the key
//!                                          anything else: never write this key again
//!   read:  the value is this key's, whole, and was written at some time
//!   end:   of each key, something at least as late as its last acknowledged write is there
//! ```
//!
//! A key has one writer at a time. Otherwise two writes could be concurrent, and then the store
//! may rightly show the one with the lower number. For the same reason a key is left alone after
//! a write whose outcome is unknown: that write may still take place, later than its successor.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Serialize;

/// Bytes of a sequence within a value.
pub const SEQUENCE_BYTES: usize = 8;

/// What has been written.
#[derive(Debug)]
pub struct Book {
    entries: Box<[Entry]>,
}

#[derive(Debug, Default)]
struct Entry {
    /// A write is under way, or ended in a way that nobody knows.
    taken: AtomicBool,
    issued: AtomicU64,
    acknowledged: AtomicU64,
}

/// A key that nobody else writes. Dropped without having been acknowledged, it is never written
/// again.
#[derive(Debug)]
pub struct Claim<'a> {
    entry: &'a Entry,
    /// Which key.
    pub at: usize,
    /// The number of this write.
    pub sequence: u64,
}

/// What became of everything that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Keys with an acknowledged write, all of which were read.
    pub keys: u64,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Keys that show neither their last acknowledged write nor a later one.
    pub lost: u64,
    /// Keys that show what was never written.
    pub wrong: u64,
    /// Keys that could not be read.
    pub unread: u64,
    /// Keys that were left alone because the outcome of a write is unknown.
    pub unknown: u64,
}

impl Book {
    /// Of so many keys, none written.
    #[must_use]
    pub fn new(keys: usize) -> Self {
        Self { entries: (0..keys).map(|_| Entry::default()).collect() }
    }

    /// Claims the first free key from `at` on; none if there is none.
    pub fn claim(&self, at: usize) -> Option<Claim<'_>> {
        let all = self.entries.len();
        let free = |at: &usize| !self.entries[*at].taken.swap(true, Ordering::Acquire);
        let at = (at..all).chain(0..at).find(free)?;
        let entry = &self.entries[at];
        Some(Claim { entry, at, sequence: entry.issued.fetch_add(1, Ordering::Relaxed) + 1 })
    }

    /// Whether a value that was read can be what it is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, at: usize, key: &[u8], value: &[u8]) -> Result<u64, &'static str> {
        let rest = value.strip_prefix(key).ok_or("a value of another key was read")?;
        let sequence = rest.first_chunk().copied().map(u64::from_be_bytes);
        let sequence = sequence.ok_or("a value was read that is cut short")?;
        if !(1..=self.entries[at].issued.load(Ordering::Relaxed)).contains(&sequence) {
            return Err("a value was read that was never written");
        }
        if value != self::value(key, sequence, value.len()) {
            return Err("a value was read that is damaged");
        }
        Ok(sequence)
    }

    /// Keys with an acknowledged write.
    pub fn written(&self) -> impl Iterator<Item = usize> {
        let known = |at: &usize| self.entries[*at].acknowledged.load(Ordering::Relaxed) > 0;
        (0..self.entries.len()).filter(known)
    }

    /// Adds what all the values that one key shows mean.
    pub fn judge(&self, at: usize, key: &[u8], shown: &[Bytes], verified: &mut Verified) {
        let last = self.entries[at].acknowledged.load(Ordering::Relaxed);
        verified.keys += 1;
        let checked: Result<Vec<u64>, _> =
            shown.iter().map(|value| self.check(at, key, value)).collect();
        match checked {
            Err(_) => verified.wrong += 1,
            Ok(sequences) if sequences.iter().all(|sequence| *sequence < last) => {
                verified.lost += 1;
            }
            Ok(_) => {}
        }
    }

    /// What is known before anything is read back. To be called once no write is under way.
    #[must_use]
    pub fn totals(&self) -> Verified {
        let mut verified = Verified::default();
        for entry in &self.entries {
            let unknown = entry.taken.load(Ordering::Relaxed);
            verified.unknown += u64::from(unknown);
            // Of a key with an unknown write, all others were acknowledged.
            verified.acknowledged += entry.issued.load(Ordering::Relaxed) - u64::from(unknown);
        }
        verified
    }
}

impl Claim<'_> {
    /// The write was acknowledged.
    pub fn acknowledged(self) {
        self.entry.acknowledged.fetch_max(self.sequence, Ordering::Relaxed);
        self.entry.taken.store(false, Ordering::Release);
    }
}

impl Verified {
    /// Whether everything acknowledged is there, and nothing else.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.lost == 0 && self.wrong == 0 && self.unread == 0
    }
}

/// The value of a key's write: of so many bytes, at least those of key and sequence.
#[must_use]
pub fn value(key: &[u8], sequence: u64, bytes: usize) -> Bytes {
    let mut value = BytesMut::with_capacity(bytes.max(key.len() + SEQUENCE_BYTES));
    value.put_slice(key);
    value.put_u64(sequence);
    let filling = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut rest = bytes.saturating_sub(value.len());
    while rest > 0 {
        let part = rest.min(filling.len());
        value.put_slice(&filling[..part]);
        rest -= part;
    }
    value.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_only_right_for_its_key_and_if_it_was_written() {
        let book = Book::new(2);
        let claim = book.claim(1).unwrap();
        let sound = value(b"key-1", claim.sequence, 64);
        assert_eq!((claim.at, claim.sequence, sound.len()), (1, 1, 64));
        assert_eq!(book.check(1, b"key-1", &sound), Ok(1));
        assert!(book.check(0, b"key-0", &sound).is_err());
        assert!(book.check(1, b"key-1", &value(b"key-1", 2, 64)).is_err());
        assert!(book.check(1, b"key-1", &sound[..8]).is_err());
        let mut damaged = sound.to_vec();
        damaged[40] ^= 1;
        assert!(book.check(1, b"key-1", &damaged).is_err());
    }

    #[test]
    fn a_key_has_one_writer_and_none_after_an_unknown_outcome() {
        let book = Book::new(2);
        let first = book.claim(0).unwrap();
        // Its outcome is never known.
        let second = book.claim(0).unwrap();
        assert_eq!((first.at, second.at), (0, 1));
        assert!(book.claim(0).is_none());
        first.acknowledged();
        let again = book.claim(1).unwrap();
        assert_eq!((again.at, again.sequence), (0, 2));
        again.acknowledged();
        let totals = book.totals();
        assert_eq!((totals.acknowledged, totals.unknown), (2, 1));
        assert_eq!(book.written().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_lost_write_and_one_that_was_never_made_are_found() {
        let book = Book::new(1);
        book.claim(0).unwrap().acknowledged();
        book.claim(0).unwrap().acknowledged();
        let judge = |shown: &[Bytes]| {
            let mut verified = book.totals();
            book.judge(0, b"key", shown, &mut verified);
            (verified.lost, verified.wrong)
        };
        let [first, second, third] = [1, 2, 3].map(|sequence| value(b"key", sequence, 32));
        assert_eq!(judge(&[]), (1, 0));
        assert_eq!(judge(std::slice::from_ref(&first)), (1, 0));
        assert_eq!(judge(&[first, second]), (0, 0));
        assert_eq!(judge(&[third]), (0, 1));
    }
}
