//! `checkpoint verify`: each refusal by its own reason, what is left then, and nothing
//! executed. `checkpoint show`: what is in a checkpoint.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use support::{Place, run, workspace};
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
fn a_checkpoint_of_tinyworlds_is_accepted_with_its_updates() {
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
    assert_eq!(listing(Path::new(".")), before, "{folder} made a file");
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
fn each_broken_one_is_refused_by_its_reason() {
    check("empty_dicts", "empty_dict: ");
    check("executes", "foreign_code: ");
    check("missing_optimizer", "missing_file: `optim_state_dict.pt`");
    check("non_finite", "non_finite: ");
    check("not_a_checkpoint", "not_an_archive: ");
    check("truncated_zip", "truncated: ");
    let folders = listing(&fixture().join("broken"));
    assert_eq!(folders.len(), 6, "a new one needs a row: {folders:?}");
}

#[test]
fn a_model_file_under_1000_bytes_is_refused() {
    let place = Place::new();
    let small = place.path(NAME);
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
fn a_folder_is_searched_and_one_refusal_is_enough() {
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
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    let done = run(["checkpoint", "verify", &place.arg("empty")]).expect(1);
    assert!(done.stdout.contains("missing_file: "), "{}", done.stdout);
    run(["checkpoint", "verify", &place.arg("none")]).expect_error(2, &["cannot read"]);
}

/// The fixture in one file, as models are published; `change` may spoil a value of it.
fn published(place: &Place, name: &str, change: impl FnOnce(&mut Value, &mut Value)) -> String {
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
    place.write(name, torch_file::write("archive", &top).unwrap())
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

/// The moments of the first parameter, without its count of updates.
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
fn it_says_for_what_each_is_good() {
    let place = Place::new();
    let sound = published(&place, "video_tokenizer_step_149_2025.pth", |_, _| {});
    let done = run(["checkpoint", "verify", &sound]).expect(0);
    let want = format!("accepted  {sound}  resume: foreign, 150 updates, 61 tensors");
    assert!(done.stdout.starts_with(&want), "{}", done.stdout);

    let moments = published(&place, "moments.pth", |_, optimizer| {
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

    let weights = published(&place, "weights.pth", |model, _| spoil(model));
    let done = run(["checkpoint", "verify", "--weights", &weights]).expect(1);
    let want = format!("refused   {weights}  nothing: non_finite: weight `");
    assert!(done.stdout.starts_with(&want), "{}", done.stdout);

    // A folder of files is looked through.
    let done = run(["checkpoint", "verify", "--json", &place.arg("")]).expect(1);
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
fn show_prints_what_is_in_a_checkpoint() {
    let place = Place::new();
    let path = published(&place, "video_tokenizer_step_149_2025.pth", |_, _| {});
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

    // What is spoilt is shown all the same, and what cannot be read is an error.
    let spoilt = published(&place, "spoilt.pth", |model, _| spoil(model));
    let text = run(["checkpoint", "show", &spoilt]).expect(0).stdout;
    assert!(text.contains("good for    nothing; non_finite: "), "{text}");
    let none = place.write("none.pth", vec![0; 2000]);
    run(["checkpoint", "show", &none])
        .expect_error(2, &["does not begin like a `torch.save` archive"]);
    run(["checkpoint", "show", &place.arg("gone")]).expect_error(2, &["cannot read"]);
}
