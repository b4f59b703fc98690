//! `explain`: who holds what of a key, asked of every member itself.
//!
//! ```text
//!   one node ── locate ──▶ homes, fallbacks, addresses
//!   every member ── inspect ──▶ its own copy and the hints that it keeps, from its own disk
//!        └── judge: what all have, merged, against what each home has ──▶ a verdict, a table
//! ```

mod held;
mod judge;
mod show;

use std::ffi::OsString;

use clap::Args;

use super::args::Show;
use super::exit::Exit;
use super::kv::key_of;
use super::nodes::{Answer, ask_each, client};
use super::ring::locate_by;
use super::term::Output;
use crate::client::Client;
use crate::proto::{InspectResponse, LocateResponse};
use held::{Held, Holding};
use judge::{Elsewhere, Findings, Home, judge};

/// Who holds what of a key, and who is stale
#[derive(Args, Debug)]
#[command(after_help = "\
Every member is asked for what lies on its own disk: its copy, and the hints that it keeps of the key
for homes that were away. What all of them hold, merged, is the measure of each home. A node that
cannot be asked is unknown, never fine. Nothing is repaired by asking. A write that is under way looks
like a stale replica for as long as it takes: ask again.

Exit codes: 0 all homes were asked and agree, 3 nobody has a trace of the key, 4 a home is stale,
damaged, being rebuilt or unknown.

Examples:
  coterie explain greeting
  coterie explain cart/7 -o json | jq '.homes[] | select(.state != \"current\")'
  coterie get greeting --consistency all       read all homes, which mends what differs")]
pub struct ExplainArgs {
    /// The key, 1 to 4096 bytes
    key: OsString,
    #[command(flatten)]
    show: Show,
}

/// Runs the command.
///
/// # Errors
/// If the key is none, no node answers, or standard output is closed.
pub async fn explain(args: ExplainArgs) -> anyhow::Result<Exit> {
    let key = key_of(&args.key)?;
    let client = client(&args.show.target)?;
    let located = locate_by(&client, &key).await?;
    let members = located.homes.iter().chain(&located.fallbacks);
    let members = members.map(|place| (place.name.clone(), place.client_address.clone()));
    let inspect = |client: Client, address: String| {
        let key = key.clone();
        async move { client.inspect(&address, key).await }
    };
    let answers = ask_each(&client, members, inspect).await;
    let findings = found(&located, &answers);
    let verdict = judge(&findings);
    match args.show.output {
        Output::Json => show::json(&args.key, &located, &findings, &verdict)?,
        Output::Text => show::text(&args.key, &located, &findings, &verdict)?,
    }
    Ok(match (verdict.agree, verdict.nobody) {
        (_, true) => Exit::NotFound,
        (true, false) if findings.silent.is_empty() => Exit::Ok,
        _ => Exit::Degraded,
    })
}

/// Sorts the answers: homes come first among them, in their order.
fn found(located: &LocateResponse, answers: &[Answer<InspectResponse>]) -> Findings {
    let (homes, others) = answers.split_at(located.homes.len().min(answers.len()));
    let mut elsewhere = Vec::new();
    let mut silent = Vec::new();
    for answer in answers {
        let Ok(said) = own_words(answer) else { continue };
        for hint in &said.hints {
            // One that this version cannot read may be anything: it is told as damaged.
            let held = Held::of(hint.copy.as_ref()).unwrap_or(Held::Damaged);
            let (holder, target) = (answer.name.clone(), Some(hint.target.clone()));
            elsewhere.push(Elsewhere { holder, target, held });
        }
    }
    for answer in others {
        match own_words(answer).and_then(Holding::of) {
            Err(_) => silent.push(answer.name.clone()),
            Ok(Holding { held: Held::Nothing, .. }) => {}
            Ok(Holding { held, .. }) => {
                elsewhere.push(Elsewhere { holder: answer.name.clone(), target: None, held });
            }
        }
    }
    let home = |answer: &Answer<InspectResponse>| Home {
        name: answer.name.clone(),
        own: own_words(answer).and_then(Holding::of),
    };
    Findings { homes: homes.iter().map(home).collect(), elsewhere, silent }
}

/// The answer, if it is that of the member that was asked.
fn own_words(answer: &Answer<InspectResponse>) -> Result<&InspectResponse, String> {
    let said = answer.said.as_ref().map_err(Clone::clone)?;
    if said.name == answer.name {
        return Ok(said);
    }
    Err(format!("at its address answers {}", said.name))
}
