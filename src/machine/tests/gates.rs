//! What follows a gate: continue, retune, restart, stop.

use super::build::*;
use crate::RunPhase;
use tinygate_events::*;

const VIDEO: ModelKind = ModelKind::VideoTokenizer;

fn video() -> Run {
    Run::start(policy_of(VIDEO))
}

fn dynamics() -> Run {
    Run::start(policy_of(ModelKind::Dynamics))
}

fn rejected_at_gate(loss: f64) -> Outcome {
    Outcome {
        gate_accepted: false,
        ..high(loss)
    }
}

fn nan() -> Outcome {
    Outcome {
        last: Some(f64::NAN),
        ..good()
    }
}

fn lost() -> Outcome {
    Outcome {
        structure_lost: true,
        ..good()
    }
}

/// Checks the decision, failures, rung, and the step to resume from.
#[track_caller]
fn check(name: &str, gate: &GateDecided, want: (Action, u32, Option<u32>, Option<u64>)) {
    let found = (
        gate.decision,
        gate.failures,
        gate.rung,
        step_of(&gate.resume_from),
    );
    assert_eq!(found, want, "{name}: {gate:?}");
}

use Action::{Continue, RestartStage, Retune, Stop};

#[test]
fn passing_gates_lead_to_the_target() {
    let mut run = video();
    let mut chunks = Vec::new();
    for (step, loss) in [(100, 0.006), (200, 0.005), (300, 0.004)] {
        let train = run.training();
        chunks.push((train.chunk.get(), train.from.get(), train.to.get()));
        assert_eq!(train.taken, Vec::<String>::new(), "no later names are used");
        check(
            "a pass",
            &run.gate(&high(loss)),
            (Continue, 0, None, Some(step)),
        );
    }
    assert_eq!(chunks, [(1, 0, 100), (2, 100, 200), (3, 200, 300)]);
    let handed_on = &pick!(run.log, StagePassed).next().unwrap().checkpoint;
    assert_eq!(handed_on, &checkpoint("video_tokenizer", 300));
    assert_eq!(run.log.last().map(Event::kind), Some("run_finished"));
}

#[test]
fn the_last_chunk_ends_at_the_target() {
    let mut policy = policy_of(VIDEO);
    policy.stages[0].settings.n_updates = 150;
    let mut run = Run::start(policy);
    run.gate(&high(0.006));
    let train = run.training();
    assert_eq!((train.from.get(), train.to.get()), (100, 150));
}

#[test]
fn failures_climb_the_ladder_and_the_sixth_stops() {
    let mut run = video();
    let gates: Vec<GateDecided> = (0..6).map(|_| run.gate(&high(0.5))).collect();
    let patches: Vec<String> = gates
        .iter()
        .map(|gate| shown(&gate.config_patch_applied).join(", "))
        .collect();
    // Chunks start at 100, 200, 300 (the target, so it moves), 400, 500.
    let want = [
        "learning_rate 0.001 -> 0.0005",
        "gradient_accumulation_steps 1 -> 2",
        "log_interval 10 -> 5, n_updates 300 -> 400",
        "learning_rate 0.0005 -> 0.00025, n_updates 400 -> 500",
        "gradient_accumulation_steps 2 -> 3, n_updates 500 -> 600",
        "",
    ];
    assert_eq!(patches, want);
    check("the first", &gates[0], (Retune, 1, Some(1), Some(100)));
    check(
        "the fourth wraps around",
        &gates[3],
        (Retune, 4, Some(1), Some(400)),
    );
    check(
        "the fifth is the last retry",
        &gates[4],
        (Retune, 5, Some(2), Some(500)),
    );
    check("the sixth stops", &gates[5], (Stop, 6, None, Some(600)));
    let exceeded = StopReason::RetriesExceeded {
        failures: 6,
        max_retries: 5,
    };
    assert_eq!(gates[5].stop, Some(exceeded));
    assert_eq!(gates[5].cursor, gates[4].cursor, "the next rung stays due");
    assert_eq!(run.log.last().map(Event::kind), Some("run_stopped"));
}

