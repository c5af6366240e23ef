//! Every key of a config: its kind, range, unit, meaning, and when it may change.
//!
//! This table is the one definition. The reader accepts what stands here and
//! nothing else; `config init`, `config show` and the documentation are written
//! from it. A key of a stage is written with `STAGE` for the stage's name.
//!
//! Invariant: a count's upper end fits 32 bits unless it counts updates or is the seed.

use crate::events::SettingKey;

pub(super) struct Key {
    pub path: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
    pub meaning: &'static str,
    pub change: Change,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Count {
        least: u64,
        most: u64,
    },
    CountOrAuto {
        least: u64,
        most: u64,
    },
    Real {
        above: Option<f64>,
        least: f64,
        most: f64,
    },
    Flag,
    Choice(&'static [&'static str]),
    Device,
    Paths,
    Stages,
    Criteria,
    /// A real number, or `[[step, limit], ...]`.
    Limit {
        least: f64,
        most: f64,
    },
    Ladder,
}

/// Whether a key may change when a run is resumed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    Setting(SettingKey),
    /// Of the process and not of the run.
    Process,
    Fixed(&'static str),
}

const SHAPE: Change = Change::Fixed("it is part of the model's shape");
const DATA: Change = Change::Fixed("it changes which windows are trained on");
const SEED: Change = Change::Fixed("all randomness of the run follows from it");
const RANKS: Change = Change::Fixed("it changes which rank sees which window");
const RULES: Change = Change::Fixed("it is part of the policy by which the log is decided");

/// Updates and steps.
const UPDATES: Kind = Kind::Count {
    least: 1,
    most: 1_000_000_000,
};
const NOT_NEGATIVE: Kind = Kind::Real {
    above: None,
    least: 0.0,
    most: 1e9,
};
const SHARE: Kind = Kind::Real {
    above: Some(0.0),
    least: 0.0,
    most: 1.0,
};
const METRIC_LIMIT: Kind = Kind::Limit {
    least: 0.0,
    most: 1e9,
};
const SKILL_LIMIT: Kind = Kind::Limit {
    least: -1e9,
    most: 1.0,
};
const APPLIES: Kind = Kind::Choice(&["every_gate", "at_target"]);

/// Codes a codebook may have at most.
pub(super) const CODEBOOK_MOST: u64 = 1 << 20;
/// Entries of any list.
pub(super) const LIST_MOST: usize = 1_000;

const fn key(
    path: &'static str,
    kind: Kind,
    unit: &'static str,
    meaning: &'static str,
    change: Change,
) -> Key {
    Key {
        path,
        kind,
        unit,
        meaning,
        change,
    }
}

const fn count(least: u64, most: u64) -> Kind {
    Kind::Count { least, most }
}

const fn applies(path: &'static str) -> Key {
    key(path, APPLIES, "", "when this criterion is asked", RULES)
}

