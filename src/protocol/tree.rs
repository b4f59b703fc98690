//! The hash tree by which two homes of a partition find out where they differ.
//!
//! ```text
//!   fold       one number over the roots of all partitions of a lane that two nodes share
//!    └ root    one number a partition: the sum of its leaves
//!       └ leaf 64 a partition: the sum of what its keys contribute
//! ```
//!
//! A record contributes `xxh3_128(xxh3_128(key) ‖ record hash)`, little-endian, to the leaf
//! `xxh3_128(key) >> 122` of its partition; sums wrap. They are sums, and no XOR, under which
//! what is counted twice would cancel. All of this is part of the wire format, and of the format
//! on disk: it never changes without a new version of both.
//!
//! A change of a record is applied in constant time, in any order, also to a tree that does not
//! know its past yet: the past can be added later ([`Tree::absorb`]).

use xxhash_rust::xxh3::xxh3_128;

use super::codec::{DecodeError, Reader, Write};
use crate::types::{Key, Partition, RecordHash};

/// Leaves of a partition. A partition of a million keys in 4096 has four keys a leaf: what one
/// differing record costs to find is a few of these numbers at each level.
pub const LEAVES: usize = 64;
/// The bits of a key's hash above those that name its leaf.
const LEAF_SHIFT: u32 = 128 - LEAVES.ilog2();

/// The tree of one partition. An empty one takes no memory beyond this.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The sum of the leaves.
    root: u128,
    leaves: Option<Box<[u128; LEAVES]>>,
}

/// Some of the leaves of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LeafSet(pub u64);

/// The leaf that a key belongs to.
#[must_use]
pub fn leaf_of(key: &Key) -> usize {
    leaf(xxh3_128(key.bytes()))
}

fn leaf(key_hash: u128) -> usize {
    usize::try_from(key_hash >> LEAF_SHIFT).unwrap_or_default()
}

/// One number over the roots of some partitions, in the order given.
#[must_use]
pub fn fold(roots: impl IntoIterator<Item = (Partition, u128)>) -> u128 {
    let mut bytes = Vec::new();
    for (partition, root) in roots {
        bytes.extend_from_slice(&partition.0.to_le_bytes());
        bytes.extend_from_slice(&root.to_le_bytes());
    }
    xxh3_128(&bytes)
}

impl LeafSet {
    /// All leaves.
    pub const ALL: Self = Self(u64::MAX);

    /// Whether a leaf is among them.
    #[must_use]
    pub fn contains(self, leaf: usize) -> bool {
        leaf < LEAVES && self.0 & (1 << leaf) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All but the first of them.
    #[must_use]
    pub fn without_first(self) -> Self {
        Self(self.0 & self.0.wrapping_sub(1))
    }
}

impl Tree {
    /// The sum of all leaves.
    #[must_use]
    pub fn root(&self) -> u128 {
        self.root
    }

    /// A record has changed; none: there is none of the key.
    pub fn change(&mut self, key: &Key, before: Option<RecordHash>, after: Option<RecordHash>) {
        if before == after {
            return;
        }
        let key_hash = xxh3_128(key.bytes());
        let of = |hash: Option<RecordHash>| hash.map_or(0, |hash| contribution(key_hash, hash));
        self.add(leaf(key_hash), of(after).wrapping_sub(of(before)));
    }

    /// Adds what another tree holds: of other keys, or of the past of the same ones.
    pub fn absorb(&mut self, other: &Self) {
        for leaf in 0..LEAVES {
            self.add(leaf, other.leaf(leaf));
        }
    }

    /// The leaves in which two trees differ.
    #[must_use]
    pub fn differing(&self, other: &Self) -> LeafSet {
        let differs = |leaf: &usize| self.leaf(*leaf) != other.leaf(*leaf);
        LeafSet((0..LEAVES).filter(differs).fold(0, |set, leaf| set | 1 << leaf))
    }

    fn leaf(&self, leaf: usize) -> u128 {
        self.leaves.as_ref().map_or(0, |leaves| leaves[leaf])
    }

    fn add(&mut self, leaf: usize, sum: u128) {
        if sum != 0 {
            let leaves = self.leaves.get_or_insert_with(|| Box::new([0; LEAVES]));
            leaves[leaf] = leaves[leaf].wrapping_add(sum);
            self.root = self.root.wrapping_add(sum);
        }
    }

    /// Appends the encoding: which leaves are not zero, one bit each, then those.
    pub fn encode(&self, out: &mut impl Write) {
        let set = self.differing(&Self::default());
        out.put_u64_le(set.0);
        for leaf in (0..LEAVES).filter(|&leaf| set.contains(leaf)) {
            out.put_u128_le(self.leaf(leaf));
        }
    }

    /// Reads a tree.
    ///
    /// # Errors
    /// [`DecodeError`] if the input ends, or a leaf that is zero is named.
    pub fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let set = LeafSet(r.u64()?);
        let mut tree = Self::default();
        for leaf in (0..LEAVES).filter(|&leaf| set.contains(leaf)) {
            match r.u128()? {
                0 => return Err(DecodeError::Malformed("tree")),
                sum => tree.add(leaf, sum),
            }
        }
        Ok(tree)
    }
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        self.differing(other).is_empty()
    }
}

impl Eq for Tree {}

