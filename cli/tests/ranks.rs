//! Ranks that train together, as real processes over real sockets: they give the same numbers as one rank
//! with more accumulation, the same bits every time, and the run survives the loss of any rank.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]
#![cfg(all(feature = "train", target_os = "linux"))]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use support::{Done, Sandbox, assert_same, checkpoints, decisions, npy, records, run, tinygate};
use tinygate::events::{ChunkFailure, Event, FileRecord, metric};

/// Two ranks, with a limit on the time that they wait for each other.
const TWO: [&str; 4] = [
    "--set",
    "nproc_per_node=2",
    "--set",
    "distributed.timeout_seconds=60",
];

fn begin(sandbox: &Sandbox, dir: &str, more: &[&str]) -> Command {
    fs::create_dir_all(sandbox.path(dir).parent().unwrap()).unwrap();
    let mut command = tinygate();
    command
        .args([
            "run",
            &sandbox.config(),
            "--dir",
            &sandbox.arg(dir),
            "--quiet",
        ])
        .args(more);
    command
}

fn spawn(command: &mut Command) -> Child {
    let piped = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    piped.spawn().unwrap()
}

/// Trains two undisturbed ranks in `whole/run`.
fn undisturbed(sandbox: &Sandbox) -> PathBuf {
    let done = Done::of(begin(sandbox, "whole/run", &TWO).output().unwrap());
    done.expect(0);
    sandbox.path("whole/run")
}

/// Starts two ranks in `other/run` and waits for their first gate.
fn at_first_gate(sandbox: &Sandbox, more: &[&str]) -> Child {
    let mut command = begin(sandbox, "other/run", &TWO);
    let mut child = spawn(command.args(more).arg("--json"));
    let mut gates = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    gates.next().unwrap().unwrap();
    child
}

/// The process that `parent` started as its rank 1.
fn rank_1(parent: &Child) -> Pid {
    let children = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let of = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))?
            .trim()
            .parse::<u32>()
            .ok()?;
        (of == parent.id()).then_some(pid)
    });
    let children: Vec<i32> = children.collect();
    let [child] = children.as_slice() else {
        panic!("expected one other rank, found {children:?}");
    };
    Pid::from_raw(*child).unwrap()
}

/// Whether a process is running. A zombie is not.
fn is_alive(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    status.is_ok_and(|status| {
        let state = status
            .lines()
            .find_map(|line| line.strip_prefix("State:"))
            .unwrap()
            .trim();
        !state.starts_with(['Z', 'X'])
    })
}

/// Whether a process that is not our child ends within this number of seconds.
fn ends_within(pid: Pid, seconds: i64) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true; // gone already
    };
    let patience = rustix::time::Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&patience)).unwrap() == 1
}

#[track_caller]
fn wait_for_end(pid: Pid) {
    assert!(ends_within(pid, 60), "process {pid:?} outlived its run");
}

type Losses = BTreeMap<(String, u64), f64>;

fn losses(run: &Path) -> Losses {
    let mut losses = Losses::new();
    for record in records(run) {
        let Event::MetricsLogged(logged) = &record.event else {
            continue;
        };
        for column in logged
            .columns
            .iter()
            .filter(|column| column.name == metric::LOSS)
        {
            for (index, value) in column.values.iter().enumerate() {
                let step = column.steps.at(index).unwrap().get();
                losses.insert((logged.stage.to_string(), step), value.get());
            }
        }
    }
    losses
}

/// The files of each stage's last checkpoint.
fn last_weights(run: &Path) -> BTreeMap<String, Vec<FileRecord>> {
    let all = checkpoints(&records(run));
    let of = |path: &str| path.split('/').next().unwrap().to_owned();
    all.into_iter()
        .map(|(path, files)| (of(&path), files))
        .collect()
}

fn failures(run: &Path) -> Vec<ChunkFailure> {
    let records = records(run);
    let failures = records.iter().filter_map(|record| match &record.event {
        Event::ChunkFailed(failed) => Some(failed.failure.clone()),
        _ => None,
    });
    failures.collect()
}

