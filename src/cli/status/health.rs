//! From what the nodes say to two answers: is everything as it should be, and can another node be
//! lost? A pure function, so that its every branch can be tested.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::hints::has_no_room;
use crate::cli::term;
use crate::cli::under_way::UnderWay;
use crate::proto::{MemberStatus, Repair, StatusResponse};

/// What a member's row starts with; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// It does not answer, or others cannot reach it.
    Down,
    /// It answers and is not as it should be.
    Impaired,
    /// As it should be.
    Fine,
}

/// A member, as it and the others see it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How it is.
    pub grade: Grade,
    /// Its name.
    pub name: String,
    /// Whether it may be home to something.
    pub home: bool,
    /// What is wrong with it, in phrases.
    pub troubles: Vec<String>,
    /// Where clients reach it.
    pub client_address: String,
    /// What it says of itself, if it answers.
    #[serde(rename = "says", serialize_with = "serialize_says")]
    pub status: Option<StatusResponse>,
}

/// What programs are shown of a node's own words.
#[derive(Serialize)]
struct Says<'a> {
    node_id: &'a str,
    version: &'a str,
    ready: bool,
    uptime_ms: u64,
    synced_commit: u64,
    gets: u64,
    puts: u64,
    failures: u64,
    in_flight: u64,
    hints_held: u64,
    hint_bytes: u64,
    hint_bytes_max: u64,
    hints_refused: u64,
    hints_written: u64,
    hints_replayed: u64,
    repairs_sent: u64,
    records_lost: u64,
    store_reads_failed: u64,
    partitions_lost: u64,
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn serialize_says<S: serde::Serializer>(
    status: &Option<StatusResponse>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let says = status.as_ref().map(|status| {
        let counters = status.counters.unwrap_or_default();
        Says {
            node_id: &status.node_id,
            version: &status.version,
            ready: status.ready,
            uptime_ms: status.uptime_ms,
            synced_commit: status.synced_commit,
            gets: counters.gets,
            puts: counters.puts,
            failures: counters.failures,
            in_flight: counters.in_flight,
            hints_held: counters.hints_held,
            hint_bytes: counters.hint_bytes,
            hint_bytes_max: counters.hint_bytes_max,
            hints_refused: counters.hints_refused,
            hints_written: counters.hints_written,
            hints_replayed: counters.hints_replayed,
            repairs_sent: counters.repairs_sent,
            records_lost: counters.records_lost,
            store_reads_failed: counters.store_reads_failed,
            partitions_lost: counters.partitions_lost,
        }
    });
    says.serialize(serializer)
}

/// The answers.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// Whether everything is as it should be.
    pub fine: bool,
    /// Whether another node can be lost with every key still readable and writable by quorum.
    pub can_lose_another: bool,
    /// The first answer, in a sentence.
    pub summary: String,
    /// The second, in a sentence.
    pub tolerance: String,
    /// The change of the ring that is under way.
    pub change: Option<UnderWay>,
    /// Every member, the worst first.
    pub members: Vec<Row>,
}

/// A member's address with what it answered; none if it did not.
pub type Answers = BTreeMap<String, Option<StatusResponse>>;

/// Judges a cluster by what `asked` and all others that answer say.
#[must_use]
pub fn judge(asked: &StatusResponse, answers: &Answers) -> Health {
    let counts = |member: &&MemberStatus| {
        // Who has left, or was removed, is remembered for a while.
        asked.placement_number == 0 || member.home || member.state == "alive"
    };
    let members = asked.members.iter().filter(counts);
    let mut rows: Vec<Row> = members.map(|member| row(asked, member, answers)).collect();
    rows.sort_by(|a, b| (a.grade, &a.name).cmp(&(b.grade, &b.name)));
    let change = UnderWay::of(asked, answers.values().flatten());
    let (summary, tolerance, can_lose_another) = sentences(asked, &rows, change.as_ref());
    let well = rows.iter().all(|row| row.grade == Grade::Fine);
    let fine = asked.placement_number > 0 && well && change.is_none();
    Health { fine, can_lose_another, summary, tolerance, change, members: rows }
}

