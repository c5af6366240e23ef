//! Checkpoint acceptance: whether training can resume from a checkpoint of tinygate
//! or TinyWorlds. The rules, in order:
//!
//! 1. the three files exist, or one file has everything;
//! 2. the model's and the optimizer's file have at least [`BYTES_MIN`] bytes;
//! 3. if the log references the checkpoint, each file has the recorded size and hash;
//! 4. the model is a non-empty dict of tensors, all finite and none so large that
//!    training would overflow; the optimizer's a non-empty dict whose `state`, if
//!    any, is not empty either, with moments that are finite and squares that are
//!    not negative; `state.pt` can be read.
//!
//! If only the weights are needed, only the model is judged. [`appraise`] says what a
//! checkpoint can be used for.
//!
//! Invariant: every fault of a checkpoint is a [`RejectReason`], never an error or a
//! panic, and nothing in a file is executed.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::advice::{Advice, Hint};

use super::directory::{CheckpointContent, FileRecord, UPDATES_DONE, file_size, read_bounded};
use super::location::{FILE_NAMES, Location, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE};
use super::names::{step_name, unwrapped};
use super::optimizer::{moments_for, updates_in};
use super::parts::{NoParts, Parts, split};
use super::torch_file::{self, ARCHIVE_BYTES_MAX, DType, ReadError, Tensor, Value};

/// A model or optimizer file smaller than this is a placeholder.
pub const BYTES_MIN: u64 = 1000;
/// A larger weight or mean gradient overflows in training: the sum of a few hundred
/// such squares exceeds `float32`.
pub const MAGNITUDE_MAX: f64 = 1e18;

/// What a checkpoint is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To resume: weights and moments.
    Resume,
    /// To build on, or to start from with moments of zero.
    Weights,
}

/// What a checkpoint can be used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appraisal {
    Resume(Accepted),
    /// Its weights are sound; the reason says why training cannot resume with its moments.
    WeightsOnly(Accepted, RejectReason),
    Nothing(RejectReason),
}

/// The verdict on a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Acceptance {
    Accepted(Accepted),
    Rejected { reason: RejectReason },
}

/// What an accepted checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Updates done, if the checkpoint says how many; 150 for TinyWorlds' `_step_149`.
    pub step: Option<u64>,
    pub origin: Origin,
    /// Number of the model's tensors.
    pub tensors: usize,
    /// Number of their elements.
    pub elements: u64,
    /// Whether weights of `float64` are rounded to `float32`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rounded: bool,
    /// The files, as judged.
    pub files: Vec<FileRecord>,
}

/// Who wrote a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Tinygate,
    Foreign,
}