/// Starts a command as one of two ranks of a launcher.
fn launched(command: &mut Command, rank: u32, address: &str, port: u16) -> Child {
    launched_of(command, rank, 2, address, port)
}

/// Starts a command as one of `size` ranks, with the environment that a launcher sets.
fn launched_of(command: &mut Command, rank: u32, size: u32, address: &str, port: u16) -> Child {
    spawn(
        command
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", size.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("LOCAL_WORLD_SIZE", size.to_string())
            .env("MASTER_ADDR", address)
            .env("MASTER_PORT", port.to_string()),
    )
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn end(child: Child) -> Done {
    Done::of(child.wait_with_output().unwrap())
}

#[test]
fn two_ranks_train_like_one_rank_with_two_micro_batches() {
    let sandbox = Sandbox::with_config(200);
    let stages = ["video_tokenizer", "latent_actions", "dynamics"];
    let fifty = |accumulation: u32| {
        let of = |stage: &str| {
            let settings = [
                ("n_updates", 50),
                ("chunk_size", 50),
                ("gradient_accumulation_steps", accumulation),
            ];
            settings.map(|(key, value)| format!("{stage}.{key}={value}"))
        };
        let settings = stages.into_iter().flat_map(of);
        settings
            .flat_map(|setting| ["--set".to_owned(), setting])
            .collect::<Vec<_>>()
    };
    let one = |dir: &str, accumulation: u32, more: &[&str]| {
        let mut command = begin(&sandbox, dir, more);
        let done = Done::of(command.args(fifty(accumulation)).output().unwrap());
        done.expect(0);
        losses(&sandbox.path(dir))
    };
    let ranks = one("ranks", 1, &TWO);
    let micro_batches = one("micro-batches", 2, &[]);
    let again = one("again", 1, &TWO);
    assert_eq!(ranks.len(), 150);
    let mut most = 0.0_f64;
    for (update, loss) in &ranks {
        let other = micro_batches[update];
        most = most.max((loss - other).abs());
        assert!(
            (loss - other).abs() <= 1e-4,
            "{update:?}: {loss} with two ranks, {other} with two micro-batches"
        );
    }
    eprintln!("largest difference of a loss: {most:e}");
    let bits =
        |losses: &Losses| -> Vec<u64> { losses.values().map(|loss| loss.to_bits()).collect() };
    assert_eq!(bits(&ranks), bits(&again), "the same ranks twice");
    assert_eq!(
        checkpoints(&records(&sandbox.path("ranks"))),
        checkpoints(&records(&sandbox.path("again")))
    );
}

#[test]
fn when_rank_0_is_killed_the_others_end_and_a_resume_gives_the_same_result() {
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let mut child = at_first_gate(&sandbox, &[]);
    let other = rank_1(&child);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for_end(other);
    let dir = sandbox.arg("other/run");
    run(["resume", &dir, "--quiet"]).expect(0);
    assert_same(&whole, &sandbox.path("other/run"));
    let replayed = run(["replay", "--retrain", "--stage", "dynamics", &dir]).expect(0);
    assert!(
        replayed.stdout.contains("0 divergences"),
        "{}",
        replayed.stdout
    );
}

#[test]
fn when_rank_0_is_killed_a_suspended_rank_ends_too() {
    let sandbox = Sandbox::with_config(200);
    let mut child = at_first_gate(&sandbox, &[]);
    let other = rank_1(&child);
    kill_process(other, Signal::STOP).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for_end(other);
}

#[test]
fn when_another_rank_is_killed_the_chunk_loses_an_attempt() {
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let child = at_first_gate(&sandbox, &[]);
    let other = rank_1(&child);
    kill_process(other, Signal::KILL).unwrap();
    end(child).expect(0);
    let run = sandbox.path("other/run");
    let failures = failures(&run);
    let [ChunkFailure::WorkerExited { status, .. }] = failures.as_slice() else {
        panic!("{failures:?}");
    };
    assert!(
        status.contains("signal: 9") && status.contains("rank 1"),
        "{status}"
    );
    assert_eq!(last_weights(&run), last_weights(&whole));
}

#[test]
fn a_rank_that_hangs_is_timed_out_and_replaced() {
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let child = at_first_gate(&sandbox, &["--set", "distributed.timeout_seconds=15"]);
    let other = rank_1(&child);
    kill_process(other, Signal::STOP).unwrap();
    end(child).expect(0);
    assert!(!is_alive(other));
    let run = sandbox.path("other/run");
    let failures = failures(&run);
    let [
        ChunkFailure::WorkerTimedOut {
            seconds: 15,
            stderr,
        },
    ] = failures.as_slice()
    else {
        panic!("{failures:?}");
    };
    assert!(stderr.contains("rank 1"), "{stderr}");
    assert_eq!(last_weights(&run), last_weights(&whole));
}

#[test]
fn rank_0_continues_after_it_was_suspended() {
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let child = at_first_gate(&sandbox, &["--set", "distributed.timeout_seconds=15"]);
    let pid = Pid::from_child(&child);
    let other = rank_1(&child);
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).unwrap();
    assert!(stopped.unwrap().stopped());
    // Inside a chunk the other rank stops waiting for rank 0 after the time-out; between chunks it keeps waiting.
    let gave_up = ends_within(other, 25);
    kill_process(pid, Signal::CONT).unwrap();
    end(child).expect(0);
    let run = sandbox.path("other/run");
    assert_eq!(failures(&run).len(), usize::from(gave_up));
    assert_eq!(last_weights(&run), last_weights(&whole));
}

