//! Records: what a replica holds of one key.
//!
//! A record is a dotted version vector set (Preguiça, Baquero, Almeida, Fonte, Gonçalves:
//! *Dotted Version Vectors*, 2010; Riak 2). `seen` covers every dot of the record and every dot
//! that those superseded; a sibling is dropped by a merge only if the other side has seen it and
//! no longer holds it. Nothing is ever dropped by age or by its stamp.
//!
//! Invariants, checked wherever a record is decoded:
//!
//! - `seen` is sorted by actor, one entry an actor;
//! - `siblings` is sorted by dot, no dot twice;
//! - every sibling's dot is covered by `seen`.
//!
//! The encoding is canonical: equal records have equal bytes, so bytes are what is hashed and
//! summed. Neither depends on the present time: an expired sibling stays what it was.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{DecodeError, Reader, Write};
use crate::types::{Actor, Dot, Key, Partition, RecordHash, RequestId, Stamp, Wall};

/// The version of the canonical encoding.
const FORMAT: u8 = 1;
/// A sealed record begins with its checksum.
const CRC_BYTES: usize = 4;
const FLAG_TOMBSTONE: u8 = 1;
const FLAG_EXPIRY: u8 = 2;
const FLAG_REQUEST: u8 = 4;
/// The fewest bytes a sibling takes: dot, flags and an empty value's length.
const SIBLING_BYTES_MIN: usize = 18;

/// Which dots are known: for each actor, all up to a stamp.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VersionVector {
    entries: Vec<(Actor, Stamp)>,
}

/// What a sibling holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// A value that was put.
    Value(Bytes),
    /// The mark of a delete.
    Tombstone,
}

/// One write that nothing has superseded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sibling {
    /// The name of the write.
    pub dot: Dot,
    /// What was written.
    pub content: Content,
    /// After this wall-clock time the sibling reads as a tombstone.
    pub expiry: Option<Wall>,
    /// The client's name for the request, if it gave one.
    pub request: Option<RequestId>,
}

/// What a replica holds of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    seen: VersionVector,
    siblings: Vec<Sibling>,
}

/// A record's checksum over partition, key and canonical bytes, and those bytes: the only shape
/// in which a record travels or is stored. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// `crc32 (4, little-endian) ‖ canonical bytes`; never shorter than the checksum.
    stored: Bytes,
}

impl VersionVector {
    /// The stamp up to which `actor`'s dots are covered.
    #[must_use]
    pub fn of(&self, actor: Actor) -> Option<Stamp> {
        let at = self.entries.binary_search_by_key(&actor, |entry| entry.0).ok()?;
        Some(self.entries[at].1)
    }

    /// Whether `dot` is covered.
    #[must_use]
    pub fn covers(&self, dot: Dot) -> bool {
        self.of(dot.actor).is_some_and(|stamp| stamp >= dot.stamp)
    }

    /// Whether everything that `other` covers is covered.
    #[must_use]
    pub fn covers_all(&self, other: &Self) -> bool {
        other.entries.iter().all(|&(actor, stamp)| self.covers(Dot::new(actor, stamp)))
    }

    /// Covers `dot`, and with it everything earlier of its actor.
    pub fn add(&mut self, dot: Dot) {
        match self.entries.binary_search_by_key(&dot.actor, |entry| entry.0) {
            Ok(at) => self.entries[at].1 = self.entries[at].1.max(dot.stamp),
            Err(at) => self.entries.insert(at, (dot.actor, dot.stamp)),
        }
    }

    /// Covers whatever either covered: the pointwise maximum.
    pub fn join(&mut self, other: &Self) {
        for &(actor, stamp) in &other.entries {
            self.add(Dot::new(actor, stamp));
        }
    }

    /// The greatest stamp in it.
    #[must_use]
    pub fn highest(&self) -> Stamp {
        self.entries.iter().map(|entry| entry.1).max().unwrap_or_default()
    }

