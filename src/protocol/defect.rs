//! Seeded defects: the checkers' own test.
//!
//! Each is a mistake that a real system made. In tests, and with the feature `seeded-defects`, a
//! core can be told to make one of them, and the simulator must notice every one within a few
//! seeds. In any other build no defect can be chosen and the compiler removes the questions.

/// A mistake that a core makes on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Defect {
    /// Acknowledge a write before its commit is durable.
    AckBeforeFsync,
    /// Acknowledge a merge that equals what is queued, before that is durable.
    AckEqualMergeEarly,
    /// Go on under the same actor after a restart.
    KeepActorAfterRestart,
    /// Send the new sibling alone instead of the whole record.
    LoneSibling,
    /// Count acknowledgements, not distinct nodes in distinct home slots.
    CountNodeTwice,
    /// Delete a hint on its acknowledgement even if it has changed since.
    DeleteChangedHint,
    /// Answer a conditional read with only those siblings that the asker lacks.
    AnswerOnlyMissing,
    /// Run a passed request each time that it arrives.
    RunPassedTwice,
    /// Start the clock at the wall clock, below its last value.
    ClockBelowLast,
    /// Drop the context that a client supplied from what the record has seen.
    LoseContext,
    /// Refuse a record whose stamps lie far ahead.
    RefuseFarStamps,
    /// Delete a hint as soon as it is sent.
    DropHintBeforeAck,
    /// Take a late answer of the store for what is stored now.
    KeepLateRead,
    /// Answer a scan with what the first home holds.
    ScanFirstHome,
    /// Skip the first leaf that differs when two trees are compared.
    SkipLeaf,
    /// Change a leaf of the tree when a commit is queued, not when it is done.
    TreeBeforeCommit,
    /// Let a copy that is being rebuilt count toward R.
    CountRebuilding,
    /// Collect dead records as soon as they are found, without a round.
    CollectEarly,
    /// Take in records of a round that is over.
    AcceptOverRound,
    /// Say that nothing older is held, and go on taking older hints.
    ConfirmWithoutBarrier,
    /// Apply a round to records that have changed since it was opened.
    DiscardLateCopy,
    /// Go on under the same actor after a commit was refused.
    KeepActorAfterRefusal,
    /// Go on under the same actor after a record was lost.
    KeepActorAfterLoss,
    /// Found the cluster with a majority of its founders.
    FoundWithoutAll,
    /// Count a home and the hint for it twice toward W.
    CountHomeAndHint,
    /// Delete a hint when any home acknowledges what is in it.
    DeleteHintOnAnyAck,
    /// Show a recent record as it was before the newest commit, while more are on their way.
    LagRecent,
    /// Write to the homes of the newest live placement version only.
    SkipOlderVersion,
    /// Say that all was brought to a new version as soon as it is known.
    SyncEarly,
    /// Go on under the same actor after a partition was gained or given up.
    KeepActorAfterMove,
    /// Retire a placement version once the next one is synced, while others still read it.
    RetireEarly,
    /// Take writes on a disk that is new in its place before it has been told where the rounds are.
    TakeUntold,
    /// Let trackers count by the number of a placement version, whatever its hash.
    BareTrackers,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::AckBeforeFsync,
        Self::AckEqualMergeEarly,
        Self::KeepActorAfterRestart,
        Self::LoneSibling,
        Self::CountNodeTwice,
        Self::DeleteChangedHint,
        Self::AnswerOnlyMissing,
        Self::RunPassedTwice,
        Self::ClockBelowLast,
        Self::LoseContext,
        Self::RefuseFarStamps,
        Self::DropHintBeforeAck,
        Self::KeepLateRead,
        Self::ScanFirstHome,
        Self::SkipLeaf,
        Self::TreeBeforeCommit,
        Self::CountRebuilding,
        Self::CollectEarly,
        Self::AcceptOverRound,
        Self::ConfirmWithoutBarrier,
        Self::DiscardLateCopy,
        Self::KeepActorAfterRefusal,
        Self::KeepActorAfterLoss,
        Self::FoundWithoutAll,
        Self::CountHomeAndHint,
        Self::DeleteHintOnAnyAck,
        Self::LagRecent,
        Self::SkipOlderVersion,
        Self::SyncEarly,
        Self::KeepActorAfterMove,
        Self::RetireEarly,
        Self::TakeUntold,
        Self::BareTrackers,
    ];

    /// Whether it shows only while nodes join or leave.
    #[must_use]
    pub fn is_of_the_ring(self) -> bool {
        matches!(
            self,
            Self::SkipOlderVersion
                | Self::SyncEarly
                | Self::KeepActorAfterMove
                | Self::RetireEarly
                | Self::TakeUntold
                | Self::BareTrackers
        )
    }
}
