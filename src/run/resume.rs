//! Resumes a run from its log alone.
//!
//! The config is the log's. What the last process left undecided is recorded first, then what the user
//! changes, as events. What may not change is refused before anything is recorded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{EmptyLog, PassedStageChange, ResumeError};
use super::lost::{LostCheckpoints, refuse_missing_upstream};
use super::notice::{Notice, Tell};
use super::open_run::Run;
use super::process::Group;
use super::rate_change::RateChange;
use super::stopped::{StoppedRun, stopped_stage};
use crate::config::{self, Config, Override, SettingChange};
use crate::controller::{ControlError, Fold, Observer};
use crate::data::{DataError, Frames};
use crate::events::{
    Dataset, Event, Record, RunCreated, Seq, SettingChanged, SettingKey, SettingValue,
};
use crate::machine::rules::KNOWN;
use crate::machine::{Decision, Machine, RunPhase, RunState, ladder};
use crate::setup::{self, SetupError};
use crate::store::{EventLog, Store};

/// Why a checkpoint was given up, in the log.
const WHY_GIVEN_UP: &str = "its files are missing";

/// A run to be resumed, and what the user changes.
#[derive(Clone, Debug)]
pub struct Resume {
    pub dir: PathBuf,
    /// Who changes it and by what means, for the log.
    pub who: String,
    pub why: String,
    /// Allow the stopped stage this many more failures.
    pub retries: Option<u32>,
    pub changes: Vec<Override>,
    /// Give up checkpoints whose files are missing, and resume from the newest that is left.
    pub give_up: bool,
    /// The request repeats the one that created the run, as a queue does. Then `changes` that were
    /// made before are not made again: that would undo what the ladder changed since.
    pub repeated: bool,
}

/// A run whose log is open.
pub enum Opened {
    Finished(Box<Run>),
    Unfinished(Box<Resumable>),
}

/// A run that can be resumed. Nothing of it was recorded yet but the repairs of its log.
pub struct Resumable {
    run: Run,
    /// As the run was created, with this process's device, threads and paths of data.
    config: Config,
    frames: Option<Arc<Frames>>,
    given_up: Vec<Event>,
    changes: Vec<SettingChanged>,
    ranks: u32,
    fell_back: bool,
}

impl Resume {
    /// A resume without changes.
    pub fn new(dir: &Path, who: &str, why: &str) -> Resume {
        Resume {
            dir: dir.to_owned(),
            who: who.to_owned(),
            why: why.to_owned(),
            retries: None,
            changes: Vec::new(),
            give_up: false,
            repeated: false,
        }
    }

    /// Opens the log, repairs it where one of its copies allows, and checks the request. `visit` gets
    /// every event of the log.
    ///
    /// # Errors
    /// No run, a log that cannot be opened, and what may not change or is missing.
    pub fn open(
        &self,
        visit: &mut dyn FnMut(&Record),
        tell: &mut Tell<'_>,
    ) -> Result<Opened, ResumeError> {
        let mut fold = Fold::new();
        let mut changed = Vec::new();
        let opened = Store::open_and_read(&self.dir, |record| {
            if let Ok(record) = &record {
                visit(record);
                if let Event::SettingChanged(change) = &record.event {
                    changed.push(change.clone());
                }
            }
            fold.add(record);
        });
        let (store, repairs) = opened.map_err(|source| ResumeError::Open {
            dir: self.dir.clone(),
            source,
        })?;
        if store.head() == Seq::FIRST {
            return Err(self.empty());
        }
        let run = Run::resume(&self.dir, store, repairs, fold)?;
        let Some(created) = run.state().created.clone() else {
            return Err(self.empty());
        };
        let lost = LostCheckpoints::of(&self.dir, run.state());
        let given_up = self.given_up(lost.as_ref(), tell)?;
        let state = after_undecided(run.state(), &given_up);
        let original = Config::from_json(&created.config)?;
        let changed = self.changed(&original, &created, &state, &changed)?;
        if state.phase == RunPhase::Finished {
            self.refuse_changes_when_finished(&changed, &state)?;
            return Ok(Opened::Finished(Box::new(run)));
        }
        self.refuse_changes_of_passed_stages(&changed, &state)?;
        let changes = self.change_events(&changed, &state)?;
        // The windows that are held out follow from the config that the run was created with.
        let config = Config {
            policy: original.policy,
            ..changed.config
        };
        let frames = if config.needs_frames() {
            Some(self.frames(&config, &created.dataset)?)
        } else {
            None
        };
        refuse_missing_upstream(&self.dir, &state)?;
        if let Some(lost) = lost.filter(|_| !self.give_up) {
            lost.refuse_needed(&self.dir)?;
        }
        Ok(Opened::Unfinished(Box::new(Resumable {
            ranks: ranks(&created, &state),
            fell_back: state.fallback.is_some(),
            run,
            config,
            frames,
            given_up,
            changes,
        })))
    }

