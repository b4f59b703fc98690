//! Why a call failed, and what its caller may conclude.

use std::fmt;
use std::time::Duration;

use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt;

/// A failed call.
///
/// The details are those of the attempt that tells most: what a node has answered comes before a
/// connection that failed, an open outcome before a settled one, a later attempt before an earlier
/// one. [`Error::outcome_is_known`] heeds all attempts.
#[derive(Clone, Debug)]
pub struct Error {
    inner: Box<Inner>,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is not valid, and will not be.
    Invalid,
    /// The state of key or cluster forbids it: [`Error::reason`] and the message say what to do.
    Refused,
    /// No node could be connected to, or the connection broke.
    Unreachable,
    /// Too few replicas, or a node that is starting, stopping or overloaded.
    Unavailable,
    /// The time was up.
    Timeout,
    /// A defect of a node, or an answer that this client does not understand.
    Internal,
}

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    reason: String,
    outcome_known: bool,
    own_outcome_known: bool,
    retry_safe: bool,
    retry_after: Option<Duration>,
    reached: Vec<String>,
    missing: Vec<String>,
    needed: u32,
    violations: Vec<(String, String)>,
    node: String,
    attempts: u32,
    told_by: Teller,
    status: Option<Status>,
}

/// Who says that a call has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Teller {
    /// The node, in its answer.
    Node,
    /// This side: the node did not answer.
    Here,
}

/// The source of the status of an attempt that brought nothing in time.
#[derive(Debug)]
pub(super) struct Silent;

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the node did not answer in time")
    }
}

impl std::error::Error for Silent {}

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The gRPC status code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.inner.status.as_ref().map_or(Code::InvalidArgument, Status::code)
    }

    /// What happened, in a sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The node's name for the failure, such as `QUORUM_NOT_REACHED`; empty if no node gave one.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.inner.reason
    }

    /// Whether it is certain that nothing was changed. If not, what was asked may have been done,
    /// in part or whole, or may yet be.
    #[must_use]
    pub fn outcome_is_known(&self) -> bool {
        self.inner.outcome_known
    }

    /// Whether the same request, with the same request id, may be sent again.
    #[must_use]
    pub fn retry_is_safe(&self) -> bool {
        self.inner.retry_safe
    }

    /// How long the node asks its caller to wait before a retry.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// The names of the nodes that took part.
    #[must_use]
    pub fn reached(&self) -> &[String] {
        &self.inner.reached
    }

    /// The names of the nodes that should have taken part and did not.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.inner.missing
    }

    /// How many nodes were needed; 0 if it did not come to that.
    #[must_use]
    pub fn needed(&self) -> u32 {
        self.inner.needed
    }

    /// The fields of the request that are not valid, each with what is wrong.
    #[must_use]
    pub fn violations(&self) -> &[(String, String)] {
        &self.inner.violations
    }

    /// The address of the node that this was heard from, or that did not answer.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.inner.node
    }

    /// Whether a node has answered, and this is what it said. If not, it is what the transport or
    /// the clock of this side says.
    #[must_use]
    pub fn is_an_answer(&self) -> bool {
        self.inner.told_by == Teller::Node
    }

    /// Whether somebody took the connection, and then said nothing that a node says to a client.
    #[must_use]
    pub fn was_hung_up_on(&self) -> bool {
        let cause = self.inner.status.as_ref().and_then(std::error::Error::source);
        self.inner.kind == ErrorKind::Unreachable && !was_never_sent(cause)
    }

    /// How many attempts were made.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.inner.attempts
    }

    /// A mistake that was found before anything was sent.
    pub(super) fn invalid(message: String) -> Self {
        let inner = Inner {
            kind: ErrorKind::Invalid,
            message,
            reason: String::new(),
            outcome_known: true,
            own_outcome_known: true,
            retry_safe: true,
            retry_after: None,
            reached: vec![],
            missing: vec![],
            needed: 0,
            violations: vec![],
            node: String::new(),
            attempts: 0,
            told_by: Teller::Here,
            status: None,
        };
        Self { inner: Box::new(inner) }
    }

    /// What a status of the node at `address` means. `writes`: the call could change something.
    pub(crate) fn from_status(status: Status, address: &str, writes: bool) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == crate::proto::ERROR_DOMAIN);
        let told = |key: &str| info.and_then(|info| info.metadata.get(key)).map(String::as_str);
        let names = |key| -> Vec<String> {
            let names = told(key).unwrap_or_default().split(',').filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        };
        let violations = details.bad_request().map_or_else(Vec::new, |bad| {
            let each = bad.field_violations.iter();
            each.map(|one| (one.field.clone(), one.description.clone())).collect()
        });
        let cause = std::error::Error::source(&status);
        let outcome_known = !writes
            || match told("outcome") {
                Some(outcome) => outcome == "known",
                None if cause.is_some() => was_never_sent(cause),
                None => code_means_nothing_began(status.code()),
            };
        let no_node = status.message() == crate::proto::ADMIN_PORT_SPEAKS_HTTP;
        let inner = Inner {
            kind: if no_node { ErrorKind::Unreachable } else { kind(status.code(), cause) },
            message: message(&status),
            reason: info.map_or_else(String::new, |info| info.reason.clone()),
            outcome_known,
            own_outcome_known: outcome_known,
            // Every write of this client carries a request id.
            retry_safe: told("retry").is_none_or(|retry| retry == "safe"),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            reached: names("reached"),
            missing: names("missing"),
            needed: told("needed").and_then(|needed| needed.parse().ok()).unwrap_or(0),
            violations,
            node: address.to_owned(),
            attempts: 1,
            told_by: if cause.is_some() || no_node { Teller::Here } else { Teller::Node },
            status: None,
        };
        Self { inner: Box::new(Inner { status: Some(status), ..inner }) }
    }

    /// What the node at `address` said of one key of a batch.
    pub(super) fn from_key_error(
        error: crate::proto::KeyError,
        address: &str,
        writes: bool,
    ) -> Self {
        let code = Code::from_i32(error.code);
        let outcome_known = !writes || error.outcome_known;
        let delay = (error.retry_after_ms > 0).then_some(error.retry_after_ms);
        let inner = Inner {
            kind: kind(code, None),
            message: error.message.clone(),
            reason: error.reason,
            outcome_known,
            own_outcome_known: outcome_known,
            retry_safe: error.retry_safe,
            retry_after: delay.map(Duration::from_millis),
            reached: error.reached,
            missing: error.missing,
            needed: error.needed,
            violations: vec![],
            node: address.to_owned(),
            attempts: 1,
            told_by: Teller::Node,
            status: Some(Status::new(code, error.message)),
        };
        Self { inner: Box::new(inner) }
    }

    /// Takes in what all attempts together mean.
    pub(super) fn note_attempts(&mut self, attempts: u32, outcome_unknown: bool) {
        self.inner.attempts = attempts;
        self.inner.outcome_known = !outcome_unknown;
    }

    /// Of two failed attempts at one call, `earlier` before this one, the one that tells more.
    #[must_use]
    pub fn or_more_telling(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(earlier) if earlier.tells() > self.tells() => earlier,
            _ => self,
        }
    }

    /// How much an attempt tells: what a node has said first, for it names who is missing.
    fn tells(&self) -> (bool, bool, bool) {
        let answered = self.inner.told_by == Teller::Node;
        (answered, !self.inner.own_outcome_known, self.inner.kind == ErrorKind::Timeout)
    }

    /// Whether the node itself is to be left out for a while.
    pub(super) fn blames_the_node(&self) -> bool {
        let goes = ["NOT_FOUNDED", "SHUTTING_DOWN", "NOT_CONFIRMED", "STORE_REFUSED"];
        self.inner.told_by == Teller::Here || goes.contains(&self.reason())
    }

    /// Whether the node did nothing for the call at all: nobody took the connection, or it is ending, and says so.
    pub(super) fn was_turned_away(&self) -> bool {
        let cause = self.inner.status.as_ref().and_then(std::error::Error::source);
        let ends = self.reason() == "SHUTTING_DOWN" && self.inner.own_outcome_known;
        (self.inner.told_by == Teller::Here && was_never_sent(cause)) || ends
    }

    /// Whether another node may do better, and asking it cannot hurt.
    pub(super) fn worth_another_node(&self) -> bool {
        let kind = match self.inner.kind {
            ErrorKind::Unreachable | ErrorKind::Unavailable | ErrorKind::Timeout => true,
            ErrorKind::Invalid | ErrorKind::Refused | ErrorKind::Internal => false,
        };
        kind && self.inner.retry_safe
    }
}

