//! What is stored of a key, as it is told.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::proto;
use crate::proto::stored_copy::State;
use crate::proto::stored_sibling::Kind;
use crate::protocol::placement::View;
use crate::protocol::record::{Record, Sealed, Sibling};
use crate::protocol::worker::inspect::{Inspection, StoredCopy};
use crate::types::Wall;

/// The answer of the node whose view it is.
pub(super) fn told(view: &View, found: Inspection) -> proto::InspectResponse {
    let now = now();
    let hints = found.hints.into_iter().map(|(target, hint)| proto::HintCopy {
        target: target.to_string(),
        copy: Some(copy(hint, now)),
    });
    proto::InspectResponse {
        name: view.name.to_string(),
        node_id: view.me.to_string(),
        partition: found.partition.0.into(),
        home: found.home,
        rebuilding: found.rebuilding,
        own: Some(copy(found.own, now)),
        hints: hints.collect(),
    }
}

fn copy(copy: StoredCopy, now: Wall) -> proto::StoredCopy {
    let without_record =
        |state: State| proto::StoredCopy { state: state.into(), ..Default::default() };
    match copy {
        StoredCopy::Absent => without_record(State::Absent),
        StoredCopy::Damaged => without_record(State::Damaged),
        StoredCopy::Whole(sealed, record) => whole(&sealed, &record, now),
    }
}

fn whole(sealed: &Sealed, record: &Record, now: Wall) -> proto::StoredCopy {
    let seen = record.seen().entries().iter();
    let seen = seen.map(|&(actor, stamp)| proto::Seen { actor: actor.0, stamp: stamp.0 });
    proto::StoredCopy {
        state: State::Record.into(),
        hash: sealed.hash().to_string(),
        stored_bytes: sealed.stored().len() as u64,
        seen: seen.collect(),
        siblings: record.siblings().iter().map(|one| sibling(one, now)).collect(),
    }
}

fn sibling(sibling: &Sibling, now: Wall) -> proto::StoredSibling {
    let kind = match (sibling.value(), sibling.is_live(now)) {
        (None, _) => Kind::Tombstone,
        (Some(_), true) => Kind::Value,
        (Some(_), false) => Kind::Expired,
    };
    let request = sibling.request.map(|request| Bytes::copy_from_slice(&request.0));
    proto::StoredSibling {
        actor: sibling.dot.actor.0,
        stamp: sibling.dot.stamp.0,
        kind: kind.into(),
        value_bytes: sibling.value().map_or(0, |value| value.len() as u64),
        written_ms: sibling.dot.stamp.wall().0,
        expires_ms: sibling.expiry.map_or(0, |expiry| expiry.0),
        request_id: request.unwrap_or_default(),
    }
}

fn now() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
