//! The encoding of messages.

use bytes::Bytes;

use super::{
    CallId, DataMessage, Envelope, FORMAT, Known, Message, OpenSession, PartialRecord,
    PartialSibling, Pass, PassAnswer, PlacementTag, ReadAnswer, ReadRequest, Refusal, RoundMessage,
    ScanAnswer, ScanRequest, Session, WriteAnswer, WriteRequest, sync,
};
use crate::protocol::codec::{DecodeError, Reader, Write};
use crate::protocol::context::ContextError;
use crate::protocol::op::{Failure, Outcome, Put, Reason, Receipt};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::{Sealed, Sibling, VersionVector};
use crate::types::{
    Actor, Boot, CommitNumber, Dot, Key, Mono, NodeId, NodeName, Partition, RecordHash, RequestId,
    RoundNumber, Stamp, TraceContext,
};

impl Envelope {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut impl Write) {
        out.put_u8(FORMAT);
        out.put_u128_le(self.from.0);
        out.put_u32_le(self.placement.number);
        out.put_u64_le(self.placement.hash);
        out.put_u64_le(self.synced.0);
        out.bool(self.trace.is_some());
        if let Some(trace) = self.trace {
            out.put_u128_le(trace.trace);
            out.put_u64_le(trace.span);
            out.put_u8(trace.flags);
        }
        match &self.message {
            Message::Control(bytes) => {
                out.put_u8(0);
                out.put_slice(bytes);
            }
            Message::Data(partition, message) => {
                out.put_u8(1);
                out.put_u16_le(partition.0);
                encode_data(message, out);
            }
        }
    }

    /// Reads an envelope; byte strings in it share the input's memory.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not one, or is of a newer format.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Version(other)),
        }
        let from = NodeId(r.u128()?);
        let placement = PlacementTag { number: r.u32()?, hash: r.u64()? };
        let synced = CommitNumber(r.u64()?);
        let trace = option(&mut r, |r| {
            Ok(TraceContext { trace: r.u128()?, span: r.u64()?, flags: r.u8()? })
        })?;
        let message = match r.u8()? {
            0 => Message::Control(r.rest()),
            1 => {
                let partition = Partition(r.u16()?);
                let message = decode_data(&mut r)?;
                r.end()?;
                Message::Data(partition, message)
            }
            _ => return Err(DecodeError::Malformed("message")),
        };
        Ok(Self { from, placement, synced, trace, message })
    }
}

fn encode_data(message: &DataMessage, out: &mut impl Write) {
    match message {
        DataMessage::Read(read) => {
            out.put_u8(1);
            encode_read(read, out);
        }
        DataMessage::ReadReply(call, round, answer) => {
            out.put_u8(2);
            out.put_u64_le(call.0);
            out.varint(round.0);
            encode_read_answer(answer, out);
        }
        DataMessage::Write(write) => {
            out.put_u8(3);
            out.put_u64_le(write.call.0);
            out.bytes(write.key.bytes());
            encode_name(write.hint_for.as_ref(), out);
            out.varint(write.round.0);
            encode_sealed(&write.record, out);
        }
        DataMessage::WriteReply(call, answer) => {
            out.put_u8(4);
            out.put_u64_le(call.0);
            encode_write_answer(*answer, out);
        }
        DataMessage::OpenSession(open) => {
            out.put_u8(5);
            out.put_u64_le(open.boot.0);
        }
        DataMessage::Session(session) => {
            out.put_u8(6);
            out.put_u64_le(session.boot.0);
            out.put_u64_le(session.nonce);
            out.put_u64_le(session.now.0);
        }
        DataMessage::Pass(pass) => {
            out.put_u8(7);
            encode_pass(pass, out);
        }
        DataMessage::PassReply(call, answer) => {
            out.put_u8(8);
            out.put_u64_le(call.0);
            encode_pass_answer(answer, out);
        }
        DataMessage::Scan(scan) => {
            out.put_u8(9);
            out.put_u64_le(scan.call.0);
            out.bytes(&scan.after);
            out.put_u32_le(scan.bytes_max);
        }
        DataMessage::ScanReply(call, answer) => {
            out.put_u8(10);
            out.put_u64_le(call.0);
            encode_scan_answer(answer, out);
        }
        DataMessage::Sync(call, ask) => {
            out.put_u8(11);
            sync::encode_ask(*call, ask, out);
        }
        DataMessage::SyncReply(call, answer) => {
            out.put_u8(12);
            sync::encode_answer(*call, answer, out);
        }
        DataMessage::Round(round) => {
            out.put_u8(13);
            round.encode(out);
        }
    }
}

