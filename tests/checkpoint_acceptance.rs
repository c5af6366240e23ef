//! Checkpoints on disk: TinyWorlds' own files and broken copies of them, tinygate's own
//! checkpoints, and real files with random changes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tinygate::checkpoint::torch_file::{self, DType, Tensor, Value};
use tinygate::checkpoint::{
    Acceptance, AdamWState, Appraisal, BYTES_MIN, CheckpointContent, FILE_NAMES, FileRecord,
    LoadError, MODEL_FILE, Moments, Need, OPTIMIZER_FILE, Origin, Parameter, ParameterGroup,
    RejectReason, STATE_FILE, UPDATES_DONE, WriteError, accept, accept_for, appraise, load,
    load_weights, remove_leftovers, write,
};

const NAME: &str = "video_tokenizer_step_149";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tinyworlds_checkpoint")
}

fn fixture() -> PathBuf {
    fixtures().join(NAME)
}

/// A copy of the good fixture that a test may damage.
fn copy_of_fixture(parent: &Path) -> PathBuf {
    let copy = parent.join(NAME);
    fs::create_dir(&copy).unwrap();
    for name in FILE_NAMES {
        fs::write(copy.join(name), fs::read(fixture().join(name)).unwrap()).unwrap();
    }
    copy
}

fn rejection(acceptance: Acceptance) -> Option<RejectReason> {
    match acceptance {
        Acceptance::Accepted(_) => None,
        Acceptance::Rejected { reason } => Some(reason),
    }
}

#[test]
fn a_checkpoint_of_tinyworlds_is_accepted() {
    let Acceptance::Accepted(accepted) = accept(&fixture(), None) else {
        panic!("rejected: {:?}", accept(&fixture(), None));
    };
    assert_eq!(accepted.step, Some(150), "`_step_149` has done 150 updates");
    assert_eq!(accepted.origin, Origin::Foreign);
    assert_eq!(accepted.tensors, 61);
    assert_eq!(accepted.elements, 15_250);
    let names: Vec<&str> = accepted
        .files
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(names, FILE_NAMES);
}

#[track_caller]
fn check_broken(folder: &str, want: RejectReason) {
    let found = rejection(accept(
        &fixtures().join("broken").join(folder).join(NAME),
        None,
    ));
    assert_eq!(found, Some(want), "{folder}");
}

#[test]
fn each_broken_checkpoint_is_rejected_for_its_fault() {
    let model = || MODEL_FILE.to_owned();
    check_broken("empty_dicts", RejectReason::EmptyDict { name: model() });
    check_broken(
        "missing_optimizer",
        RejectReason::MissingFile {
            name: OPTIMIZER_FILE.to_owned(),
        },
    );
    check_broken(
        "non_finite",
        RejectReason::NonFinite {
            tensor: "encoder.patch_embed.proj.weight".to_owned(),
        },
    );
    check_broken(
        "not_a_checkpoint",
        RejectReason::NotAnArchive { name: model() },
    );
    check_broken("truncated_zip", RejectReason::Truncated { name: model() });
    check_broken(
        "executes",
        RejectReason::ForeignCode {
            name: model(),
            global: "posix.mkdir".to_owned(),
        },
    );
    let folders = fs::read_dir(fixtures().join("broken")).unwrap().count();
    assert_eq!(folders, 6, "every folder of `broken` has its row above");
}

#[test]
fn code_in_a_pickle_is_not_executed() {
    let made_by_it = Path::new("EXECUTED_BY_A_PICKLE");
    assert!(!made_by_it.exists(), "left by another program: remove it");
    let executes = fixtures().join("broken/executes").join(NAME);
    accept(&executes, None);
    let error = load(&executes).unwrap_err();
    assert!(matches!(error, LoadError::ForeignCode { global, .. } if global == "posix.mkdir"));
    let bytes = fs::read(executes.join(MODEL_FILE)).unwrap();
    assert_eq!(torch_file::read(&bytes).unwrap().foreign, ["posix.mkdir"]);
    assert!(!made_by_it.exists());
}

/// Replaces one file of the fixture by `content` and judges it.
#[track_caller]
fn check_replaced(name: &str, file: &str, content: &[u8], want: Option<RejectReason>) {
    let directory = tempfile::tempdir().unwrap();
    let copy = copy_of_fixture(directory.path());
    fs::write(copy.join(file), content).unwrap();
    assert_eq!(rejection(accept(&copy, None)), want, "{name}");
}

#[test]
fn placeholders_are_too_small() {
    let small = |name: &str, size| RejectReason::TooSmall {
        name: name.to_owned(),
        size,
        minimum: BYTES_MIN,
    };
    let archive = |name: &str| RejectReason::NotAnArchive {
        name: name.to_owned(),
    };
    let (below, at) = (&[0; 999], &[0; 1000]);
    let rows: [(&str, &str, &[u8], RejectReason); 6] = [
        ("an empty model", MODEL_FILE, b"", small(MODEL_FILE, 0)),
        ("a model below", MODEL_FILE, below, small(MODEL_FILE, 999)),
        ("a model at the limit", MODEL_FILE, at, archive(MODEL_FILE)),
        (
            "an optimizer below",
            OPTIMIZER_FILE,
            below,
            small(OPTIMIZER_FILE, 999),
        ),
        (
            "an optimizer at it",
            OPTIMIZER_FILE,
            at,
            archive(OPTIMIZER_FILE),
        ),
        (
            "an empty state, of any size",
            STATE_FILE,
            b"",
            archive(STATE_FILE),
        ),
    ];
    for (name, file, content, want) in rows {
        check_replaced(name, file, content, Some(want));
    }
}

