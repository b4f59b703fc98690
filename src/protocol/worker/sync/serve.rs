//! Answering another home that compares. Nothing is kept between two of its questions.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::batch::Then;
use super::shared;
use crate::protocol::message::{
    CallId, DataMessage, SyncAnswer, SyncAsk, SyncDifference, SyncRange,
};
use crate::protocol::record::{Record, Sealed};
use crate::protocol::step::{Effect, Event, Page, ReadFailed, Space};
use crate::protocol::tree::{fold, leaf_of};
use crate::protocol::worker::cells::{CellId, open_stored};
use crate::protocol::worker::replica::{Sender, scan_effect};
use crate::protocol::worker::{Reading, Worker};
use crate::types::{Key, LANES, Now, Partition, RecordHash, RoundNumber};

/// Pages that are read, and pushes that are kept, for others at a time; past it they ask again.
const SERVED_MAX: usize = 32;
/// Bytes that are read for a page; what differs of it is what travels. A worker merges a page in one step:
/// requests wait for about a millisecond.
pub(in crate::protocol::worker) const PAGE_BYTES: u32 = 64 << 10;

/// A question about a range whose answer waits for the store.
#[derive(Debug)]
pub(in crate::protocol::worker) struct ServedPage {
    sender: Sender,
    call: CallId,
    partition: Partition,
    range: SyncRange,
    /// Of the own copy, when it was asked for.
    round: RoundNumber,
}

/// A question about a key whose answer waits for the store.
#[derive(Debug)]
pub(in crate::protocol::worker) struct ServedKey {
    sender: Sender,
    call: CallId,
    id: CellId,
    /// Of the own copy, when it was asked for.
    round: RoundNumber,
}

impl Worker {
    pub(in crate::protocol::worker) fn serve_sync(
        &mut self,
        now: Now,
        sender: Sender,
        partition: Partition,
        call: CallId,
        ask: SyncAsk,
        out: &mut Vec<Effect>,
    ) {
        let same = self.view.as_ref().is_some_and(|view| view.newest().tag() == sender.placement);
        let mine = same && (matches!(ask, SyncAsk::Fold(_)) || self.is_home(partition));
        let busy = self.sync.serving + self.sync.batches.len() >= SERVED_MAX;
        let answer = match ask {
            _ if !mine => SyncAnswer::NotMine,
            SyncAsk::Fold(fold) => self.answer_fold(now, sender, partition, fold),
            SyncAsk::Leaves => {
                let tree = self.trees.known(partition).cloned();
                tree.map_or(SyncAnswer::NotNow, SyncAnswer::Leaves)
            }
            SyncAsk::Page(_) | SyncAsk::Push(..) if busy => SyncAnswer::NotNow,
            SyncAsk::Page(range) => {
                self.tell_if_behind(sender.from, partition, range.round, out);
                self.sync.serving += 1;
                let token = self.next_token();
                out.push(scan_effect(token, partition, &range.after, PAGE_BYTES));
                let round = self.round(partition);
                let asked = ServedPage { sender, call, partition, range, round };
                self.reads.insert(token, Reading::SyncPage(Box::new(asked)));
                return;
            }
            SyncAsk::Push(round, records) => {
                let Some(records) = self.opened(partition, &records) else {
                    self.sync_refused(sender, "a record is damaged, or of another partition", out);
                    return answer_sync(sender, partition, call, SyncAnswer::NotMine, out);
                };
                let then = Then::Peer { to: sender.from, call, partition };
                self.tell_if_behind(sender.from, partition, round, out);
                self.ask_sender(sender.from, partition, out);
                return self.merge_all(now, partition, round, records, then, out);
            }
            SyncAsk::Key(key) if !self.lies_in(partition, &key) => SyncAnswer::NotMine,
            SyncAsk::Key(key) => {
                let token = self.next_token();
                let (id, round) = (CellId::own(partition, &key), self.round(partition));
                let (space, key) = (Space::Records, id.store_key());
                let asked = ServedKey { sender, call, id, round };
                self.reads.insert(token, Reading::SyncKey(asked));
                out.push(Effect::Read { token, space, key });
                return;
            }
        };
        answer_sync(sender, partition, call, answer, out);
    }

