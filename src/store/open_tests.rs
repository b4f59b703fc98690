//! Starts from folders in every state that a disk or an operator may leave them in.
//!
//! Closing the engine syncs it, so a folder that was closed proves nothing. What a kill leaves is
//! had by copying the folder while it is in use; what a power cut or a bad disk leaves, by
//! changing the copy.

use std::fs;
use std::sync::mpsc::channel;
use std::time::Duration;

use proptest::prelude::*;

use super::super::{Change, Committer, Completion, Durability, Submission};
use super::*;
use crate::types::Stamp;

const OPTIONS: StoreOptions = StoreOptions { cache_bytes: 1 << 20, min_free: 0 };

fn name() -> NodeName {
    NodeName::new("node-0").unwrap()
}

fn reopen(path: &Path) -> Result<Opened, OpenError> {
    open(path, &name(), &OPTIONS)
}

/// A node's folder, in use.
struct Node {
    folder: tempfile::TempDir,
    store: Arc<FjallStore>,
    committer: Committer,
    _data: DataFolder,
}

fn key(id: u64) -> Bytes {
    format!("key {id:04}").into()
}

fn value(id: u64) -> Bytes {
    vec![u8::try_from(id).unwrap(); 100].into()
}

impl Node {
    /// A node that has acknowledged the submissions 1 to `count`, one a commit.
    fn with(count: u64, durability: Durability) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let opened = reopen(folder.path()).unwrap();
        assert_eq!(opened.recovered, CommitPoint::default());
        let (report, reports) = channel();
        let complete = move |done: &[Completion]| drop(report.send(done.to_vec()));
        let store: Arc<dyn Store> = Arc::<FjallStore>::clone(&opened.store);
        let start = opened.recovered;
        let committer = Committer::start(store, durability, opened.mark, start, complete).unwrap();
        for id in 1..=count {
            let value = Some(value(id));
            let changes = vec![Change { space: Space::Records, key: key(id), value }];
            committer.submit(Submission { source: 0, id, changes, clock: Stamp(id) });
            let report = reports.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(report, [Completion::Done { source: 0, through: id }]);
        }
        Self { folder, store: opened.store, committer, _data: opened.folder }
    }

    /// What a kill of the process would leave now.
    fn killed(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(self.folder.path(), copy.path());
        copy
    }

    /// The same with the mark where the last commit is.
    fn killed_later(&self) -> tempfile::TempDir {
        let mark = self.folder.path().join("MARK");
        for _ in 0..1000 {
            if Mark::open(&mark).unwrap().unwrap().at().number == self.committer.synced() {
                return self.killed();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the mark does not follow");
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The journal of a folder, and its bytes without the zeros at its end.
fn journal(folder: &Path) -> (PathBuf, Vec<u8>) {
    let files = fs::read_dir(folder.join("engine")).unwrap().map(|entry| entry.unwrap().path());
    let path = files.filter(|path| path.extension().is_some_and(|e| e == "jnl")).max().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end);
    (path, bytes)
}

/// Where the record of a submission lies in a journal.
fn position(journal: &[u8], id: u64) -> usize {
    let key = key(id);
    journal.windows(key.len()).position(|window| *window == *key).unwrap()
}

fn loss(folder: &Path) -> Loss {
    match reopen(folder) {
        Err(OpenError::Amnesia(amnesia)) => amnesia.loss,
        Err(other) => panic!("{other}: {:?}", std::error::Error::source(&other)),
        Ok(opened) => panic!("served from {:?}", opened.recovered),
    }
}

fn recovered(folder: &Path) -> (u64, usize) {
    let opened = reopen(folder).unwrap();
    let page = opened.store.scan(Space::Records, b"", b"", usize::MAX).unwrap();
    (opened.recovered.number.0, page.entries.len())
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_whatever_the_durability() {
    for durability in [Durability::Fsync, Durability::Buffered] {
        let node = Node::with(25, durability);
        let copy = node.killed();
        let opened = reopen(copy.path()).unwrap();
        let point = CommitPoint { number: CommitNumber(25), clock: Stamp(25) };
        assert_eq!(opened.recovered, point);
        for id in 1..=25 {
            let found = opened.store.get(Space::Records, &key(id)).unwrap();
            assert_eq!(found.as_deref(), Some(&value(id)[..]));
        }
        assert_eq!(opened.folder.generation().0, 2);
    }
}

#[test]
fn a_folder_in_use_is_not_opened_twice() {
    let node = Node::with(1, Durability::Fsync);
    let refused = reopen(node.folder.path());
    assert!(matches!(refused, Err(OpenError::Folder(FolderError::Locked { .. }))));
}

#[test]
fn a_torn_last_write_that_nobody_was_promised_is_dropped() {
    let node = Node::with(8, Durability::Fsync);
    let copy = node.killed();
    let (path, bytes) = journal(copy.path());
    fs::copy(copy.path().join("MARK"), copy.path().join("mark before")).unwrap();
    // The last commit's acknowledgement is taken back: its mark and its end.
    for torn in [bytes.len() - 1, bytes.len() - 20, position(&bytes, 8)] {
        let folder = node.killed();
        Mark::create(
            &folder.path().join("MARK"),
            CommitPoint { number: CommitNumber(7), clock: Stamp(7) },
        )
        .unwrap();
        fs::write(folder.path().join("engine").join(path.file_name().unwrap()), &bytes[..torn])
            .unwrap();
        assert_eq!(recovered(folder.path()), (7, 7), "torn at {torn} of {}", bytes.len());
        assert_eq!(recovered(folder.path()), (7, 7), "and once more");
    }
}

#[test]
fn a_torn_last_write_that_looks_whole_is_set_aside_and_does_not_keep_the_node_down() {
    let node = Node::with(8, Durability::Fsync);
    let folder = node.killed();
    let (path, mut bytes) = journal(folder.path());
    let spoilt = position(&bytes, 8) + 40;
    bytes[spoilt] ^= 0xff;
    fs::write(&path, &bytes).unwrap();
    let at = CommitPoint { number: CommitNumber(7), clock: Stamp(7) };
    Mark::create(&folder.path().join("MARK"), at).unwrap();
    assert_eq!(recovered(folder.path()), (7, 7));
    let aside = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
    let aside: Vec<_> =
        aside.filter(|e| e.file_name().to_string_lossy().starts_with("torn-")).collect();
    assert_eq!(aside.len(), 1);
    let kept = fs::read(aside[0].path()).unwrap();
    assert!(bytes.ends_with(&kept) && kept.len() > 100);
}

#[test]
fn damage_in_the_middle_of_the_journal_is_amnesia_even_before_the_mark_has_followed() {
    let node = Node::with(20, Durability::Fsync);
    for (offset, damage) in [(0, 0x40), (40, 0xff), (-20, 0xff)] {
        let folder = node.killed();
        let low = CommitPoint { number: CommitNumber(3), clock: Stamp(3) };
        Mark::create(&folder.path().join("MARK"), low).unwrap();
        let (path, mut bytes) = journal(folder.path());
        let spoilt = position(&bytes, 10).checked_add_signed(offset).unwrap();
        bytes[spoilt] ^= damage;
        fs::write(&path, &bytes).unwrap();
        let found = loss(folder.path());
        assert!(matches!(found, Loss::DamagedJournal { .. }), "{found}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "the evidence was changed");
        loss(folder.path());
    }
}

#[test]
fn a_damaged_order_of_batches_is_noticed_although_their_checksums_fit() {
    let node = Node::with(20, Durability::Fsync);
    // The sequence number's lowest and highest byte lie 29 and 22 bytes before the key.
    for (id, before, flip) in [(10, 29, 0x40), (10, 22, 0x01), (20, 22, 0x77)] {
        let folder = node.killed_later();
        let (path, mut bytes) = journal(folder.path());
        let spoilt = position(&bytes, id) - before;
        bytes[spoilt] ^= flip;
        fs::write(&path, &bytes).unwrap();
        let found = loss(folder.path());
        assert!(matches!(found, Loss::DisorderedJournal { .. }), "{found}");
    }
}

#[test]
fn a_hole_in_buffered_writes_is_no_amnesia_for_none_of_them_was_promised() {
    let folder = tempfile::tempdir().unwrap();
    let opened = reopen(folder.path()).unwrap();
    // As the committer would before its first sync, however long that takes.
    for id in 1..=20 {
        let point = CommitPoint { number: CommitNumber(id), clock: Stamp(id) };
        let point = BatchPoint { point, synced: CommitNumber(0) }.encode();
        let record = Change { space: Space::Records, key: key(id), value: Some(value(id)) };
        let point = Change { space: Space::Meta, key: COMMIT_KEY.into(), value: Some(point) };
        opened.store.commit(&[record, point], Durability::Buffered).unwrap();
    }
    drop(opened);
    let (path, mut bytes) = journal(folder.path());
    let spoilt = position(&bytes, 10) - 21;
    bytes[spoilt] = 0x77;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(recovered(folder.path()), (9, 9));
}

#[test]
fn a_journal_that_ends_short_of_the_mark_is_amnesia() {
    let node = Node::with(12, Durability::Fsync);
    let folder = node.killed_later();
    let (path, bytes) = journal(folder.path());
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    for _ in 0..2 {
        let found = loss(folder.path());
        let (recovered, marked) = (CommitNumber(11), CommitNumber(12));
        assert!(
            matches!(found, Loss::Short { recovered: r, marked: m } if (r, m) == (recovered, marked)),
            "{found}"
        );
    }
}

#[test]
fn amnesia_says_what_happened() {
    let node = Node::with(3, Durability::Fsync);
    let folder = node.killed_later();
    fs::remove_dir_all(folder.path().join("engine")).unwrap();
    let error = reopen(folder.path()).unwrap_err().to_string();
    assert!(error.contains("recovered up to commit 0, but had reached 3"), "{error}");
    assert!(error.contains("acknowledged") && error.contains("other replicas hold"), "{error}");
    assert!(!folder.path().join("engine").exists(), "an empty engine was made");
}

#[test]
fn a_mark_that_is_gone_or_damaged_is_amnesia() {
    let node = Node::with(3, Durability::Fsync);
    let folder = node.killed_later();
    let mark = folder.path().join("MARK");
    fs::remove_file(&mark).unwrap();
    assert!(matches!(loss(folder.path()), Loss::NoMark { recovered: CommitNumber(3) }));
    assert!(!mark.exists(), "a new mark was made");
    fs::write(&mark, [7; 9000]).unwrap();
    assert!(matches!(loss(folder.path()), Loss::DamagedMark(_)));
}

#[test]
fn a_list_of_tables_that_is_gone_or_damaged_or_not_the_newest_is_amnesia() {
    type Damage = fn(&Path);
    let node = Node::with(3, Durability::Fsync);
    let damages: [(&str, Damage); 5] = [
        ("current is gone", |folder| fs::remove_file(folder.join("current")).unwrap()),
        ("current is cut", |folder| fs::write(folder.join("current"), [0; 24]).unwrap()),
        ("another version", |folder| flip(&folder.join("current"), 0)),
        ("another checksum", |folder| flip(&folder.join("current"), 20)),
        ("the list itself", |folder| flip(&folder.join("v0"), 30)),
    ];
    // That of the records: nothing else of the store would miss them.
    let keyspace = "engine/keyspaces/1";
    for (what, damage) in damages {
        let copy = node.killed_later();
        damage(&copy.path().join(keyspace));
        let before = fs::read_dir(copy.path().join(keyspace)).unwrap().count();
        let found = loss(copy.path());
        assert!(matches!(found, Loss::DamagedManifest { .. }), "{what}: {found}");
        assert!(found.to_string().contains(keyspace), "{what}: {found}");
        let after = fs::read_dir(copy.path().join(keyspace)).unwrap().count();
        assert_eq!(before, after, "{what}: the folder is not as it was");
    }
    assert_eq!(recovered(node.killed_later().path()), (3, 3));
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_commit_number_that_is_gone_or_damaged_is_amnesia() {
    let node = Node::with(3, Durability::Fsync);
    for value in [None, Some(Bytes::from_static(b"who knows"))] {
        let change = Change { space: Space::Meta, key: COMMIT_KEY.into(), value: value.clone() };
        node.store.commit(&[change], Durability::Fsync).unwrap();
        let found = loss(node.killed().path());
        match value {
            None => assert!(matches!(found, Loss::NoNumber), "{found}"),
            Some(_) => assert!(matches!(found, Loss::DamagedNumber(_)), "{found}"),
        }
    }
}

const NEXT: NodeId = NodeId(0x00ff);
const SAYS: &[u8] = b"says what it is now";

fn begin(_: &[(Bytes, Bytes)], has_past: bool, before: NodeId) -> (NodeId, Vec<Change>) {
    let value = Some([&before.0.to_le_bytes()[..], &[has_past.into()]].concat().into());
    (NEXT, vec![Change { space: Space::Meta, key: SAYS.into(), value }])
}

fn says(opened: &Opened) -> Option<Bytes> {
    opened.store.get(Space::Meta, SAYS).unwrap()
}

/// What a disk can do to a folder, and how many records are left then.
type Damage = (fn(&Path), usize);

const DAMAGES: [Damage; 4] = [
    (|folder| fs::remove_dir_all(folder.join("engine")).unwrap(), 0),
    (|folder| fs::remove_file(folder.join("MARK")).unwrap(), 12),
    (|folder| fs::write(folder.join("MARK"), [7; 9000]).unwrap(), 12),
    (
        |folder| {
            let (path, mut bytes) = journal(folder);
            let spoilt = position(&bytes, 6);
            bytes[spoilt] ^= 0x40;
            fs::write(&path, &bytes).unwrap();
        },
        0,
    ),
];

#[test]
fn a_folder_that_lost_writes_goes_on_as_another_disk_with_what_is_left() {
    let node = Node::with(12, Durability::Fsync);
    for (at, (damage, left)) in DAMAGES.into_iter().enumerate() {
        let folder = node.killed_later();
        damage(folder.path());
        let (opened, loss) = open_anew(folder.path(), &name(), &OPTIONS, &begin).unwrap();
        assert!(loss.is_some(), "damage {at} was not noticed");
        assert_eq!(opened.folder.id(), NEXT);
        let before = says(&opened).expect("it says what it is now");
        assert_ne!(before[..16], NEXT.0.to_le_bytes());
        assert_eq!(before[16] == 1, left > 0, "damage {at}: whether anything is left");
        let at_start = opened.recovered;
        drop(opened);
        // From now on it is a folder like any other.
        let (opened, loss) = open_anew(folder.path(), &name(), &OPTIONS, &begin).unwrap();
        assert!(loss.is_none(), "damage {at}: {loss:?}");
        assert_eq!((opened.folder.id(), opened.recovered), (NEXT, at_start));
        let page = opened.store.scan(Space::Records, b"", b"", usize::MAX).unwrap();
        assert_eq!(page.entries.len(), left, "damage {at}");
    }
}

#[test]
fn a_folder_that_is_set_aside_keeps_its_records_and_goes_on_as_an_empty_disk() {
    let node = Node::with(12, Durability::Fsync);
    let folder = node.killed_later();
    let aside = set_aside(reopen(folder.path()).unwrap()).unwrap();
    let kept = FjallStore::open(&aside, &OPTIONS).unwrap();
    assert_eq!(kept.scan(Space::Records, b"", b"", usize::MAX).unwrap().entries.len(), 12);
    let (opened, loss) = open_anew(folder.path(), &name(), &OPTIONS, &begin).unwrap();
    assert!(loss.is_some());
    assert_eq!(opened.folder.id(), NEXT);
    assert!(opened.store.scan(Space::Records, b"", b"", usize::MAX).unwrap().entries.is_empty());
}

#[test]
fn a_crash_while_a_folder_becomes_another_disk_is_made_good_at_the_next_start() {
    let node = Node::with(12, Durability::Fsync);
    for (at, (damage, _)) in DAMAGES.into_iter().enumerate() {
        // What is written last is taken back: the mark, then the identity as well.
        for undone in [&["MARK"][..], &["MARK", "IDENTITY"]] {
            let folder = node.killed_later();
            damage(folder.path());
            let kept = undone.iter().map(|file| (file, fs::read(folder.path().join(file)).ok()));
            let kept: Vec<_> = kept.collect();
            drop(open_anew(folder.path(), &name(), &OPTIONS, &begin).unwrap());
            for (file, bytes) in kept {
                let path = folder.path().join(file);
                match bytes {
                    Some(bytes) => fs::write(path, bytes).unwrap(),
                    None => fs::remove_file(path).unwrap(),
                }
            }
            let (opened, _) = open_anew(folder.path(), &name(), &OPTIONS, &begin).unwrap();
            assert!(says(&opened).is_some(), "damage {at}: it would be served as it was");
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let change = |value| [Change { space: Space::Records, key: key(1), value: Some(value) }];
    let store = FjallStore::open(path, &OPTIONS).unwrap();
    store.commit(&change(Bytes::from_static(b"old")), Durability::Fsync).unwrap();
    drop(store);
    let store = FjallStore::open(path, &StoreOptions { min_free: u64::MAX, ..OPTIONS }).unwrap();
    let refused = store.commit(&change(Bytes::from_static(b"new")), Durability::Fsync);
    let Err(StoreError::Full { free, needed: u64::MAX }) = refused else { panic!("{refused:?}") };
    assert!(free > 0 && free < u64::MAX, "{free}");
    assert_eq!(store.get(Space::Records, &key(1)).unwrap(), Some(Bytes::from_static(b"old")));
}

#[test]
fn restarts_go_on_counting_and_keep_everything() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = CommitPoint::default();
    for round in 1..=4 {
        let opened = reopen(folder.path()).unwrap();
        assert_eq!(opened.recovered, expected);
        assert_eq!(opened.folder.generation().0, round);
        let store: Arc<dyn Store> = Arc::<FjallStore>::clone(&opened.store);
        let complete = |_: &[Completion]| ();
        let fsync = Durability::Fsync;
        let committer =
            Committer::start(store, fsync, opened.mark, opened.recovered, complete).unwrap();
        let changes = vec![Change { space: Space::Hints, key: key(round), value: Some(key(1)) }];
        committer.submit(Submission { source: 1, id: 1, changes, clock: Stamp(round * 7) });
        committer.stop();
        expected = CommitPoint { number: CommitNumber(round), clock: Stamp(round * 7) };
    }
    let opened = reopen(folder.path()).unwrap();
    assert_eq!(opened.store.scan(Space::Hints, b"", b"", 1 << 20).unwrap().entries.len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32, failure_persistence: None, ..Default::default()
    })]
    /// Every acknowledged write is there, or the folder is not served: nothing in between, and
    /// no panic, whatever bytes of the journal are changed.
    #[test]
    fn a_damaged_journal_is_served_whole_or_not_at_all(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        zero in any::<bool>(),
    ) {
        thread_local! {
            static NODE: (Node, tempfile::TempDir) = {
                let node = Node::with(12, Durability::Fsync);
                let copy = node.killed_later();
                (node, copy)
            };
        }
        let folder = tempfile::tempdir().unwrap();
        NODE.with(|(_, copy)| copy_folder(copy.path(), folder.path()));
        let (path, mut bytes) = journal(folder.path());
        for (index, flip) in damage {
            let at = index.index(bytes.len());
            bytes[at] = if zero { 0 } else { bytes[at] ^ flip };
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(opened) = reopen(folder.path()) {
            prop_assert_eq!(opened.recovered.number, CommitNumber(12));
            for id in 1..=12 {
                let found = opened.store.get(Space::Records, &key(id)).unwrap();
                prop_assert_eq!(found.as_deref(), Some(&value(id)[..]));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_for_a_journal_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        tags in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let engine = folder.path().join("engine");
        fs::create_dir(&engine).unwrap();
        let bytes = if tags { bytes.iter().map(|byte| byte % 5).collect() } else { bytes };
        fs::write(engine.join("1.jnl"), bytes).unwrap();
        let _ = journal::check(&engine);
    }
}
