//! Mistakes that a user can make before training starts: each gives a clear error and an
//! exit code, and leaves nothing behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]

mod support;

use std::fs;
use std::io::Read;
use std::path::Path;

use support::{
    CONFIG, Sandbox, created_run, journal, npy, run, scripted, tinygate, tinyworlds_checkpoint,
};
use tinygate::checkpoint::torch_file::{self, Tensor, Value};
use tinygate::presets::ModelKind;
use tinygate::store::{EventLog, Store};
use tinygate_testing::{ChunkPlan, Curve, Script, short_policy};

fn start(sandbox: &Sandbox, more: &[&str]) -> support::Done {
    let (config, dir) = (sandbox.config(), sandbox.arg("run"));
    let args = ["run", &config, "--dir", &dir];
    run(args.iter().chain(more))
}

#[track_caller]
fn refused(sandbox: &Sandbox, more: &[&str], texts: &[&str]) {
    let done = start(sandbox, more).expect_error(2, texts);
    assert_eq!(done.stdout, "");
    assert!(!sandbox.path("run").exists(), "something was left behind");
}

#[test]
fn a_missing_or_damaged_dataset_is_refused() {
    let sandbox = Sandbox::with_config(200);
    fs::remove_file(sandbox.path("frames.npy")).unwrap();
    refused(&sandbox, &[], &["no file or folder", "frames.npy"]);

    let whole = npy(200);
    sandbox.write("frames.npy", &whole[..whole.len() / 2]);
    refused(&sandbox, &[], &["frames.npy", "truncated"]);

    sandbox.write("frames.npy", "not an array");
    refused(&sandbox, &[], &["frames.npy", "npy"]);

    let h5 = sandbox.write("frames.h5", &whole[..1000]);
    refused(
        &sandbox,
        &["--set", &format!("data.path={h5}")],
        &["frames.h5", "HDF5"],
    );
    let odd = sandbox.write("frames.mp4", &whole);
    refused(
        &sandbox,
        &["--set", &format!("data.path={odd}")],
        &["`mp4`", ".npz"],
    );
}

#[test]
fn a_dataset_smaller_than_its_windows_is_refused() {
    let sandbox = Sandbox::with_config(3);
    refused(
        &sandbox,
        &[],
        &["the dataset is too small", "`context_length` 4"],
    );
    sandbox.write("frames.npy", npy(8));
    refused(&sandbox, &[], &["the dataset is too small", "held out"]);
    sandbox.write("frames.npy", npy(200));
    refused(&sandbox, &["--set", "frame_size=32"], &["64x64", "32x32"]);
}

#[test]
fn an_invalid_config_is_refused() {
    let sandbox = Sandbox::with_config(200);
    refused(
        &sandbox,
        &["--set", "dynamics.n_update=3"],
        &["unknown key `dynamics.n_update`", "`dynamics.n_updates`"],
    );
    run(["run", &sandbox.arg("no.toml"), "--dir", &sandbox.arg("run")])
        .expect_error(2, &["no.toml", "config init"]);
}

// Only a build that trains forms a group of ranks.
#[cfg(feature = "train")]
#[test]
fn without_enough_devices_the_error_suggests_the_fallback() {
    let sandbox = Sandbox::with_config(200);
    let texts = [
        "DDP",
        "allow_single_gpu_fallback",
        "--allow-single-gpu-fallback",
    ];
    // One device for two ranks, however many the machine has.
    let two = ["--set", "nproc_per_node=2", "--set", "device=cuda:0"];
    refused(&sandbox, &two, &texts);
}

#[test]
fn a_fresh_config_needs_no_fallback() {
    let sandbox = Sandbox::new();
    let fresh = run(["config", "init"]).expect(0).stdout;
    sandbox.write("config.toml", fresh);
    // Only the data is missing.
    refused(
        &sandbox,
        &["--set", "data.path=nowhere.h5"],
        &["nowhere.h5"],
    );
}

