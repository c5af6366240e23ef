//! Checkpoint acceptance: whether a directory, ours or TinyWorlds' own, holds
//! weights that training can go on from. The rules, in order:
//!
//! 1. the three files exist;
//! 2. the model's and the optimizer's file have at least [`BYTES_MIN`] bytes;
//! 3. ours: each file has the size and hash that the log says;
//! 4. the model's file holds a non-empty dict of tensors, all finite; the
//!    optimizer's a non-empty dict whose `state`, if any, is not empty either;
//!    `state.pt` can be read.
//!
//! Invariant: every fault of a directory is a [`RejectReason`], never an error or a
//! panic, and nothing in a file is executed.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::{
    FILE_NAMES, FileRecord, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, UPDATES_DONE, file_size,
    read_bounded,
};
use super::torch_file::{self, ARCHIVE_BYTES_MAX, ReadError, Value};

/// A model or optimizer file smaller than this is a placeholder.
pub const BYTES_MIN: u64 = 1000;

/// The verdict on a checkpoint directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Acceptance {
    Accepted(Accepted),
    Rejected { reason: RejectReason },
}

/// What an accepted checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Updates done, where the checkpoint says so. TinyWorlds' own `_step_149` has
    /// done 150.
    pub step: Option<u64>,
    pub origin: Origin,
    /// Tensors of the model.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// The files as they were when they were judged.
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
    #[error("`{name}` breaks off before its end")]
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
}

impl RejectReason {
    /// The stable name of the reason, as in its serialized form.
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
        }
    }
}

/// Judges the checkpoint in `directory`. `expected_files` is what the log says of a
/// checkpoint of ours, and `None` for one that no log names.
pub fn accept(directory: &Path, expected_files: Option<&[FileRecord]>) -> Acceptance {
    match judge(directory, expected_files) {
        Ok(accepted) => Acceptance::Accepted(accepted),
        Err(reason) => Acceptance::Rejected { reason },
    }
}

fn judge(directory: &Path, expected: Option<&[FileRecord]>) -> Result<Accepted, RejectReason> {
    for name in FILE_NAMES {
        check_size(directory, name)?;
    }
    let mut files = Vec::new();
    let mut read_one = |name: &'static str| {
        let bytes = read(directory, name)?;
        let file = FileRecord::of(name, &bytes);
        if let Some(expected) = expected {
            check_hash(&file, expected)?;
        }
        files.push(file);
        Ok::<_, RejectReason>(bytes)
    };
    // One file in memory at a time; hashed and judged from the same bytes.
    let (tensors, elements) = check_model(&read_one(MODEL_FILE)?)?;
    check_optimizer(&read_one(OPTIMIZER_FILE)?)?;
    let state = open(&read_one(STATE_FILE)?, STATE_FILE)?.value;
    if state.as_dict().is_none() {
        return Err(not_a_dict(STATE_FILE, &state));
    }
    let (step, origin) = step_of(directory, &state);
    Ok(Accepted {
        step,
        origin,
        tensors,
        elements,
        files,
    })
}

fn check_size(directory: &Path, name: &str) -> Result<(), RejectReason> {
    let size = file_size(&directory.join(name));
    let size = size.map_err(|error| unreadable(name, &error))?;
    let name = name.to_owned();
    if size < BYTES_MIN && name != STATE_FILE {
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

/// A non-empty dict in which nothing foreign had a part.
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

fn check_model(bytes: &[u8]) -> Result<(usize, u64), RejectReason> {
    let entries = open_dict(bytes, MODEL_FILE)?;
    let mut elements = 0;
    for (key, value) in &entries {
        let (Some(name), Some(tensor)) = (key.as_str(), value.as_tensor()) else {
            return Err(RejectReason::NotATensor {
                name: MODEL_FILE.to_owned(),
                key: key
                    .as_str()
                    .map_or_else(|| format!("{key:?}"), str::to_owned),
                found: value.kind().to_owned(),
            });
        };
        if !tensor.is_finite() {
            let tensor = name.to_owned();
            return Err(RejectReason::NonFinite { tensor });
        }
        elements += tensor.elements() as u64;
    }
    Ok((entries.len(), elements))
}

/// `{state: {0: .., 1: ..}, param_groups: [..]}`, where the keys are indices or,
/// from PyTorch's distributed checkpoints, names.
fn check_optimizer(bytes: &[u8]) -> Result<(), RejectReason> {
    let name = OPTIMIZER_FILE;
    let dict = Value::Dict(open_dict(bytes, name)?);
    let Some(state) = dict.get("state") else {
        return Ok(());
    };
    match state.as_dict() {
        None => Err(not_a_dict(name, state)),
        Some([]) => {
            let name = name.to_owned();
            Err(RejectReason::EmptyDict { name })
        }
        Some(_) => Ok(()),
    }
}

fn not_a_dict(name: &str, value: &Value) -> RejectReason {
    RejectReason::NotADict {
        name: name.to_owned(),
        found: value.kind().to_owned(),
    }
}

/// Ours say how many updates are done. TinyWorlds saves the index of the last
/// update, counted from 0, in `state.pt` and in the directory's name.
fn step_of(directory: &Path, state: &Value) -> (Option<u64>, Origin) {
    let count = |key| {
        let value = state.get(key).and_then(Value::as_int);
        value.and_then(|value| u64::try_from(value).ok())
    };
    if let Some(updates_done) = count(UPDATES_DONE) {
        return (Some(updates_done), Origin::Tinygate);
    }
    let named = || {
        let name = directory.file_name()?.to_str()?;
        let (_, digits) = name.rsplit_once("_step_")?;
        digits.parse::<u64>().ok()
    };
    let last = count("step").or_else(named);
    (last.and_then(|last| last.checked_add(1)), Origin::Foreign)
}