#[test]
fn patches_are_recorded_before_the_chunk_they_change() {
    let mut run = video();
    let before = run.log.len();
    run.gate(&high(0.5));
    let decisions: Vec<&str> = run.log[before..]
        .iter()
        .filter(|event| event.is_decision())
        .map(Event::kind)
        .collect();
    assert_eq!(
        decisions,
        ["gate_decided", "patch_applied", "chunk_started"]
    );
    assert_eq!(run.training().settings.learning_rate, scalar(5e-4));
}

#[test]
fn a_stop_lists_the_blocking_criteria_and_the_best_checkpoint() {
    let mut run = video();
    for loss in [0.9, 0.5, 0.7, 0.6, 0.6, f64::NAN] {
        run.gate(&high(loss));
    }
    let stopped = pick!(run.log, StageStopped).last().unwrap();
    let blocking: Vec<(&str, Option<f64>, u32)> = stopped
        .blocking
        .iter()
        .map(|known| {
            let value = known.value.and_then(Scalar::finite);
            (known.criterion.as_str(), value, known.gates)
        })
        .collect();
    let want = [
        ("loss_finite", Some(100.0), 1),
        ("loss_trend", None, 3),
        ("loss_latest", None, 6),
    ];
    assert_eq!(blocking, want, "what failed at the last gate");
    assert_eq!(stopped.best, Some(checkpoint("video_tokenizer", 200)));
    assert_eq!(stopped.step, Step::new(600));
    let limit = stopped.blocking[2].limit;
    assert_eq!(limit, Some(scalar(0.01)));
}

#[test]
fn criteria_that_passed_at_the_last_gate_do_not_block() {
    let mut run = video();
    // The loss rises once, then falls: the trend fails only at the second gate.
    for loss in [0.5, 0.6, 0.5, 0.4, 0.3, 0.2] {
        run.gate(&high(loss));
    }
    let stopped = pick!(run.log, StageStopped).last().unwrap();
    let blocking: Vec<(&str, u32)> = stopped
        .blocking
        .iter()
        .map(|known| (known.criterion.as_str(), known.gates))
        .collect();
    assert_eq!(blocking, [("loss_latest", 6)]);
}

#[test]
fn ties_for_the_best_go_to_the_earlier() {
    let mut run = video();
    for loss in [0.5, 0.4, 0.4] {
        run.gate(&high(loss));
    }
    let best = run.stage().lineage.best().unwrap();
    assert_eq!(best.reference.step, Step::new(200));
}

#[test]
fn the_best_latent_checkpoint_uses_two_actions_if_any_does() {
    let acting = |loss, unique_actions| Outcome {
        loss,
        unique_actions,
        ..good()
    };
    let mut run = Run::start(policy_of(ModelKind::LatentActions));
    let best = |run: &Run| {
        run.stage()
            .lineage
            .best()
            .map(|best| best.reference.step.get())
    };
    run.gate(&acting(0.2, 1.0));
    run.gate(&acting(0.1, 1.0));
    assert_eq!(best(&run), Some(200), "none uses two");
    run.gate(&acting(0.3, 2.0));
    assert_eq!(best(&run), Some(300), "two are in use");
}

#[test]
fn a_failure_stops_if_no_rung_applies() {
    let mut policy = policy_of(VIDEO);
    policy.stages[0].ladder = vec![Rung::Add {
        key: SettingKey::GradientAccumulationSteps,
        amount: -1,
    }];
    let gate = Run::start(policy).gate(&high(0.5));
    assert_eq!((gate.decision, gate.failures), (Stop, 1));
    assert_eq!(gate.stop, Some(StopReason::NoRungApplies));
    let skipped = RungSkipped {
        rung: 1,
        why: SkipReason::AtBound,
    };
    assert_eq!(gate.skipped, [skipped]);
}

