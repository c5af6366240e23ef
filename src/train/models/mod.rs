//! TinyWorlds' three models, with the same names and shapes of parameters.
//!
//! A model here is only structure: the pieces of the parameters that it uses, and its forward passes. Values are in
//! [`super::Parameters`], training in [`super::StageTrainer`].

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