/// Why a checkpoint is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum RejectReason {
    #[error("`{name}` is missing")]
    MissingFile { name: String },
    #[error("`{name}` cannot be read: {error}")]
    Unreadable { name: String, error: String },
    #[error("`{name}` has {size} bytes, and a real one has at least {minimum}")]
    TooSmall {
        name: String,
        size: u64,
        minimum: u64,
    },
    #[error("`{name}` has {size} bytes, and at most {maximum} are read")]
    TooLarge {
        name: String,
        size: u64,
        maximum: u64,
    },
    #[error("the log has no hash of `{name}`")]
    NotInLog { name: String },
    #[error("`{name}` has {found} bytes, and the log says {expected}")]
    SizeMismatch {
        name: String,
        expected: u64,
        found: u64,
    },
    #[error("`{name}` has BLAKE3 hash {found}, and the log says {expected}")]
    HashMismatch {
        name: String,
        expected: String,
        found: String,
    },
    #[error("`{name}` is not a `torch.save` archive")]
    NotAnArchive { name: String },
    #[error("`{name}` breaks off before its end, or more than 64 KiB of other bytes follow it")]
    Truncated { name: String },
    #[error("`{name}` is damaged: {what}")]
    Damaged { name: String, what: String },
    #[error("`{name}` cannot be read by tinygate: {what}")]
    Unsupported { name: String, what: String },
    #[error("`{name}` depends on foreign code `{global}`, which is never executed")]
    ForeignCode { name: String, global: String },
    #[error("`{name}` holds a {found}, expected a dict")]
    NotADict { name: String, found: String },
    #[error("`{name}` holds an empty dict")]
    EmptyDict { name: String },
    #[error("`{name}` holds a {found} at `{key}`, expected a tensor under a name")]
    NotATensor {
        name: String,
        key: String,
        found: String,
    },
    #[error("weight `{tensor}` has an element that is not finite")]
    NonFinite { tensor: String },
    /// Another known file format; `what` includes what to do about it.
    #[error("`{name}` is {what}")]
    OtherFormat { name: String, what: String },
    #[error("{what}")]
    SeveralFiles { what: String },
    #[error(
        "`{name}` has no model: it holds {keys}; expected `model`, `state_dict`, `model_state_dict` or tensors by name"
    )]
    NoModel { name: String, keys: String },
    #[error("the names in `{name}`: {what}")]
    MixedPrefix { name: String, what: String },
    #[error(
        "weight `{tensor}` has the element {value}; beyond {MAGNITUDE_MAX:e} training overflows"
    )]
    TooLargeWeight { tensor: String, value: String },
    #[error("weight `{tensor}` has the element {value}, which no float32 can hold")]
    Overflow { tensor: String, value: String },
    #[error(
        "it is a mixture of {experts} experts (`use_moe`, `num_experts`), a model that tinygate does not have"
    )]
    MixtureOfExperts { experts: usize },
    #[error("`{name}` holds no optimizer's state")]
    NoOptimizer { name: String },
    #[error("of the optimizer, `{moment}` of parameter {parameter} has {what}")]
    BadMoment {
        parameter: String,
        moment: String,
        what: String,
    },
    #[error("{what}")]
    Optimizer { what: String },
}

impl RejectReason {
    /// The stable name of the reason, the same as in its serialized form.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingFile { .. } => "missing_file",
            Self::Unreadable { .. } => "unreadable",
            Self::TooSmall { .. } => "too_small",
            Self::TooLarge { .. } => "too_large",
            Self::NotInLog { .. } => "not_in_log",
            Self::SizeMismatch { .. } => "size_mismatch",
            Self::HashMismatch { .. } => "hash_mismatch",
            Self::NotAnArchive { .. } => "not_an_archive",
            Self::Truncated { .. } => "truncated",
            Self::Damaged { .. } => "damaged",
            Self::Unsupported { .. } => "unsupported",
            Self::ForeignCode { .. } => "foreign_code",
            Self::NotADict { .. } => "not_a_dict",
            Self::EmptyDict { .. } => "empty_dict",
            Self::NotATensor { .. } => "not_a_tensor",
            Self::NonFinite { .. } => "non_finite",
            Self::OtherFormat { .. } => "other_format",
            Self::SeveralFiles { .. } => "several_files",
            Self::NoModel { .. } => "no_model",
            Self::MixedPrefix { .. } => "mixed_prefix",
            Self::TooLargeWeight { .. } => "too_large_weight",
            Self::Overflow { .. } => "overflow",
            Self::MixtureOfExperts { .. } => "mixture_of_experts",
            Self::NoOptimizer { .. } => "no_optimizer",
            Self::BadMoment { .. } => "bad_moment",
            Self::Optimizer { .. } => "optimizer",
        }
    }
}

