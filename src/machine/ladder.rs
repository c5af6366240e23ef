//! The ladder of a stage: selects the rung that a failed gate applies.
//!
//! Rungs are tried from the cursor on, wrapping around once. The first that applies is
//! used, and the cursor moves past it; the skipped ones are recorded. A rung does not
//! apply if its condition is false or its value is already at the bound. A value that
//! would pass its bound is clamped.

use alloc::string::String;
use alloc::vec::Vec;

use tinygate_events::{
    KnobName, KnobRange, PatchReason, Rung, RungSkipped, Scalar, SettingKey, SettingPatch,
    SettingValue, Settings, SkipReason, StagePolicy,
};

/// What rungs may depend on, besides the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation<'a> {
    /// Whether the gate loss is below that of the previous gate. `None`: there is no previous gate.
    pub loss_dropping: Option<bool>,
    /// Metrics whose criterion failed at this gate.
    pub failed_metrics: Vec<&'a str>,
    /// The run has already deferred a patch.
    pub deferred_before: bool,
    /// The target may be extended once more.
    pub may_extend: bool,
    /// Smallest number of updates with which a chunk can pass its gate.
    pub chunk_size_min: u64,
}

/// The rung that applies, and those that were skipped before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Climb {
    /// Counted from 1; `None`: no rung applies.
    pub rung: Option<u32>,
    pub cursor: u32,
    pub skipped: Vec<RungSkipped>,
    pub patch: Option<SettingPatch>,
    pub deferred: Option<SettingPatch>,
}

/// Tries the rungs of a stage's ladder from `cursor` (counted from 0).
pub fn climb(
    policy: &StagePolicy,
    cursor: u32,
    settings: &Settings,
    situation: &Situation<'_>,
) -> Climb {
    let ladder = &policy.ladder;
    let mut skipped = Vec::new();
    let rungs = ladder.len();
    for offset in 0..rungs {
        let index = (cursor as usize + offset) % rungs;
        let number = index as u32 + 1;
        match try_rung(policy, &ladder[index], number, settings, situation) {
            Ok(Applied { patch, deferred }) => {
                let cursor = ((index + 1) % rungs) as u32;
                return Climb {
                    rung: Some(number),
                    cursor,
                    skipped,
                    patch,
                    deferred,
                };
            }
            Err(why) => skipped.push(RungSkipped { rung: number, why }),
        }
    }
    Climb {
        rung: None,
        cursor,
        skipped,
        patch: None,
        deferred: None,
    }
}

struct Applied {
    patch: Option<SettingPatch>,
    deferred: Option<SettingPatch>,
}

fn try_rung(
    policy: &StagePolicy,
    rung: &Rung,
    number: u32,
    settings: &Settings,
    situation: &Situation<'_>,
) -> Result<Applied, SkipReason> {
    let why = PatchReason::Rung(number);
    let (key, to) = match rung {
        Rung::Multiply { key, factor } => (key, multiplied(value_of(settings, key), *factor)),
        Rung::Add { key, amount } => (key, added(value_of(settings, key), *amount)),
        Rung::ExtendTarget => return extend_target(settings, situation, why),
        Rung::DeferPowerOfTwo { key, when_failed } => {
            return defer_power_of_two(policy, settings, key, when_failed, situation, why);
        }
    };
    let to = to.ok_or(SkipReason::NotASettingOfThisStage)?;
    let clamp = Clamp {
        policy,
        settings,
        chunk_size_min: situation.chunk_size_min,
    };
    change(key, to, why, clamp)
}

fn multiplied(value: Option<SettingValue>, factor: Scalar) -> Option<SettingValue> {
    Some(match value? {
        SettingValue::Real(value) => SettingValue::Real(Scalar::new(value.get() * factor.get())),
        SettingValue::Count(count) => SettingValue::Count(scale(count, factor.get())),
    })
}

fn added(value: Option<SettingValue>, amount: i64) -> Option<SettingValue> {
    Some(match value? {
        SettingValue::Real(value) => SettingValue::Real(Scalar::new(value.get() + amount as f64)),
        SettingValue::Count(count) => SettingValue::Count(count.saturating_add_signed(amount)),
    })
}

fn extend_target(
    settings: &Settings,
    situation: &Situation<'_>,
    why: PatchReason,
) -> Result<Applied, SkipReason> {
    match situation.loss_dropping {
        None => return Err(SkipReason::NoPreviousGate),
        Some(false) => return Err(SkipReason::LossNotDropping),
        Some(true) => {}
    }
    if !situation.may_extend {
        return Err(SkipReason::ExtensionsUsedUp);
    }
    let from = settings.n_updates;
    let to = from.saturating_add(settings.chunk_size);
    Ok(Applied {
        patch: Some(count_patch(SettingKey::NUpdates, from, to, why)),
        deferred: None,
    })
}

