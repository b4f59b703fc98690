//! Every command has a session of every kind that applies to it: its help, what it prints for
//! people, what it prints for programs, how it fails for either, and each exit code that its help
//! names. Read from the snapshots, so that a new command fails here until it has its sessions.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory as _;
use coterie::cli::Cli;

/// What has no session, and why.
const ELSEWHERE: &[(&str, Kind, &str)] = &[
    ("demo", Kind::Text, "it takes a minute: CI runs it, and `cli::demo::report` tests its words"),
    ("demo", Kind::Json, "the same"),
    (
        "apply",
        Kind::Exit(5),
        "half a minute of silence: `services::orders` and `cli::exit` test it",
    ),
    ("decommission", Kind::Exit(5), "the same"),
    ("remove", Kind::Exit(5), "the same"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// `--help`.
    Help,
    /// What people are shown.
    Text,
    /// What programs are shown.
    Json,
    /// How it fails.
    Error,
    /// How it fails with `-o json`.
    JsonError,
    /// An exit code that its help names.
    Exit(i32),
}

/// A command of the tree that does something by itself.
struct Leaf {
    /// As it is typed, without `coterie`.
    name: String,
    wanted: BTreeSet<Kind>,
}

/// A line of a session, and what came of it.
struct Step {
    line: String,
    out: bool,
    /// What it said on standard error.
    err: Vec<String>,
    code: i32,
}

#[test]
fn every_command_has_a_session_of_every_kind() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sessions/snapshots");
    let (mut steps, mut files) = (vec![], BTreeSet::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with("help") {
            steps.extend(steps_of(&std::fs::read_to_string(&path).unwrap()));
        }
        files.insert(name);
    }
    let mut missing = String::new();
    let mut seen_elsewhere = 0;
    for leaf in leaves() {
        let mut has: BTreeSet<Kind> =
            steps.iter().flat_map(|step| step.shows(&leaf.name)).collect();
        if files.contains(&format!("help-{}", leaf.name.replace(' ', "-"))) {
            has.insert(Kind::Help);
        }
        for kind in leaf.wanted.difference(&has) {
            if ELSEWHERE.iter().any(|other| (other.0, other.1) == (&leaf.name, *kind)) {
                seen_elsewhere += 1;
            } else {
                writeln!(missing, "  coterie {}: {kind:?}", leaf.name).unwrap();
            }
        }
    }
    assert!(missing.is_empty(), "no session of tests/sessions shows\n{missing}");
    assert_eq!(seen_elsewhere, ELSEWHERE.len(), "an exception that none is any more");
}

fn leaves() -> Vec<Leaf> {
    let mut found = vec![];
    let mut left = vec![(String::new(), Cli::command())];
    while let Some((name, command)) = left.pop() {
        let inside = |sub: &clap::Command| format!("{name} {}", sub.get_name()).trim().to_owned();
        let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let subs: Vec<_> = shown.map(|sub| (inside(sub), sub.clone())).collect();
        if subs.is_empty() {
            found.push(Leaf { wanted: wanted(&command), name });
        }
        left.extend(subs);
    }
    assert!(found.len() > 15, "the tree of commands was not read");
    found
}

fn wanted(command: &clap::Command) -> BTreeSet<Kind> {
    let mut wanted = BTreeSet::from([Kind::Help, Kind::Text, Kind::Error]);
    if command.get_arguments().any(|argument| argument.get_id() == "output") {
        wanted.extend([Kind::Json, Kind::JsonError]);
    }
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let codes = help.split_once("Exit codes: ").map(|(_, rest)| rest.split("\n\n").next());
    for word in codes.flatten().unwrap_or_default().split([' ', '\n', '.', ',']) {
        wanted.extend(word.parse().ok().map(Kind::Exit));
    }
    wanted
}

fn steps_of(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = vec![];
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("$ ") {
            steps.push(Step { line: typed.to_owned(), out: false, err: vec![], code: -1 });
        } else if let Some(step) = steps.last_mut().filter(|step| step.code < 0) {
            match line.strip_prefix("2>") {
                Some(said) => step.err.push(said.trim_start().to_owned()),
                None => match line.strip_prefix("exit ").and_then(|code| code.parse().ok()) {
                    Some(code) => step.code = code,
                    None => step.out = true,
                },
            }
        }
    }
    steps
}

impl Step {
    fn shows(&self, name: &str) -> Vec<Kind> {
        let typed = format!("{} ", self.line);
        if !typed.contains(&format!("coterie {name} ")) {
            return vec![];
        }
        let json = typed.contains(" -o json ");
        let mut kinds = vec![];
        if self.out {
            kinds.push(if json { Kind::Json } else { Kind::Text });
        }
        if self.err.iter().any(|line| line.starts_with("error: ")) {
            kinds.push(Kind::Error);
        }
        if json && self.err.last().is_some_and(|line| line.starts_with("{\"error\":")) {
            kinds.push(Kind::JsonError);
        }
        // Of a pipe or a list the code is another command's.
        if !typed.contains(['|', '&', ';']) {
            kinds.push(Kind::Exit(self.code));
        }
        kinds
    }
}
