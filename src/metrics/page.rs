//! The text exposition format of Prometheus, version 0.0.4.
//!
//! ```text
//!   # HELP name What it is.
//!   # TYPE name counter
//!   name{label="value"} 1
//! ```
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write as _};

use super::histogram::Histogram;

/// Microseconds in a second.
const MICROS: f64 = 1e6;

/// A page of metrics that is being written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises, until the process ends; its name ends with `_total`.
    Counter,
    /// It rises and falls.
    Gauge,
    /// Counts of values between bounds.
    Histogram,
}

/// The samples of one metric.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

/// A label's name and value.
type Label<'a> = (&'a str, &'a str);

impl Page {
    /// What a client is to be told that the page is.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a metric, whose samples follow. Each is begun once.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { page: self, name }
    }

    /// A counter with one sample.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: impl Display) {
        self.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// A gauge with one sample.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: impl Display) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// The whole text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"");
            escape(value, &mut self.text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

impl Family<'_> {
    /// A sample of a counter or a gauge.
    pub fn sample(&mut self, labels: &[Label<'_>], value: impl Display) -> &mut Self {
        self.page.line(self.name, "", labels, value);
        self
    }

    /// The samples of a histogram of counts.
    pub fn counts(&mut self, labels: &[Label<'_>], histogram: &Histogram) -> &mut Self {
        self.histogram(labels, histogram, 1.0)
    }

    /// The samples of a histogram of times, in seconds.
    pub fn times(&mut self, labels: &[Label<'_>], histogram: &Histogram) -> &mut Self {
        self.histogram(labels, histogram, MICROS)
    }

    fn histogram(&mut self, labels: &[Label<'_>], histogram: &Histogram, unit: f64) -> &mut Self {
        let snapshot = histogram.snapshot();
        let scaled = |value: u64| value as f64 / unit;
        for (bound, count) in snapshot.up_to {
            let bound = scaled(bound).to_string();
            let with_bound = [labels, &[("le", bound.as_str())]].concat();
            self.page.line(self.name, "_bucket", &with_bound, count);
        }
        let with_bound = [labels, &[("le", "+Inf")]].concat();
        self.page.line(self.name, "_bucket", &with_bound, snapshot.count);
        self.page.line(self.name, "_sum", labels, scaled(snapshot.sum));
        self.page.line(self.name, "_count", labels, snapshot.count);
        self
    }
}

fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_page_is_what_the_format_says() {
        let mut page = Page::default();
        page.counter("a_total", "What it is.", 3_u64);
        let mut family = page.family("b", Kind::Gauge, "Another.");
        family.sample(&[("x", "plain"), ("y", "\"a\\b\"\nc")], 0.5);
        let expected = "\
# HELP a_total What it is.
# TYPE a_total counter
a_total 3
# HELP b Another.
# TYPE b gauge
b{x=\"plain\",y=\"\\\"a\\\\b\\\"\\nc\"} 0.5
";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn times_are_in_seconds_and_buckets_add_up() {
        let histogram = Histogram::new(&[1_000, 2_500_000]);
        for time in [1, 2, 3_000] {
            histogram.record_time(Duration::from_millis(time));
        }
        let mut page = Page::default();
        page.family("t_seconds", Kind::Histogram, "Times.").times(&[("l", "v")], &histogram);
        let expected = "\
# HELP t_seconds Times.
# TYPE t_seconds histogram
t_seconds_bucket{l=\"v\",le=\"0.001\"} 1
t_seconds_bucket{l=\"v\",le=\"2.5\"} 2
t_seconds_bucket{l=\"v\",le=\"+Inf\"} 3
t_seconds_sum{l=\"v\"} 3.003
t_seconds_count{l=\"v\"} 3
";
        assert_eq!(page.into_text(), expected);
    }
}
