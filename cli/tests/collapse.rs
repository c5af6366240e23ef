//! Latent actions that really collapse, on the shipped frames: the ladder is climbed in its
//! order, and the stop says what blocked.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]
#![cfg(feature = "train")]

mod support;

use std::path::Path;

use support::{Place, records, run};
use tinygate::events::{
    Action, CriterionResult, Event, GateDecided, PatchReason, Record, SettingKey, SettingValue,
    StageStopped, Verdict, metric,
};

const CONFIG: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../examples/pong-collapse.toml"
);
const FIRST_RATE: f64 = 1e-2;
/// Below this the actions are one in all but name.
const COLLAPSED: [&str; 2] = ["unique_actions", "action_entropy"];

fn failed(gate: &GateDecided) -> Vec<&str> {
    let failed = |result: &&CriterionResult| result.verdict == Verdict::Fail;
    let results = gate.criteria.iter().filter(failed);
    results.map(|result| result.name.as_str()).collect()
}

fn has_collapsed(gate: &GateDecided) -> bool {
    failed(gate).iter().any(|name| COLLAPSED.contains(name))
}

fn loss(gate: &GateDecided) -> f64 {
    let metric = gate.metrics.iter().find(|m| m.name == metric::GATE_LOSS);
    metric.unwrap().value.unwrap().get()
}

/// What the ladder has to give, worked out from the gates alone: lower the rate, go on while the
/// loss drops, have fewer actions the next time; then from the first rung again.
struct Ladder {
    cursor: usize,
    rate: f64,
    deferred: bool,
}

impl Ladder {
    /// The rung, counted from 1, for a gate after `before`.
    fn climb(&mut self, gate: &GateDecided, before: Option<&GateDecided>) -> u32 {
        for offset in 0..3 {
            let rung = (self.cursor + offset) % 3;
            let applies = match rung {
                0 => true,
                1 => before.is_some_and(|before| loss(gate) < loss(before)),
                _ => has_collapsed(gate) && !self.deferred,
            };
            if applies {
                self.cursor = (rung + 1) % 3;
                match rung {
                    0 => self.rate *= 0.8,
                    1 => {}
                    _ => self.deferred = true,
                }
                return rung as u32 + 1;
            }
        }
        panic!("the first rung always applies here");
    }
}

#[test]
fn a_real_collapse_climbs_the_ladder_and_stops_or_is_rescued() {
    let place = Place::new();
    let dir = place.arg("run");
    let args = ["run", CONFIG, "--stage", "latent_actions", "--dir", &dir];
    let done = run(args.into_iter().chain(["--json", "--quiet"]));
    let records = records(&place.path("run"));
    let gates: Vec<&GateDecided> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::GateDecided(gate) => Some(gate.as_ref()),
            _ => None,
        })
        .collect();
    assert_eq!(done.stdout.lines().count(), gates.len());
    assert!(has_collapsed(gates[0]), "no collapse: {:?}", gates[0]);

    let mut ladder = Ladder {
        cursor: 0,
        rate: FIRST_RATE,
        deferred: false,
    };
    let mut before = None;
    let mut rungs = Vec::new();
    for gate in &gates {
        if gate.decision == Action::Retune {
            let rung = ladder.climb(gate, before);
            assert_eq!(gate.rung, Some(rung), "at {}", gate.gate_step);
            rungs.push(rung);
            check_patches(gate, rung, ladder.rate);
        } else {
            assert_eq!(gate.rung, None, "at {}", gate.gate_step);
            assert!(gate.config_patch_applied.is_empty());
        }
        before = Some(*gate);
    }
    assert!(rungs.starts_with(&[1]), "{rungs:?}");

    let last = gates.last().unwrap();
    match done.code {
        Some(0) => assert!(failed(last).is_empty(), "passed with {last:?}"),
        Some(1) => {
            assert_eq!(last.decision, Action::Stop);
            assert_eq!(rungs.len(), 5, "five retries, then the sixth failure");
            check_stop(&records, &gates, &place.path("run"));
        }
        other => panic!("exit {other:?}: {}", done.stderr),
    }
    let audit = run(["replay", &dir]).expect(0).stdout;
    assert!(audit.contains("0 divergences"), "{audit}");
}

/// The patch of each rung and no other, but for the one extension that a failed last gate needs.
#[track_caller]
fn check_patches(gate: &GateDecided, rung: u32, rate: f64) {
    let deferred = gate.deferred.as_ref();
    assert_eq!(deferred.is_some(), rung == 3, "{deferred:?}");
    if let Some(patch) = deferred {
        assert_eq!(patch.key, SettingKey::knob("n_actions"));
        assert_eq!(
            (&patch.from, &patch.to),
            (&SettingValue::Count(4), &SettingValue::Count(2))
        );
    }
    let of_rung: Vec<_> = gate
        .config_patch_applied
        .iter()
        .filter(|patch| patch.why == PatchReason::Rung(rung))
        .collect();
    match rung {
        1 => {
            assert_eq!(of_rung.len(), 1);
            assert_eq!(of_rung[0].key, SettingKey::LearningRate);
            let SettingValue::Real(to) = of_rung[0].to else {
                panic!("{:?}", of_rung[0])
            };
            assert_eq!(to.get(), rate);
        }
        2 => {
            assert_eq!(of_rung.len(), 1);
            assert_eq!(of_rung[0].key, SettingKey::NUpdates);
        }
        _ => assert!(of_rung.is_empty(), "deferred, not applied: {of_rung:?}"),
    }
}

#[track_caller]
fn check_stop(records: &[Record], gates: &[&GateDecided], run_dir: &Path) {
    let stopped: Vec<&StageStopped> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::StageStopped(stopped) => Some(stopped),
            _ => None,
        })
        .collect();
    let [stopped] = stopped[..] else {
        panic!("{stopped:?}")
    };
    for name in failed(gates.last().unwrap()) {
        let blocking = stopped.blocking.iter().find(|b| b.criterion == name);
        let failures = gates.iter().filter(|gate| failed(gate).contains(&name));
        assert_eq!(
            u64::from(blocking.unwrap().gates),
            failures.count() as u64,
            "{name}"
        );
    }
    let best = stopped.best.as_ref().unwrap();
    let lowest = gates
        .iter()
        .map(|gate| loss(gate))
        .fold(f64::INFINITY, f64::min);
    let of_best = gates.iter().find(|gate| gate.gate_step == best.step);
    let many = |gate: &&&GateDecided| !failed(gate).contains(&"unique_actions");
    if gates.iter().any(|gate| many(&gate)) {
        assert!(many(&of_best.unwrap()), "{best:?}");
    } else {
        assert_eq!(loss(of_best.unwrap()), lowest);
    }
    let path = run_dir.join(&best.path);
    run(["checkpoint", "verify", path.to_str().unwrap()]).expect(0);
}