#[test]
fn unknown_stages_and_missing_checkpoints_are_refused() {
    let sandbox = Sandbox::with_config(200);
    refused(
        &sandbox,
        &["--stage", "dynamic"],
        &["`--stage dynamic`", "`dynamics`"],
    );
    refused(
        &sandbox,
        &["--stage", "dynamics"],
        &["builds on a video tokenizer", "--init-from"],
    );
    refused(
        &sandbox,
        &["--init-from", "dynamic=x"],
        &["unknown stage `dynamic`"],
    );
    refused(
        &sandbox,
        &["--init-from", "dynamics=/nowhere"],
        &["/nowhere"],
    );
    fs::create_dir(sandbox.path("empty")).unwrap();
    let empty = format!("video_tokenizer={}", sandbox.arg("empty"));
    refused(
        &sandbox,
        &["--init-from", &empty],
        &["is missing", "hint: copy the checkpoint again"],
    );
    let bare = sandbox.arg("empty");
    refused(
        &sandbox,
        &["--init-from", &bare],
        &["for which stage", "STAGE=CHECKPOINT"],
    );
    let twice = [
        "--init-from",
        &tinyworlds_checkpoint(),
        "--init-from",
        &tinyworlds_checkpoint(),
    ]
    .map(str::to_owned);
    let twice: Vec<&str> = twice.iter().map(String::as_str).collect();
    refused(&sandbox, &twice, &["two checkpoints for `video_tokenizer`"]);
}

#[test]
fn a_given_checkpoint_that_cannot_be_resumed_is_refused() {
    let sandbox = Sandbox::with_config(200);
    let copy = sandbox.path("video_tokenizer_step_149");
    fs::create_dir(&copy).unwrap();
    for file in ["model_state_dict.pt", "state.pt"] {
        fs::copy(
            Path::new(&tinyworlds_checkpoint()).join(file),
            copy.join(file),
        )
        .unwrap();
    }
    let given = copy.to_str().unwrap();
    refused(
        &sandbox,
        &["--init-from", given],
        &[
            "`video_tokenizer` cannot resume from the checkpoint",
            "`optim_state_dict.pt` is missing",
            "takes its weights with `--fresh-optimizer`",
        ],
    );
    // Moments of NaN are found before a run is created.
    let optimizer = Path::new(&tinyworlds_checkpoint()).join("optim_state_dict.pt");
    let mut value = torch_file::read(&fs::read(optimizer).unwrap())
        .unwrap()
        .value;
    spoil_moments(&mut value);
    let bytes = torch_file::write("optim_state_dict", &value).unwrap();
    fs::write(copy.join("optim_state_dict.pt"), bytes).unwrap();
    refused(
        &sandbox,
        &["--init-from", given],
        &["has an element that is not finite", "--fresh-optimizer"],
    );
    refused(
        &sandbox,
        &[
            "--stage",
            "latent_actions",
            "--init-from",
            given,
            "--fresh-optimizer",
        ],
        &[
            "`--fresh-optimizer`",
            "no trained stage starts from a given checkpoint",
        ],
    );
}

/// Sets every first moment to NaN.
fn spoil_moments(value: &mut Value) {
    let (Value::Dict(entries) | Value::OrderedDict(entries)) = value else {
        return;
    };
    for (key, value) in entries {
        match value {
            Value::Tensor(tensor) if key.as_str() == Some("exp_avg") => {
                let values = vec![f32::NAN; tensor.elements()];
                *tensor = Tensor::from_f32(tensor.shape().to_vec(), &values).unwrap();
            }
            other => spoil_moments(other),
        }
    }
}

#[cfg(feature = "train")]
#[test]
fn a_checkpoint_with_other_settings_must_be_allowed() {
    let sandbox = Sandbox::with_config(200);
    let given = tinyworlds_checkpoint();
    let shape = [
        "patch_size=8",
        "latent_dim=5",
        "num_bins=4",
        "video_tokenizer.embed_dim=16",
        "video_tokenizer.hidden_dim=64",
        "video_tokenizer.n_updates=160",
        // The same shapes, but another function.
        "video_tokenizer.num_heads=8",
    ];
    let mut more = vec!["--stage", "video_tokenizer", "--init-from", &given];
    more.extend(shape.iter().flat_map(|set| ["--set", set]));
    refused(
        &sandbox,
        &more,
        &[
            "its weights have the right shapes",
            "`num_heads` = 4 (the config has 8)",
            "--allow-other-settings",
        ],
    );
    more.push("--allow-other-settings");
    start(&sandbox, &more).expect(0);
}