    /// Each actor and the stamp up to which it is covered, sorted by actor.
    #[must_use]
    pub fn entries(&self) -> &[(Actor, Stamp)] {
        &self.entries
    }

    pub(crate) fn encode(&self, out: &mut impl Write) {
        out.varint(self.entries.len() as u64);
        for &(actor, stamp) in &self.entries {
            out.put_u64_le(actor.0);
            out.put_u64_le(stamp.0);
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let count = reader.count(16)?;
        let mut entries: Vec<(Actor, Stamp)> = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = (Actor(reader.u64()?), Stamp(reader.u64()?));
            if entries.last().is_some_and(|last| last.0 >= entry.0) {
                return Err(DecodeError::Malformed("version vector"));
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }
}

impl Sibling {
    /// Whether the sibling reads as a value at `wall`.
    #[must_use]
    pub fn is_live(&self, wall: Wall) -> bool {
        matches!(self.content, Content::Value(_)) && self.expiry.is_none_or(|expiry| wall < expiry)
    }

    /// The value, whether it has expired or not.
    #[must_use]
    pub fn value(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Value(value) => Some(value),
            Content::Tombstone => None,
        }
    }

    pub(crate) fn encode(&self, out: &mut impl Write) {
        out.put_u64_le(self.dot.actor.0);
        out.put_u64_le(self.dot.stamp.0);
        let tombstone = if self.value().is_none() { FLAG_TOMBSTONE } else { 0 };
        let expiry = if self.expiry.is_some() { FLAG_EXPIRY } else { 0 };
        let request = if self.request.is_some() { FLAG_REQUEST } else { 0 };
        out.put_u8(tombstone | expiry | request);
        if let Some(expiry) = self.expiry {
            out.put_u64_le(expiry.0);
        }
        if let Some(request) = self.request {
            out.put_slice(&request.0);
        }
        out.bytes(self.value().map_or(&[], |value| value));
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let dot = Dot::new(Actor(reader.u64()?), Stamp(reader.u64()?));
        let flags = reader.u8()?;
        if flags & !(FLAG_TOMBSTONE | FLAG_EXPIRY | FLAG_REQUEST) != 0 {
            return Err(DecodeError::Malformed("sibling"));
        }
        let expiry = if flags & FLAG_EXPIRY == 0 { None } else { Some(Wall(reader.u64()?)) };
        let request = if flags & FLAG_REQUEST == 0 {
            None
        } else {
            Some(RequestId(reader.u128()?.to_le_bytes()))
        };
        let value = reader.bytes()?;
        let content = match (flags & FLAG_TOMBSTONE, value.is_empty()) {
            (0, _) => Content::Value(value),
            (_, true) => Content::Tombstone,
            (_, false) => return Err(DecodeError::Malformed("tombstone")),
        };
        Ok(Self { dot, content, expiry, request })
    }
}

impl Record {
    /// A record of these parts.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] if they do not keep the invariants of a record.
    pub fn from_parts(seen: VersionVector, siblings: Vec<Sibling>) -> Result<Self, DecodeError> {
        let sorted = siblings.is_sorted_by(|a, b| a.dot < b.dot);
        if !sorted || !siblings.iter().all(|sibling| seen.covers(sibling.dot)) {
            return Err(DecodeError::Malformed("record"));
        }
        Ok(Self { seen, siblings })
    }

    /// Every dot that the record holds or that those superseded.
    #[must_use]
    pub fn seen(&self) -> &VersionVector {
        &self.seen
    }

    /// The writes that nothing has superseded, sorted by dot: the last writer's is the last.
    #[must_use]
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    /// Whether nothing was ever written here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.entries.is_empty()
    }

