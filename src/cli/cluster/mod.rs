//! A cluster of child processes on this machine: what `local`, `demo` and `bench` share.
//!
//! ```text
//!   parent ── spawn ──▶ coterie serve --config DIR/node-i.toml --exit-with-parent
//!      └── pipe ──────▶ stdin   (end of file: stop gracefully)
//! ```
//!
//! *No orphans.* A child's standard input is a pipe that nobody writes to. When the parent ends,
//! however it ends, the kernel closes the pipe and the child stops. Closing it is also how the
//! parent asks a child to stop. Children are in process groups of their own, so that a Ctrl-C
//! reaches the parent only, which then stops them in order.

mod plan;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};

use crate::client::{Client, Options};
use crate::proto::StatusResponse;

pub use plan::{Durability, Place, Plan};

/// How long children may take to stop before they are killed.
pub const STOP_WITHIN: Duration = Duration::from_secs(15);
/// How often children are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A node that is asked for its status answers within this, or is not ready.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
/// How much of a log's end is read to show its last lines.
const LOG_TAIL_BYTES: u64 = 16 << 10;
/// How many last lines are shown.
const LOG_TAIL_LINES: usize = 12;

/// Child processes, one a node.
pub struct Cluster {
    plan: Plan,
    program: PathBuf,
    nodes: Vec<Node>,
    client: Client,
}

struct Node {
    place: Place,
    child: Option<Child>,
}

/// A node that ended without having been asked to.
pub struct Death {
    /// Which.
    pub name: String,
    /// How.
    pub status: ExitStatus,
    /// What it said last.
    pub last_words: String,
}

impl Cluster {
    /// Starts every node.
    ///
    /// # Errors
    /// If a port is in use, or the folder cannot be written, or a process cannot be started.
    pub async fn start(plan: Plan) -> anyhow::Result<Self> {
        Self::start_as(this_program()?, plan).await
    }