    /// Compares another home's fold of a lane, named by its first partition, with the own one.
    fn answer_fold(
        &mut self,
        now: Now,
        sender: Sender,
        lane: Partition,
        theirs: u128,
    ) -> SyncAnswer {
        let Some(view) = self.view.as_ref().filter(|_| lane.0 < LANES) else {
            return SyncAnswer::NotMine;
        };
        let shared = shared(view, lane.0, sender.from);
        let Some(roots) = self.roots(&shared) else { return SyncAnswer::NotNow };
        if fold(roots.iter().copied()) != theirs {
            return SyncAnswer::Roots(roots);
        }
        self.agreed(now, sender.from, &shared);
        SyncAnswer::Equal
    }

    /// The roots of some partitions; none if one of their trees is not known.
    pub(super) fn roots(&self, partitions: &[Partition]) -> Option<Vec<(Partition, u128)>> {
        let root = |&partition: &Partition| Some((partition, self.trees.known(partition)?.root()));
        partitions.iter().map(root).collect()
    }

    /// A page of the own store has been read: tells in what it differs from the asker's.
    pub(in crate::protocol::worker) fn answer_sync_page(
        &mut self,
        now: Now,
        asked: &ServedPage,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        self.sync.serving -= 1;
        let ServedPage { sender, call, partition, range, round } = asked;
        let answer = match result {
            Err(ReadFailed) => SyncAnswer::NotNow,
            Ok(page) => {
                let done = page.done;
                let entries = self.verified(now, *partition, page, out);
                let round = self.round(*partition).min(*round);
                SyncAnswer::Page(difference(round, range, &entries, done))
            }
        };
        answer_sync(*sender, *partition, *call, answer, out);
    }

    /// A key that another home has lost has been read. What cannot be opened is lost here, too.
    pub(in crate::protocol::worker) fn answer_sync_key(
        &mut self,
        now: Now,
        asked: ServedKey,
        result: Result<Option<Bytes>, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let ServedKey { sender, call, id, round } = asked;
        let round = self.round(id.partition).min(round);
        let answer = match result {
            Err(ReadFailed) => SyncAnswer::NotNow,
            Ok(None) => SyncAnswer::Key(round, None),
            Ok(Some(stored)) => {
                if open_stored(&id, stored.clone()).is_err() {
                    self.record_lost(now, &id, out);
                    SyncAnswer::Key(round, None)
                } else {
                    SyncAnswer::Key(round, Sealed::from_stored(stored).ok())
                }
            }
        };
        answer_sync(sender, id.partition, call, answer, out);
    }

    /// Records that another home sent, opened; none if one of them is not what it should be.
    pub(super) fn opened(
        &self,
        partition: Partition,
        records: &[(Key, Sealed)],
    ) -> Option<Vec<(Key, Record)>> {
        let open = |(key, sealed): &(Key, Sealed)| {
            let record = sealed.open(partition, key).ok()?;
            self.lies_in(partition, key).then(|| (key.clone(), record))
        };
        records.iter().map(open).collect()
    }

    fn sync_refused(&mut self, sender: Sender, why: &'static str, out: &mut Vec<Effect>) {
        self.stats.syncs_refused += 1;
        out.push(Effect::Event(Event::SyncRefused(sender.from, why)));
    }
}

fn answer_sync(
    sender: Sender,
    partition: Partition,
    call: CallId,
    answer: SyncAnswer,
    out: &mut Vec<Effect>,
) {
    let message = DataMessage::SyncReply(call, answer);
    out.push(Effect::Send { to: sender.from, trace: sender.trace, partition, message });
}

