//! R: what single reads have shown while the run went on.
//!
//! - None shows a sibling that it knows to be superseded: its `seen` covers a write that was made
//!   with a context, and that context covers the sibling.
//! - A read that began after a write was acknowledged by so many homes that any R homes have one of
//!   them among them knows that write, if no hint of the key had been kept: a fallback that answers
//!   for a home knows only what it was given. What was collected by the time at which the read ended
//!   need not be known any more.

use super::describe;
use super::history::{End, OpRecord};
use super::observer::Observer;
use super::trace::clock_face;
use crate::protocol::op::{Action, Op, ReadOutcome};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::VersionVector;
use crate::types::Dot;

/// How many of `n` homes take part in an op.
pub(super) fn taking_part(op: &Op, n: usize) -> usize {
    let majority = if op.strict { Consistency::Quorum.of(n) } else { 0 };
    op.consistency.of(n).max(majority)
}

/// Judges every read of one key: what was violated, in words.
pub(super) fn judge(observer: &Observer, ops: &[&OpRecord]) -> Vec<String> {
    let over: Vec<(Dot, &VersionVector)> =
        ops.iter().flat_map(|op| written_over(observer, op)).collect();
    let mut found = Vec::new();
    for (op, read) in ops.iter().filter_map(|op| Some((op, shown(op)?))) {
        for (dot, context) in over.iter().filter(|(dot, _)| read.seen.covers(*dot)) {
            let stale = read.visible.iter().find(|sibling| context.covers(sibling.dot));
            if let Some(stale) = stale {
                found.push(format!(
                    "{} shows {}, and knows {}, which superseded it",
                    name(op),
                    describe::dot(stale.dot),
                    describe::dot(*dot)
                ));
            }
        }
        let missed = ops.iter().filter(|write| is_owed(observer, op, write));
        for receipt in missed.filter_map(|write| write.receipt()) {
            let by = op.ended.unwrap_or(0);
            let gone = observer.collected.covers_by(op.key(), receipt.dot, by);
            if !read.seen.covers(receipt.dot) && !gone {
                found.push(format!(
                    "{} does not know {}, acknowledged before it by {:?}",
                    name(op),
                    describe::dot(receipt.dot),
                    receipt.homes
                ));
            }
        }
    }
    found
}

fn shown(op: &OpRecord) -> Option<&ReadOutcome> {
    match &op.end {
        Some(End::Read(read)) => Some(read),
        Some(End::Written(_) | End::Failed(_)) | None => None,
    }
}

/// The dots that were made for a write with a context, each with that context.
fn written_over<'a>(observer: &Observer, op: &'a OpRecord) -> Vec<(Dot, &'a VersionVector)> {
    let Action::Put(put) = &op.op.action else { return Vec::new() };
    let (Some(context), Some(request)) = (&put.context, put.request) else { return Vec::new() };
    observer.dots_of(request).map(|dot| (dot, context)).collect()
}

/// Whether any R homes that answer `read` have one among them that acknowledged `write` before.
fn is_owed(observer: &Observer, read: &OpRecord, write: &OpRecord) -> bool {
    let Some(receipt) = write.receipt() else { return false };
    let n = usize::from(observer.placement().replicas);
    let acknowledged = observer.homes_among(&receipt.homes, read.key());
    // W was reached in every live version, and a read asks one of them: majorities meet, whatever has become of the
    // homes since.
    let majority = |op: &Op| op.strict || op.consistency >= Consistency::Quorum;
    let overlap =
        acknowledged + taking_part(&read.op, n) > n || (majority(&write.op) && majority(&read.op));
    let before = write.ended.is_some_and(|ended| ended < read.invoked);
    overlap && before && !observer.was_hinted(read.key(), read.ended.unwrap_or(0))
}

fn name(op: &OpRecord) -> String {
    let begun = clock_face(op.invoked);
    format!("a read begun at {}, {},", begun.trim_start(), describe::op(&op.op))
}
