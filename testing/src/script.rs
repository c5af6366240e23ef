//! Scripts of what happens in each chunk and attempt, and of disturbances.

use std::collections::BTreeMap;

use tinygate::events::{Metric, ModelName, StageName, metric};
use tinygate::presets::ModelKind;

use crate::curve::Curve;

/// The plans of all chunks. A plan for an attempt takes precedence over one for its chunk, that over
/// one for its stage, and that over the model's default, in which everything goes well.
#[derive(Clone, Debug)]
pub struct Script {
    pub(crate) seed: u64,
    plans: BTreeMap<Key, ChunkPlan>,
    trivial: BTreeMap<StageName, Vec<Metric>>,
}

type Key = (StageName, Option<u32>, Option<u32>);

impl Script {
    /// A script in which everything goes well.
    pub fn new(seed: u64) -> Script {
        Script {
            seed,
            plans: BTreeMap::new(),
            trivial: BTreeMap::new(),
        }
    }

    /// A plan for every chunk of a stage.
    #[must_use]
    pub fn stage(self, stage: &str, plan: ChunkPlan) -> Script {
        self.with((StageName::new(stage), None, None), plan)
    }

    /// The losses of the trivial predictor of a custom stage.
    #[must_use]
    pub fn trivial(mut self, stage: &str, metrics: Vec<Metric>) -> Script {
        self.trivial.insert(StageName::new(stage), metrics);
        self
    }

    pub(crate) fn trivial_of(&self, stage: &StageName) -> Vec<Metric> {
        self.trivial.get(stage).cloned().unwrap_or_default()
    }

    /// A plan for every attempt at a chunk.
    #[must_use]
    pub fn chunk(self, stage: &str, chunk: u32, plan: ChunkPlan) -> Script {
        self.with((StageName::new(stage), Some(chunk), None), plan)
    }

    #[must_use]
    pub fn attempt(self, stage: &str, chunk: u32, attempt: u32, plan: ChunkPlan) -> Script {
        self.with((StageName::new(stage), Some(chunk), Some(attempt)), plan)
    }

    fn with(mut self, key: Key, plan: ChunkPlan) -> Script {
        self.plans.insert(key, plan);
        self
    }

    pub(crate) fn plan(
        &self,
        stage: &StageName,
        model: &ModelName,
        chunk: u32,
        attempt: u32,
    ) -> ChunkPlan {
        let keys = [
            (stage.clone(), Some(chunk), Some(attempt)),
            (stage.clone(), Some(chunk), None),
            (stage.clone(), None, None),
        ];
        keys.iter()
            .find_map(|key| self.plans.get(key))
            .cloned()
            .unwrap_or_else(|| ModelKind::of(model).map_or_else(ChunkPlan::plain, ChunkPlan::good))
    }
}

/// Everything that training a chunk reports. `None`: never logged, scored or drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct ChunkPlan {
    /// Name of the metric that is the loss.
    pub loss_metric: String,
    pub loss: Curve,
    /// Other metrics, logged at every log interval.
    pub others: Vec<(String, Curve)>,
    pub unique_actions: Option<Curve>,
    pub action_entropy: Option<Curve>,
    pub codebook_usage: Option<Curve>,
    pub held_out: Option<HeldOut>,
    pub picture: Option<Picture>,
    /// Checkpoints before the gate.
    pub on_the_way: Files,
    /// The checkpoint at the gate.
    pub at_gate: Files,
    /// Fails after this update of the chunk, counted from 1, or at once if it resumes past it.
    pub fails: Option<(u64, Failure)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    pub metric: &'static str,
    pub loss: f64,
    pub moving: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    pub frames: u32,
    /// Frames that have lost their structure.
    pub lost: u32,
}

/// The content of a checkpoint's directory, which determines how it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    Sound,
    /// The model's file has fewer than 1000 bytes.
    Small,
    /// The optimizer's file is missing.
    Incomplete,
    /// The model's file is empty.
    Empty,
    /// The model's file is truncated.
    Truncated,
    /// A weight in the model's file is not a number.
    Corrupt,
    NotWritten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    OutOfMemory,
    WorkerExited,
    WorkerTimedOut,
    CheckpointUnloadable,
}

