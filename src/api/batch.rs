//! Batches: many keys in one call, each with an answer of its own.
//!
//! ```text
//!  BatchSet ─▶ bounds: all or nothing ─▶ entry by entry: an op, or why it is none
//!                                              │ ops, handed over together
//!  results, in the order of the entries ◀──────┴── outcomes
//! ```
//!
//! What is wrong with the batch refuses all of it, before anything is begun; what is wrong with a
//! key is that key's answer: just what the call for that key alone would have been told. A batch is
//! no transaction, and its keys are written at the same time: so a key may be in it only once.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;
use tonic_types::StatusExt;

use super::error;
use super::kv::{self, Answering};
use super::request::Fields;
use crate::proto;
use crate::protocol::op::{Action, Op, Outcome};
use crate::types::ClusterId;

/// Keys of a batch: more would save no more, and keep others waiting.
pub(super) const KEYS_MAX: usize = 1_000;
/// Bytes of a batch of writes, where values are not larger than usual.
const BYTES_MAX: usize = 4 << 20;
/// Bytes of an answer to a batch of reads: clients take messages of 4 MiB unless told otherwise.
const ANSWER_BYTES_MAX: usize = 3 << 20;

/// A batch, taken apart.
pub(super) struct Batch {
    /// For each key, in order: its op has been handed over, or why it has none.
    slots: Vec<Result<Answering, Status>>,
    pub(super) ops: Vec<Op>,
}

/// What all keys of a batch have in common.
#[derive(Clone, Copy)]
pub(super) struct Common {
    pub(super) consistency: i32,
    pub(super) strict: bool,
    pub(super) cluster: ClusterId,
    pub(super) value_bytes_max: usize,
}

/// The bytes of keys, values and contexts that a batch of writes may have: two of the largest
/// values fit.
pub(super) fn bytes_max(value_bytes_max: usize) -> usize {
    BYTES_MAX.max(2 * value_bytes_max)
}

/// Refuses a batch of reads that is too large.
pub(super) fn check_gets(fields: &mut Fields, keys: &[Bytes]) -> Option<()> {
    check_count(fields, "keys", keys.len())
}

/// Refuses a batch of writes that is too large, or that names a key twice.
pub(super) fn check_sets(
    fields: &mut Fields,
    entries: &[proto::BatchSetEntry],
    value_bytes_max: usize,
) -> Option<()> {
    check_count(fields, "entries", entries.len())?;
    let most = bytes_max(value_bytes_max);
    let each = entries.iter().map(|e| e.key.len() + e.value.len() + e.context.len());
    let bytes: usize = each.sum();
    if bytes > most {
        let told = format!(
            "keys, values and contexts have {bytes} bytes together, a batch at most {most}; \
             split it"
        );
        return fields.refuse("entries", told);
    }
    let mut first = HashMap::with_capacity(entries.len());
    for (at, entry) in entries.iter().enumerate() {
        if let Some(before) = first.insert(&entry.key, at) {
            let told = format!(
                "the key of entries[{before}] again; entries are written at the same time, so \
                 write a key once in a batch, and later in another"
            );
            return fields.refuse(&format!("entries[{at}].key"), told);
        }
    }
    Some(())
}

fn check_count(fields: &mut Fields, field: &str, count: usize) -> Option<()> {
    if count <= KEYS_MAX {
        return Some(());
    }
    fields.refuse(field, format!("a batch has at most {KEYS_MAX} keys, this one {count}; split it"))
}

impl Batch {
    pub(super) fn of_gets(keys: Vec<Bytes>, common: Common) -> Self {
        Self::of(keys.into_iter().map(|key| get(key, common)))
    }

    pub(super) fn of_sets(entries: Vec<proto::BatchSetEntry>, common: Common) -> Self {
        Self::of(entries.into_iter().map(|entry| put(entry, common)))
    }

    fn of(parsed: impl Iterator<Item = Result<Op, Status>>) -> Self {
        let mut ops = Vec::with_capacity(parsed.size_hint().0);
        let slots = parsed.map(|op| {
            let op = op?;
            let answering = Answering::of(&op);
            ops.push(op);
            Ok(answering)
        });
        Self { slots: slots.collect(), ops }
    }

