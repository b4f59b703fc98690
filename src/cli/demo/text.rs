//! Records that look like somebody's data, made from a seed.
//!
//! The generator is named and fixed (ChaCha8): a seed gives the same records on every machine and
//! with every version of the libraries.

use rand::rngs::ChaCha8Rng;
use rand::{Rng as _, SeedableRng as _};

const ADJECTIVES: [&str; 40] = [
    "amber", "ancient", "bitter", "brave", "bright", "broad", "calm", "clever", "cold", "copper",
    "crooked", "distant", "eager", "early", "faint", "gentle", "golden", "green", "hidden",
    "hollow", "humble", "late", "little", "lonely", "narrow", "noisy", "northern", "pale",
    "patient", "plain", "quiet", "rough", "silver", "slow", "southern", "steady", "sunken", "tall",
    "warm", "wild",
];

const NOUNS: [&str; 56] = [
    "anchor",
    "apple",
    "barrel",
    "beacon",
    "bell",
    "boat",
    "bottle",
    "bridge",
    "candle",
    "canyon",
    "cellar",
    "chapel",
    "clock",
    "compass",
    "cottage",
    "courtyard",
    "ferry",
    "field",
    "fiddle",
    "forest",
    "fountain",
    "garden",
    "gate",
    "glacier",
    "harbour",
    "heron",
    "hill",
    "island",
    "kettle",
    "ladder",
    "lantern",
    "letter",
    "library",
    "lighthouse",
    "map",
    "market",
    "meadow",
    "mill",
    "mountain",
    "needle",
    "orchard",
    "otter",
    "pier",
    "quarry",
    "rain",
    "river",
    "road",
    "saddle",
    "sail",
    "stone",
    "tower",
    "tunnel",
    "valley",
    "village",
    "well",
    "wind",
];

const VERBS: [&str; 28] = [
    "carries",
    "counts",
    "crosses",
    "draws",
    "finds",
    "follows",
    "guards",
    "hears",
    "holds",
    "keeps",
    "knows",
    "leaves",
    "lifts",
    "marks",
    "meets",
    "mends",
    "misses",
    "needs",
    "opens",
    "paints",
    "remembers",
    "repairs",
    "sells",
    "shelters",
    "shows",
    "turns",
    "visits",
    "watches",
];

const PLACES: [&str; 24] = [
    "above the weir",
    "after the harvest",
    "at low tide",
    "at the crossing",
    "before dawn",
    "behind the school",
    "beside the canal",
    "between two storms",
    "beyond the dunes",
    "by the sea",
    "during the fair",
    "for the first time",
    "in late autumn",
    "in the attic",
    "near the old pier",
    "on market days",
    "on the far bank",
    "once a year",
    "since the flood",
    "under the stairs",
    "until nightfall",
    "when the snow melts",
    "while it rains",
    "without a sound",
];

/// A generator for one purpose: the same seed and purpose give the same choices.
#[must_use]
pub fn generator(seed: u64, purpose: &str) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..24].copy_from_slice(&xxhash_rust::xxh3::xxh3_128(purpose.as_bytes()).to_le_bytes());
    ChaCha8Rng::from_seed(bytes)
}

/// A number from 0 to `below - 1`, as evenly as such small numbers need.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "less than `below`")]
pub fn below(random: &mut ChaCha8Rng, below: usize) -> usize {
    // Not the library's own way, which may change from version to version.
    ((u128::from(random.next_u64()) * below.max(1) as u128) >> 64) as usize
}

/// Sixteen random bytes: a request id.
#[must_use]
pub fn request_id(random: &mut ChaCha8Rng) -> [u8; 16] {
    let mut id = [0; 16];
    random.fill_bytes(&mut id);
    id
}

/// A key such as `demo/loaded/000042/quiet-harbour`.
#[must_use]
pub fn key(seed: u64, kind: &str, number: usize) -> Vec<u8> {
    let mut random = generator(seed, &format!("key/{kind}/{number}"));
    let name = format!("{}-{}", word(&mut random, &ADJECTIVES), word(&mut random, &NOUNS));
    format!("demo/{kind}/{number:06}/{name}").into_bytes()
}

/// The text of the write number `sequence` of a key: no two writes have the same.
#[must_use]
pub fn value(seed: u64, key: &[u8], sequence: usize) -> Vec<u8> {
    let mut random = generator(seed, &format!("value/{sequence}/{}", String::from_utf8_lossy(key)));
    let sentences = 1 + below(&mut random, 4);
    let mut text = format!("{} #{sequence}:", String::from_utf8_lossy(key));
    for _ in 0..sentences {
        let sentence = format!(
            " The {} {} {} a {} {} {}.",
            word(&mut random, &ADJECTIVES),
            word(&mut random, &NOUNS),
            word(&mut random, &VERBS),
            word(&mut random, &ADJECTIVES),
            word(&mut random, &NOUNS),
            word(&mut random, &PLACES),
        );
        text.push_str(&sentence);
    }
    text.into_bytes()
}

fn word(random: &mut ChaCha8Rng, words: &[&'static str]) -> &'static str {
    words[below(random, words.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_records_for_ever() {
        let key = key(7, "loaded", 42);
        assert_eq!(key, self::key(7, "loaded", 42));
        assert_eq!(value(7, &key, 0), value(7, &key, 0));
        // Pinned: a change here breaks everybody's seeds.
        assert_eq!(xxhash_rust::xxh3::xxh3_64(&value(7, &key, 0)), 16_787_544_274_873_287_014);
    }

    #[test]
    fn another_seed_or_sequence_gives_another_text() {
        let key = key(7, "loaded", 42);
        assert_ne!(value(7, &key, 0), value(7, &key, 1));
        assert_ne!(value(7, &key, 0)[key.len()..], value(8, &key, 0)[key.len()..]);
    }
}
