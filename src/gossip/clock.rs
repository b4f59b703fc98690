//! The clocks of a process: the only place where the core's time is read.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::{Mono, Now, Wall};

/// Monotonic time counts from here at the start of a process, so that no instant of the core
/// is zero and "an hour ago" is not cut off.
const BEGIN_MICROS: u64 = 3_600_000_000;

/// Reads both clocks. Every core of a node must be given the same one: monotonic instants pass
/// between them. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Wall(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        Now { mono: self.mono(), wall }
    }

    /// The monotonic clock.
    #[must_use]
    pub fn mono(&self) -> Mono {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Mono(micros.saturating_add(BEGIN_MICROS))
    }

    /// When `mono` is, for a timer of the runtime.
    #[must_use]
    pub fn instant(&self, mono: Mono) -> tokio::time::Instant {
        // Further ahead than any process lives.
        let ahead = mono.0.saturating_sub(BEGIN_MICROS).min(u64::MAX >> 16);
        tokio::time::Instant::from_std(self.start + Duration::from_micros(ahead))
    }

    /// How long the process has run, in milliseconds.
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_of_the_core_is_the_same_instant_for_the_runtime() {
        let clock = SystemClock::start();
        let later = clock.mono().after_millis(50);
        let wait = clock.instant(later) - tokio::time::Instant::now();
        assert!(wait <= Duration::from_millis(50) && wait > Duration::from_millis(20), "{wait:?}");
        let _ = clock.instant(Mono(u64::MAX));
        let _ = clock.instant(Mono(0));
    }
}
