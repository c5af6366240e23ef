//! The log and the trainer of a simulated process. They check what the controller does with them,
//! and are where a process dies.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tinygate::controller::Observer;
use tinygate::events::{
    CheckpointJudged, ChunkFailed, ChunkFailure, Event, FileRecord, Record, Rejection, Seq,
};
use tinygate::machine::{Decision, JudgeCheckpoint, RunState, TrainChunk};
use tinygate::store::disk::{Disk, JOURNAL};
use tinygate::store::{AppendError, Durability, EventLog, LogFile, ReadError, Records, Store};
use tinygate::trainer::{
    Ended, Judge, Progress, Report, Trainer, TrainerCommand, TrainerError, TrainerFact, Verdict,
};
use tinygate_testing::disk::SimDisk;
use tinygate_testing::{Rng, ScriptedJudge, ScriptedTrainer};

use crate::ledger::Ledger;
use crate::plan::{Fate, Life, Plan};
use crate::planted::Planted;

/// Most reports in one process. A run that needs more counts as endless.
const REPORTS_MAX: u64 = 200_000;

/// Appends of all runs with [`Planted::Unrepeatable`].
static APPENDS: AtomicU64 = AtomicU64::new(0);

/// Virtual time, shared by the log's clock and the events' times.
#[derive(Clone)]
pub struct Clock {
    start: Instant,
    milliseconds: Arc<AtomicU64>,
    /// Offset of the wall clock.
    skew: Arc<AtomicI64>,
}

impl Clock {
    pub fn new() -> Clock {
        Clock {
            start: Instant::now(),
            milliseconds: Arc::default(),
            skew: Arc::default(),
        }
    }

    pub fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.milliseconds.load(Ordering::Relaxed))
    }

    pub fn pass(&self, milliseconds: u64) {
        self.milliseconds.fetch_add(milliseconds, Ordering::Relaxed);
    }

    pub fn set_back(&self, milliseconds: u64) {
        let back = i64::try_from(milliseconds).unwrap_or(i64::MAX);
        self.skew.fetch_sub(back, Ordering::Relaxed);
    }

    pub fn is_set_back(&self) -> bool {
        self.skew.load(Ordering::Relaxed) != 0
    }

    /// Milliseconds since 1970.
    pub fn people(&self) -> u64 {
        let now = self.milliseconds.load(Ordering::Relaxed);
        (1_700_000_000_000 + now).saturating_add_signed(self.skew.load(Ordering::Relaxed))
    }
}

/// The state that the parts of a process share.
pub struct Process<'a> {
    pub store: &'a Store,
    pub disk: &'a SimDisk,
    pub clock: &'a Clock,
    pub ledger: &'a Mutex<Ledger>,
    pub life: &'a Life,
    pub planted: Option<Planted>,
    pub rng: Mutex<Rng>,
    /// How many events of the kind that its fate waits for were appended.
    pub fated: AtomicU64,
}

