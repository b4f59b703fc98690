//! Folders in every state that an operator or an interrupted start may leave them in.

use super::*;
use proptest::prelude::*;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn refused(path: &Path) -> FolderError {
    DataFolder::open(path, &name("node-0")).unwrap_err()
}

#[test]
fn an_identity_stays_and_the_generation_rises_at_every_opening() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("deep/data");
    let first = DataFolder::open(&path, &name("node-0")).unwrap();
    let id = first.id();
    assert_eq!(first.generation(), Generation(1));
    assert_eq!(first.name(), &name("node-0"));
    drop(first);
    for generation in 2..5 {
        let again = DataFolder::open(&path, &name("node-0")).unwrap();
        assert_eq!((again.id(), again.generation()), (id, Generation(generation)));
    }
    let other = DataFolder::open(&above.path().join("other"), &name("node-0")).unwrap();
    assert_ne!(other.id(), id);
}

#[test]
fn a_second_user_is_refused_and_told_who_the_first_is() {
    let folder = tempfile::tempdir().unwrap();
    let _held = DataFolder::open(folder.path(), &name("node-0")).unwrap();
    let error = refused(folder.path());
    let pid = std::process::id();
    assert!(matches!(error, FolderError::Locked { holder: Some(holder), .. } if holder == pid));
    let text = error.to_string();
    assert!(text.contains(&pid.to_string()) && text.contains("stop that process"), "{text}");
    assert!(text.contains(folder.path().to_str().unwrap()), "{text}");
}

#[test]
fn a_refused_opening_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let held = DataFolder::open(folder.path(), &name("node-0")).unwrap();
    refused(folder.path());
    drop(held);
    assert!(matches!(
        DataFolder::open(folder.path(), &name("node-1")),
        Err(FolderError::OtherNode { .. })
    ));
    let next = DataFolder::open(folder.path(), &name("node-0")).unwrap();
    assert_eq!(next.generation(), Generation(2));
}

#[test]
fn another_nodes_folder_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(DataFolder::open(folder.path(), &name("node-1")).unwrap());
    let text = refused(folder.path()).to_string();
    assert!(text.contains("belongs to node `node-1`") && text.contains("`node-0`"), "{text}");
}

#[test]
fn nothing_is_written_into_a_folder_that_is_not_ours() {
    let folder = tempfile::tempdir().unwrap();
    for (file, bytes) in [("letter.txt", "dear reader"), (FORMAT, "of another program")] {
        let path = folder.path().join(file.to_lowercase());
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(file), bytes).unwrap();
        assert!(matches!(refused(&path), FolderError::Foreign { .. }));
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    }
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(refused(&file), FolderError::NotAFolder { .. }));
    assert!(matches!(refused(&file.join("below")), FolderError::NotAFolder { .. }));
}

#[test]
fn a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(DataFolder::open(folder.path(), &name("node-0")).unwrap());
    std::fs::write(folder.path().join(FORMAT), format!("{FORMAT_TEXT}2\n")).unwrap();
    let error = refused(folder.path());
    assert!(matches!(error, FolderError::Newer { found: 2, .. }));
    assert!(error.to_string().contains("run the version that wrote it"));
}

#[test]
fn a_first_start_that_was_interrupted_anywhere_is_finished_by_the_next() {
    let whole = tempfile::tempdir().unwrap();
    drop(DataFolder::open(whole.path(), &name("node-0")).unwrap());
    let steps = [LOCK, "FORMAT.tmp", FORMAT, "IDENTITY.tmp", IDENTITY, "GENERATION.tmp"];
    for done in 0..=steps.len() {
        let folder = tempfile::tempdir().unwrap();
        for step in &steps[..done] {
            let from = whole.path().join(step.trim_end_matches(".tmp"));
            std::fs::copy(from, folder.path().join(step)).unwrap();
        }
        let opened = DataFolder::open(folder.path(), &name("node-0")).unwrap();
        assert_eq!(opened.generation(), Generation(1));
    }
}