    /// The results of reads: as many as the answer has room for, and at least one.
    pub(super) fn got(
        self,
        outcomes: Vec<Outcome>,
        cluster: ClusterId,
        all_siblings: bool,
    ) -> Vec<proto::BatchGetResult> {
        use proto::batch_get_result::Result as Is;
        let mut bytes = 0;
        let results = self.results(outcomes, |asked, outcome| {
            let answer = kv::shown(outcome, cluster, &asked, all_siblings)?;
            let more = answer.encoded_len();
            if bytes > 0 && bytes + more > ANSWER_BYTES_MAX {
                return Err(error::answer_full(ANSWER_BYTES_MAX));
            }
            bytes += more;
            Ok(answer)
        });
        let result = |result| match result {
            Ok(answer) => Is::Ok(answer),
            Err(status) => Is::Error(key_error(&status)),
        };
        results.map(|one| proto::BatchGetResult { result: Some(result(one)) }).collect()
    }

    pub(super) fn written(
        self,
        outcomes: Vec<Outcome>,
        cluster: ClusterId,
    ) -> Vec<proto::BatchSetResult> {
        use proto::batch_set_result::Result as Is;
        let results =
            self.results(outcomes, |asked, outcome| kv::written(outcome, cluster, &asked));
        let result = |result| match result {
            Ok((context, receipt)) => {
                Is::Ok(proto::SetResponse { context, receipt: Some(receipt) })
            }
            Err(status) => Is::Error(key_error(&status)),
        };
        results.map(|one| proto::BatchSetResult { result: Some(result(one)) }).collect()
    }

    fn results<T>(
        self,
        outcomes: Vec<Outcome>,
        mut answer: impl FnMut(Answering, Outcome) -> Result<T, Status>,
    ) -> impl Iterator<Item = Result<T, Status>> {
        let mut outcomes = outcomes.into_iter();
        self.slots.into_iter().map(move |slot| {
            let asked = slot?;
            let outcome = outcomes.next();
            let outcome = outcome.ok_or_else(|| error::defect("a key was not answered"))?;
            answer(asked, outcome)
        })
    }
}

fn get(key: Bytes, common: Common) -> Result<Op, Status> {
    let mut fields = Fields::default();
    let parsed = (fields.key(key), fields.consistency(common.consistency));
    let (Some(key), Some(consistency)) = parsed else { return Err(fields.into_status()) };
    let strict = common.strict;
    Ok(Op { key, consistency, strict, action: Action::Get })
}

fn put(entry: proto::BatchSetEntry, common: Common) -> Result<Op, Status> {
    let proto::BatchSetEntry { key, value, context, ttl_ms, request_id, delete } = entry;
    let mut fields = Fields::default();
    let value = if delete {
        let of_a_set = [("value", !value.is_empty()), ("ttl_ms", ttl_ms != 0)];
        for (field, _) in of_a_set.iter().filter(|field| field.1) {
            fields.refuse::<()>(field, "a delete has none".to_owned());
        }
        None
    } else {
        Some(value)
    };
    let parts = kv::PutParts { key, value, ttl_ms, request_id, context };
    let Common { consistency, strict, cluster, value_bytes_max } = common;
    kv::put(fields, parts, (consistency, strict), value_bytes_max, || Ok(cluster))
}

/// What a status says, as the answer of one key.
fn key_error(status: &Status) -> proto::KeyError {
    let details = status.get_error_details();
    let info = details.error_info();
    let told = |key: &str| info.and_then(|info| info.metadata.get(key)).map_or("", String::as_str);
    let names = |key| -> Vec<String> {
        let names = told(key).split(',').filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    };
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    let millis = |delay: Duration| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    proto::KeyError {
        code: status.code() as i32,
        reason: info.map_or_else(String::new, |info| info.reason.clone()),
        message: status.message().to_owned(),
        outcome_known: told("outcome") == "known",
        retry_safe: told("retry") == "safe",
        reached: names("reached"),
        missing: names("missing"),
        needed: told("needed").parse().unwrap_or(0),
        retry_after_ms: delay.map_or(0, millis),
    }
}
