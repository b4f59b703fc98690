//! Rounds of collection: what a member keeps of each partition so that dead records can go for good.
//!
//! ```text
//!             every member                 every member            the homes
//!   opened ───────────────▶ drained ──────────────────▶ closed ──────────────▶ applied
//!   confirms one cut        holds nothing older,         own copies take        the cut's records
//!                           keeps nothing older          nothing older          are gone
//! ```
//!
//! Every copy of a record that is no home's own carries a number: the lowest round that it was formed
//! from. The proof that nothing comes back and nothing is lost is in `docs/collection.md`; here is the
//! arithmetic that it rests on.
//!
//! Invariants of [`Rounds`]: `closed ≤ drained ≤ number`; each only grows; all that is in it is durable
//! before anyone is told of it.

#[cfg(test)]
mod model_tests;

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{DecodeError, Reader, Write};
use super::record::{Content, Record};
use crate::types::{Key, RecordHash, RoundNumber, Wall};

/// The version of the encoding.
const FORMAT: u8 = 1;
/// Records that one cut may list.
pub const CUT_ENTRIES_MAX: usize = 1024;
/// Bytes of keys that one cut may list; one more key may come on top. Every home keeps the cut of a round
/// in memory until the round is over.
pub const CUT_BYTES_MAX: usize = 64 << 10;
/// The fewest bytes that an entry takes: a key of one byte, with its length, and a hash.
const ENTRY_BYTES_MIN: usize = 18;

/// The name of a cut: two members that confirmed the same one know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutId(pub u128);

/// Records that every home holds and that are wholly dead: sorted by key, each once. An empty one brings
/// all members to one number, after a round that some have opened and others never will.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    entries: Vec<(Key, RecordHash)>,
}

/// What a member keeps of the rounds of one partition, for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    /// The round that was opened last, or that others had opened when this disk was told: what is read of the
    /// own copy from then on carries it.
    pub number: RoundNumber,
    /// Nothing older is held but in the own copy, and nothing older is taken in.
    pub drained: RoundNumber,
    /// Nothing older is merged into the own copy.
    pub closed: RoundNumber,
    /// The cut that was confirmed for `number`; the default if no round was ever opened here.
    pub id: CutId,
    /// That cut itself, at a home, until the round is over everywhere.
    pub cut: Option<Cut>,
    /// Whether the cut's records are gone from the own copy.
    pub applied: bool,
}

/// What is to be done about a message of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What it asks for.
    Go,
    /// Nothing: it is done.
    Done,
    /// The round before it was closed elsewhere: that comes first.
    CloseFirst,
    /// Refuse: another cut was confirmed under this number, or a later one.
    Behind,
    /// A round was closed that this copy never confirmed: it must not be used.
    SetAside,
}

impl Cut {
    /// A cut of these records, in any order; none if a key comes twice.
    #[must_use]
    pub fn new(mut entries: Vec<(Key, RecordHash)>) -> Option<Self> {
        entries.sort_unstable_by(|a, b| a.0.bytes().cmp(b.0.bytes()));
        let distinct = entries.windows(2).all(|pair| pair[0].0 != pair[1].0);
        distinct.then_some(Self { entries })
    }

    /// Whether it lists nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The records, sorted by key.
    #[must_use]
    pub fn entries(&self) -> &[(Key, RecordHash)] {
        &self.entries
    }

