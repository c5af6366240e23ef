//! Whole runs with a scripted trainer, and their decisions gate by gate.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

use std::path::Path;

use tinygate::controller::{ControlError, Controller, Ending, Observer};
use tinygate::events::{
    Action, Event, Policy, Record, SettingChanged, SettingKey, SettingPatch, SettingValue,
    StageName, StopReason,
};
use tinygate::machine::rules::KNOWN;
use tinygate::machine::{Decision, Machine, Phase, RunPhase, RunState};
use tinygate::store::MemoryLog;
use tinygate::trainer::Progress;
use tinygate_testing::{
    ChunkPlan, Curve, Disturbance, Failure, Files, Life, Quiet, Script, ScriptedTrainer, Ticks,
    Trouble, created, live, short_policy,
};

const VIDEO: &str = "video_tokenizer";
const LATENT: &str = "latent_actions";
const DYNAMICS: &str = "dynamics";

fn video() -> ChunkPlan {
    ChunkPlan::good(tinygate::presets::ModelKind::VideoTokenizer)
}

fn latent() -> ChunkPlan {
    ChunkPlan::good(tinygate::presets::ModelKind::LatentActions)
}

fn dynamics() -> ChunkPlan {
    ChunkPlan::good(tinygate::presets::ModelKind::Dynamics)
}

/// A run whose directory does not exist, since scripted runs write no files.
struct Run {
    log: MemoryLog,
    directory: tempfile::TempDir,
    clock: Ticks,
}

impl Run {
    fn new() -> Run {
        Run::by(short_policy())
    }

    fn by(policy: Policy) -> Run {
        Run {
            log: MemoryLog::with([(0, created(policy, 7))]),
            directory: tempfile::tempdir().unwrap(),
            clock: Ticks::from(1_000),
        }
    }

    fn live(&self, trainer: ScriptedTrainer) -> Life {
        self.live_after(vec![], trainer)
    }

    fn live_after(&self, facts: Vec<Event>, trainer: ScriptedTrainer) -> Life {
        let directory: &Path = self.directory.path();
        live(
            &self.log,
            directory,
            &self.clock,
            facts,
            trainer,
            &mut Quiet,
        )
        .unwrap()
    }

    /// One line per gate, failure and reopening.
    fn decisions(&self) -> Vec<String> {
        self.log.records().iter().filter_map(line).collect()
    }
}

fn line(record: &Record) -> Option<String> {
    if let Event::GateDecided(gate) = &record.event {
        let failed: Vec<&str> = gate
            .criteria
            .iter()
            .filter(|result| result.verdict == tinygate::events::Verdict::Fail)
            .map(|result| result.name.as_str())
            .collect();
        let resume = gate.resume_from.as_ref().map_or("fresh".to_owned(), |at| {
            at.path.rsplit('/').next().unwrap_or_default().to_owned()
        });
        let mut line = format!(
            "{} {} {}",
            gate.stage,
            gate.gate_step,
            gate.decision.as_str()
        );
        if gate.decision != Action::Continue {
            line += &format!(
                " [{}] {} rung {:?}",
                failed.join(" "),
                patches(&gate.config_patch_applied),
                gate.rung
            );
            line += &format!(" from {resume}");
        }
        return Some(line);
    }
    if let Event::FailureDecided(failure) = &record.event {
        return Some(format!(
            "{} chunk {} attempt {} {:?}: {:?} {}",
            failure.stage,
            failure.chunk,
            failure.attempt,
            failure.cause,
            failure.answer,
            patches(&failure.patches)
        ));
    }
    if let Event::StageReopened(reopened) = &record.event {
        return Some(format!(
            "{} {} reopened {} rung {:?}",
            reopened.stage,
            reopened.gate_step,
            patches(&reopened.config_patch_applied),
            reopened.rung
        ));
    }
    None
}

fn patches(patches: &[SettingPatch]) -> String {
    let value = |value: SettingValue| match value {
        SettingValue::Count(count) => count.to_string(),
        SettingValue::Real(real) => real.to_string(),
    };
    let all: Vec<String> = patches
        .iter()
        .map(|patch| {
            format!(
                "{} {}->{}",
                patch.key.as_str(),
                value(patch.from),
                value(patch.to)
            )
        })
        .collect();
    format!("{{{}}}", all.join(", "))
}

