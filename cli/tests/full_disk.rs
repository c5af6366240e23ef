//! A disk that fills up in the middle of a run: nobody's failure, and nothing lost.
//!
//! The disk is a small tmpfs, which only root may mount. Elsewhere the test says so.

#![cfg(feature = "train")]

mod support;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Done, Place, run, tinygate};
use tinygate::events::Event;
use tinygate::machine::{RunState, apply};
use tinygate::store::LogFile;

/// A file system of its own; unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn mount(path: PathBuf, megabytes: u32) -> Option<SmallDisk> {
        fs::create_dir(&path).unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(SmallDisk(path))
    }

    /// Writes until nothing more goes in.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        let block = vec![0; 1 << 16];
        let mut size = block.len();
        while 0 < size {
            match file.write(&block[..size]) {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
                    size /= 2;
                }
            }
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

fn state(run: &Path) -> RunState {
    let mut state = RunState::empty();
    for record in LogFile::open(run).unwrap().records() {
        apply(&mut state, &record.unwrap().event);
    }
    state
}

#[test]
fn a_full_disk_is_nobodys_failure() {
    let place = Place::with_config(200);
    let Some(disk) = SmallDisk::mount(place.path("disk"), 64) else {
        eprintln!("skipped: only root may mount a small disk");
        return;
    };
    let dir = place.arg("disk/run");
    let mut child = tinygate()
        .args(["run", &place.config(), "--dir", &dir, "--json", "--quiet"])
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
    assert!(printed < 6, "the run was faster than the disk was full");

    // Still full: said again, and nothing happens to the log.
    run(["resume", &dir]).expect(2);

    disk.free();
    run(["resume", &dir]).expect(0);
    let log = run(["log", &dir, "--json"]).expect(0).stdout;
    assert!(log.contains("\"kind\":\"run_finished\""));
    let failed = |event: &Event| matches!(event, Event::ChunkFailed(_) | Event::FailureDecided(_));
    for record in LogFile::open(dir.as_ref()).unwrap().records() {
        let record = record.unwrap();
        assert!(!failed(&record.event), "a failure was counted: {record:?}");
    }
    for stage in &state(dir.as_ref()).stages {
        assert_eq!((stage.failures, stage.chunk_failures), (0, 0));
    }
    run(["replay", &dir]).expect(0);
}

#[test]
fn a_disk_too_small_for_checkpoints_is_found_before_training() {
    let place = Place::with_config(200);
    let Some(_disk) = SmallDisk::mount(place.path("disk"), 12) else {
        eprintln!("skipped: only root may mount a small disk");
        return;
    };
    let dir = place.arg("disk/run");
    let args = ["run", &place.config(), "--dir", &dir, "--quiet"];
    run(args).expect_error(2, &["bytes are free", "resume"]);
    let last = run(["log", &dir]).expect(0).stdout;
    assert!(
        last.lines().last().unwrap().contains("run_interrupted"),
        "{last}"
    );
}
