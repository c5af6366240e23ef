//! A real training run, killed with SIGKILL at random moments until it ends, again and again:
//! each time it ends with the weights, the decisions and the state of a run never killed.
//!
//! `TINYGATE_KILLS` sets how many kills (`make kills KILLS=200`), `TINYGATE_SEED` the moments.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at what it did not expect"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use support::{Place, checkpoints, decisions, folded, records, run, tinygate};
use tinygate::events::{Event, FileRecord};
use tinygate::machine::RunState;
use tinygate::store::LogFile;

/// In `make test`.
const KILLS: u64 = 10;
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

fn has_events(dir: &Path) -> bool {
    LogFile::open(dir).is_ok_and(|log| log.records().next().is_some_and(|first| first.is_ok()))
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
                // Killed before its first event, a run is begun anew, as the error says.
                let _ = fs::remove_dir_all(place.path(&dir));
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
