//! Policies, facts and whole runs to test the machine with.
//!
//! A [`Run`] folds the facts of a scripted trainer, as the controller would, and keeps the
//! log. [`facts`] is that trainer: the same command and outcome give the same facts,
//! whatever was interrupted before.

use crate::rules::KNOWN;
use crate::*;
use tinygate_events::*;
pub use tinygate_presets::{self as presets, ModelKind, N_ACTIONS, Preset};

/// The events of one kind, in order.
macro_rules! pick {
    ($events:expr, $kind:ident) => {
        $events.iter().filter_map(|event| {
            if let Event::$kind(one) = event {
                Some(one)
            } else {
                None
            }
        })
    };
}
pub(super) use pick;

/// Folds an event by the rules of this build.
pub fn apply(state: &mut RunState, event: &Event) {
    let before = std::mem::replace(state, RunState::empty());
    *state = evolve(before, event);
}

/// As [`apply`], but returns the state.
pub fn evolve(state: RunState, event: &Event) -> RunState {
    let mut machine = Machine::at(KNOWN, state);
    machine.apply(event);
    machine.into_state()
}

/// Decides by the rules of this build.
pub fn decide(state: &RunState) -> Decision {
    Machine::at(KNOWN, state.clone()).decide()
}

/// Consecutive decisions or commands after which a run counts as stuck.
const STEPS_MAX: usize = 10_000;
/// Hash of the files of a checkpoint that is accepted.
const SOUND: &str = "sound";

pub fn scalar(value: f64) -> Scalar {
    Scalar::new(value)
}

pub fn constant(limit: f64) -> Limit {
    Limit::Constant(scalar(limit))
}

pub fn criterion(name: &str, test: CriterionTest) -> Criterion {
    Criterion {
        name: name.to_owned(),
        applies: Applies::EveryGate,
        test,
    }
}

/// Gates every 100 updates up to 300, log interval 10.
pub fn settings() -> Settings {
    Settings {
        learning_rate: scalar(1e-3),
        n_updates: 300,
        schedule_updates: 300,
        batch_size_per_gpu: 8,
        gradient_accumulation_steps: 1,
        log_interval: 10,
        chunk_size: 100,
        checkpoint_interval: None,
        knobs: Default::default(),
    }
}

/// Sets the number of latent actions.
pub fn with_actions(mut settings: Settings, actions: u64) -> Settings {
    settings
        .knobs
        .insert(KnobName::new(N_ACTIONS), Some(count(actions)));
    settings
}

/// The seed's stage for a model, with the small settings above.
pub fn stage_policy(model: ModelKind) -> StagePolicy {
    let mut stage = presets::stage(Preset::Seed, model);
    stage.settings = settings();
    if model == ModelKind::LatentActions {
        stage.settings = with_actions(stage.settings, 8);
    }
    stage
}

/// The seed's policy of these stages.
pub fn policy(stages: Vec<StagePolicy>) -> Policy {
    Policy {
        stages,
        ..presets::policy(Preset::Seed)
    }
}

pub fn policy_of(model: ModelKind) -> Policy {
    policy(vec![stage_policy(model)])
}

pub fn created(policy: Policy) -> RunCreated {
    RunCreated {
        run: "test".to_owned(),
        tinygate_version: "0".to_owned(),
        libtorch_version: "0".to_owned(),
        rules: RULES,
        seed: 1,
        world_size: 1,
        config: serde_json::Value::Null,
        policy,
        dataset: Dataset {
            files: Vec::new(),
            blake3: String::new(),
            frames: 0,
            height: 0,
            width: 0,
            training_windows: 0,
            held_out_windows: 0,
            recordings: Vec::new(),
            passed_over: Vec::new(),
        },
        trivial_predictors: Vec::new(),
        parent: None,
        init_from: Vec::new(),
        held_out_batches: HeldOutBatches::Stage,
    }
}

pub fn process() -> Event {
    Event::ProcessStarted(ProcessStarted {
        host: "host".to_owned(),
        pid: 1,
        tinygate_version: "0".to_owned(),
        libtorch_version: "0".to_owned(),
        devices: Vec::new(),
        threads: 1,
        cards: Vec::new(),
    })
}

/// A person's change of a stage's setting, or of one of the whole policy.
pub fn change(stage: Option<&str>, key: SettingKey, to: SettingValue) -> Event {
    Event::SettingChanged(SettingChanged {
        stage: stage.map(StageName::new),
        key,
        from: SettingValue::Count(0),
        to,
        who: "someone".to_owned(),
        why: "asked".to_owned(),
    })
}

