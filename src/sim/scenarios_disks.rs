//! Rules about disks that are lost, as stories. A test's name is its rule.

use super::{Scenario, Tap};
use crate::protocol::message::{DataMessage, WriteAnswer};
use crate::protocol::op::{Op, Outcome};
use crate::protocol::quorum::Consistency;
use crate::protocol::record::{Record, Sibling};
use crate::types::Key;

/// A lost disk's place is taken, and the new disk is whole, within this.
const REBUILT_MS: u64 = 60_000;

fn values(record: Option<&Record>) -> Vec<Vec<u8>> {
    let siblings = record.map(Record::siblings).unwrap_or_default();
    siblings.iter().filter_map(Sibling::value).map(|value| value.to_vec()).collect()
}

fn is_in_place(s: &Scenario, node: usize) -> bool {
    (0..3).all(|other| s.sees(other, node) == Some(s.id(node)))
}

#[test]
fn a_wiped_disk_comes_back_in_its_place_and_is_rebuilt_from_the_others() {
    let mut s = Scenario::governed(3);
    let keys: Vec<String> = (0..30).map(|number| format!("k{number}")).collect();
    for key in &keys {
        s.put(0, key, "before").unwrap();
    }
    let old = s.id(1);
    s.wipe(1);
    s.start(1);
    assert_ne!(s.id(1), old, "an id was used again after its disk was lost");
    assert!(s.wait(REBUILT_MS, |s| is_in_place(s, 1)), "it was not admitted");
    assert!(s.wait(REBUILT_MS, |s| s.partitions_lost() == 0), "it was not rebuilt");
    for key in &keys {
        assert_eq!(values(s.stored(1, key).as_ref()), [b"before"]);
    }
    s.settle();
}

#[test]
fn no_answer_of_a_disk_that_is_rebuilt_counts_as_a_read() {
    let mut s = Scenario::governed(3);
    s.put(0, "k", "v").unwrap();
    s.run(100);
    s.wipe(1);
    s.start(1);
    // The rebuilding gets nowhere: what it asks for is lost.
    s.tap(|from, _, message| match message {
        DataMessage::Sync(..) if from == 1 => Tap::Drop,
        _ => Tap::Pass,
    });
    assert!(s.wait(REBUILT_MS, |s| is_in_place(s, 1)), "it was not admitted");
    s.run(2_000);
    for via in 0..3 {
        assert_eq!(s.get(via, "k", Consistency::Quorum).unwrap(), ["v"]);
        assert_eq!(s.get(via, "k", Consistency::All), None, "an empty disk's answer counted");
    }
    s.kill(2);
    s.run(8_000);
    for via in 0..2 {
        assert_eq!(s.get(via, "k", Consistency::One).unwrap(), ["v"]);
        assert_eq!(s.get(via, "k", Consistency::Quorum), None, "an empty disk's answer counted");
    }
    // It takes writes all the same.
    s.put(0, "other", "w").unwrap();
    s.settle();
}

#[test]
fn late_messages_of_a_fenced_disk_are_refused_and_its_acknowledgements_do_not_count() {
    let mut s = Scenario::governed(3);
    let stored = |message: &DataMessage| {
        matches!(message, DataMessage::WriteReply(_, WriteAnswer::Stored(_)))
    };
    // Node 1 has stored a write, and its word of it is on its way for a long time; node 2 is away.
    s.kill(2);
    s.run(500);
    s.tap(
        move |from, to, message| {
            if from == 1 && to == 0 && stored(message) { Tap::Park } else { Tap::Pass }
        },
    );
    let key = Key::new("k").unwrap();
    let begun = s.begin(0, Op::set(key, "v".into(), Consistency::All));
    assert!(s.wait(5_000, |s| s.parked() > 0), "node 1 did not store it");
    s.wipe(1);
    s.start(1);
    s.start(2);
    assert!(s.wait(REBUILT_MS, |s| is_in_place(s, 1)), "it was not admitted");
    let before = s.refused(0);
    s.release();
    assert!(s.wait(5_000, |s| s.refused(0) > before), "its message was heard");
    assert!(!matches!(s.outcome(begun), Some(Outcome::Written(_))), "its word counted");
    s.settle();
}

#[test]
fn a_restored_snapshot_goes_on_as_another_disk_and_shows_nothing_old() {
    let mut s = Scenario::governed(3);
    s.put(0, "k", "old").unwrap();
    s.run(500);
    s.snapshot(1);
    s.put(0, "k", "new").unwrap();
    // What peers have heard of a disk's commits they keep within a second.
    s.run(5_000);
    let old = s.id(1);
    s.restore(1);
    s.start(1);
    assert!(s.wait(REBUILT_MS, |s| s.id(1) != old && is_in_place(s, 1)), "it goes on as it was");
    s.kill(0);
    s.run(8_000);
    if let Some(shown) = s.get(1, "k", Consistency::Quorum) {
        assert_eq!(shown, ["new"]);
    }
    s.start(0);
    assert!(s.wait(REBUILT_MS, |s| s.partitions_lost() == 0), "it was not rebuilt");
    assert_eq!(values(s.stored(1, "k").as_ref()), [b"new"]);
    s.settle();
}

#[test]
fn what_fallbacks_keep_for_a_lost_disk_goes_to_the_one_in_its_place() {
    let mut s = Scenario::governed(5);
    let key = s.key_of(&[0, 1, 2]);
    s.wipe(1);
    s.run(8_000);
    s.put(0, &key, "missed").unwrap();
    assert!(s.wait(5_000, |s| !s.hint_holders(1, &key).is_empty()), "no hint was kept");
    s.start(1);
    assert!(s.wait(REBUILT_MS, |s| is_in_place(s, 1)), "it was not admitted");
    assert!(s.wait(REBUILT_MS, |s| s.hint_holders(1, &key).is_empty()), "the hint stays");
    assert_eq!(values(s.stored(1, &key).as_ref()), [b"missed"]);
    s.settle();
}
