//! The errors of invalid configs.

use std::path::Path;

use tinygate::advice::{Advice, Hint};
use tinygate::config::{Config, ConfigError, Override, Problem};
use tinygate_testing::hints;

const DATA: &str = "data.path = \"frames.h5\"\n";

fn problems(text: &str, sets: &[&str]) -> String {
    let overrides: Result<Vec<Override>, ConfigError> = sets
        .iter()
        .map(|set| Override::parse("--set", set))
        .collect();
    let loaded = overrides
        .and_then(|overrides| Config::parse(text, "run.toml", Path::new("/configs"), &overrides));
    match loaded {
        Ok(_) => "no problem".to_owned(),
        Err(error) => error.list(with_hints),
    }
}

fn with_hints(problem: &Problem) -> String {
    format!("{problem}\n  hint: {}", hints::joined(&problem.fault))
}

/// Checks a text after the line that sets the data, so it starts at line 2.
#[track_caller]
fn check(name: &str, text: &str, want: &str) {
    check_text(name, &problems(&format!("{DATA}{text}"), &[]), want);
}

/// Checks `--set` with a valid config.
#[track_caller]
fn check_set(name: &str, set: &str, want: &str) {
    check_text(name, &problems(DATA, &[set]), want);
}

/// If `want` has no hint, there must still be one.
#[track_caller]
fn check_text(name: &str, found: &str, want: &str) {
    if want == "no problem" || want.contains("hint: ") {
        assert_eq!(found, want, "{name}");
        return;
    }
    let (what, hint) = found.rsplit_once("\n  hint: ").unwrap_or((found, ""));
    assert_eq!(what, want, "{name}");
    assert!(!hint.is_empty(), "{name}: no hint in {found}");
}

#[test]
fn unknown_keys() {
    check("a valid config", "", "no problem");
    check(
        "a letter left out",
        "[video_tokenizer]\nlearning_rte = 1e-3",
        "run.toml:3: unknown key `video_tokenizer.learning_rte`\n  hint: did you mean `video_tokenizer.learning_rate`?",
    );
    check(
        "at the top",
        "sed = 3",
        "run.toml:2: unknown key `sed`\n  hint: did you mean `seed`?",
    );
    check(
        "a table misspelt",
        "[video_tokeniser]\nn_updates = 3",
        "run.toml:2: unknown key `video_tokeniser`\n  hint: did you mean `video_tokenizer`?",
    );
    check(
        "a key of a stage at the top",
        "learning_rate = 3",
        "run.toml:2: unknown key `learning_rate`\n  hint: did you mean `video_tokenizer.learning_rate`?",
    );
    check(
        "a shared key in a stage",
        "[dynamics]\npatch_size = 8",
        "run.toml:3: unknown key `dynamics.patch_size`\n  hint: did you mean `patch_size`?",
    );
    check(
        "a key of TinyWorlds",
        "amp = false",
        "run.toml:2: unknown key `amp`\n  hint: remove it: tinygate trains in f32 only",
    );
    check(
        "a stage that is not listed",
        "stages = [\"video_tokenizer\"]\n[dynamics]\nn_updates = 3",
        "run.toml:3: unknown key `dynamics`\n  hint: add `dynamics` to `stages`",
    );
    check(
        "an unknown stage",
        "[finale]\nn_updates = 3",
        "run.toml:2: unknown key `finale`\n  hint: to define a stage `finale`, add it to `stages`",
    );
    check(
        "nothing like it",
        "zzzzzz = 1",
        "run.toml:2: unknown key `zzzzzz`",
    );
    check(
        "the placeholder of the documentation",
        "[STAGE]\nn_updates = 100",
        "run.toml:2: unknown key `STAGE`\n  hint: did you mean `stages`?",
    );
    check(
        "a quoted dot does not make a path",
        "\"policy.keep_last\" = 3",
        "run.toml:2: unknown key `\"policy.keep_last\"`",
    );
    check(
        "a criterion's limit misspelt",
        "[latent_actions.gate]\naction_entropie = 0.3",
        "run.toml:3: unknown key `latent_actions.gate.action_entropie`\n  hint: did you mean `latent_actions.gate.action_entropy`?",
    );
}

