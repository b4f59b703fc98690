//! The checkers' own test: each mistake that the cores can be told to make must be caught, within
//! a fixed budget of seeds, by a checker that is meant for it.

use super::{Check, RunOptions, run};
use crate::protocol::defect::Defect;

/// Seeds that a mistake may survive.
const BUDGET: u64 = 300;

/// The checkers, of which one must catch the mistake; none if that is left to a story.
fn meant_for(defect: Defect) -> &'static [Check] {
    use Check::{C1, C2, C3, C4, C6, C7, C8, D1, D2, D3, M, P, R, S, Z};
    match defect {
        Defect::AckBeforeFsync
        | Defect::AckEqualMergeEarly
        | Defect::CountNodeTwice
        | Defect::CountHomeAndHint => &[Z],
        Defect::KeepActorAfterRestart
        | Defect::KeepActorAfterRefusal
        | Defect::KeepActorAfterLoss
        | Defect::LoneSibling
        | Defect::AnswerOnlyMissing => &[C1, C2, C3],
        Defect::FoundWithoutAll => &[M],
        Defect::LagRecent => &[C4, C8, R],
        Defect::DeleteChangedHint | Defect::DropHintBeforeAck | Defect::DeleteHintOnAnyAck => &[D2],
        Defect::RunPassedTwice => &[P],
        Defect::ClockBelowLast => &[D3],
        Defect::LoseContext => &[C3],
        Defect::KeepLateRead => &[C1, C2, C3, Z, D1],
        Defect::ScanFirstHome => &[S],
        Defect::SkipLeaf | Defect::TreeBeforeCommit => &[C6],
        Defect::CountRebuilding | Defect::RetireEarly | Defect::BareTrackers => &[],
        Defect::CollectEarly | Defect::AcceptOverRound | Defect::ConfirmWithoutBarrier => &[C7],
        Defect::DiscardLateCopy => &[D1],
        Defect::RefuseFarStamps => &[C1, C2, C3, C6],
        Defect::SkipOlderVersion | Defect::SyncEarly | Defect::KeepActorAfterMove => &[C1, C2, C3],
    }
}

/// Mistakes that the seeds of this budget do not meet. Each has a story or a test of its own rule.
const TOLD: [Defect; 13] = [
    // No ring changes in the seeds of this budget: the worker's tests of them.
    Defect::SkipOlderVersion,
    Defect::SyncEarly,
    Defect::KeepActorAfterMove,
    // A message later than seeds delay one, or a whole round while one is under way: `collection_scenarios`.
    Defect::AcceptOverRound,
    Defect::ConfirmWithoutBarrier,
    Defect::DiscardLateCopy,
    // Damage of a copy, and of the one that it is rebuilt from, in the window between: the worker's tests.
    Defect::CountRebuilding,
    // A commit refused between two comparisons: the worker's tests of trees.
    Defect::TreeBeforeCommit,
    // A record lost, and its key written again before a peer shows more of the actor: `scenarios`.
    Defect::KeepActorAfterLoss,
    // A read under way while the same key is committed on the same node: the tests of `recent`.
    Defect::KeepLateRead,
    Defect::LagRecent,
    // Seeds do not change the ring: the control core's tests of it.
    Defect::RetireEarly,
    Defect::BareTrackers,
];

/// Runs seeds until a checker that is meant for the mistake catches it: the seed, and every
/// checker that did.
fn hunt(defect: Defect) -> Option<(u64, Vec<Check>)> {
    let options = RunOptions { defect: Some(defect), ..RunOptions::default() };
    (0..BUDGET).find_map(|seed| {
        let violations = run(seed, &options).violations;
        let mut checks: Vec<Check> = violations.iter().map(|violation| violation.check).collect();
        checks.sort_unstable();
        checks.dedup();
        let caught = checks.iter().any(|check| meant_for(defect).contains(check));
        caught.then_some((seed, checks))
    })
}

#[test]
fn every_mistake_is_caught() {
    let mut missed = Vec::new();
    for defect in Defect::ALL.into_iter().filter(|defect| !TOLD.contains(defect)) {
        match hunt(defect) {
            Some((seed, checks)) => println!("{defect:?}: caught by {checks:?} at seed {seed}"),
            None => missed.push(defect),
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
