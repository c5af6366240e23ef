//! A checkpoint directory on disk: three files that appear together or not at all.
//!
//! [`write`] fills a temporary directory next to the final one, syncs every file and
//! the directory, renames it and syncs the parent. A crash leaves at most a directory
//! whose name begins with `.tmp-`, which [`remove_leftovers`] deletes. Only one process
//! may write to a parent.
//!
//! Invariant: no directory ever has its final name before its files are durable.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::location::{FILE_NAMES, Location, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, SeveralFiles};
use super::names::{MixedPrefix, unwrapped};
use super::parts::{NoParts, split};
use super::torch_file::{self, ARCHIVE_BYTES_MAX, ReadError, Tensor, Value};
use crate::events;

/// The key of the number of updates in the `state.pt` of tinygate's checkpoints.
/// TinyWorlds' have only `step`, the index of the last update, which is one less.
pub const UPDATES_DONE: &str = "updates_done";

const TEMPORARY: &str = ".tmp-";

/// The content of a checkpoint, as plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointContent {
    /// TinyWorlds' names, in the order of the model's `state_dict()`.
    pub model: Vec<(String, Tensor)>,
    /// A PyTorch optimizer's `state_dict()`; see [`super::AdamWState`].
    pub optimizer: Value,
    /// A dict. [`write`] requires the int [`UPDATES_DONE`]. TinyWorlds reads
    /// `scheduler_state_dict`, `config` (a dict), `step` and `timestamp`.
    pub state: Value,
}

/// One file of a checkpoint, as the log records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 hash of the file, as 64 lower-case hexadecimal digits.
    pub blake3_hex: String,
}

impl FileRecord {
    pub(super) fn of(name: &str, bytes: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            size: bytes.len() as u64,
            blake3_hex: blake3::hash(bytes).to_hex().to_string(),
        }
    }
}

impl From<FileRecord> for events::FileRecord {
    fn from(file: FileRecord) -> Self {
        Self {
            name: file.name,
            size: file.size,
            blake3: file.blake3_hex,
        }
    }
}

impl From<&events::FileRecord> for FileRecord {
    fn from(file: &events::FileRecord) -> Self {
        Self {
            name: file.name.clone(),
            size: file.size,
            blake3_hex: file.blake3.clone(),
        }
    }
}

/// A checkpoint that is durable on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub path: PathBuf,
    /// In the order of [`FILE_NAMES`].
    pub files: Vec<FileRecord>,
}

/// Why a checkpoint could not be written. A directory with its name is never left
/// incomplete.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("no space is left for checkpoint file `{path}`; free some and resume", path = .path.display())]
    DiskFull { path: PathBuf, error: io::Error },
    #[error("cannot {action} `{path}`: {error}", path = .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error(
        "`{name}` is not a valid name of a checkpoint; use one path component that does not begin with `.`"
    )]
    Name { name: String },
    #[error("the checkpoint's state has no int `{UPDATES_DONE}` of 0 or more")]
    State,
    #[error("`{name}` cannot be encoded: {error}")]
    Encode {
        name: &'static str,
        error: torch_file::WriteError,
    },
}

impl WriteError {
    /// Whether the cause is the machine and not the content, so that the same call may
    /// succeed later.
    pub fn is_environment(&self) -> bool {
        match self {
            Self::DiskFull { .. } | Self::Io { .. } => true,
            Self::Name { .. } | Self::State | Self::Encode { .. } => false,
        }
    }

    fn io(action: &'static str, path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if full.contains(&error.kind()) {
            return Self::DiskFull { path, error };
        }
        Self::Io {
            action,
            path,
            error,
        }
    }
}

/// Why a checkpoint could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read `{path}`: {error}", path = .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("`{path}`: {error}", path = .path.display())]
    Format { path: PathBuf, error: ReadError },
    #[error("`{path}` depends on foreign code `{global}`, which is never executed", path = .path.display())]
    ForeignCode { path: PathBuf, global: String },
    #[error("`{path}` has a {found}, expected a {expected}", path = .path.display())]
    Content {
        path: PathBuf,
        expected: &'static str,
        found: String,
    },
    #[error("`{path}`: {error}", path = .path.display())]
    Several { path: PathBuf, error: SeveralFiles },
    #[error("the names in `{path}`: {error}", path = .path.display())]
    Names { path: PathBuf, error: MixedPrefix },
}

