//! The table of keys: every key of a config, one row each.
//!
//! The rows of the run come first, then the rows of each stage, which follow from
//! the kind of the stage. The reader accepts what stands here and nothing else;
//! `config init`, `config show`, the documentation, the JSON of a log and the
//! comparison on resume are written from it. In the documentation a key of a stage
//! has `STAGE` for the stage's name.

use std::borrow::Cow;
use std::sync::LazyLock;

use crate::advice::Hint;
use crate::events::{Policy, RetryFrom, SettingKey};
use crate::presets::{self, ModelKind, Preset};

use super::criteria;
use super::given::{Given, names};
use super::kind::Kind;
use super::own::{KNOBS, Own};
use super::own_rows;
use super::row::{Change, Fallback, Field, Row, Stage, StageKind, always, computed, field, row};
use super::types::{Config, Device};

const DATA: Change = Change::Fixed("it changes which windows are trained on");
const SEED: Change = Change::Fixed("all randomness of the run follows from it");
const RANKS: Change = Change::Fixed("it changes which rank sees which window");
const ACTIONS: Change = Change::Fixed(
    "it is part of the model's shape; the next cycle takes over what a ladder deferred",
);
const SHAPE: Change = Change::SHAPE;
const RULES: Change = Change::RULES;

/// Updates and steps.
const UPDATES: Kind = count(1, 1_000_000_000);
const NOT_NEGATIVE: Kind = real(0.0, 1e9);
const SHARE: Kind = above(0.0, 1.0);

const FRAMES: &str = "frames: HDF5 or .npz files, or folders of PNGs, relative to this file";

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
        row("preset", Kind::Choice(Preset::ALL.map(Preset::as_str).to_vec()), "", "policy that gives the defaults; `strict` is for real runs", RULES, always(Preset::Seed.as_str().to_owned()), preset()),
        row("stages", Kind::Stages { is_reserved }, "", "stages in the order in which they are trained; each has a table", SHAPE, Fallback::Preset, stages()),
        row("seed", count(0, i64::MAX as u64), "", "seed of all randomness: weights, order of the data, masks", SEED, always(0_u64), field!(Config, seed)),
        row("device", Kind::Device, "", "where tensors live; \"auto\" is CUDA where there is any", Change::Process, always(Device::Auto), field!(Config, device)),
        row("threads", count_or_auto(1, 1024), "threads", "CPU threads of each process; \"auto\" shares all cores out among the ranks of a machine", Change::Process, always(None::<u32>), field!(Config, threads)),
        row("nproc_per_node", count(1, 1024), "ranks", "processes that train together, one per device", RANKS, always(1_u32), field!(Config, nproc_per_node)),
        row("allow_single_gpu_fallback", Kind::Flag, "", "go on with fewer devices than ranks, with more accumulation; the grant is an event", Change::Process, always(false), field!(Config, allow_single_gpu_fallback)),
        row("frame_size", count(2, 1024), "pixels", "side of a square frame", SHAPE, always(64_u32), field!(Config, shape.frame_size)),
        row("patch_size", count(1, 256), "pixels", "side of a square patch, one token each", SHAPE, always(4_u32), field!(Config, shape.patch_size)),
        row("context_length", count(2, 256), "frames", "frames of a window", SHAPE, always(4_u32), field!(Config, shape.context_length)),
        row("latent_dim", count(1, 32), "", "numbers per token of the video tokenizer", SHAPE, always(5_u32), field!(Config, shape.latent_dim)),
        row("num_bins", count(2, 1024), "", "values that each of these numbers may take", SHAPE, always(4_u32), field!(Config, shape.num_bins)),
        row("n_actions", count(2, 1024), "actions", "latent actions, a power of two", ACTIONS, always(4_u32), field!(Config, shape.n_actions)),

        row("distributed.use_ddp", Kind::Flag, "", "average gradients over the ranks", RANKS, always(true), field!(Config, use_ddp)),
        row("distributed.timeout_seconds", count(1, 86_400), "s", "how long a rank may keep the others waiting before the chunk fails", Change::Process, always(600_u32), field!(Config, rank_timeout_seconds)),

        row("trainer.no_progress_seconds", count_or_auto(1, 604_800), "s", "how long the trainer may make no progress before its chunk fails; \"auto\" is learnt from the stage", Change::Process, always(None::<u32>), field!(Config, no_progress_seconds)),

        row("data.path", Kind::Paths, "", FRAMES, Change::Process, Fallback::Required(FRAMES), field!(Config, data.path)),
        row("data.frame_stride", count(1, 1000), "frames", "distance between the frames of a window", DATA, always(4_u32), field!(Config, data.frame_stride)),

        row("policy.max_retries", count(0, 1000), "failures", "failed gates of a stage that are retried; the next one stops", Change::Setting(SettingKey::MaxRetries), Fallback::Preset, field!(Config, policy.max_retries)),
        row("policy.max_chunk_failures", count(0, 1000), "failures", "chunks in a row that may fail without a gate", RULES, Fallback::Preset, field!(Config, policy.max_chunk_failures)),
        row("policy.max_interruptions", count(1, 1000), "interruptions", "interruptions of one chunk without a new checkpoint that count as a failure", RULES, Fallback::Preset, field!(Config, policy.max_interruptions)),
        row("policy.reset_on_pass", Kind::Flag, "", "a passing gate sets the stage's failures to 0", RULES, Fallback::Preset, field!(Config, policy.reset_on_pass)),
        row("policy.retry_from", Kind::Choice(names::<RetryFrom>()), "", "accepted checkpoint from which a retry starts", RULES, Fallback::Preset, field!(Config, policy.retry_from)),
        row("policy.latest_window", count(1, 1_000_000), "samples", "the latest loss is the median of this many last samples", RULES, Fallback::Preset, field!(Config, policy.latest_window)),
        row("policy.keep_last", count(1, 1_000_000), "checkpoints", "newest checkpoints kept besides best, passed and resume points", RULES, Fallback::Preset, field!(Config, policy.keep_last)),
    ]
}

