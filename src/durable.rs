//! Creates and syncs folders so that their names survive a power cut.
//!
//! The name of a created or renamed file is durable once the folder that contains it is synced. The given root folder is
//! never created: a run directory that was moved away does not reappear.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};

/// Makes the names in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(folder.to_owned()));
    File::open(folder)?.sync_all()
}

/// Creates the folders of the relative path `below` in `root`, each durably. `root` must exist.
///
/// # Errors
/// An error of the file system, or a path that leads out of `root`.
pub(crate) fn create_folders(root: &Path, below: &Path) -> io::Result<()> {
    let mut folder = root.to_owned();
    for part in below.components() {
        let Component::Normal(name) = part else {
            let text = format!("`{}` leads out of its folder", below.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        let parent = folder.clone();
        folder.push(name);
        match fs::create_dir(&folder) {
            Ok(()) => sync_folder(&parent)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::path::PathBuf;

    thread_local! {
        /// Folders that this thread synced.
        pub(crate) static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn each_new_folder_is_synced_in_its_parent() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path();
        SYNCED.take();
        create_folders(root, Path::new("stage/pictures")).unwrap();
        assert!(root.join("stage/pictures").is_dir());
        assert_eq!(SYNCED.take(), [root.to_owned(), root.join("stage")]);
        create_folders(root, Path::new("stage/pictures")).unwrap();
        assert_eq!(SYNCED.take(), Vec::<PathBuf>::new(), "they already exist");
    }

    #[test]
    fn nothing_is_created_without_the_root_or_outside_of_it() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("run");
        let gone = create_folders(&root, Path::new("stage")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert!(!root.exists());
        fs::create_dir(&root).unwrap();
        let outside = create_folders(&root, Path::new("../other")).unwrap_err();
        assert_eq!(outside.kind(), io::ErrorKind::InvalidInput);
        fs::write(root.join("stage"), b"").unwrap();
        let file = create_folders(&root, Path::new("stage")).unwrap_err();
        assert_eq!(file.kind(), io::ErrorKind::AlreadyExists);
    }
}
