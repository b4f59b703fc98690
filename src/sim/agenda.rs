//! What is going to happen, in order: by time, and by who came first where the time is one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::clock::Time;

/// A queue of events. The heap holds their places only: an event is large, and is moved twice.
#[derive(Debug)]
pub(super) struct Agenda<E> {
    queue: BinaryHeap<Reverse<(Time, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    sequence: u64,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { queue: BinaryHeap::new(), events: vec![], free: vec![], sequence: 0 }
    }
}

impl<E> Agenda<E> {
    pub(super) fn add(&mut self, at: Time, event: E) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, place)));
    }

    /// The first event and its time, if that is not after `until`.
    pub(super) fn next(&mut self, until: Time) -> Option<(Time, E)> {
        let Reverse((at, ..)) = *self.queue.peek()?;
        if at > until {
            return None;
        }
        let Reverse((at, _, place)) = self.queue.pop()?;
        self.free.push(place);
        Some((at, self.events[place].take()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_in_the_order_in_which_they_were_added() {
        let mut agenda = Agenda::default();
        for (at, event) in [(5, "d"), (3, "b"), (5, "e"), (1, "a")] {
            agenda.add(at, event);
        }
        assert_eq!(agenda.next(0), None);
        assert_eq!(agenda.next(1), Some((1, "a")));
        agenda.add(4, "c");
        let rest: Vec<_> = std::iter::from_fn(|| agenda.next(5)).collect();
        assert_eq!(rest, [(3, "b"), (4, "c"), (5, "d"), (5, "e")]);
    }
}