#[test]
fn a_passing_gate_may_reset_failures_but_not_the_cursor() {
    for (reset_on_pass, failures) in [(false, 1), (true, 0)] {
        let mut policy = policy_of(VIDEO);
        policy.reset_on_pass = reset_on_pass;
        let mut run = Run::start(policy);
        run.gate(&high(0.5));
        let passed = run.gate(&good());
        assert_eq!((passed.failures, passed.cursor), (failures, 1));
        let again = run.gate(&high(0.5));
        assert_eq!((again.failures, again.rung), (failures + 1, Some(2)));
    }
}

// ------------------------------------------------------------ where a retry starts

#[test]
fn a_retry_starts_from_the_newest_accepted_checkpoint() {
    let mut run = video();
    let gate = run.gate(&rejected_at_gate(0.5));
    check(
        "a checkpoint half-way counts",
        &gate,
        (Retune, 1, Some(1), Some(50)),
    );
    let train = run.training();
    assert_eq!(
        (train.from.get(), train.to.get()),
        (50, 150),
        "off the grid"
    );
    assert!(
        train
            .taken
            .contains(&checkpoint("video_tokenizer", 100).path)
    );
    assert_eq!(train.resume.map(|resume| resume.samples_seen), Some(400));
}

/// Checks where the run resumes after three failed chunks.
#[track_caller]
fn check_retry_from(name: &str, retry_from: RetryFrom, outcomes: &[Outcome], want: u64) {
    let mut policy = policy_of(VIDEO);
    policy.retry_from = retry_from;
    let mut run = Run::start(policy);
    let gates: Vec<GateDecided> = outcomes.iter().map(|outcome| run.gate(outcome)).collect();
    let last = gates.last().unwrap();
    assert_eq!(step_of(&last.resume_from), Some(want), "{name}: {last:?}");
    assert_eq!(run.training().from.get(), want, "{name}");
}

#[test]
fn where_a_retry_starts() {
    use RetryFrom::{Best, LastPassed, Newest};
    let passed = || high(0.008);
    let rising = [passed(), high(0.4), high(0.5)];
    check_retry_from("the newest", Newest, &rising, 300);
    check_retry_from("the last that passed", LastPassed, &rising, 100);
    check_retry_from("the best", Best, &rising, 100);
    let sinking = [high(0.5), high(0.4), high(0.3)];
    check_retry_from("none passed: the newest", LastPassed, &sinking, 300);
    check_retry_from("the gate that just failed may be best", Best, &sinking, 300);
    let spoiled = [high(0.5), high(0.4), rejected_at_gate(0.3)];
    check_retry_from("a rejected one is not the best", Best, &spoiled, 200);
    check_retry_from("a rejected one is not the newest", Newest, &spoiled, 250);
    let hopeless = [rejected_at_gate(0.5)];
    check_retry_from(
        "none at a gate is accepted: the newest",
        Best,
        &hopeless,
        50,
    );
}

#[test]
fn a_retry_from_an_earlier_checkpoint_cuts_the_lineage_back() {
    let mut policy = policy_of(VIDEO);
    policy.retry_from = RetryFrom::LastPassed;
    let mut run = Run::start(policy);
    run.gate(&high(0.0078125));
    run.gate(&high(0.5));
    assert_eq!(
        run.training().chunk.get(),
        3,
        "a chunk's number never repeats"
    );
    let steps: Vec<u64> = run
        .stage()
        .lineage
        .present()
        .map(|checkpoint| checkpoint.reference.step.get())
        .collect();
    assert_eq!(steps, [50, 100]);
    let gate = run.gate(&high(0.009));
    let trend = &gate.criteria[2];
    assert_eq!(
        (trend.name.as_str(), trend.limit),
        ("loss_trend", Some(scalar(0.0078125)))
    );
}

