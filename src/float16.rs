//! 16-bit floats, an element type of tensors and arrays.

/// Converts a `float16` (IEEE 754 binary16) exactly.
pub fn half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(bits & 0x3FF);
    match bits >> 10 & 0x1F {
        // 2^-24 is the smallest number above 0.
        0 => sign * fraction * (1.0 / 16_777_216.0),
        31 if bits & 0x3FF == 0 => sign * f32::INFINITY,
        31 => f32::NAN,
        // The exponent's bias is 15 here and 127 there.
        exponent => f32::from_bits(
            u32::from(bits & 0x8000) << 16
                | (u32::from(exponent) + 112) << 23
                | u32::from(bits & 0x3FF) << 13,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bits: u16, want: f32) {
        assert_eq!(half(bits).to_bits(), want.to_bits(), "{bits:#06x}");
    }

    #[test]
    fn halves_are_widened_exactly() {
        check(0x0000, 0.0);
        check(0x8000, -0.0);
        check(0x3C00, 1.0);
        check(0xC000, -2.0);
        check(0x3555, 0.333_251_95);
        check(0x7BFF, 65504.0);
        check(0x0400, 6.103_515_6e-5);
        check(0x0001, 5.960_464_5e-8);
        check(0x83FF, -1023.0 / 16_777_216.0);
        check(0x7C00, f32::INFINITY);
        check(0xFC00, f32::NEG_INFINITY);
        assert!(half(0x7E01).is_nan());
    }
}
