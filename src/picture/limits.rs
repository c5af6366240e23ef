//! Which structure scores mean that a predicted frame has lost the scene, and when a gate fails for it.
//!
//! Pure: plain numbers in, a verdict out, by comparisons and one division, so that the state machine can decide by it
//! and an auditor can decide again.
//!
//! Invariant: a score that is not a number, or on the wrong side of its limit, is a fault; one that is not applicable
//! is none; equal to the limit passes.

use serde::{Deserialize, Serialize};

/// The structure scores of one predicted frame, or of several pooled; `None` where a ratio has no denominator.
/// `picture::structure` counts them and gives the formulas.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FrameScores {
    /// Variance of the prediction over that of the truth: 0 for a flat picture, 1 for a true one.
    pub flatness: Option<f64>,
    /// Share of the variance that whole rows or whole columns explain, beyond the truth's share: 1 for pure stripes,
    /// 0 for as striped as the truth.
    pub stripes: Option<f64>,
    /// Gradient energy across patch borders over that inside patches, against the truth's: 1 for as blocky as the truth.
    pub blockiness: Option<f64>,
    /// Structural similarity to the truth, weighted by where there is something to see: 1 for a true picture, near 0
    /// for one that has nothing to do with it.
    pub ssim: Option<f64>,
    /// Squared error over that of the mean image: 0 for a true picture, 1 for the mean image, 2 for one as lively as
    /// the truth that has nothing to do with it.
    pub mse_ratio: Option<f64>,
}

/// When a frame counts as collapsed, and how many such frames fail a gate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StructureLimits {
    pub flatness_min: f64,
    pub stripes_max: f64,
    pub blockiness_max: f64,
    pub ssim_min: f64,
    pub mse_ratio_max: f64,
    /// The gate fails when at least this share of the judged frames is collapsed.
    pub collapsed_share: f64,
}

impl StructureLimits {
    /// Found by experiment on two games, between the fakes and the poorest predictions that still show the scene;
    /// `tests/structure_scores.rs` holds both.
    pub const STANDARD: Self = Self {
        flatness_min: 0.05,
        stripes_max: 0.5,
        blockiness_max: 6.0,
        ssim_min: 0.25,
        mse_ratio_max: 2.0,
        collapsed_share: 0.5,
    };
}

/// One way in which a frame has lost the scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Hardly any variance is left.
    Flat,
    /// Rows or columns explain most of it.
    Striped,
    /// The patches' borders stand out.
    Blocky,
    /// It does not look like the truth.
    Unlike,
    /// It is further from the truth than a picture of anything else would be.
    Far,
}

/// The faults of one frame, in the order of [`Fault`].
pub fn faults(
    scores: &FrameScores,
    limits: &StructureLimits,
) -> impl Iterator<Item = Fault> + use<> {
    // Written so that a score or a limit that is not a number is a fault.
    let below = |score: Option<f64>, max: f64| score.is_none_or(|score| score <= max);
    let above = |score: Option<f64>, min: f64| score.is_none_or(|score| score >= min);
    [
        (above(scores.flatness, limits.flatness_min), Fault::Flat),
        (below(scores.stripes, limits.stripes_max), Fault::Striped),
        (
            below(scores.blockiness, limits.blockiness_max),
            Fault::Blocky,
        ),
        (above(scores.ssim, limits.ssim_min), Fault::Unlike),
        (below(scores.mse_ratio, limits.mse_ratio_max), Fault::Far),
    ]
    .into_iter()
    .filter_map(|(passes, fault)| (!passes).then_some(fault))
}

/// Whether a frame has lost the scene: it has at least one fault.
pub fn frame_collapsed(scores: &FrameScores, limits: &StructureLimits) -> bool {
    faults(scores, limits).next().is_some()
}

/// Share of the judged frames that are collapsed: the value of the criterion. `None` (not applicable) when no frame
/// has any score, as on frames that equal the mean image.
pub fn collapsed_share(frames: &[FrameScores], limits: &StructureLimits) -> Option<f64> {
    let judged = frames.iter().filter(|scores| is_judged(scores)).count();
    let collapsed = frames
        .iter()
        .filter(|scores| frame_collapsed(scores, limits))
        .count();
    (judged > 0).then(|| collapsed as f64 / judged as f64)
}

/// Whether the scene keeps its structure over all frames; `None` when that is not applicable.
pub fn structure_kept(frames: &[FrameScores], limits: &StructureLimits) -> Option<bool> {
    collapsed_share(frames, limits).map(|share| share < limits.collapsed_share)
}

