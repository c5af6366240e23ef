//! Simulates a run from its first process to its end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tinygate::controller::{ControlError, Controller, Ending, Host};
use tinygate::events::{
    CheckpointGivenUp, Event, FallbackGranted, PruneRequested, Record, Scalar, Seq, SettingChanged,
    SettingKey, SettingValue,
};
use tinygate::machine::{Machine, Phase, RunPhase, RunState};
use tinygate::store::disk::{JOURNAL, MirrorKey};
use tinygate::store::{EventLog, FILE_HEADER, MemoryLog, OpenError, Store};
use tinygate::trainer::{
    Ended, Patience, Report, StopRequest, Trainer, TrainerCommand, TrainerError,
};
use tinygate_testing::disk::{Moment, Operation, SimDisk, Trouble};
use tinygate_testing::{Disturbance, Quiet, Rng, ScriptedTrainer, host, process};

use crate::fault::Fault;
use crate::keep::Keep;
use crate::ledger::Ledger;
use crate::plan::{Fate, Life, Plan};
use crate::planted::Planted;
use crate::process::{
    CheckedLog, CheckedObserver, Checkpoints, Clock, Process, SimTrainer, lock, read_journal,
};
use crate::tally::Tally;

/// Most processes without faults after which the run must have ended.
const CALM_MAX: u64 = 8;

/// Seconds for which a trainer may be silent.
const SILENCE_MAX: u32 = 30;
/// A run directory in which nothing can be created. Links and deletions of checkpoints fail, which
/// changes nothing; tests with real files cover them.
const NO_DIRECTORY: &str = "/dev/null/simulated";

/// A run to simulate: a seed, a selection of its faults, and a bug to find.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    /// `None`: all of the seed's faults.
    pub keep: Option<Keep>,
    pub planted: Option<Planted>,
}

impl Case {
    pub fn new(seed: u64) -> Case {
        Case {
            seed,
            keep: None,
            planted: None,
        }
    }

    #[must_use]
    pub fn planted(self, planted: Planted) -> Case {
        let planted = Some(planted);
        Case { planted, ..self }
    }

    #[must_use]
    pub fn keep(&self, keep: Keep) -> Case {
        let keep = Some(keep);
        Case {
            keep,
            ..self.clone()
        }
    }

    /// All faults of the seed, whatever is kept; the first has number 1.
    pub fn faults(&self) -> Vec<Fault> {
        Plan::of(self.seed).faults()
    }

    /// The faults that are kept, each with its number and its lowered value.
    pub fn kept_faults(&self) -> Vec<String> {
        let mut plan = Plan::of(self.seed);
        let all = Keep::first(plan.faults().len());
        let keep = self.keep.as_ref().unwrap_or(&all);
        plan.keep(keep);
        let numbered = keep.faults().into_iter().zip(plan.faults());
        numbered
            .map(|(number, fault)| format!("{number:>3}  {}", fault.text))
            .collect()
    }
}

/// The result of a simulated run.
#[derive(Clone, Debug)]
pub struct Simulated {
    pub tally: Tally,
    /// `None`: every invariant held.
    pub violation: Option<String>,
    /// What happened to each process, and how it ended.
    pub story: Vec<String>,
    /// Every event that was passed to the log and may be in it.
    pub records: Vec<Record>,
    /// The journal's bytes at the end.
    pub journal: Vec<u8>,
}

impl Simulated {
    /// Hash of the log, the story and the tally, which is the same for the same seed.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.journal);
        hasher.update(format!("{:?} {:?}", self.tally, self.story).as_bytes());
        hasher.finalize().to_hex().to_string()
    }
}

/// Runs a case once.
pub fn simulate(case: &Case) -> Simulated {
    let (seed, planted) = (case.seed, case.planted);
    let mut plan = Plan::of(seed);
    if let Some(keep) = &case.keep {
        plan.keep(keep);
    }
    let mut world = World {
        disk: SimDisk::default(),
        clock: Clock::new(),
        ledger: Mutex::new(Ledger::new(plan.exact)),
        checkpoints: RefCell::default(),
        rng: Rng::new(seed).part("world"),
        damaged: false,
        story: Vec::new(),
        last_crashed: false,
        plan,
        planted,
    };
    world.disk.state().faults.sync_lies = planted == Some(Planted::SyncLies);
    let ended = world.run();
    let mut ledger = world.ledger.into_inner().unwrap_or_else(|e| e.into_inner());
    if let Err(violation) = ended {
        ledger.violated(violation);
    }
    Simulated {
        tally: ledger.tally,
        violation: ledger.violation,
        story: world.story,
        records: ledger.accepted,
        journal: world.disk.journal(),
    }
}

