//! Writes events as they happen.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;

use super::Event;

/// Takes events from many tasks and writes each as one line.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    next_op: AtomicU64,
    file: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    to: File,
    failed: Option<std::io::Error>,
}

impl Recorder {
    /// Makes the file; one that is there is overwritten.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let file = Mutex::new(Writer { to: file, failed: None });
        Ok(Self { began: Instant::now(), next_op: AtomicU64::new(0), file })
    }

    /// Microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A number for an operation.
    pub fn next_op(&self) -> u64 {
        self.next_op.fetch_add(1, Relaxed)
    }

    /// Writes an event, and hands it to the kernel: what was told is there when the harness is killed.
    /// A failure is told by [`Recorder::finish`].
    pub fn record(&self, event: &Event) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let line = serde_json::to_string(event).map_err(std::io::Error::from);
        let written = line.and_then(|line| file.to.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            file.failed.get_or_insert(error);
        }
    }

    /// Whether everything was written.
    ///
    /// # Errors
    /// If any of it could not be.
    pub fn finish(&self) -> anyhow::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = file.failed.take();
        failed.map_or(Ok(()), Err).context("the history is not whole: it could not be written")
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.ndjson");
        let recorder = Recorder::create(&path).unwrap();
        let (a, b) = (testing::write(0, "k", "v", 1, 2), testing::read(1, "k", &["v"], 3, 4));
        for event in a.iter().chain(&b) {
            recorder.record(event);
        }
        // A run that is broken off leaves an operation without an end.
        recorder.record(&testing::write(2, "k", "w", 5, 6)[0]);
        recorder.finish().unwrap();
        let history = History::read(&path).unwrap();
        assert_eq!(history.ops.len(), 3);
        assert_eq!(history.ops[1].answer().unwrap().values.as_deref(), Some(&["v".to_owned()][..]));
        assert!(history.ops[2].is_unknown() && !history.ops[0].is_unknown());
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_any_other_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.ndjson");
        let recorder = Recorder::create(&path).unwrap();
        testing::write(0, "k", "v", 1, 2).iter().for_each(|event| recorder.record(event));
        // Nothing has finished it: each line is there all the same.
        let whole = std::fs::read_to_string(&path).unwrap();
        assert_eq!(whole.lines().count(), 2);
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        let history = History::read(&path).unwrap();
        assert!(history.ops.len() == 1 && history.ops[0].is_unknown());
        std::fs::write(&path, format!("{{\n{whole}")).unwrap();
        assert!(History::read(&path).unwrap_err().to_string().contains("line 1"));
    }
}