    /// The siblings that a reader sees at `wall`, the last writer's last: tombstones and expired
    /// ones are hidden, and of several with one request id only the last is shown.
    #[must_use]
    pub fn visible(&self, wall: Wall) -> Vec<&Sibling> {
        // Nearly every record; a scan asks for each.
        if let [only] = &self.siblings[..] {
            return if only.is_live(wall) { vec![only] } else { vec![] };
        }
        let live: Vec<&Sibling> = self.siblings.iter().filter(|s| s.is_live(wall)).collect();
        let is_twin = |at: usize, sibling: &Sibling| {
            sibling.request.is_some()
                && live[at + 1..].iter().any(|later| later.request == sibling.request)
        };
        let shown = live.iter().enumerate().filter(|&(at, sibling)| !is_twin(at, sibling));
        shown.map(|(_, sibling)| *sibling).collect()
    }

    /// The sibling that a request made, if it still lives.
    #[must_use]
    pub fn written_by(&self, request: RequestId) -> Option<&Sibling> {
        self.siblings.iter().rev().find(|sibling| sibling.request == Some(request))
    }

    /// What both know: associative, commutative, idempotent.
    ///
    /// A sibling stays if both have it, or if the other has not seen its dot.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut siblings = Vec::with_capacity(self.siblings.len().max(other.siblings.len()));
        let (mut left, mut right) =
            (self.siblings.iter().peekable(), other.siblings.iter().peekable());
        loop {
            match (left.peek(), right.peek()) {
                (Some(a), Some(b)) if a.dot == b.dot => {
                    siblings.push((*a).clone());
                    left.next();
                    right.next();
                }
                (Some(a), b) if b.is_none_or(|b| a.dot < b.dot) => {
                    if !other.seen.covers(a.dot) {
                        siblings.push((*a).clone());
                    }
                    left.next();
                }
                (_, Some(b)) => {
                    if !self.seen.covers(b.dot) {
                        siblings.push((*b).clone());
                    }
                    right.next();
                }
                (_, None) => break,
            }
        }
        let mut seen = self.seen.clone();
        seen.join(&other.seen);
        Self { seen, siblings }
    }

    /// Whether merging `other` in would change nothing.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.seen.covers_all(&other.seen) && self.merge(other) == *self
    }

    /// The record after a write: `context` and exactly the siblings that it covers are
    /// superseded by `sibling`, whose dot must be new.
    ///
    /// # Panics
    /// If the dot of `sibling` has been seen: a dot names one write for ever.
    #[must_use]
    pub fn write(&self, context: &VersionVector, sibling: Sibling) -> Self {
        let mut seen = self.seen.clone();
        seen.join(context);
        assert!(!seen.covers(sibling.dot), "the dot {:?} is used twice", sibling.dot);
        seen.add(sibling.dot);
        let kept = self.siblings.iter().filter(|old| !context.covers(old.dot));
        let mut siblings: Vec<Sibling> = kept.cloned().collect();
        let at = siblings.partition_point(|old| old.dot < sibling.dot);
        siblings.insert(at, sibling);
        Self { seen, siblings }
    }

    /// The canonical encoding.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len_max());
        self.encode_into(&mut out);
        out.freeze()
    }

    /// At least as many bytes as the canonical encoding takes, and not many more.
    #[must_use]
    pub fn encoded_len_max(&self) -> usize {
        let values: usize = self.siblings.iter().map(|s| s.value().map_or(0, Bytes::len)).sum();
        24 + self.seen.entries.len() * 16 + self.siblings.len() * 52 + values
    }

    fn encode_into(&self, out: &mut BytesMut) {
        out.put_u8(FORMAT);
        self.seen.encode(out);
        out.varint(self.siblings.len() as u64);
        for sibling in &self.siblings {
            sibling.encode(out);
        }
    }

    /// Reads the canonical encoding; accepts no other.
    ///
    /// # Errors
    /// If the bytes are not the encoding of a record.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Version(other)),
        }
        let seen = VersionVector::decode(&mut reader)?;
        let count = reader.count(SIBLING_BYTES_MIN)?;
        let siblings =
            (0..count).map(|_| Sibling::decode(&mut reader)).collect::<Result<_, _>>()?;
        reader.end()?;
        Self::from_parts(seen, siblings)
    }

    /// The record ready to travel or to be stored, as the record of `key`.
    #[must_use]
    pub fn seal(&self, partition: Partition, key: &Key) -> Sealed {
        let mut stored = BytesMut::with_capacity(CRC_BYTES + self.encoded_len_max());
        stored.put_u32_le(0);
        self.encode_into(&mut stored);
        let crc = checksum(partition, key, &stored[CRC_BYTES..]);
        stored[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        Sealed { stored: stored.freeze() }
    }
}

