//! One record a line: `key TAB value`.
//!
//! ```text
//! bytes:    TAB   LF   CR    \
//! written:  \t    \n   \r    \\      everything else stands for itself
//! ```
//!
//! *One text a record.* Every record has exactly one encoding and every accepted line is the
//! encoding of its record: a sorted export of what was imported equals the sorted input, byte for
//! byte. That is why an unescaped carriage return or a needless escape is refused and not
//! tolerated.

use super::{LineError, Record};

/// Appends the record's line, line feed included.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    escape(&record.key, out);
    out.push(b'\t');
    escape(&record.value, out);
    out.push(b'\n');
}

/// Reads a line, given without its line feed.
///
/// # Errors
/// [`LineError`] for anything that [`encode`] does not write.
pub fn decode(line: &[u8]) -> Result<Record, LineError> {
    if line.contains(&b'\r') {
        return Err(LineError::new(
            "it holds a carriage return, which is written \\r (for a file with CRLF line ends: \
             tr -d '\\r')",
        ));
    }
    let mut fields = line.split(|&byte| byte == b'\t');
    let (Some(key), Some(value), None) = (fields.next(), fields.next(), fields.next()) else {
        let tabs = line.split(|&byte| byte == b'\t').count() - 1;
        return Err(LineError(format!(
            "it has {tabs} tabs instead of one between key and value (a tab within a field is \
             written \\t)"
        )));
    };
    Ok(Record { key: unescape(key)?, value: unescape(value)? })
}

/// Appends a field as it is written.
pub fn escape(field: &[u8], out: &mut Vec<u8>) {
    for &byte in field {
        match byte {
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            plain => out.push(plain),
        }
    }
}

fn unescape(field: &[u8]) -> Result<Vec<u8>, LineError> {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b'\\') => b'\\',
            Some(&other) => {
                let shown = other.escape_ascii();
                return Err(LineError(format!(
                    "it holds the unknown escape \\{shown} (a backslash is written \\\\)"
                )));
            }
            None => {
                return Err(LineError::new(
                    "a field ends in a lone backslash (a backslash is written \\\\)",
                ));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_four_special_bytes_are_escaped_and_others_are_not() {
        let record = Record { key: b"a\tb".to_vec(), value: b"\\ \r\n \xff\0".to_vec() };
        let mut line = Vec::new();
        encode(&record, &mut line);
        assert_eq!(line, b"a\\tb\t\\\\ \\r\\n \xff\0\n");
    }

    #[test]
    fn lines_that_no_record_has_are_refused() {
        for line in ["", "key", "a\tb\tc", "a\tb\\x", "a\tb\\", "a\tb\r"] {
            assert!(decode(line.as_bytes()).is_err(), "accepted {line:?}");
        }
    }

    proptest! {
        #[test]
        fn a_record_survives_the_way_through_a_line(key: Vec<u8>, value: Vec<u8>) {
            let record = Record { key, value };
            let mut line = Vec::new();
            encode(&record, &mut line);
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(!line.contains(&b'\n'));
            prop_assert_eq!(decode(&line), Ok(record));
        }

        #[test]
        fn an_accepted_line_is_the_encoding_of_its_record(
            line in proptest::collection::vec(
                prop_oneof![Just(b'\\'), Just(b'\t'), Just(b'\r'), Just(b't'), Just(b'n'), any::<u8>()],
                0..12,
            ),
        ) {
            prop_assume!(!line.contains(&b'\n'));
            if let Ok(record) = decode(&line) {
                let mut again = Vec::new();
                encode(&record, &mut again);
                again.pop();
                prop_assert_eq!(again, line);
            }
        }
    }
}
