//! Programs as trainers: good ones, and those that break every rule. Needs `python3`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

use std::fs;
use std::path::PathBuf;

use tinygate::config::{Config, Override};
use tinygate::controller::{Ending, Host};
use tinygate::events::{ChunkFailure, Event, Record};
use tinygate::run::{AnyModel, Group, NewRun, this_process};
use tinygate::store::LogFile;
use tinygate::trainer::{Patience, StopRequest};
use tinygate_external::{ProgramSetup, ProgramTrainer, RecordJudge};
use tinygate_replay::{Outcome, audit};
use tinygate_testing::{GOOD, ProgramFolder, Quiet, is_running};

/// A run of a program, from its start to its end.
struct Lived {
    folder: ProgramFolder,
    ending: Ending,
    records: Vec<Record>,
}

impl Lived {
    fn new(script: &str, overrides: &[&str]) -> Lived {
        let folder = ProgramFolder::new(script).unwrap();
        let overrides = overrides.iter().map(|set| Override::parse("--set", set));
        let overrides: Vec<Override> = overrides.collect::<Result<_, _>>().unwrap();
        let config = Config::load(&folder.path("run.toml"), &overrides)
            .unwrap()
            .config;
        let dir = folder.path("run");
        let prepared = NewRun::new(config.clone()).prepare(&dir, &AnyModel, &mut |_| {});
        let mut run = prepared.unwrap().create(&Group::alone()).unwrap();
        let trainer = ProgramTrainer::new(ProgramSetup {
            run: dir.clone(),
            command: config.trainer.command.clone(),
            directory: config.trainer.directory.clone(),
            config: config.to_json(),
        });
        let trainer = trainer.unwrap();
        let host = Host {
            trainer: &trainer,
            judge: &RecordJudge::new(&dir),
            patience: Patience::new(config.no_progress_seconds),
            stop: &StopRequest::default(),
        };
        let ending = run.drive(this_process(), host, &mut Quiet).unwrap();
        trainer.finish();
        run.close().unwrap();
        let log = LogFile::open(&dir).unwrap();
        let records = log.records().collect::<Result<Vec<Record>, _>>().unwrap();
        let replayed = audit(records.iter().cloned().map(Ok));
        assert_eq!(replayed.outcome, Outcome::Agreed, "{replayed:#?}");
        assert!(!dir.join("trainer.json").exists(), "it has ended");
        Lived {
            folder,
            ending,
            records,
        }
    }

    fn failures(&self) -> Vec<&ChunkFailure> {
        let failures = self
            .records
            .iter()
            .filter_map(|record| match &record.event {
                Event::ChunkFailed(failed) => Some(&failed.failure),
                _ => None,
            });
        failures.collect()
    }

    fn gates(&self) -> Vec<String> {
        let gates = self
            .records
            .iter()
            .filter_map(|record| match &record.event {
                Event::GateDecided(gate) => Some(gate),
                _ => None,
            });
        gates
            .map(|gate| format!("{} {}", gate.gate_step, gate.decision.as_str()))
            .collect()
    }
}

const GATES: [&str; 3] = ["20 retune", "40 continue", "60 continue"];

#[test]
fn a_program_trains_a_run() {
    let lived = Lived::new(GOOD, &[]);
    assert_eq!(lived.ending, Ending::Finished);
    assert!(lived.failures().is_empty(), "{:?}", lived.failures());
    assert_eq!(lived.gates(), GATES);
    let Event::RunCreated(created) = &lived.records[0].event else {
        panic!("{:?}", lived.records[0]);
    };
    assert_eq!(created.dataset.frames, 0);
    let written = lived.records.iter().find_map(|record| match &record.event {
        Event::CheckpointWritten(written) => Some(written),
        _ => None,
    });
    let written = written.unwrap();
    let file = lived
        .folder
        .path("run")
        .join(&written.checkpoint.path)
        .join("state.json");
    let hash = blake3::hash(&fs::read(file).unwrap()).to_hex().to_string();
    assert_eq!(written.files[0].blake3, hash, "the host hashes the files");
}

