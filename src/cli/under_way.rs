//! How far a change of the ring is, put together from what all members that answer say.

use std::fmt;

use serde::Serialize;

use super::status::coarse;
use super::term;
use crate::proto::{StatusResponse, Wait};

/// A change that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnderWay {
    /// The live versions as `number:hash`, oldest first.
    live: Vec<String>,
    /// The version that reads ask.
    reads: String,
    /// Members of all of those together.
    members: u32,
    /// How many have acknowledged the newest version.
    acked: u32,
    /// How many have handed over what they held.
    synced: u32,
    /// How many read the newest version only.
    reading: u32,
    /// Writes and strict reads that began without the newest version.
    operations_left: u64,
    /// Reads of an older version.
    reads_left: u64,
    /// Partitions that are not known to be at all their new homes, as their old homes count them.
    partitions_left: u64,
    /// Targets whose hints are not known to have been delivered.
    hints_left: u64,
    /// Whom it waits for.
    waits: Vec<Held>,
}

/// A member that holds a change up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Held {
    name: String,
    stage: String,
    since_ms: u64,
    reachable: bool,
    remedy: String,
}

impl UnderWay {
    /// The change that `asked` knows of, with what is left to be done by all of `members` (which may name it,
    /// too).
    pub fn of<'a>(
        asked: &'a StatusResponse,
        members: impl IntoIterator<Item = &'a StatusResponse>,
    ) -> Option<Self> {
        let change = asked.change.clone().filter(|change| change.live.len() > 1)?;
        let mut sum = Self {
            live: change.live,
            reads: change.reads,
            members: change.members,
            acked: change.acked,
            synced: change.synced,
            reading: change.reading,
            operations_left: 0,
            reads_left: 0,
            partitions_left: 0,
            hints_left: 0,
            waits: change.waits.into_iter().map(Held::from).collect(),
        };
        let others = members.into_iter().filter(|other| other.name != asked.name);
        for told in others.chain([asked]) {
            let left = told.change.as_ref().and_then(|change| change.left).unwrap_or_default();
            sum.operations_left += left.operations;
            sum.reads_left += left.reads;
            sum.partitions_left += left.partitions;
            sum.hints_left += left.hints;
        }
        Some(sum)
    }

    /// From which version to which, by number.
    pub fn way(&self) -> String {
        let number = |tag: Option<&String>| {
            let tag = tag.map(String::as_str).unwrap_or_default();
            tag.split(':').next().unwrap_or_default().to_owned()
        };
        format!("from version {} to {}", number(self.live.first()), number(self.live.last()))
    }

    /// What is the same for as long as nobody comes further.
    pub fn stage(&self) -> String {
        let Self { members, acked, synced, reading, .. } = self;
        format!(
            "of {members} members, {acked} have acknowledged it, {synced} have handed over, {reading} \
             read it"
        )
    }

    /// What is left to be done.
    pub fn left(&self) -> String {
        let counts = [
            (self.operations_left, "older write", "older writes"),
            (self.partitions_left, "partition to hand over", "partitions to hand over"),
            (self.hints_left, "target of hints", "targets of hints"),
            (self.reads_left, "older read", "older reads"),
        ];
        let some = counts.into_iter().filter(|(count, _, _)| *count > 0);
        let told = some.map(|(count, one, more)| {
            format!("{} {}", term::grouped(count), if count == 1 { one } else { more })
        });
        let told: Vec<String> = told.collect();
        let some_are_away = self.waits.iter().any(|held| !held.reachable);
        match (told.is_empty(), some_are_away) {
            (false, _) => told.join(", "),
            (true, false) => "nothing".to_owned(),
            (true, true) => "nothing, where somebody answers".to_owned(),
        }
    }

    /// Whom it waits for, a line each.
    pub fn waits(&self) -> impl Iterator<Item = String> {
        self.waits.iter().map(ToString::to_string)
    }

    /// Whom it waits for and cannot reach, a line each.
    pub fn away(&self) -> impl Iterator<Item = String> {
        self.waits.iter().filter(|held| !held.reachable).map(ToString::to_string)
    }
}

impl From<Wait> for Held {
    fn from(wait: Wait) -> Self {
        let Wait { name, stage, version: _, since_ms, reachable, remedy } = wait;
        Self { name, stage, since_ms, reachable, remedy }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, stage, since_ms, reachable, remedy } = self;
        let away = if *reachable { "" } else { ", cannot be reached" };
        write!(f, "{name} ({stage} for {}{away}): {remedy}", coarse(*since_ms))
    }
}
