//! Compares predicted frames with true ones: as scores for the gate, and as a picture for people.
//!
//! [`structure`] scores predictions against truth, and [`png`] draws the frames that were scored. Both work on bytes, so the
//! scores can be computed again from the picture in the run directory, with the data's mean image and the patch size. The
//! gate decides which scores mean that a scene has collapsed.
//!
//! Nothing here depends on libtorch or runs a model.
//!
//! Invariant: the same frames, mean image and patch size give the same scores and the same picture.

pub mod png;
pub mod structure;

/// The byte for a model's output in [-1, 1]: `(x + 1) * 127.5`, clamped and rounded half away from zero. NaN becomes 0
/// (black), so that it scores badly.
pub fn byte_of(output: f32) -> u8 {
    let steps = (output + 1.0) * 127.5;
    if steps.is_nan() {
        0
    } else {
        steps.round().clamp(0.0, 255.0) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_round_trips_through_the_models_scale() {
        for byte in 0..=255_u8 {
            assert_eq!(byte_of(f32::from(byte) / 127.5 - 1.0), byte);
        }
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.5, 1.5];
        assert_eq!(odd.map(byte_of), [0, 255, 0, 0, 255]);
    }
}