impl Advice for RejectReason {
    /// Empty where the reason itself says what to do.
    fn hints(&self) -> Vec<Hint> {
        let text = match self {
            Self::OtherFormat { .. } | Self::SeveralFiles { .. } => return Vec::new(),
            Self::MissingFile { .. } => {
                "copy the checkpoint again, with all three files, or give a model in one file"
            }
            Self::Unreadable { .. } => "make it a regular file that can be read",
            Self::TooSmall { .. } => "copy the file again; this one is a placeholder",
            Self::TooLarge { .. } => {
                "save the model's `state_dict()` alone, or without what it does not need"
            }
            Self::NotInLog { .. } | Self::SizeMismatch { .. } | Self::HashMismatch { .. } => {
                "the file was changed or replaced after the run wrote it; copy it back, or take an earlier checkpoint"
            }
            Self::NotAnArchive { .. } => "save it again with `torch.save`",
            Self::Truncated { .. } | Self::Damaged { .. } => "copy or download the file again",
            Self::Unsupported { .. } => {
                "load it with PyTorch, and save its `state_dict()` again with `torch.save`"
            }
            Self::ForeignCode { .. } => {
                "load it where you trust its code, and save its `state_dict()` alone"
            }
            Self::NotADict { .. } | Self::NoModel { .. } => {
                "save the model's `state_dict()`, or a dict that has it at `model`"
            }
            Self::EmptyDict { .. } => "save the checkpoint after at least one update",
            Self::NotATensor { .. } => {
                "save the model's `state_dict()` alone, with dense tensors of real numbers"
            }
            Self::MixedPrefix { .. } => "save the `state_dict()` of the model without its wrappers",
            Self::NonFinite { .. } | Self::TooLargeWeight { .. } | Self::Overflow { .. } => {
                "take a checkpoint from before training diverged"
            }
            Self::MixtureOfExperts { .. } => "give a model that was trained with `use_moe=false`",
            Self::NoOptimizer { .. } | Self::BadMoment { .. } | Self::Optimizer { .. } => {
                return vec![Hint::FreshOptimizer];
            }
        };
        vec![Hint::text(text)]
    }
}

/// Judges the checkpoint at `path`, to resume from. `expected_files` are the files that
/// the log records; `None` for a checkpoint that no log references.
pub fn accept(path: &Path, expected_files: Option<&[FileRecord]>) -> Acceptance {
    accept_for(Need::Resume, path, expected_files)
}

/// Judges the checkpoint at `path` for a need.
pub fn accept_for(need: Need, path: &Path, expected: Option<&[FileRecord]>) -> Acceptance {
    match judge(need, path, expected) {
        Ok(judged) => Acceptance::Accepted(judged.accepted),
        Err(reason) => Acceptance::Rejected { reason },
    }
}

/// Returns what the checkpoint at `path` can be used for. This is stricter than
/// [`accept`], which takes any optimizer's state: here resuming needs an AdamW of this
/// model.
pub fn appraise(path: &Path, expected: Option<&[FileRecord]>) -> Appraisal {
    let reason = match judge(Need::Resume, path, expected) {
        Ok(judged) => {
            return match judged.moments() {
                Ok(()) => Appraisal::Resume(judged.accepted),
                Err(what) => {
                    Appraisal::WeightsOnly(judged.accepted, RejectReason::Optimizer { what })
                }
            };
        }
        Err(reason) => reason,
    };
    match judge(Need::Weights, path, expected) {
        Ok(judged) => Appraisal::WeightsOnly(judged.accepted, reason),
        Err(reason) => Appraisal::Nothing(reason),
    }
}

/// A verdict, and what was read for it. Nothing is read twice, because a file may change
/// in between.
struct Judged {
    accepted: Accepted,
    /// Names without wrappers and shapes of the trained parameters.
    parameters: Vec<(String, Vec<usize>)>,
    optimizer: Value,
}

impl Judged {
    /// Whether the optimizer is an AdamW of this model.
    fn moments(&self) -> Result<(), String> {
        let parameters = self.parameters.iter();
        let parameters: Vec<_> = parameters
            .map(|(name, shape)| (name.as_str(), shape.as_slice()))
            .collect();
        moments_for(&parameters, &self.optimizer).map(drop)
    }
}

