//! The example configs are valid, and the default one matches the code.

use std::path::{Path, PathBuf};

use tinygate::config::{Config, init};
use tinygate::presets::Preset;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

#[test]
fn every_example_loads() {
    let mut loaded = Vec::new();
    for entry in std::fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            if let Err(error) = Config::load(&path, &[]) {
                panic!("{error}");
            }
            loaded.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    loaded.sort();
    assert_eq!(
        loaded,
        [
            "default.toml",
            "pong-collapse.toml",
            "pong-demo.toml",
            "pong-strict.toml"
        ]
    );
}

/// `TINYGATE_UPDATE=1 cargo test --test config_examples` regenerates it.
#[test]
fn the_default_example_is_what_init_writes() {
    let path = examples().join("default.toml");
    let want = init(Preset::Seed);
    if std::env::var_os("TINYGATE_UPDATE").is_some() {
        std::fs::write(&path, &want).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(
        found == want,
        "examples/default.toml is out of date: run this test with TINYGATE_UPDATE=1"
    );
}

#[test]
fn paths_in_an_example_are_relative_to_its_folder() {
    let config = Config::load(&examples().join("pong-demo.toml"), &[])
        .unwrap()
        .config;
    assert_eq!(
        config.data.path,
        [examples().join("../data/pong_frames.h5")]
    );
    assert_eq!(config.nproc_per_node, 2, "the demo trains with two ranks");
    assert!(
        !config.allow_single_gpu_fallback,
        "and does not continue with fewer"
    );
}
