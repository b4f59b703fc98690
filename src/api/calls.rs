//! How long each call took, and how it ended.
//!
//! ```text
//!   Dispatch::call ──▶ Calls::begin ──▶ Timed { the call } ──▶ answer: its status is in the header
//!                                          └── dropped before: the client has cancelled it
//! ```
//!
//! One histogram for every method and status exists from the start, so that counting a call is
//! two additions.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::http;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;
use tonic::body::Body;

use crate::metrics::{Histogram, Kind, LATENCIES, Page};
use crate::proto;

/// The name of a status of gRPC.
pub(super) fn status_name(code: Code) -> &'static str {
    STATUSES[code as usize]
}

/// The statuses of gRPC, by their numbers.
const STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What calls of other services (health, reflection, none) are counted under.
const OTHER: &str = "_OTHER";

/// The calls of clients that have ended, by method and status.
#[derive(Debug)]
pub struct Calls {
    /// In the order of the services' definition; the last one is [`OTHER`].
    methods: Vec<Method>,
}

#[derive(Debug)]
struct Method {
    /// Such as `coterie.v1.Kv/Get`.
    name: String,
    /// By the numbers of [`STATUSES`].
    durations: [Histogram; STATUSES.len()],
}

impl Default for Calls {
    /// Every method of our services, none called yet.
    fn default() -> Self {
        // The descriptors are compiled in: they can be read.
        let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap_or_default().file;
        let mut names = Vec::new();
        for file in &files {
            for service in &file.service {
                let method = |name: &str| format!("{}.{}/{name}", file.package(), service.name());
                names.extend(service.method.iter().map(|it| method(it.name())));
            }
        }
        // Calls of keys are looked for first.
        names.sort_by_key(|name| !name.contains(".Kv/"));
        names.push(OTHER.to_owned());
        let durations = || std::array::from_fn(|_| Histogram::new(LATENCIES));
        let method = |name| Method { name, durations: durations() };
        Self { methods: names.into_iter().map(method).collect() }
    }
}

impl Calls {
    /// The number of the method with this path.
    pub(super) fn method(&self, path: &str) -> usize {
        let is_it = |method: &Method| path.strip_prefix('/') == Some(method.name.as_str());
        self.methods.iter().position(is_it).unwrap_or(self.methods.len() - 1)
    }

    /// Times a call of a method until it is answered.
    pub(super) fn time<A: Answer>(self: &Arc<Self>, method: usize, answer: A) -> Timed<A> {
        Timed { calls: self.clone(), method, began: Instant::now(), answer, ended: false }
    }

    /// Writes what was counted. Statuses that never occurred are left out, save OK.
    pub fn write(&self, page: &mut Page) {
        let help = "How long calls of clients took until they were answered, in seconds, by method \
                    and status; calls that stream, until their first answer.";
        let family = page.family("rpc_server_call_duration_seconds", Kind::Histogram, help);
        for Method { name, durations } in &self.methods {
            for (status, durations) in STATUSES.iter().zip(durations) {
                if *status != STATUSES[Code::Ok as usize] && durations.count() == 0 {
                    continue;
                }
                let labels = [
                    ("rpc_system_name", "grpc"),
                    ("rpc_method", name),
                    ("rpc_response_status_code", status),
                ];
                family.times(&labels, durations);
            }
        }
    }
}

/// What becomes an answer.
pub(super) trait Answer:
    Future<Output = Result<http::Response<Body>, Infallible>> + Unpin
{
}

impl<F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin> Answer for F {}

/// A call under way.
pub(super) struct Timed<A: Answer> {
    calls: Arc<Calls>,
    method: usize,
    began: Instant,
    answer: A,
    ended: bool,
}

impl<A: Answer> Timed<A> {
    fn end(&mut self, code: Code) {
        self.ended = true;
        self.calls.methods[self.method].durations[code as usize].record_time(self.began.elapsed());
    }
}

impl<A: Answer> Future for Timed<A> {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        if let Ok(answer) = &answer {
            // An answer with a message has its status, which is OK, in the trailers.
            let status = answer.headers().get("grpc-status");
            let code = status.map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()));
            self.end(code);
        }
        Poll::Ready(answer)
    }
}

impl<A: Answer> Drop for Timed<A> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    type Call = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>>>>;

    fn counted(calls: &Calls, method: &str, code: Code) -> u64 {
        let method = calls.methods.iter().find(|it| it.name == method).expect("a known method");
        method.durations[code as usize].count()
    }

    #[tokio::test]
    async fn calls_are_counted_by_method_and_status() {
        let calls = Arc::new(Calls::default());
        let ok = Box::pin(async { Ok(http::Response::new(Body::empty())) });
        let time = |path: &str, answer: Call| calls.time(calls.method(path), answer);
        time("/coterie.v1.Kv/Get", ok).await.unwrap();
        let failed = Box::pin(async { Ok(Status::unavailable("x").into_http()) });
        time("/coterie.v1.Kv/Set", failed).await.unwrap();
        drop(time("/coterie.v1.Admin/Status", Box::pin(std::future::pending())));
        let unknown = Box::pin(async { Ok(Status::unimplemented("x").into_http()) });
        time("/no/such", unknown).await.unwrap();

        assert_eq!(counted(&calls, "coterie.v1.Kv/Get", Code::Ok), 1);
        assert_eq!(counted(&calls, "coterie.v1.Kv/Set", Code::Ok), 0);
        assert_eq!(counted(&calls, "coterie.v1.Kv/Set", Code::Unavailable), 1);
        assert_eq!(counted(&calls, "coterie.v1.Admin/Status", Code::Cancelled), 1);
        assert_eq!(counted(&calls, OTHER, Code::Unimplemented), 1);
    }

    #[test]
    fn statuses_have_the_numbers_of_their_codes() {
        for (number, name) in (0..).zip(STATUSES) {
            let told = format!("{:?}", Code::from_i32(number)).to_uppercase();
            assert_eq!(told, name.replace('_', ""));
        }
    }
}
