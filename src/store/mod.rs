//! The log of a run: append-only, hash-chained, in two copies.
//!
//! [`LogFile`] reads a journal or an exported file without a lock, and
//! [`presence`] says whether a directory holds a run. With the feature `sled` a
//! log is written too: `EventLog` is the interface to the rest of the program, append
//! at an expected sequence number and read from one; `Store` implements it on disk,
//! `MemoryLog` in memory for tests. The store does not know what an event means,
//! except whether it is a decision.
//!
//! Invariant: events that were acknowledged as durable are read back completely and in
//! order, or an error states how far the log is sound.

#![cfg_attr(
    not(feature = "sled"),
    allow(dead_code, reason = "some reading code is only used by writing code")
)]

// Reading.
mod append;
mod block;
mod chain;
mod compare;
pub mod disk;
mod error;
mod journal;
mod presence;
mod reader;
mod real_file;
mod sled_folder;
mod version;

// Writing.
#[cfg(feature = "sled")]
mod directory;
#[cfg(feature = "sled")]
mod event_log;
#[cfg(feature = "sled")]
mod folder;
#[cfg(feature = "sled")]
mod import;
#[cfg(feature = "sled")]
mod lock;
#[cfg(feature = "sled")]
mod memory;
#[cfg(feature = "sled")]
mod real_disk;
#[cfg(feature = "sled")]
mod repair;
#[cfg(feature = "sled")]
mod restore;
#[cfg(feature = "sled")]
mod scratch;
#[cfg(feature = "sled")]
mod sled_copy;
#[cfg(feature = "sled")]
mod sled_mirror;
#[cfg(feature = "sled")]
mod store;
#[cfg(feature = "sled")]
mod transfer;
#[cfg(feature = "sled")]
mod verify;
#[cfg(feature = "sled")]
mod worker;
#[cfg(feature = "sled")]
mod writer;

pub use block::{FILE_HEADER, FILE_MAGIC, FileHeader, MAX_BLOCK};
pub use error::{ChainHead, LogCopy, OpenError, ReadError, ReadErrorKind, Repair};
pub use presence::{Presence, presence};
pub use reader::{LogFile, LogRecords, Tail};
pub use version::UnknownVersion;

#[cfg(feature = "sled")]
pub use {
    directory::{check_clock, rehearse},
    event_log::{AppendError, Durability, EventLog, Records},
    folder::{Moved, RunFolder},
    import::import,
    lock::{RunLock, host_name},
    memory::MemoryLog,
    real_disk::RealDisk,
    repair::RepairOptions,
    store::Store,
    transfer::{Exported, TransferError, export},
    verify::{CopyState, Verification, verify},
    worker::{LAZY, LAZY_COMMIT, MIRROR_BLOCKS},
    writer::{EncodedAppend, Failure, Writer},
};
