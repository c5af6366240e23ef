//! The order of effects: commands and notifications come only after the events that cause them are durable.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam_channel::Receiver;
use tinygate::controller::{ControlError, Controller, Ending, Observer};
use tinygate::events::{CheckpointWritten, Event, Record, Seq};
use tinygate::machine::{Command, Decision, Idle, JudgeCheckpoint, Machine, RunState};
use tinygate::presets::ModelKind;
use tinygate::store::{AppendError, Durability, EventLog, MemoryLog, ReadError, Records};
use tinygate::trainer::{
    Channels, Judge as _, Progress, Report, StopRequest, TrainerCommand, TrainerFact, Verdict,
};
use tinygate_testing::{
    ChunkPlan, Curve, Quiet, Script, ScriptedJudge, ScriptedTrainer, created, host, process,
    short_policy,
};

/// A call to the log or the observer, and how many commands had been sent by then.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    what: What,
    sent: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Append {
        kind: &'static str,
        decision: bool,
        durability: Durability,
    },
    Sync,
    Heard {
        seq: Seq,
    },
}

/// A log that records how it is used, and how many commands are in the trainer's channel.
struct WatchedLog {
    log: MemoryLog,
    commands: Receiver<TrainerCommand>,
    calls: Mutex<Vec<Call>>,
}

impl WatchedLog {
    fn note(&self, what: What) {
        let sent = self.commands.len();
        self.calls().push(Call { what, sent });
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap()
    }
}

impl EventLog for WatchedLog {
    fn append(
        &self,
        expected_next: Seq,
        events: &[(u64, Event)],
        durability: Durability,
    ) -> Result<Seq, AppendError> {
        for (_, event) in events {
            self.note(What::Append {
                kind: event.kind(),
                decision: event.is_decision(),
                durability,
            });
        }
        self.log.append(expected_next, events, durability)
    }

    fn head(&self) -> Seq {
        self.log.head()
    }

    fn sync(&self) -> Result<Seq, AppendError> {
        self.note(What::Sync);
        self.log.sync()
    }

    fn read(&self, from: Seq) -> Result<Records<'_>, ReadError> {
        self.log.read(from)
    }
}

/// A log that silently loses the first lazy event.
struct Forgetful {
    log: MemoryLog,
    lost: AtomicBool,
}

impl EventLog for Forgetful {
    fn append(
        &self,
        expected_next: Seq,
        events: &[(u64, Event)],
        durability: Durability,
    ) -> Result<Seq, AppendError> {
        if durability == Durability::Lazy && !self.lost.swap(true, Ordering::Relaxed) {
            return Ok(Seq::new(expected_next.get() + 1));
        }
        self.log.append(expected_next, events, durability)
    }

    fn head(&self) -> Seq {
        self.log.head()
    }

    fn sync(&self) -> Result<Seq, AppendError> {
        self.log.sync()
    }

    fn read(&self, from: Seq) -> Result<Records<'_>, ReadError> {
        self.log.read(from)
    }
}

struct CallObserver<'a>(&'a WatchedLog);

impl Observer for CallObserver<'_> {
    fn recorded(&mut self, record: &Record, _state: &RunState) {
        self.0.note(What::Heard { seq: record.seq });
    }

    fn progressed(&mut self, _progress: &Progress) {}
}

fn script() -> Script {
    let plateau = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.02));
    Script::new(1).chunk("video_tokenizer", 2, plateau)
}

fn for_trainer(command: Command) -> TrainerCommand {
    match command {
        Command::MeasureStage(measure) => TrainerCommand::MeasureStage(measure),
        Command::TrainChunk(train) => TrainerCommand::TrainChunk(train),
        Command::JudgeCheckpoint(_) => panic!("the host judges"),
    }
}

fn judged(written: &CheckpointWritten) -> Event {
    let asked = JudgeCheckpoint {
        stage: written.stage.clone(),
        checkpoint: written.checkpoint.clone(),
        files: written.files.clone(),
    };
    match ScriptedJudge.judge(&asked, false) {
        Verdict::Judged(verdict) | Verdict::Absent { verdict, .. } => {
            Event::CheckpointJudged(verdict)
        }
    }
}

/// All reports of the trainer during the whole run.
fn reports() -> Vec<Report> {
    let mut trainer = ScriptedTrainer::new(script());
    let mut machine = Machine::default();
    machine.apply(&created(short_policy(), 7));
    let mut all = Vec::new();
    for _ in 0..10_000 {
        match machine.decide() {
            Decision::Record(event) => {
                machine.apply(&event);
            }
            Decision::Act(command) => {
                for report in trainer.answer(&for_trainer(command)).reports {
                    if let Report::Fact(fact) = &report {
                        machine.apply(&fact.clone().into());
                        if let TrainerFact::CheckpointWritten(written) = fact {
                            machine.apply(&judged(written));
                        }
                    }
                    all.push(report);
                }
            }
            Decision::Idle(_) => return all,
        }
    }
    panic!("the run does not end");
}

