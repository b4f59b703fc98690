//! A line of the log that strangers can provoke must not fill the disk.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// At most one line in this time; the others are counted and told with the next.
const EVERY: Duration = Duration::from_secs(10);

/// Lets a line through now and then.
#[derive(Debug, Default)]
pub(crate) struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    /// How many lines were kept back since the last one, if one may be written now.
    pub(crate) fn allow(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.0.is_some_and(|last| last.elapsed() < EVERY) {
            state.1 += 1;
            return None;
        }
        let kept_back = std::mem::take(&mut state.1);
        state.0 = Some(Instant::now());
        Some(kept_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_lines_becomes_one() {
        let quiet = Quiet::default();
        assert_eq!(quiet.allow(), Some(0));
        assert!((0..100).all(|_| quiet.allow().is_none()));
    }
}
