//! Version 1 of every kind. Frozen: see [`super`] for how a kind changes.
//!
//! Floats are raw bits, enums without fields are numbers, enums with fields
//! are [`TaggedV1`]. Config and policy are JSON text.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::freeze::{Freeze, Unfit, frozen, numbers, replaced};
use crate::*;

replaced! {
    // upgraded by version 2
    RunCreatedV1 {
        run: String,
        tinygate_version: String,
        libtorch_version: String,
        rules: u32,
        seed: u64,
        world_size: u32,
        config: String,
        policy: String,
        dataset: DatasetV1,
        trivial_predictors: Vec<MetricV1>,
        parent: Option<ParentV1>,
        init_from: Vec<InitFromV1>,
    }
    DatasetV1 {
        files: Vec<String>,
        blake3: String,
        frames: u64,
        height: u32,
        width: u32,
        training_windows: u64,
        held_out_windows: u64,
    }
    InitFromV1 {
        stage: String,
        checkpoint: CheckpointRefV1,
        files: Vec<FileRecordV1>,
    }
    ProcessStartedV1 {
        host: String,
        pid: u32,
        tinygate_version: String,
        libtorch_version: String,
        devices: Vec<String>,
        threads: u32,
    }
    PictureScoredV1 {
        stage: String,
        chunk: u32,
        attempt: u32,
        step: u64,
        path: String,
        blake3: String,
        pooled: StructureScoresV1,
        frames: Vec<StructureScoresV1>,
    }
    ParentV1 {
        run: String,
        path: String,
        patches: Vec<SettingPatchV1>,
    }
    SettingChangedV1 {
        stage: Option<String>,
        key: u16,
        from: SettingValueV1,
        to: SettingValueV1,
        who: String,
        why: String,
    }
    StageStartedV1 {
        stage: String,
        settings: SettingsV1,
        upstream: Vec<UpstreamV1>,
        resume_from: Option<CheckpointRefV1>,
    }
    SettingsV1 {
        learning_rate: u64,
        n_updates: u64,
        schedule_updates: u64,
        batch_size_per_gpu: u32,
        gradient_accumulation_steps: u32,
        log_interval: u64,
        chunk_size: u64,
        checkpoint_interval: Option<u64>,
        n_actions: Option<u32>,
    }
    ChunkStartedV1 {
        stage: String,
        chunk: u32,
        attempt: u32,
        restart: u32,
        from: u64,
        to: u64,
        samples_seen: u64,
        resume_from: Option<CheckpointRefV1>,
        settings: SettingsV1,
    }
    GateDecidedV1 {
        stage: String,
        chunk: u32,
        attempt: u32,
        gate_step: u64,
        decision: u16,
        metrics: Vec<MetricV1>,
        resume_from: Option<CheckpointRefV1>,
        config_patch_applied: Vec<SettingPatchV1>,
        criteria: Vec<CriterionResultV1>,
        findings: Vec<TaggedV1>,
        failures: u32,
        cursor: u32,
        rung: Option<u32>,
        skipped: Vec<RungSkippedV1>,
        deferred: Option<SettingPatchV1>,
        restart: Option<RestartReasonV1>,
        stop: Option<TaggedV1>,
    }
    SettingPatchV1 {
        key: u16,
        from: SettingValueV1,
        to: SettingValueV1,
        why: TaggedV1,
    }
    PatchAppliedV1 {
        stage: String,
        gate_step: u64,
        patch: SettingPatchV1,
    }
    PatchDeferredV1 {
        stage: String,
        gate_step: u64,
        patch: SettingPatchV1,
    }
    FailureDecidedV1 {
        stage: String,
        chunk: u32,
        attempt: u32,
        cause: u16,
        answer: u16,
        failures: u32,
        chunk_failures: u32,
        patches: Vec<SettingPatchV1>,
        effective_batch: Option<EffectiveBatchV1>,
    }
    StageReopenedV1 {
        stage: String,
        gate_step: u64,
        decision: u16,
        resume_from: Option<CheckpointRefV1>,
        config_patch_applied: Vec<SettingPatchV1>,
        cursor: u32,
        rung: Option<u32>,
        skipped: Vec<RungSkippedV1>,
        deferred: Option<SettingPatchV1>,
        restart: Option<RestartReasonV1>,
    }
}

