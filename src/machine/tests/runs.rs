//! Whole runs: stages in order, given checkpoints, people's changes, stray facts.

use super::build::*;
use crate::*;
use tinygate_events::*;

fn three() -> Policy {
    policy(ModelKind::ALL.map(stage_policy).to_vec())
}

#[test]
fn three_stages_one_after_the_other() {
    let mut run = Run::start(three());
    run.finish(|train| high(0.009 / train.to.get() as f64));
    let stages = ["video_tokenizer", "latent_actions", "dynamics"];
    let upstream = |started: &StageStarted| -> Vec<String> {
        let upstream = started.upstream.iter();
        upstream.map(|one| one.stage.as_str().to_owned()).collect()
    };
    let started: Vec<(&str, Vec<String>)> = pick!(run.log, StageStarted)
        .map(|started| (started.stage.as_str(), upstream(started)))
        .collect();
    let want = [
        (stages[0], vec![]),
        (stages[1], vec![stages[0].to_owned()]),
        (stages[2], vec![stages[0].to_owned(), stages[1].to_owned()]),
    ];
    assert_eq!(started, want);
    assert_eq!(
        run.log.last(),
        Some(&Event::RunFinished(RunFinished { stages: 3 }))
    );
    assert_eq!(decide(&run.state), Decision::Idle(Idle::Finished));
    for (stage, name) in run.state.stages.iter().zip(stages) {
        let checkpoint = checkpoint(name, 300);
        assert_eq!(stage.phase, Phase::Passed { checkpoint });
    }
}

#[test]
fn a_chunk_gets_the_checkpoints_of_passed_stages_as_upstream() {
    let mut run = Run::start(three());
    for loss in [0.007, 0.006, 0.005] {
        run.gate(&high(loss));
    }
    run.measure();
    let passed = checkpoint("video_tokenizer", 300);
    let written = pick!(run.log, CheckpointWritten).find(|one| one.checkpoint == passed);
    let want = UpstreamModel {
        stage: StageName::new("video_tokenizer"),
        checkpoint: passed.clone(),
        files: written.unwrap().files.clone(),
    };
    assert!(!want.files.is_empty());
    assert_eq!(run.training().upstream, [want]);
}

#[test]
fn the_log_of_the_shortest_run() {
    let mut policy = policy_of(ModelKind::VideoTokenizer);
    policy.stages[0].settings.n_updates = 100;
    let mut run = Run::start(policy);
    run.finish(|_| good());
    let want = [
        "run_created",
        "stage_started",
        "process_started",
        "stage_measured",
        "chunk_started",
        "metrics_logged",
        "checkpoint_written",
        "checkpoint_judged",
        "metrics_logged",
        "checkpoint_written",
        "checkpoint_judged",
        "held_out_scored",
        "picture_scored",
        "chunk_finished",
        "gate_decided",
        "stage_passed",
        "run_finished",
    ];
    assert_eq!(run.kinds(), want);
}

fn given(stage: &str, step: u64) -> InitFrom {
    InitFrom {
        stage: StageName::new(stage),
        checkpoint: CheckpointRef {
            path: "/elsewhere/checkpoint".to_owned(),
            step: Step::new(step),
        },
        files: files_of(stage),
        fresh_optimizer: false,
    }
}

fn files_of(stage: &str) -> Vec<FileRecord> {
    vec![FileRecord {
        name: format!("{stage}.pt"),
        size: 1000,
        blake3: "ab".repeat(32),
    }]
}

#[test]
fn a_given_checkpoint_counts_as_accepted_at_its_step() {
    let mut created = created(policy_of(ModelKind::VideoTokenizer));
    created.init_from = vec![given("video_tokenizer", 150)];
    let mut run = Run::create(created);
    let train = run.training();
    assert_eq!((train.from.get(), train.to.get()), (150, 250));
    let resume = train.resume.unwrap();
    assert_eq!(resume.checkpoint.path, "/elsewhere/checkpoint");
    assert_eq!(resume.files, files_of("video_tokenizer"), "its hashes");
    let hopeless = Outcome {
        middle_accepted: false,
        gate_accepted: false,
        ..high(0.5)
    };
    let gate = run.gate(&hopeless);
    assert_eq!(gate.decision, Action::Retune, "there is an accepted one");
    assert_eq!(step_of(&gate.resume_from), Some(150));
    let trend = &run.gate(&good()).criteria[2];
    assert_eq!(
        trend.why,
        Some(CriterionReason::FreshStart),
        "it has no gate"
    );
}

