//! The findings of gates.

use super::build::*;
use crate::vacuous_limits;
use tinygate_events::*;

fn run_of(model: ModelKind) -> Run {
    Run::start(policy_of(model))
}

/// Findings of the first gate after this outcome, by name.
fn names(model: ModelKind, outcome: &Outcome) -> Vec<&'static str> {
    let gate = run_of(model).gate(outcome);
    let name = |finding: &Finding| match finding {
        Finding::VacuousLimit { .. } => "vacuous_limit",
        Finding::NoSkill { .. } => "no_skill",
        Finding::NothingToMeasure { .. } => "nothing_to_measure",
        Finding::DecidedByNoise { .. } => "decided_by_noise",
        Finding::Cause { .. } => "cause",
    };
    gate.findings.iter().map(name).collect()
}

#[track_caller]
fn check(name: &str, outcome: Outcome, want: &[&str]) {
    assert_eq!(names(ModelKind::VideoTokenizer, &outcome), want, "{name}");
}

// The scripted trivial losses are 0.01, and 0.02 for moving pixels; the video limit is 0.01.

#[test]
fn skill_of_a_passing_gate() {
    let held_out = |held_out_loss| Outcome {
        held_out_loss,
        ..good()
    };
    check("skill gives no finding", good(), &[]);
    check("as good as the mean image", held_out(0.01), &["no_skill"]);
    check(
        "none on moving pixels either",
        held_out(0.02),
        &["no_skill", "no_skill"],
    );
    let failing = Outcome {
        loss: 0.5,
        ..held_out(0.02)
    };
    check("a failing gate has no such finding", failing, &[]);
}

/// With a trivial loss of 0, passing a gate does not show whether the model has any skill.
#[test]
fn a_passing_gate_reports_that_skill_cannot_be_measured() {
    let found = |rules: u32, trivial: f64, moving: Option<f64>, outcome: &Outcome| {
        let mut created = created(policy_of(ModelKind::VideoTokenizer));
        created.rules = rules;
        let mut run = Run::create(created);
        run.state.stages[0].trivial = vec![
            metric_of(metric::TRIVIAL_LOSS, trivial),
            Metric {
                name: metric::TRIVIAL_LOSS_MOVING.to_owned(),
                value: moving.map(scalar),
            },
        ];
        run.gate(outcome).findings
    };
    let nothing = |name: &str| Finding::NothingToMeasure {
        metric: name.to_owned(),
        predictor: "mean_image".to_owned(),
    };
    let scored = Outcome {
        held_out_loss: 0.005,
        ..good()
    };
    assert_eq!(found(2, 0.01, Some(0.02), &scored), []);
    assert_eq!(found(2, 0.0, Some(0.0), &scored), [nothing("skill")]);
    assert_eq!(
        found(2, 0.01, None, &scored),
        [nothing("skill_moving")],
        "no pixel moves"
    );
    assert_eq!(
        found(1, 0.0, None, &scored),
        [],
        "rules version 1 do not report it"
    );
    let failing = Outcome {
        loss: 0.5,
        ..scored
    };
    assert_eq!(
        found(2, 0.0, None, &failing),
        [],
        "a failing gate has no such finding"
    );
}

#[test]
fn a_limit_looser_than_the_trivial_predictor() {
    let found = |limit, trivial| {
        let mut policy = policy_of(ModelKind::VideoTokenizer);
        let test = CriterionTest::LossLatest {
            limit: constant(limit),
        };
        policy.stages[0].criteria = vec![criterion("loss_latest", test)];
        let mut run = Run::start(policy);
        run.state.stages[0].trivial = vec![metric_of(metric::TRIVIAL_LOSS, trivial)];
        let findings = run.gate(&good()).findings;
        let limits = |finding: &Finding| matches!(finding, Finding::VacuousLimit { .. });
        findings.into_iter().filter(limits).collect::<Vec<_>>()
    };
    assert_eq!(
        found(0.01, 0.01),
        [],
        "a limit equal to the trivial loss is not looser"
    );
    let vacuous = Finding::VacuousLimit {
        criterion: "loss_latest".to_owned(),
        limit: scalar(0.04),
        predictor: "mean_image".to_owned(),
        trivial_loss: scalar(0.01),
        factor: scalar(4.0),
    };
    assert_eq!(found(0.04, 0.01), [vacuous]);
    assert_eq!(found(0.04, 1e-9).len(), 1, "a trivial loss of 1e-9 is one");
    assert_eq!(found(0.04, 0.99e-9), [], "a smaller one does not count");
}

/// Known once the predictor is measured, even if the policy applies the limit only at the target.
#[test]
fn limits_that_are_vacuous_before_anything_is_trained() {
    let measured = |loss| StageMeasured {
        stage: StageName::new("video_tokenizer"),
        trivial: vec![metric_of(metric::TRIVIAL_LOSS, loss)],
        predictor: "mean_image".to_owned(),
    };
    let strict = presets::stage(Preset::Strict, ModelKind::VideoTokenizer);
    let found = vacuous_limits(&strict, &measured(0.0025));
    let vacuous = Finding::VacuousLimit {
        criterion: "loss_latest".to_owned(),
        limit: scalar(0.01),
        predictor: "mean_image".to_owned(),
        trivial_loss: scalar(0.0025),
        factor: scalar(4.0),
    };
    assert_eq!(found, [vacuous]);
    assert_eq!(vacuous_limits(&strict, &measured(0.01)), []);
    let mut scheduled = strict;
    for criterion in &mut scheduled.criteria {
        if let CriterionTest::LossLatest { limit } = &mut criterion.test {
            *limit = Limit::Schedule(vec![(5_000, scalar(0.05)), (40_000, scalar(0.002))]);
        }
    }
    let found = vacuous_limits(&scheduled, &measured(0.0025));
    assert_eq!(found, [], "the limit at the target is the one that counts");
    let dynamics = presets::stage(Preset::Seed, ModelKind::Dynamics);
    assert_eq!(
        vacuous_limits(&dynamics, &measured(1e-3)),
        [],
        "no absolute limit"
    );
}

