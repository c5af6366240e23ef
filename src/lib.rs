//! tinygate trains world models in stages behind gates.

#[cfg(feature = "train")]
pub mod train;