fn row(asked: &StatusResponse, member: &MemberStatus, answers: &Answers) -> Row {
    let status = answers.get(&member.client_address).cloned().flatten();
    let mut troubles = Vec::new();
    if member.state != "alive" {
        troubles.push(match member.state.as_str() {
            "unknown" => "never heard of".to_owned(),
            state => format!("{state} in gossip"),
        });
    }
    for (watcher, reachable) in views(asked, answers, &member.name) {
        if !reachable {
            troubles.push(format!("{watcher} cannot reach it"));
        }
    }
    let mut grade = if troubles.is_empty() { Grade::Fine } else { Grade::Down };
    match &status {
        None => {
            troubles.push("does not answer".to_owned());
            grade = Grade::Down;
        }
        Some(status) => {
            let own = own_troubles(asked, status);
            if !own.is_empty() || grade == Grade::Down {
                grade = Grade::Impaired;
            }
            troubles.extend(own);
        }
    }
    let (name, client_address) = (member.name.clone(), member.client_address.clone());
    Row { grade, name, home: member.home, troubles, client_address, status }
}

/// Who sees a member, and whether it can reach it. A node says nothing about itself.
fn views<'a>(
    asked: &'a StatusResponse,
    answers: &'a Answers,
    name: &'a str,
) -> impl Iterator<Item = (&'a str, bool)> {
    let others = answers.values().flatten().filter(|other| other.name != asked.name);
    std::iter::once(asked).chain(others).filter(move |watcher| watcher.name != name).filter_map(
        move |watcher| {
            let member = watcher.members.iter().find(|member| member.name == name)?;
            Some((watcher.name.as_str(), member.reachable))
        },
    )
}

fn own_troubles(asked: &StatusResponse, status: &StatusResponse) -> Vec<String> {
    let mut troubles = Vec::new();
    if !status.ready {
        troubles.push(format!("not ready: {}", status.not_ready_because));
    }
    if status.cluster_id != asked.cluster_id {
        troubles.push(format!("belongs to another cluster ({})", status.cluster_id));
    } else if status.placement_hash != asked.placement_hash {
        troubles.push(format!("has placement {} of another hash", status.placement_number));
    }
    if !status.rebuilding.is_empty() {
        troubles.push(status.rebuilding.clone());
    }
    let counters = status.counters.unwrap_or_default();
    if counters.hints_held > 0 {
        let hints = term::count(counters.hints_held, "hint");
        troubles.push(format!("holds {hints} for others"));
    }
    if has_no_room(counters.hint_bytes, counters.hint_bytes_max) {
        troubles.push("has hardly any room for further hints (hints.max_bytes)".to_owned());
    }
    if counters.records_lost > 0 {
        let records = term::count(counters.records_lost, "damaged record");
        troubles.push(format!("has come upon {records} on its disk"));
    }
    if counters.store_reads_failed > 0 {
        let times = term::count(counters.store_reads_failed, "time");
        troubles.push(format!(
            "could not read its disk {times}: if that goes on, stop it and start it with an empty data folder, \
             and it is rebuilt from the others"
        ));
    }
    // The sentence of a lost disk says it, and more.
    let rebuilds = |repair: &&Repair| repair.rebuilding > 0 && status.rebuilding.is_empty();
    if let Some(repair) = status.repair.as_ref().filter(rebuilds) {
        let partitions = term::count(repair.rebuilding, "partition");
        let from = repair.waits_for.join(", ");
        troubles.push(format!("is rebuilding {partitions}, and waits for {from}"));
    }
    troubles
}

fn sentences(
    asked: &StatusResponse,
    rows: &[Row],
    change: Option<&UnderWay>,
) -> (String, String, bool) {
    if asked.placement_number == 0 {
        let because = &asked.not_ready_because;
        return (
            format!("NOT FOUNDED: the cluster serves nothing yet ({because})"),
            "Nothing is stored yet.".to_owned(),
            false,
        );
    }
    let names = |grade: Grade| -> Vec<&str> {
        rows.iter().filter(|row| row.grade == grade).map(|row| row.name.as_str()).collect()
    };
    let (down, impaired) = (names(Grade::Down), names(Grade::Impaired));
    let summary = match (down.is_empty(), impaired.is_empty()) {
        (true, true) if change.is_some() => {
            let way = change.map(UnderWay::way).unwrap_or_default();
            format!("CHANGING: all {} nodes are well, and the ring goes {way}", rows.len())
        }
        (true, true) if rows.len() == 1 => "OK: the only node is as it should be".to_owned(),
        (true, true) => format!("OK: all {} nodes are as they should be", rows.len()),
        (true, false) => format!("DEGRADED: look at {}", impaired.join(", ")),
        (false, true) => format!("DEGRADED: down: {}", down.join(", ")),
        (false, false) => {
            format!("DEGRADED: down: {}; look at {}", down.join(", "), impaired.join(", "))
        }
    };
    let replicas = asked.replicas as usize;
    let unready = |row: &Row| row.status.as_ref().is_some_and(|status| !status.ready);
    let is_out = |row: &&Row| row.home && (row.grade == Grade::Down || unready(row));
    let out = rows.iter().filter(is_out).count();
    let (tolerance, can_lose) = tolerance(replicas, out);
    (summary, tolerance, can_lose)
}

