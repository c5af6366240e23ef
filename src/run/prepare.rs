//! Checks everything that a new run needs (config, checkpoints, data) and makes its first event.
//!
//! Writes nothing before [`Prepared::create`], and needs no libtorch.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::error::{GivenError, NewRunError};
use super::given::{GivenCheckpoint, Recipient, judge_all};
use super::models::{GivenUse, Models};
use super::notice::Tell;
use super::open_run::Run;
use super::process::Group;
use super::read::exists;
use crate::config::Config;
use crate::data::Frames;
use crate::events::{HeldOutBatches, InitFrom, Parent, RunCreated, StageName, StagePolicy};
use crate::machine::RULES;
use crate::setup;
use crate::store::{OpenError, check_clock};

/// A run that does not exist yet.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub config: Config,
    /// The run whose first config it takes, with the settings that its ladders deferred.
    pub parent: Option<Parent>,
    /// Train this stage only; the stages it builds on are given by `init_from`.
    pub stage: Option<StageName>,
    pub init_from: Vec<GivenCheckpoint>,
    /// Take only the weights of a checkpoint that a stage starts from.
    pub fresh_optimizer: bool,
    /// Take a checkpoint that fits although its own config or its optimizer has other settings.
    pub allow_other_settings: bool,
}

/// What a new run would begin with, checked.
pub struct Draft {
    /// All stages of the config, also those that are not trained.
    config: Config,
    /// `None`: no stage needs frames.
    frames: Option<Arc<Frames>>,
    created: RunCreated,
}

/// A new run in a directory that has none.
pub struct Prepared {
    dir: PathBuf,
    draft: Draft,
}

impl NewRun {
    /// A run of all stages of a config, from their first weights.
    pub fn new(config: Config) -> NewRun {
        NewRun {
            config,
            parent: None,
            stage: None,
            init_from: Vec::new(),
            fresh_optimizer: false,
            allow_other_settings: false,
        }
    }

    /// Checks the run for a trainer and a directory, which may be missing or empty.
    ///
    /// # Errors
    /// A directory with a run, and as [`NewRun::draft`].
    pub fn prepare(
        &self,
        dir: &Path,
        models: &dyn Models,
        tell: &mut Tell<'_>,
    ) -> Result<Prepared, NewRunError> {
        let name = absolute(dir)?;
        let name = name.file_name().map(|name| name.to_string_lossy());
        let name = name.map_or_else(|| "run".to_owned(), std::borrow::Cow::into_owned);
        let draft = self.checked(&name, Some(dir), models, tell)?;
        Ok(Prepared {
            dir: dir.to_owned(),
            draft,
        })
    }

    /// Checks the run for a trainer, without a directory: it can be measured, but not created.
    ///
    /// # Errors
    /// Everything that would stop the run: unknown stages and models, unusable checkpoints, missing or
    /// unusable data.
    pub fn draft(&self, models: &dyn Models, tell: &mut Tell<'_>) -> Result<Draft, NewRunError> {
        self.checked("dry run", None, models, tell)
    }

    fn checked(
        &self,
        name: &str,
        dir: Option<&Path>,
        models: &dyn Models,
        tell: &mut Tell<'_>,
    ) -> Result<Draft, NewRunError> {
        check_clock(SystemTime::now()).map_err(|source| NewRunError::Clock { source })?;
        let config = &self.config;
        let mut policy = config.policy.clone();
        if let Some(only) = &self.stage {
            policy.stages.retain(|stage| stage.name == *only);
            if policy.stages.is_empty() {
                return Err(NewRunError::UnknownStage {
                    stage: only.clone(),
                    known: config.stage_names(),
                });
            }
        }
        dir.map_or(Ok(()), refuse_a_run)?;
        for stage in &policy.stages {
            models.check_stage(stage)?;
        }
        let recipient = Recipient {
            config: &self.config,
            stages: &policy.stages,
            fresh_optimizer: self.fresh_optimizer,
        };
        let init_from = judge_all(&recipient, &self.init_from, tell)?;
        if self.fresh_optimizer && !init_from.iter().any(|init| init.fresh_optimizer) {
            return Err(NewRunError::FreshOptimizerUnused);
        }
        for init in &init_from {
            self.check_given(&policy.stages, init, models)?;
        }
        for stage in &policy.stages {
            self.check_upstream(&policy.stages, &stage.name, &init_from)?;
        }
        let (frames, dataset, trivial_predictors) = if config.needs_frames() {
            let frames = setup::frames(config)?;
            let windows = setup::windows(config, Arc::clone(&frames)).map_err(setup_error)?;
            let trivial = setup::trivial_predictors(&windows).map_err(setup_error)?;
            setup::check_change(&policy.stages, &windows, &trivial).map_err(setup_error)?;
            (Some(frames), setup::dataset(config, &windows), trivial)
        } else {
            (None, setup::no_dataset(), Vec::new())
        };
        let created = RunCreated {
            run: name.to_owned(),
            tinygate_version: env!("CARGO_PKG_VERSION").to_owned(),
            libtorch_version: models.version().to_owned(),
            rules: RULES,
            seed: config.seed,
            world_size: 1,
            config: config.to_json(),
            policy,
            dataset,
            trivial_predictors,
            parent: self.parent.clone(),
            init_from,
            held_out_batches: HeldOutBatches::Stage,
        };
        Ok(Draft {
            config: config.clone(),
            frames,
            created,
        })
    }