#[test]
fn a_file_removed_beside_data_is_missed() {
    for file in [IDENTITY, GENERATION, FORMAT] {
        let folder = tempfile::tempdir().unwrap();
        let opened = DataFolder::open(folder.path(), &name("node-0")).unwrap();
        std::fs::create_dir(opened.engine()).unwrap();
        std::fs::write(opened.mark(), "x").unwrap();
        drop(opened);
        std::fs::remove_file(folder.path().join(file)).unwrap();
        let missing = folder.path().join(file);
        let error = refused(folder.path());
        assert!(matches!(&error, FolderError::Missing { path } if *path == missing));
        assert!(!missing.exists(), "a new {file} was made");
    }
}

#[test]
fn a_damaged_file_is_named() {
    for file in [IDENTITY, GENERATION] {
        let folder = tempfile::tempdir().unwrap();
        drop(DataFolder::open(folder.path(), &name("node-0")).unwrap());
        let path = folder.path().join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        let error = refused(folder.path());
        assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the damaged file was replaced");
    }
}

#[test]
fn a_refusal_of_the_file_system_says_what_to_do() {
    let path = Path::new("/data");
    let denied = failure("write", path, io::ErrorKind::PermissionDenied.into()).to_string();
    assert!(denied.contains("permission"), "{denied}");
    let mounted = failure("write", path, io::ErrorKind::ReadOnlyFilesystem.into()).to_string();
    assert!(mounted.contains("mount it for writing"), "{mounted}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn arbitrary_bytes_in_any_small_file_never_panic(
        file in prop::sample::select(vec![LOCK, FORMAT, IDENTITY, GENERATION]),
        bytes in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let folder = tempfile::tempdir().unwrap();
        drop(DataFolder::open(folder.path(), &name("node-0")).unwrap());
        std::fs::write(folder.path().join(file), bytes).unwrap();
        let _ = DataFolder::open(folder.path(), &name("node-0"));
    }

    #[test]
    fn arbitrary_bytes_are_no_identity_and_no_generation(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        prop_assert!(decode_identity(&bytes).is_err());
        prop_assert!(decode_generation(&bytes).is_err());
    }
}

#[test]
fn a_look_tells_what_opening_would_and_writes_nothing() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("data");
    let look = |who: &str| DataFolder::look(&path, &name(who));
    assert!(matches!(look("node-0"), Ok(None)));
    assert!(!path.exists(), "the look has made it");
    let held = DataFolder::open(&path, &name("node-0")).unwrap();
    assert!(matches!(look("node-0"), Err(FolderError::Locked { .. })));
    let id = held.id();
    drop(held);
    assert_eq!(look("node-0").unwrap(), Some(id));
    assert!(matches!(look("node-1"), Err(FolderError::OtherNode { .. })));
    // The looks have not counted as openings, and have not kept the lock.
    let next = DataFolder::open(&path, &name("node-0")).unwrap();
    assert_eq!(next.generation(), Generation(2));
    let file = path.join(FORMAT);
    assert!(matches!(DataFolder::look(&file, &name("x")), Err(FolderError::NotAFolder { .. })));
    let foreign = above.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("letter.txt"), "dear").unwrap();
    let error = DataFolder::look(&foreign, &name("x")).unwrap_err();
    assert!(matches!(error, FolderError::Foreign { .. }));
}

#[test]
fn the_note_of_the_cluster_is_read_without_opening_the_folder() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("node");
    assert_eq!(DataFolder::noted_cluster(&path).unwrap(), None);
    drop(DataFolder::open(&path, &name("node-0")).unwrap());
    assert_eq!(DataFolder::noted_cluster(&path).unwrap(), None);
    for cluster in ["one", "one", "two"] {
        DataFolder::note_cluster(&path, cluster).unwrap();
        assert_eq!(DataFolder::noted_cluster(&path).unwrap().as_deref(), Some(cluster));
    }
    drop(DataFolder::open(&path, &name("node-0")).unwrap());
}