#[test]
fn the_optimizer_is_fresh_as_long_as_the_weights_are_the_given_ones() {
    let mut created = created(policy_of(ModelKind::VideoTokenizer));
    created.init_from = vec![InitFrom {
        fresh_optimizer: true,
        ..given("video_tokenizer", 150)
    }];
    let mut run = Run::create(created);
    assert!(run.training().resume.unwrap().fresh_optimizer);
    // The next process has no other checkpoint, and starts in the same way.
    run.report(process());
    assert!(run.training().resume.unwrap().fresh_optimizer);
    run.gate(&good());
    let own = run.training().resume.unwrap();
    assert_ne!(own.checkpoint.path, "/elsewhere/checkpoint");
    assert!(
        !own.fresh_optimizer,
        "the stage's own checkpoint has moments"
    );
}

#[test]
fn a_given_checkpoint_of_a_stage_outside_the_run_is_upstream() {
    let mut created = created(policy_of(ModelKind::Dynamics));
    created.init_from = vec![given("video_tokenizer", 150), given("latent_actions", 9)];
    let run = Run::create(created);
    let train = run.training();
    let upstream: Vec<(&str, u64)> = train
        .upstream
        .iter()
        .map(|one| (one.stage.as_str(), one.checkpoint.step.get()))
        .collect();
    assert_eq!(upstream, [("video_tokenizer", 150), ("latent_actions", 9)]);
    let hashes = |of: &UpstreamModel| of.files == files_of(of.stage.as_str());
    assert!(train.upstream.iter().all(hashes), "their hashes");
    assert_eq!(train.resume, None);
}

#[test]
fn steps_and_chunks_past_their_range_stop() {
    let at = |step| {
        let mut created = created(policy_of(ModelKind::VideoTokenizer));
        created.init_from = vec![given("video_tokenizer", step)];
        Run::create(created)
    };
    let reason = |run: &Run| {
        pick!(run.log, StageStopped)
            .last()
            .map(|stop| stop.reason.clone())
    };
    assert_eq!(reason(&at(u64::MAX)), Some(StopReason::CountersExhausted));
    assert_eq!(
        at(u64::MAX - 1).training().to,
        Step::new(u64::MAX),
        "one more"
    );
    let mut run = video();
    run.state.stages[0].last_chunk = Some(ChunkNumber::new(u32::MAX));
    run.gate(&high(0.008));
    assert_eq!(reason(&run), Some(StopReason::CountersExhausted));
}

#[test]
fn a_run_without_stages_finishes() {
    let run = Run::start(policy(Vec::new()));
    assert_eq!(
        run.kinds(),
        ["run_created", "run_finished", "process_started"]
    );
}

#[test]
fn an_empty_log_and_unknown_rules_decide_nothing() {
    assert_eq!(decide(&RunState::empty()), Decision::Idle(Idle::NoRun));
    let mut created = created(three());
    created.rules = RULES + 1;
    let state = evolve(RunState::empty(), &Event::RunCreated(Box::new(created)));
    let rules = RULES + 1;
    assert_eq!(decide(&state), Decision::Idle(Idle::UnknownRules { rules }));
}

// ------------------------------------------------------------ changes by people

fn video() -> Run {
    Run::start(policy_of(ModelKind::VideoTokenizer))
}

#[test]
fn a_change_applies_from_the_next_process_or_chunk() {
    let accumulate = change(None, SettingKey::GradientAccumulationSteps, count(4));
    let mut run = video();
    run.report(accumulate.clone());
    let now = |run: &Run| run.training().settings.gradient_accumulation_steps;
    assert_eq!(now(&run), 1, "the current chunk is not changed");
    run.report(process());
    assert_eq!(now(&run), 4, "a resumed one is");
    let mut run = video();
    run.report(accumulate);
    run.gate(&high(0.008));
    assert_eq!(now(&run), 4, "so is the next");
}

