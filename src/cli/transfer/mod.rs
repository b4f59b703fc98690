//! Getting records in and out: `import` and `export`, and their two line formats.
//!
//! ```text
//!   file ─ lines ─▶ Format::decode ─▶ lanes by key ─▶ client ─▶ any node
//!   file ◀─ lines ─ Format::encode ◀─ pages ◀─ Scan ◀─ any node
//! ```

mod export;
mod import;
mod lines;
pub mod ndjson;
pub mod tsv;

use std::path::Path;

use clap::ValueEnum;

pub use export::{ExportArgs, export};
pub use import::{ImportArgs, import};

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// The key's bytes.
    pub key: Vec<u8>,
    /// The value's bytes.
    pub value: Vec<u8>,
}

/// Why a line is not a record: a sentence that goes on from "line 7: ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LineError(pub String);

/// How records are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Ndjson,
    /// Key, tab, value.
    Tsv,
}

impl LineError {
    fn new(sentence: &str) -> Self {
        Self(sentence.to_owned())
    }
}

impl Format {
    /// The format that was asked for, else the one that the file's name ends in, else NDJSON.
    #[must_use]
    pub fn choose(asked: Option<Self>, file: &Path) -> Self {
        let tsv = || file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tsv"));
        asked.unwrap_or_else(|| if tsv() { Self::Tsv } else { Self::Ndjson })
    }

    /// Appends the record's line, line feed included.
    pub fn encode(self, record: &Record, out: &mut Vec<u8>) {
        match self {
            Self::Ndjson => ndjson::encode(record, out),
            Self::Tsv => tsv::encode(record, out),
        }
    }

    /// Reads a line, given without its line feed.
    ///
    /// # Errors
    /// [`LineError`] if it is not a record.
    pub fn decode(self, line: &[u8]) -> Result<Record, LineError> {
        match self {
            Self::Ndjson => ndjson::decode(line),
            Self::Tsv => tsv::decode(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_the_files_name_unless_asked_otherwise() {
        assert_eq!(Format::choose(None, Path::new("a.TSV")), Format::Tsv);
        assert_eq!(Format::choose(None, Path::new("a.json")), Format::Ndjson);
        assert_eq!(Format::choose(None, Path::new("-")), Format::Ndjson);
        assert_eq!(Format::choose(Some(Format::Ndjson), Path::new("a.tsv")), Format::Ndjson);
    }
}
