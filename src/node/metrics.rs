//! Everything that a node counts, as a page of metrics. Read when somebody wants it; nothing is kept
//! for it but what the drivers count anyway.

use std::sync::Arc;
use std::time::Duration;

use super::hint_age::OldestHint;
use crate::api::backend::{MemberStatus, NodeStatus};
use crate::api::calls::Calls;
use crate::gossip;
use crate::metrics::{Kind, Page};
use crate::peers;
use crate::protocol::control::ChangeReport;
use crate::protocol::progress::Waiting;
use crate::protocol::step::{RepairReport, Stats};
use crate::store::{Beat, Committer, Store};
use crate::telemetry;

/// The states that gossip knows.
const STATES: [&str; 4] = ["alive", "suspect", "down", "unknown"];

/// What is counted where it happens, and what is asked for at a scrape.
pub(super) struct Meters {
    pub(super) calls: Arc<Calls>,
    pub(super) store: Arc<dyn Store>,
    pub(super) oldest_hint: OldestHint,
}

/// Who this is, and whether it serves.
pub(super) fn node(status: &NodeStatus, stuck: bool, page: &mut Page) {
    let version = env!("CARGO_PKG_VERSION");
    page.resource = telemetry::resource(&status.node_id);
    let info = [
        ("node", status.name.as_str()),
        ("cluster", status.cluster_name.as_str()),
        ("version", version),
        ("durability", status.durability.as_str()),
    ];
    let help = "This node, and how it was built and set up.";
    page.family("coterie_build_info", Kind::Gauge, help).sample(&info, 1_u8);
    let uptime = status.uptime_ms as f64 / 1e3;
    page.gauge("coterie_uptime_seconds", "How long this process has been running.", uptime);
    let ready = u8::from(status.not_ready.is_none());
    page.gauge("coterie_ready", "1 if the node serves requests; /readyz says why not.", ready);
    let help = "1 if a loop of the node stands still; /healthz says which.";
    page.gauge("coterie_stuck", help, u8::from(stuck));
    let help = "Number of the placement; 0 before the founding.";
    page.gauge("coterie_placement_number", help, status.placement_number);
}

/// What the workers have done.
pub(super) fn workers(stats: &Stats, page: &mut Page) {
    let Stats {
        gets,
        puts,
        failures,
        hints_written,
        hints_replayed,
        hints_held,
        hint_bytes,
        hint_bytes_max,
        hints_refused,
        hints_unknown,
        repairs_sent,
        hedges,
        passed,
        records_lost,
        store_reads_failed,
        messages_refused,
        in_flight,
        ..
    } = stats;
    page.counter("coterie_gets_total", "Reads answered.", gets);
    page.counter("coterie_puts_total", "Writes and deletes acknowledged.", puts);
    page.counter("coterie_failures_total", "Reads and writes that failed.", failures);
    let help = "Hints that this node wrote, or added to, for homes that did not answer.";
    page.counter("coterie_hints_written_total", help, hints_written);
    let help = "Hints that their target has on disk, and that were deleted here.";
    page.counter("coterie_hints_replayed_total", help, hints_replayed);
    page.gauge("coterie_hints_held", "Hints that this node holds for others.", hints_held);
    page.gauge("coterie_hints_held_bytes", "Bytes of the hints held.", hint_bytes);
    let help = "Bytes of hints that may be held: hints.max_bytes.";
    page.gauge("coterie_hints_max_bytes", help, hint_bytes_max);
    let help = "Hints refused, by why: no room for more, or a target that is no member.";
    let family = page.family("coterie_hints_refused_total", Kind::Counter, help);
    family.sample(&[("reason", "full")], hints_refused);
    family.sample(&[("reason", "unknown_target")], hints_unknown);
    let help = "Records sent to a home whose answer to a read lacked something.";
    page.counter("coterie_read_repairs_total", help, repairs_sent);
    let help = "Reads for which one more replica was asked because another was slow.";
    page.counter("coterie_hedges_total", help, hedges);
    let help = "Writes passed on to a home, because this node is none of their key.";
    page.counter("coterie_writes_passed_total", help, passed);
    let help = "Stored records found damaged, and set aside to be rebuilt.";
    page.counter("coterie_records_lost_total", help, records_lost);
    let help =
        "Reads of the store that failed: a damaged block, or a disk that does not return it.";
    page.counter("coterie_store_reads_failed_total", help, store_reads_failed);
    let help = "Messages refused because their sender's disk was replaced, or has no place.";
    page.counter("coterie_messages_refused_total", help, messages_refused);
    page.gauge("coterie_requests_in_flight", "Reads and writes under way.", in_flight);
    upkeep(stats, page);
}

