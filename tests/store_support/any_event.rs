//! Events with arbitrary content, from a seed.
//!
//! `Gen::covering(i)` picks variant `i % n` of every enum, so that a few samples cover all
//! variants; `Gen::new(seed)` picks at random.

use std::collections::BTreeMap;

use tinygate::events::*;

/// SplitMix64 with a bound on the length of lists.
pub struct Gen {
    state: u64,
    variant: Option<u64>,
    /// Lists have up to this many entries.
    pub longest: u64,
}

impl Gen {
    pub fn new(seed: u64) -> Gen {
        Gen {
            state: seed,
            variant: None,
            longest: 4,
        }
    }

    pub fn covering(variant: u64) -> Gen {
        Gen {
            state: variant,
            variant: Some(variant),
            longest: 2,
        }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Picks one of `n` variants.
    fn variant(&mut self, n: u64) -> u64 {
        match self.variant {
            Some(variant) => variant % n,
            None => self.below(n),
        }
    }
}

pub trait Any {
    fn any(g: &mut Gen) -> Self;
}

impl Any for u64 {
    /// Small and large numbers, and edge cases.
    fn any(g: &mut Gen) -> u64 {
        match g.below(4) {
            0 => g.below(100),
            1 => g.next(),
            2 => u64::MAX - g.below(2),
            _ => g.below(2),
        }
    }
}

impl Any for u32 {
    fn any(g: &mut Gen) -> u32 {
        u64::any(g) as u32
    }
}

impl Any for i64 {
    fn any(g: &mut Gen) -> i64 {
        u64::any(g) as i64
    }
}

impl Any for bool {
    fn any(g: &mut Gen) -> bool {
        g.below(2) == 1
    }
}

impl Any for String {
    fn any(g: &mut Gen) -> String {
        const PARTS: [&str; 8] = [
            "",
            "a",
            "train/loss",
            "é",
            "\"\\\n",
            "\u{0}",
            "日本",
            "longer text with spaces ",
        ];
        (0..g.below(g.longest.max(1)))
            .map(|_| PARTS[g.below(8) as usize])
            .collect()
    }
}

/// JSON does not keep the payload of a NaN, so only `f64::NAN` is used.
impl Any for Scalar {
    fn any(g: &mut Gen) -> Scalar {
        Scalar::new(match g.below(10) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => f64::NEG_INFINITY,
            3 => -0.0,
            4 => f64::from_bits(g.below(1000)),
            5 => f64::MAX,
            6 => g.below(1000) as f64,
            _ => (g.next() >> 11) as f64 / (1u64 << 53) as f64,
        })
    }
}

impl<T: Any> Any for Option<T> {
    fn any(g: &mut Gen) -> Option<T> {
        (g.below(3) > 0).then(|| T::any(g))
    }
}

impl<T: Any> Any for Vec<T> {
    fn any(g: &mut Gen) -> Vec<T> {
        (0..g.below(g.longest + 1)).map(|_| T::any(g)).collect()
    }
}

impl<T: Any> Any for Box<T> {
    fn any(g: &mut Gen) -> Box<T> {
        Box::new(T::any(g))
    }
}

impl<A: Any, B: Any> Any for (A, B) {
    fn any(g: &mut Gen) -> (A, B) {
        (A::any(g), B::any(g))
    }
}

impl Any for serde_json::Value {
    fn any(g: &mut Gen) -> serde_json::Value {
        serde_json::json!({
            "seed": u64::any(g),
            "name": String::any(g),
            "nested": { "list": [1, 2.5, null, true], "rate": g.below(1000) as f64 / 7.0 },
            "text": "x".repeat(g.below(200) as usize),
        })
    }
}

macro_rules! wrapped {
    ($($name:ident),+) => {$(
        impl Any for $name {
            fn any(g: &mut Gen) -> $name {
                $name::new(Any::any(g))
            }
        }
    )+};
}

wrapped!(Step, ChunkNumber, Attempt, Restart);

impl Any for StageName {
    fn any(g: &mut Gen) -> StageName {
        StageName::new(["video_tokenizer", "latent_actions", "dynamics", ""][g.below(4) as usize])
    }
}

impl Any for ModelName {
    fn any(g: &mut Gen) -> ModelName {
        ModelName::new(["video_tokenizer", "resnet"][g.below(2) as usize])
    }
}

impl Any for KnobName {
    fn any(g: &mut Gen) -> KnobName {
        KnobName::new(["n_actions", "dropout", "depth"][g.below(3) as usize])
    }
}

impl<K: Any + Ord, V: Any> Any for BTreeMap<K, V> {
    fn any(g: &mut Gen) -> BTreeMap<K, V> {
        (0..g.below(g.longest + 1))
            .map(|_| (K::any(g), V::any(g)))
            .collect()
    }
}

