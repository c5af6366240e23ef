//! What the run directory's files owe to recorded decisions.
//!
//! Everything here may be done twice, or late: it follows from events that are
//! durable already, and a new process does again what the last one may not have
//! got to. A failure is said and changes no decision: a directory that could
//! not be removed costs space, nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint;
use crate::events::{CheckpointRef, Event, StageName};
use crate::machine::{Phase, RunState};

/// Does what one recorded event asks of the files.
pub fn follow(directory: &Path, event: &Event) {
    if let Event::CheckpointDeleted(deleted) = event {
        remove(directory, &deleted.checkpoint);
    }
    if let Event::StagePassed(passed) = event {
        link_best(directory, &passed.stage, &passed.checkpoint);
    }
}

/// Does again what the whole state asks of the files, and removes what a process that
/// went away had begun to write. Nobody may be writing.
pub fn sweep(directory: &Path, state: &RunState) {
    for stage in &state.stages {
        let checkpoints = directory.join(stage.name().as_str()).join("checkpoints");
        if let Err(error) = checkpoint::remove_leftovers(&checkpoints) {
            tracing::warn!("a leftover could not be removed: {error}");
        }
        for checkpoint in stage
            .checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.deleted)
        {
            remove(directory, &checkpoint.reference);
        }
        if let Phase::Passed { checkpoint } = &stage.phase {
            link_best(directory, stage.name(), checkpoint);
        }
    }
}

/// Where a checkpoint's path, relative or not, points.
pub fn resolve(directory: &Path, path: &str) -> PathBuf {
    directory.join(path)
}

fn remove(directory: &Path, checkpoint: &CheckpointRef) {
    // A checkpoint outside the run directory was given by the user and is not ours to remove.
    if Path::new(&checkpoint.path).is_absolute() || checkpoint.path.contains("..") {
        return;
    }
    let path = resolve(directory, &checkpoint.path);
    match fs::remove_dir_all(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("`{}` could not be removed: {error}", path.display()),
    }
}

/// `<run>/<stage>/best` points to the checkpoint handed on.
fn link_best(directory: &Path, stage: &StageName, checkpoint: &CheckpointRef) {
    let place = directory.join(stage.as_str());
    let target = match Path::new(&checkpoint.path).strip_prefix(stage.as_str()) {
        Ok(inside) => inside.to_owned(),
        Err(_) => PathBuf::from(&checkpoint.path),
    };
    let link = place.join("best");
    if fs::read_link(&link).is_ok_and(|now| now == target) {
        return;
    }
    let fresh = place.join(".tmp-best");
    let linked = fs::create_dir_all(&place)
        .and_then(|()| match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .and_then(|()| std::os::unix::fs::symlink(&target, &fresh))
        .and_then(|()| fs::rename(&fresh, &link));
    if let Err(error) = linked {
        tracing::warn!(
            "`{}` could not be pointed to `{}`: {error}",
            link.display(),
            target.display()
        );
    }
}
