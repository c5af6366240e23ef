//! Why a log cannot be read or opened, and what was repaired while opening it.
//!
//! Three cases are distinct because their exit codes differ: the log is damaged
//! (3), a newer build wrote it (4), the environment failed (2).

use std::io;

use super::block::Hash;
use super::disk::{MirrorError, is_full};
use super::version::UnknownVersion;
use tinygate_advice::{Advice, Hint};
use tinygate_events::{Seq, StoreRepaired};

/// Why a log cannot be read further, and from where.
#[derive(Debug, thiserror::Error)]
pub struct ReadError {
    /// Events before it are sound.
    pub seq: Seq,
    /// Offset in the file at which the unreadable block begins.
    pub offset: u64,
    #[source]
    pub kind: ReadErrorKind,
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ReadError { seq, offset, kind } = self;
        match kind {
            // There is no log, so a position in it is meaningless.
            ReadErrorKind::NotALog { .. } => write!(f, "{kind}"),
            // For an empty file the position is part of recorded audits.
            ReadErrorKind::Empty
            | ReadErrorKind::Damaged { .. }
            | ReadErrorKind::NewerVersion(_)
            | ReadErrorKind::Io(_) => write!(f, "event {seq}, byte {offset}: {kind}"),
        }
    }
}

impl Advice for ReadError {
    fn hints(&self) -> Vec<Hint> {
        self.kind.hints()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReadErrorKind {
    #[error("the log is damaged: {what}")]
    Damaged { what: String },
    #[error("{0}")]
    NewerVersion(UnknownVersion),
    #[error("there is no log here: {what}")]
    NotALog { what: String },
    #[error("the file is empty: there is no event to read")]
    Empty,
    #[error("cannot read the log: {0}")]
    Io(#[source] io::Error),
}

impl Advice for ReadErrorKind {
    fn hints(&self) -> Vec<Hint> {
        match self {
            ReadErrorKind::Damaged { .. } => vec![Hint::RebuildLog, Hint::ExportSoundEvents],
            ReadErrorKind::NewerVersion(version) => version.hints(),
            ReadErrorKind::NotALog { .. } | ReadErrorKind::Empty => {
                vec![Hint::text("name a run directory or an exported log")]
            }
            ReadErrorKind::Io(_) => vec![Hint::text("check that you may read it")],
        }
    }
}

fn holder(pid: &str, host: &str) -> String {
    if pid == "unknown" {
        "another process".to_owned()
    } else {
        format!("process {pid} on host `{host}`")
    }
}

/// Why a log cannot be opened for writing. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} has this run open", holder(pid, host))]
    Locked { pid: String, host: String },
    #[error("another process has the run's sled folder open")]
    SledInUse,
    #[error("the system clock is set to a time before 1970")]
    Clock,
    #[error("there is no run here{}", if *.remains {
        ": one was started and ended before its first event, so there is nothing to continue"
    } else {
        ""
    })]
    NotALog {
        /// A process left files without an event.
        remains: bool,
    },
    #[error("the run directory already has a log")]
    Exists,
    #[error("{0}")]
    NewerVersion(UnknownVersion),
    #[error(
        "the journal and sled are both intact but differ at event {seq}; nothing was changed\n  journal: {journal}\n  sled: {sled}"
    )]
    Forked {
        /// First event of the first block that differs.
        seq: Seq,
        journal: ChainHead,
        sled: ChainHead,
    },
    #[error(
        "both copies of the log are damaged; events before {sound} are sound, nothing was changed: {what}"
    )]
    Damaged { sound: Seq, what: String },
    #[error(
        "the run has checkpoints, and no event is left in either copy of its log; nothing was changed"
    )]
    NoEventLeft,
    #[error("a process that reads this run has kept its lock for {seconds} s")]
    ReaderKeepsLock { seconds: u64 },
    #[error("the disk is full: cannot write `{what}`")]
    DiskFull { what: String },
    #[error("cannot make sled's copy of the log: {what}")]
    Sled { what: String },
    #[error("cannot {verb} `{name}`: {source}")]
    Io {
        verb: &'static str,
        name: String,
        #[source]
        source: io::Error,
    },
}

