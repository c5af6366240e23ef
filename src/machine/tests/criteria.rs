//! Each criterion at its boundaries.

use super::build::*;
use crate::chunk::{ChunkState, Previous};
use crate::edition::Edition;
use crate::gate::{self, Evaluation};
use crate::{Judgement, Lineage, StageState};
use tinygate_events::CriterionReason::*;
use tinygate_events::*;

/// One criterion for the chunk (100, 200] of a stage with the target 300, whose checkpoint at
/// the gate is accepted. Nothing is logged yet.
struct Bench {
    stage: StageState,
    chunk: ChunkState,
    latest_window: u32,
    edition: Edition,
}

fn bench(test: CriterionTest) -> Bench {
    let mut policy = stage_policy(ModelKind::VideoTokenizer);
    policy.criteria = vec![criterion("tested", test)];
    let mut stage = StageState::new(&policy, 5);
    stage.lineage = with_checkpoint(200, &Judgement::Accepted);
    let started = ChunkStarted {
        stage: policy.name.clone(),
        chunk: ChunkNumber::FIRST,
        attempt: Attempt::FIRST,
        restart: Restart::FIRST,
        from: Step::new(100),
        to: Step::new(200),
        samples_seen: 0,
        resume_from: Some(checkpoint("video_tokenizer", 100)),
        settings: settings(),
    };
    Bench {
        chunk: ChunkState::begin(&started, Previous::None, Vec::new(), None),
        stage,
        latest_window: 1,
        edition: Edition::Two,
    }
}

/// A lineage of one checkpoint.
fn with_checkpoint(step: u64, judgement: &Judgement) -> Lineage {
    let reference = checkpoint("video_tokenizer", step);
    let mut lineage = Lineage::new(false);
    lineage.write(&CheckpointWritten {
        stage: StageName::new("video_tokenizer"),
        chunk: ChunkNumber::FIRST,
        attempt: Attempt::FIRST,
        checkpoint: reference.clone(),
        samples_seen: 0,
        files: Vec::new(),
    });
    match judgement {
        Judgement::Pending => {}
        Judgement::Accepted => lineage.judge(&reference, None),
        Judgement::Rejected(rejection) => lineage.judge(&reference, Some(rejection)),
    }
    lineage
}

impl Bench {
    /// The chunk's last losses, one per update, up to its end.
    fn losses(self, values: &[f64]) -> Bench {
        let first = 201 - values.len() as u64;
        self.samples(metric::LOSS, first, values)
    }

    fn samples(mut self, name: &str, first: u64, values: &[f64]) -> Bench {
        let column = Column {
            name: name.to_owned(),
            steps: Steps::Stride { first, stride: 1 },
            values: values.iter().copied().map(scalar).collect(),
        };
        self.chunk.add(&column);
        self
    }

    fn previous(mut self, gate_loss: f64) -> Bench {
        let finite = Some(scalar(gate_loss)).filter(|loss| loss.finite().is_some());
        self.chunk.previous = Previous::GateLoss(finite);
        self
    }

    fn window(mut self, samples: u32) -> Bench {
        self.latest_window = samples;
        self
    }

    fn target(mut self, updates: u64) -> Bench {
        self.stage.settings.n_updates = updates;
        self
    }

    fn at_target_only(mut self) -> Bench {
        self.stage.policy.criteria[0].applies = Applies::AtTarget;
        self
    }

    fn judgement(mut self, judgement: Judgement) -> Bench {
        self.stage.lineage = with_checkpoint(200, &judgement);
        self
    }

    /// A picture at `step` of frames with these scores.
    fn picture(mut self, step: u64, frames: &[StructureScores]) -> Bench {
        self.chunk.picture = Some(PictureScored {
            stage: self.stage.policy.name.clone(),
            chunk: ChunkNumber::FIRST,
            attempt: Attempt::FIRST,
            step: Step::new(step),
            path: String::new(),
            blake3: String::new(),
            pixels: None,
            pooled: sound_frame(),
            frames: frames.to_vec(),
        });
        self
    }