/// Structs, field by field.
macro_rules! structs {
    ($($name:ident { $($field:ident),* })+) => {$(
        impl Any for $name {
            fn any(g: &mut Gen) -> $name {
                $name { $($field: Any::any(g)),* }
            }
        }
    )+};
}

/// One constructor per variant of an enum.
pub trait Variants: Sized + 'static {
    const MAKERS: &'static [fn(&mut Gen) -> Self];
}

/// Enums, variant by variant.
macro_rules! enums {
    ($($name:ident { $($variant:ident $(($inner:ident))? $({ $($field:ident),* })?),+ $(,)? })+) => {$(
        impl Any for $name {
            fn any(g: &mut Gen) -> $name {
                let at = g.variant($name::MAKERS.len() as u64);
                $name::MAKERS[at as usize](g)
            }
        }

        impl Variants for $name {
            const MAKERS: &'static [fn(&mut Gen) -> $name] = &[$(
                |_g| $name::$variant $(({ let $inner = Any::any(_g); $inner }))? $({ $($field: Any::any(_g)),* })?
            ),+];
        }
    )+};
}

structs! {
    RunCreated { run, tinygate_version, libtorch_version, rules, seed, world_size, config, policy, dataset, trivial_predictors, parent, init_from, held_out_batches }
    Dataset { files, blake3, frames, height, width, training_windows, held_out_windows, recordings, passed_over }
    Recording { path, frames, height, width, first, last, missing }
    PassedOver { path, why, count, example }
    Parent { run, path, patches }
    InitFrom { stage, checkpoint, files, fresh_optimizer }
    Metric { name, value }
    ProcessStarted { host, pid, tinygate_version, libtorch_version, devices, threads, cards }
    RunInterrupted { reason }
    SettingChanged { stage, key, from, to, who, why }
    FallbackGranted { ranks_wanted, ranks_available, accumulation_factor, granted_by }
    StageMeasured { stage, trivial, predictor }
    MetricsLogged { stage, chunk, attempt, columns }
    Column { name, steps, values }
    CheckpointRef { path, step }
    FileRecord { name, size, blake3 }
    CheckpointWritten { stage, chunk, attempt, checkpoint, samples_seen, files }
    CheckpointJudged { stage, checkpoint, rejected }
    Rejection { code, text }
    HeldOutScored { stage, chunk, attempt, step, values }
    PictureScored { stage, chunk, attempt, step, path, blake3, pixels, pooled, frames }
    StructureScores { flatness, stripes, blockiness, ssim, mse_ratio }
    ChunkFinished { stage, chunk, attempt, step, samples_seen, seconds }
    ChunkFailed { stage, chunk, attempt, step, failure }
    StoreRepaired { copy, detail, quarantine, restored }
    CheckpointGivenUp { stage, checkpoint, who, why }
    PruneRequested { keep_last, who }
    StageStarted { stage, settings, upstream, resume_from }
    Upstream { stage, checkpoint }
    ChunkStarted { stage, chunk, attempt, restart, from, to, samples_seen, resume_from, settings }
    SamplesSuperseded { stage, chunk, attempt, after, resume_from }
    GateDecided { stage, chunk, attempt, gate_step, decision, metrics, resume_from, config_patch_applied, criteria, findings, failures, cursor, rung, skipped, deferred, restart, stop }
    SettingPatch { key, from, to, why }
    CriterionResult { name, verdict, value, limit, why }
    RungSkipped { rung, why }
    RestartReason { cause, restart, abandoned }
    PatchApplied { stage, gate_step, patch }
    PatchDeferred { stage, gate_step, patch }
    FailureDecided { stage, chunk, attempt, cause, answer, failures, chunk_failures, patches, effective_batch }
    EffectiveBatch { before, after }
    StageReopened { stage, gate_step, decision, resume_from, config_patch_applied, cursor, rung, skipped, deferred, restart }
    CheckpointDeleted { stage, checkpoint }
    StagePassed { stage, checkpoint }
    StageStopped { stage, step, reason, blocking, best }
    Blocking { criterion, value, limit, gates }
    RunFinished { stages }
    RunStopped { stage }
    Policy { preset, max_retries, max_chunk_failures, max_interruptions, reset_on_pass, retry_from, latest_window, keep_last, stages }
    StagePolicy { name, model, loss, metrics, skills, in_use, findings, batch_size_min, knobs, settings, criteria, ladder, bounds }
    Settings { learning_rate, n_updates, schedule_updates, batch_size_per_gpu, gradient_accumulation_steps, log_interval, chunk_size, checkpoint_interval, knobs }
    Knob { name, range, unit }
    Skill { name, held_out, trivial, trivial_may_be_null }
    InUse { metric, at_least }
    Bounds { learning_rate_min, accumulation_min, accumulation_max, log_interval_min_share, chunk_size_min_share }
    Criterion { name, applies, test }
    StructureLimits { flatness_min, flatness_max, stripes_max, blockiness_max, ssim_min, mse_ratio_max }
}

