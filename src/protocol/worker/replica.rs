//! Answering peers: what this node holds, and keeping what it is sent.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::cells::{CellId, Incoming, Task, Waiter, open_stored};
use super::recent::Since;
use super::{Reading, Worker};
use crate::protocol::defect::Defect;
use crate::protocol::message::{
    CallId, DataMessage, Known, PartialRecord, PlacementTag, ReadAnswer, ReadRequest, Refusal,
    ScanAnswer, ScanRequest, WriteAnswer, WriteRequest,
};
use crate::protocol::record::{Record, Sealed};
use crate::protocol::step::{Effect, Page, ReadFailed, Space};
use crate::types::{Key, NodeId, Now, Partition, RoundNumber, TraceContext};

/// The most that a page may weigh, whatever the asker wants.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Who sent a message, and under which placement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    pub from: NodeId,
    pub placement: PlacementTag,
    pub trace: Option<TraceContext>,
}

/// A peer's read whose answer waits for the store.
#[derive(Debug)]
pub(super) struct ReplicaRead {
    sender: Sender,
    call: CallId,
    id: CellId,
    known: Option<Known>,
    since: Since,
    /// When it was asked for: what is answered may have been read any time after that.
    round: RoundNumber,
}

/// A peer's scan whose answer waits for the store.
#[derive(Debug)]
pub(super) struct ReplicaScan {
    sender: Sender,
    call: CallId,
    partition: Partition,
    round: RoundNumber,
}

impl Worker {
    /// Whether this node is home to a partition.
    pub(super) fn is_home(&self, partition: Partition) -> bool {
        let view = self.view.as_ref();
        view.is_some_and(|view| partition.0 < view.partitions() && view.is_home(partition))
    }

    /// Whether a peer speaks of a key's own partition.
    pub(super) fn lies_in(&self, partition: Partition, key: &Key) -> bool {
        self.view.as_ref().is_some_and(|view| key.partition(view.partitions()) == partition)
    }

    pub(super) fn serve_read(
        &mut self,
        now: Now,
        sender: Sender,
        partition: Partition,
        read: ReadRequest,
        out: &mut Vec<Effect>,
    ) {
        let ReadRequest { call, key, hint_for, known } = read;
        let retired = self.reads_retired(sender.placement);
        let refusal = if retired || !self.lies_in(partition, &key) {
            Some(ReadAnswer::NotMine)
        } else if hint_for.is_some() {
            None
        } else if !self.is_home(partition) {
            Some(ReadAnswer::NotMine)
        } else if self.is_rebuilding(partition, &key) {
            Some(ReadAnswer::Rebuilding)
        } else {
            None
        };
        let round = self.round_read(partition, hint_for.is_some());
        if let Some(answer) = refusal {
            let answer = DataMessage::ReadReply(call, round, answer);
            return send_answer(sender, partition, answer, out);
        }
        let id = CellId { hint_for, partition, key };
        let since = self.recent.since();
        let recent = if id.hint_for.is_none() { self.recent.get(&id.key) } else { None };
        let (space, key) = (id.space(), id.store_key());
        let read = ReplicaRead { sender, call, id, known, since, round };
        if recent.is_some() {
            return self.answer_read(now, read, Ok(recent), out);
        }
        let token = self.next_token();
        self.reads.insert(token, Reading::Replica(read));
        out.push(Effect::Read { token, space, key });
    }

    /// What a peer asked for has been read from the store.
    pub(super) fn replica_read(
        &mut self,
        now: Now,
        read: ReplicaRead,
        result: Result<Option<Bytes>, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        if let (None, Ok(Some(stored))) = (&read.id.hint_for, &result) {
            self.keep_read(&read.id.key, stored, read.since);
        }
        self.answer_read(now, read, result, out);
    }

