//! Answers commands according to the script, in the form of the real trainer.
//!
//! Samples are sent in blocks, always before any other fact. Checkpoints are written at
//! their interval and at the end of the chunk, followed by held-out losses, the picture, and
//! the end of the chunk.

use std::cmp::Ordering;

use crossbeam_channel::{Receiver, Sender};
use tinygate::events::{
    CheckpointJudged, CheckpointRef, CheckpointWritten, ChunkFailed, ChunkFailure, ChunkFinished,
    Column, FileRecord, HeldOutScored, Metric, MetricsLogged, PictureScored, Rejection, Scalar,
    StageMeasured, StageName, Step, Steps, StructureScores, metric,
};
use tinygate::machine::{JudgeCheckpoint, MeasureStage, TrainChunk};
use tinygate::presets::ModelKind;
use tinygate::trainer::{Judge, Progress, Report, TrainerCommand, TrainerFact, Verdict};

use crate::curve::{Curve, Moment};
use crate::script::{ChunkPlan, Disturbance, Failure, Files, Script, Trouble};

const MODEL_FILE: &str = "model_state_dict.pt";
const OPTIMIZER_FILE: &str = "optim_state_dict.pt";
const STATE_FILE: &str = "state.pt";
/// Model and optimizer file have at least this many bytes.
const FILE_MIN: u64 = 1000;
/// Size of an intact model file. A smaller one is truncated; a larger one has a weight that is not a number.
const MODEL_SIZE: u64 = 4096;
/// Seconds per update, as reported.
const SECONDS_PER_UPDATE: f64 = 0.125;

pub struct ScriptedTrainer {
    script: Script,
    disturbances: Vec<Disturbance>,
    block: usize,
    chained: bool,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub reports: Vec<Report>,
    /// The trainer exits after these reports.
    pub killed: bool,
}

impl ScriptedTrainer {
    pub fn new(script: Script) -> ScriptedTrainer {
        ScriptedTrainer {
            script,
            disturbances: Vec::new(),
            block: 8,
            chained: false,
        }
    }

    /// Makes weights depend on the initial ones and on every update since, so that starting from
    /// other weights or leaving out an update gives another hash.
    #[must_use]
    pub fn chained(mut self) -> ScriptedTrainer {
        self.chained = true;
        self
    }

    #[must_use]
    pub fn disturbed(mut self, disturbance: Disturbance) -> ScriptedTrainer {
        self.disturbances.push(disturbance);
        self
    }

    /// Sets the number of updates in a block of samples.
    #[must_use]
    pub fn blocks_of(mut self, updates: usize) -> ScriptedTrainer {
        self.block = updates.max(1);
        self
    }

    /// Serves until the controller exits or a disturbance ends it.
    pub fn serve(mut self, commands: &Receiver<TrainerCommand>, reports: &Sender<Report>) {
        for command in commands {
            let answer = self.answer(&command);
            for report in answer.reports {
                if reports.send(report).is_err() {
                    return;
                }
            }
            if answer.killed {
                return;
            }
        }
    }

    /// All reports about one command.
    pub fn answer(&mut self, command: &TrainerCommand) -> Answer {
        match command {
            TrainerCommand::MeasureStage(measure) => Answer::fact(measured(&self.script, measure)),
            TrainerCommand::TrainChunk(train) => self.train(train),
        }
    }

    fn train(&mut self, train: &TrainChunk) -> Answer {
        let plan = self.script.plan(
            &train.stage,
            &train.model,
            train.chunk.get(),
            train.attempt.get(),
        );
        let mut session = Session::new(&self.script, train, &plan, self.block);
        session.weights = self.chained.then(|| first_weights(&self.script, train));
        if session.fails_here() {
            return session.fail();
        }
        for update in train.start().get() + 1..=train.to.get() {
            session.update(update);
            if session.fails_here() {
                return session.fail();
            }
            let trouble = self.take_trouble(&train.stage, update);
            if trouble == Some(Trouble::Killed) {
                return session.killed();
            }
            if session.checkpoint_due() || matches!(trouble, Some(Trouble::Signal(_))) {
                session.checkpoint();
            }
            match trouble {
                Some(Trouble::Signal(signal)) => {
                    return session.ended(Report::Interrupted { signal });
                }
                Some(Trouble::Environment(detail)) => {
                    return session.ended(Report::Environment { detail });
                }
                Some(Trouble::Killed) | None => {}
            }
        }
        session.finish()
    }

