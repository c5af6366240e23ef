//! Checked values to a config: defaults filled in, and what must fit together.
//!
//! Defaults come from the preset that the config names, TinyWorlds' sizes from
//! here. A default that depends on another value says so. Checks between values
//! are left out where one of them was refused already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::events::{
    Bounds, ModelKind, Policy, RetryFrom, Rung, SettingKey, Settings, StageName, StagePolicy,
};
use crate::machine::presets::{self, Preset};

use super::error::{Fault, Place, Problem};
use super::keys::{self, CODEBOOK_MOST};
use super::tree::Node;
use super::values::{STANDARD_STAGES, Values, join};
use super::{Config, DataConfig, Device, Loaded, Network, Shape, gate, needs};

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
    let mut values = Values::read(tree);
    let preset = values
        .text("preset")
        .and_then(Preset::from_name)
        .unwrap_or(Preset::Seed);
    let shape = shape(&mut values);
    let data = data(&mut values, base);
    let names = match values.stages() {
        [] => STANDARD_STAGES.map(str::to_owned).to_vec(),
        names => names.to_vec(),
    };
    let mut networks = BTreeMap::new();
    let mut stages: Vec<StagePolicy> = Vec::new();
    for name in &names {
        let Some(model) = model(&mut values, name) else {
            continue;
        };
        if values.sound(&["stages"]) {
            check_order(&mut values, name, model, &stages);
        }
        networks.insert(StageName::new(name), network(&mut values, name, model));
        stages.push(stage(&mut values, name, preset, model, &shape));
    }
    let config = Config {
        seed: values.count("seed", 0),
        device: values
            .text("device")
            .and_then(Device::from_name)
            .unwrap_or(Device::Auto),
        threads: values
            .count_or_auto("threads")
            .and_then(|n| u32::try_from(n).ok()),
        nproc_per_node: values.count32("nproc_per_node", 1),
        use_ddp: values.flag("distributed.use_ddp", true),
        rank_timeout_seconds: values.count32("distributed.timeout_seconds", 600),
        allow_single_gpu_fallback: values.flag("allow_single_gpu_fallback", false),
        data,
        shape,
        networks,
        policy: policy(&values, preset, stages),
    };
    let given = values.given();
    let mut problems = values.problems;
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    (Loaded { config, given }, problems)
}

fn policy(values: &Values, preset: Preset, stages: Vec<StagePolicy>) -> Policy {
    let default = presets::policy(preset);
    Policy {
        preset: default.preset,
        max_retries: values.count32("policy.max_retries", default.max_retries),
        max_chunk_failures: values.count32("policy.max_chunk_failures", default.max_chunk_failures),
        max_interruptions: values.count32("policy.max_interruptions", default.max_interruptions),
        reset_on_pass: values.flag("policy.reset_on_pass", default.reset_on_pass),
        retry_from: match values.text("policy.retry_from") {
            Some("last_passed") => RetryFrom::LastPassed,
            Some("best") => RetryFrom::Best,
            Some("newest") => RetryFrom::Newest,
            _ => default.retry_from,
        },
        latest_window: values.count32("policy.latest_window", default.latest_window),
        keep_last: values.count32("policy.keep_last", default.keep_last),
        stages,
    }
}

fn shape(values: &mut Values) -> Shape {
    let shape = Shape {
        frame_size: values.count32("frame_size", 64),
        patch_size: values.count32("patch_size", 4),
        context_length: values.count32("context_length", 4),
        latent_dim: values.count32("latent_dim", 5),
        num_bins: values.count32("num_bins", 4),
        n_actions: values.count32("n_actions", 4),
    };
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
    shape
}

