//! Seeded defects: the checkers' own test.
//!
//! Each is a mistake that a real system made. In tests, and with the feature `seeded-defects`, a
//! worker can be told to make one of them, and the simulator must notice every one within a few
//! seeds. In any other build no defect can be chosen and the compiler removes the questions.

/// A mistake that a worker makes on purpose.
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
    /// Count what a node answers whose disk was emptied, as if it were whole.
    CountRebuilding,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 15] = [
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
        Self::CountRebuilding,
    ];
}
