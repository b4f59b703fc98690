//! Which requests are traced, and the span of each.
//!
//! The decision comes before any span is built, since most requests are not traced: the caller's,
//! if it has made one, else by chance. A request that was not chosen and then fails, or is slow, gets
//! its one span when it has ended. One that is turned away fails like any other.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::SpanKind;
use tonic::{Code, Status};

use super::calls::status_name;
use super::error;
use crate::telemetry::{Caller, OpenSpan, Origin, Traces};
use crate::types::TraceContext;

/// Decides which requests are traced.
#[derive(Debug)]
pub(super) struct Sampling {
    traces: Traces,
    /// Of 2^32 requests without a caller's decision, this many are chosen.
    of_all: u64,
    /// A request that takes longer is traced all the same.
    slow: Duration,
}

/// One request, traced or not. If it is dropped before its end, its client has cancelled it.
pub(super) struct Traced {
    method: &'static str,
    caller: Option<Caller>,
    state: State,
    /// Of a batch that is answered: the first of its requests that has failed.
    failed: Option<Status>,
}

enum State {
    /// Spans go nowhere, or it has ended.
    Off,
    Unsampled(Instant, Arc<Sampling>),
    /// Boxed: every request would have room for one, and few have one.
    Sampled(Box<OpenSpan>),
}

impl Sampling {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
    pub(super) fn new(traces: Traces, ratio: f64, slow: Duration) -> Self {
        let ratio = ratio.clamp(0.0, 1.0);
        Self { traces, of_all: (ratio * (1u64 << 32) as f64) as u64, slow }
    }

    /// Begins a request's span, if it is chosen.
    pub(super) fn begin(self: &Arc<Self>, method: &'static str, caller: Option<Caller>) -> Traced {
        let chosen = |caller: &Caller| caller.context.is_sampled();
        let state = if !self.traces.are_on() {
            State::Off
        } else if caller.as_ref().map_or_else(|| self.by_chance(), chosen) {
            let span = self.span(method, caller.clone(), None).map(Box::new);
            span.map_or(State::Off, State::Sampled)
        } else {
            State::Unsampled(Instant::now(), self.clone())
        };
        Traced { method, caller, state, failed: None }
    }

    fn by_chance(&self) -> bool {
        u64::from(rand::random::<u32>()) < self.of_all
    }

    fn span(
        &self,
        method: &'static str,
        caller: Option<Caller>,
        at: Option<SystemTime>,
    ) -> Option<OpenSpan> {
        let origin = caller.map_or(Origin::Root, Origin::Called);
        let mut span = self.traces.begin_at(method, SpanKind::Server, origin, at)?;
        span.tell("rpc.system.name", "grpc");
        span.tell("rpc.method", method);
        Some(span)
    }
}

impl Traced {
    /// What the request's work is to be told.
    pub(super) fn context(&self) -> Option<TraceContext> {
        match &self.state {
            State::Sampled(span) => Some(span.context()),
            State::Off | State::Unsampled(..) => self.caller.as_ref().map(|caller| caller.context),
        }
    }

    /// Notes the first request of a batch that has failed, though the batch itself is answered.
    pub(super) fn note_failed(&mut self, status: Status) {
        self.failed = Some(status);
    }

    /// Ends the request, and with it its span.
    pub(super) fn end<T>(mut self, answer: &Result<T, Status>) {
        let failed = self.failed.take();
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        let failed = answer.as_ref().err().or(failed.as_ref());
        // What the client has done wrong is no failure of the store.
        match failed.filter(|status| error::is_of_server(status.code())) {
            Some(status) => self.close(code, Some((error::name_of(status), status.message()))),
            None => self.close(code, None),
        }
    }

    /// Ends its span, which it gets now if it is to have one. A failure has a name and a sentence.
    fn close(&mut self, code: Code, failure: Option<(String, &str)>) {
        let mut span = match std::mem::replace(&mut self.state, State::Off) {
            State::Off => return,
            State::Sampled(span) => *span,
            State::Unsampled(began, sampling) => {
                let took = began.elapsed();
                if failure.is_none() && took <= sampling.slow {
                    return;
                }
                let at = SystemTime::now().checked_sub(took);
                let span = sampling.span(self.method, self.caller.take(), at);
                let Some(span) = span else { return };
                span
            }
        };
        span.tell("rpc.response.status_code", status_name(code));
        if let Some((name, told)) = failure {
            span.tell("error.type", name);
            span.fail(told.to_owned());
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let told = "the client did not wait for the answer";
        self.close(Code::Cancelled, Some(("cancelled".to_owned(), told)));
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceState;

    use super::*;

    #[test]
    fn chance_keeps_to_its_bounds() {
        let of_all = |ratio| Sampling::new(Traces::default(), ratio, Duration::MAX).of_all;
        assert_eq!([of_all(0.0), of_all(1.0), of_all(7.0)], [0, 1 << 32, 1 << 32]);
        assert!(of_all(0.01).abs_diff((1 << 32) / 100) < 2);
    }

    #[test]
    fn without_a_place_for_spans_the_callers_context_goes_on() {
        let sampling = Arc::new(Sampling::new(Traces::default(), 1.0, Duration::ZERO));
        let context = TraceContext { trace: 1, span: 2, flags: 1 };
        let caller = Caller { context, state: TraceState::default() };
        let traced = sampling.begin("Get", Some(caller));
        assert!(matches!(traced.state, State::Off));
        assert_eq!(traced.context(), Some(context));
        traced.end(&Ok(()));
    }
}
