//! Scanning a partition: a page of each of R homes, merged by key.
//!
//! A page ends at the first key behind which some home was not read: up to there, what is merged
//! is what R homes hold.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::replica::scan_effect;
use super::timers::Timer;
use super::{Op, OpKey, Purpose, Reading, Worker};
use crate::protocol::message::{DataMessage, ScanAnswer, ScanRequest};
use crate::protocol::op::{Failure, Reason};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::Record;
use crate::protocol::step::{Effect, MergedPage, Page, ReadFailed, Ticket};
use crate::types::{Key, Mono, NodeId, Now, Partition};

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
    wanted: Wanted,
    needed: usize,
    me: NodeId,
    /// Homes that have not been asked yet.
    candidates: Vec<NodeId>,
    outstanding: usize,
    pages: Vec<Part>,
}

/// What one home holds, up to the end of its page.
#[derive(Debug)]
struct Part {
    entries: Vec<(Key, Record)>,
    done: bool,
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
        let me = route.view.me;
        let own = route.own.filter(|_| !self.is_any_rebuilding(partition)).map(|_| me);
        let others = route.slots.iter().filter_map(|slot| slot.1).filter(|&node| node != me);
        let (up, down): (Vec<_>, Vec<_>) = others.partition(|&node| self.peers.reachable(node));
        let candidates = own.into_iter().chain(up).chain(down).collect();
        let needed = wanted.consistency.of(route.slots.len());
        let op = self.next_op();
        let scan = ScanOp { ticket, wanted, needed, me, candidates, outstanding: 0, pages: vec![] };
        self.ops.insert(op, Op::Scan(Box::new(scan)));
        self.arm(deadline, Timer::Op(op));
        self.scan_more(now, op, out);
    }

    /// Asks as many homes as are needed; answers once enough have answered, or none is left.
    fn scan_more(&mut self, now: Now, op: OpKey, out: &mut Vec<Effect>) {
        loop {
            let Some(Op::Scan(scan)) = self.ops.get_mut(&op) else { return };
            if scan.pages.len() >= scan.needed {
                return self.scan_reply(op, out);
            }
            if scan.pages.len() + scan.outstanding >= scan.needed {
                return;
            }
            if scan.candidates.is_empty() {
                if scan.outstanding == 0 {
                    self.scan_timer(now, op, out);
                }
                return;
            }
            let node = scan.candidates.remove(0);
            scan.outstanding += 1;
            let ask = scan.candidates.len();
            let (partition, me) = (scan.wanted.partition, scan.me);
            let (after, bytes_max) = (scan.wanted.after.clone(), scan.wanted.bytes_max);
            if node == me {
                let token = self.next_token();
                self.reads.insert(token, Reading::ScanOwn { op, ask });
                out.push(scan_effect(token, partition, &after, bytes_max));
            } else {
                let purpose = Purpose::Scan { op, ask };
                let message = |call| DataMessage::Scan(ScanRequest { call, after, bytes_max });
                self.call(now, node, purpose, partition, None, message, out);
            }
        }
    }

    pub(super) fn scan_own(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Some(Op::Scan(scan)) = self.ops.get(&op) else { return };
        let partition = scan.wanted.partition;
        let page = result.ok().and_then(|page| self.open_page(now, partition, page, out));
        match page {
            None => self.scan_failed(now, op, ask, out),
            Some((entries, done)) => self.scan_part(now, op, Part { entries, done }, out),
        }
    }

    pub(super) fn scan_answered(
        &mut self,
        now: Now,
        op: OpKey,
        ask: usize,
        answer: ScanAnswer,
        out: &mut Vec<Effect>,
    ) {
        let Some(Op::Scan(scan)) = self.ops.get(&op) else { return };
        let partition = scan.wanted.partition;
        let ScanAnswer::Page { entries, done } = answer else {
            return self.scan_failed(now, op, ask, out);
        };
        let open = |(key, sealed): (Key, crate::protocol::record::Sealed)| {
            let record = sealed.open(partition, &key).ok()?;
            Some((key, record))
        };
        match entries.into_iter().map(open).collect::<Option<Vec<_>>>() {
            None => self.scan_failed(now, op, ask, out),
            Some(entries) => self.scan_part(now, op, Part { entries, done }, out),
        }
    }

    fn scan_part(&mut self, now: Now, op: OpKey, part: Part, out: &mut Vec<Effect>) {
        if let Some(Op::Scan(scan)) = self.ops.get_mut(&op) {
            scan.outstanding -= 1;
            scan.pages.push(part);
        }
        self.scan_more(now, op, out);
    }

    pub(super) fn scan_failed(&mut self, now: Now, op: OpKey, _ask: usize, out: &mut Vec<Effect>) {
        if let Some(Op::Scan(scan)) = self.ops.get_mut(&op) {
            scan.outstanding -= 1;
        }
        self.scan_more(now, op, out);
    }

    fn scan_reply(&mut self, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Scan(scan)) = self.ops.remove(&op) else { return };
        out.push(Effect::ScanReply(scan.ticket, Ok(merge_parts(scan.pages))));
    }

    /// The deadline has come, or nobody is left to ask.
    pub(super) fn scan_timer(&mut self, _now: Now, op: OpKey, out: &mut Vec<Effect>) {
        let Some(Op::Scan(scan)) = self.ops.remove(&op) else { return };
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

/// Merges what homes hold, up to the first key behind which some home was not read.
fn merge_parts(parts: Vec<Part>) -> MergedPage {
    let ends = parts.iter().filter(|part| !part.done);
    let end = ends.map(|part| part.entries.last().map(|entry| entry.0.clone())).min().flatten();
    let mut merged: BTreeMap<Key, Record> = BTreeMap::new();
    for (key, record) in parts.into_iter().flat_map(|part| part.entries) {
        if end.as_ref().is_some_and(|end| key > *end) {
            continue;
        }
        match merged.get_mut(&key) {
            Some(held) => *held = held.merge(&record),
            None => {
                merged.insert(key, record);
            }
        }
    }
    MergedPage { entries: merged.into_iter().collect(), next: end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::{Content, Sibling, VersionVector};
    use crate::types::{Actor, Dot, Stamp};

    fn part(keys: &[&'static str], done: bool) -> Part {
        let record = |stamp| {
            let sibling = Sibling {
                dot: Dot::new(Actor(1), Stamp(stamp)),
                content: Content::Value(Bytes::new()),
                expiry: None,
                request: None,
            };
            Record::default().write(&VersionVector::default(), sibling)
        };
        let entries = (1..).zip(keys).map(|(at, key)| (Key::new(*key).unwrap(), record(at)));
        Part { entries: entries.collect(), done }
    }

    #[test]
    fn a_page_ends_where_some_home_was_not_read() {
        let page = merge_parts(vec![part(&["a", "c"], false), part(&["a", "b", "d"], true)]);
        let keys: Vec<&[u8]> = page.entries.iter().map(|entry| &entry.0.bytes()[..]).collect();
        assert_eq!(keys, [b"a", b"b", b"c"]);
        assert_eq!(page.next, Some(Key::new("c").unwrap()));
    }

    #[test]
    fn the_last_page_has_no_next() {
        let page = merge_parts(vec![part(&["a"], true), part(&[], true)]);
        assert_eq!((page.entries.len(), page.next), (1, None));
    }
}
