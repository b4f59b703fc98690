//! The table of a later version: its parent's, with as little of it stolen as must be.
//!
//! *Settling* makes each partition by itself one that the new members, zones and N allow (see
//! `share`): of a zone that has too many homes now, those with the least room for what they hold
//! give it up; what is missing goes to the members with the most room.
//!
//! *Levelling* brings every member to its exact share. A member with room takes, in some
//! partition, the place of one that holds too much; first where that place changes hands
//! anyway. Where no such partition is left, a chain of such exchanges is: the shares can be met
//! (see `share`), so that as long as one is not, the flow that meets them has an augmenting path
//! from a member that holds too much to this one, and a breadth-first search finds a shortest.
//!
//! Whoever takes a place takes it in the order of preference, too: a newcomer is the first home
//! as often as those whom it relieved were.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

use xxhash_rust::xxh3::xxh3_64;

use super::Member;
use super::share::Shares;
use super::zoning::{Zoning, distinct_zones_first};

/// The table of `members`, for each partition `replicas` of them in order of preference; `old`
/// holds, for each partition, who of them is home to it already, in order of preference, with
/// `None` in the place of one that is no member any more.
pub(super) fn steal(members: &[Member], replicas: u8, old: &[Vec<Option<u16>>]) -> Vec<u16> {
    let partitions = u16::try_from(old.len()).unwrap_or(u16::MAX);
    let zoning = Zoning::new(members);
    let mut held = vec![0; members.len()];
    old.iter().flatten().flatten().for_each(|&member| held[usize::from(member)] += 1);
    let shares = zoning.shares(members, &held, replicas, partitions);
    let mut table = Table::new(&zoning, &shares, &held, old);
    for partition in 0..old.len() {
        table.settle(partition, usize::from(replicas));
    }
    for (member, of) in (0u16..).zip(members) {
        let start = xxh3_64(of.name.as_str().as_bytes()) % u64::from(partitions);
        table.level(member, usize::try_from(start).unwrap_or(0));
    }
    let in_order = |homes: &Vec<Option<u16>>| {
        let homes: Vec<u16> = homes.iter().copied().flatten().collect();
        distinct_zones_first(&homes, &zoning.zone_of)
    };
    table.homes.iter().flat_map(in_order).collect()
}

/// A step of an exchange: in the partition, the giver's place goes to the taker.
struct Exchange {
    partition: usize,
    giver: u16,
    taker: u16,
}

/// A table in the making.
struct Table<'a> {
    zone_of: &'a [usize],
    /// Of each zone, how many homes every partition has at least, and at most.
    base: &'a [u8],
    top: Vec<u8>,
    base_sum: usize,
    /// How much more each member has to hold; negative if it holds too much.
    room: Vec<i64>,
    /// Members by room: mirrors `room`.
    by_room: BTreeSet<(i64, Reverse<u16>)>,
    /// Of each partition; `None` is a vacancy.
    homes: Vec<Vec<Option<u16>>>,
    old: &'a [Vec<Option<u16>>],
}

impl<'a> Table<'a> {
    fn new(
        zoning: &'a Zoning,
        shares: &'a Shares,
        held: &[u64],
        old: &'a [Vec<Option<u16>>],
    ) -> Self {
        let mut room: Vec<i64> = held.iter().map(|&held| -signed(held)).collect();
        for (of_zone, shares) in zoning.members.iter().zip(&shares.nodes) {
            for (&member, &share) in of_zone.iter().zip(shares) {
                room[usize::from(member)] += signed(share);
            }
        }
        let top = |(of_zone, &base): (&Vec<u16>, &u8)| {
            u8::try_from(of_zone.len()).unwrap_or(u8::MAX).min(base.saturating_add(1))
        };
        Self {
            zone_of: &zoning.zone_of,
            base: &shares.base,
            top: zoning.members.iter().zip(&shares.base).map(top).collect(),
            base_sum: shares.base.iter().map(|&base| usize::from(base)).sum(),
            by_room: (0u16..).zip(&room).map(|(member, &room)| (room, Reverse(member))).collect(),
            room,
            homes: old.to_vec(),
            old,
        }
    }

    /// Makes a partition one that zones and N allow.
    fn settle(&mut self, partition: usize, replicas: usize) {
        let zones_of = |table: &Self| {
            let mut zones: Vec<usize> =
                table.members(partition).map(|member| table.zone(member)).collect();
            zones.sort_unstable();
            zones.dedup();
            zones
        };
        for zone in zones_of(self) {
            while self.count(partition, zone) > self.top[zone] {
                self.drop_one(partition, |table, member| table.zone(member) == zone);
            }
        }
        loop {
            let covered = |&zone: &usize| self.count(partition, zone).min(self.base[zone]);
            let covered: usize = zones_of(self).iter().map(|zone| usize::from(covered(zone))).sum();
            let missing = self.base_sum - covered;
            let held = self.members(partition).count();
            if held + missing > replicas {
                self.drop_one(partition, |table, member| {
                    let zone = table.zone(member);
                    table.count(partition, zone) > table.base[zone]
                });
            } else if held < replicas {
                self.add_one(partition, missing > 0);
            } else {
                return;
            }
        }
    }

