//! The values of valid configs: defaults, presets, the JSON in a log, and changes on resume.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test panics at anything unexpected"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tinygate::config::{
    Changeable, Config, ConfigError, Device, Loaded, Override, Problem, describe, init,
};
use tinygate::events::{
    Applies, CriterionTest, KnobName, Limit, Rung, Scalar, SettingKey, SettingValue, Settings,
    StageName,
};
use tinygate::presets::ModelKind;
use tinygate::presets::{self, Preset};
use tinygate_testing::hints;

const DATA: &str = "data.path = \"frames.h5\"\n";

fn sets(texts: &[&str]) -> Vec<Override> {
    texts
        .iter()
        .map(|text| Override::parse("--set", text).unwrap())
        .collect()
}

#[track_caller]
fn load(text: &str, overrides: &[&str]) -> Loaded {
    match Config::parse(text, "run.toml", Path::new("/configs"), &sets(overrides)) {
        Ok(loaded) => loaded,
        Err(error) => panic!("{error}"),
    }
}

fn config(text: &str) -> Config {
    load(&format!("{DATA}{text}"), &[]).config
}

#[test]
fn an_empty_config_is_its_preset() {
    for preset in Preset::ALL {
        let found = config(&format!("preset = \"{}\"", preset.as_str()));
        assert_eq!(found.policy, presets::policy(preset));
        assert_eq!(Preset::from_name(&found.policy.preset), Some(preset));
    }
    assert_eq!(config("").policy, presets::policy(Preset::Seed));
}

#[test]
fn the_values_of_seed() {
    let config = config("");
    let rows: Vec<(&str, u64, u64, f64)> = config
        .policy
        .stages
        .iter()
        .map(|s| {
            let settings = &s.settings;
            let rate = settings.learning_rate.get();
            (
                s.name.as_str(),
                settings.chunk_size,
                settings.n_updates,
                rate,
            )
        })
        .collect();
    let want = [
        ("video_tokenizer", 5_000, 40_000, 1e-3),
        ("latent_actions", 1_000, 10_000, 1e-4),
        ("dynamics", 5_000, 300_000, 1e-2),
    ];
    assert_eq!(rows, want);
    assert!(config.use_ddp && !config.allow_single_gpu_fallback);
    assert_eq!(config.data.path, [PathBuf::from("/configs/frames.h5")]);
}

#[test]
fn a_log_stores_the_whole_config() {
    let texts = [
        "",
        "preset = \"strict\"\nseed = 9223372036854775807\ndevice = \"cuda:3\"\nthreads = 2",
        "[video_tokenizer.gate]\nloss_latest = [[5000, 0.05], [40000, 0.01]]\nmin_skill_moving = 0.1\ncodebook_usage = 0.2",
        "[dynamics]\nladder = [\"chunk_size /= 3\", \"learning_rate *= 0.1\"]\ncheckpoint_interval = 7",
        "stages = [\"coarse\", \"fine\", \"latent_actions\", \"dynamics\"]\ncoarse.model = \"video_tokenizer\"\nfine.model = \"video_tokenizer\"\nfine.n_updates = 7",
    ];
    for text in texts {
        let before = config(text);
        let json = serde_json::to_string(&before.to_json()).unwrap();
        let after = Config::from_json(&serde_json::from_str(&json).unwrap()).unwrap();
        assert_eq!(after, before, "{text}");
        assert_eq!(
            load(&before.to_toml(&BTreeSet::new()), &[]).config,
            before,
            "{text}"
        );
    }
}

#[test]
fn keys_missing_from_an_old_log_get_their_defaults() {
    let mut json = config("seed = 5").to_json();
    let root = json.as_object_mut().unwrap();
    root.remove("threads").unwrap();
    root["dynamics"]
        .as_object_mut()
        .unwrap()
        .remove("bounds")
        .unwrap();
    root["latent_actions"]["gate"]
        .as_object_mut()
        .unwrap()
        .remove("applies")
        .unwrap();
    assert_eq!(Config::from_json(&json).unwrap(), config("seed = 5"));
}

#[test]
fn an_unknown_key_from_a_newer_build_is_reported() {
    let mut json = config("").to_json();
    json["policy"]["patience"] = serde_json::json!(3);
    let error = Config::from_json(&json).unwrap_err().to_string();
    assert!(
        error.starts_with("config in the log: unknown key `policy.patience`"),
        "{error}"
    );
    let error = Config::from_json(&serde_json::Value::Null)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("2 problems"), "{error}");
}

