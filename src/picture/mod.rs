//! Predicted frames beside true ones: as numbers that a gate decides by, and as a picture that a person looks at.
//!
//! [`structure`] scores predictions against truth, and [`png`] draws what was scored. Both work on bytes: with the mean
//! image of the data and the patch size, the scores can be computed again from the picture in the run directory. Which
//! scores mean that a scene has collapsed is decided by the gate.
//!
//! Nothing here touches libtorch or asks a model anything.
//!
//! Invariant: the same frames, mean image and patch size give the same scores and the same picture.

pub mod png;
pub mod structure;

/// The byte that shows a model's output in [-1, 1]: `(x + 1) * 127.5`, rounded half away from zero and clamped. NaN
/// is black, so that it scores badly.
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
    fn every_byte_survives_the_way_to_the_model_and_back() {
        for byte in 0..=255_u8 {
            assert_eq!(byte_of(f32::from(byte) / 127.5 - 1.0), byte);
        }
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.5, 1.5];
        assert_eq!(odd.map(byte_of), [0, 255, 0, 0, 255]);
    }
}
