//! A follower: trains what rank 0 says, and writes nothing.
//!
//! Invariant: it takes the same steps as rank 0, from the same weights, on its own share of the windows; where it
//! cannot, it says so and exits, so that no rank waits for it.

use std::sync::Arc;

use super::batches::Batches;
use super::failure::Failure;
use super::samples::{Samples, is_due};
use super::stages::Stages;
use crate::config::Config;
use crate::events::HeldOutBatches;
use crate::setup;
use crate::train::ranks::{
    Cause, Exchange, FollowError, Instruction, Joined, RanksError, Task, cause_of,
};
use crate::train::{TrainError, device, use_threads};
use crate::trainer::StopRequest;

/// Trains with the other ranks until rank 0 ends them.
///
/// # Errors
/// Why this rank cannot train, or not continue.
pub fn follow(joined: Joined, local_rank: u32, stop: Arc<StopRequest>) -> Result<(), FollowError> {
    let config = joined.config.clone();
    let threads = config.threads.map_or(joined.threads, |threads| {
        u16::try_from(threads).unwrap_or(u16::MAX)
    });
    use_threads(threads);
    let found = device(config.device, local_rank).map_err(|error| error.to_string());
    let data = frames(&config, &joined.dataset);
    let ready = found
        .clone()
        .and(data.as_ref().map(|_| ()).map_err(Clone::clone));
    let device = found.unwrap_or(tch::Device::Cpu);
    let (mut follower, exchange) = joined.ready(ready, device)?;
    let batches = data.and_then(|frames| {
        // Rank 0 alone measures and scores.
        Batches::new(config.clone(), frames, HeldOutBatches::Stage)
            .map_err(|error| error.to_string())
    });
    let batches = batches.map_err(|text| FollowError::Data { text })?;
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

/// The frames that the config names, if they are those of rank 0.
fn frames(config: &Config, dataset: &str) -> Result<Arc<crate::data::Frames>, String> {
    let frames = setup::frames(config).map_err(|error| error.to_string())?;
    let found = frames.hash().to_hex().to_string();
    if found == dataset {
        return Ok(frames);
    }
    Err(format!(
        "the data is not that of rank 0: BLAKE3 {found}, expected {dataset}"
    ))
}

fn train(
    data: &Batches,
    stages: &Stages,
    exchange: &Exchange,
    stop: &StopRequest,
    task: &Task,
) -> Result<(), Failure> {
    let mut trainer = stages.awaiting(task)?;
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
        // Every rank says it of the same ranks.
        Cause::OtherRank
    } else {
        Cause::Own
    }
}
