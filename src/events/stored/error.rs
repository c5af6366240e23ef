//! Why a stored form is refused.

use alloc::string::String;

/// Why an event cannot be read from its stored form, or given one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// Not damage: a build that knows more wrote it.
    #[error("{what} {found} is not known, this build knows up to {known}")]
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
    #[error("`{kind}` takes {bytes} bytes, at most {limit} can be stored")]
    TooLarge {
        kind: &'static str,
        bytes: usize,
        limit: usize,
    },
}
