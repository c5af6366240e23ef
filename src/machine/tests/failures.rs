//! Chunks that fail without a gate.

use super::build::*;
use crate::{Checkpoint, Command, Judgement, RunPhase, RunState};
use tinygate_events::*;

fn run_of(model: ModelKind, change: impl Fn(&mut Policy)) -> Run {
    let mut policy = policy_of(model);
    change(&mut policy);
    Run::start(policy)
}

fn batch(batch: u32, accumulation: u32) -> impl Fn(&mut Policy) {
    move |policy| {
        let settings = &mut policy.stages[0].settings;
        settings.batch_size_per_gpu = batch;
        settings.gradient_accumulation_steps = accumulation;
    }
}

fn stage_stop(run: &Run) -> StopReason {
    let stopped = pick!(run.log, StageStopped).last();
    stopped.expect("the stage has not stopped").reason.clone()
}

/// Checks how running out of memory changes batch, accumulation and windows per update.
#[track_caller]
fn check_memory(
    name: &str,
    model: ModelKind,
    (size, accumulation): (u32, u32),
    want: Option<(&[&str], (u64, u64))>,
) {
    let mut run = run_of(model, batch(size, accumulation));
    let decided = run.fail(10, out_of_memory());
    assert_eq!(decided.failures, 1, "{name}: it counts as a failure");
    assert_eq!(decided.chunk_failures, 0, "{name}");
    assert_eq!(run.stage().cursor, 0, "{name}: the cursor stays");
    match want {
        Some((patches, (before, after))) => {
            assert_eq!(decided.answer, FailureAnswer::RunAgain, "{name}");
            assert_eq!(shown(&decided.patches), patches, "{name}");
            let effective = EffectiveBatch { before, after };
            assert_eq!(decided.effective_batch, Some(effective), "{name}");
            let settings = run.training().settings;
            let now = u64::from(settings.batch_size_per_gpu)
                * u64::from(settings.gradient_accumulation_steps);
            assert_eq!(now, after, "{name}");
        }
        None => {
            assert_eq!(decided.answer, FailureAnswer::Stop, "{name}");
            let floor = StopReason::OutOfMemoryAtFloor {
                batch_size_per_gpu: size,
            };
            assert_eq!(stage_stop(&run), floor, "{name}");
        }
    }
}

#[test]
fn out_of_memory_halves_the_batch() {
    use ModelKind::{Dynamics, LatentActions, VideoTokenizer};
    fn both(size: &str, accumulation: &str) -> [String; 2] {
        [
            format!("batch_size_per_gpu {size}"),
            format!("gradient_accumulation_steps {accumulation}"),
        ]
    }
    #[track_caller]
    fn row(
        name: &str,
        model: ModelKind,
        now: (u32, u32),
        patches: &[String],
        effective: (u64, u64),
    ) {
        let patches: Vec<&str> = patches.iter().map(String::as_str).collect();
        check_memory(name, model, now, Some((&patches, effective)));
    }
    row(
        "half, twice as often",
        VideoTokenizer,
        (8, 1),
        &both("8 -> 4", "1 -> 2"),
        (8, 8),
    );
    row(
        "an odd one takes more",
        Dynamics,
        (5, 1),
        &both("5 -> 2", "1 -> 3"),
        (5, 6),
    );
    row(
        "down to one",
        VideoTokenizer,
        (2, 3),
        &both("2 -> 1", "3 -> 6"),
        (6, 6),
    );
    row(
        "latent actions keep two",
        LatentActions,
        (3, 2),
        &both("3 -> 2", "2 -> 3"),
        (6, 6),
    );
    row(
        "past the ladder's bound too",
        Dynamics,
        (8, 60),
        &both("8 -> 4", "60 -> 120"),
        (480, 480),
    );
    check_memory("one is the minimum", VideoTokenizer, (1, 1), None);
    check_memory(
        "two is the minimum of latent actions",
        LatentActions,
        (2, 1),
        None,
    );
    check_memory("below it too", LatentActions, (1, 1), None);
}

