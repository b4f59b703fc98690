//! Hashing of what users choose: keyed, so that nobody can make keys collide, and drawn from the
//! worker's own randomness, so that a run can be repeated.

use std::hash::{BuildHasher, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Makes hashers with one secret seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl BuildHasher for Seeded {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(self.0)
    }
}

/// Each word that is written is hashed with what came before it as its seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeededHasher(u64);

impl Hasher for SeededHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    // Lengths and discriminants: they keep words apart, and need no strength of their own.
    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write(&n.to_le_bytes());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_words_hash_alike_and_seeds_and_borders_tell_others_apart() {
        let of = |seed: u64, words: (&str, &str)| Seeded::new(seed).hash_one(words);
        assert_eq!(of(1, ("ab", "c")), of(1, ("ab", "c")));
        assert_ne!(of(1, ("ab", "c")), of(2, ("ab", "c")));
        assert_ne!(of(1, ("ab", "c")), of(1, ("a", "bc")));
    }
}
