//! `resume`: go on with a run from its log alone.
//!
//! The config is the log's. What the last process left undecided is recorded first.
//! What a person changes is an event after it, and what may not change is refused.

use std::sync::Arc;

use anyhow::{Context, bail};
use tinygate::config::{Config, Resumed, SettingChange};
use tinygate::controller::{Controller, Fold};
use tinygate::data::{DataError, Frames};
use tinygate::events::{
    Dataset, Event, Record, RunCreated, Seq, SettingChanged, SettingKey, SettingValue, StageName,
};
use tinygate::machine::rules::KNOWN;
use tinygate::machine::{Decision, Machine, RunPhase, RunState, StageState, ladder};
use tinygate::setup::{self, SetupError};
use tinygate::store::{EventLog, ReadError, Store};

use super::lost::{self, Lost};
use super::{now_ms, overrides, user, way_on};
use crate::args::ResumeArgs;
use crate::exit::{EmptyLog, Exit, StoppedRun};
use crate::output::{self, Console, Summary};

/// What a run goes on with.
pub struct Continued {
    /// As the run was created, with this process's device, threads and data paths.
    pub config: Config,
    pub frames: Arc<Frames>,
    /// Recorded before anything else, when this process can be asked to stop.
    pub given_up: Vec<Event>,
    pub changes: Vec<SettingChanged>,
    /// Ranks that train.
    pub ranks: u32,
    /// Whether fewer than asked for are on record already.
    pub fell_back: bool,
}

#[cfg(feature = "train")]
pub fn perform(args: &ResumeArgs) -> anyhow::Result<Exit> {
    use super::{ranks, worker};
    let job = ranks::job()?;
    if let Some(job) = job.as_ref().filter(|job| 0 < job.rank) {
        return worker::join(job, None, &args.set, args.quiet);
    }
    let mut begun = false;
    let outcome = resume(args, &mut begun);
    if let Some(job) = job.filter(|_| !begun) {
        ranks::turn_away(&job, outcome.as_ref().err());
    }
    outcome
}

#[cfg(not(feature = "train"))]
pub fn perform(args: &ResumeArgs) -> anyhow::Result<Exit> {
    resume(args, &mut false)
}

/// What the log says, taken in while it is opened.
struct History {
    fold: Fold,
    summary: Summary,
    /// Settings that people changed, in order.
    changed: Vec<SettingChanged>,
}

impl Default for History {
    fn default() -> History {
        History {
            fold: Fold::new(),
            summary: Summary::empty(),
            changed: Vec::new(),
        }
    }
}

impl History {
    fn add(&mut self, record: Result<Record, ReadError>) {
        if let Ok(record) = &record {
            self.summary.add(record);
            if let Event::SettingChanged(changed) = &record.event {
                self.changed.push(changed.clone());
            }
        }
        self.fold.add(record);
    }
}

/// `begun` is set when the run's ranks are about to be brought together.
fn resume(args: &ResumeArgs, begun: &mut bool) -> anyhow::Result<Exit> {
    let mut history = History::default();
    let (store, repairs) = Store::open_and_read(&args.dir, |record| history.add(record))
        .with_context(|| format!("cannot resume `{}`", args.dir.display()))?;
    if store.head() == Seq::FIRST {
        let place = args.dir.display().to_string();
        return Err(EmptyLog { place }.into());
    }
    let History {
        fold,
        summary,
        changed,
    } = history;
    let mut controller = Controller::resume(fold, &store, &args.dir, now_ms)?;
    controller.record_repairs(repairs.into_iter().map(Into::into))?;
    let Some(created) = controller.state().created.clone() else {
        let place = args.dir.display().to_string();
        return Err(EmptyLog { place }.into());
    };
    // All that may be refused is refused before anything is recorded.
    let lost = Lost::of(&args.dir, controller.state());
    let given_up = given_up(args, lost.as_ref())?;
    let state = after_undecided(controller.state(), &given_up);
    let continued = if state.phase == RunPhase::Finished {
        refuse_changes_of_a_finished_run(args, &created, &state, &changed)?;
        None
    } else {
        let continued = prepare_resume(args, &created, &state, &changed)?;
        lost::refuse_missing_upstream(&args.dir, &state)?;
        if let Some(lost) = lost.filter(|_| !args.give_up) {
            lost.refuse(&args.dir)?;
        }
        Some(continued)
    };
    let mut console = Console::continuing(args.json, args.quiet, summary);
    let Some(mut continued) = continued else {
        controller.catch_up(&mut console)?;
        say_finished(args, console.summary());
        return Ok(Exit::Done);
    };
    continued.given_up = given_up;
    *begun = true;
    go_on(args, controller, continued, console)
}