struct World {
    plan: Plan,
    planted: Option<Planted>,
    disk: SimDisk,
    clock: Clock,
    ledger: Mutex<Ledger>,
    checkpoints: RefCell<Checkpoints>,
    rng: Rng,
    /// One copy is damaged, and the log has not been opened since.
    damaged: bool,
    story: Vec<String>,
    /// The last process died before it had sent anything.
    last_crashed: bool,
}

/// How a process ended.
enum End {
    /// The run has ended.
    Over(&'static str),
    Again,
}

impl World {
    fn run(&mut self) -> Result<(), String> {
        for life in std::mem::take(&mut self.plan.lives) {
            if let End::Over(ending) = self.process(&life)? {
                return self.end(ending);
            }
            self.reboot(&life)?;
        }
        for _ in 0..CALM_MAX + self.plan.reopenings {
            if let End::Over(ending) = self.process(&Life::calm())? {
                return self.end(ending);
            }
            self.disk.kill();
        }
        Err("the run does not end even without more faults".to_owned())
    }

    /// Whether an operation failed in this process, rather than only being short.
    fn troubled(&self) -> bool {
        const HARMLESS: [&str; 3] = ["short read", "short write", "interrupted call"];
        let state = self.disk.state();
        state
            .faults
            .hits
            .keys()
            .any(|name| !HARMLESS.contains(name))
    }

    fn tally(&self, name: &'static str) {
        lock(&self.ledger).tally.fault(name);
    }

    /// What happens between two processes.
    fn reboot(&mut self, life: &Life) -> Result<(), String> {
        let died = self.disk.death().is_some();
        if life.power_cut {
            self.tally("power cut");
            self.disk.power_cut(&mut self.rng);
        } else {
            if died {
                self.tally("kill");
            }
            self.disk.kill();
        }
        let hits = std::mem::take(&mut self.disk.state().faults.hits);
        for (name, times) in hits {
            lock(&self.ledger).tally.faults(name, times);
        }
        if life.damage && !self.damaged && lock(&self.ledger).acknowledged > 0 {
            self.damage();
        }
        if life.rot {
            self.rot();
        }
        if life.set_back > 0 {
            self.tally("clock set back");
            self.clock.set_back(life.set_back);
        }
        Ok(())
    }

    fn rot(&mut self) {
        let ledger = lock(&self.ledger);
        let stage = ledger.state().stage();
        let newest = stage.and_then(|stage| stage.lineage.newest_accepted());
        let newest = newest.map(|checkpoint| checkpoint.reference.path.as_str());
        if self.checkpoints.borrow_mut().rot(newest, &mut self.rng) {
            self.story.push("a checkpoint rots".to_owned());
        }
    }

    /// Damages one copy; in the journal only what sled holds durably.
    fn damage(&mut self) {
        let journal = self.disk.pristine(JOURNAL).unwrap_or_default();
        let synced = self.disk.state().mirror_synced.clone().unwrap_or_default();
        let blocks = block_ends(&journal);
        let held = (0..).take_while(|n| synced.contains_key(&MirrorKey::Block(*n)));
        let held = held.count().min(blocks.len());
        let whole = held == blocks.len() && journal == self.disk.journal();
        let headed = synced.contains_key(&MirrorKey::FileHeader);
        let keys: Vec<MirrorKey> = synced.keys().copied().collect();
        let key = self.rng.pick(&keys);
        let mask = 1 << self.rng.below(8);
        let name = match self.rng.below(8) {
            0..3 if headed && held > 0 => {
                let end = blocks.get(held - 1).copied().unwrap_or(FILE_HEADER);
                let offset = self.rng.below(end as u64) as usize;
                self.disk.flip(JOURNAL, offset, mask);
                "bit flip in the journal"
            }
            3 if headed && whole => {
                let length = self.rng.below(journal.len() as u64) as usize;
                let kept = journal.get(..length).unwrap_or_default();
                self.disk.set_journal(kept);
                "journal cut short"
            }
            4 if headed && whole => {
                self.disk.remove_journal();
                "journal gone"
            }
            5 if key.is_some() => {
                let key = key.unwrap_or(MirrorKey::Head);
                self.disk.lose_mirror(Some(key));
                "sled lost a value"
            }
            6 => {
                self.disk.lose_mirror(None);
                "sled gone"
            }
            7 => {
                self.disk.break_mirror();
                "sled does not open"
            }
            _ => {
                let Some(key) = key else { return };
                let length = synced.get(&key).map_or(0, Vec::len) as u64;
                let offset = self.rng.below(length) as usize;
                self.disk.flip_mirror(key, offset, mask);
                "bit flip in sled"
            }
        };
        self.tally(name);
        self.damaged = true;
        self.story.push(name.to_owned());
    }

