//! Version 2 of the kinds that have one. Frozen like [`super::v1`], whose structs are used for parts that did not change.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::freeze::{Freeze, Unfit, frozen, numbers, replaced};
use super::v1::*;
use crate::*;

replaced! {
    // upgraded by version 3
    RunCreatedV2 {
        run: String,
        tinygate_version: String,
        libtorch_version: String,
        rules: u32,
        seed: u64,
        world_size: u32,
        config: String,
        policy: String,
        dataset: DatasetV2,
        trivial_predictors: Vec<MetricV1>,
        parent: Option<ParentV1>,
        init_from: Vec<InitFromV2>,
        held_out_batches: u16,
    }
}

frozen! {
    DatasetV2 of Dataset {
        files: Vec<String>,
        blake3: String,
        frames: u64,
        height: u32,
        width: u32,
        training_windows: u64,
        held_out_windows: u64,
        recordings: Vec<RecordingV2>,
        passed_over: Vec<PassedOverV2>,
    }
    RecordingV2 of Recording {
        path: String,
        frames: u64,
        height: u32,
        width: u32,
        first: Option<String>,
        last: Option<String>,
        missing: u64,
    }
    PassedOverV2 of PassedOver {
        path: String,
        why: String,
        count: u64,
        example: String,
    }
    InitFromV2 of InitFrom {
        stage: String,
        checkpoint: CheckpointRefV1,
        files: Vec<FileRecordV1>,
        fresh_optimizer: bool,
    }
    ProcessStartedV2 of ProcessStarted {
        host: String,
        pid: u32,
        tinygate_version: String,
        libtorch_version: String,
        devices: Vec<String>,
        threads: u32,
        cards: Vec<String>,
    }
    PictureScoredV2 of PictureScored {
        stage: String,
        chunk: u32,
        attempt: u32,
        step: u64,
        path: String,
        blake3: String,
        pixels: Option<String>,
        pooled: StructureScoresV1,
        frames: Vec<StructureScoresV1>,
    }
    SettingChangedV2 of SettingChanged {
        stage: Option<String>,
        key: String,
        from: SettingValueV1,
        to: SettingValueV1,
        who: String,
        why: String,
    }
    StageStartedV2 of StageStarted {
        stage: String,
        settings: SettingsV2,
        upstream: Vec<UpstreamV1>,
        resume_from: Option<CheckpointRefV1>,
    }
    ChunkStartedV2 of ChunkStarted {
        stage: String,
        chunk: u32,
        attempt: u32,
        restart: u32,
        from: u64,
        to: u64,
        samples_seen: u64,
        resume_from: Option<CheckpointRefV1>,
        settings: SettingsV2,
    }
    GateDecidedV2 of GateDecided {
        stage: String,
        chunk: u32,
        attempt: u32,
        gate_step: u64,
        decision: u16,
        metrics: Vec<MetricV1>,
        resume_from: Option<CheckpointRefV1>,
        config_patch_applied: Vec<SettingPatchV2>,
        criteria: Vec<CriterionResultV1>,
        findings: Vec<TaggedV1>,
        failures: u32,
        cursor: u32,
        rung: Option<u32>,
        skipped: Vec<RungSkippedV1>,
        deferred: Option<SettingPatchV2>,
        restart: Option<RestartReasonV1>,
        stop: Option<TaggedV1>,
    }
    SettingPatchV2 of SettingPatch {
        key: String,
        from: SettingValueV1,
        to: SettingValueV1,
        why: TaggedV1,
    }
    PatchAppliedV2 of PatchApplied {
        stage: String,
        gate_step: u64,
        patch: SettingPatchV2,
    }
    PatchDeferredV2 of PatchDeferred {
        stage: String,
        gate_step: u64,
        patch: SettingPatchV2,
    }
    FailureDecidedV2 of FailureDecided {
        stage: String,
        chunk: u32,
        attempt: u32,
        cause: u16,
        answer: u16,
        failures: u32,
        chunk_failures: u32,
        patches: Vec<SettingPatchV2>,
        effective_batch: Option<EffectiveBatchV1>,
    }
    StageReopenedV2 of StageReopened {
        stage: String,
        gate_step: u64,
        decision: u16,
        resume_from: Option<CheckpointRefV1>,
        config_patch_applied: Vec<SettingPatchV2>,
        cursor: u32,
        rung: Option<u32>,
        skipped: Vec<RungSkippedV1>,
        deferred: Option<SettingPatchV2>,
        restart: Option<RestartReasonV1>,
    }
}

numbers! {
    HeldOutBatches { Largest = 1, Stage = 2 }
}

impl From<RunCreatedV1> for RunCreatedV2 {
    fn from(old: RunCreatedV1) -> RunCreatedV2 {
        RunCreatedV2 {
            run: old.run,
            tinygate_version: old.tinygate_version,
            libtorch_version: old.libtorch_version,
            rules: old.rules,
            seed: old.seed,
            world_size: old.world_size,
            config: old.config,
            policy: old.policy,
            dataset: old.dataset.into(),
            trivial_predictors: old.trivial_predictors,
            parent: old.parent,
            init_from: old.init_from.into_iter().map(InitFromV2::from).collect(),
            // HeldOutBatches::Largest
            held_out_batches: 1,
        }
    }
}

