//! The learning-rate schedule: a pure function of the update, the target and the base rate.
//!
//! Nothing is kept between calls, so a new process, a new chunk or a changed base rate can never
//! restart the curve. The rate of update `u` (counted from 1) is `learning_rate(u - 1, ..)`.

/// Share of the target that is linear warm-up from 0.
const WARM_UP: f64 = 0.05;
/// The cosine's end, as a share of the base rate.
const FLOOR: f64 = 0.01;

/// Rate after `update` updates of a stage whose target is `target` (both counted in updates).
///
/// With `w = int(0.05 * target)`: `base * update / w` below `w`, then
/// `base * (0.01 + 0.99 * (1 + cos(pi * (update - w) / (target - w))) / 2)`, and `0.01 * base`
/// from the target on: an extension by a failed last gate does not reshape the curve.
pub fn learning_rate(update: u64, target: u64, base: f64) -> f64 {
    let warm_up = (target as f64 * WARM_UP) as u64;
    if update < warm_up {
        return base * (update as f64 / warm_up as f64);
    }
    if update >= target {
        return base * FLOOR;
    }
    let progress = (update - warm_up) as f64 / (target - warm_up) as f64;
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
    base * (FLOOR + (1.0 - FLOOR) * cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, update: u64, target: u64, want: f64) {
        let rate = learning_rate(update, target, 2.0);
        assert!((rate - want).abs() < 1e-12, "{name}: {rate}, wanted {want}");
    }

    #[test]
    fn the_curve_at_its_marks() {
        check("the first update has rate 0", 0, 1000, 0.0);
        check("half of the warm-up", 25, 1000, 1.0);
        check("one before the peak", 49, 1000, 1.96);
        check("the peak", 50, 1000, 2.0);
        check("half of the cosine", 525, 1000, 2.0 * 0.505);
        check(
            "a quarter past the half",
            525 + 237,
            1000,
            0.311_122_730_956_714,
        );
        check("the target", 1000, 1000, 0.02);
        check("one past the target", 1001, 1000, 0.02);
        check("far past the target", u64::MAX, 1000, 0.02);
        check("a target too short for a warm-up", 0, 19, 2.0);
        check("a warm-up of one update", 0, 20, 0.0);
        check("its second update", 1, 20, 2.0);
        check("a target of nothing", 0, 0, 0.02);
    }

    #[test]
    fn the_curve_never_rises_after_the_peak() {
        let mut before = f64::INFINITY;
        for update in 50..1100 {
            let rate = learning_rate(update, 1000, 1.0);
            assert!(rate <= before, "update {update}: {rate} after {before}");
            before = rate;
        }
    }
}