/// How a page of the own store (`done`: the last one) differs from what an asker holds of a range.
pub(super) fn difference(
    round: RoundNumber,
    range: &SyncRange,
    page: &[(Key, Option<Sealed>)],
    done: bool,
) -> SyncDifference {
    let asked = |key: &Key| range.end.as_ref().is_none_or(|end| key <= end);
    let last = page.last().map(|(key, _)| key).filter(|_| !done);
    // The page may end before the range does.
    let end = last.filter(|last| range.end.as_ref().is_none_or(|end| *last < end)).cloned();
    let inside = |key: &Key| {
        asked(key)
            && end.as_ref().is_none_or(|end| key <= end)
            && range.leaves.contains(leaf_of(key))
    };
    let held = range.held.iter().filter(|(key, _)| inside(key));
    let mut held: BTreeMap<&Key, RecordHash> = held.map(|(key, hash)| (key, *hash)).collect();
    let mut records = Vec::new();
    let mut wanted = Vec::new();
    for (key, sealed) in page.iter().filter(|(key, _)| inside(key)) {
        let Some(sealed) = sealed else { continue };
        match held.remove(key) {
            Some(hash) if hash == sealed.hash() => {}
            theirs => {
                records.push((key.clone(), sealed.clone()));
                wanted.extend(theirs.map(|_| key.clone()));
            }
        }
    }
    wanted.extend(held.into_keys().cloned());
    wanted.sort_unstable();
    SyncDifference { round, end, records, wanted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tree::LeafSet;
    use proptest::prelude::*;

    fn key(number: u8) -> Key {
        Key::new(format!("{number:03}")).unwrap()
    }

    /// Bytes that differ where the versions do; nothing here opens them.
    fn sealed(version: u8) -> Sealed {
        Sealed::from_stored(vec![0, 0, 0, 0, version].into()).unwrap()
    }

    fn stored(held: &BTreeMap<u8, u8>) -> Vec<(Key, Option<Sealed>)> {
        held.iter().map(|(&number, &version)| (key(number), Some(sealed(version)))).collect()
    }

    proptest! {
        /// Two homes, each with pages of its own size, walk through a partition: every key that
        /// differs is met once, on the sides that need it, and no other.
        #[test]
        fn a_walk_in_pages_meets_what_differs_once(
            ours in prop::collection::btree_map(0..60u8, 0..3u8, 0..40),
            theirs in prop::collection::btree_map(0..60u8, 0..3u8, 0..40),
            own_page in 1..9usize, their_page in 1..9usize, leaves in any::<u64>(),
        ) {
            let leaves = LeafSet(leaves);
            let (own, other) = (stored(&ours), stored(&theirs));
            let behind = |all: &[(Key, Option<Sealed>)], after: &Option<Key>, most: usize| {
                let left: Vec<_> =
                    all.iter().filter(|(key, _)| after.as_ref().is_none_or(|a| key > a)).cloned().collect();
                let page: Vec<_> = left.iter().take(most).cloned().collect();
                (page, left.len() <= most)
            };
            let (mut after, mut fetched, mut wanted) = (None, vec![], vec![]);
            loop {
                let (page, done) = behind(&own, &after, own_page);
                let end = page.last().map(|(key, _)| key.clone()).filter(|_| !done);
                let inside = page.iter().filter(|(key, _)| leaves.contains(leaf_of(key)));
                let held = inside.map(|(key, s)| (key.clone(), s.as_ref().unwrap().hash())).collect();
                let from = after.as_ref().map(|key: &Key| key.bytes().clone()).unwrap_or_default();
                let round = RoundNumber(1);
                let range = SyncRange { round, leaves, after: from, end: end.clone(), held };
                let (page, done) = behind(&other, &after, their_page);
                let found = difference(round, &range, &page, done);
                fetched.extend(found.records.into_iter().map(|(key, _)| key));
                wanted.extend(found.wanted);
                match found.end.or(end) {
                    Some(end) => {
                        prop_assert!(after.as_ref().is_none_or(|after| *after < end));
                        after = Some(end);
                    }
                    None => break,
                }
            }
            let differs = |number: &u8| {
                ours.get(number) != theirs.get(number) && leaves.contains(leaf_of(&key(*number)))
            };
            let expected = |side: &BTreeMap<u8, u8>| -> Vec<Key> {
                side.keys().filter(|number| differs(number)).map(|&number| key(number)).collect()
            };
            prop_assert_eq!(fetched, expected(&theirs));
            prop_assert_eq!(wanted, expected(&ours));
        }
    }
}
