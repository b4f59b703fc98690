//! What is wrong with a configuration: everything at once, so that it is mended at once.

use std::fmt;

use super::layers::Origin;

/// A configuration that cannot be used. Nothing was started.
#[derive(Debug)]
pub struct ConfigError {
    /// Everything that was found wrong; at least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not TOML.
    #[error("{path} is not valid TOML: {source}")]
    Syntax {
        /// The file.
        path: String,
        /// Why, and where.
        source: config::ConfigError,
    },
    /// A flag is not of the form `section.key=value`.
    #[error("the flag --set {flag}: write it as section.key=value")]
    Flag {
        /// The flag.
        flag: String,
    },
    /// No such setting exists.
    #[error("unknown setting `{}` (from {origin}): {advice}", shortened(key))]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it came from.
        origin: Origin,
        /// The nearest known key, or where to look.
        advice: String,
    },
    /// A value is not allowed.
    #[error("{key} = {} (from {origin}): {why}", shortened(value))]
    Invalid {
        /// The key.
        key: &'static str,
        /// The value, as a file would write it.
        value: String,
        /// Where it came from.
        origin: Origin,
        /// What is allowed, or what else must be set.
        why: String,
    },
}

/// Enough of a text to recognise it.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 120;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problems[..] {
            [one] => write!(f, "the configuration cannot be used: {one}"),
            many => {
                f.write_str("the configuration cannot be used:")?;
                many.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}
