//! What the actor holds between commands: the data, and the stage it has loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::super::models::ModelConfig;
use super::super::ranks::{Ranks, Task};
use super::super::{InitKey, Model, Pipeline, StageTrainer, Upstream};
use super::{ActorSetup, Failure, measure, tell, weights};
use crate::checkpoint::{self, Acceptance, Need, OPTIMIZER_FILE, RejectReason};
use crate::config::Config;
use crate::controller::{Report, StopRequest};
use crate::data::Windows;
use crate::data::trivial::MeanImage;
use crate::events::{
    CheckpointJudged, CheckpointRef, Event, FileRecord, HeldOutBatches, ModelKind, Rejection,
    Restart, StageName, Step,
};
use crate::machine::{
    Command, JudgeCheckpoint, MeasureStage, ResumePoint, TrainChunk, UpstreamModel,
};
use crate::setup;
use crate::store::RunFolder;

pub(super) struct Session {
    pub directory: PathBuf,
    pub config: Config,
    pub windows: Windows,
    pub mean: MeanImage,
    pub device: tch::Device,
    pub stop: Arc<StopRequest>,
    pub ranks: Ranks,
    pub held_out: HeldOutBatches,
    /// Windows beyond which memory runs out where nothing is learned.
    #[cfg(test)]
    pub memory_for: Option<usize>,
    loaded: Option<Loaded>,
    /// The run's directory, once a chunk was begun in it.
    folder: Option<RunFolder>,
    /// Last update done, for the report of a failure.
    step: Step,
}

/// A stage's trainer and where its weights stand.
struct Loaded {
    stage: StageName,
    restart: Restart,
    /// The checkpoint that holds the present weights; `None`: fresh ones.
    at: Option<CheckpointRef>,
    trainer: StageTrainer,
}

impl Session {
    pub fn new(setup: ActorSetup) -> Result<Session, super::SpawnError> {
        let windows = setup::windows(&setup.config, setup.frames)?;
        Ok(Session {
            mean: MeanImage::of(&windows),
            windows,
            directory: setup.directory,
            config: setup.config,
            device: setup.device,
            stop: setup.stop,
            ranks: setup.ranks,
            held_out: setup.held_out,
            #[cfg(test)]
            memory_for: None,
            loaded: None,
            folder: None,
            step: Step::FIRST,
        })
    }

    pub fn perform(&mut self, command: &Command, reports: &Sender<Report>) -> Result<(), Failure> {
        match command {
            Command::MeasureStage(measure) => self.measure(measure, reports),
            Command::JudgeCheckpoint(judge) => self.judge(judge, reports),
            Command::TrainChunk(train) => self.train(train, reports),
        }
    }

    /// Holds the run's directory: what is written from now on belongs there and nowhere else.
    pub fn hold_directory(&mut self) -> Result<(), Failure> {
        if self.folder.is_none() {
            let path = &self.directory;
            let folder = RunFolder::open(path).map_err(|error| {
                Failure::Environment(format!("cannot open `{}`: {error}", path.display()))
            })?;
            self.folder = Some(folder);
        }
        self.in_place()
    }