#[track_caller]
fn check(name: &str, script: Script, ending: &Ending, want: &[&str]) -> (Run, RunState) {
    let run = Run::new();
    let life = run.live(ScriptedTrainer::new(script));
    assert_eq!(life.ending.unwrap(), *ending, "{name}");
    assert_eq!(run.decisions(), want, "{name}");
    (run, life.state)
}

#[test]
fn three_stages_pass_one_after_the_other() {
    let (run, state) = check(
        "nothing fails",
        Script::new(1),
        &Ending::Finished,
        &[
            "video_tokenizer 20 continue",
            "video_tokenizer 40 continue",
            "latent_actions 10 continue",
            "latent_actions 20 continue",
            "dynamics 30 continue",
            "dynamics 60 continue",
        ],
    );
    assert!(
        state
            .stages
            .iter()
            .all(|stage| matches!(stage.phase, Phase::Passed { .. }))
    );
    let upstream: Vec<&str> = state.stages[2]
        .upstream
        .iter()
        .map(|from| from.checkpoint.path.as_str())
        .collect();
    assert_eq!(
        upstream,
        [
            "video_tokenizer/checkpoints/video_tokenizer_step_40",
            "latent_actions/checkpoints/latent_actions_step_20"
        ]
    );
    let link = std::fs::read_link(run.directory.path().join("dynamics/best")).unwrap();
    assert_eq!(link, Path::new("checkpoints/dynamics_step_60"));
}

#[test]
fn a_failed_gate_at_the_target_is_retuned_and_extended() {
    let plateau = video().loss(Curve::flat(0.03));
    check(
        "a plateau, then half the rate helps",
        Script::new(1).chunk(VIDEO, 2, plateau),
        &Ending::Finished,
        &[
            "video_tokenizer 20 continue",
            "video_tokenizer 40 retune [loss_trend loss_latest] {learning_rate 0.001->0.0005, \
             n_updates 40->60} rung Some(1) from video_tokenizer_step_40",
            "video_tokenizer 60 continue",
            "latent_actions 10 continue",
            "latent_actions 20 continue",
            "dynamics 30 continue",
            "dynamics 60 continue",
        ],
    );
}

#[test]
fn collapsed_actions_climb_the_ladder_to_the_deferred_rung() {
    let collapsed = latent().collapsing();
    let script = (1..=3).fold(Script::new(1), |script, chunk| {
        script.chunk(LATENT, chunk, collapsed.clone())
    });
    let (_, state) = check(
        "three collapses, one for each rung",
        script,
        &Ending::Finished,
        &[
            "video_tokenizer 20 continue",
            "video_tokenizer 40 continue",
            "latent_actions 10 retune [unique_actions action_entropy] {learning_rate \
             0.0001->0.00008} rung Some(1) from latent_actions_step_10",
            "latent_actions 20 retune [unique_actions action_entropy] {n_updates 20->30} rung \
             Some(2) from latent_actions_step_20",
            "latent_actions 30 retune [unique_actions action_entropy] {n_updates 30->40} rung \
             Some(3) from latent_actions_step_30",
            "latent_actions 40 continue",
            "dynamics 30 continue",
            "dynamics 60 continue",
        ],
    );
    let deferred = state.stages[1].deferred.clone().unwrap();
    assert_eq!(
        (deferred.key, deferred.to),
        (SettingKey::knob("n_actions"), SettingValue::Count(2))
    );
}

const BUDGET_SPENT: [&str; 6] = [
    "video_tokenizer 20 retune [loss_latest] {learning_rate 0.001->0.0005} rung Some(1) from \
     video_tokenizer_step_20",
    "video_tokenizer 40 retune [loss_trend loss_latest] {gradient_accumulation_steps 1->2, \
     n_updates 40->60} rung Some(2) from video_tokenizer_step_40",
    "video_tokenizer 60 retune [loss_trend loss_latest] {log_interval 5->2, n_updates 60->80} \
     rung Some(3) from video_tokenizer_step_60",
    "video_tokenizer 80 retune [loss_trend loss_latest] {learning_rate 0.0005->0.00025, n_updates \
     80->100} rung Some(1) from video_tokenizer_step_80",
    "video_tokenizer 100 retune [loss_trend loss_latest] {gradient_accumulation_steps 2->3, \
     n_updates 100->120} rung Some(2) from video_tokenizer_step_100",
    "video_tokenizer 120 stop [loss_trend loss_latest] {} rung None from video_tokenizer_step_120",
];