fn decode_data(r: &mut Reader) -> Result<DataMessage, DecodeError> {
    Ok(match r.u8()? {
        1 => DataMessage::Read(decode_read(r)?),
        2 => DataMessage::ReadReply(
            CallId(r.u64()?),
            RoundNumber(r.varint()?),
            decode_read_answer(r)?,
        ),
        3 => DataMessage::Write(WriteRequest {
            call: CallId(r.u64()?),
            key: decode_key(r)?,
            hint_for: option(r, decode_name)?,
            round: RoundNumber(r.varint()?),
            record: decode_sealed(r)?,
        }),
        4 => DataMessage::WriteReply(CallId(r.u64()?), decode_write_answer(r)?),
        5 => DataMessage::OpenSession(OpenSession { boot: Boot(r.u64()?) }),
        6 => DataMessage::Session(Session {
            boot: Boot(r.u64()?),
            nonce: r.u64()?,
            now: Mono(r.u64()?),
        }),
        7 => DataMessage::Pass(decode_pass(r)?),
        8 => DataMessage::PassReply(CallId(r.u64()?), decode_pass_answer(r)?),
        9 => DataMessage::Scan(ScanRequest {
            call: CallId(r.u64()?),
            after: r.bytes()?,
            bytes_max: r.u32()?,
        }),
        10 => DataMessage::ScanReply(CallId(r.u64()?), decode_scan_answer(r)?),
        11 => {
            let (call, ask) = sync::decode_ask(r)?;
            DataMessage::Sync(call, ask)
        }
        12 => {
            let (call, answer) = sync::decode_answer(r)?;
            DataMessage::SyncReply(call, answer)
        }
        13 => DataMessage::Round(RoundMessage::decode(r)?),
        _ => return Err(DecodeError::Malformed("message")),
    })
}

fn encode_read(read: &ReadRequest, out: &mut impl Write) {
    out.put_u64_le(read.call.0);
    out.bytes(read.key.bytes());
    encode_name(read.hint_for.as_ref(), out);
    out.bool(read.known.is_some());
    if let Some(known) = &read.known {
        out.put_u128_le(known.hash.0);
        out.varint(known.dots.len() as u64);
        for dot in &known.dots {
            encode_dot(*dot, out);
        }
    }
}

fn decode_read(r: &mut Reader) -> Result<ReadRequest, DecodeError> {
    Ok(ReadRequest {
        call: CallId(r.u64()?),
        key: decode_key(r)?,
        hint_for: option(r, decode_name)?,
        known: option(r, |r| {
            let hash = RecordHash(r.u128()?);
            Ok(Known { hash, dots: list(r, 16, decode_dot)? })
        })?,
    })
}

fn encode_write_answer(answer: WriteAnswer, out: &mut impl Write) {
    match answer {
        WriteAnswer::Stored(hash) => {
            out.put_u8(0);
            out.put_u128_le(hash.0);
        }
        WriteAnswer::Refused(refusal) => out.put_u8(refusal.code()),
    }
}

fn decode_write_answer(r: &mut Reader) -> Result<WriteAnswer, DecodeError> {
    Ok(match r.u8()? {
        0 => WriteAnswer::Stored(RecordHash(r.u128()?)),
        code => WriteAnswer::Refused(Refusal::from_code(code)?),
    })
}

fn encode_pass_answer(answer: &PassAnswer, out: &mut impl Write) {
    match answer {
        PassAnswer::NotBegun => out.put_u8(0),
        PassAnswer::NoSession => out.put_u8(1),
        PassAnswer::Ended(Outcome::Written(receipt)) => {
            out.put_u8(2);
            encode_receipt(receipt, out);
        }
        PassAnswer::Ended(Outcome::Failed(failure)) => {
            out.put_u8(3);
            encode_failure(failure, out);
        }
        PassAnswer::Ended(Outcome::Read(_)) => unreachable!("only writes are passed"),
    }
}

