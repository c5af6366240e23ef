//! What every row of the table of keys must do.
//!
//! The tests loop over the table, so they cover new rows without changes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test panics at anything unexpected"
)]

use std::collections::BTreeSet;
use std::path::Path;

use super::kind::Kind;
use super::row::{Change, Key};
use super::schema::{ANY_STAGE, Schema, entries, join};
use super::{Changeable, Config, ConfigError, Loaded, Override, describe};

/// Each key can be set to a value other than its default in at least one of these configs.
const BACKGROUNDS: &[&[&str]] = &[
    &[],
    // accumulation between its bounds
    &["dynamics.gradient_accumulation_steps=2"],
    // a stage that no other stage depends on
    &[
        "stages=[\"video_tokenizer\", \"latent_actions\", \"last\"]",
        "last.model=video_tokenizer",
    ],
    // a program
    &["trainer.kind=command", "trainer.command=[\"program\"]"],
];

fn load(sets: &[String]) -> Result<Loaded, ConfigError> {
    let overrides: Vec<Override> = sets
        .iter()
        .map(|set| Override::parse("--set", set).unwrap())
        .collect();
    let text = "data.path = \"frames.h5\"\n";
    Config::parse(text, "run.toml", Path::new("/configs"), &overrides)
}

/// Values of a kind, some of which are valid for its keys.
fn candidates(kind: &Kind) -> Vec<String> {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    match kind {
        Kind::Count { least, most } | Kind::CountOrAuto { least, most } => {
            let counts = [20_000, 4_000, 100, 64, 32, 16, 8, 4, 3, 2, 1];
            let inside = counts.into_iter().filter(|n| (least..=most).contains(&n));
            inside.map(|n| n.to_string()).collect()
        }
        Kind::Real { .. } | Kind::Limit { .. } => texts(&["0.0001", "0.25", "0.5", "3", "90"]),
        Kind::Flag => texts(&["true", "false"]),
        Kind::Choice(choices) => texts(choices),
        Kind::Device => texts(&["cpu"]),
        Kind::Paths => texts(&["/elsewhere.h5"]),
        Kind::Path => texts(&["/elsewhere"]),
        Kind::Command => texts(&["[\"python\", \"train.py\", \"train.py\"]"]),
        Kind::Stages { .. } => texts(&["[\"video_tokenizer\"]"]),
        Kind::Criteria(known) => {
            let without = |left_out: &str| {
                let kept = known.iter().filter(|name| **name != left_out);
                format!("{:?}", kept.collect::<Vec<_>>())
            };
            let few = "[\"checkpoint_valid\", \"loss_finite\", \"metrics_fresh\"]".to_owned();
            let mut lists: Vec<String> = known.iter().map(|name| without(name)).collect();
            lists.push(few);
            lists
        }
        Kind::Ladder { .. } => texts(&["[]"]),
        Kind::Text => texts(&["\"a text\""]),
        Kind::Texts => texts(&["[\"a text\"]"]),
    }
}

/// Overrides of which one adds the criterion that reads a key.
fn adding(key: &Key, stage: &str, schema: &Schema) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let keys = schema.rows(stage).iter().map(|row| &row.key);
    for adding in keys.filter(|other| super::criteria::adds(other)) {
        if adding.criteria.iter().any(|name| key.is_read_by(name)) {
            let path = join(stage, &adding.path);
            found.push(vec![format!("{path}=0.5")]);
        }
    }
    found.push(Vec::new());
    found
}

/// A key set to a value other than its default, in a config where it has an effect.
struct Changed {
    path: String,
    set: String,
    before: Config,
    after: Loaded,
}