    /// Asked before a file is made by its path.
    pub fn in_place(&self) -> Result<(), Failure> {
        match self.folder.as_ref().map(RunFolder::check) {
            Some(Err(moved)) => Err(Failure::Environment(moved.to_string())),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// After a failure: drops weights that it may have left anyhow, and parts from ranks that wait for this one. What
    /// this rank found to be wrong may be another's doing; then that is the failure.
    pub fn give_up(&mut self, failure: Failure) -> Failure {
        self.loaded = None;
        let error = if let Failure::Ranks(error) = &failure {
            Some(error)
        } else {
            None
        };
        match (self.ranks.part(error), self.stop.requested()) {
            // Whoever asked this rank to stop asked the others too, and they may have gone first.
            (Some(_), Some(signal)) => Failure::Interrupted { signal },
            (Some(lost), None) => Failure::RankLost(lost),
            (None, _) => failure,
        }
    }

    pub fn step(&self) -> Step {
        self.step
    }

    pub fn set_step(&mut self, step: Step) {
        self.step = step;
    }

    fn measure(&mut self, measure: &MeasureStage, reports: &Sender<Report>) -> Result<(), Failure> {
        let measured = match measure.model {
            ModelKind::VideoTokenizer | ModelKind::LatentActions => measure::frames(self, measure)?,
            ModelKind::Dynamics => {
                let upstream = self.upstream(&measure.stage, &measure.upstream)?;
                measure::tokens(self, measure, &upstream)?
            }
        };
        tell(reports, Event::StageMeasured(measured))
    }

    fn judge(&mut self, judge: &JudgeCheckpoint, reports: &Sender<Report>) -> Result<(), Failure> {
        // One that was given for its weights has no other file on record.
        let whole = judge.files.iter().any(|file| file.name == OPTIMIZER_FILE);
        let need = if whole { Need::Resume } else { Need::Weights };
        let accepted = self.accept_for(need, &judge.checkpoint, &judge.files);
        if let Err(reason) = &accepted
            && is_absent(reason)
        {
            // It was durable when it was named: the disk is gone, not the checkpoint wrong.
            let refusal = refusal(&judge.checkpoint, "to resume from", reason);
            return Err(Failure::Environment(refusal));
        }
        let judged = verdict(&judge.stage, &judge.checkpoint, accepted);
        tell(reports, Event::CheckpointJudged(judged))
    }

    /// Reads a checkpoint back from the disk: it must be what the log names.
    pub fn accept(
        &self,
        checkpoint: &CheckpointRef,
        files: &[FileRecord],
    ) -> Result<(), RejectReason> {
        self.accept_for(Need::Resume, checkpoint, files)
    }

    fn accept_for(
        &self,
        need: Need,
        checkpoint: &CheckpointRef,
        files: &[FileRecord],
    ) -> Result<(), RejectReason> {
        let path = self.directory.join(&checkpoint.path);
        let files: Vec<_> = files.iter().map(Into::into).collect();
        match checkpoint::accept_for(need, &path, Some(&files)) {
            Acceptance::Accepted(_) => Ok(()),
            Acceptance::Rejected { reason } => Err(reason),
        }
    }

    /// Takes the trainer that stands at the command's start, loading it if another is loaded.
    pub fn take_trainer(&mut self, train: &TrainChunk) -> Result<StageTrainer, Failure> {
        let at = train.resume.as_ref().map(|resume| &resume.checkpoint);
        if let Some(loaded) = self.loaded.take()
            && loaded.stage == train.stage
            && loaded.restart == train.restart
            && loaded.at.as_ref() == at
            && at.is_some()
        {
            return Ok(loaded.trainer);
        }
        let upstream = match train.model {
            ModelKind::VideoTokenizer | ModelKind::LatentActions => None,
            ModelKind::Dynamics => Some(self.upstream(&train.stage, &train.upstream)?),
        };
        let key = self.init_key(&train.stage, train.restart);
        let config = self.model_config(&train.stage);
        let model = Model::new(train.model, &config, &key, self.device)?;
        let mut trainer = StageTrainer::new(Pipeline::new(model, upstream)?)?;
        if let Some(resume) = &train.resume {
            self.load(&mut trainer, resume)?;
        }
        Ok(trainer)
    }

    /// A trainer for a task of rank 0, which shares its weights.
    pub fn trainer_for(&self, task: &Task) -> Result<StageTrainer, Failure> {
        let model = |kind: ModelKind, stage: &StageName| {
            Model::zeros(kind, &self.model_config(stage), self.device)
        };
        let newest = |kind: ModelKind| {
            let mut stages = task.upstream.iter().rev();
            stages.find(|stage| self.model_of(stage) == Some(kind))
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
            "the model of `{}` has other weights here than on rank 0",
            task.stage
        )))
    }

    /// Keeps a trainer whose weights a checkpoint holds, for the next chunk.
    pub fn keep_trainer(&mut self, train: &TrainChunk, at: CheckpointRef, trainer: StageTrainer) {
        self.loaded = Some(Loaded {
            stage: train.stage.clone(),
            restart: train.restart,
            at: Some(at),
            trainer,
        });
    }

