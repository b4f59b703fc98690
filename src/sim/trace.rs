//! What happened: a hash over every event, and on demand lines that a person can read.
//!
//! The hash is what makes "one seed, one run" a claim that can be tested. The lines cost nothing
//! while nobody wants them: they are made by closures.
//!
//! ```text
//!                 0  1  2
//!      8.004212s  ●  │  │  ← client-3 get c0 Quorum
//!      8.004513s  │  │  ●  ← node-0 Read c0, if not as here, call 71
//!      8.010000s  ─  ─  ─  Symmetric partition: cut [(0, 2), (2, 0)]
//!      8.012000s  │  ●  │  is killed: 0 of 1 unreported commits survive
//!      8.012304s  ●     ┊  → client-3 read [..]
//! ```
//!
//! A column a node: `│` while it runs, `┊` while it is stopped, nothing while it is down, and `●`
//! where something happens; a line across is of the whole world.

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

/// The columns are named again after so many lines.
const HEAD_EVERY: usize = 50;

/// What a node's column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Down,
    Runs,
    Stopped,
}

/// The trace of one run.
pub(super) struct Trace {
    hasher: Xxh3,
    mode: TraceMode,
    lines: Vec<String>,
    lanes: Vec<Lane>,
}

impl Trace {
    pub(super) fn new(mode: TraceMode, nodes: usize) -> Self {
        Self { hasher: Xxh3::new(), mode, lines: Vec::new(), lanes: vec![Lane::Down; nodes] }
    }

    /// A node's column shows this from now on.
    pub(super) fn set_lane(&mut self, node: usize, lane: Lane) {
        if node >= self.lanes.len() {
            self.lanes.resize(node + 1, Lane::Down);
        }
        self.lanes[node] = lane;
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
        if self.lines.len().is_multiple_of(HEAD_EVERY) {
            let names: Vec<String> = (0..self.lanes.len()).map(|node| node.to_string()).collect();
            self.lines.push(format!("{:12}  {}", "", names.join("  ")));
        }
        let mut line = String::with_capacity(128);
        let _ = write!(line, "{}  ", clock_face(time));
        for (node, lane) in self.lanes.iter().enumerate() {
            line.push(match (who, lane) {
                (None, _) => '─',
                (Some(who), _) if who == node => '●',
                (Some(_), Lane::Runs) => '│',
                (Some(_), Lane::Stopped) => '┊',
                (Some(_), Lane::Down) => ' ',
            });
            line.push_str("  ");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_where_it_happens_and_who_is_there() {
        let mut trace = Trace::new(TraceMode::Lines, 3);
        (0..3).for_each(|node| trace.set_lane(node, Lane::Runs));
        trace.say(1_500_000, Some(0), || "speaks".into());
        trace.set_lane(1, Lane::Down);
        trace.set_lane(2, Lane::Stopped);
        trace.say(2_000_001, Some(0), || "is alone".into());
        trace.say(2_000_002, None, || "all is healed".into());
        let expected = [
            "              0  1  2",
            "   1.500000s  ●  │  │  speaks",
            "   2.000001s  ●     ┊  is alone",
            "   2.000002s  ─  ─  ─  all is healed",
        ];
        assert_eq!(trace.lines(), expected);
    }
}
