//! What goes to the terminal.
//!
//! Data goes to standard output, everything else to standard error. Nothing here panics if the
//! other end has gone: a failed write to standard output is returned (and ends the command
//! quietly), one to standard error is nobody's problem.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

/// Where there is no terminal, progress is a plain line this often.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Default)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON document.
    Json,
}

/// Prints a line of data.
///
/// # Errors
/// If standard output is closed.
pub fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Prints bytes of data as they are; a terminal gets a line feed after them.
///
/// # Errors
/// If standard output is closed.
pub fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    if out.is_terminal() && bytes.last() != Some(&b'\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Prints a document of data.
///
/// # Errors
/// If standard output is closed.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// Tells whoever watches.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// `n` with its digits in groups of three.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 record`, `2 records`.
#[must_use]
pub fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// A duration as people say it: `850 µs`, `3.4 ms`, `12.3 s`.
#[must_use]
pub fn span(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    if micros < 1e3 {
        format!("{micros:.0} µs")
    } else if micros < 99_950.0 {
        format!("{:.1} ms", micros / 1e3)
    } else if micros < 999_500.0 {
        format!("{:.0} ms", micros / 1e3)
    } else {
        format!("{:.1} s", micros / 1e6)
    }
}

/// A bar on a terminal, a plain line every few seconds elsewhere; both on standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    title: String,
    total: Option<u64>,
    unit: &'static str,
    started: Instant,
    spoken: std::sync::Mutex<Instant>,
}

impl Progress {
    /// Starts a bar toward `total` (a spinner without it); `unit` is a plural, such as `records`.
    #[must_use]
    pub fn start(title: &str, total: Option<u64>, unit: &'static str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template = if total.is_some() {
                "{prefix:24} {wide_bar} {human_pos}/{human_len} {msg}"
            } else {
                "{prefix:24} {spinner} {human_pos} {msg}"
            };
            let style = ProgressStyle::with_template(template);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(title.to_owned());
            bar
        });
        let started = Instant::now();
        let title = title.to_owned();
        Self { bar, title, total, unit, started, spoken: started.into() }
    }

    /// Shows how far it has come, with the mean rate.
    pub fn set(&self, position: u64) {
        let message = format!("{}, {}", self.unit, self.rate(position));
        self.show(position, &message);
    }

    /// Shows how far it has come; the message goes on from the number, beginning with its unit.
    pub fn show(&self, position: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
            bar.set_position(position);
        } else if let Ok(mut spoken) = self.spoken.lock()
            && spoken.elapsed() >= PLAIN_EVERY
        {
            *spoken = Instant::now();
            let of = self.total.map(|total| format!(" of {}", grouped(total)));
            let of = of.unwrap_or_default();
            note(format_args!("  {}: {}{of} {message}", self.title, grouped(position)));
        }
    }

    /// Prints a line of data without tearing the bar.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn line(&self, text: impl Display) -> io::Result<()> {
        match &self.bar {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn rate(&self, position: u64) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let rate = position as f64 / seconds;
        format!("{rate:.0}/s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(count(1, "record"), "1 record");
        assert_eq!(count(1200, "record"), "1,200 records");
    }

    #[test]
    fn spans_have_the_unit_that_fits() {
        assert_eq!(span(Duration::from_micros(850)), "850 µs");
        assert_eq!(span(Duration::from_micros(3_400)), "3.4 ms");
        assert_eq!(span(Duration::from_millis(250)), "250 ms");
        assert_eq!(span(Duration::from_millis(12_340)), "12.3 s");
    }
}
