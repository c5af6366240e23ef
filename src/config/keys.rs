//! The table of keys: every key of a config, one row each.
//!
//! The rows of the run come first, then the rows of each stage, which depend on the
//! kind of the stage. A config may contain these keys and no others. The example
//! config, the list of keys, the JSON in a log and the comparison on resume are all
//! made from this table. In the documentation, `STAGE` stands for a stage's name.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::advice::Hint;
use crate::events::{Policy, RetryFrom, SettingKey};
use crate::presets::{self, ModelKind, Preset};

use super::criteria;
use super::custom::{CustomStage, KNOBS};
use super::custom_rows;
use super::key_value::{FieldType, KeyValue, names};
use super::kind::Kind;
use super::row::{
    Change, Fallback, Field, Row, StageDraft, StageKind, always, computed, field, row,
};
use super::types::{Config, Device, TrainerKind};

const DATA: Change = Change::Fixed("it changes which windows are trained on");
const SEED: Change = Change::Fixed("all randomness of the run depends on it");
const RANKS: Change = Change::Fixed("it changes which rank sees which window");
const ACTIONS: Change = Change::Fixed(
    "it is part of the model's shape; a deferred change takes effect in the next cycle",
);
const TRAINER: Change = Change::Fixed("checkpoints of one trainer cannot be resumed by another");
const SHAPE: Change = Change::SHAPE;
const RULES: Change = Change::RULES;

/// Numbers of updates.
const UPDATES: Kind = count(1, 1_000_000_000);
const NOT_NEGATIVE: Kind = real(0.0, 1e9);
const SHARE: Kind = above(0.0, 1.0);

/// Why a program is required.
pub(super) const COMMAND: &str = "the program that trains, and its arguments";
pub(super) const FRAMES: &str =
    "frames: HDF5 or .npz files, or folders of PNGs, relative to this file";

pub(super) const STANDARD_STAGES: [&str; 3] = ["video_tokenizer", "latent_actions", "dynamics"];

const fn count(least: u64, most: u64) -> Kind {
    Kind::Count { least, most }
}

const fn count_or_auto(least: u64, most: u64) -> Kind {
    Kind::CountOrAuto { least, most }
}

const fn real(least: f64, most: f64) -> Kind {
    Kind::Real {
        above: None,
        least,
        most,
    }
}

const fn above(above: f64, most: f64) -> Kind {
    Kind::Real {
        above: Some(above),
        least: above,
        most,
    }
}

/// The keys of the run, in the order of a config file.
pub(super) fn of_run() -> &'static [Row<Config>] {
    static ROWS: LazyLock<Vec<Row<Config>>> = LazyLock::new(run_rows);
    &ROWS
}