    fn load(&self, trainer: &mut StageTrainer, resume: &ResumePoint) -> Result<(), Failure> {
        let need = if resume.fresh_optimizer {
            Need::Weights
        } else {
            Need::Resume
        };
        if let Err(reason) = self.accept_for(need, &resume.checkpoint, &resume.files) {
            // Another of the run's own may take its place; nothing takes that of a given one.
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
        let path = self.directory.join(&resume.checkpoint.path);
        let content = match need {
            Need::Resume => checkpoint::load(&path),
            Need::Weights => checkpoint::load_weights(&path),
        };
        let content = content.map_err(|error| Failure::unloadable(&resume.checkpoint, &error))?;
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

    /// The upstream models of a dynamics stage.
    fn upstream(&self, stage: &StageName, upstream: &[UpstreamModel]) -> Result<Upstream, Failure> {
        let models = Upstream::new(
            self.frozen(ModelKind::VideoTokenizer, upstream)?,
            self.frozen(ModelKind::LatentActions, upstream)?,
        )?;
        models.check(&self.model_config(stage))?;
        Ok(models)
    }

    /// The newest upstream model of a kind.
    fn frozen(&self, kind: ModelKind, upstream: &[UpstreamModel]) -> Result<Model, Failure> {
        let found = upstream
            .iter()
            .rev()
            .find(|upstream| self.model_of(&upstream.stage) == Some(kind));
        let upstream = found.ok_or_else(|| {
            Failure::Environment(format!(
                "dynamics needs the checkpoint of a `{kind:?}` stage, and the run has none"
            ))
        })?;
        self.accept_for(Need::Weights, &upstream.checkpoint, &upstream.files)
            .map_err(|reason| {
                Failure::Environment(refusal(&upstream.checkpoint, "to build on", &reason))
            })?;
        let path = self.directory.join(&upstream.checkpoint.path);
        let content = checkpoint::load_weights(&path)
            .map_err(|error| Failure::unloadable(&upstream.checkpoint, &error))?;
        let weights = weights::from_content(&content).map_err(|detail| Failure::Unloadable {
            checkpoint: upstream.checkpoint.clone(),
            detail,
        })?;
        let config = self.model_config(&upstream.stage);
        Ok(Model::from_weights(kind, &config, &weights, self.device)?)
    }

    fn model_of(&self, stage: &StageName) -> Option<ModelKind> {
        self.config.stage(stage).map(|policy| policy.model)
    }

    fn init_key(&self, stage: &StageName, restart: Restart) -> InitKey {
        InitKey {
            run_seed: self.config.seed,
            stage: stage.as_str().to_owned(),
            restart: restart.get(),
        }
    }

    /// The model of a stage, by the shared shape and the stage's own network.
    pub fn model_config(&self, stage: &StageName) -> ModelConfig {
        model_config(&self.config, stage)
    }
}

/// What [`Session::accept`] says, for the log.
pub(super) fn verdict(
    stage: &StageName,
    checkpoint: &CheckpointRef,
    accepted: Result<(), RejectReason>,
) -> CheckpointJudged {
    CheckpointJudged {
        stage: stage.clone(),
        checkpoint: checkpoint.clone(),
        rejected: accepted.err().map(|reason| Rejection {
            code: reason.code().to_owned(),
            text: reason.to_string(),
        }),
    }
}

/// Whether there is nothing to judge: a file system is not mounted, a folder was moved.
fn is_absent(reason: &RejectReason) -> bool {
    matches!(
        reason,
        RejectReason::MissingFile { .. } | RejectReason::Unreadable { .. }
    )
}

fn refusal(checkpoint: &CheckpointRef, purpose: &str, reason: &RejectReason) -> String {
    let found = if is_absent(reason) {
        "is not there"
    } else {
        "is no longer what the log names"
    };
    format!(
        "the checkpoint `{}` {purpose} {found}: {reason}",
        checkpoint.path
    )
}

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