/// An archive of `value`, made larger than a placeholder by its long name.
fn archive(value: Value) -> Vec<u8> {
    let bytes = torch_file::write(&"archive".repeat(30), &value).unwrap();
    assert!(bytes.len() as u64 >= BYTES_MIN);
    bytes
}

#[test]
fn files_must_contain_what_their_name_says() {
    let weights = |values: &[f32]| Tensor::from_f32(vec![values.len()], values).unwrap();
    let dict = |key: &str, value: Value| archive(Value::dict([(key, value)]));
    let not_a_dict = |name: &str, found: &str| RejectReason::NotADict {
        name: name.to_owned(),
        found: found.to_owned(),
    };
    let empty = |name: &str| RejectReason::EmptyDict {
        name: name.to_owned(),
    };
    let rows: [(&str, &str, Vec<u8>, Option<RejectReason>); 10] = [
        (
            "a model that is one tensor",
            MODEL_FILE,
            archive(weights(&[0.0]).into()),
            Some(not_a_dict(MODEL_FILE, "Tensor")),
        ),
        (
            "a model with a number in it",
            MODEL_FILE,
            dict("a", 1.5.into()),
            Some(RejectReason::NotATensor {
                name: MODEL_FILE.to_owned(),
                key: "a".to_owned(),
                found: "float".to_owned(),
            }),
        ),
        (
            "a model whose tensors have numbers",
            MODEL_FILE,
            archive(Value::Dict(vec![(Value::Int(7), weights(&[0.0]).into())])),
            Some(RejectReason::NotATensor {
                name: MODEL_FILE.to_owned(),
                key: "Int(7)".to_owned(),
                found: "Tensor".to_owned(),
            }),
        ),
        (
            "a model that is infinite",
            MODEL_FILE,
            dict("a", weights(&[0.0, f32::INFINITY]).into()),
            Some(RejectReason::NonFinite {
                tensor: "a".to_owned(),
            }),
        ),
        (
            "a model in a plain dict",
            MODEL_FILE,
            dict("a", weights(&[0.0]).into()),
            None,
        ),
        (
            "an optimizer that is a list",
            OPTIMIZER_FILE,
            archive(Value::List(vec![])),
            Some(not_a_dict(OPTIMIZER_FILE, "list")),
        ),
        (
            "an optimizer of no state",
            OPTIMIZER_FILE,
            dict("state", Value::Dict(vec![])),
            Some(empty(OPTIMIZER_FILE)),
        ),
        (
            "an optimizer whose state is by name",
            OPTIMIZER_FILE,
            dict("state", Value::dict([("w", Value::Dict(vec![]))])),
            None,
        ),
        (
            "an optimizer of an empty dict",
            OPTIMIZER_FILE,
            archive(Value::Dict(vec![])),
            Some(empty(OPTIMIZER_FILE)),
        ),
        (
            "a state that is a number",
            STATE_FILE,
            archive(Value::Int(5)),
            Some(not_a_dict(STATE_FILE, "int")),
        ),
    ];
    for (name, file, content, want) in rows {
        check_replaced(name, file, &content, want);
    }
}

#[test]
fn a_directory_in_place_of_a_file_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let copy = copy_of_fixture(directory.path());
    fs::remove_file(copy.join(STATE_FILE)).unwrap();
    fs::create_dir(copy.join(STATE_FILE)).unwrap();
    let want = RejectReason::Unreadable {
        name: STATE_FILE.to_owned(),
        error: "it is not a regular file".to_owned(),
    };
    assert_eq!(rejection(accept(&copy, None)), Some(want));
    let nowhere = directory.path().join("nowhere");
    let want = RejectReason::MissingFile {
        name: MODEL_FILE.to_owned(),
    };
    assert_eq!(rejection(accept(&nowhere, None)), Some(want));
}

/// A checkpoint like the trainer's: two parameters, AdamW, and a state of plain values.
fn content() -> CheckpointContent {
    let weights: Vec<f32> = (0..300).map(|i| i as f32 / 7.0).collect();
    let weight = Tensor::from_f32(vec![3, 100], &weights).unwrap();
    let basis = Tensor::from_i64(vec![5], &[1, 4, 16, 64, 256]).unwrap();
    let parameter = Parameter {
        name: Some("encoder.weight".to_owned()),
        moments: Some(Moments {
            step: 5000,
            exp_avg: weight.clone(),
            exp_avg_sq: weight.clone(),
        }),
    };
    let optimizer = AdamWState {
        groups: vec![ParameterGroup {
            learning_rate: 3e-5,
            initial_learning_rate: Some(3e-3),
            weight_decay: 0.01,
            betas: (0.9, 0.999),
            eps: 1e-8,
            parameters: vec![parameter],
        }],
    };
    CheckpointContent {
        model: vec![
            ("encoder.weight".to_owned(), weight),
            ("quantizer.basis".to_owned(), basis),
        ],
        optimizer: optimizer.to_value().unwrap(),
        state: Value::dict([
            ("scheduler_state_dict", Value::None),
            ("config", Value::dict([("patch_size", Value::Int(8))])),
            ("step", Value::Int(4999)),
            (UPDATES_DONE, Value::Int(5000)),
            ("samples_seen", Value::Int(40_000)),
        ]),
    }
}

