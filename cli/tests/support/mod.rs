//! Runs the program as a process, and creates configs, data and runs for it.

#![allow(dead_code, reason = "each test file uses some of these")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tinygate::config::Config;
use tinygate::events::{Event, FileRecord, Policy, Record, RunCreated};
use tinygate::machine::{Machine, RunState};
use tinygate::setup;
use tinygate::store::{LogFile, Store};
use tinygate_testing::{Quiet, Script, ScriptedTrainer, Ticks, live};

/// Side of a frame in pixels.
pub const SIDE: usize = 64;

/// The program, without environment variables that change what it prints.
pub fn tinygate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinygate"));
    command
        .env_remove("RUST_LOG")
        .env_remove("RANK")
        .env_remove("WORLD_SIZE")
        .env("NO_COLOR", "1")
        .env("USER", "somebody");
    command
}

/// Every event of a run's log.
pub fn records(run: &Path) -> Vec<Record> {
    let log = LogFile::open(run).unwrap();
    log.records().collect::<Result<_, _>>().unwrap()
}

/// The state that a log folds to, without the parts that a kill may change.
pub fn folded(records: &[Record]) -> RunState {
    let mut machine = Machine::default();
    for record in records {
        machine.apply(&record.event);
    }
    machine.state().without_process()
}

/// All decisions, except which samples were superseded: that depends on where a process was killed.
pub fn decisions(records: &[Record]) -> Vec<Event> {
    let decisions = records.iter().map(|record| &record.event);
    decisions
        .filter(|event| event.is_decision() && !matches!(event, Event::SamplesSuperseded(_)))
        .cloned()
        .collect()
}

/// Path and hashes of each checkpoint, as last recorded.
pub fn checkpoints(records: &[Record]) -> Vec<(String, Vec<FileRecord>)> {
    let mut known: Vec<(String, Vec<FileRecord>)> = Vec::new();
    for record in records {
        if let Event::CheckpointWritten(written) = &record.event {
            let path = &written.checkpoint.path;
            known.retain(|(known, _)| known != path);
            known.push((path.clone(), written.files.clone()));
        }
    }
    known
}

/// Two runs have the same weights, decisions and state.
#[track_caller]
pub fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (records(one), records(other));
    assert_eq!(checkpoints(&one), checkpoints(&other), "weights differ");
    assert_eq!(decisions(&one), decisions(&other), "decisions differ");
    assert_eq!(folded(&one), folded(&other), "states differ");
}

