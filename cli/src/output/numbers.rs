//! Numbers for people: short, and never wrong about their size.

/// Four significant digits, and no fewer than the whole number has, as `explain` gives them too.
/// JSON gets shortest round-trip decimals instead.
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
    if (1e3..1e7).contains(&value.abs().round()) {
        return format!("{value:.0}");
    }
    let rounded: f64 = format!("{value:.3e}").parse().unwrap_or(value);
    let size = rounded.abs();
    if rounded == 0.0 {
        "0".to_owned()
    } else if (1e-4..1e6).contains(&size) {
        format!("{rounded}")
    } else {
        format!("{rounded:e}")
    }
}

/// A count with its thousands set apart.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let check = |value: f64, want: &str| assert_eq!(number(value), want, "{value:?}");
        check(0.0, "0");
        check(0.0005, "0.0005");
        check(0.000_770_37, "0.0007704");
        check(12.345_678, "12.35");
        check(5000.0, "5000");
        check(-13_927.3, "-13927");
        check(999.96, "1000");
        check(123_456_789.0, "1.235e8");
        check(3e-5, "3e-5");
        check(-1.5, "-1.5");
        check(f64::NAN, "nan");
        check(f64::NEG_INFINITY, "-inf");
        check(1e300, "1e300");
    }

    #[test]
    fn times_and_sizes() {
        let check = |found: String, want: &str| assert_eq!(found, want);
        check(duration(0.84), "0.8 s");
        check(duration(9.97), "10 s");
        check(duration(187.2), "3:07");
        check(duration(7387.0), "2:03:07");
        check(duration(f64::INFINITY), "?");
        check(count(1_234_567), "1,234,567");
        check(count(12), "12");
        check(timestamp(0), "1970-01-01 00:00:00");
        check(timestamp(951_782_400_000), "2000-02-29 00:00:00");
        check(timestamp(1_795_417_200_000), "2026-11-23 07:00:00");
        check(timestamp(u64::MAX), "584556019-04-03 14:25:51");
    }
}
