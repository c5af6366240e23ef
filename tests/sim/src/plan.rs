//! Derives a run from a seed: its policy, its trainer's script, and the faults of each process.

use std::fmt;

use tinygate::events::{
    CheckpointRef, Event, InitFrom, Policy, RetryFrom, Settings, StageName, Step,
};
use tinygate::presets::ModelKind;
use tinygate::presets::{self, Preset};
use tinygate_testing::disk::{Moment, Trouble};
use tinygate_testing::{ChunkPlan, Curve, Failure, Files, HeldOut, Picture, Rng, Script, created};

use crate::fault::Fault;
use crate::keep::Keep;

/// The first chunks of a stage, which may go badly. Later ones go well, unless the whole stage goes badly.
const CHUNKS: u32 = 6;

#[derive(Clone)]
pub struct Plan {
    pub seed: u64,
    /// No planned fault changes the course of the run.
    pub exact: bool,
    /// The run's first event.
    pub created: Event,
    /// The user allows fewer devices than ranks.
    pub granted: bool,
    /// How many times a stopped stage is allowed more retries.
    pub reopenings: u64,
    pub script: Script,
    bad_chunks: Vec<BadChunk>,
    /// The processes with faults. Later ones have none.
    pub lives: Vec<Life>,
}

/// Training that goes badly. Chunk 0 means every chunk of the stage, attempt 0 every attempt.
#[derive(Clone, Debug)]
struct BadChunk {
    stage: StageName,
    chunk: u32,
    attempt: u32,
    plan: ChunkPlan,
    mood: &'static str,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    pub fate: Fate,
    /// Dies as soon as this kind of event is durable, whatever the fate.
    pub fatal: Option<&'static str>,
    /// Disk faults, by operation since its start.
    pub troubles: Vec<(u64, Trouble)>,
    /// The power is cut after it. Otherwise nothing written is lost.
    pub power_cut: bool,
    /// One copy of the log is damaged after it.
    pub damage: bool,
    /// A checkpoint is damaged after it.
    pub rot: bool,
    /// A person changes a setting at its start.
    pub change: bool,
    /// Milliseconds by which the clock is set back after it.
    pub set_back: u64,
    /// One report in this many arrives twice, late, or never; 0 for none.
    pub twice: u64,
    pub late: u64,
    pub lost: u64,
    /// One append in this many is followed by a stall; 0 for none.
    pub stall: u64,
}

