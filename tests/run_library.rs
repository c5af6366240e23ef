//! Runs as a library: prepared, created, driven and resumed without the program.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tinygate::advice::{Advice, Hint};
use tinygate::config::{Config, Override};
use tinygate::controller::{Ending, Observer};
use tinygate::events::{Event, Record, SettingChanged, SettingKey, SettingValue, StageName};
use tinygate::machine::RunState;
use tinygate::presets::{self, ModelKind};
use tinygate::run::retrain::{Retrain, Retrained, Retraining, StartedTrainer};
use tinygate::run::{
    AnyModel, Group, LostError, NewRun, NewRunError, Notice, Opened, RateChange, Resumable, Resume,
    ResumeError, Run, TinyWorlds, read, this_process,
};
use tinygate::schedule::learning_rate;
use tinygate::store::{MemoryLog, OpenError, Store};
use tinygate::trainer::{Channels, Progress, StopRequest};
use tinygate_replay::{Outcome, audit};
use tinygate_testing::{
    Disturbance, Quiet, Script, ScriptedTrainer, Ticks, Trouble, created, host, live, short_policy,
};

const VIDEO: &str = "video_tokenizer";
const CONFIG: &str = r#"
preset = "seed"
frame_size = 8
patch_size = 4
context_length = 2
data.path = "frames.npy"
data.frame_stride = 1

[video_tokenizer]
n_updates = 40
chunk_size = 20
batch_size_per_gpu = 2

[latent_actions]
n_updates = 40
chunk_size = 20
batch_size_per_gpu = 2

[dynamics]
n_updates = 40
chunk_size = 20
batch_size_per_gpu = 2
"#;

/// A folder with data.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("frames.npy"), npy(60)).unwrap();
        Folder(folder)
    }

    fn run(&self) -> PathBuf {
        self.0.path().join("run")
    }

    fn config(&self, overrides: &[&str]) -> Config {
        let overrides = overrides_of(overrides);
        Config::parse(CONFIG, "test.toml", self.0.path(), &overrides)
            .unwrap()
            .config
    }
}

fn overrides_of(texts: &[&str]) -> Vec<Override> {
    let parse = |text: &&str| Override::parse("test", text).unwrap();
    texts.iter().map(parse).collect()
}

/// Frames of 8x8 in which a bright column moves (format 1.0 of NumPy).
fn npy(frames: usize) -> Vec<u8> {
    let mut header =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({frames}, 8, 8, 3), }}");
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    for frame in 0..frames {
        for place in 0..64 {
            let bright = place % 8 == frame % 8;
            bytes.extend(if bright { [230, 200, 90] } else { [20, 30, 60] });
        }
    }
    bytes
}

/// Makes the files that a script says it wrote.
struct Files(PathBuf);

impl Observer for Files {
    fn recorded(&mut self, record: &Record, _: &RunState) {
        if let Event::CheckpointWritten(written) = &record.event {
            let folder = self.0.join(&written.checkpoint.path);
            fs::create_dir_all(&folder).unwrap();
            for file in &written.files {
                fs::write(folder.join(&file.name), "").unwrap();
            }
        }
    }

    fn progressed(&mut self, _: &Progress) {}
}

fn drive(run: &mut Run, trainer: ScriptedTrainer) -> Ending {
    let stop = Arc::new(StopRequest::default());
    let (channels, commands, reports) = Channels::new(Arc::clone(&stop));
    let mut files = Files(run.dir().to_owned());
    std::thread::scope(|scope| {
        scope.spawn(move || trainer.serve(&commands, &reports));
        // The trainer ends with its channels.
        let channels = channels;
        run.drive(this_process(), host(&channels, &stop), &mut files)
    })
    .unwrap()
}

fn script() -> ScriptedTrainer {
    ScriptedTrainer::new(Script::new(1))
}

fn interrupted_at(stage: &str, after: u64) -> ScriptedTrainer {
    let signal = Trouble::Signal("SIGTERM".to_owned());
    script().disturbed(Disturbance::new(stage, after, signal))
}

fn create(folder: &Folder) -> Run {
    let request = NewRun::new(folder.config(&[]));
    let prepared = request
        .prepare(&folder.run(), &AnyModel, &mut |notice| panic!("{notice:?}"))
        .unwrap();
    prepared.create(&Group::alone()).unwrap()
}

fn request(folder: &Folder) -> Resume {
    Resume::new(&folder.run(), "ada", "test")
}

#[track_caller]
fn unfinished(request: &Resume) -> Resumable {
    match request.open(&mut |_| {}, &mut |_| {}).unwrap() {
        Opened::Unfinished(resumed) => *resumed,
        Opened::Finished(_) => panic!("it has finished"),
    }
}