#[cfg(feature = "train")]
#[test]
fn an_optimizer_with_other_settings_must_be_allowed() {
    fn with_betas(value: Value) -> Value {
        let betas = || Value::Tuple(vec![Value::Float(0.9), Value::Float(0.95)]);
        let entry = |(key, value): (Value, Value)| match key.as_str() {
            Some("betas") => (key, betas()),
            _ => (key, with_betas(value)),
        };
        match value {
            Value::Dict(entries) => Value::Dict(entries.into_iter().map(entry).collect()),
            Value::List(items) => Value::List(items.into_iter().map(with_betas).collect()),
            other => other,
        }
    }

    let sandbox = Sandbox::with_config(200);
    let read = |name: &str| {
        let path = Path::new(&tinyworlds_checkpoint()).join(name);
        torch_file::read(&fs::read(path).unwrap()).unwrap().value
    };
    let top = Value::dict([
        ("model", read("model_state_dict.pt")),
        ("optimizer", with_betas(read("optim_state_dict.pt"))),
    ]);
    let bytes = torch_file::write("archive", &top).unwrap();
    let given = sandbox.write("video_tokenizer_step_149.pt", bytes);
    let mut more = vec!["--stage", "video_tokenizer", "--init-from", &given];
    let shape = [
        "patch_size=8",
        "latent_dim=5",
        "num_bins=4",
        "video_tokenizer.embed_dim=16",
        "video_tokenizer.hidden_dim=64",
        "video_tokenizer.num_heads=4",
        "video_tokenizer.n_updates=160",
    ];
    more.extend(shape.iter().flat_map(|set| ["--set", set]));
    refused(
        &sandbox,
        &more,
        &[
            "its optimizer was set to `betas` = (0.9, 0.95) (tinygate has (0.9, 0.999))",
            "--allow-other-settings",
            "--fresh-optimizer",
        ],
    );
    more.push("--allow-other-settings");
    start(&sandbox, &more).expect(0);
}

#[cfg(feature = "train")]
#[test]
fn a_checkpoint_that_does_not_fit_its_stage_is_refused() {
    let sandbox = Sandbox::with_config(200);
    let given = tinyworlds_checkpoint();
    let far = ["--set", "video_tokenizer.n_updates=200"];
    let check = |init: &str, more: &[&str], texts: &[&str]| {
        let more = ["--init-from", init]
            .into_iter()
            .chain(more.iter().copied());
        refused(&sandbox, &more.collect::<Vec<_>>(), texts);
    };
    check(
        &given,
        &far,
        &[
            "does not fit `video_tokenizer`",
            "shape",
            "`embed_dim` = 16 (the config has 8)",
        ],
    );
    check(
        &format!("latent_actions={given}"),
        &["--set", "latent_actions.n_updates=200"],
        &["it holds a video tokenizer, expected latent actions"],
    );
    check(
        &given,
        &["--set", "video_tokenizer.n_updates=150"],
        &[
            "has done 150 updates",
            "the target of `video_tokenizer` is 150",
        ],
    );
    let broken = support::workspace()
        .join("tests/fixtures/tinyworlds_checkpoint/broken/truncated_zip/video_tokenizer_step_149");
    check(
        broken.to_str().unwrap(),
        &far,
        &["is refused", "breaks off"],
    );
}

#[test]
fn a_directory_with_a_log_is_refused() {
    let sandbox = Sandbox::with_config(200);
    let dir = scripted(&sandbox, "run", short_policy(), Script::new(1));
    let before = fs::read(journal(&dir)).unwrap();
    start(&sandbox, &[]).expect_error(2, &["already has a log", "resume"]);
    assert_eq!(fs::read(journal(&dir)).unwrap(), before);

    fs::remove_dir_all(&dir).unwrap();
    sandbox.write("run", "a file");
    start(&sandbox, &[]).expect_error(2, &["is a file"]);
}

#[cfg(feature = "train")]
#[test]
fn a_directory_that_cannot_be_created_is_reported() {
    let sandbox = Sandbox::with_config(200);
    sandbox.write("file", "");
    let below = sandbox.arg("file/run");
    run(["run", &sandbox.config(), "--dir", &below]).expect_error(2, &[&below, "cannot make"]);
}

/// A run whose first stage stopped.
fn stopped() -> Sandbox {
    let sandbox = Sandbox::with_config(200);
    let bad = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.5));
    let script = Script::new(1).stage("video_tokenizer", bad);
    scripted(&sandbox, "run", short_policy(), script);
    sandbox
}

fn resume(sandbox: &Sandbox, more: &[&str]) -> support::Done {
    let dir = sandbox.arg("run");
    let args = ["resume", &dir];
    run(args.iter().chain(more))
}

#[test]
fn a_run_that_another_process_has_open_is_refused() {
    let sandbox = stopped();
    let (store, _) = Store::open(&sandbox.path("run")).unwrap();
    let pid = std::process::id().to_string();
    resume(&sandbox, &["--retries", "1"]).expect_error(2, &[&pid, "has this run open"]);
    // Reading needs no lock. `status` shows which process has the run open.
    let status = run(["status", &sandbox.arg("run")]).expect(0).stdout;
    assert!(status.contains(&format!("process {pid}")), "{status}");
    drop(store);
    assert!(
        !run(["status", &sandbox.arg("run")])
            .expect(0)
            .stdout
            .contains(&pid)
    );
}

