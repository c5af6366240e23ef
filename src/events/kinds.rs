//! The table of event kinds: one row per kind, used by the live types and the stored forms.

/// Passes all rows to the macro `$with`:
/// `number "name" source Live(Type): version => Stored, older version => OlderStored;`.
///
/// Numbers and names are never reused. Rows are in the order of the enum: facts, then decisions.
macro_rules! event_kinds {
    ($with:ident) => {
        $with! {
            // facts
            1 "run_created" Process RunCreated(Box<RunCreated>): 3 => RunCreatedV3, 2 => RunCreatedV2, 1 => RunCreatedV1;
            2 "process_started" Process ProcessStarted(ProcessStarted): 2 => ProcessStartedV2, 1 => ProcessStartedV1;
            3 "run_interrupted" Process RunInterrupted(RunInterrupted): 1 => RunInterruptedV1;
            4 "setting_changed" Process SettingChanged(SettingChanged): 2 => SettingChangedV2, 1 => SettingChangedV1;
            5 "fallback_granted" Process FallbackGranted(FallbackGranted): 1 => FallbackGrantedV1;
            6 "stage_measured" Trainer StageMeasured(StageMeasured): 1 => StageMeasuredV1;
            7 "metrics_logged" Trainer MetricsLogged(MetricsLogged): 1 => MetricsLoggedV1;
            8 "checkpoint_written" Trainer CheckpointWritten(CheckpointWritten): 1 => CheckpointWrittenV1;
            9 "checkpoint_judged" Trainer CheckpointJudged(CheckpointJudged): 1 => CheckpointJudgedV1;
            10 "held_out_scored" Trainer HeldOutScored(HeldOutScored): 1 => HeldOutScoredV1;
            11 "picture_scored" Trainer PictureScored(PictureScored): 2 => PictureScoredV2, 1 => PictureScoredV1;
            12 "chunk_finished" Trainer ChunkFinished(ChunkFinished): 1 => ChunkFinishedV1;
            13 "chunk_failed" Trainer ChunkFailed(ChunkFailed): 1 => ChunkFailedV1;
            14 "store_repaired" Process StoreRepaired(StoreRepaired): 1 => StoreRepairedV1;
            15 "checkpoint_given_up" Process CheckpointGivenUp(CheckpointGivenUp): 1 => CheckpointGivenUpV1;
            16 "prune_requested" Process PruneRequested(PruneRequested): 1 => PruneRequestedV1;
            // decisions
            101 "stage_started" Machine StageStarted(StageStarted): 2 => StageStartedV2, 1 => StageStartedV1;
            102 "chunk_started" Machine ChunkStarted(ChunkStarted): 2 => ChunkStartedV2, 1 => ChunkStartedV1;
            103 "samples_superseded" Machine SamplesSuperseded(SamplesSuperseded): 1 => SamplesSupersededV1;
            104 "gate_decided" Machine GateDecided(Box<GateDecided>): 2 => GateDecidedV2, 1 => GateDecidedV1;
            105 "patch_applied" Machine PatchApplied(PatchApplied): 2 => PatchAppliedV2, 1 => PatchAppliedV1;
            106 "patch_deferred" Machine PatchDeferred(PatchDeferred): 2 => PatchDeferredV2, 1 => PatchDeferredV1;
            107 "failure_decided" Machine FailureDecided(FailureDecided): 2 => FailureDecidedV2, 1 => FailureDecidedV1;
            108 "stage_reopened" Machine StageReopened(StageReopened): 2 => StageReopenedV2, 1 => StageReopenedV1;
            109 "checkpoint_deleted" Machine CheckpointDeleted(CheckpointDeleted): 1 => CheckpointDeletedV1;
            110 "stage_passed" Machine StagePassed(StagePassed): 1 => StagePassedV1;
            111 "stage_stopped" Machine StageStopped(StageStopped): 1 => StageStoppedV1;
            112 "run_finished" Machine RunFinished(RunFinished): 1 => RunFinishedV1;
            113 "run_stopped" Machine RunStopped(RunStopped): 1 => RunStoppedV1;
        }
    };
}

pub(crate) use event_kinds;