frozen! {
    MetricV1 of Metric {
        name: String,
        value: Option<u64>,
    }
    RunInterruptedV1 of RunInterrupted {
        reason: TaggedV1,
    }
    FallbackGrantedV1 of FallbackGranted {
        ranks_wanted: u32,
        ranks_available: u32,
        accumulation_factor: u32,
        granted_by: String,
    }
    StageMeasuredV1 of StageMeasured {
        stage: String,
        trivial: Vec<MetricV1>,
        predictor: String,
    }
    MetricsLoggedV1 of MetricsLogged {
        stage: String,
        chunk: u32,
        attempt: u32,
        columns: Vec<ColumnV1>,
    }
    ColumnV1 of Column {
        name: String,
        steps: StepsV1,
        values: Vec<u64>,
    }
    CheckpointRefV1 of CheckpointRef {
        path: String,
        step: u64,
    }
    FileRecordV1 of FileRecord {
        name: String,
        size: u64,
        blake3: String,
    }
    CheckpointWrittenV1 of CheckpointWritten {
        stage: String,
        chunk: u32,
        attempt: u32,
        checkpoint: CheckpointRefV1,
        samples_seen: u64,
        files: Vec<FileRecordV1>,
    }
    CheckpointJudgedV1 of CheckpointJudged {
        stage: String,
        checkpoint: CheckpointRefV1,
        rejected: Option<RejectionV1>,
    }
    RejectionV1 of Rejection {
        code: String,
        text: String,
    }
    HeldOutScoredV1 of HeldOutScored {
        stage: String,
        chunk: u32,
        attempt: u32,
        step: u64,
        values: Vec<MetricV1>,
    }
    StructureScoresV1 of StructureScores {
        flatness: Option<u64>,
        stripes: Option<u64>,
        blockiness: Option<u64>,
        ssim: Option<u64>,
        mse_ratio: Option<u64>,
    }
    ChunkFinishedV1 of ChunkFinished {
        stage: String,
        chunk: u32,
        attempt: u32,
        step: u64,
        samples_seen: u64,
        seconds: u64,
    }
    ChunkFailedV1 of ChunkFailed {
        stage: String,
        chunk: u32,
        attempt: u32,
        step: u64,
        failure: TaggedV1,
    }
    StoreRepairedV1 of StoreRepaired {
        copy: String,
        detail: String,
        quarantine: Option<String>,
        restored: u64,
    }
    CheckpointGivenUpV1 of CheckpointGivenUp {
        stage: String,
        checkpoint: CheckpointRefV1,
        who: String,
        why: String,
    }
    PruneRequestedV1 of PruneRequested {
        keep_last: u32,
        who: String,
    }
    UpstreamV1 of Upstream {
        stage: String,
        checkpoint: CheckpointRefV1,
    }
    SamplesSupersededV1 of SamplesSuperseded {
        stage: String,
        chunk: u32,
        attempt: u32,
        after: u64,
        resume_from: Option<CheckpointRefV1>,
    }
    CriterionResultV1 of CriterionResult {
        name: String,
        verdict: u16,
        value: Option<u64>,
        limit: Option<u64>,
        why: Option<TaggedV1>,
    }
    RungSkippedV1 of RungSkipped {
        rung: u32,
        why: u16,
    }
    RestartReasonV1 of RestartReason {
        cause: u16,
        restart: u32,
        abandoned: Vec<u32>,
    }
    EffectiveBatchV1 of EffectiveBatch {
        before: u64,
        after: u64,
    }
    CheckpointDeletedV1 of CheckpointDeleted {
        stage: String,
        checkpoint: CheckpointRefV1,
    }
    StagePassedV1 of StagePassed {
        stage: String,
        checkpoint: CheckpointRefV1,
    }
    StageStoppedV1 of StageStopped {
        stage: String,
        step: u64,
        reason: TaggedV1,
        blocking: Vec<BlockingV1>,
        best: Option<CheckpointRefV1>,
    }
    BlockingV1 of Blocking {
        criterion: String,
        value: Option<u64>,
        limit: Option<u64>,
        gates: u32,
    }
    RunFinishedV1 of RunFinished {
        stages: u32,
    }
    RunStoppedV1 of RunStopped {
        stage: String,
    }
}