enums! {
    Event {
        RunCreated(e), ProcessStarted(e), RunInterrupted(e), SettingChanged(e), FallbackGranted(e), StageMeasured(e), MetricsLogged(e),
        CheckpointWritten(e), CheckpointJudged(e), HeldOutScored(e), PictureScored(e), ChunkFinished(e), ChunkFailed(e), StoreRepaired(e), CheckpointGivenUp(e), PruneRequested(e),
        StageStarted(e), ChunkStarted(e), SamplesSuperseded(e), GateDecided(e), PatchApplied(e), PatchDeferred(e), FailureDecided(e),
        StageReopened(e), CheckpointDeleted(e), StagePassed(e), StageStopped(e), RunFinished(e), RunStopped(e),
    }
    InterruptReason { Signal { name }, Environment { detail } }
    HeldOutBatches { Largest, Stage }
    Steps { Stride { first, stride }, List(steps) }
    ChunkFailure { NoProgress { silence_seconds, limit_seconds, stderr }, OutOfMemory { detail }, WorkerExited { status, stderr }, WorkerTimedOut { seconds, stderr }, CheckpointUnloadable { path, detail } }
    Action { Continue, Retune, RestartStage, Stop }
    PatchReason { Rung(rung), Extension, OutOfMemory }
    Verdict { Pass, Fail, NotApplicable }
    CriterionReason {
        OnlyAtTarget, FreshStart, PreviousNotFinite, NotFinite, TooFewSamples { found, needed }, Missing { metric },
        Stale { metric, last, needed_after }, NoPicture, NoSkillToMeasure, NoCheckpoint, NotJudged, Rejected { code, text }, NoStructureToMeasure,
    }
    Finding {
        VacuousLimit { criterion, limit, predictor, trivial_loss, factor }, NoSkill { metric, skill, predictor },
        DecidedByNoise { criterion, limit, within, beyond },
        NothingToMeasure { metric, predictor },
        Cause { cause, single_action_share, median_entropy, rising, r2_learning_rate, r2_entropy },
    }
    Cause { Upstream, Dynamics, Mixed, Undetermined }
    SkipReason { AtBound, LossNotDropping, NoPreviousGate, EntropyNotCollapsed, AlreadyDeferred, ExtensionsUsedUp, NotASettingOfThisStage }
    RestartCause { NoAcceptedCheckpoint, NonFiniteLoss, StructureLost }
    StopReason {
        RetriesExceeded { failures, max_retries }, NoRungApplies, ExtensionsExceeded { extensions, max_extensions },
        ChunkFailuresExceeded { failures, max_chunk_failures }, OutOfMemoryAtFloor { batch_size_per_gpu }, CountersExhausted,
    }
    FailureCause { OutOfMemory, WorkerExited, WorkerTimedOut, CheckpointUnloadable, Interrupted, NoProgress }
    FailureAnswer { RunAgain, Stop }
    RetryFrom { Newest, LastPassed, Best }
    SettingKey {
        LearningRate, NUpdates, ScheduleUpdates, BatchSizePerGpu, GradientAccumulationSteps, LogInterval, ChunkSize,
        CheckpointInterval, MaxRetries, Knob(name),
    }
    KnobRange { Integer { min, max }, Number { min, max } }
    FindingTest { VacuousLimit, DecidedByNoise, NoSkill, NothingToMeasure, Cause { actions, entropy, entropy_max, learning_rate } }
    SettingValue { Count(count), Real(real) }
    Applies { EveryGate, AtTarget }
    CriterionTest {
        CheckpointValid, LossFinite, LossTrend { tolerance }, LossLatest { limit }, MetricAtLeast { metric, limit },
        LossNotRising { tolerance, standard_errors }, LossDelta { tolerance, standard_errors }, VisualStructure { limits, share },
        SkillAbove { metric, limit }, MetricsFresh,
    }
    Limit { Constant(limit), Schedule(steps) }
    Rung { Multiply { key, factor }, Add { key, amount }, ExtendTarget, DeferPowerOfTwo { key, when_failed } }
}

/// An event of one kind, counted in the order of the enum.
pub fn of_kind(kind: usize, g: &mut Gen) -> Event {
    Event::MAKERS[kind % Event::MAKERS.len()](g)
}
