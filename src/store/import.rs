//! Creates a run directory from a log in one file.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::compare::Loss;
use super::directory::lock_and_look;
use super::disk::{Disk, JOURNAL, NEW_JOURNAL, SLED, write_full};
use super::error::OpenError;
use super::presence::Content;
use super::reader::LogFile;
use super::real_disk::RealDisk;
use super::restore::quarantine_name;
use super::transfer::TransferError;
use super::writer::Writer;

/// Creates a run directory from an exported log, after reading every event of it.
/// Returns the number of events.
///
/// # Errors
/// The log has a fault, or the directory already has a log. An unfinished append is left
/// out.
pub fn import(file: &Path, run: &Path) -> Result<u64, TransferError> {
    let mut records = LogFile::open(file)?.records();
    records.visit_stored(|_, stored| stored.decode().map(|_| ()))?;
    let (events, bytes) = (records.next_seq().get(), records.offset());
    if events == 0 {
        // nothing is made of it
        return Ok(0);
    }
    let (_lock, _) = lock_and_look(run, Content::expect_none)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(run));
    let name = quarantine_name(disk.as_ref(), "sled")?;
    disk.set_mirror_aside(&name)
        .map_err(|source| OpenError::rename(SLED, &name, source))?;
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
    disk.rename(NEW_JOURNAL, JOURNAL)
        .map_err(|source| OpenError::rename(NEW_JOURNAL, JOURNAL, source))?;
    // makes the second copy
    Writer::open_content(&disk, Content::Journal, Loss::Refused, |_, _, _| {})?;
    Ok(events)
}
