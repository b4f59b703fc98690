//! Which faults took effect, and how often.
//!
//! A plan says what is done to a world; that says little. A partition through which nobody spoke
//! and a flipped bit that nobody read tested nothing. So each kind is counted where it bites: the
//! message that was dropped, the torn record that recovery met, the answer "overloaded".

use std::fmt;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// A running process was killed.
    Kill,
    /// A process was started on a disk that held commits.
    Restart,
    /// Inputs waited for a process that was stopped.
    Pause,
    /// A running node lost its power.
    PowerLoss,
    /// Commits that were written or queued, and not synced, were lost.
    LostTail,
    /// A recovery met a record that was half written.
    TornRecord,
    /// A record with a flipped bit was read.
    BitFlip,
    /// A place was read that another record's bytes had been written to.
    MisdirectedWrite,
    /// A process was started on an emptied disk that had held commits.
    WipedDisk,
    /// A process found that its disk was set back, and went on as another.
    OldSnapshot,
    /// A read of the store failed.
    FailedRead,
    /// A read of the store was answered late.
    SlowRead,
    /// An fsync failed, and its node stopped.
    FailedFsync,
    /// An fsync took many times its usual time.
    SlowFsync,
    /// A commit was refused, by chance.
    RefusedCommit,
    /// A commit was refused by a full disk.
    FullDisk,
    /// A process on a copy of a live node's folder was turned away.
    DuplicateIdentity,
    /// A message was lost between two sides that did not hear each other.
    CutSymmetric,
    /// A message was lost in the one direction that was cut.
    CutOneWay,
    /// A message was lost to or from the one node that was cut off.
    CutSingle,
    /// A message was lost between two sides that one node connected.
    CutBridge,
    /// A message was lost where links were cut at random.
    CutRagged,
    /// A message was lost by the weather.
    Loss,
    /// A message arrived twice or more.
    Duplication,
    /// A message overtook an earlier one of its link.
    Reorder,
    /// A message was held back for long.
    Delay,
    /// A message arrived damaged.
    Corruption,
    /// A process read a wall clock that was off from its start.
    ClockOffset,
    /// A process read a wall clock that had been set.
    ClockJump,
    /// A process read a wall clock that was set to and fro.
    ClockStrobe,
    /// A request was refused because too much was under way.
    Overload,
    /// A node began to join.
    Join,
    /// A member began to leave.
    Leave,
    /// A dead member was removed.
    Remove,
    /// A member got another share.
    Reweigh,
    /// A node found that its disk was removed, and began anew.
    SetAside,
}

impl FaultKind {
    /// All of them, in order.
    pub const ALL: [Self; 36] = [
        Self::Kill,
        Self::Restart,
        Self::Pause,
        Self::PowerLoss,
        Self::LostTail,
        Self::TornRecord,
        Self::BitFlip,
        Self::MisdirectedWrite,
        Self::WipedDisk,
        Self::OldSnapshot,
        Self::FailedRead,
        Self::SlowRead,
        Self::FailedFsync,
        Self::SlowFsync,
        Self::RefusedCommit,
        Self::FullDisk,
        Self::DuplicateIdentity,
        Self::CutSymmetric,
        Self::CutOneWay,
        Self::CutSingle,
        Self::CutBridge,
        Self::CutRagged,
        Self::Loss,
        Self::Duplication,
        Self::Reorder,
        Self::Delay,
        Self::Corruption,
        Self::ClockOffset,
        Self::ClockJump,
        Self::ClockStrobe,
        Self::Overload,
        Self::Join,
        Self::Leave,
        Self::Remove,
        Self::Reweigh,
        Self::SetAside,
    ];

    /// In words, for a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kills",
            Self::Restart => "restarts",
            Self::Pause => "pauses",
            Self::PowerLoss => "power losses",
            Self::LostTail => "unsynced tails lost",
            Self::TornRecord => "torn records met",
            Self::BitFlip => "flipped bits read",
            Self::MisdirectedWrite => "misdirected writes read",
            Self::WipedDisk => "wiped disks",
            Self::OldSnapshot => "disks set back",
            Self::FailedRead => "failed reads",
            Self::SlowRead => "slow reads",
            Self::FailedFsync => "failed fsyncs",
            Self::SlowFsync => "slow fsyncs",
            Self::RefusedCommit => "refused commits",
            Self::FullDisk => "commits to a full disk",
            Self::DuplicateIdentity => "copied folders turned away",
            Self::CutSymmetric => "messages cut by a symmetric partition",
            Self::CutOneWay => "messages cut by a one-way partition",
            Self::CutSingle => "messages cut from a single node",
            Self::CutBridge => "messages cut beside a bridge",
            Self::CutRagged => "messages cut on random links",
            Self::Loss => "messages lost",
            Self::Duplication => "messages duplicated",
            Self::Reorder => "messages overtaken",
            Self::Delay => "messages delayed",
            Self::Corruption => "messages corrupted",
            Self::ClockOffset => "clocks off from the start",
            Self::ClockJump => "clock jumps",
            Self::ClockStrobe => "clock strobes",
            Self::Overload => "requests refused as overload",
            Self::Join => "joins",
            Self::Leave => "leaves",
            Self::Remove => "removals",
            Self::Reweigh => "changes of weight",
            Self::SetAside => "removed disks set aside",
        }
    }
}

/// How often each kind took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultCounts([u64; FaultKind::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self([0; FaultKind::ALL.len()])
    }
}

impl FaultCounts {
    /// A kind took effect.
    pub(super) fn count(&mut self, kind: FaultKind) {
        self.0[kind as usize] += 1;
    }

    /// Adds what was counted elsewhere.
    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }

    /// How often a kind took effect.
    #[must_use]
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.0[kind as usize]
    }

    /// How often any took effect.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The kinds that took effect, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (FaultKind, u64)> {
        FaultKind::ALL.into_iter().map(|kind| (kind, self.of(kind))).filter(|entry| entry.1 > 0)
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} faults took effect", self.total())?;
        for (at, (kind, count)) in self.nonzero().enumerate() {
            let mark = if at == 0 { ": " } else { ", " };
            write!(f, "{mark}{count} {}", kind.name())?;
        }
        Ok(())
    }
}
