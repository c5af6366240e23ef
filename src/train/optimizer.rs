//! AdamW over the flat tensors of [`Parameters`], after gradient clipping.
//!
//! The moments and the step count are kept here and not in libtorch's optimizer, so that a checkpoint can hold them and a
//! resumed run continues with the same bits. The learning rate is an argument. Formulas: Loshchilov and Hutter,
//! "Decoupled Weight Decay Regularization", algorithm 2, in the order of PyTorch's `AdamW`.

use tch::{Kind, Tensor};

use super::error::Result;
use super::model::{Accumulated, Model, Observed};
use super::parameters::{GROUPS, NamedTensor, Parameters};

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// Decay of the first flat tensor; the second is not decayed.
pub const WEIGHT_DECAY: f64 = 0.01;
/// The global gradient norm is clipped to this.
pub const CLIP_NORM: f64 = 1.0;

/// The moments of a model's parameters, and the number of updates done.
pub struct AdamW {
    step: u64,
    exp_avg: [Tensor; GROUPS],
    exp_avg_sq: [Tensor; GROUPS],
}

/// The optimizer's state, by parameter in `state_dict()` order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptimizerState {
    /// Updates done; the same for every parameter.
    pub step: u64,
    pub exp_avg: Vec<NamedTensor>,
    pub exp_avg_sq: Vec<NamedTensor>,
}

/// What an update measured before it changed the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateMetrics {
    /// The mean of the micro-batches' losses, each an f32.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    pub observed: Observed,
}

impl AdamW {
    /// Moments of zero.
    pub fn new(parameters: &Parameters) -> Result<AdamW> {
        let [decayed, plain] = parameters.flats();
        Ok(AdamW {
            step: 0,
            exp_avg: [decayed.f_zeros_like()?, plain.f_zeros_like()?],
            exp_avg_sq: [decayed.f_zeros_like()?, plain.f_zeros_like()?],
        })
    }

    /// Clips the gradients and updates the model with them.
    pub fn apply(
        &mut self,
        model: &mut Model,
        accumulated: Accumulated,
        learning_rate: f64,
    ) -> Result<UpdateMetrics> {
        let (mut gradients, loss, observed) = accumulated.into_parts();
        let grad_norm = clip(&mut gradients)?;
        self.update(model.parameters_mut(), &gradients, learning_rate)?;
        Ok(UpdateMetrics {
            loss,
            grad_norm,
            observed,
        })
    }

    /// One update in place. `gradients` are clipped and laid out like the flat tensors.
    fn update(
        &mut self,
        parameters: &mut Parameters,
        gradients: &[Tensor; GROUPS],
        learning_rate: f64,
    ) -> Result<()> {
        self.step += 1;
        let correction_1 = 1.0 - BETA_1.powf(self.step as f64);
        let correction_2 = 1.0 - BETA_2.powf(self.step as f64);
        let [decayed, _] = parameters.flats_mut();
        let _ = decayed.f_mul_scalar_(1.0 - learning_rate * WEIGHT_DECAY)?;
        let groups = parameters
            .flats_mut()
            .iter_mut()
            .zip(gradients)
            .zip(&mut self.exp_avg)
            .zip(&mut self.exp_avg_sq);
        for (((flat, gradient), exp_avg), exp_avg_sq) in groups {
            let _ = exp_avg.f_lerp_(gradient, 1.0 - BETA_1)?;
            let _ = exp_avg_sq.f_lerp_(&gradient.f_square()?, 1.0 - BETA_2)?;
            let mut denominator = exp_avg_sq.f_sqrt()?;
            let _ = denominator
                .f_div_scalar_(correction_2.sqrt())?
                .f_add_scalar_(EPSILON)?;
            let step = exp_avg.f_mul_scalar(-learning_rate / correction_1)?;
            let _ = flat.f_addcdiv_(&step, &denominator)?;
        }
        Ok(())
    }

    pub(crate) fn flats_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.exp_avg.iter_mut().chain(&mut self.exp_avg_sq)
    }

    pub(crate) fn flats(&self) -> impl Iterator<Item = &Tensor> {
        self.exp_avg.iter().chain(&self.exp_avg_sq)
    }

    pub(crate) fn updates_done(&self) -> u64 {
        self.step
    }

    pub(crate) fn set_updates_done(&mut self, updates: u64) {
        self.step = updates;
    }

    pub fn export(&self, parameters: &Parameters) -> Result<OptimizerState> {
        Ok(OptimizerState {
            step: self.step,
            exp_avg: parameters.export_flats(&self.exp_avg)?,
            exp_avg_sq: parameters.export_flats(&self.exp_avg_sq)?,
        })
    }

    /// The optimizer that `state` describes.
    ///
    /// # Errors
    /// Moments of other parameters.
    pub fn import(parameters: &Parameters, state: &OptimizerState) -> Result<AdamW> {
        Ok(AdamW {
            step: state.step,
            exp_avg: parameters.import_flats(&state.exp_avg)?,
            exp_avg_sq: parameters.import_flats(&state.exp_avg_sq)?,
        })
    }
}