impl Advice for OpenError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            OpenError::Locked { .. } => vec![
                Hint::text("wait until it ends, or stop it"),
                Hint::ReadWhileRunning,
            ],
            OpenError::SledInUse => vec![Hint::text("wait until it ends, then try again")],
            OpenError::Clock => vec![Hint::text("set it (`date` shows it), then try again")],
            OpenError::NotALog { .. } => vec![Hint::StartRun],
            OpenError::Exists => vec![Hint::Resume],
            OpenError::NewerVersion(version) => version.hints(),
            OpenError::Forked { .. } => vec![
                Hint::text("one of them was copied from elsewhere"),
                Hint::KeepOneCopy,
            ],
            OpenError::Damaged { .. } => vec![Hint::AcceptLoss, Hint::ExportSoundEvents],
            OpenError::NoEventLeft => vec![
                Hint::text("restore `log/` from a backup, or move it away and start another run"),
                Hint::StartFromCheckpoint,
            ],
            OpenError::ReaderKeepsLock { .. } => vec![Hint::text(
                "find it with `fuser DIR/lock`, end it, and try again",
            )],
            OpenError::DiskFull { .. } => vec![Hint::text("free some space and try again")],
            OpenError::Sled { .. } | OpenError::Io { .. } => vec![Hint::text(
                "check the disk and its permissions, then try again",
            )],
        }
    }
}

impl OpenError {
    pub(super) fn disk(verb: &'static str, name: &str, source: io::Error) -> OpenError {
        if is_full(&source) {
            return OpenError::DiskFull {
                what: name.to_owned(),
            };
        }
        OpenError::Io {
            verb,
            name: name.to_owned(),
            source,
        }
    }

    pub(super) fn rename(from: &str, to: &str, source: io::Error) -> OpenError {
        OpenError::disk("rename", &format!("{from}` to `{to}"), source)
    }

    pub(super) fn sled(error: MirrorError) -> OpenError {
        match error {
            MirrorError::InUse => OpenError::SledInUse,
            MirrorError::DiskFull => OpenError::DiskFull {
                what: "log/sled".to_owned(),
            },
            MirrorError::Failed(what) => OpenError::Sled { what },
        }
    }
}

/// The state of one copy's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainHead {
    pub block: u64,
    /// Hexadecimal.
    pub hash: String,
    /// Number of events in the whole copy.
    pub events: u64,
}

impl ChainHead {
    pub(super) fn new(block: u64, hash: &Hash, events: u64) -> ChainHead {
        ChainHead {
            block,
            hash: blake3::Hash::from_bytes(*hash).to_hex().to_string(),
            events,
        }
    }
}

impl std::fmt::Display for ChainHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ChainHead {
            block,
            hash,
            events,
        } = self;
        let short = hash.get(..16).unwrap_or(hash);
        write!(f, "{events} events, block {block} has the hash {short}")
    }
}

/// One of the two copies of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogCopy {
    Journal,
    Sled,
}

impl LogCopy {
    pub const fn as_str(self) -> &'static str {
        match self {
            LogCopy::Journal => "journal",
            LogCopy::Sled => "sled",
        }
    }
}

/// A repair that was made while a log was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub copy: LogCopy,
    pub detail: String,
    /// Where the damaged bytes are now, relative to the run directory.
    pub quarantine: Option<String>,
    /// Events that were restored to the copy.
    pub restored: u64,
}

impl From<Repair> for StoreRepaired {
    fn from(repair: Repair) -> StoreRepaired {
        StoreRepaired {
            copy: repair.copy.as_str().to_owned(),
            detail: repair.detail,
            quarantine: repair.quarantine,
            restored: repair.restored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: &OpenError, want: &Hint) {
        let hints = error.hints();
        assert!(hints.contains(want), "{error}: {hints:?}");
    }

    #[test]
    fn errors_say_what_to_do() {
        let damaged = OpenError::Damaged {
            sound: Seq::FIRST,
            what: "a block".to_owned(),
        };
        check(&damaged, &Hint::AcceptLoss);
        check(&damaged, &Hint::ExportSoundEvents);
        check(&OpenError::Exists, &Hint::Resume);
        check(&OpenError::NotALog { remains: false }, &Hint::StartRun);
        check(&OpenError::NoEventLeft, &Hint::StartFromCheckpoint);
        let full = OpenError::DiskFull {
            what: "sled".to_owned(),
        };
        check(&full, &Hint::text("free some space and try again"));
    }
}
