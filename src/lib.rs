//! tinygate trains world models in stages behind gates.

pub mod data;
pub mod picture;
pub mod random;
