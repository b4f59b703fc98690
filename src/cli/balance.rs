//! `balance`: how even tables are, and how little changes move, for clusters that need not exist.
//! What it prints is `docs/balance.md`.

use std::fmt::Write as _;

use clap::Args;

use super::exit::Exit;
use super::term;
use crate::protocol::placement::{Change, Member, Placement};
use crate::types::NodeName;

/// How many nodes the clusters have.
const NODES: [usize; 9] = [3, 4, 5, 7, 10, 20, 30, 50, 100];
/// N and Q as they are by default.
const REPLICAS: u8 = 3;
const PARTITIONS: u16 = 4096;
/// Members join one by one, and leave one by one, between these.
const FEW: usize = 5;
const MANY: usize = 40;

/// How evenly clusters of 3 to 100 nodes are loaded, and how little a change moves
#[derive(Args, Debug)]
#[command(after_help = "\
Computed, not measured: no node is asked, and none need exist. `coterie ring` shows the balance of a
cluster; `coterie plan` what a change of it would move.

Examples:
  coterie balance
  coterie balance > docs/balance.md")]
pub struct BalanceArgs {}

/// Runs the command.
///
/// # Errors
/// If standard output is closed.
pub fn balance(_: &BalanceArgs) -> anyhow::Result<Exit> {
    term::raw(document()?.as_bytes())?;
    Ok(Exit::Ok)
}

/// A kind of cluster.
struct Shape {
    title: &'static str,
    zones: usize,
    weights: &'static [u32],
}

const SHAPES: [Shape; 5] = [
    Shape { title: "Equal nodes, no zones", zones: 1, weights: &[1] },
    Shape { title: "Equal nodes in three zones", zones: 3, weights: &[1] },
    Shape { title: "Equal nodes in four zones", zones: 4, weights: &[1] },
    Shape { title: "Weights 1 to 4, no zones", zones: 1, weights: &[1, 2, 3, 4] },
    Shape { title: "Weights 1 to 4 in three zones", zones: 3, weights: &[1, 2, 3, 4] },
];

const HEAD: &str = "\
# Balance

This page is what `coterie balance` prints: tables as a cluster would make them, with N = 3 and
Q = 4096, computed and not measured.

- **max/mean** is the greatest load of any node over what it should have: the mean of all nodes, or
  where zones and weights forbid the mean, what they and N allow (no node holds a partition twice; the
  homes of a partition are in as many zones as there are). 1.05 is what the design allows.
- **moved** is how many copies of partitions somebody has to fetch.
- **moved/ideal** is that over the fewest that any table could move: the sum of what each node should
  have beyond what it has. 1.3 is what the design allows. Nodes hold whole partitions, and what they
  should have has fractions: hence a ratio below 1.00 here and there. One well above it is where zones
  force more: a zone that comes to be in every partition takes its place in those, too, that nobody leaves.

Changes are made to the cluster of that many nodes: *one joins*, *three join* at once, *one leaves*. Three
nodes with N = 3 cannot lose one for good: N is lowered first, or another joins in the same change.
";

fn document() -> anyhow::Result<String> {
    let mut text = HEAD.to_owned();
    for shape in &SHAPES {
        write!(text, "\n## {}\n\n{}", shape.title, shape.table()?)?;
    }
    write!(text, "\n## One change after another\n\n{}", in_a_row()?)?;
    Ok(text)
}

impl Shape {
    fn member(&self, index: usize) -> anyhow::Result<Member> {
        let zone = format!("zone-{}", index % self.zones);
        // Weights go round the zones as well: no zone has only the heavy nodes.
        let weight = self.weights[(index / self.zones) % self.weights.len()];
        Ok(Member { name: NodeName::new(&format!("node-{index}"))?, zone, weight })
    }

    fn members(&self, indexes: std::ops::Range<usize>) -> anyhow::Result<Vec<Member>> {
        indexes.map(|index| self.member(index)).collect()
    }