#[rustfmt::skip]
fn run_rows() -> Vec<Row<Config>> {
    vec![
        row("preset", Kind::Choice(Preset::ALL.map(Preset::as_str).to_vec()), "", "policy that sets the defaults; use `strict` for real runs", RULES, always(Preset::Seed.as_str().to_owned()), preset()),
        row("stages", Kind::Stages { is_reserved }, "", "stages in training order; each has a table", SHAPE, Fallback::Preset, stages()),
        row("seed", count(0, i64::MAX as u64), "", "seed of all randomness: weights, data order, masks", SEED, always(0_u64), field!(Config, seed)),
        row("device", Kind::Device, "", "where tensors live; \"auto\" is CUDA if available, else the CPU", Change::Process, always(Device::Auto), field!(Config, device)),
        row("threads", count_or_auto(1, 1024), "threads", "CPU threads of each process; \"auto\" divides all cores among the ranks of a machine", Change::Process, always(None::<u32>), field!(Config, threads)),
        row("nproc_per_node", count(1, 1024), "ranks", "processes that train together, one per device", RANKS, always(1_u32), field!(Config, nproc_per_node)),
        row("allow_single_gpu_fallback", Kind::Flag, "", "continue with fewer devices than ranks and more accumulation; recorded as an event", Change::Process, always(false), field!(Config, allow_single_gpu_fallback)),
        row("frame_size", count(2, 1024), "pixels", "side of a square frame", SHAPE, always(64_u32), field!(Config, shape.frame_size)),
        row("patch_size", count(1, 256), "pixels", "side of a square patch, one token each", SHAPE, always(4_u32), field!(Config, shape.patch_size)),
        row("context_length", count(2, 256), "frames", "frames of a window", SHAPE, always(4_u32), field!(Config, shape.context_length)),
        row("latent_dim", count(1, 32), "", "numbers per token of the video tokenizer", SHAPE, always(5_u32), field!(Config, shape.latent_dim)),
        row("num_bins", count(2, 1024), "", "number of values that each of these can take", SHAPE, always(4_u32), field!(Config, shape.num_bins)),
        row("n_actions", count(2, 1024), "actions", "latent actions, a power of two", ACTIONS, always(4_u32), field!(Config, shape.n_actions)),

        row("distributed.use_ddp", Kind::Flag, "", "average gradients over the ranks", RANKS, always(true), field!(Config, use_ddp)),
        row("distributed.timeout_seconds", count(1, 86_400), "s", "how long a rank may keep the others waiting before the chunk fails", Change::Process, always(600_u32), field!(Config, rank_timeout_seconds)),

        row("trainer.kind", Kind::Choice(names::<TrainerKind>()), "", "what trains: tinygate itself, or the program of `trainer.command`", TRAINER, always(TrainerKind::BuiltIn), field!(Config, trainer.kind)),
        row("trainer.command", Kind::Command, "", "the program that trains, and its arguments", Change::Process, always(Vec::<String>::new()), field!(Config, trainer.command)),
        row("trainer.directory", Kind::Path, "", "working directory of the program, relative to this file", Change::Process, always(PathBuf::from(".")), field!(Config, trainer.directory)),
        row("trainer.no_progress_seconds", count_or_auto(1, 604_800), "s", "how long the trainer may make no progress before its chunk fails; \"auto\" learns the limit from the stage", Change::Process, always(None::<u32>), field!(Config, no_progress_seconds)),

        row("data.path", Kind::Paths, "", FRAMES, Change::Process, Fallback::Computed(Box::new(no_frames)), data_path()),
        row("data.frame_stride", count(1, 1000), "frames", "distance between the frames of a window", DATA, always(4_u32), field!(Config, data.frame_stride)),

        row("policy.max_retries", count(0, 1000), "failures", "failed gates of a stage that are retried; the next failure stops the run", Change::Setting(SettingKey::MaxRetries), Fallback::Preset, field!(Config, policy.max_retries)),
        row("policy.max_chunk_failures", count(0, 1000), "failures", "consecutive chunks that may fail before reaching a gate", RULES, Fallback::Preset, field!(Config, policy.max_chunk_failures)),
        row("policy.max_interruptions", count(1, 1000), "interruptions", "interruptions of a chunk without a new checkpoint that count as one failure", RULES, Fallback::Preset, field!(Config, policy.max_interruptions)),
        row("policy.reset_on_pass", Kind::Flag, "", "a passing gate sets the stage's failures to 0", RULES, Fallback::Preset, field!(Config, policy.reset_on_pass)),
        row("policy.retry_from", Kind::Choice(names::<RetryFrom>()), "", "accepted checkpoint from which a retry starts", RULES, Fallback::Preset, field!(Config, policy.retry_from)),
        row("policy.latest_window", count(1, 1_000_000), "samples", "the latest loss is the median of this many samples", RULES, Fallback::Preset, field!(Config, policy.latest_window)),
        row("policy.keep_last", count(1, 1_000_000), "checkpoints", "newest checkpoints to keep, besides the best, passed and resume points", RULES, Fallback::Preset, field!(Config, policy.keep_last)),
    ]
}

