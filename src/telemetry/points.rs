//! A page of metrics as OTLP has it: every metric under the name that it has at `/metrics`, with
//! its unit told apart, its labels as attributes, and totals since the start of the process.
//!
//! Source: <https://opentelemetry.io/docs/specs/otel/metrics/data-model/>.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Counted;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::metrics::{Distribution, Family, Kind, Number, Page, Sample, Value};

/// How units end a name, and what they are called in UCUM.
const UNITS: [(&str, &str); 2] = [("_seconds", "s"), ("_bytes", "By")];

/// From when to when something was counted, in nanoseconds since 1970.
#[derive(Clone, Copy)]
struct Span {
    since: u64,
    now: u64,
}

/// All of the page, in one request.
pub(super) fn request(
    page: &Page,
    since: SystemTime,
    now: SystemTime,
) -> ExportMetricsServiceRequest {
    let span = Span { since: nanos(since), now: nanos(now) };
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let metrics = page.families.iter().map(|family| metric(family, span)).collect();
    let scoped = ScopeMetrics { scope: Some(scope), metrics, schema_url: String::new() };
    let resource = Resource { attributes: attributes(&page.resource), ..Resource::default() };
    let of_node = ResourceMetrics {
        resource: Some(resource),
        scope_metrics: vec![scoped],
        schema_url: String::new(),
    };
    ExportMetricsServiceRequest { resource_metrics: vec![of_node] }
}

fn metric(family: &Family, span: Span) -> Metric {
    let numbers = || family.samples.iter().filter_map(|sample| number(sample, span)).collect();
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Counter => {
            Data::Sum(Sum { data_points: numbers(), aggregation_temporality, is_monotonic: true })
        }
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Histogram => {
            let points = family.samples.iter().filter_map(|sample| histogram(sample, span));
            Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality })
        }
    };
    Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: unit(family.name).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// Empty if the name has none.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    let found = UNITS.iter().find(|(ending, _)| name.ends_with(ending));
    found.map(|(_, unit)| *unit).unwrap_or_default()
}

fn number(sample: &Sample, span: Span) -> Option<NumberDataPoint> {
    let Value::Number(number) = &sample.value else { return None };
    let value = match *number {
        Number::Whole(count) => Counted::AsInt(i64::try_from(count).unwrap_or(i64::MAX)),
        Number::Real(measure) => Counted::AsDouble(measure),
    };
    Some(NumberDataPoint {
        attributes: attributes(&sample.labels),
        start_time_unix_nano: span.since,
        time_unix_nano: span.now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(sample: &Sample, span: Span) -> Option<HistogramDataPoint> {
    let Value::Distribution(Distribution { up_to, count, sum }) = &sample.value else {
        return None;
    };
    // Each bucket alone, where a page has all up to a bound.
    let up_to_each = up_to.iter().map(|(_, up_to)| *up_to).chain([*count]);
    let bucket_counts = up_to_each.scan(0, |before, up_to| {
        let own = up_to - *before;
        *before = up_to;
        Some(own)
    });
    Some(HistogramDataPoint {
        attributes: attributes(&sample.labels),
        start_time_unix_nano: span.since,
        time_unix_nano: span.now,
        count: *count,
        sum: Some(*sum),
        bucket_counts: bucket_counts.collect(),
        explicit_bounds: up_to.iter().map(|(bound, _)| *bound).collect(),
        ..HistogramDataPoint::default()
    })
}

fn attributes(labels: &[(&'static str, String)]) -> Vec<KeyValue> {
    let attribute = |(key, value): &(&'static str, String)| KeyValue {
        key: (*key).to_owned(),
        value: Some(AnyValue { value: Some(Any::StringValue(value.clone())) }),
        ..KeyValue::default()
    };
    labels.iter().map(attribute).collect()
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics;

    #[test]
    fn a_page_is_told_whole() {
        let times = metrics::Histogram::new(&[1_000, 2_500_000]);
        [1, 2, 3_000].into_iter().for_each(|ms| times.record_time(Duration::from_millis(ms)));
        let mut page = Page::default();
        page.resource.push(("service.name", "coterie".to_owned()));
        page.counter("a_bytes_total", "What it is.", u64::MAX);
        page.gauge("b", "Another.", 0.5);
        page.family("t_seconds", Kind::Histogram, "Times.").times(&[("l", "v")], &times);
        let (since, now) =
            (UNIX_EPOCH + Duration::from_secs(1), UNIX_EPOCH + Duration::from_secs(2));

        let told = &request(&page, since, now).resource_metrics[0];
        let key = |attributes: &[KeyValue]| attributes[0].key.clone();
        assert_eq!(key(&told.resource.as_ref().unwrap().attributes), "service.name");
        let [bytes, gauge, times] = &told.scope_metrics[0].metrics[..] else { panic!("{told:?}") };
        assert_eq!((bytes.name.as_str(), bytes.unit.as_str()), ("a_bytes_total", "By"));
        let Some(Data::Sum(sum)) = &bytes.data else { panic!("{bytes:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{sum:?}");
        let point = &sum.data_points[0];
        assert_eq!(point.value, Some(Counted::AsInt(i64::MAX)));
        assert_eq!(
            (point.start_time_unix_nano, point.time_unix_nano),
            (1_000_000_000, 2_000_000_000)
        );
        let Some(Data::Gauge(gauge)) = &gauge.data else { panic!("{gauge:?}") };
        assert_eq!(gauge.data_points[0].value, Some(Counted::AsDouble(0.5)));
        let Some(Data::Histogram(histogram)) = &times.data else { panic!("{times:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((times.unit.as_str(), key(&point.attributes).as_str()), ("s", "l"));
        assert_eq!(point.explicit_bounds, [0.001, 2.5]);
        assert_eq!(point.bucket_counts, [1, 1, 1]);
        assert_eq!((point.count, point.sum), (3, Some(3.003)));
    }
}
