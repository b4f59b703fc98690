//! What homes do of their own accord, as stories: they compare, scrub, and mend. No reader helps.

use bytes::Bytes;

use super::Scenario;
use crate::protocol::quorum::Consistency;
use crate::protocol::record::{Record, Sibling};
use crate::protocol::step::Tuning;

/// From one round of comparisons to the next, in milliseconds.
const ROUND: u64 = 5_000;

fn tuning() -> Tuning {
    Tuning {
        recent_bytes_max: 0,
        sync_interval: ROUND * 1_000,
        scrub_interval: 2 * ROUND * 1_000,
        ..Tuning::default()
    }
}

fn values(record: Option<&Record>) -> Vec<Bytes> {
    let siblings = record.map(Record::siblings).unwrap_or_default();
    siblings.iter().filter_map(Sibling::value).cloned().collect()
}

#[test]
fn a_hint_that_was_refused_is_made_up_for_by_comparing() {
    let mut s = Scenario::with_tuning(3, Tuning { hint_bytes_max: 0, ..tuning() });
    s.put(0, "k", "before").unwrap();
    s.kill(2);
    s.run(500);
    s.put(0, "k", "meanwhile").unwrap();
    assert!((0..3).all(|home| s.hint_holders(home, "k").is_empty()), "a hint was kept");
    s.start(2);
    let mended = |s: &Scenario| values(s.stored(2, "k").as_ref()) == ["meanwhile"];
    assert!(s.wait(2 * ROUND, mended), "nobody told the home what it had missed");
    s.settle();
}

#[test]
fn a_power_cut_of_all_leaves_homes_that_agree_again_without_a_reader() {
    let mut s = Scenario::with_tuning(3, tuning());
    s.run(2 * ROUND);
    for number in 0..20 {
        s.put(number % 3, &format!("k{number}"), "value").unwrap();
    }
    // One home never syncs what it was sent; nobody keeps a hint, for it was not silent.
    s.stall_disk(1);
    s.put(0, "k3", "newer").unwrap();
    s.lose_power_everywhere();
    (0..3).for_each(|node| s.start(node));
    s.resume_disk(1);
    let agree = |s: &Scenario| {
        (0..20).all(|number| {
            let held = |node| s.stored(node, &format!("k{number}"));
            held(0).is_some() && held(0) == held(1) && held(1) == held(2)
        })
    };
    assert!(s.wait(4 * ROUND, agree), "homes differ");
    assert_eq!(values(s.stored(1, "k3").as_ref()), ["newer"]);
    s.settle();
}

#[test]
fn damage_that_nobody_reads_is_found_by_a_scrub_and_mended() {
    let mut s = Scenario::with_tuning(3, tuning());
    s.put(0, "k", "value").unwrap();
    s.run(2 * ROUND);
    let whole = s.stored(1, "k");
    assert!(s.damage(1, "k"));
    assert_eq!(s.stored(1, "k"), None);
    assert!(s.wait(6 * ROUND, |s| s.stored(1, "k") == whole), "nobody noticed");
    s.settle();
}

#[test]
fn what_two_homes_have_lost_the_third_gives_back_to_both() {
    let mut s = Scenario::with_tuning(3, tuning());
    s.put(0, "k", "value").unwrap();
    s.run(500);
    assert!(s.damage(0, "k") && s.damage(1, "k"));
    assert_eq!(s.get(0, "k", Consistency::One), Some(vec!["value".to_owned()]));
    let whole = s.stored(2, "k");
    let mended = |s: &Scenario| s.stored(0, "k") == whole && s.stored(1, "k") == whole;
    assert!(s.wait(6 * ROUND, mended), "the two wait for each other");
    s.settle();
}
