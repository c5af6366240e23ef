//! The trainers of stages: new, loaded from a checkpoint, or kept from the last chunk.

use std::path::Path;

use super::super::models::ModelConfig;
use super::super::ranks::Task;
use super::super::{InitKey, Model, Pipeline, StageTrainer, Upstream};
use super::directory::RunDirectory;
use super::failure::{Failure, known_model};
use super::weights;
use crate::checkpoint::Need;
use crate::config::Config;
use crate::events::{CheckpointRef, Restart, StageName};
use crate::machine::{ResumePoint, TrainChunk, UpstreamModel};
use crate::presets::ModelKind;
use crate::trainer::{is_absent, refusal};

/// Makes trainers by the config, and keeps that of the last chunk.
pub(super) struct Stages {
    config: Config,
    device: tch::Device,
    loaded: Option<Loaded>,
}

/// A stage's trainer and the checkpoint of its weights.
struct Loaded {
    stage: StageName,
    restart: Restart,
    /// The checkpoint that holds the current weights.
    at: CheckpointRef,
    trainer: StageTrainer,
}

impl Stages {
    pub fn new(config: Config, device: tch::Device) -> Stages {
        Stages {
            config,
            device,
            loaded: None,
        }
    }

    /// The trainer at the start of the command: the one that was kept if it is there, else one loaded from `directory`.
    pub fn take(
        &mut self,
        train: &TrainChunk,
        directory: &RunDirectory,
    ) -> Result<StageTrainer, Failure> {
        let at = train.resume.as_ref().map(|resume| &resume.checkpoint);
        if let Some(loaded) = self.loaded.take()
            && loaded.stage == train.stage
            && loaded.restart == train.restart
            && Some(&loaded.at) == at
        {
            return Ok(loaded.trainer);
        }
        let upstream = match known_model(&train.model)? {
            ModelKind::VideoTokenizer | ModelKind::LatentActions => None,
            ModelKind::Dynamics => Some(self.upstream(&train.stage, &train.upstream, directory)?),
        };
        let key = InitKey {
            run_seed: self.config.seed,
            stage: train.stage.as_str().to_owned(),
            restart: train.restart.get(),
        };
        let config = model_config(&self.config, &train.stage);
        let model = Model::new(known_model(&train.model)?, &config, &key, self.device)?;
        let mut trainer = StageTrainer::new(Pipeline::new(model, upstream)?)?;
        if let Some(resume) = &train.resume {
            load(&mut trainer, resume, directory)?;
        }
        Ok(trainer)
    }

    /// Keeps a trainer, whose weights are those of the checkpoint `at`, for the next chunk.
    pub fn keep(&mut self, train: &TrainChunk, at: CheckpointRef, trainer: StageTrainer) {
        self.loaded = Some(Loaded {
            stage: train.stage.clone(),
            restart: train.restart,
            at,
            trainer,
        });
    }

    /// Drops the trainer that was kept.
    pub fn forget(&mut self) {
        self.loaded = None;
    }

    /// A follower's trainer, with zero weights until rank 0 shares its own.
    pub fn for_follower(&self, task: &Task) -> Result<StageTrainer, Failure> {
        let model = |kind: ModelKind, stage: &StageName| {
            Model::zeros(kind, &model_config(&self.config, stage), self.device)
        };
        let newest = |kind: ModelKind| {
            let mut stages = task.upstream.iter().rev();
            stages.find(|stage| self.kind_of(stage) == Some(kind))
        };
        let upstream = match (
            task.model,
            newest(ModelKind::VideoTokenizer),
            newest(ModelKind::LatentActions),
        ) {
            (ModelKind::Dynamics, Some(tokenizer), Some(actions)) => Some(Upstream::new(
                model(ModelKind::VideoTokenizer, tokenizer)?,
                model(ModelKind::LatentActions, actions)?,
            )?),
            (ModelKind::Dynamics | ModelKind::VideoTokenizer | ModelKind::LatentActions, _, _) => {
                None
            }
        };
        let model = model(task.model, &task.stage)?;
        let trainer = StageTrainer::new(Pipeline::new(model, upstream)?)?;
        if trainer.signature() == task.signature {
            return Ok(trainer);
        }
        Err(Failure::Bug(format!(
            "the weights of `{}` have other names or shapes here than on rank 0",
            task.stage
        )))
    }

