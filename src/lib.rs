//! tinygate trains world models in stages behind gates.

pub mod checkpoint;
