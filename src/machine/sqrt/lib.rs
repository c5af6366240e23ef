//! The one function of a maths library that a decision may call.
//!
//! IEEE 754 fixes the bits of a square root, as it does those of `+ - * /`. It fixes those of no
//! other function here, so this crate exports nothing else, and the machine depends on no
//! maths library itself.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// The square root, rounded to nearest, ties to even. NaN below 0.
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
    fn values_at_the_edges() {
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

    /// Squares and their neighbours are where rounding is decided.
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
    fn bit_patterns_of_every_kind() {
        // A multiplicative sequence modulo 2^64 reaches every exponent and both signs.
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..1_000_000 {
            check(f64::from_bits(bits));
            bits = bits.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        }
    }
}
