//! Drives a run: facts in, decisions recorded, commands out.
//!
//! The order of effects is fixed: a fact arrives, is appended and made durable,
//! is folded; the machine decides; its decisions are appended and made durable;
//! then, and only then, the command goes to the trainer and a person hears of
//! it. So what was ever acted upon is in the log, and a process that goes away
//! between any two steps leaves a log from which the next one goes on.
//!
//! What trains is a [`Trainer`](crate::trainer::Trainer): libtorch's actor, a program, a script in a
//! test. It is supervised: what it says is checked, its checkpoints are judged here, and its silence is
//! limited. This module decides nothing and trains nothing.

mod files;
mod supervised;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::advice::{Advice, Hint};
use crate::events::{
    ChunkFailed, ChunkFailure, Event, InterruptReason, Policy, ProcessStarted, PruneRequested,
    Record, RunInterrupted, Seq, SettingChanged, StageName, StoreRepaired,
};
use crate::machine::rules::KNOWN;
use crate::machine::{
    Command, Decision, Idle, JudgeCheckpoint, Known, Machine, RunPhase, RunState,
};
use crate::store::{AppendError, Durability, EventLog, ReadError};

use crate::trainer::{
    Ended, Misreport, NoProgress, Progress, TrainerCommand, TrainerError, TrainerFact, Verdict,
};
use supervised::{Heard, Supervised};

pub use supervised::Host;

/// Decisions that may follow one another without a command. A run of a thousand
/// checkpoints to delete stays far below it; a machine that never comes to rest does not.
const DECISIONS_MAX: usize = 100_000;

/// Hears of what happened, after it is durable.
pub trait Observer {
    /// An event that is durable, and the state after it and all events known by then.
    fn recorded(&mut self, record: &Record, state: &RunState);
    fn progressed(&mut self, progress: &Progress);
}

/// How a process's part of a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Finished,
    /// A stage stopped at a gate.
    Stopped,
    /// By a signal; resumable.
    Interrupted {
        signal: String,
    },
    /// Resumable once it is mended.
    Environment {
        detail: String,
    },
    /// The trainer hangs in this process, which must exit without waiting for it; resumable.
    NoProgress(NoProgress),
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the log is decided by rules {found}, this build knows rules {known}")]
    UnknownRules { found: u32, known: u32 },
    #[error("the log is empty, so there is no run to go on with")]
    NoRun,
    #[error("the log is not one that a run makes: its policy names the stage `{stage}` twice")]
    DoubledStage { stage: StageName },
    #[error("the trainer exited without a report; the log is sound")]
    TrainerLost,
    #[error(
        "bug: {DECISIONS_MAX} decisions in a row without a command; the log is sound up to {head}"
    )]
    NeverAtRest { head: Seq },
    #[error("bug in the trainer: {why}; it was not recorded, and the log is sound")]
    Misreported { why: Misreport },
    #[error("bug: nothing is due while the run is {phase}; the log is sound up to {head}")]
    Stuck { phase: String, head: Seq },
}

impl Advice for ControlError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            ControlError::Append(error) => error.hints(),
            ControlError::Read(error) => error.hints(),
            ControlError::UnknownRules { .. } => {
                vec![Hint::text("resume it with the version that made it")]
            }
            ControlError::NoRun => vec![Hint::StartRun],
            ControlError::DoubledStage { .. } => vec![Hint::text(
                "it was edited or damaged; take a copy of the run that was not",
            )],
            ControlError::TrainerLost => vec![Hint::Resume],
            ControlError::NeverAtRest { .. } | ControlError::Misreported { .. } => {
                vec![Hint::ReportWithLog]
            }
            ControlError::Stuck { .. } => vec![Hint::AuditLog, Hint::ReportWithLog],
        }
    }
}

/// The state of a run, folded from its log event by event.
#[derive(Debug)]
pub struct Fold {
    machine: Machine,
    next: Seq,
    failed: Option<ReadError>,
}

impl Fold {
    /// Of a log without an event.
    pub fn new() -> Fold {
        Fold::knowing(KNOWN)
    }

