//! Real training runs that are killed with SIGKILL at random moments and resumed until they
//! finish: each ends with the weights, decisions and state of an undisturbed run.
//!
//! `TINYGATE_KILLS` sets the number of kills (`make kills KILLS=200`), `TINYGATE_SEED` the seed of
//! their moments. `TINYGATE_EARLY_KILLS` sets the number of further kills in the first
//! milliseconds of a log, and `TINYGATE_PROGRAM` the program that is killed there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics at anything unexpected"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use support::{Sandbox, checkpoints, decisions, folded, records, run, tinygate};
use tinygate::events::{Event, FileRecord, Seq};
use tinygate::machine::RunState;
use tinygate::store::LogFile;

/// The number of kills in `make test`.
const KILLS: u64 = 10;
const EARLY_KILLS: u64 = 10;
/// Within this time a new log is created and gets its first event.
const EARLY: Duration = Duration::from_millis(50);
/// A run must finish within this number of processes.
const PROCESSES_MAX: u32 = 1000;

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty());
    text.map_or(default, |text| text.parse().unwrap())
}

/// Random moments, by splitmix64.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        below.mul_f64((bits >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// What must not depend on how often a run was killed.
#[derive(Debug, PartialEq)]
struct RunResult {
    weights: Vec<(String, Vec<FileRecord>)>,
    decisions: Vec<Event>,
    state: RunState,
}

fn result(dir: &Path) -> RunResult {
    let records = records(dir);
    RunResult {
        weights: checkpoints(&records),
        decisions: decisions(&records),
        state: folded(&records),
    }
}

fn begin(sandbox: &Sandbox, dir: &str) -> Child {
    // Many interruptions without a new checkpoint would count as a failure of the chunk. This
    // test is about the kills alone.
    let patience = ["--set", "policy.max_interruptions=1000", "--quiet"];
    let args = ["run", &sandbox.config(), "--dir", &sandbox.arg(dir)];
    spawn(args.iter().chain(&patience))
}

fn spawn<'a>(args: impl IntoIterator<Item = &'a &'a str>) -> Child {
    tinygate()
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the process after `moment`. Returns false if it finished before that.
fn kill_after(child: Child, moment: Duration) -> bool {
    let pid = rustix::process::Pid::from_child(&child);
    let (ended, end) = mpsc::sync_channel(1);
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        let _ = ended.send(());
        output
    });
    let killed = end.recv_timeout(moment).is_err();
    if killed {
        // It may have ended meanwhile, but hardly so long ago that its pid is used again.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let output = waiter.join().unwrap();
    if output.status.success() {
        return false;
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        killed && output.status.code().is_none(),
        "{:?}: {stderr}",
        output.status
    );
    true
}

/// Whether the log has a complete event. It is not decoded: another build may have written it.
fn has_events(dir: &Path) -> bool {
    LogFile::open(dir).is_ok_and(|log| {
        let mut records = log.records();
        let _ = records.skip_to(Seq::new(u64::MAX));
        Seq::FIRST < records.next_seq()
    })
}

#[test]
fn random_kills_do_not_change_the_result() {
    let wanted = setting("TINYGATE_KILLS", KILLS);
    let seed = setting("TINYGATE_SEED", 1);
    println!("TINYGATE_SEED={seed} TINYGATE_KILLS={wanted}");
    let sandbox = Sandbox::with_config(200);
    // Both run directories have the same name, because the name is part of the state.
    fs::create_dir_all(sandbox.path("whole")).unwrap();
    let from = Instant::now();
    let whole = begin(&sandbox, "whole/run").wait_with_output().unwrap();
    assert!(whole.status.success(), "{whole:?}");
    let length = from.elapsed();
    let want = result(&sandbox.path("whole/run"));

    let mut moments = Moments(seed);
    let (mut kills, mut runs) = (0, 0);
    while kills < wanted {
        let folder = format!("killed-{runs}");
        fs::create_dir_all(sandbox.path(&folder)).unwrap();
        let dir = format!("{folder}/run");
        let path = sandbox.arg(&dir);
        let mut of_this = 0;
        let mut child = begin(&sandbox, &dir);
        for process in 0.. {
            assert!(process < PROCESSES_MAX, "{dir} does not finish");
            // After the last kill the run may finish.
            let moment = if kills < wanted {
                moments.next(length)
            } else {
                Duration::MAX
            };
            if !kill_after(child, moment) {
                break;
            }
            kills += 1;
            of_this += 1;
            child = if has_events(&sandbox.path(&dir)) {
                spawn(&["resume", &path, "--quiet"])
            } else {
                // A run that was killed before its first event is started again in the same directory.
                begin(&sandbox, &dir)
            };
        }
        runs += 1;
        println!("{dir}: {of_this} kills");
        assert_eq!(
            result(&sandbox.path(&dir)),
            want,
            "{dir} after {of_this} kills"
        );
        run(["replay", &path]).expect(0);
        fs::remove_dir_all(sandbox.path(&folder)).unwrap();
    }
    println!("{kills} of {wanted} kills in {runs} runs: each ended like the undisturbed run");
}

