//! What happened: a hash over every event, and on demand lines that a person can read.
//!
//! The hash is what makes "one seed, one run" a claim that can be tested. The lines cost nothing
//! while nobody wants them: they are made by closures.

use std::fmt::Write as _;

use xxhash_rust::xxh3::Xxh3;

use super::clock::Time;

/// Lines kept at most: a trace of a whole run stays below some hundred megabytes.
const LINES_MAX: usize = 2_000_000;

/// Where the trace goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TraceMode {
    /// Only its hash is wanted.
    #[default]
    Hash,
    /// Lines are kept and handed out with the report.
    Lines,
}

/// The trace of one run.
pub(super) struct Trace {
    hasher: Xxh3,
    mode: TraceMode,
    lines: Vec<String>,
}

impl Trace {
    pub(super) fn new(mode: TraceMode) -> Self {
        Self { hasher: Xxh3::new(), mode, lines: Vec::new() }
    }

    /// An event goes into the hash: when, where, what kind, and its bytes.
    pub(super) fn event(&mut self, time: Time, node: usize, kind: u8, bytes: &[u8]) {
        let mut head = [0u8; 17];
        head[..8].copy_from_slice(&time.to_le_bytes());
        head[8..16].copy_from_slice(&(node as u64).to_le_bytes());
        head[16] = kind;
        self.hasher.update(&head);
        self.hasher.update(bytes);
    }

    /// A line for a reader. `who` is a node, or the world if none.
    pub(super) fn say(&mut self, time: Time, who: Option<usize>, what: impl FnOnce() -> String) {
        if self.mode == TraceMode::Hash || self.lines.len() >= LINES_MAX {
            return;
        }
        let mut line = String::with_capacity(96);
        let _ = write!(line, "{}  ", clock_face(time));
        match who {
            Some(node) => _ = write!(line, "node-{node}  "),
            None => line.push_str("*       "),
        }
        line.push_str(&what());
        self.lines.push(line);
    }

    /// The hash of everything so far.
    pub(super) fn hash(&self) -> u64 {
        self.hasher.digest()
    }

    /// Hands out the lines.
    pub(super) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// The lines so far.
    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// Seconds and microseconds, aligned.
pub(super) fn clock_face(time: Time) -> String {
    format!("{:>4}.{:06}s", time / 1_000_000, time % 1_000_000)
}
