//! A rank that is not 0: trains what rank 0 says, and writes nothing.
//!
//! Invariant: it takes the same steps as rank 0, from the same weights, on its own share of the windows; where it
//! cannot, it says so and ends, so that nobody waits for it.

use std::path::PathBuf;
use std::sync::Arc;

use super::samples::{Samples, is_due};
use super::session::Session;
use super::{ActorSetup, Failure};
use crate::config::Config;
use crate::controller::StopRequest;
use crate::events::HeldOutBatches;
use crate::setup;
use crate::train::TrainError;
use crate::train::ranks::{
    Cause, FollowError, Instruction, Joined, Ranks, RanksError, Task, cause_of,
};

/// Takes part until rank 0 says that there is nothing left to do.
///
/// # Errors
/// Why this rank cannot take part, or not go on.
pub fn follow(joined: Joined, local_rank: u32, stop: Arc<StopRequest>) -> Result<(), FollowError> {
    let config = joined.config.clone();
    let threads = config.threads.map_or(joined.threads, |threads| {
        u16::try_from(threads).unwrap_or(u16::MAX)
    });
    crate::train::use_threads(threads);
    let place = super::device(config.device, local_rank).map_err(|error| error.to_string());
    let data = frames(&config, &joined.dataset);
    let ready = place
        .clone()
        .and(data.as_ref().map(|_| ()).map_err(Clone::clone));
    let device = place.unwrap_or(tch::Device::Cpu);
    let (mut follower, exchange) = joined.ready(ready, device)?;
    let session = data.and_then(|frames| {
        Session::new(ActorSetup {
            directory: PathBuf::new(),
            config,
            frames,
            device,
            threads,
            stop: Arc::clone(&stop),
            ranks: Ranks::Follower(exchange),
            // Rank 0 alone measures and scores.
            held_out: HeldOutBatches::Stage,
        })
        .map_err(|error| error.to_string())
    });
    let session = session.map_err(|text| FollowError::Data { text })?;
    loop {
        match follower.next(&stop)? {
            Instruction::End => return Ok(()),
            Instruction::Train(task) => {
                if let Err(failure) = train(&session, &task) {
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

fn train(session: &Session, task: &Task) -> Result<(), Failure> {
    let Ranks::Follower(exchange) = &session.ranks else {
        return Err(Failure::Bug("a worker that follows nobody".to_owned()));
    };
    let mut trainer = session.trainer_for(task)?;
    exchange.share(&mut trainer)?;
    let mut samples = Samples::new(session, task)?;
    let interval = task.settings.checkpoint_every();
    for step in task.start + 1..=task.to {
        let updated = samples.update(session, task, &mut trainer, step)?;
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