#[test]
fn repeated_halving_does_not_raise_the_effective_batch() {
    let mut run = run_of(ModelKind::VideoTokenizer, batch(5, 1));
    let first = run.fail(10, out_of_memory());
    assert_eq!(
        first.effective_batch,
        Some(EffectiveBatch {
            before: 5,
            after: 6
        })
    );
    let second = run.fail(10, out_of_memory());
    let want = [
        "batch_size_per_gpu 2 -> 1",
        "gradient_accumulation_steps 3 -> 5",
    ];
    assert_eq!(shown(&second.patches), want);
    // A rung, a fallback and a person change it.
    let granted = Event::FallbackGranted(FallbackGranted {
        ranks_wanted: 3,
        ranks_available: 1,
        accumulation_factor: 3,
        granted_by: "config".to_owned(),
    });
    let mut run = run_of(ModelKind::VideoTokenizer, batch(5, 1));
    run.append(granted);
    run.fail(10, out_of_memory());
    assert_eq!(run.training().settings.gradient_accumulation_steps, 8);
    let key = SettingKey::GradientAccumulationSteps;
    run.append(change(Some("video_tokenizer"), key, count(10)));
    run.fail(10, out_of_memory());
    assert_eq!(run.training().settings.gradient_accumulation_steps, 20);
}

#[test]
fn a_failed_chunk_runs_again_from_its_newest_checkpoint() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    run.gate(&high(0.008));
    run.fail(70, out_of_memory());
    let train = run.training();
    assert_eq!((train.chunk.get(), train.attempt.get()), (2, 2));
    assert_eq!(
        (train.from.get(), train.to.get(), train.start().get()),
        (100, 200, 150)
    );
    let gate = run.gate(&high(0.006));
    assert_eq!(
        (gate.chunk.get(), gate.attempt.get(), gate.decision),
        (2, 2, Action::Continue)
    );
    let samples = gate
        .metrics
        .iter()
        .find(|metric| metric.name == "gate_loss");
    let mean = samples
        .and_then(|metric| metric.value)
        .map(Scalar::get)
        .unwrap();
    let kept = 0.005_f64.min(mean) < mean && mean < 0.006;
    assert!(
        kept,
        "50 updates of the first attempt count, 50 of the second: {mean}"
    );
    let trend = gate
        .criteria
        .iter()
        .find(|result| result.name == "loss_trend");
    assert!(
        trend.is_some_and(|trend| trend.verdict == Verdict::Pass),
        "{trend:?}"
    );
}

#[test]
fn a_chunk_runs_again_after_three_consecutive_worker_failures() {
    let timed_out = ChunkFailure::WorkerTimedOut {
        seconds: 60,
        stderr: String::new(),
    };
    let unloadable = ChunkFailure::CheckpointUnloadable {
        path: String::new(),
        detail: String::new(),
    };
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    for (place, failure) in [exited(), timed_out, unloadable].into_iter().enumerate() {
        let decided = run.fail(10, failure);
        let found = (decided.answer, decided.failures, decided.chunk_failures);
        assert_eq!(found, (FailureAnswer::RunAgain, 0, place as u32 + 1));
        assert_eq!(decided.patches, [], "unchanged");
    }
    let decided = run.fail(10, exited());
    assert_eq!(decided.answer, FailureAnswer::Stop, "the fourth");
    let exceeded = StopReason::ChunkFailuresExceeded {
        failures: 4,
        max_chunk_failures: 3,
    };
    assert_eq!(stage_stop(&run), exceeded);
}

#[test]
fn a_finished_chunk_resets_the_count() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    for _ in 0..3 {
        run.fail(10, exited());
    }
    run.gate(&high(0.008));
    assert_eq!(run.fail(10, exited()).chunk_failures, 1);
}

