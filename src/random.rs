//! Counter-based randomness: a stream depends on where it is used, not on what was drawn before.
//!
//! A [`StreamKey`] (run seed, stage, restart number, absolute update, shard, purpose) is absorbed by BLAKE3 in its
//! key-derivation mode, and the stream is BLAKE3's extendable output, read as little-endian words. There is no state to
//! save, so a resumed run draws the same numbers as an uninterrupted one.
//!
//! Nothing here uses a clock, the operating system's randomness or a floating-point function.
//!
//! Invariant: the same key gives the same numbers on every machine and in every version. The golden values in the tests
//! are part of the format of a run; changing them requires a new [`CONTEXT`].

use blake3::{Hasher, OutputReader};
use std::num::NonZeroU64;

/// Separates these streams from every other use of BLAKE3; the version at the end is the construction's.
pub const CONTEXT: &str = "tinygate counter-based randomness v1";

/// Bytes read from the generator at a time: sixteen of BLAKE3's output blocks.
const BUFFER_BYTES: usize = 1024;

/// Identifies a stream of random numbers. Keys that differ in any field have independent streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamKey<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The stage's name.
    pub stage: &'a str,
    /// How many times the stage was restarted.
    pub restart: u64,
    /// Absolute update within the stage. Numbers drawn per epoch or only once use another counter here.
    pub update: u64,
    /// `micro_batch * world_size + rank`.
    pub shard: u64,
    /// What the numbers are for, such as `"mask"`; one name per use.
    pub purpose: &'a str,
}

impl StreamKey<'_> {
    /// The stream of this key, from its beginning.
    pub fn stream(&self) -> Stream {
        let mut hasher = Hasher::new_derive_key(CONTEXT);
        hasher.update(&self.seed.to_le_bytes());
        absorb_text(&mut hasher, self.stage);
        hasher.update(&self.restart.to_le_bytes());
        hasher.update(&self.update.to_le_bytes());
        hasher.update(&self.shard.to_le_bytes());
        absorb_text(&mut hasher, self.purpose);
        Stream {
            output: hasher.finalize_xof(),
            buffer: [0; BUFFER_BYTES],
            used: BUFFER_BYTES,
        }
    }
}

/// Random numbers in the order they are drawn; a draw takes 4 or 8 bytes of the generator's output.
#[derive(Clone)]
pub struct Stream {
    output: OutputReader,
    buffer: [u8; BUFFER_BYTES],
    used: usize,
}

impl Stream {
    /// 64 uniform bits: the next eight bytes, little-endian.
    pub fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// 32 uniform bits: the next four bytes, little-endian.
    pub fn next_u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// Uniform in `0..n` without bias: the high word of `x * n`, drawn again while the low word is below
    /// `2^64 mod n` (Lemire 2019, "Fast random integer generation in an interval").
    pub fn below(&mut self, n: NonZeroU64) -> u64 {
        let n = n.get();
        let threshold = n.wrapping_neg() % n;
        // A draw is rejected with probability below one half for any `n`, so the loop ends.
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Uniform in [0, 1), a multiple of 2^-24, each as likely as the others.
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1_u32 << 24) as f32
    }

    /// Uniform in [0, 1), a multiple of 2^-53, each as likely as the others.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Shuffles `items`; every order is equally likely (Fisher-Yates, from the end).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let choices = NonZeroU64::MIN.saturating_add(last as u64);
            let chosen = self.below(choices) as usize;
            items.swap(last, chosen);
        }
    }

    /// The next `N` bytes. If fewer are left in the buffer, they are dropped and the buffer is filled again.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > BUFFER_BYTES {
            self.output.fill(&mut self.buffer);
            self.used = 0;
        }
        let mut word = [0; N];
        word.copy_from_slice(&self.buffer[self.used..self.used + N]);
        self.used += N;
        word
    }
}

