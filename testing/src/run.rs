//! A run that is small enough for tests: the gates of `seed` with chunks of ten to thirty updates.

use tinygate::events::{
    Dataset, Event, HeldOutBatches, Policy, ProcessStarted, Record, RunCreated, Seq, Settings,
    StagePolicy,
};
use tinygate::machine::RULES;
use tinygate::presets::{self, Preset};

/// The preset `seed` with two short chunks in each stage.
pub fn short_policy() -> Policy {
    let mut policy = presets::policy(Preset::Seed);
    for (stage, (chunk_size, log_interval)) in
        policy.stages.iter_mut().zip([(20, 5), (10, 5), (30, 10)])
    {
        shorten(stage, chunk_size, log_interval);
    }
    policy
}

fn shorten(stage: &mut StagePolicy, chunk_size: u64, log_interval: u64) {
    stage.settings = Settings {
        chunk_size,
        n_updates: 2 * chunk_size,
        schedule_updates: 2 * chunk_size,
        log_interval,
        batch_size_per_gpu: 8,
        ..stage.settings.clone()
    };
}

/// The first event of a run by `policy`.
pub fn created(policy: Policy, seed: u64) -> Event {
    Event::RunCreated(Box::new(RunCreated {
        run: "scripted".to_owned(),
        tinygate_version: "0.1.0".to_owned(),
        libtorch_version: "none".to_owned(),
        rules: RULES,
        seed,
        world_size: 1,
        config: serde_json::json!({ "seed": seed }),
        policy,
        dataset: Dataset {
            files: vec!["pong.h5".to_owned()],
            blake3: "0".repeat(64),
            frames: 6000,
            height: 64,
            width: 64,
            training_windows: 5868,
            held_out_windows: 120,
            recordings: Vec::new(),
            passed_over: Vec::new(),
        },
        trivial_predictors: Vec::new(),
        parent: None,
        init_from: Vec::new(),
        held_out_batches: HeldOutBatches::Stage,
    }))
}

/// The log of a run that was only created.
pub fn first(policy: Policy) -> Vec<Record> {
    vec![Record {
        seq: Seq::FIRST,
        time_ms: 1_700_000_000_000,
        event: created(policy, 7),
    }]
}

/// The start of a process with this number.
pub fn process(pid: u32) -> ProcessStarted {
    ProcessStarted {
        host: "localhost".to_owned(),
        pid,
        tinygate_version: "0.1.0".to_owned(),
        libtorch_version: "none".to_owned(),
        devices: vec!["scripted".to_owned()],
        threads: 1,
        cards: Vec::new(),
    }
}
