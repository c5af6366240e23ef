//! Bugs that the simulation must find.

/// A bug that is added on purpose and that the simulation must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// The disk claims to sync but does not.
    SyncLies,
    /// Decisions are not made durable before their command is sent.
    SyncSkipped,
    DecisionTwice,
    DecisionEdited,
    /// Training starts with weights other than those of the checkpoint.
    WrongStart,
    /// The end of a chunk is never reported.
    ResultDropped,
    /// The end of a chunk is not reported once the clock was set back.
    ResultDroppedAfterSetBack,
    /// The times of events depend on what else the program has run.
    Unrepeatable,
}
