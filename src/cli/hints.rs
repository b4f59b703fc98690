//! `hints`: who keeps how many for whom.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use super::args::Show;
use super::exit::Exit;
use super::nodes::{Answer, ask_any, ask_each, client, status_of};
use super::status::{coarse, table};
use super::term::{self, Output};
use crate::proto::{HintsResponse, TargetHints};

/// Who keeps how many hints for whom
#[derive(Args, Debug)]
#[command(after_help = "\
A hint is a record that is kept for a home that was away; it is handed over once that home can be
reached, and deleted once the home has it on disk. Every member counts what lies on its own disk. OLDEST
WRITE is how long ago the oldest write in the hints was made; a hint itself bears no time.

Exit codes: 0 no hint is left anywhere, 4 some are, or a node could not be asked.

Examples:
  coterie hints
  until coterie hints > /dev/null; do sleep 1; done      wait until all are handed over")]
pub struct HintsArgs {
    #[command(flatten)]
    show: Show,
}

#[derive(Serialize)]
struct HintsDocument<'a> {
    none_left: bool,
    summary: &'a str,
    nodes: Vec<NodeDocument<'a>>,
}

#[derive(Serialize)]
struct NodeDocument<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_because: Option<&'a str>,
    /// Whether everything was counted before the time was up.
    complete: bool,
    /// Beyond so many bytes, hints are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_max: Option<u64>,
    targets: Vec<TargetDocument<'a>>,
}

#[derive(Serialize)]
struct TargetDocument<'a> {
    target: &'a str,
    hints: u64,
    bytes: u64,
    damaged: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_write_ms: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// If no node answers, or standard output is closed.
pub async fn hints(args: HintsArgs) -> anyhow::Result<Exit> {
    let client = client(&args.show.target)?;
    let asked = ask_any(&client, status_of).await?;
    let members = asked.members.into_iter().map(|member| (member.name, member.client_address));
    let ask = |client: crate::client::Client, address: String| async move {
        client.hints(&address).await
    };
    let answers = ask_each(&client, members, ask).await;
    let (summary, none_left) = judge(&answers);
    match args.show.output {
        Output::Json => term::json(&HintsDocument {
            none_left,
            summary: &summary,
            nodes: answers.iter().map(NodeDocument::new).collect(),
        })?,
        Output::Text => print(&summary, &answers)?,
    }
    Ok(if none_left { Exit::Ok } else { Exit::Degraded })
}

/// The answer in a sentence, and whether certainly nothing is left.
fn judge(answers: &[Answer<HintsResponse>]) -> (String, bool) {
    let mut total = 0;
    let (mut unknown, mut incomplete, mut full) = (Vec::new(), Vec::new(), Vec::new());
    for answer in answers {
        match &answer.said {
            Err(_) => unknown.push(answer.name.as_str()),
            Ok(said) => {
                total += said.targets.iter().map(|held| held.hints).sum::<u64>();
                let bytes = said.targets.iter().map(|held| held.bytes).sum();
                if has_no_room(bytes, said.bytes_max) {
                    full.push(answer.name.as_str());
                }
                if !said.complete {
                    incomplete.push(answer.name.as_str());
                }
            }
        }
    }
    let least = if incomplete.is_empty() { "" } else { "at least " };
    let mut parts = vec![match total {
        0 if unknown.is_empty() && incomplete.is_empty() => "no hint is left anywhere".to_owned(),
        0 => "none was found".to_owned(),
        1 => format!("{least}1 hint is kept"),
        total => format!("{least}{} are kept", term::count(total, "hint")),
    }];
    if !incomplete.is_empty() {
        parts.push(format!("{} had no time to count all of them", incomplete.join(", ")));
    }
    if !full.is_empty() {
        let names = full.join(", ");
        parts.push(format!("hardly any room is left for more on {names} (hints.max_bytes)"));
    }
    if !unknown.is_empty() {
        parts.push(format!("unknown: {} did not answer", unknown.join(", ")));
    }
    let none_left = total == 0 && unknown.is_empty() && incomplete.is_empty();
    (parts.join("; "), none_left)
}

