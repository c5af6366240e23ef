//! What the store's tests share.
#![allow(dead_code)] // each test binary uses its part

pub mod any_event;
