//! One bit of a file is wrong, or a file is cut short: of every kind of file that a node writes.
//!
//! The node either refuses to start, with a sentence that says where and what to do, or it serves,
//! and then never anything wrong: what it cannot read it leaves to the other homes. Nothing that
//! was acknowledged is lost to the cluster. What happens to which kind of file stands in the table
//! of `docs/operate.md`; a file of a kind that is not in it fails the test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use coterie::client::{Client, Consistency, ReadOptions};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::cluster::{Cluster, LOOK_EVERY, Place, address, folder};
use crate::folders::assert_says;
use crate::process::{copy_folder, coterie, files_of};

/// Values of which some tens make the engine write tables.
const LARGE: usize = 256 << 10;
/// More of them than the records' memtable holds.
const LARGE_KEYS: usize = 72;
const SMALL_KEYS: usize = 60;
/// Configurations that are damaged, one after the other.
const CONFIGURATIONS: usize = 60;
/// A node has refused, or serves, within this.
const DECIDES_WITHIN: Duration = Duration::from_secs(60);

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    /// One bit is the other way round.
    Flip,
    /// What is behind some byte is gone.
    Cut,
}

/// What the node does.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// It refuses, and says this.
    Refuses(&'static str),
    /// It serves.
    Serves,
    /// It refuses and says this, or serves: that depends on the place.
    Either(&'static str),
}

/// The kind of a file, and what its harm does.
fn kind(inside: &Path) -> Option<(&'static str, Expected)> {
    use Expected::{Either, Refuses, Serves};
    let text = inside.to_str()?;
    let name = inside.file_name()?.to_str()?;
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    Some(match text {
        "LOCK" | "engine/lock" => ("lock", Serves),
        "CLUSTER" => ("CLUSTER", Serves),
        _ if text.starts_with("forgotten-") => ("set aside", Serves),
        "FORMAT" => ("FORMAT", Either("folder")),
        "IDENTITY" => ("IDENTITY", Refuses("IDENTITY is damaged: restore it")),
        "GENERATION" => ("GENERATION", Refuses("GENERATION is damaged: restore it")),
        "MARK" => ("MARK", Either("the mark, which says how far the store had come, is damaged")),
        "engine/version" => ("engine/version", Refuses("does not open")),
        _ if Path::new(name).extension().is_some_and(|end| end == "jnl") => {
            ("engine/N.jnl", Either("folder as it is"))
        }
        // What was being replaced at a kill, and what was cut off a journal.
        _ if name.starts_with("torn-") || name.contains(".tmp") => ("left behind", Serves),
        _ if name == "current" => ("engine/keyspaces/N/current", Serves),
        _ if text.contains("/tables/") && is_number(name) => {
            ("engine/keyspaces/N/tables/N", Either("engine"))
        }
        _ if is_number(name.strip_prefix('v')?) => ("engine/keyspaces/N/vN", Serves),
        _ => return None,
    })
}

/// Files with something in them, one or two of each kind, and what is expected of each.
fn victims(data: &Path) -> BTreeMap<&'static str, Vec<(PathBuf, Expected)>> {
    let mut of_kind: BTreeMap<&'static str, Vec<(PathBuf, Expected)>> = BTreeMap::new();
    for (path, bytes) in files_of(data, &[]) {
        let inside = path.strip_prefix(data).unwrap();
        let found = kind(inside);
        let (kind, expected) =
            found.unwrap_or_else(|| panic!("{} is of no known kind", path.display()));
        if !bytes.is_empty() {
            of_kind.entry(kind).or_default().push((path, expected));
        }
    }
    for files in of_kind.values_mut() {
        // The largest table is one of records; the smallest is the engine's own.
        files.sort_by_key(|(path, _)| std::fs::metadata(path).unwrap().len());
        if files.len() > 2 {
            files.drain(1..files.len() - 1);
        }
    }
    of_kind
}

/// Harms a file in its part that is not only zeros behind its end.
fn harm(path: &Path, harm: Harm, rng: &mut StdRng) {
    let mut bytes = std::fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let at = rng.random_range(0..end);
    match harm {
        Harm::Flip => bytes[at] ^= 1 << rng.random_range(0..8),
        Harm::Cut => bytes.truncate(at),
    }
    std::fs::write(path, bytes).unwrap();
}

/// What is written under a key.
fn value(key: &str) -> Bytes {
    let times = if key.starts_with("large") { LARGE / key.len() } else { 3 };
    key.repeat(times).into()
}

async fn write(client: &Client, keys: &[String]) {
    for key in keys {
        client.set(key.clone(), value(key)).await.unwrap();
    }
}

