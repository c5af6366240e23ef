//! Initial weights from counter-based randomness.
//!
//! Every parameter has a BLAKE3 stream keyed by run seed, stage, restart number and parameter name, so its values do not
//! depend on the order of initialisation, the device, or the version of libtorch, whose own generator is never used.
//! Invariant: only exact IEEE operations (+ - * / sqrt) are used, so the bits are the same on every machine.

/// Identifies initial weights: a stage of a run, and one of its restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitKey {
    pub run_seed: u64,
    /// The stage's name in the policy, for example `video_tokenizer`.
    pub stage: String,
    /// How often the stage was restarted. Each restart has its own initial weights.
    pub restart: u32,
}

/// How a parameter is initialised, as in PyTorch's defaults and TinyWorlds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Uniform in `[-1/sqrt(fan_in), 1/sqrt(fan_in)]`: `nn.Linear` and `nn.Conv2d`, weight and bias.
    FanIn(i64),
    /// Mean 0 and this standard deviation; a sum of twelve uniforms, which needs no logarithm.
    Normal(f64),
    Zeros,
    Ones,
}

impl InitKey {
    /// `n` uniform numbers in `[0, 1)` with 53 bits each, for the parameter `name`.
    pub fn uniforms(&self, name: &str, n: usize) -> Vec<f64> {
        let mut bytes = vec![0; n.saturating_mul(8)];
        let mut stream = self.stream(name);
        stream.fill(&mut bytes);
        bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| (u64::from_le_bytes(*word) >> 11) as f64 / (1_u64 << 53) as f64)
            .collect()
    }

    /// The first `n` values of the parameter `name`.
    pub fn values(&self, name: &str, n: usize, init: Init) -> Vec<f32> {
        match init {
            Init::Zeros => vec![0.0; n],
            Init::Ones => vec![1.0; n],
            Init::FanIn(fan_in) => {
                let bound = 1.0 / (fan_in as f64).sqrt();
                let uniforms = self.uniforms(name, n);
                uniforms
                    .iter()
                    .map(|u| ((2.0 * u - 1.0) * bound) as f32)
                    .collect()
            }
            Init::Normal(deviation) => {
                let uniforms = self.uniforms(name, n.saturating_mul(12));
                let normal = |twelve: &[f64; 12]| twelve.iter().sum::<f64>() - 6.0;
                let groups = uniforms.as_chunks::<12>().0;
                groups
                    .iter()
                    .map(|twelve| (normal(twelve) * deviation) as f32)
                    .collect()
            }
        }
    }

    fn stream(&self, name: &str) -> blake3::OutputReader {
        let mut hasher = blake3::Hasher::new_derive_key("tinygate first weights v1");
        hasher.update(&self.run_seed.to_le_bytes());
        hasher.update(&self.restart.to_le_bytes());
        // The length distinguishes (stage, name) pairs that would be equal when joined.
        hasher.update(&(self.stage.len() as u64).to_le_bytes());
        hasher.update(self.stage.as_bytes());
        hasher.update(name.as_bytes());
        hasher.finalize_xof()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> InitKey {
        InitKey {
            run_seed: 7,
            stage: "video_tokenizer".to_owned(),
            restart: 0,
        }
    }

    #[track_caller]
    fn check_differs(name: &str, other: InitKey, parameter: &str) {
        assert_ne!(
            key().uniforms("a.weight", 4),
            other.uniforms(parameter, 4),
            "{name}"
        );
    }

    #[test]
    fn every_part_of_the_key_changes_the_numbers() {
        assert_eq!(key().uniforms("a.weight", 4), key().uniforms("a.weight", 4));
        check_differs(
            "another seed",
            InitKey {
                run_seed: 8,
                ..key()
            },
            "a.weight",
        );
        check_differs(
            "another restart",
            InitKey {
                restart: 1,
                ..key()
            },
            "a.weight",
        );
        check_differs(
            "another stage",
            InitKey {
                stage: "dynamics".to_owned(),
                ..key()
            },
            "a.weight",
        );
        check_differs("another parameter", key(), "a.bias");
        check_differs(
            "the same text, split elsewhere into stage and name",
            InitKey {
                stage: "video_tokenizera".to_owned(),
                ..key()
            },
            ".weight",
        );
    }

    #[test]
    fn the_numbers_never_change() {
        // Another stream would change every run's initial weights, and old runs could not be reproduced.
        let bits: Vec<u32> = key()
            .values("a.weight", 3, Init::FanIn(16))
            .iter()
            .map(|v| v.to_bits())
            .collect();
        assert_eq!(bits, GOLDEN);
    }
    const GOLDEN: [u32; 3] = [3_190_436_007, 1_043_879_688, 3_187_677_819];

    #[test]
    fn fan_in_values_fill_their_bounds() {
        let values = key().values("a.weight", 10_000, Init::FanIn(16));
        let largest = values.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        assert!((0.249..=0.25).contains(&largest), "{largest}");
    }

    #[test]
    fn normal_values_have_their_deviation() {
        let values = key().values("a.weight", 10_000, Init::Normal(0.02));
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 1e4;
        let variance = values
            .iter()
            .map(|v| (f64::from(*v) - mean).powi(2))
            .sum::<f64>()
            / 1e4;
        assert!(mean.abs() < 0.001, "{mean}");
        assert!(
            (variance.sqrt() - 0.02).abs() < 0.001,
            "{}",
            variance.sqrt()
        );
    }
}