/// The keys of a kind of stage, in the order of a config file. A new kind adds its rows
/// here; they may depend on the config.
pub(super) fn of_stage(kind: &StageKind) -> Vec<Row<StageDraft>> {
    match kind {
        StageKind::BuiltIn(_) => {
            let mut rows = vec![model()];
            rows.extend(schedule(Schedule::of_preset()));
            rows.extend(transformer());
            rows.push(ladder(Vec::new()));
            rows.extend(bounds());
            rows.extend(criteria::rows());
            rows
        }
        StageKind::Custom(custom) => {
            let mut rows = custom_rows::rows(custom);
            rows.extend(schedule(Schedule::of_custom()));
            rows.push(ladder(custom.knobs.clone().into_iter().collect()));
            rows.extend(custom_rows::tables(custom));
            rows.extend(bounds());
            rows.extend(criteria::rows_of_custom(custom));
            rows
        }
    }
}

/// Whether a knob cannot have this name because another key of the stage has it.
pub(super) fn is_taken(name: &str) -> bool {
    let rows = of_stage(&StageKind::Custom(CustomStage::default()));
    let of_row = |row: &Row<StageDraft>| row.key.path.split('.').next() == Some(name);
    let core = SettingKey::CORE.iter().any(|key| key.as_str() == name);
    core || name == KNOBS || rows.iter().any(of_row)
}

/// The keys of all built-in stages.
pub(super) fn of_any_stage() -> Vec<Row<StageDraft>> {
    let mut rows: Vec<Row<StageDraft>> = Vec::new();
    for row in ModelKind::ALL
        .map(StageKind::BuiltIn)
        .iter()
        .flat_map(of_stage)
    {
        if rows.iter().all(|known| known.key.path != row.key.path) {
            rows.push(row);
        }
    }
    rows
}

#[rustfmt::skip]
fn model() -> Row<StageDraft> {
    row("model", Kind::Choice(ModelKind::ALL.map(ModelKind::as_str).to_vec()), "", "model that the stage trains; by default the stage's name", SHAPE, Fallback::Computed(Box::new(model_by_name)), StageDraft::model())
}

/// Defaults of a stage's training settings.
struct Schedule {
    target: Fallback<StageDraft>,
    chunk: Fallback<StageDraft>,
    rate: Fallback<StageDraft>,
    batch: Fallback<StageDraft>,
}

impl Schedule {
    fn of_preset() -> Schedule {
        Schedule {
            target: Fallback::Preset,
            chunk: Fallback::Preset,
            rate: Fallback::Preset,
            batch: Fallback::Preset,
        }
    }

    /// A custom stage has few defaults: only the user knows what it needs.
    fn of_custom() -> Schedule {
        Schedule {
            target: Fallback::Required("the target, in updates"),
            chunk: computed(|stage: &StageDraft| (stage.policy.settings.n_updates / 10).max(1)),
            rate: Fallback::Required("the base learning rate"),
            batch: Fallback::Required("windows per micro-batch and rank"),
        }
    }
}

/// The training settings of every stage.
#[rustfmt::skip]
fn schedule(default: Schedule) -> Vec<Row<StageDraft>> {
    let setting = Change::Setting;
    vec![
        row("n_updates", UPDATES, "updates", "target: the stage ends with a passing gate at this update", setting(SettingKey::NUpdates), default.target, target()),
        row("chunk_size", UPDATES, "updates", "updates between two gates", setting(SettingKey::ChunkSize), default.chunk, field!(StageDraft, policy.settings.chunk_size)),
        row("learning_rate", above(0.0, 10.0), "", "base rate: warm-up over 5 % of the target, then a cosine down to 1 %", setting(SettingKey::LearningRate), default.rate, field!(StageDraft, policy.settings.learning_rate)),
        row("batch_size_per_gpu", count(1, 1_000_000), "windows", "windows per micro-batch and rank", setting(SettingKey::BatchSizePerGpu), default.batch, field!(StageDraft, policy.settings.batch_size_per_gpu)),
        row("gradient_accumulation_steps", count(1, 4096), "micro-batches", "micro-batches per update", setting(SettingKey::GradientAccumulationSteps), Fallback::Preset, field!(StageDraft, policy.settings.gradient_accumulation_steps)),
        row("log_interval", UPDATES, "updates", "updates between samples of the costlier metrics; by default at most half a chunk", setting(SettingKey::LogInterval), computed(log_interval), field!(StageDraft, policy.settings.log_interval)),
        row("checkpoint_interval", count_or_auto(1, 1_000_000_000), "updates", "updates between checkpoints; \"auto\" is a fifth of a chunk", setting(SettingKey::CheckpointInterval), always(None::<u64>), field!(StageDraft, policy.settings.checkpoint_interval)),
    ]
}

