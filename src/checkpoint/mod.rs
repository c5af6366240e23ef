//! Checkpoints: three `torch.save` files in a directory, written so that a crash
//! leaves a complete one or none, read without libtorch, and accepted or rejected by
//! fixed rules.
//!
//! [`write`] and [`load`] move a [`CheckpointContent`] to and from a directory,
//! [`accept`] judges a checkpoint, ours or TinyWorlds' own or one in a single file,
//! [`appraise`] says what it can be used for, and [`AdamWState`] is
//! the typed form of the optimizer's file. [`torch_file`] is the format beneath.
//!
//! Nothing here executes a file's content, starts a tensor library, or reads a
//! clock. Invariant: a directory that [`write`] returned is complete on disk, and
//! it opens with PyTorch's `torch.load`.

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
