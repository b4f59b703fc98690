//! Scanning a partition: a page of each of R homes, merged by key.
//!
//! A page ends at the first key behind which some home was not read: up to there, what is merged
//! is what R homes hold.
//!
//! Copies of a record are compared as they are stored; only one of equal ones is opened. A home
//! whose copy turns out to be damaged does not count, and another is asked.

use std::sync::Arc;

use bytes::Bytes;

use super::cells::CellId;
use super::replica::{page_as_stored, scan_effect};
use super::route::Route;
use super::timers::{Timer, TimerKey};
use super::{Op, OpKey, Purpose, Reading, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::message::{DataMessage, ScanAnswer, ScanRequest};
use crate::protocol::op::{Failure, Reason};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::{Record, Sealed};
use crate::protocol::step::{Effect, MergedPage, Page, ReadFailed, Ticket};
use crate::types::{Key, Mono, NodeId, Now, Partition, RoundNumber};

/// The page that a client wants.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub partition: Partition,
    pub after: Bytes,
    pub bytes_max: u32,
    pub consistency: Consistency,
}

/// A scan of one page under way.
#[derive(Debug)]
pub(super) struct ScanOp {
    ticket: Ticket,
    pub wanted: Wanted,
    needed: usize,
    me: NodeId,
    /// The homes that are asked.
    pub route: Arc<Route>,
    /// The lowest round that any page is of.
    pub round: RoundNumber,
    /// Homes that have not been asked yet.
    candidates: Vec<NodeId>,
    outstanding: usize,
    pages: Vec<Part>,
    timer: TimerKey,
}

/// What one home holds, up to the end of its page.
#[derive(Debug)]
struct Part {
    /// Sorted by key, no key twice.
    entries: Vec<(Key, Sealed)>,
    done: bool,
    /// Whether the home is this node.
    own: bool,
}

/// A copy that cannot be opened: which part it is in, and of which key.
#[derive(Debug, PartialEq, Eq)]
struct Damaged {
    part: usize,
    key: Key,
}

impl Worker {
    pub(super) fn start_scan(
        &mut self,
        now: Now,
        ticket: Ticket,
        wanted: Wanted,
        deadline: Mono,
        out: &mut Vec<Effect>,
    ) {
        let partition = wanted.partition;
        let route = self.route(partition);
        let Some(route) = route.filter(|_| !self.conditions.draining) else {
            let failure = Failure::before(Reason::NotFounded);
            out.push(Effect::ScanReply(ticket, Err(failure)));
            return;
        };
        if self.is_full() {
            out.push(Effect::ScanReply(ticket, Err(Failure::before(Reason::Overloaded))));
            return;
        }
        let me = route.view.me;
        let own = route.own.filter(|_| !self.is_any_rebuilding(partition)).map(|_| me);
        let others = route.slots.iter().filter_map(|slot| slot.1).filter(|&node| node != me);
        let (up, down): (Vec<_>, Vec<_>) = others.partition(|&node| self.peers.reachable(node));
        let candidates = own.into_iter().chain(up).chain(down).collect();
        let replicas = if self.has(Defect::ScanFirstHome) { 1 } else { route.slots.len() };
        let needed = wanted.consistency.of(replicas);
        let op = self.next_op();
        let timer = self.timers.set(deadline, Timer::Op(op));
        let pages = vec![];
        let round = self.round(partition);
        let outstanding = 0;
        let scan = ScanOp {
            ticket,
            wanted,
            needed,
            me,
            route,
            round,
            candidates,
            outstanding,
            pages,
            timer,
        };
        self.ops.insert(op, Op::Scan(Box::new(scan)));
        self.scan_more(now, op, out);
    }

    /// Asks as many homes as are needed; answers once enough have answered, or none is left.
    fn scan_more(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        loop {
            let Some(Op::Scan(scan)) = self.ops.get_mut(&op) else { return };
            if scan.pages.len() >= scan.needed {
                if self.scan_reply(now, op, out) {
                    return;
                }
                continue;
            }
            if scan.pages.len() + scan.outstanding >= scan.needed {
                return;
            }
            if scan.candidates.is_empty() {
                if scan.outstanding == 0 {
                    self.scan_over(op, out);
                }
                return;
            }
            let node = scan.candidates.remove(0);
            scan.outstanding += 1;
            let (partition, me) = (scan.wanted.partition, scan.me);
            let (after, bytes_max) = (scan.wanted.after.clone(), scan.wanted.bytes_max);
            if node == me {
                let token = self.next_token();
                self.reads.insert(token, Reading::ScanOwn { op });
                out.push(scan_effect(token, partition, &after, bytes_max));
            } else {
                let purpose = Purpose::Scan { op };
                let message = |call| DataMessage::Scan(ScanRequest { call, after, bytes_max });
                self.call(now, node, purpose, partition, None, message, out);
            }
        }
    }

