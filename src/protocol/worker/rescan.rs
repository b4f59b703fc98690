//! Reading whole partitions: to know a hash tree that was not saved, and to scrub.
//!
//! A partition is read in pages while it is written. What a page shows of a key may lie before
//! or behind a commit that is under way; what is *reported* of it is what counts in a tree. So the
//! keys that are touched between a page's question and its answer are noted with what is reported
//! of them, and that overrules the page.
//!
//! A scrub verifies each record, and compares the tree with what is stored: what is damaged is
//! rebuilt from the other homes, and a tree that disagrees is replaced.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::cells::CellId;
use super::replica::scan_effect;
use super::timers::Timer;
use super::{Reading, Worker};
use crate::protocol::record::Sealed;
use crate::protocol::step::{Effect, Event, Page, ReadFailed};
use crate::protocol::tree::Tree;
use crate::types::{Key, Mono, Now, Partition, RecordHash, Wall};

/// Bytes that are read at a time: some milliseconds of a disk.
const PAGE_BYTES: u32 = 256 << 10;
/// How long to wait before a read that failed is tried again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Why a partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its tree is not known, or is not to be trusted.
    Unknown,
    Scrub,
}

/// The partitions that are to be read, one at a time.
#[derive(Debug, Default)]
pub(super) struct Rescans {
    /// At most one entry a partition.
    queue: VecDeque<(Partition, Why)>,
    queued: BTreeSet<Partition>,
    active: Option<Rescan>,
}

/// A partition that is being read.
#[derive(Debug)]
struct Rescan {
    partition: Partition,
    why: Why,
    /// The tree of all keys up to the cursor.
    tree: Tree,
    /// Up to this key, all is read; empty: nothing.
    cursor: Bytes,
    /// What is reported of the keys that were touched since the page was asked for.
    touched: BTreeMap<Key, Option<RecordHash>>,
}

impl Rescans {
    /// Whether a partition is going to be read.
    pub fn is_due(&self, partition: Partition) -> bool {
        let active = self.active.as_ref().is_some_and(|rescan| rescan.partition == partition);
        active || self.queued.contains(&partition)
    }

    fn of(&mut self, partition: Partition) -> Option<&mut Rescan> {
        self.active.as_mut().filter(|rescan| rescan.partition == partition)
    }

    /// A commit of a key is formed, over what is `before`.
    pub fn formed(&mut self, partition: Partition, key: &Key, before: Option<RecordHash>) {
        if let Some(rescan) = self.of(partition) {
            rescan.touched.entry(key.clone()).or_insert(before);
        }
    }

    /// A commit of a key is reported.
    pub fn reported(
        &mut self,
        partition: Partition,
        key: &Key,
        before: Option<RecordHash>,
        after: Option<RecordHash>,
    ) {
        let Some(rescan) = self.of(partition) else { return };
        rescan.touched.insert(key.clone(), after);
        if key.bytes() <= &rescan.cursor {
            rescan.tree.change(key, before, after);
        }
    }
}

impl Rescan {
    /// Takes in what a page shows of the keys behind the cursor up to `end` (none: to the end of
    /// the partition), as far as nothing else is reported of them.
    fn take(&mut self, page: Vec<(Key, Option<RecordHash>)>, end: Option<&Key>) {
        let mut found: BTreeMap<Key, Option<RecordHash>> = page.into_iter().collect();
        for (key, hash) in std::mem::take(&mut self.touched) {
            if key.bytes() > &self.cursor && end.is_none_or(|end| key <= *end) {
                found.insert(key, hash);
            }
        }
        for (key, hash) in found {
            self.tree.change(&key, None, hash);
        }
    }
}

impl Worker {
    /// Reads a partition, after those that are to be read already.
    pub(super) fn rescan(&mut self, now: Now, partition: Partition, why: Why) {
        if !self.rescans.queued.insert(partition) {
            if why == Why::Scrub {
                return;
            }
            self.rescans.queue.retain(|&(queued, _)| queued != partition);
        }
        match why {
            // Whoever does not know its trees cannot compare.
            Why::Unknown => self.rescans.queue.push_front((partition, why)),
            Why::Scrub => self.rescans.queue.push_back((partition, why)),
        }
        if self.rescans.active.is_none() {
            self.rescan_next(now.mono);
        }
    }

    fn rescan_next(&mut self, at: Mono) {
        let Some((partition, why)) = self.rescans.queue.pop_front() else { return };
        // From here on it may be doubted again.
        self.rescans.queued.remove(&partition);
        let (tree, cursor, touched) = (Tree::default(), Bytes::new(), BTreeMap::new());
        self.rescans.active = Some(Rescan { partition, why, tree, cursor, touched });
        self.arm(at, Timer::Rescan);
    }