#[cfg(feature = "train")]
fn go_on(
    args: &ResumeArgs,
    controller: Controller<'_>,
    continued: Continued,
    console: Console,
) -> anyhow::Result<Exit> {
    use super::{drive, ranks};
    let grant = if continued.fell_back {
        ranks::Grant::OnRecord
    } else {
        ranks::Grant::of(&continued.config, args.allow_single_gpu_fallback)
    };
    let gathered = ranks::gather(
        &continued.config,
        &continued.frames,
        continued.ranks,
        ranks::job()?,
        grant,
    )?;
    drive::resume(
        &args.dir, controller, continued, gathered, console, args.quiet,
    )
}

#[cfg(not(feature = "train"))]
fn go_on(_: &ResumeArgs, _: Controller<'_>, _: Continued, _: Console) -> anyhow::Result<Exit> {
    Err(super::no_trainer())
}

fn say_finished(args: &ResumeArgs, summary: &Summary) {
    if args.quiet {
        return;
    }
    output::say("the run has finished; there is nothing to go on with");
    for line in summary.lines() {
        output::say(&line);
    }
}

/// What a person asks of a finished run is refused: nothing would come of it.
fn refuse_changes_of_a_finished_run(
    args: &ResumeArgs,
    created: &RunCreated,
    state: &RunState,
    changed: &[SettingChanged],
) -> anyhow::Result<()> {
    if args.retries.is_some() {
        bail!(
            "`--retries` allows a stopped stage more failures, and this run has finished\n\
             hint: leave it out"
        );
    }
    let original = Config::from_json(&created.config)?;
    let mut resumed = resumed(&original, args, created, state)?;
    if args.requeued {
        leave_out_repeated(&mut resumed, &original, changed);
    }
    refuse_changes_of_passed_stages(args, &resumed, state)?;
    if let Some(change) = resumed.settings.first() {
        bail!(
            "the run has finished, so `{}` cannot change any more\n\
             hint: start another run with it: `tinygate run CONFIG --dir DIR --set {}={}`",
            name_of(change),
            name_of(change),
            output::setting(change.to)
        );
    }
    Ok(())
}

/// A stage that has passed trains no more, so a change of its settings would do nothing.
fn refuse_changes_of_passed_stages(
    args: &ResumeArgs,
    resumed: &Resumed,
    state: &RunState,
) -> anyhow::Result<()> {
    let passed = |change: &&SettingChange| {
        let stage = change
            .stage
            .as_ref()
            .and_then(|name| state.stage_named(name));
        stage.is_some_and(|stage| stage.passed().is_some())
    };
    let Some(change) = resumed.settings.iter().find(passed) else {
        return Ok(());
    };
    let stage = change.stage.as_ref().map_or("", StageName::as_str);
    // It has done all its updates, so a run that trains it further needs more.
    let target = if change.key == SettingKey::NUpdates {
        String::new()
    } else {
        format!(" --set {stage}.n_updates=UPDATES")
    };
    bail!(
        "`{stage}` has passed its last gate, so `{}` cannot change from {} to {}\n\
         hint: train it further in a run of its own: `tinygate run CONFIG --stage {stage} --init-from \
         {stage}={}/{stage}/best --dir DIR --set {}={}{target}`",
        name_of(change),
        output::setting(change.from),
        output::setting(change.to),
        args.dir.display(),
        name_of(change),
        output::setting(change.to)
    )
}

/// The key of a change as a config has it.
fn name_of(change: &SettingChange) -> String {
    let table = change.stage.as_ref().map_or("policy", StageName::as_str);
    format!("{table}.{}", change.key.as_str())
}