#[test]
fn a_checkpoint_of_tinygate_is_read_back_and_accepted_by_its_hashes() {
    let directory = tempfile::tempdir().unwrap();
    let parent = directory.path().join("run/video_tokenizer/checkpoints");
    let written = write(&parent, "video_tokenizer_step_5000", &content()).unwrap();
    assert_eq!(load(&written.path).unwrap(), content());
    let Acceptance::Accepted(accepted) = accept(&written.path, Some(&written.files)) else {
        panic!(
            "rejected: {:?}",
            accept(&written.path, Some(&written.files))
        );
    };
    assert_eq!(
        (accepted.step, accepted.origin),
        (Some(5000), Origin::Tinygate)
    );
    assert_eq!(accepted.files, written.files);
    let left: Vec<_> = fs::read_dir(&parent).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing else is left: {left:?}");
}

#[test]
fn writing_the_same_content_again_gives_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let first = write(directory.path(), "a_step_5000", &content()).unwrap();
    fs::write(
        first.path.join("stray"),
        b"of a directory that no event names",
    )
    .unwrap();
    let second = write(directory.path(), "a_step_5000", &content()).unwrap();
    assert_eq!(first, second);
    assert!(!second.path.join("stray").exists());
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing else is left: {left:?}");
}

#[test]
fn a_changed_checkpoint_of_tinygate_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let written = write(directory.path(), "a_step_5000", &content()).unwrap();
    let judge = |expected: &[FileRecord]| rejection(accept(&written.path, Some(expected)));
    for (index, name) in FILE_NAMES.into_iter().enumerate() {
        let name = || name.to_owned();
        let mut expected = written.files.clone();
        expected[index].blake3_hex = "0".repeat(64);
        let want = RejectReason::HashMismatch {
            name: name(),
            expected: "0".repeat(64),
            found: written.files[index].blake3_hex.clone(),
        };
        assert_eq!(judge(&expected), Some(want));

        let mut expected = written.files.clone();
        expected[index].size += 1;
        let want = RejectReason::SizeMismatch {
            name: name(),
            expected: written.files[index].size + 1,
            found: written.files[index].size,
        };
        assert_eq!(judge(&expected), Some(want));

        let mut expected = written.files.clone();
        expected.remove(index);
        assert_eq!(
            judge(&expected),
            Some(RejectReason::NotInLog { name: name() })
        );
    }
}

#[test]
fn a_checkpoint_that_cannot_be_resumed_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["", ".", "..", ".hidden", "a/b", "/a"] {
        let error = write(directory.path(), name, &content()).unwrap_err();
        assert!(
            matches!(error, WriteError::Name { .. }),
            "{name:?}: {error}"
        );
    }
    for state in [Value::None, Value::dict([(UPDATES_DONE, Value::Int(-1))])] {
        let content = CheckpointContent { state, ..content() };
        let error = write(directory.path(), "a_step_1", &content).unwrap_err();
        assert!(matches!(error, WriteError::State), "{error}");
    }
    let class = "a.Class".to_owned();
    let optimizer = Value::Opaque { class };
    let content = CheckpointContent {
        optimizer,
        ..content()
    };
    let error = write(directory.path(), "a_step_1", &content).unwrap_err();
    assert!(matches!(error, WriteError::Encode { .. }), "{error}");
    assert!(!error.is_environment());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_parent_that_is_a_file_is_an_environment_error() {
    let directory = tempfile::tempdir().unwrap();
    let parent = directory.path().join("file");
    fs::write(&parent, b"").unwrap();
    let error = write(&parent, "a_step_1", &content()).unwrap_err();
    assert!(error.is_environment(), "{error}");
}