    /// A held-out loss at `step`, and a trivial loss.
    fn held_out(mut self, step: u64, loss: f64, trivial: f64) -> Bench {
        self.stage.trivial = vec![metric_of(metric::TRIVIAL_LOSS, trivial)];
        self.chunk.held_out = Some(HeldOutScored {
            stage: self.stage.policy.name.clone(),
            chunk: ChunkNumber::FIRST,
            attempt: Attempt::FIRST,
            step: Step::new(step),
            values: vec![metric_of(metric::HELD_OUT_LOSS, loss)],
        });
        self
    }

    /// Adds a trivial loss, or sets the first of its name to null.
    fn trivial(mut self, name: &str, value: Option<f64>) -> Bench {
        self.stage.trivial.retain(|metric| metric.name != name);
        self.stage.trivial.push(Metric {
            name: name.to_owned(),
            value: value.map(scalar),
        });
        self
    }

    /// Adds a second criterion, so that `metrics_fresh` has something to check.
    fn and_criterion(mut self, test: CriterionTest) -> Bench {
        let other = criterion("other", test);
        self.stage.policy.criteria.push(other);
        self
    }

    fn evaluate(&self) -> Evaluation {
        let stage = &self.stage;
        let inputs = stage.gate_inputs(&self.chunk, self.latest_window, self.edition);
        gate::evaluate(&stage.policy, &inputs)
    }

    fn result(&self) -> CriterionResult {
        self.evaluate().criteria[0].clone()
    }
}

#[track_caller]
fn check(name: &str, bench: Bench, want: Result<(), Option<CriterionReason>>) {
    let result = bench.result();
    let found = match result.verdict {
        Verdict::Pass => {
            assert_eq!(result.why, None, "{name}: a pass needs no reason");
            Ok(())
        }
        Verdict::Fail => Err(result.why.clone()),
        Verdict::NotApplicable => panic!("{name}: does not apply, {:?}", result.why),
    };
    assert_eq!(found, want, "{name}: {result:?}");
}

#[track_caller]
fn check_not_applicable(name: &str, bench: Bench, want: CriterionReason) {
    let result = bench.result();
    let found = (result.verdict, result.why.clone());
    assert_eq!(
        found,
        (Verdict::NotApplicable, Some(want)),
        "{name}: {result:?}"
    );
    assert_eq!(result.value, None, "{name}");
}

fn missing(metric: &str) -> Option<CriterionReason> {
    Some(Missing {
        metric: metric.to_owned(),
    })
}

/// The next larger or smaller number.
fn above(value: f64) -> f64 {
    f64::from_bits(value.to_bits() + 1)
}

fn below(value: f64) -> f64 {
    f64::from_bits(value.to_bits() - 1)
}

#[test]
fn checkpoint_valid() {
    let valid = || bench(CriterionTest::CheckpointValid);
    check("an accepted checkpoint passes", valid(), Ok(()));
    let why = Rejected {
        code: rejection().code,
        text: rejection().text,
    };
    let rejected = valid().judgement(Judgement::Rejected(rejection()));
    check(
        "a rejected one fails with its reason",
        rejected,
        Err(Some(why)),
    );
    let unjudged = valid().judgement(Judgement::Pending);
    check(
        "one that was not judged fails",
        unjudged,
        Err(Some(NotJudged)),
    );
    let mut elsewhere = valid();
    elsewhere.stage.lineage = with_checkpoint(199, &Judgement::Accepted);
    check(
        "one of another step does not count",
        elsewhere,
        Err(Some(NoCheckpoint)),
    );
    let mut abandoned = valid();
    abandoned
        .stage
        .lineage
        .start_chunk(ChunkNumber::FIRST, None);
    check(
        "one of another lineage does not count",
        abandoned,
        Err(Some(NoCheckpoint)),
    );
}

#[test]
fn a_gate_needs_an_accepted_checkpoint_even_if_the_policy_does_not_list_it() {
    let evaluate = |bench: Bench| bench.evaluate();
    let silent = || bench(CriterionTest::LossFinite).losses(&[1.0]);
    assert!(evaluate(silent()).passed(), "accepted: nothing to add");
    assert_eq!(evaluate(silent()).criteria.len(), 1);
    let rejected = evaluate(silent().judgement(Judgement::Rejected(rejection())));
    assert!(!rejected.passed());
    assert_eq!(rejected.criteria[1].name, "checkpoint_valid");
    let late = || bench(CriterionTest::CheckpointValid).at_target_only();
    let early = evaluate(late().judgement(Judgement::Pending));
    assert!(!early.passed(), "the criterion applies only at the target");
    let asked = evaluate(late().target(200).judgement(Judgement::Pending));
    assert_eq!(
        asked.criteria.len(),
        1,
        "the policy's own criterion reports it"
    );
}