    fn take_trouble(&mut self, stage: &StageName, update: u64) -> Option<Trouble> {
        let index = self
            .disturbances
            .iter()
            .position(|disturbance| disturbance.stage == *stage && disturbance.after <= update)?;
        Some(self.disturbances.remove(index).trouble)
    }
}

impl Answer {
    fn fact(fact: TrainerFact) -> Answer {
        Answer {
            reports: vec![Report::Fact(fact)],
            killed: false,
        }
    }
}

/// A chunk in training.
struct Session<'a> {
    seed: u64,
    train: &'a TrainChunk,
    plan: &'a ChunkPlan,
    block: usize,
    step: u64,
    samples_seen: u64,
    columns: Vec<(&'a str, Vec<(u64, Scalar)>)>,
    reports: Vec<Report>,
    /// A hash that represents the weights, if they are chained.
    weights: Option<String>,
}

impl<'a> Session<'a> {
    fn new(
        script: &Script,
        train: &'a TrainChunk,
        plan: &'a ChunkPlan,
        block: usize,
    ) -> Session<'a> {
        Session {
            seed: script.seed,
            train,
            plan,
            block,
            step: train.start().get(),
            samples_seen: train
                .resume
                .as_ref()
                .map_or(0, |resume| resume.samples_seen),
            columns: Vec::new(),
            reports: Vec::new(),
            weights: None,
        }
    }

    fn moment(&self) -> Moment {
        let from = self.train.from.get();
        Moment {
            update: self.step,
            offset: self.step.saturating_sub(from),
            length: self.train.to.get().saturating_sub(from),
        }
    }

    fn fails_here(&self) -> bool {
        self.plan
            .fails
            .is_some_and(|(after, _)| after <= self.moment().offset)
    }

    fn update(&mut self, update: u64) {
        let settings = &self.train.settings;
        self.step = update;
        if let Some(weights) = &mut self.weights {
            let text = format!("{weights} {update} {} {settings:?}", self.samples_seen);
            *weights = blake3::hash(text.as_bytes()).to_hex().to_string();
        }
        self.samples_seen += u64::from(settings.batch_size_per_gpu)
            * u64::from(settings.gradient_accumulation_steps);
        let plan = self.plan;
        let loss = self.value(&plan.loss, &plan.loss_metric);
        self.sample(&plan.loss_metric, loss);
        self.sample(metric::LEARNING_RATE, learning_rate(self.train, update));
        self.sample(metric::GRAD_NORM, loss * 2.0);
        if update.is_multiple_of(settings.log_interval.max(1)) || update == self.train.to.get() {
            for (name, curve) in &plan.others {
                let value = self.value(curve, name);
                self.sample(name, value);
            }
            for (name, curve) in [
                (metric::UNIQUE_ACTIONS, &plan.unique_actions),
                (metric::ACTION_ENTROPY, &plan.action_entropy),
                (metric::CODEBOOK_USAGE, &plan.codebook_usage),
            ] {
                if let Some(curve) = curve {
                    let value = self.value(curve, name);
                    self.sample(name, value);
                }
            }
            self.sample(metric::UPDATES_PER_SECOND, 1.0 / SECONDS_PER_UPDATE);
        }
        self.reports.push(Report::Progress(Progress {
            stage: self.train.stage.clone(),
            step: Step::new(update),
            gate: self.train.to,
            target: Step::new(settings.n_updates),
            loss,
            updates_per_second: 1.0 / SECONDS_PER_UPDATE,
        }));
        let in_block = self.columns.first().map_or(0, |(_, samples)| samples.len());
        if self.block <= in_block {
            self.flush();
        }
    }

    fn value(&self, curve: &Curve, name: &str) -> f64 {
        curve.at(self.moment(), self.noise(name))
    }

    /// Noise in `[-1, 1]` for a metric at this update.
    fn noise(&self, name: &str) -> f64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(self.train.stage.as_str().as_bytes());
        hasher.update(&self.train.restart.get().to_le_bytes());
        hasher.update(&self.step.to_le_bytes());
        hasher.update(name.as_bytes());
        let mut word = [0; 4];
        hasher.finalize_xof().fill(&mut word);
        f64::from(u32::from_le_bytes(word)) / f64::from(u32::MAX) * 2.0 - 1.0
    }

    fn sample(&mut self, name: &'a str, value: f64) {
        let sample = (self.step, Scalar::new(value));
        match self.columns.iter_mut().find(|(known, _)| *known == name) {
            Some((_, samples)) => samples.push(sample),
            None => self.columns.push((name, vec![sample])),
        }
    }

    fn flush(&mut self) {
        let columns = std::mem::take(&mut self.columns);
        if columns.is_empty() {
            return;
        }
        self.reports
            .push(Report::Fact(TrainerFact::MetricsLogged(MetricsLogged {
                stage: self.train.stage.clone(),
                chunk: self.train.chunk,
                attempt: self.train.attempt,
                columns: columns
                    .into_iter()
                    .map(|(name, samples)| column(name, &samples))
                    .collect(),
            })));
    }

    /// Reports a fact, and the samples before it.
    fn tell(&mut self, fact: TrainerFact) {
        self.flush();
        self.reports.push(Report::Fact(fact));
    }

    fn checkpoint_due(&self) -> bool {
        let settings = &self.train.settings;
        let interval = settings
            .checkpoint_interval
            .unwrap_or(settings.chunk_size / 5)
            .max(1);
        self.at_end() || self.moment().offset.is_multiple_of(interval)
    }

    fn at_end(&self) -> bool {
        self.step == self.train.to.get()
    }

    fn checkpoint(&mut self) {
        let files = if self.at_end() {
            self.plan.at_gate
        } else {
            self.plan.on_the_way
        };
        if files == Files::NotWritten {
            return;
        }
        let checkpoint = CheckpointRef {
            path: free_path(&self.train.stage, self.step, &self.train.taken),
            step: Step::new(self.step),
        };
        let files = self.files(files);
        self.tell(TrainerFact::CheckpointWritten(CheckpointWritten {
            stage: self.train.stage.clone(),
            chunk: self.train.chunk,
            attempt: self.train.attempt,
            checkpoint,
            samples_seen: self.samples_seen,
            files,
        }));
    }

    /// The files of a checkpoint. The same update of the same chunk gives the same hashes.
    fn files(&self, files: Files) -> Vec<FileRecord> {
        let model_size = match files {
            Files::Sound | Files::Incomplete | Files::NotWritten => MODEL_SIZE,
            Files::Small => 12,
            Files::Empty => 0,
            Files::Truncated => MODEL_SIZE / 2,
            Files::Corrupt => MODEL_SIZE + 1,
        };
        let sizes = [
            (MODEL_FILE, model_size),
            (OPTIMIZER_FILE, 8192),
            (STATE_FILE, 512),
        ];
        sizes
            .into_iter()
            .filter(|(name, _)| files != Files::Incomplete || *name != OPTIMIZER_FILE)
            .map(|(name, size)| FileRecord {
                name: name.to_owned(),
                size,
                blake3: self.hash(name),
            })
            .collect()
    }

    fn hash(&self, name: &str) -> String {
        if let Some(weights) = &self.weights {
            return match name {
                MODEL_FILE => weights.clone(),
                _ => blake3::hash(format!("{weights} {name}").as_bytes())
                    .to_hex()
                    .to_string(),
            };
        }
        let train = self.train;
        let text = format!(
            "{} {} {} {} {name}",
            self.seed, train.stage, train.restart, self.step
        );
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    fn finish(mut self) -> Answer {
        let train = self.train;
        let step = train.to;
        if let Some(held_out) = self.plan.held_out {
            let values = [
                (held_out.metric, Some(held_out.loss)),
                (metric::HELD_OUT_LOSS_MOVING, held_out.moving),
            ];
            self.tell(TrainerFact::HeldOutScored(HeldOutScored {
                stage: train.stage.clone(),
                chunk: train.chunk,
                attempt: train.attempt,
                step,
                values: values
                    .into_iter()
                    .filter_map(|(name, value)| value.map(|value| named(name, value)))
                    .collect(),
            }));
        }
        if let Some(picture) = self.plan.picture {
            let lost_of = |frame| if frame < picture.lost { LOST } else { KEPT };
            let blake3 = self.hash("picture");
            self.tell(TrainerFact::PictureScored(PictureScored {
                stage: train.stage.clone(),
                chunk: train.chunk,
                attempt: train.attempt,
                step,
                path: format!("{}/pictures/{}_step_{step}.png", train.stage, train.stage),
                blake3,
                pixels: None,
                pooled: lost_of(picture.frames / 2),
                frames: (0..picture.frames).map(lost_of).collect(),
            }));
        }
        let updates = step.get().saturating_sub(train.start().get());
        self.tell(TrainerFact::ChunkFinished(ChunkFinished {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step,
            samples_seen: self.samples_seen,
            seconds: Scalar::new(updates as f64 * SECONDS_PER_UPDATE),
        }));
        self.answer(false)
    }

    fn fail(mut self) -> Answer {
        let Some((_, failure)) = self.plan.fails else {
            return self.answer(false);
        };
        let train = self.train;
        let failure = match failure {
            Failure::OutOfMemory => ChunkFailure::OutOfMemory {
                detail: "tried to allocate 2.00 GiB".to_owned(),
            },
            Failure::WorkerExited => ChunkFailure::WorkerExited {
                status: "signal 11".to_owned(),
                stderr: "segmentation fault".to_owned(),
            },
            Failure::WorkerTimedOut => ChunkFailure::WorkerTimedOut {
                seconds: 600,
                stderr: String::new(),
            },
            Failure::CheckpointUnloadable => {
                let resume = train.resume.as_ref();
                ChunkFailure::CheckpointUnloadable {
                    path: resume.map_or(String::new(), |resume| resume.checkpoint.path.clone()),
                    detail: "the archive ends within a record".to_owned(),
                }
            }
        };
        self.tell(TrainerFact::ChunkFailed(ChunkFailed {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: Step::new(self.step),
            failure,
        }));
        self.answer(false)
    }

    fn ended(mut self, report: Report) -> Answer {
        self.flush();
        self.reports.push(report);
        self.answer(false)
    }

    fn killed(self) -> Answer {
        self.answer(true)
    }

    fn answer(self, killed: bool) -> Answer {
        Answer {
            reports: self.reports,
            killed,
        }
    }
}