#[test]
fn a_stop_without_a_gate_is_recorded_as_a_gate_decision() {
    let mut run = run_of(ModelKind::VideoTokenizer, batch(1, 1));
    run.gate(&high(0.5));
    run.fail(70, out_of_memory());
    let gate = pick!(run.log, GateDecided).last().unwrap();
    assert_eq!((gate.decision, gate.gate_step.get()), (Action::Stop, 170));
    assert_eq!(step_of(&gate.resume_from), Some(150));
    assert_eq!((gate.metrics.len(), gate.criteria.len()), (0, 0));
    let stopped = pick!(run.log, StageStopped).last().unwrap();
    assert_eq!(stopped.best, Some(checkpoint("video_tokenizer", 100)));
    assert_eq!(stopped.blocking, [], "no gate is the cause");
}

#[test]
fn too_many_failures_stop_whatever_their_kind() {
    let mut run = run_of(ModelKind::VideoTokenizer, |policy| policy.max_retries = 1);
    run.gate(&high(0.5));
    let decided = run.fail(10, out_of_memory());
    assert_eq!(
        (decided.answer, decided.patches.len()),
        (FailureAnswer::Stop, 0)
    );
    let exceeded = StopReason::RetriesExceeded {
        failures: 2,
        max_retries: 1,
    };
    assert_eq!(stage_stop(&run), exceeded);
    let stopped = pick!(run.log, StageStopped).last().unwrap();
    let blocking = &stopped.blocking[..];
    let [known] = blocking else {
        panic!("{blocking:?}");
    };
    assert_eq!((known.criterion.as_str(), known.gates), ("loss_latest", 1));
}

#[test]
fn as_many_failures_as_retries_are_allowed() {
    let mut run = run_of(ModelKind::VideoTokenizer, |policy| policy.max_retries = 1);
    let decided = run.fail(10, out_of_memory());
    assert_eq!(
        (decided.answer, decided.failures),
        (FailureAnswer::RunAgain, 1)
    );
    let mut run = run_of(ModelKind::VideoTokenizer, |policy| {
        policy.max_retries = 1;
        policy.stages[0].settings.batch_size_per_gpu = 1;
    });
    run.fail(10, out_of_memory());
    let floor = StopReason::OutOfMemoryAtFloor {
        batch_size_per_gpu: 1,
    };
    assert_eq!(stage_stop(&run), floor, "the minimum batch causes the stop");
}

#[test]
fn a_checkpoint_found_damaged_is_not_started_from_again() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    run.gate(&high(0.008));
    let train = run.training();
    let start = train.resume.clone().unwrap().checkpoint;
    run.report(judged(&train.stage, &start, false));
    run.fail(
        0,
        ChunkFailure::CheckpointUnloadable {
            path: start.path,
            detail: "it is damaged".to_owned(),
        },
    );
    let again = run.training();
    let found = (again.chunk.get(), again.from.get(), again.to.get());
    assert_eq!(
        found,
        (3, 50, 150),
        "a new chunk, from an earlier checkpoint"
    );
}

/// The start of the second chunk, the only checkpoint that is left, turns out to be damaged.
fn lose_start(run: &mut Run) -> FailureDecided {
    let train = run.training();
    let start = train.resume.unwrap().checkpoint;
    run.append(judged(&train.stage, &start, false));
    run.fail(
        0,
        ChunkFailure::CheckpointUnloadable {
            path: start.path,
            detail: "it is damaged".to_owned(),
        },
    )
}

/// A run that has only the checkpoint at the first gate.
fn one_checkpoint(change: impl Fn(&mut Policy)) -> Run {
    let mut run = run_of(ModelKind::VideoTokenizer, |policy| {
        policy.keep_last = 0;
        change(policy);
    });
    run.gate(&high(0.008));
    run
}