/// Absorbs the length before the text, so that different pairs of texts cannot give the same bytes.
fn absorb_text(hasher: &mut Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> StreamKey<'static> {
        StreamKey {
            seed: 7,
            stage: "dynamics",
            restart: 0,
            update: 12,
            shard: 3,
            purpose: "mask",
        }
    }

    fn n(value: u64) -> NonZeroU64 {
        NonZeroU64::new(value).unwrap()
    }

    /// Computed by another program from the description above.
    #[test]
    fn golden_values_do_not_change() {
        let mut stream = key().stream();
        assert_eq!(
            [stream.next_u64(), stream.next_u64()],
            [4_217_956_546_755_397_444, 9_944_348_386_134_385_797]
        );
        assert_eq!(stream.next_u32(), 290_374_855);
        assert_eq!(stream.next_f32().to_bits(), 0x3e17_741c);
        assert_eq!(stream.next_f64().to_bits(), 0x3fdb_2f4b_1c6a_5c26);
        assert_eq!(
            [10, 1000, u64::MAX].map(|limit| stream.below(n(limit))),
            [3, 875, 6_444_737_889_488_256_480]
        );
        let mut items: Vec<u32> = (0..10).collect();
        stream.shuffle(&mut items);
        assert_eq!(items, [3, 9, 2, 5, 1, 4, 6, 7, 0, 8]);
    }

    #[test]
    fn a_stream_is_the_output_of_blake3_for_the_encoded_key() {
        let mut material = Vec::new();
        material.extend(7_u64.to_le_bytes());
        material.extend(8_u64.to_le_bytes());
        material.extend(b"dynamics");
        for counter in [0_u64, 12, 3] {
            material.extend(counter.to_le_bytes());
        }
        material.extend(4_u64.to_le_bytes());
        material.extend(b"mask");
        let mut expected = vec![0_u8; 4096];
        Hasher::new_derive_key(CONTEXT)
            .update(&material)
            .finalize_xof()
            .fill(&mut expected);
        let mut stream = key().stream();
        for word in expected.chunks_exact(8) {
            assert_eq!(stream.next_u64().to_le_bytes(), word);
        }
    }

    #[test]
    fn each_field_of_a_key_changes_the_stream() {
        let base = key();
        let others = [
            StreamKey { seed: 8, ..base },
            StreamKey {
                stage: "dynamic",
                purpose: "smask",
                ..base
            },
            StreamKey { restart: 1, ..base },
            StreamKey { update: 13, ..base },
            StreamKey { shard: 4, ..base },
            StreamKey {
                purpose: "anchor",
                ..base
            },
            StreamKey {
                update: 3,
                shard: 12,
                ..base
            },
        ];
        let first = base.stream().next_u64();
        for other in others {
            assert_ne!(other.stream().next_u64(), first, "{other:?}");
        }
        assert_eq!(base.stream().next_u64(), first);
    }

    #[test]
    fn below_is_uniform() {
        let mut stream = key().stream();
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(n(7)) as usize] += 1;
        }
        // The standard deviation is 93; this allows five.
        assert!(
            counts.iter().all(|&count| count.abs_diff(10_000) < 465),
            "{counts:?}"
        );
        assert_eq!(stream.below(n(1)), 0);
        // With two thirds of the range, a modulo would give the lower half twice as often as the upper.
        let limit = u64::MAX / 3 * 2;
        let low = (0..10_000)
            .filter(|_| stream.below(n(limit)) < limit / 2)
            .count();
        assert!(low.abs_diff(5_000) < 250, "{low}");
    }

    #[test]
    fn floats_are_in_the_unit_interval_with_mean_one_half() {
        let mut stream = key().stream();
        let (mut sum, mut sum_wide) = (0.0, 0.0);
        for _ in 0..10_000 {
            let (narrow, wide) = (stream.next_f32(), stream.next_f64());
            assert!((0.0..1.0).contains(&narrow) && (0.0..1.0).contains(&wide));
            sum += f64::from(narrow);
            sum_wide += wide;
        }
        // The standard error is 0.0029; this allows five.
        assert!((sum / 1e4 - 0.5).abs() < 0.015, "{sum}");
        assert!((sum_wide / 1e4 - 0.5).abs() < 0.015, "{sum_wide}");
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_every_order_occurs() {
        let mut stream = key().stream();
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..6_000 {
            let mut items = [0, 1, 2];
            stream.shuffle(&mut items);
            *counts.entry(items).or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // The standard deviation is 29; this allows five.
        assert!(
            counts.values().all(|&count| count.abs_diff(1_000) < 145),
            "{counts:?}"
        );
        stream.shuffle::<u8>(&mut []);
    }
}