#[test]
fn leftovers_of_an_interrupted_write_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let left = directory.path().join(".tmp-a_step_5000");
    fs::create_dir(&left).unwrap();
    fs::write(left.join(MODEL_FILE), b"half a mod").unwrap();
    let written = write(directory.path(), "a_step_5000", &content()).unwrap();
    assert!(!left.exists(), "the next write of the name replaces it");

    fs::create_dir(&left).unwrap();
    assert_eq!(remove_leftovers(directory.path()).unwrap(), [left]);
    assert!(written.path.exists());
    let nowhere = directory.path().join("nowhere");
    assert_eq!(remove_leftovers(&nowhere).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn an_optimizer_of_tinyworlds_is_read_and_written_in_the_same_form() {
    let read = load(&fixture()).unwrap().optimizer;
    let state = AdamWState::from_value(&read).unwrap();
    let sizes: Vec<usize> = state.groups.iter().map(|g| g.parameters.len()).collect();
    assert_eq!(sizes, [26, 34]);
    let [decayed, plain] = state.groups.as_slice() else {
        panic!("two groups")
    };
    assert_eq!((decayed.weight_decay, plain.weight_decay), (0.01, 0.0));
    assert_eq!((decayed.betas, decayed.eps), ((0.9, 0.999), 1e-8));
    assert_eq!(decayed.learning_rate, 3e-5);
    assert_eq!(decayed.initial_learning_rate, Some(3e-3));
    let parameters = || state.groups.iter().flat_map(|group| &group.parameters);
    assert!(parameters().all(|p| p.moments.as_ref().is_some_and(|m| m.step == 150)));

    // The same keys in the same order. `fused` depends on the machine that wrote it.
    let again = state.to_value().unwrap();
    assert_eq!(again.get("state"), read.get("state"));
    let keys = |value: &Value| -> Vec<String> {
        let groups = value.get("param_groups").and_then(Value::as_items).unwrap();
        let entries = groups[0].as_dict().unwrap();
        entries
            .iter()
            .map(|(key, _)| key.as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(keys(&again), keys(&read));
}

#[test]
fn tinyworlds_config_objects_are_kept_by_name() {
    let bytes = fs::read(fixture().join(STATE_FILE)).unwrap();
    let state = torch_file::read(&bytes).unwrap();
    let classes = [
        "DeviceType",
        "DistributedConfig",
        "FSDPMixedPrecisionConfig",
    ];
    assert_eq!(
        state.foreign,
        classes.map(|class| format!("utils.config.{class}"))
    );
    let config = state.value.get("config").unwrap();
    assert_eq!(config.get("patch_size"), Some(&Value::Int(8)));
    let class = "utils.config.DeviceType".to_owned();
    assert_eq!(config.get("device"), Some(&Value::Opaque { class }));
}

#[test]
fn verdicts_have_a_json_form() {
    let reason = RejectReason::EmptyDict {
        name: MODEL_FILE.to_owned(),
    };
    let rejected = Acceptance::Rejected {
        reason: reason.clone(),
    };
    let json = serde_json::to_value(&rejected).unwrap();
    assert_eq!(json["verdict"], "rejected");
    assert_eq!(json["reason"]["code"], reason.code());
    assert_eq!(json["reason"]["name"], MODEL_FILE);
    assert_eq!(
        serde_json::from_value::<Acceptance>(json).unwrap(),
        rejected
    );
    assert_eq!(
        reason.to_string(),
        "`model_state_dict.pt` holds an empty dict"
    );

    let accepted = accept(&fixture(), None);
    let json = serde_json::to_value(&accepted).unwrap();
    assert_eq!(
        (&json["verdict"], &json["step"]),
        (&"accepted".into(), &150.into())
    );
    assert_eq!(
        serde_json::from_value::<Acceptance>(json).unwrap(),
        accepted
    );
}

fn real_files() -> Vec<Vec<u8>> {
    let read = |name| fs::read(fixture().join(name)).unwrap();
    let ours = torch_file::write("ours", &content().optimizer).unwrap();
    vec![
        read(MODEL_FILE),
        read(OPTIMIZER_FILE),
        read(STATE_FILE),
        ours,
    ]
}

/// `data.pkl` of a real file, where it begins and how long it is.
fn pickle_of(bytes: &[u8]) -> (usize, usize) {
    let start = (0..bytes.len())
        .find(|&at| bytes[at..].starts_with(b"\x80\x02"))
        .unwrap();
    let end = (start..bytes.len())
        .find(|&at| bytes[at..].starts_with(b".PK"))
        .unwrap();
    (start, end + 1 - start)
}

/// Updates the checksum of `data.pkl` in the table.
fn fix_checksum(bytes: &mut [u8], start: usize, length: usize) {
    let sum = crc32fast::hash(&bytes[start..start + length]).to_le_bytes();
    let table = (0..bytes.len())
        .find(|&at| bytes[at..].starts_with(b"PK\x01\x02"))
        .unwrap();
    bytes[table + 16..table + 20].copy_from_slice(&sum);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Names, data and structure are all checked, so a file that is read has its original content.
    #[test]
    fn a_changed_byte_is_detected_or_has_no_effect(
        file in 0..4_usize,
        place in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let original = &real_files()[file];
        let mut bytes = original.clone();
        bytes[place.index(original.len())] ^= flip;
        if let Ok(loaded) = torch_file::read(&bytes) {
            let same = torch_file::read(original).unwrap();
            prop_assert_eq!(loaded, same);
        }
    }

    /// Also updates the checksum, so that the checks of the pickle reader are reached.
    #[test]
    fn a_changed_pickle_never_panics(
        file in 0..4_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = real_files()[file].clone();
        let (start, length) = pickle_of(&bytes);
        for (place, byte) in changes {
            bytes[start + place.index(length)] = byte;
        }
        fix_checksum(&mut bytes, start, length);
        if let Ok(loaded) = torch_file::read(&bytes) {
            // Any value that was read can be written, unless it is opaque.
            let _ = torch_file::write("again", &loaded.value);
        }
    }
}

#[test]
fn every_tensor_type_survives_a_round_trip() {
    let directory = tempfile::tempdir().unwrap();
    let model = DType::ALL.into_iter().map(|dtype| {
        let data = vec![1; 6 * dtype.size()];
        (
            dtype.name().to_owned(),
            Tensor::new(dtype, vec![2, 3], data).unwrap(),
        )
    });
    let content = CheckpointContent {
        model: model.collect(),
        ..content()
    };
    let written = write(directory.path(), "a_step_5000", &content).unwrap();
    assert_eq!(load(&written.path).unwrap(), content);
}

/// The values of the fixture's three files, which a test may change.
struct Parts {
    model: Vec<(Value, Value)>,
    optimizer: Value,
    state: Value,
}

impl Parts {
    fn of_fixture() -> Parts {
        let read = |name: &str| {
            let bytes = fs::read(fixture().join(name)).unwrap();
            torch_file::read(&bytes).unwrap().value
        };
        let Value::OrderedDict(model) = read(MODEL_FILE) else {
            panic!("a model is an ordered dict")
        };
        let config = Value::dict([("num_heads", Value::Int(4))]);
        Parts {
            model,
            optimizer: read(OPTIMIZER_FILE),
            // The fixture's own state has Python objects, which cannot be written.
            state: Value::dict([("step", Value::Int(149)), ("config", config)]),
        }
    }

    fn rename(&mut self, rename: impl Fn(&str) -> String) {
        for (key, _) in &mut self.model {
            *key = Value::Str(rename(key.as_str().unwrap()));
        }
    }

    /// Converts all floats of the model and the moments to another type.
    fn cast(&mut self, cast: fn(&Tensor) -> Tensor) {
        for (_, value) in &mut self.model {
            if let Value::Tensor(tensor) = value
                && tensor.dtype() == DType::F32
            {
                *tensor = cast(tensor);
            }
        }
    }

    /// An entry of the optimizer's state for a parameter.
    fn moment(&mut self, index: usize, key: &str) -> &mut Value {
        let state = entry(&mut self.optimizer, "state");
        let (Value::Dict(state) | Value::OrderedDict(state)) = state else {
            panic!("a state is a dict")
        };
        entry(&mut state[index].1, key)
    }

    fn groups(&mut self) -> Vec<&mut Vec<(Value, Value)>> {
        let Value::List(groups) = entry(&mut self.optimizer, "param_groups") else {
            panic!("groups are a list")
        };
        let mut dicts = Vec::new();
        for group in groups {
            if let Value::Dict(entries) | Value::OrderedDict(entries) = group {
                dicts.push(entries);
            }
        }
        dicts
    }

    fn set(&mut self, key: &str, value: Value) {
        for group in self.groups() {
            group.retain(|(k, _)| k.as_str() != Some(key));
            group.push((key.into(), value.clone()));
        }
    }

    fn write(&self, parent: &Path) -> PathBuf {
        let path = parent.join(NAME);
        fs::create_dir(&path).unwrap();
        let model = Value::OrderedDict(self.model.clone());
        for (name, value) in [
            (MODEL_FILE, &model),
            (OPTIMIZER_FILE, &self.optimizer),
            (STATE_FILE, &self.state),
        ] {
            fs::write(path.join(name), torch_file::write("a", value).unwrap()).unwrap();
        }
        path
    }
}

fn entry<'v>(value: &'v mut Value, key: &str) -> &'v mut Value {
    let (Value::Dict(entries) | Value::OrderedDict(entries)) = value else {
        panic!("no dict: {value:?}")
    };
    let found = entries.iter_mut().find(|(k, _)| k.as_str() == Some(key));
    &mut found.unwrap().1
}

/// A tensor with its first element replaced.
fn with_first(tensor: &Value, number: f32) -> Value {
    let tensor = tensor.as_tensor().unwrap();
    let mut values = tensor.to_f32().unwrap();
    values[0] = number;
    Tensor::from_f32(tensor.shape().to_vec(), &values)
        .unwrap()
        .into()
}

/// What a checkpoint is good for: `resume`, or what is left and the code of the reason.
fn good_for(path: &Path) -> String {
    match appraise(path, None) {
        Appraisal::Resume(_) => "resume".to_owned(),
        Appraisal::WeightsOnly(_, reason) => format!("weights: {}", reason.code()),
        Appraisal::Nothing(reason) => format!("nothing: {}", reason.code()),
    }
}

#[track_caller]
fn check_good_for(name: &str, want: &str, change: impl FnOnce(&mut Parts)) {
    let directory = tempfile::tempdir().unwrap();
    let mut parts = Parts::of_fixture();
    change(&mut parts);
    let path = parts.write(directory.path());
    let reason = appraise(&path, None);
    assert_eq!(good_for(&path), want, "{name}: {reason:?}");
}

#[test]
fn an_intact_checkpoint_can_be_resumed() {
    check_good_for("unchanged", "resume", |_| {});
    assert_eq!(good_for(&fixture()), "resume");
    let directory = tempfile::tempdir().unwrap();
    let ours = write(directory.path(), "a_step_5000", &content()).unwrap();
    assert_eq!(good_for(&ours.path), "resume");
}

#[test]
fn wrappers_in_names_are_removed() {
    for prefix in [
        "_orig_mod.",
        "module.",
        "_orig_mod.module.",
        "module._orig_mod.",
    ] {
        check_good_for(prefix, "resume", |parts| {
            parts.rename(|name| format!("{prefix}{name}"));
        });
    }
    check_good_for("one half compiled", "resume", |parts| {
        parts.rename(|name| name.replace("encoder.", "encoder._orig_mod."));
    });
    check_good_for("wrapped here and there", "nothing: mixed_prefix", |parts| {
        parts.rename(|name| name.replace("encoder.", "_orig_mod.encoder."));
    });
    check_good_for("a clash", "nothing: mixed_prefix", |parts| {
        let mut twin = parts.model[0].clone();
        twin.0 = format!("module.{}", twin.0.as_str().unwrap()).into();
        parts.model.push(twin);
    });
    let directory = tempfile::tempdir().unwrap();
    let mut parts = Parts::of_fixture();
    parts.rename(|name| format!("_orig_mod.{name}"));
    let loaded = load(&parts.write(directory.path())).unwrap();
    assert_eq!(loaded.model, load(&fixture()).unwrap().model);
}

#[test]
fn with_unusable_moments_the_weights_can_still_be_used() {
    for (name, key, number) in [
        ("NaN", "exp_avg", f32::NAN),
        ("infinity", "exp_avg_sq", f32::INFINITY),
        ("a negative square", "exp_avg_sq", -1e-12),
        ("a mean beyond use", "exp_avg", 1e19),
    ] {
        check_good_for(name, "weights: bad_moment", |parts| {
            let moment = parts.moment(7, key);
            *moment = with_first(moment, number);
        });
    }
    check_good_for("a square that is -0", "resume", |parts| {
        let moment = parts.moment(0, "exp_avg_sq");
        *moment = with_first(moment, -0.0);
    });
    // The same holds for a run's own checkpoints.
    let directory = tempfile::tempdir().unwrap();
    let mut bad = content();
    let state = entry(&mut bad.optimizer, "state");
    let Value::Dict(state) = state else {
        panic!("a dict")
    };
    let moment = entry(&mut state[0].1, "exp_avg_sq");
    *moment = with_first(moment, f32::NAN);
    let written = write(directory.path(), "a_step_5000", &bad).unwrap();
    let reason = rejection(accept(&written.path, Some(&written.files))).unwrap();
    assert_eq!(
        reason.to_string(),
        "of the optimizer, `exp_avg_sq` of parameter 0 has an element that is not finite"
    );
    let weights = accept_for(Need::Weights, &written.path, Some(&written.files));
    assert_eq!(rejection(weights), None);
}

#[test]
fn weights_that_overflow_are_unusable() {
    for (number, want) in [
        (1e38, "nothing: too_large_weight"),
        (-1e19, "nothing: too_large_weight"),
        (f32::NEG_INFINITY, "nothing: non_finite"),
        (1e17, "resume"),
    ] {
        check_good_for("a weight", want, |parts| {
            parts.model[0].1 = with_first(&parts.model[0].1, number);
        });
    }
}

fn to_f64(tensor: &Tensor) -> Tensor {
    let data = tensor.numbers().flat_map(f64::to_le_bytes).collect();
    Tensor::new(DType::F64, tensor.shape().to_vec(), data).unwrap()
}

/// The upper half of each `float32`.
fn to_bf16(tensor: &Tensor) -> Tensor {
    let halves = tensor
        .data()
        .chunks(4)
        .flat_map(|bytes| [bytes[2], bytes[3]]);
    Tensor::new(DType::BF16, tensor.shape().to_vec(), halves.collect()).unwrap()
}

#[test]
fn other_float_types_are_read() {
    check_good_for("bfloat16", "resume", |parts| parts.cast(to_bf16));
    check_good_for("float64", "resume", |parts| parts.cast(to_f64));
    check_good_for("float64 beyond float32", "nothing: overflow", |parts| {
        let tensor = Tensor::new(DType::F64, vec![1], 1e39_f64.to_le_bytes().to_vec());
        parts.model[0].1 = tensor.unwrap().into();
    });
    let directory = tempfile::tempdir().unwrap();
    let mut parts = Parts::of_fixture();
    parts.cast(to_f64);
    let Appraisal::Resume(accepted) = appraise(&parts.write(directory.path()), None) else {
        panic!("float64 is read")
    };
    assert!(accepted.rounded, "and reported as rounded");
}

#[test]
fn settings_of_adamw_may_be_missing_or_have_other_types() {
    check_good_for("a rate as a tensor", "resume", |parts| {
        parts.set("lr", Tensor::scalar_f32(1e-3).into());
    });
    for key in ["eps", "betas", "weight_decay", "amsgrad", "foreach", "lr"] {
        check_good_for(key, "resume", |parts| {
            for group in parts.groups() {
                group.retain(|(k, _)| k.as_str() != Some(key));
            }
        });
    }
    check_good_for("an unknown key", "resume", |parts| {
        parts.set("layer_decay", Value::List(vec![]));
    });
    check_good_for("a step as an int", "resume", |parts| {
        *parts.moment(0, "step") = Value::Int(150);
    });
    check_good_for("half a step", "weights: optimizer", |parts| {
        *parts.moment(0, "step") = Value::Float(1.5);
    });
    for key in ["amsgrad", "maximize"] {
        check_good_for(key, "weights: optimizer", |parts| {
            parts.set(key, true.into())
        });
    }
}

#[test]
fn optimizers_that_cannot_be_resumed_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let mut parts = Parts::of_fixture();
    let Value::Dict(state) = entry(&mut parts.optimizer, "state") else {
        panic!("a dict")
    };
    for (_, moments) in state.iter_mut() {
        let buffer = entry(moments, "exp_avg").clone();
        *moments = Value::dict([("momentum_buffer", buffer)]);
    }
    parts.set("backend_steps", Value::Int(5));
    let Appraisal::WeightsOnly(_, reason) = appraise(&parts.write(directory.path()), None) else {
        panic!("Muon's moments are of no use")
    };
    assert_eq!(
        reason.to_string(),
        "the optimizer is Muon, which keeps `momentum_buffer`; \
         expected AdamW, which keeps `exp_avg` and `exp_avg_sq`"
    );
    check_good_for("experts", "nothing: mixture_of_experts", |parts| {
        parts.rename(|name| name.replace(".ffn.", ".ffn.experts.0."));
    });
}

