//! What is stored, looked at from outside: for people, and without changing anything.
//!
//! A worker's view may be ahead of the store (see `cells`); what is told here is what the store holds,
//! which a power cut leaves, unless durability is buffered. Damage is told, too, and starts no rebuilding: that is left to whoever reads the
//! key.

use bytes::Bytes;

use super::Worker;
use super::cells::{CellId, open_stored};
use super::rebuild::marker;
use crate::protocol::lost::lost_marker;
use crate::protocol::placement::View;
use crate::protocol::record::{Record, Sealed};
use crate::protocol::step::Space;
use crate::protocol::tree::Tree;
use crate::types::{Key, NodeName, Partition};

impl Worker {
    /// The copy that stands for a read of a key's record, if one is kept.
    #[must_use]
    pub fn remembered(&self, key: &Key) -> Option<Bytes> {
        self.recent.get(key)
    }

    /// The hash tree of what is stored of a partition, if it is known.
    #[must_use]
    pub fn tree(&self, partition: Partition) -> Option<&Tree> {
        self.trees.known(partition)
    }
}

/// What is stored in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredCopy {
    /// Nothing.
    Absent,
    /// Bytes that do not pass their checksum, or are no record.
    Damaged,
    /// A record.
    Whole(Sealed, Record),
}

/// What a node's store holds of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The key's partition.
    pub partition: Partition,
    /// Whether the node is one of the key's homes.
    pub home: bool,
    /// Whether its copy was damaged and has not been merged from all other homes since.
    pub rebuilding: bool,
    /// Its own copy.
    pub own: StoredCopy,
    /// The hints that it keeps of the key, by the home they are for; sorted.
    pub hints: Vec<(NodeName, StoredCopy)>,
}

/// A hint as it lies in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHint {
    /// The home it is kept for.
    pub target: NodeName,
    /// What is kept; never [`StoredCopy::Absent`].
    pub copy: StoredCopy,
}

/// Looks up everything that a node's store holds of a key. `get` reads the store.
///
/// # Errors
/// Those of `get`.
pub fn inspect<E>(
    view: &View,
    key: &Key,
    mut get: impl FnMut(Space, &[u8]) -> Result<Option<Bytes>, E>,
) -> Result<Inspection, E> {
    let partition = key.partition(view.partitions());
    let mut copy = |cell: &CellId| {
        let stored = get(cell.space(), &cell.store_key())?;
        Ok(stored.map_or(StoredCopy::Absent, |stored| open(cell, stored)))
    };
    let own = copy(&CellId::own(partition, key))?;
    let mut hints = Vec::new();
    for member in view.members() {
        let hint = copy(&CellId::hint(member, partition, key))?;
        if hint != StoredCopy::Absent {
            hints.push((member.clone(), hint));
        }
    }
    let rebuilding = get(Space::Meta, &marker(partition, key))?.is_some()
        || get(Space::Meta, &lost_marker(partition))?.is_some();
    let home = view.is_home(partition);
    Ok(Inspection { partition, home, rebuilding, own, hints })
}

/// Reads an entry of [`Space::Hints`]; none if its key is no hint's.
#[must_use]
pub fn read_hint(key: &Bytes, stored: Bytes) -> Option<StoredHint> {
    let cell = CellId::from_hint_key(key)?;
    let copy = open(&cell, stored);
    Some(StoredHint { target: cell.hint_for?, copy })
}

fn open(cell: &CellId, stored: Bytes) -> StoredCopy {
    match (Sealed::from_stored(stored.clone()), open_stored(cell, stored)) {
        (Ok(sealed), Ok(record)) => StoredCopy::Whole(sealed, record),
        _ => StoredCopy::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::Arc;

    use super::*;
    use crate::protocol::placement::{Member, Placement};
    use crate::protocol::record::{Content, Sibling, VersionVector};
    use crate::types::{Actor, Boot, ClusterId, Dot, NodeId, Stamp};

    fn name(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn view() -> View {
        let member = |text: &&str| Member { name: name(text), zone: String::new(), weight: 1 };
        let members = ["a", "b"].iter().map(member).collect();
        let placement = Arc::new(Placement::found(members, 2, 8));
        let ids = BTreeMap::from([(name("a"), NodeId(1)), (name("b"), NodeId(2))]);
        View::new(NodeId(1), name("a"), Boot(1), ClusterId(1), placement, ids)
    }

    #[test]
    fn own_copy_hints_damage_and_rebuilding_are_found_where_the_worker_keeps_them() {
        let (view, key) = (view(), Key::new("key").unwrap());
        let partition = key.partition(8);
        let dot = Dot::new(Actor(7), Stamp(9));
        let content = Content::Value("value".into());
        let sibling = Sibling { dot, content, expiry: None, request: None };
        let record = Record::default().write(&VersionVector::default(), sibling);
        let sealed = record.seal(partition, &key);

        let mut store: BTreeMap<(Space, Bytes), Bytes> = BTreeMap::new();
        let look = |store: &BTreeMap<(Space, Bytes), Bytes>| {
            let get = |space, key: &[u8]| {
                Ok::<_, Infallible>(store.get(&(space, Bytes::copy_from_slice(key))).cloned())
            };
            inspect(&view, &key, get).unwrap()
        };
        let nothing = look(&store);
        assert!(nothing.home && !nothing.rebuilding && nothing.hints.is_empty());
        assert_eq!(nothing.own, StoredCopy::Absent);

        let mut own = vec![0, u8::try_from(partition.0).unwrap()];
        own.extend(b"key");
        store.insert((Space::Records, own.clone().into()), sealed.stored().clone());
        let mut hint = vec![1, b'b'];
        hint.extend(&own);
        let mut damaged = sealed.stored().to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        store.insert((Space::Hints, hint.clone().into()), damaged.clone().into());
        let mark = [&b"rebuilding/"[..], &own].concat();
        store.insert((Space::Meta, mark.into()), Bytes::from_static(&[1]));
        let found = look(&store);
        assert_eq!(found.own, StoredCopy::Whole(sealed, record));
        assert_eq!(found.hints, [(name("b"), StoredCopy::Damaged)]);
        assert!(found.rebuilding);
        let read = read_hint(&hint.into(), damaged.into()).unwrap();
        assert_eq!((read.target, read.copy), (name("b"), StoredCopy::Damaged));
    }
}
