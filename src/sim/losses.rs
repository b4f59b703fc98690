//! More rules that were each found by a loss, as stories: see `docs/losses.md` for the whole list.

use super::{Scenario, Tap};
use crate::protocol::message::DataMessage;
use crate::protocol::op::{Action, Op, Outcome, Put};
use crate::protocol::quorum::Consistency;
use crate::protocol::step::Tuning;
use crate::types::{Key, RequestId};

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

fn set(name: &str, value: &str, consistency: Consistency) -> Op {
    Op::set(key(name), value.to_owned().into(), consistency)
}

/// No copy in memory hides what happens on disk.
fn without_copies(nodes: usize) -> Scenario {
    Scenario::with_tuning(nodes, Tuning { recent_bytes_max: 0, ..Tuning::default() })
}

#[test]
fn a_merge_that_shows_more_of_an_actor_than_its_node_holds_ends_the_tenure() {
    let mut s = without_copies(3);
    let before = s.put(0, "k", "before").unwrap();
    s.run(1_000);
    assert!(s.forget(0, "k"), "nothing was stored");
    // Others have what node 0 has written and forgotten, and a read sends it back.
    assert_eq!(s.get(1, "k", Consistency::All).unwrap(), ["before"]);
    s.run(1_000);
    let after = s.put(0, "k", "after").unwrap();
    assert_ne!(before.actor, after.actor, "the tenure went on over a record that was not held");
    s.settle();
}

#[test]
fn a_hint_that_its_target_refuses_is_kept_and_tried_again() {
    let mut s = Scenario::new(4);
    let k = s.key_of(&[0, 1, 2]);
    s.kill(2);
    s.run(100);
    s.put(0, &k, "v").unwrap();
    assert!(s.wait(2_000, |s| !s.hint_holders(2, &k).is_empty()), "no hint was kept");
    s.fill_disk(2, true);
    s.start(2);
    s.run(20_000);
    assert!(s.stored(2, &k).is_none(), "a full disk took something");
    assert!(!s.hint_holders(2, &k).is_empty(), "a replay that was refused counted as delivered");
    s.fill_disk(2, false);
    assert!(s.wait(20_000, |s| s.stored(2, &k).is_some() && s.hint_holders(2, &k).is_empty()));
    s.settle();
}

#[test]
fn a_hint_whose_replays_are_lost_for_a_minute_is_tried_again() {
    let mut s = Scenario::new(4);
    let k = s.key_of(&[0, 1, 2]);
    s.kill(2);
    s.run(100);
    s.put(0, &k, "v").unwrap();
    assert!(s.wait(2_000, |s| !s.hint_holders(2, &k).is_empty()), "no hint was kept");
    s.tap(|_, to, message| {
        let replay = to == 2 && matches!(message, DataMessage::Write(_));
        if replay { Tap::Drop } else { Tap::Pass }
    });
    s.start(2);
    s.run(60_000);
    assert!(!s.hint_holders(2, &k).is_empty(), "what never arrived counted as delivered");
    s.release();
    assert!(s.wait(20_000, |s| s.stored(2, &k).is_some() && s.hint_holders(2, &k).is_empty()));
    s.settle();
}

#[test]
fn a_delete_outranks_what_it_deletes_whatever_the_clocks() {
    let mut s = Scenario::new(3);
    s.wall_clock(0, 288_000);
    let far = s.put(0, "k", "far").unwrap();
    s.wall_clock(0, 0);
    s.run(1_000);
    let put = Put { value: None, ttl_ms: None, context: None, request: None };
    let action = Action::Put(put);
    let op = Op { key: key("k"), consistency: Consistency::Quorum, strict: false, action };
    let Outcome::Written(gone) = s.ask(1, op) else { panic!("no fault was made") };
    assert!(gone.dot > far, "the tombstone lies below what it deletes");
    assert!(s.get(2, "k", Consistency::All).unwrap().is_empty(), "deleted data is still shown");
    s.settle();
}

#[test]
fn a_write_builds_on_what_is_queued_and_not_only_on_what_is_stored() {
    let mut s = Scenario::new(3);
    s.put(0, "k", "stored").unwrap();
    s.stall_disk(0);
    let first = s.begin(0, set("k", "queued", Consistency::Quorum));
    s.run(20);
    let second = s.begin(0, set("k", "over it", Consistency::Quorum));
    s.run(20);
    s.resume_disk(0);
    assert!(s.wait(1_000, |s| s.outcome(first).is_some() && s.outcome(second).is_some()));
    assert_eq!(s.get(1, "k", Consistency::All).unwrap(), ["over it"]);
    let held = s.stored(0, "k").unwrap();
    assert_eq!(held.siblings().len(), 1, "two writes of one node were formed over one past");
    s.settle();
}

#[test]
fn a_coordinator_that_is_no_home_takes_a_fresh_actor_for_each_write() {
    let mut s = Scenario::new(5);
    let k = s.key_of(&[0, 1, 2]);
    (0..3).for_each(|home| s.kill(home));
    s.run(200);
    let first = s.put(3, &k, "first").expect("two fallbacks are two nodes in two slots");
    let second = s.put(3, &k, "second").expect("two fallbacks are two nodes in two slots");
    assert_ne!(first.actor, second.actor, "it does not hold what that actor wrote before");
    assert!(second > first);
    s.settle();
    assert_eq!(s.get(0, &k, Consistency::All).unwrap(), ["second"]);
}

#[test]
fn a_fallback_without_a_hint_is_no_answer() {
    let mut s = Scenario::new(4);
    let k = s.key_of(&[0, 1, 2]);
    s.put(0, &k, "v").unwrap();
    s.run(500);
    s.kill(1);
    s.kill(2);
    s.run(200);
    assert_eq!(s.get(3, &k, Consistency::One).unwrap(), ["v"]);
    assert_eq!(s.get(0, &k, Consistency::Quorum), None, "that there is no hint is no answer");
    s.settle();
}

#[test]
fn a_recognised_request_is_answered_only_once_its_record_has_reached_w_anew() {
    let mut s = Scenario::new(3);
    s.partition(&[&[0], &[1, 2]]);
    s.run(100);
    let request = Some(RequestId([9; 16]));
    let put = Put { value: Some("v".into()), ttl_ms: None, context: None, request };
    let ask = |consistency| Op {
        key: key("k"),
        consistency,
        strict: false,
        action: Action::Put(put.clone()),
    };
    let Outcome::Written(first) = s.ask(0, ask(Consistency::One)) else { panic!("one is enough") };
    let again = s.ask(0, ask(Consistency::Quorum));
    assert!(matches!(again, Outcome::Failed(_)), "one disk is no quorum: {again:?}");
    s.mend();
    s.run(5_000);
    let Outcome::Written(second) = s.ask(0, ask(Consistency::Quorum)) else {
        panic!("all can be reached")
    };
    assert_eq!(second.dot, first.dot, "the request was written twice");
    assert!(second.homes.len() >= 2);
    s.settle();
}

#[test]
fn a_misdirected_write_is_never_served() {
    let mut s = without_copies(3);
    s.put(0, "a", "of a").unwrap();
    s.put(0, "b", "of b").unwrap();
    s.run(1_000);
    assert!(s.misdirect(0), "two records were stored");
    for name in ["a", "b"] {
        let value = format!("of {name}");
        assert_eq!(s.get(0, name, Consistency::Quorum).unwrap(), std::slice::from_ref(&value));
        // Until it is rebuilt, the damaged copy does not count toward ALL.
        s.run(2_000);
        assert_eq!(s.get(1, name, Consistency::All).unwrap(), [value]);
    }
    s.settle();
}
