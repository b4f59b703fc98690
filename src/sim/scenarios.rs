//! Rules that were each found by a loss, as stories. A test's name is its rule.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;

use super::{Scenario, Tap};
use crate::protocol::message::{DataMessage, WriteAnswer};
use crate::protocol::op::{Action, Op, Outcome, Put};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::{Record, Sibling, VersionVector};
use crate::protocol::step::Tuning;
use crate::types::{Key, RequestId};

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

fn set(name: &str, value: &str, consistency: Consistency) -> Op {
    Op::set(key(name), value.to_owned().into(), consistency)
}

fn strict(mut op: Op) -> Op {
    op.strict = true;
    op
}

fn values(record: Option<&Record>) -> Vec<Bytes> {
    let siblings = record.map(Record::siblings).unwrap_or_default();
    siblings.iter().filter_map(Sibling::value).cloned().collect()
}

fn is_stored_reply(message: &DataMessage) -> bool {
    matches!(message, DataMessage::WriteReply(_, WriteAnswer::Stored(_)))
}

#[test]
fn a_hint_is_deleted_only_if_it_has_not_changed_since_it_was_sent() {
    let mut s = Scenario::new(4);
    let k = s.key_of(&[0, 1, 2]);
    s.kill(2);
    s.run(100);
    s.put(0, &k, "first").unwrap();
    assert!(s.wait(2_000, |s| !s.hint_holders(2, &k).is_empty()), "no hint was kept");
    let holder = s.hint_holders(2, &k)[0];
    // The target's acknowledgement of the first state is on its way for a long time.
    s.tap(move |from, to, message| {
        if from == 2 && to == holder && is_stored_reply(message) { Tap::Park } else { Tap::Pass }
    });
    s.start(2);
    assert!(s.wait(5_000, |s| s.stored(2, &k).is_some()), "the hint was not replayed");
    assert!(s.wait(5_000, |s| s.parked() > 0));
    // Meanwhile the target is out of reach, and the hint grows.
    s.partition(&[&[2], &[0, 1, 3]]);
    s.run(5_000);
    s.put(0, &k, "second").unwrap();
    let both =
        |s: &Scenario| s.hint(holder, 2, &k).is_some_and(|hint| values(Some(&hint)) == ["second"]);
    assert!(s.wait(5_000, both), "the holder's hint did not change");
    s.release();
    s.run(200);
    assert!(s.hint(holder, 2, &k).is_some(), "an acknowledgement of the past deleted the hint");
    s.settle();
    assert_eq!(values(s.stored(2, &k).as_ref()), ["second"]);
}

#[test]
fn a_restart_starts_a_new_tenure() {
    let mut s = Scenario::new(3);
    let before = s.put(0, "k", "before").unwrap();
    s.kill(0);
    s.run(100);
    s.start(0);
    s.run(3_000);
    let after = s.put(0, "k", "after").unwrap();
    assert_ne!(before.actor, after.actor);
    assert!(after > before);
    s.settle();
}

#[test]
fn a_dot_is_never_reused_after_a_lost_local_record() {
    // No copy in memory hides what happens on disk.
    let mut s = Scenario::with_tuning(3, Tuning { recent_bytes_max: 0, ..Tuning::default() });
    let before = s.put(0, "k", "before").unwrap();
    s.run(1_000);
    assert!(s.damage(0, "k"), "nothing was stored");
    let after = s.put(0, "k", "after").unwrap();
    assert_ne!(before.actor, after.actor, "the tenure went on over a lost record");
    s.settle();
    let held = s.stored(0, "k").unwrap();
    assert!(held.seen().covers(before), "the rebuilt copy forgot what the others knew");
    assert!(held.siblings().iter().any(|sibling| sibling.dot == after));
}

#[test]
fn a_refused_commit_ends_the_tenure() {
    let mut s = Scenario::new(3);
    let first = s.put(0, "k", "first").unwrap();
    s.fill_disk(0, true);
    let second = s.put(0, "k", "second").unwrap();
    assert_eq!(first.actor, second.actor);
    s.fill_disk(0, false);
    s.run(1_000);
    let third = s.put(0, "k", "third").unwrap();
    assert_ne!(second.actor, third.actor, "the tenure outlived a write that is not held");
    s.settle();
}