/// Whether a node's hints are so close to their bound that some may be refused already: a hint that
/// does not fit is refused while smaller ones still do.
pub fn has_no_room(bytes: u64, bytes_max: u64) -> bool {
    bytes_max > 0 && bytes >= bytes_max / 10 * 9
}

fn print(summary: &str, answers: &[Answer<HintsResponse>]) -> anyhow::Result<()> {
    term::line(summary)?;
    let mut rows = table(&["KEPT ON", "FOR", "HINTS", "BYTES", "DAMAGED", "OLDEST WRITE"]);
    for answer in answers {
        match &answer.said {
            Err(why) => {
                rows.add_row([answer.name.clone(), format!("unknown: {why}")]);
            }
            Ok(said) => said.targets.iter().for_each(|held| {
                rows.add_row(cells(&answer.name, held));
            }),
        }
    }
    if rows.row_count() > 0 {
        term::line(format_args!("\n{rows}"))?;
    }
    Ok(())
}

fn cells(name: &str, held: &TargetHints) -> Vec<String> {
    let oldest = match held.oldest_write_ms {
        0 => "-".to_owned(),
        at => format!("{} ago", coarse(now_ms().saturating_sub(at))),
    };
    vec![
        name.to_owned(),
        held.target.clone(),
        term::grouped(held.hints),
        term::grouped(held.bytes),
        term::grouped(held.damaged),
        oldest,
    ]
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl<'a> NodeDocument<'a> {
    fn new(answer: &'a Answer<HintsResponse>) -> Self {
        let said = answer.said.as_ref();
        let targets = said.map(|said| said.targets.as_slice()).unwrap_or_default();
        let targets = targets.iter().map(|held| TargetDocument {
            target: &held.target,
            hints: held.hints,
            bytes: held.bytes,
            damaged: held.damaged,
            oldest_write_ms: (held.oldest_write_ms != 0).then_some(held.oldest_write_ms),
        });
        Self {
            name: &answer.name,
            unknown_because: said.err().map(String::as_str),
            complete: said.is_ok_and(|said| said.complete),
            bytes_max: said.ok().map(|said| said.bytes_max),
            targets: targets.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(name: &str, hints: u64, complete: bool) -> Answer<HintsResponse> {
        let held = TargetHints { target: "node-9".to_owned(), hints, ..Default::default() };
        let targets = if hints == 0 { vec![] } else { vec![held] };
        let name_said = name.to_owned();
        let said = Ok(HintsResponse { name: name_said, targets, complete, bytes_max: 1000 });
        Answer { name: name.to_owned(), address: String::new(), said }
    }

    #[test]
    fn none_is_left_only_if_everyone_has_counted_everything() {
        let silent = || Answer { said: Err("gone".to_owned()), ..answer("c", 0, true) };
        let of = |answers: &[Answer<HintsResponse>]| judge(answers);
        let (a, b) = (|| answer("a", 0, true), || answer("b", 7, true));
        assert_eq!(of(&[a()]), ("no hint is left anywhere".to_owned(), true));
        assert_eq!(of(&[a(), b()]), ("7 hints are kept".to_owned(), false));
        assert!(!of(&[a(), silent()]).1);
        assert!(of(&[a(), silent()]).0.contains("c did not answer"));
        let (sentence, none_left) = of(&[answer("a", 7, false)]);
        assert!(sentence.starts_with("at least 7 hints") && !none_left, "{sentence}");
        assert!(!of(&[answer("a", 0, false)]).1);
    }

    #[test]
    fn a_node_that_has_hardly_any_room_is_named() {
        let mut full = answer("b", 7, true);
        if let Ok(said) = &mut full.said {
            said.targets[0].bytes = 950;
        }
        let sentence = judge(&[answer("a", 7, true), full]).0;
        assert!(sentence.contains("room is left for more on b (hints.max_bytes)"), "{sentence}");
    }
}
