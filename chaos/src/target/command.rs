//! Other programs: run to their end, with a limit, and what they said if they fail.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// Longer than any of these commands takes on a slow machine.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// Runs a program and gives what it printed.
///
/// # Errors
/// If it cannot be run, takes too long or fails: with the whole command and what it said.
pub async fn run<S: AsRef<OsStr>>(words: &[S]) -> anyhow::Result<String> {
    let shown: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    let shown = shown.join(" ");
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(COMMAND_WITHIN, command.output()).await;
    let ended = ended.with_context(|| format!("`{shown}` took too long"))?;
    let output = ended.with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("`{shown}` failed ({}): {said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A prefix and the words behind it.
pub fn words<'a>(prefix: &'a [String], rest: &[&'a str]) -> Vec<&'a str> {
    prefix.iter().map(String::as_str).chain(rest.iter().copied()).collect()
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_fails_tells_what_it_was_and_what_it_said() {
        assert_eq!(run(&["echo", "a", "b"]).await.unwrap(), "a b\n");
        let error = run(&["sh", "-c", "echo no >&2; exit 3"]).await.unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.ends_with(": no"), "{error}");
        assert!(run(&["/no/such/program"]).await.is_err());
    }
}