#[test]
fn a_coordinator_that_forgets_its_write_does_not_make_others_forget_it() {
    let mut s = Scenario::new(3);
    s.put(0, "k", "base").unwrap();
    s.run(500);
    // The coordinator's own copy is never synced; the two others acknowledge.
    s.stall_disk(0);
    let put = Put {
        value: Some("kept".into()),
        ttl_ms: None,
        context: Some(VersionVector::default()),
        request: None,
    };
    let op = Op {
        key: key("k"),
        consistency: Consistency::Quorum,
        strict: false,
        action: Action::Put(put),
    };
    let Outcome::Written(kept) = s.ask(0, op) else { panic!("two of three is a quorum") };
    s.partition(&[&[0], &[1, 2]]);
    // Without the kernel's page cache the write is gone here, or (torn differently) still there.
    s.lose_power(0);
    s.run(100);
    s.start(0);
    s.resume_disk(0);
    s.run(500);
    let context = s.stored(0, "k").unwrap().seen().clone();
    let put =
        Put { value: Some("new".into()), ttl_ms: None, context: Some(context), request: None };
    let op = Op {
        key: key("k"),
        consistency: Consistency::One,
        strict: false,
        action: Action::Put(put),
    };
    let held = s.stored(0, "k").unwrap().seen().covers(kept.dot);
    assert!(matches!(s.ask(0, op), Outcome::Written(_)));
    s.settle();
    let end = s.stored(1, "k").unwrap();
    let kept_on = end.siblings().iter().any(|sibling| sibling.dot == kept.dot);
    assert_eq!(kept_on, !held, "a context that never saw the write decided its fate");
}

#[test]
fn a_merge_that_equals_what_is_queued_is_acknowledged_only_once_that_is_durable() {
    let mut s = Scenario::new(3);
    s.stall_disk(1);
    let replies = Rc::new(RefCell::new(0));
    let counted = Rc::clone(&replies);
    s.tap(move |from, _, message| match message {
        DataMessage::Write(_) => Tap::Again(2_000),
        _ => {
            *counted.borrow_mut() += u32::from(from == 1 && is_stored_reply(message));
            Tap::Pass
        }
    });
    let begun = s.begin(0, set("k", "v", Consistency::All));
    s.run(150);
    assert_eq!(*replies.borrow(), 0, "a duplicate was acknowledged before the fsync");
    assert_eq!(s.outcome(begun), None);
    s.resume_disk(1);
    assert!(s.wait(500, |s| s.outcome(begun).is_some()));
    assert!(matches!(s.outcome(begun), Some(Outcome::Written(_))));
    assert!(*replies.borrow() >= 1);
    s.settle();
}

#[test]
fn a_passed_request_that_the_network_duplicates_runs_once() {
    let mut s = Scenario::new(4);
    let k = s.key_of(&[0, 1, 2]);
    let passes = Rc::new(RefCell::new(0));
    let counted = Rc::clone(&passes);
    s.tap(move |_, _, message| match message {
        DataMessage::Pass(_) => {
            *counted.borrow_mut() += 1;
            Tap::Again(3_000_000)
        }
        _ => Tap::Pass,
    });
    s.put(3, &k, "early").unwrap();
    assert!(*passes.borrow() > 0, "node 3 is no home: it must pass the request");
    for via in s.homes(&k) {
        s.put(via, &k, "late").unwrap();
    }
    s.run(4_000);
    assert_eq!(s.get(0, &k, Consistency::All).unwrap(), ["late"]);
    s.settle();
}

#[test]
fn a_power_loss_of_all_nodes_at_once_keeps_acknowledged_writes() {
    let mut s = Scenario::new(5);
    let mut kept = vec![];
    for number in 0..40 {
        let (k, v) = (format!("k{number}"), format!("v{number}"));
        if s.put(number % 5, &k, &v).is_some() {
            kept.push((k, v));
        }
    }
    // In the middle of the next write.
    let _ = s.begin(0, set("last", "v", Consistency::Quorum));
    s.run(1);
    s.lose_power_everywhere();
    s.run(500);
    (0..5).for_each(|node| s.start(node));
    s.run(3_000);
    assert_eq!(kept.len(), 40);
    for (k, v) in kept {
        assert_eq!(s.get(0, &k, Consistency::Quorum).unwrap(), [v]);
    }
    s.settle();
}

#[test]
fn a_clock_set_back_288_seconds_at_a_restart_reuses_no_stamp() {
    let mut s = Scenario::new(3);
    let before = s.put(0, "k", "before").unwrap();
    let other = s.put(0, "other", "before").unwrap();
    s.run(500);
    s.kill(0);
    s.wall_clock(0, -288_000);
    s.run(100);
    s.start(0);
    s.run(3_000);
    let after = s.put(0, "k", "after").unwrap();
    assert!(after > before, "{after:?} is not above {before:?}");
    let fresh = s.put(0, "fresh", "after").unwrap();
    assert!(fresh.stamp > other.stamp, "the clock started below its last value");
    assert_eq!(s.get(1, "k", Consistency::All).unwrap(), ["after"]);
    s.settle();
}