/// Runs in one thread: all reports are put into the channel beforehand.
fn calls() -> Vec<Call> {
    let stop = Arc::new(StopRequest::default());
    let (trainer, commanded, reporting) = Channels::new(Arc::clone(&stop));
    for report in reports() {
        reporting.send(report).unwrap();
    }
    let log = WatchedLog {
        log: MemoryLog::with([(0, created(short_policy(), 7))]),
        commands: commanded,
        calls: Mutex::new(Vec::new()),
    };
    let directory = tempfile::tempdir().unwrap();
    let mut controller = Controller::open(&log, directory.path(), || 5).unwrap();
    let ending = controller
        .run(process(1), host(&trainer, &stop), &mut CallObserver(&log))
        .unwrap();
    assert_eq!(ending, Ending::Finished);
    log.calls().clone()
}

#[test]
fn a_command_is_sent_only_when_every_event_before_it_is_durable() {
    let calls = calls();
    let mut unsynced = 0;
    let mut sent = 0;
    for call in &calls {
        if sent < call.sent {
            assert_eq!(call.sent, sent + 1, "one command at a time");
            assert_eq!(
                unsynced, 0,
                "command {} went before its decision",
                call.sent
            );
            sent = call.sent;
        }
        match &call.what {
            What::Append { .. } => unsynced += 1,
            What::Sync => unsynced = 0,
            What::Heard { .. } => {}
        }
    }
    // Three stages are measured and seven chunks are trained.
    assert_eq!(sent, 10);
}

#[test]
fn a_fact_is_durable_before_anything_is_decided_on_it() {
    let mut decided = 0;
    let mut last_fact = None;
    for call in calls() {
        let What::Append {
            kind,
            decision,
            durability,
        } = call.what
        else {
            continue;
        };
        if decision {
            decided += 1;
            assert_eq!(last_fact, Some(Durability::Durable), "before {kind}");
        } else {
            last_fact = Some(durability);
        }
    }
    assert!(0 < decided);
}

#[test]
fn the_observer_gets_each_event_once_and_only_after_it_is_durable() {
    let mut head = 1;
    let mut durable = 1;
    let mut heard = 1;
    for call in calls() {
        match call.what {
            What::Append { .. } => head += 1,
            What::Sync => durable = head,
            What::Heard { seq } => {
                assert_eq!(seq.get(), heard, "in order, each once");
                heard += 1;
                assert!(seq.get() < durable, "event {seq} was heard too early");
            }
        }
    }
    assert_eq!(heard, head, "all are heard");
}

#[test]
fn metrics_are_not_synced_one_by_one() {
    let mut alone = 0;
    let mut last = None;
    for call in calls() {
        match call.what {
            What::Append { kind, .. } => last = Some(kind),
            What::Sync => {
                alone += u32::from(last == Some("metrics_logged"));
            }
            What::Heard { .. } => {}
        }
    }
    assert_eq!(alone, 0);
}

#[test]
fn nothing_is_appended_to_a_log_that_lost_an_event() {
    let log = Forgetful {
        log: MemoryLog::with([(0, created(short_policy(), 7))]),
        lost: AtomicBool::new(false),
    };
    let directory = tempfile::tempdir().unwrap();
    let mut controller = Controller::open(&log, directory.path(), || 5).unwrap();
    let stop = Arc::new(StopRequest::default());
    let (trainer, _commanded, reporting) = Channels::new(Arc::clone(&stop));
    for report in reports() {
        reporting.send(report).unwrap();
    }
    let ended = controller.run(process(1), host(&trainer, &stop), &mut Quiet);
    let conflict = matches!(
        ended,
        Err(ControlError::Append(AppendError::Conflict { expected, actual })) if actual < expected
    );
    assert!(conflict, "{ended:?}");
}

#[test]
fn a_log_whose_policy_has_a_stage_twice_is_rejected() {
    let mut policy = short_policy();
    policy.stages.push(policy.stages[0].clone());
    let log = MemoryLog::with([(0, created(policy, 7))]);
    let directory = tempfile::tempdir().unwrap();
    let refused = Controller::open(&log, directory.path(), || 5).err();
    let Some(ControlError::DuplicateStage { stage }) = refused else {
        panic!("not refused: {refused:?}");
    };
    assert_eq!(stage.as_str(), "video_tokenizer");
}

#[test]
fn a_machine_that_is_idle_before_the_run_has_ended_is_an_error() {
    use tinygate::machine::rules::{KNOWN, KnownRules, Rules};
    for rests in [
        (|_: &RunState| Decision::Idle(Idle::Stopped)) as fn(&RunState) -> Decision,
        |_: &RunState| Decision::Idle(Idle::Finished),
    ] {
        let known = KnownRules {
            older: &[],
            newest: Rules {
                decide: rests,
                ..KNOWN.newest
            },
        };
        let log = MemoryLog::with([(0, created(short_policy(), 7))]);
        let directory = tempfile::tempdir().unwrap();
        let mut controller =
            Controller::open_with_rules(known, &log, directory.path(), || 5).unwrap();
        let stop = Arc::new(StopRequest::default());
        let (trainer, _commanded, _reporting) = Channels::new(Arc::clone(&stop));
        let ended = controller.run(process(1), host(&trainer, &stop), &mut Quiet);
        let Err(error @ ControlError::Stuck { .. }) = ended else {
            panic!("{ended:?}");
        };
        assert!(
            error
                .to_string()
                .starts_with("bug: there is nothing to do, but the run is running"),
            "{error}"
        );
    }
}
