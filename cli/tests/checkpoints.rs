//! `checkpoint verify` reports the reason of each refusal and what a checkpoint can still be
//! used for, and executes nothing. `checkpoint show` prints what a checkpoint contains.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use support::{Sandbox, run, workspace};
use tinygate::checkpoint::torch_file::{self, Tensor, Value};

const NAME: &str = "video_tokenizer_step_149";

fn fixture() -> PathBuf {
    workspace().join("tests/fixtures/tinyworlds_checkpoint")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_tinyworlds_checkpoint_is_accepted_with_its_updates() {
    let path = fixture().join(NAME);
    let done = run(["checkpoint".as_ref(), "verify".as_ref(), path.as_os_str()]).expect(0);
    assert!(done.stdout.starts_with("accepted"), "{}", done.stdout);
    assert!(
        done.stdout.contains("foreign, 150 updates"),
        "{}",
        done.stdout
    );
}

#[track_caller]
fn check(folder: &str, code: &str) {
    let path = fixture().join("broken").join(folder).join(NAME);
    let before = listing(Path::new("."));
    let done = run(["checkpoint".as_ref(), "verify".as_ref(), path.as_os_str()]).expect(1);
    assert!(
        done.stdout.starts_with("refused"),
        "{folder}: {}",
        done.stdout
    );
    assert!(done.stdout.contains(code), "{folder}: {}", done.stdout);
    assert_eq!(
        listing(Path::new(".")),
        before,
        "{folder}: a file was created"
    );
}

fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.sort();
    names
}

#[test]
fn each_broken_checkpoint_is_refused_with_its_reason() {
    check("empty_dicts", "empty_dict: ");
    check("executes", "foreign_code: ");
    check("missing_optimizer", "missing_file: `optim_state_dict.pt`");
    check("non_finite", "non_finite: ");
    check("not_a_checkpoint", "not_an_archive: ");
    check("truncated_zip", "truncated: ");
    let folders = listing(&fixture().join("broken"));
    assert_eq!(folders.len(), 6, "check each folder above: {folders:?}");
}

#[test]
fn a_model_file_under_1000_bytes_is_refused() {
    let sandbox = Sandbox::new();
    let small = sandbox.path(NAME);
    copy(&fixture().join(NAME), &small);
    fs::write(small.join("model_state_dict.pt"), vec![0; 999]).unwrap();
    let done = run(["checkpoint".as_ref(), "verify".as_ref(), small.as_os_str()]).expect(1);
    assert!(
        done.stdout
            .contains("too_small: `model_state_dict.pt` has 999 bytes"),
        "{}",
        done.stdout
    );
}

#[test]
fn a_folder_is_searched_and_one_refusal_fails_the_command() {
    let done = run([
        "checkpoint".as_ref(),
        "verify".as_ref(),
        fixture().as_os_str(),
    ])
    .expect(1);
    let verdicts = |word: &str| {
        done.stdout
            .lines()
            .filter(|line| line.starts_with(word))
            .count()
    };
    assert_eq!(
        (verdicts("accepted"), verdicts("refused")),
        (1, 6),
        "{}",
        done.stdout
    );
}

#[test]
fn an_empty_folder_is_a_checkpoint_without_files() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("empty")).unwrap();
    let done = run(["checkpoint", "verify", &sandbox.arg("empty")]).expect(1);
    assert!(done.stdout.contains("missing_file: "), "{}", done.stdout);
    run(["checkpoint", "verify", &sandbox.arg("none")]).expect_error(2, &["cannot read"]);
}

/// Writes the fixture as one file, as models are published, after `change` has edited its values.
fn published(sandbox: &Sandbox, name: &str, change: impl FnOnce(&mut Value, &mut Value)) -> String {
    let read = |file: &str| {
        let bytes = fs::read(fixture().join(NAME).join(file)).unwrap();
        torch_file::read(&bytes).unwrap().value
    };
    let (mut model, mut optimizer) = (read("model_state_dict.pt"), read("optim_state_dict.pt"));
    change(&mut model, &mut optimizer);
    let config = Value::dict([("num_heads", Value::Int(4)), ("lr", Value::Float(1e-3))]);
    let top = Value::dict([
        ("model", model),
        ("optimizer_state_dict", optimizer),
        ("config", config),
    ]);
    sandbox.write(name, torch_file::write("archive", &top).unwrap())
}