impl Sealed {
    /// Takes a record as it was stored or received; nothing is verified yet.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if it is too short to be one.
    pub fn from_stored(stored: Bytes) -> Result<Self, DecodeError> {
        if stored.len() < CRC_BYTES { Err(DecodeError::Truncated) } else { Ok(Self { stored }) }
    }

    /// Verifies the checksum and decodes the record.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`] if the bytes are damaged or belong to another key or partition.
    pub fn open(&self, partition: Partition, key: &Key) -> Result<Record, DecodeError> {
        self.verify(partition, key)?;
        Record::decode(self.stored.slice(CRC_BYTES..))
    }

    /// Verifies the checksum only: enough for what is sent on as it is, and opened by its receiver.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`] if the bytes are damaged or belong to another key or partition.
    pub fn verify(&self, partition: Partition, key: &Key) -> Result<(), DecodeError> {
        let crc = checksum(partition, key, &self.stored[CRC_BYTES..]);
        if crc == self.crc() { Ok(()) } else { Err(DecodeError::Checksum) }
    }

    /// The hash by which two replicas find out that they hold the same.
    #[must_use]
    pub fn hash(&self) -> RecordHash {
        RecordHash(xxhash_rust::xxh3::xxh3_128(&self.stored[CRC_BYTES..]))
    }

    /// The checksum over partition, key and canonical bytes.
    #[must_use]
    pub fn crc(&self) -> u32 {
        u32::from_le_bytes([self.stored[0], self.stored[1], self.stored[2], self.stored[3]])
    }

    /// The stored form: checksum, then canonical bytes.
    #[must_use]
    pub fn stored(&self) -> &Bytes {
        &self.stored
    }
}

