//! Everything that must be right before a run may begin: config, data, checkpoints
//! given by the user, devices. What comes out is the first event of the log.
//!
//! Nothing here writes a file or needs libtorch.
//!
//! Invariant: an error here leaves no run directory behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use tinygate::checkpoint::{
    self, Acceptance, Accepted, Appraisal, Location, Need, RejectReason, step_name,
};
use tinygate::config::{Config, Override};
use tinygate::data::Frames;
use tinygate::events::{
    CheckpointRef, Event, HeldOutBatches, InitFrom, ModelName, Parent, RunCreated, SettingPatch,
    StageName, StagePolicy, Step,
};
use tinygate::machine::RULES;
use tinygate::presets::ModelKind;
use tinygate::setup;
use tinygate::store::{OpenError, Presence, check_clock, presence};

use super::{overrides, records};
use crate::args::RunArgs;
use crate::exit::EmptyLog;
use crate::output;

/// What a new run begins with.
pub struct Prepared {
    /// All stages of the config, also those that `--stage` leaves out.
    pub config: Config,
    pub frames: Arc<Frames>,
    /// Its ranks are counted when they are together.
    pub created: RunCreated,
}

/// The version of libtorch as the log records it.
#[cfg(feature = "train")]
pub const LIBTORCH_VERSION: &str = tinygate::train::LIBTORCH_VERSION;
#[cfg(not(feature = "train"))]
pub const LIBTORCH_VERSION: &str = "none";

pub fn prepare(args: &RunArgs) -> anyhow::Result<Prepared> {
    check_clock(SystemTime::now())?;
    let (config, parent) = config(args)?;
    let mut policy = config.policy.clone();
    if let Some(stage) = &args.stage {
        policy.stages.retain(|policy| policy.name.as_str() == stage);
        if policy.stages.is_empty() {
            bail!(
                "`--stage {stage}` is no stage of the config\nhint: its stages are {}",
                stage_names(&config)
            );
        }
    }
    if let Some(dir) = &args.dir {
        refuse_a_log(dir)?;
    }
    check_models(&policy.stages)?;
    let init_from = init_from(&config, &policy.stages, args)?;
    for init in &init_from {
        check_given(&config, &policy.stages, init, args.allow_other_settings)?;
    }
    for stage in &policy.stages {
        check_upstream(&config, &policy.stages, &stage.name, &init_from)?;
    }
    let frames = setup::frames(&config)?;
    let windows = setup::windows(&config, Arc::clone(&frames))?;
    let trivial_predictors = setup::trivial_predictors(&windows)?;
    setup::check_change(&policy.stages, &windows, &trivial_predictors)?;
    let created = RunCreated {
        run: run_name(args.dir.as_deref())?,
        tinygate_version: env!("CARGO_PKG_VERSION").to_owned(),
        libtorch_version: LIBTORCH_VERSION.to_owned(),
        rules: RULES,
        seed: config.seed,
        world_size: 1,
        config: config.to_json(),
        policy,
        dataset: setup::dataset(&config, &windows),
        trivial_predictors,
        parent,
        init_from,
        held_out_batches: HeldOutBatches::Stage,
    };
    Ok(Prepared {
        config,
        frames,
        created,
    })
}

#[cfg(feature = "train")]
impl Prepared {
    /// What is to be known of the data once nothing refuses the run any more.
    pub fn warnings(&self) -> Vec<String> {
        output::dataset::warnings(
            &self.created.dataset,
            tinygate::data::still::brightest(&self.frames),
        )
    }
}

/// The config of the command line, and the run it was taken from.
pub fn config(args: &RunArgs) -> anyhow::Result<(Config, Option<Parent>)> {
    let changes = overrides(&args.set)?;
    let given = match &args.config {
        Some(path) => Some(Config::load(path, &changes)?.config),
        None => None,
    };
    match (&args.next_cycle_of, given) {
        (Some(run), given) => next_cycle(run, given.as_ref(), &changes),
        (None, Some(config)) => Ok((config, None)),
        (None, None) => bail!("no config is given\nhint: name a TOML file"),
    }
}

