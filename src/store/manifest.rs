//! Looks at the engine's manifests before the engine opens them.
//!
//! Each keyspace has a file `current` that names the version of its list of tables, with the checksum
//! of that list. The engine does not verify it: with one bit wrong, it takes an older list for the
//! present one, or a list that is damaged for whole. And a keyspace without the file is to the
//! engine one that was never finished: it is deleted. Either way whole tables are gone without a
//! word, and the number of the newest commit, which lies in another keyspace, knows nothing of it.
//!
//! ```text
//!  keyspaces/N/current    version (8) ‖ xxh3-128 of vVERSION (16) ‖ 0      (little-endian)
//!  keyspaces/N/vVERSION   the tables
//! ```
//!
//! The mark is made after the engine has been opened for the first time; where it is, every
//! keyspace was whole on disk once.

use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::journal::JournalError;
use super::open::Loss;

/// The engine's own keyspace and ours, by the names of their folders.
const KEYSPACES: [&str; 4] = ["0", "1", "2", "3"];
const FOLDER: &str = "keyspaces";
const CURRENT: &str = "current";
/// The version, the checksum, and how that was made.
const CURRENT_BYTES: usize = 8 + 16 + 1;

/// Looks at the manifests of an engine's folder, which may not exist yet. `is_marked` says that the
/// engine was open once.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn check(engine: &Path, is_marked: bool) -> Result<Option<Loss>, JournalError> {
    for name in KEYSPACES {
        let folder = engine.join(FOLDER).join(name);
        let damaged = |path: &Path, how| Loss::DamagedManifest { path: path.into(), how };
        let path = folder.join(CURRENT);
        let Some(current) = content(&path)? else {
            if is_marked {
                return Ok(Some(damaged(&path, "is gone")));
            }
            continue;
        };
        let Some((version, checksum)) = decode(&current) else {
            return Ok(Some(damaged(&path, "is damaged")));
        };
        let path = folder.join(format!("v{version}"));
        let Some(tables) = content(&path)? else {
            return Ok(Some(damaged(&path, "is gone")));
        };
        if xxh3_128(&tables) != checksum {
            return Ok(Some(damaged(&path, "is damaged, or not the newest")));
        }
    }
    Ok(None)
}

/// The version that a file `current` names, and its checksum.
fn decode(current: &[u8]) -> Option<(u64, u128)> {
    let current: &[u8; CURRENT_BYTES] = current.try_into().ok()?;
    let (version, checksum) = current[..CURRENT_BYTES - 1].split_at(8);
    let version = u64::from_le_bytes(version.try_into().ok()?);
    let checksum = u128::from_le_bytes(checksum.try_into().ok()?);
    (current[CURRENT_BYTES - 1] == 0).then_some((version, checksum))
}

/// A file's bytes; none if there is no such file.
fn content(path: &Path) -> Result<Option<Vec<u8>>, JournalError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => {
            Err(JournalError { doing: "read", what: "manifest", path: path.into(), source })
        }
    }
}