/// Every key, in the order in which a config is written.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key("preset", Kind::Choice(&["seed", "strict"]), "", "policy that gives the defaults; `strict` is for real runs", RULES),
    key("stages", Kind::Stages, "", "stages in the order in which they are trained; each has a table", SHAPE),
    key("seed", count(0, i64::MAX as u64), "", "seed of all randomness: weights, order of the data, masks", SEED),
    key("device", Kind::Device, "", "where tensors live; \"auto\" is CUDA where there is any", Change::Process),
    key("threads", Kind::CountOrAuto { least: 1, most: 1024 }, "threads", "CPU threads of each process; \"auto\" shares all cores out among the ranks of a machine", Change::Process),
    key("nproc_per_node", count(1, 1024), "ranks", "processes that train together, one per device", RANKS),
    key("allow_single_gpu_fallback", Kind::Flag, "", "go on with fewer devices than ranks, with more accumulation; the grant is an event", Change::Process),
    key("frame_size", count(2, 1024), "pixels", "side of a square frame", SHAPE),
    key("patch_size", count(1, 256), "pixels", "side of a square patch, one token each", SHAPE),
    key("context_length", count(2, 256), "frames", "frames of a window", SHAPE),
    key("latent_dim", count(1, 32), "", "numbers per token of the video tokenizer", SHAPE),
    key("num_bins", count(2, 1024), "", "values that each of these numbers may take", SHAPE),
    key("n_actions", count(2, 1024), "actions", "latent actions, a power of two", Change::Fixed("it is part of the model's shape; `run --next-cycle-of` takes over what a ladder deferred")),

    key("distributed.use_ddp", Kind::Flag, "", "average gradients over the ranks", RANKS),
    key("distributed.timeout_seconds", count(1, 86_400), "s", "how long a rank may keep the others waiting before the chunk fails", Change::Process),

    key("data.path", Kind::Paths, "", "frames: HDF5 or .npz files, or folders of PNGs, relative to this file", Change::Process),
    key("data.frame_stride", count(1, 1000), "frames", "distance between the frames of a window", DATA),

    key("policy.max_retries", count(0, 1000), "failures", "failed gates of a stage that are retried; the next one stops", Change::Setting(SettingKey::MaxRetries)),
    key("policy.max_chunk_failures", count(0, 1000), "failures", "chunks in a row that may fail without a gate", RULES),
    key("policy.max_interruptions", count(1, 1000), "interruptions", "interruptions of one chunk without a new checkpoint that count as a failure", RULES),
    key("policy.reset_on_pass", Kind::Flag, "", "a passing gate sets the stage's failures to 0", RULES),
    key("policy.retry_from", Kind::Choice(&["newest", "last_passed", "best"]), "", "accepted checkpoint from which a retry starts", RULES),
    key("policy.latest_window", count(1, 1_000_000), "samples", "the latest loss is the median of this many last samples", RULES),
    key("policy.keep_last", count(1, 1_000_000), "checkpoints", "newest checkpoints kept besides best, passed and resume points", RULES),

    key("STAGE.model", Kind::Choice(&["video_tokenizer", "latent_actions", "dynamics"]), "", "model that the stage trains; by default the stage's name", SHAPE),
    key("STAGE.n_updates", UPDATES, "updates", "target: the stage ends with the passing gate there", Change::Setting(SettingKey::NUpdates)),
    key("STAGE.chunk_size", UPDATES, "updates", "updates between two gates", Change::Setting(SettingKey::ChunkSize)),
    key("STAGE.learning_rate", Kind::Real { above: Some(0.0), least: 0.0, most: 10.0 }, "", "base rate: warm-up over 5 % of the target, then cosine to 1 %", Change::Setting(SettingKey::LearningRate)),
    key("STAGE.batch_size_per_gpu", count(1, 1_000_000), "windows", "windows per micro-batch and rank", Change::Setting(SettingKey::BatchSizePerGpu)),
    key("STAGE.gradient_accumulation_steps", count(1, 4096), "micro-batches", "micro-batches per update", Change::Setting(SettingKey::GradientAccumulationSteps)),
    key("STAGE.log_interval", UPDATES, "updates", "updates between samples of the costlier metrics; by default at most half a chunk", Change::Setting(SettingKey::LogInterval)),
    key("STAGE.checkpoint_interval", Kind::CountOrAuto { least: 1, most: 1_000_000_000 }, "updates", "updates between checkpoints; \"auto\" is a fifth of a chunk", Change::Setting(SettingKey::CheckpointInterval)),
    key("STAGE.embed_dim", count(6, 8192), "", "width of the transformer, even", SHAPE),
    key("STAGE.num_heads", count(1, 1024), "heads", "attention heads; they share the width", SHAPE),
    key("STAGE.hidden_dim", count(2, 65_536), "", "width of the feed-forward layers, of which two thirds are used", SHAPE),
    key("STAGE.num_blocks", count(1, 256), "blocks", "transformer blocks", SHAPE),
    key("STAGE.ladder", Kind::Ladder, "", "what failed gates change, one rung each, in turn; [] stops at the first failure", RULES),

    key("STAGE.bounds.learning_rate_min", NOT_NEGATIVE, "", "no rung lowers the rate below this", RULES),
    key("STAGE.bounds.accumulation_min", count(1, 4096), "micro-batches", "no rung lowers accumulation below this", RULES),
    key("STAGE.bounds.accumulation_max", count(1, 4096), "micro-batches", "no rung raises accumulation above this", RULES),
    key("STAGE.bounds.log_interval_min_share", SHARE, "of a chunk", "no rung lowers the log interval below this", RULES),
    key("STAGE.bounds.chunk_size_min_share", SHARE, "of the configured chunk", "no rung lowers the chunk below this", RULES),

    key("STAGE.gate.criteria", Kind::Criteria, "", "what a gate asks; setting a limit below adds its criterion unless this is set", RULES),
    key("STAGE.gate.trend_tolerance", NOT_NEGATIVE, "of the previous gate loss", "`loss_trend`: gate loss < previous + this * abs(previous)", RULES),
    key("STAGE.gate.loss_latest", METRIC_LIMIT, "loss", "`loss_latest`: latest loss <= this", RULES),
    key("STAGE.gate.unique_actions", METRIC_LIMIT, "actions", "`unique_actions`: latest >= this", RULES),
    key("STAGE.gate.action_entropy", METRIC_LIMIT, "nats", "`action_entropy`: latest >= this", RULES),
    key("STAGE.gate.codebook_usage", Kind::Limit { least: 0.0, most: 1.0 }, "of the codebook", "`codebook_usage`: latest >= this", RULES),
    key("STAGE.gate.tolerance", NOT_NEGATIVE, "of the mean compared with", "`loss_not_rising` and `loss_delta`: rise that counts as flat", RULES),
    key("STAGE.gate.standard_errors", NOT_NEGATIVE, "standard errors", "`loss_not_rising` and `loss_delta`: rise within the noise; the larger of the two counts", RULES),
    key("STAGE.gate.structure_share", SHARE, "of the held-out frames", "`visual_structure`: fails when at least this share has lost its structure", RULES),
    key("STAGE.gate.flatness_min", NOT_NEGATIVE, "ratio", "`visual_structure`: least variance, predicted over true", RULES),
    key("STAGE.gate.flatness_max", NOT_NEGATIVE, "ratio", "`visual_structure`: most variance, predicted over true", RULES),
    key("STAGE.gate.stripes_max", NOT_NEGATIVE, "ratio", "`visual_structure`: most variance in row or column means, predicted over true", RULES),
    key("STAGE.gate.blockiness_max", NOT_NEGATIVE, "ratio", "`visual_structure`: most gradient across patch borders over inside, predicted over true", RULES),
    key("STAGE.gate.ssim_min", Kind::Real { above: None, least: -1.0, most: 1.0 }, "SSIM", "`visual_structure`: least structural similarity", RULES),
    key("STAGE.gate.mse_ratio_max", NOT_NEGATIVE, "ratio", "`visual_structure`: most squared error, over the mean image's", RULES),
    key("STAGE.gate.min_skill", SKILL_LIMIT, "of the trivial loss", "`skill`: 1 - held-out loss / trivial predictor's must exceed this", RULES),
    key("STAGE.gate.min_skill_moving", SKILL_LIMIT, "of the trivial loss", "`skill_moving`: the same on pixels that move must exceed this", RULES),

    applies("STAGE.gate.applies.loss_trend"),
    applies("STAGE.gate.applies.loss_latest"),
    applies("STAGE.gate.applies.unique_actions"),
    applies("STAGE.gate.applies.action_entropy"),
    applies("STAGE.gate.applies.codebook_usage"),
    applies("STAGE.gate.applies.loss_not_rising"),
    applies("STAGE.gate.applies.loss_delta"),
    applies("STAGE.gate.applies.visual_structure"),
    applies("STAGE.gate.applies.skill"),
    applies("STAGE.gate.applies.skill_moving"),
];