#[test]
fn wrong_types() {
    check(
        "a string for a count",
        "seed = \"one\"",
        "run.toml:2: `seed` is the string \"one\", expected an integer, 0 to 9223372036854775807",
    );
    check(
        "a whole number written as a fraction",
        "[dynamics]\nn_updates = 1e3",
        "run.toml:3: `dynamics.n_updates` is the number 1000.0, expected an integer, 1 to 1000000000\n  hint: write `1000`",
    );
    check(
        "a number for a flag",
        "allow_single_gpu_fallback = 1",
        "run.toml:2: `allow_single_gpu_fallback` is the integer 1, expected true or false",
    );
    check(
        "a table for a number",
        "[dynamics.learning_rate]\nbase = 1",
        "run.toml:2: `dynamics.learning_rate` is a table, expected a number, above 0 to 10",
    );
    check(
        "a number for a table",
        "dynamics = 3",
        "run.toml:2: `dynamics` is the integer 3, expected a table",
    );
    check(
        "a date",
        "threads = 2026-01-01",
        "run.toml:2: `threads` is the date 2026-01-01, expected \"auto\" or an integer, 1 to 1024",
    );
    check(
        "a list of numbers for paths",
        "stages = [1]",
        "run.toml:2: `stages` is a list with the integer 1, expected a list of stage names",
    );
    check(
        "a word instead of a limit",
        "[video_tokenizer.gate]\nloss_latest = \"low\"",
        "run.toml:3: `video_tokenizer.gate.loss_latest` is the string \"low\", expected a number, 0 to 1000000000, or [[step, limit], ...]",
    );
}

#[test]
fn out_of_range() {
    check(
        "a negative seed",
        "seed = -1",
        "run.toml:2: `seed` is -1, outside 0 to 9223372036854775807",
    );
    check(
        "a seed past 63 bits",
        "seed = 9223372036854775808",
        "run.toml:2: `seed` is 9223372036854775808, outside 0 to 9223372036854775807",
    );
    check(
        "no updates",
        "[dynamics]\nn_updates = 0",
        "run.toml:3: `dynamics.n_updates` is 0, outside 1 to 1000000000 updates",
    );
    check(
        "a rate of zero",
        "[dynamics]\nlearning_rate = 0.0",
        "run.toml:3: `dynamics.learning_rate` is 0.0, outside above 0 to 10",
    );
    check(
        "a rate that is not a number",
        "[dynamics]\nlearning_rate = nan",
        "run.toml:3: `dynamics.learning_rate` is NaN, outside above 0 to 10",
    );
    check(
        "a float past the largest",
        "[dynamics]\nlearning_rate = 1e999",
        "run.toml:3: `dynamics.learning_rate` is the number 1e999, expected a number, above 0 to 10",
    );
    check(
        "more than the whole codebook",
        "[video_tokenizer.gate]\ncodebook_usage = 1.5",
        "run.toml:3: `video_tokenizer.gate.codebook_usage` is 1.5, outside 0 to 1 of the codebook",
    );
    check(
        "a stride of zero",
        "data.frame_stride = 0",
        "run.toml:2: `data.frame_stride` is 0, outside 1 to 1000 frames",
    );
}