#[test]
fn loss_finite() {
    let finite = || bench(CriterionTest::LossFinite);
    check(
        "finite samples pass",
        finite().losses(&[0.0, 1e300]),
        Ok(()),
    );
    let nan = finite().losses(&[1.0, f64::NAN, 1.0]);
    check("a NaN before the end fails", nan, Err(Some(NotFinite)));
    let infinite = finite().losses(&[f64::NEG_INFINITY, 1.0]);
    check("an infinite one fails", infinite, Err(Some(NotFinite)));
    check("no sample fails", finite(), Err(missing("train/loss")));
    let two = finite().losses(&[f64::NAN, 1.0, f64::INFINITY]).result();
    assert_eq!(two.value, Some(scalar(2.0)), "its value counts them");
}

#[test]
fn loss_trend() {
    let trend = |tolerance| {
        bench(CriterionTest::LossTrend {
            tolerance: scalar(tolerance),
        })
    };
    let half = |tolerance| trend(tolerance).previous(0.5);
    check(
        "below the previous gate passes",
        half(0.0).losses(&[below(0.5)]),
        Ok(()),
    );
    check("equal fails", half(0.0).losses(&[0.5]), Err(None));
    check("above fails", half(0.0).losses(&[above(0.5)]), Err(None));
    check(
        "just inside the tolerance passes",
        half(0.5).losses(&[below(0.75)]),
        Ok(()),
    );
    check(
        "exactly the tolerance fails",
        half(0.5).losses(&[0.75]),
        Err(None),
    );
    let negative = || trend(0.5).previous(-1.0);
    check(
        "tolerance applies to negative losses too",
        negative().losses(&[-0.75]),
        Ok(()),
    );
    check(
        "exactly the tolerance fails there too",
        negative().losses(&[-0.5]),
        Err(None),
    );
    let mean = half(0.0).losses(&[0.25, 0.25, 0.875]);
    check("the mean counts, not the last", mean, Ok(()));
    check(
        "a NaN fails",
        half(0.0).losses(&[0.1, f64::NAN]),
        Err(Some(NotFinite)),
    );
    check(
        "an infinite one fails",
        half(0.0).losses(&[f64::INFINITY]),
        Err(Some(NotFinite)),
    );
    check("no sample fails", half(0.0), Err(missing("train/loss")));
    check_not_applicable(
        "a fresh start has no trend",
        trend(0.0).losses(&[9.0]),
        FreshStart,
    );
    let after_nan = trend(0.0).previous(f64::NAN).losses(&[9.0]);
    check_not_applicable(
        "a start after a NaN has no trend",
        after_nan,
        PreviousNotFinite,
    );
}

#[test]
fn loss_latest() {
    let latest = || {
        bench(CriterionTest::LossLatest {
            limit: constant(0.25),
        })
    };
    check(
        "below the limit passes",
        latest().losses(&[below(0.25)]),
        Ok(()),
    );
    check("equal passes", latest().losses(&[0.25]), Ok(()));
    check(
        "just above fails",
        latest().losses(&[above(0.25)]),
        Err(None),
    );
    check(
        "only the last counts",
        latest().losses(&[9.0, 9.0, 0.1]),
        Ok(()),
    );
    check(
        "a NaN fails",
        latest().losses(&[0.1, f64::NAN]),
        Err(Some(NotFinite)),
    );
    check(
        "minus infinity fails",
        latest().losses(&[f64::NEG_INFINITY]),
        Err(Some(NotFinite)),
    );
    check("no sample fails", latest(), Err(missing("train/loss")));
    let median = |losses: &[f64]| latest().window(3).losses(losses);
    check(
        "a median ignores a spike",
        median(&[0.25, 0.1, 9.0]),
        Ok(()),
    );
    check("but not two", median(&[0.1, 9.0, 9.0]), Err(None));
    check(
        "older samples do not count",
        median(&[0.1, 0.1, 9.0, 0.2, 9.0]),
        Err(None),
    );
    check("a NaN sorts last", median(&[f64::NAN, 0.1, 0.25]), Ok(()));
    let mostly = median(&[f64::NAN, f64::NAN, 0.1]);
    check("mostly NaN never passes", mostly, Err(Some(NotFinite)));
    check(
        "with fewer samples than the window, all count",
        median(&[0.25]),
        Ok(()),
    );
    check(
        "the median of two is their mean",
        median(&[0.25, above(0.25)]),
        Ok(()),
    );
}

