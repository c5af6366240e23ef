//! One writer at a time: a lock on a file of the run directory.
//!
//! The kernel releases it when the process ends, however it ends. A writer holds it
//! exclusively while it has the log open, and writes its process ID and host into the
//! file for error messages. A reader that checks for a writer takes a shared lock
//! briefly. A writer that starts at that moment waits for at most
//! [`READERS_WAIT_MAX`]; if another writer has the lock it fails at once.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};

use super::disk::LOCK;
use super::error::OpenError;
use super::folder::RunFolder;
use super::real_file::create_folder;

/// How long a writer waits for readers. They hold the lock for microseconds unless they are
/// suspended.
const READERS_WAIT_MAX: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(20);
/// How often the lock file is read before its holder is reported as unknown.
const READS_MAX: u32 = 10;

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    file: File,
    folder: RunFolder,
}

impl RunLock {
    /// Takes the lock of a run directory. Creates the directory and the lock file if they are
    /// missing.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process holds it; [`OpenError::ReaderKeepsLock`] if
    /// readers did not release it in time.
    pub fn take(run: &Path) -> Result<RunLock, OpenError> {
        let error = |source| OpenError::disk("lock", LOCK, source);
        create_folder(run)
            .map_err(|source| OpenError::disk("make", &run.display().to_string(), source))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(run.join(LOCK))
            .map_err(error)?;
        if !lock_alone(&file)? {
            return Err(held_by(&mut file));
        }
        let text = format!("pid {}\nhost {}\n", std::process::id(), host_name());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(error)?;
        let folder = RunFolder::open(run)
            .map_err(|source| OpenError::disk("open", &run.display().to_string(), source))?;
        Ok(RunLock { file, folder })
    }

    /// The locked directory.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Whether the run directory has a lock file, held or not. The file stays when a process
    /// ends.
    pub(super) fn has_file(run: &Path) -> bool {
        run.join(LOCK).exists()
    }

    /// The process that writes the run, if there is one: its PID and host, or `unknown` if it
    /// has not written them yet.
    pub fn holder(run: &Path) -> Option<(String, String)> {
        let mut file = File::open(run.join(LOCK)).ok()?;
        match file.try_lock_shared() {
            Ok(()) | Err(TryLockError::Error(_)) => None,
            Err(TryLockError::WouldBlock) => Some(read_holder(&mut file)),
        }
    }

    /// # Errors
    /// [`OpenError::Locked`] if a process holds the run.
    pub(super) fn refuse_held(run: &Path) -> Result<(), OpenError> {
        match RunLock::holder(run) {
            Some((pid, host)) => Err(OpenError::Locked { pid, host }),
            None => Ok(()),
        }
    }
}

impl Drop for RunLock {
    /// A child process shares the open file until it executes its program. Closing the file
    /// alone would leave it locked until then.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "the run's lock could not be released");
        }
    }
}

/// Takes the lock exclusively once readers have released it. Returns false if a writer has it.
fn lock_alone(file: &File) -> Result<bool, OpenError> {
    let error = |source| OpenError::disk("lock", LOCK, source);
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(source)) => return Err(error(source)),
            Err(TryLockError::WouldBlock) => {}
        }
        // Readers share it with this process, a writer does not.
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map_err(error)?,
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(source)) => return Err(error(source)),
        }
        if READERS_WAIT_MAX < begun.elapsed() {
            return Err(OpenError::ReaderKeepsLock {
                seconds: READERS_WAIT_MAX.as_secs(),
            });
        }
        sleep(PAUSE);
    }
}

fn held_by(file: &mut File) -> OpenError {
    let (pid, host) = read_holder(file);
    OpenError::Locked { pid, host }
}

/// The holder of the lock. For a moment after a writer took it, the file still names the
/// previous writer or none.
fn read_holder(file: &mut File) -> (String, String) {
    for read in 0..READS_MAX {
        if 0 < read {
            sleep(PAUSE);
        }
        let (pid, host) = read_name(file);
        if pid != "unknown" && !has_ended(&pid, &host) {
            return (pid, host);
        }
    }
    ("unknown".to_owned(), "unknown".to_owned())
}

/// Whether the process ran on this machine and has ended.
fn has_ended(pid: &str, host: &str) -> bool {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    host == host_name()
        && pid.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

fn read_name(file: &mut File) -> (String, String) {
    let mut text = String::new();
    // A field that cannot be read is unknown.
    let _ = file.rewind();
    let _ = file.take(4096).read_to_string(&mut text);
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or("unknown")
            .to_owned()
    };
    (field("pid"), field("host"))
}

/// The name of this machine in the lock file and in the log.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_shares_the_file_does_not_keep_the_lock() {
        let run = tempfile::tempdir().unwrap();
        let lock = RunLock::take(run.path()).unwrap();
        let inherited = lock.file.try_clone().unwrap();
        let holder = RunLock::holder(run.path()).unwrap();
        assert_eq!(holder.0, std::process::id().to_string());
        drop(lock);
        assert_eq!(RunLock::holder(run.path()), None);
        drop(inherited);
    }
}