    fn knowing(known: Known) -> Fold {
        Fold {
            machine: Machine::new(known),
            next: Seq::FIRST,
            failed: None,
        }
    }

    /// Takes the next event of the log. An error is kept, and nothing is taken after it.
    pub fn add(&mut self, record: Result<Record, ReadError>) {
        match record {
            Ok(record) if self.failed.is_none() => {
                self.machine.apply(&record.event);
                self.next = Seq::new(record.seq.get().saturating_add(1));
            }
            Ok(_) => {}
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
    }
}

impl Default for Fold {
    fn default() -> Fold {
        Fold::new()
    }
}

impl From<TrainerError> for ControlError {
    fn from(error: TrainerError) -> ControlError {
        match error {
            TrainerError::Lost => ControlError::TrainerLost,
            TrainerError::Misreported(why) => ControlError::Misreported { why },
        }
    }
}

/// The log of a controller: its caller's, or shared with it.
enum Log<'a> {
    Borrowed(&'a dyn EventLog),
    Shared(Arc<dyn EventLog>),
}

impl<'a> Deref for Log<'a> {
    type Target = dyn EventLog + 'a;

    fn deref(&self) -> &Self::Target {
        match self {
            Log::Borrowed(log) => *log,
            Log::Shared(log) => log.as_ref(),
        }
    }
}

pub struct Controller<'a> {
    log: Log<'a>,
    directory: PathBuf,
    machine: Machine,
    /// The next event's number, counted here: what the log lost must not go unseen.
    next: Seq,
    /// Milliseconds since 1970-01-01 UTC.
    clock: Box<dyn Fn() -> u64 + 'a>,
    /// Recorded but perhaps not durable yet, so nobody has heard of it.
    unheard: Vec<Record>,
}