#[test]
fn a_node_counts_once_however_many_hints_it_keeps() {
    let mut s = Scenario::new(3);
    s.kill(1);
    s.kill(2);
    s.run(200);
    let outcome = s.ask(0, set("k", "v", Consistency::Quorum));
    let Outcome::Failed(failure) = outcome else { panic!("one disk is no quorum: {outcome:?}") };
    assert!(failure.maybe_applied);
    assert!(matches!(s.ask(0, set("k", "w", Consistency::One)), Outcome::Written(_)));
    s.settle();
    assert_eq!(s.get(2, "k", Consistency::All).unwrap(), ["w"]);
}

#[test]
fn two_fallbacks_with_hints_of_two_dead_homes_make_a_quorum_with_none() {
    let mut s = Scenario::new(5);
    let k = s.key_of(&[0, 1, 2]);
    s.kill(1);
    s.kill(2);
    s.run(200);
    s.put(0, &k, "v").expect("a home and a fallback are two nodes in two slots");
    let strictly = s.ask(0, strict(set(&k, "w", Consistency::Quorum)));
    assert!(matches!(strictly, Outcome::Failed(_)), "a strict request counts no hint");
    s.settle();
}

#[test]
fn a_stamp_from_the_far_future_does_not_make_a_key_unwritable() {
    let mut s = Scenario::new(3);
    s.wall_clock(0, 288_000);
    let far = s.put(0, "k", "far").unwrap();
    s.wall_clock(0, 0);
    s.run(1_000);
    let over = s.put(1, "k", "over").unwrap();
    assert!(over > far, "the later write does not win over the far one");
    assert_eq!(s.get(2, "k", Consistency::All).unwrap(), ["over"]);
    let elsewhere = s.put(1, "other", "v").unwrap();
    assert!(elsewhere.stamp < far.stamp, "one bad clock dragged another along");
    s.settle();
}

#[test]
fn hints_are_found_again_when_their_holder_starts() {
    let mut s = Scenario::new(4);
    let k = s.key_of(&[0, 1, 2]);
    s.kill(2);
    s.run(200);
    s.put(0, &k, "v").unwrap();
    assert!(s.wait(2_000, |s| !s.hint_holders(2, &k).is_empty()));
    let holder = s.hint_holders(2, &k)[0];
    s.kill(holder);
    s.run(200);
    s.start(2);
    s.run(2_000);
    s.start(holder);
    assert!(s.wait(20_000, |s| s.stored(2, &k).is_some() && s.hint(holder, 2, &k).is_none()));
    s.settle();
}

#[test]
fn concurrent_writes_on_two_sides_of_a_partition_both_live() {
    let mut s = Scenario::new(4);
    let k = s.key_of(&[0, 1, 2]);
    s.put(0, &k, "base").unwrap();
    s.partition(&[&[0, 3], &[1, 2]]);
    s.run(100);
    let left = s.ask(0, set(&k, "left", Consistency::One));
    let right = s.ask(1, set(&k, "right", Consistency::One));
    assert!(matches!((left, right), (Outcome::Written(_), Outcome::Written(_))));
    s.settle();
    let mut shown = s.get(3, &k, Consistency::All).unwrap();
    shown.sort();
    assert_eq!(shown, ["left", "right"]);
}

#[test]
fn a_retry_with_the_same_request_id_writes_once() {
    let mut s = Scenario::new(4);
    let k = s.key_of(&[0, 1, 2]);
    let request = Some(RequestId([7; 16]));
    let put = Put { value: Some("v".into()), ttl_ms: None, context: None, request };
    let op = Op {
        key: key(&k),
        consistency: Consistency::Quorum,
        strict: false,
        action: Action::Put(put),
    };
    let Outcome::Written(first) = s.ask(0, op.clone()) else { panic!("no fault was made") };
    s.run(500);
    for via in [1, 2, 3, 0] {
        let Outcome::Written(again) = s.ask(via, op.clone()) else { panic!("no fault was made") };
        assert_eq!(again.dot, first.dot, "via node {via}");
    }
    s.settle();
}

#[test]
fn what_a_strict_read_has_shown_stays_seen() {
    let mut s = Scenario::new(3);
    s.put(0, "k", "old").unwrap();
    // The new value reaches one disk only.
    s.partition(&[&[0], &[1, 2]]);
    s.run(50);
    assert!(matches!(s.ask(0, set("k", "new", Consistency::One)), Outcome::Written(_)));
    s.mend();
    s.run(5_000);
    let read = strict(Op::get(key("k"), Consistency::Quorum));
    let Outcome::Read(first) = s.ask(0, read.clone()) else { panic!("all can be reached") };
    assert_eq!(&first.visible[0].value[..], b"new");
    s.lose_power(0);
    s.run(200);
    let Outcome::Read(second) = s.ask(1, read) else { panic!("two of three can be reached") };
    assert_eq!(&second.visible[0].value[..], b"new", "what was shown is gone");
    s.settle();
}