    /// What a peer asked for is known.
    fn answer_read(
        &mut self,
        now: Now,
        read: ReplicaRead,
        result: Result<Option<Bytes>, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let ReplicaRead { sender, call, id, known, round, .. } = read;
        let round = round.min(self.round_read(id.partition, id.hint_for.is_some()));
        let answer = match result {
            Err(ReadFailed) => ReadAnswer::Rebuilding,
            Ok(None) if id.hint_for.is_some() => ReadAnswer::NoHint,
            Ok(None) => ReadAnswer::Absent,
            Ok(Some(stored)) => match open_stored(&id, stored.clone()) {
                Ok(record) => self.conditional(&id, &stored, &record, known),
                Err(()) => {
                    self.record_lost(now, &id, out);
                    ReadAnswer::Rebuilding
                }
            },
        };
        send_answer(sender, id.partition, DataMessage::ReadReply(call, round, answer), out);
    }

    /// "Equal", or the whole record, in which only values are left out that the asker has.
    fn conditional(
        &self,
        id: &CellId,
        stored: &Bytes,
        record: &Record,
        known: Option<Known>,
    ) -> ReadAnswer {
        let Ok(sealed) = Sealed::from_stored(stored.clone()) else { return ReadAnswer::Rebuilding };
        match known {
            Some(known) if known.hash == sealed.hash() => ReadAnswer::Equal,
            Some(known) => {
                let mut partial = PartialRecord::of(record, sealed.crc(), &known.dots);
                if self.has(Defect::AnswerOnlyMissing) {
                    partial = only_missing(id, record, &known);
                }
                ReadAnswer::Partial(partial)
            }
            None => ReadAnswer::Record(sealed),
        }
    }

    pub(super) fn serve_write(
        &mut self,
        now: Now,
        sender: Sender,
        partition: Partition,
        write: WriteRequest,
        out: &mut Vec<Effect>,
    ) {
        let WriteRequest { call, key, record: sealed, hint_for, round } = write;
        let refuse = |refusal, out: &mut Vec<Effect>| {
            let answer = DataMessage::WriteReply(call, WriteAnswer::Refused(refusal));
            send_answer(sender, partition, answer, out);
        };
        let Some(view) = self.view.clone() else { return refuse(Refusal::NotMine, out) };
        if self.ignores_acked(sender.placement) {
            return refuse(Refusal::PlacementOld, out);
        }
        // Whoever is no member takes part in no round: what it sends might outlive one.
        if view.name_of(sender.from).is_none_or(|name| view.versions_of(name).is_empty()) {
            return refuse(Refusal::NotMine, out);
        }
        let home = self.is_home(partition);
        let known_target = hint_for.as_ref().is_none_or(|name| !view.versions_of(name).is_empty());
        if let Some(target) = hint_for.as_ref().filter(|_| !known_target) {
            self.hint_unknown(sender.from, target, out);
            return refuse(Refusal::NotMine, out);
        }
        // Whoever leaves keeps no more hints: it would have to be rid of them first.
        let leaves = view.newest().my_member().is_none();
        let no_keeper = if hint_for.is_some() { leaves } else { !home };
        if !self.lies_in(partition, &key) || no_keeper {
            return refuse(Refusal::NotMine, out);
        }
        if !self.takes(partition, &key, hint_for.is_some(), round) {
            self.ask_sender(sender.from, partition, out);
            self.tell_if_behind(sender.from, partition, round, out);
            return refuse(Refusal::RoundOver, out);
        }
        let Ok(record) = sealed.open(partition, &key) else { return refuse(Refusal::Store, out) };
        let far = self.clock.is_far(now.wall, record.seen().highest());
        if far && self.has(Defect::RefuseFarStamps) {
            return refuse(Refusal::Store, out);
        }
        if hint_for.is_some() && home {
            // What a home hears of a key belongs to its own copy first.
            let own = CellId::own(partition, &key);
            let incoming = Incoming { round, ..Incoming::from(record.clone()) };
            self.with_view(now, own, Task::Merge(incoming, Waiter::None), out);
        }
        let hash = sealed.hash();
        let waiter = Waiter::Peer { to: sender.from, call, trace: sender.trace, hash };
        let id = CellId { hint_for, partition, key };
        let incoming = Incoming { record: Arc::new(record), sealed: Some(sealed), round };
        self.with_view(now, id, Task::Merge(incoming, waiter), out);
    }

