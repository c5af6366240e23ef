//! How the host handles trainers that are silent, slow or lie.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use tinygate::controller::{ControlError, Controller, Ending, Host};
use tinygate::events::{
    Action, ChunkFailed, ChunkFailure, Event, FailureCause, Record, RunFinished, StageMeasured,
    StageName, Step,
};
use tinygate::store::{EventLog, MemoryLog};
use tinygate::trainer::{
    Ended, Judge, NoProgress, Patience, Report, StopRequest, TICK, Trainer, TrainerCommand,
    TrainerError, TrainerFact, Verdict, wire,
};
use tinygate_testing::{
    Quiet, Script, ScriptedJudge, ScriptedTrainer, created, process, short_policy,
};

const VIDEO: &str = "video_tokenizer";

/// A scripted trainer that becomes silent. It may be a program, which can be ended.
struct SilentTrainer {
    trainer: RefCell<ScriptedTrainer>,
    queue: RefCell<VecDeque<Report>>,
    /// Reports until it becomes silent.
    talks: Cell<u64>,
    /// Seconds of silence before each report.
    pause: u64,
    paused: Cell<u64>,
    /// It can be ended and replaced by another.
    program: bool,
    ended: Cell<u32>,
}

impl SilentTrainer {
    fn new(talks: u64, pause: u64, program: bool) -> SilentTrainer {
        SilentTrainer {
            trainer: RefCell::new(ScriptedTrainer::new(Script::new(7))),
            queue: RefCell::default(),
            talks: Cell::new(talks),
            pause,
            paused: Cell::new(0),
            program,
            ended: Cell::new(0),
        }
    }
}

impl Trainer for SilentTrainer {
    fn send(&self, command: TrainerCommand) -> Result<(), TrainerError> {
        let answer = self.trainer.borrow_mut().answer(&command);
        self.queue.borrow_mut().extend(answer.reports);
        Ok(())
    }

    fn receive(&self, patience: Duration) -> Result<Option<Report>, TrainerError> {
        assert_eq!(patience, TICK);
        if self.talks.get() == 0 {
            return Ok(None);
        }
        if self.paused.get() < self.pause {
            self.paused.set(self.paused.get() + 1);
            return Ok(None);
        }
        self.paused.set(0);
        self.talks.set(self.talks.get() - 1);
        let report = self.queue.borrow_mut().pop_front();
        report.map(Some).ok_or(TrainerError::Lost)
    }

    fn stop(&self, _: &str) {}

    fn end(&self) -> Ended {
        self.ended.set(self.ended.get() + 1);
        if !self.program {
            return Ended::OnlyWithThisProcess;
        }
        self.queue.borrow_mut().clear();
        self.talks.set(u64::MAX);
        Ended::Exited {
            output: "Traceback: the loader waits for ever".to_owned(),
        }
    }
}

struct Run {
    log: MemoryLog,
    directory: tempfile::TempDir,
}

