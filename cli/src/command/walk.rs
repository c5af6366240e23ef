//! Looks into a folder and those below it, within bounds.

use std::io;
use std::path::{Path, PathBuf};

use tinygate_replay::places::{self, WalkError};

/// Calls `enter` for `place` and, down to `depth_most` below it, for the folders that it answers.
///
/// # Errors
/// Too many folders, or one that cannot be looked into.
pub fn walk(
    place: &Path,
    depth_most: u32,
    enter: impl FnMut(&Path) -> io::Result<Vec<PathBuf>>,
) -> anyhow::Result<()> {
    places::walk(place, depth_most, enter).map_err(advised)
}

/// The error with its hint.
pub fn advised(error: WalkError) -> anyhow::Error {
    let hint = error.hint();
    anyhow::anyhow!("{error}\nhint: {hint}")
}
