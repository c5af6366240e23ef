//! Every event that a log can hold.
//!
//! The live types are here and change with the code. The forms on disk are in `stored`:
//! one frozen struct per kind and version, upgraded by `From` or `TryFrom`. The JSON form
//! of the live types is stable, for people and tools. Nothing here reads a file or a
//! clock.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod event;
mod ids;
mod kinds;
mod policy;
mod scalar;
mod settings;
#[cfg(feature = "stored")]
pub mod stored;

pub use event::*;
pub use ids::{Attempt, ChunkNumber, KnobName, ModelName, Restart, Seq, StageName, Step};
pub use policy::*;
pub use scalar::Scalar;
pub use settings::{Knob, KnobRange, SettingKey, SettingValue, Settings};