impl Run {
    fn new() -> Run {
        Run {
            log: MemoryLog::with([(0, created(short_policy(), 7))]),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn live(&self, trainer: &dyn Trainer, limit: Option<u32>) -> Result<Ending, ControlError> {
        self.live_judged(trainer, &ScriptedJudge, limit)
    }

    fn live_judged(
        &self,
        trainer: &dyn Trainer,
        judge: &dyn Judge,
        limit: Option<u32>,
    ) -> Result<Ending, ControlError> {
        let mut controller = Controller::open(&self.log, self.directory.path(), || 5)?;
        let pid = controller.state().process.starts + 1;
        let host = Host {
            trainer,
            judge,
            patience: Patience::new(limit),
            stop: &StopRequest::default(),
        };
        controller.run(process(pid), host, &mut Quiet)
    }

    fn failures(&self) -> Vec<ChunkFailed> {
        let failed = |record: Record| match record.event {
            Event::ChunkFailed(failed) => Some(failed),
            _ => None,
        };
        self.log.records().into_iter().filter_map(failed).collect()
    }

    fn attempts(&self, chunk: u32) -> Vec<u32> {
        let started = |record: Record| match record.event {
            Event::ChunkStarted(started) if started.chunk.get() == chunk => {
                Some(started).filter(|started| started.stage.as_str() == VIDEO)
            }
            _ => None,
        };
        let records = self.log.records().into_iter();
        records
            .filter_map(started)
            .map(|started| started.attempt.get())
            .collect()
    }
}

#[test]
fn a_silent_thread_fails_its_chunk_and_the_process_must_exit() {
    let run = Run::new();
    // The measurement and a few updates of the first chunk.
    let silent = SilentTrainer::new(12, 0, false);
    let no_progress = NoProgress {
        silence_seconds: 30,
        limit_seconds: 30,
    };
    assert_eq!(
        run.live(&silent, Some(30)).unwrap(),
        Ending::NoProgress(no_progress)
    );
    assert_eq!(silent.ended.get(), 1);
    let failures = run.failures();
    let [failed] = failures.as_slice() else {
        panic!("{failures:?}");
    };
    assert!(Step::FIRST < failed.step, "{failed:?}");
    assert_eq!(
        failed.failure,
        ChunkFailure::NoProgress {
            silence_seconds: 30,
            limit_seconds: 30,
            stderr: String::new(),
        }
    );
    assert_eq!(run.attempts(1), [1], "the next process decides");

    let ending = run.live(&SilentTrainer::new(u64::MAX, 0, false), Some(30));
    assert_eq!(ending.unwrap(), Ending::Finished);
    assert_eq!(run.attempts(1), [1, 2], "resume runs the next attempt");
    let causes = run
        .log
        .records()
        .into_iter()
        .filter_map(|record| match record.event {
            Event::FailureDecided(decided) => Some(decided.cause),
            _ => None,
        });
    assert_eq!(causes.collect::<Vec<_>>(), [FailureCause::NoProgress]);
}

#[test]
fn a_silent_program_is_ended_and_replaced() {
    let run = Run::new();
    let silent = SilentTrainer::new(12, 0, true);
    assert_eq!(run.live(&silent, Some(30)).unwrap(), Ending::Finished);
    assert_eq!(silent.ended.get(), 1);
    assert_eq!(run.attempts(1), [1, 2]);
    let failures = run.failures();
    assert_eq!(failures.len(), 1);
    assert!(
        matches!(&failures[0].failure, ChunkFailure::NoProgress { stderr, .. } if stderr.starts_with("Traceback")),
        "{failures:?}"
    );
}

#[test]
fn a_trainer_that_is_silent_while_measuring_fails_no_chunk() {
    let run = Run::new();
    let ending = run.live(&SilentTrainer::new(0, 0, true), Some(30)).unwrap();
    assert!(
        matches!(&ending, Ending::Environment { detail } if detail.contains("no progress for 30 s")),
        "{ending:?}"
    );
    assert!(run.failures().is_empty());
    // The thread still hangs, so joining it would hang too.
    let ending = run
        .live(&SilentTrainer::new(0, 0, false), Some(30))
        .unwrap();
    assert!(matches!(ending, Ending::NoProgress(_)), "{ending:?}");
    let last = run.log.records().pop().unwrap();
    assert_eq!(last.event.kind(), "run_interrupted");
    assert!(run.failures().is_empty());
}

#[test]
fn a_slow_trainer_is_waited_for() {
    let run = Run::new();
    let ending = run
        .live(&SilentTrainer::new(u64::MAX, 29, false), Some(30))
        .unwrap();
    assert_eq!(ending, Ending::Finished);
    assert!(run.failures().is_empty());
}

/// By default the limit is learned from the stage, with a wide margin.
#[test]
fn a_slow_trainer_is_waited_for_without_a_set_limit() {
    let run = Run::new();
    let ending = run
        .live(&SilentTrainer::new(u64::MAX, 500, false), None)
        .unwrap();
    assert_eq!(ending, Ending::Finished);
    assert!(run.failures().is_empty());
}

/// A program that speaks JSON lines, or a thread that cannot be ended.
struct Lines {
    lines: RefCell<VecDeque<String>>,
    program: bool,
    ended: Cell<u32>,
}

impl Lines {
    fn new(lines: impl Into<VecDeque<String>>, program: bool) -> Lines {
        Lines {
            lines: RefCell::new(lines.into()),
            program,
            ended: Cell::new(0),
        }
    }
}

impl Trainer for Lines {
    fn send(&self, _: TrainerCommand) -> Result<(), TrainerError> {
        Ok(())
    }

    fn receive(&self, _: Duration) -> Result<Option<Report>, TrainerError> {
        let line = self.lines.borrow_mut().pop_front();
        let line = line.ok_or_else(|| TrainerError::Broken("exit status: 3".to_owned()))?;
        Ok(Some(wire::report_from_json(&line)?))
    }

    fn stop(&self, _: &str) {}

    fn end(&self) -> Ended {
        self.ended.set(self.ended.get() + 1);
        if !self.program {
            return Ended::OnlyWithThisProcess;
        }
        Ended::Exited {
            output: "Traceback".to_owned(),
        }
    }
}

#[track_caller]
fn check_lie(name: &str, line: String, want: &str) {
    let run = Run::new();
    let measured = Report::Fact(TrainerFact::StageMeasured(StageMeasured {
        stage: StageName::new(VIDEO),
        trivial: Vec::new(),
        predictor: "mean_image".to_owned(),
    }));
    let lines = [wire::report_to_json(&measured).unwrap(), line];
    check_lying_program(name, lines.clone(), want);
    let ended = run.live(&Lines::new(lines, false), None);
    let Err(error @ ControlError::Misreported { .. }) = ended else {
        panic!("{name}: {ended:?}");
    };
    assert_eq!(
        error.to_string(),
        format!("bug in the trainer: {want}; it was not recorded, and the log is intact"),
        "{name}"
    );
    let last = run.log.records().pop().unwrap();
    assert_eq!(
        last.event.kind(),
        "chunk_started",
        "{name}: nothing of it is in the log"
    );
    assert_eq!(run.log.head().get(), last.seq.get() + 1);
}

/// A program is ended, and its chunk fails.
#[track_caller]
fn check_lying_program(name: &str, lines: [String; 2], want: &str) {
    let run = Run::new();
    let program = Lines::new(lines, true);
    assert_eq!(run.live(&program, None).unwrap(), Ending::Stopped, "{name}");
    let failures = run.failures();
    assert_eq!(program.ended.get() as usize, failures.len(), "{name}");
    let first = &failures.first().unwrap().failure;
    let status = want.to_owned();
    let stderr = "Traceback".to_owned();
    assert_eq!(
        *first,
        ChunkFailure::WorkerExited { status, stderr },
        "{name}"
    );
    let ChunkFailure::WorkerExited { status, .. } = &failures.last().unwrap().failure else {
        panic!("{name}: {failures:?}");
    };
    assert_eq!(status, "exit status: 3", "{name}: the next attempts");
}

#[test]
fn a_program_that_exits_while_measuring_fails_no_chunk() {
    let run = Run::new();
    let ending = run.live(&Lines::new([], true), None).unwrap();
    let Ending::Environment { detail } = ending else {
        panic!("{ending:?}");
    };
    assert_eq!(
        detail,
        "the trainer failed while it measured a stage: exit status: 3: Traceback"
    );
    assert!(run.failures().is_empty());
}

#[test]
fn invalid_reports_are_rejected_and_not_recorded() {
    let decided = serde_json::to_value(Event::RunFinished(RunFinished { stages: 3 })).unwrap();
    check_lie(
        "a decision",
        format!(
            r#"{{"version":1,"report":"fact","fact":"run_finished","stages":{}}}"#,
            decided["stages"]
        ),
        "it reported `run_finished`, which a trainer may not report",
    );
    check_lie(
        "a verdict on its own checkpoint",
        format!(
            r#"{{"version":1,"report":"fact","fact":"checkpoint_judged","stage":"{VIDEO}","rejected":null}}"#
        ),
        "it reported `checkpoint_judged`, which a trainer may not report",
    );
    check_lie(
        "another chunk",
        format!(
            r#"{{"version":1,"report":"fact","fact":"metrics_logged","stage":"{VIDEO}","chunk":9,"attempt":1,"columns":[]}}"#
        ),
        "it reported `metrics_logged` of `video_tokenizer` chunk 9 attempt 1, but its command was `video_tokenizer` \
         chunk 1 attempt 1",
    );
    check_lie(
        "no message at all",
        "Epoch 1/10: loss 0.3".to_owned(),
        "it sent an invalid message: expected value at line 1 column 1",
    );
}

/// A judge that accepts nothing.
struct RejectAll;

impl Judge for RejectAll {
    fn judge(&self, asked: &tinygate::machine::JudgeCheckpoint, weights_only: bool) -> Verdict {
        match ScriptedJudge.judge(asked, weights_only) {
            Verdict::Judged(mut verdict) => {
                verdict.rejected = Some(tinygate::events::Rejection {
                    code: "hash_mismatch".to_owned(),
                    text: "it is not what was written".to_owned(),
                });
                Verdict::Judged(verdict)
            }
            absent @ Verdict::Absent { .. } => absent,
        }
    }
}

#[test]
fn the_host_judges_checkpoints_not_the_trainer_that_wrote_them() {
    let run = Run::new();
    let trainer = SilentTrainer::new(u64::MAX, 0, false);
    let ending = run.live_judged(&trainer, &RejectAll, None).unwrap();
    assert_eq!(ending, Ending::Stopped);
    let passed = run.log.records().into_iter().any(|record| {
        matches!(record.event, Event::GateDecided(gate) if gate.decision == Action::Continue)
    });
    assert!(
        !passed,
        "no gate passes on a checkpoint that the host rejects"
    );
}