const KEPT: StructureScores = scores(0.9, 0.1, 1.1, 0.8, 0.3);
const LOST: StructureScores = scores(0.01, 0.9, 1.2, 0.05, 1.5);

const fn scores(
    flatness: f64,
    stripes: f64,
    blockiness: f64,
    ssim: f64,
    mse_ratio: f64,
) -> StructureScores {
    StructureScores {
        flatness: Some(Scalar::new(flatness)),
        stripes: Some(Scalar::new(stripes)),
        blockiness: Some(Scalar::new(blockiness)),
        ssim: Some(Scalar::new(ssim)),
        mse_ratio: Some(Scalar::new(mse_ratio)),
    }
}

/// The losses of the trivial predictors. Those of the mean image and the previous frame were
/// measured on Pong; those of moving pixels and tokens are plausible numbers.
fn measured(script: &Script, measure: &MeasureStage) -> TrainerFact {
    let (predictor, trivial) = match ModelKind::of(&measure.model) {
        None => ("constant", script.trivial_of(&measure.stage)),
        Some(ModelKind::VideoTokenizer) => (
            "mean_image",
            vec![
                named(metric::TRIVIAL_LOSS, 0.00077),
                named(metric::TRIVIAL_LOSS_MOVING, 0.08),
            ],
        ),
        Some(ModelKind::LatentActions) => (
            "previous_frame",
            vec![
                named(metric::TRIVIAL_LOSS, 0.00066),
                named(metric::TRIVIAL_LOSS_MOVING, 0.06),
            ],
        ),
        Some(ModelKind::Dynamics) => ("token_marginals", vec![named(metric::TRIVIAL_LOSS, 2.25)]),
    };
    TrainerFact::StageMeasured(StageMeasured {
        stage: measure.stage.clone(),
        trivial,
        predictor: predictor.to_owned(),
    })
}

