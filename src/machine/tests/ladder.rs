//! Rungs, bounds, conditions and the cursor.

use super::build::*;
use crate::ladder::{self, Climb, Situation};
use tinygate_events::SkipReason::*;
use tinygate_events::*;

/// An ordinary failed gate.
const PLAIN: Situation<'static> = Situation {
    loss_dropping: Some(false),
    failed_metrics: Vec::new(),
    deferred_before: false,
    may_extend: true,
    chunk_size_min: 1,
};

fn climb(ladder: &[Rung], cursor: u32, now: &Settings, situation: Situation<'_>) -> Climb {
    let mut policy = stage_policy(ModelKind::LatentActions);
    policy.settings = settings();
    policy.ladder = ladder.to_vec();
    ladder::climb(&policy, cursor, now, &situation)
}

/// The patch of one rung as text, or why it is skipped.
fn one(rung: Rung, now: &Settings, situation: Situation<'_>) -> Result<String, SkipReason> {
    let climb = climb(&[rung], 0, now, situation);
    match climb.skipped.first() {
        Some(skipped) => Err(skipped.why),
        None => Ok(shown(climb.patch.as_slice()).concat()),
    }
}

#[track_caller]
fn check(name: &str, found: Result<String, SkipReason>, want: Result<&str, SkipReason>) {
    assert_eq!(found.as_deref().map_err(|why| *why), want, "{name}");
}

fn times(key: SettingKey, factor: f64) -> Rung {
    Rung::Multiply {
        key,
        factor: scalar(factor),
    }
}

fn plus(key: SettingKey, amount: i64) -> Rung {
    Rung::Add { key, amount }
}

#[test]
fn learning_rate() {
    let half = |learning_rate: f64| {
        let now = Settings {
            learning_rate: scalar(learning_rate),
            ..settings()
        };
        one(times(SettingKey::LearningRate, 0.5), &now, PLAIN)
    };
    check(
        "it is halved",
        half(1e-3),
        Ok("learning_rate 0.001 -> 0.0005"),
    );
    check(
        "it is clamped to its bound",
        half(1.5e-6),
        Ok("learning_rate 0.0000015 -> 0.000001"),
    );
    check("at its bound it stays", half(1e-6), Err(AtBound));
    check("below its bound it stays too", half(5e-7), Err(AtBound));
}

#[test]
fn accumulation() {
    let add = |now: u32, amount| {
        let now = Settings {
            gradient_accumulation_steps: now,
            ..settings()
        };
        one(
            plus(SettingKey::GradientAccumulationSteps, amount),
            &now,
            PLAIN,
        )
    };
    check(
        "one more",
        add(1, 1),
        Ok("gradient_accumulation_steps 1 -> 2"),
    );
    check(
        "up to its bound",
        add(63, 1),
        Ok("gradient_accumulation_steps 63 -> 64"),
    );
    check("and no further", add(64, 1), Err(AtBound));
    check(
        "clamped to its bound",
        add(60, 10),
        Ok("gradient_accumulation_steps 60 -> 64"),
    );
    check("past its bound it stays", add(100, 1), Err(AtBound));
    check(
        "one less",
        add(2, -1),
        Ok("gradient_accumulation_steps 2 -> 1"),
    );
    check("not below one", add(1, -1), Err(AtBound));
}

#[test]
fn log_interval_and_chunk() {
    let halve = |key, log_interval, chunk_size| {
        let now = Settings {
            log_interval,
            chunk_size,
            ..settings()
        };
        one(times(key, 0.5), &now, PLAIN)
    };
    let interval = |now| halve(SettingKey::LogInterval, now, 200);
    let chunk = |now| halve(SettingKey::ChunkSize, 10, now);
    check(
        "an interval is halved",
        interval(10),
        Ok("log_interval 10 -> 5"),
    );
    check("rounded down", interval(7), Ok("log_interval 7 -> 3"));
    check(
        "clamped to 1 % of the chunk",
        interval(3),
        Ok("log_interval 3 -> 2"),
    );
    check("there it stays", interval(2), Err(AtBound));
    check("a chunk is halved", chunk(100), Ok("chunk_size 100 -> 50"));
    check(
        "clamped to an eighth, rounded up",
        chunk(25),
        Ok("chunk_size 25 -> 13"),
    );
    check("there it stays", chunk(13), Err(AtBound));
    let long_enough = Situation {
        chunk_size_min: 20,
        ..PLAIN
    };
    let held = |now| {
        let now = Settings {
            chunk_size: now,
            ..settings()
        };
        one(times(SettingKey::ChunkSize, 0.5), &now, long_enough.clone())
    };
    check(
        "clamped to where its gate can still pass",
        held(25),
        Ok("chunk_size 25 -> 20"),
    );
    check("there it stays too", held(20), Err(AtBound));
    check("configured shorter it stays", held(9), Err(AtBound));
    let share = halve(SettingKey::LogInterval, 4, 201);
    check(
        "1 % of 201 is more than 2",
        share,
        Ok("log_interval 4 -> 3"),
    );
}

