//! The pace of exchanges: what is read, fetched and sent is counted against a rate.
//!
//! A page takes a *turn* before it begins, as if it were full; what it turns out not to need is given
//! back. So pages begin one after the other, evenly, however many sessions wait for the rate: if those
//! that wait began together, requests would wait behind all their pages. What is only to make copies equal,
//! or to bring them to new homes, also gives way to requests: see [`super::foreground`]. A rebuilding does
//! not: until it is over there is a copy less.

use super::Goal;
use super::foreground::{Foreground, NO_SLOWING};
use super::serve::PAGE_BYTES;
use crate::protocol::step::Tuning;
use crate::types::{Mono, Now};

/// What a record counts as at least: below it, what is done for a record costs more than its bytes.
const RECORD_BYTES_MIN: u64 = 1 << 10;

/// When the next page may begin.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// For exchanges, and for rebuildings: neither waits for the other's rate.
    free_at: [Mono; 2],
    pub(super) foreground: Foreground,
}

/// What a page has been given of the rate, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn(u64);

/// What some records count as.
pub(in crate::protocol::worker) fn weight(bytes: usize, records: usize) -> u64 {
    (bytes as u64).max(RECORD_BYTES_MIN.saturating_mul(records as u64))
}

fn clock(goal: Goal) -> usize {
    usize::from(matches!(goal, Goal::Rebuild(_)))
}

impl Pace {
    fn micros(&mut self, now: Now, tuning: &Tuning, goal: Goal, bytes: u64) -> u64 {
        match goal {
            Goal::Compare(_) | Goal::Transfer(_) => self.exchange_micros(now, tuning, bytes),
            Goal::Rebuild(_) => {
                bytes.saturating_mul(1_000_000) / tuning.rebuild_bytes_per_second.max(1)
            }
        }
    }

    fn exchange_micros(&mut self, now: Now, tuning: &Tuning, bytes: u64) -> u64 {
        let slowing = self.foreground.slowing(now);
        bytes.saturating_mul(1_000_000 / NO_SLOWING * slowing) / tuning.sync_bytes_per_second.max(1)
    }

    /// Gives a page its turn, and says when that comes.
    pub(super) fn turn(&mut self, now: Now, tuning: &Tuning, goal: Goal) -> (Mono, Turn) {
        let at = self.free_at[clock(goal)].max(now.mono);
        let turn = self.micros(now, tuning, goal, PAGE_BYTES.into());
        self.free_at[clock(goal)] = at.after_micros(turn);
        (at, Turn(turn))
    }

    /// A page that had a turn, or none if that is over, has come to this [`weight`].
    pub(super) fn settle(
        &mut self,
        now: Now,
        tuning: &Tuning,
        goal: Goal,
        turn: Turn,
        weight: u64,
    ) {
        if weight > 0 {
            self.foreground.page_moved(now);
        }
        let needed = self.micros(now, tuning, goal, weight);
        self.give_back(goal, turn);
        let from = self.free_at[clock(goal)];
        self.free_at[clock(goal)] =
            if needed > turn.0 { from.max(now.mono) } else { from }.after_micros(needed);
    }

    /// Something of this [`weight`] was dropped: how long to wait before the next, in microseconds. What is only
    /// dropped waits for no turn.
    pub(super) fn pause_after(&mut self, now: Now, tuning: &Tuning, weight: u64) -> u64 {
        if weight > 0 {
            self.foreground.page_moved(now);
        }
        self.exchange_micros(now, tuning, weight)
    }

    /// A page ends without having moved.
    pub(super) fn give_back(&mut self, goal: Goal, turn: Turn) {
        let free_at = &mut self.free_at[clock(goal)];
        *free_at = Mono(free_at.0.saturating_sub(turn.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Partition, Wall};

    const GOAL: Goal = Goal::Transfer(Partition(1));
    const PAGE: u64 = PAGE_BYTES as u64;

    fn at(micros: u64) -> Now {
        Now { mono: Mono(micros), wall: Wall(0) }
    }

    #[test]
    fn pages_begin_evenly_however_many_wait_and_what_they_do_not_need_is_given_back() {
        // A page a millisecond.
        let tuning = Tuning { sync_bytes_per_second: PAGE * 1_000, ..Tuning::default() };
        let mut pace = Pace::default();
        let now = at(5_000);
        let turns: Vec<_> = (0..4).map(|_| pace.turn(now, &tuning, GOAL)).collect();
        let begin: Vec<u64> = turns.iter().map(|(at, _)| at.0).collect();
        assert_eq!(begin, [5_000, 6_000, 7_000, 8_000]);
        pace.settle(now, &tuning, GOAL, turns[0].1, 0);
        pace.settle(now, &tuning, GOAL, turns[1].1, PAGE / 2);
        pace.settle(now, &tuning, GOAL, turns[2].1, PAGE);
        assert_eq!(pace.turn(now, &tuning, GOAL).0, Mono(7_500));
        // One page of a large record; then time that nobody used is nobody's.
        pace.settle(now, &tuning, GOAL, turns[3].1, 10 * PAGE);
        assert_eq!(pace.turn(now, &tuning, GOAL).0, Mono(17_500));
        assert_eq!(pace.turn(at(90_000), &tuning, GOAL).0, Mono(90_000));
    }

    #[test]
    fn a_small_record_counts_as_more_than_its_bytes() {
        assert_eq!(weight(200, 1), 1 << 10);
        assert_eq!(weight(5_000, 2), 5_000);
        assert_eq!(weight(0, 0), 0);
    }
}