    /// Whether it lists just this record.
    #[must_use]
    pub fn lists(&self, key: &Key, hash: RecordHash) -> bool {
        let at = self.entries.binary_search_by(|entry| entry.0.bytes().cmp(key.bytes()));
        at.is_ok_and(|at| self.entries[at].1 == hash)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> CutId {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        CutId(xxhash_rust::xxh3::xxh3_128(&out))
    }

    pub(crate) fn encode(&self, out: &mut impl Write) {
        out.varint(self.entries.len() as u64);
        for (key, hash) in &self.entries {
            out.bytes(key.bytes());
            out.put_u128_le(hash.0);
        }
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let count = r.count(ENTRY_BYTES_MIN)?;
        if count > CUT_ENTRIES_MAX {
            return Err(DecodeError::Malformed("cut"));
        }
        let mut entries: Vec<(Key, RecordHash)> = Vec::with_capacity(count);
        for _ in 0..count {
            let key = Key::new(r.bytes()?).map_err(|_| DecodeError::Malformed("key"))?;
            if entries.last().is_some_and(|last| last.0.bytes() >= key.bytes()) {
                return Err(DecodeError::Malformed("cut"));
            }
            entries.push((key, RecordHash(r.u128()?)));
        }
        Ok(Self { entries })
    }
}

impl Rounds {
    /// Whether to open a round, of which its driver says that `closed` is the last that was closed.
    #[must_use]
    pub fn judge_open(&self, number: RoundNumber, closed: RoundNumber, id: CutId) -> Verdict {
        if let Some(verdict) = self.judge_news(closed) {
            verdict
        } else if number > self.number {
            Verdict::Go
        } else if number == self.number && id == self.id {
            Verdict::Done
        } else {
            Verdict::Behind
        }
    }

    /// Whether to look for what is older than a round, and to say that there is nothing.
    #[must_use]
    pub fn judge_drain(&self, number: RoundNumber, id: CutId) -> Verdict {
        if number != self.number || id != self.id {
            Verdict::Behind
        } else if self.drained >= number {
            Verdict::Done
        } else {
            Verdict::Go
        }
    }

    /// Whether to close a round that all members have drained.
    #[must_use]
    pub fn judge_close(&self, number: RoundNumber, id: CutId) -> Verdict {
        match self.judge_news(number) {
            Some(Verdict::CloseFirst) if id != self.id => Verdict::SetAside,
            Some(Verdict::CloseFirst) => Verdict::Go,
            Some(verdict) => verdict,
            None => Verdict::Done,
        }
    }

    /// What follows from a round's having been closed somewhere; none if it is nothing new.
    ///
    /// A round closes only when every member has opened and drained it. Whoever has not is not the
    /// copy that the members spoke for.
    #[must_use]
    pub fn judge_news(&self, closed: RoundNumber) -> Option<Verdict> {
        let is_unconfirmed = closed > self.number
            || (closed == self.number && self.drained < closed)
            || (self.never_opened() && closed > self.closed);
        if is_unconfirmed {
            Some(Verdict::SetAside)
        } else if closed == self.number && self.closed < closed {
            Some(Verdict::CloseFirst)
        } else {
            None
        }
    }

    /// The state after opening a round; `cut` is kept at a home.
    #[must_use]
    pub fn after_opening(&self, number: RoundNumber, id: CutId, cut: Option<Cut>) -> Self {
        Self { number, id, cut, applied: false, ..self.clone() }
    }

    /// The state after draining the round that is open.
    #[must_use]
    pub fn after_draining(&self) -> Self {
        Self { drained: self.number, ..self.clone() }
    }

    /// The state after closing the round that is open: nothing older is merged from now on. At a home the cut is
    /// still to be applied.
    #[must_use]
    pub fn after_closing(&self) -> Self {
        let applied = self.cut.is_none();
        Self { drained: self.number, closed: self.number, applied, ..self.clone() }
    }

    /// The state after applying the cut.
    #[must_use]
    pub fn after_applying(&self) -> Self {
        Self { applied: true, ..self.clone() }
    }

    /// The state after the round has been applied everywhere.
    #[must_use]
    pub fn without_cut(&self) -> Self {
        Self { cut: None, ..self.clone() }
    }

    /// After setting aside what was held: an empty copy, as of a round that was closed without it. What it was told it
    /// knows still.
    #[must_use]
    pub fn begun_anew(&self, closed: RoundNumber) -> Self {
        Self::told(if self.never_opened() { self.number } else { closed }, closed)
    }

    /// Of a copy that began with nothing, after it was told which rounds others had opened and closed: all up to
    /// `number` may close without it, and none above.
    #[must_use]
    pub fn told(number: RoundNumber, closed: RoundNumber) -> Self {
        let number = number.max(closed);
        Self { number, drained: closed, closed, applied: true, ..Self::default() }
    }