#[test]
fn given_keys_are_distinguished_from_defaults() {
    let loaded = load(&format!("{DATA}[dynamics]\nn_updates = 500"), &["seed=3"]);
    let given: Vec<&str> = loaded.given.iter().map(String::as_str).collect();
    assert_eq!(given, ["data.path", "dynamics.n_updates", "seed"]);
    let shown = loaded.config.to_toml(&loaded.given);
    for line in [
        "seed = 3\n",
        "n_updates = 500\n",
        "n_updates = 40000  # default\n",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
}

#[test]
fn defaults_that_depend_on_other_values() {
    let config = config(
        "n_actions = 8\n[video_tokenizer]\nchunk_size = 100\nn_updates = 300\n[latent_actions]\nchunk_size = 1",
    );
    let [video, latent, dynamics] = &config.policy.stages[..] else {
        panic!("{:?}", config.policy.stages);
    };
    assert_eq!(video.settings.log_interval, 50);
    assert_eq!(video.settings.schedule_updates, 300);
    assert_eq!(latent.settings.log_interval, 1);
    assert_eq!(dynamics.settings.log_interval, 2_000);
    let actions =
        [video, latent, dynamics].map(|stage| stage.settings.knob(&KnobName::new("n_actions")));
    assert_eq!(actions, [None, Some(SettingValue::Count(8)), None]);
}

fn names(config: &Config, stage: &str) -> Vec<String> {
    let stage = config.stage(&StageName::new(stage)).unwrap();
    stage.criteria.iter().map(|c| c.name.clone()).collect()
}

#[test]
fn a_limit_adds_its_criterion() {
    let config = config("[video_tokenizer.gate]\nmin_skill_moving = 0.1\ncodebook_usage = 0.2");
    let want = [
        "checkpoint_valid",
        "loss_finite",
        "loss_trend",
        "loss_latest",
        "codebook_usage",
        "skill_moving",
        "metrics_fresh",
    ];
    assert_eq!(names(&config, "video_tokenizer"), want);
}

#[test]
fn a_list_of_criteria_replaces_the_defaults() {
    let config = config(
        "[dynamics.gate]\ncriteria = [\"metrics_fresh\", \"loss_finite\", \"checkpoint_valid\", \"loss_latest\"]\nloss_latest = 3\napplies = { loss_latest = \"at_target\" }",
    );
    assert_eq!(
        names(&config, "dynamics"),
        [
            "metrics_fresh",
            "loss_finite",
            "checkpoint_valid",
            "loss_latest"
        ]
    );
    let last = config.policy.stages[2].criteria.last().unwrap();
    assert_eq!(last.applies, Applies::AtTarget);
    assert_eq!(
        last.test,
        CriterionTest::LossLatest {
            limit: Limit::Constant(Scalar::new(3.0))
        }
    );
}

#[test]
fn stages_with_names_chosen_by_the_user() {
    let config = config(
        "preset = \"strict\"\nstages = [\"coarse\", \"fine\", \"actions\", \"dynamics\"]\n\
         coarse.model = \"video_tokenizer\"\nfine.model = \"video_tokenizer\"\nactions.model = \"latent_actions\"\n\
         fine.ladder = [\"learning_rate *= 0.1\", \"extend_target\"]",
    );
    let models: Vec<ModelKind> = config
        .policy
        .stages
        .iter()
        .filter_map(|s| ModelKind::of(&s.model))
        .collect();
    use ModelKind::{Dynamics, LatentActions, VideoTokenizer};
    assert_eq!(
        models,
        [VideoTokenizer, VideoTokenizer, LatentActions, Dynamics]
    );
    let fine = config.stage(&StageName::new("fine")).unwrap();
    let rate = Rung::Multiply {
        key: SettingKey::LearningRate,
        factor: Scalar::new(0.1),
    };
    assert_eq!(fine.ladder, [rate, Rung::ExtendTarget]);
    let upstream: Vec<&str> = config
        .upstream(&StageName::new("dynamics"))
        .iter()
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(upstream, ["fine", "actions"], "the latest of each model");
}

#[test]
fn overrides_replace_values_of_the_file_and_the_last_one_wins() {
    let text = "seed = 1\n[data]\npath = \"frames.h5\"\n[dynamics]\nn_updates = 100\n";
    let loaded = load(
        text,
        &[
            "seed=2",
            "seed=3",
            "dynamics.chunk_size=50",
            "dynamics={n_updates = 200}",
        ],
    );
    assert_eq!(loaded.config.seed, 3);
    let settings = &loaded.config.policy.stages[2].settings;
    assert_eq!(
        (settings.n_updates, settings.chunk_size),
        (200, 5_000),
        "a table replaces a table"
    );
}

#[test]
fn paths_in_overrides_are_relative_to_the_working_directory() {
    let loaded = load(DATA, &["data.path=other.h5"]);
    assert_eq!(
        loaded.config.data.path,
        [std::env::current_dir().unwrap().join("other.h5")]
    );
    let loaded = load("data.path = [\"./a.h5\", \"/b.h5\"]", &[]);
    assert_eq!(
        loaded.config.data.path,
        [PathBuf::from("/configs/a.h5"), PathBuf::from("/b.h5")]
    );
}

#[test]
fn a_new_cycle_can_have_fewer_actions() {
    let first = config("n_actions = 8\n[latent_actions]\nlearning_rate = 3e-4");
    let next = first.with(&sets(&["n_actions=4"])).unwrap();
    assert_eq!(
        next,
        config("n_actions = 4\n[latent_actions]\nlearning_rate = 3e-4")
    );
    let error = first.with(&sets(&["n_actions=3"])).unwrap_err().to_string();
    assert!(
        error.starts_with("--set n_actions=3: `n_actions` = 3 is not a power of two"),
        "{error}"
    );
}

#[test]
fn devices() {
    for (name, want) in [
        ("auto", Some(Device::Auto)),
        ("cpu", Some(Device::Cpu)),
        ("cuda", Some(Device::Cuda(None))),
        ("cuda:12", Some(Device::Cuda(Some(12)))),
        ("cuda:", None),
        ("cuda:-1", None),
        ("cuda:+1", None),
        ("cuda:99999", None),
        ("CPU", None),
    ] {
        assert_eq!(Device::from_name(name), want, "{name}");
        if let Some(device) = want {
            assert_eq!(device.to_string(), name);
        }
    }
}

#[test]
fn every_key_of_a_config_is_described() {
    let config = load(DATA, &[]).config;
    let described: BTreeSet<String> = describe().into_iter().map(|row| row.key).collect();
    for (key, _) in config.entries() {
        let known = described.contains(&key)
            || key
                .split_once('.')
                .is_some_and(|(_, rest)| described.contains(&format!("STAGE.{rest}")));
        assert!(known, "{key}");
    }
}

#[test]
fn init_writes_the_defaults() {
    for preset in Preset::ALL {
        let text = init(preset);
        let written = load(&text, &[]).config;
        let plain = config(&format!("preset = \"{}\"", preset.as_str()));
        assert_eq!(written, plain);
    }
}

#[test]
fn every_key_is_in_the_example_and_those_commented_out_are_valid() {
    let text = init(Preset::Seed);
    let lines: Vec<&str> = text.lines().collect();
    for row in describe() {
        let name = row.key.rsplit('.').next().unwrap();
        let written = lines.iter().any(|line| {
            let line = line.strip_prefix("# ").unwrap_or(line);
            line.starts_with(&format!("{name} = "))
        });
        let only_with_its_limit = row.key.starts_with("STAGE.gate.applies.");
        assert!(written || only_with_its_limit, "{}", row.key);
    }
    let mut commented = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some(setting) = line.strip_prefix("# ").filter(|l| l.contains(" = ")) else {
            continue;
        };
        commented += 1;
        let mut changed = lines.clone();
        changed[index] = setting;
        let text = changed.join("\n");
        if let Err(error) = Config::parse(&text, "init", Path::new("/"), &[]) {
            panic!("{setting}: {error}");
        }
    }
    assert!(commented > 10, "{commented}");
}