#[test]
fn a_directory_without_events_is_not_a_run() {
    let sandbox = Sandbox::with_config(200);
    resume(&sandbox, &[]).expect_error(2, &["there is no run here", "cannot resume"]);
    let (store, _) = created_run(&sandbox, "run", short_policy());
    store.close().unwrap();
    let ended = "ended before its first event";
    resume(&sandbox, &[]).expect_error(2, &["there is no run here", ended]);
    for command in ["status", "log", "explain", "repair"] {
        run([command, &sandbox.arg("run")]).expect_error(2, &["there is no run here", ended]);
    }
    run(["replay", &sandbox.arg("run")]).expect(5);
    let file = sandbox.arg("run.tgj");
    run(["export", &sandbox.arg("run"), &file]).expect_error(2, &["there is no run here"]);
    assert!(!sandbox.path("run.tgj").exists());
}

/// Commands that look for a run do not change a directory without one.
#[test]
fn a_directory_without_a_run_stays_empty() {
    let sandbox = Sandbox::with_config(200);
    fs::create_dir(sandbox.path("run")).unwrap();
    let dir = sandbox.arg("run");
    for args in [
        &["resume", &dir][..],
        &["status", &dir],
        &["log", &dir],
        &["explain", &dir],
        &["repair", &dir],
        &["repair", &dir, "--dry-run"],
        &["export", &dir, &sandbox.arg("out.tgj")],
    ] {
        run(args).expect_error(2, &["there is no run here", "hint: "]);
    }
    run(["replay", &dir]).expect(5);
    let text = sandbox.write("text", "no log");
    run(["import", &text, &dir]).expect_error(2, &["no log"]);
    run(["import", &text, &sandbox.arg("other")]).expect_error(2, &["no log"]);
    assert_eq!(fs::read_dir(sandbox.path("run")).unwrap().count(), 0);
    assert!(!sandbox.path("out.tgj").exists() && !sandbox.path("other").exists());
}

#[test]
fn a_damaged_log_is_rebuilt_or_refused() {
    let sandbox = stopped();
    let path = journal(&sandbox.path("run"));
    let sound = fs::read(&path).unwrap();
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    run(["replay", &sandbox.arg("run")]).expect(3);
    // One sound copy is enough: the journal is repaired, and no event is lost.
    resume(&sandbox, &[]).expect_error(1, &["was stopped at a gate"]);
    let log = run(["log", &sandbox.arg("run")]).expect(0).stdout;
    assert!(log.contains("store_repaired"), "{log}");
    assert!(fs::read(&path).unwrap().starts_with(&sound));

    fs::write(&path, &bytes).unwrap();
    fs::remove_dir_all(sandbox.path("run/log/sled")).unwrap();
    resume(&sandbox, &[]).expect_error(3, &["damaged"]);
}

#[test]
fn a_stopped_run_is_resumed_only_with_retries() {
    let sandbox = stopped();
    let before = fs::read(journal(&sandbox.path("run"))).unwrap();
    resume(&sandbox, &[]).expect_error(
        1,
        &["was stopped at a gate of `video_tokenizer`", "--retries"],
    );
    resume(&sandbox, &["--set", "video_tokenizer.learning_rate=1e-4"])
        .expect_error(1, &["--retries"]);
    assert_eq!(
        fs::read(journal(&sandbox.path("run"))).unwrap(),
        before,
        "something was recorded"
    );
}

#[test]
fn resuming_a_finished_run_does_nothing() {
    let sandbox = Sandbox::with_config(200);
    scripted(&sandbox, "run", short_policy(), Script::new(1));
    let done = resume(&sandbox, &[]).expect(0);
    assert!(done.stderr.contains("has finished"), "{}", done.stderr);
    assert_eq!(resume(&sandbox, &["--quiet"]).expect(0).stderr, "");
}

#[test]
fn settings_that_may_not_change_are_refused() {
    let sandbox = stopped();
    let before = fs::read(journal(&sandbox.path("run"))).unwrap();
    let check = |set: &str, key: &str| {
        resume(&sandbox, &["--retries", "1", "--set", set])
            .expect_error(2, &[&format!("`{key}` cannot change in an existing run")]);
    };
    check("seed=4", "seed");
    check("patch_size=8", "patch_size");
    check("video_tokenizer.embed_dim=16", "video_tokenizer.embed_dim");
    check("data.frame_stride=2", "data.frame_stride");
    check(
        "video_tokenizer.gate.loss_latest=9",
        "video_tokenizer.gate.loss_latest",
    );
    resume(&sandbox, &["--retries", "1", "--set", "sed=4"])
        .expect_error(2, &["unknown key `sed`", "`seed`"]);
    assert_eq!(
        fs::read(journal(&sandbox.path("run"))).unwrap(),
        before,
        "something was recorded"
    );
}