/// A run's first config, with what its ladders deferred and the overrides.
fn next_cycle(
    run: &Path,
    given: Option<&Config>,
    changes: &[Override],
) -> anyhow::Result<(Config, Option<Parent>)> {
    let mut created = None;
    let mut patches: Vec<SettingPatch> = Vec::new();
    for record in records(run)? {
        let event = record?.event;
        if let Event::RunCreated(first) = event {
            created.get_or_insert(first);
        } else if let Event::PatchDeferred(deferred) = event {
            patches.push(deferred.patch);
        }
    }
    let Some(created) = created else {
        let place = run.display().to_string();
        return Err(EmptyLog { place }.into());
    };
    let first = Config::from_json(&created.config)?;
    let mut all = Vec::new();
    for patch in &patches {
        let text = format!("{}={}", patch.key.as_str(), output::setting(patch.to));
        all.push(Override::parse("--set", &text)?);
    }
    all.extend_from_slice(changes);
    let config = first.with(&all)?;
    if let Some(given) = given {
        say_differences(&first, &given.with(changes)?, changes);
    }
    let parent = Parent {
        run: created.run.clone(),
        path: utf8(&absolute(run)?)?,
        patches,
    };
    Ok((config, Some(parent)))
}

/// The other run's config counts; that the one named differs is worth a word.
fn say_differences(first: &Config, given: &Config, changes: &[Override]) {
    let changed: BTreeSet<&str> = changes.iter().map(Override::key).collect();
    let first = first.entries();
    let differs = |(key, value): &(String, String)| {
        !changed.contains(key.as_str()) && !first.contains(&(key.clone(), value.clone()))
    };
    let keys: Vec<String> = given
        .entries()
        .into_iter()
        .filter(differs)
        .map(|(key, _)| format!("`{key}`"))
        .collect();
    if !keys.is_empty() {
        output::say(&format!(
            "warning: the first config of the other run counts; CONFIG differs in {}",
            keys.join(", ")
        ));
    }
}

/// Names each key in which the config given differs from the one that a run to be resumed was
/// created with. Overrides are applied or refused by the resume itself. That the config cannot be
/// read any more stops nothing, since the log has its own.
pub fn say_differences_to_log(args: &RunArgs, dir: &Path) {
    let Some(path) = &args.config else {
        return;
    };
    let overridden = overrides(&args.set).unwrap_or_default();
    let given = match Config::load(path, &overridden) {
        Ok(loaded) => loaded.config,
        Err(error) => {
            let first = error.to_string();
            let first = first.lines().next().unwrap_or_default();
            output::say(&format!(
                "warning: the config is not used, and cannot be read: {first}"
            ));
            return;
        }
    };
    let created = records(dir).ok().and_then(|mut all| all.next()?.ok());
    // A log that cannot be read is an error of the resume.
    let Some(Event::RunCreated(created)) = created.map(|record| record.event) else {
        return;
    };
    let Ok(recorded) = Config::from_json(&created.config) else {
        return;
    };
    let overridden: BTreeSet<&str> = overridden.iter().map(Override::key).collect();
    let (given, recorded) = (given.entries(), recorded.entries());
    let value = |all: &[(String, String)], key: &str| {
        let found = all.iter().find(|(known, _)| known == key);
        found.map_or_else(|| "nothing".to_owned(), |(_, value)| value.clone())
    };
    let keys: BTreeSet<&String> = given.iter().chain(&recorded).map(|(key, _)| key).collect();
    for key in keys {
        let (asked, used) = (value(&given, key), value(&recorded, key));
        if asked != used && !overridden.contains(key.as_str()) {
            output::say(&format!(
                "warning: `{key}` is {asked} in the config given; the run was created with {used}, which counts \
                 (`tinygate resume {} --set` changes what may change)",
                dir.display()
            ));
        }
    }
}

/// Whether there is a run in a directory. What was killed before its first event is none.
pub fn has_log(dir: &Path) -> bool {
    // a log that cannot be looked at is one; opening it says why
    presence(dir).map_or(true, |found| found == Presence::Log)
}

/// `run` begins a log and never continues one.
fn refuse_a_log(dir: &Path) -> anyhow::Result<()> {
    if has_log(dir) {
        let place = format!("cannot start a run in `{}`", dir.display());
        return Err(anyhow::Error::from(OpenError::Exists).context(place));
    }
    if dir.exists() && !dir.is_dir() {
        bail!("`{}` is a file\nhint: name a directory", dir.display());
    }
    Ok(())
}

fn run_name(dir: Option<&Path>) -> anyhow::Result<String> {
    let Some(dir) = dir else {
        return Ok("dry run".to_owned());
    };
    let dir = absolute(dir)?;
    let name = dir
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Ok(name.unwrap_or_else(|| "run".to_owned()))
}

