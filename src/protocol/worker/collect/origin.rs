//! How a disk came to what it holds: what that says of rounds that closed without it is told in [`super::newcomer`].

use bytes::{BufMut, Bytes, BytesMut};

use super::super::Worker;
use super::PREFIX;
use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::protocol::placement::View;
use crate::protocol::step::{Effect, Page};
use crate::types::{NodeId, Partition};

/// What follows [`PREFIX`] in the key under which it is marked how this disk has joined: no
/// partition's, which has two bytes.
const JOINED: &[u8] = b"joined";

/// How a disk came to what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It has always been in its place; or something is left on it of what it held under another id, whose
    /// rounds it knows.
    Old,
    /// It began with nothing, when it joined or took the place of another.
    New,
    /// It has joined again: something may be left of before.
    Again,
}

/// How a disk has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Joined {
    id: NodeId,
    /// The number of the version that it joined with; none: it joined again with a later one, so that
    /// something may be left of before.
    version: Option<u32>,
}

impl Worker {
    pub(super) fn origin(&self) -> Origin {
        let Some(view) = self.view.as_ref().filter(|view| !view.has_past) else {
            return Origin::Old;
        };
        match self.collect.joined.filter(|joined| joined.id == view.me) {
            Some(Joined { version: Some(_), .. }) => Origin::New,
            Some(Joined { version: None, .. }) => Origin::Again,
            None if view.is_replacement => Origin::New,
            None => Origin::Old,
        }
    }

    /// Whether all that is held of a partition came to this disk since it has its id, and no round of the
    /// partition was opened here since: then what is held is of what others brought, or new. Only what shows
    /// that counts: that it has joined, or took the place of another. Any other disk that does not know a closed round
    /// may have been set back.
    pub(super) fn is_newcomer_to(&self, partition: Partition) -> bool {
        self.origin() == Origin::New && !self.collect.has_opened(partition)
    }

    /// A member of a live version, and not of the oldest, has just joined.
    pub(super) fn mark_joined(&mut self, view: &View, out: &mut Vec<Effect>) {
        if view.has_past || view.oldest().my_member().is_some() {
            return;
        }
        let Some(first) = view.live().iter().find(|version| version.my_member().is_some()) else {
            return;
        };
        let (id, first) = (view.me, first.tag().number);
        let version = match self.collect.joined {
            Some(joined) if joined.id == id => joined.version.filter(|&number| number == first),
            _ => Some(first),
        };
        let joined = Joined { id, version };
        if self.collect.joined != Some(joined) {
            self.collect.joined = Some(joined);
            self.collect.newcomers.begin_again();
            self.commit_meta([PREFIX, JOINED].concat().into(), Some(joined.encode()), out);
        }
    }

    /// At the start: whether this disk has joined.
    pub(super) fn find_joined(&mut self, page: &Page) {
        let mark = page.entries.iter().find(|(key, _)| key.strip_prefix(PREFIX) == Some(JOINED));
        if let Some(joined) = mark.and_then(|(_, value)| Joined::decode(value.clone()).ok()) {
            self.collect.joined = Some(joined);
        }
    }
}

impl Joined {
    fn encode(self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u128_le(self.id.0);
        out.bool(self.version.is_some());
        out.varint(self.version.unwrap_or_default().into());
        out.freeze()
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let (id, is_first) = (NodeId(r.u128()?), r.bool()?);
        let number = u32::try_from(r.varint()?).map_err(|_| DecodeError::Malformed("joined"))?;
        r.end()?;
        Ok(Self { id, version: is_first.then_some(number) })
    }
}