#[test]
fn extending_the_target() {
    let extend = |loss_dropping, may_extend| {
        let situation = Situation {
            loss_dropping,
            may_extend,
            ..PLAIN
        };
        one(Rung::ExtendTarget, &settings(), situation)
    };
    check(
        "while the loss drops",
        extend(Some(true), true),
        Ok("n_updates 300 -> 400"),
    );
    check(
        "not when it does not",
        extend(Some(false), true),
        Err(LossNotDropping),
    );
    check(
        "not at the first gate",
        extend(None, true),
        Err(NoPreviousGate),
    );
    check(
        "not when extensions are used up",
        extend(Some(true), false),
        Err(ExtensionsUsedUp),
    );
}

#[test]
fn fewer_actions() {
    let defer = |actions: Option<u64>, entropy_collapsed: bool, deferred_before| {
        let now = match actions {
            Some(actions) => with_actions(settings(), actions),
            None => settings(),
        };
        let failed = [metric::LOSS, metric::ACTION_ENTROPY];
        let situation = Situation {
            failed_metrics: failed[..1 + usize::from(entropy_collapsed)].to_vec(),
            deferred_before,
            ..PLAIN
        };
        let climb = climb(&[presets::defer_fewer_actions()], 0, &now, situation);
        assert_eq!(climb.patch, None, "this run keeps its actions");
        match climb.skipped.first() {
            Some(skipped) => Err(skipped.why),
            None => Ok(shown(climb.deferred.as_slice()).concat()),
        }
    };
    check(
        "the next lower power of two",
        defer(Some(8), true, false),
        Ok("n_actions 8 -> 4"),
    );
    check(
        "also from between",
        defer(Some(7), true, false),
        Ok("n_actions 7 -> 4"),
    );
    check(
        "down to two",
        defer(Some(3), true, false),
        Ok("n_actions 3 -> 2"),
    );
    check(
        "two are the fewest",
        defer(Some(2), true, false),
        Err(AtBound),
    );
    check("one stays one", defer(Some(1), true, false), Err(AtBound));
    check("none stay none", defer(Some(0), true, false), Err(AtBound));
    check(
        "not while entropy is high",
        defer(Some(8), false, false),
        Err(EntropyNotCollapsed),
    );
    check(
        "once a run",
        defer(Some(8), true, true),
        Err(AlreadyDeferred),
    );
    check(
        "only where there are actions",
        defer(None, true, false),
        Err(NotASettingOfThisStage),
    );
}

#[test]
fn a_setting_the_stage_does_not_have() {
    let now = settings();
    let interval = one(times(SettingKey::CheckpointInterval, 0.5), &now, PLAIN);
    check(
        "an interval that is not set",
        interval,
        Err(NotASettingOfThisStage),
    );
    let retries = one(plus(SettingKey::MaxRetries, 1), &now, PLAIN);
    check(
        "a setting of the policy",
        retries,
        Err(NotASettingOfThisStage),
    );
    let huge = one(times(SettingKey::BatchSizePerGpu, 1e30), &now, PLAIN);
    check(
        "a count is clamped to its type",
        huge,
        Ok("batch_size_per_gpu 8 -> 4294967295"),
    );
    let nothing = one(times(SettingKey::NUpdates, f64::NAN), &now, PLAIN);
    check("no count becomes 0", nothing, Ok("n_updates 300 -> 1"));
}

/// Checks the rung applied, the cursor after it, and the skipped rungs.
#[track_caller]
fn check_climb(name: &str, cursor: u32, now: &Settings, want: (Option<u32>, u32, &[u32])) {
    let climb = climb(&presets::ladder(ModelKind::Dynamics), cursor, now, PLAIN);
    let skipped: Vec<u32> = climb.skipped.iter().map(|skipped| skipped.rung).collect();
    assert_eq!((climb.rung, climb.cursor, &skipped[..]), want, "{name}");
}

// Dynamics: 1 rate, 2 accumulation - 1, 3 log interval, 4 chunk size.

#[test]
fn the_cursor() {
    let plain = Settings {
        gradient_accumulation_steps: 2,
        ..settings()
    };
    let bottom = Settings {
        learning_rate: scalar(1e-6),
        log_interval: 1,
        chunk_size: 13,
        ..settings()
    };
    let chunk_only = Settings {
        chunk_size: 100,
        ..bottom.clone()
    };
    let rate_only = Settings {
        learning_rate: scalar(1e-3),
        ..bottom.clone()
    };
    check_climb("the first rung first", 0, &plain, (Some(1), 1, &[]));
    check_climb("then the next", 1, &plain, (Some(2), 2, &[]));
    check_climb(
        "after the last comes the first",
        3,
        &plain,
        (Some(4), 0, &[]),
    );
    check_climb(
        "a rung at its bound is skipped",
        1,
        &settings(),
        (Some(3), 3, &[2]),
    );
    check_climb(
        "several are skipped",
        0,
        &chunk_only,
        (Some(4), 0, &[1, 2, 3]),
    );
    check_climb("it wraps around", 1, &rate_only, (Some(1), 1, &[2, 3, 4]));
    check_climb("once only", 2, &bottom, (None, 2, &[3, 4, 1, 2]));
    check_climb(
        "a cursor past the ladder wraps",
        5,
        &plain,
        (Some(2), 2, &[]),
    );
    let none = climb(&[], 7, &plain, PLAIN);
    assert_eq!(
        (none.rung, none.cursor),
        (None, 7),
        "an empty ladder has no rung"
    );
}