/// Puts a NaN into the first tensor below a value.
fn spoil(value: &mut Value) {
    match value {
        Value::Dict(entries) | Value::OrderedDict(entries) => spoil(&mut entries[0].1),
        Value::Tensor(tensor) => {
            let mut values = tensor.to_f32().unwrap();
            values[0] = f32::NAN;
            *tensor = Tensor::from_f32(tensor.shape().to_vec(), &values).unwrap();
        }
        other => panic!("no tensor in {other:?}"),
    }
}

/// Puts a NaN into the first moment of the first parameter. Its count of updates stays.
fn spoil_moments(optimizer: &mut Value) {
    let (Value::Dict(top) | Value::OrderedDict(top)) = optimizer else {
        panic!("a dict")
    };
    let (Value::Dict(state) | Value::OrderedDict(state)) = &mut top[0].1 else {
        panic!("a dict")
    };
    let (Value::Dict(moments) | Value::OrderedDict(moments)) = &mut state[0].1 else {
        panic!("a dict")
    };
    spoil(&mut moments[1].1);
}

#[test]
fn verify_reports_what_each_checkpoint_can_be_used_for() {
    let sandbox = Sandbox::new();
    let sound = published(&sandbox, "video_tokenizer_step_149_2025.pth", |_, _| {});
    let done = run(["checkpoint", "verify", &sound]).expect(0);
    let want = format!("accepted  {sound}  resume: foreign, 150 updates, 61 tensors");
    assert!(done.stdout.starts_with(&want), "{}", done.stdout);

    let moments = published(&sandbox, "moments.pth", |_, optimizer| {
        spoil_moments(optimizer)
    });
    let done = run(["checkpoint", "verify", &moments]).expect(1);
    let want = format!("refused   {moments}  weights only: foreign");
    assert!(done.stdout.starts_with(&want), "{}", done.stdout);
    assert!(
        done.stdout.contains("no resume: bad_moment: "),
        "{}",
        done.stdout
    );
    let hint = "hint: `run --init-from` takes its weights with `--fresh-optimizer`";
    assert!(done.stdout.contains(hint), "{}", done.stdout);
    run(["checkpoint", "verify", "--weights", &moments]).expect(0);

    let weights = published(&sandbox, "weights.pth", |model, _| spoil(model));
    let done = run(["checkpoint", "verify", "--weights", &weights]).expect(1);
    let want = format!("refused   {weights}  nothing: non_finite: weight `");
    assert!(done.stdout.starts_with(&want), "{}", done.stdout);

    // All files of a folder are verified.
    let done = run(["checkpoint", "verify", "--json", &sandbox.arg("")]).expect(1);
    let lines = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap());
    let found: Vec<(String, String)> = lines
        .map(|line| {
            let code = line["reason"]["code"].as_str().unwrap_or("none");
            (
                line["good_for"].as_str().unwrap().to_owned(),
                code.to_owned(),
            )
        })
        .collect();
    let want = [
        ("weights_only", "bad_moment"),
        ("resume", "none"),
        ("nothing", "non_finite"),
    ];
    assert_eq!(
        found,
        want.map(|(good, code)| (good.to_owned(), code.to_owned()))
    );
}

#[test]
fn show_prints_what_a_checkpoint_contains() {
    let sandbox = Sandbox::new();
    let path = published(&sandbox, "video_tokenizer_step_149_2025.pth", |_, _| {});
    let text = run(["checkpoint", "show", &path]).expect(0).stdout;
    for line in [
        "good for    resume\n",
        "updates     150\n",
        "parameters  15,245 in 61 tensors, 59.6 KiB\n",
        "optimizer   AdamW\n",
        "  num_heads = 4\n",
        "  lr = 0.001\n",
        "quantizer.basis ",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
    let done = run(["checkpoint", "show", "--json", &path]).expect(0);
    let json: Json = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(json["config"]["num_heads"], 4);
    let tensor = &json["tensors"][0];
    assert_eq!(tensor["name"], "encoder.patch_embed.proj.weight");
    assert_eq!(tensor["dtype"], "float32");
    assert_eq!(tensor["shape"], serde_json::json!([16, 192, 1, 1]));

    // An unusable checkpoint is shown too. Only one that cannot be read is an error.
    let spoilt = published(&sandbox, "spoilt.pth", |model, _| spoil(model));
    let text = run(["checkpoint", "show", &spoilt]).expect(0).stdout;
    assert!(text.contains("good for    nothing; non_finite: "), "{text}");
    let none = sandbox.write("none.pth", vec![0; 2000]);
    run(["checkpoint", "show", &none])
        .expect_error(2, &["does not begin like a `torch.save` archive"]);
    run(["checkpoint", "show", &sandbox.arg("gone")]).expect_error(2, &["cannot read"]);
}
