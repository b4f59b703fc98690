//! Inputs, effects and messages in the words of the field, for traces.

use std::fmt::Write as _;

use super::node::SimNode;
use crate::protocol::message::{
    DataMessage, Message, PassAnswer, ReadAnswer, ScanAnswer, SyncAnswer, SyncAsk, WriteAnswer,
};
use crate::protocol::op::{Action, Failure, Op, Outcome, Put};
use crate::protocol::record::{Content, Record, Sealed, VersionVector};
use crate::protocol::step::{Change, CommitId, Event};
use crate::types::{Dot, Key, Partition};

/// A key as text.
pub(super) fn key(key: &Key) -> String {
    String::from_utf8_lossy(key.bytes()).into_owned()
}

/// A dot, short: the last digits of the actor are enough to tell actors of one run apart.
pub(super) fn dot(dot: Dot) -> String {
    let stamp = dot.stamp.0;
    format!("{:04x}@{}.{}", dot.actor.0 & 0xffff, (stamp >> 16) % 10_000_000, stamp & 0xffff)
}

fn dots(record: &Record) -> String {
    let mut out = String::new();
    for (at, sibling) in record.siblings().iter().enumerate() {
        let mark = match sibling.content {
            Content::Tombstone => "†",
            Content::Value(_) => "",
        };
        let _ = write!(out, "{}{}{mark}", if at == 0 { "" } else { " " }, dot(sibling.dot));
    }
    if out.is_empty() { "nothing".into() } else { out }
}

fn seen(vector: &VersionVector) -> String {
    let entries = vector.entries().iter();
    let each = entries.map(|&(actor, stamp)| dot(Dot::new(actor, stamp)));
    each.collect::<Vec<_>>().join(" ")
}

/// A record: its siblings, and what it has seen.
pub(super) fn record(record: &Record) -> String {
    format!("[{} | seen {}]", dots(record), seen(record.seen()))
}

fn sealed(sealed: &Sealed, partition: Partition, key: &Key) -> String {
    sealed.open(partition, key).map_or_else(|_| "[damaged]".into(), |open| record(&open))
}

fn put(put: &Put) -> String {
    let what = put.value.as_ref().map_or("delete".into(), |v| format!("put {}", text(v)));
    let context = put.context.as_ref().map(|c| format!(" over ({})", seen(c)));
    let request =
        put.request.map(|r| format!(" request {:04x}", u16::from_be_bytes([r.0[0], r.0[1]])));
    let ttl = put.ttl_ms.map(|ms| format!(" ttl {ms}ms"));
    format!(
        "{what}{}{}{}",
        context.unwrap_or_default(),
        ttl.unwrap_or_default(),
        request.unwrap_or_default()
    )
}

fn text(value: &[u8]) -> String {
    let shown = value.len().min(12);
    let printable = value[..shown].iter().all(u8::is_ascii_graphic);
    if printable {
        return String::from_utf8_lossy(&value[..shown]).into_owned();
    }
    format!("{} bytes", value.len())
}

/// A client's op.
pub(super) fn op(op: &Op) -> String {
    let strict = if op.strict { " strict" } else { "" };
    match &op.action {
        Action::Get => format!("get {} {:?}{strict}", key(&op.key), op.consistency),
        Action::Put(p) => format!("{} {} {:?}{strict}", key(&op.key), put(p), op.consistency),
    }
}

/// What a client is told.
pub(super) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Read(read) => {
            let shown: Vec<String> = read.visible.iter().map(|sibling| dot(sibling.dot)).collect();
            let degraded = if read.degraded { " degraded" } else { "" };
            format!("read [{} | seen {}]{degraded}", shown.join(" "), seen(&read.seen))
        }
        Outcome::Written(receipt) => {
            format!("OK {} homes {:?} hints {:?}", dot(receipt.dot), receipt.homes, receipt.hints)
        }
        Outcome::Failed(failed) => failure(failed),
    }
}

/// A failure.
pub(super) fn failure(failed: &Failure) -> String {
    let maybe = if failed.maybe_applied { "maybe applied" } else { "not applied" };
    format!("failed: {} ({maybe}); missing {:?}", failed.reason, failed.missing)
}

/// A message between nodes.
pub(super) fn message(message: &Message) -> String {
    match message {
        Message::Control(bytes) => format!("control, {} bytes", bytes.len()),
        Message::Data(partition, data) => data_message(*partition, data),
    }
}

fn hint_for(name: Option<&crate::types::NodeName>) -> String {
    name.map(|name| format!(" as hint for {name}")).unwrap_or_default()
}