impl From<DatasetV1> for DatasetV2 {
    fn from(old: DatasetV1) -> DatasetV2 {
        DatasetV2 {
            files: old.files,
            blake3: old.blake3,
            frames: old.frames,
            height: old.height,
            width: old.width,
            training_windows: old.training_windows,
            held_out_windows: old.held_out_windows,
            recordings: Vec::new(),
            passed_over: Vec::new(),
        }
    }
}

impl From<InitFromV1> for InitFromV2 {
    fn from(old: InitFromV1) -> InitFromV2 {
        InitFromV2 {
            stage: old.stage,
            checkpoint: old.checkpoint,
            files: old.files,
            fresh_optimizer: false,
        }
    }
}

impl From<ProcessStartedV1> for ProcessStartedV2 {
    fn from(old: ProcessStartedV1) -> ProcessStartedV2 {
        ProcessStartedV2 {
            host: old.host,
            pid: old.pid,
            tinygate_version: old.tinygate_version,
            libtorch_version: old.libtorch_version,
            devices: old.devices,
            threads: old.threads,
            cards: Vec::new(),
        }
    }
}

impl From<PictureScoredV1> for PictureScoredV2 {
    fn from(old: PictureScoredV1) -> PictureScoredV2 {
        PictureScoredV2 {
            stage: old.stage,
            chunk: old.chunk,
            attempt: old.attempt,
            step: old.step,
            path: old.path,
            blake3: old.blake3,
            pooled: old.pooled,
            frames: old.frames,
            pixels: None,
        }
    }
}

/// The value of a knob, if the stage has it.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct KnobValueV2 {
    pub name: String,
    pub value: Option<SettingValueV1>,
}

#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct SettingsV2 {
    pub learning_rate: u64,
    pub n_updates: u64,
    pub schedule_updates: u64,
    pub batch_size_per_gpu: u32,
    pub gradient_accumulation_steps: u32,
    pub log_interval: u64,
    pub chunk_size: u64,
    pub checkpoint_interval: Option<u64>,
    pub knobs: Vec<KnobValueV2>,
}

impl Freeze<Settings> for SettingsV2 {
    fn freeze(live: &Settings) -> Result<SettingsV2, Unfit> {
        let knob = |(name, value): (&KnobName, &Option<SettingValue>)| {
            Ok(KnobValueV2 {
                name: name.as_str().to_owned(),
                value: Freeze::freeze(value)?,
            })
        };
        Ok(SettingsV2 {
            learning_rate: Freeze::freeze(&live.learning_rate)?,
            n_updates: Freeze::freeze(&live.n_updates)?,
            schedule_updates: Freeze::freeze(&live.schedule_updates)?,
            batch_size_per_gpu: Freeze::freeze(&live.batch_size_per_gpu)?,
            gradient_accumulation_steps: Freeze::freeze(&live.gradient_accumulation_steps)?,
            log_interval: Freeze::freeze(&live.log_interval)?,
            chunk_size: Freeze::freeze(&live.chunk_size)?,
            checkpoint_interval: Freeze::freeze(&live.checkpoint_interval)?,
            knobs: live.knobs.iter().map(knob).collect::<Result<_, Unfit>>()?,
        })
    }

    fn thaw(self) -> Result<Settings, Unfit> {
        let knob = |knob: KnobValueV2| Ok((KnobName::new(knob.name), Freeze::thaw(knob.value)?));
        Ok(Settings {
            learning_rate: Freeze::thaw(self.learning_rate)?,
            n_updates: Freeze::thaw(self.n_updates)?,
            schedule_updates: Freeze::thaw(self.schedule_updates)?,
            batch_size_per_gpu: Freeze::thaw(self.batch_size_per_gpu)?,
            gradient_accumulation_steps: Freeze::thaw(self.gradient_accumulation_steps)?,
            log_interval: Freeze::thaw(self.log_interval)?,
            chunk_size: Freeze::thaw(self.chunk_size)?,
            checkpoint_interval: Freeze::thaw(self.checkpoint_interval)?,
            knobs: self
                .knobs
                .into_iter()
                .map(knob)
                .collect::<Result<_, Unfit>>()?,
        })
    }
}

impl From<SettingsV1> for SettingsV2 {
    fn from(old: SettingsV1) -> SettingsV2 {
        SettingsV2 {
            learning_rate: old.learning_rate,
            n_updates: old.n_updates,
            schedule_updates: old.schedule_updates,
            batch_size_per_gpu: old.batch_size_per_gpu,
            gradient_accumulation_steps: old.gradient_accumulation_steps,
            log_interval: old.log_interval,
            chunk_size: old.chunk_size,
            checkpoint_interval: old.checkpoint_interval,
            // Version 1 had it in every stage.
            knobs: vec![KnobValueV2 {
                name: "n_actions".to_owned(),
                // A count.
                value: old.n_actions.map(|count| SettingValueV1 {
                    number: 1,
                    value: count.into(),
                }),
            }],
        }
    }
}