#[track_caller]
fn changed(key: &Key, path: &str) -> Changed {
    for background in BACKGROUNDS {
        let background: Vec<String> = background.iter().map(|&set| set.to_owned()).collect();
        let base = load(&background).unwrap().config;
        let schema = Schema::of_config(&base);
        let in_stages = path.starts_with(ANY_STAGE);
        let stages: Vec<&str> = if in_stages {
            schema.stages().collect()
        } else {
            vec![""]
        };
        for stage in stages {
            let path = join(stage, &key.path);
            for needed in adding(key, stage, &schema) {
                let needed = [background.clone(), needed].concat();
                let Ok(before) = load(&needed) else {
                    continue;
                };
                for value in candidates(&key.kind) {
                    let set = format!("{path}={value}");
                    if let Ok(after) = load(&[needed.clone(), vec![set.clone()]].concat())
                        && value_of(&after.config, &path) != value_of(&before.config, &path)
                    {
                        return Changed {
                            path,
                            set,
                            before: before.config,
                            after,
                        };
                    }
                }
            }
        }
    }
    panic!("no value changes `{path}`");
}

fn value_of(config: &Config, path: &str) -> Option<super::key_value::KeyValue> {
    let mut entries = entries(config).into_iter();
    entries.find(|(key, _)| key == path).map(|(_, given)| given)
}

/// Runs a check for every key of the table.
fn for_each_key(check: impl Fn(&Key, &str)) {
    let schema = Schema::documented();
    let mut count = 0;
    for (path, key) in schema.keys() {
        check(key, &path);
        count += 1;
    }
    assert!(count > 60, "{count} keys");
}

/// The path of a key in the first stage.
fn in_first_stage(path: &str) -> String {
    path.replacen(ANY_STAGE, "video_tokenizer", 1)
}

#[test]
fn every_key_has_an_effect_and_survives_a_round_trip_through_json_and_toml() {
    for_each_key(|key, path| {
        let Changed {
            path,
            before,
            after,
            ..
        } = changed(key, path);
        let config = &after.config;
        assert_ne!(before, *config, "{path}");
        assert!(after.given.contains(&path), "{path}");

        let json = config.to_json();
        let pointer = format!("/{}", path.replace('.', "/"));
        let given = value_of(config, &path).unwrap();
        assert_eq!(json.pointer(&pointer), Some(&given.to_json()), "{path}");
        assert_eq!(Config::from_json(&json).unwrap(), *config, "{path}");

        let shown = config.to_toml(&after.given);
        let name = path.rsplit('.').next().unwrap();
        let line = format!("{name} = {}", given.to_toml());
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
        let read = Config::parse(&shown, "shown", Path::new("/"), &[]).unwrap();
        assert_eq!(read.config, *config, "{path}");
    });
}

#[test]
fn every_key_is_documented() {
    let rows = describe();
    let written: BTreeSet<String> = entries(&load(&[]).unwrap().config)
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    for_each_key(|key, path| {
        let row = rows.iter().find(|row| row.key == path).unwrap();
        assert!(row.meaning.len() > 10, "{path}");
        assert!(!row.default.is_empty() && !row.kind.is_empty(), "{path}");
        let is_written = written.contains(&in_first_stage(path));
        assert!(is_written || !key.criteria.is_empty(), "{path}");
    });
    let documented: BTreeSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
    assert_eq!(documented.len(), rows.len());
}

#[test]
fn every_key_changes_on_resume_as_its_row_says() {
    for_each_key(|key, path| {
        let Changed {
            path, set, before, ..
        } = changed(key, path);
        let in_force = before.policy.stages.iter().map(|s| (&s.name, &s.settings));
        let retries = before.policy.max_retries;
        let resumed = before.resume(
            in_force,
            retries,
            &[Override::parse("--set", &set).unwrap()],
        );
        match (key.change.clone(), before.changeable(&path).unwrap()) {
            (Change::Setting(setting), Changeable::Yes { key, .. }) => {
                let changes = resumed.unwrap().settings;
                assert_eq!(key, setting, "{path}");
                assert_eq!(
                    changes
                        .iter()
                        .map(|change| change.key.clone())
                        .collect::<Vec<_>>(),
                    [setting],
                    "{path}"
                );
            }
            (Change::Process, Changeable::Process) => {
                assert_eq!(resumed.unwrap().process, [path]);
            }
            (Change::Fixed(why), Changeable::No { why: reason }) => {
                assert_eq!(why, reason);
                let error = resumed.unwrap_err().to_string();
                let want = format!("`{path}` cannot change in an existing run: {why}");
                assert!(error.contains(&want), "{error}");
            }
            (change, changeable) => panic!("{path}: {change:?}, {changeable:?}"),
        }
    });
}