    pub(super) fn serve_scan(
        &mut self,
        sender: Sender,
        partition: Partition,
        scan: ScanRequest,
        out: &mut Vec<Effect>,
    ) {
        let ScanRequest { call, after, bytes_max } = scan;
        let retired = self.reads_retired(sender.placement);
        if retired || !self.is_home(partition) || self.is_any_rebuilding(partition) {
            let answer = DataMessage::ScanReply(call, ScanAnswer::NotMine);
            return send_answer(sender, partition, answer, out);
        }
        let token = self.next_token();
        let round = self.round_read(partition, false);
        let scan = ReplicaScan { sender, call, partition, round };
        self.reads.insert(token, Reading::ScanPeer(scan));
        out.push(scan_effect(token, partition, &after, bytes_max));
    }

    /// The page that a peer asked for has been read. Records travel as they are stored, verified
    /// and not decoded: the asker opens them.
    pub(super) fn answer_scan(
        &mut self,
        now: Now,
        scan: &ReplicaScan,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let page = result.ok().and_then(page_as_stored);
        let round = scan.round.min(self.round_read(scan.partition, false));
        let answer = page.map_or(ScanAnswer::NotMine, |(entries, done)| {
            let damaged =
                |(key, sealed): &&(Key, Sealed)| sealed.verify(scan.partition, key).is_err();
            match entries.iter().find(damaged) {
                None => ScanAnswer::Page { entries, done, round },
                Some((key, _)) => {
                    self.record_lost(now, &CellId::own(scan.partition, key), out);
                    ScanAnswer::NotMine
                }
            }
        });
        let message = DataMessage::ScanReply(scan.call, answer);
        send_answer(scan.sender, scan.partition, message, out);
    }
}

/// Keys and records of a page of the store, and whether it is the last; none if what is there
/// cannot be a record.
pub(super) fn page_as_stored(page: Page) -> Option<(Vec<(Key, Sealed)>, bool)> {
    let entry = |(stored_key, stored): (Bytes, Bytes)| {
        let key = Key::new(stored_key.slice(2.min(stored_key.len())..)).ok()?;
        Some((key, Sealed::from_stored(stored).ok()?))
    };
    Some((page.entries.into_iter().map(entry).collect::<Option<_>>()?, page.done))
}

/// The scan of a page of a partition's records.
pub(super) fn scan_effect(
    token: crate::protocol::step::Token,
    partition: Partition,
    after: &Bytes,
    bytes_max: u32,
) -> Effect {
    let prefix = Bytes::copy_from_slice(&partition.0.to_be_bytes());
    let mut behind = BytesMut::new();
    if !after.is_empty() {
        behind.put_slice(&prefix);
        behind.put_slice(after);
    }
    let bytes_max = (bytes_max as usize).min(PAGE_BYTES_MAX);
    Effect::Scan { token, space: Space::Records, prefix, after: behind.freeze(), bytes_max }
}

fn send_answer(sender: Sender, partition: Partition, message: DataMessage, out: &mut Vec<Effect>) {
    out.push(Effect::Send { to: sender.from, trace: sender.trace, partition, message });
}

/// The seeded defect: an answer from which whole siblings are missing.
fn only_missing(id: &CellId, record: &Record, known: &Known) -> PartialRecord {
    let lacking = record.siblings().iter().filter(|s| !known.dots.contains(&s.dot)).cloned();
    let lone = Record::from_parts(record.seen().clone(), lacking.collect()).unwrap_or_default();
    let crc = lone.seal(id.partition, &id.key).crc();
    PartialRecord::of(&lone, crc, &[])
}

/// Tells a peer that what it sent is durable, or could not be kept.
pub(super) fn answer_write(
    to: NodeId,
    call: CallId,
    trace: Option<TraceContext>,
    partition: Partition,
    answer: WriteAnswer,
    out: &mut Vec<Effect>,
) {
    let message = DataMessage::WriteReply(call, answer);
    out.push(Effect::Send { to, trace, partition, message });
}