/// What keeps copies alike and whole, and what removes dead records.
fn upkeep(stats: &Stats, page: &mut Page) {
    let Stats {
        syncs,
        syncs_equal,
        syncs_failed,
        syncs_refused,
        sync_records,
        sync_bytes,
        partitions_rebuilding,
        partitions_rebuilt,
        trees_unknown,
        trees_rebuilt,
        records_scrubbed,
        rounds_opened,
        rounds_over,
        records_collected,
        rounds_open,
        round_age_micros_max,
        sync_slowing_percent,
        ..
    } = stats;
    let help = "Comparisons with another home that this node led: those that found all equal, that \
                exchanged what differed, that came to no end, that the other's part made no sense of.";
    let family = page.family("coterie_syncs_total", Kind::Counter, help);
    family.sample(&[("result", "equal")], syncs_equal);
    family.sample(&[("result", "mended")], syncs.saturating_sub(*syncs_equal));
    family.sample(&[("result", "failed")], syncs_failed);
    family.sample(&[("result", "refused")], syncs_refused);
    let help = "Records fetched from, or sent to, another home because they differed.";
    page.counter("coterie_sync_records_total", help, sync_records);
    let help = "Bytes of those records.";
    page.counter("coterie_sync_bytes_total", help, sync_bytes);
    let help = "How many times slower than anti_entropy.bytes_per_second exchanges go, because requests take longer.";
    let slowing = *sync_slowing_percent as f64 / 100.0;
    page.gauge("coterie_sync_slowing_ratio", help, slowing);
    let help = "Lost partitions that are being rebuilt from the other homes.";
    page.gauge("coterie_partitions_rebuilding", help, partitions_rebuilding);
    let help = "Lost partitions that were rebuilt.";
    page.counter("coterie_partitions_rebuilt_total", help, partitions_rebuilt);
    let help = "Partitions that cannot be compared yet, because they have to be read first.";
    page.gauge("coterie_trees_unknown", help, trees_unknown);
    let help = "Hash trees that disagreed with the store, and were made anew.";
    page.counter("coterie_trees_rebuilt_total", help, trees_rebuilt);
    let help = "Records that scrubs have read again and verified.";
    page.counter("coterie_records_scrubbed_total", help, records_scrubbed);
    let help = "Rounds of collection that this node has opened, as the one that drives them.";
    page.counter("coterie_collection_rounds_opened_total", help, rounds_opened);
    let help = "Of those, rounds that every member has closed and applied.";
    page.counter("coterie_collection_rounds_over_total", help, rounds_over);
    let help = "Dead records of this node's own that collection has removed.";
    page.counter("coterie_collection_records_total", help, records_collected);
    let help = "Rounds of collection that this node drives now.";
    page.gauge("coterie_collection_rounds_open", help, rounds_open);
    let help = "For how long the oldest of them has been open; the log says for whom it waits.";
    let age = *round_age_micros_max as f64 / 1e6;
    page.gauge("coterie_collection_round_age_max_seconds", help, age);
}

/// How old the oldest write is that a hint keeps.
pub(super) fn hint_age(age: Duration, page: &mut Page) {
    let help = "Age of the oldest write that a hint held here keeps, as last looked up on disk.";
    page.gauge("coterie_hints_age_max_seconds", help, age.as_secs_f64());
}