#[test]
fn without_any_checkpoint_the_stage_restarts_by_a_recorded_decision() {
    let mut run = one_checkpoint(|_| {});
    let decided = lose_start(&mut run);
    let found = (decided.answer, decided.failures, decided.chunk_failures);
    assert_eq!(found, (FailureAnswer::RunAgain, 0, 1));
    let gate = pick!(run.log, GateDecided).last().unwrap();
    assert_eq!(gate.decision, Action::RestartStage);
    assert_eq!((gate.chunk.get(), gate.gate_step.get()), (2, 100));
    assert_eq!(
        (gate.failures, gate.rung),
        (1, Some(1)),
        "one failure, one rung"
    );
    assert_eq!((&gate.resume_from, gate.criteria.len()), (&None, 0));
    let restart = gate.restart.as_ref().unwrap();
    assert_eq!(restart.cause, RestartCause::NoAcceptedCheckpoint);
    let abandoned: Vec<u32> = restart.abandoned.iter().map(|chunk| chunk.get()).collect();
    assert_eq!(abandoned, [1, 2]);
    let train = run.training();
    let found = (train.chunk.get(), train.from.get(), train.restart.get());
    assert_eq!(found, (3, 0, 1));
    assert_eq!(train.settings.learning_rate, scalar(5e-4));
    assert_eq!(train.resume, None);
    assert_eq!(run.gate(&high(0.008)).decision, Action::Continue);
}

#[test]
fn losing_a_given_checkpoint_is_recorded() {
    let mut created = created(policy_of(ModelKind::VideoTokenizer));
    created.init_from = vec![InitFrom {
        stage: StageName::new("video_tokenizer"),
        checkpoint: checkpoint("given", 40),
        files: Vec::new(),
        fresh_optimizer: false,
    }];
    let mut run = Run::create(created);
    assert_eq!(run.training().from.get(), 40);
    lose_start(&mut run);
    let gate = pick!(run.log, GateDecided).last().unwrap();
    assert_eq!((gate.decision, gate.failures), (Action::RestartStage, 1));
    let train = run.training();
    assert_eq!((train.from.get(), train.restart.get()), (0, 1));
}

#[test]
fn a_kill_before_the_failure_is_reported_gives_the_same_decision() {
    let mut whole = one_checkpoint(|_| {});
    lose_start(&mut whole);
    let mut killed = one_checkpoint(|_| {});
    let train = killed.training();
    let start = train.resume.unwrap().checkpoint;
    killed.append(judged(&train.stage, &start, false));
    killed.report(process());
    assert!(whole.state.without_process() == killed.state.without_process());
    assert!(!killed.kinds().contains(&"samples_superseded"));
}

#[test]
fn a_restart_without_a_checkpoint_counts_as_a_failure() {
    let mut run = one_checkpoint(|policy| policy.max_retries = 0);
    lose_start(&mut run);
    let exceeded = StopReason::RetriesExceeded {
        failures: 1,
        max_retries: 0,
    };
    assert_eq!(stage_stop(&run), exceeded);
    let reopened = run.allow(1);
    assert_eq!(
        (reopened.decision, reopened.rung),
        (Action::RestartStage, Some(1))
    );
    assert_eq!(reopened.restart.unwrap().restart.get(), 1);
    let train = run.training();
    let found = (train.chunk.get(), train.from.get(), train.restart.get());
    assert_eq!(found, (3, 0, 1));
    assert_eq!(run.stage().failures, 1, "it is counted once");
}

#[test]
fn a_fresh_chunk_that_fails_is_run_again_without_a_restart() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    run.fail(10, exited());
    let train = run.training();
    let found = (train.chunk.get(), train.attempt.get(), train.restart.get());
    assert_eq!(found, (1, 2, 0));
    assert_eq!(run.stage().failures, 0);
}

// ------------------------------------------------------------ interruptions

/// Kills the process in the current chunk, after some of its facts.
fn kill(run: &mut Run, facts_before: usize) {
    let command = run.command().unwrap();
    for fact in facts(&command, |_| good()).into_iter().take(facts_before) {
        run.report(fact);
    }
    run.report(process());
}

fn failures(run: &Run) -> Vec<FailureCause> {
    pick!(run.log, FailureDecided)
        .map(|decided| decided.cause)
        .collect()
}

