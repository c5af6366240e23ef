//! What ranks compute together: shared weights at the start of a chunk, the mean gradient of each update, and a check that
//! all ranks have the same weights.
//!
//! The semantics are those of PyTorch's `DistributedDataParallel`: all ranks start with the state of rank 0, gradients
//! are averaged over the ranks before clipping, and every rank then takes the same step. All ranks call the same
//! functions in the same order. Invariant: [`Exchange::mean`] returns the same bits on every rank.

use tch::{Device, Tensor};
use tinygate_c10d::Group;

use super::error::RanksError;
use crate::train::{Accumulated, CodeUse, StageTrainer};

/// Signals that ask for a stop, in the order of their counts. Any other signal counts as the last.
const SIGNALS: [&str; 4] = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"];

/// How many f32 hold an f64 exactly: each holds 24 of its 53 bits.
const PARTS: usize = 3;

/// One rank's connection to all others.
pub struct Exchange {
    group: Group,
    rank: u32,
    size: u32,
    /// The device of the group's tensors: Gloo sums only on the CPU.
    device: Device,
}

impl Exchange {
    pub(super) fn new(group: Group, rank: u32, size: u32, device: Device) -> Exchange {
        Exchange {
            group,
            rank,
            size,
            device,
        }
    }

    pub fn rank(&self) -> u32 {
        self.rank
    }

    pub fn size(&self) -> u32 {
        self.size
    }

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

    /// Replaces gradients, loss and counts by those over all ranks. Returns the signal that asked one of them to stop after
    /// this update.
    ///
    /// Everything is sent in one sum of f32, since waiting for the other ranks costs more than sending. Losses are added
    /// in f64 and in the order of the ranks: each is sent at its rank's index, in parts that f32 holds exactly.
    pub fn mean(
        &self,
        accumulated: &mut Accumulated,
        stop: Option<&str>,
    ) -> Result<Option<&'static str>, RanksError> {
        let own = self.rank as usize;
        let mut losses = vec![[0.0_f32; PARTS]; self.size as usize];
        if let Some(loss) = losses.get_mut(own) {
            *loss = parts(accumulated.loss());
        }
        let mut sent = losses.concat();
        let flag = |yes: bool| f32::from(u8::from(yes));
        sent.extend(asked_by(stop).map(flag));
        let counted = accumulated.observed_mut();
        // An update has far fewer than 2^24 windows, up to which f32 counts exactly.
        if let Some(actions) = &counted.action_counts {
            sent.extend(actions.iter().map(|count| *count as f32));
        }
        if let Some(codes) = &counted.codes {
            sent.extend((0..codes.codebook_size).map(|code| flag(codes.seen.contains(&code))));
        }
        let sums = self.sum_with_gradients(accumulated, &sent)?;

        let (losses, rest) = sums.as_chunks::<PARTS>().0.split_at(self.size as usize);
        let mut rest = rest
            .as_flattened()
            .iter()
            .chain(sums.as_chunks::<PARTS>().1);
        let loss: f64 = losses.iter().map(whole).sum();
        let mut asked = None;
        for (signal, count) in SIGNALS.into_iter().zip(&mut rest) {
            if 0.0 < *count {
                asked = asked.or(Some(signal));
            }
        }
        let counted = accumulated.observed_mut();
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
            let found = (0..*codebook_size).zip(&mut rest);
            *seen = found
                .filter(|(_, sum)| 0.0 < **sum)
                .map(|(code, _)| code)
                .collect();
        }
        accumulated.set_loss(loss / f64::from(self.size));
        Ok(asked)
    }

    /// Replaces the gradients by their mean, and returns the sums of `sent`.
    fn sum_with_gradients(
        &self,
        accumulated: &mut Accumulated,
        sent: &[f32],
    ) -> Result<Vec<f32>, RanksError> {
        let gradients = accumulated.gradients_mut();
        let [mut decayed, mut plain] = [
            gradients[0].f_to_device(self.device)?,
            gradients[1].f_to_device(self.device)?,
        ];
        let mut sums = Tensor::from_slice(sent).f_to_device(self.device)?;
        self.group.sum(&mut [&mut decayed, &mut plain, &mut sums])?;
        for (gradient, sum) in gradients.into_iter().zip([decayed, plain]) {
            // On the same device the sum is in place.
            if gradient.device() != self.device {
                gradient.f_copy_(&sum)?;
            }
            let _ = gradient.f_mul_scalar_(1.0 / f64::from(self.size))?;
        }
        Ok(Vec::<f32>::try_from(sums.f_to_device(Device::Cpu)?)?)
    }

    /// Compares the weights and moments of all ranks by their hash.
    ///
    /// # Errors
    /// [`RanksError::Differ`], on every rank.
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

/// Which of [`SIGNALS`] is `stop`.
fn asked_by(stop: Option<&str>) -> [bool; SIGNALS.len()] {
    let last = SIGNALS.len() - 1;
    let place = stop.map(|stop| SIGNALS.iter().position(|known| *known == stop));
    let place = place.map(|place| place.unwrap_or(last));
    std::array::from_fn(|signal| place == Some(signal))
}

/// Numbers whose sum is exactly `value`, if f32 can hold it approximately.
fn parts(value: f64) -> [f32; PARTS] {
    let first = value as f32;
    if !first.is_finite() {
        return [first, 0.0, 0.0];
    }
    let left = value - f64::from(first);
    let second = left as f32;
    [first, second, (left - f64::from(second)) as f32]
}

fn whole(parts: &[f32; PARTS]) -> f64 {
    parts.iter().copied().map(f64::from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_signal_is_lost_between_ranks() {
        assert_eq!(asked_by(None), [false; 4]);
        for (place, signal) in SIGNALS.into_iter().enumerate() {
            let asked = asked_by(Some(signal));
            assert_eq!(asked.iter().filter(|asked| **asked).count(), 1);
            assert!(asked[place], "{signal}");
        }
        assert!(asked_by(Some("SIGQUIT"))[3], "an unknown signal");
    }

    #[test]
    fn a_loss_arrives_with_all_of_its_bits() {
        for value in [
            0.0,
            1.0,
            0.1,
            -2.0 / 3.0,
            std::f64::consts::PI * 1e-3,
            0.1_f64 + 0.2,
            1e30 / 3.0,
            f64::from(f32::MIN_POSITIVE) * 5.0,
        ] {
            assert_eq!(whole(&parts(value)).to_bits(), value.to_bits(), "{value}");
        }
        assert!(whole(&parts(f64::NAN)).is_nan());
        assert_eq!(whole(&parts(f64::NEG_INFINITY)), f64::NEG_INFINITY);
    }
}
