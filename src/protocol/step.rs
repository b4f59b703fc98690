//! The interface of the data-path core: inputs in, effects out.
//!
//! A [`super::worker::Worker`] is driven by `step(now, input, &mut effects)`. The order of effects
//! is part of the interface:
//!
//! - effects are carried out in the order given, and those of one step before those of the next;
//!   commits in particular reach the committer in that order;
//! - a commit is reported by [`Input::Committed`] only when it is as durable as was asked for;
//!   reports come in the order of the commits;
//! - a [`Effect::Read`] or [`Effect::Scan`] sees every commit that was reported before it is
//!   carried out; its answer may be delivered at any later time;
//! - sends may be lost, duplicated or reordered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::message::{DataMessage, PlacementTag};
use super::op::{Failure, Op, Outcome};
use super::placement::View;
use super::progress::Progress;
use super::quorum::Consistency;
use super::record::Record;
use crate::types::{Key, Mono, NodeId, NodeName, Partition, Stamp, TraceContext, Wall};

/// One of the ordered maps of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Records of the partitions that this node is home to: `partition (2, big-endian) ‖ key`.
    Records,
    /// Hints: `target name's length (1) ‖ name ‖ partition (2, big-endian) ‖ key`.
    Hints,
    /// Everything else that must survive a restart, by name.
    Meta,
}

/// A put, or the removal of what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The map that changes.
    pub space: Space,
    /// At most 65,535 bytes.
    pub key: Bytes,
    /// The new value; none removes the key.
    pub value: Option<Bytes>,
}

/// A page of a scan of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values in order of key.
    pub entries: Vec<(Bytes, Bytes)>,
    /// Whether nothing is left behind the last entry.
    pub done: bool,
}

/// A read of the store failed. What is stored is unknown, not absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFailed;

/// Joins a read or a scan to its answer; counts up within a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Numbers the commits of one worker, from 1 at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CommitId(pub u64);

/// A driver's name for whoever waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a worker is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client asks for something; the answer is due by `deadline`.
    Client {
        /// For the answer.
        ticket: Ticket,
        /// What is asked.
        op: Op,
        /// When to give up.
        deadline: Mono,
        /// The trace that it belongs to.
        trace: Option<TraceContext>,
    },
    /// A client asks for a page of a partition, merged from R homes.
    ScanPage {
        /// For the answer.
        ticket: Ticket,
        /// The partition.
        partition: Partition,
        /// Entries behind this key; empty: from the start.
        after: Bytes,
        /// About how many bytes of records the page may have.
        bytes_max: u32,
        /// R.
        consistency: Consistency,
        /// When to give up.
        deadline: Mono,
    },
    /// A peer says something.
    Message {
        /// The peer, as its stream has proven.
        from: NodeId,
        /// The peer's placement.
        placement: PlacementTag,
        /// The trace that it belongs to.
        trace: Option<TraceContext>,
        /// The partition that it is about.
        partition: Partition,
        /// What it says.
        message: DataMessage,
    },
    /// The answer to [`Effect::Read`].
    ReadDone(Token, Result<Option<Bytes>, ReadFailed>),
    /// The answer to [`Effect::Scan`].
    Scanned(Token, Result<Page, ReadFailed>),
    /// Every commit up to this one is durable, save those that were reported refused.
    Committed(CommitId),
    /// This commit was refused: nothing of it is stored.
    Refused(CommitId),
    /// Whether a peer can be reached has changed.
    Reachability(NodeId, Reach),
    /// The cluster as it is now.
    View(Arc<View>),
    /// Conditions of the whole node.
    Conditions(Conditions),
    /// These partitions are not whole on this disk, and are durably marked so.
    Lost(Vec<Partition>),
    /// A timer may be due: see [`super::worker::Worker::next_timer`].
    Tick,
}

/// Whether a peer can be asked for something, as seen from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// It has a stream to this node, and answers.
    Answers,
    /// Its streams stand, and it has not answered in time: it may only be slow, and what it was asked it may answer
    /// still.
    Silent,
    /// No stream to it is left, or gossip has found it dead: it answers nothing that it was asked.
    #[default]
    Away,
}

