//! A disk that forgets what was not synced: the layer under a node, and the power cut.
//!
//! ```text
//!   node ── libc ── unsynced.so ──▶ data/      what the running node sees
//!                        └────────▶ shadow/    what was synced       ┐ cut: data/ is made anew
//!   test ── control ─────┘          live files: what was not (yet) ──┘ from both, by a seed
//! ```
//!
//! What was synced is always there after a cut. Of what was not, a seed decides, as a disk's cache
//! may: nothing of it, all of it, all up to some byte, or some sectors of it; names that were not
//! synced are all there, or none of them. The layer and what it does not cover: `unsynced.c`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng as _};

use crate::cluster::{Cluster, folder};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// How large the control file is.
const CONTROL_BYTES: usize = 64;

/// A number of the control file, by its place.
#[derive(Clone, Copy, Debug)]
enum Field {
    Lies = 0,
    SyncDelayMicros = 1,
    SyncError = 2,
    Limited = 3,
    Room = 4,
    ClockOffsetMillis = 5,
    Syncs = 6,
}

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All of it is gone.
    All,
    /// Each file and folder fares as this seed says.
    BySeed(u64),
}

/// The disk of one node.
#[derive(Clone, Debug)]
pub struct Disk {
    data: PathBuf,
    shadow: PathBuf,
    control: PathBuf,
}

/// A file's bytes, without the zeros at its end, and its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    bytes: Vec<u8>,
    length: u64,
}

/// The names in a folder: whether each is a folder, and its inode.
type Names = BTreeMap<OsString, (bool, u64)>;

impl Disk {
    /// A disk for the folder `data`, which need not exist yet. What is there counts as synced.
    pub fn new(data: &Path) -> Self {
        let beside = |what: &str| data.with_extension(what);
        let disk =
            Self { data: data.to_owned(), shadow: beside("shadow"), control: beside("control") };
        fs::write(&disk.control, [0; CONTROL_BYTES]).unwrap();
        disk.adopt();
        disk
    }

