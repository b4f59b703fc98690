//! `status` and `members`: how a cluster is.

mod health;

use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::presets;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::args::{self, Show};
use super::exit::Exit;
use super::nodes::{ask_any, ask_each, client, status_of};
use super::term::{self, Output};
use crate::client::Client;
use crate::proto::{MemberStatus, StatusResponse};
use health::{Answers, Grade, Health, Row, judge};

/// Between two looks, where someone waits for the cluster to be well.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Is everything as it should be, and can another node be lost?
#[derive(Args, Debug)]
#[command(after_help = "\
The first two lines are the answers; below them stand the nodes, the worst first.

While the ring changes, they are followed by how far that is, and by who holds it up.

Exit codes: 0 everything is as it should be, 4 it is not, or the ring is changing.

Examples:
  coterie status
  coterie status --exit-when-healthy --timeout 2m        wait for it, after a change
  coterie status --addr node-0:7400,node-1:7400 -o json")]
pub struct StatusArgs {
    /// Look again and again, until everything is as it should be
    #[arg(long)]
    exit_when_healthy: bool,
    /// Stop looking after this, with the state that it is in then
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "60s",
        value_parser = args::duration,
        requires = "exit_when_healthy",
    )]
    timeout: Duration,
    #[command(flatten)]
    show: Show,
}

/// Every member, as one node sees it
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coterie members
  coterie members --addr 127.0.0.1:7420 -o json")]
pub struct MembersArgs {
    #[command(flatten)]
    show: Show,
}

#[derive(Serialize)]
struct StatusDocument<'a> {
    cluster_id: &'a str,
    cluster_name: &'a str,
    placement_number: u32,
    placement_hash: &'a str,
    replicas: u32,
    partitions: u32,
    durability: &'a str,
    #[serde(flatten)]
    health: &'a Health,
}

#[derive(Serialize)]
struct MemberDocument<'a> {
    name: &'a str,
    node_id: &'a str,
    state: &'a str,
    reachable: bool,
    since_ms: u64,
    home: bool,
    generation: u64,
    incarnation: u64,
    client_address: &'a str,
    internal_address: &'a str,
    admin_address: &'a str,
}

