//! The statistics that gates need, with the same bits on every machine.
//!
//! They use only `+ - * /`, square root and comparisons, whose results IEEE 754 defines
//! exactly, so decisions do not depend on a maths library. Sums add in the given order.

use alloc::vec::Vec;

use tinygate_sqrt::sqrt;

/// Arithmetic mean. `None` for no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| sum(values) / values.len() as f64)
}

/// Median, with NaN sorted as plus infinity. For an even number of values, the mean of the
/// middle two. `None` for no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values
        .iter()
        .map(|value| {
            if value.is_nan() {
                f64::INFINITY
            } else {
                *value
            }
        })
        .collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(middle.checked_sub(1)?)?;
    Some((lower + upper) / 2.0)
}

/// Unbiased sample variance; 0 for fewer than two values.
pub fn variance(values: &[f64]) -> f64 {
    let Some(mean) = mean(values).filter(|_| values.len() > 1) else {
        return 0.0;
    };
    let squares: Vec<f64> = values
        .iter()
        .map(|value| (value - mean) * (value - mean))
        .collect();
    sum(&squares) / (values.len() - 1) as f64
}

/// Standard error of the difference of two means.
pub fn standard_error_of_difference(a: &[f64], b: &[f64]) -> f64 {
    let share = |values: &[f64]| {
        if values.is_empty() {
            0.0
        } else {
            variance(values) / values.len() as f64
        }
    };
    sqrt(share(a) + share(b))
}

/// Squared Pearson correlation. `None` if a variance is 0 or a value is not finite.
pub fn r_squared(pairs: &[(f64, f64)]) -> Option<f64> {
    let xs: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
    let ys: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    if is_constant(&xs) || is_constant(&ys) {
        return None;
    }
    let (mean_x, mean_y) = (mean(&xs)?, mean(&ys)?);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xy += dx * dy;
        xx += dx * dx;
        yy += dy * dy;
    }
    let r_squared = xy / xx * (xy / yy);
    (xx > 0.0 && yy > 0.0 && r_squared.is_finite()).then_some(r_squared)
}

/// Whether the exact variance is 0; the computed one may be larger because of rounding.
fn is_constant(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

/// The windows of samples that criteria compare.
pub struct Windows<'a> {
    pub middle_third: &'a [f64],
    pub last_third: &'a [f64],
    pub first_tenth: &'a [f64],
    pub last_tenth: &'a [f64],
}

/// For `n` samples, with integer division: `[n/3, 2n/3)`, `[2n/3, n)`, and tenths of `max(1, n/10)`.
pub fn windows(samples: &[f64]) -> Windows<'_> {
    let n = samples.len();
    let (first, second) = (n / 3, 2 * n / 3);
    let tenth = (n / 10).max(1).min(n);
    Windows {
        middle_third: &samples[first..second],
        last_third: &samples[second..],
        first_tenth: &samples[..tenth],
        last_tenth: &samples[n - tenth..],
    }
}

fn sum(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |total, value| total + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_median(name: &str, values: &[f64], want: Option<f64>) {
        assert_eq!(median(values), want, "{name}");
    }

    #[test]
    fn medians() {
        check_median("no values", &[], None);
        check_median("one value", &[3.0], Some(3.0));
        check_median("order does not matter", &[3.0, 1.0, 2.0], Some(2.0));
        check_median("the mean of two values", &[1.0, 2.0], Some(1.5));
        check_median(
            "a NaN sorts as plus infinity",
            &[f64::NAN, 1.0, 2.0],
            Some(2.0),
        );
        check_median(
            "most NaN is infinite",
            &[f64::NAN, f64::NAN, 2.0],
            Some(f64::INFINITY),
        );
        check_median(
            "a negative NaN sorts last too",
            &[-f64::NAN, 1.0, 2.0],
            Some(2.0),
        );
    }

    #[track_caller]
    fn check_windows(n: usize, thirds: (usize, usize), tenth: usize) {
        let samples: Vec<f64> = (0..n).map(|i| i as f64).collect();
        let windows = windows(&samples);
        assert_eq!(
            (windows.middle_third.len(), windows.last_third.len()),
            thirds,
            "{n} samples"
        );
        assert_eq!(windows.first_tenth.len(), tenth, "{n} samples");
        assert_eq!(windows.last_tenth.len(), tenth, "{n} samples");
        assert_eq!(windows.last_tenth.last(), samples.last(), "{n} samples");
    }

    #[test]
    fn window_sizes_use_integer_division() {
        check_windows(0, (0, 0), 0);
        check_windows(1, (0, 1), 1);
        check_windows(10, (3, 4), 1);
        check_windows(11, (4, 4), 1);
        check_windows(20, (7, 7), 2);
        check_windows(5000, (1667, 1667), 500);
    }

    #[test]
    fn variances_and_correlation() {
        assert_eq!(variance(&[1.0, 2.0, 3.0]), 1.0);
        assert_eq!(variance(&[7.0]), 0.0);
        assert_eq!(
            standard_error_of_difference(&[1.0, 3.0], &[2.0, 4.0]),
            2.0_f64.sqrt()
        );
        assert_eq!(r_squared(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]), Some(1.0));
        assert_eq!(
            r_squared(&[(1.0, 5.0), (2.0, 5.0)]),
            None,
            "a constant has no correlation"
        );
        let tenth = |i: i32| (0.1, f64::from(i));
        assert_eq!(
            r_squared(&[tenth(1), tenth(2), tenth(4), tenth(8), tenth(9), tenth(11)]),
            None,
            "nor has a constant whose mean is rounded"
        );
        assert_eq!(r_squared(&[]), None);
        assert_eq!(r_squared(&[(1.0, f64::NAN), (2.0, 3.0)]), None);
    }
}
