//! The log of a run: append-only, hash-chained, in two copies.
//!
//! [`EventLog`] is what the rest of the program sees: append at an expected
//! sequence number, read from one. [`Store`] keeps it on the disk, [`MemoryLog`]
//! in memory for tests; [`LogFile`] reads a journal or an exported file without
//! a lock. Nothing here knows what an event means, except whether it is a decision.
//!
//! Invariant: what was acknowledged as durable is read back, whole and in
//! order, or an error names the place up to which the log is sound.

mod append;
mod block;
mod chain;
mod compare;
mod directory;
pub mod disk;
mod error;
mod event_log;
mod folder;
mod import;
mod journal;
mod lock;
mod memory;
mod presence;
mod reader;
mod real_disk;
mod real_file;
mod repair;
mod restore;
mod scratch;
mod sled_copy;
mod sled_folder;
mod sled_mirror;
#[expect(clippy::module_inception, reason = "the store is the log on the disk")]
mod store;
mod transfer;
mod verify;
mod version;
mod worker;
mod writer;

pub use block::{FILE_HEADER, FILE_MAGIC, FileHeader, MAX_BLOCK};
pub use directory::{check_clock, rehearse};
pub use error::{ChainHead, LogCopy, OpenError, ReadError, ReadErrorKind, Repair};
pub use event_log::{AppendError, Durability, EventLog, Records};
pub use folder::{Moved, RunFolder};
pub use import::import;
pub use lock::{RunLock, host_name};
pub use memory::MemoryLog;
pub use presence::{Presence, presence};
pub use reader::{LogFile, LogRecords, Tail};
pub use real_disk::RealDisk;
pub use repair::RepairOptions;
pub use store::Store;
pub use transfer::{Exported, TransferError, export};
pub use verify::{CopyState, Verification, verify};
pub use version::UnknownVersion;
pub use worker::{LAZY, LAZY_COMMIT, MIRROR_BLOCKS};
pub use writer::{EncodedAppend, Failure, Writer};
