//! Converts weights and moments between the trainer and a checkpoint's files.
//!
//! Invariant: what is written and read back is the same bytes, so training resumes
//! from a checkpoint as if it had not stopped. Nothing that differs between
//! two such runs (a time, a host) is written to the files.

use super::super::{Element, NamedTensor, OptimizerState, StageTrainer, WEIGHT_DECAY, decays};
use super::failure::Failure;
use crate::checkpoint::torch_file::{DType, Tensor, Value};
use crate::checkpoint::{
    AdamWState, CheckpointContent, Moments, Parameter, ParameterGroup, UPDATES_DONE, moments_of,
};
use crate::machine::TrainChunk;

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// The content of a checkpoint of `trainer` after update `step`.
pub fn content(
    trainer: &StageTrainer,
    train: &TrainChunk,
    step: u64,
    samples_seen: u64,
    learning_rate: f64,
) -> Result<CheckpointContent, Failure> {
    let model = trainer
        .export()?
        .into_iter()
        .map(to_file)
        .collect::<Result<Vec<_>, Failure>>()?;
    let base = train.settings.learning_rate.get();
    let optimizer = adamw(trainer.export_optimizer()?, learning_rate, base)?.to_value()?;
    let count = |value: u64| Value::Int(i64::try_from(value).unwrap_or(i64::MAX));
    let scheduler = Value::dict([
        ("last_epoch", count(step)),
        ("_step_count", count(step.saturating_add(1))),
        ("base_lrs", Value::List(vec![Value::Float(base)])),
        ("_last_lr", Value::List(vec![Value::Float(learning_rate)])),
    ]);
    let shape = trainer.config().entries();
    let state = Value::dict([
        ("scheduler_state_dict", scheduler),
        (
            "config",
            Value::dict(shape.map(|(key, value)| (key, Value::Int(value)))),
        ),
        // TinyWorlds' `step` is the index of the last update.
        ("step", count(step.saturating_sub(1))),
        ("timestamp", Value::None),
        (UPDATES_DONE, count(step)),
        ("samples_seen", count(samples_seen)),
        ("stage", Value::Str(train.stage.as_str().to_owned())),
    ]);
    Ok(CheckpointContent {
        model,
        optimizer,
        state,
    })
}

/// The model's tensors, for the trainer.
pub fn from_content(content: &CheckpointContent) -> Result<Vec<NamedTensor>, String> {
    content
        .model
        .iter()
        .map(|(name, tensor)| from_file(name, tensor))
        .collect()
}

/// The moments, for the trainer.
///
/// # Errors
/// What is missing in the state, or how its parameters differ from the model's.
pub fn optimizer_from_content(content: &CheckpointContent) -> Result<OptimizerState, String> {
    let mut result = OptimizerState {
        step: 0,
        exp_avg: Vec::new(),
        exp_avg_sq: Vec::new(),
    };
    for (name, of) in moments_of(content)? {
        result.step = result.step.max(of.step);
        result.exp_avg.push(from_file(&name, &of.exp_avg)?);
        result.exp_avg_sq.push(from_file(&name, &of.exp_avg_sq)?);
    }
    Ok(result)
}

/// TinyWorlds' two groups: parameters with weight decay, then those without.
fn adamw(state: OptimizerState, learning_rate: f64, base: f64) -> Result<AdamWState, Failure> {
    let (mut decayed, mut plain) = (Vec::new(), Vec::new());
    for (exp_avg, exp_avg_sq) in state.exp_avg.into_iter().zip(state.exp_avg_sq) {
        let shape: Vec<i64> = exp_avg.shape.iter().map(|size| *size as i64).collect();
        let group = if decays(&exp_avg.name, &shape) {
            &mut decayed
        } else {
            &mut plain
        };
        group.push(Parameter {
            name: Some(exp_avg.name.clone()),
            moments: Some(Moments {
                step: state.step,
                exp_avg: to_file(exp_avg)?.1,
                exp_avg_sq: to_file(exp_avg_sq)?.1,
            }),
        });
    }
    let group = |weight_decay: f64, parameters: Vec<Parameter>| ParameterGroup {
        learning_rate,
        initial_learning_rate: Some(base),
        weight_decay,
        betas: BETAS,
        eps: EPSILON,
        parameters,
    };
    Ok(AdamWState {
        groups: vec![group(WEIGHT_DECAY, decayed), group(0.0, plain)],
    })
}

fn to_file(tensor: NamedTensor) -> Result<(String, Tensor), Failure> {
    let dtype = match tensor.element {
        Element::F32 => DType::F32,
        Element::I64 => DType::I64,
    };
    let stored = Tensor::new(dtype, tensor.shape, tensor.bytes).map_err(|error| {
        Failure::Bug(format!(
            "tensor `{}` cannot be stored: {error}",
            tensor.name
        ))
    })?;
    Ok((tensor.name, stored))
}

fn from_file(name: &str, tensor: &Tensor) -> Result<NamedTensor, String> {
    let tensor = tensor
        .for_training()
        .map_err(|error| format!("tensor `{name}`: {error}"))?;
    let element = if tensor.dtype() == DType::F32 {
        Element::F32
    } else {
        Element::I64
    };
    Ok(NamedTensor {
        name: name.to_owned(),
        shape: tensor.shape().to_vec(),
        element,
        bytes: tensor.into_data(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint;

    fn fixture() -> CheckpointContent {
        let path = "tests/fixtures/tinyworlds_checkpoint/video_tokenizer_step_149";
        checkpoint::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    /// A moment of the parameter with this number in the file.
    fn numbered<'v>(content: &'v CheckpointContent, index: i64, field: &str) -> &'v Tensor {
        let state = content.optimizer.get("state").and_then(Value::as_dict);
        let of_index = |(key, _): &&(Value, Value)| key.as_int() == Some(index);
        let (_, moments) = state.unwrap().iter().find(of_index).unwrap();
        moments.get(field).and_then(Value::as_tensor).unwrap()
    }

    #[test]
    fn numbered_parameters_are_in_tinyworlds_order() {
        let content = fixture();
        let state = optimizer_from_content(&content).unwrap();
        assert_eq!(state.step, 150);
        assert_eq!(state.exp_avg.len(), 60);
        // The first and last with weight decay, then the first and last without.
        for (index, name) in [
            (0, "encoder.patch_embed.proj.weight"),
            (25, "decoder.frame_head.to_pixels.weight"),
            (26, "encoder.patch_embed.proj.bias"),
            (59, "decoder.frame_head.to_pixels.bias"),
        ] {
            let first = state.exp_avg.iter().find(|one| one.name == name).unwrap();
            let second = state
                .exp_avg_sq
                .iter()
                .find(|one| one.name == name)
                .unwrap();
            assert_eq!(
                first.bytes,
                numbered(&content, index, "exp_avg").data(),
                "{name}"
            );
            assert_eq!(
                second.bytes,
                numbered(&content, index, "exp_avg_sq").data(),
                "{name}"
            );
        }
    }

    #[test]
    fn parameters_in_another_order_are_refused() {
        let mut other = fixture();
        other.model.swap(0, 2);
        let error = optimizer_from_content(&other).unwrap_err();
        assert!(
            error.contains("shape [16, 192, 1, 1], expected [16, 16]"),
            "{error}"
        );
        other.model.truncate(40);
        let error = optimizer_from_content(&other).unwrap_err();
        assert!(error.contains("its groups have [26, 34]"), "{error}");
    }
}
