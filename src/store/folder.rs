//! A run's directory, held open to notice that it was moved or deleted.
//!
//! Open files follow a directory that is moved; files that are created by path do not. A
//! run whose directory was moved would continue in two places, so each write checks first.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{fstat, stat};
use tinygate_advice::{Advice, Hint};

/// The directory that a run writes to.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    file: File,
}

/// The directory is no longer at its path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Moved {
    #[error(
        "the run directory `{path}` was moved to `{now}` while it was in use; nothing was written to the old place", path = .path.display(), now = .now.display()
    )]
    To { path: PathBuf, now: PathBuf },
    #[error(
        "the run directory `{}` was moved or deleted while it was in use; nothing was written in its place", .path.display()
    )]
    Away { path: PathBuf },
}

impl Advice for Moved {
    fn hints(&self) -> Vec<Hint> {
        vec![match self {
            Moved::To { now, .. } => Hint::ResumeMoved {
                dir: now.display().to_string(),
            },
            Moved::Away { .. } => Hint::text("if it was moved, resume the run where it is now"),
        }]
    }
}

impl RunFolder {
    pub fn open(path: &Path) -> io::Result<RunFolder> {
        Ok(RunFolder {
            path: path.to_owned(),
            file: File::open(path)?,
        })
    }

    /// Checks that the path still leads to this directory. A disk error does not count as a
    /// move.
    ///
    /// # Errors
    /// Where the directory is now, if that is known.
    pub fn check(&self) -> Result<(), Moved> {
        let Ok(ours) = fstat(&self.file) else {
            return Ok(());
        };
        let is_here = match stat(&self.path) {
            Ok(there) => (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => false,
            Err(_) => true,
        };
        if is_here {
            return Ok(());
        }
        let path = self.path.clone();
        Err(match self.now() {
            Some(now) => Moved::To { path, now },
            None => Moved::Away { path },
        })
    }

    /// Where the directory is now, on systems that can tell.
    fn now(&self) -> Option<PathBuf> {
        use std::os::fd::AsRawFd;
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let now = fs::read_link(link).ok()?;
        let (ours, there) = (fstat(&self.file).ok()?, stat(&now).ok()?);
        ((ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_directory_is_detected() {
        let place = tempfile::tempdir().unwrap();
        let (path, other) = (place.path().join("run"), place.path().join("other"));
        fs::create_dir(&path).unwrap();
        let folder = RunFolder::open(&path).unwrap();
        assert_eq!(folder.check(), Ok(()));
        fs::rename(&path, &other).unwrap();
        let away = Moved::Away { path: path.clone() };
        let to = Moved::To {
            path: path.clone(),
            now: fs::canonicalize(&other).unwrap(),
        };
        let moved = if cfg!(target_os = "linux") {
            &to
        } else {
            &away
        };
        assert_eq!(folder.check().as_ref(), Err(moved));
        fs::create_dir(&path).unwrap();
        assert_eq!(
            folder.check().as_ref(),
            Err(moved),
            "another directory replaced it"
        );
        fs::remove_dir(&path).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(folder.check(), Ok(()), "it came back");
        fs::remove_dir(&path).unwrap();
        assert_eq!(folder.check(), Err(away));
    }

    #[test]
    fn a_link_may_lead_to_it() {
        let place = tempfile::tempdir().unwrap();
        let (run, link) = (place.path().join("run"), place.path().join("link"));
        fs::create_dir(&run).unwrap();
        std::os::unix::fs::symlink(&run, &link).unwrap();
        let folder = RunFolder::open(&link).unwrap();
        assert_eq!(folder.check(), Ok(()));
        fs::remove_file(&link).unwrap();
        assert!(folder.check().is_err());
    }
}
