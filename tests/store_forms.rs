//! The stored forms of events and their JSON form: round trips and golden bytes.
//!
//! `TINYGATE_WRITE_GOLDEN=1` adds the samples that `tests/golden/events` does not have yet. Those
//! that exist stay: a log written with them must remain readable.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)] // a test panics to fail

mod store_support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use store_support::any_event::{Gen, Variants, of_kind};
use tinygate::events::stored::{self, Form, KINDS, StoredError};
use tinygate::events::{Event, Record, Seq};

/// Enough samples for the enum with the most variants. Older golden files were written when there
/// were fewer, and have at least [`SAMPLES_MIN`].
const SAMPLES: u64 = 14;
const SAMPLES_MIN: usize = 12;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/events")
        .join(name)
}

fn sample(kind: usize, at: u64) -> Event {
    of_kind(kind, &mut Gen::covering(at))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut all, byte| {
        let _ = write!(all, "{byte:02x}");
        all
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

fn encoded(event: &Event) -> (Form, Vec<u8>) {
    let mut body = Vec::new();
    let form = stored::encode_into(event, &mut body).unwrap();
    (form, body)
}

/// Two lines per sample: the event as JSON and its stored body in hexadecimal. Existing samples
/// stay.
fn write_golden(kind: usize, name: &str) {
    let mut text = std::fs::read_to_string(golden(name)).unwrap_or_default();
    let there = text.lines().count() as u64 / 2;
    for at in there..SAMPLES {
        let event = sample(kind, at);
        let json = serde_json::to_string(&event).unwrap();
        let _ = writeln!(text, "{json}\n{}", hex(&encoded(&event).1));
    }
    std::fs::create_dir_all(golden("")).unwrap();
    std::fs::write(golden(name), text).unwrap();
}

/// Rewrites what the bytes of an older version decode to today; the bytes stay.
fn write_upgraded(name: &str, form: Form) {
    let text = std::fs::read_to_string(golden(name)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut upgraded = String::new();
    for body in lines.chunks(2).filter_map(|pair| pair.get(1)) {
        let event = stored::decode(form, &unhex(body)).unwrap();
        let json = serde_json::to_string(&event).unwrap();
        let _ = writeln!(upgraded, "{json}\n{body}");
    }
    std::fs::write(golden(name), upgraded).unwrap();
}

#[test]
fn golden_bytes_of_every_kind_and_version() {
    let write = std::env::var_os("TINYGATE_WRITE_GOLDEN").is_some();
    assert_eq!(
        KINDS.len(),
        Event::MAKERS.len(),
        "a kind has no stored form"
    );
    let mut wanted = Vec::new();
    for (index, kind) in KINDS.iter().enumerate() {
        if write {
            write_golden(index, &format!("{}.v{}.txt", kind.name, kind.newest));
        }
        for version in 1..=kind.newest {
            let name = format!("{}.v{version}.txt", kind.name);
            let text = std::fs::read_to_string(golden(&name)).unwrap_or_else(|error| {
                panic!("{name}: {error}: every version keeps its golden bytes")
            });
            let form = Form {
                kind: kind.number,
                version,
            };
            wanted.push(name.clone());
            if write && version < kind.newest {
                write_upgraded(&name, form);
                continue;
            }
            check_golden(&name, form, version == kind.newest, &text);
        }
    }
    for file in std::fs::read_dir(golden("")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(
            wanted.contains(&name),
            "`{name}`: a kind was removed, its bytes are not read any more"
        );
    }
}

#[track_caller]
fn check_golden(name: &str, form: Form, newest: bool, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    assert!(2 * SAMPLES_MIN <= lines.len(), "{name}");
    for (at, pair) in lines.chunks(2).enumerate() {
        let [json, body] = pair else {
            panic!("{name}: a line has no pair")
        };
        let event: Event = serde_json::from_str(json)
            .unwrap_or_else(|error| panic!("{name}, sample {at}: {error}"));
        assert_eq!(
            stored::decode(form, &unhex(body)).as_ref(),
            Ok(&event),
            "{name}, sample {at}"
        );
        if newest {
            let (found, bytes) = encoded(&event);
            assert_eq!(found, form, "{name}");
            assert_eq!(
                hex(&bytes),
                *body,
                "{name}, sample {at}: the layout changed"
            );
            assert_eq!(
                serde_json::to_string(&event).unwrap(),
                *json,
                "{name}, sample {at}: the JSON form changed"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_kind_survives_its_stored_form_and_its_json(seed: u64, longest in 0u64..6) {
        for (kind, known) in KINDS.iter().enumerate() {
            let mut g = Gen::new(seed);
            g.longest = longest;
            let event = of_kind(kind, &mut g);
            let (form, body) = encoded(&event);
            prop_assert_eq!(form.kind, known.number);
            let read = stored::decode(form, &body);
            prop_assert_eq!(read.as_ref(), Ok(&event));

            let record = Record { seq: Seq::new(seed), time_ms: seed >> 20, event };
            let json = serde_json::to_string(&record).unwrap();
            let named = format!("\"kind\":\"{}\"", known.name);
            prop_assert!(json.contains(&named), "{}", json);
            prop_assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        }
    }

    /// Bytes that are not an event, and damaged bytes of one, give a result and never a panic.
    #[test]
    fn any_bytes_are_read_without_a_panic(seed: u64, noise: Vec<u8>) {
        for (kind, known) in KINDS.iter().enumerate() {
            let form = Form { kind: known.number, version: known.newest };
            let _ = stored::decode(form, &noise);
            let mut g = Gen::new(seed);
            let (form, mut body) = encoded(&of_kind(kind, &mut g));
            for _ in 0..8 {
                let at = g.below(body.len() as u64) as usize;
                body[at] ^= 1 << g.below(8);
                let _ = stored::decode(form, &body);
                let _ = stored::decode(form, &body[at..]);
            }
        }
    }
}

#[test]
fn the_bits_of_a_nan_are_kept() {
    use tinygate::events::{Attempt, ChunkNumber, Column, MetricsLogged, Scalar, StageName, Steps};
    let values: Vec<Scalar> = [0x7ff8_0000_dead_beef, 0xfff0_0000_0000_0001, 1 << 63]
        .map(Scalar::from_bits)
        .to_vec();
    let event = Event::MetricsLogged(MetricsLogged {
        stage: StageName::new("dynamics"),
        chunk: ChunkNumber::FIRST,
        attempt: Attempt::FIRST,
        columns: vec![Column {
            name: "train/loss".into(),
            steps: Steps::Stride {
                first: 1,
                stride: 1,
            },
            values,
        }],
    });
    let (form, body) = encoded(&event);
    assert_eq!(stored::decode(form, &body), Ok(event));
}

#[test]
fn json_has_names_for_non_finite_numbers() {
    use tinygate::events::{Metric, Scalar, StageMeasured, StageName};
    let metric = |value: f64| Metric {
        name: "m".into(),
        value: Some(Scalar::new(value)),
    };
    let event = Event::StageMeasured(StageMeasured {
        stage: StageName::new("dynamics"),
        trivial: vec![
            metric(f64::NAN),
            metric(f64::INFINITY),
            metric(f64::NEG_INFINITY),
            metric(0.1),
        ],
        predictor: "token_marginals".into(),
    });
    let json = serde_json::to_value(&event).unwrap();
    let values: Vec<&serde_json::Value> = json["trivial"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["value"])
        .collect();
    assert_eq!(
        values,
        ["nan", "inf", "-inf"]
            .map(serde_json::Value::from)
            .iter()
            .chain([&serde_json::json!(0.1)])
            .collect::<Vec<_>>()
    );
}

#[test]
fn an_unknown_variant_of_a_newer_build_is_not_damage() {
    use rkyv::rancor::Error;
    use tinygate::events::stored::v1::{RunInterruptedV1, TaggedV1};
    let body = |number| {
        let reason = TaggedV1 {
            number,
            texts: vec!["x".into()],
            counts: vec![],
            reals: vec![],
        };
        rkyv::to_bytes::<Error>(&RunInterruptedV1 { reason }).unwrap()
    };
    let form = Form {
        kind: 3,
        version: 1,
    };
    assert!(stored::decode(form, &body(2)).is_ok());
    assert!(matches!(
        stored::decode(form, &body(9)),
        Err(StoredError::NewerVersion {
            found: 9,
            known: 2,
            ..
        })
    ));
    assert!(matches!(
        stored::decode(form, &body(0)),
        Err(StoredError::Malformed { .. })
    ));
}

/// The error of a damaged log is part of its audit, so it must not depend on where the bytes are in memory.
#[test]
fn the_error_of_a_damaged_body_does_not_contain_addresses() {
    let mut errors = 0;
    for kind in 0..KINDS.len() {
        let (form, body) = encoded(&sample(kind, 0));
        for at in 0..body.len() {
            let mut damaged = body.clone();
            damaged[at] ^= 0xff;
            if let Err(error @ StoredError::Malformed { .. }) = stored::decode(form, &damaged) {
                errors += 1;
                assert!(!error.to_string().contains("0x"), "{error}");
            }
        }
    }
    assert!(errors > 100, "{errors}");
}

#[test]
fn a_config_that_cannot_be_read_back_is_not_written() {
    let deep = (0..200).fold(serde_json::Value::Null, |inner, _| {
        serde_json::json!([inner])
    });
    let Event::RunCreated(mut created) = sample(0, 0) else {
        panic!("kind 0 is run_created")
    };
    created.config = deep;
    let answer = stored::encode_into(&Event::RunCreated(created), &mut Vec::new());
    assert!(
        matches!(
            answer,
            Err(StoredError::Malformed {
                kind: "run_created",
                ..
            })
        ),
        "{answer:?}"
    );
}
