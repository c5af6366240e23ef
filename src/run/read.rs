//! Reads the log of a run, without a lock.

use std::path::Path;

use super::error::ReadRunError;
use crate::store::{LogFile, LogRecords, OpenError, Presence, RunLock, presence};

/// Whether a directory holds a run. A process that was killed before its first event left none.
pub fn exists(dir: &Path) -> bool {
    // Opening a log that cannot be looked at says why.
    presence(dir).map_or(true, |found| found == Presence::Log)
}

/// The events of a run directory or of an exported file.
///
/// # Errors
/// No run at `path`, or one that is just being started; a log that cannot be read.
pub fn read(path: &Path) -> Result<LogRecords, ReadRunError> {
    check_run(path)?;
    let log = LogFile::open(path).map_err(|source| ReadRunError::Log {
        path: path.to_owned(),
        source,
    })?;
    Ok(log.records())
}

/// Refuses a directory without a run. A file is left to its reader.
///
/// # Errors
/// As [`read`], but for what is in the log.
pub fn check_run(path: &Path) -> Result<(), ReadRunError> {
    if !path.is_dir() {
        return Ok(());
    }
    let not_a_run = |source| ReadRunError::NotARun {
        path: path.to_owned(),
        source,
    };
    let remains = match presence(path).map_err(not_a_run)? {
        Presence::Log => return Ok(()),
        Presence::Remains => true,
        Presence::Nothing => false,
    };
    match RunLock::holder(path) {
        Some((pid, host)) => Err(ReadRunError::Starting {
            path: path.to_owned(),
            pid,
            host,
        }),
        None => Err(not_a_run(OpenError::NotALog { remains })),
    }
}
