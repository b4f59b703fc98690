//! What was found, for people and for programs.

use std::ffi::OsString;

use comfy_table::Table;
use serde::Serialize;

use super::held::{Described, Held};
use super::judge::{Findings, State, Verdict};
use crate::cli::hints::now_ms;
use crate::cli::status::{coarse, table};
use crate::cli::term;
use crate::cli::transfer::ndjson::text_or_base64;
use crate::proto::LocateResponse;

#[derive(Serialize)]
struct Document<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_b64: Option<String>,
    verdict: &'a str,
    agree: bool,
    partition: u32,
    placement_number: u32,
    located_by: &'a str,
    homes: Vec<HomeDocument<'a>>,
    elsewhere: Vec<ElsewhereDocument<'a>>,
    unknown_fallbacks: &'a [String],
}

#[derive(Serialize)]
struct HomeDocument<'a> {
    name: &'a str,
    #[serde(flatten)]
    state: &'a State,
    rebuilding: bool,
    #[serde(flatten)]
    copy: CopyDocument<'a>,
}

#[derive(Serialize)]
struct ElsewhereDocument<'a> {
    holder: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint_for: Option<&'a str>,
    damaged: bool,
    #[serde(flatten)]
    copy: CopyDocument<'a>,
}

#[derive(Default, Serialize)]
struct CopyDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<&'a str>,
    siblings: Vec<SiblingDocument<'a>>,
}

#[derive(Serialize)]
struct SiblingDocument<'a> {
    dot: String,
    kind: &'a str,
    value_bytes: u64,
    written_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// Prints one document.
pub(super) fn json(
    key: &OsString,
    located: &LocateResponse,
    findings: &Findings,
    verdict: &Verdict,
) -> anyhow::Result<()> {
    let homes = findings.homes.iter().zip(&verdict.states).map(|(home, state)| HomeDocument {
        name: &home.name,
        state,
        rebuilding: home.own.as_ref().is_ok_and(|own| own.rebuilding),
        copy: home.own.as_ref().map(|own| CopyDocument::of(&own.held)).unwrap_or_default(),
    });
    let elsewhere = findings.elsewhere.iter().map(|copy| ElsewhereDocument {
        holder: &copy.holder,
        hint_for: copy.target.as_deref(),
        damaged: copy.held == Held::Damaged,
        copy: CopyDocument::of(&copy.held),
    });
    let (key, key_b64) = text_or_base64(key.as_encoded_bytes());
    term::json(&Document {
        key,
        key_b64,
        verdict: &verdict.sentence,
        agree: verdict.agree,
        partition: located.partition,
        placement_number: located.placement_number,
        located_by: &located.name,
        homes: homes.collect(),
        elsewhere: elsewhere.collect(),
        unknown_fallbacks: &findings.silent,
    })
}

/// Prints the verdict, then a row for each write in each place.
pub(super) fn text(
    key: &OsString,
    located: &LocateResponse,
    findings: &Findings,
    verdict: &Verdict,
) -> anyhow::Result<()> {
    term::line(&verdict.sentence)?;
    term::line(format_args!(
        "\n{}  partition {}  placement {}  located by {}",
        key.to_string_lossy().escape_debug(),
        located.partition,
        located.placement_number,
        located.name
    ))?;
    let mut rows = table(&[
        "NODE", "ROLE", "STATE", "HASH", "WRITE", "KIND", "BYTES", "WRITTEN", "EXPIRES", "REQUEST",
    ]);
    for (number, (home, state)) in (1..).zip(findings.homes.iter().zip(&verdict.states)) {
        let rebuilding = home.own.as_ref().is_ok_and(|own| own.rebuilding);
        let rebuilding = if rebuilding { ", being rebuilt" } else { "" };
        let held = home.own.as_ref().map_or(&Held::Nothing, |own| &own.held);
        let place = [home.name.clone(), format!("home {number}"), word(state) + rebuilding];
        add(&mut rows, place, held);
    }
    for copy in &findings.elsewhere {
        let role = copy
            .target
            .as_ref()
            .map_or_else(|| "no home".to_owned(), |target| format!("hint for {target}"));
        let state = if copy.held == Held::Damaged { "DAMAGED" } else { "kept" };
        add(&mut rows, [copy.holder.clone(), role, state.to_owned()], &copy.held);
    }
    for name in &findings.silent {
        rows.add_row([name.as_str(), "fallback", "UNKNOWN"]);
    }
    term::line(rows)?;
    for (home, state) in findings.homes.iter().zip(&verdict.states) {
        if let State::Unknown { because } = state {
            term::line(format_args!("{}: {because}", home.name))?;
        }
    }
    Ok(())
}

fn word(state: &State) -> String {
    match state {
        State::Nothing => "nothing".to_owned(),
        State::Current => "current".to_owned(),
        State::Stale { lacks, superseded } if lacks.is_empty() => {
            format!("STALE (shows {} superseded)", superseded.len())
        }
        State::Stale { lacks, .. } => format!("STALE (lacks {})", lacks.len()),
        State::Differs => "DIFFERS".to_owned(),
        State::Damaged => "DAMAGED".to_owned(),
        State::Unknown { .. } => "UNKNOWN".to_owned(),
    }
}

/// A row for each sibling; the place stands in the first of them.
fn add(rows: &mut Table, place: [String; 3], held: &Held) {
    let Held::Record(record) = held else {
        rows.add_row(place);
        return;
    };
    let mut place = place.map(Some);
    let mut hash: Option<String> = Some(record.hash.chars().take(8).collect());
    for sibling in &record.siblings {
        let mut cells: Vec<String> =
            place.iter_mut().map(|cell| cell.take().unwrap_or_default()).collect();
        cells.push(hash.take().unwrap_or_default());
        cells.extend(sibling_cells(sibling));
        rows.add_row(cells);
    }
}

fn sibling_cells(sibling: &Described) -> [String; 6] {
    let now = now_ms();
    let expires = sibling.expires_ms.map_or("-".to_owned(), |at| match at.checked_sub(now) {
        Some(left) => format!("in {}", coarse(left)),
        None => format!("{} ago", coarse(now - at)),
    });
    [
        format!("{:?}", sibling.dot),
        sibling.kind.to_owned(),
        term::grouped(sibling.value_bytes),
        format!("{} ago", coarse(now.saturating_sub(sibling.written_ms))),
        expires,
        sibling.request_id.as_ref().map_or("-".to_owned(), |id| id.chars().take(8).collect()),
    ]
}

impl<'a> CopyDocument<'a> {
    fn of(held: &'a Held) -> Self {
        let Held::Record(record) = held else { return Self::default() };
        let sibling = |sibling: &'a Described| SiblingDocument {
            dot: format!("{:?}", sibling.dot),
            kind: sibling.kind,
            value_bytes: sibling.value_bytes,
            written_ms: sibling.written_ms,
            expires_ms: sibling.expires_ms,
            request_id: sibling.request_id.as_deref(),
        };
        let siblings = record.siblings.iter().map(sibling).collect();
        Self { hash: Some(&record.hash), siblings }
    }
}