#[test]
fn what_may_change_on_resume() {
    let config = config("");
    let video = Some(StageName::new("video_tokenizer"));
    let yes = |key, stage| Some(Changeable::Yes { key, stage });
    let check = |key: &str, want| assert_eq!(config.changeable(key), want, "{key}");
    check(
        "video_tokenizer.learning_rate",
        yes(SettingKey::LearningRate, video.clone()),
    );
    check(
        "video_tokenizer.n_updates",
        yes(SettingKey::NUpdates, video.clone()),
    );
    check(
        "video_tokenizer.chunk_size",
        yes(SettingKey::ChunkSize, video.clone()),
    );
    check(
        "video_tokenizer.log_interval",
        yes(SettingKey::LogInterval, video.clone()),
    );
    check(
        "video_tokenizer.checkpoint_interval",
        yes(SettingKey::CheckpointInterval, video.clone()),
    );
    check(
        "video_tokenizer.batch_size_per_gpu",
        yes(SettingKey::BatchSizePerGpu, video.clone()),
    );
    check(
        "video_tokenizer.gradient_accumulation_steps",
        yes(SettingKey::GradientAccumulationSteps, video),
    );
    check("policy.max_retries", yes(SettingKey::MaxRetries, None));
    check("device", Some(Changeable::Process));
    check("threads", Some(Changeable::Process));
    check("data.path", Some(Changeable::Process));
    check("allow_single_gpu_fallback", Some(Changeable::Process));
    check("STAGE.learning_rate", None);
    check("finale.learning_rate", None);
    check("video_tokenizer", None);
    check("", None);
    for fixed in [
        "seed",
        "patch_size",
        "n_actions",
        "data.frame_stride",
        "dynamics.embed_dim",
        "video_tokenizer.gate.loss_latest",
        "dynamics.ladder",
        "preset",
        "stages",
        "nproc_per_node",
    ] {
        assert!(
            matches!(config.changeable(fixed), Some(Changeable::No { .. })),
            "{fixed}"
        );
    }
}

