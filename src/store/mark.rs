//! The high-water mark: a small file beside the engine that remembers how far it had come.
//!
//! An engine that finds its journal damaged may cut it off there and start without a word: what
//! was acknowledged behind the cut is gone, and a node that serves on as if nothing had happened
//! makes the loss permanent. The mark is written after the journal has been synced, a moment
//! behind, and never ahead. A recovery that ends below it is amnesia.
//!
//! ```text
//!  0                    4096                  8192
//!  ├─ slot 0 ─┄┄ zeros ─┼─ slot 1 ─┄┄ zeros ──┤     a slot: a CommitPoint, 21 bytes
//! ```
//!
//! The slots are written in turn, in place, so that a write torn by a power cut leaves the other
//! one; they lie in pages of their own. The better valid slot counts. A file without a valid slot
//! is amnesia, too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::folder::replace;
use super::point::{CommitPoint, POINT_BYTES};
use crate::protocol::codec::DecodeError;

/// Slots lie this far apart: a page, the most that a torn write is expected to spoil.
const SLOT_BYTES: usize = 4096;

/// The mark of one data folder, open for writing.
#[derive(Debug)]
pub struct Mark {
    file: File,
    path: PathBuf,
    /// What the better slot holds.
    at: CommitPoint,
    /// The other slot: 0 or 1.
    next: usize,
}

/// Why a mark could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// Neither slot is valid: how far the store had come is not known.
    #[error("{path} is damaged: {first}; {second}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with the first slot.
        first: DecodeError,
        /// What is wrong with the second slot.
        second: DecodeError,
    },
    /// The file system refused.
    #[error("cannot read or write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Mark {
    /// Makes a mark at `at`, durably.
    ///
    /// # Errors
    /// [`MarkError::Io`].
    pub fn create(path: &Path, at: CommitPoint) -> Result<Self, MarkError> {
        let slot = at.encode();
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        bytes[..POINT_BYTES].copy_from_slice(&slot);
        bytes[SLOT_BYTES..SLOT_BYTES + POINT_BYTES].copy_from_slice(&slot);
        let failed = |source| MarkError::Io { path: path.into(), source };
        replace(path, &bytes).map_err(failed)?;
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        Ok(Self { file, path: path.into(), at, next: 0 })
    }

    /// Opens the mark at `path`; none if there is no such file.
    ///
    /// # Errors
    /// [`MarkError::Damaged`] if no slot is valid, [`MarkError::Io`].
    pub fn open(path: &Path) -> Result<Option<Self>, MarkError> {
        let failed = |source| MarkError::Io { path: path.into(), source };
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::with_capacity(2 * SLOT_BYTES);
        let limit = 2 * SLOT_BYTES as u64;
        Read::by_ref(&mut file).take(limit).read_to_end(&mut bytes).map_err(failed)?;
        let (at, next) = match (slot(&bytes, 0), slot(&bytes, 1)) {
            (Ok(first), Ok(second)) if second.number > first.number => (second, 0),
            (Ok(first), _) => (first, 1),
            (Err(_), Ok(second)) => (second, 0),
            (Err(first), Err(second)) => {
                return Err(MarkError::Damaged { path: path.into(), first, second });
            }
        };
        Ok(Some(Self { file, path: path.into(), at, next }))
    }

    /// Where the mark stands.
    #[must_use]
    pub fn at(&self) -> CommitPoint {
        self.at
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same mark, through a file that cannot be written.
    #[cfg(test)]
    pub(super) fn read_only(mut self) -> Self {
        self.file = File::open(&self.path).expect("it was opened before");
        self
    }

    /// Raises the mark to `point`, durably; does nothing if it stands there already.
    ///
    /// # Errors
    /// If the file system refuses; the mark then stands where it stood, as far as is known.
    ///
    /// # Panics
    /// If the mark would sink.
    pub fn raise(&mut self, point: CommitPoint) -> io::Result<()> {
        assert!(point.number >= self.at.number, "the mark sinks from {:?} to {point:?}", self.at);
        if point.number == self.at.number {
            return Ok(());
        }
        let offset = (self.next * SLOT_BYTES) as u64;
        self.file.write_all_at(&point.encode(), offset)?;
        self.file.sync_data()?;
        self.at = point;
        self.next = 1 - self.next;
        Ok(())
    }
}

/// The point in one slot of the file's bytes.
fn slot(bytes: &[u8], index: usize) -> Result<CommitPoint, DecodeError> {
    let start = index * SLOT_BYTES;
    let slot = bytes.get(start..start + POINT_BYTES).ok_or(DecodeError::Truncated)?;
    CommitPoint::decode(&Bytes::copy_from_slice(slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CommitNumber, Stamp};
    use proptest::prelude::*;

    fn point(number: u64) -> CommitPoint {
        CommitPoint { number: CommitNumber(number), clock: Stamp(number * 10) }
    }

    fn reopened(path: &Path) -> CommitPoint {
        Mark::open(path).unwrap().unwrap().at()
    }

    #[test]
    fn a_mark_comes_back_after_any_number_of_raises() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("MARK");
        assert!(Mark::open(&path).unwrap().is_none());
        let mut mark = Mark::create(&path, CommitPoint::default()).unwrap();
        for number in [1, 2, 3, 7, 8, 20] {
            mark.raise(point(number)).unwrap();
            assert_eq!(reopened(&path), point(number));
            if number == 7 {
                mark = Mark::open(&path).unwrap().unwrap();
            }
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * SLOT_BYTES as u64);
    }

    #[test]
    fn a_torn_write_leaves_the_slot_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("MARK");
        let mut mark = Mark::create(&path, CommitPoint::default()).unwrap();
        for number in 1..=6 {
            mark.raise(point(number)).unwrap();
            let torn = ((1 - mark.next) * SLOT_BYTES) as u64;
            mark.file.write_all_at(&[0xee; 9], torn + 3).unwrap();
            assert_eq!(reopened(&path), point(number - 1));
            mark.file.write_all_at(&point(number).encode(), torn).unwrap();
        }
    }

    #[test]
    fn a_mark_without_a_valid_slot_is_an_error_and_not_a_fresh_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("MARK");
        for bytes in [vec![], vec![0; 2 * SLOT_BYTES], vec![0xff; 30]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(Mark::open(&path), Err(MarkError::Damaged { .. })));
        }
    }

    #[test]
    fn a_mark_that_stands_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("MARK");
        let mut mark = Mark::create(&path, CommitPoint::default()).unwrap();
        mark.raise(point(5)).unwrap();
        let mut mark = mark.read_only();
        mark.raise(point(5)).unwrap();
        assert!(mark.raise(point(6)).is_err(), "the file is open for reading only");
        assert_eq!(mark.at(), point(5));
    }

    #[test]
    #[should_panic(expected = "the mark sinks")]
    fn a_mark_never_sinks() {
        let folder = tempfile::tempdir().unwrap();
        let mut mark = Mark::create(&folder.path().join("MARK"), point(5)).unwrap();
        let _ = mark.raise(point(4));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_in_a_mark_never_panic(
            head in prop::collection::vec(any::<u8>(), 0..64),
            tail in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("MARK");
            let mut bytes = head;
            if !tail.is_empty() {
                bytes.resize(SLOT_BYTES, 0);
                bytes.extend(tail);
            }
            std::fs::write(&path, bytes).unwrap();
            let _ = Mark::open(&path);
        }
    }
}
