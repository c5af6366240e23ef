//! Errors of models and training.
//!
//! libtorch reports every error as text. Only this module reads that text, and only to distinguish a lack of memory,
//! after which the run uses smaller batches, from other errors.
//! Invariant: no error of libtorch is dropped, and none becomes a panic.

use std::fmt::Display;

use tch::TchError;

use super::models::ConfigError;
use crate::advice::{Advice, Hint};

pub type Result<T> = std::result::Result<T, TrainError>;

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The device or the host has too little memory for this batch and model.
    #[error("out of memory: {message}")]
    OutOfMemory { message: String },
    /// Any other failure inside libtorch, with its message.
    #[error("libtorch failed: {0}")]
    Tensor(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    State(#[from] StateError),
    /// A batch, mask or request that does not fit the stage or the model.
    #[error("{what} is {found}, expected {expected}")]
    Input {
        what: &'static str,
        found: String,
        expected: String,
    },
}

/// Weights or optimizer state that do not belong to the model they are loaded into.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    #[error("tensor `{name}` is missing; this config's model has it")]
    Missing { name: String },
    #[error("tensor `{name}` is not part of this config's model")]
    Unexpected { name: String },
    #[error("tensor `{name}` is given twice")]
    Twice { name: String },
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        name: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("tensor `{name}` has type {found}, expected {expected}")]
    Element {
        name: String,
        found: &'static str,
        expected: &'static str,
    },
    #[error("tensor `{name}` has {found} bytes, expected {expected} for its shape")]
    Length {
        name: String,
        found: usize,
        expected: usize,
    },
    #[error(
        "buffer `{name}` differs from that of this config: the model was made with other settings"
    )]
    Buffer { name: String },
}

impl TrainError {
    /// `what` is empty, and must have at least one item.
    pub(super) fn missing(what: &'static str) -> TrainError {
        TrainError::Input {
            what,
            found: "empty".to_owned(),
            expected: "at least one".to_owned(),
        }
    }
}

impl From<TchError> for TrainError {
    fn from(error: TchError) -> Self {
        let message = if let TchError::Torch(text) = &error {
            first_line(text).to_owned()
        } else {
            error.to_string()
        };
        if says_out_of_memory(&message) {
            TrainError::OutOfMemory { message }
        } else {
            TrainError::Tensor(message)
        }
    }
}

/// The text of an error with its hints, for events and messages between ranks: both hold text only. Hints that name what
/// this program can do are left out, since only the program has the words for them.
pub(super) fn with_hints<E: Display + Advice>(error: &E) -> String {
    let mut text = error.to_string();
    for hint in error.hints() {
        if let Hint::Text(hint) = hint {
            text = format!("{text}\n\nhint: {hint}");
        }
    }
    text
}

/// The first line is the message; a C++ stack trace follows it.
fn first_line(text: &str) -> &str {
    text.trim_start().lines().next().unwrap_or("")
}

pub(super) fn says_out_of_memory(message: &str) -> bool {
    const SIGNS: [&str; 8] = [
        "out of memory",
        "outofmemory",
        "can't allocate memory",
        "not enough memory",
        "cannot allocate memory",
        "bad_alloc",
        "alloc_failed",
        "failed to allocate",
    ];
    let lower = message.to_lowercase();
    SIGNS.iter().any(|sign| lower.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, message: &str, want_out_of_memory: bool) {
        let error = TrainError::from(TchError::Torch(message.to_owned()));
        let is = matches!(error, TrainError::OutOfMemory { .. });
        assert_eq!(is, want_out_of_memory, "{name}: {error}");
    }

    #[test]
    fn out_of_memory_is_distinguished_from_other_failures() {
        check(
            "the CPU allocator of Linux",
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)",
            true,
        );
        check(
            "the CPU allocator elsewhere",
            "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 800 bytes.",
            true,
        );
        check(
            "the CUDA caching allocator",
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 14.58 GiB",
            true,
        );
        check(
            "the CUDA runtime",
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
            true,
        );
        check(
            "cuBLAS",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            true,
        );
        check("cuDNN", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", true);
        check("the C++ library", "std::bad_alloc", true);
        check(
            "shapes that do not fit",
            "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0",
            false,
        );
        check(
            "a device that does not exist",
            "CUDA error: no CUDA-capable device is detected",
            false,
        );
        check(
            "another error with `memory` in its message",
            "Expected contiguous memory format",
            false,
        );
        check("an empty message", "", false);
    }

    #[test]
    fn hints_as_text_name_nothing_of_the_program() {
        let text = "other data".to_owned();
        let error = crate::train::ranks::FollowError::Data { text };
        assert_eq!(error.hints().len(), 2);
        assert_eq!(
            with_hints(&error),
            "other data\n\nhint: every rank needs the run's own data where its config names it"
        );
    }

    #[test]
    fn the_message_ends_before_the_stack_trace() {
        let text = "mat1 and mat2 shapes cannot be multiplied\nException raised from meta at x.cpp:1\nframe #0";
        let error = TrainError::from(TchError::Torch(text.to_owned()));
        assert_eq!(
            error.to_string(),
            "libtorch failed: mat1 and mat2 shapes cannot be multiplied"
        );
    }

    #[test]
    fn a_real_allocation_that_cannot_succeed_is_out_of_memory() {
        let huge = tch::Tensor::f_zeros([1_i64 << 52], (tch::Kind::Float, tch::Device::Cpu));
        let error = huge.map_err(TrainError::from).err();
        assert!(
            matches!(error, Some(TrainError::OutOfMemory { .. })),
            "{error:?}"
        );
    }
}