numbers! {
    Action { Continue = 1, Retune = 2, RestartStage = 3, Stop = 4 }
    Verdict { Pass = 1, Fail = 2, NotApplicable = 3 }
    Cause { Upstream = 1, Dynamics = 2, Mixed = 3, Undetermined = 4 }
    SkipReason {
        AtBound = 1,
        LossNotDropping = 2,
        NoPreviousGate = 3,
        EntropyNotCollapsed = 4,
        AlreadyDeferred = 5,
        ExtensionsUsedUp = 6,
        NotASettingOfThisStage = 7,
    }
    RestartCause { NoAcceptedCheckpoint = 1, NonFiniteLoss = 2, StructureLost = 3 }
    FailureCause {
        OutOfMemory = 1,
        WorkerExited = 2,
        WorkerTimedOut = 3,
        CheckpointUnloadable = 4,
        Interrupted = 5,
        NoProgress = 6,
    }
    FailureAnswer { RunAgain = 1, Stop = 2 }
}

/// The setting that has this number in version 1.
pub(super) fn setting_of_number(number: u16) -> Result<String, Unfit> {
    const NAMES: [&str; 10] = [
        "learning_rate",
        "n_updates",
        "schedule_updates",
        "batch_size_per_gpu",
        "gradient_accumulation_steps",
        "log_interval",
        "chunk_size",
        "checkpoint_interval",
        "n_actions",
        "max_retries",
    ];
    number
        .checked_sub(1)
        .and_then(|place| NAMES.get(usize::from(place)))
        .map(|name| (*name).to_owned())
        .ok_or(Unfit::UnknownNumber {
            what: "SettingKey",
            found: number,
            known: NAMES.len() as u16,
        })
}

/// A count (`number` 1) or the bits of a float (2).
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct SettingValueV1 {
    pub number: u16,
    pub value: u64,
}

impl Freeze<SettingValue> for SettingValueV1 {
    fn freeze(live: &SettingValue) -> Result<SettingValueV1, Unfit> {
        let (number, value) = match live {
            SettingValue::Count(count) => (1, *count),
            SettingValue::Real(real) => (2, real.to_bits()),
        };
        Ok(SettingValueV1 { number, value })
    }

    fn thaw(self) -> Result<SettingValue, Unfit> {
        match self.number {
            1 => Ok(SettingValue::Count(self.value)),
            2 => Ok(SettingValue::Real(Scalar::from_bits(self.value))),
            found => Err(Unfit::UnknownNumber {
                what: "SettingValue",
                found,
                known: 2,
            }),
        }
    }
}

/// The first step and the stride (`number` 1), or all steps (2).
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct StepsV1 {
    pub number: u16,
    pub steps: Vec<u64>,
}

impl Freeze<Steps> for StepsV1 {
    fn freeze(live: &Steps) -> Result<StepsV1, Unfit> {
        let (number, steps) = match live {
            Steps::Stride { first, stride } => (1, vec![*first, *stride]),
            Steps::List(steps) => (2, steps.clone()),
        };
        Ok(StepsV1 { number, steps })
    }

    fn thaw(self) -> Result<Steps, Unfit> {
        match (self.number, self.steps.as_slice()) {
            (1, &[first, stride]) => Ok(Steps::Stride { first, stride }),
            (1, other) => Err(Unfit::Other(format!(
                "a stride has a first step and a stride, found {} numbers",
                other.len()
            ))),
            (2, _) => Ok(Steps::List(self.steps)),
            (found, _) => Err(Unfit::UnknownNumber {
                what: "Steps",
                found,
                known: 2,
            }),
        }
    }
}

/// A value of an enum with fields: the variant's number, then its fields in order, each
/// in the list of its type. Numbers are never reused; a variant that needs other fields
/// gets a new number.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct TaggedV1 {
    pub number: u16,
    pub texts: Vec<String>,
    /// Counts, steps, flags (0 or 1) and numbers of enums.
    pub counts: Vec<u64>,
    /// Bits of floats.
    pub reals: Vec<Option<u64>>,
}

impl TaggedV1 {
    fn new(number: u16) -> TaggedV1 {
        TaggedV1 {
            number,
            texts: Vec::new(),
            counts: Vec::new(),
            reals: Vec::new(),
        }
    }

