//! Errors of stored forms.

use alloc::string::String;

/// Why an event cannot be decoded or encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// Not damage: a newer build wrote it.
    #[error("the {what} is {found}, but this build knows only up to {known}")]
    NewerVersion {
        what: String,
        found: u32,
        known: u32,
    },
    #[error("`{kind}` version {version}: {what}")]
    Malformed {
        kind: &'static str,
        version: u16,
        what: String,
    },
    #[error("`{kind}` has {bytes} bytes, but at most {limit} can be stored")]
    TooLarge {
        kind: &'static str,
        bytes: usize,
        limit: usize,
    },
}
