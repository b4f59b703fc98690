//! The caller's trace, told to the nodes in the headers that W3C Trace Context has for it, with a
//! span for each attempt.
//!
//! Nothing is traced that the caller does not trace: without an active OpenTelemetry span there is
//! none here, and without a provider of this process the caller's own is what nodes are told.

use opentelemetry::global::{self, BoxedSpan};
use opentelemetry::trace::{Span, SpanContext, SpanKind, Status as Outcome};
use opentelemetry::trace::{TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::proto;

/// A request that a node is sent.
pub(super) trait Method {
    /// Service and method.
    const NAME: &'static str;
}

impl Method for proto::GetRequest {
    const NAME: &'static str = "coterie.v1.Kv/Get";
}

impl Method for proto::SetRequest {
    const NAME: &'static str = "coterie.v1.Kv/Set";
}

impl Method for proto::DeleteRequest {
    const NAME: &'static str = "coterie.v1.Kv/Delete";
}

impl Method for proto::BatchGetRequest {
    const NAME: &'static str = "coterie.v1.Kv/BatchGet";
}

impl Method for proto::BatchSetRequest {
    const NAME: &'static str = "coterie.v1.Kv/BatchSet";
}

impl Method for proto::ScanRequest {
    const NAME: &'static str = "coterie.v1.Kv/Scan";
}

/// An attempt at a node. Its span, if it has one, ends when this is dropped.
pub(super) struct Attempt(Option<BoxedSpan>);

impl Attempt {
    /// Begins an attempt, within the present span if there is one.
    pub(super) fn begin<M: Method>(address: &str) -> Self {
        Self(Context::map_current(|context| {
            if !context.has_active_span() {
                return None;
            }
            let tracer = global::tracer("coterie");
            let builder = tracer.span_builder(M::NAME).with_kind(SpanKind::Client);
            let builder = builder.with_attributes([
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", M::NAME),
                KeyValue::new("server.address", address.to_owned()),
            ]);
            Some(builder.start_with_context(&tracer, context))
        }))
    }

    /// Adds `traceparent`, and `tracestate` if there is one.
    pub(super) fn tell(&self, metadata: &mut MetadataMap) {
        let context = self.0.as_ref().map(Span::span_context);
        let Some(context) = context.filter(|context| context.is_valid()) else { return };
        let headers =
            [("traceparent", traceparent(context)), ("tracestate", context.trace_state().header())];
        for (name, header) in headers {
            if !header.is_empty()
                && let Ok(value) = header.parse()
            {
                metadata.insert(name, value);
            }
        }
    }

    /// Ends it; an attempt that is dropped instead was cancelled, and says nothing of how it ended.
    pub(super) fn end<T>(self, answer: &Result<T, Status>) {
        if let (Some(mut span), Err(status)) = (self.0, answer) {
            span.set_attribute(KeyValue::new("error.type", format!("{:?}", status.code())));
            span.set_status(Outcome::error(status.message().to_owned()));
        }
    }
}

fn traceparent(span: &SpanContext) -> String {
    let flags = span.trace_flags().to_u8();
    format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id())
}
