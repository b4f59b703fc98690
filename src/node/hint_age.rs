//! How old the oldest hint is. Nobody keeps that: it is looked up on disk, now and then.
//!
//! ```text
//!   hints are held? ── yes ─▶ the oldest write among them, as the pages of hints show ─▶ the gauge
//!                  └── no ──▶ none: nothing is read
//! ```
//!
//! Hints bear no time of their own, so the age is that of the oldest write that one keeps: at least
//! as old as the hint. A look is bounded, and so is the part of the time that looks may take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::handle::{NodeHandle, Reports};
use super::host::DataCore;
use crate::api::backend::Backend;
use crate::gossip::ControlCore;
use crate::types::Wall;

/// A look takes so long at most: some hundred thousand hints. Of more, it sees a part.
const LOOK_FOR: Duration = Duration::from_millis(500);
/// The least time between two looks.
const REST_MIN: Duration = Duration::from_secs(5);
/// Between two looks, so many times what the last one took: reading hints is a fiftieth of what a
/// thread does, at most.
const REST_FACTOR: u32 = 50;

/// When the oldest write was made that a hint keeps, as last seen; 0: no hint was seen.
#[derive(Debug, Default)]
pub(super) struct OldestHint(AtomicU64);

impl OldestHint {
    fn note(&self, oldest: Option<Wall>) {
        self.0.store(oldest.map_or(0, |wall| wall.0), Ordering::Relaxed);
    }

    /// How old it is; zero if there is none.
    pub(super) fn age(&self, now: Wall) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            oldest => Duration::from_millis(now.0.saturating_sub(oldest)),
        }
    }
}

/// Looks until `end`.
pub(super) async fn watch<W, K>(handle: NodeHandle<W, K>, end: CancellationToken)
where
    W: DataCore,
    K: ControlCore + Reports,
{
    loop {
        let began = Instant::now();
        if handle.holds_hints() {
            // What could not be read was logged; the last look stands.
            if let Ok(held) = handle.hints(LOOK_FOR).await {
                let oldest = held.targets.iter().filter_map(|target| target.oldest_write).min();
                handle.oldest_hint().note(oldest);
            }
        } else {
            handle.oldest_hint().note(None);
        }
        let rest = REST_MIN.max(began.elapsed() * REST_FACTOR);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = end.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_that_of_the_oldest_write_and_none_is_zero() {
        let oldest = OldestHint::default();
        assert_eq!(oldest.age(Wall(9_000)), Duration::ZERO);
        oldest.note(Some(Wall(1_500)));
        assert_eq!(oldest.age(Wall(9_000)), Duration::from_millis(7_500));
        // Another node's clock may be ahead of ours.
        assert_eq!(oldest.age(Wall(1_000)), Duration::ZERO);
        oldest.note(None);
        assert_eq!(oldest.age(Wall(9_000)), Duration::ZERO);
    }
}
