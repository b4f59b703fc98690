//! `export`: a walk over all keys becomes lines of a file.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use super::{Format, Record};
use crate::cli::args::{self, Consistency, Target};
use crate::cli::exit::Exit;
use crate::cli::term::{self, Output, Progress};
use crate::client::{Options, Scan, ScanOptions};

/// Walks that fail this often in a row, without a page between, are given up.
const FAILURES_MAX: u32 = 5;
/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Write every record to a file
#[derive(Args, Debug)]
#[command(after_help = "\
The order is the ring's (partition, then key); pipe it through `LC_ALL=C sort` for that of the keys.
Of concurrent values the last writer's is written, and the keys are counted. A file appears only when
it is complete.

Examples:
  coterie export all.ndjson
  coterie export --format tsv | LC_ALL=C sort > all.tsv
  coterie export users.tsv --prefix users/")]
pub struct ExportArgs {
    /// The file, or `-` for standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    /// How records are written; by default TSV for *.tsv, else NDJSON
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Only keys that start with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// How many of the N replicas must take part
    #[arg(long, value_enum, default_value = "quorum")]
    consistency: Consistency,
    /// How to print the summary, which goes to standard error
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// A page must come within this
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = args::duration)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Records written.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Keys with concurrent values that were left out.
    pub with_siblings: u64,
}

/// Runs the command.
///
/// # Errors
/// If the cluster cannot be read, or the file cannot be written.
pub async fn export(args: ExportArgs) -> anyhow::Result<Exit> {
    let format = Format::choose(args.format, &args.file);
    let started = Instant::now();
    let options = Options { timeout: args.timeout, attempts: 10, ..Options::default() };
    let client = args.target.client(options)?;
    let scan = client.scan(ScanOptions {
        prefix: Bytes::from(args.prefix.into_bytes()),
        consistency: Some(args.consistency.into()),
        ..ScanOptions::default()
    });
    let summary = if args.file == Path::new("-") {
        let out = io::stdout();
        // Lines on a terminal would run through the bar.
        let bar = !out.is_terminal();
        run(scan, format, &mut BufWriter::with_capacity(1 << 16, out.lock()), bar).await?
    } else {
        to_file(scan, format, &args.file).await?
    };
    if args.output == Output::Json {
        term::note(serde_json::to_string(&summary)?);
        return Ok(Exit::Ok);
    }
    term::note(format_args!(
        "exported {} ({} bytes) in {}",
        term::count(summary.records, "record"),
        term::grouped(summary.bytes),
        term::span(started.elapsed()),
    ));
    if summary.with_siblings > 0 {
        let keys = term::count(summary.with_siblings, "key");
        term::note(format_args!(
            "note: {keys} with concurrent values; only the last writer's were written \
             (`coterie get KEY --all-siblings` shows all)"
        ));
    }
    Ok(Exit::Ok)
}

/// Writes to a file. One that is new, or a plain file that is there, gets its name or its new
/// content only when everything is written; anything else (a device, a pipe, a link) is never
/// replaced, only written to.
async fn to_file(scan: Scan, format: Format, path: &Path) -> anyhow::Result<Summary> {
    if std::fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        let file = std::fs::OpenOptions::new().write(true).truncate(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        return run(scan, format, &mut BufWriter::with_capacity(1 << 18, file), true).await;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let written = to_new_file(scan, format, &partial).await;
    if written.is_err() {
        // It would be of no use, and it may be what has filled the disk.
        let _ = std::fs::remove_file(&partial);
    } else {
        std::fs::rename(&partial, path).with_context(|| {
            format!("cannot rename {} to {}", partial.display(), path.display())
        })?;
    }
    written
}

async fn to_new_file(scan: Scan, format: Format, path: &Path) -> anyhow::Result<Summary> {
    let context = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(context)?;
    let mut out = BufWriter::with_capacity(1 << 18, file);
    let summary = run(scan, format, &mut out, true).await?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).with_context(context)?;
    Ok(summary)
}

/// Writes every record that the walk shows.
///
/// # Errors
/// If the walk fails for good, or writing fails.
pub async fn run(
    mut scan: Scan,
    format: Format,
    out: &mut impl Write,
    bar: bool,
) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let mut progress = None;
    let (mut begun, mut failures) = (false, 0);
    let mut buffer = Vec::new();
    loop {
        let page = match scan.next().await {
            Ok(Some(page)) => page,
            Ok(None) => break,
            // A cluster that has never answered is not there: only what was begun is worth patience.
            Err(error) if begun && failures + 1 < FAILURES_MAX && error.retry_is_safe() => {
                failures += 1;
                tokio::time::sleep(PAUSE * failures).await;
                continue;
            }
            Err(error) => return Err(error).context("cannot read on; nothing is complete"),
        };
        (begun, failures) = (true, 0);
        for entry in page.entries {
            let record = Record { key: entry.key.into(), value: entry.value.into() };
            buffer.clear();
            format.encode(&record, &mut buffer);
            out.write_all(&buffer).context("cannot write the records")?;
            summary.records += 1;
            summary.bytes += buffer.len() as u64;
            summary.with_siblings += u64::from(entry.siblings > 0);
        }
        if bar {
            let total = page.partitions_total.into();
            let progress =
                progress.get_or_insert_with(|| Progress::start("export", Some(total), ""));
            let records = term::count(summary.records, "record");
            progress.show(page.partitions_done.into(), &format!("partitions, {records}"));
        }
    }
    out.flush().context("cannot write the records")?;
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::FakeCluster;
    use crate::client::Client;

    #[tokio::test]
    async fn the_sorted_export_of_what_was_imported_is_the_sorted_input() {
        let fake = FakeCluster::start(2).await;
        let client = Client::connect(fake.addresses(), Options::default()).unwrap();
        for format in [Format::Tsv, Format::Ndjson] {
            fake.clear();
            let mut input = Vec::new();
            for i in 0..1000u16 {
                let key = format!("key {i}\t\\\n").into_bytes();
                let value = vec![b'\r', 0xff, i.to_be_bytes()[1], b'\n'];
                format.encode(&Record { key, value }, &mut input);
            }
            let reader = Box::new(io::Cursor::new(input.clone()));
            let imported = super::super::import::run(client.clone(), reader, format, 16, 1);
            assert_eq!(imported.await.unwrap().written, 1000);
            let mut output = Vec::new();
            let scan = client.scan(ScanOptions::default());
            assert_eq!(run(scan, format, &mut output, false).await.unwrap().records, 1000);
            assert_eq!(sorted(&output), sorted(&input));
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_device_is_written_to_and_a_file_is_replaced_only_by_a_whole_one() {
        use std::os::unix::fs::symlink;
        let fake = FakeCluster::start(1).await;
        let options = Options { attempts: 1, ..Options::default() };
        let client = Client::connect(fake.addresses(), options.clone()).unwrap();
        client.set("key", "value").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file.tsv"), dir.path().join("link.tsv"));
        std::fs::write(&file, "old").unwrap();
        symlink(&file, &link).unwrap();

        let nowhere = Client::connect(["127.0.0.1:1"], options).unwrap();
        let scan = nowhere.scan(ScanOptions::default());
        assert!(to_file(scan, Format::Tsv, &file).await.is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);

        to_file(client.scan(ScanOptions::default()), Format::Tsv, &link).await.unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"key\tvalue\n");
        to_file(client.scan(ScanOptions::default()), Format::Tsv, &file).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    fn sorted(text: &[u8]) -> Vec<&[u8]> {
        let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
        lines.sort_unstable();
        lines
    }
}