#[test]
fn the_trend_compares_with_the_gate_it_started_from() {
    #[track_caller]
    fn check(name: &str, outcomes: &[Outcome], want: Result<f64, CriterionReason>) {
        let mut run = video();
        let gates: Vec<GateDecided> = outcomes.iter().map(|outcome| run.gate(outcome)).collect();
        let last = gates.last().unwrap();
        let trend = last
            .criteria
            .iter()
            .find(|result| result.name == "loss_trend")
            .unwrap();
        let found = match trend.verdict {
            Verdict::NotApplicable => Err(trend.why.clone().unwrap()),
            Verdict::Pass | Verdict::Fail => Ok(trend.limit.unwrap().get()),
        };
        assert_eq!(found, want, "{name}");
    }
    let fresh = || Err(CriterionReason::FreshStart);
    check("the first gate has none", &[high(0.5)], fresh());
    check("then the one before", &[high(0.5), high(0.25)], Ok(0.5));
    check(
        "passed or failed",
        &[high(0.007), high(0.5), high(0.25)],
        Ok(0.5),
    );
    check(
        "a checkpoint half-way belongs to its chunk",
        &[rejected_at_gate(0.5), high(0.25)],
        Ok(0.5),
    );
    check(
        "none after a restart",
        &[high(0.007), nan(), high(0.5)],
        fresh(),
    );
    check(
        "the gate after that has one again",
        &[high(0.007), nan(), high(0.5), high(0.25)],
        Ok(0.5),
    );
}

// ------------------------------------------------------------ restarts

fn restarted(gate: &GateDecided) -> (RestartCause, u32, Vec<u32>) {
    let restart = gate.restart.clone().expect("no restart");
    let abandoned = restart.abandoned.iter().map(|chunk| chunk.get()).collect();
    (restart.cause, restart.restart.get(), abandoned)
}

#[test]
fn without_an_accepted_checkpoint_the_weights_are_fresh() {
    let mut run = video();
    let hopeless = Outcome {
        middle_accepted: false,
        ..rejected_at_gate(0.5)
    };
    let gate = run.gate(&hopeless);
    check(
        "it counts as a failure and applies a rung",
        &gate,
        (RestartStage, 1, Some(1), None),
    );
    assert_eq!(
        restarted(&gate),
        (RestartCause::NoAcceptedCheckpoint, 1, vec![1])
    );
    let train = run.training();
    assert_eq!((train.restart.get(), train.chunk.get()), (1, 2));
    assert_eq!((train.from.get(), train.resume), (0, None));
    assert_eq!(train.settings.learning_rate, scalar(5e-4), "patches stay");
    assert_eq!(train.taken.len(), 2, "their names are used up");
}

#[test]
fn a_non_finite_loss_restarts_from_the_best_checkpoint_that_passed() {
    let mut run = video();
    run.gate(&high(0.006));
    run.gate(&high(0.005));
    let gate = run.gate(&nan());
    check("to the best", &gate, (RestartStage, 1, Some(1), Some(200)));
    assert_eq!(restarted(&gate), (RestartCause::NonFiniteLoss, 1, vec![3]));
    assert_eq!(run.training().from.get(), 200);
    let again = run.gate(&nan());
    check("and again", &again, (RestartStage, 2, Some(2), Some(200)));
    assert_eq!(restarted(&again), (RestartCause::NonFiniteLoss, 2, vec![4]));
}

#[test]
fn a_collapse_before_any_pass_starts_fresh() {
    let mut run = video();
    run.gate(&high(0.5));
    let gate = run.gate(&nan());
    check(
        "a checkpoint that failed its gate is not used",
        &gate,
        (RestartStage, 2, Some(2), None),
    );
    assert_eq!(
        restarted(&gate),
        (RestartCause::NonFiniteLoss, 1, vec![1, 2])
    );
}

