//! What a user may get wrong before anything is trained: each a clear error and its
//! exit code, and nothing left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]

mod support;

use std::fs;
use std::io::Read;
use std::path::Path;

use support::{
    CONFIG, Place, created_run, journal, npy, run, scripted, tinygate, tinyworlds_checkpoint,
};
use tinygate::checkpoint::torch_file::{self, Tensor, Value};
use tinygate::presets::ModelKind;
use tinygate::store::{EventLog, Store};
use tinygate_testing::{ChunkPlan, Curve, Script, short_policy};

fn start(place: &Place, more: &[&str]) -> support::Done {
    let (config, dir) = (place.config(), place.arg("run"));
    let args = ["run", &config, "--dir", &dir];
    run(args.iter().chain(more))
}

#[track_caller]
fn refused(place: &Place, more: &[&str], texts: &[&str]) {
    let done = start(place, more).expect_error(2, texts);
    assert_eq!(done.stdout, "");
    assert!(!place.path("run").exists(), "something was left behind");
}

#[test]
fn a_dataset_that_is_missing_or_broken() {
    let place = Place::with_config(200);
    fs::remove_file(place.path("frames.npy")).unwrap();
    refused(&place, &[], &["no file or folder", "frames.npy"]);

    let whole = npy(200);
    place.write("frames.npy", &whole[..whole.len() / 2]);
    refused(&place, &[], &["frames.npy", "truncated"]);

    place.write("frames.npy", "not an array");
    refused(&place, &[], &["frames.npy", "npy"]);

    let h5 = place.write("frames.h5", &whole[..1000]);
    refused(
        &place,
        &["--set", &format!("data.path={h5}")],
        &["frames.h5", "HDF5"],
    );
    let odd = place.write("frames.mp4", &whole);
    refused(
        &place,
        &["--set", &format!("data.path={odd}")],
        &["`mp4`", ".npz"],
    );
}

#[test]
fn a_dataset_smaller_than_its_windows() {
    let place = Place::with_config(3);
    refused(
        &place,
        &[],
        &["the dataset is too small", "`context_length` 4"],
    );
    place.write("frames.npy", npy(8));
    refused(&place, &[], &["the dataset is too small", "held out"]);
    place.write("frames.npy", npy(200));
    refused(&place, &["--set", "frame_size=32"], &["64x64", "32x32"]);
}

#[test]
fn a_wrong_config() {
    let place = Place::with_config(200);
    refused(
        &place,
        &["--set", "dynamics.n_update=3"],
        &["unknown key `dynamics.n_update`", "`dynamics.n_updates`"],
    );
    run(["run", &place.arg("no.toml"), "--dir", &place.arg("run")])
        .expect_error(2, &["no.toml", "config init"]);
}

// Ranks are brought together where something trains.
#[cfg(feature = "train")]
#[test]
fn ddp_without_a_grant_names_the_way_out() {
    let place = Place::with_config(200);
    let texts = [
        "DDP",
        "allow_single_gpu_fallback",
        "--allow-single-gpu-fallback",
    ];
    // However many devices the machine has, this names one.
    let two = ["--set", "nproc_per_node=2", "--set", "device=cuda:0"];
    refused(&place, &two, &texts);
}

#[test]
fn a_fresh_config_needs_no_grant() {
    let place = Place::new();
    let fresh = run(["config", "init"]).expect(0).stdout;
    place.write("config.toml", fresh);
    // What is missing is the data.
    refused(&place, &["--set", "data.path=nowhere.h5"], &["nowhere.h5"]);
}

