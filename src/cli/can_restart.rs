//! `can-restart`: may a node be stopped now, with nobody refused?

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::args::Show;
use super::exit::{Coded, Exit};
use super::nodes::{Answer, ask_any, ask_each, client, status_of};
use super::term::{self, Output};
use super::under_way::UnderWay;
use crate::client::Client;
use crate::proto::{RingMember, RingResponse, StatusResponse};

/// May a node be stopped now: does every range keep a majority of live, whole copies without it?
#[derive(Args, Debug)]
#[command(after_help = "\
Every member is asked. A copy counts if its node answers, is ready, rebuilds nothing, and knows the
same placement as the others: what is not known for certain counts as no. While the ring changes the
answer is no: new homes are not whole, and the change would wait for the node.

Exit codes: 0 it may, 3 there is no such member, 4 it may not, or too little is known.

Examples:
  coterie can-restart node-1 && systemctl restart coterie
  until coterie can-restart $POD; do sleep 5; done
  coterie can-restart node-1 -o json")]
pub struct CanRestartArgs {
    /// The node's name
    name: String,
    #[command(flatten)]
    show: Show,
}

/// The answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Verdict {
    name: String,
    can_restart: bool,
    /// The change of the ring that is under way, if one is.
    changing: Option<String>,
    /// Partitions that would be left without a majority of live, whole copies.
    short: u32,
    partitions: u32,
    /// Members whose copies do not count, each with why.
    not_counted: BTreeMap<String, String>,
}

/// Runs the command.
///
/// # Errors
/// If no node answers, there is no such member, or standard output is closed.
pub async fn can_restart(args: CanRestartArgs) -> anyhow::Result<Exit> {
    let client = client(&args.show.target)?;
    let ask = |client: Client, address: String| async move {
        let (ring, members) = (client.ring(&address).await?, client.members(&address).await?);
        Ok((ring, members))
    };
    let (ring, known) = ask_any(&client, ask).await?;
    let address = |member: &RingMember| {
        // A name may be known with two disks: the one that has its place is meant.
        let known = known.members.iter().find(|known| known.home && known.name == member.name);
        (member.name.clone(), known.map(|known| known.client_address.clone()).unwrap_or_default())
    };
    if !ring.members.iter().any(|member| member.name == args.name) {
        let names: Vec<&str> = ring.members.iter().map(|member| member.name.as_str()).collect();
        let told = format!("{} is no member: there are {}", args.name, names.join(", "));
        return Err(Coded::error(Exit::NotFound, told));
    }
    let answers = ask_each(&client, ring.members.iter().map(address), status_of).await;
    let verdict = judge(&args.name, &ring, &answers);
    match args.show.output {
        Output::Json => term::json(&verdict)?,
        Output::Text => print(&verdict, &ring)?,
    }
    Ok(if verdict.can_restart { Exit::Ok } else { Exit::Degraded })
}

fn judge(name: &str, ring: &RingResponse, answers: &[Answer<StatusResponse>]) -> Verdict {
    let others = answers.iter().filter(|answer| answer.name != name);
    let not_counted: BTreeMap<String, String> =
        others.filter_map(|one| Some((one.name.clone(), why_not(ring, one)?))).collect();
    let counts = |home: &u32| {
        let member = ring.members.get(*home as usize);
        member.is_some_and(|home| home.name != name && !not_counted.contains_key(&home.name))
    };
    let majority = ring.replicas as usize / 2 + 1;
    let homes = ring.homes.chunks(ring.replicas.max(1) as usize);
    let short = homes.filter(|homes| homes.iter().filter(|home| counts(home)).count() < majority);
    let short = u32::try_from(short.count()).unwrap_or(u32::MAX);
    let known = ring.homes.len() == ring.partitions as usize * ring.replicas as usize;
    let mut said = answers.iter().filter_map(|answer| answer.said.as_ref().ok());
    let changing = said.find_map(|status| UnderWay::of(status, []));
    Verdict {
        name: name.to_owned(),
        can_restart: known && ring.partitions > 0 && short == 0 && changing.is_none(),
        changing: changing.map(|change| change.way()),
        short,
        partitions: ring.partitions,
        not_counted,
    }
}

/// Why the copies of a member do not count; none if they do.
fn why_not(ring: &RingResponse, answer: &Answer<StatusResponse>) -> Option<String> {
    let status = match &answer.said {
        Err(why) => return Some(format!("does not answer: {why}")),
        Ok(status) => status,
    };
    let lost = status.counters.unwrap_or_default().partitions_lost;
    if !status.ready {
        Some(format!("is not ready: {}", status.not_ready_because))
    } else if !status.rebuilding.is_empty() {
        Some(format!("is rebuilding: {}", status.rebuilding))
    } else if lost > 0 {
        Some(format!("rebuilds {}", term::count(lost, "partition")))
    } else if status.placement_hash != ring.hash {
        let (theirs, ours) = (status.placement_number, ring.number);
        Some(format!("knows placement {theirs}, and {} knows {ours}", ring.name))
    } else {
        None
    }
}