/// A node shows every key as it was written, and by its own copy alone nothing else.
async fn assert_right(cluster: &Cluster, node: usize, keys: &[String], after: &str) {
    let client = cluster.client_of(node);
    for key in keys {
        let read = client.get(key.clone()).await;
        let read = read.unwrap_or_else(|error| panic!("{key} after {after}: {error}"));
        assert!(read.is_some_and(|read| read.value == value(key)), "{key} is wrong after {after}");
        let one = ReadOptions { consistency: Some(Consistency::One), ..ReadOptions::default() };
        if let Ok(read) = client.get_with(key.clone(), &one).await {
            let right = read.value.is_some_and(|read| read == value(key));
            assert!(right, "{key} by one copy is wrong after {after}");
        }
    }
}

/// Starts node 0, until it serves (none) or has refused: what it said.
async fn decides(cluster: &mut Cluster) -> Option<String> {
    // The engine's own assertions are caught, but print a line of their own.
    std::fs::write(&cluster.place(0).log, "").unwrap();
    cluster.spawn(0);
    let began = std::time::Instant::now();
    loop {
        let said = cluster.place(0).said();
        if let Some(status) = cluster.process(0).ended() {
            assert_eq!(status.code(), Some(1), "{said}");
            drop(cluster.take(0));
            return Some(said);
        }
        if cluster.status(0).await.is_some_and(|status| status.ready) {
            return None;
        }
        assert!(began.elapsed() < DECIDES_WITHIN, "neither refused nor ready: {said}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_of_any_kind_is_refused_or_left_to_the_other_homes_and_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client_of(1);
    let mut keys: Vec<String> = (0..LARGE_KEYS).map(|number| format!("large/{number}")).collect();
    keys.extend((0..SMALL_KEYS).map(|number| format!("small/{number}")));
    write(&client, &keys).await;
    cluster.kill(0);
    let data = cluster.place(0).data.clone();
    let whole = cluster.dir().join("whole");
    let mut rng = StdRng::seed_from_u64(1);
    for kind in victims(&data).into_keys() {
        for (nth, way) in [(0, Harm::Flip), (0, Harm::Cut), (1, Harm::Flip), (1, Harm::Cut)] {
            // Looked up anew: a node that has served may have replaced it.
            let Some((path, expected)) =
                victims(&data).remove(kind).and_then(|of| of.into_iter().nth(nth))
            else {
                println!("{kind}: there is no second one");
                continue;
            };
            let sound = std::fs::read(&path).unwrap();
            let _ = std::fs::remove_dir_all(&whole);
            copy_folder(&data, &whole);
            harm(&path, way, &mut rng);
            let after = format!("{way:?} of {kind} ({})", path.display());
            let refused = decides(&mut cluster).await;
            println!("{after}: {}", refused.as_deref().unwrap_or("serves"));
            match (&refused, expected) {
                (Some(said), Expected::Refuses(why) | Expected::Either(why)) => {
                    assert_says(said, &[why, &data.display().to_string()]);
                }
                (None, Expected::Serves | Expected::Either(_)) => {}
                _ => panic!("{after}: expected {expected:?}, but {refused:?}"),
            }
            if refused.is_some() {
                // Put back as the sentence says.
                std::fs::remove_dir_all(&data).unwrap();
                std::fs::rename(&whole, &data).unwrap();
            } else {
                cluster.wait_without_hints().await;
                assert_right(&cluster, 0, &keys, &after).await;
                cluster.kill(0);
                if kind.contains("tables") && path.exists() {
                    // A table never changes: what comes next is to meet one fault at a time.
                    std::fs::write(&path, sound).unwrap();
                }
            }
            // The others go on meanwhile.
            let key = format!("small/{}", keys.len());
            write(&client, std::slice::from_ref(&key)).await;
            keys.push(key);
        }
    }
    cluster.spawn(0);
    cluster.wait_ready().await;
    cluster.wait_without_hints().await;
    for node in 0..3 {
        assert_right(&cluster, node, &keys, "all of it").await;
    }
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_configuration_is_refused_by_name_or_says_something_else_that_is_sound() {
    let dir = folder();
    let place = Place::new(dir.path(), address(1), 0);
    place.write();
    let whole = std::fs::read(&place.config).unwrap();
    let config = place.config.to_str().unwrap();
    let mut rng = StdRng::seed_from_u64(2);
    let mut refused = 0;
    for round in 0..CONFIGURATIONS {
        std::fs::write(&place.config, &whole).unwrap();
        harm(&place.config, if round % 4 == 0 { Harm::Cut } else { Harm::Flip }, &mut rng);
        let said = coterie(&["serve", "--check", "--config", config]).await;
        assert!(!said.err.contains("panicked"), "{}", said.err);
        match said.code {
            Some(0) => {}
            Some(1 | 2) => {
                assert!(said.err.starts_with("error: "), "round {round}: {}", said.err);
                refused += 1;
            }
            code => panic!("round {round}: {code:?}: {}", said.err),
        }
        assert!(!place.data.exists(), "something was written");
    }
    assert!(refused > CONFIGURATIONS / 3, "{refused} of {CONFIGURATIONS} were refused");
}
