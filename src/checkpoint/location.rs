//! The location of a checkpoint: a directory with three files, as TinyWorlds and tinygate
//! write it, or one file with everything in a dict, as models are published.

use std::fs;
use std::path::{Path, PathBuf};

pub const MODEL_FILE: &str = "model_state_dict.pt";
pub const OPTIMIZER_FILE: &str = "optim_state_dict.pt";
pub const STATE_FILE: &str = "state.pt";
/// The files of a checkpoint, in the order in which they are written and checked.
pub const FILE_NAMES: [&str; 3] = [MODEL_FILE, OPTIMIZER_FILE, STATE_FILE];

/// The path of a checkpoint, in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    Directory(PathBuf),
    File(PathBuf),
}

/// A folder that could mean more than one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the folder has {} checkpoint files ({}); give one of them", .names.len(), .names.join(", "))]
pub struct SeveralFiles {
    pub names: Vec<String>,
}

/// File names of checkpoints end like this.
const ENDINGS: [&str; 7] = [
    ".pth",
    ".pt",
    ".ckpt",
    ".th",
    ".pth.tar",
    ".pt.tar",
    "pytorch_model.bin",
];

impl Location {
    /// The checkpoint at `path`: its directory, its file, or a folder with one such file.
    /// A path that does not exist counts as a directory.
    ///
    /// # Errors
    /// A folder with several candidates.
    pub fn of(path: &Path) -> Result<Location, SeveralFiles> {
        if path.is_file() {
            return Ok(match path.parent() {
                Some(parent) if path.file_name().is_some_and(|name| name == MODEL_FILE) => {
                    Location::Directory(parent.to_owned())
                }
                Some(_) | None => Location::File(path.to_owned()),
            });
        }
        if FILE_NAMES.iter().any(|name| path.join(name).exists()) {
            return Ok(Location::Directory(path.to_owned()));
        }
        let mut files: Vec<PathBuf> = fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_checkpoint_file(path))
            .collect();
        files.sort();
        if files.len() > 1 {
            let names = files.iter().filter_map(|file| file.file_name());
            let names = names.map(|name| format!("`{}`", name.display())).collect();
            return Err(SeveralFiles { names });
        }
        let file = files.pop().map(Location::File);
        Ok(file.unwrap_or_else(|| Location::Directory(path.to_owned())))
    }

    pub fn path(&self) -> &Path {
        match self {
            Location::Directory(path) | Location::File(path) => path,
        }
    }
}

/// Whether a path is a file that may be a checkpoint, by its name.
pub fn is_checkpoint_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_lowercase();
    let known = ENDINGS.iter().any(|ending| name.ends_with(ending));
    known && !name.starts_with('.') && path.is_file()
}
