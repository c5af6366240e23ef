//! The run's directory, as training reads and writes it.
//!
//! Invariant: once the directory is open, nothing is written to its path after it was moved away.

use std::path::{Path, PathBuf};

use super::super::error::with_hints;
use super::failure::Failure;
use crate::checkpoint::{self, CheckpointContent, Need, RejectReason};
use crate::durable::create_folders;
use crate::events::{CheckpointRef, FileRecord, Step};
use crate::store::RunFolder;

pub(super) struct RunDirectory {
    path: PathBuf,
    /// Opened when the first chunk begins.
    held: Option<RunFolder>,
}

impl RunDirectory {
    pub fn new(path: PathBuf) -> RunDirectory {
        RunDirectory { path, held: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the directory. From now on writes go to this directory or fail.
    pub fn hold(&mut self) -> Result<(), Failure> {
        if self.held.is_none() {
            let path = &self.path;
            let folder = RunFolder::open(path).map_err(|error| {
                Failure::Environment(format!("cannot open `{}`: {error}", path.display()))
            })?;
            self.held = Some(folder);
        }
        self.check_in_place()
    }

    /// Free space in bytes.
    pub fn free_bytes(&self) -> Result<u64, Failure> {
        let space = rustix::fs::statvfs(&self.path)
            .map_err(|error| Failure::Environment(format!("`{}`: {error}", self.path.display())))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Checks a checkpoint on the disk against the log.
    pub fn accept(
        &self,
        need: Need,
        checkpoint: &CheckpointRef,
        files: &[FileRecord],
    ) -> Result<(), RejectReason> {
        crate::trainer::accept(&self.path, need, checkpoint, files)
    }

    /// The tensors of a checkpoint.
    pub fn load(
        &self,
        need: Need,
        checkpoint: &CheckpointRef,
    ) -> Result<CheckpointContent, Failure> {
        let path = self.path.join(&checkpoint.path);
        let content = match need {
            Need::Resume => checkpoint::load(&path),
            Need::Weights => checkpoint::load_weights(&path),
        };
        content.map_err(|error| Failure::unloadable(checkpoint, &error))
    }

    /// Writes the checkpoint `folder`/`name`.
    pub fn write_checkpoint(
        &self,
        folder: &str,
        name: &str,
        step: Step,
        content: &CheckpointContent,
    ) -> Result<(CheckpointRef, Vec<FileRecord>), Failure> {
        self.check_in_place()?;
        let written = checkpoint::write(&self.path.join(folder), name, content)?;
        let files = written.files.into_iter().map(Into::into).collect();
        let path = format!("{folder}/{name}");
        Ok((CheckpointRef { path, step }, files))
    }

    /// Where to write the file at `path`, relative to the run's directory. Creates its folder.
    pub fn new_file(&self, path: &str) -> Result<PathBuf, Failure> {
        self.check_in_place()?;
        let folder = Path::new(path).parent().unwrap_or(Path::new(""));
        create_folders(&self.path, folder).map_err(|error| {
            let folder = self.path.join(folder);
            Failure::Environment(format!("cannot create `{}`: {error}", folder.display()))
        })?;
        Ok(self.path.join(path))
    }

    fn check_in_place(&self) -> Result<(), Failure> {
        match self.held.as_ref().map(RunFolder::check) {
            Some(Err(moved)) => Err(Failure::Environment(with_hints(&moved))),
            Some(Ok(())) | None => Ok(()),
        }
    }
}