/// A signal to one rank stops all of them at the same update, with a checkpoint.
#[track_caller]
fn stopped_by(signal: Signal, choose: fn(&Child) -> Pid) {
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let child = at_first_gate(&sandbox, &[]);
    let other = rank_1(&child);
    kill_process(choose(&child), signal).unwrap();
    end(child).expect(130);
    assert!(!is_alive(other));
    let run_dir = sandbox.path("other/run");
    let written = records(&run_dir);
    assert!(
        written
            .iter()
            .any(|record| matches!(record.event, Event::RunInterrupted(_))),
        "the interruption is not recorded"
    );
    run(["resume", &sandbox.arg("other/run"), "--quiet"]).expect(0);
    assert_eq!(last_weights(&run_dir), last_weights(&whole));
}

#[test]
fn sigint_to_rank_0_stops_all_with_a_checkpoint() {
    stopped_by(Signal::INT, Pid::from_child);
}

#[test]
fn sigterm_to_another_rank_stops_all_with_a_checkpoint() {
    stopped_by(Signal::TERM, rank_1);
}

#[test]
fn sigusr1_to_rank_0_stops_all_with_a_checkpoint() {
    stopped_by(Signal::USR1, Pid::from_child);
}

#[test]
fn sighup_to_another_rank_stops_all_with_a_checkpoint() {
    stopped_by(Signal::HUP, rank_1);
}

#[test]
fn ranks_of_a_launcher_give_the_same_bits_as_our_own() {
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let port = free_port();
    let ranks = [0, 1].map(|rank| {
        launched(
            &mut begin(&sandbox, "other/run", &[]),
            rank,
            "127.0.0.1",
            port,
        )
    });
    for rank in ranks {
        end(rank).expect(0);
    }
    assert_eq!(
        checkpoints(&records(&whole)),
        checkpoints(&records(&sandbox.path("other/run")))
    );
}