    /// One process, from opening the log to its end.
    fn process(&mut self, life: &Life) -> Result<End, String> {
        lock(&self.ledger).tally.processes += 1;
        self.plan_troubles(life);
        let store = match self.open(life)? {
            Some(store) => store,
            None => {
                self.crashed(life, "while the log was opened");
                return Ok(End::Again);
            }
        };
        let part = format!("process {}", lock(&self.ledger).tally.processes);
        let process = Process {
            store: &store,
            disk: &self.disk,
            clock: &self.clock,
            ledger: &self.ledger,
            life,
            planted: self.planted,
            rng: Mutex::new(self.rng.part(&part)),
            fated: AtomicU64::new(0),
        };
        let trainer = self.trainer(life);
        let trainer = SimTrainer::new(&process, &self.plan, &self.checkpoints, trainer);
        let ended = self.drive(&process, &trainer);
        let silenced = trainer.silenced.get();
        let commands = trainer.commands();
        let died = self.disk.death().is_some();
        let closed = if died { Ok(Seq::FIRST) } else { store.close() };
        if let Some(violation) = lock(&self.ledger).violation.clone() {
            return Err(violation);
        }
        let trouble = self.troubled();
        let end = match ended {
            _ if died => End::Again,
            Ok(Ending::Finished) => End::Over("finished"),
            Ok(Ending::Stopped) => self.stopped(),
            Ok(Ending::Interrupted { .. }) => {
                self.tally("signal");
                End::Again
            }
            Ok(Ending::Environment { .. }) => {
                self.tally("full disk of the trainer");
                End::Again
            }
            Ok(Ending::NoProgress(_)) if silenced => End::Again,
            Ok(Ending::NoProgress(silent)) => {
                return Err(format!(
                    "a trainer that is not silent is given up: {silent:?}"
                ));
            }
            Err(ControlError::TrainerLost) if silenced => End::Again,
            Err(ControlError::Append(_) | ControlError::Read(_)) if trouble => End::Again,
            Err(error) => return Err(format!("a process fails without a fault: {error}")),
        };
        if died {
            let what = if commands == 0 {
                "before any command"
            } else {
                "while it worked"
            };
            self.crashed(life, what);
            if commands > 0 {
                self.last_crashed = false;
            }
        } else {
            self.last_crashed = false;
            self.story.push(format!(
                "{:?}: ended with the log at {:?}",
                life.fate,
                closed.as_ref().map_or(0, |head| head.get())
            ));
        }
        match (end, closed) {
            // If the log cannot be closed, it is opened and repaired once more.
            (End::Over(_), Err(_)) if trouble => Ok(End::Again),
            (End::Over(_), Err(error)) => Err(format!("the log cannot be closed: {error}")),
            (end, _) => Ok(end),
        }
    }

    fn crashed(&mut self, life: &Life, when: &str) {
        let death = self.disk.death();
        let writes = |operation| matches!(operation, Operation::Write | Operation::Sync);
        if let Some(death) = death
            && when != "while the log was opened"
            && writes(death.operation)
        {
            self.tally(match (death.operation, death.moment) {
                (Operation::Write, Moment::Before) => "crash before an append",
                (Operation::Sync, Moment::After) => "crash after an append",
                _ => "crash half-way through an append",
            });
        }
        if self.last_crashed && death.is_some() {
            self.tally("crash twice in a row");
        }
        self.last_crashed = death.is_some();
        self.story
            .push(format!("{:?}: gone {when}, {death:?}", life.fate));
    }