    pub(super) fn scan_own(
        &mut self,
        now: Now,
        op: OpKey,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        match result.ok().and_then(page_as_stored) {
            None => self.scan_failed(now, op, out),
            Some((entries, done)) => {
                self.scan_part(now, op, Part { entries, done, own: true }, out);
            }
        }
    }

    pub(super) fn scan_answered(
        &mut self,
        now: Now,
        op: OpKey,
        answer: ScanAnswer,
        out: &mut Vec<Effect>,
    ) {
        match answer {
            ScanAnswer::Page { round, .. } if self.is_over_for_scan(op, round) => {
                self.scan_failed(now, op, out);
            }
            ScanAnswer::Page { entries, done, round } if is_page(&entries, done) => {
                if let Some(Op::Scan(scan)) = self.ops.get_mut(&op) {
                    scan.round = scan.round.min(round);
                }
                self.scan_part(now, op, Part { entries, done, own: false }, out);
            }
            ScanAnswer::Page { .. } | ScanAnswer::NotMine => self.scan_failed(now, op, out),
        }
    }

    /// Whether a page is of a round that is over.
    fn is_over_for_scan(&self, op: OpKey, round: RoundNumber) -> bool {
        let Some(Op::Scan(scan)) = self.ops.get(&op) else { return false };
        self.is_below_drained(scan.wanted.partition, round)
    }

    fn scan_part(&mut self, now: Now, op: OpKey, part: Part, out: &mut Vec<Effect>) {
        if let Some(Op::Scan(scan)) = self.ops.get_mut(&op) {
            scan.outstanding -= 1;
            scan.pages.push(part);
        }
        self.scan_more(now, op, out);
    }

    pub(super) fn scan_failed(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        if let Some(Op::Scan(scan)) = self.ops.get_mut(&op) {
            scan.outstanding -= 1;
        }
        self.scan_more(now, op, out);
    }

    /// Answers, unless a copy is damaged: then its home does not count. Tells whether it is over.
    fn scan_reply(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) -> bool {
        let Some(Op::Scan(scan)) = self.ops.get_mut(&op) else { return true };
        let partition = scan.wanted.partition;
        match merge_parts(partition, &scan.pages) {
            Ok(page) => {
                out.push(Effect::ScanReply(scan.ticket, Ok(page)));
                self.timers.cancel(scan.timer);
                self.ops.remove(&op);
                true
            }
            Err(Damaged { part, key }) => {
                if scan.pages.swap_remove(part).own {
                    self.record_lost(now, &CellId::own(partition, &key), out);
                }
                false
            }
        }
    }

    /// The deadline has come, or nobody is left to ask.
    pub(super) fn scan_over(&mut self, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Scan(scan)) = self.ops.remove(&op) else { return };
        self.timers.cancel(scan.timer);
        let failure = Failure {
            reason: Reason::QuorumNotReached,
            needed: u32::try_from(scan.needed).unwrap_or(u32::MAX),
            reached: vec![],
            missing: vec![],
            maybe_applied: false,
        };
        out.push(Effect::ScanReply(scan.ticket, Err(failure)));
    }
}

/// Whether what a peer has sent has the shape of a page: in order, and not empty before the end.
fn is_page(entries: &[(Key, Sealed)], done: bool) -> bool {
    entries.is_sorted_by(|a, b| a.0 < b.0) && (done || !entries.is_empty())
}

/// Merges what homes hold, up to the first key behind which some home was not read.
fn merge_parts(partition: Partition, parts: &[Part]) -> Result<MergedPage, Damaged> {
    let ends = parts.iter().filter(|part| !part.done);
    let end = ends.filter_map(|part| part.entries.last()).map(|last| &last.0).min();
    let most = parts.iter().map(|part| part.entries.len()).max().unwrap_or(0);
    let mut merged = Vec::with_capacity(most);
    let mut rest: Vec<&[(Key, Sealed)]> = parts.iter().map(|part| &part.entries[..]).collect();
    while let Some(key) = rest.iter().filter_map(|rest| rest.first()).map(|first| &first.0).min() {
        if end.is_some_and(|end| key > end) {
            break;
        }
        merged.push((key.clone(), merge_copies(partition, key, &mut rest)?));
    }
    Ok(MergedPage { entries: merged, next: end.cloned() })
}