    /// What a process needs in its environment to run on this disk.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", layer().to_owned()),
            ("UNSYNCED_ROOT", self.data.clone()),
            ("UNSYNCED_SHADOW", self.shadow.clone()),
            ("UNSYNCED_CONTROL", self.control.clone()),
        ]
    }

    /// From now on syncs do nothing, and say that they did.
    pub fn lie(&self, lies: bool) {
        self.set(Field::Lies, i64::from(lies));
    }

    /// How long each sync takes from now on.
    pub fn slow_syncs(&self, by: Duration) {
        self.set(Field::SyncDelayMicros, i64::try_from(by.as_micros()).unwrap());
    }

    /// From now on each sync fails with an input/output error.
    pub fn fail_syncs(&self, fail: bool) {
        self.set(
            Field::SyncError,
            i64::from(if fail { rustix::io::Errno::IO.raw_os_error() } else { 0 }),
        );
    }

    /// So many bytes are left to write from now on; none: no limit.
    pub fn room(&self, bytes: Option<i64>) {
        self.set(Field::Room, bytes.unwrap_or_default());
        self.set(Field::Limited, i64::from(bytes.is_some()));
    }

    /// The node's wall clock is this far from the truth.
    pub fn wall_clock(&self, offset_ms: i64) {
        self.set(Field::ClockOffsetMillis, offset_ms);
    }

    /// How many syncs there were.
    pub fn syncs(&self) -> i64 {
        let mut number = [0; 8];
        let file = File::open(&self.control).unwrap();
        file.read_exact_at(&mut number, Field::Syncs as u64 * 8).unwrap();
        i64::from_ne_bytes(number)
    }

    fn set(&self, field: Field, number: i64) {
        let file = OpenOptions::new().write(true).open(&self.control).unwrap();
        file.write_all_at(&number.to_ne_bytes(), field as u64 * 8).unwrap();
    }

    /// The power fails. Nothing may run on the disk any more.
    pub fn cut(&self, cut: Cut) {
        let mut after = BTreeMap::new();
        let mut rng = match cut {
            Cut::All => None,
            Cut::BySeed(seed) => Some(StdRng::seed_from_u64(seed)),
        };
        if self.data.exists() {
            let root = fs::metadata(&self.data).unwrap().ino();
            self.survivors(root, Path::new(""), &self.data, &mut rng, &mut after);
            fs::remove_dir_all(&self.data).unwrap();
            fs::create_dir(&self.data).unwrap();
        }
        for (path, content) in after {
            let path = self.data.join(path);
            match content {
                None => fs::create_dir(&path).unwrap(),
                Some(content) => content.write(&path),
            }
        }
        self.adopt();
    }

    /// Collects what is left of a folder and below; folders come before what is in them.
    fn survivors(
        &self,
        inode: u64,
        inside: &Path,
        path: &Path,
        rng: &mut Option<StdRng>,
        after: &mut BTreeMap<PathBuf, Option<Content>>,
    ) {
        let unsynced = rng.as_mut().is_some_and(RngExt::random);
        let names = if unsynced { names_in(path) } else { self.synced_names(inode) };
        for (name, (is_folder, inode)) in names {
            let below = inside.join(&name);
            if is_folder {
                after.insert(below.clone(), None);
                self.survivors(inode, &below, &path.join(&name), rng, after);
            } else {
                let [synced, live] = ["files", "live"]
                    .map(|kind| Content::read(&self.shadow.join(kind).join(inode.to_string())));
                let synced = synced.unwrap_or_default();
                // A file without a link in `live` was never written to, nor its name synced.
                let live = live.or_else(|| Content::read(&path.join(&name))).unwrap_or_default();
                let content = match rng {
                    None => synced,
                    Some(rng) => torn(synced, live, rng),
                };
                after.insert(below, Some(content));
            }
        }
    }

    fn synced_names(&self, folder: u64) -> Names {
        let list = self.shadow.join("dirs").join(folder.to_string());
        let list = fs::read_to_string(list).unwrap_or_default();
        let name = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let is_folder = words.next()? == "d";
            let inode = words.next()?.parse().ok()?;
            Some((OsString::from(words.next()?), (is_folder, inode)))
        };
        list.lines().map(|line| name(line).expect("a list of names")).collect()
    }

    /// Takes what is there for synced.
    pub fn adopt(&self) {
        let _ = fs::remove_dir_all(&self.shadow);
        for kind in ["dirs", "files", "live"] {
            fs::create_dir_all(self.shadow.join(kind)).unwrap();
        }
        if self.data.exists() {
            self.adopt_folder(&self.data);
        }
    }

    fn adopt_folder(&self, path: &Path) {
        let mut list = String::new();
        for (name, (is_folder, inode)) in names_in(path) {
            let below = path.join(&name);
            let kind = if is_folder { 'd' } else { 'f' };
            let _ = writeln!(list, "{kind} {inode} {}", name.display());
            if is_folder {
                self.adopt_folder(&below);
            } else {
                let in_shadow = |kind| self.shadow.join(kind).join(inode.to_string());
                Content::read(&below).unwrap().write(&in_shadow("files"));
                fs::hard_link(&below, in_shadow("live")).unwrap();
            }
        }
        let inode = fs::metadata(path).unwrap().ino();
        fs::write(self.shadow.join("dirs").join(inode.to_string()), list).unwrap();
    }
}

impl Content {
    fn read(path: &Path) -> Option<Self> {
        let mut bytes = fs::read(path).ok()?;
        let length = bytes.len() as u64;
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        Some(Self { bytes, length })
    }

    /// Journals are mostly zeros, which take no room.
    fn write(&self, path: &Path) {
        fs::write(path, &self.bytes).unwrap();
        OpenOptions::new().write(true).open(path).unwrap().set_len(self.length).unwrap();
    }
}