    fn plan_troubles(&mut self, life: &Life) {
        let now = self.disk.operations();
        let damaged = self.damaged;
        let mut planned: Vec<(u64, Trouble)> = life
            .troubles
            .iter()
            // Surviving faults of both copies at once is not promised.
            .filter(|(_, trouble)| !damaged || *trouble != Trouble::MirrorError)
            .map(|(at, trouble)| (now + at, *trouble))
            .collect();
        if let Fate::AtOperation { at, moment } = life.fate {
            planned.push((now + at, Trouble::Death(moment)));
        }
        self.disk.state().faults.planned = planned;
    }

    fn trainer(&self, life: &Life) -> ScriptedTrainer {
        use tinygate_testing::Trouble;
        let trainer = ScriptedTrainer::new(self.plan.script.clone()).chained();
        match &life.fate {
            Fate::Signal { stage, after } => {
                let signal = Trouble::Signal("SIGTERM".to_owned());
                trainer.disturbed(Disturbance::new(stage.as_str(), *after, signal))
            }
            Fate::Environment { stage, after } => {
                let full = Trouble::Environment("no space left".to_owned());
                trainer.disturbed(Disturbance::new(stage.as_str(), *after, full))
            }
            _ => trainer,
        }
    }

    /// Opens or creates the log as a new process does. `None`: the process died.
    fn open(&mut self, life: &Life) -> Result<Option<Store>, String> {
        let clock = self.clock.clone();
        let started = self.disk.operations();
        match Store::open_in_steps(self.disk.arc(), move || clock.now()) {
            Ok((store, repairs)) if store.head() > Seq::FIRST => {
                self.damaged = false;
                if !self.opened(&store)? {
                    return Ok(None);
                }
                self.kept(&repairs)?;
                lock(&self.ledger).repairs = repairs.into_iter().map(Into::into).collect();
                return Ok(Some(store));
            }
            Ok((store, _)) => drop(store),
            Err(OpenError::NotALog { .. }) => {}
            Err(error) => {
                let trouble = self.troubled();
                if self.disk.death().is_some() {
                    self.tally("crash during recovery");
                } else if !trouble || matches!(error, OpenError::Forked { .. }) {
                    return Err(format!("the log cannot be opened: {error}"));
                }
                return Ok(None);
            }
        }
        if self.disk.death().is_some() {
            self.tally("crash while the log is made");
            return Ok(None);
        }
        let acknowledged = lock(&self.ledger).acknowledged;
        if acknowledged > 0 {
            return Err(format!(
                "all of {acknowledged} acknowledged events are lost"
            ));
        }
        let clock = self.clock.clone();
        let mut nonce = [0; 16];
        for (byte, from) in nonce.iter_mut().zip(started.to_le_bytes()) {
            *byte = from;
        }
        let made = Store::create_in_steps(self.disk.arc(), "simulated", nonce, move || clock.now());
        match made {
            Ok(store) => {
                lock(&self.ledger).reopen(Vec::new());
                Ok(Some(store))
            }
            Err(_) if self.disk.death().is_some() => {
                self.tally("crash while the log is made");
                Ok(None)
            }
            Err(_) if self.troubled() => Ok(None),
            Err(error) => Err(format!(
                "the log cannot be created ({:?}): {error}",
                life.fate
            )),
        }
    }

    /// Checks that a new process finds everything that was acknowledged and nothing that was
    /// not appended. `false`: a fault prevented reading.
    fn opened(&mut self, store: &Store) -> Result<bool, String> {
        let read = |from: Seq| -> Result<Vec<Record>, String> {
            let records = store.read(from).map_err(|error| error.to_string())?;
            let records: Result<Vec<Record>, _> = records.collect();
            records.map_err(|error| error.to_string())
        };
        let records = match read(Seq::FIRST) {
            Ok(records) => records,
            Err(error) => return self.unread(&error),
        };
        let split = self.rng.below(records.len() as u64 + 1);
        let mut ledger = lock(&self.ledger);
        ledger.reopen(records);
        let mut machine = Machine::default();
        for record in ledger.accepted.iter().take(split as usize) {
            machine.apply(&record.event);
        }
        drop(ledger);
        let rest = match read(Seq::new(split)) {
            Ok(rest) => rest,
            Err(error) => return self.unread(&error),
        };
        for record in &rest {
            machine.apply(&record.event);
        }
        let mut ledger = lock(&self.ledger);
        if machine != ledger.machine {
            ledger.violated(format!(
                "the fold of {split} events and of the rest is not the fold of all"
            ));
        }
        ledger.violation.clone().map_or(Ok(true), Err)
    }

