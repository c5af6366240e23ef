//! Measuring and scoring, also when memory runs out.

use std::path::Path;
use std::sync::Arc;

use super::super::ranks::Ranks;
use super::*;
use crate::config::Config;
use crate::data::Frames;
use crate::events::{
    Attempt, ChunkNumber, HeldOutBatches, Metric, ModelName, Restart, StageName, Step,
};
use crate::machine::{MeasureStage, TrainChunk, UpstreamModel};
use crate::presets::ModelKind;
use crate::trainer::{Report, TrainerCommand, TrainerFact};

const SIDE: usize = 8;
/// The stages in order, each with the windows of its micro-batches.
const STAGES: [(&str, ModelKind, usize); 3] = [
    ("video_tokenizer", ModelKind::VideoTokenizer, 6),
    ("latent_actions", ModelKind::LatentActions, 4),
    ("dynamics", ModelKind::Dynamics, 3),
];

fn config() -> Config {
    let mut text = "device = \"cpu\"\nthreads = 1\nframe_size = 8\ncontext_length = 2\n\
                    [data]\npath = \"frames.h5\"\nframe_stride = 1\n"
        .to_owned();
    for (stage, _, batch) in STAGES {
        text += &format!(
            "[{stage}]\nn_updates = 10\nchunk_size = 10\nbatch_size_per_gpu = {batch}\nembed_dim = 16\n\
             num_heads = 4\nhidden_dim = 16\nnum_blocks = 1\n"
        );
    }
    let loaded = Config::parse(&text, "test", Path::new("/"), &[]).unwrap();
    loaded.config
}

/// A bright square that moves over a gray court.
fn frames() -> Arc<Frames> {
    let mut bytes = Vec::new();
    for frame in 0..400 {
        let (x, y) = (frame * 5 % 7, frame * 3 / 2 % 6);
        for row in 0..SIDE {
            for column in 0..SIDE {
                let ball = (y..y + 2).contains(&row) && (x..x + 2).contains(&column);
                bytes.extend([if ball { 230 } else { 60 }; 3]);
            }
        }
    }
    Arc::new(Frames::from_bytes(SIDE, SIDE, bytes).unwrap())
}

fn session(directory: &Path, held_out: HeldOutBatches) -> Session {
    crate::train::use_threads(1);
    let setup = ActorSetup {
        directory: directory.to_owned(),
        config: config(),
        frames: frames(),
        device: tch::Device::Cpu,
        threads: 1,
        stop: Arc::default(),
        ranks: Ranks::Alone,
        held_out,
    };
    Session::new(setup).unwrap()
}

fn chunk(place: usize, upstream: &[UpstreamModel]) -> TrainChunk {
    let (name, model, _) = STAGES[place];
    let stage = StageName::new(name);
    let settings = config().stage(&stage).unwrap().settings.clone();
    TrainChunk {
        stage,
        model: ModelName::new(model.as_str()),
        chunk: ChunkNumber::FIRST,
        attempt: Attempt::FIRST,
        restart: Restart::FIRST,
        from: Step::FIRST,
        to: Step::new(settings.n_updates),
        settings,
        resume: None,
        upstream: upstream.to_vec(),
        taken: Vec::new(),
    }
}

/// The reports of a command.
fn reports(session: &mut Session, command: &TrainerCommand) -> Vec<Report> {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let done = session.perform(command, &Reports::new(sender));
    let mut reports: Vec<Report> = receiver.try_iter().collect();
    if let Err(failure) = done {
        let failure = session.recover(failure);
        reports.extend(failure.reports(&Subject::of(command), session.step()));
    }
    reports.retain(|report| !matches!(report, Report::Progress(_)));
    reports
}