/// TinyWorlds' keys that have no counterpart, or another name, here.
pub(super) const ELSEWHERE: &[(&str, &str)] = &[
    (
        "dataset",
        "TinyWorlds' `dataset` is `data.path` here: the file itself",
    ),
    (
        "fps",
        "TinyWorlds' `fps` is `data.frame_stride` here: 60 // fps",
    ),
    (
        "preload_ratio",
        "all frames are loaded; they stay u8 in memory",
    ),
    ("amp", "tinygate trains in f32 only"),
    ("tf32", "tinygate trains in f32 only"),
    ("compile", "there is nothing to compile"),
    ("optimizer", "the optimizer is AdamW"),
    ("use_moe", "mixtures of experts are not supported"),
    ("use_fsdp", "only DDP is supported: `distributed.use_ddp`"),
    (
        "use_wandb",
        "metrics go to the run's log; see `tinygate log`",
    ),
    (
        "checkpoint",
        "`tinygate run --init-from STAGE=CHECKPOINT` starts from a checkpoint",
    ),
    ("run_video_tokenizer", "list the stages to run in `stages`"),
    ("run_latent_actions", "list the stages to run in `stages`"),
    ("run_dynamics", "list the stages to run in `stages`"),
    ("use_actions", "dynamics is always conditioned on actions"),
];

/// The key at a path in the form of this table.
pub(super) fn find(pattern: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == pattern)
}

/// Whether the path is a table that holds keys.
pub(super) fn is_table(pattern: &str) -> bool {
    KEYS.iter().any(|key| inside(key.path, pattern).is_some())
}

/// The rest of a path inside a table.
pub(super) fn inside<'a>(path: &'a str, table: &str) -> Option<&'a str> {
    if table.is_empty() {
        return Some(path);
    }
    path.strip_prefix(table)?.strip_prefix('.')
}

/// First words of the keys that do not belong to a stage: no stage may be called so.
pub(super) fn is_reserved(name: &str) -> bool {
    KEYS.iter()
        .filter_map(|key| key.path.split('.').next())
        .any(|first| first == name && first != "STAGE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_once_and_a_table_is_no_key() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(
                KEYS.iter()
                    .skip(index + 1)
                    .all(|other| other.path != key.path),
                "{}",
                key.path
            );
            assert!(!is_table(key.path), "{}", key.path);
        }
    }

    #[test]
    fn every_key_says_what_it_means() {
        for key in KEYS {
            assert!(!key.meaning.is_empty(), "{}", key.path);
        }
    }

    #[test]
    fn what_tinyworlds_calls_otherwise_is_no_key_of_ours() {
        for (name, _) in ELSEWHERE {
            assert!(
                KEYS.iter()
                    .all(|key| !key.path.ends_with(&format!(".{name}")) && key.path != *name),
                "{name}"
            );
        }
    }
}