fn decode_pass_answer(r: &mut Reader) -> Result<PassAnswer, DecodeError> {
    Ok(match r.u8()? {
        0 => PassAnswer::NotBegun,
        1 => PassAnswer::NoSession,
        2 => PassAnswer::Ended(Outcome::Written(decode_receipt(r)?)),
        3 => PassAnswer::Ended(Outcome::Failed(decode_failure(r)?)),
        _ => return Err(DecodeError::Malformed("answer to a passed request")),
    })
}

fn encode_scan_answer(answer: &ScanAnswer, out: &mut impl Write) {
    match answer {
        ScanAnswer::NotMine => out.put_u8(0),
        ScanAnswer::Page { entries, done, round } => {
            out.put_u8(1);
            out.varint(round.0);
            out.varint(entries.len() as u64);
            for (key, record) in entries {
                out.bytes(key.bytes());
                encode_sealed(record, out);
            }
            out.bool(*done);
        }
    }
}

fn decode_scan_answer(r: &mut Reader) -> Result<ScanAnswer, DecodeError> {
    Ok(match r.u8()? {
        0 => ScanAnswer::NotMine,
        1 => ScanAnswer::Page {
            round: RoundNumber(r.varint()?),
            entries: list(r, 6, |r| Ok((decode_key(r)?, decode_sealed(r)?)))?,
            done: r.bool()?,
        },
        _ => return Err(DecodeError::Malformed("page")),
    })
}

fn encode_read_answer(answer: &ReadAnswer, out: &mut impl Write) {
    match answer {
        ReadAnswer::Equal => out.put_u8(0),
        ReadAnswer::Absent => out.put_u8(1),
        ReadAnswer::NoHint => out.put_u8(2),
        ReadAnswer::NotMine => out.put_u8(3),
        ReadAnswer::Rebuilding => out.put_u8(4),
        ReadAnswer::Record(record) => {
            out.put_u8(5);
            encode_sealed(record, out);
        }
        ReadAnswer::Partial(partial) => {
            out.put_u8(6);
            out.put_u32_le(partial.crc);
            partial.seen.encode(out);
            out.varint(partial.siblings.len() as u64);
            for sibling in &partial.siblings {
                match sibling {
                    PartialSibling::Known(dot) => {
                        out.put_u8(0);
                        encode_dot(*dot, out);
                    }
                    PartialSibling::Whole(sibling) => {
                        out.put_u8(1);
                        sibling.encode(out);
                    }
                }
            }
        }
    }
}

fn decode_read_answer(r: &mut Reader) -> Result<ReadAnswer, DecodeError> {
    Ok(match r.u8()? {
        0 => ReadAnswer::Equal,
        1 => ReadAnswer::Absent,
        2 => ReadAnswer::NoHint,
        3 => ReadAnswer::NotMine,
        4 => ReadAnswer::Rebuilding,
        5 => ReadAnswer::Record(decode_sealed(r)?),
        6 => ReadAnswer::Partial(PartialRecord {
            crc: r.u32()?,
            seen: VersionVector::decode(r)?,
            siblings: list(r, 17, |r| match r.u8()? {
                0 => Ok(PartialSibling::Known(decode_dot(r)?)),
                1 => Ok(PartialSibling::Whole(Sibling::decode(r)?)),
                _ => Err(DecodeError::Malformed("sibling")),
            })?,
        }),
        _ => return Err(DecodeError::Malformed("answer to a read")),
    })
}

fn encode_pass(pass: &Pass, out: &mut impl Write) {
    out.put_u64_le(pass.call.0);
    out.put_u64_le(pass.session);
    out.put_u64_le(pass.sequence);
    out.put_u64_le(pass.deadline.0);
    out.bytes(pass.key.bytes());
    out.put_u8(match pass.consistency {
        Consistency::One => 1,
        Consistency::Quorum => 2,
        Consistency::All => 3,
    });
    out.bool(pass.strict);
    let put = &pass.put;
    out.bool(put.value.is_some());
    if let Some(value) = &put.value {
        out.bytes(value);
    }
    out.bool(put.ttl_ms.is_some());
    if let Some(ttl) = put.ttl_ms {
        out.put_u64_le(ttl);
    }
    out.bool(put.context.is_some());
    if let Some(context) = &put.context {
        context.encode(out);
    }
    out.bool(put.request.is_some());
    if let Some(request) = &put.request {
        out.put_slice(&request.0);
    }
}

