//! Everything that a node counts, as it was at a moment: data, for whoever writes it down.

use super::histogram::Histogram;

/// Microseconds in a second.
const MICROS: f64 = 1e6;

/// What a node has counted, metric by metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// What all of it is about: attributes by their names in OpenTelemetry, `service.name` first.
    pub resource: Vec<(&'static str, String)>,
    /// Each name once.
    pub families: Vec<Family>,
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
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its unit, if it has one, comes last, save for `_total`.
    pub name: &'static str,
    /// Which values its samples have: distributions if it is a histogram, else numbers.
    pub kind: Kind,
    /// A sentence.
    pub help: &'static str,
    /// One for each combination of labels that has occurred.
    pub samples: Vec<Sample>,
}

/// A value, and what it is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Each name once.
    pub labels: Vec<(&'static str, String)>,
    /// In the unit of the name.
    pub value: Value,
}

/// What a sample says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(Number),
    /// Of a histogram.
    Distribution(Distribution),
}

/// A number as it was counted: a count above 2^53 is no float.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count.
    Whole(u64),
    /// A measure.
    Real(f64),
}

/// How often a value fell between two bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Each bound, rising, with how many values did not exceed it.
    pub up_to: Vec<(f64, u64)>,
    /// All values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

/// A label's name and value.
type Label<'a> = (&'static str, &'a str);

impl Page {
    /// Begins a metric, whose samples follow. Each is begun once.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> &mut Family {
        self.families.push(Family { name, kind, help, samples: Vec::new() });
        let last = self.families.len() - 1;
        &mut self.families[last]
    }

    /// A counter with one sample.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: impl Into<Number>) {
        self.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// A gauge with one sample.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: impl Into<Number>) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }
}

impl Family {
    /// A sample of a counter or a gauge.
    pub fn sample(&mut self, labels: &[Label<'_>], value: impl Into<Number>) {
        self.push(labels, Value::Number(value.into()));
    }

    /// The sample of a histogram of counts.
    pub fn counts(&mut self, labels: &[Label<'_>], histogram: &Histogram) {
        self.distribution(labels, histogram, 1.0);
    }

    /// The sample of a histogram of times, in seconds.
    pub fn times(&mut self, labels: &[Label<'_>], histogram: &Histogram) {
        self.distribution(labels, histogram, MICROS);
    }

    fn distribution(&mut self, labels: &[Label<'_>], histogram: &Histogram, unit: f64) {
        let snapshot = histogram.snapshot();
        let scaled = |value: u64| value as f64 / unit;
        let up_to = snapshot.up_to.into_iter().map(|(bound, count)| (scaled(bound), count));
        let (count, sum) = (snapshot.count, scaled(snapshot.sum));
        let value = Value::Distribution(Distribution { up_to: up_to.collect(), count, sum });
        self.push(labels, value);
    }

    fn push(&mut self, labels: &[Label<'_>], value: Value) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push(Sample { labels, value });
    }
}

impl From<u64> for Number {
    fn from(count: u64) -> Self {
        Self::Whole(count)
    }
}

impl From<&u64> for Number {
    fn from(count: &u64) -> Self {
        Self::Whole(*count)
    }
}

impl From<u32> for Number {
    fn from(count: u32) -> Self {
        Self::Whole(count.into())
    }
}

impl From<u8> for Number {
    fn from(count: u8) -> Self {
        Self::Whole(count.into())
    }
}

impl From<usize> for Number {
    fn from(count: usize) -> Self {
        Self::Whole(count as u64)
    }
}

impl From<f64> for Number {
    fn from(measure: f64) -> Self {
        Self::Real(measure)
    }
}
