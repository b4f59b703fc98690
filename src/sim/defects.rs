//! The checkers' own test: each mistake that the cores can be told to make must be caught, within
//! a fixed budget of seeds, by a checker that is meant for it.

use std::sync::Mutex;

use super::{Check, RunOptions, run};
use crate::protocol::defect::Defect;

/// Seeds that a mistake may survive.
const BUDGET: u64 = 1500;

/// The checkers, of which one must catch the mistake.
fn meant_for(defect: Defect) -> &'static [Check] {
    use Check::{C1, C2, C3, C4, C6, C7, C8, D1, D2, D3, D4, M, P, R, S, Z};
    match defect {
        Defect::AckBeforeFsync
        | Defect::AckEqualMergeEarly
        | Defect::CountNodeTwice
        | Defect::CountHomeAndHint => &[Z],
        Defect::KeepActorAfterRestart
        | Defect::KeepActorAfterRefusal
        | Defect::KeepActorAfterLoss
        | Defect::KeepActorAfterMove
        | Defect::LoneSibling
        | Defect::AnswerOnlyMissing => &[C1, C2, C3],
        Defect::FoundWithoutAll => &[M],
        Defect::LagRecent => &[C4, C8, R, D4],
        Defect::DeleteChangedHint | Defect::DropHintBeforeAck | Defect::DeleteHintOnAnyAck => &[D2],
        Defect::RunPassedTwice => &[P],
        Defect::ClockBelowLast => &[D3],
        Defect::LoseContext => &[C3],
        Defect::ScanFirstHome => &[S],
        Defect::SkipLeaf => &[C6],
        Defect::KeepLateRead | Defect::TreeBeforeCommit => &[D4],
        Defect::CountRebuilding => &[C1, C2, C3, C4, C8, R],
        Defect::CollectEarly | Defect::AcceptOverRound | Defect::ConfirmWithoutBarrier => &[C7],
        Defect::DiscardLateCopy => &[D1],
        Defect::RefuseFarStamps => &[C1, C2, C3, C6],
        Defect::TakeUntold => &[C1, C2, C3, C7, D1],
        Defect::SkipOlderVersion | Defect::SyncEarly => &[C1, C2, C3, C4, C8, R, S, Z, M],
        Defect::RetireEarly | Defect::BareTrackers => &[C1, C2, C3, C4, C8, D1, R, S, Z, M],
    }
}

/// Mistakes that the seeds of this budget do not meet. Each has a story or a test of its own rule.
const TOLD: [Defect; 3] = [
    // The worker's test of tenures: the writes of a new home rest on what the old ones hold, and so does what
    // it would have forgotten.
    Defect::KeepActorAfterMove,
    // The control core's tests of them: rivals that are both acknowledged, and reads that last as long as a
    // version takes to retire, are too rare.
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
    let left = Mutex::new(Defect::ALL.into_iter().filter(|defect| !TOLD.contains(defect)));
    let missed = Mutex::new(Vec::new());
    let hunter = || {
        while let Some(defect) = { left.lock().unwrap().next() } {
            match hunt(defect) {
                Some((seed, checks)) => println!("{defect:?}: caught by {checks:?} at seed {seed}"),
                None => missed.lock().unwrap().push(defect),
            }
        }
    };
    let hunters = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..hunters).for_each(|_| _ = scope.spawn(hunter)));
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