/// Writes a checkpoint to `<parent>/<name>`, atomically and durably.
///
/// Creates `parent` if it is missing. Replaces an existing directory with the name, which
/// the caller only allows if no event references it.
///
/// # Errors
/// [`WriteError::DiskFull`] when the disk or the quota is full. See [`WriteError`].
pub fn write(
    parent: &Path,
    name: &str,
    content: &CheckpointContent,
) -> Result<Written, WriteError> {
    if !is_plain_name(name) {
        let name = name.to_owned();
        return Err(WriteError::Name { name });
    }
    let updates_done = content.state.get(UPDATES_DONE).and_then(Value::as_int);
    if updates_done.is_none_or(|done| done < 0) {
        return Err(WriteError::State);
    }
    let model = Value::state_dict(content.model.iter().cloned());
    let values = [&model, &content.optimizer, &content.state];

    create_parent(parent)?;
    let temporary = parent.join(format!("{TEMPORARY}{name}"));
    remove_directory(&temporary)?;
    let path = parent.join(name);
    let files = fill(&temporary, &values).and_then(|files| {
        put_in_place(parent, &temporary, name)?;
        Ok(files)
    });
    match files {
        Ok(files) => Ok(Written { path, files }),
        Err(error) => {
            // The first error is reported; a leftover is removed later.
            let _ = remove_directory(&temporary);
            Err(error)
        }
    }
}

/// Loads a checkpoint of tinygate or TinyWorlds, or one in a single file, without judging
/// it; for that see [`super::accept`]. Wrappers are removed from the names of the model.
///
/// # Errors
/// A file that is missing, unreadable, or has other content; see [`LoadError`].
/// Foreign objects are refused in a directory's model and optimizer, and are opaque values
/// elsewhere.
pub fn load(path: &Path) -> Result<CheckpointContent, LoadError> {
    load_parts(path, true)
}

/// Loads a checkpoint's model. The optimizer is `None`, and the state is an empty dict if
/// it cannot be read.
///
/// # Errors
/// Those of [`load`], for the model only.
pub fn load_weights(path: &Path) -> Result<CheckpointContent, LoadError> {
    load_parts(path, false)
}

fn load_parts(path: &Path, whole: bool) -> Result<CheckpointContent, LoadError> {
    let place = Location::of(path).map_err(|error| LoadError::Several {
        path: path.to_owned(),
        error,
    })?;
    match place {
        Location::Directory(directory) => {
            let model = directory.join(MODEL_FILE);
            let state = load_file(&directory.join(STATE_FILE)).map(|loaded| loaded.value);
            Ok(CheckpointContent {
                model: tensors(&model, load_own(&model)?)?,
                optimizer: match whole {
                    true => load_own(&directory.join(OPTIMIZER_FILE))?,
                    false => Value::None,
                },
                state: match whole {
                    true => state?,
                    false => state.unwrap_or(Value::Dict(Vec::new())),
                },
            })
        }
        Location::File(file) => {
            let parts = split(load_file(&file)?.value).map_err(|error| no_parts(&file, error))?;
            let optimizer = parts.optimizer.filter(|_| whole);
            Ok(CheckpointContent {
                model: tensors(&file, parts.model)?,
                optimizer: optimizer.unwrap_or(Value::None),
                state: parts.state,
            })
        }
    }
}

fn no_parts(file: &Path, error: NoParts) -> LoadError {
    let path = file.to_owned();
    let (expected, found) = match error {
        NoParts::NotADict { found } => ("dict", found),
        NoParts::Empty => ("dict", "empty dict".to_owned()),
        NoParts::NoModel { keys } => ("model", format!("dict of {}", keys.join(", "))),
        NoParts::Module { class } => {
            return LoadError::ForeignCode {
                path,
                global: class,
            };
        }
    };
    LoadError::Content {
        path,
        expected,
        found,
    }
}

/// A model's tensors, with wrappers removed from their names.
fn tensors(path: &Path, model: Value) -> Result<Vec<(String, Tensor)>, LoadError> {
    let content = |found: &Value| LoadError::Content {
        path: path.to_owned(),
        expected: "dict of tensors",
        found: found.kind().to_owned(),
    };
    let (Value::Dict(entries) | Value::OrderedDict(entries)) = model else {
        return Err(content(&model));
    };
    let tensors = entries.into_iter().map(|entry| match entry {
        (Value::Str(name), Value::Tensor(tensor)) => Ok((name, tensor)),
        (Value::Str(_), other) | (other, _) => Err(content(&other)),
    });
    let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    let names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    let names = unwrapped(&names).map_err(|error| LoadError::Names {
        path: path.to_owned(),
        error,
    })?;
    let tensors = tensors.into_iter().map(|(_, tensor)| tensor);
    Ok(names.into_iter().zip(tensors).collect())
}

