//! How a command that has failed says so, on standard error.
//!
//! For people, a sentence with what was tried and what to do, then the causes, a line each. For
//! programs, if they have asked for JSON, one object on one line: standard output holds documents
//! of the described form only, so that a `jq` behind it meets none that is not.

use std::ffi::OsString;
use std::fmt;

use serde::Serialize;

use super::exit::{self, Exit};
use crate::client::{Error as CallError, ErrorKind};

/// What was tried with a request that has a name, as the context of its failure.
#[derive(Debug)]
pub struct Tried {
    /// What, and what to do.
    pub message: String,
    /// The request's name, to send it again.
    pub request_id: u128,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A failure for programs. What it does not apply to is left out.
#[derive(Serialize)]
struct Document<'a> {
    /// What was tried, and what to do.
    error: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    because: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// What the process ends with.
    exit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(flatten)]
    call: Option<CallDocument<'a>>,
}

/// What a call that failed tells beyond its message.
#[derive(Serialize)]
struct CallDocument<'a> {
    /// If not, what was asked may have been done, or may yet be.
    outcome_known: bool,
    /// Whether the same request, with the same id, may be sent again.
    retry_safe: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    needed: u32,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    reached: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    missing: &'a [String],
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Whether these words of a command line ask for JSON. Read from the words, for they may be wrong.
pub fn asks_for_json(words: &[OsString]) -> bool {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let words = words.split(|word| word == "--").next().unwrap_or_default();
    let one = |word: &str| ["-ojson", "-o=json", "--output=json"].contains(&word);
    let two = |pair: &[_]| matches!(pair, [flag, word] if (flag == "-o" || flag == "--output") && word == "json");
    words.iter().any(|word| one(word)) || words.windows(2).any(two)
}

/// The failure for programs, on one line.
pub fn json(error: &anyhow::Error) -> String {
    let call = call_of(error);
    let tried = error.downcast_ref::<Tried>();
    written(&Document {
        error: error.to_string(),
        because: causes(error),
        advice: call.and_then(advice),
        exit: exit::of_error(error) as u8,
        request_id: tried.map(|tried| format!("{:032x}", tried.request_id)),
        call: call.map(|call| CallDocument {
            outcome_known: call.outcome_is_known(),
            retry_safe: call.retry_is_safe(),
            reason: call.reason(),
            needed: call.needed(),
            reached: call.reached(),
            missing: call.missing(),
        }),
    })
}

/// Words that make no command, for programs: what is wrong, without how to learn more.
pub fn usage_json(error: &clap::Error) -> String {
    let text = error.to_string();
    let wrong = text.split("\n\n").next().unwrap_or_default();
    let wrong = wrong.split_whitespace().collect::<Vec<_>>().join(" ");
    let error = wrong.trim_start_matches("error: ").to_owned();
    let exit = Exit::Usage as u8;
    written(&Document { error, because: vec![], advice: None, exit, request_id: None, call: None })
}

fn written(document: &Document) -> String {
    // Texts and numbers under fixed names always serialise.
    serde_json::to_string(document).unwrap_or_default()
}

/// The failure for people.
pub fn text(error: &anyhow::Error) -> String {
    let mut text = match exit::of_error(error) {
        // Nothing went wrong: it is not there.
        Exit::NotFound => error.to_string(),
        _ => format!("error: {error}"),
    };
    for cause in causes(error) {
        text.push_str("\n  because: ");
        text.push_str(&cause);
    }
    if let Some(advice) = call_of(error).and_then(advice) {
        text.push_str("\n  ");
        text.push_str(&advice);
    }
    text
}

fn call_of(error: &anyhow::Error) -> Option<&CallError> {
    error.chain().find_map(|cause| cause.downcast_ref::<CallError>())
}

/// The causes, outermost first, without those that only repeat what was said. A failed call tells
/// its root cause itself, and what lies between is the transport's own affair.
fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut told = vec![error.to_string()];
    let call = error.chain().position(<dyn std::error::Error>::is::<CallError>);
    let shown = call.map_or(usize::MAX, |at| at + 1);
    for cause in error.chain().take(shown).skip(1) {
        let cause = cause.to_string();
        if !cause.is_empty() && !told.iter().any(|before| before.contains(&cause)) {
            told.push(cause);
        }
    }
    told.split_off(1)
}

/// What to look at if nothing came of a connection: nodes usually have their three ports in a row,
/// as those of `coterie local` do, and the wrong one of them is the commonest mistake.
fn advice(call: &CallError) -> Option<String> {
    if call.kind() != ErrorKind::Unreachable {
        return None;
    }
    let port = call.node().rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let kind = match port.map(|port| port % 10) {
        Some(1) => Some(("internal", 1)),
        Some(2) => Some(("admin", 2)),
        _ => None,
    };
    Some(match (port, kind.filter(|_| call.was_hung_up_on())) {
        (Some(port), Some((kind, behind))) => format!(
            "{port} is probably the {kind} port of a node whose port for clients is {}: a node \
             usually has them in a row, clients, internal, admin.",
            port - behind
        ),
        _ => "Is the cluster running, and is this the port for clients?".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn causes_are_listed_and_repetitions_are_not() {
        let inner = io::Error::other("disk on fire");
        let error = anyhow::Error::from(inner).context("cannot read: disk on fire").context("top");
        assert_eq!(text(&error), "error: top\n  because: cannot read: disk on fire");
        assert_eq!(
            json(&error),
            r#"{"error":"top","because":["cannot read: disk on fire"],"exit":1}"#
        );
    }

    #[test]
    fn what_is_not_there_is_no_error() {
        let error = exit::Coded::error(Exit::NotFound, "there is no such key");
        assert_eq!(text(&error), "there is no such key");
        assert_eq!(json(&error), r#"{"error":"there is no such key","exit":3}"#);
    }

    #[test]
    fn json_is_asked_for_in_any_spelling_of_the_flag() {
        let of = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            asks_for_json(&words)
        };
        for line in ["get k -o json", "get k -ojson", "get --output=json", "get --output json k"] {
            assert!(of(line), "{line}");
        }
        for line in ["get k", "get json -o raw", "get -- -o json", "get -o", "scan -o tsv json"] {
            assert!(!of(line), "{line}");
        }
    }

    #[test]
    fn a_failed_call_tells_programs_whether_to_send_it_again() {
        let mut status = tonic::Status::unavailable("gone");
        status.set_source(std::sync::Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        let failed = CallError::from_status(status, "node:7401", true);
        let context = Tried { message: "cannot write".to_owned(), request_id: 7 };
        let told = json(&anyhow::Error::from(failed).context(context));
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!((&told["exit"], &told["outcome_known"]), (&5.into(), &false.into()));
        assert_eq!(told["retry_safe"], true);
        let because = told["because"][0].as_str().unwrap();
        assert!(because.contains("reset") && because.contains("asked node:7401"), "{because}");
        assert_eq!(told["request_id"], format!("{:032x}", 7));
        let advice = told["advice"].as_str().unwrap();
        assert!(advice.contains("internal port of a node whose port for clients is 7400"));
    }
}