#[test]
fn a_job_of_another_size_is_refused() {
    let sandbox = Sandbox::with_config(200);
    let mut child = at_first_gate(&sandbox, &[]);
    child.kill().unwrap();
    child.wait().unwrap();
    // Three ranks would train on other windows.
    let port = free_port();
    let three = [0, 1, 2].map(|rank| {
        let mut resume = tinygate();
        resume.args(["resume", &sandbox.arg("other/run")]);
        launched_of(&mut resume, rank, 3, "127.0.0.1", port)
    });
    for rank in three {
        end(rank).expect_error(2, &["the run has 2 ranks, and the launcher started 3"]);
    }
    let port = free_port();
    let alone = ["--set", "distributed.use_ddp=false"];
    let ranks =
        [0, 1].map(|rank| launched(&mut begin(&sandbox, "new", &alone), rank, "127.0.0.1", port));
    for rank in ranks {
        end(rank).expect_error(2, &["a launcher started 2 ranks"]);
    }
}

/// A service other than rank 0, at the port where a rank expects rank 0.
#[derive(Clone, Copy, Debug)]
enum Service {
    Silent,
    Closes,
    Garbage,
    /// Sends half of the answer to the handshake.
    Half,
    /// Completes the handshake and sends nothing after it.
    Handshake,
}

/// Starts a service. Returns its port, and a channel that gets a message for each connection.
fn serve(service: Service) -> (u16, Receiver<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connecting, connected) = channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 10];
            let number = match service {
                Service::Silent | Service::Closes => 0,
                Service::Garbage | Service::Half | Service::Handshake => {
                    stream.read_exact(&mut asked).map_or(0, |()| 4)
                }
            };
            // The client may have disconnected.
            let _ = match service {
                Service::Silent | Service::Closes => Ok(()),
                Service::Garbage => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
                Service::Half => stream.write_all(&asked[6..6 + number / 2]),
                Service::Handshake => stream.write_all(&asked[6..6 + number]),
            };
            if !matches!(service, Service::Closes) {
                kept.push(stream);
            }
            let _ = connecting.send(());
        }
    });
    (port, connected)
}

const SHORT_TIMEOUT: [&str; 2] = ["--set", "distributed.timeout_seconds=1"];

#[test]
fn a_rank_stops_waiting_for_a_service_that_is_not_rank_0() {
    let sandbox = Sandbox::with_config(200);
    let services = [
        Service::Silent,
        Service::Closes,
        Service::Garbage,
        Service::Half,
    ];
    for service in services {
        let (port, _connected) = serve(service);
        let rank = launched(
            &mut begin(&sandbox, "none", &SHORT_TIMEOUT),
            1,
            "127.0.0.1",
            port,
        );
        let words = format!("no rank 0 answers at 127.0.0.1:{port}");
        end(rank).expect_error(2, &[&words]);
    }
    let (port, _connected) = serve(Service::Handshake);
    let rank = launched(
        &mut begin(&sandbox, "none", &SHORT_TIMEOUT),
        1,
        "127.0.0.1",
        port,
    );
    end(rank).expect_error(2, &["rank 0 did not answer at 127.0.0.1:", "within 1 s"]);
    let (port, _connected) = serve(Service::Silent);
    let mut resume = tinygate();
    resume
        .arg("resume")
        .arg(sandbox.arg("none"))
        .args(SHORT_TIMEOUT);
    let rank = launched(&mut resume, 1, "127.0.0.1", port);
    end(rank).expect_error(2, &["no rank 0 answers at 127.0.0.1:"]);
    assert!(!sandbox.path("none").exists());
}

#[test]
fn rank_0_stops_waiting_for_the_silent_store_of_a_launcher() {
    let sandbox = Sandbox::with_config(200);
    for service in [Service::Silent, Service::Half] {
        let (port, _connected) = serve(service);
        let mut command = begin(&sandbox, "none", &SHORT_TIMEOUT);
        command.env("TORCHELASTIC_USE_AGENT_STORE", "True");
        let rank = launched(&mut command, 0, "127.0.0.1", port);
        end(rank).expect_error(2, &["the store of the launcher: no answer within 1 s"]);
    }
}

