//! `import`: lines of a file become writes.
//!
//! ```text
//!   reader thread ── records, bounded ──▶ lane = hash(key) ──▶ client.set, one at a time a lane
//! ```
//!
//! A key's lines meet the same lane, so that the last line of a key wins, as in a file read from
//! the top. A write that fails is tried again by the client under one request id, elsewhere; what
//! fails for good is named at the end.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::lines::{self, Next};
use super::{Format, Record};
use crate::cli::args::{self, Consistency, Target};
use crate::cli::exit::{Coded, Exit};
use crate::cli::term::{self, Output, Progress};
use crate::client::{Client, Options};

/// Records that wait for each lane: enough that a slow one does not starve the others at once.
const LANE_QUEUE: usize = 16;
/// Failures that are named at the end; all are counted.
const NAMED_MAX: usize = 10;

/// Write the records of a file
#[derive(Args, Debug)]
#[command(after_help = "\
NDJSON: {\"key\":\"…\",\"value\":\"…\"}, with key_b64 and value_b64 for what is not UTF-8.
TSV: key TAB value, with \\t \\n \\r \\\\ for tab, line feed, carriage return and backslash.
The last line of a key wins. Importing a file again is safe.

Exit codes: 0 if every record was written, else 1.

Examples:
  coterie import records.tsv --addr 127.0.0.1:7400,127.0.0.1:7410
  zcat dump.ndjson.gz | coterie import -")]
pub struct ImportArgs {
    /// The file, or `-` for standard input
    file: PathBuf,
    /// How records are written; by default TSV for *.tsv, else NDJSON
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Writes under way at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: u16,
    /// Stop once this many records have failed
    #[arg(long, default_value_t = 100)]
    failures_max: u64,
    /// How many of the N replicas must take part
    #[arg(long, value_enum, default_value = "quorum")]
    consistency: Consistency,
    /// Give a record up after this
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = args::duration)]
    timeout: Duration,
    /// How to print the summary
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    target: Target,
}

/// What was done.
#[derive(Debug, Default, Serialize, PartialEq)]
pub struct Summary {
    /// Records acknowledged.
    pub written: u64,
    /// Records that were not, lines that are no records among them.
    pub failed: u64,
    /// Bytes of keys and values acknowledged.
    pub bytes: u64,
    /// From the first to the last.
    pub seconds: f64,
    /// Why reading stopped before the end of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// The first failures: the line and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

struct Numbered {
    line: u64,
    record: Record,
}

/// What reader and lanes count together.
#[derive(Default)]
struct Counts {
    written: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    failures: std::sync::Mutex<Vec<(u64, String)>>,
}

/// Runs the command.
///
/// # Errors
/// If the file cannot be read or standard output is closed. Failed records are an exit code.
pub async fn import(args: ImportArgs) -> anyhow::Result<Exit> {
    let format = Format::choose(args.format, &args.file);
    let input = open(&args.file)?;
    let options = Options {
        timeout: args.timeout,
        attempts: 10,
        consistency: args.consistency.into(),
        channels_per_node: 2,
        ..Options::default()
    };
    let client = Client::connect(args.target.addresses()?, options)?;
    let summary = run(client, input, format, args.in_flight, args.failures_max).await?;
    match args.output {
        Output::Json => term::json(&summary)?,
        Output::Text => print(&summary)?,
    }
    Ok(if summary.failed == 0 && summary.stopped.is_none() { Exit::Ok } else { Exit::Error })
}

fn open(file: &Path) -> anyhow::Result<Box<dyn BufRead + Send>> {
    if file == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let opened = File::open(file);
    let opened = opened.with_context(|| format!("cannot open {}", file.display()))?;
    Ok(Box::new(BufReader::with_capacity(1 << 18, opened)))
}

/// Writes every record of `input`.
///
/// # Errors
/// If the input cannot be read.
pub async fn run(
    client: Client,
    input: Box<dyn BufRead + Send>,
    format: Format,
    in_flight: u16,
    failures_max: u64,
) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let counts = Arc::new(Counts::default());
    let mut lanes = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let (sender, receiver) = mpsc::channel(LANE_QUEUE);
        lanes.push(sender);
        tasks.spawn(lane(client.clone(), receiver, counts.clone()));
    }
    let reader = {
        let counts = counts.clone();
        std::thread::Builder::new()
            .name("import".to_owned())
            .spawn(move || read(input, format, &lanes, &counts, failures_max))
            .context("cannot start a thread")?
    };
    let progress = Progress::start("import", None, "records");
    let mut every = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => ended.context("a task of the import failed")?,
                None => break,
            },
            _ = every.tick() => progress.set(counts.written.load(Relaxed)),
        }
    }
    progress.finish();
    let stopped = reader.join().unwrap_or_else(|_| Some("reading failed".to_owned()));
    Ok(counts.summary(started.elapsed(), stopped))
}