#[test]
fn a_collapse_may_restart_from_an_abandoned_checkpoint() {
    let mut policy = policy_of(VIDEO);
    policy.stages[0].criteria.truncate(2);
    let mut run = Run::start(policy);
    run.gate(&high(0.4));
    run.gate(&high(0.5));
    let first = run.gate(&nan());
    check(
        "to the lowest",
        &first,
        (RestartStage, 1, Some(1), Some(100)),
    );
    assert_eq!(restarted(&first).2, [2, 3]);
    run.gate(&high(0.6));
    let stage = run.stage().name().clone();
    run.report(judged(&stage, &checkpoint(stage.as_str(), 100), false));
    let second = run.gate(&nan());
    check(
        "to what was abandoned",
        &second,
        (RestartStage, 2, Some(2), Some(200)),
    );
    assert_eq!(second.resume_from, Some(checkpoint(stage.as_str(), 200)));
    assert_eq!(restarted(&second).2, [1, 4, 5], "the lineage is replaced");
    let train = run.training();
    assert_eq!((train.from.get(), train.restart.get()), (200, 2));
    let lineage: Vec<&str> = run
        .stage()
        .lineage
        .present()
        .map(|checkpoint| checkpoint.reference.path.as_str())
        .collect();
    assert_eq!(
        lineage,
        ["video_tokenizer/checkpoints/video_tokenizer_step_200"]
    );
}

#[test]
fn structure_lost_at_two_consecutive_gates_restarts() {
    let mut run = dynamics();
    run.gate(&good());
    check(
        "once is a failure",
        &run.gate(&lost()),
        (Retune, 1, Some(1), Some(200)),
    );
    let gate = run.gate(&lost());
    // Accumulation is already 1, so the second rung is skipped.
    check(
        "twice is a collapse",
        &gate,
        (RestartStage, 2, Some(3), Some(100)),
    );
    assert_eq!(
        restarted(&gate),
        (RestartCause::StructureLost, 1, vec![2, 3])
    );
    let next = run.gate(&lost());
    assert_eq!(next.decision, Retune, "a restart resets the count");
}

#[test]
fn structure_lost_twice_with_a_gate_in_between_is_not_a_collapse() {
    let mut run = dynamics();
    run.gate(&lost());
    run.gate(&good());
    assert_eq!(run.gate(&lost()).decision, Retune);
    let mut run = dynamics();
    run.gate(&lost());
    let rejected = Outcome {
        gate_accepted: false,
        ..good()
    };
    run.gate(&rejected);
    assert_eq!(
        run.gate(&lost()).decision,
        Retune,
        "a failure for another reason"
    );
}

#[test]
fn a_stop_takes_precedence_over_a_restart_and_a_restart_over_a_rung() {
    let mut policy = policy_of(VIDEO);
    policy.max_retries = 1;
    let mut run = Run::start(policy);
    let first = run.gate(&nan());
    check("a restart", &first, (RestartStage, 1, Some(1), None));
    let second = run.gate(&nan());
    check("a stop", &second, (Stop, 2, None, None));
    assert_eq!(second.restart, None);
    let mut policy = policy_of(VIDEO);
    policy.stages[0].ladder.clear();
    let gate = Run::start(policy).gate(&nan());
    assert_eq!(
        (gate.decision, gate.stop),
        (Stop, Some(StopReason::NoRungApplies))
    );
}

// ------------------------------------------------------------ extensions

/// A dynamics-like stage whose only gate is at the target, failing each time.
fn at_target(ladder: Vec<Rung>, max_retries: u32) -> Run {
    let mut policy = policy_of(VIDEO);
    policy.max_retries = max_retries;
    policy.stages[0].settings.n_updates = 100;
    policy.stages[0].settings.schedule_updates = 100;
    policy.stages[0].ladder = ladder;
    Run::start(policy)
}

fn slower() -> Rung {
    Rung::Multiply {
        key: SettingKey::LearningRate,
        factor: scalar(0.5),
    }
}

#[test]
fn a_failed_gate_at_the_target_extends_it_but_not_the_rate_curve() {
    let mut run = at_target(vec![slower()], 5);
    let gate = run.gate(&high(0.5));
    let want = ["learning_rate 0.001 -> 0.0005", "n_updates 100 -> 200"];
    assert_eq!(shown(&gate.config_patch_applied), want);
    assert_eq!(gate.config_patch_applied[1].why, PatchReason::Extension);
    let settings = run.training().settings;
    assert_eq!((settings.n_updates, settings.schedule_updates), (200, 100));
    assert_eq!(run.stage().extensions, 1);
}