/// Checkpoints given by the user, each judged like one of the run's own.
fn init_from(
    config: &Config,
    stages: &[StagePolicy],
    args: &RunArgs,
) -> anyhow::Result<Vec<InitFrom>> {
    let mut given: Vec<InitFrom> = Vec::new();
    for text in &args.init_from {
        let init = one_init(config, stages, text, args.fresh_optimizer)?;
        if given.iter().any(|known| known.stage == init.stage) {
            bail!(
                "`--init-from` names two checkpoints for `{}`\nhint: give one",
                init.stage
            );
        }
        given.push(init);
    }
    if args.fresh_optimizer && !given.iter().any(|init| init.fresh_optimizer) {
        bail!(
            "`--fresh-optimizer` has no checkpoint to apply to: no stage that is trained starts from one\n\
             hint: leave it out; a stage that is only built upon needs no moments"
        );
    }
    Ok(given)
}

fn one_init(
    config: &Config,
    stages: &[StagePolicy],
    text: &str,
    fresh: bool,
) -> anyhow::Result<InitFrom> {
    let named = text.split_once('=');
    let is_stage = |name: &str| config.stage(&StageName::new(name)).is_some();
    let (stage, path) = match named {
        Some((stage, path)) if is_stage(stage) => (Some(stage.to_owned()), PathBuf::from(path)),
        Some((stage, _)) if !Path::new(text).exists() => bail!(
            "`--init-from {text}`: `{stage}` is no stage of the config\nhint: its stages are {}",
            stage_names(config)
        ),
        Some(_) | None => (None, PathBuf::from(text)),
    };
    // A stage's `best` is a link; the checkpoint it leads to carries the names.
    let path = absolute_checkpoint(&path).with_context(|| {
        let place = path.display();
        format!(
            "`--init-from`: cannot look into `{place}`\nhint: name a checkpoint's directory, or a model in one file"
        )
    })?;
    // A folder with one file in it stands for the file.
    let path = match Location::of(&path) {
        Ok(location) => location.path().to_owned(),
        Err(error) => bail!("`--init-from`: `{}`: {error}", path.display()),
    };
    let Some(stage) = stage.or_else(|| stage_of(config, &path)) else {
        bail!(
            "`--init-from {text}` does not say for which stage\nhint: write STAGE=CHECKPOINT; the stages are {}",
            stage_names(config)
        );
    };
    let stage = StageName::new(stage);
    let trained = stages.iter().any(|policy| policy.name == stage);
    let fresh_optimizer = fresh && trained;
    let accepted = given(&path, &stage, trained && !fresh)?;
    if accepted.rounded {
        output::say(&format!(
            "note: the checkpoint `{}` has weights of float64; they are rounded to float32",
            path.display()
        ));
    }
    let step = match accepted.step {
        Some(step) => step,
        // Nothing depends on the count of a checkpoint that is only built upon.
        None if !trained => 0,
        None if fresh_optimizer => {
            output::say(&format!(
                "note: the checkpoint `{}` does not say how many updates it has done; `{stage}` counts from 0",
                path.display()
            ));
            0
        }
        None => bail!(
            "`--init-from`: the checkpoint `{}` does not say how many updates it has done\n\
             hint: name it `{stage}_step_N`, N the index of its last update",
            path.display()
        ),
    };
    Ok(InitFrom {
        stage,
        checkpoint: CheckpointRef {
            path: utf8(&path)?,
            step: Step::new(step),
        },
        files: accepted.files.into_iter().map(Into::into).collect(),
        fresh_optimizer,
    })
}

/// The absolute path of a checkpoint. A link to a directory is followed, but not one to a
/// file: in a cache of downloads the name is the link's, and the file's is a hash.
fn absolute_checkpoint(path: &Path) -> std::io::Result<PathBuf> {
    if !fs::metadata(path)?.is_file() {
        return fs::canonicalize(path);
    }
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        (_, _) => Ok(path),
    }
}

/// The stage that a checkpoint's name says, with or without a word before it, as in
/// `sonic_dynamics_step_2`.
fn stage_of(config: &Config, path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let named = step_name(name)?.stage;
    let stages = config.policy.stages.iter();
    let ends = |stage: &&str| {
        let before = named.strip_suffix(stage);
        before.is_some_and(|before| before.is_empty() || before.ends_with('_'))
    };
    let fitting = stages.map(|stage| stage.name.as_str()).filter(ends);
    fitting.max_by_key(|stage| stage.len()).map(str::to_owned)
}

/// Judges a checkpoint that a stage starts from, or only builds upon.
fn given(path: &Path, stage: &StageName, with_moments: bool) -> anyhow::Result<Accepted> {
    let place = path.display();
    match checkpoint::appraise(path, None) {
        Appraisal::Resume(accepted) if with_moments => Ok(accepted),
        Appraisal::WeightsOnly(_, reason) if with_moments => bail!(
            "`--init-from`: `{stage}` cannot resume from the checkpoint `{place}`: {reason}\n\
             hint: `--fresh-optimizer` takes its weights, which are sound, with moments that start at zero"
        ),
        // Only the model's file is recorded: no other is needed.
        Appraisal::Resume(_) | Appraisal::WeightsOnly(..) => {
            match checkpoint::accept_for(Need::Weights, path, None) {
                Acceptance::Accepted(accepted) => Ok(accepted),
                Acceptance::Rejected { reason } => bail!(refused(path, &reason)),
            }
        }
        Appraisal::Nothing(reason) => bail!(refused(path, &reason)),
    }
}

