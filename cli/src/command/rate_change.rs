//! What a change of settings does to the learning rate at the place where training resumes.
//!
//! The rate follows from the step, the schedule's length and the base rate alone. So a target that is moved while a
//! stage trains bends the whole curve, and the rate jumps to where the new curve is at this step.

use tinygate::events::{
    CheckpointJudged, Event, ProcessStarted, SettingChanged, SettingKey, Settings, StageName, Step,
};
use tinygate::machine::rules::KNOWN;
use tinygate::machine::{Command, Decision, Machine, RunState};
use tinygate::train::learning_rate;

use crate::output::number;

/// Decisions and verdicts that may come before a chunk; a person's change leads to a few.
const STEPS_MAX: usize = 10_000;

/// One line for the stage that trains next, if its rate is another with `changes` than without.
pub fn describe(state: &RunState, changes: &[SettingChanged]) -> Option<String> {
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
        .map(|change| format!("`{stage}.{}`", change.key.as_str()))
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
    let next = step.get().saturating_add(1);
    Some(format!(
        "warning: {} changes the learning rate of `{stage}` at update {next} from {} to {}",
        keys.join(" and "),
        number(before),
        number(after)
    ))
}

/// The chunk that another process trains next: its stage, where it resumes, and its settings.
fn next_chunk(mut machine: Machine) -> Option<(StageName, Step, Settings)> {
    machine.apply(&Event::ProcessStarted(another_process()));
    for _ in 0..STEPS_MAX {
        match machine.decide() {
            Decision::Record(event) => machine.apply(&event),
            Decision::Act(Command::TrainChunk(train)) => {
                let step = train.start();
                return Some((train.stage, step, train.settings));
            }
            // Most checkpoints are sound; a rejected one only moves the place.
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

/// No decision reads what it says.
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

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate::events::SettingValue;
    use tinygate::presets;
    use tinygate::presets::ModelKind;
    use tinygate::store::MemoryLog;
    use tinygate_testing::{
        Disturbance, Quiet, Script, ScriptedTrainer, Ticks, Trouble, created, live, short_policy,
    };

    const STAGE: &str = "video_tokenizer";

    /// A run that a signal stopped after 10 of the 40 updates of its first stage.
    fn interrupted() -> RunState {
        let log = MemoryLog::with([(0, created(short_policy(), 7))]);
        let directory = tempfile::tempdir().unwrap();
        let trainer = ScriptedTrainer::new(Script::new(1)).disturbed(Disturbance {
            stage: StageName::new(STAGE),
            after: 10,
            trouble: Trouble::Signal("SIGTERM".to_owned()),
        });
        let clock = Ticks::from(1);
        live(
            &log,
            directory.path(),
            &clock,
            Vec::new(),
            trainer,
            &mut Quiet,
        )
        .unwrap()
        .state
    }

    fn change(stage: &str, key: SettingKey, to: SettingValue) -> SettingChanged {
        SettingChanged {
            stage: Some(StageName::new(stage)),
            key,
            from: SettingValue::Count(0),
            to,
            who: "somebody".to_owned(),
            why: "command line".to_owned(),
        }
    }

    #[test]
    fn a_moved_target_is_said_with_the_rate_before_and_after() {
        let state = interrupted();
        let base = presets::settings(ModelKind::VideoTokenizer)
            .learning_rate
            .get();
        let rate = |whole: u64| number(learning_rate(10, whole, base));
        for target in [20, 400] {
            let changes = [change(
                STAGE,
                SettingKey::NUpdates,
                SettingValue::Count(target),
            )];
            let (before, after) = (rate(40), rate(target));
            let want = format!(
                "warning: `video_tokenizer.n_updates` changes the learning rate of `video_tokenizer` at update 11 \
                 from {before} to {after}"
            );
            assert_eq!(describe(&state, &changes), Some(want));
        }
    }

    #[test]
    fn what_does_not_move_the_present_rate_is_not_said() {
        let state = interrupted();
        let retries = change(STAGE, SettingKey::MaxRetries, SettingValue::Count(9));
        assert_eq!(describe(&state, &[retries]), None);
        assert_eq!(describe(&state, &[]), None);
        let later = change("dynamics", SettingKey::NUpdates, SettingValue::Count(90));
        assert_eq!(describe(&state, &[later]), None, "it has not begun");
    }
}