/// Size of a built-in stage's transformer.
#[rustfmt::skip]
fn transformer() -> Vec<Row<StageDraft>> {
    vec![
        row("embed_dim", count(6, 8192), "", "width of the transformer, even", SHAPE, always(32_u32), field!(StageDraft, network.embed_dim)),
        row("num_heads", count(1, 1024), "heads", "attention heads; must divide the width", SHAPE, always(8_u32), field!(StageDraft, network.num_heads)),
        row("hidden_dim", count(2, 65_536), "", "width of the feed-forward layers, two thirds of which are used", SHAPE, always(128_u32), field!(StageDraft, network.hidden_dim)),
        row("num_blocks", count(1, 256), "blocks", "transformer blocks", SHAPE, computed(num_blocks), field!(StageDraft, network.num_blocks)),
    ]
}

/// What failed gates change.
#[rustfmt::skip]
fn ladder(knobs: Vec<(String, bool)>) -> Row<StageDraft> {
    row("ladder", Kind::Ladder { knobs }, "", "what each failed gate changes, one rung after the other; with [] the first failure stops the run", RULES, Fallback::Preset, field!(StageDraft, policy.ladder))
}

/// Bounds on what rungs change.
#[rustfmt::skip]
fn bounds() -> Vec<Row<StageDraft>> {
    vec![
        row("bounds.learning_rate_min", NOT_NEGATIVE, "", "rungs do not lower the rate below this", RULES, Fallback::Preset, field!(StageDraft, policy.bounds.learning_rate_min)),
        row("bounds.accumulation_min", count(1, 4096), "micro-batches", "rungs do not lower accumulation below this", RULES, Fallback::Preset, field!(StageDraft, policy.bounds.accumulation_min)),
        row("bounds.accumulation_max", count(1, 4096), "micro-batches", "rungs do not raise accumulation above this", RULES, Fallback::Preset, field!(StageDraft, policy.bounds.accumulation_max)),
        row("bounds.log_interval_min_share", SHARE, "of a chunk", "rungs do not lower the log interval below this", RULES, Fallback::Preset, field!(StageDraft, policy.bounds.log_interval_min_share)),
        row("bounds.chunk_size_min_share", SHARE, "of the configured chunk", "rungs do not lower the chunk size below this", RULES, Fallback::Preset, field!(StageDraft, policy.bounds.chunk_size_min_share)),
    ]
}

fn preset() -> Field<Config> {
    Field::new(
        |config: &Config| Some(KeyValue::Text(config.policy.preset.clone())),
        |config: &mut Config, given| {
            if let Some(preset) = given.text().and_then(Preset::from_name) {
                config.policy = Policy {
                    stages: Vec::new(),
                    ..presets::policy(preset)
                };
            }
        },
    )
}

/// Only a run that a program trains can do without frames.
fn no_frames(config: &Config) -> Result<KeyValue, &'static str> {
    match config.trainer.kind {
        TrainerKind::BuiltIn => Err(FRAMES),
        TrainerKind::Command => Ok(KeyValue::Texts(Vec::new())),
    }
}

fn data_path() -> Field<Config> {
    Field::new(
        |config: &Config| {
            let path = &config.data.path;
            let is_left_out = config.trainer.kind == TrainerKind::Command && path.is_empty();
            (!is_left_out).then(|| path.to_key_value())
        },
        |config: &mut Config, given| {
            if let Some(path) = FieldType::from_key_value(given) {
                config.data.path = path;
            }
        },
    )
}

/// Setting the list does nothing: each stage is read from its own table.
fn stages() -> Field<Config> {
    Field::new(
        |config: &Config| {
            let names = config.policy.stages.iter().map(|s| s.name.to_string());
            Some(KeyValue::Texts(names.collect()))
        },
        |_, _| {},
    )
}