/// Takes the copies of `key` from the fronts of `rest`, and merges them.
fn merge_copies<'a>(
    partition: Partition,
    key: &Key,
    rest: &mut [&'a [(Key, Sealed)]],
) -> Result<Record, Damaged> {
    let mut merged: Option<(Record, &'a Sealed)> = None;
    for (part, rest) in rest.iter_mut().enumerate() {
        let Some(((_, copy), behind)) = rest.split_first().filter(|(first, _)| first.0 == *key)
        else {
            continue;
        };
        *rest = behind;
        let open = || copy.open(partition, key).map_err(|_| Damaged { part, key: key.clone() });
        merged = Some(match merged {
            None => (open()?, copy),
            Some((record, first)) if first == copy => (record, first),
            Some((record, first)) => (record.merge(&open()?), first),
        });
    }
    Ok(merged.map(|(record, _)| record).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::{Content, Sibling, VersionVector};
    use crate::types::{Actor, Dot, Stamp};

    const PARTITION: Partition = Partition(3);

    fn key(text: &'static str) -> Key {
        Key::new(text).unwrap()
    }

    fn record(actor: u64, stamp: u64) -> Record {
        let sibling = Sibling {
            dot: Dot::new(Actor(actor), Stamp(stamp)),
            content: Content::Value(Bytes::new()),
            expiry: None,
            request: None,
        };
        Record::default().write(&VersionVector::default(), sibling)
    }

    fn part(keys: &[&'static str], done: bool) -> Part {
        let seal = |text| {
            let key = key(text);
            let sealed = record(1, 7).seal(PARTITION, &key);
            (key, sealed)
        };
        Part { entries: keys.iter().map(|text| seal(text)).collect(), done, own: false }
    }

    fn merged(parts: &[Part]) -> MergedPage {
        merge_parts(PARTITION, parts).unwrap()
    }

    #[test]
    fn a_page_ends_where_some_home_was_not_read() {
        let page = merged(&[part(&["a", "c"], false), part(&["a", "b", "d"], true)]);
        let keys: Vec<&[u8]> = page.entries.iter().map(|entry| &entry.0.bytes()[..]).collect();
        assert_eq!(keys, [b"a", b"b", b"c"]);
        assert_eq!(page.next, Some(key("c")));
    }

    #[test]
    fn the_last_page_has_no_next() {
        let page = merged(&[part(&["a"], true), part(&[], true)]);
        assert_eq!((page.entries.len(), page.next), (1, None));
    }

    #[test]
    fn copies_that_differ_are_merged_and_equal_ones_stay_what_they_are() {
        let mut other = part(&["a", "b"], true);
        other.entries[1].1 = record(2, 9).seal(PARTITION, &key("b"));
        let page = merged(&[part(&["a", "b"], true), other, part(&["b"], true)]);
        let both = record(1, 7).merge(&record(2, 9));
        assert_eq!(page.entries, [(key("a"), record(1, 7)), (key("b"), both)]);
    }

    #[test]
    fn a_damaged_copy_is_found_in_whichever_part_it_is() {
        for damaged in 0..3 {
            let mut parts = [&["a", "b"][..], &["b"], &["b", "c"]].map(|keys| part(keys, true));
            let entry = parts[damaged].entries.iter_mut().find(|entry| entry.0 == key("b"));
            let entry = entry.unwrap();
            let mut bytes = entry.1.stored().to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            entry.1 = Sealed::from_stored(bytes.into()).unwrap();
            let found = merge_parts(PARTITION, &parts).unwrap_err();
            assert_eq!(found, Damaged { part: damaged, key: key("b") });
        }
    }

    #[test]
    fn what_is_no_page_is_not_taken_for_one() {
        let is_page = |part: Part| is_page(&part.entries, part.done);
        assert!(is_page(part(&["a", "b"], false)) && is_page(part(&[], true)));
        assert!(!is_page(part(&["b", "a"], true)), "out of order");
        assert!(!is_page(part(&["a", "a"], true)), "a key twice");
        assert!(!is_page(part(&[], false)), "it would be asked for again for ever");
    }
}
