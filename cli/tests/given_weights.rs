//! A stage that starts from the weights of a checkpoint, with moments of zero.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test panics at anything unexpected"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::path::Path;

use support::{Sandbox, checkpoints, records, run, tinyworlds_checkpoint};
use tinygate::checkpoint;
use tinygate::checkpoint::torch_file::{self, Value};
use tinygate::events::{Event, Seq};
use tinygate::store::{Durability, EventLog, Store};

fn start_args(sandbox: &Sandbox, dir: &str, more: &[&str]) -> Vec<String> {
    let args = [
        "run",
        &sandbox.config(),
        "--dir",
        &sandbox.arg(dir),
        "--quiet",
    ];
    args.iter()
        .chain(more)
        .map(|arg| (*arg).to_owned())
        .collect()
}

/// The shape of the checkpoint that TinyWorlds wrote.
const TINYWORLDS: [&str; 12] = [
    "--set",
    "patch_size=8",
    "--set",
    "latent_dim=5",
    "--set",
    "num_bins=4",
    "--set",
    "video_tokenizer.embed_dim=16",
    "--set",
    "video_tokenizer.num_heads=4",
    "--set",
    "video_tokenizer.hidden_dim=64",
];

/// Removes the events after the first one that `is_last` accepts, as if the process had been killed there.
fn cut_log_after(dir: &Path, is_last: fn(&Event) -> bool) {
    let records = records(dir);
    let last = records.iter().position(|record| is_last(&record.event));
    let kept: Vec<(u64, Event)> = records[..=last.unwrap()]
        .iter()
        .map(|record| (record.time_ms, record.event.clone()))
        .collect();
    fs::remove_dir_all(dir.join("log")).unwrap();
    let store = Store::create(dir, "cut").unwrap();
    store
        .append(Seq::FIRST, &kept, Durability::Durable)
        .unwrap();
    store.close().unwrap();
}

#[test]
fn a_stage_starts_with_given_weights_and_fresh_moments() {
    let sandbox = Sandbox::with_config(200);
    // A model without moments, in one file.
    let model = Path::new(&tinyworlds_checkpoint()).join("model_state_dict.pt");
    let model = torch_file::read(&fs::read(model).unwrap()).unwrap().value;
    let config = Value::dict([("num_heads", Value::Int(4))]);
    let top = Value::dict([("model", model), ("config", config)]);
    let file = torch_file::write("archive", &top).unwrap();
    let given = sandbox.write("video_tokenizer_step_149.pth", file);
    let more = ["--stage", "video_tokenizer", "--init-from", &given];
    let more = more.into_iter().chain(TINYWORLDS);
    let more = more.chain([
        "--set",
        "video_tokenizer.n_updates=160",
        "--fresh-optimizer",
    ]);
    let more: Vec<&str> = more.collect();
    run(start_args(&sandbox, "run", &more)).expect(0);
    let begun = records(&sandbox.path("run"));
    let Event::RunCreated(created) = &begun[0].event else {
        panic!("{:?}", begun[0])
    };
    assert!(created.init_from[0].fresh_optimizer);
    let first = &checkpoints(&begun)[0].0;
    let content = checkpoint::load(&sandbox.path("run").join(first)).unwrap();
    let moments = checkpoint::moments_of(&content).unwrap();
    // The moments do not count the 150 updates of the given checkpoint.
    let updates = content
        .state
        .get("updates_done")
        .and_then(Value::as_int)
        .unwrap();
    assert_eq!(moments[0].1.step, updates as u64 - 150);

    // A run that was killed in its first chunk starts from the same weights again.
    run(start_args(&sandbox, "cut", &more)).expect(0);
    let cut = sandbox.path("cut");
    cut_log_after(&cut, |event| matches!(event, Event::ChunkStarted(_)));
    fs::remove_dir_all(cut.join("video_tokenizer")).unwrap();
    run(["resume", &sandbox.arg("cut"), "--quiet"]).expect(0);
    assert_eq!(checkpoints(&begun), checkpoints(&records(&cut)));
    let done = run(["replay", "--retrain", &sandbox.arg("cut")]).expect(0);
    assert!(done.stdout.contains("0 skipped"), "{}", done.stdout);
}
