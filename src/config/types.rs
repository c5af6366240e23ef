//! A complete, typed config.
//!
//! The table of keys gives the name of each value in a file, and how it is read and
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::events::{Policy, StageName, StagePolicy};
use crate::presets::{self, ModelKind, Preset};

/// Everything that defines a run, every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Below 2^63.
    pub seed: u64,
    pub device: Device,
    /// `None`: all cores.
    pub threads: Option<u32>,
    /// Ranks.
    pub nproc_per_node: u32,
    pub use_ddp: bool,
    /// How long ranks wait for one of them.
    pub rank_timeout_seconds: u32,
    pub allow_single_gpu_fallback: bool,
    /// Seconds for which the trainer may be silent. `None`: learned from the stage.
    pub no_progress_seconds: Option<u32>,
    pub trainer: TrainerConfig,
    pub data: DataConfig,
    pub shape: Shape,
    /// One per built-in stage of the policy.
    pub networks: BTreeMap<StageName, Network>,
    pub policy: Policy,
}

/// Where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// CUDA if available, else the CPU.
    Auto,
    Cpu,
    /// `None`: one device per rank, from 0.
    Cuda(Option<u32>),
}

/// What trains the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainerConfig {
    pub kind: TrainerKind,
    /// The program and its arguments, for [`TrainerKind::Command`].
    pub command: Vec<String>,
    /// Working directory of the program. Absolute, unless it could not be resolved.
    pub directory: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainerKind {
    /// tinygate itself, with libtorch.
    BuiltIn,
    /// A program that tinygate starts.
    Command,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataConfig {
    /// Files or folders of frames. Absolute, unless they could not be resolved. Empty if a program
    /// trains and no stage needs frames.
    pub path: Vec<PathBuf>,
    /// Distance between the frames of a window.
    pub frame_stride: u32,
}

/// Sizes of frames, tokens and actions, shared by all stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pixels, a multiple of `patch_size`.
    pub frame_size: u32,
    /// Pixels.
    pub patch_size: u32,
    /// Frames per window.
    pub context_length: u32,
    pub latent_dim: u32,
    pub num_bins: u32,
    /// A power of two.
    pub n_actions: u32,
}

/// Size of a stage's transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Even, a multiple of `num_heads`.
    pub embed_dim: u32,
    pub num_heads: u32,
    pub hidden_dim: u32,
    pub num_blocks: u32,
}

/// A config, and which of its keys were set.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// The keys set by the file and the overrides; the others have their defaults.
    pub given: BTreeSet<String>,
}

impl Config {
    /// A config before its keys are read. Reading overwrites every field.
    pub(super) fn blank() -> Config {
        Config {
            seed: 0,
            device: Device::Auto,
            threads: None,
            nproc_per_node: 0,
            use_ddp: false,
            rank_timeout_seconds: 0,
            allow_single_gpu_fallback: false,
            no_progress_seconds: None,
            trainer: TrainerConfig {
                kind: TrainerKind::BuiltIn,
                command: Vec::new(),
                directory: PathBuf::new(),
            },
            data: DataConfig {
                path: Vec::new(),
                frame_stride: 0,
            },
            shape: Shape {
                frame_size: 0,
                patch_size: 0,
                context_length: 0,
                latent_dim: 0,
                num_bins: 0,
                n_actions: 0,
            },
            networks: BTreeMap::new(),
            policy: Policy {
                stages: Vec::new(),
                ..presets::policy(Preset::Seed)
            },
        }
    }

    pub fn stage(&self, name: &StageName) -> Option<&StagePolicy> {
        self.policy.stages.iter().find(|stage| stage.name == *name)
    }

    /// The names of all stages, in their order.
    pub fn stage_names(&self) -> Vec<StageName> {
        let stages = self.policy.stages.iter();
        stages.map(|stage| stage.name.clone()).collect()
    }

    /// Whether the run reads frames: its data is set, or must be.
    pub fn needs_frames(&self) -> bool {
        let mut stages = self.policy.stages.iter();
        self.trainer.kind == TrainerKind::BuiltIn
            || !self.data.path.is_empty()
            || stages.any(|stage| ModelKind::of(&stage.model).is_some())
    }

    /// The stages whose models a stage builds on: for each model, the last stage before it.
    pub fn upstream(&self, name: &StageName) -> Vec<&StagePolicy> {
        let Some(index) = self.policy.stages.iter().position(|s| s.name == *name) else {
            return Vec::new();
        };
        let Some((stage, before)) = self.policy.stages[..=index].split_last() else {
            return Vec::new();
        };
        let is_of = |stage: &StagePolicy, model| ModelKind::of(&stage.model) == Some(model);
        let needed = ModelKind::of(&stage.model)
            .map_or(&[][..], upstream_models)
            .iter();
        needed
            .filter_map(|model| before.iter().rev().find(|stage| is_of(stage, *model)))
            .collect()
    }
}

impl Network {
    /// A network before its keys are read.
    pub(super) fn blank() -> Network {
        Network {
            embed_dim: 0,
            num_heads: 0,
            hidden_dim: 0,
            num_blocks: 0,
        }
    }
}

impl Device {
    /// Reads the config's value.
    pub fn from_name(name: &str) -> Option<Device> {
        match name {
            "auto" => Some(Device::Auto),
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(None)),
            _ => {
                let digits = name.strip_prefix("cuda:")?;
                let plain = digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() <= 4;
                let index = plain.then(|| digits.parse().ok())?;
                index.map(|index| Device::Cuda(Some(index)))
            }
        }
    }
}

impl std::fmt::Display for Device {
    /// The config's value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(None) => f.write_str("cuda"),
            Device::Cuda(Some(index)) => write!(f, "cuda:{index}"),
        }
    }
}

/// The models whose trained weights a model needs.
pub(super) fn upstream_models(model: ModelKind) -> &'static [ModelKind] {
    match model {
        ModelKind::VideoTokenizer | ModelKind::LatentActions => &[],
        ModelKind::Dynamics => &[ModelKind::VideoTokenizer, ModelKind::LatentActions],
    }
}