/// A config, and its settings after some rungs of the ladder.
fn retuned() -> (Config, BTreeMap<StageName, Settings>) {
    let config = config(
        "[video_tokenizer]\nchunk_size = 100\nn_updates = 300\n[dynamics]\nchunk_size = 100\nn_updates = 300",
    );
    let mut in_force: BTreeMap<StageName, Settings> = config
        .policy
        .stages
        .iter()
        .map(|s| (s.name.clone(), s.settings.clone()))
        .collect();
    let video = in_force
        .get_mut(&StageName::new("video_tokenizer"))
        .unwrap();
    video.learning_rate = Scalar::new(5e-4);
    video.n_updates = 360;
    let dynamics = in_force.get_mut(&StageName::new("dynamics")).unwrap();
    dynamics.n_updates = 305;
    (config, in_force)
}

fn resume(texts: &[&str]) -> Result<tinygate::config::Resumed, ConfigError> {
    let (config, in_force) = retuned();
    config.resume(&in_force, 8, &sets(texts))
}

#[test]
fn a_resume_changes_the_settings_in_force() {
    let resumed = resume(&[
        "video_tokenizer.learning_rate=1e-4",
        "policy.max_retries=9",
        "device=cpu",
    ])
    .unwrap();
    let found: Vec<(Option<&str>, SettingKey, SettingValue, SettingValue)> = resumed
        .settings
        .iter()
        .map(|c| {
            (
                c.stage.as_ref().map(StageName::as_str),
                c.key.clone(),
                c.from,
                c.to,
            )
        })
        .collect();
    let real = |x| SettingValue::Real(Scalar::new(x));
    let want = [
        (
            None,
            SettingKey::MaxRetries,
            SettingValue::Count(8),
            SettingValue::Count(9),
        ),
        (
            Some("video_tokenizer"),
            SettingKey::LearningRate,
            real(5e-4),
            real(1e-4),
        ),
    ];
    assert_eq!(found, want);
    assert_eq!(resumed.process, ["device"]);
    let video = &resumed.config.policy.stages[0].settings;
    assert_eq!(
        (video.n_updates, video.schedule_updates),
        (360, 300),
        "an extended target keeps its curve"
    );
}

#[test]
fn a_resume_without_a_difference_changes_nothing() {
    for texts in [
        &[][..],
        &["video_tokenizer.learning_rate=5e-4", "seed=0"],
        &["video_tokenizer.checkpoint_interval=20"],
    ] {
        let resumed = resume(texts).unwrap();
        assert_eq!(
            (resumed.settings, resumed.process),
            (vec![], vec![]),
            "{texts:?}"
        );
    }
}

fn with_hints(problem: &Problem) -> String {
    format!("{problem}\n  hint: {}", hints::joined(&problem.fault))
}