fn model_by_name(stage: &StageDraft) -> Result<KeyValue, &'static str> {
    let name = stage.policy.name.as_str();
    match ModelKind::from_name(name) {
        Some(_) => Ok(KeyValue::Text(name.to_owned())),
        None => Err(
            "a stage not named after a model needs the `model` that it trains, or a `loss` if it is a custom stage",
        ),
    }
}

/// The target, which also sets the length of the learning rate's curve.
fn target() -> Field<StageDraft> {
    Field::new(
        |stage: &StageDraft| Some(KeyValue::Count(stage.policy.settings.n_updates)),
        |stage: &mut StageDraft, given| {
            if let KeyValue::Count(n) = given {
                stage.policy.settings.n_updates = *n;
                stage.policy.settings.schedule_updates = *n;
            }
        },
    )
}

fn log_interval(stage: &StageDraft) -> u64 {
    let settings = &stage.policy.settings;
    settings.log_interval.min((settings.chunk_size / 2).max(1))
}

fn num_blocks(stage: &StageDraft) -> u32 {
    match stage.kind.built_in() {
        Some(ModelKind::VideoTokenizer) | None => 4,
        Some(ModelKind::LatentActions) => 2,
        Some(ModelKind::Dynamics) => 8,
    }
}

/// Keys of TinyWorlds that tinygate does not have, each with what to do instead.
pub(super) const TINYWORLDS_KEYS: &[(&str, &[Hint])] = &[
    (
        "dataset",
        &[hint("use `data.path`, which names the data file itself")],
    ),
    (
        "fps",
        &[hint("use `data.frame_stride` with the value 60 // fps")],
    ),
    (
        "preload_ratio",
        &[hint(
            "remove it: all frames are loaded, and stay u8 in memory",
        )],
    ),
    ("amp", &[hint("remove it: tinygate trains in f32 only")]),
    ("tf32", &[hint("remove it: tinygate trains in f32 only")]),
    ("compile", &[hint("remove it: there is nothing to compile")]),
    (
        "optimizer",
        &[hint("remove it: the optimizer is always AdamW")],
    ),
    (
        "use_moe",
        &[hint("remove it: mixtures of experts are not supported")],
    ),
    (
        "use_fsdp",
        &[hint("use `distributed.use_ddp`: only DDP is supported")],
    ),
    (
        "use_wandb",
        &[
            hint("remove it: metrics are in the run's log"),
            Hint::ReadLog,
        ],
    ),
    ("checkpoint", &[Hint::StartFromCheckpoint]),
    (
        "run_video_tokenizer",
        &[hint("list the stages to run in `stages`")],
    ),
    (
        "run_latent_actions",
        &[hint("list the stages to run in `stages`")],
    ),
    (
        "run_dynamics",
        &[hint("list the stages to run in `stages`")],
    ),
    (
        "use_actions",
        &[hint("remove it: dynamics is always conditioned on actions")],
    ),
];

const fn hint(text: &'static str) -> Hint {
    Hint::Text(Cow::Borrowed(text))
}

/// Whether a stage cannot have this name because a key or table of the run has it.
pub(super) fn is_reserved(name: &str) -> bool {
    of_run()
        .iter()
        .any(|row| row.key.path.split('.').next() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::Schema;

    #[test]
    fn each_path_occurs_once_and_no_key_is_also_a_table() {
        let schema = Schema::documented();
        let paths: Vec<String> = schema.keys().map(|(path, _)| path).collect();
        for (index, path) in paths.iter().enumerate() {
            assert!(!paths[index + 1..].contains(path), "{path}");
            assert!(!schema.is_table(path), "{path}");
        }
    }

    #[test]
    fn rejected_tinyworlds_keys_are_not_keys_of_tinygate() {
        for (name, _) in TINYWORLDS_KEYS {
            for (path, _) in Schema::documented().keys() {
                assert_ne!(path.rsplit('.').next(), Some(*name));
            }
        }
    }
}
