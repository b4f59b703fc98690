//! One conformance suite for every engine: what everything above a [`Store`] relies on.
//!
//! Each claim is a function over an [`Engine`]; the macro at the end makes it a test of each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Change, Durability, FjallStore, MemoryStore, Space, Store, StoreOptions, scan_meta};

const SPACES: [Space; 3] = [Space::Records, Space::Hints, Space::Meta];

/// An engine under test.
trait Engine {
    /// Random cases that are worth their time.
    const CASES: u32;
    fn new() -> Self;
    fn store(&self) -> &dyn Store;
    /// Ends the process that uses the store, in whatever way keeps what was committed.
    fn reopen(&mut self);
}

struct Memory(MemoryStore);

impl Engine for Memory {
    const CASES: u32 = 256;
    fn new() -> Self {
        Self(MemoryStore::new())
    }
    fn store(&self) -> &dyn Store {
        &self.0
    }
    fn reopen(&mut self) {
        self.0.crash_kill();
    }
}

struct Fjall {
    folder: tempfile::TempDir,
    store: Option<FjallStore>,
}

impl Fjall {
    fn options() -> StoreOptions {
        StoreOptions { cache_bytes: 1 << 20, min_free: 0 }
    }
}

impl Engine for Fjall {
    const CASES: u32 = 12;
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FjallStore::open(folder.path(), &Self::options()).unwrap();
        Self { folder, store: Some(store) }
    }
    fn store(&self) -> &dyn Store {
        self.store.as_ref().unwrap()
    }
    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(FjallStore::open(self.folder.path(), &Self::options()).unwrap());
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(space: Space, key: &str, value: &str) -> Change {
    Change { space, key: bytes(key), value: Some(bytes(value)) }
}

fn remove(space: Space, key: &str) -> Change {
    Change { space, key: bytes(key), value: None }
}

fn commit(engine: &impl Engine, changes: &[Change]) {
    engine.store().commit(changes, Durability::Fsync).unwrap();
}

fn get(engine: &impl Engine, key: &str) -> Option<Bytes> {
    engine.store().get(Space::Records, key.as_bytes()).unwrap()
}

/// All keys that a scan in pages of `bytes_max` finds.
fn keys(engine: &impl Engine, prefix: &str, after: &str, bytes_max: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let mut after = bytes(after);
    loop {
        let store = engine.store();
        let page = store.scan(Space::Records, prefix.as_bytes(), &after, bytes_max).unwrap();
        assert!(page.done || !page.entries.is_empty(), "a page without progress");
        for (key, _) in page.entries {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            after = key;
        }
        if page.done {
            return keys;
        }
    }
}

fn what_was_put_is_read_until_it_is_overwritten_or_removed<E: Engine>() {
    let mut engine = E::new();
    assert_eq!(get(&engine, "a"), None);
    commit(&engine, &[put(Space::Records, "a", "1"), put(Space::Records, "b", "")]);
    assert_eq!(get(&engine, "a"), Some(bytes("1")));
    assert_eq!(get(&engine, "b"), Some(Bytes::new()), "an empty value is a value");
    commit(&engine, &[put(Space::Records, "a", "2"), remove(Space::Records, "b")]);
    commit(&engine, &[remove(Space::Records, "never there")]);
    for _ in 0..2 {
        assert_eq!(get(&engine, "a"), Some(bytes("2")));
        assert_eq!(get(&engine, "b"), None);
        engine.reopen();
    }
}

fn the_changes_of_a_batch_apply_in_order<E: Engine>() {
    let mut engine = E::new();
    let r = Space::Records;
    commit(&engine, &[put(r, "a", "1"), put(r, "a", "2"), remove(r, "b"), put(r, "b", "3")]);
    commit(&engine, &[put(r, "c", "1"), remove(r, "c")]);
    for _ in 0..2 {
        assert_eq!(get(&engine, "a"), Some(bytes("2")));
        assert_eq!(get(&engine, "b"), Some(bytes("3")));
        assert_eq!(get(&engine, "c"), None);
        engine.reopen();
    }
}