#[test]
fn a_new_target_changes_the_rate_curve_and_applies_at_the_next_gate() {
    let mut run = video();
    run.report(change(None, SettingKey::NUpdates, count(0)));
    assert_eq!(run.stage().settings, settings(), "a target of 0 is ignored");
    run.report(change(None, SettingKey::NUpdates, count(100)));
    assert_eq!(run.stage().settings.schedule_updates, 100);
    run.gate(&good());
    assert_eq!(run.log.last().map(Event::kind), Some("run_finished"));
}

#[test]
fn a_lowered_target_applies_to_every_criterion() {
    let mut policy = policy_of(ModelKind::VideoTokenizer);
    policy.stages[0].criteria[3].applies = Applies::AtTarget;
    let mut run = Run::start(policy.clone());
    assert_eq!(
        run.gate(&high(0.5)).decision,
        Action::Continue,
        "does not apply yet"
    );
    let mut run = Run::start(policy);
    run.report(change(None, SettingKey::NUpdates, count(60)));
    assert_eq!(
        run.gate(&high(0.5)).decision,
        Action::Retune,
        "applies at 100, past 60"
    );
}

#[test]
fn a_fallback_to_fewer_ranks_multiplies_accumulation_once() {
    let granted = |accumulation_factor| {
        Event::FallbackGranted(FallbackGranted {
            ranks_wanted: 4,
            ranks_available: 2,
            accumulation_factor,
            granted_by: "config".to_owned(),
        })
    };
    let mut run = Run::start(three());
    run.report(granted(2));
    run.report(granted(2));
    run.report(process());
    let accumulation = |stage: &StageState| stage.settings.gradient_accumulation_steps;
    assert_eq!(run.training().settings.gradient_accumulation_steps, 2);
    let all: Vec<u32> = run.state.stages.iter().map(accumulation).collect();
    assert_eq!(all, [2, 2, 2]);
    let mut run = video();
    run.report(granted(0));
    assert_eq!(accumulation(run.stage()), 1, "a factor of 0 counts as 1");
}

// ------------------------------------------------------------ stray facts

/// A run in its second chunk, half-way.
fn half_way() -> Run {
    let mut run = video();
    run.gate(&high(0.008));
    let command = run.command().unwrap();
    for fact in facts(&command, |_| good()).into_iter().take(3) {
        run.report(fact);
    }
    run
}

#[test]
fn stray_facts_change_nothing() {
    let mut run = half_way();
    run.fail(0, exited());
    let train = run.training();
    assert_eq!((train.chunk.get(), train.attempt.get()), (2, 2));
    let with = |change: &dyn Fn(&mut TrainChunk)| {
        let mut other = train.clone();
        change(&mut other);
        other
    };
    let strangers = [
        (
            "another chunk's",
            with(&|train| train.chunk = ChunkNumber::FIRST),
        ),
        (
            "an earlier attempt's",
            with(&|train| train.attempt = Attempt::FIRST),
        ),
        (
            "a later attempt's",
            with(&|train| train.attempt = Attempt::new(3)),
        ),
        (
            "another stage's",
            with(&|train| train.stage = StageName::new("dynamics")),
        ),
        (
            "a stage without a name",
            with(&|train| train.stage = StageName::new("")),
        ),
    ];
    for (name, other) in &strangers {
        let fresh = checkpoint(other.stage.as_str(), 170);
        let mut facts = vec![
            metrics(other, 151, 160, &good()),
            written(other, &fresh, true),
            judged(&other.stage, &fresh, true),
            Event::ChunkFailed(ChunkFailed {
                stage: other.stage.clone(),
                chunk: other.chunk,
                attempt: other.attempt,
                step: Step::new(160),
                failure: exited(),
            }),
        ];
        facts.extend(gate_facts(other, &good()));
        for fact in facts {
            let after = evolve(run.state.clone(), &fact);
            assert!(after == run.state, "{name} {}", fact.kind());
        }
    }
}

