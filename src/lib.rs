//! tinygate trains world models in gated stages.

pub mod checkpoint;
pub mod config;
pub mod controller;
pub mod data;
mod durable;
mod float16;
pub mod picture;
pub mod random;
pub mod run;
pub mod schedule;
pub mod setup;
#[cfg(feature = "train")]
pub mod train;
pub mod trainer;

pub use tinygate_advice as advice;
pub use tinygate_events as events;
pub use tinygate_machine as machine;
pub use tinygate_numbers as numbers;
pub use tinygate_presets as presets;
pub use tinygate_store as store;
