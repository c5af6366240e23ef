//! The interface of a log to the rest of the program.

use super::error::ReadError;
use super::folder::Moved;
use std::io;
use tinygate_advice::{Advice, Hint};
use tinygate_events::stored::StoredError;
use tinygate_events::{Event, Record, Seq};

/// When an append returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once it is accepted. It is durable within half a second, or with the next durable append.
    Lazy,
    /// Once its events, and all before them, survive a power cut.
    Durable,
}

/// Events of a log in order, from a sequence number on. Ends after the first error.
pub type Records<'a> = Box<dyn Iterator<Item = Result<Record, ReadError>> + 'a>;

/// A log of events, appended by one writer.
pub trait EventLog: Send + Sync {
    /// Appends `events`, each with its time (milliseconds since 1970 UTC), and
    /// returns the new head. Either all of them are kept or none: even after a
    /// crash a log never ends between two events of one append.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] if `expected_next` is not the head; nothing was
    /// appended then. After any other error the log is sound up to the head in
    /// the error, and earlier [`Durability::Lazy`] appends may be lost too: read
    /// the log again before appending more.
    fn append(
        &self,
        expected_next: Seq,
        events: &[(u64, Event)],
        durability: Durability,
    ) -> Result<Seq, AppendError>;

    /// The sequence number of the next event, which is also the number of events.
    fn head(&self) -> Seq;

    /// Waits until everything accepted is durable, and returns the head.
    fn sync(&self) -> Result<Seq, AppendError>;

    /// Every event accepted so far from `from` on.
    fn read(&self, from: Seq) -> Result<Records<'_>, ReadError>;
}

/// Why events were not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the append expected the log at event {expected}, it is at {actual}")]
    Conflict { expected: Seq, actual: Seq },
    #[error("the disk is full; events before {head} are kept, the append was not")]
    DiskFull { head: Seq },
    #[error("the log takes no more events since {why}; events before {head} are kept")]
    Refused { head: Seq, why: String },
    #[error("cannot write the log at event {head}: {source}; events before it are kept")]
    Io {
        head: Seq,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Moved(#[from] Moved),
    #[error("bug: event {seq} cannot be stored: {source}; the log is sound")]
    NotStorable {
        seq: Seq,
        #[source]
        source: StoredError,
    },
    #[error(
        "bug: one append holds {bytes} bytes, at most {limit} are stored together; the log is sound"
    )]
    TooLarge { bytes: u64, limit: u64 },
    #[error("the log's sequence numbers are used up at {head}")]
    Exhausted { head: Seq },
}

impl Advice for AppendError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            AppendError::Conflict { .. } => vec![Hint::text(
                "another process writes the log, or an append was lost; read the log again",
            )],
            AppendError::DiskFull { .. } => vec![Hint::text("free some space and resume")],
            AppendError::Refused { .. } | AppendError::Io { .. } => {
                vec![Hint::text("check the disk, then resume")]
            }
            AppendError::Moved(moved) => moved.hints(),
            AppendError::NotStorable { .. } | AppendError::TooLarge { .. } => {
                vec![Hint::ReportWithLog, Hint::text("resume with another build")]
            }
            AppendError::Exhausted { .. } => vec![Hint::StartFromCheckpoint],
        }
    }
}