#[test]
fn a_resume_rejects_fixed_keys_and_invalid_values() {
    let check = |set: &str, want: &str| {
        let found = match resume(&[set]) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.list(with_hints),
        };
        assert_eq!(found, want, "{set}");
    };
    let hint = "\n  hint: StartAnotherRun";
    check(
        "seed=4",
        &format!(
            "--set seed=4: `seed` cannot change in an existing run: all randomness of the run depends on it{hint}"
        ),
    );
    check(
        "patch_size=8",
        &format!(
            "--set patch_size=8: `patch_size` cannot change in an existing run: it is part of the model's shape{hint}"
        ),
    );
    check(
        "patch_size=7",
        &format!(
            "--set patch_size=7: `patch_size` cannot change in an existing run: it is part of the model's shape{hint}"
        ),
    );
    check(
        "policy={keep_last=2}",
        &format!(
            "--set policy={{keep_last=2}}: `policy.keep_last` cannot change in an existing run: it is part of the policy, which decides the whole log{hint}"
        ),
    );
    check(
        "video_tokenizer.learning_rate=-1",
        "--set video_tokenizer.learning_rate=-1: `video_tokenizer.learning_rate` is -1.0, outside above 0 to 10\n  \
         hint: use a value in this range; ListKeys",
    );
    check(
        "video_tokenizer.learning_rte=1",
        "--set video_tokenizer.learning_rte=1: unknown key `video_tokenizer.learning_rte`\n  hint: did you mean `video_tokenizer.learning_rate`?",
    );
    check(
        "dynamics.chunk_size=5",
        "2 problems in the config\n\
         --set dynamics.chunk_size=5: `dynamics.log_interval` = 50 is more than `dynamics.chunk_size` = 5, so a chunk could end without one\n  \
         hint: lower `dynamics.log_interval` or raise `dynamics.chunk_size`\n\
         --set dynamics.chunk_size=5: the first chunk of `dynamics` has 5 updates, but `loss_not_rising` needs 10 loss samples\n  \
         hint: raise `dynamics.chunk_size`, or make it a divisor of `dynamics.n_updates`",
    );
}

const PROGRAM: &str = r#"
stages = ["classifier"]
trainer.kind = "command"
trainer.command = ["python", "train.py", "--fast", "--fast"]

[classifier]
loss = "cross_entropy"
n_updates = 100
learning_rate = 0.1
batch_size_per_gpu = 8
"#;

#[test]
fn a_program_needs_no_data_if_no_stage_needs_frames() {
    let config = Config::parse(PROGRAM, "run.toml", Path::new("/configs"), &[]).unwrap();
    let config = config.config;
    assert_eq!(config.trainer.command.len(), 4);
    assert_eq!(config.trainer.directory, Path::new("/configs"));
    assert!(config.data.path.is_empty() && !config.needs_frames());
    assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
    let toml = config.to_toml(&Default::default());
    let again = Config::parse(&toml, "again.toml", Path::new("/other"), &[]).unwrap();
    assert_eq!(again.config, config, "the directory stays");
}

#[track_caller]
fn check_program(name: &str, from: &str, to: &str, want: &str) {
    let text = PROGRAM.replace(from, to);
    assert_ne!(text, PROGRAM);
    let error = Config::parse(&text, "run.toml", Path::new("/configs"), &[]).unwrap_err();
    assert_eq!(error.to_string(), want, "{name}");
}

#[test]
fn invalid_trainers() {
    check_program(
        "no command",
        "trainer.command = [\"python\", \"train.py\", \"--fast\", \"--fast\"]",
        "",
        "run.toml:3: `trainer.command` is missing: the program that trains, and its arguments",
    );
    check_program(
        "no kind",
        "trainer.kind = \"command\"",
        "data.path = \"frames.npy\"",
        "run.toml:4: `trainer.kind` is missing: it must be \"command\" if `trainer.command` is set",
    );
    check_program(
        "an empty name",
        "\"python\"",
        "\"\"",
        "run.toml:4: `trainer.command` is a list of 4, expected a list of strings: a program and its arguments",
    );
    check_program(
        "a stage that needs frames",
        "[\"classifier\"]",
        "[\"classifier\", \"video_tokenizer\"]",
        "run.toml:2: `data.path` is missing: frames: HDF5 or .npz files, or folders of PNGs, relative to this file",
    );
}