/// Reads to the end, or says why not.
fn read(
    mut input: Box<dyn BufRead + Send>,
    format: Format,
    lanes: &[mpsc::Sender<Numbered>],
    counts: &Counts,
    failures_max: u64,
) -> Option<String> {
    for line in 1.. {
        if counts.failed.load(Relaxed) >= failures_max {
            let lines = line - 1;
            return Some(format!("stopped after line {lines}: too many failures"));
        }
        let bytes = match lines::next(&mut input) {
            Ok(Next::Line(bytes)) => bytes,
            Ok(Next::End) => return None,
            Ok(Next::TooLong) => {
                return Some(format!(
                    "stopped at line {line}: it has more than {} bytes",
                    lines::LINE_BYTES_MAX
                ));
            }
            Err(error) => return Some(format!("stopped at line {line}: cannot read: {error}")),
        };
        if format == Format::Ndjson && bytes.trim_ascii().is_empty() {
            continue;
        }
        match format.decode(&bytes) {
            Err(error) => counts.fail(line, error.to_string()),
            Ok(record) => {
                let lane = xxhash_rust::xxh3::xxh3_64(&record.key) % lanes.len() as u64;
                #[expect(clippy::cast_possible_truncation, reason = "less than the lanes")]
                let lane = &lanes[lane as usize];
                if lane.blocking_send(Numbered { line, record }).is_err() {
                    return Some(format!("stopped at line {line}: the import has ended"));
                }
            }
        }
    }
    None
}

async fn lane(client: Client, mut queue: mpsc::Receiver<Numbered>, counts: Arc<Counts>) {
    while let Some(Numbered { line, record: Record { key, value } }) = queue.recv().await {
        let bytes = (key.len() + value.len()) as u64;
        match client.set(key, value).await {
            Ok(_) => {
                counts.written.fetch_add(1, Relaxed);
                counts.bytes.fetch_add(bytes, Relaxed);
            }
            Err(error) => counts.fail(line, error.to_string()),
        }
    }
}

impl Counts {
    fn fail(&self, line: u64, why: String) {
        self.failed.fetch_add(1, Relaxed);
        if let Ok(mut failures) = self.failures.lock()
            && failures.len() < NAMED_MAX
        {
            failures.push((line, why));
        }
    }

    fn summary(&self, took: Duration, stopped: Option<String>) -> Summary {
        let mut failures =
            self.failures.lock().map(|failures| failures.clone()).unwrap_or_default();
        failures.sort();
        Summary {
            written: self.written.load(Relaxed),
            failed: self.failed.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            seconds: took.as_secs_f64(),
            stopped,
            failures: failures.iter().map(|(line, why)| format!("line {line}: {why}")).collect(),
        }
    }
}

fn print(summary: &Summary) -> anyhow::Result<()> {
    let rate = summary.written as f64 / summary.seconds.max(1e-3);
    term::line(format_args!(
        "imported {} ({} bytes) in {:.1} s, {rate:.0}/s",
        term::count(summary.written, "record"),
        term::grouped(summary.bytes),
        summary.seconds,
    ))?;
    if let Some(stopped) = &summary.stopped {
        term::note(stopped);
    }
    if summary.failed > 0 {
        term::note(format_args!("{} failed:", term::count(summary.failed, "record")));
        for failure in &summary.failures {
            term::note(format_args!("  {failure}"));
        }
        let more = summary.failed - summary.failures.len() as u64;
        if more > 0 {
            term::note(format_args!("  and {} more", term::grouped(more)));
        }
    }
    if summary.written == 0 && summary.failed == 0 && summary.stopped.is_none() {
        return Err(Coded::error(Exit::Error, "the input holds no record"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::FakeCluster;
    use std::io::Cursor;

    async fn import_text(fake: &FakeCluster, text: &str, format: Format) -> Summary {
        let client = Client::connect(fake.addresses(), Options::default()).unwrap();
        let input = Box::new(Cursor::new(text.to_owned().into_bytes()));
        run(client, input, format, 8, 3).await.unwrap()
    }

    #[tokio::test]
    async fn the_last_line_of_a_key_wins() {
        let fake = FakeCluster::start(1).await;
        let lines: Vec<String> = (0..500).map(|i| format!("k{}\tv{i}", i % 10)).collect();
        let summary = import_text(&fake, &lines.join("\n"), Format::Tsv).await;
        assert_eq!((summary.written, summary.failed), (500, 0));
        for key in 0..10 {
            let value = fake.value(format!("k{key}").as_bytes()).unwrap();
            assert_eq!(value, format!("v{}", 490 + key).into_bytes());
        }
    }

    #[tokio::test]
    async fn bad_lines_are_named_and_do_not_stop_the_good_ones() {
        let fake = FakeCluster::start(1).await;
        let summary = import_text(&fake, "a\t1\nbad\nb\t2\n", Format::Tsv).await;
        assert_eq!((summary.written, summary.failed), (2, 1));
        assert!(summary.failures[0].starts_with("line 2: "), "{:?}", summary.failures);
        assert_eq!(summary.stopped, None);
    }

    #[tokio::test]
    async fn too_many_failures_stop_the_import() {
        let fake = FakeCluster::start(1).await;
        let summary = import_text(&fake, &"bad\n".repeat(1000), Format::Ndjson).await;
        assert_eq!(summary.failed, 3);
        assert!(summary.stopped.unwrap().contains("line 3"));
    }
}