/// A program whose first attempt of the first chunk does this, with `p` and `command`.
fn wrong(lines: &str) -> String {
    let lines = lines.replace('\n', "\n        ");
    format!(
        "
p = trainer.Program()
def train(command):
    if command['attempt'] == 1 and command['chunk'] == 1:
        about = p.about(command)
        {lines}
        time.sleep(60)
    return p.train(command)
p.run(train)"
    )
}

/// The first attempt fails for this reason, and the second takes its place.
#[track_caller]
fn check(name: &str, lines: &str, want: &str) {
    let lived = Lived::new(&wrong(lines), &[]);
    let failures = lived.failures();
    let [ChunkFailure::WorkerExited { status, .. }] = failures.as_slice() else {
        panic!("{name}: {failures:?}");
    };
    assert_eq!(status, want, "{name}");
    assert_eq!(lived.ending, Ending::Finished, "{name}");
    assert_eq!(lived.gates(), GATES, "{name}");
}

#[test]
fn invalid_messages() {
    check(
        "no JSON",
        "p.raw(b'Epoch 1\\n')",
        "it sent an invalid message: expected value at line 1 column 1",
    );
    check(
        "no UTF-8",
        "p.raw(b'\\xff\\n')",
        "it sent a line that is not UTF-8",
    );
    check(
        "an unknown fact",
        "p.fact('coffee_made')",
        "it reported `coffee_made`, which a trainer may not report",
    );
    check(
        "a decision",
        "p.fact('stage_stopped', stage='classifier')",
        "it reported `stage_stopped`, which a trainer may not report",
    );
    check(
        "an unknown field",
        "p.send(report='interrupted', signal='SIGINT', at=4)",
        "it sent an invalid message: unknown field `at`",
    );
    check(
        "a newer version",
        "p.raw(b'{\"version\": 2}\\n')",
        "it uses protocol version 2, but this build knows only up to 1",
    );
    check(
        "hello again",
        "p.send(report='hello', token='', name='', ranks=[], torch=None)",
        "it said hello twice",
    );
    check(
        "a line of 1 GB",
        "for _ in range(1024): p.raw(b'x' * 2 ** 20)",
        "it sent a line of more than 16.0 MiB",
    );
}

#[test]
fn reports_that_do_not_fit() {
    check(
        "another chunk",
        "p.fact('metrics_logged', stage='classifier', chunk=9, attempt=1, columns=[])",
        "it reported `metrics_logged` of `classifier` chunk 9 attempt 1, but its command was `classifier` chunk 1 \
         attempt 1",
    );
    check(
        "an update that goes back",
        "p.metrics(command, 5, accuracy=0.5); p.metrics(command, 3, accuracy=0.5)",
        "it reported `accuracy` of update 3 after update 5",
    );
    check(
        "an update of the next chunk",
        "p.metrics(command, 21, accuracy=0.5)",
        "it reported `accuracy` of update 21, outside 0 to 20",
    );
    check(
        "fewer updates than values",
        "p.fact('metrics_logged', **about, columns=[{'name': 'a', 'steps': {'list': [1]}, 'values': [1, 2]}])",
        "it reported `a` with 2 values, but not as many updates",
    );
    check(
        "an end before the end",
        "p.fact('chunk_finished', **about, step=10, samples_seen=80, seconds=1)",
        "it reported `chunk_finished` at update 10, but the chunk ends at 20",
    );
    check(
        "a flood",
        "for _ in range(10_002): p.metrics(command, 1, accuracy=0.5)",
        "it sent more than 10000 reports without a new update",
    );
}