fn data_message(partition: Partition, message: &DataMessage) -> String {
    match message {
        DataMessage::Read(read) => {
            let (name, hint) = (key(&read.key), hint_for(read.hint_for.as_ref()));
            let known = if read.known.is_some() { ", if not as here" } else { "" };
            format!("Read {name}{hint}{known}, call {}", read.call.0)
        }
        DataMessage::ReadReply(call, round, answer) => {
            let said = match answer {
                ReadAnswer::Record(sealed) => {
                    format!("a record of {} bytes", sealed_len(sealed))
                }
                ReadAnswer::Partial(partial) => format!("partly, seen ({})", seen(&partial.seen)),
                ReadAnswer::Equal
                | ReadAnswer::Absent
                | ReadAnswer::NoHint
                | ReadAnswer::NotMine
                | ReadAnswer::Rebuilding => format!("{answer:?}"),
            };
            format!("ReadReply {said}, round {}, call {}", round.0, call.0)
        }
        DataMessage::Write(write) => {
            let (name, hint) = (key(&write.key), hint_for(write.hint_for.as_ref()));
            let what = sealed(&write.record, partition, &write.key);
            format!("Write {name} {what}{hint}, round {}, call {}", write.round.0, write.call.0)
        }
        DataMessage::WriteReply(call, WriteAnswer::Stored(_)) => {
            format!("WriteReply stored, call {}", call.0)
        }
        DataMessage::WriteReply(call, WriteAnswer::Refused(why)) => {
            format!("WriteReply refused: {why:?}, call {}", call.0)
        }
        DataMessage::OpenSession(_) => "OpenSession".into(),
        DataMessage::Session(session) => format!("Session {:04x}", session.nonce & 0xffff),
        DataMessage::Pass(pass) => format!(
            "Pass {} {} {:?}, session {:04x} sequence {}, call {}",
            key(&pass.key),
            put(&pass.put),
            pass.consistency,
            pass.session & 0xffff,
            pass.sequence,
            pass.call.0
        ),
        DataMessage::PassReply(call, answer) => {
            let said = match answer {
                PassAnswer::Ended(end) => outcome(end),
                PassAnswer::NotBegun => "not begun".into(),
                PassAnswer::NoSession => "no such session".into(),
            };
            format!("PassReply {said}, call {}", call.0)
        }
        DataMessage::Scan(scan) => format!("Scan {partition}, call {}", scan.call.0),
        DataMessage::ScanReply(call, ScanAnswer::Page { entries, .. }) => {
            format!("ScanReply {} entries, call {}", entries.len(), call.0)
        }
        DataMessage::ScanReply(call, ScanAnswer::NotMine) => {
            format!("ScanReply not mine, call {}", call.0)
        }
        DataMessage::Sync(call, asked) => {
            format!("Sync {partition} {}, call {}", ask(asked), call.0)
        }
        DataMessage::SyncReply(call, answer) => {
            format!("SyncReply {partition} {}, call {}", sync_answer(answer), call.0)
        }
        DataMessage::Round(round) => format!("{round:?} of {partition}"),
    }
}

fn ask(ask: &SyncAsk) -> String {
    match ask {
        SyncAsk::Fold(fold) => format!("fold {:08x}", fold >> 96),
        SyncAsk::Leaves => "leaves?".into(),
        SyncAsk::Page(range) => {
            let end = range.end.as_ref().map_or("the end".into(), key);
            format!("{} keys in {:x} up to {end}", range.held.len(), range.leaves.0)
        }
        SyncAsk::Push(_, records) => format!("push {}", keys(records)),
        SyncAsk::Key(lost) => format!("lost {}", key(lost)),
    }
}

fn sync_answer(answer: &SyncAnswer) -> String {
    match answer {
        SyncAnswer::Roots(roots) => format!("{} roots", roots.len()),
        SyncAnswer::Leaves(tree) => format!("root {:08x}", tree.root() >> 96),
        SyncAnswer::Page(page) => {
            format!("{}, wants {} keys", keys(&page.records), page.wanted.len())
        }
        SyncAnswer::Key(_, held) => if held.is_some() { "a record" } else { "nothing" }.into(),
        SyncAnswer::Equal | SyncAnswer::Stored | SyncAnswer::NotNow | SyncAnswer::NotMine => {
            format!("{answer:?}")
        }
    }
}

fn keys(records: &[(Key, Sealed)]) -> String {
    records.iter().map(|record| key(&record.0)).collect::<Vec<_>>().join(" ")
}

fn sealed_len(sealed: &Sealed) -> usize {
    sealed.stored().len()
}

/// A commit on its way to the disk.
pub(super) fn commit(id: CommitId, changes: &[Change]) -> String {
    let mut out = format!("commit {}:", id.0);
    for change in changes {
        let _ = write!(out, " {}", self::change(change));
    }
    out
}

fn change(change: &Change) -> String {
    let Some(place) = super::observer::Place::of(change.space, &change.key) else {
        return format!("{:?} {}", change.space, text(&change.key));
    };
    let hint = hint_for(place.hint_for.as_ref());
    let what = match &change.value {
        None => "removed".into(),
        Some(bytes) => place.open(bytes).map_or("[damaged]".into(), |open| record(&open)),
    };
    format!("{}{hint} {what}", key(&place.key))
}

/// Something that a worker found worth telling.
pub(super) fn event(event: &Event, nodes: &[SimNode]) -> String {
    let name = |id| {
        let node = nodes.iter().find(|node| node.id == id);
        node.map_or_else(|| format!("{id}"), |node| node.name.to_string())
    };
    match event {
        Event::RecordLost(_, k) => format!("finds its copy of {} damaged", key(k)),
        Event::RecordRebuilt(_, k) => format!("has rebuilt {}", key(k)),
        Event::TenureEnded(partition, why) => format!("ends its tenure over {partition}: {why}"),
        Event::HintUnknown { from, target, .. } => {
            format!("is asked by {} for a hint for {target}, who is no member", name(*from))
        }
        Event::HintsFull => "has no room for further hints".to_owned(),
        Event::ReplayStarted(target) => format!("begins to replay hints to {}", name(*target)),
        Event::ReplayDone(target, count) => {
            format!("has no hint left for {} ({count} delivered)", name(*target))
        }
        Event::Mended(peer, count) => format!("has exchanged {count} records with {}", name(*peer)),
        Event::PartitionRebuilt(partition, _) => format!("has rebuilt {partition}"),
        Event::SyncRefused(peer, why) => format!("ends a comparison with {}: {why}", name(*peer)),
        Event::TreeRebuilt(partition) => format!("replaces its tree of {partition}"),
        Event::RoundOver(partition, count) => {
            format!("ends a round of {partition}: {count} records are gone")
        }
        Event::RoundWaits(partition, members) => {
            format!("has long waited in a round of {partition} for {members:?}")
        }
        Event::SetAside(partition) => format!("sets its copy of {partition} aside"),
    }
}
