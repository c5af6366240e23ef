//! Folding and deciding terminate without a panic for any events in any order.

use proptest::prelude::*;

use super::build::*;
use crate::*;
use tinygate_events::*;

/// Most decisions after one event: enough to delete every checkpoint.
const DECISIONS_MAX: usize = 100;

fn stage_name() -> impl Strategy<Value = StageName> {
    prop_oneof![
        8 => Just("video_tokenizer"),
        4 => Just("latent_actions"),
        4 => Just("dynamics"),
        1 => Just("nobody"),
    ]
    .prop_map(StageName::new)
}

fn step() -> BoxedStrategy<Step> {
    let near = prop_oneof![
        Just(0),
        Just(50),
        Just(100),
        Just(150),
        Just(200),
        Just(300)
    ];
    prop_oneof![8 => near, 2 => 0..400_u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
        .prop_map(Step::new)
        .boxed()
}

fn value() -> impl Strategy<Value = Scalar> {
    prop_oneof![4 => Just(0.005), 4 => Just(0.5), 1 => any::<f64>()].prop_map(scalar)
}

fn chunk() -> impl Strategy<Value = ChunkNumber> {
    prop_oneof![8 => 1..4_u32, 1 => Just(u32::MAX), 1 => any::<u32>()].prop_map(ChunkNumber::new)
}

fn attempt() -> impl Strategy<Value = Attempt> {
    prop_oneof![8 => 1..3_u32, 1 => Just(u32::MAX)].prop_map(Attempt::new)
}

fn key() -> BoxedStrategy<SettingKey> {
    prop_oneof![
        Just(SettingKey::LearningRate),
        Just(SettingKey::NUpdates),
        Just(SettingKey::ScheduleUpdates),
        Just(SettingKey::BatchSizePerGpu),
        Just(SettingKey::GradientAccumulationSteps),
        Just(SettingKey::LogInterval),
        Just(SettingKey::ChunkSize),
        Just(SettingKey::CheckpointInterval),
        Just(SettingKey::knob(N_ACTIONS)),
        Just(SettingKey::MaxRetries),
    ]
    .boxed()
}

fn setting() -> BoxedStrategy<SettingValue> {
    let small = (0..10_u64).prop_map(SettingValue::Count);
    let any_count = any::<u64>().prop_map(SettingValue::Count);
    prop_oneof![4 => small, 1 => any_count, 2 => value().prop_map(SettingValue::Real)].boxed()
}

fn reference() -> impl Strategy<Value = CheckpointRef> {
    (stage_name(), step()).prop_map(|(stage, step)| checkpoint(stage.as_str(), step.get()))
}

fn patch() -> BoxedStrategy<SettingPatch> {
    let why = prop_oneof![
        any::<u32>().prop_map(PatchReason::Rung),
        Just(PatchReason::Extension),
        Just(PatchReason::OutOfMemory)
    ];
    (key(), setting(), setting(), why)
        .prop_map(|(key, from, to, why)| SettingPatch { key, from, to, why })
        .boxed()
}

fn metrics_logged() -> BoxedStrategy<Event> {
    let name = prop_oneof![
        4 => Just(metric::LOSS),
        1 => Just(metric::ACTION_ENTROPY),
        1 => Just(metric::UNIQUE_ACTIONS),
    ];
    let steps = prop_oneof![
        (any::<u64>(), any::<u64>()).prop_map(|(first, stride)| Steps::Stride { first, stride }),
        (0..200_u64).prop_map(|first| Steps::Stride { first, stride: 1 }),
        prop::collection::vec(any::<u64>(), 0..5).prop_map(Steps::List),
    ];
    let values = prop::collection::vec(value(), 0..120);
    let column = (name, steps, values).prop_map(|(name, steps, values)| Column {
        name: name.to_owned(),
        steps,
        values,
    });
    (stage_name(), chunk(), attempt(), column)
        .prop_map(|(stage, chunk, attempt, column)| {
            Event::MetricsLogged(MetricsLogged {
                stage,
                chunk,
                attempt,
                columns: vec![column],
            })
        })
        .boxed()
}

fn fact() -> BoxedStrategy<Event> {
    let changed = (proptest::option::of(stage_name()), key(), setting());
    let judged_one = (stage_name(), reference(), any::<bool>());
    let finished = (stage_name(), chunk(), attempt(), step());
    let failed = (stage_name(), chunk(), attempt(), step(), any::<bool>());
    let granted = any::<u32>();
    prop_oneof![
        3 => Just(process()),
        2 => metrics_logged(),
        1 => changed.prop_map(|(stage, key, to)| {
            change(stage.as_ref().map(StageName::as_str), key, to)
        }),
        1 => judged_one.prop_map(|(stage, reference, accepted)| {
            judged(&stage, &reference, accepted)
        }),
        1 => finished.prop_map(|(stage, chunk, attempt, step)| {
            Event::ChunkFinished(ChunkFinished {
                stage, chunk, attempt, step, samples_seen: 0, seconds: scalar(0.0),
            })
        }),
        1 => failed.prop_map(|(stage, chunk, attempt, step, memory)| {
            let failure = if memory { out_of_memory() } else { exited() };
            Event::ChunkFailed(ChunkFailed { stage, chunk, attempt, step, failure })
        }),
        1 => granted.prop_map(|accumulation_factor| Event::FallbackGranted(FallbackGranted {
            ranks_wanted: 0, ranks_available: 0, accumulation_factor, granted_by: String::new(),
        })),
    ]
    .boxed()
}

/// Decisions that the machine did not make: a log may contain anything.
fn forged() -> BoxedStrategy<Event> {
    let started = (
        stage_name(),
        chunk(),
        attempt(),
        step(),
        step(),
        proptest::option::of(reference()),
    );
    let superseded = (
        stage_name(),
        chunk(),
        attempt(),
        proptest::option::of(reference()),
    );
    let decided = (
        stage_name(),
        chunk(),
        step(),
        0..4_usize,
        any::<u32>(),
        patch(),
    );
    let failed = (
        stage_name(),
        chunk(),
        attempt(),
        any::<bool>(),
        any::<u32>(),
        patch(),
    );
    prop_oneof![
        started.prop_map(|(stage, chunk, attempt, from, to, resume_from)| {
            Event::ChunkStarted(ChunkStarted {
                stage,
                chunk,
                attempt,
                restart: Restart::new(u32::MAX),
                from,
                to,
                samples_seen: 0,
                resume_from,
                settings: settings(),
            })
        }),
        superseded.prop_map(|(stage, chunk, attempt, resume_from)| {
            let after = Step::FIRST;
            Event::SamplesSuperseded(SamplesSuperseded {
                stage,
                chunk,
                attempt,
                after,
                resume_from,
            })
        }),
        decided.prop_map(|(stage, chunk, gate_step, action, counts, patch)| {
            let actions = [
                Action::Continue,
                Action::Retune,
                Action::RestartStage,
                Action::Stop,
            ];
            Event::GateDecided(Box::new(GateDecided {
                stage,
                chunk,
                attempt: Attempt::FIRST,
                gate_step,
                decision: actions[action],
                metrics: Vec::new(),
                resume_from: None,
                config_patch_applied: vec![patch],
                criteria: Vec::new(),
                findings: Vec::new(),
                failures: counts,
                cursor: counts,
                rung: None,
                skipped: Vec::new(),
                deferred: None,
                restart: None,
                stop: None,
            }))
        }),
        failed.prop_map(|(stage, chunk, attempt, again, counts, patch)| {
            let answer = if again {
                FailureAnswer::RunAgain
            } else {
                FailureAnswer::Stop
            };
            Event::FailureDecided(FailureDecided {
                stage,
                chunk,
                attempt,
                cause: FailureCause::OutOfMemory,
                answer,
                failures: counts,
                chunk_failures: counts,
                patches: vec![patch],
                effective_batch: None,
            })
        }),
        (stage_name(), step(), patch()).prop_map(|(stage, gate_step, patch)| {
            Event::PatchApplied(PatchApplied {
                stage,
                gate_step,
                patch,
            })
        }),
        (stage_name(), reference()).prop_map(|(stage, checkpoint)| {
            Event::CheckpointDeleted(CheckpointDeleted { stage, checkpoint })
        }),
        (stage_name(), reference()).prop_map(|(stage, checkpoint)| {
            Event::StagePassed(StagePassed { stage, checkpoint })
        }),
        (stage_name(), step()).prop_map(|(stage, step)| {
            let reason = StopReason::NoRungApplies;
            Event::StageStopped(StageStopped {
                stage,
                step,
                reason,
                blocking: Vec::new(),
                best: None,
            })
        }),
        stage_name().prop_map(|stage| Event::RunStopped(RunStopped { stage })),
        Just(Event::RunFinished(RunFinished { stages: 3 })),
    ]
    .boxed()
}

/// What happens next: a stray event, or part of the answer to the due command.
#[derive(Clone, Debug)]
enum Happening {
    Stray(Box<Event>),
    Answer(Outcome, usize),
}

fn outcome() -> BoxedStrategy<Outcome> {
    let accepted = (any::<bool>(), any::<bool>());
    let failure = prop_oneof![
        4 => Just(None),
        1 => (0..120_u64).prop_map(|updates| Some((updates, out_of_memory()))),
    ];
    (value(), value(), accepted, any::<bool>(), failure)
        .prop_map(
            |(loss, action_entropy, (middle_accepted, gate_accepted), structure_lost, failure)| {
                Outcome {
                    loss: loss.get(),
                    action_entropy: action_entropy.get(),
                    middle_accepted,
                    gate_accepted,
                    structure_lost,
                    failure,
                    ..good()
                }
            },
        )
        .boxed()
}

fn happening() -> BoxedStrategy<Happening> {
    prop_oneof![
        6 => (outcome(), prop_oneof![3 => Just(100_usize), 1 => 0..9_usize])
            .prop_map(|(outcome, facts)| Happening::Answer(outcome, facts)),
        2 => fact().prop_map(|event| Happening::Stray(Box::new(event))),
        2 => forged().prop_map(|event| Happening::Stray(Box::new(event))),
    ]
    .boxed()
}

/// A policy with arbitrary numbers and stages.
fn any_policy() -> BoxedStrategy<Policy> {
    let numbers = (0..3_u32, 0..3_u32, 0..3_u32, 0..3_u32, 0..30_u32);
    let retry_from = prop_oneof![
        Just(RetryFrom::Newest),
        Just(RetryFrom::LastPassed),
        Just(RetryFrom::Best)
    ];
    let sizes = prop_oneof![4 => Just((100_u64, 300_u64)), 1 => (0..5_u64, 0..5_u64)];
    (numbers, retry_from, sizes, any::<bool>(), 0..4_usize)
        .prop_map(
            |(numbers, retry_from, (chunk_size, n_updates), reset_on_pass, ladder)| {
                let mut policy = policy(ModelKind::ALL.map(stage_policy).to_vec());
                policy.max_retries = numbers.0;
                policy.max_chunk_failures = numbers.1;
                policy.max_interruptions = numbers.2;
                policy.keep_last = numbers.3;
                policy.latest_window = numbers.4;
                policy.retry_from = retry_from;
                policy.reset_on_pass = reset_on_pass;
                for stage in &mut policy.stages {
                    stage.settings.chunk_size = chunk_size;
                    stage.settings.n_updates = n_updates;
                    stage.ladder.truncate(ladder);
                }
                policy
            },
        )
        .boxed()
}

/// Records all due decisions; returns how many.
fn settle(run: &mut Run) -> usize {
    for count in 0..=DECISIONS_MAX {
        match decide(&run.state) {
            Decision::Record(event) => run.append(*event),
            Decision::Act(_) | Decision::Idle(_) => return count,
        }
    }
    DECISIONS_MAX + 1
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn anything_may_happen(
        policy in any_policy(),
        happenings in prop::collection::vec(happening(), 0..40),
    ) {
        let mut run = Run::start(policy);
        for happening in happenings {
            let events = match happening {
                Happening::Stray(event) => vec![*event],
                Happening::Answer(outcome, most) => match run.command() {
                    Some(command) => {
                        let mut answer = facts(&command, |_| outcome.clone());
                        answer.truncate(most);
                        answer
                    }
                    None => Vec::new(),
                },
            };
            for event in events {
                run.append(event);
                let decisions = settle(&mut run);
                prop_assert!(decisions <= DECISIONS_MAX, "decides without end: {:?}", run.kinds());
            }
        }
        let mut again = RunState::empty();
        for event in &run.log {
            again = evolve(again, event);
        }
        prop_assert!(again == run.state, "folding is not a function of the log");
    }
}
