//! Applies recorded decisions to the files of the run directory.
//!
//! Everything here may be done twice or late: it depends only on events that are already
//! durable, and a new process repeats what the last one may not have finished. Failures
//! are warnings and affect no decision: a directory that cannot be removed only costs
//! space.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::checkpoint;
use crate::durable;
use crate::events::{CheckpointRef, Event, StageName};
use crate::machine::{Phase, RunState};

/// Applies one recorded event to the files.
pub fn follow(directory: &Path, event: &Event) {
    if let Event::CheckpointDeleted(deleted) = event {
        remove(directory, &deleted.stage, &deleted.checkpoint);
    }
    if let Event::StagePassed(passed) = event {
        link_best(directory, &passed.stage, &passed.checkpoint);
    }
}

/// Applies the whole state to the files again, and removes incomplete checkpoints of a
/// process that ended. No other process may be writing.
pub fn sweep(directory: &Path, state: &RunState) {
    for stage in &state.stages {
        let checkpoints = directory.join(stage.name().as_str()).join("checkpoints");
        if let Err(error) = checkpoint::remove_leftovers(&checkpoints) {
            tracing::warn!("cannot remove an incomplete checkpoint: {error}");
        }
        for checkpoint in stage.lineage.all().filter(|checkpoint| checkpoint.deleted) {
            remove(directory, stage.name(), &checkpoint.reference);
        }
        if let Phase::Passed { checkpoint } = &stage.phase {
            link_best(directory, stage.name(), checkpoint);
        }
    }
}

/// The absolute path of a checkpoint whose path may be relative.
pub fn resolve(directory: &Path, path: &str) -> PathBuf {
    directory.join(path)
}

/// Whether the run may remove the path: only `<stage>/checkpoints/<name>`, whatever a log
/// says. A checkpoint elsewhere was given by the user.
fn is_ours(stage: &StageName, path: &Path) -> bool {
    let parts: Option<Vec<&OsStr>> = path.components().map(plain).collect();
    parts.is_some_and(|parts| {
        matches!(parts[..], [first, second, _] if first == stage.as_str() && second == "checkpoints")
    })
}

/// The name, unless the component is `..`, `.` or the root.
fn plain<'a>(component: Component<'a>) -> Option<&'a OsStr> {
    if let Component::Normal(name) = component {
        Some(name)
    } else {
        None
    }
}

fn remove(directory: &Path, stage: &StageName, checkpoint: &CheckpointRef) {
    if !is_ours(stage, Path::new(&checkpoint.path)) {
        return;
    }
    let path = resolve(directory, &checkpoint.path);
    match fs::remove_dir_all(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("cannot remove `{}`: {error}", path.display()),
    }
}

/// Makes `<run>/<stage>/best` a link to the checkpoint of a passed stage.
fn link_best(directory: &Path, stage: &StageName, checkpoint: &CheckpointRef) {
    let mut parts = Path::new(stage.as_str()).components();
    if parts.next().and_then(plain).is_none() || parts.next().is_some() {
        return;
    }
    let folder = directory.join(stage.as_str());
    let target = match Path::new(&checkpoint.path).strip_prefix(stage.as_str()) {
        Ok(inside) => inside.to_owned(),
        Err(_) => PathBuf::from(&checkpoint.path),
    };
    let link = folder.join("best");
    if fs::read_link(&link).is_ok_and(|now| now == target) {
        return;
    }
    let temporary = folder.join(".tmp-best");
    let linked = durable::create_folders(directory, Path::new(stage.as_str()))
        .and_then(|()| match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .and_then(|()| std::os::unix::fs::symlink(&target, &temporary))
        .and_then(|()| fs::rename(&temporary, &link))
        .and_then(|()| durable::sync_folder(&folder));
    if let Err(error) = linked {
        tracing::warn!(
            "cannot link `{}` to `{}`: {error}",
            link.display(),
            target.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{CheckpointDeleted, Step};

    #[track_caller]
    fn check(name: &str, stage: &str, path: &str, removed: bool) {
        let place = tempfile::tempdir().unwrap();
        let run = place.path().join("run");
        let target = run.join(path);
        fs::create_dir_all(run.join("video/checkpoints")).unwrap();
        fs::create_dir_all(&target).unwrap();
        let deleted = CheckpointDeleted {
            stage: StageName::new(stage),
            checkpoint: CheckpointRef {
                path: path.to_owned(),
                step: Step::new(5),
            },
        };
        follow(&run, &Event::CheckpointDeleted(deleted));
        assert_eq!(!target.exists(), removed, "{name}");
    }

    #[test]
    fn the_link_to_the_best_checkpoint_is_durable() {
        let place = tempfile::tempdir().unwrap();
        let run = place.path();
        let passed = |step: u64| {
            Event::StagePassed(crate::events::StagePassed {
                stage: StageName::new("video"),
                checkpoint: CheckpointRef {
                    path: format!("video/checkpoints/video_step_{step}"),
                    step: Step::new(step),
                },
            })
        };
        let target = |step: u64| PathBuf::from(format!("checkpoints/video_step_{step}"));
        durable::tests::SYNCED.take();
        follow(run, &passed(5));
        assert_eq!(fs::read_link(run.join("video/best")).unwrap(), target(5));
        let synced = durable::tests::SYNCED.take();
        assert_eq!(
            synced,
            [run.to_owned(), run.join("video")],
            "the stage's folder, then the link in it"
        );
        follow(run, &passed(5));
        assert!(durable::tests::SYNCED.take().is_empty(), "nothing to do");
        follow(run, &passed(9));
        assert_eq!(fs::read_link(run.join("video/best")).unwrap(), target(9));
        assert_eq!(durable::tests::SYNCED.take(), [run.join("video")]);
        assert_eq!(fs::read_dir(run.join("video")).unwrap().count(), 1);
    }

    #[test]
    fn a_run_directory_that_was_moved_away_is_not_created() {
        let place = tempfile::tempdir().unwrap();
        let gone = place.path().join("run");
        let passed = crate::events::StagePassed {
            stage: StageName::new("video"),
            checkpoint: CheckpointRef {
                path: "video/checkpoints/video_step_5".to_owned(),
                step: Step::new(5),
            },
        };
        follow(&gone, &Event::StagePassed(passed));
        assert!(!gone.exists());
    }

    #[test]
    fn only_checkpoints_of_the_stage_are_removed() {
        check(
            "a checkpoint",
            "video",
            "video/checkpoints/video_step_5",
            true,
        );
        check(
            "another stage's",
            "video",
            "latent/checkpoints/latent_step_5",
            false,
        );
        check("all checkpoints", "video", "video/checkpoints", false);
        check(
            "all checkpoints, with a dot",
            "video",
            "video/checkpoints/.",
            false,
        );
        check("the run", "video", "", false);
        check("the log", "log", "log/sled/x", false);
        check(
            "a file of a checkpoint",
            "video",
            "video/checkpoints/video_step_5/x",
            false,
        );
        check("up", "video", "video/checkpoints/../../x", false);
        check("a sibling of the run", "..", "../checkpoints/x", false);
        check("the parent folder", "video", "..", false);
        let elsewhere = tempfile::tempdir().unwrap();
        let given = elsewhere.path().to_str().unwrap().to_owned();
        check("a checkpoint given by the user", "video", &given, false);
    }
}
