//! TinyWorlds' three models, by the names and shapes of its parameters.
//!
//! A model here is structure only: which pieces of the parameters it uses, and the passes over
//! them. Numbers live in [`super::Parameters`], training in [`super::StageTrainer`].

mod blocks;
mod config;
pub(crate) mod dynamics;
mod frames;
mod fsq;
pub(crate) mod latent_actions;
mod positions;
pub(crate) mod video_tokenizer;

pub use config::{ConfigError, ModelConfig};
pub(crate) use frames::{check_frames, mask_rows, patches_of_bytes};
pub use frames::{frame_tensor, frames_of, patches_of};
pub(crate) use fsq::Quantizer;
