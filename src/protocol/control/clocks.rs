//! Whether this node's wall clock is the odd one out.

use crate::protocol::quorum::majority;
use crate::types::{Mono, Wall};

/// A peer's wall clock, as read when a message of it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerClock {
    pub(super) wall: Wall,
    pub(super) at: Mono,
}

impl PeerClock {
    /// By how much the peer's clock is ahead of ours now, in milliseconds. Both clocks may have
    /// been set since: ours is judged as it is now, the peer's is taken to have run on.
    pub(super) fn ahead_ms(self, mono: Mono, wall: Wall) -> i64 {
        let theirs = self.wall.0.saturating_add(mono.micros_since(self.at) / 1000);
        let clamp = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        clamp(theirs).saturating_sub(clamp(wall.0))
    }
}

/// Whether a majority of `members` agrees (within `max`) that it is further than `max` from us.
/// `ahead` has one entry a member that was heard of lately.
pub(super) fn is_suspect(mut ahead: Vec<i64>, members: usize, max: u64) -> bool {
    ahead.retain(|ms| ms.unsigned_abs() > max);
    ahead.sort_unstable();
    ahead.windows(majority(members)).any(|window| match window {
        [first, .., last] => last.abs_diff(*first) <= max,
        [_] => true,
        [] => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_suspect_if_an_agreeing_majority_is_far_from_it() {
        assert!(is_suspect(vec![70_000, 71_000], 3, 60_000));
        assert!(!is_suspect(vec![70_000], 3, 60_000), "one of three is no majority");
        assert!(!is_suspect(vec![70_000, -70_000], 3, 60_000), "they do not agree");
        assert!(!is_suspect(vec![59_000, 70_000], 3, 60_000), "one is near");
        assert!(is_suspect(vec![-90_000, -90_100, 0, -90_200], 5, 60_000));
        assert!(!is_suspect(vec![i64::MIN, i64::MAX], 2, 60_000));
        assert!(!is_suspect(vec![], 0, 60_000));
    }

    #[test]
    fn a_step_of_our_own_clock_shows_at_once() {
        let clock = PeerClock { wall: Wall(1_000_000), at: Mono(0) };
        let later = Mono(0).after_millis(500);
        assert_eq!(clock.ahead_ms(later, Wall(1_000_500)), 0);
        assert_eq!(clock.ahead_ms(later, Wall(900_500)), 100_000);
        assert!(clock.ahead_ms(Mono(u64::MAX), Wall(u64::MAX)) <= 0);
    }
}
