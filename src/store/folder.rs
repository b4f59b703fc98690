//! The data folder of one node: whose it is, who uses it, and in which format.
//!
//! ```text
//!  LOCK        held while a process uses the folder; holds that process's id
//!  FORMAT      one line of text: the folder's format version
//!  IDENTITY    format ‖ node id ‖ name ‖ crc32: fsynced before it is used; replaced only by a disk
//!              that has forgotten something
//!  GENERATION  format ‖ number ‖ crc32: raised and fsynced at every opening
//!  MARK        how far the engine had come: see `mark`
//!  CLUSTER     the name of the cluster, once founded: for who looks without opening the engine,
//!              which holds the truth
//!  engine/     the engine's own
//!  forgotten-N an engine that had lost writes, set aside at opening N; of no further use to the node
//! ```
//!
//! Invariants: nothing is written into a folder that is not ours, nor before the lock is held;
//! an id that anyone may have heard of is on the disk; no two openings have one generation.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes};

use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::types::{Generation, NodeId, NodeName};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const IDENTITY: &str = "IDENTITY";
const GENERATION: &str = "GENERATION";
const MARK: &str = "MARK";
const CLUSTER: &str = "CLUSTER";
const ENGINE: &str = "engine";

/// The version of everything in the folder; older builds refuse a newer one.
const FORMAT_VERSION: u32 = 1;
/// What `FORMAT` begins with.
const FORMAT_TEXT: &str = "coterie data folder, format ";
/// The version of the two small binary files.
const FILE_FORMAT: u8 = 1;
/// No small file of ours is longer; more is not read.
const SMALL_FILE_BYTES_MAX: u64 = 4096;
/// What a folder may hold before it is ours: an interrupted first start, a new volume's own.
const HARMLESS: [&str; 3] = [LOCK, "FORMAT.tmp", "lost+found"];

/// A data folder, locked for this process.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    id: NodeId,
    name: NodeName,
    generation: Generation,
    /// Holds the lock until it is closed.
    _lock: File,
}

