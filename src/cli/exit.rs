//! Exit codes, and how an error gets one.
//!
//! The code is the one that the error was given ([`Coded`]), else that of the failed call among its causes,
//! else 1.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::client::{Error as CallError, ErrorKind};

/// What a process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It worked.
    Ok = 0,
    /// It did not.
    Error = 1,
    /// It was asked for in a way that makes no sense; clap uses the same code.
    Usage = 2,
    /// There is no such key.
    NotFound = 3,
    /// Too few nodes could be reached, or the cluster is not as it should be.
    Degraded = 4,
    /// Time ran out; whether the write took place is unknown.
    Unknown = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with the exit code that it should end the process with.
#[derive(Debug)]
pub struct Coded {
    /// The code.
    pub exit: Exit,
    /// What was tried, and what to do.
    pub message: String,
    /// Why it failed.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Coded {
    /// An error with a code and no further cause.
    pub fn error(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        Self { exit, message: message.into(), source: None }.into()
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Coded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The code that an error ends the process with.
#[must_use]
pub fn of_error(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(coded) = cause.downcast_ref::<Coded>() {
            return coded.exit;
        }
        if let Some(call) = cause.downcast_ref::<CallError>() {
            return of_call(call.kind(), call.outcome_is_known());
        }
        if cause.is::<tonic::transport::Error>() {
            return Exit::Degraded;
        }
    }
    Exit::Error
}

/// The code of a failed call. What counts most is whether it may have changed something: a read
/// that timed out has not.
#[must_use]
pub fn of_call(kind: ErrorKind, outcome_is_known: bool) -> Exit {
    match kind {
        _ if !outcome_is_known => Exit::Unknown,
        ErrorKind::Unreachable | ErrorKind::Unavailable | ErrorKind::Timeout => Exit::Degraded,
        ErrorKind::Invalid | ErrorKind::Refused | ErrorKind::Internal => Exit::Error,
    }
}

/// Whether an error only says that the reader of our output has gone away, as `head` does. A
/// connection to a node breaks with the same words, and that is a failed call.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let of_a_call = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<CallError>() || cause.is::<tonic::transport::Error>()
    };
    error.chain().take_while(|cause| !of_a_call(*cause)).any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn failed_calls_map_to_the_documented_codes() {
        let cases = [
            (ErrorKind::Unavailable, true, Exit::Degraded),
            (ErrorKind::Unreachable, true, Exit::Degraded),
            (ErrorKind::Timeout, true, Exit::Degraded),
            (ErrorKind::Timeout, false, Exit::Unknown),
            (ErrorKind::Unavailable, false, Exit::Unknown),
            (ErrorKind::Invalid, true, Exit::Error),
            (ErrorKind::Refused, true, Exit::Error),
            (ErrorKind::Internal, true, Exit::Error),
            (ErrorKind::Internal, false, Exit::Unknown),
        ];
        for (kind, known, exit) in cases {
            assert_eq!(of_call(kind, known), exit, "{kind:?} {known}");
        }
    }

    #[test]
    fn codes_are_the_documented_numbers() {
        let exits = [Exit::Ok, Exit::Error, Exit::Usage, Exit::NotFound, Exit::Degraded];
        assert_eq!(exits.map(|exit| exit as u8), [0, 1, 2, 3, 4]);
        assert_eq!(Exit::Unknown as u8, 5);
    }

    #[test]
    fn the_code_is_found_below_added_context() {
        let error = Coded::error(Exit::NotFound, "no such key").context("getting `k`");
        assert_eq!(of_error(&error), Exit::NotFound);
        assert_eq!(of_error(&anyhow::anyhow!("anything")), Exit::Error);
    }

    #[test]
    fn a_broken_pipe_is_recognised_below_added_context() {
        let error = Err::<(), _>(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing");
        assert!(is_broken_pipe(&error.unwrap_err()));
        assert!(!is_broken_pipe(&anyhow::anyhow!("x")));
        // Of a call, it is a failure like any other.
        let mut status = tonic::Status::unavailable("gone");
        status.set_source(std::sync::Arc::new(io::Error::from(io::ErrorKind::BrokenPipe)));
        let failed = CallError::from_status(status, "node:1", true);
        assert!(!is_broken_pipe(&anyhow::Error::from(failed).context("writing")));
    }
}