    /// Starts every node as a process of another binary.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_as(program: PathBuf, plan: Plan) -> anyhow::Result<Self> {
        plan.check_folders()?;
        plan.check_ports()?;
        plan.write_configs()?;
        let nodes: Vec<Node> =
            plan.places().into_iter().map(|place| Node { place, child: None }).collect();
        let options = Options { timeout: STATUS_WITHIN, pinned: true, ..Options::default() };
        let client = Client::connect(nodes.iter().map(|n| n.place.client.to_string()), options)?;
        let mut cluster = Self { plan, program, nodes, client };
        for index in 0..cluster.nodes.len() {
            if let Err(error) = cluster.spawn(index) {
                cluster.stop().await;
                return Err(error);
            }
        }
        Ok(cluster)
    }

    /// Starts a node that is not running.
    ///
    /// # Errors
    /// If the log cannot be opened or the process cannot be started.
    pub fn spawn(&mut self, index: usize) -> anyhow::Result<()> {
        let place = &self.nodes[index].place;
        let log = OpenOptions::new().create(true).append(true).open(&place.log);
        let log = log.with_context(|| format!("cannot write {}", place.log.display()))?;
        let errors = log.try_clone().context("cannot duplicate a file handle")?;
        let mut command = Command::new(&self.program);
        command
            .arg("serve")
            .arg("--config")
            .arg(&place.config)
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if is_overriding(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn();
        let child = child.with_context(|| {
            format!("cannot start {} for {}", self.program.display(), place.name)
        })?;
        self.nodes[index].child = Some(child);
        Ok(())
    }

    /// Kills a node with SIGKILL.
    ///
    /// # Errors
    /// If it is not running.
    pub async fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[index];
        let Some(mut child) = node.child.take() else {
            bail!("{} is not running", node.place.name);
        };
        child.kill().await.with_context(|| format!("cannot kill {}", node.place.name))
    }

    /// Stops every node: gracefully, then after [`STOP_WITHIN`] with SIGKILL. Returns the names of
    /// those that had to be killed.
    pub async fn stop(&mut self) -> Vec<String> {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            drop(child.stdin.take());
        }
        let until = tokio::time::Instant::now() + STOP_WITHIN;
        let mut killed = Vec::new();
        for node in &mut self.nodes {
            let Some(mut child) = node.child.take() else { continue };
            if tokio::time::timeout_at(until, child.wait()).await.is_err() {
                killed.push(node.place.name.clone());
                let _ = child.kill().await;
            }
        }
        killed
    }

    /// Waits until a node ends without having been asked to.
    pub async fn next_death(&mut self) -> Death {
        loop {
            if let Some(death) = self.death() {
                return death;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A node that has ended without having been asked to, each only once.
    pub fn death(&mut self) -> Option<Death> {
        self.nodes.iter_mut().find_map(|node| {
            let status = node.child.as_mut()?.try_wait().ok().flatten()?;
            node.child = None;
            let last_words = log_tail(&node.place.log);
            Some(Death { name: node.place.name.clone(), status, last_words })
        })
    }

    /// Waits until every running node says that it is ready, and sees every running node.
    ///
    /// # Errors
    /// If a node ends, or `limit` passes: then with the reason that each node gives.
    pub async fn wait_ready(&mut self, limit: Duration) -> anyhow::Result<Duration> {
        let started = Instant::now();
        loop {
            let waiting = self.not_ready().await;
            if waiting.is_empty() {
                return Ok(started.elapsed());
            }
            if let Some(death) = self.death() {
                bail!(death.sentence());
            }
            if started.elapsed() > limit {
                bail!(
                    "the cluster was not ready within {} s: {}. The logs are in {}",
                    limit.as_secs(),
                    waiting.join("; "),
                    self.plan.dir.display()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn not_ready(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        let running = self.nodes.iter().filter(|node| node.child.is_some()).count();
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            let name = &node.place.name;
            match self.client.status(&node.place.client.to_string()).await {
                Err(error) => waiting.push(format!("{name} does not answer ({error})")),
                Ok(status) if !status.ready => {
                    waiting.push(format!("{name} says: {}", status.not_ready_because));
                }
                Ok(status) => {
                    let alive = status.members.iter().filter(|m| m.state == "alive").count();
                    if alive < running {
                        waiting.push(format!("{name} sees {alive} of {running} nodes"));
                    }
                }
            }
        }
        waiting
    }

    /// How a node sees itself and the cluster.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self, index: usize) -> Result<StatusResponse, crate::client::Error> {
        self.client.status(&self.address(index)).await
    }

    /// For asking nodes for their status: cheap to clone, with short timeouts.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where clients reach a node.
    #[must_use]
    pub fn address(&self, index: usize) -> String {
        self.nodes[index].place.client.to_string()
    }

    /// Where clients reach all nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        (0..self.nodes.len()).map(|index| self.address(index)).collect()
    }

    /// What the nodes are called, where they are, and their process ids while they run.
    pub fn places(&self) -> impl Iterator<Item = (&Place, Option<u32>)> {
        self.nodes.iter().map(|node| (&node.place, node.child.as_ref().and_then(Child::id)))
    }

    /// How many nodes there are, running or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// What the cluster was started from.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl Death {
    /// What happened, with the last lines of the log.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("{} ended ({}). It said last:\n{}", self.name, self.status, self.last_words)
    }
}

/// Whether a variable of the environment would override what a node's own file says.
fn is_overriding(variable: &str) -> bool {
    let Some(key) = variable.strip_prefix("COTERIE__") else { return false };
    let own = ["NODE__", "LISTEN__", "ADVERTISE__", "BOOTSTRAP__", "CLUSTER__", "REPLICATION__"];
    own.iter().any(|section| key.starts_with(section)) || key == "STORAGE__DURABILITY"
}

/// The path of this program: to be started again, even if it was replaced on disk meanwhile.
///
/// # Errors
/// If the system does not tell.
pub fn this_program() -> anyhow::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    let path = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(if path.exists() || !running.exists() { path } else { running.to_owned() })
}

/// The last lines of a log, indented.
fn log_tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut end = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut end)?;
        Ok(end)
    };
    match read() {
        Ok(end) => last_lines(&String::from_utf8_lossy(&end)),
        Err(error) => format!("    (cannot read {}: {error})", log.display()),
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    if last.is_empty() {
        return "    (nothing)".to_owned();
    }
    let indented: Vec<String> = last.iter().map(|line| format!("    {line}")).collect();
    indented.join("\n")
}

/// A folder that is removed when this is dropped, unless it is kept.
pub struct TemporaryDir {
    path: PathBuf,
    keep: bool,
}

impl TemporaryDir {
    /// Makes a folder of a new name in the system's folder for temporary files.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(purpose: &str) -> anyhow::Result<Self> {
        let unique: u32 = rand::random();
        let name = format!("coterie-{purpose}-{}-{unique:08x}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let made = std::fs::create_dir(&path);
        made.with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self { path, keep: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It will not be removed.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_log_are_shown() {
        assert_eq!(last_lines(""), "    (nothing)");
        let lines: Vec<String> = (0..100).map(|i| format!("line {i}")).collect();
        let text = lines.join("\n");
        let shown = last_lines(&text);
        assert_eq!(shown.lines().count(), LOG_TAIL_LINES);
        assert!(shown.ends_with("    line 99"));
    }

    #[test]
    fn the_environment_does_not_override_what_each_node_has_of_its_own() {
        assert!(is_overriding("COTERIE__NODE__NAME"));
        assert!(is_overriding("COTERIE__STORAGE__DURABILITY"));
        assert!(!is_overriding("COTERIE__LOG__LEVEL"));
        assert!(!is_overriding("COTERIE_ADDR"));
    }

    #[test]
    fn a_temporary_folder_is_removed_unless_kept() {
        let dir = TemporaryDir::new("test").unwrap();
        let path = dir.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(dir);
        assert!(!path.exists());
        let mut dir = TemporaryDir::new("test").unwrap();
        let path = dir.path().to_owned();
        dir.keep();
        drop(dir);
        assert!(path.exists());
        std::fs::remove_dir(path).unwrap();
    }
}
