//! Temporary folders, for inspecting files that opening would change.

use std::fs;
use std::io;
use std::path::Path;

use tempfile::TempDir;

/// Levels of folders below a copied one; sled has one.
const DEPTH: u32 = 4;

/// A private folder that is removed when dropped.
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    pub fn make() -> io::Result<Scratch> {
        let folder = tempfile::Builder::new().prefix("tinygate-").tempdir()?;
        Ok(Scratch { folder })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Copies a folder with all its files to a path that does not exist.
pub fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    copy_below(from, to, 0)
}

fn copy_below(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let target = to.join(entry.file_name());
        if kind.is_dir() && depth < DEPTH {
            copy_below(&entry.path(), &target, depth + 1)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_copied_down_to_a_limit() {
        let scratch = Scratch::make().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        let levels = DEPTH as usize;
        let deepest: std::path::PathBuf = std::iter::repeat_n("folder", levels + 1).collect();
        let copied: std::path::PathBuf = std::iter::repeat_n("folder", levels).collect();
        fs::create_dir_all(from.join(&deepest)).unwrap();
        fs::write(from.join(&copied).join("file"), "text").unwrap();
        copy_folder(&from, &to).unwrap();
        assert_eq!(fs::read(to.join(&copied).join("file")).unwrap(), b"text");
        assert!(!to.join(&deepest).exists());
    }
}