impl Reach {
    /// Whether it is worth asking.
    #[must_use]
    pub fn answers(self) -> bool {
        self == Self::Answers
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Answers => "answers",
            Self::Silent => "is silent",
            Self::Away => "cannot be reached",
        })
    }
}

/// Conditions of the whole node that workers heed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Conditions {
    /// A majority of members has confirmed, since this start, that this node forgot nothing.
    pub confirmed: bool,
    /// This node's wall clock is further than `clock.max_skew` from an agreeing majority.
    pub clock_suspect: bool,
    /// The node is stopping: no new client requests.
    pub draining: bool,
}

/// What a worker wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Read a key of the store.
    Read {
        /// For the answer.
        token: Token,
        /// The map.
        space: Space,
        /// The key.
        key: Bytes,
    },
    /// Read the entries under a prefix, behind a key.
    Scan {
        /// For the answer.
        token: Token,
        /// The map.
        space: Space,
        /// The prefix.
        prefix: Bytes,
        /// Entries behind this key; empty: from the start.
        after: Bytes,
        /// Bytes of keys and values after which the page ends.
        bytes_max: usize,
    },
    /// Make changes durable, whole or not at all.
    Commit {
        /// For the answer.
        id: CommitId,
        /// The changes, in order.
        changes: Vec<Change>,
        /// The worker's clock: stored with the batch.
        clock: Stamp,
    },
    /// Say something to a peer.
    Send {
        /// The peer.
        to: NodeId,
        /// The trace that it belongs to.
        trace: Option<TraceContext>,
        /// The partition that it is about.
        partition: Partition,
        /// What to say.
        message: DataMessage,
    },
    /// Answer a client.
    Reply(Ticket, Outcome),
    /// Answer a client's [`Input::ScanPage`].
    ScanReply(Ticket, Result<MergedPage, Failure>),
    /// A peer has timed out several times in a row, or has answered again after that.
    Reachable(NodeId, bool),
    /// How far the worker has come in a change of the ring. Told when it has moved; every worker
    /// tells it at least once after its first view.
    Progress(Progress),
    /// Something worth telling an operator, or a reader of a simulator's trace.
    Event(Event),
}

