//! A session: lines for a shell, and everything that came of them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;
use crate::process::{PROGRAM, Said, run};

/// What differs from one run to the next, and what stands for it. In this order.
const FILTERS: &[(&str, &str)] = &[
    // Each cluster has a loopback address of its own; its ports are always the same.
    (r"127\.\d+\.\d+\.\d+", "[host]"),
    (r#""context":( ?)"[^"]*""#, r#""context":$1"[context]""#),
    (r#""seconds": [\d.e-]+"#, r#""seconds": [seconds]"#),
    // Dots, ids of disks and requests, hashes, and ids as tables shorten them.
    (r"\b[0-9a-f]{16}@\d+\.\d+", "[dot]"),
    (r"\b[0-9a-f]{32}\b", "[id]"),
    (r"\b[0-9a-f]{16}\b", "[hash]"),
    (r"\b[0-9a-f]{8}\b", "[id]"),
    // How long something took, or when it was.
    (r"\d+(\.\d+)? (µs|ms|s)\b", "[time]"),
    (r"\d[\d,.]*/s\b", "[rate]"),
    (r"[\d.]+ seeds/s, \d+ × real time, \d+ × by the nodes' timers", "[rate]"),
    (r#""(\w+_ms)": [1-9]\d*"#, r#""$1": [ms]"#),
    (r"process \d+", "process [pid]"),
    // Any W of the N homes are enough for an OK; who is asked first is drawn at random.
    (r"OK \[dot\] on [^\n]*", "OK [dot] on [homes]"),
    (r#""homes": \[\s+"node-[^{\]]*\]"#, r#""homes": [homes]"#),
    (r"asked \[host\]:74\d0", "asked [host]:[port]"),
    // How often there was time to.
    (r", one of \d+ attempts", ""),
    // Columns are as wide as what was in them.
    (r"(\S) {2,}", "$1  "),
    (r"(?m) +$", ""),
    (r"\((ack|sync|sync-ack) for \d+[smhd]\b", "($1 for [age]"),
    // Ages, and counters of requests that any node may have served.
    (r"(?m)^( node-\d .*?) \d+[smhd]\b", "$1 [age]"),
    (r"(?m)^( node-\d .*\[age\])  \d+  \d+  \d+  (\d+)", "$1  [gets]  [puts]  [failed]  $2"),
    (
        r#""(gets|puts|failures|in_flight|synced_commit|repairs_sent|generation|incarnation)": \d+"#,
        r#""$1": [n]"#,
    ),
];

/// What was typed and what was said.
pub struct Session {
    dir: PathBuf,
    addresses: String,
    text: String,
}

impl Session {
    /// Before a cluster: `coterie` is led to all of its nodes, and works in its folder.
    pub fn of(cluster: &Cluster) -> Self {
        Self::new(cluster.dir(), cluster.addresses().join(","))
    }

    /// In a folder, with these addresses of nodes.
    pub fn new(dir: &Path, addresses: String) -> Self {
        Self { dir: dir.to_owned(), addresses, text: String::new() }
    }

    /// From now on `coterie` is led to this node only.
    pub fn only(&mut self, cluster: &Cluster, node: usize) {
        self.addresses = cluster.address(node);
    }

    /// Writes down what happens meanwhile.
    pub fn note(&mut self, what: &str) {
        self.between();
        writeln!(self.text, "# {what}").unwrap();
    }

    /// Types a line.
    pub async fn run(&mut self, line: &str) -> Said {
        let said = self.unrecorded(line).await;
        self.between();
        writeln!(self.text, "$ {line}").unwrap();
        self.text.push_str(&said.out);
        if !said.out.is_empty() && !said.out.ends_with('\n') {
            // What a terminal would not show either.
            self.text.push_str("⏎\n");
        }
        for line in said.err.lines() {
            writeln!(self.text, "2> {line}").unwrap();
        }
        writeln!(self.text, "exit {}", said.code.expect("a signal has ended it")).unwrap();
        said
    }

    /// Types a line that nobody is to read about.
    pub async fn unrecorded(&self, line: &str) -> Said {
        let programs = Path::new(PROGRAM).parent().unwrap().display();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line);
        let said = run(shell, |shell| {
            // A terminal's width and colours are not ours.
            shell.env_remove("COLUMNS").env_remove("CLICOLOR_FORCE");
            // Nor are the clusters of whoever runs the tests.
            shell.env_remove("XDG_CONFIG_HOME").env("HOME", &self.dir);
            if !self.addresses.is_empty() {
                shell.env("COTERIE_ADDR", &self.addresses);
            }
            shell.env("PATH", path).current_dir(&self.dir)
        });
        let said = said.await;
        assert!(!said.err.contains("panicked"), "`{line}`: {}", said.err);
        said
    }

    /// Holds the session against the one that was kept under this name.
    #[track_caller]
    pub fn is(self, name: &str) {
        self.filtered_is(name, &[]);
    }

    /// The same, with filters of its own before the others.
    #[track_caller]
    pub fn filtered_is(self, name: &str, filters: &[(&str, &str)]) {
        let text = self.text.replace(&self.dir.display().to_string(), "[dir]");
        check(name, &text, &[filters, FILTERS].concat());
    }

    fn between(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }
}

/// Holds a text, word for word, against the one that was kept under this name.
#[track_caller]
pub fn check_verbatim(name: &str, text: &str) {
    check(name, text, &[]);
}

#[track_caller]
fn check(name: &str, text: &str, filters: &[(&str, &str)]) {
    let mut settings = insta::Settings::clone_current();
    settings.set_filters(filters.to_vec());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}