#[test]
fn checkpoints_that_are_not_there() {
    let written = |path: &str, files: &str| {
        format!(
            "p.fact('checkpoint_written', **about, checkpoint={{'path': {path}, 'step': 10}}, samples_seen=1, \
             files={files})"
        )
    };
    let in_stage = "'classifier/checkpoints/a'";
    let folder = "os.makedirs(p.directory + '/classifier/checkpoints/a')\n";
    check(
        "outside of the run",
        &written("'../a'", "[]"),
        "it reported the checkpoint `../a`, which is not in `classifier/checkpoints`",
    );
    check(
        "the log of the run",
        &written("'log'", "[{'name': 'journal.tgj', 'size': 1}]"),
        "it reported the checkpoint `log`, which is not in `classifier/checkpoints`",
    );
    check(
        "no files",
        &written(in_stage, "[]"),
        "it reported the checkpoint `classifier/checkpoints/a`, which has no files",
    );
    check(
        "a file outside of it",
        &written(in_stage, "[{'name': '../b', 'size': 1}]"),
        "it reported the checkpoint `classifier/checkpoints/a`, whose file `../b` is not inside it",
    );
    check(
        "a missing file",
        &format!(
            "{folder}{}",
            written(in_stage, "[{'name': 'b', 'size': 1}]")
        ),
        "it reported the checkpoint `classifier/checkpoints/a`, whose file `b` cannot be read: No such file or \
         directory (os error 2)",
    );
    check(
        "another size",
        &format!(
            "{folder}open(p.directory + '/classifier/checkpoints/a/b', 'w').write('abc')\n{}",
            written(in_stage, "[{'name': 'b', 'size': 1}]")
        ),
        "it reported the checkpoint `classifier/checkpoints/a`, whose file `b` has 3 bytes, not 1",
    );
    check(
        "a link",
        &format!(
            "{folder}os.symlink('/etc/hostname', p.directory + '/classifier/checkpoints/a/b')\n{}",
            written(in_stage, "[{'name': 'b', 'size': 1}]")
        ),
        "it reported the checkpoint `classifier/checkpoints/a`, whose file `b` is reached through a link",
    );
}

#[test]
fn a_sudden_exit_keeps_the_end_of_the_output() {
    let lived = Lived::new(&wrong("print('boom', flush=True)\nos._exit(3)"), &[]);
    let [ChunkFailure::WorkerExited { status, stderr }] = lived.failures()[..] else {
        panic!("{:?}", lived.failures());
    };
    assert_eq!(status, "the program exited with status 3");
    assert_eq!(stderr, "boom");
    assert_eq!(lived.ending, Ending::Finished);
    let log = fs::read_to_string(lived.folder.path("run/trainer.log")).unwrap();
    assert_eq!(log, "boom\n");
}

#[test]
fn other_ends() {
    check(
        "a signal",
        "os.kill(os.getpid(), 9)",
        "the program was ended by signal 9",
    );
    check(
        "a closed connection",
        "p.socket.shutdown(socket.SHUT_RDWR)",
        "it closed the connection",
    );
}

#[test]
fn a_program_that_reports_a_failure_is_started_again() {
    let lines = "
failure = {'failure': 'out_of_memory', 'detail': 'CUDA out of memory'}
open('pid', 'w').write(str(os.getpid()))
p.fact('chunk_failed', **about, step=0, failure=failure)";
    let lived = Lived::new(&wrong(lines), &[]);
    assert_eq!(
        lived.failures(),
        [&ChunkFailure::OutOfMemory {
            detail: "CUDA out of memory".to_owned()
        }]
    );
    assert_eq!(lived.ending, Ending::Finished);
    let pid = fs::read_to_string(lived.folder.path("pid")).unwrap();
    assert!(!is_running(&pid));
}

#[test]
fn silence_fails_the_chunk() {
    let lived = Lived::new(&wrong(""), &["trainer.no_progress_seconds=1"]);
    assert!(
        matches!(
            lived.failures()[..],
            [ChunkFailure::NoProgress {
                limit_seconds: 1,
                ..
            }]
        ),
        "{:?}",
        lived.failures()
    );
    assert_eq!(lived.ending, Ending::Finished);
}

/// Two grandchildren: one in the group of the program, one in a session of its own.
const GRANDCHILDREN: &str = "
sleep = [sys.executable, '-c', 'import time; time.sleep(1000)']
for name, alone in (('near', False), ('far', True)):
    child = subprocess.Popen(sleep, start_new_session=alone)
    open(name, 'w').write(str(child.pid))