impl Process<'_> {
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(self.ledger)
    }

    pub fn rng(&self) -> MutexGuard<'_, Rng> {
        lock(&self.rng)
    }

    fn one_in(&self, n: u64) -> bool {
        n > 0 && self.rng().one_in(n)
    }

    /// Lets time pass.
    fn stall(&self) {
        let pause = 500 + self.rng().below(3000);
        self.clock.pass(pause);
        self.store.step();
    }

    fn after_append(&self, event: &Event) {
        let fated = matches!(&self.life.fate, Fate::After { kind, nth }
            if event.kind() == *kind && self.fated.fetch_add(1, Ordering::Relaxed) + 1 == *nth);
        if fated || self.life.fatal == Some(event.kind()) {
            self.clock.pass(5000);
            self.store.step();
            if self.disk.death().is_none() {
                self.ledger().tally.fault("crash after an append");
                self.disk.die();
            }
        }
        if self.one_in(self.life.stall) {
            self.ledger().tally.fault("stall");
            self.stall();
        }
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The controller's log.
pub struct CheckedLog<'a>(pub &'a Process<'a>);

impl EventLog for CheckedLog<'_> {
    fn append(
        &self,
        expected_next: Seq,
        events: &[(u64, Event)],
        durability: Durability,
    ) -> Result<Seq, AppendError> {
        let process = self.0;
        let mut events = events.to_vec();
        match (process.planted, events.as_mut_slice()) {
            (Some(Planted::DecisionTwice), [(_, Event::GateDecided(_))]) => {
                events.extend(events.clone());
            }
            (Some(Planted::Unrepeatable), [(time_ms, _), ..]) => {
                *time_ms += APPENDS.fetch_add(1, Ordering::Relaxed);
            }
            (Some(Planted::DecisionEdited), [(_, Event::GateDecided(gate))]) => {
                gate.failures += 1;
            }
            _ => {}
        }
        if expected_next.get() != process.ledger().accepted.len() as u64 {
            // Lazy events were lost to a full disk, so this append must fail.
            process.store.append(expected_next, &events, durability)?;
            let mut ledger = process.ledger();
            ledger.violated(format!(
                "event {expected_next} is appended although events before it were lost"
            ));
            return Ok(process.store.head());
        }
        {
            let mut ledger = process.ledger();
            for (time_ms, event) in &events {
                let seq = Seq::new(ledger.accepted.len() as u64);
                ledger.accept(Record {
                    seq,
                    time_ms: *time_ms,
                    event: event.clone(),
                });
            }
        }
        let head = process.store.append(expected_next, &events, durability)?;
        {
            let mut ledger = process.ledger();
            if head.get() != ledger.accepted.len() as u64 {
                ledger.violated(format!("the log says that its head is {head}"));
            }
            if durability == Durability::Durable {
                ledger.acknowledge();
            }
        }
        for (_, event) in &events {
            process.after_append(event);
        }
        Ok(head)
    }

    fn head(&self) -> Seq {
        self.0.store.head()
    }

    fn sync(&self) -> Result<Seq, AppendError> {
        if self.0.planted == Some(Planted::SyncSkipped) {
            self.0.ledger().acknowledge();
            return Ok(self.0.store.head());
        }
        let head = self.0.store.sync()?;
        let mut ledger = self.0.ledger();
        if head.get() != ledger.accepted.len() as u64 {
            let accepted = ledger.accepted.len();
            ledger.violated(format!("{accepted} events are synced at {head}"));
        }
        ledger.acknowledge();
        Ok(head)
    }

    fn read(&self, from: Seq) -> Result<Records<'_>, ReadError> {
        self.0.store.read(from)
    }
}

/// The checkpoints of a run, which outlive its processes.
#[derive(Default)]
pub struct Checkpoints {
    /// Files by path.
    written: BTreeMap<String, Vec<FileRecord>>,
    rotten: Vec<String>,
}

impl Checkpoints {
    /// Damages checkpoints: all of them, `newest`, or any one.
    pub fn rot(&mut self, newest: Option<&str>, rng: &mut Rng) -> bool {
        let paths: Vec<&str> = self.written.keys().map(String::as_str).collect();
        let newest = newest.filter(|path| paths.contains(path));
        let rotten: Vec<String> = match rng.below(4) {
            0 | 1 => paths.iter().map(|path| (*path).to_owned()).collect(),
            2 => newest.map(str::to_owned).into_iter().collect(),
            _ => rng.pick(&paths).map(str::to_owned).into_iter().collect(),
        };
        self.rotten.extend(rotten.iter().cloned());
        !rotten.is_empty()
    }
}

/// The controller's trainer.
pub struct SimTrainer<'a> {
    pub process: &'a Process<'a>,
    pub plan: &'a Plan,
    pub checkpoints: &'a RefCell<Checkpoints>,
    pub trainer: RefCell<ScriptedTrainer>,
    queue: RefCell<VecDeque<Report>>,
    /// Late reports, each with how many reports come before it.
    later: RefCell<Vec<(u64, Report)>>,
    commands: Cell<u64>,
    reports: Cell<u64>,
    /// The trainer was planned to hang, and does.
    pub silenced: Cell<bool>,
}