#[test]
fn choices_and_names() {
    check(
        "a preset misspelt",
        "preset = \"strikt\"",
        "run.toml:2: `preset` is `strikt`, expected one of `seed`, `strict`\n  hint: did you mean `strict`?",
    );
    check(
        "another device",
        "device = \"mps\"",
        "run.toml:2: `device` is `mps`, expected one of `auto`, `cpu`, `cuda`, `cuda:0`",
    );
    check(
        "an invalid device number",
        "device = \"cuda:x\"",
        "run.toml:2: `device` is `cuda:x`, expected one of `auto`, `cpu`, `cuda`, `cuda:0`\n  hint: did you mean `cuda:0`?",
    );
    check(
        "a criterion misspelt",
        "[dynamics.gate]\ncriteria = [\"loss_dleta\"]",
        "run.toml:3: `dynamics.gate.criteria` is `loss_dleta`, expected one of `checkpoint_valid`, `loss_finite`, `loss_trend`, \
         `loss_latest`, `unique_actions`, `action_entropy`, `codebook_usage`, `loss_not_rising`, `loss_delta`, `visual_structure`, \
         `skill`, `skill_moving`, `metrics_fresh`\n  hint: did you mean `loss_delta`?",
    );
    check(
        "a stage twice",
        "stages = [\"video_tokenizer\", \"video_tokenizer\"]",
        "run.toml:2: `stages` lists `video_tokenizer` twice",
    );
    check(
        "no stage",
        "stages = []",
        "run.toml:2: `stages` is an empty list, outside 1 to 1000 entries",
    );
    check(
        "a stage named like a key",
        "stages = [\"policy\"]",
        "run.toml:2: `stages`: `policy` is not a valid stage name: a config key has this name",
    );
    check(
        "a stage that would leave its folder",
        "stages = [\"../up\"]",
        "run.toml:2: `stages`: `../up` is not a valid stage name: it must start with a letter a-z and contain only a-z, 0-9 and `_`",
    );
    check(
        "an invalid name is reported only once",
        "stages = [\"Fine\", \"video_tokenizer\"]\n[Fine]\nmodel = \"dynamics\"",
        "run.toml:2: `stages`: `Fine` is not a valid stage name: it must start with a letter a-z and contain only a-z, 0-9 and `_`",
    );
    check(
        "a stage of an unknown model",
        "stages = [\"warm_up\"]",
        "run.toml:2: `warm_up.model` is missing: a stage not named after a model needs the `model` that it trains, or a `loss` if it is a custom stage",
    );
    check(
        "dynamics before what it is trained on",
        "stages = [\"video_tokenizer\", \"dynamics\", \"latent_actions\"]",
        "run.toml:2: stage `dynamics` trains dynamics, which needs a latent_actions stage before it in `stages`",
    );
}

#[test]
fn data_paths() {
    let missing = "`data.path` is missing: frames: HDF5 or .npz files, or folders of PNGs, relative to this file";
    check_text("none", &problems("", &[]), &format!("run.toml: {missing}"));
    check_text(
        "an empty list",
        &problems("data.path = []", &[]),
        "run.toml:1: `data.path` is an empty list, outside 1 to 1000 entries",
    );
    check_text(
        "an empty path",
        &problems("data.path = \"\"", &[]),
        "run.toml:1: `data.path` is an empty path, expected a path or a list of paths",
    );
    check_text(
        "a path with a NUL character",
        &problems("data.path = [\"a.h5\", \"\\u0000\"]", &[]),
        "run.toml:1: `data.path` is a path with a NUL character, expected a path or a list of paths",
    );
    check_text(
        "a path twice",
        &problems("data.path = [\"a.h5\", \"a.h5\"]", &[]),
        "run.toml:1: `data.path` lists `a.h5` twice",
    );
    check_text(
        "a number",
        &problems("data.path = 3", &[]),
        "run.toml:1: `data.path` is the integer 3, expected a path or a list of paths",
    );
    check_text(
        "a number for the table",
        &problems("data = 3", &[]),
        "run.toml:1: `data` is the integer 3, expected a table",
    );
}

