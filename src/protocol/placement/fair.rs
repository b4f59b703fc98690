//! What zones, weights and N allow each member, in floating point.
//!
//! A naive model, for tests and for `coterie balance`: it shares nothing with the code that makes
//! tables, and nothing is decided by it.

use std::collections::BTreeMap;

use super::Placement;

/// Halvings of the range in which a water level is sought: more than a float can tell apart.
const HALVINGS: u32 = 200;

impl Placement {
    /// Of how many partitions each member would be a home, if fractions of one could be given out.
    #[must_use]
    pub fn fair_shares(&self) -> Vec<f64> {
        let q = f64::from(self.partitions);
        let n = usize::from(self.replicas);
        let mut zones: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, member) in self.members.iter().enumerate() {
            zones.entry(&member.zone).or_default().push(index);
        }
        let taken = |f: usize| zones.values().map(|of| of.len().min(f)).sum::<usize>();
        let f = (0..=n).rev().find(|&f| taken(f) <= n).unwrap_or(0);
        let weight = |index: usize| f64::from(self.members[index].weight);
        let water = |of: &[usize], level: f64| -> f64 {
            of.iter().map(|&index| (level * weight(index)).min(q)).sum()
        };
        let of_zone = |of: &[usize], level: f64| {
            water(of, level).clamp(q * of.len().min(f) as f64, q * of.len().min(f + 1) as f64)
        };
        let all = |level: f64| zones.values().map(|of| of_zone(of, level)).sum();
        let level = level_of(q, q * n as f64, &all);
        let mut shares = vec![0.0; self.members.len()];
        for of in zones.values() {
            let inside = level_of(q, of_zone(of, level), &|level| water(of, level));
            of.iter().for_each(|&index| shares[index] = (inside * weight(index)).min(q));
        }
        shares
    }

    /// How many copies somebody has to fetch at least when this version follows on `parent`, however
    /// the table is made: what each member's fair share is above what it holds.
    #[must_use]
    pub fn unavoidable(&self, parent: &Self) -> f64 {
        let loads = parent.loads();
        let above = self.members.iter().zip(self.fair_shares()).map(|(member, share)| {
            let held = parent.member(&member.name);
            let held = held.map_or(0, |index| loads[usize::from(index)].partitions);
            (share - f64::from(held)).max(0.0)
        });
        above.sum()
    }
}

/// The level up to `max` at which `held` is `total`.
fn level_of(max: f64, total: f64, held: &dyn Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, max);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if held(middle) < total { low = middle } else { high = middle }
    }
    high
}
