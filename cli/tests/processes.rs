//! What a machine does to a process: stops and continues it, takes its memory away, makes its disk
//! read-only, sets its clock back. A run survives each.
//!
//! Two of these need root; elsewhere they say that they were skipped.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops at what it did not expect"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{Done, Place, assert_same, checkpoints, created_run, records, run, tinygate};
use tinygate::config::Config;
use tinygate::events::{Event, InterruptReason, RunInterrupted};
use tinygate::store::{Durability, EventLog};

/// A run never disturbed, in `whole/run`.
fn undisturbed(place: &Place) -> PathBuf {
    fs::create_dir(place.path("whole")).unwrap();
    let dir = place.arg("whole/run");
    run(["run", &place.config(), "--dir", &dir, "--quiet"]).expect(0);
    place.path("whole/run")
}

fn spawn(command: &mut Command) -> Child {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

/// Starts a run in `other/run` and waits for its first gate.
fn at_first_gate(place: &Place) -> Child {
    fs::create_dir(place.path("other")).unwrap();
    let args = ["run", &place.config(), "--dir", &place.arg("other/run")];
    let mut child = spawn(tinygate().args(args).args(["--json", "--quiet"]));
    let mut gates = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    gates.next().unwrap().unwrap();
    child
}

#[test]
fn a_stopped_process_goes_on() {
    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
    let place = Place::with_config(200);
    let whole = undisturbed(&place);
    let child = at_first_gate(&place);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).unwrap();
    assert!(stopped.unwrap().stopped());
    // Others can look at the run meanwhile, and cannot have it.
    let dir = place.arg("other/run");
    run(["status", &dir]).expect(0);
    run(["resume", &dir]).expect_error(2, &["has this run open"]);
    kill_process(pid, Signal::CONT).unwrap();
    Done::of(child.wait_with_output().unwrap()).expect(0);
    assert_same(&whole, &place.path("other/run"));
}

/// A terminal that goes away, and a job's manager that warns before the limit.
#[test]
fn a_hangup_and_a_warning_stop_with_a_checkpoint() {
    use rustix::process::{Pid, Signal, kill_process};
    let place = Place::with_config(200);
    let whole = undisturbed(&place);
    for (signal, name) in [(Signal::HUP, "SIGHUP"), (Signal::USR1, "SIGUSR1")] {
        let child = at_first_gate(&place);
        let pid = Pid::from_child(&child);
        kill_process(pid, signal).unwrap();
        // A shell passes a hangup on: it comes twice, and means the same. The process may
        // have ended after the first.
        let _ = kill_process(pid, signal);
        Done::of(child.wait_with_output().unwrap()).expect(130);
        let dir = place.arg("other/run");
        let last = records(&place.path("other/run")).pop().unwrap();
        assert_eq!(
            last.event,
            Event::RunInterrupted(RunInterrupted {
                reason: InterruptReason::Signal {
                    name: name.to_owned()
                }
            })
        );
        let status = run(["status", &dir]).expect(0).stdout;
        assert!(
            status.contains(&format!("interrupted ({name}), resumable")),
            "{status}"
        );
        run(["resume", &dir, "--quiet"]).expect(0);
        // An obeyed signal leaves a checkpoint more, and nothing else.
        let (one, other) = (records(&whole), records(&place.path("other/run")));
        assert_eq!(decided(&one), decided(&other));
        let (one, other) = (checkpoints(&one), checkpoints(&other));
        assert!(
            one.iter().all(|written| other.contains(written)),
            "other weights"
        );
        fs::remove_dir_all(place.path("other")).unwrap();
    }
}

/// Gates and their decisions.
fn decided(records: &[tinygate::events::Record]) -> Vec<(String, u64, tinygate::events::Action)> {
    let gate = |record: &tinygate::events::Record| {
        let Event::GateDecided(gate) = &record.event else {
            return None;
        };
        Some((gate.stage.to_string(), gate.gate_step.get(), gate.decision))
    };
    records.iter().filter_map(gate).collect()
}

/// Whoever starts a run with `nohup` wants it to outlive the terminal.
#[test]
fn under_nohup_a_hangup_stays_ignored() {
    use rustix::process::{Pid, Signal, kill_process};
    let place = Place::with_config(200);
    let whole = undisturbed(&place);
    fs::create_dir(place.path("other")).unwrap();
    let program = tinygate();
    let mut nohup = Command::new("nohup");
    nohup
        .arg(program.get_program())
        .args(["run", &place.config(), "--dir", &place.arg("other/run")])
        .args(["--json", "--quiet"]);
    let mut child = spawn(&mut nohup);
    let mut gates = BufReader::new(child.stdout.take().unwrap()).lines();
    gates.next().unwrap().unwrap();
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    assert!(gates.all(|gate| gate.is_ok()));
    Done::of(child.wait_with_output().unwrap()).expect(0);
    assert_same(&whole, &place.path("other/run"));
}

/// A run whose directory is moved or deleted writes nothing where it was.
#[test]
fn a_run_directory_that_is_moved_or_deleted_is_noticed() {
    let place = Place::with_config(200);
    let whole = undisturbed(&place);
    let child = at_first_gate(&place);
    fs::create_dir(place.path("moved")).unwrap();
    fs::rename(place.path("other/run"), place.path("moved/run")).unwrap();
    let done = Done::of(child.wait_with_output().unwrap()).expect(2);
    for want in [
        "other/run` was moved to",
        "moved/run",
        "hint: resume the run where it is now",
    ] {
        assert!(
            done.stderr.contains(want),
            "no `{want}` in:\n{}",
            done.stderr
        );
    }
    assert!(!place.path("other/run").exists(), "it was made again");
    let moved = place.arg("moved/run");
    run(["resume", &moved, "--quiet"]).expect(0);
    run(["replay", &moved]).expect(0);
    assert_same(&whole, &place.path("moved/run"));

    fs::remove_dir_all(place.path("other")).unwrap();
    let child = at_first_gate(&place);
    // Aside first, so that nothing is written into it while it is deleted.
    fs::rename(place.path("other/run"), place.path("gone")).unwrap();
    fs::remove_dir_all(place.path("gone")).unwrap();
    let done = Done::of(child.wait_with_output().unwrap()).expect(2);
    assert!(done.stderr.contains("was moved"), "{}", done.stderr);
    assert!(!place.path("other/run").exists(), "it was made again");
    assert!(!place.path("gone").exists(), "it was made again");
}

