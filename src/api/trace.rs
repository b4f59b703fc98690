//! Which requests are traced, and the span of each.
//!
//! The decision comes before any span is built, since most requests are not traced: the caller's,
//! if it has made one, else by chance. A request that was not chosen and then fails, or is slow, gets
//! its one span when it has ended.

use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::SpanKind;

use super::error;
use crate::protocol::op::{Failure, Outcome};
use crate::telemetry::{OpenSpan, Origin, Traces};
use crate::types::TraceContext;

/// Decides which requests are traced.
#[derive(Clone, Debug)]
pub(super) struct Sampling {
    traces: Traces,
    /// Of 2^32 requests without a caller's decision, this many are chosen.
    of_all: u64,
    /// A request that takes longer is traced all the same.
    slow: Duration,
}

/// One request, traced or not.
pub(super) struct Traced {
    method: &'static str,
    caller: Option<TraceContext>,
    state: State,
}

enum State {
    /// Spans go nowhere.
    Off,
    Unsampled(Instant),
    /// Boxed: every request would have room for one, and few have one.
    Sampled(Box<OpenSpan>),
}

/// How a request, or each of a batch, has ended.
pub(super) trait Ended {
    /// The first failure among them.
    fn failure(&self) -> Option<&Failure>;
}

impl Ended for Outcome {
    fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Read(_) | Self::Written(_) => None,
        }
    }
}

impl Ended for Vec<Outcome> {
    fn failure(&self) -> Option<&Failure> {
        self.iter().find_map(Ended::failure)
    }
}

impl Sampling {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
    pub(super) fn new(traces: Traces, ratio: f64, slow: Duration) -> Self {
        let ratio = ratio.clamp(0.0, 1.0);
        Self { traces, of_all: (ratio * (1u64 << 32) as f64) as u64, slow }
    }

    /// Begins a request's span, if it is chosen.
    pub(super) fn begin(&self, method: &'static str, caller: Option<TraceContext>) -> Traced {
        let state = if !self.traces.are_on() {
            State::Off
        } else if caller.map_or_else(|| self.by_chance(), |caller| caller.is_sampled()) {
            let span = self.span(method, caller, None).map(Box::new);
            span.map_or(State::Off, State::Sampled)
        } else {
            State::Unsampled(Instant::now())
        };
        Traced { method, caller, state }
    }

    /// Ends a request, and with it its span.
    pub(super) fn end(&self, traced: Traced, failure: Option<&Failure>) {
        // What the client has done wrong is no failure of the store.
        let failure =
            failure.and_then(|failure| Some((error::of_server(failure.reason)?, failure)));
        let mut span = match traced.state {
            State::Off => return,
            State::Sampled(span) => *span,
            State::Unsampled(began) => {
                let took = began.elapsed();
                if failure.is_none() && took <= self.slow {
                    return;
                }
                let at = SystemTime::now().checked_sub(took);
                let Some(span) = self.span(traced.method, traced.caller, at) else { return };
                span
            }
        };
        if let Some((name, failure)) = failure {
            span.tell("error.type", name);
            span.fail(failure.reason.to_string());
        }
    }

    fn by_chance(&self) -> bool {
        u64::from(rand::random::<u32>()) < self.of_all
    }

    fn span(
        &self,
        method: &'static str,
        caller: Option<TraceContext>,
        at: Option<SystemTime>,
    ) -> Option<OpenSpan> {
        let origin = caller.map_or(Origin::Root, Origin::Within);
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
            State::Off | State::Unsampled(_) => self.caller,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_keeps_to_its_bounds() {
        let of_all = |ratio| Sampling::new(Traces::default(), ratio, Duration::MAX).of_all;
        assert_eq!([of_all(0.0), of_all(1.0), of_all(7.0)], [0, 1 << 32, 1 << 32]);
        assert!(of_all(0.01).abs_diff((1 << 32) / 100) < 2);
    }

    #[test]
    fn without_a_place_for_spans_the_callers_context_goes_on() {
        let sampling = Sampling::new(Traces::default(), 1.0, Duration::ZERO);
        let caller = TraceContext { trace: 1, span: 2, flags: 1 };
        let traced = sampling.begin("Get", Some(caller));
        assert!(matches!(traced.state, State::Off));
        assert_eq!(traced.context(), Some(caller));
        sampling.end(traced, None);
    }
}