#[test]
fn metric_at_least() {
    let entropy = |values: &[f64]| {
        let test = CriterionTest::MetricAtLeast {
            metric: "action_entropy".to_owned(),
            limit: constant(0.4),
        };
        bench(test).samples("action_entropy", 150, values)
    };
    check("above the limit passes", entropy(&[above(0.4)]), Ok(()));
    check("equal passes", entropy(&[0.4]), Ok(()));
    check("just below fails", entropy(&[below(0.4)]), Err(None));
    check("only the latest counts", entropy(&[0.1, 0.5]), Ok(()));
    check("the latest may fail alone", entropy(&[0.5, 0.1]), Err(None));
    check("a NaN fails", entropy(&[f64::NAN]), Err(Some(NotFinite)));
    check(
        "infinity fails",
        entropy(&[f64::INFINITY]),
        Err(Some(NotFinite)),
    );
    check(
        "no sample fails",
        entropy(&[]),
        Err(missing("action_entropy")),
    );
}

#[test]
fn limits_by_step() {
    let entries = |entries: &[(u64, f64)]| {
        let entries = entries.iter().map(|(step, limit)| (*step, scalar(*limit)));
        let limit = Limit::Schedule(entries.collect());
        bench(CriterionTest::LossLatest { limit }).losses(&[0.5])
    };
    check(
        "an entry at the gate's step applies",
        entries(&[(200, 0.5), (300, 0.1)]),
        Ok(()),
    );
    check(
        "an entry before it does not",
        entries(&[(199, 0.5), (300, 0.1)]),
        Err(None),
    );
    check(
        "the first entry not below it applies",
        entries(&[(100, 0.1), (201, 0.5), (300, 0.1)]),
        Ok(()),
    );
    check(
        "past the last entry, the last applies",
        entries(&[(50, 0.1), (100, 0.5)]),
        Ok(()),
    );
    check(
        "an empty schedule never passes",
        entries(&[]),
        Err(Some(NotFinite)),
    );
    let nan = bench(CriterionTest::LossLatest {
        limit: constant(f64::NAN),
    });
    check(
        "a limit that is not a number never passes",
        nan.losses(&[0.5]),
        Err(None),
    );
}

#[test]
fn only_at_the_target() {
    let late = |target| {
        let test = CriterionTest::LossLatest {
            limit: constant(0.1),
        };
        bench(test).at_target_only().target(target).losses(&[0.5])
    };
    check_not_applicable("an update before the target", late(201), OnlyAtTarget);
    check("at the target it applies", late(200), Err(None));
    check("past the target too", late(199), Err(None));
}

/// Thirty samples, ten in each third; a tenth is three.
fn thirds(first: f64, middle: f64, last: f64) -> Vec<f64> {
    [[first; 10], [middle; 10], [last; 10]].concat()
}

