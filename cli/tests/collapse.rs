//! Latent actions that really collapse, on the shipped frames: the rungs of the ladder are
//! applied in order, and a stop reports which criteria failed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]
#![cfg(feature = "train")]

mod support;

use std::path::Path;

use support::{Sandbox, records, run};
use tinygate::events::{
    Action, CriterionResult, Event, GateDecided, PatchReason, Record, SettingKey, SettingValue,
    StageStopped, Verdict, metric,
};

const CONFIG: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../examples/pong-collapse.toml"
);
const FIRST_RATE: f64 = 1e-2;
/// The criteria that fail when the actions collapse to one.
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

/// The rungs that must be applied, computed from the gates alone: lower the rate, extend the target
/// if the loss drops, use fewer actions in the next run; then the first rung again.
struct Ladder {
    cursor: usize,
    rate: f64,
    deferred: bool,
}

impl Ladder {
    /// The number of the rung, from 1, for a failed gate; `before` is the gate before it.
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
fn a_real_collapse_climbs_the_ladder_and_stops_or_recovers() {
    let sandbox = Sandbox::new();
    let dir = sandbox.arg("run");
    let args = ["run", CONFIG, "--stage", "latent_actions", "--dir", &dir];
    let done = run(args.into_iter().chain(["--json", "--quiet"]));
    let records = records(&sandbox.path("run"));
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
            check_stop(&records, &gates, &sandbox.path("run"));
        }
        other => panic!("exit {other:?}: {}", done.stderr),
    }
    let audit = run(["replay", &dir]).expect(0).stdout;
    assert!(audit.contains("0 divergences"), "{audit}");
}

/// A rung applies one patch, and the third rung defers its patch instead.
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
