//! What a change would come to, told before it is made: what moves from where to where, how few
//! live copies any range has meanwhile, and how long it takes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Change, Placement, PlanRefused};
use crate::types::{NodeName, Partition};

/// What a change would come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The version that it would make.
    pub placement: Placement,
    /// What moves, sorted by who gives and who takes.
    pub moves: Vec<Move>,
    /// Before anything has moved.
    pub before: Stage,
    /// While both versions are live: writes need a majority in each; the parent's copies are those
    /// that count, since the new ones are not whole.
    pub during: Stage,
    /// When the parent has retired.
    pub after: Stage,
}

/// Copies that one node fetches from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Whose place is taken, if that member is alive; else the first living home.
    pub from: NodeName,
    /// Who becomes a home.
    pub to: NodeName,
    /// Of how many partitions.
    pub partitions: u32,
    /// How much that is, as far as the sizes of partitions are known.
    pub bytes: u64,
}

/// How safe the data is at one time of a change, if nobody else fails and nobody comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The fewest whole copies on living members that any partition has.
    pub copies_min: u8,
    /// Partitions that are not writable by quorum: in some live version, no majority of their homes
    /// is alive.
    pub unwritable: u32,
}

impl Plan {
    /// What it would come to if `parent` were followed by a change, with `alive` telling who lives
    /// and `bytes` the size of a partition (0 if it is not known).
    ///
    /// # Errors
    /// [`PlanRefused`] if there is no such version.
    pub fn new(
        parent: &Placement,
        change: &Change,
        alive: impl Fn(&NodeName) -> bool,
        bytes: impl Fn(Partition) -> u64,
    ) -> Result<Self, PlanRefused> {
        let placement = parent.next(change)?;
        let living = |of: &Placement| -> Vec<bool> {
            of.members.iter().map(|member| alive(&member.name)).collect()
        };
        let (old, new) = (stage(parent, &living(parent)), stage(&placement, &living(&placement)));
        let during = Stage {
            copies_min: old.copies_min,
            unwritable: unwritable_in_either(parent, &placement, &living),
        };
        let moves = moves(parent, &placement, &living(parent), bytes);
        Ok(Self { placement, moves, before: old, during, after: new })
    }

    /// Copies that somebody fetches.
    #[must_use]
    pub fn partitions(&self) -> u64 {
        self.moves.iter().map(|moved| u64::from(moved.partitions)).sum()
    }

    /// What is fetched in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.moves.iter().map(|moved| moved.bytes).sum()
    }

    /// Whether some partition has fewer living copies than this, at whatever time.
    #[must_use]
    pub fn leaves_fewer_than(&self, copies: u8) -> bool {
        [self.before, self.during, self.after].iter().any(|stage| stage.copies_min < copies)
    }

    /// How long the moving takes if every node sends and receives at this rate: as long as the node
    /// with most to do. None if the rate is 0 and something is to be moved.
    #[must_use]
    pub fn takes(&self, bytes_per_second: u64) -> Option<Duration> {
        let mut sent: BTreeMap<&NodeName, u64> = BTreeMap::new();
        let mut received: BTreeMap<&NodeName, u64> = BTreeMap::new();
        for moved in &self.moves {
            *sent.entry(&moved.from).or_default() += moved.bytes;
            *received.entry(&moved.to).or_default() += moved.bytes;
        }
        let most = sent.values().chain(received.values()).copied().max().unwrap_or(0);
        let millis = u128::from(most) * 1000;
        match (most, bytes_per_second) {
            (0, _) => Some(Duration::ZERO),
            (_, 0) => None,
            (_, rate) => {
                let millis = millis.div_ceil(u128::from(rate));
                Some(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
            }
        }
    }
}

fn stage(placement: &Placement, living: &[bool]) -> Stage {
    let homes = || placement.table.chunks(usize::from(placement.replicas));
    let fewest = homes().map(|homes| alive_of(homes, living)).min().unwrap_or(0);
    let short = homes().filter(|homes| !majority_of(homes, living)).count();
    Stage {
        copies_min: u8::try_from(fewest).unwrap_or(u8::MAX),
        unwritable: u32::try_from(short).unwrap_or(u32::MAX),
    }
}

fn unwritable_in_either(
    parent: &Placement,
    next: &Placement,
    living: &impl Fn(&Placement) -> Vec<bool>,
) -> u32 {
    let (before, after) = (living(parent), living(next));
    let short = |p: &u16| {
        let (old, new) = (parent.homes(Partition(*p)), next.homes(Partition(*p)));
        !majority_of(old, &before) || !majority_of(new, &after)
    };
    u32::try_from((0..parent.partitions).filter(short).count()).unwrap_or(u32::MAX)
}

fn alive_of(homes: &[u16], living: &[bool]) -> usize {
    homes.iter().filter(|&&home| living[usize::from(home)]).count()
}

fn majority_of(homes: &[u16], living: &[bool]) -> bool {
    alive_of(homes, living) > homes.len() / 2
}

fn moves(
    parent: &Placement,
    next: &Placement,
    living: &[bool],
    bytes: impl Fn(Partition) -> u64,
) -> Vec<Move> {
    let now: Vec<Option<u16>> =
        parent.members.iter().map(|member| next.member(&member.name)).collect();
    let mut sums: BTreeMap<(u16, u16), (u32, u64)> = BTreeMap::new();
    for partition in (0..parent.partitions).map(Partition) {
        let (old, new) = (parent.homes(partition), next.homes(partition));
        let stays = |home: &u16| now[usize::from(*home)].is_some_and(|home| new.contains(&home));
        let mut given_up = old.iter().filter(|&home| !stays(home));
        let was = |home: &u16| old.iter().any(|&before| now[usize::from(before)] == Some(*home));
        for &taker in new.iter().filter(|&home| !was(home)) {
            let relieved = given_up.next();
            let lives = |home: &&u16| living[usize::from(**home)];
            let source = relieved.filter(lives).or_else(|| old.iter().find(lives));
            let Some(&giver) = source.or(relieved).or(old.first()) else { continue };
            let sum = sums.entry((giver, taker)).or_default();
            *sum = (sum.0 + 1, sum.1 + bytes(partition));
        }
    }
    let told = |((giver, taker), (partitions, bytes)): ((u16, u16), (u32, u64))| Move {
        from: parent.members[usize::from(giver)].name.clone(),
        to: next.members[usize::from(taker)].name.clone(),
        partitions,
        bytes,
    };
    sums.into_iter().map(told).collect()
}