/// The keys of a stage of a kind, in the order of a config file. A kind that brings
/// keys of its own, fixed or found at run time, adds their rows here.
pub(super) fn of_stage(kind: &StageKind) -> Vec<Row<Stage>> {
    match kind {
        StageKind::TinyWorlds(_) => {
            let mut rows = vec![model()];
            rows.extend(schedule(Schedule::of_preset()));
            rows.extend(transformer());
            rows.push(ladder(Vec::new()));
            rows.extend(bounds());
            rows.extend(criteria::rows());
            rows
        }
        StageKind::Own(own) => {
            let mut rows = own_rows::rows(own);
            rows.extend(schedule(Schedule::of_user()));
            rows.push(ladder(own.knobs.clone().into_iter().collect()));
            rows.extend(own_rows::tables(own));
            rows.extend(bounds());
            rows.extend(criteria::rows_of_own(own));
            rows
        }
    }
}

/// Whether a knob cannot have this name, since the stage has such a key without it.
pub(super) fn is_taken(name: &str) -> bool {
    let rows = of_stage(&StageKind::Own(Own::default()));
    let of_row = |row: &Row<Stage>| row.key.path.split('.').next() == Some(name);
    let core = SettingKey::CORE.iter().any(|key| key.as_str() == name);
    core || name == KNOBS || rows.iter().any(of_row)
}

