//! From a config file to the settings and the policy of a run.
//!
//! A TOML file, `--set key=value` and the config in a run's first event all pass
//! the same three steps: text to a tree with places, each value against the table
//! of keys, all values together against each other. Every problem is collected.
//! What comes out is a [`Config`] without holes, which a run's log keeps as JSON,
//! so that a resume needs no file. Nothing here opens a data set, asks for
//! devices or reads the environment; only [`Config::load`] reads a file.
//!
//! Invariant: `from_json(to_json(config))` is the same config.

mod describe;
mod entries;
mod error;
mod gate;
mod keys;
mod ladder;
mod resolve;
mod resume;
mod tree;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::events::{ModelKind, Policy, StageName, StagePolicy};

pub use describe::{KeyRow, describe, init};
pub use error::{ConfigError, Fault, Place, Problem};
pub use resume::{Changeable, Resumed, SettingChange};
pub use tree::Override;

/// Bytes of a config file at most.
pub const FILE_MOST: u64 = 1 << 20;
/// Stands for the standard input where a config's file is named.
pub const STDIN: &str = "-";

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
    /// How long a rank may keep the others waiting.
    pub rank_timeout_seconds: u32,
    pub allow_single_gpu_fallback: bool,
    pub data: DataConfig,
    pub shape: Shape,
    /// One per stage of the policy.
    pub networks: BTreeMap<StageName, Network>,
    pub policy: Policy,
}

/// Where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// CUDA where there is any, else the CPU.
    Auto,
    Cpu,
    /// `None`: one device per rank, from 0.
    Cuda(Option<u32>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataConfig {
    /// Files or folders of frames, absolute where they came from a file's or a
    /// command line's relative paths.
    pub path: Vec<PathBuf>,
    /// Distance between the frames of a window.
    pub frame_stride: u32,
}

/// What all stages share about frames, tokens and actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pixels, a multiple of `patch_size`.
    pub frame_size: u32,
    /// Pixels.
    pub patch_size: u32,
    /// Frames of a window.
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

/// A config and which of its keys somebody set.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// The keys of the file and of the overrides; the others have their defaults.
    pub given: BTreeSet<String>,
}

impl Config {
    /// Reads a TOML file and lays the overrides over it; `-` is the standard input.
    /// Relative paths in the file are taken from the file's folder, those of overrides
    /// and of the standard input from the working directory.
    ///
    /// # Errors
    /// An unreadable file, or every problem of the config.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Loaded, ConfigError> {
        let piped = path == Path::new(STDIN);
        let name = if piped {
            "standard input".to_owned()
        } else {
            path.display().to_string()
        };
        let unreadable = |error: std::io::Error| ConfigError::Unreadable {
            path: name.clone(),
            reason: error.to_string(),
        };
        let bytes = if piped {
            bounded(std::io::stdin().lock())
        } else {
            File::open(path).and_then(bounded)
        };
        let text = String::from_utf8(bytes.map_err(unreadable)?).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            ConfigError::not_utf8(name.clone(), error.as_bytes(), valid)
        })?;
        let absolute = std::path::absolute(path).map_err(unreadable)?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        Config::parse(&text, &name, base, overrides)
    }

    /// The same for a text: `name` stands for it in errors, `base` is the folder
    /// of its relative paths.
    ///
    /// # Errors
    /// Every problem of the config.
    pub fn parse(
        text: &str,
        name: &str,
        base: &Path,
        overrides: &[Override],
    ) -> Result<Loaded, ConfigError> {
        let mut tree = tree::from_toml(text, &Arc::from(name))
            .map_err(|problems| ConfigError::Invalid { problems })?;
        for change in overrides {
            tree::overlay(&mut tree, change);
        }
        resolve::resolve(&tree, base).map_err(|problems| ConfigError::Invalid { problems })
    }

    /// The config with every key, as a run's first event keeps it.
    pub fn to_json(&self) -> serde_json::Value {
        entries::to_json(&entries::entries(self))
    }

    /// Reads what [`Config::to_json`] wrote, today or long ago: a key that is
    /// missing has its default.
    ///
    /// # Errors
    /// Every problem of the config.
    pub fn from_json(json: &serde_json::Value) -> Result<Config, ConfigError> {
        resolve::resolve(&tree::from_json(json), Path::new(""))
            .map(|loaded| loaded.config)
            .map_err(|problems| ConfigError::Invalid { problems })
    }

    /// The config with overrides, for a new run: whatever they change, they may.
    /// [`Config::resume`] is for a run that goes on.
    ///
    /// # Errors
    /// Every problem of the config.
    pub fn with(&self, overrides: &[Override]) -> Result<Config, ConfigError> {
        let mut tree = tree::from_json(&self.to_json());
        for change in overrides {
            tree::overlay(&mut tree, change);
        }
        resolve::resolve(&tree, Path::new(""))
            .map(|loaded| loaded.config)
            .map_err(|problems| ConfigError::Invalid { problems })
    }

    /// The config as TOML. Of each key, `given` says whether somebody set it.
    pub fn to_toml(&self, given: &BTreeSet<String>) -> String {
        describe::show(self, given)
    }

    /// Every key and its value as TOML writes it, in the order of a config file.
    pub fn entries(&self) -> Vec<(String, String)> {
        entries::entries(self)
            .into_iter()
            .map(|(key, given)| (key, entries::toml_value(&given)))
            .collect()
    }

    /// Whether each process of a run may have a value of its own for this key.
    pub fn is_of_process(key: &str) -> bool {
        keys::find(key).is_some_and(|key| key.change == keys::Change::Process)
    }

    /// The same run in a process that has its own data, device and threads.
    #[must_use]
    pub fn with_process_of(self, process: &Config) -> Config {
        Config {
            device: process.device,
            threads: process.threads,
            rank_timeout_seconds: process.rank_timeout_seconds,
            allow_single_gpu_fallback: process.allow_single_gpu_fallback,
            data: DataConfig {
                path: process.data.path.clone(),
                ..self.data
            },
            ..self
        }
    }

    pub fn stage(&self, name: &StageName) -> Option<&StagePolicy> {
        self.policy.stages.iter().find(|stage| stage.name == *name)
    }

    /// Stages of other models that a stage builds on, the latest of each before it.
    pub fn upstream(&self, name: &StageName) -> Vec<&StagePolicy> {
        let Some(place) = self.policy.stages.iter().position(|s| s.name == *name) else {
            return Vec::new();
        };
        let Some((stage, before)) = self.policy.stages[..=place].split_last() else {
            return Vec::new();
        };
        needs(stage.model)
            .iter()
            .filter_map(|model| before.iter().rev().find(|stage| stage.model == *model))
            .collect()
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

/// The models whose weights a model is trained on.
fn needs(model: ModelKind) -> &'static [ModelKind] {
    match model {
        ModelKind::VideoTokenizer | ModelKind::LatentActions => &[],
        ModelKind::Dynamics => &[ModelKind::VideoTokenizer, ModelKind::LatentActions],
    }
}

fn bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(FILE_MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MOST {
        let most = crate::units::bytes(FILE_MOST);
        return Err(std::io::Error::other(format!("it is larger than {most}")));
    }
    Ok(bytes)
}