    fn text(mut self, text: &str) -> TaggedV1 {
        self.texts.push(text.to_owned());
        self
    }

    fn count(mut self, count: impl Into<u64>) -> TaggedV1 {
        self.counts.push(count.into());
        self
    }

    fn real(self, real: Scalar) -> TaggedV1 {
        self.optional(Some(real))
    }

    fn optional(mut self, real: Option<Scalar>) -> TaggedV1 {
        self.reals.push(real.map(Scalar::to_bits));
        self
    }

    fn fields(self, what: &'static str, known: u16) -> Fields {
        Fields {
            what,
            known,
            number: self.number,
            texts: self.texts.into_iter(),
            counts: self.counts.into_iter(),
            reals: self.reals.into_iter(),
        }
    }
}

/// Reads the fields of a [`TaggedV1`]. Exactly the fields that are there must be read.
struct Fields {
    what: &'static str,
    /// Highest known number.
    known: u16,
    number: u16,
    texts: alloc::vec::IntoIter<String>,
    counts: alloc::vec::IntoIter<u64>,
    reals: alloc::vec::IntoIter<Option<u64>>,
}

impl Fields {
    fn text(&mut self) -> Result<String, Unfit> {
        let text = self.texts.next();
        text.ok_or_else(|| self.wrong("a text is missing"))
    }

    fn count<T: TryFrom<u64>>(&mut self) -> Result<T, Unfit> {
        let count = self.counts.next();
        let count = count.ok_or_else(|| self.wrong("a count is missing"))?;
        T::try_from(count).map_err(|_| self.wrong("a count is out of range"))
    }

    fn optional(&mut self) -> Result<Option<Scalar>, Unfit> {
        let real = self.reals.next();
        let real = real.ok_or_else(|| self.wrong("a real is missing"))?;
        Ok(real.map(Scalar::from_bits))
    }

    fn real(&mut self) -> Result<Scalar, Unfit> {
        let real = self.optional()?;
        real.ok_or_else(|| self.wrong("a real has no value"))
    }

    fn flag(&mut self) -> Result<bool, Unfit> {
        match self.count::<u64>()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.wrong("a flag is neither 0 nor 1")),
        }
    }

    fn end<T>(mut self, live: T) -> Result<T, Unfit> {
        let left = self.texts.next().is_some()
            || self.counts.next().is_some()
            || self.reals.next().is_some();
        if left {
            return Err(self.wrong("it has more fields"));
        }
        Ok(live)
    }

    fn unknown(&self) -> Unfit {
        Unfit::UnknownNumber {
            what: self.what,
            found: self.number,
            known: self.known,
        }
    }

    fn wrong(&self, what: &str) -> Unfit {
        Unfit::Other(format!("`{}` number {}: {what}", self.what, self.number))
    }
}

impl Freeze<InterruptReason> for TaggedV1 {
    fn freeze(live: &InterruptReason) -> Result<TaggedV1, Unfit> {
        Ok(match live {
            InterruptReason::Signal { name } => TaggedV1::new(1).text(name),
            InterruptReason::Environment { detail } => TaggedV1::new(2).text(detail),
        })
    }

    fn thaw(self) -> Result<InterruptReason, Unfit> {
        let mut fields = self.fields("InterruptReason", 2);
        let live = match fields.number {
            1 => InterruptReason::Signal {
                name: fields.text()?,
            },
            2 => InterruptReason::Environment {
                detail: fields.text()?,
            },
            _ => return Err(fields.unknown()),
        };
        fields.end(live)
    }
}

impl Freeze<ChunkFailure> for TaggedV1 {
    fn freeze(live: &ChunkFailure) -> Result<TaggedV1, Unfit> {
        Ok(match live {
            ChunkFailure::OutOfMemory { detail } => TaggedV1::new(1).text(detail),
            ChunkFailure::WorkerExited { status, stderr } => {
                TaggedV1::new(2).text(status).text(stderr)
            }
            ChunkFailure::WorkerTimedOut { seconds, stderr } => {
                TaggedV1::new(3).count(*seconds).text(stderr)
            }
            ChunkFailure::CheckpointUnloadable { path, detail } => {
                TaggedV1::new(4).text(path).text(detail)
            }
            ChunkFailure::NoProgress {
                silence_seconds,
                limit_seconds,
                stderr,
            } => TaggedV1::new(5)
                .count(*silence_seconds)
                .count(*limit_seconds)
                .text(stderr),
        })
    }