";

#[test]
fn nothing_is_left_of_a_program_that_is_ended() {
    let lived = Lived::new(
        &wrong(&format!(
            "{GRANDCHILDREN}open('own', 'w').write(str(os.getpid()))\np.raw(b'nonsense\\n')"
        )),
        &[],
    );
    assert_eq!(lived.failures().len(), 1);
    for name in ["own", "near", "far"] {
        let pid = fs::read_to_string(lived.folder.path(name)).unwrap();
        assert!(!is_running(&pid), "{name}");
    }
}

#[test]
fn nothing_is_left_of_a_program_that_exits() {
    let lived = Lived::new(&format!("{GRANDCHILDREN}{GOOD}"), &[]);
    assert_eq!(lived.ending, Ending::Finished);
    for name in ["near", "far"] {
        let pid = fs::read_to_string(lived.folder.path(name)).unwrap();
        assert!(!is_running(&pid), "{name}");
    }
}

#[test]
fn a_connection_without_the_token_is_dropped() {
    let script = format!(
        "
try:
    trainer.Program(token='wrong')
    sys.exit('a wrong token was accepted')
except SystemExit as error:
    assert str(error) == 'the connection is closed', error
stranger = socket.socket(socket.AF_UNIX)
stranger.connect(os.environ['TINYGATE_SOCKET'])
stranger.sendall(b'GET / HTTP/1.1\\n')
assert stranger.recv(1) == b''
{GOOD}"
    );
    let lived = Lived::new(&script, &[]);
    assert_eq!(lived.ending, Ending::Finished);
    assert!(lived.failures().is_empty(), "{:?}", lived.failures());
}

#[track_caller]
fn check_environment(name: &str, script: &str, overrides: &[&str], want: &str) {
    let lived = Lived::new(script, overrides);
    let Ending::Environment { detail } = &lived.ending else {
        panic!("{name}: {:?}", lived.ending);
    };
    assert_eq!(detail, want, "{name}");
    assert!(lived.failures().is_empty(), "{name}");
}

#[test]
fn before_the_first_chunk_a_failure_is_the_environments() {
    check_environment(
        "an exit",
        "sys.exit('no data')",
        &[],
        "the trainer failed while it measured a stage: the program exited with status 1: no data",
    );
    check_environment(
        "no such program",
        "",
        &["trainer.command=[\"no-such-program\", \"x\"]"],
        "cannot start the trainer `no-such-program x`: No such file or directory (os error 2)",
    );
}

#[test]
fn a_changed_checkpoint_is_rejected() {
    use tinygate::machine::JudgeCheckpoint;
    use tinygate::trainer::{Judge, Verdict};
    let lived = Lived::new(GOOD, &[]);
    let written = lived
        .records
        .iter()
        .rev()
        .find_map(|record| match &record.event {
            Event::CheckpointWritten(written) => Some(written.clone()),
            _ => None,
        });
    let written = written.unwrap();
    let asked = JudgeCheckpoint {
        stage: written.stage,
        checkpoint: written.checkpoint.clone(),
        files: written.files,
    };
    let dir = lived.folder.path("run");
    let judge = |judge: &RecordJudge| match judge.judge(&asked, false) {
        Verdict::Judged(verdict) => verdict.rejected.map(|rejection| rejection.code),
        Verdict::Absent { .. } => Some("absent".to_owned()),
    };
    let file: PathBuf = dir.join(&written.checkpoint.path).join("state.json");
    let text = fs::read(&file).unwrap();
    let code = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        judge(&RecordJudge::new(&dir))
    };
    assert_eq!(code(&text), None);
    assert_eq!(code(&text[1..]).as_deref(), Some("size_mismatch"));
    let mut other = text.clone();
    other[0] ^= 1;
    assert_eq!(code(&other).as_deref(), Some("hash_mismatch"));
    fs::remove_file(&file).unwrap();
    assert_eq!(judge(&RecordJudge::new(&dir)).as_deref(), Some("absent"));
}
