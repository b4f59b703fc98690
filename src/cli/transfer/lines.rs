//! Lines of a file, numbered and bounded.

use std::io::{self, BufRead, Read as _};

/// Longest line that is read, in bytes: a record of the largest key and value (4 KiB and, by
/// default, 1 MiB) with every byte written as a six-character JSON escape, and much to spare.
pub const LINE_BYTES_MAX: u64 = 64 << 20;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A line, without its line feed.
    Line(Vec<u8>),
    /// A line of more than [`LINE_BYTES_MAX`] bytes: reading cannot go on.
    TooLong,
    /// The end of the file.
    End,
}

/// Reads the next line; a last line may lack its line feed.
///
/// # Errors
/// Whatever reading returns.
pub fn next(input: &mut impl BufRead) -> io::Result<Next> {
    let mut line = Vec::new();
    let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(Next::End);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if read as u64 == LINE_BYTES_MAX {
        return Ok(Next::TooLong);
    }
    Ok(Next::Line(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_line_may_lack_its_line_feed_and_empty_lines_are_lines() {
        let mut input = &b"a\n\nb"[..];
        let mut lines = Vec::new();
        while let Next::Line(line) = next(&mut input).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, [b"a".to_vec(), Vec::new(), b"b".to_vec()]);
    }

    #[test]
    fn a_line_without_end_is_refused_and_not_buffered() {
        let mut input = io::BufReader::new(io::repeat(b'x'));
        assert_eq!(next(&mut input).unwrap(), Next::TooLong);
    }
}
