//! Giving up partitions that this node is no home of any more.
//!
//! Their records are dropped page by page, at the pace of comparisons, giving way to requests like these, once only one version is live
//! in which this node is a member and no home of them: what they held has been merged by all homes by
//! then. A node that is no member drops nothing: it is about to stop, or its disk is not the one that
//! the cluster knows.
//!
//! What is left to be given up is known by the mark that every first write of a partition leaves (see
//! `trees`), so that it is found again after a restart: the mark goes last. Until then this node
//! confirms no round of the partition. So what is left of an old copy is never behind a closed round,
//! and may be kept if the partition comes back.
//!
//! If it comes back while a page of it is being dropped, its new version is acknowledged after that: what
//! is brought here is compared with a copy that shrinks no more.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::cells::Waiter;
use super::replica::scan_effect;
use super::sync::{PAGE_BYTES, weight};
use super::timers::Timer;
use super::{Reading, Worker};
use crate::protocol::step::{Change, Effect, Page, ReadFailed, Space};
use crate::types::{Key, Now, Partition};

/// How long to wait before what is in use, or could not be read or dropped, is tried again, in
/// milliseconds.
const RETRY_MS: u64 = 1_000;

/// Partitions of which something is left here that this node is no home of.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    left: BTreeSet<Partition>,
    active: Option<Active>,
    is_armed: bool,
}

/// A page that is being read or dropped.
#[derive(Debug)]
struct Active {
    /// What the page counts as of the rate.
    weight: u64,
    /// Of the change (see [`super::change`]): when this was begun.
    epoch: u64,
}

impl Leaving {
    /// Whether something of a partition is still to be dropped.
    pub fn is_left(&self, partition: Partition) -> bool {
        !self.left.is_empty() && self.left.contains(&partition)
    }

    pub fn count(&self) -> usize {
        self.left.len()
    }

    /// When the page was begun that is being dropped, if any is.
    pub fn epoch(&self) -> Option<u64> {
        self.active.as_ref().map(|active| active.epoch)
    }
}

impl Worker {
    /// Something is stored of a partition that this node is no home of.
    pub(super) fn leave_partition(&mut self, now: Now, partition: Partition) {
        self.leaving.left.insert(partition);
        self.leave_later(now, RETRY_MS * 1_000);
    }

    fn leave_later(&mut self, now: Now, micros: u64) {
        if !self.leaving.is_armed && !self.leaving.left.is_empty() {
            self.leaving.is_armed = true;
            self.arm(now.mono.after_micros(micros), Timer::Leave);
        }
    }

    /// Reads the next page of what is to be dropped.
    pub(super) fn leave_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.leaving.is_armed = false;
        let Some(view) = self.view.clone() else { return };
        // What came back is a home's copy again.
        self.leaving.left.retain(|partition| !view.is_home(*partition));
        let may = !view.is_changing() && view.newest().my_member().is_some();
        let in_use =
            |p: &Partition| self.cells.keys().any(|id| id.hint_for.is_none() && id.partition == *p);
        let free = self.leaving.left.iter().copied().find(|p| may && !in_use(p));
        let Some(partition) = free.filter(|_| self.leaving.active.is_none()) else {
            return self.leave_later(now, RETRY_MS * 1_000);
        };
        self.leaving.active = Some(Active { weight: 0, epoch: self.change.epoch() });
        let token = self.next_token();
        self.reads.insert(token, Reading::Leaving(partition));
        out.push(scan_effect(token, partition, &Bytes::new(), PAGE_BYTES));
    }

    /// A page has been read: drops it, or, if there is none, what is known of the partition.
    pub(super) fn leaving_read(
        &mut self,
        now: Now,
        partition: Partition,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let home = self.is_home(partition);
        let Some(page) = result.ok().filter(|_| !home) else {
            self.leaving.active = None;
            return self.leave_later(now, RETRY_MS * 1_000);
        };
        let (mut bytes, records) = (0, page.entries.len());
        let last = page.entries.is_empty();
        let mut changes = self.leave_tree(partition, last).to_vec();
        for (key, value) in page.entries {
            bytes += key.len() + value.len();
            if let Ok(name) = Key::new(key.slice(2.min(key.len())..)) {
                self.recent.forget(&name);
            }
            changes.push(Change { space: Space::Records, key, value: None });
        }
        if last {
            self.leaving.left.remove(&partition);
        }
        if let Some(active) = &mut self.leaving.active {
            active.weight = weight(bytes, records);
        }
        self.commit_changes_for(changes, Waiter::Left(partition), out);
    }

    /// A page has been dropped, or could not be.
    pub(super) fn page_left(&mut self, now: Now, partition: Partition, durable: bool) {
        let weight = self.leaving.active.take().map_or(0, |active| active.weight);
        if self.is_home(partition) {
            // It came back meanwhile, and may have been read before the page was dropped.
            self.recent.forget_all();
            self.doubt_tree(now, partition);
        }
        if !durable {
            self.leaving.left.insert(partition);
            return self.leave_later(now, RETRY_MS * 1_000);
        }
        let pause = self.pause_after_dropping(now, weight);
        self.leave_later(now, pause);
    }
}