#[test]
fn values_that_contradict_each_other() {
    check(
        "heads that do not divide the width",
        "[video_tokenizer]\nembed_dim = 30\nnum_heads = 8",
        "run.toml:3: `video_tokenizer.embed_dim` = 30 is not divisible by `video_tokenizer.num_heads` = 8",
    );
    check(
        "a default width that the heads do not divide",
        "[dynamics]\nnum_heads = 5",
        "run.toml:3: `dynamics.embed_dim` = 32 is not divisible by `dynamics.num_heads` = 5",
    );
    check(
        "patches that do not tile a frame",
        "patch_size = 7",
        "run.toml:2: `frame_size` = 64 is not divisible by `patch_size` = 7",
    );
    check(
        "an odd width",
        "[dynamics]\nembed_dim = 33\nnum_heads = 3",
        "run.toml:3: `dynamics.embed_dim` = 33 is odd, but position encodings need pairs of sine and cosine",
    );
    check(
        "a number of actions that is not a power of two",
        "n_actions = 6",
        "run.toml:2: `n_actions` = 6 is not a power of two\n  hint: use 4 or 8",
    );
    check(
        "the largest codebook",
        "num_bins = 2\nlatent_dim = 20",
        "no problem",
    );
    check(
        "a codebook that is too large",
        "num_bins = 2\nlatent_dim = 21",
        "run.toml:2: `num_bins` ^ `latent_dim` = 2 ^ 21 is more than 1048576 codes, the largest codebook",
    );
    check(
        "a codebook whose size overflows",
        "num_bins = 1024\nlatent_dim = 32",
        "run.toml:2: `num_bins` ^ `latent_dim` = 1024 ^ 32 is more than 1048576 codes, the largest codebook",
    );
    check(
        "a sample at each chunk's end",
        "[dynamics]\nchunk_size = 100\nlog_interval = 100",
        "no problem",
    );
    check(
        "an interval longer than a chunk",
        "[dynamics]\nchunk_size = 100\nlog_interval = 101",
        "run.toml:4: `dynamics.log_interval` = 101 is more than `dynamics.chunk_size` = 100, so a chunk could end without one",
    );
    check(
        "no checkpoint within a chunk",
        "[dynamics]\nchunk_size = 100\ncheckpoint_interval = 200",
        "run.toml:4: `dynamics.checkpoint_interval` = 200 is more than `dynamics.chunk_size` = 100, so a chunk could end without one",
    );
    check(
        "two windows",
        "[latent_actions]\nbatch_size_per_gpu = 2",
        "no problem",
    );
    check(
        "one window has no variance",
        "[latent_actions]\nbatch_size_per_gpu = 1",
        "run.toml:3: `latent_actions.batch_size_per_gpu` = 1 is less than 2 windows: the variance penalty compares the windows of a batch",
    );
    check(
        "a rate below its bound",
        "[dynamics]\nlearning_rate = 1e-7",
        "run.toml:3: `dynamics.bounds.learning_rate_min` = 0.000001 is more than `dynamics.learning_rate` = 0.0000001",
    );
    check(
        "accumulation above its bound",
        "[dynamics]\ngradient_accumulation_steps = 65",
        "run.toml:3: `dynamics.gradient_accumulation_steps` = 65 is more than `dynamics.bounds.accumulation_max` = 64",
    );
    check(
        "accumulation below its bound",
        "[dynamics.bounds]\naccumulation_min = 2",
        "run.toml:3: `dynamics.bounds.accumulation_min` = 2 is more than `dynamics.gradient_accumulation_steps` = 1",
    );
}

#[test]
fn chunks_too_short_for_the_window_criteria() {
    check(
        "ten samples",
        "[dynamics]\nchunk_size = 10\nn_updates = 100",
        "no problem",
    );
    check(
        "nine samples",
        "[dynamics]\nchunk_size = 9\nn_updates = 90",
        "run.toml:3: the first chunk of `dynamics` has 9 updates, but `loss_not_rising` needs 10 loss samples\n  \
         hint: raise `dynamics.chunk_size`, or make it a divisor of `dynamics.n_updates`",
    );
    check(
        "a target of nine",
        "[dynamics]\nn_updates = 9",
        "run.toml:3: the first chunk of `dynamics` has 9 updates, but `loss_not_rising` needs 10 loss samples\n  \
         hint: raise `dynamics.chunk_size`, or make it a divisor of `dynamics.n_updates`",
    );
    check(
        "a remainder of five",
        "[dynamics]\nchunk_size = 100\nn_updates = 305",
        "run.toml:3: the last chunk of `dynamics` has 5 updates, but `loss_not_rising` needs 10 loss samples\n  \
         hint: raise `dynamics.chunk_size`, or make it a divisor of `dynamics.n_updates`",
    );
    check(
        "a stage without window criteria",
        "[video_tokenizer]\nchunk_size = 2\nn_updates = 5",
        "no problem",
    );
}

