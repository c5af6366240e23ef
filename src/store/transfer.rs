//! A log in one file: the sound part of a journal is the export format.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tinygate_advice::{Advice, Hint};

use super::disk::JOURNAL;
use super::error::{OpenError, ReadError};
use super::reader::{LogFile, Tail};
use super::real_file::sync_parent;

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("`{path}` already exists")]
    FileExists { path: PathBuf },
    #[error("cannot read `{path}`: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write `{path}`: {source}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot rename `{from}` to `{to}`: {source}")]
    Rename {
        from: PathBuf,
        to: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Advice for TransferError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            TransferError::Log(error) => error.hints(),
            TransferError::Open(error) => error.hints(),
            TransferError::FileExists { .. } => {
                vec![Hint::text("name another file"), Hint::ReplaceFile]
            }
            TransferError::Read { .. } => Vec::new(),
            TransferError::Write { .. } | TransferError::Rename { .. } => {
                vec![Hint::text("name a file in a folder that you may write to")]
            }
        }
    }
}

/// The content of an export.
#[derive(Debug)]
pub struct Exported {
    pub events: u64,
    pub bytes: u64,
    /// Bytes that were left out at the end: an append in progress or an unfinished one.
    pub tail: Option<Tail>,
    /// Why the export ends before the end of the log.
    pub fault: Option<ReadError>,
}

/// Copies the sound part of a run's journal (or of another export) to a file, also while
/// the run is being written. The file is created atomically; an existing one is replaced
/// only with `replace`.
///
/// # Errors
/// The file header is damaged, or the file already exists or cannot be written. Damage
/// after the header is not an error; it is part of the result.
pub fn export(log: &Path, to: &Path, replace: bool) -> Result<Exported, TransferError> {
    let mut records = LogFile::open(log)?.records();
    let fault = records
        .visit_stored(|_, stored| stored.decode().map(|_| ()))
        .err();
    let exported = Exported {
        events: records.next_seq().get(),
        bytes: records.offset(),
        tail: records.tail()?,
        fault,
    };
    let from = if log.is_dir() {
        log.join(JOURNAL)
    } else {
        log.to_owned()
    };
    let itself = || matches!((fs::canonicalize(&from), fs::canonicalize(to)), (Ok(from), Ok(to)) if from == to);
    if itself() || !replace && to.symlink_metadata().is_ok() {
        return Err(TransferError::FileExists {
            path: to.to_owned(),
        });
    }
    let mut from = File::open(&from)
        .map_err(|source| TransferError::Read { path: from, source })?
        .take(exported.bytes);
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let write = |source| TransferError::Write {
        path: to.to_owned(),
        source,
    };
    // A temporary file in the same folder, removed on any failure.
    let mut temporary = tempfile::Builder::new()
        .prefix(".tinygate-export-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(write)?;
    io::copy(&mut from, temporary.as_file_mut())
        .and_then(|_| temporary.as_file().sync_all())
        .map_err(write)?;
    let put = if replace {
        temporary.persist(to)
    } else {
        temporary.persist_noclobber(to)
    };
    put.map_err(|failed| {
        if failed.error.kind() == io::ErrorKind::AlreadyExists {
            return TransferError::FileExists {
                path: to.to_owned(),
            };
        }
        TransferError::Rename {
            from: failed.file.path().to_owned(),
            to: to.to_owned(),
            source: failed.error,
        }
    })?;
    sync_parent(to).map_err(write)?;
    Ok(exported)
}
