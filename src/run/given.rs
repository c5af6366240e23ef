//! Checkpoints that a user gives to a new run, each judged like one of the run's own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::GivenError;
use super::notice::{Notice, Tell};
use crate::checkpoint::{
    self, Acceptance, Accepted, Appraisal, Location, Need, RejectReason, step_name,
};
use crate::config::Config;
use crate::events::{CheckpointRef, InitFrom, StageName, StagePolicy, Step};

/// A checkpoint from outside of the run: tinygate's, TinyWorlds', or a model in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenCheckpoint {
    /// The stage that starts from it or builds on it. `None`: as its name says.
    pub stage: Option<StageName>,
    pub path: PathBuf,
}

/// The new run to which checkpoints are given.
pub(super) struct Recipient<'a> {
    pub config: &'a Config,
    /// The stages that are trained.
    pub stages: &'a [StagePolicy],
    /// Only the weights of checkpoints are used.
    pub fresh_optimizer: bool,
}

/// Judges all given checkpoints.
///
/// # Errors
/// The first that cannot be used.
pub(super) fn judge_all(
    run: &Recipient<'_>,
    all: &[GivenCheckpoint],
    tell: &mut Tell<'_>,
) -> Result<Vec<InitFrom>, GivenError> {
    let mut judged: Vec<InitFrom> = Vec::new();
    for given in all {
        let init = judge(run, given, tell)?;
        if judged.iter().any(|known| known.stage == init.stage) {
            return Err(GivenError::Twice { stage: init.stage });
        }
        judged.push(init);
    }
    Ok(judged)
}

fn judge(
    run: &Recipient<'_>,
    given: &GivenCheckpoint,
    tell: &mut Tell<'_>,
) -> Result<InitFrom, GivenError> {
    let config = run.config;
    if let Some(stage) = given.stage.as_ref()
        && config.stage(stage).is_none()
    {
        return Err(GivenError::UnknownStage {
            stage: stage.clone(),
            known: config.stage_names(),
        });
    }
    // A stage's `best` is a link; the checkpoint behind it has the name.
    let path = absolute(&given.path).map_err(|source| GivenError::Unreadable {
        path: given.path.clone(),
        source,
    })?;
    // A folder with one file in it stands for the file.
    let path = match Location::of(&path) {
        Ok(location) => location.path().to_owned(),
        Err(several) => return Err(GivenError::Several { path, several }),
    };
    let stage = given.stage.clone().or_else(|| stage_of(config, &path));
    let Some(stage) = stage else {
        return Err(GivenError::NoStage {
            path: given.path.clone(),
            known: config.stage_names(),
        });
    };
    let trained = run.stages.iter().any(|policy| policy.name == stage);
    let fresh_optimizer = run.fresh_optimizer && trained;
    let accepted = accept(&path, &stage, trained && !fresh_optimizer)?;
    if accepted.rounded {
        tell(Notice::WeightsRounded {
            checkpoint: path.clone(),
        });
    }
    let step = match accepted.step {
        Some(step) => step,
        // The count does not matter for a stage that is not trained.
        None if !trained => 0,
        None if fresh_optimizer => {
            tell(Notice::UpdatesUnknown {
                checkpoint: path.clone(),
                stage: stage.clone(),
            });
            0
        }
        None => return Err(GivenError::UpdatesUnknown { path, stage }),
    };
    let Some(text) = path.to_str() else {
        return Err(GivenError::NotUnicode { path });
    };
    Ok(InitFrom {
        stage,
        checkpoint: CheckpointRef {
            path: text.to_owned(),
            step: Step::new(step),
        },
        files: accepted.files.into_iter().map(Into::into).collect(),
        fresh_optimizer,
    })
}

/// A link to a directory is followed, but not one to a file: in a cache of downloads the link has the
/// name, and the file's name is a hash.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    if !fs::metadata(path)?.is_file() {
        return fs::canonicalize(path);
    }
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        (_, _) => Ok(path),
    }
}

/// The stage in a checkpoint's name, perhaps after a prefix as in `sonic_dynamics_step_2`.
fn stage_of(config: &Config, path: &Path) -> Option<StageName> {
    let name = path.file_name()?.to_str()?;
    let named = step_name(name)?.stage;
    let stages = config.policy.stages.iter().map(|stage| &stage.name);
    let ends = |stage: &&StageName| {
        let before = named.strip_suffix(stage.as_str());
        before.is_some_and(|before| before.is_empty() || before.ends_with('_'))
    };
    let longest = stages
        .filter(ends)
        .max_by_key(|stage| stage.as_str().len())?;
    Some(longest.clone())
}

/// `with_moments`: the stage resumes from it.
fn accept(path: &Path, stage: &StageName, with_moments: bool) -> Result<Accepted, GivenError> {
    let refused = |reason: RejectReason| GivenError::Refused {
        path: path.to_owned(),
        reason: Box::new(reason),
    };
    match checkpoint::appraise(path, None) {
        Appraisal::Resume(accepted) if with_moments => Ok(accepted),
        Appraisal::WeightsOnly(_, reason) if with_moments => Err(GivenError::WeightsOnly {
            path: path.to_owned(),
            stage: stage.clone(),
            reason: Box::new(reason),
        }),
        // Only the model's file is recorded, since no other is needed.
        Appraisal::Resume(_) | Appraisal::WeightsOnly(..) => {
            match checkpoint::accept_for(Need::Weights, path, None) {
                Acceptance::Accepted(accepted) => Ok(accepted),
                Acceptance::Rejected { reason } => Err(refused(reason)),
            }
        }
        Appraisal::Nothing(reason) => Err(refused(reason)),
    }
}