#[test]
fn loss_not_rising() {
    let rising = |tolerance, standard_errors: f64, losses: &[f64]| {
        let test = CriterionTest::LossNotRising {
            tolerance: scalar(tolerance),
            standard_errors: scalar(standard_errors),
        };
        bench(test).losses(losses)
    };
    let strict = |losses: &[f64]| rising(0.0, 0.0, losses);
    let few = |found| Err(Some(TooFewSamples { found, needed: 10 }));
    check("level passes", strict(&thirds(9.0, 1.0, 1.0)), Ok(()));
    check(
        "falling passes",
        strict(&thirds(9.0, 1.0, below(1.0))),
        Ok(()),
    );
    check(
        "just rising fails",
        strict(&thirds(9.0, 1.0, above(1.0))),
        Err(None),
    );
    check(
        "the first third does not count",
        strict(&thirds(0.0, 1.0, 1.0)),
        Ok(()),
    );
    check(
        "a rise of the tolerance passes",
        rising(0.5, 0.0, &thirds(9.0, 1.0, 1.5)),
        Ok(()),
    );
    check(
        "more fails",
        rising(0.5, 0.0, &thirds(9.0, 1.0, above(1.5))),
        Err(None),
    );
    let mut noisy = thirds(9.0, 0.0, 0.0);
    for place in 0..10 {
        noisy[10 + place] = if place % 2 == 0 { 0.0 } else { 2.0 };
        noisy[20 + place] = noisy[10 + place] + 0.9;
    }
    check(
        "a rise within two standard errors passes",
        rising(0.02, 2.0, &noisy),
        Ok(()),
    );
    check("but not within one", rising(0.02, 1.0, &noisy), Err(None));
    check("nine samples are too few", strict(&[1.0; 9]), few(9));
    check("ten are enough", strict(&[1.0; 10]), Ok(()));
    check("none are too few", strict(&[]), few(0));
    let mut broken = vec![1.0; 10];
    broken[0] = f64::NAN;
    check(
        "ten of which one is NaN are too few",
        strict(&broken),
        few(9),
    );
    let mut nan = thirds(1.0, 1.0, 1.0);
    nan[25] = f64::NAN;
    check(
        "a NaN in the last third fails",
        strict(&nan),
        Err(Some(NotFinite)),
    );
    let infinite = strict(&thirds(1.0, f64::INFINITY, 1.0));
    check(
        "falling from infinity fails",
        infinite,
        Err(Some(NotFinite)),
    );
}

#[test]
fn loss_delta() {
    let delta = |tolerance, standard_errors: f64, losses: &[f64]| {
        let test = CriterionTest::LossDelta {
            tolerance: scalar(tolerance),
            standard_errors: scalar(standard_errors),
        };
        bench(test).losses(losses)
    };
    let strict = |losses: &[f64]| delta(0.0, 0.0, losses);
    check("level passes", strict(&thirds(1.0, 9.0, 1.0)), Ok(()));
    check(
        "falling passes",
        strict(&thirds(1.0, 9.0, below(1.0))),
        Ok(()),
    );
    check(
        "just rising fails",
        strict(&thirds(1.0, 9.0, above(1.0))),
        Err(None),
    );
    check(
        "a rise of the tolerance passes",
        delta(0.5, 0.0, &thirds(1.0, 9.0, 1.5)),
        Ok(()),
    );
    check(
        "more fails",
        delta(0.5, 0.0, &thirds(1.0, 9.0, above(1.5))),
        Err(None),
    );
    let mut edges = thirds(9.0, 9.0, 9.0);
    edges[..3].fill(1.0);
    edges[27..].fill(1.0);
    check("it compares the outer tenths", strict(&edges), Ok(()));
    edges[27] = 1.5;
    check("all of the last tenth counts", strict(&edges), Err(None));
    edges[27..].copy_from_slice(&[0.5, 1.0, 1.75]);
    check(
        "within the noise of the tenths",
        delta(0.0, 2.0, &edges),
        Ok(()),
    );
    let few = Err(Some(TooFewSamples {
        found: 9,
        needed: 10,
    }));
    check("nine samples are too few", strict(&[1.0; 9]), few);
    check("ten are enough", strict(&[1.0; 10]), Ok(()));
    let infinite = strict(&thirds(f64::INFINITY, 1.0, 1.0));
    check(
        "falling from infinity fails",
        infinite,
        Err(Some(NotFinite)),
    );
    edges[29] = f64::NAN;
    check(
        "a NaN in the last tenth fails",
        strict(&edges),
        Err(Some(NotFinite)),
    );
}

