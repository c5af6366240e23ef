//! Frames of a game: read from files, cut into windows, ordered, and scored by trivial predictors.
//!
//! [`Frames`] holds every pixel as the byte in the file. [`Windows`] defines which frames make a sample and which samples
//! are held out, [`order`] which sample an update sees. [`trivial`] scores the mean image and the previous frame as
//! predictions.
//!
//! Nothing here depends on libtorch, writes a file or resizes a picture.
//!
//! Invariant: the same frames give the same windows, order and hash on every machine.

mod advice;
mod error;
mod frames;
mod hdf5;
mod image;
mod names;
mod numpy;
pub mod order;
mod sniff;
mod source;
pub mod still;
pub mod trivial;
mod windows;

pub use error::{DataError, Format, WindowError};
pub use frames::Frames;
pub use source::{PassedOver, Recording};
pub use windows::{WindowId, WindowShape, Windows};
