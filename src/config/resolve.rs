//! Checked values to a config: defaults filled in, and what must fit together.
//!
//! Each row of the table of keys is set in turn, so that a default may follow from
//! what stands before it. Checks between values are left out where one of them was
//! refused already.

use std::path::{Path, PathBuf};

use crate::events::{ModelKind, Rung, SettingKey, StageName, StagePolicy};
use crate::machine::presets::{self, Preset};

use super::error::{Fault, Place, Problem};
use super::row::{Row, Stage, model_of_name};
use super::schema::{Schema, join};
use super::tree::Node;
use super::types::{Config, Loaded, Shape, needs};
use super::values::Values;
use super::{gate, keys};

/// Codes a codebook may have at most.
const CODEBOOK_MOST: u64 = 1 << 20;

/// Judges a tree; `base` is the folder of a file's relative paths.
pub(super) fn resolve(tree: &Node, base: &Path) -> Result<Loaded, Vec<Problem>> {
    let (loaded, problems) = judge(tree, base);
    if problems.is_empty() {
        Ok(loaded)
    } else {
        Err(problems)
    }
}

/// The same, with the config as far as it goes: a refused value has its default.
pub(super) fn judge(tree: &Node, base: &Path) -> (Loaded, Vec<Problem>) {
    let schema = Schema::of_tree(tree);
    let mut values = Values::read(tree, &schema);
    let mut config = Config::blank();
    values.fill(&mut config, "", keys::of_run(), &[]);
    check_shape(&mut values, &config.shape);
    make_absolute(&mut values, &mut config.data.path, base);
    let preset = Preset::from_name(&config.policy.preset).unwrap_or(Preset::Seed);
    for name in schema.stages() {
        let rows = schema.rows(name);
        let Some(stage) = stage(&mut values, name, rows, preset, &config) else {
            continue;
        };
        config.networks.insert(StageName::new(name), stage.network);
        config.policy.stages.push(stage.policy);
    }
    let given = values.given();
    let mut problems = values.problems;
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    (Loaded { config, given }, problems)
}

fn check_shape(values: &mut Values, shape: &Shape) {
    check_divisible(
        values,
        ("frame_size", shape.frame_size),
        ("patch_size", shape.patch_size),
    );
    let codes = u64::from(shape.num_bins).checked_pow(shape.latent_dim);
    let keys = ["num_bins", "latent_dim"];
    if values.sound(&keys) && codes.is_none_or(|codes| codes > CODEBOOK_MOST) {
        let fault = Fault::CodebookTooLarge {
            num_bins: u64::from(shape.num_bins),
            latent_dim: u64::from(shape.latent_dim),
            most: CODEBOOK_MOST,
        };
        values.complain(&keys, fault);
    }
    if !shape.n_actions.is_power_of_two() {
        let fault = Fault::NotAPowerOfTwo {
            key: "n_actions".to_owned(),
            found: u64::from(shape.n_actions),
        };
        values.complain(&["n_actions"], fault);
    }
}

fn make_absolute(values: &mut Values, paths: &mut [PathBuf], base: &Path) {
    let key = "data.path";
    let base = match values.place(key) {
        None => return,
        // Without a working directory a path stays as it was typed.
        Some(Place::Override { .. }) => std::path::absolute(".").unwrap_or_default(),
        Some(Place::Whole { .. } | Place::Line { .. } | Place::Log) => base.to_path_buf(),
    };
    if base.to_str().is_none() {
        let fault = Fault::PathNotUnicode {
            key: key.to_owned(),
        };
        values.complain(&[key], fault);
    }
    for path in paths {
        *path = tidy(&base.join(&path));
    }
}

/// A path without `.`; a `..` stays, since the folder before it may be a link.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Reads one stage. `None`: nobody knows what it trains.
fn stage(
    values: &mut Values,
    name: &str,
    rows: &[Row<Stage>],
    preset: Preset,
    config: &Config,
) -> Option<Stage> {
    // Its model is set by its first row, or there is none.
    let mut stage = Stage::new(name, preset, ModelKind::VideoTokenizer);
    stage.given = values.given_in(name);
    values.fill(&mut stage, name, rows, &["stages"]);
    if !stage.given.contains("model") {
        model_of_name(name)?;
    }
    if let Some(n_actions) = &mut stage.policy.settings.n_actions {
        *n_actions = config.shape.n_actions;
    }
    if values.sound(&["stages"]) {
        check_order(values, &stage.policy, &config.policy.stages);
    }
    check_network(values, &stage);
    check_intervals(values, &stage.policy);
    gate::check(values, &mut stage, rows);
    let policy = &stage.policy;
    if values.sound(&[&join(name, "chunk_size"), &join(name, "n_updates")]) {
        gate::check_chunks(
            values,
            name,
            &policy.criteria,
            policy.settings.chunk_size,
            policy.settings.n_updates,
        );
    }
    if values.sound(&["n_actions"]) {
        gate::check_reachable(values, name, &policy.criteria, config.shape.n_actions);
    }
    check_bounds(values, policy);
    check_ladder(values, policy);
    Some(stage)
}

