//! The clocks of one node: a monotonic one that drifts, and a wall clock that anyone may set.
//!
//! The world's time is microseconds since its beginning; nothing in the core ever sees it. A
//! process sees a monotonic clock with a start of its own (another at every start, as the
//! contract allows) that runs a little too fast or too slow and goes on while the process is
//! stopped; and a wall clock that is off by any amount and is set forth and back.
//!
//! Both clocks run at a *pace*: at 20, a second of the world is twenty seconds for the cores, so
//! that every time-out and interval in them is a twentieth of what it is in production, with not
//! one constant changed.

use super::tally::FaultKind;
use crate::types::{Mono, Now, Wall};

/// The wall clock at the beginning of the world, in milliseconds since 1970.
pub(super) const WALL_AT_START: u64 = 1_760_000_000_000;
const MILLION: u64 = 1_000_000;

/// Microseconds since the world began.
pub(super) type Time = u64;

/// The clocks of one node.
#[derive(Clone, Debug)]
pub(super) struct NodeClock {
    /// When the present process started.
    started: Time,
    /// What its monotonic clock read then.
    mono_at_start: u64,
    /// How much faster than the world its processes live.
    pace: u64,
    /// A million parts a unit of pace, more or fewer: 10,000 is one percent.
    rate: u64,
    /// How far the wall clock is off, in milliseconds.
    wall_offset_ms: i64,
    /// How the wall clock was last set, until a process reads it.
    turned: Option<FaultKind>,
}

impl NodeClock {
    /// A clock whose monotonic rate is off by `drift_ppm` parts in a million.
    pub(super) fn new(drift_ppm: i64, pace: u64) -> Self {
        Self {
            started: 0,
            mono_at_start: 0,
            pace,
            rate: MILLION.saturating_add_signed(drift_ppm) * pace,
            wall_offset_ms: 0,
            turned: None,
        }
    }

    /// A new process starts: its monotonic clock begins at `mono`.
    pub(super) fn start(&mut self, time: Time, mono: u64) {
        self.started = time;
        self.mono_at_start = mono;
    }

    /// Sets the wall clock off by so much.
    pub(super) fn set_wall_offset(&mut self, millis: i64, kind: Option<FaultKind>) {
        if self.wall_offset_ms != millis {
            self.turned = kind;
        }
        self.wall_offset_ms = millis;
    }

    /// A process reads the clocks: how the wall clock was set since the last time.
    pub(super) fn take_turned(&mut self) -> Option<FaultKind> {
        self.turned.take()
    }

    /// How far the wall clock is off, in milliseconds.
    pub(super) fn wall_offset_ms(&self) -> i64 {
        self.wall_offset_ms
    }

    /// What both clocks read at `time`.
    pub(super) fn now(&self, time: Time) -> Now {
        let elapsed = u128::from(time.saturating_sub(self.started)) * u128::from(self.rate);
        #[expect(clippy::cast_possible_truncation, reason = "a run lasts minutes, not ages")]
        let mono = self.mono_at_start + (elapsed / u128::from(MILLION)) as u64;
        Now { mono: Mono(mono), wall: self.wall(time) }
    }

    /// What the wall clock reads at `time`.
    pub(super) fn wall(&self, time: Time) -> Wall {
        Wall((WALL_AT_START + time * self.pace / 1000).saturating_add_signed(self.wall_offset_ms))
    }

    /// The first time of the world at which the monotonic clock reads at least `mono`.
    pub(super) fn time_of(&self, mono: Mono) -> Time {
        let ahead = u128::from(mono.0.saturating_sub(self.mono_at_start)) * u128::from(MILLION);
        let elapsed = ahead.div_ceil(u128::from(self.rate));
        self.started.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_due_when_its_time_has_come_whatever_the_drift() {
        for (drift, pace) in [(-10_000, 1), (-1, 20), (0, 1), (3, 20), (10_000, 1)] {
            let mut clock = NodeClock::new(drift, pace);
            clock.start(5_000_001, 77);
            for mono in [0, 77, 78, 1_000, 123_456_789] {
                let due = clock.time_of(Mono(mono));
                assert!(clock.now(due).mono >= Mono(mono));
                assert!(due == 5_000_001 || clock.now(due - 1).mono < Mono(mono));
            }
        }
    }

    #[test]
    fn the_monotonic_clock_ignores_what_is_done_to_the_wall_clock() {
        let mut clock = NodeClock::new(0, 1);
        let before = clock.now(1_000_000);
        clock.set_wall_offset(-288_000, None);
        let after = clock.now(1_000_000);
        assert_eq!(before.mono, after.mono);
        assert_eq!(before.wall.0 - after.wall.0, 288_000);
    }
}