#[test]
fn stages_and_checkpoints_that_are_none() {
    let place = Place::with_config(200);
    refused(
        &place,
        &["--stage", "dynamic"],
        &["`--stage dynamic`", "`dynamics`"],
    );
    refused(
        &place,
        &["--stage", "dynamics"],
        &["builds on a video tokenizer", "--init-from"],
    );
    refused(
        &place,
        &["--init-from", "dynamic=x"],
        &["unknown stage `dynamic`"],
    );
    refused(&place, &["--init-from", "dynamics=/nowhere"], &["/nowhere"]);
    fs::create_dir(place.path("empty")).unwrap();
    let empty = format!("video_tokenizer={}", place.arg("empty"));
    refused(
        &place,
        &["--init-from", &empty],
        &["is missing", "hint: copy the checkpoint again"],
    );
    let bare = place.arg("empty");
    refused(
        &place,
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
    refused(&place, &twice, &["two checkpoints for `video_tokenizer`"]);
}

#[test]
fn a_given_checkpoint_that_cannot_be_gone_on_from() {
    let place = Place::with_config(200);
    let copy = place.path("video_tokenizer_step_149");
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
        &place,
        &["--init-from", given],
        &[
            "`video_tokenizer` cannot resume from the checkpoint",
            "`optim_state_dict.pt` is missing",
            "takes its weights with `--fresh-optimizer`",
        ],
    );
    // Moments of NaN are found before the run begins.
    let optimizer = Path::new(&tinyworlds_checkpoint()).join("optim_state_dict.pt");
    let mut value = torch_file::read(&fs::read(optimizer).unwrap())
        .unwrap()
        .value;
    spoil_moments(&mut value);
    let bytes = torch_file::write("optim_state_dict", &value).unwrap();
    fs::write(copy.join("optim_state_dict.pt"), bytes).unwrap();
    refused(
        &place,
        &["--init-from", given],
        &["has an element that is not finite", "--fresh-optimizer"],
    );
    refused(
        &place,
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

/// Every first moment becomes NaN.
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
fn a_checkpoint_that_was_made_with_other_settings() {
    let place = Place::with_config(200);
    let given = tinyworlds_checkpoint();
    let shape = [
        "patch_size=8",
        "latent_dim=5",
        "num_bins=4",
        "video_tokenizer.embed_dim=16",
        "video_tokenizer.hidden_dim=64",
        "video_tokenizer.n_updates=160",
        // The same shapes, another function.
        "video_tokenizer.num_heads=8",
    ];
    let mut more = vec!["--stage", "video_tokenizer", "--init-from", &given];
    more.extend(shape.iter().flat_map(|set| ["--set", set]));
    refused(
        &place,
        &more,
        &[
            "its weights have the right shapes",
            "`num_heads` = 4 (the config has 8)",
            "--allow-other-settings",
        ],
    );
    more.push("--allow-other-settings");
    start(&place, &more).expect(0);
}

#[cfg(feature = "train")]
#[test]
fn a_checkpoint_whose_optimizer_had_other_settings() {
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

    let place = Place::with_config(200);
    let read = |name: &str| {
        let path = Path::new(&tinyworlds_checkpoint()).join(name);
        torch_file::read(&fs::read(path).unwrap()).unwrap().value
    };
    let top = Value::dict([
        ("model", read("model_state_dict.pt")),
        ("optimizer", with_betas(read("optim_state_dict.pt"))),
    ]);
    let bytes = torch_file::write("archive", &top).unwrap();
    let given = place.write("video_tokenizer_step_149.pt", bytes);
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
        &place,
        &more,
        &[
            "its optimizer was set to `betas` = (0.9, 0.95) (tinygate has (0.9, 0.999))",
            "--allow-other-settings",
            "--fresh-optimizer",
        ],
    );
    more.push("--allow-other-settings");
    start(&place, &more).expect(0);
}

#[cfg(feature = "train")]
#[test]
fn a_checkpoint_that_does_not_fit_its_stage() {
    let place = Place::with_config(200);
    let given = tinyworlds_checkpoint();
    let far = ["--set", "video_tokenizer.n_updates=200"];
    let check = |init: &str, more: &[&str], texts: &[&str]| {
        let more = ["--init-from", init]
            .into_iter()
            .chain(more.iter().copied());
        refused(&place, &more.collect::<Vec<_>>(), texts);
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
fn a_directory_that_has_a_log() {
    let place = Place::with_config(200);
    let dir = scripted(&place, "run", short_policy(), Script::new(1));
    let before = fs::read(journal(&dir)).unwrap();
    start(&place, &[]).expect_error(2, &["already has a log", "resume"]);
    assert_eq!(fs::read(journal(&dir)).unwrap(), before);

    fs::remove_dir_all(&dir).unwrap();
    place.write("run", "a file");
    start(&place, &[]).expect_error(2, &["is a file"]);
}

#[cfg(feature = "train")]
#[test]
fn a_directory_that_cannot_be_made() {
    let place = Place::with_config(200);
    place.write("file", "");
    let below = place.arg("file/run");
    run(["run", &place.config(), "--dir", &below]).expect_error(2, &[&below, "cannot make"]);
}

/// A run whose first stage stopped.
fn stopped() -> Place {
    let place = Place::with_config(200);
    let bad = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.5));
    let script = Script::new(1).stage("video_tokenizer", bad);
    scripted(&place, "run", short_policy(), script);
    place
}

fn resume(place: &Place, more: &[&str]) -> support::Done {
    let dir = place.arg("run");
    let args = ["resume", &dir];
    run(args.iter().chain(more))
}

#[test]
fn a_run_that_another_process_holds() {
    let place = stopped();
    let (store, _) = Store::open(&place.path("run")).unwrap();
    let pid = std::process::id().to_string();
    resume(&place, &["--retries", "1"]).expect_error(2, &[&pid, "has this run open"]);
    // Reading needs no lock, and says who has it.
    let status = run(["status", &place.arg("run")]).expect(0).stdout;
    assert!(status.contains(&format!("process {pid}")), "{status}");
    drop(store);
    assert!(
        !run(["status", &place.arg("run")])
            .expect(0)
            .stdout
            .contains(&pid)
    );
}

#[test]
fn a_run_that_is_none_or_empty() {
    let place = Place::with_config(200);
    resume(&place, &[]).expect_error(2, &["there is no run here", "cannot resume"]);
    let (store, _) = created_run(&place, "run", short_policy());
    store.close().unwrap();
    let ended = "ended before its first event";
    resume(&place, &[]).expect_error(2, &["there is no run here", ended]);
    for command in ["status", "log", "explain", "repair"] {
        run([command, &place.arg("run")]).expect_error(2, &["there is no run here", ended]);
    }
    run(["replay", &place.arg("run")]).expect(5);
    let file = place.arg("run.tgj");
    run(["export", &place.arg("run"), &file]).expect_error(2, &["there is no run here"]);
    assert!(!place.path("run.tgj").exists());
}

/// Whoever looks for a run in a folder that has none leaves it as it was.
#[test]
fn a_directory_without_a_run_stays_empty() {
    let place = Place::with_config(200);
    fs::create_dir(place.path("run")).unwrap();
    let dir = place.arg("run");
    for args in [
        &["resume", &dir][..],
        &["status", &dir],
        &["log", &dir],
        &["explain", &dir],
        &["repair", &dir],
        &["repair", &dir, "--dry-run"],
        &["export", &dir, &place.arg("out.tgj")],
    ] {
        run(args).expect_error(2, &["there is no run here", "hint: "]);
    }
    run(["replay", &dir]).expect(5);
    let text = place.write("text", "no log");
    run(["import", &text, &dir]).expect_error(2, &["no log"]);
    run(["import", &text, &place.arg("other")]).expect_error(2, &["no log"]);
    assert_eq!(fs::read_dir(place.path("run")).unwrap().count(), 0);
    assert!(!place.path("out.tgj").exists() && !place.path("other").exists());
}

#[test]
fn a_damaged_log_is_rebuilt_or_refused() {
    let place = stopped();
    let path = journal(&place.path("run"));
    let sound = fs::read(&path).unwrap();
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    run(["replay", &place.arg("run")]).expect(3);
    // One copy is enough to go on with: it is mended, and the rest is as before.
    resume(&place, &[]).expect_error(1, &["was stopped at a gate"]);
    let log = run(["log", &place.arg("run")]).expect(0).stdout;
    assert!(log.contains("store_repaired"), "{log}");
    assert!(fs::read(&path).unwrap().starts_with(&sound));

    fs::write(&path, &bytes).unwrap();
    fs::remove_dir_all(place.path("run/log/sled")).unwrap();
    resume(&place, &[]).expect_error(3, &["damaged"]);
}

#[test]
fn a_stopped_run_wants_retries() {
    let place = stopped();
    let before = fs::read(journal(&place.path("run"))).unwrap();
    resume(&place, &[]).expect_error(
        1,
        &["was stopped at a gate of `video_tokenizer`", "--retries"],
    );
    resume(&place, &["--set", "video_tokenizer.learning_rate=1e-4"])
        .expect_error(1, &["--retries"]);
    assert_eq!(
        fs::read(journal(&place.path("run"))).unwrap(),
        before,
        "nothing was recorded"
    );
}

#[test]
fn a_finished_run_has_finished() {
    let place = Place::with_config(200);
    scripted(&place, "run", short_policy(), Script::new(1));
    let done = resume(&place, &[]).expect(0);
    assert!(done.stderr.contains("has finished"), "{}", done.stderr);
    assert_eq!(resume(&place, &["--quiet"]).expect(0).stderr, "");
}

#[test]
fn settings_that_may_not_change_are_refused() {
    let place = stopped();
    let before = fs::read(journal(&place.path("run"))).unwrap();
    let check = |set: &str, key: &str| {
        resume(&place, &["--retries", "1", "--set", set])
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
    resume(&place, &["--retries", "1", "--set", "sed=4"])
        .expect_error(2, &["unknown key `sed`", "`seed`"]);
    assert_eq!(
        fs::read(journal(&place.path("run"))).unwrap(),
        before,
        "nothing was recorded"
    );
}

#[test]
fn other_data_is_not_the_runs() {
    let place = stopped();
    place.write("frames.npy", npy(201));
    resume(&place, &["--retries", "1"])
        .expect_error(2, &["this is not the run's data", "data.path"]);
    fs::remove_file(place.path("frames.npy")).unwrap();
    resume(&place, &["--retries", "1"]).expect_error(2, &["no file or folder"]);
}

#[test]
fn retries_are_for_stopped_runs() {
    let place = Place::with_config(200);
    let (store, created) = created_run(&place, "run", short_policy());
    let time_ms = 1_700_000_000_000;
    let durable = tinygate::store::Durability::Durable;
    store
        .append(store.head(), &[(time_ms, created)], durable)
        .unwrap();
    store.close().unwrap();
    resume(&place, &["--retries", "1"]).expect_error(2, &["no stage of this run is stopped"]);
}

#[test]
fn the_next_cycle_of_nothing() {
    let place = Place::with_config(200);
    let dir = place.arg("run");
    let none = place.arg("none");
    run(["run", "--dir", &dir, "--next-cycle-of", &none]).expect_error(2, &["none"]);
    let bare = place.write("bare.toml", CONFIG.replace("[data]", "[date]"));
    run(["run", &bare, "--dir", &dir]).expect_error(2, &["`date"]);
}

/// `status` beside a starting `resume`: whoever only reads never keeps a writer out.
#[cfg(target_os = "linux")]
#[test]
fn a_reader_never_blocks_a_writer() {
    use std::process::{Command, Stdio};
    let place = Place::with_config(200);
    scripted(&place, "run", short_policy(), Script::new(1));
    let lock = place.path("run/lock");
    // As `status` holds the lock while it asks who is at work, but for as long as we like.
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
        .args(["repair", &place.arg("run")])
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

/// Tells a program that it is 1969.
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

/// What a machine without a battery may say when it starts.
#[cfg(target_os = "linux")]
#[test]
fn a_clock_before_1970_is_named() {
    use std::process::Command;
    let place = Place::with_config(200);
    let source = place.write("clock.c", CLOCK);
    let library = place.arg("clock.so");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", &library, &source])
        .status();
    if !made.is_ok_and(|made| made.success()) {
        eprintln!("skipped: there is no C compiler");
        return;
    }
    let dir = place.arg("run");
    scripted(&place, "run", short_policy(), Script::new(1));
    let before = fs::read(journal(&place.path("run"))).unwrap();
    let early = |args: &[&str]| {
        let output = tinygate().args(args).env("LD_PRELOAD", &library).output();
        support::Done::of(output.unwrap())
    };
    let (config, new) = (place.config(), place.arg("new"));
    let exported = place.arg("run/log/journal.tgj");
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
    assert!(!place.path("new").exists());
    assert_eq!(fs::read(journal(&place.path("run"))).unwrap(), before);
}