fn decode_pass(r: &mut Reader) -> Result<Pass, DecodeError> {
    Ok(Pass {
        call: CallId(r.u64()?),
        session: r.u64()?,
        sequence: r.u64()?,
        deadline: Mono(r.u64()?),
        key: decode_key(r)?,
        consistency: match r.u8()? {
            1 => Consistency::One,
            2 => Consistency::Quorum,
            3 => Consistency::All,
            _ => return Err(DecodeError::Malformed("consistency")),
        },
        strict: r.bool()?,
        put: Put {
            value: option(r, Reader::bytes)?,
            ttl_ms: option(r, Reader::u64)?,
            context: option(r, VersionVector::decode)?,
            request: option(r, |r| Ok(RequestId(r.u128()?.to_le_bytes())))?,
        },
    })
}

fn encode_receipt(receipt: &Receipt, out: &mut impl Write) {
    encode_dot(receipt.dot, out);
    receipt.seen.encode(out);
    out.bool(receipt.partial);
    encode_names(&receipt.homes, out);
    encode_names(&receipt.hints, out);
    out.put_u32_le(receipt.placement);
}

fn decode_receipt(r: &mut Reader) -> Result<Receipt, DecodeError> {
    Ok(Receipt {
        dot: decode_dot(r)?,
        seen: VersionVector::decode(r)?,
        partial: r.bool()?,
        homes: list(r, 2, decode_name)?,
        hints: list(r, 2, decode_name)?,
        placement: r.u32()?,
    })
}

/// The reasons that a coordinator can give for a write, in the order of their codes.
const REASONS: [Reason; 14] = [
    Reason::NotFounded,
    Reason::QuorumNotReached,
    Reason::CoordinatorSilent,
    Reason::Context(ContextError::Ahead),
    Reason::RequestIdReused,
    Reason::TooManySiblings,
    Reason::RecordTooLarge,
    Reason::StoreRefused,
    Reason::Overloaded,
    Reason::ShuttingDown,
    Reason::NotConfirmed,
    Reason::HintsFull,
    Reason::NotMember,
    Reason::RoundsUnknown,
];

fn encode_failure(failure: &Failure, out: &mut impl Write) {
    let code = REASONS.iter().position(|reason| *reason == failure.reason);
    // Any other context error is found before a request is passed on.
    out.varint(code.unwrap_or(3) as u64);
    out.put_u32_le(failure.needed);
    encode_names(&failure.reached, out);
    encode_names(&failure.missing, out);
    out.bool(failure.maybe_applied);
}

fn decode_failure(r: &mut Reader) -> Result<Failure, DecodeError> {
    let code = usize::try_from(r.varint()?).unwrap_or(usize::MAX);
    Ok(Failure {
        reason: *REASONS.get(code).ok_or(DecodeError::Malformed("reason"))?,
        needed: r.u32()?,
        reached: list(r, 2, decode_name)?,
        missing: list(r, 2, decode_name)?,
        maybe_applied: r.bool()?,
    })
}

pub(super) fn encode_sealed(record: &Sealed, out: &mut impl Write) {
    out.bytes(record.stored());
}

pub(super) fn decode_sealed(r: &mut Reader) -> Result<Sealed, DecodeError> {
    Sealed::from_stored(r.bytes()?)
}

fn encode_dot(dot: Dot, out: &mut impl Write) {
    out.put_u64_le(dot.actor.0);
    out.put_u64_le(dot.stamp.0);
}

fn decode_dot(r: &mut Reader) -> Result<Dot, DecodeError> {
    Ok(Dot::new(Actor(r.u64()?), Stamp(r.u64()?)))
}

pub(super) fn decode_key(r: &mut Reader) -> Result<Key, DecodeError> {
    Key::new(r.bytes()?).map_err(|_| DecodeError::Malformed("key"))
}

fn encode_name(name: Option<&NodeName>, out: &mut impl Write) {
    out.bool(name.is_some());
    if let Some(name) = name {
        out.bytes(name.as_str().as_bytes());
    }
}

