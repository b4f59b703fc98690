//! The caller's trace, told to the nodes in the header that W3C Trace Context has for it.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use tonic::metadata::MetadataMap;

/// Adds `traceparent` if the present OpenTelemetry context has a span.
pub(super) fn tell(metadata: &mut MetadataMap) {
    let span = Context::map_current(|context| {
        let active = context.has_active_span();
        active.then(|| context.span().span_context().clone()).filter(SpanContext::is_valid)
    });
    if let Some(value) = span.and_then(|span| traceparent(&span).parse().ok()) {
        metadata.insert("traceparent", value);
    }
}

fn traceparent(span: &SpanContext) -> String {
    let flags = span.trace_flags().to_u8();
    format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id())
}