#[test]
fn three_interruptions_without_a_checkpoint_are_one_failure() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    kill(&mut run, 1);
    kill(&mut run, 1);
    assert_eq!(failures(&run), [], "two are not a failure");
    assert_eq!(
        run.training().attempt.get(),
        1,
        "the same attempt continues"
    );
    kill(&mut run, 1);
    assert_eq!(failures(&run), [FailureCause::Interrupted]);
    assert_eq!(run.stage().failures, 1);
    assert_eq!(run.training().attempt.get(), 2);
    kill(&mut run, 1);
    kill(&mut run, 1);
    assert_eq!(failures(&run).len(), 1, "the count starts again");
    kill(&mut run, 1);
    assert_eq!(failures(&run).len(), 2);
}

#[test]
fn a_new_checkpoint_resets_the_count() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    kill(&mut run, 0);
    kill(&mut run, 0);
    // Metrics, a checkpoint and its verdict: the chunk can resume from it.
    kill(&mut run, 3);
    assert_eq!(failures(&run), []);
    assert_eq!(run.training().start().get(), 50);
    kill(&mut run, 0);
    assert_eq!(failures(&run), []);
    kill(&mut run, 0);
    assert_eq!(failures(&run), [FailureCause::Interrupted]);
}

#[test]
fn a_checkpoint_that_was_not_judged_in_time_is_judged_first() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    kill(&mut run, 0);
    kill(&mut run, 0);
    kill(&mut run, 2);
    let Some(command @ Command::JudgeCheckpoint(_)) = run.command() else {
        panic!("not judged: {:?}", run.command());
    };
    assert_eq!(failures(&run), []);
    run.obey(&command, |_| good());
    assert_eq!(failures(&run), [], "it is a new checkpoint");
    assert_eq!(run.training().start().get(), 50);
}

#[test]
fn a_rejected_checkpoint_does_not_reset_the_count() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    kill(&mut run, 0);
    kill(&mut run, 0);
    kill(&mut run, 2);
    let stage = run.stage().name().clone();
    run.report(judged(&stage, &checkpoint(stage.as_str(), 50), false));
    assert_eq!(failures(&run), [FailureCause::Interrupted]);
    let train = run.training();
    assert_eq!(train.resume, None);
    assert_eq!(
        train.taken,
        [checkpoint(stage.as_str(), 50).path],
        "another attempt"
    );
}

#[test]
fn a_recorded_interruption_is_not_counted() {
    let signal = InterruptReason::Signal {
        name: "SIGTERM".to_owned(),
    };
    let environment = InterruptReason::Environment {
        detail: "the disk is full".to_owned(),
    };
    for reason in [signal, environment] {
        let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
        for _ in 0..5 {
            let reason = reason.clone();
            run.report(Event::RunInterrupted(RunInterrupted { reason }));
            kill(&mut run, 0);
        }
        assert_eq!(failures(&run), [], "{reason:?}");
        assert_eq!(run.stage().failures, 0, "{reason:?}");
    }
}

#[test]
fn interruptions_at_a_gate_do_not_count() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    let facts = facts(&run.command().unwrap(), |_| good());
    for fact in facts {
        run.append(fact);
    }
    for _ in 0..5 {
        run.append(process());
    }
    run.settle();
    assert_eq!(failures(&run), []);
    assert_eq!(run.training().chunk.get(), 2);
    kill(&mut run, 0);
    kill(&mut run, 0);
    assert_eq!(failures(&run), []);
}

/// A stage that starts from a checkpoint given by the user, under these rules.
fn begun_from_given(rules: u32) -> Run {
    let mut created = created(policy_of(ModelKind::VideoTokenizer));
    created.rules = rules;
    created.init_from = vec![InitFrom {
        stage: StageName::new("video_tokenizer"),
        checkpoint: checkpoint("given", 40),
        files: Vec::new(),
        fresh_optimizer: false,
    }];
    Run::create(created)
}

