//! Real runs of the harness against real processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HARNESS: &str = env!("CARGO_BIN_EXE_coterie-chaos");

/// The binary under test, which `cargo test --workspace` has built beside this one.
fn coterie() -> PathBuf {
    let program = Path::new(HARNESS).with_file_name("coterie");
    if !program.is_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut build = Command::new(env!("CARGO"));
        let built = build.args(["build", "--package", "coterie", "--bin", "coterie"]);
        assert!(built.current_dir(root).status().unwrap().success(), "cannot build coterie");
    }
    program
}

struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs a scenario that stands here, with more flags.
    fn scenario(&self, text: &str, program: &Path, more: &[&str]) -> Output {
        std::fs::write(self.path("scenario.toml"), text).unwrap();
        let mut command = Command::new(HARNESS);
        command.arg("run").arg(self.path("scenario.toml")).args(["--seed", "7"]);
        command.arg("--report").arg(self.path("report.html"));
        command.arg("--history").arg(self.path("history.ndjson"));
        command.arg("--program").arg(program).args(more).output().unwrap()
    }

    fn check(&self) -> Output {
        let mut command = Command::new(HARNESS);
        command.arg("check").arg(self.path("history.ndjson"));
        command.arg("--report").arg(self.path("again.html")).output().unwrap()
    }
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn a_cluster_that_is_killed_and_paused_in_mid_load_loses_nothing() {
    let run = Run::new();
    let short = include_str!("../scenarios/short.toml");
    let output = run.scenario(short, &coterie(), &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for seen in ["ended by SIGKILL", "gave no answer in", "VERDICT: PASS", "lost          0 keys"] {
        assert!(text.contains(seen), "`{seen}` is not in:\n{text}");
    }
    let report = run.read("report.html");
    assert!(report.contains("<p class=\"word\">PASS</p>") && report.contains("--seed 7"));

    // The history alone leads to the same verdict, and to the same report.
    let again = run.check();
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    assert_eq!(run.read("again.html"), report);

    // Without the last read of a key the same history tells of a loss, and the report names the key.
    let history = run.read("history.ndjson");
    let key = history
        .lines()
        .filter(|line| line.contains("\"final\""))
        .filter_map(|line| line.split("\"key\":\"").nth(1)?.split('"').next())
        .find(|key| key.starts_with("cart/"))
        .unwrap()
        .to_owned();
    let gone = |line: &&str| !(line.contains("\"final\"") && line.contains(&format!("\"{key}\"")));
    let rest: Vec<&str> = history.lines().filter(gone).collect();
    std::fs::write(run.path("history.ndjson"), rest.join("\n")).unwrap();
    let lost = run.check();
    assert_eq!(lost.status.code(), Some(1), "{}", said(&lost));
    assert!(run.read("again.html").contains(&format!("<code>{key}</code>")));
}

#[test]
fn what_cannot_be_run_is_refused_with_the_reason() {
    let run = Run::new();
    let partition = "about = 'x'\ntarget = 'local'\nnodes = 3\nseconds = 5\n\
                     [[nemesis]]\nfault = 'partition'\n";
    let output = run.scenario(partition, &coterie(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("use the target netns"), "{}", said(&output));

    let output = run.scenario(partition, Path::new("/no/such/program"), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--program"), "{}", said(&output));
}