#[test]
fn one_sigterm_ends_a_rank_that_waits_for_rank_0() {
    let sandbox = Sandbox::with_config(200);
    for service in [Service::Silent, Service::Half, Service::Handshake] {
        let (port, connected) = serve(service);
        let rank = launched(&mut begin(&sandbox, "none", &[]), 1, "127.0.0.1", port);
        connected.recv().unwrap();
        kill_process(Pid::from_child(&rank), Signal::TERM).unwrap();
        let done = end(rank).expect(130);
        let words = "stopped by SIGTERM while waiting for rank 0";
        assert!(done.stderr.contains(words), "{service:?}: {}", done.stderr);
    }
}

/// Whether this process can create network namespaces.
fn can_create_networks() -> bool {
    let tried = Command::new("unshare")
        .args(["--net", "ip", "link"])
        .output();
    let may = tried.is_ok_and(|done| done.status.success());
    if !may {
        eprintln!("skipped: only root can create network namespaces, with `unshare` and `ip`");
    }
    may
}

/// Two network namespaces connected by a virtual cable, like two machines.
struct Cable([String; 2]);

impl Cable {
    const ADDRESSES: [&str; 2] = ["10.213.7.1", "10.213.7.2"];

    fn plug() -> Cable {
        let names = [0, 1].map(|end| format!("tinygate-{}-{end}", std::process::id()));
        for name in &names {
            ip(&["netns", "add", name]);
        }
        let cable = Cable(names);
        let [one, other] = &cable.0;
        let link = [
            "link", "add", "eth-a", "netns", one, "type", "veth", "peer", "name",
        ];
        ip(&[&link[..], &["eth-b", "netns", other]].concat());
        for (end, name) in cable.0.iter().enumerate() {
            let address = format!("{}/24", Cable::ADDRESSES[end]);
            let device = ["eth-a", "eth-b"][end];
            ip(&["-n", name, "addr", "add", &address, "dev", device]);
            ip(&["-n", name, "link", "set", device, "up"]);
            // A machine reaches its own address over the loopback interface.
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        cable
    }

    /// A command on one of the two machines.
    fn on(&self, end: usize, inner: &Command) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.0[end]])
            .arg(inner.get_program())
            .args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.0 {
            ip(&["netns", "del", name]);
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).output().unwrap();
    assert!(done.status.success(), "ip {args:?}: {done:?}");
}

#[test]
fn two_machines_give_the_same_bits_as_one() {
    if !can_create_networks() {
        return;
    }
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let cable = Cable::plug();
    let ranks = [0, 1].map(|rank| {
        // The second machine has no run directory, and its ranks are the only ones there.
        let dir = ["other/run", "nowhere/run"][rank];
        let patience = ["--set", "distributed.timeout_seconds=60"];
        let mut command = cable.on(rank, &begin(&sandbox, dir, &patience));
        spawn(
            command
                .env("RANK", rank.to_string())
                .env("WORLD_SIZE", "2")
                .env("LOCAL_RANK", "0")
                .env("MASTER_ADDR", Cable::ADDRESSES[0])
                .env("MASTER_PORT", "29500"),
        )
    });
    for rank in ranks {
        end(rank).expect(0);
    }
    assert!(!sandbox.path("nowhere/run").exists());
    let (one, two) = (records(&whole), records(&sandbox.path("other/run")));
    assert_eq!(checkpoints(&one), checkpoints(&two));
    assert_eq!(decisions(&one), decisions(&two));
}