/// crc32 over partition, key and canonical record. The key is in it so that a record that was
/// written or delivered to the wrong place does not pass for that place's own.
fn checksum(partition: Partition, key: &Key, canonical: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&partition.0.to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "a key has at most 4096 bytes")]
    hasher.update(&(key.bytes().len() as u16).to_le_bytes());
    hasher.update(key.bytes());
    hasher.update(canonical);
    hasher.finalize()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Records as the protocol makes them: a history of writes by a few actors over a few
    /// replicas, each write made over some replica's record.
    pub(crate) fn histories() -> impl Strategy<Value = Vec<Record>> {
        let action = (0..3usize, 0..3usize, 0..4u8, 0..3u8);
        proptest::collection::vec(action, 1..24).prop_map(|actions| {
            let mut replicas = vec![Record::default(); 3];
            for (stamp, (at, from, what, kind)) in (1..).zip(actions) {
                if what == 0 {
                    replicas[at] = replicas[at].merge(&replicas[from]);
                    continue;
                }
                let dot = Dot::new(Actor(at as u64), Stamp(stamp));
                let context = match what {
                    1 => replicas[at].seen().clone(),
                    2 => replicas[from].seen().clone(),
                    _ => VersionVector::default(),
                };
                let content = match kind {
                    0 => Content::Tombstone,
                    _ => Content::Value(Bytes::from(stamp.to_string())),
                };
                let expiry = (kind == 2).then_some(Wall(stamp));
                let sibling = Sibling { dot, content, expiry, request: None };
                replicas[at] = replicas[at].write(&context, sibling);
            }
            replicas
        })
    }

    proptest! {
        #[test]
        fn merge_is_associative_commutative_and_idempotent(r in histories()) {
            let (a, b, c) = (&r[0], &r[1], &r[2]);
            prop_assert_eq!(a.merge(b), b.merge(a));
            prop_assert_eq!(a.merge(b).merge(c), a.merge(&b.merge(c)));
            prop_assert_eq!(&a.merge(a), a);
            prop_assert!(a.merge(b).contains(a));
        }

        #[test]
        fn the_encoding_is_canonical_and_comes_back(r in histories()) {
            for record in &r {
                let bytes = record.encode();
                let back = Record::decode(bytes.clone()).unwrap();
                prop_assert_eq!(&back, record);
                prop_assert_eq!(back.encode(), bytes);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_only_canonical_ones_decode(input: Vec<u8>) {
            let input = Bytes::from(input);
            if let Ok(record) = Record::decode(input.clone()) {
                prop_assert_eq!(record.encode(), input);
            }
        }

        #[test]
        fn a_damaged_record_still_decodes_to_itself_or_not_at_all(
            r in histories(), at: prop::sample::Index, bit in 0..8u8,
        ) {
            let mut bytes = r[0].encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let bytes = Bytes::from(bytes);
            if let Ok(record) = Record::decode(bytes.clone()) {
                prop_assert_eq!(record.encode(), bytes);
            }
        }

        #[test]
        fn no_merge_order_loses_a_sibling_that_nothing_superseded(r in histories()) {
            // A dot is alive if some replica holds it and every replica that saw it holds it.
            let all = r[0].merge(&r[1]).merge(&r[2]);
            for sibling in r.iter().flat_map(Record::siblings) {
                let superseded = r.iter().any(|record| {
                    record.seen().covers(sibling.dot) && !record.siblings().contains(sibling)
                });
                prop_assert_eq!(all.siblings().contains(sibling), !superseded);
            }
        }
    }

    fn value(actor: u64, stamp: u64, request: Option<u8>) -> Sibling {
        Sibling {
            dot: Dot::new(Actor(actor), Stamp(stamp)),
            content: Content::Value(Bytes::from_static(b"v")),
            expiry: None,
            request: request.map(|byte| RequestId([byte; 16])),
        }
    }

    #[test]
    fn a_write_with_a_context_drops_exactly_what_the_context_covers() {
        let none = VersionVector::default();
        let one = Record::default().write(&none, value(1, 1, None));
        let two = one.write(&none, value(2, 2, None));
        assert_eq!(two.siblings().len(), 2);
        let three = two.write(one.seen(), value(1, 3, None));
        let stamps: Vec<u64> = three.siblings().iter().map(|s| s.dot.stamp.0).collect();
        assert_eq!(stamps, [2, 3]);
    }

    #[test]
    fn twins_of_one_request_are_shown_as_one() {
        let none = VersionVector::default();
        let record = Record::default()
            .write(&none, value(1, 1, Some(7)))
            .write(&none, value(2, 2, Some(7)))
            .write(&none, value(3, 3, None));
        let shown: Vec<u64> = record.visible(Wall(0)).iter().map(|s| s.dot.stamp.0).collect();
        assert_eq!(shown, [2, 3]);
    }

    #[test]
    fn a_record_of_another_key_does_not_open() {
        let (here, there) = (Key::new("here").unwrap(), Key::new("there").unwrap());
        let record = Record::default().write(&VersionVector::default(), value(1, 1, None));
        let sealed = record.seal(Partition(1), &here);
        assert_eq!(sealed.open(Partition(1), &here), Ok(record));
        assert_eq!(sealed.open(Partition(1), &there), Err(DecodeError::Checksum));
        assert_eq!(sealed.open(Partition(2), &here), Err(DecodeError::Checksum));
    }

    #[test]
    #[should_panic(expected = "used twice")]
    fn a_dot_is_never_used_twice() {
        let record = Record::default().write(&VersionVector::default(), value(1, 5, None));
        let _ = record.write(&VersionVector::default(), value(1, 5, None));
    }
}
