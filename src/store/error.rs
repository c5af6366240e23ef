//! What can go wrong between a log and the disk.
//!
//! Three cases stay apart because their exit codes differ: the log is damaged
//! (3), a newer build wrote it (4), the machine around it failed (2).

use std::io;

use crate::events::Seq;
use crate::events::stored::StoredError;

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(
        "the append expected the log at event {expected}, it is at {actual}\nhint: another writer or a lost append; read the log again"
    )]
    Conflict { expected: Seq, actual: Seq },
    #[error(
        "the disk is full; events before {head} are kept, the append was not\nhint: free some space and resume"
    )]
    DiskFull { head: Seq },
    #[error(
        "the log takes no more events since {why}; events before {head} are kept\nhint: look at the disk, then resume"
    )]
    Refused { head: Seq, why: String },
    #[error("cannot write the log at event {head}: {source}")]
    Io {
        head: Seq,
        #[source]
        source: io::Error,
    },
    #[error("event {seq} cannot be stored: {source}")]
    NotStorable {
        seq: Seq,
        #[source]
        source: StoredError,
    },
    #[error("one append holds {bytes} bytes, at most {limit} are stored together")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("the log's sequence numbers are used up at {head}")]
    Exhausted { head: Seq },
}

/// Why a log cannot be read on, and from where.
#[derive(Debug, thiserror::Error)]
#[error("event {seq}, byte {offset}: {kind}")]
pub struct ReadError {
    /// Events before it are sound.
    pub seq: Seq,
    /// Byte of the file at which the unreadable block begins.
    pub offset: u64,
    #[source]
    pub kind: ReadErrorKind,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadErrorKind {
    #[error("the log is damaged: {what}\nhint: `tinygate export` keeps the events before it")]
    Damaged { what: String },
    #[error("{0}")]
    NewerVersion(Found),
    #[error("there is no log here: {what}")]
    NotALog { what: String },
    #[error("the file is empty: there is no event to read")]
    Empty,
    #[error("cannot read the log: {0}")]
    Io(#[source] io::Error),
}

/// A version that this build does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What carries the version: `log format`, `kind`, `chunk_started`, ...
    pub what: String,
    pub found: u32,
    pub known: u32,
    /// The build that made the log, where its header says so.
    pub written_by: Option<String>,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "written by a newer build: {} {}, this build knows up to {}\nhint: ",
            self.what, self.found, self.known
        )?;
        match &self.written_by {
            Some(version) => write!(f, "use tinygate {version} or later"),
            None => write!(f, "use a later tinygate"),
        }
    }
}