#[test]
fn gates() {
    check(
        "a pass without a checkpoint",
        "[video_tokenizer.gate]\ncriteria = [\"loss_finite\", \"metrics_fresh\"]",
        "run.toml:3: `video_tokenizer.gate.criteria` leaves out `checkpoint_valid`: the next stage starts with the checkpoint of the passing gate",
    );
    check(
        "actions in a stage that has none",
        "[video_tokenizer.gate]\nunique_actions = 2",
        "run.toml:3: `video_tokenizer.gate.unique_actions` asks for `unique_actions`, which a video_tokenizer stage does not measure",
    );
    check(
        "a limit that the user must set",
        "[dynamics.gate]\ncriteria = [\"checkpoint_valid\", \"loss_finite\", \"loss_latest\", \"metrics_fresh\"]",
        "run.toml:3: criterion `loss_latest` needs a limit, but `dynamics.gate.loss_latest` is not set",
    );
    check(
        "a limit whose criterion is not in the list",
        "[latent_actions.gate]\ncriteria = [\"checkpoint_valid\", \"loss_finite\", \"metrics_fresh\"]\nmin_skill = 0.0",
        "run.toml:4: `latent_actions.gate.min_skill` has no effect: `skill` is not in `latent_actions.gate.criteria`\n  \
         hint: add \"skill\" to `latent_actions.gate.criteria`",
    );
    check(
        "a tolerance that nothing reads",
        "[video_tokenizer.gate]\ntolerance = 0.1",
        "run.toml:3: `video_tokenizer.gate.tolerance` has no effect: `loss_not_rising`, `loss_delta` are not in `video_tokenizer.gate.criteria`\n  \
         hint: add \"loss_not_rising\" to `video_tokenizer.gate.criteria`",
    );
    check(
        "when to apply a criterion that is not in the list",
        "[video_tokenizer.gate.applies]\nskill = \"at_target\"",
        "run.toml:3: `video_tokenizer.gate.applies.skill` has no effect: `skill` is not in `video_tokenizer.gate.criteria`\n  \
         hint: add \"skill\" to `video_tokenizer.gate.criteria`",
    );
    check(
        "more actions than there are",
        "[latent_actions.gate]\nunique_actions = 5",
        "run.toml:3: `latent_actions.gate.unique_actions`: 5 can never be reached: there are 4 actions",
    );
    check(
        "more entropy than two actions have",
        "n_actions = 2\n[latent_actions.gate]\naction_entropy = [[100, 0.1], [200, 0.7]]",
        "run.toml:4: `latent_actions.gate.action_entropy`: 0.7 can never be reached: the entropy of 2 actions is at most 0.693 nats",
    );
    check(
        "a smallest flatness above the largest",
        "[dynamics.gate]\nflatness_min = 6",
        "run.toml:3: `dynamics.gate.flatness_min` = 6 is more than `dynamics.gate.flatness_max` = 5",
    );
}

#[test]
fn schedules_of_limits() {
    let schedule = |rows: &str| format!("[video_tokenizer.gate]\nloss_latest = {rows}");
    let want = |why: &str| {
        format!(
            "run.toml:3: `video_tokenizer.gate.loss_latest`: expected [[step, limit], ...] with increasing steps, but {why}"
        )
    };
    check(
        "two rows",
        &schedule("[[5000, 0.05], [40000, 0.01]]"),
        "no problem",
    );
    check("a whole limit", &schedule("[[5000, 1]]"), "no problem");
    check(
        "no row",
        &schedule("[]"),
        &want("it has 0 entries, outside 1 to 1000"),
    );
    check(
        "falling steps",
        &schedule("[[5000, 0.05], [4000, 0.01]]"),
        &want("step 4000 does not increase"),
    );
    check(
        "equal steps",
        &schedule("[[5000, 0.05], [5000, 0.01]]"),
        &want("step 5000 does not increase"),
    );
    check(
        "a step before the first",
        &schedule("[[-1, 0.05]]"),
        &want("step -1 does not increase"),
    );
    check(
        "a row of one",
        &schedule("[[5000]]"),
        &want("entry 1 is a list of 1, not a step and a limit"),
    );
    check(
        "numbers without steps",
        &schedule("[0.05, 0.01]"),
        &want("entry 1 is the number 0.05, not a step and a limit"),
    );
    check(
        "a limit out of range",
        &schedule("[[5000, -0.05]]"),
        "run.toml:3: `video_tokenizer.gate.loss_latest` is -0.05, outside 0 to 1000000000 loss",
    );
}

