//! Throughput and latency over time, with the faults behind them, as one SVG.
//!
//! Two panels share one axis of time. Latency is logarithmic: a frozen node is a thousand times
//! slower than a well one, and both must be seen.

use std::fmt::Write as _;

use super::bins::Bins;
use super::{Fault, escaped};

/// Units of the drawing; it is scaled to the screen.
const WIDTH: f64 = 960.0;
/// For the numbers beside the panels.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 24.0;
/// Faults, above the panels.
const LANE: f64 = 18.0;
const TOP: f64 = 8.0;
const THROUGHPUT: f64 = 150.0;
const LATENCY: f64 = 150.0;
const GAP: f64 = 34.0;
/// The range of latencies shown, as powers of ten of microseconds: 0.1 ms to 10 s.
const POWERS: std::ops::RangeInclusive<i32> = 2..=7;
/// Labels are about so wide.
const LETTER: f64 = 6.6;

struct Frame {
    end_us: f64,
    lanes: f64,
}

impl Frame {
    fn x(&self, t_us: f64) -> f64 {
        LEFT + (t_us / self.end_us).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn throughput_top(&self) -> f64 {
        TOP + self.lanes + 22.0
    }

    fn latency_top(&self) -> f64 {
        self.throughput_top() + THROUGHPUT + GAP
    }

    fn bottom(&self) -> f64 {
        self.latency_top() + LATENCY
    }
}

/// Draws it, with a legend.
pub fn draw(bins: &Bins, faults: &[Fault<'_>]) -> String {
    let last_fault = faults.iter().filter_map(|fault| fault.end).map(|end| end.t_us).max();
    let end_us = bins.end_us().max(last_fault.unwrap_or(0)).max(1) as f64;
    let mut frame = Frame { end_us, lanes: 0.0 };
    let lanes = lanes(&frame, faults);
    frame.lanes = LANE * lanes.iter().map(|lane| lane + 1).max().unwrap_or(0) as f64;
    let height = frame.bottom() + 28.0;
    let mut svg = format!(
        "<div class=\"chart\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Faults, throughput and latency over time\">\n"
    );
    svg += &bands(&frame, faults, &lanes);
    svg += &time_axis(&frame);
    svg += &throughput(&frame, bins);
    svg += &latency(&frame, bins);
    svg += "</svg></div>\n<p class=\"legend\"><span class=\"key ok\"></span>answered \
            <span class=\"key failed\"></span>failed <span class=\"key p50\"></span>median \
            <span class=\"key p99\"></span>99th&nbsp;percentile <span class=\"key fault\"></span>fault, \
            until all nodes are ready again</p>\n";
    svg
}

/// In which row the name of each fault stands: the first where it does not cover another.
fn lanes(frame: &Frame, faults: &[Fault<'_>]) -> Vec<usize> {
    let mut ends: Vec<f64> = Vec::new();
    let mut lanes = Vec::new();
    for fault in faults {
        let (from, to) = name_span(frame, fault);
        let lane = ends.iter().position(|end| *end < from).unwrap_or(ends.len());
        if lane == ends.len() {
            ends.push(to);
        }
        ends[lane] = to;
        lanes.push(lane);
    }
    lanes
}

/// From where to where its name stands: from its beginning, or up to the right edge.
fn name_span(frame: &Frame, fault: &Fault<'_>) -> (f64, f64) {
    let width = label(fault).len() as f64 * LETTER;
    let from = frame.x(fault.begin.t_us as f64).min(WIDTH - 2.0 - width);
    (from, from + width)
}

/// What it is, and the numbers of the nodes that it takes away.
fn label(fault: &Fault<'_>) -> String {
    let (kind, nodes) = (&fault.begin.kind, &fault.begin.nodes);
    if fault.begin.impaired.is_empty() && nodes.len() > 1 {
        return kind.clone();
    }
    let short = |name: &String| name.rsplit('-').next().unwrap_or(name).to_owned();
    let which: Vec<String> = nodes.iter().map(short).collect();
    format!("{kind} {}", which.join(","))
}

fn bands(frame: &Frame, faults: &[Fault<'_>], lanes: &[usize]) -> String {
    let mut svg = String::new();
    for (fault, lane) in faults.iter().zip(lanes) {
        let from = frame.x(fault.begin.t_us as f64);
        let to = frame.x(fault.end.map_or(frame.end_us, |end| end.t_us as f64));
        let baseline = TOP + LANE * *lane as f64 + 13.0;
        let (y, height) = (baseline + 4.0, frame.bottom() - baseline - 4.0);
        let (text, (x, _)) = (label(fault), name_span(frame, fault));
        let _ = writeln!(
            svg,
            "<rect class=\"fault\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" \
             height=\"{height:.1}\"/><text class=\"name\" x=\"{x:.1}\" y=\"{baseline:.1}\">{}</text>",
            (to - from).max(1.0),
            escaped(&text)
        );
    }
    svg
}

fn time_axis(frame: &Frame) -> String {
    let seconds = frame.end_us / 1e6;
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0]
        .into_iter()
        .find(|step| seconds / step <= 10.0)
        .unwrap_or(3600.0);
    let mut svg = String::new();
    let mut at = 0.0;
    while at <= seconds {
        let (x, y) = (frame.x(at * 1e6), frame.bottom() + 18.0);
        let _ = writeln!(
            svg,
            "<text class=\"tick\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{at:.0} s</text>"
        );
        at += step;
    }
    svg
}

fn panel(top: f64, height: f64, title: &str, ticks: &[(f64, String)]) -> String {
    let mut svg =
        format!("<text class=\"title\" x=\"{LEFT}\" y=\"{:.1}\">{title}</text>\n", top - 6.0);
    for (part, name) in ticks {
        let y = top + height * (1.0 - part);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0
        );
    }
    svg
}

fn throughput(frame: &Frame, bins: &Bins) -> String {
    let top = frame.throughput_top();
    let highest = bins.bins.iter().map(|bin| bin.ok + bin.failed).max().unwrap_or(0);
    let limit = round_up(bins.rate(highest).max(1.0));
    let ticks = [0.0, 0.5, 1.0].map(|part| (part, format!("{:.0}", limit * part)));
    let mut svg = panel(top, THROUGHPUT, "requests a second", &ticks);
    let width = frame.x(bins.width_us as f64) - frame.x(0.0);
    let bar = |class: &str, at: usize, below: f64, rate: f64| {
        let x = frame.x((at as u64 * bins.width_us) as f64);
        let height = rate / limit * THROUGHPUT;
        let y = top + THROUGHPUT - below / limit * THROUGHPUT - height;
        format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{height:.1}\"/>\n",
            (width - 0.4).max(0.5)
        )
    };
    for (at, bin) in bins.bins.iter().enumerate() {
        if bin.ok > 0 {
            svg += &bar("ok", at, 0.0, bins.rate(bin.ok));
        }
        if bin.failed > 0 {
            // One failure among thousands must still be seen.
            let rate = bins.rate(bin.failed).max(limit / 50.0);
            svg += &bar("failed", at, bins.rate(bin.ok), rate);
        }
    }
    svg
}

fn latency(frame: &Frame, bins: &Bins) -> String {
    let top = frame.latency_top();
    let (low, high) = (f64::from(*POWERS.start()), f64::from(*POWERS.end()));
    let part = |t_us: f64| ((t_us.max(1.0).log10() - low) / (high - low)).clamp(0.0, 1.0);
    let names = ["0.1 ms", "1 ms", "10 ms", "0.1 s", "1 s", "10 s"];
    let ticks: Vec<(f64, String)> =
        POWERS.zip(names).map(|(power, name)| (part(10f64.powi(power)), name.to_owned())).collect();
    let mut svg = panel(top, LATENCY, "latency", &ticks);
    for (class, of) in [("p50", false), ("p99", true)] {
        let mut path = String::new();
        let mut pen = 'M';
        for (at, bin) in bins.bins.iter().enumerate() {
            let t_us = if of { bin.p99_us } else { bin.p50_us };
            if bin.ok == 0 {
                pen = 'M';
                continue;
            }
            let x = frame.x((at as f64 + 0.5) * bins.width_us as f64);
            let _ = write!(path, "{pen}{x:.1} {:.1}", top + LATENCY * (1.0 - part(t_us as f64)));
            pen = 'L';
        }
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
    }
    svg
}

/// The next of 1, 1.5, 2, 3, 4, 5, 6, 8, and ten times each, and so on.
fn round_up(number: f64) -> f64 {
    let power = 10f64.powf(number.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|top| *top >= number).unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;
    use crate::report::faults;

    #[test]
    fn scales_end_at_round_numbers() {
        let ends = [0.8, 1.0, 3.0, 620.0, 1001.0].map(|top| round_up(top).to_string());
        assert_eq!(ends, ["0.8", "1", "3", "800", "1500"]);
    }

    #[test]
    fn names_that_would_cover_each_other_stand_in_rows() {
        let mut events = fault(&["n-1"], 0, 10, Some("x"));
        events.extend(fault(&["n-2"], 1_000, 2_000, Some("x")));
        let history = history([events, write(0, "set/a", "v", 0, 60_000_000)]);
        let frame = Frame { end_us: 6e7, lanes: 0.0 };
        assert_eq!(lanes(&frame, &faults(&history)), [0, 1]);
        let svg = draw(&Bins::of(&history), &faults(&history));
        assert!(svg.contains(">kill 2<") && svg.contains("class=\"p99\""), "{svg}");
    }

    #[test]
    fn a_name_that_is_moved_from_the_right_edge_stands_in_a_row_of_its_own() {
        let mut events = fault(&["n-1"], 57_000_000, 57_500_000, Some("x"));
        events.extend(fault(&["n-2"], 59_900_000, 60_000_000, Some("x")));
        let history = history([events, write(0, "set/a", "v", 0, 60_000_000)]);
        let (frame, faults) = (Frame { end_us: 6e7, lanes: 0.0 }, faults(&history));
        let [first, second] = [&faults[0], &faults[1]].map(|fault| name_span(&frame, fault));
        assert!(first.1 < frame.x(59_900_000.0), "where it begins it would be in nobody's way");
        assert!(second.0 < first.1 && second.1 < WIDTH);
        assert_eq!(lanes(&frame, &faults), [0, 1]);
    }
}
