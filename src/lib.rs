//! tinygate trains world models in stages behind gates.

pub mod checkpoint;
pub mod controller;
pub mod events;
pub mod machine;
pub mod store;
#[cfg(feature = "train")]
pub mod train;
