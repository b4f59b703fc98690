//! A client that scans partitions, page by page, while others write.
//!
//! Each page is judged when it leaves its node (**S**):
//!
//! - its keys are of the partition, in order, and behind those of the page before;
//! - it shows no value that nobody has tried to write;
//! - it knows every write that ended before the page was asked for, was acknowledged, and of
//!   which so many homes have testified that any R homes have one of them among them. Hints are
//!   left out of that sum: only homes answer a scan. What a home held durably it holds for ever
//!   (D1), or knows that it has lost it and does not answer.

use bytes::Bytes;
use rand::RngExt;

use super::clock::Time;
use super::describe;
use super::history::OpRecord;
use super::observer::Check;
use super::world::{Event, World};
use crate::protocol::op::{Action, Failure, Put};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::{Record, Sibling};
use crate::protocol::step::{Input, MergedPage, Ticket};
use crate::types::{Key, Partition};

/// How far the client is from a node, in microseconds.
const WAY: Time = 150;
/// A page may take this long.
const TIMEOUT: Time = 1_000_000;
/// Bytes of a page, so that partitions have one or several.
const PAGE_BYTES: [u32; 3] = [1, 300, 1 << 20];

/// One page that was asked for.
#[derive(Debug)]
pub(super) struct ScanRecord {
    pub(super) node: usize,
    partition: Partition,
    after: Bytes,
    bytes_max: u32,
    consistency: Consistency,
    invoked: Time,
    answered: bool,
}

impl World {
    /// The client asks some node for the first page of a partition.
    pub(super) fn scan_some(&mut self, partition: Partition) {
        let consistency = match self.rng.random_range(0..4) {
            0 => Consistency::One,
            1 => Consistency::All,
            _ => Consistency::Quorum,
        };
        let bytes_max = PAGE_BYTES[self.rng.random_range(0..PAGE_BYTES.len())];
        self.ask_page(partition, Bytes::new(), bytes_max, consistency);
    }

    fn ask_page(
        &mut self,
        partition: Partition,
        after: Bytes,
        bytes_max: u32,
        consistency: Consistency,
    ) {
        let node = self.rng.random_range(0..self.config.nodes);
        let (invoked, answered) = (self.time, false);
        let page = ScanRecord { node, partition, after, bytes_max, consistency, invoked, answered };
        self.history.scans.push(page);
        self.schedule(WAY, Event::Page { scan: self.history.scans.len() - 1 });
    }

    pub(super) fn page_is_asked_for(&mut self, scan: usize) {
        let ScanRecord { node, partition, bytes_max, consistency, .. } = self.history.scans[scan];
        if self.nodes[node].process.is_none() {
            // Connection refused: this walk ends here.
            return;
        }
        let after = self.history.scans[scan].after.clone();
        self.trace.event(self.time, node, b'p', &partition.0.to_le_bytes());
        let line = || format!("← scanner: {partition} behind {after:?}, {consistency:?}");
        self.trace.say(self.time, Some(node), line);
        let deadline = self.nodes[node].clock.now(self.time).mono.after_micros(TIMEOUT);
        let ticket = Ticket(scan as u64);
        let worker = partition.worker(self.config.workers);
        let page = Input::ScanPage { ticket, partition, after, bytes_max, consistency, deadline };
        self.feed(node, worker, page);
        self.settle(node);
    }

    /// A worker has answered: the page is judged, and the walk goes on behind it.
    pub(super) fn page_leaves(
        &mut self,
        node: usize,
        ticket: Ticket,
        page: Result<MergedPage, Failure>,
    ) {
        let scan = usize::try_from(ticket.0).ok();
        let asked = scan.and_then(|scan| self.history.scans.get_mut(scan));
        let Some(asked) = asked.filter(|asked| asked.node == node && !asked.answered) else {
            return self.observer.foreign_answer(self.time, node, ticket);
        };
        asked.answered = true;
        let line = || match &page {
            Ok(page) => format!("→ scanner: {} keys, next {:?}", page.entries.len(), page.next),
            Err(failure) => format!("→ scanner: {:?}", failure.reason),
        };
        self.trace.say(self.time, Some(node), line);
        let Ok(page) = page else { return };
        let scan = &self.history.scans[usize::try_from(ticket.0).unwrap_or_default()];
        for what in self.faults_of(scan, &page) {
            self.observer.violate(Check::S, self.time, what);
        }
        let ScanRecord { partition, bytes_max, consistency, .. } = *scan;
        if let Some(next) = page.next {
            self.ask_page(partition, next.bytes().clone(), bytes_max, consistency);
        }
    }

    fn faults_of(&self, scan: &ScanRecord, page: &MergedPage) -> Vec<String> {
        let mut found = Vec::new();
        let inside = |key: &Key| {
            *key.bytes() > scan.after && page.next.as_ref().is_none_or(|next| key <= next)
        };
        let in_order = page.entries.is_sorted_by(|a, b| a.0 < b.0);
        let in_place = |key: &Key| key.partition(self.config.partitions) == scan.partition;
        if !in_order || !page.entries.iter().all(|(key, _)| inside(key) && in_place(key)) {
            let keys: Vec<_> = page.entries.iter().map(|entry| describe::key(&entry.0)).collect();
            found
                .push(format!("a page of {} behind {:?} has {keys:?}", scan.partition, scan.after));
        }
        for (key, record) in &page.entries {
            found.extend(self.unwritten(key, record));
        }
        for op in self.history.ops.iter().filter(|op| inside(op.key()) && in_place(op.key())) {
            found.extend(self.missed(scan, page, op));
        }
        found
    }

    /// A value that a page shows and nobody has tried to write.
    fn unwritten(&self, key: &Key, record: &Record) -> Option<String> {
        let attempted = |value: &Bytes| {
            let is_it = |op: &OpRecord| match &op.op.action {
                Action::Put(Put { value: written, .. }) => written.as_ref() == Some(value),
                Action::Get => false,
            };
            self.history.ops.iter().any(|op| op.key() == key && is_it(op))
        };
        let mut values = record.siblings().iter().filter_map(Sibling::value);
        let value = values.find(|value| !attempted(value))?;
        Some(format!("a scan shows {} as {value:?}, which nobody wrote", describe::key(key)))
    }

    /// An acknowledged write that a page should know and does not.
    fn missed(&self, scan: &ScanRecord, page: &MergedPage, op: &OpRecord) -> Option<String> {
        let receipt = op.receipt()?;
        let replicas = usize::from(self.config.replicas);
        let acknowledged = self.observer.homes_among(&receipt.homes, op.key());
        let overlap = acknowledged + scan.consistency.of(replicas) > replicas;
        if !overlap || op.ended.is_none_or(|ended| ended >= scan.invoked) {
            return None;
        }
        let shown = page.entries.binary_search_by(|entry| entry.0.cmp(op.key())).ok();
        let record = shown.map(|at| &page.entries[at].1);
        let known = record.is_some_and(|record| record.seen().covers(receipt.dot));
        if known || self.observer.collected.covers(op.key(), receipt.dot) {
            return None;
        }
        Some(format!(
            "a scan at {:?}, begun at {}, shows {} as {} and does not know {}, acknowledged by {:?}",
            scan.consistency,
            super::trace::clock_face(scan.invoked).trim_start(),
            describe::key(op.key()),
            record.map_or("absent".into(), describe::record),
            describe::dot(receipt.dot),
            receipt.homes
        ))
    }
}
