//! Worlds that are told rather than drawn: a case in which others lost data, with its cluster, its clients
//! and what is done to it. The seed decides all the rest: delays, who asks whom when, and what comes first.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::clock::Time;
use super::faults::{Fault, Plan, Span};
use super::ring::Move;
use super::workload::Workload;
use super::world::WorldConfig;

const SECOND: Time = 1_000_000;
/// How long clients and changes are at work, in the nodes' time.
const LENGTH: Time = 60 * SECOND;

/// A case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    /// [`riak_kv#1754`](https://github.com/basho/riak_kv/issues/1754): five nodes, forty clients that
    /// read, add to and write back ten keys; two nodes join, and leave again. Nearly every run of it lost
    /// acknowledged additions there.
    Riak1754,
}

impl Story {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Riak1754];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Riak1754 => "riak-1754",
        }
    }

    /// What the command that repeats a run says of its story, with a space before it.
    pub(super) fn flag(story: Option<Self>) -> String {
        story.map(|story| format!(" --story {story}")).unwrap_or_default()
    }

    /// The world of a seed, as the story has it.
    pub(super) fn stage(self, drawn: WorldConfig) -> WorldConfig {
        let Self::Riak1754 = self;
        let pace = super::run::PACE;
        let (nodes, founders, replicas) = (7, 5, 3);
        WorldConfig { nodes, founders, replicas, pace, auto_join: true, control: true, ..drawn }
    }

    /// How long clients are at work, in the world's time.
    pub(super) fn length(self, pace: u64) -> Time {
        let Self::Riak1754 = self;
        LENGTH / pace
    }

    pub(super) fn workload(self, length: Time) -> Workload {
        let Self::Riak1754 = self;
        Workload::add_to_sets(40, 10, 1_000, length)
    }

    pub(super) fn plan(self, span: Span, rng: &mut ChaCha8Rng) -> Plan {
        let Self::Riak1754 = self;
        let length = span.heal - span.begin;
        let mut faults = Vec::new();
        for guest in [5, 6] {
            let joins = span.begin + rng.random_range(0..length / 4);
            faults.push((joins, Fault::Start(guest)));
            // The order is given again until it has been carried out: it is refused in mid-change.
            let leaves = span.begin + length / 2 + rng.random_range(0..length / 4);
            let orders = (0..8).map(|again| leaves + again * length / 32);
            faults.extend(orders.map(|at| (at, Fault::Ring(Move::Leave(guest)))));
        }
        Plan::told(faults, span, [5, 6])
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Story {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        let story = Self::ALL.into_iter().find(|story| story.name() == text);
        story.ok_or_else(|| format!("no such story; there is: {known}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{FaultKind, RunOptions, run_many};

    /// Few enough for a test that runs with every change.
    const SEEDS: u64 = 12;

    #[test]
    fn two_nodes_join_and_leave_under_forty_clients_and_no_addition_is_lost() {
        let options = RunOptions { story: Some(Story::Riak1754), ..RunOptions::default() };
        let summary = run_many(0, SEEDS, 2, &options, &|_, _| {});
        assert!(summary.failures.is_empty(), "{summary}");
        let faults = &summary.stats.faults;
        let (joins, leaves) = (faults.of(FaultKind::Join), faults.of(FaultKind::Leave));
        assert!(joins >= 2 * SEEDS && leaves >= 2 * SEEDS, "{joins} joins, {leaves} leaves");
        assert!(summary.stats.acknowledged > 300 * SEEDS, "{summary}");
    }
}
