//! A copy of a sled folder in the temporary directory, for inspection.
//!
//! sled writes when it is opened, and may drop damaged data. The original folder is only
//! read.

use std::io;
use std::path::Path;

use super::disk::{Mirror, MirrorError, MirrorKey};
use super::scratch::{Scratch, copy_folder};
use super::sled_mirror::{PATIENCE, SledMirror};

/// A copy that is not opened yet.
pub struct SledCopy {
    scratch: Scratch,
}

impl SledCopy {
    /// Copies the sled folder at `path`; `None` if it does not exist.
    pub fn make(path: &Path) -> io::Result<Option<SledCopy>> {
        if !path.try_exists()? {
            return Ok(None);
        }
        let scratch = Scratch::make()?;
        copy_folder(path, &scratch.path().join("sled"))?;
        Ok(Some(SledCopy { scratch }))
    }

    pub fn open(self) -> Result<OpenCopy, MirrorError> {
        Ok(OpenCopy {
            mirror: SledMirror::open(&self.scratch.path().join("sled"), PATIENCE)?,
            _scratch: self.scratch,
        })
    }
}

/// An opened copy, for reading. The folder is removed after sled is closed.
pub struct OpenCopy {
    mirror: SledMirror,
    _scratch: Scratch,
}

impl Mirror for OpenCopy {
    fn get(&mut self, key: MirrorKey) -> Result<Option<Vec<u8>>, MirrorError> {
        self.mirror.get(key)
    }

    fn blocks(&mut self, from: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, MirrorError> {
        self.mirror.blocks(from, limit)
    }

    fn put(&mut self, _: Vec<(MirrorKey, Option<Vec<u8>>)>) -> Result<(), MirrorError> {
        Err(MirrorError::Failed("a copy is read-only".to_owned()))
    }

    fn sync(&mut self) -> Result<(), MirrorError> {
        Ok(())
    }
}