#[test]
fn a_failed_gate_that_resumes_below_the_target_does_not_extend_it() {
    let mut run = at_target(vec![slower()], 5);
    let gate = run.gate(&rejected_at_gate(0.5));
    assert_eq!(gate.config_patch_applied.len(), 1, "50 is below 100");
    let train = run.training();
    assert_eq!((train.from.get(), train.to.get()), (50, 100));
    let fresh = at_target(vec![slower()], 5).gate(&nan());
    assert_eq!(
        fresh.config_patch_applied.len(),
        1,
        "nor does a fresh start"
    );
}

#[test]
fn the_target_is_extended_by_the_configured_chunk_size() {
    let halve = Rung::Multiply {
        key: SettingKey::ChunkSize,
        factor: scalar(0.5),
    };
    let mut run = at_target(vec![halve], 5);
    let gate = run.gate(&high(0.5));
    let want = ["chunk_size 100 -> 50", "n_updates 100 -> 200"];
    assert_eq!(shown(&gate.config_patch_applied), want);
    assert_eq!(run.training().to.get(), 150, "and the chunk is the new one");
}

#[test]
fn a_rung_that_extends_is_the_only_extension_and_extends_the_rate_curve() {
    let mut run = at_target(vec![slower(), Rung::ExtendTarget], 5);
    run.gate(&high(0.5));
    let gate = run.gate(&high(0.4));
    assert_eq!(shown(&gate.config_patch_applied), ["n_updates 200 -> 300"]);
    assert_eq!(gate.config_patch_applied[0].why, PatchReason::Rung(2));
    let settings = run.training().settings;
    assert_eq!((settings.n_updates, settings.schedule_updates), (300, 300));
    assert_eq!(run.stage().extensions, 2);
}

#[test]
fn a_rung_that_does_not_extend_far_enough_is_raised() {
    let mut run = at_target(vec![slower(), Rung::ExtendTarget], 5);
    run.gate(&high(0.5));
    run.report(change(None, SettingKey::NUpdates, count(50)));
    let gate = run.gate(&high(0.4));
    assert_eq!(shown(&gate.config_patch_applied), ["n_updates 50 -> 300"]);
    assert_eq!(run.stage().extensions, 2);
}

#[test]
fn extensions_are_limited() {
    let mut run = at_target(vec![slower()], 2);
    // Resetting failures does not reset extensions.
    run.state.stages[0].extensions = 1;
    assert_eq!(run.gate(&high(0.5)).decision, Retune, "the second of two");
    let gate = run.gate(&high(0.5));
    let exceeded = StopReason::ExtensionsExceeded {
        extensions: 2,
        max_extensions: 2,
    };
    assert_eq!(gate.stop, Some(exceeded), "at the second failure of two");
    let mut extends = at_target(vec![slower(), Rung::ExtendTarget, slower()], 2);
    extends.gate(&high(0.5));
    extends.state.stages[0].extensions = 2;
    let gate = extends.gate(&high(0.4));
    let used_up = RungSkipped {
        rung: 2,
        why: SkipReason::ExtensionsUsedUp,
    };
    assert_eq!(
        gate.decision, Stop,
        "the needed extension is not allowed, although a rung applies"
    );
    assert_eq!(gate.failures, 2);
    assert!(gate.skipped.is_empty() || gate.skipped == [used_up]);
}

// ------------------------------------------------------------ deferral

