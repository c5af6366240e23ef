//! What ranks compute together: shared weights at a chunk's start, the mean of every update, and the proof that all
//! still have the same weights.
//!
//! The semantics are those of PyTorch's `DistributedDataParallel`: rank 0's state is everybody's first state, gradients
//! are averaged over the ranks before clipping, and every rank then takes the same step. All ranks call the same
//! functions in the same order. Invariant: what [`Exchange::mean`] gives is the same bits on every rank.

use tch::{Device, Tensor};
use tinygate_c10d::Group;

use super::RanksError;
use crate::train::learner::CodeUse;
use crate::train::{Accumulated, StageTrainer};

/// Signals that ask for a stop, in the order in which they are counted.
const SIGNALS: [&str; 2] = ["SIGINT", "SIGTERM"];

pub struct Exchange {
    pub(super) group: Group,
    pub rank: u32,
    pub size: u32,
    /// Where the group's tensors live: Gloo sums on the CPU alone.
    pub(super) device: Device,
}

impl Exchange {
    /// Gives every rank the weights and moments of rank 0.
    pub fn share(&self, trainer: &mut StageTrainer) -> Result<(), RanksError> {
        let mut steps =
            Tensor::from_slice(&[trainer.updates_done() as i64]).f_to_device(self.device)?;
        self.group.broadcast(&mut steps, 0)?;
        trainer.set_updates_done(steps.f_int64_value(&[0])?.max(0) as u64);
        for flat in trainer.flats_mut() {
            let mut here = flat.f_to_device(self.device)?;
            self.group.broadcast(&mut here, 0)?;
            if flat.device() != self.device {
                flat.f_copy_(&here)?;
            }
        }
        Ok(())
    }

    /// The mean over all ranks, and the signal that asked one of them to stop after this update. Losses and counts are
    /// summed in f64.
    pub fn mean(
        &self,
        accumulated: &mut Accumulated,
        stop: Option<&str>,
    ) -> Result<Option<&'static str>, RanksError> {
        let share = 1.0 / f64::from(self.size);
        let gradients = accumulated.gradients_mut();
        let [mut decayed, mut plain] = [
            gradients[0].f_to_device(self.device)?,
            gradients[1].f_to_device(self.device)?,
        ];
        self.group.sum(&mut [&mut decayed, &mut plain])?;
        for (gradient, sum) in gradients.into_iter().zip([decayed, plain]) {
            // On the group's own device the sum is the gradient itself.
            if gradient.device() != self.device {
                gradient.f_copy_(&sum)?;
            }
            let _ = gradient.f_mul_scalar_(share)?;
        }
        let mut sums = vec![accumulated.loss()];
        sums.extend(SIGNALS.map(|signal| f64::from(u8::from(stop == Some(signal)))));
        let counted = accumulated.observed_mut();
        if let Some(actions) = &counted.action_counts {
            sums.extend(actions.iter().map(|count| *count as f64));
        }
        if let Some(codes) = &counted.codes {
            sums.extend(
                (0..codes.codebook_size)
                    .map(|code| f64::from(u8::from(codes.seen.contains(&code)))),
            );
        }
        let sums = self.sum(&sums)?;
        let (counts, rest) = sums.split_at(1 + SIGNALS.len());
        let mut rest = rest.iter();
        if let Some(actions) = &mut counted.action_counts {
            for (count, sum) in actions.iter_mut().zip(&mut rest) {
                *count = *sum as u64;
            }
        }
        if let Some(CodeUse {
            seen,
            codebook_size,
        }) = &mut counted.codes
        {
            *seen = (0..*codebook_size)
                .zip(&mut rest)
                .filter(|(_, sum)| 0.0 < **sum)
                .map(|(code, _)| code)
                .collect();
        }
        let [loss, signals @ ..] = counts else {
            return Err(RanksError::Bug("sums without a loss"));
        };
        accumulated.set_loss(loss * share);
        let asked = SIGNALS
            .into_iter()
            .zip(signals)
            .find(|(_, count)| 0.0 < **count);
        Ok(asked.map(|(signal, _)| signal))
    }

    /// Compares the weights and moments of all ranks by their hash.
    ///
    /// # Errors
    /// [`RanksError::Differ`] on every rank alike.
    pub fn agree(&self, trainer: &StageTrainer) -> Result<(), RanksError> {
        let own = trainer.state_hash()?;
        let mut hash = Tensor::from_slice(own.as_bytes()).f_to_device(self.device)?;
        self.group.broadcast(&mut hash, 0)?;
        let hash = Vec::<u8>::try_from(hash.f_to_device(Device::Cpu)?)?;
        let mut differs = vec![0.0; self.size as usize];
        if let Some(mine) = differs.get_mut(self.rank as usize) {
            *mine = f64::from(u8::from(hash != own.as_bytes()));
        }
        let differing: Vec<u32> = (0..self.size)
            .zip(self.sum(&differs)?)
            .filter(|(_, sum)| 0.0 < *sum)
            .map(|(rank, _)| rank)
            .collect();
        if differing.is_empty() {
            Ok(())
        } else {
            Err(RanksError::Differ {
                ranks: differing,
                step: trainer.updates_done(),
            })
        }
    }

    fn sum(&self, values: &[f64]) -> Result<Vec<f64>, RanksError> {
        let mut sums = Tensor::from_slice(values).f_to_device(self.device)?;
        self.group.sum(&mut [&mut sums])?;
        Ok(Vec::<f64>::try_from(sums.f_to_device(Device::Cpu)?)?)
    }
}