#[test]
fn visual_structure() {
    let visual = || {
        bench(CriterionTest::VisualStructure {
            limits: structure_limits(),
            share: scalar(0.5),
        })
    };
    let drawn = |frames: &[StructureScores]| visual().picture(200, frames);
    let (sound, lost, blank) = (sound_frame(), lost_frame(), unscored_frame());
    check("sound frames pass", drawn(&[sound; 4]), Ok(()));
    check(
        "fewer than half lost pass",
        drawn(&[lost, sound, sound]),
        Ok(()),
    );
    check("half of them lost fail", drawn(&[lost, sound]), Err(None));
    check("all lost fail", drawn(&[lost; 2]), Err(None));
    check(
        "half of the scored ones too",
        drawn(&[lost, sound, blank]),
        Err(None),
    );
    check_not_applicable(
        "no frame to score",
        drawn(&[blank; 2]),
        NoStructureToMeasure,
    );
    let mut by_rules_1 = drawn(&[blank; 2]);
    by_rules_1.edition = Edition::One;
    check_not_applicable(
        "rules version 1 give the reason for skill",
        by_rules_1,
        NoSkillToMeasure,
    );
    check("no picture fails", visual(), Err(Some(NoPicture)));
    check(
        "a picture of nothing fails",
        drawn(&[]),
        Err(Some(NoPicture)),
    );
    let stale = visual().picture(199, &[sound; 4]);
    check(
        "a picture from before the gate fails",
        stale,
        Err(Some(NoPicture)),
    );
}

#[test]
fn when_a_frame_has_lost_its_structure() {
    let limits = structure_limits();
    let check = |name: &str, scores: StructureScores, want: bool| {
        assert_eq!(gate::structure_lost(&scores, &limits), want, "{name}");
    };
    let sound = sound_frame();
    let at = |value| Some(scalar(value));
    let flat = |value| StructureScores {
        flatness: at(value),
        ..sound
    };
    let striped = |value| StructureScores {
        stripes: at(value),
        ..sound
    };
    let blocky = |value| StructureScores {
        blockiness: at(value),
        ..sound
    };
    let alike = |value| StructureScores {
        ssim: at(value),
        ..sound
    };
    let wrong = |value| StructureScores {
        mse_ratio: at(value),
        ..sound
    };
    check("a good prediction keeps it", sound, false);
    check("as flat as allowed", flat(0.2), false);
    check("flatter", flat(below(0.2)), true);
    check("as lively as allowed", flat(5.0), false);
    check("livelier", flat(above(5.0)), true);
    check("as striped as allowed", striped(1.5), false);
    check("more striped", striped(above(1.5)), true);
    check("as blocky as allowed", blocky(3.0), false);
    check("blockier", blocky(above(3.0)), true);
    check("as unlike as allowed", alike(0.2), false);
    check("more unlike", alike(below(0.2)), true);
    check("as wrong as allowed", wrong(1.2), false);
    check("more wrong", wrong(above(1.2)), true);
    check("a NaN is lost", alike(f64::NAN), true);
    check(
        "also where there is only an upper limit",
        striped(f64::NAN),
        true,
    );
    check(
        "a score that does not apply does not count",
        unscored_frame(),
        false,
    );
}

#[test]
fn skill_above() {
    let skill = || {
        bench(CriterionTest::SkillAbove {
            metric: "skill".to_owned(),
            limit: constant(0.0),
        })
    };
    let scored = |loss| skill().held_out(200, loss, 1.0);
    check(
        "better than the trivial predictor passes",
        scored(below(1.0)),
        Ok(()),
    );
    check("as good fails", scored(1.0), Err(None));
    check("worse fails", scored(above(1.0)), Err(None));
    check("a NaN fails", scored(f64::NAN), Err(Some(NotFinite)));
    check(
        "an earlier held-out loss fails",
        skill().held_out(199, 0.1, 1.0),
        Err(missing("skill")),
    );
    let mut unscored = scored(0.1);
    unscored.chunk.held_out = None;
    check("no held-out loss fails", unscored, Err(missing("skill")));
    check(
        "a trivial loss of 1e-9 is measured",
        skill().held_out(200, 0.0, 1e-9),
        Ok(()),
    );
    let none = skill().held_out(200, 0.0, below(1e-9));
    check_not_applicable(
        "with a smaller one nothing can be measured",
        none,
        NoSkillToMeasure,
    );
    let infinite = skill().held_out(200, 0.0, f64::INFINITY);
    check("an infinite one fails", infinite, Err(Some(NotFinite)));
    let broken = skill().held_out(200, 0.0, f64::NAN);
    check("a NaN too", broken, Err(Some(NotFinite)));
    check(
        "a missing trivial loss fails",
        skill(),
        Err(missing("skill")),
    );
    let null = skill()
        .held_out(200, 0.0, 1.0)
        .trivial(metric::TRIVIAL_LOSS, None);
    check("a null one fails too", null, Err(missing("skill")));
    let moving = || {
        let test = CriterionTest::SkillAbove {
            metric: "skill_moving".to_owned(),
            limit: constant(0.0),
        };
        bench(test).held_out(200, 0.0, 1.0)
    };
    check(
        "skill and skill_moving are independent",
        moving(),
        Err(missing("skill_moving")),
    );
    check_not_applicable(
        "null means that no pixel moves",
        moving().trivial(metric::TRIVIAL_LOSS_MOVING, None),
        NoSkillToMeasure,
    );
}

