//! The log of a run: append-only, hash-chained, in two copies.
//!
//! [`EventLog`] is what the rest of the program sees: append at an expected
//! sequence number, read from one. [`MemoryLog`] keeps it in memory for tests.
//! Nothing here knows what an event means, except whether it is a decision.
//!
//! Invariant: what was acknowledged as durable is read back, whole and in
//! order, or an error names the place up to which the log is sound.

mod block;
pub mod disk;
mod error;
mod folder;
mod journal;
mod lock;
mod memory;
mod presence;
mod reader;
mod recover;
mod repair;
mod scratch;
mod sled_mirror;
#[expect(clippy::module_inception, reason = "the store is the log on the disk")]
mod store;
mod transfer;
mod verify;
mod writer;

pub use block::{FILE_HEADER, FILE_MAGIC, FileHeader, MAX_BLOCK};
pub use error::{
    AppendError, ChainHead, Found, LogCopy, OpenError, ReadError, ReadErrorKind, Repair,
};
pub use folder::{Moved, RunFolder};
pub use lock::{RunLock, host_name};
pub use memory::MemoryLog;
pub use presence::{Presence, presence};
pub use reader::{LogFile, LogRecords, Tail};
pub use repair::{Wishes, rehearse};
pub use store::{LAZY, LAZY_COMMIT, MIRROR_BLOCKS, Store, check_clock};
pub use transfer::{Exported, TransferError, export, import};
pub use verify::{CopyState, Verification, verify};
pub use writer::{Failure, Unit, Writer};

use crate::events::{Event, Record, Seq};

/// When an append counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Accepted in order; on the disk within a second, or with the next durable append.
    Lazy,
    /// Returns once the events, and all before them, survive a power cut.
    Durable,
}

/// Events of a log in order, from some sequence number on. Ends after the first error.
pub type Records<'a> = Box<dyn Iterator<Item = Result<Record, ReadError>> + 'a>;

/// A log of events, appended by one writer.
pub trait EventLog: Send + Sync {
    /// Appends `events`, each with its time (milliseconds since 1970 UTC), and
    /// returns the new head. They are kept whole or not at all: also after a
    /// crash a log never ends between two events of one append.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] when `expected_next` is not the head; then
    /// nothing was appended. After any other error of the disk the log is sound
    /// up to the head named in it, and a [`Durability::Lazy`] append may be
    /// lost with it: read the log again before going on.
    fn append(
        &self,
        expected_next: Seq,
        events: &[(u64, Event)],
        durability: Durability,
    ) -> Result<Seq, AppendError>;

    /// The sequence number that the next event gets; so also how many there are.
    fn head(&self) -> Seq;

    /// Waits until everything accepted is durable, and returns the head.
    fn sync(&self) -> Result<Seq, AppendError>;

    /// Every event accepted so far from `from` on.
    fn read(&self, from: Seq) -> Result<Records<'_>, ReadError>;
}
