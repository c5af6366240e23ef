//! A disk that fills up in the middle of a run: this is not a failure of the chunk, and nothing
//! is lost.
//!
//! The disk is a small tmpfs. Without the permission to mount one, the same test runs in a new
//! user and mount namespace; if that is forbidden too, the test prints that it checked nothing.
//! The test with a limit on file sizes needs no permission.

#![cfg(feature = "train")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]

mod support;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Done, Sandbox, run, tinygate};
use tinygate::events::Event;
use tinygate::machine::{Machine, RunState};
use tinygate::store::LogFile;

/// A small file system, unmounted on drop.
struct SmallDisk(PathBuf);

/// Set for a test that runs in a namespace.
const INSIDE: &str = "TINYGATE_TEST_IN_NAMESPACE";

impl SmallDisk {
    /// Returns `None` if this process may not mount. The test has then run in a namespace,
    /// or not at all.
    #[track_caller]
    fn mount(path: PathBuf, megabytes: u32, test: &str) -> Option<SmallDisk> {
        let disk = SmallDisk::try_mount(path, megabytes);
        if disk.is_none() {
            assert!(
                std::env::var_os(INSIDE).is_none(),
                "cannot mount in a namespace"
            );
            in_namespace(test);
        }
        disk
    }

    fn try_mount(path: PathBuf, megabytes: u32) -> Option<SmallDisk> {
        fs::create_dir(&path).unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| SmallDisk(path))
    }

    /// Writes a file until the disk is full.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        for size in [1 << 16, 1 << 10, 1] {
            let block = vec![0; size];
            let error = loop {
                if let Err(error) = file.write_all(&block) {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Runs one of these tests as root of a namespace, where it can mount.
#[track_caller]
fn in_namespace(test: &str) {
    let unshare = |program: &std::ffi::OsStr| {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount"])
            .arg(program);
        command
    };
    let may = unshare("mount".as_ref())
        .args(["-t", "tmpfs", "tmpfs", "/tmp"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !may {
        eprintln!(
            "\nNOT CHECKED: `{test}`: this process can neither mount a disk nor create a namespace\n"
        );
        return;
    }
    let program = std::env::current_exe().unwrap();
    let output = unshare(program.as_os_str())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "in a namespace:\n{stdout}\n{stderr}"
    );
    assert!(stdout.contains("1 passed"), "{stdout}");
}

fn state(run: &Path) -> RunState {
    let mut machine = Machine::default();
    for record in LogFile::open(run).unwrap().records() {
        machine.apply(&record.unwrap().event);
    }
    machine.into_state()
}

#[test]
fn a_full_disk_is_not_a_failure_of_the_chunk() {
    let sandbox = Sandbox::with_config(200);
    let test = "a_full_disk_is_not_a_failure_of_the_chunk";
    let Some(disk) = SmallDisk::mount(sandbox.path("disk"), 64, test) else {
        return;
    };
    let dir = sandbox.arg("disk/run");
    let mut child = tinygate()
        .args(["run", &sandbox.config(), "--dir", &dir, "--json", "--quiet"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    disk.fill();
    let printed = 1 + lines.count();
    let done = Done::of(child.wait_with_output().unwrap());
    // The log's own warning may come before the error.
    let done = done.expect(2);
    assert!(
        done.stderr.contains("space") && done.stderr.contains("hint: "),
        "{}",
        done.stderr
    );
    assert!(printed < 6, "the run finished before the disk was full");

    // The disk is still full: `resume` fails too.
    let still = run(["resume", &dir]).expect(2);
    assert!(still.stderr.contains("hint: "), "{}", still.stderr);

    disk.free();
    run(["resume", &dir]).expect(0);
    finished_without_a_failure(&dir);
}

#[track_caller]
fn finished_without_a_failure(dir: &str) {
    let log = run(["log", dir, "--json"]).expect(0).stdout;
    assert!(log.contains("\"kind\":\"run_finished\""));
    let failed = |event: &Event| matches!(event, Event::ChunkFailed(_) | Event::FailureDecided(_));
    for record in LogFile::open(dir.as_ref()).unwrap().records() {
        let record = record.unwrap();
        assert!(!failed(&record.event), "a failure was counted: {record:?}");
    }
    for stage in &state(dir.as_ref()).stages {
        assert_eq!((stage.failures, stage.chunk_failures), (0, 0));
    }
    run(["replay", dir]).expect(0);
}

/// In blocks of 512 bytes (1024 in some shells): enough for a log, too little for the model below.
const FILE_BLOCKS_MAX: &str = "6144";

#[test]
fn a_file_size_limit_is_not_a_failure_of_the_chunk() {
    let sandbox = Sandbox::with_config(200);
    let dir = sandbox.arg("run");
    // With SIGXFSZ ignored, a write beyond the limit is an error, as on a full disk.
    let limited = format!("trap '' XFSZ; ulimit -f {FILE_BLOCKS_MAX}; exec \"$0\" \"$@\"");
    let done = Command::new("sh")
        .args(["-c", &limited, env!("CARGO_BIN_EXE_tinygate")])
        .args(["run", &sandbox.config(), "--dir", &dir, "--json", "--quiet"])
        .args(["--stage", "video_tokenizer"])
        .args(["--set", "video_tokenizer.embed_dim=256"])
        .args(["--set", "video_tokenizer.hidden_dim=1024"])
        .output()
        .unwrap();
    let texts = ["cannot write", "model_state_dict.pt", "resume"];
    Done::of(done).expect_error(2, &texts);
    let log = run(["log", &dir]).expect(0).stdout;
    assert!(
        log.lines().last().unwrap().contains("run_interrupted"),
        "{log}"
    );

    run(["resume", &dir]).expect(0);
    finished_without_a_failure(&dir);
}

#[test]
fn a_disk_too_small_for_checkpoints_is_found_before_training() {
    let sandbox = Sandbox::with_config(200);
    let test = "a_disk_too_small_for_checkpoints_is_found_before_training";
    let Some(_disk) = SmallDisk::mount(sandbox.path("disk"), 12, test) else {
        return;
    };
    let dir = sandbox.arg("disk/run");
    let args = ["run", &sandbox.config(), "--dir", &dir, "--quiet"];
    run(args).expect_error(2, &["not enough space in", "MiB are needed", "resume"]);
    let last = run(["log", &dir]).expect(0).stdout;
    assert!(
        last.lines().last().unwrap().contains("run_interrupted"),
        "{last}"
    );
}