fn encode_names(names: &[NodeName], out: &mut impl Write) {
    out.varint(names.len() as u64);
    names.iter().for_each(|name| out.bytes(name.as_str().as_bytes()));
}

fn decode_name(r: &mut Reader) -> Result<NodeName, DecodeError> {
    NodeName::new(&r.text()?).map_err(|_| DecodeError::Malformed("name"))
}

pub(super) fn option<T>(
    r: &mut Reader,
    read: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if r.bool()? { read(r).map(Some) } else { Ok(None) }
}

pub(super) fn list<T>(
    r: &mut Reader,
    each: usize,
    mut read: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = r.count(each)?;
    (0..count).map(|_| read(r)).collect()
}

impl Refusal {
    const ALL: [Self; 6] = [
        Self::NotMine,
        Self::HintsFull,
        Self::PlacementOld,
        Self::Store,
        Self::Overloaded,
        Self::RoundOver,
    ];

    fn code(self) -> u8 {
        match self {
            Self::NotMine => 1,
            Self::HintsFull => 2,
            Self::PlacementOld => 3,
            Self::Store => 4,
            Self::Overloaded => 5,
            Self::RoundOver => 6,
        }
    }

    fn from_code(code: u8) -> Result<Self, DecodeError> {
        let found = Self::ALL.into_iter().find(|refusal| refusal.code() == code);
        found.ok_or(DecodeError::Malformed("refusal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::tests::histories;
    use crate::protocol::rounds::Cut;
    use proptest::prelude::*;

    fn envelope(message: Message) -> Envelope {
        let trace = TraceContext { trace: 1, span: 2, flags: 1 };
        Envelope {
            from: NodeId(7),
            placement: PlacementTag { number: 1, hash: 9 },
            synced: CommitNumber(3),
            trace: Some(trace),
            message,
        }
    }

    fn bytes(envelope: &Envelope) -> Bytes {
        let mut out = Vec::new();
        envelope.encode(&mut out);
        out.into()
    }

    fn name() -> NodeName {
        NodeName::new("node-1").unwrap()
    }

    /// One of each message of a round.
    fn of_rounds(round: RoundNumber, cut: &Cut) -> [RoundMessage; 11] {
        let (closed, id) = (RoundNumber(299), cut.id());
        [
            RoundMessage::Survey(round, cut.clone()),
            RoundMessage::Surveyed(round, vec![true, false]),
            RoundMessage::Open { number: round, closed, cut: cut.clone() },
            RoundMessage::Opened(round, id),
            RoundMessage::Drain(round, id),
            RoundMessage::Drained(round, id),
            RoundMessage::Close(round, id),
            RoundMessage::Closed(round),
            RoundMessage::Over(round),
            RoundMessage::Behind { number: round, closed, id },
            RoundMessage::Wanted(round),
        ]
    }

    /// One of each message, around a record.
    fn samples(record: &crate::protocol::record::Record) -> Vec<DataMessage> {
        let (key, call) = (Key::new("k").unwrap(), CallId(5));
        let sealed = record.seal(Partition(3), &key);
        let dots: Vec<Dot> = record.siblings().iter().map(|sibling| sibling.dot).collect();
        let known = Known { hash: sealed.hash(), dots: dots.clone() };
        let partial = PartialRecord::of(record, sealed.crc(), &dots[dots.len() / 2..]);
        let put = Put {
            value: Some(Bytes::from_static(b"v")),
            ttl_ms: Some(5),
            context: Some(record.seen().clone()),
            request: Some(RequestId([4; 16])),
        };
        let pass = Pass {
            call,
            session: 1,
            sequence: 2,
            deadline: Mono(3),
            key: key.clone(),
            put,
            consistency: Consistency::All,
            strict: true,
        };
        let receipt = Receipt {
            dot: Dot::new(Actor(1), Stamp(2)),
            seen: record.seen().clone(),
            partial: true,
            homes: vec![name()],
            hints: vec![],
            placement: 1,
        };
        let failure = |reason| Failure {
            reason,
            needed: 2,
            reached: vec![name()],
            missing: vec![name()],
            maybe_applied: true,
        };
        let read = |hint_for, known| ReadRequest { call, key: key.clone(), hint_for, known };
        let round = RoundNumber(300);
        let hint_for = Some(name());
        let write =
            WriteRequest { call, key: key.clone(), record: sealed.clone(), hint_for, round };
        let entries = vec![(key.clone(), sealed.clone())];
        let page = ScanAnswer::Page { entries, done: true, round };
        let mut all = vec![
            DataMessage::Read(read(Some(name()), None)),
            DataMessage::Read(read(None, Some(known))),
            DataMessage::ReadReply(call, round, ReadAnswer::Record(sealed.clone())),
            DataMessage::ReadReply(call, round, ReadAnswer::Partial(partial)),
            DataMessage::Write(write),
            DataMessage::WriteReply(call, WriteAnswer::Stored(sealed.hash())),
            DataMessage::OpenSession(OpenSession { boot: Boot(1) }),
            DataMessage::Session(Session { boot: Boot(1), nonce: 2, now: Mono(3) }),
            DataMessage::Pass(pass),
            DataMessage::PassReply(call, PassAnswer::NotBegun),
            DataMessage::PassReply(call, PassAnswer::NoSession),
            DataMessage::PassReply(call, PassAnswer::Ended(Outcome::Written(receipt))),
            DataMessage::Scan(ScanRequest { call, after: Bytes::from_static(b"a"), bytes_max: 9 }),
            DataMessage::ScanReply(call, page),
            DataMessage::ScanReply(call, ScanAnswer::NotMine),
        ];
        let plain = [
            ReadAnswer::Equal,
            ReadAnswer::Absent,
            ReadAnswer::NoHint,
            ReadAnswer::NotMine,
            ReadAnswer::Rebuilding,
        ];
        all.extend(plain.map(|answer| DataMessage::ReadReply(call, round, answer)));
        let cut = Cut::new(vec![(key.clone(), sealed.hash())]).unwrap();
        all.extend(of_rounds(round, &cut).map(DataMessage::Round));
        let refused = |refusal| DataMessage::WriteReply(call, WriteAnswer::Refused(refusal));
        all.extend(Refusal::ALL.map(refused));
        let ended = |reason| PassAnswer::Ended(Outcome::Failed(failure(reason)));
        all.extend(REASONS.map(|reason| DataMessage::PassReply(call, ended(reason))));
        all.extend(sync::samples(&key, &sealed));
        all
    }

    proptest! {
        #[test]
        fn every_message_comes_back(records in histories()) {
            for message in samples(&records[0]) {
                let sent = envelope(Message::Data(Partition(3), message));
                prop_assert_eq!(Envelope::decode(bytes(&sent)), Ok(sent));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(input: Vec<u8>) {
            let _ = Envelope::decode(input.into());
        }

        #[test]
        fn a_damaged_or_cut_message_never_panics(
            records in histories(),
            at: prop::sample::Index,
            bit in 0..8u8,
        ) {
            for message in samples(&records[0]) {
                let mut damaged = bytes(&envelope(Message::Data(Partition(3), message))).to_vec();
                let at = at.index(damaged.len());
                let _ = Envelope::decode(Bytes::copy_from_slice(&damaged[..at]));
                damaged[at] ^= 1 << bit;
                let _ = Envelope::decode(damaged.into());
            }
        }

        #[test]
        fn what_was_left_out_is_filled_in_or_refused(records in histories()) {
            let key = Key::new("k").unwrap();
            let (whole, own) = (&records[0], &records[1]);
            let crc = whole.seal(Partition(3), &key).crc();
            let dots: Vec<Dot> = own.siblings().iter().map(|sibling| sibling.dot).collect();
            let partial = PartialRecord::of(whole, crc, &dots);
            let filled = partial.clone().fill(Partition(3), &key, own);
            prop_assert_eq!(filled.as_ref(), Ok(whole));
            let damaged = PartialRecord { crc: crc ^ 1, ..partial };
            prop_assert!(damaged.fill(Partition(3), &key, own).is_err());
        }
    }

    #[test]
    fn a_control_message_comes_back_and_a_newer_format_is_named() {
        let sent = envelope(Message::Control(Bytes::from_static(b"hello")));
        assert_eq!(Envelope::decode(bytes(&sent)), Ok(sent.clone()));
        let mut newer = bytes(&sent).to_vec();
        newer[0] = 9;
        assert_eq!(Envelope::decode(newer.into()), Err(DecodeError::Version(9)));
    }
}
