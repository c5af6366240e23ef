//! Why chunks cannot be trained again.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use super::super::error::{EmptyLog, ReadRunError};
use crate::advice::{Advice, Hint};
use crate::config::ConfigError;
use crate::events::StageName;
use crate::store::ReadError;
use crate::trainer::TrainerError;

#[derive(Debug, thiserror::Error)]
pub enum RetrainError {
    #[error(transparent)]
    Read(#[from] ReadRunError),
    #[error("cannot read the log")]
    Log(#[from] ReadError),
    #[error(transparent)]
    Empty(#[from] EmptyLog),
    #[error("cannot find `{}`", .run.display())]
    NotFound { run: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "`{}` cannot be set: chunks are trained again with their recorded settings",
        setting(.stage.as_ref(), .key)
    )]
    SettingFixed {
        stage: Option<StageName>,
        key: String,
    },
    #[error("the run has no stage `{stage}`")]
    UnknownStage {
        stage: StageName,
        known: Vec<StageName>,
    },
    #[error("cannot start a trainer")]
    Start(#[source] Box<dyn Error + Send + Sync>),
    #[error(transparent)]
    Trainer(#[from] TrainerError),
    /// The machine cannot continue: a full disk, a missing file.
    #[error("{detail}")]
    Environment { detail: String },
}

impl Advice for RetrainError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            RetrainError::Read(error) => error.hints(),
            // The source has them.
            RetrainError::Log(_)
            | RetrainError::NotFound { .. }
            | RetrainError::Start(_)
            | RetrainError::Trainer(_) => Vec::new(),
            RetrainError::Empty(error) => error.hints(),
            RetrainError::Config(error) => error.hints(),
            RetrainError::SettingFixed { .. } => vec![Hint::text(
                "only data.path, device and threads can be set here",
            )],
            RetrainError::UnknownStage { known, .. } => {
                let names: Vec<&str> = known.iter().map(StageName::as_str).collect();
                vec![Hint::text(format!("its stages are {}", names.join(", ")))]
            }
            RetrainError::Environment { .. } => vec![Hint::text(
                "fix it and start again; the run itself is unchanged",
            )],
        }
    }
}

fn setting(stage: Option<&StageName>, key: &str) -> String {
    match stage {
        Some(stage) => format!("{stage}.{key}"),
        None => key.to_owned(),
    }
}
