//! A log in one file: the sound part of a journal is the export format.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, JOURNAL, NEW_JOURNAL, RealDisk, SLED, sync_parent, write_full};
use super::error::{OpenError, ReadError};
use super::lock::RunLock;
use super::presence::{Presence, presence, presence_on};
use super::reader::{LogFile, Tail};
use super::recover::quarantine_name;
use super::writer::Writer;

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(
        "cannot write `{path}`: {source}\nhint: name a file that is not there yet, in a folder you may write to"
    )]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What an export holds.
#[derive(Debug)]
pub struct Exported {
    pub events: u64,
    pub bytes: u64,
    /// Bytes left out at the end: an append that is being written, or was not finished.
    pub tail: Option<Tail>,
    /// Why it ends where it does, when that is not the end of the log.
    pub fault: Option<ReadError>,
}

/// Copies the sound part of a run's journal (or of another export) into a new
/// file, also while the run is being written.
///
/// # Errors
/// When not even the file header is good, or the file exists already or cannot
/// be written. Damage further on is no error; it is part of the answer.
pub fn export(log: &Path, to: &Path) -> Result<Exported, TransferError> {
    let mut records = LogFile::open(log)?.records();
    let fault = records
        .visit_stored(|_, stored| stored.decode().map(|_| ()))
        .err();
    let exported = Exported {
        events: records.next_seq().get(),
        bytes: records.offset(),
        tail: records.tail()?,
        fault,
    };
    let error = |source| TransferError::Write {
        path: to.to_owned(),
        source,
    };
    let from = if log.is_dir() {
        log.join(JOURNAL)
    } else {
        log.to_owned()
    };
    let mut from = File::open(from).map_err(error)?.take(exported.bytes);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(to)
        .map_err(error)?;
    io::copy(&mut from, &mut file)
        .and_then(|_| file.flush())
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_parent(to))
        .map_err(error)?;
    Ok(exported)
}

/// Makes a run directory from an exported log, after reading every event of it.
/// Returns how many there are.
///
/// # Errors
/// A log with any fault is refused, and a directory that has a log. An append
/// that was not finished is left out.
pub fn import(file: &Path, run: &Path) -> Result<u64, TransferError> {
    let mut records = LogFile::open(file)?.records();
    records.visit_stored(|_, stored| stored.decode().map(|_| ()))?;
    let (events, bytes) = (records.next_seq().get(), records.offset());
    if events == 0 {
        // nothing is made of it
        return Ok(0);
    }
    let free = |found: Presence| match found {
        Presence::Nothing | Presence::Remains => Ok(()),
        Presence::Log => Err(OpenError::Exists),
    };
    free(presence(run)?)?;
    let _lock = RunLock::take(run)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(run));
    free(presence_on(disk.as_ref())?)?;
    let name = quarantine_name(disk.as_ref(), "sled")?;
    disk.set_mirror_aside(&name)
        .map_err(|source| OpenError::disk("move", SLED, source))?;
    let error = |source| OpenError::disk("write", NEW_JOURNAL, source);
    let mut source = File::open(file).map_err(error)?.take(bytes);
    let mut journal = disk.create(NEW_JOURNAL).map_err(error)?;
    let mut buffer = vec![0; 64 << 10];
    let mut offset = 0;
    loop {
        let read = source.read(&mut buffer).map_err(error)?;
        let part = buffer.get(..read).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        write_full(journal.as_mut(), part, offset).map_err(error)?;
        offset += read as u64;
    }
    journal.sync().map_err(error)?;
    disk.rename(NEW_JOURNAL, JOURNAL).map_err(error)?;
    // makes the second copy
    Writer::open(&disk)?;
    Ok(events)
}
