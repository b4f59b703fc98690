//! Failures as gRPC statuses with `google.rpc` details.
//!
//! | what happened | code |
//! |---|---|
//! | the request is not valid | `INVALID_ARGUMENT` |
//! | valid, but the key's or the cluster's state forbids it | `FAILED_PRECONDITION` |
//! | too few took part, and certainly nothing was written | `UNAVAILABLE` |
//! | too few took part, and something may have been written | `DEADLINE_EXCEEDED` |
//! | overload; nothing was begun | `RESOURCE_EXHAUSTED` |
//! | too large to be read at all | `OUT_OF_RANGE` |

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::proto::ERROR_DOMAIN;
use crate::protocol::context::ContextError;
use crate::protocol::op::{Action, Failure, Reason};
use crate::protocol::placement::PlanRefused;
use crate::types::NodeName;

/// What can be told of a reason alone.
struct Told {
    name: &'static str,
    /// The code if certainly nothing was written.
    code: Code,
    /// When a retry may help, if it may.
    retry_after: Option<Duration>,
}

/// The status of an op that failed.
pub(super) fn failed(failure: &Failure, action: &Action) -> Status {
    let told = told(failure.reason);
    let code = match (failure.maybe_applied, told.code) {
        (true, Code::Unavailable) => Code::DeadlineExceeded,
        (_, code) => code,
    };
    let safe = failure.retry_is_safe(action);
    let mut details = ErrorDetails::new();
    details.set_error_info(told.name, ERROR_DOMAIN, metadata(failure, safe));
    if let Some(delay) = told.retry_after.filter(|_| safe) {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code, sentence(failure, safe), details)
}

/// The status of a request with fields that are not valid; nothing was begun.
pub(super) fn invalid(violations: Vec<FieldViolation>) -> Status {
    let each = violations.iter().map(|one| format!("{}: {}", one.field, one.description));
    let message = each.collect::<Vec<_>>().join("; ");
    let mut details = ErrorDetails::with_bad_request(violations);
    details.set_error_info("INVALID_REQUEST", ERROR_DOMAIN, nothing_begun());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The status of a request that was turned away because too much is under way.
pub(super) fn too_much(what: &str, limit: usize) -> Status {
    let told = told(Reason::Overloaded);
    let mut details = ErrorDetails::with_retry_info(told.retry_after);
    details.set_error_info(told.name, ERROR_DOMAIN, nothing_begun());
    let message = format!("{limit} {what} are under way on this node; nothing was begun");
    Status::with_error_details(told.code, message, details)
}

/// The status of a key for which the answer to its batch had no room.
pub(super) fn answer_full(bytes_max: usize) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(Duration::ZERO));
    details.set_error_info("ANSWER_FULL", ERROR_DOMAIN, nothing_begun());
    let message = format!(
        "an answer to a batch has at most {bytes_max} bytes; ask for this key in another batch"
    );
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// The status of a request that is too large to be read at all; nothing was begun.
pub(super) fn too_large(bytes_max: usize) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("REQUEST_TOO_LARGE", ERROR_DOMAIN, nothing_begun());
    let message = format!(
        "a request has at most {bytes_max} bytes (limits.value_bytes bounds values); split a \
         batch, or keep large values elsewhere"
    );
    Status::with_error_details(Code::OutOfRange, message, details)
}

/// The status of a read that has used up the time that its client gave it.
pub(super) fn out_of_time(what: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("OUT_OF_TIME", ERROR_DOMAIN, nothing_begun());
    let message = format!("the time for the {what} is up; it can go on from its last page_token");
    Status::with_error_details(Code::DeadlineExceeded, message, details)
}

/// The status of a look at what is stored that failed: nothing is known, least of all that
/// nothing is there.
pub(super) fn unread(message: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("STORE_UNREADABLE", ERROR_DOMAIN, nothing_begun());
    Status::with_error_details(Code::Internal, message, details)
}

/// The status of a change of the ring that cannot be made as the ring is; nothing was begun.
pub(super) fn plan_refused(refused: &PlanRefused) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("PLAN_REFUSED", ERROR_DOMAIN, nothing_begun());
    Status::with_error_details(Code::FailedPrecondition, refused.to_string(), details)
}

/// The status of an operator's order that was refused; nothing was begun.
pub(super) fn order_refused(name: &str, code: Code, message: String) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(name, ERROR_DOMAIN, nothing_begun());
    Status::with_error_details(code, message, details)
}

/// The status of an operator's order that may have been carried out, or may yet be. Given once more, it is
/// refused where it was.
pub(super) fn order_unknown(message: &str) -> Status {
    let mut details = ErrorDetails::new();
    let metadata = HashMap::from([
        ("outcome".to_owned(), "unknown".to_owned()),
        ("retry".to_owned(), "safe".to_owned()),
    ]);
    details.set_error_info("NO_ANSWER", ERROR_DOMAIN, metadata);
    let message = format!("{message}; outcome unknown: it may yet be carried out");
    Status::with_error_details(Code::DeadlineExceeded, message, details)
}

