//! `resume --retries N` after each kind of stop.

use super::build::*;
use crate::RunPhase;
use tinygate_events::*;

const VIDEO: ModelKind = ModelKind::VideoTokenizer;

fn stopped(change: impl Fn(&mut Policy), chunks: impl Fn(&mut Run)) -> Run {
    let mut policy = policy_of(VIDEO);
    policy.stages[0].settings.n_updates = 5000;
    change(&mut policy);
    let mut run = Run::start(policy);
    chunks(&mut run);
    assert!(
        matches!(run.state.phase, RunPhase::Stopped(_)),
        "{:?}",
        run.state.phase
    );
    run
}

fn gates(outcome: impl Fn(usize) -> Outcome, count: usize) -> impl Fn(&mut Run) {
    move |run| {
        for place in 0..count {
            run.gate(&outcome(place));
        }
    }
}

#[test]
fn after_too_many_failures_the_due_rung_is_applied() {
    let mut run = stopped(|_| {}, gates(|_| high(0.5), 6));
    let stop = pick!(run.log, GateDecided)
        .last()
        .unwrap()
        .resume_from
        .clone();
    let reopened = run.allow(1);
    assert_eq!(
        (reopened.decision, reopened.rung),
        (Action::Retune, Some(3))
    );
    assert_eq!(
        shown(&reopened.config_patch_applied),
        ["log_interval 5 -> 2"]
    );
    assert_eq!(
        reopened.resume_from, stop,
        "from the checkpoint of the stop"
    );
    let train = run.training();
    assert_eq!((train.from.get(), train.settings.log_interval), (600, 2));
    assert_eq!(run.stage().failures, 6, "failures are kept");
    assert_eq!(
        run.gate(&high(0.5)).decision,
        Action::Stop,
        "one more was allowed"
    );
    assert_eq!(run.allow(2).rung, Some(1));
    assert_eq!(run.gate(&high(0.5)).decision, Action::Retune);
    assert_eq!(run.gate(&high(0.5)).decision, Action::Stop);
}

#[test]
fn after_a_collapse_the_due_restart_happens() {
    let nan = Outcome {
        last: Some(f64::NAN),
        ..good()
    };
    let outcome = |place| if place == 0 { high(0.008) } else { nan.clone() };
    let mut run = stopped(|policy| policy.max_retries = 1, gates(outcome, 3));
    let reopened = run.allow(1);
    assert_eq!(reopened.decision, Action::RestartStage);
    assert_eq!(step_of(&reopened.resume_from), Some(100));
    let restart = reopened.restart.unwrap();
    assert_eq!(
        (restart.restart.get(), restart.cause),
        (2, RestartCause::NonFiniteLoss)
    );
    assert_eq!(run.training().restart.get(), 2);
}

#[test]
fn the_gate_that_stopped_counts_towards_lost_structure() {
    let lost = Outcome {
        structure_lost: true,
        ..good()
    };
    let mut policy = policy_of(ModelKind::Dynamics);
    policy.max_retries = 0;
    let mut run = Run::start(policy);
    run.gate(&lost);
    let reopened = run.allow(1);
    assert_eq!(reopened.decision, Action::Retune, "the first in a row");
    assert_eq!(run.gate(&lost).decision, Action::Stop);
    let reopened = run.allow(1);
    assert_eq!(reopened.decision, Action::RestartStage, "the second");
    let again = run.gate(&lost);
    assert_eq!(again.decision, Action::Stop);
    assert_eq!(
        run.allow(1).decision,
        Action::Retune,
        "a restart resets the count"
    );
}

#[test]
fn if_no_rung_applies_the_stage_continues_without_one() {
    let no_ladder = |policy: &mut Policy| policy.stages[0].ladder.clear();
    let mut run = stopped(no_ladder, gates(|_| high(0.5), 1));
    let reopened = run.allow(1);
    assert_eq!(
        (reopened.rung, reopened.config_patch_applied.len()),
        (None, 0)
    );
    assert_eq!(run.training().from.get(), 100);
    let at_target = |policy: &mut Policy| {
        policy.stages[0].ladder.clear();
        policy.stages[0].settings.n_updates = 100;
    };
    let mut run = stopped(at_target, gates(|_| high(0.5), 1));
    let reopened = run.allow(1);
    assert_eq!(
        shown(&reopened.config_patch_applied),
        ["n_updates 100 -> 200"]
    );
    let train = run.training();
    assert_eq!((train.from.get(), train.to.get()), (100, 200));
}

#[test]
fn after_too_many_extensions_one_more_is_allowed() {
    let forgetful = |policy: &mut Policy| {
        policy.max_retries = 1;
        policy.stages[0].settings.n_updates = 100;
    };
    let mut policy = policy_of(VIDEO);
    forgetful(&mut policy);
    let mut run = Run::start(policy);
    run.state.stages[0].extensions = 1;
    let gate = run.gate(&high(0.5));
    assert!(matches!(
        gate.stop,
        Some(StopReason::ExtensionsExceeded { .. })
    ));
    let reopened = run.allow(1);
    let want = ["learning_rate 0.001 -> 0.0005", "n_updates 100 -> 200"];
    assert_eq!(shown(&reopened.config_patch_applied), want);
}

