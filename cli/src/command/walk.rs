//! Walks a folder and those below it, within bounds.

use std::io;
use std::path::{Path, PathBuf};

use tinygate_replay::places;

/// Calls `enter` for `place` and, down to `depth_most` below it, for the folders that it returns.
///
/// # Errors
/// Too many folders, or one that cannot be read.
pub fn walk(
    place: &Path,
    depth_most: u32,
    enter: impl FnMut(&Path) -> io::Result<Vec<PathBuf>>,
) -> anyhow::Result<()> {
    Ok(places::walk(place, depth_most, enter)?)
}
