//! Runs that a program trains, through the command line, in every build. Needs `python3`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]

mod support;

use std::fs;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::{Done, checkpoints, decisions, records, run, tinygate};
use tinygate::events::{ChunkFailure, Event, InterruptReason, Record};
use tinygate_testing::{GOOD, ProgramFolder, is_running};

fn folder() -> ProgramFolder {
    ProgramFolder::new(GOOD).unwrap()
}

fn arg(folder: &ProgramFolder, name: &str) -> String {
    folder.path(name).to_str().unwrap().to_owned()
}

fn spawn<const N: usize>(args: [&str; N]) -> Child {
    let mut command = tinygate();
    let command = command.args(args).arg("--quiet");
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

/// The program waits at this update, until it is asked to stop or is ended.
fn hold(folder: &ProgramFolder, update: u64) {
    fs::write(folder.path(format!("hold-{update}")), "").unwrap();
}

/// Waits until the program waits at this update, and lets the next one pass. The program's pid.
fn held(folder: &ProgramFolder, update: u64) -> String {
    let pid = folder.wait_for(&format!("held-{update}")).unwrap();
    fs::remove_file(folder.path(format!("hold-{update}"))).unwrap();
    pid
}

fn pid_of(text: &str) -> Pid {
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

fn gates(records: &[Record]) -> Vec<String> {
    let gates = records.iter().filter_map(|record| {
        let Event::GateDecided(gate) = &record.event else {
            return None;
        };
        Some(format!("{} {}", gate.gate_step, gate.decision.as_str()))
    });
    gates.collect()
}

/// The newest checkpoint of each update.
fn by_update(records: &[Record]) -> Vec<(String, Vec<tinygate::events::FileRecord>)> {
    checkpoints(records)
        .into_iter()
        .filter(|(path, _)| path.ends_with("0"))
        .collect()
}

#[test]
fn a_run_that_is_killed_twice_ends_as_an_undisturbed_one() {
    let whole = folder();
    let (config, dir) = (arg(&whole, "run.toml"), arg(&whole, "run"));
    run(["run", &config, "--dir", &dir, "--quiet"]).expect(0);
    let undisturbed = records(&whole.path("run"));
    assert_eq!(
        gates(&undisturbed),
        ["20 retune", "40 continue", "60 continue"]
    );

    let killed = folder();
    let (config, dir) = (arg(&killed, "run.toml"), arg(&killed, "run"));
    hold(&killed, 25);
    hold(&killed, 47);
    let mut tinygate = spawn(["run", &config, "--dir", &dir]);
    let first = held(&killed, 25);
    tinygate.kill().unwrap();
    tinygate.wait().unwrap();
    assert!(killed.path("run/trainer.json").exists());
    let tinygate = spawn(["resume", &dir]);
    let second = held(&killed, 47);
    assert!(!is_running(&first), "its connection was closed");
    kill_process(pid_of(&second), Signal::KILL).unwrap();
    Done::of(tinygate.wait_with_output().unwrap()).expect(0);

    let disturbed = records(&killed.path("run"));
    assert_eq!(gates(&disturbed), gates(&undisturbed));
    assert_eq!(by_update(&disturbed), by_update(&undisturbed));
    let failures: Vec<&ChunkFailure> = disturbed
        .iter()
        .filter_map(|record| match &record.event {
            Event::ChunkFailed(failed) => Some(&failed.failure),
            _ => None,
        })
        .collect();
    let want = "the program was ended by signal 9";
    assert!(
        matches!(failures[..], [ChunkFailure::WorkerExited { status, .. }] if status == want),
        "{failures:?}"
    );
    run(["replay", &dir]).expect(0);
    assert!(!killed.path("run/trainer.json").exists());
}

#[test]
fn a_signal_stops_with_a_checkpoint() {
    let whole = folder();
    let (config, dir) = (arg(&whole, "run.toml"), arg(&whole, "run"));
    run(["run", &config, "--dir", &dir, "--quiet"]).expect(0);
    let stopped = folder();
    let (config, dir) = (arg(&stopped, "run.toml"), arg(&stopped, "run"));
    hold(&stopped, 33);
    let tinygate = spawn(["run", &config, "--dir", &dir]);
    let program = held(&stopped, 33);
    kill_process(Pid::from_child(&tinygate), Signal::TERM).unwrap();
    Done::of(tinygate.wait_with_output().unwrap()).expect(130);
    assert!(!is_running(&program));
    let log = records(&stopped.path("run"));
    let Event::RunInterrupted(interrupted) = &log.last().unwrap().event else {
        panic!("{:?}", log.last());
    };
    let name = "SIGTERM".to_owned();
    assert_eq!(interrupted.reason, InterruptReason::Signal { name });
    let last = checkpoints(&log).pop().unwrap();
    assert_eq!(last.0, "classifier/checkpoints/classifier_step_33");
    run(["resume", &dir, "--quiet"]).expect(0);
    let (one, other) = (records(&whole.path("run")), records(&stopped.path("run")));
    assert_eq!(gates(&one), gates(&other));
    assert_eq!(by_update(&one), by_update(&other));
}

/// A program that ignores the end of its connection, and a process of it in another session.
#[test]
fn what_a_killed_process_left_is_ended_on_resume() {
    let folder = folder();
    let script = "
p = trainer.Program()
def train(command):
    sleep = [sys.executable, '-c', 'import time; time.sleep(1000)']
    child = subprocess.Popen(sleep, start_new_session=True)
    open('far.partial', 'w').write(f'{child.pid} {os.getpid()}')
    os.rename('far.partial', 'far')
    while True: time.sleep(1000)
p.run(train)";
    folder.set_script(script).unwrap();
    let (config, dir) = (arg(&folder, "run.toml"), arg(&folder, "run"));
    let mut tinygate = spawn(["run", &config, "--dir", &dir]);
    let left = folder.wait_for("far").unwrap();
    let left: Vec<&str> = left.split_whitespace().collect();
    tinygate.kill().unwrap();
    tinygate.wait().unwrap();
    if fs::metadata("/proc/self/stat").is_ok() {
        assert!(left.iter().all(|pid| is_running(pid)), "{left:?}");
    }
    folder.set_script(GOOD).unwrap();
    run(["resume", &dir, "--quiet"]).expect(0);
    for pid in left {
        assert!(!is_running(pid), "{pid}");
    }
}

#[test]
fn the_same_decisions_with_another_command() {
    let folder = folder();
    let (config, dir) = (arg(&folder, "run.toml"), arg(&folder, "run"));
    hold(&folder, 25);
    let mut tinygate = spawn(["run", &config, "--dir", &dir]);
    held(&folder, 25);
    tinygate.kill().unwrap();
    tinygate.wait().unwrap();
    fs::rename(folder.path("main.py"), folder.path("other.py")).unwrap();
    run(["resume", &dir, "--set", "trainer.kind=builtin"])
        .expect_error(2, &["`trainer.kind` cannot change in an existing run"]);
    let set = "trainer.command=[\"python3\", \"other.py\"]";
    run(["resume", &dir, "--set", set, "--quiet"]).expect(0);
    let log = records(&folder.path("run"));
    assert!(!decisions(&log).is_empty());
    assert_eq!(gates(&log), ["20 retune", "40 continue", "60 continue"]);
}

#[test]
fn what_a_program_cannot_do_yet() {
    let folder = folder();
    let (config, dir) = (arg(&folder, "run.toml"), arg(&folder, "run"));
    run(["run", &config, "--dry-run"]).expect_error(2, &["`--dry-run` is not available yet"]);
    assert!(!folder.path("run").exists());
    folder.set_script("sys.exit('no data')").unwrap();
    let want = "the program exited with status 1: no data";
    run(["run", &config, "--dir", &dir, "--quiet"]).expect_error(2, &[want]);
}

#[cfg(feature = "train")]
#[test]
fn chunks_of_a_program_are_not_trained_again() {
    let folder = folder();
    let (config, dir) = (arg(&folder, "run.toml"), arg(&folder, "run"));
    run(["run", &config, "--dir", &dir, "--quiet"]).expect(0);
    let done = run(["replay", &dir, "--retrain"]).expect(5);
    assert!(done.stdout.contains("3 skipped"), "{}", done.stdout);
    assert!(
        done.stdout.contains("a program trained it"),
        "{}",
        done.stdout
    );
}