/// The keys of every kind of stage.
pub(super) fn of_any_stage() -> Vec<Row<Stage>> {
    let mut rows: Vec<Row<Stage>> = Vec::new();
    for row in ModelKind::ALL
        .map(StageKind::TinyWorlds)
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
fn model() -> Row<Stage> {
    row("model", Kind::Choice(ModelKind::ALL.map(ModelKind::as_str).to_vec()), "", "model that the stage trains; by default the stage's name", SHAPE, Fallback::Computed(Box::new(model_by_name)), Stage::model())
}

/// Defaults of a stage's schedule.
struct Schedule {
    target: Fallback<Stage>,
    chunk: Fallback<Stage>,
    rate: Fallback<Stage>,
    batch: Fallback<Stage>,
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

    /// Nobody but the user knows what a stage of the user's own needs.
    fn of_user() -> Schedule {
        Schedule {
            target: Fallback::Required("the target, in updates"),
            chunk: computed(|stage: &Stage| (stage.policy.settings.n_updates / 10).max(1)),
            rate: Fallback::Required("the base learning rate"),
            batch: Fallback::Required("windows per micro-batch and rank"),
        }
    }
}

/// What every stage has: when it ends, and how it gets there.
#[rustfmt::skip]
fn schedule(default: Schedule) -> Vec<Row<Stage>> {
    let setting = Change::Setting;
    vec![
        row("n_updates", UPDATES, "updates", "target: the stage ends with the passing gate there", setting(SettingKey::NUpdates), default.target, target()),
        row("chunk_size", UPDATES, "updates", "updates between two gates", setting(SettingKey::ChunkSize), default.chunk, field!(Stage, policy.settings.chunk_size)),
        row("learning_rate", above(0.0, 10.0), "", "base rate: warm-up over 5 % of the target, then cosine to 1 %", setting(SettingKey::LearningRate), default.rate, field!(Stage, policy.settings.learning_rate)),
        row("batch_size_per_gpu", count(1, 1_000_000), "windows", "windows per micro-batch and rank", setting(SettingKey::BatchSizePerGpu), default.batch, field!(Stage, policy.settings.batch_size_per_gpu)),
        row("gradient_accumulation_steps", count(1, 4096), "micro-batches", "micro-batches per update", setting(SettingKey::GradientAccumulationSteps), Fallback::Preset, field!(Stage, policy.settings.gradient_accumulation_steps)),
        row("log_interval", UPDATES, "updates", "updates between samples of the costlier metrics; by default at most half a chunk", setting(SettingKey::LogInterval), computed(log_interval), field!(Stage, policy.settings.log_interval)),
        row("checkpoint_interval", count_or_auto(1, 1_000_000_000), "updates", "updates between checkpoints; \"auto\" is a fifth of a chunk", setting(SettingKey::CheckpointInterval), always(None::<u64>), field!(Stage, policy.settings.checkpoint_interval)),
    ]
}

/// TinyWorlds' sizes of a transformer.
#[rustfmt::skip]
fn transformer() -> Vec<Row<Stage>> {
    vec![
        row("embed_dim", count(6, 8192), "", "width of the transformer, even", SHAPE, always(32_u32), field!(Stage, network.embed_dim)),
        row("num_heads", count(1, 1024), "heads", "attention heads; they share the width", SHAPE, always(8_u32), field!(Stage, network.num_heads)),
        row("hidden_dim", count(2, 65_536), "", "width of the feed-forward layers, of which two thirds are used", SHAPE, always(128_u32), field!(Stage, network.hidden_dim)),
        row("num_blocks", count(1, 256), "blocks", "transformer blocks", SHAPE, computed(num_blocks), field!(Stage, network.num_blocks)),
    ]
}

/// What failed gates change.
#[rustfmt::skip]
fn ladder(knobs: Vec<(String, bool)>) -> Row<Stage> {
    row("ladder", Kind::Ladder { knobs }, "", "what failed gates change, one rung each, in turn; [] stops at the first failure", RULES, Fallback::Preset, field!(Stage, policy.ladder))
}

/// How far rungs may go.
#[rustfmt::skip]
fn bounds() -> Vec<Row<Stage>> {
    vec![
        row("bounds.learning_rate_min", NOT_NEGATIVE, "", "no rung lowers the rate below this", RULES, Fallback::Preset, field!(Stage, policy.bounds.learning_rate_min)),
        row("bounds.accumulation_min", count(1, 4096), "micro-batches", "no rung lowers accumulation below this", RULES, Fallback::Preset, field!(Stage, policy.bounds.accumulation_min)),
        row("bounds.accumulation_max", count(1, 4096), "micro-batches", "no rung raises accumulation above this", RULES, Fallback::Preset, field!(Stage, policy.bounds.accumulation_max)),
        row("bounds.log_interval_min_share", SHARE, "of a chunk", "no rung lowers the log interval below this", RULES, Fallback::Preset, field!(Stage, policy.bounds.log_interval_min_share)),
        row("bounds.chunk_size_min_share", SHARE, "of the configured chunk", "no rung lowers the chunk below this", RULES, Fallback::Preset, field!(Stage, policy.bounds.chunk_size_min_share)),
    ]
}

fn preset() -> Field<Config> {
    Field::new(
        |config: &Config| Some(Given::Text(config.policy.preset.clone())),
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

/// Each stage is read from its own table, so setting the list does nothing here.
fn stages() -> Field<Config> {
    Field::new(
        |config: &Config| {
            let names = config.policy.stages.iter().map(|s| s.name.to_string());
            Some(Given::Texts(names.collect()))
        },
        |_, _| {},
    )
}

fn model_by_name(stage: &Stage) -> Result<Given, &'static str> {
    let name = stage.policy.name.as_str();
    match ModelKind::from_name(name) {
        Some(_) => Ok(Given::Text(name.to_owned())),
        None => Err(
            "a stage of another name must say which model it trains, or name its `loss` to be your own",
        ),
    }
}

/// The target, and with it the curve of the learning rate.
fn target() -> Field<Stage> {
    Field::new(
        |stage: &Stage| Some(Given::Count(stage.policy.settings.n_updates)),
        |stage: &mut Stage, given| {
            if let Given::Count(n) = given {
                stage.policy.settings.n_updates = *n;
                stage.policy.settings.schedule_updates = *n;
            }
        },
    )
}

fn log_interval(stage: &Stage) -> u64 {
    let settings = &stage.policy.settings;
    settings.log_interval.min((settings.chunk_size / 2).max(1))
}

fn num_blocks(stage: &Stage) -> u32 {
    match stage.kind.tiny_worlds() {
        Some(ModelKind::VideoTokenizer) | None => 4,
        Some(ModelKind::LatentActions) => 2,
        Some(ModelKind::Dynamics) => 8,
    }
}

/// TinyWorlds' keys that have no counterpart, or another name, here.
pub(super) const ELSEWHERE: &[(&str, &[Hint])] = &[
    (
        "dataset",
        &[hint(
            "TinyWorlds' `dataset` is `data.path` here: the file itself",
        )],
    ),
    (
        "fps",
        &[hint(
            "TinyWorlds' `fps` is `data.frame_stride` here: 60 // fps",
        )],
    ),
    (
        "preload_ratio",
        &[hint("all frames are loaded; they stay u8 in memory")],
    ),
    ("amp", &[hint("tinygate trains in f32 only")]),
    ("tf32", &[hint("tinygate trains in f32 only")]),
    ("compile", &[hint("there is nothing to compile")]),
    ("optimizer", &[hint("the optimizer is AdamW")]),
    ("use_moe", &[hint("mixtures of experts are not supported")]),
    (
        "use_fsdp",
        &[hint("only DDP is supported: `distributed.use_ddp`")],
    ),
    (
        "use_wandb",
        &[hint("metrics go to the run's log"), Hint::ReadLog],
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
        &[hint("dynamics is always conditioned on actions")],
    ),
];

const fn hint(text: &'static str) -> Hint {
    Hint::Text(Cow::Borrowed(text))
}

/// First words of the keys of the run: no stage may be called so.
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
    fn a_path_is_named_once_and_a_table_is_no_key() {
        let schema = Schema::documented();
        let paths: Vec<String> = schema.keys().map(|(path, _)| path).collect();
        for (index, path) in paths.iter().enumerate() {
            assert!(!paths[index + 1..].contains(path), "{path}");
            assert!(!schema.is_table(path), "{path}");
        }
    }

    #[test]
    fn what_tinyworlds_calls_otherwise_is_no_key_of_ours() {
        for (name, _) in ELSEWHERE {
            for (path, _) in Schema::documented().keys() {
                assert_ne!(path.rsplit('.').next(), Some(*name));
            }
        }
    }
}
