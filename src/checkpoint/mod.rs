//! Checkpoints: three `torch.save` files in a directory, written so that a crash
//! leaves a whole one or none, read without libtorch, and accepted or rejected by
//! fixed rules.
//!
//! [`write`] and [`load`] move a [`CheckpointContent`] to and from a directory,
//! [`accept`] judges a directory, ours or TinyWorlds' own, and [`AdamWState`] is
//! the typed form of the optimizer's file. [`torch_file`] is the format beneath.
//!
//! Nothing here executes what a file says, starts a tensor library, or reads a
//! clock. Invariant: a directory that [`write`] returned is complete on disk, and
//! it opens with PyTorch's `torch.load`.

mod acceptance;
mod directory;
mod optimizer;
pub mod torch_file;

pub use acceptance::{Acceptance, Accepted, BYTES_MIN, Origin, RejectReason, accept};
pub use directory::{
    CheckpointContent, FILE_NAMES, FileRecord, LoadError, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE,
    UPDATES_DONE, WriteError, Written, load, remove_leftovers, write,
};
pub use optimizer::{AdamWState, Moments, OptimizerError, Parameter, ParameterGroup};