    /// Whether no round was ever opened here: what is known of them was told.
    #[must_use]
    pub fn never_opened(&self) -> bool {
        self.id == CutId::default()
    }

    /// What is merged into a key's own copy that lacks what it held when the round was opened: nothing older than
    /// this.
    #[must_use]
    pub fn floor_of_rebuilding(&self) -> RoundNumber {
        if self.never_opened() { self.closed } else { self.number }
    }

    /// Whether a record of this number may be merged into the own copy. `rebuilding`: the own copy of
    /// its key lacks what it held when the round was opened, so that only the number vouches.
    #[must_use]
    pub fn takes(&self, number: RoundNumber, rebuilding: bool) -> bool {
        number >= if rebuilding { self.floor_of_rebuilding() } else { self.closed }
    }

    /// Whether the round that is open was opened as no home: its cut is not here.
    #[must_use]
    pub fn lacks_cut(&self) -> bool {
        self.closed < self.number && self.cut.is_none()
    }

    /// Whether the cut has been closed and is to be applied.
    #[must_use]
    pub fn is_applying(&self) -> bool {
        self.closed == self.number && self.cut.is_some() && !self.applied
    }

    /// Whether a record has gone in the last round: one that comes back from a home which has not yet
    /// applied the round is as good as absent.
    #[must_use]
    pub fn is_gone(&self, key: &Key, hash: RecordHash) -> bool {
        self.applied && self.cut.as_ref().is_some_and(|cut| cut.lists(key, hash))
    }

    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.varint(self.number.0);
        out.varint(self.drained.0);
        out.varint(self.closed.0);
        out.put_u128_le(self.id.0);
        out.bool(self.applied);
        out.bool(self.cut.is_some());
        if let Some(cut) = &self.cut {
            cut.encode(&mut out);
        }
        out.freeze()
    }

    /// Reads what was stored.
    ///
    /// # Errors
    /// If the bytes are not that.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Version(other)),
        }
        let (number, drained) = (RoundNumber(r.varint()?), RoundNumber(r.varint()?));
        let (closed, id) = (RoundNumber(r.varint()?), CutId(r.u128()?));
        let applied = r.bool()?;
        let cut = if r.bool()? { Some(Cut::decode(&mut r)?) } else { None };
        r.end()?;
        if closed > drained || drained > number {
            return Err(DecodeError::Malformed("rounds"));
        }
        Ok(Self { number, drained, closed, id, cut, applied })
    }
}

/// Whether nothing in a record can ever be read again: every sibling is a tombstone, or has been expired
/// for longer than clocks may differ.
#[must_use]
pub fn is_dead(record: &Record, wall: Wall, skew_ms_max: u64) -> bool {
    let dead = |content: &Content, expiry: Option<Wall>| match content {
        Content::Tombstone => true,
        Content::Value(_) => expiry.is_some_and(|at| at.0.saturating_add(skew_ms_max) <= wall.0),
    };
    !record.is_empty() && record.siblings().iter().all(|s| dead(&s.content, s.expiry))
}

