//! Spans, built only for what is traced.
//!
//! Whoever begins a span has decided before that it is wanted: [`Traces::begin`] takes every one.
//! A span ends when it is dropped. None hangs on a thread or a task: a request is worked on by
//! whichever thread holds its next input, so spans are kept beside the work that they are about.

use std::time::SystemTime;

use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::types::TraceContext;

/// Where a node's spans go. Cheap to clone; by default nowhere, and then none is built.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<SdkTracer>);

/// Who has called from outside, in the headers that W3C Trace Context has for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// `traceparent`.
    pub context: TraceContext,
    /// `tracestate`: what the systems of others note of the trace. Told with the span that the
    /// call becomes, and not handed on within the cluster, where nobody else's system is.
    pub state: TraceState,
}

/// What comes before a span.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Nothing: a trace begins.
    Root,
    /// A call from outside.
    Called(Caller),
    /// The span that this is a part of; here, or at a caller.
    Within(TraceContext),
    /// The span that this is a late consequence of: a trace of its own begins.
    After(TraceContext),
}

/// A span that has begun. It ends when this is dropped.
#[derive(Debug)]
pub struct OpenSpan(Span);

impl Traces {
    /// Spans go to `tracer`, which is to take all of them.
    #[must_use]
    pub fn new(tracer: SdkTracer) -> Self {
        Self(Some(tracer))
    }

    /// Whether spans go anywhere.
    #[must_use]
    pub fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span now; none if spans go nowhere.
    #[must_use]
    pub fn begin(&self, name: &'static str, kind: SpanKind, origin: Origin) -> Option<OpenSpan> {
        self.begin_at(name, kind, origin, None)
    }

    /// Begins a span that began at a time in the past.
    #[must_use]
    pub fn begin_at(
        &self,
        name: &'static str,
        kind: SpanKind,
        origin: Origin,
        at: Option<SystemTime>,
    ) -> Option<OpenSpan> {
        let tracer = self.0.as_ref()?;
        let mut builder = tracer.span_builder(name).with_kind(kind);
        builder.start_time = at;
        let mut before = Context::new();
        match origin {
            Origin::Root => {}
            Origin::Called(Caller { context, state }) => {
                before = before.with_remote_span_context(remote(context, state));
            }
            Origin::Within(parent) => {
                before = before.with_remote_span_context(remote(parent, TraceState::default()));
            }
            Origin::After(cause) => {
                let cause = remote(cause, TraceState::default());
                builder = builder.with_links(vec![Link::new(cause, Vec::new(), 0)]);
            }
        }
        Some(OpenSpan(builder.start_with_context(tracer, &before)))
    }
}

impl OpenSpan {
    /// What the work within this span is to be told.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        let own = self.0.span_context();
        TraceContext {
            trace: u128::from_be_bytes(own.trace_id().to_bytes()),
            span: u64::from_be_bytes(own.span_id().to_bytes()),
            flags: own.trace_flags().to_u8(),
        }
    }

    /// Says something of it. Never a key: traces are read by more people than data is.
    pub fn tell(&mut self, attribute: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(attribute, value));
    }

    /// Marks it as failed.
    pub fn fail(&mut self, why: impl Into<std::borrow::Cow<'static, str>>) {
        self.0.set_status(Status::error(why));
    }
}

fn remote(context: TraceContext, state: TraceState) -> SpanContext {
    let flags = TraceFlags::new(context.flags);
    let (trace, span) = (TraceId::from(context.trace), SpanId::from(context.span));
    SpanContext::new(trace, span, flags, true, state)
}
