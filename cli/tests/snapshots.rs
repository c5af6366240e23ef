//! Snapshots of what the program prints: each holds commands, their output and their exit codes.
//!
//! After a change of wording, `INSTA_UPDATE=always cargo test -p tinygate-cli --test snapshots` rewrites them; review the
//! difference before you commit it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test panics at anything unexpected"
)]

mod support;

use std::fmt::Write as _;
use std::fs;

use insta::assert_snapshot;
use support::{
    Done, Sandbox, created_run, journal, scripted, tinygate, tinyworlds_checkpoint,
    with_newer_version, workspace,
};
use tinygate::events::{Event, InterruptReason, RunInterrupted};
use tinygate::presets::ModelKind;
use tinygate::store::{Durability, EventLog};
use tinygate_testing::{ChunkPlan, Curve, Script, short_policy};

/// Runs commands in the folder of `sandbox` and returns a transcript, like that of a terminal.
fn session(sandbox: &Sandbox, commands: &[&str]) -> String {
    let mut text = String::new();
    for command in commands {
        let args = command.split(' ');
        let mut process = tinygate();
        process.current_dir(sandbox.path(".")).args(args);
        let done = Done::of(process.output().unwrap());
        let folder = sandbox.path("");
        let folder = folder.to_str().unwrap();
        writeln!(text, "$ tinygate {command}").unwrap();
        for stream in [done.stdout, done.stderr] {
            let stream = stream.replace(folder, "/folder/");
            text.push_str(&stream.replace(folder.trim_end_matches('/'), "/folder"));
        }
        match done.code {
            Some(0) => {}
            Some(code) => writeln!(text, "[exit code {code}]").unwrap(),
            None => panic!("ended by a signal:\n{text}"),
        }
        text.push('\n');
    }
    text
}

/// Hides what differs between builds and machines.
macro_rules! assert_session {
    ($name:literal, $sandbox:expr, $commands:expr) => {
        insta::with_settings!({
            omit_expression => true,
            filters => vec![
                (r"[0-9a-f]{64}", "[hash]"),
                (r"[0-9]+ (B|KiB|MiB|GiB) free", "[size] free"),
                (r"process [0-9]+", "process [pid]"),
                (r"byte [0-9]+( of [0-9]+)?", "byte [offset]"),
                (r"block [0-9]+", "block [number]"),
                (r"[0-9]+ bytes after", "[size] after"),
                (r"\([0-9.]+ (B|KiB|MiB)\)", "([size])"),
                // Repairs have the time of the test; scripted runs have times in 2023.
                (r"20(2[4-9]|[3-9][0-9])-[0-9]{2}-[0-9]{2} [0-9:]{8}", "[now]"),
            ],
        }, {
            assert_snapshot!($name, session($sandbox, $commands));
        });
    };
}

/// A finished run, with one retune in its first stage.
fn retuned() -> Sandbox {
    let sandbox = Sandbox::with_config(200);
    let bad = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.5));
    let script = Script::new(1).chunk("video_tokenizer", 1, bad);
    scripted(&sandbox, "run", short_policy(), script);
    sandbox
}

/// A run that stopped at a gate.
fn stopped() -> Sandbox {
    let sandbox = Sandbox::with_config(200);
    let bad = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.5));
    let script = Script::new(1).stage("video_tokenizer", bad);
    scripted(&sandbox, "run", short_policy(), script);
    sandbox
}

#[test]
fn help() {
    let sandbox = Sandbox::new();
    let commands = [
        "--help",
        "run --help",
        "resume --help",
        "replay --help",
        "status --help",
        "log --help",
        "explain --help",
        "export --help",
        "import --help",
        "repair --help",
        "prune --help",
        "checkpoint --help",
        "checkpoint verify --help",
        "checkpoint show --help",
        "config --help",
        "config init --help",
        "config check --help",
        "config show --help",
        "completions --help",
    ];
    assert_session!("help", &sandbox, &commands);
}

#[test]
fn wrong_usage() {
    let sandbox = Sandbox::new();
    let commands = [
        "",
        "trian",
        "run --dri x",
        "run",
        "status",
        "replay --chunks 3..1 run",
        "resume run --retries many",
        "checkpoint verify",
    ];
    assert_session!("wrong_usage", &sandbox, &commands);
}

#[test]
fn a_finished_run() {
    let sandbox = retuned();
    let commands = [
        "status run",
        "status run --json",
        "log run",
        "replay run",
        "replay --json run",
        "prune run",
        "export run run.tgl",
        "export run run.tgl",
        "replay run.tgl",
        "import run.tgl copy",
        "import run.tgl copy",
        "status copy",
        "repair run --dry-run",
    ];
    assert_session!("a_finished_run", &sandbox, &commands);
}