/// Checks which optimizer the reason names, or that it can be resumed (`resume`).
#[track_caller]
fn check_optimizer(want: &str, change: impl FnOnce(&mut Parts)) {
    let directory = tempfile::tempdir().unwrap();
    let mut parts = Parts::of_fixture();
    change(&mut parts);
    let found = match appraise(&parts.write(directory.path()), None) {
        Appraisal::Resume(_) => "resume".to_owned(),
        Appraisal::WeightsOnly(_, reason) | Appraisal::Nothing(reason) => reason.to_string(),
    };
    assert_eq!(found, want);
}

/// Adds an entry to the optimizer's state of its first parameter.
fn keep(parts: &mut Parts, key: &str, value: Value) {
    let Value::Dict(state) = entry(&mut parts.optimizer, "state") else {
        panic!("a dict")
    };
    let Value::Dict(moments) = &mut state[0].1 else {
        panic!("a dict")
    };
    moments.push((key.into(), value));
}

#[test]
fn similar_optimizers_are_distinguished() {
    check_optimizer("resume", |parts| keep(parts, "max_exp_avg_sq", Value::None));
    check_optimizer(
        "the optimizer is NAdam, which keeps `exp_avg`, `exp_avg_sq`, `mu_product`; \
         expected AdamW, which keeps `exp_avg` and `exp_avg_sq`",
        |parts| keep(parts, "mu_product", Tensor::scalar_f32(0.5).into()),
    );
    check_optimizer(
        "the optimizer is of another kind, which keeps `exp_avg`, `exp_avg_diff`, `exp_avg_sq`; \
         expected AdamW, which keeps `exp_avg` and `exp_avg_sq`",
        |parts| keep(parts, "exp_avg_diff", noise(3)),
    );
    check_optimizer(
        "the optimizer is Adamax, which keeps `exp_avg`, `exp_inf`; \
         expected AdamW, which keeps `exp_avg` and `exp_avg_sq`",
        |parts| {
            let Value::Dict(state) = entry(&mut parts.optimizer, "state") else {
                panic!("a dict")
            };
            for (_, moments) in state.iter_mut() {
                let first = entry(moments, "exp_avg").clone();
                *moments = Value::dict([("exp_avg", first.clone()), ("exp_inf", first)]);
            }
        },
    );
    check_optimizer(
        "the optimizer is RAdam, which makes another update of the same moments; expected AdamW",
        |parts| {
            parts.set("decoupled_weight_decay", true.into());
            parts.set("foreach", Value::None);
            for group in parts.groups() {
                group.retain(|(key, _)| !matches!(key.as_str(), Some("amsgrad" | "fused")));
            }
        },
    );
}

