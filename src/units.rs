//! Sizes for people.

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

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_short() {
        let check = |value: u64, want: &str| assert_eq!(bytes(value), want);
        check(999, "999 bytes");
        check(1_024_000, "1000 KiB");
        check(1_500_000, "1.4 MiB");
        check(17_565_916, "16.8 MiB");
        check(3 << 40, "3.0 TiB");
    }
}
