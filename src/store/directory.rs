//! Opens and creates the log of a run directory.
//!
//! Whether there is a log is checked under the run's lock. Without a lock file it is
//! also checked before, so that a directory without a run is left unchanged.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::compare::Loss;
use super::disk::{Disk, QUARANTINE};
use super::error::{OpenError, ReadError, Repair};
use super::lock::RunLock;
use super::presence::{Content, content};
use super::reader::RecordFeed;
use super::real_disk::RealDisk;
use super::repair::{RepairOptions, repair};
use super::scratch::{Scratch, copy_folder};
use super::store::Store;
use super::writer::Writer;
use tinygate_events::Record;

impl Store {
    /// Creates the log of a new run in the run directory `run`, and the directory itself.
    pub fn create(run: &Path, name: &str) -> Result<Store, OpenError> {
        let (lock, _) = lock_and_look(run, Content::expect_none)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(run));
        let writer = Writer::create_new(&disk, name, nonce(run))?;
        Store::threaded(disk, writer, Some(lock))
    }

    /// Opens the log of a run for writing. Returns the repairs that were made; the caller
    /// appends them as [`tinygate_events::StoreRepaired`].
    pub fn open(run: &Path) -> Result<(Store, Vec<Repair>), OpenError> {
        let (lock, content) = lock_and_look(run, Content::expect_log)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(run));
        let (writer, repairs) = Writer::open_content(&disk, content, Loss::Refused, |_, _, _| {})?;
        Ok((Store::threaded(disk, writer, Some(lock))?, repairs))
    }

    /// Like [`Store::open`], but calls `visit` with every event while both copies are verified,
    /// so that a caller who folds the log does not read it twice. Stops with an error at the first
    /// event that cannot be decoded. If opening fails, ignore the visited events.
    pub fn open_and_read(
        run: &Path,
        visit: impl FnMut(Result<Record, ReadError>),
    ) -> Result<(Store, Vec<Repair>), OpenError> {
        let (lock, content) = lock_and_look(run, Content::expect_log)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(run));
        let mut feed = RecordFeed::new(visit);
        let (writer, repairs) =
            Writer::open_content(&disk, content, Loss::Refused, |header, block, closed| {
                feed.push(header, block, closed);
            })?;
        Ok((Store::threaded(disk, writer, Some(lock))?, repairs))
    }

    /// Like [`Store::open`], with the repairs that the options allow and opening refuses.
    ///
    /// # Errors
    /// A loss or disagreement that no option covers. Nothing was changed then.
    pub fn repair(run: &Path, options: RepairOptions) -> Result<(Store, Vec<Repair>), OpenError> {
        let (lock, content) = lock_and_look(run, Content::expect_log)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(run));
        let (writer, repairs) = repair(&disk, content, options)?;
        Ok((Store::threaded(disk, writer, Some(lock))?, repairs))
    }
}

/// Takes the lock of a run directory and inspects its content. `check` rejects what the
/// caller cannot use.
pub(super) fn lock_and_look(
    run: &Path,
    check: fn(Content) -> Result<(), OpenError>,
) -> Result<(RunLock, Content), OpenError> {
    check_clock(SystemTime::now())?;
    if !RunLock::has_file(run) {
        check(content(run)?)?;
    }
    let lock = RunLock::take(run)?;
    let found = content(run)?;
    check(found)?;
    Ok((lock, found))
}

/// Repairs a copy of the log in the temporary directory. Returns what the repair would do
/// and the number of events afterwards.
///
/// # Errors
/// Those of the repair, and those of the copy.
pub fn rehearse(run: &Path, options: RepairOptions) -> Result<(u64, Vec<Repair>), OpenError> {
    check_clock(SystemTime::now())?;
    RunLock::refuse_held(run)?;
    let content = content(run)?;
    content.expect_log()?;
    let error = |source| OpenError::disk("copy", "log", source);
    let scratch = Scratch::make().map_err(error)?;
    if run.join("log").is_dir() {
        copy_folder(&run.join("log"), &scratch.path().join("log")).map_err(error)?;
    }
    // The names in the quarantine determine the next names.
    let names = RealDisk::new(run).names(QUARANTINE).map_err(error)?;
    if !names.is_empty() {
        let quarantine = scratch.path().join(QUARANTINE);
        fs::create_dir(&quarantine).map_err(error)?;
        for name in names {
            fs::write(quarantine.join(name), []).map_err(error)?;
        }
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(scratch.path()));
    let (writer, repairs) = repair(&disk, content, options)?;
    Ok((writer.head().get(), repairs))
}

/// Checks that the clock is not before 1970: event times and sled cannot represent that.
///
/// # Errors
/// [`OpenError::Clock`].
pub fn check_clock(now: SystemTime) -> Result<(), OpenError> {
    match now.duration_since(UNIX_EPOCH) {
        Ok(_) => Ok(()),
        Err(_) => Err(OpenError::Clock),
    }
}

/// Distinguishes two logs of the same name.
fn nonce(run: &Path) -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let mut hasher = blake3::Hasher::new();
    hasher.update(&RandomState::new().hash_one(run).to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
        hasher.update(&now.as_nanos().to_le_bytes());
    }
    let mut nonce = [0; 16];
    hasher.finalize_xof().fill(&mut nonce);
    nonce
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_before_1970_is_named() {
        assert!(check_clock(UNIX_EPOCH).is_ok());
        let before = check_clock(UNIX_EPOCH - Duration::from_secs(1)).unwrap_err();
        assert!(before.to_string().contains("clock"), "{before}");
    }
}