    /// Handles a failure to read, which is only allowed after a fault.
    fn unread(&self, error: &str) -> Result<bool, String> {
        if self.troubled() || self.disk.death().is_some() {
            Ok(false)
        } else {
            Err(format!("the log cannot be read: {error}"))
        }
    }

    /// Checks that damaged bytes are kept where the repair says.
    fn kept(&self, repairs: &[tinygate::store::Repair]) -> Result<(), String> {
        let state = self.disk.file_names();
        let aside = self.disk.state().aside.clone();
        for name in repairs
            .iter()
            .filter_map(|repair| repair.quarantine.as_ref())
        {
            if !state.contains(name) && !aside.contains_key(name) {
                return Err(format!(
                    "`{name}`, which should have the damaged bytes, is missing"
                ));
            }
        }
        Ok(())
    }

    /// As the program does: records repairs, the first event and a person's changes, then runs.
    fn drive(
        &self,
        process: &Process<'_>,
        trainer: &SimTrainer<'_>,
    ) -> Result<Ending, ControlError> {
        let log = CheckedLog(process);
        let clock = self.clock.clone();
        let directory = Path::new(NO_DIRECTORY);
        let mut controller = Controller::open(&log, directory, move || clock.people())?;
        let repairs = std::mem::take(&mut lock(&self.ledger).repairs);
        controller.record_repairs(repairs)?;
        let number = lock(&self.ledger).tally.processes;
        let stopping = matches!(controller.state().phase, RunPhase::Stopping(_));
        let wild = !self.plan.exact && (process.life.change || stopping);
        let wanted = wanted(&self.plan, controller.state(), &self.events(), wild, number);
        for fact in wanted {
            if let Event::SettingChanged(change) = &fact {
                self.tally(if change.key == SettingKey::MaxRetries {
                    "more retries allowed"
                } else {
                    "setting changed"
                });
            }
            controller.record_fact(fact)?;
        }
        let give_up = !self.plan.exact
            && (is_between_chunks(controller.state()) || (wild && number.is_multiple_of(3)));
        if give_up && let Some(given_up) = newest_given_up(controller.state()) {
            self.tally("checkpoint given up");
            controller.record_fact(given_up)?;
        }
        let pid = 1000 + controller.state().process.starts;
        let mut listener = CheckedObserver {
            process,
            checkpoints: &self.checkpoints,
        };
        if wild && number.is_multiple_of(2) {
            self.tally("checkpoints pruned");
            let asked = PruneRequested {
                keep_last: (number % 3) as u32,
                who: "somebody".to_owned(),
            };
            controller.prune(asked, &mut listener)?;
        }
        let host = Host {
            trainer,
            judge: trainer,
            patience: Patience::new(Some(SILENCE_MAX)),
            stop: &StopRequest::default(),
        };
        controller.run(tinygate_testing::process(pid), host, &mut listener)
    }

    fn events(&self) -> Vec<Event> {
        let ledger = lock(&self.ledger);
        let events = ledger.accepted.iter().map(|record| record.event.clone());
        events.collect()
    }

    fn stopped(&self) -> End {
        if reopenings(&self.events()) < self.plan.reopenings {
            End::Again
        } else {
            End::Over("stopped")
        }
    }

    /// Checks a run that has ended: both copies are intact, and it went as without faults.
    fn end(&mut self, ending: &'static str) -> Result<(), String> {
        let hits = std::mem::take(&mut self.disk.state().faults.hits);
        for (name, times) in hits {
            lock(&self.ledger).tally.faults(name, times);
        }
        self.disk.power_cut(&mut self.rng);
        self.disk.state().faults.hits.clear();
        let clock = self.clock.clone();
        let opened = Store::open_in_steps(self.disk.arc(), move || clock.now());
        let (store, repairs) = opened.map_err(|error| format!("at the end: {error}"))?;
        if !repairs.is_empty() {
            return Err(format!("a closed log needed repairs: {repairs:?}"));
        }
        self.opened(&store)?;
        store
            .close()
            .map_err(|error| format!("at the end: {error}"))?;
        self.copies_agree()?;
        if read_journal(&self.disk)? != lock(&self.ledger).accepted {
            return Err("the log at the end is not what was appended".to_owned());
        }
        lock(&self.ledger).tally.endings.insert(ending, 1);
        if self.plan.exact {
            self.compare()?;
        }
        Ok(())
    }