pub fn count(value: u64) -> SettingValue {
    SettingValue::Count(value)
}

pub fn metric_of(name: &str, value: f64) -> Metric {
    Metric {
        name: name.to_owned(),
        value: Some(scalar(value)),
    }
}

pub fn rejection() -> Rejection {
    Rejection {
        code: "too_small".to_owned(),
        text: "it is too small".to_owned(),
    }
}

pub fn checkpoint(stage: &str, step: u64) -> CheckpointRef {
    CheckpointRef {
        path: format!("{stage}/checkpoints/{stage}_step_{step}"),
        step: Step::new(step),
    }
}

pub fn sound_frame() -> StructureScores {
    StructureScores {
        flatness: Some(scalar(1.0)),
        stripes: Some(scalar(0.1)),
        blockiness: Some(scalar(1.0)),
        ssim: Some(scalar(0.9)),
        mse_ratio: Some(scalar(0.1)),
    }
}

/// Limits that a frame can reach exactly.
pub fn structure_limits() -> StructureLimits {
    StructureLimits {
        flatness_min: scalar(0.2),
        flatness_max: scalar(5.0),
        stripes_max: scalar(1.5),
        blockiness_max: scalar(3.0),
        ssim_min: scalar(0.2),
        mse_ratio_max: scalar(1.2),
    }
}

/// A frame whose true image is the mean image.
pub fn unscored_frame() -> StructureScores {
    StructureScores {
        flatness: None,
        stripes: None,
        blockiness: None,
        ssim: None,
        mse_ratio: None,
    }
}

pub fn lost_frame() -> StructureScores {
    StructureScores {
        flatness: Some(scalar(0.0)),
        ..sound_frame()
    }
}

/// What the scripted trainer reports of a chunk.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub loss: f64,
    /// The loss of the chunk's last update, if it differs.
    pub last: Option<f64>,
    pub unique_actions: f64,
    pub action_entropy: f64,
    pub held_out_loss: f64,
    pub structure_lost: bool,
    /// Whether the checkpoints half-way and at the gate are accepted.
    pub middle_accepted: bool,
    pub gate_accepted: bool,
    /// Fails after this many updates of the chunk.
    pub failure: Option<(u64, ChunkFailure)>,
}

/// Passes every gate of the seed's stages.
pub fn good() -> Outcome {
    Outcome {
        loss: 0.005,
        last: None,
        unique_actions: 4.0,
        action_entropy: 1.0,
        held_out_loss: 0.005,
        structure_lost: false,
        middle_accepted: true,
        gate_accepted: true,
        failure: None,
    }
}

/// Fails only because of its loss.
pub fn high(loss: f64) -> Outcome {
    Outcome { loss, ..good() }
}

pub fn out_of_memory() -> ChunkFailure {
    ChunkFailure::OutOfMemory {
        detail: "no memory".to_owned(),
    }
}

pub fn exited() -> ChunkFailure {
    ChunkFailure::WorkerExited {
        status: "signal 9".to_owned(),
        stderr: String::new(),
    }
}

/// The trainer's answer to a command.
pub fn facts(command: &Command, outcome: impl Fn(&TrainChunk) -> Outcome) -> Vec<Event> {
    match command {
        Command::MeasureStage(measure) => vec![Event::StageMeasured(StageMeasured {
            stage: measure.stage.clone(),
            trivial: vec![
                metric_of(metric::TRIVIAL_LOSS, 0.01),
                metric_of(metric::TRIVIAL_LOSS_MOVING, 0.02),
            ],
            predictor: "mean_image".to_owned(),
        })],
        Command::JudgeCheckpoint(judge) => {
            let sound = judge.files.iter().all(|file| file.blake3 == SOUND);
            vec![judged(&judge.stage, &judge.checkpoint, sound)]
        }
        Command::TrainChunk(train) => training(train, &outcome(train)),
    }
}

pub fn judged(stage: &StageName, checkpoint: &CheckpointRef, accepted: bool) -> Event {
    Event::CheckpointJudged(CheckpointJudged {
        stage: stage.clone(),
        checkpoint: checkpoint.clone(),
        rejected: (!accepted).then(rejection),
    })
}