/// What N replicas of which `out` nodes are not there can bear. In the worst case all of `out` are
/// homes of one key.
fn tolerance(replicas: usize, out: usize) -> (String, bool) {
    let quorum = replicas / 2 + 1;
    let spare = replicas - quorum.min(replicas);
    match out.cmp(&spare) {
        Ordering::Less => {
            let more = spare - out;
            let nodes =
                if more == 1 { "one more node".to_owned() } else { format!("{more} more nodes") };
            let sentence = format!(
                "Yes: {nodes} can be lost, and every key can still be read and written \
                 (N = {replicas}, quorum {quorum})."
            );
            (sentence, true)
        }
        Ordering::Equal if replicas == 1 => {
            let sentence = "No: each key has one home only (N = 1).";
            (sentence.to_owned(), false)
        }
        Ordering::Equal => {
            let sentence = format!(
                "No: if another node is lost, some keys have fewer than {quorum} of their \
                 {replicas} homes."
            );
            (sentence, false)
        }
        Ordering::Greater => {
            let nodes = term::count(out as u64, "node");
            let homes = match replicas {
                1 => "lack their only home".to_owned(),
                _ => format!("have fewer than {quorum} of their {replicas} homes"),
            };
            let them = if out == 1 { "it" } else { "them" };
            let sentence = format!(
                "No: with {nodes} out, some keys already {homes}. Nothing acknowledged is lost \
                 while the disks are whole: bring {them} back."
            );
            (sentence, false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Change, Counters, Left, Wait};

    fn member(name: &str) -> MemberStatus {
        MemberStatus {
            name: name.to_owned(),
            state: "alive".to_owned(),
            reachable: true,
            client_address: name.to_owned(),
            home: true,
            ..MemberStatus::default()
        }
    }

    fn cluster() -> Vec<StatusResponse> {
        let names = ["node-0", "node-1", "node-2"];
        let status = |name: &&str| StatusResponse {
            name: (*name).to_owned(),
            ready: true,
            placement_number: 1,
            replicas: 3,
            members: names.iter().map(|name| member(name)).collect(),
            counters: Some(Counters::default()),
            ..StatusResponse::default()
        };
        names.iter().map(status).collect()
    }

    fn answers(statuses: &[StatusResponse]) -> Answers {
        statuses.iter().map(|status| (status.name.clone(), Some(status.clone()))).collect()
    }

    #[test]
    fn a_whole_cluster_is_fine_and_can_lose_a_node() {
        let cluster = cluster();
        let health = judge(&cluster[0], &answers(&cluster));
        assert!(health.fine && health.can_lose_another, "{health:?}");
        assert!(health.summary.starts_with("OK"));
        let json = serde_json::to_value(&health).unwrap();
        assert_eq!(json["members"][0]["says"]["ready"], true);
        assert_eq!(json["members"][0]["grade"], "fine");
    }

    #[test]
    fn a_silent_node_is_down_comes_first_and_no_other_can_be_lost() {
        let mut cluster = cluster();
        for status in &mut cluster {
            status.members[2].reachable = false;
        }
        let mut answers = answers(&cluster);
        answers.insert("node-2".to_owned(), None);
        let health = judge(&cluster[0], &answers);
        assert!(!health.fine && !health.can_lose_another);
        assert_eq!(health.members[0].name, "node-2");
        assert_eq!(health.members[0].grade, Grade::Down);
        assert_eq!(health.members[0].troubles.len(), 3, "{:?}", health.members[0].troubles);
        assert!(health.summary.contains("node-2"));
    }

    /// One of the nodes says this of itself.
    fn counting(counters: Counters) -> Health {
        let mut cluster = cluster();
        cluster[1].counters = Some(counters);
        judge(&cluster[0], &answers(&cluster))
    }

    #[test]
    fn a_disk_that_could_not_be_read_is_degraded_and_says_what_to_do() {
        let health = counting(Counters { store_reads_failed: 2, ..Counters::default() });
        assert!(!health.fine && health.can_lose_another);
        let said = &health.members[0].troubles[0];
        assert!(said.contains("could not read its disk 2 times"), "{said}");
        assert!(said.contains("empty data folder"), "{said}");
    }

    #[test]
    fn hints_and_unreadiness_are_degraded() {
        let health = counting(Counters { hints_held: 7, ..Counters::default() });
        assert!(!health.fine && health.can_lose_another);
        assert_eq!(health.members[0].grade, Grade::Impaired);

        let mut cluster = cluster();
        let waits_for = vec!["node-0".to_owned(), "node-2".to_owned()];
        cluster[1].repair = Some(Repair { rebuilding: 12, waits_for, ..Repair::default() });
        let health = judge(&cluster[0], &answers(&cluster));
        let told = "is rebuilding 12 partitions, and waits for node-0, node-2";
        assert_eq!(health.members[0].troubles, [told]);

        let mut cluster = self::cluster();
        cluster[1].ready = false;
        let health = judge(&cluster[0], &answers(&cluster));
        assert!(!health.fine && !health.can_lose_another);
    }

    #[test]
    fn a_link_that_only_one_node_sees_broken_is_told() {
        let mut cluster = cluster();
        cluster[1].members[2].reachable = false;
        let health = judge(&cluster[0], &answers(&cluster));
        assert!(!health.fine);
        assert_eq!(health.members[0].troubles, ["node-1 cannot reach it"]);
    }

    #[test]
    fn before_the_founding_nothing_is_fine() {
        let mut cluster = cluster();
        cluster[0].placement_number = 0;
        let health = judge(&cluster[0], &answers(&cluster));
        assert!(!health.fine && health.summary.starts_with("NOT FOUNDED"));
    }

    #[test]
    fn a_change_under_way_is_not_fine_and_tells_who_holds_it_up() {
        let mut cluster = cluster();
        for status in &mut cluster {
            let left = Some(Left { partitions: 7, ..Left::default() });
            let live = vec!["1:0a".to_owned(), "2:0b".to_owned()];
            let wait = |name: &str, reachable| Wait {
                name: name.to_owned(),
                stage: "sync".to_owned(),
                since_ms: 90_000,
                reachable,
                remedy: "start it".to_owned(),
                ..Wait::default()
            };
            let waits = vec![wait("node-1", true), wait("node-2", false)];
            status.change = Some(Change { live, waits, left, ..Change::default() });
        }
        let health = judge(&cluster[0], &answers(&cluster));
        assert!(!health.fine && health.can_lose_another, "{health:?}");
        assert!(health.summary.starts_with("CHANGING"), "{}", health.summary);
        assert!(health.summary.ends_with("from version 1 to 2"), "{}", health.summary);
        let change = health.change.unwrap();
        assert_eq!(change.left(), "21 partitions to hand over");
        let away: Vec<String> = change.away().collect();
        assert_eq!(away, ["node-2 (sync for 90s, cannot be reached): start it"]);
    }

    #[test]
    fn who_is_no_member_and_does_not_live_is_not_missed() {
        let mut cluster = cluster();
        let mut stranger = member("node-9");
        (stranger.home, stranger.state, stranger.reachable) = (false, "down".to_owned(), false);
        cluster[0].members.push(stranger);
        let health = judge(&cluster[0], &answers(&cluster));
        assert!(health.fine && health.members.len() == 3, "{health:?}");
        // It is about to join: it is looked at, and nothing that is stored depends on it.
        cluster[0].members[3].state = "alive".to_owned();
        let health = judge(&cluster[0], &answers(&cluster));
        assert!(!health.fine && health.can_lose_another, "{health:?}");
    }

    #[test]
    fn a_lost_disk_is_told_once() {
        let mut cluster = cluster();
        cluster[1].rebuilding = "12 partitions are being rebuilt".to_owned();
        cluster[1].repair = Some(Repair { rebuilding: 12, ..Repair::default() });
        let health = judge(&cluster[0], &answers(&cluster));
        assert_eq!(health.members[0].troubles, ["12 partitions are being rebuilt"]);
    }

    #[test]
    fn what_can_be_lost_follows_from_n() {
        assert!(tolerance(3, 0).1);
        assert!(!tolerance(3, 1).1);
        assert!(!tolerance(3, 2).1);
        assert!(tolerance(5, 1).1);
        assert!(!tolerance(5, 2).1);
        assert!(!tolerance(1, 0).1);
        let (sentence, _) = tolerance(1, 1);
        assert!(sentence.starts_with("No: with 1 node out, some keys already lack"), "{sentence}");
    }
}