#[test]
fn the_sixth_failure_stops_and_more_retries_apply_the_due_rung() {
    let hopeless = Script::new(1).stage(VIDEO, video().loss(Curve::flat(0.5)));
    let (run, state) = check("six failures", hopeless, &Ending::Stopped, &BUDGET_SPENT);
    let stopped = run
        .log
        .records()
        .into_iter()
        .find_map(|record| match record.event {
            Event::StageStopped(stopped) => Some(stopped),
            _ => None,
        })
        .unwrap();
    assert_eq!(
        stopped.reason,
        StopReason::RetriesExceeded {
            failures: 6,
            max_retries: 5
        }
    );
    let blocking: Vec<(&str, u32)> = stopped
        .blocking
        .iter()
        .map(|blocking| (blocking.criterion.as_str(), blocking.gates))
        .collect();
    assert_eq!(blocking, [("loss_trend", 5), ("loss_latest", 6)]);
    assert_eq!(state.stages[0].failures, 6);

    let life = run.live_after(
        vec![two_more_retries()],
        ScriptedTrainer::new(Script::new(1)),
    );
    assert_eq!(life.ending.unwrap(), Ending::Finished);
    assert_eq!(
        run.decisions()[6..8],
        [
            "video_tokenizer 120 reopened {log_interval 2->1, n_updates 120->140} rung Some(3)",
            "video_tokenizer 140 continue",
        ]
    );
}

/// The change that `resume --retries 2` makes.
fn two_more_retries() -> Event {
    Event::SettingChanged(SettingChanged {
        stage: Some(StageName::new(VIDEO)),
        key: SettingKey::MaxRetries,
        from: SettingValue::Count(5),
        to: SettingValue::Count(7),
        who: "a person".to_owned(),
        why: "resume --retries 2".to_owned(),
    })
}

#[test]
fn more_retries_work_wherever_the_stopping_process_crashed() {
    let hopeless = video().loss(Curve::flat(0.5));
    let stopped = Run::new();
    stopped.live(ScriptedTrainer::new(Script::new(1).stage(VIDEO, hopeless)));
    let whole = stopped.log.records();
    let gate = whole.iter().position(
        |record| matches!(&record.event, Event::GateDecided(gate) if gate.decision == Action::Stop),
    );
    // After the end of the chunk, the gate's decision, the stop of the stage, the stop of the run.
    for kept in gate.unwrap()..=whole.len() {
        let mut run = Run::new();
        let events = whole[..kept].iter();
        run.log = MemoryLog::with(events.map(|record| (record.time_ms, record.event.clone())));
        let trainer = ScriptedTrainer::new(Script::new(1));
        let life = run.live_after(vec![two_more_retries()], trainer);
        let last = whole[kept - 1].event.kind();
        assert_eq!(life.ending.unwrap(), Ending::Finished, "cut after {last}");
        assert_eq!(
            run.decisions()[6],
            "video_tokenizer 120 reopened {log_interval 2->1, n_updates 120->140} rung Some(3)",
            "cut after {last}"
        );
    }
}

/// The log and the state after a controller has caught up with a log cut after `kept` events.
fn caught_up(records: &[Record], kept: usize) -> (MemoryLog, RunState) {
    let events = records[..kept]
        .iter()
        .map(|record| (record.time_ms, record.event.clone()));
    let log = MemoryLog::with(events);
    let directory = tempfile::tempdir().unwrap();
    let mut controller = Controller::open(&log, directory.path(), || 5).unwrap();
    controller.catch_up(&mut Quiet).unwrap();
    let state = controller.state().clone();
    drop(controller);
    (log, state)
}