#[test]
fn rungs() {
    let hint = "  hint: a rung is `learning_rate *= X`, `gradient_accumulation_steps += N` or `-= N`, \
                `log_interval /= X`, `chunk_size /= X`, `extend_target` or `defer_fewer_actions`";
    let ladder = |rung: &str| format!("[dynamics]\nladder = [\"{rung}\"]");
    check("no rung at all", "[dynamics]\nladder = []", "no problem");
    check(
        "a rate that rises",
        &ladder("learning_rate *= 2"),
        &format!(
            "run.toml:3: `dynamics.ladder`: rung `learning_rate *= 2`: its factor is 2.0, but must be between 0 and 1\n{hint}"
        ),
    );
    check(
        "actions of a stage that has none",
        &ladder("defer_fewer_actions"),
        &format!(
            "run.toml:3: `dynamics.ladder`: rung `defer_fewer_actions`: only a latent_actions stage has actions\n{hint}"
        ),
    );
}

#[test]
fn all_problems_at_once() {
    check(
        "three in the order of their lines",
        "sed = 1\n[dynamics]\nn_updates = \"many\"\nembed_dim = 30",
        "3 problems in the config\n\
         run.toml:2: unknown key `sed`\n  hint: did you mean `seed`?\n\
         run.toml:4: `dynamics.n_updates` is the string \"many\", expected an integer, 1 to 1000000000\n  \
         hint: ListKeys\n\
         run.toml:5: `dynamics.embed_dim` = 30 is not divisible by `dynamics.num_heads` = 8\n  \
         hint: set `dynamics.num_heads` to a divisor of `dynamics.embed_dim`, or `dynamics.embed_dim` to a multiple of \
         `dynamics.num_heads`",
    );
    check(
        "missing keys are reported only once",
        "stages = [\"own\"]\n[own]\nloss = \"cross_entropy\"",
        "3 problems in the config\n\
         run.toml:2: `own.n_updates` is missing: the target, in updates\n  \
         hint: add `own.n_updates = ...`; ListKeys\n\
         run.toml:2: `own.learning_rate` is missing: the base learning rate\n  \
         hint: add `own.learning_rate = ...`; ListKeys\n\
         run.toml:2: `own.batch_size_per_gpu` is missing: windows per micro-batch and rank\n  \
         hint: add `own.batch_size_per_gpu = ...`; ListKeys",
    );
    check(
        "a rejected value is reported only once",
        "patch_size = 0\nframe_size = 65",
        "run.toml:2: `patch_size` is 0, outside 1 to 256 pixels",
    );
}

#[test]
fn text_that_is_not_toml() {
    let broken = problems("a = [1,\nb = 2\n", &[]);
    assert!(
        broken.contains("run.toml:") && broken.contains("not TOML: "),
        "{broken}"
    );
    let twice = problems("seed = 1\nseed = 2\n", &[]);
    check_text("a key twice", &twice, "run.toml:2: not TOML: duplicate key");
    let deep = format!("{} = 1", vec!["a"; 100_000].join("."));
    check_text(
        "a deep key",
        &problems(&deep, &[]),
        "run.toml:1: not TOML: a key has more than 500 parts",
    );
    let nested = format!("a = {}", "[".repeat(100_000));
    assert!(problems(&nested, &[]).contains("not TOML"));
}