fn refused(path: &Path, reason: &RejectReason) -> String {
    let hint = output::hint(reason);
    let hint = hint.unwrap_or_else(|| "`tinygate checkpoint verify` looks into others".to_owned());
    format!(
        "`--init-from`: the checkpoint `{}` is refused: {reason}\nhint: {hint}",
        path.display()
    )
}

/// The trainer of this program knows TinyWorlds' models. A stage of the user's own needs another.
fn check_models(stages: &[StagePolicy]) -> anyhow::Result<()> {
    let unknown = |stage: &&StagePolicy| ModelKind::of(&stage.model).is_none();
    let Some(stage) = stages.iter().find(unknown) else {
        return Ok(());
    };
    let known = ModelKind::ALL.map(|model| format!("`{}`", model.as_str()));
    bail!(
        "`{}` trains `{}`, which the built-in trainer does not know; it trains {}\n\
         hint: train the other stages with `--stage`; `tinygate config show` checks the config of any stage",
        stage.name,
        stage.model,
        known.join(", ")
    )
}

/// A given checkpoint must fit its stage, and leave it something to train.
fn check_given(
    config: &Config,
    stages: &[StagePolicy],
    init: &InitFrom,
    other_settings: bool,
) -> anyhow::Result<()> {
    let (stage, path) = (&init.stage, &init.checkpoint.path);
    let trained = stages.iter().find(|policy| policy.name == *stage);
    if let Some(policy) = trained
        && policy.settings.n_updates <= init.checkpoint.step.get()
    {
        bail!(
            "`--init-from`: the checkpoint `{path}` has done {} updates, and the target of `{stage}` is {}\n\
             hint: set `{stage}.n_updates` above it; to build on the checkpoint alone, train the other stages \
             with `--stage`",
            init.checkpoint.step,
            policy.settings.n_updates
        );
    }
    #[cfg(feature = "train")]
    if let Some(policy) = config.stage(stage)
        && let Some(model) = ModelKind::of(&policy.model)
    {
        let need = match trained {
            Some(_) if !init.fresh_optimizer => Need::Resume,
            Some(_) | None => Need::Weights,
        };
        let wanted = tinygate::train::actor::fit::Wanted {
            need,
            other_settings,
        };
        tinygate::train::actor::fit::check(config, stage, model, Path::new(path), wanted)
            .with_context(|| {
                format!("`--init-from`: the checkpoint `{path}` does not fit `{stage}`")
            })?;
    }
    #[cfg(not(feature = "train"))]
    let _ = (config, other_settings);
    Ok(())
}

/// A stage needs the models it builds on: from stages before it, or given.
fn check_upstream(
    config: &Config,
    stages: &[StagePolicy],
    name: &StageName,
    given: &[InitFrom],
) -> anyhow::Result<()> {
    for needed in config.upstream(name) {
        let same_model = |stage: &StageName| {
            config.stage(stage).map(|policy| &policy.model) == Some(&needed.model)
        };
        let before = stages.iter().take_while(|stage| stage.name != *name);
        let trained = before.into_iter().any(|stage| stage.model == needed.model);
        if !trained && !given.iter().any(|init| same_model(&init.stage)) {
            bail!(
                "`{name}` builds on {}, which this run does not train\n\
                 hint: give its checkpoint with `--init-from {}=CHECKPOINT`",
                model_name(&needed.model),
                needed.name
            );
        }
    }
    Ok(())
}

fn model_name(model: &ModelName) -> &str {
    match ModelKind::of(model) {
        Some(ModelKind::VideoTokenizer) => "a video tokenizer",
        Some(ModelKind::LatentActions) => "latent actions",
        Some(ModelKind::Dynamics) => "dynamics",
        None => model.as_str(),
    }
}

fn stage_names(config: &Config) -> String {
    let names = config.policy.stages.iter();
    let names: Vec<String> = names.map(|stage| format!("`{}`", stage.name)).collect();
    names.join(", ")
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find `{}`", path.display()))
}

fn utf8(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.with_context(|| {
        format!(
            "`{}` is not valid Unicode, and the log keeps paths as text\nhint: rename it",
            path.display()
        )
    })
}