/// The program under test, or the program of another build in `TINYGATE_PROGRAM`.
fn program() -> Command {
    let tested = tinygate();
    let Some(other) = std::env::var_os("TINYGATE_PROGRAM").filter(|name| !name.is_empty()) else {
        return tested;
    };
    let mut command = Command::new(other);
    for (name, value) in tested.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Starts a run and kills it `moment` after its log folder appears. Returns how long after that
/// the first event was seen, if it was.
fn kill_early(sandbox: &Sandbox, dir: &str, moment: Duration) -> Option<Duration> {
    let mut child = program()
        .args([
            "run",
            &sandbox.config(),
            "--dir",
            &sandbox.arg(dir),
            "--quiet",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let log = sandbox.path(dir).join("log");
    while !log.exists() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "{dir}: it did not start"
        );
        std::thread::yield_now();
    }
    let from = Instant::now();
    let mut first = None;
    while from.elapsed() < moment {
        if first.is_none() && has_events(&sandbox.path(dir)) {
            first = Some(from.elapsed());
        }
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    first
}

/// Starts or resumes the run and waits until it trains. The error is what it prints if it does not.
fn start_or_resume(sandbox: &Sandbox, dir: &str) -> Result<(), String> {
    let mut child = program()
        .args([
            "run",
            &sandbox.config(),
            "--dir",
            &sandbox.arg(dir),
            "--or-resume",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    let trains = loop {
        let mut line = String::new();
        if stderr.read_line(&mut line).unwrap() == 0 {
            break false;
        }
        said.push_str(&line);
        if line.starts_with("video_tokenizer") {
            break true;
        }
    };
    if trains {
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    stderr.read_to_string(&mut said).unwrap();
    match child.wait().unwrap().code() {
        Some(0 | 130) if trains => Ok(()),
        code => Err(format!("exit {code:?}: {said}")),
    }
}

#[test]
fn early_kills_leave_no_run_stuck() {
    let wanted = setting("TINYGATE_EARLY_KILLS", EARLY_KILLS);
    let seed = setting("TINYGATE_SEED", 1);
    println!("TINYGATE_SEED={seed} TINYGATE_EARLY_KILLS={wanted}");
    let sandbox = Sandbox::with_config(200);
    let mut moments = Moments(seed);
    // Every second kill falls into the shortest time after which a first event was seen.
    let mut to_first = EARLY;
    let (mut without, mut journals, mut stuck) = (0, 0, 0);
    for kill in 0..wanted {
        let dir = format!("early-{kill}");
        let below = if kill % 2 == 0 { EARLY } else { to_first };
        if let Some(first) = kill_early(&sandbox, &dir, moments.next(below)) {
            to_first = to_first.min(first);
        }
        let path = sandbox.path(&dir);
        let no_event = !has_events(&path);
        without += u64::from(no_event);
        journals += u64::from(no_event && support::journal(&path).exists());
        if let Err(said) = start_or_resume(&sandbox, &dir) {
            stuck += 1;
            println!("{dir} is stuck: {said}");
        }
        fs::remove_dir_all(&path).unwrap();
    }
    println!(
        "{wanted} kills within {EARLY:?}: {without} left a log folder without a complete first event \
         ({journals} of them with a journal); {stuck} runs were stuck"
    );
    assert_eq!(stuck, 0, "runs that can never be started again");
    assert!(
        wanted / 10 <= without,
        "too few kills before the first event"
    );
}