    fn thaw(self) -> Result<ChunkFailure, Unfit> {
        let mut fields = self.fields("ChunkFailure", 5);
        let live = match fields.number {
            1 => ChunkFailure::OutOfMemory {
                detail: fields.text()?,
            },
            2 => ChunkFailure::WorkerExited {
                status: fields.text()?,
                stderr: fields.text()?,
            },
            3 => ChunkFailure::WorkerTimedOut {
                seconds: fields.count()?,
                stderr: fields.text()?,
            },
            4 => ChunkFailure::CheckpointUnloadable {
                path: fields.text()?,
                detail: fields.text()?,
            },
            5 => ChunkFailure::NoProgress {
                silence_seconds: fields.count()?,
                limit_seconds: fields.count()?,
                stderr: fields.text()?,
            },
            _ => return Err(fields.unknown()),
        };
        fields.end(live)
    }
}

impl Freeze<PatchReason> for TaggedV1 {
    fn freeze(live: &PatchReason) -> Result<TaggedV1, Unfit> {
        Ok(match live {
            PatchReason::Rung(rung) => TaggedV1::new(1).count(*rung),
            PatchReason::Extension => TaggedV1::new(2),
            PatchReason::OutOfMemory => TaggedV1::new(3),
        })
    }

    fn thaw(self) -> Result<PatchReason, Unfit> {
        let mut fields = self.fields("PatchReason", 3);
        let live = match fields.number {
            1 => PatchReason::Rung(fields.count()?),
            2 => PatchReason::Extension,
            3 => PatchReason::OutOfMemory,
            _ => return Err(fields.unknown()),
        };
        fields.end(live)
    }
}

impl Freeze<CriterionReason> for TaggedV1 {
    fn freeze(live: &CriterionReason) -> Result<TaggedV1, Unfit> {
        Ok(match live {
            CriterionReason::OnlyAtTarget => TaggedV1::new(1),
            CriterionReason::FreshStart => TaggedV1::new(2),
            CriterionReason::PreviousNotFinite => TaggedV1::new(3),
            CriterionReason::NotFinite => TaggedV1::new(4),
            CriterionReason::TooFewSamples { found, needed } => {
                TaggedV1::new(5).count(*found).count(*needed)
            }
            CriterionReason::Missing { metric } => TaggedV1::new(6).text(metric),
            CriterionReason::Stale {
                metric,
                last,
                needed_after,
            } => TaggedV1::new(7)
                .text(metric)
                .count(last.get())
                .count(needed_after.get()),
            CriterionReason::NoPicture => TaggedV1::new(8),
            CriterionReason::NoSkillToMeasure => TaggedV1::new(9),
            CriterionReason::NoCheckpoint => TaggedV1::new(10),
            CriterionReason::NotJudged => TaggedV1::new(11),
            CriterionReason::Rejected { code, text } => TaggedV1::new(12).text(code).text(text),
            CriterionReason::NoStructureToMeasure => TaggedV1::new(13),
        })
    }

    fn thaw(self) -> Result<CriterionReason, Unfit> {
        let mut fields = self.fields("CriterionReason", 13);
        let live = match fields.number {
            1 => CriterionReason::OnlyAtTarget,
            2 => CriterionReason::FreshStart,
            3 => CriterionReason::PreviousNotFinite,
            4 => CriterionReason::NotFinite,
            5 => CriterionReason::TooFewSamples {
                found: fields.count()?,
                needed: fields.count()?,
            },
            6 => CriterionReason::Missing {
                metric: fields.text()?,
            },
            7 => CriterionReason::Stale {
                metric: fields.text()?,
                last: Step::new(fields.count()?),
                needed_after: Step::new(fields.count()?),
            },
            8 => CriterionReason::NoPicture,
            9 => CriterionReason::NoSkillToMeasure,
            10 => CriterionReason::NoCheckpoint,
            11 => CriterionReason::NotJudged,
            12 => CriterionReason::Rejected {
                code: fields.text()?,
                text: fields.text()?,
            },
            13 => CriterionReason::NoStructureToMeasure,
            _ => return Err(fields.unknown()),
        };
        fields.end(live)
    }
}