#[track_caller]
fn refused(request: &Resume) -> ResumeError {
    match request.open(&mut |_| {}, &mut |_| {}) {
        Err(error) => error,
        Ok(_) => panic!("it was not refused"),
    }
}

fn records(dir: &Path) -> Vec<Record> {
    read(dir).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_run_is_created_driven_and_resumed_to_its_end() {
    let folder = Folder::new();
    let mut run = create(&folder);
    let ending = drive(&mut run, interrupted_at("latent_actions", 25));
    assert!(matches!(ending, Ending::Interrupted { signal } if signal == "SIGTERM"));
    run.close().unwrap();

    let mut request = request(&folder);
    request.changes = overrides_of(&["latent_actions.n_updates=60"]);
    let mut visited = 0;
    let mut notices = Vec::new();
    let opened = request.open(&mut |_| visited += 1, &mut |notice| notices.push(notice));
    let Opened::Unfinished(resumed) = opened.unwrap() else {
        panic!("it has finished");
    };
    assert_eq!(visited, records(&folder.run()).len());
    assert_eq!((resumed.ranks(), resumed.fell_back()), (1, false));
    let mut run = resumed
        .begin(&Group::alone(), &mut Quiet, &mut |notice| {
            notices.push(notice)
        })
        .unwrap();
    let [Notice::RateChanged(change)] = notices.as_slice() else {
        panic!("{notices:?}");
    };
    assert_eq!(change.keys, ["latent_actions.n_updates"]);
    assert_eq!(drive(&mut run, script()), Ending::Finished);
    run.close().unwrap();

    let log = records(&folder.run());
    let changed = log.iter().find_map(|record| {
        let Event::SettingChanged(change) = &record.event else {
            return None;
        };
        Some(change)
    });
    assert!(changed.is_some_and(|change| change.who == "ada" && change.why == "test"));
    assert_eq!(audit(log.into_iter().map(Ok)).outcome, Outcome::Agreed);
    let again = Resume::new(&folder.run(), "ada", "test");
    let again = again.open(&mut |_| {}, &mut |_| {}).unwrap();
    assert!(matches!(again, Opened::Finished(_)));
}

#[test]
fn a_missing_checkpoint_is_given_up_on_request_only() {
    let folder = Folder::new();
    let mut run = create(&folder);
    drive(&mut run, interrupted_at(VIDEO, 30));
    let newest = run.state().stages[0].lineage.newest_accepted().unwrap();
    let newest = newest.reference.path.clone();
    run.close().unwrap();
    fs::remove_dir_all(folder.run().join(&newest)).unwrap();
    let before = records(&folder.run());

    let error = refused(&request(&folder));
    let ResumeError::Lost(LostError::Needed { needed, .. }) = &error else {
        panic!("{error}");
    };
    assert_eq!(needed.path, newest);
    let give_up = Hint::GiveUp {
        dir: folder.run().display().to_string(),
    };
    assert!(error.hints().contains(&give_up), "{:?}", error.hints());
    assert_eq!(records(&folder.run()), before, "nothing is recorded");

    let mut request = request(&folder);
    request.give_up = true;
    let mut run = unfinished(&request)
        .begin(&Group::alone(), &mut Quiet, &mut |_| {})
        .unwrap();
    assert_eq!(drive(&mut run, script()), Ending::Finished);
}

#[test]
fn changes_without_effect_are_refused() {
    let folder = Folder::new();
    let mut run = create(&folder);
    assert_eq!(drive(&mut run, script()), Ending::Finished);
    run.close().unwrap();
    let mut more = request(&folder);
    more.retries = Some(1);
    assert!(matches!(refused(&more), ResumeError::RetriesOfFinishedRun));
    let mut passed = request(&folder);
    passed.changes = overrides_of(&["dynamics.n_updates=80"]);
    let error = refused(&passed);
    let further = Hint::TrainFurther {
        stage: "dynamics".to_owned(),
        dir: folder.run().display().to_string(),
        overrides: vec![("dynamics.n_updates".to_owned(), "80".to_owned())],
    };
    assert_eq!(error.hints(), [further], "{error}");
}

#[test]
fn a_refused_run_leaves_no_directory() {
    let folder = Folder::new();
    let prepare = |request: NewRun| {
        let prepared = request.prepare(&folder.run(), &TinyWorlds, &mut |_| {});
        let error = prepared.err().unwrap();
        assert!(!folder.run().exists(), "{error}");
        error
    };
    let mut unknown = NewRun::new(folder.config(&[]));
    unknown.stage = Some(StageName::new("dynamic"));
    assert!(matches!(prepare(unknown), NewRunError::UnknownStage { .. }));
    let mut alone = NewRun::new(folder.config(&[]));
    alone.stage = Some(StageName::new("dynamics"));
    let error = prepare(alone);
    let give = Hint::GiveCheckpoint {
        stage: VIDEO.to_owned(),
    };
    assert_eq!(error.hints(), [give], "{error}");
    let away = NewRun::new(folder.config(&["data.path=/nowhere.npy"]));
    assert!(matches!(prepare(away), NewRunError::Setup(_)));
}

#[test]
fn a_directory_with_a_run_takes_no_other() {
    let folder = Folder::new();
    create(&folder).close().unwrap();
    let request = NewRun::new(folder.config(&[]));
    let error = request.prepare(&folder.run(), &AnyModel, &mut |_| {});
    assert!(matches!(error.err().unwrap(), NewRunError::Start { .. }));
    // It can still be measured.
    request.draft(&AnyModel, &mut |_| {}).unwrap();
}

#[test]
fn a_log_without_events_cannot_be_resumed() {
    let folder = Folder::new();
    Store::create(&folder.run(), "empty")
        .unwrap()
        .close()
        .unwrap();
    let error = refused(&request(&folder));
    let ResumeError::Open { source, .. } = &error else {
        panic!("{error}");
    };
    assert!(matches!(source, OpenError::NotALog { remains: true }));
}

/// Trains every chunk of a run again with a script of this seed.
fn retrain(folder: &Folder, seed: u64) -> Vec<Retrained> {
    let scratch = tempfile::tempdir().unwrap();
    let request = Retrain {
        stage: Some(StageName::new(VIDEO)),
        ..Retrain::default()
    };
    let plan = request.plan(&folder.run()).unwrap();
    let mut start = |_: u32| {
        let stop = Arc::new(StopRequest::default());
        let (channels, commands, reports) = Channels::new(stop);
        let trainer = ScriptedTrainer::new(Script::new(seed));
        // It ends with its channels.
        std::thread::spawn(move || trainer.serve(&commands, &reports));
        Ok(StartedTrainer {
            trainer: Box::new(channels),
            process: this_process(),
        })
    };
    let mut retraining = Retraining::new(&folder.run(), scratch.path(), &mut start).unwrap();
    let chunks = plan.chunks.iter();
    chunks
        .map(|chunk| retraining.retrain(chunk, &mut |_| {}).unwrap().unwrap())
        .collect()
}

#[test]
fn recorded_chunks_are_trained_again_and_compared() {
    let folder = Folder::new();
    let mut run = create(&folder);
    assert_eq!(drive(&mut run, script()), Ending::Finished);
    run.close().unwrap();
    let equal = |seed: u64| {
        let chunks = retrain(&folder, seed);
        let equal = chunks.iter().map(|retrained| match retrained {
            Retrained::Compared { comparison, .. } => comparison.is_equal(),
            Retrained::Skipped(why) => panic!("{why:?}"),
        });
        equal.collect::<Vec<bool>>()
    };
    assert_eq!(equal(1), [true, true]);
    assert_eq!(equal(2), [false, false], "another trainer");
}

/// A run that a signal stopped after 10 of the 40 updates of its first stage.
fn early() -> RunState {
    let log = MemoryLog::with([(0, created(short_policy(), 7))]);
    let directory = tempfile::tempdir().unwrap();
    let trainer = interrupted_at(VIDEO, 10);
    let clock = Ticks::from(1);
    let life = live(
        &log,
        directory.path(),
        &clock,
        Vec::new(),
        trainer,
        &mut Quiet,
    );
    life.unwrap().state
}

fn change(stage: &str, key: SettingKey, to: SettingValue) -> SettingChanged {
    SettingChanged {
        stage: Some(StageName::new(stage)),
        key,
        from: SettingValue::Count(0),
        to,
        who: "somebody".to_owned(),
        why: "command line".to_owned(),
    }
}

#[test]
fn a_moved_target_changes_the_rate_at_once() {
    let state = early();
    let settings = presets::settings(ModelKind::VideoTokenizer);
    let rate = |target: u64| learning_rate(10, target, settings.learning_rate.get());
    for target in [20, 400] {
        let to = SettingValue::Count(target);
        let changes = [change(VIDEO, SettingKey::NUpdates, to)];
        let want = RateChange {
            stage: StageName::new(VIDEO),
            keys: vec!["video_tokenizer.n_updates".to_owned()],
            update: 11,
            before: rate(40),
            after: rate(target),
        };
        assert_eq!(RateChange::of(&state, &changes), Some(want));
    }
}

#[test]
fn other_changes_leave_the_rate_alone() {
    let state = early();
    let retries = change(VIDEO, SettingKey::MaxRetries, SettingValue::Count(9));
    assert_eq!(RateChange::of(&state, &[retries]), None);
    assert_eq!(RateChange::of(&state, &[]), None);
    let later = change("dynamics", SettingKey::NUpdates, SettingValue::Count(90));
    assert_eq!(RateChange::of(&state, &[later]), None, "it has not begun");
}
