//! Why a hello was rejected, and who it was: strangers are refused, counted and named.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::Mono;

/// Strangers told apart: bounds what they can make us keep.
const STRANGERS_MAX: usize = 64;
/// A stranger is named in the log at most so often, in milliseconds.
const LOG_EVERY_MS: u64 = 60_000;

/// Why a hello was rejected. Travels as its code, a colon and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) code: RejectionCode,
    pub(super) sentence: String,
}

/// What the rejected node is to make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RejectionCode {
    /// It spoke to itself.
    Itself,
    /// It is not of this cluster, or of no format that is understood.
    Stranger,
    /// Try again: what it says is being looked into.
    Later,
    /// Stop: another process with this id lives.
    DuplicateId,
    /// Stop: the cluster knows this disk under another name.
    OtherDisk,
    /// Stop: the name that is claimed is another disk, which lives.
    NameLives,
    /// Stop: this disk was replaced for good.
    Fenced,
    /// Begin anew: this disk was removed for good.
    Removed,
}

impl RejectionCode {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Itself, "itself"),
        (Self::Stranger, "stranger"),
        (Self::Later, "later"),
        (Self::DuplicateId, "duplicate-id"),
        (Self::OtherDisk, "other-disk"),
        (Self::NameLives, "name-lives"),
        (Self::Fenced, "fenced"),
        (Self::Removed, "removed"),
    ];

    pub(super) fn with(self, sentence: impl Into<String>) -> Rejection {
        Rejection { code: self, sentence: sentence.into() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = RejectionCode::ALL.iter().find(|(code, _)| *code == self.code);
        write!(f, "{}: {}", code.map_or("", |(_, text)| text), self.sentence)
    }
}

impl Rejection {
    /// Reads what a peer gave as its reason; none if it is not one of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (code, sentence) = text.split_once(": ")?;
        let &(code, _) = RejectionCode::ALL.iter().find(|(_, text)| *text == code)?;
        Some(code.with(sentence.chars().take(500).collect::<String>()))
    }
}

/// A stranger that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    /// What it says that it is, or its address.
    pub source: String,
    /// Why it was refused the last time.
    pub why: String,
    /// How often.
    pub count: u64,
    /// How long ago the last time was.
    pub last_ms: u64,
}

/// All strangers.
#[derive(Default)]
pub(super) struct Strangers {
    by_source: BTreeMap<String, Seen>,
    pub(super) count: u64,
}

struct Seen {
    why: String,
    count: u64,
    last: Mono,
    logged: Mono,
}

impl Strangers {
    /// Counts a stranger. Says whether it should be named in the log.
    pub(super) fn refused(&mut self, source: &str, why: &str, now: Mono) -> bool {
        self.count += 1;
        if let Some(seen) = self.by_source.get_mut(source) {
            why.clone_into(&mut seen.why);
            seen.count += 1;
            seen.last = now;
            let log = now.micros_since(seen.logged) >= LOG_EVERY_MS * 1000;
            if log {
                seen.logged = now;
            }
            return log;
        }
        let mut log = true;
        if self.by_source.len() >= STRANGERS_MAX {
            let oldest = self.by_source.iter().min_by_key(|(_, seen)| seen.last);
            if let Some((oldest, seen)) = oldest.map(|(key, seen)| (key.clone(), seen.last)) {
                // A flood of ever new strangers must not become a flood of log lines.
                log = now.micros_since(seen) >= LOG_EVERY_MS * 1000;
                self.by_source.remove(&oldest);
            }
        }
        self.by_source.insert(
            source.to_owned(),
            Seen { why: why.to_owned(), count: 1, last: now, logged: now },
        );
        log
    }

    pub(super) fn report(&self, now: Mono) -> Vec<Stranger> {
        let each = |(source, seen): (&String, &Seen)| Stranger {
            source: source.clone(),
            why: seen.why.clone(),
            count: seen.count,
            last_ms: now.micros_since(seen.last) / 1000,
        };
        self.by_source.iter().map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_comes_back_and_another_text_is_none_of_ours() {
        for (code, _) in RejectionCode::ALL {
            let rejection = code.with("because: so");
            assert_eq!(Rejection::parse(&rejection.to_string()), Some(rejection));
        }
        assert_eq!(Rejection::parse("go away"), None);
        assert_eq!(Rejection::parse("nonsense: go away"), None);
    }

    #[test]
    fn a_flood_of_strangers_is_bounded_and_logged_seldom() {
        let mut strangers = Strangers::default();
        let log = |i: u64| strangers.refused(&format!("s{i}"), "no", Mono(i));
        let logged = (0..10_000).map(log).filter(|&log| log).count();
        assert_eq!(logged, STRANGERS_MAX);
        assert_eq!(strangers.count, 10_000);
        assert_eq!(strangers.report(Mono(10_000)).len(), STRANGERS_MAX);
        assert!(!strangers.refused("s9999", "no", Mono(10_001)));
        let later = Mono(10_000).after_millis(LOG_EVERY_MS);
        assert!(strangers.refused("s9999", "no", later));
    }
}