#[test]
fn a_restart_goes_back_to_the_given_checkpoint() {
    let nan = Outcome {
        last: Some(f64::NAN),
        ..good()
    };
    let start = |rules| {
        let mut run = begun_from_given(rules);
        let gate = run.gate(&nan);
        assert_eq!(gate.decision, Action::RestartStage);
        let from = gate.resume_from.map(|checkpoint| checkpoint.step.get());
        let train = run.training();
        let train = (train.from.get(), train.restart.get());
        (from, train, gate.restart.map(|restart| restart.cause))
    };
    let cause = Some(RestartCause::NonFiniteLoss);
    assert_eq!(
        start(1),
        (None, (0, 1), cause),
        "rules version 1 start fresh"
    );
    assert_eq!(start(2), (Some(40), (40, 1), cause));
}

#[test]
fn a_restart_prefers_a_checkpoint_whose_gate_passed_to_the_given_one() {
    let nan = Outcome {
        last: Some(f64::NAN),
        ..good()
    };
    let mut run = begun_from_given(2);
    let passed = run.gate(&high(0.008)).gate_step;
    let from = run.gate(&nan).resume_from.map(|checkpoint| checkpoint.step);
    assert_eq!(from, Some(passed));
}

#[test]
fn a_restart_without_the_given_checkpoint_starts_fresh() {
    let nan = Outcome {
        last: Some(f64::NAN),
        ..good()
    };
    let mut run = begun_from_given(2);
    let given = run.training().resume.unwrap().checkpoint;
    run.append(judged(&StageName::new("video_tokenizer"), &given, false));
    assert_eq!(run.gate(&nan).resume_from, None);
}

fn give_up(run: &mut Run, checkpoint: &CheckpointRef) {
    run.append(Event::CheckpointGivenUp(CheckpointGivenUp {
        stage: StageName::new("video_tokenizer"),
        checkpoint: checkpoint.clone(),
        who: "somebody".to_owned(),
        why: "its files are gone".to_owned(),
    }));
}

/// The newest accepted checkpoint of the current stage.
fn newest(run: &Run) -> CheckpointRef {
    run.stage()
        .lineage
        .newest_accepted()
        .unwrap()
        .reference
        .clone()
}

#[test]
fn a_checkpoint_that_a_person_gives_up_is_replaced_by_an_older_one() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    run.gate(&high(0.008));
    let gone = run.training().resume.unwrap().checkpoint;
    // The process found that it is gone and ended; the next one starts.
    give_up(&mut run, &gone);
    let older = newest(&run);
    assert!(older.step < gone.step, "an older one is left");
    run.report(process());
    let train = run.training();
    assert_eq!(train.from, older.step);
    assert_eq!(train.resume.unwrap().checkpoint, older);
    assert_eq!(train.restart, Restart::FIRST, "no restart");
    let judgement = &run.stage().lineage.find(&gone).unwrap().judgement;
    let Judgement::Rejected(rejection) = judgement else {
        panic!("{judgement:?}");
    };
    assert_eq!(rejection.code, "given_up");
    assert!(rejection.text.contains("somebody"), "{}", rejection.text);
    run.finish(|train| high(0.7 / train.to.get() as f64));
    assert_eq!(run.state.phase, RunPhase::Finished);
}

#[test]
fn a_checkpoint_given_up_before_its_chunk_starts_is_replaced_too() {
    let cut = |target: u64| {
        let mut run = run_of(ModelKind::VideoTokenizer, |policy| {
            policy.stages[0].settings.n_updates = target;
        });
        run.gate(&high(0.008));
        // The state that a process leaves if it ends after the gate.
        let end = run
            .log
            .iter()
            .position(|event| matches!(event, Event::GateDecided(_)))
            .unwrap();
        let mut state = RunState::empty();
        let log: Vec<Event> = run.log.drain(..=end).collect();
        for event in &log {
            apply(&mut state, event);
        }
        Run { state, log }
    };
    for (name, target) in [("before a chunk", 300), ("before handing on", 100)] {
        let mut run = cut(target);
        let gone = newest(&run);
        give_up(&mut run, &gone);
        run.report(process());
        let train = run.training();
        let resumed = train.resume.unwrap().checkpoint;
        assert!(resumed.step < gone.step, "{name}");
        assert_eq!(train.from, resumed.step, "{name}");
        run.finish(|train| high(0.7 / train.to.get() as f64));
        assert_eq!(run.state.phase, RunPhase::Finished, "{name}");
    }
}