/// Scales `gradients` in place so that their global norm is at most [`CLIP_NORM`], and returns the norm
/// before scaling, like `torch.nn.utils.clip_grad_norm_`.
fn clip(gradients: &mut [Tensor; GROUPS]) -> Result<f64> {
    let mut squares = 0.0;
    for gradient in gradients.iter() {
        let norm = gradient
            .f_to_kind(Kind::Double)?
            .f_norm()?
            .f_double_value(&[])?;
        squares += norm * norm;
    }
    let norm = squares.sqrt();
    let scale = CLIP_NORM / (norm + 1e-6);
    // As in PyTorch a NaN must reach the weights, where the checkpoint's acceptance finds it.
    if scale < 1.0 || scale.is_nan() {
        for gradient in gradients.iter_mut() {
            let _ = gradient.f_mul_scalar_(scale)?;
        }
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::init::{Init, InitKey};
    use crate::train::parameters::{Layout, decays};

    /// One decayed matrix, then a norm's scale, a bias and a norm's matrix, none of them decayed.
    fn parameters() -> Parameters {
        let mut layout = Layout::default();
        for (name, shape) in SHAPES {
            layout.single(name.to_owned(), shape, Init::FanIn(4));
        }
        let key = InitKey {
            run_seed: 1,
            stage: "test".to_owned(),
            restart: 0,
        };
        layout.build(&key, tch::Device::Cpu).unwrap()
    }

    const SHAPES: [(&str, &[i64]); 4] = [
        ("embed.weight", &[2, 3]),
        ("norm.rms.weight", &[3]),
        ("embed.bias", &[2]),
        ("norm.to_gamma_beta.1.weight", &[2, 2]),
    ];

    fn values(tensors: &[NamedTensor]) -> Vec<f64> {
        let bytes: Vec<u8> = tensors.iter().flat_map(|t| t.bytes.clone()).collect();
        let floats = bytes.as_chunks::<4>().0.iter();
        floats.map(|b| f64::from(f32::from_le_bytes(*b))).collect()
    }

    fn constant(parameters: &mut Parameters, value: f64) -> [Tensor; GROUPS] {
        let [decayed, plain] = parameters.flats_mut();
        [decayed.full_like(value), plain.full_like(value)]
    }

    #[test]
    fn two_updates_follow_the_formula_and_decay_only_some_parameters() {
        let mut parameters = parameters();
        let mut optimizer = AdamW::new(&parameters).unwrap();
        let decayed: Vec<bool> = SHAPES
            .iter()
            .flat_map(|(name, shape)| {
                std::iter::repeat_n(decays(name, shape), shape.iter().product::<i64>() as usize)
            })
            .collect();
        assert_eq!(decayed.iter().filter(|decays| **decays).count(), 6);
        let mut want = values(&parameters.export().unwrap());
        let (mut m, mut v, rate) = (0.0, 0.0, 0.1);
        for (step, gradient) in [(1, 0.5), (2, -0.25)] {
            let gradients = constant(&mut parameters, gradient);
            optimizer.update(&mut parameters, &gradients, rate).unwrap();
            m = 0.9 * m + 0.1 * gradient;
            v = 0.999 * v + 0.001 * gradient * gradient;
            let m_hat = m / (1.0 - 0.9_f64.powi(step));
            let v_hat: f64 = v / (1.0 - 0.999_f64.powi(step));
            for (weight, decayed) in want.iter_mut().zip(&decayed) {
                *weight *= if *decayed { 1.0 - rate * 0.01 } else { 1.0 };
                *weight -= rate * m_hat / (v_hat.sqrt() + 1e-8);
            }
        }
        for (found, want) in values(&parameters.export().unwrap()).iter().zip(&want) {
            assert!((found - want).abs() < 1e-6, "{found} {want}");
        }
        assert_eq!(optimizer.export(&parameters).unwrap().step, 2);
    }

    #[track_caller]
    fn check_clip(name: &str, value: f64, want_norm: f64, want_value: f64) {
        let mut gradients = constant(&mut parameters(), value);
        let norm = clip(&mut gradients).unwrap();
        let found = gradients[1].double_value(&[0]);
        let near = |a: f64, b: f64| (a.is_nan() && b.is_nan()) || (a - b).abs() < 1e-5;
        assert!(near(norm, want_norm), "{name}: norm {norm}");
        assert!(near(found, want_value), "{name}: value {found}");
    }

    #[test]
    fn gradients_are_scaled_down_to_norm_one_and_never_up() {
        let root = 15.0_f64.sqrt();
        check_clip("a large norm", 2.0, 2.0 * root, 1.0 / root);
        check_clip("a small norm", 0.01, 0.01 * root, 0.01);
        check_clip("no gradient", 0.0, 0.0, 0.0);
        check_clip("NaN stays NaN", f64::NAN, f64::NAN, f64::NAN);
    }
}
