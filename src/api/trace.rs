//! Whether a request is traced, and under which span.
//!
//! The decision comes before any span is built, since most requests are not traced: the caller's,
//! if it has made one, else by chance.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::types::TraceContext;

/// The flag of a trace context that says that the trace is recorded.
const SAMPLED: u8 = 1;

/// Decides which requests are traced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    /// Of 2^32 requests without a caller's decision, this many are traced; none: tracing is off.
    of_all: Option<u64>,
}

impl Sampling {
    /// `ratio` is none if spans go nowhere.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
    pub(super) fn new(ratio: Option<f64>) -> Self {
        let of_all = ratio.map(|ratio| (ratio.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u64 + 1);
        // The smallest ratio is none at all.
        Self { of_all: of_all.map(|count| if ratio == Some(0.0) { 0 } else { count }) }
    }

    /// The span of a request, if it is traced, and the context that its work goes on under.
    pub(super) fn span(
        self,
        name: &'static str,
        caller: Option<TraceContext>,
    ) -> Option<(Span, TraceContext)> {
        let sampled = match (self.of_all?, caller) {
            (_, Some(caller)) => caller.flags & SAMPLED != 0,
            (of_all, None) => u64::from(rand::random::<u32>()) < of_all,
        };
        if !sampled {
            return None;
        }
        let span = tracing::info_span!(
            "request",
            otel.name = name,
            otel.kind = "server",
            rpc.system = "grpc",
            rpc.service = "coterie.v1.Kv",
            rpc.method = name,
        );
        if let Some(caller) = caller {
            let parent = opentelemetry::Context::new().with_remote_span_context(remote(caller));
            // It fails only if no layer takes spans; then there is nothing to lose.
            let _ = span.set_parent(parent);
        }
        let own = own_context(&span)?;
        Some((span, own))
    }
}

fn remote(caller: TraceContext) -> SpanContext {
    let flags = TraceFlags::new(caller.flags);
    let (trace, span) = (TraceId::from(caller.trace), SpanId::from(caller.span));
    SpanContext::new(trace, span, flags, true, TraceState::default())
}

/// What the span's work is to be told; none if no layer has taken the span.
fn own_context(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let own = context.span().span_context().clone();
    own.is_valid().then(|| TraceContext {
        trace: u128::from_be_bytes(own.trace_id().to_bytes()),
        span: u64::from_be_bytes(own.span_id().to_bytes()),
        flags: own.trace_flags().to_u8(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_keeps_to_its_bounds() {
        assert_eq!(Sampling::new(None).of_all, None);
        assert_eq!(Sampling::new(Some(0.0)).of_all, Some(0));
        assert_eq!(Sampling::new(Some(1.0)).of_all, Some(1 << 32));
        assert!(Sampling::new(Some(0.01)).of_all.unwrap().abs_diff((1 << 32) / 100) < 2);
    }

    #[test]
    fn a_sampled_request_goes_on_under_a_span_of_its_own_in_the_callers_trace() {
        use opentelemetry::trace::TracerProvider;
        use tracing_subscriber::layer::SubscriberExt;

        let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let caller = TraceContext { trace: 7 << 64, span: 2, flags: SAMPLED };
            let (_span, own) = Sampling::new(Some(0.0)).span("Get", Some(caller)).unwrap();
            assert_eq!((own.trace, own.flags), (caller.trace, SAMPLED));
            assert!(own.span != caller.span && own.span != 0);
            let unsampled = TraceContext { flags: 0, ..caller };
            assert!(Sampling::new(Some(1.0)).span("Get", Some(unsampled)).is_none());
            assert!(Sampling::new(Some(1.0)).span("Get", None).is_some());
            assert!(Sampling::new(Some(0.0)).span("Get", None).is_none());
        });
    }

    #[test]
    fn without_a_place_for_spans_no_span_is_built() {
        let caller = TraceContext { trace: 1, span: 2, flags: SAMPLED };
        assert!(Sampling::new(None).span("Get", Some(caller)).is_none());
    }
}
