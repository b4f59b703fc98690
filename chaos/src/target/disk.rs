//! A disk of a node's own: a file system in a file, mounted over the node's data folder. It can
//! fill up, and it can stall: a frozen file system lets every write and fsync wait until it thaws.
//! Needs root, loop devices, mkfs.ext4 and fsfreeze.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};

use super::command::{is_root, run};

/// Large enough for a run of some minutes.
const SIZE_MIB: u64 = 512;
/// What a full disk has left: less than the store wants, enough for the file system itself.
const LEFT_MIB: u64 = 8;
/// A stall, and the time between two.
const STALL: Duration = Duration::from_millis(400);

/// The disk of one node.
#[derive(Debug)]
pub struct OwnDisk {
    image: PathBuf,
    mounted: PathBuf,
    /// The shell of a stall that has not ended.
    stalling: Option<Child>,
}

/// What keeps nodes from having disks of their own here, if anything does.
pub fn disks_can_be_made() -> Result<(), String> {
    if !is_root() {
        return Err("a disk that fills up or stalls is mounted, which needs root".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Err("there are no loop devices".to_owned());
    }
    Ok(())
}

impl OwnDisk {
    /// Below this the node refuses writes.
    pub const MIN_FREE_MIB: u64 = 64;

    /// Makes a file system beside a folder, and mounts it there.
    ///
    /// # Errors
    /// If that cannot be done; then nothing is mounted.
    pub async fn make(folder: &Path) -> anyhow::Result<Self> {
        let image = folder.with_extension("image");
        let size = format!("{SIZE_MIB}M");
        let (from, to) = (image.to_string_lossy(), folder.to_string_lossy());
        run(&["truncate", "-s", &size, &from]).await?;
        run(&["mkfs.ext4", "-q", "-F", &from]).await?;
        run(&["mount", "-o", "loop", &from, &to]).await?;
        Ok(Self { mounted: folder.to_owned(), image: image.clone(), stalling: None })
    }

    fn ballast(&self) -> PathBuf {
        self.mounted.join("ballast")
    }

    async fn free_mib(&self) -> anyhow::Result<u64> {
        let mounted = self.mounted.to_string_lossy();
        let shown = run(&["df", "--output=avail", "-BM", &mounted]).await?;
        let last = shown.split_whitespace().last().unwrap_or_default();
        last.trim_end_matches('M').parse().with_context(|| format!("df says `{last}`"))
    }

    /// Leaves no room.
    pub async fn fill(&self) -> anyhow::Result<String> {
        let free = self.free_mib().await?;
        let size = format!("{}M", free.saturating_sub(LEFT_MIB).max(1));
        run(&["fallocate", "-l", &size, &self.ballast().to_string_lossy()]).await?;
        let left = self.free_mib().await?;
        if left >= Self::MIN_FREE_MIB {
            bail!("{left} MiB are still free on {}", self.mounted.display());
        }
        Ok(format!("{left} of {free} MiB are left"))
    }

    /// Gives the room back.
    pub fn unfill(&self) -> anyhow::Result<()> {
        fs::remove_file(self.ballast()).context("cannot remove the ballast")
    }

    /// Stalls again and again for a while. Each stall is ended by its own shell, whatever becomes of
    /// the harness and of this call.
    ///
    /// # Errors
    /// If it cannot be frozen, or no write is seen to wait for it.
    pub async fn stall(&mut self, lasts: Duration) -> anyhow::Result<String> {
        let until = Instant::now() + lasts;
        let (mut rounds, mut slowest) = (0, Duration::ZERO);
        while Instant::now() < until {
            rounds += 1;
            slowest = slowest.max(self.stall_once().await?);
            tokio::time::sleep(STALL).await;
        }
        if slowest < STALL / 2 {
            bail!("no write took longer than {slowest:?}");
        }
        Ok(format!("{rounds} stalls of {STALL:?}; a write of ours took {slowest:.0?}"))
    }

    /// How long a write of ours has waited.
    async fn stall_once(&mut self) -> anyhow::Result<Duration> {
        let (mounted, seconds) = (self.mounted.to_string_lossy(), STALL.as_secs_f64());
        let script =
            format!("fsfreeze -f '{mounted}' && sleep {seconds}; exec fsfreeze -u '{mounted}'");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).stdin(Stdio::null()).process_group(0);
        let shell = self.stalling.insert(shell.spawn().context("cannot run sh")?);
        let mut slowest = Duration::ZERO;
        let ended = loop {
            if let Some(ended) = shell.try_wait().context("cannot wait for a child")? {
                break ended;
            }
            let (began, probe) = (Instant::now(), self.mounted.join("probe"));
            tokio::task::spawn_blocking(move || fs::write(probe, "x")).await?.context("probe")?;
            slowest = slowest.max(began.elapsed());
            tokio::time::sleep(STALL / 20).await;
        };
        self.stalling = None;
        if !ended.success() {
            bail!("fsfreeze of {mounted} failed ({ended})");
        }
        Ok(slowest)
    }

    /// Takes it away with everything on it.
    pub async fn take_away(mut self) -> anyhow::Result<()> {
        // A stall that was broken off ends within its time; until then nothing can be unmounted.
        if let Some(mut shell) = self.stalling.take() {
            shell.wait().await.context("cannot wait for the end of a stall")?;
        }
        let mounted = self.mounted.to_string_lossy();
        // It fails if nothing is frozen, and then nothing has to be thawed.
        let _ = run(&["fsfreeze", "-u", &mounted]).await;
        run(&["umount", &mounted]).await?;
        fs::remove_file(&self.image).context("cannot remove the image of a disk")
    }
}
