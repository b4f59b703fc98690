//! Every verdict, from copies made as replicas make them.

use bytes::Bytes;

use super::*;
use crate::cli::explain::held::HeldRecord;
use crate::protocol::record::{Content, Record, Sibling, VersionVector};
use crate::types::{Actor, Stamp};

fn put(record: &Record, stamp: u64) -> Record {
    let content = Content::Value(Bytes::new());
    write(record, record.seen(), stamp, content)
}

fn write(record: &Record, context: &VersionVector, stamp: u64, content: Content) -> Record {
    let dot = Dot::new(Actor(stamp % 3), Stamp(stamp));
    record.write(context, Sibling { dot, content, expiry: None, request: None })
}

fn held(writes: &Record) -> Held {
    let (writes, hash) = (writes.clone(), format!("{:?}", writes.encode()));
    Held::Record(Box::new(HeldRecord { writes, hash, siblings: vec![] }))
}

fn home(name: &str, held: Held) -> Home {
    Home { name: name.to_owned(), own: Ok(Holding { held, rebuilding: false }) }
}

fn unknown(name: &str) -> Home {
    Home { name: name.to_owned(), own: Err("no answer".to_owned()) }
}

fn hint(holder: &str, target: &str, held: Held) -> Elsewhere {
    Elsewhere { holder: holder.to_owned(), target: Some(target.to_owned()), held }
}

fn findings(homes: [Home; 3], elsewhere: Vec<Elsewhere>) -> Findings {
    Findings { homes: homes.into(), elsewhere, silent: vec![] }
}

fn whole(record: &Record) -> [Home; 3] {
    ["a", "b", "c"].map(|name| home(name, held(record)))
}

#[test]
fn homes_that_hold_the_same_agree() {
    let verdict = judge(&findings(whole(&put(&Record::default(), 1)), vec![]));
    assert_eq!(verdict.sentence, "all 3 home replicas agree");
    assert!(verdict.agree && !verdict.nobody);
}

#[test]
fn a_deleted_key_is_told_from_one_that_never_was() {
    let first = put(&Record::default(), 1);
    let deleted = write(&first, first.seen(), 2, Content::Tombstone);
    let verdict = judge(&findings(whole(&deleted), vec![]));
    assert_eq!(verdict.sentence, "all 3 home replicas agree; the key is deleted");
    assert!(verdict.agree && !verdict.nobody);
    let none = ["a", "b", "c"].map(|name| home(name, Held::Nothing));
    let verdict = judge(&findings(none, vec![]));
    assert!(verdict.agree && verdict.nobody && verdict.sentence.contains("no trace"));
}

#[test]
fn a_home_that_lacks_a_write_is_stale_and_whoever_keeps_it_is_named() {
    let old = put(&Record::default(), 1);
    let new = put(&old, 2);
    let mut found = findings(whole(&new), vec![hint("b", "c", held(&new))]);
    found.homes[2] = home("c", held(&old));
    let verdict = judge(&found);
    assert_eq!(verdict.sentence, "c is stale: it lacks 1 write; b holds a hint for it");
    assert!(!verdict.agree);
    let State::Stale { lacks, superseded } = &verdict.states[2] else { panic!("{verdict:?}") };
    assert_eq!((lacks.len(), superseded.len()), (1, 1));
    assert_eq!(verdict.states[..2], [State::Current, State::Current]);
    found.homes[2] = home("c", Held::Nothing);
    assert!(judge(&found).sentence.starts_with("c is stale: it lacks 1 write"));
}

#[test]
fn a_write_that_only_a_hint_holds_makes_every_home_stale() {
    let old = put(&Record::default(), 1);
    let kept = hint("d", "a", held(&put(&old, 2)));
    let verdict = judge(&findings(whole(&old), vec![kept]));
    assert!(verdict.states.iter().all(|state| matches!(state, State::Stale { .. })), "{verdict:?}");
}

#[test]
fn concurrent_writes_that_each_home_knows_one_of_make_all_stale() {
    let empty = Record::default();
    let [left, right] = [1, 2].map(|stamp| put(&empty, stamp));
    let mut found = findings(whole(&left), vec![]);
    found.homes[1] = home("b", held(&right));
    let verdict = judge(&found);
    assert!(verdict.sentence.contains("a is stale: it lacks 1 write"), "{verdict:?}");
    assert!(verdict.sentence.contains("b is stale: it lacks 1 write"), "{verdict:?}");
}

#[test]
fn a_home_that_still_shows_what_was_superseded_is_stale() {
    let (one, two) = (put(&Record::default(), 1), put(&Record::default(), 2));
    let both = one.merge(&two);
    // Seen by all, and dropped by some: as if a merge had been done with what superseded it.
    let seen = both.seen().clone();
    let winner = vec![both.siblings()[1].clone()];
    let after = Record::from_parts(seen, winner).unwrap();
    let mut found = findings(whole(&after), vec![]);
    found.homes[0] = home("a", held(&both));
    let verdict = judge(&found);
    assert_eq!(verdict.sentence, "a is stale: it still shows 1 superseded write");
}

#[test]
fn who_cannot_be_asked_is_unknown_even_if_all_others_agree() {
    let record = put(&Record::default(), 1);
    let mut found = findings(whole(&record), vec![hint("a", "c", held(&record))]);
    found.homes[2] = unknown("c");
    let verdict = judge(&found);
    assert_eq!(verdict.sentence, "c is unknown: it could not be asked; a holds a hint for it");
    assert!(!verdict.agree && !verdict.nobody);
    let none = [home("a", Held::Nothing), home("b", Held::Nothing), unknown("c")];
    let verdict = judge(&findings(none, vec![]));
    assert!(!verdict.agree && !verdict.nobody, "{verdict:?}");
    assert!(verdict.sentence.starts_with("no node that was asked holds the key; c is unknown"));
}

#[test]
fn a_fallback_that_cannot_be_asked_is_told_and_keeps_a_key_from_being_nobodys() {
    let mut found = findings(["a", "b", "c"].map(|name| home(name, Held::Nothing)), vec![]);
    found.silent = vec!["d".to_owned()];
    let verdict = judge(&found);
    assert!(!verdict.nobody && verdict.sentence.contains("d could not be asked"), "{verdict:?}");
}

#[test]
fn damage_rebuilding_and_other_bytes_are_never_agreement() {
    let record = put(&Record::default(), 1);
    let mut found = findings(whole(&record), vec![]);
    found.homes[1] = home("b", Held::Damaged);
    let verdict = judge(&found);
    assert!(!verdict.agree && verdict.sentence.contains("b's copy is damaged"), "{verdict:?}");

    let mut found = findings(whole(&record), vec![]);
    found.homes[1].own.as_mut().unwrap().rebuilding = true;
    let verdict = judge(&found);
    assert!(!verdict.agree && verdict.sentence.contains("b is being rebuilt"), "{verdict:?}");

    let mut found = findings(whole(&record), vec![]);
    let Ok(Holding { held: Held::Record(other), .. }) = &mut found.homes[1].own else { panic!() };
    other.hash = "another".to_owned();
    let verdict = judge(&found);
    assert!(!verdict.agree && verdict.sentence.contains("b holds other bytes"), "{verdict:?}");

    let found = findings(whole(&record), vec![hint("a", "c", Held::Damaged)]);
    assert!(judge(&found).sentence.contains("a's hint for c is damaged"));
}