/// Where checkpoints are missing, an older one takes their place only if the person says so.
fn given_up(args: &ResumeArgs, lost: Option<&Lost>) -> anyhow::Result<Vec<Event>> {
    if !args.give_up {
        return Ok(Vec::new());
    }
    let Some(lost) = lost else {
        if !args.quiet {
            output::say("no checkpoint is missing, so none is given up");
        }
        return Ok(Vec::new());
    };
    let events = lost.give_up(&user::name(), "its files are missing")?;
    Ok(events.into_iter().map(Event::CheckpointGivenUp).collect())
}

/// The state once these facts and the decisions of the last process that were not recorded are.
fn after_undecided(state: &RunState, facts: &[Event]) -> RunState {
    let mut machine = Machine::at(KNOWN, state.clone());
    for fact in facts {
        machine.apply(fact);
    }
    while let Decision::Record(event) = machine.decide()
        && !matches!(*event, Event::ChunkStarted(_))
    {
        machine.apply(&event);
    }
    machine.into_state()
}

/// The run's config with what the command line changes.
fn resumed(
    original: &Config,
    args: &ResumeArgs,
    created: &RunCreated,
    state: &RunState,
) -> anyhow::Result<Resumed> {
    let in_force = state
        .stages
        .iter()
        .map(|stage| (stage.name(), &stage.settings));
    let max_retries = created.policy.max_retries;
    Ok(original.resume(in_force, max_retries, &overrides(&args.set)?)?)
}

/// Leaves out what the command that began the run set then, or what a person has set since: a
/// requeued job gives it again, and that must not undo what the ladder made of the value in between.
fn leave_out_repeated(resumed: &mut Resumed, original: &Config, before: &[SettingChanged]) {
    resumed.settings.retain(|change| {
        let at_first = match &change.stage {
            Some(stage) => original
                .stage(stage)
                .and_then(|stage| ladder::value_of(&stage.settings, &change.key)),
            None => Some(SettingValue::Count(u64::from(original.policy.max_retries)))
                .filter(|_| change.key == SettingKey::MaxRetries),
        };
        let set_before = before
            .iter()
            .any(|old| (&old.stage, &old.key, old.to) == (&change.stage, &change.key, change.to));
        at_first != Some(change.to) && !set_before
    });
}

fn prepare_resume(
    args: &ResumeArgs,
    created: &RunCreated,
    state: &RunState,
    changed: &[SettingChanged],
) -> anyhow::Result<Continued> {
    let original = Config::from_json(&created.config)?;
    let mut resumed = resumed(&original, args, created, state)?;
    if args.requeued {
        leave_out_repeated(&mut resumed, &original, changed);
    }
    refuse_changes_of_passed_stages(args, &resumed, state)?;
    let changes = changes(args, state, &resumed)?;
    // Which windows are held out follows from the config the run was created with.
    let config = Config {
        policy: original.policy.clone(),
        ..resumed.config
    };
    let frames = setup::frames(&config).map_err(|error| {
        let moved = matches!(error, SetupError::Data(DataError::Missing { .. }));
        let error = anyhow::Error::new(error);
        if moved {
            let dir = args.dir.display();
            error.context(format!(
                "the run's data is not where it was\nhint: say where it is now: `tinygate resume {dir} --set data.path=PATH`"
            ))
        } else {
            error
        }
    })?;
    let hash = frames.hash().to_hex().to_string();
    if hash != created.dataset.blake3 {
        bail!(
            "the data is not the run's: BLAKE3 {hash}, the log says {}{}\n\
             hint: name the run's own data with `--set data.path=...`, or start a new run{}",
            created.dataset.blake3,
            difference(&created.dataset, &frames),
            other_order(&created.dataset, &frames)
        );
    }
    Ok(Continued {
        config,
        frames,
        given_up: Vec::new(),
        changes,
        ranks: ranks(created, state),
        fell_back: state.fallback.is_some(),
    })
}

