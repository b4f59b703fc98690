//! `plan`: what a change of the ring would come to.

use std::collections::BTreeMap;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::args::Show;
use super::exit::Exit;
use super::nodes::{ask_any, client};
use super::status::table;
use super::term::{self, Output};
use crate::client::Client;
use crate::proto::{Move, NewWeight, NewZone, PlanRequest, PlanResponse, RingChange, Stage};

/// A change of the ring, in flags.
#[derive(Args, Clone, Debug)]
pub struct ChangeArgs {
    /// Who becomes a member; comma separated or repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    join: Vec<String>,
    /// Who is no member any more; comma separated or repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    leave: Vec<String>,
    /// A member's new weight, or that of one who joins instead of what its node says
    #[arg(long, value_name = "NAME=WEIGHT", value_delimiter = ',', value_parser = weight)]
    weight: Vec<(String, u32)>,
    /// A member's new zone, or that of one who joins instead of what its node says
    #[arg(long, value_name = "NAME=ZONE", value_delimiter = ',', value_parser = zone)]
    zone: Vec<(String, String)>,
    /// A new N: how many homes each partition has
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    replicas: Option<u8>,
    /// A zone that no member is in yet, and that is not misspelt
    #[arg(long, value_name = "ZONE", value_delimiter = ',')]
    new_zone: Vec<String>,
}

/// What a change of the ring would move, and how safe the data is meanwhile
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing is changed. COPIES counts whole copies of partitions on living members: the fewest of any
partition, if nobody else fails meanwhile and nobody comes back. A copy that moves is given up by its
old home only when all new ones are whole.

Exit codes: 0 so it would be, 1 the change cannot be made, 4 some partition would have fewer copies
than --at-least.

Examples:
  coterie plan --join node-3,node-4
  coterie plan --join node-3 --leave node-0                  a replacement, in one change
  coterie plan --leave node-2 --at-least 2 -o json           for scripts
  coterie plan --join node-3 -o json > plan.json && coterie apply plan.json
  coterie plan --join node-3 --partition-bytes 50000000 --rate 20000000
  coterie plan --replicas 5                                  N from 3 to 5
  coterie plan --weight node-1=200 --zone node-1=east")]
pub struct PlanArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Exit with 4 if some partition would have fewer live copies than this, at any time
    #[arg(long, value_name = "COPIES")]
    at_least: Option<u32>,
    /// What a partition holds, for sums and for the time
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    partition_bytes: u64,
    /// What a node sends and receives in a second, for the time
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    rate: u64,
    #[command(flatten)]
    show: Show,
}

/// A plan for programs.
#[derive(Serialize)]
pub struct PlanDocument<'a> {
    told_by: &'a str,
    parent: &'a str,
    tag: &'a str,
    replicas: u32,
    members: u32,
    under_way: bool,
    unheard: &'a [String],
    partitions_moved: u64,
    bytes_moved: u64,
    takes_ms: u64,
    before: StageDocument,
    during: StageDocument,
    after: StageDocument,
    moves: Vec<MoveDocument<'a>>,
}

/// What `-o json` prints, and `coterie apply` takes.
#[derive(Serialize)]
struct PlanFile<'a> {
    #[serde(flatten)]
    plan: PlanDocument<'a>,
    change: ChangeDocument,
}

#[derive(Serialize)]
struct StageDocument {
    copies_min: u32,
    unwritable: u32,
}

#[derive(Serialize)]
struct MoveDocument<'a> {
    from: &'a str,
    to: &'a str,
    partitions: u32,
    bytes: u64,
}

/// What is asked for, so that a plan's file says what it is a plan of.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeDocument {
    join: Vec<String>,
    leave: Vec<String>,
    weight: BTreeMap<String, u32>,
    zone: BTreeMap<String, String>,
    replicas: u32,
    new_zone: Vec<String>,
}

impl From<RingChange> for ChangeDocument {
    fn from(change: RingChange) -> Self {
        Self {
            join: change.joins,
            leave: change.leaves,
            weight: change.weights.into_iter().map(|new| (new.name, new.weight)).collect(),
            zone: change.zones.into_iter().map(|new| (new.name, new.zone)).collect(),
            replicas: change.replicas,
            new_zone: change.new_zones,
        }
    }
}

impl From<ChangeDocument> for RingChange {
    fn from(change: ChangeDocument) -> Self {
        let weights = change.weight.into_iter();
        let zones = change.zone.into_iter();
        Self {
            joins: change.join,
            leaves: change.leave,
            weights: weights.map(|(name, weight)| NewWeight { name, weight }).collect(),
            zones: zones.map(|(name, zone)| NewZone { name, zone }).collect(),
            replicas: change.replicas,
            new_zones: change.new_zone,
        }
    }
}

/// `NAME=WEIGHT`.
fn weight(text: &str) -> Result<(String, u32), String> {
    let wrong = || format!("`{text}` is not NAME=WEIGHT (such as node-1=200)");
    let (name, weight) = text.split_once('=').ok_or_else(wrong)?;
    Ok((name.to_owned(), weight.parse().map_err(|_| wrong())?))
}

/// `NAME=ZONE`; the zone may be empty.
fn zone(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("`{text}` is not NAME=ZONE (such as node-1=east)");
    let (name, zone) = text.split_once('=').ok_or_else(wrong)?;
    Ok((name.to_owned(), zone.to_owned()))
}