#[test]
fn metrics_fresh() {
    let fresh = || bench(CriterionTest::MetricsFresh);
    let loss = || fresh().and_criterion(CriterionTest::LossFinite);
    let at = |step: u64| loss().samples("train/loss", step, &[1.0]);
    let stale = |last| {
        Err(Some(Stale {
            metric: "train/loss".to_owned(),
            last: Step::new(last),
            needed_after: Step::new(190),
        }))
    };
    check("nothing needed is fresh", fresh(), Ok(()));
    check("logged at the gate", at(200), Ok(()));
    check("logged within the interval", at(191), Ok(()));
    check("logged an interval ago", at(190), stale(190));
    check("logged long ago", at(101), stale(101));
    check("never logged", loss(), Err(missing("train/loss")));
    let entropy = fresh().and_criterion(CriterionTest::MetricAtLeast {
        metric: "action_entropy".to_owned(),
        limit: constant(0.4),
    });
    check(
        "another metric",
        entropy.losses(&[1.0]),
        Err(missing("action_entropy")),
    );
    let visual = || {
        fresh().and_criterion(CriterionTest::VisualStructure {
            limits: structure_limits(),
            share: scalar(0.5),
        })
    };
    check(
        "a new picture",
        visual().picture(200, &[sound_frame()]),
        Ok(()),
    );
    check(
        "an old picture",
        visual().picture(150, &[sound_frame()]),
        Err(Some(NoPicture)),
    );
    check("no picture", visual(), Err(Some(NoPicture)));
    let skill = || {
        fresh().and_criterion(CriterionTest::SkillAbove {
            metric: "skill".to_owned(),
            limit: constant(0.0),
        })
    };
    check("a held-out loss", skill().held_out(200, 1.0, 1.0), Ok(()));
    check(
        "an old one",
        skill().held_out(199, 1.0, 1.0),
        Err(missing("skill")),
    );
    check(
        "a trivial loss never measured",
        skill(),
        Err(missing("skill")),
    );
    check(
        "one with which nothing can be measured is enough",
        skill().held_out(199, 1.0, 0.0),
        Ok(()),
    );
    let both = loss().and_criterion(CriterionTest::LossLatest {
        limit: constant(1.0),
    });
    assert_eq!(
        both.result().value,
        Some(scalar(1.0)),
        "a metric counts once"
    );
}

#[test]
fn every_nan_is_stored_with_the_same_bits() {
    let least = || {
        bench(CriterionTest::MetricAtLeast {
            metric: "action_entropy".to_owned(),
            limit: constant(0.4),
        })
    };
    let latest = || {
        bench(CriterionTest::LossLatest {
            limit: constant(0.01),
        })
    };
    let bits = |bench: Bench| bench.result().value.map(Scalar::to_bits);
    for nan in [
        0x7ff8_0000_0000_0000,
        0xfff8_0000_0000_0000,
        0x7ff8_0000_0000_0005,
    ] {
        let one = [f64::from_bits(nan)];
        let stored = Some(0x7ff8_0000_0000_0000);
        assert_eq!(bits(latest().losses(&one)), stored, "{nan:x}");
        assert_eq!(
            bits(least().samples("action_entropy", 200, &one)),
            stored,
            "{nan:x}"
        );
    }
    let opposite = bench(CriterionTest::LossDelta {
        tolerance: scalar(0.02),
        standard_errors: scalar(0.0),
    });
    // Ten finite samples, but the means and their difference overflow.
    let mut losses = vec![1.0; 12];
    losses[0] = f64::INFINITY;
    losses[11] = f64::INFINITY;
    assert_eq!(bits(opposite.losses(&losses)), Some(0x7ff8_0000_0000_0000));
}