    fn empty(&self) -> ResumeError {
        EmptyLog::at(&self.dir).into()
    }

    /// An older checkpoint takes the place of missing ones only if the user asks for it.
    fn given_up(
        &self,
        lost: Option<&LostCheckpoints>,
        tell: &mut Tell<'_>,
    ) -> Result<Vec<Event>, ResumeError> {
        if !self.give_up {
            return Ok(Vec::new());
        }
        let Some(lost) = lost else {
            tell(Notice::NothingToGiveUp);
            return Ok(Vec::new());
        };
        let events = lost.give_up(&self.who, WHY_GIVEN_UP)?;
        Ok(events.into_iter().map(Event::CheckpointGivenUp).collect())
    }

    /// The run's config with what the request changes. `before` are all changes in the log.
    fn changed(
        &self,
        original: &Config,
        created: &RunCreated,
        state: &RunState,
        before: &[SettingChanged],
    ) -> Result<config::Resumed, ResumeError> {
        let stages = state.stages.iter();
        let in_force = stages.map(|stage| (stage.name(), &stage.settings));
        let max_retries = created.policy.max_retries;
        let mut changed = original.resume(in_force, max_retries, &self.changes)?;
        if self.repeated {
            leave_out_repeated(&mut changed, original, before);
        }
        Ok(changed)
    }

    /// Changes of a finished run would have no effect.
    fn refuse_changes_when_finished(
        &self,
        changed: &config::Resumed,
        state: &RunState,
    ) -> Result<(), ResumeError> {
        if self.retries.is_some() {
            return Err(ResumeError::RetriesOfFinishedRun);
        }
        self.refuse_changes_of_passed_stages(changed, state)?;
        match changed.settings.first() {
            None => Ok(()),
            Some(change) => Err(ResumeError::ChangeOfFinishedRun {
                key: name_of(change),
                value: value_text(change.to),
            }),
        }
    }