#[test]
fn a_checkpoint_that_waits_for_its_verdict_can_be_given_up() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    run.gate(&high(0.008));
    let train = run.training();
    let start = newest(&run);
    let unjudged = checkpoint(train.stage.as_str(), train.from.get() + 50);
    run.append(written(&train, &unjudged, true));
    run.report(process());
    assert!(matches!(run.command(), Some(Command::JudgeCheckpoint(_))));
    give_up(&mut run, &unjudged);
    run.settle();
    assert_eq!(run.training().resume.unwrap().checkpoint, start);
}

#[test]
fn giving_up_an_unknown_checkpoint_changes_nothing() {
    let mut run = run_of(ModelKind::VideoTokenizer, |_| {});
    run.gate(&high(0.008));
    let before = run.state.clone();
    give_up(&mut run, &checkpoint("elsewhere", 7));
    assert!(run.state == before);
}

fn prune(run: &mut Run, keep_last: u32) -> Vec<String> {
    let before = run.log.len();
    run.report(Event::PruneRequested(PruneRequested {
        keep_last,
        who: "somebody".to_owned(),
    }));
    let deleted = pick!(run.log[before..], CheckpointDeleted);
    deleted
        .map(|deleted| deleted.checkpoint.path.clone())
        .collect()
}

/// Three gates passed, each with a checkpoint before it.
fn with_many_checkpoints() -> Run {
    let mut run = run_of(ModelKind::VideoTokenizer, |policy| {
        policy.keep_last = 5;
        policy.stages[0].settings.n_updates = 500;
    });
    for loss in [0.009, 0.008, 0.007] {
        run.gate(&high(loss));
    }
    run
}

#[test]
fn pruning_deletes_what_retention_may_delete_and_no_more() {
    let mut run = with_many_checkpoints();
    let stage = run.stage();
    let kept = |checkpoint: &&Checkpoint| {
        checkpoint.resumed || checkpoint.gate.is_some_and(|gate| gate.passed)
    };
    let written = stage.lineage.all().count();
    let protected = stage.lineage.all().filter(kept).count();
    assert!(protected + 1 < written, "there is something to delete");
    let surplus = written - protected;
    assert_eq!(prune(&mut run, 100), Vec::<String>::new(), "few enough");
    assert_eq!(prune(&mut run, 1).len(), surplus - 1, "the newest stays");
    assert_eq!(prune(&mut run, 0).len(), 1);
    let left = run.stage().lineage.all().filter(|one| !one.deleted);
    assert_eq!(left.count(), protected);
    run.report(process());
    run.finish(|train| high(0.7 / train.to.get() as f64));
    assert_eq!(run.state.phase, RunPhase::Finished, "the run continues");
    let handed_on = run.state.stages[0].passed().unwrap().clone();
    prune(&mut run, 0);
    let stage = &run.state.stages[0];
    assert!(!stage.lineage.find(&handed_on).unwrap().deleted);
    assert!(!stage.lineage.best().unwrap().deleted);
}

#[test]
fn a_checkpoint_without_a_verdict_does_not_prevent_pruning() {
    let mut run = with_many_checkpoints();
    let train = run.training();
    let unjudged = checkpoint(train.stage.as_str(), train.from.get() + 50);
    run.append(written(&train, &unjudged, true));
    let deleted = prune(&mut run, 0);
    assert!(!deleted.is_empty());
    assert!(!deleted.contains(&unjudged.path));
}

#[test]
fn pruning_ends_with_the_next_event() {
    let mut run = with_many_checkpoints();
    prune(&mut run, 0);
    run.report(process());
    let before = run.log.len();
    run.gate(&high(0.006));
    let deleted = pick!(run.log[before..], CheckpointDeleted).count();
    assert_eq!(deleted, 0, "`keep_last` is 5 again");
}