fn spaces_do_not_mix<E: Engine>() {
    let mut engine = E::new();
    let changes: Vec<_> = SPACES.iter().map(|s| put(*s, "key", &format!("{s:?}"))).collect();
    commit(&engine, &changes);
    commit(&engine, &[remove(Space::Hints, "key")]);
    for _ in 0..2 {
        assert_eq!(get(&engine, "key"), Some(bytes("Records")));
        assert_eq!(engine.store().get(Space::Hints, b"key").unwrap(), None);
        assert_eq!(engine.store().get(Space::Meta, b"key").unwrap(), Some(bytes("Meta")));
        engine.reopen();
    }
}

fn a_scan_is_in_order_of_bytes_and_keeps_to_its_prefix<E: Engine>() {
    let engine = E::new();
    let names = ["a", "a\0", "a1", "aa", "ab", "b", "\x7f"];
    let changes: Vec<_> = names.iter().rev().map(|k| put(Space::Records, k, "v")).collect();
    commit(&engine, &changes);
    assert_eq!(keys(&engine, "", "", 1000), names);
    assert_eq!(keys(&engine, "a", "", 1000), &names[..5]);
    assert_eq!(keys(&engine, "a", "a1", 1000), &names[3..5]);
    assert_eq!(keys(&engine, "a", "A", 1000), &names[..5], "`after` before the prefix");
    assert_eq!(keys(&engine, "a", "b", 1000), Vec::<String>::new(), "`after` behind the prefix");
    assert_eq!(keys(&engine, "c", "", 1000), Vec::<String>::new());
}

fn a_prefix_of_highest_bytes_has_an_end<E: Engine>() {
    let engine = E::new();
    let all: [&[u8]; 4] = [&[0xfe, 0xff], &[0xff], &[0xff, 0xff], &[0xff, 0xff, 1]];
    for key in all {
        let value = Some(Bytes::new());
        let key = Bytes::copy_from_slice(key);
        commit(&engine, &[Change { space: Space::Records, key, value }]);
    }
    let scan = |prefix: &[u8], after: &[u8]| {
        let page = engine.store().scan(Space::Records, prefix, after, 1000).unwrap();
        page.entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(scan(&[0xff], &[]), &all[1..]);
    assert_eq!(scan(&[0xfe, 0xff], &[]), &all[..1]);
    assert_eq!(scan(&[0xff, 0xff], &[0xff, 0xff]), &all[3..]);
}

fn pages_end_at_their_bytes_and_say_whether_anything_is_left<E: Engine>() {
    let engine = E::new();
    let changes: Vec<_> =
        (0..9).map(|n| put(Space::Records, &format!("k{n}"), "12345678")).collect();
    commit(&engine, &changes);
    let page = |after: &str, bytes_max| {
        let store = engine.store();
        let page = store.scan(Space::Records, b"k", after.as_bytes(), bytes_max).unwrap();
        (page.entries.len(), page.done)
    };
    assert_eq!(page("", 30), (3, false), "three entries are 30 bytes");
    assert_eq!(page("", 29), (2, false));
    assert_eq!(page("", 0), (1, false), "at least one entry");
    assert_eq!(page("k5", 30), (3, true), "exactly the rest");
    assert_eq!(page("k8", 30), (0, true));
    for bytes_max in [0, 10, 25, 1000] {
        assert_eq!(keys(&engine, "k", "", bytes_max).len(), 9);
    }
}

fn a_page_is_a_snapshot_of_whole_batches<E: Engine + Sync>() {
    let engine = E::new();
    let batch = |n: u32| -> Vec<Change> {
        let value = n.to_string();
        (0..40).map(|k| put(Space::Records, &format!("{k:02}"), &value)).collect()
    };
    commit(&engine, &batch(0));
    let seen_enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The writer goes on until the reader has seen it at work, however late either is run.
        scope.spawn(|| {
            for n in 1..u32::MAX {
                if seen_enough.load(Ordering::Acquire) {
                    break;
                }
                engine.store().commit(&batch(n), Durability::Buffered).unwrap();
            }
        });
        let until = Instant::now() + Duration::from_secs(30);
        let mut seen = std::collections::BTreeSet::new();
        let mut torn = false;
        while seen.len() < 20 && !torn && Instant::now() < until {
            let page = engine.store().scan(Space::Records, b"", b"", 1 << 20).unwrap();
            let first = page.entries[0].1.clone();
            torn = page.entries.len() != 40 || page.entries.iter().any(|(_, v)| *v != first);
            seen.insert(first);
        }
        seen_enough.store(true, Ordering::Release);
        assert!(!torn, "half a batch");
        assert!(seen.len() > 1, "nothing changed while it was scanned");
    });
}

