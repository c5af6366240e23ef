//! tinygate trains world models in stages behind gates.

pub mod config;
pub mod events;
pub mod machine;
