//! The sweep: finds dead records, a page at a time, in the partitions whose rounds this node drives.
//!
//! A partition is looked through only if a record was left in it that is or may become dead: what was
//! found with neither a tombstone nor an expiry is not read again until such a record is written.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::super::cells::{CellId, Task};
use super::super::replica::{page_as_stored, scan_effect};
use super::super::timers::Timer;
use super::super::{Reading, Worker};
use super::drive::DRIVES_MAX;
use crate::protocol::defect::Defect;
use crate::protocol::rounds::{CUT_BYTES_MAX, CUT_ENTRIES_MAX, Cut, is_dead, may_die};
use crate::protocol::step::{Effect, Page, ReadFailed};
use crate::types::{Key, Now, Partition, RecordHash};

/// Bytes of records that are read at a time.
const PAGE_BYTES: u32 = 256 << 10;
/// How long a pass waits, in milliseconds, before it asks again whether a round can be begun.
const WAIT_MS: u64 = 1_000;

/// Where the sweep is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Partitions that may hold a record which is or will be dead.
    suspects: BTreeSet<Partition>,
    /// Those that are still to be looked through in this pass.
    queue: VecDeque<Partition>,
    current: Option<Current>,
}

/// The partition that is being looked through.
#[derive(Debug)]
struct Current {
    partition: Partition,
    after: Bytes,
    dead: Vec<(Key, RecordHash)>,
    bytes: usize,
    /// Whether a page of it is being read.
    reading: bool,
}

impl Sweep {
    pub fn suspect(&mut self, partition: Partition) {
        self.suspects.insert(partition);
    }
}

/// What a pass does next.
enum Turn {
    /// It looks through a partition.
    Look,
    /// No round can be begun now.
    Wait,
    /// All has been looked through.
    Over,
}

impl Current {
    fn is_full(&self) -> bool {
        self.dead.len() >= CUT_ENTRIES_MAX || self.bytes >= CUT_BYTES_MAX
    }
}

impl Worker {
    /// The worker begins to serve: goes on with what was open, and looks through everything once.
    pub(in crate::protocol::worker) fn start_collecting(
        &mut self,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        self.resume_moving(now, out);
        self.resume_rounds(now, out);
        let partitions = self.view.as_ref().map_or(0, |view| view.partitions());
        let mine = (0..partitions).map(Partition);
        let mine = mine.filter(|p| p.worker(self.config.workers) == self.config.index);
        self.collect.sweep.suspects.extend(mine);
        self.sweep_next_pass(now);
    }

    fn sweep_next_pass(&mut self, now: Now) {
        if self.config.tuning.collect_interval > 0 {
            self.arm(now.mono.after_micros(self.config.tuning.collect_interval), Timer::Collect);
        }
    }

    /// Goes on after a rest; a pass that has come to its end, after the interval: what is not dead
    /// yet is suspected again by the very pass that read it.
    fn sweep_after_rest(&mut self, now: Now) {
        if self.collect.sweep.current.is_none() && self.collect.sweep.queue.is_empty() {
            return self.sweep_next_pass(now);
        }
        self.arm(now.mono.after_micros(self.config.tuning.collect_rest), Timer::Collect);
    }

    /// The time for the next page, or for the next pass, has come.
    pub(in crate::protocol::worker) fn sweep_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.collect.sweep.current.is_none() {
            if self.collect.sweep.queue.is_empty() {
                let all = self.collect.sweep.suspects.iter().copied();
                let mine = all.filter(|&partition| self.is_driver(partition)).collect();
                self.collect.sweep.queue = mine;
            }
            match self.sweep_next() {
                Turn::Look => {}
                Turn::Wait => return self.arm(now.mono.after_millis(WAIT_MS), Timer::Collect),
                Turn::Over => return self.sweep_next_pass(now),
            }
        }
        self.sweep_read(out);
    }

    /// Takes the next partition.
    fn sweep_next(&mut self) -> Turn {
        let early = self.has(Defect::CollectEarly);
        if !early && (self.collect.drives.len() >= DRIVES_MAX || !self.can_ask_all()) {
            return Turn::Wait;
        }
        let changing = self.view.as_ref().is_some_and(|view| view.is_changing());
        while let Some(partition) = self.collect.sweep.queue.pop_front() {
            let spent = self.collect.spent.contains(&partition);
            let waits = (changing || self.is_any_rebuilding(partition)) && !spent;
            if waits
                || self.is_untold(partition)
                || self.is_driving(partition)
                || !self.is_driver(partition)
            {
                continue;
            }
            // What becomes mortal from now on makes it a suspect again.
            self.collect.sweep.suspects.remove(&partition);
            let (after, dead) = (Bytes::new(), vec![]);
            let current = Current { partition, after, dead, bytes: 0, reading: false };
            self.collect.sweep.current = Some(current);
            return Turn::Look;
        }
        Turn::Over
    }

    fn sweep_read(&mut self, out: &mut Vec<Effect>) {
        let token = self.next_token();
        let Some(current) = &mut self.collect.sweep.current else { return };
        if current.reading {
            return;
        }
        current.reading = true;
        let effect = scan_effect(token, current.partition, &current.after, PAGE_BYTES);
        self.reads.insert(token, Reading::Sweep);
        out.push(effect);
    }

    /// A page has been read.
    pub(in crate::protocol::worker) fn swept(
        &mut self,
        now: Now,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Some(mut current) = self.collect.sweep.current.take() else { return };
        current.reading = false;
        let Some((entries, done)) = result.ok().and_then(page_as_stored) else {
            self.collect.sweep.suspect(current.partition);
            return self.sweep_after_rest(now);
        };
        if let Some((key, _)) = entries.last() {
            current.after = key.bytes().clone();
        }
        for (key, sealed) in entries {
            // Damage is found and mended by whoever reads the key.
            let Ok(record) = sealed.open(current.partition, &key) else { continue };
            if may_die(&record) {
                self.collect.sweep.suspect(current.partition);
            }
            if is_dead(&record, now.wall, self.config.tuning.skew_ms_max) && !current.is_full() {
                current.bytes += key.bytes().len();
                current.dead.push((key, sealed.hash()));
            }
        }
        if !done && !current.is_full() {
            self.collect.sweep.current = Some(current);
        } else {
            self.sweep_found(now, current, out);
        }
        self.sweep_after_rest(now);
    }

    fn sweep_found(&mut self, now: Now, current: Current, out: &mut Vec<Effect>) {
        let Current { partition, dead, .. } = current;
        if self.has(Defect::CollectEarly) {
            for (key, hash) in dead {
                self.with_view(now, CellId::own(partition, &key), Task::Cut(hash), out);
            }
            return;
        }
        let spent = self.collect.spent.contains(&partition);
        let changing = self.view.as_ref().is_some_and(|view| view.is_changing());
        let dead = if changing { vec![] } else { dead };
        let cut = Cut::new(dead).filter(|cut| !cut.is_empty() || spent);
        if let Some(cut) = cut.filter(|_| !self.is_driving(partition)) {
            self.start_round(now, partition, cut, out);
        }
    }
}
