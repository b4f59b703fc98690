//! The command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};

use crate::history::History;
use crate::report;
use crate::run::{self, Job};
use crate::scenario::{Scenario, TargetKind};
use crate::verdict::{Judged, Verdict};

/// Wrong usage; clap uses the same code.
const USAGE: u8 = 2;
/// How many violations of a promise are printed.
const SHOWN_MAX: usize = 20;
/// Of the image that the repository's Dockerfile makes, and of what `k8s/` sets up.
const IMAGE: &str = "coterie:0.1.0";
const NAMESPACE: &str = "coterie";
const SELECTOR: &str = "app.kubernetes.io/name=coterie,app.kubernetes.io/component=node";
/// What a store that was built to make mistakes on purpose is told by.
const DEFECT: &str = "COTERIE_SEEDED_DEFECT";
/// The scenarios that ship.
const SCENARIOS: &str = "chaos/scenarios";

/// Breaks a Coterie cluster in mid-load, and proves what became of every acknowledged write
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "\
Exit codes: 0 every promise was kept; 1 one was broken; 2 wrong usage, or the cluster could not be set up;
3 the run tells nothing (a fault had no effect, or it was broken off)."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a scenario
    Run(Box<RunArgs>),
    /// Tell what scenarios there are
    List {
        /// The folder that they are in
        #[arg(default_value = SCENARIOS)]
        folder: PathBuf,
    },
    /// Judge a history again
    Check {
        /// A history of an earlier run
        history: PathBuf,
        /// Write the report anew
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
}

#[derive(Args)]
struct RunArgs {
    /// A scenario, for instance chaos/scenarios/kill.toml
    scenario: PathBuf,
    /// For all choices; by default another one each time
    #[arg(long)]
    seed: Option<u64>,
    /// Where the report goes
    #[arg(long, value_name = "FILE", default_value = "chaos-report.html")]
    report: PathBuf,
    /// Where the history goes
    #[arg(long, value_name = "FILE", default_value = "chaos-history.ndjson")]
    history: PathBuf,
    /// Instead of the scenario's
    #[arg(long, value_enum)]
    target: Option<TargetKind>,
    /// Instead of the scenario's
    #[arg(long)]
    nodes: Option<usize>,
    /// Instead of the scenario's
    #[arg(long)]
    seconds: Option<u32>,
    /// Instead of the scenario's
    #[arg(long)]
    clients: Option<u32>,
    /// Instead of the scenario's: operations a second
    #[arg(long)]
    rate: Option<u32>,
    /// The `coterie` binary; by default the one beside this one
    #[arg(long, env = "COTERIE_BIN", value_name = "FILE")]
    program: Option<PathBuf>,
    /// Keep configuration, data and logs in this new folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// The image, for docker
    #[arg(long, default_value = IMAGE)]
    image: String,
    /// The pods' namespace, for kubernetes
    #[arg(long, default_value = NAMESPACE)]
    namespace: String,
    /// The pods' labels, for kubernetes
    #[arg(long, default_value = SELECTOR)]
    selector: String,
}

/// Runs the command line; the exit code is the verdict.
pub fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(verdict) => ExitCode::from(verdict as u8),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "coterie-chaos: {error:#}");
            ExitCode::from(USAGE)
        }
    }
}

fn act(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Run(args) => {
            let mut job = job(&args)?;
            let folder = Folder::make(args.keep.clone())?;
            job.dir.clone_from(&folder.path);
            let runtime = tokio::runtime::Runtime::new().context("cannot start a runtime")?;
            let ran = runtime.block_on(run::run(&job));
            drop(runtime);
            if let Err(error) = ran {
                folder.last_words();
                // Without a history nothing was begun; one that ends early tells that it does.
                if !job.history.exists() {
                    return Err(error);
                }
                eprintln!("coterie-chaos: {error:#}");
            }
            judge(&job.history, Some(&args.report))
        }
        Command::List { folder } => list(&folder).map(|()| Verdict::Pass),
        Command::Check { history, report } => judge(&history, report.as_deref()),
    }
}

fn job(args: &RunArgs) -> anyhow::Result<Job> {
    let mut scenario = Scenario::read(&args.scenario)?;
    scenario.target = args.target.unwrap_or(scenario.target);
    scenario.nodes = args.nodes.unwrap_or(scenario.nodes);
    scenario.seconds = args.seconds.unwrap_or(scenario.seconds);
    scenario.clients = args.clients.unwrap_or(scenario.clients);
    scenario.rate = args.rate.unwrap_or(scenario.rate);
    scenario.check()?;
    // What an earlier run has left is not taken for this one's.
    if let Err(error) = std::fs::remove_file(&args.history)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot remove {}", args.history.display()));
    }
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let name = args.scenario.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let needs_program = matches!(scenario.target, TargetKind::Local | TargetKind::Netns);
    let program = if needs_program { program(args.program.as_ref())? } else { PathBuf::new() };
    Ok(Job {
        name,
        seed,
        program,
        dir: PathBuf::new(),
        history: args.history.clone(),
        command: repeating(args, &scenario, seed),
        image: args.image.clone(),
        pods: (args.namespace.clone(), args.selector.clone()),
        scenario,
    })
}