    fn copies_agree(&self) -> Result<(), String> {
        let journal = self.disk.journal();
        let mirror = self.disk.state().mirror.clone().unwrap_or_default();
        let mut from = FILE_HEADER;
        for (number, end) in block_ends(&journal).into_iter().enumerate() {
            let block = mirror.get(&MirrorKey::Block(number as u64));
            if block.map(Vec::as_slice) != journal.get(from..end) {
                return Err(format!("block {number} differs between the copies"));
            }
            from = end;
        }
        let blocks = mirror.len().saturating_sub(2);
        if blocks != block_ends(&journal).len() {
            return Err(format!(
                "sled has {blocks} blocks, but the journal has a different number"
            ));
        }
        Ok(())
    }

    fn compare(&self) -> Result<(), String> {
        let whole = undisturbed(&self.plan)?;
        let mut ledger = lock(&self.ledger);
        ledger.tally.exact += 1;
        let (mine, theirs) = (decisions(&ledger.accepted), decisions(&whole));
        if let Some(place) =
            (0..mine.len().max(theirs.len())).find(|at| mine.get(*at) != theirs.get(*at))
        {
            return Err(format!(
                "decision {place} is not that of the run without faults: {:?}, not {:?}",
                mine.get(place),
                theirs.get(place)
            ));
        }
        let mut machine = Machine::default();
        for record in &whole {
            machine.apply(&record.event);
        }
        let (mine, theirs) = (
            ledger.state().without_process(),
            machine.state().without_process(),
        );
        if mine != theirs {
            return Err(difference(&mine, &theirs));
        }
        Ok(())
    }
}

/// Describes roughly where two states differ.
fn difference(mine: &RunState, theirs: &RunState) -> String {
    let (mine, theirs) = (format!("{mine:#?}"), format!("{theirs:#?}"));
    let line = mine.lines().zip(theirs.lines()).find(|(a, b)| a != b);
    format!("the run ends in another state than without faults: {line:?}")
}

/// Where each block of a journal ends.
fn block_ends(journal: &[u8]) -> Vec<usize> {
    const HEADER: usize = 104;
    let mut ends = Vec::new();
    let mut at = FILE_HEADER;
    while let (Some(low), Some(high)) = (journal.get(at + 36), journal.get(at + 37)) {
        at += HEADER + usize::from(u16::from_le_bytes([*low, *high]));
        if journal.len() < at {
            break;
        }
        ends.push(at);
    }
    ends
}

fn decisions(records: &[Record]) -> Vec<&Event> {
    let events = records.iter().map(|record| &record.event);
    // Only crashes supersede samples.
    let decided =
        |event: &&Event| event.is_decision() && !matches!(event, Event::SamplesSuperseded(_));
    events.filter(decided).collect()
}

/// How many times stages were allowed more retries so far.
fn reopenings(events: &[Event]) -> u64 {
    let allowed = |event: &&Event| {
        matches!(event, Event::SettingChanged(change)
            if change.key == SettingKey::MaxRetries && change.stage.is_some())
    };
    events.iter().filter(allowed).count() as u64
}

/// Whether the run is between two chunks, where few processes start by chance.
fn is_between_chunks(state: &RunState) -> bool {
    let stage = state.stage();
    stage.is_some_and(|stage| matches!(stage.phase, Phase::Recording { .. }))
}

/// Gives up the newest accepted checkpoint, if an older one is left.
fn newest_given_up(state: &RunState) -> Option<Event> {
    let stage = state.stage()?;
    let mut usable = stage.lineage.present().rev().filter(|one| one.is_usable());
    let newest = usable.next()?;
    usable.next()?;
    Some(Event::CheckpointGivenUp(CheckpointGivenUp {
        stage: stage.name().clone(),
        checkpoint: newest.reference.clone(),
        who: "somebody".to_owned(),
        why: "its files are gone".to_owned(),
    }))
}

/// What a person does before the run continues.
fn wanted(plan: &Plan, state: &RunState, events: &[Event], wild: bool, number: u64) -> Vec<Event> {
    let mut facts = Vec::new();
    if state.created.is_none() {
        facts.push(plan.created.clone());
    }
    if plan.granted && state.fallback.is_none() {
        facts.push(Event::FallbackGranted(FallbackGranted {
            ranks_wanted: 2,
            ranks_available: 1,
            accumulation_factor: 2,
            granted_by: "config".to_owned(),
        }));
    }
    let change = |stage, key, from, to| {
        Event::SettingChanged(SettingChanged {
            stage,
            key,
            from,
            to,
            who: "somebody".to_owned(),
            why: "command line".to_owned(),
        })
    };
    let stage = state.stage();
    if let (true, Some(stage)) = (wild, stage) {
        let rate = stage.settings.learning_rate;
        let least = stage.policy.bounds.learning_rate_min.get();
        let to = Scalar::new((rate.get() * 0.9).max(least.min(rate.get())));
        let (from, to) = (SettingValue::Real(rate), SettingValue::Real(to));
        facts.push(change(
            Some(stage.name().clone()),
            SettingKey::LearningRate,
            from,
            to,
        ));
    }
    let more = |from: u32, by: u64| {
        let from = u64::from(from);
        (SettingValue::Count(from), SettingValue::Count(from + by))
    };
    match (state.phase, stage) {
        (RunPhase::Stopped(_), Some(stage)) if reopenings(events) < plan.reopenings => {
            let (from, to) = more(stage.max_retries, 1 + plan.seed % 2);
            let name = Some(stage.name().clone());
            facts.push(change(name, SettingKey::MaxRetries, from, to));
        }
        // Before the stop is recorded, only the whole policy may be changed.
        (RunPhase::Stopping(_), Some(stage)) if wild && number.is_multiple_of(2) => {
            let (from, to) = more(stage.max_retries, 1);
            facts.push(change(None, SettingKey::MaxRetries, from, to));
        }
        _ => {}
    }
    facts
}

/// The log of the same run without a fault.
fn undisturbed(plan: &Plan) -> Result<Vec<Record>, String> {
    let log = MemoryLog::new();
    for _ in 0..CALM_MAX + plan.reopenings {
        let clock = Clock::new();
        let controller = Controller::open(&log, Path::new(NO_DIRECTORY), move || clock.people());
        let mut controller = controller.map_err(|error| error.to_string())?;
        let events: Vec<Event> = log
            .records()
            .into_iter()
            .map(|record| record.event)
            .collect();
        for fact in wanted(plan, controller.state(), &events, false, 0) {
            controller
                .record_fact(fact)
                .map_err(|error| error.to_string())?;
        }
        let trainer = Undisturbed {
            trainer: RefCell::new(ScriptedTrainer::new(plan.script.clone()).chained()),
            queue: RefCell::default(),
        };
        let stop = StopRequest::default();
        let ended = controller.run(process(1), host(&trainer, &stop), &mut Quiet);
        match ended.map_err(|error| format!("without faults: {error}"))? {
            Ending::Finished => return Ok(log.records()),
            Ending::Stopped => {
                let events: Vec<Event> = log
                    .records()
                    .into_iter()
                    .map(|record| record.event)
                    .collect();
                if plan.reopenings <= reopenings(&events) {
                    return Ok(log.records());
                }
            }
            Ending::Interrupted { .. } | Ending::Environment { .. } | Ending::NoProgress(_) => {}
        }
    }
    Err("a run without any fault does not end".to_owned())
}

struct Undisturbed {
    trainer: RefCell<ScriptedTrainer>,
    queue: RefCell<VecDeque<Report>>,
}

impl Trainer for Undisturbed {
    fn send(&self, command: TrainerCommand) -> Result<(), TrainerError> {
        let answer = self.trainer.borrow_mut().answer(&command);
        self.queue.borrow_mut().extend(answer.reports);
        Ok(())
    }

    fn receive(&self, _: Duration) -> Result<Option<Report>, TrainerError> {
        let next = self.queue.borrow_mut().pop_front();
        next.map(Some).ok_or(TrainerError::Lost)
    }

    fn stop(&self, _: &str) {}

    fn end(&self) -> Ended {
        Ended::OnlyWithThisProcess
    }
}