#[test]
fn reading_stops_after_many_problems() {
    let text: String = (0..20_000).map(|n| format!("word_{n} = {n}\n")).collect();
    let found = problems(&text, &[]);
    // The missing data path is a problem too.
    assert!(
        found.starts_with("1001 problems in the config\n"),
        "{}",
        &found[..200]
    );
    assert!(
        found.ends_with("\nand 951 more"),
        "{}",
        &found[found.len() - 200..]
    );
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let load = |name: &str| Config::load(&folder.path().join(name), &[]).unwrap_err();
    let start = |name: &str| {
        format!(
            "cannot read the config `{}`: ",
            folder.path().join(name).display()
        )
    };
    let missing = load("no.toml");
    let path = Hint::text("check the path");
    assert_eq!(missing.hints(), [path, Hint::ExampleConfig]);
    let missing = missing.to_string();
    assert!(missing.starts_with(&start("no.toml")), "{missing}");
    std::fs::write(folder.path().join("bytes.toml"), [0xff, 0xfe]).unwrap();
    let bytes = load("bytes.toml");
    assert!(hints::joined(&bytes).contains("`iconv -f UTF-16 -t UTF-8`"));
    let bytes = bytes.to_string();
    let place = folder.path().join("bytes.toml");
    let place = format!("{}:1:1: the config is not UTF-8 text", place.display());
    assert!(bytes.starts_with(&place), "{bytes}");
    std::fs::write(folder.path().join("large.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    let large = load("large.toml");
    assert_eq!(
        large.to_string(),
        start("large.toml") + "it is larger than 1.0 MiB"
    );
    assert!(!large.hints().is_empty());
}

#[test]
fn overrides() {
    check_set("a valid one", "dynamics.learning_rate=1e-3", "no problem");
    check_set("a bare word", "device=cuda:1", "no problem");
    check_set("a list", "data.path=[\"a.h5\", \"b.h5\"]", "no problem");
    check_set(
        "an equals sign in the value",
        "data.path=a=b.h5",
        "no problem",
    );
    check_set(
        "a misspelt key",
        "dynamics.learning_rat=1",
        "--set dynamics.learning_rat=1: unknown key `dynamics.learning_rat`\n  hint: did you mean `dynamics.learning_rate`?",
    );
    check_set(
        "a word instead of a number",
        "seed=three",
        "--set seed=three: `seed` is the string \"three\", expected an integer, 0 to 9223372036854775807",
    );
    check_set(
        "a value that contradicts one in the file",
        "patch_size=7",
        "--set patch_size=7: `frame_size` = 64 is not divisible by `patch_size` = 7",
    );
    check_set(
        "a key inside a number",
        "seed.x=3",
        "--set seed.x=3: `seed` is a table, expected an integer, 0 to 9223372036854775807",
    );
    check_set(
        "no equals sign",
        "seed",
        "--set seed: `seed` is not `key=value`: there is no `=`",
    );
    check_set(
        "no key",
        "=3",
        "--set =3: `=3` is not `key=value`: the key is not a dotted name",
    );
    check_set(
        "an empty part of a key",
        "a..b=3",
        "--set a..b=3: `a..b=3` is not `key=value`: the key is not a dotted name",
    );
    check_set(
        "no value",
        "seed=",
        "--set seed=: `seed=` is not `key=value`: the value is empty",
    );
    check_set(
        "a list without an end",
        "data.path=[1",
        "--set data.path=[1: `data.path=[1` is not `key=value`: the value is not valid TOML",
    );
}

/// SplitMix64 (Steele, Lea and Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn a_damaged_config_is_accepted_or_rejected_without_a_panic() {
    let whole = tinygate::config::init(tinygate::presets::Preset::Strict);
    let mut state = 7;
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..500 {
        let mut text: Vec<char> = whole.chars().collect();
        for _ in 0..1 + next(&mut state) % 4 {
            let at = next(&mut state) as usize % text.len();
            let other = ['\n', '"', '[', ']', '=', '.', '-', '9', 'e', 'é', '#'];
            text[at] = other[next(&mut state) as usize % other.len()];
        }
        let text: String = text.into_iter().collect();
        match Config::parse(&text, "run.toml", Path::new("/configs"), &[]) {
            Ok(loaded) => {
                let again = Config::from_json(&loaded.config.to_json());
                assert_eq!(again.ok(), Some(loaded.config), "{text}");
                accepted += 1;
            }
            Err(error) => {
                assert!(!error.problems().is_empty() && !error.to_string().is_empty());
                rejected += 1;
            }
        }
    }
    assert!(
        accepted > 20 && rejected > 20,
        "{accepted} accepted, {rejected} rejected"
    );
}
