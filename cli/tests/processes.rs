//! A run survives what can happen to its process: it is suspended, gets a signal, runs out of
//! memory, its directory is moved, its disk becomes read-only, its clock is set back.
//!
//! Two of these tests need root; without it they print that they were skipped.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test panics at anything unexpected"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{Done, Sandbox, assert_same, checkpoints, created_run, records, run, tinygate};
use tinygate::config::Config;
use tinygate::events::{Event, InterruptReason, RunInterrupted};
use tinygate::store::{Durability, EventLog};

/// Trains an undisturbed run in `whole/run`.
fn undisturbed(sandbox: &Sandbox) -> PathBuf {
    fs::create_dir(sandbox.path("whole")).unwrap();
    let dir = sandbox.arg("whole/run");
    run(["run", &sandbox.config(), "--dir", &dir, "--quiet"]).expect(0);
    sandbox.path("whole/run")
}

fn spawn(command: &mut Command) -> Child {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

/// Starts a run in `other/run` and waits for its first gate.
fn at_first_gate(sandbox: &Sandbox) -> Child {
    fs::create_dir(sandbox.path("other")).unwrap();
    let args = ["run", &sandbox.config(), "--dir", &sandbox.arg("other/run")];
    let mut child = spawn(tinygate().args(args).args(["--json", "--quiet"]));
    let mut gates = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    gates.next().unwrap().unwrap();
    child
}

#[test]
fn a_suspended_process_continues() {
    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let child = at_first_gate(&sandbox);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).unwrap();
    assert!(stopped.unwrap().stopped());
    // Meanwhile other processes can read the run, but not resume it.
    let dir = sandbox.arg("other/run");
    run(["status", &dir]).expect(0);
    run(["resume", &dir]).expect_error(2, &["has this run open"]);
    kill_process(pid, Signal::CONT).unwrap();
    Done::of(child.wait_with_output().unwrap()).expect(0);
    assert_same(&whole, &sandbox.path("other/run"));
}

/// The terminal is closed, or a scheduler sends a signal before the time limit of a job.
#[test]
fn sighup_and_sigusr1_stop_a_run_with_a_checkpoint() {
    use rustix::process::{Pid, Signal, kill_process};
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    for (signal, name) in [(Signal::HUP, "SIGHUP"), (Signal::USR1, "SIGUSR1")] {
        if signal == Signal::HUP && ignores_hangups() {
            eprintln!("skipped: SIGHUP is ignored here, and the program inherits that");
            continue;
        }
        let child = at_first_gate(&sandbox);
        let pid = Pid::from_child(&child);
        kill_process(pid, signal).unwrap();
        // A shell forwards a hangup, so it may come twice. The process may have ended after
        // the first.
        let _ = kill_process(pid, signal);
        Done::of(child.wait_with_output().unwrap()).expect(130);
        let dir = sandbox.arg("other/run");
        let last = records(&sandbox.path("other/run")).pop().unwrap();
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
        // The signal adds a checkpoint and changes nothing else.
        let (one, other) = (records(&whole), records(&sandbox.path("other/run")));
        assert_eq!(decided(&one), decided(&other));
        let (one, other) = (checkpoints(&one), checkpoints(&other));
        assert!(
            one.iter().all(|written| other.contains(written)),
            "weights differ"
        );
        fs::remove_dir_all(sandbox.path("other")).unwrap();
    }
}

/// Whether this process ignores SIGHUP, as under `nohup`.
fn ignores_hangups() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

/// Stage, update and decision of each gate.
fn decided(records: &[tinygate::events::Record]) -> Vec<(String, u64, tinygate::events::Action)> {
    let gate = |record: &tinygate::events::Record| {
        let Event::GateDecided(gate) = &record.event else {
            return None;
        };
        Some((gate.stage.to_string(), gate.gate_step.get(), gate.decision))
    };
    records.iter().filter_map(gate).collect()
}

/// A run under `nohup` survives the end of its terminal.
#[test]
fn under_nohup_a_hangup_stays_ignored() {
    use rustix::process::{Pid, Signal, kill_process};
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    fs::create_dir(sandbox.path("other")).unwrap();
    let program = tinygate();
    let mut nohup = Command::new("nohup");
    nohup
        .arg(program.get_program())
        .args(["run", &sandbox.config(), "--dir", &sandbox.arg("other/run")])
        .args(["--json", "--quiet"]);
    let mut child = spawn(&mut nohup);
    let mut gates = BufReader::new(child.stdout.take().unwrap()).lines();
    gates.next().unwrap().unwrap();
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    assert!(gates.all(|gate| gate.is_ok()));
    Done::of(child.wait_with_output().unwrap()).expect(0);
    assert_same(&whole, &sandbox.path("other/run"));
}