fn judge(need: Need, path: &Path, expected: Option<&[FileRecord]>) -> Result<Judged, RejectReason> {
    if path.join(".metadata").is_file() && !path.join(MODEL_FILE).exists() {
        return Err(RejectReason::OtherFormat {
            name: ".metadata".to_owned(),
            what: "the index of a distributed checkpoint; make one file of it with `python -m \
                   torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
                .to_owned(),
        });
    }
    let location = Location::of(path).map_err(|error| RejectReason::SeveralFiles {
        what: error.to_string(),
    })?;
    match (location, need) {
        (Location::Directory(directory), Need::Resume) => judge_directory(&directory, expected),
        (Location::Directory(directory), Need::Weights) => judge_weights(&directory, expected),
        (Location::File(file), need) => judge_file(need, &file, expected),
    }
}

fn judge_directory(
    directory: &Path,
    expected: Option<&[FileRecord]>,
) -> Result<Judged, RejectReason> {
    for name in FILE_NAMES {
        check_size(directory, name)?;
    }
    let mut files = Vec::new();
    let mut read_one = |name: &'static str| {
        let bytes = read(directory, name)?;
        files.push(recorded(name, &bytes, expected)?);
        Ok::<_, RejectReason>(bytes)
    };
    // One file is in memory at a time, and hashed and judged from the same bytes.
    let model = check_model(MODEL_FILE, open_dict(&read_one(MODEL_FILE)?, MODEL_FILE)?)?;
    let optimizer = open_dict(&read_one(OPTIMIZER_FILE)?, OPTIMIZER_FILE)?;
    let optimizer = check_optimizer(OPTIMIZER_FILE, Value::Dict(optimizer))?;
    let state = open(&read_one(STATE_FILE)?, STATE_FILE)?.value;
    if state.as_dict().is_none() {
        return Err(not_a_dict(STATE_FILE, &state));
    }
    let (step, origin) = step_of(directory, &state, Some(&optimizer));
    Ok(model.judged(step, origin, files, optimizer))
}

/// Judges the model's file. The others must only match the log, if it references them.
fn judge_weights(
    directory: &Path,
    expected: Option<&[FileRecord]>,
) -> Result<Judged, RejectReason> {
    check_size(directory, MODEL_FILE)?;
    let bytes = read(directory, MODEL_FILE)?;
    let mut files = vec![recorded(MODEL_FILE, &bytes, expected)?];
    let model = check_model(MODEL_FILE, open_dict(&bytes, MODEL_FILE)?)?;
    drop(bytes);
    let named =
        |name: &str| expected.is_some_and(|files| files.iter().any(|file| file.name == name));
    for name in [OPTIMIZER_FILE, STATE_FILE] {
        if named(name) {
            files.push(recorded(name, &read(directory, name)?, expected)?);
        }
    }
    let value = |name: &str| {
        let size = file_size(&directory.join(name)).ok()?;
        let bytes = read(directory, name)
            .ok()
            .filter(|_| size <= ARCHIVE_BYTES_MAX)?;
        Some(open(&bytes, name).ok()?.value)
    };
    let state = value(STATE_FILE).unwrap_or(Value::None);
    let mut found = step_of(directory, &state, None);
    if found.0.is_none() {
        found = step_of(directory, &state, value(OPTIMIZER_FILE).as_ref());
    }
    Ok(model.judged(found.0, found.1, files, Value::None))
}

fn judge_file(
    need: Need,
    file: &Path,
    expected: Option<&[FileRecord]>,
) -> Result<Judged, RejectReason> {
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let folder = file.parent().unwrap_or(Path::new("."));
    check_size(folder, &name)?;
    let bytes = read(folder, &name)?;
    let files = vec![recorded(&name, &bytes, expected)?];
    let loaded = open(&bytes, &name)?;
    drop(bytes);
    let Parts {
        model,
        optimizer,
        state,
    } = split(loaded.value).map_err(|error| no_parts(&name, error))?;
    let (Value::Dict(entries) | Value::OrderedDict(entries)) = model else {
        return Err(not_a_dict(&name, &model));
    };
    if entries.is_empty() {
        return Err(RejectReason::EmptyDict { name });
    }
    let model = check_model(&name, entries)?;
    let optimizer = match (need, optimizer) {
        (Need::Resume, Some(optimizer)) => Some(check_optimizer(&name, optimizer)?),
        (Need::Resume, None) => return Err(RejectReason::NoOptimizer { name }),
        (Need::Weights, optimizer) => optimizer,
    };
    let (step, origin) = step_of(file, &state, optimizer.as_ref());
    let optimizer = optimizer.unwrap_or(Value::None);
    Ok(model.judged(step, origin, files, optimizer))
}

