//! What a disk holds of a key, as its node has told it.

use bytes::Bytes;

use crate::proto::stored_copy::State;
use crate::proto::stored_sibling::Kind;
use crate::proto::{InspectResponse, StoredCopy, StoredSibling};
use crate::protocol::record::{Content, Record, Sibling, VersionVector};
use crate::types::{Actor, Dot, Stamp, Wall};

/// A record without the bytes of its values: enough to merge and to compare as replicas do.
pub type Writes = Record;

/// What is stored in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// Bytes that do not pass their checksum.
    Damaged,
    /// A record.
    Record(Box<HeldRecord>),
}

/// A record that passed its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRecord {
    /// What it knows.
    pub writes: Writes,
    /// Of its bytes.
    pub hash: String,
    /// As the node described its siblings, in the order of `writes`.
    pub siblings: Vec<Described>,
}

/// A sibling, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The write's name.
    pub dot: Dot,
    /// `value`, `tombstone` or `expired`.
    pub kind: &'static str,
    /// The value's size.
    pub value_bytes: u64,
    /// When it was written, by its coordinator's clock.
    pub written_ms: u64,
    /// When it expires.
    pub expires_ms: Option<u64>,
    /// The client's name for the request.
    pub request_id: Option<String>,
}

/// A node's own copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// What is stored.
    pub held: Held,
    /// Whether it was damaged and has not been merged from all other homes since.
    pub rebuilding: bool,
}

impl Held {
    /// What it knows, if it is a record.
    #[must_use]
    pub fn writes(&self) -> Option<&Writes> {
        match self {
            Self::Record(record) => Some(&record.writes),
            Self::Nothing | Self::Damaged => None,
        }
    }

    /// Reads what a node has told of one place.
    ///
    /// # Errors
    /// A sentence, if no version of ours says that.
    pub fn of(copy: Option<&StoredCopy>) -> Result<Self, String> {
        let copy = copy.ok_or("its answer lacks a copy")?;
        match copy.state() {
            State::Absent => Ok(Self::Nothing),
            State::Damaged => Ok(Self::Damaged),
            State::Record => Ok(Self::Record(Box::new(HeldRecord::of(copy)?))),
            State::Unspecified => {
                Err("its answer is of a version that this one does not know".into())
            }
        }
    }
}

impl Holding {
    /// Reads what a node has told of its own copy.
    ///
    /// # Errors
    /// A sentence, if no version of ours says that.
    pub fn of(answer: &InspectResponse) -> Result<Self, String> {
        Ok(Self { held: Held::of(answer.own.as_ref())?, rebuilding: answer.rebuilding })
    }
}

impl HeldRecord {
    fn of(copy: &StoredCopy) -> Result<Self, String> {
        let mut seen = VersionVector::default();
        for entry in &copy.seen {
            seen.add(Dot::new(Actor(entry.actor), Stamp(entry.stamp)));
        }
        let siblings = copy.siblings.iter().map(skeleton).collect();
        let writes = Record::from_parts(seen, siblings);
        let writes = writes.map_err(|error| format!("its answer is no record: {error}"))?;
        let siblings = copy.siblings.iter().map(Described::of).collect();
        Ok(Self { writes, hash: copy.hash.clone(), siblings })
    }
}

fn skeleton(told: &StoredSibling) -> Sibling {
    let content = match told.kind() {
        Kind::Tombstone => Content::Tombstone,
        Kind::Value | Kind::Expired | Kind::Unspecified => Content::Value(Bytes::new()),
    };
    let expiry = (told.expires_ms != 0).then_some(Wall(told.expires_ms));
    Sibling { dot: Dot::new(Actor(told.actor), Stamp(told.stamp)), content, expiry, request: None }
}

impl Described {
    fn of(told: &StoredSibling) -> Self {
        let request_id = <[u8; 16]>::try_from(&told.request_id[..]).ok();
        Self {
            dot: Dot::new(Actor(told.actor), Stamp(told.stamp)),
            kind: match told.kind() {
                Kind::Value => "value",
                Kind::Tombstone => "tombstone",
                Kind::Expired => "expired",
                Kind::Unspecified => "unknown",
            },
            value_bytes: told.value_bytes,
            written_ms: told.written_ms,
            expires_ms: (told.expires_ms != 0).then_some(told.expires_ms),
            request_id: request_id.map(|id| format!("{:032x}", u128::from_be_bytes(id))),
        }
    }
}
