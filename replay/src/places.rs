//! Finds logs: run directories, exported files, and folders of them.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tinygate_advice::{Advice, Hint};
use tinygate_store::disk::JOURNAL;
use tinygate_store::{FILE_MAGIC, Presence, presence};

/// How deep below a folder logs are searched for.
const DEPTH_MOST: u32 = 8;
/// How many folders are searched.
const FOLDERS_MOST: usize = 100_000;
/// The extension of logs. A file with another one is recognized by its first bytes.
const EXTENSION: &str = "tgj";

/// Why a folder cannot be searched.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("`{}` has more than {FOLDERS_MOST} folders", place.display())]
    TooMany { place: PathBuf },
    #[error("cannot read the folder `{}`: {source}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
}

impl Advice for WalkError {
    fn hints(&self) -> Vec<Hint> {
        vec![Hint::text(match self {
            WalkError::TooMany { .. } => "name one of its subfolders",
            WalkError::Folder { .. } => "check that you may read it",
        })]
    }
}

/// Calls `enter` for `place` and for the folders that `enter` returns, down to `depth_most` levels.
///
/// # Errors
/// There are too many folders, or one of them cannot be read.
pub fn walk(
    place: &Path,
    depth_most: u32,
    mut enter: impl FnMut(&Path) -> io::Result<Vec<PathBuf>>,
) -> Result<(), WalkError> {
    let mut waiting = vec![(place.to_owned(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = waiting.pop() {
        seen += 1;
        if FOLDERS_MOST < seen {
            let place = place.to_owned();
            return Err(WalkError::TooMany { place });
        }
        let below = match enter(&folder) {
            Ok(below) => below,
            Err(source) => return Err(WalkError::Folder { folder, source }),
        };
        if depth < depth_most {
            waiting.extend(below.into_iter().map(|folder| (folder, depth + 1)));
        }
    }
    Ok(())
}

/// The logs at a place: the place itself if it is a run directory or a file, otherwise those in the folder.
///
/// # Errors
/// A folder cannot be searched.
pub fn logs(place: &Path) -> Result<Vec<PathBuf>, WalkError> {
    if !place.is_dir() || is_run(place) {
        return Ok(vec![place.to_owned()]);
    }
    let mut found = Vec::new();
    walk(place, DEPTH_MOST, |folder| {
        let mut below = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if !path.is_dir() {
                if is_log_file(&path) {
                    found.push(path);
                }
            } else if is_run(&path) {
                found.push(path);
            } else {
                below.push(path);
            }
        }
        Ok(below)
    })?;
    found.sort();
    Ok(found)
}

/// Whether a directory is a run directory.
pub fn is_run(path: &Path) -> bool {
    path.join(JOURNAL).parent().is_some_and(Path::is_dir)
}

/// Whether a directory looks like a run directory but holds no log, since the run was killed before its first event.
pub fn has_no_log(path: &Path) -> bool {
    path.is_dir() && presence(path).is_ok_and(|found| found == Presence::Remains)
}

fn is_log_file(path: &Path) -> bool {
    if path
        .extension()
        .is_some_and(|extension| extension == EXTENSION)
    {
        return true;
    }
    let mut start = [0; FILE_MAGIC.len()];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == FILE_MAGIC
}