/// What ends a process before the end of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing, except perhaps a disk fault.
    Open,
    /// At this operation of the disk.
    AtOperation {
        at: u64,
        moment: Moment,
    },
    /// Dies before this command is sent, counted from 1.
    BeforeSend {
        command: u64,
    },
    /// Dies after this command is sent, before any report.
    AfterSend {
        command: u64,
    },
    /// Dies after this many reports.
    AmongReports {
        reports: u64,
    },
    /// Dies as soon as this kind of event is durable for the `nth` time.
    After {
        kind: &'static str,
        nth: u64,
    },
    /// The trainer hangs until it is killed.
    Hang {
        reports: u64,
    },
    /// The trainer exits.
    TrainerGone {
        reports: u64,
    },
    Signal {
        stage: StageName,
        after: u64,
    },
    /// The trainer finds the disk full.
    Environment {
        stage: StageName,
        after: u64,
    },
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let root = Rng::new(seed);
        let mut rng = root.part("run");
        let exact = !rng.one_in(3);
        let policy = policy(&mut rng, exact);
        let mut plan = Plan {
            seed,
            exact,
            granted: rng.one_in(8),
            reopenings: rng.below(3),
            script: Script::new(seed),
            bad_chunks: Vec::new(),
            lives: Vec::new(),
            created: created(policy.clone(), seed),
        };
        plan.given_checkpoints(&policy, &mut rng);
        plan.draw_bad_chunks(&policy, &mut root.part("script"));
        plan.write_script();
        let mut rng = root.part("faults");
        let lives = 1 + rng.below(8);
        plan.lives = (0..lives).map(|_| life(&mut rng, exact, &policy)).collect();
        plan
    }

    /// How a chunk's training goes.
    pub fn mood(&self, stage: &StageName, chunk: u32, attempt: u32) -> &'static str {
        let found =
            [(chunk, attempt), (chunk, 0), (0, 0)]
                .into_iter()
                .find_map(|(chunk, attempt)| {
                    let mut drawn = self.bad_chunks.iter().rev();
                    drawn
                        .find(|bad| (&bad.stage, bad.chunk, bad.attempt) == (stage, chunk, attempt))
                });
        found.map_or("loss falls", |bad| bad.mood)
    }

    /// All faults in order; the first has number 1.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.clone().visit(&mut |text, number| {
            let number = number.copied();
            faults.push(Fault { text, number });
            true
        });
        faults
    }

    /// Removes every fault that is not kept, and every process that loses all of its faults.
    pub fn keep(&mut self, kept: &Keep) {
        let mut number = 0;
        self.visit(&mut |_, value| {
            number += 1;
            let Some(chosen) = kept.get(number) else {
                return false;
            };
            if let (Some(value), Some(chosen)) = (value, chosen) {
                *value = chosen;
            }
            true
        });
        self.write_script();
    }

    /// Calls `keep` with each fault and the number that may be lowered, and removes the fault if it returns false.
    fn visit(&mut self, keep: &mut impl FnMut(String, Option<&mut u64>) -> bool) {
        if self.granted {
            self.granted = keep("fewer devices than ranks are allowed".to_owned(), None);
        }
        if self.reopenings > 0 {
            let text = format!("a stopped stage is retried up to {} times", self.reopenings);
            if !keep(text, Some(&mut self.reopenings)) {
                self.reopenings = 0;
            }
        }
        if let Event::RunCreated(created) = &mut self.created {
            created.init_from.retain(|given| {
                let path = &given.checkpoint.path;
                keep(format!("training starts from `{path}`"), None)
            });
        }
        self.bad_chunks.retain(|bad| keep(bad.to_string(), None));
        let mut process = 0;
        self.lives.retain_mut(|life| {
            process += 1;
            let drawn = life.clone();
            life.visit(&mut |text, number| keep(format!("process {process}: {text}"), number));
            *life == drawn || *life != Life::calm()
        });
    }

    /// Builds the trainer's script from the bad chunks.
    fn write_script(&mut self) {
        let script = Script::new(self.seed);
        self.script = self.bad_chunks.iter().fold(script, |script, bad| {
            let (stage, plan) = (bad.stage.as_str(), bad.plan.clone());
            match (bad.chunk, bad.attempt) {
                (0, _) => script.stage(stage, plan),
                (chunk, 0) => script.chunk(stage, chunk, plan),
                (chunk, attempt) => script.attempt(stage, chunk, attempt, plan),
            }
        });
    }

    fn given_checkpoints(&mut self, policy: &Policy, rng: &mut Rng) {
        let Event::RunCreated(created) = &mut self.created else {
            return;
        };
        let Some(stage) = policy.stages.first() else {
            return;
        };
        // At the largest step a stage can only stop.
        let step = match rng.below(40) {
            0 => u64::MAX,
            1..6 => 1 + rng.below(12),
            _ => return,
        };
        created.init_from = vec![InitFrom {
            stage: stage.name.clone(),
            checkpoint: CheckpointRef {
                path: format!("/given/{}_step_{step}", stage.name),
                step: Step::new(step),
            },
            files: Vec::new(),
            fresh_optimizer: false,
        }];
    }

    fn draw_bad_chunks(&mut self, policy: &Policy, rng: &mut Rng) {
        let calm = rng.one_in(6);
        for stage in &policy.stages {
            let model = ModelKind::of(&stage.model).unwrap_or(ModelKind::VideoTokenizer);
            let good = ChunkPlan::good(model);
            if rng.one_in(12) {
                let plan = good.clone().loss(flat(model));
                self.bad_chunk(&stage.name, 0, 0, plan, "loss plateaus");
            }
            // At every gate, so that the whole ladder is used.
            if model == ModelKind::LatentActions && rng.one_in(6) {
                let plan = good.clone().collapsing();
                self.bad_chunk(&stage.name, 0, 0, plan, "entropy collapses");
                continue;
            }
            for chunk in 1..=CHUNKS {
                if calm || !rng.one_in(2) {
                    continue;
                }
                let length = stage.settings.chunk_size;
                let (plan, mood) = bad(&good, model, length, rng);
                if plan.fails.is_none() {
                    self.bad_chunk(&stage.name, chunk, 0, plan, mood);
                    continue;
                }
                for attempt in 1..=1 + rng.below(4) as u32 {
                    self.bad_chunk(&stage.name, chunk, attempt, plan.clone(), mood);
                }
            }
        }
    }

    fn bad_chunk(
        &mut self,
        stage: &StageName,
        chunk: u32,
        attempt: u32,
        plan: ChunkPlan,
        mood: &'static str,
    ) {
        self.bad_chunks.push(BadChunk {
            stage: stage.clone(),
            chunk,
            attempt,
            plan,
            mood,
        });
    }
}

