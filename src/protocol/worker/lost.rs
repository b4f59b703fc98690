//! Partitions whose copy on this disk is not whole: emptied, restored from an old snapshot, or with
//! keys that cannot be read.
//!
//! Such a partition is marked durably (see [`crate::protocol::lost`]). This node takes writes of it, but
//! no answer of it counts toward R, until everything that each of the partition's other homes holds has
//! been merged here and is durable. The homes are read page by page, one after the other.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::cells::{CellId, Task, Waiter};
use super::replica::scan_page_bytes;
use super::timers::Timer;
use super::{Purpose, Reading, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::lost::{LOST_PREFIX, from_lost_marker, lost_marker};
use crate::protocol::message::{DataMessage, ScanAnswer, ScanRequest};
use crate::protocol::record::{Record, Sealed};
use crate::protocol::step::{Effect, Page, ReadFailed, Space};
use crate::types::{Key, NodeId, Now, Partition};

/// Partitions that are read at a time: each is one page in memory.
const AT_A_TIME: usize = 4;
/// How long to wait before a home that did not answer is asked again, in milliseconds.
const RETRY_MS: u64 = 1_000;
/// Bytes of markers that are read at the start: a ring has 65,535 partitions at most.
const MARKER_BYTES_MAX: usize = 4 << 20;

/// All lost partitions of a worker, and how far their rebuilding has come.
#[derive(Debug, Default)]
pub(super) struct Lost {
    partitions: BTreeMap<Partition, Refill>,
}

/// The rebuilding of one partition.
#[derive(Debug, Default)]
struct Refill {
    /// Whether its homes are being read.
    begun: bool,
    /// Whether more was found missing meanwhile: all is read again.
    again: bool,
    /// Homes that have not been read to their end; the last one is being read. None: the disk of one
    /// of them is not known yet.
    homes: Option<Vec<NodeId>>,
    /// Keys behind this one come next.
    after: Bytes,
    /// Records of the last page that are not durable yet.
    merging: usize,
    /// Whether one of them was refused: the page is read again.
    refused: bool,
    /// Where the next page begins; none: the home has been read.
    next: Option<Bytes>,
}

impl Worker {
    /// Whether this node's copy of a partition is not whole.
    pub(super) fn is_lost(&self, partition: Partition) -> bool {
        self.lost.partitions.contains_key(&partition)
    }

    /// How many partitions are not whole.
    pub(super) fn partitions_lost(&self) -> u64 {
        self.lost.partitions.len() as u64
    }

    /// At the start, before anything is served: learns which partitions are not whole.
    pub(super) fn start_reading_lost(&mut self, out: &mut Vec<Effect>) {
        let token = self.next_token();
        self.reads.insert(token, Reading::Lost);
        out.push(Effect::Scan {
            token,
            space: Space::Meta,
            prefix: Bytes::from_static(LOST_PREFIX),
            after: Bytes::new(),
            bytes_max: MARKER_BYTES_MAX,
        });
    }

    pub(super) fn lost_read(
        &mut self,
        now: Now,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Ok(page) = result else {
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::Arrive);
        };
        let lost: Vec<_> =
            page.entries.iter().filter_map(|(key, _)| from_lost_marker(key)).collect();
        if self.has(Defect::CountRebuilding) {
            lost.iter().for_each(|partition| self.commit_meta(lost_marker(*partition), None, out));
        } else {
            self.note_lost(lost);
        }
        self.arrive(now, out);
    }

    /// Partitions were found not to be whole; their markers are durable.
    pub(super) fn partitions_are_lost(
        &mut self,
        now: Now,
        lost: Vec<Partition>,
        out: &mut Vec<Effect>,
    ) {
        for partition in &lost {
            self.end_tenure(*partition, "the partition is not whole", out);
        }
        self.note_lost(lost);
        self.refill_more(now, out);
    }

    fn note_lost(&mut self, lost: Vec<Partition>) {
        for partition in lost {
            if partition.worker(self.config.workers) == self.config.index {
                let refill = self.lost.partitions.entry(partition).or_default();
                refill.again = refill.begun;
            }
        }
    }

    /// Begins with as many partitions as are read at a time.
    pub(super) fn refill_more(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.view.is_none() {
            return;
        }
        loop {
            let begun = self.lost.partitions.values().filter(|refill| refill.begun).count();
            let next = self.lost.partitions.iter().find(|(_, refill)| !refill.begun);
            let Some(partition) = next.map(|(p, _)| *p).filter(|_| begun < AT_A_TIME) else {
                return;
            };
            self.refill(now, partition, out);
        }
    }

    /// Reads a partition from its other homes, from the start.
    fn refill(&mut self, now: Now, partition: Partition, out: &mut Vec<Effect>) {
        let route = self.route(partition);
        let Some(refill) = self.lost.partitions.get_mut(&partition) else { return };
        *refill = Refill { begun: true, ..Refill::default() };
        refill.homes = match route.filter(|route| route.own.is_some()) {
            Some(route) => {
                let homes = route.slots.iter().map(|slot| slot.1);
                homes.filter(|&id| id != Some(route.view.me)).collect()
            }
            // Of a partition that has no home here, nothing can be missing.
            None => Some(Vec::new()),
        };
        if refill.homes.is_none() {
            return self.refill_later(now, partition);
        }
        self.refill_page(now, partition, out);
    }

    fn refill_later(&mut self, now: Now, partition: Partition) {
        self.arm(now.mono.after_millis(RETRY_MS), Timer::Refill(partition));
    }

    /// Asks the next home for its next page; all have been read: the partition is whole.
    pub(super) fn refill_page(&mut self, now: Now, partition: Partition, out: &mut Vec<Effect>) {
        let Some(refill) = self.lost.partitions.get(&partition) else { return };
        let Some(homes) = &refill.homes else { return self.refill(now, partition, out) };
        let Some(&home) = homes.last() else {
            if refill.again {
                return self.refill(now, partition, out);
            }
            self.lost.partitions.remove(&partition);
            self.commit_meta(lost_marker(partition), None, out);
            return self.refill_more(now, out);
        };
        let present = self.view.as_ref().is_some_and(|view| view.name_of(home).is_some());
        if !present {
            // Its disk was replaced: whoever is home now is asked, from the start.
            return self.refill(now, partition, out);
        }
        let (after, bytes_max) = (refill.after.clone(), scan_page_bytes());
        let message = |call| DataMessage::Scan(ScanRequest { call, after, bytes_max });
        self.call(now, home, Purpose::Refill { partition }, partition, None, message, out);
    }

    /// A home did not answer, or cannot say.
    pub(super) fn refill_failed(&mut self, now: Now, partition: Partition) {
        if self.lost.partitions.contains_key(&partition) {
            self.refill_later(now, partition);
        }
    }

    pub(super) fn refill_answered(
        &mut self,
        now: Now,
        partition: Partition,
        answer: ScanAnswer,
        out: &mut Vec<Effect>,
    ) {
        let records = match answer {
            ScanAnswer::Page { entries, done } => opened(partition, &entries).map(|r| (r, done)),
            ScanAnswer::NotMine => None,
        };
        let Some((records, done)) = records else { return self.refill_failed(now, partition) };
        let Some(refill) = self.lost.partitions.get_mut(&partition) else { return };
        let last = records.last().map(|(key, _)| key.bytes().clone());
        (refill.merging, refill.refused) = (records.len(), false);
        refill.next = last.filter(|_| !done);
        if records.is_empty() {
            return self.refill_page_over(now, partition, out);
        }
        for (key, record) in records {
            let task = Task::Merge(record.into(), Waiter::Refilled);
            self.with_view(now, CellId::own(partition, &key), task, out);
        }
    }

    /// A record of the page is durable, or was refused.
    pub(super) fn refilled(
        &mut self,
        now: Now,
        partition: Partition,
        durable: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(refill) = self.lost.partitions.get_mut(&partition) else { return };
        refill.refused |= !durable;
        refill.merging = refill.merging.saturating_sub(1);
        if refill.merging == 0 {
            self.refill_page_over(now, partition, out);
        }
    }

    fn refill_page_over(&mut self, now: Now, partition: Partition, out: &mut Vec<Effect>) {
        let Some(refill) = self.lost.partitions.get_mut(&partition) else { return };
        if refill.refused {
            return self.refill_later(now, partition);
        }
        if let Some(next) = refill.next.take() {
            refill.after = next;
        } else {
            refill.homes.as_mut().map(Vec::pop);
            refill.after = Bytes::new();
        }
        self.refill_page(now, partition, out);
    }
}

/// The records of a page; none if it is none, or if one of them is damaged.
fn opened(partition: Partition, entries: &[(Key, Sealed)]) -> Option<Vec<(Key, Record)>> {
    let sorted = entries.is_sorted_by(|a, b| a.0 < b.0);
    let open =
        |(key, sealed): &(Key, Sealed)| Some((key.clone(), sealed.open(partition, key).ok()?));
    entries.iter().map(open).collect::<Option<_>>().filter(|_| sorted)
}
