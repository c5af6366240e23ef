//! Errors of `torch.save` archives. They have no path: the reader only sees bytes,
//! and the caller knows the file.

/// Why bytes could not be read as a `torch.save` archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the file does not begin like a `torch.save` archive (a zip)")]
    NotAnArchive,
    /// Another known file format; `what` includes what to do about it.
    #[error("the file is {what}")]
    OtherFormat { what: &'static str },
    #[error(
        "the archive is truncated: its table of records is not within the last 64 KiB of the file"
    )]
    Truncated,
    #[error("the archive is damaged: {what}")]
    Damaged { what: String },
    #[error("record `{record}` occurs twice in the archive")]
    DuplicateRecord { record: String },
    #[error("record `{record}` has checksum {found:08x}, and the archive says {expected:08x}")]
    Checksum {
        record: String,
        expected: u32,
        found: u32,
    },
    #[error("the archive has no record `{record}`, which every `torch.save` file has")]
    MissingRecord { record: String },
    #[error("cannot read {what}")]
    Unsupported { what: String },
    #[error("{what} exceeds the limit of {limit}")]
    Limit { what: &'static str, limit: u64 },
    #[error("the pickle is malformed at byte {offset}: {what}")]
    Pickle { offset: usize, what: &'static str },
    #[error("a tensor does not fit its storage: {what}")]
    Tensor { what: String },
}

impl ReadError {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}

/// Why a value could not be written as a `torch.save` archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("a value of class `{class}` was not interpreted and cannot be written")]
    Opaque { class: String },
    #[error("`{name}` is not a valid name of an archive; use 1 to 255 bytes without `/`")]
    Name { name: String },
    #[error("the value is nested deeper than {limit} levels")]
    TooDeep { limit: usize },
    #[error("the archive would exceed {limit} bytes")]
    TooLarge { limit: u64 },
}