    fn table(&self) -> anyhow::Result<String> {
        let mut text = "\
| nodes | max/mean | one joins: moved | moved/ideal | max/mean | three join: moved | moved/ideal | max/mean \
| one leaves: moved | moved/ideal | max/mean |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"
        .to_owned();
        for nodes in NODES {
            let founded = Placement::found(self.members(0..nodes)?, REPLICAS, PARTITIONS);
            write!(text, "| {nodes} | {:.3} |", evenness(&founded))?;
            let join = |count| -> anyhow::Result<Change> {
                Ok(Change { joins: self.members(nodes..nodes + count)?, ..Change::default() })
            };
            let leaves = vec![self.member(nodes / 2)?.name];
            let leave = Change { leaves, ..Change::default() };
            for change in [join(1)?, join(3)?, leave] {
                match founded.next(&change) {
                    Ok(next) => {
                        let (moved, ratio) = (moved(&founded, &next), ratio(&founded, &next));
                        write!(text, " {moved} | {ratio:.2} | {:.3} |", evenness(&next))?;
                    }
                    Err(_) => text.push_str(" – | – | – |"),
                }
            }
            text.push('\n');
        }
        Ok(text)
    }
}

/// Growth to many and back: errors of rounding must not add up.
fn in_a_row() -> anyhow::Result<String> {
    let mut text = format!(
        "Nodes join one by one until there are {MANY}, then leave one by one, the first first, until \
         there are {FEW}:\n{} changes of every cluster. The greatest max/mean of any version, and all \
         that was moved over all that had to be.\n\n| cluster | max/mean | moved | moved/ideal \
         |\n|---|--:|--:|--:|\n",
        2 * (MANY - FEW)
    );
    for shape in &SHAPES {
        let mut placement = Placement::found(shape.members(0..FEW)?, REPLICAS, PARTITIONS);
        let (mut worst, mut moved_all, mut ideal_all) = (evenness(&placement), 0, 0.0);
        for step in FEW..2 * MANY - FEW {
            let change = if step < MANY {
                Change { joins: vec![shape.member(step)?], ..Change::default() }
            } else {
                Change { leaves: vec![shape.member(step - MANY)?.name], ..Change::default() }
            };
            let next = placement.next(&change)?;
            worst = worst.max(evenness(&next));
            moved_all += moved(&placement, &next);
            ideal_all += next.unavoidable(&placement);
            placement = next;
        }
        let ratio = f64::from(moved_all) / ideal_all;
        writeln!(text, "| {} | {worst:.3} | {moved_all} | {ratio:.2} |", shape.title)?;
    }
    Ok(text)
}

/// The greatest load of any member over its fair share.
fn evenness(placement: &Placement) -> f64 {
    let loads = placement.loads().into_iter().zip(placement.fair_shares());
    loads.map(|(load, share)| f64::from(load.partitions) / share).fold(0.0, f64::max)
}

/// Copies that somebody fetches.
fn moved(old: &Placement, new: &Placement) -> u32 {
    let now: Vec<Option<u16>> = old.members.iter().map(|member| new.member(&member.name)).collect();
    let pairs = old.table.chunks(old.replicas.into()).zip(new.table.chunks(new.replicas.into()));
    let fetched = pairs.map(|(before, after)| {
        let had = |home: &u16| before.iter().any(|&old| now[usize::from(old)] == Some(*home));
        after.iter().filter(|home| !had(home)).map(|_| 1).sum::<u32>()
    });
    fetched.sum()
}

fn ratio(old: &Placement, new: &Placement) -> f64 {
    f64::from(moved(old, new)) / new.unavoidable(old)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn page() -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/balance.md");
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_page_of_the_documents_is_what_the_command_prints() {
        assert!(page() == document().unwrap(), "run: coterie balance > docs/balance.md");
    }

    #[test]
    fn no_table_of_the_page_is_less_even_or_moves_more_than_the_design_allows() {
        let mut seen = 0;
        for line in page().lines().filter(|line| line.starts_with("| ")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            for (at, cell) in cells.iter().enumerate() {
                // Whole numbers are counts; three digits behind the point are max/mean, two are
                // moved/ideal.
                let Some((_, behind)) = cell.split_once('.') else { continue };
                let Ok(value) = cell.parse::<f64>() else { continue };
                let most = if behind.len() == 3 { 1.05 } else { 1.3 };
                assert!(value <= most, "column {at} of {line}");
                seen += 1;
            }
        }
        assert!(seen > SHAPES.len() * NODES.len() * 6, "{seen} values were read");
    }
}