/// Why a data folder cannot be used. None of these has changed what is stored.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process uses the folder.
    #[error(
        "the data folder {path} is in use by process {}: stop that process, or give this node a \
         data folder of its own", holder.map_or("(unknown)".into(), |pid| pid.to_string())
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process, as the lock file names it.
        holder: Option<u32>,
    },
    /// The path names something that is no folder.
    #[error("{path} is not a folder: name a folder, or one that does not exist yet")]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The folder holds someone else's files.
    #[error(
        "{path} holds files that are not a node's (such as `{found}`): nothing was written \
         there; name an empty folder, or one that does not exist yet"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// One of the files.
        found: String,
    },
    /// The folder was written by a newer build.
    #[error(
        "the data folder {path} has format {found}, and this build knows up to \
         {FORMAT_VERSION}: run the version that wrote it, or a newer one"
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The folder belongs to another node.
    #[error(
        "the data folder {path} belongs to node `{found}`, and this node is `{expected}`: \
         correct the folder or the name; folders cannot be handed on"
    )]
    OtherNode {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: NodeName,
        /// Whose it should be.
        expected: NodeName,
    },
    /// A file that must be there is not.
    #[error(
        "{path} is missing beside data: someone has removed it; put it back, or set the data folder \
         aside and start with an empty one (the other replicas hold the data)"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file of ours is damaged.
    #[error(
        "{path} is damaged: restore it, or set the data folder aside and start with an empty one \
         (the other replicas hold the data)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        source: DecodeError,
    },
    /// The file system does not let us.
    #[error(
        "no permission to {doing} {path}: give the user that runs this process read and write \
         permission for the whole folder, or name another one"
    )]
    Denied {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file system is mounted read-only.
    #[error(
        "cannot {doing} {path}: the file system is read-only; mount it for writing (after a disk \
         fault it may have been made read-only: see the kernel's log), or name another folder"
    )]
    ReadOnly {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another fault of the file system.
    #[error("cannot {doing} {path}: check the disk and the path")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl DataFolder {
    /// Opens the folder of the node `name`, making it if there is none, and locks it until the
    /// value is dropped. Every opening has a higher generation than the one before.
    ///
    /// # Errors
    /// [`FolderError`]; each says what to do.
    pub fn open(path: &Path, name: &NodeName) -> Result<Self, FolderError> {
        make(path)?;
        // Before anything is written, the lock file included: is it ours to write into?
        let _ = recognise(path)?;
        let lock = lock(path)?;
        if recognise(path)? == Recognised::Empty {
            let text = format!("{FORMAT_TEXT}{FORMAT_VERSION}\n");
            write(&path.join(FORMAT), text.as_bytes())?;
        }
        let id = identity(path, name)?;
        let generation = raise_generation(path)?;
        Ok(Self { path: path.into(), id, name: name.clone(), generation, _lock: lock })
    }

    /// Whether the node `name` could open the folder, as far as can be told without writing: its
    /// id, or none if nothing was ever stored there. Who opens it in this very moment may be
    /// refused.
    ///
    /// # Errors
    /// [`FolderError`]; each says what to do.
    pub fn look(path: &Path, name: &NodeName) -> Result<Option<NodeId>, FolderError> {
        if !is_there(path)? {
            let above = path.ancestors().skip(1).find(|above| above.exists());
            // Above a relative path lies the folder that this process works in.
            let above = above.filter(|above| !above.as_os_str().is_empty());
            may_write(above.unwrap_or(Path::new(".")))
                .map_err(|error| failure("create", path, error))?;
            return Ok(None);
        }
        may_write(path).map_err(|error| failure("write to", path, error))?;
        if recognise(path)? == Recognised::Empty {
            return Ok(None);
        }
        let file = path.join(LOCK);
        match File::open(&file) {
            Ok(lock) => try_lock(path, &lock)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failure("open", &file, error)),
        }
        known_identity(path, name)
    }

    /// The name of the cluster that the folder's data is of, as [`DataFolder::note_cluster`] has
    /// left it; none if it never has.
    ///
    /// # Errors
    /// [`FolderError`], if the note cannot be read.
    pub fn noted_cluster(path: &Path) -> Result<Option<String>, FolderError> {
        let note = read(&path.join(CLUSTER))?;
        Ok(note.map(|text| String::from_utf8_lossy(&text).trim_end().to_owned()))
    }

    /// Leaves a note of the cluster's name beside the data.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn note_cluster(path: &Path, name: &str) -> io::Result<()> {
        let text = format!("{name}\n");
        let file = path.join(CLUSTER);
        if std::fs::read(&file).is_ok_and(|noted| noted == text.as_bytes()) {
            return Ok(());
        }
        replace(&file, text.as_bytes())
    }

    /// The disk's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The folder goes on as another disk, durably. What it holds must say so already.
    ///
    /// # Errors
    /// [`FolderError`]: the identity is then the old one or the new one, and never half.
    pub fn become_disk(&mut self, id: NodeId) -> Result<(), FolderError> {
        write(&self.path.join(IDENTITY), &encode_identity(id, &self.name))?;
        self.id = id;
        Ok(())
    }

    /// Where a damaged engine is set aside at this opening.
    pub(super) fn aside(&self) -> PathBuf {
        self.path.join(format!("forgotten-{}", self.generation.0))
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// The number of this opening.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the engine keeps its files.
    #[must_use]
    pub fn engine(&self) -> PathBuf {
        self.path.join(ENGINE)
    }

    /// Where the mark is.
    #[must_use]
    pub fn mark(&self) -> PathBuf {
        self.path.join(MARK)
    }
}

/// Replaces a file by `bytes`, whole or not at all, durably.
///
/// # Errors
/// If the file system refuses: the file is then as it was, or new, but never half.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)?;
    sync_folder_of(path)
}

