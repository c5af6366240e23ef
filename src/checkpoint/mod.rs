//! Checkpoints: three `torch.save` files in a directory, written so that a crash
//! leaves a complete one or none, read without libtorch, and accepted or rejected by
//! fixed rules.
//!
//! [`write`] and [`load`] convert between a [`CheckpointContent`] and a directory.
//! [`accept`] judges a checkpoint of tinygate or TinyWorlds, or a model in one file;
//! [`appraise`] says what it can be used for. [`AdamWState`] is the typed form of the
//! optimizer's file, and [`torch_file`] the file format.
//!
//! Nothing here executes a file's content, uses a tensor library, or reads a clock.
//! Invariant: when [`write`] returns, the directory is complete on disk, and
//! PyTorch's `torch.load` can read it.

mod acceptance;
mod directory;
mod location;
mod names;
mod optimizer;
mod parts;
pub mod torch_file;

pub use acceptance::{
    Acceptance, Accepted, Appraisal, BYTES_MIN, MAGNITUDE_MAX, Need, Origin, RejectReason, accept,
    accept_for, appraise, updates_of,
};
pub use directory::{
    CheckpointContent, FileRecord, LoadError, UPDATES_DONE, WriteError, Written, load,
    load_weights, remove_leftovers, write,
};
pub use location::{
    FILE_NAMES, Location, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, SeveralFiles, is_checkpoint_file,
};
pub use names::{MixedPrefix, StepName, step_name};
pub use optimizer::{
    AdamWState, Moments, OptimizerError, Parameter, ParameterGroup, decays, moments_of,
    optimizer_name, other_settings,
};