/// A page of a partition, merged from R homes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MergedPage {
    /// Keys in order, each with the merged record.
    pub entries: Vec<(Key, Record)>,
    /// Ask on behind this key; none if the partition ends here.
    pub next: Option<Key>,
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The stored copy of a key is damaged: it is set aside and rebuilt from the other homes.
    RecordLost(Partition, Key),
    /// A lost copy has been merged from every other home.
    RecordRebuilt(Partition, Key),
    /// A tenure ended for a reason that an operator should know.
    TenureEnded(Partition, &'static str),
    /// Replaying hints to a target begins.
    ReplayStarted(NodeId),
    /// A peer wanted a hint kept for a node that is no member. Told once a peer.
    HintUnknown {
        /// The peer.
        from: NodeId,
        /// Its name, if it is a member.
        name: Option<NodeName>,
        /// Whom the hint was for.
        target: NodeName,
    },
    /// A hint was refused because there is no room. Told when that begins.
    HintsFull,
    /// No hint is left for a target; how many were delivered since the start.
    ReplayDone(NodeId, u64),
    /// What was found to differ from a peer's copies was exchanged: this many records.
    Mended(NodeId, u64),
    /// A lost partition has been merged from every other home; how many of this worker's are left.
    PartitionRebuilt(Partition, usize),
    /// A peer's part in an exchange made no sense, and why; the exchange was ended.
    SyncRefused(NodeId, &'static str),
    /// A partition's hash tree disagreed with the store, and was made anew from it.
    TreeRebuilt(Partition),
    /// A round of collection that this node drives is over: so many records are gone everywhere.
    RoundOver(Partition, u64),
    /// A round of collection that this node drives has long waited for these members.
    RoundWaits(Partition, Vec<NodeName>),
    /// A round was closed that this node's copy of a partition never confirmed: the copy is set aside.
    SetAside(Partition),
}

/// What a worker has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    /// Gets answered.
    pub gets: u64,
    /// Writes acknowledged.
    pub puts: u64,
    /// Ops that failed.
    pub failures: u64,
    /// Hints written or grown on this node.
    pub hints_written: u64,
    /// Hints delivered to their target and deleted.
    pub hints_replayed: u64,
    /// Distinct hints held now.
    pub hints_held: u64,
    /// Bytes of hints held now.
    pub hint_bytes: u64,
    /// Bytes of hints that may be held.
    pub hint_bytes_max: u64,
    /// Hints refused because there is no room for more.
    pub hints_refused: u64,
    /// Hints refused because their target is no member.
    pub hints_unknown: u64,
    /// Records sent to a home whose answer to a read lacked something.
    pub repairs_sent: u64,
    /// Reads for which another replica was asked because one was slow.
    pub hedges: u64,
    /// Writes passed to a home.
    pub passed: u64,
    /// Records lost here to damage.
    pub records_lost: u64,
    /// Reads of the store that failed: a damaged block, or a disk that does not return it.
    pub store_reads_failed: u64,
    /// Messages of disks that were replaced, or that have no place, refused.
    pub messages_refused: u64,
    /// Ops under way now.
    pub in_flight: u64,
    /// Comparisons with another home, of a lane each, that came to their end.
    pub syncs: u64,
    /// Those of them that found everything equal at once.
    pub syncs_equal: u64,
    /// Exchanges with another home that came to no end: silence, or a refusal.
    pub syncs_failed: u64,
    /// Exchanges that were ended because the other home's part made no sense.
    pub syncs_refused: u64,
    /// Records fetched from, and sent to, other homes because they differed.
    pub sync_records: u64,
    /// Bytes of records fetched and sent so.
    pub sync_bytes: u64,
    /// Lost partitions that are being rebuilt now.
    pub partitions_rebuilding: u64,
    /// Lost partitions that were rebuilt.
    pub partitions_rebuilt: u64,
    /// Partitions whose hash tree is not known yet, because they have to be read first.
    pub trees_unknown: u64,
    /// Hash trees that disagreed with the store, and were made anew.
    pub trees_rebuilt: u64,
    /// Records that were read again and verified by scrubs.
    pub records_scrubbed: u64,
    /// Rounds of collection opened by this node as their driver.
    pub rounds_opened: u64,
    /// Of those, rounds that all members have closed and applied.
    pub rounds_over: u64,
    /// Dead records of this node's own that were collected.
    pub records_collected: u64,
    /// Rounds that this node drives now.
    pub rounds_open: u64,
    /// For how long the oldest of them has been open, in microseconds; 0 if none is.
    pub round_age_micros_max: u64,
    /// Partitions that this node has given up, and of which records are left to be dropped.
    pub partitions_leaving: u64,
    /// How much slower than set exchanges go, because requests take longer, in percent: from 100.
    pub sync_slowing_percent: u64,
}

/// How whole a node's copies are.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RepairReport {
    /// Partitions that the node is home to.
    pub partitions: u64,
    /// Those that were lost, and are being rebuilt.
    pub rebuilding: u64,
    /// The homes that these wait for, each with how many of them do.
    pub waits_for: BTreeMap<NodeName, u64>,
    /// Partitions that were read again and verified, and that all other homes hold alike.
    pub whole: u64,
    /// Since when at least that is known of all of those.
    pub whole_since: Option<Wall>,
    /// Partitions of which it is not known.
    pub unverified: u64,
}