/// What is in a folder that has not been locked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recognised {
    /// Nothing, or what an interrupted first start leaves.
    Empty,
    /// A node's data in a format that this build knows.
    Ours,
}

fn recognise(path: &Path) -> Result<Recognised, FolderError> {
    let format = path.join(FORMAT);
    if let Some(bytes) = read(&format)? {
        let foreign = || FolderError::Foreign { path: path.into(), found: FORMAT.into() };
        return match parse_format(&bytes).ok_or_else(foreign)? {
            FORMAT_VERSION => Ok(Recognised::Ours),
            found => Err(FolderError::Newer { path: path.into(), found }),
        };
    }
    let failed = |error| failure("list", path, error);
    let mut stranger = None;
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let found = entry.map_err(failed)?.file_name();
        if [IDENTITY, GENERATION, MARK].iter().any(|name| found == *name) {
            return Err(FolderError::Missing { path: format });
        }
        if !HARMLESS.iter().any(|name| found == *name) {
            stranger = Some(found.to_string_lossy().into_owned());
        }
    }
    match stranger {
        Some(found) => Err(FolderError::Foreign { path: path.into(), found }),
        None => Ok(Recognised::Empty),
    }
}

/// The format version that a format file names; none if it is not one of ours.
fn parse_format(bytes: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.strip_prefix(FORMAT_TEXT)?.trim_end().parse().ok()
}

/// Whether there is a folder; something else in its place is an error.
fn is_there(path: &Path) -> Result<bool, FolderError> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(FolderError::NotAFolder { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(FolderError::NotAFolder { path: path.into() })
        }
        Err(error) => Err(failure("look at", path, error)),
    }
}

/// Whether this process may put files into a folder, as far as can be told without doing it.
fn may_write(folder: &Path) -> io::Result<()> {
    use rustix::fs::{Access, access};
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Makes the folder and whatever lies above it, durably.
fn make(path: &Path) -> Result<(), FolderError> {
    if is_there(path)? {
        return Ok(());
    }
    let absent: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
    std::fs::create_dir_all(path).map_err(|error| failure("create", path, error))?;
    for made in absent.into_iter().filter(|made| !made.as_os_str().is_empty()) {
        sync_folder_of(made).map_err(|error| failure("sync", made, error))?;
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, FolderError> {
    let file = path.join(LOCK);
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file)
        .map_err(|error| failure("open", &file, error))?;
    try_lock(path, &lock)?;
    // For whoever is refused. Not synced: a lock does not outlive its process.
    let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    written.map_err(|error| failure("write", &file, error))?;
    Ok(lock)
}

/// Locks an open lock file until it is closed.
fn try_lock(path: &Path, lock: &File) -> Result<(), FolderError> {
    let file = path.join(LOCK);
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let holder = read(&file)?.and_then(|text| parse_pid(&text));
            Err(FolderError::Locked { path: path.into(), holder })
        }
        Err(TryLockError::Error(error)) => Err(failure("lock", &file, error)),
    }
}

fn parse_pid(bytes: &[u8]) -> Option<u32> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

/// Reads the folder's identity, or makes one if nothing was ever stored here.
fn identity(folder: &Path, name: &NodeName) -> Result<NodeId, FolderError> {
    if let Some(id) = known_identity(folder, name)? {
        return Ok(id);
    }
    let id = NodeId(rand::random());
    write(&folder.join(IDENTITY), &encode_identity(id, name))?;
    Ok(id)
}

/// The folder's identity; none if nothing was ever stored here.
fn known_identity(folder: &Path, name: &NodeName) -> Result<Option<NodeId>, FolderError> {
    let path = folder.join(IDENTITY);
    let Some(bytes) = read(&path)? else {
        if [GENERATION, MARK, ENGINE].iter().any(|other| folder.join(other).exists()) {
            return Err(FolderError::Missing { path });
        }
        return Ok(None);
    };
    match decode_identity(&bytes) {
        Ok((id, found)) if found == *name => Ok(Some(id)),
        Ok((_, found)) => {
            Err(FolderError::OtherNode { path: folder.into(), found, expected: name.clone() })
        }
        Err(source) => Err(FolderError::Damaged { path, source }),
    }
}

