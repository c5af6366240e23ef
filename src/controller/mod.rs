//! Drives a run: facts in, decisions recorded, commands out.
//!
//! The order of effects is fixed: a fact arrives, is appended and made durable, and is
//! folded; the machine decides; its decisions are appended and made durable; only then is
//! the command sent to the trainer and the observer notified. So the log has everything
//! that was acted upon, and if a process dies between any two steps, the next one can
//! resume from the log.
//!
//! A [`Trainer`](crate::trainer::Trainer) does the training: libtorch's actor, a program, or a script
//! in a test. It is supervised: its reports are checked, its checkpoints are judged, and its silence is
//! limited. This module makes no decisions itself.

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
    Command, Decision, Idle, JudgeCheckpoint, KnownRules, Machine, RunPhase, RunState,
};
use crate::store::{AppendError, Durability, EventLog, ReadError};

use crate::trainer::{
    Ended, Misreport, NoProgress, Progress, TrainerCommand, TrainerError, TrainerFact, Verdict,
};
use supervised::{Received, Supervised};

pub use supervised::Host;

/// Most consecutive decisions without a command. Deleting a thousand checkpoints stays far
/// below it; a machine with a bug that decides without end does not.
const DECISIONS_MAX: usize = 100_000;

/// Is notified of events once they are durable.
pub trait Observer {
    /// A durable event, and the state after it and possibly later events.
    fn recorded(&mut self, record: &Record, state: &RunState);
    fn progressed(&mut self, progress: &Progress);
}

/// How a process's work on a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Finished,
    /// A stage stopped at a gate.
    Stopped,
    /// By a signal. The run can be resumed.
    Interrupted {
        signal: String,
    },
    /// The run can be resumed once the problem is fixed.
    Environment {
        detail: String,
    },
    /// The trainer hangs in this process, which must exit without waiting for it. The run can be resumed.
    NoProgress(NoProgress),
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the log uses version {found} of the rules, but this build knows only up to {known}")]
    UnknownRules { found: u32, known: u32 },
    #[error("the log is empty, so there is no run to resume")]
    NoRun,
    #[error("the log is invalid: its policy has the stage `{stage}` twice")]
    DuplicateStage { stage: StageName },
    #[error("the trainer exited without a report; the log is intact")]
    TrainerLost,
    #[error(
        "bug: {DECISIONS_MAX} consecutive decisions without a command; the log is intact up to event {head}"
    )]
    EndlessDecisions { head: Seq },
    #[error("bug in the trainer: {why}; it was not recorded, and the log is intact")]
    Misreported { why: Misreport },
    #[error(
        "bug: there is nothing to do, but the run is {phase}; the log is intact up to event {head}"
    )]
    Stuck { phase: String, head: Seq },
}

impl Advice for ControlError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            ControlError::Append(error) => error.hints(),
            ControlError::Read(error) => error.hints(),
            ControlError::UnknownRules { .. } => {
                vec![Hint::text(
                    "resume the run with the version of tinygate that created it",
                )]
            }
            ControlError::NoRun => vec![Hint::StartRun],
            ControlError::DuplicateStage { .. } => vec![Hint::text(
                "the log was edited or damaged; restore an intact copy of the run",
            )],
            ControlError::TrainerLost => vec![Hint::Resume],
            ControlError::EndlessDecisions { .. } | ControlError::Misreported { .. } => {
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
    /// The fold of an empty log.
    pub fn new() -> Fold {
        Fold::with_rules(KNOWN)
    }

    fn with_rules(known: KnownRules) -> Fold {
        Fold {
            machine: Machine::new(known),
            next: Seq::FIRST,
            failed: None,
        }
    }

    /// Adds the next event of the log. After an error, which is kept, later events are ignored.
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
            TrainerError::Lost | TrainerError::Broken(_) => ControlError::TrainerLost,
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
    /// The number of the next event, counted here so that events lost by the log are detected.
    next: Seq,
    /// Milliseconds since 1970-01-01 UTC.
    clock: Box<dyn Fn() -> u64 + 'a>,
    /// Recorded events that may not be durable yet, so nothing has acted on them.
    unannounced: Vec<Record>,
}

