//! The inputs of a gate, and the values that criteria and findings derive from them.

use alloc::vec::Vec;

use super::chunk::ChunkState;
use super::edition::Edition;
use super::lineage::Judgement;
use super::statistics;
use tinygate_events::{
    Limit, Metric, PictureScored, Scalar, Skill as SkillMeasure, StagePolicy, Step,
};

/// With a trivial loss below this, skill cannot be measured.
pub const TRIVIAL_LOSS_MIN: f64 = 1e-9;

/// Everything a gate may depend on, besides the stage's policy.
#[derive(Clone, Copy, Debug)]
pub struct GateInputs<'a> {
    pub chunk: &'a ChunkState,
    /// The current target, which a person may have changed since the chunk started.
    pub target: Step,
    /// The verdict on the checkpoint at the gate. `None`: there is no checkpoint.
    pub checkpoint: Option<&'a Judgement>,
    /// Losses of the trivial predictor, and its name.
    pub trivial: &'a [Metric],
    pub predictor: &'a str,
    /// The latest loss is the median of this many samples.
    pub latest_window: u32,
    pub edition: Edition,
}

/// A number as decisions record it. All NaNs become the same one, since machines compute
/// different NaN bits.
pub fn canonical(value: f64) -> Scalar {
    Scalar::new(if value.is_nan() {
        f64::from_bits(0x7ff8_0000_0000_0000)
    } else {
        value
    })
}

/// The values that criteria and findings read, computed once.
pub struct Gate<'a> {
    pub policy: &'a StagePolicy,
    pub inputs: &'a GateInputs<'a>,
    pub losses: Vec<f64>,
    pub gate_loss: Option<f64>,
    pub latest_loss: Option<f64>,
    /// One per skill of the policy, in its order.
    skills: Vec<Skill>,
    pub at_target: bool,
}

#[derive(Clone, Copy)]
pub enum Skill {
    Measured(f64),
    /// The trivial loss is below 1e-9, or there is nothing to predict.
    NothingToMeasure,
    Missing,
    NotFinite,
}

impl<'a> Gate<'a> {
    pub fn new(policy: &'a StagePolicy, inputs: &'a GateInputs<'a>) -> Gate<'a> {
        let losses = inputs.chunk.values(&policy.loss);
        let window = (inputs.latest_window.max(1) as usize).min(losses.len());
        Gate {
            policy,
            inputs,
            gate_loss: statistics::mean(&losses),
            latest_loss: latest(&losses[losses.len() - window..]),
            skills: policy
                .skills
                .iter()
                .map(|measure| skill(inputs, measure))
                .collect(),
            at_target: inputs.target <= inputs.chunk.to,
            losses,
        }
    }

    pub fn chunk(&self) -> &'a ChunkState {
        self.inputs.chunk
    }

    /// Skills by name, in the order of the policy.
    pub fn skills(&self) -> impl Iterator<Item = (&'a str, Skill)> {
        let names = self.policy.skills.iter().map(|skill| skill.name.as_str());
        names.zip(self.skills.iter().copied())
    }

    pub fn skill(&self, name: &str) -> Skill {
        let found = self.skills().find(|(known, _)| *known == name);
        found.map_or(Skill::Missing, |(_, skill)| skill)
    }

    /// The picture of this gate.
    pub fn picture(&self) -> Option<&'a PictureScored> {
        let chunk = self.chunk();
        chunk
            .picture
            .as_ref()
            .filter(|picture| picture.step == chunk.to && !picture.frames.is_empty())
    }
}

/// The median; a single sample is returned unchanged, so that a NaN stays visible.
fn latest(samples: &[f64]) -> Option<f64> {
    match samples {
        [only] => Some(*only),
        _ => statistics::median(samples),
    }
}

fn skill(inputs: &GateInputs<'_>, measure: &SkillMeasure) -> Skill {
    let trivial = match trivial_loss(inputs.trivial, measure) {
        Ok(loss) => loss,
        Err(skill) => return skill,
    };
    let chunk = inputs.chunk;
    let scored = chunk
        .held_out
        .as_ref()
        .filter(|scored| scored.step == chunk.to);
    let Some(loss) = scored.and_then(|scored| Metric::find(&scored.values, &measure.held_out))
    else {
        return Skill::Missing;
    };
    let skill = 1.0 - loss.get() / trivial;
    if skill.is_finite() {
        Skill::Measured(skill)
    } else {
        Skill::NotFinite
    }
}

/// The trivial loss with which skill is computed, or the reason why there is none.
fn trivial_loss(trivial: &[Metric], measure: &SkillMeasure) -> Result<f64, Skill> {
    let measured = trivial.iter().find(|metric| metric.name == measure.trivial);
    let value = measured.ok_or(Skill::Missing)?.value;
    match value.map(|loss| (loss.get(), loss.finite())) {
        None if measure.trivial_may_be_null => Err(Skill::NothingToMeasure),
        None => Err(Skill::Missing),
        Some((_, None)) => Err(Skill::NotFinite),
        Some((loss, Some(_))) if loss < TRIVIAL_LOSS_MIN => Err(Skill::NothingToMeasure),
        Some((loss, Some(_))) => Ok(loss),
    }
}

/// The limit for a gate at `step`. `None` for an empty schedule, with which a criterion fails.
pub fn limit_at(limit: &Limit, step: Step) -> Option<f64> {
    match limit {
        Limit::Constant(limit) => Some(limit.get()),
        Limit::Schedule(entries) => entries
            .iter()
            .find(|(until, _)| step.get() <= *until)
            .or(entries.last())
            .map(|(_, limit)| limit.get()),
    }
}

/// Whether a value is above its limit or NaN.
pub fn exceeds(value: f64, limit: f64) -> bool {
    value.is_nan() || limit < value
}

/// Whether a value is below its limit or NaN.
pub fn falls_short(value: f64, limit: f64) -> bool {
    value.is_nan() || value < limit
}