#[test]
fn every_process_keeps_its_own_keys() {
    for_each_key(|key, path| {
        let Changed { before, after, .. } = changed(key, path);
        let of_process = key.change == Change::Process;
        assert_eq!(Config::is_of_process(path), of_process, "{path}");
        let joined = before.clone().with_process_of(&after.config);
        let want = if of_process { after.config } else { before };
        assert_eq!(joined, want, "{path}");
    });
}

/// The problems of a config in which only this key is set.
fn problems(path: &str, value: &str) -> Vec<String> {
    match load(&[format!("{path}={value}")]) {
        Ok(_) => Vec::new(),
        Err(error) => {
            let problems = error.problems().iter();
            problems
                .map(|problem| format!("{}: {}", problem.location, problem.fault))
                .collect()
        }
    }
}

#[test]
fn every_key_rejects_a_value_of_another_type() {
    for_each_key(|key, path| {
        let path = in_first_stage(path);
        let date = "2026-01-01";
        let want = format!(
            "--set {path}={date}: `{path}` is the date {date}, expected {}",
            key.kind
        );
        assert_eq!(problems(&path, date), [want]);
    });
}

#[test]
fn every_key_accepts_its_bounds_and_rejects_values_past_them() {
    for_each_key(|key, path| {
        let path = in_first_stage(path);
        let (range, inside, outside) = match &key.kind {
            Kind::Count { least, most } | Kind::CountOrAuto { least, most } => (
                format!("{least} to {most}"),
                vec![least.to_string(), most.to_string()],
                vec![
                    (i128::from(*least) - 1).to_string(),
                    (i128::from(*most) + 1).to_string(),
                ],
            ),
            Kind::Real {
                above: Some(above),
                most,
                ..
            } => (
                format!("above {above} to {most}"),
                vec![format!("{most:?}")],
                vec![format!("{above:?}"), format!("{:?}", most + 1.0)],
            ),
            Kind::Real {
                above: None,
                least,
                most,
            }
            | Kind::Limit { least, most } => (
                format!("{least} to {most}"),
                vec![format!("{least:?}"), format!("{most:?}")],
                vec![format!("{:?}", least - 1.0), format!("{:?}", most + 1.0)],
            ),
            Kind::Choice(choices) => {
                let listed: Vec<String> = choices.iter().map(|c| format!("`{c}`")).collect();
                let want = format!(
                    "--set {path}=zzzz: `{path}` is `zzzz`, expected one of {}",
                    listed.join(", ")
                );
                assert_eq!(problems(&path, "zzzz"), [want]);
                return;
            }
            Kind::Flag
            | Kind::Device
            | Kind::Paths
            | Kind::Path
            | Kind::Command
            | Kind::Stages { .. }
            | Kind::Criteria(_)
            | Kind::Ladder { .. }
            | Kind::Text
            | Kind::Texts => return,
        };
        let unit = if key.unit.is_empty() { "" } else { " " };
        for value in outside {
            let want = format!(
                "--set {path}={value}: `{path}` is {value}, outside {range}{unit}{}",
                key.unit
            );
            assert_eq!(problems(&path, &value), [want]);
        }
        for value in inside {
            let outside = format!("`{path}` is {value}, outside");
            let problems = problems(&path, &value);
            assert!(
                !problems.iter().any(|problem| problem.contains(&outside)),
                "{value}: {problems:?}"
            );
            if let Ok(loaded) = load(&[format!("{path}={value}")]) {
                let kept = value_of(&loaded.config, &path).map(|given| given.to_toml());
                assert_eq!(kept, Some(value), "{path} does not hold its bound");
            }
        }
    });
}
