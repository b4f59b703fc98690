//! Looking at what is stored, for operators: on other threads, since it may have to wait for the
//! disk, and without a word to the workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::api::backend::{HintsHeld, TargetHints};
use crate::protocol::placement::View;
use crate::protocol::step::ReadFailed;
use crate::protocol::worker::inspect::{Inspection, StoredCopy, inspect, read_hint};
use crate::store::{Space, Store, StoreError};
use crate::types::{Key, NodeName};

/// Bytes of hints that are read at a time.
const PAGE_BYTES: usize = 1 << 20;

/// Everything that is stored of a key.
pub(super) async fn key(
    store: Arc<dyn Store>,
    view: Arc<View>,
    key: Key,
) -> Result<Inspection, ReadFailed> {
    elsewhere(move || inspect(&view, &key, |space, key| store.get(space, key))).await
}

/// Counts the hints of all targets.
pub(super) async fn hints(store: Arc<dyn Store>, limit: Duration) -> Result<HintsHeld, ReadFailed> {
    elsewhere(move || count(&*store, Instant::now() + limit)).await
}

async fn elsewhere<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ReadFailed> {
    let looked = tokio::task::spawn_blocking(look).await;
    let looked =
        looked.map_err(|error| tracing::error!(%error, "what is stored was not looked at"));
    let found = looked.map_err(|()| ReadFailed)?;
    found.map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, source, "the store could not be read");
        ReadFailed
    })
}

fn count(store: &dyn Store, until: Instant) -> Result<HintsHeld, StoreError> {
    let mut targets: BTreeMap<NodeName, TargetHints> = BTreeMap::new();
    let mut after = Bytes::new();
    loop {
        let page = store.scan(Space::Hints, b"", &after, PAGE_BYTES)?;
        for (key, stored) in &page.entries {
            add(&mut targets, key, stored);
        }
        let last = page.entries.last().map(|entry| entry.0.clone());
        let complete = page.done || last.is_none();
        if complete || Instant::now() >= until {
            return Ok(HintsHeld { targets: targets.into_values().collect(), complete });
        }
        after = last.unwrap_or_default();
    }
}

fn add(targets: &mut BTreeMap<NodeName, TargetHints>, key: &Bytes, stored: &Bytes) {
    let Some(hint) = read_hint(key, stored.clone()) else { return };
    let held = targets.entry(hint.target.clone()).or_insert_with(|| TargetHints {
        target: hint.target,
        hints: 0,
        bytes: 0,
        damaged: 0,
        oldest_write: None,
    });
    held.hints += 1;
    held.bytes += stored.len() as u64;
    match hint.copy {
        StoredCopy::Whole(_, record) => {
            let writes = record.siblings().iter().map(|sibling| sibling.dot.stamp.wall());
            held.oldest_write = held.oldest_write.into_iter().chain(writes).min();
        }
        StoredCopy::Absent | StoredCopy::Damaged => held.damaged += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::{Content, Record, Sibling, VersionVector};
    use crate::store::{Change, Durability, MemoryStore};
    use crate::types::{Actor, Dot, Partition, Stamp, Wall};

    fn hint(target: &str, key: &str, wall: u64) -> Change {
        let dot = Dot::new(Actor(1), Stamp::at(Wall(wall)));
        let content = Content::Value("value".into());
        let sibling = Sibling { dot, content, expiry: None, request: None };
        let record = Record::default().write(&VersionVector::default(), sibling);
        let sealed = record.seal(Partition(3), &Key::new(key.to_owned()).unwrap());
        let mut at = vec![u8::try_from(target.len()).unwrap()];
        at.extend(target.as_bytes());
        at.extend([0, 3]);
        at.extend(key.as_bytes());
        Change { space: Space::Hints, key: at.into(), value: Some(sealed.stored().clone()) }
    }

    #[test]
    fn hints_are_counted_by_target_with_their_damage_and_their_oldest_write() {
        let store = MemoryStore::new();
        let mut damaged = hint("b", "third", 1);
        let bytes = damaged.value.take().unwrap();
        damaged.value = Some(bytes.slice(..bytes.len() - 1));
        let changes = [hint("b", "first", 50), hint("b", "second", 40), damaged, hint("c", "k", 9)];
        store.commit(&changes, Durability::Fsync).unwrap();
        let held = count(&store, Instant::now() + Duration::from_secs(60)).unwrap();
        assert!(held.complete);
        let told: Vec<_> = held
            .targets
            .iter()
            .map(|t| (t.target.as_str(), t.hints, t.damaged, t.oldest_write))
            .collect();
        assert_eq!(told, [("b", 3, 1, Some(Wall(40))), ("c", 1, 0, Some(Wall(9)))]);
        let bytes: usize = changes.iter().map(|c| c.value.as_ref().unwrap().len()).sum();
        assert_eq!(held.targets.iter().map(|t| t.bytes).sum::<u64>(), bytes as u64);
    }

    #[test]
    fn a_count_that_runs_out_of_time_says_that_it_is_not_complete() {
        let store = MemoryStore::new();
        let large = vec![0; PAGE_BYTES];
        let mut changes = vec![];
        for key in ["first", "second"] {
            let mut change = hint("b", key, 1);
            change.value = Some(large.clone().into());
            changes.push(change);
        }
        store.commit(&changes, Durability::Fsync).unwrap();
        let held = count(&store, Instant::now()).unwrap();
        assert!(!held.complete);
        assert_eq!(held.targets[0].hints, 1);
    }
}