#[test]
fn adam_can_be_resumed_as_adamw_unless_it_has_weight_decay() {
    check_optimizer("resume", |parts| {
        parts.set("decoupled_weight_decay", false.into());
        parts.set("weight_decay", Value::Float(0.0));
    });
    check_optimizer(
        "the optimizer is Adam, whose moments have a weight decay of 0.01 in them; expected AdamW",
        |parts| {
            parts.set("decoupled_weight_decay", false.into());
            parts.set("weight_decay", Value::Float(0.01));
        },
    );
}

#[test]
fn weights_alone_can_be_used_as_weights() {
    let directory = tempfile::tempdir().unwrap();
    let copy = copy_of_fixture(directory.path());
    fs::remove_file(copy.join(OPTIMIZER_FILE)).unwrap();
    assert_eq!(good_for(&copy), "weights: missing_file");
    let Acceptance::Accepted(accepted) = accept_for(Need::Weights, &copy, None) else {
        panic!("weights suffice")
    };
    assert_eq!(accepted.step, Some(150));
    let names: Vec<&str> = accepted
        .files
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(names, [MODEL_FILE], "no other file is needed");
    fs::write(copy.join(STATE_FILE), b"damaged").unwrap();
    let again = accept_for(Need::Weights, &copy, Some(&accepted.files));
    assert_eq!(rejection(again), None);
    let loaded = load_weights(&copy).unwrap();
    assert_eq!(loaded.model, load(&fixture()).unwrap().model);
    assert_eq!(loaded.optimizer, Value::None);
    // Every file in the log must match, needed or not.
    let mut named = accepted.files.clone();
    named.push(FileRecord {
        name: STATE_FILE.to_owned(),
        size: 1,
        blake3_hex: "0".repeat(64),
    });
    let reason = rejection(accept_for(Need::Weights, &copy, Some(&named)));
    assert!(
        matches!(reason, Some(RejectReason::SizeMismatch { .. })),
        "{reason:?}"
    );
}

