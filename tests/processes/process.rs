//! One child process: started, signalled and waited for by its process id.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The binary under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_coterie");
/// How often a child that should end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Commands of one answer end within this.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// A signal that tests send.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// Ends it at once.
    Kill,
    /// Asks it to end.
    Terminate,
    /// Freezes it.
    Stop,
    /// Lets it go on.
    Continue,
}

/// A node's process. Killed when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `serve` with this configuration; everything it says is appended to `log`.
    pub fn serve(config: &Path, log: &Path, environment: &[(&'static str, PathBuf)]) -> Self {
        Self::start(Path::new(PROGRAM), config, log, |command| {
            command.envs(environment.iter().cloned())
        })
    }

    /// Starts a program as a node, after a last change to its command.
    pub fn start(
        program: &Path,
        config: &Path,
        log: &Path,
        change: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let said = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let also = said.try_clone().unwrap();
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(config).arg("--exit-with-parent");
        command.stdin(Stdio::piped()).stdout(said).stderr(also);
        clean(&mut command);
        let child = change(&mut command).spawn().unwrap_or_else(|error| {
            panic!("cannot start {}: {error}", program.display());
        });
        Self { child }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        let name = match signal {
            Signal::Kill => return self.child.kill().unwrap(),
            Signal::Terminate => "TERM",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        assert!(self.ended().is_none(), "SIG{name} to a process that has ended");
        let command = format!("kill -{name} {}", self.id());
        let sent = Command::new("sh").arg("-c").arg(&command).status().unwrap();
        assert!(sent.success(), "`{command}` has failed");
    }

    /// Ends it at once, and waits for that.
    pub fn kill(mut self) {
        self.signal(Signal::Kill);
        self.child.wait().unwrap();
    }

    /// Closes the pipe to its standard input, as the end of this process would.
    pub fn leave_alone(&mut self) {
        drop(self.child.stdin.take());
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended by itself.
    pub async fn end_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if started.elapsed() > limit {
                return None;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A line of `/proc/ID/status` in MiB: `VmRSS` is what it uses, `VmHWM` the most it has used.
    /// None where there is no such file.
    pub fn memory_mib(&self, line: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib >> 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a command has said, and its exit code.
#[derive(Debug)]
pub struct Said {
    /// None if a signal has ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a command of the binary to its end.
pub async fn coterie(words: &[&str]) -> Said {
    let mut command = Command::new(PROGRAM);
    command.args(words);
    run(command, |command| command).await
}

/// Runs any command to its end, after a last change to it.
pub async fn run(mut command: Command, change: impl FnOnce(&mut Command) -> &mut Command) -> Said {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    clean(&mut command);
    change(&mut command);
    let shown = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(COMMAND_WITHIN, output).await;
    let output = output.unwrap_or_else(|_| panic!("{shown} did not end")).unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Settings of whoever runs the tests are not to reach the processes.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COTERIE_") {
            command.env_remove(name);
        }
    }
}

/// Every file below a folder with its bytes, save the names to be left out.
pub fn files_of(folder: &Path, but: &[&str]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !but.iter().any(|name| path.ends_with(name)) {
                let bytes = std::fs::read(&path).unwrap();
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

/// Copies a folder and all below it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for (path, bytes) in files_of(from, &[]) {
        let copy = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::write(copy, bytes).unwrap();
    }
    File::open(to).unwrap().sync_all().unwrap();
}