#[test]
fn fewer_actions_are_deferred_once_and_do_not_change_this_run() {
    let collapsed = |loss| Outcome {
        loss,
        unique_actions: 1.0,
        action_entropy: 0.0,
        ..good()
    };
    let mut run = Run::start(policy_of(ModelKind::LatentActions));
    let first = run.gate(&collapsed(0.05));
    assert_eq!(first.rung, Some(1));
    let second = run.gate(&collapsed(0.05));
    assert_eq!(
        second.rung,
        Some(3),
        "the loss does not drop, entropy collapsed"
    );
    assert_eq!(second.config_patch_applied, []);
    assert_eq!(shown(second.deferred.as_slice()), ["n_actions 8 -> 4"]);
    let deferred = pick!(run.log, PatchDeferred).last().unwrap();
    assert_eq!(Some(&deferred.patch), second.deferred.as_ref());
    assert_eq!(
        run.training().settings.knob(&KnobName::new(N_ACTIONS)),
        Some(count(8))
    );
    run.gate(&collapsed(0.05));
    let fourth = run.gate(&collapsed(0.05));
    let reasons: Vec<SkipReason> = fourth.skipped.iter().map(|skipped| skipped.why).collect();
    let want = [SkipReason::LossNotDropping, SkipReason::AlreadyDeferred];
    assert_eq!((fourth.rung, &reasons[..]), (Some(1), &want[..]));
    let deferrals = run
        .kinds()
        .iter()
        .filter(|kind| **kind == "patch_deferred")
        .count();
    assert_eq!(deferrals, 1);
}

#[test]
fn when_entropy_has_collapsed() {
    #[track_caller]
    fn check(name: &str, outcome: Outcome, want: Option<u32>) {
        let mut policy = policy_of(ModelKind::LatentActions);
        let test = CriterionTest::MetricAtLeast {
            metric: metric::LEARNING_RATE.to_owned(),
            limit: constant(if want.is_some() { 0.0 } else { 1.0 }),
        };
        policy.stages[0].criteria.push(criterion("rate", test));
        policy.stages[0].ladder = vec![presets::defer_fewer_actions()];
        let gate = Run::start(policy).gate(&outcome);
        assert_eq!(gate.rung, want, "{name}: {gate:?}");
    }
    let no_entropy = Outcome {
        action_entropy: 0.0,
        ..good()
    };
    let one_action = Outcome {
        unique_actions: 1.0,
        ..good()
    };
    check("entropy fails alone", no_entropy, Some(1));
    check("one action alone", one_action, Some(1));
    check("another metric fails", good(), None);
    let mut run = Run::start(policy_of(ModelKind::LatentActions));
    run.gate(&high(0.5));
    let reasons = run.gate(&high(0.5)).skipped;
    let reasons: Vec<SkipReason> = reasons.iter().map(|skipped| skipped.why).collect();
    let want = [SkipReason::LossNotDropping, SkipReason::EntropyNotCollapsed];
    assert_eq!(reasons, want, "the loss fails alone");
}

#[test]
fn fewer_actions_are_deferred_once_in_a_run() {
    let mut second = stage_policy(ModelKind::LatentActions);
    second.name = StageName::new("more_actions");
    let collapsed = Outcome {
        action_entropy: 0.0,
        ..good()
    };
    let mut run = Run::start(policy(vec![stage_policy(ModelKind::LatentActions), second]));
    run.finish(|train| {
        if train.chunk.get() < 4 {
            collapsed.clone()
        } else {
            high(0.009 / train.to.get() as f64)
        }
    });
    assert_eq!(run.state.phase, RunPhase::Finished);
    assert_eq!(pick!(run.log, PatchDeferred).count(), 1);
    let again = pick!(run.log, GateDecided)
        .filter(|gate| gate.stage.as_str() == "more_actions")
        .flat_map(|gate| &gate.skipped)
        .filter(|skipped| skipped.why == SkipReason::AlreadyDeferred);
    assert!(0 < again.count());
}

// ------------------------------------------------------------ retention

