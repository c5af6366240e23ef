//! A real training run, killed with SIGKILL at random moments until it ends, again and again:
//! each time it ends with the weights, the decisions and the state of a run never killed.
//!
//! `TINYGATE_KILLS` sets how many kills (`make kills KILLS=200`), `TINYGATE_SEED` the moments.
//! `TINYGATE_EARLY_KILLS` sets how many more there are in the first milliseconds of a log, and
//! `TINYGATE_PROGRAM` the program these are tried on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at what it did not expect"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use support::{Place, checkpoints, decisions, folded, records, run, tinygate};
use tinygate::events::{Event, FileRecord, Seq};
use tinygate::machine::RunState;
use tinygate::store::LogFile;

/// In `make test`.
const KILLS: u64 = 10;
const EARLY_KILLS: u64 = 10;
/// In which a new log is made, its first event included.
const EARLY: Duration = Duration::from_millis(50);
/// No run may need more processes than this to end.
const PROCESSES_MAX: u32 = 1000;

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty());
    text.map_or(default, |text| text.parse().unwrap())
}

/// splitmix64
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

/// What must be the same however often a run was killed.
#[derive(Debug, PartialEq)]
struct Result {
    weights: Vec<(String, Vec<FileRecord>)>,
    decisions: Vec<Event>,
    state: RunState,
}

fn result(dir: &Path) -> Result {
    let records = records(dir);
    Result {
        weights: checkpoints(&records),
        decisions: decisions(&records),
        state: folded(&records),
    }
}

fn begin(place: &Place, dir: &str) -> Child {
    // The budget of interruptions is a rule of its own: a machine that kills a chunk again and
    // again before its first checkpoint is told so. Here nothing but the kills shall act.
    let patience = ["--set", "policy.max_interruptions=1000", "--quiet"];
    let args = ["run", &place.config(), "--dir", &place.arg(dir)];
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

/// Kills the process after `moment`, or says that it ended before, as it should.
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
        // It may have ended since; nobody has taken its number, as the waiter did not answer.
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

/// Whether a whole event is there; what is in it, another build may have written.
fn has_events(dir: &Path) -> bool {
    LogFile::open(dir).is_ok_and(|log| {
        let mut records = log.records();
        let _ = records.skip_to(Seq::new(u64::MAX));
        Seq::FIRST < records.next_seq()
    })
}

#[test]
fn random_kills_leave_no_trace() {
    let wanted = setting("TINYGATE_KILLS", KILLS);
    let seed = setting("TINYGATE_SEED", 1);
    println!("TINYGATE_SEED={seed} TINYGATE_KILLS={wanted}");
    let place = Place::with_config(200);
    // The same name in another folder: the name is part of the state.
    fs::create_dir_all(place.path("whole")).unwrap();
    let from = Instant::now();
    let whole = begin(&place, "whole/run").wait_with_output().unwrap();
    assert!(whole.status.success(), "{whole:?}");
    let length = from.elapsed();
    let want = result(&place.path("whole/run"));

    let mut moments = Moments(seed);
    let (mut kills, mut runs) = (0, 0);
    while kills < wanted {
        let folder = format!("killed-{runs}");
        fs::create_dir_all(place.path(&folder)).unwrap();
        let dir = format!("{folder}/run");
        let path = place.arg(&dir);
        let mut of_this = 0;
        let mut child = begin(&place, &dir);
        for process in 0.. {
            assert!(process < PROCESSES_MAX, "{dir} does not end");
            // Once enough were killed, the last run may end in peace.
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
            child = if has_events(&place.path(&dir)) {
                spawn(&["resume", &path, "--quiet"])
            } else {
                // Killed before its first event, a run is begun anew, over what is left of it.
                begin(&place, &dir)
            };
        }
        runs += 1;
        println!("{dir}: {of_this} kills");
        assert_eq!(
            result(&place.path(&dir)),
            want,
            "{dir} after {of_this} kills"
        );
        run(["replay", &path]).expect(0);
        fs::remove_dir_all(place.path(&folder)).unwrap();
    }
    println!("{kills} of {wanted} kills in {runs} runs: each ended like the run never killed");
}

/// The program under test, or the one of another build that `TINYGATE_PROGRAM` names.
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

/// Starts a run and kills it `moment` after its log folder appears. How long the first event
/// took from then on, where it was seen.
fn kill_early(place: &Place, dir: &str, moment: Duration) -> Option<Duration> {
    let mut child = program()
        .args(["run", &place.config(), "--dir", &place.arg(dir), "--quiet"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let log = place.path(dir).join("log");
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
        if first.is_none() && has_events(&place.path(dir)) {
            first = Some(from.elapsed());
        }
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    first
}

/// Starts or continues the run, until it says that it trains. What it says if it does not.
fn goes_on(place: &Place, dir: &str) -> std::result::Result<(), String> {
    let mut child = program()
        .args([
            "run",
            &place.config(),
            "--dir",
            &place.arg(dir),
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
    let place = Place::with_config(200);
    let mut moments = Moments(seed);
    // Every other moment is taken from the time that the first event was seen to need.
    let mut to_first = EARLY;
    let (mut without, mut journals, mut stuck) = (0, 0, 0);
    for kill in 0..wanted {
        let dir = format!("early-{kill}");
        let below = if kill % 2 == 0 { EARLY } else { to_first };
        if let Some(first) = kill_early(&place, &dir, moments.next(below)) {
            to_first = to_first.min(first);
        }
        let path = place.path(&dir);
        let begun = !has_events(&path);
        without += u64::from(begun);
        journals += u64::from(begun && support::journal(&path).exists());
        if let Err(said) = goes_on(&place, &dir) {
            stuck += 1;
            println!("{dir} is stuck: {said}");
        }
        fs::remove_dir_all(&path).unwrap();
    }
    println!(
        "{wanted} kills within {EARLY:?}: {without} found a log folder without a whole first event \
         ({journals} of them a journal); {stuck} runs were stuck"
    );
    assert_eq!(stuck, 0, "runs that can never be started again");
    assert!(
        wanted / 10 <= without,
        "the moments do not meet the first event"
    );
}
