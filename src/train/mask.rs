//! Which tokens the dynamics model must guess in one micro-batch (MaskGIT).
//!
//! The caller passes uniform numbers, which are used in a fixed order, so that a mask is a function of the counters they
//! come from. Invariant: every position `(b, p)` keeps at least one time step unmasked.

/// A mask over tokens `[batch, time, positions]`, row-major; `true` means masked, to be guessed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    pub batch: usize,
    pub time: usize,
    pub positions: usize,
    pub masked: Vec<bool>,
}

/// Draws the mask of one micro-batch from `uniforms`, numbers in `[0, 1)`.
///
/// Order: one number for the ratio `0.5 + 0.5 u`; one per token in row-major order, masked when
/// below the ratio; one per `(b, p)` for the time step `floor(u * time)` that stays unmasked.
pub fn maskgit_mask(
    batch: usize,
    time: usize,
    positions: usize,
    mut uniforms: impl FnMut() -> f64,
) -> TokenMask {
    let ratio = 0.5 + 0.5 * uniforms();
    let tokens = batch * time * positions;
    let mut masked: Vec<bool> = (0..tokens).map(|_| uniforms() < ratio).collect();
    for b in 0..batch {
        for p in 0..positions {
            let anchor = ((uniforms() * time as f64) as usize).min(time.saturating_sub(1));
            if let Some(token) = masked.get_mut((b * time + anchor) * positions + p) {
                *token = false;
            }
        }
    }
    TokenMask {
        batch,
        time,
        positions,
        masked,
    }
}

impl TokenMask {
    /// The mask of exactly the last time step.
    pub fn last_frame(batch: usize, time: usize, positions: usize) -> TokenMask {
        let is_last = |i: usize| (i / positions.max(1)) % time.max(1) + 1 == time;
        let masked = (0..batch * time * positions).map(is_last).collect();
        TokenMask {
            batch,
            time,
            positions,
            masked,
        }
    }

    /// The mask of some of the samples; those past the end are left out.
    pub fn samples(&self, from: usize, length: usize) -> TokenMask {
        let end = from.saturating_add(length).min(self.batch);
        let from = from.min(end);
        let tokens = self.time * self.positions;
        let masked = self.masked.get(from * tokens..end * tokens);
        TokenMask {
            batch: end - from,
            masked: masked.unwrap_or_default().to_vec(),
            ..*self
        }
    }

    /// Row-major indices of the masked tokens.
    pub fn indices(&self) -> Vec<i64> {
        (0_i64..)
            .zip(&self.masked)
            .filter_map(|(index, masked)| masked.then_some(index))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64, for tests only.
    fn uniforms(mut seed: u64) -> impl FnMut() -> f64 {
        move || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    #[track_caller]
    fn check(name: &str, numbers: &[f64], want: &[bool]) {
        let mut numbers = numbers.iter();
        let mask = maskgit_mask(1, 2, 2, || *numbers.next().unwrap());
        assert_eq!(mask.masked, want, "{name}");
        assert_eq!(numbers.next(), None, "{name}: numbers left over");
    }

    #[test]
    fn the_numbers_are_used_in_the_documented_order() {
        let (m, o) = (true, false);
        check(
            "all masked but the anchors",
            &[0.0, 0.1, 0.1, 0.1, 0.1, 0.0, 0.9],
            &[o, m, m, o],
        );
        check(
            "a number equal to the ratio does not mask",
            &[0.0, 0.5, 0.49, 0.5, 0.49, 0.0, 0.0],
            &[o, o, o, m],
        );
        check(
            "the ratio rises with the first number",
            &[0.8, 0.89, 0.89, 0.91, 0.89, 0.9, 0.0],
            &[m, o, o, m],
        );
        check(
            "the largest uniform is the last time step",
            &[0.0, 0.1, 0.1, 0.1, 0.1, 1.0 - f64::EPSILON, 0.5],
            &[m, m, o, o],
        );
    }

    #[test]
    fn every_position_keeps_an_unmasked_time_step_and_the_ratio_is_in_range() {
        for seed in 0..50 {
            let mask = maskgit_mask(3, 4, 25, uniforms(seed));
            for b in 0..3 {
                for p in 0..25 {
                    assert!(
                        (0..4).any(|t| !mask.masked[(b * 4 + t) * 25 + p]),
                        "seed {seed}, {b}, {p}"
                    );
                }
            }
            let share = mask.indices().len() as f64 / 300.0;
            assert!((0.25..0.76).contains(&share), "seed {seed}: {share}");
        }
    }

    #[test]
    fn a_mask_can_be_cut_by_samples() {
        let mask = maskgit_mask(5, 3, 4, uniforms(7));
        let parts = [(0, 2), (2, 2), (4, 1)].map(|(from, length)| mask.samples(from, length));
        let masked: Vec<bool> = parts.iter().flat_map(|part| part.masked.clone()).collect();
        assert_eq!(masked, mask.masked);
        assert_eq!(parts.map(|part| part.batch), [2, 2, 1]);
        assert_eq!(mask.samples(0, 5), mask);
        assert_eq!(mask.samples(4, 9).batch, 1, "beyond its end");
    }

    #[test]
    fn the_last_frame_mask_hides_the_last_frame() {
        let mask = TokenMask::last_frame(2, 3, 2);
        assert_eq!(mask.indices(), [4, 5, 10, 11]);
    }
}
