//! tinygate trains world models in stages behind gates.

pub mod events;
pub mod store;
