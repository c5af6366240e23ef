//! The shape of a model, checked before anything is built from it.
//!
//! Invariant: with a valid config every tensor size fits in an `i64` and every division is exact.

/// Everything that determines the shapes of the parameters. The fields have the names of TinyWorlds' config keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    /// Side of a frame in pixels; frames are square.
    pub frame_size: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Frames in a window.
    pub context_length: i64,
    pub embed_dim: i64,
    pub num_heads: i64,
    /// Nominal width of the feed-forward; its layers have two thirds of it.
    pub hidden_dim: i64,
    pub num_blocks: i64,
    /// Numbers in a token's latent.
    pub latent_dim: i64,
    /// Levels of each number.
    pub num_bins: i64,
    /// Distinct latent actions.
    pub n_actions: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("`{key}` is {found}, expected {least} to {most}")]
    Range {
        key: &'static str,
        found: i64,
        least: i64,
        most: i64,
    },
    #[error("`{key}` is {found}, expected a multiple of `{by_key}` = {by}")]
    Multiple {
        key: &'static str,
        found: i64,
        by_key: &'static str,
        by: i64,
    },
    #[error(
        "`embed_dim` is {found}, expected an even number: position encodings are sine and cosine pairs"
    )]
    OddEmbedding { found: i64 },
    #[error("`n_actions` is {found}, expected a power of two: an action is a row of bits")]
    ActionCount { found: i64 },
    #[error(
        "`num_bins` = {num_bins} to the power of `latent_dim` = {latent_dim} is a codebook of more than {most} codes; make one of them smaller"
    )]
    Codebook {
        num_bins: i64,
        latent_dim: i64,
        most: i64,
    },
    #[error("the frozen {model} has `{key}` = {found}, expected this stage's {expected}")]
    Frozen {
        model: &'static str,
        key: &'static str,
        found: i64,
        expected: i64,
    },
}

/// Codes are computed in f32, which is exact below 2^24.
const MOST_CODES: i64 = 1 << 20;

impl ModelConfig {
    /// Keys and values, as in a checkpoint's config.
    pub fn entries(&self) -> [(&'static str, i64); 10] {
        [
            ("frame_size", self.frame_size),
            ("patch_size", self.patch_size),
            ("context_length", self.context_length),
            ("embed_dim", self.embed_dim),
            ("num_heads", self.num_heads),
            ("hidden_dim", self.hidden_dim),
            ("num_blocks", self.num_blocks),
            ("latent_dim", self.latent_dim),
            ("num_bins", self.num_bins),
            ("n_actions", self.n_actions),
        ]
    }

    /// # Errors
    /// The first key with an invalid value, and its valid values.
    pub fn validate(&self) -> Result<(), ConfigError> {
        range("frame_size", self.frame_size, 1, 4096)?;
        range("patch_size", self.patch_size, 1, self.frame_size)?;
        range("context_length", self.context_length, 2, 1024)?;
        range("embed_dim", self.embed_dim, 2, 65_536)?;
        range("num_heads", self.num_heads, 1, self.embed_dim)?;
        range("hidden_dim", self.hidden_dim, 2, 262_144)?;
        range("num_blocks", self.num_blocks, 1, 1024)?;
        range("latent_dim", self.latent_dim, 1, 64)?;
        range("num_bins", self.num_bins, 2, 1024)?;
        range("n_actions", self.n_actions, 2, 65_536)?;
        multiple("frame_size", self.frame_size, "patch_size", self.patch_size)?;
        multiple("embed_dim", self.embed_dim, "num_heads", self.num_heads)?;
        if self.embed_dim % 2 != 0 {
            return Err(ConfigError::OddEmbedding {
                found: self.embed_dim,
            });
        }
        if self.n_actions.count_ones() != 1 {
            return Err(ConfigError::ActionCount {
                found: self.n_actions,
            });
        }
        self.checked_codebook().map(|_| ())
    }

    /// Patches of a frame.
    pub fn patches(&self) -> i64 {
        let side = self.frame_size / self.patch_size;
        side * side
    }

    /// Numbers in a patch, over three channels.
    pub fn patch_values(&self) -> i64 {
        3 * self.patch_size * self.patch_size
    }

    /// Codes of the video tokenizer: `num_bins ^ latent_dim`.
    pub fn codebook_size(&self) -> i64 {
        self.checked_codebook().unwrap_or(MOST_CODES)
    }

    /// Bits of a latent action.
    pub fn action_dim(&self) -> i64 {
        i64::from(self.n_actions.trailing_zeros())
    }

    /// Width inside the feed-forward.
    pub(crate) fn feed_forward(&self) -> i64 {
        2 * self.hidden_dim / 3
    }

    /// Embedding dimensions that encode time; the rest encodes space.
    pub(crate) fn temporal_dim(&self) -> i64 {
        (self.embed_dim / 3) & !1
    }

    fn checked_codebook(&self) -> Result<i64, ConfigError> {
        let codes = u32::try_from(self.latent_dim)
            .ok()
            .and_then(|power| self.num_bins.checked_pow(power));
        match codes {
            Some(codes) if codes <= MOST_CODES => Ok(codes),
            Some(_) | None => Err(ConfigError::Codebook {
                num_bins: self.num_bins,
                latent_dim: self.latent_dim,
                most: MOST_CODES,
            }),
        }
    }
}

fn range(key: &'static str, found: i64, least: i64, most: i64) -> Result<(), ConfigError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(ConfigError::Range {
        key,
        found,
        least,
        most,
    })
}

