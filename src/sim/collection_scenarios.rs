//! The rules of collection, as stories, each told once as it is and once with the mistake that it is about.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Check, Scenario, Tap};
use crate::protocol::defect::Defect;
use crate::protocol::message::{DataMessage, RoundMessage, WriteRequest};
use crate::protocol::op::{Action, Op, Outcome, Put};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::Sibling;
use crate::protocol::step::Tuning;
use crate::types::Key;

/// Collection every half a second, and clocks that may differ by one.
fn tuning() -> Tuning {
    let (collect_interval, collect_rest) = (500_000, 1_000);
    Tuning { collect_interval, collect_rest, skew_ms_max: 1_000, ..Tuning::default() }
}

fn scenario(defect: Option<Defect>) -> Scenario {
    Scenario::with_defect(4, tuning(), defect)
}

fn holders(s: &Scenario, key: &str) -> usize {
    (0..4).filter(|&node| s.stored(node, key).is_some()).count()
}

fn values_at(s: &Scenario, node: usize, key: &str) -> Vec<String> {
    let record = s.stored(node, key).unwrap_or_default();
    let values = record.siblings().iter().filter_map(Sibling::value);
    values.map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

fn hit(s: &Scenario, check: Check) -> bool {
    s.violations().iter().any(|violation| violation.check == check)
}

fn is_close(message: &DataMessage) -> bool {
    matches!(message, DataMessage::Round(RoundMessage::Close(..)))
}

/// Every home's copy is gone within so many seconds.
fn is_collected(s: &mut Scenario, key: &str, seconds: u64) -> bool {
    s.wait(seconds * 1_000, |s| holders(s, key) == 0)
}

#[test]
fn a_deleted_key_is_collected_and_can_be_made_anew() {
    let mut s = scenario(None);
    let k = s.key_of(&[0, 1, 2]);
    s.put(0, &k, "old").unwrap();
    s.delete(1, &k).unwrap();
    assert!(is_collected(&mut s, &k, 20), "it is still there");
    assert_eq!(s.get(3, &k, Consistency::All).unwrap(), [""; 0]);
    s.put(2, &k, "new").unwrap();
    s.settle();
    assert_eq!(s.get(0, &k, Consistency::All).unwrap(), ["new"]);
}

#[test]
fn what_has_expired_is_collected_after_the_skew_that_clocks_may_have() {
    let mut s = scenario(None);
    let k = s.key_of(&[0, 1, 2]);
    let put =
        Put { value: Some("brief".into()), ttl_ms: Some(3_000), context: None, request: None };
    let key = Key::new(k.clone()).unwrap();
    let action = Action::Put(put);
    let op = Op { key, consistency: Consistency::All, strict: false, action };
    assert!(matches!(s.ask(0, op), Outcome::Written(_)));
    s.run(3_500);
    assert_eq!(holders(&s, &k), 3, "it has expired, but some clock might not say so");
    assert!(is_collected(&mut s, &k, 20), "it is still there");
    s.settle();
}

/// A fallback that nobody reaches keeps a hint of the value that is then deleted everywhere else.
fn doomstone(defect: Option<Defect>) -> (Scenario, String) {
    let mut s = scenario(defect);
    let k = s.key_of(&[0, 1, 2]);
    s.kill(2);
    s.run(500);
    s.put(0, &k, "old").unwrap();
    assert!(s.wait(2_000, |s| s.hint_holders(2, &k) == [3]), "no hint was kept");
    s.partition(&[&[3], &[0, 1, 2]]);
    s.run(5_000);
    s.start(2);
    s.run(3_000);
    s.delete(0, &k).unwrap();
    s.run(15_000);
    (s, k)
}

#[test]
fn a_tombstone_outlives_a_hint_that_nobody_can_reach() {
    let (mut s, k) = doomstone(None);
    assert_eq!(holders(&s, &k), 3, "collected while a hint of what it superseded was left");
    s.mend();
    assert!(is_collected(&mut s, &k, 40), "it is still there");
    s.put(1, &k, "new").unwrap();
    s.settle();
    assert_eq!(s.get(0, &k, Consistency::All).unwrap(), ["new"]);
    let (early, _) = doomstone(Some(Defect::CollectEarly));
    assert!(hit(&early, Check::C7), "nobody noticed that it was collected early");
}

/// A hint is sent twice; the second time it arrives when all of it is long over.
fn old_hint(defect: Option<Defect>) -> (Scenario, String) {
    let mut s = scenario(defect);
    let k = s.key_of(&[0, 1, 2]);
    s.kill(2);
    s.run(500);
    s.tap(|_, to, message| match message {
        DataMessage::Write(WriteRequest { hint_for: Some(_), .. }) if to == 3 => {
            Tap::Again(40_000_000)
        }
        _ => Tap::Pass,
    });
    s.put(0, &k, "old").unwrap();
    assert!(s.wait(2_000, |s| s.hint_holders(2, &k) == [3]), "no hint was kept");
    s.release();
    s.start(2);
    s.run(3_000);
    s.delete(0, &k).unwrap();
    assert!(is_collected(&mut s, &k, 30), "it is still there");
    s.run(50_000);
    (s, k)
}

#[test]
fn an_old_hint_that_arrives_after_a_collection_is_refused() {
    let (mut s, k) = old_hint(None);
    assert_eq!(holders(&s, &k), 0, "it has come back");
    s.settle();
    assert_eq!(s.get(0, &k, Consistency::All).unwrap(), [""; 0]);
    for defect in [Defect::AcceptOverRound, Defect::ConfirmWithoutBarrier] {
        let (mut s, k) = old_hint(Some(defect));
        assert!((0..4).any(|node| !values_at(&s, node, &k).is_empty()), "{defect:?} did no harm");
        assert_eq!(s.get(0, &k, Consistency::All).unwrap(), ["old"]);
    }
}

/// A write to a home is sent twice, and arrives again after the collection and a restart of everyone.
fn old_write(defect: Option<Defect>) -> (Scenario, String) {
    let mut s = scenario(defect);
    let k = s.key_of(&[0, 1, 2]);
    s.tap(|_, to, message| match message {
        DataMessage::Write(_) if to == 1 => Tap::Again(40_000_000),
        _ => Tap::Pass,
    });
    s.put(0, &k, "old").unwrap();
    s.release();
    s.delete(0, &k).unwrap();
    assert!(is_collected(&mut s, &k, 30), "it is still there");
    s.run(1_000);
    assert!((0..4).all(|node| s.closed_round(node, &k) > 0), "someone has not closed the round");
    s.lose_power_everywhere();
    s.run(200);
    (0..4).for_each(|node| s.start(node));
    s.run(50_000);
    (s, k)
}

#[test]
fn the_numbers_of_rounds_survive_a_restart_and_refuse_an_old_write() {
    let (mut s, k) = old_write(None);
    assert_eq!(holders(&s, &k), 0, "it has come back");
    s.settle();
    let (s, k) = old_write(Some(Defect::AcceptOverRound));
    assert_eq!(values_at(&s, 1, &k), ["old"], "the mistake did no harm");
}

#[test]
fn a_tombstone_outlives_an_absent_home() {
    let mut s = scenario(None);
    let k = s.key_of(&[0, 1, 2]);
    s.put(0, &k, "old").unwrap();
    s.run(1_000);
    s.kill(2);
    s.run(3_000);
    s.delete(0, &k).unwrap();
    s.run(30_000);
    assert!(s.stored(0, &k).is_some() && s.stored(1, &k).is_some(), "collected by age");
    assert_eq!(values_at(&s, 2, &k), ["old"]);
    s.start(2);
    assert!(is_collected(&mut s, &k, 40), "it is still there");
    s.settle();
    assert_eq!(s.get(2, &k, Consistency::All).unwrap(), [""; 0]);
}

/// A home does not hear that a round was closed, and takes a new write over what the others have dropped.
fn late_home(defect: Option<Defect>) -> (Scenario, String) {
    let mut s = scenario(defect);
    let k = s.key_of(&[0, 1, 2]);
    s.put(0, &k, "old").unwrap();
    s.delete(0, &k).unwrap();
    s.tap(|_, to, message| if to == 2 && is_close(message) { Tap::Drop } else { Tap::Pass });
    let gone = |s: &Scenario| s.stored(0, &k).is_none() && s.stored(1, &k).is_none();
    assert!(s.wait(20_000, gone), "the others did not close the round");
    assert!(s.stored(2, &k).is_some(), "it has heard of the close");
    s.put(2, &k, "new").unwrap();
    s.run(1_000);
    s.release();
    s.run(5_000);
    (s, k)
}

#[test]
fn a_late_copy_is_cut_and_not_discarded() {
    let (mut s, k) = late_home(None);
    assert_eq!(values_at(&s, 2, &k), ["new"]);
    s.settle();
    assert_eq!(s.get(0, &k, Consistency::All).unwrap(), ["new"]);
    let (s, _) = late_home(Some(Defect::DiscardLateCopy));
    assert!(hit(&s, Check::D1), "nobody noticed that a new write was discarded");
}

#[test]
fn a_home_that_was_away_when_a_round_closed_applies_it_when_it_is_back() {
    let mut s = scenario(None);
    let k = s.key_of(&[0, 1, 2]);
    s.put(0, &k, "old").unwrap();
    s.delete(0, &k).unwrap();
    s.tap(|_, to, message| if to == 2 && is_close(message) { Tap::Drop } else { Tap::Pass });
    let gone = |s: &Scenario| s.stored(0, &k).is_none() && s.stored(1, &k).is_none();
    assert!(s.wait(20_000, gone), "the others did not close the round");
    s.kill(2);
    s.run(20_000);
    s.release();
    s.start(2);
    assert!(is_collected(&mut s, &k, 20), "it has not heard of the close");
    s.settle();
}

#[test]
fn a_read_that_still_holds_an_old_copy_pins_collection() {
    let mut s = scenario(None);
    let k = s.key_of(&[0, 1, 2]);
    s.put(0, &k, "old").unwrap();
    s.run(1_000);
    // The answer of one home, with the old value, is on its way for a long time.
    let parked = Rc::new(Cell::new(false));
    let seen = Rc::clone(&parked);
    s.tap(move |from, to, message| match message {
        DataMessage::ReadReply(..) if from == 1 && to == 3 && !seen.get() => {
            seen.set(true);
            Tap::Park
        }
        _ => Tap::Pass,
    });
    let begun = s.begin(3, Op::get(Key::new(k.clone()).unwrap(), Consistency::All));
    assert!(s.wait(1_000, |_| parked.get()), "nothing was parked");
    s.delete(0, &k).unwrap();
    s.run(6_000);
    assert_eq!(holders(&s, &k), 3, "collected under a read that holds what it superseded");
    assert!(is_collected(&mut s, &k, 30), "the read pins it for ever");
    s.release();
    s.run(2_000);
    assert!(s.outcome(begun).is_some());
    assert_eq!(holders(&s, &k), 0, "the late answer brought it back");
    s.settle();
}

#[test]
fn a_home_that_refuses_to_open_spends_the_number_and_no_more() {
    let mut s = scenario(None);
    let k = s.key_of(&[0, 1, 2]);
    s.put(0, &k, "old").unwrap();
    s.delete(0, &k).unwrap();
    // Between the survey and the opening one home's copy grows.
    let opens = Rc::new(RefCell::new(0));
    let counted = Rc::clone(&opens);
    s.tap(move |_, to, message| match message {
        DataMessage::Round(RoundMessage::Open { .. }) if to == 2 => {
            *counted.borrow_mut() += 1;
            if *counted.borrow() == 1 { Tap::Park } else { Tap::Pass }
        }
        DataMessage::Round(RoundMessage::Open { .. }) => Tap::Drop,
        _ => Tap::Pass,
    });
    assert!(s.wait(20_000, |s| s.parked() > 0), "no round was begun");
    s.delete(2, &k).unwrap();
    s.release();
    assert!(is_collected(&mut s, &k, 30), "the refused round is still in the way");
    s.settle();
}

#[test]
fn a_disk_that_was_set_back_to_before_a_closed_round_is_set_aside() {
    // It may have been brought what it holds, or have written it itself.
    for writer in [0, 2] {
        set_back_after_a_write_of(writer);
    }
}

fn set_back_after_a_write_of(writer: usize) {
    let mut s = scenario(None);
    let k = s.key_of(&[0, 1, 2]);
    s.put(writer, &k, "old").unwrap();
    s.run(1_000);
    let before = s.keep_disk(2);
    s.delete(0, &k).unwrap();
    assert!(is_collected(&mut s, &k, 30), "it is still there");
    s.run(3_000);
    s.kill(2);
    s.set_disk_back(2, before);
    s.start(2);
    s.run(3_000);
    // What it says is of a round that is over: nobody counts it, and it hears so.
    assert_eq!(s.get(0, &k, Consistency::Quorum).unwrap(), [""; 0]);
    let other = (0..9_999).map(|n| format!("o{n}"));
    let mut other = other.filter(|name| s.same_partition(name, &k));
    let other = other.next().unwrap();
    s.put(0, &other, "x").unwrap();
    s.delete(0, &other).unwrap();
    assert!(s.wait(30_000, |s| s.set_aside(2) > 0), "it was not set aside");
    s.run(5_000);
    assert!((0..4).all(|node| values_at(&s, node, &k).is_empty()), "it has come back");
    for via in 0..4 {
        assert_eq!(s.get(via, &k, Consistency::Quorum).unwrap(), [""; 0]);
    }
}

#[test]
fn a_dot_made_after_a_collection_is_new_though_its_stamp_lies_below_collected_ones() {
    let (collect_interval, collect_rest) = (500_000, 1_000);
    let tuning = Tuning { collect_interval, collect_rest, ..Tuning::default() };
    let mut s = Scenario::with_tuning(4, tuning);
    let k = s.key_of(&[0, 1, 2]);
    // A clock is further ahead than clocks may be, and nobody has noticed yet: what is written over that
    // gets stamps from ahead, and the writer's own clock does not follow.
    s.wall_clock(1, 100_000);
    s.put(1, &k, "ahead").unwrap();
    s.wall_clock(1, 0);
    let dead = s.delete(0, &k).unwrap();
    assert!(is_collected(&mut s, &k, 20), "it is still there");
    let new = s.put(0, &k, "new").unwrap();
    assert!(new.stamp < dead.stamp, "the story needs a record that kept stamps apart");
    assert_ne!(new.actor, dead.actor, "its dot may have been used before");
    s.settle();
    assert_eq!(s.get(2, &k, Consistency::All).unwrap(), ["new"]);
}