impl ChunkPlan {
    /// Passes the seed's gates in the short policy.
    pub fn good(model: ModelKind) -> ChunkPlan {
        let (loss, held_out) = match model {
            ModelKind::VideoTokenizer => (
                Curve::decay(0.1, 2.0),
                HeldOut {
                    metric: metric::HELD_OUT_LOSS,
                    loss: 0.0005,
                    moving: Some(0.01),
                },
            ),
            ModelKind::LatentActions => (
                Curve::decay(0.3, 2.0),
                HeldOut {
                    metric: metric::HELD_OUT_LOSS,
                    loss: 0.0006,
                    moving: Some(0.02),
                },
            ),
            ModelKind::Dynamics => (
                Curve::decay(5.0, 30.0),
                HeldOut {
                    metric: metric::HELD_OUT_LOSS,
                    loss: 1.5,
                    moving: None,
                },
            ),
        };
        let acts = model != ModelKind::VideoTokenizer;
        ChunkPlan {
            loss_metric: metric::LOSS.to_owned(),
            others: Vec::new(),
            loss: loss.noisy(0.01),
            unique_actions: acts.then(|| Curve::flat(4.0)),
            action_entropy: acts.then(|| Curve::flat(1.2).noisy(0.05)),
            codebook_usage: (!acts).then(|| Curve::flat(0.25).noisy(0.2)),
            held_out: Some(held_out),
            picture: Some(Picture { frames: 4, lost: 0 }),
            on_the_way: Files::Sound,
            at_gate: Files::Sound,
            fails: None,
        }
    }

    /// A falling loss and checkpoints, without anything specific to a model.
    pub fn plain() -> ChunkPlan {
        ChunkPlan {
            unique_actions: None,
            action_entropy: None,
            codebook_usage: None,
            held_out: None,
            picture: None,
            ..ChunkPlan::good(ModelKind::VideoTokenizer)
        }
    }

    /// Sets the names of the loss and of other metrics.
    #[must_use]
    pub fn named(mut self, loss: &str, others: &[(&str, Curve)]) -> ChunkPlan {
        self.loss_metric = loss.to_owned();
        let owned = |(name, curve): &(&str, Curve)| ((*name).to_owned(), curve.clone());
        self.others = others.iter().map(owned).collect();
        self
    }

    #[must_use]
    pub fn loss(mut self, loss: Curve) -> ChunkPlan {
        self.loss = loss;
        self
    }

    /// From the middle of the chunk on, one action is left and the entropy is 0.
    #[must_use]
    pub fn collapsing(mut self) -> ChunkPlan {
        self.unique_actions = Some(Curve::line(2.0, 1.0));
        self.action_entropy = Some(Curve::line(0.6, 0.0));
        self
    }

    #[must_use]
    pub fn failing(mut self, after: u64, failure: Failure) -> ChunkPlan {
        self.fails = Some((after, failure));
        self
    }

    #[must_use]
    pub fn picture(mut self, frames: u32, lost: u32) -> ChunkPlan {
        self.picture = Some(Picture { frames, lost });
        self
    }

    #[must_use]
    pub fn checkpoints(mut self, on_the_way: Files, at_gate: Files) -> ChunkPlan {
        self.on_the_way = on_the_way;
        self.at_gate = at_gate;
        self
    }
}

/// A disturbance from outside, which happens once: after a given update of a stage, or the next
/// one that is trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disturbance {
    pub stage: StageName,
    /// Updates of the stage.
    pub after: u64,
    pub trouble: Trouble,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Stops with a checkpoint.
    Signal(String),
    /// For example a full disk or a missing file.
    Environment(String),
    /// Exits without a report; samples that were not reported yet are lost.
    Killed,
}

impl Disturbance {
    pub fn new(stage: &str, after: u64, trouble: Trouble) -> Disturbance {
        Disturbance {
            stage: StageName::new(stage),
            after,
            trouble,
        }
    }
}
