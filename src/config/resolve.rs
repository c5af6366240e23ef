//! Turns checked values into a config: fills in defaults and checks values against each other.
//!
//! The rows of the table of keys are set in order, so a default can depend on the keys
//! before it. A check between values is skipped if one of them was already rejected.

use std::path::{Path, PathBuf};

use crate::events::{KnobName, KnobRange, Rung, SettingKey, SettingValue, StageName, StagePolicy};
use crate::presets::{ModelKind, N_ACTIONS, Preset};

use super::error::{Fault, Location, Problem};
use super::row::{StageDraft, StageKind};
use super::schema::{Schema, join};
use super::tree::Node;
use super::types::{Config, Loaded, Shape, TrainerConfig, TrainerKind, upstream_models};
use super::values::Values;
use super::{custom, gate, keys};

/// Most codes of a codebook.
const CODEBOOK_MOST: u64 = 1 << 20;

/// Resolves a tree; relative paths in a file are resolved against `base`.
pub(super) fn resolve(tree: &Node, base: &Path) -> Result<Loaded, Vec<Problem>> {
    let (loaded, problems) = resolve_partial(tree, base);
    if problems.is_empty() {
        Ok(loaded)
    } else {
        Err(problems)
    }
}

/// As [`resolve`], but returns a config even if there are problems: rejected values have
/// their defaults.
pub(super) fn resolve_partial(tree: &Node, base: &Path) -> (Loaded, Vec<Problem>) {
    let schema = Schema::of_tree(tree);
    let mut values = Values::read(tree, &schema);
    let mut config = Config::blank();
    values.fill(&mut config, "", keys::of_run(), &[]);
    check_shape(&mut values, &config.shape);
    make_absolute(&mut values, "data.path", &mut config.data.path, base);
    resolve_directory(&mut values, &mut config.trainer, base);
    let preset = Preset::from_name(&config.policy.preset).unwrap_or(Preset::Seed);
    for name in schema.stages() {
        let Some(stage) = stage(&mut values, name, &schema, preset, &config) else {
            continue;
        };
        if stage.kind.built_in().is_some() {
            config.networks.insert(StageName::new(name), stage.network);
        }
        config.policy.stages.push(stage.policy);
    }
    check_trainer(&mut values, &config);
    let given = values.given();
    let mut problems = values.problems;
    problems.sort_by(|a, b| a.location.cmp(&b.location));
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
    if values.none_rejected(&keys) && codes.is_none_or(|codes| codes > CODEBOOK_MOST) {
        let fault = Fault::CodebookTooLarge {
            num_bins: u64::from(shape.num_bins),
            latent_dim: u64::from(shape.latent_dim),
            most: CODEBOOK_MOST,
        };
        values.report(&keys, fault);
    }
    if !shape.n_actions.is_power_of_two() {
        let fault = Fault::NotAPowerOfTwo {
            key: "n_actions".to_owned(),
            found: u64::from(shape.n_actions),
        };
        values.report(&["n_actions"], fault);
    }
}

/// The default is the config's folder, if there is one.
fn resolve_directory(values: &mut Values, trainer: &mut TrainerConfig, base: &Path) {
    let key = "trainer.directory";
    let directory = std::slice::from_mut(&mut trainer.directory);
    if values.has(key) {
        make_absolute(values, key, directory, base);
    } else if base.to_str().is_some_and(|base| !base.is_empty()) {
        trainer.directory = without_dots(base);
    } else if base.to_str().is_none() && trainer.kind == TrainerKind::Command {
        let fault = Fault::PathNotUnicode {
            key: key.to_owned(),
        };
        values.report(&["trainer.kind"], fault);
    }
}

fn check_trainer(values: &mut Values, config: &Config) {
    let (kind, command, data) = ("trainer.kind", "trainer.command", "data.path");
    let missing = |key: &str, meaning: &str| Fault::Missing {
        key: key.to_owned(),
        meaning: meaning.to_owned(),
    };
    let has_command = !config.trainer.command.is_empty();
    match config.trainer.kind {
        TrainerKind::Command if !has_command && values.none_rejected(&["trainer", command]) => {
            values.report(&[kind], missing(command, keys::COMMAND));
        }
        TrainerKind::BuiltIn
            if has_command && !values.has(kind) && values.none_rejected(&[kind]) =>
        {
            let meaning = "it must be \"command\" if `trainer.command` is set";
            values.report(&[command], missing(kind, meaning));
        }
        TrainerKind::BuiltIn | TrainerKind::Command => {}
    }
    let is_missing = config.data.path.is_empty() && config.needs_frames();
    if is_missing
        && config.trainer.kind == TrainerKind::Command
        && values.none_rejected(&["data", data])
    {
        values.report(&["stages"], missing(data, keys::FRAMES));
    }
}