/// What differs between the data of a run and what its files hold now, as far as the log says.
fn difference(recorded: &Dataset, frames: &Frames) -> String {
    if recorded.frames != frames.count() as u64 {
        return format!(
            "; it has {} frames, the log says {}",
            frames.count(),
            recorded.frames
        );
    }
    // Files may have moved; their lengths and names stay.
    let other = recorded
        .recordings
        .iter()
        .zip(frames.recordings())
        .find(|(was, is)| {
            was.frames != is.frames as u64 || was.first != is.first || was.last != is.last
        });
    other.map_or_else(String::new, |(was, is)| {
        format!(
            "; `{}` has {} frames{}, the log says {}{}",
            is.path,
            is.frames,
            names(is.first.as_deref(), is.last.as_deref()),
            was.frames,
            names(was.first.as_deref(), was.last.as_deref())
        )
    })
}

fn names(first: Option<&str>, last: Option<&str>) -> String {
    match (first, last) {
        (Some(first), Some(last)) => format!(" (`{first}` to `{last}`)"),
        (Some(_) | None, _) => String::new(),
    }
}

/// Builds that did not record what they read took pictures in another order, and neither subfolders nor hidden files
/// as they are taken now.
fn other_order(recorded: &Dataset, frames: &Frames) -> String {
    let folders = frames
        .recordings()
        .iter()
        .any(|recording| recording.first.is_some());
    if folders && recorded.recordings.is_empty() {
        "; an older build may have read the folder in another order (`0.25`, `-1`, upper case), hidden pictures too and \
         no subfolders: copy what it read to a folder of its own, under padded numbers in its order"
            .to_owned()
    } else {
        String::new()
    }
}

/// How many ranks train a run: as many as it was created with, or were left when the fallback was granted.
pub fn ranks(created: &RunCreated, state: &RunState) -> u32 {
    let granted = state.fallback.as_ref();
    granted.map_or(created.world_size, |granted| granted.ranks_available)
}

/// The events of what a person changes; an error when a stopped run would stay stopped.
fn changes(
    args: &ResumeArgs,
    state: &RunState,
    resumed: &Resumed,
) -> anyhow::Result<Vec<SettingChanged>> {
    // Whoever changes a setting is named in the log.
    let who = user::name();
    let changed = |change: &SettingChange| SettingChanged {
        stage: change.stage.clone(),
        key: change.key.clone(),
        from: change.from,
        to: change.to,
        who: who.clone(),
        why: "command line".to_owned(),
    };
    let mut changes: Vec<SettingChanged> = resumed.settings.iter().map(changed).collect();
    let stopped = stopped_stage(state);
    let of_policy = changes
        .iter()
        .find(|change| change.key == SettingKey::MaxRetries);
    let allowed = of_policy.and_then(|change| match change.to {
        SettingValue::Count(count) => u32::try_from(count).ok(),
        SettingValue::Real(_) => None,
    });
    match (args.retries, stopped) {
        (Some(more), Some(stage)) => {
            let from = allowed.unwrap_or(stage.max_retries);
            changes.push(SettingChanged {
                stage: Some(stage.name().clone()),
                key: SettingKey::MaxRetries,
                from: SettingValue::Count(u64::from(from)),
                to: SettingValue::Count(u64::from(from.saturating_add(more))),
                who,
                why: "command line".to_owned(),
            });
        }
        (Some(_), None) => bail!(
            "`--retries` allows a stopped stage more failures, and no stage of this run is stopped\n\
             hint: resume without it"
        ),
        (None, Some(stage)) if allowed.is_none_or(|allowed| allowed <= stage.max_retries) => {
            return Err(stopped_run(args, stage).into());
        }
        (None, Some(_) | None) => {}
    }
    Ok(changes)
}

fn stopped_stage(state: &RunState) -> Option<&StageState> {
    match state.phase {
        RunPhase::Stopped(place) => state.stages.get(place),
        RunPhase::Empty
        | RunPhase::Running(_)
        | RunPhase::Finishing
        | RunPhase::Stopping(_)
        | RunPhase::Finished => None,
    }
}

fn stopped_run(args: &ResumeArgs, stage: &StageState) -> StoppedRun {
    StoppedRun {
        stage: stage.name().to_string(),
        failures: stage.failures,
        dir: args.dir.display().to_string(),
        way_on: way_on(&args.dir, stage),
    }
}