fn check_order(values: &mut Values, stage: &StagePolicy, before: &[StagePolicy]) {
    for need in needs(stage.model) {
        if before.iter().all(|stage| stage.model != *need) {
            let fault = Fault::StageOrder {
                stage: stage.name.to_string(),
                model: presets::model_name(stage.model),
                needs: presets::model_name(*need),
            };
            values.complain(&["stages"], fault);
        }
    }
}

fn check_network(values: &mut Values, stage: &Stage) {
    let name = stage.policy.name.as_str();
    let network = &stage.network;
    let (embed_dim, num_heads) = (join(name, "embed_dim"), join(name, "num_heads"));
    check_divisible(
        values,
        (&embed_dim, network.embed_dim),
        (&num_heads, network.num_heads),
    );
    if !network.embed_dim.is_multiple_of(2) {
        let fault = Fault::Odd {
            key: embed_dim.clone(),
            found: u64::from(network.embed_dim),
        };
        values.complain(&[&embed_dim], fault);
    }
}

fn check_intervals(values: &mut Values, stage: &StagePolicy) {
    let settings = &stage.settings;
    let key = |key: SettingKey| join(stage.name.as_str(), key.as_str());
    let chunk_key = key(SettingKey::ChunkSize);
    let intervals = [
        (SettingKey::LogInterval, Some(settings.log_interval)),
        (SettingKey::CheckpointInterval, settings.checkpoint_interval),
    ];
    for (interval_key, interval) in intervals {
        let interval_key = key(interval_key);
        if let Some(interval) = interval
            && interval > settings.chunk_size
            && values.sound(&[&interval_key, &chunk_key])
        {
            let why = ", so that a chunk could end without one";
            complain_above(
                values,
                (&interval_key, interval),
                (&chunk_key, settings.chunk_size),
                why,
            );
        }
    }
    if stage.model == ModelKind::LatentActions && settings.batch_size_per_gpu < 2 {
        let batch_key = key(SettingKey::BatchSizePerGpu);
        let fault = Fault::Below {
            key: batch_key.clone(),
            found: settings.batch_size_per_gpu.to_string(),
            least: "2 windows".to_owned(),
            why: "the variance penalty compares the windows of a batch",
        };
        values.complain(&[&batch_key], fault);
    }
}

fn check_bounds(values: &mut Values, stage: &StagePolicy) {
    let (settings, bounds) = (&stage.settings, &stage.bounds);
    let [rate_min, least, most, rate, accumulation] = [
        "bounds.learning_rate_min",
        "bounds.accumulation_min",
        "bounds.accumulation_max",
        "learning_rate",
        "gradient_accumulation_steps",
    ]
    .map(|key| join(stage.name.as_str(), key));
    if bounds.learning_rate_min.get() > settings.learning_rate.get()
        && values.sound(&[&rate_min, &rate])
    {
        let (bound, rate_now) = (bounds.learning_rate_min, settings.learning_rate);
        complain_above(values, (&rate_min, bound), (&rate, rate_now), "");
    }
    let now = settings.gradient_accumulation_steps;
    let (low, high) = (bounds.accumulation_min, bounds.accumulation_max);
    if low > now && values.sound(&[&least, &accumulation]) {
        complain_above(values, (&least, low), (&accumulation, now), "");
    }
    if now > high && values.sound(&[&most, &accumulation]) {
        complain_above(values, (&accumulation, now), (&most, high), "");
    }
}

fn check_ladder(values: &mut Values, stage: &StagePolicy) {
    if stage.ladder.contains(&Rung::DeferFewerActions) && stage.model != ModelKind::LatentActions {
        let ladder = join(stage.name.as_str(), "ladder");
        let fault = Fault::Rung {
            key: ladder.clone(),
            rung: "defer_fewer_actions".to_owned(),
            why: "only a latent_actions stage makes actions".to_owned(),
        };
        values.complain(&[&ladder], fault);
    }
}

/// Notes that the first is above the second.
fn complain_above<T: std::fmt::Display>(
    values: &mut Values,
    (key, found): (&str, T),
    (limit_key, limit): (&str, T),
    why: &'static str,
) {
    let fault = Fault::Above {
        key: key.to_owned(),
        found: found.to_string(),
        limit_key: limit_key.to_owned(),
        limit: limit.to_string(),
        why,
    };
    values.complain(&[key, limit_key], fault);
}

fn check_divisible(values: &mut Values, (key, found): (&str, u32), (by_key, by): (&str, u32)) {
    if values.sound(&[key, by_key]) && !found.is_multiple_of(by) {
        let fault = Fault::NotDivisible {
            key: key.to_owned(),
            found: u64::from(found),
            by_key: by_key.to_owned(),
            by: u64::from(by),
        };
        values.complain(&[key, by_key], fault);
    }
}