#[test]
fn a_requeued_job_resumes_its_run() {
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let mut child = at_first_gate(&sandbox, &["--or-resume"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut other = begin(&sandbox, "other/run", &TWO);
    let other = Done::of(
        other
            .args(["--or-resume", "--set", "seed=9"])
            .output()
            .unwrap(),
    );
    other.expect_error(2, &["seed"]);
    let mut again = begin(&sandbox, "other/run", &TWO);
    Done::of(again.arg("--or-resume").output().unwrap()).expect(0);
    assert_same(&whole, &sandbox.path("other/run"));
}

#[test]
fn a_launchers_job_is_resumed_by_all_its_ranks() {
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let port = free_port();
    let mut zero = begin(&sandbox, "other/run", &["--json"]);
    let mut zero = launched(&mut zero, 0, "127.0.0.1", port);
    let one = launched(&mut begin(&sandbox, "other/run", &[]), 1, "127.0.0.1", port);
    let mut gates = BufReader::new(zero.stdout.as_mut().unwrap()).lines();
    gates.next().unwrap().unwrap();
    // Before the time limit of a job, Slurm sends the signal to every rank.
    kill_process(Pid::from_child(&one), Signal::TERM).unwrap();
    kill_process(Pid::from_child(&zero), Signal::TERM).unwrap();
    end(zero).expect(130);
    end(one).expect(0);
    let dir = sandbox.arg("other/run");
    let port = free_port();
    let resume = || {
        let mut command = tinygate();
        command.args(["resume", &dir, "--quiet"]);
        command
    };
    let ranks = [0, 1].map(|rank| launched(&mut resume(), rank, "127.0.0.1", port));
    for rank in ranks {
        end(rank).expect(0);
    }
    assert_eq!(
        last_weights(&sandbox.path("other/run")),
        last_weights(&whole)
    );
}

#[test]
fn ranks_of_a_launcher_exit_when_there_is_nothing_to_train() {
    let sandbox = Sandbox::with_config(200);
    undisturbed(&sandbox);
    let dir = sandbox.arg("whole/run");
    let both = |args: &[&str]| {
        let port = free_port();
        [0, 1].map(|rank| launched(tinygate().args(args), rank, "127.0.0.1", port))
    };
    for rank in both(&["resume", &dir, "--quiet"]) {
        end(rank).expect(0);
    }
    // Rank 0 finds the error and sends it to the other rank.
    let [zero, one] = both(&["run", &sandbox.config(), "--dir", &dir]);
    end(zero).expect_error(2, &["cannot start a run"]);
    end(one).expect_error(2, &["rank 0 refuses this rank", "cannot start a run"]);
}

#[test]
fn a_job_that_lost_a_rank_of_a_launcher_ends_and_can_be_resumed() {
    let sandbox = Sandbox::with_config(200);
    let whole = undisturbed(&sandbox);
    let port = free_port();
    let mut zero = begin(&sandbox, "other/run", &["--json"]);
    let mut zero = launched(&mut zero, 0, "127.0.0.1", port);
    let mut one = launched(&mut begin(&sandbox, "other/run", &[]), 1, "127.0.0.1", port);
    let mut gates = BufReader::new(zero.stdout.as_mut().unwrap()).lines();
    gates.next().unwrap().unwrap();
    one.kill().unwrap();
    one.wait().unwrap();
    let mut done = end(zero).expect(2);
    assert!(
        done.stderr.contains("only their launcher"),
        "{}",
        done.stderr
    );
    let dir = sandbox.path("other/run");
    assert_eq!(failures(&dir).len(), 1);
    // The run can be resumed on one machine without the launcher.
    done = run(["resume", &sandbox.arg("other/run"), "--quiet"]);
    done.expect(0);
    assert_eq!(last_weights(&dir), last_weights(&whole));
}

#[test]
fn ranks_with_different_configs_are_refused() {
    let sandbox = Sandbox::with_config(200);
    let port = free_port();
    let zero = launched(&mut begin(&sandbox, "run", &[]), 0, "127.0.0.1", port);
    let mut other = begin(&sandbox, "run", &["--set", "seed=4", "--set", "threads=2"]);
    let one = launched(&mut other, 1, "127.0.0.1", port);
    let words = ["another config: `seed` is 4 there and 3 on rank 0"];
    end(zero).expect_error(2, &words);
    end(one).expect_error(2, &words);
    assert!(!sandbox.path("run").exists(), "a run was created");
}

#[test]
fn a_rank_with_other_data_is_refused() {
    let sandbox = Sandbox::with_config(200);
    let other = sandbox.write("other.npy", npy(201));
    let port = free_port();
    let zero = launched(&mut begin(&sandbox, "run", &[]), 0, "127.0.0.1", port);
    let other = format!("data.path={other}");
    let mut one = begin(&sandbox, "run", &["--set", &other]);
    let one = launched(&mut one, 1, "127.0.0.1", port);
    let words = ["the data is not that of rank 0"];
    end(zero).expect_error(2, &words);
    end(one).expect_error(2, &words);
    assert!(!sandbox.path("run").exists(), "a run was created");
}

#[test]
fn a_port_in_use_is_reported() {
    let sandbox = Sandbox::with_config(200);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let zero = launched(&mut begin(&sandbox, "run", &[]), 0, "127.0.0.1", port);
    let at = format!("rank 0 cannot listen at 127.0.0.1:{port}");
    end(zero).expect_error(2, &[&at, "MASTER_PORT"]);
    assert!(!sandbox.path("run").exists(), "a run was created");
}

#[test]
fn a_wrong_address_is_reported_by_both_ranks() {
    let sandbox = Sandbox::with_config(200);
    let short = ["--set", "distributed.timeout_seconds=2"];
    let port = free_port();
    let one = launched(&mut begin(&sandbox, "run", &short), 1, "127.0.0.1", port);
    let at = format!("no rank 0 answers at 127.0.0.1:{port}");
    end(one).expect_error(2, &[&at]);
    let zero = launched(&mut begin(&sandbox, "run", &short), 0, "127.0.0.1", port);
    let words = ["1 of 2 ranks connected", "within 2 s", "missing: 1"];
    end(zero).expect_error(2, &words);
    let nowhere = launched(
        &mut begin(&sandbox, "run", &short),
        0,
        "no-such-host.invalid",
        port,
    );
    end(nowhere).expect_error(2, &["no-such-host.invalid", "MASTER_ADDR"]);
    assert!(!sandbox.path("run").exists(), "a run was created");
}

#[test]
fn an_incomplete_launcher_environment_is_refused() {
    let sandbox = Sandbox::with_config(200);
    let done = Done::of(
        begin(&sandbox, "run", &[])
            .env("RANK", "0")
            .output()
            .unwrap(),
    );
    done.expect_error(2, &["RANK is set, WORLD_SIZE is not"]);
    run(["worker"]).expect_error(2, &["no run started this one"]);
}

/// Runs the program in a new network namespace, in which even the loopback interface is down. Returns `None` without root.
fn without_network(sandbox: &Sandbox, dir: &str, more: &[&str]) -> Option<Done> {
    let may = Command::new("unshare").args(["--net", "true"]).output();
    if !may.is_ok_and(|done| done.status.success()) {
        eprintln!("skipped: only root can create a network namespace");
        return None;
    }
    let inner = begin(sandbox, dir, more);
    let mut command = Command::new("unshare");
    command
        .arg("--net")
        .arg(inner.get_program())
        .args(inner.get_args())
        .env("NO_COLOR", "1");
    Some(Done::of(command.output().unwrap()))
}

#[test]
fn without_a_group_of_ranks_no_run_is_created() {
    let sandbox = Sandbox::with_config(200);
    let short = [
        "--set",
        "nproc_per_node=2",
        "--set",
        "distributed.timeout_seconds=15",
    ];
    let Some(done) = without_network(&sandbox, "run", &short) else {
        return;
    };
    done.expect_error(2, &["--allow-single-gpu-fallback"]);
    assert!(!sandbox.path("run").exists(), "a run was created");
    let granted = [&short[..], &["--allow-single-gpu-fallback"]].concat();
    without_network(&sandbox, "granted", &granted)
        .unwrap()
        .expect(0);
    let records = records(&sandbox.path("granted"));
    let grant = records.iter().find_map(|record| match &record.event {
        Event::FallbackGranted(grant) => Some(grant.clone()),
        _ => None,
    });
    let grant = grant.unwrap();
    assert_eq!(
        (
            grant.ranks_wanted,
            grant.ranks_available,
            grant.accumulation_factor
        ),
        (2, 1, 2)
    );
    assert_eq!(grant.granted_by, "command line");
}
