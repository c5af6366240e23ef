//! What a change of settings does to the learning rate at the update where training resumes.
//!
//! The rate is a function of the step, the schedule's length and the base rate. A target that moves while
//! a stage trains changes the whole curve, so the rate jumps to the new curve's value at this step.

use crate::events::{
    CheckpointJudged, Event, ProcessStarted, SettingChanged, SettingKey, Settings, StageName, Step,
};
use crate::machine::rules::KNOWN;
use crate::machine::{Command, Decision, Machine, RunState};
use crate::schedule::learning_rate;

/// Decisions and verdicts that may come before a chunk. A change of settings leads to a few.
const STEPS_MAX: usize = 10_000;

/// The learning rate of a stage before and after changes of its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct RateChange {
    pub stage: StageName,
    /// The changed settings that move it, with their stage.
    pub keys: Vec<String>,
    /// The next update, counted from 1.
    pub update: u64,
    pub before: f64,
    pub after: f64,
}

impl RateChange {
    /// Of the stage that trains next; `None`: its rate does not change.
    pub fn of(state: &RunState, changes: &[SettingChanged]) -> Option<RateChange> {
        rate_change(state, changes)
    }
}

fn rate_change(state: &RunState, changes: &[SettingChanged]) -> Option<RateChange> {
    let machine = Machine::at(KNOWN, state.clone());
    let mut changed = machine.clone();
    for change in changes {
        changed.apply(&Event::SettingChanged(change.clone()));
    }
    let (stage, step, after) = next_chunk(changed)?;
    let before = match next_chunk(machine) {
        Some((same, _, settings)) if same == stage => settings,
        Some(_) | None => state.stage_named(&stage)?.settings.clone(),
    };
    let reasons = changes.iter().filter(|change| {
        let of_rate = matches!(change.key, SettingKey::NUpdates | SettingKey::LearningRate);
        of_rate && change.stage.as_ref() == Some(&stage)
    });
    let keys: Vec<String> = reasons
        .map(|change| format!("{stage}.{}", change.key.as_str()))
        .collect();
    // The rate of update u is f(u - 1), so that of the next one is f(step).
    let rate = |settings: &Settings| {
        let base = settings.learning_rate.get();
        learning_rate(step.get(), settings.schedule_updates, base)
    };
    let (before, after) = (rate(&before), rate(&after));
    if keys.is_empty() || step == Step::FIRST || before == after {
        return None;
    }
    Some(RateChange {
        stage,
        keys,
        update: step.get().saturating_add(1),
        before,
        after,
    })
}

/// The chunk that the next process trains: its stage, where it resumes, and its settings.
fn next_chunk(mut machine: Machine) -> Option<(StageName, Step, Settings)> {
    machine.apply(&Event::ProcessStarted(another_process()));
    for _ in 0..STEPS_MAX {
        match machine.decide() {
            Decision::Record(event) => machine.apply(&event),
            Decision::Act(Command::TrainChunk(train)) => {
                let step = train.start();
                return Some((train.stage, step, train.settings));
            }
            // Most checkpoints are sound, and a rejected one only moves the start.
            Decision::Act(Command::JudgeCheckpoint(judge)) => {
                let judged = CheckpointJudged {
                    stage: judge.stage,
                    checkpoint: judge.checkpoint,
                    rejected: None,
                };
                machine.apply(&Event::CheckpointJudged(judged));
            }
            Decision::Act(Command::MeasureStage(_)) | Decision::Idle(_) => return None,
        }
    }
    None
}

/// No decision depends on its fields.
fn another_process() -> ProcessStarted {
    ProcessStarted {
        host: String::new(),
        pid: 0,
        tinygate_version: String::new(),
        libtorch_version: String::new(),
        devices: Vec::new(),
        threads: 0,
        cards: Vec::new(),
    }
}