fn make_absolute(values: &mut Values, key: &str, paths: &mut [PathBuf], base: &Path) {
    let base = match values.location(key) {
        None => return,
        // Without a working directory the path stays relative.
        Some(Location::Override { .. }) => std::path::absolute(".").unwrap_or_default(),
        Some(Location::Whole { .. } | Location::Line { .. } | Location::Log) => base.to_path_buf(),
    };
    if base.to_str().is_none() {
        let fault = Fault::PathNotUnicode {
            key: key.to_owned(),
        };
        values.report(&[key], fault);
    }
    for path in paths {
        *path = without_dots(&base.join(&path));
    }
}

/// A path without `.`. A `..` stays, since the folder before it may be a link.
fn without_dots(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Reads one stage. `None`: its model is unknown.
fn stage(
    values: &mut Values,
    name: &str,
    schema: &Schema,
    preset: Preset,
    config: &Config,
) -> Option<StageDraft> {
    // A placeholder: the stage's first row sets the model, or reports that it is missing.
    let unknown = StageKind::BuiltIn(ModelKind::VideoTokenizer);
    let kind = schema.kind(name).unwrap_or(&unknown);
    let rows = schema.rows(name);
    let mut stage = StageDraft::new(name, preset, kind);
    stage.given = values.given_in(name);
    values.fill(&mut stage, name, rows, &["stages"]);
    if let Some(model) = stage.kind.built_in() {
        if !stage.given.contains("model") {
            ModelKind::from_name(name)?;
        }
        if let Some(n_actions) = stage
            .policy
            .settings
            .knobs
            .get_mut(&KnobName::new(N_ACTIONS))
        {
            *n_actions = Some(SettingValue::Count(u64::from(config.shape.n_actions)));
        }
        if values.none_rejected(&["stages"]) {
            check_order(values, name, model, &config.policy.stages);
        }
        check_network(values, &stage);
    } else {
        check_custom(values, &stage.policy);
    }
    check_intervals(values, &stage.policy);
    gate::check(values, &mut stage, rows);
    let policy = &stage.policy;
    if values.none_rejected(&[&join(name, "chunk_size"), &join(name, "n_updates")]) {
        gate::check_chunks(
            values,
            name,
            &policy.criteria,
            policy.settings.chunk_size,
            policy.settings.n_updates,
        );
    }
    if values.none_rejected(&["n_actions"]) {
        gate::check_reachable(values, name, &policy.criteria, config.shape.n_actions);
    }
    check_bounds(values, policy);
    check_ladder(values, policy);
    Some(stage)
}

/// Checks of a custom stage.
fn check_custom(values: &mut Values, stage: &StagePolicy) {
    let name = stage.name.as_str();
    if ModelKind::of(&stage.model).is_some() {
        let (model, loss) = (join(name, "model"), join(name, custom::LOSS));
        let fault = Fault::NotCustom {
            key: loss.clone(),
            model: stage.model.to_string(),
        };
        values.report(&[&model, &loss], fault);
    }
    for skill in &stage.skills {
        for (key, other, text) in [
            ("skill.held_out", "skill.trivial", &skill.held_out),
            ("skill.trivial", "skill.held_out", &skill.trivial),
        ] {
            let (key, other) = (join(name, key), join(name, other));
            if text.is_empty() && values.none_rejected(&[&key, &other]) {
                let fault = Fault::Missing {
                    key,
                    meaning: format!("a skill also needs it if `{other}` is set"),
                };
                values.report(&[&other], fault);
            }
        }
    }
    for knob in &stage.knobs {
        check_knob(values, stage, &knob.name, knob.range);
    }
}

fn check_knob(values: &mut Values, stage: &StagePolicy, knob: &KnobName, range: KnobRange) {
    let at = |bound: &str| join(stage.name.as_str(), &format!("knobs.{knob}.{bound}"));
    let (value, min, max) = (
        join(stage.name.as_str(), knob.as_str()),
        at("min"),
        at("max"),
    );
    let Some(now) = stage.settings.knob(knob) else {
        return;
    };
    if !values.none_rejected(&[&value, &min, &max]) || range.contains(now) {
        return;
    }
    let (least, most) = match range {
        KnobRange::Integer { min, max } => (min.to_string(), max.to_string()),
        KnobRange::Number { min, max } => (min.to_string(), max.to_string()),
    };
    let found = match now {
        SettingValue::Count(count) => count.to_string(),
        SettingValue::Real(real) => real.to_string(),
    };
    let fault = Fault::OutOfRange {
        key: value.clone(),
        found,
        range: format!("{least} to {most}, set by `{min}` and `{max}`"),
    };
    values.report(&[&value, &min, &max], fault);
}

fn check_order(values: &mut Values, name: &str, model: ModelKind, before: &[StagePolicy]) {
    for needed in upstream_models(model) {
        if before
            .iter()
            .all(|stage| ModelKind::of(&stage.model) != Some(*needed))
        {
            let fault = Fault::StageOrder {
                stage: name.to_owned(),
                model: model.as_str(),
                needs: needed.as_str(),
            };
            values.report(&["stages"], fault);
        }
    }
}

fn check_network(values: &mut Values, stage: &StageDraft) {
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
        values.report(&[&embed_dim], fault);
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
            && values.none_rejected(&[&interval_key, &chunk_key])
        {
            let why = ", so a chunk could end without one";
            report_above(
                values,
                (&interval_key, interval),
                (&chunk_key, settings.chunk_size),
                why,
            );
        }
    }
    let batch_key = key(SettingKey::BatchSizePerGpu);
    if settings.batch_size_per_gpu < stage.batch_size_min && values.none_rejected(&[&batch_key]) {
        let why = match ModelKind::of(&stage.model) {
            Some(_) => "the variance penalty compares the windows of a batch",
            None => "the stage cannot train with fewer",
        };
        let fault = Fault::Below {
            key: batch_key.clone(),
            found: settings.batch_size_per_gpu.to_string(),
            least: format!("{} windows", stage.batch_size_min),
            why,
        };
        values.report(&[&batch_key], fault);
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
        && values.none_rejected(&[&rate_min, &rate])
    {
        let (bound, rate_now) = (bounds.learning_rate_min, settings.learning_rate);
        report_above(values, (&rate_min, bound), (&rate, rate_now), "");
    }
    let now = settings.gradient_accumulation_steps;
    let (low, high) = (bounds.accumulation_min, bounds.accumulation_max);
    if low > now && values.none_rejected(&[&least, &accumulation]) {
        report_above(values, (&least, low), (&accumulation, now), "");
    }
    if now > high && values.none_rejected(&[&most, &accumulation]) {
        report_above(values, (&accumulation, now), (&most, high), "");
    }
}

fn check_ladder(values: &mut Values, stage: &StagePolicy) {
    let defers = |rung: &Rung| match rung {
        Rung::DeferPowerOfTwo {
            key: SettingKey::Knob(name),
            ..
        } => stage.knob(name).is_none(),
        Rung::DeferPowerOfTwo { .. }
        | Rung::Multiply { .. }
        | Rung::Add { .. }
        | Rung::ExtendTarget => false,
    };
    if stage.ladder.iter().any(defers) {
        let ladder = join(stage.name.as_str(), "ladder");
        let fault = Fault::Rung {
            key: ladder.clone(),
            rung: "defer_fewer_actions".to_owned(),
            why: "only a latent_actions stage has actions".to_owned(),
        };
        values.report(&[&ladder], fault);
    }
}

/// Reports that the first value is greater than the second.
fn report_above<T: std::fmt::Display>(
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
    values.report(&[key, limit_key], fault);
}

fn check_divisible(values: &mut Values, (key, found): (&str, u32), (by_key, by): (&str, u32)) {
    if values.none_rejected(&[key, by_key]) && !found.is_multiple_of(by) {
        let fault = Fault::NotDivisible {
            key: key.to_owned(),
            found: u64::from(found),
            by_key: by_key.to_owned(),
            by: u64::from(by),
        };
        values.report(&[key, by_key], fault);
    }
}
