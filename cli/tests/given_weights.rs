//! A stage that begins from a checkpoint's weights, with moments that start at zero.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::path::Path;

use support::{Place, checkpoints, records, run, tinyworlds_checkpoint};
use tinygate::checkpoint;
use tinygate::checkpoint::torch_file::{self, Value};
use tinygate::events::{Event, Seq};
use tinygate::store::{Durability, EventLog, Store};

fn start_args(place: &Place, dir: &str, more: &[&str]) -> Vec<String> {
    let args = ["run", &place.config(), "--dir", &place.arg(dir), "--quiet"];
    args.iter()
        .chain(more)
        .map(|arg| (*arg).to_owned())
        .collect()
}

/// The shape of the checkpoint that PyTorch's TinyWorlds wrote.
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

/// Cuts a run's log behind its first event of a kind, as a kill there leaves it.
fn cut_behind(dir: &Path, is_last: fn(&Event) -> bool) {
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
fn a_stage_begins_with_given_weights_and_fresh_moments() {
    let place = Place::with_config(200);
    // Without moments, and in one file.
    let model = Path::new(&tinyworlds_checkpoint()).join("model_state_dict.pt");
    let model = torch_file::read(&fs::read(model).unwrap()).unwrap().value;
    let config = Value::dict([("num_heads", Value::Int(4))]);
    let top = Value::dict([("model", model), ("config", config)]);
    let file = torch_file::write("archive", &top).unwrap();
    let given = place.write("video_tokenizer_step_149.pth", file);
    let more = ["--stage", "video_tokenizer", "--init-from", &given];
    let more = more.into_iter().chain(TINYWORLDS);
    let more = more.chain([
        "--set",
        "video_tokenizer.n_updates=160",
        "--fresh-optimizer",
    ]);
    let more: Vec<&str> = more.collect();
    run(start_args(&place, "run", &more)).expect(0);
    let begun = records(&place.path("run"));
    let Event::RunCreated(created) = &begun[0].event else {
        panic!("{:?}", begun[0])
    };
    assert!(created.init_from[0].fresh_optimizer);
    let first = &checkpoints(&begun)[0].0;
    let content = checkpoint::load(&place.path("run").join(first)).unwrap();
    let moments = checkpoint::moments_of(&content).unwrap();
    // Of the stage's 160 updates these are the moments' own.
    let updates = content
        .state
        .get("updates_done")
        .and_then(Value::as_int)
        .unwrap();
    assert_eq!(moments[0].1.step, updates as u64 - 150);

    // Killed in the first chunk, it begins from the same weights again.
    run(start_args(&place, "cut", &more)).expect(0);
    let cut = place.path("cut");
    cut_behind(&cut, |event| matches!(event, Event::ChunkStarted(_)));
    fs::remove_dir_all(cut.join("video_tokenizer")).unwrap();
    run(["resume", &place.arg("cut"), "--quiet"]).expect(0);
    assert_eq!(checkpoints(&begun), checkpoints(&records(&cut)));
    let done = run(["replay", "--retrain", &place.arg("cut")]).expect(0);
    assert!(done.stdout.contains("0 skipped"), "{}", done.stdout);
}