/// Every decision of a run with a retune.
#[test]
fn explanations() {
    let sandbox = retuned();
    let records = support::records(&sandbox.path("run"));
    let decisions = records.iter().filter(|record| record.event.is_decision());
    let commands: Vec<String> = decisions
        .map(|record| format!("explain run {}", record.seq.get()))
        .collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    assert_session!("explanations", &sandbox, &commands);
}

#[test]
fn a_stopped_run() {
    let sandbox = stopped();
    let commands = ["status run", "explain run", "replay run"];
    assert_session!("a_stopped_run", &sandbox, &commands);
}

#[test]
fn an_interrupted_run() {
    let sandbox = Sandbox::with_config(200);
    let (store, created) = created_run(&sandbox, "run", short_policy());
    let reason = InterruptReason::Signal {
        name: "SIGTERM".to_owned(),
    };
    let interrupted = Event::RunInterrupted(RunInterrupted { reason });
    let events = [
        (1_700_000_000_000, created),
        (1_700_000_001_000, interrupted),
    ];
    store
        .append(store.head(), &events, Durability::Durable)
        .unwrap();
    store.close().unwrap();
    let commands = ["status run", "explain run", "log run"];
    assert_session!("an_interrupted_run", &sandbox, &commands);
}

#[test]
fn damaged_and_newer_logs() {
    let sandbox = retuned();
    damaged_copies(&sandbox);
    let commands = [
        "replay damaged.tgl",
        "status damaged.tgl",
        "replay short.tgl",
        "replay newer.tgl",
        "import damaged.tgl copy",
        "status flipped",
        "repair flipped --dry-run",
        "repair flipped",
        "status flipped",
        "repair cut --dry-run",
        "repair cut",
        "repair cut --accept-loss",
        "status cut",
    ];
    assert_session!("damaged_and_newer_logs", &sandbox, &commands);
}

/// Exported logs that are damaged, truncated and from a newer build; run directories in which the journal or both copies are
/// damaged.
fn damaged_copies(sandbox: &Sandbox) {
    session(sandbox, &["export run run.tgl"]);
    let log = fs::read(sandbox.path("run.tgl")).unwrap();
    let place = inside_an_event(&log);
    let mut damaged = log.clone();
    damaged[place] ^= 1;
    sandbox.write("damaged.tgl", damaged);
    sandbox.write("short.tgl", &log[..place]);
    sandbox.write("newer.tgl", with_newer_version(&log));
    for name in ["flipped", "cut"] {
        session(sandbox, &[&format!("import run.tgl {name}")]);
        let journal = journal(&sandbox.path(name));
        let mut bytes = fs::read(&journal).unwrap();
        let place = inside_an_event(&bytes);
        bytes[place] ^= 1;
        fs::write(&journal, bytes).unwrap();
    }
    fs::remove_dir_all(sandbox.path("cut/log/sled")).unwrap();
}

/// A byte of the event that a checkpoint was written in the middle of the second stage. The config in the
/// first event has the path of the sandbox, so offsets and sizes differ between machines.
fn inside_an_event(log: &[u8]) -> usize {
    let path = b"latent_actions_step_4";
    log.windows(path.len())
        .position(|window| window == path)
        .unwrap()
}

#[test]
fn directories_and_files_without_a_run() {
    let sandbox = Sandbox::with_config(200);
    fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.write("notes.txt", "not a log");
    sandbox.write("nothing.tgl", "");
    let commands = [
        "status empty",
        "status nowhere",
        "status notes.txt",
        "replay empty",
        "replay nowhere",
        "replay notes.txt",
        "replay nothing.tgl",
        "log empty",
        "explain nowhere",
        "export empty out.tgl",
        "import notes.txt copy",
        "import empty copy",
        "repair empty",
        "prune empty",
    ];
    assert_session!("directories_and_files_without_a_run", &sandbox, &commands);
}

