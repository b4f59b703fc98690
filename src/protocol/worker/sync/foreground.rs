//! What requests take while pages are exchanged, against what they take otherwise: exchanges give way.
//!
//! ```text
//!   no page moves    the usual mean and the usual p99 are learnt, and the rate is what is set
//!   pages move       a window's mean > 2 × usual, or > 2 % above twice the usual p99:    slower by half
//!                    mean > 1.5 × usual, or > 1 % above it:                              as it is
//!                    else:                                                               faster by an eighth
//! ```
//!
//! The rate that an operator has set is the most; it falls to a sixteenth of it at the least, so that what is
//! to be moved arrives. What that does not cure it has not caused: the usual time then drifts towards the
//! present one. Where nobody asks for anything, nobody is disturbed. Without a usual time (the
//! node has started in the midst of an exchange) a quarter of the rate is used.
//!
//! Only requests that this node coordinates are seen, those that fail among them. The mean shows that a processor or a
//! disk is shared with the exchange; the tail, that it is now and then taken as a whole: by a page that is merged, or by
//! what the store has to write again for what came.
//!
//! The p99 is learnt without keeping samples (Robbins and Monro's approximation, 1951): each request above the
//! estimate raises it by 99 parts, each below lowers it by one.

use crate::types::{Mono, Now};

/// How long requests are gathered for a mean, in microseconds: several pages, and quick to yield.
const WINDOW: u64 = 250_000;
/// What moved so long ago disturbs nobody any more: at the least pace of many workers, pages are far between.
const QUIET: u64 = 5_000_000;
/// So few requests have no mean: they count in the next window, too.
const COUNT_MIN: u64 = 8;
/// Nobody minds twice as much of less than this, in microseconds.
const USUAL_MIN: u64 = 1_000;
/// Nobody minds twice as much of a p99 below this, in microseconds.
const USUAL_P99_MIN: u64 = 4_000;
/// What one request lowers the estimate of the p99 by, as a part of it: a burst of a hundred slow ones doubles it,
/// and ten thousand others halve it again.
const P99_STEP: u64 = 16_384;
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

#[derive(Debug)]
struct Meter {
    micros: u64,
    count: u64,
    /// Of these, those that took more than twice `usual_p99`.
    slow: u64,
    /// A moving mean of the means of windows in which nothing moved.
    usual: Option<u64>,
    /// An estimate, from requests while nothing moved.
    usual_p99: u64,
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
        let moves = self.moves(now);
        self.meters[kind as usize].answered(moves, micros);
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

    fn moves(&self, now: Now) -> bool {
        self.last_page.is_some_and(|at| now.mono.micros_since(at) < QUIET)
    }

    fn close_window(&mut self, now: Now) {
        if now.mono.0 < self.window_end {
            return;
        }
        self.window_end = now.mono.0 + WINDOW;
        let moves = self.moves(now);
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

impl Default for Meter {
    fn default() -> Self {
        Self { micros: 0, count: 0, slow: 0, usual: None, usual_p99: USUAL_P99_MIN }
    }
}

impl Meter {
    fn answered(&mut self, moves: bool, micros: u64) {
        self.micros += micros;
        self.count += 1;
        self.slow += u64::from(micros > 2 * self.usual_p99);
        if !moves {
            self.learn(micros);
        }
    }

    /// A request's part in the usual p99.
    fn learn(&mut self, micros: u64) {
        let step = self.usual_p99.div_ceil(P99_STEP);
        let p99 = self.usual_p99;
        self.usual_p99 = if micros > p99 { p99 + 99 * step } else { p99 - step }.max(USUAL_P99_MIN);
    }

    fn close(&mut self, moves: bool, at_the_least: bool) -> Verdict {
        match self.count {
            0 => return Verdict::Unladen,
            1..COUNT_MIN => return Verdict::Bearable,
            _ => {}
        }
        let (micros, count, slow) = (
            std::mem::take(&mut self.micros),
            std::mem::take(&mut self.count),
            std::mem::take(&mut self.slow),
        );
        let mean = (micros / count).max(USUAL_MIN);
        if !moves {
            self.usual = Some(self.usual.map_or(mean, |usual| (7 * usual + mean) / 8));
            return Verdict::Usual;
        }
        self.by_the_mean(mean, at_the_least).max(self.by_the_tail(count, slow, at_the_least))
    }

    /// One slow request alone says nothing.
    fn by_the_tail(&mut self, count: u64, slow: u64, at_the_least: bool) -> Verdict {
        match slow {
            _ if self.usual.is_none() => Verdict::Unknown,
            0..=1 => Verdict::Usual,
            _ if slow * 50 > count => {
                if at_the_least {
                    self.usual_p99 += self.usual_p99.div_ceil(DRIFT);
                }
                Verdict::Disturbed
            }
            _ if slow * 100 > count => Verdict::Bearable,
            _ => Verdict::Usual,
        }
    }

    fn by_the_mean(&mut self, mean: u64, at_the_least: bool) -> Verdict {
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

    #[test]
    fn a_tail_that_grows_is_given_way_to_though_the_mean_stays() {
        let mut world = world();
        let mixed = |world: &mut World, windows, slow: u64, pages: u64| {
            for _ in 0..windows {
                world.at += WINDOW;
                let now = Now { mono: Mono(world.at), wall: Wall(0) };
                (0..pages).for_each(|_| world.foreground.page_moved(now));
                for n in 0..500 {
                    let micros = if n < slow { 12_000 } else { 1_000 };
                    world.foreground.answered(now, Kind::Read, micros);
                }
            }
            let now = Now { mono: Mono(world.at + WINDOW), wall: Wall(0) };
            world.foreground.slowing(now)
        };
        assert_eq!(mixed(&mut world, 20, 1, 0), NO_SLOWING);
        assert_eq!(mixed(&mut world, 20, 5, 10), NO_SLOWING, "1 %");
        assert_eq!(mixed(&mut world, 1, 11, 10), NO_SLOWING * 3 / 2, "more than 2 %");
        assert_eq!(mixed(&mut world, 5, 8, 10), NO_SLOWING * 3 / 2, "between them");
        assert_eq!(mixed(&mut world, 20, 0, 10), NO_SLOWING);
        // Where so many are slow without an exchange, it is not what slows them.
        mixed(&mut world, QUIET / WINDOW + 400, 15, 0);
        let p99 = world.foreground.meters[Kind::Read as usize].usual_p99;
        assert!((6_000..14_000).contains(&p99), "{p99}");
        assert_eq!(mixed(&mut world, 20, 15, 10), NO_SLOWING);
    }

    #[test]
    fn the_usual_p99_is_that_of_the_requests() {
        let mut meter = Meter::default();
        // Even from 0 to 100 ms: the p99 is 99 ms.
        (0..2_000_000_u64).for_each(|n| meter.learn(n * 7_919 % 100_000));
        assert!((90_000..=110_000).contains(&meter.usual_p99), "{}", meter.usual_p99);
    }
}
