//! A clock that jumps, seen from outside: whether a value's time is over each node tells by its own
//! clock. Values are written that end before or after the jump should show, by other nodes, and
//! the one that jumped is asked for what it holds of them.
//!
//! ```text
//!   ahead:   written, to end after the fault  ...  the node says already that it is over
//!   back:    written, to end at once          ...  the node says still that it is not
//! ```
//!
//! Receipts would not do: stamps never go back, so a jump back shows in none of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use coterie::client::WriteOptions;
use coterie::proto::stored_sibling::Kind;

use super::Watch;

/// Values that are written: the node is home to some of them, and others coordinate some of those.
const PROBES: usize = 20;
/// How much of a jump ahead a value's life takes up.
const AHEAD_SEEN: f64 = 0.7;
/// How long a value lives that is to show a jump back.
const BRIEF: Duration = Duration::from_secs(1);

/// What was written to see a jump.
#[derive(Debug)]
pub struct Probes {
    keys: Vec<String>,
    ahead_s: i64,
}

impl Probes {
    /// Writes values through all nodes but the one that is about to jump.
    pub async fn write(
        watch: &Watch,
        number: u32,
        others: &[usize],
        ahead_s: i64,
        lasts: Duration,
    ) -> Self {
        let jump = Duration::from_secs(ahead_s.unsigned_abs());
        let ttl = if ahead_s > 0 { lasts + jump.mul_f64(AHEAD_SEEN) } else { BRIEF };
        let options = WriteOptions { ttl: Some(ttl), ..WriteOptions::default() };
        let mut keys = Vec::new();
        for probe in 0..PROBES {
            let key = format!("probe/{number}/{probe}");
            let (client, _) = watch.client(others[probe % others.len()]);
            if client.set_with(key.clone(), "clock", &options).await.is_ok() {
                keys.push(key);
            }
        }
        Self { keys, ahead_s }
    }

    /// What the node that jumped says of them.
    ///
    /// # Errors
    /// If its clock seems to be right, or nothing can be told.
    pub async fn seen(&self, watch: &Watch, node: usize) -> anyhow::Result<String> {
        let (client, address) = watch.client(node);
        let mut held = 0;
        for key in &self.keys {
            let Ok(told) = client.inspect(address, key.clone()).await else { continue };
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            for sibling in told.own.unwrap_or_default().siblings {
                held += 1;
                let over = sibling.kind() == Kind::Expired;
                if let Some(off) = off_by(now, sibling.expires_ms, over, self.ahead_s) {
                    let ahead = if self.ahead_s > 0 { "ahead" } else { "back" };
                    return Ok(format!("its clock is at least {off:.1?} {ahead}"));
                }
            }
        }
        bail!("its clock seems to be right, by {held} of {} values", self.keys.len())
    }
}

/// By how much a clock is off at least, if a value's end shows it.
fn off_by(now: Duration, ends_ms: u64, over: bool, ahead_s: i64) -> Option<Duration> {
    let ends = (ends_ms > 0).then(|| Duration::from_millis(ends_ms))?;
    match (over, ahead_s > 0) {
        (true, true) => {
            ends.checked_sub(now).filter(|off| off.as_secs() * 2 >= ahead_s.unsigned_abs())
        }
        (false, false) => now.checked_sub(ends).filter(|off| *off >= BRIEF),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_right_shows_no_jump() {
        let now = Duration::from_secs(1000);
        assert_eq!(off_by(now, 1_021_000, true, 30), Some(Duration::from_secs(21)));
        assert_eq!(off_by(now, 1_021_000, false, 30), None);
        assert_eq!(off_by(now, 1_001_000, true, 30), None, "too little to tell");
        assert_eq!(off_by(now, 995_000, false, -30), Some(Duration::from_secs(5)));
        assert_eq!(off_by(now, 995_000, true, -30), None);
        assert_eq!(off_by(now, 1_021_000, false, -30), None);
        assert_eq!(off_by(now, 0, false, -30), None, "it never ends");
    }
}
