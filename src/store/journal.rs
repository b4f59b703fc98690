//! Looks through the engine's journals, raw, before the engine opens them.
//!
//! The engine replays its journal up to the first thing that it cannot read and cuts the file off
//! there, without a word if it takes the rest for a torn write. In the middle of a journal that
//! drops everything behind. And where a torn write happens to look whole, it does not open at
//! all. Here the two are told apart from an ordinary torn tail:
//!
//! ```text
//!  ├ batch 7 ┤├ batch 8 ┤├ torn batch 9 ┄ zeros          ordinary: 9 was never acknowledged
//!  ├ batch 7 ┤├ ?????? ┤├ batch 9, "8 was synced" ┤      amnesia: 8 was acknowledged
//! ```
//!
//! Each batch says up to which commit everything was on disk when it was written. If a whole batch
//! lies behind the point where recovery would end, and what it takes for synced is not in front
//! of that point, acknowledged writes are lost. With buffered durability, whole batches may lie
//! behind a hole after a power cut without any of them having been promised to be there.
//!
//! Nor does the engine's checksum cover a batch's sequence number, which decides between two
//! writes of one key. It rises from batch to batch; where it does not, one of the two is damaged.
//!
//! The engine's format (version 3), little-endian:
//!
//! ```text
//!  batch  1 ‖ count (4) ‖ sequence number (8) ‖ entry … ‖ 3 ‖ xxh3-64 of the entries (8) ‖ "FJL" 3
//!  entry  2 ‖ type (1) ‖ compression (1) ‖ keyspace (8) ‖ key's length (2) ‖ value's (4)
//!           ‖ stored value's (4) ‖ key ‖ value           or       4 ‖ keyspace (8)
//! ```
//!
//! A journal is preallocated: zeros behind its end mean nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::open::Loss;
use super::point::{BatchPoint, COMMIT_KEY};
use crate::types::CommitNumber;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8] = b"FJL\x03";
/// A removal, a plain value and the like; 3 is not used.
const VALUE_TYPES: [u8; 4] = [0, 1, 2, 4];
/// None and LZ4.
const COMPRESSIONS: [u8; 2] = [0, 1];

/// Sequence numbers that the engine may use for itself between two batches: a few in fact.
const SEQUENCE_GAP_MAX: u64 = 1 << 32;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A journal or a manifest could not be read, or a journal's tail could not be set aside.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the {what} {path}: check the disk")]
pub struct JournalError {
    /// What was tried.
    pub doing: &'static str,
    /// What kind of file it is.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

/// Looks through all journals of an engine's folder, which may not exist yet. A tail that would
/// keep the engine from opening, and that nobody was promised, is copied beside the engine's
/// folder and cut off.
///
/// # Errors
/// If a file cannot be read or cut.
pub(super) fn check(engine: &Path) -> Result<Option<Loss>, JournalError> {
    let mut newest = None;
    let mut sequence = None;
    for path in journals(engine)? {
        let bytes = content(&path).map_err(|error| failure("read", &path, error))?;
        let mut cut = 0;
        let fault = loop {
            match parse(&bytes[cut..]) {
                Ok(batch) => {
                    if lost_before(batch.point, newest) {
                        let whole = cut as u64;
                        return Ok(Some(Loss::DamagedJournal { path, cut: whole, whole }));
                    }
                    if !in_order(sequence, batch.sequence) {
                        return Ok(Some(Loss::DisorderedJournal { path, at: cut as u64 }));
                    }
                    sequence = Some(batch.sequence);
                    newest = batch.point.map(|found| found.point.number).or(newest);
                    cut += batch.len;
                }
                Err(fault) => break fault,
            }
        };
        if let Some(behind) = promised_behind(&bytes[cut..], newest) {
            let (cut, whole) = (cut as u64, (cut + behind) as u64);
            return Ok(Some(Loss::DamagedJournal { path, cut, whole }));
        }
        if fault == Fault::LooksWhole {
            set_aside(engine, &path, cut, &bytes[cut..])?;
        }
    }
    Ok(None)
}

/// Why no batch begins here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The journal ends, or the batch is torn: the engine drops it.
    Torn,
    /// It has a beginning and an end, but is not what was written: the engine does not open.
    LooksWhole,
}

/// A batch whose checksum fits.
struct Batch {
    len: usize,
    /// Decides between two writes of one key; rises from batch to batch. Not under the checksum.
    sequence: u64,
    /// What it says of itself, if the committer wrote it.
    point: Option<BatchPoint>,
}

/// Whether a batch may follow the one before it. The engine takes any number as it comes; a
/// damaged one would let an old write win over newer ones.
fn in_order(before: Option<u64>, sequence: u64) -> bool {
    before.is_none_or(|before| sequence > before && sequence - before <= SEQUENCE_GAP_MAX)
}