/// The status of an answer that does not fit its question: a defect of this node.
pub(super) fn defect(what: &str) -> Status {
    tracing::error!(what, "a request met a defect");
    let mut details = ErrorDetails::new();
    let metadata = HashMap::from([
        ("outcome".to_owned(), "unknown".to_owned()),
        ("retry".to_owned(), "unsafe".to_owned()),
    ]);
    details.set_error_info("DEFECT", ERROR_DOMAIN, metadata);
    Status::with_error_details(Code::Internal, format!("a defect of this node: {what}"), details)
}

fn nothing_begun() -> HashMap<String, String> {
    HashMap::from([
        ("outcome".to_owned(), "known".to_owned()),
        ("retry".to_owned(), "safe".to_owned()),
    ])
}

fn metadata(failure: &Failure, safe: bool) -> HashMap<String, String> {
    let outcome = if failure.maybe_applied { "unknown" } else { "known" };
    let retry = if safe { "safe" } else { "unsafe" };
    let pairs = [
        ("outcome", outcome.to_owned()),
        ("retry", retry.to_owned()),
        ("needed", failure.needed.to_string()),
        ("reached", list(&failure.reached, ",")),
        ("missing", list(&failure.missing, ",")),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

/// What happened and what it means, for people.
fn sentence(failure: &Failure, safe: bool) -> String {
    let mut text = failure.reason.to_string();
    if failure.needed > 0 {
        let names = |names: &[NodeName]| match names {
            [] => "nobody".to_owned(),
            names => list(names, ", "),
        };
        let _ = write!(
            text,
            " ({} needed; reached {}; missing {})",
            failure.needed,
            names(&failure.reached),
            names(&failure.missing)
        );
    }
    text += match (failure.maybe_applied, safe) {
        (false, _) => "",
        (true, true) => "; outcome unknown; a retry with the same request id is safe",
        (true, false) => {
            "; outcome unknown; a retry may write twice, since the request had no request id"
        }
    };
    text
}

fn list(names: &[NodeName], between: &str) -> String {
    names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(between)
}

/// Whether a status says that the store has failed, and not that the client has asked for what
/// cannot be had.
pub(super) fn is_of_server(code: Code) -> bool {
    match code {
        Code::Unavailable
        | Code::ResourceExhausted
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unknown
        | Code::DataLoss
        | Code::Unimplemented => true,
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    }
}

/// The name that a status has beside its code; empty if it is none of ours.
pub(super) fn name_of(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

fn told(reason: Reason) -> Told {
    let at_once = Some(Duration::ZERO);
    let soon = Some(Duration::from_millis(200));
    let later = Some(Duration::from_secs(1));
    let (name, code, retry_after) = match reason {
        Reason::NotFounded => ("NOT_FOUNDED", Code::Unavailable, later),
        Reason::QuorumNotReached => ("QUORUM_NOT_REACHED", Code::Unavailable, soon),
        Reason::HintsFull => ("HINTS_FULL", Code::Unavailable, later),
        Reason::CoordinatorSilent => ("COORDINATOR_SILENT", Code::Unavailable, soon),
        Reason::StoreRefused => ("STORE_REFUSED", Code::Unavailable, later),
        Reason::ShuttingDown => ("SHUTTING_DOWN", Code::Unavailable, at_once),
        Reason::NotMember => ("NOT_MEMBER", Code::Unavailable, at_once),
        Reason::NotConfirmed => ("NOT_CONFIRMED", Code::Unavailable, soon),
        Reason::RoundsUnknown => ("ROUNDS_UNKNOWN", Code::Unavailable, soon),
        Reason::Overloaded => ("OVERLOADED", Code::ResourceExhausted, soon),
        Reason::RequestIdReused => ("REQUEST_ID_REUSED", Code::FailedPrecondition, None),
        Reason::TooManySiblings => ("TOO_MANY_SIBLINGS", Code::FailedPrecondition, None),
        Reason::RecordTooLarge => ("RECORD_TOO_LARGE", Code::FailedPrecondition, None),
        Reason::Context(error) => {
            let (name, code) = context(error);
            (name, code, None)
        }
    };
    Told { name, code, retry_after }
}

fn context(error: ContextError) -> (&'static str, Code) {
    match error {
        ContextError::Malformed(_) => ("CONTEXT_MALFORMED", Code::InvalidArgument),
        ContextError::ForeignKey => ("CONTEXT_OF_ANOTHER_KEY", Code::InvalidArgument),
        ContextError::ForeignCluster(_) => ("CONTEXT_OF_ANOTHER_CLUSTER", Code::FailedPrecondition),
        ContextError::Partial => ("CONTEXT_PARTIAL", Code::FailedPrecondition),
        ContextError::Ahead => ("CONTEXT_AHEAD", Code::FailedPrecondition),
    }
}