/// What a node said, or, where the transport speaks of itself ("transport error"), its root cause.
fn message(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        if error.downcast_ref::<Silent>().is_none() {
            text = error.to_string();
        }
        cause = error.source();
    }
    if text.is_empty() { format!("status {:?}", status.code()) } else { text }
}

fn kind(code: Code, cause: Option<&(dyn std::error::Error + 'static)>) -> ErrorKind {
    match code {
        _ if cause.is_some_and(|cause| cause.downcast_ref::<Silent>().is_some()) => {
            ErrorKind::Timeout
        }
        // tonic's own timer, at either end, says so by `Cancelled`.
        Code::Cancelled | Code::DeadlineExceeded => ErrorKind::Timeout,
        // An answer that is too large, for one, is no fault of the connection.
        Code::OutOfRange | Code::InvalidArgument => ErrorKind::Invalid,
        _ if cause.is_some() => ErrorKind::Unreachable,
        Code::Unavailable | Code::ResourceExhausted => ErrorKind::Unavailable,
        Code::FailedPrecondition
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Aborted => ErrorKind::Refused,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => {
            ErrorKind::Internal
        }
    }
}

/// Whether a code, given without details, says that nothing was begun.
fn code_means_nothing_began(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::Unauthenticated
    )
}

/// Whether there was no connection that the request could have been sent on.
fn was_never_sent(mut cause: Option<&(dyn std::error::Error + 'static)>) -> bool {
    while let Some(error) = cause {
        if error.downcast_ref::<ConnectError>().is_some() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What the node said, which tells whom it reached; then who was asked, and what earlier attempts
/// leave open.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { message, node, attempts, told_by, .. } = &*self.inner;
        let Inner { outcome_known, own_outcome_known, .. } = &*self.inner;
        f.write_str(message)?;
        if !node.is_empty() {
            write!(f, "; asked {node}")?;
        }
        if *attempts > 1 {
            write!(f, ", one of {attempts} attempts")?;
        }
        match (outcome_known, own_outcome_known, told_by) {
            // The node has said so itself.
            (true, _, _) | (false, false, Teller::Node) => Ok(()),
            (false, false, Teller::Here) => f.write_str("; outcome unknown: it may have been done"),
            (false, true, _) => f.write_str("; outcome unknown: another attempt may have done it"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.status.as_ref().and_then(std::error::Error::source)
    }
}