    /// A given checkpoint must fit its stage, and leave it something to train.
    fn check_given(
        &self,
        stages: &[StagePolicy],
        init: &InitFrom,
        models: &dyn Models,
    ) -> Result<(), GivenError> {
        let path = PathBuf::from(&init.checkpoint.path);
        let trained = stages.iter().find(|policy| policy.name == init.stage);
        if let Some(policy) = trained
            && policy.settings.n_updates <= init.checkpoint.step.get()
        {
            return Err(GivenError::PastTarget {
                path,
                stage: init.stage.clone(),
                updates: init.checkpoint.step,
                target: policy.settings.n_updates,
            });
        }
        let Some(policy) = self.config.stage(&init.stage) else {
            return Ok(());
        };
        let given = GivenUse {
            config: &self.config,
            stage: &init.stage,
            model: &policy.model,
            path: &path,
            resumes: trained.is_some() && !init.fresh_optimizer,
            allow_other_settings: self.allow_other_settings,
        };
        let fits = models.check_given(&given);
        fits.map_err(|source| GivenError::Misfit {
            path: path.clone(),
            stage: init.stage.clone(),
            source,
        })
    }

    /// A stage needs the models it builds on: from stages before it, or given.
    fn check_upstream(
        &self,
        stages: &[StagePolicy],
        name: &StageName,
        given: &[InitFrom],
    ) -> Result<(), NewRunError> {
        for needed in self.config.upstream(name) {
            let same_model = |stage: &StageName| {
                let stage = self.config.stage(stage);
                stage.map(|policy| &policy.model) == Some(&needed.model)
            };
            let mut before = stages.iter().take_while(|stage| stage.name != *name);
            let trained = before.any(|stage| stage.model == needed.model);
            if !trained && !given.iter().any(|init| same_model(&init.stage)) {
                return Err(NewRunError::UpstreamMissing {
                    stage: name.clone(),
                    model: needed.model.clone(),
                    needed: needed.name.clone(),
                });
            }
        }
        Ok(())
    }
}

impl Draft {
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `None`: no stage needs frames.
    pub fn frames(&self) -> Option<&Arc<Frames>> {
        self.frames.as_ref()
    }

    /// The run's first event, as one rank would begin it.
    pub fn created(&self) -> &RunCreated {
        &self.created
    }

    /// The run's first event, begun by these ranks.
    pub fn created_by(&self, group: &Group) -> RunCreated {
        RunCreated {
            world_size: group.size,
            ..self.created.clone()
        }
    }
}

impl Prepared {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// Creates the run: its directory, its log and its first event.
    ///
    /// # Errors
    /// A directory that cannot be made or has a run by now; a disk that fails.
    pub fn create(self, group: &Group) -> Result<Run, NewRunError> {
        Run::create(&self.dir, self.draft.created_by(group), group)
    }
}

fn refuse_a_run(dir: &Path) -> Result<(), NewRunError> {
    if exists(dir) {
        return Err(NewRunError::Start {
            dir: dir.to_owned(),
            source: OpenError::Exists,
        });
    }
    if dir.exists() && !dir.is_dir() {
        return Err(NewRunError::DirectoryIsFile {
            path: dir.to_owned(),
        });
    }
    Ok(())
}

fn setup_error(error: impl Into<setup::SetupError>) -> NewRunError {
    NewRunError::Setup(error.into())
}

fn absolute(path: &Path) -> Result<PathBuf, NewRunError> {
    std::path::absolute(path).map_err(|source| NewRunError::NotFound {
        path: path.to_owned(),
        source,
    })
}