#[test]
fn resuming_with_other_data_is_refused() {
    let sandbox = stopped();
    sandbox.write("frames.npy", npy(201));
    resume(&sandbox, &["--retries", "1"])
        .expect_error(2, &["this is not the run's data", "data.path"]);
    fs::remove_file(sandbox.path("frames.npy")).unwrap();
    resume(&sandbox, &["--retries", "1"]).expect_error(2, &["no file or folder"]);
}

#[test]
fn retries_without_a_stopped_stage_are_refused() {
    let sandbox = Sandbox::with_config(200);
    let (store, created) = created_run(&sandbox, "run", short_policy());
    let time_ms = 1_700_000_000_000;
    let durable = tinygate::store::Durability::Durable;
    store
        .append(store.head(), &[(time_ms, created)], durable)
        .unwrap();
    store.close().unwrap();
    resume(&sandbox, &["--retries", "1"]).expect_error(2, &["no stage of this run is stopped"]);
}

#[test]
fn the_next_cycle_of_a_missing_run_is_refused() {
    let sandbox = Sandbox::with_config(200);
    let dir = sandbox.arg("run");
    let none = sandbox.arg("none");
    run(["run", "--dir", &dir, "--next-cycle-of", &none]).expect_error(2, &["none"]);
    let bare = sandbox.write("bare.toml", CONFIG.replace("[data]", "[date]"));
    run(["run", &bare, "--dir", &dir]).expect_error(2, &["`date"]);
}

/// A command that only reads, such as `status`, never makes a starting writer fail.
#[cfg(target_os = "linux")]
#[test]
fn a_reader_never_blocks_a_writer() {
    use std::process::{Command, Stdio};
    let sandbox = Sandbox::with_config(200);
    scripted(&sandbox, "run", short_policy(), Script::new(1));
    let lock = sandbox.path("run/lock");
    // `status` takes the lock in the same way to look for a writer; this process keeps it.
    let mut reader = Command::new("flock")
        .arg("--shared")
        .arg(&lock)
        .args(["sh", "-c", "echo held; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = [0; 5];
    reader
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut held)
        .unwrap();
    let mut writer = tinygate()
        .args(["repair", &sandbox.arg("run")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let files = format!("/proc/{}/fd", writer.id());
    let opened = || {
        let Ok(entries) = fs::read_dir(&files) else {
            return false;
        };
        entries
            .flatten()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == lock))
    };
    while !opened() && writer.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    drop(reader.stdin.take());
    support::Done::of(writer.wait_with_output().unwrap()).expect(0);
    reader.wait().unwrap();
}

/// Makes the clock of a program return a time in 1969.
#[cfg(target_os = "linux")]
const CLOCK: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, id, now);
    if (id == CLOCK_REALTIME)
        now->tv_sec = -5000;
    return result;
}
";

/// A machine whose clock has no battery may start with such a time.
#[cfg(target_os = "linux")]
#[test]
fn a_clock_before_1970_is_reported() {
    use std::process::Command;
    let sandbox = Sandbox::with_config(200);
    let source = sandbox.write("clock.c", CLOCK);
    let library = sandbox.arg("clock.so");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", &library, &source])
        .status();
    if !made.is_ok_and(|made| made.success()) {
        eprintln!("skipped: there is no C compiler");
        return;
    }
    let dir = sandbox.arg("run");
    scripted(&sandbox, "run", short_policy(), Script::new(1));
    let before = fs::read(journal(&sandbox.path("run"))).unwrap();
    let early = |args: &[&str]| {
        let output = tinygate().args(args).env("LD_PRELOAD", &library).output();
        support::Done::of(output.unwrap())
    };
    let (config, new) = (sandbox.config(), sandbox.arg("new"));
    let exported = sandbox.arg("run/log/journal.tgj");
    for args in [
        &["run", &config, "--dir", &new][..],
        &["run", &config, "--dry-run"],
        &["resume", &dir],
        &["repair", &dir],
        &["repair", &dir, "--dry-run"],
        &["import", &exported, &new],
    ] {
        early(args).expect_error(2, &["clock", "before 1970"]);
    }
    // Reading needs no clock.
    for command in ["status", "log", "explain", "replay"] {
        early(&[command, &dir]).expect(0);
    }
    assert!(!sandbox.path("new").exists());
    assert_eq!(fs::read(journal(&sandbox.path("run"))).unwrap(), before);
}
