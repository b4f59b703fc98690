//! `repair`: every key is read from all of its homes, which mends whatever differs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use super::args::{self, Show};
use super::exit::Exit;
use super::nodes::{self, ask_any, ask_each, status_of};
use super::term::{self, Output, Progress};
use super::transfer::ndjson::text_or_base64;
use crate::client::{Client, Consistency, Options, ReadOptions, ScanOptions};
use crate::proto::Counters;

/// Of the keys that could not be checked, so many are named.
const NAMED_MAX: usize = 10;
/// What readers found missing is sent behind their answers; it has come when the counters rest for
/// this long.
const REST: Duration = Duration::from_millis(500);
/// The counters are waited for this long at most.
const REST_WITHIN: Duration = Duration::from_secs(10);

/// Read every key from all of its homes, which mends whatever differs
#[derive(Args, Debug)]
#[command(after_help = "\
All keys are walked, and each is read with consistency ALL: a home that lacks something is sent it. A
key of which a home is away cannot be checked, and is counted. Keys that are deleted are not walked.
MENDED counts the records that were sent to homes meanwhile, by all nodes, for whatever reader.

Exit codes: 0 every key was read from all of its homes, 4 some could not be.

Examples:
  coterie repair
  coterie repair --prefix users/ --in-flight 16")]
pub struct RepairArgs {
    /// Only keys that start with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// Reads under way at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: u16,
    /// A key that cannot be read within this counts as not checked
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = args::duration)]
    timeout: Duration,
    #[command(flatten)]
    show: Show,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Keys that the walk has shown.
    keys: u64,
    /// Of them, those that all homes have answered for.
    checked: u64,
    not_checked: u64,
    /// Some of the keys that were not checked, each with why.
    examples: Vec<Example>,
    /// Records sent to homes that lacked something; none if a node's counter is not known.
    mended: Option<u64>,
    /// Members whose counters are not known.
    unknown: Vec<String>,
    seconds: f64,
}

/// A key that could not be checked.
#[derive(Debug, Serialize)]
struct Example {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_b64: Option<String>,
    because: String,
    /// For people: a key may hold anything, and nothing of it is to steer a terminal.
    #[serde(skip)]
    shown: String,
}

/// Runs the command.
///
/// # Errors
/// If the walk fails, no node answers, or standard output is closed.
pub async fn repair(args: RepairArgs) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let asking = nodes::client(&args.show.target)?;
    let before = counters(&asking).await?;
    let options = Options { timeout: args.timeout, ..Options::default() };
    let client = args.show.target.client(options)?;
    let mut summary = Summary::default();
    walk(&client, &args, &mut summary).await?;
    let after = rested(&asking).await?;
    summary.count_mended(&before, &after);
    summary.seconds = started.elapsed().as_secs_f64();
    match args.show.output {
        Output::Json => term::json(&summary)?,
        Output::Text => print(&summary)?,
    }
    Ok(if summary.not_checked == 0 { Exit::Ok } else { Exit::Degraded })
}