/// Deletes what interrupted calls of [`write`] left in `parent`, and returns their paths.
///
/// # Errors
/// If `parent` cannot be listed or a leftover cannot be deleted.
pub fn remove_leftovers(parent: &Path) -> Result<Vec<PathBuf>, WriteError> {
    let listing = match fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| WriteError::io("list", parent, error))?,
    };
    let mut removed = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|error| WriteError::io("list", parent, error))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            remove_directory(&entry.path())?;
            removed.push(entry.path());
        }
    }
    removed.sort();
    Ok(removed)
}

/// The size of a regular file. Nothing else is opened, because opening a pipe or a device
/// could block.
pub(super) fn file_size(path: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() {
        Ok(metadata.len())
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Reads a file, but at most one byte more than the largest archive.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    file_size(path)?;
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(ARCHIVE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn load_file(path: &Path) -> Result<torch_file::Loaded, LoadError> {
    let bytes = read_bounded(path).map_err(|error| LoadError::Io {
        path: path.to_owned(),
        error,
    })?;
    torch_file::read(&bytes).map_err(|error| LoadError::Format {
        path: path.to_owned(),
        error,
    })
}

/// Loads a file that must contain only plain values and tensors.
fn load_own(path: &Path) -> Result<Value, LoadError> {
    let loaded = load_file(path)?;
    match loaded.foreign.into_iter().next() {
        Some(global) => Err(LoadError::ForeignCode {
            path: path.to_owned(),
            global,
        }),
        None => Ok(loaded.value),
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// Creates `parent` and its missing ancestors, and syncs the parent of each.
fn create_parent(parent: &Path) -> Result<(), WriteError> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let created: Vec<&Path> = parent.ancestors().take_while(missing).collect();
    fs::create_dir_all(parent).map_err(|error| WriteError::io("create", parent, error))?;
    for path in created {
        sync_directory(above(path))?;
    }
    Ok(())
}

fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn fill(directory: &Path, values: &[&Value; 3]) -> Result<Vec<FileRecord>, WriteError> {
    fs::create_dir(directory).map_err(|error| WriteError::io("create", directory, error))?;
    let mut files = Vec::new();
    for (name, value) in FILE_NAMES.into_iter().zip(values) {
        // PyTorch names the archive after the file.
        let folder = name.strip_suffix(".pt").unwrap_or(name);
        let bytes = torch_file::write(folder, value);
        let bytes = bytes.map_err(|error| WriteError::Encode { name, error })?;
        write_synced(&directory.join(name), &bytes)?;
        files.push(FileRecord::of(name, &bytes));
    }
    sync_directory(directory)?;
    Ok(files)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| WriteError::io("write", path, error))
}

/// A non-empty directory cannot be replaced by a rename, so an existing one is moved
/// aside first. No event references it, so a crash in between loses nothing.
fn put_in_place(parent: &Path, temporary: &Path, name: &str) -> Result<(), WriteError> {
    let path = parent.join(name);
    let aside = parent.join(format!("{TEMPORARY}old-{name}"));
    remove_directory(&aside)?;
    let exists = path.symlink_metadata().is_ok();
    if exists {
        rename(&path, &aside)?;
    }
    rename(temporary, &path)?;
    sync_directory(parent)?;
    if exists {
        remove_directory(&aside)?;
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), WriteError> {
    fs::rename(from, to).map_err(|error| {
        let both = format!("{}` to `{}", from.display(), to.display());
        WriteError::io("rename", Path::new(&both), error)
    })
}

fn sync_directory(path: &Path) -> Result<(), WriteError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| WriteError::io("sync", path, error))
}

/// Removes a directory or a file, if it exists.
fn remove_directory(path: &Path) -> Result<(), WriteError> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(WriteError::io("remove", path, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_kind(name: &str, code: i32, full: bool) {
        let error = WriteError::io("write", Path::new("x"), io::Error::from_raw_os_error(code));
        let found = matches!(error, WriteError::DiskFull { .. });
        assert_eq!(found, full, "{name}");
        assert!(error.is_environment(), "{name}");
    }

    #[test]
    fn a_full_disk_is_distinguished_from_other_errors() {
        check_kind("no space left on device", 28, true);
        check_kind("disk quota exceeded", 122, true);
        check_kind("input/output error", 5, false);
        check_kind("permission denied", 13, false);
    }
}