fn what_was_committed_survives_reopening_whatever_its_durability<E: Engine>() {
    let mut engine = E::new();
    for n in 0..20 {
        let durability = if n % 2 == 0 { Durability::Fsync } else { Durability::Buffered };
        let change = put(Space::Records, &format!("{n:02}"), &"x".repeat(n * 100));
        engine.store().commit(&[change], durability).unwrap();
        if n % 7 == 3 {
            engine.reopen();
        }
    }
    engine.store().sync().unwrap();
    engine.reopen();
    assert_eq!(keys(&engine, "", "", 1 << 20).len(), 20);
    assert_eq!(get(&engine, "19").unwrap().len(), 1900);
}

fn an_empty_batch_changes_nothing<E: Engine>() {
    let engine = E::new();
    commit(&engine, &[]);
    assert_eq!(keys(&engine, "", "", 1000), Vec::<String>::new());
}

fn a_key_that_no_engine_takes_is_a_mistake_of_ours<E: Engine>() {
    let engine = E::new();
    for key in [vec![], vec![1; 65_536]] {
        let change = Change { space: Space::Records, key: key.into(), value: None };
        let store = std::panic::AssertUnwindSafe(engine.store());
        let refused = std::panic::catch_unwind(|| store.commit(&[change], Durability::Fsync));
        assert!(refused.is_err());
    }
    let change = |value| Change { space: Space::Records, key: vec![1; 65_535].into(), value };
    commit(&engine, &[change(Some(bytes("longest")))]);
    let found = engine.store().get(Space::Records, &vec![1; 65_535]).unwrap();
    assert_eq!(found, Some(bytes("longest")));
    commit(&engine, &[change(None)]);
}

fn names_are_scanned_over_pages<E: Engine>() {
    let engine = E::new();
    let value = "v".repeat(400_000);
    let changes: Vec<_> = (0..7).map(|n| put(Space::Meta, &format!("a/{n}"), &value)).collect();
    commit(&engine, &changes);
    commit(&engine, &[put(Space::Meta, "b", "other"), put(Space::Records, "a/8", "other")]);
    let found = scan_meta(engine.store(), b"a/").unwrap();
    let names: Vec<_> = found.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(names, (0..7).map(|n| bytes(&format!("a/{n}"))).collect::<Vec<_>>());
    assert!(found.iter().all(|(_, found)| found.len() == value.len()));
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(usize, Vec<u8>, Option<Vec<u8>>)>, bool),
    Scan(usize, Vec<u8>, Vec<u8>, usize),
    Sync,
    Reopen,
}

/// Short keys of few bytes, the extreme ones among them, so that histories meet.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, 1, 0x7f, 0xff]), 1..4)
}

