//! The bound on hints, and reading from them, as stories. A test's name is its rule.

use super::Scenario;
use crate::protocol::op::{Op, Outcome, Reason};
use crate::protocol::quorum::Consistency;
use crate::protocol::step::Tuning;
use crate::types::Key;

fn set(name: &str, value: &str) -> Op {
    let key = Key::new(name.to_owned()).unwrap();
    Op::set(key, value.to_owned().into(), Consistency::Quorum)
}

/// Room for a hint or two.
fn tight() -> Tuning {
    Tuning { hint_bytes_max: 200, ..Tuning::default() }
}

#[test]
fn hints_beyond_their_bound_are_refused_across_restarts_and_what_was_kept_is_handed_over() {
    let mut s = Scenario::with_tuning(4, tight());
    s.kill(1);
    s.kill(2);
    s.run(200);
    // Keys at home on the two that are gone: each write needs node 3 to keep a hint.
    let keys: Vec<String> = (0..)
        .map(|number| format!("k{number}"))
        .filter(|key| !s.homes(key).contains(&3))
        .take(8)
        .collect();
    let mut written = vec![];
    for key in &keys {
        match s.ask(0, set(key, "v")) {
            Outcome::Written(_) => written.push(key),
            Outcome::Failed(failure) => assert_eq!(failure.reason, Reason::HintsFull),
            other @ Outcome::Read(_) => panic!("{other:?}"),
        }
    }
    assert!(!written.is_empty() && written.len() < keys.len(), "{} written", written.len());
    s.lose_power(3);
    s.run(200);
    s.start(3);
    s.run(2_000);
    let refused = s.ask(0, set(&keys[7], "again"));
    let Outcome::Failed(failure) = refused else { panic!("the bound was forgotten: {refused:?}") };
    assert_eq!(failure.reason, Reason::HintsFull);
    s.start(1);
    s.start(2);
    s.settle();
    for key in written {
        assert_eq!(s.get(1, key, Consistency::All).unwrap(), ["v"]);
    }
    // There is room again.
    s.kill(1);
    s.kill(2);
    s.run(200);
    s.put(0, &keys[0], "w").expect("the room of hints that were handed over is not given back");
    s.settle();
}

#[test]
fn what_was_acknowledged_on_hints_can_be_read_while_their_homes_are_away() {
    let mut s = Scenario::new(6);
    let k = s.key_of(&[0, 1, 2]);
    (0..3).for_each(|home| s.kill(home));
    s.run(200);
    s.put(3, &k, "v").expect("two fallbacks are two nodes in two slots");
    for reader in 3..6 {
        let read = s.get(reader, &k, Consistency::Quorum);
        assert_eq!(read.as_deref(), Some(&["v".to_owned()][..]), "through node-{reader}");
    }
    s.settle();
}

#[test]
fn a_key_of_which_no_hint_is_kept_is_not_read_as_absent_while_its_homes_are_away() {
    let mut s = Scenario::new(6);
    let k = s.key_of(&[0, 1, 2]);
    s.put(0, &k, "v").unwrap();
    s.run(1_000);
    (0..3).for_each(|home| s.kill(home));
    s.run(200);
    for reader in 3..6 {
        assert_eq!(s.get(reader, &k, Consistency::One), None, "through node-{reader}");
    }
    s.settle();
}