/// Trains each stage for one chunk, and returns its measured and scored values.
fn scores(session: &mut Session) -> Vec<(String, f64)> {
    let mut upstream: Vec<UpstreamModel> = Vec::new();
    let mut scores = Vec::new();
    for (place, (name, model, _)) in STAGES.into_iter().enumerate() {
        let measure = MeasureStage {
            stage: StageName::new(name),
            model: ModelName::new(model.as_str()),
            settings: chunk(place, &[]).settings,
            upstream: upstream.clone(),
        };
        let train = chunk(place, &upstream);
        let commands = [
            TrainerCommand::MeasureStage(measure),
            TrainerCommand::TrainChunk(Box::new(train)),
        ];
        for command in commands {
            for report in reports(session, &command) {
                let values: &[Metric] = match &report {
                    Report::Fact(TrainerFact::StageMeasured(measured)) => &measured.trivial,
                    Report::Fact(TrainerFact::HeldOutScored(scored)) => &scored.values,
                    Report::Fact(TrainerFact::CheckpointWritten(written)) => {
                        upstream.retain(|known| known.stage != written.stage);
                        upstream.push(UpstreamModel {
                            stage: written.stage.clone(),
                            checkpoint: written.checkpoint.clone(),
                            files: written.files.clone(),
                        });
                        &[]
                    }
                    Report::Fact(TrainerFact::ChunkFailed(failed)) => panic!("{failed:?}"),
                    Report::Environment { detail } => panic!("{detail}"),
                    Report::Fact(_) | Report::Progress(_) | Report::Interrupted { .. } => &[],
                };
                for Metric { name: of, value } in values {
                    scores.extend(value.map(|value| (format!("{name} {of}"), value.get())));
                }
            }
        }
    }
    scores
}

#[test]
fn each_stage_is_scored_in_batches_of_its_own_size() {
    let place = tempfile::tempdir().unwrap();
    let batches = |form: HeldOutBatches| {
        let session = self::session(place.path(), form);
        STAGES.map(|(stage, model, _)| {
            let stage = StageName::new(stage);
            let held_out = session.data().held_out(&stage, model);
            let sizes = held_out.map(|item| item.unwrap().batch.frames.size()[0] as usize);
            let mut sizes: Vec<usize> = sizes.collect();
            sizes.dedup();
            sizes
        })
    };
    assert_eq!(
        batches(HeldOutBatches::Stage),
        STAGES.map(|(_, _, batch)| vec![batch])
    );
    assert_eq!(
        batches(HeldOutBatches::Largest),
        STAGES.map(|_| vec![6]),
        "in runs of older builds"
    );
    let session = self::session(place.path(), HeldOutBatches::Stage);
    let most = [1, 2, 8, 500].map(|batch| session.data().batches_max(32, 128, batch));
    assert_eq!(most, [128, 64, 32, 32], "more batches if they are small");
}

#[test]
fn values_do_not_depend_on_the_available_memory() {
    let place = tempfile::tempdir().unwrap();
    let of = |memory_for: Option<usize>| {
        let mut session = session(place.path(), HeldOutBatches::Stage);
        session.data_mut().set_memory_for(memory_for);
        scores(&mut session)
    };
    let whole = of(None);
    let names: Vec<&str> = whole.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "video_tokenizer trivial_loss",
            "video_tokenizer trivial_loss_moving",
            "video_tokenizer held_out_loss",
            "video_tokenizer held_out_loss_moving",
            "latent_actions trivial_loss",
            "latent_actions trivial_loss_moving",
            "latent_actions held_out_loss",
            "latent_actions held_out_loss_moving",
            "dynamics trivial_loss",
            "dynamics held_out_loss",
        ]
    );
    for fits in [1, 2, 3] {
        for ((name, whole), (_, found)) in whole.iter().zip(of(Some(fits))) {
            assert!(
                (whole - found).abs() <= 1e-6 * whole.abs().max(1.0),
                "{name}, {fits} at once: {found}, whole {whole}"
            );
        }
    }
}

#[test]
fn too_little_memory_for_one_window_does_not_fail_the_chunk() {
    let place = tempfile::tempdir().unwrap();
    let mut session = session(place.path(), HeldOutBatches::Stage);
    session.data_mut().set_memory_for(Some(0));
    let train = chunk(0, &[]);
    let reports = reports(&mut session, &TrainerCommand::TrainChunk(Box::new(train)));
    let Some(Report::Environment { detail }) = reports.last() else {
        panic!("{reports:?}");
    };
    assert!(
        detail
            .starts_with("out of memory while scoring held-out windows, even one window at a time"),
        "{detail}"
    );
    let failed = |report: &Report| matches!(report, Report::Fact(TrainerFact::ChunkFailed(_)));
    assert!(!reports.iter().any(failed), "{reports:?}");
    // The chunk's last checkpoint was written, so a resume only scores.
    let written = |report: &Report| matches!(report, Report::Fact(TrainerFact::CheckpointWritten(written)) if written.checkpoint.step == Step::new(10));
    assert!(reports.iter().any(written), "{reports:?}");
}
