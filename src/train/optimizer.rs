//! AdamW over the flat tensors of [`Parameters`], with the gradient clip before it.
//!
//! The moments and the step are our own tensors, so that a checkpoint can hold them and a resumed
//! run goes on with the same bits. The learning rate is an argument: no schedule lives here.
//! Formulas: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2, in the
//! arrangement of PyTorch's `AdamW`.

use tch::{Kind, Tensor};

use super::error::Result;
use super::parameters::{GROUPS, NamedTensor, Parameters};

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// Decay of the first flat tensor; the second is not decayed.
pub const WEIGHT_DECAY: f64 = 0.01;
/// The global gradient norm is clipped to this.
pub const CLIP_NORM: f64 = 1.0;

pub(crate) struct AdamW {
    step: u64,
    exp_avg: [Tensor; GROUPS],
    exp_avg_sq: [Tensor; GROUPS],
}

/// The optimizer's whole state, by parameter name in `state_dict()` order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptimizerState {
    /// Updates done; the same for every parameter.
    pub step: u64,
    pub exp_avg: Vec<NamedTensor>,
    pub exp_avg_sq: Vec<NamedTensor>,
}

impl AdamW {
    pub fn new(parameters: &mut Parameters) -> Result<AdamW> {
        let [decayed, plain] = parameters.flats_mut();
        Ok(AdamW {
            step: 0,
            exp_avg: [decayed.f_zeros_like()?, plain.f_zeros_like()?],
            exp_avg_sq: [decayed.f_zeros_like()?, plain.f_zeros_like()?],
        })
    }

    /// One update in place. `gradients` is laid out as the flat tensors, after clipping.
    pub fn update(
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

    pub fn export(&self, parameters: &Parameters) -> Result<OptimizerState> {
        Ok(OptimizerState {
            step: self.step,
            exp_avg: parameters.export_flats(&self.exp_avg)?,
            exp_avg_sq: parameters.export_flats(&self.exp_avg_sq)?,
        })
    }

    /// Builds the optimizer that `state` describes.
    pub fn import(parameters: &Parameters, state: &OptimizerState) -> Result<AdamW> {
        Ok(AdamW {
            step: state.step,
            exp_avg: parameters.import_flats(&state.exp_avg)?,
            exp_avg_sq: parameters.import_flats(&state.exp_avg_sq)?,
        })
    }
}

/// Scales `gradients` in place so that their global norm is at most [`CLIP_NORM`]; gives the norm
/// before that, as `torch.nn.utils.clip_grad_norm_` does.
pub(crate) fn clip(gradients: &mut [Tensor; GROUPS]) -> Result<f64> {
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
    // A NaN must reach the weights as it does in PyTorch: the gate finds it there.
    if scale < 1.0 || scale.is_nan() {
        for gradient in gradients.iter_mut() {
            let _ = gradient.f_mul_scalar_(scale)?;
        }
    }
    Ok(norm)
}