    /// Of the homes that `may` go, the one with the least room goes.
    fn drop_one(&mut self, partition: usize, may: impl Fn(&Self, u16) -> bool) {
        let goes = self.members(partition).filter(|&member| may(self, member));
        let goes = goes.min_by_key(|&member| (self.room[usize::from(member)], member));
        let goes = goes.expect("a partition beyond its bounds has a home beyond them");
        let place = self.homes[partition].iter().position(|&home| home == Some(goes));
        place.into_iter().for_each(|place| self.homes[partition][place] = None);
        self.make_room(goes, 1);
    }

    /// The member with the most room, of those that zones allow, takes a vacant place.
    fn add_one(&mut self, partition: usize, to_base: bool) {
        let may = |member: u16| {
            let zone = self.zone(member);
            let bound = if to_base { self.base[zone] } else { self.top[zone] };
            self.count(partition, zone) < bound && !self.holds(partition, member)
        };
        let comes = self.by_room.iter().rev().map(|&(_, Reverse(member))| member);
        let comes = comes.into_iter().find(|&member| may(member));
        let comes = comes.expect("there are at least N members, as the bounds of zones allow");
        let homes = &mut self.homes[partition];
        match homes.iter().position(Option::is_none) {
            Some(vacant) => homes[vacant] = Some(comes),
            None => homes.push(Some(comes)),
        }
        self.make_room(comes, -1);
    }

    /// Brings a member with room to its share; `start` is where it begins to look.
    fn level(&mut self, member: u16, start: usize) {
        for anyway in [true, false] {
            for step in 0..self.homes.len() {
                if self.room[usize::from(member)] <= 0 {
                    return;
                }
                let partition = (start + step) % self.homes.len();
                if !self.holds(partition, member)
                    && let Some(giver) = self.giver(partition, member, anyway)
                {
                    self.exchange(&Exchange { partition, giver, taker: member });
                }
            }
        }
        while self.room[usize::from(member)] > 0 {
            let Some(path) = self.augmenting_path(member) else { return };
            path.iter().for_each(|step| self.exchange(step));
        }
    }

    /// Who of a partition's homes gives its place to `taker`: the one that holds most beyond its
    /// share. With `anyway`, only places that the parent gave to others count.
    fn giver(&self, partition: usize, taker: u16, anyway: bool) -> Option<u16> {
        let gives = |&home: &u16| {
            self.room[usize::from(home)] < 0
                && !(anyway && self.old[partition].contains(&Some(home)))
                && self.may(partition, home, taker)
        };
        let givers = self.members(partition).filter(gives);
        givers.min_by_key(|&home| (self.room[usize::from(home)], home))
    }

    /// A shortest chain of exchanges that leads from a member that holds too much to this one,
    /// which holds too little.
    fn augmenting_path(&self, to: u16) -> Option<Vec<Exchange>> {
        let mut next: Vec<Option<(usize, u16)>> = vec![None; self.room.len()];
        let mut queue = VecDeque::from([to]);
        while let Some(taker) = queue.pop_front() {
            for partition in (0..self.homes.len()).filter(|&p| !self.holds(p, taker)) {
                for giver in self.members(partition) {
                    let seen = giver == to || next[usize::from(giver)].is_some();
                    if seen || !self.may(partition, giver, taker) {
                        continue;
                    }
                    next[usize::from(giver)] = Some((partition, taker));
                    if self.room[usize::from(giver)] < 0 {
                        let after = |step: &Exchange| {
                            let giver = step.taker;
                            let (partition, taker) = next[usize::from(giver)]?;
                            Some(Exchange { partition, giver, taker })
                        };
                        let first = Exchange { partition, giver, taker };
                        return Some(std::iter::successors(Some(first), after).collect());
                    }
                    queue.push_back(giver);
                }
            }
        }
        None
    }

    /// Whether zones allow that a home gives its place to one that is none.
    fn may(&self, partition: usize, giver: u16, taker: u16) -> bool {
        let (from, to) = (self.zone(giver), self.zone(taker));
        from == to
            || (self.count(partition, from) > self.base[from]
                && self.count(partition, to) < self.top[to])
    }

    fn exchange(&mut self, step: &Exchange) {
        let place = self.homes[step.partition].iter().position(|&home| home == Some(step.giver));
        let place = place.expect("who gives a place has it");
        self.homes[step.partition][place] = Some(step.taker);
        self.make_room(step.giver, 1);
        self.make_room(step.taker, -1);
    }

    fn make_room(&mut self, member: u16, more: i64) {
        let room = &mut self.room[usize::from(member)];
        self.by_room.remove(&(*room, Reverse(member)));
        *room += more;
        self.by_room.insert((*room, Reverse(member)));
    }

    fn members(&self, partition: usize) -> impl Iterator<Item = u16> {
        self.homes[partition].iter().copied().flatten()
    }

    fn holds(&self, partition: usize, member: u16) -> bool {
        self.homes[partition].contains(&Some(member))
    }

    fn zone(&self, member: u16) -> usize {
        self.zone_of[usize::from(member)]
    }

    /// How many homes of a partition are in a zone.
    fn count(&self, partition: usize, zone: usize) -> u8 {
        let count = self.members(partition).filter(|&member| self.zone(member) == zone).count();
        u8::try_from(count).unwrap_or(u8::MAX)
    }
}

fn signed(slots: u64) -> i64 {
    i64::try_from(slots).unwrap_or(i64::MAX)
}