impl Life {
    /// A process without faults.
    pub fn calm() -> Life {
        Life {
            fate: Fate::Open,
            fatal: None,
            troubles: Vec::new(),
            power_cut: false,
            damage: false,
            rot: false,
            change: false,
            set_back: 0,
            twice: 0,
            late: 0,
            lost: 0,
            stall: 0,
        }
    }

    fn visit(&mut self, keep: &mut impl FnMut(String, Option<&mut u64>) -> bool) {
        if self.fate != Fate::Open && !keep(self.fate.to_string(), self.fate.number()) {
            self.fate = Fate::Open;
        }
        if let Some(kind) = self.fatal
            && !keep(format!("dies after the first `{kind}`"), None)
        {
            self.fatal = None;
        }
        self.troubles.retain_mut(|(at, trouble)| {
            keep(format!("{trouble:?} at disk operation {at}"), Some(at))
        });
        for (flag, text) in [
            (&mut self.power_cut, "a power cut follows"),
            (
                &mut self.damage,
                "one copy of the log is damaged afterwards",
            ),
            (&mut self.rot, "a checkpoint is damaged afterwards"),
            (&mut self.change, "a person changes a setting at the start"),
        ] {
            if *flag {
                *flag = keep(text.to_owned(), None);
            }
        }
        if self.set_back > 0 {
            let text = format!("the clock is set back by {} ms afterwards", self.set_back);
            if !keep(text, Some(&mut self.set_back)) {
                self.set_back = 0;
            }
        }
        for (rate, text) in [
            (&mut self.twice, "reports arrives twice"),
            (&mut self.late, "reports arrives late"),
            (&mut self.lost, "reports is lost"),
            (&mut self.stall, "appends is followed by a stall"),
        ] {
            if *rate > 0 && !keep(format!("one in {rate} {text}"), None) {
                *rate = 0;
            }
        }
    }
}

impl Fate {
    /// The operation or count at which it happens.
    fn number(&mut self) -> Option<&mut u64> {
        match self {
            Fate::Open => None,
            Fate::AtOperation { at: number, .. }
            | Fate::BeforeSend { command: number }
            | Fate::AfterSend { command: number }
            | Fate::AmongReports { reports: number }
            | Fate::After { nth: number, .. }
            | Fate::Hang { reports: number }
            | Fate::TrainerGone { reports: number }
            | Fate::Signal { after: number, .. }
            | Fate::Environment { after: number, .. } => Some(number),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Open => write!(f, "runs to the end"),
            Fate::AtOperation { at, moment } => {
                let moment = format!("{moment:?}").to_lowercase();
                write!(f, "dies {moment} disk operation {at}")
            }
            Fate::BeforeSend { command } => write!(f, "dies before it sends command {command}"),
            Fate::AfterSend { command } => write!(f, "dies after it sent command {command}"),
            Fate::AmongReports { reports } => write!(f, "dies at report {reports}"),
            Fate::After { kind, nth } => write!(f, "dies after `{kind}` number {nth}"),
            Fate::Hang { reports } => write!(f, "the trainer hangs at report {reports}"),
            Fate::TrainerGone { reports } => write!(f, "the trainer exits at report {reports}"),
            Fate::Signal { stage, after } => {
                write!(f, "a signal arrives in `{stage}` after update {after}")
            }
            Fate::Environment { stage, after } => {
                write!(
                    f,
                    "the trainer's disk is full in `{stage}` after update {after}"
                )
            }
        }
    }
}

impl fmt::Display for BadChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BadChunk {
            stage,
            chunk,
            attempt,
            mood,
            plan: _,
        } = self;
        match (chunk, attempt) {
            (0, _) => write!(f, "`{stage}`, every chunk: {mood}"),
            (_, 0) => write!(f, "`{stage}`, chunk {chunk}: {mood}"),
            _ => write!(f, "`{stage}`, chunk {chunk}, attempt {attempt}: {mood}"),
        }
    }
}

