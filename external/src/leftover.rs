//! What is left of a program whose tinygate was killed.
//!
//! While a program runs, `trainer.json` in the run directory keeps its token and processes. The next
//! process that has the run's lock finds the file, gives the program time to notice that its socket is
//! closed, and then ends what still runs.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::processes::{self, Identity};

const FILE: &str = "trainer.json";
/// How long a program may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
/// Largest file that is read, in bytes.
const MOST: u64 = 1 << 20;

/// A program that runs, or that ran when its tinygate was killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    version: u32,
    /// Of this start of the machine: pids of another machine or start mean nothing.
    boot: Option<String>,
    pub token: String,
    pub processes: Vec<Identity>,
}

impl Started {
    pub fn new(token: &str) -> Started {
        Started {
            version: 1,
            boot: boot(),
            token: token.to_owned(),
            processes: Vec::new(),
        }
    }

    /// Writes or replaces the file.
    ///
    /// # Errors
    /// An error of the file system.
    pub fn write(&self, run: &Path) -> io::Result<()> {
        let partial = run.join(format!("{FILE}.partial"));
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&partial)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&partial, path(run))
    }

    fn read(run: &Path) -> Option<Started> {
        let path = path(run);
        let size = fs::metadata(&path).ok()?.len();
        let bytes = (size <= MOST).then(|| fs::read(&path).ok())?;
        let started: Started = serde_json::from_slice(&bytes?).ok()?;
        (started.version == 1).then_some(started)
    }
}

/// Removes the file of a program that was ended.
pub fn remove(run: &Path) {
    let removed = fs::remove_file(path(run));
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove `{}`: {error}", path(run).display());
    }
}

/// Waits for a program that a killed tinygate left, and ends it if it does not end by itself.
pub fn end(run: &Path) {
    if let Some(started) = Started::read(run).filter(|started| started.boot == boot()) {
        let is_left = || !processes::running(&started.processes, &started.token).is_empty();
        let until = Instant::now() + PATIENCE;
        while is_left() && Instant::now() < until {
            std::thread::sleep(PAUSE);
        }
        processes::end_all(&started.processes, &started.token);
    }
    remove(run);
}

fn path(run: &Path) -> PathBuf {
    run.join(FILE)
}

/// Identifies this start of this machine, on Linux.
fn boot() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned())
}