fn defer_power_of_two(
    policy: &StagePolicy,
    settings: &Settings,
    key: &SettingKey,
    when_failed: &[String],
    situation: &Situation<'_>,
    why: PatchReason,
) -> Result<Applied, SkipReason> {
    let failed = |metric: &String| situation.failed_metrics.contains(&metric.as_str());
    if !when_failed.iter().any(failed) {
        return Err(SkipReason::EntropyNotCollapsed);
    }
    if situation.deferred_before {
        return Err(SkipReason::AlreadyDeferred);
    }
    let Some(SettingValue::Count(from)) = value_of(settings, key) else {
        return Err(SkipReason::NotASettingOfThisStage);
    };
    let least = if let Some(KnobRange::Integer { min, .. }) = key_range(policy, key) {
        min.max(1)
    } else {
        1
    };
    let to = lower_power_of_two(from)
        .filter(|to| least <= *to)
        .ok_or(SkipReason::AtBound)?;
    Ok(Applied {
        patch: None,
        deferred: Some(count_patch(key.clone(), from, to, why)),
    })
}

/// The range of a knob. Core settings have other bounds.
fn key_range(policy: &StagePolicy, key: &SettingKey) -> Option<KnobRange> {
    if let SettingKey::Knob(name) = key {
        policy.knob(name).map(|knob| knob.range)
    } else {
        None
    }
}

/// What the bounds of a setting depend on.
#[derive(Clone, Copy)]
struct Clamp<'a> {
    policy: &'a StagePolicy,
    settings: &'a Settings,
    chunk_size_min: u64,
}

/// Clamps `to`. If the setting is already at its bound, the rung does not apply.
fn change(
    key: &SettingKey,
    to: SettingValue,
    why: PatchReason,
    clamp: Clamp<'_>,
) -> Result<Applied, SkipReason> {
    let from = value_of(clamp.settings, key).ok_or(SkipReason::NotASettingOfThisStage)?;
    let to = match to {
        SettingValue::Real(value) => SettingValue::Real(clamp_real(key, value, clamp)),
        SettingValue::Count(count) => SettingValue::Count(clamp_count(key, count, clamp)),
    };
    if from == to {
        return Err(SkipReason::AtBound);
    }
    Ok(Applied {
        patch: Some(SettingPatch {
            key: key.clone(),
            from,
            to,
            why,
        }),
        deferred: None,
    })
}

/// Clamping never changes a value that was configured beyond its bound.
fn clamp_real(key: &SettingKey, value: Scalar, clamp: Clamp<'_>) -> Scalar {
    if *key == SettingKey::LearningRate {
        let least = clamp
            .policy
            .bounds
            .learning_rate_min
            .get()
            .min(clamp.settings.learning_rate.get());
        return Scalar::new(value.get().max(least));
    }
    match (key_range(clamp.policy, key), value_of(clamp.settings, key)) {
        (Some(KnobRange::Number { min, max }), Some(SettingValue::Real(now))) => {
            let (least, most) = (min.get().min(now.get()), max.get().max(now.get()));
            Scalar::new(value.get().max(least).min(most))
        }
        _ => value,
    }
}

fn clamp_count(key: &SettingKey, count: u64, clamp: Clamp<'_>) -> u64 {
    let Clamp {
        policy, settings, ..
    } = clamp;
    let bounds = &policy.bounds;
    match key {
        SettingKey::GradientAccumulationSteps => {
            let now = u64::from(settings.gradient_accumulation_steps);
            let (least, most) = (bounds.accumulation_min.max(1), bounds.accumulation_max);
            let (least, most) = (u64::from(least).min(now), u64::from(most).max(now));
            count.max(least).min(most)
        }
        SettingKey::LogInterval => {
            let least = share(settings.chunk_size, bounds.log_interval_min_share);
            count.max(least.min(settings.log_interval))
        }
        SettingKey::ChunkSize => {
            let least = share(policy.settings.chunk_size, bounds.chunk_size_min_share);
            count.max(least.max(clamp.chunk_size_min).min(settings.chunk_size))
        }
        SettingKey::BatchSizePerGpu => count.clamp(1, u64::from(u32::MAX)),
        SettingKey::Knob(_) => match (key_range(policy, key), value_of(settings, key)) {
            (Some(KnobRange::Integer { min, max }), Some(SettingValue::Count(now))) => {
                count.max(min.min(now)).min(max.max(now))
            }
            _ => count,
        },
        SettingKey::LearningRate
        | SettingKey::NUpdates
        | SettingKey::ScheduleUpdates
        | SettingKey::CheckpointInterval
        | SettingKey::MaxRetries => count.max(1),
    }
}