/// Reads every key, so many at a time.
async fn walk(client: &Client, args: &RepairArgs, summary: &mut Summary) -> anyhow::Result<()> {
    let prefix = Bytes::from(args.prefix.clone().into_bytes());
    let mut scan = client.scan(ScanOptions { prefix, ..ScanOptions::default() });
    let mut reading = JoinSet::new();
    let mut progress = None;
    while let Some(page) = scan.next().await.context("cannot walk the keys")? {
        for entry in page.entries {
            summary.keys += 1;
            if reading.len() >= usize::from(args.in_flight) {
                summary.note(reading.join_next().await);
            }
            let client = client.clone();
            reading.spawn(async move { read(&client, entry.key).await });
        }
        let total = page.partitions_total.into();
        let progress = progress.get_or_insert_with(|| Progress::start("repair", Some(total), ""));
        let keys = term::count(summary.keys, "key");
        let not_checked = summary.not_checked;
        let message = format!("partitions, {keys}, {not_checked} not checked");
        progress.show(page.partitions_done.into(), &message);
    }
    while let Some(read) = reading.join_next().await {
        summary.note(Some(read));
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(())
}

/// Reads a key from all homes: none, or why that could not be done.
async fn read(client: &Client, key: Bytes) -> Option<(Bytes, String)> {
    let options = ReadOptions { consistency: Some(Consistency::All), ..ReadOptions::default() };
    let read = client.get_with(key.clone(), &options).await;
    read.err().map(|error| (key, error.message().to_owned()))
}

/// Each member's counters; none for one that does not answer.
type Told = BTreeMap<String, Option<Counters>>;

async fn counters(client: &Client) -> anyhow::Result<Told> {
    let asked = ask_any(client, status_of).await?;
    let members = asked.members.into_iter().map(|member| (member.name, member.client_address));
    let answers = ask_each(client, members, status_of).await;
    let told = answers.into_iter().map(|one| (one.name, one.said.ok().and_then(|s| s.counters)));
    Ok(told.collect())
}

/// The counters once nothing is mended any more.
async fn rested(client: &Client) -> anyhow::Result<Told> {
    let started = Instant::now();
    let mut last = counters(client).await?;
    loop {
        tokio::time::sleep(REST).await;
        let now = counters(client).await?;
        let sent = |told: &Told| -> Vec<u64> {
            told.values().map(|one| one.map_or(0, |counters| counters.repairs_sent)).collect()
        };
        if sent(&now) == sent(&last) || started.elapsed() > REST_WITHIN {
            return Ok(now);
        }
        last = now;
    }
}

impl Summary {
    fn note(&mut self, read: Option<Result<Option<(Bytes, String)>, tokio::task::JoinError>>) {
        match read {
            Some(Ok(None)) => self.checked += 1,
            Some(Ok(Some((key, why)))) => {
                self.not_checked += 1;
                if self.examples.len() < NAMED_MAX {
                    let shown = String::from_utf8_lossy(&key).escape_debug().to_string();
                    let (key, key_b64) = text_or_base64(&key);
                    self.examples.push(Example { key, key_b64, because: why, shown });
                }
            }
            Some(Err(_)) => self.not_checked += 1,
            None => {}
        }
    }

    /// A node that was started meanwhile counts from zero again: what it sent before is unknown.
    fn count_mended(&mut self, before: &Told, after: &Told) {
        let mut mended = Some(0);
        for (name, now) in after {
            let then = before.get(name).copied().flatten();
            let sent = then
                .zip(*now)
                .and_then(|(then, now)| now.repairs_sent.checked_sub(then.repairs_sent));
            if sent.is_none() {
                self.unknown.push(name.clone());
            }
            mended = mended.zip(sent).map(|(sum, sent)| sum + sent);
        }
        self.mended = mended;
    }
}

fn print(summary: &Summary) -> anyhow::Result<()> {
    let keys = term::count(summary.keys, "key");
    let took = term::span(Duration::from_secs_f64(summary.seconds));
    let not_checked = term::grouped(summary.not_checked);
    term::line(if summary.not_checked == 0 {
        format!("all homes of {keys} were read in {took}")
    } else {
        format!("{not_checked} of {keys} could not be checked, {took}")
    })?;
    match summary.mended {
        Some(mended) => term::line(format_args!("mended: {}", term::count(mended, "record")))?,
        None => term::line(format_args!(
            "mended: unknown, since the counters of {} are not known throughout",
            summary.unknown.join(", ")
        ))?,
    }
    for Example { shown, because, .. } in &summary.examples {
        term::line(format_args!("  {shown}: {because}"))?;
    }
    if summary.not_checked > summary.examples.len() as u64 {
        term::line(format_args!(
            "  and {} more",
            term::grouped(summary.not_checked - summary.examples.len() as u64)
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(counts: &[(&str, Option<u64>)]) -> Told {
        let counters = |sent| Counters { repairs_sent: sent, ..Counters::default() };
        counts.iter().map(|(name, sent)| ((*name).to_owned(), sent.map(counters))).collect()
    }

    fn mended(before: &Told, after: &Told) -> (Option<u64>, Vec<String>) {
        let mut summary = Summary::default();
        summary.count_mended(before, after);
        (summary.mended, summary.unknown)
    }

    #[test]
    fn what_was_mended_is_the_sum_of_what_every_node_has_sent_meanwhile() {
        let before = told(&[("a", Some(5)), ("b", Some(0))]);
        let after = told(&[("a", Some(7)), ("b", Some(1))]);
        assert_eq!(mended(&before, &after), (Some(3), vec![]));
    }

    #[test]
    fn a_silent_or_restarted_node_makes_the_sum_unknown() {
        let before = told(&[("a", Some(5)), ("b", Some(2))]);
        for lost in [None, Some(1)] {
            let after = told(&[("a", Some(7)), ("b", lost)]);
            assert_eq!(mended(&before, &after), (None, vec!["b".to_owned()]));
        }
    }
}
