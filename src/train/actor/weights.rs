//! Weights and moments between the trainer and a checkpoint's files.
//!
//! Invariant: what is written and read back is the same bytes, so training goes
//! on from a checkpoint as if it had not stopped. Nothing that differs between
//! two such runs (a time, a host) is written into the files.

use super::super::{Element, NamedTensor, OptimizerState, StageTrainer, WEIGHT_DECAY, decays};
use super::Failure;
use crate::checkpoint::torch_file::{DType, Tensor, Value};
use crate::checkpoint::{
    self, AdamWState, CheckpointContent, Moments, Parameter, ParameterGroup, UPDATES_DONE,
};
use crate::events::FileRecord;
use crate::machine::TrainChunk;

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// What a checkpoint of `trainer` after update `step` holds.
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
    let config = trainer.config();
    let shape = [
        ("frame_size", config.frame_size),
        ("patch_size", config.patch_size),
        ("context_length", config.context_length),
        ("embed_dim", config.embed_dim),
        ("num_heads", config.num_heads),
        ("hidden_dim", config.hidden_dim),
        ("num_blocks", config.num_blocks),
        ("latent_dim", config.latent_dim),
        ("num_bins", config.num_bins),
        ("n_actions", config.n_actions),
    ];
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

/// The model's tensors as the trainer takes them.
pub fn from_content(content: &CheckpointContent) -> Result<Vec<NamedTensor>, String> {
    content
        .model
        .iter()
        .map(|(name, tensor)| from_file(name, tensor))
        .collect()
}

/// The moments as the trainer takes them.
pub fn optimizer_from_content(content: &CheckpointContent) -> Result<OptimizerState, String> {
    let state = AdamWState::from_value(&content.optimizer).map_err(|error| error.to_string())?;
    // PyTorch orders parameters by group; the model's file has the order of `state_dict()`.
    let mut moments: std::collections::BTreeMap<String, Moments> =
        std::collections::BTreeMap::new();
    for parameter in state.groups.into_iter().flat_map(|group| group.parameters) {
        let name = parameter
            .name
            .ok_or("the optimizer's parameters have no names")?;
        if let Some(of) = parameter.moments {
            moments.insert(name, of);
        }
    }
    let mut result = OptimizerState {
        step: 0,
        exp_avg: Vec::new(),
        exp_avg_sq: Vec::new(),
    };
    for (name, _) in &content.model {
        let Some(of) = moments.get(name) else {
            continue;
        };
        result.step = result.step.max(of.step);
        result.exp_avg.push(from_file(name, &of.exp_avg)?);
        result.exp_avg_sq.push(from_file(name, &of.exp_avg_sq)?);
    }
    Ok(result)
}

/// Hashes as the log has them, for acceptance.
pub fn expected_files(files: &[FileRecord]) -> Vec<checkpoint::FileRecord> {
    let record = |file: &FileRecord| checkpoint::FileRecord {
        name: file.name.clone(),
        size: file.size,
        blake3_hex: file.blake3.clone(),
    };
    files.iter().map(record).collect()
}

/// Hashes as acceptance has them, for the log.
pub fn logged_files(files: Vec<checkpoint::FileRecord>) -> Vec<FileRecord> {
    let record = |file: checkpoint::FileRecord| FileRecord {
        name: file.name,
        size: file.size,
        blake3: file.blake3_hex,
    };
    files.into_iter().map(record).collect()
}

/// TinyWorlds' two groups: what decays, then what does not.
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
    let element = if tensor.dtype() == DType::F32 {
        Element::F32
    } else if tensor.dtype() == DType::I64 {
        Element::I64
    } else {
        return Err(format!(
            "tensor `{name}` has elements of {}, expected float32 or int64",
            tensor.dtype().name()
        ));
    };
    Ok(NamedTensor {
        name: name.to_owned(),
        shape: tensor.shape().to_vec(),
        element,
        bytes: tensor.data().to_vec(),
    })
}