fn no_parts(name: &str, error: NoParts) -> RejectReason {
    let name = name.to_owned();
    match error {
        NoParts::NotADict { found } => RejectReason::NotADict { name, found },
        NoParts::Empty => RejectReason::EmptyDict { name },
        NoParts::NoModel { keys } => RejectReason::NoModel {
            name,
            keys: keys.join(", "),
        },
        NoParts::Module { class } => RejectReason::ForeignCode {
            name,
            global: class,
        },
    }
}

fn recorded(
    name: &str,
    bytes: &[u8],
    expected: Option<&[FileRecord]>,
) -> Result<FileRecord, RejectReason> {
    let file = FileRecord::of(name, bytes);
    if let Some(expected) = expected {
        check_hash(&file, expected)?;
    }
    Ok(file)
}

fn check_size(directory: &Path, name: &str) -> Result<(), RejectReason> {
    let size = file_size(&directory.join(name));
    let size = size.map_err(|error| unreadable(name, &error))?;
    let name = name.to_owned();
    if size < BYTES_MIN && name != STATE_FILE {
        if let Some(what) = torch_file::other_format(&read(directory, &name)?) {
            let what = what.to_owned();
            return Err(RejectReason::OtherFormat { name, what });
        }
        let minimum = BYTES_MIN;
        return Err(RejectReason::TooSmall {
            name,
            size,
            minimum,
        });
    }
    if size > ARCHIVE_BYTES_MAX {
        let maximum = ARCHIVE_BYTES_MAX;
        return Err(RejectReason::TooLarge {
            name,
            size,
            maximum,
        });
    }
    Ok(())
}

fn read(directory: &Path, name: &str) -> Result<Vec<u8>, RejectReason> {
    read_bounded(&directory.join(name)).map_err(|error| unreadable(name, &error))
}

fn unreadable(name: &str, error: &io::Error) -> RejectReason {
    let name = name.to_owned();
    let missing = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    if missing.contains(&error.kind()) {
        return RejectReason::MissingFile { name };
    }
    let error = error.to_string();
    RejectReason::Unreadable { name, error }
}

fn check_hash(file: &FileRecord, expected: &[FileRecord]) -> Result<(), RejectReason> {
    let name = file.name.clone();
    let Some(expected) = expected.iter().find(|expected| expected.name == name) else {
        return Err(RejectReason::NotInLog { name });
    };
    if file.size != expected.size {
        return Err(RejectReason::SizeMismatch {
            name,
            expected: expected.size,
            found: file.size,
        });
    }
    if file.blake3_hex != expected.blake3_hex {
        return Err(RejectReason::HashMismatch {
            name,
            expected: expected.blake3_hex.clone(),
            found: file.blake3_hex.clone(),
        });
    }
    Ok(())
}

fn open(bytes: &[u8], name: &str) -> Result<torch_file::Loaded, RejectReason> {
    torch_file::read(bytes).map_err(|error| {
        let (name, what) = (name.to_owned(), error.to_string());
        match error {
            ReadError::NotAnArchive => RejectReason::NotAnArchive { name },
            ReadError::OtherFormat { what } => RejectReason::OtherFormat {
                name,
                what: what.to_owned(),
            },
            ReadError::Truncated => RejectReason::Truncated { name },
            ReadError::Unsupported { .. } | ReadError::Limit { .. } => {
                RejectReason::Unsupported { name, what }
            }
            ReadError::Damaged { .. }
            | ReadError::DuplicateRecord { .. }
            | ReadError::Checksum { .. }
            | ReadError::MissingRecord { .. }
            | ReadError::Pickle { .. }
            | ReadError::Tensor { .. } => RejectReason::Damaged { name, what },
        }
    })
}