/// The command that repeats a run: what was not said in it is as the scenario says.
fn repeating(args: &RunArgs, scenario: &Scenario, seed: u64) -> String {
    let path = quoted(&args.scenario.display().to_string());
    let mut command = format!("coterie-chaos run {path} --seed {seed}");
    // A store that makes a mistake on purpose is told so by its environment.
    if let Ok(defect) = std::env::var(DEFECT) {
        command.insert_str(0, &format!("{DEFECT}={} ", quoted(&defect)));
    }
    let mut say = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            for word in [" --", flag, " ", &value] {
                command.push_str(word);
            }
        }
    };
    say("target", args.target.map(|_| scenario.target.to_string()));
    say("nodes", args.nodes.map(|nodes| nodes.to_string()));
    say("seconds", args.seconds.map(|seconds| seconds.to_string()));
    say("clients", args.clients.map(|clients| clients.to_string()));
    say("rate", args.rate.map(|rate| rate.to_string()));
    let program = args.program.as_ref().map(|program| quoted(&program.display().to_string()));
    say("program", program);
    let given = |value: &str, default| (value != default).then(|| quoted(value));
    match scenario.target {
        TargetKind::Local | TargetKind::Netns => {}
        TargetKind::Docker => say("image", given(&args.image, IMAGE)),
        TargetKind::Kubernetes => {
            say("namespace", given(&args.namespace, NAMESPACE));
            say("selector", given(&args.selector, SELECTOR));
        }
    }
    command
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The binary under test.
fn program(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let program = given.cloned().unwrap_or_else(|| own.with_file_name("coterie"));
    if !program.is_file() {
        bail!(
            "there is no {}: build it (`cargo build --workspace --release`), or name it by --program",
            program.display()
        );
    }
    // Nodes are started from other folders.
    program.canonicalize().with_context(|| format!("cannot find {}", program.display()))
}

fn list(folder: &Path) -> anyhow::Result<()> {
    let files = std::fs::read_dir(folder);
    let files = files.with_context(|| format!("cannot look into {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    for path in paths {
        let Scenario { about, target, nodes, seconds, .. } = Scenario::read(&path)?;
        let shown = path.display().to_string();
        println!("{shown:<40} {target}, {nodes} nodes, {seconds} s: {about}");
    }
    Ok(())
}

fn judge(history: &Path, report: Option<&Path>) -> anyhow::Result<Verdict> {
    let read = History::read(history)?;
    let judged = Judged::of(&read);
    tell(&read, &judged);
    if let Some(path) = report {
        let written = std::fs::write(path, report::page(&read, &judged));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        println!("  report        {}", path.display());
    }
    println!("  history       {}", history.display());
    println!("  again         {}", read.header.command);
    Ok(judged.verdict)
}

fn tell(history: &History, judged: &Judged) {
    println!();
    for judgement in &judged.judgements {
        let mark = match (judgement.violations.is_empty(), judgement.judged) {
            (false, _) => "BROKEN",
            (true, 0) => "not put to the test",
            (true, _) => "kept",
        };
        let (id, promise) = (judgement.id, judgement.promise);
        println!("{id}  {mark}, {} judged, {} open: {promise}", judgement.judged, judgement.open);
        if !judgement.note.is_empty() {
            println!("      {}", judgement.note);
        }
        for violation in judgement.violations.iter().take(SHOWN_MAX) {
            println!("      {}: {}", violation.key, violation.what);
        }
        if let Some(more) = judgement.violations.len().checked_sub(SHOWN_MAX + 1) {
            println!("      and {} more", more + 1);
        }
    }
    for why in &judged.invalid {
        println!("invalid: {why}");
    }
    let writes = &judged.writes;
    let found = &judged.availability;
    println!("\nVERDICT: {}: {}", judged.verdict.word(), judged.sentence());
    println!("  acknowledged  {} writes ({} superseded)", writes.acknowledged, writes.superseded);
    println!("  lost          {} keys", writes.lost);
    println!("  unknown       {} writes, and {} failed", writes.unknown, writes.failed);
    println!(
        "  quorum lived  for {} requests: {} failed ({:.3} %), longest silence {:.1} s, of a key {:.1} s",
        found.requests,
        found.failed,
        found.failed_percent(),
        found.silence_us as f64 / 1e6,
        found.key_silence_us as f64 / 1e6
    );
    println!("  faults        {}", report::faults(history).len());
}

/// The folder of a run: removed with it, unless it is to be kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(keep: Option<PathBuf>) -> anyhow::Result<Self> {
        let temporary =
            || std::env::temp_dir().join(format!("coterie-chaos-{}", std::process::id()));
        let (path, keep) = keep.map_or_else(|| (temporary(), false), |path| (path, true));
        let made = std::fs::create_dir(&path);
        made.with_context(|| format!("cannot make the folder {}", path.display()))?;
        let path = path.canonicalize().context("cannot find a folder just made")?;
        Ok(Self { path, keep })
    }

    /// The ends of the nodes' logs.
    fn last_words(&self) {
        let Ok(files) = std::fs::read_dir(&self.path) else { return };
        for path in files.filter_map(|file| Some(file.ok()?.path())) {
            let log = path.extension().is_some_and(|ending| ending == "log");
            let Some(text) = log.then(|| std::fs::read_to_string(&path).ok()).flatten() else {
                continue;
            };
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(5)..];
            eprintln!("{}:\n  {}", path.display(), last.join("\n  "));
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
