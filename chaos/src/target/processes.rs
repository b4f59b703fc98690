//! Nodes that are processes of this machine: what `local` and `netns` share.
//!
//! A child's standard input is a pipe that nobody writes to: when the harness ends, however it ends,
//! the kernel closes the pipe and the child stops.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, ChildStdin, Command};

use super::disk::OwnDisk;
use super::{ANTI_ENTROPY, COLLECTION, Plan, SETTLE, command};

/// How long a node may take to stop when it is asked to.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// How long a node that leaves may take to hand over what it holds, and to end.
const LEFT_WITHIN: Duration = Duration::from_secs(180);
/// How long a signal may take to show.
const SIGNAL_WITHIN: Duration = Duration::from_secs(2);
/// How often something is looked at that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// SIGKILL's number.
const KILLED: i32 = 9;
/// How much of a log's end is shown.
const LAST_LINES: usize = 12;
/// Where Debian, Fedora and Alpine keep it.
const LIBFAKETIME: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// The processes of all nodes.
#[derive(Debug)]
pub struct Processes {
    plan: Plan,
    nodes: Vec<Node>,
    faketime: Option<&'static str>,
    /// What is to be told of nodes that ended unasked.
    crashes: Vec<String>,
}

#[derive(Debug)]
struct Node {
    name: String,
    /// Its own IP address.
    address: String,
    /// What comes before the program: it enters the node's namespace.
    prefix: Vec<String>,
    child: Option<Child>,
    /// The child's standard input, held here: whoever waits for a child closes its own.
    held: Option<ChildStdin>,
    disk: Option<OwnDisk>,
    /// Whether it was told to leave, and may end when it has done so.
    leaves: bool,
}

/// The library that makes a process see another time.
fn libfaketime() -> Option<&'static str> {
    LIBFAKETIME.iter().copied().find(|path| Path::new(path).exists())
}

/// What keeps clocks from being set, if anything does.
pub fn clocks_can_jump() -> Result<(), String> {
    libfaketime().map(drop).ok_or_else(|| "libfaketime is not installed (Debian: faketime)".into())
}

impl Processes {
    /// Nodes at these addresses, each with the prefix for its commands.
    pub fn new(plan: &Plan, places: Vec<(String, Vec<String>)>) -> Self {
        let node = |(number, (address, prefix))| Node {
            name: format!("node-{number}"),
            address,
            prefix,
            child: None,
            held: None,
            disk: None,
            leaves: false,
        };
        let faketime = if plan.own_clocks { libfaketime() } else { None };
        let nodes = places.into_iter().enumerate().map(node).collect();
        Self { plan: plan.clone(), nodes, faketime, crashes: Vec::new() }
    }

    /// Each node's name and where clients reach it.
    pub fn nodes(&self) -> Vec<(String, String)> {
        let node = |node: &Node| (node.name.clone(), format!("{}:7400", node.address));
        self.nodes.iter().map(node).collect()
    }