impl Freeze<Finding> for TaggedV1 {
    fn freeze(live: &Finding) -> Result<TaggedV1, Unfit> {
        Ok(match live {
            Finding::VacuousLimit {
                criterion,
                limit,
                predictor,
                trivial_loss,
                factor,
            } => TaggedV1::new(1)
                .text(criterion)
                .real(*limit)
                .text(predictor)
                .real(*trivial_loss)
                .real(*factor),
            Finding::NoSkill {
                metric,
                skill,
                predictor,
            } => TaggedV1::new(2).text(metric).real(*skill).text(predictor),
            Finding::NothingToMeasure { metric, predictor } => {
                TaggedV1::new(5).text(metric).text(predictor)
            }
            Finding::DecidedByNoise {
                criterion,
                limit,
                within,
                beyond,
            } => TaggedV1::new(3)
                .text(criterion)
                .real(*limit)
                .count(*within)
                .count(*beyond),
            Finding::Cause {
                cause,
                single_action_share,
                median_entropy,
                rising,
                r2_learning_rate,
                r2_entropy,
            } => TaggedV1::new(4)
                .count(u16::freeze(cause)?)
                .optional(*single_action_share)
                .optional(*median_entropy)
                .count(*rising)
                .optional(*r2_learning_rate)
                .optional(*r2_entropy),
        })
    }

    fn thaw(self) -> Result<Finding, Unfit> {
        let mut fields = self.fields("Finding", 5);
        let live = match fields.number {
            1 => Finding::VacuousLimit {
                criterion: fields.text()?,
                limit: fields.real()?,
                predictor: fields.text()?,
                trivial_loss: fields.real()?,
                factor: fields.real()?,
            },
            2 => Finding::NoSkill {
                metric: fields.text()?,
                skill: fields.real()?,
                predictor: fields.text()?,
            },
            3 => Finding::DecidedByNoise {
                criterion: fields.text()?,
                limit: fields.real()?,
                within: fields.count()?,
                beyond: fields.count()?,
            },
            4 => Finding::Cause {
                cause: Freeze::thaw(fields.count::<u16>()?)?,
                single_action_share: fields.optional()?,
                median_entropy: fields.optional()?,
                rising: fields.flag()?,
                r2_learning_rate: fields.optional()?,
                r2_entropy: fields.optional()?,
            },
            5 => Finding::NothingToMeasure {
                metric: fields.text()?,
                predictor: fields.text()?,
            },
            _ => return Err(fields.unknown()),
        };
        fields.end(live)
    }
}

impl Freeze<StopReason> for TaggedV1 {
    fn freeze(live: &StopReason) -> Result<TaggedV1, Unfit> {
        Ok(match live {
            StopReason::RetriesExceeded {
                failures,
                max_retries,
            } => TaggedV1::new(1).count(*failures).count(*max_retries),
            StopReason::NoRungApplies => TaggedV1::new(2),
            StopReason::ExtensionsExceeded {
                extensions,
                max_extensions,
            } => TaggedV1::new(3).count(*extensions).count(*max_extensions),
            StopReason::ChunkFailuresExceeded {
                failures,
                max_chunk_failures,
            } => TaggedV1::new(4).count(*failures).count(*max_chunk_failures),
            StopReason::OutOfMemoryAtFloor { batch_size_per_gpu } => {
                TaggedV1::new(5).count(*batch_size_per_gpu)
            }
            StopReason::CountersExhausted => TaggedV1::new(6),
        })
    }

    fn thaw(self) -> Result<StopReason, Unfit> {
        let mut fields = self.fields("StopReason", 6);
        let live = match fields.number {
            1 => StopReason::RetriesExceeded {
                failures: fields.count()?,
                max_retries: fields.count()?,
            },
            2 => StopReason::NoRungApplies,
            3 => StopReason::ExtensionsExceeded {
                extensions: fields.count()?,
                max_extensions: fields.count()?,
            },
            4 => StopReason::ChunkFailuresExceeded {
                failures: fields.count()?,
                max_chunk_failures: fields.count()?,
            },
            5 => StopReason::OutOfMemoryAtFloor {
                batch_size_per_gpu: fields.count()?,
            },
            6 => StopReason::CountersExhausted,
            _ => return Err(fields.unknown()),
        };
        fields.end(live)
    }
}
