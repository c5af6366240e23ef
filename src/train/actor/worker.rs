//! A follower: trains what rank 0 instructs, and writes nothing.
//!
//! Invariant: it takes the same steps as rank 0, from the same weights, on its own share of the windows. If it cannot, it
//! reports why and exits, so that no rank waits for it.

use std::sync::Arc;

use super::batches::Batches;
use super::failure::Failure;
use super::samples::{Samples, is_due};
use super::stages::Stages;
use crate::config::Config;
use crate::data::Frames;
use crate::events::HeldOutBatches;
use crate::setup;
use crate::train::ranks::{
    Cause, Exchange, FollowError, Instruction, Joined, RanksError, Task, cause_of,
};
use crate::train::{TrainError, device, use_threads};
use crate::trainer::StopRequest;

/// Trains with the other ranks until rank 0 ends the job.
///
/// # Errors
/// Why this rank cannot start or continue.
pub fn follow(joined: Joined, local_rank: u32, stop: Arc<StopRequest>) -> Result<(), FollowError> {
    let config = joined.config.clone();
    let threads = config.threads.map_or(joined.threads, |threads| {
        u16::try_from(threads).unwrap_or(u16::MAX)
    });
    use_threads(threads);
    let (device, frames) = match load(&config, &joined.dataset, local_rank) {
        Ok(loaded) => loaded,
        Err(why) => return Err(joined.decline(why)),
    };
    let (mut follower, exchange) = joined.ready(device)?;
    // Rank 0 alone measures and scores.
    let batches = Batches::new(config.clone(), frames, HeldOutBatches::Stage);
    let batches = batches.map_err(|error| FollowError::Data {
        text: error.to_string(),
    })?;
    let stages = Stages::new(config, device);
    loop {
        match follower.next(&stop)? {
            Instruction::End => return Ok(()),
            Instruction::Train(task) => {
                let done = train(&batches, &stages, &exchange, &stop, &task);
                if let Err(failure) = done {
                    let text = failure.to_string();
                    follower.give_up(cause(&failure), &text);
                    return Err(FollowError::Training { text });
                }
            }
        }
    }
}

/// The device of this rank and the frames that the config names, if they are those of rank 0.
fn load(
    config: &Config,
    dataset: &str,
    local_rank: u32,
) -> Result<(tch::Device, Arc<Frames>), FollowError> {
    let device = device(config.device, local_rank)?;
    let frames = setup::frames(config).map_err(|error| FollowError::Data {
        text: error.to_string(),
    })?;
    let found = frames.hash().to_hex().to_string();
    if found == dataset {
        return Ok((device, frames));
    }
    Err(FollowError::Data {
        text: format!("the data is not that of rank 0: BLAKE3 {found}, expected {dataset}"),
    })
}

fn train(
    data: &Batches,
    stages: &Stages,
    exchange: &Exchange,
    stop: &StopRequest,
    task: &Task,
) -> Result<(), Failure> {
    let mut trainer = stages.for_follower(task)?;
    exchange.share(&mut trainer)?;
    let mut samples = Samples::new(data, task, stop)?;
    let interval = task.settings.checkpoint_every();
    for step in task.start + 1..=task.to {
        let updated = samples.update(&mut trainer, step, Some(exchange))?;
        if is_due(step, task.from, task.to, interval) || updated.stop.is_some() {
            exchange.agree(&trainer)?;
        }
        if updated.stop.is_some() {
            break;
        }
    }
    Ok(())
}

fn cause(failure: &Failure) -> Cause {
    if let Failure::Train(TrainError::OutOfMemory { .. })
    | Failure::Ranks(RanksError::Train(TrainError::OutOfMemory { .. })) = failure
    {
        Cause::OutOfMemory
    } else if let Failure::Ranks(RanksError::Collective(error)) = failure {
        cause_of(error.kind)
    } else if let Failure::Ranks(RanksError::Differ { .. }) = failure {
        // Every rank reports the same ranks.
        Cause::OtherRank
    } else {
        Cause::Own
    }
}