fn multiple(
    key: &'static str,
    found: i64,
    by_key: &'static str,
    by: i64,
) -> Result<(), ConfigError> {
    if found % by == 0 {
        return Ok(());
    }
    Err(ConfigError::Multiple {
        key,
        found,
        by_key,
        by,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> ModelConfig {
        ModelConfig {
            frame_size: 64,
            patch_size: 8,
            context_length: 4,
            embed_dim: 16,
            num_heads: 4,
            hidden_dim: 64,
            num_blocks: 1,
            latent_dim: 5,
            num_bins: 4,
            n_actions: 4,
        }
    }

    #[track_caller]
    fn check(name: &str, change: impl FnOnce(&mut ModelConfig), want: &str) {
        let mut config = valid();
        change(&mut config);
        let found = config
            .validate()
            .map_or_else(|error| error.to_string(), |()| "valid".to_owned());
        assert_eq!(found, want, "{name}");
    }

    #[test]
    fn invalid_configs_are_refused() {
        check("the tiny config", |_| (), "valid");
        check(
            "a patch that does not tile the frame",
            |c| c.patch_size = 7,
            "`frame_size` is 64, expected a multiple of `patch_size` = 7",
        );
        check(
            "a patch larger than the frame",
            |c| c.patch_size = 128,
            "`patch_size` is 128, expected 1 to 64",
        );
        check(
            "heads that do not divide the embedding",
            |c| c.num_heads = 5,
            "`embed_dim` is 16, expected a multiple of `num_heads` = 5",
        );
        check(
            "an odd embedding",
            |c| {
                c.embed_dim = 15;
                c.num_heads = 1
            },
            "`embed_dim` is 15, expected an even number: position encodings are sine and cosine pairs",
        );
        check(
            "three actions",
            |c| c.n_actions = 3,
            "`n_actions` is 3, expected a power of two: an action is a row of bits",
        );
        check(
            "one action",
            |c| c.n_actions = 1,
            "`n_actions` is 1, expected 2 to 65536",
        );
        check(
            "one frame",
            |c| c.context_length = 1,
            "`context_length` is 1, expected 2 to 1024",
        );
        check(
            "no heads",
            |c| c.num_heads = 0,
            "`num_heads` is 0, expected 1 to 16",
        );
        check(
            "a negative patch",
            |c| c.patch_size = -8,
            "`patch_size` is -8, expected 1 to 64",
        );
        check(
            "a codebook beyond exact sums",
            |c| c.latent_dim = 11,
            "`num_bins` = 4 to the power of `latent_dim` = 11 is a codebook of more than 1048576 codes; make one of them smaller",
        );
        check(
            "a codebook beyond an i64",
            |c| {
                c.num_bins = 1024;
                c.latent_dim = 64
            },
            "`num_bins` = 1024 to the power of `latent_dim` = 64 is a codebook of more than 1048576 codes; make one of them smaller",
        );
    }

    #[test]
    fn every_valid_embedding_splits_into_even_thirds() {
        for embed_dim in (2..=200).step_by(2) {
            let config = ModelConfig {
                embed_dim,
                num_heads: 1,
                ..valid()
            };
            assert_eq!(config.validate(), Ok(()));
            let spatial = embed_dim - config.temporal_dim();
            let x = (spatial / 2) & !1;
            assert_eq!(
                (x % 2, (spatial - x) % 2, config.temporal_dim() % 2),
                (0, 0, 0),
                "{embed_dim}"
            );
        }
    }
}