/// Counts this opening, durably.
fn raise_generation(folder: &Path) -> Result<Generation, FolderError> {
    let path = folder.join(GENERATION);
    let before = match read(&path)? {
        Some(bytes) => match decode_generation(&bytes) {
            Ok(generation) => generation.0,
            Err(source) => return Err(FolderError::Damaged { path, source }),
        },
        None if folder.join(MARK).exists() || folder.join(ENGINE).exists() => {
            return Err(FolderError::Missing { path });
        }
        None => 0,
    };
    let Some(number) = before.checked_add(1) else {
        let source = DecodeError::Malformed("generation");
        return Err(FolderError::Damaged { path, source });
    };
    write(&path, &encode_generation(Generation(number)))?;
    Ok(Generation(number))
}

fn encode_identity(id: NodeId, name: &NodeName) -> Vec<u8> {
    let mut out = vec![FILE_FORMAT];
    out.put_u128_le(id.0);
    Write::bytes(&mut out, name.as_str().as_bytes());
    seal(out, IDENTITY)
}

fn decode_identity(bytes: &Bytes) -> Result<(NodeId, NodeName), DecodeError> {
    let mut reader = unseal(bytes, IDENTITY)?;
    let id = NodeId(reader.u128()?);
    let name = NodeName::new(&reader.text()?).map_err(|_| DecodeError::Malformed("node name"))?;
    reader.end()?;
    Ok((id, name))
}

fn encode_generation(generation: Generation) -> Vec<u8> {
    let mut out = vec![FILE_FORMAT];
    out.put_u64_le(generation.0);
    seal(out, GENERATION)
}

fn decode_generation(bytes: &Bytes) -> Result<Generation, DecodeError> {
    let mut reader = unseal(bytes, GENERATION)?;
    let generation = Generation(reader.u64()?);
    reader.end()?;
    Ok(generation)
}

/// Adds the checksum, which begins with the file's name.
fn seal(mut body: Vec<u8>, file: &str) -> Vec<u8> {
    let checksum = checksum(&body, file);
    body.put_u32_le(checksum);
    body
}

/// Checks and takes off the checksum and the format version.
fn unseal(bytes: &Bytes, file: &str) -> Result<Reader, DecodeError> {
    let body = bytes.len().checked_sub(4).ok_or(DecodeError::Truncated)?;
    let expected = Reader::new(bytes.slice(body..)).u32()?;
    let body = bytes.slice(..body);
    if checksum(&body, file) != expected {
        return Err(DecodeError::Checksum);
    }
    let mut reader = Reader::new(body);
    match reader.u8()? {
        FILE_FORMAT => Ok(reader),
        other => Err(DecodeError::Version(other)),
    }
}

fn checksum(body: &[u8], file: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(file.as_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// A small file's bytes; none if there is no such file.
fn read(path: &Path) -> Result<Option<Bytes>, FolderError> {
    let mut bytes = Vec::new();
    let read = File::open(path)
        .and_then(|file| file.take(SMALL_FILE_BYTES_MAX).read_to_end(&mut bytes).map(drop));
    match read {
        Ok(()) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure("read", path, error)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    replace(path, bytes).map_err(|error| failure("write", path, error))
}

/// Makes the name of `path` durable.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let above = match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => return Ok(()),
    };
    File::open(above)?.sync_all()
}

fn failure(doing: &'static str, path: &Path, source: io::Error) -> FolderError {
    let path = path.into();
    match source.kind() {
        io::ErrorKind::PermissionDenied => FolderError::Denied { doing, path, source },
        io::ErrorKind::ReadOnlyFilesystem => FolderError::ReadOnly { doing, path, source },
        _ => FolderError::Io { doing, path, source },
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
