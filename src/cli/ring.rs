//! `ring` and `locate`: who owns what, as one node knows it.

use std::ffi::OsString;

use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use super::args::Show;
use super::exit::Exit;
use super::kv::key_of;
use super::nodes::{ask_any, client};
use super::status::{table, yes_no};
use super::term::{self, Output};
use crate::client::Client;
use crate::proto::{LocateResponse, Place, RingMember, RingResponse};

/// Who owns how much, and how evenly
#[derive(Args, Debug)]
#[command(after_help = "\
The balance is the greatest share of any node over the mean share, each divided by its weight: 1.00 is
even. Liveness does not change the ring: a node that is down keeps its partitions.

Examples:
  coterie ring
  coterie ring --partitions | grep node-2      the partitions that node-2 is home to
  coterie ring --partitions -o json")]
pub struct RingArgs {
    /// Show the homes of every partition, too
    #[arg(long)]
    partitions: bool,
    #[command(flatten)]
    show: Show,
}

/// Where a key belongs
#[derive(Args, Debug)]
#[command(after_help = "\
Homes hold the key; while one of them is away, the first fallback that can be reached keeps hints for
it. REACHABLE is what the node that was asked sees now. `coterie explain KEY` tells what they hold.

Examples:
  coterie locate greeting
  coterie locate greeting -o json | jq -r '.homes[].client_address'")]
pub struct LocateArgs {
    /// The key, 1 to 4096 bytes
    key: OsString,
    #[command(flatten)]
    show: Show,
}

#[derive(Serialize)]
struct RingDocument<'a> {
    told_by: &'a str,
    placement_number: u32,
    placement_hash: &'a str,
    replicas: u32,
    partitions: u32,
    balance: f64,
    balance_of_primaries: f64,
    members: Vec<MemberDocument<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    homes: Vec<Vec<&'a str>>,
}

#[derive(Serialize)]
struct MemberDocument<'a> {
    name: &'a str,
    zone: &'a str,
    weight: u32,
    partitions: u32,
    primaries: u32,
}

#[derive(Serialize)]
struct LocateDocument<'a> {
    told_by: &'a str,
    partition: u32,
    placement_number: u32,
    homes: Vec<PlaceDocument<'a>>,
    fallbacks: Vec<PlaceDocument<'a>>,
}

#[derive(Serialize)]
struct PlaceDocument<'a> {
    name: &'a str,
    client_address: &'a str,
    reachable: bool,
}

/// Runs `ring`.
///
/// # Errors
/// If no node answers, or standard output is closed.
pub async fn ring(args: RingArgs) -> anyhow::Result<Exit> {
    let client = client(&args.show.target)?;
    let ask = |client: Client, address: String| async move { client.ring(&address).await };
    let ring = ask_any(&client, ask).await?;
    match args.show.output {
        Output::Json => term::json(&RingDocument::new(&ring, args.partitions))?,
        Output::Text => print_ring(&ring, args.partitions)?,
    }
    Ok(Exit::Ok)
}

/// Runs `locate`.
///
/// # Errors
/// If the key is none, no node answers, or standard output is closed.
pub async fn locate(args: LocateArgs) -> anyhow::Result<Exit> {
    let key = key_of(&args.key)?;
    let client = client(&args.show.target)?;
    let located = locate_by(&client, &key).await?;
    match args.show.output {
        Output::Json => term::json(&LocateDocument::new(&located))?,
        Output::Text => print_located(&located)?,
    }
    Ok(Exit::Ok)
}

/// Where a key belongs, as the first node that answers knows it.
///
/// # Errors
/// If no node answers.
pub async fn locate_by(client: &Client, key: &Bytes) -> anyhow::Result<LocateResponse> {
    let ask = |client: Client, address: String| {
        let key = key.clone();
        async move { client.locate(&address, key).await }
    };
    ask_any(client, ask).await
}