    /// A stage that has passed is not trained any more, so a change of its settings would have no effect.
    fn refuse_changes_of_passed_stages(
        &self,
        changed: &config::Resumed,
        state: &RunState,
    ) -> Result<(), ResumeError> {
        let passed = |change: &&SettingChange| {
            let stage = change.stage.as_ref();
            let stage = stage.and_then(|name| state.stage_named(name));
            stage.is_some_and(|stage| stage.passed().is_some())
        };
        match changed.settings.iter().find(passed) {
            Some(SettingChange {
                stage: Some(stage),
                key,
                from,
                to,
            }) => Err(ResumeError::ChangeOfPassedStage(Box::new(
                PassedStageChange {
                    dir: self.dir.clone(),
                    stage: stage.clone(),
                    key: key.as_str().to_owned(),
                    from: value_text(*from),
                    to: value_text(*to),
                },
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// The events of what the user changes; an error if a stopped run would stay stopped.
    fn change_events(
        &self,
        changed: &config::Resumed,
        state: &RunState,
    ) -> Result<Vec<SettingChanged>, ResumeError> {
        let event = |change: &SettingChange| SettingChanged {
            stage: change.stage.clone(),
            key: change.key.clone(),
            from: change.from,
            to: change.to,
            who: self.who.clone(),
            why: self.why.clone(),
        };
        let mut changes: Vec<SettingChanged> = changed.settings.iter().map(event).collect();
        let of_policy = changes
            .iter()
            .find(|change| change.key == SettingKey::MaxRetries);
        let allowed = of_policy.and_then(|change| match change.to {
            SettingValue::Count(count) => u32::try_from(count).ok(),
            SettingValue::Real(_) => None,
        });
        match (self.retries, stopped_stage(state)) {
            (Some(more), Some(stage)) => {
                let from = allowed.unwrap_or(stage.max_retries);
                changes.push(SettingChanged {
                    stage: Some(stage.name().clone()),
                    key: SettingKey::MaxRetries,
                    from: SettingValue::Count(u64::from(from)),
                    to: SettingValue::Count(u64::from(from.saturating_add(more))),
                    who: self.who.clone(),
                    why: self.why.clone(),
                });
            }
            (Some(_), None) => return Err(ResumeError::RetriesWithoutStop),
            (None, Some(stage)) if allowed.is_none_or(|allowed| allowed <= stage.max_retries) => {
                if let Some(stopped) = StoppedRun::of(&self.dir, state) {
                    return Err(stopped.into());
                }
            }
            (None, Some(_) | None) => {}
        }
        Ok(changes)
    }

    /// The run's data, if it is still the same.
    fn frames(&self, config: &Config, recorded: &Dataset) -> Result<Arc<Frames>, ResumeError> {
        let frames = setup::frames(config).map_err(|source| match source {
            SetupError::Data(DataError::Missing { .. }) => ResumeError::DataMoved {
                dir: self.dir.clone(),
                source: Box::new(source),
            },
            SetupError::Data(_) | SetupError::Windows(_) | SetupError::Still(_) => {
                ResumeError::Setup(source)
            }
        })?;
        let found = frames.hash().to_hex().to_string();
        if found == recorded.blake3 {
            return Ok(frames);
        }
        Err(ResumeError::OtherData {
            found,
            recorded: recorded.blake3.clone(),
            difference: difference(recorded, &frames),
            perhaps_other_order: perhaps_other_order(recorded, &frames),
        })
    }
}

impl Resumable {
    pub fn dir(&self) -> &Path {
        self.run.dir()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `None`: no stage needs frames.
    pub fn frames(&self) -> Option<&Arc<Frames>> {
        self.frames.as_ref()
    }

    pub fn run(&self) -> &Run {
        &self.run
    }

    /// How many ranks train the run.
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Whether the run has fewer ranks already than it was created with. That is allowed once.
    pub fn fell_back(&self) -> bool {
        self.fell_back
    }

    /// Records what the user gave up, what was due, and what the user changes. Then the run can be driven.
    ///
    /// # Errors
    /// A disk that fails, or a log that no run makes.
    pub fn begin(
        self,
        group: &Group,
        observer: &mut dyn Observer,
        tell: &mut Tell<'_>,
    ) -> Result<Run, ControlError> {
        let mut run = self.run;
        for event in self.given_up {
            run.controller().record_fact(event)?;
        }
        run.catch_up(observer)?;
        run.record_fallback(group)?;
        if let Some(change) = RateChange::of(run.state(), &self.changes) {
            tell(Notice::RateChanged(change));
        }
        run.controller().record_changes(self.changes)?;
        Ok(run)
    }
}

/// The state once `facts` and the decisions that the last process did not get to are recorded.
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

/// Leaves out the settings that the run was created with and those that a user has set since.
fn leave_out_repeated(changed: &mut config::Resumed, original: &Config, before: &[SettingChanged]) {
    changed.settings.retain(|change| {
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

/// How many ranks train a run: as many as it was created with, or as were left when it fell back.
fn ranks(created: &RunCreated, state: &RunState) -> u32 {
    let granted = state.fallback.as_ref();
    granted.map_or(created.world_size, |granted| granted.ranks_available)
}

/// The key of a change as a config has it.
fn name_of(change: &SettingChange) -> String {
    let table = change
        .stage
        .as_ref()
        .map_or("policy", |stage| stage.as_str());
    format!("{table}.{}", change.key.as_str())
}

/// A value with every digit, as a config takes it.
pub(super) fn value_text(value: SettingValue) -> String {
    match value {
        SettingValue::Count(value) => value.to_string(),
        SettingValue::Real(value) => value.to_string(),
    }
}

/// What differs between a run's data and what its files hold now, as far as the log says.
fn difference(recorded: &Dataset, frames: &Frames) -> Option<String> {
    if recorded.frames != frames.count() as u64 {
        return Some(format!(
            "it has {} frames, the log says {}",
            frames.count(),
            recorded.frames
        ));
    }
    // Files may have moved; their lengths and names stay.
    let pairs = recorded.recordings.iter().zip(frames.recordings());
    let mut others = pairs.filter(|(was, is)| {
        was.frames != is.frames as u64 || was.first != is.first || was.last != is.last
    });
    let (was, is) = others.next()?;
    Some(format!(
        "`{}` has {} frames{}, the log says {}{}",
        is.path,
        is.frames,
        names(is.first.as_deref(), is.last.as_deref()),
        was.frames,
        names(was.first.as_deref(), was.last.as_deref())
    ))
}

fn names(first: Option<&str>, last: Option<&str>) -> String {
    match (first, last) {
        (Some(first), Some(last)) => format!(" (`{first}` to `{last}`)"),
        (Some(_) | None, _) => String::new(),
    }
}

/// Builds that did not record what they read sorted pictures in another order, and treated subfolders and hidden
/// files in another way.
fn perhaps_other_order(recorded: &Dataset, frames: &Frames) -> bool {
    let mut recordings = frames.recordings().iter();
    recorded.recordings.is_empty() && recordings.any(|recording| recording.first.is_some())
}