#[test]
fn repeated_events_change_nothing() {
    let run = half_way();
    for (place, event) in run.log.iter().enumerate() {
        let again = evolve(run.state.clone(), event);
        // Only process starts are counted each time.
        let counts = matches!(event, Event::ProcessStarted(_));
        assert!(counts || again == run.state, "{} at {place}", event.kind());
    }
}

#[test]
fn facts_outside_of_the_chunk_change_nothing() {
    let run = half_way();
    let train = run.training();
    let early = Event::ChunkFinished(ChunkFinished {
        stage: train.stage.clone(),
        chunk: train.chunk,
        attempt: train.attempt,
        step: Step::new(199),
        samples_seen: 0,
        seconds: scalar(0.0),
    });
    let stray = [
        ("an end before the end", early),
        ("samples before the chunk", metrics(&train, 1, 150, &good())),
        (
            "samples after the chunk",
            metrics(&train, 201, 300, &good()),
        ),
        (
            "a checkpoint before the chunk",
            written(&train, &checkpoint("x", 100), true),
        ),
        (
            "a checkpoint after the chunk",
            written(&train, &checkpoint("x", 201), true),
        ),
        (
            "a verdict on an unknown checkpoint",
            judged(&train.stage, &checkpoint("x", 150), true),
        ),
    ];
    for (name, fact) in stray {
        assert!(evolve(run.state.clone(), &fact) == run.state, "{name}");
    }
}

#[test]
fn a_rejected_checkpoint_stays_rejected_but_an_accepted_one_may_be_rejected() {
    let run = half_way();
    let stage = run.stage().name().clone();
    let reference = checkpoint(stage.as_str(), 150);
    let newest = |state: &RunState| {
        let stage = state.stage().unwrap();
        stage
            .lineage
            .newest_accepted()
            .map(|newest| newest.reference.step.get())
    };
    assert_eq!(newest(&run.state), Some(150));
    let fallen = evolve(run.state, &judged(&stage, &reference, false));
    assert_eq!(newest(&fallen), Some(100));
    let raised = evolve(fallen, &judged(&stage, &reference, true));
    assert_eq!(newest(&raised), Some(100));
}

#[test]
fn samples_are_kept_once_and_in_order() {
    let mut run = video();
    let train = run.training();
    let samples = |steps: &[u64]| {
        let values = steps.iter().map(|step| scalar(*step as f64)).collect();
        Event::MetricsLogged(MetricsLogged {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            columns: vec![Column {
                name: metric::LOSS.to_owned(),
                steps: Steps::List(steps.to_vec()),
                values,
            }],
        })
    };
    for steps in [&[1, 2, 5][..], &[2, 5, 6], &[4, 9, 8], &[9, 101, 10]] {
        run.report(samples(steps));
    }
    let chunk = run.stage().chunk.as_ref().unwrap();
    let kept: Vec<u64> = chunk
        .samples(metric::LOSS)
        .iter()
        .map(|(step, _)| step.get())
        .collect();
    assert_eq!(kept, [1, 2, 5, 6, 9, 10]);
    assert_eq!(run.stage().step(), Step::new(10));
}

#[test]
fn only_metrics_that_matter_are_kept() {
    let mut policy = policy_of(ModelKind::LatentActions);
    let test = CriterionTest::MetricAtLeast {
        metric: metric::CODEBOOK_USAGE.to_owned(),
        limit: constant(0.1),
    };
    policy.stages[0].criteria.push(criterion("codebook", test));
    let mut run = Run::start(policy);
    let train = run.training();
    let column = |name: &str| Column {
        name: name.to_owned(),
        steps: Steps::List(vec![1]),
        values: vec![scalar(1.0)],
    };
    let logged = [metric::LOSS, metric::CODEBOOK_USAGE, metric::GRAD_NORM];
    run.report(Event::MetricsLogged(MetricsLogged {
        stage: train.stage.clone(),
        chunk: train.chunk,
        attempt: train.attempt,
        columns: logged.map(column).to_vec(),
    }));
    let chunk = run.stage().chunk.as_ref().unwrap();
    let kept = logged.map(|name| chunk.samples(name).len());
    assert_eq!(kept, [1, 1, 0], "the loss and the metrics of criteria");
}