fn policy(rng: &mut Rng, exact: bool) -> Policy {
    let preset = if rng.one_in(3) {
        Preset::Strict
    } else {
        Preset::Seed
    };
    let mut policy = presets::policy(preset);
    // With more failures, stages stop more often.
    let retries = if exact { [0, 1, 2, 5] } else { [0, 0, 1, 5] };
    policy.max_retries = rng.pick(&retries).unwrap_or(5);
    policy.max_chunk_failures = 1 + rng.below(3) as u32;
    // In an exact run crashes never count as a failure.
    policy.max_interruptions = if exact { 1000 } else { 1 + rng.below(3) as u32 };
    policy.keep_last = rng.pick(&[0, 1, 2, 5]).unwrap_or(5);
    policy.reset_on_pass = rng.one_in(2);
    policy.retry_from = rng
        .pick(&[RetryFrom::Newest, RetryFrom::LastPassed, RetryFrom::Best])
        .unwrap_or(RetryFrom::Newest);
    for stage in &mut policy.stages {
        stage.settings = settings(&stage.settings, rng);
    }
    match rng.below(64) {
        0 | 1 => policy.stages.clear(),
        2..32 => {
            let kept = rng.below(3) as usize;
            policy.stages = policy.stages.get(kept).cloned().into_iter().collect();
        }
        _ => {}
    }
    policy
}

fn settings(full: &Settings, rng: &mut Rng) -> Settings {
    let chunk_size = rng.pick(&[10, 12, 20, 30]).unwrap_or(10);
    let n_updates = chunk_size * (1 + rng.below(3));
    Settings {
        chunk_size,
        n_updates,
        schedule_updates: n_updates,
        log_interval: rng.pick(&[1, 2, 5, 10]).unwrap_or(5),
        batch_size_per_gpu: rng.pick(&[8, 4, 2]).unwrap_or(8),
        checkpoint_interval: rng.one_in(3).then(|| 1 + rng.below(chunk_size)),
        ..full.clone()
    }
}

fn flat(model: ModelKind) -> Curve {
    Curve::flat(match model {
        ModelKind::VideoTokenizer => 0.05,
        ModelKind::LatentActions => 0.3,
        ModelKind::Dynamics => 2.0,
    })
}

/// A chunk with one fault, and the fault's name.
fn bad(
    good: &ChunkPlan,
    model: ModelKind,
    length: u64,
    rng: &mut Rng,
) -> (ChunkPlan, &'static str) {
    let at = 1 + rng.below(length);
    let mut plan = good.clone();
    let mood = match rng.below(24) {
        0 => {
            plan.loss = flat(model).noisy(0.1);
            "loss plateaus"
        }
        1 => {
            plan.loss = match model {
                ModelKind::Dynamics => Curve::line(2.0, 4.0),
                ModelKind::VideoTokenizer | ModelKind::LatentActions => Curve::line(0.02, 0.4),
            };
            "loss rises"
        }
        2 => {
            plan.loss = plan.loss.but(rng.pick(&[at, length]).unwrap_or(at), 9.0);
            "loss spikes"
        }
        3 => {
            plan.loss = plan.loss.but(at, f64::NAN);
            "loss is NaN"
        }
        4 => {
            plan.loss = plan.loss.but(at, f64::INFINITY);
            "loss is infinite"
        }
        5..9 if model != ModelKind::VideoTokenizer => {
            plan = plan.collapsing();
            "entropy collapses"
        }
        5 | 6 if model == ModelKind::VideoTokenizer => {
            plan.loss = Curve::line(0.2, 0.05);
            "loss falls"
        }
        7..=10 => {
            plan.picture = Some(Picture {
                frames: 4,
                lost: 2 + rng.below(3) as u32,
            });
            "structure lost"
        }
        11 => {
            plan.picture = None;
            "picture missing"
        }
        12 => {
            plan.unique_actions = None;
            plan.codebook_usage = None;
            "metric missing"
        }
        13 => {
            plan.held_out = None;
            "held-out loss missing"
        }
        14 | 15 => {
            let files = rng
                .pick(&[
                    Files::NotWritten,
                    Files::Incomplete,
                    Files::Empty,
                    Files::Small,
                    Files::Truncated,
                    Files::Corrupt,
                ])
                .unwrap_or(Files::Small);
            plan.at_gate = files;
            plan.on_the_way = if rng.one_in(2) { files } else { Files::Sound };
            match files {
                Files::NotWritten => "checkpoint missing",
                Files::Incomplete => "checkpoint incomplete",
                Files::Empty => "checkpoint empty",
                Files::Truncated => "checkpoint truncated",
                Files::Corrupt => "checkpoint corrupt",
                Files::Small | Files::Sound => "checkpoint too small",
            }
        }
        16 | 17 => {
            plan.fails = Some((at, Failure::OutOfMemory));
            "out of memory"
        }
        18 | 19 => {
            plan.fails = Some((at, Failure::WorkerExited));
            "worker exits"
        }
        20 => {
            plan.fails = Some((at, Failure::WorkerTimedOut));
            "worker times out"
        }
        21 => {
            plan.fails = Some((at, Failure::CheckpointUnloadable));
            "checkpoint cannot be loaded"
        }
        22 => {
            plan.held_out = plan.held_out.map(|held_out| HeldOut {
                loss: 9.0,
                ..held_out
            });
            "loss plateaus"
        }
        _ => {
            plan.loss = flat(model).noisy(0.5);
            "loss plateaus"
        }
    };
    (plan, mood)
}

