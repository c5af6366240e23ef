//! The libtorch that this build is linked to: its version, threads and devices.

use crate::advice::{Advice, Hint};
use crate::config;

/// Sets how many threads libtorch computes with on a CPU, in this process; at least one.
///
/// The count is part of a run's identity: sums are split among the threads, so another count gives other
/// bits. Call this on the thread that trains, before the first tensor.
pub fn use_threads(count: u16) {
    tch::set_num_threads(i32::from(count.max(1)));
}

/// The device that the config's `device` means for a local rank on this machine.
///
/// # Errors
/// A CUDA device that does not exist.
pub fn device(wanted: config::Device, local_rank: u32) -> Result<tch::Device, DeviceError> {
    use config::Device;
    let count = tch::Cuda::device_count().max(0) as u32;
    match wanted {
        Device::Cpu => Ok(tch::Device::Cpu),
        Device::Auto if count == 0 => Ok(tch::Device::Cpu),
        Device::Auto if local_rank < count => Ok(tch::Device::Cuda(local_rank as usize)),
        Device::Auto => Err(DeviceError {
            index: local_rank,
            count,
        }),
        Device::Cuda(index) => {
            let index = index.unwrap_or(local_rank);
            if count <= index {
                return Err(DeviceError { index, count });
            }
            Ok(tch::Device::Cuda(index as usize))
        }
    }
}

/// How many devices this machine has for ranks. `None` for CPUs, which ranks share, so any number of ranks fits.
pub fn devices(wanted: config::Device) -> Option<u32> {
    use config::Device;
    let count = tch::Cuda::device_count().max(0) as u32;
    match wanted {
        Device::Cpu => None,
        Device::Auto => Some(count).filter(|count| 0 < *count),
        Device::Cuda(None) => Some(count),
        Device::Cuda(Some(_)) => Some(1),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("device `cuda:{index}` does not exist: libtorch sees {count} CUDA devices")]
pub struct DeviceError {
    index: u32,
    count: u32,
}

impl Advice for DeviceError {
    fn hints(&self) -> Vec<Hint> {
        vec![Hint::text(
            "set `device = \"cpu\"` or `\"auto\"`, or build with a libtorch that has CUDA",
        )]
    }
}

/// The version of the libtorch that this build is linked to, as the log records it.
pub const LIBTORCH_VERSION: &str = match option_env!("TINYGATE_LIBTORCH_VERSION") {
    Some(version) => version,
    None => "unknown",
};