/// A non-empty dict without foreign objects.
fn open_dict(bytes: &[u8], name: &str) -> Result<Vec<(Value, Value)>, RejectReason> {
    let loaded = open(bytes, name)?;
    if let Some(global) = loaded.foreign.into_iter().next() {
        let name = name.to_owned();
        return Err(RejectReason::ForeignCode { name, global });
    }
    let (Value::Dict(entries) | Value::OrderedDict(entries)) = loaded.value else {
        return Err(not_a_dict(name, &loaded.value));
    };
    if entries.is_empty() {
        let name = name.to_owned();
        return Err(RejectReason::EmptyDict { name });
    }
    Ok(entries)
}

/// A model whose tensors are sound.
struct Model {
    tensors: usize,
    elements: u64,
    rounded: bool,
    parameters: Vec<(String, Vec<usize>)>,
}

impl Model {
    fn judged(
        self,
        step: Option<u64>,
        origin: Origin,
        files: Vec<FileRecord>,
        optimizer: Value,
    ) -> Judged {
        let accepted = Accepted {
            step,
            origin,
            tensors: self.tensors,
            elements: self.elements,
            rounded: self.rounded,
            files,
        };
        Judged {
            accepted,
            parameters: self.parameters,
            optimizer,
        }
    }
}

fn check_model(file: &str, entries: Vec<(Value, Value)>) -> Result<Model, RejectReason> {
    let mut model = Model {
        tensors: entries.len(),
        elements: 0,
        rounded: false,
        parameters: Vec::new(),
    };
    let (mut names, mut tensors) = (Vec::new(), Vec::new());
    for (key, value) in &entries {
        let (Some(name), Some(tensor)) = (key.as_str(), value.as_tensor()) else {
            return Err(RejectReason::NotATensor {
                name: file.to_owned(),
                key: key
                    .as_str()
                    .map_or_else(|| format!("{key:?}"), str::to_owned),
                found: value.kind().to_owned(),
            });
        };
        check_weight(name, tensor)?;
        names.push(name);
        tensors.push(tensor);
        model.elements += tensor.elements() as u64;
        model.rounded |= tensor.dtype() == DType::F64;
    }
    let plain = unwrapped(&names).map_err(|error| RejectReason::MixedPrefix {
        name: file.to_owned(),
        what: error.to_string(),
    })?;
    let floats = plain.into_iter().zip(tensors);
    let floats = floats.filter(|(_, tensor)| tensor.dtype().is_float());
    model.parameters = floats
        .map(|(name, tensor)| (name, tensor.shape().to_vec()))
        .collect();
    match experts(&names) {
        0 => Ok(model),
        experts => Err(RejectReason::MixtureOfExperts { experts }),
    }
}

fn check_weight(name: &str, tensor: &Tensor) -> Result<(), RejectReason> {
    if !tensor.dtype().is_float() {
        return Ok(());
    }
    let tensor_name = name.to_owned();
    let sound = |number: &f64| number.abs() <= MAGNITUDE_MAX;
    let Some(bad) = tensor.numbers().find(|number| !sound(number)) else {
        return Ok(());
    };
    let value = format!("{bad:e}");
    Err(if !tensor.is_finite() {
        RejectReason::NonFinite {
            tensor: tensor_name,
        }
    } else if bad.abs() > f64::from(f32::MAX) {
        RejectReason::Overflow {
            tensor: tensor_name,
            value,
        }
    } else {
        RejectReason::TooLargeWeight {
            tensor: tensor_name,
            value,
        }
    })
}