fn training(train: &TrainChunk, outcome: &Outcome) -> Vec<Event> {
    let (from, to) = (train.from.get(), train.to.get());
    let end = outcome
        .failure
        .as_ref()
        .map_or(to, |(updates, _)| from + updates);
    let middle = from + (to - from) / 2;
    let mut facts = Vec::new();
    let mut at = train.start().get();
    for (stop, accepted) in [
        (middle, outcome.middle_accepted),
        (to, outcome.gate_accepted),
    ] {
        if stop <= at || end < stop {
            continue;
        }
        facts.push(metrics(train, at + 1, stop, outcome));
        let reference = free_name(train, stop);
        facts.push(written(train, &reference, accepted));
        facts.push(judged(&train.stage, &reference, accepted));
        at = stop;
    }
    if let Some((_, failure)) = &outcome.failure {
        facts.push(Event::ChunkFailed(ChunkFailed {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: Step::new(end),
            failure: failure.clone(),
        }));
        return facts;
    }
    facts.extend(gate_facts(train, outcome));
    facts
}

/// A checkpoint's name that no event has used.
fn free_name(train: &TrainChunk, step: u64) -> CheckpointRef {
    let mut reference = checkpoint(train.stage.as_str(), step);
    while train.taken.contains(&reference.path) {
        reference.path.push('b');
    }
    reference
}

/// Samples of every update in `first..=last`.
pub fn metrics(train: &TrainChunk, first: u64, last: u64, outcome: &Outcome) -> Event {
    let updates = last - first + 1;
    let column = |name: &str, values: Vec<f64>| Column {
        name: name.to_owned(),
        steps: Steps::Stride { first, stride: 1 },
        values: values.into_iter().map(scalar).collect(),
    };
    let same = |name, value| column(name, vec![value; updates as usize]);
    let mut losses = vec![outcome.loss; updates as usize];
    if let (Some(value), Some(newest)) = (outcome.last, losses.last_mut())
        && last == train.to.get()
    {
        *newest = value;
    }
    Event::MetricsLogged(MetricsLogged {
        stage: train.stage.clone(),
        chunk: train.chunk,
        attempt: train.attempt,
        columns: vec![
            column(metric::LOSS, losses),
            same(metric::LEARNING_RATE, 1e-3),
            same(metric::UNIQUE_ACTIONS, outcome.unique_actions),
            same(metric::ACTION_ENTROPY, outcome.action_entropy),
        ],
    })
}

/// A checkpoint whose verdict depends on the file's hash.
pub fn written(train: &TrainChunk, reference: &CheckpointRef, sound: bool) -> Event {
    Event::CheckpointWritten(CheckpointWritten {
        stage: train.stage.clone(),
        chunk: train.chunk,
        attempt: train.attempt,
        checkpoint: reference.clone(),
        samples_seen: reference.step.get() * 8,
        files: vec![FileRecord {
            name: "model_state_dict.pt".to_owned(),
            size: 2000,
            blake3: if sound { SOUND } else { "broken" }.to_owned(),
        }],
    })
}

/// The scores of a gate, and the chunk's end.
pub fn gate_facts(train: &TrainChunk, outcome: &Outcome) -> Vec<Event> {
    let frame = if outcome.structure_lost {
        lost_frame()
    } else {
        sound_frame()
    };
    vec![
        Event::HeldOutScored(HeldOutScored {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: train.to,
            values: vec![
                metric_of(metric::HELD_OUT_LOSS, outcome.held_out_loss),
                metric_of(metric::HELD_OUT_LOSS_MOVING, outcome.held_out_loss),
            ],
        }),
        Event::PictureScored(PictureScored {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: train.to,
            path: "picture.png".to_owned(),
            blake3: "00".to_owned(),
            pixels: None,
            pooled: frame,
            frames: vec![frame; 4],
        }),
        Event::ChunkFinished(ChunkFinished {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: train.to,
            samples_seen: train.to.get() * 8,
            seconds: scalar(1.0),
        }),
    ]
}

/// A run and its log.
pub struct Run {
    pub state: RunState,
    pub log: Vec<Event>,
}

impl Run {
    /// A run that is about to train its first chunk.
    pub fn start(policy: Policy) -> Run {
        Run::create(created(policy))
    }

    pub fn create(created: RunCreated) -> Run {
        let mut run = Run {
            state: RunState::empty(),
            log: Vec::new(),
        };
        run.report(Event::RunCreated(Box::new(created)));
        run.report(process());
        run.measure();
        run
    }

    /// Answers a command to measure, if one is due.
    pub fn measure(&mut self) {
        if let Some(command @ Command::MeasureStage(_)) = self.command() {
            self.obey(&command, |_| good());
        }
    }

