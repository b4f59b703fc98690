//! Checkers: each holds one promise of the store against a history.
//!
//! A checker knows the history and nothing else. It counts what it could judge and what it could
//! not, so that a promise that was never put to the test is not shown as kept.
//!
//! A write that took several attempts is judged with care: the store promises that a retry with
//! the same request id is recognised *while the value lives*. Once it was superseded, an early
//! attempt that was long under way counts as another write, and may show the value again.

mod availability;
mod causal;
mod convergence;
mod deletes;
mod dots;
mod register;
mod sessions;
mod set;
mod winner;

use serde::Serialize;

pub use self::availability::{Availability, availability};
use crate::history::History;
use crate::scenario::WorkloadKind;

/// What a checker has found.
#[derive(Clone, Debug, Serialize)]
pub struct Judgement {
    /// Its name.
    pub id: &'static str,
    /// The promise.
    pub promise: &'static str,
    /// How many cases it has judged.
    pub judged: usize,
    /// How many it could not judge.
    pub open: usize,
    /// The workload that puts it to the test, if it is a certain one.
    pub workload: Option<WorkloadKind>,
    /// What else was seen.
    pub note: String,
    /// Where the promise was broken.
    pub violations: Vec<Violation>,
}

/// A promise broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// What happened to it.
    pub what: String,
    /// Whether an acknowledged write is gone.
    pub lost: bool,
}

impl Judgement {
    /// Nothing judged yet.
    pub fn new(id: &'static str, promise: &'static str) -> Self {
        let (workload, note, violations) = (None, String::new(), Vec::new());
        Self { id, promise, judged: 0, open: 0, workload, note, violations }
    }

    /// Nothing judged yet, of what a workload puts to the test.
    pub fn of(workload: WorkloadKind, id: &'static str, promise: &'static str) -> Self {
        Self { workload: Some(workload), ..Self::new(id, promise) }
    }

    /// An acknowledged write is gone.
    pub fn lost(&mut self, key: &str, what: impl Into<String>) {
        self.violations.push(Violation { key: key.to_owned(), what: what.into(), lost: true });
    }

    /// A promise other than that was broken.
    pub fn wrong(&mut self, key: &str, what: impl Into<String>) {
        self.violations.push(Violation { key: key.to_owned(), what: what.into(), lost: false });
    }
}

/// Runs every checker.
pub fn judge(history: &History) -> Vec<Judgement> {
    vec![
        set::judge(history),
        causal::judge(history),
        dots::judge(history),
        register::judge(history),
        winner::judge(history),
        convergence::judge(history),
        deletes::judge(history),
        sessions::judge(history),
        availability::judge(history),
    ]
}