#[test]
fn invalid_values_are_ignored() {
    #[track_caller]
    fn check(name: &str, key: SettingKey, to: SettingValue) {
        let mut changed = settings();
        ladder::set(&mut changed, &key, to);
        assert_eq!(changed, settings(), "{name}");
    }
    let real = |value| SettingValue::Real(scalar(value));
    check("no target of 0", SettingKey::NUpdates, count(0));
    check("no chunk of 0", SettingKey::ChunkSize, count(0));
    check("no batch of 0", SettingKey::BatchSizePerGpu, count(0));
    check(
        "no batch past 32 bits",
        SettingKey::BatchSizePerGpu,
        count(1 << 32),
    );
    check(
        "no accumulation past 32 bits",
        SettingKey::GradientAccumulationSteps,
        count(1 << 32),
    );
    check(
        "no knob that the stage does not have",
        SettingKey::knob("dropout"),
        real(0.5),
    );
    check("no rate of 0", SettingKey::LearningRate, real(0.0));
    check("no negative rate", SettingKey::LearningRate, real(-1.0));
    check("no NaN rate", SettingKey::LearningRate, real(f64::NAN));
    check(
        "no infinite rate",
        SettingKey::LearningRate,
        real(f64::INFINITY),
    );
    check("no rate as a count", SettingKey::LearningRate, count(1));
    check("no count as a real number", SettingKey::NUpdates, real(5.0));
    check("no setting of the policy", SettingKey::MaxRetries, count(9));
}

#[test]
fn a_setting_reads_as_it_was_set() {
    let keys = [
        SettingKey::NUpdates,
        SettingKey::ScheduleUpdates,
        SettingKey::BatchSizePerGpu,
        SettingKey::GradientAccumulationSteps,
        SettingKey::LogInterval,
        SettingKey::ChunkSize,
        SettingKey::CheckpointInterval,
        SettingKey::knob(N_ACTIONS),
    ];
    for key in keys {
        let mut changed = with_actions(settings(), 4);
        ladder::set(&mut changed, &key, count(77));
        assert_eq!(ladder::value_of(&changed, &key), Some(count(77)), "{key:?}");
    }
    let mut changed = settings();
    let rate = SettingValue::Real(scalar(0.5));
    ladder::set(&mut changed, &SettingKey::LearningRate, rate);
    assert_eq!(
        ladder::value_of(&changed, &SettingKey::LearningRate),
        Some(rate)
    );
}

/// A stage with a knob from 0.1 to 0.9 that has the value `now`.
fn dropout(now: f64) -> StagePolicy {
    let mut policy = stage_policy(ModelKind::VideoTokenizer);
    let name = KnobName::new("dropout");
    let value = SettingValue::Real(scalar(now));
    policy.settings.knobs.insert(name.clone(), Some(value));
    policy.knobs = vec![Knob {
        name,
        range: KnobRange::Number {
            min: scalar(0.1),
            max: scalar(0.9),
        },
        unit: String::new(),
    }];
    policy
}

#[test]
fn a_custom_knob() {
    let change = |now: f64, rung| {
        let mut policy = dropout(now);
        policy.ladder = vec![rung];
        let climb = ladder::climb(&policy, 0, &policy.settings, &PLAIN);
        match climb.skipped.first() {
            Some(skipped) => Err(skipped.why),
            None => Ok(shown(climb.patch.as_slice()).concat()),
        }
    };
    let halve = |now, factor| change(now, times(SettingKey::knob("dropout"), factor));
    let add = |now, amount| change(now, plus(SettingKey::knob("dropout"), amount));
    check("it is halved", halve(0.8, 0.5), Ok("dropout 0.8 -> 0.4"));
    check(
        "clamped to its lower bound",
        halve(0.15, 0.5),
        Ok("dropout 0.15 -> 0.1"),
    );
    check("there it stays", halve(0.1, 0.5), Err(AtBound));
    check(
        "clamped to its upper bound",
        halve(0.5, 4.0),
        Ok("dropout 0.5 -> 0.9"),
    );
    check(
        "configured beyond its bound it stays",
        halve(0.05, 0.5),
        Err(AtBound),
    );
    check(
        "added to, and clamped to its upper bound",
        add(0.5, 1),
        Ok("dropout 0.5 -> 0.9"),
    );
    check(
        "subtracted from, and clamped to its lower bound",
        add(0.5, -1),
        Ok("dropout 0.5 -> 0.1"),
    );
    let mut settings = dropout(0.5).settings;
    let key = SettingKey::knob("dropout");
    ladder::set(&mut settings, &key, count(1));
    assert_eq!(
        ladder::value_of(&settings, &key),
        Some(SettingValue::Real(scalar(0.5))),
        "a knob keeps its type"
    );
}