#[test]
fn old_checkpoints_are_deleted_except_best_passed_and_resumed_ones() {
    let mut policy = policy_of(VIDEO);
    policy.keep_last = 1;
    policy.stages[0].settings.n_updates = 600;
    let mut run = Run::start(policy);
    let kept = |run: &Run| -> Vec<u64> {
        let present = run.stage().lineage.all().filter(|known| !known.deleted);
        present.map(|known| known.reference.step.get()).collect()
    };
    run.gate(&high(0.008));
    assert_eq!(kept(&run), [50, 100]);
    run.gate(&high(0.007));
    assert_eq!(kept(&run), [100, 150, 200], "one unprotected is kept");
    run.gate(&rejected_at_gate(0.5));
    assert_eq!(
        kept(&run),
        [100, 150, 200, 250],
        "a rejected one is deleted and does not count"
    );
    run.gate(&high(0.4));
    assert_eq!(
        kept(&run),
        [100, 200, 250, 300, 350],
        "350 is the next resume point"
    );
    run.gate(&high(0.006));
    let best = run.stage().lineage.best().unwrap().reference.step.get();
    assert_eq!(
        (kept(&run), best),
        (vec![100, 200, 250, 350, 400, 450], 450)
    );
}

#[test]
fn nothing_is_deleted_while_there_are_few() {
    let mut run = video();
    run.finish(|train| high(0.009 / train.to.get() as f64));
    assert_eq!(presets::policy(presets::Preset::Seed).keep_last, 5);
    assert!(!run.kinds().contains(&"checkpoint_deleted"));
}

/// The ranges of a stage's chunks if all gates pass, from the start or from a given checkpoint.
fn ranges(
    model: ModelKind,
    given: Option<u64>,
    (chunk_size, n_updates): (u64, u64),
) -> Vec<(u64, u64)> {
    let mut policy = policy_of(model);
    let settings = &mut policy.stages[0].settings;
    settings.chunk_size = chunk_size;
    settings.n_updates = n_updates;
    let stage = policy.stages[0].name.clone();
    let mut created = created(policy);
    created.init_from = given
        .map(|step| InitFrom {
            stage,
            checkpoint: checkpoint("given", step),
            files: Vec::new(),
            fresh_optimizer: false,
        })
        .into_iter()
        .collect();
    let mut run = Run::create(created);
    run.finish(|train| high(0.009 / train.to.get() as f64));
    assert_eq!(run.state.phase, RunPhase::Finished);
    pick!(run.log, ChunkStarted)
        .map(|chunk| (chunk.from.get(), chunk.to.get()))
        .collect()
}

#[test]
fn no_chunk_is_too_short_for_its_gate() {
    use ModelKind::{Dynamics, VideoTokenizer};
    #[track_caller]
    fn check(
        name: &str,
        model: ModelKind,
        given: Option<u64>,
        sizes: (u64, u64),
        want: &[(u64, u64)],
    ) {
        assert_eq!(ranges(model, given, sizes), want, "{name}");
    }
    check(
        "on the grid",
        Dynamics,
        None,
        (100, 200),
        &[(0, 100), (100, 200)],
    );
    let ten_left = [(5, 105), (105, 115)];
    check(
        "ten left are a chunk",
        Dynamics,
        Some(5),
        (100, 115),
        &ten_left,
    );
    check(
        "nine are trained at once",
        Dynamics,
        Some(5),
        (100, 114),
        &[(5, 114)],
    );
    let one_left = [(5, 105), (105, 106)];
    check(
        "without windows one is",
        VideoTokenizer,
        Some(5),
        (100, 106),
        &one_left,
    );
    check(
        "nine to the target are ten",
        Dynamics,
        Some(91),
        (100, 100),
        &[(91, 101)],
    );
    check(
        "chunks of five are of ten",
        Dynamics,
        None,
        (5, 20),
        &[(0, 10), (10, 20)],
    );
    check(
        "a start at the target",
        VideoTokenizer,
        Some(300),
        (100, 300),
        &[(300, 400)],
    );
    check(
        "a start past it",
        Dynamics,
        Some(350),
        (100, 300),
        &[(350, 450)],
    );
}