fn print_ring(ring: &RingResponse, partitions: bool) -> anyhow::Result<()> {
    term::line(format_args!(
        "balance (max / mean): partitions {:.2}, primaries {:.2}",
        balance(&ring.members, |member| member.partitions),
        balance(&ring.members, |member| member.primaries),
    ))?;
    term::line(format_args!(
        "\nplacement {} ({})  N = {}  Q = {}  as {} knows it",
        ring.number, ring.hash, ring.replicas, ring.partitions, ring.name
    ))?;
    let mut members = table(&["NODE", "ZONE", "WEIGHT", "PARTITIONS", "SHARE", "PRIMARIES"]);
    for member in &ring.members {
        let share = f64::from(member.partitions) / f64::from(ring.partitions.max(1)) * 100.0;
        members.add_row([
            member.name.clone(),
            if member.zone.is_empty() { "-".to_owned() } else { member.zone.clone() },
            member.weight.to_string(),
            member.partitions.to_string(),
            format!("{share:.1} %"),
            member.primaries.to_string(),
        ]);
    }
    term::line(members)?;
    if partitions {
        let mut rows = table(&["PARTITION", "HOMES"]);
        for (partition, homes) in homes(ring).iter().enumerate() {
            rows.add_row([partition.to_string(), homes.join(", ")]);
        }
        term::line(format_args!("\n{rows}"))?;
    }
    Ok(())
}

fn print_located(located: &LocateResponse) -> anyhow::Result<()> {
    term::line(format_args!(
        "partition {}, placement {}, as {} knows it",
        located.partition, located.placement_number, located.name
    ))?;
    let mut rows = table(&["ROLE", "NODE", "CLIENTS", "REACHABLE"]);
    for (role, places) in [("home", &located.homes), ("fallback", &located.fallbacks)] {
        for (number, place) in (1..).zip(places) {
            rows.add_row([
                format!("{role} {number}"),
                place.name.clone(),
                place.client_address.clone(),
                yes_no(place.reachable).to_owned(),
            ]);
        }
    }
    term::line(rows)?;
    Ok(())
}

/// The greatest load over the mean one, each divided by the member's weight.
fn balance(members: &[RingMember], load: impl Fn(&RingMember) -> u32) -> f64 {
    let weight = |member: &RingMember| f64::from(member.weight.max(1));
    let relative = members.iter().map(|member| f64::from(load(member)) / weight(member));
    let most = relative.fold(0.0, f64::max);
    let total: f64 = members.iter().map(|member| f64::from(load(member))).sum();
    let mean = total / members.iter().map(weight).sum::<f64>();
    if total > 0.0 { most / mean } else { 1.0 }
}

/// The names of the homes of each partition. An index that is no member's is left out: a node
/// that sends one is defective, and the rest of its answer may still help.
fn homes(ring: &RingResponse) -> Vec<Vec<&str>> {
    let name = |home: &u32| ring.members.get(*home as usize).map(|member| member.name.as_str());
    let each = ring.homes.chunks(ring.replicas.max(1) as usize);
    each.map(|homes| homes.iter().filter_map(name).collect()).collect()
}

impl<'a> RingDocument<'a> {
    fn new(ring: &'a RingResponse, partitions: bool) -> Self {
        let members = ring.members.iter().map(|member| MemberDocument {
            name: &member.name,
            zone: &member.zone,
            weight: member.weight,
            partitions: member.partitions,
            primaries: member.primaries,
        });
        Self {
            told_by: &ring.name,
            placement_number: ring.number,
            placement_hash: &ring.hash,
            replicas: ring.replicas,
            partitions: ring.partitions,
            balance: balance(&ring.members, |member| member.partitions),
            balance_of_primaries: balance(&ring.members, |member| member.primaries),
            members: members.collect(),
            homes: if partitions { homes(ring) } else { vec![] },
        }
    }
}

impl<'a> LocateDocument<'a> {
    fn new(located: &'a LocateResponse) -> Self {
        let place = |place: &'a Place| PlaceDocument {
            name: &place.name,
            client_address: &place.client_address,
            reachable: place.reachable,
        };
        Self {
            told_by: &located.name,
            partition: located.partition,
            placement_number: located.placement_number,
            homes: located.homes.iter().map(place).collect(),
            fallbacks: located.fallbacks.iter().map(place).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_is_relative_to_weights() {
        let member = |weight, partitions| RingMember { weight, partitions, ..Default::default() };
        let of = |members: &[RingMember]| balance(members, |member| member.partitions);
        assert!((of(&[member(1, 10), member(1, 10)]) - 1.0).abs() < 1e-9);
        assert!((of(&[member(1, 10), member(3, 30)]) - 1.0).abs() < 1e-9);
        assert!((of(&[member(1, 30), member(1, 10)]) - 1.5).abs() < 1e-9);
        assert!((of(&[member(1, 0)]) - 1.0).abs() < 1e-9);
    }
}