#[test]
fn samples_on_both_sides_of_the_limit() {
    let ending = |last| Outcome {
        last: Some(last),
        ..good()
    };
    check("one late spike", ending(0.5), &["decided_by_noise"]);
    check(
        "a late NaN counts as beyond",
        ending(f64::NAN),
        &["decided_by_noise"],
    );
    check("at the limit is within it", ending(0.01), &[]);
    let lucky = Outcome {
        loss: 0.5,
        last: Some(0.005),
        ..good()
    };
    check("one lucky sample", lucky, &["decided_by_noise"]);
    let gate = run_of(ModelKind::VideoTokenizer).gate(&ending(0.5));
    let noise = Finding::DecidedByNoise {
        criterion: "loss_latest".to_owned(),
        limit: scalar(0.01),
        within: 9,
        beyond: 1,
    };
    assert_eq!(gate.findings, [noise], "a tenth of 100 updates");
}

/// The cause found at a failed dynamics gate of 96 samples. Losses, learning rate (0.25, 0.25,
/// 0.5) and entropy are given by thirds, actions in use by halves.
fn cause(losses: [f64; 3], unique: [f64; 2], entropy: [f64; 3]) -> Cause {
    let mut run = run_of(ModelKind::Dynamics);
    let train = run.training();
    let columns = [
        (metric::LOSS, &losses[..]),
        (metric::LEARNING_RATE, &[0.25, 0.25, 0.5]),
        (metric::UNIQUE_ACTIONS, &unique),
        (metric::ACTION_ENTROPY, &entropy),
    ];
    let columns = columns.map(|(name, parts)| {
        let spread = (0..96).map(|place| scalar(parts[place * parts.len() / 96]));
        let steps = Steps::Stride {
            first: 5,
            stride: 1,
        };
        Column {
            name: name.to_owned(),
            steps,
            values: spread.collect(),
        }
    });
    run.report(Event::MetricsLogged(MetricsLogged {
        stage: train.stage.clone(),
        chunk: train.chunk,
        attempt: train.attempt,
        columns: columns.to_vec(),
    }));
    for fact in gate_facts(&train, &good()) {
        run.report(fact);
    }
    let gate = pick!(run.log, GateDecided).last().unwrap();
    match &gate.findings[..] {
        [Finding::Cause { cause, .. }] => *cause,
        other => panic!("not one cause: {other:?}"),
    }
}

#[test]
fn the_cause_of_a_failed_dynamics_gate() {
    #[track_caller]
    fn check(name: &str, rows: ([f64; 3], [f64; 2], [f64; 3]), want: Cause) {
        let (losses, unique, entropy) = rows;
        assert_eq!(cause(losses, unique, entropy), want, "{name}");
    }
    let (rising, level, wild) = ([1.0, 1.0, 2.0], [1.0; 3], [1.5, 1.0, 1.0]);
    let (many, one, half) = ([4.0; 2], [1.0; 2], [1.0, 4.0]);
    let with_rate = [0.25, 0.25, 0.5];
    let fell = [2.0, 1.0, 1.0];
    use Cause::*;
    check("the loss follows the rate", (rising, many, wild), Dynamics);
    check("nothing rises", (level, many, wild), Undetermined);
    check(
        "it fell before, and is level",
        (fell, many, level),
        Undetermined,
    );
    check(
        "by entropy as by rate",
        (rising, many, with_rate),
        Undetermined,
    );
    check(
        "a constant explains nothing",
        (rising, many, level),
        Dynamics,
    );
    check("one action only", (level, one, wild), Upstream);
    check("one action, and the rate", (rising, one, wild), Mixed);
    check(
        "one action half of the time",
        (level, half, wild),
        Undetermined,
    );
    check(
        "entropy at its least",
        (level, many, [0.0, 0.1, 1.0]),
        Undetermined,
    );
    check(
        "entropy below it",
        (level, many, [0.0, 0.099, 1.0]),
        Upstream,
    );
}

#[test]
fn a_passing_dynamics_gate_has_no_cause() {
    assert_eq!(names(ModelKind::Dynamics, &good()), Vec::<&str>::new());
}

#[test]
fn the_metrics_of_a_gate_are_ordered() {
    let nan = Outcome {
        last: Some(f64::NAN),
        held_out_loss: 0.0025,
        ..good()
    };
    let gate = run_of(ModelKind::VideoTokenizer).gate(&nan);
    let metrics: Vec<(&str, Option<f64>)> = gate
        .metrics
        .iter()
        .map(|metric| (metric.name.as_str(), metric.value.map(Scalar::get)))
        .collect();
    let want = [
        ("gate_loss", None),
        ("latest_loss", None),
        ("skill", Some(0.75)),
        ("skill_moving", Some(0.875)),
        ("checkpoint_valid", Some(1.0)),
        ("loss_finite", Some(1.0)),
        ("loss_trend", None),
        ("loss_latest", None),
        ("metrics_fresh", Some(0.0)),
    ];
    assert_eq!(metrics, want);
}
