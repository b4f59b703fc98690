//! One JSON object a line: `{"key":"…","value":"…"}`.
//!
//! A field that is not UTF-8 is written in base64 under the name `key_b64` or `value_b64`. Both
//! names are read whatever the bytes are, so that a producer may use base64 throughout.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{LineError, Record};

/// A record as a line has it: at most one of the two names of each field is there.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_b64: Option<String>,
}

impl Line {
    /// The line of a key, with its value if it is to be shown.
    #[must_use]
    pub fn of(key: &[u8], value: Option<&[u8]>) -> Self {
        let (key, key_b64) = text_or_base64(key);
        let (value, value_b64) = value.map_or((None, None), text_or_base64);
        Self { key, key_b64, value, value_b64 }
    }
}

/// Appends the record's line, line feed included.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    let line = Line::of(&record.key, Some(&record.value));
    // Strings under fixed names always serialise, and a Vec takes every write.
    let _ = serde_json::to_writer(&mut *out, &line);
    out.push(b'\n');
}

/// Reads a line, given without its line feed.
///
/// # Errors
/// [`LineError`] if it is not an object with one key and one value.
pub fn decode(line: &[u8]) -> Result<Record, LineError> {
    let line: Line = serde_json::from_slice(line)
        .map_err(|error| LineError(format!("not a record: {error}")))?;
    let key = bytes_of("key", line.key, line.key_b64)?;
    let value = bytes_of("value", line.value, line.value_b64)?;
    Ok(Record { key, value })
}

/// The bytes as text if they are UTF-8, else in base64.
#[must_use]
pub fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

fn bytes_of(
    name: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Vec<u8>, LineError> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map_err(|error| LineError(format!("`{name}_b64` is not base64: {error}"))),
        (None, None) => Err(LineError(format!("it has neither `{name}` nor `{name}_b64`"))),
        (Some(_), Some(_)) => Err(LineError(format!("it has both `{name}` and `{name}_b64`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(key: &[u8], value: &[u8]) -> String {
        let mut line = Vec::new();
        encode(&Record { key: key.to_vec(), value: value.to_vec() }, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn text_stays_readable_and_other_bytes_are_base64() {
        assert_eq!(encoded(b"k", "ä\n".as_bytes()), "{\"key\":\"k\",\"value\":\"ä\\n\"}\n");
        assert_eq!(encoded(b"k", b"\xff"), "{\"key\":\"k\",\"value_b64\":\"/w==\"}\n");
    }

    #[test]
    fn lines_without_exactly_one_key_and_value_are_refused() {
        for line in [
            "",
            "{}",
            "[]",
            "{\"key\":\"k\"}",
            "{\"key\":\"k\",\"value\":1}",
            "{\"key\":\"k\",\"key_b64\":\"aw==\",\"value\":\"\"}",
            "{\"key\":\"k\",\"value_b64\":\"?\"}",
            "{\"key\":\"k\",\"value\":\"v\",\"ttl\":1}",
            "{\"key\":\"k\",\"value\":\"v\"} x",
        ] {
            assert!(decode(line.as_bytes()).is_err(), "accepted {line}");
        }
    }

    #[test]
    fn base64_is_read_for_text_too() {
        let record = decode(b"{\"key_b64\":\"aw==\",\"value_b64\":\"\"}").unwrap();
        assert_eq!(record, Record { key: b"k".to_vec(), value: Vec::new() });
    }

    proptest! {
        #[test]
        fn a_record_survives_the_way_through_a_line(key: Vec<u8>, value: Vec<u8>, text: String) {
            for value in [value, text.into_bytes()] {
                let record = Record { key: key.clone(), value };
                let mut line = Vec::new();
                encode(&record, &mut line);
                prop_assert_eq!(line.pop(), Some(b'\n'));
                prop_assert!(!line.contains(&b'\n'));
                prop_assert_eq!(decode(&line), Ok(record));
            }
        }

        #[test]
        fn arbitrary_lines_are_read_or_refused(line: Vec<u8>) {
            let _ = decode(&line);
        }
    }
}
