//! What a sled folder holds, judged by its bytes.
//!
//! sled writes when it is opened, and cannot open a folder whose creation was
//! interrupted. So the bytes are inspected first.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::block::BLOCK_MAGIC;
use super::disk::MirrorError;
use super::real_file::is_missing;

/// The most non-zero bytes in a sled folder that holds at most a file header and a head.
/// The first event alone has more.
const BARE_SLED: u64 = 2048;

/// Whether the sled folder at `path` holds no event; `None` if it does not exist.
///
/// # Errors
/// [`MirrorError::Failed`] if it cannot be read.
pub fn is_bare(path: &Path) -> Result<Option<bool>, MirrorError> {
    let failed = |error: io::Error| MirrorError::Failed(error.to_string());
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Ok(Some(false)),
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let mut found = Bytes::default();
    found.of_folder(path, 2).map_err(failed)?;
    if found.has_block {
        return Ok(Some(false));
    }
    if found.not_zero <= BARE_SLED {
        return Ok(Some(true));
    }
    open_is_bare(path)
}

/// Whether sled, opened on a copy of the folder, holds no event.
#[cfg(feature = "sled")]
fn open_is_bare(path: &Path) -> Result<Option<bool>, MirrorError> {
    use super::disk::Mirror;
    use super::sled_copy::SledCopy;
    match SledCopy::make(path).map_err(|error| MirrorError::Failed(error.to_string()))? {
        Some(copy) => copy.open()?.is_bare().map(Some),
        None => Ok(None),
    }
}

/// Without sled these bytes cannot be shown to hold no event.
#[cfg(not(feature = "sled"))]
fn open_is_bare(_: &Path) -> Result<Option<bool>, MirrorError> {
    Ok(Some(false))
}

/// What the files of a folder hold.
#[derive(Default)]
struct Bytes {
    /// The magic number of a block was found.
    has_block: bool,
    not_zero: u64,
}

impl Bytes {
    fn of_folder(&mut self, folder: &Path, depth: u32) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if self.has_block {
                return Ok(());
            }
            if entry.file_type()?.is_file() {
                self.of_file(&entry.path())?;
            } else if 0 < depth && entry.file_type()?.is_dir() {
                self.of_folder(&entry.path(), depth - 1)?;
            }
        }
        Ok(())
    }

    fn of_file(&mut self, path: &Path) -> io::Result<()> {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 256 << 10];
        let mut kept = 0;
        loop {
            let read = file.read(buffer.get_mut(kept..).unwrap_or_default())?;
            let new = buffer.get(kept..kept + read).unwrap_or_default();
            self.not_zero += new.iter().filter(|byte| **byte != 0).count() as u64;
            let bytes = buffer.get(..kept + read).unwrap_or_default();
            self.has_block |= bytes
                .windows(BLOCK_MAGIC.len())
                .any(|window| window == BLOCK_MAGIC);
            if read == 0 || self.has_block {
                return Ok(());
            }
            // The next read completes a partial match.
            let end = kept + read;
            kept = end.min(BLOCK_MAGIC.len() - 1);
            buffer.copy_within(end - kept..end, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_a_folder_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = vec![0; 3 * BARE_SLED as usize];
        file.extend([7; 5]);
        fs::write(folder.path().join("db"), file).unwrap();
        let mut found = Bytes::default();
        found.of_folder(folder.path(), 2).unwrap();
        assert_eq!(found.not_zero, 5);
        assert!(!found.has_block);
    }

    #[test]
    fn what_a_block_begins_with_is_found_across_two_reads() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = vec![0; (256 << 10) - 2];
        file.extend(BLOCK_MAGIC);
        fs::write(folder.path().join("db"), file).unwrap();
        let mut found = Bytes::default();
        found.of_folder(folder.path(), 2).unwrap();
        assert!(found.has_block);
    }
}