    /// Makes all disks and configurations, and starts the founders.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        for number in 0..self.nodes.len() {
            let data = self.data(number);
            std::fs::create_dir_all(&data)
                .with_context(|| format!("cannot make the folder {}", data.display()))?;
            if self.plan.own_disks {
                self.nodes[number].disk = Some(OwnDisk::make(&data).await?);
            }
            let file = self.file(number, "toml");
            std::fs::write(&file, self.config(number))
                .with_context(|| format!("cannot write {}", file.display()))?;
            self.set_clock(number, 0)?;
        }
        (0..self.plan.nodes).try_for_each(|number| self.start(number))
    }

    fn file(&self, number: usize, ending: &str) -> PathBuf {
        self.plan.dir.join(format!("{}.{ending}", self.nodes[number].name))
    }

    fn data(&self, number: usize) -> PathBuf {
        self.plan.dir.join(&self.nodes[number].name)
    }

    fn config(&self, number: usize) -> String {
        let Node { name, address, .. } = &self.nodes[number];
        let others = self.nodes.iter().filter(|other| other.name != *name);
        let seeds: Vec<String> = others.map(|other| format!("{}:7401", other.address)).collect();
        // The root of a file system is never empty.
        let data = self.data(number).join(if self.plan.own_disks { "data" } else { "" });
        let data = data.to_string_lossy();
        let mut text = String::new();
        let _ = write!(
            text,
            "[node]\nname = \"{name}\"\ndata = {data:?}\n\
             [cluster]\nname = \"chaos\"\n\
             [listen]\nclient = \"{address}:7400\"\ninternal = \"{address}:7401\"\n\
             admin = \"{address}:7402\"\ninsecure = true\n\
             [bootstrap]\nexpect = {expect}\nseeds = {seeds:?}\n\
             [replication]\nreplicas = {replicas}\n\
             [anti_entropy]\ninterval = \"{ANTI_ENTROPY}\"\n\
             [collection]\ninterval = \"{COLLECTION}\"\n\
             [membership]\nsettle = \"{SETTLE}\"\n\
             [runtime]\nthreads = 1\n",
            expect = self.plan.nodes,
            replicas = self.plan.replicas,
        );
        if self.plan.own_disks {
            let _ = write!(text, "[storage]\nmin_free = \"{}MiB\"\n", OwnDisk::MIN_FREE_MIB);
        }
        text
    }

    /// Starts a node that does not run.
    pub fn start(&mut self, number: usize) -> anyhow::Result<()> {
        let (config, log) = (self.file(number, "toml"), self.file(number, "log"));
        let said = OpenOptions::new().create(true).append(true).open(&log);
        let said = said.with_context(|| format!("cannot write {}", log.display()))?;
        let also = said.try_clone().context("cannot duplicate a file handle")?;
        let program = self.plan.program.to_string_lossy().into_owned();
        let prefix = &self.nodes[number].prefix;
        let words: Vec<&str> = prefix.iter().map(String::as_str).chain([&*program]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["serve", "--exit-with-parent", "--config"]).arg(&config);
        command.stdin(Stdio::piped()).stdout(said).stderr(also).kill_on_drop(true).process_group(0);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("COTERIE__") {
                command.env_remove(name);
            }
        }
        if let Some(library) = self.faketime {
            command.env("LD_PRELOAD", library).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            command.env("FAKETIME_TIMESTAMP_FILE", self.file(number, "clock"));
            command.env("FAKETIME_CACHE_DURATION", "1");
        }
        let child = command.spawn();
        let mut child = child.with_context(|| format!("cannot start {}", words.join(" ")))?;
        let node = &mut self.nodes[number];
        (node.held, node.child) = (child.stdin.take(), Some(child));
        Ok(())
    }

    /// Starts those of these nodes that do not run.
    pub fn start_missing(&mut self, numbers: &[usize]) -> anyhow::Result<()> {
        self.notice_ends();
        let missing = numbers.iter().filter(|&&number| self.nodes[number].child.is_none());
        let missing: Vec<usize> = missing.copied().collect();
        missing.into_iter().try_for_each(|number| self.start(number))
    }

    /// Starts a node that is no member, on an empty disk.
    pub fn join(&mut self, number: usize) -> anyhow::Result<()> {
        self.empty(number)?;
        self.nodes[number].leaves = false;
        self.start(number)
    }

    /// Waits until a node that was told to leave has ended by itself.
    pub async fn left(&mut self, number: usize) -> anyhow::Result<String> {
        let node = &mut self.nodes[number];
        node.leaves = true;
        let name = node.name.clone();
        let child = node.child.as_mut().with_context(|| format!("{name} does not run"))?;
        let ended = tokio::time::timeout(LEFT_WITHIN, child.wait()).await;
        let ended =
            ended.with_context(|| format!("{name} runs {LEFT_WITHIN:?} after it was told"))?;
        let ended = ended.context("cannot wait for a child")?;
        if !ended.success() {
            bail!("{name} was told to leave and ended with {ended}");
        }
        node.child = None;
        Ok(format!("{name} ended by itself, with exit code 0"))
    }

    fn take(&mut self, number: usize) -> anyhow::Result<Child> {
        let node = &mut self.nodes[number];
        node.child.take().with_context(|| format!("{} does not run", node.name))
    }

    /// SIGKILL to several nodes at once; then waits for the end of each. One that has ended by itself
    /// before is a crash.
    pub async fn kill(&mut self, numbers: &[usize]) -> anyhow::Result<String> {
        let (mut children, mut seen, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for &number in numbers {
            match self.take(number) {
                Ok(mut child) => {
                    child.start_kill().context("cannot send SIGKILL")?;
                    children.push((number, child));
                }
                Err(error) => before.push(error.to_string()),
            }
        }
        for (number, mut child) in children {
            let ended = child.wait().await.context("cannot wait for a child")?;
            let name = self.nodes[number].name.clone();
            if ended.signal() == Some(KILLED) {
                seen.push(format!("{name} ended by SIGKILL"));
            } else {
                self.crashes.push(self.last_words(number, ended));
                before.push(format!("{name} ended by itself before it was killed: {ended}"));
            }
        }
        if !before.is_empty() {
            bail!("{}", before.join(", "));
        }
        Ok(seen.join(", "))
    }

    /// Asks a node to end, and waits for that. One that ends otherwise than by doing so has crashed.
    pub async fn stop(&mut self, number: usize) -> anyhow::Result<String> {
        let mut child = self.take(number)?;
        let name = self.nodes[number].name.clone();
        signal(&child, "TERM").await?;
        match tokio::time::timeout(STOP_WITHIN, child.wait()).await {
            Ok(ended) => {
                let ended = ended.context("cannot wait for a child")?;
                if !ended.success() {
                    self.crashes.push(self.last_words(number, ended));
                    bail!("{name} was asked to stop and ended with {ended}");
                }
                Ok(format!("{name} stopped when asked to"))
            }
            Err(_) => {
                child.kill().await.context("cannot kill a child")?;
                bail!("{name} did not stop within {STOP_WITHIN:?}, and was killed")
            }
        }
    }

    /// Freezes a node and waits until the kernel says that it stands still.
    pub async fn pause(&mut self, number: usize) -> anyhow::Result<String> {
        let node = &self.nodes[number];
        let child = node.child.as_ref().with_context(|| format!("{} does not run", node.name))?;
        signal(child, "STOP").await?;
        let until = tokio::time::Instant::now() + SIGNAL_WITHIN;
        while state_of(child) != Some('T') {
            if tokio::time::Instant::now() > until {
                bail!("{} runs on after SIGSTOP", node.name);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(format!("{} is stopped, says the kernel", node.name))
    }

    /// Lets a frozen node go on.
    pub async fn resume(&mut self, number: usize) -> anyhow::Result<()> {
        let node = &self.nodes[number];
        let child = node.child.as_ref().with_context(|| format!("{} does not run", node.name))?;
        signal(child, "CONT").await
    }

    /// Sets a node's clock so many seconds ahead.
    pub fn set_clock(&mut self, number: usize, ahead_s: i64) -> anyhow::Result<()> {
        if self.faketime.is_none() {
            return Ok(());
        }
        // Whoever reads it meanwhile finds the old or the new one, never half of it.
        let (file, new) = (self.file(number, "clock"), self.file(number, "clock.new"));
        std::fs::write(&new, format!("{ahead_s:+}s\n"))
            .and_then(|()| std::fs::rename(&new, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// The node's own disk.
    pub fn disk(&mut self, number: usize) -> anyhow::Result<&mut OwnDisk> {
        self.nodes[number].disk.as_mut().context("the node has no disk of its own")
    }

    /// Kills a node and empties its disk.
    pub async fn wipe(&mut self, number: usize) -> anyhow::Result<String> {
        let killed = self.kill(&[number]).await?;
        let removed = self.empty(number)?;
        if removed == 0 {
            bail!("{} was empty before it was wiped", self.data(number).display());
        }
        Ok(format!("{killed}; {removed} entries of its disk are gone"))
    }

    /// Empties the disk of a node that does not run. Answers with how many entries it had.
    fn empty(&self, number: usize) -> anyhow::Result<usize> {
        let mut removed = 0;
        let entries = std::fs::read_dir(self.data(number));
        for entry in entries.context("cannot look into the data folder")? {
            let path = entry.context("cannot look into the data folder")?.path();
            let gone = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            gone.with_context(|| format!("cannot remove {}", path.display()))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// The nodes that ended without having been asked to, since this was asked last.
    pub fn unasked_ends(&mut self) -> Vec<String> {
        self.notice_ends();
        std::mem::take(&mut self.crashes)
    }

    fn notice_ends(&mut self) {
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            let ended = node.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            let Some(ended) = ended else { continue };
            node.child = None;
            if !(node.leaves && ended.success()) {
                self.crashes.push(self.last_words(number, ended));
            }
        }
    }

    /// How a node ended, and the end of its log.
    fn last_words(&self, number: usize, ended: ExitStatus) -> String {
        let log = std::fs::read_to_string(self.file(number, "log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(LAST_LINES).collect();
        let last: Vec<&str> = lines.into_iter().rev().collect();
        let name = &self.nodes[number].name;
        format!("{name} ended ({ended}). It said last:\n{}", last.join("\n"))
    }

    /// Ends every node, and takes away the disks.
    pub async fn clean_up(&mut self) -> Vec<String> {
        let mut troubles = Vec::new();
        for node in &mut self.nodes {
            // A frozen or stalled node ends by SIGKILL, too.
            if let Some(mut child) = node.child.take()
                && let Err(error) = child.kill().await
            {
                troubles.push(format!("{} may still run: {error}", node.name));
            }
            if let Some(disk) = node.disk.take()
                && let Err(error) = disk.take_away().await
            {
                troubles.push(format!("{error:#}"));
            }
        }
        troubles
    }
}

/// The kernel's letter for how a process is.
fn state_of(child: &Child) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()?)).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

async fn signal(child: &Child, name: &str) -> anyhow::Result<()> {
    let id = child.id().context("the process has ended")?;
    // The shell's own `kill`: there is always one.
    command::run(&["sh", "-c", &format!("kill -{name} {id}")]).await.map(drop)
}