impl<'a> SimTrainer<'a> {
    pub fn new(
        process: &'a Process<'a>,
        plan: &'a Plan,
        checkpoints: &'a RefCell<Checkpoints>,
        trainer: ScriptedTrainer,
    ) -> SimTrainer<'a> {
        SimTrainer {
            process,
            plan,
            checkpoints,
            trainer: RefCell::new(trainer),
            queue: RefCell::default(),
            later: RefCell::default(),
            commands: Cell::new(0),
            reports: Cell::new(0),
            silenced: Cell::new(false),
        }
    }

    pub fn commands(&self) -> u64 {
        self.commands.get()
    }

    /// Kills the process, including its trainer.
    fn crash<T>(&self, name: &'static str) -> Result<T, TrainerError> {
        self.process.ledger().tally.fault(name);
        self.process.disk.die();
        Err(TrainerError::Lost)
    }

    fn gone<T>(&self) -> Result<T, TrainerError> {
        Err(TrainerError::Lost)
    }

    /// Hangs. In an exact run the process is killed before the host fails the chunk, since that would
    /// change the run.
    fn hang(&self) -> Result<Option<Report>, TrainerError> {
        if self.plan.exact {
            self.silenced.set(true);
            return self.crash("trainer hangs");
        }
        self.process.ledger().tally.fault("trainer hangs");
        self.silenced.set(true);
        Ok(None)
    }

    /// Checks that everything before the command is durable, and that the command is due.
    fn check_command(&self, command: &TrainerCommand) {
        let durable = durable_records(self.process.disk);
        let mut ledger = self.process.ledger();
        ledger.tally.commands += 1;
        match durable {
            Err(error) => ledger.violated(format!("the durable log cannot be read: {error}")),
            Ok(records) if records != ledger.accepted => {
                let (durable, all) = (records.len(), ledger.accepted.len());
                ledger.violated(format!(
                    "a command is sent with {durable} of {all} events durable"
                ));
            }
            Ok(_) => {}
        }
        let is_due = matches!(ledger.machine.decide(), Decision::Act(due) if command.is(&due));
        if !is_due {
            ledger.violated("a command is sent that is not due");
        }
    }

    fn check_training(&self, train: &TrainChunk) {
        let mut ledger = self.process.ledger();
        let (chunk, attempt) = (train.chunk.get(), train.attempt.get());
        ledger
            .tally
            .fault(self.plan.mood(&train.stage, chunk, attempt));
        // A chunk that is already at its end is only scored again.
        if train.start() < train.from || train.to < train.start() {
            let (from, to, start) = (train.from, train.to, train.start());
            ledger.violated(format!("a chunk ({from}, {to}] is trained from {start}"));
        }
        let Some(resume) = train
            .resume
            .as_ref()
            .filter(|resume| !resume.files.is_empty())
        else {
            return;
        };
        let path = &resume.checkpoint.path;
        if self.checkpoints.borrow().written.get(path) != Some(&resume.files) {
            ledger.violated(format!("`{path}` is resumed from and is not there"));
        }
    }

    /// The real trainer's answer if the checkpoint to start from is damaged.
    fn cannot_load(&self, train: &TrainChunk) -> Option<Vec<Report>> {
        let resume = train.resume.as_ref()?;
        let checkpoint = resume.checkpoint.clone();
        if !self.checkpoints.borrow().rotten.contains(&checkpoint.path) {
            return None;
        }
        self.process
            .ledger()
            .tally
            .fault("checkpoint damaged later");
        let failed = ChunkFailed {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: train.start(),
            failure: ChunkFailure::CheckpointUnloadable {
                path: checkpoint.path,
                detail: "its hash differs".to_owned(),
            },
        };
        Some(vec![Report::Fact(TrainerFact::ChunkFailed(failed))])
    }

    fn answer(&self, command: &TrainerCommand) -> Vec<Report> {
        if let TrainerCommand::TrainChunk(train) = command
            && let Some(reports) = self.cannot_load(train)
        {
            return reports;
        }
        let mut command = command.clone();
        if let (Some(Planted::WrongStart), TrainerCommand::TrainChunk(train)) =
            (self.process.planted, &mut command)
            && let Some(resume) = &mut train.resume
        {
            resume.files.clear();
        }
        self.trainer.borrow_mut().answer(&command).reports
    }

    /// The next report, possibly repeated, delayed or lost.
    fn next(&self) -> Option<Report> {
        let at = self.reports.get();
        let due = {
            let mut later = self.later.borrow_mut();
            let place = later.iter().position(|(when, _)| *when <= at);
            place.map(|place| later.remove(place).1)
        };
        if due.is_some() {
            return due;
        }
        let life = self.process.life;
        loop {
            let Some(report) = self.queue.borrow_mut().pop_front() else {
                let mut later = self.later.borrow_mut();
                return (!later.is_empty()).then(|| later.remove(0).1);
            };
            let Report::Fact(fact) = &report else {
                return Some(report);
            };
            let dropped = match self.process.planted {
                Some(Planted::ResultDropped) => true,
                Some(Planted::ResultDroppedAfterSetBack) => self.process.clock.is_set_back(),
                _ => false,
            };
            if dropped && matches!(fact, TrainerFact::ChunkFinished(_)) {
                continue;
            }
            self.note(fact);
            let mut tally = None;
            let delay = 1 + self.process.rng().below(40);
            if self.process.one_in(life.lost) {
                tally = Some("result lost");
            } else if !self.plan.exact && self.process.one_in(life.late) {
                tally = Some("result late");
                self.later.borrow_mut().push((at + delay, report.clone()));
            }
            if let Some(name) = tally {
                self.process.ledger().tally.fault(name);
                continue;
            }
            if self.process.one_in(life.twice) {
                self.process.ledger().tally.fault("result twice");
                self.later.borrow_mut().push((at + delay, report.clone()));
            }
            return Some(report);
        }
    }

    /// Records a checkpoint that was written, and checks that it does not overwrite a recorded one.
    fn note(&self, fact: &TrainerFact) {
        let TrainerFact::CheckpointWritten(written) = fact else {
            return;
        };
        let path = &written.checkpoint.path;
        let ledger = self.process.ledger();
        let known = ledger
            .state()
            .stage_named(&written.stage)
            .is_some_and(|stage| {
                stage
                    .lineage
                    .all()
                    .any(|known| known.reference.path == *path && !known.deleted)
            });
        drop(ledger);
        if known {
            let what = format!("`{path}` is overwritten, but an event refers to it");
            self.process.ledger().violated(what);
        }
        let mut checkpoints = self.checkpoints.borrow_mut();
        checkpoints
            .written
            .insert(path.clone(), written.files.clone());
        checkpoints.rotten.retain(|rotten| rotten != path);
    }
}