/// How far a change of the ring is, and who holds it up.
pub(super) fn change(report: &ChangeReport, page: &mut Page) {
    let help = "Live versions of the placement: one, or more while the ring changes; 0 before the \
                founding.";
    page.gauge("coterie_placement_versions_live", help, report.live.len());
    let help = "For how long a change of the ring has waited for this member at this stage, as seen \
                here.";
    let family = page.family("coterie_change_waits_for_seconds", Kind::Gauge, help);
    for wait in &report.waits {
        let labels = [("peer", wait.name.as_str()), ("stage", wait.stage.as_str())];
        family.sample(&labels, wait.since_ms as f64 / 1e3);
    }
    let help = "What this node itself has still to do for a change of the ring: requests and reads \
                that began before it, partitions and targets of hints that are not brought over.";
    let family = page.family("coterie_change_left", Kind::Gauge, help);
    let Waiting { ops, reads, exchanges, hints } = report.left;
    for (what, left) in
        [("requests", ops), ("reads", reads), ("partitions", exchanges), ("hint_targets", hints)]
    {
        family.sample(&[("what", what)], left);
    }
}

/// How whole the copies are.
pub(super) fn repair(report: &RepairReport, page: &mut Page) {
    let help = "Partitions that were read again and verified, and that all other homes hold alike.";
    page.gauge("coterie_partitions_whole", help, report.whole);
    let help = "Partitions of which that is not known.";
    page.gauge("coterie_partitions_unverified", help, report.unverified);
    if let Some(since) = report.whole_since {
        let help = "Since when at least that is known of all whole partitions.";
        page.gauge("coterie_whole_since_timestamp_seconds", help, since.0 as f64 / 1e3);
    }
    let help = "Lost partitions whose rebuilding waits for this home.";
    let family = page.family("coterie_rebuilding_waits_for", Kind::Gauge, help);
    for (home, partitions) in &report.waits_for {
        family.sample(&[("peer", home.as_str())], partitions);
    }
}

/// What the committer has done.
pub(super) fn committer(committer: &Committer, page: &mut Page) {
    let meters = committer.meters();
    let help = "How long commits took, fsync included if there is one, in seconds.";
    let family = page.family("coterie_commit_duration_seconds", Kind::Histogram, help);
    family.times(&[], &meters.durations);
    let help = "How many submissions went into one commit together; a write is one.";
    page.family("coterie_commit_changes", Kind::Histogram, help).counts(&[], &meters.sizes);
    let help = "Commits that were refused because the disk is too full.";
    let refused = meters.refused.load(std::sync::atomic::Ordering::Relaxed);
    page.counter("coterie_commits_refused_total", help, refused);
    let help = "Number of the newest commit that a power cut would leave.";
    page.gauge("coterie_commit_synced_number", help, committer.synced().0);
    let help = "Submissions that wait for their commit to end.";
    page.gauge("coterie_commit_queued", help, committer.queued());
    let still = match committer.beat() {
        Beat::Working(still) => still.as_secs_f64(),
        Beat::Idle | Beat::Ended => 0.0,
    };
    let help = "For how long the committer has had work and finished none of it.";
    page.gauge("coterie_commit_stalled_seconds", help, still);
}

/// What the disk holds, and has left.
pub(super) fn store(store: &dyn Store, page: &mut Page) {
    let Some(space) = store.space() else { return };
    if let Some(free) = space.free {
        let help = "Bytes free on the file system of node.data.";
        page.gauge("coterie_store_free_bytes", help, free);
    }
    let help = "Bytes of the store's tables; the journal's, at most 128 MiB, come on top.";
    page.gauge("coterie_store_table_bytes", help, space.tables);
}