fn data(values: &mut Values, base: &Path) -> DataConfig {
    let key = "data.path";
    let frame_stride = values.count32("data.frame_stride", 4);
    let Some(texts) = values.texts(key).map(<[String]>::to_vec) else {
        if values.sound(&["data", key]) {
            let fault = Fault::Missing {
                key: key.to_owned(),
                meaning: keys::find(key).map_or("", |key| key.meaning).to_owned(),
            };
            values.complain(&["data"], fault);
        }
        return DataConfig {
            path: Vec::new(),
            frame_stride,
        };
    };
    let base = match values.place(key) {
        // Without a working directory a path stays as it was typed.
        Some(Place::CommandLine { .. }) => std::path::absolute(".").unwrap_or_default(),
        Some(Place::Whole { .. } | Place::Line { .. } | Place::Log) | None => base.to_path_buf(),
    };
    if base.to_str().is_none() {
        let fault = Fault::PathNotUnicode {
            key: key.to_owned(),
        };
        values.complain(&[key], fault);
    }
    DataConfig {
        path: texts.iter().map(|text| tidy(&base.join(text))).collect(),
        frame_stride,
    }
}

/// A path without `.`; a `..` stays, since the folder before it may be a link.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

fn model(values: &mut Values, stage: &str) -> Option<ModelKind> {
    let key = join(stage, "model");
    let name = values.text(&key).unwrap_or(stage).to_owned();
    let model = presets::MODELS
        .into_iter()
        .find(|model| presets::model_name(*model) == name);
    if model.is_none() && values.sound(&[&key, "stages"]) {
        let fault = Fault::Missing {
            key: key.clone(),
            meaning: "a stage of another name must say which model it trains".to_owned(),
        };
        values.complain(&[&key, "stages"], fault);
    }
    model
}

fn check_order(values: &mut Values, name: &str, model: ModelKind, before: &[StagePolicy]) {
    for need in needs(model) {
        if before.iter().all(|stage| stage.model != *need) {
            let fault = Fault::StageOrder {
                stage: name.to_owned(),
                model: presets::model_name(model),
                needs: presets::model_name(*need),
            };
            values.complain(&["stages"], fault);
        }
    }
}

/// TinyWorlds' sizes.
fn network(values: &mut Values, stage: &str, model: ModelKind) -> Network {
    let [embed_dim, num_heads, hidden_dim, num_blocks] =
        ["embed_dim", "num_heads", "hidden_dim", "num_blocks"].map(|key| join(stage, key));
    let network = Network {
        embed_dim: values.count32(&embed_dim, 32),
        num_heads: values.count32(&num_heads, 8),
        hidden_dim: values.count32(&hidden_dim, 128),
        num_blocks: values.count32(
            &num_blocks,
            match model {
                ModelKind::VideoTokenizer => 4,
                ModelKind::LatentActions => 2,
                ModelKind::Dynamics => 8,
            },
        ),
    };
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
    network
}

fn stage(
    values: &mut Values,
    name: &str,
    preset: Preset,
    model: ModelKind,
    shape: &Shape,
) -> StagePolicy {
    let settings = settings(values, name, model, shape);
    let criteria = gate::criteria(values, name, preset, model);
    let [chunk, target, ladder] = ["chunk_size", "n_updates", "ladder"].map(|key| join(name, key));
    if values.sound(&[&chunk, &target]) {
        gate::check_chunks(
            values,
            name,
            &criteria,
            settings.chunk_size,
            settings.n_updates,
        );
    }
    if values.sound(&["n_actions"]) {
        gate::check_reachable(values, name, &criteria, shape.n_actions);
    }
    let bounds = bounds(values, name, &settings);
    let rungs = match values.ladder(&ladder) {
        Some(rungs) => rungs.to_vec(),
        None => presets::ladder(model),
    };
    if rungs.contains(&Rung::DeferFewerActions) && model != ModelKind::LatentActions {
        let fault = Fault::Rung {
            key: ladder.clone(),
            rung: "defer_fewer_actions".to_owned(),
            why: "only a latent_actions stage makes actions".to_owned(),
        };
        values.complain(&[&ladder], fault);
    }
    StagePolicy {
        name: StageName::new(name),
        model,
        settings,
        criteria,
        ladder: rungs,
        bounds,
    }
}

