//! Version 2 of the kinds that have one. Frozen like [`super::v1`], whose structs stand for what did not change.

use alloc::string::String;
use alloc::vec::Vec;

use super::freeze::{frozen, numbers};
use super::v1::*;
use crate::*;

frozen! {
    RunCreatedV2 of RunCreated {
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
