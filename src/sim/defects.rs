//! The checkers' own test: each mistake that the cores can be told to make must be caught, within
//! a fixed budget of seeds, by one of the checkers that it is meant for.

use std::collections::BTreeMap;

use super::{Check, RunOptions, run};
use crate::protocol::defect::Defect;

/// Seeds that a mistake may survive.
const BUDGET: u64 = 300;

/// Runs seeds until a mistake is caught: the seed and the checks that failed.
fn hunt(defect: Defect) -> Option<(u64, Vec<Check>)> {
    let options = RunOptions { defect: Some(defect), ..RunOptions::default() };
    (0..BUDGET).find_map(|seed| {
        let violations = run(seed, &options).violations;
        let mut checks: Vec<Check> = violations.iter().map(|violation| violation.check).collect();
        checks.sort_unstable();
        checks.dedup();
        (!checks.is_empty()).then_some((seed, checks))
    })
}

#[test]
fn every_mistake_is_caught() {
    let mut caught = BTreeMap::new();
    for defect in Defect::ALL {
        caught.insert(defect, hunt(defect));
    }
    let mut missed = Vec::new();
    for (defect, found) in caught {
        match found {
            Some((seed, checks)) => println!("{defect:?}: caught by {checks:?} at seed {seed}"),
            None => missed.push(defect),
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
