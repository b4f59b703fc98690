//! What requests take while pages are exchanged, against what they take otherwise: exchanges give way.
//!
//! ```text
//!   no page moves    the usual time of a request is learnt, and the rate is what is set
//!   pages move       a window's mean > 2 × usual: slower by half     ≤ 1.5 ×: faster by an eighth
//! ```
//!
//! The rate that an operator has set is the most; it falls to a sixteenth of it at the least, so that what is
//! to be moved arrives. What that does not cure it has not caused: the usual time then drifts towards the
//! present one. Where nobody asks for anything, nobody is disturbed. Without a usual time (the
//! node has started in the midst of an exchange) a quarter of the rate is used.
//!
//! Only requests that this node coordinates are seen, those that fail among them. A mean stands for the tail: the two grow together where
//! what requests wait for, a processor or a disk, is shared with the exchange.

use crate::types::{Mono, Now};

/// How long requests are gathered for a mean, in microseconds: several pages, and quick to yield.
const WINDOW: u64 = 250_000;
/// What moved so long ago disturbs nobody any more: at the least pace of many workers, pages are far between.
const QUIET: u64 = 5_000_000;
/// So few requests have no mean: they count in the next window, too.
const COUNT_MIN: u64 = 8;
/// Nobody minds twice as much of less than this, in microseconds.
const USUAL_MIN: u64 = 1_000;
/// The part of the way by which the usual time drifts in a window: half of it in about a minute.
const DRIFT: u64 = 256;
/// No slowing, in sixteenths.
pub(super) const NO_SLOWING: u64 = 16;
/// The rate is never less than this part of what is set.
const SLOWING_MAX: u64 = 16 * NO_SLOWING;
/// While it is not known what requests usually take.
const SLOWING_UNKNOWN: u64 = 4 * NO_SLOWING;

/// Reads and writes are judged each by its own: their mix may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::worker) enum Kind {
    Read,
    Write,
}

/// The requests of a window, and how far exchanges are slowed for them.
#[derive(Debug)]
pub(super) struct Foreground {
    meters: [Meter; 2],
    window_end: u64,
    last_page: Option<Mono>,
    slowing: u64,
}

#[derive(Debug, Default)]
struct Meter {
    micros: u64,
    count: u64,
    /// A moving mean of the means of windows in which nothing moved.
    usual: Option<u64>,
}

/// How a window went, of one kind of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Unladen,
    Usual,
    Bearable,
    Unknown,
    Disturbed,
}

impl Default for Foreground {
    fn default() -> Self {
        Self { meters: Default::default(), window_end: 0, last_page: None, slowing: NO_SLOWING }
    }
}

impl Foreground {
    /// A request has been answered.
    pub(super) fn answered(&mut self, now: Now, kind: Kind, micros: u64) {
        self.close_window(now);
        let meter = &mut self.meters[kind as usize];
        meter.micros += micros;
        meter.count += 1;
    }

    /// A page has moved.
    pub(super) fn page_moved(&mut self, now: Now) {
        self.close_window(now);
        self.last_page = Some(now.mono);
    }

    /// How much longer a page's turn is than by the rate, in sixteenths: 16 to 256.
    pub(super) fn slowing(&mut self, now: Now) -> u64 {
        self.close_window(now);
        self.slowing
    }

    /// The same in percent, as of the last window.
    pub(super) fn slowing_percent(&self) -> u64 {
        self.slowing * 100 / NO_SLOWING
    }

    fn close_window(&mut self, now: Now) {
        if now.mono.0 < self.window_end {
            return;
        }
        self.window_end = now.mono.0 + WINDOW;
        let moves = self.last_page.is_some_and(|at| now.mono.micros_since(at) < QUIET);
        let least = self.slowing == SLOWING_MAX;
        let verdicts = self.meters.each_mut().map(|meter| meter.close(moves, least));
        if !moves {
            self.slowing = NO_SLOWING;
            return;
        }
        self.slowing = match verdicts[0].max(verdicts[1]) {
            Verdict::Unladen | Verdict::Usual => (self.slowing * 7 / 8).max(NO_SLOWING),
            Verdict::Bearable => self.slowing,
            Verdict::Unknown => SLOWING_UNKNOWN,
            Verdict::Disturbed => (self.slowing * 3 / 2).min(SLOWING_MAX),
        };
    }
}