fn is_judged(scores: &FrameScores) -> bool {
    let FrameScores {
        flatness,
        stripes,
        blockiness,
        ssim,
        mse_ratio,
    } = scores;
    [flatness, stripes, blockiness, ssim, mse_ratio]
        .iter()
        .any(|score| score.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: FrameScores = FrameScores {
        flatness: None,
        stripes: None,
        blockiness: None,
        ssim: None,
        mse_ratio: None,
    };
    const GOOD: FrameScores = FrameScores {
        flatness: Some(1.0),
        stripes: Some(0.0),
        blockiness: Some(1.0),
        ssim: Some(1.0),
        mse_ratio: Some(0.0),
    };

    #[track_caller]
    fn check(name: &str, scores: FrameScores, want: &[Fault]) {
        let found: Vec<Fault> = faults(&scores, &StructureLimits::STANDARD).collect();
        assert_eq!(found, want, "{name}");
        assert_eq!(
            frame_collapsed(&scores, &StructureLimits::STANDARD),
            !want.is_empty(),
            "{name}"
        );
    }

    #[test]
    fn each_score_is_judged_at_its_limit() {
        let just = |value: f64, up: bool| {
            Some(if up {
                value.next_up()
            } else {
                value.next_down()
            })
        };
        check("a true picture", GOOD, &[]);
        check(
            "flatness at the limit",
            FrameScores {
                flatness: Some(0.05),
                ..GOOD
            },
            &[],
        );
        check(
            "flatness just below",
            FrameScores {
                flatness: just(0.05, false),
                ..GOOD
            },
            &[Fault::Flat],
        );
        check(
            "stripes at the limit",
            FrameScores {
                stripes: Some(0.5),
                ..GOOD
            },
            &[],
        );
        check(
            "stripes just above",
            FrameScores {
                stripes: just(0.5, true),
                ..GOOD
            },
            &[Fault::Striped],
        );
        check(
            "blockiness at the limit",
            FrameScores {
                blockiness: Some(6.0),
                ..GOOD
            },
            &[],
        );
        check(
            "blockiness just above",
            FrameScores {
                blockiness: just(6.0, true),
                ..GOOD
            },
            &[Fault::Blocky],
        );
        check(
            "ssim at the limit",
            FrameScores {
                ssim: Some(0.25),
                ..GOOD
            },
            &[],
        );
        check(
            "ssim just below",
            FrameScores {
                ssim: just(0.25, false),
                ..GOOD
            },
            &[Fault::Unlike],
        );
        check(
            "mse_ratio at the limit",
            FrameScores {
                mse_ratio: Some(2.0),
                ..GOOD
            },
            &[],
        );
        check(
            "mse_ratio just above",
            FrameScores {
                mse_ratio: just(2.0, true),
                ..GOOD
            },
            &[Fault::Far],
        );
        check(
            "less striped than the truth",
            FrameScores {
                stripes: Some(-5.0),
                ..GOOD
            },
            &[],
        );
        let nan = Some(f64::NAN);
        let all = [
            Fault::Flat,
            Fault::Striped,
            Fault::Blocky,
            Fault::Unlike,
            Fault::Far,
        ];
        check(
            "no number never passes",
            FrameScores {
                flatness: nan,
                stripes: nan,
                blockiness: nan,
                ssim: nan,
                mse_ratio: nan,
            },
            &all,
        );
        check(
            "infinite error",
            FrameScores {
                mse_ratio: Some(f64::INFINITY),
                ..GOOD
            },
            &[Fault::Far],
        );
        check("nothing applicable", NONE, &[]);
    }

    #[track_caller]
    fn check_gate(name: &str, good: usize, bad: usize, none: usize, want: Option<bool>) {
        let flat = FrameScores {
            flatness: Some(0.0),
            ..NONE
        };
        let frames = [vec![GOOD; good], vec![flat; bad], vec![NONE; none]].concat();
        assert_eq!(
            structure_kept(&frames, &StructureLimits::STANDARD),
            want,
            "{name}"
        );
    }

    #[test]
    fn half_of_the_judged_frames_decide() {
        check_gate("all good", 16, 0, 0, Some(true));
        check_gate("one less than half collapsed", 9, 7, 0, Some(true));
        check_gate("exactly half collapsed", 8, 8, 0, Some(false));
        check_gate(
            "frames without any score do not count",
            1,
            1,
            14,
            Some(false),
        );
        check_gate("no frame has any score", 0, 0, 16, None);
        check_gate("no frame", 0, 0, 0, None);
        let nan = StructureLimits {
            collapsed_share: f64::NAN,
            ..StructureLimits::STANDARD
        };
        assert_eq!(structure_kept(&[GOOD], &nan), Some(false));
    }
}