/// The exit code and output of a process that has ended.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn of(output: Output) -> Done {
        Done {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks the exit code; a failure prints both streams.
    #[track_caller]
    pub fn expect(self, code: i32) -> Done {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Checks for an error with this exit code, with these texts and a hint on stderr.
    #[track_caller]
    pub fn expect_error(self, code: i32, texts: &[&str]) -> Done {
        let done = self.expect(code);
        assert!(done.stderr.starts_with("error: "), "{}", done.stderr);
        for text in texts {
            assert!(
                done.stderr.contains(text),
                "no `{text}` in:\n{}",
                done.stderr
            );
        }
        assert!(
            done.stderr.contains("hint: "),
            "no hint in:\n{}",
            done.stderr
        );
        done
    }
}

/// Runs the program to its end.
#[track_caller]
pub fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Done {
    Done::of(tinygate().args(args).output().unwrap())
}

/// A temporary folder for data, configs and runs.
pub struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Sandbox {
        Sandbox {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path as text, for an argument.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.arg(name)
    }

    /// With `config.toml` and its data, `frames.npy` with this number of frames.
    pub fn with_config(frames: usize) -> Sandbox {
        let sandbox = Sandbox::new();
        sandbox.write("frames.npy", npy(frames));
        sandbox.write("config.toml", CONFIG);
        sandbox
    }

    pub fn config(&self) -> String {
        self.arg("config.toml")
    }
}

/// A model of a few thousand numbers, a gate every twenty updates, and limits that
/// every model passes.
pub const CONFIG: &str = r#"
preset = "seed"
seed = 3
device = "cpu"
threads = 1
frame_size = 64
patch_size = 16
context_length = 4
latent_dim = 3
num_bins = 2
n_actions = 4

[data]
path = "frames.npy"
frame_stride = 1

[video_tokenizer]
n_updates = 40
chunk_size = 20
learning_rate = 1e-3
batch_size_per_gpu = 2
log_interval = 5
embed_dim = 8
num_heads = 2
hidden_dim = 16
num_blocks = 1
gate.loss_latest = 100.0
gate.trend_tolerance = 1000.0

[latent_actions]
n_updates = 40
chunk_size = 20
learning_rate = 1e-3
batch_size_per_gpu = 2
log_interval = 5
embed_dim = 8
num_heads = 2
hidden_dim = 16
num_blocks = 1
gate.loss_latest = 100.0
# Not `action_entropy`: for a single action it is slightly below 0.
gate.criteria = ["checkpoint_valid", "loss_finite", "loss_latest", "metrics_fresh"]

[dynamics]
n_updates = 40
chunk_size = 20
learning_rate = 1e-3
batch_size_per_gpu = 2
log_interval = 5
embed_dim = 8
num_heads = 2
hidden_dim = 16
num_blocks = 1
gate.tolerance = 1000.0
gate.criteria = ["checkpoint_valid", "loss_finite", "loss_not_rising", "loss_delta", "metrics_fresh"]
"#;

/// Frames of a bright square that moves over a dark background, in the format of NumPy
/// (format 1.0: magic, version, length of the header, header, bytes in C order).
pub fn npy(frames: usize) -> Vec<u8> {
    let mut header = format!(
        "{{'descr': '|u1', 'fortran_order': False, 'shape': ({frames}, {SIDE}, {SIDE}, 3), }}"
    );
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    for frame in 0..frames {
        let (left, top) = (frame * 3 % 56, frame * 2 % 52);
        for row in 0..SIDE {
            for column in 0..SIDE {
                let inside = (left..left + 8).contains(&column) && (top..top + 12).contains(&row);
                bytes.extend(if inside { [230, 200, 90] } else { [20, 30, 60] });
            }
        }
    }
    bytes
}

/// Creates a run in `dir` with a scripted trainer and the config and data of `sandbox`.
pub fn scripted(sandbox: &Sandbox, dir: &str, policy: Policy, script: Script) -> PathBuf {
    let run = sandbox.path(dir);
    let (store, created) = created_run(sandbox, dir, policy);
    let clock = Ticks::from(1_700_000_000_000);
    let trainer = ScriptedTrainer::new(script);
    live(&store, &run, &clock, vec![created], trainer, &mut Quiet)
        .unwrap()
        .ending
        .unwrap();
    store.close().unwrap();
    run
}

/// Creates an empty log, and the event that must come first in it.
pub fn created_run(sandbox: &Sandbox, dir: &str, policy: Policy) -> (Store, Event) {
    let config = Config::load(&sandbox.path("config.toml"), &[])
        .unwrap()
        .config;
    let frames = setup::frames(&config).unwrap();
    let windows = setup::windows(&config, frames).unwrap();
    let Event::RunCreated(created) = tinygate_testing::created(policy, config.seed) else {
        panic!("the first event creates a run");
    };
    let created = RunCreated {
        config: config.to_json(),
        dataset: setup::dataset(&config, &windows),
        ..*created
    };
    let store = Store::create(&sandbox.path(dir), "scripted").unwrap();
    (store, Event::RunCreated(Box::new(created)))
}

/// Waits until the log of a run contains a matching event. The run may not have started yet.
pub fn wait_for(dir: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
    loop {
        let mut follower = tinygate()
            .args(["log", dir, "--json", "--follow"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let lines =
            std::io::BufRead::lines(std::io::BufReader::new(follower.stdout.take().unwrap()));
        let seen = lines
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .any(|event| wanted(&event));
        if seen {
            follower.kill().unwrap();
        }
        follower.wait().unwrap();
        if seen {
            return;
        }
        // There is no log yet.
        std::thread::yield_now();
    }
}

pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A checkpoint that TinyWorlds wrote.
pub fn tinyworlds_checkpoint() -> String {
    let path = "tests/fixtures/tinyworlds_checkpoint/video_tokenizer_step_149";
    workspace().join(path).to_str().unwrap().to_owned()
}

/// The journal of a run.
pub fn journal(run: &Path) -> PathBuf {
    run.join("log/journal.tgj")
}

/// Turns a log into one of a newer build by raising the version in its file header (`src/store/block.rs`).
pub fn with_newer_version(log: &[u8]) -> Vec<u8> {
    let mut log = log.to_vec();
    log[8] += 1;
    let hash = blake3::hash(&log[..160]);
    log[160..192].copy_from_slice(hash.as_bytes());
    log
}