impl Stats {
    /// Adds what another worker has done and holds.
    pub fn add(&mut self, of: &Self) {
        let Self {
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
            partitions_leaving,
            sync_slowing_percent,
        } = of;
        self.gets += gets;
        self.puts += puts;
        self.failures += failures;
        self.hints_written += hints_written;
        self.hints_replayed += hints_replayed;
        self.hints_held += hints_held;
        self.hint_bytes += hint_bytes;
        self.hint_bytes_max += hint_bytes_max;
        self.hints_refused += hints_refused;
        self.hints_unknown += hints_unknown;
        self.repairs_sent += repairs_sent;
        self.hedges += hedges;
        self.passed += passed;
        self.records_lost += records_lost;
        self.store_reads_failed += store_reads_failed;
        self.messages_refused += messages_refused;
        self.in_flight += in_flight;
        self.syncs += syncs;
        self.syncs_equal += syncs_equal;
        self.syncs_failed += syncs_failed;
        self.syncs_refused += syncs_refused;
        self.sync_records += sync_records;
        self.sync_bytes += sync_bytes;
        self.partitions_rebuilding += partitions_rebuilding;
        self.partitions_rebuilt += partitions_rebuilt;
        self.trees_unknown += trees_unknown;
        self.trees_rebuilt += trees_rebuilt;
        self.records_scrubbed += records_scrubbed;
        self.rounds_opened += rounds_opened;
        self.rounds_over += rounds_over;
        self.records_collected += records_collected;
        self.rounds_open += rounds_open;
        self.partitions_leaving += partitions_leaving;
        self.round_age_micros_max = self.round_age_micros_max.max(*round_age_micros_max);
        self.sync_slowing_percent = self.sync_slowing_percent.max(*sync_slowing_percent);
    }
}

/// What a worker is told of the configuration; durations in microseconds.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// N, R and W follow from the placement and the request; this bounds values, in bytes.
    pub value_bytes_max: usize,
    /// Siblings that a put may leave.
    pub siblings_max: usize,
    /// Bytes of a record that a put may leave.
    pub record_bytes_max: usize,
    /// How far clocks may differ, in milliseconds.
    pub skew_ms_max: u64,
    /// After this a silent home gets a hint elsewhere, and counts as having timed out once. What was passed to a
    /// peer that is silent is waited for three times as long.
    pub replica_timeout: u64,
    /// A read waits at least this long before it asks another replica.
    pub hedge_min: u64,
    /// Bytes of hints that this worker keeps.
    pub hint_bytes_max: u64,
    /// Hints on their way to one target at a time.
    pub replay_window: usize,
    /// Bytes of recently used records that this worker keeps in memory.
    pub recent_bytes_max: usize,
    /// Ops that may be under way at a time; beyond, requests are refused as overload.
    pub in_flight_max: usize,
    /// How often two homes compare what they hold.
    pub sync_interval: u64,
    /// Bytes a second that this worker exchanges for that, or reads to know its trees; at least 1.
    pub sync_bytes_per_second: u64,
    /// Bytes a second that this worker fetches to rebuild lost partitions; at least 1.
    pub rebuild_bytes_per_second: u64,
    /// How often every record is read again and verified.
    pub scrub_interval: u64,
    /// Bytes a second that this worker reads for that; at least 1.
    pub scrub_bytes_per_second: u64,
    /// How often partitions are looked through for dead records; 0: never.
    pub collect_interval: u64,
    /// How long to rest between two pages of that.
    pub collect_rest: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            value_bytes_max: 1 << 20,
            siblings_max: 64,
            record_bytes_max: 8 << 20,
            skew_ms_max: 60_000,
            replica_timeout: 250_000,
            hedge_min: 5_000,
            hint_bytes_max: 4 << 30,
            replay_window: 128,
            recent_bytes_max: 16 << 20,
            in_flight_max: 16_384,
            sync_interval: 600_000_000,
            sync_bytes_per_second: 16 << 20,
            rebuild_bytes_per_second: 128 << 20,
            scrub_interval: 7 * 86_400_000_000,
            scrub_bytes_per_second: 4 << 20,
            collect_interval: 3_600_000_000,
            collect_rest: 100_000,
        }
    }
}