impl<'a> Controller<'a> {
    /// Folds `log`. `directory` is the run directory.
    ///
    /// # Errors
    /// The log cannot be read, is invalid, or uses rules that this build does not know.
    pub fn open(
        log: &'a dyn EventLog,
        directory: &Path,
        clock: impl Fn() -> u64 + 'a,
    ) -> Result<Controller<'a>, ControlError> {
        Controller::open_with_rules(KNOWN, log, directory, clock)
    }

    /// As [`Controller::open`], with other rules than those of this build.
    ///
    /// # Errors
    /// As [`Controller::open`].
    pub fn open_with_rules(
        known: KnownRules,
        log: &'a dyn EventLog,
        directory: &Path,
        clock: impl Fn() -> u64 + 'a,
    ) -> Result<Controller<'a>, ControlError> {
        let mut fold = Fold::with_rules(known);
        for record in log.read(Seq::FIRST)? {
            fold.add(record);
        }
        Controller::resume(fold, log, directory, clock)
    }

    /// As [`Controller::open`], for a caller that has already folded the whole log.
    ///
    /// # Errors
    /// As [`Controller::open`].
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
        if let Some(stage) = machine.state().policy().and_then(Policy::duplicate_stage) {
            let stage = stage.clone();
            return Err(ControlError::DuplicateStage { stage });
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
            unannounced: Vec::new(),
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

    /// Records that this process started, then works until the run ends or the process must end.
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
            let command = match self.settle(trainer.in_progress(), observer)? {
                Settled::Ended(ending) => return Ok(ending),
                Settled::Command(command) => *command,
            };
            let command = match command {
                // The host judges checkpoints, so a trainer cannot accept its own.
                Command::JudgeCheckpoint(asked) => {
                    if judged.as_ref() == Some(&asked) {
                        return Err(self.endless_decisions());
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
            let received = match trainer.command(command)? {
                Some(received) => received,
                None => trainer.receive(|progress| observer.progressed(progress))?,
            };
            match received {
                Received::Fact(fact) => self.record_report(fact, &trainer)?,
                Received::Interrupted { signal } => {
                    let name = signal.clone();
                    self.interrupt(InterruptReason::Signal { name }, observer)?;
                    return Ok(Ending::Interrupted { signal });
                }
                Received::Environment { detail } => return self.environment(detail, observer),
                Received::NoProgress(silent, ended) => {
                    if let Some(ending) =
                        self.record_no_progress(silent, ended, &mut trainer, observer)?
                    {
                        return Ok(ending);
                    }
                }
                Received::Broken { why, output } => {
                    if let Some(ending) = self.record_broken(why, output, &mut trainer, observer)? {
                        return Ok(ending);
                    }
                }
            }
        }
    }

    /// Records that the trainer exited or sent nonsense. `None`: a new one takes over.
    fn record_broken(
        &mut self,
        why: TrainerError,
        stderr: String,
        trainer: &mut Supervised<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Option<Ending>, ControlError> {
        let status = why.to_string();
        let Some(train) = trainer.chunk() else {
            let last = stderr.lines().next_back().unwrap_or_default();
            let colon = if last.is_empty() { "" } else { ": " };
            let detail =
                format!("the trainer failed while it measured a stage: {status}{colon}{last}");
            return self.environment(detail, observer).map(Some);
        };
        let failed = ChunkFailed {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: trainer.step(),
            failure: ChunkFailure::WorkerExited { status, stderr },
        };
        self.record_fact(Event::ChunkFailed(failed))?;
        self.announce(observer)?;
        trainer.forget();
        Ok(None)
    }

    /// Records a fact from the trainer, and the host's verdict if it is about a checkpoint.
    fn record_report(
        &mut self,
        fact: TrainerFact,
        trainer: &Supervised<'_>,
    ) -> Result<(), ControlError> {
        let written = match &fact {
            TrainerFact::CheckpointWritten(written) => Some(JudgeCheckpoint {
                stage: written.stage.clone(),
                checkpoint: written.checkpoint.clone(),
                files: written.files.clone(),
            }),
            // The checkpoint that could not be loaded is judged first, since the answer to the failure
            // depends on the verdict.
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
            // If files are missing right after they were reported, they were never written.
            Some(Verdict::Judged(verdict) | Verdict::Absent { verdict, .. }) => {
                self.record_fact(Event::CheckpointJudged(verdict))
            }
        }
    }

    /// Records that the trainer made no progress. `None`: it was ended, and a new one takes over.
    fn record_no_progress(
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
            Ended::Exited { output } => (output, None),
            Ended::OnlyWithThisProcess => (String::new(), Some(Ending::NoProgress(silent))),
        };
        let Some(train) = trainer.chunk() else {
            let detail = format!(
                "the trainer made no progress for {silence_seconds} s while it measured a stage; the limit is \
                 {limit_seconds} s"
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
        self.announce(observer)?;
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

    /// Records decisions until a command is due or the run ends, and makes everything durable.
    /// Metrics of a command that continues may stay lazy.
    fn settle(
        &mut self,
        in_progress: Option<&TrainerCommand>,
        observer: &mut dyn Observer,
    ) -> Result<Settled, ControlError> {
        let next = self.record_due()?;
        let continues = match &next {
            Next::Command(due) => in_progress.is_some_and(|command| command.is(due)),
            Next::Idle(_) => false,
        };
        if !continues
            || !self
                .unannounced
                .iter()
                .all(|record| may_wait(&record.event))
        {
            self.announce(observer)?;
        }
        match next {
            Next::Command(command) => Ok(Settled::Command(command)),
            Next::Idle(idle @ (Idle::Finished | Idle::Stopped)) => self.ended(idle),
            Next::Idle(Idle::NoRun) => Err(ControlError::NoRun),
            Next::Idle(Idle::UnknownRules { rules }) => Err(ControlError::UnknownRules {
                found: rules,
                known: self.machine.known().newest.number,
            }),
        }
    }

    /// The ending of an idle run. In an invalid log the machine can be idle before the run has ended.
    fn ended(&self, idle: Idle) -> Result<Settled, ControlError> {
        match (self.state().phase, idle) {
            (RunPhase::Finished, Idle::Finished) => Ok(Settled::Ended(Ending::Finished)),
            (RunPhase::Stopped(stage), Idle::Stopped) if stage < self.state().stages.len() => {
                Ok(Settled::Ended(Ending::Stopped))
            }
            (phase, _) => Err(ControlError::Stuck {
                phase: format!("{:?}", phase.kind()).to_lowercase(),
                head: self.next,
            }),
        }
    }

    /// Records decisions until none is due, and returns what is due next.
    fn record_due(&mut self) -> Result<Next, ControlError> {
        for _ in 0..DECISIONS_MAX {
            match self.machine.decide() {
                Decision::Record(event) => self.append(*event, Durability::Lazy)?,
                Decision::Act(command) => return Ok(Next::Command(Box::new(command))),
                Decision::Idle(idle) => return Ok(Next::Idle(idle)),
            }
        }
        Err(self.endless_decisions())
    }

    fn endless_decisions(&self) -> ControlError {
        ControlError::EndlessDecisions { head: self.next }
    }

    /// Metrics may wait for the next durable append; any other fact is made durable at once.
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
        self.unannounced.push(Record {
            seq,
            time_ms,
            event,
        });
        Ok(())
    }

    /// Makes all events durable, then acts on them: deletes checkpoints, links the checkpoint
    /// of a passed stage, and notifies the observer.
    fn announce(&mut self, observer: &mut dyn Observer) -> Result<(), ControlError> {
        if self.unannounced.is_empty() {
            return Ok(());
        }
        self.log.sync()?;
        for record in std::mem::take(&mut self.unannounced) {
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
        self.announce(observer)
    }

    /// Records the repairs that the store made when it was opened.
    pub fn record_repairs(
        &mut self,
        repairs: impl IntoIterator<Item = StoreRepaired>,
    ) -> Result<(), ControlError> {
        repairs
            .into_iter()
            .try_for_each(|repair| self.record_fact(Event::StoreRepaired(repair)))
    }

    /// Records the decisions that the last process did not get to, but does not start a chunk. A
    /// person's changes must come after them: a stage must have stopped before more retries
    /// can reopen it, and a rung that is due must not undo the change. The observer is
    /// notified at once, since this process may end before it trains, and the next one does
    /// not repeat notifications.
    pub fn catch_up(&mut self, observer: &mut dyn Observer) -> Result<(), ControlError> {
        let before = self.next;
        self.record_undecided()?;
        if before < self.next {
            self.announce(observer)?;
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
        Err(self.endless_decisions())
    }

    /// Records a person's request to free disk space and the resulting deletions, then deletes.
    /// Other decisions that are due are left to the process that trains.
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
        self.announce(observer)?;
        // A process that was killed after recording a deletion may have left the files.
        files::sweep(&self.directory, self.state());
        Ok(())
    }

    /// Records a person's changes on resume.
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
    Idle(Idle),
}

enum Settled {
    Command(Box<Command>),
    Ended(Ending),
}