/// What is on the disk of a file of which `synced` is certain, and `live` was being written.
fn torn(synced: Content, live: Content, rng: &mut StdRng) -> Content {
    let length = synced.length.max(live.length);
    let way = rng.random_range(0..4);
    if synced == live || way == 0 {
        return synced;
    }
    if way == 1 || live.length < synced.length {
        return live;
    }
    let most = synced.bytes.len().max(live.bytes.len());
    let byte = |content: &Content, at: usize| content.bytes.get(at).copied().unwrap_or(0);
    let first = (0..most).find(|at| byte(&synced, *at) != byte(&live, *at)).unwrap_or(most);
    let end = rng.random_range(first..=most);
    let sectors: Vec<bool> = (0..=most / SECTOR).map(|_| rng.random()).collect();
    let written = |at: usize| if way == 2 { at < end } else { sectors[at / SECTOR] };
    let bytes = (0..most).map(|at| byte(if written(at) { &live } else { &synced }, at)).collect();
    Content { bytes, length }
}

fn names_in(folder: &Path) -> Names {
    let entries = fs::read_dir(folder).into_iter().flatten().map(Result::unwrap);
    let name = |entry: fs::DirEntry| {
        let about = entry.metadata().unwrap();
        (entry.file_name(), (about.is_dir(), about.ino()))
    };
    entries.map(name).collect()
}

/// Compiles a file of this folder; gcc is needed to build the project anyway.
fn compile(source: &str, flags: &[&str], to: &str) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{to}", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processes/disks").join(source);
    let mut command = Command::new("cc");
    command.args(["-O2", "-Wall", "-Wextra"]).args(flags).arg("-o").arg(&out).arg(source);
    let said = command.args(["-ldl", "-lpthread"]).output().expect("cc is there");
    assert!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said.stderr));
    out
}

/// The layer, compiled once.
fn layer() -> &'static Path {
    static LAYER: OnceLock<PathBuf> = OnceLock::new();
    LAYER.get_or_init(|| compile("unsynced.c", &["-shared", "-fPIC"], "unsynced.so"))
}

/// A disk under each node of a cluster of which nothing runs yet.
pub fn disks_of(cluster: &mut Cluster) -> Vec<Disk> {
    let mut disks = Vec::new();
    for node in 0..cluster.len() {
        let disk = Disk::new(&cluster.place(node).data);
        cluster.place_mut(node).environment = disk.environment();
        disks.push(disk);
    }
    disks
}

#[test]
fn a_power_cut_leaves_what_was_synced_and_by_its_seed_some_of_the_rest() {
    let probe = compile("probe.c", &[], "probe");
    let after = |cut| {
        let dir = folder();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let disk = Disk::new(&data);
        let mut command = Command::new(&probe);
        command.arg(&data).envs(disk.environment()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        disk.cut(cut);
        let read = |(name, _): (OsString, _)| {
            let text = fs::read_to_string(data.join(&name)).unwrap();
            (name.into_string().unwrap(), text)
        };
        names_in(&data).into_iter().map(read).collect::<BTreeMap<String, String>>()
    };
    let synced = [
        ("cut", "whole"),
        ("empty", ""),
        ("inside", "0123ABC789"),
        ("removed", "there"),
        ("renamed", "old"),
        ("tail", "synced,"),
    ];
    let synced = synced.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(after(Cut::All), BTreeMap::from(synced));

    let mut tails = std::collections::BTreeSet::new();
    let mut names = std::collections::BTreeSet::new();
    for seed in 0..24 {
        let left = after(Cut::BySeed(seed));
        assert!(left["tail"].starts_with("synced,"), "seed {seed}: {left:?}");
        assert_eq!(left["inside"][4..], *"ABC789", "seed {seed}: {left:?}");
        assert!(["old", "new"].contains(&left["renamed"].as_str()), "seed {seed}: {left:?}");
        tails.insert(left["tail"].clone());
        names.insert(left.contains_key("removed"));
    }
    assert!(tails.len() > 3, "no torn writes: {tails:?}");
    assert_eq!(names.len(), 2, "names that were not synced always fare alike");
}