    /// Asks for the next page.
    pub(super) fn rescan_page(&mut self, out: &mut Vec<Effect>) {
        let Some(partition) = self.rescans.active.as_ref().map(|rescan| rescan.partition) else {
            return;
        };
        let under_way =
            if self.trees.has_outstanding(partition) { self.based_on(partition) } else { vec![] };
        let token = self.next_token();
        let Some(rescan) = &mut self.rescans.active else { return };
        rescan.touched.clear();
        for (key, before) in under_way {
            rescan.touched.entry(key).or_insert(before);
        }
        out.push(scan_effect(token, partition, &rescan.cursor, PAGE_BYTES));
        self.reads.insert(token, Reading::Rescan(partition));
    }

    pub(super) fn rescanned(
        &mut self,
        now: Now,
        partition: Partition,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Ok(page) = result else {
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::Rescan);
        };
        let bytes: usize = page.entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        let done = page.done;
        let entries = self.verified(now, partition, page, out);
        let Some(rescan) = &mut self.rescans.active else { return };
        let end = entries.last().map(|(key, _)| key.clone()).filter(|_| !done);
        let why = rescan.why;
        if why == Why::Scrub {
            self.stats.records_scrubbed += entries.len() as u64;
        }
        let hash = |sealed: Option<Sealed>| sealed.map(|sealed| sealed.hash());
        rescan
            .take(entries.into_iter().map(|(key, held)| (key, hash(held))).collect(), end.as_ref());
        let rate = match why {
            Why::Unknown => self.config.tuning.sync_bytes_per_second,
            Why::Scrub => self.config.tuning.scrub_bytes_per_second,
        };
        let pause = (bytes as u64).saturating_mul(1_000_000) / rate.max(1);
        match end {
            Some(end) => {
                rescan.cursor = end.bytes().clone();
                self.arm(now.mono.after_micros(pause), Timer::Rescan);
            }
            None => self.rescan_done(now, pause, out),
        }
    }

    /// The keys of a page in order, each with its record, or without one if that is damaged.
    pub(super) fn verified(
        &mut self,
        now: Now,
        partition: Partition,
        page: Page,
        out: &mut Vec<Effect>,
    ) -> Vec<(Key, Option<Sealed>)> {
        let mut entries = Vec::with_capacity(page.entries.len());
        for (stored_key, stored) in page.entries {
            // A key that is none cannot have been written here: there is nothing to rebuild.
            let Ok(key) = Key::new(stored_key.slice(2.min(stored_key.len())..)) else { continue };
            let sealed = Sealed::from_stored(stored).ok();
            let whole = sealed.filter(|sealed| sealed.verify(partition, &key).is_ok());
            if whole.is_none() {
                self.record_lost(now, &CellId::own(partition, &key), out);
            }
            entries.push((key, whole));
        }
        entries
    }

    /// All of a partition is read.
    fn rescan_done(&mut self, now: Now, pause: u64, out: &mut Vec<Effect>) {
        let Some(Rescan { partition, why, tree, .. }) = self.rescans.active.take() else { return };
        let scrubbed = (why == Why::Scrub).then_some(now.wall);
        // Where it is to be read again, or is being set aside, what was read is not what is left.
        let holds = !self.rescans.queued.contains(&partition) && !self.collect.is_moving(partition);
        if holds && self.tree_read(now, partition, tree, scrubbed) {
            self.stats.trees_rebuilt += 1;
            out.push(Effect::Event(Event::TreeRebuilt(partition)));
        }
        self.rescan_next(now.mono.after_micros(pause));
    }

    /// The worker serves: scrubs begin.
    pub(super) fn begin_scrubs(&mut self, now: Now) {
        self.arm(now.mono.after_micros(self.scrub_pace()), Timer::Scrub);
    }

    /// Twice as often as a partition is due, so that none is late for long.
    fn scrub_pace(&self) -> u64 {
        let partitions = self.trees.own().len().max(1) as u64;
        (self.config.tuning.scrub_interval / partitions / 2).max(1_000)
    }

    /// Scrubs the partition that was scrubbed longest ago, if that is long enough.
    pub(super) fn scrub_due(&mut self, now: Now) {
        self.arm(now.mono.after_micros(self.scrub_pace()), Timer::Scrub);
        let interval = self.config.tuning.scrub_interval / 1_000;
        // A time that has not come was told by a clock that was wrong.
        let since = |at: Wall| now.wall.0.checked_sub(at.0).unwrap_or(u64::MAX);
        let known = self.trees.own().iter().filter(|p| self.trees.known(**p).is_some());
        let oldest = known.map(|&p| (since(self.trees.scrubbed(p)), Reverse(p))).max();
        if let Some((since, Reverse(partition))) = oldest
            && since >= interval
        {
            self.rescan(now, partition, Why::Scrub);
        }
    }
}
