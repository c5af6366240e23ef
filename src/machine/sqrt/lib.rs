//! The square root: the only maths-library function that a decision may call.
//!
//! IEEE 754 defines the result of a square root exactly, as it does for `+ - * /`, but not those of
//! other functions. So this crate exports nothing else, and the machine itself depends on no maths
//! library.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// The square root, rounded to nearest, ties to even. NaN for negative values.
pub fn sqrt(value: f64) -> f64 {
    libm::sqrt(value)
}

#[cfg(test)]
mod tests {
    use super::sqrt;

    #[track_caller]
    fn check(value: f64) {
        let (found, want) = (sqrt(value), value.sqrt());
        if want.is_nan() {
            assert!(found.is_nan(), "sqrt({value:e}) = {found:e}");
        } else {
            assert_eq!(
                found.to_bits(),
                want.to_bits(),
                "sqrt({value:e}) = {found:e}, expected {want:e}"
            );
        }
    }

    #[test]
    fn edge_cases() {
        for value in [
            0.0,
            -0.0,
            1.0,
            2.0,
            -1.0,
            f64::MIN_POSITIVE,
            f64::from_bits(1),
            f64::from_bits(0x000f_ffff_ffff_ffff),
            f64::MAX,
            f64::MIN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            f64::EPSILON,
            1.0 - f64::EPSILON / 2.0,
            1.0 + f64::EPSILON,
        ] {
            check(value);
        }
    }

    /// Rounding errors show at squares and their neighbours.
    #[test]
    fn squares_and_their_neighbours() {
        for root in 1..20_000_u32 {
            let square = f64::from(root) * f64::from(root);
            check(square);
            check(square.next_up());
            check(square.next_down());
        }
    }

    #[test]
    fn many_bit_patterns() {
        // A linear congruential sequence modulo 2^64 reaches every exponent and both signs.
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..1_000_000 {
            check(f64::from_bits(bits));
            bits = bits.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        }
    }
}