#[test]
fn a_person_can_allow_more_extensions() {
    let mut policy = policy_of(VIDEO);
    policy.max_retries = 1;
    policy.stages[0].settings.n_updates = 100;
    let mut run = Run::start(policy);
    run.state.stages[0].extensions = 5;
    run.gate(&high(0.5));
    let reopened = run.allow(1);
    let want = ["learning_rate 0.001 -> 0.0005", "n_updates 100 -> 200"];
    assert_eq!(shown(&reopened.config_patch_applied), want);
    let train = run.training();
    assert_eq!((train.from.get(), train.to.get()), (100, 200));
}

#[test]
fn after_worker_failures_the_same_chunk_runs_again() {
    let exits = |run: &mut Run| {
        run.gate(&high(0.008));
        for _ in 0..4 {
            run.fail(70, exited());
        }
    };
    let mut run = stopped(|_| {}, exits);
    let reopened = run.allow(1);
    assert_eq!(
        (reopened.rung, reopened.config_patch_applied.len()),
        (None, 0)
    );
    let train = run.training();
    assert_eq!((train.chunk.get(), train.attempt.get()), (2, 5));
    assert_eq!(
        (train.from.get(), train.to.get(), train.start().get()),
        (100, 200, 150)
    );
    assert_eq!(run.fail(0, exited()).chunk_failures, 1, "in a row again");
    let gate = run.gate(&high(0.004));
    assert_eq!(gate.decision, Action::Continue);
}

#[test]
fn after_running_out_of_memory_the_due_halving_happens() {
    let memory = |run: &mut Run| {
        run.fail(10, out_of_memory());
    };
    let mut run = stopped(|policy| policy.max_retries = 0, memory);
    let reopened = run.allow(1);
    let want = [
        "batch_size_per_gpu 8 -> 4",
        "gradient_accumulation_steps 1 -> 2",
    ];
    assert_eq!(shown(&reopened.config_patch_applied), want);
    let train = run.training();
    let found = (train.attempt.get(), train.settings.batch_size_per_gpu);
    assert_eq!(found, (2, 4));
    let at_floor = |policy: &mut Policy| policy.stages[0].settings.batch_size_per_gpu = 1;
    let mut run = stopped(at_floor, memory);
    assert_eq!(
        run.allow(1).config_patch_applied,
        [],
        "at the minimum the batch is kept"
    );
    assert_eq!(run.training().attempt.get(), 2);
}

#[test]
fn after_interruptions_the_same_chunk_runs_again() {
    let mut policy = policy_of(VIDEO);
    policy.max_retries = 0;
    let mut run = Run::start(policy);
    for _ in 0..3 {
        run.report(process());
    }
    assert!(matches!(run.state.phase, RunPhase::Stopped(0)));
    run.allow(1);
    let train = run.training();
    assert_eq!((train.chunk.get(), train.attempt.get()), (1, 2));
}

#[test]
fn only_more_retries_reopen() {
    let base = || stopped(|_| {}, gates(|_| high(0.5), 6));
    let stays = |name: &str, event: Event| {
        let mut run = base();
        run.report(event);
        assert!(matches!(run.state.phase, RunPhase::Stopped(0)), "{name}");
    };
    let video = Some("video_tokenizer");
    stays(
        "as many as before",
        change(video, SettingKey::MaxRetries, count(5)),
    );
    stays("fewer", change(video, SettingKey::MaxRetries, count(4)));
    stays(
        "more than there are",
        change(video, SettingKey::MaxRetries, count(1 << 32)),
    );
    stays(
        "another stage's",
        change(Some("dynamics"), SettingKey::MaxRetries, count(9)),
    );
    stays(
        "another setting",
        change(video, SettingKey::NUpdates, count(9000)),
    );
    let mut run = base();
    run.report(change(None, SettingKey::MaxRetries, count(6)));
    assert_eq!(run.training().from.get(), 600, "the whole policy's");
}

#[test]
fn a_change_after_the_stage_but_before_the_run_has_stopped_reopens_too() {
    let mut run = stopped(|_| {}, gates(|_| high(0.5), 6));
    let last = run.log.pop().unwrap();
    assert_eq!(last.kind(), "run_stopped");
    let mut killed = Run {
        state: crate::RunState::empty(),
        log: Vec::new(),
    };
    for event in run.log {
        killed.append(event);
    }
    killed.append(process());
    killed.report(change(
        Some("video_tokenizer"),
        SettingKey::MaxRetries,
        count(6),
    ));
    assert_eq!(killed.training().from.get(), 600);
}

#[test]
fn other_changes_of_the_same_resume_apply() {
    let mut run = stopped(|_| {}, gates(|_| high(0.5), 6));
    let rate = SettingValue::Real(scalar(0.25));
    run.append(change(
        Some("video_tokenizer"),
        SettingKey::LearningRate,
        rate,
    ));
    run.allow(1);
    assert_eq!(run.training().settings.learning_rate, scalar(0.25));
}