fn patches(old: Vec<SettingPatchV1>) -> Result<Vec<SettingPatchV2>, Unfit> {
    old.into_iter().map(SettingPatchV2::try_from).collect()
}

fn patch(old: Option<SettingPatchV1>) -> Result<Option<SettingPatchV2>, Unfit> {
    old.map(SettingPatchV2::try_from).transpose()
}

impl TryFrom<SettingChangedV1> for SettingChangedV2 {
    type Error = Unfit;

    fn try_from(old: SettingChangedV1) -> Result<SettingChangedV2, Unfit> {
        Ok(SettingChangedV2 {
            stage: old.stage,
            key: setting_of_number(old.key)?,
            from: old.from,
            to: old.to,
            who: old.who,
            why: old.why,
        })
    }
}

impl From<StageStartedV1> for StageStartedV2 {
    fn from(old: StageStartedV1) -> StageStartedV2 {
        StageStartedV2 {
            stage: old.stage,
            settings: old.settings.into(),
            upstream: old.upstream,
            resume_from: old.resume_from,
        }
    }
}

impl From<ChunkStartedV1> for ChunkStartedV2 {
    fn from(old: ChunkStartedV1) -> ChunkStartedV2 {
        ChunkStartedV2 {
            stage: old.stage,
            chunk: old.chunk,
            attempt: old.attempt,
            restart: old.restart,
            from: old.from,
            to: old.to,
            samples_seen: old.samples_seen,
            resume_from: old.resume_from,
            settings: old.settings.into(),
        }
    }
}

impl TryFrom<GateDecidedV1> for GateDecidedV2 {
    type Error = Unfit;

    fn try_from(old: GateDecidedV1) -> Result<GateDecidedV2, Unfit> {
        Ok(GateDecidedV2 {
            stage: old.stage,
            chunk: old.chunk,
            attempt: old.attempt,
            gate_step: old.gate_step,
            decision: old.decision,
            metrics: old.metrics,
            resume_from: old.resume_from,
            config_patch_applied: patches(old.config_patch_applied)?,
            criteria: old.criteria,
            findings: old.findings,
            failures: old.failures,
            cursor: old.cursor,
            rung: old.rung,
            skipped: old.skipped,
            deferred: patch(old.deferred)?,
            restart: old.restart,
            stop: old.stop,
        })
    }
}

impl TryFrom<SettingPatchV1> for SettingPatchV2 {
    type Error = Unfit;

    fn try_from(old: SettingPatchV1) -> Result<SettingPatchV2, Unfit> {
        Ok(SettingPatchV2 {
            key: setting_of_number(old.key)?,
            from: old.from,
            to: old.to,
            why: old.why,
        })
    }
}

impl TryFrom<PatchAppliedV1> for PatchAppliedV2 {
    type Error = Unfit;

    fn try_from(old: PatchAppliedV1) -> Result<PatchAppliedV2, Unfit> {
        Ok(PatchAppliedV2 {
            stage: old.stage,
            gate_step: old.gate_step,
            patch: old.patch.try_into()?,
        })
    }
}

impl TryFrom<PatchDeferredV1> for PatchDeferredV2 {
    type Error = Unfit;

    fn try_from(old: PatchDeferredV1) -> Result<PatchDeferredV2, Unfit> {
        Ok(PatchDeferredV2 {
            stage: old.stage,
            gate_step: old.gate_step,
            patch: old.patch.try_into()?,
        })
    }
}

impl TryFrom<FailureDecidedV1> for FailureDecidedV2 {
    type Error = Unfit;

    fn try_from(old: FailureDecidedV1) -> Result<FailureDecidedV2, Unfit> {
        Ok(FailureDecidedV2 {
            stage: old.stage,
            chunk: old.chunk,
            attempt: old.attempt,
            cause: old.cause,
            answer: old.answer,
            failures: old.failures,
            chunk_failures: old.chunk_failures,
            patches: patches(old.patches)?,
            effective_batch: old.effective_batch,
        })
    }
}

impl TryFrom<StageReopenedV1> for StageReopenedV2 {
    type Error = Unfit;

    fn try_from(old: StageReopenedV1) -> Result<StageReopenedV2, Unfit> {
        Ok(StageReopenedV2 {
            stage: old.stage,
            gate_step: old.gate_step,
            decision: old.decision,
            resume_from: old.resume_from,
            config_patch_applied: patches(old.config_patch_applied)?,
            cursor: old.cursor,
            rung: old.rung,
            skipped: old.skipped,
            deferred: patch(old.deferred)?,
            restart: old.restart,
        })
    }
}
