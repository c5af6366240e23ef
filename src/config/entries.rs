//! A config back to its keys: flat, as JSON, and as TOML values.
//!
//! The inverse of [`super::resolve`]: reading the keys again gives the same config.

use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::events::{Limit, RetryFrom, Scalar};
use crate::machine::presets;

use super::values::{Given, join};
use super::{Config, gate, keys, ladder};

/// Every key of the config with its value, in the order of the table of keys.
pub(super) fn entries(config: &Config) -> Vec<(String, Given)> {
    let mut entries = general(config);
    for stage in &config.policy.stages {
        let mut of_stage = stage_entries(config, stage);
        of_stage.sort_by_key(|(key, _)| {
            let key = keys::inside(key, stage.name.as_str()).unwrap_or(key);
            let pattern = join("STAGE", key);
            keys::KEYS.iter().position(|key| key.path == pattern)
        });
        entries.extend(of_stage);
    }
    entries
}

fn general(config: &Config) -> Vec<(String, Given)> {
    let count = |n: u32| Given::Count(u64::from(n));
    let text = |text: &str| Given::Text(text.to_owned());
    let Config {
        seed,
        device,
        threads,
        nproc_per_node,
        use_ddp,
        rank_timeout_seconds,
        allow_single_gpu_fallback,
        data,
        shape,
        networks: _,
        policy,
    } = config;
    let stages = policy.stages.iter().map(|s| s.name.to_string()).collect();
    // Always Unicode: they were read from text.
    let paths = data.path.iter().map(|path| shown(path)).collect();
    let retry_from = match policy.retry_from {
        RetryFrom::Newest => "newest",
        RetryFrom::LastPassed => "last_passed",
        RetryFrom::Best => "best",
    };
    [
        ("preset", text(&policy.preset)),
        ("stages", Given::Texts(stages)),
        ("seed", Given::Count(*seed)),
        ("device", text(&device.to_string())),
        ("threads", threads.map_or(Given::Auto, count)),
        ("nproc_per_node", count(*nproc_per_node)),
        (
            "allow_single_gpu_fallback",
            Given::Flag(*allow_single_gpu_fallback),
        ),
        ("frame_size", count(shape.frame_size)),
        ("patch_size", count(shape.patch_size)),
        ("context_length", count(shape.context_length)),
        ("latent_dim", count(shape.latent_dim)),
        ("num_bins", count(shape.num_bins)),
        ("n_actions", count(shape.n_actions)),
        ("distributed.use_ddp", Given::Flag(*use_ddp)),
        ("distributed.timeout_seconds", count(*rank_timeout_seconds)),
        ("data.path", Given::Texts(paths)),
        ("data.frame_stride", count(data.frame_stride)),
        ("policy.max_retries", count(policy.max_retries)),
        (
            "policy.max_chunk_failures",
            count(policy.max_chunk_failures),
        ),
        ("policy.max_interruptions", count(policy.max_interruptions)),
        ("policy.reset_on_pass", Given::Flag(policy.reset_on_pass)),
        ("policy.retry_from", text(retry_from)),
        ("policy.latest_window", count(policy.latest_window)),
        ("policy.keep_last", count(policy.keep_last)),
    ]
    .map(|(key, given)| (key.to_owned(), given))
    .to_vec()
}

fn stage_entries(config: &Config, stage: &crate::events::StagePolicy) -> Vec<(String, Given)> {
    let name = stage.name.as_str();
    let count = |n: u32| Given::Count(u64::from(n));
    let settings = &stage.settings;
    let bounds = &stage.bounds;
    let mut flat = vec![
        (
            "model",
            Given::Text(presets::model_name(stage.model).to_owned()),
        ),
        ("n_updates", Given::Count(settings.n_updates)),
        ("chunk_size", Given::Count(settings.chunk_size)),
        ("learning_rate", Given::Real(settings.learning_rate)),
        ("batch_size_per_gpu", count(settings.batch_size_per_gpu)),
        (
            "gradient_accumulation_steps",
            count(settings.gradient_accumulation_steps),
        ),
        ("log_interval", Given::Count(settings.log_interval)),
        (
            "checkpoint_interval",
            settings
                .checkpoint_interval
                .map_or(Given::Auto, Given::Count),
        ),
        ("ladder", Given::Ladder(stage.ladder.clone())),
        (
            "bounds.learning_rate_min",
            Given::Real(bounds.learning_rate_min),
        ),
        ("bounds.accumulation_min", count(bounds.accumulation_min)),
        ("bounds.accumulation_max", count(bounds.accumulation_max)),
        (
            "bounds.log_interval_min_share",
            Given::Real(bounds.log_interval_min_share),
        ),
        (
            "bounds.chunk_size_min_share",
            Given::Real(bounds.chunk_size_min_share),
        ),
    ];
    if let Some(network) = config.networks.get(&stage.name) {
        flat.extend([
            ("embed_dim", count(network.embed_dim)),
            ("num_heads", count(network.num_heads)),
            ("hidden_dim", count(network.hidden_dim)),
            ("num_blocks", count(network.num_blocks)),
        ]);
    }
    let mut entries: Vec<(String, Given)> = flat
        .into_iter()
        .map(|(key, given)| (join(name, key), given))
        .collect();
    entries.extend(gate::entries(name, &stage.criteria));
    entries
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Nested objects by the dots of the keys.
pub(super) fn to_json(entries: &[(String, Given)]) -> Json {
    let mut root = Map::new();
    for (key, given) in entries {
        put(&mut root, key, json(given));
    }
    Json::Object(root)
}

fn put(table: &mut Map<String, Json>, key: &str, value: Json) {
    let Some((first, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = table
        .entry(first)
        .or_insert_with(|| Json::Object(Map::new()));
    if let Json::Object(inner) = inner {
        put(inner, rest, value);
    }
}

fn json(given: &Given) -> Json {
    match given {
        Given::Count(n) => Json::from(*n),
        Given::Auto => Json::from("auto"),
        Given::Real(x) => Json::from(x.get()),
        Given::Flag(flag) => Json::from(*flag),
        Given::Text(text) => Json::from(text.as_str()),
        Given::Texts(texts) => Json::from(texts.clone()),
        Given::Limit(Limit::Constant(x)) => Json::from(x.get()),
        Given::Limit(Limit::Schedule(rows)) => rows
            .iter()
            .map(|(step, limit)| Json::from(vec![Json::from(*step), Json::from(limit.get())]))
            .collect(),
        Given::Ladder(rungs) => rungs.iter().map(ladder::render).collect(),
    }
}

/// The value as TOML writes it, on one line.
pub(super) fn toml_value(given: &Given) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    let real = |x: &Scalar| format!("{:?}", x.get());
    match given {
        Given::Count(n) => n.to_string(),
        Given::Auto => quoted("auto"),
        Given::Real(x) | Given::Limit(Limit::Constant(x)) => real(x),
        Given::Flag(flag) => flag.to_string(),
        Given::Text(text) => quoted(text),
        Given::Texts(texts) => list(texts.iter().map(|text| quoted(text)).collect()),
        Given::Limit(Limit::Schedule(rows)) => list(
            rows.iter()
                .map(|(step, limit)| format!("[{step}, {}]", real(limit)))
                .collect(),
        ),
        Given::Ladder(rungs) => list(
            rungs
                .iter()
                .map(|rung| quoted(&ladder::render(rung)))
                .collect(),
        ),
    }
}
