//! Numbers as people read them.

use tinygate_events::{Scalar, SettingValue};

/// Digits that count.
const DIGITS: i32 = 4;

/// Four digits that count, without zeros behind the point; `not a number` and `infinite` in words.
pub fn short(value: f64) -> String {
    if value.is_nan() {
        return "not a number".to_owned();
    }
    if value.is_infinite() {
        return if value < 0.0 {
            "minus infinite".to_owned()
        } else {
            "infinite".to_owned()
        };
    }
    // `1.23e-5`: the exponent says where the first digit stands.
    let scientific = format!("{value:.*e}", DIGITS as usize - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-5..7).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or(0);
        without_zeros(&format!("{value:.decimals$}"))
    } else {
        format!("{}e{exponent}", without_zeros(mantissa))
    }
}

pub fn of(value: Option<Scalar>) -> String {
    value.map_or("none".to_owned(), |value| short(value.get()))
}

/// A setting's value, with every digit.
pub fn setting(value: SettingValue) -> String {
    match value {
        SettingValue::Count(count) => count.to_string(),
        SettingValue::Real(real) => real.to_string(),
    }
}

/// How many times: two digits that count below ten, whole numbers above.
pub fn times(factor: f64) -> String {
    if factor < 9.95 {
        without_zeros(&format!("{factor:.1}"))
    } else {
        format!("{factor:.0}")
    }
}

pub fn plural(count: u64, one: &str, many: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{count} {many}")
    }
}

fn without_zeros(digits: &str) -> String {
    if digits.contains('.') {
        digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    } else {
        digits.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: f64, want: &str) {
        assert_eq!(short(value), want);
    }

    #[test]
    fn short_numbers() {
        check(0.0, "0");
        check(0.01, "0.01");
        check(0.00077, "0.00077");
        check(1.0 / 3.0, "0.3333");
        check(1.5e-7, "1.5e-7");
        check(299_792.458, "299792");
        check(12_345_678.0, "1.235e7");
        check(-2.5, "-2.5");
        check(9.9999, "10");
        check(f64::NAN, "not a number");
        check(f64::NEG_INFINITY, "minus infinite");
        assert_eq!(times(0.01 / 0.00077), "13");
        assert_eq!(times(1.25), "1.2");
    }
}