#[track_caller]
fn check_file(name: &str, want: &str, top: impl FnOnce(Value, Value) -> Value) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory
        .path()
        .join("sonic_video_tokenizer_step_149_2025_09_17.pth");
    let parts = Parts::of_fixture();
    let value = top(Value::OrderedDict(parts.model), parts.optimizer);
    fs::write(&file, torch_file::write("archive", &value).unwrap()).unwrap();
    assert_eq!(good_for(&file), want, "{name}");
    // The folder gives the same result.
    assert_eq!(good_for(directory.path()), want, "{name}, by its folder");
    if want.starts_with("nothing") {
        return;
    }
    let loaded = load(&file).unwrap();
    assert_eq!(loaded.model, load(&fixture()).unwrap().model, "{name}");
    let Acceptance::Accepted(accepted) = accept_for(Need::Weights, &file, None) else {
        panic!("{name}: the weights are sound")
    };
    assert_eq!(accepted.step, Some(150), "{name}");
    let again = accept_for(Need::Weights, &file, Some(&accepted.files));
    assert_eq!(rejection(again), None, "{name}: by its hash");
}

#[test]
fn a_model_in_a_single_file_is_read() {
    check_file("as published", "resume", |model, optimizer| {
        Value::dict([("model", model), ("optimizer_state_dict", optimizer)])
    });
    check_file("by TinyWorlds' names", "resume", |model, optimizer| {
        Value::dict([("model_state_dict", model), ("optim_state_dict", optimizer)])
    });
    check_file("a list of one optimizer", "resume", |model, optimizer| {
        let optimizers = Value::List(vec![optimizer]);
        Value::dict([("state_dict", model), ("optimizer_states", optimizers)])
    });
    check_file("a model in a model", "resume", |model, optimizer| {
        let inner = Value::dict([("state_dict", model)]);
        Value::dict([("model", inner), ("optimizer", optimizer)])
    });
    check_file("a plain state dict", "weights: no_optimizer", |model, _| {
        model
    });
    check_file("a wrapped one", "weights: no_optimizer", |model, _| {
        Value::dict([("state_dict", model), ("epoch", Value::Int(3))])
    });
    check_file("a name under `model`", "resume", |model, optimizer| {
        let name = Value::from("vit");
        Value::dict([
            ("model", name.clone()),
            ("state_dict", model),
            ("optimizer", name),
            ("optim", optimizer),
        ])
    });
    check_file("settings under `model`", "resume", |model, optimizer| {
        let settings = Value::dict([("depth", Value::Int(2)), ("mean", noise(3))]);
        Value::dict([("model", settings), ("weights", model), ("opt", optimizer)])
    });
    check_file(
        "only a name for the optimizer",
        "weights: no_optimizer",
        |model, _| Value::dict([("model", model), ("optimizer", "adamw".into())]),
    );
    check_file(
        "an empty model and a tensor",
        "nothing: empty_dict",
        |_, _| Value::dict([("model", Value::Dict(vec![])), ("rng_state", noise(400))]),
    );
    check_file("no model", "nothing: no_model", |_, optimizer| {
        Value::dict([("optimizer", optimizer)])
    });
    check_file("a list", "nothing: not_a_dict", |model, _| {
        Value::List(vec![model])
    });
}