/// Judges the checkpoints of a scripted trainer by the recorded files.
#[derive(Clone, Copy, Debug)]
pub struct ScriptedJudge;

impl Judge for ScriptedJudge {
    fn judge(&self, asked: &JudgeCheckpoint, _weights_only: bool) -> Verdict {
        Verdict::Judged(CheckpointJudged {
            stage: asked.stage.clone(),
            checkpoint: asked.checkpoint.clone(),
            // A checkpoint given by the user has no recorded files.
            rejected: (!asked.files.is_empty())
                .then(|| rejection(&asked.files))
                .flatten(),
        })
    }
}

/// The verdict depends only on the files, so that another process gives the same.
fn rejection(files: &[FileRecord]) -> Option<Rejection> {
    for name in [MODEL_FILE, OPTIMIZER_FILE, STATE_FILE] {
        let Some(file) = files.iter().find(|file| file.name == name) else {
            return Some(Rejection {
                code: "missing_file".to_owned(),
                text: format!("`{name}` is missing"),
            });
        };
        if file.size < FILE_MIN && name != STATE_FILE {
            return Some(Rejection {
                code: "too_small".to_owned(),
                text: format!(
                    "`{name}` has {} bytes, at least {FILE_MIN} are expected",
                    file.size
                ),
            });
        }
        let broken = match file.size.cmp(&MODEL_SIZE) {
            _ if name != MODEL_FILE => None,
            Ordering::Less => Some(("unreadable", "the archive ends within a record")),
            Ordering::Equal => None,
            Ordering::Greater => Some(("non_finite", "a weight is not finite")),
        };
        if let Some((code, text)) = broken {
            return Some(Rejection {
                code: code.to_owned(),
                text: format!("`{name}`: {text}"),
            });
        }
    }
    None
}