/// Runs `status`.
///
/// # Errors
/// If no node answers, or standard output is closed.
pub async fn status(args: StatusArgs) -> anyhow::Result<Exit> {
    let client = client(&args.show.target)?;
    let until = Instant::now() + args.timeout;
    let mut told = String::new();
    let (asked, health) = loop {
        let seen = look(&client).await;
        let fine = seen.as_ref().is_ok_and(|(_, health)| health.fine);
        if fine || !args.exit_when_healthy || Instant::now() >= until {
            break seen?;
        }
        let summary = match seen {
            Ok((_, health)) => health.summary,
            Err(error) => error.to_string(),
        };
        if summary != told && args.show.output == Output::Text {
            term::note(format_args!("waiting: {summary}"));
            told = summary;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    match args.show.output {
        Output::Json => term::json(&StatusDocument {
            cluster_id: &asked.cluster_id,
            cluster_name: &asked.cluster_name,
            placement_number: asked.placement_number,
            placement_hash: &asked.placement_hash,
            replicas: asked.replicas,
            partitions: asked.partitions,
            durability: &asked.durability,
            health: &health,
        })?,
        Output::Text => print_status(&asked, &health)?,
    }
    Ok(if health.fine { Exit::Ok } else { Exit::Degraded })
}

/// Runs `members`.
///
/// # Errors
/// If no node answers, or standard output is closed.
pub async fn members(args: MembersArgs) -> anyhow::Result<Exit> {
    let ask = |client: Client, address: String| async move { client.members(&address).await };
    let asked = ask_any(&client(&args.show.target)?, ask).await?;
    match args.show.output {
        Output::Json => {
            let documents: Vec<_> = asked.members.iter().map(MemberDocument::new).collect();
            term::json(&documents)?;
        }
        Output::Text => {
            let mut table = table(&[
                "NAME",
                "STATE",
                "REACHABLE",
                "FOR",
                "HOME",
                "GENERATION",
                "CLIENTS",
                "INTERNAL",
                "ADMIN",
                "ID",
            ]);
            for member in &asked.members {
                table.add_row([
                    member.name.clone(),
                    member.state.clone(),
                    yes_no(member.reachable).to_owned(),
                    coarse(member.since_ms),
                    yes_no(member.home).to_owned(),
                    member.generation.to_string(),
                    member.client_address.clone(),
                    member.internal_address.clone(),
                    member.admin_address.clone(),
                    member.node_id.chars().take(8).collect(),
                ]);
            }
            term::line(format_args!("As {} sees it:\n{table}", asked.name))?;
        }
    }
    Ok(Exit::Ok)
}

async fn look(client: &Client) -> anyhow::Result<(StatusResponse, Health)> {
    let asked = ask_any(client, status_of).await?;
    let answers = ask_all(client, &asked).await;
    let health = judge(&asked, &answers);
    Ok((asked, health))
}

/// The status of every member that `asked` knows, all asked at once.
async fn ask_all(client: &Client, asked: &StatusResponse) -> Answers {
    let others = asked.members.iter().filter(|member| member.name != asked.name);
    let others = others.map(|member| (member.name.clone(), member.client_address.clone()));
    let answers = ask_each(client, others, status_of).await;
    let mut all: Answers =
        answers.into_iter().map(|answer| (answer.address, answer.said.ok())).collect();
    let own = asked.members.iter().find(|member| member.name == asked.name);
    all.extend(own.map(|own| (own.client_address.clone(), Some(asked.clone()))));
    all
}

fn print_status(asked: &StatusResponse, health: &Health) -> anyhow::Result<()> {
    term::line(&health.summary)?;
    term::line(format_args!("Can another node be lost? {}", health.tolerance))?;
    term::line(format_args!(
        "\ncluster {} ({})  placement {}  N = {}  Q = {}  durability {}",
        asked.cluster_name,
        asked.cluster_id.chars().take(8).collect::<String>(),
        asked.placement_number,
        asked.replicas,
        asked.partitions,
        asked.durability,
    ))?;
    if let Some(change) = &health.change {
        term::line(format_args!("\nthe ring changes {}: {}", change.way(), change.stage()))?;
        term::line(format_args!("  left: {}", change.left()))?;
        for held in change.waits() {
            term::line(format_args!("  waits for {held}"))?;
        }
        term::line("")?;
    }
    let mut table =
        table(&["NODE", "", "CLIENTS", "UP", "GETS", "PUTS", "FAILED", "HINTS", "TROUBLES"]);
    for row in &health.members {
        table.add_row(cells(row));
    }
    term::line(table)?;
    Ok(())
}

fn cells(row: &Row) -> Vec<String> {
    let grade = match row.grade {
        Grade::Down => "DOWN",
        Grade::Impaired => "LOOK",
        Grade::Fine => "ok",
    };
    let told = |of: &dyn Fn(&StatusResponse) -> String| {
        row.status.as_ref().map_or_else(|| "-".to_owned(), of)
    };
    let counted = |of: &dyn Fn(crate::proto::Counters) -> u64| {
        told(&|status| term::grouped(of(status.counters.unwrap_or_default())))
    };
    vec![
        row.name.clone(),
        grade.to_owned(),
        row.client_address.clone(),
        told(&|status| coarse(status.uptime_ms)),
        counted(&|counters| counters.gets),
        counted(&|counters| counters.puts),
        counted(&|counters| counters.failures),
        counted(&|counters| counters.hints_held),
        row.troubles.join("; "),
    ]
}

/// A table without borders, as wide as the terminal.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.iter().copied());
    table
}

/// For a column in which no is worth looking at.
pub fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "NO" }
}

/// How long, to the precision that an operator needs: `45s`, `12m`, `3h`, `9d`.
pub fn coarse(millis: u64) -> String {
    match millis / 1000 {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

impl<'a> MemberDocument<'a> {
    fn new(member: &'a MemberStatus) -> Self {
        Self {
            name: &member.name,
            node_id: &member.node_id,
            state: &member.state,
            reachable: member.reachable,
            since_ms: member.since_ms,
            home: member.home,
            generation: member.generation,
            incarnation: member.incarnation,
            client_address: &member.client_address,
            internal_address: &member.internal_address,
            admin_address: &member.admin_address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_precise_as_needed() {
        assert_eq!(coarse(1_999), "1s");
        assert_eq!(coarse(125_000), "2m");
        assert_eq!(coarse(7_200_000), "2h");
        assert_eq!(coarse(200_000_000), "2d");
    }
}
