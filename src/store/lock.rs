//! One writer at a time: a lock on a file of the run directory.
//!
//! The kernel frees it when the process ends, however it ends. Who holds it is
//! written inside, for the message.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::disk::{LOCK, create_folder};
use super::error::OpenError;

/// Held until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock of a run directory, making both if they are missing.
    ///
    /// # Errors
    /// [`OpenError::Locked`] says which process holds it.
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
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held_by(&mut file)),
            Err(TryLockError::Error(source)) => return Err(error(source)),
        }
        let text = format!("pid {}\nhost {}\n", std::process::id(), host_name());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(error)?;
        Ok(RunLock { _file: file })
    }

    /// The process that holds a run, if one does: its pid and host.
    pub fn holder(run: &Path) -> Option<(String, String)> {
        let mut file = File::open(run.join(LOCK)).ok()?;
        match file.try_lock_shared() {
            Ok(()) | Err(TryLockError::Error(_)) => None,
            Err(TryLockError::WouldBlock) => Some(read_holder(&mut file)),
        }
    }
}

fn held_by(file: &mut File) -> OpenError {
    let (pid, host) = read_holder(file);
    OpenError::Locked { pid, host }
}

/// A writer between taking the lock and writing its name is unknown.
fn read_holder(file: &mut File) -> (String, String) {
    let mut text = String::new();
    // what cannot be read is unknown
    let _ = file.take(4096).read_to_string(&mut text);
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or("unknown")
            .to_owned()
    };
    (field("pid"), field("host"))
}

/// The name of this machine, as the lock and the log have it.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