fn damaged() -> Rejection {
    Rejection {
        code: "hash_mismatch".to_owned(),
        text: "`model_state_dict.pt` does not match the log".to_owned(),
    }
}

/// The records that would survive the worst possible power cut.
pub fn durable_records(disk: &SimDisk) -> Result<Vec<Record>, String> {
    let after = SimDisk::default();
    after.set_journal(&disk.pristine(JOURNAL).unwrap_or_default());
    read_journal(&after)
}

pub fn read_journal(disk: &SimDisk) -> Result<Vec<Record>, String> {
    let file = disk.open(JOURNAL).map_err(|error| error.to_string())?;
    let file = file.ok_or("there is no journal")?;
    let log = LogFile::new(file).map_err(|error| error.to_string())?;
    log.records()
        .collect::<Result<Vec<Record>, ReadError>>()
        .map_err(|error| error.to_string())
}

impl Trainer for SimTrainer<'_> {
    fn send(&self, command: TrainerCommand) -> Result<(), TrainerError> {
        if self.process.disk.death().is_some() {
            return self.gone();
        }
        self.commands.set(self.commands.get() + 1);
        let number = self.commands.get();
        if self.process.life.fate == (Fate::BeforeSend { command: number }) {
            return self.crash("crash between append and send");
        }
        self.check_command(&command);
        if let TrainerCommand::TrainChunk(train) = &command {
            self.check_training(train);
        }
        if self.process.life.fate == (Fate::AfterSend { command: number }) {
            return self.crash("crash between send and result");
        }
        let reports = self.answer(&command);
        self.queue.borrow_mut().extend(reports);
        Ok(())
    }

    fn receive(&self, _: Duration) -> Result<Option<Report>, TrainerError> {
        let process = self.process;
        if process.ledger().violation.is_some() {
            process.disk.die();
        }
        if process.disk.death().is_some() {
            return self.gone();
        }
        if self.silenced.get() {
            process.clock.pass(1000);
            process.store.step();
            return Ok(None);
        }
        let number = self.reports.get() + 1;
        self.reports.set(number);
        if number > REPORTS_MAX {
            process.ledger().violated("the run does not end");
            return self.gone();
        }
        let pause = process.rng().below(300);
        process.clock.pass(pause);
        process.store.step();
        match &process.life.fate {
            Fate::AmongReports { reports } if *reports == number => {
                return self.crash("crash among results");
            }
            Fate::Hang { reports } if *reports == number => {
                process.clock.pass(600_000);
                process.store.step();
                return self.hang();
            }
            Fate::TrainerGone { reports } if *reports == number => {
                self.silenced.set(true);
                process.ledger().tally.fault("trainer goes away");
                return self.gone();
            }
            _ => {}
        }
        match self.next() {
            Some(report) => Ok(Some(report)),
            // A result was lost, so the trainer stays silent.
            None if process.life.lost > 0 => self.hang(),
            None => {
                process
                    .ledger()
                    .violated("the controller waits for a report that is not due");
                self.gone()
            }
        }
    }

    // The script produces signals.
    fn stop(&self, _: &str) {}

    fn end(&self) -> Ended {
        Ended::OnlyWithThisProcess
    }
}

