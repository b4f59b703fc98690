//! `scan`: keys under a prefix, as they come.

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal as _};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::args::{self, Consistency, Target};
use super::exit::{Coded, Exit};
use super::term::{self, Progress};
use super::transfer::ndjson::Line;
use super::transfer::tsv;
use crate::client::{Entry, Options, Scan, ScanOptions};

/// How entries are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Default)]
enum ScanOutput {
    /// Key, tab, value, with \t \n \r \\ for tab, line feed, carriage return and backslash.
    #[default]
    Tsv,
    /// One JSON object a line.
    Json,
}

/// Show the keys that start with a prefix
#[derive(Args, Debug)]
#[command(after_help = "\
Keys come in the order of their partitions, and within one in the order of their bytes; each is as
consistent as a get. `coterie export` writes all of it to a file.

Exit codes: 0 found, 3 there is no such key, 4 too few replicas.

Examples:
  coterie scan users/
  coterie scan users/ --keys | LC_ALL=C sort | head
  coterie scan cart/ -o json --contexts | jq -r .key")]
pub struct ScanArgs {
    /// What keys start with; by default, anything
    #[arg(default_value = "")]
    prefix: OsString,
    /// Stop after so many keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Show keys without their values
    #[arg(long)]
    keys: bool,
    /// Show contexts, for `coterie set --causal-context`; with -o json only
    #[arg(long)]
    contexts: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: ScanOutput,
    /// How many of the N replicas must take part
    #[arg(long, value_enum, default_value = "quorum")]
    consistency: Consistency,
    /// A page must come within this
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = args::duration)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// What is printed of an entry.
#[derive(Clone, Copy)]
struct Printer {
    output: ScanOutput,
    keys: bool,
}

/// What was printed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    keys: u64,
    with_siblings: u64,
}

#[derive(Serialize)]
struct EntryDocument {
    #[serde(flatten)]
    record: Line,
    siblings: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// If the cluster cannot be read, or standard output is closed.
pub async fn scan(args: ScanArgs) -> anyhow::Result<Exit> {
    if args.contexts && args.output != ScanOutput::Json {
        return Err(Coded::error(Exit::Usage, "--contexts are shown with -o json only"));
    }
    let client = args.target.client(Options { timeout: args.timeout, ..Options::default() })?;
    let scan = client.scan(ScanOptions {
        prefix: Bytes::from(args.prefix.into_encoded_bytes()),
        consistency: Some(args.consistency.into()),
        contexts: args.contexts,
        keys_only: args.keys,
        ..ScanOptions::default()
    });
    let printer = Printer { output: args.output, keys: args.keys };
    let out = io::stdout();
    // Lines on a terminal are progress enough, and would run through the bar; without a terminal
    // nobody watches.
    let bar = !out.is_terminal() && io::stderr().is_terminal();
    let mut out = BufWriter::with_capacity(1 << 16, out.lock());
    let shown = run(scan, printer, args.limit.unwrap_or(u64::MAX), &mut out, bar).await?;
    if shown.keys == 0 {
        return Err(Coded::error(Exit::NotFound, "there is no such key"));
    }
    if shown.with_siblings > 0 && args.output == ScanOutput::Tsv && !args.keys {
        let keys = term::count(shown.with_siblings, "key");
        term::note(format_args!(
            "note: {keys} with concurrent values, of which only the last writer's are shown \
             (`coterie get KEY --all-siblings` shows all)"
        ));
    }
    Ok(Exit::Ok)
}

/// Prints entries as they come; tells how many.
async fn run(
    mut scan: Scan,
    printer: Printer,
    limit: u64,
    out: &mut impl io::Write,
    bar: bool,
) -> anyhow::Result<Shown> {
    let (mut shown, mut line) = (Shown::default(), Vec::new());
    let mut progress = None;
    'pages: while let Some(page) = scan.next().await.context("the scan cannot go on")? {
        for entry in &page.entries {
            line.clear();
            printer.print(entry, &mut line)?;
            out.write_all(&line)?;
            shown.keys += 1;
            shown.with_siblings += u64::from(entry.siblings > 0);
            if shown.keys == limit {
                break 'pages;
            }
        }
        // Whoever watches sees each page when it has come.
        out.flush()?;
        if bar {
            let total = page.partitions_total.into();
            let progress = progress.get_or_insert_with(|| Progress::start("scan", Some(total), ""));
            let keys = term::count(shown.keys, "key");
            progress.show(page.partitions_done.into(), &format!("partitions, {keys}"));
        }
    }
    out.flush()?;
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(shown)
}

impl Printer {
    fn print(self, entry: &Entry, out: &mut Vec<u8>) -> anyhow::Result<()> {
        match self.output {
            ScanOutput::Tsv => {
                tsv::escape(&entry.key, out);
                if !self.keys {
                    out.push(b'\t');
                    tsv::escape(&entry.value, out);
                }
            }
            ScanOutput::Json => serde_json::to_writer(&mut *out, &self.document(entry))?,
        }
        out.push(b'\n');
        Ok(())
    }

    fn document(self, entry: &Entry) -> EntryDocument {
        let value = (!self.keys).then_some(&entry.value[..]);
        EntryDocument {
            record: Line::of(&entry.key, value),
            siblings: entry.siblings,
            expires_ms: (entry.expires_ms != 0).then_some(entry.expires_ms),
            context: (!entry.context.is_empty()).then(|| args::to_base64(&entry.context)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::FakeCluster;
    use crate::client::Client;

    async fn printed(
        fake: &FakeCluster,
        prefix: &str,
        printer: Printer,
        limit: u64,
    ) -> (u64, String) {
        let client = Client::connect(fake.addresses(), Options::default()).unwrap();
        let prefix = Bytes::from(prefix.to_owned());
        let scan = client.scan(ScanOptions { prefix, ..ScanOptions::default() });
        let mut out = Vec::new();
        let shown = run(scan, printer, limit, &mut out, false).await.unwrap();
        (shown.keys, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn entries_are_lines_and_the_limit_ends_them() {
        let fake = FakeCluster::start(1).await;
        let client = Client::connect(fake.addresses(), Options::default()).unwrap();
        for i in 0..250 {
            client.set(format!("a{i:03}"), format!("{i}\t")).await.unwrap();
        }
        client.set("b", vec![0xff]).await.unwrap();
        let tsv = Printer { output: ScanOutput::Tsv, keys: false };
        let (shown, text) = printed(&fake, "a", tsv, u64::MAX).await;
        assert_eq!((shown, text.lines().count()), (250, 250));
        assert!(text.starts_with("a000\t0\\t\na001\t1\\t\n"), "{text}");
        let keys = Printer { keys: true, ..tsv };
        let (shown, text) = printed(&fake, "", keys, 120).await;
        assert_eq!((shown, text.lines().last()), (120, Some("a119")));
        let json = Printer { output: ScanOutput::Json, keys: false };
        let (_, text) = printed(&fake, "b", json, 9).await;
        assert_eq!(text, "{\"key\":\"b\",\"value_b64\":\"/w==\",\"siblings\":0}\n");
        assert_eq!(printed(&fake, "c", json, 9).await, (0, String::new()));
    }
}