fn print(verdict: &Verdict, ring: &RingResponse) -> anyhow::Result<()> {
    let Verdict { name, short, partitions, .. } = verdict;
    let majority = ring.replicas / 2 + 1;
    if verdict.can_restart {
        term::line(format_args!(
            "yes: without {name}, every range keeps {majority} live, whole copies, a majority of N = {}",
            ring.replicas
        ))?;
    } else if let Some(from_to) = &verdict.changing {
        term::line(format_args!(
            "no: the ring changes {from_to}; `coterie status` shows how far it is"
        ))?;
    } else {
        term::line(format_args!(
            "no: without {name}, {} of {} would have fewer than {majority} live, whole copies left",
            term::grouped((*short).into()),
            term::count((*partitions).into(), "partition")
        ))?;
    }
    for (name, why) in &verdict.not_counted {
        term::line(format_args!("  {name} {why}"))?;
    }
    let passes = !verdict.not_counted.is_empty() || verdict.changing.is_some();
    if !verdict.can_restart && passes {
        term::line("`coterie status --exit-when-healthy` waits until all are well")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Change, Counters};

    /// Four members; two partitions, of a, b, c and of b, c, d.
    fn ring() -> RingResponse {
        let member = |name: &str| RingMember { name: name.to_owned(), ..RingMember::default() };
        RingResponse {
            name: "a".to_owned(),
            number: 1,
            hash: "h".to_owned(),
            replicas: 3,
            partitions: 2,
            members: ["a", "b", "c", "d"].map(member).to_vec(),
            homes: vec![0, 1, 2, 1, 2, 3],
        }
    }

    fn well() -> StatusResponse {
        let placement_hash = "h".to_owned();
        StatusResponse { ready: true, placement_hash, ..StatusResponse::default() }
    }

    fn judged(name: &str, changed: &[(&str, Result<StatusResponse, String>)]) -> Verdict {
        let answer = |name: &str| {
            let change = changed.iter().find(|(who, _)| *who == name);
            let said = change.map_or_else(|| Ok(well()), |(_, said)| said.clone());
            Answer { name: name.to_owned(), address: String::new(), said }
        };
        judge(name, &ring(), &["a", "b", "c", "d"].map(answer))
    }

    #[test]
    fn a_node_may_go_if_every_range_keeps_a_majority() {
        for name in ["a", "b", "c", "d"] {
            let verdict = judged(name, &[]);
            assert!(verdict.can_restart && verdict.not_counted.is_empty(), "{verdict:?}");
        }
        let away = || Err("refused".to_owned());
        assert!(judged("a", &[("a", away())]).can_restart, "one that is away may stay away");
        assert!(judged("a", &[("d", away())]).can_restart, "they share no range");
        let verdict = judged("b", &[("d", away())]);
        assert_eq!((verdict.can_restart, verdict.short), (false, 1));
        assert_eq!(verdict.not_counted["d"], "does not answer: refused");
        assert_eq!(judged("b", &[("c", away())]).short, 2);
    }

    #[test]
    fn a_copy_that_is_not_known_to_be_whole_does_not_count() {
        let lost = Counters { partitions_lost: 1, ..Counters::default() };
        for status in [
            StatusResponse { ready: false, ..well() },
            StatusResponse { rebuilding: "a disk".to_owned(), ..well() },
            StatusResponse { counters: Some(lost), ..well() },
            StatusResponse { placement_hash: "another".to_owned(), ..well() },
        ] {
            let verdict = judged("a", &[("b", Ok(status))]);
            assert_eq!((verdict.can_restart, verdict.short), (false, 1), "{verdict:?}");
        }
    }

    #[test]
    fn nobody_may_go_while_the_ring_changes() {
        let live = vec!["1:0a".to_owned(), "2:0b".to_owned()];
        let change = Some(Change { live, ..Change::default() });
        let verdict = judged("a", &[("b", Ok(StatusResponse { change, ..well() }))]);
        assert_eq!((verdict.can_restart, verdict.short), (false, 0));
        assert_eq!(verdict.changing.as_deref(), Some("from version 1 to 2"));
    }

    #[test]
    fn two_replicas_or_one_have_no_majority_without_one_of_them() {
        let mut ring = ring();
        (ring.replicas, ring.homes) = (2, vec![0, 1, 2, 3]);
        let none: [Answer<StatusResponse>; 0] = [];
        assert_eq!(judge("a", &ring, &none).short, 1);
        ring.homes.pop();
        assert!(!judge("d", &ring, &none).can_restart, "a table that is cut short proves nothing");
    }
}