impl<'a> Controller<'a> {
    /// Folds what `log` holds. `directory` is the run's.
    ///
    /// # Errors
    /// A log that cannot be read, that no run makes, or of rules this build does not know.
    pub fn open(
        log: &'a dyn EventLog,
        directory: &Path,
        clock: impl Fn() -> u64 + 'a,
    ) -> Result<Controller<'a>, ControlError> {
        Controller::open_knowing(KNOWN, log, directory, clock)
    }

    /// [`Controller::open`], to go on by other rules than this build's.
    ///
    /// # Errors
    /// As there.
    pub fn open_knowing(
        known: Known,
        log: &'a dyn EventLog,
        directory: &Path,
        clock: impl Fn() -> u64 + 'a,
    ) -> Result<Controller<'a>, ControlError> {
        let mut fold = Fold::knowing(known);
        for record in log.read(Seq::FIRST)? {
            fold.add(record);
        }
        Controller::resume(fold, log, directory, clock)
    }

    /// [`Controller::open`] for whoever has folded all that `log` holds, so that it is not read
    /// again.
    ///
    /// # Errors
    /// As there.
    pub fn resume(
        fold: Fold,
        log: &'a dyn EventLog,
        directory: &Path,
        clock: impl Fn() -> u64 + 'a,
    ) -> Result<Controller<'a>, ControlError> {
        Controller::over(fold, Log::Borrowed(log), directory, clock)
    }

    /// [`Controller::resume`] with a share in the log, so that both can be kept together.
    ///
    /// # Errors
    /// As there.
    pub fn resume_shared(
        fold: Fold,
        log: Arc<dyn EventLog>,
        directory: &Path,
        clock: impl Fn() -> u64 + 'a,
    ) -> Result<Controller<'a>, ControlError> {
        Controller::over(fold, Log::Shared(log), directory, clock)
    }

    fn over(
        fold: Fold,
        log: Log<'a>,
        directory: &Path,
        clock: impl Fn() -> u64 + 'a,
    ) -> Result<Controller<'a>, ControlError> {
        let Fold {
            machine,
            next,
            failed,
        } = fold;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if let Some(stage) = machine.state().policy().and_then(Policy::doubled_stage) {
            let stage = stage.clone();
            return Err(ControlError::DoubledStage { stage });
        }
        if let Decision::Idle(Idle::UnknownRules { rules }) = machine.decide() {
            return Err(ControlError::UnknownRules {
                found: rules,
                known: machine.known().newest.number,
            });
        }
        Ok(Controller {
            log,
            directory: directory.to_owned(),
            machine,
            next,
            clock: Box::new(clock),
            unheard: Vec::new(),
        })
    }

    pub fn state(&self) -> &RunState {
        self.machine.state()
    }

    /// Records a fact that did not come from the trainer: the run's creation, a
    /// person's change, a repair.
    pub fn record_fact(&mut self, fact: Event) -> Result<(), ControlError> {
        self.append(fact, Durability::Durable)
    }

    /// Runs until the run ends or this process must. A new process says so first.
    pub fn run(
        &mut self,
        started: ProcessStarted,
        host: Host<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Ending, ControlError> {
        if self.state().created.is_none() {
            return Err(ControlError::NoRun);
        }
        self.append(Event::ProcessStarted(started), Durability::Durable)?;
        files::sweep(&self.directory, self.state());
        let mut trainer = Supervised::new(host);
        let mut judged = None;
        loop {
            let command = match self.settle(trainer.under_way(), observer)? {
                Settled::Ended(ending) => return Ok(ending),
                Settled::Command(command) => *command,
            };
            let command = match command {
                // The host judges, so that no trainer passes its own checkpoints.
                Command::JudgeCheckpoint(asked) => {
                    if judged.as_ref() == Some(&asked) {
                        return Err(self.never_at_rest());
                    }
                    match trainer.judge(&asked) {
                        Verdict::Judged(verdict) => {
                            self.record_fact(Event::CheckpointJudged(verdict))?
                        }
                        Verdict::Absent { detail, .. } => {
                            return self.environment(detail, observer);
                        }
                    }
                    judged = Some(asked);
                    continue;
                }
                Command::MeasureStage(measure) => TrainerCommand::MeasureStage(measure),
                Command::TrainChunk(train) => TrainerCommand::TrainChunk(train),
            };
            trainer.command(command)?;
            match trainer.hear(|progress| observer.progressed(progress))? {
                Heard::Fact(fact) => self.take(fact, &trainer)?,
                Heard::Interrupted { signal } => {
                    let name = signal.clone();
                    self.interrupt(InterruptReason::Signal { name }, observer)?;
                    return Ok(Ending::Interrupted { signal });
                }
                Heard::Environment { detail } => return self.environment(detail, observer),
                Heard::NoProgress(silent, ended) => {
                    if let Some(ending) = self.give_up(silent, ended, &mut trainer, observer)? {
                        return Ok(ending);
                    }
                }
            }
        }
    }

    /// Records a trainer's fact, and what the host makes of it: a verdict on each checkpoint.
    fn take(&mut self, fact: TrainerFact, trainer: &Supervised<'_>) -> Result<(), ControlError> {
        let written = match &fact {
            TrainerFact::CheckpointWritten(written) => Some(JudgeCheckpoint {
                stage: written.stage.clone(),
                checkpoint: written.checkpoint.clone(),
                files: written.files.clone(),
            }),
            // The checkpoint that it could not start from is judged first: the answer to the failure
            // depends on it.
            TrainerFact::ChunkFailed(failed) => {
                if let Some(verdict) = trainer.judge_start(&failed.failure) {
                    self.record_fact(Event::CheckpointJudged(verdict))?;
                }
                None
            }
            TrainerFact::StageMeasured(_)
            | TrainerFact::MetricsLogged(_)
            | TrainerFact::HeldOutScored(_)
            | TrainerFact::PictureScored(_)
            | TrainerFact::ChunkFinished(_) => None,
        };
        self.append_fact(fact.into())?;
        match written.map(|asked| trainer.judge(&asked)) {
            None => Ok(()),
            // Files that are not there a moment after they were written were not written.
            Some(Verdict::Judged(verdict) | Verdict::Absent { verdict, .. }) => {
                self.record_fact(Event::CheckpointJudged(verdict))
            }
        }
    }

    /// Records that the trainer made no progress. `None`: it was ended, and another takes its place.
    fn give_up(
        &mut self,
        silent: NoProgress,
        ended: Ended,
        trainer: &mut Supervised<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Option<Ending>, ControlError> {
        let NoProgress {
            silence_seconds,
            limit_seconds,
        } = silent;
        let (stderr, ending) = match ended {
            Ended::Gone { output } => (output, None),
            Ended::WithThisProcessOnly => (String::new(), Some(Ending::NoProgress(silent))),
        };
        let Some(train) = trainer.chunk() else {
            let detail = format!(
                "the trainer made no progress for {silence_seconds} s while a stage was measured; {limit_seconds} s \
                 are allowed"
            );
            let interrupted = self.environment(detail, observer)?;
            return Ok(Some(ending.unwrap_or(interrupted)));
        };
        let failed = ChunkFailed {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: trainer.step(),
            failure: ChunkFailure::NoProgress {
                silence_seconds,
                limit_seconds,
                stderr,
            },
        };
        self.record_fact(Event::ChunkFailed(failed))?;
        self.tell(observer)?;
        trainer.forget();
        Ok(ending)
    }

    fn environment(
        &mut self,
        detail: String,
        observer: &mut dyn Observer,
    ) -> Result<Ending, ControlError> {
        let reason = InterruptReason::Environment {
            detail: detail.clone(),
        };
        self.interrupt(reason, observer)?;
        Ok(Ending::Environment { detail })
    }

    /// Records decisions until a command or the end is due, and makes all durable;
    /// but metrics of the command under way may wait, as the log lets them.
    fn settle(
        &mut self,
        under_way: Option<&TrainerCommand>,
        observer: &mut dyn Observer,
    ) -> Result<Settled, ControlError> {
        let next = self.record_due()?;
        let continues = match &next {
            Next::Command(due) => under_way.is_some_and(|command| command.is(due)),
            Next::Rest(_) => false,
        };
        if !continues || !self.unheard.iter().all(|record| may_wait(&record.event)) {
            self.tell(observer)?;
        }
        match next {
            Next::Command(command) => Ok(Settled::Command(command)),
            Next::Rest(idle @ (Idle::Finished | Idle::Stopped)) => self.ended(idle),
            Next::Rest(Idle::NoRun) => Err(ControlError::NoRun),
            Next::Rest(Idle::UnknownRules { rules }) => Err(ControlError::UnknownRules {
                found: rules,
                known: self.machine.known().newest.number,
            }),
        }
    }

    /// A run rests only where it ended: a log that no run makes could lead the machine elsewhere.
    fn ended(&self, idle: Idle) -> Result<Settled, ControlError> {
        match (self.state().phase, idle) {
            (RunPhase::Finished, Idle::Finished) => Ok(Settled::Ended(Ending::Finished)),
            (RunPhase::Stopped(place), Idle::Stopped) if place < self.state().stages.len() => {
                Ok(Settled::Ended(Ending::Stopped))
            }
            (phase, _) => Err(ControlError::Stuck {
                phase: format!("{:?}", phase.kind()).to_lowercase(),
                head: self.next,
            }),
        }
    }

    /// Records decisions until none is due, and says what is due then.
    fn record_due(&mut self) -> Result<Next, ControlError> {
        for _ in 0..DECISIONS_MAX {
            match self.machine.decide() {
                Decision::Record(event) => self.append(*event, Durability::Lazy)?,
                Decision::Act(command) => return Ok(Next::Command(Box::new(command))),
                Decision::Idle(idle) => return Ok(Next::Rest(idle)),
            }
        }
        Err(self.never_at_rest())
    }

    fn never_at_rest(&self) -> ControlError {
        ControlError::NeverAtRest { head: self.next }
    }

    /// Metrics may wait for the next durable append; every other fact is acknowledged.
    fn append_fact(&mut self, fact: Event) -> Result<(), ControlError> {
        let durability = if may_wait(&fact) {
            Durability::Lazy
        } else {
            Durability::Durable
        };
        self.append(fact, durability)
    }

    fn append(&mut self, event: Event, durability: Durability) -> Result<(), ControlError> {
        let seq = self.next;
        let timed = [((self.clock)(), event)];
        self.log.append(seq, &timed, durability)?;
        let [(time_ms, event)] = timed;
        self.next = Seq::new(seq.get().saturating_add(1));
        self.machine.apply(&event);
        self.unheard.push(Record {
            seq,
            time_ms,
            event,
        });
        Ok(())
    }

    /// Makes everything durable, then acts on it: files that retention lets go,
    /// the link to a passed stage's checkpoint, and the observer.
    fn tell(&mut self, observer: &mut dyn Observer) -> Result<(), ControlError> {
        if self.unheard.is_empty() {
            return Ok(());
        }
        self.log.sync()?;
        for record in std::mem::take(&mut self.unheard) {
            files::follow(&self.directory, &record.event);
            observer.recorded(&record, self.state());
        }
        Ok(())
    }

    fn interrupt(
        &mut self,
        reason: InterruptReason,
        observer: &mut dyn Observer,
    ) -> Result<(), ControlError> {
        self.append(
            Event::RunInterrupted(RunInterrupted { reason }),
            Durability::Durable,
        )?;
        self.tell(observer)
    }

    /// Records repairs the store made when it was opened.
    pub fn record_repairs(
        &mut self,
        repairs: impl IntoIterator<Item = StoreRepaired>,
    ) -> Result<(), ControlError> {
        repairs
            .into_iter()
            .try_for_each(|repair| self.record_fact(Event::StoreRepaired(repair)))
    }

    /// Records the decisions the last process did not get to, up to the start of a
    /// chunk, which is the next process's. What a person changes comes after them: a
    /// stage must have stopped before more retries can open it, and a rung that is
    /// due must not undo the change. They are told at once: this process may end before it trains,
    /// and the next one does not tell what it finds recorded.
    pub fn catch_up(&mut self, observer: &mut dyn Observer) -> Result<(), ControlError> {
        let before = self.next;
        self.record_undecided()?;
        if before < self.next {
            self.tell(observer)?;
        }
        Ok(())
    }

    fn record_undecided(&mut self) -> Result<(), ControlError> {
        for _ in 0..DECISIONS_MAX {
            match self.machine.decide() {
                Decision::Record(event) if !matches!(*event, Event::ChunkStarted(_)) => {
                    self.append(*event, Durability::Lazy)?;
                }
                Decision::Record(_) | Decision::Act(_) | Decision::Idle(_) => return Ok(()),
            }
        }
        Err(self.never_at_rest())
    }

    /// Records a person's request for disk space and the deletions that follow from it, then
    /// deletes. Other decisions that are due wait for the process that trains.
    pub fn prune(
        &mut self,
        asked: PruneRequested,
        observer: &mut dyn Observer,
    ) -> Result<(), ControlError> {
        self.append(Event::PruneRequested(asked), Durability::Durable)?;
        while let Decision::Record(event) = self.machine.decide()
            && matches!(*event, Event::CheckpointDeleted(_))
        {
            self.append(*event, Durability::Lazy)?;
        }
        self.tell(observer)?;
        // A process that was killed between a deletion's event and the deletion left files.
        files::sweep(&self.directory, self.state());
        Ok(())
    }

    /// Records what a person changed while resuming.
    pub fn record_changes(
        &mut self,
        changes: impl IntoIterator<Item = SettingChanged>,
    ) -> Result<(), ControlError> {
        self.record_undecided()?;
        changes
            .into_iter()
            .try_for_each(|change| self.record_fact(Event::SettingChanged(change)))
    }
}

const fn may_wait(fact: &Event) -> bool {
    matches!(fact, Event::MetricsLogged(_))
}

/// What is due when no decision is.
enum Next {
    Command(Box<Command>),
    Rest(Idle),
}

enum Settled {
    Command(Box<Command>),
    Ended(Ending),
}