#[test]
fn configs() {
    let sandbox = Sandbox::with_config(200);
    sandbox.write(
        "wrong.toml",
        "sed = 1\nthreads = \"many\"\nframe_size = 0\npreset = \"loose\"\n[dynamics]\nn_updates = -4\nladder = [\"learning_rate *= x\"]\n\
         [dynamics.gate]\ncriteria = [\"loss_finit\"]\n[data]\n",
    );
    sandbox.write("broken.toml", "seed = = 1\n");
    sandbox.write(
        "own.toml",
        "stages = [\"classifier\"]\ndata.path = \"frames.npy\"\n[classifier]\nloss = \"cross_entropy\"\n",
    );
    let commands = [
        "config check config.toml",
        "config check config.toml --set dynamics.n_update=3",
        "config check config.toml --set seed",
        "config check wrong.toml",
        "config check broken.toml",
        "config check own.toml",
        "config check nowhere.toml",
        "config check empty",
        "config init config.toml",
        "config show config.toml",
    ];
    assert_session!("configs", &sandbox, &commands);
}

#[test]
fn checkpoints() {
    let sandbox = Sandbox::new();
    let fixtures = workspace().join("tests/fixtures/tinyworlds_checkpoint");
    copy(&fixtures, &sandbox.path("checkpoints"));
    let name = "video_tokenizer_step_149";
    assert!(tinyworlds_checkpoint().ends_with(name));
    let mut commands = vec![
        format!("checkpoint verify checkpoints/{name}"),
        format!("checkpoint verify checkpoints/{name} --json"),
        format!("checkpoint show checkpoints/{name}"),
        "checkpoint verify nowhere".to_owned(),
        "checkpoint show nowhere".to_owned(),
    ];
    let broken = fs::read_dir(sandbox.path("checkpoints/broken")).unwrap();
    let mut broken: Vec<String> = broken
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    broken.sort();
    commands.extend(
        broken
            .iter()
            .map(|folder| format!("checkpoint verify checkpoints/broken/{folder}/{name}")),
    );
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    assert_session!("checkpoints", &sandbox, &commands);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Errors before a run is created.
#[test]
fn runs_that_cannot_start() {
    let sandbox = retuned();
    sandbox.write("frames.mp4", "no frames");
    fs::create_dir(sandbox.path("empty")).unwrap();
    let commands = [
        "run nowhere.toml --dir new",
        "run config.toml --dir run",
        "run config.toml --dir frames.npy",
        "run config.toml --dir new --stage dynamic",
        "run config.toml --dir new --stage dynamics",
        "run config.toml --dir new --init-from nowhere",
        "run config.toml --dir new --init-from empty",
        "run config.toml --dir new --fresh-optimizer --init-from video_tokenizer=empty",
        "run config.toml --dir new --set data.path=nowhere.h5",
        "run config.toml --dir new --set data.path=frames.mp4",
        "run config.toml --dir new --set data.path=empty",
        "run config.toml --dir new --set frame_size=32 --set patch_size=8",
        "run config.toml --dir new --set context_length=500",
        "run config.toml --dir new --set dynamics.n_update=3",
        "run config.toml --dir new --next-cycle-of nowhere",
    ];
    assert_session!("runs_that_cannot_start", &sandbox, &commands);
}

/// Commands that need a build with a trainer.
#[cfg(feature = "train")]
mod training {
    use super::*;

    /// Losses depend on the processor, times and the number of events on its load.
    macro_rules! assert_training {
        ($name:literal, $sandbox:expr, $commands:expr) => {
            insta::with_settings!({
                omit_expression => true,
                filters => vec![
                    (r"\b[0-9]+:[0-9]{2}\b", "[time]"),
                    (r"-?\b[0-9][0-9,]*(\.[0-9]+(e-?[0-9]+)?|e-?[0-9]+)( s)?\b", "[number]"),
                    (r"-?\b[0-9,]{3,}\b", "[number]"),
                    (r"-?\b[0-9]+ (s|times)\b", "[number] $1"),
                    (r"(skill|skill_moving is|skill is|<=?|>=?|]) -?[0-9]+\b", "$1 [number]"),
                    (r" {2,}", "  "),
                ],
            }, {
                assert_snapshot!($name, session($sandbox, $commands));
            });
        };
    }

    #[test]
    fn a_run_from_start_to_end() {
        let sandbox = Sandbox::with_config(200);
        let commands = [
            "run config.toml --dir run",
            "replay run",
            "resume run",
            "resume run --retries 1",
            "resume run --set dynamics.n_updates=80",
            "replay --retrain --stage dynamics run",
            "prune run",
        ];
        assert_training!("a_run_from_start_to_end", &sandbox, &commands);
    }

    #[test]
    fn resuming_a_stopped_run() {
        let sandbox = stopped();
        let commands = [
            "resume run",
            "resume run --set seed=4",
            "resume run --set video_tokenizer.embed_dim=4 --retries 1",
            "resume nowhere",
        ];
        assert_training!("resuming_a_stopped_run", &sandbox, &commands);
    }
}