fn noise(count: usize) -> Value {
    let values = vec![0.5; count];
    Tensor::from_f32(vec![count], &values).unwrap().into()
}

#[test]
fn tensors_outside_the_model_are_ignored() {
    for key in ["rng_state", "loss_history", "mean", "data.mean"] {
        check_file(key, "resume", |model, optimizer| {
            let beside = noise(400);
            Value::dict([("model", model), ("optimizer", optimizer), (key, beside)])
        });
        check_file(
            &format!("{key}, further in"),
            "resume",
            |model, optimizer| {
                let inner = Value::dict([(key, noise(400)), ("state_dict", model)]);
                Value::dict([("model", inner), ("optimizer", optimizer)])
            },
        );
    }
}

#[test]
fn a_folder_of_several_files_is_ambiguous() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a.pth", "b.pth"] {
        fs::write(directory.path().join(name), vec![0; 2000]).unwrap();
    }
    let Appraisal::Nothing(reason) = appraise(directory.path(), None) else {
        panic!("which one is meant?")
    };
    let want = "the folder has 2 checkpoint files (`a.pth`, `b.pth`); give one of them";
    assert_eq!(reason.to_string(), want);
}

#[test]
fn files_of_another_kind_are_identified() {
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    let what = "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`";
    let want = RejectReason::OtherFormat {
        name: MODEL_FILE.to_owned(),
        what: what.to_owned(),
    };
    check_replaced("a pointer, though it is small", MODEL_FILE, lfs, Some(want));
}

#[test]
fn without_a_state_the_optimizer_gives_the_number_of_updates() {
    let directory = tempfile::tempdir().unwrap();
    let mut parts = Parts::of_fixture();
    parts.state = Value::dict([("timestamp", Value::None)]);
    let path = parts.write(directory.path());
    let plain = directory.path().join("weights");
    fs::rename(path, &plain).unwrap();
    let Acceptance::Accepted(accepted) = accept(&plain, None) else {
        panic!("it is sound")
    };
    assert_eq!(accepted.step, Some(150));
    let second = directory.path().join("video_tokenizer_step_80_2");
    fs::rename(plain, &second).unwrap();
    let Acceptance::Accepted(accepted) = accept(&second, None) else {
        panic!("it is sound")
    };
    assert_eq!(accepted.step, Some(81), "the second checkpoint at a step");
}
