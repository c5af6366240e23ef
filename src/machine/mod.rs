//! The rules by which gates are decided.

pub mod presets;
