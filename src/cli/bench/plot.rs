//! `--plot`: the rows as a picture, written by hand.
//!
//! ```text
//!   get · N=3 R=2 · 50   ████████████████ 31,000/s     ·──────·────·
//!   set · N=3 W=2 fsync  ███████ 14,000/s                  ·──────·────·
//!                        requests a second             p50, p99, p99.9 (logarithmic)
//! ```
//!
//! Its colours follow the reader's preference for light or dark.

use std::fmt::Write as _;
use std::time::Duration;

use super::row::Row;
use crate::cli::term;

/// Pixels of the picture's parts.
const WIDTH: f64 = 960.0;
const LABELS: f64 = 250.0;
const BARS: f64 = 300.0;
const GAP: f64 = 110.0;
const LATENCIES: f64 = 260.0;
const ROW: f64 = 34.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 34.0;

/// Classes rather than variables: not every program that shows pictures knows those.
const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
text.faint { fill: #59636e; font-size: 12px }
.ground { fill: #ffffff } .line { stroke: #d1d9e0 } .span { stroke: #59636e; stroke-width: 2 }
.own { fill: #0969da } .echo { fill: #818b98 } .tail { fill: #cf222e }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } text.faint { fill: #9198a1 }
.ground { fill: #0d1117 } .line { stroke: #3d444d } .span { stroke: #9198a1 }
.own { fill: #4493f8 } .echo { fill: #656c76 } .tail { fill: #f85149 }
}";

/// A scale of powers of ten, from a first to a last one, over so many pixels.
struct Decades {
    first: i32,
    last: i32,
}

/// The picture of rows, of which there is at least one.
#[must_use]
pub fn svg(rows: &[Row]) -> String {
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>Throughput and latency of {} measurements</title>\n<style>\n{STYLE}\n</style>\n\
         <rect width=\"100%\" height=\"100%\" class=\"ground\"/>\n",
        rows.len()
    );
    let decades = Decades::of(rows);
    head(&decades, height, &mut out);
    let most = rows.iter().map(|row| row.per_second).fold(1.0, f64::max);
    for (at, row) in rows.iter().enumerate() {
        let middle = TOP + ROW * (at as f64 + 0.5);
        bar(row, row.per_second / most, middle, &mut out);
        latencies(row, &decades, middle, &mut out);
    }
    out.push_str("</svg>\n");
    out
}

/// Titles of the columns, and the lines of the latencies' scale.
fn head(decades: &Decades, height: f64, out: &mut String) {
    let left = LABELS + BARS + GAP;
    text(LABELS, 24.0, "", "requests a second", out);
    text(left, 24.0, "", "latency: p50, p99, p99.9", out);
    for power in decades.first..=decades.last {
        let micros = 10_f64.powi(power);
        let x = left + LATENCIES * decades.part(micros);
        let bottom = height - BOTTOM;
        let _ = writeln!(
            out,
            "<line class=\"line\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>"
        );
        let label = term::span(Duration::from_secs_f64(micros / 1e6)).replace(".0 ", " ");
        text(x, height - BOTTOM + 18.0, "class=\"faint\" text-anchor=\"middle\"", &label, out);
    }
}

fn bar(row: &Row, part: f64, middle: f64, out: &mut String) {
    let conditions = &row.conditions;
    let label = match conditions.n {
        0 => conditions.workload.to_owned(),
        _ => format!("{} · {}", conditions.workload, conditions.promise()),
    };
    let unit = if conditions.in_flight.is_some() { " in flight" } else { "" };
    let load = format!("{} · {}{unit}", conditions.servers(), conditions.load());
    let end = "text-anchor=\"end\"";
    text(LABELS - 12.0, middle - 2.0, end, &label, out);
    text(LABELS - 12.0, middle + 12.0, &format!("class=\"faint\" {end}"), &load, out);
    let (width, top) = ((BARS * part).max(1.0), middle - 9.0);
    let colour = if conditions.n == 0 { "echo" } else { "own" };
    let _ = writeln!(
        out,
        "<rect x=\"{LABELS}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"18\" rx=\"2\" \
         class=\"{colour}\"/>"
    );
    let rate = format!("{:.0}", row.per_second);
    text(LABELS + width + 8.0, middle + 4.0, "", &rate, out);
}

fn latencies(row: &Row, decades: &Decades, middle: f64, out: &mut String) {
    let left = LABELS + BARS + GAP;
    let x = |micros: f64| left + LATENCIES * decades.part(micros);
    let (from, to) = (x(row.p50_us), x(row.p999_us));
    let _ = writeln!(
        out,
        "<line x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\" \
         class=\"span\"/>"
    );
    let colour = if row.conditions.n == 0 { "echo" } else { "own" };
    for (micros, colour) in [(row.p50_us, colour), (row.p99_us, colour), (row.p999_us, "tail")] {
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"5\" class=\"{colour}\">\
             <title>{}</title></circle>",
            x(micros),
            term::span(Duration::from_secs_f64(micros / 1e6)),
        );
    }
}

fn text(x: f64, y: f64, attributes: &str, content: &str, out: &mut String) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{content}</text>");
}

impl Decades {
    /// Those that hold every latency of the rows.
    #[expect(clippy::cast_possible_truncation, reason = "a latency has a few digits")]
    fn of(rows: &[Row]) -> Self {
        let power = |micros: f64| micros.max(1.0).log10();
        let first = rows.iter().map(|row| power(row.p50_us)).fold(f64::INFINITY, f64::min);
        let last = rows.iter().map(|row| power(row.p999_us)).fold(0.0, f64::max);
        let first = if first.is_finite() { first.floor() as i32 } else { 0 };
        Self { first, last: (last.ceil() as i32).max(first + 1) }
    }

    /// Where on the scale, 0 to 1.
    fn part(&self, micros: f64) -> f64 {
        let power = micros.max(1.0).log10();
        ((power - f64::from(self.first)) / f64::from(self.last - self.first)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::load::Measured;
    use crate::cli::bench::request::Workload;
    use crate::cli::bench::row::Conditions;
    use crate::cli::bench::tests::shape;

    fn row(millis: &[u64]) -> Row {
        let mut measured = Measured { span: Duration::from_secs(1), ..Measured::default() };
        millis.iter().for_each(|ms| measured.note(Duration::from_millis(*ms), Ok(1)));
        Row::of(Conditions::of_echo(3, None, Workload::Get, &shape()), &[measured])
    }

    #[test]
    fn a_picture_is_well_formed_and_within_its_bounds() {
        let rows = [row(&[1, 2, 3]), row(&[400]), row(&[])];
        let picture = svg(&rows);
        let mut open = Vec::new();
        for tag in picture.split('<').skip(1) {
            let tag = tag.split('>').next().unwrap();
            let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap().to_owned();
            match (tag.starts_with('/'), tag.ends_with('/')) {
                (true, _) => assert_eq!(open.pop(), Some(name), "{picture}"),
                (false, false) => open.push(name),
                (false, true) => {}
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        }
        assert!(open.is_empty(), "{open:?} are not closed");
        assert!(picture.contains("requests a second") && !picture.contains("NaN"));
        for x in picture.split("cx=\"").skip(1) {
            let x: f64 = x.split('"').next().unwrap().parse().unwrap();
            assert!((0.0..WIDTH).contains(&x), "{x}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        text(0.0, 0.0, "", "<a & b>", &mut out);
        assert!(out.contains("&lt;a &amp; b&gt;"), "{out}");
    }
}