fn life(rng: &mut Rng, exact: bool, policy: &Policy) -> Life {
    let fate = fate(rng, exact, policy);
    let mut troubles = Vec::new();
    for _ in 0..rng.below(3) {
        let trouble = rng.pick(&[
            Trouble::ShortRead,
            Trouble::ShortWrite,
            Trouble::Interrupted,
        ]);
        troubles.extend(trouble.map(|trouble| (rng.any_size(200), trouble)));
    }
    if fate == Fate::Open || rng.one_in(4) {
        let trouble = rng.pick(&[
            Trouble::ReadError,
            Trouble::WriteError,
            Trouble::DiskFull,
            Trouble::SyncError,
            Trouble::CutError,
            Trouble::RenameError,
            Trouble::MirrorError,
            Trouble::MirrorFull,
            Trouble::MirrorInUse,
        ]);
        troubles.extend(trouble.map(|trouble| (rng.any_size(300), trouble)));
        // A failed write is truncated again, which may fail as well.
        if rng.one_in(3) {
            troubles.push((0, Trouble::CutError));
        }
    }
    // Rare moments between two events are chosen more often than by chance.
    let fatal = match rng.below(8) {
        0 | 1 if !exact => Some("stage_stopped"),
        2 if !exact => Some("checkpoint_judged"),
        _ => None,
    };
    Life {
        fate,
        fatal,
        troubles,
        power_cut: rng.one_in(2),
        damage: rng.one_in(3),
        rot: !exact && rng.one_in(2),
        change: !exact && rng.one_in(4),
        set_back: if rng.one_in(6) {
            rng.any_size(1 << 32)
        } else {
            0
        },
        twice: if rng.one_in(2) {
            1 + rng.any_size(30)
        } else {
            0
        },
        late: if rng.one_in(2) {
            1 + rng.any_size(30)
        } else {
            0
        },
        lost: if !exact && rng.one_in(3) {
            20 + rng.any_size(60)
        } else {
            0
        },
        stall: if rng.one_in(2) {
            1 + rng.any_size(30)
        } else {
            0
        },
    }
}

fn fate(rng: &mut Rng, exact: bool, policy: &Policy) -> Fate {
    let moment = rng
        .pick(&[Moment::Before, Moment::Within, Moment::After])
        .unwrap_or(Moment::Within);
    let reports = rng.any_size(300);
    let command = 1 + rng.any_size(12);
    match rng.below(24) {
        0..6 => Fate::AtOperation {
            at: rng.any_size(400),
            moment,
        },
        6..9 => Fate::AtOperation {
            at: 1 + rng.below(16),
            moment,
        },
        9 | 10 => Fate::BeforeSend { command },
        11 | 12 => Fate::AfterSend { command },
        13 => Fate::AmongReports { reports },
        14 => Fate::Hang { reports },
        15 => Fate::TrainerGone { reports },
        16..20 => Fate::After {
            kind: rng.pick(&Event::KINDS).unwrap_or("gate_decided"),
            nth: 1 + rng.below(3),
        },
        20 | 21 => {
            let stages = &policy.stages;
            let place = rng.below(stages.len() as u64) as usize;
            let Some(stage) = stages.get(place) else {
                return Fate::Open;
            };
            let stage_name = stage.name.clone();
            let after = 1 + rng.below(stage.settings.n_updates);
            if exact || rng.one_in(2) {
                Fate::Environment {
                    stage: stage_name,
                    after,
                }
            } else {
                Fate::Signal {
                    stage: stage_name,
                    after,
                }
            }
        }
        _ => Fate::Open,
    }
}
