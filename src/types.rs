//! Newtypes that cannot be mixed up.
//!
//! Every identifier, number and instant of the system has a type of its own, made where the
//! value enters the system and never checked again. This module imports nothing of ours.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Longest key, in bytes. Fixed: the store's own key limit and the wire rely on it.
pub const KEY_BYTES_MAX: usize = 4096;
/// Longest node or zone name, in bytes: the length of a DNS label, as pods' names are.
pub const NAME_BYTES_MAX: usize = 63;
/// Partitions are spread over this many lanes; a worker owns whole lanes. The number of workers
/// is a power of two up to this, so that one lane meets one worker at both ends of a stream.
pub const LANES: u16 = 64;

/// One disk of one node: random, fsynced before it is used, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u128);

/// A place on the ring: what an operator calls the node, such as the name of its pod.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

/// The cluster that a node belongs to: the hash of its first placement version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

/// A user's key: 1 to [`KEY_BYTES_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

/// One of the Q equal arcs of the ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Partition(pub u16);

/// A hybrid logical clock's reading: 48 bits of milliseconds since 1970, 16 of counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub u64);

/// One tenure of one node over one partition. See [`crate::protocol`] for what it promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor(pub u64);

/// Names one write for ever. Ordered by stamp, ties by actor: the last writer is the greatest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dot {
    /// Who made the write.
    pub actor: Actor,
    /// When, by its coordinator's hybrid clock.
    pub stamp: Stamp,
}

/// Chosen by a client so that a retry of one request can be recognised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u8; 16]);

/// xxh3-128 of a record's canonical encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordHash(pub u128);

/// The number of a commit of one node's store; counts up from 1, over restarts.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct CommitNumber(pub u64);

/// The number of a round of collection of one partition; 0 before the first. What travels names the
/// lowest that it was formed from.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct RoundNumber(pub u64);

impl RoundNumber {
    /// Above every round: the lowest one of nothing.
    pub const MAX: Self = Self(u64::MAX);
}

/// Counts the starts of one node; fsynced and raised before a node speaks.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

/// A random number drawn at each start of a process: tells two processes with one id apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Boot(pub u64);

/// A monotonic instant, in microseconds from an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mono(pub u64);

/// A wall clock's reading, in milliseconds since 1970.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Wall(pub u64);

/// Both clocks, read together by a driver and passed into the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// For timeouts.
    pub mono: Mono,
    /// For stamps and expiry.
    pub wall: Wall,
}

/// W3C trace context, carried from hop to hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceContext {
    /// The trace's id; never zero.
    pub trace: u128,
    /// The caller's span.
    pub span: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

impl TraceContext {
    /// Whether the trace is recorded: then whoever works on it adds spans of its own.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// Why a text or a byte string is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Keys have 1 to 4096 bytes.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes, this one has {0}")]
    KeyLength(usize),
    /// Names are DNS labels.
    #[error("a name has 1 to {NAME_BYTES_MAX} characters of a-z, 0-9, '-', '_' and '.', not `{0}`")]
    Name(String),
    /// Ids are written as 32 hexadecimal digits.
    #[error("an id is written as 32 hexadecimal digits, not `{0}`")]
    Id(String),
}

impl Key {
    /// Takes a key as a client sent it.
    ///
    /// # Errors
    /// [`Invalid::KeyLength`] if it is empty or too long.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, Invalid> {
        let bytes = bytes.into();
        if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX {
            return Err(Invalid::KeyLength(bytes.len()));
        }
        Ok(Self(bytes))
    }

    /// The key's bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// xxh3-64 of the key: its place on the ring.
    #[must_use]
    pub fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.0)
    }

    /// The key's partition on a ring of `partitions` equal arcs.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the product's top is below `partitions`")]
    pub fn partition(&self, partitions: u16) -> Partition {
        Partition(((u128::from(self.hash()) * u128::from(partitions)) >> 64) as u16)
    }
}

impl Partition {
    /// The lane that the partition belongs to: see [`LANES`].
    #[must_use]
    pub fn lane(self) -> u16 {
        self.0 % LANES
    }

    /// Which of `workers` workers (a power of two, at most [`LANES`]) owns the partition.
    #[must_use]
    pub fn worker(self, workers: usize) -> usize {
        usize::from(self.lane()) % workers
    }
}

impl NodeName {
    /// Takes a name as an operator wrote it.
    ///
    /// # Errors
    /// [`Invalid::Name`] if it is not a plain label.
    pub fn new(name: &str) -> Result<Self, Invalid> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
            return Err(Invalid::Name(name.chars().take(80).collect()));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = Invalid;
    fn try_from(name: String) -> Result<Self, Invalid> {
        Self::new(&name)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0.to_string()
    }
}

impl Dot {
    /// The dot of `actor` at `stamp`.
    #[must_use]
    pub fn new(actor: Actor, stamp: Stamp) -> Self {
        Self { actor, stamp }
    }
}

impl PartialOrd for Dot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Dot {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.stamp, self.actor).cmp(&(other.stamp, other.actor))
    }
}

impl Stamp {
    /// The first stamp of a millisecond.
    #[must_use]
    pub fn at(wall: Wall) -> Self {
        Self(wall.0.min((1 << 48) - 1) << 16)
    }

    /// The millisecond that the stamp lies in.
    #[must_use]
    pub fn wall(self) -> Wall {
        Wall(self.0 >> 16)
    }

    /// The next stamp, or none after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl Mono {
    /// The instant `micros` later.
    #[must_use]
    pub fn after_micros(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// The instant `millis` later.
    #[must_use]
    pub fn after_millis(self, millis: u64) -> Self {
        self.after_micros(millis.saturating_mul(1000))
    }

    /// Microseconds since `earlier`; zero if that lies ahead.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

macro_rules! hex {
    ($type:ident, $width:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }
    };
}
hex!(NodeId, "32");
hex!(ClusterId, "32");
hex!(RecordHash, "32");
hex!(Actor, "16");
hex!(Boot, "16");

macro_rules! parse_id {
    ($type:ident) => {
        impl std::str::FromStr for $type {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                match u128::from_str_radix(text, 16) {
                    Ok(id) if text.len() == 32 => Ok(Self(id)),
                    _ => Err(Invalid::Id(text.chars().take(80).collect())),
                }
            }
        }
    };
}
parse_id!(NodeId);
parse_id!(ClusterId);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:?}", self.actor, self.stamp)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({:032x})", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_ordered_by_stamp_and_ties_by_actor() {
        let early = Dot::new(Actor(9), Stamp(1));
        let late = Dot::new(Actor(1), Stamp(2));
        assert!(early < late);
        assert!(Dot::new(Actor(1), Stamp(2)) < Dot::new(Actor(2), Stamp(2)));
    }

    #[test]
    fn keys_and_names_out_of_bounds_are_refused() {
        assert_eq!(Key::new(""), Err(Invalid::KeyLength(0)));
        assert_eq!(Key::new(vec![0; 4097]), Err(Invalid::KeyLength(4097)));
        assert!(Key::new(vec![0; 4096]).is_ok());
        assert!(NodeName::new("Node 1").is_err());
        assert!(NodeName::new("coterie-0").is_ok());
    }

    #[test]
    fn a_partition_is_within_the_ring_for_any_key() {
        for i in 0..10_000u32 {
            let key = Key::new(i.to_be_bytes().to_vec()).unwrap();
            assert!(key.partition(7).0 < 7);
            assert!(key.partition(4096).0 < 4096);
        }
    }
}