impl Judge for SimTrainer<'_> {
    fn judge(&self, asked: &JudgeCheckpoint, weights_only: bool) -> Verdict {
        if !self
            .checkpoints
            .borrow()
            .rotten
            .contains(&asked.checkpoint.path)
        {
            return ScriptedJudge.judge(asked, weights_only);
        }
        Verdict::Judged(CheckpointJudged {
            stage: asked.stage.clone(),
            checkpoint: asked.checkpoint.clone(),
            rejected: Some(damaged()),
        })
    }
}

/// An observer that checks what it is notified of.
pub struct CheckedObserver<'a> {
    pub process: &'a Process<'a>,
    pub checkpoints: &'a RefCell<Checkpoints>,
}

impl Observer for CheckedObserver<'_> {
    fn recorded(&mut self, record: &Record, state: &RunState) {
        let mut ledger = self.process.ledger();
        if ledger.acknowledged as u64 <= record.seq.get() {
            let seq = record.seq;
            ledger.violated(format!(
                "the observer gets event {seq}, which is not durable"
            ));
        }
        if ledger.accepted.get(record.seq.get() as usize) != Some(record) {
            ledger.violated("the observer gets an event that differs from the log");
        }
        if state != ledger.state() {
            ledger.violated("the controller's state is not the fold of the log");
        }
        if let Event::CheckpointDeleted(deleted) = &record.event {
            let mut checkpoints = self.checkpoints.borrow_mut();
            checkpoints.written.remove(&deleted.checkpoint.path);
        }
    }

    fn progressed(&mut self, _progress: &Progress) {}
}