fn any_step() -> impl Strategy<Value = Step> {
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..30));
    let changes = prop::collection::vec((0..3usize, any_key(), value), 0..12);
    let edge = prop::collection::vec(prop::sample::select(vec![0, 1, 0xff]), 0..3);
    prop_oneof![
        6 => (changes, any::<bool>()).prop_map(|(changes, sync)| Step::Commit(changes, sync)),
        6 => (0..3usize, edge.clone(), edge, 0..60usize)
            .prop_map(|(space, prefix, after, max)| Step::Scan(space, prefix, after, max)),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ]
}

type Model = [BTreeMap<Vec<u8>, Vec<u8>>; 3];

fn check_scan(store: &dyn Store, model: &Model, step: (usize, &[u8], &[u8], usize)) {
    let (space, prefix, after, bytes_max) = step;
    let page = store.scan(SPACES[space], prefix, after, bytes_max).unwrap();
    let expected: Vec<_> = model[space]
        .iter()
        .filter(|(key, _)| key.starts_with(prefix) && key.as_slice() > after)
        .collect();
    let mut bytes = 0;
    let fits = |(key, value): &&(&Vec<u8>, &Vec<u8>)| {
        let first = bytes == 0;
        bytes += key.len() + value.len();
        first || bytes <= bytes_max
    };
    let count = expected.iter().take_while(fits).count();
    assert_eq!(page.done, count == expected.len());
    assert_eq!(page.entries.len(), count);
    for ((key, value), (key_expected, value_expected)) in page.entries.iter().zip(expected) {
        assert_eq!(
            (key, value),
            (&Bytes::from(key_expected.clone()), &Bytes::from(value_expected.clone()))
        );
    }
}

fn random_histories_are_those_of_a_naive_model<E: Engine>() {
    let config =
        ProptestConfig { cases: E::CASES, failure_persistence: None, ..Default::default() };
    let history = prop::collection::vec(any_step(), 1..40);
    let run = |steps: Vec<Step>| {
        let mut engine = E::new();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Commit(changes, sync) => {
                    let durability = if sync { Durability::Fsync } else { Durability::Buffered };
                    let mut batch = Vec::new();
                    for (space, key, value) in changes {
                        batch.push(Change {
                            space: SPACES[space],
                            key: key.clone().into(),
                            value: value.clone().map(Bytes::from),
                        });
                        match value {
                            Some(value) => drop(model[space].insert(key, value)),
                            None => drop(model[space].remove(&key)),
                        }
                    }
                    engine.store().commit(&batch, durability).unwrap();
                }
                Step::Scan(space, prefix, after, max) => {
                    check_scan(engine.store(), &model, (space, &prefix, &after, max));
                }
                Step::Sync => engine.store().sync().unwrap(),
                Step::Reopen => engine.reopen(),
            }
        }
        for (space, map) in SPACES.iter().zip(&model) {
            for (key, value) in map {
                let found = engine.store().get(*space, key).unwrap();
                assert_eq!(found.as_deref(), Some(value.as_slice()));
            }
        }
        Ok(())
    };
    TestRunner::new(config).run(&history, run).unwrap();
}

macro_rules! suite {
    ($($claim:ident)*) => {
        mod memory {
            $(#[test] fn $claim() { super::$claim::<super::Memory>(); })*
        }
        mod fjall {
            $(#[test] fn $claim() { super::$claim::<super::Fjall>(); })*
        }
    };
}
suite! {
    what_was_put_is_read_until_it_is_overwritten_or_removed
    the_changes_of_a_batch_apply_in_order
    spaces_do_not_mix
    a_scan_is_in_order_of_bytes_and_keeps_to_its_prefix
    a_prefix_of_highest_bytes_has_an_end
    pages_end_at_their_bytes_and_say_whether_anything_is_left
    a_page_is_a_snapshot_of_whole_batches
    what_was_committed_survives_reopening_whatever_its_durability
    an_empty_batch_changes_nothing
    a_key_that_no_engine_takes_is_a_mistake_of_ours
    names_are_scanned_over_pages
    random_histories_are_those_of_a_naive_model
}
