//! The text exposition format of Prometheus, version 0.0.4.
//!
//! ```text
//!   # HELP name What it is.
//!   # TYPE name counter
//!   name{label="value"} 1
//! ```
//!
//! The resource becomes the gauge `target_info`, as OpenTelemetry's Prometheus exporter has it.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{self, Display, Write as _};

use super::page::{Kind, Number, Page, Sample, Value};

/// What a client is to be told that the text is.
pub const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole page.
#[must_use]
pub fn text(page: &Page) -> String {
    let mut out = String::new();
    if !page.resource.is_empty() {
        head(&mut out, "target_info", Kind::Gauge, "The resource that all of this is about.");
        let names: Vec<_> = page.resource.iter().map(|(name, _)| name.replace('.', "_")).collect();
        let values = page.resource.iter().map(|(_, value)| value.as_str());
        let labels: Vec<_> = names.iter().map(String::as_str).zip(values).collect();
        line(&mut out, "target_info", "", &labels, 1);
    }
    for family in &page.families {
        head(&mut out, family.name, family.kind, family.help);
        family.samples.iter().for_each(|sample| lines(&mut out, family.name, sample));
    }
    out
}

fn head(out: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn lines(out: &mut String, name: &str, sample: &Sample) {
    let labels = sample.labels.iter().map(|(name, value)| (*name, value.as_str()));
    let labels: Vec<(&str, &str)> = labels.collect();
    let distribution = match &sample.value {
        Value::Number(number) => return line(out, name, "", &labels, number),
        Value::Distribution(distribution) => distribution,
    };
    for (bound, count) in &distribution.up_to {
        let bound = bound.to_string();
        let with_bound = [&labels[..], &[("le", bound.as_str())]].concat();
        line(out, name, "_bucket", &with_bound, count);
    }
    let with_bound = [&labels[..], &[("le", "+Inf")]].concat();
    line(out, name, "_bucket", &with_bound, distribution.count);
    line(out, name, "_sum", &labels, distribution.sum);
    line(out, name, "_count", &labels, distribution.count);
}

fn line(out: &mut String, name: &str, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
    out.push_str(name);
    out.push_str(suffix);
    for (at, (label, value)) in labels.iter().enumerate() {
        out.push(if at == 0 { '{' } else { ',' });
        let _ = write!(out, "{label}=\"");
        escape(value, out);
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
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

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(count) => count.fmt(f),
            Self::Real(measure) => measure.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;
    use std::time::Duration;

    #[test]
    fn a_page_is_what_the_format_says() {
        let mut page = Page::default();
        page.resource.push(("service.name", "coterie".to_owned()));
        page.counter("a_total", "What it is.", 3_u64);
        let family = page.family("b", Kind::Gauge, "Another.");
        family.sample(&[("x", "plain"), ("y", "\"a\\b\"\nc")], 0.5);
        let expected = "\
# HELP target_info The resource that all of this is about.
# TYPE target_info gauge
target_info{service_name=\"coterie\"} 1
# HELP a_total What it is.
# TYPE a_total counter
a_total 3
# HELP b Another.
# TYPE b gauge
b{x=\"plain\",y=\"\\\"a\\\\b\\\"\\nc\"} 0.5
";
        assert_eq!(text(&page), expected);
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
        assert_eq!(text(&page), expected);
    }
}