fn contribution(key_hash: u128, hash: RecordHash) -> u128 {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&key_hash.to_le_bytes());
    bytes[16..].copy_from_slice(&hash.0.to_le_bytes());
    xxh3_128(&bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    // Worked out once, by this code: other numbers mean another format.
    const LEAF_OF_KEY: usize = 41;
    const ROOT_OF_KEY: u128 = 0x9595_99cc_3df1_5aeb_59cf_5cdd_f51e_1786;
    const FOLD_OF_ONE: u128 = 0x79a8_c1f1_407c_29dc_3312_7542_5ef9_79ad;

    fn key(number: u16) -> Key {
        Key::new(format!("key-{number}")).unwrap()
    }

    /// A tree made from nothing but what is stored.
    fn brute_force(stored: &BTreeMap<u16, u128>) -> [u128; LEAVES] {
        let mut leaves = [0u128; LEAVES];
        for (&number, &hash) in stored {
            let sum = &mut leaves[leaf_of(&key(number))];
            *sum = sum.wrapping_add(contribution(xxh3_128(key(number).bytes()), RecordHash(hash)));
        }
        leaves
    }

    fn bytes(tree: &Tree) -> Vec<u8> {
        let mut out = Vec::new();
        tree.encode(&mut out);
        out
    }

    proptest! {
        #[test]
        fn a_tree_that_was_changed_step_by_step_is_that_of_what_is_stored(
            writes in prop::collection::vec((0..200u16, prop::option::of(0..4u128)), 0..300),
            cut: prop::sample::Index,
        ) {
            let (mut stored, mut past, mut tree) = (BTreeMap::new(), Tree::default(), Tree::default());
            let cut = cut.index(writes.len() + 1);
            for (at, &(number, after)) in writes.iter().enumerate() {
                let before = match after {
                    Some(hash) => stored.insert(number, hash),
                    None => stored.remove(&number),
                };
                let part = if at < cut { &mut past } else { &mut tree };
                part.change(&key(number), before.map(RecordHash), after.map(RecordHash));
            }
            // What came before may be added last.
            tree.absorb(&past);
            let leaves = brute_force(&stored);
            prop_assert!((0..LEAVES).all(|leaf| tree.leaf(leaf) == leaves[leaf]));
            let sum = leaves.iter().fold(0u128, |sum, leaf| sum.wrapping_add(*leaf));
            prop_assert_eq!(tree.root(), sum);
        }

        #[test]
        fn a_tree_comes_back(numbers in prop::collection::vec(0..500u16, 0..80)) {
            let mut tree = Tree::default();
            for number in numbers {
                tree.change(&key(number), None, Some(RecordHash(number.into())));
            }
            let mut reader = Reader::new(bytes(&tree).into());
            prop_assert_eq!(Tree::decode(&mut reader), Ok(tree));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(input: Vec<u8>) {
            let _ = Tree::decode(&mut Reader::new(input.into()));
        }

        #[test]
        fn trees_differ_in_just_the_leaf_of_the_record_that_differs(
            numbers in prop::collection::btree_set(0..500u16, 1..80), at: prop::sample::Index,
        ) {
            let numbers: Vec<u16> = numbers.into_iter().collect();
            let odd = numbers[at.index(numbers.len())];
            let (mut one, mut other) = (Tree::default(), Tree::default());
            for &number in &numbers {
                one.change(&key(number), None, Some(RecordHash(1)));
                other.change(&key(number), None, Some(RecordHash(1 + u128::from(number == odd))));
            }
            prop_assert_eq!(one.differing(&other), LeafSet(1 << leaf_of(&key(odd))));
            prop_assert_ne!(one.root(), other.root());
        }
    }

    #[test]
    fn what_is_counted_twice_does_not_cancel_and_what_is_taken_back_leaves_nothing() {
        let (mut tree, hash) = (Tree::default(), Some(RecordHash(7)));
        tree.change(&key(1), None, hash);
        tree.change(&key(1), None, hash);
        assert_ne!(tree, Tree::default());
        tree.change(&key(1), hash, None);
        tree.change(&key(1), hash, None);
        assert_eq!((tree.root(), bytes(&tree)), (0, vec![0; 8]));
        assert_eq!(tree, Tree::default());
    }

    #[test]
    fn equal_records_under_two_keys_and_two_records_of_a_key_differ() {
        let of = |number, hash| {
            let mut tree = Tree::default();
            tree.change(&key(number), None, Some(RecordHash(hash)));
            tree.root()
        };
        assert_ne!(of(1, 7), of(2, 7));
        assert_ne!(of(1, 7), of(1, 8));
    }

    #[test]
    fn a_fold_tells_which_partition_a_root_belongs_to() {
        assert_ne!(
            fold([(Partition(1), 5), (Partition(2), 0)]),
            fold([(Partition(1), 0), (Partition(2), 5)])
        );
        assert_eq!(fold([]), fold([]));
    }

    #[test]
    fn the_format_is_fixed() {
        let mut tree = Tree::default();
        tree.change(&Key::new("key").unwrap(), None, Some(RecordHash(1)));
        assert_eq!(leaf_of(&Key::new("key").unwrap()), LEAF_OF_KEY);
        assert_eq!(tree.root(), ROOT_OF_KEY);
        assert_eq!(fold([(Partition(3), 1)]), FOLD_OF_ONE);
    }
}