fn settings(values: &mut Values, stage: &str, model: ModelKind, shape: &Shape) -> Settings {
    let default = presets::settings(model);
    let key = |key: SettingKey| join(stage, key.as_str());
    let [chunk_key, log_key, batch_key, checkpoint_key] = [
        SettingKey::ChunkSize,
        SettingKey::LogInterval,
        SettingKey::BatchSizePerGpu,
        SettingKey::CheckpointInterval,
    ]
    .map(key);
    let chunk_size = values.count(&chunk_key, default.chunk_size);
    let n_updates = values.count(&key(SettingKey::NUpdates), default.n_updates);
    let settings = Settings {
        learning_rate: values.real(&key(SettingKey::LearningRate), default.learning_rate),
        n_updates,
        schedule_updates: n_updates,
        batch_size_per_gpu: values.count32(&batch_key, default.batch_size_per_gpu),
        gradient_accumulation_steps: values.count32(
            &key(SettingKey::GradientAccumulationSteps),
            default.gradient_accumulation_steps,
        ),
        log_interval: values.count(&log_key, default.log_interval.min((chunk_size / 2).max(1))),
        chunk_size,
        checkpoint_interval: values.count_or_auto(&checkpoint_key),
        n_actions: (model == ModelKind::LatentActions).then_some(shape.n_actions),
    };
    let intervals = [
        (&log_key, Some(settings.log_interval)),
        (&checkpoint_key, settings.checkpoint_interval),
    ];
    for (interval_key, interval) in intervals {
        if let Some(interval) = interval
            && interval > chunk_size
            && values.sound(&[interval_key, &chunk_key])
        {
            let why = ", so that a chunk could end without one";
            complain_above(
                values,
                (interval_key, interval),
                (&chunk_key, chunk_size),
                why,
            );
        }
    }
    if model == ModelKind::LatentActions && settings.batch_size_per_gpu < 2 {
        let fault = Fault::Below {
            key: batch_key.clone(),
            found: settings.batch_size_per_gpu.to_string(),
            least: "2 windows".to_owned(),
            why: "the variance penalty compares the windows of a batch",
        };
        values.complain(&[&batch_key], fault);
    }
    settings
}

fn bounds(values: &mut Values, stage: &str, settings: &Settings) -> Bounds {
    let default = presets::bounds();
    let table = join(stage, "bounds");
    let [rate_min, least, most, log_share, chunk_share] = [
        "learning_rate_min",
        "accumulation_min",
        "accumulation_max",
        "log_interval_min_share",
        "chunk_size_min_share",
    ]
    .map(|key| join(&table, key));
    let bounds = Bounds {
        learning_rate_min: values.real(&rate_min, default.learning_rate_min),
        accumulation_min: values.count32(&least, default.accumulation_min),
        accumulation_max: values.count32(&most, default.accumulation_max),
        log_interval_min_share: values.real(&log_share, default.log_interval_min_share),
        chunk_size_min_share: values.real(&chunk_share, default.chunk_size_min_share),
    };
    let rate = join(stage, "learning_rate");
    if bounds.learning_rate_min.get() > settings.learning_rate.get()
        && values.sound(&[&rate_min, &rate])
    {
        let (bound, rate_now) = (bounds.learning_rate_min, settings.learning_rate);
        complain_above(values, (&rate_min, bound), (&rate, rate_now), "");
    }
    let accumulation = join(stage, "gradient_accumulation_steps");
    let now = settings.gradient_accumulation_steps;
    let (low, high) = (bounds.accumulation_min, bounds.accumulation_max);
    if low > now && values.sound(&[&least, &accumulation]) {
        complain_above(values, (&least, low), (&accumulation, now), "");
    }
    if now > high && values.sound(&[&most, &accumulation]) {
        complain_above(values, (&accumulation, now), (&most, high), "");
    }
    bounds
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