/// Whether a record may be dead now or later without being written again.
#[must_use]
pub fn may_die(record: &Record) -> bool {
    let mortal = |content: &Content, expiry: Option<Wall>| {
        matches!(content, Content::Tombstone) || expiry.is_some()
    };
    !record.is_empty() && record.siblings().iter().all(|s| mortal(&s.content, s.expiry))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::record::{Sibling, VersionVector};
    use crate::types::{Actor, Dot, Stamp};

    fn cut(keys: &[Vec<u8>]) -> Option<Cut> {
        let entry = |key: &Vec<u8>| Some((Key::new(key.clone()).ok()?, RecordHash(7)));
        Cut::new(keys.iter().filter_map(entry).collect())
    }

    proptest! {
        #[test]
        fn what_is_stored_comes_back(number: u32, back in 0..3_u64, further in 0..3_u64,
            keys in proptest::collection::vec(proptest::collection::vec(0..4_u8, 1..4), 0..6),
            applied: bool) {
            let number = u64::from(number);
            let drained = number.saturating_sub(back);
            let closed = drained.saturating_sub(further);
            let cut = cut(&keys);
            let id = cut.as_ref().map_or(CutId::default(), Cut::id);
            let rounds = Rounds {
                number: RoundNumber(number),
                drained: RoundNumber(drained),
                closed: RoundNumber(closed),
                id, cut, applied,
            };
            prop_assert_eq!(Rounds::decode(rounds.encode()), Ok(rounds));
        }

        #[test]
        fn arbitrary_bytes_never_panic(input: Vec<u8>) {
            if let Ok(rounds) = Rounds::decode(Bytes::from(input)) {
                prop_assert!(rounds.closed <= rounds.drained && rounds.drained <= rounds.number);
            }
        }
    }

    #[test]
    fn a_cut_is_sorted_and_distinct() {
        assert!(cut(&[]).unwrap().is_empty());
        assert_eq!(cut(&[vec![1], vec![1]]), None);
        let made = cut(&[vec![2], vec![1]]).unwrap();
        assert!(made.lists(&Key::new(vec![2]).unwrap(), RecordHash(7)));
        assert!(!made.lists(&Key::new(vec![2]).unwrap(), RecordHash(8)));
        let mut unsorted = BytesMut::new();
        Cut { entries: made.entries().iter().rev().cloned().collect() }.encode(&mut unsorted);
        assert!(Cut::decode(&mut Reader::new(unsorted.freeze())).is_err());
    }

    #[test]
    fn a_round_that_was_closed_without_this_copy_sets_it_aside() {
        let (id, n) = (CutId(1), RoundNumber);
        let fresh = Rounds::default();
        assert_eq!(fresh.judge_open(n(1), n(0), id), Verdict::Go);
        assert_eq!(fresh.judge_open(n(2), n(1), id), Verdict::SetAside);
        assert_eq!(fresh.judge_close(n(1), id), Verdict::SetAside);
        let opened = fresh.after_opening(n(1), id, None);
        assert_eq!(opened.judge_open(n(1), n(0), id), Verdict::Done);
        assert_eq!(opened.judge_open(n(1), n(0), CutId(2)), Verdict::Behind);
        assert_eq!(opened.judge_close(n(1), id), Verdict::SetAside, "it has not drained");
        let drained = opened.after_draining();
        assert_eq!(drained.judge_close(n(1), CutId(2)), Verdict::SetAside);
        assert_eq!(drained.judge_close(n(1), id), Verdict::Go);
        assert_eq!(drained.judge_open(n(2), n(1), id), Verdict::CloseFirst);
        assert_eq!(drained.judge_open(n(2), n(0), id), Verdict::Go, "an abandoned round");
        assert_eq!(drained.after_closing().judge_open(n(2), n(1), id), Verdict::Go);
        assert_eq!(drained.after_closing().judge_close(n(1), id), Verdict::Done);
    }

    #[test]
    fn what_expires_is_dead_only_once_no_clock_can_show_it() {
        let sibling = |stamp, content, expiry| Sibling {
            dot: Dot::new(Actor(1), Stamp(stamp)),
            content,
            expiry,
            request: None,
        };
        let none = VersionVector::default();
        let value = || Content::Value(Bytes::from_static(b"v"));
        let expiring = Record::default().write(&none, sibling(1, value(), Some(Wall(100))));
        assert!(!is_dead(&expiring, Wall(109), 10) && is_dead(&expiring, Wall(110), 10));
        let both = expiring.write(&none, sibling(2, Content::Tombstone, None));
        assert!(!is_dead(&both, Wall(109), 10) && is_dead(&both, Wall(110), 10));
        let live = both.write(&none, sibling(3, value(), None));
        assert!(!is_dead(&live, Wall(u64::MAX), 10) && !may_die(&live) && may_die(&both));
        assert!(!is_dead(&Record::default(), Wall(u64::MAX), 10));
    }
}