impl Meter {
    fn close(&mut self, moves: bool, at_the_least: bool) -> Verdict {
        match self.count {
            0 => return Verdict::Unladen,
            1..COUNT_MIN => return Verdict::Bearable,
            _ => {}
        }
        let mean =
            (std::mem::take(&mut self.micros) / std::mem::take(&mut self.count)).max(USUAL_MIN);
        if !moves {
            self.usual = Some(self.usual.map_or(mean, |usual| (7 * usual + mean) / 8));
            return Verdict::Usual;
        }
        match self.usual {
            None => Verdict::Unknown,
            Some(usual) if mean > 2 * usual => {
                if at_the_least {
                    self.usual = Some(usual + (mean - usual).div_ceil(DRIFT));
                }
                Verdict::Disturbed
            }
            Some(usual) if mean > usual + usual / 2 => Verdict::Bearable,
            Some(_) => Verdict::Usual,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Wall;

    struct World {
        foreground: Foreground,
        at: u64,
    }

    impl World {
        fn windows(&mut self, count: u64, requests: u64, micros: u64, pages: u64) -> u64 {
            let now = |at| Now { mono: Mono(at), wall: Wall(0) };
            for _ in 0..count {
                self.at += WINDOW;
                (0..pages).for_each(|_| self.foreground.page_moved(now(self.at)));
                let answered = |_| self.foreground.answered(now(self.at), Kind::Write, micros);
                (0..requests).for_each(answered);
            }
            self.foreground.slowing(now(self.at + WINDOW))
        }
    }

    fn world() -> World {
        World { foreground: Foreground::default(), at: 0 }
    }

    #[test]
    fn exchanges_give_way_to_requests_that_take_longer_and_return_to_their_rate() {
        let mut world = world();
        assert_eq!(world.windows(20, 100, 1_000, 0), NO_SLOWING);
        assert_eq!(world.windows(20, 100, 1_400, 10), NO_SLOWING);
        assert_eq!(world.windows(1, 100, 2_500, 10), NO_SLOWING * 3 / 2);
        assert_eq!(world.windows(20, 100, 2_500, 10), SLOWING_MAX);
        assert_eq!(world.windows(5, 100, 1_800, 10), SLOWING_MAX);
        assert_eq!(world.windows(30, 100, 1_400, 10), NO_SLOWING);
    }

    #[test]
    fn where_nobody_asks_nobody_is_disturbed_and_what_is_usual_is_learnt_in_quiet_only() {
        let mut world = world();
        assert_eq!(world.windows(5, 0, 0, 10), NO_SLOWING);
        assert_eq!(world.windows(5, 100, 9_000, 10), SLOWING_UNKNOWN, "nothing is known");
        assert_eq!(world.windows(1, 1, 9_000, 10), SLOWING_UNKNOWN, "too few to tell yet");
        world.windows(QUIET / WINDOW + 1, 100, 1_000, 0);
        assert!(world.windows(5, 100, 9_000, 10) > 4 * NO_SLOWING);
        let usual = world.foreground.meters[1].usual.unwrap();
        assert!((1_000..1_100).contains(&usual), "{usual}");
        // A few slow ones in each window are told in the end.
        assert_eq!(world.windows(40, 0, 0, 10), NO_SLOWING);
        assert!(world.windows(40, 3, 9_000, 10) > NO_SLOWING);
    }

    #[test]
    fn what_the_least_pace_does_not_cure_becomes_usual_and_quiet_ends_all_slowing() {
        let mut world = world();
        world.windows(1, 100, 1_000, 0);
        assert_eq!(world.windows(8, 100, 9_000, 10), SLOWING_MAX);
        world.windows(500, 100, 9_000, 10);
        let usual = world.foreground.meters[1].usual.unwrap();
        assert!((4_400..=4_600).contains(&usual), "{usual}");
        world.windows(QUIET / WINDOW + 1, 100, 9_000, 0);
        assert_eq!(world.foreground.slowing_percent(), 100);
    }
}