/// The streams to and from other nodes.
pub(super) fn streams(report: &peers::Report, page: &mut Page) {
    page.gauge("coterie_streams", "Streams to and from other nodes.", report.streams);
    let family = page.family(
        "coterie_stream_messages_total",
        Kind::Counter,
        "Messages received from, and queued for, other nodes.",
    );
    family.sample(&[("direction", "in")], report.received);
    family.sample(&[("direction", "out")], report.sent);
    let family = page.family(
        "coterie_stream_bytes_total",
        Kind::Counter,
        "Bytes read from, and written to, the streams of other nodes.",
    );
    family.sample(&[("direction", "in")], report.bytes_in);
    family.sample(&[("direction", "out")], report.bytes_out);
    let family = page.family(
        "coterie_stream_messages_dropped_total",
        Kind::Counter,
        "Messages to or from other nodes that were dropped.",
    );
    family.sample(&[("reason", "no_stream")], report.dropped_no_stream);
    family.sample(&[("reason", "queue_full")], report.dropped_full);
    family.sample(&[("reason", "unreadable")], report.unreadable);
    let help = "Streams closed because the caller was none of us, or broke the rules.";
    page.counter("coterie_streams_refused_total", help, report.refused);
}

/// The gossip's datagrams.
pub(super) fn datagrams(report: &gossip::Report, page: &mut Page) {
    let help = "Datagrams of gossip.";
    let family = page.family("coterie_gossip_datagrams_total", Kind::Counter, help);
    family.sample(&[("direction", "in")], report.datagrams_in);
    family.sample(&[("direction", "out")], report.datagrams_out);
    let help = "Bytes of gossip's datagrams.";
    let family = page.family("coterie_gossip_datagram_bytes_total", Kind::Counter, help);
    family.sample(&[("direction", "in")], report.datagram_bytes_in);
    family.sample(&[("direction", "out")], report.datagram_bytes_out);
    let help = "Datagrams of gossip that the kernel did not take.";
    page.counter("coterie_gossip_datagrams_failed_total", help, report.datagrams_failed);
    let help = "How late a timer of gossip was at worst: a loaded machine makes false suspicions.";
    page.gauge("coterie_gossip_lag_max_seconds", help, report.lag_max_micros as f64 / 1e6);
}

/// The members, as this node sees them.
pub(super) fn members(members: &[MemberStatus], own_id: &str, page: &mut Page) {
    let help = "Members by what gossip says of them, this node among the alive.";
    let family = page.family("coterie_members", Kind::Gauge, help);
    for state in STATES {
        let count = members.iter().filter(|member| member.state == state).count();
        family.sample(&[("state", state)], count);
    }
    let help = "1 if this node can reach the peer now.";
    let family = page.family("coterie_peer_reachable", Kind::Gauge, help);
    for member in members.iter().filter(|member| member.node_id != own_id) {
        let labels = [("peer", member.name.as_str()), ("peer_id", member.node_id.as_str())];
        family.sample(&labels, u8::from(member.reachable));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;
    use crate::protocol::control::Waits;

    #[test]
    fn a_change_tells_who_holds_it_up_and_what_is_left() {
        let waits = Waits {
            name: "node-2".into(),
            stage: "sync".into(),
            version: "2:ab".into(),
            since_ms: 90_500,
            reachable: false,
            remedy: String::new(),
        };
        let left = Waiting { exchanges: 12, ..Waiting::default() };
        let live = vec!["1:aa".to_owned(), "2:ab".to_owned()];
        let report = ChangeReport { live, waits: vec![waits], left, ..ChangeReport::default() };
        let mut page = Page::default();
        change(&report, &mut page);
        let text = metrics::text(&page);
        for line in [
            "coterie_placement_versions_live 2",
            "coterie_change_waits_for_seconds{peer=\"node-2\",stage=\"sync\"} 90.5",
            "coterie_change_left{what=\"partitions\"} 12",
            "coterie_change_left{what=\"requests\"} 0",
        ] {
            assert!(text.lines().any(|told| told == line), "no {line} in:\n{text}");
        }
    }

    #[test]
    fn a_rebuild_tells_whom_it_waits_for() {
        let name = crate::types::NodeName::new("node-1").unwrap();
        let waits_for = std::iter::once((name, 7)).collect();
        let report = RepairReport { waits_for, ..RepairReport::default() };
        let mut page = Page::default();
        repair(&report, &mut page);
        let text = metrics::text(&page);
        assert!(text.contains("coterie_rebuilding_waits_for{peer=\"node-1\"} 7\n"), "{text}");
    }
}
