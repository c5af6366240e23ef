//! Looks into a folder and those below it, within bounds.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Folders looked at below one.
const FOLDERS_MOST: usize = 100_000;

/// Calls `enter` for `place` and, down to `depth_most` below it, for the folders that it answers.
///
/// # Errors
/// More than [`FOLDERS_MOST`] folders, or one that cannot be looked into.
pub fn walk(
    place: &Path,
    depth_most: u32,
    mut enter: impl FnMut(&Path) -> io::Result<Vec<PathBuf>>,
) -> anyhow::Result<()> {
    let mut waiting = vec![(place.to_owned(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = waiting.pop() {
        seen += 1;
        if FOLDERS_MOST < seen {
            bail!(
                "`{}` has more than {FOLDERS_MOST} folders\nhint: name one that is deeper",
                place.display()
            );
        }
        let below = enter(&folder).with_context(|| {
            let folder = folder.display();
            format!("cannot look into `{folder}`\nhint: check that it is readable to you")
        })?;
        if depth < depth_most {
            waiting.extend(below.into_iter().map(|folder| (folder, depth + 1)));
        }
    }
    Ok(())
}