    /// The upstream models of a dynamics stage.
    pub fn upstream(
        &self,
        stage: &StageName,
        upstream: &[UpstreamModel],
        directory: &RunDirectory,
    ) -> Result<Upstream, Failure> {
        let newest = |kind| self.frozen(kind, upstream, directory);
        let models = Upstream::new(
            newest(ModelKind::VideoTokenizer)?,
            newest(ModelKind::LatentActions)?,
        )?;
        models.check(&model_config(&self.config, stage))?;
        Ok(models)
    }

    /// The newest upstream model of a kind.
    fn frozen(
        &self,
        kind: ModelKind,
        upstream: &[UpstreamModel],
        directory: &RunDirectory,
    ) -> Result<Model, Failure> {
        let found = upstream
            .iter()
            .rev()
            .find(|upstream| self.kind_of(&upstream.stage) == Some(kind));
        let upstream = found.ok_or_else(|| {
            Failure::Environment(format!(
                "dynamics needs the checkpoint of a `{}` stage, and the run has none",
                kind.as_str()
            ))
        })?;
        directory
            .accept(Need::Weights, &upstream.checkpoint, &upstream.files)
            .map_err(|reason| {
                Failure::Environment(refusal(&upstream.checkpoint, "to build on", &reason))
            })?;
        let content = directory.load(Need::Weights, &upstream.checkpoint)?;
        let weights = weights::from_content(&content).map_err(|detail| Failure::Unloadable {
            checkpoint: upstream.checkpoint.clone(),
            detail,
        })?;
        let config = model_config(&self.config, &upstream.stage);
        Ok(Model::from_weights(kind, &config, &weights, self.device)?)
    }

    fn kind_of(&self, stage: &StageName) -> Option<ModelKind> {
        self.config
            .stage(stage)
            .and_then(|policy| ModelKind::of(&policy.model))
    }
}

fn load(
    trainer: &mut StageTrainer,
    resume: &ResumePoint,
    directory: &RunDirectory,
) -> Result<(), Failure> {
    let need = if resume.fresh_optimizer {
        Need::Weights
    } else {
        Need::Resume
    };
    if let Err(reason) = directory.accept(need, &resume.checkpoint, &resume.files) {
        // An older checkpoint can replace one that the run wrote; nothing can replace a given one.
        let given = Path::new(&resume.checkpoint.path).is_absolute();
        return Err(if given || is_absent(&reason) {
            Failure::Environment(refusal(&resume.checkpoint, "to resume from", &reason))
        } else {
            Failure::Rejected {
                checkpoint: resume.checkpoint.clone(),
                reason,
            }
        });
    }
    let content = directory.load(need, &resume.checkpoint)?;
    let unloadable = |detail: String| Failure::Unloadable {
        checkpoint: resume.checkpoint.clone(),
        detail,
    };
    let model = weights::from_content(&content).map_err(unloadable)?;
    let optimizer = match need {
        Need::Resume => Some(weights::optimizer_from_content(&content).map_err(unloadable)?),
        Need::Weights => None,
    };
    trainer
        .load(&model, optimizer.as_ref())
        .map_err(|error| unloadable(error.to_string()))
}

/// The shape of a stage's model: what all stages share, and the network of this stage.
pub(super) fn model_config(config: &Config, stage: &StageName) -> ModelConfig {
    let shape = config.shape;
    let network = config.networks.get(stage);
    let of = |pick: fn(&crate::config::Network) -> u32| {
        network.map_or(0, |network| i64::from(pick(network)))
    };
    ModelConfig {
        frame_size: i64::from(shape.frame_size),
        patch_size: i64::from(shape.patch_size),
        context_length: i64::from(shape.context_length),
        embed_dim: of(|network| network.embed_dim),
        num_heads: of(|network| network.num_heads),
        hidden_dim: of(|network| network.hidden_dim),
        num_blocks: of(|network| network.num_blocks),
        latent_dim: i64::from(shape.latent_dim),
        num_bins: i64::from(shape.num_bins),
        n_actions: i64::from(shape.n_actions),
    }
}