/// If a run directory is moved or deleted, nothing is written to its old path.
#[test]
fn a_run_directory_that_is_moved_or_deleted_is_noticed() {
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let child = at_first_gate(&sandbox);
    fs::create_dir(sandbox.path("moved")).unwrap();
    fs::rename(sandbox.path("other/run"), sandbox.path("moved/run")).unwrap();
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
    assert!(!sandbox.path("other/run").exists(), "it was created again");
    let moved = sandbox.arg("moved/run");
    run(["resume", &moved, "--quiet"]).expect(0);
    run(["replay", &moved]).expect(0);
    assert_same(&whole, &sandbox.path("moved/run"));

    fs::remove_dir_all(sandbox.path("other")).unwrap();
    let child = at_first_gate(&sandbox);
    // Move it first, so that nothing is written into it while it is deleted.
    fs::rename(sandbox.path("other/run"), sandbox.path("gone")).unwrap();
    fs::remove_dir_all(sandbox.path("gone")).unwrap();
    let done = Done::of(child.wait_with_output().unwrap()).expect(2);
    assert!(done.stderr.contains("was moved"), "{}", done.stderr);
    assert!(!sandbox.path("other/run").exists(), "it was created again");
    assert!(!sandbox.path("gone").exists(), "it was created again");
}

/// After a run directory was moved, a new directory at its old path is not touched.
#[test]
fn a_new_directory_at_the_old_path_is_not_touched() {
    let sandbox = Sandbox::with_config(200);
    let child = at_first_gate(&sandbox);
    fs::rename(sandbox.path("other/run"), sandbox.path("other/moved")).unwrap();
    fs::create_dir(sandbox.path("other/run")).unwrap();
    Done::of(child.wait_with_output().unwrap()).expect(2);
    assert_eq!(fs::read_dir(sandbox.path("other/run")).unwrap().count(), 0);
}

/// A control group with a memory limit, removed on drop.
struct MemoryLimit(PathBuf);

impl MemoryLimit {
    /// Returns `None` if the group cannot be created.
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

    /// A command that joins the group and then executes the program.
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
fn a_process_killed_for_its_memory_can_be_resumed() {
    let Some(limit) = MemoryLimit::of(64 << 20) else {
        eprintln!("skipped: only root can limit the memory of a control group");
        return;
    };
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let child = at_first_gate(&sandbox);
    // The limit is below what it uses, so it is killed when it allocates another page.
    let members = limit.0.join("cgroup.procs");
    fs::write(members, child.id().to_string()).unwrap();
    let killed = child.wait_with_output().unwrap();
    if killed.status.success() {
        eprintln!("skipped: the kernel did not enforce the limit");
        return;
    }
    assert_eq!(killed.status.code(), None, "{killed:?}");
    let dir = sandbox.arg("other/run");
    // A process that starts with this limit fails too.
    let args = ["resume", &dir, "--quiet"];
    let again = spawn(&mut limit.tinygate(&args)).wait_with_output();
    assert!(!again.unwrap().status.success());
    run(args).expect(0);
    assert_same(&whole, &sandbox.path("other/run"));
}

/// A file system for a run directory, unmounted on drop.
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
fn a_run_on_a_read_only_disk_can_be_read_and_loses_nothing() {
    let sandbox = Sandbox::with_config(200);
    let Some(disk) = OwnDisk::mount(sandbox.path("other")) else {
        eprintln!("skipped: only root can mount a disk");
        return;
    };
    let dir = sandbox.arg("other/run");
    let args = ["run", &sandbox.config(), "--dir", &dir, "--quiet"];
    let mut child = spawn(tinygate().args(args).arg("--json"));
    let mut gates = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    gates.next().unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let before = fs::read(support::journal(&sandbox.path("other/run"))).unwrap();

    disk.remount("ro");
    run(["status", &dir]).expect(0);
    run(["replay", &dir]).expect(0);
    run(["log", &dir]).expect(0);
    run(["resume", &dir]).expect_error(2, &["Read-only file system"]);
    disk.remount("rw");
    let after = fs::read(support::journal(&sandbox.path("other/run"))).unwrap();
    assert!(before == after);
    run(["resume", &dir, "--quiet"]).expect(0);
    run(["replay", &dir]).expect(0);
    let whole = undisturbed(&sandbox);
    assert_same(&whole, &sandbox.path("other/run"));
}

/// The log's last event has a time in the year 2100.
#[test]
fn a_clock_set_back_changes_nothing() {
    const YEAR_2100_MS: u64 = 4_102_444_800_000;
    let sandbox = Sandbox::with_config(200);
    let config = Config::load(Path::new(&sandbox.config()), &[])
        .unwrap()
        .config;
    let (store, created) = created_run(&sandbox, "run", config.policy.clone());
    let first = [(YEAR_2100_MS, created)];
    store
        .append(store.head(), &first, Durability::Durable)
        .unwrap();
    store.close().unwrap();
    let dir = sandbox.arg("run");
    run(["resume", &dir, "--quiet"]).expect(0);
    run(["replay", &dir]).expect(0);
    let records = records(&sandbox.path("run"));
    assert_eq!(records[0].time_ms, YEAR_2100_MS);
    assert!(
        records[1].time_ms < YEAR_2100_MS,
        "times are those of the clock"
    );
    run(["status", &dir]).expect(0);
    run(["log", &dir]).expect(0);
}