#[test]
fn a_resume_records_the_missing_stop() {
    let run = Run::new();
    run.live(ScriptedTrainer::new(
        Script::new(3).stage(VIDEO, video().loss(Curve::flat(0.5))),
    ));
    let records = run.log.records();
    let stop = records.iter().position(
        |record| matches!(&record.event, Event::GateDecided(gate) if gate.decision == Action::Stop),
    );
    let stop = stop.unwrap();
    for kept in stop + 1..records.len() {
        let (log, state) = caught_up(&records, kept);
        assert_eq!(state.phase, RunPhase::Stopped(0), "cut after {kept}");
        assert_eq!(log.records().len(), records.len(), "cut after {kept}");
    }
}

/// An observer that keeps the kinds of events.
struct Kinds(Vec<&'static str>);

impl Observer for Kinds {
    fn recorded(&mut self, record: &Record, _state: &RunState) {
        self.0.push(record.event.kind());
    }

    fn progressed(&mut self, _progress: &Progress) {}
}

#[test]
fn a_run_that_only_lacks_its_last_gate_ends_without_training() {
    let run = Run::new();
    run.live(ScriptedTrainer::new(Script::new(1)));
    let records = run.log.records();
    let end = records
        .iter()
        .rposition(|record| record.event.kind() == "chunk_finished");
    let events = records[..=end.unwrap()].iter();
    let log = MemoryLog::with(events.map(|record| (record.time_ms, record.event.clone())));
    let directory = tempfile::tempdir().unwrap();
    let mut controller = Controller::open(&log, directory.path(), || 5).unwrap();
    let mut heard = Kinds(Vec::new());
    controller.catch_up(&mut heard).unwrap();
    assert_eq!(controller.state().phase, RunPhase::Finished);
    let kept = ["gate_decided", "stage_passed", "run_finished"];
    let heard: Vec<&str> = heard
        .0
        .into_iter()
        .filter(|kind| kept.contains(kind))
        .collect();
    assert_eq!(heard, kept, "in order, each once");
    let best = directory.path().join(DYNAMICS).join("best");
    assert!(
        best.symlink_metadata().is_ok(),
        "it hands its checkpoint on"
    );
}

#[test]
fn a_due_rung_does_not_undo_a_changed_setting() {
    let run = Run::new();
    run.live(ScriptedTrainer::new(Script::new(3).chunk(
        VIDEO,
        1,
        video().loss(Curve::flat(0.5)),
    )));
    let records = run.log.records();
    let retune = records.iter().position(|record| {
        matches!(&record.event, Event::GateDecided(gate) if gate.decision == Action::Retune)
    });
    let kept = retune.unwrap() + 1;
    assert_eq!(records[kept].event.kind(), "patch_applied");
    let (log, state) = caught_up(&records, kept);
    let kinds: Vec<&str> = log.records()[kept..]
        .iter()
        .map(|record| record.event.kind())
        .collect();
    assert_eq!(kinds, ["patch_applied"], "the chunk is the next process's");
    let rate = state.stages[0].settings.learning_rate;
    let asked = SettingValue::Real(0.25.into());
    let directory = tempfile::tempdir().unwrap();
    let mut controller = Controller::open(&log, directory.path(), || 5).unwrap();
    let change = SettingChanged {
        stage: Some(StageName::new(VIDEO)),
        key: SettingKey::LearningRate,
        from: SettingValue::Real(rate),
        to: asked,
        who: "a person".to_owned(),
        why: "command line".to_owned(),
    };
    controller.record_changes([change]).unwrap();
    let machine = Machine::at(KNOWN, controller.state().clone());
    let Decision::Record(due) = machine.decide() else {
        panic!("no chunk is due");
    };
    let Event::ChunkStarted(started) = *due else {
        panic!("another decision is due");
    };
    assert_eq!(SettingValue::Real(started.settings.learning_rate), asked);
}

#[test]
fn a_nan_loss_restarts_from_the_best_passed_checkpoint() {
    let broken = video().loss(Curve::decay(0.1, 2.0).but(7, f64::NAN));
    let (_, state) = check(
        "NaN in the second chunk",
        Script::new(1).chunk(VIDEO, 2, broken),
        &Ending::Finished,
        &[
            "video_tokenizer 20 continue",
            "video_tokenizer 40 restart_stage [loss_finite loss_trend] {learning_rate \
             0.001->0.0005} rung Some(1) from video_tokenizer_step_20",
            "video_tokenizer 40 continue",
            "latent_actions 10 continue",
            "latent_actions 20 continue",
            "dynamics 30 continue",
            "dynamics 60 continue",
        ],
    );
    assert_eq!(state.stages[0].restart.get(), 1);
    let paths: Vec<&str> = state.stages[0]
        .lineage
        .all()
        .map(|checkpoint| checkpoint.reference.path.as_str())
        .filter(|path| path.contains("step_40"))
        .collect();
    assert_eq!(
        paths,
        [
            "video_tokenizer/checkpoints/video_tokenizer_step_40",
            "video_tokenizer/checkpoints/video_tokenizer_step_40_2"
        ]
    );
}

#[test]
fn lost_structure_at_two_consecutive_gates_restarts() {
    let lost = dynamics().picture(4, 2);
    check(
        "half of the frames have lost their structure, twice",
        Script::new(1)
            .chunk(DYNAMICS, 1, lost.clone())
            .chunk(DYNAMICS, 2, lost),
        &Ending::Finished,
        &[
            "video_tokenizer 20 continue",
            "video_tokenizer 40 continue",
            "latent_actions 10 continue",
            "latent_actions 20 continue",
            "dynamics 30 retune [visual_structure] {learning_rate 0.01->0.002} rung Some(1) from \
             dynamics_step_30",
            "dynamics 60 restart_stage [visual_structure] {log_interval 10->5} rung Some(3) from \
             fresh",
            "dynamics 30 continue",
            "dynamics 60 continue",
        ],
    );
}

#[test]
fn rejected_and_missing_checkpoints_never_pass_a_gate() {
    check(
        "the gate's is too small, so the newest on the way is resumed from",
        Script::new(1).chunk(VIDEO, 2, video().checkpoints(Files::Sound, Files::Small)),
        &Ending::Finished,
        &[
            "video_tokenizer 20 continue",
            "video_tokenizer 40 retune [checkpoint_valid] {learning_rate 0.001->0.0005} rung \
             Some(1) from video_tokenizer_step_36",
            "video_tokenizer 40 continue",
            "latent_actions 10 continue",
            "latent_actions 20 continue",
            "dynamics 30 continue",
            "dynamics 60 continue",
        ],
    );
    check(
        "none was ever written, so the stage starts fresh",
        Script::new(1).chunk(
            VIDEO,
            1,
            video().checkpoints(Files::NotWritten, Files::NotWritten),
        ),
        &Ending::Finished,
        &[
            "video_tokenizer 20 restart_stage [checkpoint_valid] {learning_rate 0.001->0.0005} \
             rung Some(1) from fresh",
            "video_tokenizer 20 continue",
            "video_tokenizer 40 continue",
            "latent_actions 10 continue",
            "latent_actions 20 continue",
            "dynamics 30 continue",
            "dynamics 60 continue",
        ],
    );
}

#[test]
fn out_of_memory_halves_the_batch_and_resumes_within_the_chunk() {
    let (run, state) = check(
        "once",
        Script::new(1).attempt(DYNAMICS, 1, 1, dynamics().failing(10, Failure::OutOfMemory)),
        &Ending::Finished,
        &[
            "video_tokenizer 20 continue",
            "video_tokenizer 40 continue",
            "latent_actions 10 continue",
            "latent_actions 20 continue",
            "dynamics chunk 1 attempt 1 OutOfMemory: RunAgain {batch_size_per_gpu 8->4, \
             gradient_accumulation_steps 1->2}",
            "dynamics 30 continue",
            "dynamics 60 continue",
        ],
    );
    assert_eq!(state.stages[2].failures, 1);
    let again = run
        .log
        .records()
        .into_iter()
        .find_map(|record| match record.event {
            Event::ChunkStarted(started) if started.attempt.get() == 2 => Some(started),
            _ => None,
        })
        .unwrap();
    assert_eq!(again.resume_from.unwrap().step.get(), 6);
    assert_eq!((again.from.get(), again.to.get()), (0, 30));
    assert_eq!(again.samples_seen, 48);
}

#[test]
fn a_worker_may_exit_three_consecutive_times() {
    let exits = |times: u32| {
        (1..=times).fold(Script::new(1), |script, attempt| {
            let plan = video().failing(3 + u64::from(attempt), Failure::WorkerExited);
            script.attempt(VIDEO, 1, attempt, plan)
        })
    };
    let again =
        |attempt| format!("video_tokenizer chunk 1 attempt {attempt} WorkerExited: RunAgain {{}}");
    let three = [again(1), again(2), again(3)];

    let run = Run::new();
    let life = run.live(ScriptedTrainer::new(exits(3)));
    assert_eq!(life.ending.unwrap(), Ending::Finished);
    assert_eq!(run.decisions()[..3], three);
    assert_eq!(run.decisions()[3], "video_tokenizer 20 continue");
    assert_eq!(
        life.state.stages[0].failures, 0,
        "it is not a failure of the stage"
    );

    let run = Run::new();
    let life = run.live(ScriptedTrainer::new(exits(4)));
    assert_eq!(life.ending.unwrap(), Ending::Stopped);
    assert_eq!(run.decisions()[..3], three);
    assert_eq!(
        run.decisions()[3..],
        [
            "video_tokenizer chunk 1 attempt 4 WorkerExited: Stop {}",
            "video_tokenizer 7 stop [] {} rung None from video_tokenizer_step_4",
        ]
    );
}

/// Runs with one disturbance and then to the end.
fn disturbed(trouble: Trouble, after: u64) -> (Run, Life, Life, Life) {
    let whole = Run::new();
    let undisturbed = whole.live(ScriptedTrainer::new(Script::new(1)));
    let run = Run::new();
    let trainer = ScriptedTrainer::new(Script::new(1));
    let first = run.live(trainer.disturbed(Disturbance::new(VIDEO, after, trouble)));
    let second = run.live(ScriptedTrainer::new(Script::new(1)));
    assert_eq!(run.decisions(), whole.decisions());
    (run, first, second, undisturbed)
}

#[test]
fn a_signal_leaves_a_checkpoint_from_which_the_chunk_resumes() {
    let (run, first, second, _) = disturbed(Trouble::Signal("SIGTERM".to_owned()), 27);
    let signal = "SIGTERM".to_owned();
    assert_eq!(first.ending.unwrap(), Ending::Interrupted { signal });
    assert_eq!(second.ending.unwrap(), Ending::Finished);
    let superseded = run
        .log
        .records()
        .into_iter()
        .find_map(|record| match record.event {
            Event::SamplesSuperseded(superseded) => Some(superseded),
            _ => None,
        })
        .unwrap();
    assert_eq!(superseded.after.get(), 27);
    assert_eq!((superseded.chunk.get(), superseded.attempt.get()), (2, 1));
}

#[test]
fn a_full_disk_is_not_counted_as_a_failure() {
    let (_, first, second, undisturbed) =
        disturbed(Trouble::Environment("no space left".to_owned()), 27);
    let detail = "no space left".to_owned();
    assert_eq!(first.ending.unwrap(), Ending::Environment { detail });
    assert_eq!(
        second.state.without_process(),
        undisturbed.state.without_process()
    );
    assert_eq!(second.state.process.interruptions, 0);
}

#[test]
fn a_kill_does_not_change_the_result() {
    let (_, first, second, undisturbed) = disturbed(Trouble::Killed, 27);
    assert!(matches!(first.ending, Err(ControlError::TrainerLost)));
    assert_eq!(
        second.state.without_process(),
        undisturbed.state.without_process()
    );
}

#[test]
fn a_chunk_killed_three_times_without_a_checkpoint_counts_as_one_failure() {
    let run = Run::new();
    for _ in 0..3 {
        let trainer = ScriptedTrainer::new(Script::new(1));
        run.live(trainer.disturbed(Disturbance::new(VIDEO, 22, Trouble::Killed)));
    }
    let life = run.live(ScriptedTrainer::new(Script::new(1)));
    assert_eq!(life.ending.unwrap(), Ending::Finished);
    assert_eq!(
        run.decisions()[..3],
        [
            "video_tokenizer 20 continue",
            "video_tokenizer chunk 2 attempt 1 Interrupted: RunAgain {}",
            "video_tokenizer 40 continue"
        ]
    );
    assert_eq!(life.state.stages[0].failures, 1);
}