/// `share` of `whole`, rounded up, at least 1.
fn share(whole: u64, share: Scalar) -> u64 {
    let exact = whole as f64 * share.get();
    let down = exact as u64;
    let up = if (down as f64) < exact {
        down.saturating_add(1)
    } else {
        down
    };
    up.max(1)
}

fn scale(count: u64, factor: f64) -> u64 {
    // The cast rounds towards zero and saturates; NaN becomes 0.
    (count as f64 * factor) as u64
}

/// The next lower power of two; `None` at 1 or below.
fn lower_power_of_two(count: u64) -> Option<u64> {
    let below = count.checked_sub(1)?;
    Some(1_u64 << below.checked_ilog2()?)
}

fn count_patch(key: SettingKey, from: u64, to: u64, why: PatchReason) -> SettingPatch {
    SettingPatch {
        key,
        from: SettingValue::Count(from),
        to: SettingValue::Count(to),
        why,
    }
}

/// The current value of a setting. `None`: the stage does not have this setting.
pub fn value_of(settings: &Settings, key: &SettingKey) -> Option<SettingValue> {
    match key {
        SettingKey::LearningRate => Some(SettingValue::Real(settings.learning_rate)),
        SettingKey::NUpdates => Some(SettingValue::Count(settings.n_updates)),
        SettingKey::ScheduleUpdates => Some(SettingValue::Count(settings.schedule_updates)),
        SettingKey::BatchSizePerGpu => {
            Some(SettingValue::Count(u64::from(settings.batch_size_per_gpu)))
        }
        SettingKey::GradientAccumulationSteps => Some(SettingValue::Count(u64::from(
            settings.gradient_accumulation_steps,
        ))),
        SettingKey::LogInterval => Some(SettingValue::Count(settings.log_interval)),
        SettingKey::ChunkSize => Some(SettingValue::Count(settings.chunk_size)),
        SettingKey::CheckpointInterval => settings.checkpoint_interval.map(SettingValue::Count),
        SettingKey::Knob(name) => settings.knob(name),
        SettingKey::MaxRetries => None,
    }
}

/// Sets a setting. An invalid value is ignored: core counts must not be 0, a learning rate must be
/// finite and above 0, and a knob keeps its type.
pub fn set(settings: &mut Settings, key: &SettingKey, value: SettingValue) {
    match (key, value) {
        (SettingKey::Knob(name), value) => set_knob(settings, name, value),
        (SettingKey::LearningRate, SettingValue::Real(real)) => {
            if real.get() > 0.0 && real.get().is_finite() {
                settings.learning_rate = real;
            }
        }
        (_, SettingValue::Real(_) | SettingValue::Count(0)) => {}
        (key, SettingValue::Count(count)) => set_count(settings, key, count),
    }
}

fn set_knob(settings: &mut Settings, name: &KnobName, value: SettingValue) {
    let Some(Some(now)) = settings.knobs.get_mut(name) else {
        return;
    };
    match (&now, value) {
        (SettingValue::Count(_), SettingValue::Count(_)) => *now = value,
        (SettingValue::Real(_), SettingValue::Real(real)) if real.get().is_finite() => *now = value,
        (SettingValue::Count(_) | SettingValue::Real(_), _) => {}
    }
}

fn set_count(settings: &mut Settings, key: &SettingKey, count: u64) {
    let small = u32::try_from(count).ok();
    match key {
        SettingKey::NUpdates => settings.n_updates = count,
        SettingKey::ScheduleUpdates => settings.schedule_updates = count,
        SettingKey::LogInterval => settings.log_interval = count,
        SettingKey::ChunkSize => settings.chunk_size = count,
        SettingKey::CheckpointInterval => settings.checkpoint_interval = Some(count),
        SettingKey::BatchSizePerGpu => {
            settings.batch_size_per_gpu = small.unwrap_or(settings.batch_size_per_gpu)
        }
        SettingKey::GradientAccumulationSteps => {
            settings.gradient_accumulation_steps =
                small.unwrap_or(settings.gradient_accumulation_steps);
        }
        SettingKey::LearningRate | SettingKey::MaxRetries | SettingKey::Knob(_) => {}
    }
}
