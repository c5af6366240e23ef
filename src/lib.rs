//! tinygate trains world models in stages behind gates.

pub mod checkpoint;
pub mod config;
pub mod controller;
pub mod data;
mod durable;
pub mod events;
mod float16;
pub mod machine;
pub mod picture;
pub mod random;
pub mod setup;
pub mod store;
#[cfg(feature = "train")]
pub mod train;
pub mod units;