    pub fn append(&mut self, event: Event) {
        apply(&mut self.state, &event);
        self.log.push(event);
    }

    /// Records decisions until a command is due or the run ends.
    pub fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            match decide(&self.state) {
                Decision::Record(event) => self.append(*event),
                Decision::Act(_) | Decision::Idle(_) => return,
            }
        }
        panic!("the machine decides without end");
    }

    /// Appends a fact and the decisions that follow from it.
    pub fn report(&mut self, fact: Event) {
        self.append(fact);
        self.settle();
    }

    pub fn command(&self) -> Option<Command> {
        Machine::at(KNOWN, self.state.clone()).command()
    }

    /// The chunk to train now.
    #[track_caller]
    pub fn training(&self) -> TrainChunk {
        match self.command() {
            Some(Command::TrainChunk(train)) => *train,
            other => panic!("nothing to train: {other:?}"),
        }
    }

    /// Appends the answer to a command, which stays due until the answer is complete.
    pub fn obey(&mut self, command: &Command, outcome: impl Fn(&TrainChunk) -> Outcome) {
        let facts = facts(command, outcome);
        let last = facts.len().saturating_sub(1);
        for (place, fact) in facts.into_iter().enumerate() {
            self.append(fact);
            let on_the_way = self
                .command()
                .is_none_or(|due| due == *command || matches!(due, Command::JudgeCheckpoint(_)));
            assert!(place == last || on_the_way, "another command on the way");
        }
        self.settle();
    }

    /// Trains the current chunk with this outcome; returns the decisions that follow.
    #[track_caller]
    pub fn train(&mut self, outcome: &Outcome) -> Vec<Event> {
        let before = self.log.len();
        let command = Command::TrainChunk(Box::new(self.training()));
        self.obey(&command, |_| outcome.clone());
        let decisions = self.log[before..].iter();
        decisions
            .filter(|event| event.is_decision())
            .cloned()
            .collect()
    }

    /// Trains the current chunk to its gate.
    #[track_caller]
    pub fn gate(&mut self, outcome: &Outcome) -> GateDecided {
        let decisions = self.train(outcome);
        let gate: Option<&GateDecided> = pick!(decisions, GateDecided).next().map(|gate| &**gate);
        gate.expect("no gate was decided").clone()
    }

    /// Makes the current chunk fail after some updates.
    #[track_caller]
    pub fn fail(&mut self, updates: u64, failure: ChunkFailure) -> FailureDecided {
        let decisions = self.train(&Outcome {
            failure: Some((updates, failure)),
            ..good()
        });
        let decided = pick!(decisions, FailureDecided).next();
        decided.expect("no failure was decided").clone()
    }

    /// Continues to the end of the run.
    pub fn finish(&mut self, outcome: impl Fn(&TrainChunk) -> Outcome) {
        for _ in 0..STEPS_MAX {
            self.settle();
            let Some(command) = self.command() else {
                return;
            };
            self.obey(&command, &outcome);
        }
        panic!("the run never ends");
    }

    /// The current stage, or the last one.
    pub fn stage(&self) -> &StageState {
        let last = self.state.stages.last();
        self.state.stage().or(last).expect("the run has no stage")
    }

    pub fn kinds(&self) -> Vec<&'static str> {
        self.log.iter().map(Event::kind).collect()
    }

    /// Allows more retries in the stage where the run stopped.
    pub fn allow(&mut self, more: u32) -> StageReopened {
        let stage = self.stage();
        let name = stage.name().as_str().to_owned();
        let retries = u64::from(stage.max_retries + more);
        self.append(process());
        self.report(change(Some(&name), SettingKey::MaxRetries, count(retries)));
        let reopened = pick!(self.log, StageReopened).last();
        reopened.expect("the stage stays stopped").clone()
    }
}

/// Patches as `key from -> to`.
pub fn shown(patches: &[SettingPatch]) -> Vec<String> {
    let value = |value: SettingValue| match value {
        SettingValue::Count(count) => count.to_string(),
        SettingValue::Real(real) => real.to_string(),
    };
    patches
        .iter()
        .map(|patch| {
            let (from, to) = (value(patch.from), value(patch.to));
            format!("{} {from} -> {to}", patch.key.as_str())
        })
        .collect()
}

/// The step of the checkpoint from which a run resumes.
pub fn step_of(reference: &Option<CheckpointRef>) -> Option<u64> {
    reference.as_ref().map(|checkpoint| checkpoint.step.get())
}
