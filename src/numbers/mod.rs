//! Numbers as people read them: the one place that says how a number is printed.
//!
//! | what | function | example |
//! |---|---|---|
//! | a measured value: a loss, a skill, a limit, a rate | [`number`] | `0.01235` |
//! | a share of one | [`percent`] | `12.5 %` |
//! | how many times as much | [`times`] | `13` |
//! | how many, alone or in a table | [`count`] | `1,234,567` |
//! | how many, with a noun | [`plural`] | `1 event`, `1,200 events` |
//! | updates per second | [`rate`] | `10.0` |
//! | a size in memory or on disk | [`bytes`] | `16.8 MiB` |
//! | a span of time | [`duration`] | `2:03:07` |
//! | a point in time | [`timestamp`] | `2026-11-23 07:15:02` |
//!
//! Numbers of updates, chunks and events that name a place (`update 1200`) are printed as they
//! are, and so are settings, since a reader copies them into a config. JSON has shortest
//! round-trip decimals. Depends on no other crate of tinygate.

/// Significant digits of a measured value.
const DIGITS: i32 = 4;

/// Four significant digits, or more if the integer part has more; without trailing zeros. `nan`,
/// `inf` and `-inf` as in JSON.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan".to_owned()
        } else if value < 0.0 {
            "-inf".to_owned()
        } else {
            "inf".to_owned()
        };
    }
    // `1.23e-5`: the exponent is the place of the first digit.
    let scientific = format!("{value:.*e}", DIGITS as usize - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..7).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or(0);
        without_zeros(&format!("{value:.decimals$}"))
    } else {
        format!("{}e{exponent}", without_zeros(mantissa))
    }
}

/// A share of one, in percent.
pub fn percent(share: f64) -> String {
    format!("{} %", number(share * 100.0))
}

/// A factor: two significant digits below ten, whole numbers above.
pub fn times(factor: f64) -> String {
    if factor < 9.95 {
        without_zeros(&format!("{factor:.1}"))
    } else {
        format!("{factor:.0}")
    }
}

/// A count with thousands separators.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with its noun.
pub fn plural(count: u64, one: &str, many: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{} {many}", self::count(count))
    }
}

/// Updates per second, with one decimal so that a line that is redrawn does not jump.
pub fn rate(updates_per_second: f64) -> String {
    format!("{updates_per_second:.1}")
}

/// Bytes in the largest unit that leaves a whole number.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut size = value as f64;
    let mut unit = 0;
    while 1024.0 <= size && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("bytes");
    if unit == 0 || 99.5 <= size {
        format!("{size:.0} {name}")
    } else {
        format!("{size:.1} {name}")
    }
}

/// Seconds as `0.8 s`, `12 s`, `3:07`, `2:03:07`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes}:{rest:02}"),
        _ => format!("{hours}:{minutes:02}:{rest:02}"),
    }
}

/// Milliseconds since 1970 as `2026-11-23 07:15:02` UTC (Hinnant, "chrono-compatible low-level date algorithms").
pub fn timestamp(time_ms: u64) -> String {
    let seconds = time_ms / 1000;
    let (day, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
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

    #[test]
    fn measured_values_have_four_significant_digits() {
        let check = |value: f64, want: &str| assert_eq!(number(value), want, "{value:?}");
        check(0.0, "0");
        check(-0.0, "-0");
        check(0.01, "0.01");
        check(0.0005, "0.0005");
        check(0.000_770_37, "0.0007704");
        check(1.0 / 3.0, "0.3333");
        check(12.345_678, "12.35");
        check(5000.0, "5000");
        check(-13_927.3, "-13927");
        check(-2.5, "-2.5");
        check(9.9999, "10");
        check(999.96, "1000");
        check(299_792.458, "299792");
        check(123_456_789.0, "1.235e8");
        check(0.0001, "0.0001");
        check(3e-5, "3e-5");
        check(1.5e-7, "1.5e-7");
        check(1e300, "1e300");
        check(f64::NAN, "nan");
        check(f64::INFINITY, "inf");
        check(f64::NEG_INFINITY, "-inf");
        assert_eq!(percent(0.125), "12.5 %");
    }

    #[test]
    fn factors_are_short() {
        assert_eq!(times(0.01 / 0.00077), "13");
        assert_eq!(times(1.25), "1.2");
    }

    #[test]
    fn counts_sizes_and_times() {
        let check = |found: String, want: &str| assert_eq!(found, want);
        check(count(1_234_567), "1,234,567");
        check(count(12), "12");
        check(plural(1, "event", "events"), "1 event");
        check(plural(0, "event", "events"), "0 events");
        check(plural(1200, "event", "events"), "1,200 events");
        check(rate(10.0), "10.0");
        check(duration(0.84), "0.8 s");
        check(duration(9.97), "10 s");
        check(duration(187.2), "3:07");
        check(duration(7387.0), "2:03:07");
        check(duration(f64::INFINITY), "?");
        check(timestamp(0), "1970-01-01 00:00:00");
        check(timestamp(951_782_400_000), "2000-02-29 00:00:00");
        check(timestamp(1_795_417_200_000), "2026-11-23 07:00:00");
        check(timestamp(u64::MAX), "584556019-04-03 14:25:51");
        check(bytes(999), "999 bytes");
        check(bytes(1_024_000), "1000 KiB");
        check(bytes(1_500_000), "1.4 MiB");
        check(bytes(17_565_916), "16.8 MiB");
        check(bytes(3 << 40), "3.0 TiB");
    }
}