/// The number of experts in a mixture-of-experts block; 0 if there is none.
fn experts(names: &[&str]) -> usize {
    let number = |name: &&str| {
        let (_, behind) = name.split_once(".experts.")?;
        behind.split('.').next()?.parse::<usize>().ok()
    };
    let numbers = names.iter().filter_map(number);
    numbers.max().map_or(0, |last| last.saturating_add(1))
}

/// Checks `{state: {0: .., 1: ..}, param_groups: [..]}`, whose keys are indices, or names
/// in PyTorch's distributed checkpoints.
fn check_optimizer(name: &str, optimizer: Value) -> Result<Value, RejectReason> {
    let name = name.to_owned();
    match optimizer.as_dict() {
        None => return Err(not_a_dict(&name, &optimizer)),
        Some([]) => return Err(RejectReason::EmptyDict { name }),
        Some(_) => {}
    }
    let Some(state) = optimizer.get("state") else {
        return Ok(optimizer);
    };
    match state.as_dict() {
        None => return Err(not_a_dict(&name, state)),
        Some([]) => return Err(RejectReason::EmptyDict { name }),
        Some(entries) => {
            for (parameter, moments) in entries {
                check_moments(parameter, moments)?;
            }
        }
    }
    Ok(optimizer)
}

/// Checks the tensors that an optimizer keeps for one parameter.
fn check_moments(parameter: &Value, moments: &Value) -> Result<(), RejectReason> {
    for (key, value) in moments.as_dict().unwrap_or_default() {
        let (Some(moment), Some(tensor)) = (key.as_str(), value.as_tensor()) else {
            continue;
        };
        let bad = |what: String| RejectReason::BadMoment {
            parameter: match parameter.as_int() {
                Some(index) => index.to_string(),
                None => format!("`{}`", parameter.as_str().unwrap_or("?")),
            },
            moment: moment.to_owned(),
            what,
        };
        if !tensor.is_finite() {
            return Err(bad("an element that is not finite".to_owned()));
        }
        let square = moment.contains("_sq");
        let limit = if square {
            f64::from(f32::MAX)
        } else {
            MAGNITUDE_MAX
        };
        for number in tensor.numbers() {
            if square && number < 0.0 {
                return Err(bad(format!(
                    "the element {number:e}, and a square is never negative"
                )));
            }
            if number.abs() > limit {
                return Err(bad(format!(
                    "the element {number:e}; beyond {limit:e} training overflows"
                )));
            }
        }
    }
    Ok(())
}

fn not_a_dict(name: &str, value: &Value) -> RejectReason {
    RejectReason::NotADict {
        name: name.to_owned(),
        found: value.kind().to_owned(),
    }
}

/// Updates done, according to a checkpoint that was loaded from `path`.
pub fn updates_of(path: &Path, content: &CheckpointContent) -> Option<u64> {
    step_of(path, &content.state, Some(&content.optimizer)).0
}

/// Tinygate's checkpoints say how many updates are done. TinyWorlds saves the index of the
/// last update, counted from 0, in `state.pt` and in the checkpoint's name. Without either
/// the optimizer's count is used.
fn step_of(path: &Path, state: &Value, optimizer: Option<&Value>) -> (Option<u64>, Origin) {
    let count = |key| {
        let value = state.get(key).and_then(Value::as_number);
        let whole = value.filter(|value| value.fract() == 0.0 && (0.0..1e15).contains(value));
        whole.map(|value| value as u64)
    };
    if let Some(updates_done) = count(UPDATES_DONE) {
        return (Some(updates_done), Origin::Tinygate);
    }
    let named = |path: &Path| Some(step_name(path.file_name()?.to_str()?)?.step);
    let last = count("step").or_else(|| named(path));
    // A published file may be in a folder that has the name.
    let last = last.or_else(|| named(path.parent()?).filter(|_| path.is_file()));
    let done = last.and_then(|last| last.checked_add(1));
    (done.or_else(|| updates_in(optimizer?)), Origin::Foreign)
}