/// Another run that takes the place of one that was moved is left alone.
#[test]
fn another_directory_in_its_place_is_left_alone() {
    let place = Place::with_config(200);
    let child = at_first_gate(&place);
    fs::rename(place.path("other/run"), place.path("other/moved")).unwrap();
    fs::create_dir(place.path("other/run")).unwrap();
    Done::of(child.wait_with_output().unwrap()).expect(2);
    assert_eq!(fs::read_dir(place.path("other/run")).unwrap().count(), 0);
}

/// A group of processes with a limit on their memory; `None` where it cannot be made.
struct MemoryLimit(PathBuf);

impl MemoryLimit {
    fn of(bytes: u64) -> Option<MemoryLimit> {
        let name = format!("tinygate-test-{}", std::process::id());
        let places = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        places.iter().find_map(|(root, limit)| {
            let group = Path::new(root).join(&name);
            fs::create_dir(&group).ok()?;
            let group = MemoryLimit(group);
            fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            Some(group)
        })
    }

    /// The program with these arguments, in the group before it begins.
    fn tinygate(&self, args: &[&str]) -> Command {
        let program = tinygate();
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.0.join("cgroup.procs"))
            .arg(program.get_program())
            .args(args);
        command
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_process_killed_for_its_memory_is_resumed() {
    let Some(limit) = MemoryLimit::of(64 << 20) else {
        eprintln!("skipped: only root may limit the memory of a process group");
        return;
    };
    let place = Place::with_config(200);
    let whole = undisturbed(&place);
    let child = at_first_gate(&place);
    // Confined to less than it has, it is killed as soon as it wants a page more.
    let members = limit.0.join("cgroup.procs");
    fs::write(members, child.id().to_string()).unwrap();
    let killed = child.wait_with_output().unwrap();
    if killed.status.success() {
        eprintln!("skipped: the kernel did not enforce the limit");
        return;
    }
    assert_eq!(killed.status.code(), None, "{killed:?}");
    let dir = place.arg("other/run");
    // From its first page on there is not enough.
    let args = ["resume", &dir, "--quiet"];
    let again = spawn(&mut limit.tinygate(&args)).wait_with_output();
    assert!(!again.unwrap().status.success());
    run(args).expect(0);
    assert_same(&whole, &place.path("other/run"));
}

/// A run directory on a file system of its own.
struct OwnDisk(PathBuf);

impl OwnDisk {
    fn mount(path: PathBuf) -> Option<OwnDisk> {
        fs::create_dir(&path).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"], &path).then_some(OwnDisk(path))
    }

    fn remount(&self, how: &str) {
        assert!(mount(&["-o", &format!("remount,{how}")], &self.0), "{how}");
    }
}

fn mount(args: &[&str], path: &Path) -> bool {
    let mut command = Command::new("mount");
    let status = command.args(args).arg(path).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Drop for OwnDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_read_only_disk_is_read_and_nothing_is_lost() {
    let place = Place::with_config(200);
    let Some(disk) = OwnDisk::mount(place.path("other")) else {
        eprintln!("skipped: only root may mount a disk");
        return;
    };
    let dir = place.arg("other/run");
    let args = ["run", &place.config(), "--dir", &dir, "--quiet"];
    let mut child = spawn(tinygate().args(args).arg("--json"));
    let mut gates = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    gates.next().unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let before = fs::read(support::journal(&place.path("other/run"))).unwrap();

    disk.remount("ro");
    run(["status", &dir]).expect(0);
    run(["replay", &dir]).expect(0);
    run(["log", &dir]).expect(0);
    run(["resume", &dir]).expect_error(2, &["Read-only file system"]);
    disk.remount("rw");
    let after = fs::read(support::journal(&place.path("other/run"))).unwrap();
    assert!(before == after);
    run(["resume", &dir, "--quiet"]).expect(0);
    run(["replay", &dir]).expect(0);
    let whole = undisturbed(&place);
    assert_same(&whole, &place.path("other/run"));
}

/// The log's last event is of the year 2100.
#[test]
fn a_clock_set_back_changes_nothing() {
    const YEAR_2100_MS: u64 = 4_102_444_800_000;
    let place = Place::with_config(200);
    let config = Config::load(Path::new(&place.config()), &[])
        .unwrap()
        .config;
    let (store, created) = created_run(&place, "run", config.policy.clone());
    let first = [(YEAR_2100_MS, created)];
    store
        .append(store.head(), &first, Durability::Durable)
        .unwrap();
    store.close().unwrap();
    let dir = place.arg("run");
    run(["resume", &dir, "--quiet"]).expect(0);
    run(["replay", &dir]).expect(0);
    let records = records(&place.path("run"));
    assert_eq!(records[0].time_ms, YEAR_2100_MS);
    assert!(
        records[1].time_ms < YEAR_2100_MS,
        "times are as the clock said"
    );
    run(["status", &dir]).expect(0);
    run(["log", &dir]).expect(0);
}