impl ChangeArgs {
    /// As it is asked for.
    pub fn change(&self) -> RingChange {
        let weights = self.weight.iter().cloned();
        let zones = self.zone.iter().cloned();
        RingChange {
            joins: self.join.clone(),
            leaves: self.leave.clone(),
            weights: weights.map(|(name, weight)| NewWeight { name, weight }).collect(),
            zones: zones.map(|(name, zone)| NewZone { name, zone }).collect(),
            replicas: self.replicas.unwrap_or(0).into(),
            new_zones: self.new_zone.clone(),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If there is no such version, no node answers, or standard output is closed.
pub async fn plan(args: PlanArgs) -> anyhow::Result<Exit> {
    let asked = PlanRequest {
        change: Some(args.change.change()),
        partition_bytes: args.partition_bytes,
        bytes_per_second: args.rate,
    };
    let ask = |client: Client, address: String| {
        let asked = asked.clone();
        async move { client.plan(&address, asked).await }
    };
    let plan = ask_any(&client(&args.show.target)?, ask).await?;
    match args.show.output {
        Output::Json => {
            let change = asked.change.unwrap_or_default().into();
            term::json(&PlanFile { plan: PlanDocument::new(&plan), change })?;
        }
        Output::Text => print(&plan)?,
    }
    let fewest = stages(&plan).into_iter().map(|stage| stage.copies_min).min().unwrap_or(0);
    Ok(if args.at_least.is_some_and(|least| fewest < least) { Exit::Degraded } else { Exit::Ok })
}

fn stages(plan: &PlanResponse) -> [Stage; 3] {
    [plan.before, plan.during, plan.after].map(Option::unwrap_or_default)
}

fn moved(plan: &PlanResponse) -> (u64, u64) {
    let add = |(partitions, bytes): (u64, u64), moved: &Move| {
        (partitions + u64::from(moved.partitions), bytes.saturating_add(moved.bytes))
    };
    plan.moves.iter().fold((0, 0), add)
}

/// What a change would come to, for people.
///
/// # Errors
/// If standard output is closed.
pub fn print(plan: &PlanResponse) -> anyhow::Result<()> {
    let members = term::count(plan.members.into(), "member");
    term::line(format_args!(
        "version {} of {members}, N = {}, follows on {}, as {} knows it",
        plan.tag, plan.replicas, plan.parent, plan.name
    ))?;
    let (partitions, bytes) = moved(plan);
    let mut sum = match partitions {
        0 => "nothing moves".to_owned(),
        1 => "1 copy of a partition moves".to_owned(),
        more => format!("{} copies of partitions move", term::grouped(more)),
    };
    if bytes > 0 {
        sum = format!("{sum}, {} bytes", term::grouped(bytes));
    }
    if plan.takes_ms > 0 {
        sum = format!("{sum}, in {}", term::span(std::time::Duration::from_millis(plan.takes_ms)));
    }
    term::line(sum)?;
    if !plan.moves.is_empty() {
        let mut rows = table(&["FROM", "TO", "PARTITIONS"]);
        for Move { from, to, partitions, .. } in &plan.moves {
            rows.add_row([from.clone(), to.clone(), partitions.to_string()]);
        }
        term::line(format_args!("\n{rows}"))?;
    }
    let mut rows = table(&["WHEN", "COPIES", "NOT WRITABLE"]);
    for (when, stage) in ["now", "while it moves", "after"].into_iter().zip(stages(plan)) {
        let not_writable = term::count(stage.unwritable.into(), "partition");
        rows.add_row([when.to_owned(), stage.copies_min.to_string(), not_writable]);
    }
    term::line(format_args!("\n{rows}"))?;
    for name in &plan.unheard {
        term::note(format_args!(
            "{} has not heard of {name}: before it can join, start it with seeds of this cluster",
            plan.name
        ));
    }
    if plan.under_way {
        term::note("an earlier change is not over: this one has to wait for it");
    }
    Ok(())
}

impl<'a> PlanDocument<'a> {
    /// Of what a node has answered.
    pub fn new(plan: &'a PlanResponse) -> Self {
        let [before, during, after] = stages(plan).map(|stage| StageDocument {
            copies_min: stage.copies_min,
            unwritable: stage.unwritable,
        });
        let moves = plan.moves.iter().map(|moved| MoveDocument {
            from: &moved.from,
            to: &moved.to,
            partitions: moved.partitions,
            bytes: moved.bytes,
        });
        let (partitions_moved, bytes_moved) = moved(plan);
        Self {
            told_by: &plan.name,
            parent: &plan.parent,
            tag: &plan.tag,
            replicas: plan.replicas,
            members: plan.members,
            under_way: plan.under_way,
            unheard: &plan.unheard,
            partitions_moved,
            bytes_moved,
            takes_ms: plan.takes_ms,
            before,
            during,
            after,
            moves: moves.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_zones_are_given_by_name() {
        assert_eq!(weight("node-1=200"), Ok(("node-1".to_owned(), 200)));
        assert_eq!(zone("node-1=a=b"), Ok(("node-1".to_owned(), "a=b".to_owned())));
        assert_eq!(zone("node-1="), Ok(("node-1".to_owned(), String::new())));
        for wrong in ["node-1", "node-1=", "node-1=-1", "node-1=x", "node-1=4294967296"] {
            assert!(weight(wrong).is_err(), "accepted {wrong}");
        }
        assert!(zone("node-1").is_err());
    }
}