/// Whether a batch shows that something between it and `newest` was durable, and is gone.
fn lost_before(batch: Option<BatchPoint>, newest: Option<CommitNumber>) -> bool {
    match (batch, newest) {
        (Some(batch), Some(newest)) => batch.synced > newest,
        // The oldest journal may begin with any number: those before it are in tables.
        (_, None) | (None, _) => false,
    }
}

/// Where, behind a damaged place, a whole batch shows that what was damaged had been durable.
fn promised_behind(damaged: &[u8], newest: Option<CommitNumber>) -> Option<usize> {
    (1..damaged.len()).filter(|start| damaged[*start] == START).find(|start| {
        let Ok(Batch { point: Some(batch), .. }) = parse(&damaged[*start..]) else { return false };
        // With nothing sound in front, what is known is that the batch before this one is gone.
        let newest = newest.unwrap_or(CommitNumber(batch.point.number.0.saturating_sub(2)));
        batch.synced > newest
    })
}

/// Reads the batch that `bytes` begin with.
fn parse(bytes: &[u8]) -> Result<Batch, Fault> {
    let mut rest = bytes;
    if take(&mut rest, 1)? != [START] {
        return Err(Fault::Torn);
    }
    let mut left = number(take(&mut rest, 4)?);
    let sequence = number(take(&mut rest, 8)?);
    let mut hasher = Xxh3::new();
    let mut point = None;
    loop {
        let entry = rest;
        match take(&mut rest, 1)?[0] {
            ITEM => point = item(&mut rest)?.or(point),
            CLEAR => drop(take(&mut rest, 8)?),
            END => {
                let checksum = number(take(&mut rest, 8)?);
                if take(&mut rest, MAGIC.len())? != MAGIC {
                    return Err(Fault::Torn);
                }
                if left > 0 || checksum != hasher.digest() {
                    return Err(Fault::LooksWhole);
                }
                return Ok(Batch { len: bytes.len() - rest.len(), sequence, point });
            }
            _ => return Err(Fault::Torn),
        }
        hasher.update(&entry[..entry.len() - rest.len()]);
        left = left.checked_sub(1).ok_or(Fault::LooksWhole)?;
    }
}

/// Reads an item behind its tag; returns what it says of the batch, if it is the commit's point.
fn item(rest: &mut &[u8]) -> Result<Option<BatchPoint>, Fault> {
    let head = take(rest, 2)?;
    if !VALUE_TYPES.contains(&head[0]) || !COMPRESSIONS.contains(&head[1]) {
        return Err(Fault::Torn);
    }
    let _keyspace = take(rest, 8)?;
    let key = number(take(rest, 2)?);
    let _unpacked = take(rest, 4)?;
    let value = number(take(rest, 4)?);
    let key = take(rest, usize::try_from(key).map_err(|_| Fault::Torn)?)?;
    let value = take(rest, usize::try_from(value).map_err(|_| Fault::Torn)?)?;
    if key != COMMIT_KEY {
        return Ok(None);
    }
    // A record may have this key, too; its value does not have this checksum.
    Ok(BatchPoint::decode(&Bytes::copy_from_slice(value)).ok())
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Fault> {
    let (taken, left) = rest.split_at_checked(len).ok_or(Fault::Torn)?;
    *rest = left;
    Ok(taken)
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The journals of an engine's folder, oldest first.
fn journals(engine: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let failed = |error| failure("find", engine, error);
    let entries = match std::fs::read_dir(engine) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let id = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl"));
        if let Some(Ok(id)) = id.map(str::parse::<u64>) {
            found.push((id, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// A file's bytes without the zeros at its end.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    let mut zeros = 0;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let len = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = chunk[..len].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if end > 0 {
            bytes.resize(bytes.len() + zeros, 0);
            bytes.extend_from_slice(&chunk[..end]);
            zeros = 0;
        }
        zeros += len - end;
    }
    Ok(bytes)
}

/// Copies a tail beside the engine's folder, durably, and cuts it off.
fn set_aside(engine: &Path, path: &Path, cut: usize, tail: &[u8]) -> Result<(), JournalError> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let aside = engine.with_file_name(format!("torn-{name}-{cut}"));
    super::folder::replace(&aside, tail).map_err(|error| failure("set aside", path, error))?;
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|file| file.set_len(cut as u64).and_then(|()| file.sync_all()))
        .map_err(|error| failure("cut", path, error))?;
    tracing::warn!(
        journal = %path.display(), at = cut, bytes = tail.len(), copy = %aside.display(),
        "a torn write was cut off a journal; nobody had been told that it was stored",
    );
    Ok(())
}

fn failure(doing: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError { doing, what: "journal", path: path.into(), source }
}