/// The weights of the checkpoint from which a chunk starts, or fresh ones.
fn first_weights(script: &Script, train: &TrainChunk) -> String {
    let resume = train.resume.as_ref();
    let files = resume.map_or(&[][..], |resume| resume.files.as_slice());
    if let Some(model) = files.iter().find(|file| file.name == MODEL_FILE) {
        return model.blake3.clone();
    }
    let from = resume.map_or("fresh", |resume| resume.checkpoint.path.as_str());
    let text = format!("{} {} {} {from}", script.seed, train.stage, train.restart);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Warm-up from 0 over a twentieth of the schedule, then a straight line down to 1 %. Used instead
/// of the cosine, whose bits differ between machines.
fn learning_rate(train: &TrainChunk, update: u64) -> f64 {
    let settings = &train.settings;
    let base = settings.learning_rate.get();
    let whole = settings.schedule_updates;
    let warm_up = whole / 20;
    let before = update.saturating_sub(1);
    if before < warm_up {
        return base * (before as f64 / warm_up as f64);
    }
    let rest = whole.saturating_sub(warm_up).max(1);
    let done = (before - warm_up).min(rest) as f64 / rest as f64;
    base * (1.0 - 0.99 * done)
}

fn free_path(stage: &StageName, step: u64, taken: &[String]) -> String {
    let plain = format!("{stage}/checkpoints/{stage}_step_{step}");
    let numbered = (2..=taken.len() + 1).map(|number| format!("{plain}_{number}"));
    std::iter::once(plain.clone())
        .chain(numbered)
        .find(|path| !taken.contains(path))
        .unwrap_or(plain)
}

fn named(name: &str, value: f64) -> Metric {
    Metric {
        name: name.to_owned(),
        value: Some(Scalar::new(value)),
    }
}

/// A column of samples; evenly spaced steps become a first step and a stride.
fn column(name: &str, samples: &[(u64, Scalar)]) -> Column {
    let steps: Vec<u64> = samples.iter().map(|(step, _)| *step).collect();
    let stride = match steps.as_slice() {
        [first, second, ..] => second.saturating_sub(*first),
        [_] | [] => 1,
    };
    let even = steps
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a + stride == *b));
    Column {
        name: name.to_owned(),
        steps: match steps.first() {
            Some(first) if even => Steps::Stride {
                first: *first,
                stride,
            },
            Some(_) | None => Steps::List(steps),
        },
        values: samples.iter().map(|(_, value)| *value).collect(),
    }
}
