//! The hybrid logical clock (Kulkarni, Demirbas et al., *Logical Physical Clocks*, 2014).
//!
//! A stamp orders writes for last-writer-wins and makes dots unique; it never decides whether
//! data lives. Hence two rules that each prevent a loss:
//!
//! - The clock starts above its last value, which every commit carries: a restart under a wall
//!   clock that was set back must not reuse stamps.
//! - The skew limit guards the clock, never the data. A record with a stamp from the far future
//!   is merged like any other; it raises the stamp of the write made over it and nothing else,
//!   so that one bad clock does not drag all the others along.

use crate::types::{Now, Stamp, Wall};

/// The clock of one worker.
#[derive(Debug, Clone)]
pub struct Clock {
    /// The last stamp given out or witnessed; every later stamp is above it.
    last: Stamp,
    skew_ms_max: u64,
}

impl Clock {
    /// A clock that goes on above `last`, the value in the newest commit.
    #[must_use]
    pub fn starting_above(last: Stamp, skew_ms_max: u64) -> Self {
        Self { last, skew_ms_max }
    }

    /// The clock's last value, to be kept with every commit.
    #[must_use]
    pub fn last(&self) -> Stamp {
        self.last
    }

    /// A stamp for a write over a record and a context whose highest stamp is `over`: greater
    /// than now, than every stamp given out before, and than `over`. None if no stamp is left
    /// above `over`.
    pub fn stamp(&mut self, now: Now, over: Stamp) -> Option<Stamp> {
        let own = self.last.next()?.max(Stamp::at(now.wall));
        let stamp = own.max(over.next()?);
        self.last = if self.is_far(now.wall, stamp) { own } else { stamp };
        Some(stamp)
    }

    /// Whether `stamp` lies further ahead of `wall` than clocks are allowed to differ.
    #[must_use]
    pub fn is_far(&self, wall: Wall, stamp: Stamp) -> bool {
        stamp.wall().0 > wall.0.saturating_add(self.skew_ms_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Mono;

    fn at(wall: u64) -> Now {
        Now { mono: Mono(0), wall: Wall(wall) }
    }

    #[test]
    fn stamps_rise_even_if_the_wall_clock_is_set_back() {
        let mut clock = Clock::starting_above(Stamp::default(), 60_000);
        let mut last = Stamp::default();
        for wall in [1000, 1000, 500, 0, 2000] {
            let stamp = clock.stamp(at(wall), Stamp::default()).unwrap();
            assert!(stamp > last);
            last = stamp;
        }
    }

    #[test]
    fn a_restarted_clock_starts_above_its_last_value() {
        let last = Stamp::at(Wall(9_000));
        let mut clock = Clock::starting_above(last, 60_000);
        assert!(clock.stamp(at(1_000), Stamp::default()).unwrap() > last);
    }

    #[test]
    fn a_far_stamp_raises_the_write_made_over_it_and_never_the_clock() {
        let mut clock = Clock::starting_above(Stamp::default(), 60_000);
        let far = Stamp::at(Wall(10_000_000));
        assert!(clock.stamp(at(1_000), far).unwrap() > far);
        let next = clock.stamp(at(1_000), Stamp::default()).unwrap();
        assert!(next.wall().0 <= 1_000, "the clock followed a far stamp to {next:?}");
    }

    #[test]
    fn the_last_stamp_of_all_has_no_successor() {
        let mut clock = Clock::starting_above(Stamp::default(), 60_000);
        assert_eq!(clock.stamp(at(1_000), Stamp(u64::MAX)), None);
    }
}
